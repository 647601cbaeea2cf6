//! What has arrived: the memories that streams fill, page by page, and what each is a reference to.
//!
//! Several streams can fill one ledger. It numbers the *slots* of the store (a slot is a page of the
//! pool, in which each distinct page stands once), knows the hash of what each slot holds, and
//! keeps the sum of each memory up to date. It is pure: whoever holds the bytes writes them to the
//! slots that are given out here, and says so afterwards with [`Ledger::landed`].
//!
//! A reference may arrive before its page, if that comes in another stream (Eswaran 2024, §5.5.3:
//! there the receiver waits busily). Here it stands in the table of places like any other place, as
//! `Local`: page so and so of that VM. It is settled when the VM that has it is asked whether it is
//! whole. So what waits costs no more than what has come.

use crate::base::digest::{Hashing, MemoryDigest, PageHash};
use crate::base::places::Run;
use crate::base::{Place, Places};
use std::collections::HashMap;

/// Number of a memory in a ledger.
pub type VmId = usize;

/// What streams say together does not fit, or does not fit what exists.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The name is in use.
    #[error("a VM named {0} is there already: send it under another name")]
    Taken(String),
    /// Larger than is allowed.
    #[error(
        "VM {name} and those before it have {pages} pages of 4 KiB, which is more than --max-ram allows ({most})"
    )]
    TooLarge {
        /// Whose declaration it was.
        name: String,
        /// All pages together.
        pages: u64,
        /// The limit.
        most: u64,
    },
    /// Pages that the VM does not have.
    #[error("the stream names pages {page} to {end} of VM {name}, which has {pages}")]
    Beyond {
        /// The VM.
        name: String,
        /// First page named.
        page: u64,
        /// The page after the last one named.
        end: u64,
        /// Its pages.
        pages: u64,
    },
    /// A page came twice.
    #[error("page {page} of VM {name} came twice")]
    Twice {
        /// The VM.
        name: String,
        /// The page.
        page: u64,
    },
    /// A page was never sent.
    #[error("page {page} of VM {name} never came")]
    Missing {
        /// The VM.
        name: String,
        /// The page.
        page: u64,
    },
    /// A reference to a page that is not there.
    #[error("page {page} of VM {name} refers to page {of_page} of VM {of}, which has not come")]
    Dangling {
        /// The VM.
        name: String,
        /// The page.
        page: u64,
        /// What it refers to.
        of: String,
        /// Which page of it.
        of_page: u64,
    },
    /// The stream that should have brought the page failed or ended.
    #[error("page {of_page} of VM {of} never arrived, and page {page} of VM {name} refers to it")]
    NeverArrived {
        /// The VM.
        name: String,
        /// The page.
        page: u64,
        /// What it refers to.
        of: String,
        /// Which page of it.
        of_page: u64,
    },
    /// A foreign VM of another shape.
    #[error("VM {0} is not the one that the stream refers to: it has other blocks")]
    OtherShape(String),
    /// A page of a template beyond its end.
    #[error("the stream names page {page} of a template of {pages} pages")]
    BeyondTemplate {
        /// The page.
        page: u64,
        /// Its pages.
        pages: u64,
    },
    /// The digest is another.
    #[error(
        "the memory of VM {name} is not what was sent: its digest is {found}, and should be {wanted}"
    )]
    Digest {
        /// The VM.
        name: String,
        /// Of what arrived.
        found: MemoryDigest,
        /// Of what was sent.
        wanted: MemoryDigest,
    },
}

#[derive(Debug)]
struct Vm {
    name: String,
    blocks: Vec<(String, u64)>,
    places: Places,
    digest: MemoryDigest,
    /// Pages that came in this round, if it is not the first.
    again: Option<Places>,
    /// See [`Ledger::comes_as_it_likes`].
    likes: bool,
    /// It is only referred to until a stream declares it.
    expected: bool,
}

/// The hashes of slots, in pieces, so that growing copies nothing.
#[derive(Debug, Default)]
struct Hashes {
    len: u64,
    pieces: Vec<Box<[u64]>>,
}

const PIECE: u64 = 1 << 16;

impl Hashes {
    fn grow(&mut self, slots: u64) -> u64 {
        let first = self.len;
        self.len += slots;
        while (self.pieces.len() as u64) * PIECE < self.len {
            self.pieces.push(vec![0; usize::try_from(PIECE).unwrap_or(0)].into());
        }
        first
    }

    fn slot(&mut self, slot: u64) -> &mut u64 {
        let (piece, at) = (slot / PIECE, slot % PIECE);
        &mut self.pieces[usize::try_from(piece).unwrap_or(usize::MAX)]
            [usize::try_from(at).unwrap_or(0)]
    }

    fn get(&self, slot: u64) -> PageHash {
        let piece = self.pieces.get(usize::try_from(slot / PIECE).unwrap_or(usize::MAX));
        PageHash(piece.map_or(0, |piece| piece[usize::try_from(slot % PIECE).unwrap_or(0)]))
    }
}

/// A template's hashes: of page *n* the *n*-th; `None` where it is zero.
pub type TemplateHashes = std::sync::Arc<[Option<PageHash>]>;

/// What has arrived.
#[derive(Debug)]
pub struct Ledger {
    hashing: Hashing,
    max_pages: u64,
    pages: u64,
    hashes: Hashes,
    templates: Vec<TemplateHashes>,
    vms: Vec<Option<Vm>>,
    /// Names of those that were given up.
    gone: HashMap<VmId, String>,
    by_name: HashMap<String, VmId>,
}

/// A page that waits, and for which of which VM.
#[derive(Clone, Copy, Debug)]
struct Wait {
    page: u64,
    of: VmId,
    of_page: u64,
}

/// The place of a page that waits for one of another VM.
fn waiting(of: VmId, page: u64) -> Place {
    Place::Local { file: u32::try_from(of).unwrap_or(u32::MAX), page }
}

/// Is a memory whole?
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Readiness {
    /// It is, and has this digest.
    Whole(MemoryDigest),
    /// It waits for a page of another stream.
    Waits {
        /// Its own page that waits.
        page: u64,
        /// The VM.
        of: String,
        /// The page.
        of_page: u64,
    },
}

impl Ledger {
    /// An empty one, over a store that has `slots` slots in use, for memories of at most
    /// `max_pages` pages together.
    pub fn new(hashing: Hashing, slots: u64, max_pages: u64) -> Self {
        let mut hashes = Hashes::default();
        hashes.grow(slots);
        Self {
            hashing,
            max_pages,
            pages: 0,
            hashes,
            templates: Vec::new(),
            vms: Vec::new(),
            gone: HashMap::new(),
            by_name: HashMap::new(),
        }
    }

    /// How pages are hashed.
    pub const fn hashing(&self) -> &Hashing {
        &self.hashing
    }

    /// Adds a template; places name it by the number that is returned.
    pub fn add_template(&mut self, hashes: TemplateHashes) -> u32 {
        self.templates.push(hashes);
        u32::try_from(self.templates.len() - 1).unwrap_or(u32::MAX)
    }

    /// A stream brings a new VM.
    pub fn declare(&mut self, name: &str, blocks: &[(String, u64)]) -> Result<VmId, LedgerError> {
        if let Some(&id) = self.by_name.get(name) {
            let vm = self.vms[id].as_mut().filter(|vm| vm.expected);
            let vm = vm.ok_or_else(|| LedgerError::Taken(name.to_owned()))?;
            if vm.blocks.iter().map(|b| b.1).ne(blocks.iter().map(|b| b.1)) {
                return Err(LedgerError::OtherShape(name.to_owned()));
            }
            blocks.clone_into(&mut vm.blocks);
            vm.expected = false;
            return Ok(id);
        }
        self.insert(name, blocks, false)
    }

    /// A stream refers to a VM that another brings, has brought, or will bring.
    pub fn refer(&mut self, name: &str, blocks: &[(String, u64)]) -> Result<VmId, LedgerError> {
        let Some(&id) = self.by_name.get(name) else { return self.insert(name, blocks, true) };
        let same = self.vm(id).blocks.iter().map(|b| b.1).eq(blocks.iter().map(|b| b.1));
        if same { Ok(id) } else { Err(LedgerError::OtherShape(name.to_owned())) }
    }

    fn insert(
        &mut self,
        name: &str,
        blocks: &[(String, u64)],
        expected: bool,
    ) -> Result<VmId, LedgerError> {
        let pages = blocks.iter().fold(0u64, |all, (_, pages)| all.saturating_add(*pages));
        let all = self.pages.saturating_add(pages);
        if all > self.max_pages {
            let name = name.to_owned();
            return Err(LedgerError::TooLarge { name, pages: all, most: self.max_pages });
        }
        self.pages = all;
        self.vms.push(Some(Vm {
            name: name.to_owned(),
            blocks: blocks.to_vec(),
            places: Places::new(pages),
            digest: MemoryDigest::default(),
            again: None,
            likes: false,
            expected,
        }));
        let id = self.vms.len() - 1;
        self.by_name.insert(name.to_owned(), id);
        Ok(id)
    }

    fn vm(&self, id: VmId) -> &Vm {
        self.vms[id].as_ref().expect("a VM that was given up is not named again")
    }

    fn vm_mut(&mut self, id: VmId) -> &mut Vm {
        self.vms[id].as_mut().expect("a VM that was given up is not named again")
    }

    /// Its name, also where it was given up.
    pub fn name(&self, id: VmId) -> &str {
        self.vms[id]
            .as_ref()
            .map_or_else(|| self.gone.get(&id).map_or("?", String::as_str), |vm| vm.name.as_str())
    }

    /// Its blocks.
    pub fn blocks(&self, id: VmId) -> &[(String, u64)] {
        &self.vm(id).blocks
    }

    /// Where its pages are.
    pub fn places(&self, id: VmId) -> &Places {
        &self.vm(id).places
    }

    /// Pages of this VM can come again.
    pub fn next_round(&mut self, id: VmId) {
        let pages = self.vm(id).places.pages();
        self.vm_mut(id).again = Some(Places::new(pages));
    }

    /// Pages of this VM come as often as they like, and those that never come are unused.
    pub fn comes_as_it_likes(&mut self, id: VmId) {
        self.next_round(id);
        self.vm_mut(id).likes = true;
    }

    /// Says that `pages` pages from `page` on come now.
    pub fn arrive(&mut self, id: VmId, page: u64, pages: u64) -> Result<(), LedgerError> {
        self.within(id, page, pages)?;
        let vm = self.vm_mut(id);
        if vm.likes {
            return Ok(());
        }
        let seen = vm.again.as_ref().unwrap_or(&vm.places);
        if let Some(twice) = seen.first_known(page, pages) {
            return Err(LedgerError::Twice { name: vm.name.clone(), page: twice });
        }
        if let Some(again) = &mut vm.again {
            again.set(page, pages, Place::Zero);
        }
        Ok(())
    }

    fn within(&self, id: VmId, page: u64, pages: u64) -> Result<(), LedgerError> {
        let vm = self.vm(id);
        let end = page.saturating_add(pages);
        if end > vm.places.pages() {
            let (name, pages) = (vm.name.clone(), vm.places.pages());
            return Err(LedgerError::Beyond { name, page, end, pages });
        }
        Ok(())
    }

    /// Gives out `pages` new slots that follow one another; returns the first.
    pub fn slots(&mut self, pages: u64) -> u64 {
        self.hashes.grow(pages)
    }

    /// How many slots were given out, with those that were in use before.
    pub const fn slot_count(&self) -> u64 {
        self.hashes.len
    }

    /// The bytes of these pages are in the slots from `slot` on.
    pub fn landed(&mut self, id: VmId, page: u64, slot: u64, hashes: &[PageHash]) {
        for (i, hash) in (0u64..).zip(hashes) {
            *self.hashes.slot(slot + i) = hash.0;
        }
        self.set(id, page, hashes.len() as u64, Place::Pool { page: slot });
    }

    /// These pages are zero or unused, or on a template from a page on.
    pub fn settle(
        &mut self,
        id: VmId,
        page: u64,
        pages: u64,
        place: Place,
    ) -> Result<(), LedgerError> {
        if let Place::Template { file, page } = place {
            let known = self.templates.get(file as usize).map_or(0, |hashes| hashes.len() as u64);
            if page + pages > known {
                return Err(LedgerError::BeyondTemplate { page: page + pages - 1, pages: known });
            }
        }
        self.set(id, page, pages, place);
        Ok(())
    }

    /// These pages are those of VM `of` from `of_page` on. `may_wait`: they may still come.
    pub fn same(
        &mut self,
        id: VmId,
        page: u64,
        pages: u64,
        (of, of_page): (VmId, u64),
        may_wait: bool,
    ) -> Result<(), LedgerError> {
        if self.vms[of].is_none() {
            // its stream has failed since this one began to refer to it
            return Err(self.never((id, page), self.name(of), of_page));
        }
        self.within(of, of_page, pages)?;
        for i in 0..pages {
            let waits = may_wait && of != id;
            let place = match self.vm(of).places.get(of_page + i) {
                Some(place) if waits || !matches!(place, Place::Local { .. }) => place,
                None if waits => waiting(of, of_page + i),
                // one that waits itself has not come
                _ => {
                    return Err(LedgerError::Dangling {
                        name: self.name(id).to_owned(),
                        page: page + i,
                        of: self.name(of).to_owned(),
                        of_page: of_page + i,
                    });
                }
            };
            self.set(id, page + i, 1, place);
        }
        Ok(())
    }

    /// Puts places in, keeps the sum up to date, and settles what has waited for them.
    fn set(&mut self, id: VmId, page: u64, pages: u64, place: Place) {
        let fresh = self.vm(id).again.is_none();
        let is_zero = matches!(place, Place::Zero | Place::Unused);
        if !(fresh && is_zero) {
            for i in 0..pages {
                let old = if fresh { None } else { self.vm(id).places.get(page + i) };
                let gone = old.and_then(|old| self.term(page + i, old));
                let new = self.term(page + i, place.after(i));
                let digest = &mut self.vm_mut(id).digest;
                gone.into_iter().for_each(|term| digest.remove(term));
                new.into_iter().for_each(|term| digest.add(term));
            }
        }
        self.vm_mut(id).places.set(page, pages, place);
    }

    /// Settles what waits for pages that have come since; returns the first that still waits.
    fn settle_waiting(&mut self, id: VmId) -> Option<Wait> {
        let waits = |run: &Run| matches!(run.place, Some(Place::Local { .. }));
        let runs: Vec<Run> = self.vm(id).places.runs().filter(waits).collect();
        let mut first = None;
        for run in runs {
            for i in 0..run.pages {
                let page = run.page + i;
                let (of, of_page) = match run.place.map(|place| place.after(i)) {
                    Some(Place::Local { file, page }) => (file as VmId, page),
                    _ => continue,
                };
                match self.vms[of].as_ref().and_then(|vm| vm.places.get(of_page)) {
                    // one that waits itself is settled with its own VM
                    Some(Place::Local { .. }) | None => {
                        first = first.or(Some(Wait { page, of, of_page }));
                    }
                    Some(place) => {
                        let term = self.term(page, place);
                        let vm = self.vm_mut(id);
                        term.into_iter().for_each(|term| vm.digest.add(term));
                        vm.places.set(page, 1, place);
                    }
                }
            }
        }
        first
    }

    fn term(&self, page: u64, place: Place) -> Option<u128> {
        Some(self.hashing.term(page, self.hash(place)?))
    }

    /// The hash of what is at a place; `None` where that is zero.
    pub fn hash(&self, place: Place) -> Option<PageHash> {
        match place {
            Place::Pool { page } => Some(self.hashes.get(page)),
            Place::Template { file, page } => {
                let hashes = self.templates.get(file as usize)?;
                *hashes.get(usize::try_from(page).ok()?)?
            }
            Place::Zero | Place::Unused | Place::Local { .. } | Place::Bytes => None,
        }
    }

    /// Is it whole, or what is it waiting for?
    ///
    /// # Errors
    /// Where a page was never sent, or one that it refers to can no longer come.
    pub fn readiness(&mut self, id: VmId) -> Result<Readiness, LedgerError> {
        if self.vm(id).likes {
            let missing = self.vm(id).places.runs().filter(|run| run.place.is_none());
            let missing: Vec<Run> = missing.collect();
            let places = &mut self.vm_mut(id).places;
            missing.iter().for_each(|run| places.set(run.page, run.pages, Place::Unused));
        }
        let vm = self.vm(id);
        if vm.places.missing() > 0 {
            let missing = vm.places.runs().find(|run| run.place.is_none());
            let page = missing.map_or(0, |run| run.page);
            return Err(LedgerError::Missing { name: vm.name.clone(), page });
        }
        match self.settle_waiting(id) {
            None => Ok(Readiness::Whole(self.vm(id).digest)),
            Some(Wait { page, of, of_page }) if self.vms[of].is_none() => {
                Err(self.never((id, page), self.name(of), of_page))
            }
            Some(Wait { page, of, of_page }) => {
                let of = self.name(of).to_owned();
                Ok(Readiness::Waits { page, of, of_page })
            }
        }
    }

    /// The error of a reference whose page can no longer come.
    pub fn never(&self, (id, page): (VmId, u64), of: &str, of_page: u64) -> LedgerError {
        let name = self.name(id).to_owned();
        LedgerError::NeverArrived { name, page, of: of.to_owned(), of_page }
    }

    /// Will a stream bring this VM, as far as is known: is it declared and not given up?
    pub fn is_expected(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|&id| self.vm(id).expected)
    }

    /// A VM whose stream has failed is forgotten. What it brought stays in its slots, for those who
    /// refer to it; what still waits for it will wait in vain.
    pub fn give_up(&mut self, id: VmId) {
        let Some(vm) = self.vms[id].take() else { return };
        self.pages = self.pages.saturating_sub(vm.places.pages());
        self.by_name.remove(&vm.name);
        self.gone.insert(id, vm.name.clone());
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
