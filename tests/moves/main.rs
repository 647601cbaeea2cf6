//! Memory that moves: what arrives is what was sent, shares what was shared, and has one owner at
//! every moment. With the real commands, processes, guests, KSM and kills; where a test must reach
//! inside, with the library.

#![allow(clippy::unwrap_used)] // a test that cannot go on says where and ends

#[path = "../support/mod.rs"]
mod support;

mod damage;
mod files;
mod footprint;
mod hops;
mod kills;
mod reuse;
mod several;
mod sources;
mod trips;
mod vmm;

use pageherd::base::digest::{Hashing, of_memory};
use pageherd::base::fact::Fact;
use pageherd::source::feed::Feed;
use pageherd::source::feed::herd::HerdFeed;
use pageherd::source::herd::HerdVm;
use serde_json::Value;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::{Holder, json, n, wait_for, words};

/// No transfer of a test takes as long.
const LONG: Duration = Duration::from_secs(60);
const PAGE: usize = 4096;

/// A folder in memory that goes with this value, and with it whatever is in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("pageherd-moves.").tempdir_in("/dev/shm").unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The path as text, for a command line.
    fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn names(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(name)).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn mig_send(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mig-send"));
    command.args(args);
    command
}

fn mig_recv(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mig-recv"));
    command.args(args);
    command
}

/// A command that runs. It is ended with this value.
struct Run {
    child: Child,
    said: Option<[JoinHandle<Vec<u8>>; 2]>,
    words: String,
}

impl Run {
    fn new(mut command: Command) -> Self {
        let words = format!("{command:?}");
        // what a test has not given is nothing; the output is read as it comes
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::spawn(&mut command, words)
    }

    fn spawn(command: &mut Command, words: String) -> Self {
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{words}: {e}"));
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let said = [
            std::thread::spawn(move || out.map_or_else(Vec::new, all_of)),
            std::thread::spawn(move || err.map_or_else(Vec::new, all_of)),
        ];
        Self { child, said: Some(said), words }
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Its exit status and what it said; panics where it does not end.
    fn end(mut self) -> Output {
        let begin = Instant::now();
        while !self.has_ended() {
            assert!(begin.elapsed() < LONG, "does not end: {}", self.words);
            std::thread::sleep(Duration::from_millis(2));
        }
        let status = self.child.wait().unwrap();
        let [stdout, stderr] = self.said.take().unwrap().map(|said| said.join().unwrap());
        Output { status, stdout, stderr }
    }

    /// What it said, which must have ended well.
    fn well(self) -> Output {
        let what = self.words.clone();
        let out = self.end();
        assert!(out.status.success(), "{what}: {}", words(&out));
        out
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.kill();
    }
}

fn all_of(mut from: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    bytes
}

fn code(out: &Output) -> i32 {
    out.status.code().unwrap_or(-1)
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn parsed(bytes: &[u8]) -> Value {
    let text = String::from_utf8_lossy(bytes);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON ({e}): {text}"))
}

/// `mig-send … | mig-recv …`, with a pipe between them.
fn piped(send: &[&str], recv: &[&str]) -> (Output, Output) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut receiver = mig_recv(recv);
    receiver.stdin(reader);
    let receiver = Run::new(receiver);
    let mut sender = mig_send(send);
    let what = format!("{sender:?}");
    sender.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
    let running = Run::spawn(&mut sender, what);
    drop(sender); // and with it our copy of the pipe
    (running.end(), receiver.end())
}

/// The same, both of which must end well; what the receiver said as JSON.
fn pass(send: &[&str], recv: &[&str]) -> Value {
    let (sent, received) = piped(send, &[recv, &["--json"]].concat());
    assert!(
        sent.status.success() && received.status.success(),
        "{}{}",
        words(&sent),
        words(&received)
    );
    parsed(&received.stdout)
}

/// A receiver that listens at a socket already.
fn listening(socket: &Path, args: &[&str]) -> Run {
    let from = format!("unix:{}", socket.display());
    let run = Run::new(mig_recv(&[&["--from", &from, "--json"], args].concat()));
    wait_for("the socket", Duration::from_secs(20), || socket.exists());
    run
}

/// The digest of one VM, as a receiver or a sender prints it.
fn digest_in(said: &Value, vm: &str) -> String {
    let streams = said["streams"].as_array().cloned().unwrap_or_else(|| vec![said.clone()]);
    let vms: Vec<Value> =
        streams.iter().flat_map(|stream| stream["vms"].as_array().cloned().unwrap()).collect();
    let vm = vms.iter().find(|v| v["name"] == vm).unwrap_or_else(|| panic!("no {vm} in {said}"));
    vm["digest"].as_str().unwrap().to_owned()
}

fn digest_of(memory: &[u8]) -> String {
    of_memory(&Hashing::Plain, memory).to_string()
}

/// All the memory of a feed.
fn content(feed: &dyn Feed) -> Vec<u8> {
    let pages: u64 = feed.blocks().iter().map(|(_, pages)| pages).sum();
    let mut facts = vec![Fact::Unknown; usize::try_from(pages).unwrap()];
    feed.facts(0, &mut facts).unwrap();
    let mut bytes = vec![1; facts.len() * PAGE];
    feed.read(0, &facts, &mut bytes).unwrap();
    bytes
}

/// All the memory of a VM in a herd.
fn in_herd(dir: &Path, vm: &str) -> Vec<u8> {
    let found = HerdVm::find(&dir.join(vm)).unwrap_or_else(|e| panic!("{e}"));
    content(&HerdFeed::open(&found[0]).unwrap_or_else(|e| panic!("{e}")))
}

/// Is this VM in a herd?
fn has(dir: &Path, vm: &str) -> bool {
    dir.join(format!("{vm}.map")).exists()
}

/// What a process has at `start..end`, by the kernel's word; what it cannot read is zero.
fn memory(pid: i32, start: u64, end: u64) -> Vec<u8> {
    let mem = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
    if mem.read_exact_at(&mut bytes, start).is_err() {
        for (at, page) in (start..).step_by(PAGE).zip(bytes.chunks_mut(PAGE)) {
            if mem.read_exact_at(page, at).is_err() {
                page.fill(0); // behind the end of a file
            }
        }
    }
    bytes
}

/// The ends of a range as targets have it.
fn ends(range: &str) -> (u64, u64) {
    let (start, end) = range.split_once('-').unwrap();
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
    (hex(start), hex(end))
}

/// One region of a holder, or of its child `pid`.
fn region_of(holder: &Holder, pid: i32, region: usize) -> Vec<u8> {
    let (start, end) = ends(&holder.regions[region].range);
    memory(pid, start, end)
}

/// Distinct frames behind VMs, as memscan counts them.
fn footprint_of(targets: &[String]) -> u64 {
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    n(&json(&[&["summary", "--json"], targets.as_slice()].concat())["footprint_pages"])
}

/// Numbers that look random and are the same in every run.
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// One of `0..n`.
    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % n as u64).unwrap()
    }

    /// A page that is like no other, of which zstd saves a part.
    fn page(&mut self, random: bool) -> Vec<u8> {
        let words = if random { PAGE / 8 } else { PAGE / 64 };
        let piece: Vec<u8> = (0..words).flat_map(|_| self.roll().to_le_bytes()).collect();
        piece.iter().copied().cycle().take(PAGE).collect()
    }

    /// Memory of `pages` pages in stretches: zeros, copies of what came before, random pages, and
    /// such as can be compressed.
    fn memory(&mut self, pages: usize) -> Vec<u8> {
        let mut memory: Vec<u8> = Vec::with_capacity(pages * PAGE);
        while memory.len() < pages * PAGE {
            let run = 1 + self.below(24);
            let kind = self.below(5);
            for _ in 0..run.min(pages - memory.len() / PAGE) {
                let have = memory.len() / PAGE;
                match kind {
                    0 => memory.resize(memory.len() + PAGE, 0),
                    1 if have > 0 => {
                        let of = self.below(have) * PAGE;
                        memory.extend_from_within(of..of + PAGE);
                    }
                    2 => memory.extend(self.page(true)),
                    _ => memory.extend(self.page(false)),
                }
            }
        }
        memory
    }
}

/// A process is stopped: every thread of it.
fn is_stopped(pid: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let mut stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    stats.all(|stat| stat.rsplit_once(") ").unwrap().1.starts_with('T'))
}
