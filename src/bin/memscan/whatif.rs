//! `memscan what-if`.

use crate::args::WhatIfArgs;
use crate::common;
use anyhow::{Result, bail};
use pageherd::analyze::Options;
use pageherd::analyze::whatif::{Forecast, forecast};
use pageherd::cli::exit::Misuse;
use pageherd::cli::table::{Column, render};
use pageherd::cli::{Exit, output};
use pageherd::pages_column;
use pageherd::source::image;
use serde::Serialize;

/// The forecast for the set, and beside it for each VM of it alone.
#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    together: Forecast,
    alone: Vec<Forecast>,
}

const COLUMNS: [Column<Forecast>; 9] = [
    Column {
        name: "LEAVING",
        help: "who leaves, together",
        right: false,
        default: true,
        cell: |r, _| r.leaving.join("+"),
    },
    pages_column!("GROWTH-NAIVE", "what the destination grows by where sharing is lost", true, r: Forecast => r.destination_pages.naive),
    pages_column!("GROWTH-KEPT", "what it grows by where sharing is kept", true, r: Forecast => r.destination_pages.kept),
    pages_column!("FREED", "what the source gains", true, r: Forecast => r.source_freed_pages),
    pages_column!("FREED-CACHE", "of that, pages of files and shared memory", false, r: Forecast => r.source_freed_cache_pages),
    pages_column!("FREED-SWAP", "swap space that the source gains", false, r: Forecast => r.source_freed_swap_pages),
    pages_column!("SEND-NAIVE", "bytes to send, every page for itself", true, r: Forecast => r.send_pages.naive),
    pages_column!("SEND-KEPT", "bytes to send, each distinct page once", true, r: Forecast => r.send_pages.kept),
    pages_column!("TEMPLATE", "pages that the destination has in the template", false, r: Forecast => r.template_pages),
];

pub(crate) fn run(args: &WhatIfArgs) -> Result<Exit> {
    if args.table.list_columns {
        output::text(&render(&COLUMNS, &[], &args.table)?)?;
        return Ok(Exit::Ok);
    }
    let template = args.template.as_deref().map(image::file_id).transpose()?;
    let scene = common::open(&args.targets, args.scan.quiet)?;
    let options = Options { template, ..args.scan.options() };
    let names: Vec<&str> = scene.vms.iter().map(|vm| vm.name.as_str()).collect();
    let leaving = leaving(&names, &args.leave)?;
    let scan = common::scan(&scene, &args.scan, &options)?;
    let answer = Answer {
        together: forecast(&scan, &scene.vms, &leaving),
        alone: leaving.iter().map(|&vm| forecast(&scan, &scene.vms, &[vm])).collect(),
    };
    if template.is_some() && answer.together.template_pages == 0 {
        let words = "no VM that leaves maps the template: nothing is saved by it";
        output::remark(crate::NAME, args.scan.quiet, words);
    }
    if args.json {
        output::json(&answer)?;
    } else {
        let mut rows = answer.alone;
        if leaving.len() > 1 {
            rows.insert(0, answer.together);
        }
        output::text(&render(&COLUMNS, &rows, &args.table)?)?;
    }
    Ok(common::exit(&scan))
}

/// The VMs that leave, by position; all where none was named.
fn leaving(all: &[&str], names: &[String]) -> Result<Vec<usize>> {
    if names.is_empty() {
        return Ok((0..all.len()).collect());
    }
    let mut leaving = Vec::new();
    for name in names {
        let Some(vm) = all.iter().position(|vm| vm == name) else {
            bail!(Misuse(format!(
                "--leave {name}: there is no such VM; there are {}",
                all.join(", ")
            )));
        };
        if leaving.contains(&vm) {
            bail!(Misuse(format!("--leave {name} is given twice")));
        }
        leaving.push(vm);
    }
    Ok(leaving)
}
