//! Processes that are held still, and that always run again: with real processes, real control
//! groups and a real QEMU, and commands that are killed at every moment.

#![allow(clippy::unwrap_used)] // a test that cannot go on says where and ends

#[path = "../support/mod.rs"]
mod support;

mod groups;
mod killed;
mod qemu;
mod refused;
mod shared;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};
use support::{Holder, example, wait_for};

/// The command under test is killed, and then all is to be well in this time.
const SOON: Duration = Duration::from_secs(2);

/// `examples/freezer.rs`: a command that holds processes. It is killed with this value.
struct Freezer {
    child: Child,
    lines: BufReader<ChildStdout>,
    mark: String,
    guard: i32,
    /// What it said until it was ready, without the guard's number.
    said: Vec<String>,
}

/// In the environment of a freezer and of its guard, to find them by.
fn mark() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Freezer {
    fn new(args: &[&str]) -> Self {
        Self::start(Command::new(example("freezer")).args(args))
    }

    /// Holds one process.
    fn of(pid: i32) -> Self {
        let freezer = Self::new(&[&pid.to_string()]);
        assert!(freezer.holds(pid), "{:?}", freezer.said);
        freezer
    }

    fn start(command: &mut Command) -> Self {
        let mark = mark();
        let mut child = command
            .env("PAGEHERD_MARK", &mark)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut new = Self { child, lines, mark, guard: 0, said: Vec::new() };
        loop {
            match new.hear() {
                line if line == "ready" => return new,
                line if line.is_empty() => panic!("it ended: {:?}", new.said),
                line => match line.strip_prefix("guard ") {
                    Some(pid) => new.guard = pid.parse().unwrap(),
                    None => new.said.push(line),
                },
            }
        }
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn tell(&mut self, command: &str) -> String {
        writeln!(self.child.stdin.as_ref().unwrap(), "{command}").unwrap();
        self.hear()
    }

    fn holds(&self, pid: i32) -> bool {
        self.said.iter().any(|line| line.starts_with(&format!("frozen {pid} ")))
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Kills the guard and waits until it is gone.
    fn kill_guard(&self) {
        send(self.guard, Signal::SIGKILL);
        wait_for("the guard's end", SOON, || !lives(self.guard));
    }

    /// Kills both at once: nobody is left who could let go.
    fn kill_with_guard(&mut self) {
        send(self.pid(), Signal::SIGSTOP);
        self.kill_guard();
        self.kill();
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.kill();
        if !std::thread::panicking() {
            no_guard(&self.mark);
        }
    }
}

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with(['Z', 'X']))
}

/// Waits until no process of that mark lives.
fn no_guard(mark: &str) {
    let marked = format!("PAGEHERD_MARK={mark}");
    wait_for("the guard's end", SOON, || {
        let all = pageherd::sys::process::all_pids().unwrap();
        !all.into_iter().any(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|&b| b == 0).any(|var| var == marked.as_bytes()) && lives(pid)
        })
    });
}

/// The letters of the states of its threads.
fn states(pid: i32) -> Vec<char> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    stats.map(|stat| stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()).collect()
}

fn is_stopped(pid: i32) -> bool {
    states(pid).iter().all(|&state| state == 'T')
}

/// Has no command anything written about it?
fn is_forgotten(pid: i32) -> bool {
    let name = format!("{pid}-");
    let found = |folder: &str| {
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        files.map(|f| f.file_name()).any(|f| f.to_str().unwrap().starts_with(&name))
    };
    !found("/run/pageherd") && !found("/tmp/pageherd-65534")
}

/// Waits until it runs and nobody remembers that it did not.
fn wait_free(pid: i32) {
    let begin = Instant::now();
    while states(pid).contains(&'T') || !is_forgotten(pid) {
        let state = (states(pid), is_forgotten(pid));
        assert!(begin.elapsed() < SOON, "{pid} is still held after {SOON:?}: {state:?}");
        sleep(Duration::from_millis(5));
    }
}

/// A holder whose memory changes every few milliseconds.
fn ticking() -> Holder {
    Holder::new(&["anon:16,tick"])
}

/// The content of the first region.
fn content(holder: &Holder) -> Vec<u8> {
    let (start, end) = holder.regions[0].range.split_once('-').unwrap();
    let at = |s: &str| u64::from_str_radix(s, 16).unwrap();
    bytes(holder.pid, at(start), usize::try_from(at(end) - at(start)).unwrap())
}

fn bytes(pid: i32, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    File::open(format!("/proc/{pid}/mem")).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

fn stands_for(holder: &Holder, time: Duration) {
    let before = content(holder);
    let end = Instant::now() + time;
    while Instant::now() < end {
        sleep(Duration::from_millis(20));
        assert!(content(holder) == before, "its memory has changed");
    }
}

fn moves(holder: &Holder) {
    let before = content(holder);
    wait_for("its memory to change", SOON, || content(holder) != before);
}

#[test]
fn a_process_stands_still_and_goes_on() {
    let holder = ticking();
    moves(&holder);
    let mut freezer = Freezer::of(holder.pid);
    assert_eq!(freezer.said, [format!("frozen {} SIGSTOP", holder.pid)]);
    stands_for(&holder, Duration::from_millis(700));
    assert_eq!(freezer.tell("check"), "done");
    assert_eq!(freezer.tell("words"), format!("kill -CONT {}", holder.pid));
    assert_eq!(freezer.tell("thaw"), "thawed Runs");
    moves(&holder);
    wait_free(holder.pid);
    // and once more, by the same guard
    assert!(freezer.tell(&format!("hold {}", holder.pid)).starts_with("frozen"));
    stands_for(&holder, Duration::from_millis(100));
    assert_eq!(freezer.tell("drop"), "done");
    moves(&holder);
    wait_free(holder.pid);
}

#[test]
fn several_processes_are_held_by_one_guard() {
    let holders = [ticking(), ticking(), ticking()];
    let pids = holders.each_ref().map(|h| h.pid.to_string());
    let mut freezer = Freezer::new(&pids.each_ref().map(String::as_str));
    assert!(holders.iter().all(|h| freezer.holds(h.pid) && is_stopped(h.pid)));
    // threads that come after the guard do no harm
    assert_eq!(freezer.tell("threads"), "done");
    freezer.kill();
    holders.iter().for_each(|h| wait_free(h.pid));
    holders.iter().for_each(moves);
}

#[test]
fn a_process_of_many_threads_stands_as_a_whole() {
    let mut busy = Command::new(example("busy"));
    let mut busy = busy.arg("40").stdout(Stdio::piped()).spawn().unwrap();
    let pid = i32::try_from(busy.id()).unwrap();
    let mut line = String::new();
    BufReader::new(busy.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let at = u64::from_str_radix(line.trim().trim_start_matches("0x"), 16).unwrap();
    let counts = || bytes(pid, at, 512);
    let mut freezer = Freezer::new(&[]);
    for _ in 0..25 {
        assert_eq!(freezer.tell(&format!("hold {pid}")), format!("frozen {pid} SIGSTOP"));
        let before = counts();
        assert!(is_stopped(pid));
        sleep(Duration::from_millis(20));
        assert!(counts() == before, "a thread has run");
        assert_eq!(freezer.tell("check"), "done");
        assert_eq!(freezer.tell("thaw"), "thawed Runs");
        wait_for("it to run", SOON, || counts() != before);
    }
    busy.kill().unwrap();
    busy.wait().unwrap();
}

#[test]
fn one_that_ran_in_between_is_noticed() {
    let holder = ticking();
    let mut freezer = Freezer::of(holder.pid);
    send(holder.pid, Signal::SIGCONT);
    moves(&holder);
    send(holder.pid, Signal::SIGSTOP);
    wait_for("it to stop", SOON, || is_stopped(holder.pid));
    let said = freezer.tell("check");
    assert!(said.contains("has run while it was to stand still"), "{said}");
    assert_eq!(freezer.tell("thaw"), "thawed Runs");
    wait_free(holder.pid);
}

#[test]
fn one_that_was_stopped_before_stays_stopped() {
    let holder = ticking();
    send(holder.pid, Signal::SIGSTOP);
    wait_for("it to stop", SOON, || is_stopped(holder.pid));
    let mut freezer = Freezer::of(holder.pid);
    assert_eq!(freezer.tell("thaw"), "thawed AsBefore");
    assert!(is_stopped(holder.pid) && is_forgotten(holder.pid));
    for ends in ["drop", "kill"] {
        let mut freezer = Freezer::of(holder.pid);
        if ends == "kill" {
            freezer.kill();
        } else {
            freezer.tell("drop");
        }
        drop(freezer); // and its guard is gone then
        assert!(is_stopped(holder.pid) && is_forgotten(holder.pid), "{ends}");
    }
    send(holder.pid, Signal::SIGCONT);
    moves(&holder);
}

#[test]
fn one_that_ends_while_it_is_held_is_no_error() {
    let mut holder = ticking();
    let mut freezer = Freezer::of(holder.pid);
    holder.kill();
    assert!(freezer.tell("check").contains("has ended"));
    assert_eq!(freezer.tell("thaw"), "thawed Ended");
    assert!(is_forgotten(holder.pid));
    let mut holder = ticking();
    let mut freezer = Freezer::of(holder.pid);
    // nobody has fetched its exit code
    send(holder.pid, Signal::SIGKILL);
    wait_for("its end", SOON, || !lives(holder.pid));
    freezer.kill();
    no_guard(&freezer.mark);
    assert!(is_forgotten(holder.pid));
    holder.kill();
}

#[test]
fn the_guard_holds_nothing_of_ours_and_heeds_no_signal() {
    let holder = ticking();
    let mut freezer = Freezer::of(holder.pid);
    let guard = freezer.guard;
    let mut open: Vec<String> = fs::read_dir(format!("/proc/{guard}/fd"))
        .unwrap()
        .map(|fd| fs::read_link(fd.unwrap().path()).unwrap().to_str().unwrap().to_owned())
        .collect();
    open.sort();
    let kinds: Vec<&str> = open.iter().map(|fd| fd.split(':').next().unwrap()).collect();
    // the link, and the descriptors of the sender and of the process that is held
    let pidfd = if kinds.contains(&"pidfd") { "pidfd" } else { "anon_inode" };
    let mut want = vec!["/dev/null", "/dev/null", "/dev/null", pidfd, pidfd, "socket"];
    want.sort_unstable();
    assert_eq!(kinds, want, "{open:?}");
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        send(guard, signal);
    }
    freezer.kill();
    // its output ends with it: the guard has no copy
    assert_eq!(freezer.hear(), "");
    wait_free(holder.pid);
    moves(&holder);
}
