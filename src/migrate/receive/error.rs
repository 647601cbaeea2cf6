//! Why a stream is refused.

use crate::filter::codec::CodecError;
use crate::migrate::transaction::OutOfTurn;
use crate::placement::ledger::LedgerError;
use crate::store::StoreError;
use crate::wire::WireError;
use crate::wire::answer::Refusal;
use std::io;
use std::path::PathBuf;

/// Why a stream is refused. Nothing of it remains.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// It is damaged, or no stream.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// What it says does not fit together.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// It cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Pages cannot be unpacked.
    #[error("pages cannot be unpacked")]
    Codec(#[from] CodecError),
    /// The other end does not keep to the protocol.
    #[error(transparent)]
    OutOfTurn(#[from] OutOfTurn),
    /// The stream cannot be read.
    #[error("the stream cannot be read")]
    Read(#[source] io::Error),
    /// The sender cannot be answered.
    #[error("the sender cannot be answered")]
    Answer(#[source] io::Error),
    /// The sender waits for answers, and there is no way back to it.
    #[error(
        "the sender waits for answers, and this medium has no way back: have mig-send use a medium with two directions at both ends"
    )]
    NoWayBack,
    /// Pages can come again, and images cannot take that.
    #[error(
        "the stream was sent while its memory ran (--live), which images cannot take: receive it into a herd, and make images from that"
    )]
    NoRounds,
    /// A template that is not known here.
    #[error(
        "the stream refers to template {label} of {pages} pages, which this end was not given, or which is another here: name the same file with --template"
    )]
    NoTemplate {
        /// What the sender calls it.
        label: String,
        /// Its pages.
        pages: u64,
    },
    /// A template was written to while it was used.
    #[error("template {0} was written to meanwhile: a template must not change")]
    TemplateChanged(PathBuf),
    /// A template cannot be read.
    #[error("a template cannot be read")]
    Template(#[source] io::Error),
    /// The sender gave up.
    #[error("the sender gave up: {0}")]
    Aborted(String),
    /// The sender ended before it had given the memory up.
    #[error(
        "the sender went away before it gave its memory up: nothing was kept, and it can go on"
    )]
    NotCommitted,
    /// Pages of another stream did not come in time.
    #[error(
        "page {of_page} of VM {of} did not arrive within {seconds} s, and page {page} of VM {name} refers to it"
    )]
    WaitedTooLong {
        /// The VM.
        name: String,
        /// The page.
        page: u64,
        /// What it refers to.
        of: String,
        /// Which page of it.
        of_page: u64,
        /// How long was waited.
        seconds: u64,
    },
    /// What was kept is not what arrived.
    #[error(
        "page {page} of VM {name} is not in the store as it arrived: the memory or the disk of this host is faulty"
    )]
    NotKept {
        /// The VM.
        name: String,
        /// The page.
        page: u64,
    },
    /// Nothing here remembers sessions.
    #[error("only a herd remembers what became of a session: ask a mig-recv --into DIR")]
    NoJournal,
}

impl ReceiveError {
    /// How the sender is told.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Wire(WireError::Keying(_) | WireError::OtherKey) => Refusal::Policy,
            Self::Wire(_) | Self::Codec(_) | Self::OutOfTurn(_) | Self::NotKept { .. } => {
                Refusal::Data
            }
            Self::Ledger(LedgerError::Taken(_) | LedgerError::TooLarge { .. }) => Refusal::Policy,
            Self::Ledger(_) => Refusal::Data,
            Self::Store(StoreError::Io { .. } | StoreError::Damaged { .. }) => Refusal::Io,
            Self::Read(_) | Self::Answer(_) | Self::Template(_) => Refusal::Io,
            Self::Store(_)
            | Self::NoWayBack
            | Self::NoRounds
            | Self::NoTemplate { .. }
            | Self::TemplateChanged(_)
            | Self::NoJournal => Refusal::Policy,
            Self::Aborted(_) | Self::NotCommitted | Self::WaitedTooLong { .. } => Refusal::Other,
        }
    }

    /// In one line, with its causes.
    pub fn said(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let words = error.to_string();
            if !line.contains(&words) {
                line = format!("{line}: {words}");
            }
            cause = error.source();
        }
        line
    }
}
