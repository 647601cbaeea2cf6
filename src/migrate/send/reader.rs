//! What a sender does first: reads facts, asks the filters, reads what they leave open.

use super::ask::Asker;
use super::parcel::Parcel;
use super::{Link, SendError, SendVm, VmDone};
use crate::base::buffer::Buffer;
use crate::base::digest::{Hashing, MemoryDigest, PageHash, is_zero};
use crate::base::fact::Fact;
use crate::filter::bill::Account;
use crate::filter::{Batch, Filter, PAGE, Settled, World};
use crate::migrate::templates::KnownTemplate;
use crate::source::feed::Feed;

/// Pages of a batch: what one frame holds.
pub(super) const BATCH: usize = 256;

/// Settled pages between two that are read, over which one read goes on: a page more costs 0.4 us,
/// another call 0.8.
const MOST_GAP: usize = 2;

/// What filters may look up: the memories, and the templates.
#[derive(Debug)]
pub(super) struct Sight<'a> {
    pub(super) vms: &'a [SendVm<'a>],
    pub(super) templates: &'a [KnownTemplate],
    pub(super) still: bool,
}

impl World for Sight<'_> {
    fn facts(&self, vm: u32, page: u64, out: &mut [Fact]) -> bool {
        self.vms.get(vm as usize).is_some_and(|vm| vm.feed.facts(page, out).is_ok())
    }

    fn content(&self, vm: u32, page: u64, out: &mut [u8]) -> bool {
        let Some(vm) = self.vms.get(vm as usize) else { return false };
        let mut facts = vec![Fact::Unknown; out.len() / PAGE];
        vm.feed.facts(page, &mut facts).is_ok() && vm.feed.read(page, &facts, out).is_ok()
    }

    fn template(&self, template: u32, page: u64, out: &mut [u8]) -> bool {
        self.templates.get(template as usize).is_some_and(|t| t.read(page, out).is_ok())
    }

    fn mapped_template(&self, vm: u32, page: u64) -> Option<(u32, u64)> {
        let (file, page) = self.vms.get(vm as usize)?.feed.file(page)?;
        let is = |t: &KnownTemplate| (t.device, t.inode) == (file.device, file.inode);
        let number = self.templates.iter().position(is)?;
        Some((u32::try_from(number).ok()?, page))
    }

    fn stands_still(&self) -> bool {
        self.still
    }
}

/// Reads memories, batch by batch.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    sight: Sight<'a>,
    asker: Asker<'a>,
    hashing: &'a Hashing,
    batch: Batch,
    is_last: bool,
}

/// What was sent of one memory: the hash of each page, eight bytes a page.
#[derive(Debug, Default)]
pub(super) struct SentHashes(Vec<u64>);

impl SentHashes {
    pub(super) fn new(pages: u64) -> Self {
        Self(vec![0; usize::try_from(pages).unwrap_or(0)])
    }

    fn note(&mut self, first: u64, hashes: &[Option<PageHash>]) {
        let at = usize::try_from(first).unwrap_or(usize::MAX);
        for (slot, hash) in self.0[at..].iter_mut().zip(hashes) {
            *slot = hash.map_or(0, |hash| hash.0);
        }
    }

    /// Is this what was sent? A zero page has no hash, and is 0 here.
    fn is(&self, page: u64, hash: Option<PageHash>) -> bool {
        let sent = usize::try_from(page).ok().and_then(|page| self.0.get(page));
        sent == Some(&hash.map_or(0, |hash| hash.0))
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        sight: Sight<'a>,
        filters: Vec<Box<dyn Filter>>,
        hashing: &'a Hashing,
        link: &'a Link,
        keep_on: bool,
    ) -> Self {
        let asker = Asker::new(filters, link, keep_on);
        Self { sight, asker, hashing, batch: Batch::default(), is_last: false }
    }

    /// What the filters did.
    pub(super) fn accounts(self) -> Vec<Account> {
        self.asker.accounts()
    }

    /// Shows the filters that learn from facts what another sender sends.
    pub(super) fn learn_foreign(&mut self, vm: u32) -> Result<(), SendError> {
        let (feed, pages) = self.feed(vm);
        for first in (0..pages).step_by(BATCH) {
            let count = count(first, pages);
            self.batch.reset(vm, first, count);
            feed.facts(first, &mut self.batch.facts).map_err(|e| self.failed(vm, first, e))?;
            self.asker.each().for_each(|filter| filter.learn_foreign(&self.batch));
        }
        Ok(())
    }

    /// Begins the last round of memory that ran until now: what was sent is compared with what is
    /// there now, by content. References begin anew, since what they referred to may have changed.
    pub(super) fn last_round(&mut self, filters: Vec<Box<dyn Filter>>) {
        for (filter, fresh) in self.asker.each().zip(filters) {
            *filter = fresh;
        }
        self.is_last = true;
    }

    /// Reads one VM; `out` takes the parcels, and gives buffers back through `spare`. What was sent
    /// of each page is kept in `sent`, if there is a round to come, and compared with in the last.
    pub(super) fn read(
        &mut self,
        vm: u32,
        sent: &mut Option<SentHashes>,
        mut out: impl FnMut(Parcel) -> bool,
        mut spare: impl FnMut() -> Option<Buffer>,
    ) -> Result<VmDone, SendError> {
        let (feed, pages) = self.feed(vm);
        let mut digest = MemoryDigest::default();
        for first in (0..pages).step_by(BATCH) {
            self.batch.content = spare().unwrap_or_default();
            self.batch.reset(vm, first, count(first, pages));
            feed.facts(first, &mut self.batch.facts).map_err(|e| self.failed(vm, first, e))?;
            self.asker.by_facts(&mut self.batch, &self.sight);
            self.content(feed).map_err(|e| self.failed(vm, first, e))?;
            if self.is_last {
                self.inherit();
                self.compare(sent.as_ref());
            }
            self.asker.by_content(&mut self.batch, &self.sight);
            self.inherit();
            if let Some(sent) = sent {
                sent.note(first, &self.batch.hashes);
            }
            self.asker.each().for_each(|filter| filter.learn(&self.batch));
            for (page, hash) in (first..).zip(&self.batch.hashes) {
                hash.iter().for_each(|&hash| digest.add(self.hashing.term(page, hash)));
            }
            let parcels = match self.is_last {
                true => Parcel::changed(&mut self.batch),
                false => vec![Parcel::of(&mut self.batch)],
            };
            if !parcels.into_iter().all(&mut out) {
                return Err(SendError::Stopped);
            }
        }
        if !feed.is_there() {
            return Err(SendError::Gone { name: self.sight.vms[vm as usize].name.clone() });
        }
        Ok(VmDone { vm, digest })
    }

    fn feed(&self, vm: u32) -> (&'a dyn Feed, u64) {
        let vm = &self.sight.vms[vm as usize];
        (vm.feed, vm.pages())
    }

    fn failed(&self, vm: u32, page: u64, source: std::io::Error) -> SendError {
        let vm = &self.sight.vms[vm as usize];
        let name = vm.name.clone();
        match source.kind() {
            std::io::ErrorKind::NotFound => SendError::Gone { name },
            _ if !vm.feed.is_there() => SendError::Gone { name },
            _ => SendError::Read { name, page, source },
        }
    }

    /// Reads the pages that are open, and hashes them: the digest of the memory needs it, whatever
    /// becomes of them.
    fn content(&mut self, feed: &dyn Feed) -> std::io::Result<()> {
        let Batch { first, facts, settled, hashes, content, was_read, .. } = &mut self.batch;
        let mut at = 0;
        while at < facts.len() {
            let open = |i: usize| settled[i].is_none();
            if !open(at) {
                at += 1;
                continue;
            }
            // a few settled pages between are read with the others, which is faster than two calls
            let is_gap = |i: usize| matches!(facts[i], Fact::Frame { .. } | Fact::Unknown);
            let mut end = at + 1;
            let mut next = end;
            while next < facts.len() && next - end <= MOST_GAP && (open(next) || is_gap(next)) {
                next += 1;
                if open(next - 1) {
                    end = next;
                }
            }
            let bytes = &mut content[at * PAGE..end * PAGE];
            feed.read(*first + at as u64, &facts[at..end], bytes)?;
            for (i, page) in (at..end).zip(bytes.chunks(PAGE)) {
                if settled[i].is_some() {
                    continue;
                }
                was_read[i] = true;
                hashes[i] = (!is_zero(page)).then(|| self.hashing.page(page));
            }
            at = end;
        }
        Ok(())
    }

    /// Pages of which the far end has just this content need nothing, in whatever way they were
    /// found out.
    fn compare(&mut self, sent: Option<&SentHashes>) {
        let Some(sent) = sent else { return };
        let Batch { first, settled, hashes, .. } = &mut self.batch;
        for (at, (settled, hash)) in settled.iter_mut().zip(hashes.iter()).enumerate() {
            if sent.is(*first + at as u64, *hash) {
                *settled = Some(Settled::Unchanged);
            }
        }
    }

    /// Pages that were settled as an earlier page of their own batch before that was read have its
    /// hash.
    fn inherit(&mut self) {
        let batch = &mut self.batch;
        for at in 0..batch.len() {
            if let Some(Settled::Same { vm, page }) = batch.settled[at]
                && vm == batch.vm
                && page >= batch.first
            {
                let earlier = usize::try_from(page - batch.first).unwrap_or(usize::MAX);
                batch.hashes[at] = batch.hashes.get(earlier).copied().flatten();
            }
        }
    }
}

fn count(first: u64, pages: u64) -> usize {
    usize::try_from(pages - first).unwrap_or(BATCH).min(BATCH)
}
