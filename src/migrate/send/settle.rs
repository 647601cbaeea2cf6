//! Pages of a VMM's stream: hashed, shown to the filters, packed.

use super::ask::{Asker, timed};
use super::native::{Work, parcel_of};
use super::packer::Packer;
use super::reader::Sight;
use super::{Item, Link, Options, Out, SendError, VmDone, packings};
use crate::base::digest::{MemoryDigest, PageHash, is_zero};
use crate::filter::bill::{Account, Meter};
use crate::filter::chain::Name;
use crate::filter::known::{Known, PageDigest};
use crate::filter::{Batch, Filter, PAGE, Settled, template::Template};
use crate::store::group::{News, SentGroup};
use rayon::prelude::*;
use std::time::Instant;

/// The hash of a page that has not come.
const NOT_COME: u64 = 0;

/// Settles pages as they come.
pub(super) struct Settler<'a> {
    options: &'a Options,
    link: &'a Link,
    group: Option<&'a mut SentGroup>,
    asker: Asker<'a>,
    packer: Packer<'a>,
    known: Option<(Known, Meter)>,
    zero: Account,
    sight: Sight<'a>,
    /// Of each page as it was sent last; zero pages, and those that have not come, are 0.
    hashes: Vec<u64>,
    /// Pages that have come: a bit each.
    come: Vec<u64>,
    digest: MemoryDigest,
    keeps: bool,
}

impl<'a> Settler<'a> {
    pub(super) fn new(
        options: &'a Options,
        link: &'a Link,
        group: Option<&'a mut SentGroup>,
        pages: u64,
        news: Vec<News>,
    ) -> Self {
        let chain = &options.chain;
        let mut filters: Vec<Box<dyn Filter>> = Vec::new();
        let hashes = options.templates.iter().map(|t| t.hashes.clone()).collect();
        if chain.has(&Name::Template) && !options.templates.is_empty() {
            filters.push(Box::new(Template::new(hashes, options.verify)));
        }
        let keep = options.keep_filters;
        let prefixes = if chain.has(&Name::Template) { options.templates.as_slice() } else { &[] };
        let packer = Packer::new(&options.codecs, &packings(chain), prefixes, link, keep, None);
        let known = chain.has(&Name::Same).then(|| {
            let (key, own) = match &group {
                Some(group) => (group.key(), group.member()),
                None => (options.secret, 0),
            };
            // in a group a page that is of no use here is of use to the others
            let mut known = Known::new(key, own);
            news.into_iter().for_each(|news| learn(&mut known, news));
            (known, Meter::new("same", keep || group.is_some()))
        });
        let pages = usize::try_from(pages).unwrap_or(0);
        Self {
            options,
            link,
            group,
            asker: Asker::new(filters, link, keep),
            packer,
            known,
            zero: Account { filter: "zero".to_owned(), ..Account::default() },
            sight: Sight { vms: &[], templates: &options.templates, still: true },
            hashes: vec![NOT_COME; pages],
            come: vec![0; pages.div_ceil(64)],
            digest: MemoryDigest::default(),
            keeps: false,
        }
    }

    pub(super) fn run(
        mut self,
        work: impl Iterator<Item = Work>,
        out: &dyn Out,
    ) -> Result<Vec<Account>, SendError> {
        let put = |item| if out.put(item) { Ok(()) } else { Err(SendError::Stopped) };
        for work in work {
            match work {
                Work::Batch(batch) => self.batch(batch, out)?,
                Work::Item(item) => put(item)?,
                Work::Done => {
                    put(Item::Done(VmDone { vm: 0, digest: self.digest }))?;
                    let known = self.known.map(|(_, meter)| meter.account);
                    let zero = Some(self.zero).filter(|zero| zero.looked_at > 0);
                    let accounts = zero.into_iter().chain(self.asker.accounts());
                    return Ok(accounts.chain(known).chain(self.packer.accounts()).collect());
                }
            }
        }
        Err(SendError::Stopped)
    }

    fn batch(&mut self, mut batch: Batch, out: &dyn Out) -> Result<(), SendError> {
        self.hash(&mut batch);
        self.asker.by_content(&mut batch, &self.sight);
        let kept = self.same(&mut batch)?;
        let keeps = !kept.is_empty();
        self.sum(&batch);
        if keeps != self.keeps && batch.open().next().is_some() {
            self.keeps = keeps;
            if !out.put(Item::Keep(keeps)) {
                return Err(SendError::Stopped);
            }
        }
        let mut parcel = parcel_of(&mut batch);
        self.packer.pack(&mut parcel)?;
        if !out.put(Item::Parcel(parcel)) {
            return Err(SendError::Stopped);
        }
        // only now: others may name these pages, which are on their way before what names them
        if let Some(group) = self.group.as_deref_mut().filter(|_| keeps) {
            // what cannot be said is not named by others, and that is all
            let _ = group.kept(&kept);
        }
        Ok(())
    }

    fn hash(&mut self, batch: &mut Batch) {
        let start = Instant::now();
        let hashing = &self.options.hashing;
        let (mut seen, mut zero) = (0, 0);
        for at in 0..batch.len() {
            match batch.settled[at] {
                Some(Settled::Zero) => (seen, zero) = (seen + 1, zero + 1),
                None => {
                    seen += 1;
                    let page = &batch.content[at * PAGE..(at + 1) * PAGE];
                    if is_zero(page) {
                        batch.settled[at] = Some(Settled::Zero);
                        zero += 1;
                    } else {
                        batch.hashes[at] = Some(hashing.page(page));
                    }
                }
                _ => {}
            }
        }
        self.zero.looked_at += seen;
        self.zero.pages += zero;
        self.zero.saved_bytes += zero * PAGE as u64;
        self.zero.nanos += u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    }

    /// Looks for pages that the far end keeps; returns the digests of those that it is to keep.
    fn same(&mut self, batch: &mut Batch) -> Result<Vec<PageDigest>, SendError> {
        let first_time = batch.open().all(|at| !self.has_come(batch.first + at as u64));
        let Some((known, meter)) = &mut self.known else { return Ok(Vec::new()) };
        if let Some(group) = &mut self.group {
            news(group, |news| learn(known, news))?;
        }
        let mut kept = Vec::new();
        timed(meter, self.link, batch, true, |batch| {
            let open: Vec<usize> = batch.open().collect();
            let pages: Vec<PageDigest> =
                open.par_iter().map(|&at| known.digest(batch.page(at))).collect();
            let mut digests = vec![None; batch.len()];
            open.iter().zip(pages).for_each(|(&at, digest)| digests[at] = Some(digest));
            // a page that comes again is likely to come once more: it is not kept
            let settled = known.settle(batch, &digests, first_time);
            kept = known.fresh().to_vec();
            settled
        });
        Ok(kept)
    }

    fn has_come(&self, page: u64) -> bool {
        let at = usize::try_from(page).unwrap_or(usize::MAX);
        self.come.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    fn sum(&mut self, batch: &Batch) {
        let hashing = &self.options.hashing;
        for at in 0..batch.len() {
            if batch.settled[at] == Some(Settled::Unchanged) {
                continue;
            }
            let page = batch.first + at as u64;
            let slot = usize::try_from(page).unwrap_or(usize::MAX);
            let Some(old) = self.hashes.get_mut(slot) else { continue };
            let new = batch.hashes[at].map_or(0, |hash| hash.0);
            for (hash, add) in [(*old, false), (new, true)] {
                let term = (hash != 0).then(|| hashing.term(page, PageHash(hash)));
                match (term, add) {
                    (Some(term), true) => self.digest.add(term),
                    (Some(term), false) => self.digest.remove(term),
                    (None, _) => {}
                }
            }
            *old = new;
            self.come[slot / 64] |= 1 << (slot % 64);
        }
    }
}

/// All that the others of the group have sent since it was asked last.
pub(super) fn news(group: &mut SentGroup, mut take: impl FnMut(News)) -> Result<(), SendError> {
    loop {
        let news = group.news().map_err(SendError::Group)?;
        let is_last = news.kept.is_empty();
        take(news);
        if is_last {
            return Ok(());
        }
    }
}

fn learn(known: &mut Known, news: News) {
    news.gone.iter().for_each(|&member| known.forget(member));
    for kept in news.kept {
        known.learn(kept.member, kept.first, &kept.digests);
    }
}
