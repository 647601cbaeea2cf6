//! The threads of a process as `/proc/PID/task` has them: do they run, are they traced, have they
//! run meanwhile. And whose child we are.

use std::fs;
use std::io;

/// One thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thread {
    /// Its number.
    pub tid: i32,
    /// The kernel's letter for its state: `T` is stopped, `Z` and `X` have ended.
    pub state: char,
    /// Who traces it; 0 where nobody does.
    pub tracer: i32,
    /// A signal that stops it was sent and has not arrived yet.
    pub stop_pending: bool,
    /// How often a processor was taken from it or given up by it: the same twice means that it has
    /// not run in between, since it stood still both times.
    pub switches: u64,
}

impl Thread {
    /// Runs no more until it is told to.
    pub const fn stands(&self) -> bool {
        matches!(self.state, 'T' | 'Z' | 'X')
    }
}

/// The threads of process `pid`, those left out that end while they are read.
///
/// # Errors
/// `NotFound` where there is no such process.
pub fn of(pid: i32) -> io::Result<Vec<Thread>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(entry) = entry else { continue };
        let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Ok(status) = fs::read(entry.path().join("status")) {
            all.extend(parse(tid, &String::from_utf8_lossy(&status)));
        }
    }
    if all.is_empty() { Err(io::Error::from(io::ErrorKind::NotFound)) } else { Ok(all) }
}

/// SIGSTOP, SIGTSTP, SIGTTIN and SIGTTOU in a mask of signals.
const STOPPING: u64 = 0b1111 << (libc::SIGSTOP - 1);

fn parse(tid: i32, status: &str) -> Option<Thread> {
    let field = |name: &str| {
        let mut lines = status.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    };
    let mask = |name: &str| field(name).and_then(|text| u64::from_str_radix(text, 16).ok());
    let count = |name: &str| field(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    Some(Thread {
        tid,
        state: field("State")?.chars().next()?,
        tracer: field("TracerPid")?.parse().ok()?,
        stop_pending: (mask("SigPnd")? | mask("ShdPnd")?) & STOPPING != 0,
        switches: count("voluntary_ctxt_switches") + count("nonvoluntary_ctxt_switches"),
    })
}

/// When process `pid` started, in clock ticks since boot.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&stat);
    // the name is in parentheses and may have any characters; 19 words after it comes the time
    text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Our parent, its parent, and so on, as far as this name space of processes goes.
pub fn ancestors() -> Vec<i32> {
    let parent = |pid: i32| -> Option<i32> {
        let status = fs::read(format!("/proc/{pid}/status")).ok()?;
        let text = String::from_utf8_lossy(&status).into_owned();
        text.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
    };
    let mut all = Vec::new();
    let mut next = i32::try_from(std::process::id()).ok();
    while let Some(pid) = next.and_then(parent).filter(|&pid| pid > 0) {
        // a parent that ends while we climb may lead anywhere, but not in a circle
        if all.contains(&pid) {
            break;
        }
        all.push(pid);
        next = Some(pid);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_threads_are_seen_and_run() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let threads = of(pid).unwrap();
        assert!(threads.iter().any(|thread| thread.tid == pid));
        assert!(threads.iter().any(|thread| !thread.stands()));
        assert!(start_time(pid).unwrap() > 0);
        assert_eq!(of(i32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn our_parent_is_our_first_ancestor() {
        let all = ancestors();
        let parent = nix::unistd::getppid().as_raw();
        assert!(parent == 0 || all.first() == Some(&parent), "{all:?}");
    }

    #[test]
    fn a_status_is_read_field_by_field() {
        let text = "Name:\tState: Z\nState:\tt (tracing stop)\nTracerPid:\t7\nSigPnd:\t0000000000040000\nShdPnd:\t0000000000000000\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t6\n";
        let want = Thread { tid: 3, state: 't', tracer: 7, stop_pending: true, switches: 11 };
        assert_eq!(parse(3, text), Some(want));
        assert!(!want.stands());
        assert_eq!(parse(3, "Name:\tx\n"), None);
    }
}
