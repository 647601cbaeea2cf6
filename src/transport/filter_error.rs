//! What an external filter can do wrong, in words that name it.

use nix::sys::signal::Signal;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// The line that a filter answers with.
pub(super) const HELLO: &str = "pageherd-filter 1";

/// What a filter did that it must not. Each message names the command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// No process could be made.
    #[error("the filter '{command}' cannot be started")]
    Start {
        /// As it was given.
        command: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It ended, and should not have, or not like this.
    #[error("the filter '{command}' ended with {how}{when}")]
    Ended {
        /// As it was given.
        command: String,
        /// Its status.
        how: String,
        /// What was still to be done.
        when: &'static str,
    },
    /// It lives and no longer talks.
    #[error("the filter '{command}' closed its standard {which} and did not end")]
    Closed {
        /// As it was given.
        command: String,
        /// `input` or `output`.
        which: &'static str,
    },
    /// No answer in time.
    #[error(
        "the filter '{command}' gave no answer for {seconds:.1} s: it hangs, or does not flush its answers"
    )]
    Hangs {
        /// As it was given.
        command: String,
        /// How long was waited.
        seconds: f64,
    },
    /// Its first line is another.
    #[error(
        "the filter '{command}' began with '{got}' instead of the line '{HELLO}': it does not speak the protocol of filters"
    )]
    Hello {
        /// As it was given.
        command: String,
        /// What it said, printable and cut.
        got: String,
    },
    /// An answer of a length that cannot be.
    #[error("the filter '{command}' announced an answer of {len} bytes where {most} are {rule}")]
    Length {
        /// As it was given.
        command: String,
        /// The length that it announced.
        len: usize,
        /// What was asked for.
        most: usize,
        /// How `most` is meant.
        rule: &'static str,
    },
    /// An answer to nothing.
    #[error("the filter '{command}' wrote what nobody asked for")]
    Unasked {
        /// As it was given.
        command: String,
    },
    /// A pipe failed.
    #[error("the pipes of the filter '{command}' failed")]
    Pipe {
        /// As it was given.
        command: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A request after it failed.
    #[error("the filter '{command}' failed before")]
    Gone {
        /// As it was given.
        command: String,
    },
    /// The caller breaks a rule of [`ExecFilter::submit`](super::filter_exec::ExecFilter::submit).
    #[error("the filter '{command}' was asked wrongly: {why}")]
    Misused {
        /// As it was given.
        command: String,
        /// How.
        why: &'static str,
    },
}

/// A status in words.
pub(super) fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(126), _) => "status 126, by which the shell says that it may not run it".into(),
        (Some(127), _) => {
            "status 127, by which the shell says that there is no such program".into()
        }
        (Some(code), _) => format!("status {code}"),
        (_, Some(signal)) => match Signal::try_from(signal) {
            Ok(name) => format!("signal {signal} ({name})"),
            Err(_) => format!("signal {signal}"),
        },
        _ => status.to_string(),
    }
}
