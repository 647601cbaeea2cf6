//! The reference decoder: slow, whole streams in memory, and written from section 3 of
//! `docs/FORMAT.md` alone. It has no line in common with `src/`. Numbers in brackets are those of
//! the document.

use crate::given::{Given, Memories, Outcome, PAGE, Refused, state_of, unfill};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

type Kind = &'static str;

const MOST_PAGES: u64 = (1 << 40) - 1;

/// Content of a page; none is zero.
type Content = Option<Rc<[u8]>>;

#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Missing,
    Here(Content),
    Waits(usize, u64),
}

struct Vm {
    name: String,
    blocks: Vec<u64>,
    cells: Vec<Cell>,
    /// No stream has brought it yet.
    expected: bool,
    /// Of a VMM's stream: what it had beside pages.
    state: Option<Vec<u8>>,
}

/// What a reader has: of all streams together.
pub(crate) struct World<'a> {
    given: &'a Given,
    vms: Vec<Vm>,
    waiters: BTreeMap<(usize, u64), Vec<(usize, u64)>>,
    /// VMs that are complete but for pages of others: stream, VM, digest.
    pending: Vec<(usize, usize, [u8; 16])>,
    /// What would have been the right digest or seal where a wrong one was refused.
    pub right: Option<[u8; 16]>,
    /// The VMs of the last stream, with the digest of what has been applied.
    pub applied: Vec<(String, u64, [u8; 16])>,
}

/// Reads streams, one after another.
pub(crate) fn decode(given: &Given, streams: &[&[u8]]) -> Outcome {
    World::new(given).decode(streams)
}

struct Own {
    index: usize,
    foreign: bool,
    sealed: Vec<u8>,
    ended: Option<[u8; 16]>,
    /// Pages that came in this round.
    came: Vec<bool>,
}

#[derive(PartialEq, Clone, Copy)]
enum State {
    Declaring,
    Open,
    Sealed,
    Over,
}

struct Stream {
    number: usize,
    header: [u8; 64],
    features: u64,
    state: State,
    vms: Vec<Own>,
    /// Which of the reader's templates; what the seal takes of it.
    templates: Vec<(usize, Vec<u8>)>,
    round: u64,
    record: Option<u32>,
    vmm: Vmm,
}

/// What a VMM's stream has said [3.15].
#[derive(Default)]
struct Vmm {
    pool: bool,
    keeps: bool,
    kept: Vec<Cell>,
    ready: bool,
    state: Vec<u8>,
    seal: [u8; 16],
}

impl<'a> World<'a> {
    pub(crate) fn new(given: &'a Given) -> Self {
        Self {
            given,
            vms: Vec::new(),
            waiters: BTreeMap::new(),
            pending: Vec::new(),
            right: None,
            applied: Vec::new(),
        }
    }

    pub(crate) fn decode(&mut self, streams: &[&[u8]]) -> Outcome {
        for (number, bytes) in streams.iter().enumerate() {
            self.stream(number, bytes)?;
        }
        for (stream, vm, digest) in std::mem::take(&mut self.pending) {
            let refused = |kind| Refused { kind, stream, record: None };
            if self.vms[vm].cells.iter().any(|cell| matches!(cell, Cell::Waits(..))) {
                return Err(refused("never-arrived"));
            }
            if self.digest(vm) != digest {
                return Err(refused("digest"));
            }
        }
        let own = self.vms.iter().filter(|vm| !vm.expected);
        let mut all: Memories = own.clone().map(|vm| (vm.name.clone(), bytes_of(vm))).collect();
        let state = |vm: &Vm| Some((state_of(&vm.name), vm.state.clone()?));
        all.extend(own.filter_map(state));
        all.sort();
        Ok(all)
    }

    /// One stream from its first byte to its last.
    fn stream(&mut self, number: usize, bytes: &[u8]) -> Result<(), Refused> {
        let mut stream = Stream {
            number,
            header: [0; 64],
            features: 0,
            state: State::Declaring,
            vms: Vec::new(),
            templates: Vec::new(),
            round: 0,
            record: None,
            vmm: Vmm::default(),
        };
        let result = self.frames(&mut stream, bytes);
        let own = stream.vms.iter().filter(|vm| !vm.foreign);
        let applied = own.map(|own| {
            let vm = &self.vms[own.index];
            (vm.name.clone(), vm.cells.len() as u64, self.digest(own.index))
        });
        self.applied = applied.collect();
        result.map_err(|kind| Refused { kind, stream: number, record: stream.record })
    }

    fn frames(&mut self, stream: &mut Stream, bytes: &[u8]) -> Result<(), Kind> {
        // [3.2]
        let header = bytes.get(..64).ok_or("cut")?;
        stream.header.copy_from_slice(header);
        self.header(stream)?;
        stream.record = Some(0);
        let (mut at, mut next) = (64, 0u32);
        loop {
            // [3.4]
            let head = bytes.get(at..at + 12).ok_or("cut")?;
            let length = u32_at(head, 0) as usize;
            if length > 1_114_112 {
                return Err("too-long");
            }
            let body = bytes.get(at + 12..at + 12 + length).ok_or("cut")?;
            let sum = bytes.get(at + 12 + length..at + 16 + length).ok_or("cut")?;
            let summed = [&header[60..], head, body].concat();
            if crc32fast::hash(&summed).to_le_bytes() != sum {
                return Err("checksum");
            }
            if u32_at(head, 8) != next {
                return Err("order");
            }
            if head[5..8] != [0, 0, 0] {
                return Err("wrong");
            }
            self.record(stream, head[4], body)?;
            next += 1;
            stream.record = Some(next);
            at += 16 + length;
            if stream.state == State::Over {
                // [3.10]: without answers the medium ends; with them the rest changes nothing
                let ends = stream.features & 1 != 0 || at == bytes.len();
                return if ends { Ok(()) } else { Err("trailing") };
            }
        }
    }

    fn header(&self, stream: &mut Stream) -> Result<(), Kind> {
        let h = &stream.header;
        if h[..8] != [0x89, 0x50, 0x48, 0x53, 0x0d, 0x0a, 0x1a, 0x0a] {
            return Err("foreign");
        }
        if h[8..10] != [1, 0] {
            return Err("version");
        }
        if u32_at(h, 60) != crc32fast::hash(&h[..60]) {
            return Err("checksum");
        }
        stream.features = u64_at(h, 12);
        if stream.features >> 6 != 0 {
            return Err("feature");
        }
        let zeros = h[30..32] == [0; 2] && h[56..60] == [0; 4];
        if h[28] != 12 || !zeros || !(h[29] == 1 && h[48..56] == [0; 8] || h[29] == 2) {
            return Err("wrong");
        }
        // [3.9]
        if (h[29] == 2) != self.given.secret.is_some() {
            return Err("keying");
        }
        if h[29] == 2 && self.seal(&[b"check", &h[32..48]].concat())[..8] != h[48..56] {
            return Err("other-key");
        }
        Ok(())
    }

    // [3.6]
    fn record(&mut self, stream: &mut Stream, kind: u8, body: &[u8]) -> Result<(), Kind> {
        let mut r = Fields { bytes: body, at: 0 };
        let sealed = |stream: &Stream| stream.state == State::Sealed;
        match kind {
            1 => {
                let vm = parse_vm(&mut r)?;
                r.end()?;
                turn(stream, State::Declaring)?;
                self.declare(stream, vm)
            }
            2 => {
                let _label = r.label()?;
                let pages = r.count()?;
                let digest = r.take(32)?.to_vec();
                r.end()?;
                turn(stream, State::Declaring)?;
                announced(stream, 3)?;
                if stream.templates.len() == 64 {
                    return Err("wrong");
                }
                let numbers = 0..self.given.templates.len();
                let fits = |&n: &usize| {
                    let bytes = self.given.template(n);
                    bytes.len() as u64 == pages * PAGE as u64
                        && self.template_digest(&bytes)[..] == digest
                };
                let number = numbers.into_iter().find(fits).ok_or("template")?;
                let sealed = [&pages.to_le_bytes()[..], &digest].concat();
                stream.templates.push((number, sealed));
                Ok(())
            }
            3 => {
                r.end()?;
                turn(stream, State::Declaring)?;
                if stream.vms.iter().all(|vm| vm.foreign) {
                    return Err("wrong");
                }
                stream.state = State::Open;
                Ok(())
            }
            4 => {
                let pages = parse_pages(&mut r)?;
                turn(stream, State::Open)?;
                self.pages(stream, &pages)
            }
            5 => {
                let number = r.number()?;
                if number > u64::from(u32::MAX) {
                    return Err("wrong");
                }
                r.end()?;
                turn(stream, State::Open)?;
                announced(stream, 1)?;
                if is_vmm(stream) || number != stream.round + 1 {
                    return Err("wrong");
                }
                let own = stream.vms.iter().filter(|vm| !vm.foreign);
                if own.into_iter().any(|own| self.vms[own.index].cells.contains(&Cell::Missing)) {
                    return Err("missing");
                }
                stream.round = number;
                stream.vms.iter_mut().for_each(|vm| vm.came.fill(false));
                Ok(())
            }
            6 => {
                let vm = r.below(1024)?;
                let digest: [u8; 16] = r.take(16)?.try_into().unwrap();
                r.end()?;
                turn(stream, State::Open)?;
                let is_native = is_vmm(stream);
                let own = stream.vms.get_mut(vm as usize).filter(|vm| !vm.foreign);
                let own = own.filter(|own| own.ended.is_none()).ok_or("wrong")?;
                if is_native && !stream.vmm.ready {
                    return Err("wrong");
                }
                if is_native {
                    // those that never came are unused
                    self.vms[own.index].state = Some(stream.vmm.state.clone());
                    for page in 0..self.vms[own.index].cells.len() as u64 {
                        if self.vms[own.index].cells[page as usize] == Cell::Missing {
                            self.set(own.index, page, &Cell::Here(None));
                        }
                    }
                }
                let cells = &self.vms[own.index].cells;
                if cells.contains(&Cell::Missing) {
                    return Err("missing");
                }
                own.ended = Some(digest);
                own.sealed.extend(digest);
                if cells.iter().any(|cell| matches!(cell, Cell::Waits(..))) {
                    self.pending.push((stream.number, own.index, digest));
                    return Ok(());
                }
                let found = self.digest(own.index);
                if found == digest { Ok(()) } else { self.instead(found, "digest") }
            }
            7 => {
                let seal: [u8; 16] = r.take(16)?.try_into().unwrap();
                r.end()?;
                turn(stream, State::Open)?;
                if stream.vms.iter().any(|vm| !vm.foreign && vm.ended.is_none()) {
                    return Err("wrong");
                }
                let mut bytes = stream.header.to_vec();
                stream.vms.iter().for_each(|vm| bytes.extend(&vm.sealed));
                stream.templates.iter().for_each(|(_, template)| bytes.extend(template));
                if is_vmm(stream) {
                    bytes.extend(stream.vmm.seal);
                }
                let found = self.seal(&bytes);
                if found != seal {
                    return self.instead(found, "wrong");
                }
                stream.state = if stream.features & 1 != 0 { State::Sealed } else { State::Over };
                Ok(())
            }
            8 => {
                r.end()?;
                if !sealed(stream) {
                    return Err("wrong");
                }
                stream.state = State::Over;
                Ok(())
            }
            9 => {
                let length = r.number()?;
                if length > 1024 {
                    return Err("wrong");
                }
                r.take(length as usize)?;
                r.end()?;
                Err("aborted")
            }
            10 => {
                r.take(16)?;
                r.end()?;
                if sealed(stream) {
                    return Err("trailing");
                }
                announced(stream, 0)?;
                if stream.record != Some(0) {
                    return Err("wrong");
                }
                stream.state = State::Over;
                Ok(())
            }
            // [3.15]
            11 => {
                let (kind, bytes) = (r.byte()?, r.rest());
                match (kind, bytes.len()) {
                    (1, 1..=1_048_576) | (2, 0) | (3, 0..=1024) => {}
                    _ => return Err("wrong"),
                }
                turn(stream, State::Open)?;
                announced(stream, 5)?;
                let ended = stream.vms.iter().any(|vm| vm.ended.is_some());
                if ended || stream.vmm.ready && kind != 1 {
                    return Err("wrong");
                }
                let all = [&stream.vmm.seal[..], &[kind], bytes].concat();
                stream.vmm.seal = self.seal(&all);
                stream.vmm.ready |= kind == 3;
                if kind == 1 {
                    stream.vmm.state.extend(bytes);
                }
                Ok(())
            }
            12 => {
                let zero = r.take(16)? == [0; 16];
                let member = r.below(65_536)?;
                let others = r.below(65_536)?;
                let mut before = None;
                for _ in 0..others {
                    let other = r.below(65_536)?;
                    r.count()?;
                    if before.is_some_and(|before| before >= other) || other == member {
                        return Err("wrong");
                    }
                    before = Some(other);
                }
                r.end()?;
                turn(stream, State::Declaring)?;
                announced(stream, 5)?;
                if stream.vmm.pool || stream.vms.is_empty() || zero && member + others > 0 {
                    return Err("wrong");
                }
                stream.vmm.pool = true;
                // this reader keeps memory
                if zero { Ok(()) } else { Err("group") }
            }
            13 => {
                let keeps = match r.byte()? {
                    0 => false,
                    1 => true,
                    _ => return Err("wrong"),
                };
                r.end()?;
                turn(stream, State::Open)?;
                announced(stream, 5)?;
                if !stream.vmm.pool || stream.vmm.ready {
                    return Err("wrong");
                }
                stream.vmm.keeps = keeps;
                Ok(())
            }
            128.. if sealed(stream) => Err("trailing"),
            128.. => Ok(()),
            _ => Err("unknown"),
        }
    }

    fn instead(&mut self, right: [u8; 16], kind: Kind) -> Result<(), Kind> {
        self.right = Some(right);
        Err(kind)
    }

    fn declare(&mut self, stream: &mut Stream, vm: ParsedVm) -> Result<(), Kind> {
        if stream.vms.len() == 1024 {
            return Err("wrong");
        }
        if stream.vms.iter().any(|own| self.vms[own.index].name == vm.name) {
            return Err("wrong");
        }
        if vm.foreign {
            announced(stream, 2)?;
        }
        if is_vmm(stream) && (vm.foreign || !stream.vms.is_empty()) {
            return Err("wrong");
        }
        let known = self.vms.iter().position(|known| known.name == vm.name);
        if let Some(index) = known {
            let known = &mut self.vms[index];
            if !vm.foreign && !known.expected {
                return Err("taken");
            }
            if known.blocks != vm.blocks {
                return Err("other-shape");
            }
            known.expected &= vm.foreign;
        } else {
            let new: u64 = vm.blocks.iter().sum();
            let all: u64 = self.vms.iter().map(|vm| vm.cells.len() as u64).sum();
            if new + all > self.given.max_pages {
                return Err("too-large");
            }
            self.vms.push(Vm {
                name: vm.name,
                blocks: vm.blocks,
                cells: vec![Cell::Missing; new as usize],
                expected: vm.foreign,
                state: None,
            });
        }
        let index = known.unwrap_or(self.vms.len() - 1);
        let came = vec![false; self.vms[index].cells.len()];
        let (foreign, sealed) = (vm.foreign, vm.sealed);
        stream.vms.push(Own { index, foreign, sealed, ended: None, came });
        Ok(())
    }

    // [3.7]
    fn pages(&mut self, stream: &mut Stream, pages: &ParsedPages<'_>) -> Result<(), Kind> {
        let own = stream.vms.get(pages.vm as usize).filter(|vm| !vm.foreign).ok_or("wrong")?;
        if own.ended.is_some() {
            return Err("wrong");
        }
        for op in &pages.ops {
            let fits = match op.what {
                What::Pool(..) => is_vmm(stream) && stream.vmm.pool,
                What::Skip => is_vmm(stream),
                What::Unused | What::Same(..) | What::Packed { base: Some(None), .. } => {
                    !is_vmm(stream)
                }
                _ => true,
            };
            if !fits {
                return Err("wrong");
            }
        }
        if stream.vmm.ready {
            return Err("wrong");
        }
        let all: u64 = pages.ops.iter().map(|op| op.pages).sum();
        let cells = &self.vms[own.index].cells;
        if pages.page + all > cells.len() as u64 {
            return Err("beyond");
        }
        // staged first, so that a record is applied whole or not at all
        let mut staged: HashMap<u64, Cell> = HashMap::new();
        let (mut page, mut payload) = (pages.page, pages.payload);
        let mut unpacked: Vec<u8> = Vec::new();
        let (kept, keeps) = (stream.vmm.kept.len(), stream.vmm.keeps);
        let mut fresh: Vec<Cell> = Vec::new();
        for op in &pages.ops {
            let (bytes, after) = payload.split_at(op.bytes as usize);
            payload = after;
            let mut put = |i: u64, cell: Cell| staged.insert(page + i, cell);
            let size = op.pages as usize * PAGE;
            match op.what {
                What::Zero | What::Unused => {
                    (0..op.pages).for_each(|i| drop(put(i, Cell::Here(None))));
                }
                What::Skip => {}
                What::Pool(member, from) => {
                    for i in 0..op.pages {
                        let at = (from + i) as usize;
                        let all =
                            stream.vmm.kept.get(at).or_else(|| fresh.get(at.checked_sub(kept)?));
                        put(i, all.filter(|_| member == 0).ok_or("wrong")?.clone());
                    }
                }
                What::Bytes => {
                    (0u64..).zip(bytes.chunks(PAGE)).for_each(|(i, b)| drop(put(i, here(b))));
                }
                What::Template(template, from) => {
                    let template =
                        self.base(stream, template, from, op.pages, "beyond-template")?;
                    let pages = (0u64..).zip(template.chunks(PAGE));
                    pages.for_each(|(i, b)| drop(put(i, here(b))));
                }
                What::Same(vm, from) => {
                    let of = stream.vms.get(vm as usize).ok_or("wrong")?;
                    let itself =
                        of.index == own.index && from < page + op.pages && page < from + op.pages;
                    if itself || of.foreign && stream.round > 0 {
                        return Err("wrong");
                    }
                    if from + op.pages > self.vms[of.index].cells.len() as u64 {
                        return Err("beyond");
                    }
                    for i in 0..op.pages {
                        let mut cell = &self.vms[of.index].cells[(from + i) as usize];
                        if of.index == own.index {
                            cell = staged.get(&(from + i)).unwrap_or(cell);
                        }
                        let cell = match cell {
                            Cell::Here(content) => Cell::Here(content.clone()),
                            _ if of.foreign => Cell::Waits(of.index, from + i),
                            _ => return Err("dangling"),
                        };
                        staged.insert(page + i, cell);
                    }
                }
                What::Packed { packing, chunk, base } => {
                    let base = match base {
                        None => Vec::new(),
                        Some(Some((template, from))) => {
                            self.base(stream, template, from, op.pages, "wrong")?
                        }
                        Some(None) => {
                            announced(stream, 1)?;
                            let cells = &self.vms[own.index].cells[page as usize..];
                            let mut base = Vec::new();
                            for cell in &cells[..op.pages as usize] {
                                let Cell::Here(content) = cell else { return Err("wrong") };
                                base.extend(content.as_deref().unwrap_or(&[0; PAGE]));
                            }
                            base
                        }
                    };
                    if packing == 3 {
                        announced(stream, 4)?;
                    }
                    let chunk = chunk as usize * PAGE;
                    unpacked = self.unpack(packing, bytes, &base, chunk).ok_or("packed")?;
                    let after = unpacked.split_off(size);
                    (0u64..).zip(unpacked.chunks(PAGE)).for_each(|(i, b)| drop(put(i, here(b))));
                    unpacked = after;
                }
                What::More => {
                    let after = unpacked.split_off(size);
                    (0u64..).zip(unpacked.chunks(PAGE)).for_each(|(i, b)| drop(put(i, here(b))));
                    unpacked = after;
                }
            }
            if keeps && matches!(op.what, What::Bytes | What::Packed { .. } | What::More) {
                fresh.extend((0..op.pages).map(|i| staged[&(page + i)].clone()));
            }
            page += op.pages;
        }
        stream.vmm.kept.extend(fresh);
        if !is_vmm(stream) && (pages.page..page).any(|page| own.came[page as usize]) {
            return Err("twice");
        }
        let index = own.index;
        let own = &mut stream.vms[pages.vm as usize];
        own.came[pages.page as usize..page as usize].fill(true);
        for page in pages.page..page {
            if let Some(cell) = staged.remove(&page) {
                self.set(index, page, &cell);
            }
        }
        Ok(())
    }

    /// Puts a page in, and in the place of the references that wait for it.
    fn set(&mut self, vm: usize, page: u64, cell: &Cell) {
        let at = &mut self.vms[vm].cells[page as usize];
        *at = cell.clone();
        if let &Cell::Waits(of, of_page) = cell {
            self.waiters.entry((of, of_page)).or_default().push((vm, page));
            return;
        }
        for (waiter, waiting) in self.waiters.remove(&(vm, page)).unwrap_or_default() {
            // it may have come again in a later round meanwhile
            if self.vms[waiter].cells[waiting as usize] == Cell::Waits(vm, page) {
                self.set(waiter, waiting, cell);
            }
        }
    }

    fn base(
        &self,
        stream: &Stream,
        template: u64,
        from: u64,
        pages: u64,
        beyond: Kind,
    ) -> Result<Vec<u8>, Kind> {
        let (number, _) = stream.templates.get(template as usize).ok_or("wrong")?;
        let bytes = self.given.template(*number);
        let (from, size) = (from.saturating_mul(PAGE as u64), pages * PAGE as u64);
        let all = bytes.len() as u64;
        if from.saturating_add(size) > all {
            return Err(beyond);
        }
        Ok(bytes[from as usize..(from + size) as usize].to_vec())
    }

    // [3.8]
    fn unpack(&self, packing: u8, packed: &[u8], base: &[u8], size: usize) -> Option<Vec<u8>> {
        match packing {
            1 => {
                let out = lz4_flex::block::decompress(packed, size).ok()?;
                (out.len() == size).then_some(out)
            }
            2 => {
                let base = base
                    .strip_prefix(&[0x37])
                    .filter(|b| b.starts_with(&[0xa4, 0x30, 0xec]))
                    .unwrap_or(base);
                let frame = [&[0x28, 0xb5, 0x2f, 0xfd], packed].concat();
                let said = zstd::zstd_safe::get_frame_content_size(&frame).ok()??;
                let length = zstd::zstd_safe::find_frame_compressed_size(&frame).ok()?;
                if said != size as u64 || length != frame.len() {
                    return None;
                }
                let mut context = zstd::bulk::Decompressor::with_dictionary(base).ok()?;
                let out = context.decompress(&frame, size).ok()?;
                (out.len() == size).then_some(out)
            }
            3 => {
                let mut out = vec![0; size];
                (self.given.exec && unfill(packed, &mut out)).then_some(out)
            }
            _ => unxor(packed, base),
        }
    }

    // [3.9]
    fn key(&self) -> Option<[u8; 32]> {
        let secret = self.given.secret.as_ref()?;
        Some(blake3::derive_key("pageherd 2026-11 page and stream digests", secret))
    }

    fn seal(&self, bytes: &[u8]) -> [u8; 16] {
        match self.key() {
            None => twox_hash::XxHash3_128::oneshot(bytes).to_le_bytes(),
            Some(key) => blake3::keyed_hash(&key, bytes).as_bytes()[..16].try_into().unwrap(),
        }
    }

    fn hash(&self, page: &[u8]) -> [u8; 8] {
        match self.key() {
            None => twox_hash::XxHash3_64::oneshot(page).to_le_bytes(),
            Some(key) => blake3::keyed_hash(&key, page).as_bytes()[..8].try_into().unwrap(),
        }
    }

    // [3.6]
    fn template_digest(&self, template: &[u8]) -> [u8; 32] {
        let zero = |page: &[u8]| page.iter().all(|&byte| byte == 0);
        let hash = |page: &[u8]| if zero(page) { [0; 8] } else { self.hash(page) };
        let all: Vec<u8> = template.chunks(PAGE).flat_map(hash).collect();
        *blake3::hash(&all).as_bytes()
    }

    fn digest(&self, vm: usize) -> [u8; 16] {
        let mut sum = 0u128;
        for (page, cell) in (0u64..).zip(&self.vms[vm].cells) {
            let Cell::Here(Some(content)) = cell else { continue };
            let term = self.seal(&[page.to_le_bytes(), self.hash(content)].concat());
            sum = sum.wrapping_add(u128::from_le_bytes(term));
        }
        sum.to_le_bytes()
    }
}

fn here(bytes: &[u8]) -> Cell {
    Cell::Here(bytes.iter().any(|&byte| byte != 0).then(|| bytes.into()))
}

fn bytes_of(vm: &Vm) -> Vec<u8> {
    let page = |cell: &Cell| match cell {
        Cell::Here(Some(content)) => content.to_vec(),
        _ => vec![0; PAGE],
    };
    vm.cells.iter().flat_map(page).collect()
}

fn turn(stream: &Stream, wanted: State) -> Result<(), Kind> {
    match stream.state {
        state if state == wanted => Ok(()),
        State::Sealed => Err("trailing"),
        _ => Err("wrong"),
    }
}

fn is_vmm(stream: &Stream) -> bool {
    announced(stream, 5).is_ok()
}

fn announced(stream: &Stream, bit: u32) -> Result<(), Kind> {
    if stream.features >> bit & 1 != 0 { Ok(()) } else { Err("wrong") }
}

fn unxor(packed: &[u8], base: &[u8]) -> Option<Vec<u8>> {
    let mut r = Fields { bytes: packed, at: 0 };
    let mut out: Vec<u8> = Vec::new();
    while out.len() < base.len() {
        let first = out.is_empty();
        let (from, same) = (r.at, r.number().ok()? as usize);
        let (middle, other) = (r.at, r.number().ok()? as usize);
        if middle - from > 3 || r.at - middle > 3 || same == 0 && !first {
            return None;
        }
        out.extend(base.get(out.len()..out.len() + same)?);
        out.extend(r.take(other).ok()?);
        if other == 0 && out.len() < base.len() {
            return None;
        }
    }
    (out.len() == base.len() && r.at == packed.len()).then_some(out)
}

// [3.5]
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Kind> {
        let end = self.at.checked_add(len).ok_or("short")?;
        let taken = self.bytes.get(self.at..end).ok_or("short")?;
        self.at = end;
        Ok(taken)
    }

    fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        self.at = self.bytes.len();
        rest
    }

    fn byte(&mut self) -> Result<u8, Kind> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u64, Kind> {
        let mut value = 0;
        for i in 0..10 {
            let byte = self.byte()?;
            if i == 9 && byte > 1 {
                return Err("wrong");
            }
            value |= u64::from(byte % 128) << (7 * i);
            if byte < 128 {
                return if byte == 0 && i > 0 { Err("wrong") } else { Ok(value) };
            }
        }
        Err("wrong")
    }

    fn below(&mut self, end: u64) -> Result<u64, Kind> {
        let number = self.number()?;
        if number < end { Ok(number) } else { Err("wrong") }
    }

    /// Pages of a block or a template.
    fn count(&mut self) -> Result<u64, Kind> {
        let number = self.number()?;
        if (1..=MOST_PAGES).contains(&number) { Ok(number) } else { Err("wrong") }
    }

    fn label(&mut self) -> Result<&'a [u8], Kind> {
        let length = self.byte()?;
        let label = self.take(usize::from(length))?;
        let good = |b: &u8| b.is_ascii_alphanumeric() || b"._/@:+-[]".contains(b);
        if (1..=64).contains(&length) && label.iter().all(good) { Ok(label) } else { Err("wrong") }
    }

    fn end(&self) -> Result<(), Kind> {
        if self.at == self.bytes.len() { Ok(()) } else { Err("wrong") }
    }
}

struct ParsedVm {
    foreign: bool,
    name: String,
    blocks: Vec<u64>,
    /// What the seal takes of it.
    sealed: Vec<u8>,
}

fn parse_vm(r: &mut Fields<'_>) -> Result<ParsedVm, Kind> {
    let flag = r.byte()?;
    if flag > 1 {
        return Err("wrong");
    }
    let name = r.label()?;
    let good = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
    if name[0] == b'.' || !name.iter().all(good) {
        return Err("wrong");
    }
    let count = r.number()?;
    if count == 0 || count > 65_536 {
        return Err("wrong");
    }
    let mut sealed = vec![flag];
    sealed.extend((name.len() as u16).to_le_bytes());
    sealed.extend(name);
    sealed.extend((count as u32).to_le_bytes());
    let mut blocks = Vec::new();
    for _ in 0..count {
        let label = r.label()?;
        let pages = r.count()?;
        sealed.extend((label.len() as u16).to_le_bytes());
        sealed.extend(label);
        sealed.extend(pages.to_le_bytes());
        blocks.push(pages);
    }
    if blocks.iter().map(|&pages| u128::from(pages)).sum::<u128>() > u128::from(MOST_PAGES) {
        return Err("wrong");
    }
    let name = String::from_utf8(name.to_vec()).unwrap();
    Ok(ParsedVm { foreign: flag == 1, name, blocks, sealed })
}

enum What {
    Zero,
    Unused,
    Bytes,
    Same(u64, u64),
    Template(u64, u64),
    Packed {
        packing: u8,
        chunk: u64,
        /// A template and its page, or what was there before.
        base: Option<Option<(u64, u64)>>,
    },
    More,
    Pool(u64, u64),
    Skip,
}

struct ParsedOp {
    pages: u64,
    bytes: u64,
    what: What,
}

struct ParsedPages<'a> {
    vm: u64,
    page: u64,
    ops: Vec<ParsedOp>,
    payload: &'a [u8],
}

fn parse_pages<'a>(r: &mut Fields<'a>) -> Result<ParsedPages<'a>, Kind> {
    let (vm, page, count) = (r.below(1024)?, r.number()?, r.number()?);
    if count == 0 || count > 8192 {
        return Err("wrong");
    }
    let (mut ops, mut end, mut as_bytes, mut open) = (Vec::new(), page, 0, 0);
    for _ in 0..count {
        let op = parse_op(r)?;
        end = end.checked_add(op.pages).filter(|&end| end <= MOST_PAGES).ok_or("wrong")?;
        match op.what {
            What::Packed { chunk, .. } => {
                if open > 0 {
                    return Err("wrong");
                }
                open = chunk - op.pages;
                as_bytes += op.pages;
            }
            What::More => {
                if op.pages > open {
                    return Err("wrong");
                }
                open -= op.pages;
                as_bytes += op.pages;
            }
            What::Bytes => as_bytes += op.pages,
            _ => {}
        }
        ops.push(op);
    }
    let wanted: u64 = ops.iter().map(|op| op.bytes).sum();
    if open > 0 || as_bytes > 1024 || wanted != (r.bytes.len() - r.at) as u64 {
        return Err("wrong");
    }
    Ok(ParsedPages { vm, page, ops, payload: &r.bytes[r.at..] })
}

fn parse_op(r: &mut Fields<'_>) -> Result<ParsedOp, Kind> {
    let (kind, pages) = (r.byte()?, r.number()?);
    if pages == 0 || pages > MOST_PAGES {
        return Err("wrong");
    }
    let reference = |r: &mut Fields<'_>, numbers| {
        let (of, from) = (r.below(numbers)?, r.number()?);
        let end = from.checked_add(pages).filter(|&end| end <= MOST_PAGES);
        end.map(|_| (of, from)).ok_or("wrong")
    };
    let mut bytes = 0;
    let what = match kind {
        1 => What::Zero,
        2 => What::Unused,
        3 if pages > 256 => return Err("wrong"),
        3 => {
            bytes = pages * PAGE as u64;
            What::Bytes
        }
        4 => reference(r, 1024).map(|(of, from)| What::Same(of, from))?,
        5 => reference(r, 64).map(|(of, from)| What::Template(of, from))?,
        6..=8 => {
            let packing = r.byte()?;
            bytes = r.number()?;
            let more = if kind == 6 { r.number()? } else { 0 };
            let base = match kind {
                6 => None,
                7 => Some(Some(reference(r, 64)?)),
                _ => Some(None),
            };
            let chunk = pages.saturating_add(more);
            let can = match packing {
                1 | 3 => kind == 6,
                2 => true,
                4 => kind != 6,
                _ => false,
            };
            if !can || chunk > 64 || bytes == 0 || bytes >= chunk * PAGE as u64 {
                return Err("wrong");
            }
            What::Packed { packing, chunk, base }
        }
        9 => What::More,
        10 => reference(r, 65_536).map(|(of, from)| What::Pool(of, from))?,
        11 => What::Skip,
        _ => return Err("wrong"),
    };
    Ok(ParsedOp { pages, bytes, what })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
