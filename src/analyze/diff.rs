//! Two records of the same VMs: which sharing was lost, and why the footprint grew.

use crate::placement::scanfile::{BlockHeader, Header, PageState, Row, VmHeader};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What lies between two records. Changes are `after - before`, in pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Seconds between them.
    pub seconds: i64,
    /// Distinct frames before and after, the zero page left out.
    pub footprint_pages: [u64; 2],
    /// By VM.
    pub vms: Vec<VmDiff>,
    /// Pages by what they were and what they have become, most first; unchanged ones left out.
    pub transitions: Vec<Transition>,
    /// Frames that pairs of VMs have in common, where that has changed.
    pub pairs: Vec<PairDiff>,
    /// VMs that only one record has.
    pub only_before: Vec<String>,
    /// See `only_before`.
    pub only_after: Vec<String>,
}

/// One VM's change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmDiff {
    /// Its name.
    pub name: String,
    /// Resident pages before and after.
    pub resident_pages: [u64; 2],
    /// Unique pages before and after.
    pub unique_pages: [u64; 2],
    /// Shared pages before and after, by mechanism, where there are any.
    pub by: BTreeMap<&'static str, [u64; 2]>,
    /// Swapped pages before and after.
    pub swapped_pages: [u64; 2],
}

/// Pages that were one thing and are another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Transition {
    /// The VM.
    pub vm: String,
    /// What they were.
    pub before: &'static str,
    /// What they are.
    pub after: &'static str,
    /// How many.
    pub pages: u64,
    /// In words.
    pub meaning: &'static str,
}

/// What two VMs have in common, before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PairDiff {
    /// The two VMs.
    pub vms: [String; 2],
    /// Through what.
    pub by: &'static str,
    /// Frames before and after.
    pub pages: [u64; 2],
}

/// Compares two records.
pub fn diff(before: &(Header, Vec<Row>), after: &(Header, Vec<Row>)) -> Diff {
    let names = |h: &Header| h.vms.iter().map(|vm| vm.name.clone()).collect::<Vec<_>>();
    let (old, new) = (names(&before.0), names(&after.0));
    let missing =
        |a: &[String], b: &[String]| a.iter().filter(|n| !b.contains(n)).cloned().collect();
    let mut vms = Vec::new();
    let mut transitions = Vec::new();
    for (i, name) in old.iter().enumerate() {
        let Some(j) = new.iter().position(|n| n == name) else { continue };
        vms.push(vm_diff(name, &rows_of(&before.1, i), &rows_of(&after.1, j)));
        let aligned = Aligned::new(&before.0, i, &after.0, j);
        transitions.extend(vm_transitions(name, &before.1, &after.1, &aligned));
    }
    transitions.sort_by_key(|t| std::cmp::Reverse(t.pages));
    let seconds = |h: &Header| i64::try_from(h.taken).unwrap_or(i64::MAX);
    Diff {
        seconds: seconds(&after.0).saturating_sub(seconds(&before.0)),
        footprint_pages: [footprint(&before.1), footprint(&after.1)],
        vms,
        transitions,
        pairs: pairs(before, after),
        only_before: missing(&old, &new),
        only_after: missing(&new, &old),
    }
}

fn rows_of(rows: &[Row], vm: usize) -> Vec<&Row> {
    rows.iter().filter(|row| row.vm as usize == vm).collect()
}

fn vm_diff(name: &str, before: &[&Row], after: &[&Row]) -> VmDiff {
    let sum = |rows: &[&Row], want: &dyn Fn(PageState) -> bool| -> u64 {
        rows.iter().filter(|r| want(r.state)).map(|r| r.pages).sum()
    };
    let both = |want: &dyn Fn(PageState) -> bool| [sum(before, want), sum(after, want)];
    let resident = |s: PageState| !matches!(s, PageState::Swapped | PageState::Absent);
    let by = crate::base::Mechanism::ALL
        .into_iter()
        .map(|m| (m.name(), both(&|s| s == PageState::Shared(m))))
        .filter(|(_, pages)| *pages != [0, 0])
        .collect();
    VmDiff {
        name: name.to_owned(),
        resident_pages: both(&resident),
        unique_pages: both(&|s| s == PageState::Unique),
        by,
        swapped_pages: both(&|s| s == PageState::Swapped),
    }
}

/// Distinct frames of a record. A unique page is a frame; a shared frame is counted at the first
/// VM that has it, and once if that VM has it more often.
fn footprint(rows: &[Row]) -> u64 {
    let unique: u64 = rows
        .iter()
        .filter(|r| matches!(r.state, PageState::Unique | PageState::Changed))
        .map(|r| r.pages)
        .sum();
    let shared = rows.iter().filter(|r| matches!(r.state, PageState::Shared(_)));
    unique + distinct(shared.filter_map(frames).collect())
}

/// Numbers of frames, from the first to the one after the last.
type Frames = (u64, u64);

/// The frames of a row that counts them: that of the first VM that shares them.
fn frames(row: &Row) -> Option<Frames> {
    let pfn = row.pfn.filter(|_| row.sharers.first() == Some(&row.vm))?;
    Some((pfn.0, pfn.0 + row.pages))
}

/// How many numbers are in the ranges, each counted once.
fn distinct(mut ranges: Vec<Frames>) -> u64 {
    ranges.sort_unstable();
    let (mut count, mut end) = (0, 0);
    for (from, to) in ranges {
        count += to.max(end) - from.max(end);
        end = end.max(to);
    }
    count
}

/// How the blocks of one VM in two records correspond.
struct Aligned {
    vms: [u32; 2],
    /// Offset of each block in a space that both records have in common.
    starts: [Vec<u64>; 2],
}

impl Aligned {
    /// In the life of one process that space is its own addresses; otherwise (after a move, a
    /// restart) blocks correspond by name and order, and each block gets its own stretch.
    fn new(before: &Header, i: usize, after: &Header, j: usize) -> Self {
        let (old, new) = (&before.vms[i], &after.vms[j]);
        let same = before.boot == after.boot
            && old.pid.is_some()
            && old.pid == new.pid
            && old.start_time == new.start_time;
        let addresses = |vm: &VmHeader| vm.blocks.iter().map(|b| b.first_page).collect();
        let starts = if same {
            [addresses(old), addresses(new)]
        } else {
            let stretches = stretches(&old.blocks, &new.blocks);
            [&old.blocks, &new.blocks]
                .map(|blocks| nth_of_name(blocks).map(|(key, _)| stretches[&key]).collect())
        };
        let index = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { vms: [index(i), index(j)], starts }
    }

    /// The rows of one side as `(first page in the common space, pages, state)`, sorted.
    fn side(&self, side: usize, rows: &[Row]) -> Vec<(u64, u64, PageState)> {
        let mut list: Vec<_> = rows
            .iter()
            .filter(|row| row.vm == self.vms[side])
            .map(|row| (self.starts[side][row.block as usize] + row.page, row.pages, row.state))
            .collect();
        list.sort_unstable();
        list
    }
}

/// A stretch of the common space for each block, as long as the longer of the two.
fn stretches<'a>(
    old: &'a [BlockHeader],
    new: &'a [BlockHeader],
) -> BTreeMap<(&'a str, usize), u64> {
    let mut lengths: BTreeMap<(&str, usize), u64> = BTreeMap::new();
    for (key, pages) in nth_of_name(old).chain(nth_of_name(new)) {
        let length = lengths.entry(key).or_default();
        *length = pages.max(*length);
    }
    let mut next = 0;
    for start in lengths.values_mut() {
        next += std::mem::replace(start, next);
    }
    lengths
}

/// Blocks by name and by how many of that name came before; with their pages.
fn nth_of_name(blocks: &[BlockHeader]) -> impl Iterator<Item = ((&str, usize), u64)> {
    let mut before: BTreeMap<&str, usize> = BTreeMap::new();
    blocks.iter().map(move |block| {
        let nth = before.entry(&block.name).or_default();
        *nth += 1;
        ((block.name.as_str(), *nth - 1), block.pages)
    })
}

fn vm_transitions(name: &str, before: &[Row], after: &[Row], aligned: &Aligned) -> Vec<Transition> {
    let (old, new) = (aligned.side(0, before), aligned.side(1, after));
    let mut counts: BTreeMap<(PageState, PageState), u64> = BTreeMap::new();
    // The ends of all runs, in order: between two of them both sides are uniform.
    let mut cuts: BTreeSet<u64> = BTreeSet::new();
    for &(start, pages, _) in old.iter().chain(&new) {
        cuts.extend([start, start + pages]);
    }
    let cuts: Vec<u64> = cuts.into_iter().collect();
    let (mut i, mut j) = (0, 0);
    for pair in cuts.windows(2) {
        let (a, b) = (state_at(&old, &mut i, pair[0]), state_at(&new, &mut j, pair[0]));
        if a != b {
            *counts.entry((a, b)).or_default() += pair[1] - pair[0];
        }
    }
    counts
        .into_iter()
        .map(|((a, b), pages)| Transition {
            vm: name.to_owned(),
            before: a.name(),
            after: b.name(),
            pages,
            meaning: meaning(a, b),
        })
        .collect()
}

/// The state at `page`, which never goes down from one call to the next.
fn state_at(rows: &[(u64, u64, PageState)], at: &mut usize, page: u64) -> PageState {
    while rows.get(*at).is_some_and(|(start, pages, _)| start + pages <= page) {
        *at += 1;
    }
    match rows.get(*at) {
        Some(&(start, _, state)) if start <= page => state,
        _ => PageState::Absent,
    }
}

/// What a transition says to someone who asks where the memory went.
const fn meaning(before: PageState, after: PageState) -> &'static str {
    use crate::base::Mechanism as M;
    match (before, after) {
        (PageState::Shared(M::Ksm), PageState::Unique) => {
            "no longer merged: written, unmerged, or the last to leave"
        }
        (PageState::Shared(M::Fork), PageState::Unique) => {
            "no longer common since the fork: written, or the others have gone"
        }
        (PageState::Shared(M::File), PageState::Unique) => {
            "left the template or file: written, or no one else maps it"
        }
        (PageState::Shared(M::Shmem), PageState::Unique) => "no one else maps it any more",
        (PageState::Shared(M::Zero), PageState::Unique) => "first written",
        (PageState::Shared(_), PageState::Swapped) => {
            "swapped out: sharing is lost on the way back"
        }
        (PageState::Unique, PageState::Swapped) => "swapped out",
        (PageState::Swapped, PageState::Unique) => "swapped in, on a frame of its own",
        (PageState::Swapped, PageState::Shared(_)) => "swapped in, shared",
        (PageState::Absent, PageState::Unique) => "newly touched",
        (PageState::Absent, PageState::Shared(_)) => "newly mapped, shared",
        (_, PageState::Absent) => "given back or unmapped",
        (PageState::Unique, PageState::Shared(M::Ksm)) => "merged by KSM",
        (PageState::Unique, PageState::Shared(_)) => "newly shared",
        (PageState::Shared(_), PageState::Shared(_)) => "shared through something else",
        _ => "changed",
    }
}

/// Frames in common by pair and mechanism.
fn pair_counts(record: &(Header, Vec<Row>)) -> BTreeMap<(String, String, &'static str), u64> {
    let mut ranges: BTreeMap<(&[u32], &'static str), Vec<Frames>> = BTreeMap::new();
    for row in record.1.iter().filter(|row| row.sharers.len() >= 2) {
        if let (PageState::Shared(mechanism), Some(range)) = (row.state, frames(row)) {
            ranges.entry((&row.sharers, mechanism.name())).or_default().push(range);
        }
    }
    let mut pairs = BTreeMap::new();
    let name = |vm: u32| record.0.vms[vm as usize].name.clone();
    for ((vms, by), set) in ranges {
        let shared = distinct(set);
        for (i, &a) in vms.iter().enumerate() {
            for &b in &vms[i + 1..] {
                *pairs.entry((name(a), name(b), by)).or_default() += shared;
            }
        }
    }
    pairs
}

fn pairs(before: &(Header, Vec<Row>), after: &(Header, Vec<Row>)) -> Vec<PairDiff> {
    let (old, new) = (pair_counts(before), pair_counts(after));
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).cloned().collect();
    let mut pairs: Vec<PairDiff> = keys
        .into_iter()
        .map(|key| {
            let pages = [&old, &new].map(|map| map.get(&key).copied().unwrap_or(0));
            PairDiff { vms: [key.0, key.1], by: key.2, pages }
        })
        .filter(|pair| pair.pages[0] != pair.pages[1])
        .collect();
    pairs.sort_by_key(|pair| std::cmp::Reverse(pair.pages[0].abs_diff(pair.pages[1])));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Mechanism, Pfn};

    fn record(
        boot: &str,
        pid: i32,
        address: u64,
        rows: &[(u32, u64, u64, PageState, u64)],
    ) -> (Header, Vec<Row>) {
        let vm = |name: &str, first_page| VmHeader {
            name: name.into(),
            pid: Some(pid),
            start_time: Some(1),
            blocks: vec![BlockHeader {
                name: "anon".into(),
                first_page,
                pages: 100,
                shared: false,
            }],
        };
        let header = Header {
            taken: 10,
            boot: boot.into(),
            vms: vec![vm("a", address), vm("b", address + 1000)],
            ksm: None,
        };
        let rows = rows.iter().map(|&(vm, page, pages, state, pfn)| {
            let shared = matches!(state, PageState::Shared(_));
            Row {
                vm,
                block: 0,
                page,
                pages,
                state,
                file: false,
                pfn: shared.then_some(Pfn(pfn)),
                sharers: if shared { vec![0, 1] } else { vec![] },
                outside: false,
            }
        });
        (header, rows.collect())
    }

    #[test]
    fn lost_sharing_is_named_by_page_and_pair() {
        let ksm = PageState::Shared(Mechanism::Ksm);
        let before = record("x", 1, 0, &[(0, 0, 10, ksm, 50), (1, 0, 10, ksm, 50)]);
        let after = record(
            "x",
            1,
            0,
            &[
                (0, 0, 6, ksm, 50),
                (0, 6, 4, PageState::Unique, 0),
                (1, 0, 6, ksm, 50),
                (1, 6, 4, PageState::Unique, 0),
                (1, 20, 2, PageState::Unique, 0),
            ],
        );
        let d = diff(&before, &after);
        assert_eq!(d.footprint_pages, [10, 16]);
        let of = |vm: &str, b: &str, a: &str| {
            d.transitions
                .iter()
                .find(|t| t.vm == vm && t.before == b && t.after == a)
                .map(|t| t.pages)
        };
        assert_eq!(of("a", "ksm", "unique"), Some(4));
        assert_eq!(of("b", "ksm", "unique"), Some(4));
        assert_eq!(of("b", "absent", "unique"), Some(2));
        assert_eq!(
            d.pairs,
            [PairDiff { vms: ["a".into(), "b".into()], by: "ksm", pages: [10, 6] }]
        );
    }

    #[test]
    fn a_vm_that_moved_is_compared_by_block() {
        let before = record("x", 1, 5000, &[(0, 3, 4, PageState::Unique, 0)]);
        let moved = record("y", 2, 9000, &[(0, 3, 4, PageState::Unique, 0)]);
        assert!(diff(&before, &moved).transitions.is_empty());
        let elsewhere = record("x", 1, 9000, &[(0, 3, 4, PageState::Unique, 0)]);
        assert_eq!(diff(&before, &elsewhere).transitions.len(), 2);
    }
}
