//! `memscan ksm`.

use crate::NAME;
use crate::args::KsmArgs;
use anyhow::Result;
use pageherd::abi::ksm::{Ksm, KsmStat, Run};
use pageherd::cli::table::{self, Column, render};
use pageherd::cli::{Exit, output, size};
use pageherd::pages_column;
use pageherd::source::{host, resolve};
use serde::Serialize;
use std::fmt::Write;

/// What one process has of KSM.
#[derive(Serialize)]
struct Row {
    name: String,
    pid: Option<i32>,
    #[serde(flatten)]
    stat: KsmStat,
}

/// KSM's own numbers, with those that it does not say outright.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    ksm: &'a Ksm,
    /// Pages that map a merged frame: `pages_shared + pages_sharing`.
    merged_mappings: u64,
    /// Frames saved: `pages_sharing`, and zero pages put in place.
    saved_pages: u64,
    /// Mappings for each merged frame.
    mappings_per_frame: f64,
    /// Mergeable pages that KSM has a place for: merged, unshared and volatile together.
    known_pages: u64,
    /// Seconds that a pass over them takes at the present setting, the work itself not counted.
    seconds_per_scan: Option<f64>,
    vms: &'a [Row],
}

const COLUMNS: [Column<Row>; 8] = [
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
    pages_column!("MERGED", "pages that map a merged frame", true, r: Row => r.stat.merging_pages),
    pages_column!("KNOWN", "pages that the scanner keeps a record of", true, r: Row => r.stat.rmap_items),
    pages_column!("ZERO", "zero pages put in place by KSM", true, r: Row => r.stat.zero_pages),
    Column {
        name: "PROFIT",
        help: "saved, less the scanner's own records",
        right: true,
        default: true,
        cell: |r, b| {
            let profit = r.stat.process_profit;
            if b { profit.to_string() } else { size::signed(profit) }
        },
    },
    Column {
        name: "MERGEABLE",
        help: "some of its memory is declared mergeable",
        right: false,
        default: true,
        cell: |r, _| yes(r.stat.mergeable),
    },
    Column {
        name: "ANY",
        help: "all of it is, by PR_SET_MEMORY_MERGE",
        right: false,
        default: true,
        cell: |r, _| yes(r.stat.merge_any),
    },
];

fn yes(flag: Option<bool>) -> String {
    flag.map_or("-", |flag| if flag { "yes" } else { "no" }).to_owned()
}

pub(crate) fn run(args: &KsmArgs) -> Result<Exit> {
    if args.table.list_columns {
        output::text(&render(&COLUMNS, &[], &args.table)?)?;
        return Ok(Exit::Ok);
    }
    let ksm = host::ksm()?;
    let rows = rows(args)?;
    let answer = answer(&ksm, &rows);
    if args.json {
        output::json(&answer)?;
        return Ok(Exit::Ok);
    }
    let mut text = String::new();
    if !args.table.noheadings {
        text.push_str(&state(&answer, args.table.bytes));
    }
    if !rows.is_empty() {
        text.push_str(&render(&COLUMNS, &rows, &args.table)?);
    }
    output::text(&text)?;
    Ok(Exit::Ok)
}

/// The named VMs; without names, whoever has merged or mergeable memory. No page table is read.
fn rows(args: &KsmArgs) -> Result<Vec<Row>> {
    if !args.targets.targets.is_empty() {
        let found = resolve::resolve(&args.targets.targets, false)?;
        found.notes.iter().for_each(|note| output::remark(NAME, false, note));
        let row = |vm: pageherd::source::Vm| {
            vm.source.ksm().map(|stat| Row { name: vm.name, pid: vm.pid, stat })
        };
        return Ok(found.vms.into_iter().filter_map(row).collect());
    }
    let mut rows: Vec<Row> = resolve::ksm_users()?
        .into_iter()
        .map(|(name, pid, stat)| Row { name, pid: Some(pid), stat })
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.stat.merging_pages));
    Ok(rows)
}

fn answer<'a>(ksm: &'a Ksm, vms: &'a [Row]) -> Answer<'a> {
    let merged_mappings = ksm.pages_shared + ksm.pages_sharing;
    let known_pages = merged_mappings + ksm.pages_unshared + ksm.pages_volatile;
    let per_second = (ksm.sleep_millisecs > 0)
        .then(|| ksm.pages_to_scan as f64 * 1000.0 / ksm.sleep_millisecs as f64)
        .filter(|&rate| rate > 0.0);
    Answer {
        ksm,
        merged_mappings,
        saved_pages: ksm.pages_sharing + ksm.ksm_zero_pages.unwrap_or(0),
        mappings_per_frame: pageherd::analyze::summary::ratio(merged_mappings, ksm.pages_shared),
        known_pages,
        seconds_per_scan: per_second.map(|rate| (known_pages as f64 / rate * 10.0).round() / 10.0),
        vms,
    }
}

fn state(answer: &Answer<'_>, bytes: bool) -> String {
    let ksm = answer.ksm;
    let show = |pages| size::pages(pages, bytes);
    let mut out = String::new();
    let run = match ksm.run {
        Run::Running => "running",
        Run::Stopped => "stopped (run=0): merged pages stay merged, nothing new is merged",
        Run::Unmerge => "stopped, everything unmerged (run=2)",
    };
    let _ = writeln!(out, "KSM is {run}");
    let _ = writeln!(
        out,
        "scan: {} full passes, {} pages each {} ms{}{}",
        ksm.full_scans,
        ksm.pages_to_scan,
        ksm.sleep_millisecs,
        match ksm.smart_scan {
            Some(true) => ", smart scan",
            _ => "",
        },
        match ksm.advisor_mode.as_deref() {
            None | Some("none") => String::new(),
            Some(mode) => format!(", advisor {mode}"),
        },
    );
    if let Some(seconds) = answer.seconds_per_scan.filter(|_| answer.known_pages > 0) {
        let _ =
            writeln!(out, "a pass over what it knows takes {seconds} s or more at this setting");
    }
    if ksm.full_scans < 2 && ksm.run == Run::Running {
        let _ = writeln!(
            out,
            "nothing merges before the second pass: a first one only takes checksums"
        );
    }
    let _ = writeln!(
        out,
        "settings: max_page_sharing {}, merge_across_nodes {}, use_zero_pages {}",
        ksm.max_page_sharing,
        u8::from(ksm.merge_across_nodes),
        u8::from(ksm.use_zero_pages),
    );
    let _ = writeln!(
        out,
        "merged: {} frames ({}) behind {} mappings ({}); saved {}",
        ksm.pages_shared,
        show(ksm.pages_shared),
        answer.merged_mappings,
        show(answer.merged_mappings),
        show(answer.saved_pages),
    );
    let _ = writeln!(
        out,
        "not merged: {} unique so far, {} changing too fast{}",
        show(ksm.pages_unshared),
        show(ksm.pages_volatile),
        ksm.pages_skipped
            .map_or_else(String::new, |n| format!(", {n} passed over by the smart scan")),
    );
    if let Some(profit) = ksm.general_profit {
        let profit = if bytes { profit.to_string() } else { size::signed(profit) };
        let _ = writeln!(out, "profit: {profit} (saved, less the scanner's own records)");
    }
    if ksm.stable_node_chains > 0 {
        let _ = writeln!(
            out,
            "{} contents are on {} further frames ({}), because of max_page_sharing",
            ksm.stable_node_chains,
            ksm.stable_node_dups,
            show(ksm.stable_node_dups),
        );
    }
    if !answer.vms.is_empty() {
        out.push('\n');
    }
    out
}
