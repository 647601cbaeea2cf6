//! What can go wrong with a medium, so that a command can tell what to do next.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

/// A medium that could not be opened, or did not carry the stream.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The peer ended or was cut off before it had all, or before it said all.
    #[error("{what}: the other end is gone: see what it said on its standard error")]
    PeerGone {
        /// The medium.
        what: String,
        /// As the kernel puts it.
        #[source]
        source: io::Error,
    },
    /// Nothing moved for as long as the options allow.
    #[error("{what}: nothing moved for {} s: the other end hangs, or the limit is too short", .after.as_secs_f64())]
    Stalled {
        /// The medium.
        what: String,
        /// How long.
        after: Duration,
    },
    /// It could be done, and must not be.
    #[error("{what}: refused: {why}")]
    Refused {
        /// The medium.
        what: String,
        /// Why, and what to do instead.
        why: String,
    },
    /// A command of `exec:` failed.
    #[error("exec:{command}: the command failed with {status}{}", not_found(.status))]
    Child {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// A stream of memory is nothing for a terminal.
    #[error("{what} is a terminal: connect it to a pipe or a file, or name another address")]
    Terminal {
        /// Which stream.
        what: &'static str,
    },
    /// A file of `tls:` cannot be used.
    #[error("{what}: {why}")]
    Unusable {
        /// The file, or the medium.
        what: String,
        /// Why not.
        why: String,
        /// As the protocol puts it.
        #[source]
        source: Option<rustls::Error>,
    },
    /// The two ends of `tls:` do not trust each other.
    #[error("{what}: {why}")]
    Tls {
        /// The medium, or the file.
        what: String,
        /// What failed.
        why: String,
        /// As the protocol puts it.
        #[source]
        source: Option<rustls::Error>,
    },
    /// A medium that carries one stream was asked for a second.
    #[error("{what}: carries one stream, and that has been taken")]
    Taken {
        /// The medium.
        what: String,
    },
    /// The kernel reports a failure: a full disk, a port in use.
    #[error("{what}: cannot {doing}")]
    Io {
        /// The medium.
        what: String,
        /// What was tried: a verb.
        doing: &'static str,
        /// As the kernel puts it.
        #[source]
        source: io::Error,
    },
}

impl TransportError {
    /// The error behind one of a [`Source`](super::Source) or [`Drain`](super::Drain), or what
    /// another error means for the medium `what` while it was `doing` something.
    pub fn of(what: &str, doing: &'static str, error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let error = match error.downcast::<Self>() {
            Ok(known) => return known,
            Err(error) => error,
        };
        let what = what.to_owned();
        match error.kind() {
            Kind::BrokenPipe
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::NotConnected
            | Kind::UnexpectedEof
            | Kind::TimedOut => Self::PeerGone { what, source: error },
            _ => Self::Io { what, doing, source: error },
        }
    }

    /// As an error of a reader or a writer, from which [`of`](Self::of) takes it again.
    pub(super) fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::PeerGone { source, .. } | Self::Io { source, .. } => source.kind(),
            Self::Stalled { .. } => io::ErrorKind::TimedOut,
            Self::Tls { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, self)
    }
}

fn not_found(status: &ExitStatus) -> &'static str {
    // what POSIX has the shell say; a command may say it too
    if status.code() == Some(127) { ": is there such a program?" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_passes_through_a_reader_unchanged() {
        let stalled =
            TransportError::Stalled { what: "tcp:x:1".into(), after: Duration::from_millis(1500) };
        let io = stalled.into_io();
        assert_eq!(io.kind(), io::ErrorKind::TimedOut);
        let back = TransportError::of("other", "read", io);
        assert!(matches!(&back, TransportError::Stalled { what, .. } if what == "tcp:x:1"));
        assert!(back.to_string().contains("for 1.5 s"), "{back}");
    }

    #[test]
    fn a_dead_peer_and_a_full_disk_are_told_apart() {
        let of = |kind: io::ErrorKind| TransportError::of("fd:3", "write", kind.into());
        assert!(matches!(of(io::ErrorKind::BrokenPipe), TransportError::PeerGone { .. }));
        assert!(matches!(of(io::ErrorKind::ConnectionReset), TransportError::PeerGone { .. }));
        assert!(matches!(of(io::ErrorKind::StorageFull), TransportError::Io { .. }));
    }
}
