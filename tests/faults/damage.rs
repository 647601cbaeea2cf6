//! Streams that are damaged or lie, with checksums that fit and without, in each mode.

use crate::frames::Frames;
use crate::matrix::Rows;
use crate::scene::{Out, Scene, pour};
use pageherd::wire::header::feature;
use pageherd::wire::record::{Record, VmShape, tag};
use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

/// How damaged bytes reach a receiver.
const MODES: [&str; 5] = ["file", "stdio", "unix", "exec", "image"];

type Change = fn(&mut Frames);
type Spoil = fn(&mut Vec<u8>);

/// Changes behind which every checksum fits again.
const LIES: &[(&str, Change, i32, &str)] = &[
    ("another version", |s| s.header[8] = 2, 65, "version 2"),
    ("a later minor version", |s| s.header[10] = 9, 0, ""),
    ("a feature that is not known", |s| s.header[17] = 0x80, 65, "features"),
    ("an optional feature that is not known", |s| s.header[25] = 0x80, 0, ""),
    ("another page size", |s| s.header[28] = 16, 65, "4 KiB"),
    ("no page size", |s| s.header[28] = 0, 65, "4 KiB"),
    ("another hash", |s| s.header[29] = 9, 65, "not defined"),
    ("it wants answers", |s| s.header[12] |= 1, 77, "no way back"),
    ("no frame", |s| s.frames.clear(), 65, "cut off"),
    ("no VM", |s| drop(s.frames.remove(0)), 65, "no VM"),
    ("a VM twice", |s| s.frames.insert(0, s.frames[0].clone()), 65, "twice"),
    ("no beginning", |s| drop(s.frames.remove(s.at(tag::BEGIN))), 65, "before it begins"),
    ("two beginnings", |s| s.frames.insert(s.at(tag::BEGIN), (tag::BEGIN, vec![])), 65, "twice"),
    ("pages left out", |s| drop(s.frames.remove(s.at(tag::PAGES))), 65, "never came"),
    (
        "pages twice",
        |s| s.frames.insert(s.at(tag::PAGES), s.frames[s.at(tag::PAGES)].clone()),
        65,
        "twice",
    ),
    (
        "pages after the end of their VM",
        |s| {
            let pages = s.frames.remove(s.at(tag::PAGES));
            s.frames.insert(s.at(tag::END) + 1, pages);
        },
        65,
        "complete",
    ),
    (
        "no end of a VM",
        |s| drop(s.frames.remove(s.at(tag::END))),
        65,
        "before all VMs are complete",
    ),
    (
        "an end of a VM that is none",
        |s| {
            let at = s.at(tag::END);
            s.frames[at].1[0] = 5;
        },
        65,
        "not open",
    ),
    (
        "another digest",
        |s| {
            let at = s.at(tag::END);
            s.frames[at].1[3] ^= 1;
        },
        65,
        "seal",
    ),
    (
        "another digest and no seal",
        |s| {
            let at = s.at(tag::END);
            s.frames[at].1[3] ^= 1;
            s.frames.pop();
        },
        65,
        "cut off",
    ),
    (
        "another seal",
        |s| {
            let at = s.at(tag::SEAL);
            s.frames[at].1[0] ^= 1;
        },
        65,
        "seal",
    ),
    ("no seal", |s| drop(s.frames.pop()), 65, "cut off"),
    ("two seals", |s| s.frames.push(s.frames[s.frames.len() - 1].clone()), 65, "follows the end"),
    (
        "a commit that nobody asked for",
        |s| s.frames.push((tag::COMMIT, vec![])),
        65,
        "follows the end",
    ),
    (
        "a commit at its beginning",
        |s| s.frames.insert(0, (tag::COMMIT, vec![])),
        65,
        "before it is sealed",
    ),
    ("a type that is not known", |s| s.frames.insert(1, (77, vec![])), 65, "type 77"),
    ("a type that may be passed over", |s| s.frames.insert(1, (200, vec![1; 50])), 0, ""),
    ("type zero", |s| s.frames.insert(1, (0, vec![])), 65, "type 0"),
    (
        "rounds that it does not announce",
        |s| s.frames.insert(2, (tag::ROUND, vec![1])),
        65,
        "rounds",
    ),
    (
        "the sender gives up",
        |s| s.frames.insert(2, (tag::ABORT, vec![2, b'n', b'o'])),
        69,
        "gave up: no",
    ),
    (
        "a question in a stream",
        |s| s.frames.insert(0, (tag::RESOLVE, vec![1; 16])),
        65,
        "takes no answer",
    ),
    (
        "a name that is a path",
        |s| {
            s.frames[0].1[1] = 1;
            s.frames[0].1[2] = b'/';
        },
        65,
        "name",
    ),
    ("a name that hides", |s| s.frames[0].1[2] = b'.', 65, "name"),
    (
        "one byte changed in a page",
        |s| {
            let at = s.at(tag::PAGES);
            *s.frames[at].1.last_mut().unwrap() ^= 1;
        },
        65,
        "digest",
    ),
    (
        "a byte behind a record",
        |s| {
            let at = s.at(tag::BEGIN);
            s.frames[at].1.push(0);
        },
        65,
        "after its end",
    ),
    (
        "pages of another VM",
        |s| {
            let at = s.at(tag::PAGES);
            s.frames[at].1[0] = 3;
        },
        65,
        "not the stream's",
    ),
    ("a VM that is only referred to", |s| s.frames[0].1[0] = 1, 65, "other streams"),
    ("flags of a VM", |s| s.frames[0].1[0] = 2, 65, "flags"),
];

/// Changes of the bytes as they are.
const DAMAGE: &[(&str, Spoil, &str)] = &[
    ("nothing", Vec::clear, "cut off"),
    ("a single byte", |b| b.truncate(1), "cut off"),
    ("the header but for a byte", |b| b.truncate(63), "cut off"),
    ("the header alone", |b| b.truncate(64), "cut off"),
    ("all but the last byte", |b| b.truncate(b.len() - 1), "cut off"),
    ("half", |b| b.truncate(b.len() / 2), "cut off"),
    ("a quarter", |b| b.truncate(b.len() / 4), "cut off"),
    ("one byte more", |b| b.push(0), "follows the end"),
    ("the stream twice", |b| b.extend(b.clone()), "follows the end"),
    ("text", |b| *b = b"hello, world\n".repeat(100), "no pageherd stream"),
    ("zeros", |b| b.fill(0), "no pageherd stream"),
    ("line ends changed", |b| b.retain(|&byte| byte != b'\r'), "no pageherd stream"),
    ("the first byte lost", |b| b.rotate_left(1), "no pageherd stream"),
    (
        "the highest bits lost",
        |b| b.iter_mut().for_each(|byte| *byte &= 0x7f),
        "no pageherd stream",
    ),
    ("a length of 4 GiB", |b| b[64..68].fill(0xff), "is the most"),
    ("a length of 2 GiB", |b| b[67] = 0x7f, "is the most"),
    ("a flag of a frame", |b| b[69] = 1, "checksum"),
    ("a number of a frame", |b| b[72] = 1, "checksum"),
    ("two bytes changed places", |b| b.swap(70_000, 70_001), "checksum"),
    ("4 KiB lost", |b| drop(b.drain(20_000..24_096)), ""),
    (
        "4 KiB twice",
        |b| {
            let part = b[20_000..24_096].to_vec();
            b.splice(20_000..20_000, part);
        },
        "",
    ),
    ("a page of zeros", |b| b[40_000..44_096].fill(0), "checksum"),
];

pub(crate) fn add(rows: &mut Rows) {
    for mode in MODES {
        for &(point, change, code, word) in LIES {
            // a socket and a command have a way back
            let two_ways = matches!(mode, "unix" | "exec" | "stdio");
            if point == "it wants answers" && two_ways {
                continue;
            }
            rows.add("lying stream", mode, point, code.to_string(), move |scene| {
                let (file, _) = scene.stream("x", 40, &["--filters", "none"]);
                let mut frames = Frames::of(&fs::read(&file).unwrap());
                change(&mut frames);
                let mut bytes = frames.bytes();
                if code == 0 {
                    // its seal is over the header, which is another now
                    bytes = sealed(&frames);
                    scene.keeps("back.img");
                    scene.keeps("h/a.map");
                }
                receive(scene, mode, &bytes).says(&[word])
            });
        }
        for &(point, change, word) in DAMAGE {
            rows.add("damaged stream", mode, point, "65", move |scene| {
                let (file, _) = scene.stream("x", 40, &["--filters", "none"]);
                let mut bytes = fs::read(&file).unwrap();
                change(&mut bytes);
                receive(scene, mode, &bytes).says(&[word])
            });
        }
    }
    for i in 0..16 {
        rows.add("damaged stream", "file", format!("a bit in part {i}/16"), "65", move |scene| {
            let (file, _) = scene.stream("x", 40, &[]);
            let mut bytes = fs::read(&file).unwrap();
            let at = bytes.len() * i / 16;
            bytes[at] ^= 1 << (i % 8);
            receive(scene, "file", &bytes).says(&[])
        });
    }
    splices(rows);
    for codec in ["lz4", "zstd"] {
        rows.add(
            "lying stream",
            "file",
            format!("{codec} bytes of something else"),
            "65",
            move |scene| {
                let image = scene.file("img", &b"page".repeat(40 * 1024));
                let file = scene.keeps("x");
                let (vm, to) = (format!("a=image:{image}"), format!("file:{file}"));
                let args = ["--vm", &vm, "--to", &to, "--filters", codec, "--keep-filters"];
                assert_eq!(scene.run(&mut scene.send(&args)).says(&[]), "0");
                let mut frames = Frames::of(&fs::read(&file).unwrap());
                let at = frames.at(tag::PAGES);
                let body = &mut frames.frames[at].1;
                let half = body.len() - 8;
                body[half..].fill(0xa5);
                receive(scene, "file", &frames.bytes()).says(&["unpacked", "digest"])
            },
        );
    }
}

/// Frames of one session in another.
fn splices(rows: &mut Rows) {
    rows.add("damaged stream", "file", "a frame of another session", "65", |scene| {
        let (one, _) = scene.stream("x", 40, &[]);
        let (two, _) = scene.stream("y", 40, &[]);
        let (one, two) = (fs::read(one).unwrap(), fs::read(two).unwrap());
        let mut bytes = one[..64].to_vec();
        bytes.extend(&two[64..]);
        receive(scene, "file", &bytes).says(&["checksum"])
    });
    rows.add("damaged stream", "unix", "a frame of another session", "65", |scene| {
        let (one, _) = scene.stream("x", 40, &[]);
        let (two, _) = scene.stream("y", 40, &[]);
        let (one, two) = (fs::read(one).unwrap(), fs::read(two).unwrap());
        let mut bytes = one[..one.len() / 2].to_vec();
        bytes.extend(&two[one.len() / 2..]);
        receive(scene, "unix", &bytes).says(&["checksum"])
    });
    rows.add("lying stream", "file", "a VM larger than --max-ram", "77", |scene| {
        let (file, _) = scene.stream("x", 40, &[]);
        let from = format!("file:{file}");
        let herd = scene.herd("h");
        let args = ["--into", &herd, "--from", &from, "--max-ram", "156K"];
        scene.run(&mut scene.recv(&args)).says(&["--max-ram"])
    });
    rows.add(
        "lying stream",
        "file",
        "VMs that are larger together than --max-ram",
        "77",
        |scene| {
            let vm = |name: &str| VmShape {
                name: name.into(),
                foreign: false,
                blocks: vec![("ram".into(), 200)],
            };
            let frames = Frames::new(0, &[Record::Vm(vm("a")), Record::Vm(vm("b")), Record::Begin]);
            let stream = scene.file("x", &frames.bytes());
            let (herd, from) = (scene.herd("h"), format!("file:{stream}"));
            let args = ["--into", &herd, "--from", &from, "--max-ram", "1M"];
            scene.run(&mut scene.recv(&args)).says(&["--max-ram"])
        },
    );
    rows.add("lying stream", "file", "pages of a VM that no stream brings", "65", |scene| {
        let bytes = refers(scene);
        receive(scene, "file", &bytes).says(&["never arrived"])
    });
}

/// A stream of VM `a` that says of all its pages that they are those of VM `b`, of another stream.
pub(crate) fn refers(scene: &mut Scene) -> Vec<u8> {
    let vm = VmShape { name: "b".into(), foreign: true, blocks: vec![("ram".into(), 16)] };
    let mut body = Vec::new();
    Record::Vm(vm).write(&mut body);
    let (file, _) = scene.stream("x", 16, &["--filters", "none"]);
    let mut frames = Frames::of(&fs::read(&file).unwrap());
    frames.header[12] |= u8::try_from(feature::FOREIGN).unwrap();
    frames.frames.insert(1, (tag::VM, body));
    let at = frames.at(tag::PAGES);
    frames.frames[at].1 = vec![0, 0, 1, 4, 16, 1, 0];
    sealed(&frames)
}

/// The bytes with the seal that belongs to this header and to what is declared.
pub(crate) fn sealed(frames: &Frames) -> Vec<u8> {
    use pageherd::base::digest::Hashing;
    use pageherd::migrate::seal::Seal;
    let mut frames = frames.clone();
    let header: [u8; 64] = frames.bytes()[..64].try_into().unwrap();
    let mut seal = Seal::new(&header);
    let vms = frames.frames.iter().filter(|(kind, _)| *kind == tag::VM);
    let ends = frames.frames.iter().filter(|(kind, _)| *kind == tag::END);
    let ends: Vec<&Vec<u8>> = ends.map(|(_, body)| body).collect();
    for (number, (_, body)) in vms.enumerate() {
        let Ok(Record::Vm(declared)) = Record::read(tag::VM, body) else { panic!("no VM") };
        let end = ends.iter().find(|end| usize::from(end[0]) == number);
        seal.vm(&declared, end.map(|end| end[1..].try_into().unwrap()));
    }
    let at = frames.at(tag::SEAL);
    frames.frames[at].1 = seal.finish(&Hashing::Plain).to_vec();
    frames.bytes()
}

/// Has a receiver take these bytes, into a herd or an image.
pub(crate) fn receive(scene: &mut Scene, mode: &str, bytes: &[u8]) -> Out {
    let herd = scene.herd("h");
    let stream = scene.file("bytes", bytes);
    match mode {
        "file" => {
            scene.run(&mut scene.recv(&["--into", &herd, "--from", &format!("file:{stream}")]))
        }
        "image" => {
            let image = format!("a={}", scene.path("back.img"));
            scene.run(&mut scene.recv(&["--image", &image, "--from", &format!("file:{stream}")]))
        }
        "exec" => {
            let from = format!("exec:cat '{stream}'");
            scene.run(&mut scene.recv(&["--into", &herd, "--from", &from]))
        }
        "stdio" => {
            let mut command = scene.recv(&["--into", &herd]);
            command.stdin(Stdio::from(fs::File::open(&stream).unwrap()));
            scene.run(&mut command)
        }
        _ => {
            let (receiver, to) = scene.listen(&["--into", &herd]);
            let socket = UnixStream::connect(to.strip_prefix("unix:").unwrap()).unwrap();
            pour(&socket, bytes);
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let out = receiver.end();
            drop(socket);
            out
        }
    }
}
