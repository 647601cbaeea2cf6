//! Bits that change between both ends, and streams that stop: what starts a guest never comes out.

use crate::rig::{Act, Golden, LONG, Pair, Place, Relay, all_of_them, has_arrived, runstate};
use crate::support::qemu::{Build, Q35, Version, ready_with};
use crate::support::{root, wait_for};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What the receiver holds back until the commit: the 00 that starts the guest, and a description.
const START: [u8; 8] = [0, 6, 0, 0, 0, 2, b'{', b'}'];

/// Bytes of it in this stream: one without a description has the 00 alone.
fn start_of(right: &[u8]) -> usize {
    assert!(right.ends_with(&START) || right.ends_with(&[0]));
    if right.ends_with(&START) { START.len() } else { 1 }
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % n as u64).unwrap()
    }
}

fn fixture(name: &str) -> PathBuf {
    root().join("fixtures/qemu").join(name)
}

/// What mig-send says to a receiver that answers, all of it, and what the receiver gave its QEMU.
fn recorded(stream: &str) -> (Vec<u8>, Vec<u8>) {
    let pair = Pair::new();
    let (near, far) = (pair.path("near"), pair.path("far"));
    let mut receiver = pair
        .tool("mig-recv")
        .args(["--qemu", "-q", "--from", &format!("unix:{}", far.display())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the receiver", LONG, || far.exists());
    let relay = Relay::recorder(&near, &far);
    let mut stdout = receiver.stdout.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut out = Vec::new();
        stdout.read_to_end(&mut out).unwrap();
        out
    });
    let sent = pair
        .tool("mig-send")
        .args(["--qemu", "-q", "--to", &format!("unix:{}", near.display())])
        .stdin(File::open(fixture(stream)).unwrap())
        .stdout(Stdio::null())
        .status();
    assert!(sent.unwrap().success());
    assert!(receiver.wait().unwrap().success());
    (relay.recorded(), reading.join().unwrap())
}

/// Gives a receiver these bytes, as from a sender; what comes out for QEMU, and how it ended.
fn received(bytes: &[u8]) -> (Vec<u8>, bool, String) {
    let pair = Pair::new();
    let far = pair.path("far");
    let mut receiver = pair
        .tool("mig-recv")
        .args(["--qemu", "-q", "--threads", "1", "--from", &format!("unix:{}", far.display())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut sender = loop {
        // the socket has its name a moment before anybody listens
        if let Ok(sender) = UnixStream::connect(&far) {
            break sender;
        }
        assert!(receiver.try_wait().unwrap().is_none(), "the receiver has ended");
        std::thread::sleep(Duration::from_millis(1));
    };
    let mut answers = sender.try_clone().unwrap();
    let (mut out, mut said) = (Vec::new(), String::new());
    let (mut stdout, mut stderr) =
        (receiver.stdout.take().unwrap(), receiver.stderr.take().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // it may refuse before it has read everything
            let _ = sender.write_all(bytes);
            let _ = sender.shutdown(std::net::Shutdown::Write);
        });
        scope.spawn(|| std::io::copy(&mut answers, &mut std::io::sink()));
        scope.spawn(|| stderr.read_to_string(&mut said));
        stdout.read_to_end(&mut out).unwrap();
    });
    let ended = receiver.wait().unwrap();
    (out, ended.success(), said)
}

/// Is this some beginning of what QEMU may be given before the commit: the stream without its start,
/// and then idle sections (18 bytes each)?
fn starts_nothing(out: &[u8], right: &[u8]) -> bool {
    let body = &right[..right.len() - start_of(right)];
    // what the receiver wrote to see that QEMU has taken all is at the end of the right one too
    let common = out.iter().zip(body).take_while(|(a, b)| a == b).count();
    common == out.len()
}

/// Tries changed streams in two threads; which of them did what they must not?
fn none_starts(right: &[u8], changed: &(dyn Fn(usize) -> (String, Vec<u8>) + Sync), n: usize) {
    let (next, bad) = (AtomicUsize::new(0), std::sync::Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= n {
                        return;
                    }
                    let (what, bytes) = changed(number);
                    let (out, well, said) = received(&bytes);
                    let one_line = said.lines().count() == 1 && said.starts_with("mig-recv: ");
                    if well || !starts_nothing(&out, right) || !one_line {
                        let words = format!("{what}: {} bytes out, {well}: {said}", out.len());
                        bad.lock().unwrap().push(words);
                    }
                }
            });
        }
    });
    let bad = bad.into_inner().unwrap();
    assert!(bad.is_empty(), "{} of {n}:\n{}", bad.len(), bad.join("\n"));
}

const STREAMS: [&str; 4] =
    ["7.2-q35.qevm", "10.0-pc.qevm", "7.2-pc-live.qevm", "7.2-pc-suppress-vmdesc.qevm"];

#[test]
fn of_a_thousand_bits_that_change_on_the_way_none_lets_a_guest_start() {
    let each = if all_of_them() { 1000 } else { 250 };
    for (seed, stream) in (0u64..).zip(STREAMS) {
        let (bytes, right) = recorded(stream);
        let (out, well, said) = received(&bytes);
        assert!(well && out == right, "{stream} as it was: {said}");
        let changed = |number: usize| {
            let mut dice = Dice(seed << 32 | number as u64);
            let mut bytes = bytes.clone();
            // a fifth at the end, where the seal and the word to commit are
            let some = if number.is_multiple_of(5) { bytes.len().min(120) } else { bytes.len() };
            let at = bytes.len() - 1 - dice.below(some);
            let bit = dice.below(8);
            bytes[at] ^= 1 << bit;
            (format!("{stream}, byte {at}, bit {bit}"), bytes)
        };
        none_starts(&right, &changed, each);
    }
    eprintln!("{} flips in {} streams: none let a guest start", 4 * each, STREAMS.len());
}

#[test]
fn a_stream_that_stops_anywhere_lets_no_guest_start() {
    let (bytes, right) = recorded(STREAMS[0]);
    let n = bytes.len();
    let changed = |number: usize| {
        // each of the last bytes, and some before
        let at = if number < 60 { n - 1 - number } else { n * (number - 60) / 60 };
        (format!("{at} of {n} bytes"), bytes[..at].to_vec())
    };
    none_starts(&right, &changed, 120);
}

#[test]
fn pieces_that_change_their_places_let_no_guest_start() {
    let (bytes, right) = recorded(STREAMS[1]);
    let changed = |number: usize| {
        let mut dice = Dice(number as u64);
        let (mut bytes, long) = (bytes.clone(), 1 + dice.below(4000));
        let at = dice.below(bytes.len() - long);
        let what = match number % 3 {
            0 => {
                bytes.drain(at..at + long);
                "left out"
            }
            1 => {
                let piece = bytes[at..at + long].to_vec();
                bytes.splice(at..at, piece);
                "twice"
            }
            _ => {
                bytes[at..at + long].fill(0);
                "zero"
            }
        };
        (format!("{long} bytes at {at} {what}"), bytes)
    };
    // one that is as it was may start, and is none of these
    let none = |number: usize| {
        let (what, changed) = changed(number);
        if changed == bytes { (what, Vec::new()) } else { (what, changed) }
    };
    none_starts(&right, &none, 90);
}

#[test]
fn a_bit_that_changes_on_the_way_to_a_real_qemu_leaves_the_guest_where_it_is() {
    const TEST: &str = "a_bit_that_changes_on_the_way_to_a_real_qemu_leaves_the_guest_where_it_is";
    if !ready_with(TEST, &[]) {
        return;
    }
    let small = Build::small("web1", Version::V7, Q35);
    let golden = Golden::make(Build { work: 8, room: 0, tick: 50, ..small }, "rewrite 50");
    let source = golden.start();
    let n = if all_of_them() { 40 } else { 6 };
    let mut dice = Dice(7);
    for number in 0..n {
        let pair = Pair::new();
        let mut there = golden.build.incoming(&pair.receiver("")).spawn();
        let sender = pair.sender("near", "");
        // the bill of such a guest is some 30 MB
        let at = 200 + dice.below(20_000_000) as u64;
        let flip = Act::Flip(u8::try_from(dice.below(8)).unwrap());
        let relay = pair.relay(u64::MAX, Some((Place::Forward(at), flip)));
        source.control().set_capability("return-path", number % 2 == 1);
        source.control().migrate(&sender);
        assert!(pair.all_gone(LONG), "{}", pair.words());
        assert!(relay.acted(), "byte {at} was not reached: {}", pair.words());
        assert!(!has_arrived(&mut there).unwrap(), "byte {at}: {}", pair.words());
        assert_eq!(source.control().migration_status(), "failed", "{}", pair.words());
        wait_for("the source", LONG, || runstate(&source).as_deref() == Some("running"));
        source.assert_sane_after(1);
    }
}
