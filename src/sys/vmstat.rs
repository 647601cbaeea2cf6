//! `/proc/vmstat`: what the kernel has done with pages since boot (`mm/vmstat.c`).

use std::fs;

/// Events that put a page on another frame without a fault of its process: migration (compaction,
/// NUMA balancing), the collapse of small pages into huge ones, swap (KVM's asynchronous faults are
/// the kernel's).
const MOVES: [&str; 5] =
    ["pgmigrate_success", "thp_collapse_alloc", "thp_migration_success", "pswpin", "pswpout"];

/// How many pages were moved; 0 where the kernel does not count.
pub fn moves() -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| MOVES.contains(name))
        .filter_map(|(_, count)| count.parse::<u64>().ok())
        .fold(0, u64::wrapping_add)
}
