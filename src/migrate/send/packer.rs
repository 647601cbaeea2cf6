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
    seen: u64,
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
    ) -> Self {
        let names: Vec<_> = names.iter().map(|&p| (p, Meter::new(p.name(), false))).collect();
        let samples = vec![None; names.len()];
        Self { codecs, names, samples, templates, link, always, seen: 0 }
    }

    /// What they did.
    pub(super) fn accounts(self) -> Vec<Account> {
        self.names.into_iter().map(|(_, meter)| meter.account).collect()
    }

    /// Packs a parcel, if that pays.
    pub(super) fn pack(&mut self, parcel: &mut Parcel) -> Result<(), SendError> {
        let bytes: usize = parcel.pieces().iter().map(|piece| piece.len()).sum();
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
        let mut positions: Vec<usize> = Vec::new();
        for piece in &parcel.payload {
            if let Piece::Pages(at, pages) = piece {
                positions.extend(*at..at + pages);
            }
        }
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

/// The parcel with its groups packed.
fn rebuild(
    parcel: &mut Parcel,
    with: Packing,
    groups: &[Group],
    packed: impl Iterator<Item = Option<Vec<u8>>>,
) {
    // what becomes of each page that goes as bytes: the group it is in, if that was packed
    let mut fate = vec![None; usize::try_from(parcel.pages()).unwrap_or(0)];
    let mut payload = Vec::new();
    let mut lengths = Vec::new();
    for (index, (group, out)) in groups.iter().zip(packed).enumerate() {
        lengths.push(out.as_ref().map(Vec::len));
        match out {
            Some(bytes) => {
                group.pages.iter().for_each(|&at| fate[at] = Some(index));
                payload.push(Piece::Packed(bytes));
            }
            None => payload.extend(
                group.pages.chunk_by(|a, b| a + 1 == *b).map(|run| Piece::Pages(run[0], run.len())),
            ),
        }
    }
    let mut ops: Vec<PageOp> = Vec::new();
    let (mut at, mut begun) = (0usize, None);
    for op in &parcel.ops {
        let pages = usize::try_from(op.pages).unwrap_or(0);
        if op.op != Op::Bytes {
            ops.push(*op);
            at += pages;
            continue;
        }
        for run in (at..at + pages).collect::<Vec<_>>().chunk_by(|&a, &b| fate[a] == fate[b]) {
            let pages = run.len() as u64;
            let op = match fate[run[0]] {
                None => Op::Bytes,
                Some(group) if begun == Some(group) => Op::More,
                Some(group) => {
                    begun = Some(group);
                    Op::Packed {
                        chunk: groups[group].pages.len() as u64,
                        with,
                        length: lengths[group].and_then(|l| u32::try_from(l).ok()).unwrap_or(0),
                        base: groups[group].base,
                    }
                }
            };
            ops.push(PageOp { pages, op });
        }
        at += pages;
    }
    (parcel.ops, parcel.payload) = (ops, payload);
}
