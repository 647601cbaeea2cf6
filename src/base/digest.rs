//! Digests of pages and of whole memories.
//!
//! The digest of a memory is a sum over its pages: of each page that is not all zero, a *term*
//! made of the page's hash and its number is added, modulo 2^128. So it does not depend on the
//! order in which pages come; a zero page costs nothing; a page whose hash is known, because the
//! same content stood elsewhere, need not be read again; and a page that is sent a second time is
//! taken out and put in anew. It is a digest of memory, not of a stream: the same memory has the
//! same digest in a process, an image and a herd.
//!
//! Without a key it finds faults: 64 bits a page, 128 bits the sum. With a key every hash and every
//! term is a keyed BLAKE3, which nobody without the key can steer (a sum of terms from a keyed
//! function is a multiset hash; the secrecy of the terms is what it rests on).

use super::PAGE_SIZE;
use twox_hash::{XxHash3_64, XxHash3_128};

/// Hash of one page's content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PageHash(pub u64);

/// How pages are hashed.
#[derive(Clone)]
pub enum Hashing {
    /// XXH3, against faults.
    Plain,
    /// BLAKE3 with this key, against malice.
    Keyed(Box<[u8; 32]>),
}

impl std::fmt::Debug for Hashing {
    /// The key is not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Keyed(_) => "Keyed",
        })
    }
}

impl Hashing {
    /// With the key that `secret` makes, of any length.
    pub fn keyed(secret: &[u8]) -> Self {
        Self::Keyed(Box::new(blake3::derive_key(
            "pageherd 2026-11 page and stream digests",
            secret,
        )))
    }

    /// The number of this way in a stream.
    pub const fn number(&self) -> u8 {
        match self {
            Self::Plain => 1,
            Self::Keyed(_) => 2,
        }
    }

    /// The hash of a page's content.
    pub fn page(&self, content: &[u8]) -> PageHash {
        PageHash(match self {
            Self::Plain => XxHash3_64::oneshot(content),
            Self::Keyed(key) => first_u64(blake3::keyed_hash(key, content).as_bytes()),
        })
    }

    /// What page `page` with this hash adds to the sum.
    pub fn term(&self, page: u64, hash: PageHash) -> u128 {
        let mut bytes = [0u8; 16];
        bytes[..8].copy_from_slice(&page.to_le_bytes());
        bytes[8..].copy_from_slice(&hash.0.to_le_bytes());
        match self {
            Self::Plain => XxHash3_128::oneshot(&bytes),
            Self::Keyed(_) => u128::from_le_bytes(self.seal(&bytes)),
        }
    }

    /// Sixteen bytes over any bytes.
    pub fn seal(&self, bytes: &[u8]) -> [u8; 16] {
        match self {
            Self::Plain => XxHash3_128::oneshot(bytes).to_le_bytes(),
            Self::Keyed(key) => {
                let mut out = [0; 16];
                out.copy_from_slice(&blake3::keyed_hash(key, bytes).as_bytes()[..16]);
                out
            }
        }
    }
}

fn first_u64(bytes: &[u8; 32]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(first)
}

/// The digest of a memory, as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryDigest(u128);

impl MemoryDigest {
    /// Puts a page in.
    pub const fn add(&mut self, term: u128) {
        self.0 = self.0.wrapping_add(term);
    }

    /// Takes a page out.
    pub const fn remove(&mut self, term: u128) {
        self.0 = self.0.wrapping_sub(term);
    }

    /// As it stands in a stream.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// From a stream.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }
}

impl std::fmt::Display for MemoryDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Is this all zero? Pieces of 256 bytes are folded at once, which the compiler turns into vector
/// instructions; byte by byte is thirty times slower (docs/PERFORMANCE.md).
pub fn is_zero(bytes: &[u8]) -> bool {
    let mut pieces = bytes.chunks_exact(256);
    pieces.all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0)
        && pieces.remainder().iter().all(|&byte| byte == 0)
}

/// What a template is known by at both ends: BLAKE3 over the hashes of its pages, in order.
///
/// Of the hashes and not of the bytes, since both ends need those anyway and BLAKE3 of all takes
/// several times as long. As all digests here it finds faults, and what was made to deceive only with
/// a key.
pub fn of_template(hashes: &[Option<PageHash>]) -> [u8; 32] {
    let mut all = blake3::Hasher::new();
    for some in hashes.chunks(512) {
        let bytes = some.iter().flat_map(|hash| hash.map_or(0, |hash| hash.0).to_le_bytes());
        all.update(&bytes.collect::<Vec<u8>>());
    }
    *all.finalize().as_bytes()
}

/// The digest of a whole memory that lies in one piece.
pub fn of_memory(hashing: &Hashing, memory: &[u8]) -> MemoryDigest {
    let mut digest = MemoryDigest::default();
    let size = usize::try_from(PAGE_SIZE).unwrap_or(4096);
    for (number, page) in (0u64..).zip(memory.chunks(size)).filter(|(_, page)| !is_zero(page)) {
        digest.add(hashing.term(number, hashing.page(page)));
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Vec<u8> {
        (0..4 * 4096u32)
            .map(|i| if i / 4096 == 2 { 0 } else { (i * 7 % 251).to_le_bytes()[0] })
            .collect()
    }

    #[test]
    fn the_digest_is_of_content_and_place_and_of_nothing_else() {
        for hashing in [Hashing::Plain, Hashing::keyed(b"secret")] {
            let whole = of_memory(&hashing, &memory());
            let mut longer = memory();
            longer.extend([0; 8192]);
            assert_eq!(whole, of_memory(&hashing, &longer), "zero pages add nothing");
            let mut swapped = memory();
            swapped.rotate_left(4096);
            assert_ne!(whole, of_memory(&hashing, &swapped));
            let mut one_bit = memory();
            one_bit[5000] ^= 4;
            assert_ne!(whole, of_memory(&hashing, &one_bit));
            assert_eq!(MemoryDigest::from_bytes(whole.to_bytes()), whole);
        }
    }

    #[test]
    fn a_key_changes_everything() {
        let of = |h: &Hashing| (h.page(&memory()[..4096]), of_memory(h, &memory()), h.seal(b"x"));
        let (a, b) = (of(&Hashing::keyed(b"a")), of(&Hashing::keyed(b"b")));
        assert!(a.0 != b.0 && a.1 != b.1 && a.2 != b.2);
        assert!(!format!("{:?}", Hashing::keyed(b"a")).contains('['));
    }

    #[test]
    fn zero_is_told_at_every_position() {
        for len in [0, 1, 255, 256, 4096, 5000] {
            let mut bytes = vec![0u8; len];
            assert!(is_zero(&bytes));
            for at in (0..len).step_by(97) {
                bytes[at] = 1;
                assert!(!is_zero(&bytes));
                bytes[at] = 0;
            }
        }
    }
}
