//! Files in which the commands keep and exchange what they know of pages. Pure: text and bytes in,
//! facts out.
//!
//! [`scanfile`] is the record of a scan, for people, pipes and `memscan diff`. [`map`] is the
//! placement map: for each page of each block, its place. Both are described in `docs/FORMAT.md`.

pub mod map;
pub mod scanfile;
