//! Pages of huge mappings that the kernel calls exclusive and that are not.
//!
//! Since Linux 6.15 the bit "mapped exclusively" of all 512 entries of a huge mapping is that of
//! the first page (`fs/proc/task_mmu.c`, `pagemap_pmd_range`). After a fork, a write of the child
//! divides its own mapping and not the parent's: where the first page was written, the parent's
//! other pages are called exclusive although the child still maps them. So the kernel is asked how
//! often each frame of such a mapping is mapped; it costs 33 us a huge page.

use super::collect::{Found, Tally, Window};
use super::sighting::Sighting;
use crate::base::Pfn;
use crate::source::host::Frames;
use rayon::prelude::*;
use std::io;

/// Frames of a huge mapping.
pub const FRAMES: u64 = 512;

/// A huge mapping of 512 consecutive frames, whose first is called exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HugeRun {
    /// First frame.
    pub pfn: Pfn,
    /// The region.
    pub region: u32,
    /// The VM.
    pub vm: u32,
    /// Pages of a file or of shared memory.
    pub file: bool,
}

/// Adds the sightings that huge mappings owe of frames in the window, and takes their pages from
/// the exclusive ones; tells whether there were any.
pub fn settle(
    found: &mut Vec<Found>,
    tallies: &mut [Tally],
    window: Window,
    frames: &dyn Frames,
) -> io::Result<bool> {
    let runs: Vec<HugeRun> = found.iter().flat_map(|f| f.huge_runs.iter().copied()).collect();
    let owed: Vec<(HugeRun, Vec<Sighting>)> = runs
        .into_par_iter()
        .map(|run| Ok((run, owed(run, window, frames)?)))
        .collect::<io::Result<_>>()?;
    let mut any = false;
    for (run, sightings) in owed.into_iter().filter(|(_, sightings)| !sightings.is_empty()) {
        let pages = sightings.len() as u64;
        let tally = &mut tallies[run.region as usize];
        tally.exclusive = tally.exclusive.saturating_sub(pages);
        tally.exclusive_file =
            tally.exclusive_file.saturating_sub(if run.file { pages } else { 0 });
        found.push(Found { vm: run.vm, sightings, ..Found::default() });
        any = true;
    }
    Ok(any)
}

/// Sightings of those frames of a huge mapping that are mapped more than once.
fn owed(run: HugeRun, window: Window, frames: &dyn Frames) -> io::Result<Vec<Sighting>> {
    let pfns: Vec<Pfn> = (run.pfn.0..run.pfn.0 + FRAMES).map(Pfn).collect();
    let mut counts = Vec::new();
    frames.counts(&pfns, &mut counts)?;
    let shared = pfns.iter().zip(&counts).filter(|(pfn, count)| **count > 1 && window.holds(**pfn));
    Ok(shared.map(|(pfn, _)| Sighting::new(*pfn, run.region, run.file)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::kpageflags::PageFlags;

    struct Counts;

    impl Frames for Counts {
        fn counts(&self, pfns: &[Pfn], out: &mut Vec<u64>) -> io::Result<()> {
            out.clear();
            out.extend(pfns.iter().map(|pfn| if [1030, 1100].contains(&pfn.0) { 2 } else { 1 }));
            Ok(())
        }

        fn flags(&self, _: &[Pfn], _: &mut Vec<PageFlags>) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_frame_that_is_mapped_twice_is_no_longer_exclusive() {
        let run = HugeRun { pfn: Pfn(1024), region: 0, vm: 3, file: false };
        let mut found = vec![Found { vm: 3, huge_runs: vec![run], ..Found::default() }];
        let mut tallies = [Tally { present: 512, exclusive: 512, ..Tally::default() }];
        let window = Window { start: Pfn(0), end: Pfn(1100) };
        assert!(settle(&mut found, &mut tallies, window, &Counts).unwrap());
        let added: Vec<u64> = found[1].sightings.iter().map(|s| s.pfn().0).collect();
        assert_eq!((found[1].vm, added, tallies[0].exclusive), (3, vec![1030], 511));
    }
}
