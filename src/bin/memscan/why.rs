//! `memscan why`.

use crate::args::WhyArgs;
use crate::common;
use anyhow::Result;
use pageherd::analyze::Options;
use pageherd::analyze::why::{HostState, RegionWhy, Why, why};
use pageherd::base::PAGE_SIZE;
use pageherd::cli::{Exit, output, size};
use pageherd::source::host;
use pageherd::sys::ksm::KsmUnknown;
use std::fmt::Write;

/// Regions and places named for each VM and cause.
const PLACES: usize = 4;

pub(crate) fn run(args: &WhyArgs) -> Result<Exit> {
    let scene = common::open(&args.targets, args.scan.quiet)?;
    let options = Options { keep_sightings: true, ..args.scan.options() };
    let scan = common::scan(&scene, &args.scan, &options)?;
    let ksm = match host::ksm() {
        Ok(ksm) => Some(ksm),
        Err(KsmUnknown::NotInKernel) => None,
        Err(e) => return Err(e.into()),
    };
    let state = HostState { ksm, nodes: host::nodes() };
    let answer = why(&scene.vms, &scan, &scene.host, &state, args.read / PAGE_SIZE)?;
    if args.json {
        output::json(&answer)?;
    } else {
        output::text(&text(&answer, args.bytes))?;
    }
    Ok(common::exit_after_reading(&scene, &scan))
}

fn text(why: &Why, bytes: bool) -> String {
    let show = |pages| size::pages(pages, bytes);
    let mut out = String::new();
    for vm in &why.vms {
        let _ = match &vm.verdict {
            Some(verdict) => writeln!(out, "{} shares nothing with the others: {verdict}", vm.name),
            None => writeln!(out, "{} shares {} with the others", vm.name, show(vm.shared_pages)),
        };
        for region in vm.regions.iter().take(PLACES) {
            let _ = writeln!(
                out,
                "  {:>6}  {}: {}",
                show(region.resident_pages),
                region.name,
                can(region)
            );
        }
        if vm.regions.len() > PLACES {
            let _ = writeln!(out, "          and {} smaller regions", vm.regions.len() - PLACES);
        }
    }
    for double in &why.double {
        let _ = writeln!(
            out,
            "\n{} is there twice: {} has private copies of pages of {} that are still in the file\n  change: {}",
            show(double.pages),
            double.vm,
            double.file,
            double.advice
        );
    }
    equal(why, &show, &mut out);
    out
}

/// Whether KSM can merge a region, in words.
fn can(region: &RegionWhy) -> String {
    let huge = if region.huge_pages > 0 { ", partly in huge pages" } else { "" };
    if region.blockers.is_empty() {
        return format!("KSM can merge it{huge}");
    }
    let causes: Vec<&str> = region.blockers.iter().map(|c| c.name()).collect();
    format!("not merged ({}){huge}", causes.join(", "))
}

fn equal(why: &Why, show: &dyn Fn(u64) -> String, out: &mut String) {
    let least = if why.one_in > 1 { "at least " } else { "" };
    let _ = writeln!(
        out,
        "\nequal content, not shared: {least}{} in {} contents ({} of {} read{})",
        show(why.equal_pages),
        why.contents,
        show(why.read_pages),
        show(why.present_pages),
        if why.one_in > 1 { format!(", one page in {}", why.one_in) } else { String::new() },
    );
    for cause in &why.causes {
        let _ =
            writeln!(out, "  {:>6}  {}: {}", show(cause.pages), cause.cause.name(), cause.meaning);
        let places: Vec<String> = cause
            .regions
            .iter()
            .take(PLACES)
            .map(|w| format!("{} {} {}", w.vm, w.region, show(w.pages)))
            .collect();
        let more = cause.regions.len().saturating_sub(PLACES);
        let more = if more > 0 { format!("; {more} more") } else { String::new() };
        let _ = writeln!(out, "          in {}{more}", places.join("; "));
        let _ = writeln!(out, "          change: {}", cause.advice);
    }
}
