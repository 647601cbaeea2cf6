//! The record that carries pages: operations on consecutive pages, then the bytes they use.

use super::limits::{
    FRAME_PAGES, MAX_MEMBERS, MAX_OPS, MAX_PACKED_PAGES, MAX_PAGES, MAX_TEMPLATES, MAX_VMS,
    UNPACKED_PAGES,
};
use super::{WireError, varint};
use crate::base::PAGE_SIZE;
use crate::base::bytes::{Reader, put_varint};

/// What bytes are packed with. Numbers of the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packing {
    /// LZ4 block.
    Lz4 = 1,
    /// Zstandard frame without magic number.
    Zstd = 2,
    /// The external filter's own.
    Exec = 3,
    /// Exclusive or, runs of zeros left out.
    Xor = 4,
}

impl Packing {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Lz4, Self::Zstd, Self::Exec, Self::Xor];

    /// Its name in `--filters` and in the bill.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Exec => "exec",
            Self::Xor => "xor",
        }
    }

    fn from_number(number: u8) -> Result<Self, WireError> {
        let known = Self::ALL.into_iter().find(|p| *p as u8 == number);
        known.ok_or(WireError::Wrong("bytes are packed in a way that is not defined"))
    }
}

/// What packed bytes are a difference to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    /// Pages of a template, from `page` on.
    Template {
        /// Its number in the stream.
        template: u32,
        /// Its first page.
        page: u64,
    },
    /// The same pages as they were sent in an earlier round.
    Earlier,
}

/// What becomes of some consecutive pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// They are zero.
    Zero,
    /// Nobody ever used them; they read as zero.
    Unused,
    /// Their bytes follow.
    Bytes,
    /// They are the pages of a VM from `page` on, which came earlier or, of a foreign VM, come in
    /// another stream.
    Same {
        /// The VM's number in the stream.
        vm: u32,
        /// The first of its pages.
        page: u64,
    },
    /// They are the pages of a template from `page` on.
    Template {
        /// Its number in the stream.
        template: u32,
        /// The first of its pages.
        page: u64,
    },
    /// Their bytes follow, packed together in `length` bytes, with those of the pages of
    /// [`Op::More`] operations behind this one: so that pages need not be neighbours to be packed
    /// together.
    Packed {
        /// Pages that are packed together: these, and those of the `More` behind it.
        chunk: u64,
        /// How.
        with: Packing,
        /// How many bytes.
        length: u32,
        /// To what they are a difference.
        base: Option<Base>,
    },
    /// Their bytes are the next of those that were packed together before.
    More,
    /// They are pages that the receiver keeps in its pool, from `page` on of those of `member`.
    Pool {
        /// Whose.
        member: u32,
        /// The first of them.
        page: u64,
    },
    /// Nothing is said of them here.
    Skip,
}

mod kind {
    pub(super) const ZERO: u8 = 1;
    pub(super) const UNUSED: u8 = 2;
    pub(super) const BYTES: u8 = 3;
    pub(super) const SAME: u8 = 4;
    pub(super) const TEMPLATE: u8 = 5;
    pub(super) const PACKED: u8 = 6;
    pub(super) const DIFFERS_TEMPLATE: u8 = 7;
    pub(super) const DIFFERS_EARLIER: u8 = 8;
    pub(super) const MORE: u8 = 9;
    pub(super) const POOL: u8 = 10;
    pub(super) const SKIP: u8 = 11;
}

/// An operation and how many pages it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageOp {
    /// How many pages.
    pub pages: u64,
    /// What becomes of them.
    pub op: Op,
}

impl PageOp {
    /// Bytes that stand for it after the operations.
    pub const fn payload(&self) -> u64 {
        match self.op {
            Op::Bytes => self.pages * PAGE_SIZE,
            Op::Packed { length, .. } => length as u64,
            Op::Zero
            | Op::Unused
            | Op::Same { .. }
            | Op::Template { .. }
            | Op::More
            | Op::Pool { .. }
            | Op::Skip => 0,
        }
    }

    /// Do its pages come as bytes?
    pub const fn has_bytes(&self) -> bool {
        matches!(self.op, Op::Bytes | Op::Packed { .. } | Op::More)
    }

    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(match self.op {
            Op::Zero => kind::ZERO,
            Op::Unused => kind::UNUSED,
            Op::Bytes => kind::BYTES,
            Op::Same { .. } => kind::SAME,
            Op::Template { .. } => kind::TEMPLATE,
            Op::Packed { base: None, .. } => kind::PACKED,
            Op::Packed { base: Some(Base::Template { .. }), .. } => kind::DIFFERS_TEMPLATE,
            Op::Packed { base: Some(Base::Earlier), .. } => kind::DIFFERS_EARLIER,
            Op::More => kind::MORE,
            Op::Pool { .. } => kind::POOL,
            Op::Skip => kind::SKIP,
        });
        put_varint(out, self.pages);
        match self.op {
            Op::Zero | Op::Unused | Op::Bytes | Op::More | Op::Skip => {}
            Op::Same { vm: of, page }
            | Op::Template { template: of, page }
            | Op::Pool { member: of, page } => {
                put_varint(out, u64::from(of));
                put_varint(out, page);
            }
            Op::Packed { chunk, with, length, base } => {
                out.push(with as u8);
                put_varint(out, u64::from(length));
                if base.is_none() {
                    put_varint(out, chunk - self.pages);
                }
                if let Some(Base::Template { template, page }) = base {
                    put_varint(out, u64::from(template));
                    put_varint(out, page);
                }
            }
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let kind = r.u8("kind of an operation")?;
        let pages = varint(r, "pages of an operation")?;
        if pages == 0 || pages > MAX_PAGES {
            return Err(WireError::Wrong("an operation is for no page, or for too many"));
        }
        let op = match kind {
            kind::ZERO => Op::Zero,
            kind::UNUSED => Op::Unused,
            kind::BYTES if pages > FRAME_PAGES => {
                return Err(WireError::Wrong("an operation has more bytes than a frame holds"));
            }
            kind::BYTES => Op::Bytes,
            kind::SAME => Op::Same {
                vm: number(r, "VM of a reference", MAX_VMS)?,
                page: first(r, "page of a reference", pages)?,
            },
            kind::TEMPLATE => Op::Template {
                template: number(r, "template", MAX_TEMPLATES)?,
                page: first(r, "page of a template", pages)?,
            },
            kind::MORE => Op::More,
            kind::POOL => Op::Pool {
                member: number(r, "member of a pool", MAX_MEMBERS)?,
                page: first(r, "page of a pool", pages)?,
            },
            kind::SKIP => Op::Skip,
            kind::PACKED | kind::DIFFERS_TEMPLATE | kind::DIFFERS_EARLIER => {
                packed(kind, pages, r)?
            }
            _ => return Err(WireError::Wrong("an operation is of a kind that is not defined")),
        };
        Ok(Self { pages, op })
    }
}

fn packed(kind: u8, pages: u64, r: &mut Reader<'_>) -> Result<Op, WireError> {
    let with = Packing::from_number(r.u8("packing")?)?;
    let length = varint(r, "packed length")?;
    let more = if kind == kind::PACKED { varint(r, "more pages of a chunk")? } else { 0 };
    let chunk = pages.saturating_add(more);
    if chunk > MAX_PACKED_PAGES {
        return Err(WireError::Wrong("more pages are packed together than may be"));
    }
    let length = u32::try_from(length).ok().filter(|&l| l > 0 && u64::from(l) < chunk * PAGE_SIZE);
    let length =
        length.ok_or(WireError::Wrong("packed bytes are none, or no fewer than unpacked"))?;
    let base = match kind {
        kind::DIFFERS_TEMPLATE => Some(Base::Template {
            template: number(r, "template", MAX_TEMPLATES)?,
            page: first(r, "page of a template", pages)?,
        }),
        kind::DIFFERS_EARLIER => Some(Base::Earlier),
        _ => None,
    };
    let fits = match with {
        Packing::Lz4 | Packing::Exec => base.is_none(),
        Packing::Zstd => true,
        Packing::Xor => base.is_some(),
    };
    if !fits {
        return Err(WireError::Wrong(
            "bytes are packed as a difference in a way that is not defined",
        ));
    }
    Ok(Op::Packed { chunk, with, length, base })
}

fn number(r: &mut Reader<'_>, what: &'static str, most: u64) -> Result<u32, WireError> {
    let number = u32::try_from(varint(r, what)?).ok().filter(|&n| u64::from(n) < most);
    number.ok_or(WireError::Wrong("a VM, a template or a member has too high a number"))
}

fn first(r: &mut Reader<'_>, what: &'static str, pages: u64) -> Result<u64, WireError> {
    let page = varint(r, what)?;
    match page.checked_add(pages) {
        Some(end) if end <= MAX_PAGES => Ok(page),
        _ => Err(WireError::Wrong("a reference goes beyond the last page that there can be")),
    }
}

/// A record of pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pages<'a> {
    /// The VM's number in the stream.
    pub vm: u32,
    /// The first page.
    pub page: u64,
    /// What becomes of it and of those after it.
    pub ops: Vec<PageOp>,
    /// The bytes that the operations use, in order.
    pub payload: &'a [u8],
}

/// The body of a record of pages up to its payload.
pub fn write_head(vm: u32, page: u64, ops: &[PageOp], out: &mut Vec<u8>) {
    put_varint(out, u64::from(vm));
    put_varint(out, page);
    put_varint(out, ops.len() as u64);
    ops.iter().for_each(|op| op.write(out));
}

impl<'a> Pages<'a> {
    /// Reads the body of a record of pages.
    pub fn read(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let vm = number(r, "VM of pages", MAX_VMS)?;
        let page = varint(r, "first page")?;
        let count = varint(r, "number of operations")?;
        if count == 0 || count > MAX_OPS {
            return Err(WireError::Wrong("a record has no operation, or too many"));
        }
        let mut ops = Vec::with_capacity(usize::try_from(count).unwrap_or(0).min(r.left() / 2 + 1));
        let (mut end, mut wanted, mut unpacked, mut open) = (page, 0u64, 0u64, 0u64);
        for _ in 0..count {
            let op = PageOp::read(r)?;
            end = end
                .checked_add(op.pages)
                .filter(|&end| end <= MAX_PAGES)
                .ok_or(WireError::Wrong("pages go beyond the last that there can be"))?;
            wanted += op.payload();
            unpacked += if op.has_bytes() { op.pages } else { 0 };
            match op.op {
                Op::Packed { chunk, .. } if open == 0 => open = chunk - op.pages,
                Op::More if op.pages <= open => open -= op.pages,
                Op::Packed { .. } | Op::More => {
                    return Err(WireError::Wrong(
                        "pages are more or fewer than were packed together",
                    ));
                }
                _ => {}
            }
            ops.push(op);
        }
        if open > 0 {
            return Err(WireError::Wrong("pages are more or fewer than were packed together"));
        }
        if unpacked > UNPACKED_PAGES {
            return Err(WireError::Wrong("a record has more pages as bytes than it may"));
        }
        if wanted != r.left() as u64 {
            return Err(WireError::Wrong(
                "a record has more or fewer bytes than its operations use",
            ));
        }
        let payload = r.take(r.left(), "payload")?;
        Ok(Self { vm, page, ops, payload })
    }
}
