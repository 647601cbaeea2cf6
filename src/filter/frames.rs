//! Which frames were met, and where their content was sent: 16 bytes a frame, and what the table
//! around them needs.

use super::Numbering;
use crate::base::digest::PageHash;
use crate::base::fact::{Frame, Space};
use hashbrown::HashTable;

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
/// with many small ones that grow one by one, all of them together are neither.
const SHARDS: usize = 64;

/// The frames that were met.
#[derive(Debug)]
pub(super) struct Frames {
    numbering: Numbering,
    spaces: Vec<(Space, Vec<HashTable<Kept>>)>,
}

impl Frames {
    /// For VMs of so many pages each.
    pub(super) fn new(pages: &[u64]) -> Self {
        Self { numbering: Numbering::new(pages), spaces: Vec::new() }
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
        let kept = Kept { frame, number, hash: sent.hash.map_or(0, |hash| hash.0) };
        self.spaces[index].1[shard(frame)]
            .entry(spread(frame), |old| old.frame == frame, |old| spread(old.frame))
            .insert(kept);
    }

    /// Where a frame was sent.
    pub(super) fn find(&self, frame: Frame) -> Option<Sent> {
        let (_, tables) = self.spaces.iter().find(|(space, _)| *space == frame.space)?;
        let number = u32::try_from(frame.number).ok()?;
        let kept = tables[shard(number)].find(spread(number), |kept| kept.frame == number)?;
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

/// By bits that neither the tables nor their tags go by.
fn shard(number: u32) -> usize {
    usize::try_from(spread(number) >> 40).unwrap_or(0) % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

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
