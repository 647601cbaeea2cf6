//! The fast codec: blocks of LZ4 as its block format has them, nothing around them.
//!
//! Both ways in safe Rust. A block says nothing of its length; it ends where the data ends. Of a
//! prefix the last 64 KiB count, as far as an offset of LZ4 reaches; so a chunk of 64 KiB or more does
//! not reach the bytes at its own offset in a prefix of the same length, and wants to be smaller.

use super::codec::{Codec, CodecError, check};
use lz4_flex::block::{
    CompressTable, compress_into_with_dict, compress_into_with_table, decompress_into,
    decompress_into_with_dict, get_maximum_output_size,
};
use std::cell::RefCell;

const NAME: &str = "lz4";

thread_local! {
    /// One table a thread: a new one for each chunk is an allocation for each chunk.
    static TABLE: RefCell<CompressTable> = RefCell::new(CompressTable::large());
}

/// LZ4.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lz4;

impl Codec for Lz4 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pack(
        &self,
        pages: &[u8],
        prefix: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Result<bool, CodecError> {
        out.clear();
        check(NAME, pages.len(), prefix)?;
        out.resize(get_maximum_output_size(pages.len()), 0);
        let packed = match useful(prefix) {
            Some(prefix) => compress_into_with_dict(pages, out, prefix),
            None => TABLE.with_borrow_mut(|table| compress_into_with_table(pages, out, table)),
        };
        let len = packed.map_err(|e| CodecError::Failed { codec: NAME, why: e.to_string() })?;
        let smaller = len < pages.len();
        out.truncate(if smaller { len } else { 0 });
        Ok(smaller)
    }

    fn unpack(
        &self,
        packed: &[u8],
        prefix: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), CodecError> {
        check(NAME, out.len(), prefix)?;
        let damaged = |why: String| CodecError::Damaged { codec: NAME, why };
        let len = match useful(prefix) {
            Some(prefix) => decompress_into_with_dict(packed, out, prefix),
            None => decompress_into(packed, out),
        }
        .map_err(|e| damaged(e.to_string()))?;
        if len == out.len() {
            Ok(())
        } else {
            Err(damaged(format!("it holds {len} bytes instead of {}", out.len())))
        }
    }
}

/// The part of a prefix that an offset can reach; an empty one is none.
fn useful(prefix: Option<&[u8]>) -> Option<&[u8]> {
    let prefix = prefix.filter(|prefix| !prefix.is_empty())?;
    Some(&prefix[prefix.len().saturating_sub(64 * 1024)..])
}
