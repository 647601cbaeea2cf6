//! What the parser and the emitter must keep: on streams of real QEMUs (`fixtures/qemu`), on
//! streams made by hand, cut, chopped and damaged.

use super::*;
use crate::qemu::emit::Emitter;
use std::ops::ControlFlow::{self, Break, Continue};

#[path = "stream_random_tests.rs"]
mod random;

const PC_7: &[u8] = include_bytes!("../../fixtures/qemu/7.2-pc.qevm");
const Q35_7: &[u8] = include_bytes!("../../fixtures/qemu/7.2-q35.qevm");
const PC_10: &[u8] = include_bytes!("../../fixtures/qemu/10.0-pc.qevm");
const Q35_10: &[u8] = include_bytes!("../../fixtures/qemu/10.0-q35-uuid.qevm");
const SHARED: &[u8] = include_bytes!("../../fixtures/qemu/7.2-pc-ignore-shared.qevm");
const LIVE: &[u8] = include_bytes!("../../fixtures/qemu/7.2-pc-live.qevm");
const BARE: &[u8] = include_bytes!("../../fixtures/qemu/7.2-pc-suppress-vmdesc.qevm");
const REAL: [&[u8]; 7] = [PC_7, Q35_7, PC_10, Q35_10, SHARED, LIVE, BARE];

/// What was made of a stream.
#[derive(Default, PartialEq, Eq, Debug)]
struct Seen {
    /// Everything written again.
    bytes: Vec<u8>,
    /// Block, page, and whether it has content.
    pages: Vec<(u32, u64, bool)>,
    named: usize,
    blocks: Vec<RamBlock>,
    /// How many bytes came before it.
    ram_end: Option<usize>,
    eof: Option<(usize, Option<u32>)>,
    opaque: Option<(usize, Reason, Option<u32>)>,
}

struct Rebuilt {
    seen: Seen,
    emitter: Emitter,
}

impl Rebuilt {
    fn new() -> Self {
        let emitter = Emitter::new(Vec::<String>::new()).unwrap();
        Self { seen: Seen::default(), emitter }
    }

    fn take(&mut self, item: &Item<'_>) {
        let Self { seen, emitter } = self;
        let here = seen.bytes.len();
        let out = &mut seen.bytes;
        match *item {
            Item::Raw(bytes) | Item::Ask(bytes) => {
                assert!(!bytes.is_empty());
                out.extend_from_slice(bytes);
            }
            Item::Blocks(blocks) => {
                assert!(seen.blocks.is_empty(), "the list comes once");
                seen.blocks = blocks.to_vec();
                *emitter = Emitter::new(blocks.iter().map(|block| &block.name)).unwrap();
            }
            Item::Page { block, page, named, .. } | Item::Zero { block, page, named } => {
                assert!(page < seen.blocks[block as usize].pages());
                if named {
                    assert_eq!(emitter.block(), Some(block));
                    emitter.name_again();
                    seen.named += 1;
                }
                if let Item::Page { bytes, .. } = item {
                    emitter.page(block, page, bytes, out).unwrap();
                } else {
                    emitter.zero(block, page, out).unwrap();
                }
                seen.pages.push((block, page, matches!(item, Item::Page { .. })));
            }
            Item::RamEnd => assert_eq!(seen.ram_end.replace(here), None),
            Item::Eof { description } => {
                assert_eq!(seen.eof.replace((here, description)), None);
            }
            Item::Opaque { reason, block } => {
                assert_eq!(block, emitter.block());
                assert_eq!(seen.opaque.replace((here, reason.clone(), block)), None);
            }
        }
    }
}

/// Feeds a stream in pieces that `next` cuts, as a caller with a buffer does.
fn parse_by(
    stream: &[u8],
    mut next: impl FnMut() -> usize,
    stop: bool,
) -> (Seen, Parser, Result<End, StreamError>) {
    let (mut parser, mut rebuilt) = (Parser::new(), Rebuilt::new());
    let (mut from, mut upto) = (0, 0);
    let mut stopped = false;
    while upto < stream.len() || stopped {
        if !stopped {
            upto = stream.len().min(upto + next());
        }
        stopped = false;
        let fed = parser.feed(&stream[from..upto], &mut |item| {
            rebuilt.take(&item);
            stopped = stop;
            if stop { Break(()) } else { Continue(()) }
        });
        match fed {
            Ok(used) => from += used,
            Err(error) => return (rebuilt.seen, parser, Err(error)),
        }
        assert_eq!(parser.position(), from as u64);
        assert_eq!(rebuilt.seen.bytes, stream[..from], "what was used is what came out");
        assert!(stopped || upto - from < MOST_LEFT);
    }
    let end = parser.finish(&stream[from..], &mut |item| {
        rebuilt.take(&item);
        ControlFlow::Break(())
    });
    (rebuilt.seen, parser, end)
}

fn parse(stream: &[u8]) -> (Seen, Parser, Result<End, StreamError>) {
    parse_by(stream, || stream.len(), false)
}

#[test]
fn real_streams_are_taken_apart_and_written_again_byte_for_byte() {
    for stream in REAL {
        let (seen, parser, end) = parse(stream);
        assert_eq!(end, Ok(if stream == BARE { End::Bare } else { End::Described }));
        assert!(seen.bytes == stream);
        assert_eq!(seen.opaque, None);
        assert_eq!(seen.blocks, parser.blocks());
        assert_eq!(parser.position(), stream.len() as u64);
        let ram = seen.blocks.iter().position(|block| block.name == "pc.ram");
        assert_eq!(ram, Some(0));
        assert!(seen.pages.iter().any(|&(_, _, content)| content));
        assert!(seen.pages.iter().any(|&(_, _, content)| !content));
    }
}

#[test]
fn real_streams_say_their_machine_and_blocks() {
    let machines: Vec<String> =
        REAL.iter().map(|stream| parse(stream).1.machine().unwrap_or_default().into()).collect();
    assert_eq!(
        machines,
        [
            "pc-i440fx-7.2",
            "pc-q35-7.2",
            "pc-i440fx-10.0",
            "pc-q35-10.0",
            "pc-i440fx-7.2",
            "pc-i440fx-7.2",
            "pc-i440fx-7.2"
        ]
    );
    let (seen, parser, _) = parse(Q35_10);
    let names: Vec<&str> = seen.blocks.iter().map(|block| block.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "pc.ram",
            "/rom@etc/acpi/tables",
            "pc.bios",
            "pc.rom",
            "/rom@etc/table-loader",
            "/rom@etc/acpi/rsdp"
        ]
    );
    assert_eq!((seen.blocks[0].bytes, seen.blocks[0].gpa), (96 << 20, None));
    assert!(parser.capabilities().is_empty() && !parser.ignores_shared());
}

#[test]
fn with_ignore_shared_blocks_have_addresses_and_the_ram_has_no_pages() {
    let (seen, parser, _) = parse(SHARED);
    assert_eq!(parser.capabilities(), ["x-ignore-shared"]);
    assert!(parser.ignores_shared());
    let bios = seen.blocks.iter().find(|block| block.name == "pc.bios").unwrap();
    assert_eq!((bios.gpa, bios.bytes), (Some(0xfffc_0000), 256 << 10));
    assert!(seen.pages.iter().all(|&(block, _, _)| block != 0));
}

#[test]
fn a_live_stream_has_pages_more_than_once() {
    let (seen, _, _) = parse(LIVE);
    let content = seen.pages.iter().filter(|page| page.2);
    let mut once: Vec<_> = content.clone().map(|&(block, page, _)| (block, page)).collect();
    once.sort_unstable();
    once.dedup();
    assert!(once.len() < content.count());
}

#[test]
fn the_end_is_said_before_its_first_byte_and_the_description_follows() {
    for stream in REAL {
        let (seen, _, _) = parse(stream);
        let (at, description) = seen.eof.unwrap();
        assert!(seen.ram_end.unwrap() < at);
        assert_eq!(stream[at], 0);
        assert_eq!(stream[at - 5], 0x7e);
        match description {
            None => assert_eq!(at + 1, stream.len()),
            Some(len) => {
                assert_eq!(at + 6 + len as usize, stream.len());
                let text = &stream[at + 6..];
                assert!(serde_json::from_slice::<serde_json::Value>(text).is_ok());
            }
        }
    }
}

#[test]
fn one_can_hold_between_the_end_of_the_state_and_the_byte_that_says_so() {
    let (mut parser, mut out) = (Parser::new(), Vec::new());
    let mut held = false;
    let used = parser.feed(PC_10, &mut |item| match item {
        Item::Eof { .. } => {
            held = true;
            Break(())
        }
        Item::Raw(bytes) | Item::Ask(bytes) => {
            out = bytes.to_vec();
            Continue(())
        }
        _ => Continue(()),
    });
    let used = used.unwrap();
    assert!(held);
    assert_eq!((PC_10[used], PC_10[used + 1]), (0, 6));
    assert_eq!(out[out.len() - 5], 0x7e);
    let mut pieces = Vec::new();
    let rest = parser.feed(&PC_10[used..], &mut |item| {
        if let Item::Raw(bytes) | Item::Ask(bytes) = item {
            pieces.push(bytes.len());
        }
        Continue(())
    });
    assert_eq!(rest, Ok(PC_10.len() - used));
    assert_eq!(pieces, [1, PC_10.len() - used - 1]);
}

#[test]
fn a_description_that_says_nothing_is_known_when_the_stream_is_over() {
    let at = parse(PC_10).0.eof.unwrap().0;
    let stream = [&PC_10[..=at], &NO_DESCRIPTION].concat();
    for size in [1, 7, 4096] {
        let (seen, _, end) = parse_by(&stream, || size, false);
        assert_eq!((end, seen.eof), (Ok(End::Described), Some((at, Some(2)))));
    }
    assert!(parse(&[&stream[..], b" "].concat()).2.is_err());
}

#[test]
fn it_is_the_same_in_pieces_of_any_size() {
    for stream in REAL {
        let whole = parse(stream);
        for size in [1, 2, 7, 4095, 4096, 4097, 65536] {
            // a byte at a time is slow where each page comes 4096 times: a short one says as much
            if size < 7 && stream.len() > 25_000 {
                continue;
            }
            let pieces = parse_by(stream, || size, false);
            assert_eq!(pieces.0, whole.0);
            assert_eq!(pieces.2, whole.2);
        }
        let stopped = parse_by(stream, || 10_000, true);
        assert_eq!(stopped.0, whole.0);
        assert_eq!(stopped.2, whole.2);
    }
}

#[test]
fn no_prefix_of_a_stream_is_taken_for_a_whole_one() {
    for stream in [SHARED, BARE] {
        // all of them near the ends, and some in between: each is read from its beginning
        let near = |len: usize| len < 400 || len + 700 > stream.len() || len.is_multiple_of(41);
        for len in (0..stream.len()).filter(|&len| near(len)) {
            let prefix = &stream[..len];
            let (mut parser, mut given) = (Parser::new(), 0);
            let used = parser.feed(prefix, &mut |item| {
                given += match item {
                    Item::Raw(bytes) | Item::Ask(bytes) => bytes.len(),
                    _ => 0,
                };
                Continue(())
            });
            let used = used.unwrap();
            assert!(given <= used && used <= len);
            let end = parser.finish(&prefix[used..], &mut |_| Continue(()));
            match end {
                Err(StreamError::Cut { at, .. }) => assert_eq!(at, len as u64),
                Err(StreamError::Empty) => assert_eq!(len, 0),
                // within the state a footer and a 00 can stand by chance: QEMU cannot tell either
                Ok(End::Bare) => assert_eq!((prefix[len - 6], prefix[len - 1]), (0x7e, 0)),
                // an end with its description is cut inside it, or at the 00
                other => panic!("{other:?} at {len}"),
            }
        }
    }
}

/// A stream made by hand: head, configuration, START with two blocks of 4 and 2 pages.
struct Hand(Vec<u8>);

fn named(name: &str) -> Vec<u8> {
    [&[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat()
}

impl Hand {
    fn magic() -> Self {
        Self(b"QEVM\0\0\0\x03".to_vec())
    }

    fn configured() -> Self {
        Self::magic().bytes(b"\x07\0\0\0\x02pc")
    }

    fn subsection(self, name: &str) -> Self {
        self.bytes(&[5]).bytes(&named(name)).word(1)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn word(self, word: u32) -> Self {
        self.bytes(&word.to_be_bytes())
    }

    fn head(self, head: u64) -> Self {
        self.bytes(&head.to_be_bytes())
    }

    fn section(self, kind: u8, id: u32, name: &str, version: u32) -> Self {
        self.bytes(&[kind]).word(id).bytes(&named(name)).word(0).word(version)
    }

    fn list(self, blocks: &[(&str, u64)]) -> Self {
        let total: u64 = blocks.iter().map(|block| block.1).sum();
        let start = self.section(1, 2, "ram", 4).head(total | 4);
        blocks.iter().fold(start, |hand, (name, bytes)| hand.bytes(&named(name)).head(*bytes))
    }

    fn close(self) -> Self {
        self.head(0x10).bytes(&[0x7e]).word(2)
    }

    fn ready() -> Self {
        Self::configured().list(&[("a", 0x4000), ("b", 0x2000)]).close()
    }

    fn part() -> Self {
        Self::ready().bytes(&[2]).word(2)
    }

    fn zero(self, head: u64, name: &str) -> Self {
        self.head(head).bytes(&named(name)).bytes(&[0])
    }

    fn tail(self) -> Self {
        self.bytes(&[3]).word(2).close().bytes(b"\x04state\x7e\0\0\0\x09\0")
    }

    fn described(self, json: &str) -> Self {
        let len = u32::try_from(json.len()).unwrap();
        self.tail().bytes(&[6]).word(len).bytes(json.as_bytes())
    }
}

/// It is opaque from `at` on, for this reason, and passes whole.
fn assert_opaque(made: Hand, at: usize, reason: &Reason) {
    // what follows is not looked at
    let Hand(stream) = made.bytes(b"\xff\0\x7e anything");
    let whole = parse(&stream);
    let (seen, parser, end) = &whole;
    let (from, why, _) = seen.opaque.clone().unwrap();
    assert_eq!((from, &why), (at, reason));
    assert_eq!(parser.reason(), Some(reason));
    assert!(seen.bytes == stream);
    assert_eq!(*end, Ok(End::Unknown));
    assert!(!reason.to_string().is_empty());
    assert_eq!(parse_by(&stream, || 1, false).0, whole.0);
    assert_eq!(parse_by(&stream, || 3, true).0, whole.0);
}

#[test]
fn a_stream_made_by_hand_is_whole() {
    let Hand(stream) = Hand::part()
        .zero(0x1002, "a")
        .zero(0x3002, "a")
        .head(0x0022)
        .bytes(&[0])
        .zero(0x1002, "b")
        .close()
        .described("{\"page_size\": 4096, \"devices\": []}");
    let (seen, parser, end) = parse(&stream);
    assert_eq!(end, Ok(End::Described));
    assert_eq!(seen.bytes, stream);
    assert_eq!(seen.named, 1, "the second of block a says its name again");
    assert_eq!(seen.pages, [(0, 1, false), (0, 3, false), (0, 0, false), (1, 1, false)]);
    assert_eq!(parser.machine(), Some("pc"));
}

#[test]
fn a_machine_without_configuration_is_taken_apart() {
    let made = Hand::magic().list(&[("a", 0x1000)]).close().described("{\"page_size\": 4096}");
    let (seen, parser, end) = parse(&made.0);
    assert_eq!((end, parser.machine()), (Ok(End::Described), None));
    assert_eq!(seen.blocks.len(), 1);
}

#[test]
fn commands_of_no_consequence_pass() {
    let made = Hand::configured()
        .bytes(b"\x08\0\x01\0\0\x08\0\x02\0\x04ping")
        .list(&[("a", 0x1000)])
        .close()
        .bytes(b"\x08\0\x0b\0\0")
        .described("{\"configuration\": {\"vmsd_name\": \"configuration\"}}");
    let (seen, _, end) = parse(&made.0);
    assert_eq!((seen.opaque, end), (None, Ok(End::Described)));
}

#[test]
fn what_is_not_understood_in_the_configuration_passes_whole() {
    let at = Hand::configured().0.len();
    let bits = |bits| Hand::configured().subsection("configuration/target-page-bits").word(bits);
    assert_opaque(bits(16), at, &Reason::PageBits(16));
    let (seen, _, _) = parse(&bits(12).list(&[("a", 0x1000)]).0);
    assert_eq!(seen.opaque, None);
    let other = Hand::configured().subsection("configuration/more");
    assert_opaque(other, at, &Reason::Configuration("configuration/more".into()));
    let capability = |name: &str| {
        Hand::configured().subsection("configuration/capabilities").word(1).bytes(&named(name))
    };
    let at = capability("").0.len() - 1;
    assert_opaque(capability("mapped-ram"), at, &Reason::MappedRam);
    assert_opaque(capability("new"), at, &Reason::Capability("new".into()));
}

#[test]
fn what_is_not_understood_in_the_list_passes_whole() {
    let start = Hand::configured().section(1, 2, "ram", 4);
    let at = start.0.len();
    assert_opaque(start.head(0x1000), at, &Reason::List);
    let one = |bytes| Hand::configured().list(&[("a", bytes)]);
    let parts = Hand::configured().list(&[("a", 0x1800), ("b", 0x1800)]);
    assert_opaque(parts, at + 8, &Reason::List);
    // a page size behind the length, as post-copy has it
    let sizes = one(0x20_0000).head(0x20_0000);
    assert_opaque(sizes, one(0).0.len(), &Reason::List);
    let sizes = Hand::configured().section(1, 2, "ram", 4).head(0x40_0004);
    let sizes = sizes.bytes(&named("a")).head(0x20_0000);
    let at = sizes.0.len();
    assert_opaque(sizes.head(0x20_0000).bytes(&named("b")), at, &Reason::List);
    let twice = Hand::configured().list(&[("a", 0x1000), ("a", 0x1000)]);
    assert_opaque(twice, one(0).0.len(), &Reason::List);
    assert_opaque(one(0x1000).head(0x80), one(0).0.len(), &Reason::Rdma);
    assert_opaque(one(0x1000).head(0x200), one(0).0.len(), &Reason::Multifd);
    let names: Vec<String> = (0..=MAX_BLOCKS).map(|i| i.to_string()).collect();
    let many: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 0x1000)).collect();
    let (seen, _, end) = parse(&Hand::configured().list(&many).0);
    assert_eq!(seen.opaque.map(|opaque| opaque.1), Some(Reason::TooManyBlocks));
    assert_eq!(end, Ok(End::Unknown));
}

#[test]
fn sections_and_commands_that_are_not_understood_pass_whole() {
    let (fresh, ready) = (Hand::configured().0.len(), Hand::ready().0.len());
    let section = |name: &str| Reason::Section(name.into());
    assert_opaque(Hand::configured().section(1, 1, "block", 1), fresh, &section("block"));
    assert_opaque(Hand::ready().section(1, 3, "vfio", 1), ready, &section("vfio"));
    assert_opaque(Hand::ready().section(1, 3, "ram", 4), ready, &section("ram"));
    let early = Reason::Early("virtio-mem".into());
    assert_opaque(Hand::configured().section(4, 1, "virtio-mem", 1), fresh, &early);
    assert_opaque(Hand::ready().section(4, 1, "virtio-mem", 1), ready, &early);
    let version = Hand::configured().section(1, 2, "ram", 5);
    assert_opaque(version, fresh, &Reason::RamVersion(5));
    assert_opaque(Hand::ready().bytes(&[9]), ready, &Reason::SectionType(9));
    let command = |number: u8| Hand::configured().bytes(&[8, 0, number, 0, 0]);
    for number in 4..=9 {
        assert_opaque(command(number), fresh, &Reason::Postcopy);
    }
    let advise = Hand::configured().bytes(&[8, 0, 3, 0, 16]).bytes(&[0; 16]);
    assert_opaque(advise, fresh, &Reason::Postcopy);
    assert_opaque(command(3), fresh, &Reason::DirtyBitmaps);
    assert_opaque(command(10), fresh, &Reason::Colo);
    assert_opaque(command(0), fresh, &Reason::Command(0));
    assert_opaque(command(12), fresh, &Reason::Command(12));
    let long = Hand::configured().bytes(&[8, 0, 1, 0xff, 0xff]);
    assert_opaque(long, fresh, &Reason::Command(1));
    let start = Hand::configured().list(&[("a", 0x1000)]).head(0x10);
    let at = start.0.len();
    assert_opaque(start.bytes(&[2]).word(2), at, &Reason::NoFooters);
}

#[test]
fn records_that_are_not_understood_pass_whole_from_there_on() {
    let part = || Hand::part().zero(0x1002, "b");
    let at = part().0.len();
    for (flags, reason) in [
        (0x40, Reason::Xbzrle),
        (0x60, Reason::Xbzrle),
        (0x100, Reason::Compress),
        (0x120, Reason::Compress),
        (0x200, Reason::Multifd),
        (0x80, Reason::Rdma),
        (0x01, Reason::Flags(0x01)),
        (0x400, Reason::Flags(0x400)),
        (0x828, Reason::Flags(0x828)),
    ] {
        assert_opaque(part().head(flags), at, &reason);
        let (seen, _, _) = parse(&part().head(flags).0);
        assert_eq!(seen.opaque.unwrap().2, Some(1), "the block that it goes on with");
    }
    assert_opaque(part().head(0x22).bytes(&[7]), at, &Reason::Fill(7));
    assert_opaque(part().head(0x02).bytes(&named("a")).bytes(&[1]), at, &Reason::Fill(1));
}

fn error_of(stream: &[u8]) -> StreamError {
    let (_, mut parser, end) = parse(stream);
    let error = end.unwrap_err();
    assert_eq!(parse_by(stream, || 1, false).2.as_ref(), Err(&error));
    if !matches!(error, StreamError::Cut { .. } | StreamError::Empty) {
        assert_eq!(parser.feed(b"more", &mut |_| Continue(())), Err(error.clone()));
    }
    error
}

#[test]
fn what_is_no_stream_is_refused_at_once() {
    assert_eq!(error_of(b""), StreamError::Empty);
    assert_eq!(error_of(b"x"), StreamError::NotQemu);
    assert_eq!(error_of(b"QEVN\0\0\0\x03"), StreamError::NotQemu);
    assert_eq!(error_of(b"QEVM\0\0\0\x02...."), StreamError::Version { version: 2 });
    assert_eq!(error_of(b"QEV"), StreamError::Cut { at: 3, inside: "its first bytes" });
}

#[test]
fn what_qemu_would_refuse_is_refused_and_says_where() {
    let damaged = |made: Hand, at: usize, part: &str| match error_of(&made.0) {
        StreamError::Damaged { at: found, what } => {
            assert_eq!(found, at as u64);
            assert!(what.contains(part), "{what}");
        }
        other => panic!("{other:?}"),
    };
    let (magic, fresh) = (Hand::magic().0.len(), Hand::configured().0.len());
    damaged(Hand::magic().bytes(b"\x07\0\x01\0\0"), magic, "too long");
    damaged(Hand::magic().bytes(b"\x07\0\0\0\x02\x1b["), magic, "no text");
    let many = Hand::configured().subsection("configuration/capabilities");
    let at = many.0.len();
    damaged(many.word(257), at, "too many");
    damaged(Hand::configured().bytes(&[2]).word(2), fresh, "has not begun");
    damaged(Hand::configured().bytes(&[7]), fresh, "no section");
    let ready = Hand::ready().0.len();
    damaged(Hand::ready().bytes(&[2]).word(3), ready, "has not begun");
    damaged(Hand::ready().bytes(&[0]), ready, "before its memory");
    let part = Hand::part().0.len();
    damaged(Hand::part().head(0x22).bytes(&[0]), part, "there was none");
    damaged(Hand::part().zero(0x4002, "a"), part, "beyond its block");
    damaged(Hand::part().zero(0x2002, "b"), part, "beyond its block");
    damaged(Hand::part().zero(0xffff_ffff_ffff_f002, "b"), part, "beyond its block");
    damaged(Hand::part().head(0x0a), part, "exclude each other");
    damaged(Hand::part().head(0x00), part, "exclude each other");
    damaged(Hand::part().head(0x1010), part, "exclude each other");
    damaged(Hand::part().head(0x10).bytes(&[0x7e]).word(3), part + 8, "another");
    let whole = Hand::ready().described("{\"page_size\": 4096}");
    let at = whole.0.len();
    damaged(whole.bytes(b"x"), at, "follows the end");
    let unknown = Hand::part().zero(0x1002, "nobody");
    let error = StreamError::NoBlock { at: part as u64, name: "nobody".into() };
    assert_eq!(error_of(&unknown.0), error);
}

#[test]
fn what_looks_like_the_end_and_is_not_passes() {
    let json = "{\"page_size\": 4096, \"devices\": []}";
    for almost in [
        &b"\x7e\0\0\0\x05\0\x06\0\0\0\x40{\"page_sizE"[..],
        b"\x7e\0\0\0\x05\0\x06\xff\0\0\0{\"page_size\": 4096}",
        b"\x7e\0\0\0\x05\0\x06\0\0\0\x0e{\"page_size\": ",
        b"\x7e\0\0\0\x05\0\x07",
        b"\x7e",
        b"state\x7e\0\x02",
        b"\x7e\x7e\x7e\x7e\x7e\x7e\0\x06\0\0\0\x40{\"configuration\": {\"x",
    ] {
        let Hand(stream) = Hand::ready().bytes(&[3]).word(2).close().bytes(almost);
        // the real end follows it, also directly
        let len = u32::try_from(json.len()).unwrap();
        let stream = Hand(stream).bytes(b"\x7e\0\0\0\x09\0\x06").word(len).bytes(json.as_bytes()).0;
        let (seen, _, end) = parse(&stream);
        assert_eq!(end, Ok(End::Described));
        assert_eq!(seen.eof, Some((stream.len() - json.len() - 6, Some(len))));
        assert_eq!(parse_by(&stream, || 1, false).0, seen);
    }
}
