//! A pipe, read through another one that nobody else has: changes our own process, which gets that
//! pipe.
//!
//! The kernel holds a pipe's one lock while it copies, for who writes and for who reads, and who
//! waits for it spins (`mutex_spin_on_owner`). So both ends of a pipe copy by turns. `splice` from
//! pipe to pipe moves the pages' references and copies nothing: the lock of the common pipe is held
//! for a moment, and the copy is made under that of our own. Measured on Linux 6.18 with two
//! processors: docs/PERFORMANCE.md.
//!
//! Pages that were lent to the common pipe ([`super::splice`]) are still the lender's while they lie
//! in our own. At most [`HELD`] bytes do, those that left the common pipe last; the lender counts
//! with that.

use crate::sys::fd::widen_pipe;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

/// Most bytes that lie between the common pipe and its reader.
pub const HELD: usize = 1 << 20;

/// The pipe between.
#[derive(Debug)]
pub struct Siphon {
    own: File,
    into: File,
    room: usize,
    held: usize,
}

impl Siphon {
    /// Makes the pipe.
    ///
    /// # Errors
    /// `EMFILE` and the like: the common pipe can then be read as it is.
    pub fn new() -> io::Result<Self> {
        let (own, into) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        widen_pipe(into.as_fd(), u32::try_from(HELD).unwrap_or(u32::MAX));
        let room = fcntl(&into, FcntlArg::F_GETPIPE_SZ)?;
        let room = usize::try_from(room).unwrap_or(HELD).min(HELD);
        Ok(Self { own: own.into(), into: into.into(), room, held: 0 })
    }

    /// Bytes that have left the common pipe and were not read yet.
    pub const fn held(&self) -> usize {
        self.held
    }

    /// Reads what `from`, a pipe, has: waits for it as a read of it would.
    ///
    /// # Errors
    /// Those of `splice` and `read`; `EINVAL` where `from` is no pipe.
    pub fn read(&mut self, from: BorrowedFd<'_>, to: &mut [u8]) -> io::Result<usize> {
        if to.is_empty() {
            return Ok(0);
        }
        // a short read of what already lies here must not be followed by one that waits
        if self.held == 0 {
            self.held = match splice(from, None, &self.into, None, self.room, SpliceFFlags::empty())
            {
                Ok(bytes) => bytes,
                Err(Errno::EINTR) => return Err(io::ErrorKind::Interrupted.into()),
                Err(error) => return Err(error.into()),
            };
            if self.held == 0 {
                return Ok(0);
            }
        }
        let most = to.len().min(self.held);
        let bytes = self.own.read(&mut to[..most])?;
        self.held -= bytes;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Write, pipe};

    #[test]
    fn what_was_written_is_read_in_order_to_the_end() {
        let (from, mut to) = pipe().unwrap();
        let bytes: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
        let copy = bytes.clone();
        let writing = std::thread::spawn(move || {
            for (i, piece) in copy.chunks(70_001).enumerate() {
                to.write_all(&piece[..i % 11]).unwrap();
                to.write_all(&piece[i % 11..]).unwrap();
            }
        });
        let (mut siphon, mut got, mut buffer) = (Siphon::new().unwrap(), vec![], vec![0; 99_991]);
        loop {
            match siphon.read(from.as_fd(), &mut buffer).unwrap() {
                0 => break,
                n => got.extend_from_slice(&buffer[..n]),
            }
        }
        writing.join().unwrap();
        assert!(got == bytes);
        assert_eq!(siphon.held(), 0);
    }

    #[test]
    fn a_pipe_that_never_waits_says_so_and_a_file_is_refused() {
        let (from, to) = pipe().unwrap();
        fcntl(&from, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut siphon = Siphon::new().unwrap();
        let error = siphon.read(from.as_fd(), &mut [0; 10]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(to);
        assert_eq!(siphon.read(from.as_fd(), &mut [0; 10]).unwrap(), 0);
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(siphon.read(file.as_fd(), &mut [0; 10]), Err(_) | Ok(0)));
    }
}
