//! Writes streams, right ones and wrong ones, piece by piece.

use crate::given::{Given, PAGE, memory, state_of};
use pageherd::base::bytes::put_varint;
use pageherd::base::digest::{Hashing, is_zero, of_memory, of_template};
use pageherd::filter::codec::Codec;
use pageherd::filter::{lz4::Lz4, xor::Xor, zstd::Zstd};
use pageherd::wire::header::{Direction, HEADER, Header, Session};
use pageherd::wire::pages::{Base, Op, Packing, PageOp, write_head};
use pageherd::wire::record::{PoolShape, Record, TemplateShape, VmShape, tag};

/// Labels and pages.
type Blocks = Vec<(String, u64)>;

/// A stream that is being written.
#[derive(Clone)]
pub(crate) struct Script {
    pub given: Given,
    /// What was written, each with what it is.
    pub pieces: Vec<(String, Vec<u8>)>,
    /// Number of the next frame.
    pub next: u32,
    header: [u8; HEADER],
    hashing: Hashing,
    sealed_templates: Vec<u8>,
    /// Name, foreign, blocks.
    vms: Vec<(String, bool, Blocks)>,
    ended: Vec<(u32, Vec<u8>)>,
    /// Of a VMM's stream: what it has beside pages, and the seal of that.
    state: Option<Vec<u8>>,
    native_seal: [u8; 16],
}

impl Script {
    /// With these features, and the key that `given` has.
    pub(crate) fn new(given: Given, features: u64) -> Self {
        Self::of_session(given, features, 7)
    }

    pub(crate) fn of_session(given: Given, features: u64, session: u8) -> Self {
        let hashing = given.secret.as_ref().map_or(Hashing::Plain, |secret| Hashing::keyed(secret));
        let header =
            Header::new(Direction::Stream, features, Session([session; 16]), &hashing).write();
        Self {
            given,
            pieces: vec![("header".to_owned(), header.to_vec())],
            next: 0,
            header,
            hashing,
            sealed_templates: Vec::new(),
            vms: Vec::new(),
            ended: Vec::new(),
            state: (features & super::scenarios::VMM != 0).then(Vec::new),
            native_seal: [0; 16],
        }
    }

    /// Another byte in the header, whose checksum is made to fit.
    pub(crate) fn header_byte(&mut self, at: usize, value: u8) -> &mut Self {
        self.header[at] = value;
        let sum = crc32fast::hash(&self.header[..60]).to_le_bytes();
        self.header[60..].copy_from_slice(&sum);
        self.pieces[0].1 = self.header.to_vec();
        self
    }

    /// A frame as it should be, of any type and body.
    pub(crate) fn frame(&mut self, tag: u8, body: &[u8]) -> &mut Self {
        self.frame_with(tag, [0; 3], self.next, body);
        self.next += 1;
        self
    }

    /// A frame with a checksum that fits, and anything else.
    pub(crate) fn frame_with(
        &mut self,
        tag: u8,
        flags: [u8; 3],
        number: u32,
        body: &[u8],
    ) -> &mut Self {
        let mut frame = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
        frame.push(tag);
        frame.extend(flags);
        frame.extend(number.to_le_bytes());
        frame.extend(body);
        let sum = crc32fast::hash(&[&self.header[60..], &frame].concat());
        frame.extend(sum.to_le_bytes());
        self.raw(&format!("frame {number} {}", name(tag)), &frame)
    }

    /// Any bytes.
    pub(crate) fn raw(&mut self, what: &str, bytes: &[u8]) -> &mut Self {
        self.pieces.push((what.to_owned(), bytes.to_vec()));
        self
    }

    pub(crate) fn record(&mut self, record: &Record<'_>) -> &mut Self {
        let mut body = Vec::new();
        record.write(&mut body);
        self.frame(record.tag(), &body)
    }

    fn declared(&mut self, name: &str, foreign: bool, blocks: &[(&str, u64)]) -> &mut Self {
        let blocks: Vec<(String, u64)> =
            blocks.iter().map(|(label, pages)| ((*label).to_owned(), *pages)).collect();
        self.vms.push((name.to_owned(), foreign, blocks.clone()));
        self.record(&Record::Vm(VmShape { name: name.to_owned(), foreign, blocks }))
    }

    pub(crate) fn vm(&mut self, name: &str, pages: u64) -> &mut Self {
        self.declared(name, false, &[("ram", pages)])
    }

    pub(crate) fn vm_of(&mut self, name: &str, blocks: &[(&str, u64)]) -> &mut Self {
        self.declared(name, false, blocks)
    }

    pub(crate) fn foreign(&mut self, name: &str, pages: u64) -> &mut Self {
        self.declared(name, true, &[("ram", pages)])
    }

    /// A template that the reader has, by its number there.
    pub(crate) fn template(&mut self, number: usize) -> &mut Self {
        let bytes = self.given.template(number);
        let pages = (bytes.len() / PAGE) as u64;
        let hash = |page: &[u8]| (!is_zero(page)).then(|| self.hashing.page(page));
        let digest = of_template(&bytes.chunks(PAGE).map(hash).collect::<Vec<_>>());
        self.sealed_templates.extend(pages.to_le_bytes());
        self.sealed_templates.extend(digest);
        self.record(&Record::Template(TemplateShape { label: "base".to_owned(), pages, digest }))
    }

    pub(crate) fn begin(&mut self) -> &mut Self {
        self.record(&Record::Begin)
    }

    /// Operations, each with the bytes that it uses.
    pub(crate) fn pages(&mut self, vm: u32, page: u64, ops: &[(PageOp, Vec<u8>)]) -> &mut Self {
        let mut body = Vec::new();
        let all: Vec<PageOp> = ops.iter().map(|(op, _)| *op).collect();
        write_head(vm, page, &all, &mut body);
        ops.iter().for_each(|(_, bytes)| body.extend(bytes));
        self.frame(tag::PAGES, &body)
    }

    /// A part of a VMM's stream, of any kind.
    pub(crate) fn native(&mut self, kind: u8, bytes: &[u8]) -> &mut Self {
        self.native_seal = self.hashing.seal(&[&self.native_seal[..], &[kind], bytes].concat());
        self.state.iter_mut().filter(|_| kind == 1).for_each(|state| state.extend(bytes));
        self.frame(tag::NATIVE, &[&[kind], bytes].concat())
    }

    /// Which pool, of whom, and the others in it.
    pub(crate) fn pool(&mut self, id: u8, member: u32, others: &[(u32, u64)]) -> &mut Self {
        let others = others.to_vec();
        self.record(&Record::Pool(PoolShape { id: [id; 16], member, others }))
    }

    pub(crate) fn keep(&mut self, keep: bool) -> &mut Self {
        self.record(&Record::Keep(keep))
    }

    /// The VMM can be given all; its last byte.
    pub(crate) fn ready(&mut self) -> &mut Self {
        self.native(3, b"idle").native(1, &[0])
    }

    pub(crate) fn round(&mut self, number: u32) -> &mut Self {
        self.record(&Record::Round(number))
    }

    /// A VM is complete, with this memory: filled pages.
    pub(crate) fn end(&mut self, vm: u32, fills: &[u8]) -> &mut Self {
        self.end_with(vm, &memory(fills))
    }

    pub(crate) fn end_with(&mut self, vm: u32, memory: &[u8]) -> &mut Self {
        let digest = of_memory(&self.hashing, memory).to_bytes();
        self.ended.push((vm, memory.to_vec()));
        self.record(&Record::End { vm, digest })
    }

    /// The right seal.
    pub(crate) fn seal(&mut self) -> &mut Self {
        let seal = self.seal_bytes();
        self.record(&Record::Seal(seal))
    }

    pub(crate) fn seal_bytes(&self) -> [u8; 16] {
        let mut all = self.header.to_vec();
        let text = |all: &mut Vec<u8>, text: &str| {
            all.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
            all.extend(text.bytes());
        };
        for (vm, (name, foreign, blocks)) in (0..).zip(&self.vms) {
            all.push(u8::from(*foreign));
            text(&mut all, name);
            all.extend(u32::try_from(blocks.len()).unwrap().to_le_bytes());
            for (label, pages) in blocks {
                text(&mut all, label);
                all.extend(pages.to_le_bytes());
            }
            if let Some((_, memory)) = self.ended.iter().find(|(ended, _)| *ended == vm) {
                all.extend(of_memory(&self.hashing, memory).to_bytes());
            }
        }
        all.extend(&self.sealed_templates);
        if self.state.is_some() {
            all.extend(self.native_seal);
        }
        self.hashing.seal(&all)
    }

    /// The memories, as `end` was told them, by name.
    pub(crate) fn memories(&self) -> Vec<(String, Vec<u8>)> {
        let named = |(vm, memory): &(u32, Vec<u8>)| {
            Some((self.vms.get(*vm as usize)?.0.clone(), memory.clone()))
        };
        let mut all: Vec<_> = self.ended.iter().filter_map(named).collect();
        if let (Some(state), Some((name, ..))) = (&self.state, self.vms.first()) {
            all.push((state_of(name), state.clone()));
        }
        all.sort();
        all
    }

    pub(crate) fn commit(&mut self) -> &mut Self {
        self.record(&Record::Commit)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.pieces.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
    }
}

pub(crate) fn name(tag: u8) -> &'static str {
    const NAMES: [&str; 14] = [
        "?", "vm", "template", "begin", "pages", "round", "end", "seal", "commit", "abort",
        "resolve", "native", "pool", "keep",
    ];
    match NAMES.get(usize::from(tag)) {
        Some(name) => name,
        None if tag >= tag::OPTIONAL => "optional",
        None => "?",
    }
}

/// An operation without bytes.
pub(crate) fn plain(pages: u64, op: Op) -> (PageOp, Vec<u8>) {
    (PageOp { pages, op }, Vec::new())
}

pub(crate) fn zero(pages: u64) -> (PageOp, Vec<u8>) {
    plain(pages, Op::Zero)
}

pub(crate) fn same(pages: u64, vm: u32, page: u64) -> (PageOp, Vec<u8>) {
    plain(pages, Op::Same { vm, page })
}

pub(crate) fn template(pages: u64, template: u32, page: u64) -> (PageOp, Vec<u8>) {
    plain(pages, Op::Template { template, page })
}

pub(crate) fn pool(pages: u64, member: u32, page: u64) -> (PageOp, Vec<u8>) {
    plain(pages, Op::Pool { member, page })
}

pub(crate) fn skip(pages: u64) -> (PageOp, Vec<u8>) {
    plain(pages, Op::Skip)
}

/// Pages as bytes.
pub(crate) fn bytes(fills: &[u8]) -> (PageOp, Vec<u8>) {
    (PageOp { pages: fills.len() as u64, op: Op::Bytes }, memory(fills))
}

/// Pages packed; `pages` of them here, the others in `more` operations.
pub(crate) fn packed(with: Packing, pages: u64, content: &[u8]) -> (PageOp, Vec<u8>) {
    let out = pack(with, content, None);
    let chunk = (content.len() / PAGE) as u64;
    let length = u32::try_from(out.len()).unwrap();
    (PageOp { pages, op: Op::Packed { chunk, with, length, base: None } }, out)
}

/// Pages as a difference.
pub(crate) fn differs(
    with: Packing,
    content: &[u8],
    prefix: &[u8],
    base: Base,
) -> (PageOp, Vec<u8>) {
    let out = pack(with, content, Some(prefix));
    let pages = (content.len() / PAGE) as u64;
    let length = u32::try_from(out.len()).unwrap();
    (PageOp { pages, op: Op::Packed { chunk: pages, with, length, base: Some(base) } }, out)
}

/// What a codec makes of pages.
pub(crate) fn pack(with: Packing, content: &[u8], prefix: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    let codec: &dyn Codec = match with {
        Packing::Lz4 => &Lz4,
        Packing::Zstd => &Zstd::default(),
        Packing::Xor => &Xor,
        Packing::Exec => return content.iter().step_by(PAGE).copied().collect(),
    };
    assert!(codec.pack(content, prefix, &mut out).unwrap(), "these pages cannot be packed");
    out
}

/// A number.
pub(crate) fn number(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, value);
    out
}
