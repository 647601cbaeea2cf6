//! The decoder and the ledger of the library, with as little as can be between them: what a
//! receiver does with a stream, without files and threads. Faults can be planted in it, to see
//! whether the fuzzer finds them.

use crate::given::{Feed, Given, Memories, Outcome, PAGE, Refused, state_of, unfill};
use pageherd::base::digest::{Hashing, MemoryDigest, PageHash, is_zero, of_template};
use pageherd::base::{PAGE_SIZE, Place};
use pageherd::filter::codec::Codec;
use pageherd::filter::{lz4::Lz4, xor::Xor, zstd::Zstd};
use pageherd::migrate::seal::NativeSeal;
use pageherd::placement::ledger::{Ledger, LedgerError, Readiness, VmId};
use pageherd::wire::WireError;
use pageherd::wire::decode::{Decoder, Taken};
use pageherd::wire::header::{HEADER, Header, feature};
use pageherd::wire::limits::{MAX_TEMPLATES, MAX_VMS};
use pageherd::wire::pages::{Base, Op, Packing, PageOp, Pages};
use pageherd::wire::record::{Native, Record, TemplateShape, VmShape};

/// Faults that can be planted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// A page that comes twice is taken.
    Twice,
    /// References to the operation's own pages are taken.
    Itself,
    /// Bytes that do not unpack become what they are.
    Unpacking,
    /// A difference to an earlier version is one to zeros.
    Earlier,
    /// Pages of a VM that has ended are taken.
    Ended,
    /// The digest is not compared.
    Digest,
    /// The seal is not compared.
    Seal,
    /// What is used need not be announced.
    Announced,
    /// What follows the end is not seen.
    Trailing,
    /// Rounds need not follow one another.
    Round,
    /// Pages of zeros that come as bytes count in the digest.
    ZeroBytes,
    /// Bytes behind other operations are those of the payload's beginning.
    Payload,
    /// A template's pages are taken from one page before.
    Template,
    /// A pool's pages are taken from one page before.
    Pool,
    /// All pages are kept.
    Keep,
    /// Pages of zeros that come as bytes are not kept.
    KeptZero,
    /// Pages come after the VMM is ready.
    Ready,
    /// What a VMM says beside pages is not sealed.
    Native,
}

impl Fault {
    pub(crate) const ALL: [Self; 18] = [
        Self::Twice,
        Self::Itself,
        Self::Unpacking,
        Self::Earlier,
        Self::Ended,
        Self::Digest,
        Self::Seal,
        Self::Announced,
        Self::Trailing,
        Self::Round,
        Self::ZeroBytes,
        Self::Payload,
        Self::Template,
        Self::Pool,
        Self::Keep,
        Self::KeptZero,
        Self::Ready,
        Self::Native,
    ];
}

type Kind = &'static str;

/// The word of the vectors for an error of the wire.
pub(crate) fn kind_of_wire(error: &WireError) -> Kind {
    match error {
        WireError::Foreign => "foreign",
        WireError::Version(_) => "version",
        WireError::Feature(_) => "feature",
        WireError::Checksum { .. } => "checksum",
        WireError::Order { .. } => "order",
        WireError::TooLong { .. } => "too-long",
        WireError::Short(_) => "short",
        WireError::Unknown(_) => "unknown",
        WireError::Cut { .. } => "cut",
        WireError::Trailing => "trailing",
        WireError::OtherKey => "other-key",
        WireError::Keying(_) => "keying",
        _ => "wrong",
    }
}

/// The word of the vectors for an error of the ledger.
pub(crate) fn kind_of_ledger(error: &LedgerError) -> Kind {
    match error {
        LedgerError::Taken(_) => "taken",
        LedgerError::TooLarge { .. } => "too-large",
        LedgerError::Beyond { .. } => "beyond",
        LedgerError::Twice { .. } => "twice",
        LedgerError::Missing { .. } => "missing",
        LedgerError::Dangling { .. } => "dangling",
        LedgerError::NeverArrived { .. } => "never-arrived",
        LedgerError::OtherShape(_) => "other-shape",
        LedgerError::BeyondTemplate { .. } => "beyond-template",
        LedgerError::Digest { .. } => "digest",
        _ => "another error of the ledger",
    }
}

struct Own {
    id: VmId,
    shape: VmShape,
    ended: Option<[u8; 16]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Declaring,
    Open,
    Sealed,
    Over,
}

struct Stream {
    decoder: Decoder,
    header: Option<Header>,
    bytes: [u8; HEADER],
    phase: Phase,
    own: Vec<Own>,
    templates: Vec<(u32, TemplateShape)>,
    round: u32,
    records: u32,
    pending: Vec<u8>,
    vmm: Vmm,
}

/// What a VMM's stream has said, and of its pool where each page is.
#[derive(Default)]
struct Vmm {
    pool: bool,
    keeps: bool,
    kept: Vec<Place>,
    ready: bool,
    state: Vec<u8>,
    seal: NativeSeal,
}

/// A receiver over a ledger.
pub(crate) struct Applier<'a> {
    given: &'a Given,
    hashing: Hashing,
    templates: Vec<(Vec<u8>, [u8; 32])>,
    ledger: Ledger,
    pool: Vec<u8>,
    pending: Vec<(usize, VmId, [u8; 16])>,
    fault: Option<Fault>,
    own: Vec<VmId>,
    states: Memories,
    /// So many records are taken, and no more.
    most: u32,
    /// VMs of the last stream, with their pages and the digest of what has been applied.
    pub applied: Vec<(String, u64, [u8; 16])>,
}

/// Takes streams, one after another.
pub(crate) fn apply(given: &Given, streams: &[&[u8]], feed: Feed) -> Outcome {
    Applier::new(given, None).all(streams, feed)
}

/// What had been applied of the last stream when it was refused after `records` records.
pub(crate) fn applied(
    given: &Given,
    streams: &[&[u8]],
    records: u32,
) -> Vec<(String, u64, [u8; 16])> {
    let mut applier = Applier::new(given, None);
    let (last, before) = streams.split_last().unwrap();
    for (number, bytes) in before.iter().enumerate() {
        let _ = applier.stream(number, bytes, Feed::Whole);
    }
    applier.most = records;
    let _ = applier.stream(before.len(), last, Feed::Whole);
    applier.applied
}

impl<'a> Applier<'a> {
    pub(crate) fn new(given: &'a Given, fault: Option<Fault>) -> Self {
        let hashing = given.secret.as_ref().map_or(Hashing::Plain, |secret| Hashing::keyed(secret));
        let mut ledger = Ledger::new(hashing.clone(), 0, given.max_pages);
        let mut templates = Vec::new();
        for number in 0..given.templates.len() {
            let bytes = given.template(number);
            let hash = |page: &[u8]| (!is_zero(page)).then(|| hashing.page(page));
            let hashes: Vec<_> = bytes.chunks(PAGE).map(hash).collect();
            let digest = of_template(&hashes);
            ledger.add_template(hashes.into());
            templates.push((bytes, digest));
        }
        Self {
            given,
            hashing,
            templates,
            ledger,
            pool: Vec::new(),
            pending: Vec::new(),
            fault,
            own: Vec::new(),
            states: Vec::new(),
            most: u32::MAX,
            applied: Vec::new(),
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    pub(crate) fn all(mut self, streams: &[&[u8]], feed: Feed) -> Outcome {
        self.take(streams, feed)?;
        let own = self.own.iter();
        let mut all: Memories =
            own.map(|&id| (self.ledger.name(id).to_owned(), self.memory(id))).collect();
        all.append(&mut self.states);
        all.sort();
        Ok(all)
    }

    /// Takes streams, without making anything of them.
    pub(crate) fn take(&mut self, streams: &[&[u8]], feed: Feed) -> Result<(), Refused> {
        for (number, bytes) in streams.iter().enumerate() {
            self.stream(number, bytes, feed)?;
        }
        for (stream, id, wanted) in std::mem::take(&mut self.pending) {
            self.whole(id, wanted, true).map_err(|kind| Refused { kind, stream, record: None })?;
        }
        Ok(())
    }

    /// Is it whole, with this digest? False where it waits for pages of other streams.
    fn whole(&mut self, id: VmId, wanted: [u8; 16], now: bool) -> Result<bool, Kind> {
        match self.ledger.readiness(id).map_err(|e| kind_of_ledger(&e))? {
            Readiness::Whole(found) => {
                let fits = found == MemoryDigest::from_bytes(wanted) || self.has(Fault::Digest);
                if fits { Ok(true) } else { Err("digest") }
            }
            Readiness::Waits { .. } if now => Err("never-arrived"),
            Readiness::Waits { .. } => Ok(false),
        }
    }

    fn memory(&self, id: VmId) -> Vec<u8> {
        let places = self.ledger.places(id);
        let mut all = vec![0; usize::try_from(places.pages()).unwrap() * PAGE];
        for run in places.runs() {
            for i in 0..run.pages {
                let at = usize::try_from(run.page + i).unwrap() * PAGE;
                if let Some(place) = run.place {
                    self.read(place.after(i), &mut all[at..at + PAGE]);
                }
            }
        }
        all
    }

    fn read(&self, place: Place, out: &mut [u8]) {
        match place {
            Place::Pool { page } => {
                let at = usize::try_from(page).unwrap() * PAGE;
                out.copy_from_slice(&self.pool[at..at + out.len()]);
            }
            Place::Template { file, page } => {
                let at = usize::try_from(page).unwrap() * PAGE;
                out.copy_from_slice(&self.templates[file as usize].0[at..at + out.len()]);
            }
            _ => out.fill(0),
        }
    }

    /// The digest of what is there, page by page.
    fn digest_so_far(&self, id: VmId) -> [u8; 16] {
        let mut digest = MemoryDigest::default();
        for run in self.ledger.places(id).runs() {
            for i in 0..run.pages {
                let hash = run.place.and_then(|place| self.ledger.hash(place.after(i)));
                hash.into_iter().for_each(|hash| digest.add(self.hashing.term(run.page + i, hash)));
            }
        }
        digest.to_bytes()
    }

    fn stream(&mut self, number: usize, bytes: &[u8], feed: Feed) -> Result<(), Refused> {
        let mut stream = Stream {
            decoder: Decoder::stream(),
            header: None,
            bytes: [0; HEADER],
            phase: Phase::Declaring,
            own: Vec::new(),
            templates: Vec::new(),
            round: 0,
            records: 0,
            pending: Vec::new(),
            vmm: Vmm::default(),
        };
        let result = self.bytes(&mut stream, number, bytes, feed);
        if let (true, [own]) = (announces(&stream, feature::VMM), stream.own.as_slice()) {
            self.states.push((state_of(&own.shape.name), std::mem::take(&mut stream.vmm.state)));
        }
        let own = stream.own.iter().filter(|own| !own.shape.foreign);
        let applied = own
            .clone()
            .map(|own| (own.shape.name.clone(), own.shape.pages(), self.digest_so_far(own.id)));
        self.applied = applied.collect();
        self.own.extend(own.map(|own| own.id));
        let record = stream.header.map(|_| stream.records);
        result.map_err(|kind| Refused { kind, stream: number, record })
    }

    fn bytes(
        &mut self,
        stream: &mut Stream,
        number: usize,
        bytes: &[u8],
        feed: Feed,
    ) -> Result<(), Kind> {
        let mut taken = 0;
        for piece in feed.each(bytes) {
            stream.pending.extend(piece);
            taken += piece.len();
            let mut pending = std::mem::take(&mut stream.pending);
            let mut at = 0;
            while pending.len() - at >= stream.decoder.wants() && stream.phase != Phase::Over {
                if stream.records >= self.most {
                    return Ok(());
                }
                let wants = stream.decoder.wants();
                self.piece(stream, number, &pending[at..at + wants])?;
                at += wants;
            }
            pending.drain(..at);
            stream.pending = pending;
            if stream.phase == Phase::Over {
                break;
            }
        }
        if stream.phase != Phase::Over {
            return Err(kind_of_wire(&stream.decoder.cut(stream.pending.len())));
        }
        let rest = stream.pending.len() + bytes.len() - taken;
        let ends = rest == 0 || announces(stream, feature::ANSWERS) || self.has(Fault::Trailing);
        if ends { Ok(()) } else { Err("trailing") }
    }

    fn piece(&mut self, stream: &mut Stream, number: usize, bytes: &[u8]) -> Result<(), Kind> {
        match stream.decoder.take(bytes).map_err(|e| kind_of_wire(&e))? {
            Taken::Part => Ok(()),
            Taken::Header(header) => {
                header.check_key(&self.hashing).map_err(|e| kind_of_wire(&e))?;
                stream.header = Some(header);
                stream.bytes.copy_from_slice(bytes);
                Ok(())
            }
            Taken::Record(record) => {
                self.record(stream, number, record)?;
                stream.records += 1;
                Ok(())
            }
            Taken::Answer(_) => Err("an answer in a stream"),
        }
    }

    fn needs(&self, stream: &Stream, bit: u64) -> Result<(), Kind> {
        if announces(stream, bit) || self.has(Fault::Announced) { Ok(()) } else { Err("wrong") }
    }

    fn record(
        &mut self,
        stream: &mut Stream,
        number: usize,
        record: Record<'_>,
    ) -> Result<(), Kind> {
        if stream.phase == Phase::Sealed && !matches!(record, Record::Commit | Record::Abort(_)) {
            return Err("trailing");
        }
        let turn = |phase| if stream.phase == phase { Ok(()) } else { Err("wrong") };
        match record {
            Record::Vm(shape) => {
                turn(Phase::Declaring)?;
                self.declare(stream, shape)
            }
            Record::Template(shape) => {
                turn(Phase::Declaring)?;
                self.needs(stream, feature::TEMPLATES)?;
                let ours = self.templates.iter().position(|(bytes, digest)| {
                    *digest == shape.digest && bytes.len() as u64 == shape.pages * PAGE_SIZE
                });
                if stream.templates.len() as u64 >= MAX_TEMPLATES {
                    return Err("wrong");
                }
                stream.templates.push((u32::try_from(ours.ok_or("template")?).unwrap(), shape));
                Ok(())
            }
            Record::Native(part) => {
                turn(Phase::Open)?;
                self.native(stream, part)
            }
            Record::Pool(shape) => {
                turn(Phase::Declaring)?;
                self.needs(stream, feature::VMM)?;
                let alone = !shape.is_own() || shape.member == 0 && shape.others.is_empty();
                if std::mem::replace(&mut stream.vmm.pool, true) || stream.own.is_empty() || !alone
                {
                    return Err("wrong");
                }
                if shape.is_own() { Ok(()) } else { Err("group") }
            }
            Record::Keep(keeps) => {
                turn(Phase::Open)?;
                self.needs(stream, feature::VMM)?;
                stream.vmm.keeps = keeps;
                if stream.vmm.pool && !stream.vmm.ready { Ok(()) } else { Err("wrong") }
            }
            Record::Begin => {
                turn(Phase::Declaring)?;
                if stream.own.iter().all(|own| own.shape.foreign) {
                    return Err("wrong");
                }
                stream.phase = Phase::Open;
                Ok(())
            }
            Record::Pages(pages) => {
                turn(Phase::Open)?;
                self.pages(stream, &pages)
            }
            Record::Round(round) => {
                turn(Phase::Open)?;
                self.needs(stream, feature::ROUNDS)?;
                let follows = round == stream.round + 1 || self.has(Fault::Round);
                if announces(stream, feature::VMM) || !follows {
                    return Err("wrong");
                }
                stream.round = round;
                for own in stream.own.iter().filter(|own| !own.shape.foreign) {
                    self.ledger.readiness(own.id).map_err(|e| kind_of_ledger(&e))?;
                    self.ledger.next_round(own.id);
                }
                Ok(())
            }
            Record::End { vm, digest } => {
                turn(Phase::Open)?;
                let early = announces(stream, feature::VMM) && !stream.vmm.ready;
                let own = stream.own.get_mut(vm as usize).filter(|own| !own.shape.foreign);
                let own = own.filter(|own| own.ended.is_none() && !early).ok_or("wrong")?;
                let id = own.id;
                own.ended = Some(digest);
                if !self.whole(id, digest, false)? {
                    self.pending.push((number, id, digest));
                }
                Ok(())
            }
            Record::Seal(seal) => {
                turn(Phase::Open)?;
                if stream.own.iter().any(|own| !own.shape.foreign && own.ended.is_none()) {
                    return Err("wrong");
                }
                if seal != self.seal(stream) && !self.has(Fault::Seal) {
                    return Err("wrong");
                }
                let answers = announces(stream, feature::ANSWERS);
                stream.phase = if answers { Phase::Sealed } else { Phase::Over };
                Ok(())
            }
            Record::Commit => {
                turn(Phase::Sealed)?;
                stream.phase = Phase::Over;
                Ok(())
            }
            Record::Abort(_) => Err("aborted"),
            Record::Resolve(_) => {
                self.needs(stream, feature::ANSWERS)?;
                if stream.records > 0 {
                    return Err("wrong");
                }
                stream.phase = Phase::Over;
                Ok(())
            }
            Record::Passed(_) => Ok(()),
        }
    }

    fn native(&self, stream: &mut Stream, part: Native<'_>) -> Result<(), Kind> {
        self.needs(stream, feature::VMM)?;
        let ended = stream.own.iter().any(|own| own.ended.is_some());
        if ended || stream.vmm.ready && !matches!(part, Native::Bytes(_)) {
            return Err("wrong");
        }
        if !self.has(Fault::Native) {
            stream.vmm.seal.add(&self.hashing, part);
        }
        match part {
            Native::Bytes(bytes) => stream.vmm.state.extend(bytes),
            Native::Ready(_) => stream.vmm.ready = true,
            Native::Named => {}
        }
        Ok(())
    }

    fn declare(&mut self, stream: &mut Stream, shape: VmShape) -> Result<(), Kind> {
        let is_vmm = announces(stream, feature::VMM);
        if is_vmm && (shape.foreign || !stream.own.is_empty()) {
            return Err("wrong");
        }
        let names = || stream.own.iter().map(|own| &own.shape.name);
        if stream.own.len() as u64 >= MAX_VMS || names().any(|name| *name == shape.name) {
            return Err("wrong");
        }
        let id = if shape.foreign {
            self.needs(stream, feature::FOREIGN)?;
            self.ledger.refer(&shape.name, &shape.blocks)
        } else {
            self.ledger.declare(&shape.name, &shape.blocks)
        };
        let id = id.map_err(|e| kind_of_ledger(&e))?;
        if is_vmm {
            self.ledger.comes_as_it_likes(id);
        }
        stream.own.push(Own { id, shape, ended: None });
        Ok(())
    }

    /// As `docs/FORMAT.md` has it in 3.9.
    fn seal(&self, stream: &Stream) -> [u8; 16] {
        let mut all = stream.bytes.to_vec();
        for own in &stream.own {
            let text = |all: &mut Vec<u8>, text: &str| {
                all.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
                all.extend(text.bytes());
            };
            all.push(u8::from(own.shape.foreign));
            text(&mut all, &own.shape.name);
            all.extend(u32::try_from(own.shape.blocks.len()).unwrap().to_le_bytes());
            for (label, pages) in &own.shape.blocks {
                text(&mut all, label);
                all.extend(pages.to_le_bytes());
            }
            all.extend(own.ended.iter().flatten());
        }
        for (_, template) in &stream.templates {
            all.extend(template.pages.to_le_bytes());
            all.extend(template.digest);
        }
        if announces(stream, feature::VMM) {
            all.extend(stream.vmm.seal.0);
        }
        self.hashing.seal(&all)
    }

    fn pages(&mut self, stream: &mut Stream, pages: &Pages<'_>) -> Result<(), Kind> {
        let own = stream.own.get(pages.vm as usize).filter(|own| !own.shape.foreign);
        let own = own.ok_or("wrong")?;
        if own.ended.is_some() && !self.has(Fault::Ended) {
            return Err("wrong");
        }
        let id = own.id;
        let is_vmm = announces(stream, feature::VMM);
        let fits = |op: &PageOp| match op.op {
            Op::Pool { .. } => is_vmm && stream.vmm.pool,
            Op::Skip => is_vmm,
            Op::Same { .. } | Op::Unused => !is_vmm,
            Op::Packed { base: Some(Base::Earlier), .. } => !is_vmm,
            _ => true,
        };
        if !pages.ops.iter().all(fits) || stream.vmm.ready && !self.has(Fault::Ready) {
            return Err("wrong");
        }
        let unpacked = self.unpack(stream, id, pages)?;
        let all: u64 = pages.ops.iter().map(|op| op.pages).sum();
        match self.ledger.arrive(id, pages.page, all) {
            Err(LedgerError::Twice { .. }) if self.has(Fault::Twice) => {}
            other => other.map_err(|e| kind_of_ledger(&e))?,
        }
        let (mut page, mut rest, mut unpacked) = (pages.page, pages.payload, &unpacked[..]);
        for op in &pages.ops {
            let (payload, after) = rest.split_at(usize::try_from(op.payload()).unwrap());
            rest = if self.has(Fault::Payload) && op.payload() == PAGE_SIZE {
                pages.payload
            } else {
                after
            };
            self.operation(stream, id, page, op, payload, &mut unpacked)?;
            page += op.pages;
        }
        Ok(())
    }

    fn operation(
        &mut self,
        stream: &mut Stream,
        id: VmId,
        page: u64,
        op: &PageOp,
        payload: &[u8],
        unpacked: &mut &[u8],
    ) -> Result<(), Kind> {
        let pages = op.pages;
        let done = match op.op {
            Op::Zero => self.ledger.settle(id, page, pages, Place::Zero),
            Op::Unused => self.ledger.settle(id, page, pages, Place::Unused),
            Op::Template { template, page: of } => {
                let file = stream.templates.get(template as usize).ok_or("wrong")?.0;
                let of = if self.has(Fault::Template) { of.saturating_sub(1) } else { of };
                self.ledger.settle(id, page, pages, Place::Template { file, page: of })
            }
            Op::Same { vm, page: of } => {
                let other = stream.own.get(vm as usize).ok_or("wrong")?;
                let itself = other.id == id && of < page + pages && page < of + pages;
                if itself && !self.has(Fault::Itself) || other.shape.foreign && stream.round > 0 {
                    return Err("wrong");
                }
                self.ledger.same(id, page, pages, (other.id, of), other.shape.foreign)
            }
            Op::Skip => Ok(()),
            Op::Pool { member, page: of } => {
                let of = if self.has(Fault::Pool) { of.saturating_sub(1) } else { of };
                for i in 0..pages {
                    let at = usize::try_from(of + i).unwrap();
                    let place = stream.vmm.kept.get(at).filter(|_| member == 0);
                    let _ = self.ledger.settle(id, page + i, 1, *place.ok_or("wrong")?);
                }
                Ok(())
            }
            Op::Bytes => {
                self.land(id, page, payload, &mut stream.vmm);
                Ok(())
            }
            Op::Packed { .. } | Op::More => {
                let (bytes, after) = unpacked.split_at(usize::try_from(pages).unwrap() * PAGE);
                self.land(id, page, bytes, &mut stream.vmm);
                *unpacked = after;
                Ok(())
            }
        };
        done.map_err(|e| kind_of_ledger(&e))
    }

    fn land(&mut self, id: VmId, first: u64, bytes: &[u8], vmm: &mut Vmm) {
        for (page, bytes) in (first..).zip(bytes.chunks(PAGE)) {
            if is_zero(bytes) && !self.has(Fault::ZeroBytes) {
                let _ = self.ledger.settle(id, page, 1, Place::Zero);
                if vmm.keeps && !self.has(Fault::KeptZero) {
                    vmm.kept.push(Place::Zero);
                }
                continue;
            }
            let slot = self.ledger.slots(1);
            self.pool.extend(bytes);
            if vmm.keeps || self.has(Fault::Keep) {
                vmm.kept.push(Place::Pool { page: slot });
            }
            let hash: PageHash = self.hashing.page(bytes);
            self.ledger.landed(id, page, slot, &[hash]);
        }
    }

    fn unpack(&self, stream: &Stream, id: VmId, pages: &Pages<'_>) -> Result<Vec<u8>, Kind> {
        let (mut page, mut rest, mut all) = (pages.page, pages.payload, Vec::new());
        for op in &pages.ops {
            let (payload, after) = rest.split_at(usize::try_from(op.payload()).unwrap());
            rest = after;
            if let Op::Packed { chunk, with, base, .. } = op.op {
                let size = usize::try_from(chunk).unwrap() * PAGE;
                let base =
                    base.map(|base| self.base(stream, id, page, op.pages, base)).transpose()?;
                let mut out = vec![0; size];
                self.one(stream, with, payload, base.as_deref(), &mut out)?;
                all.extend(out);
            }
            page += op.pages;
        }
        Ok(all)
    }

    fn one(
        &self,
        stream: &Stream,
        with: Packing,
        packed: &[u8],
        base: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), Kind> {
        let fits = match with {
            Packing::Lz4 => Lz4.unpack(packed, base, out).is_ok(),
            Packing::Zstd => Zstd::default().unpack(packed, base, out).is_ok(),
            Packing::Xor => Xor.unpack(packed, base, out).is_ok(),
            Packing::Exec => {
                self.needs(stream, feature::EXEC)?;
                self.given.exec && unfill(packed, out)
            }
        };
        if fits || self.has(Fault::Unpacking) { Ok(()) } else { Err("packed") }
    }

    fn base(
        &self,
        stream: &Stream,
        id: VmId,
        page: u64,
        pages: u64,
        base: Base,
    ) -> Result<Vec<u8>, Kind> {
        let mut out = vec![0; usize::try_from(pages).unwrap() * PAGE];
        match base {
            Base::Template { template, page } => {
                let file = stream.templates.get(template as usize).ok_or("wrong")?.0;
                if page + pages > (self.templates[file as usize].0.len() / PAGE) as u64 {
                    return Err("wrong");
                }
                self.read(Place::Template { file, page }, &mut out);
            }
            Base::Earlier => {
                self.needs(stream, feature::ROUNDS)?;
                for (page, out) in (page..).zip(out.chunks_mut(PAGE)) {
                    let place = self.ledger.places(id).get(page);
                    // a page that waits for another stream has no content yet
                    let place = place.filter(|place| !matches!(place, Place::Local { .. }));
                    let place = place.ok_or("wrong")?;
                    if !self.has(Fault::Earlier) {
                        self.read(place, out);
                    }
                }
            }
        }
        Ok(out)
    }
}

fn announces(stream: &Stream, bit: u64) -> bool {
    stream.header.is_some_and(|header| header.required & bit != 0)
}
