//! From targets to a scan: what every subcommand begins with.

use crate::NAME;
use anyhow::Result;
use pageherd::analyze::{self, Options, Scan};
use pageherd::cli::args::{ScanArgs, TargetArgs};
use pageherd::cli::{Exit, output, progress};
use pageherd::source::host::Host;
use pageherd::source::{Fate, Vm, resolve};
use std::collections::HashSet;

/// The host and the VMs on it that were named.
pub(crate) struct Scene {
    pub(crate) host: Host,
    pub(crate) vms: Vec<Vm>,
}

/// Opens the host and the targets.
pub(crate) fn open(targets: &TargetArgs, quiet: bool) -> Result<Scene> {
    let host = Host::open()?;
    let found = resolve::resolve(&targets.targets, host.caps().pagemap_scan)?;
    for note in &found.notes {
        output::remark(NAME, quiet, note);
    }
    Ok(Scene { host, vms: found.vms })
}

/// Scans, with a progress bar where someone looks; says which targets were lost on the way.
pub(crate) fn scan(scene: &Scene, args: &ScanArgs, options: &Options) -> Result<Scan> {
    let scan = scan_quietly(scene, args, options)?;
    Lost::default().tell(&scan);
    Ok(scan)
}

/// Scans, with a progress bar where someone looks.
pub(crate) fn scan_quietly(scene: &Scene, args: &ScanArgs, options: &Options) -> Result<Scan> {
    let blocks = scene.vms.iter().flat_map(|vm| vm.source.blocks());
    let bar = progress::pages(blocks.map(|b| b.pages.pages()).sum(), args.progress);
    let advance = |pages: u64| bar.inc(pages * pageherd::base::PAGE_SIZE);
    let scan = analyze::scan(&scene.vms, &scene.host, options, &advance);
    bar.finish_and_clear();
    Ok(scan?)
}

/// The targets that are known to be lost: each is said once, however often it is missed.
#[derive(Default)]
pub(crate) struct Lost(HashSet<String>);

impl Lost {
    /// Says which targets a scan has lost. That is no remark which `--quiet` leaves out.
    pub(crate) fn tell(&mut self, scan: &Scan) {
        for vm in &scan.vms {
            let fate = match vm.fate {
                Fate::Alive => continue,
                Fate::Exited => "exited",
                Fate::Execed => "began another program",
            };
            if self.0.insert(vm.name.clone()) {
                let words =
                    format!("{} {fate} while it was looked at: its counts are left out", vm.name);
                output::remark(NAME, false, &words);
            }
        }
    }
}

/// How a command ends that has read the targets once more after the scan, for single pages: one that
/// ended meanwhile is told of in part only, and that is said.
pub(crate) fn exit_after_reading(scene: &Scene, scan: &Scan) -> Exit {
    let lost = scene
        .vms
        .iter()
        .zip(&scan.vms)
        .filter(|(vm, scanned)| scanned.fate == Fate::Alive && vm.source.fate() != Fate::Alive);
    let mut result = exit(scan);
    for (vm, _) in lost {
        let words =
            format!("{} exited while it was looked at: its pages are not all told", vm.name);
        output::remark(NAME, false, &words);
        result = Exit::Partial;
    }
    result
}

/// How a command ends that has reported on a scan.
pub(crate) fn exit(scan: &Scan) -> Exit {
    if scan.vms.iter().all(|vm| vm.fate == Fate::Alive) { Exit::Ok } else { Exit::Partial }
}
