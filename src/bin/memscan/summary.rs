//! `memscan summary`.

use crate::args::SummaryArgs;
use crate::common;
use anyhow::Result;
use pageherd::analyze::summary::{Summary, VmSummary, find_unmapped, summary};
use pageherd::cli::args::TableArgs;
use pageherd::cli::table::{self, Column, render};
use pageherd::cli::{Exit, output, size};
use pageherd::pages_column;
use std::fmt::Write;

/// Files named below the table.
const FILES: usize = 8;

pub(crate) const COLUMNS: [Column<VmSummary>; 20] = [
    Column {
        name: "NAME",
        help: "name of the VM",
        right: false,
        default: true,
        cell: |r, _| r.name.clone(),
    },
    Column {
        name: "PID",
        help: "its process",
        right: true,
        default: true,
        cell: |r, _| table::pid(r.pid),
    },
    pages_column!("RESIDENT", "in its page table, on a frame", true, r: VmSummary => r.resident_pages),
    Column {
        name: "PSS",
        help: "each frame divided by all that map it",
        right: true,
        default: true,
        cell: |r, bytes| {
            if bytes { r.pss_bytes.to_string() } else { size::human(r.pss_bytes) }
        },
    },
    pages_column!("UNIQUE", "frames that nothing else maps: what leaves if it goes", true, r: VmSummary => r.unique_pages),
    pages_column!("SHARED", "pages that others map too, or that it maps twice", false, r: VmSummary => r.shared_pages),
    pages_column!("KSM", "shared: merged by KSM", true, r: VmSummary => r.by.ksm),
    pages_column!("FORK", "shared: copy-on-write since a fork", true, r: VmSummary => r.by.fork),
    pages_column!("FILE", "shared: template or page cache, mapped privately", true, r: VmSummary => r.by.file),
    pages_column!("SHMEM", "shared: file, memfd or memory that is mapped shared", true, r: VmSummary => r.by.shmem),
    pages_column!("ZERO", "the kernel's page of zeros", true, r: VmSummary => r.by.zero),
    pages_column!("OUTSIDE", "shared with processes that were not scanned", false, r: VmSummary => r.outside_pages),
    pages_column!("SWAPPED", "on a swap device", true, r: VmSummary => r.swapped_pages),
    pages_column!("HUGE", "mapped by huge entries", true, r: VmSummary => r.huge_pages),
    pages_column!("UNMAPPED", "in its shared memory file, not in its page table", false, r: VmSummary => r.unmapped_pages),
    pages_column!("CHANGED", "changed or vanished between two looks", false, r: VmSummary => r.changed_pages),
    pages_column!("BOUND", "may have changed unseen (95 % bound)", false, r: VmSummary => r.error_bound_pages),
    Column {
        name: "STABLE",
        help: "pages read again / of these unchanged",
        right: true,
        default: false,
        cell: |r, _| format!("{}/{}", r.verify.reread, r.verify.stable),
    },
    Column {
        name: "STATE",
        help: "alive, exited or execed",
        right: false,
        default: false,
        cell: |r, _| r.state.to_owned(),
    },
    Column {
        name: "WHAT",
        help: "what it is",
        right: false,
        default: false,
        cell: |r, _| r.what.clone(),
    },
];

pub(crate) fn run(args: &SummaryArgs) -> Result<Exit> {
    if args.table.list_columns {
        output::text(&render(&COLUMNS, &[], &args.table)?)?;
        return Ok(Exit::Ok);
    }
    let scene = common::open(&args.targets, args.scan.quiet)?;
    let scan = common::scan(&scene, &args.scan, &args.scan.options())?;
    let mut result = summary(&scan);
    find_unmapped(&mut result, &scene.vms);
    if args.json {
        output::json(&result)?;
    } else {
        output::text(&text(&result, &args.table)?)?;
    }
    Ok(common::exit(&scan))
}

/// The table, and below it the totals and the files, unless the columns were chosen.
pub(crate) fn text(summary: &Summary, args: &TableArgs) -> Result<String> {
    let mut out = render(&COLUMNS, &summary.vms, args)?;
    if args.noheadings {
        return Ok(out);
    }
    let show = |pages| size::pages(pages, args.bytes);
    let zero: u64 = summary.vms.iter().map(|vm| vm.by.zero).sum();
    let _ = writeln!(
        out,
        "\nfootprint {}, naive footprint {}, expansion {:.2}",
        show(summary.footprint_pages),
        show(summary.naive_pages),
        summary.expansion,
    );
    if zero > 0 {
        let _ = writeln!(out, "pages of the kernel's zero page ({}) are in neither", show(zero));
    }
    let changed: u64 = summary.vms.iter().map(|vm| vm.changed_pages).sum();
    if changed > 0 {
        let _ = writeln!(
            out,
            "{} changed while it was looked at and is counted as neither unique nor shared (column CHANGED)",
            show(changed)
        );
    }
    let unmapped: u64 = summary.vms.iter().map(|vm| vm.unmapped_pages).sum();
    if unmapped > 0 {
        let _ = writeln!(
            out,
            "{} is in shared memory files without being mapped (column UNMAPPED)",
            show(unmapped)
        );
    }
    files(summary, &show, &mut out);
    Ok(out)
}

/// The files through which most is shared.
fn files(summary: &Summary, show: &dyn Fn(u64) -> String, out: &mut String) {
    let mut files: Vec<(&str, &str, u64, Vec<&str>)> = Vec::new();
    for vm in &summary.vms {
        for file in &vm.files {
            match files.iter_mut().find(|(path, by, ..)| *path == file.path && *by == file.by) {
                Some((_, _, pages, vms)) => {
                    *pages += file.pages;
                    vms.push(&vm.name);
                }
                None => files.push((&file.path, file.by, file.pages, vec![&vm.name])),
            }
        }
    }
    files.sort_by_key(|(_, _, pages, _)| std::cmp::Reverse(*pages));
    if files.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nshared through files:");
    for (path, by, pages, vms) in files.iter().take(FILES) {
        let _ = writeln!(out, "  {:>6}  {by:5}  {path}  ({})", show(*pages), vms.join(", "));
    }
    if files.len() > FILES {
        let rest: u64 = files[FILES..].iter().map(|(_, _, pages, _)| pages).sum();
        let _ = writeln!(out, "  {:>6}  in {} more", show(rest), files.len() - FILES);
    }
}
