//! N processes that share arrive in a herd that shares as much.

use super::*;
use pageherd::base::Place;
use pageherd::source::herd::HerdMemory;
use std::collections::BTreeSet;
use support::{KsmOn, TempFile, alone, json, n, shm};

/// Distinct pages behind the VMs of a herd: of the pool, and of templates.
pub(crate) fn distinct(dir: &Path, vms: &[String]) -> u64 {
    let (mut slots, mut templates) = (BTreeSet::new(), BTreeSet::new());
    for name in vms {
        let memory = HerdMemory::open(&HerdVm::find(&dir.join(name)).unwrap()[0]).unwrap();
        for run in memory.places.runs() {
            for i in 0..run.pages {
                match run.place.unwrap().after(i) {
                    Place::Pool { page } => drop(slots.insert(page)),
                    Place::Template { file, page } => drop(templates.insert((file, page))),
                    Place::Zero | Place::Unused => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    // what is in use is what the pool takes
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(dir.join("pool")).unwrap());
    assert_eq!(blocks / 8, slots.len() as u64, "pages that the pool takes, and that are in use");
    (slots.len() + templates.len()) as u64
}

fn within_one_percent(found: u64, wanted: u64, what: &str) {
    assert!(
        found.abs_diff(wanted) * 100 <= wanted,
        "{what}: {found} pages, the source has {wanted}"
    );
}

/// Sends VMs together; their herd must be as large as they are.
fn as_large_as_the_source(targets: &[String], more: &[&str]) {
    let folder = Folder::new();
    let herd = folder.at("h");
    let names: Vec<String> =
        targets.iter().map(|t| t.split_once('=').unwrap().0.to_owned()).collect();
    let all: Vec<&str> = targets.iter().map(String::as_str).collect();
    let source = json(&[&["summary", "--json"], all.as_slice()].concat());
    let mut send = more.to_vec();
    all.iter().for_each(|target| send.extend(["--vm", target]));
    pass(&send, &[more, &["--into", &herd]].concat());
    let wanted = n(&source["footprint_pages"]);
    within_one_percent(distinct(Path::new(&herd), &names), wanted, "the herd");
    // and memscan sees it
    let target = format!("herd:{herd}");
    let there = json(&["summary", "--json", &target]);
    within_one_percent(n(&there["footprint_pages"]), wanted, "memscan of the herd");
    assert_eq!(there["vms"].as_array().unwrap().len(), targets.len());
    // a second hop keeps it
    let next = folder.at("next");
    pass(&[more, &["--vm", &target]].concat(), &[more, &["--into", &next]].concat());
    within_one_percent(distinct(Path::new(&next), &names), wanted, "the next herd");
    // also where the template does not go on with it
    let last = folder.at("last");
    pass(&["--vm", &target], &["--into", &last]);
    within_one_percent(distinct(Path::new(&last), &names), wanted, "a herd without the template");
    for name in &names {
        let here = in_herd(Path::new(&herd), name);
        assert!(in_herd(Path::new(&next), name) == here && in_herd(Path::new(&last), name) == here);
    }
    // and nothing of it is only arithmetic
    let naive = n(&source["naive_pages"]);
    assert!(naive > wanted * 2, "they do share: {naive} and {wanted}");
}

#[test]
fn of_processes_forked_from_one() {
    for count in [3, 8] {
        let (fork, dirty) = (format!("fork={}", count - 1), "dirty=50");
        let holder = Holder::new(&[&fork, dirty, "anon:1500"]);
        let mut pids = vec![holder.pid];
        pids.extend(&holder.children);
        let target = |(i, &pid): (usize, &i32)| holder.target_of(&format!("vm{i}"), pid, 0);
        let targets: Vec<String> = pids.iter().enumerate().map(target).collect();
        as_large_as_the_source(&targets, &[]);
    }
}

#[test]
fn of_processes_merged_by_ksm() {
    let _alone = alone();
    for count in [3, 8] {
        let unlike = "anon:30";
        let holders: Vec<Holder> =
            (0..count).map(|_| Holder::new(&["ksm:900,seed=12", unlike])).collect();
        let on = KsmOn::new();
        let targets: Vec<String> =
            holders.iter().enumerate().map(|(i, h)| h.target(&format!("vm{i}"), 0)).collect();
        on.wait("all to be merged", || footprint_of(&targets) == 900);
        as_large_as_the_source(&targets, &[]);
    }
}

#[test]
fn of_processes_on_one_template() {
    let template = TempFile::new(shm(), 1200);
    for count in [3, 8] {
        let region = format!("private:{},write=40", template.name());
        let holders: Vec<Holder> = (0..count).map(|_| Holder::new(&[&region])).collect();
        let targets: Vec<String> =
            holders.iter().enumerate().map(|(i, h)| h.target(&format!("vm{i}"), 0)).collect();
        as_large_as_the_source(&targets, &["--template", template.name()]);
        // without it at the far end, the first has all of it and the others refer to that
        as_large_as_the_source(&targets, &[]);
    }
}
