//! A QEMU that runs, and what its guest says.

#![allow(clippy::unwrap_used)] // a test that cannot go on panics

use super::super::wait_for;
use super::memory::PAGE;
use super::{Build, Mapping, Qmp, Slow, mappings};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// No guest needs as long for anything, on a busy machine either.
const LONG: Duration = Duration::from_secs(60);

/// A QEMU that runs. It ends with this value, and what it has started too.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    /// Its number.
    pub pid: i32,
    /// Bytes of RAM.
    pub bytes: u64,
    seed: u64,
    watch: Option<Mutex<Qmp>>,
    dir: tempfile::TempDir,
}

impl Guest {
    pub(super) fn new(child: Child, build: &Build, dir: tempfile::TempDir) -> Self {
        let pid = i32::try_from(child.id()).unwrap();
        let (bytes, seed) = (build.bytes(), build.seed);
        let mut new = Self { child, pid, bytes, seed, watch: None, dir };
        let path = new.path("watch");
        wait_for("QEMU to listen", Duration::from_secs(20), || {
            let ended = new.child.try_wait().unwrap();
            assert!(ended.is_none(), "QEMU has ended, {ended:?}: {}", new.stderr());
            path.exists()
        });
        // At once and for good: whoever looks for a socket of this QEMU's must not find this one free.
        new.watch = Some(Mutex::new(Qmp::at(&path)));
        new
    }

    /// The path of a file in the folder that this guest has for itself: a place for FIFOs, sockets
    /// and logs, on a disk. It goes with the guest.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str) -> String {
        let bytes = fs::read(self.path(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// What it has said on its console, to this QEMU.
    pub fn serial(&self) -> String {
        self.file("serial")
    }

    /// What QEMU has complained of, and what programs have that it started.
    pub fn stderr(&self) -> String {
        self.file("stderr")
    }

    /// The lines in which it says that something is wrong.
    pub fn complaints(&self) -> Vec<String> {
        let bad = ["CORRUPT", "corrupt", "FAILED", "ended with", "panic"];
        let serial = self.serial();
        serial.lines().filter(|l| bad.iter().any(|b| l.contains(b))).map(str::to_owned).collect()
    }

    /// How often guest-work has found its memory right, since it is in this QEMU. Panics where it
    /// ever was not, or where the guest has ended.
    pub fn ticks(&self) -> usize {
        self.tick_numbers().len()
    }

    /// The number of its last check, which counts from its first boot, wherever that was; 0 where
    /// this QEMU has seen none. Panics as [`Guest::ticks`] does.
    pub fn last_tick(&self) -> u64 {
        self.tick_numbers().last().copied().unwrap_or(0)
    }

    fn tick_numbers(&self) -> Vec<u64> {
        if let Some(line) = self.complaints().first() {
            panic!("the guest says: {line}\n{}", self.serial());
        }
        assert!(!self.has_ended(), "QEMU has ended: {}", self.stderr());
        let serial = self.serial();
        let number = |l: &str| l.strip_prefix("TICK ")?.strip_suffix(" ok")?.parse().ok();
        serial.lines().filter_map(number).collect()
    }

    /// QEMU is no more.
    pub fn has_ended(&self) -> bool {
        Path::new(&format!("/proc/{}/exe", self.pid)).read_link().is_err()
    }

    /// Waits until QEMU has ended by itself, and says how.
    pub fn wait_ended(&mut self) -> ExitStatus {
        wait_for("QEMU to end", LONG, || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap()
    }

    /// Waits until it has found its memory right `n` times in this QEMU.
    pub fn wait_ticks(&self, n: usize) {
        wait_for("the guest", LONG, || self.ticks() >= n);
    }

    /// Waits until it has found its memory right `n` times more. Panics where it ever was not.
    pub fn assert_sane_after(&self, n: usize) {
        self.wait_ticks(self.ticks() + n);
    }

    /// Waits until guest-work complains of its memory, and returns the lines.
    pub fn wait_corrupt(&self) -> Vec<String> {
        let corrupt = || self.complaints().iter().any(|l| l.starts_with("TICK"));
        wait_for("the guest to see it", LONG, corrupt);
        self.complaints()
    }

    /// Tells guest-work what to do (`tests/guest/guest-work.c` has the words: `rewrite 100`), and
    /// waits until it is done.
    pub fn tell(&self, command: &str) {
        let before = self.answers(command);
        // held until the answer: QEMU drops what it has not read when the other end goes
        let mut port = UnixStream::connect(self.path("commands")).unwrap();
        writeln!(port, "{command}").unwrap();
        wait_for(&format!("the guest to {command}"), LONG, || {
            self.ticks(); // which panics where it refused
            self.answers(command) > before
        });
    }

    fn answers(&self, command: &str) -> usize {
        let said = format!("DID {command}");
        self.serial().lines().filter(|line| **line == said).count()
    }

    /// Stands still, every thread of it, until the guard is dropped.
    pub fn freeze(&self) -> Frozen {
        let frozen = Frozen(Pid::from_raw(self.pid));
        kill(frozen.0, Signal::SIGSTOP).unwrap();
        let stopped = |task: &Path| {
            let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        };
        wait_for("QEMU to stop", Duration::from_secs(10), || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
            tasks.flatten().all(|task| stopped(&task.path()))
        });
        frozen
    }

    /// Ends it at once, without a word to it, and waits until it is gone. What it has started (the
    /// programs of `exec:`) ends with it.
    pub fn kill(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            // not yet waited for, so that the number is its own; the group may not be there yet
            let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends it the signal that ends it, and does not wait.
    pub fn begin_to_die(&self) {
        kill(Pid::from_raw(self.pid), Signal::SIGKILL).unwrap();
    }

    /// The path of its control socket: the one that its command line has as `-qmp`.
    pub fn qmp_path(&self) -> PathBuf {
        self.path("qmp")
    }

    /// Opens that control socket. It serves one client at a time.
    pub fn qmp(&self) -> Qmp {
        Qmp::at(&self.qmp_path())
    }

    /// A control socket of the test's own, which is held as long as the guest is.
    pub fn control(&self) -> MutexGuard<'_, Qmp> {
        self.watch.as_ref().unwrap().lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Its mappings.
    pub fn mappings(&self) -> Vec<Mapping> {
        mappings(self.pid)
    }

    /// Its guest RAM: what QEMU itself keeps out of forks, and of that nothing else.
    pub fn ram(&self) -> Vec<Mapping> {
        self.mappings().into_iter().filter(|m| m.has("dc")).collect()
    }

    /// The mapping of the RAM that `-m` gave.
    pub fn main_ram(&self) -> Mapping {
        let ram = self.ram();
        ram.into_iter().find(|m| m.pages() * PAGE == self.bytes).expect("main RAM")
    }

    /// Pages of that RAM that this QEMU has for itself: not of a file, or copied above one.
    pub fn private_pages_of_ram(&self) -> u64 {
        self.main_ram().kib["Anonymous"] / 4
    }

    /// Frames of that RAM that are pages of a file: what clones of a template share.
    pub fn file_frames_of_ram(&self) -> BTreeSet<u64> {
        let entries = Slow::entries(self.pid, &[self.main_ram()]);
        entries.iter().filter(|(_, _, e)| e.is_file()).filter_map(|(_, _, e)| e.frame()).collect()
    }

    /// What a page of its work has in it.
    pub fn work_page(&self, page: u64, version: u32) -> Vec<u8> {
        work_page(self.seed, page, version)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A stopped process; it runs on when this is dropped.
#[derive(Debug)]
pub struct Frozen(pub(super) Pid);

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// A page as guest-work writes it: in the second half of its work, or in any version but the first,
/// which is 0.
pub fn work_page(seed: u64, page: u64, version: u32) -> Vec<u8> {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let b = seed + 1 + (u64::from(version) << 32);
    let mut x = page.wrapping_add(b.wrapping_mul(0xd134_2543_de82_ef95)).wrapping_add(STEP);
    x ^= x >> 32;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 29;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^= x >> 32;
    (0..PAGE / 8).flat_map(|i| x.wrapping_add(i.wrapping_mul(STEP)).to_le_bytes()).collect()
}
