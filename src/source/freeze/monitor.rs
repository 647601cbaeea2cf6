//! A connection to a QEMU's QMP socket: asks, and waits no longer than it is told to.

use crate::qemu::qmp::{self, Message, QmpError, Reader, Status};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Most bytes that are read while one answer is waited for: a guest in trouble may send events
/// without end.
const MAX_TALK: usize = 16 << 20;

/// How long a QEMU may take to greet, and for answers that need no work: its main loop answers
/// within a millisecond, and within some tens on a busy host.
pub(super) const PROMPT: Duration = Duration::from_secs(2);

/// Why a QMP socket is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// It cannot be connected to.
    #[error("it cannot be connected to")]
    Connect(#[source] io::Error),
    /// As many wait there as may.
    #[error("it has a client, and more that wait: QEMU serves one at a time")]
    Full,
    /// Another process serves it.
    #[error("process {0} serves it")]
    Stranger(i32),
    /// It does not answer.
    #[error("it did not answer '{command}' within {seconds} s")]
    Silent {
        /// What it was asked.
        command: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
    /// It does not greet, as happens where another client is connected: QEMU serves one at a time.
    #[error("it did not greet within {} s: another client, such as libvirt, may be connected to it", PROMPT.as_secs())]
    Taken,
    /// It refuses.
    #[error("it refuses '{command}': {words}")]
    Refused {
        /// What it was asked.
        command: &'static str,
        /// QEMU's words.
        words: String,
    },
    /// It is closed.
    #[error("it was closed")]
    Closed,
    /// It does not speak QMP.
    #[error("it does not speak QMP")]
    Language(#[source] QmpError),
    /// It answers otherwise than a QEMU does.
    #[error("it does not answer '{0}' as QEMU does")]
    Nonsense(&'static str),
    /// Reading or writing failed.
    #[error("it cannot be talked to")]
    Io(#[source] io::Error),
}

/// A connection.
#[derive(Debug)]
pub(super) struct Monitor {
    stream: UnixStream,
    reader: Reader,
    asked: u32,
    prefix: &'static str,
    resumed: bool,
}

impl Monitor {
    /// Connects to the socket at `path`, which process `pid` is to serve, and is greeted.
    pub(super) fn open(path: &Path, pid: i32) -> Result<Self, MonitorError> {
        // not blocking: the kernel has a connection wait where too many are in the queue (a QEMU's
        // has room for one)
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let failed = |e: Errno| MonitorError::Connect(e.into());
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed)?;
        let address = UnixAddr::new(path).map_err(failed)?;
        connect(fd.as_raw_fd(), &address).map_err(|e| match e {
            Errno::EAGAIN => MonitorError::Full,
            other => failed(other),
        })?;
        // who listens, as the kernel knows it: a name may have been taken over by another QEMU
        let peer = getsockopt(&fd, PeerCredentials).map_err(failed)?;
        if peer.pid() != pid {
            return Err(MonitorError::Stranger(peer.pid()));
        }
        let mut monitor = Self::over(fd, "pageherd");
        let end = Instant::now() + PROMPT;
        loop {
            match monitor.hear(end)? {
                None => return Err(MonitorError::Taken),
                Some(Message::Greeting) => break,
                Some(_) => {}
            }
        }
        monitor.ask("qmp_capabilities", PROMPT)?;
        Ok(monitor)
    }

    /// Goes on with a connection that another process opened. Answers to commands that it had asked
    /// may still come: `prefix` tells ours from them.
    pub(super) fn over(fd: OwnedFd, prefix: &'static str) -> Self {
        let (reader, asked) = (Reader::default(), 0);
        Self { stream: UnixStream::from(fd), reader, asked, prefix, resumed: false }
    }

    /// Asks, and waits for the answer.
    pub(super) fn ask(
        &mut self,
        command: &'static str,
        most: Duration,
    ) -> Result<Value, MonitorError> {
        self.asked += 1;
        let mine = format!("{}-{}", self.prefix, self.asked);
        self.stream.write_all(&qmp::command(command, &mine)).map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => MonitorError::Closed,
            // it has not read for so long that not even this goes in
            io::ErrorKind::WouldBlock => MonitorError::Silent { command, seconds: 0 },
            _ => MonitorError::Io(e),
        })?;
        let end = Instant::now() + most;
        loop {
            match self.hear(end)? {
                Some(Message::Return { id, value }) if id.as_ref() == Some(&mine) => {
                    return Ok(value);
                }
                Some(Message::Error { id, words }) if id.as_ref() == Some(&mine) => {
                    return Err(MonitorError::Refused { command, words });
                }
                Some(_) => {}
                None => return Err(MonitorError::Silent { command, seconds: most.as_secs() }),
            }
        }
    }

    /// Does the guest run?
    pub(super) fn status(&mut self) -> Result<Status, MonitorError> {
        let value = self.ask("query-status", PROMPT)?;
        Status::parse(&value).ok_or(MonitorError::Nonsense("query-status"))
    }

    /// Has the guest run again since [`Self::stopped`]? Tells of every moment, as far as QEMU's
    /// events came; asks for the state now, too.
    pub(super) fn has_run(&mut self) -> Result<bool, MonitorError> {
        let status = self.status()?;
        Ok(status.running || self.resumed)
    }

    /// The guest stands from now on: what it did before does not count.
    pub(super) const fn stopped(&mut self) {
        self.resumed = false;
    }

    /// The next message; `None` where there is none until `end`.
    fn hear(&mut self, end: Instant) -> Result<Option<Message>, MonitorError> {
        let mut taken = 0;
        loop {
            if let Some(message) = self.reader.next_message().map_err(MonitorError::Language)? {
                self.resumed |= message == Message::Event("RESUME".to_owned());
                return Ok(Some(message));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || taken > MAX_TALK {
                return Ok(None);
            }
            // one millisecond more than is left, since poll rounds down
            let wait = PollTimeout::try_from(left + Duration::from_millis(1));
            let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, wait.unwrap_or(PollTimeout::MAX)) {
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(e) => return Err(MonitorError::Io(e.into())),
            }
            let mut bytes = [0; 16 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(MonitorError::Closed),
                Ok(n) => {
                    taken += n;
                    self.reader.feed(&bytes[..n]);
                }
                Err(e) => match e.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                    io::ErrorKind::ConnectionReset => return Err(MonitorError::Closed),
                    _ => return Err(MonitorError::Io(e)),
                },
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;
    use std::thread;

    const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";

    fn own_pid() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    /// Serves one client: says `first`, then answers each command with what `answer` makes of it.
    fn serve(
        first: &'static str,
        answer: impl Fn(&str) -> String + Send + 'static,
    ) -> (tempfile::TempDir, thread::JoinHandle<()>) {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("qmp")).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(first.as_bytes());
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                let Ok(line) = line else { break };
                let said: Value = serde_json::from_str(&line).unwrap();
                let id = said["id"].as_str().unwrap();
                let text = answer(said["execute"].as_str().unwrap()).replace("ID", id);
                if text.is_empty() || stream.write_all(text.as_bytes()).is_err() {
                    break;
                }
            }
        });
        (folder, server)
    }

    fn open(folder: &tempfile::TempDir) -> Result<Monitor, MonitorError> {
        Monitor::open(&folder.path().join("qmp"), own_pid())
    }

    #[test]
    fn a_guest_that_ran_in_between_is_noticed() {
        let resume = "{\"event\": \"RESUME\"}\n{\"event\": \"STOP\"}\n";
        let done = "{\"return\": {\"running\": false, \"status\": \"paused\"}, \"id\": \"ID\"}\n";
        let (folder, server) = serve(GREETING, move |command| match command {
            "query-status" => format!("{resume}{done}"),
            _ => "{\"return\": {}, \"id\": \"ID\"}\n".to_owned(),
        });
        let mut monitor = open(&folder).unwrap();
        assert!(monitor.status().unwrap().stands());
        assert!(monitor.has_run().unwrap());
        drop(monitor);
        server.join().unwrap();
    }

    #[test]
    fn answers_to_others_do_not_count_and_refusals_are_told() {
        let (folder, server) = serve(GREETING, |command| {
            match command {
            "stop" => "{\"return\": {}, \"id\": \"x\"}\n{\"return\": {}}\n{\"error\": {\"desc\": \"no\"}, \"id\": \"ID\"}\n".to_owned(),
            "cont" => String::new(),
            _ => "{\"return\": {}, \"id\": \"ID\"}\n".to_owned(),
        }
        });
        let mut monitor = open(&folder).unwrap();
        let error = monitor.ask("stop", PROMPT).unwrap_err();
        assert_eq!(error.to_string(), "it refuses 'stop': no");
        assert!(matches!(monitor.status(), Err(MonitorError::Nonsense(_))));
        assert!(matches!(monitor.ask("cont", PROMPT), Err(MonitorError::Closed)));
        server.join().unwrap();
    }

    #[test]
    fn a_silent_a_foreign_and_a_missing_socket_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(open(&folder), Err(MonitorError::Connect(_))));
        let _listener = UnixListener::bind(folder.path().join("qmp")).unwrap();
        let begin = Instant::now();
        assert!(matches!(open(&folder), Err(MonitorError::Taken)));
        assert!(begin.elapsed() < PROMPT + Duration::from_secs(1));
        let other = Monitor::open(&folder.path().join("qmp"), 1).unwrap_err();
        assert!(matches!(other, MonitorError::Stranger(pid) if pid == own_pid()));
        let long = folder.path().join("x".repeat(200));
        assert!(matches!(Monitor::open(&long, 1), Err(MonitorError::Connect(_))));
    }

    #[test]
    fn noise_without_end_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("qmp")).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(&[b'{'; 4096]).is_ok() {}
        });
        assert!(matches!(open(&folder), Err(MonitorError::Language(_))));
        server.join().unwrap();
    }
}
