//! `/proc/vmstat`: what the kernel has done with pages since boot (`mm/vmstat.c`).

use std::fs;

/// Events that put a page on another frame: migration (compaction, NUMA balancing) and the collapse
/// of small pages into huge ones.
const MOVES: [&str; 3] = ["pgmigrate_success", "thp_collapse_alloc", "thp_migration_success"];

/// How many pages were moved; 0 where the kernel does not count.
pub fn moves() -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| MOVES.contains(name))
        .filter_map(|(_, count)| count.parse::<u64>().ok())
        .fold(0, u64::wrapping_add)
}
