//! What if some left.

use crate::support::{Holder, KsmOn, TempFile, alone, json, run, shm};
use crate::{expect_ways, merged};
use serde_json::Value;

fn what_if(leave: &[&str], more: &[&str], targets: &[String]) -> Value {
    let mut args = vec!["what-if", "--json"];
    for name in leave {
        args.extend(["--leave", name]);
    }
    args.extend(more);
    args.extend(targets.iter().map(String::as_str));
    json(&args)
}

#[test]
fn those_who_stay_keep_what_they_share_with_those_who_leave() {
    let h = Holder::new(&["fork=2", "dirty=100", "anon:1000"]);
    let targets =
        [h.target("a", 0), h.target_of("b", h.children[0], 0), h.target_of("c", h.children[1], 0)];
    let w = what_if(&["a", "b"], &[], &targets);
    assert_eq!(w["leaving"], serde_json::json!(["a", "b"]));
    expect_ways(&w, 2000, 900 + 100 + 100);
    assert_eq!(w["source_freed_pages"], 200);
    assert_eq!(w["source_freed_cache_pages"], 0);
    for alone in w["alone"].as_array().unwrap() {
        expect_ways(alone, 1000, 1000);
        assert_eq!(alone["source_freed_pages"], 100);
    }
    let w = what_if(&["a", "b", "c"], &[], &targets);
    expect_ways(&w, 3000, 1200);
    assert_eq!(w["source_freed_pages"], 1200);
}

#[test]
fn pages_that_one_outside_the_scan_has_too_are_sent_and_not_freed() {
    let h = Holder::new(&["fork=1", "dirty=100", "anon:1000"]);
    let w = what_if(&[], &[], &[h.target("a", 0)]);
    expect_ways(&w, 1000, 1000);
    assert_eq!(w["source_freed_pages"], 100);
}

#[test]
fn merged_pages_are_sent_once_and_freed_with_the_last() {
    let _alone = alone();
    let holders: Vec<Holder> =
        [500, 300, 300].map(|pages| Holder::new(&[&format!("ksm:{pages},seed=11")])).into();
    let targets: Vec<String> =
        holders.iter().zip(["a", "b", "c"]).map(|(h, name)| h.target(name, 0)).collect();
    let on = KsmOn::new();
    on.wait("900 merged pages", || merged() == 900);
    let w = what_if(&["a", "b"], &[], &targets);
    expect_ways(&w, 800, 500);
    assert_eq!(w["source_freed_pages"], 200);
    let w = what_if(&[], &[], &targets);
    expect_ways(&w, 1100, 500);
    assert_eq!(w["source_freed_pages"], 500);
}

#[test]
fn pages_of_a_template_that_is_there_are_neither_sent_nor_do_they_cost_memory() {
    let template = TempFile::new(shm(), 1000);
    let region = |write| format!("private:{},write={write}", template.name());
    let (a, b) = (Holder::new(&[&region(100)]), Holder::new(&[&region(200)]));
    let c = Holder::new(&["anon:50"]);
    let targets = [a.target("a", 0), b.target("b", 0), c.target("c", 0)];

    // 800 pages of the template are mapped by both, 100 by the first alone, 100 by nobody
    let w = what_if(&["a", "b"], &[], &targets);
    expect_ways(&w, 2000, 800 + 100 + 100 + 200);
    assert_eq!(w["source_freed_pages"], 1200);
    assert_eq!(w["source_freed_cache_pages"], 900);
    assert_eq!(w["template_pages"], 0);

    let w = what_if(&["a", "b"], &["--template", template.name()], &targets);
    expect_ways(&w, 2000, 100 + 200);
    assert_eq!(w["source_freed_pages"], 1200);
    assert_eq!(w["template_pages"], 900);
    let [first, second] = [&w["alone"][0], &w["alone"][1]];
    expect_ways(first, 1000, 100);
    assert_eq!([&first["source_freed_pages"], &first["template_pages"]], [200, 900]);
    expect_ways(second, 1000, 200);
    assert_eq!([&second["source_freed_pages"], &second["template_pages"]], [200, 800]);

    let w = what_if(&["c"], &["--template", template.name()], &targets);
    expect_ways(&w, 50, 50);
    assert_eq!(w["template_pages"], 0);
}

#[test]
fn less_memory_for_the_scan_gives_the_same_groups() {
    // six times 100,000 pages of one file, and twice 40,000 of a fork: twice what fits
    let file = TempFile::with_holes(shm(), 100_000);
    let region = format!("shared:{}", file.name());
    let maps: Vec<Holder> = (0..6).map(|_| Holder::new(&[&region])).collect();
    let fork = Holder::new(&["fork=1", "dirty=1000", "anon:40000"]);
    let mut targets: Vec<String> =
        maps.iter().enumerate().map(|(i, h)| h.target(&format!("m{i}"), 0)).collect();
    targets.push(fork.target("f", 0));
    targets.push(fork.target_of("g", fork.children[0], 0));
    let ask = |command: &[&str], limit: &[&str]| {
        let mut args = [command, limit, &["--json"]].concat();
        args.extend(targets.iter().map(String::as_str));
        run(&args)
    };
    for command in [&["matrix", "--groups"][..], &["what-if"]] {
        assert_eq!(ask(command, &["--memory", "8M"]), ask(command, &[]));
    }
    let s: Value = serde_json::from_str(&ask(&["summary"], &["--memory", "8M"])).unwrap();
    assert!(s["passes"].as_u64().unwrap() > 1, "{s}");
    assert_eq!(s["footprint_pages"], 100_000 + 41_000);
    assert_eq!(s["naive_pages"], 680_000);
}
