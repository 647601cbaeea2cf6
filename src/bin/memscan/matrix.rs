//! `memscan matrix`.

use crate::args::MatrixArgs;
use crate::common;
use anyhow::Result;
use pageherd::analyze::matrix::{Group, Matrix, matrix};
use pageherd::cli::{Exit, output, size, svg, table};
use std::fmt::Write;
use std::path::Path;

pub(crate) fn run(args: &MatrixArgs) -> Result<Exit> {
    let scene = common::open(&args.targets, args.scan.quiet)?;
    let scan = common::scan(&scene, &args.scan, &args.scan.options())?;
    let result = matrix(&scan, args.groups);
    if let Some(path) = &args.svg {
        output::file(path, svg::heat_map(&result)?.as_bytes())?;
    }
    let picture_alone = args.svg.as_deref() == Some(Path::new("-"));
    if args.json {
        output::json(&result)?;
    } else if !picture_alone {
        output::text(&text(&result, args))?;
    }
    Ok(common::exit(&scan))
}

fn text(matrix: &Matrix, args: &MatrixArgs) -> String {
    let rows = args.by.as_deref().map_or(&matrix.pages, |by| &matrix.by[by]);
    let show = |pages| size::pages(pages, args.table.bytes);
    let head = std::iter::once("NAME".to_owned()).chain(matrix.names.iter().cloned()).collect();
    let cells = matrix.names.iter().zip(rows).map(|(name, row)| {
        std::iter::once(name.clone()).chain(row.iter().map(|&pages| show(pages))).collect()
    });
    let head = (!args.table.noheadings).then_some(head);
    let mut out = table::draw(head, cells, |i| i > 0, args.table.color.on_stdout());
    if !args.table.noheadings {
        let what = args.by.as_deref().map_or_else(
            || "resident memory".to_owned(),
            |by| format!("memory shared through {by}"),
        );
        let _ = writeln!(out, "\nthe diagonal is {what}; elsewhere, frames that both have");
    }
    if let Some(groups) = &matrix.groups {
        out.push('\n');
        groups.iter().for_each(|group| one_group(group, &show, &mut out));
    }
    out
}

fn one_group(group: &Group, show: &dyn Fn(u64) -> String, out: &mut String) {
    let by: Vec<String> = pageherd::base::Mechanism::ALL
        .into_iter()
        .filter(|&m| group.by.get(m) > 0)
        .map(|m| format!("{m} {}", show(group.by.get(m))))
        .collect();
    let outside = if group.outside { " and others" } else { "" };
    let _ = writeln!(
        out,
        "{:>6}  {}{outside}  ({})",
        show(group.pages),
        group.vms.join(" + "),
        by.join(", ")
    );
}
