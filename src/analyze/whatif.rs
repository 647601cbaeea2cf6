//! What if some VMs left: growth there, gain here, and what would have to be sent.

use super::scan::Scan;
use super::unmapped;
use crate::source::Vm;
use serde::Serialize;

/// Two ways to move: every page for itself, or what is shared once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Ways {
    /// Every page of every VM, sharing lost.
    pub naive: u64,
    /// Each distinct frame once, sharing kept.
    pub kept: u64,
}

/// The forecast for a set of VMs that leave together. Pages of 4 KiB.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Forecast {
    /// The VMs that leave.
    pub leaving: Vec<String>,
    /// What the destination grows by. Swapped pages become resident there; pages of zeros need
    /// nothing.
    pub destination_pages: Ways,
    /// What the source gains: frames that only leaving VMs map.
    pub source_freed_pages: u64,
    /// Of these, pages of files and of shared memory: page cache can be reclaimed at once, but
    /// pages of a tmpfs file stay until the file is removed.
    pub source_freed_cache_pages: u64,
    /// Swap space that the source gains. Slots that a fork has in common are counted for each VM, so
    /// this and what is sent of them is the most that it can be.
    pub source_freed_swap_pages: u64,
    /// What has to be sent.
    pub send_pages: Ways,
    /// Frames that need neither be sent nor grow the destination, since it has the template.
    pub template_pages: u64,
    /// Of what is sent and kept: pages of files of memory that the VMs map shared, without having
    /// them in a page table.
    pub unmapped_pages: u64,
}

/// The forecast for VMs `leaving`, by position in the scan and among `vms`.
pub fn forecast(scan: &Scan, vms: &[Vm], leaving: &[usize]) -> Forecast {
    let totals = leaving.iter().map(|&vm| scan.totals(vm));
    let (mut naive, mut swapped, mut freed, mut freed_cache) = (0, 0, 0, 0);
    for t in totals {
        naive += t.resident.saturating_sub(t.by.zero) + t.swapped;
        swapped += t.swapped;
        freed_cache += t.unique_file;
        freed += t.changed;
    }
    let leaves = |vm: &u32| leaving.contains(&(*vm as usize));
    let mut template = 0;
    for &vm in leaving {
        for (region, counts) in scan.regions_of(vm) {
            freed += counts.tally.exclusive;
            if scan.template.is_some() && region.file == scan.template {
                template += counts.tally.exclusive_file;
            }
        }
    }
    for (sharers, by) in &scan.groups {
        if sharers.template && sharers.vms.iter().any(leaves) {
            template += by.total();
        }
        if !sharers.outside && sharers.vms.iter().all(leaves) {
            freed += by.total();
            freed_cache += by.file + by.shmem;
        }
    }
    let gone: Vec<&Vm> = leaving.iter().map(|&vm| &vms[vm]).collect();
    let files = unmapped::of_all(&gone);
    let unmapped: u64 = files.values().sum();
    naive += gone.iter().map(|vm| unmapped::of_vm(vm)).sum::<u64>();
    for (file, pages) in files {
        let mapped_by = scan.regions.iter().filter(|region| region.file == Some(file));
        if mapped_by.map(|region| region.vm).all(|vm| leaves(&vm)) {
            freed += pages;
            freed_cache += pages;
        }
    }
    let kept = (scan.footprint(leaving) + swapped + unmapped).saturating_sub(template);
    let ways = Ways { naive, kept };
    Forecast {
        leaving: leaving.iter().map(|&vm| scan.vms[vm].name.clone()).collect(),
        destination_pages: ways,
        source_freed_pages: freed,
        source_freed_cache_pages: freed_cache,
        source_freed_swap_pages: swapped,
        send_pages: ways,
        template_pages: template,
        unmapped_pages: unmapped,
    }
}
