//! `same`: pages whose content was sent already, wherever it stood.
//!
//! A hash says where to look; the page that it points to is read again and compared byte by byte,
//! so that pages with equal hashes and other content, which a guest can make at will, stay apart.
//! That needs memory that stands still. Pages are only ever settled within one trust group: that
//! two guests have a page in common is something that one could learn about the other (CVE-2015-2877).

use super::{Batch, Filter, Numbering, PAGE, Settled, World};
use crate::base::buffer::Buffer;
use crate::base::digest::PageHash;
use hashbrown::HashTable;

/// Content that was sent. Nine to eighteen bytes a page: the low half of the hash, and the number
/// of the page among all pages of all VMs.
#[derive(Debug)]
pub struct Same {
    sent: HashTable<(u32, u32)>,
    numbering: Numbering,
    /// Which trust group each VM is in.
    groups: Vec<u32>,
    /// Content that is compared with.
    other: Buffer,
}

/// A page of a batch, and where what may be its content was sent.
struct Candidate {
    at: usize,
    vm: u32,
    page: u64,
}

impl Same {
    /// For VMs of so many pages each, and the trust group of each: VMs with the same number share.
    pub fn new(pages: &[u64], groups: Vec<u32>) -> Self {
        Self {
            sent: HashTable::new(),
            numbering: Numbering::new(pages),
            groups,
            other: Buffer::default(),
        }
    }

    fn group(&self, vm: u32) -> u32 {
        self.groups.get(vm as usize).copied().unwrap_or(u32::MAX)
    }

    /// Tag and position in the table. The group is part of both: other groups are never met.
    fn key(&self, vm: u32, hash: PageHash) -> (u64, u32) {
        let whole = hash.0 ^ u64::from(self.group(vm)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let tag = u32::try_from(whole & u64::from(u32::MAX)).unwrap_or(0);
        (position(tag), tag)
    }
}

/// The table keeps the tag alone, so the position comes from it.
fn position(tag: u32) -> u64 {
    u64::from(tag).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Filter for Same {
    fn name(&self) -> &'static str {
        "same"
    }

    fn by_content(&mut self, batch: &mut Batch, world: &dyn World) -> u64 {
        if !world.stands_still() {
            return 0;
        }
        let mut candidates = Vec::new();
        for at in batch.open() {
            let Some(hash) = batch.hashes[at] else { continue };
            let (position, tag) = self.key(batch.vm, hash);
            let found = self.sent.find(position, |&(known, _)| known == tag).copied();
            let Some((vm, page)) = found.map(|(_, number)| self.numbering.page(number)) else {
                continue;
            };
            // two groups whose tags fell together are none of one another's business
            if self.group(vm) == self.group(batch.vm) {
                candidates.push(Candidate { at, vm, page });
            }
        }
        let mut pages = 0;
        // a copy has its pages in the order of what it is a copy of: they are read together
        for run in candidates.chunk_by(|a, b| (a.at + 1, a.vm, a.page + 1) == (b.at, b.vm, b.page))
        {
            self.other.resize(run.len() * PAGE);
            if !world.content(run[0].vm, run[0].page, &mut self.other) {
                continue;
            }
            for (&Candidate { at, vm, page }, other) in run.iter().zip(self.other.chunks(PAGE)) {
                if other == batch.page(at) {
                    batch.settled[at] = Some(Settled::Same { vm, page });
                    pages += 1;
                }
            }
        }
        // within the batch itself: what an earlier page of it has, which is not in the table yet
        pages + within(batch)
    }

    fn learn(&mut self, batch: &Batch) {
        for at in batch.carried() {
            let Some(hash) = batch.hashes[at] else { continue };
            let page = batch.first + at as u64;
            let Some(number) = self.numbering.number(batch.vm, page) else { return };
            let (position_now, tag) = self.key(batch.vm, hash);
            let entry = self.sent.entry(
                position_now,
                |&(known, _)| known == tag,
                |&(known, _)| position(known),
            );
            entry.or_insert((tag, number));
        }
    }

    /// By itself a VM must show that it is worth it; of a group, the others come later, and find only
    /// what was remembered.
    fn always_on(&self) -> bool {
        let mut groups = self.groups.clone();
        groups.sort_unstable();
        groups.windows(2).any(|pair| pair[0] == pair[1])
    }
}

/// Settles pages that equal an earlier one of their own batch.
fn within(batch: &mut Batch) -> u64 {
    let mut order: Vec<(PageHash, usize)> =
        batch.open().filter_map(|at| Some((batch.hashes[at]?, at))).collect();
    order.sort_unstable_by_key(|&(hash, at)| (hash.0, at));
    let mut pages = 0;
    let mut first = 0;
    for i in 1..order.len() {
        let ((hash, earlier), (this, at)) = (order[first], order[i]);
        if hash == this && batch.page(earlier) == batch.page(at) {
            let page = batch.first + earlier as u64;
            batch.settled[at] = Some(Settled::Same { vm: batch.vm, page });
            pages += 1;
        } else {
            first = i;
        }
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::super::worlds::{Made, read};
    use super::*;

    fn world(pages: &[((u32, u64), u8)]) -> Made {
        let content = pages.iter().map(|&(page, byte)| (page, vec![byte; PAGE])).collect();
        Made { content, ..Made::default() }
    }

    #[test]
    fn equal_content_is_settled_within_a_group_and_never_across() {
        let world = world(&[((0, 0), 1), ((0, 1), 2)]);
        for (groups, settled) in [(vec![0, 0], 1), (vec![0, 1], 0)] {
            let mut filter = Same::new(&[4, 4], groups);
            filter.learn(&read(0, 0, &[vec![1; PAGE], vec![2; PAGE]]));
            let mut batch = read(1, 0, &[vec![2; PAGE], vec![3; PAGE], vec![0; PAGE]]);
            assert_eq!(filter.by_content(&mut batch, &world), settled);
            let same = (settled == 1).then_some(Settled::Same { vm: 0, page: 1 });
            assert_eq!(batch.settled, [same, None, None]);
        }
    }

    #[test]
    fn an_equal_hash_with_other_content_stays_apart() {
        let mut filter = Same::new(&[4], vec![0]);
        filter.learn(&read(0, 0, &[vec![1; PAGE]]));
        let mut batch = read(0, 2, &[vec![9; PAGE], vec![8; PAGE]]);
        batch.hashes = vec![read(0, 0, &[vec![1; PAGE]]).hashes[0]; 2];
        assert_eq!(filter.by_content(&mut batch, &world(&[((0, 0), 1)])), 0);
    }

    #[test]
    fn pages_of_one_batch_are_compared_with_one_another() {
        let mut filter = Same::new(&[4], vec![0]);
        let mut batch = read(0, 0, &[vec![5; PAGE], vec![6; PAGE], vec![5; PAGE], vec![5; PAGE]]);
        assert_eq!(filter.by_content(&mut batch, &Made::default()), 2);
        let same = Some(Settled::Same { vm: 0, page: 0 });
        assert_eq!(batch.settled, [None, None, same, same]);
    }

    #[test]
    fn memory_that_moves_is_not_compared() {
        let mut filter = Same::new(&[4], vec![0]);
        filter.learn(&read(0, 0, &[vec![1; PAGE]]));
        let moving = Made { moves: true, ..world(&[((0, 0), 1)]) };
        assert_eq!(filter.by_content(&mut read(0, 2, &[vec![1; PAGE]]), &moving), 0);
    }
}
