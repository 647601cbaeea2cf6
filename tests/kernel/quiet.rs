//! An observer changes nothing.

use crate::merged;
use crate::support::{Holder, KSM, KsmOn, Setting, TempFile, alone, memscan, shm, tmp, words};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// What may not change: by name, so that a difference says what it is.
type State = BTreeMap<String, String>;

fn state(holders: &[&Holder], files: &[&TempFile]) -> State {
    let mut state = State::new();
    for entry in fs::read_dir(KSM).unwrap() {
        let path = entry.unwrap().path();
        state.insert(path.display().to_string(), fs::read_to_string(&path).unwrap());
    }
    for file in files {
        state.insert(file.name().to_owned(), format!("{} blocks", file.blocks()));
    }
    for (holder, pid) in holders
        .iter()
        .flat_map(|h| std::iter::once(h.pid).chain(h.children.iter().copied()).map(move |p| (h, p)))
    {
        let proc = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
        state.insert(format!("ksm_stat of {pid}"), proc("ksm_stat"));
        // Other tests start holders too, and with them the program's own pages are more or less
        // shared: of the whole process, what it has for itself; of its regions, everything.
        let own = ["Rss:", "Pss_Anon:", "Anonymous:", "KSM:", "LazyFree:", "AnonHuge", "Swap:"];
        for line in proc("smaps_rollup").lines().filter(|l| own.iter().any(|o| l.starts_with(o))) {
            state.insert(
                format!("smaps_rollup of {pid}: {}", line.split(':').next().unwrap()),
                line.into(),
            );
        }
        for (mapping, line) in of_regions(&proc("smaps"), holder) {
            let what = line.split(':').next().unwrap();
            state.insert(format!("smaps of {pid}: {mapping} {what}"), line.into());
        }
        let pagemap = File::open(format!("/proc/{pid}/pagemap")).unwrap();
        for region in &holder.regions {
            let start = u64::from_str_radix(region.range.split('-').next().unwrap(), 16).unwrap();
            let mut entries = vec![0; usize::try_from(region.pages).unwrap() * 8];
            pagemap.read_exact_at(&mut entries, start / 4096 * 8).unwrap();
            let words: Vec<u64> = entries
                .chunks_exact(8)
                .map(|e| u64::from_le_bytes(e.try_into().unwrap()))
                .collect();
            state.insert(format!("page table of {pid} at {}", region.range), format!("{words:x?}"));
        }
    }
    state
}

/// The lines of smaps that tell of mappings with a region of the holder, with the mapping's range.
fn of_regions<'a>(smaps: &'a str, holder: &Holder) -> Vec<(&'a str, &'a str)> {
    let ends = |range: &str| {
        let (a, b) = range.split_once('-').unwrap();
        [a, b].map(|end| u64::from_str_radix(end, 16).unwrap())
    };
    let mut mapping = "";
    let mut found = Vec::new();
    for line in smaps.lines() {
        let first = line.split(' ').next().unwrap();
        if !first.ends_with(':') {
            mapping = first;
        }
        let [from, to] = ends(mapping);
        // the kernel's own ageing (reclaim, DAMON) sets and clears this at any time
        if line.starts_with("Referenced:") {
            continue;
        }
        if holder.regions.iter().map(|r| ends(&r.range)).any(|[a, b]| a < to && from < b) {
            found.push((mapping, line));
        }
    }
    assert!(found.len() > 20 * holder.regions.len().min(2), "{smaps}");
    found
}

#[test]
fn no_subcommand_changes_a_setting_a_page_or_a_file() {
    let _alone = alone();
    let sparse = TempFile::with_holes(shm(), 500);
    (0..500).step_by(7).for_each(|page| sparse.write(page));
    let template = TempFile::new(shm(), 200);
    let private = format!("private:{},write=20", template.name());
    let mut twins =
        [0, 1].map(|_| Holder::new(&["ksm:300,seed=2", "memfd:100", &private, "anon:50,seed=2"]));
    let mut fork =
        Holder::new(&["fork=1", "dirty=20", "anon:300", "zero:100", "unmapped:100", "double:50"]);
    twins.iter_mut().chain([&mut fork]).for_each(Holder::settle);
    let on = KsmOn::new();
    on.wait("600 merged pages", || merged() == 600);
    // merged pages stay, and the counters stand still
    let _stopped = Setting::new(&format!("{KSM}/run"), "0");
    let holders = [&twins[0], &twins[1], &fork];
    let files = [&sparse, &template];

    let mut targets: Vec<String> = ["a", "b"]
        .iter()
        .zip(&twins)
        .map(|(name, h)| format!("{name}=pid:{},all", h.pid))
        .collect();
    targets.push(format!("c=pid:{},all", fork.pid));
    targets.push(fork.target_of("d", fork.children[0], 0));
    targets.push(format!("i=image:{}", sparse.name()));
    let record = tmp(&format!("quiet.{}.scan", std::process::id()));
    let record = record.to_str().unwrap();
    let commands: [&[&str]; 14] = [
        &["summary"],
        &["summary", "--verify", "full"],
        &["summary", "--memory", "8M", "--threads", "1"],
        &["matrix", "--groups"],
        &["matrix", "--svg", "-"],
        &["what-if"],
        &["what-if", "--template", template.name()],
        &["why", "--json"],
        &["ksm"],
        &["map"],
        &["map", "--json", "--absent"],
        &["map", "--format", "placement"],
        &["record", "-o", record],
        &["watch", "--count", "2", "--interval", "0.1", "--json"],
    ];
    let before = state(&holders, &files);
    for command in commands {
        let out = memscan().args(command).args(&targets).output().unwrap();
        assert!(out.status.success(), "{command:?}: {}", words(&out));
        let after = state(&holders, &files);
        for (what, was) in &before {
            assert_eq!(*was, after[what], "{command:?} changed {what}");
        }
        assert_eq!(before.len(), after.len());
    }
    fs::remove_file(record).unwrap();
}
