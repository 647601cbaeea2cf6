//! memscan beside the kernel's own tool for page flags, on the same memory at the same time.

#![allow(clippy::unwrap_used)] // a test that cannot go on says where and ends

mod support;

use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use support::{Holder, KsmOn, Setting, TempFile, alone, json, ksm, n, root, shm, words};

/// The tool, made where it is missing.
fn tool() -> PathBuf {
    static MAKE: Mutex<()> = Mutex::new(());
    let path = root().join("target/guest/page-types");
    let _one_at_a_time = MAKE.lock().unwrap_or_else(|e| e.into_inner());
    if !path.exists() {
        let out = Command::new(root().join("scripts/guest-assets")).output().unwrap();
        assert!(out.status.success(), "page-types cannot be made: {}", words(&out));
    }
    path
}

/// Pages with their flags by name, as page-types counts them: one line a set of flags.
#[derive(Debug)]
struct Types(Vec<(String, u64)>);

impl Types {
    /// Of a process, or of some of its pages (`FIRST,END`).
    fn of(pid: i32, pages: Option<&str>) -> Self {
        let mut tool = Command::new(tool());
        tool.args(["--pid", &pid.to_string()]);
        if let Some(pages) = pages {
            tool.args(["--addr", pages]);
        }
        let out = tool.output().unwrap();
        assert!(out.status.success(), "{}", words(&out));
        let text = String::from_utf8(out.stdout).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("0x"));
        // flags, pages, MB, short names, long names
        let fields = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
        Self(
            fields
                .map(|f| (f.get(4).copied().unwrap_or_default().to_owned(), f[1].parse().unwrap()))
                .collect(),
        )
    }

    /// Pages whose flags hold `flag`.
    fn with(&self, flag: &str) -> u64 {
        let has = |names: &str| names.split(',').any(|name| name == flag);
        self.0.iter().filter(|(names, _)| has(names)).map(|(_, pages)| pages).sum()
    }

    /// Pages on swap, of which the tool shows no flag at all.
    fn swapped(&self) -> u64 {
        self.0.iter().filter(|(names, _)| names.is_empty()).map(|(_, pages)| pages).sum()
    }

    /// Pages on a frame.
    fn present(&self) -> u64 {
        self.0.iter().map(|(_, pages)| pages).sum::<u64>() - self.swapped()
    }
}

/// What both say of one region of a holder.
fn both(pid: i32, range: &str) -> (Types, Value) {
    let (from, to) = range.split_once('-').unwrap();
    let page = |address: &str| u64::from_str_radix(address, 16).unwrap() / 4096;
    let types = Types::of(pid, Some(&format!("{},{}", page(from), page(to))));
    let summary = json(&["summary", "--json", &format!("a=pid:{pid},range={range}")]);
    (types, summary["vms"][0].clone())
}

/// Pages of a region of merged pages: the shared ones and, of frames that nobody else has, the
/// first of each.
fn merged(vm: &Value) -> u64 {
    n(&vm["by"]["ksm"]) + n(&vm["unique_pages"])
}

#[test]
fn both_count_the_same_pages_of_every_kind() {
    let _alone = alone();
    let _enabled = Setting::new("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
    let _pool = Setting::new("/proc/sys/vm/nr_hugepages", "64");
    let file = TempFile::new(shm(), 150);
    let private = format!("private:{},write=30", file.name());
    let regions =
        ["fork=1", "anon:500", "ksm:400,alike", "zero:300", "thp:1024", "hugetlb:512", "memfd:200"];
    let h = Holder::new(&[&regions[..], &[&private]].concat());
    let on = KsmOn::new();
    on.wait("800 merged pages", || ksm("pages_shared") + ksm("pages_sharing") == 800);

    for pid in [h.pid, h.children[0]] {
        for region in &h.regions {
            let (types, vm) = both(pid, &region.range);
            assert_eq!(types.present(), n(&vm["resident_pages"]), "{types:?} {vm}");
            assert_eq!(types.with("zero_page"), n(&vm["by"]["zero"]), "{types:?} {vm}");
            let ksm = if types.with("ksm") > 0 { merged(&vm) } else { n(&vm["by"]["ksm"]) };
            assert_eq!(types.with("ksm"), ksm, "{types:?} {vm}");
            let huge = types.with("thp") + types.with("huge");
            assert_eq!(huge, n(&vm["huge_pages"]), "{types:?} {vm}");
        }
    }
    let of = |region: usize| both(h.pid, &h.regions[region].range).0;
    assert_eq!(of(1).with("ksm"), 400);
    assert_eq!(of(2).with("zero_page"), 300);
    assert_eq!(of(3).with("thp"), 1024);
    assert_eq!(of(4).with("huge"), 512);
}

#[test]
fn both_see_merged_pages_of_one_process_alone() {
    let _alone = alone();
    let h = Holder::new(&["ksm:200,alike"]);
    let on = KsmOn::new();
    on.wait("200 merged pages", || ksm("pages_shared") + ksm("pages_sharing") == 200);
    let (types, vm) = both(h.pid, &h.regions[0].range);
    assert_eq!(types.with("ksm"), 200);
    assert_eq!(merged(&vm), 200, "{vm}");
    assert_eq!(n(&vm["unique_pages"]), 1, "{vm}");
}

#[test]
fn both_count_the_same_pages_of_a_whole_process() {
    let mut h = Holder::new(&["anon:1000", "zero:200", "memfd:300", "double:100"]);
    h.settle();
    let types = Types::of(h.pid, None);
    let s = json(&["summary", "--json", &format!("a=pid:{},all", h.pid)]);
    let vm = &s["vms"][0];
    // the page of vsyscall is behind no page table of the process, and neither of the two has it
    assert_eq!(types.present(), n(&vm["resident_pages"]), "{types:?} {vm}");
    assert_eq!(types.with("zero_page"), n(&vm["by"]["zero"]), "{types:?} {vm}");
}

#[test]
fn both_count_the_same_swapped_pages() {
    let _alone = alone();
    let _swap = support::Swap::new(64);
    let h = Holder::new(&["swap:500"]);
    let (types, vm) = both(h.pid, &h.regions[0].range);
    assert_eq!(types.swapped(), 500, "{types:?}");
    assert_eq!(types.present(), 0, "{types:?}");
    assert_eq!(n(&vm["swapped_pages"]), 500, "{vm}");
}
