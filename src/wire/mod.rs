//! The stream, as bytes: `docs/FORMAT.md`, section 3, is the description that this follows.
//!
//! ```text
//! header | frame | frame | …            from the sender
//! header | frame | …                    answers, where the medium has two directions
//!
//! frame:  length u32 | type u8 | flags u8 | 0 u16 | number u32 | body | crc32 u32
//! ```
//!
//! Everything here is pure: bytes in, records out. [`decode::Decoder`] says how many bytes it wants
//! next and takes exactly those, so that it does not matter in which pieces they arrive. It checks
//! what a record says by itself (spelling, lengths, limits); what records say together (each page
//! once, nothing named that does not exist) is [`crate::placement::ledger`]'s to check.

pub mod answer;
pub mod decode;
pub mod encode;
pub mod explain;
pub mod header;
pub mod limits;
pub mod pages;
pub mod record;

pub use decode::Decoder;
pub use encode::Encoder;
pub use header::Header;
pub use record::Record;

use crate::base::bytes::Truncated;

/// No stream of ours, or a damaged one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// It begins with other bytes.
    #[error("this is no pageherd stream: it does not begin with its mark")]
    Foreign,
    /// Another major version.
    #[error("this stream has version {0}; version 1 is what is read")]
    Version(u16),
    /// Features that a reader must know.
    #[error(
        "this stream needs features {0:#x}, which are not known here: read it with a newer pageherd"
    )]
    Feature(u64),
    /// A checksum does not fit.
    #[error("the stream is damaged: the checksum of {what} does not fit")]
    Checksum {
        /// The header, or which frame.
        what: String,
    },
    /// A frame out of order.
    #[error("the stream is out of order: frame {found} stands where frame {wanted} should")]
    Order {
        /// The number that should come.
        wanted: u32,
        /// The number that came.
        found: u32,
    },
    /// A length above its limit.
    #[error("frame {number} says that it has {length} bytes; {most} is the most")]
    TooLong {
        /// Which frame.
        number: u32,
        /// What it says.
        length: u32,
        /// The limit.
        most: u32,
    },
    /// A field that ends beyond its record.
    #[error("a record is too short: {0}")]
    Short(#[from] Truncated),
    /// A record that contradicts the format.
    #[error("the stream is wrong: {0}")]
    Wrong(&'static str),
    /// A kind of record that must be known.
    #[error("the stream has a record of type {0}, which is not known here")]
    Unknown(u8),
    /// It ends before its end.
    #[error("the stream is cut off after {after} bytes, inside or before {inside}")]
    Cut {
        /// Bytes until then.
        after: u64,
        /// What was being read.
        inside: &'static str,
    },
    /// It goes on after its end.
    #[error("something follows the end of the stream")]
    Trailing,
    /// The key of the two ends is not the same.
    #[error("the stream was made with another key: give both ends the same --key")]
    OtherKey,
    /// One end has a key, the other none.
    #[error("{0}")]
    Keying(&'static str),
}

/// Adds the place to a varint that is spelled wrongly.
fn varint(r: &mut crate::base::bytes::Reader<'_>, what: &'static str) -> Result<u64, WireError> {
    r.varint(what)?.ok_or(WireError::Wrong("a number is spelled longer than it need be"))
}
