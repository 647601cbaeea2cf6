//! Why pages with equal content are not shared.

use crate::files::of_this_process;
use crate::merged;
use crate::support::{Holder, KSM, KsmOn, Setting, TempFile, alone, json, ksm, n, shm};
use memmap2::Advice;
use pageherd::base::PAGE_SIZE;
use pageherd::sys::mapping::Mapping;
use serde_json::Value;

fn why(targets: &[&str]) -> Value {
    let why = json(&[&["why", "--json"], targets].concat());
    assert_eq!(n(&why["one_in"]), 1, "everything was read: {why}");
    assert_eq!(n(&why["unreadable_pages"]), 0);
    why
}

/// Two holders of one kind of region with equal content.
fn why_of_two(region: &str) -> Value {
    let region = format!("{region},seed=21");
    let (a, b) = (Holder::new(&[&region]), Holder::new(&[&region]));
    why(&[&a.target("a", 0), &b.target("b", 0)])
}

/// The causes and their pages are these and no others.
fn expect_causes(why: &Value, want: &[(&str, u64)]) {
    let got: Vec<(&str, u64)> = why["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["cause"].as_str().unwrap(), n(&c["pages"])))
        .collect();
    assert_eq!(got, want, "{why}");
    assert_eq!(n(&why["equal_pages"]), want.iter().map(|(_, pages)| pages).sum::<u64>());
}

/// Why both of two VMs share nothing at all.
fn verdicts(why: &Value) -> [&str; 2] {
    [0, 1].map(|vm| why["vms"][vm]["verdict"].as_str().unwrap_or_else(|| panic!("{why}")))
}

/// KSM that runs and comes round to nothing while a test looks.
fn slow_ksm() -> Vec<Setting> {
    [("sleep_millisecs", "100000"), ("pages_to_scan", "1"), ("run", "1")]
        .map(|(file, value)| Setting::new(&format!("{KSM}/{file}"), value))
        .into()
}

#[test]
fn memfds_mapped_shared_are_never_merged() {
    let _alone = alone();
    let _on = KsmOn::new();
    let w = why_of_two("memfd:500");
    expect_causes(&w, &[("mapped-shared", 500)]);
    assert_eq!(n(&w["contents"]), 500);
    for verdict in verdicts(&w) {
        assert!(verdict.contains("/memfd:holder"), "{verdict}");
        assert!(verdict.contains("MAP_SHARED"), "{verdict}");
    }
    for vm in w["vms"].as_array().unwrap() {
        assert_eq!(vm["regions"][0]["blockers"], serde_json::json!(["mapped-shared"]));
    }
}

#[test]
fn memory_that_nobody_declared_mergeable_is_called_so() {
    let _alone = alone();
    let _on = KsmOn::new();
    let w = why_of_two("anon:500");
    expect_causes(&w, &[("not-mergeable", 500)]);
    for verdict in verdicts(&w) {
        assert!(verdict.contains("MERGEABLE"), "{verdict}");
    }
}

#[test]
fn mergeable_memory_waits_for_a_ksm_that_is_off() {
    let _alone = alone();
    let _off = Setting::new(&format!("{KSM}/run"), "0");
    let w = why_of_two("ksm:500");
    expect_causes(&w, &[("ksm-off", 500)]);
    for verdict in verdicts(&w) {
        assert!(verdict.contains("KSM does not run"), "{verdict}");
    }
}

#[test]
fn mergeable_memory_that_ksm_has_not_come_round_to_is_still_to_be_scanned() {
    let _alone = alone();
    let _slow = slow_ksm();
    expect_causes(&why_of_two("ksm:500"), &[("still-scanning", 500)]);
}

#[test]
fn merged_memory_has_no_cause() {
    let _alone = alone();
    let (a, b) = (Holder::new(&["ksm:500,seed=5"]), Holder::new(&["ksm:500,seed=5"]));
    let on = KsmOn::new();
    on.wait("1000 merged pages", || merged() == 1000);
    let w = why(&[&a.target("a", 0), &b.target("b", 0)]);
    expect_causes(&w, &[]);
    for vm in w["vms"].as_array().unwrap() {
        assert_eq!(n(&vm["shared_pages"]), 500);
        assert_eq!(vm["verdict"], Value::Null);
    }
}

#[test]
fn one_content_on_many_merged_frames_is_due_to_max_page_sharing() {
    let _alone = alone();
    let (a, b) = (Holder::new(&["ksm:3000,alike,seed=5"]), Holder::new(&["ksm:3000,alike,seed=5"]));
    let on = KsmOn::new();
    on.wait("6000 merged pages", || merged() == 6000);
    let w = why(&[&a.target("a", 0), &b.target("b", 0)]);
    let frames = ksm("pages_shared");
    assert!(frames > 1);
    expect_causes(&w, &[("max-page-sharing", frames - 1)]);
    assert_eq!(n(&w["contents"]), 1);
}

#[test]
fn private_copies_above_a_memfd_are_there_twice() {
    let h = Holder::new(&["double:300"]);
    let w = why(&[&h.target("a", 0)]);
    let double = w["double"].as_array().unwrap();
    assert_eq!(double.len(), 1, "{w}");
    assert_eq!(double[0]["vm"], "a");
    assert_eq!(double[0]["file"], "/memfd:holder (deleted)");
    assert_eq!(n(&double[0]["pages"]), 300);
}

#[test]
fn copies_above_what_a_file_holds_are_not_there_twice() {
    let file = TempFile::new(shm(), 100);
    let mut memory = Mapping::private_file(&file.file, 100).unwrap();
    (0..100).for_each(|page| memory.write(page * PAGE_SIZE, b"written"));
    let w = why(&[&of_this_process("a", memory.pages())]);
    assert_eq!(w["double"].as_array().unwrap().len(), 0, "{w}");
}

#[test]
fn copies_above_a_template_that_two_map_are_not_there_twice() {
    let template = TempFile::new(shm(), 200);
    let region = format!("private:{},write=50", template.name());
    let (a, b) = (Holder::new(&[&region]), Holder::new(&[&region]));
    let w = why(&[&a.target("a", 0), &b.target("b", 0)]);
    assert_eq!(w["double"].as_array().unwrap().len(), 0, "{w}");
}

#[test]
fn pages_of_hugetlb_are_never_merged() {
    let _alone = alone();
    let _pool = Setting::new("/proc/sys/vm/nr_hugepages", "64");
    let _on = KsmOn::new();
    let w = why_of_two("hugetlb:512");
    expect_causes(&w, &[("hugetlb", 512)]);
    for verdict in verdicts(&w) {
        assert!(verdict.contains("hugetlb"), "{verdict}");
    }
}

#[test]
fn equal_pages_of_two_files_are_pages_of_files() {
    let (f, g) = (TempFile::new(shm(), 100), TempFile::new(shm(), 100));
    let a = Holder::new(&[&format!("private:{}", f.name())]);
    let b = Holder::new(&[&format!("private:{}", g.name())]);
    expect_causes(&why(&[&a.target("a", 0), &b.target("b", 0)]), &[("file-page", 100)]);
}

#[test]
fn equal_pages_within_huge_pages_must_be_split_first() {
    let _alone = alone();
    let _enabled = Setting::new("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
    let _slow = slow_ksm();
    let mut memory = Mapping::anonymous(1024).unwrap();
    memory.advise(Advice::HugePage).unwrap();
    memory.advise(Advice::Mergeable).unwrap();
    (0..1024u64).for_each(|page| memory.write(page * PAGE_SIZE, &(page % 512 + 1).to_le_bytes()));
    let w = why(&[&of_this_process("a", memory.pages())]);
    assert_eq!(n(&w["vms"][0]["regions"][0]["huge_pages"]), 1024, "{w}");
    expect_causes(&w, &[("huge-page", 512)]);
}

#[test]
fn pages_that_were_written_with_zeros_are_zeros() {
    let _alone = alone();
    let _slow = slow_ksm();
    let mut memory = Mapping::anonymous(100).unwrap();
    memory.advise(Advice::NoHugePage).unwrap();
    memory.advise(Advice::Mergeable).unwrap();
    (0..100).for_each(|page| memory.write(page * PAGE_SIZE, &[0; 8]));
    expect_causes(&why(&[&of_this_process("a", memory.pages())]), &[("zeros", 99)]);
}

#[test]
fn memory_that_changes_while_it_is_read_is_volatile() {
    let _alone = alone();
    let _off = Setting::new(&format!("{KSM}/run"), "0");
    // half of each is away at any time, and comes back with the same content
    let region = "ksm:2000,seed=6,rush";
    let (a, b) = (Holder::new(&[region]), Holder::new(&[region]));
    let targets = [a.target("a", 0), b.target("b", 0)];
    let volatile = |_| {
        let w = json(&["why", "--json", &targets[0], &targets[1]]);
        let mut causes = w["causes"].as_array().unwrap().iter();
        assert!(n(&w["equal_pages"]) <= n(&w["read_pages"]), "{w}");
        causes.any(|c| c["cause"] == "volatile" && n(&c["pages"]) > 0)
    };
    assert!((0..50).any(volatile), "no page was seen to change in 50 times");
}
