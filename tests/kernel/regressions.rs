//! One test for each fault that a reading or a trial has found; each failed before it was mended.

use super::{expect, row, summary};
use crate::support::{Holder, TempFile, alone, example, json, memscan, n, tmp, words};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

#[test]
fn frames_of_anonymous_memory_that_were_freed_meanwhile_are_no_pages_of_a_file() {
    let _alone = alone();
    let h = Holder::new(&["breed", "anon:2000,rush"]);
    for scan in 0..60 {
        let s = summary(&[&h.target("a", 0)]);
        let by = &row(&s, "a")["by"];
        assert_eq!(n(&by["file"]) + n(&by["shmem"]), 0, "scan {scan}: {by}");
    }
}

#[test]
fn a_huge_page_that_a_child_has_in_part_is_not_unique_where_it_is_scanned_alone() {
    let _alone = alone();
    let h = Holder::new(&["fork=1", "dirty=10", "thp:2048"]);
    let s = summary(&[&h.target("a", 0)]);
    let got = row(&s, "a");
    assert_eq!(n(&got["unique_pages"]), 10, "{got}");
    assert_eq!(n(&got["by"]["fork"]), 2038, "{got}");
    assert_eq!(n(&got["outside_pages"]), 2038, "{got}");
}

#[test]
fn memory_that_a_vm_owns_and_does_not_map_moves_with_it() {
    let _alone = alone();
    let h = Holder::new(&["unmapped:1000"]);
    let target = h.target("a", 0);
    let f = json(&["what-if", "--json", "--leave", "a", &target]);
    for ways in ["destination_pages", "send_pages"] {
        assert_eq!(f[ways], json!({ "naive": 1000, "kept": 1000 }), "{f}");
    }
    assert_eq!(n(&f["source_freed_pages"]), 1000, "{f}");
    assert_eq!(n(&f["unmapped_pages"]), 1000, "{f}");
    expect(&summary(&[&target]), "a", &json!({ "unmapped_pages": 1000 }));
}

#[test]
fn an_image_on_a_disk_is_not_read_in() {
    let _alone = alone();
    let image = TempFile::new(&tmp(""), 4096);
    let file = File::open(image.name()).unwrap();
    file.sync_all().unwrap();
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    (&file).take(4096 * 100).read_to_end(&mut Vec::new()).unwrap();
    let target = format!("i=image:{}", image.name());
    let resident = || n(&row(&summary(&[&target]), "i")["resident_pages"]);
    let first = resident();
    assert!((100..4096).contains(&first), "{first} pages were there");
    assert_eq!([resident(), resident()], [first, first], "looking brings nothing in");
}

#[test]
fn a_watch_sees_processes_that_start_later() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("latecomer");
    std::fs::copy(example("holder"), &program).unwrap();
    let start = || {
        let mut child = Command::new(&program)
            .arg("anon:100")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        child
    };
    let mut first = start();
    let mut watch = memscan()
        .args(["watch", "--json", "--count", "6", "--interval", "0.3", "comm:latecomer"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let vms = |line: &str| -> usize {
        serde_json::from_str::<Value>(line).unwrap()["vms"].as_array().unwrap().len()
    };
    assert_eq!(vms(&lines.next().unwrap().unwrap()), 1);
    let mut second = start();
    let rest: Vec<usize> = lines.map(|line| vms(&line.unwrap())).collect();
    let out = watch.wait_with_output().unwrap();
    for child in [&mut first, &mut second] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(rest.last(), Some(&2), "{rest:?} {}", words(&out));
}
