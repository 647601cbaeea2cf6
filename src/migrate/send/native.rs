//! A VMM's own migration stream as what is sent: its pages go through the filters, all else passes.
//!
//! ```text
//! VmmStream --bytes--> Parser --pages, the rest--> settle, pack --parcels--> writer
//!            (this thread)                 (another one)              (a third)
//! ```
//!
//! Pages come in the VMM's order and as often as it sends them; what it does not send is not spoken of.
//! The far end has to write the same stream again, so nothing changes its order here: a batch is a
//! window of pages that come one after the other, with gaps.

use super::parcel::Parcel;
use super::settle::Settler;
use super::{Item, Link, Options, Out, SendError, Sent, Supply, Watch, attempt};
use crate::base::digest::Hashing;
use crate::filter::{Batch, PAGE, Settled};
use crate::migrate::seal::NativeSeal;
use crate::qemu::stream::{
    End, Item as Part, MOST_LEFT, NO_DESCRIPTION, Parser, StreamError, idle_section,
};
use crate::source::vmm_stream::{Blind, Verdict, VmmStream};
use crate::store::group::{News, SentGroup};
use crate::transport::Channel;
use crate::wire::header::feature;
use crate::wire::record::{Native, PoolShape, VmShape, as_label};
use std::io::Read;
use std::ops::ControlFlow;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

/// Batches that wait to be settled.
const QUEUE: usize = 2;
/// Pages of a window.
const WINDOW: u64 = 256;
/// What is read at once, at the most.
const PIECE: usize = 1 << 20;
/// Bytes that are no pages, gathered before they go.
const GATHER: usize = 1 << 16;
/// What is kept back of a stream that is not understood: its end, which lets the guest run, is in it.
const LAST: usize = 8 << 20;
/// How long nothing must come before what can be the end is the end, where QEMU waits for us.
const SILENCE: Duration = Duration::from_secs(1);
/// Most bytes before the list of blocks, which is the first thing to be known.
const MOST_BEFORE: usize = 64 << 20;

/// A VMM's stream to be sent.
#[expect(missing_debug_implementations, reason = "it holds a function")]
pub struct VmmVm<'a> {
    /// The VM's name at the far end.
    pub name: String,
    /// The stream.
    pub stream: &'a mut VmmStream,
    /// Others that move with it.
    pub group: Option<&'a mut SentGroup>,
    /// What is to be told.
    pub say: &'a (dyn Fn(&str) + Sync),
}

/// A part of the VMM's stream that is no page.
#[derive(Debug)]
pub(super) enum NativePart {
    Bytes(Vec<u8>),
    Named,
    Ready(Vec<u8>),
}

impl NativePart {
    pub(super) fn as_wire(&self) -> Native<'_> {
        match self {
            Self::Bytes(bytes) => Native::Bytes(bytes),
            Self::Named => Native::Named,
            Self::Ready(idle) => Native::Ready(idle),
        }
    }
}

/// Sends a VMM's stream through a channel. Whose the verdict is comes with it, as far as that was
/// known: the caller tells the VMM.
///
/// # Errors
/// Of what [`super::send`] says, and [`SendError::Vmm`].
pub fn send_vmm(
    vm: VmmVm<'_>,
    options: &Options,
    medium: &mut Channel,
    watch: &dyn Watch,
) -> (Result<Sent, SendError>, Option<Verdict>) {
    let mut supply = match NativeSupply::open(vm, options, medium.two_way) {
        Ok(supply) => supply,
        Err(error) => return (Err(error), None),
    };
    let sent = attempt(&mut supply, options, medium, watch).map_err(|error| match error {
        SendError::Unknown { session } => SendError::VmmUnknown { session },
        error => error,
    });
    (sent, supply.verdict)
}

struct NativeSupply<'a> {
    shape: VmShape,
    stream: &'a mut VmmStream,
    group: Option<&'a mut SentGroup>,
    say: &'a (dyn Fn(&str) + Sync),
    options: &'a Options,
    two_way: bool,
    input: Input,
    /// What came before the blocks were known.
    before: Vec<u8>,
    starts: Vec<u64>,
    /// What the others of the group had sent before.
    news: Vec<News>,
    seal: NativeSeal,
    verdict: Option<Verdict>,
}

/// The stream, taken apart.
struct Input {
    parser: Parser,
    buffer: Vec<u8>,
    have: usize,
    used: usize,
    ended: bool,
}

impl Input {
    fn new() -> Self {
        let buffer = vec![0; PIECE + MOST_LEFT];
        Self { parser: Parser::new(), buffer, have: 0, used: 0, ended: false }
    }

    /// Bytes that were taken out of the pipe and not used.
    const fn left(&self) -> usize {
        self.have - self.used
    }

    /// See [`Parser::may_end_with`].
    fn may_be_over(&self) -> bool {
        self.parser.may_end_with(&self.buffer[self.used..self.have])
    }

    /// Reads on. False at the end.
    fn fill(&mut self, stream: &mut VmmStream) -> Result<bool, SendError> {
        self.buffer.copy_within(self.used..self.have, 0);
        (self.have, self.used) = (self.have - self.used, 0);
        let bytes = stream.read(&mut self.buffer[self.have..]).map_err(SendError::VmmRead)?;
        self.have += bytes;
        self.ended = bytes == 0;
        Ok(bytes > 0)
    }

    /// Gives out what has been read; `true` where `out` stopped it.
    fn feed(
        &mut self,
        mut out: impl FnMut(Part<'_>) -> ControlFlow<()>,
    ) -> Result<bool, StreamError> {
        let mut stopped = false;
        let bytes = &self.buffer[self.used..self.have];
        self.used += self.parser.feed(bytes, &mut |item| {
            let flow = out(item);
            stopped |= flow.is_break();
            flow
        })?;
        Ok(stopped)
    }

    fn finish(&mut self, mut out: impl FnMut(Part<'_>)) -> Result<End, StreamError> {
        let rest = &self.buffer[self.used..self.have];
        let end = self.parser.finish(rest, &mut |item| {
            out(item);
            ControlFlow::Continue(())
        })?;
        self.used = self.have;
        Ok(end)
    }
}

impl<'a> NativeSupply<'a> {
    /// Reads up to where the blocks of memory are known.
    fn open(vm: VmmVm<'a>, options: &'a Options, two_way: bool) -> Result<Self, SendError> {
        let VmmVm { name, stream, mut group, say } = vm;
        let (mut input, mut before, mut blocks) = (Input::new(), Vec::new(), None);
        let mut opaque = false;
        while blocks.is_none() && !opaque {
            if !input.fill(stream)? {
                input.finish(|_| {})?;
                break;
            }
            input.feed(|item| {
                match item {
                    Part::Raw(bytes) => before.extend_from_slice(bytes),
                    // where the far end answers, QEMU is answered by us
                    Part::Ask(bytes) if !two_way => before.extend_from_slice(bytes),
                    Part::Blocks(list) => {
                        blocks = Some(list.to_vec());
                        return ControlFlow::Break(());
                    }
                    Part::Opaque { reason, .. } => {
                        say(&passes_whole(&reason.to_string()));
                        opaque = true;
                        return ControlFlow::Break(());
                    }
                    _ => {}
                }
                ControlFlow::Continue(())
            })?;
            if before.len() > MOST_BEFORE {
                return Err(SendError::VmmLong);
            }
        }
        let blocks = blocks.unwrap_or_default();
        let mut shapes: Vec<(String, u64)> = Vec::new();
        for block in blocks.iter().filter(|block| block.pages() > 0) {
            if as_label(&block.name) != block.name {
                return Err(SendError::VmmBlock { name: block.name.clone() });
            }
            shapes.push((block.name.clone(), block.pages()));
        }
        // numbers of blocks go on over those without a page, of which no record can speak
        let mut starts = vec![0];
        for block in &blocks {
            starts.push(starts[starts.len() - 1] + block.pages());
        }
        if shapes.is_empty() {
            // a stream of which nothing is understood has no memory that could be declared
            shapes.push(("opaque".to_owned(), 1));
            starts = vec![0, 1];
        }
        let shape = VmShape { name, foreign: false, blocks: shapes };
        let mut news = Vec::new();
        if let Some(group) = group.as_deref_mut() {
            super::settle::news(group, |one| news.push(one))?;
        }
        let (seal, verdict) = (NativeSeal::default(), None);
        Ok(Self {
            shape,
            stream,
            group,
            say,
            options,
            two_way,
            input,
            before,
            starts,
            news,
            seal,
            verdict,
        })
    }
}

fn passes_whole(reason: &str) -> String {
    format!("from here on the stream passes as it is, and nothing of it is saved: {reason}")
}

impl Supply for NativeSupply<'_> {
    fn shapes(&self) -> Vec<VmShape> {
        vec![self.shape.clone()]
    }

    fn features(&self) -> u64 {
        feature::VMM
    }

    fn pool(&self) -> Option<PoolShape> {
        let Some(group) = &self.group else {
            return Some(PoolShape { id: [0; 16], member: 0, others: Vec::new() });
        };
        let others = group.others().into_iter().filter(|other| other.done && other.pages > 0);
        let others = others.map(|other| (other.member, other.pages)).collect();
        Some(PoolShape { id: group.id(), member: group.member(), others })
    }

    fn stood_still(&self) -> Result<(), SendError> {
        Ok(())
    }

    fn native_seal(&self) -> Option<[u8; 16]> {
        Some(self.seal.0)
    }

    fn run(
        &mut self,
        link: &Link,
        out: &dyn Out,
    ) -> Result<Vec<crate::filter::bill::Account>, SendError> {
        let pages = self.starts.last().copied().unwrap_or(0);
        let news = std::mem::take(&mut self.news);
        let settler = Settler::new(self.options, link, self.group.as_deref_mut(), pages, news);
        std::thread::scope(|scope| {
            let (work, to_settle) = sync_channel::<Work>(QUEUE);
            let settling = scope.spawn(move || settler.run(to_settle.into_iter(), out));
            let mut taking = Taking {
                starts: &self.starts,
                hashing: &self.options.hashing,
                seal: &mut self.seal,
                work,
                out,
                first_round: FirstRound { next: Some(0), end: 0 },
                ram_ended: false,
                batch: None,
                raw: Vec::new(),
                opaque: false,
                stopped: false,
                passes_questions: !self.two_way,
                say: self.say,
            };
            taking.raw.append(&mut self.before);
            let read = taking.all(&mut self.input, self.stream, self.two_way, &mut self.verdict);
            let done = read.map(|()| taking.send(Work::Done));
            drop(taking);
            let settled = settling.join().unwrap_or(Err(SendError::Stopped));
            match (done, settled) {
                // who stopped because the other did says nothing of its own
                (Err(SendError::Stopped) | Ok(_), settled) => settled,
                (Err(error), _) => Err(error),
            }
        })
    }
}

/// What the settling thread gets.
pub(super) enum Work {
    /// Pages of a window.
    Batch(Batch),
    /// What passes by it.
    Item(Item),
    /// All has been read.
    Done,
}

/// What must still come of the round in which every page comes once. QEMU begins with all pages, in
/// their order. A block can be left out as a whole (`x-ignore-shared`), so nothing is known of those
/// that have not begun. Where pages are left out (hints of a balloon, memory of virtio-mem) that is seen
/// by the next page that comes, at the latest one of the small blocks, which QEMU sends last.
struct FirstRound {
    /// The page that comes next; `None` where one came that was not next.
    next: Option<u64>,
    /// The end of the block that has begun.
    end: u64,
}

impl FirstRound {
    /// The least that a page takes: its address and a byte.
    const LEAST: u64 = 9;

    fn came(&mut self, page: u64, starts: &[u64]) {
        self.next = self.next.filter(|&next| next == page).map(|next| next + 1);
        if page >= self.end {
            self.end = starts.iter().copied().find(|&start| start > page).unwrap_or(0);
        }
    }

    /// The least that comes before the end.
    fn bytes(&self) -> u64 {
        self.next.map_or(0, |next| self.end.saturating_sub(next) * Self::LEAST)
    }
}

/// Items of the stream on their way to be settled.
struct Taking<'a> {
    starts: &'a [u64],
    hashing: &'a Hashing,
    seal: &'a mut NativeSeal,
    work: SyncSender<Work>,
    out: &'a dyn Out,
    first_round: FirstRound,
    /// The last section of memory is over.
    ram_ended: bool,
    batch: Option<Batch>,
    raw: Vec<u8>,
    /// Nothing is taken apart any more.
    opaque: bool,
    stopped: bool,
    passes_questions: bool,
    say: &'a (dyn Fn(&str) + Sync),
}

impl Taking<'_> {
    fn all(
        &mut self,
        input: &mut Input,
        stream: &mut VmmStream,
        two_way: bool,
        verdict: &mut Option<Verdict>,
    ) -> Result<(), SendError> {
        self.opaque = input.parser.reason().is_some();
        loop {
            let mut ends = None;
            let stopped = input.feed(|item| match item {
                Part::Eof { description } => {
                    ends = Some(description);
                    ControlFlow::Break(())
                }
                item => self.take(item),
            })?;
            if self.stopped {
                return Err(SendError::Stopped);
            }
            if let Some(description) = ends {
                // the 00 and what describes it, less what is here already
                let all = description.map_or(1, |length| u64::from(length) + 6);
                let unread = all.saturating_sub(input.left() as u64);
                // what this end reads itself is not waited for
                let unread = description.map(|_| unread).filter(|_| two_way);
                let whose = stream.verdict(input.parser.returns(), unread);
                self.say_blind(whose, two_way);
                *verdict = Some(whose);
                self.ready(input.parser.ram_section());
                if two_way {
                    self.raw.push(0);
                    self.raw.extend(NO_DESCRIPTION);
                    self.flush_raw(0);
                    return Ok(());
                }
            }
            if stopped {
                continue;
            }
            if input.parser.returns() {
                stream.listens();
            }
            stream.ahead(self.first_round.bytes());
            if self.ram_ended {
                stream.narrow();
            }
            let heard = input.parser.returns() && stream.is_heard();
            if let (Some(reason), true) = (input.parser.reason(), heard) {
                return Err(SendError::VmmOpaque { reason: reason.to_string() });
            }
            if two_way && input.parser.returns() && !heard {
                return Err(SendError::VmmDeaf);
            }
            if heard && input.may_be_over() && stream.is_quiet(SILENCE) {
                input.ended = true;
            }
            // a VMM that waits for our word does not end its stream
            if input.parser.is_done() || input.ended || !input.fill(stream)? {
                break;
            }
        }
        let section = input.parser.ram_section();
        let mut bare = false;
        let end = input.finish(|item| {
            if matches!(item, Part::Eof { .. }) {
                bare = true;
                self.flush_batch();
                self.ready(section);
            } else {
                let _ = self.take(item);
            }
        })?;
        if end == End::Unknown && !bare {
            self.flush_batch();
            self.flush_raw(LAST);
            self.native(NativePart::Ready(Vec::new()));
        }
        // where it was not known before, QEMU is done
        if verdict.is_none() {
            let whose = match input.parser.reason() {
                Some(_) => Verdict::Blind(Blind::Opaque),
                None => stream.verdict(input.parser.returns(), None),
            };
            self.say_blind(whose, two_way);
            *verdict = Some(whose);
        }
        self.flush_batch();
        self.flush_raw(0);
        Ok(())
    }

    fn say_blind(&self, whose: Verdict, two_way: bool) {
        if let (Verdict::Blind(why), true) = (whose, two_way) {
            (self.say)(&format!(
                "QEMU does not wait for the far end, and says completed whatever becomes of it: {why}"
            ));
        }
    }

    fn take(&mut self, item: Part<'_>) -> ControlFlow<()> {
        match item {
            Part::Raw(bytes) => self.raw(bytes),
            Part::Ask(bytes) if self.passes_questions => self.raw(bytes),
            Part::Page { block, page, named, bytes } => {
                self.place(block, page, named, Some(bytes));
            }
            Part::Zero { block, page, named } => self.place(block, page, named, None),
            Part::Opaque { reason, .. } => {
                (self.say)(&passes_whole(&reason.to_string()));
                self.opaque = true;
            }
            Part::RamEnd => self.ram_ended = true,
            Part::Ask(_) | Part::Blocks(_) | Part::Eof { .. } => {}
        }
        if self.stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.flush_batch();
        self.raw.extend_from_slice(bytes);
        let back = if self.opaque { LAST } else { 0 };
        if self.raw.len() >= GATHER + 2 * back {
            self.flush_raw(back);
        }
    }

    fn place(&mut self, block: u32, page: u64, named: bool, bytes: Option<&[u8; PAGE]>) {
        let page = self.starts.get(block as usize).map_or(page, |start| start + page);
        self.first_round.came(page, self.starts);
        if named {
            self.flush_batch();
            self.flush_raw(0);
            self.native(NativePart::Named);
        }
        let fits = |batch: &Batch| {
            let last = batch.first + batch.len() as u64;
            page >= last && page < batch.first + WINDOW
        };
        if !self.batch.as_ref().is_some_and(fits) {
            self.flush_batch();
        }
        self.flush_raw(0);
        let batch = self.batch.get_or_insert_with(|| {
            let mut batch =
                Batch { content: self.out.spare().unwrap_or_default(), ..Batch::default() };
            batch.begin(0, page, WINDOW);
            batch
        });
        batch.add(page, bytes);
    }

    fn flush_batch(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.send(Work::Batch(batch));
        }
    }

    /// Sends what has gathered, but for the last `back` bytes.
    fn flush_raw(&mut self, back: usize) {
        while self.raw.len() > back {
            let most = (self.raw.len() - back).min(crate::wire::limits::MAX_NATIVE);
            let rest = self.raw.split_off(most);
            let part = std::mem::replace(&mut self.raw, rest);
            self.native(NativePart::Bytes(part));
        }
    }

    /// What the far end may give to its VMM ends here.
    fn ready(&mut self, section: Option<u32>) {
        self.flush_batch();
        self.flush_raw(0);
        let idle = section.map_or_else(Vec::new, |section| idle_section(section).to_vec());
        self.native(NativePart::Ready(idle));
    }

    fn native(&mut self, part: NativePart) {
        self.seal.add(self.hashing, part.as_wire());
        self.send(Work::Item(Item::Native(part)));
    }

    fn send(&mut self, work: Work) {
        self.stopped |= self.work.send(work).is_err();
    }
}

/// What becomes of a batch that has been settled.
pub(super) fn parcel_of(batch: &mut Batch) -> Parcel {
    debug_assert!(batch.settled.last().is_none_or(|last| *last != Some(Settled::Unchanged)));
    Parcel::with_gaps(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_still_come_is_known_in_the_first_round_alone() {
        // blocks of 0, 3, 0 and 2 pages
        let starts = [0, 0, 3, 3, 5];
        let after = |pages: &[u64]| {
            let mut round = FirstRound { next: Some(0), end: 0 };
            pages.iter().for_each(|&page| round.came(page, &starts));
            round.bytes()
        };
        assert_eq!(after(&[]), 0, "the block may be left out");
        assert_eq!(after(&[0]), 18);
        assert_eq!(after(&[0, 1, 2]), 0, "nor is the next known to come");
        assert_eq!(after(&[0, 1, 2, 3]), 9);
        assert_eq!(after(&[0, 1, 2, 3, 4]), 0);
        assert_eq!(after(&[0, 1, 2, 3, 4, 0]), 0, "a second round");
        assert_eq!(after(&[3]), 0, "the first block was left out");
        assert_eq!(after(&[0, 2]), 0, "a page was");
        assert_eq!(after(&[0, 3]), 0, "the end of a block was");
    }
}
