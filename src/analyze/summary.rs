//! A row a VM, and what all of them need together.

use super::scan::Scan;
use super::unmapped;
use super::verify::Second;
use crate::base::mechanism::ByMechanism;
use crate::source::{Fate, Vm};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;

/// What one VM has. Pages of 4 KiB; `resident = unique + shared + changed`.
#[derive(Clone, Debug, Serialize)]
pub struct VmSummary {
    /// Its name.
    pub name: String,
    /// Its process; none for an image.
    pub pid: Option<i32>,
    /// What it is.
    pub what: String,
    /// `alive`, `exited` or `execed`; unless it lives every count is zero.
    pub state: &'static str,
    /// In its page table, on a frame.
    pub resident_pages: u64,
    /// Proportional set size in bytes, as the kernel reckons it: each frame divided by all that map
    /// it.
    pub pss_bytes: u64,
    /// Frames that nothing else maps: what leaves if it goes.
    pub unique_pages: u64,
    /// Pages on frames that something else maps too, or that it maps once more itself.
    pub shared_pages: u64,
    /// The shared pages by mechanism.
    pub by: ByMechanism,
    /// Of the shared pages, those on frames that processes outside the scan map too.
    pub outside_pages: u64,
    /// On a swap device.
    pub swapped_pages: u64,
    /// Mapped by huge entries (transparent or hugetlb), within the resident pages.
    pub huge_pages: u64,
    /// In the page cache of memory that it maps shared (memfd, tmpfs), but not in its page table:
    /// memory that it owns and does not map.
    pub unmapped_pages: u64,
    /// Pages whose entry changed or vanished between two looks; in no other class.
    pub changed_pages: u64,
    /// What the second look found.
    pub verify: Second,
    /// Upper bound (95 %) of pages whose entry may have changed unseen.
    pub error_bound_pages: u64,
    /// Through which files its shared pages are shared, most first.
    pub files: Vec<FileShare>,
}

/// Shared pages of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileShare {
    /// Its name in `/proc/PID/maps`.
    pub path: String,
    /// Pages.
    pub pages: u64,
    /// `file` or `shmem`.
    pub by: &'static str,
}

/// All rows, and the totals below them.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// By VM.
    pub vms: Vec<VmSummary>,
    /// Distinct frames behind all of them, the kernel's zero page left out.
    pub footprint_pages: u64,
    /// What that becomes where sharing is lost: every page on a frame of its own, pages of zeros
    /// left out, since every VMM sends them as such.
    pub naive_pages: u64,
    /// Their ratio.
    pub expansion: f64,
    /// How much was read again: `auto`, `full` or `none`.
    pub verified: &'static str,
    /// How often the page tables were read.
    pub passes: u32,
}

/// Sums a scan up.
pub fn summary(scan: &Scan) -> Summary {
    let vms: Vec<VmSummary> = (0..scan.vms.len()).map(|vm| one(scan, vm)).collect();
    let everyone: Vec<usize> = (0..vms.len()).collect();
    let footprint_pages = scan.footprint(&everyone);
    let naive_pages = vms.iter().map(|vm| vm.resident_pages.saturating_sub(vm.by.zero)).sum();
    Summary {
        vms,
        footprint_pages,
        naive_pages,
        expansion: ratio(naive_pages, footprint_pages),
        verified: match scan.verified {
            super::verify::Verify::Auto => "auto",
            super::verify::Verify::Full => "full",
            super::verify::Verify::None => "none",
        },
        passes: scan.passes,
    }
}

/// `a / b` to four digits; 1 where there is nothing.
pub fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 1.0 } else { (a as f64 / b as f64 * 1e4).round() / 1e4 }
}

fn one(scan: &Scan, vm: usize) -> VmSummary {
    let t = scan.totals(vm);
    let info = &scan.vms[vm];
    let unsure = t.resident.saturating_sub(info.second.reread);
    VmSummary {
        name: info.name.clone(),
        pid: info.pid,
        what: info.what.clone(),
        state: fate_name(info.fate),
        resident_pages: t.resident,
        pss_bytes: t.pss_bytes,
        unique_pages: t.unique,
        shared_pages: t.by.total(),
        by: t.by,
        outside_pages: t.outside,
        swapped_pages: t.swapped,
        huge_pages: t.huge,
        unmapped_pages: 0,
        changed_pages: t.changed,
        verify: info.second,
        error_bound_pages: bound(unsure, info.second),
        files: files(scan, vm),
    }
}

/// The name of a fate in reports.
pub const fn fate_name(fate: Fate) -> &'static str {
    match fate {
        Fate::Alive => "alive",
        Fate::Exited => "exited",
        Fate::Execed => "execed",
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of `pages`, rounded up
fn bound(pages: u64, second: Second) -> u64 {
    (pages as f64 * second.change_bound()).ceil() as u64
}

fn files(scan: &Scan, vm: usize) -> Vec<FileShare> {
    let mut pages: BTreeMap<(&str, &'static str), u64> = BTreeMap::new();
    for (region, counts) in scan.regions_of(vm) {
        for (by, n) in [("file", counts.share.by.file), ("shmem", counts.share.by.shmem)] {
            if n > 0 {
                *pages.entry((region.name.as_str(), by)).or_default() += n;
            }
        }
    }
    let mut files: Vec<FileShare> = pages
        .into_iter()
        .map(|((path, by), pages)| FileShare { path: path.to_owned(), pages, by })
        .collect();
    files.sort_by_key(|file| std::cmp::Reverse(file.pages));
    files
}

/// Counts of one VM over its regions, in pages.
#[derive(Clone, Copy, Default, Debug)]
pub struct Totals {
    /// In the page table.
    pub resident: u64,
    /// Frames that nothing else maps.
    pub unique: u64,
    /// Of these, pages of files and shared memory.
    pub unique_file: u64,
    /// Shared pages.
    pub by: ByMechanism,
    /// Of these, shared with processes outside the scan.
    pub outside: u64,
    /// On a swap device.
    pub swapped: u64,
    /// Mapped huge.
    pub huge: u64,
    /// Neither unique nor shared: withdrawn at the second look.
    pub changed: u64,
    /// Proportional set size in bytes.
    pub pss_bytes: u64,
}

impl Scan {
    /// The regions of one VM with their counts.
    pub fn regions_of(
        &self,
        vm: usize,
    ) -> impl Iterator<Item = (&super::sighting::Region, &super::scan::RegionScan)> {
        self.regions.iter().zip(&self.counts).filter(move |(r, _)| r.vm as usize == vm)
    }

    /// The counts of one VM.
    pub fn totals(&self, vm: usize) -> Totals {
        let mut t = Totals::default();
        let mut pss = 0;
        for (_, counts) in self.regions_of(vm) {
            let (tally, share) = (&counts.tally, &counts.share);
            t.resident += tally.present;
            t.unique += tally.exclusive + share.own;
            t.unique_file += tally.exclusive_file;
            t.by.merge(&share.by);
            t.outside += share.outside;
            t.swapped += tally.swapped;
            t.huge += tally.huge;
            pss += tally.exclusive * super::tally::PSS_UNIT + share.pss;
            t.changed += tally.in_transit;
        }
        // In one pass this is exactly what was withdrawn; where memory was limited and pages moved
        // between passes it is what cannot be accounted for.
        let settled = t.unique + t.by.total();
        t.changed += t.resident.saturating_sub(settled);
        t.pss_bytes = pss / (super::tally::PSS_UNIT / crate::base::PAGE_SIZE);
        t
    }

    /// Distinct frames behind some VMs, the zero page left out; changed pages as their own.
    pub fn footprint(&self, vms: &[usize]) -> u64 {
        let own: u64 = vms
            .iter()
            .flat_map(|&vm| self.regions_of(vm).map(move |(_, counts)| counts.tally.exclusive))
            .sum();
        let changed: u64 = vms.iter().map(|&vm| self.totals(vm).changed).sum();
        let shared: u64 = self
            .groups
            .iter()
            .filter(|(sharers, _)| sharers.vms.iter().any(|&vm| vms.contains(&(vm as usize))))
            .map(|(_, by)| by.total())
            .sum();
        own + shared + changed
    }
}

/// Fills in how much memory each VM owns in files that it maps shared without having it in its
/// page table.
pub fn find_unmapped(summary: &mut Summary, vms: &[Vm]) {
    let pages: Vec<u64> = vms.par_iter().map(unmapped::of_vm).collect();
    for (row, pages) in summary.vms.iter_mut().zip(pages) {
        row.unmapped_pages = pages;
    }
}
