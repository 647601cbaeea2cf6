//! A process held by descriptor (`pidfd_open`, Linux 5.3): its number may be used again, the
//! descriptor never means another.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

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
}
