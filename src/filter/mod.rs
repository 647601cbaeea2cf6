//! Filters: each finds a cheaper place for pages than their bytes.
//!
//! The order of a chain is the order of cheapness: facts before content, nothing before a reference,
//! a reference before bytes, bytes last. A filter looks at a [`Batch`] twice: when only the facts of
//! its pages are known, and, if some of them had to be read, when their content is. What it settles
//! is settled; the next filter looks at the rest. Filters are pure: what they must look up to prove
//! something comes through [`World`]; how long they take is measured by who calls them.

pub mod bill;
pub mod chain;
pub mod codec;
mod frames;
pub mod known;
pub mod lz4;
pub mod same;
pub mod shared;
pub mod template;
pub mod xor;
pub mod zero;
pub mod zstd;

use crate::base::buffer::Buffer;
use crate::base::digest::PageHash;
use crate::base::fact::Fact;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;

/// What a page is settled as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Settled {
    /// Zero.
    Zero,
    /// Never used.
    Unused,
    /// The same as a page that was sent.
    Same {
        /// Number of its VM in the stream.
        vm: u32,
        /// The page.
        page: u64,
    },
    /// A page that the far end keeps in its pool.
    Pool {
        /// Whose.
        member: u32,
        /// The page.
        page: u64,
    },
    /// The far end has it as it is: it was sent in an earlier round; or nothing is to be said of it.
    Unchanged,
    /// A page of a template.
    Template {
        /// Its number in the stream.
        template: u32,
        /// The page.
        page: u64,
    },
}

/// Consecutive pages of one VM on their way.
#[derive(Debug, Default)]
pub struct Batch {
    /// Number of the VM in the stream.
    pub vm: u32,
    /// The first page.
    pub first: u64,
    /// What is known of each.
    pub facts: Vec<Fact>,
    /// What each is settled as.
    pub settled: Vec<Option<Settled>>,
    /// Hash of each page's content, where it is known: read, or known to be that of another. `None`
    /// also where it is zero.
    pub hashes: Vec<Option<PageHash>>,
    /// The content of those that were read; anything for the others.
    pub content: Buffer,
    /// Which were read.
    pub was_read: Vec<bool>,
}

impl Batch {
    /// Begins anew with `pages` pages from `first` on.
    pub fn reset(&mut self, vm: u32, first: u64, pages: usize) {
        (self.vm, self.first) = (vm, first);
        self.facts.clear();
        self.facts.resize(pages, Fact::Unknown);
        self.settled.clear();
        self.settled.resize(pages, None);
        self.hashes.clear();
        self.hashes.resize(pages, None);
        self.was_read.clear();
        self.was_read.resize(pages, false);
        self.content.resize(pages * PAGE);
    }

    /// Begins a window of `window` pages from `first` on, of which none is there: see [`Self::add`].
    pub fn begin(&mut self, vm: u32, first: u64, window: u64) {
        self.reset(vm, first, 0);
        self.content.resize(usize::try_from(window).unwrap_or(0) * PAGE);
    }

    /// Adds a page of the window, later than those before: its bytes, or zero. Nothing is said of
    /// those between.
    pub fn add(&mut self, page: u64, bytes: Option<&[u8; PAGE]>) {
        let at = usize::try_from(page - self.first).unwrap_or(0);
        self.facts.resize(at + 1, Fact::Unknown);
        self.settled.resize(at + 1, Some(Settled::Unchanged));
        self.hashes.resize(at + 1, None);
        self.was_read.resize(at + 1, false);
        self.settled[at] = bytes.is_none().then_some(Settled::Zero);
        if let Some(bytes) = bytes {
            self.was_read[at] = true;
            self.content[at * PAGE..(at + 1) * PAGE].copy_from_slice(bytes);
        }
    }

    /// How many pages.
    pub fn len(&self) -> usize {
        self.facts.len()
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    /// The content of one page, which was read.
    pub fn page(&self, at: usize) -> &[u8] {
        &self.content[at * PAGE..(at + 1) * PAGE]
    }

    /// Positions of pages whose bytes the far end has, or gets now: those that others can be
    /// references to.
    pub fn carried(&self) -> impl Iterator<Item = usize> + '_ {
        let carried = |at: &usize| matches!(self.settled[*at], None | Some(Settled::Unchanged));
        (0..self.len()).filter(carried)
    }

    /// Positions of pages that are not settled.
    pub fn open(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).filter(|&at| self.settled[at].is_none())
    }
}

/// Numbers all pages of all VMs of a stream, in 32 bits: tables of references are half as large by
/// that. Pages beyond 16 TiB have no number and are not remembered.
#[derive(Debug)]
pub(crate) struct Numbering {
    /// First number of each VM's pages, and the end.
    starts: Vec<u64>,
}

impl Numbering {
    /// For VMs of so many pages each.
    pub(crate) fn new(pages: &[u64]) -> Self {
        let mut starts = vec![0];
        for pages in pages {
            starts.push(starts[starts.len() - 1] + pages);
        }
        Self { starts }
    }

    /// The number of a page.
    pub(crate) fn number(&self, vm: u32, page: u64) -> Option<u32> {
        u32::try_from(self.starts.get(vm as usize)? + page).ok()
    }

    /// The page with a number.
    pub(crate) fn page(&self, number: u32) -> (u32, u64) {
        let number = u64::from(number);
        let vm = self.starts.partition_point(|&start| start <= number).saturating_sub(1);
        (u32::try_from(vm).unwrap_or(u32::MAX), number - self.starts[vm])
    }
}

/// What a filter may look up.
pub trait World {
    /// What is known of pages now; `false` where it cannot be told.
    fn facts(&self, vm: u32, page: u64, out: &mut [Fact]) -> bool;

    /// The content of consecutive pages now, as many as `out` holds; `false` where it cannot be read.
    fn content(&self, vm: u32, page: u64, out: &mut [u8]) -> bool;

    /// The content of a page of a template.
    fn template(&self, template: u32, page: u64, out: &mut [u8]) -> bool;

    /// The template, and which page of it, that a page is an unwritten private mapping of.
    fn mapped_template(&self, vm: u32, page: u64) -> Option<(u32, u64)>;

    /// Does memory stand still, so that page tables prove what was sent? Or is everything compared
    /// by content once more when it does?
    fn stands_still(&self) -> bool;
}

/// Finds a cheaper place.
pub trait Filter: Send + std::fmt::Debug {
    /// Its name in `--filters` and in the bill.
    fn name(&self) -> &'static str;

    /// Settles what it can by facts alone; returns how many pages.
    fn by_facts(&mut self, _batch: &mut Batch, _world: &dyn World) -> u64 {
        0
    }

    /// Settles what it can by the content of the pages that were read; returns how many.
    fn by_content(&mut self, _batch: &mut Batch, _world: &dyn World) -> u64 {
        0
    }

    /// Learns of the pages that were not settled by anyone: their bytes are sent.
    fn learn(&mut self, _batch: &Batch) {}

    /// Learns of pages that another sender sends, by their facts alone.
    fn learn_foreign(&mut self, _batch: &Batch) {}

    /// Is it never turned off? So it is with what costs nothing, and with what keeps memory shared
    /// at the far end, which is worth more than time.
    fn always_on(&self) -> bool {
        true
    }
}

#[cfg(test)]
pub(crate) mod worlds {
    use super::*;
    use std::collections::HashMap;

    /// A world of pages that tests make up.
    #[derive(Default)]
    pub(crate) struct Made {
        pub(crate) facts: HashMap<(u32, u64), Fact>,
        pub(crate) content: HashMap<(u32, u64), Vec<u8>>,
        pub(crate) templates: Vec<Vec<u8>>,
        pub(crate) mapped: HashMap<(u32, u64), (u32, u64)>,
        pub(crate) moves: bool,
    }

    impl World for Made {
        fn facts(&self, vm: u32, page: u64, out: &mut [Fact]) -> bool {
            for (page, fact) in (page..).zip(out) {
                *fact = self.facts.get(&(vm, page)).copied().unwrap_or(Fact::Unknown);
            }
            true
        }

        fn content(&self, vm: u32, page: u64, out: &mut [u8]) -> bool {
            (page..).zip(out.chunks_mut(PAGE)).all(|(page, out)| {
                self.content.get(&(vm, page)).is_some_and(|bytes| {
                    out.copy_from_slice(bytes);
                    true
                })
            })
        }

        fn template(&self, template: u32, page: u64, out: &mut [u8]) -> bool {
            let at = usize::try_from(page).unwrap() * PAGE;
            out.copy_from_slice(&self.templates[template as usize][at..at + PAGE]);
            true
        }

        fn mapped_template(&self, vm: u32, page: u64) -> Option<(u32, u64)> {
            self.mapped.get(&(vm, page)).copied()
        }

        fn stands_still(&self) -> bool {
            !self.moves
        }
    }

    /// A batch whose pages were all read and hashed.
    pub(crate) fn read(vm: u32, first: u64, pages: &[Vec<u8>]) -> Batch {
        let mut batch = Batch::default();
        batch.reset(vm, first, pages.len());
        for (at, page) in pages.iter().enumerate() {
            batch.content[at * PAGE..(at + 1) * PAGE].copy_from_slice(page);
            batch.was_read[at] = true;
            batch.hashes[at] = (!crate::base::digest::is_zero(page))
                .then(|| crate::base::digest::Hashing::Plain.page(page));
        }
        batch
    }
}
