//! `/proc/kpageflags`: what the kernel knows of a frame, a bit a fact.
//!
//! Source: `include/uapi/linux/kernel-page-flags.h`, `fs/proc/page.c` (`stable_page_flags`); read
//! against Linux 6.18. The names are those of the kernel's own `tools/mm/page-types.c`.

use std::fmt;

/// A flag's bit and the kernel's name for it.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Bit number.
    pub bit: u32,
    /// The name, in lower case.
    pub name: &'static str,
}

/// Every flag that user space is shown, by bit.
pub const FLAGS: [Flag; 28] = [
    Flag { bit: 0, name: "locked" },
    Flag { bit: 1, name: "error" },
    Flag { bit: 2, name: "referenced" },
    Flag { bit: 3, name: "uptodate" },
    Flag { bit: 4, name: "dirty" },
    Flag { bit: 5, name: "lru" },
    Flag { bit: 6, name: "active" },
    Flag { bit: 7, name: "slab" },
    Flag { bit: 8, name: "writeback" },
    Flag { bit: 9, name: "reclaim" },
    Flag { bit: 10, name: "buddy" },
    Flag { bit: 11, name: "mmap" },
    Flag { bit: 12, name: "anonymous" },
    Flag { bit: 13, name: "swapcache" },
    Flag { bit: 14, name: "swapbacked" },
    Flag { bit: 15, name: "compound_head" },
    Flag { bit: 16, name: "compound_tail" },
    Flag { bit: 17, name: "huge" },
    Flag { bit: 18, name: "unevictable" },
    Flag { bit: 19, name: "hwpoison" },
    Flag { bit: 20, name: "nopage" },
    Flag { bit: 21, name: "ksm" },
    Flag { bit: 22, name: "thp" },
    Flag { bit: 23, name: "offline" },
    Flag { bit: 24, name: "zero_page" },
    Flag { bit: 25, name: "idle_page" },
    Flag { bit: 26, name: "pgtable" },
    Flag { bit: 32, name: "reserved" },
];

const ANON: u64 = 1 << 12;
const NOPAGE: u64 = 1 << 20;
const RESERVED: u64 = 1 << 32;
const HUGE: u64 = 1 << 17;
const KSM: u64 = 1 << 21;
const THP: u64 = 1 << 22;
const ZERO_PAGE: u64 = 1 << 24;

/// The flags of one frame.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PageFlags(pub u64);

impl PageFlags {
    /// Of a frame of which nothing is known but whether it is anonymous.
    pub const fn plain(anon: bool) -> Self {
        Self(if anon { ANON } else { 0 })
    }

    /// Anonymous memory (a KSM page is that too).
    pub const fn is_anon(self) -> bool {
        self.0 & ANON != 0
    }
    /// A page of a hugetlb folio.
    pub const fn is_hugetlb(self) -> bool {
        self.0 & HUGE != 0
    }
    /// Merged by KSM.
    pub const fn is_ksm(self) -> bool {
        self.0 & KSM != 0
    }
    /// Part of a transparent huge page.
    pub const fn is_thp(self) -> bool {
        self.0 & THP != 0
    }
    /// A page of the kernel's own image (vvar, vdso), or of no memory at all (a device's).
    pub const fn is_kernels(self) -> bool {
        self.0 & (NOPAGE | RESERVED) != 0
    }
    /// The kernel's page of zeros, small or huge.
    pub const fn is_zero_page(self) -> bool {
        self.0 & ZERO_PAGE != 0
    }
    /// A frame of a large folio: its count in `/proc/kpagecount` can be an average.
    pub const fn is_large(self) -> bool {
        self.0 & (HUGE | THP) != 0
    }
}

impl fmt::Display for PageFlags {
    /// The names of the set bits, with commas; a bit without a name as `bitN`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sep = "";
        for bit in (0..64).filter(|bit| self.0 >> bit & 1 != 0) {
            match FLAGS.iter().find(|flag| flag.bit == bit) {
                Some(flag) => write!(f, "{sep}{}", flag.name)?,
                None => write!(f, "{sep}bit{bit}")?,
            }
            sep = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_the_masks() {
        for (i, flag) in FLAGS.iter().enumerate().take(27) {
            assert_eq!(flag.bit as usize, i);
        }
        let name = |mask: u64| PageFlags(mask).to_string();
        assert_eq!(
            [name(ANON), name(HUGE), name(KSM), name(THP), name(ZERO_PAGE), name(RESERVED)],
            ["anonymous", "huge", "ksm", "thp", "zero_page", "reserved"]
        );
        assert_eq!(name(1 << 50 | 1), "locked,bit50");
    }
}
