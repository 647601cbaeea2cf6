//! What a frame can hold, and how it is spelled.

use super::header::Session;
use super::limits::{
    MAX_BLOCK_NAME, MAX_BLOCKS, MAX_MEMBERS, MAX_NATIVE, MAX_PAGES, MAX_TEMPLATES, MAX_TEXT,
    MAX_VMS,
};
use super::pages::Pages;
use super::{WireError, varint};
use crate::base::bytes::{Reader, put_varint};
use crate::base::target::is_name;

/// Numbers of the records. They are a type of their own: the order of the enum in memory may
/// change, these never. 0 is never used; from 128 on a reader may pass a record over.
pub mod tag {
    /// A VM and its blocks.
    pub const VM: u8 = 1;
    /// A template that the receiver must have.
    pub const TEMPLATE: u8 = 2;
    /// All that must be agreed on has been said.
    pub const BEGIN: u8 = 3;
    /// Pages.
    pub const PAGES: u8 = 4;
    /// From here on pages can come again.
    pub const ROUND: u8 = 5;
    /// A VM is complete.
    pub const END: u8 = 6;
    /// The stream is complete.
    pub const SEAL: u8 = 7;
    /// The sender gives its memory up: it is the receiver's now.
    pub const COMMIT: u8 = 8;
    /// The sender gives the attempt up.
    pub const ABORT: u8 = 9;
    /// Asks what became of an earlier session.
    pub const RESOLVE: u8 = 10;
    /// A part of a VMM's own stream.
    pub const NATIVE: u8 = 11;
    /// The pool that pages are kept in and come from.
    pub const POOL: u8 = 12;
    /// Whether pages that come as bytes are kept in the pool.
    pub const KEEP: u8 = 13;
    /// The first number that may be passed over.
    pub const OPTIONAL: u8 = 128;
    /// Nothing: what follows stands where it is copied faster.
    pub const PAD: u8 = OPTIONAL;
}

/// A VM as a stream declares it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VmShape {
    /// Its name.
    pub name: String,
    /// It arrives in another stream and is only referred to in this one.
    pub foreign: bool,
    /// Its blocks: labels and pages. A label is for people and never opened.
    pub blocks: Vec<(String, u64)>,
}

impl VmShape {
    /// All its pages; they are numbered through its blocks.
    pub fn pages(&self) -> u64 {
        self.blocks.iter().map(|(_, pages)| pages).sum()
    }
}

/// A template as a stream declares it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TemplateShape {
    /// A label for people.
    pub label: String,
    /// Its pages.
    pub pages: u64,
    /// What it is known by ([`crate::base::digest::of_template`]).
    pub digest: [u8; 32],
}

/// A record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// The next VM.
    Vm(VmShape),
    /// The next template.
    Template(TemplateShape),
    /// All that must be agreed on has been said.
    Begin,
    /// Pages.
    Pages(Pages<'a>),
    /// The number of the round that begins.
    Round(u32),
    /// A VM is complete.
    End {
        /// Its number.
        vm: u32,
        /// Digest of its memory.
        digest: [u8; 16],
    },
    /// The stream is complete; over everything that it declared and every digest.
    Seal([u8; 16]),
    /// The sender gives its memory up.
    Commit,
    /// The sender gives the attempt up, and why.
    Abort(String),
    /// Asks what became of a session.
    Resolve(Session),
    /// A part of a VMM's own stream.
    Native(Native<'a>),
    /// The pool that pages are kept in and come from.
    Pool(PoolShape),
    /// Whether pages that come as bytes from here on are kept in the pool.
    Keep(bool),
    /// A record of a later minor version, which may be passed over.
    Passed(u8),
}

/// A part of a VMM's own stream, at its place between pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Native<'a> {
    /// These bytes, as they are.
    Bytes(&'a [u8]),
    /// The next page says which block it is of, although the one before was of the same.
    Named,
    /// All before this can be given to the VMM; what follows starts the guest. The bytes are ones
    /// that the VMM passes over here, as often as they come: once it has taken some of them, it has
    /// accepted all before them.
    Ready(&'a [u8]),
}

impl<'a> Native<'a> {
    /// Its number and its bytes, as they stand in a stream and as a seal is over them.
    pub const fn parts(self) -> (u8, &'a [u8]) {
        match self {
            Self::Bytes(bytes) => (native::BYTES, bytes),
            Self::Named => (native::NAMED, &[]),
            Self::Ready(idle) => (native::READY, idle),
        }
    }
}

/// The pool of a stream: pages that the receiver keeps by whose they are and a number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolShape {
    /// Which pool; zero: this stream's own, which ends with it.
    pub id: [u8; 16],
    /// Which of its members this stream is.
    pub member: u32,
    /// Other members whose pages it may refer to, and how many they have at least.
    pub others: Vec<(u32, u64)>,
}

impl PoolShape {
    /// Is it this stream's own, of which no other knows?
    pub fn is_own(&self) -> bool {
        self.id == [0; 16]
    }
}

impl<'a> Record<'a> {
    /// Its number.
    pub const fn tag(&self) -> u8 {
        match self {
            Self::Vm(_) => tag::VM,
            Self::Template(_) => tag::TEMPLATE,
            Self::Begin => tag::BEGIN,
            Self::Pages(_) => tag::PAGES,
            Self::Round(_) => tag::ROUND,
            Self::End { .. } => tag::END,
            Self::Seal(_) => tag::SEAL,
            Self::Commit => tag::COMMIT,
            Self::Abort(_) => tag::ABORT,
            Self::Resolve(_) => tag::RESOLVE,
            Self::Native(_) => tag::NATIVE,
            Self::Pool(_) => tag::POOL,
            Self::Keep(_) => tag::KEEP,
            Self::Passed(tag) => *tag,
        }
    }

    /// Its body.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Vm(vm) => write_vm(vm, out),
            Self::Template(template) => {
                put_label(out, &template.label);
                put_varint(out, template.pages);
                out.extend(template.digest);
            }
            Self::Begin | Self::Commit | Self::Passed(_) => {}
            Self::Pages(pages) => {
                super::pages::write_head(pages.vm, pages.page, &pages.ops, out);
                out.extend(pages.payload);
            }
            Self::Round(number) => put_varint(out, u64::from(*number)),
            Self::End { vm, digest } => {
                put_varint(out, u64::from(*vm));
                out.extend(digest);
            }
            Self::Seal(seal) => out.extend(seal),
            Self::Abort(why) => put_text(out, why),
            Self::Resolve(session) => out.extend(session.0),
            Self::Native(native) => {
                let (kind, bytes) = native.parts();
                out.push(kind);
                out.extend(bytes);
            }
            Self::Pool(pool) => write_pool(pool, out),
            Self::Keep(keep) => out.push(u8::from(*keep)),
        }
    }

    /// Reads a body.
    pub fn read(tag: u8, body: &'a [u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(body);
        let record = match tag {
            tag::VM => Self::Vm(read_vm(&mut r)?),
            tag::TEMPLATE => Self::Template(TemplateShape {
                label: label(&mut r, "label of a template")?,
                pages: count(&mut r, "pages of a template")?,
                digest: r.bytes("digest of a template")?,
            }),
            tag::BEGIN => Self::Begin,
            tag::PAGES => Self::Pages(Pages::read(&mut r)?),
            tag::ROUND => {
                let number = u32::try_from(varint(&mut r, "round")?).ok();
                Self::Round(number.ok_or(WireError::Wrong("there are too many rounds"))?)
            }
            tag::END => {
                let vm = u32::try_from(varint(&mut r, "VM that is complete")?).ok();
                let vm = vm.filter(|&vm| u64::from(vm) < MAX_VMS);
                let vm = vm.ok_or(WireError::Wrong("a VM that is not declared is complete"))?;
                Self::End { vm, digest: r.bytes("digest of a VM")? }
            }
            tag::SEAL => Self::Seal(r.bytes("seal")?),
            tag::COMMIT => Self::Commit,
            tag::ABORT => Self::Abort(text(&mut r)?),
            tag::RESOLVE => Self::Resolve(Session(r.bytes("session")?)),
            tag::NATIVE => Self::Native(read_native(&mut r)?),
            tag::POOL => Self::Pool(read_pool(&mut r)?),
            tag::KEEP => Self::Keep(match r.u8("whether pages are kept")? {
                0 => false,
                1 => true,
                _ => return Err(WireError::Wrong("pages are kept in a way that is not defined")),
            }),
            tag::OPTIONAL.. => return Ok(Self::Passed(tag)),
            _ => return Err(WireError::Unknown(tag)),
        };
        if r.left() != 0 {
            return Err(WireError::Wrong("a record goes on after its end"));
        }
        Ok(record)
    }
}

fn write_vm(vm: &VmShape, out: &mut Vec<u8>) {
    out.push(u8::from(vm.foreign));
    put_label(out, &vm.name);
    put_varint(out, vm.blocks.len() as u64);
    for (name, pages) in &vm.blocks {
        put_label(out, name);
        put_varint(out, *pages);
    }
}

fn read_vm(r: &mut Reader<'_>) -> Result<VmShape, WireError> {
    let foreign = match r.u8("flags of a VM")? {
        0 => false,
        1 => true,
        _ => return Err(WireError::Wrong("a VM has flags that are not defined")),
    };
    let name = label(r, "name of a VM")?;
    if !is_vm_name(&name) {
        return Err(WireError::Wrong("a VM has a name that it cannot have"));
    }
    let blocks = varint(r, "number of blocks")?;
    if blocks == 0 || blocks > MAX_BLOCKS {
        return Err(WireError::Wrong("a VM has no block, or too many"));
    }
    let mut vm = VmShape { name, foreign, blocks: Vec::new() };
    let mut all = 0u64;
    for _ in 0..blocks {
        let block = (label(r, "label of a block")?, count(r, "pages of a block")?);
        all = all.saturating_add(block.1);
        vm.blocks.push(block);
    }
    if all > MAX_PAGES {
        return Err(WireError::Wrong("a VM has too many pages"));
    }
    Ok(vm)
}

mod native {
    pub(super) const BYTES: u8 = 1;
    pub(super) const NAMED: u8 = 2;
    pub(super) const READY: u8 = 3;
}

fn read_native<'a>(r: &mut Reader<'a>) -> Result<Native<'a>, WireError> {
    let kind = r.u8("kind of a part of a VMM's stream")?;
    let bytes = r.take(r.left(), "part of a VMM's stream")?;
    let wrong = WireError::Wrong("a part of a VMM's stream is empty, too long or not defined");
    match kind {
        native::BYTES if (1..=MAX_NATIVE).contains(&bytes.len()) => Ok(Native::Bytes(bytes)),
        native::NAMED if bytes.is_empty() => Ok(Native::Named),
        native::READY if bytes.len() <= MAX_TEXT => Ok(Native::Ready(bytes)),
        _ => Err(wrong),
    }
}

fn write_pool(pool: &PoolShape, out: &mut Vec<u8>) {
    out.extend(pool.id);
    put_varint(out, u64::from(pool.member));
    put_varint(out, pool.others.len() as u64);
    for (member, pages) in &pool.others {
        put_varint(out, u64::from(*member));
        put_varint(out, *pages);
    }
}

fn read_pool(r: &mut Reader<'_>) -> Result<PoolShape, WireError> {
    let wrong = || WireError::Wrong("a pool has too many members or pages");
    let member = |r: &mut Reader<'_>| {
        let member = u32::try_from(varint(r, "member of a pool")?).ok();
        member.filter(|&m| u64::from(m) < MAX_MEMBERS).ok_or_else(wrong)
    };
    let mut pool = PoolShape { id: r.bytes("pool")?, member: member(r)?, others: Vec::new() };
    let others = varint(r, "members of a pool")?;
    if others >= MAX_MEMBERS {
        return Err(wrong());
    }
    for _ in 0..others {
        let one = (member(r)?, count(r, "pages of a member")?);
        let follows = pool.others.last().is_none_or(|last| last.0 < one.0);
        if !follows || one.0 == pool.member {
            return Err(WireError::Wrong("the members of a pool are not others in order"));
        }
        pool.others.push(one);
    }
    Ok(pool)
}

/// May this name a VM, and with that a file of a herd? Never one that begins with a dot: `.` and
/// `..` are folders, and hidden files are those that are being written.
pub fn is_vm_name(name: &str) -> bool {
    is_name(name) && !name.starts_with('.')
}

fn count(r: &mut Reader<'_>, what: &'static str) -> Result<u64, WireError> {
    let pages = varint(r, what)?;
    let fits = (1..=MAX_PAGES).contains(&pages).then_some(pages);
    fits.ok_or(WireError::Wrong("something has no page, or too many"))
}

/// A label as a stream can have it: what cannot be said becomes `_`, the end is what is kept.
pub fn as_label(text: &str) -> String {
    let all: Vec<char> = text.chars().map(|c| if is_label_char(c) { c } else { '_' }).collect();
    let kept = &all[all.len().saturating_sub(MAX_BLOCK_NAME)..];
    if kept.is_empty() { "_".to_owned() } else { kept.iter().collect() }
}

fn is_label_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._/@:+-[]".contains(c)
}

fn put_label(out: &mut Vec<u8>, text: &str) {
    let label = as_label(text);
    out.push(u8::try_from(label.len()).unwrap_or(0));
    out.extend(label.as_bytes());
}

fn label(r: &mut Reader<'_>, what: &'static str) -> Result<String, WireError> {
    let length = usize::from(r.u8(what)?);
    let bytes = r.take(length, what)?;
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let good = (1..=MAX_BLOCK_NAME).contains(&text.len()) && text.chars().all(is_label_char);
    if good {
        Ok(text.to_owned())
    } else {
        Err(WireError::Wrong("a label is empty, too long or not plain"))
    }
}

/// Appends a text for people, cut to what a stream takes.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    put_varint(out, end as u64);
    out.extend(&text.as_bytes()[..end]);
}

/// Reads a text for people. What a terminal could take for a command becomes `?`: it comes from the
/// other end.
pub(super) fn text(r: &mut Reader<'_>) -> Result<String, WireError> {
    let length = usize::try_from(varint(r, "length of a text")?).unwrap_or(usize::MAX);
    if length > MAX_TEXT {
        return Err(WireError::Wrong("a text is too long"));
    }
    let text = String::from_utf8_lossy(r.take(length, "a text")?);
    Ok(text.chars().map(|c| if c.is_control() { '?' } else { c }).collect())
}

const _: () = assert!(MAX_TEMPLATES < MAX_VMS);
