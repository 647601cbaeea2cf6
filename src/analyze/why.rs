//! Why pages that could be shared are not, by region and by page, and what to change.

pub use super::cause::Cause;
use super::content::{self, Compared, Contents, Seen};
use super::double::{self, Double};
use super::scan::{Scan, ScanError};
use crate::abi::kpageflags::PageFlags;
use crate::abi::ksm::{Ksm, Run};
use crate::abi::node::Nodes;
use crate::abi::vma::Vma;
use crate::base::{PageRange, Pfn};
use crate::source::host::{FrameFacts, Frames};
use crate::source::{Fate, Vm};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Everything `why` has to say.
#[derive(Clone, Debug, Serialize)]
pub struct Why {
    /// By VM, its regions and what keeps each from being merged.
    pub vms: Vec<VmWhy>,
    /// Equal pages that are not shared, by cause, most first.
    pub causes: Vec<CauseCount>,
    /// Frames that sharing could save.
    pub equal_pages: u64,
    /// Distinct contents among them.
    pub contents: u64,
    /// Present pages of all VMs.
    pub present_pages: u64,
    /// Pages whose content was read.
    pub read_pages: u64,
    /// Pages that could not be read.
    pub unreadable_pages: u64,
    /// One page in this many was read; above 1 every count of equal pages is a lower bound.
    pub one_in: u64,
    /// Private copies above pages of a memory file that nothing else in the scan maps: memory that
    /// is there twice.
    pub double: Vec<Double>,
}

/// One VM.
#[derive(Clone, Debug, Serialize)]
pub struct VmWhy {
    /// Its name.
    pub name: String,
    /// Distinct frames that it shares with others of the scan.
    pub shared_pages: u64,
    /// What keeps the whole VM from sharing, in a sentence, where it shares nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Its regions of a MiB and more, or all where none is so large.
    pub regions: Vec<RegionWhy>,
}

/// One region, mappings of one name and kind together.
#[derive(Clone, Debug, Serialize)]
pub struct RegionWhy {
    /// Its name.
    pub name: String,
    /// How many mappings.
    pub mappings: u64,
    /// Address space, in pages.
    pub pages: u64,
    /// Present pages.
    pub resident_pages: u64,
    /// Mapped huge.
    pub huge_pages: u64,
    /// Declared mergeable.
    pub mergeable: bool,
    /// Why KSM merges nothing here, whatever the content is.
    pub blockers: Vec<Cause>,
}

/// Equal pages of one cause.
#[derive(Clone, Debug, Serialize)]
pub struct CauseCount {
    /// The cause.
    pub cause: Cause,
    /// Frames that could be saved.
    pub pages: u64,
    /// What it means.
    pub meaning: &'static str,
    /// What to change.
    pub advice: &'static str,
    /// Where, most first.
    pub regions: Vec<Where>,
}

/// Equal pages of one cause in one region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Where {
    /// The VM.
    pub vm: String,
    /// The region's name.
    pub region: String,
    /// Frames.
    pub pages: u64,
}

/// What is known of the host.
#[derive(Debug)]
pub struct HostState {
    /// KSM; none where the kernel has none.
    pub ksm: Option<Ksm>,
    /// NUMA nodes, where known.
    pub nodes: Option<Nodes>,
}

/// Regions smaller than this are left out where a VM has larger ones.
const SMALL: u64 = 256;

/// Asks why. Reads the content of at most about `budget` pages.
pub fn why(
    vms: &[Vm],
    scan: &Scan,
    frames: &dyn Frames,
    host: &HostState,
    budget: u64,
) -> Result<Why, ScanError> {
    let blocks = flagged(vms)?;
    let zero = zero_frames(scan, frames)?;
    let contents = content::read(vms, &blocks, budget, &zero)?;
    let causes = Causes { vms, blocks: &blocks, frames, host, contents: &contents }.find()?;
    let equal_pages = causes.pages.values().sum();
    Ok(Why {
        vms: (0..vms.len())
            .map(|i| vm_why(scan, vms, &blocks, host, i))
            .collect::<Result<_, _>>()?,
        causes: causes.counts(vms, &blocks),
        equal_pages,
        contents: causes.contents,
        present_pages: contents.present,
        read_pages: contents.read,
        unreadable_pages: contents.unreadable,
        one_in: contents.one_in,
        double: double::find(vms, &blocks)?,
    })
}

fn flagged(vms: &[Vm]) -> Result<Vec<Vec<Vma>>, ScanError> {
    vms.iter()
        .map(|vm| match vm.source.blocks_with_flags() {
            // of one that has ended nothing can be read any more; the others are still told of
            Err(_) if vm.source.fate() != Fate::Alive => Ok(vm.source.blocks().to_vec()),
            result => result.map_err(|source| ScanError::PageTable { vm: vm.name.clone(), source }),
        })
        .collect()
}

/// The frames of the kernel's zero page among those that were seen.
fn zero_frames(scan: &Scan, frames: &dyn Frames) -> Result<HashSet<Pfn>, ScanError> {
    let mut pfns: Vec<Pfn> = scan.sightings.iter().map(|s| s.pfn()).collect();
    pfns.dedup();
    let mut zero = HashSet::new();
    let mut facts = Vec::new();
    for pfns in pfns.chunks(1 << 16) {
        frames.facts(pfns, &mut facts).map_err(ScanError::Frames)?;
        zero.extend(
            pfns.iter().zip(&facts).filter(|(_, f)| f.flags.is_zero_page()).map(|(p, _)| *p),
        );
    }
    Ok(zero)
}

/// What keeps KSM from merging anything in a block, whatever its content is.
fn block_causes(block: &Vma, ksm: Option<&Ksm>) -> Vec<Cause> {
    let flags = block.flags.unwrap_or_default();
    let mut causes = Vec::new();
    if flags.hugetlb {
        causes.push(Cause::Hugetlb);
    }
    if block.shared {
        causes.push(Cause::MappedShared);
    } else if !flags.mergeable && !flags.hugetlb {
        causes.push(Cause::NotMergeable);
    }
    match ksm.map(|ksm| ksm.run) {
        None => causes.push(Cause::KsmAbsent),
        Some(Run::Running) => {}
        Some(Run::Stopped | Run::Unmerge) => causes.push(Cause::KsmOff),
    }
    causes
}

fn vm_why(
    scan: &Scan,
    vms: &[Vm],
    blocks: &[Vec<Vma>],
    host: &HostState,
    index: usize,
) -> Result<VmWhy, ScanError> {
    let vm = &vms[index];
    let mut regions: Vec<RegionWhy> = Vec::new();
    for block in &blocks[index] {
        let (resident, huge) = resident(vm, block.pages)?;
        let blockers = block_causes(block, host.ksm.as_ref());
        let mergeable = block.flags.unwrap_or_default().mergeable;
        let same = regions
            .iter_mut()
            .find(|r| r.name == block.name && r.blockers == blockers && r.mergeable == mergeable);
        match same {
            Some(region) => {
                region.mappings += 1;
                region.pages += block.pages.pages();
                region.resident_pages += resident;
                region.huge_pages += huge;
            }
            None => regions.push(RegionWhy {
                name: block.name.clone(),
                mappings: 1,
                pages: block.pages.pages(),
                resident_pages: resident,
                huge_pages: huge,
                mergeable,
                blockers,
            }),
        }
    }
    regions.sort_by_key(|r| std::cmp::Reverse(r.resident_pages));
    if regions.iter().any(|r| r.resident_pages >= SMALL) {
        regions.retain(|r| r.resident_pages >= SMALL);
    }
    let with_scanned: u64 = scan
        .groups
        .iter()
        .filter(|(s, _)| s.vms.len() > 1 && s.vms.iter().any(|&vm| vm as usize == index))
        .map(|(_, by)| by.total())
        .sum();
    Ok(VmWhy {
        name: vm.name.clone(),
        shared_pages: with_scanned,
        verdict: (with_scanned == 0).then(|| verdict(&regions)),
        regions,
    })
}

fn resident(vm: &Vm, pages: PageRange) -> Result<(u64, u64), ScanError> {
    use crate::abi::pagemap::Entry;
    let (mut present, mut huge) = (0, 0);
    let mut buffer = vec![Entry(0); 8192];
    for piece in vm.source.populated(pages).into_iter().flat_map(|range| range.pieces(8192)) {
        let entries = &mut buffer[..usize::try_from(piece.pages()).unwrap_or(0)];
        let got = vm
            .source
            .facts(piece.start, entries)
            .map_err(|source| ScanError::PageTable { vm: vm.name.clone(), source })?;
        let here = entries[..got].iter().filter(|e| e.is_present()).count() as u64;
        present += here;
        if here > 0 {
            huge += vm.source.huge_pages(piece);
        }
    }
    Ok((present, huge))
}

/// Why a VM shares nothing with the others, by its largest region.
fn verdict(regions: &[RegionWhy]) -> String {
    let Some(largest) = regions.first() else {
        return "it has no memory that is present".to_owned();
    };
    let what =
        format!("its largest region, {} ({} pages present)", largest.name, largest.resident_pages);
    match largest.blockers.first() {
        Some(cause) => format!("{what}: {}", cause.meaning()),
        None => format!("{what} can be merged and KSM runs: no equal content was merged yet"),
    }
}

/// Finds, for each content that stands on several frames, what keeps them apart.
struct Causes<'a> {
    vms: &'a [Vm],
    blocks: &'a [Vec<Vma>],
    frames: &'a dyn Frames,
    host: &'a HostState,
    contents: &'a Contents,
}

/// Frames that could be saved, by cause and place.
#[derive(Default)]
struct Found {
    pages: HashMap<(Cause, u32, u32), u64>,
    contents: u64,
}

impl Causes<'_> {
    fn find(&self) -> Result<Found, ScanError> {
        let alike: Vec<&[Seen]> = self
            .contents
            .seen
            .chunk_by(|a, b| a.print == b.print)
            .filter(|alike| alike.len() > 1)
            .collect();
        alike.par_iter().map(|alike| self.one_content(alike)).try_reduce(
            Found::default,
            |mut a, b| {
                for (key, pages) in b.pages {
                    *a.pages.entry(key).or_default() += pages;
                }
                a.contents += b.contents;
                Ok(a)
            },
        )
    }

    /// One of the frames stays whatever happens: the one with the least against it. Each of the
    /// others has a cause, its own or, where only the whole stands in the way, the host's.
    fn one_content(&self, alike: &[Seen]) -> Result<Found, ScanError> {
        let facts = self.frame_facts(alike)?;
        let compared = content::compare(self.vms, alike, self.contents.seed);
        let zeros = alike[0].print == self.contents.zero;
        let mut found = Found { contents: 1, ..Found::default() };
        let mut causes: Vec<(Option<Cause>, usize)> = (0..alike.len())
            .map(|i| (self.own_cause(&alike[i], facts[i], compared[i]), i))
            .collect();
        // the least against it: nothing, then the causes from the last to the first
        causes.sort_by_key(|&(cause, i)| (cause.map(std::cmp::Reverse), i));
        let keeper = causes[0].1;
        for &(own, i) in &causes[1..] {
            let cause = own.unwrap_or_else(|| {
                self.common_cause(&alike[keeper], facts[keeper], &alike[i], facts[i], zeros)
            });
            *found.pages.entry((cause, alike[i].vm, alike[i].block)).or_default() += 1;
        }
        Ok(found)
    }

    fn frame_facts(&self, alike: &[Seen]) -> Result<Vec<FrameFacts>, ScanError> {
        let mut pfns: Vec<Pfn> = alike.iter().map(|s| s.pfn).collect();
        pfns.sort_unstable();
        let mut facts = Vec::new();
        self.frames.facts(&pfns, &mut facts).map_err(ScanError::Frames)?;
        let none = FrameFacts { mapped: 0, flags: PageFlags(0) };
        Ok(alike
            .iter()
            .map(|s| pfns.binary_search(&s.pfn).ok().map_or(none, |at| facts[at]))
            .collect())
    }

    /// What speaks against merging this page, whatever the other one is.
    fn own_cause(&self, seen: &Seen, facts: FrameFacts, compared: Compared) -> Option<Cause> {
        let block = &self.blocks[seen.vm as usize][seen.block as usize];
        let flags = block.flags.unwrap_or_default();
        if flags.hugetlb || facts.flags.is_hugetlb() {
            Some(Cause::Hugetlb)
        } else if block.shared {
            Some(Cause::MappedShared)
        } else if seen.file {
            Some(Cause::FilePage)
        } else if facts.flags.is_ksm() {
            None
        } else if !flags.mergeable {
            Some(Cause::NotMergeable)
        } else if compared == Compared::Volatile {
            Some(Cause::Volatile)
        } else {
            None
        }
    }

    /// Why two pages that could merge have not.
    fn common_cause(
        &self,
        keeper: &Seen,
        kept: FrameFacts,
        other: &Seen,
        facts: FrameFacts,
        zeros: bool,
    ) -> Cause {
        let Some(ksm) = &self.host.ksm else { return Cause::KsmAbsent };
        if ksm.run != Run::Running {
            return Cause::KsmOff;
        }
        let node = |seen: &Seen| self.host.nodes.as_ref().and_then(|n| n.of(seen.pfn));
        if !ksm.merge_across_nodes && node(keeper) != node(other) {
            return Cause::OtherNode;
        }
        // Frames of one content are made for each max_page_sharing mappings (mm/ksm.c, stable
        // node chains): both merged already, one of them as full as it may be, or nearly.
        let full = |f: FrameFacts| f.flags.is_ksm() && f.mapped * 8 >= ksm.max_page_sharing * 7;
        if kept.flags.is_ksm() && facts.flags.is_ksm() {
            return Cause::MaxPageSharing;
        }
        if full(kept) && !facts.flags.is_ksm() && ksm.full_scans > 2 {
            return Cause::MaxPageSharing;
        }
        if facts.flags.is_thp() || kept.flags.is_thp() {
            return Cause::HugePage;
        }
        if zeros && !ksm.use_zero_pages { Cause::Zeros } else { Cause::StillScanning }
    }
}

impl Found {
    fn counts(&self, vms: &[Vm], blocks: &[Vec<Vma>]) -> Vec<CauseCount> {
        let mut by: BTreeMap<Cause, BTreeMap<(&str, &str), u64>> = BTreeMap::new();
        for (&(cause, vm, block), &pages) in &self.pages {
            let place =
                (vms[vm as usize].name.as_str(), blocks[vm as usize][block as usize].name.as_str());
            *by.entry(cause).or_default().entry(place).or_default() += pages;
        }
        let mut counts: Vec<CauseCount> = by
            .into_iter()
            .map(|(cause, places)| {
                let mut regions: Vec<Where> = places
                    .into_iter()
                    .map(|((vm, region), pages)| Where {
                        vm: vm.into(),
                        region: region.into(),
                        pages,
                    })
                    .collect();
                regions.sort_by_key(|w| std::cmp::Reverse(w.pages));
                CauseCount {
                    cause,
                    pages: regions.iter().map(|w| w.pages).sum(),
                    meaning: cause.meaning(),
                    advice: cause.advice(),
                    regions,
                }
            })
            .collect();
        counts.sort_by_key(|c| std::cmp::Reverse(c.pages));
        counts
    }
}
