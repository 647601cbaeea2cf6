//! A descriptor as a reader and a writer: pipes, sockets, files. Calls that a signal interrupts are
//! made again, descriptors that never wait are waited for, and a peer that hangs is noticed.

use super::{Channel, Drain, End, Options, Source, TransportError};
use crate::sys::fd::{Want, access, wait, widen_pipe, write_now};
use crate::sys::siphon::Siphon;
use crate::sys::socket;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Room in the pipes that we use: a frame, and the most that an unprivileged user may have
/// (`fs.pipe-max-size`).
const PIPE_BYTES: u32 = 1 << 20;

/// What a pipe takes without waiting when it has any room at all.
const PIPE_BUF: usize = 4096;

/// How long the end of a socket waits for the peer's.
const LINGER: Duration = Duration::from_secs(1);

/// What a descriptor is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Medium {
    Socket,
    Pipe,
    /// A regular file or a block device.
    File,
    /// A terminal, `/dev/null` and the like.
    Other,
}

impl Channel {
    /// A channel of plain descriptors, that ends as `end` does.
    pub(super) fn of_plain(input: Option<Plain>, output: Option<Plain>, end: Plain) -> Self {
        Self {
            two_way: input.is_some() && output.is_some(),
            is_file: end.medium == Medium::File,
            strict: true,
            what: end.what.to_string(),
            input: input.map(Plain::into_source),
            output: output.map(|output| Box::new(output) as _),
            end: Box::new(end),
        }
    }

    /// A channel of one socket.
    pub(super) fn of_socket(socket: Plain) -> Self {
        Self::of_plain(Some(socket.clone()), Some(socket.clone()), socket)
    }
}

/// One descriptor, as often as it is needed.
#[derive(Clone, Debug)]
pub(super) struct Plain {
    pub(super) file: Arc<File>,
    pub(super) what: Arc<str>,
    pub(super) medium: Medium,
    nonblocking: bool,
    stall: Option<Duration>,
}

impl Plain {
    /// Looks at what `fd` is, and prepares it.
    pub(super) fn new(
        fd: impl Into<OwnedFd>,
        what: &str,
        options: &Options,
    ) -> Result<Self, TransportError> {
        let cannot = |doing| move |e| TransportError::of(what, doing, e);
        let mut file = File::from(fd.into());
        let kind = file.metadata().map_err(cannot("look at it"))?.file_type();
        let medium = if kind.is_socket() {
            Medium::Socket
        } else if kind.is_fifo() {
            Medium::Pipe
        } else if kind.is_file() || kind.is_block_device() {
            Medium::File
        } else {
            Medium::Other
        };
        let stall = options.stall_timeout;
        match medium {
            Medium::Socket => {
                let refused =
                    |why: &str| TransportError::Refused { what: what.into(), why: why.into() };
                match socket::kind(file.as_fd()).map_err(cannot("look at it"))? {
                    Some(kind) if kind.listens => {
                        return Err(refused(
                            "it is a listening socket: pass one that is connected",
                        ));
                    }
                    Some(kind) if !kind.stream => {
                        return Err(refused(
                            "it carries messages and no stream: pass a stream socket",
                        ));
                    }
                    _ => {}
                }
                if let Some(limit) = stall {
                    socket::limit_waiting(file.as_fd(), limit).map_err(cannot("set its limits"))?;
                }
            }
            Medium::Pipe => {
                widen_pipe(file.as_fd(), PIPE_BYTES);
                if let Some(own) = stall.and_then(|_| never_waiting(&file)) {
                    file = own;
                }
            }
            Medium::File | Medium::Other => {}
        }
        let nonblocking = access(file.as_fd()).map_err(cannot("look at it"))?.nonblocking;
        Ok(Self { file: Arc::new(file), what: what.into(), medium, nonblocking, stall })
    }

    /// To be read from: a pipe through one of our own, so that its writer need not wait while we copy.
    fn into_source(self) -> Box<dyn Source> {
        match self.medium {
            Medium::Pipe => match Siphon::new() {
                Ok(siphon) => Box::new(Siphoned { pipe: self, siphon }),
                Err(_) => Box::new(self),
            },
            _ => Box::new(self),
        }
    }

    /// Waits for `want`, at most as long as nothing may move.
    pub(super) fn wait(&self, want: Want) -> io::Result<()> {
        if wait(self.file.as_fd(), want, self.stall)? { Ok(()) } else { Err(self.stalled()) }
    }

    fn stalled(&self) -> io::Error {
        let after = self.stall.unwrap_or_default();
        TransportError::Stalled { what: self.what.to_string(), after }.into_io()
    }

    /// Does `call` until it says more than "interrupted" or "not now".
    fn insist(
        &self,
        want: Want,
        doing: &'static str,
        mut call: impl FnMut() -> io::Result<usize>,
    ) -> io::Result<usize> {
        // the kernel keeps the limit on a blocking socket; on all else we do
        let own_limit = self.medium == Medium::Pipe && self.stall.is_some();
        if own_limit && !self.nonblocking {
            self.wait(want)?;
        }
        loop {
            match call() {
                Ok(bytes) => return Ok(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.medium == Medium::Socket && !self.nonblocking {
                        return Err(self.stalled());
                    }
                    self.wait(want)?;
                }
                Err(error) => return Err(TransportError::of(&self.what, doing, error).into_io()),
            }
        }
    }

    /// Writes to a pipe for which there is a limit: a plain write would wait until all is taken.
    fn write_some(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        match write_now(self.file.as_fd(), from) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                let first = from.iter().find(|slice| !slice.is_empty());
                let first: &[u8] = first.map_or(&[], |slice| slice);
                (&*self.file).write(&first[..first.len().min(PIPE_BUF)])
            }
            done => done,
        }
    }

    /// Ends a socket so that what was written arrives: says that nothing more comes, and takes what
    /// the peer still sends for a moment. Closing with unread bytes makes TCP reset the connection,
    /// which can overtake our last answer.
    pub(super) fn part(&self, limit: Duration) -> Result<(), TransportError> {
        socket::end_writing(self.file.as_fd())
            .map_err(|e| TransportError::of(&self.what, "end it", e))?;
        let end = Instant::now() + limit;
        let mut waste = [0; 1 << 14];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero()
                || !matches!(wait(self.file.as_fd(), Want::Read, Some(left)), Ok(true))
            {
                return Ok(());
            }
            match (&*self.file).read(&mut waste) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Ok(()), // it is the peer's end that failed, after ours
            }
        }
    }

    /// Brings a file to the disk; for all else there is nothing to do.
    pub(super) fn sync(&self) -> Result<(), TransportError> {
        if self.medium != Medium::File {
            return Ok(());
        }
        self.file.sync_all().map_err(|e| TransportError::of(&self.what, "bring it to the disk", e))
    }
}

impl Read for Plain {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.insist(Want::Read, "read", || (&*self.file).read(to))
    }
}

/// A pipe that is read through another one.
struct Siphoned {
    pipe: Plain,
    siphon: Siphon,
}

impl Read for Siphoned {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let Self { pipe, siphon } = self;
        if siphon.held() > 0 {
            return siphon.read(pipe.file.as_fd(), to);
        }
        pipe.insist(Want::Read, "read", || siphon.read(pipe.file.as_fd(), to))
    }
}

impl Source for Siphoned {
    fn ready(&mut self) -> bool {
        self.siphon.held() > 0 || self.pipe.ready()
    }
}

impl Write for Plain {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(from)])
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let limited = self.medium == Medium::Pipe && self.stall.is_some() && !self.nonblocking;
        self.insist(Want::Write, "write", || {
            if limited { self.write_some(from) } else { (&*self.file).write_vectored(from) }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // nothing is held back
    }
}

impl Source for Plain {
    fn raw(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn ready(&mut self) -> bool {
        matches!(wait(self.file.as_fd(), Want::Read, Some(Duration::ZERO)), Ok(true))
    }
}

impl Drain for Plain {
    fn raw(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn stall_limit(&self) -> Option<Duration> {
        self.stall
    }
}

/// The writing end of a pipe once more, opened so that a write never waits: then a write can be as
/// large as the pipe, and a limit can be kept while it is full. The mode of the descriptor that we
/// were given is not changed, since others may share it.
fn never_waiting(pipe: &File) -> Option<File> {
    let writes = access(pipe.as_fd()).is_ok_and(|access| access.write && !access.read);
    let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
    let own = || OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    writes.then(own)?.ok()
}

/// The end of a descriptor that is nothing more: sockets part, files go to the disk.
impl End for Plain {
    fn finish(self: Box<Self>, input: Option<Box<dyn Source>>) -> Result<(), TransportError> {
        drop(input);
        match self.medium {
            Medium::Socket => self.part(LINGER),
            // a file that was only read is not synced: it may be on a disk that only reads
            Medium::File if access(self.file.as_fd()).is_ok_and(|a| a.write) => self.sync(),
            _ => Ok(()),
        }
    }
}
