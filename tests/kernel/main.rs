//! Counts against page sets that are known by construction, on the running kernel.
//!
//! Targets are ranges of a process, so that every page in them is one that a holder made.

#![allow(clippy::unwrap_used)] // a test that cannot go on says where and ends

#[path = "../support/mod.rs"]
mod support;

mod files;
mod forecast;
mod quiet;
mod records;
mod regressions;
mod sharing;
mod special;
mod why;

use serde_json::{Value, json};
use support::{json, ksm, n};

/// The row of one VM.
fn row<'a>(summary: &'a Value, name: &str) -> &'a Value {
    let mut rows = summary["vms"].as_array().unwrap().iter();
    rows.find(|vm| vm["name"] == name).unwrap_or_else(|| panic!("no VM {name} in {summary}"))
}

/// Checks every count of one VM's row; those that are not in `want` are to be 0.
fn expect(summary: &Value, name: &str, want: &Value) {
    let got = row(summary, name);
    for count in [
        "resident_pages",
        "unique_pages",
        "swapped_pages",
        "huge_pages",
        "unmapped_pages",
        "outside_pages",
        "changed_pages",
    ] {
        assert_eq!(n(&got[count]), want[count].as_u64().unwrap_or(0), "{count} of {name} in {got}");
    }
    for by in ["ksm", "fork", "file", "shmem", "zero"] {
        let pages = want["by"][by].as_u64().unwrap_or(0);
        assert_eq!(n(&got["by"][by]), pages, "pages of {name} shared by {by} in {got}");
    }
    assert_eq!(got["state"], "alive");
    assert_eq!(n(&got["verify"]["changed"]) + n(&got["verify"]["vanished"]), 0, "{got}");
    let settled = n(&got["unique_pages"]) + n(&got["shared_pages"]);
    assert_eq!(n(&got["resident_pages"]), settled, "every page is in one class: {got}");
}

/// Checks both totals of a summary.
fn expect_totals(summary: &Value, footprint: u64, naive: u64) {
    let got = [&summary["footprint_pages"], &summary["naive_pages"]].map(n);
    assert_eq!(got, [footprint, naive], "footprint and naive footprint in {summary}");
}

fn summary(targets: &[&str]) -> Value {
    json(&[&["summary", "--json"], targets].concat())
}

fn matrix(targets: &[&str]) -> Value {
    json(&[&["matrix", "--json", "--groups"], targets].concat())
}

/// The matrix as rows of numbers; of one mechanism where it is named.
fn rows(matrix: &Value, by: Option<&str>) -> Vec<Vec<u64>> {
    let rows = by.map_or(&matrix["pages"], |by| &matrix["by"][by]);
    rows.as_array().unwrap().iter().map(|r| r.as_array().unwrap().iter().map(n).collect()).collect()
}

/// Checks the groups: names joined by `+`, and frames.
fn expect_groups(matrix: &Value, want: &[(&str, u64)]) {
    let mut got: Vec<(String, u64)> = Vec::new();
    for group in matrix["groups"].as_array().unwrap() {
        let vms: Vec<&str> =
            group["vms"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
        assert_eq!(group["outside"], false, "{group}");
        got.push((vms.join("+"), n(&group["pages"])));
    }
    let want: Vec<(String, u64)> = want.iter().map(|&(vms, n)| (vms.to_owned(), n)).collect();
    assert_eq!(got, want);
}

/// Naive and kept, of the destination's growth and of what is sent, which are the same here.
fn expect_ways(forecast: &Value, naive: u64, kept: u64) {
    let want = json!({ "naive": naive, "kept": kept });
    assert_eq!(forecast["destination_pages"], want, "{forecast}");
    assert_eq!(forecast["send_pages"], want, "{forecast}");
}

/// KSM's count of pages that map a merged frame, over all processes.
fn merged() -> u64 {
    ksm("pages_shared") + ksm("pages_sharing")
}
