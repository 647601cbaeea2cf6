//! The map of pages, records of scans, and what lies between two of them.

use crate::files::of_this_process;
use crate::merged;
use crate::support::{
    Holder, KsmOn, TempFile, alone, json, memscan, n, run, shm, tmp, wait_for, words,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pageherd::base::Place;
use pageherd::placement::map::{MapHeader, MapRun, parse};
use pageherd::sys::mapping::Mapping;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// A record that goes when this does.
struct Record(PathBuf);

impl Record {
    fn of(name: &str, targets: &[&str]) -> Self {
        let record = Self(tmp(&format!("{name}.{}.scan", std::process::id())));
        run(&[&["record", "-o", record.path()], targets].concat());
        record
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn diff(&self, after: &Self) -> Value {
        json(&["diff", "--json", self.path(), after.path()])
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The transitions are these and no others: VM, before, after, pages.
fn expect_transitions(diff: &Value, want: &[(&str, &str, &str, u64)]) {
    let mut got: Vec<(&str, &str, &str, u64)> = Vec::new();
    for t in diff["transitions"].as_array().unwrap() {
        let word = |key: &str| t[key].as_str().unwrap();
        got.push((word("vm"), word("before"), word("after"), n(&t["pages"])));
    }
    got.sort_unstable();
    let mut want = want.to_vec();
    want.sort_unstable();
    assert_eq!(got, want, "{diff}");
}

#[test]
fn pages_written_since_a_fork_are_the_difference() {
    let mut h = Holder::new(&["fork=1", "dirty=100", "anon:1000"]);
    let targets = [h.target("a", 0), h.target_of("b", h.children[0], 0)];
    let targets = [&*targets[0], &targets[1]];
    let before = Record::of("fork-before", &targets);
    let same = before.diff(&Record::of("fork-same", &targets));
    expect_transitions(&same, &[]);
    assert_eq!(same["footprint_pages"], json!([1100, 1100]));
    // 100 of these the child had written already: they were no longer common
    h.tell("write 0 300");
    let d = before.diff(&Record::of("fork-after", &targets));
    expect_transitions(&d, &[("a", "fork", "unique", 200), ("b", "fork", "unique", 200)]);
    assert_eq!(d["footprint_pages"], json!([1100, 1300]));
    assert_eq!(d["pairs"], json!([{ "vms": ["a", "b"], "by": "fork", "pages": [900, 700] }]));
    assert_eq!(d["vms"][0]["by"]["fork"], json!([900, 700]));
    assert_eq!(d["vms"][0]["unique_pages"], json!([100, 300]));
    h.tell("discard 0 150");
    let d = before.diff(&Record::of("fork-discarded", &targets));
    expect_transitions(
        &d,
        &[
            ("a", "unique", "absent", 100),
            ("a", "fork", "absent", 50),
            ("a", "fork", "unique", 150),
            ("b", "fork", "unique", 200),
        ],
    );
}

#[test]
fn what_is_left_of_a_fork_belongs_to_who_is_left() {
    let h = Holder::new(&["fork=1", "dirty=100", "anon:1000"]);
    let targets = [h.target("a", 0), h.target_of("b", h.children[0], 0)];
    let before = Record::of("child-before", &[&targets[0], &targets[1]]);
    kill(Pid::from_raw(h.children[0]), Signal::SIGKILL).unwrap();
    let status = format!("/proc/{}/status", h.children[0]);
    wait_for("the end of the child", Duration::from_secs(10), || {
        std::fs::read_to_string(&status).unwrap().contains("zombie")
    });
    let d = before.diff(&Record::of("child-after", &[&targets[0]]));
    expect_transitions(&d, &[("a", "fork", "unique", 900)]);
    assert_eq!(d["only_before"], json!(["b"]));
    assert_eq!(d["footprint_pages"], json!([1100, 1000]));
}

#[test]
fn merging_and_unmerging_are_the_difference() {
    let _alone = alone();
    let (mut a, b) = (Holder::new(&["ksm:500,seed=12"]), Holder::new(&["ksm:500,seed=12"]));
    let targets = [a.target("a", 0), b.target("b", 0)];
    let targets = [&*targets[0], &targets[1]];
    let apart = Record::of("ksm-apart", &targets);
    let on = KsmOn::new();
    on.wait("1000 merged pages", || merged() == 1000);
    let merged_record = Record::of("ksm-merged", &targets);
    let d = apart.diff(&merged_record);
    expect_transitions(&d, &[("a", "unique", "ksm", 500), ("b", "unique", "ksm", 500)]);
    assert_eq!(d["footprint_pages"], json!([1000, 500]));
    assert_eq!(d["pairs"], json!([{ "vms": ["a", "b"], "by": "ksm", "pages": [0, 500] }]));
    a.tell("write 0 100");
    let d = merged_record.diff(&Record::of("ksm-written", &targets));
    // the last that maps a merged frame has it for itself
    expect_transitions(&d, &[("a", "ksm", "unique", 100), ("b", "ksm", "unique", 100)]);
    assert_eq!(d["footprint_pages"], json!([500, 600]));
    assert_eq!(d["pairs"], json!([{ "vms": ["a", "b"], "by": "ksm", "pages": [500, 400] }]));
    a.tell("unmerge 0");
    let d = merged_record.diff(&Record::of("ksm-unmerged", &targets));
    expect_transitions(&d, &[("a", "ksm", "unique", 500), ("b", "ksm", "unique", 500)]);
}

fn placement(targets: &[&str]) -> (MapHeader, Vec<MapRun>) {
    let out = memscan().args(["map", "--format", "placement"]).args(targets).output().unwrap();
    assert!(out.status.success(), "{}", words(&out));
    parse(&out.stdout).unwrap()
}

/// The place of every page of a VM, in order.
fn places(map: &(MapHeader, Vec<MapRun>), name: &str) -> Vec<Place> {
    let vm = map.0.vms.iter().position(|vm| vm.name == name).unwrap();
    let runs = map.1.iter().filter(|run| run.vm as usize == vm);
    runs.flat_map(|run| (0..run.pages).map(|i| run.place.after(i))).collect()
}

#[test]
fn the_placement_map_has_a_place_for_every_page() {
    let template = TempFile::new(shm(), 80);
    let fork = Holder::new(&["fork=1", "dirty=10", "anon:100"]);
    let zero = Holder::new(&["zero:50"]);
    let memfd = Holder::new(&["memfd:60"]);
    let private = Holder::new(&[&format!("private:{},write=5", template.name())]);
    let unmapped = Holder::new(&["unmapped:70"]);
    let untouched = Mapping::private_file(&template.file, 80).unwrap();
    let targets = [
        fork.target("a", 0),
        fork.target_of("b", fork.children[0], 0),
        zero.target("z", 0),
        memfd.target("m", 0),
        private.target("p", 0),
        unmapped.target("u", 0),
        of_this_process("t", untouched.pages()),
    ];
    let map = placement(&targets.each_ref().map(String::as_str));
    let file = |name: &str| {
        let at = map.0.files.iter().position(|file| file.path == name);
        u32::try_from(at.unwrap_or_else(|| panic!("{name} is not in {:?}", map.0.files))).unwrap()
    };
    let pages = |range: std::ops::Range<u64>, place: &dyn Fn(u64) -> Place| -> Vec<Place> {
        range.map(place).collect()
    };

    // by their frames the common pages are the same of the pool, and each is in it once
    let (a, b) = (places(&map, "a"), places(&map, "b"));
    assert_eq!(a[..10], [Place::Bytes; 10]);
    assert_eq!(b[..10], [Place::Bytes; 10]);
    assert_eq!(a[10..], b[10..]);
    let mut pool: Vec<u64> = a[10..]
        .iter()
        .map(|place| match place {
            Place::Pool { page } => *page,
            other => panic!("{other:?}"),
        })
        .collect();
    pool.sort_unstable();
    assert_eq!(pool, (0..90).collect::<Vec<_>>());

    assert_eq!(places(&map, "z"), [Place::Zero; 50]);
    let template = file(template.name());
    let private = places(&map, "p");
    assert_eq!(private[..5], [Place::Bytes; 5]);
    assert_eq!(private[5..], pages(5..80, &|page| Place::Template { file: template, page }));
    // what is not in the page table is in the file all the same
    let untouched = places(&map, "t");
    assert_eq!(untouched, pages(0..80, &|page| Place::Template { file: template, page }));
    for (vm, len) in [("m", 60), ("u", 70)] {
        let places = places(&map, vm);
        let Place::Local { file, .. } = places[0] else { panic!("{vm}: {:?}", places[0]) };
        assert_eq!(places, pages(0..len, &|page| Place::Local { file, page }));
    }
}

#[test]
fn the_placement_map_of_a_whole_process_covers_all_of_it() {
    let h = Holder::new(&["fork=1", "anon:1000", "zero:100", "memfd:100"]);
    let (header, runs) =
        placement(&[&format!("a=pid:{},all", h.pid), &h.target_of("b", h.children[0], 0)]);
    // the parser refuses a map with a page that is missing or there twice: so the sums suffice
    let in_blocks: u64 = header.vms.iter().flat_map(|vm| &vm.blocks).map(|(_, pages)| pages).sum();
    let in_runs: u64 = runs.iter().map(|run| run.pages).sum();
    assert_eq!(in_blocks, in_runs);
    assert!(in_blocks > 2200);
}

#[test]
fn the_lines_of_the_map_add_up_to_the_summary() {
    let h = Holder::new(&["fork=1", "dirty=100", "anon:1000"]);
    let targets = [h.target("a", 0), h.target_of("b", h.children[0], 0)];
    let tsv = run(&["map", "--noheadings", &targets[0], &targets[1]]);
    let lines = tsv.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let mut pages = std::collections::BTreeMap::new();
    for line in lines {
        *pages.entry((line[0].to_owned(), line[3].to_owned())).or_insert(0) +=
            line[2].parse::<u64>().unwrap();
        if line[3] == "fork" {
            assert_eq!(line[6], "a,b");
        }
    }
    let of = |vm: &str, state: &str| pages[&(vm.to_owned(), state.to_owned())];
    for vm in ["a", "b"] {
        assert_eq!((of(vm, "fork"), of(vm, "unique")), (900, 100));
    }
    assert_eq!(pages.len(), 4);
    let jsonl = run(&["map", "--json", &targets[0], &targets[1]]);
    let all: u64 =
        jsonl.lines().map(|l| n(&serde_json::from_str::<Value>(l).unwrap()["pages"])).sum();
    assert_eq!(all, 2000);
}
