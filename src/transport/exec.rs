//! `exec:CMD`: a command line for the shell, its standard input and output connected, so that
//! `exec:ssh host mig-recv` has both ways. It gets no other descriptor. It stays in our process
//! group, so that ^C reaches it; if we die it sees the end of its input.

use super::plain::Plain;
use super::{Channel, End, Options, Source, TransportError};
use crate::sys::spawn::three_descriptors;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a command may take to end by itself when it is given up.
const GRACE: Duration = Duration::from_secs(1);

/// How much of what a command still says at its end is taken, so that it does not fail by a closed
/// pipe for a last word.
const LAST_WORDS: usize = 1 << 16;

/// Starts `command`. Its errors go where ours go.
pub(super) fn open(command: &str, options: &Options) -> Result<Channel, TransportError> {
    let what = format!("exec:{command}");
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = three_descriptors(&mut shell)
        .and_then(Command::spawn)
        .map_err(|e| TransportError::of(&what, "start it", e))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    // from here on the child is ended if anything fails
    let end = Running { child, command: command.into(), stall: options.stall_timeout };
    let plain = |fd: Option<OwnedFd>| fd.map(|fd| Plain::new(fd, &what, options)).transpose();
    let output = plain(stdin.map(OwnedFd::from))?;
    let input = plain(stdout.map(OwnedFd::from))?;
    Ok(Channel {
        input: input.map(|input| Box::new(input) as _),
        output: output.map(|output| Box::new(output) as _),
        two_way: true,
        is_file: false,
        strict: true,
        what,
        end: Box::new(end),
    })
}

/// A command that is ended when this is dropped.
struct Running {
    child: Child,
    command: String,
    stall: Option<Duration>,
}

impl Running {
    /// Waits for the end; `None` after `limit`.
    fn wait(
        &mut self,
        limit: Option<Duration>,
        mut input: Option<Box<dyn Source>>,
    ) -> Result<Option<ExitStatus>, TransportError> {
        let what = format!("exec:{}", self.command);
        let start = Instant::now();
        let (mut taken, mut pause) = (0, Duration::from_millis(1));
        let mut waste = [0; 4096];
        loop {
            let ended = self.child.try_wait();
            if let Some(status) = ended.map_err(|e| TransportError::of(&what, "wait for it", e))? {
                return Ok(Some(status));
            }
            let said = input
                .as_mut()
                .and_then(|open| if open.ready() { Some(open.read(&mut waste)) } else { None });
            match said {
                None => {}
                Some(Ok(bytes)) if bytes > 0 && taken < LAST_WORDS => {
                    taken += bytes;
                    continue;
                }
                Some(_) => input = None,
            }
            if limit.is_some_and(|limit| start.elapsed() >= limit) {
                return Ok(None);
            }
            // looked at again and again: a wait with a limit would need a handler for SIGCHLD
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    fn judge(&self, status: ExitStatus) -> Result<(), TransportError> {
        if status.success() {
            return Ok(());
        }
        Err(TransportError::Child { command: self.command.clone(), status })
    }
}

impl End for Running {
    fn finish(mut self: Box<Self>, input: Option<Box<dyn Source>>) -> Result<(), TransportError> {
        let limit = self.stall;
        match self.wait(limit, input)? {
            Some(status) => self.judge(status),
            None => Err(TransportError::Stalled {
                what: format!("exec:{}", self.command),
                after: limit.unwrap_or_default(),
            }),
        }
    }

    fn abort(mut self: Box<Self>) -> Result<(), TransportError> {
        match self.wait(Some(GRACE), None)? {
            Some(status) => self.judge(status),
            None => Ok(()), // dropped and so ended: that says nothing of the cause
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing is killed that has ended: try_wait has then kept its status, and kill() knows.
        if !matches!(self.wait(Some(GRACE), None), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn say(channel: &mut Channel, text: &str) {
        channel.output.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn hear(channel: &mut Channel) -> String {
        let mut text = String::new();
        channel.input.as_mut().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_command_hears_and_answers() {
        let mut channel = open("tr a-z A-Z", &Options::default()).unwrap();
        assert!(channel.two_way && !channel.answered());
        say(&mut channel, "hello");
        channel.output = None;
        assert_eq!(hear(&mut channel), "HELLO");
        channel.finish().unwrap();
    }

    #[test]
    fn a_command_gets_three_descriptors_and_dies_of_sigpipe() {
        // one without FD_CLOEXEC, as we may have been started with ourselves
        let _leak = nix::unistd::dup(std::fs::File::open("/dev/null").unwrap()).unwrap();
        let command = "ls -l /proc/self/fd; grep SigIgn /proc/self/status";
        let mut channel = open(command, &Options::default()).unwrap();
        let text = hear(&mut channel);
        channel.finish().unwrap();
        // ls has a fourth: the folder that it reads
        assert_eq!(text.lines().filter(|line| line.contains(" -> ")).count(), 4, "{text}");
        let mask = text.split("SigIgn:").nth(1).unwrap().trim();
        let mask = u64::from_str_radix(mask, 16).unwrap();
        assert_eq!(mask >> (libc::SIGPIPE - 1) & 1, 0, "{text}");
    }

    #[test]
    fn the_status_of_a_command_is_its_verdict() {
        let end = |command: &str| open(command, &Options::default()).unwrap().finish();
        end("true").unwrap();
        for (command, part) in [
            ("exit 3", "exit status: 3"),
            ("kill -9 $$", "SIGKILL"),
            ("/nonexistent/x 2>/dev/null", "is there such a program?"),
            ("cat >/dev/null; exit 9", "exec:cat >/dev/null; exit 9"),
        ] {
            let error = end(command).unwrap_err();
            assert!(matches!(error, TransportError::Child { .. }), "{command}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn a_last_word_is_no_failure_and_endless_talk_is_cut_off() {
        open("cat >/dev/null; echo done", &Options::default()).unwrap().finish().unwrap();
        let error = open("yes", &Options::default()).unwrap().finish().unwrap_err();
        // by SIGPIPE; some shells report that of a command as a status
        assert!(matches!(error, TransportError::Child { .. }), "{error}");
    }

    #[test]
    fn a_command_that_died_is_a_dead_peer_and_abort_tells_why() {
        let mut channel = open("head -c 1 >/dev/null; exit 5", &Options::default()).unwrap();
        let output = channel.output.as_mut().unwrap();
        let error = loop {
            if let Err(error) = output.write_all(&[0; 1 << 16]) {
                break TransportError::of("?", "write", error);
            }
        };
        assert!(matches!(error, TransportError::PeerGone { .. }), "{error}");
        let error = channel.abort().unwrap_err();
        assert!(error.to_string().contains("exit status: 5"), "{error}");
    }

    #[test]
    fn a_command_that_hangs_is_noticed_and_ended() {
        let options =
            Options { stall_timeout: Some(Duration::from_millis(50)), ..Options::default() };
        let mut channel = open("exec sleep 1000", &options).unwrap();
        let error = channel.input.as_mut().unwrap().read(&mut [0]).unwrap_err();
        assert!(matches!(TransportError::of("?", "read", error), TransportError::Stalled { .. }));
        let output = channel.output.as_mut().unwrap();
        let error = loop {
            if let Err(error) = output.write_all(&[0; 100_000]) {
                break error;
            }
        };
        assert!(matches!(TransportError::of("?", "write", error), TransportError::Stalled { .. }));
        assert!(matches!(channel.finish(), Err(TransportError::Stalled { .. })));
    }

    #[test]
    fn nothing_is_left_of_a_channel_that_is_dropped() {
        let mut channel = open("echo $$; exec sleep 1000", &Options::default()).unwrap();
        let mut line = [0; 32];
        let read = channel.input.as_mut().unwrap().read(&mut line).unwrap();
        let pid = std::str::from_utf8(&line[..read]).unwrap().trim();
        let proc = std::path::PathBuf::from(format!("/proc/{pid}"));
        assert!(proc.exists());
        drop(channel);
        assert!(!proc.exists());
    }
}
