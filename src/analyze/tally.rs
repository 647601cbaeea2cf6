//! From sightings to groups: which set of VMs stands behind how many frames.

use super::fold::Places;
use super::sighting::{Region, Sighting};
use crate::abi::kpageflags::PageFlags;
use crate::abi::vma::FileId;
use crate::base::mechanism::ByMechanism;
use crate::base::{Mechanism, Pfn};
use crate::source::host::{FrameFacts, Frames};
use rayon::prelude::*;
use std::collections::HashMap;
use std::io;

/// One part in this many of a page: bytes and the kernel's own fraction of them for proportional
/// set size (`PSS_SHIFT` in `fs/proc/task_mmu.c`).
pub const PSS_UNIT: u64 = 4096 << 12;

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

/// What all sightings must be judged by.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// The regions.
    pub regions: &'a [Region],
    /// Which regions the places of the sightings are.
    pub places: &'a Places,
    /// The file whose pages are told apart.
    pub template: Option<FileId>,
}

/// Sorts the sightings by frame and finds the sharers of every frame; returns, with the counts,
/// the sorted sightings in ascending parts. Each thread of the pool that this is called in has a
/// range of frames for itself.
pub fn tally(
    sightings: Vec<Sighting>,
    ground: Ground<'_>,
    frames: &dyn Frames,
) -> io::Result<(FrameTally, Vec<Vec<Sighting>>)> {
    let ranges: Vec<Vec<Sighting>> = match pivots(&sightings, rayon::current_num_threads()) {
        pivots if pivots.is_empty() => vec![sightings],
        pivots => {
            let ends = pivots.iter().copied().chain([Pfn(u64::MAX)]);
            let starts = [Pfn(0)].into_iter().chain(pivots.iter().copied());
            let bounds: Vec<(Pfn, Pfn)> = starts.zip(ends).collect();
            let between = |&(start, end): &(Pfn, Pfn)| {
                let inside = |s: &Sighting| start <= s.pfn() && s.pfn() < end;
                sightings.iter().copied().filter(inside).collect()
            };
            bounds.par_iter().map(between).collect()
        }
    };
    let tallied: Vec<(FrameTally, Vec<Sighting>)> = ranges
        .into_par_iter()
        .map(|mut range| {
            sort(&mut range);
            Ok((Walk::new(ground).run(&range, frames)?, range))
        })
        .collect::<io::Result<_>>()?;
    let mut whole = FrameTally::default();
    let mut sorted = Vec::with_capacity(tallied.len());
    for (tally, range) in tallied {
        whole.merge(tally);
        sorted.push(range);
    }
    Ok((whole, sorted))
}

/// Frames that divide the sightings into `parts` ranges of about the same size.
fn pivots(sightings: &[Sighting], parts: usize) -> Vec<Pfn> {
    if parts < 2 {
        return Vec::new();
    }
    // one in 64 tells well enough where the middle is
    let mut some: Vec<Pfn> = sightings.iter().step_by(64).map(|s| s.pfn()).collect();
    some.sort_unstable();
    let mut pivots: Vec<Pfn> =
        (1..parts).filter_map(|i| some.get(some.len() * i / parts).copied()).collect();
    pivots.dedup();
    pivots
}

/// Sorts by frame, and keeps the order in which a frame was seen.
fn sort(sightings: &mut [Sighting]) {
    let top = sightings.iter().map(|s| s.pfn()).max().unwrap_or_default();
    match u32::try_from(top.0) {
        // fewer digits for the radix: below 16 TiB of memory
        Ok(_) => radsort::sort_by_key(sightings, |s| u32::try_from(s.pfn().0).unwrap_or(u32::MAX)),
        Err(_) => radsort::sort_by_key(sightings, |s| s.pfn().0),
    }
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
///
/// Neighbouring frames mostly have the same sharers in the same regions: then only their number is
/// counted, and entered when something else comes.
struct Walk<'a> {
    ground: Ground<'a>,
    out: FrameTally,
    /// The sightings of the last frame, how often it is mapped, and what it is.
    last: Vec<Sighting>,
    mapped: u64,
    verdict: Verdict,
    /// How many frames in a row were like it.
    alike: u64,
}

impl<'a> Walk<'a> {
    fn new(ground: Ground<'a>) -> Self {
        let regions = vec![Share::default(); ground.regions.len()];
        let out = FrameTally { groups: HashMap::new(), regions };
        Self { ground, out, last: Vec::new(), mapped: 0, verdict: Verdict::Zero, alike: 0 }
    }

    fn run(mut self, mut sightings: &[Sighting], frames: &dyn Frames) -> io::Result<FrameTally> {
        let (mut pfns, mut counts, mut asked, mut flags) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        while !sightings.is_empty() {
            let (batch, rest) = sightings.split_at(frame_end(sightings, BATCH));
            sightings = rest;
            let by_frame = || batch.chunk_by(|a, b| a.pfn() == b.pfn());
            pfns.clear();
            pfns.extend(by_frame().map(|frame| frame[0].pfn()));
            frames.counts(&pfns, &mut counts)?;
            // flags only of those that the count leaves open
            asked.clear();
            let open = by_frame().zip(&counts).filter(|(f, mapped)| self.is_open(f, **mapped));
            asked.extend(open.map(|(frame, _)| frame[0].pfn()));
            frames.flags(&asked, &mut flags)?;
            let mut answers = asked.iter().zip(&flags).peekable();
            for (frame, &mapped) in by_frame().zip(&counts) {
                let flags = answers.next_if(|(pfn, _)| **pfn == frame[0].pfn()).map(|(_, f)| *f);
                self.frame(frame, mapped, flags);
            }
        }
        self.enter();
        Ok(self.out)
    }

    /// Must the kernel be asked what this frame is? Not a page of a file that is mapped as often
    /// as it should be, and not anonymous memory that no KSM can have merged.
    fn is_open(&self, frame: &[Sighting], mapped: u64) -> bool {
        let places = self.ground.places;
        mapped < places.pages(frame)
            || (!frame[0].is_file() && frame.iter().all(|s| places.of(s.place()).may_be_merged))
    }

    fn frame(&mut self, frame: &[Sighting], mapped: u64, flags: Option<PageFlags>) {
        let flags = flags.unwrap_or_else(|| PageFlags::plain(!frame[0].is_file()));
        let verdict = judge(frame, FrameFacts { mapped, flags }, self.ground.places);
        let alike = self.verdict == verdict
            && self.mapped == mapped
            && self.last.len() == frame.len()
            && self.last.iter().zip(frame).all(|(a, b)| a.place() == b.place());
        if !alike {
            self.enter();
            self.last.clear();
            self.last.extend_from_slice(frame);
            (self.mapped, self.verdict, self.alike) = (mapped, verdict, 0);
        }
        self.alike += 1;
    }

    /// Enters the frames that were alike.
    fn enter(&mut self) {
        let (frames, ground) = (self.alike, self.ground);
        if frames == 0 {
            return;
        }
        let pages: Vec<usize> = ground.places.regions(&self.last).map(|r| r as usize).collect();
        let shares = &mut self.out.regions;
        let (mechanism, outside, kernels) = match self.verdict {
            Verdict::Zero => {
                pages.iter().for_each(|&r| shares[r].by.zero += frames);
                return;
            }
            Verdict::Contradicted => {
                pages.iter().for_each(|&r| shares[r].contradicted += frames);
                return;
            }
            Verdict::Shared { mechanism, outside, kernels } => (mechanism, outside, kernels),
        };
        let vms = ground.places.vms(&self.last, ground.regions);
        let alone = vms.len() == 1 && !outside;
        let pss = if kernels { 0 } else { PSS_UNIT / self.mapped.max(pages.len() as u64) };
        for (i, &region) in pages.iter().enumerate() {
            let share = &mut shares[region];
            share.pss += pss * frames;
            if outside {
                share.outside += frames;
            }
            if alone && i == 0 {
                share.own += frames;
            } else {
                share.by.add(mechanism, frames);
            }
        }
        let template = ground.template.is_some()
            && matches!(mechanism, Mechanism::File | Mechanism::Shmem)
            && pages.iter().any(|&r| ground.regions[r].file == ground.template);
        let sharers = Sharers { vms: vms.into(), outside, template };
        self.out.groups.entry(sharers).or_default().add(mechanism, frames);
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
pub fn judge(frame: &[Sighting], facts: FrameFacts, places: &Places) -> Verdict {
    if facts.flags.is_zero_page() {
        return Verdict::Zero;
    }
    let seen = places.pages(frame);
    // A frame that was freed in between is mapped by nobody and anonymous no longer: only a page
    // that is in no list of the kernel's is its own.
    let kernels = facts.mapped == 0 && facts.flags.is_kernels();
    let file = frame[0].is_file();
    let another =
        !kernels && file == facts.flags.is_anon() || frame.iter().any(|s| s.is_file() != file);
    // The count of a large folio can be an average, which contradicts nothing.
    if another || seen > facts.mapped && !kernels && !facts.flags.is_large() {
        return Verdict::Contradicted;
    }
    let mechanism = if facts.flags.is_ksm() {
        Mechanism::Ksm
    } else if facts.flags.is_anon() {
        Mechanism::Fork
    } else if places.any_private(frame) {
        Mechanism::File
    } else {
        Mechanism::Shmem
    };
    Verdict::Shared { mechanism, outside: kernels || facts.mapped > seen, kernels }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::fold::fold;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const ANON: u64 = 1 << 12;
    const KSM: u64 = 1 << 21 | ANON;
    const ZERO: u64 = 1 << 24;

    struct Table(BTreeMap<u64, (u64, u64)>);

    impl Frames for Table {
        fn counts(&self, pfns: &[Pfn], out: &mut Vec<u64>) -> io::Result<()> {
            out.clear();
            out.extend(pfns.iter().map(|pfn| self.0[&pfn.0].0));
            Ok(())
        }

        fn flags(&self, pfns: &[Pfn], out: &mut Vec<PageFlags>) -> io::Result<()> {
            out.clear();
            out.extend(pfns.iter().map(|pfn| PageFlags(self.0[&pfn.0].1)));
            Ok(())
        }
    }

    fn region(vm: u32, file: Option<u64>, shared: bool) -> Region {
        let file = file.map(|inode| FileId { device: 1, inode });
        Region { vm, file, shared, may_be_merged: true, name: String::new() }
    }

    fn run(
        seen: &[(u64, u32)],
        regions: &[Region],
        table: &[(u64, (u64, u64))],
        template: Option<FileId>,
    ) -> FrameTally {
        let table = Table(table.iter().copied().collect());
        let file = |pfn: &u64| table.0[pfn].1 & (ANON | ZERO) == 0;
        let mut parts: Vec<Vec<Sighting>> = vec![vec![Sighting::WITHDRAWN], Vec::new()];
        for vm in 0..regions.len() {
            let of_vm = seen.iter().filter(|(_, r)| *r as usize == vm);
            parts.push(of_vm.map(|(p, r)| Sighting::new(Pfn(*p), *r, file(p))).collect());
        }
        let mut places = Places::new(regions);
        let folded = fold(parts, &mut places);
        let ground = Ground { regions, places: &places, template };
        let (tally, sorted) = tally(folded, ground, &table).unwrap();
        assert!(sorted.iter().flatten().is_sorted_by_key(|s| s.pfn()));
        tally
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
            &[(1, (2, KSM)), (2, (2, ANON)), (3, (2, 0)), (4, (2, 0)), (5, (0, ZERO))],
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
