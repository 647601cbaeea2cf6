//! From targets to a scan: what every subcommand begins with.

use crate::NAME;
use anyhow::Result;
use pageherd::analyze::{self, Options, Scan};
use pageherd::cli::args::{ScanArgs, TargetArgs};
use pageherd::cli::{Exit, output, progress};
use pageherd::source::host::Host;
use pageherd::source::{Fate, Vm, resolve};

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
    let blocks = scene.vms.iter().flat_map(|vm| vm.source.blocks());
    let bar = progress::pages(blocks.map(|b| b.pages.pages()).sum(), args.progress);
    let advance = |pages: u64| bar.inc(pages * pageherd::base::PAGE_SIZE);
    let scan = analyze::scan(&scene.vms, &scene.host, options, &advance);
    bar.finish_and_clear();
    let scan = scan?;
    for vm in &scan.vms {
        let fate = match vm.fate {
            Fate::Alive => continue,
            Fate::Exited => "exited",
            Fate::Execed => "began another program",
        };
        let words = format!("{} {fate} while it was scanned: its counts are left out", vm.name);
        output::remark(NAME, false, &words);
    }
    Ok(scan)
}

/// How a command ends that has reported on a scan.
pub(crate) fn exit(scan: &Scan) -> Exit {
    if scan.vms.iter().all(|vm| vm.fate == Fate::Alive) { Exit::Ok } else { Exit::Partial }
}
