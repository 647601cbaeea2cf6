//! Addresses by the space they live in. Above this file no address is a bare `u64`.

use std::fmt;

/// Bytes in a page. Everything is counted in 4 KiB pages; larger backing pages are ranges of them.
pub const PAGE_SIZE: u64 = 4096;

/// Base-2 logarithm of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// Host-virtual address, in bytes, within one process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hva(pub u64);

impl Hva {
    /// Number of the page that holds this address.
    pub const fn page(self) -> u64 {
        self.0 >> PAGE_SHIFT
    }

    /// First address of page `page`.
    pub const fn of_page(page: u64) -> Self {
        Self(page << PAGE_SHIFT)
    }
}

impl fmt::Display for Hva {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Hva {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hva({:#x})", self.0)
    }
}

/// Host page frame number: which 4 KiB of physical memory.
///
/// It says where to look and proves nothing: frames are freed and used again while they are read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Pfn(pub u64);

impl fmt::Display for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_lies_in_its_page() {
        assert_eq!(Hva(0x1fff).page(), 1);
        assert_eq!(Hva::of_page(2), Hva(0x2000));
        assert_eq!(Hva(0x7f00_0000_1000).to_string(), "0x7f0000001000");
    }
}
