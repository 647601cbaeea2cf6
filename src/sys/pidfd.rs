//! A process held by descriptor (`pidfd_open`, Linux 5.3): its number may be used again, the
//! descriptor never means another.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::{Duration, Instant};

/// A process, for as long as this value lives.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Takes hold of process `pid`.
    ///
    /// # Errors
    /// `ESRCH` where there is none; `EINVAL` or `ENOENT` where it is a thread and no process.
    pub fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: two integers go in and a descriptor or -1 comes out; no memory is involved.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Has it ended? A zombie has.
    pub fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(n) if n > 0)
    }

    /// Waits until it has ended, for `most` at most; has it? When it has, its descriptors are closed
    /// and its locks are open (`kernel/exit.c`, `do_exit`: `exit_files` comes before `exit_notify`).
    pub fn wait_end(&self, most: Duration) -> bool {
        let end = Instant::now() + most;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            if matches!(poll(&mut fds, wait), Ok(n) if n > 0) {
                return true;
            }
            if left.is_zero() {
                return false;
            }
        }
    }

    /// Sends it a signal (`pidfd_send_signal`, Linux 5.1). Acts on another process.
    ///
    /// # Errors
    /// `ESRCH` where it has ended, `EPERM` where it is not ours and we lack `CAP_KILL`.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let (fd, number) = (self.0.as_raw_fd(), signal as libc::c_int);
        let info = ptr::null_mut::<libc::siginfo_t>();
        // SAFETY: integers, and no pointer but a null one, which the kernel takes for "as kill(2)
        // would send it".
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, number, info, 0) };
        if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// A descriptor that another process of ours opened and passed on.
impl From<OwnedFd> for PidFd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_end_of_a_child_is_seen() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let held = PidFd::open(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!held.has_ended());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(held.has_ended());
        assert!(PidFd::open(i32::try_from(child.id()).unwrap()).is_err());
    }

    #[test]
    fn a_signal_ends_the_child_and_then_finds_nobody() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let held = PidFd::open(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!held.wait_end(Duration::from_millis(20)));
        held.signal(Signal::SIGKILL).unwrap();
        assert!(held.wait_end(Duration::from_secs(10)));
        child.wait().unwrap();
        assert_eq!(held.signal(Signal::SIGCONT).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
