//! The receiver: a stream in, memories out. Several streams can fill one store at once.
//!
//! Nothing that arrives is visible before its stream is complete, its digests fit and, where the
//! sender waits for answers, the sender has given the memory up. What may be written before is only
//! what lies in slots that no map names. Any error gives up the VMs of that stream and of no other.

mod apply;
mod error;
mod kept;
mod native;
mod rules;

pub use error::ReceiveError;
pub use native::{Vmm, VmmPlace};

use crate::base::digest::{Hashing, MemoryDigest};
use crate::migrate::codecs::Codecs;
use crate::migrate::seal::Seal;
use crate::migrate::templates::KnownTemplate;
use crate::migrate::transaction::{Receiver, ReceiverEvent};
use crate::migrate::wait::Desk;
use crate::placement::ledger::VmId;
use crate::store::{Store, Whole};
use crate::wire::answer::Answer;
use crate::wire::decode::{Decoder, Taken};
use crate::wire::header::{Direction, Header, Session, feature};
use crate::wire::limits::{MAX_TEMPLATES, MAX_VMS};
use crate::wire::record::{Record, TemplateShape, VmShape};
use crate::wire::{Encoder, WireError};
use std::io::{BufReader, Read, Write};
use std::time::Duration;

/// Where pages should begin in the buffer: the kernel copies them there up to twice as fast as to
/// any other place (`rep movsb`, docs/PERFORMANCE.md). What comes before them in a record is mostly as
/// long as in the record before.
const LINE: usize = 64;

/// What a receiver is, for all its streams.
#[derive(Debug)]
pub struct Site {
    /// What has arrived.
    pub desk: Desk,
    /// Where it is kept.
    pub store: Box<dyn Store>,
    /// Templates that senders may refer to, in the order of the ledger.
    pub templates: Vec<KnownTemplate>,
    /// What it can unpack.
    pub codecs: Codecs,
    /// How pages are hashed.
    pub hashing: Hashing,
    /// Longest time to wait for pages of other streams.
    pub wait: Duration,
    /// Read everything back from the store before it counts as arrived.
    pub verify: bool,
    /// The VMM that waits for the stream, which then is a VMM's own.
    pub vmm: Option<VmmPlace>,
}

impl Site {
    /// With a ledger that knows the templates and continues the store.
    pub fn new(
        store: Box<dyn Store>,
        templates: Vec<KnownTemplate>,
        codecs: Codecs,
        hashing: Hashing,
        max_pages: u64,
    ) -> Self {
        let mut ledger =
            crate::placement::ledger::Ledger::new(hashing.clone(), store.slots(), max_pages);
        for template in &templates {
            ledger.add_template(template.hashes.clone());
        }
        let wait = Duration::from_secs(60);
        Self {
            desk: Desk::new(ledger),
            store,
            templates,
            codecs,
            hashing,
            wait,
            verify: false,
            vmm: None,
        }
    }
}

/// A VM that has arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrived {
    /// Its name.
    pub name: String,
    /// Its pages.
    pub pages: u64,
    /// Digest of its memory.
    pub digest: MemoryDigest,
    /// Of a VMM's stream that is kept: bytes of what is no memory (`NAME.qemu`).
    pub state_bytes: Option<u64>,
}

/// What became of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Received {
    /// These VMs are here.
    Committed {
        /// The session.
        session: Session,
        /// The VMs.
        vms: Vec<Arrived>,
        /// Bytes of the stream.
        bytes: u64,
        /// Distinct pages that it brought.
        slots: u64,
    },
    /// It asked what became of a session.
    Resolved {
        /// The session.
        session: Session,
        /// It was committed.
        committed: bool,
    },
}

/// The two directions of a stream, as a receiver has them.
#[derive(Debug)]
pub struct Ends<'a, R, W> {
    /// What the sender writes.
    pub input: R,
    /// Where answers go, if it can take any.
    pub answers: Option<&'a mut W>,
    /// Nothing may follow the stream.
    pub strict: bool,
}

/// Takes one stream. `on_pages` is told of every record of pages: how many they were.
///
/// # Errors
/// Whatever is wrong with it; the sender is told if it can hear, and nothing of it remains.
pub fn receive<R: Read, W: Write>(
    site: &Site,
    ends: Ends<'_, R, W>,
    on_pages: &dyn Fn(u64),
) -> Result<Received, ReceiveError> {
    let mut stream = Stream {
        site,
        input: BufReader::with_capacity(4096, ends.input),
        answers: ends.answers,
        encoder: None,
        decoder: Decoder::stream(),
        strict: ends.strict,
        header: None,
        declared: Vec::new(),
        templates: Vec::new(),
        phase: Phase::Declaring,
        round: 0,
        state: Receiver::Filling,
        scratch: apply::Scratch::default(),
        slots: 0,
        rules: None,
        relay: None,
        kept: None,
    };
    let result = stream.run(on_pages);
    if let Err(error) = &result {
        stream.give_up(error);
    }
    site.desk.stream_ended();
    result
}

/// A VM of the stream.
struct Declared {
    id: VmId,
    shape: VmShape,
    digest: Option<[u8; 16]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Declaring,
    Open,
    Sealed,
}

struct Stream<'a, R, W> {
    site: &'a Site,
    input: BufReader<R>,
    answers: Option<&'a mut W>,
    encoder: Option<Encoder>,
    decoder: Decoder,
    strict: bool,
    header: Option<Header>,
    declared: Vec<Declared>,
    /// Numbers of the ledger's templates, by number of the stream.
    templates: Vec<(u32, TemplateShape)>,
    phase: Phase,
    round: u32,
    state: Receiver,
    scratch: apply::Scratch,
    slots: u64,
    /// What a VMM's stream may say.
    rules: Option<rules::Rules>,
    /// A VMM's stream on its way to a VMM.
    relay: Option<native::Relay>,
    /// A VMM's stream that is kept.
    kept: Option<kept::Kept>,
}

impl<R: Read, W: Write> Stream<'_, R, W> {
    fn run(&mut self, on_pages: &dyn Fn(u64)) -> Result<Received, ReceiveError> {
        let (mut buffer, mut skew) = (Vec::new(), 0);
        loop {
            let wants = self.decoder.wants();
            if buffer.len() < skew + wants {
                buffer.resize(skew + wants, 0);
            }
            let bytes = &mut buffer[skew..skew + wants];
            let have = fill(&mut self.input, bytes)?;
            if have < wants {
                return Err(self.ended(have));
            }
            // the decoder is taken out for a moment: what it gives borrows the buffer alone
            let taken = self.decoder.take(bytes)?;
            if let Taken::Record(Record::Pages(pages)) = &taken {
                skew = (skew + pages.payload.as_ptr().align_offset(LINE)) % LINE;
            }
            let record = match taken {
                Taken::Part => continue,
                Taken::Header(header) => {
                    self.begin(header)?;
                    continue;
                }
                Taken::Record(record) => record,
                Taken::Answer(_) => return Err(WireError::Foreign.into()),
            };
            if let Record::Pages(pages) = &record {
                on_pages(pages.ops.iter().map(|op| op.pages).sum());
            }
            if let Some(received) = self.record(record)? {
                return Ok(received);
            }
        }
    }

    /// The stream ended when `have` of the next bytes had come.
    fn ended(&self, have: usize) -> ReceiveError {
        if have == 0 && self.decoder.is_between() && self.phase == Phase::Sealed {
            return ReceiveError::NotCommitted;
        }
        self.decoder.cut(have).into()
    }

    fn begin(&mut self, header: Header) -> Result<(), ReceiveError> {
        if header.required & feature::ANSWERS != 0 {
            let ours = Header { direction: Direction::Answers, required: 0, ..header };
            let encoder = Encoder::new(&ours);
            let answers = self.answers.as_mut().ok_or(ReceiveError::NoWayBack)?;
            answers.write_all(encoder.header()).map_err(ReceiveError::Answer)?;
            self.encoder = Some(encoder);
        } else {
            self.answers = None;
        }
        self.header = Some(header);
        // only now, so that the sender can be told
        header.check_key(&self.site.hashing)?;
        let is_native = header.required & feature::VMM != 0;
        self.rules = is_native.then(rules::Rules::default);
        if self.site.vmm.is_some() && !is_native {
            return Err(ReceiveError::NoVmmStream);
        }
        if is_native && self.site.vmm.is_none() && !self.site.store.takes_state() {
            return Err(ReceiveError::NoState);
        }
        if header.required & feature::ROUNDS != 0 && !self.site.store.takes_rounds() {
            return Err(ReceiveError::NoRounds);
        }
        Ok(())
    }

    fn needs(&self, bit: u64, what: &'static str) -> Result<(), WireError> {
        let has = self.header.is_some_and(|header| header.required & bit != 0);
        if has { Ok(()) } else { Err(WireError::Wrong(what)) }
    }

    fn in_phase(&self, phase: Phase, what: &'static str) -> Result<(), WireError> {
        if self.phase == phase { Ok(()) } else { Err(WireError::Wrong(what)) }
    }

    fn record(&mut self, record: Record<'_>) -> Result<Option<Received>, ReceiveError> {
        if self.phase == Phase::Sealed && !matches!(record, Record::Commit | Record::Abort(_)) {
            return Err(WireError::Trailing.into());
        }
        match record {
            Record::Vm(shape) => self.vm(shape)?,
            Record::Template(shape) => self.template(shape)?,
            Record::Begin => {
                self.in_phase(Phase::Declaring, "it begins twice")?;
                if self.declared.iter().all(|vm| vm.shape.foreign) {
                    return Err(WireError::Wrong("it has no VM of its own").into());
                }
                self.phase = Phase::Open;
                self.answer(&Answer::Welcome)?;
            }
            Record::Pages(pages) => {
                self.in_phase(Phase::Open, "pages come before it begins")?;
                self.pages(&pages)?;
            }
            Record::Round(number) => {
                self.needs(feature::ROUNDS, "it has rounds and does not say so")?;
                if self.rules.is_some() {
                    return Err(WireError::Wrong("a VMM's stream has a round").into());
                }
                self.in_phase(Phase::Open, "a round comes before it begins")?;
                self.next_round(number)?;
            }
            Record::End { vm, digest } => {
                self.in_phase(Phase::Open, "a VM is complete before it begins")?;
                let vm = self.declared.get_mut(vm as usize).filter(|vm| !vm.shape.foreign);
                let vm = vm.filter(|vm| vm.digest.is_none());
                let vm = vm.ok_or(WireError::Wrong("a VM that is not open is complete"))?;
                self.rules.iter().try_for_each(rules::Rules::end)?;
                vm.digest = Some(digest);
            }
            Record::Seal(seal) => return self.sealed(seal),
            Record::Commit => return self.commit().map(Some),
            Record::Abort(why) => return Err(ReceiveError::Aborted(why)),
            Record::Resolve(session) => return self.resolve(session).map(Some),
            Record::Native(part) => {
                self.in_phase(Phase::Open, "a part of a VMM's stream comes before it begins")?;
                self.native(part)?;
            }
            Record::Pool(shape) => {
                self.in_phase(Phase::Declaring, "a pool is declared after it has begun")?;
                self.pool(&shape)?;
            }
            Record::Keep(keep) => {
                self.in_phase(Phase::Open, "pages are kept before it begins")?;
                self.keep(keep)?;
            }
            Record::Passed(_) => {}
        }
        Ok(None)
    }

    fn vm(&mut self, shape: VmShape) -> Result<(), ReceiveError> {
        self.in_phase(Phase::Declaring, "a VM is declared after it has begun")?;
        if self.declared.len() as u64 >= MAX_VMS {
            return Err(WireError::Wrong("it has too many VMs").into());
        }
        if self.declared.iter().any(|vm| vm.shape.name == shape.name) {
            return Err(WireError::Wrong("it declares a VM twice").into());
        }
        self.rules.iter_mut().try_for_each(|rules| rules.vm(shape.foreign))?;
        let id = if shape.foreign {
            self.needs(feature::FOREIGN, "it refers to VMs of other streams and does not say so")?;
            self.site.desk.lock().refer(&shape.name, &shape.blocks)?
        } else {
            self.site.store.expect(&shape.name, &shape.blocks)?;
            let id = self.site.desk.lock().declare(&shape.name, &shape.blocks)?;
            if self.rules.is_some() {
                if self.site.vmm.is_some() {
                    self.relay = Some(native::Relay::new(self.site, &shape)?);
                } else {
                    self.kept = Some(kept::Kept::default());
                    self.site.desk.lock().comes_as_it_likes(id);
                }
            }
            id
        };
        self.declared.push(Declared { id, shape, digest: None });
        Ok(())
    }

    fn template(&mut self, shape: TemplateShape) -> Result<(), ReceiveError> {
        self.needs(feature::TEMPLATES, "it has templates and does not say so")?;
        self.in_phase(Phase::Declaring, "a template is declared after it has begun")?;
        if self.templates.len() as u64 >= MAX_TEMPLATES {
            return Err(WireError::Wrong("it has too many templates").into());
        }
        let ours = (0u32..).zip(&self.site.templates);
        let mut ours = ours.filter(|(_, t)| t.digest == shape.digest && t.pages == shape.pages);
        let (number, _) = ours.next().ok_or_else(|| ReceiveError::NoTemplate {
            label: shape.label.clone(),
            pages: shape.pages,
        })?;
        self.templates.push((number, shape));
        Ok(())
    }

    fn next_round(&mut self, number: u32) -> Result<(), ReceiveError> {
        if number != self.round + 1 {
            return Err(WireError::Wrong("a round does not follow the one before").into());
        }
        self.round = number;
        for vm in self.declared.iter().filter(|vm| !vm.shape.foreign) {
            let mut ledger = self.site.desk.lock();
            ledger.readiness(vm.id)?; // each page comes in the first round
            ledger.next_round(vm.id);
        }
        Ok(())
    }

    fn answer(&mut self, answer: &Answer) -> Result<(), ReceiveError> {
        if let (Some(encoder), Some(answers)) = (&mut self.encoder, self.answers.as_mut()) {
            let bytes = encoder.answer(answer);
            answers
                .write_all(&bytes)
                .and_then(|()| answers.flush())
                .map_err(ReceiveError::Answer)?;
        }
        Ok(())
    }

    fn own(&self) -> impl Iterator<Item = &Declared> {
        self.declared.iter().filter(|vm| !vm.shape.foreign)
    }

    fn session(&self) -> Session {
        self.header.map_or(Session([0; 16]), |header| header.session)
    }

    fn sealed(&mut self, seal: [u8; 16]) -> Result<Option<Received>, ReceiveError> {
        self.in_phase(Phase::Open, "it is sealed before it has begun")?;
        if self.own().any(|vm| vm.digest.is_none()) {
            return Err(WireError::Wrong("it is sealed before all VMs are complete").into());
        }
        if self.expected_seal() != seal {
            return Err(WireError::Wrong("its seal does not fit what it declared").into());
        }
        for vm in self.own() {
            let wanted = MemoryDigest::from_bytes(vm.digest.unwrap_or_default());
            match self.relay {
                Some(_) => self.relayed(wanted)?,
                None => self.site.desk.whole(vm.id, wanted, self.site.wait)?,
            }
        }
        if let Some(changed) = self.templates.iter().find_map(|(number, _)| {
            let template = &self.site.templates[*number as usize];
            template.has_changed().then(|| template.path.clone())
        }) {
            return Err(ReceiveError::TemplateChanged(changed));
        }
        if self.site.verify && self.relay.is_none() {
            self.read_back()?;
        }
        self.phase = Phase::Sealed;
        let two_way = self.encoder.is_some();
        if !two_way && self.strict && fill(&mut self.input, &mut [0])? > 0 {
            return Err(WireError::Trailing.into());
        }
        match &mut self.relay {
            Some(relay) => relay.prepare(two_way)?,
            None => self.prepare()?,
        }
        self.state = self.state.on(ReceiverEvent::Prepared)?;
        if two_way {
            self.answer(&Answer::Sealed(seal))?;
            return Ok(None);
        }
        self.commit().map(Some)
    }

    fn expected_seal(&self) -> [u8; 16] {
        // as it came: it may have what a later version put there, and the sender's seal is over that
        let mut seal = Seal::new(self.decoder.header());
        for vm in &self.declared {
            seal.vm(&vm.shape, vm.digest);
        }
        for (_, template) in &self.templates {
            seal.template(template);
        }
        let native = self.relay.as_ref().map(native::Relay::seal);
        let native = native.or_else(|| self.kept.as_ref().map(kept::Kept::seal));
        native.iter().for_each(|native| seal.native(&native.0));
        seal.finish(&self.site.hashing)
    }

    fn prepare(&self) -> Result<(), ReceiveError> {
        let session = self.session().to_string();
        // the places are copied out, so that other streams go on while ours are written
        let places: Vec<_> = {
            let ledger = self.site.desk.lock();
            self.own().map(|vm| ledger.places(vm.id).clone()).collect()
        };
        let whole: Vec<Whole<'_>> = self
            .own()
            .zip(&places)
            .map(|(vm, places)| Whole { name: &vm.shape.name, blocks: &vm.shape.blocks, places })
            .collect();
        if let (Some(kept), [vm]) = (&self.kept, whole.as_slice()) {
            self.site.store.attach(&session, vm.name, kept.state())?;
        }
        Ok(self.site.store.prepare(&session, &whole)?)
    }

    fn commit(&mut self) -> Result<Received, ReceiveError> {
        self.in_phase(Phase::Sealed, "it commits before it is sealed")?;
        let session = self.session();
        let names: Vec<String> = self.own().map(|vm| vm.shape.name.clone()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        if let Some(mut relay) = self.relay.take() {
            if let Err(error) = relay.commit() {
                self.relay = Some(relay); // it is given up, and the pool with it
                return Err(error);
            }
            // the guest runs: that its pages cannot be kept for others is no reason to refuse it
            let _ = relay.end(true);
        }
        let published = self.site.store.publish(&session.to_string(), &names);
        if let Err(error) = published {
            // Once the journal has the session it is ours, though a map has no name yet: it gets
            // one when the herd is opened next. The sender must not go on with it.
            if self.site.store.is_committed(&session.to_string()) {
                self.state = self.state.on(ReceiverEvent::Commit)?;
                let _ = self.answer(&Answer::Committed(session));
            }
            return Err(error.into());
        }
        self.state = self.state.on(ReceiverEvent::Commit)?;
        let state_bytes = self.kept.as_ref().map(|kept| kept.state().len() as u64);
        let vms = self.own().map(|vm| Arrived {
            state_bytes,
            name: vm.shape.name.clone(),
            pages: vm.shape.pages(),
            digest: MemoryDigest::from_bytes(vm.digest.unwrap_or_default()),
        });
        let vms = vms.collect();
        // it is ours, whether the sender hears of it or not: it can ask
        let _ = self.answer(&Answer::Committed(session));
        Ok(Received::Committed { session, vms, bytes: self.decoder.read(), slots: self.slots })
    }

    fn resolve(&mut self, session: Session) -> Result<Received, ReceiveError> {
        self.needs(feature::ANSWERS, "it asks and takes no answer")?;
        if self.decoder.frames() != 1 {
            return Err(
                WireError::Wrong("it asks for a session after it has said something else").into()
            );
        }
        let committed = self.site.store.resolve(&session.to_string())?;
        let committed = committed.ok_or(ReceiveError::NoJournal)?;
        self.answer(&Answer::State(committed))?;
        Ok(Received::Resolved { session, committed })
    }

    /// Nothing of this stream remains, and the sender is told why.
    fn give_up(&mut self, error: &ReceiveError) {
        if self.state == Receiver::Committed {
            return;
        }
        // the VMM sees its stream end in the middle, and gives up
        let _ = self.relay.take().map(|relay| relay.end(false));
        let names: Vec<&str> = self.own().map(|vm| vm.shape.name.as_str()).collect();
        self.site.store.forget(&self.session().to_string(), &names);
        let ids: Vec<VmId> = self.own().map(|vm| vm.id).collect();
        self.site.desk.give_up(&ids);
        if self.phase == Phase::Sealed && self.encoder.is_some() {
            // the sender may have asked for the commit: what it hears now must hold for ever. On a
            // one-way medium nobody hears anything, and a file can be received again when there is
            // room
            let _ = self.site.store.resolve(&self.session().to_string());
        }
        let _ = self.answer(&Answer::Refused(error.refusal(), error.said()));
        self.state = Receiver::Aborted;
    }
}

/// Reads until `out` is full or the input ends; returns how much there was.
fn fill(input: &mut impl Read, out: &mut [u8]) -> Result<usize, ReceiveError> {
    let mut done = 0;
    while done < out.len() {
        match input.read(&mut out[done..]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(ReceiveError::Read(e)),
        }
    }
    Ok(done)
}
