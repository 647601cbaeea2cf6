//! Small streams that stand for much memory, and lengths that lie: what a receiver takes for them.

use crate::frames::Frames;
use crate::matrix::Rows;
use crate::scene::{Proc, Scene};
use pageherd::wire::pages::{Op, Packing, PageOp, write_head};
use pageherd::wire::record::{Record, VmShape, tag};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What a receiver may take at most, in KiB: 64 MiB and the 16 bytes a page that it says.
fn bound(pages: u64) -> u64 {
    (64 << 10) + pages * 16 / 1024
}

fn shape(pages: u64) -> VmShape {
    VmShape { name: "a".into(), foreign: false, blocks: vec![("ram".into(), pages)] }
}

fn begun(pages: u64) -> Frames {
    Frames::new(0, &[Record::Vm(shape(pages)), Record::Begin])
}

fn ops(frames: &mut Frames, page: u64, ops: &[PageOp], payload: &[u8]) {
    let mut body = Vec::new();
    write_head(0, page, ops, &mut body);
    body.extend(payload);
    frames.frames.push((tag::PAGES, body));
}

pub(crate) fn add(rows: &mut Rows) {
    let quarter = 1u64 << 18; // of a TiB: 1 GiB in pages
    bomb(rows, "zeros as large as --max-ram", 1 << 28, |frames| {
        ops(frames, 0, &[PageOp { pages: 1 << 28, op: Op::Zero }], &[]);
    });
    bomb(rows, "zeros one by one", quarter, |frames| {
        let all = vec![PageOp { pages: 1, op: Op::Zero }; 8192];
        for page in (0..1 << 18).step_by(8192) {
            ops(frames, page, &all, &[]);
        }
    });
    bomb(rows, "zero and unused by turns", quarter, |frames| {
        let turn = [Op::Zero, Op::Unused].map(|op| PageOp { pages: 1, op });
        let all = turn.repeat(4096);
        for page in (0..1 << 18).step_by(8192) {
            ops(frames, page, &all, &[]);
        }
    });
    bomb(rows, "every page refers to the one before", quarter, |frames| {
        ops(frames, 0, &[PageOp { pages: 1, op: Op::Bytes }], &[1; 4096]);
        let mut page = 1;
        while page < 1 << 18 {
            let all: Vec<PageOp> = (page..(page + 4000).min(1 << 18))
                .map(|p| PageOp { pages: 1, op: Op::Same { vm: 0, page: p - 1 } })
                .collect();
            ops(frames, page, &all, &[]);
            page += all.len() as u64;
        }
    });
    for (name, with) in [("lz4", Packing::Lz4), ("zstd", Packing::Zstd)] {
        bomb(rows, &format!("{name} of one byte again and again"), 1 << 16, move |frames| {
            let plain = vec![7; 64 * 4096];
            let packed = match with {
                Packing::Lz4 => lz4_flex::block::compress(&plain),
                _ => zstd_without_magic(&plain),
            };
            let length = u32::try_from(packed.len()).unwrap();
            let op = PageOp { pages: 64, op: Op::Packed { chunk: 64, with, length, base: None } };
            for page in (0..1 << 16).step_by(1024) {
                ops(frames, page, &[op; 16], &packed.repeat(16));
            }
        });
    }
    for (point, pages) in [("a VM of 1 TiB", 1u64 << 28), ("a VM of 4 PiB", (1 << 40) - 1)] {
        rows.add(
            "lying length",
            "unix",
            point,
            if pages > 1 << 28 { "77, small" } else { "waits, small" },
            move |scene| {
                let (receiver, socket) = poured(scene, &begun(pages).bytes());
                judge(receiver, socket, pages.min(1 << 28) / 128)
            },
        );
    }
    rows.add(
        "lying length",
        "unix",
        "1024 VMs of 65536 blocks, named and not there",
        "77, small",
        |scene| {
            let blocks: Vec<(String, u64)> =
                (0..60_000).map(|i| (format!("b{i}"), 1 << 20)).collect();
            let vm = |i| VmShape { name: format!("v{i}"), foreign: false, blocks: blocks.clone() };
            let frames = Frames::new(0, &(0..40).map(|i| Record::Vm(vm(i))).collect::<Vec<_>>());
            let (receiver, socket) = poured(scene, &frames.bytes());
            judge(receiver, socket, 0)
        },
    );
    rows.add(
        "lying length",
        "unix",
        "a frame of the longest kind, and nothing in it",
        "waits, small",
        |scene| {
            let mut bytes = begun(8).bytes();
            bytes.extend(((1u32 << 20) + (1 << 16)).to_le_bytes());
            bytes.extend([4, 0, 0, 0, 2, 0, 0, 0]);
            let (receiver, socket) = poured(scene, &bytes);
            judge(receiver, socket, 0)
        },
    );
    for (point, change) in [
        ("packed bytes of no byte", (|length, _| *length = 0) as fn(&mut u32, &mut u64)),
        ("packed bytes longer than unpacked", |length, _| *length = 64 * 4096),
        ("packed bytes of 4 GiB", |length, _| *length = u32::MAX),
        ("a chunk of more pages than may be", |_, chunk| *chunk = 65),
        ("a chunk of pages without end", |_, chunk| *chunk = u64::MAX),
    ] {
        rows.add("lying length", "unix", point, "65, small", move |scene| {
            let mut frames = begun(1 << 10);
            let (mut length, mut chunk) = (100, 64);
            change(&mut length, &mut chunk);
            let op = Op::Packed { chunk, with: Packing::Lz4, length, base: None };
            ops(&mut frames, 0, &[PageOp { pages: 64, op }], &[0; 100]);
            let (receiver, socket) = poured(scene, &frames.bytes());
            judge(receiver, socket, 0)
        });
    }
    for (point, kind) in [("lz4", Packing::Lz4), ("zstd", Packing::Zstd)] {
        rows.add(
            "lying length",
            "unix",
            format!("{point} of more than it says"),
            "65, small",
            move |scene| {
                let plain = vec![7; 64 << 20];
                let packed = match kind {
                    Packing::Lz4 => lz4_flex::block::compress(&plain),
                    _ => zstd_without_magic(&plain),
                };
                let packed = &packed[..packed.len().min(250_000)];
                let length = u32::try_from(packed.len()).unwrap();
                let mut frames = begun(64);
                let op = Op::Packed { chunk: 64, with: kind, length, base: None };
                ops(&mut frames, 0, &[PageOp { pages: 64, op }], packed);
                let (receiver, socket) = poured(scene, &frames.bytes());
                judge(receiver, socket, 0)
            },
        );
    }
}

/// A frame of zstd that declares its size, without its first four bytes.
fn zstd_without_magic(plain: &[u8]) -> Vec<u8> {
    let mut frame = zstd::bulk::compress(plain, 1).unwrap();
    frame.split_off(4)
}

fn bomb(rows: &mut Rows, point: &str, pages: u64, fill: impl FnOnce(&mut Frames) + Send + 'static) {
    rows.add("bomb", "unix", point, "waits, small", move |scene| {
        let mut frames = begun(pages);
        fill(&mut frames);
        let bytes = frames.bytes();
        assert!(bytes.len() < 4 << 20, "a bomb is small: {}", bytes.len());
        let (receiver, socket) = poured(scene, &bytes);
        judge(receiver, socket, pages)
    });
}

/// A receiver that has got these bytes, and waits for more.
fn poured(scene: &mut Scene, bytes: &[u8]) -> (Proc, UnixStream) {
    let (receiver, to) = scene.listen(&["--discard"]);
    let mut socket = UnixStream::connect(to.strip_prefix("unix:").unwrap()).unwrap();
    let _ = socket.write_all(bytes);
    (receiver, socket)
}

/// What the receiver did, and whether its peak of memory is below the bound.
fn judge(mut receiver: Proc, socket: UnixStream, pages: u64) -> String {
    let end = Instant::now() + Duration::from_secs(25);
    let (mut peak, mut idle, mut before) = (0, 0, String::new());
    // until it has nothing more to do, which shows by the time that it has used; after an error it
    // waits for a second until we hang up
    while receiver.lives() && idle < 60 && Instant::now() < end {
        let hwm = receiver.status("VmHWM");
        peak = peak.max(hwm.trim_end_matches(" kB").parse().unwrap_or(0));
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", receiver.pid()));
        let stat = stat.unwrap_or_default();
        let times = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
        let times = times.collect::<Vec<_>>().join(" ");
        idle = if times == before { idle + 1 } else { 0 };
        before = times;
        sleep(Duration::from_millis(20));
    }
    let waits = receiver.lives();
    drop(socket);
    let out = receiver.end();
    let what = if waits && out.code == 65 { "waits".to_owned() } else { out.says(&[]) };
    if peak <= bound(pages) { format!("{what}, small") } else { format!("{what}, {peak} KiB") }
}
