//! Where a stream goes to or comes from, as the user writes it and as QEMU spells it: `KIND:VALUE`.
//!
//! One grammar for both ends. This file knows only the words; `transport` opens what they name.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// An address as written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// `-` or `stdio`: standard output of a sender, standard input of a receiver.
    Stdio,
    /// `exec:CMD`: a command line for the shell, connected by its standard input and output.
    Exec(String),
    /// `tcp:HOST:PORT`: in clear text.
    Tcp {
        /// Name or IP address; an IPv6 address is held without its brackets.
        host: String,
        /// Port; 0 lets a listener have any that is free.
        port: u16,
    },
    /// `tls:HOST:PORT`: encrypted, and both ends prove who they are.
    Tls {
        /// Name or IP address; an IPv6 address is held without its brackets.
        host: String,
        /// Port; 0 lets a listener have any that is free.
        port: u16,
    },
    /// `unix:PATH`: a socket in the file system.
    Unix(PathBuf),
    /// `fd:N`: a descriptor that the command has been started with.
    Fd(i32),
    /// `file:PATH[,offset=N]`: a file, a named pipe or a device.
    File {
        /// Its path.
        path: PathBuf,
        /// In bytes. With an offset the file is written in place, from there on.
        offset: Option<u64>,
    },
}

/// The text is not an address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressError {
    /// No `KIND:`, or one that does not exist.
    #[error(
        "'{0}' is not an address: there are - (or stdio), exec:CMD, tcp:HOST:PORT, tls:HOST:PORT, unix:PATH, fd:N and file:PATH[,offset=N]"
    )]
    NoKind(String),
    /// A value that does not fit its kind.
    #[error("'{value}' is not {wanted}")]
    BadValue {
        /// The value.
        value: String,
        /// What would fit.
        wanted: &'static str,
    },
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if matches!(text, "-" | "stdio") {
            return Ok(Self::Stdio);
        }
        let no_kind = || AddressError::NoKind(text.to_owned());
        let (kind, value) = text.split_once(':').ok_or_else(no_kind)?;
        match kind {
            "exec" => Ok(Self::Exec(filled(value, "a command line, as in exec:CMD")?.to_owned())),
            "tcp" => endpoint(value).map(|(host, port)| Self::Tcp { host, port }),
            "tls" => endpoint(value).map(|(host, port)| Self::Tls { host, port }),
            "unix" => unix(value),
            "fd" => fd(value),
            "file" => file(value),
            _ => Err(no_kind()),
        }
    }
}

fn bad(value: &str, wanted: &'static str) -> AddressError {
    AddressError::BadValue { value: value.to_owned(), wanted }
}

fn filled<'a>(value: &'a str, wanted: &'static str) -> Result<&'a str, AddressError> {
    if value.is_empty() { Err(bad(value, wanted)) } else { Ok(value) }
}

/// `HOST:PORT`, the host in brackets where it has colons of its own.
fn endpoint(value: &str) -> Result<(String, u16), AddressError> {
    let wanted = "HOST:PORT, as in 10.0.0.1:4444 or [::1]:4444";
    let (host, port) = value.rsplit_once(':').ok_or_else(|| bad(value, wanted))?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match bracketed {
        // with a zone (%eth0) it is no Ipv6Addr, so only the characters are looked at
        Some(inner) if inner.contains(':') && !inner.contains(['[', ']']) => inner,
        None if !host.is_empty() && !host.contains([':', '[', ']']) => host,
        _ => return Err(bad(value, wanted)),
    };
    let port = decimal(port).and_then(|port| u16::try_from(port).ok());
    Ok((host.to_owned(), port.ok_or_else(|| bad(value, wanted))?))
}

fn unix(value: &str) -> Result<Address, AddressError> {
    // An abstract socket has no permissions: any local user could connect, or listen there first.
    if value.starts_with('@') {
        return Err(bad(
            value,
            "the path of a socket (abstract sockets are open to every user and not used; a file of that name is ./@NAME)",
        ));
    }
    Ok(Address::Unix(filled(value, "the path of a socket, as in unix:PATH")?.into()))
}

fn fd(value: &str) -> Result<Address, AddressError> {
    let number = decimal(value).and_then(|number| i32::try_from(number).ok());
    let wanted = "a descriptor from 3 on (descriptors 0 and 1 are written as -)";
    number.filter(|&n| n > 2).map(Address::Fd).ok_or_else(|| bad(value, wanted))
}

/// A path may have commas: only an `,offset=` at the end counts.
fn file(value: &str) -> Result<Address, AddressError> {
    let (path, offset) = match value.rsplit_once(",offset=") {
        // what follows has a comma or a slash: it belongs to the path
        Some((_, rest)) if rest.contains([',', '/']) => (value, None),
        Some((path, rest)) => {
            let wanted = "an offset: bytes, or with k, M, G or T, as in ,offset=4k";
            (path, Some(size(rest).ok_or_else(|| bad(rest, wanted))?))
        }
        None => (value, None),
    };
    let path = filled(path, "the path of a file, as in file:PATH")?.into();
    Ok(Address::File { path, offset })
}

/// Digits and nothing else: no sign, no space.
fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// `4096`, `4k`, `1G`: bytes, in binary units.
fn size(text: &str) -> Option<u64> {
    let (number, power) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1),
        b'M' => (&text[..text.len() - 1], 2),
        b'G' => (&text[..text.len() - 1], 3),
        b'T' => (&text[..text.len() - 1], 4),
        _ => (text, 0),
    };
    decimal(number)?.checked_mul(1 << (10 * power))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = |f: &mut fmt::Formatter<'_>, kind: &str, host: &str, port: &u16| {
            if host.contains(':') {
                write!(f, "{kind}:[{host}]:{port}")
            } else {
                write!(f, "{kind}:{host}:{port}")
            }
        };
        match self {
            Self::Stdio => f.write_str("-"),
            Self::Exec(command) => write!(f, "exec:{command}"),
            Self::Tcp { host, port } => endpoint(f, "tcp", host, port),
            Self::Tls { host, port } => endpoint(f, "tls", host, port),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Fd(number) => write!(f, "fd:{number}"),
            Self::File { path, offset } => {
                write!(f, "file:{}", path.display())?;
                offset.map_or(Ok(()), |offset| write!(f, ",offset={offset}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Address, AddressError> {
        text.parse()
    }

    #[test]
    fn the_grammar_round_trips() {
        for text in [
            "-",
            "exec:ssh host mig-recv --into /var/lib/x | cat",
            "tcp:10.0.0.1:4444",
            "tcp:[::1]:0",
            "tls:host.example:65535",
            "tls:[fe80::1%eth0]:4444",
            "unix:/run/pageherd.sock",
            "unix:./@x",
            "fd:3",
            "file:/a,b,c",
            "file:/dev/sdb,offset=4096",
            "file:x,offset=1,offset=0",
            "file:/a,offset=1/b",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse("stdio"), Ok(Address::Stdio));
        assert_eq!(parse("tcp:[::1]:1"), Ok(Address::Tcp { host: "::1".into(), port: 1 }));
    }

    #[test]
    fn only_a_trailing_offset_counts_and_it_has_units() {
        let offset = |text: &str| match parse(text) {
            Ok(Address::File { path, offset }) => (path.to_str().unwrap().to_owned(), offset),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(offset("file:a,offset=4k"), ("a".into(), Some(4096)));
        assert_eq!(offset("file:a,offset=4K"), ("a".into(), Some(4096)));
        assert_eq!(offset("file:a,offset=3M"), ("a".into(), Some(3 << 20)));
        assert_eq!(offset("file:a,offset=2G"), ("a".into(), Some(2 << 30)));
        assert_eq!(offset("file:a,offset=1,b"), ("a,offset=1,b".into(), None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("", "unix:PATH"),
            ("/tmp/x", "file:PATH"),
            ("rdma:x:1", "there are - (or stdio)"),
            ("exec:", "command line"),
            ("tcp:4444", "HOST:PORT"),
            ("tcp::4444", "HOST:PORT"),
            ("tcp:::1:4444", "[::1]:4444"),
            ("tcp:[host]:1", "HOST:PORT"),
            ("tcp:host:+1", "HOST:PORT"),
            ("tcp:host:65536", "HOST:PORT"),
            ("tls:[::1:1", "HOST:PORT"),
            ("unix:", "path of a socket"),
            ("unix:@x", "./@NAME"),
            ("fd:1", "written as -"),
            ("fd:-3", "descriptor"),
            ("fd:2147483648", "descriptor"),
            ("file:", "path of a file"),
            ("file:,offset=1", "path of a file"),
            ("file:a,offset=", "offset"),
            ("file:a,offset=1.5k", "offset"),
            ("file:a,offset=99999999T", "offset"),
            ("file:a,offset=ä", "offset"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_or_an_error(
            kind in prop::sample::select(vec!["", "exec:", "tcp:", "tls:", "unix:", "fd:", "file:"]),
            value in ".*|[a-z\\[\\]:,@=0-9/%]{0,24}|[a-z,/]{0,9},offset=[0-9kKMGT]{0,9}",
        ) {
            if let Ok(address) = parse(&format!("{kind}{value}")) {
                prop_assert_eq!(parse(&address.to_string()).unwrap(), address);
            }
        }
    }
}
