//! How a stream travels: one file a medium, all of them opened to the same [`Channel`].
//!
//! What is checked here: who may be reached without encryption, that the far end of `tls:` is who
//! the certificates say, that a child ended well, that a file is whole before it has its name. What
//! is not: what the bytes mean and whether the stream is complete. That is the wire format's, which
//! must find an end that came too early by itself: a pipe or `tcp:` whose writer was killed ends
//! like one whose writer was done.
//!
//! **Half-duplex.** Both directions of a channel may be used by two threads, but the protocol on it
//! takes turns: who writes much must not wait for an answer that the peer can only write once it
//! has stopped reading. A receiver that refuses in the middle writes its answer and finishes; the
//! sender sees it by [`Channel::answered`], or its next write fails with
//! [`TransportError::PeerGone`] and the answer can still be read.
//!
//! SIGPIPE must be ignored, as Rust programs start: a dead reader is then an error and not a death.

pub mod error;
mod exec;
mod fd;
mod file;
mod filter_error;
pub mod filter_exec;
mod paced;
mod plain;
mod stdio;
mod tcp;
mod tls;
mod unix;

pub use error::TransportError;
pub use tls::TlsFiles;

use crate::base::address::Address;
use crate::base::buffer::Buffer;
use crate::sys::fd::{Want, wait};
use paced::{Monotonic, Paced};
use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Where bytes come from.
///
/// Its errors hold a [`TransportError`]: [`TransportError::of`] takes it out.
pub trait Source: Read + Send {
    /// The descriptor, where the bytes come from it as they are, so that they can be spliced. What
    /// is done with it directly is not guarded by the stall limit, unless it is a socket.
    fn raw(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Would a read return at once, with bytes, the end or an error?
    fn ready(&mut self) -> bool;
}

/// Where bytes go to.
///
/// Its errors hold a [`TransportError`]: [`TransportError::of`] takes it out.
pub trait Drain: Write + Send {
    /// The descriptor, where the bytes go to it as they are, so that they can be spliced; `None`
    /// too where a rate limit would be passed by.
    fn raw(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// How long a peer may take nothing.
    fn stall_limit(&self) -> Option<Duration> {
        None
    }
}

/// What holds for every address.
#[derive(Clone, Debug)]
pub struct Options {
    /// Let memory pass in clear text to other hosts by `tcp:`.
    pub insecure: bool,
    /// What `tls:` proves itself with.
    pub tls: Option<TlsFiles>,
    /// Most bytes a second that are written; none, or 0, is no limit.
    pub rate: Option<u64>,
    /// Longest time in which nothing moves, before a peer counts as [`TransportError::Stalled`].
    pub stall_timeout: Option<Duration>,
    /// Longest time for a TCP connection to come about, for each address of a host.
    pub connect_timeout: Duration,
    /// `-` is both standard streams at either end: what a command is that runs at the far end of
    /// `exec:ssh …`. Without it, `-` has two ways only where it is a socket.
    pub stdio_both: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            insecure: false,
            tls: None,
            rate: None,
            stall_timeout: None,
            connect_timeout: Duration::from_secs(10),
            stdio_both: false,
        }
    }
}

/// A medium that is open, in the directions that it has.
pub struct Channel {
    /// What the peer writes. Whoever takes it out puts it back, or drops it before the end.
    pub input: Option<Box<dyn Source>>,
    /// What the peer reads. Whoever takes it out puts it back, or drops it before the end.
    pub output: Option<Box<dyn Drain>>,
    /// It has both directions: there can be answers.
    pub two_way: bool,
    /// It is a file or a block device: nobody reads what is written while it is written.
    pub is_file: bool,
    /// Nothing may follow the stream on it. Not so where a stream lies in a file at an offset: what
    /// follows it there is something else.
    pub strict: bool,
    /// The medium as an address, with the peer's where there is one: for messages.
    pub what: String,
    end: Box<dyn End>,
}

/// What a medium needs at its end. Dropping it is an end that completes nothing.
trait End: Send {
    /// Completes what was written, and waits until that is done. `input` may still hold what
    /// nobody wants to read.
    fn finish(self: Box<Self>, input: Option<Box<dyn Source>>) -> Result<(), TransportError>;

    /// Ends without completing; the error is what the medium knows of the cause.
    fn abort(self: Box<Self>) -> Result<(), TransportError> {
        Ok(())
    }
}

impl Channel {
    /// Ends well: flushes, tells the peer that nothing more comes, waits for a child and checks its
    /// exit status, brings a file to the disk and gives it its name.
    ///
    /// # Errors
    /// Whatever of these failed; what was written must then not count as arrived.
    pub fn finish(self) -> Result<(), TransportError> {
        let Self { input, output, what, end, .. } = self;
        if let Some(mut output) = output {
            output.flush().map_err(|e| TransportError::of(&what, "write", e))?;
        }
        end.finish(input)
    }

    /// Ends after something failed: a file that was to appear whole does not appear, a child is
    /// ended.
    ///
    /// # Errors
    /// What the medium knows of the cause, as a child's exit status, which says more than the
    /// closed pipe that was noticed first.
    pub fn abort(self) -> Result<(), TransportError> {
        let Self { input, output, end, .. } = self;
        drop((input, output));
        end.abort()
    }

    /// Has the peer said something that was not read yet? A sender asks this between frames, so
    /// that a refusal ends it before its next write fails. False where there is no input.
    pub fn answered(&mut self) -> bool {
        self.input.as_mut().is_some_and(|input| input.ready())
    }

    /// Slows the output down to the rate that was asked for.
    fn paced(mut self, options: &Options) -> Self {
        if let Some(rate) = options.rate.filter(|&rate| rate > 0) {
            self.output =
                self.output.map(|output| Box::new(Paced::new(output, rate, Monotonic::new())) as _);
        }
        self
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("what", &self.what)
            .field("input", &self.input.is_some())
            .field("output", &self.output.is_some())
            .field("is_file", &self.is_file)
            .finish_non_exhaustive()
    }
}

/// Which end of a stream a medium is opened for, where it decides on the direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Sender,
    Receiver,
}

/// Opens `address` at the sender's end.
///
/// # Errors
/// Where it cannot be opened, or must not be: see [`TransportError`].
pub fn connect(address: &Address, options: &Options) -> Result<Channel, TransportError> {
    let channel = match address {
        Address::Stdio => stdio::open(Role::Sender, options),
        Address::Exec(command) => exec::open(command, options),
        Address::Tcp { host, port } => tcp::connect(address, (host, *port), options),
        Address::Tls { host, port } => tls::connect(address, (host, *port), options),
        Address::Unix(path) => unix::connect(path, options),
        Address::Fd(number) => fd::open(*number, Role::Sender, options),
        Address::File { path, offset } => file::write(path, *offset, options),
    }?;
    Ok(channel.paced(options))
}

/// Opens `address` at the receiver's end. All that needs rights is done now; rights may be given up
/// before [`Listener::accept`].
///
/// # Errors
/// Where it cannot be opened, or must not be: see [`TransportError`].
pub fn listen(address: &Address, options: &Options) -> Result<Listener, TransportError> {
    let mut local = address.clone();
    let once = |channel: Result<Channel, TransportError>| Ok(Kind::Once(Some(channel?)));
    let kind = match address {
        Address::Stdio => once(stdio::open(Role::Receiver, options)),
        Address::Exec(command) => once(exec::open(command, options)),
        Address::Fd(number) => once(fd::open(*number, Role::Receiver, options)),
        Address::File { path, offset } => once(file::read(path, *offset, options)),
        Address::Unix(path) => unix::Bound::new(path).map(Kind::Unix),
        Address::Tcp { host, port } => {
            let (listener, at) = tcp::bind(address, (host, *port), options.insecure)?;
            local = Address::Tcp { host: at.ip().to_string(), port: at.port() };
            Ok(Kind::Tcp(listener))
        }
        Address::Tls { host, port } => {
            let identity = tls::server(address, options)?;
            let (listener, at) = tcp::bind(address, (host, *port), true)?;
            local = Address::Tls { host: at.ip().to_string(), port: at.port() };
            Ok(Kind::Tls(listener, identity))
        }
    }?;
    Ok(Listener { kind, local, options: options.clone() })
}

/// A receiver's end that is open for senders.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    local: Address,
    options: Options,
}

#[derive(Debug)]
enum Kind {
    Once(Option<Channel>),
    Tcp(std::net::TcpListener),
    Tls(std::net::TcpListener, tls::Identity),
    Unix(unix::Bound),
}

impl Listener {
    /// Waits for the next sender, without limit. A medium that is no socket gives one channel.
    ///
    /// # Errors
    /// [`TransportError::Taken`] where it has given its only one. An error of `tls:` is that of one
    /// peer, as one without a certificate: the listener takes the next.
    pub fn accept(&mut self) -> Result<Channel, TransportError> {
        let channel = match &mut self.kind {
            Kind::Once(channel) => {
                channel.take().ok_or_else(|| TransportError::Taken { what: self.local.to_string() })
            }
            Kind::Tcp(listener) => tcp::accept(listener, &self.options),
            Kind::Tls(listener, identity) => tls::accept(listener, identity, &self.options),
            Kind::Unix(bound) => bound.accept(&self.options),
        }?;
        Ok(channel.paced(&self.options))
    }

    /// Waits until a sender is there, so that [`Self::accept`] returns soon; at most `limit`. Is one
    /// there? Always so where the medium is no socket.
    ///
    /// # Errors
    /// What the kernel says of the socket.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let socket = match &self.kind {
            Kind::Once(_) => return Ok(true),
            Kind::Tcp(listener) | Kind::Tls(listener, _) => listener.as_fd(),
            Kind::Unix(bound) => bound.as_fd(),
        };
        wait(socket, Want::Read, Some(limit))
    }

    /// Where it listens: with the port that was found, where any was asked for.
    pub fn local(&self) -> &Address {
        &self.local
    }
}

/// Buffers that are lent to a pipe's reader instead of copied ([`crate::sys::splice`]).
#[derive(Debug, Default)]
pub struct Lending(crate::sys::splice::Lender);

impl Lending {
    /// For a drain that is a pipe which `mig-recv` alone reads: it copies what it takes out but for a
    /// known rest, so that a buffer is ours again when enough has left the pipe after it.
    pub fn to(drain: &dyn Drain) -> Option<Self> {
        let pipe = drain.raw()?;
        let lend = crate::sys::readers::all_run(&pipe, "mig-recv");
        lend.then(|| Self(crate::sys::splice::Lender::new(drain.stall_limit())))
    }

    /// Lends parts of a buffer, in order.
    ///
    /// # Errors
    /// As a write.
    pub fn send(
        &mut self,
        drain: &dyn Drain,
        buffer: Buffer,
        parts: &[std::ops::Range<usize>],
    ) -> io::Result<()> {
        let pipe = drain.raw().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        self.0.send(&pipe, buffer, parts)
    }

    /// Tells of bytes that were written in another way.
    pub const fn wrote(&mut self, bytes: usize) {
        self.0.wrote(bytes);
    }

    /// A buffer that the reader has had.
    ///
    /// # Errors
    /// What the kernel says of the pipe.
    pub fn back(&mut self, drain: &dyn Drain) -> io::Result<Option<Buffer>> {
        drain.raw().map_or(Ok(None), |pipe| self.0.back(&pipe))
    }
}

/// Writes all of `slices`, in as few system calls as the medium takes. They are used up.
///
/// # Errors
/// The first that the medium reports; how much was written before is then unknown.
pub fn write_all_vectored(to: &mut dyn Drain, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0); // takes away what is empty, which counts as no progress
    while !slices.is_empty() {
        match to.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl<D: Drain + ?Sized> Drain for Box<D> {
    fn raw(&self) -> Option<BorrowedFd<'_>> {
        (**self).raw()
    }

    fn stall_limit(&self) -> Option<Duration> {
        (**self).stall_limit()
    }
}

#[cfg(test)]
mod tests;
