//! What is kept of a page that others may map too: eight bytes.

use crate::abi::vma::{FileId, Vma};
use crate::base::{PageRange, Pfn};
use crate::source::Vm;
use std::collections::HashMap;

/// A frame seen at a place: the frame's number above, the place's below, so that sorting the bare
/// numbers sorts by frame; between them, whether it is a page of a file.
///
/// A place is at first the region in which the page is, and later all regions that have the frame
/// in common ([`super::fold`]). 40 bits of frame number are 4 PiB of memory, all that x86-64 can
/// address; 23 bits of place are eight million.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub struct Sighting(u64);

const PLACE_BITS: u32 = 23;

/// Set for pages of a file or of shared memory.
const FILE: u64 = 1 << PLACE_BITS;

/// Where the frame's number starts.
const PFN_SHIFT: u32 = PLACE_BITS + 1;

/// Places that fit a sighting.
pub const MAX_PLACES: usize = 1 << PLACE_BITS;

/// Regions that are numbered: half of the places, so that some are left for regions together.
pub const MAX_REGIONS: usize = MAX_PLACES / 2;

impl Sighting {
    /// A sighting that a second look did not confirm; it sorts behind every frame.
    pub const WITHDRAWN: Self = Self(u64::MAX);

    /// Frame `pfn` was seen at place `place`, as a page of a file or not.
    #[inline]
    pub const fn new(pfn: Pfn, place: u32, file: bool) -> Self {
        Self(pfn.0 << PFN_SHIFT | if file { FILE } else { 0 } | place as u64)
    }

    /// The same frame at another place.
    pub const fn at(self, place: u32) -> Self {
        Self::new(self.pfn(), place, self.is_file())
    }

    /// The frame.
    #[inline]
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 >> PFN_SHIFT)
    }

    /// A page of a file or of shared memory?
    #[inline]
    pub const fn is_file(self) -> bool {
        self.0 & FILE != 0
    }

    /// The place.
    #[inline]
    pub const fn place(self) -> u32 {
        let [a, b, c, ..] = (self.0 & (FILE - 1)).to_le_bytes();
        u32::from_le_bytes([a, b, c, 0])
    }

    /// Of the same frame, and of a file or not alike?
    #[inline]
    pub const fn same_frame(self, other: Self) -> bool {
        self.0 >> PLACE_BITS == other.0 >> PLACE_BITS
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
    /// KSM can have merged pages of it.
    pub may_be_merged: bool,
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
        let may_be_merged = vm.source.may_be_merged();
        for block in vm.source.blocks() {
            let region = Region::of(block, index, may_be_merged);
            let region = number(region, &mut regions, &mut known)?;
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

impl Region {
    fn of(block: &Vma, vm: u32, may_be_merged: bool) -> Self {
        let (file, shared, name) = (block.file, block.shared, block.name.clone());
        Self { vm, file, shared, may_be_merged, name }
    }
}

/// The number of a region, a new one where it is new.
fn number(
    region: Region,
    regions: &mut Vec<Region>,
    known: &mut HashMap<Region, u32>,
) -> Option<u32> {
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
        let s = Sighting::new(top, 0x7f_fffe, true);
        assert_eq!((s.pfn(), s.place(), s.is_file()), (top, 0x7f_fffe, true));
        let other = Sighting::new(Pfn(1), 9, false);
        assert_eq!((other.place(), other.is_file()), (9, false));
        assert!(other < Sighting::new(Pfn(2), 0, false));
        assert_eq!(other.at(7), Sighting::new(Pfn(1), 7, false));
        assert!(other.same_frame(other.at(7)) && !other.same_frame(s));
        assert!(s < Sighting::WITHDRAWN);
    }
}
