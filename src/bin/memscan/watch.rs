//! `memscan watch`.

use crate::args::WatchArgs;
use crate::common::Scene;
use crate::{common, summary};
use anyhow::{Context, Result, bail};
use pageherd::analyze::Scan;
use pageherd::analyze::summary::{Summary, find_unmapped, summary as sum_up};
use pageherd::base::target::{Target, TargetKind};
use pageherd::base::{Mechanism, PAGE_SIZE};
use pageherd::cli::args::{TableArgs, TargetArgs};
use pageherd::cli::exit::Misuse;
use pageherd::cli::svg::{Line, time_series};
use pageherd::cli::table::{Column, render};
use pageherd::cli::{Exit, output};
use pageherd::pages_column;
use pageherd::source::{Fate, Vm};
use serde::Serialize;
use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// One scan of the series.
#[derive(Serialize)]
struct Point {
    seconds: f64,
    #[serde(flatten)]
    summary: Summary,
}

const COLUMNS: [Column<Point>; 9] = [
    Column {
        name: "SECONDS",
        help: "since the first scan",
        right: true,
        default: true,
        cell: |p, _| format!("{:.1}", p.seconds),
    },
    pages_column!("FOOTPRINT", "distinct frames", true, p: Point => p.summary.footprint_pages),
    pages_column!("NAIVE", "where sharing is lost", true, p: Point => p.summary.naive_pages),
    Column {
        name: "EXPANSION",
        help: "their ratio",
        right: true,
        default: true,
        cell: |p, _| format!("{:.2}", p.summary.expansion),
    },
    pages_column!("UNIQUE", "frames of one VM alone", true, p: Point => p.summary.vms.iter().map(|v| v.unique_pages).sum()),
    pages_column!("KSM", "pages shared through KSM", true, p: Point => p.summary.vms.iter().map(|v| v.by.ksm).sum()),
    pages_column!("FORK", "pages shared since a fork", true, p: Point => p.summary.vms.iter().map(|v| v.by.fork).sum()),
    pages_column!("FILE", "pages shared through files", true, p: Point => p.summary.vms.iter().map(|v| v.by.file).sum()),
    pages_column!("SHMEM", "pages of shared mappings", true, p: Point => p.summary.vms.iter().map(|v| v.by.shmem).sum()),
];

pub(crate) fn run(args: &WatchArgs) -> Result<Exit> {
    if args.table.list_columns {
        output::text(&render(&COLUMNS, &[], &args.table)?)?;
        return Ok(Exit::Ok);
    }
    let interval = Duration::try_from_secs_f64(args.interval).ok().filter(|d| !d.is_zero());
    let Some(interval) = interval else {
        bail!(Misuse(format!("--interval {}: write seconds, above 0", args.interval)));
    };
    let stop = signals()?;
    let live = std::io::stdout().is_terminal() && !args.json;
    let started = Instant::now();
    let (mut series, mut count) = (Vec::new(), 0u64);
    let mut exit = Exit::Ok;
    let mut targets = args.targets.clone();
    let mut scene = common::open(&targets, args.scan.quiet)?;
    let mut lost = common::Lost::default();
    loop {
        let began = Instant::now();
        let scan = common::scan_quietly(&scene, &args.scan, &args.scan.options())?;
        lost.tell(&scan);
        let seconds = began.duration_since(started).as_secs_f64();
        let mut summary = sum_up(&scan);
        find_unmapped(&mut summary, &scene.vms);
        let mut point = Point { seconds: (seconds * 1e3).round() / 1e3, summary };
        show(&point, args, live)?;
        count += 1;
        if !args.json || args.svg.is_some() {
            // the series needs the numbers of the VMs, not their files
            point.summary.vms.iter_mut().for_each(|vm| vm.files.clear());
            series.push(point);
        }
        exit = if exit == Exit::Ok { common::exit(&scan) } else { exit };
        let all_gone = scan.vms.iter().all(|vm| vm.fate != pageherd::source::Fate::Alive);
        if all_gone || args.count.is_some_and(|most| count >= most) {
            break;
        }
        match stop.recv_timeout(interval.saturating_sub(began.elapsed())) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
        scene = look_around(scene, &scan, &mut targets);
    }
    finish(&series, args)?;
    Ok(exit)
}

/// Opens the targets anew: processes map more memory, and others start. One that has ended since the
/// last scan is first told of by the next one; where nothing can be opened, what was open stays.
fn look_around(scene: Scene, last: &Scan, targets: &mut TargetArgs) -> Scene {
    let told: Vec<i32> =
        last.vms.iter().filter(|vm| vm.fate == Fate::Exited).filter_map(|vm| vm.pid).collect();
    let ended = scene.vms.iter().filter(|vm| vm.source.fate() == Fate::Exited);
    if ended.filter_map(|vm| vm.pid).any(|pid| !told.contains(&pid)) {
        return scene;
    }
    let gone = |t: &Target| matches!(t.kind, TargetKind::Pid { pid, .. } if told.contains(&pid));
    let named = !targets.targets.is_empty();
    targets.targets.retain(|target| !gone(target));
    if named && targets.targets.is_empty() {
        return scene; // not the whole host instead
    }
    let Ok(new) = common::open(targets, true) else { return scene };
    let another =
        |vm: &Vm| scene.vms.iter().any(|old| old.pid == vm.pid && old.start_time != vm.start_time);
    if new.vms.iter().any(another) { scene } else { new }
}

/// A channel that speaks at SIGINT and SIGTERM, so that the series is not lost.
fn signals() -> Result<std::sync::mpsc::Receiver<()>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])
        .context("signals cannot be caught")?;
    let (tell, stop) = channel();
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if tell.send(()).is_err() {
                return;
            }
        }
    });
    Ok(stop)
}

fn show(point: &Point, args: &WatchArgs, live: bool) -> Result<()> {
    if let Some(path) = &args.prometheus {
        output::public_file(path, prometheus(&point.summary).as_bytes())?;
    }
    if args.json {
        let mut line = serde_json::to_string(point)?;
        line.push('\n');
        output::text(&line)?;
    } else if live {
        let view = TableArgs { output: None, ..args.table.clone() };
        let text = summary::text(&point.summary, &view)?;
        output::text(&format!("\x1b[H\x1b[J{:.1} s, ends with ^C\n\n{text}", point.seconds))?;
    }
    Ok(())
}

fn finish(series: &[Point], args: &WatchArgs) -> Result<()> {
    if let Some(path) = &args.svg {
        output::file(path, time_series("Footprint over time", &lines(series))?.as_bytes())?;
    }
    if !args.json {
        let table = render(&COLUMNS, series, &args.table)?;
        output::text(&table)?;
    }
    Ok(())
}

fn lines(series: &[Point]) -> Vec<Line> {
    let line = |name: &str, pages: &dyn Fn(&Summary) -> u64| Line {
        name: name.to_owned(),
        points: series
            .iter()
            .map(|p| (p.seconds, (pages(&p.summary) * PAGE_SIZE) as f64))
            .collect(),
    };
    let mut lines = vec![
        line("footprint", &|s| s.footprint_pages),
        line("naive footprint", &|s| s.naive_pages),
    ];
    for m in Mechanism::ALL {
        let total = move |s: &Summary| s.vms.iter().map(|vm| vm.by.get(m)).sum::<u64>();
        if series.iter().any(|p| total(&p.summary) > 0) {
            lines.push(line(m.name(), &total));
        }
    }
    lines
}

/// Text for the node exporter's textfile collector; sizes in bytes.
fn prometheus(summary: &Summary) -> String {
    let mut out = String::new();
    let mut metric = |name: &str, help: &str, values: &[(String, u64)]| {
        let _ = writeln!(out, "# HELP pageherd_{name} {help}\n# TYPE pageherd_{name} gauge");
        for (labels, pages) in values {
            let _ = writeln!(out, "pageherd_{name}{labels} {}", pages * PAGE_SIZE);
        }
    };
    let per_vm = |pages: &dyn Fn(&pageherd::analyze::summary::VmSummary) -> u64| {
        summary
            .vms
            .iter()
            .map(|vm| (format!("{{vm=\"{}\"}}", vm.name), pages(vm)))
            .collect::<Vec<_>>()
    };
    metric(
        "vm_resident_bytes",
        "Memory in the page table of the VM.",
        &per_vm(&|v| v.resident_pages),
    );
    metric("vm_unique_bytes", "Frames that only this VM maps.", &per_vm(&|v| v.unique_pages));
    metric("vm_swapped_bytes", "Memory of the VM on swap devices.", &per_vm(&|v| v.swapped_pages));
    metric(
        "vm_changed_bytes",
        "Memory that changed between two looks.",
        &per_vm(&|v| v.changed_pages),
    );
    let shared: Vec<(String, u64)> = summary
        .vms
        .iter()
        .flat_map(|vm| Mechanism::ALL.map(|m| (vm, m)))
        .map(|(vm, m)| (format!("{{vm=\"{}\",mechanism=\"{m}\"}}", vm.name), vm.by.get(m)))
        .collect();
    metric("vm_shared_bytes", "Memory of the VM that others map too, by mechanism.", &shared);
    let total = |pages| [(String::new(), pages)];
    metric("footprint_bytes", "Distinct frames behind all VMs.", &total(summary.footprint_pages));
    metric(
        "naive_footprint_bytes",
        "What the footprint becomes where sharing is lost.",
        &total(summary.naive_pages),
    );
    out
}
