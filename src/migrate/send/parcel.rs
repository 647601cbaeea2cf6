//! What travels through a sender: pages with what becomes of each.

use crate::base::buffer::Buffer;
use crate::filter::{Batch, PAGE, Settled};
use crate::wire::pages::{Op, PageOp};
use std::ops::Range;

/// Pages on their way out.
#[derive(Debug, Default)]
pub(super) struct Parcel {
    /// The VM's number in the stream.
    pub(super) vm: u32,
    /// The first page.
    pub(super) first: u64,
    /// What becomes of them.
    pub(super) ops: Vec<PageOp>,
    /// The content of all of them; of those that go as bytes it is right.
    pub(super) content: Buffer,
    /// What the operations use, in order.
    pub(super) payload: Vec<Piece>,
}

/// A part of a payload.
#[derive(Debug)]
pub(super) enum Piece {
    /// Pages of the content, from one on, so many.
    Pages(usize, usize),
    /// Packed bytes.
    Packed(Vec<u8>),
}

impl Piece {
    pub(super) const fn is_packed(&self) -> bool {
        matches!(self, Self::Packed(_))
    }
}

impl Parcel {
    /// Of a batch that every filter has seen; takes its content.
    pub(super) fn of(batch: &mut Batch) -> Self {
        let mut ops = Vec::new();
        let mut payload = Vec::new();
        for at in 0..batch.len() {
            let Some(op) = op_of(batch.settled[at]) else { break };
            let page = batch.first + at as u64;
            if op == Op::Bytes {
                push_page(&mut payload, at);
            }
            push(&mut ops, batch.vm, page, op);
        }
        let content = std::mem::take(&mut batch.content);
        Self { vm: batch.vm, first: batch.first, ops, content, payload }
    }

    /// Of a batch that says nothing of some pages; takes its content.
    pub(super) fn with_gaps(batch: &mut Batch) -> Self {
        let mut parcel = Self { vm: batch.vm, first: batch.first, ..Self::default() };
        for at in 0..batch.len() {
            let op = op_of(batch.settled[at]).unwrap_or(Op::Skip);
            if op == Op::Bytes {
                push_page(&mut parcel.payload, at);
            }
            push(&mut parcel.ops, batch.vm, batch.first + at as u64, op);
        }
        parcel.content = std::mem::take(&mut batch.content);
        parcel
    }

    /// The stretches of a batch of a later round that the far end does not have as they are.
    pub(super) fn changed(batch: &mut Batch) -> Vec<Self> {
        let is_same = |at: &usize| batch.settled[*at] == Some(Settled::Unchanged);
        let changed: Vec<usize> = (0..batch.len()).filter(|at| !is_same(at)).collect();
        let mut parcels = Vec::new();
        for run in changed.chunk_by(|a, b| a + 1 == *b) {
            let (from, to) = (run[0], run[0] + run.len());
            let mut part =
                Batch { vm: batch.vm, first: batch.first + from as u64, ..Batch::default() };
            part.settled = batch.settled[from..to].to_vec();
            part.facts = batch.facts[from..to].to_vec();
            part.content = Buffer::from(&batch.content[from * PAGE..to * PAGE]);
            parcels.push(Self::of(&mut part));
        }
        parcels
    }

    /// How many pages.
    pub(super) fn pages(&self) -> u64 {
        self.ops.iter().map(|op| op.pages).sum()
    }

    /// Positions of the pages that go as bytes and are not packed.
    pub(super) fn positions(&self) -> Vec<usize> {
        let pages = |piece: &Piece| match piece {
            Piece::Pages(at, pages) => *at..at + pages,
            Piece::Packed(_) => 0..0,
        };
        self.payload.iter().flat_map(pages).collect()
    }

    /// Bytes that are not packed.
    pub(super) fn open_bytes(&self) -> usize {
        self.positions().len() * PAGE
    }

    /// Where the pages of the payload lie in the content.
    pub(super) fn parts(&self) -> Vec<Range<usize>> {
        let part = |piece: &Piece| match piece {
            Piece::Pages(at, pages) => Some(at * PAGE..(at + pages) * PAGE),
            Piece::Packed(_) => None,
        };
        self.payload.iter().filter_map(part).collect()
    }

    /// The bytes of the payload, in pieces.
    pub(super) fn pieces(&self) -> Vec<&[u8]> {
        self.payload
            .iter()
            .map(|piece| match piece {
                Piece::Packed(bytes) => bytes.as_slice(),
                Piece::Pages(at, pages) => &self.content[at * PAGE..(at + pages) * PAGE],
            })
            .collect()
    }

    /// Takes in a parcel without payload that follows this one, which has none either; gives it back
    /// where that cannot be.
    pub(super) fn join(&mut self, next: Self, most: usize) -> Result<Buffer, Box<Self>> {
        let fits = self.payload.is_empty()
            && next.payload.is_empty()
            && next.vm == self.vm
            && next.first == self.first + self.pages()
            && self.ops.len() + next.ops.len() <= most;
        if !fits {
            return Err(Box::new(next));
        }
        let mut page = next.first;
        for op in next.ops {
            match self.ops.last_mut().filter(|last| goes_on(last, self.vm, page, &op)) {
                Some(last) => last.pages += op.pages,
                None => self.ops.push(op),
            }
            page += op.pages;
        }
        Ok(next.content)
    }
}

/// `None` for what needs no operation.
const fn op_of(settled: Option<Settled>) -> Option<Op> {
    Some(match settled {
        None => Op::Bytes,
        Some(Settled::Zero) => Op::Zero,
        Some(Settled::Unused) => Op::Unused,
        Some(Settled::Same { vm, page }) => Op::Same { vm, page },
        Some(Settled::Template { template, page }) => Op::Template { template, page },
        Some(Settled::Pool { member, page }) => Op::Pool { member, page },
        Some(Settled::Unchanged) => return None,
    })
}

/// Adds one page to operations.
pub(super) fn push(ops: &mut Vec<PageOp>, vm: u32, page: u64, op: Op) {
    let one = PageOp { pages: 1, op };
    match ops.last_mut().filter(|last| goes_on(last, vm, page, &one)) {
        Some(last) => last.pages += 1,
        None => ops.push(one),
    }
}

fn push_page(payload: &mut Vec<Piece>, at: usize) {
    match payload.last_mut() {
        Some(Piece::Pages(first, pages)) if *first + *pages == at => *pages += 1,
        _ => payload.push(Piece::Pages(at, 1)),
    }
}

/// Is `op`, for the pages from `page` on, what `last` does, gone on with?
fn goes_on(last: &PageOp, vm: u32, page: u64, op: &PageOp) -> bool {
    let alike = match (last.op, op.op) {
        (Op::Zero, Op::Zero) | (Op::Unused, Op::Unused) | (Op::Bytes, Op::Bytes) => true,
        (Op::Same { vm: a, page: from }, Op::Same { vm: b, page }) => {
            a == b && from + last.pages == page
        }
        (Op::Skip, Op::Skip) => true,
        (Op::Pool { member: a, page: from }, Op::Pool { member: b, page })
        | (Op::Template { template: a, page: from }, Op::Template { template: b, page }) => {
            a == b && from + last.pages == page
        }
        _ => false,
    };
    alike && stays_behind(last, vm, page - last.pages, op.pages)
}

/// A reference must not reach into the pages that it settles. `start` is the first of them: with
/// `more` pages added, does it still end before that?
fn stays_behind(last: &PageOp, vm: u32, start: u64, more: u64) -> bool {
    match last.op {
        Op::Same { vm: of, page } if of == vm => page + last.pages + more <= start,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::worlds::read;

    #[test]
    fn runs_become_operations_and_references_never_reach_into_themselves() {
        let mut batch = read(0, 100, &(0..8).map(|i| vec![i; PAGE]).collect::<Vec<_>>());
        let same = |page| Some(Settled::Same { vm: 0, page });
        batch.settled = vec![
            Some(Settled::Zero),
            Some(Settled::Zero),
            None,
            None,
            same(102),
            same(103),
            same(104), // is page 106: would reach into 104..
            None,
        ];
        let parcel = Parcel::of(&mut batch);
        let pages: Vec<u64> = parcel.ops.iter().map(|op| op.pages).collect();
        assert_eq!(parcel.pages(), 8);
        let mut page = 100;
        for op in &parcel.ops {
            if let Op::Same { page: of, .. } = op.op {
                assert!(of + op.pages <= page, "{:?}", parcel.ops);
            }
            page += op.pages;
        }
        assert_eq!(pages[..3], [2, 2, 2]);
        let bytes: usize = parcel.pieces().iter().map(|piece| piece.len()).sum();
        assert_eq!(bytes, 3 * PAGE);
    }

    #[test]
    fn parcels_without_payload_are_joined() {
        let zero = |first, pages| Parcel {
            first,
            ops: vec![PageOp { pages, op: Op::Zero }],
            ..Parcel::default()
        };
        let mut all = zero(0, 256);
        all.join(zero(256, 256), 100).unwrap();
        assert_eq!(all.ops, [PageOp { pages: 512, op: Op::Zero }]);
        assert!(all.join(zero(1000, 1), 100).is_err());
        let mut other = zero(512, 1);
        other.vm = 1;
        assert!(all.join(other, 100).is_err());
    }
}
