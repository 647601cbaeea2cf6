//! First look: reads page tables and keeps sightings.
//!
//! The inner loop sees every page of every VM. Most are exclusive, and cost a count.

use super::huge::{FRAMES, HugeRun};
use super::sighting::{Sighting, TASK_PAGES, Task};
use crate::abi::pagemap::{Entry, State};
use crate::base::{PageRange, Pfn};
use crate::source::PageSource;
use std::io;

/// Entries read at once: 64 KiB, which stays in the second-level cache.
const BUFFER: usize = 8192;

/// Counts of pages of one region in one task.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// In the page table.
    pub present: u64,
    /// Of these, in no other page table.
    pub exclusive: u64,
    /// Of the exclusive ones, pages of a file or of shared memory.
    pub exclusive_file: u64,
    /// On a swap device.
    pub swapped: u64,
    /// Neither here nor there when they were looked at.
    pub in_transit: u64,
    /// Mapped by a huge entry.
    pub huge: u64,
}

impl Tally {
    /// Adds another count.
    pub fn merge(&mut self, other: &Self) {
        self.present += other.present;
        self.exclusive += other.exclusive;
        self.exclusive_file += other.exclusive_file;
        self.swapped += other.swapped;
        self.in_transit += other.in_transit;
        self.huge += other.huge;
    }
}

/// Consecutive pages that have sightings, in the order of the sightings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// First page.
    pub start: u64,
    /// How many.
    pub len: u32,
    /// Their region.
    pub region: u32,
}

/// Entries as first read, to be read again: one in 128 pages, which says how much changes among
/// the pages of which nothing else is kept.
#[derive(Clone, Debug)]
pub struct Sample {
    /// First page.
    pub start: u64,
    /// Their entries.
    pub entries: Vec<Entry>,
}

/// Pages in a sample.
pub const SAMPLE_PAGES: u64 = 512;

/// What one task found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The VM.
    pub vm: u32,
    /// Counts by region.
    pub tallies: Vec<(u32, Tally)>,
    /// Pages that others may map too, frames below the window's end.
    pub sightings: Vec<Sighting>,
    /// Which pages those are.
    pub runs: Vec<Run>,
    /// What is mapped by a huge entry whose first page is called exclusive.
    pub huge_runs: Vec<HugeRun>,
    /// What to read again.
    pub sample: Option<Sample>,
    /// The memory went away while it was read.
    pub gone: bool,
}

/// The frames that this pass keeps sightings of: all, or a part where memory is limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// First frame.
    pub start: Pfn,
    /// The frame after the last one.
    pub end: Pfn,
}

impl Window {
    /// Every frame.
    pub const ALL: Self = Self { start: Pfn(0), end: Pfn(1 << 40) };

    /// Is this frame among them?
    pub const fn holds(self, pfn: Pfn) -> bool {
        self.start.0 <= pfn.0 && pfn.0 < self.end.0
    }
}

/// Reads the pages of one task.
pub fn collect(task: &Task, source: &dyn PageSource, window: Window) -> io::Result<Found> {
    let mut found = Found { vm: task.vm, ..Found::default() };
    let mut buffer = [Entry(0); BUFFER];
    let sample_piece = task.pieces.iter().max_by_key(|(piece, _)| piece.pages());
    let sample_at = sample_piece.map(|(piece, _)| sample_start(*piece));
    for &(piece, region) in &task.pieces {
        let mut tally = Tally::default();
        for part in piece.pieces(BUFFER as u64) {
            let want = usize::try_from(part.pages()).unwrap_or(BUFFER);
            let entries = &mut buffer[..want];
            let got = source.facts(part.start, entries)?;
            let entries = &entries[..got];
            count(entries, part.start, region, window, &mut tally, &mut found);
            tally.huge += huge(entries, part.start, source, region, &mut found);
            if found.sample.is_none()
                && let Some(at) = sample_at.filter(|&at| part.start <= at && at < part.end)
            {
                found.sample = sample(entries, part.start, at);
            }
            if got < want {
                found.gone = true;
                found.tallies.push((region, tally));
                return Ok(found);
            }
        }
        found.tallies.push((region, tally));
    }
    Ok(found)
}

fn count(
    entries: &[Entry],
    first: u64,
    region: u32,
    window: Window,
    tally: &mut Tally,
    found: &mut Found,
) {
    let (mut present, mut exclusive, mut exclusive_file) = (0u64, 0u64, 0u64);
    let mut rest = entries;
    while let Some(entry) = rest.first() {
        // Most pages come in stretches of one kind: short loops over one kind are fast ones.
        let page = first + (entries.len() - rest.len()) as u64;
        let own = rest.iter().take_while(|e| e.is_present() && e.is_exclusive()).count();
        if own > 0 {
            present += own as u64;
            exclusive += own as u64;
            exclusive_file += rest[..own].iter().filter(|e| e.is_file()).count() as u64;
            rest = &rest[own..];
            continue;
        }
        let open = rest.iter().take_while(|e| e.is_present() && !e.is_exclusive()).count();
        if open > 0 {
            present += open as u64;
            keep(&rest[..open], page, region, window, found);
            rest = &rest[open..];
            continue;
        }
        match entry.state() {
            State::Swapped => tally.swapped += 1,
            State::InTransit => tally.in_transit += 1,
            State::Absent | State::Marker | State::Present { .. } => {}
        }
        rest = &rest[1..];
    }
    tally.present += present;
    tally.exclusive += exclusive;
    tally.exclusive_file += exclusive_file;
}

/// Keeps sightings of pages that follow one another, those whose frames are in the window.
fn keep(entries: &[Entry], first: u64, region: u32, window: Window, found: &mut Found) {
    if found.sightings.is_empty() {
        // once for all, and not by doubling: what is not used is not touched
        found.sightings.reserve(usize::try_from(TASK_PAGES).unwrap_or(0));
    }
    let sighting = |e: &Entry| Sighting::new(e.pfn(), region, e.is_file());
    if window == Window::ALL {
        found.sightings.extend(entries.iter().map(sighting));
        extend(&mut found.runs, first, entries.len(), region);
        return;
    }
    for (page, entry) in (first..).zip(entries).filter(|(_, e)| window.holds(e.pfn())) {
        found.sightings.push(sighting(entry));
        extend(&mut found.runs, page, 1, region);
    }
}

/// Adds `pages` pages from `page` on to the runs.
fn extend(runs: &mut Vec<Run>, page: u64, pages: usize, region: u32) {
    let len = u32::try_from(pages).unwrap_or(u32::MAX); // a buffer's worth at the most
    match runs.last_mut() {
        Some(run) if run.start + u64::from(run.len) == page && run.region == region => {
            run.len += len;
        }
        _ => runs.push(Run { start: page, len, region }),
    }
}

/// Pages mapped by a huge entry: where the first and the last of 512 entries name the ends of an
/// aligned run of frames the kernel is asked, once; elsewhere they cannot be.
fn huge(
    entries: &[Entry],
    first: u64,
    source: &dyn PageSource,
    region: u32,
    found: &mut Found,
) -> u64 {
    let skip = usize::try_from(first.next_multiple_of(FRAMES) - first).unwrap_or(0);
    let Some(aligned) = entries.get(skip..) else { return 0 };
    let mut pages = 0;
    for (start, chunk) in (first + skip as u64..).step_by(512).zip(aligned.chunks_exact(512)) {
        let (head, tail) = (chunk[0], chunk[511]);
        let contiguous = head.is_present()
            && tail.is_present()
            && head.pfn().0.is_multiple_of(FRAMES)
            && tail.pfn().0 == head.pfn().0 + FRAMES - 1;
        if !contiguous || !source.is_huge(start) {
            continue;
        }
        pages += FRAMES;
        if head.is_exclusive() {
            let (pfn, file, vm) = (head.pfn(), head.is_file(), found.vm);
            found.huge_runs.push(HugeRun { pfn, region, vm, file });
        }
    }
    pages
}

/// Where in a piece to sample: spread by a hash of its place, the same at every run.
fn sample_start(piece: PageRange) -> u64 {
    let slots = piece.pages() / SAMPLE_PAGES;
    if slots == 0 {
        return piece.start;
    }
    let hash = piece.start.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    piece.start + hash % slots * SAMPLE_PAGES
}

fn sample(entries: &[Entry], first: u64, at: u64) -> Option<Sample> {
    let from = usize::try_from(at - first).ok()?;
    let end = entries.len().min(from + usize::try_from(SAMPLE_PAGES).ok()?);
    Some(Sample { start: at, entries: entries.get(from..end)?.to_vec() })
}

impl Found {
    /// Forgets the sightings of frames from `end` on, to save memory; another pass sees them.
    pub fn narrow(&mut self, end: Pfn) {
        let (mut sightings, mut runs) = (Vec::new(), Vec::new());
        let mut next = self.sightings.iter();
        for run in &self.runs {
            for page in run.start..run.start + u64::from(run.len) {
                if let Some(&sighting) = next.next().filter(|s| s.pfn() < end) {
                    sightings.push(sighting);
                    extend(&mut runs, page, 1, run.region);
                }
            }
        }
        self.sightings = sightings;
        self.runs = runs;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(entries: &[Entry], window: Window) -> (Tally, Found) {
        let (mut tally, mut found) = (Tally::default(), Found::default());
        count(entries, 100, 3, window, &mut tally, &mut found);
        (tally, found)
    }

    #[test]
    fn each_page_is_counted_once_and_only_shared_ones_are_kept() {
        let entries = [
            Entry(0),
            Entry::present(Pfn(10), true, false),
            Entry::present(Pfn(11), true, true),
            Entry::present(Pfn(12), false, true),
            Entry::present(Pfn(13), false, false),
            Entry::swapped(0),
            Entry::present(Pfn(14), false, false),
        ];
        let (tally, found) = found(&entries, Window::ALL);
        assert_eq!(
            tally,
            Tally { present: 5, exclusive: 2, exclusive_file: 1, swapped: 1, ..Tally::default() }
        );
        let frames: Vec<u64> = found.sightings.iter().map(|s| s.pfn().0).collect();
        assert_eq!(frames, [12, 13, 14]);
        assert_eq!(
            found.runs,
            [Run { start: 103, len: 2, region: 3 }, Run { start: 106, len: 1, region: 3 }]
        );
    }

    #[test]
    fn a_window_keeps_its_frames_only_and_narrowing_is_the_same() {
        let entries: Vec<Entry> =
            (0..20).map(|i| Entry::present(Pfn(i * 7 % 20), false, false)).collect();
        let window = Window { start: Pfn(0), end: Pfn(9) };
        let (_, narrow) = found(&entries, window);
        let (_, mut all) = found(&entries, Window::ALL);
        all.narrow(window.end);
        assert_eq!(all.sightings, narrow.sightings);
        assert_eq!(all.runs, narrow.runs);
        assert_eq!(narrow.sightings.len(), 9);
    }
}
