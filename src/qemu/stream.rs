//! QEMU's migration stream, taken apart: pages of RAM as facts, everything else byte for byte.
//!
//! The stream (numbers are big-endian): `QEVM`, version, the configuration, a START section of
//! `ram` with the list of blocks, PART sections and one END section with records of pages, then the
//! device state, and at the end a description of it for people, in JSON. Device state has no
//! lengths, so behind the END of `ram` nothing can be taken apart; `tail.rs` finds the end.
//! Seen byte by byte in streams of QEMU 7.2 and 10.0 (`fixtures/qemu`); QEMU's own reader and
//! writer are migration/savevm.c and migration/ram.c.
//!
//! Passing a stream on as it is, is always right. So whatever is not understood is no error but
//! [`Item::Opaque`], and from there on all is [`Item::Raw`]. Errors are what QEMU itself would
//! refuse, or what is no stream at all. This file does not look into pages, and does not know
//! whether the device state is whole.

use std::fmt;

pub use super::parser::{Out, Parser};

/// Bytes of a page: QEMU's own unit on x86, whatever page size is behind a block.
pub const PAGE: usize = 4096;
/// With this many bytes, [`Parser::feed`] always uses some: the buffer of a caller must be longer.
/// The longest piece that must lie in one is a page with the longest name (4360 bytes).
pub const MOST_LEFT: usize = 8192;
/// Most blocks of RAM that are taken apart.
pub const MAX_BLOCKS: usize = 1 << 16;
/// Longest name of a machine type, in bytes.
pub const MAX_MACHINE: usize = 4096;
/// Flags of a record: the low twelve bits of its address.
pub(super) mod flag {
    /// A page of zeros: one byte follows, which is 0.
    pub(crate) const ZERO: u64 = 0x02;
    /// The list of blocks follows.
    pub(crate) const MEM_SIZE: u64 = 0x04;
    /// 4096 bytes follow.
    pub(crate) const PAGE: u64 = 0x08;
    /// The records of this section end here.
    pub(crate) const EOS: u64 = 0x10;
    /// The block is that of the record before; its name does not follow.
    pub(crate) const CONTINUE: u64 = 0x20;
    /// A difference to the page sent before.
    pub(crate) const XBZRLE: u64 = 0x40;
    /// RDMA.
    pub(crate) const HOOK: u64 = 0x80;
    /// A page, compressed (until QEMU 9.0).
    pub(crate) const COMPRESS: u64 = 0x100;
    /// Pages went through other channels up to here.
    pub(crate) const MULTIFD_FLUSH: u64 = 0x200;
}

/// What QEMU waits for on the way back, where there is one: that the far end has it (`false`: no
/// error), or has not. It then says `completed` or `failed`, and lets the guest go on in the latter case
/// (migration/migration.c, `MIG_RP_MSG_SHUT`; tried with 7.2 and 10.0).
pub const fn shut(failed: bool) -> [u8; 8] {
    [0, 1, 0, 4, 0, 0, 0, failed as u8]
}

/// A word on the way back that says nothing: the answer to a question (`MIG_RP_MSG_PONG`).
pub const PONG: [u8; 8] = [0, 2, 0, 4, 0, 0, 0, 1];

/// A section of `ram`, number `section`, that says nothing: QEMU takes it wherever a section may
/// come, also after the device state.
pub fn idle_section(section: u32) -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[0] = 2;
    bytes[1..5].copy_from_slice(&section.to_be_bytes());
    bytes[5..13].copy_from_slice(&flag::EOS.to_be_bytes());
    bytes[13] = 0x7e;
    bytes[14..].copy_from_slice(&section.to_be_bytes());
    bytes
}

/// A description that says nothing, in place of the one of tens of kilobytes that QEMU reads and
/// throws away.
pub const NO_DESCRIPTION: [u8; 7] = [6, 0, 0, 0, 2, b'{', b'}'];

/// A block of guest RAM as the stream declares it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RamBlock {
    /// QEMU's name for it: `pc.ram`, `0000:00:02.0/vga.vram`, ….
    pub name: String,
    /// Its length in bytes, a multiple of 4096.
    pub bytes: u64,
    /// Where it begins in the guest's address space; said with `x-ignore-shared` alone, and 0 for
    /// blocks that have no place of their own.
    pub gpa: Option<u64>,
}

impl RamBlock {
    /// How many pages.
    pub const fn pages(&self) -> u64 {
        self.bytes / PAGE as u64
    }
}

/// One piece of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item<'a> {
    /// Passes as it is.
    Raw(&'a [u8]),
    /// A command that opens the way back, or asks for a word on it: passes as it is, or not at all,
    /// since whoever takes this stream answers it.
    Ask(&'a [u8]),
    /// The list of blocks, once; its bytes came before as [`Item::Raw`].
    Blocks(&'a [RamBlock]),
    /// A page with its content.
    Page {
        /// Number of the block in the list.
        block: u32,
        /// Number of the page in the block.
        page: u64,
        /// The record says its block's name although the record before was of the same block.
        named: bool,
        /// Its content.
        bytes: &'a [u8; PAGE],
    },
    /// A page of zeros.
    Zero {
        /// Number of the block in the list.
        block: u32,
        /// Number of the page in the block.
        page: u64,
        /// As of [`Item::Page`].
        named: bool,
    },
    /// The memory is complete: the footer of the END section of `ram` came before.
    RamEnd,
    /// The byte 00 that ends the state (`QEMU_VM_EOF`) stands next. It follows as [`Item::Raw`] by
    /// itself, then the description.
    Eof {
        /// Length of the JSON, in bytes; `None` where the stream ends with the 00.
        description: Option<u32>,
    },
    /// From here on everything passes. Said once.
    Opaque {
        /// What is not understood.
        reason: &'a Reason,
        /// The block of the last record: what follows may go on with it and not say its name. Who
        /// leaves records out must see to it that QEMU is in this block here.
        block: Option<u32>,
    },
}

/// Why a stream is not taken apart any further.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// A command that begins or leads a post-copy.
    Postcopy,
    /// Bitmaps of disks go along, also where a machine has none.
    DirtyBitmaps,
    /// Pages come through other channels.
    Multifd,
    /// Pages stand at fixed places of a file.
    MappedRam,
    /// RDMA.
    Rdma,
    /// Differences to pages sent before.
    Xbzrle,
    /// Compressed pages.
    Compress,
    /// COLO.
    Colo,
    /// Another device sends while the guest runs, beside or before `ram`.
    Section(String),
    /// Device state before the memory is complete.
    Early(String),
    /// `ram` of another version or instance.
    RamVersion(u32),
    /// A part of the configuration.
    Configuration(String),
    /// A capability that may change what follows.
    Capability(String),
    /// The target's pages are of 2 to this power of bytes.
    PageBits(u32),
    /// The list of blocks is not as known: page sizes in it (post-copy), or a block of no whole
    /// pages.
    List,
    /// More than [`MAX_BLOCKS`].
    TooManyBlocks,
    /// A record of pages with these flags.
    Flags(u64),
    /// A page that is filled with this byte.
    Fill(u8),
    /// A command.
    Command(u16),
    /// A section of this type.
    SectionType(u8),
    /// Sections have no footers: machine types before 2.4.
    NoFooters,
}

impl Reason {
    /// What a record of pages with these flags is, which is none of those that are taken apart.
    pub(super) fn of_flags(flags: u64, at: u64) -> Result<Self, StreamError> {
        const KNOWN: u64 = flag::ZERO | flag::MEM_SIZE | flag::PAGE | flag::EOS | flag::CONTINUE;
        Ok(match flags & !flag::CONTINUE {
            flag::XBZRLE => Self::Xbzrle,
            flag::COMPRESS => Self::Compress,
            flag::MULTIFD_FLUSH => Self::Multifd,
            flag::HOOK => Self::Rdma,
            // these exist for long, and QEMU does not take them together or without any
            _ if flags & !KNOWN == 0 => {
                return Err(StreamError::Damaged {
                    at,
                    what: "a page has flags that exclude each other",
                });
            }
            _ => Self::Flags(flags),
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postcopy => f.write_str("post-copy is on: turn postcopy-ram off"),
            Self::DirtyBitmaps => f.write_str("dirty-bitmaps is on: turn it off"),
            Self::Multifd => {
                f.write_str("multifd is on, its pages are not in this stream: turn multifd off")
            }
            Self::MappedRam => f.write_str("mapped-ram is on: turn it off"),
            Self::Rdma => f.write_str("it is made for RDMA"),
            Self::Xbzrle => f.write_str("xbzrle is on: turn it off"),
            Self::Compress => f.write_str("compress is on: turn it off"),
            Self::Colo => f.write_str("COLO is on: turn x-colo off"),
            Self::Section(name) => {
                write!(f, "{name:?} sends state of its own while the guest runs")
            }
            Self::Early(name) => write!(f, "{name:?} sends its state before the memory"),
            Self::RamVersion(version) => {
                write!(
                    f,
                    "its section of RAM is version {version}, and only the first one of version 4 is known"
                )
            }
            Self::Configuration(name) => write!(f, "its configuration has {name:?}"),
            Self::Capability(name) => write!(f, "it was made with the capability {name:?}"),
            Self::PageBits(bits) => write!(f, "its target has pages of 2^{bits} bytes, not 4096"),
            Self::List => f.write_str("its list of RAM blocks has another form"),
            Self::TooManyBlocks => write!(f, "it has more than {MAX_BLOCKS} RAM blocks"),
            Self::Flags(flags) => write!(f, "a page has the flags {flags:#x}"),
            Self::Fill(byte) => write!(f, "a page is filled with the byte {byte}"),
            Self::Command(number) => write!(f, "it has the command {number}"),
            Self::SectionType(number) => write!(f, "it has a section of type {number}"),
            Self::NoFooters => f.write_str("its sections have no footers (machine before 2.4)"),
        }
    }
}

/// What comes in is no stream of QEMU, or a damaged one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StreamError {
    /// Nothing came at all.
    #[error("QEMU sent nothing: ask it why with query-migrate")]
    Empty,
    /// It begins with something else.
    #[error(
        "this is not a migration stream of QEMU: it does not begin with QEVM; without --qemu no such stream is wanted"
    )]
    NotQemu,
    /// A stream of another version.
    #[error("this is a migration stream of version {version}, and only version 3 is known")]
    Version {
        /// The version.
        version: u32,
    },
    /// It has what QEMU would refuse too.
    #[error("QEMU's stream is damaged at byte {at}: {what}")]
    Damaged {
        /// Offset in the stream.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A record names a block that was not declared.
    #[error("QEMU's stream is damaged at byte {at}: there is no RAM block {name:?}")]
    NoBlock {
        /// Offset of the record.
        at: u64,
        /// The name.
        name: String,
    },
    /// It ends too early.
    #[error(
        "QEMU's stream ends at byte {at}, inside {inside}: QEMU gave up or was killed, or this end is not one that is known"
    )]
    Cut {
        /// Its length.
        at: u64,
        /// What was being read.
        inside: &'static str,
    },
}

/// How a stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// With the whole description.
    Described,
    /// With the 00 (`suppress-vmdesc=on`): it was known as the end only when nothing followed.
    Bare,
    /// It was not understood up to here ([`Item::Opaque`]), so this may be its end or not.
    Unknown,
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
