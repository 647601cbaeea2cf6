//! Each page's facts, page by page, alike neighbours merged: what `map` and `record` write.

use super::scan::{Scan, ScanError};
use super::sighting::Sighting;
use super::tally::{Verdict, judge};
use crate::abi::pagemap::{Entry, State};
use crate::base::{Mechanism, PageRange, Pfn};
use crate::placement::scanfile::{PageState, Row};
use crate::source::Vm;
use crate::source::host::{FrameFacts, Frames};
use std::collections::HashMap;
use std::io;

/// Pages looked at together.
const BATCH: usize = 8192;

/// How rows are made.
#[derive(Clone, Copy, Debug)]
pub struct Detail {
    /// Tell the frames of unique pages too; rows then end where frames do not follow one another.
    pub unique_frames: bool,
    /// Tell of pages that are absent too.
    pub absent: bool,
}

/// Calls `row` for the pages of every VM that lives, in order. The scan must have kept its
/// sightings.
///
/// Page tables are read once more: a page on a frame on which the scan did not see it has changed,
/// and is called so.
pub fn walk(
    vms: &[Vm],
    scan: &Scan,
    frames: &dyn Frames,
    detail: Detail,
    row: &mut dyn FnMut(&Row) -> io::Result<()>,
) -> Result<(), WalkError> {
    let mut walker = Walker {
        scan,
        frames,
        detail,
        rows: Merger { last: None, out: row },
        known: HashMap::new(),
    };
    for (index, vm) in vms.iter().enumerate() {
        for block in 0..vm.source.blocks().len() {
            walker.block(vm, index, block)?;
        }
    }
    walker.rows.flush().map_err(WalkError::Write)
}

/// Why a walk ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalkError {
    /// The rows could not be taken.
    #[error("a row cannot be written")]
    Write(#[source] io::Error),
    /// The kernel's tables could not be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
}

struct Walker<'a, 'b> {
    scan: &'a Scan,
    frames: &'a dyn Frames,
    detail: Detail,
    rows: Merger<'b>,
    /// Verdicts of the frames of the present batch.
    known: HashMap<Pfn, Judged>,
}

/// What a frame is, and who has it.
#[derive(Clone)]
struct Judged {
    verdict: Verdict,
    vms: Vec<u32>,
    pages: u64,
}

impl Walker<'_, '_> {
    fn block(&mut self, vm: &Vm, index: usize, block: usize) -> Result<(), WalkError> {
        let whole = vm.source.blocks()[block].pages;
        let failed = |source| ScanError::PageTable { vm: vm.name.clone(), source };
        let mut at = whole.start;
        let mut buffer = vec![Entry(0); BATCH];
        for populated in vm.source.populated(whole) {
            self.absent(index, block, whole, at..populated.start)?;
            for batch in populated.pieces(BATCH as u64) {
                let entries = &mut buffer[..usize::try_from(batch.pages()).unwrap_or(0)];
                let got = vm.source.facts(batch.start, entries).map_err(failed)?;
                let entries = &entries[..got];
                self.judge_all(entries)?;
                for (i, &entry) in entries.iter().enumerate() {
                    let page = batch.start + i as u64 - whole.start;
                    self.page(index, block, page, entry)?;
                }
                if entries.len() as u64 != batch.pages() {
                    return Ok(()); // it is gone: its fate says so
                }
            }
            at = populated.end;
        }
        self.absent(index, block, whole, at..whole.end)
    }

    fn absent(
        &mut self,
        vm: usize,
        block: usize,
        whole: PageRange,
        pages: std::ops::Range<u64>,
    ) -> Result<(), WalkError> {
        if !self.detail.absent || pages.is_empty() {
            return Ok(());
        }
        let row = Row {
            page: pages.start - whole.start,
            pages: pages.end - pages.start,
            ..plain(vm, block, PageState::Absent)
        };
        self.rows.push(row).map_err(WalkError::Write)
    }

    /// Judges every frame of a batch that is not exclusive.
    fn judge_all(&mut self, entries: &[Entry]) -> Result<(), WalkError> {
        let mut pfns: Vec<Pfn> = entries
            .iter()
            .filter(|e| e.is_present() && (!e.is_exclusive() || self.scan.exclusive_is_open))
            .map(|e| e.pfn())
            .collect();
        pfns.sort_unstable();
        pfns.dedup();
        let mut facts: Vec<FrameFacts> = Vec::new();
        self.frames.facts(&pfns, &mut facts).map_err(ScanError::Frames)?;
        self.known.clear();
        for (&pfn, &facts) in pfns.iter().zip(&facts) {
            let seen = seen_on(&self.scan.sightings, pfn);
            if !seen.is_empty() {
                let vms = self.scan.places.vms(seen, &self.scan.regions);
                let verdict = judge(seen, facts, &self.scan.places);
                let pages = self.scan.places.pages(seen);
                self.known.insert(pfn, Judged { verdict, vms, pages });
            }
        }
        Ok(())
    }

    fn page(&mut self, vm: usize, block: usize, page: u64, entry: Entry) -> Result<(), WalkError> {
        let mut row = match entry.state() {
            State::Absent | State::Marker => {
                if !self.detail.absent {
                    return Ok(());
                }
                plain(vm, block, PageState::Absent)
            }
            State::Swapped => plain(vm, block, PageState::Swapped),
            State::InTransit => plain(vm, block, PageState::Changed),
            State::Present { pfn, exclusive: true, .. } if !self.is_owed(vm, pfn) => Row {
                pfn: self.detail.unique_frames.then_some(pfn),
                ..plain(vm, block, PageState::Unique)
            },
            State::Present { pfn, .. } => self.shared(vm, block, pfn),
        };
        row.page = page;
        row.file = entry.is_present() && entry.is_file();
        self.rows.push(row).map_err(WalkError::Write)
    }

    /// Is this page of a huge mapping shared, although the kernel calls it exclusive?
    fn is_owed(&self, vm: usize, pfn: Pfn) -> bool {
        self.scan.exclusive_is_open
            && self.known.get(&pfn).is_some_and(|j| j.vms.iter().any(|&v| v as usize == vm))
    }

    fn shared(&self, vm: usize, block: usize, pfn: Pfn) -> Row {
        let changed = plain(vm, block, PageState::Changed);
        let Some(judged) = self.known.get(&pfn) else { return changed };
        // The zero page is everyone's: nobody is named.
        let (mechanism, outside, sharers) = match judged.verdict {
            Verdict::Contradicted => return changed,
            Verdict::Zero => (Mechanism::Zero, false, Vec::new()),
            Verdict::Shared { mechanism, outside, .. } => (mechanism, outside, judged.vms.clone()),
        };
        if mechanism != Mechanism::Zero && !sharers.iter().any(|&s| s as usize == vm) {
            return changed; // on a frame on which this VM was not seen
        }
        if mechanism != Mechanism::Zero && judged.pages == 1 && !outside {
            // not called exclusive, and yet nobody else has it
            let pfn = self.detail.unique_frames.then_some(pfn);
            return Row { pfn, ..plain(vm, block, PageState::Unique) };
        }
        let pfn = (mechanism != Mechanism::Zero).then_some(pfn);
        Row { pfn, sharers, outside, ..plain(vm, block, PageState::Shared(mechanism)) }
    }
}

/// A row of one page without frame or sharers.
fn plain(vm: usize, block: usize, state: PageState) -> Row {
    Row {
        vm: u32::try_from(vm).unwrap_or(u32::MAX),
        block: u32::try_from(block).unwrap_or(u32::MAX),
        page: 0,
        pages: 1,
        state,
        file: false,
        pfn: None,
        sharers: Vec::new(),
        outside: false,
    }
}

/// The sightings of one frame.
pub fn seen_on(sightings: &[Sighting], pfn: Pfn) -> &[Sighting] {
    let start = sightings.partition_point(|s| s.pfn() < pfn);
    let end = start + sightings[start..].iter().take_while(|s| s.pfn() == pfn).count();
    &sightings[start..end]
}

/// Joins rows that continue one another.
struct Merger<'b> {
    last: Option<Row>,
    out: &'b mut dyn FnMut(&Row) -> io::Result<()>,
}

impl Merger<'_> {
    fn push(&mut self, row: Row) -> io::Result<()> {
        if let Some(last) = &mut self.last
            && continues(last, &row)
        {
            last.pages += row.pages;
            return Ok(());
        }
        self.flush()?;
        self.last = Some(row);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.last.take() {
            Some(row) => (self.out)(&row),
            None => Ok(()),
        }
    }
}

fn continues(last: &Row, row: &Row) -> bool {
    let frames = match (last.pfn, row.pfn) {
        (Some(a), Some(b)) => a.0 + last.pages == b.0,
        (None, None) => true,
        _ => false,
    };
    frames
        && last.vm == row.vm
        && last.block == row.block
        && last.page + last.pages == row.page
        && last.state == row.state
        && last.file == row.file
        && last.outside == row.outside
        && last.sharers == row.sharers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(page: u64, pfn: u64) -> Row {
        Row { page, pfn: Some(Pfn(pfn)), ..plain(0, 0, PageState::Unique) }
    }

    #[test]
    fn neighbours_on_neighbouring_frames_are_one_row() {
        let mut rows = Vec::new();
        let mut take = |row: &Row| {
            rows.push((row.page, row.pages));
            Ok(())
        };
        let mut merger = Merger { last: None, out: &mut take };
        for r in [row(0, 10), row(1, 11), row(2, 13), row(4, 14)] {
            merger.push(r).unwrap();
        }
        merger.flush().unwrap();
        assert_eq!(rows, [(0, 2), (2, 1), (4, 1)]);
    }

    #[test]
    fn the_sightings_of_a_frame_are_found() {
        let s: Vec<Sighting> =
            [(1, 0), (3, 0), (3, 1), (4, 2)].map(|(p, r)| Sighting::new(Pfn(p), r, false)).to_vec();
        assert_eq!(seen_on(&s, Pfn(3)).len(), 2);
        assert!(seen_on(&s, Pfn(2)).is_empty());
        assert!(seen_on(&[], Pfn(2)).is_empty());
    }
}
