//! A VM's memory as a sender reads it: its pages numbered from 0 through all its blocks, facts
//! first, content on demand.
//!
//! [`super::PageSource`] is what the scans look at: page tables, at any place and in parallel. A
//! feed answers the question that comes before sending: what is known of a page without reading it,
//! and, where that is not enough, its bytes.

pub mod herd;
pub mod image;
pub mod process;

use super::resolve::{Found, Holder, ResolveError};
use crate::abi::vma::{FileId, Vma};
pub use crate::base::fact::{Fact, Frame, Space};
use crate::sys::process::Process;
use std::fmt;
use std::io;

/// One VM's memory, to be sent.
///
/// The contract, which every implementation passes: pages are numbered through the blocks; what
/// [`Self::facts`] says is true of the content that [`Self::read`] gives, as long as the memory
/// stands still; neither brings a page in where a file or the kernel can tell it without.
pub trait Feed: Send + Sync + fmt::Debug {
    /// Its blocks: labels and pages.
    fn blocks(&self) -> Vec<(String, u64)>;

    /// What is known of the pages from `first` on.
    ///
    /// # Errors
    /// `NotFound` where the memory is gone: its process ended or ran another program.
    fn facts(&self, first: u64, out: &mut [Fact]) -> io::Result<()>;

    /// Copies the content of consecutive pages, of which these are the facts just read.
    fn read(&self, first: u64, facts: &[Fact], out: &mut [u8]) -> io::Result<()>;

    /// The file that page `page` is an unwritten private mapping of, if that is what its block is,
    /// and which page of it.
    fn file(&self, _page: u64) -> Option<(FileId, u64)> {
        None
    }

    /// All has been read: did it stand still until now? What is said against it ends the attempt.
    ///
    /// # Errors
    /// What happened, for people.
    fn stood_still(&self) -> Result<(), String> {
        Ok(())
    }

    /// Is the memory that was opened still there?
    fn is_there(&self) -> bool {
        true
    }
}

/// Opens what a target named.
pub fn open(found: Found) -> Result<(String, Opened), ResolveError> {
    let feed = match found.holder {
        Holder::Process(process, blocks) => {
            let blocks = with_flags(&process, blocks);
            if let Some(block) = blocks.iter().find(|b| b.flags.is_some_and(|f| f.by_userfault)) {
                let (pid, mapping) = (process.pid(), block.name.clone());
                return Err(ResolveError::NotLoaded { pid, mapping });
            }
            Opened::Process(process::ProcessFeed::new(process, blocks))
        }
        Holder::Image(path) => Opened::Other(Box::new(image::ImageFeed::open(&path)?)),
        Holder::Herd(vm) => Opened::Other(Box::new(herd::HerdFeed::open(&vm)?)),
    };
    Ok((found.name, feed))
}

/// The mappings with the flags that only smaps tells; a block may be a part of a mapping.
fn with_flags(process: &Process, blocks: Vec<Vma>) -> Vec<Vma> {
    let all = process.smaps().unwrap_or_default();
    let flags = |block: &Vma| {
        let at = all.partition_point(|vma| vma.pages.end <= block.pages.start);
        all.get(at).filter(|vma| vma.pages.start <= block.pages.start)?.flags
    };
    blocks.into_iter().map(|block| Vma { flags: flags(&block), ..block }).collect()
}

/// A feed, and whether it must be made to stand still.
#[derive(Debug)]
pub enum Opened {
    /// A process: it runs.
    Process(process::ProcessFeed),
    /// Something that stands still by itself.
    Other(Box<dyn Feed>),
}

impl Opened {
    /// As a feed.
    pub fn feed(&self) -> &dyn Feed {
        match self {
            Self::Process(feed) => feed,
            Self::Other(feed) => feed.as_ref(),
        }
    }
}

/// First page of each block, and of what would follow the last.
fn starts(blocks: impl Iterator<Item = u64>) -> Vec<u64> {
    std::iter::once(0)
        .chain(blocks.scan(0u64, |end, pages| {
            *end += pages;
            Some(*end)
        }))
        .collect()
}

#[cfg(test)]
pub(crate) mod contract {
    use super::*;

    /// What every feed must keep, tried on all of a memory whose content is known.
    pub(crate) fn holds(feed: &dyn Feed, content: &[u8]) {
        let pages = content.len() / 4096;
        let all: u64 = feed.blocks().iter().map(|(_, pages)| pages).sum();
        assert_eq!(all, pages as u64);
        let mut facts = vec![Fact::Unknown; pages];
        feed.facts(0, &mut facts).unwrap();
        let mut read = vec![1u8; content.len()];
        feed.read(0, &facts, &mut read).unwrap();
        assert!(read == content);
        for (page, fact) in facts.iter().enumerate() {
            let bytes = &content[page * 4096..(page + 1) * 4096];
            if matches!(fact, Fact::Zero | Fact::Unused) {
                assert!(crate::base::digest::is_zero(bytes), "page {page} is said to be zero");
            }
            let mut one = vec![1u8; 4096];
            feed.read(page as u64, &facts[page..=page], &mut one).unwrap();
            assert!(one == bytes, "page {page} by itself");
        }
        let mut again = vec![Fact::Unknown; pages];
        feed.facts(0, &mut again).unwrap();
        assert_eq!(facts, again, "asking has changed nothing");
    }
}
