//! Why nothing was sent, or not all.

use crate::filter::codec::CodecError;
use crate::migrate::transaction::OutOfTurn;
use crate::qemu::stream::StreamError;
use crate::store::group::GroupError;
use crate::wire::WireError;
use crate::wire::answer::Refusal;
use crate::wire::header::Session;
use std::io;

/// Why nothing was sent, or not all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// A VM's memory cannot be read.
    #[error("VM {name}: page {page} or one after it cannot be read")]
    Read {
        /// The VM.
        name: String,
        /// A page.
        page: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A VM is gone.
    #[error(
        "VM {name} has ended, or runs another program now: what was sent of it is worth nothing"
    )]
    Gone {
        /// The VM.
        name: String,
    },
    /// The source is not as it must be.
    #[error("{0}")]
    Source(String),
    /// Packing failed.
    #[error("pages cannot be packed")]
    Codec(#[source] CodecError),
    /// The transport takes no more.
    #[error("the stream cannot be written")]
    Write(#[source] io::Error),
    /// The answers cannot be read.
    #[error("the receiver's answer cannot be read")]
    Answer(#[source] io::Error),
    /// The answers are damaged, or none.
    #[error("the receiver's answer makes no sense")]
    BadAnswer(#[source] WireError),
    /// The receiver does not keep to the protocol.
    #[error(transparent)]
    OutOfTurn(#[from] OutOfTurn),
    /// The receiver refuses.
    #[error("the receiver refuses: {why}")]
    Refused {
        /// Its kind of reason.
        code: Refusal,
        /// In its words.
        why: String,
    },
    /// The receiver repeated another seal.
    #[error("the receiver has something else than was sent")]
    OtherSeal,
    /// It was told to commit and did not answer.
    #[error(
        "the connection was lost after the receiver was told to commit session {session}: it may have the memory or not; ask it with --resolve {session}"
    )]
    Unknown {
        /// The session.
        session: Session,
    },
    /// The VMM's stream is none, or damaged.
    #[error("{0}")]
    Vmm(#[from] StreamError),
    /// The VMM's stream cannot be read.
    #[error("the VMM's stream cannot be read")]
    VmmRead(#[source] io::Error),
    /// It waits for a word that it cannot hear.
    #[error(
        "QEMU waits for a word at the end of its stream (capability return-path), and standard output is not read by it: leave standard output to QEMU (messages go to standard error), with fd: give mig-send one socket as both, or turn return-path off"
    )]
    VmmDeaf,
    /// Its end cannot be found, and it waits there for a word.
    #[error(
        "QEMU waits for a word at the end of its stream (capability return-path), and the end of this one cannot be found: {reason}; or turn return-path off"
    )]
    VmmOpaque {
        /// What is not understood.
        reason: String,
    },
    /// The far end was told to commit and did not answer.
    #[error(
        "the connection was lost after the far end was told to commit session {session}: its QEMU may run the guest or not. Look at it once its mig-recv has ended: if it runs, this end's guest must not; if it is gone or failed, let the guest go on here"
    )]
    VmmUnknown {
        /// The session.
        session: Session,
    },
    /// It says too much before it says what memory there is.
    #[error("the VMM's stream names no memory in its first 64 MiB: this is no stream of a guest")]
    VmmLong,
    /// A block has a name that cannot be said.
    #[error(
        "a RAM block is named {name:?}: only names of up to 64 letters, digits and . _ / @ : + - [ ] can be sent; give the memory backend another id"
    )]
    VmmBlock {
        /// The name.
        name: String,
    },
    /// What the group has sent cannot be known.
    #[error("the group cannot be read")]
    Group(#[source] GroupError),
    /// A template was written to.
    #[error("template {0} was written to meanwhile: a template must not change")]
    TemplateChanged(std::path::PathBuf),
    /// Another thread has failed; its error is the one to tell.
    #[error("the sender has stopped")]
    Stopped,
}
