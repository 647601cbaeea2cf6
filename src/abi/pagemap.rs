//! An entry of `/proc/PID/pagemap`: 64 bits a page of virtual memory.
//!
//! Source: `fs/proc/task_mmu.c` (`pte_to_pagemap_entry`), `Documentation/admin-guide/mm/pagemap.rst`;
//! read against Linux 6.18.

use crate::base::Pfn;

/// Bits 0 to 54 of a present entry: the frame's number (0 without `CAP_SYS_ADMIN`, since 4.2).
const PFN_MASK: u64 = (1 << 55) - 1;
/// Mapped in this page table only (since 4.2; per page with `CONFIG_PAGE_MAPCOUNT`).
const EXCLUSIVE: u64 = 1 << 56;
/// Write-protected through userfaultfd (since 5.13).
const UFFD_WP: u64 = 1 << 57;
/// A guard region made by `MADV_GUARD_INSTALL` (since 6.15); comes with the swap bit.
const GUARD: u64 = 1 << 58;
/// The page belongs to a file or to shared memory, not to anonymous memory.
const FILE: u64 = 1 << 61;
/// Not present, but not empty either: swapped, migrating, or a marker.
const SWAP: u64 = 1 << 62;
/// Present in the page table.
const PRESENT: u64 = 1 << 63;

/// Swap types from here on are no swap devices but the kernel's own entries (migration, poison,
/// markers): `MAX_SWAPFILES` of `include/linux/swap.h` with every option on.
const FIRST_SPECIAL_SWAP_TYPE: u64 = 23;

/// One entry as the kernel wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(transparent)]
pub struct Entry(pub u64);

/// What an entry says of its page. The same bits mean different things in each case, so each case
/// carries its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Nothing here: never touched, given back, or a page of a file that is not mapped yet.
    Absent,
    /// In this page table, on a frame.
    Present {
        /// The frame.
        pfn: Pfn,
        /// No other page table maps it.
        exclusive: bool,
        /// It belongs to a file or to shared memory.
        file: bool,
    },
    /// On a swap device: not absent, and not zero.
    Swapped,
    /// On its way to another frame or waiting to be (migration, poison, device memory): only a
    /// second look can tell.
    InTransit,
    /// A guard or a userfaultfd marker: an entry without a page.
    Marker,
}

impl Entry {
    /// Present in the page table?
    #[inline]
    pub const fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// Mapped by this page table alone?
    #[inline]
    pub const fn is_exclusive(self) -> bool {
        self.0 & EXCLUSIVE != 0
    }

    /// A page of a file or of shared memory?
    #[inline]
    pub const fn is_file(self) -> bool {
        self.0 & FILE != 0
    }

    /// The frame of a present entry; 0 where the kernel hides it.
    #[inline]
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 & PFN_MASK)
    }

    /// The whole of what it says.
    #[inline]
    pub const fn state(self) -> State {
        if self.is_present() {
            State::Present { pfn: self.pfn(), exclusive: self.is_exclusive(), file: self.is_file() }
        } else if self.0 & SWAP == 0 {
            State::Absent
        } else if self.0 & (GUARD | UFFD_WP) != 0 && self.0 & 0x1f >= FIRST_SPECIAL_SWAP_TYPE {
            State::Marker
        } else if self.0 & 0x1f >= FIRST_SPECIAL_SWAP_TYPE {
            State::InTransit
        } else {
            State::Swapped
        }
    }

    /// A present entry, for sources that are no page table and for tests.
    pub const fn present(pfn: Pfn, exclusive: bool, file: bool) -> Self {
        Self(
            PRESENT
                | (pfn.0 & PFN_MASK)
                | if exclusive { EXCLUSIVE } else { 0 }
                | if file { FILE } else { 0 },
        )
    }

    /// The entry with its frame said to be mapped elsewhere too.
    pub const fn shared(self) -> Self {
        Self(self.0 & !EXCLUSIVE)
    }

    /// A page on swap device `device`, for tests.
    pub const fn swapped(device: u8) -> Self {
        Self(SWAP | device as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_entry_is_told_apart() {
        assert_eq!(Entry(0).state(), State::Absent);
        assert_eq!(
            Entry(0xa100_0000_0000_1234).state(),
            State::Present { pfn: Pfn(0x1234), exclusive: true, file: true }
        );
        assert_eq!(Entry::swapped(1).state(), State::Swapped);
        assert_eq!(Entry(SWAP | GUARD | 31).state(), State::Marker);
        assert_eq!(Entry(SWAP | UFFD_WP | 31).state(), State::Marker);
        assert_eq!(Entry(SWAP | 27).state(), State::InTransit);
        // swapped and write-protected: still a page
        assert_eq!(Entry(SWAP | UFFD_WP | 2).state(), State::Swapped);
    }

    #[test]
    fn a_made_entry_reads_back() {
        let e = Entry::present(Pfn(77), true, false);
        assert!(e.is_present() && e.is_exclusive() && !e.is_file());
        assert!(!e.shared().is_exclusive());
        assert_eq!(e.shared().pfn(), Pfn(77));
    }
}
