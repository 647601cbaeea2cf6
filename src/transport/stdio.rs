//! `-`: the standard streams.
//!
//! A stream that is used is taken out of its place, and `/dev/null` put there: nothing else that
//! the program prints can get into the stream, and the peer sees its end when the channel ends and
//! not only when the process does.

use super::plain::{Medium, Plain};
use super::{Channel, Options, Role, TransportError};
use crate::sys::fd::{take_stdin, take_stdout};
use crate::sys::stdio::stdout_was_closed;
use std::io::{self, IsTerminal};

const IN: &str = "standard input";
const OUT: &str = "standard output";

/// Takes standard output for a sender, standard input for a receiver, both where the options say
/// so. One that is a socket is both by itself.
pub(super) fn open(role: Role, options: &Options) -> Result<Channel, TransportError> {
    match (options.stdio_both, role) {
        (true, _) => {
            let output = output(options)?;
            Ok(Channel::of_plain(Some(input(options)?), Some(output.clone()), output))
        }
        (false, Role::Sender) => {
            let stream = output(options)?;
            let back = (stream.medium == Medium::Socket).then(|| stream.clone());
            Ok(Channel::of_plain(back, Some(stream.clone()), stream))
        }
        (false, Role::Receiver) => {
            let stream = input(options)?;
            let back = (stream.medium == Medium::Socket).then(|| stream.clone());
            Ok(Channel::of_plain(Some(stream.clone()), back, stream))
        }
    }
}

fn input(options: &Options) -> Result<Plain, TransportError> {
    if io::stdin().is_terminal() {
        return Err(TransportError::Terminal { what: IN });
    }
    let taken = take_stdin().map_err(|e| TransportError::of(IN, "take it", e))?;
    Plain::new(taken, IN, options)
}

fn output(options: &Options) -> Result<Plain, TransportError> {
    if stdout_was_closed() {
        let source = io::Error::from_raw_os_error(libc::EBADF);
        return Err(TransportError::Io { what: OUT.into(), doing: "write", source });
    }
    if io::stdout().is_terminal() {
        return Err(TransportError::Terminal { what: OUT });
    }
    let taken = take_stdout().map_err(|e| TransportError::of(OUT, "take it", e))?;
    Plain::new(taken, OUT, options)
}
