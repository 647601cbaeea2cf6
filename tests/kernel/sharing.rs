//! Fork and KSM.

use crate::support::{Holder, KsmOn, alone, ksm, n};
use crate::{expect, expect_groups, expect_totals, matrix, merged, row, rows, summary};
use serde_json::json;

#[test]
fn pages_of_a_fork_are_shared_and_written_ones_are_not() {
    let h = Holder::new(&["fork=1", "dirty=100", "anon:1000"]);
    let (a, b) = (h.target("a", 0), h.target_of("b", h.children[0], 0));
    let s = summary(&[&a, &b]);
    for vm in ["a", "b"] {
        let want = json!({ "resident_pages": 1000, "unique_pages": 100, "by": { "fork": 900 } });
        expect(&s, vm, &want);
    }
    expect_totals(&s, 1100, 2000);
    assert_eq!(s["expansion"], 1.8182);
}

#[test]
fn three_that_stem_from_one_share_in_a_group_of_three() {
    let mut h = Holder::new(&["fork=2", "dirty=100", "anon:1000"]);
    // what the parent writes the children still have in common
    h.tell("write 0 300");
    let targets =
        [h.target("a", 0), h.target_of("b", h.children[0], 0), h.target_of("c", h.children[1], 0)];
    let [a, b, c] = [&*targets[0], &targets[1], &targets[2]];
    let m = matrix(&[a, b, c]);
    expect_groups(&m, &[("a+b+c", 700), ("b+c", 200)]);
    let pages = [[1000, 700, 700], [700, 1000, 900], [700, 900, 1000]];
    assert_eq!(rows(&m, None), pages);
    assert_eq!(rows(&m, Some("fork")), [[700, 700, 700], [700, 900, 900], [700, 900, 900]]);
    assert_eq!(rows(&m, Some("ksm")), [[0; 3]; 3]);
    let s = summary(&[a, b, c]);
    expect(&s, "a", &json!({ "resident_pages": 1000, "unique_pages": 300, "by": { "fork": 700 } }));
    for vm in ["b", "c"] {
        let want = json!({ "resident_pages": 1000, "unique_pages": 100, "by": { "fork": 900 } });
        expect(&s, vm, &want);
    }
    expect_totals(&s, 700 + 200 + 300 + 100 + 100, 3000);
}

#[test]
fn what_a_process_outside_the_scan_shares_too_is_called_so() {
    let h = Holder::new(&["fork=2", "anon:500"]);
    let (a, b) = (h.target("a", 0), h.target_of("b", h.children[0], 0));
    let s = summary(&[&a]);
    let want = json!({ "resident_pages": 500, "outside_pages": 500, "by": { "fork": 500 } });
    expect(&s, "a", &want);
    let m = matrix(&[&a, &b]);
    assert_eq!(m["groups"][0]["outside"], true);
    assert_eq!(n(&m["groups"][0]["pages"]), 500);
}

#[test]
fn merged_pages_of_two_are_counted_once() {
    let _alone = alone();
    let (a, b) = (Holder::new(&["ksm:500,seed=7"]), Holder::new(&["ksm:600,seed=7"]));
    let targets = [a.target("a", 0), b.target("b", 0)];
    let targets = [&*targets[0], &targets[1]];
    let before = summary(&targets);
    expect(&before, "a", &json!({ "resident_pages": 500, "unique_pages": 500 }));
    expect_totals(&before, 1100, 1100);
    let on = KsmOn::new();
    on.wait("two times 500 merged pages", || merged() == 1000);
    let s = summary(&targets);
    expect(&s, "a", &json!({ "resident_pages": 500, "by": { "ksm": 500 } }));
    expect(&s, "b", &json!({ "resident_pages": 600, "unique_pages": 100, "by": { "ksm": 500 } }));
    expect_totals(&s, 600, 1100);
    let m = matrix(&targets);
    assert_eq!(rows(&m, None), [[500, 500], [500, 600]]);
    assert_eq!(rows(&m, Some("ksm")), [[500, 500], [500, 500]]);
    expect_groups(&m, &[("a+b", 500)]);
}

#[test]
fn merged_pages_of_three_make_groups_by_who_has_which() {
    let _alone = alone();
    let holders: Vec<Holder> =
        [500, 300, 200].map(|pages| Holder::new(&[&format!("ksm:{pages},seed=8")])).into();
    let targets: Vec<String> =
        holders.iter().zip(["a", "b", "c"]).map(|(h, name)| h.target(name, 0)).collect();
    let on = KsmOn::new();
    on.wait("800 merged pages", || merged() == 800);
    let m = matrix(&[&targets[0], &targets[1], &targets[2]]);
    expect_groups(&m, &[("a+b+c", 200), ("a+b", 100)]);
    assert_eq!(rows(&m, Some("ksm")), [[300, 300, 200], [300, 300, 200], [200, 200, 200]]);
}

#[test]
fn pages_merged_within_one_process_are_one_of_its_own_and_the_rest_shared() {
    let _alone = alone();
    let h = Holder::new(&["ksm:100,alike"]);
    let a = h.target("a", 0);
    let on = KsmOn::new();
    on.wait("100 merged pages", || merged() == 100);
    let s = summary(&[&a]);
    let want = json!({ "resident_pages": 100, "unique_pages": 1, "by": { "ksm": 99 } });
    expect(&s, "a", &want);
    expect_totals(&s, 1, 100);
}

#[test]
fn pages_alike_in_two_processes_are_one_frame_of_both() {
    let _alone = alone();
    let (a, b) = (Holder::new(&["ksm:100,alike,seed=3"]), Holder::new(&["ksm:50,alike,seed=3"]));
    let targets = [a.target("a", 0), b.target("b", 0)];
    let on = KsmOn::new();
    on.wait("150 merged pages", || merged() == 150);
    let s = summary(&[&targets[0], &targets[1]]);
    expect(&s, "a", &json!({ "resident_pages": 100, "by": { "ksm": 100 } }));
    expect(&s, "b", &json!({ "resident_pages": 50, "by": { "ksm": 50 } }));
    expect_totals(&s, 1, 150);
    expect_groups(&matrix(&[&targets[0], &targets[1]]), &[("a+b", 1)]);
}

#[test]
fn more_pages_alike_than_one_frame_may_serve_are_on_as_many_as_the_kernel_says() {
    let _alone = alone();
    let pages = 20_000;
    let h = Holder::new(&[&format!("ksm:{pages},alike")]);
    let a = h.target("a", 0);
    let on = KsmOn::new();
    on.wait("20,000 merged pages", || merged() == pages);
    let frames = ksm("pages_shared");
    assert!(frames >= pages / ksm("max_page_sharing"));
    let s = summary(&[&a]);
    let want = json!({
        "resident_pages": pages, "unique_pages": frames, "by": { "ksm": pages - frames },
    });
    expect(&s, "a", &want);
    expect_totals(&s, frames, pages);
}

#[test]
fn merged_pages_stay_merged_when_forked() {
    let _alone = alone();
    let h = Holder::new(&["ksm:100,alike"]);
    let on = KsmOn::new();
    on.wait("100 merged pages", || merged() == 100);
    drop(h);
    let h = Holder::new(&["fork=1", "dirty=40", "ksm:200,seed=9"]);
    let other = Holder::new(&["ksm:200,seed=9"]);
    let targets = [h.target("a", 0), h.target_of("b", h.children[0], 0), other.target("c", 0)];
    on.wait("560 merged pages", || merged() == 560);
    let s = summary(&[&targets[0], &targets[1], &targets[2]]);
    expect(&s, "a", &json!({ "resident_pages": 200, "by": { "ksm": 200 } }));
    expect(&s, "b", &json!({ "resident_pages": 200, "unique_pages": 40, "by": { "ksm": 160 } }));
    expect_totals(&s, 240, 600);
    expect_groups(
        &matrix(&[&targets[0], &targets[1], &targets[2]]),
        &[("a+b+c", 160), ("a+c", 40)],
    );
}

#[test]
fn the_proportional_share_of_a_whole_process_is_the_kernels() {
    let _alone = alone();
    let on = KsmOn::new();
    let regions = ["fork=2", "dirty=500", "anon:3000", "ksm:2000,alike", "zero:1000", "thp:1024"];
    let h = Holder::new(&regions);
    on.wait("6000 merged pages", || merged() == 6000);
    for pid in [h.pid, h.children[0], h.children[1]] {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let line = rollup.lines().find_map(|l| l.strip_prefix("Pss:")).unwrap();
        let kernel: u64 = line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
        let s = summary(&[&format!("a=pid:{pid},all")]);
        let ours = n(&row(&s, "a")["pss_bytes"]);
        assert!(
            ours.abs_diff(kernel) * 100 <= kernel,
            "PSS is {kernel} for the kernel, not {ours}"
        );
    }
}
