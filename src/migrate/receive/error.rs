//! Why a stream is refused.

use crate::filter::codec::CodecError;
use crate::migrate::transaction::OutOfTurn;
use crate::placement::ledger::LedgerError;
use crate::sink::vmm::VmmError;
use crate::store::StoreError;
use crate::store::group::GroupError;
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
    /// A VMM waits, and this is no VMM's stream.
    #[error(
        "the stream holds memory and no VMM's stream: send one with mig-send --qemu, or receive this with --into DIR"
    )]
    NoVmmStream,
    /// A VMM's stream cannot be kept in images.
    #[error(
        "the stream is a VMM's own, and images have no place for its device state: receive it with --qemu, or into a herd (--into DIR)"
    )]
    NoState,
    /// A VMM's stream that is mostly no pages.
    #[error(
        "the VMM's stream has more than {mib} MiB beside its pages, as one has that mig-send could not take apart: give it to a VMM (--qemu)"
    )]
    StateTooLong {
        /// The limit.
        mib: usize,
    },
    /// Another VM.
    #[error(
        "the stream brings VM {found}, and {wanted} is expected here: give both ends the same --vm"
    )]
    OtherVm {
        /// Expected.
        wanted: String,
        /// That came.
        found: String,
    },
    /// The stream belongs to a group.
    #[error("the stream belongs to a group: give this end the same --group")]
    NoGroup,
    /// The stream of a group, kept.
    #[error(
        "the stream belongs to a group, and what it refers to is with the group's members: receive it with --qemu --group, or send it without --group"
    )]
    GroupKept,
    /// Pages that earlier members of the group have sent are not here.
    #[error(
        "pages that member {member} of the group has brought are not here any more: end the group at the source (mig-send --group NAME --end-group), and move again"
    )]
    GroupLost {
        /// Which member.
        member: u32,
    },
    /// Pages came again and again.
    #[error(
        "the VMM sent its pages more than {times} times over, and each time takes new room: stop the guest before it is recorded"
    )]
    TooOften {
        /// How often they may come.
        times: u64,
    },
    /// The group's pool.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The VMM does not take it.
    #[error(transparent)]
    Vmm(#[from] VmmError),
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
            | Self::NoJournal
            | Self::NoVmmStream
            | Self::TooOften { .. }
            | Self::NoState
            | Self::StateTooLong { .. }
            | Self::OtherVm { .. }
            | Self::NoGroup
            | Self::GroupKept
            | Self::GroupLost { .. } => Refusal::Policy,
            Self::Group(
                GroupError::Full { .. } | GroupError::Io { .. } | GroupError::Limit { .. },
            ) => Refusal::Io,
            Self::Group(_) => Refusal::Policy,
            Self::Vmm(_) => Refusal::Io,
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
