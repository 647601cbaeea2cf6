//! Who shares how much with whom: for each pair, and for each set.

use super::scan::Scan;
use crate::base::Mechanism;
use crate::base::mechanism::ByMechanism;
use serde::Serialize;
use std::collections::BTreeMap;

/// Pages shared by pairs. Off the diagonal, distinct frames that both map (the zero page left out);
/// on it, the VM's resident pages, and by mechanism its shared pages.
#[derive(Clone, Debug, Serialize)]
pub struct Matrix {
    /// The VMs.
    pub names: Vec<String>,
    /// All mechanisms together.
    pub pages: Vec<Vec<u64>>,
    /// Each mechanism for itself, by its name.
    pub by: BTreeMap<&'static str, Vec<Vec<u64>>>,
    /// Sets of VMs and the frames that exactly they have in common.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<Group>>,
}

/// Frames that exactly these VMs map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Names of the VMs.
    pub vms: Vec<String>,
    /// Processes outside the scan map them too.
    pub outside: bool,
    /// Distinct frames.
    pub pages: u64,
    /// The frames by mechanism.
    pub by: ByMechanism,
}

/// The matrix of a scan; with the groups of two and more if `with_groups`.
pub fn matrix(scan: &Scan, with_groups: bool) -> Matrix {
    let n = scan.vms.len();
    let empty = || vec![vec![0u64; n]; n];
    let mut pages = empty();
    let mut by: Vec<Vec<Vec<u64>>> = (0..Mechanism::COUNT).map(|_| empty()).collect();
    for vm in 0..n {
        let totals = scan.totals(vm);
        pages[vm][vm] = totals.resident;
        for m in Mechanism::ALL {
            by[m.index()][vm][vm] = totals.by.get(m);
        }
    }
    for (sharers, frames) in &scan.groups {
        for (i, &a) in sharers.vms.iter().enumerate() {
            for &b in &sharers.vms[i + 1..] {
                let (a, b) = (a as usize, b as usize);
                for m in Mechanism::ALL {
                    for (x, y) in [(a, b), (b, a)] {
                        by[m.index()][x][y] += frames.get(m);
                        pages[x][y] += frames.get(m);
                    }
                }
            }
        }
    }
    Matrix {
        names: scan.vms.iter().map(|vm| vm.name.clone()).collect(),
        pages,
        by: Mechanism::ALL.into_iter().map(Mechanism::name).zip(by).collect(),
        groups: with_groups.then(|| groups(scan)),
    }
}

fn groups(scan: &Scan) -> Vec<Group> {
    let mut all: BTreeMap<(Vec<u32>, bool), ByMechanism> = BTreeMap::new();
    for (sharers, by) in scan.groups.iter().filter(|(s, _)| s.vms.len() >= 2) {
        all.entry((sharers.vms.to_vec(), sharers.outside)).or_default().merge(by);
    }
    let name = |&vm: &u32| scan.vms[vm as usize].name.clone();
    let mut groups: Vec<Group> = all
        .into_iter()
        .map(|((vms, outside), by)| Group {
            vms: vms.iter().map(name).collect(),
            outside,
            pages: by.total(),
            by,
        })
        .collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.pages));
    groups
}
