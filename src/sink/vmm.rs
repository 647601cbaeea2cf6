//! A VMM that waits for its migration stream (`-incoming exec:`, `-incoming fd:`): the pipe to it.
//!
//! The VMM starts its guest as soon as it has read the stream's last byte, and asks nobody. So the last
//! bytes are not written before the move is committed; and before that is agreed to, it must be known
//! that the VMM has accepted all the others: it might not be able to load a device, or be dead. Nobody
//! tells that either. But it reads on only where it has accepted what it read: so it is given more than
//! it can have read ahead of bytes that say nothing, and when the pipe is empty it has accepted all
//! before them. That holds where the end of the state was found rightly (`qemu::tail`): bytes inside a
//! device's state would be taken for its content.

use crate::abi::pagemap::{Entry, State};
use crate::abi::vma::FileId;
use crate::base::range::PageRange;
use crate::sys::fd::{Want, broken, unread, wait};
use crate::sys::process::Process;
use crate::sys::readers;
use nix::libc;
use nix::sys::socket::{UnixAddr, getsockname};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::time::{Duration, Instant};

/// What the VMM reads ahead: QEMU's buffer has 32 KiB (migration/qemu-file.c).
const AHEAD: usize = 64 << 10;
/// Bytes that are gathered before they are written.
const GATHER: usize = 128 << 10;
/// Between two looks whether the pipe is empty.
const LOOK: Duration = Duration::from_micros(500);

/// Why the VMM did not take its stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmmError {
    /// It is gone.
    #[error(
        "the VMM at this end is gone, or has refused the stream: what it says on its standard error tells why; the source goes on"
    )]
    Gone,
    /// It does not read.
    #[error("the VMM at this end has taken nothing for {0} s: the source goes on")]
    Stalled(u64),
    /// Writing failed.
    #[error("the VMM's stream cannot be written")]
    Write(#[source] io::Error),
}

/// The pipe to a VMM.
#[derive(Debug)]
pub struct VmmSink {
    out: File,
    gathered: Vec<u8>,
    /// A pipe or a socket, whose reader can be watched.
    watched: bool,
    limit: Duration,
}

impl VmmSink {
    /// Writes to `out`; gives up when nothing is taken for `limit`.
    ///
    /// # Errors
    /// Where it cannot be looked at.
    pub fn new(out: OwnedFd, limit: Duration) -> io::Result<Self> {
        let mut out = File::from(out);
        let kind = out.metadata()?.file_type();
        // what a socket to another host has taken says nothing of its reader
        let is_unix = || getsockname::<UnixAddr>(out.as_raw_fd()).is_ok();
        let watched = kind.is_fifo() || kind.is_socket() && is_unix();
        if kind.is_fifo() {
            crate::sys::fd::widen_pipe(out.as_fd(), 1 << 20);
            // opened once more, so that a write never waits; the mode of the one that we were given
            // is not changed, since others may share it
            let path = format!("/proc/self/fd/{}", out.as_raw_fd());
            let mut options = OpenOptions::new();
            if let Ok(own) = options.write(true).custom_flags(libc::O_NONBLOCK).open(path) {
                out = own;
            }
        }
        Ok(Self { out, gathered: Vec::with_capacity(GATHER + 8192), watched, limit })
    }

    /// Can be appended to; [`Self::pass`] is called now and then.
    pub const fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.gathered
    }

    /// Writes what has gathered, if it is enough.
    ///
    /// # Errors
    /// See [`VmmError`].
    pub fn pass(&mut self) -> Result<(), VmmError> {
        if self.gathered.len() >= GATHER { self.flush() } else { Ok(()) }
    }

    /// Writes what has gathered, and pages behind what stands before each: `heads` one after the
    /// other, each up to its `ends`. Pages go from where they are.
    ///
    /// # Errors
    /// See [`VmmError`].
    pub fn pages(&mut self, heads: &[u8], ends: &[usize], pages: &[u8]) -> Result<(), VmmError> {
        let (out, limit) = (&self.out, self.limit);
        let mut all = vec![IoSlice::new(&self.gathered)];
        let mut from = 0;
        for (&end, page) in ends.iter().zip(pages.chunks(4096)) {
            all.extend([IoSlice::new(&heads[from..end]), IoSlice::new(page)]);
            from = end;
        }
        // the kernel takes at most IOV_MAX (1024) pieces in one call
        let result = all.chunks_mut(1000).try_for_each(|some| write_all(out, some, limit));
        drop(all);
        self.gathered.clear();
        result
    }

    /// Writes what has gathered.
    ///
    /// # Errors
    /// See [`VmmError`].
    pub fn flush(&mut self) -> Result<(), VmmError> {
        let result = write_all(&self.out, &mut [IoSlice::new(&self.gathered)], self.limit);
        self.gathered.clear();
        result
    }

    /// Waits until the VMM has accepted all that was written. `idle` says nothing to it, however often
    /// it comes; without such bytes, or where nobody reads a pipe, there is nothing to wait for.
    ///
    /// # Errors
    /// [`VmmError::Gone`] where it has not; [`VmmError::Stalled`].
    pub fn settle(&mut self, idle: &[u8]) -> Result<(), VmmError> {
        self.flush()?;
        if !self.watched || idle.is_empty() {
            return Ok(());
        }
        for _ in 0..AHEAD.div_ceil(idle.len()) {
            self.gathered.extend_from_slice(idle);
        }
        self.flush()?;
        let mut until = Instant::now() + self.limit;
        let mut before = u64::MAX;
        loop {
            if !self.is_there() {
                return Err(VmmError::Gone);
            }
            let left = unread(self.out.as_fd()).map_err(VmmError::Write)?;
            if left == 0 {
                return Ok(());
            }
            if left < before {
                (before, until) = (left, Instant::now() + self.limit);
            }
            if Instant::now() > until {
                return Err(VmmError::Stalled(self.limit.as_secs()));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Has somebody still the other end?
    pub fn is_there(&self) -> bool {
        !self.watched || !broken(self.out.as_fd())
    }

    /// Which processes read it, as far as they can be seen.
    pub fn readers(&self) -> Vec<i32> {
        readers::of(&self.out)
    }
}

/// Writes all of it, waiting for `limit` at most while nothing is taken.
fn write_all(
    mut out: &File,
    mut some: &mut [IoSlice<'_>],
    limit: Duration,
) -> Result<(), VmmError> {
    IoSlice::advance_slices(&mut some, 0); // takes away what is empty, which counts as no progress
    while !some.is_empty() {
        match out.write_vectored(some) {
            Ok(0) => return Err(VmmError::Write(io::ErrorKind::WriteZero.into())),
            Ok(written) => IoSlice::advance_slices(&mut some, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !wait(out.as_fd(), Want::Write, Some(limit)).map_err(VmmError::Write)? {
                    return Err(VmmError::Stalled(limit.as_secs()));
                }
            }
            Err(error) => return Err(of_write(error)),
        }
    }
    Ok(())
}

fn of_write(error: io::Error) -> VmmError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => VmmError::Gone,
        _ => VmmError::Write(error),
    }
}

/// Memory of a VMM that is mapped from a template and was not written to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapped {
    /// Its pages: the whole of a template.
    pub pages: u64,
    /// Pages that are the VMM's own already.
    pub own: Vec<PageRange>,
}

/// Looks whether a process that reads the pipe has all of a file (device and inode) mapped
/// privately, from its first page on; and which pages of that it has written to. `None` where it has
/// not, or more than once, or cannot be looked at: then every page is written, which is right too.
pub fn mapped(sink: &VmmSink, device: u64, inode: u64, pages: u64) -> Option<Mapped> {
    let [pid] = sink.readers()[..] else { return None };
    look(pid, device, inode, pages)
}

fn look(pid: i32, device: u64, inode: u64, pages: u64) -> Option<Mapped> {
    let process = Process::open(pid).ok()?;
    let maps = process.maps().ok()?;
    let mut found = maps.iter().filter(|vma| {
        let whole = vma.pages.end - vma.pages.start == pages && vma.file_page == 0;
        whole && !vma.shared && vma.file == Some(FileId { device, inode })
    });
    let (Some(vma), None) = (found.next(), found.next()) else { return None };
    let (mut own, mut page) = (Vec::<PageRange>::new(), vma.pages.start);
    let mut entries = vec![Entry(0); 4096];
    while page < vma.pages.end {
        let count = usize::try_from(vma.pages.end - page).unwrap_or(4096).min(4096);
        let got = process.entries(page, &mut entries[..count]).ok()?;
        if got != count {
            return None;
        }
        for (at, entry) in (page - vma.pages.start..).zip(&entries[..count]) {
            let clean = match entry.state() {
                State::Absent => true,
                State::Present { file, .. } => file,
                State::Marker | State::InTransit | State::Swapped => false,
            };
            if !clean {
                match own.last_mut().filter(|last| last.end == at) {
                    Some(last) => last.end = at + 1,
                    None => own.push(PageRange { start: at, end: at + 1 }),
                }
            }
        }
        page += count as u64;
    }
    Some(Mapped { pages: vma.pages.end - vma.pages.start, own })
}
