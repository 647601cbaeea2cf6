//! Which frames were met, and where their content was sent: 16 bytes a frame in a list, and four in
//! a table of positions, which alone has to be larger than what it holds.

use super::Numbering;
use crate::base::digest::PageHash;
use crate::base::fact::{Frame, Space};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Where the content of a frame was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sent {
    pub(super) frame: u64,
    pub(super) vm: u32,
    pub(super) page: u64,
    /// Unknown of a page that another sender sends, until it is referred to.
    pub(super) hash: Option<PageHash>,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    frame: u32,
    number: u32,
    /// 0 where it is unknown. A page whose hash is 0 is read once more, which harms nothing.
    hash: u64,
}

/// Tables of one space. A table that grows is there twice for a moment, and is half empty after it:
/// of many small ones that grow one by one, all together are neither. So that they do not grow all at
/// once, each takes a share of the frames a little larger than the one before, the last twice that
/// of the first.
const SHARDS: usize = 64;

/// Entries that are allocated together: what was allocated never moves.
const CHUNK: usize = 1 << 12;

/// The frames that were met.
#[derive(Debug)]
pub(super) struct Frames {
    numbering: Numbering,
    kept: List,
    spaces: Vec<(Space, Vec<HashTable<u32>>)>,
}

/// A list that grows without being copied.
#[derive(Debug, Default)]
struct List {
    chunks: Vec<Vec<Kept>>,
    len: u32,
}

impl List {
    fn get(&self, at: u32) -> &Kept {
        &self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }

    fn set(&mut self, at: u32, kept: Kept) {
        self.chunks[at as usize / CHUNK][at as usize % CHUNK] = kept;
    }

    fn push(&mut self, kept: Kept) {
        if (self.len as usize).is_multiple_of(CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        self.chunks.last_mut().into_iter().for_each(|chunk| chunk.push(kept));
        self.len += 1;
    }
}

impl Frames {
    /// For VMs of so many pages each.
    pub(super) fn new(pages: &[u64]) -> Self {
        Self { numbering: Numbering::new(pages), kept: List::default(), spaces: Vec::new() }
    }

    /// Remembers where a frame was sent, in place of what was known of it: its first page may have
    /// left it. Frames beyond 16 TiB of physical memory are not remembered.
    pub(super) fn insert(&mut self, space: Space, sent: &Sent) {
        let number = self.numbering.number(sent.vm, sent.page);
        let (Some(number), Ok(frame)) = (number, u32::try_from(sent.frame)) else { return };
        let index = self.spaces.iter().position(|(known, _)| *known == space);
        let index = index.unwrap_or_else(|| {
            self.spaces.push((space, (0..SHARDS).map(|_| HashTable::new()).collect()));
            self.spaces.len() - 1
        });
        let new = Kept { frame, number, hash: sent.hash.map_or(0, |hash| hash.0) };
        let Self { kept, spaces, .. } = self;
        let of = |at: &u32| kept.get(*at).frame;
        let entry = spaces[index].1[shard(frame)].entry(
            position(frame),
            |at| of(at) == frame,
            |at| position(of(at)),
        );
        match entry {
            Entry::Occupied(known) => {
                let at = *known.get();
                kept.set(at, new);
            }
            Entry::Vacant(_) if kept.len == u32::MAX => {} // one that is not known is sent once more
            Entry::Vacant(free) => {
                free.insert(kept.len);
                kept.push(new);
            }
        }
    }

    /// Where a frame was sent.
    pub(super) fn find(&self, frame: Frame) -> Option<Sent> {
        let (_, tables) = self.spaces.iter().find(|(space, _)| *space == frame.space)?;
        let number = u32::try_from(frame.number).ok()?;
        let is = |at: &u32| self.kept.get(*at).frame == number;
        let kept = self.kept.get(*tables[shard(number)].find(position(number), is)?);
        let (vm, page) = self.numbering.page(kept.number);
        let hash = (kept.hash != 0).then_some(PageHash(kept.hash));
        Some(Sent { frame: frame.number, vm, page, hash })
    }
}

/// Numbers of frames, which follow one another, over all bits.
fn spread(number: u32) -> u64 {
    let x = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^ x >> 32
}

/// Where in its table: a table goes by the lowest bits and the uppermost, which are not to be those
/// by which it was chosen.
fn position(number: u32) -> u64 {
    spread(number).rotate_left(32)
}

/// Which table: by the uppermost bits, in shares of 64, 65, … 127 of their sum.
fn shard(number: u32) -> usize {
    const ALL: u64 = (64 + 127) * 64 / 2;
    let point = ((spread(number) >> 32) * ALL) >> 32;
    // the sum of the first n shares is 64 n + n (n - 1) / 2: the largest n for which it is not above
    let (mut low, mut high) = (0, SHARDS as u64);
    while low + 1 < high {
        let n = (low + high) / 2;
        if 64 * n + n * (n - 1) / 2 <= point { low = n } else { high = n }
    }
    usize::try_from(low).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_its_share() {
        let mut counts = [0u32; SHARDS];
        (0..1_000_000).for_each(|number| counts[shard(number)] += 1);
        assert!(counts.iter().all(|&count| count > 9_000), "{counts:?}");
        assert!(counts[SHARDS - 1] > counts[0] * 3 / 2);
    }

    #[test]
    fn a_frame_is_found_where_it_was_sent_last() {
        assert_eq!(size_of::<Kept>(), 16);
        let mut frames = Frames::new(&[100, 100]);
        let sent = |frame, vm, page, hash| Sent { frame, vm, page, hash };
        for number in 0..1000 {
            let hash = (number % 2 == 0).then_some(PageHash(number + 1));
            frames.insert(Space::Physical, &sent(number, 1, number % 100, hash));
        }
        let at = |number| Frame { space: Space::Physical, number };
        assert_eq!(frames.find(at(8)), Some(sent(8, 1, 8, Some(PageHash(9)))));
        assert_eq!(frames.find(at(7)), Some(sent(7, 1, 7, None)));
        assert_eq!(frames.find(at(1000)), None);
        let pool = Space::Pool { device: 1, inode: 2 };
        assert_eq!(frames.find(Frame { space: pool, number: 8 }), None);
        frames.insert(Space::Physical, &sent(8, 0, 3, None));
        assert_eq!(frames.find(at(8)), Some(sent(8, 0, 3, None)));
    }
}
