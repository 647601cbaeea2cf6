//! The parser of QEMU's migration stream: where it stands, and each step from there. The words of it
//! and the form of the stream are in [`super::stream`].

use super::field::{be16, be32, be64, lossy, short, text};
use super::stream::{
    End, Item, MAX_BLOCKS, MAX_MACHINE, PAGE, RamBlock, Reason, StreamError, flag,
};
use super::tail::{self, Found};
use std::collections::HashMap;
use std::ops::ControlFlow::{self, Continue};

/// Most capabilities in the configuration. QEMU 10.0 writes two kinds.
const MAX_CAPABILITIES: u32 = 256;
/// Longest body of a command that passes, in bytes. The longest of those known has 4.
const MAX_COMMAND: usize = 64;

/// Where the parser stands: what comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Magic,
    Configuration,
    Subsection,
    CapabilityCount,
    Capability { left: u32 },
    Section,
    Total,
    Block { left: u64 },
    Setup,
    Records,
    Footer,
    Tail,
    Eof { description: u32 },
    Description { left: u64 },
    Done,
    Opaque,
}

/// An item without bytes that stands next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pending {
    Blocks,
    RamEnd,
    Eof(u32),
    Opaque,
}

/// What one step did.
enum Step {
    /// So many bytes are used.
    Used(usize, ControlFlow<()>),
    /// It needs more bytes than there are.
    Short,
}

/// Who takes the items. [`ControlFlow::Break`] stops [`Parser::feed`] behind the item.
pub type Out<'o> = dyn FnMut(Item<'_>) -> ControlFlow<()> + 'o;

/// Takes a stream apart as it comes. It keeps no bytes: what [`Parser::feed`] has not used must come
/// again, with more behind it.
#[derive(Debug)]
pub struct Parser {
    state: State,
    pending: Option<Pending>,
    failed: Option<StreamError>,
    reason: Option<Reason>,
    at: u64,
    machine: Option<String>,
    capabilities: Vec<String>,
    blocks: Vec<RamBlock>,
    numbers: HashMap<Box<[u8]>, u32>,
    /// Number of the section of `ram`.
    ram: Option<u32>,
    /// This section is its END.
    ending: bool,
    /// QEMU waits for an answer at the end.
    returns: bool,
    /// Block of the last record.
    last: Option<u32>,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// At the beginning of a stream.
    pub fn new() -> Self {
        Self {
            state: State::Magic,
            pending: None,
            failed: None,
            reason: None,
            at: 0,
            machine: None,
            capabilities: Vec::new(),
            blocks: Vec::new(),
            numbers: HashMap::new(),
            ram: None,
            ending: false,
            returns: false,
            last: None,
        }
    }

    /// The machine type (`pc-q35-10.0`), once it has come. Machines before 2.4 do not say theirs.
    pub fn machine(&self) -> Option<&str> {
        self.machine.as_deref()
    }

    /// The capabilities that the stream names: those of which both ends must have the same.
    pub fn capabilities(&self) -> &[String] {
        &self.capabilities
    }

    /// Blocks that the sender maps shared from a file are declared and not sent. (`memfd` is no file
    /// to QEMU 10.0: it sends those.)
    pub fn ignores_shared(&self) -> bool {
        self.capabilities.iter().any(|name| name == "x-ignore-shared")
    }

    /// The blocks, as far as they have come.
    pub fn blocks(&self) -> &[RamBlock] {
        &self.blocks
    }

    /// Why it takes nothing apart any more.
    pub fn reason(&self) -> Option<&Reason> {
        self.reason.as_ref()
    }

    /// Has the whole stream been used, with its description?
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Could the stream be over with these bytes, which are left over and with which nothing comes?
    /// Of one without a description nothing else tells.
    pub fn may_end_with(&self, rest: &[u8]) -> bool {
        matches!(self.state, State::Tail) && tail::last_end(rest).is_some()
    }

    /// Number of the section of `ram`, once it has come.
    pub const fn ram_section(&self) -> Option<u32> {
        self.ram
    }

    /// Does QEMU wait for [`super::stream::shut`] at the end (capability `return-path`)?
    pub const fn returns(&self) -> bool {
        self.returns
    }

    /// How many bytes have been used.
    pub const fn position(&self) -> u64 {
        self.at
    }

    /// Takes bytes and gives items, in order; returns how many bytes it has used. What is left over
    /// must be given again, with more behind it; it is less than [`super::stream::MOST_LEFT`] unless `out` stopped.
    /// In the device state up to 43 bytes are held back, so that no part of what may be the
    /// end passes before it is known.
    ///
    /// # Errors
    /// As of [`StreamError`], and the same one at every later call.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Out<'_>) -> Result<usize, StreamError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut used = 0;
        loop {
            if let Some(pending) = self.pending.take() {
                if self.announce(pending, out).is_break() {
                    return Ok(used);
                }
                continue;
            }
            match self.step(&bytes[used..], out) {
                Ok(Step::Used(some, flow)) => {
                    used += some;
                    self.at += some as u64;
                    if flow.is_break() {
                        return Ok(used);
                    }
                }
                Ok(Step::Short) => return Ok(used),
                Err(error) => {
                    self.failed = Some(error.clone());
                    return Err(error);
                }
            }
        }
    }

    /// The stream has ended; `rest` is what [`Parser::feed`] left over. It is given out, and `out`
    /// cannot stop it.
    ///
    /// # Errors
    /// As of [`Parser::feed`]; [`StreamError::Cut`] and [`StreamError::Empty`] where this is no end.
    pub fn finish(&mut self, rest: &[u8], out: &mut Out<'_>) -> Result<End, StreamError> {
        let used = self.feed(rest, &mut |item| {
            let _ = out(item);
            Continue(())
        })?;
        let rest = &rest[used..];
        if let (State::Tail, Some((at, description))) = (self.state, tail::last_end(rest)) {
            let _ = out(Item::Raw(&rest[..at]));
            let _ = out(Item::Eof { description });
            let _ = out(Item::Raw(&rest[at..=at]));
            if description.is_some() {
                let _ = out(Item::Raw(&rest[at + 1..]));
            }
            self.at += rest.len() as u64;
            self.state = State::Done;
            return Ok(if description.is_some() { End::Described } else { End::Bare });
        }
        let inside = match self.state {
            State::Done => return Ok(End::Described),
            State::Opaque => return Ok(End::Unknown),
            State::Magic if self.at == 0 && rest.is_empty() => return Err(StreamError::Empty),
            State::Magic => "its first bytes",
            State::Configuration
            | State::Subsection
            | State::CapabilityCount
            | State::Capability { .. } => "the configuration",
            State::Section => "the memory, between sections",
            State::Total | State::Block { .. } | State::Setup => "the list of RAM blocks",
            State::Records | State::Footer => "a section of pages",
            State::Tail => "the device state",
            State::Eof { .. } | State::Description { .. } => "the description at its end",
        };
        Err(StreamError::Cut { at: self.at + rest.len() as u64, inside })
    }

    fn announce(&self, pending: Pending, out: &mut Out<'_>) -> ControlFlow<()> {
        match (pending, &self.reason) {
            (Pending::Blocks, _) => out(Item::Blocks(&self.blocks)),
            (Pending::RamEnd, _) => out(Item::RamEnd),
            (Pending::Eof(description), _) => out(Item::Eof { description: Some(description) }),
            (Pending::Opaque, Some(reason)) => out(Item::Opaque { reason, block: self.last }),
            (Pending::Opaque, None) => Continue(()),
        }
    }

    fn step(&mut self, bytes: &[u8], out: &mut Out<'_>) -> Result<Step, StreamError> {
        if bytes.is_empty() {
            return Ok(Step::Short);
        }
        let step = match self.state {
            State::Records => return self.records(bytes, out),
            State::Tail => return Ok(self.tail(bytes, out)),
            State::Opaque => return Ok(Step::Used(bytes.len(), out(Item::Raw(bytes)))),
            State::Description { left } => return Ok(self.description(left, bytes, out)),
            State::Done => return Err(self.damaged("something follows the end")),
            State::Magic => self.magic(bytes)?,
            State::Configuration => self.configuration(bytes)?,
            State::Subsection => self.subsection(bytes),
            State::CapabilityCount => self.capability_count(bytes)?,
            State::Capability { left } => self.capability(left, bytes)?,
            State::Section => {
                let step = self.section(bytes)?;
                // OPEN_RETURN_PATH and PING ask for an answer
                if let (Some(end), [8, 0, number @ (1 | 2), ..]) = (step.filter(|&n| n > 0), bytes)
                {
                    self.returns |= *number == 1;
                    return Ok(Step::Used(end, out(Item::Ask(&bytes[..end]))));
                }
                step
            }
            State::Total => self.total(bytes),
            State::Block { left } => self.block(left, bytes),
            State::Setup => self.setup(bytes),
            State::Footer => self.footer(bytes)?,
            State::Eof { description } => {
                self.state = State::Description { left: u64::from(description) + 5 };
                Some(1)
            }
        };
        // what these have recognised passes as it is
        Ok(match step {
            None => Step::Short,
            Some(0) => Step::Used(0, Continue(())),
            Some(some) => Step::Used(some, out(Item::Raw(&bytes[..some]))),
        })
    }

    const fn damaged(&self, what: &'static str) -> StreamError {
        StreamError::Damaged { at: self.at, what }
    }

    /// Nothing is taken apart from here on.
    #[expect(clippy::unnecessary_wraps, reason = "it stands where steps return")]
    fn opaque(&mut self, reason: Reason) -> Option<usize> {
        self.reason = Some(reason);
        self.state = State::Opaque;
        self.pending = Some(Pending::Opaque);
        Some(0)
    }

    fn magic(&mut self, bytes: &[u8]) -> Result<Option<usize>, StreamError> {
        const MAGIC: &[u8; 4] = b"QEVM";
        if !MAGIC.starts_with(&bytes[..bytes.len().min(4)]) {
            return Err(StreamError::NotQemu);
        }
        let Some(version) = be32(bytes, 4) else { return Ok(None) };
        if version != 3 {
            return Err(StreamError::Version { version });
        }
        self.state = State::Configuration;
        Ok(Some(8))
    }

    fn configuration(&mut self, bytes: &[u8]) -> Result<Option<usize>, StreamError> {
        if bytes[0] != 7 {
            self.state = State::Section;
            return Ok(Some(0));
        }
        let Some(len) = be32(bytes, 1).map(|len| len as usize) else { return Ok(None) };
        if len > MAX_MACHINE {
            return Err(self.damaged("the name of the machine type is too long"));
        }
        let Some(name) = bytes.get(5..5 + len) else { return Ok(None) };
        let Some(name) = text(name) else {
            return Err(self.damaged("the name of the machine type is no text"));
        };
        self.machine = Some(name);
        self.state = State::Subsection;
        Ok(Some(5 + len))
    }

    fn subsection(&mut self, bytes: &[u8]) -> Option<usize> {
        if bytes[0] != 5 {
            self.state = State::Section;
            return Some(0);
        }
        let (name, end) = short(bytes, 1)?;
        let version = be32(bytes, end)?;
        match (name, version) {
            (b"configuration/capabilities", 1) => {
                self.state = State::CapabilityCount;
                Some(end + 4)
            }
            (b"configuration/target-page-bits", 1) => match be32(bytes, end + 4)? {
                12 => Some(end + 8),
                bits => self.opaque(Reason::PageBits(bits)),
            },
            (b"configuration/uuid", 1) => bytes.get(end + 4..end + 20).map(|_| end + 20),
            _ => self.opaque(Reason::Configuration(lossy(name))),
        }
    }

    fn capability_count(&mut self, bytes: &[u8]) -> Result<Option<usize>, StreamError> {
        let Some(left) = be32(bytes, 0) else { return Ok(None) };
        if left > MAX_CAPABILITIES {
            return Err(self.damaged("too many capabilities"));
        }
        self.state = State::Capability { left };
        Ok(Some(4))
    }

    fn capability(&mut self, left: u32, bytes: &[u8]) -> Result<Option<usize>, StreamError> {
        if left == 0 {
            self.state = State::Subsection;
            return Ok(Some(0));
        }
        let Some((name, end)) = short(bytes, 0) else { return Ok(None) };
        let Some(name) = text(name) else {
            return Err(self.damaged("the name of a capability is no text"));
        };
        self.capabilities.push(name.clone());
        Ok(match name.as_str() {
            "x-ignore-shared" => {
                self.state = State::Capability { left: left - 1 };
                Some(end)
            }
            "mapped-ram" => self.opaque(Reason::MappedRam),
            _ => self.opaque(Reason::Capability(name)),
        })
    }

    fn section(&mut self, bytes: &[u8]) -> Result<Option<usize>, StreamError> {
        match bytes[0] {
            start_or_full @ (1 | 4) => Ok(self.named_section(start_or_full == 1, bytes)),
            part_or_end @ (2 | 3) => {
                let Some(id) = be32(bytes, 1) else { return Ok(None) };
                if self.ram != Some(id) {
                    return Err(self.damaged("a part of a section that has not begun"));
                }
                self.ending = part_or_end == 3;
                self.state = State::Records;
                Ok(Some(5))
            }
            8 => Ok(self.command(bytes)),
            0 => Err(self.damaged("it ends before its memory is complete")),
            5..=7 | 0x7e => Err(self.damaged("no section begins so")),
            other => Ok(self.opaque(Reason::SectionType(other))),
        }
    }

    fn named_section(&mut self, start: bool, bytes: &[u8]) -> Option<usize> {
        let id = be32(bytes, 1)?;
        let (name, end) = short(bytes, 5)?;
        let (instance, version) = (be32(bytes, end)?, be32(bytes, end + 4)?);
        if !start {
            return self.opaque(Reason::Early(lossy(name)));
        }
        if name != b"ram" || self.ram.is_some() {
            return self.opaque(Reason::Section(lossy(name)));
        }
        if (instance, version) != (0, 4) {
            return self.opaque(Reason::RamVersion(version));
        }
        self.ram = Some(id);
        self.state = State::Total;
        Some(end + 8)
    }

    fn command(&mut self, bytes: &[u8]) -> Option<usize> {
        let (number, len) = (be16(bytes, 1)?, usize::from(be16(bytes, 3)?));
        match number {
            // OPEN_RETURN_PATH, PING, SWITCHOVER_START
            1 | 2 | 11 if len <= MAX_COMMAND => bytes.get(..5 + len).map(<[u8]>::len),
            // ADVISE comes for dirty-bitmaps too, and has then no body
            3 if len == 0 => self.opaque(Reason::DirtyBitmaps),
            3..=9 => self.opaque(Reason::Postcopy),
            10 => self.opaque(Reason::Colo),
            _ => self.opaque(Reason::Command(number)),
        }
    }

    fn total(&mut self, bytes: &[u8]) -> Option<usize> {
        let head = be64(bytes, 0)?;
        if head & 0xfff != flag::MEM_SIZE {
            return self.opaque(Reason::List);
        }
        self.state = State::Block { left: head & !0xfff };
        Some(8)
    }

    /// One block of the list, which ends when the lengths add up to the total.
    fn block(&mut self, left: u64, bytes: &[u8]) -> Option<usize> {
        if left == 0 {
            self.state = State::Setup;
            self.pending = Some(Pending::Blocks);
            return Some(0);
        }
        let (name, end) = short(bytes, 0)?;
        let length = be64(bytes, end)?;
        let (gpa, end) = if self.ignores_shared() {
            (Some(be64(bytes, end + 8)?), end + 16)
        } else {
            (None, end + 8)
        };
        // With page sizes in the list, as post-copy has them, a name seems to be empty here.
        let number = u32::try_from(self.blocks.len()).ok()?;
        let known = self.numbers.contains_key(name);
        let parts = (text(name), left.checked_sub(length));
        let (Some(text), Some(left)) = parts else { return self.opaque(Reason::List) };
        if text.is_empty() || known || length % PAGE as u64 != 0 {
            return self.opaque(Reason::List);
        }
        if self.blocks.len() == MAX_BLOCKS {
            return self.opaque(Reason::TooManyBlocks);
        }
        self.numbers.insert(name.into(), number);
        self.blocks.push(RamBlock { name: text, bytes: length, gpa });
        self.state = State::Block { left };
        Some(end)
    }

    /// What follows the list in the START section.
    fn setup(&mut self, bytes: &[u8]) -> Option<usize> {
        match be64(bytes, 0)? {
            flag::EOS => {
                self.state = State::Footer;
                Some(8)
            }
            flag::MULTIFD_FLUSH => self.opaque(Reason::Multifd),
            head if head & flag::HOOK != 0 => self.opaque(Reason::Rdma),
            _ => self.opaque(Reason::List),
        }
    }

    fn footer(&mut self, bytes: &[u8]) -> Result<Option<usize>, StreamError> {
        if bytes[0] != 0x7e {
            return Ok(self.opaque(Reason::NoFooters));
        }
        let Some(id) = be32(bytes, 1) else { return Ok(None) };
        if self.ram != Some(id) {
            return Err(self.damaged("a section has the footer of another one"));
        }
        if self.ending {
            self.state = State::Tail;
            self.pending = Some(Pending::RamEnd);
        } else {
            self.state = State::Section;
        }
        Ok(Some(5))
    }

    /// Records of pages, as many as there are: nearly all bytes of a stream go through here.
    fn records(&mut self, bytes: &[u8], out: &mut Out<'_>) -> Result<Step, StreamError> {
        let mut used = 0;
        while let Some(head) = be64(bytes, used) {
            let (address, flags) = (head & !0xfff, head & 0xfff);
            let kind = flags & !flag::CONTINUE;
            let len = match kind {
                flag::PAGE => PAGE,
                flag::ZERO => 1,
                _ if head == flag::EOS => {
                    self.state = State::Footer;
                    let flow = out(Item::Raw(&bytes[used..used + 8]));
                    return Ok(Step::Used(used + 8, flow));
                }
                _ => {
                    let at = self.at + used as u64;
                    let reason = Reason::of_flags(flags, at)?;
                    self.opaque(reason);
                    return Ok(Step::Used(used, Continue(())));
                }
            };
            let (block, named, body) = if flags & flag::CONTINUE == 0 {
                let Some((name, body)) = short(bytes, used + 8) else { break };
                let block = self.number_of(name, used)?;
                (block, self.last == Some(block), body)
            } else {
                let what = "a page goes on with a block, and there was none";
                let at = self.at + used as u64;
                let last = self.last.ok_or(StreamError::Damaged { at, what })?;
                (last, false, used + 8)
            };
            let Some(content) = bytes.get(body..body + len) else { break };
            if address >= self.blocks[block as usize].bytes {
                let at = self.at + used as u64;
                return Err(StreamError::Damaged { at, what: "a page lies beyond its block" });
            }
            let page = address / PAGE as u64;
            let item = match (<&[u8; PAGE]>::try_from(content), content[0]) {
                (Ok(bytes), _) => Item::Page { block, page, named, bytes },
                (Err(_), 0) => Item::Zero { block, page, named },
                (Err(_), fill) => {
                    self.opaque(Reason::Fill(fill));
                    return Ok(Step::Used(used, Continue(())));
                }
            };
            self.last = Some(block);
            used = body + len;
            if out(item).is_break() {
                return Ok(Step::Used(used, ControlFlow::Break(())));
            }
        }
        Ok(if used == 0 { Step::Short } else { Step::Used(used, Continue(())) })
    }

    /// The number of the block that a record names; the record is `used` bytes further on.
    fn number_of(&self, name: &[u8], used: usize) -> Result<u32, StreamError> {
        let last = self.last.filter(|&last| self.blocks[last as usize].name.as_bytes() == name);
        last.or_else(|| self.numbers.get(name).copied())
            .ok_or_else(|| StreamError::NoBlock { at: self.at + used as u64, name: lossy(name) })
    }

    fn tail(&mut self, bytes: &[u8], out: &mut Out<'_>) -> Step {
        let some = match tail::find(bytes) {
            Found::Eof { at, description } => {
                self.state = State::Eof { description };
                self.pending = Some(Pending::Eof(description));
                at
            }
            Found::NotBefore(0) => return Step::Short,
            Found::NotBefore(at) => at,
        };
        Step::Used(some, out(Item::Raw(&bytes[..some])))
    }

    /// The description with the five bytes before its text; `left` is not 0.
    fn description(&mut self, left: u64, bytes: &[u8], out: &mut Out<'_>) -> Step {
        let some = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let left = left - some as u64;
        self.state = if left == 0 { State::Done } else { State::Description { left } };
        Step::Used(some, out(Item::Raw(&bytes[..some])))
    }
}
