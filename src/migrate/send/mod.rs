//! The sender: memories in, a stream out.
//!
//! One thread reads facts and content, asks the filters and packs; another writes (`lane`). The buffers go round, so that memory does not grow with the VM.

mod ask;
mod error;
mod lane;
mod link;
mod memories;
mod native;
mod packer;
mod parcel;
mod reader;
mod settle;
mod writer;

pub use error::SendError;
pub use link::Link;
pub use native::{VmmVm, send_vmm};

use crate::base::buffer::Buffer;
use crate::base::digest::{Hashing, MemoryDigest};
use crate::filter::bill::Account;
use crate::filter::chain::{Chain, Name};
use crate::migrate::codecs::Codecs;
use crate::migrate::seal::Seal;
use crate::migrate::templates::KnownTemplate;
use crate::migrate::transaction::{Sender, SenderEvent};
use crate::source::feed::Feed;
use crate::transport::{Channel, Source};
use crate::wire::answer::Answer;
use crate::wire::decode::{Decoder, Taken};
use crate::wire::header::{Direction, Header, Session, feature};
use crate::wire::pages::Packing;
use crate::wire::record::{PoolShape, TemplateShape, VmShape, as_label};
use crate::wire::{Encoder, Record, WireError};
use lane::Lane;
use memories::Memories;
use native::NativePart;
use parcel::Parcel;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};
use writer::Writer;

/// Parcels that wait to be written: 4 MiB.
const QUEUE: usize = 4;

/// A VM to be sent.
#[derive(Clone, Debug)]
pub struct SendVm<'a> {
    /// Its name at the far end.
    pub name: String,
    /// Its memory.
    pub feed: &'a dyn Feed,
    /// Another sender sends it; this one refers to its pages.
    pub foreign: bool,
    /// VMs of one trust group may be found to have equal pages.
    pub group: u32,
}

impl SendVm<'_> {
    /// Its pages.
    pub fn pages(&self) -> u64 {
        self.feed.blocks().iter().map(|(_, pages)| pages).sum()
    }
}

/// How to send.
#[derive(Debug)]
pub struct Options {
    /// The filters.
    pub chain: Chain,
    /// Filters stay on, also where they lose time, and the first codec is always used.
    pub keep_filters: bool,
    /// Bytes of memory in which the filter `xor` remembers what was sent.
    pub remember: u64,
    /// How pages are hashed.
    pub hashing: Hashing,
    /// Templates that the receiver has.
    pub templates: Vec<KnownTemplate>,
    /// What packs.
    pub codecs: Codecs,
    /// Memory stands still; or it runs and [`Self::live`] is set.
    pub still: bool,
    /// Send everything while it runs, then have it stand still ([`Watch::hold`]) and send what has
    /// changed.
    pub live: bool,
    /// Compare content also where page tables prove it.
    pub verify: bool,
    /// The session.
    pub session: Session,
    /// Random, for digests of pages that nobody else is to make.
    pub secret: [u8; 32],
    /// Take frames for proof of content. Only to show in a test what the proof is for.
    #[doc(hidden)]
    pub unproven: bool,
}

/// A VM that was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VmDone {
    vm: u32,
    digest: MemoryDigest,
}

/// A VM that was sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SentVm {
    /// Its name.
    pub name: String,
    /// Its pages.
    pub pages: u64,
    /// Digest of its memory.
    pub digest: MemoryDigest,
}

/// What was sent.
#[derive(Clone, PartialEq, Debug)]
pub struct Sent {
    /// The session.
    pub session: Session,
    /// The receiver has said that it has it. `false` on a one-way medium.
    pub confirmed: bool,
    /// The VMs.
    pub vms: Vec<SentVm>,
    /// Bytes of the stream.
    pub bytes: u64,
    /// The bill.
    pub filters: Vec<Account>,
    /// From the first byte to the last answer.
    pub time: Duration,
}

/// What a sender tells while it works.
pub trait Watch: Sync {
    /// So many more pages have gone.
    fn pages(&self, _pages: u64) {}

    /// Of memory that is sent while it runs: it is to stand still from now on.
    fn hold(&self) -> Result<(), String> {
        Ok(())
    }

    /// All has been read: did it stand still until now? What is said against it ends the attempt.
    fn stood_still(&self) -> Result<(), String> {
        Ok(())
    }

    /// The far end has everything: may it be told to commit? What is said against it ends the attempt.
    fn may_commit(&self) -> Result<(), String> {
        Ok(())
    }

    /// Who owns the memory now: told before it is acted on. What is said against it ends the
    /// attempt.
    fn state(&self, _state: Sender) -> Result<(), String> {
        Ok(())
    }
}

impl Watch for () {}

/// Sends VMs through a channel.
///
/// # Errors
/// Whatever failed. [`SendError::Unknown`] alone leaves open whether the receiver has the memory.
pub fn send(
    vms: &[SendVm<'_>],
    options: &Options,
    medium: &mut Channel,
    watch: &dyn Watch,
) -> Result<Sent, SendError> {
    let watched: &dyn Watch = watch;
    attempt(&mut Memories::new(vms, options, watched), options, medium, watch)
}

fn attempt(
    supply: &mut dyn Supply,
    options: &Options,
    medium: &mut Channel,
    watch: &dyn Watch,
) -> Result<Sent, SendError> {
    let start = Instant::now();
    let closed = || SendError::Write(io::Error::from(io::ErrorKind::BrokenPipe));
    let mut output = medium.output.take().ok_or_else(closed)?;
    let mut input = if medium.two_way { medium.input.take() } else { None };
    let link = Link::default();
    let header = header(supply.features(), options, input.is_some());
    let encoder = Encoder::new(&header);
    let mut attempt = Attempt {
        seal: Seal::new(encoder.header()),
        writer: Writer::new(output.as_mut(), encoder, &link),
        answers: input.as_deref_mut().map(|input| Answers::new(input, options.session)),
        state: Sender::Declaring,
        watch,
        options,
    };
    let result = attempt.run(&link, supply);
    let result = result.map_err(|error| attempt.give_up(error));
    let bytes = attempt.writer.bytes();
    let confirmed = attempt.state == Sender::Committed;
    drop(attempt);
    (medium.output, medium.input) = (Some(output), input.or(medium.input.take()));
    let (vms, filters) = result?;
    Ok(Sent { session: options.session, confirmed, vms, bytes, filters, time: start.elapsed() })
}

/// Asks the receiver what became of a session: did it commit?
///
/// # Errors
/// Where it cannot be asked, or does not know.
pub fn resolve(
    session: Session,
    hashing: &Hashing,
    own: Session,
    medium: &mut Channel,
) -> Result<bool, SendError> {
    let closed = || SendError::Write(io::Error::from(io::ErrorKind::BrokenPipe));
    let header = Header::new(Direction::Stream, feature::ANSWERS, own, hashing);
    let link = Link::default();
    let output = medium.output.as_deref_mut().ok_or_else(closed)?;
    let mut writer = Writer::new(output, Encoder::new(&header), &link);
    writer.header()?;
    writer.record(&Record::Resolve(session))?;
    writer.flush()?;
    let input = medium.input.as_deref_mut().ok_or_else(closed)?;
    match Answers::new(input, own).next()? {
        Answer::State(committed) => Ok(committed),
        Answer::Refused(code, why) => Err(SendError::Refused { code, why }),
        _ => Err(SendError::BadAnswer(WireError::Wrong("it answers something else"))),
    }
}

fn header(features: u64, options: &Options, answers: bool) -> Header {
    let mut required = features;
    let mut need = |bit: u64, needed: bool| required |= if needed { bit } else { 0 };
    need(feature::ANSWERS, answers);
    need(feature::TEMPLATES, !options.templates.is_empty());
    need(feature::EXEC, options.chain.names.iter().any(|name| matches!(name, Name::Exec(_))));
    Header::new(Direction::Stream, required, options.session, &options.hashing)
}

/// The receiver's answers.
struct Answers<'a> {
    input: &'a mut (dyn Source + 'static),
    decoder: Decoder,
    session: Session,
}

impl<'a> Answers<'a> {
    fn new(input: &'a mut (dyn Source + 'static), session: Session) -> Self {
        Self { input, decoder: Decoder::answers(), session }
    }

    fn next(&mut self) -> Result<Answer, SendError> {
        loop {
            let mut buffer = vec![0; self.decoder.wants()];
            let mut done = 0;
            while done < buffer.len() {
                match self.input.read(&mut buffer[done..]) {
                    Ok(0) => return Err(SendError::BadAnswer(self.decoder.cut(done))),
                    Ok(n) => done += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(SendError::Answer(e)),
                }
            }
            match self.decoder.take(&buffer).map_err(SendError::BadAnswer)? {
                Taken::Answer(answer) => return Ok(answer),
                Taken::Header(header) if header.session != self.session => {
                    return Err(SendError::BadAnswer(WireError::Wrong(
                        "it answers another session",
                    )));
                }
                _ => {}
            }
        }
    }

    /// Has the receiver said something?
    fn ready(&mut self) -> bool {
        self.input.ready()
    }
}

struct Attempt<'a> {
    seal: Seal,
    writer: Writer<'a>,
    answers: Option<Answers<'a>>,
    state: Sender,
    watch: &'a dyn Watch,
    options: &'a Options,
}

type Done = (Vec<SentVm>, Vec<Account>);

impl Attempt<'_> {
    fn run(&mut self, link: &Link, supply: &mut dyn Supply) -> Result<Done, SendError> {
        self.writer.header()?;
        let shapes = supply.shapes();
        for shape in &shapes {
            self.writer.record(&Record::Vm(shape.clone()))?;
        }
        let templates: Vec<TemplateShape> = self.options.templates.iter().map(label).collect();
        for template in &templates {
            self.writer.record(&Record::Template(template.clone()))?;
        }
        if let Some(pool) = supply.pool() {
            self.writer.record(&Record::Pool(pool))?;
        }
        self.writer.record(&Record::Begin)?;
        self.writer.flush()?;
        self.expect(SenderEvent::Welcomed, |answer| matches!(answer, Answer::Welcome))?;
        self.writer.lend();
        let (done, accounts) = self.stream(link, supply)?;
        self.watch.stood_still().map_err(SendError::Source)?;
        supply.stood_still()?;
        for (number, shape) in shapes.iter().enumerate() {
            let own = done.iter().find(|vm| vm.vm as usize == number);
            self.seal.vm(shape, own.map(|vm| vm.digest.to_bytes()));
        }
        templates.iter().for_each(|template| self.seal.template(template));
        supply.native_seal().iter().for_each(|native| self.seal.native(native));
        if let Some(changed) = self.options.templates.iter().find(|t| t.has_changed()) {
            return Err(SendError::TemplateChanged(changed.path.clone()));
        }
        let seal = self.seal.finish(&self.options.hashing);
        // Told before it goes out: where nobody can answer, the seal is all that the far end needs
        // to have the memory.
        self.writer.flush()?;
        self.step(SenderEvent::AllSent)?;
        self.writer.record(&Record::Seal(seal))?;
        self.writer.flush()?;
        if self.answers.is_some() {
            self.commit(seal)?;
        }
        let sent = |vm: &VmDone| {
            let of = &shapes[vm.vm as usize];
            SentVm { name: of.name.clone(), pages: of.pages(), digest: vm.digest }
        };
        Ok((done.iter().map(sent).collect(), accounts))
    }

    /// Everything is there: who commits first, and who hears of it.
    fn commit(&mut self, seal: [u8; 16]) -> Result<(), SendError> {
        let mut theirs = [0; 16];
        self.expect_with(|answer| match answer {
            Answer::Sealed(seal) => {
                theirs = *seal;
                true
            }
            _ => false,
        })?;
        if theirs != seal {
            return Err(SendError::OtherSeal);
        }
        self.watch.may_commit().map_err(SendError::Source)?;
        // from here on, killed or not, we do not know; so it is told before the word goes out
        self.step(SenderEvent::Prepared)?;
        self.writer.record(&Record::Commit)?;
        self.writer.flush()?;
        let session = self.options.session;
        self.expect_with(|answer| *answer == Answer::Committed(session))?;
        self.step(SenderEvent::Committed)
    }

    fn step(&mut self, event: SenderEvent) -> Result<(), SendError> {
        // on a one-way medium nobody welcomes us
        if self.answers.is_none() && self.state == Sender::Declaring {
            self.state = Sender::Agreed;
        }
        self.state = self.state.on(event)?;
        self.watch.state(self.state).map_err(SendError::Source)
    }

    fn expect(
        &mut self,
        event: SenderEvent,
        is: impl FnMut(&Answer) -> bool,
    ) -> Result<(), SendError> {
        if self.answers.is_none() {
            return Ok(());
        }
        self.expect_with(is)?;
        self.step(event)
    }

    fn expect_with(&mut self, mut is: impl FnMut(&Answer) -> bool) -> Result<(), SendError> {
        let Some(answers) = &mut self.answers else { return Ok(()) };
        match answers.next()? {
            Answer::Refused(code, why) => Err(SendError::Refused { code, why }),
            answer if is(&answer) => Ok(()),
            _ => Err(SendError::BadAnswer(WireError::Wrong("it answers something else"))),
        }
    }

    /// The pages.
    fn stream(
        &mut self,
        link: &Link,
        supply: &mut dyn Supply,
    ) -> Result<(Vec<VmDone>, Vec<Account>), SendError> {
        let lane = Lane::new(self);
        let read = std::thread::scope(|scope| {
            let (to_writer, from_reader) = sync_channel::<Item>(QUEUE);
            let lane = &lane;
            scope.spawn(move || lane.write_all(from_reader));
            supply.run(link, &ToWriter { lane, to_writer })
        });
        lane.end(read)
    }

    /// Writes one item; buffers that are free by that go to `spare`.
    fn write(&mut self, spare: &mut Vec<Buffer>, item: Item) -> Result<Option<VmDone>, SendError> {
        // a refusal is heard before the next write fails
        if self.answers.as_mut().is_some_and(Answers::ready) {
            self.expect_with(|_| false)?;
        }
        match item {
            Item::Parcel(parcel) => {
                let pages = parcel.pages();
                let buffer = self.writer.parcel(parcel)?;
                spare.extend(buffer.into_iter().chain(self.writer.back()));
                self.watch.pages(pages);
                Ok(None)
            }
            Item::LastRound => self.writer.record(&Record::Round(1)).map(|()| None),
            Item::Native(part) => {
                self.writer.record(&Record::Native(part.as_wire())).map(|()| None)
            }
            Item::Keep(keep) => self.writer.record(&Record::Keep(keep)).map(|()| None),
            Item::Done(vm) => {
                let digest = vm.digest.to_bytes();
                self.writer.record(&Record::End { vm: vm.vm, digest })?;
                Ok(Some(vm))
            }
        }
    }

    /// What is told of a failure, and to the receiver, if it can still hear.
    fn give_up(&mut self, error: SendError) -> SendError {
        // a closed connection has a cause: the receiver may have said it
        let lost = matches!(error, SendError::Write(_));
        let told = if lost { self.answers.as_mut().and_then(|a| a.next().ok()) } else { None };
        let error = match told {
            Some(Answer::Refused(code, why)) => SendError::Refused { code, why },
            _ => error,
        };
        let event = match &error {
            SendError::Refused { .. } => SenderEvent::Refused,
            _ => SenderEvent::Lost,
        };
        if !lost && !matches!(error, SendError::Refused { .. }) && self.state != Sender::CommitAsked
        {
            let _ = self.writer.record(&Record::Abort(error.to_string()));
            let _ = self.writer.flush();
        }
        self.state = self.state.on(event).unwrap_or(self.state);
        let _ = self.watch.state(self.state);
        if self.state == Sender::Unknown {
            return SendError::Unknown { session: self.options.session };
        }
        error
    }
}

struct ToWriter<'l, 'a, 'b> {
    lane: &'l Lane<'a, 'b>,
    to_writer: SyncSender<Item>,
}

impl Out for ToWriter<'_, '_, '_> {
    fn put(&self, item: Item) -> bool {
        self.lane.put(item, &self.to_writer)
    }

    fn spare(&self) -> Option<Buffer> {
        self.lane.spare()
    }
}

/// What there is to send, and who reads it.
trait Supply {
    /// The VMs, as they are declared.
    fn shapes(&self) -> Vec<VmShape>;

    /// Features that a reader must know, beside those that the options need.
    fn features(&self) -> u64;

    /// The pool that the far end is to keep.
    fn pool(&self) -> Option<PoolShape> {
        None
    }

    /// Reads and packs everything; returns the bill.
    fn run(&mut self, link: &Link, out: &dyn Out) -> Result<Vec<Account>, SendError>;

    /// All has been read: did it stand still until now?
    fn stood_still(&self) -> Result<(), SendError>;

    /// The seal of what is no page.
    fn native_seal(&self) -> Option<[u8; 16]> {
        None
    }
}

/// Where what was read and packed goes.
trait Out: Sync {
    /// Takes an item. False where nothing more can be written.
    fn put(&self, item: Item) -> bool;

    /// A buffer to be filled again.
    fn spare(&self) -> Option<Buffer>;
}

enum Item {
    Parcel(Parcel),
    /// From here on comes what has changed.
    LastRound,
    Done(VmDone),
    /// A part of a VMM's own stream.
    Native(NativePart),
    /// Whether pages that come as bytes are kept.
    Keep(bool),
}

fn label(template: &KnownTemplate) -> TemplateShape {
    let name = template.path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into());
    TemplateShape { label: as_label(&name), pages: template.pages, digest: template.digest }
}

fn packings(chain: &Chain) -> Vec<Packing> {
    let packing = |name: &Name| match name {
        Name::Lz4 => Some(Packing::Lz4),
        Name::Zstd(_) => Some(Packing::Zstd),
        Name::Exec(_) => Some(Packing::Exec),
        _ => None,
    };
    chain.names.iter().filter_map(packing).collect()
}
