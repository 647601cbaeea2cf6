//! `memscan diff`.

use crate::args::DiffArgs;
use anyhow::{Context, Result, bail};
use pageherd::analyze::diff::{Diff, diff};
use pageherd::cli::exit::Misuse;
use pageherd::cli::{Exit, output, size};
use pageherd::placement::scanfile::{self, Header, Row};
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Rows of each kind in the report.
const MOST: usize = 20;

pub(crate) fn run(args: &DiffArgs) -> Result<Exit> {
    if args.before == Path::new("-") && args.after == Path::new("-") {
        bail!(Misuse("only one of the two records can be standard input".into()));
    }
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    let result = diff(&before, &after);
    if args.json {
        output::json(&result)?;
    } else {
        output::text(&text(&result, args.bytes))?;
    }
    Ok(Exit::Ok)
}

fn read(path: &Path) -> Result<(Header, Vec<Row>)> {
    if path == Path::new("-") {
        return parse(std::io::stdin().lock(), "standard input");
    }
    let name = path.display().to_string();
    let failed = || format!("{name} cannot be read");
    if std::fs::metadata(path).with_context(failed)?.is_dir() {
        bail!(Misuse(format!("{name} is a directory: name a record that 'memscan record' made")));
    }
    parse(File::open(path).with_context(failed)?, &name)
}

/// Reads a record. What does not begin like one is not read to its end, which may never come.
fn parse(mut from: impl Read, name: &str) -> Result<(Header, Vec<Row>)> {
    let failed = || format!("{name} cannot be read");
    let mut bytes = Vec::new();
    from.by_ref().take(64).read_to_end(&mut bytes).with_context(failed)?;
    if scanfile::looks_like_one(&bytes) {
        from.read_to_end(&mut bytes).with_context(failed)?;
    }
    scanfile::parse(&bytes).with_context(|| name.to_owned())
}

fn text(diff: &Diff, bytes: bool) -> String {
    let show = |pages| size::pages(pages, bytes);
    let change = |[before, after]: [u64; 2]| {
        let by = i64::try_from(after).unwrap_or(i64::MAX) - i64::try_from(before).unwrap_or(0);
        size::signed(by.saturating_mul(4096))
    };
    let line =
        |pages: [u64; 2]| format!("{} -> {} ({})", show(pages[0]), show(pages[1]), change(pages));
    let mut out = String::new();
    let _ = writeln!(out, "footprint {} in {} s", line(diff.footprint_pages), diff.seconds);
    for (names, when) in [(&diff.only_before, "before"), (&diff.only_after, "after")] {
        if !names.is_empty() {
            let _ = writeln!(out, "only {when}: {}", names.join(", "));
        }
    }
    for vm in &diff.vms {
        let _ = writeln!(
            out,
            "\n{}: resident {}, unique {}",
            vm.name,
            line(vm.resident_pages),
            line(vm.unique_pages)
        );
        for (by, pages) in vm.by.iter().filter(|(_, pages)| pages[0] != pages[1]) {
            let _ = writeln!(out, "  {by:7} {}", line(*pages));
        }
        if vm.swapped_pages[0] != vm.swapped_pages[1] {
            let _ = writeln!(out, "  swapped {}", line(vm.swapped_pages));
        }
    }
    if !diff.transitions.is_empty() {
        out.push_str("\nwhat became of pages:\n");
    }
    for t in diff.transitions.iter().take(MOST) {
        let _ = writeln!(
            out,
            "  {:>6}  {}: {} -> {} ({})",
            show(t.pages),
            t.vm,
            t.before,
            t.after,
            t.meaning
        );
    }
    if !diff.pairs.is_empty() {
        out.push_str("\nshared by pairs:\n");
    }
    for pair in diff.pairs.iter().take(MOST) {
        let _ =
            writeln!(out, "  {} + {}, {}: {}", pair.vms[0], pair.vms[1], pair.by, line(pair.pages));
    }
    out
}
