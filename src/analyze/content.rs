//! Pages with equal content on different frames: what could be shared and is not.
//!
//! Content is read only here, and only of pages that the page table has just shown to be present.
//! Equal fingerprints say where to look; both pages are then read once more and compared byte by
//! byte, which also shows the pages that change as we watch.

use super::scan::ScanError;
use crate::abi::pagemap::{Entry, State};
use crate::abi::vma::Vma;
use crate::base::{PAGE_SIZE, PageRange, Pfn};
use crate::source::Vm;
use rayon::prelude::*;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher};
use twox_hash::XxHash3_128;

/// Bytes of a page.
const PAGE: usize = 4096;

const _: () = assert!(PAGE as u64 == PAGE_SIZE);

/// A page whose content was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Fingerprint of its content.
    pub print: u128,
    /// Its frame.
    pub pfn: Pfn,
    /// The VM.
    pub vm: u32,
    /// The block.
    pub block: u32,
    /// The page, by address.
    pub page: u64,
    /// A page of a file or of shared memory.
    pub file: bool,
}

/// What was read.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The frames, each once, by fingerprint.
    pub seen: Vec<Seen>,
    /// Present pages of all VMs.
    pub present: u64,
    /// Pages read.
    pub read: u64,
    /// One in this many was read.
    pub one_in: u64,
    /// Fingerprint of a page of zeros.
    pub zero: u128,
    /// What the fingerprints were taken with.
    pub seed: u64,
    /// Pages that could not be read: gone meanwhile, or not readable.
    pub unreadable: u64,
}

/// Reads the content of at most about `budget` pages; where there are more, of one page in n, the
/// same ones in every block.
///
/// `skip` names frames that are of no interest (the zero page).
pub fn read(
    vms: &[Vm],
    blocks: &[Vec<Vma>],
    budget: u64,
    skip: &HashSet<Pfn>,
) -> Result<Contents, ScanError> {
    // Guests choose the content: a seed of our own keeps them from choosing collisions.
    let seed = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let pieces: Vec<(u32, u32, PageRange)> = pieces(vms, blocks);
    let present = pieces
        .par_iter()
        .map(|&(vm, _, piece)| present(&vms[vm as usize], piece))
        .sum::<Result<u64, ScanError>>()?;
    let one_in = present.div_ceil(budget.max(1)).max(1);
    let parts: Vec<Part> = pieces
        .par_iter()
        .map(|&(vm, block, piece)| {
            let reader = Reader { source: &vms[vm as usize], vm, block, seed, one_in };
            reader.read(piece, skip)
        })
        .collect::<Result<_, _>>()?;
    let read = parts.iter().map(|p| p.seen.len() as u64).sum();
    let unreadable = parts.iter().map(|p| p.unreadable).sum();
    let mut seen: Vec<Seen> = parts.into_iter().flat_map(|p| p.seen).collect();
    // A frame that several pages share is one frame: its first page stands for it.
    seen.par_sort_unstable_by_key(|s| (s.pfn, s.vm, s.page));
    seen.dedup_by_key(|s| s.pfn);
    seen.par_sort_unstable_by_key(|s| (s.print, s.vm, s.page));
    let zero = XxHash3_128::oneshot_with_seed(seed, &[0; PAGE]);
    Ok(Contents { seen, present, read, one_in, zero, seed, unreadable })
}

/// Pages in a piece of work.
const PIECE: u64 = 1 << 14;

/// Never of a device: reading its registers can do anything.
fn pieces(vms: &[Vm], blocks: &[Vec<Vma>]) -> Vec<(u32, u32, PageRange)> {
    let mut all = Vec::new();
    let memory = |block: &&Vma| block.read && !block.flags.unwrap_or_default().device;
    for ((v, vm), blocks) in (0u32..).zip(vms).zip(blocks) {
        for (b, block) in (0u32..).zip(blocks).filter(|(_, block)| memory(block)) {
            for range in vm.source.populated(block.pages) {
                all.extend(range.pieces(PIECE).map(|piece| (v, b, piece)));
            }
        }
    }
    all
}

fn entries(vm: &Vm, piece: PageRange) -> Result<Vec<Entry>, ScanError> {
    let mut entries = vec![Entry(0); usize::try_from(piece.pages()).unwrap_or(0)];
    let got = vm
        .source
        .facts(piece.start, &mut entries)
        .map_err(|source| ScanError::PageTable { vm: vm.name.clone(), source })?;
    entries.truncate(got);
    Ok(entries)
}

fn present(vm: &Vm, piece: PageRange) -> Result<u64, ScanError> {
    Ok(entries(vm, piece)?.iter().filter(|e| e.is_present()).count() as u64)
}

#[derive(Default)]
struct Part {
    seen: Vec<Seen>,
    unreadable: u64,
}

struct Reader<'a> {
    source: &'a Vm,
    vm: u32,
    block: u32,
    seed: u64,
    one_in: u64,
}

/// Pages read in one call.
const AT_ONCE: usize = 64;

impl Reader<'_> {
    fn read(&self, piece: PageRange, skip: &HashSet<Pfn>) -> Result<Part, ScanError> {
        let mut part = Part::default();
        let first = self.source.source.blocks()[self.block as usize].pages.start;
        let wanted: Vec<(u64, Pfn, bool)> = (piece.start..)
            .zip(entries(self.source, piece)?)
            .filter_map(|(page, entry)| match entry.state() {
                State::Present { pfn, file, .. }
                    if self.chooses(page - first) && !skip.contains(&pfn) =>
                {
                    Some((page, pfn, file))
                }
                _ => None,
            })
            .collect();
        let mut bytes = vec![0u8; AT_ONCE * PAGE];
        for run in wanted.chunk_by(|a, b| a.0 + 1 == b.0).flat_map(|run| run.chunks(AT_ONCE)) {
            let want = &mut bytes[..run.len() * PAGE];
            let got = self.source.source.content(run[0].0, want).unwrap_or(0) / PAGE;
            part.unreadable += (run.len() - got) as u64;
            for (&(page, pfn, file), content) in run.iter().zip(want[..got * PAGE].chunks(PAGE)) {
                let print = XxHash3_128::oneshot_with_seed(self.seed, content);
                let (vm, block) = (self.vm, self.block);
                part.seen.push(Seen { print, pfn, vm, block, page, file });
            }
        }
        Ok(part)
    }

    /// Is this page of the sample? By its place in the block, so that blocks that are alike are
    /// sampled alike.
    const fn chooses(&self, page: u64) -> bool {
        self.one_in == 1
            || (page.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20).is_multiple_of(self.one_in)
    }
}

/// What a second reading of two pages shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compared {
    /// Equal, byte for byte.
    Equal,
    /// The second page has changed since it was read first, or is gone.
    Volatile,
}

/// Reads the pages of one fingerprint again; tells of each whether it still equals the first.
pub fn compare(vms: &[Vm], alike: &[Seen], seed: u64) -> Vec<Compared> {
    let mut first = [0u8; PAGE];
    let mut other = [0u8; PAGE];
    let read = |seen: &Seen, out: &mut [u8; PAGE]| {
        matches!(vms[seen.vm as usize].source.content(seen.page, out), Ok(PAGE))
    };
    // held against the first that is as it was, not against one that has changed meanwhile
    let as_it_was = |seen: &Seen, bytes: &mut [u8; PAGE]| {
        read(seen, bytes) && XxHash3_128::oneshot_with_seed(seed, bytes) == seen.print
    };
    let have_first = alike.iter().any(|seen| as_it_was(seen, &mut first));
    let compare = |seen| match have_first && read(seen, &mut other) && other == first {
        true => Compared::Equal,
        false => Compared::Volatile,
    };
    alike.iter().map(compare).collect()
}
