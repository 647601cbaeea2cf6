//! The difference to the version that the receiver has: which bytes are others, and what they are.
//!
//! For pages of which a guest changed a little. One pass finds the bytes whose xor is not zero; it
//! costs little more than reading both versions, and a chunk with nothing new is 4 bytes at most.
//!
//! # Format
//! Steps from the first byte of the chunk to the last, each:
//!
//! | field | what it is |
//! |---|---|
//! | number | bytes that are as in the prefix; 0 only in the first step |
//! | number | bytes that are others; 0 only in the last step |
//! | bytes | so many, as they are now |
//!
//! A number is in LEB128: seven bits a byte, least first, the eighth set where another byte follows;
//! at most three bytes, and the last is 0 only where it is the only one. The steps cover the chunk
//! exactly, and nothing follows the last.

use super::codec::{Codec, CodecError, check};

const NAME: &str = "xor";

/// So many equal bytes end a stretch of changed ones; fewer cost less as they are than as a step.
const GAP: usize = 8;

/// Differences to a prefix of the same length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Xor;

impl Codec for Xor {
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
        let Some(prefix) = prefix else { return Ok(false) };
        same_length(pages.len(), prefix)?;
        let mut at = 0;
        while at < pages.len() {
            let from = first_change(pages, prefix, at);
            let to = end_of_change(pages, prefix, from);
            // two numbers of at most three bytes
            if out.len() + 6 + (to - from) >= pages.len() {
                out.clear();
                return Ok(false);
            }
            put(out, from - at);
            put(out, to - from);
            out.extend_from_slice(&pages[from..to]);
            at = to;
        }
        Ok(true)
    }

    fn unpack(
        &self,
        packed: &[u8],
        prefix: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), CodecError> {
        check(NAME, out.len(), prefix)?;
        let Some(prefix) = prefix else {
            return Err(damaged(
                "it is a difference, and there is no version that it differs from",
            ));
        };
        same_length(out.len(), prefix)?;
        let mut rest = packed;
        let mut at = 0;
        while at < out.len() {
            let (same, other) = (number(&mut rest)?, number(&mut rest)?);
            let from = at + same;
            let to = from + other;
            if to > out.len() {
                return Err(damaged("it reaches beyond the chunk"));
            }
            if (same == 0 && at > 0) || (other == 0 && to < out.len()) {
                return Err(damaged("a step of it leads nowhere"));
            }
            let Some((bytes, after)) = rest.split_at_checked(other) else {
                return Err(damaged("it ends early"));
            };
            out[at..from].copy_from_slice(&prefix[at..from]);
            out[from..to].copy_from_slice(bytes);
            (rest, at) = (after, to);
        }
        if rest.is_empty() { Ok(()) } else { Err(damaged("something follows its end")) }
    }
}

/// First byte from `at` on that is another; the length where there is none.
fn first_change(a: &[u8], b: &[u8], mut at: usize) -> usize {
    // 64 bytes at a time: the compiler makes vectors of it
    while at + 64 <= a.len() && a[at..at + 64] == b[at..at + 64] {
        at += 64;
    }
    while at < a.len() {
        match difference(a, b, at) {
            0 => at += 8.min(a.len() - at),
            bits => return at + bits.trailing_zeros() as usize / 8,
        }
    }
    at
}

/// Where the stretch of changed bytes that begins at `at` ends: before the first [`GAP`] equal
/// bytes, or after the last that is another.
fn end_of_change(a: &[u8], b: &[u8], mut at: usize) -> usize {
    let mut end = at;
    while at < a.len() {
        match difference(a, b, at) {
            0 => break,
            bits => end = at + 8 - bits.leading_zeros() as usize / 8,
        }
        at = end;
    }
    end
}

/// The xor of the [`GAP`] bytes from `at` on, the first in the lowest bits; behind the end zeros.
fn difference(a: &[u8], b: &[u8], at: usize) -> u64 {
    let word = |bytes: &[u8]| {
        let mut word = [0; GAP];
        match bytes.get(at..at + GAP) {
            Some(whole) => word.copy_from_slice(whole),
            None => word[..bytes.len() - at].copy_from_slice(&bytes[at..]),
        }
        u64::from_le_bytes(word)
    };
    word(a) ^ word(b)
}

fn put(out: &mut Vec<u8>, mut number: usize) {
    while number > 0x7f {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn number(rest: &mut &[u8]) -> Result<usize, CodecError> {
    let mut number = 0;
    for shift in [0, 7, 14] {
        let Some((&byte, after)) = rest.split_first() else {
            return Err(damaged("it ends early"));
        };
        *rest = after;
        number |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            if byte == 0 && shift > 0 {
                break;
            }
            return Ok(number);
        }
    }
    Err(damaged("a number in it is too long"))
}

fn same_length(pages: usize, prefix: &[u8]) -> Result<(), CodecError> {
    if prefix.len() == pages {
        return Ok(());
    }
    let takes = "one of the same length";
    Err(CodecError::Prefix { codec: NAME, len: prefix.len(), pages, takes })
}

fn damaged(why: &str) -> CodecError {
    CodecError::Damaged { codec: NAME, why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::codec::{MOST, PAGE};

    fn packed(pages: &[u8], prefix: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(Xor.pack(pages, Some(prefix), &mut out).unwrap());
        out
    }

    #[test]
    fn the_format_is_as_the_document_has_it() {
        let before = vec![7; PAGE];
        let mut now = before.clone();
        assert_eq!(packed(&now, &before), [0x80, 0x20, 0]);
        now[300..303].copy_from_slice(b"abc");
        now[310] = 0; // seven equal bytes before it: the same stretch
        now[319] = 1; // eight: a new one
        let expected = b"\xac\x02\x0babc\x07\x07\x07\x07\x07\x07\x07\x00\x08\x01\x01\xc0\x1d\x00";
        assert_eq!(packed(&now, &before), expected);
        now = before.clone();
        (now[0], now[PAGE - 1]) = (1, 2);
        assert_eq!(packed(&now, &before), b"\x00\x01\x01\xfe\x1f\x01\x02");
        assert_eq!(packed(&vec![7; MOST], &vec![7; MOST]), b"\x80\x80\x10\x00");
    }

    #[test]
    fn every_way_to_be_wrong_is_refused() {
        let before = vec![7; PAGE];
        for (bytes, why) in [
            (&b""[..], "early"),
            (b"\x80\x20", "early"),
            (b"\x80", "early"),
            (b"\xfe\x1f\x02a", "early"),
            (b"\x80\x20\x00\x00", "follows"),
            (b"\x81\x20\x00", "beyond"),
            (b"\xff\x1f\x02ab", "beyond"),
            (b"\xff\xff\x7f\x00", "beyond"),
            (b"\x80\x80\x80\x01", "too long"),
            (b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", "too long"),
            (b"\x81\x00\x01a", "too long"),
            (b"\x00\x00\x00\x00", "nowhere"),
            (b"\x01\x01a\x00\x01b", "nowhere"),
            (b"\x01\x00\xff\x1f\x00", "nowhere"),
        ] {
            let mut out = vec![0; PAGE];
            let told = Xor.unpack(bytes, Some(&before), &mut out).unwrap_err().to_string();
            assert!(told.contains(why), "{bytes:x?}: {told}");
        }
        let mut out = vec![0; PAGE];
        assert!(Xor.unpack(b"\x80\x20\x00", None, &mut out).is_err());
        assert!(Xor.unpack(b"\x80\x20\x00", Some(&before[1..]), &mut out).is_err());
        assert!(Xor.pack(&out, Some(&before[1..]), &mut Vec::new()).is_err());
        assert!(!Xor.pack(&out, None, &mut Vec::new()).unwrap());
    }
}
