//! What mig-send and mig-recv share: flags of the transport, keys, and how their errors end them.

use super::Exit;
use super::exit::Misuse;
use super::{size, usage};
use crate::base::digest::Hashing;
use crate::migrate::receive::ReceiveError;
use crate::migrate::send::SendError;
use crate::source::freeze::FreezeError;
use crate::store::StoreError;
use crate::store::group::GroupError;
use crate::sys::sandbox::SandboxError;
use crate::transport::filter_exec::FilterError;
use crate::transport::{Options, TlsFiles, TransportError};
use crate::wire::WireError;
use crate::wire::answer::Refusal;
use anyhow::{Context, Result};
use clap::Args;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Flags of the transport.
#[derive(Args, Clone, Debug, Default)]
pub struct TransportArgs {
    /// Let memory pass in clear text to or from other hosts by tcp:
    #[arg(long, help_heading = "Transport")]
    pub insecure: bool,
    /// This end's certificate for tls:, PEM
    #[arg(long, value_name = "FILE", help_heading = "Transport", requires_all = ["tls_key", "tls_ca"])]
    pub tls_cert: Option<PathBuf>,
    /// The key of that certificate, PEM, readable by nobody else
    #[arg(long, value_name = "FILE", help_heading = "Transport", requires_all = ["tls_cert", "tls_ca"])]
    pub tls_key: Option<PathBuf>,
    /// Certificates of those who may vouch for the other end, PEM
    #[arg(long, value_name = "FILE", help_heading = "Transport", requires_all = ["tls_cert", "tls_key"])]
    pub tls_ca: Option<PathBuf>,
    /// Name in the other end's certificate, where it is not the host's
    #[arg(long, value_name = "NAME", help_heading = "Transport", requires = "tls_cert")]
    pub tls_name: Option<String>,
    /// Give up when nothing moves for so many seconds; 0 waits for ever
    #[arg(long, value_name = "SECONDS", default_value_t = 300, help_heading = "Transport")]
    pub stall: u64,
    /// Digests with the secret in FILE, so that nobody without it can change a stream unnoticed
    #[arg(long, value_name = "FILE", help_heading = "Transport")]
    pub key: Option<PathBuf>,
}

/// Fewest bytes of a key.
const SHORTEST_KEY: usize = 16;

impl TransportArgs {
    /// As the transport wants it.
    pub fn options(&self, rate: Option<u64>, stdio_both: bool) -> Options {
        let files = (self.tls_cert.clone(), self.tls_key.clone(), self.tls_ca.clone());
        let tls = match files {
            (Some(cert), Some(key), Some(ca)) => {
                Some(TlsFiles { cert, key, ca, name: self.tls_name.clone() })
            }
            _ => None,
        };
        Options {
            insecure: self.insecure,
            tls,
            rate,
            stall_timeout: (self.stall > 0).then(|| Duration::from_secs(self.stall)),
            stdio_both,
            ..Options::default()
        }
    }

    /// How pages are hashed: with the key, if there is one.
    pub fn hashing(&self) -> Result<Hashing> {
        let Some(path) = &self.key else { return Ok(Hashing::Plain) };
        let secret = std::fs::read(path).with_context(|| format!("key {}", path.display()))?;
        if secret.len() < SHORTEST_KEY {
            // no command line that would write over the file: it may be anything
            let words = format!(
                "key {} is too short: it has {} bytes, and at least {SHORTEST_KEY} are needed, such as 'head -c 32 /dev/urandom' makes",
                path.display(),
                secret.len()
            );
            return Err(Misuse(words).into());
        }
        Ok(Hashing::keyed(&secret))
    }
}

/// Reads `NAME=VALUE`.
pub fn named(text: &str) -> Result<(String, PathBuf), String> {
    let wrong = || format!("'{text}' is not NAME=FILE");
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    if !crate::wire::record::is_vm_name(name) || value.is_empty() {
        return Err(wrong());
    }
    Ok((name.to_owned(), value.into()))
}

/// Reads a rate: bytes a second, or bits with `bit` behind the unit.
pub fn rate(text: &str) -> Result<u64, String> {
    let text = text.trim_end_matches("/s");
    match text.strip_suffix("bit") {
        Some(bits) => {
            let (number, unit) =
                bits.split_at(bits.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len());
            // network people count in powers of ten
            let scale = match unit {
                "" => 1.0,
                "k" | "K" => 1e3,
                "M" | "m" => 1e6,
                "G" | "g" => 1e9,
                _ => return Err(format!("'{text}' is no rate: write as in 100M (bytes) or 1Gbit")),
            };
            let number: f64 = number
                .parse()
                .map_err(|_| format!("'{text}' is no rate: write as in 100M (bytes) or 1Gbit"))?;
            let bytes = number * scale / 8.0;
            if !(1.0..1e15).contains(&bytes) {
                return Err(format!("'{text}' is no rate that could be kept"));
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "in range, just checked"
            )]
            Ok(bytes as u64)
        }
        None => match size::parse(text)? {
            0 => Err("a rate of 0 would never end".to_owned()),
            rate => Ok(rate),
        },
    }
}

/// The code that an error of moving memory ends a command with.
pub(super) fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(e) = cause.downcast_ref::<SendError>() {
        return of_send(e);
    }
    if let Some(e) = cause.downcast_ref::<ReceiveError>() {
        return of_receive(e);
    }
    if let Some(e) = cause.downcast_ref::<TransportError>() {
        return Some(of_transport(e));
    }
    if let Some(e) = cause.downcast_ref::<StoreError>() {
        return Some(of_store(e));
    }
    if let Some(e) = cause.downcast_ref::<FreezeError>() {
        return Some(of_freeze(e));
    }
    if let Some(e) = cause.downcast_ref::<GroupError>() {
        return Some(of_group(e));
    }
    if cause.is::<WireError>() {
        return Some(Exit::Data);
    }
    if cause.is::<SandboxError>() {
        return Some(Exit::NotPermitted);
    }
    if cause.is::<FilterError>() {
        return Some(Exit::Io);
    }
    // an error of a reader or writer carries the transport's own
    let io = cause.downcast_ref::<io::Error>()?;
    let inner = io.get_ref()?.downcast_ref::<TransportError>()?;
    Some(of_transport(inner))
}

fn of_send(error: &SendError) -> Option<Exit> {
    Some(match error {
        SendError::Unknown { .. } | SendError::VmmUnknown { .. } => Exit::Unknown,
        SendError::Gone { .. } => Exit::NoTarget,
        SendError::Refused { code, .. } => match code {
            Refusal::Data => Exit::Data,
            Refusal::Io => Exit::Io,
            Refusal::Policy => Exit::NotPermitted,
            Refusal::Other => Exit::Failure,
        },
        SendError::VmmDeaf => Exit::Usage,
        SendError::Vmm(_)
        | SendError::VmmOpaque { .. }
        | SendError::VmmLong
        | SendError::VmmBlock { .. } => Exit::Data,
        SendError::VmmRead(_) => Exit::Io,
        SendError::Group(e) => of_group(e),
        SendError::BadAnswer(WireError::Cut { .. }) => Exit::Unavailable,
        SendError::BadAnswer(_) | SendError::OtherSeal | SendError::OutOfTurn(_) => Exit::Data,
        SendError::Write(e) if e.kind() == io::ErrorKind::BrokenPipe => Exit::Unavailable,
        SendError::TemplateChanged(_) | SendError::Source(_) => Exit::Failure,
        SendError::Write(_)
        | SendError::Answer(_)
        | SendError::Read { .. }
        | SendError::Codec(_) => {
            return None;
        }
        _ => Exit::Failure,
    })
}

fn of_receive(error: &ReceiveError) -> Option<Exit> {
    Some(match error {
        ReceiveError::NotCommitted | ReceiveError::Aborted(_) => Exit::Unavailable,
        ReceiveError::WaitedTooLong { .. } => Exit::Unavailable,
        ReceiveError::Store(e) => of_store(e),
        ReceiveError::Group(e) => of_group(e),
        ReceiveError::Vmm(_) => Exit::Unavailable,
        ReceiveError::Read(_) | ReceiveError::Answer(_) => return None,
        error => match error.refusal() {
            Refusal::Data => Exit::Data,
            Refusal::Io => Exit::Io,
            Refusal::Policy => Exit::NotPermitted,
            Refusal::Other => Exit::Failure,
        },
    })
}

fn of_transport(error: &TransportError) -> Exit {
    match error {
        TransportError::PeerGone { .. }
        | TransportError::Stalled { .. }
        | TransportError::Child { .. }
        | TransportError::Tls { .. } => Exit::Unavailable,
        TransportError::Refused { .. } => Exit::NotPermitted,
        TransportError::Unusable { .. } => Exit::Data,
        TransportError::Terminal { .. } | TransportError::Taken { .. } => Exit::Usage,
        TransportError::Io { source, .. } => match source.kind() {
            io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            io::ErrorKind::NotFound => Exit::NoTarget,
            // while connecting; later it is PeerGone
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::TimedOut
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable => Exit::Unavailable,
            _ => Exit::Io,
        },
    }
}

fn of_store(error: &StoreError) -> Exit {
    match error {
        StoreError::Io { source, .. } => match source.kind() {
            io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            _ => Exit::Io,
        },
        StoreError::Damaged { .. } => Exit::Data,
        StoreError::NoImage(_) => Exit::Usage,
        StoreError::Busy(_) | StoreError::Resolved(_) | StoreError::Exists(_) => Exit::NotPermitted,
    }
}

fn of_group(error: &GroupError) -> Exit {
    match error {
        GroupError::Name { .. } => Exit::Usage,
        GroupError::NotOurs { .. } => Exit::NotPermitted,
        GroupError::NoGroup { .. } => Exit::NoTarget,
        GroupError::Damaged { .. }
        | GroupError::NotYet { .. }
        | GroupError::Alone { .. }
        | GroupError::MemberTwice { .. } => Exit::Data,
        GroupError::Full { .. } | GroupError::Io { .. } | GroupError::NoMemory(_) => Exit::Io,
        GroupError::NeverArrived { .. } | GroupError::WaitedTooLong { .. } => Exit::Unavailable,
        _ => Exit::Failure,
    }
}

fn of_freeze(error: &FreezeError) -> Exit {
    match error {
        FreezeError::NotPermitted { .. } => Exit::NotPermitted,
        FreezeError::Gone { .. } | FreezeError::NoMonitor { .. } => Exit::NoTarget,
        FreezeError::Own { .. } | FreezeError::Ancestor { .. } | FreezeError::NotAlone { .. } => {
            Exit::Usage
        }
        _ => Exit::Failure,
    }
}

/// What the manual says below the exit codes.
pub const CLOSED_PIPE: &str = "An end of a pipe that closes too early is a failed transfer (69), and \
nothing that ends the command without a word.";

/// What to write instead of a flag that belongs to the other command (`flags`: it, and the words),
/// or of a `word` where there are only flags; to be added to what the parser says.
pub fn hint(error: &clap::Error, flags: &[(&str, &str)], word: &str) -> Option<String> {
    use clap::error::ErrorKind;
    let unknown = error.kind() == ErrorKind::UnknownArgument;
    let given = usage::argument(error).filter(|_| unknown)?;
    let known = flags.iter().find(|(flag, _)| *flag == given);
    match known {
        Some((_, words)) => Some(format!(": {words}")),
        None if !given.starts_with('-') => Some(format!(": {word}")),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bytes_or_bits() {
        assert_eq!(rate("100M"), Ok(100 << 20));
        assert_eq!(rate("1Gbit"), Ok(125_000_000));
        assert_eq!(rate("8kbit/s"), Ok(1000));
        for bad in ["", "bit", "x", "0", "-1Gbit", "1Xbit"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_image_has_a_name_and_a_file() {
        assert_eq!(named("a=/x=y"), Ok(("a".into(), "/x=y".into())));
        for bad in ["a", "a=", "=x", ".a=x", "a/b=x"] {
            assert!(named(bad).is_err(), "{bad}");
        }
    }
}
