//! What is known of a page before its content is read.

/// What is known of a page without its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fact {
    /// Nothing: its content must be read.
    Unknown,
    /// Nobody ever used it, by the kernel's word: no page, no swap, no file behind it. It reads as
    /// zero.
    Unused,
    /// Zero, by the kernel's word: it is mapped to the page of zeros.
    Zero,
    /// It is on a frame.
    Frame {
        /// The frame: where to look, and no proof.
        frame: Frame,
        /// Something else maps it too, as far as the kernel says.
        shared: bool,
        /// It is an unwritten page of the file that its block maps privately.
        clean: bool,
    },
    /// It is not in the page table, and a page of the file that its block maps.
    File,
}

/// What stands behind a page: pages with the same one have the same content while they are on it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Frame {
    /// Physical memory, or the pool of a herd.
    pub space: Space,
    /// Number of the frame or of the slot.
    pub number: u64,
}

/// What frames are numbered in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Space {
    /// Physical memory: the number of a frame that is freed is used again.
    Physical,
    /// The pool of a herd, which does not change.
    Pool {
        /// Its device.
        device: u64,
        /// Its inode.
        inode: u64,
    },
}
