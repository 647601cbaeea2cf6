//! `same`, where memory cannot be looked at again: pages that the far end keeps in its pool, known by
//! a keyed digest of 128 bits.
//!
//! A VMM's stream shows each page once. What [`super::same`] does, looking at the page that was sent
//! and comparing the bytes, cannot be done here, so the digest decides: BLAKE3 with a key that never
//! leaves the host, 128 bits of it. Whoever does not have the key cannot make two pages that have one
//! digest, and chance needs 2^64 pages for it.
//!
//! Pages are known by whose they are and a number: the *n*-th page that this member of the pool had
//! the far end keep. So the members of a group need not agree on numbers.

use super::{Batch, Settled};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::collections::HashSet;

/// A digest of a page.
pub type PageDigest = [u8; 16];

/// The pages that the far end keeps, as far as is known here: 24 bytes each, and a table.
#[derive(Debug)]
pub struct Known {
    key: [u8; 32],
    own: u32,
    /// Pages of our own that are kept.
    pages: u64,
    table: HashTable<Page>,
    gone: HashSet<u32>,
    /// Digests of what the last batch had kept, in order.
    fresh: Vec<PageDigest>,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    digest: PageDigest,
    member: u16,
    /// 48 bits: more pages than a stream can have.
    low: u32,
    high: u16,
}

impl Page {
    fn new(digest: PageDigest, member: u32, page: u64) -> Option<Self> {
        let low = u32::try_from(page & u64::from(u32::MAX)).ok()?;
        let high = u16::try_from(page >> 32).ok()?;
        Some(Self { digest, member: u16::try_from(member).ok()?, low, high })
    }

    fn settled(&self) -> Settled {
        let page = u64::from(self.high) << 32 | u64::from(self.low);
        Settled::Pool { member: u32::from(self.member), page }
    }
}

fn position(digest: &PageDigest) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}

impl Known {
    /// For member `own` of a pool, with its key.
    pub fn new(key: [u8; 32], own: u32) -> Self {
        let (table, gone, fresh) = (HashTable::new(), HashSet::new(), Vec::new());
        Self { key, own, pages: 0, table, gone, fresh }
    }

    /// The digest of a page.
    pub fn digest(&self, page: &[u8]) -> PageDigest {
        let mut digest = [0; 16];
        digest.copy_from_slice(&blake3::keyed_hash(&self.key, page).as_bytes()[..16]);
        digest
    }

    /// Another member has had these kept, from its page `first` on.
    pub fn learn(&mut self, member: u32, first: u64, digests: &[PageDigest]) {
        for (page, digest) in (first..).zip(digests) {
            self.insert(*digest, member, page);
        }
    }

    /// A member has given up: its pages are not there.
    pub fn forget(&mut self, member: u32) {
        self.gone.insert(member);
    }

    fn insert(&mut self, digest: PageDigest, member: u32, page: u64) {
        let Some(new) = Page::new(digest, member, page) else { return };
        let gone = &self.gone;
        let entry = self.table.entry(
            position(&digest),
            |known| known.digest == digest,
            |known| position(&known.digest),
        );
        match entry {
            Entry::Occupied(mut known) if gone.contains(&u32::from(known.get().member)) => {
                *known.get_mut() = new;
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(free) => drop(free.insert(new)),
        }
    }

    fn find(&self, digest: &PageDigest) -> Option<Settled> {
        let known = self.table.find(position(digest), |known| known.digest == *digest)?;
        (!self.gone.contains(&u32::from(known.member))).then(|| known.settled())
    }

    /// Settles the pages of a batch that are kept, by their digests (`None`: not to be looked at).
    /// With `keep`, those that are left are kept from now on, so that they must go as bytes, in this
    /// order. Returns how many it settled.
    pub fn settle(&mut self, batch: &mut Batch, digests: &[Option<PageDigest>], keep: bool) -> u64 {
        self.fresh.clear();
        let mut pages = 0;
        for (at, digest) in digests.iter().enumerate() {
            let Some(digest) = digest.filter(|_| batch.settled[at].is_none()) else { continue };
            if let Some(known) = self.find(&digest) {
                batch.settled[at] = Some(known);
                pages += 1;
            } else if keep {
                self.insert(digest, self.own, self.pages);
                self.pages += 1;
                self.fresh.push(digest);
            }
        }
        pages
    }

    /// What the last batch had kept.
    pub fn fresh(&self) -> &[PageDigest] {
        &self.fresh
    }
}

#[cfg(test)]
mod tests {
    use super::super::PAGE;
    use super::super::worlds::read;
    use super::*;

    fn digests(known: &Known, batch: &Batch) -> Vec<Option<PageDigest>> {
        (0..batch.len()).map(|at| Some(known.digest(batch.page(at)))).collect()
    }

    #[test]
    fn pages_are_known_by_whose_they_are_and_in_which_order_they_went() {
        let mut known = Known::new([1; 32], 3);
        let mut batch = read(0, 0, &[vec![1; PAGE], vec![2; PAGE], vec![1; PAGE]]);
        let all = digests(&known, &batch);
        assert_eq!(known.settle(&mut batch, &all, true), 1);
        let at = |member, page| Some(Settled::Pool { member, page });
        assert_eq!(batch.settled, [None, None, at(3, 0)]);
        assert_eq!(known.fresh().len(), 2);
        // another's, and one that nobody has; not kept this time
        let other = known.digest(&[9; PAGE]);
        known.learn(5, 70, &[other]);
        let mut batch = read(0, 8, &[vec![9; PAGE], vec![2; PAGE], vec![4; PAGE]]);
        let all = digests(&known, &batch);
        assert_eq!(known.settle(&mut batch, &all, false), 2);
        assert_eq!(batch.settled, [at(5, 70), at(3, 1), None]);
        assert!(known.fresh().is_empty());
    }

    #[test]
    fn pages_of_a_member_that_gave_up_are_not_named_any_more() {
        let mut known = Known::new([1; 32], 0);
        let digest = known.digest(&[9; PAGE]);
        known.learn(5, 0, &[digest]);
        known.forget(5);
        let mut batch = read(0, 0, &[vec![9; PAGE], vec![9; PAGE]]);
        assert_eq!(known.settle(&mut batch, &[Some(digest), Some(digest)], true), 1);
        assert_eq!(batch.settled, [None, Some(Settled::Pool { member: 0, page: 0 })]);
    }

    #[test]
    fn another_key_makes_other_digests() {
        let page = [7; PAGE];
        assert_ne!(Known::new([1; 32], 0).digest(&page), Known::new([2; 32], 0).digest(&page));
    }
}
