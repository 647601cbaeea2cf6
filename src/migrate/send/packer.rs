//! Packs the bytes of parcels, with the codec that moves them soonest.

use super::parcel::{Parcel, Piece};
use super::{Link, SendError};
use crate::filter::PAGE;
use crate::filter::bill::{Account, Meter, Sample, best};
use crate::filter::codec::{Codec, CodecError};
use crate::migrate::codecs::Codecs;
use crate::migrate::templates::KnownTemplate;
use crate::wire::limits::MAX_PACKED_PAGES;
use crate::wire::pages::{Base, Op, Packing, PageOp};
use rayon::prelude::*;
use std::collections::HashMap;
use std::time::Instant;

/// Pages packed together with pages of a template: more would be beyond the reach of the fast
/// levels (`filter::codec`).
const WITH_TEMPLATE: usize = 16;
/// Parcels between two tries of codecs that are not in use: 64 MiB.
const RETRY: u64 = 64;

/// Packs parcels.
#[derive(Debug)]
pub(super) struct Packer<'a> {
    codecs: &'a Codecs,
    names: Vec<(Packing, Meter)>,
    samples: Vec<Option<Sample>>,
    templates: &'a [KnownTemplate],
    link: &'a Link,
    /// Take the first codec, whatever it costs.
    always: bool,
    /// What was sent, for differences to it in the last round.
    earlier: Option<Earlier>,
    xor: Meter,
    seen: u64,
}

/// Pages as they were sent, as many as memory was given for: a page takes the place of another that
/// falls on the same one.
#[derive(Debug)]
pub(super) struct Earlier {
    slots: Vec<Option<Box<Remembered>>>,
    is_last: bool,
}

#[derive(Debug)]
struct Remembered {
    vm: u32,
    page: u64,
    content: Vec<u8>,
}

impl Earlier {
    /// In `bytes` bytes.
    pub(super) fn new(bytes: u64) -> Self {
        let slots = usize::try_from(bytes / PAGE as u64).unwrap_or(0).max(1);
        Self { slots: (0..slots).map(|_| None).collect(), is_last: false }
    }

    fn slot(&self, vm: u32, page: u64) -> usize {
        let spread = (page ^ u64::from(vm) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        usize::try_from(spread % self.slots.len() as u64).unwrap_or(0)
    }

    fn keep(&mut self, vm: u32, page: u64, content: &[u8]) {
        let slot = self.slot(vm, page);
        match &mut self.slots[slot] {
            Some(old) => {
                (old.vm, old.page) = (vm, page);
                old.content.copy_from_slice(content);
            }
            empty => *empty = Some(Box::new(Remembered { vm, page, content: content.to_vec() })),
        }
    }

    fn get(&self, vm: u32, page: u64) -> Option<&[u8]> {
        let kept = self.slots[self.slot(vm, page)].as_ref()?;
        ((kept.vm, kept.page) == (vm, page)).then_some(kept.content.as_slice())
    }
}

/// Pages that are packed together: their positions in the parcel.
struct Group {
    pages: Vec<usize>,
    base: Option<Base>,
}

impl<'a> Packer<'a> {
    /// With these codecs, in order of preference. `templates` is empty where they are not to be
    /// used as prefixes.
    pub(super) fn new(
        codecs: &'a Codecs,
        names: &[Packing],
        templates: &'a [KnownTemplate],
        link: &'a Link,
        always: bool,
        earlier: Option<Earlier>,
    ) -> Self {
        let xor = Meter::new("xor", true);
        let names: Vec<_> = names.iter().map(|&p| (p, Meter::new(p.name(), false))).collect();
        let samples = vec![None; names.len()];
        Self { codecs, names, samples, templates, link, always, earlier, xor, seen: 0 }
    }

    /// What they did.
    pub(super) fn accounts(self) -> Vec<Account> {
        let xor = self.earlier.is_some().then_some(self.xor.account);
        xor.into_iter().chain(self.names.into_iter().map(|(_, meter)| meter.account)).collect()
    }

    /// Packs a parcel, if that pays.
    pub(super) fn pack(&mut self, parcel: &mut Parcel) -> Result<(), SendError> {
        self.difference(parcel)?;
        let bytes: usize = parcel.open_bytes();
        if self.names.is_empty() || bytes == 0 {
            return Ok(());
        }
        let Some(index) = self.choose() else {
            let pages = (bytes / PAGE) as u64;
            self.names.iter_mut().for_each(|(_, meter)| meter.account.off_pages += pages);
            return Ok(());
        };
        let packing = self.names[index].0;
        let Some(codec) = self.codecs.get(packing) else { return Ok(()) };
        let groups = self.groups(parcel, packing);
        let templates = self.templates;
        let content = &parcel.content;
        let packed: Vec<(Option<Vec<u8>>, u64)> = groups
            .par_iter()
            .map(|group| {
                let start = Instant::now();
                let out = pack_group(codec, group, content, templates)?;
                Ok((out, u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)))
            })
            .collect::<Result<_, CodecError>>()
            .map_err(SendError::Codec)?;
        let nanos: u64 = packed.iter().map(|(_, nanos)| nanos).sum();
        let size = |(group, (out, _)): (&Group, &(Option<Vec<u8>>, u64))| {
            out.as_ref().map_or(group.pages.len() * PAGE, Vec::len)
        };
        let after: usize = groups.iter().zip(&packed).map(size).sum();
        let done = groups.iter().zip(&packed).filter(|(_, (out, _))| out.is_some());
        let pages: usize = done.map(|(group, _)| group.pages.len()).sum();
        let saved = (bytes - after) as u64;
        let meter = &mut self.names[index].1;
        meter.add((bytes / PAGE) as u64, pages as u64, saved, nanos);
        let sample =
            Sample { nanos: nanos as f64 / bytes as f64, ratio: after as f64 / bytes as f64 };
        self.samples[index] = Some(sample.mixed_with(self.samples[index]));
        rebuild(parcel, packing, &groups, packed.into_iter().map(|(out, _)| out));
        Ok(())
    }

    /// From now on pages come again: what was sent of them is what the far end has.
    pub(super) fn last_round(&mut self) {
        self.earlier.iter_mut().for_each(|earlier| earlier.is_last = true);
    }

    /// Remembers what is sent, or sends the difference to what is remembered.
    fn difference(&mut self, parcel: &mut Parcel) -> Result<(), SendError> {
        let Some(earlier) = &mut self.earlier else { return Ok(()) };
        if !earlier.is_last {
            for at in parcel.positions() {
                let content = &parcel.content[at * PAGE..(at + 1) * PAGE];
                earlier.keep(parcel.vm, parcel.first + at as u64, content);
            }
            return Ok(());
        }
        let Some(codec) = self.codecs.get(Packing::Xor) else { return Ok(()) };
        let start = Instant::now();
        let (mut groups, mut packed, mut saved) = (Vec::new(), Vec::new(), 0);
        let positions = parcel.positions();
        for &at in &positions {
            let page = &parcel.content[at * PAGE..(at + 1) * PAGE];
            let before = earlier.get(parcel.vm, parcel.first + at as u64);
            let mut out = Vec::new();
            let smaller = match before {
                Some(before) => {
                    codec.pack(page, Some(before), &mut out).map_err(SendError::Codec)?
                }
                None => false,
            };
            // what is not half as long is better left to a codec
            let out = (smaller && out.len() < PAGE / 2).then_some(out);
            saved += out.as_ref().map_or(0, |out| PAGE - out.len());
            groups.push(Group { pages: vec![at], base: Some(Base::Earlier) });
            packed.push(out);
        }
        let done = packed.iter().filter(|out| out.is_some()).count() as u64;
        rebuild(parcel, Packing::Xor, &groups, packed.into_iter());
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.xor.add(positions.len() as u64, done, saved as u64, nanos);
        Ok(())
    }

    /// The codec for the next parcel. Each is tried once, then the best for the link is taken, if
    /// one is faster than none; now and then all are tried again, since content and link change.
    fn choose(&mut self) -> Option<usize> {
        if self.always {
            return Some(0);
        }
        let turn = self.seen % RETRY;
        self.seen += 1;
        // the link is known after some parcels have gone as they are
        let tried = usize::try_from(turn).ok()?.checked_sub(2);
        match tried.filter(|&i| i < self.names.len()) {
            Some(i) => Some(i),
            None if turn < 2 && self.seen <= 2 => None,
            None => {
                let link = self.link.nanos_a_byte()?;
                best(&self.samples, rayon::current_num_threads(), link)
            }
        }
    }

    fn groups(&self, parcel: &Parcel, packing: Packing) -> Vec<Group> {
        let mut groups = Vec::new();
        let positions = parcel.positions();
        let prefixed = self.templates.first().filter(|_| packing == Packing::Zstd);
        if let Some(template) = prefixed {
            // a prefix is the pages of the same numbers: neighbours only
            for run in positions.chunk_by(|a, b| a + 1 == *b) {
                for pages in run.chunks(WITH_TEMPLATE) {
                    let page = parcel.first + pages[0] as u64;
                    let inside = page + pages.len() as u64 <= template.pages;
                    let base = inside.then_some(Base::Template { template: 0, page });
                    groups.push(Group { pages: pages.to_vec(), base });
                }
            }
            return groups;
        }
        let most = usize::try_from(MAX_PACKED_PAGES).unwrap_or(64);
        groups.extend(positions.chunks(most).map(|p| Group { pages: p.to_vec(), base: None }));
        groups
    }
}

fn pack_group(
    codec: &dyn Codec,
    group: &Group,
    content: &[u8],
    templates: &[KnownTemplate],
) -> Result<Option<Vec<u8>>, CodecError> {
    let joined: Vec<u8>;
    let (first, count) = (group.pages[0], group.pages.len());
    let pages = if group.pages[count - 1] == first + count - 1 {
        &content[first * PAGE..(first + count) * PAGE]
    } else {
        let each = group.pages.iter().map(|&at| &content[at * PAGE..(at + 1) * PAGE]);
        joined = each.collect::<Vec<_>>().concat();
        &joined
    };
    let mut prefix = Vec::new();
    if let Some(Base::Template { template, page }) = group.base {
        prefix.resize(pages.len(), 0);
        // a template that cannot be read any more is noticed at the end: then nothing is a prefix
        if templates[template as usize].read(page, &mut prefix).is_err() {
            return Ok(None);
        }
    }
    let mut out = Vec::with_capacity(pages.len() / 2);
    let prefix = (!prefix.is_empty()).then_some(prefix.as_slice());
    Ok(codec.pack(pages, prefix, &mut out)?.then_some(out))
}

/// The parcel with its groups packed. What was packed before stays as it is.
fn rebuild(
    parcel: &mut Parcel,
    with: Packing,
    groups: &[Group],
    packed: impl Iterator<Item = Option<Vec<u8>>>,
) {
    // of each page that goes as bytes: the group that it is in, if that was packed
    let mut fate: HashMap<usize, usize> = HashMap::new();
    let mut outs: Vec<Option<Vec<u8>>> = packed.collect();
    for (index, (group, out)) in groups.iter().zip(&outs).enumerate() {
        if out.is_some() {
            fate.extend(group.pages.iter().map(|&at| (at, index)));
        }
    }
    let (mut ops, mut payload): (Vec<PageOp>, Vec<Piece>) = (Vec::new(), Vec::new());
    let mut before = std::mem::take(&mut parcel.payload).into_iter().filter(Piece::is_packed);
    let (mut at, mut begun) = (0usize, None);
    for op in std::mem::take(&mut parcel.ops) {
        let pages = usize::try_from(op.pages).unwrap_or(0);
        if op.op != Op::Bytes {
            if matches!(op.op, Op::Packed { .. }) {
                payload.extend(before.next());
            }
            ops.push(op);
            at += pages;
            continue;
        }
        let run: Vec<usize> = (at..at + pages).collect();
        for run in run.chunk_by(|a, b| fate.get(a) == fate.get(b)) {
            let op = match fate.get(&run[0]) {
                None => {
                    payload.push(Piece::Pages(run[0], run.len()));
                    Op::Bytes
                }
                Some(&group) if begun == Some(group) => Op::More,
                Some(&group) => {
                    begun = Some(group);
                    let bytes = outs[group].take().unwrap_or_default();
                    let length = u32::try_from(bytes.len()).unwrap_or(0);
                    payload.push(Piece::Packed(bytes));
                    let Group { pages, base } = &groups[group];
                    Op::Packed { chunk: pages.len() as u64, with, length, base: *base }
                }
            };
            ops.push(PageOp { pages: run.len() as u64, op });
        }
        at += pages;
    }
    (parcel.ops, parcel.payload) = (ops, payload);
}
