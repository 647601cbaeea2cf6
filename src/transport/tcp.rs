//! `tcp:HOST:PORT`: clear text, so between processes of one host, unless the user takes the risk.

use super::plain::Plain;
use super::{Channel, Options, TransportError};
use crate::base::address::Address;
use crate::sys::socket::keep_alive;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;

/// Connects to `at`, which `address` spells.
pub(super) fn connect(
    address: &Address,
    at: (&str, u16),
    options: &Options,
) -> Result<Channel, TransportError> {
    dial(address, at, options, options.insecure).map(Channel::of_socket)
}

/// Waits for the next connection.
pub(super) fn accept(listener: &TcpListener, options: &Options) -> Result<Channel, TransportError> {
    next(listener, "tcp", options).map(Channel::of_socket)
}

/// A connection to any of the addresses of a host; to other hosts only if `anywhere`.
pub(super) fn dial(
    address: &Address,
    at: (&str, u16),
    options: &Options,
    anywhere: bool,
) -> Result<Plain, TransportError> {
    let what = address.to_string();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for to in resolve(&what, at, anywhere)? {
        match TcpStream::connect_timeout(&to, options.connect_timeout) {
            Ok(stream) => return prepare(stream, &what, options),
            Err(error) => last = error,
        }
    }
    // no peer was there yet that could be gone
    Err(TransportError::Io { what, doing: "connect", source: last })
}

/// Listens at `at`, and says where that is; open to other hosts only if `anywhere`.
pub(super) fn bind(
    address: &Address,
    at: (&str, u16),
    anywhere: bool,
) -> Result<(TcpListener, SocketAddr), TransportError> {
    let what = address.to_string();
    let all = resolve(&what, at, anywhere)?;
    let listener = TcpListener::bind(&*all);
    listener
        .and_then(|listener| listener.local_addr().map(|at| (listener, at)))
        .map_err(|e| TransportError::of(&what, "listen there", e))
}

/// The next connection of a listener; one that is given up before we take it is passed over.
pub(super) fn next(
    listener: &TcpListener,
    kind: &str,
    options: &Options,
) -> Result<Plain, TransportError> {
    loop {
        match listener.accept() {
            Ok((stream, from)) => return prepare(stream, &format!("{kind}:{from}"), options),
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(TransportError::of(kind, "take a connection", error)),
        }
    }
}

fn prepare(stream: TcpStream, what: &str, options: &Options) -> Result<Plain, TransportError> {
    stream
        .set_nodelay(true) // answers are short, and somebody waits for each
        .and_then(|()| keep_alive(stream.as_fd()))
        .map_err(|e| TransportError::of(what, "set its options", e))?;
    Plain::new(stream, what, options)
}

/// The addresses of a host, all of which must be this host's own unless `anywhere`: a name that
/// means both would be a matter of luck. What was checked is what is then used.
fn resolve(what: &str, at: (&str, u16), anywhere: bool) -> Result<Vec<SocketAddr>, TransportError> {
    let found = at.to_socket_addrs();
    let found = found.map_err(|e| TransportError::of(what, "find the address of the host", e))?;
    let found: Vec<SocketAddr> = found.collect();
    // ::ffff:127.0.0.1 is 127.0.0.1
    match found.iter().find(|at| !anywhere && !at.ip().to_canonical().is_loopback()) {
        None => Ok(found),
        Some(at) => Err(TransportError::Refused {
            what: what.into(),
            why: format!(
                "{} is not this host alone, and tcp: carries memory in clear text to and from whoever connects: use tls:, or exec:ssh, or --insecure on a network that you trust",
                at.ip()
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Listener, connect, listen};
    use super::*;
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::thread;
    use std::time::Duration;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn pair(options: &Options) -> (Channel, Channel) {
        let mut listener = listen(&address("tcp:127.0.0.1:0"), options).unwrap();
        let ours = connect(listener.local(), options).unwrap();
        (ours, listener.accept().unwrap())
    }

    #[test]
    fn two_ends_talk_over_both_families() {
        for host in ["127.0.0.1", "[::1]", "localhost"] {
            let opened = listen(&address(&format!("tcp:{host}:0")), &Options::default());
            let mut listener: Listener = match opened {
                Err(TransportError::Io { .. }) if host == "[::1]" => continue, // no IPv6 here
                opened => opened.unwrap(),
            };
            let at = listener.local().clone();
            let peer = thread::spawn(move || {
                let mut channel = connect(&at, &Options::default()).unwrap();
                channel.output.as_mut().unwrap().write_all(b"question").unwrap();
                let mut answer = [0; 6];
                channel.input.as_mut().unwrap().read_exact(&mut answer).unwrap();
                channel.finish().unwrap();
                answer
            });
            let mut channel = listener.accept().unwrap();
            assert!(channel.two_way && !channel.is_file);
            let mut question = [0; 8];
            for byte in question.chunks_mut(1) {
                channel.input.as_mut().unwrap().read_exact(byte).unwrap();
            }
            assert_eq!(&question, b"question");
            channel.output.as_mut().unwrap().write_all(b"answer").unwrap();
            channel.finish().unwrap();
            assert_eq!(&peer.join().unwrap(), b"answer");
        }
    }

    #[test]
    fn clear_text_stays_on_this_host() {
        for text in ["tcp:0.0.0.0:0", "tcp:[::]:0", "tcp:192.0.2.1:9", "tcp:[::ffff:192.0.2.1]:9"] {
            for opened in [
                listen(&address(text), &Options::default()).map(drop),
                connect(&address(text), &Options::default()).map(drop),
            ] {
                let error = opened.unwrap_err();
                assert!(matches!(error, TransportError::Refused { .. }), "{text}");
                let text = error.to_string();
                assert!(text.contains("tls:") && text.contains("--insecure"), "{text}");
            }
        }
        let insecure = Options { insecure: true, ..Options::default() };
        listen(&address("tcp:0.0.0.0:0"), &insecure).unwrap();
        listen(&address("tcp:[::ffff:127.0.0.1]:0"), &Options::default()).unwrap();
    }

    #[test]
    fn a_port_without_a_listener_and_a_port_in_use_are_named() {
        let listener = listen(&address("tcp:127.0.0.1:0"), &Options::default()).unwrap();
        let at = listener.local().clone();
        let error = listen(&at, &Options::default()).unwrap_err();
        assert!(error.to_string().contains("cannot listen"), "{error}");
        drop(listener);
        let error = connect(&at, &Options::default()).unwrap_err();
        assert!(error.to_string().contains("cannot connect"), "{error}");
    }

    #[test]
    fn a_silent_peer_is_stalled_in_both_directions() {
        let stall_timeout = Some(Duration::from_millis(40));
        let (mut ours, _theirs) = pair(&Options { stall_timeout, ..Options::default() });
        let error = ours.input.as_mut().unwrap().read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let output = ours.output.as_mut().unwrap();
        let error = loop {
            if let Err(error) = output.write_all(&vec![0; 1 << 20]) {
                break TransportError::of("?", "write", error);
            }
        };
        assert!(matches!(&error, TransportError::Stalled { .. }), "{error}");
        assert!(error.to_string().contains("0.04 s"), "{error}");
    }

    #[test]
    fn a_peer_that_closes_is_gone_and_its_answer_can_be_read() {
        let (mut sender, mut receiver) = pair(&Options::default());
        sender.output.as_mut().unwrap().write_all(&[0; 1000]).unwrap();
        assert!(!sender.answered());
        receiver.output.as_mut().unwrap().write_all(b"no").unwrap();
        drop(receiver); // with bytes that it has not read: the connection is reset
        let output = sender.output.as_mut().unwrap();
        let error = loop {
            if let Err(error) = output.write_all(&[0; 1 << 16]) {
                break TransportError::of("?", "write", error);
            }
        };
        assert!(matches!(error, TransportError::PeerGone { .. }), "{error}");
        assert!(sender.answered());
        let mut answer = [0; 2];
        sender.input.as_mut().unwrap().read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"no");
    }

    #[test]
    fn a_refusal_in_the_middle_arrives() {
        let (mut sender, mut receiver) = pair(&Options::default());
        let refuse = thread::spawn(move || {
            receiver.input.as_mut().unwrap().read_exact(&mut [0; 100]).unwrap();
            receiver.output.as_mut().unwrap().write_all(b"no").unwrap();
            receiver.finish().unwrap();
        });
        while !sender.answered() {
            if sender.output.as_mut().unwrap().write_all(&[0; 1 << 16]).is_err() {
                break;
            }
        }
        let mut answer = String::new();
        sender.input.as_mut().unwrap().read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "no");
        drop(sender);
        refuse.join().unwrap();
    }

    #[test]
    fn the_end_of_writing_is_seen_before_the_channel_is_closed() {
        let (sender, _receiver) = pair(&Options::default());
        let stream = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(stream.local_addr().unwrap()).unwrap();
        let mut served = next(&stream, "tcp", &Options::default()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(served.read(&mut [0]).unwrap(), 0);
        drop(sender);
    }
}
