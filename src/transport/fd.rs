//! `fd:N`: a descriptor that the command was started with, by a shell (`3>pipe`) or by QEMU.

use super::plain::{Medium, Plain};
use super::{Channel, Options, Role, TransportError};
use crate::sys::fd::{access, adopt};
use std::io;
use std::os::fd::AsFd;

/// Takes descriptor `number` over. A socket has both ways, all else the one that it is opened for.
pub(super) fn open(number: i32, role: Role, options: &Options) -> Result<Channel, TransportError> {
    let what = format!("fd:{number}");
    let refused = |why: String| TransportError::Refused { what: what.clone(), why };
    let fd = adopt(number).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => refused(error.to_string()),
        _ => TransportError::of(&what, "take it over (is it open in the command's shell?)", error),
    })?;
    let mode = access(fd.as_fd()).map_err(|e| TransportError::of(&what, "look at it", e))?;
    let plain = Plain::new(fd, &what, options)?;
    match role {
        _ if plain.medium == Medium::Socket => Ok(Channel::of_socket(plain)),
        Role::Sender if mode.write => Ok(Channel::of_plain(None, Some(plain.clone()), plain)),
        Role::Receiver if mode.read => Ok(Channel::of_plain(Some(plain.clone()), None, plain)),
        Role::Sender => Err(refused(format!(
            "it is opened for reading only, and a sender writes: open it as {number}>FILE"
        ))),
        Role::Receiver => Err(refused(format!(
            "it is opened for writing only, and a receiver reads: open it as {number}<FILE"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::{IntoRawFd, OwnedFd};
    use std::os::unix::net::UnixStream;

    /// As if this process had been started with `fd`.
    fn inherited(fd: impl Into<OwnedFd>) -> i32 {
        nix::unistd::dup(fd.into()).unwrap().into_raw_fd()
    }

    #[test]
    fn a_pipe_goes_the_way_that_it_is_opened() {
        let options = Options::default();
        let (mut read, write) = io::pipe().unwrap();
        let mut channel = open(inherited(write), Role::Sender, &options).unwrap();
        assert!(channel.input.is_none() && !channel.two_way && !channel.is_file);
        channel.output.as_mut().unwrap().write_all(b"x").unwrap();
        channel.finish().unwrap();
        let mut got = Vec::new();
        read.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"x", "and the end is seen, because no copy stays open");

        let (read, _write) = io::pipe().unwrap();
        let number = inherited(read);
        let error = open(number, Role::Sender, &options).unwrap_err();
        assert!(matches!(error, TransportError::Refused { .. }), "{error}");
    }

    #[test]
    fn a_socket_has_both_ways_and_a_closed_number_is_named() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut channel = open(inherited(ours), Role::Receiver, &Options::default()).unwrap();
        assert!(channel.two_way);
        theirs.write_all(b"hello").unwrap();
        let mut got = [0; 5];
        channel.input.as_mut().unwrap().read_exact(&mut got).unwrap();
        channel.output.as_mut().unwrap().write_all(&got).unwrap();
        theirs.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");

        let error = open(1 << 20, Role::Sender, &Options::default()).unwrap_err();
        assert!(matches!(&error, TransportError::Io { what, .. } if what == "fd:1048576"));
    }

    #[test]
    fn sockets_that_carry_no_stream_are_refused() {
        let (datagram, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        for number in [inherited(datagram), inherited(listener)] {
            let error = open(number, Role::Sender, &Options::default()).unwrap_err();
            assert!(matches!(error, TransportError::Refused { .. }), "{error}");
        }
    }
}
