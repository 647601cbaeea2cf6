//! Any stream, or the answers to one, annotated: a line a frame.
//!
//! ```text
//! OFFSET  NO  TYPE   BYTES  CRC32  CONTENT
//! 0       -   stream 64     ok     version 1.0, features answers, plain hashes, session 0707…
//! 64      0   vm     12     ok     0: web, 4 pages: ram 4
//! 92      1   begin  0      ok
//! 108     2   pages  4108   ok     0: 0-2 zero | 3 bytes
//! ```
//!
//! It shows what is said, and where that is spelled wrongly it says so and ends. It keeps no book of
//! what records say together; a receiver does.

use super::answer::{Answer, Refusal};
use super::decode::{Decoder, Taken};
use super::header::{Direction, Header, VERSION, feature};
use super::pages::{Base, Op, Pages};
use super::record::{Native, PoolShape, Record, VmShape, tag};
use super::{WireError, limits};
use std::fmt::Write as _;
use std::io::{self, Read, Write};

/// Operations of one record that are written out; of the others their number.
const SHOWN: usize = 16;

/// How it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Explained {
    /// It ended between two frames; so many there were.
    Whole {
        /// Frames.
        frames: u64,
        /// Bytes.
        bytes: u64,
    },
    /// It is wrong, at this byte; the last line says it as well.
    Wrong {
        /// Offset of the frame, or of the header.
        at: u64,
        /// What is wrong.
        error: WireError,
    },
}

/// Writes what `input` says to `out`. Whether it is a stream or answers is told by its mark.
///
/// # Errors
/// Reading or writing failed. That the stream is wrong is no error here: see [`Explained`].
pub fn explain(input: &mut dyn Read, out: &mut dyn Write) -> io::Result<Explained> {
    writeln!(
        out,
        "{:<12} {:>8} {:<9} {:>9} {:<5} CONTENT",
        "OFFSET", "NO", "TYPE", "BYTES", "CRC32"
    )?;
    let mut lines = Explainer::default();
    let mut buffer = Vec::new();
    loop {
        let wants = lines.wants();
        // by and by: a length that lies costs nothing before its bytes have come
        buffer.clear();
        let have = input.take(wants as u64).read_to_end(&mut buffer)?;
        if have == 0 && lines.is_between() {
            return Ok(Explained::Whole { frames: lines.frames, bytes: lines.at });
        }
        let at = lines.at;
        let line = if have < wants { Err(lines.cut(have)) } else { lines.take(&buffer) };
        match line {
            Ok(Some(line)) => writeln!(out, "{}", line.trim_end())?,
            Ok(None) => {}
            Err(error) => {
                let (number, sum) = (lines.number(), sum_of(&error));
                let error_line = row(at, &number, "WRONG", lines.length, sum, &error.to_string());
                writeln!(out, "{}", error_line.trim_end())?;
                return Ok(Explained::Wrong { at, error });
            }
        }
    }
}

/// Makes lines of bytes, piece by piece.
#[derive(Debug, Default)]
pub struct Explainer {
    /// None before the mark is known.
    decoder: Option<Decoder>,
    at: u64,
    frames: u64,
    length: usize,
    /// The bytes of the frame that is being read.
    head: usize,
}

impl Explainer {
    /// How many bytes it wants next.
    pub fn wants(&self) -> usize {
        self.decoder.as_ref().map_or(super::header::HEADER, Decoder::wants)
    }

    /// Is this between two frames, where a stream may end?
    pub fn is_between(&self) -> bool {
        self.decoder.as_ref().is_some_and(Decoder::is_between)
    }

    /// The error for an end after `have` of the wanted bytes.
    pub fn cut(&self, have: usize) -> WireError {
        self.decoder
            .as_ref()
            .map_or_else(|| Decoder::stream().cut(have), |decoder| decoder.cut(have))
    }

    fn number(&self) -> String {
        if self.decoder.is_some() && self.at > 0 { self.frames.to_string() } else { "-".to_owned() }
    }

    /// Takes the bytes that it wanted; a line, if they end a frame.
    ///
    /// # Errors
    /// What is wrong with them; nothing more can be taken.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<String>, WireError> {
        let decoder = self.decoder.get_or_insert_with(|| match bytes.get(3) {
            Some(b'A') => Decoder::answers(),
            _ => Decoder::stream(),
        });
        self.length = bytes.len();
        let taken = decoder.take(bytes)?;
        let (kind, text) = match taken {
            Taken::Part => {
                self.head = bytes.len();
                return Ok(None);
            }
            Taken::Header(header) => {
                let line =
                    row(0, "-", kind(&header), bytes.len(), "ok", &of_header(&header, bytes));
                self.at = bytes.len() as u64;
                return Ok(Some(line));
            }
            Taken::Record(record) => (name_of(&record), of_record(&record)),
            Taken::Answer(answer) => (name_of_answer(&answer), of_answer(&answer)),
        };
        let line = row(self.at, &self.frames.to_string(), kind, bytes.len() - 4, "ok", &text);
        self.frames += 1;
        self.at += (self.head + bytes.len()) as u64;
        Ok(Some(line))
    }
}

fn row(at: u64, number: &str, kind: &str, length: usize, sum: &str, text: &str) -> String {
    let text: String = text.chars().map(|c| if is_plain(c) { c } else { '?' }).collect();
    format!("{at:<12} {number:>8} {kind:<9} {length:>9} {sum:<5} {text}")
}

/// Can a terminal be given this? Everything that steers it, or turns the direction of writing, is
/// not plain. Nothing else in a stream is text.
fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

const fn sum_of(error: &WireError) -> &'static str {
    match error {
        WireError::Checksum { .. } => "BAD",
        // these are found before the checksum is, or where there is none
        WireError::Foreign
        | WireError::Version(_)
        | WireError::TooLong { .. }
        | WireError::Cut { .. } => "-",
        _ => "ok",
    }
}

const fn kind(header: &Header) -> &'static str {
    match header.direction {
        Direction::Stream => "stream",
        Direction::Answers => "answers",
    }
}

fn of_header(header: &Header, bytes: &[u8]) -> String {
    let minor = bytes.get(10..12).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
    let optional =
        bytes.get(20..28).map_or(0, |b| b.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b)));
    let names = (0u32..).zip(feature::NAMES).filter(|(bit, _)| header.required >> bit & 1 != 0);
    let names: Vec<&str> = names.map(|(_, name)| name).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(",") };
    let hash = if header.hashing == 2 { "with a key" } else { "plain" };
    let mut text = format!(
        "version {}.{minor}, features {names}, hash {hash}, session {}",
        VERSION.0, header.session
    );
    if optional != 0 {
        let _ = write!(text, ", features to pass over {optional:#x}");
    }
    text
}

const fn name_of(record: &Record<'_>) -> &'static str {
    match record {
        Record::Vm(_) => "vm",
        Record::Template(_) => "template",
        Record::Begin => "begin",
        Record::Pages(_) => "pages",
        Record::Round(_) => "round",
        Record::End { .. } => "end",
        Record::Seal(_) => "seal",
        Record::Commit => "commit",
        Record::Abort(_) => "abort",
        Record::Resolve(_) => "resolve",
        Record::Native(_) => "native",
        Record::Pool(_) => "pool",
        Record::Keep(_) => "keep",
        Record::Passed(tag::PAD) => "pad",
        Record::Passed(_) => "optional",
    }
}

fn of_record(record: &Record<'_>) -> String {
    match record {
        Record::Vm(vm) => of_vm(vm),
        Record::Template(template) => {
            format!(
                "{}, {} pages, digest {}",
                template.label,
                template.pages,
                hex(&template.digest)
            )
        }
        Record::Begin | Record::Commit => String::new(),
        Record::Pages(pages) => of_pages(pages),
        Record::Round(number) => number.to_string(),
        Record::End { vm, digest } => format!("vm {vm}, digest {}", hex(digest)),
        Record::Seal(seal) => hex(seal),
        Record::Abort(why) => format!("\"{why}\""),
        Record::Resolve(session) => format!("session {session}"),
        Record::Native(native) => of_native(*native),
        Record::Pool(pool) => of_pool(pool),
        Record::Keep(true) => "pages that come as bytes from here on are kept".into(),
        Record::Keep(false) => "pages that come from here on are not kept".into(),
        Record::Passed(tag::PAD) => String::new(),
        Record::Passed(tag) => format!("type {tag}, passed over"),
    }
}

fn of_native(native: Native<'_>) -> String {
    match native {
        Native::Bytes(bytes) => format!("{} of the VMM", count(bytes.len() as u64, "byte")),
        Native::Named => "the next page names its block once more".into(),
        Native::Ready(idle) => {
            let idle = count(idle.len() as u64, "byte");
            format!("ready: what follows starts the guest; {idle} that the VMM passes over")
        }
    }
}

fn of_pool(pool: &PoolShape) -> String {
    if pool.is_own() {
        return "this stream's own".into();
    }
    let mut text = format!("group {}, this is member {}", hex(&pool.id), pool.member);
    for (i, (member, pages)) in pool.others.iter().take(SHOWN).enumerate() {
        let before = if i == 0 { "; has of" } else { "," };
        let _ = write!(text, "{before} member {member} {}", count(*pages, "page"));
    }
    more(&mut text, pool.others.len(), "members");
    text
}

/// `1 page`, `2 pages`.
fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn of_vm(vm: &VmShape) -> String {
    let mut text =
        format!("{}{}, {} pages:", vm.name, if vm.foreign { " (foreign)" } else { "" }, vm.pages());
    for (label, pages) in vm.blocks.iter().take(SHOWN) {
        let _ = write!(text, " {label} {pages}");
    }
    more(&mut text, vm.blocks.len(), "blocks");
    text
}

fn more(text: &mut String, all: usize, what: &str) {
    if all > SHOWN {
        let _ = write!(text, " … and {} {what} more", all - SHOWN);
    }
}

fn of_pages(pages: &Pages<'_>) -> String {
    let mut text = format!("vm {}:", pages.vm);
    let mut page = pages.page;
    for (i, op) in pages.ops.iter().enumerate() {
        let of = run(page, op.pages);
        page += op.pages;
        if i >= SHOWN {
            continue;
        }
        let what = match op.op {
            Op::Zero => "zero".to_owned(),
            Op::Unused => "unused".to_owned(),
            Op::Bytes => "bytes".to_owned(),
            Op::More => "packed above".to_owned(),
            Op::Skip => "not here".to_owned(),
            Op::Pool { member, page } => format!("kept {} of member {member}", run(page, op.pages)),
            Op::Same { vm, page } => format!("same as vm {vm} {}", run(page, op.pages)),
            Op::Template { template, page } => {
                format!("template {template} {}", run(page, op.pages))
            }
            Op::Packed { chunk, with, length, base } => {
                let mut what = format!("{} in {length} bytes", with.name());
                if chunk > op.pages {
                    let _ = write!(what, " with {} pages below", chunk - op.pages);
                }
                match base {
                    None => {}
                    Some(Base::Earlier) => what.push_str(" to what they held before"),
                    Some(Base::Template { template, page }) => {
                        let _ = write!(what, " to template {template} {}", run(page, op.pages));
                    }
                }
                what
            }
        };
        let _ = write!(text, "{} {of} {what}", if i > 0 { " |" } else { "" });
    }
    more(&mut text, pages.ops.len(), "operations");
    text
}

/// `7`, or `7-9` with the last one.
fn run(first: u64, pages: u64) -> String {
    if pages == 1 { first.to_string() } else { format!("{first}-{}", first + pages - 1) }
}

const fn name_of_answer(answer: &Answer) -> &'static str {
    match answer {
        Answer::Welcome => "welcome",
        Answer::Sealed(_) => "sealed",
        Answer::Committed(_) => "committed",
        Answer::Refused(..) => "refused",
        Answer::State(_) => "state",
    }
}

fn of_answer(answer: &Answer) -> String {
    match answer {
        Answer::Welcome => String::new(),
        Answer::Sealed(seal) => hex(seal),
        Answer::Committed(session) => format!("session {session}"),
        Answer::Refused(code, why) => {
            let code = match code {
                Refusal::Data => "wrong data",
                Refusal::Io => "cannot write",
                Refusal::Policy => "not allowed",
                Refusal::Other => "other",
            };
            format!("{code}: \"{why}\"")
        }
        Answer::State(committed) => {
            if *committed { "committed" } else { "not committed, and never will be" }.to_owned()
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

// a text is shown whole, and a line stays a line
const _: () = assert!(limits::MAX_TEXT <= 4096);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Hashing;
    use crate::wire::Encoder;
    use crate::wire::header::Session;
    use crate::wire::pages::{Packing, PageOp};
    use crate::wire::record::TemplateShape;

    fn text(bytes: &[u8]) -> (Explained, String) {
        let mut out = Vec::new();
        let end = explain(&mut &bytes[..], &mut out).unwrap();
        (end, String::from_utf8(out).unwrap())
    }

    fn stream() -> Vec<u8> {
        let header =
            Header::new(Direction::Stream, feature::ALL, Session([7; 16]), &Hashing::keyed(b"k"));
        let mut e = Encoder::new(&header);
        let mut all = e.header().to_vec();
        let vm = VmShape {
            name: "web".into(),
            foreign: false,
            blocks: vec![("ram".into(), 9), ("rom".into(), 1)],
        };
        let template = TemplateShape { label: "base.img".into(), pages: 5, digest: [0xab; 32] };
        let op = |pages, op| PageOp { pages, op };
        let packed = |chunk, with, base| Op::Packed { chunk, with, length: 3, base };
        let ops = vec![
            op(2, Op::Zero),
            op(1, packed(2, Packing::Zstd, None)),
            op(1, Op::Unused),
            op(1, Op::More),
            op(1, Op::Same { vm: 0, page: 2 }),
            op(1, Op::Template { template: 0, page: 4 }),
            op(2, packed(2, Packing::Xor, Some(Base::Template { template: 0, page: 1 }))),
            op(1, packed(1, Packing::Xor, Some(Base::Earlier))),
            op(2, Op::Skip),
            op(3, Op::Pool { member: 1, page: 7 }),
        ];
        let pages = Pages { vm: 0, page: 0, ops, payload: b"abcdefghi" };
        for record in [
            Record::Vm(vm),
            Record::Template(template),
            Record::Pool(PoolShape { id: [0; 16], member: 0, others: Vec::new() }),
            Record::Pool(PoolShape { id: [9; 16], member: 2, others: vec![(0, 1), (3, 5)] }),
            Record::Begin,
            Record::Native(Native::Bytes(b"\x1b[2J")),
            Record::Native(Native::Named),
            Record::Native(Native::Ready(b"i")),
            Record::Keep(true),
            Record::Keep(false),
            Record::Pages(pages),
            Record::Round(1),
            Record::End { vm: 0, digest: [1; 16] },
            Record::Passed(200),
            Record::Seal([2; 16]),
            Record::Commit,
            Record::Abort("a\x1b[2Jb\u{202e}".into()),
        ] {
            all.extend(e.record(&record));
        }
        all
    }

    #[test]
    fn every_record_is_said_in_words() {
        let bytes = stream();
        let (end, text) = text(&bytes);
        assert_eq!(end, Explained::Whole { frames: 17, bytes: bytes.len() as u64 });
        for words in [
            "features answers,rounds,foreign,templates,exec,vmm, hash with a key, session 0707",
            "web, 10 pages: ram 9 rom 1",
            "base.img, 5 pages, digest abab",
            "vm 0: 0-1 zero | 2 zstd in 3 bytes with 1 pages below | 3 unused | 4 packed above | \
             5 same as vm 0 2 | 6 template 0 4 | 7-8 xor in 3 bytes to template 0 1-2 | \
             9 xor in 3 bytes to what they held before | 10-11 not here | 12-14 kept 7-9 of member 1",
            "pool             18 ok    this stream's own",
            "0909, this is member 2; has of member 0 1 page, member 3 5 pages",
            "4 bytes of the VMM",
            "names its block once more",
            "ready: what follows starts the guest; 1 byte that the VMM passes over",
            "from here on are kept",
            "from here on are not kept",
            "vm 0, digest 0101",
            "type 200, passed over",
            "\"a?[2Jb?\"",
        ] {
            assert!(text.contains(words), "{words} in\n{text}");
        }
        assert_eq!(text.lines().count(), 19);
        assert!(text.lines().all(|line| line.trim_end() == line && !line.contains('\x1b')));
    }

    #[test]
    fn answers_are_told_by_their_mark() {
        let header = Header::new(Direction::Answers, 0, Session([7; 16]), &Hashing::Plain);
        let mut e = Encoder::new(&header);
        let mut all = e.header().to_vec();
        for answer in [
            Answer::Welcome,
            Answer::Sealed([5; 16]),
            Answer::Committed(Session([7; 16])),
            Answer::Refused(Refusal::Policy, "no\nroom".into()),
            Answer::State(false),
        ] {
            all.extend(e.answer(&answer));
        }
        let (end, text) = text(&all);
        assert!(matches!(end, Explained::Whole { frames: 5, .. }));
        assert!(
            text.contains("not allowed: \"no?room\"") && text.contains("never will be"),
            "{text}"
        );
    }

    #[test]
    fn it_says_where_it_is_wrong_and_ends() {
        let bytes = stream();
        for end in 0..bytes.len() {
            let (said, text) = text(&bytes[..end]);
            match said {
                Explained::Wrong { at, error: WireError::Cut { after, .. } } => {
                    assert_eq!(after, end as u64);
                    assert!(at <= after && text.contains("WRONG"), "{text}");
                }
                other => {
                    assert!(matches!(other, Explained::Whole { bytes, .. } if bytes == end as u64));
                }
            }
        }
        let mut bad = bytes.clone();
        bad[64 + 12] ^= 1;
        let (said, text) = text(&bad);
        assert!(
            matches!(said, Explained::Wrong { at: 64, error: WireError::Checksum { .. } }),
            "{said:?}"
        );
        assert!(text.lines().last().unwrap().contains("BAD"), "{text}");
        let mut long = bytes[..64].to_vec();
        long.extend([0xff; 12]);
        assert!(matches!(
            text_end(&long),
            Explained::Wrong { error: WireError::TooLong { .. }, .. }
        ));
    }

    fn text_end(bytes: &[u8]) -> Explained {
        text(bytes).0
    }
}
