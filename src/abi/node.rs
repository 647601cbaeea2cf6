//! Which NUMA node a frame is on: `/sys/devices/system/node/nodeN/memoryM` names the memory blocks
//! of a node, and a block's number times the block size is its physical address.
//!
//! Source: `drivers/base/memory.c`, `drivers/base/node.c`.

use crate::base::{PAGE_SIZE, Pfn};
use std::collections::BTreeMap;

/// Node of each memory block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nodes {
    pages_per_block: u64,
    node_of_block: BTreeMap<u64, u32>,
}

impl Nodes {
    /// From the block size in bytes and pairs of block and node. `None` where the size is no
    /// multiple of a page.
    pub fn new(block_bytes: u64, blocks: impl IntoIterator<Item = (u64, u32)>) -> Option<Self> {
        let pages_per_block = block_bytes / PAGE_SIZE;
        (pages_per_block > 0 && block_bytes.is_multiple_of(PAGE_SIZE))
            .then(|| Self { pages_per_block, node_of_block: blocks.into_iter().collect() })
    }

    /// The node of a frame, where the kernel tells it.
    pub fn of(&self, pfn: Pfn) -> Option<u32> {
        self.node_of_block.get(&(pfn.0 / self.pages_per_block)).copied()
    }

    /// More than one node?
    pub fn are_several(&self) -> bool {
        let mut nodes = self.node_of_block.values();
        nodes.next().is_some_and(|first| nodes.any(|n| n != first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_on_its_blocks_node() {
        let nodes = Nodes::new(128 << 20, [(0, 0), (1, 0), (2, 1)]).unwrap();
        assert_eq!(nodes.of(Pfn(0)), Some(0));
        assert_eq!(nodes.of(Pfn(0x7fff)), Some(0));
        assert_eq!(nodes.of(Pfn(0x1_0000)), Some(1));
        assert_eq!(nodes.of(Pfn(0x1_8000)), None);
        assert!(nodes.are_several());
        assert!(Nodes::new(1000, []).is_none());
    }
}
