//! From sightings to groups: which set of VMs stands behind how many frames.

use super::sighting::{Region, Sighting};
use crate::abi::vma::FileId;
use crate::base::mechanism::ByMechanism;
use crate::base::{Mechanism, Pfn};
use crate::source::host::{FrameFacts, Frames};
use rayon::prelude::*;
use std::collections::HashMap;
use std::io;

/// One part in this many of a page: the kernel's own unit for proportional set size
/// (`PSS_SHIFT` in `fs/proc/task_mmu.c`).
pub const PSS_UNIT: u64 = 4096;

/// Frames of which the kernel is asked at once.
const BATCH: usize = 8192;

/// A set of sharers.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Sharers {
    /// The VMs of the scan that map the frame, by position, ascending.
    pub vms: Box<[u32]>,
    /// Something that was not scanned maps it too.
    pub outside: bool,
    /// It is a page of the template that was named.
    pub template: bool,
}

/// What one region has of frames that are not exclusive. Counted in pages of the region.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Share {
    /// On frames that others map too, or that this VM maps more than once (each after the first).
    pub by: ByMechanism,
    /// Frames that only this VM maps, although more than once.
    pub own: u64,
    /// Pages on frames that something outside the scan maps too.
    pub outside: u64,
    /// Proportional share of the frames, in 1/[`PSS_UNIT`] of a page.
    pub pss: u64,
    /// Withdrawn: the kernel counts fewer mappings of the frame than were seen.
    pub contradicted: u64,
}

/// What a set of sightings amounts to.
#[derive(Clone, Default, Debug)]
pub struct FrameTally {
    /// Frames by their sharers and mechanism.
    pub groups: HashMap<Sharers, ByMechanism>,
    /// By region.
    pub regions: Vec<Share>,
}

impl FrameTally {
    /// Adds another.
    pub fn merge(&mut self, other: Self) {
        for (sharers, by) in other.groups {
            self.groups.entry(sharers).or_default().merge(&by);
        }
        self.regions.resize(self.regions.len().max(other.regions.len()), Share::default());
        for (mine, theirs) in self.regions.iter_mut().zip(other.regions) {
            mine.by.merge(&theirs.by);
            mine.own += theirs.own;
            mine.outside += theirs.outside;
            mine.pss += theirs.pss;
            mine.contradicted += theirs.contradicted;
        }
    }
}

/// Sorts the sightings and finds the sharers of every frame. Uses the threads of the pool that it
/// is called in.
pub fn tally(
    sightings: &mut [Sighting],
    regions: &[Region],
    template: Option<FileId>,
    frames: &dyn Frames,
) -> io::Result<FrameTally> {
    let threads = rayon::current_num_threads();
    if threads > 1 {
        sightings.par_sort_unstable();
    } else {
        sightings.sort_unstable();
    }
    let end = sightings.partition_point(|&s| s != Sighting::WITHDRAWN);
    by_frame_chunks(&sightings[..end], threads)
        .into_par_iter()
        .map(|chunk| Walk::new(regions, template).run(chunk, frames))
        .try_reduce(FrameTally::default, |mut a, b| {
            a.merge(b);
            Ok(a)
        })
}

/// Sorted sightings in about `parts` parts, none of which divides a frame.
fn by_frame_chunks(mut sightings: &[Sighting], parts: usize) -> Vec<&[Sighting]> {
    let size = sightings.len().div_ceil(parts.max(1)).max(1);
    let mut chunks = Vec::new();
    while !sightings.is_empty() {
        let (chunk, rest) = sightings.split_at(frame_end(sightings, size));
        chunks.push(chunk);
        sightings = rest;
    }
    chunks
}

/// The first end of a frame at or after `at`.
fn frame_end(sightings: &[Sighting], at: usize) -> usize {
    if at >= sightings.len() {
        return sightings.len();
    }
    let pfn = sightings[at - 1].pfn();
    at + sightings[at..].iter().take_while(|s| s.pfn() == pfn).count()
}

/// Walks sorted sightings frame by frame.
struct Walk<'a> {
    regions: &'a [Region],
    template: Option<FileId>,
    out: FrameTally,
    /// Neighbouring frames mostly have the same sharers: they are counted here and entered in the
    /// map when the sharers change.
    last: Sharers,
    pending: ByMechanism,
    vms: Vec<u32>,
}

impl<'a> Walk<'a> {
    fn new(regions: &'a [Region], template: Option<FileId>) -> Self {
        let out =
            FrameTally { groups: HashMap::new(), regions: vec![Share::default(); regions.len()] };
        let last = Sharers { vms: Box::new([]), outside: false, template: false };
        Self { regions, template, out, last, pending: ByMechanism::default(), vms: Vec::new() }
    }

    fn run(mut self, mut sightings: &[Sighting], frames: &dyn Frames) -> io::Result<FrameTally> {
        let (mut pfns, mut facts): (Vec<Pfn>, Vec<FrameFacts>) = (Vec::new(), Vec::new());
        while !sightings.is_empty() {
            let (batch, rest) = sightings.split_at(frame_end(sightings, BATCH));
            sightings = rest;
            let by_frame = || batch.chunk_by(|a, b| a.pfn() == b.pfn());
            pfns.clear();
            pfns.extend(by_frame().map(|frame| frame[0].pfn()));
            frames.facts(&pfns, &mut facts)?;
            for (frame, facts) in by_frame().zip(&facts) {
                self.frame(frame, *facts);
            }
        }
        self.flush();
        Ok(self.out)
    }

    fn frame(&mut self, frame: &[Sighting], facts: FrameFacts) {
        let (mechanism, outside, kernels) = match judge(frame, facts, self.regions) {
            Verdict::Zero => {
                frame.iter().for_each(|&s| self.share(s).by.zero += 1);
                return;
            }
            Verdict::Contradicted => {
                frame.iter().for_each(|&s| self.share(s).contradicted += 1);
                return;
            }
            Verdict::Shared { mechanism, outside, kernels } => (mechanism, outside, kernels),
        };
        let seen = frame.len() as u64;
        self.vms.clear();
        for s in frame {
            let vm = self.regions[s.region() as usize].vm;
            if self.vms.last() != Some(&vm) {
                self.vms.push(vm);
            }
        }
        let alone = self.vms.len() == 1 && !outside;
        let pss = if kernels { 0 } else { PSS_UNIT / facts.mapped.max(seen) };
        for (i, s) in frame.iter().enumerate() {
            let share = self.share(*s);
            share.pss += pss;
            share.outside += u64::from(outside);
            if alone && i == 0 {
                share.own += 1;
            } else {
                share.by.add(mechanism, 1);
            }
        }
        let template = self.template.is_some()
            && matches!(mechanism, Mechanism::File | Mechanism::Shmem)
            && frame.iter().any(|s| self.regions[s.region() as usize].file == self.template);
        self.enter(outside, template, mechanism);
    }

    fn share(&mut self, s: Sighting) -> &mut Share {
        &mut self.out.regions[s.region() as usize]
    }

    fn enter(&mut self, outside: bool, template: bool, mechanism: Mechanism) {
        let same = *self.last.vms == *self.vms
            && self.last.outside == outside
            && self.last.template == template;
        if !same {
            self.flush();
            self.last = Sharers { vms: self.vms.as_slice().into(), outside, template };
        }
        self.pending.add(mechanism, 1);
    }

    fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        if pending != ByMechanism::default() {
            self.out.groups.entry(self.last.clone()).or_default().merge(&pending);
        }
    }
}

/// What the sightings of one frame and the kernel's word for it amount to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The kernel's page of zeros.
    Zero,
    /// It was seen more often than it is mapped: something has changed in between.
    Contradicted,
    /// A frame behind these sightings.
    Shared {
        /// Through what.
        mechanism: Mechanism,
        /// Processes outside the scan, or the kernel itself, map it too.
        outside: bool,
        /// A page of the kernel's own, such as vvar: mapped without being counted.
        kernels: bool,
    },
}

/// Judges one frame by all of its sightings.
pub fn judge(frame: &[Sighting], facts: FrameFacts, regions: &[Region]) -> Verdict {
    if facts.flags.is_zero_page() {
        return Verdict::Zero;
    }
    let seen = frame.len() as u64;
    let kernels = facts.mapped == 0 && !facts.flags.is_anon();
    // The count of a large folio can be an average, which contradicts nothing.
    if seen > facts.mapped && !kernels && !facts.flags.is_large() {
        return Verdict::Contradicted;
    }
    let mechanism = if facts.flags.is_ksm() {
        Mechanism::Ksm
    } else if facts.flags.is_anon() {
        Mechanism::Fork
    } else if frame.iter().any(|s| !regions[s.region() as usize].shared) {
        Mechanism::File
    } else {
        Mechanism::Shmem
    };
    Verdict::Shared { mechanism, outside: kernels || facts.mapped > seen, kernels }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::kpageflags::PageFlags;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const ANON: u64 = 1 << 12;
    const KSM: u64 = 1 << 21 | ANON;
    const ZERO: u64 = 1 << 24;

    struct Table(BTreeMap<u64, (u64, u64)>);

    impl Frames for Table {
        fn facts(&self, pfns: &[Pfn], out: &mut Vec<FrameFacts>) -> io::Result<()> {
            out.clear();
            out.extend(pfns.iter().map(|pfn| {
                let (mapped, flags) = self.0[&pfn.0];
                FrameFacts { mapped, flags: PageFlags(flags) }
            }));
            Ok(())
        }
    }

    fn region(vm: u32, file: Option<u64>, shared: bool) -> Region {
        let file = file.map(|inode| FileId { device: 1, inode });
        Region { vm, file, shared, name: String::new() }
    }

    fn run(
        seen: &[(u64, u32)],
        regions: &[Region],
        table: &[(u64, (u64, u64))],
        template: Option<FileId>,
    ) -> FrameTally {
        let mut s: Vec<Sighting> =
            seen.iter().map(|&(pfn, region)| Sighting::new(Pfn(pfn), region)).collect();
        s.push(Sighting::WITHDRAWN);
        let table = Table(table.iter().copied().collect());
        tally(&mut s, regions, template, &table).unwrap()
    }

    fn group(vms: &[u32], outside: bool) -> Sharers {
        Sharers { vms: vms.into(), outside, template: false }
    }

    #[test]
    fn each_mechanism_is_told_by_the_frame() {
        let regions = [region(0, None, false), region(0, Some(9), true), region(1, Some(9), false)];
        let t = run(
            &[(1, 0), (1, 2), (2, 0), (2, 2), (3, 1), (3, 2), (4, 1), (5, 0), (5, 2)],
            &regions,
            &[(1, (2, KSM)), (2, (2, ANON)), (3, (2, 0)), (4, (2, 0)), (5, (900, ZERO))],
            None,
        );
        let both = t.groups[&group(&[0, 1], false)];
        assert_eq!(both, ByMechanism { ksm: 1, fork: 1, file: 1, ..Default::default() });
        let outside = t.groups[&group(&[0], true)];
        assert_eq!(outside, ByMechanism { shmem: 1, ..Default::default() });
        assert_eq!(t.regions[0].by, ByMechanism { ksm: 1, fork: 1, zero: 1, ..Default::default() });
        assert_eq!(t.regions[1].outside, 1);
    }

    #[test]
    fn a_frame_that_one_vm_maps_twice_is_its_own_once() {
        let t = run(&[(1, 0), (1, 0), (1, 0)], &[region(0, None, false)], &[(1, (3, KSM))], None);
        assert_eq!((t.regions[0].own, t.regions[0].by.ksm), (1, 2));
        assert_eq!(t.groups[&group(&[0], false)].ksm, 1);
        assert_eq!(t.regions[0].pss, 3 * (PSS_UNIT / 3));
    }

    #[test]
    fn more_sightings_than_mappings_are_withdrawn() {
        let regions = [region(0, None, false), region(1, None, false)];
        let t = run(&[(1, 0), (1, 1)], &regions, &[(1, (1, ANON))], None);
        assert!(t.groups.is_empty());
        assert_eq!((t.regions[0].contradicted, t.regions[1].contradicted), (1, 1));
        // of a large folio the count is an average and contradicts nothing
        let t = run(&[(1, 0), (1, 1)], &regions, &[(1, (1, ANON | 1 << 22))], None);
        assert_eq!(t.groups[&group(&[0, 1], false)].fork, 1);
    }

    #[test]
    fn pages_of_the_template_are_told_apart() {
        let regions = [region(0, Some(7), false), region(1, Some(7), false)];
        let id = FileId { device: 1, inode: 7 };
        let seen = [(1, 0), (1, 1), (2, 0), (2, 1)];
        let t = run(&seen, &regions, &[(1, (2, 0)), (2, (2, ANON))], Some(id));
        let key = Sharers { vms: [0, 1].into(), outside: false, template: true };
        assert_eq!(t.groups[&key].file, 1);
        assert_eq!(t.groups[&group(&[0, 1], false)].fork, 1);
    }

    proptest! {
        /// Against a slow count with sets, for any sightings and any number of threads.
        #[test]
        fn groups_are_those_of_a_slow_count(seen in prop::collection::vec((0u64..40, 0u32..6), 0..300), threads in 1usize..4) {
            let regions: Vec<Region> = (0..6).map(|r| region(r / 2, None, false)).collect();
            let mut frames: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
            for &(pfn, r) in &seen {
                frames.entry(pfn).or_default().push(r);
            }
            let table: Vec<(u64, (u64, u64))> =
                frames.iter().map(|(&pfn, v)| (pfn, (v.len() as u64 + pfn % 2, KSM))).collect();
            let mut expected: BTreeMap<(BTreeSet<u32>, bool), u64> = BTreeMap::new();
            for (pfn, rs) in &frames {
                let vms = rs.iter().map(|r| r / 2).collect();
                *expected.entry((vms, pfn % 2 == 1)).or_default() += 1;
            }
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let t = pool.install(|| run(&seen, &regions, &table, None));
            let got: BTreeMap<(BTreeSet<u32>, bool), u64> = t.groups.iter()
                .map(|(k, by)| ((k.vms.iter().copied().collect(), k.outside), by.ksm)).collect();
            prop_assert_eq!(got, expected);
            let pages: u64 = t.regions.iter().map(|r| r.own + r.by.total()).sum();
            prop_assert_eq!(pages, seen.len() as u64);
        }
    }
}
