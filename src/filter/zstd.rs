//! The strong codec: frames of zstd (RFC 8878) without the four bytes that every frame begins with.
//!
//! A frame carries its content size, two bytes for a chunk of up to 64 KiB, and neither checksum nor
//! dictionary number. A chunk is exactly one frame. It is unpacked in one step right into the
//! buffer of the caller, so that the window which a frame asks for is never allocated.
//!
//! A prefix is used as zstd's raw dictionary. A dictionary of zstd's own kind is known by the first
//! four bytes, and a guest may well have a page that begins with them; such a prefix is used without
//! its first byte.
//!
//! Contexts are kept, one a thread and direction: a new one for each chunk costs more than a chunk.

use super::codec::{Codec, CodecError, MOST, check};
use std::cell::RefCell;
use zstd::zstd_safe::{
    CCtx, DCtx, compress_bound, find_frame_compressed_size, get_error_name, get_frame_content_size,
};

const NAME: &str = "zstd";

/// The first bytes of every frame, little-endian 0xFD2FB528: known, so not sent.
const FRAME: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The first bytes of a dictionary of zstd's own kind, little-endian 0xEC30A437.
const DICTIONARY: [u8; 4] = [0x37, 0xa4, 0x30, 0xec];

thread_local! {
    static PACKER: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
    static UNPACKER: RefCell<(Option<DCtx<'static>>, Vec<u8>)> =
        const { RefCell::new((None, Vec::new())) };
}

/// zstd at one level.
#[derive(Clone, Copy, Debug)]
pub struct Zstd {
    level: i32,
}

impl Default for Zstd {
    /// Level 1: twice as fast as 3 for a few per cent more bytes.
    fn default() -> Self {
        Self { level: 1 }
    }
}

impl Zstd {
    /// At a level of -7 to -1 or 1 to 19; `None` for others.
    pub fn new(level: i32) -> Option<Self> {
        ((-7..=19).contains(&level) && level != 0).then_some(Self { level })
    }
}

impl Codec for Zstd {
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
        out.reserve(compress_bound(pages.len()));
        let len = PACKER.with_borrow_mut(|packer| {
            let packer = match packer {
                Some(packer) => packer,
                None => packer.insert(CCtx::try_create().ok_or_else(no_memory)?),
            };
            packer.compress_using_dict(out, pages, raw(prefix), self.level).map_err(|code| {
                CodecError::Failed { codec: NAME, why: get_error_name(code).into() }
            })
        })?;
        let smaller = len - FRAME.len() < pages.len() && out.starts_with(&FRAME);
        if smaller {
            out.drain(..FRAME.len());
        } else {
            out.clear();
        }
        Ok(smaller)
    }

    fn unpack(
        &self,
        packed: &[u8],
        prefix: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), CodecError> {
        check(NAME, out.len(), prefix)?;
        if packed.len() > MOST {
            return Err(damaged("it is longer than any chunk"));
        }
        UNPACKER.with_borrow_mut(|(unpacker, frame)| {
            frame.clear();
            frame.extend_from_slice(&FRAME);
            frame.extend_from_slice(packed);
            // zstd would unpack several frames, and skip over those that carry nothing
            if find_frame_compressed_size(frame) != Ok(frame.len()) {
                return Err(damaged("it is not one whole frame"));
            }
            match get_frame_content_size(frame) {
                Ok(Some(size)) if size == out.len() as u64 => {}
                _ => return Err(damaged("its length is not that of the pages")),
            }
            let unpacker = match unpacker {
                Some(unpacker) => unpacker,
                None => unpacker.insert(DCtx::try_create().ok_or_else(no_memory)?),
            };
            match unpacker.decompress_using_dict(out, frame, raw(prefix)) {
                Ok(len) if len == out.len() => Ok(()),
                Ok(_) => Err(damaged("its length is not that of the pages")),
                Err(code) => Err(damaged(get_error_name(code))),
            }
        })
    }
}

/// A prefix as bytes, whatever it begins with.
fn raw(prefix: Option<&[u8]>) -> &[u8] {
    let prefix = prefix.unwrap_or_default();
    if prefix.starts_with(&DICTIONARY) { &prefix[1..] } else { prefix }
}

fn no_memory() -> CodecError {
    CodecError::Failed { codec: NAME, why: "there is no memory for its tables".into() }
}

fn damaged(why: &str) -> CodecError {
    CodecError::Damaged { codec: NAME, why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::codec::PAGE;

    #[test]
    fn a_page_that_begins_like_a_dictionary_is_a_prefix_like_any_other() {
        let mut x = 7_u32;
        let noise = std::iter::repeat_with(|| {
            x = x.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
            x.to_be_bytes()[0]
        });
        let mut template: Vec<u8> = noise.take(4 * PAGE).collect();
        template[..4].copy_from_slice(&DICTIONARY);
        let mut packed = Vec::new();
        let pages = template.clone(); // zstd does not use a dictionary that lies in the input
        assert!(Zstd::default().pack(&pages, Some(&template), &mut packed).unwrap());
        assert!(packed.len() < 100, "{}", packed.len());
        let mut out = vec![0; template.len()];
        Zstd::default().unpack(&packed, Some(&template), &mut out).unwrap();
        assert!(out == template);
    }

    #[test]
    fn the_levels_make_frames_that_any_level_unpacks() {
        let pages: Vec<u8> = (0..16384_u32).flat_map(|i| (i / 64).to_le_bytes()).collect();
        for level in [-7, -1, 1, 3, 19] {
            let mut packed = Vec::new();
            assert!(Zstd::new(level).unwrap().pack(&pages, None, &mut packed).unwrap());
            let mut out = vec![0; pages.len()];
            Zstd::default().unpack(&packed, None, &mut out).unwrap();
            assert!(out == pages);
        }
    }

    #[test]
    fn a_bomb_and_a_second_frame_are_refused() {
        let mut bomb = Vec::new();
        let mut big = CCtx::create();
        bomb.reserve(1 << 20);
        big.compress(&mut bomb, &vec![0; 64 << 20], 1).unwrap();
        let mut out = vec![0; MOST];
        let told = Zstd::default().unpack(&bomb[4..], None, &mut out).unwrap_err();
        assert!(told.to_string().contains("length"), "{told}");

        // a window of 512 MiB, declared in nine bytes, with and without a content size
        for head in [&[0x00, 0x98][..], &[0x80, 0x98, 0, 0, 4, 0]] {
            let frame = [head, &[0x01, 0, 0]].concat();
            assert!(Zstd::default().unpack(&frame, None, &mut out).is_err());
        }

        let mut packed = Vec::new();
        assert!(Zstd::default().pack(&vec![0; PAGE], None, &mut packed).unwrap());
        let skipped = [&packed[..], &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]].concat();
        let twice = [&packed[..], &FRAME, &packed].concat();
        for frame in [&skipped, &twice] {
            let told = Zstd::default().unpack(frame, None, &mut out[..PAGE]).unwrap_err();
            assert!(told.to_string().contains("one whole frame"), "{told}");
        }
    }
}
