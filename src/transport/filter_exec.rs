//! A filter outside of this program: `exec:COMMAND`.
//!
//! # The protocol, version 1
//! COMMAND is run by `/bin/sh -c`, once for each direction, for as long as the transfer lasts. At
//! the sender it packs pages, at the receiver it unpacks them; the environment variable
//! `PAGEHERD_FILTER` says which: `pack` or `unpack`. It has descriptors 0, 1 and 2 and no other,
//! SIGPIPE in its default state, and a process group of its own. What it writes to standard error
//! is seen by the user.
//!
//! 1. On its standard input it gets one line, `pageherd-filter 1 pack` or `pageherd-filter 1
//!    unpack`, ended by a newline. It answers on its standard output with the line
//!    `pageherd-filter 1`, ended by a newline, and nothing more. (1 is the version of the protocol.
//!    A filter that does not know the version it is offered ends with a status that is not 0.)
//! 2. Then come requests: a length, as four bytes with the lowest first, and so many bytes. To pack:
//!    one or more whole pages of 4096 bytes, at most 262,144 bytes in all. To unpack: what `pack`
//!    answered, as it was.
//! 3. Each request gets one answer of the same shape, in the order of the requests. From `pack`:
//!    what the pages became, which may not be longer than they were; or the length 0, for pages that
//!    do not become smaller and are sent as they are. From `unpack`: the pages, exactly as many
//!    bytes as they had. A packed form that cannot be unpacked without knowing the length of the
//!    pages has to carry it.
//! 4. Up to 16 requests may be sent before the first is answered. A filter need not read ahead, and
//!    must flush each answer before it waits for the next request.
//! 5. When its standard input ends between two requests, all is done: it exits with status 0, and
//!    writes nothing more. Any other status means that it failed, and the transfer fails.
//!
//! An answer has to come within a time, 60 seconds unless told otherwise. A filter that takes
//! longer, ends early, or answers what this page does not allow is killed with its process group,
//! and the error says what it did. The filter is trusted as its user is: it can read what passes
//! through it. It cannot spoil it unseen, as the digests of the stream are made of what goes in and
//! checked on what comes out.

use crate::filter::codec::{Codec, CodecError, MOST, check};
use crate::sys::spawn::three_descriptors;
use crate::transport::filter_error::{HELLO, how};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use crate::transport::filter_error::FilterError;

/// Most requests that are sent and not taken back.
pub const MOST_IN_FLIGHT: usize = 16;

/// How long an answer may take unless told otherwise.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a filter that closed its output may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// What the filter is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Pages in, fewer bytes out.
    Pack,
    /// What was packed in, pages out.
    Unpack,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pack => "pack",
            Self::Unpack => "unpack",
        })
    }
}

/// A filter that runs. Dropped, it is killed; [`Self::finish`] ends it well.
#[derive(Debug)]
pub struct ExecFilter {
    command: String,
    direction: Direction,
    timeout: Duration,
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    /// The lengths that the answers to come may have, the next first.
    asked: VecDeque<usize>,
    /// Answers that came and were not taken.
    ready: VecDeque<Vec<u8>>,
    /// The answer that comes just now: its length as far as it is known, and its bytes.
    head: Vec<u8>,
    body: Vec<u8>,
    reaped: bool,
    failed: bool,
}

impl ExecFilter {
    /// Starts `command` and waits for its first line.
    ///
    /// # Errors
    /// It cannot be started, or does not speak the protocol.
    pub fn start(
        command: &str,
        direction: Direction,
        timeout: Duration,
    ) -> Result<Self, FilterError> {
        let cannot = |source| FilterError::Start { command: command.to_owned(), source };
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", command])
            .env("PAGEHERD_FILTER", direction.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0); // so that all of a pipeline can be killed
        let mut child = three_descriptors(&mut shell).map_err(cannot)?.spawn().map_err(cannot)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(cannot(io::Error::from(io::ErrorKind::BrokenPipe)));
        };
        let mut filter = Self {
            command: command.to_owned(),
            direction,
            timeout: timeout.min(Duration::from_secs(86400)), // a moment that a clock can tell
            child,
            input: None,
            output,
            asked: VecDeque::new(),
            ready: VecDeque::new(),
            head: Vec::new(),
            body: Vec::new(),
            reaped: false,
            failed: false,
        };
        // from here on a failure drops `filter`, which kills the child
        filter.no_wait(&input)?;
        filter.no_wait(&filter.output)?;
        filter.input = Some(input);
        filter.greet().map_err(|e| filter.fail(e))?;
        Ok(filter)
    }

    /// As it was given.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// What it does.
    pub const fn direction(&self) -> Direction {
        self.direction
    }

    /// Requests that were sent and whose answers were not taken.
    pub fn in_flight(&self) -> usize {
        self.asked.len() + self.ready.len()
    }

    /// Sends a request; the answer may not be longer than `most` bytes, and of a filter that unpacks
    /// must have just as many. Answers that come meanwhile are kept.
    ///
    /// # Errors
    /// More than [`MOST_IN_FLIGHT`] requests, a length of 0 or above [`MOST`], and everything that
    /// the filter does wrong. After an error of the filter there is no way on.
    pub fn submit(&mut self, bytes: &[u8], most: usize) -> Result<(), FilterError> {
        let why = match (bytes.len(), most) {
            _ if self.in_flight() >= MOST_IN_FLIGHT => "too many requests are in flight",
            (1..=MOST, 1..=MOST) => "",
            _ => "a request or its answer is empty or too long",
        };
        if !why.is_empty() {
            return Err(FilterError::Misused { command: self.command.clone(), why });
        }
        self.alive()?;
        let mut head = [0; 4];
        head.copy_from_slice(&bytes.len().to_le_bytes()[..4]); // at most MOST, tested above
        self.asked.push_back(most);
        self.send(&head).and_then(|()| self.send(bytes)).map_err(|e| self.fail(e))
    }

    /// Takes the next answer into `out`, whose content is lost; waits for it where it has not come.
    /// False, with `out` empty, where a filter that packs says that the pages do not become smaller.
    ///
    /// # Errors
    /// Nothing was asked, and everything that the filter does wrong.
    pub fn answer(&mut self, out: &mut Vec<u8>) -> Result<bool, FilterError> {
        if self.in_flight() == 0 {
            let why = "no request is in flight";
            return Err(FilterError::Misused { command: self.command.clone(), why });
        }
        self.alive()?;
        let mut deadline = self.deadline();
        loop {
            if let Some(answer) = self.ready.pop_front() {
                *out = answer;
                return Ok(!out.is_empty());
            }
            self.step(&[], &mut deadline).map_err(|e| self.fail(e))?;
        }
    }

    /// One request and its answer.
    ///
    /// # Errors
    /// As [`Self::submit`] and [`Self::answer`]; also where others are in flight.
    pub fn ask(
        &mut self,
        bytes: &[u8],
        most: usize,
        out: &mut Vec<u8>,
    ) -> Result<bool, FilterError> {
        if self.in_flight() > 0 {
            let why = "another request is in flight";
            return Err(FilterError::Misused { command: self.command.clone(), why });
        }
        self.submit(bytes, most)?;
        self.answer(out)
    }

    /// Ends it: no more requests. Answers that were not taken are awaited and lost.
    ///
    /// # Errors
    /// It does not end in time, writes more, or ends with another status than 0.
    pub fn finish(mut self) -> Result<(), FilterError> {
        self.alive()?;
        let mut deadline = self.deadline();
        while !self.asked.is_empty() {
            self.step(&[], &mut deadline).map_err(|e| self.fail(e))?;
        }
        self.input = None;
        let mut deadline = self.deadline();
        while self.read_some(&mut deadline).map_err(|e| self.fail(e))? > 0 {}
        match self.status(self.timeout) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(FilterError::Ended {
                command: self.command.clone(),
                how: how(status),
                when: "",
            }),
            None => Err(self.fail(self.closed("output"))),
        }
    }

    fn greet(&mut self) -> Result<(), FilterError> {
        if let Some(input) = &mut self.input {
            // An empty pipe takes a line at once. What failed here is told by what follows: a program
            // that is no filter has often written its complaint and ended.
            let _told_below = input.write_all(format!("{HELLO} {}\n", self.direction).as_bytes());
        }
        let mut deadline = self.deadline();
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            // byte by byte: what follows is nobody's yet
            let mut byte = [0];
            self.wait(false, deadline)?;
            match self.output.read(&mut byte) {
                Ok(0) => return Err(self.ended("output")),
                Ok(_) => line.push(byte[0]),
                Err(e) if again(&e) => continue,
                Err(source) => return Err(self.pipe(source)),
            }
            deadline = self.deadline();
            if line.len() > HELLO.len() + 1 {
                break;
            }
        }
        if line.strip_suffix(b"\n") == Some(HELLO.as_bytes()) {
            return Ok(());
        }
        let got = String::from_utf8_lossy(&line).trim_end().escape_debug().to_string();
        Err(FilterError::Hello { command: self.command.clone(), got })
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<(), FilterError> {
        let mut deadline = self.deadline();
        while !bytes.is_empty() {
            let sent = self.step(bytes, &mut deadline)?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Waits until something moves, reads what there is and writes of `bytes` what goes. Never waits
    /// for one pipe alone while the other could be full: that is how two programs wait for each
    /// other for ever.
    fn step(&mut self, bytes: &[u8], deadline: &mut Instant) -> Result<usize, FilterError> {
        let (readable, writable) = self.wait(!bytes.is_empty(), *deadline)?;
        if readable && self.read_some(deadline)? == 0 {
            return Err(self.ended("output"));
        }
        let Some(input) = self.input.as_mut().filter(|_| writable) else { return Ok(0) };
        match input.write(bytes) {
            Ok(sent) => Ok(sent),
            Err(e) if again(&e) => Ok(0),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(self.ended("input")),
            Err(source) => Err(self.pipe(source)),
        }
    }

    /// Waits until output can be read or, if asked for, input be written: which of them.
    fn wait(&self, to_write: bool, deadline: Instant) -> Result<(bool, bool), FilterError> {
        loop {
            let mut fds = vec![PollFd::new(self.output.as_fd(), PollFlags::POLLIN)];
            if let Some(input) = self.input.as_ref().filter(|_| to_write) {
                fds.push(PollFd::new(input.as_fd(), PollFlags::POLLOUT));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // a millisecond more than what is left, lest the last part of one be spent in a loop
            let left = left.saturating_add(Duration::from_millis(1));
            match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(0) if Instant::now() >= deadline => {
                    let seconds = self.timeout.as_secs_f64();
                    return Err(FilterError::Hangs { command: self.command.clone(), seconds });
                }
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => {
                    let any = |fd: Option<&PollFd>| fd.and_then(PollFd::any).unwrap_or(false);
                    return Ok((any(fds.first()), any(fds.get(1))));
                }
                Err(e) => return Err(self.pipe(e.into())),
            }
        }
    }

    /// Reads once, and takes answers out of what came; 0 at the end. Waits if there is nothing.
    fn read_some(&mut self, deadline: &mut Instant) -> Result<usize, FilterError> {
        let mut part = [0; 65536];
        loop {
            match self.output.read(&mut part) {
                Ok(len) => {
                    if self.feed(&part[..len])? {
                        *deadline = self.deadline();
                    }
                    return Ok(len);
                }
                Err(e) if again(&e) => {
                    self.wait(false, *deadline)?;
                }
                Err(source) => return Err(self.pipe(source)),
            }
        }
    }

    /// Takes answers out of `part`. Was one completed?
    fn feed(&mut self, mut part: &[u8]) -> Result<bool, FilterError> {
        let mut completed = false;
        while !part.is_empty() {
            let Some(&most) = self.asked.front() else {
                return Err(FilterError::Unasked { command: self.command.clone() });
            };
            let missing = part.len().min(4 - self.head.len());
            self.head.extend_from_slice(&part[..missing]);
            part = &part[missing..];
            let Ok(head) = <[u8; 4]>::try_from(&self.head[..]) else { break };
            let len = u32::from_le_bytes(head) as usize;
            let rule = match self.direction {
                Direction::Pack if len > most => Some("the most"),
                Direction::Unpack if len != most => Some("expected"),
                _ => None,
            };
            if let Some(rule) = rule {
                return Err(FilterError::Length { command: self.command.clone(), len, most, rule });
            }
            self.body.reserve_exact(len - self.body.len());
            let taken = part.len().min(len - self.body.len());
            self.body.extend_from_slice(&part[..taken]);
            part = &part[taken..];
            if self.body.len() == len {
                self.asked.pop_front();
                self.head.clear();
                self.ready.push_back(std::mem::take(&mut self.body));
                completed = true;
            }
        }
        Ok(completed)
    }

    /// What it is that the other end of a pipe is closed: it ended, or should have.
    fn ended(&mut self, which: &'static str) -> FilterError {
        match self.status(END_TIMEOUT.min(self.timeout)) {
            Some(status) => FilterError::Ended {
                command: self.command.clone(),
                how: how(status),
                when: " before all was done",
            },
            None => self.closed(which),
        }
    }

    fn closed(&self, which: &'static str) -> FilterError {
        FilterError::Closed { command: self.command.clone(), which }
    }

    /// Its status; `None` where it does not end within `timeout`.
    fn status(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        let mut pause = Duration::from_micros(100);
        while !self.has_ended() {
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        self.reap()
    }

    /// Has it ended? It stays a zombie, whose number no other group can get.
    fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(
            waitid(Id::Pid(self.pid()), flags),
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR)
        )
    }

    /// Kills what is left of the group, and takes the status. A process that has given up its rights
    /// since may not kill it: then nobody waits, and the filter finds its input at its end.
    fn reap(&mut self) -> Option<ExitStatus> {
        if !self.reaped {
            let killed = matches!(killpg(self.pid(), Signal::SIGKILL), Ok(()) | Err(Errno::ESRCH));
            if !killed && !self.has_ended() {
                return None;
            }
            self.reaped = true;
        }
        self.child.wait().ok()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn fail(&mut self, error: FilterError) -> FilterError {
        self.failed = true;
        self.input = None;
        self.reap();
        error
    }

    fn alive(&self) -> Result<(), FilterError> {
        if self.failed {
            return Err(FilterError::Gone { command: self.command.clone() });
        }
        Ok(())
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    fn pipe(&self, source: io::Error) -> FilterError {
        FilterError::Pipe { command: self.command.clone(), source }
    }

    fn no_wait(&self, fd: &impl AsFd) -> Result<(), FilterError> {
        let set = FcntlArg::F_SETFL(OFlag::O_NONBLOCK); // a pipe has no other flag to lose
        fcntl(fd, set).map(drop).map_err(|e| self.pipe(e.into()))
    }
}

impl Drop for ExecFilter {
    fn drop(&mut self) {
        self.reap();
    }
}

fn again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A filter as a codec: one request at a time, whoever asks. A prefix is of no use to it.
#[derive(Debug)]
pub struct ExecCodec {
    filter: Mutex<ExecFilter>,
    direction: Direction,
}

impl ExecCodec {
    /// Around a filter that runs.
    pub fn new(filter: ExecFilter) -> Self {
        Self { direction: filter.direction(), filter: Mutex::new(filter) }
    }

    /// Ends the filter.
    ///
    /// # Errors
    /// As [`ExecFilter::finish`].
    pub fn finish(self) -> Result<(), FilterError> {
        self.filter.into_inner().unwrap_or_else(PoisonError::into_inner).finish()
    }

    fn ask(
        &self,
        direction: Direction,
        bytes: &[u8],
        most: usize,
        out: &mut Vec<u8>,
    ) -> Result<bool, CodecError> {
        if self.direction != direction {
            let why = format!("it was started to {} and is asked to {direction}", self.direction);
            return Err(CodecError::Failed { codec: "exec", why });
        }
        let mut filter = self.filter.lock().unwrap_or_else(PoisonError::into_inner);
        filter.ask(bytes, most, out).map_err(|e| CodecError::External(Box::new(e)))
    }
}

impl Codec for ExecCodec {
    fn name(&self) -> &'static str {
        "exec"
    }

    fn pack(
        &self,
        pages: &[u8],
        _prefix: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Result<bool, CodecError> {
        out.clear();
        check("exec", pages.len(), None)?;
        let smaller =
            self.ask(Direction::Pack, pages, pages.len(), out)? && out.len() < pages.len();
        if !smaller {
            out.clear();
        }
        Ok(smaller)
    }

    fn unpack(
        &self,
        packed: &[u8],
        _prefix: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), CodecError> {
        check("exec", out.len(), None)?;
        if packed.is_empty() || packed.len() > MOST {
            let why = format!("{} bytes are no packed chunk", packed.len());
            return Err(CodecError::Damaged { codec: "exec", why });
        }
        let mut pages = Vec::new();
        self.ask(Direction::Unpack, packed, out.len(), &mut pages)?;
        out.copy_from_slice(&pages); // of this length, or `feed` had refused it
        Ok(())
    }
}
