//! Files, tmpfs and memfds.

use crate::support::{Holder, TempFile, n, shm, tmp};
use crate::{expect, expect_groups, expect_totals, matrix, row, rows, summary};
use pageherd::base::PageRange;
use pageherd::sys::mapping::Mapping;
use serde_json::{Value, json};
use std::path::Path;

fn shared_by_file(s: &Value, name: &str, path: &str) -> u64 {
    let mut files = row(s, name)["files"].as_array().unwrap().iter();
    files.find(|f| f["path"] == path).map_or(0, |f| n(&f["pages"]))
}

/// Two map a file privately; the second writes some of it.
fn private_mappings(folder: &Path) {
    let file = TempFile::new(folder, 700);
    let region = format!("private:{}", file.name());
    let (a, b) = (Holder::new(&[&region]), Holder::new(&[&format!("{region},write=50")]));
    let targets = [a.target("a", 0), b.target("b", 0)];
    let targets = [&*targets[0], &targets[1]];
    let s = summary(&targets);
    // 50 pages of the file are now the first one's alone, and 50 copies the second one's
    for vm in ["a", "b"] {
        let want = json!({ "resident_pages": 700, "unique_pages": 50, "by": { "file": 650 } });
        expect(&s, vm, &want);
        assert_eq!(shared_by_file(&s, vm, file.name()), 650, "{s}");
    }
    expect_totals(&s, 750, 1400);
    let m = matrix(&targets);
    assert_eq!(rows(&m, Some("file")), [[650, 650], [650, 650]]);
    expect_groups(&m, &[("a+b", 650)]);
}

#[test]
fn a_file_on_a_disk_mapped_privately_is_shared_until_it_is_written() {
    private_mappings(&tmp("").canonicalize().unwrap());
}

#[test]
fn a_file_in_tmpfs_mapped_privately_is_shared_until_it_is_written() {
    private_mappings(shm());
}

#[test]
fn a_memfd_mapped_shared_by_parent_and_child_is_shared_memory() {
    let h = Holder::new(&["fork=1", "touch", "memfd:400"]);
    let targets = [h.target("a", 0), h.target_of("b", h.children[0], 0)];
    let s = summary(&[&targets[0], &targets[1]]);
    for vm in ["a", "b"] {
        expect(&s, vm, &json!({ "resident_pages": 400, "by": { "shmem": 400 } }));
        assert_eq!(shared_by_file(&s, vm, "/memfd:holder (deleted)"), 400, "{s}");
    }
    expect_totals(&s, 400, 800);
}

#[test]
fn a_memfd_that_the_child_has_not_touched_is_the_parents_and_not_lost() {
    let h = Holder::new(&["fork=1", "memfd:400"]);
    let targets = [h.target("a", 0), h.target_of("b", h.children[0], 0)];
    let s = summary(&[&targets[0], &targets[1]]);
    expect(&s, "a", &json!({ "resident_pages": 400, "unique_pages": 400 }));
    expect(&s, "b", &json!({ "unmapped_pages": 400 }));
}

#[test]
fn a_tmpfs_file_mapped_shared_by_two_is_shared_memory() {
    let file = TempFile::new(shm(), 300);
    let region = format!("shared:{}", file.name());
    let (a, b) = (Holder::new(&[&region]), Holder::new(&[&format!("{region},write=100")]));
    let targets = [a.target("a", 0), b.target("b", 0)];
    let s = summary(&[&targets[0], &targets[1]]);
    for vm in ["a", "b"] {
        // writing what is mapped shared changes nothing about who has it
        expect(&s, vm, &json!({ "resident_pages": 300, "by": { "shmem": 300 } }));
    }
    expect_totals(&s, 300, 600);
    assert_eq!(rows(&matrix(&[&targets[0], &targets[1]]), Some("shmem")), [[300, 300]; 2]);
}

#[test]
fn private_copies_of_a_memfd_are_unique() {
    let h = Holder::new(&["double:300"]);
    let s = summary(&[&h.target("a", 0)]);
    expect(&s, "a", &json!({ "resident_pages": 300, "unique_pages": 300 }));
    expect_totals(&s, 300, 300);
}

#[test]
fn pages_of_a_memfd_that_nobody_mapped_are_owned_and_not_resident() {
    let h = Holder::new(&["unmapped:300"]);
    let s = summary(&[&h.target("a", 0)]);
    expect(&s, "a", &json!({ "unmapped_pages": 300 }));
    expect_totals(&s, 0, 0);
}

#[test]
fn a_range_in_the_middle_of_a_mapping_is_counted_for_itself() {
    let h = Holder::new(&["unmapped:300"]);
    let start = u64::from_str_radix(h.regions[0].range.split('-').next().unwrap(), 16).unwrap();
    let (from, to) = (start + 100 * 4096, start + 150 * 4096);
    let s = summary(&[&format!("a=pid:{},range={from:x}-{to:x}", h.pid)]);
    expect(&s, "a", &json!({ "unmapped_pages": 50 }));
}

/// The range of a mapping of this very process, as a target.
pub(crate) fn of_this_process(name: &str, pages: PageRange) -> String {
    let end = PageRange::of(pages.end, 0).address().0;
    format!("{name}=pid:{},range={:x}-{end:x}", std::process::id(), pages.address().0)
}

#[test]
fn an_image_has_the_pages_that_were_written_and_shares_them_with_who_maps_it() {
    let image = TempFile::with_holes(shm(), 1000);
    let written = |page: &u64| page % 10 < 4 && !(480..520).contains(page);
    (0..1000).filter(written).for_each(|page| image.write(page));
    let blocks = image.blocks();
    assert_eq!(blocks, 384 * 8);
    let target = format!("i=image:{}", image.name());
    let s = summary(&[&target]);
    expect(&s, "i", &json!({ "resident_pages": 384, "unique_pages": 384 }));
    assert_eq!(image.blocks(), blocks, "looking at it filled no hole");

    let mapping = Mapping::shared_file(&image.file, 1000).unwrap();
    // A fault brings up to fifteen neighbours in that are there: none is, beyond the first half.
    (0..480).filter(written).for_each(|page| {
        mapping.touch(page);
    });
    let process = of_this_process("p", mapping.pages());
    let s = summary(&[&target, &process]);
    let want = json!({ "resident_pages": 384, "unique_pages": 192, "by": { "shmem": 192 } });
    expect(&s, "i", &want);
    let want = json!({ "resident_pages": 192, "unmapped_pages": 192, "by": { "shmem": 192 } });
    expect(&s, "p", &want);
    expect_totals(&s, 384, 576);
    expect_groups(&matrix(&[&target, &process]), &[("i+p", 192)]);
    assert_eq!(image.blocks(), blocks, "looking at it filled no hole");
}
