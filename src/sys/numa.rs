//! Which memory is on which NUMA node, from sysfs.

use crate::abi::node::Nodes;
use std::fs;
use std::path::Path;

/// The nodes of this host; `None` where the kernel does not tell (no `CONFIG_NUMA`, no memory
/// blocks).
pub fn nodes() -> Option<Nodes> {
    let hex = fs::read_to_string("/sys/devices/system/memory/block_size_bytes").ok()?;
    let block_bytes = u64::from_str_radix(hex.trim(), 16).ok()?;
    let mut blocks = Vec::new();
    for (node, path) in numbered(Path::new("/sys/devices/system/node"), "node") {
        for (block, _) in numbered(&path, "memory") {
            blocks.push((block, u32::try_from(node).ok()?));
        }
    }
    if blocks.is_empty() { None } else { Nodes::new(block_bytes, blocks) }
}

/// Entries of `dir` that are `prefix` and a number.
fn numbered(dir: &Path, prefix: &str) -> Vec<(u64, std::path::PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|e| {
            let number = e.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, e.path()))
        })
        .collect()
}
