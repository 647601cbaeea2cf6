//! Pages of a stream into the ledger and the store.

use super::{ReceiveError, Stream};
use crate::base::digest::{PageHash, is_zero};
use crate::base::{PAGE_SIZE, Place};
use crate::placement::ledger::VmId;
use crate::wire::WireError;
use crate::wire::header::feature;
use crate::wire::pages::{Base, Op, Packing, PageOp, Pages};
use rayon::prelude::*;
use std::io::{Read, Write};

const PAGE: usize = 4096;
/// How often all pages of a VMM's stream may come that is kept: each time takes new slots, which are
/// given back when the herd is opened next.
const MOST_REPEATS: u64 = 8;

/// Buffers that are used again for each record.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) unpacked: Vec<u8>,
    prefixes: Vec<u8>,
    hashes: Vec<PageHash>,
}

/// An operation with what it is about: its first page and its bytes.
pub(super) struct Placed<'a> {
    pub(super) op: PageOp,
    pub(super) page: u64,
    pub(super) payload: &'a [u8],
}

/// Pages that were packed together.
struct Chunk<'a> {
    page: u64,
    pages: u64,
    with: Packing,
    base: Option<Base>,
    payload: &'a [u8],
}

impl<'a> Chunk<'a> {
    fn of(placed: &Placed<'a>) -> Option<Self> {
        let Op::Packed { chunk, with, base, .. } = placed.op.op else { return None };
        Some(Self { page: placed.page, pages: chunk, with, base, payload: placed.payload })
    }
}

impl<R: Read, W: Write> Stream<'_, R, W> {
    pub(super) fn pages(&mut self, pages: &Pages<'_>) -> Result<(), ReceiveError> {
        let vm = self.declared.get(pages.vm as usize).filter(|vm| !vm.shape.foreign);
        let vm = vm.ok_or(WireError::Wrong("pages are of a VM that is not the stream's"))?;
        if vm.digest.is_some() {
            return Err(WireError::Wrong("pages come after their VM was complete").into());
        }
        let (id, name) = (vm.id, vm.shape.name.clone());
        match &self.rules {
            Some(rules) => rules.pages(&pages.ops)?,
            None => super::rules::plain_pages(&pages.ops)?,
        }
        let placed = place(pages);
        let all: u64 = pages.ops.iter().map(|op| op.pages).sum();
        let mut scratch = std::mem::take(&mut self.scratch);
        // packed bytes are unpacked first, side by side, while nothing has changed
        let result = self.unpack(id, &placed, &mut scratch).and_then(|()| {
            if self.relay.is_some() {
                return self.relay(pages.page, &placed, &mut scratch);
            }
            self.site.desk.lock().arrive(id, pages.page, all)?;
            self.apply(id, &name, &placed, &mut scratch)
        });
        self.scratch = scratch;
        self.site.desk.changed();
        result
    }

    fn apply(
        &mut self,
        id: VmId,
        name: &str,
        placed: &[Placed<'_>],
        scratch: &mut Scratch,
    ) -> Result<(), ReceiveError> {
        let mut unpacked = 0;
        for Placed { op, page, payload } in placed {
            let (page, pages) = (*page, op.pages);
            match op.op {
                Op::Zero => self.site.desk.lock().settle(id, page, pages, Place::Zero)?,
                Op::Unused => self.site.desk.lock().settle(id, page, pages, Place::Unused)?,
                Op::Template { template, page: of } => {
                    let file = self.template_file(template)?;
                    let place = Place::Template { file, page: of };
                    self.site.desk.lock().settle(id, page, pages, place)?;
                }
                Op::Pool { member, page: of } => {
                    for i in 0..pages {
                        let place = self.kept.as_ref().and_then(|kept| kept.place(member, of + i));
                        let place = place.ok_or(super::native::NOT_COME)?;
                        self.site.desk.lock().settle(id, page + i, 1, place)?;
                    }
                }
                Op::Skip => {}
                Op::Same { vm, page: of } => self.same(id, page, pages, vm, of)?,
                Op::Bytes => self.bytes(id, name, page, payload, &mut scratch.hashes)?,
                Op::Packed { .. } | Op::More => {
                    let end = unpacked + size(pages);
                    let bytes = &scratch.unpacked[unpacked..end];
                    unpacked = end;
                    self.bytes(id, name, page, bytes, &mut scratch.hashes)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn template_file(&self, template: u32) -> Result<u32, WireError> {
        let known = self.templates.get(template as usize).map(|(number, _)| *number);
        known.ok_or(WireError::Wrong("it names a template that it has not declared"))
    }

    fn same(&self, id: VmId, page: u64, pages: u64, vm: u32, of: u64) -> Result<(), ReceiveError> {
        let other = self.declared.get(vm as usize);
        let other = other.ok_or(WireError::Wrong("it refers to a VM that it has not declared"))?;
        if other.id == id && of < page + pages && page < of + pages {
            return Err(WireError::Wrong("pages refer to themselves").into());
        }
        if other.shape.foreign && self.round > 0 {
            return Err(WireError::Wrong("a later round refers to another stream").into());
        }
        let from = (other.id, of);
        Ok(self.site.desk.lock().same(id, page, pages, from, other.shape.foreign)?)
    }

    /// Pages whose bytes have come: those that are zero are settled as that, the others get slots.
    fn bytes(
        &mut self,
        id: VmId,
        name: &str,
        page: u64,
        bytes: &[u8],
        hashes: &mut Vec<PageHash>,
    ) -> Result<(), ReceiveError> {
        let size = usize::try_from(PAGE_SIZE).unwrap_or(PAGE);
        let pages: Vec<&[u8]> = bytes.chunks(size).collect();
        let mut at = 0;
        while at < pages.len() {
            let zero = is_zero(pages[at]);
            let run = 1 + pages[at + 1..].iter().take_while(|page| is_zero(page) == zero).count();
            let first = page + at as u64;
            if zero {
                self.site.desk.lock().settle(id, first, run as u64, Place::Zero)?;
                self.kept.iter_mut().for_each(|kept| kept.came(None, run as u64));
            } else {
                let hashing = &self.site.hashing;
                hashes.clear();
                hashes.extend(pages[at..at + run].iter().map(|page| hashing.page(page)));
                let slot = self.site.desk.lock().slots(run as u64);
                self.slots += run as u64;
                let pages = self.declared.iter().map(|vm| vm.shape.pages()).sum::<u64>();
                if self.kept.is_some() && self.slots > pages.saturating_mul(MOST_REPEATS) {
                    return Err(ReceiveError::TooOften { times: MOST_REPEATS });
                }
                self.site.store.put(name, first, slot, &bytes[at * size..(at + run) * size])?;
                self.site.desk.lock().landed(id, first, slot, hashes);
                self.kept.iter_mut().for_each(|kept| kept.came(Some(slot), run as u64));
            }
            at += run;
        }
        Ok(())
    }

    fn unpack(
        &self,
        id: VmId,
        placed: &[Placed<'_>],
        scratch: &mut Scratch,
    ) -> Result<(), ReceiveError> {
        let packed: Vec<Chunk<'_>> = placed.iter().filter_map(Chunk::of).collect();
        if packed.is_empty() {
            return Ok(());
        }
        if packed.iter().any(|chunk| chunk.with == Packing::Exec) {
            self.needs(feature::EXEC, "an external filter packed it, and it does not say so")?;
        }
        let all: usize = packed.iter().map(|chunk| size(chunk.pages)).sum();
        scratch.unpacked.resize(all, 0);
        scratch.prefixes.clear();
        let mut prefixes = Vec::new();
        for chunk in &packed {
            let from = scratch.prefixes.len();
            if let Some(base) = chunk.base {
                scratch.prefixes.resize(from + size(chunk.pages), 0);
                self.prefix(id, chunk, base, &mut scratch.prefixes[from..])?;
            }
            prefixes.push(chunk.base.map(|_| from..scratch.prefixes.len()));
        }
        let mut rest = scratch.unpacked.as_mut_slice();
        let mut work = Vec::new();
        for (chunk, prefix) in packed.iter().zip(&prefixes) {
            let (out, after) = rest.split_at_mut(size(chunk.pages));
            rest = after;
            let prefix = prefix.clone().map(|range| &scratch.prefixes[range]);
            work.push((chunk.with, chunk.payload, prefix, out));
        }
        let codecs = &self.site.codecs;
        work.into_par_iter().try_for_each(|(with, payload, prefix, out)| {
            codecs.unpack(with, payload, prefix, out)
        })?;
        Ok(())
    }

    /// The bytes that packed ones are a difference to.
    fn prefix(
        &self,
        id: VmId,
        chunk: &Chunk<'_>,
        base: Base,
        out: &mut [u8],
    ) -> Result<(), ReceiveError> {
        match base {
            Base::Template { template, page } => {
                let file = self.template_file(template)?;
                let template = &self.site.templates[file as usize];
                if page + chunk.pages > template.pages {
                    return Err(
                        WireError::Wrong("a difference is to pages beyond the template").into()
                    );
                }
                template.read(page, out).map_err(ReceiveError::Template)
            }
            Base::Earlier => {
                self.needs(
                    feature::ROUNDS,
                    "it has a difference to an earlier round and no rounds",
                )?;
                for (page, out) in (chunk.page..).zip(out.chunks_mut(PAGE)) {
                    let place = self.site.desk.lock().places(id).get(page);
                    let place = place
                        .ok_or(WireError::Wrong("a difference is to a page that has not come"))?;
                    self.read(place, out)?;
                }
                Ok(())
            }
        }
    }

    /// Copies what is at a place.
    fn read(&self, place: Place, out: &mut [u8]) -> Result<(), ReceiveError> {
        match place {
            Place::Pool { page } => Ok(self.site.store.read(page, out)?),
            Place::Template { file, page } => {
                let template = &self.site.templates[file as usize];
                template.read(page, out).map_err(ReceiveError::Template)
            }
            Place::Zero | Place::Unused => {
                out.fill(0);
                Ok(())
            }
            Place::Local { .. } | Place::Bytes => {
                Err(WireError::Wrong("a difference is to a page that has not come").into())
            }
        }
    }

    /// Reads everything back from where it is kept (`--verify`).
    pub(super) fn read_back(&self) -> Result<(), ReceiveError> {
        let mut bytes = [0; PAGE];
        for vm in self.own() {
            let places = self.site.desk.lock().places(vm.id).clone();
            for run in places.runs() {
                let Some(first) = run.place else { continue };
                for i in 0..run.pages {
                    let place = first.after(i);
                    self.read(place, &mut bytes)?;
                    let hash = (!is_zero(&bytes)).then(|| self.site.hashing.page(&bytes));
                    if hash != self.site.desk.lock().hash(place) {
                        let (name, page) = (vm.shape.name.clone(), run.page + i);
                        return Err(ReceiveError::NotKept { name, page });
                    }
                }
            }
        }
        Ok(())
    }
}

pub(super) fn size(pages: u64) -> usize {
    usize::try_from(pages).unwrap_or(0) * PAGE
}

/// Each operation with its first page and its bytes.
fn place<'a>(pages: &Pages<'a>) -> Vec<Placed<'a>> {
    let (mut page, mut rest) = (pages.page, pages.payload);
    let each = pages.ops.iter().map(|&op| {
        let (payload, after) = rest.split_at(usize::try_from(op.payload()).unwrap_or(0));
        let placed = Placed { op, page, payload };
        (page, rest) = (page + op.pages, after);
        placed
    });
    each.collect()
}
