//! How pages are packed: one short trait, and the names by which codecs are asked for.
//!
//! A packed chunk says nothing of its own length: the receiver knows how many pages it waits for,
//! gives a buffer of just that size, and every codec refuses what is more or less. So no number in
//! the data decides how much memory is taken. What no codec checks is that the *content* is that
//! which was sent: the digests of the stream do.

use crate::base::addr::PAGE_SHIFT;
use crate::filter::{lz4::Lz4, xor::Xor, zstd::Zstd};
use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// Bytes of a page, for lengths of slices.
pub const PAGE: usize = 1 << PAGE_SHIFT;

/// Most bytes that are packed at once.
pub const MOST: usize = 256 * 1024;

/// How pages are packed.
///
/// A *prefix* is bytes that both ends have: the template's pages of the same numbers, or the
/// version that was sent before. It is at most [`MOST`] bytes; [`Xor`] wants exactly as many as
/// there are pages, the others take any number. A chunk packed with a prefix is unpacked with the
/// same one: with another the result is an error or other bytes, never a fault.
///
/// Chunks of more than 64 KiB gain little from a prefix, as the tables of zstd's fast levels do not
/// hold so many places; with levels below 1 and with LZ4, chunks of more than 16 KiB. Measured with pages that differ from their prefix
/// in one byte of 512, zstd level 1: 62 to 1 in chunks of 4 KiB, 172 to 1 in 64 KiB, 4 to 1 in
/// 256 KiB.
pub trait Codec: Send + Sync + fmt::Debug {
    /// The name, as in `--filter`.
    fn name(&self) -> &'static str;

    /// Packs `pages`, a multiple of [`PAGE`] and at most [`MOST`] bytes, into `out`, which is
    /// emptied first.
    ///
    /// False, with `out` empty, where they would not become smaller, or where this codec can do
    /// nothing without a prefix.
    ///
    /// # Errors
    /// Lengths that break the rules above, and failures of the codec itself (memory).
    fn pack(
        &self,
        pages: &[u8],
        prefix: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Result<bool, CodecError>;

    /// Unpacks into exactly `out.len()` bytes, a multiple of [`PAGE`] and at most [`MOST`].
    ///
    /// After an error `out` holds anything.
    ///
    /// # Errors
    /// [`CodecError::Damaged`] where the data is damaged, ends early, or holds more or fewer bytes.
    fn unpack(
        &self,
        packed: &[u8],
        prefix: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), CodecError>;
}

impl<C: Codec + ?Sized> Codec for Arc<C> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn pack(
        &self,
        pages: &[u8],
        prefix: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Result<bool, CodecError> {
        (**self).pack(pages, prefix, out)
    }

    fn unpack(
        &self,
        packed: &[u8],
        prefix: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), CodecError> {
        (**self).unpack(packed, prefix, out)
    }
}

/// Why a chunk was not packed or unpacked, or a codec not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// No whole pages, or too many.
    #[error("{len} bytes are no chunk of pages: whole pages of {PAGE} bytes, at most {MOST} bytes")]
    Length {
        /// Bytes given.
        len: usize,
    },
    /// A prefix that the codec cannot use.
    #[error("a prefix of {len} bytes does not fit a chunk of {pages} bytes: {codec} takes {takes}")]
    Prefix {
        /// The codec.
        codec: &'static str,
        /// Bytes of the prefix.
        len: usize,
        /// Bytes of the chunk.
        pages: usize,
        /// What would do.
        takes: &'static str,
    },
    /// Packed data that is not what the codec makes.
    #[error("a chunk packed by {codec} is damaged: {why}")]
    Damaged {
        /// The codec.
        codec: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The codec itself failed.
    #[error("{codec} failed: {why}")]
    Failed {
        /// The codec.
        codec: &'static str,
        /// What it said.
        why: String,
    },
    /// A filter outside of this program failed.
    #[error("the external filter failed")]
    External(#[source] Box<dyn Error + Send + Sync>),
    /// A name or level that there is none of.
    #[error(
        "there is no codec '{spec}': use lz4, xor, zstd or zstd:LEVEL with a level of -7 to 19"
    )]
    Unknown {
        /// As it was asked for.
        spec: String,
    },
}

/// The codec that `spec` names: `lz4`, `xor`, `zstd` (level 1) or `zstd:LEVEL`.
///
/// # Errors
/// [`CodecError::Unknown`].
pub fn by_name(spec: &str) -> Result<Box<dyn Codec>, CodecError> {
    let unknown = || CodecError::Unknown { spec: spec.to_owned() };
    match spec.split_once(':') {
        None if spec == "lz4" => Ok(Box::new(Lz4)),
        None if spec == "xor" => Ok(Box::new(Xor)),
        None if spec == "zstd" => Ok(Box::new(Zstd::default())),
        Some(("zstd", level)) => {
            let level = level.parse().ok().and_then(Zstd::new);
            Ok(Box::new(level.ok_or_else(unknown)?))
        }
        _ => Err(unknown()),
    }
}

/// Refuses what is no chunk of pages, and a prefix that is longer than any chunk.
///
/// # Errors
/// [`CodecError::Length`], [`CodecError::Prefix`].
pub fn check(codec: &'static str, pages: usize, prefix: Option<&[u8]>) -> Result<(), CodecError> {
    if pages == 0 || pages > MOST || !pages.is_multiple_of(PAGE) {
        return Err(CodecError::Length { len: pages });
    }
    match prefix {
        Some(prefix) if prefix.len() > MOST => {
            Err(CodecError::Prefix { codec, len: prefix.len(), pages, takes: "at most 256 KiB" })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all() -> Vec<Box<dyn Codec>> {
        let names = ["lz4", "xor", "zstd", "zstd:-7", "zstd:19"];
        names.iter().map(|name| by_name(name).unwrap()).collect()
    }

    /// Pages that are like real ones: zeros, noise, words with small numbers, text.
    fn pages() -> impl Strategy<Value = Vec<u8>> {
        let page = prop_oneof![
            Just(vec![0; PAGE]),
            proptest::collection::vec(any::<u8>(), PAGE),
            (any::<u64>(), any::<u8>()).prop_map(|(base, step)| {
                let word = |i| base.wrapping_add(i * u64::from(step)).to_le_bytes();
                (0..PAGE as u64 / 8).flat_map(word).collect()
            }),
            "[a-e ]{64}".prop_map(|text| text.bytes().cycle().take(PAGE).collect()),
        ];
        proptest::collection::vec(page, 1..=17).prop_map(|pages| pages.concat())
    }

    /// Some bytes of `pages` changed, as a guest changes them: in few places.
    fn changed(mut pages: Vec<u8>, at: &[(prop::sample::Index, u8)]) -> Vec<u8> {
        for (at, byte) in at {
            let at = at.index(pages.len());
            pages[at] = *byte;
        }
        pages
    }

    fn round_trip(codec: &dyn Codec, pages: &[u8], prefix: Option<&[u8]>) -> Option<usize> {
        let mut packed = vec![7; 3];
        if !codec.pack(pages, prefix, &mut packed).unwrap() {
            assert!(packed.is_empty(), "{codec:?}");
            return None;
        }
        assert!(packed.len() < pages.len(), "{codec:?}");
        let mut out = vec![0xa5; pages.len()];
        codec.unpack(&packed, prefix, &mut out).unwrap();
        assert!(out == pages, "{codec:?}: other bytes came out");
        // a page less is an error as a page more is
        let short = out.len() - PAGE;
        if short > 0 {
            let prefix = prefix.map(|p| if p.len() == pages.len() { &p[..short] } else { p });
            assert!(codec.unpack(&packed, prefix, &mut out[..short]).is_err(), "{codec:?}");
        }
        packed.push(0);
        assert!(codec.unpack(&packed, prefix, &mut out).is_err(), "{codec:?}: one byte more");
        packed.truncate(packed.len() - 2);
        assert!(codec.unpack(&packed, prefix, &mut out).is_err(), "{codec:?}: one byte less");
        Some(packed.len() + 1)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_is_packed_comes_out_as_it_was(
            before in pages(),
            at in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        ) {
            let now = changed(before.clone(), &at);
            for codec in all() {
                round_trip(&*codec, &now, None);
                let with = round_trip(&*codec, &now, Some(&before));
                if codec.name() == "xor" {
                    prop_assert!(with.is_some_and(|len| len < 400), "{with:?}");
                } else {
                    round_trip(&*codec, &now, Some(&before[1..77]));
                    round_trip(&*codec, &now, Some(&[]));
                    round_trip(&*codec, &now, Some(&before.repeat(MOST / before.len())));
                }
            }
        }

        #[test]
        fn garbage_is_an_error_or_bytes_and_never_a_fault(
            packed in proptest::collection::vec(any::<u8>(), 0..300),
            prefix in pages(),
        ) {
            for codec in all() {
                let mut out = vec![0; prefix.len()];
                let _either = codec.unpack(&packed, None, &mut out);
                let _either = codec.unpack(&packed, Some(&prefix), &mut out);
            }
        }

        #[test]
        fn damage_is_an_error_or_bytes_and_never_a_fault(
            pages in pages(),
            at in any::<prop::sample::Index>(),
            with in 1..=255_u8,
        ) {
            let prefix = vec![0x11; pages.len()];
            for codec in all() {
                for prefix in [None, Some(&prefix[..])] {
                    let mut packed = Vec::new();
                    if codec.pack(&pages, prefix, &mut packed).unwrap() {
                        let at = at.index(packed.len());
                        packed[at] ^= with;
                        let mut out = vec![0; pages.len()];
                        let _either = codec.unpack(&packed, prefix, &mut out);
                        let _either = codec.unpack(&packed[..at], prefix, &mut out);
                    }
                }
            }
        }
    }

    #[test]
    fn the_smallest_and_the_largest_chunk_are_packed() {
        for codec in all().iter().filter(|codec| codec.name() != "xor") {
            for len in [PAGE, 65536, MOST] {
                let packed = round_trip(&**codec, &vec![0; len], None).unwrap();
                assert!(packed < 40 + len / 200, "{codec:?}: {packed} bytes for {len} zeros");
            }
        }
    }

    #[test]
    fn noise_is_sent_as_it_is() {
        let mut x = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            x.to_be_bytes()[0]
        })
        .take(65536)
        .collect();
        for codec in all() {
            assert_eq!(round_trip(&*codec, &noise, None), None, "{codec:?}");
            let other: Vec<u8> = noise.iter().map(|b| !b).collect();
            assert_eq!(round_trip(&*codec, &noise, Some(&other)), None, "{codec:?}");
        }
    }

    #[test]
    fn lengths_that_break_the_rules_are_refused_on_both_sides() {
        let zeros = vec![0; 2 * MOST];
        for codec in all() {
            let (mut out, mut back) = (Vec::new(), zeros.clone());
            for len in [0, 1, PAGE - 1, PAGE + 1, MOST + PAGE, 2 * MOST] {
                assert!(codec.pack(&zeros[..len], None, &mut out).is_err(), "{codec:?} {len}");
                assert!(codec.unpack(&[0], None, &mut back[..len]).is_err(), "{codec:?} {len}");
            }
            let long = Some(&zeros[..=MOST]);
            assert!(codec.pack(&zeros[..PAGE], long, &mut out).is_err(), "{codec:?}");
            assert!(codec.unpack(&[0], long, &mut back[..PAGE]).is_err(), "{codec:?}");
        }
    }

    #[test]
    fn a_codec_is_found_by_its_name_and_a_wrong_name_is_told() {
        assert_eq!(by_name("zstd:-7").unwrap().name(), "zstd");
        for spec in ["", "lz5", "zstd:", "zstd:20", "zstd:-8", "zstd:0", "zstd:1:2", "lz4:1"] {
            let told = by_name(spec).unwrap_err().to_string();
            assert!(told.contains(&format!("'{spec}'")), "{told}");
        }
    }
}
