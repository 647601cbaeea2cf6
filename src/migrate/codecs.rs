//! Which codec a packing of the stream means, at both ends.

use crate::filter::codec::{Codec, CodecError};
use crate::filter::{lz4::Lz4, xor::Xor, zstd::Zstd};
use crate::wire::pages::Packing;

/// What an end can pack or unpack.
#[derive(Debug)]
pub struct Codecs {
    lz4: Lz4,
    zstd: Zstd,
    xor: Xor,
    exec: Option<Box<dyn Codec>>,
}

impl Codecs {
    /// With `zstd` at this level, and an external filter if there is one.
    pub fn new(zstd: i32, exec: Option<Box<dyn Codec>>) -> Self {
        Self { lz4: Lz4, zstd: Zstd::new(zstd).unwrap_or_default(), xor: Xor, exec }
    }

    /// The codec of a packing; `None` for an external one that this end was not given.
    pub fn get(&self, packing: Packing) -> Option<&dyn Codec> {
        match packing {
            Packing::Lz4 => Some(&self.lz4),
            Packing::Zstd => Some(&self.zstd),
            Packing::Xor => Some(&self.xor),
            Packing::Exec => self.exec.as_deref(),
        }
    }

    /// Unpacks into exactly `out.len()` bytes.
    pub fn unpack(
        &self,
        packing: Packing,
        packed: &[u8],
        prefix: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), CodecError> {
        let codec = self.get(packing).ok_or_else(|| CodecError::Unknown {
            spec: "exec (the stream was packed by an external filter: give mig-recv the same --filter exec:COMMAND)".to_owned(),
        })?;
        codec.unpack(packed, prefix, out)
    }
}
