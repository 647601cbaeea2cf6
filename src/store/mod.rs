//! Floor 2: where a receiver keeps what arrives.
//!
//! The ledger ([`crate::placement::ledger`]) says which page goes into which slot; a store holds the
//! slots and, at the end, makes whole memories of them. Nothing is visible before
//! [`Store::publish`]: a store that is dropped before leaves nothing behind.

pub mod discard;
pub mod group;
pub mod herd;
pub mod image;

use crate::base::Places;
use std::io;
use std::path::PathBuf;

/// A memory that is whole.
#[derive(Debug)]
pub struct Whole<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its blocks.
    pub blocks: &'a [(String, u64)],
    /// Where its pages are: slots, templates, nothing.
    pub places: &'a Places,
}

/// Why a store cannot keep what arrives.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("{path}: {doing} failed")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Another process writes to the herd.
    #[error(
        "herd {0} is being written by another mig-recv: wait for it, or have it take several streams (--streams)"
    )]
    Busy(PathBuf),
    /// A file of the herd is damaged.
    #[error("herd {dir}: {file} is damaged: {why}; nothing was changed")]
    Damaged {
        /// The herd.
        dir: PathBuf,
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// No image was named for a VM.
    #[error("the stream has a VM named {0}, and no --image {0}=FILE says where to write it")]
    NoImage(String),
    /// A session that was given up cannot be committed any more.
    #[error("session {0} was resolved as aborted while it was under way")]
    Resolved(String),
    /// The file is there already.
    #[error("{0} exists already: nothing is overwritten")]
    Exists(PathBuf),
}

impl StoreError {
    fn io(path: impl Into<PathBuf>, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, doing, source }
    }
}

/// Slots for pages, and memories made of them.
///
/// The contract: slots are written before they are read; a slot may be written again. What
/// [`Self::prepare`] has said is durable, [`Self::publish`] makes visible all at once, and
/// [`Self::forget`] or dropping leaves nothing of it.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Slots in use by what the store has had since before; new ones follow.
    fn slots(&self) -> u64;

    /// Can pages come again, in later rounds?
    fn takes_rounds(&self) -> bool {
        true
    }

    /// A stream brings this VM: can it be kept?
    fn expect(&self, name: &str, blocks: &[(String, u64)]) -> Result<(), StoreError>;

    /// Puts pages that follow one another into slots that do. They are pages of VM `name` from
    /// `page` on.
    fn put(&self, name: &str, page: u64, slot: u64, bytes: &[u8]) -> Result<(), StoreError>;

    /// Copies what slots hold.
    fn read(&self, slot: u64, out: &mut [u8]) -> Result<(), StoreError>;

    /// Can the state of a VMM be kept beside a memory?
    fn takes_state(&self) -> bool {
        false
    }

    /// Keeps what a VMM's stream has beside the pages of this VM, as [`Self::prepare`] keeps memory:
    /// to be called before that. It is published and forgotten with its VM.
    fn attach(&self, _session: &str, _name: &str, _state: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }

    /// Writes the memories of a session so that a crash cannot lose them; they stay invisible.
    fn prepare(&self, session: &str, vms: &[Whole<'_>]) -> Result<(), StoreError>;

    /// Makes them visible, all or none.
    fn publish(&self, session: &str, vms: &[&str]) -> Result<(), StoreError>;

    /// Has this session been committed, as far as is known? Asking changes nothing.
    fn is_committed(&self, _session: &str) -> bool {
        false
    }

    /// Takes back what was prepared for these, and what `expect` reserved.
    fn forget(&self, session: &str, vms: &[&str]);

    /// What became of a session; one that was not committed never will be from now on. `None` where
    /// nothing is kept that could tell.
    fn resolve(&self, session: &str) -> Result<Option<bool>, StoreError>;
}
