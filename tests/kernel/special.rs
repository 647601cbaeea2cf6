//! Huge pages, zero pages and swap.

use crate::support::{Holder, Setting, Swap, alone, json};
use crate::{expect, expect_totals, expect_ways, summary};
use memmap2::Advice;
use pageherd::base::PageRange;
use pageherd::sys::mapping::Mapping;
use serde_json::json;

const THP: &str = "/sys/kernel/mm/transparent_hugepage";

#[test]
fn transparent_huge_pages_are_counted_in_small_ones() {
    let _alone = alone();
    let _enabled = Setting::new(&format!("{THP}/enabled"), "madvise");
    let h = Holder::new(&["thp:2048"]);
    let s = summary(&[&h.target("a", 0)]);
    expect(&s, "a", &json!({ "resident_pages": 2048, "unique_pages": 2048, "huge_pages": 2048 }));
    expect_totals(&s, 2048, 2048);
}

#[test]
fn forked_huge_pages_are_shared_until_a_write_divides_them() {
    let _alone = alone();
    let _enabled = Setting::new(&format!("{THP}/enabled"), "madvise");
    let h = Holder::new(&["fork=1", "dirty=10", "thp:2048"]);
    let targets = [h.target("a", 0), h.target_of("b", h.children[0], 0)];
    let s = summary(&[&targets[0], &targets[1]]);
    let want = |huge: u64| {
        json!({
            "resident_pages": 2048, "unique_pages": 10, "huge_pages": huge, "by": { "fork": 2038 },
        })
    };
    expect(&s, "a", &want(2048));
    expect(&s, "b", &want(2048 - 512));
    expect_totals(&s, 2058, 4096);
}

#[test]
fn pages_of_hugetlb_are_counted_and_never_mergeable() {
    let _alone = alone();
    let _pool = Setting::new("/proc/sys/vm/nr_hugepages", "64");
    let h = Holder::new(&["hugetlb:1024"]);
    let a = h.target("a", 0);
    let s = summary(&[&a]);
    expect(&s, "a", &json!({ "resident_pages": 1024, "unique_pages": 1024, "huge_pages": 1024 }));
    let why = json(&["why", "--json", &a]);
    let region = &why["vms"][0]["regions"][0];
    assert_eq!(region["mergeable"], false);
    assert_eq!(region["huge_pages"], 1024);
    assert_eq!(region["blockers"][0], "hugetlb", "{why}");
}

#[test]
fn forked_pages_of_hugetlb_are_shared_until_they_are_written() {
    let _alone = alone();
    let _pool = Setting::new("/proc/sys/vm/nr_hugepages", "64");
    let h = Holder::new(&["fork=1", "dirty=10", "hugetlb:1024"]);
    let targets = [h.target("a", 0), h.target_of("b", h.children[0], 0)];
    let s = summary(&[&targets[0], &targets[1]]);
    for vm in ["a", "b"] {
        // ten writes into one huge page copy the whole of it
        let want = json!({
            "resident_pages": 1024, "unique_pages": 512, "huge_pages": 1024, "by": { "fork": 512 },
        });
        expect(&s, vm, &want);
    }
    expect_totals(&s, 1536, 2048);
}

#[test]
fn the_zero_page_costs_nothing() {
    let (a, b) = (Holder::new(&["zero:300", "anon:20"]), Holder::new(&["zero:300"]));
    let targets = [a.target("a", 0), b.target("b", 0)];
    let s = summary(&[&targets[0], &targets[1]]);
    for vm in ["a", "b"] {
        expect(&s, vm, &json!({ "resident_pages": 300, "by": { "zero": 300 } }));
    }
    expect_totals(&s, 0, 0);
    let w = json(&["what-if", "--json", &targets[0], &targets[1]]);
    expect_ways(&w, 0, 0);
    assert_eq!(w["source_freed_pages"], 0);
    // everyone has it, and nobody has it in common with anyone
    let m = json(&["matrix", "--json", &targets[0], &targets[1]]);
    assert_eq!(m["pages"], json!([[300, 0], [0, 300]]));
}

#[test]
fn the_huge_zero_page_costs_nothing() {
    let _alone = alone();
    let _enabled = Setting::new(&format!("{THP}/enabled"), "madvise");
    let _zero = Setting::new(&format!("{THP}/use_zero_page"), "1");
    let mapping = Mapping::anonymous(3 * 512).unwrap();
    mapping.advise(Advice::HugePage).unwrap();
    let start = mapping.pages().start.next_multiple_of(512);
    (0..2).for_each(|i| {
        mapping.touch(start + i * 512 - mapping.pages().start);
    });
    let (from, to) = (PageRange::of(start, 0).address().0, PageRange::of(start + 1024, 0));
    let target = format!("a=pid:{},range={from:x}-{:x}", std::process::id(), to.address().0);
    let s = summary(&[&target]);
    let want = json!({ "resident_pages": 1024, "huge_pages": 1024, "by": { "zero": 1024 } });
    expect(&s, "a", &want);
    expect_totals(&s, 0, 0);
}

#[test]
fn swapped_pages_are_not_resident_and_not_forgotten() {
    let _alone = alone();
    let _swap = Swap::new(64);
    let h = Holder::new(&["swap:1000"]);
    let other = Holder::new(&["anon:100"]);
    let targets = [h.target("a", 0), other.target("b", 0)];
    let s = summary(&[&targets[0], &targets[1]]);
    expect(&s, "a", &json!({ "swapped_pages": 1000 }));
    expect(&s, "b", &json!({ "resident_pages": 100, "unique_pages": 100 }));
    expect_totals(&s, 100, 100);
    let w = json(&["what-if", "--json", "--leave", "a", &targets[0], &targets[1]]);
    // there they are resident
    expect_ways(&w, 1000, 1000);
    assert_eq!(w["source_freed_pages"], 0);
    assert_eq!(w["source_freed_swap_pages"], 1000);
    let w = json(&["what-if", "--json", &targets[0], &targets[1]]);
    expect_ways(&w, 1100, 1100);
    // having looked brought nothing back
    expect(&summary(&[&targets[0]]), "a", &json!({ "swapped_pages": 1000 }));
}
