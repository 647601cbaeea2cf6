//! Bytes into a pipe without a copy (`vmsplice`): the kernel lends our pages to the reader.
//!
//! # When it may be used
//! A page that was sent this way is still ours. What we write into it before the reader has copied
//! it is what the reader gets: no fault of memory, but silent damage of the stream. A pipe tells how
//! many bytes are still in it, so that a reader that *reads* is followed exactly: `pipe_read` copies
//! first and takes the bytes out afterwards, under one lock. A reader that splices or tees pages on
//! (`pv`, `socat`, a kernel socket behind them) keeps them when they have left the pipe, for as long
//! as it likes, and nothing tells of it.
//!
//! So this is off unless asked for, and right only where the other end of the pipe is known to copy:
//! `mig-recv` itself. It must not be guessed from the descriptor being a pipe.
//!
//! Measured on Linux 6.18, a reader into 1 MiB of its own: 4.2 GB/s written and 7.5 lent through a pipe
//! of 64 KiB, 4.9 and 13 to 15 through one of 1 MiB; [`widen`] the pipe first.
//!
//! Nobody else may write to the pipe, and what is written to it in other ways is told to the ring
//! ([`SplicedRing::wrote`]).

use crate::base::addr::PAGE_SHIFT;
use memmap2::MmapMut;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

/// Buffers of our own that are lent to the reader of one pipe, and used again when it has them.
#[derive(Debug)]
pub struct SplicedRing {
    memory: MmapMut,
    slot_len: usize,
    /// For each slot, the bytes that had been put into the pipe when it was sent.
    sent_at: Vec<u64>,
    next: usize,
    written: u64,
}

impl SplicedRing {
    /// A ring for `pipe`, of slots of `slot_len` bytes rounded up to pages: as many as the pipe
    /// holds and two, so that whole slots never wait for the reader but in the pipe itself.
    ///
    /// # Errors
    /// `pipe` is none (`EBADF`), or there is no memory.
    pub fn new(pipe: &impl AsFd, slot_len: usize) -> io::Result<Self> {
        let page = 1 << PAGE_SHIFT;
        let too_long = || io::Error::from(io::ErrorKind::InvalidInput);
        let slot_len = slot_len.max(1).checked_next_multiple_of(page).ok_or_else(too_long)?;
        let slots = capacity(pipe)?.div_ceil(slot_len) + 2;
        let memory = MmapMut::map_anon(slots.checked_mul(slot_len).ok_or_else(too_long)?)?;
        Ok(Self { memory, slot_len, sent_at: vec![0; slots], next: 0, written: 0 })
    }

    /// The next slot, to be filled from its start and then [sent](Self::send). Waits until the
    /// reader has what was in it before.
    ///
    /// # Errors
    /// `EPIPE` where the reader has closed the pipe, and what the kernel says of it otherwise.
    pub fn slot(&mut self, pipe: &impl AsFd) -> io::Result<&mut [u8]> {
        while !self.is_free(pipe)? {
            // A pipe does not tell when it has become emptier than full; it tells when nobody reads.
            let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
            match poll(&mut fds, PollTimeout::from(1_u8)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Err(io::Error::from(io::ErrorKind::BrokenPipe)),
                Err(e) => return Err(e.into()),
            }
        }
        let range = self.range();
        Ok(&mut self.memory[range])
    }

    /// Lends the first `len` bytes of the slot that [`Self::slot`] gave to the pipe, and goes on to
    /// the next. Waits while the pipe is full.
    ///
    /// # Errors
    /// `InvalidInput` where a slot is not that long; `EPIPE` where nobody reads any more; after an
    /// error a part may have been sent.
    pub fn send(&mut self, pipe: &impl AsFd, len: usize) -> io::Result<()> {
        if len > self.slot_len {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // a slot that nobody asked for is sent with what it holds, and still only when it is free
        self.slot(pipe)?;
        let start = self.range().start;
        let mut done = 0;
        while done < len {
            let bytes = &self.memory[start + done..start + len];
            let part =
                libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            // SAFETY: one iovec that names `bytes`, memory of ours, which the kernel only reads. It
            // keeps references to the pages after the call, and after an end of the mapping: that
            // they are still written to is a matter of what the reader sees, not of memory safety.
            let sent = unsafe { libc::vmsplice(pipe.as_fd().as_raw_fd(), &raw const part, 1, 0) };
            match usize::try_from(sent) {
                Ok(sent) => {
                    done += sent;
                    self.wrote(sent);
                    // also of a slot that was sent in part: it is lent from here on
                    self.sent_at[self.next] = self.written;
                }
                Err(_) => match Errno::last() {
                    Errno::EINTR => {}
                    Errno::EAGAIN => writable(pipe)?,
                    e => return Err(e.into()),
                },
            }
        }
        self.next = (self.next + 1) % self.sent_at.len();
        Ok(())
    }

    /// Tells of bytes that were put into the pipe in another way.
    pub const fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
    }

    /// Has the reader taken everything out of the pipe?
    ///
    /// # Errors
    /// What the kernel says of the pipe.
    pub fn drained(&self, pipe: &impl AsFd) -> io::Result<bool> {
        Ok(unread(pipe)? == 0)
    }

    /// Has the reader taken what was in the next slot? All that it has not is the end of what was
    /// written.
    fn is_free(&self, pipe: &impl AsFd) -> io::Result<bool> {
        Ok(self.written - self.sent_at[self.next] >= unread(pipe)? || self.sent_at[self.next] == 0)
    }

    fn range(&self) -> Range<usize> {
        self.next * self.slot_len..(self.next + 1) * self.slot_len
    }
}

/// How many bytes `pipe` holds at most.
///
/// # Errors
/// `EBADF` where it is no pipe.
pub fn capacity(pipe: &impl AsFd) -> io::Result<usize> {
    let bytes = fcntl(pipe, FcntlArg::F_GETPIPE_SZ)?;
    usize::try_from(bytes).map_err(io::Error::other)
}

/// Asks for a pipe that holds `bytes`; returns how many it holds now, which may be more, or fewer
/// where `/proc/sys/fs/pipe-max-size` or the user's pages for pipes do not allow so many.
///
/// # Errors
/// `EBADF` where it is no pipe.
pub fn widen(pipe: &impl AsFd, bytes: i32) -> io::Result<usize> {
    let _refused = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(bytes));
    capacity(pipe)
}

/// Bytes in the pipe; its either end may be asked.
fn unread(pipe: &impl AsFd) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, which is ours.
    let result = unsafe { libc::ioctl(pipe.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    u64::try_from(bytes).map_err(io::Error::other)
}

fn writable(pipe: &impl AsFd) -> io::Result<()> {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, Read, Write, pipe};
    use std::time::Duration;

    fn number(i: usize) -> [u8; 8] {
        (i as u64).to_le_bytes()
    }

    /// Reads slots that are full of their own number.
    fn check(mut from: PipeReader, lens: impl Iterator<Item = usize>, slowly: bool) -> usize {
        let mut slots = 0;
        for (i, len) in lens.enumerate() {
            let mut bytes = vec![0; len];
            from.read_exact(&mut bytes).unwrap();
            let wrong = bytes.chunks_exact(8).position(|word| word != number(i));
            assert_eq!(wrong, None, "slot {i} of {len} bytes");
            if slowly && i % 7 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            slots += 1;
        }
        assert_eq!(from.read(&mut [0]).unwrap(), 0);
        slots
    }

    #[test]
    fn no_slot_is_used_again_before_the_reader_has_it() {
        for slowly in [false, true] {
            // full slots, and short ones, of which more fit into a pipe than there are slots
            for lens in [&[65536][..], &[65536, 8, 4096, 4104, 16, 40000]] {
                let count = if slowly { 300 } else { 1500 };
                let all = lens.iter().copied().cycle().take(count);
                let (from, to) = pipe().unwrap();
                let reading = {
                    let all = all.clone();
                    let all: Vec<usize> = all.collect();
                    std::thread::spawn(move || check(from, all.into_iter(), slowly))
                };
                let mut ring = SplicedRing::new(&to, 65536).unwrap();
                for (i, len) in all.enumerate() {
                    let slot = ring.slot(&to).unwrap();
                    slot.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&number(i)));
                    ring.send(&to, len).unwrap();
                }
                drop(to);
                assert_eq!(reading.join().unwrap(), count);
            }
        }
    }

    #[test]
    fn what_the_reader_has_is_known_to_the_byte() {
        let (mut from, mut to) = pipe().unwrap();
        let mut ring = SplicedRing::new(&to, 4096).unwrap();
        let slots = ring.sent_at.len();
        assert!(ring.drained(&to).unwrap());
        ring.slot(&to).unwrap().fill(1);
        ring.send(&to, 4096).unwrap();
        to.write_all(b"head").unwrap();
        ring.wrote(4);
        ring.next = 0; // as if the ring had gone round
        assert!(!ring.is_free(&to).unwrap());
        let mut bytes = vec![0; 4095];
        from.read_exact(&mut bytes).unwrap();
        assert!(!ring.is_free(&to).unwrap(), "a byte of it is still there");
        from.read_exact(&mut bytes[..1]).unwrap();
        assert!(ring.is_free(&to).unwrap());
        assert!(!ring.drained(&to).unwrap(), "what was written after it is not read");
        from.read_exact(&mut bytes[..4]).unwrap();
        assert_eq!(&bytes[..4], b"head");
        assert!(ring.drained(&to).unwrap());
        assert_eq!(slots, capacity(&to).unwrap() / 4096 + 2);
    }

    #[test]
    fn a_reader_that_is_gone_and_what_is_no_pipe_are_errors() {
        let (from, to) = pipe().unwrap();
        let mut ring = SplicedRing::new(&to, 4096).unwrap();
        assert!(ring.send(&to, 4097).is_err());
        ring.send(&to, 8).unwrap();
        ring.next = 0; // its slot is not free
        drop(from);
        assert_eq!(ring.slot(&to).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        ring.next = 1;
        assert_eq!(ring.send(&to, 8).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(SplicedRing::new(&file, 4096).is_err());
    }

    #[test]
    fn a_pipe_is_widened_as_far_as_is_allowed() {
        let (_from, to) = pipe().unwrap();
        assert!(widen(&to, 1 << 20).unwrap() >= capacity(&to).unwrap());
        assert!(widen(&to, i32::MAX).unwrap() >= 4096);
    }
}
