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
//! So this is off unless asked for, and right only where the other end of the pipe is known:
//! `mig-recv` itself, which copies all but the last [`HELD`] bytes that it has taken out
//! ([`super::siphon`]). It must not be guessed from the descriptor being a pipe.
//!
//! Measured on Linux 6.18, a reader into 1 MiB of its own: 4.2 GB/s written and 7.5 lent through a pipe
//! of 64 KiB, 4.9 and 13 to 15 through one of 1 MiB: a pipe is widened first.
//!
//! Nobody else may write to the pipe, and what is written to it in other ways is told to the ring
//! ([`Lender::wrote`]).

use crate::base::buffer::Buffer;
use crate::sys::fd::unread;
use crate::sys::siphon::HELD;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Most pieces of one call (`UIO_MAXIOV`).
const MOST_PIECES: usize = 1024;

/// Buffers of our own that are lent to the reader of one pipe, and given back when it has them.
///
/// What has not come back when this is dropped is leaked: it must not be used again, and the process
/// is about to end.
#[derive(Debug, Default)]
pub struct Lender {
    /// How long a full pipe is waited for.
    limit: Option<Duration>,
    /// Each with how many bytes had been put into the pipe after it.
    lent: VecDeque<(u64, Buffer)>,
    written: u64,
}

impl Lender {
    /// That gives up, with `TimedOut`, when the reader takes nothing for so long.
    pub fn new(limit: Option<Duration>) -> Self {
        Self { limit, lent: VecDeque::new(), written: 0 }
    }

    /// Lends parts of `buffer` to the pipe, in order. Waits while the pipe is full.
    ///
    /// # Errors
    /// `EPIPE` where nobody reads any more; after an error a part may have been sent.
    ///
    /// # Panics
    /// Where a part is not within the buffer.
    pub fn send(
        &mut self,
        pipe: &impl AsFd,
        buffer: Buffer,
        parts: &[Range<usize>],
    ) -> io::Result<()> {
        let mut pieces: VecDeque<&[u8]> = parts.iter().map(|part| &buffer[part.clone()]).collect();
        let result = Self::splice(pipe, &mut pieces, &mut self.written, self.limit);
        // also of one that was sent in part: it is lent from here on
        self.lent.push_back((self.written, buffer));
        result
    }

    fn splice(
        pipe: &impl AsFd,
        pieces: &mut VecDeque<&[u8]>,
        written: &mut u64,
        limit: Option<Duration>,
    ) -> io::Result<()> {
        while !pieces.is_empty() {
            let parts: Vec<libc::iovec> = pieces
                .iter()
                .take(MOST_PIECES)
                .map(|piece| libc::iovec {
                    iov_base: piece.as_ptr().cast_mut().cast(),
                    iov_len: piece.len(),
                })
                .collect();
            // SAFETY: each iovec names a part of a buffer that lives until the end of this call and
            // after it in `lent`; the kernel only reads it. It keeps references to the pages beyond
            // that, and beyond an end of the mapping: that they are not written to meanwhile is a
            // matter of what the reader sees, not of memory safety.
            let sent = unsafe {
                let (pipe, flags) = (pipe.as_fd().as_raw_fd(), libc::SPLICE_F_NONBLOCK);
                libc::vmsplice(pipe, parts.as_ptr(), parts.len(), flags)
            };
            match usize::try_from(sent) {
                Ok(mut sent) => {
                    *written += sent as u64;
                    while let Some(first) = pieces.front_mut() {
                        if first.len() > sent {
                            *first = &first[sent..];
                            break;
                        }
                        sent -= first.len();
                        pieces.pop_front();
                    }
                }
                Err(_) => match Errno::last() {
                    Errno::EINTR => {}
                    Errno::EAGAIN => writable(pipe, limit)?,
                    e => return Err(e.into()),
                },
            }
        }
        Ok(())
    }

    /// Tells of bytes that were put into the pipe in another way.
    pub const fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
    }

    /// A buffer that the reader has had, to be used again.
    ///
    /// # Errors
    /// What the kernel says of the pipe.
    pub fn back(&mut self, pipe: &impl AsFd) -> io::Result<Option<Buffer>> {
        let Some(&(end, _)) = self.lent.front() else { return Ok(None) };
        // what the reader has not had yet is the end of what was written: what is in the pipe, and
        // what it has taken out and not copied
        if self.written - end >= unread(pipe.as_fd())? + HELD as u64 {
            return Ok(self.lent.pop_front().map(|(_, buffer)| buffer));
        }
        Ok(None)
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        // given back to the allocator they could be written to while the reader still looks at them
        self.lent.drain(..).for_each(|(_, buffer)| std::mem::forget(buffer));
    }
}

fn writable(pipe: &impl AsFd, limit: Option<Duration>) -> io::Result<()> {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
    let limit = limit.map_or(PollTimeout::NONE, |limit| {
        PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut fds, limit) {
        Ok(0) => Err(io::Error::from(io::ErrorKind::TimedOut)),
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write, pipe};

    #[test]
    fn no_buffer_comes_back_before_the_reader_has_it() {
        for slowly in [false, true] {
            let count: u64 = if slowly { 300 } else { 1500 };
            let (mut from, mut to) = pipe().unwrap();
            let reading = std::thread::spawn(move || {
                for i in 0..count {
                    let mut bytes = vec![0; 40_008];
                    from.read_exact(&mut bytes).unwrap();
                    let wrong = bytes.chunks_exact(8).position(|word| word != i.to_le_bytes());
                    assert_eq!(wrong, None, "buffer {i}");
                    if slowly && i % 7 == 0 {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            });
            let (mut lender, mut used_again) = (Lender::default(), 0);
            for i in 0..count {
                let back = lender.back(&to).unwrap();
                used_again += u64::from(back.is_some());
                let mut buffer = back.unwrap_or_else(|| Buffer::from(&[0; 65536][..]));
                buffer.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&i.to_le_bytes()));
                // in two parts, the eight bytes after them in another way
                lender.send(&to, buffer, &[8..8008, 16000..48000]).unwrap();
                to.write_all(&i.to_le_bytes()).unwrap();
                lender.wrote(8);
            }
            reading.join().unwrap();
            assert!(used_again > count / 4, "{used_again} of {count}");
        }
    }

    #[test]
    fn a_closed_pipe_is_an_error() {
        let (from, to) = pipe().unwrap();
        drop(from);
        let error = Lender::default()
            .send(&to, Buffer::from(&[1; 4096][..]), std::slice::from_ref(&(0..4096)))
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
