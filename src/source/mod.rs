//! Floor 2: where pages come from. Each source is one VM's memory, whatever holds it.
//!
//! The trait is the seam between what the kernel has ([`crate::sys`]) and what is made of it
//! ([`crate::analyze`]): facts of pages first, content on demand. Facts are pulled by the analysis,
//! at any place and from several threads, because one VM's memory is read in pieces in parallel
//! and then once more to see what has changed.

pub mod feed;
pub mod freeze;
pub mod herd;
pub mod host;
pub mod image;
pub mod process;
pub mod resolve;
pub mod vmm;
pub mod vmm_stream;

use crate::abi::ksm::KsmStat;
use crate::abi::pagemap::Entry;
use crate::abi::vma::{Vma, VmaFlags};
use crate::base::PageRange;
use std::fmt;
use std::io;

/// One VM's memory. What is answered here is right for memory in a file, which no process holds;
/// a process answers everything itself.
///
/// The contract, which every implementation passes in `contract` below: blocks are sorted and do
/// not overlap; entries are those of the memory that was opened, also after the process runs
/// another program; nothing that is asked here changes a page, a flag or a setting.
pub trait PageSource: Send + Sync + fmt::Debug {
    /// The blocks of memory, by address.
    fn blocks(&self) -> &[Vma];

    /// What the page table says of the pages from `first` on; returns how many it told. Fewer than
    /// asked for means that the memory is gone: [`Self::fate`] says how.
    fn facts(&self, first: u64, out: &mut [Entry]) -> io::Result<usize>;

    /// The part of `range` in which something may be present or swapped; the whole of it where
    /// that is not known or not worth asking.
    fn populated(&self, range: PageRange) -> Vec<PageRange> {
        vec![range]
    }

    /// Is this page mapped by a huge entry? No where the kernel does not tell.
    fn is_huge(&self, _page: u64) -> bool {
        false
    }

    /// How many pages of `range` are mapped by one huge entry; 0 where the kernel does not tell.
    fn huge_pages(&self, _range: PageRange) -> u64 {
        0
    }

    /// Copies the content of one page, which the page table has just shown to be present.
    fn content(&self, page: u64, out: &mut [u8]) -> io::Result<usize>;

    /// For each page of `pages`, which is within one block: is the page of the file of memory behind
    /// it (tmpfs, memfd, hugetlbfs) there? `None` where there is no such file, or it cannot be
    /// opened.
    fn cached(&self, block: &Vma, pages: PageRange) -> Option<Vec<bool>>;

    /// Copies what the file behind `block` holds at `page` and after it, from pages that
    /// [`Self::cached`] has just shown to be in the page cache; returns how many bytes there were.
    fn file_content(&self, block: &Vma, page: u64, out: &mut [u8]) -> io::Result<usize>;

    /// The blocks with the flags that only smaps tells.
    fn blocks_with_flags(&self) -> io::Result<Vec<Vma>> {
        let flags = Some(VmaFlags::default());
        Ok(self.blocks().iter().map(|block| Vma { flags, ..block.clone() }).collect())
    }

    /// What KSM counts for its process; `None` before Linux 6.1, without KSM, and of an image.
    fn ksm(&self) -> Option<KsmStat> {
        None
    }

    /// Can KSM have merged any of it? `false` only where the kernel says that no mapping of the
    /// process is mergeable (`ksm_stat`, `ksm_mergeable`): a merged page never outlives that, since
    /// `MADV_UNMERGEABLE` and its like break every merge first, and a fork inherits both.
    fn may_be_merged(&self) -> bool {
        self.ksm().and_then(|stat| stat.mergeable) != Some(false)
    }

    /// Page faults that it has had: it cannot get another frame without one.
    fn faults(&self) -> u64 {
        0 // the pages of a file are touched when it is opened
    }

    /// What became of it since it was opened.
    fn fate(&self) -> Fate {
        Fate::Alive
    }
}

/// What became of a source while it was read.
pub use crate::sys::process::Fate;

/// A VM: a named set of RAM blocks, and what holds it.
#[derive(Debug)]
pub struct Vm {
    /// The name that the user gave or that its holder has.
    pub name: String,
    /// The process that holds it; `None` for an image.
    pub pid: Option<i32>,
    /// When that process started, in clock ticks since boot.
    pub start_time: Option<u64>,
    /// What it is, in words: `qemu-system-x86 guest RAM`.
    pub what: String,
    /// Its memory.
    pub source: Box<dyn PageSource>,
}

#[cfg(test)]
pub(crate) mod contract {
    use super::*;

    /// What every source must keep, tried on a source whose page `page` is present.
    pub(crate) fn holds(source: &dyn PageSource, page: u64) {
        let blocks = source.blocks();
        assert!(!blocks.is_empty());
        for pair in blocks.windows(2) {
            assert!(pair[0].pages.end <= pair[1].pages.start, "blocks are sorted and apart");
        }
        let block = blocks.iter().find(|b| b.pages.start <= page && page < b.pages.end).unwrap();
        let mut one = [Entry(0)];
        assert_eq!(source.facts(page, &mut one).unwrap(), 1);
        assert!(one[0].is_present());
        let populated = source.populated(block.pages);
        assert!(populated.iter().any(|r| r.start <= page && page < r.end));
        assert!(populated.iter().all(|r| r.intersect(block.pages) == *r));
        let mut bytes = [0u8; 4096];
        assert_eq!(source.content(page, &mut bytes).unwrap(), 4096);
        assert_eq!(source.fate(), Fate::Alive);
        // asking has changed nothing
        let mut again = [Entry(0)];
        source.facts(page, &mut again).unwrap();
        assert_eq!(one, again);
        let flagged = source.blocks_with_flags().unwrap();
        assert_eq!(
            flagged.iter().map(|b| b.pages).collect::<Vec<_>>(),
            blocks.iter().map(|b| b.pages).collect::<Vec<_>>()
        );
        assert!(flagged.iter().all(|b| b.flags.is_some()));
    }
}
