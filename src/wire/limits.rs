//! Every bound of the stream, with its reason. A reader checks them before it allocates.

/// Bytes of the body of a frame: one mebibyte of pages, and room for what is said of them.
pub const MAX_BODY: u32 = (1 << 20) + (1 << 16);
/// Pages whose bytes one frame can hold: a mebibyte.
pub const FRAME_PAGES: u64 = 256;
/// Pages that one frame can hold as bytes, packed or not: 4 MiB once unpacked.
pub const UNPACKED_PAGES: u64 = 1024;
/// VMs in a stream.
pub const MAX_VMS: u64 = 1024;
/// Blocks of a VM: a process has at most `vm.max_map_count` mappings, 65,530 unless changed; their
/// names must fit one frame.
pub const MAX_BLOCKS: u64 = 65_536;
/// Bytes of the name of a block.
pub const MAX_BLOCK_NAME: usize = 64;
/// Templates in a stream.
pub const MAX_TEMPLATES: u64 = 64;
/// Pages of a VM or a template: 4 PiB. What a receiver takes is much less (`--max-ram`).
pub const MAX_PAGES: u64 = crate::base::places::MAX_PAGE - 1;
/// Pages packed together: 256 KiB. Larger ones compress no better and cost random access.
pub const MAX_PACKED_PAGES: u64 = 64;
/// Operations of one frame: each page could be one of its own.
pub const MAX_OPS: u64 = 8192;
/// Members of a pool: moves that fill it together.
pub const MAX_MEMBERS: u64 = 65_536;
/// Bytes of a VMM's own stream in one record.
pub const MAX_NATIVE: usize = 1 << 20;
/// Bytes of a text for people.
pub const MAX_TEXT: usize = 1024;
