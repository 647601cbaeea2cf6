//! A fork that shares all memory copy-on-write: how memory holders are made for tests, benchmarks
//! and the demo. Changes our own process: there are two afterwards.

use nix::unistd::{ForkResult, fork as nix_fork};
use std::{fs, io};

/// Who goes on after a fork.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forked {
    /// The parent, and its child's number.
    Parent(i32),
    /// The child.
    Child,
}

/// Forks this process.
///
/// # Errors
/// Where the process has more than one thread: the child would have locks that nobody opens.
pub fn fork() -> io::Result<Forked> {
    let threads = fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!("a process with {threads} threads is not forked")));
    }
    // SAFETY: this is the only thread, as was just counted and as no other can start meanwhile, so
    // the child finds every lock and every allocation as one thread left it.
    match unsafe { nix_fork() }? {
        ForkResult::Parent { child } => Ok(Forked::Parent(child.as_raw())),
        ForkResult::Child => Ok(Forked::Child),
    }
}

/// Has the kernel end this process when its parent ends, so that no holder is left behind.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: integers only; a property of our own process.
    let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
