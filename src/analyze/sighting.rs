//! What is kept of a page that others may map too: eight bytes.

use crate::abi::vma::{FileId, Vma};
use crate::base::{PageRange, Pfn};
use crate::source::Vm;
use std::collections::HashMap;

/// A frame seen in a region: the frame's number above, the region's below, so that sorting the bare
/// numbers sorts by frame.
///
/// 40 bits of frame number are 4 PiB of memory, all that x86-64 can address; 24 bits of region are
/// 16 million.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub struct Sighting(u64);

const REGION_BITS: u32 = 24;

/// Regions that fit a sighting.
pub const MAX_REGIONS: usize = 1 << REGION_BITS;

impl Sighting {
    /// A sighting that a second look did not confirm; it sorts behind every frame.
    pub const WITHDRAWN: Self = Self(u64::MAX);

    /// Frame `pfn` was seen in region `region`.
    #[inline]
    pub const fn new(pfn: Pfn, region: u32) -> Self {
        Self(pfn.0 << REGION_BITS | region as u64)
    }

    /// The frame.
    #[inline]
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 >> REGION_BITS)
    }

    /// The region.
    #[inline]
    pub const fn region(self) -> u32 {
        let [a, b, c, ..] = self.0.to_le_bytes();
        u32::from_le_bytes([a, b, c, 0])
    }
}

/// Where on the way a page was seen: all mappings of one VM with one name, one file and one way of
/// mapping are one region, so that there are few.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Region {
    /// Position of the VM among the VMs of the scan.
    pub vm: u32,
    /// The file; `None` for anonymous memory.
    pub file: Option<FileId>,
    /// Mapped `MAP_SHARED`.
    pub shared: bool,
    /// The mapping's name.
    pub name: String,
}

/// A piece of work: pages of one VM, each piece within one region.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// The VM.
    pub vm: u32,
    /// Pieces and their regions, by address.
    pub pieces: Vec<(PageRange, u32)>,
}

/// Pages in a task: 256 MiB of memory, 512 KiB of pagemap.
pub const TASK_PAGES: u64 = 1 << 16;

/// The regions of the VMs and the work of reading them.
///
/// `None` where there are more regions than fit a sighting.
pub fn plan(vms: &[Vm]) -> Option<(Vec<Region>, Vec<Task>)> {
    let mut regions = Vec::new();
    let mut known: HashMap<Region, u32> = HashMap::new();
    let mut tasks = Vec::new();
    for (index, vm) in vms.iter().enumerate() {
        let index = u32::try_from(index).ok()?;
        let mut task = Task { vm: index, pieces: Vec::new() };
        let mut pages = 0;
        for block in vm.source.blocks() {
            let region = number(block, index, &mut regions, &mut known)?;
            for populated in vm.source.populated(block.pages) {
                for piece in populated.pieces(TASK_PAGES) {
                    if pages + piece.pages() > TASK_PAGES {
                        let next = Task { vm: index, pieces: Vec::new() };
                        tasks.push(std::mem::replace(&mut task, next));
                        pages = 0;
                    }
                    pages += piece.pages();
                    task.pieces.push((piece, region));
                }
            }
        }
        if !task.pieces.is_empty() {
            tasks.push(task);
        }
    }
    Some((regions, tasks))
}

fn number(
    block: &Vma,
    vm: u32,
    regions: &mut Vec<Region>,
    known: &mut HashMap<Region, u32>,
) -> Option<u32> {
    let region = Region { vm, file: block.file, shared: block.shared, name: block.name.clone() };
    if let Some(&number) = known.get(&region) {
        return Some(number);
    }
    let number = u32::try_from(regions.len()).ok().filter(|_| regions.len() < MAX_REGIONS)?;
    regions.push(region.clone());
    known.insert(region, number);
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sighting_is_eight_bytes_and_sorts_by_frame() {
        assert_eq!(size_of::<Sighting>(), 8);
        let top = Pfn((1 << 40) - 1);
        let s = Sighting::new(top, 0xff_fffe);
        assert_eq!((s.pfn(), s.region()), (top, 0xff_fffe));
        assert!(Sighting::new(Pfn(1), 9) < Sighting::new(Pfn(2), 0));
        assert!(s < Sighting::WITHDRAWN);
    }
}
