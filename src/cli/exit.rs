//! How commands end. The numbers are those of BSD's `sysexits.h` where it has one.

use crate::analyze::ScanError;
use crate::placement::scanfile::ScanFileError;
use crate::source::herd::HerdError;
use crate::source::host::HostError;
use crate::source::image::ImageError;
use crate::source::resolve::ResolveError;
use crate::sys::ksm::KsmUnknown;
use crate::sys::process::ProcessError;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// Exit codes of every command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// All of what was asked for was done.
    Ok = 0,
    /// Something failed that has no number of its own.
    Failure = 1,
    /// The report is whole for the targets that remained; others exited, ran another program, or
    /// could not be read, and are named on standard error.
    Partial = 3,
    /// The command line is wrong.
    Usage = 64,
    /// A file or a stream that was read is damaged, or of another kind.
    Data = 65,
    /// A target or a file that was named does not exist, or a target has no memory: no such process,
    /// a zombie, a kernel thread, a pattern that matches nothing.
    NoTarget = 66,
    /// The kernel lacks what is needed, or the other end is gone.
    Unavailable = 69,
    /// The command itself is at fault.
    Bug = 70,
    /// Reading or writing failed: a full disk, a closed descriptor.
    Io = 74,
    /// It is not known whether the receiver has the memory: it was told to commit and did not answer.
    /// A source that was to be moved is kept paused.
    Unknown = 75,
    /// The kernel, the other end or a rule of ours does not permit it; the message names it.
    NotPermitted = 77,
}

impl Exit {
    /// Each code with its meaning, for the manual.
    pub const TABLE: [(Self, &'static str); 11] = [
        (Self::Ok, "All of what was asked for was done."),
        (Self::Failure, "Something failed that has no number of its own."),
        (
            Self::Partial,
            "The report is whole for the targets that remained; others exited, ran another program or could not be read, and are named on standard error.",
        ),
        (Self::Usage, "The command line is wrong."),
        (Self::Data, "A file or a stream that was read is damaged, or of another kind."),
        (
            Self::NoTarget,
            "A target or a file that was named does not exist, or a target has no memory: no such process, a zombie, a kernel thread, a pattern that matches nothing.",
        ),
        (
            Self::Unavailable,
            "The kernel lacks what is needed, and the message names its option; or the other end of a stream is gone.",
        ),
        (Self::Bug, "The command itself is at fault: please report it."),
        (Self::Io, "Reading or writing failed, as on a full disk."),
        (
            Self::Unknown,
            "It is not known whether the receiver has the memory: it was told to commit and did not answer. A source that was to be moved stays paused; --resolve asks what became of it.",
        ),
        (
            Self::NotPermitted,
            "The kernel, the other end or a rule of pageherd does not permit it; the message names the capability or the flag.",
        ),
    ];
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The code that an error ends the command with: that of the first cause that has one.
pub fn code_of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(code_of_cause).unwrap_or(Exit::Failure)
}

fn code_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(e) = cause.downcast_ref::<ProcessError>() {
        return Some(of_process(e));
    }
    if let Some(e) = cause.downcast_ref::<ResolveError>() {
        return match e {
            ResolveError::Process(e) => Some(of_process(e)),
            ResolveError::Image(ImageError::NoImage { .. }) => Some(Exit::NoTarget),
            ResolveError::Image(_) => None,
            ResolveError::Herd(e) => Some(of_herd(e)),
            ResolveError::NotLoaded { .. } => Some(Exit::Failure),
            ResolveError::Pattern { .. }
            | ResolveError::Twice { .. }
            | ResolveError::SameName { .. } => Some(Exit::Usage),
            ResolveError::NoMatch { .. }
            | ResolveError::NoMapping { .. }
            | ResolveError::NoCgroup { .. }
            | ResolveError::Nobody => Some(Exit::NoTarget),
            ResolveError::Proc(_) => Some(Exit::Io),
        };
    }
    if let Some(e) = cause.downcast_ref::<HostError>() {
        return match e {
            HostError::NoPfns(crate::sys::caps::NoPfns::Hidden) => Some(Exit::NotPermitted),
            HostError::NoPfns(_) => Some(Exit::Unavailable),
            HostError::NoFrames { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Some(Exit::Unavailable),
                _ => Some(Exit::NotPermitted),
            },
        };
    }
    if let Some(e) = cause.downcast_ref::<KsmUnknown>() {
        return match e {
            KsmUnknown::NotInKernel => Some(Exit::Unavailable),
            _ => Some(Exit::Failure),
        };
    }
    if let Some(e) = cause.downcast_ref::<ScanError>() {
        return match e {
            ScanError::TooLittleMemory | ScanError::TooManyRegions => Some(Exit::Usage),
            _ => Some(Exit::Failure),
        };
    }
    if let Some(exit) = super::moves::code_of(cause) {
        return Some(exit);
    }
    if cause.is::<ScanFileError>() {
        return Some(Exit::Data);
    }
    if cause.is::<CannotWrite>() {
        return Some(Exit::Io);
    }
    if cause.is::<Misuse>() {
        return Some(Exit::Usage);
    }
    if let Some(ImageError::NoImage { .. }) = cause.downcast_ref::<ImageError>() {
        return Some(Exit::NoTarget); // --template; a target's is in ResolveError
    }
    cause.downcast_ref::<io::Error>().map(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => Exit::NotPermitted,
        io::ErrorKind::NotFound => Exit::NoTarget,
        _ => Exit::Io,
    })
}

/// A file or standard output that takes no more, whatever the reason.
#[derive(Debug, thiserror::Error)]
#[error("{name} cannot be written")]
pub struct CannotWrite {
    name: String,
    #[source]
    source: io::Error,
}

impl CannotWrite {
    /// For the file `path`; `-` is standard output.
    pub fn new(path: &Path, source: io::Error) -> Self {
        let stdout = path == Path::new("-");
        let name = if stdout { "standard output".into() } else { path.display().to_string() };
        Self { name, source }
    }
}

/// A command line that can be parsed and still makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misuse(pub String);

fn of_herd(error: &HerdError) -> Exit {
    match error {
        HerdError::NoHerd(_) | HerdError::Empty(_) | HerdError::NoVm { .. } => Exit::NoTarget,
        HerdError::Damaged { .. } | HerdError::Template { .. } => Exit::Data,
        HerdError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Exit::NotPermitted
        }
        HerdError::Io { .. } => Exit::Io,
    }
}

fn of_process(error: &ProcessError) -> Exit {
    match error {
        ProcessError::NotPermitted { .. } => Exit::NotPermitted,
        ProcessError::Io { .. } => Exit::Io,
        ProcessError::NoSuch { .. }
        | ProcessError::Thread { .. }
        | ProcessError::Zombie { .. }
        | ProcessError::Kernel { .. } => Exit::NoTarget,
    }
}

/// The whole chain of an error in one line, as `name: message: cause`.
pub fn message(name: &str, error: &anyhow::Error) -> String {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    let mut line = format!("{name}: ");
    for (i, cause) in causes.iter().enumerate() {
        // an outer message that already holds its cause is not followed by it
        if i > 0 && causes[i - 1].contains(cause.as_str()) {
            continue;
        }
        if i > 0 {
            line.push_str(": ");
        }
        line.push_str(cause);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_manual_once() {
        let mut codes: Vec<u8> = Exit::TABLE.iter().map(|(exit, _)| *exit as u8).collect();
        codes.dedup();
        assert_eq!(codes, [0, 1, 3, 64, 65, 66, 69, 70, 74, 75, 77]);
    }

    #[test]
    fn the_first_cause_with_a_number_decides() {
        let inner = ResolveError::from(ProcessError::NoSuch { pid: 7 });
        let error = anyhow::Error::from(inner).context("while looking");
        assert_eq!(code_of(&error), Exit::NoTarget);
        assert_eq!(message("memscan", &error), "memscan: while looking: there is no process 7");
        let full =
            CannotWrite::new(Path::new("-"), io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(code_of(&full.into()), Exit::Io);
        assert_eq!(code_of(&anyhow::anyhow!("?")), Exit::Failure);
        assert_eq!(code_of(&Misuse("x".into()).into()), Exit::Usage);
    }
}
