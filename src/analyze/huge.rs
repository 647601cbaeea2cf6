//! Pages of huge mappings that the kernel calls exclusive and that are not.
//!
//! Since Linux 6.15 the bit "mapped exclusively" of all 512 entries of a huge mapping is that of
//! the first page (`fs/proc/task_mmu.c`, `pagemap_pmd_range`). After a fork, a write of the child
//! divides its own mapping and not the parent's: where the first page was written, the parent's
//! other pages are called exclusive although the child still maps them. Others that were scanned
//! have sightings of those frames: where one falls into a huge mapping, its owner has the page too.
//! Sharing with nobody but processes outside the scan is not found this way.

use super::collect::{Found, Tally};
use super::sighting::Sighting;
use crate::base::Pfn;
use std::collections::{BTreeSet, HashMap};

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

/// Adds the sightings that huge mappings owe, and takes their pages from the exclusive ones; tells
/// whether there were any.
pub fn settle(found: &mut Vec<Found>, tallies: &mut [Tally]) -> bool {
    let mut runs: HashMap<u64, Vec<HugeRun>> = HashMap::new();
    for run in found.iter().flat_map(|f| &f.huge_runs) {
        runs.entry(run.pfn.0 / FRAMES).or_default().push(*run);
    }
    if runs.is_empty() {
        return false;
    }
    let mut owed: BTreeSet<(u64, u32, u32, bool)> = BTreeSet::new();
    for sighting in found.iter().flat_map(|f| &f.sightings) {
        if *sighting == Sighting::WITHDRAWN {
            continue;
        }
        let pfn = sighting.pfn().0;
        for run in runs.get(&(pfn / FRAMES)).into_iter().flatten() {
            owed.insert((pfn, run.region, run.vm, run.file));
        }
    }
    let mut by_vm: HashMap<u32, Vec<Sighting>> = HashMap::new();
    for (pfn, region, vm, file) in owed {
        by_vm.entry(vm).or_default().push(Sighting::new(Pfn(pfn), region, file));
        let tally = &mut tallies[region as usize];
        tally.exclusive = tally.exclusive.saturating_sub(1);
        tally.exclusive_file = tally.exclusive_file.saturating_sub(u64::from(file));
    }
    let part = |(vm, sightings)| Found { vm, sightings, ..Found::default() };
    let any = !by_vm.is_empty();
    found.extend(by_vm.into_iter().map(part));
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_another_sees_is_the_owners_too_and_no_longer_exclusive() {
        let run = HugeRun { pfn: Pfn(1024), region: 0, vm: 0, file: false };
        let owner = Found { vm: 0, huge_runs: vec![run], ..Found::default() };
        let seen = [1024, 1030, 1030, 1536].map(|pfn| Sighting::new(Pfn(pfn), 1, false));
        let other = Found { vm: 1, sightings: seen.to_vec(), ..Found::default() };
        let mut tallies = [Tally { present: 512, exclusive: 512, ..Tally::default() }; 2];
        let mut found = vec![owner, other];
        assert!(settle(&mut found, &mut tallies));
        let added: Vec<u64> = found[2].sightings.iter().map(|s| s.pfn().0).collect();
        assert_eq!((found[2].vm, added), (0, vec![1024, 1030]));
        assert_eq!((tallies[0].exclusive, tallies[1].exclusive), (510, 512));
    }
}
