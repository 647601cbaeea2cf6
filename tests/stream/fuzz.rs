//! Streams that nobody thought of: right ones in which fields, frames and bytes were changed, with
//! checksums, numbers and mostly digests that fit again, so that what is said is looked at and not
//! only how. Three readers must agree: the reference decoder, the ledger, the receiver.
//!
//! Every run can be had again: it is made of its number alone. `PAGEHERD_FUZZ=1000000` runs so many.

use crate::applier::{Applier, Fault, apply};
use crate::damage::{Golden, frames, goldens, many};
use crate::given::{Feed, Given, Outcome, PAGE, Refused, Rng, memory};
use crate::receiver::Receiver;
use crate::refdecoder::{World, decode};
use crate::script::{Script, number, pack};
use crate::vecfile::{Vector, folder, hex, read_all};
use crate::vectors::{LACKING, is_vmm};
use pageherd::wire::pages::{Base, Op, Packing, PageOp, write_head};
use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers at which readers break: ends of types, and of the limits.
const INTERESTING: [u64; 34] = [
    0,
    1,
    2,
    3,
    4,
    5,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    257,
    1023,
    1024,
    1025,
    4095,
    4096,
    8191,
    8192,
    8193,
    65_535,
    65_536,
    65_537,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 40) - 2,
    (1 << 40) - 1,
    1 << 40,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// A stream, taken apart.
#[derive(Clone)]
struct Parts {
    header: Vec<u8>,
    frames: Vec<Part>,
    tail: Vec<u8>,
}

#[derive(Clone)]
struct Part {
    tag: u8,
    flags: [u8; 3],
    body: Vec<u8>,
}

impl Parts {
    fn of(bytes: &[u8]) -> Self {
        let all = frames(bytes);
        let end = 64 + all.iter().map(|frame| frame.len()).sum::<usize>();
        let part = |frame: &&[u8]| Part {
            tag: frame[4],
            flags: [frame[5], frame[6], frame[7]],
            body: frame[12..frame.len() - 4].to_vec(),
        };
        Self {
            header: bytes[..64].to_vec(),
            frames: all.iter().map(part).collect(),
            tail: bytes[end..].to_vec(),
        }
    }

    /// With numbers and checksums that fit.
    fn bytes(&self) -> Vec<u8> {
        let mut all = self.header.clone();
        let sum = crc32fast::hash(&all[..60]).to_le_bytes();
        all[60..].copy_from_slice(&sum);
        for (number, part) in (0u32..).zip(&self.frames) {
            let mut frame = u32::try_from(part.body.len()).unwrap().to_le_bytes().to_vec();
            frame.push(part.tag);
            frame.extend(part.flags);
            frame.extend(number.to_le_bytes());
            frame.extend(&part.body);
            let mut crc = crc32fast::Hasher::new();
            crc.update(&sum);
            crc.update(&frame);
            all.extend(frame);
            all.extend(crc.finalize().to_le_bytes());
        }
        all.extend(&self.tail);
        all
    }
}

/// Where the fields of a body are, as far as it can be read: numbers, and bytes of fixed length.
fn fields(tag: u8, body: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut number = |at: &mut usize, len: Option<usize>| -> Option<u64> {
        let start = *at;
        let end = match len {
            Some(len) => start + len,
            None => start + 1 + body.get(start..)?.iter().position(|byte| byte & 0x80 == 0)?,
        };
        let bytes = body.get(start..end)?;
        *at = end;
        found.push((start, end));
        let value = |(i, byte): (usize, &u8)| {
            u64::from(byte & 0x7f).checked_shl(7 * u32::try_from(i).ok()?)
        };
        bytes.iter().enumerate().take(9).map(value).sum()
    };
    let mut walk = || -> Option<()> {
        match tag {
            1 | 2 => {
                if tag == 1 {
                    number(&mut at, Some(1))?;
                }
                let length = number(&mut at, None)?;
                number(&mut at, Some(usize::try_from(length).ok()?))?;
                let blocks = if tag == 1 { number(&mut at, None)? } else { 0 };
                for _ in 0..blocks.min(20) {
                    let length = number(&mut at, None)?;
                    number(&mut at, Some(usize::try_from(length).ok()?))?;
                    number(&mut at, None)?;
                }
                if tag == 2 {
                    number(&mut at, None)?;
                    number(&mut at, Some(32))?;
                }
            }
            4 => {
                number(&mut at, None)?;
                number(&mut at, None)?;
                for _ in 0..number(&mut at, None)?.min(40) {
                    let kind = number(&mut at, Some(1))?;
                    number(&mut at, None)?;
                    let packing = usize::from((6..=8).contains(&kind));
                    let rest = match kind {
                        4..=6 | 10 => 2,
                        7 => 3,
                        8 => 1,
                        _ => 0,
                    };
                    if packing > 0 {
                        number(&mut at, Some(1))?;
                    }
                    for _ in 0..rest {
                        number(&mut at, None)?;
                    }
                }
            }
            5 | 6 | 9 => drop(number(&mut at, None)?),
            11 | 13 => drop(number(&mut at, Some(1))?),
            12 => {
                number(&mut at, Some(16))?;
                number(&mut at, None)?;
                for _ in 0..number(&mut at, None)?.min(20) {
                    number(&mut at, None)?;
                    number(&mut at, None)?;
                }
            }
            _ => {}
        }
        Some(())
    };
    walk();
    found
}

/// Where a record of pages is to stand.
struct Spot {
    vm: u32,
    page: u64,
    /// The most pages that it may be about.
    most: u64,
    round: bool,
    /// In a VMM's stream.
    vmm: bool,
}

/// A record of pages as a sender could write it, mostly.
fn random_pages(rng: &mut Rng, given: &Given, spot: &Spot) -> (Part, u64) {
    let fills = [0u8, 0x11, 0x22, 0x41, 0x42, 0x99];
    let (mut ops, mut payload, mut page) = (Vec::new(), Vec::new(), spot.page);
    let end = spot.page + spot.most;
    for _ in 0..=rng.below(4) {
        if page >= end {
            break;
        }
        let pages = 1 + rng.below(3.min(end - page));
        let size = usize::try_from(pages).unwrap();
        let content: Vec<u8> = (0..pages).map(|_| rng.one_of(&fills)).collect();
        let content = memory(&content);
        let wild = rng.below(16) == 0;
        let op = match rng.below(if spot.vmm { 16 } else { 10 }) {
            0 => Op::Zero,
            10..=12 => Op::Pool { member: u32::from(wild), page: rng.below(6) },
            13..=15 => Op::Skip,
            1 | 5 | 6 if spot.vmm && !wild => Op::Skip,
            1 => Op::Unused,
            2..=4 => {
                payload.extend(&content);
                Op::Bytes
            }
            5 | 6 if wild => {
                Op::Same { vm: u32::try_from(rng.below(3)).unwrap(), page: rng.below(6) }
            }
            // what has come in this VM, or in the one before
            5 if page >= pages => Op::Same { vm: spot.vm, page: rng.below(page - pages + 1) },
            6 if spot.vm > 0 => Op::Same { vm: 0, page: rng.below(4) },
            5 | 6 => Op::Zero,
            7 => {
                let page = if wild { rng.below(9) } else { rng.below(5 - pages) };
                Op::Template { template: u32::from(wild && rng.below(2) == 0), page }
            }
            8 => {
                let with = rng.one_of(&[Packing::Lz4, Packing::Zstd, Packing::Exec]);
                let more = rng.below(2).min(end - page - pages);
                let whole =
                    [content, memory(&[0x33]).repeat(usize::try_from(more).unwrap())].concat();
                let packed = pack(with, &whole, None);
                let length = u32::try_from(packed.len()).unwrap();
                payload.extend(packed);
                let op = Op::Packed { chunk: pages + more, with, length, base: None };
                ops.push(PageOp { pages, op });
                page += pages + more;
                if more > 0 {
                    ops.push(PageOp { pages: more, op: Op::More });
                }
                continue;
            }
            _ => {
                let earlier = spot.round && (!spot.vmm || wild) && rng.below(2) == 0;
                let base =
                    if earlier { Base::Earlier } else { Base::Template { template: 0, page: 0 } };
                let with = rng.one_of(&[Packing::Xor, Packing::Zstd]);
                let mut before = [0x11; PAGE].repeat(size);
                if let Some(template) =
                    given.templates.first().filter(|t| !earlier && t.len() >= size)
                {
                    before = memory(&template[..size]);
                }
                let mut content = before.clone();
                let at = rng.index(content.len());
                content[at] = rng.byte();
                let packed = pack(with, &content, Some(&before));
                let length = u32::try_from(packed.len()).unwrap();
                payload.extend(packed);
                Op::Packed { chunk: pages, with, length, base: Some(base) }
            }
        };
        ops.push(PageOp { pages, op });
        page += pages;
    }
    let mut body = Vec::new();
    write_head(spot.vm, spot.page, &ops, &mut body);
    body.extend(payload);
    (Part { tag: 4, flags: [0; 3], body }, page)
}

/// Any record of pages, about small numbers.
fn any_pages(rng: &mut Rng, given: &Given) -> Part {
    let vm = u32::try_from(rng.below(2)).unwrap();
    let round = rng.below(2) == 0;
    let spot = Spot { vm, page: rng.below(4), most: 4, round, vmm: rng.below(4) == 0 };
    random_pages(rng, given, &spot).0
}

/// Two VMs without pages: those are put in at random, so that they mostly come as they should.
fn bare() -> Golden {
    let given =
        Given { templates: vec![vec![0x41, 0, 0x42, 0x43]], exec: true, ..Given::default() };
    let mut s = Script::new(given.clone(), 0b11010);
    s.vm("a", 5).vm("b", 4).template(0).begin().end(0, &[]).end(1, &[]).seal();
    let outcome = Err(Refused { kind: "missing", stream: 0, record: None });
    let (name, streams) = ("bare".to_owned(), vec![s.bytes()]);
    Golden { name, given, streams, own: 0, outcome, open_end: false }
}

/// A VMM's stream without pages: those are put in at random, and what stands between them.
fn bare_vmm() -> Golden {
    let given =
        Given { templates: vec![vec![0x41, 0, 0x42, 0x43]], exec: true, ..Given::default() };
    let mut s = Script::new(given.clone(), 0b11_1010);
    s.vm("a", 6).template(0).pool(0, 0, &[]).begin().ready().end(0, &[]).seal();
    let outcome = Err(Refused { kind: "digest", stream: 0, record: None });
    let (name, streams) = ("bare_vmm".to_owned(), vec![s.bytes()]);
    Golden { name, given, streams, own: 0, outcome, open_end: false }
}

/// A part of a VMM's stream, or whether pages are kept.
fn part(rng: &mut Rng) -> Part {
    let (tag, body) = match rng.below(6) {
        0 | 1 => (11, [&[1], b"words".as_slice()].concat()),
        2 => (11, vec![2]),
        3 => (13, vec![0]),
        _ => (13, vec![1]),
    };
    Part { tag, flags: [0; 3], body }
}

fn fill_in_vmm(rng: &mut Rng, parts: &mut Parts, given: &Given) {
    let mut all = Vec::new();
    for _ in 0..2 + rng.below(6) {
        if rng.below(3) == 0 {
            all.push(part(rng));
        }
        let page = rng.below(6);
        let spot = Spot { vm: 0, page, most: 6 - page, round: true, vmm: true };
        all.push(random_pages(rng, given, &spot).0);
    }
    let begin = parts.frames.iter().position(|part| part.tag == 3).unwrap();
    parts.frames.splice(begin + 1..begin + 1, all);
}

fn fill_in(rng: &mut Rng, parts: &mut Parts, given: &Given) {
    let mut all = Vec::new();
    for (vm, pages) in [(0, 5), (1, 4)] {
        let mut page = 0;
        while page < pages {
            let (part, next) = random_pages(
                rng,
                given,
                &Spot { vm, page, most: pages - page, round: false, vmm: false },
            );
            all.push(part);
            page = next;
        }
    }
    for round in 1..=rng.below(3) {
        all.push(Part { tag: 5, flags: [0; 3], body: number(round) });
        for (vm, pages) in [(0, 5), (1, 4)] {
            let page = rng.below(pages + 1);
            if page < pages {
                all.push(
                    random_pages(
                        rng,
                        given,
                        &Spot { vm, page, most: pages - page, round: true, vmm: false },
                    )
                    .0,
                );
            }
        }
    }
    let begin = parts.frames.iter().position(|part| part.tag == 3).unwrap();
    parts.frames.splice(begin + 1..begin + 1, all);
}

/// One change.
fn change(rng: &mut Rng, parts: &mut Parts, given: &Given, others: &[Golden]) {
    let len = parts.frames.len();
    if len == 0 {
        parts.frames.push(any_pages(rng, given));
        return;
    }
    let at = rng.index(len);
    match rng.below(16) {
        0..=4 => {
            let part = &mut parts.frames[at];
            let all = fields(part.tag, &part.body);
            if all.is_empty() {
                return;
            }
            let (start, end) = all[rng.index(all.len())];
            let old = u64::from(part.body.get(start).copied().unwrap_or(0) & 0x7f);
            let value = match rng.below(3) {
                0 => rng.one_of(&INTERESTING),
                1 => old.wrapping_add(1),
                _ => rng.below(12),
            };
            part.body.splice(start..end, number(value));
        }
        5 => drop(parts.frames.remove(at)),
        6 => {
            let again = parts.frames[at].clone();
            parts.frames.insert(rng.index(len + 1), again);
        }
        7 => {
            let other = rng.index(len);
            parts.frames.swap(at, other);
        }
        8..=10 => {
            // where pages can come, mostly
            let begin = parts.frames.iter().position(|part| part.tag == 3).unwrap_or(0);
            let to = (begin + 1 + rng.index(len)).min(len);
            parts.frames.insert(to, any_pages(rng, given));
        }
        11 => {
            let other = &others[rng.index(others.len())];
            let frames = Parts::of(&other.streams[other.own]).frames;
            if !frames.is_empty() && frames.len() < 100 {
                parts.frames.insert(at, frames[rng.index(frames.len())].clone());
            }
        }
        12 => {
            let part = &mut parts.frames[at];
            if !part.body.is_empty() {
                let at = rng.index(part.body.len().min(60));
                part.body[at] = rng.byte();
            }
        }
        13 => {
            // a round, or the end of a round; in a VMM's stream mostly what that has there
            if parts.header[12] & 32 != 0 && rng.below(4) > 0 {
                let mut part = part(rng);
                if rng.below(4) == 0 {
                    part = Part { tag: 11, flags: [0; 3], body: vec![3] };
                }
                parts.frames.insert(at, part);
                return;
            }
            let body = number(1 + rng.below(3));
            parts.frames.insert(at, Part { tag: 5, flags: [0; 3], body });
        }
        14 => match rng.below(6) {
            0 => parts.header[12] ^= 1 << rng.below(6),
            1 => parts.header[usize::try_from(rng.below(60)).unwrap()] = rng.byte(),
            2 => parts.frames[at].tag = rng.byte() % 14,
            3 => parts.frames[at].flags[rng.index(3)] = rng.byte(),
            4 => parts.tail = vec![0; rng.index(20)],
            _ => parts.frames.truncate(at),
        },
        _ => {
            // the body a byte longer or shorter
            let part = &mut parts.frames[at];
            let short = part.body.len().saturating_sub(1);
            if rng.below(2) == 0 { part.body.push(rng.byte()) } else { part.body.truncate(short) }
        }
    }
}

/// Digests and seals as they should be, as long as nothing else is wrong.
fn repair(golden: &Golden, parts: &mut Parts) -> (Vec<u8>, Outcome) {
    loop {
        let bytes = parts.bytes();
        let mut world = World::new(&golden.given);
        let outcome = golden.with(&bytes, |streams| world.decode(streams));
        let (Err(refused), Some(right)) = (&outcome, world.right) else { return (bytes, outcome) };
        let Some(part) = refused.record.and_then(|at| parts.frames.get_mut(at as usize)) else {
            return (bytes, outcome);
        };
        let at = part.body.len() - 16;
        if refused.stream != golden.own {
            return (bytes, outcome);
        }
        part.body[at..].copy_from_slice(&right);
    }
}

/// A stream made of a number, and what the reference decoder says.
fn make(rng: &mut Rng, goldens: &[Golden]) -> (usize, Vec<u8>, Outcome) {
    // the last two, of which there are many, as often as all others
    let which = match rng.index(2 * goldens.len()) {
        which if which < goldens.len() => which,
        which => goldens.len() - 1 - which % 2,
    };
    let golden = &goldens[which];
    let mut parts = Parts::of(&golden.streams[golden.own]);
    let mut changes = 1 + rng.below(3);
    match golden.name.as_str() {
        "bare" => fill_in(rng, &mut parts, &golden.given),
        "bare_vmm" => fill_in_vmm(rng, &mut parts, &golden.given),
        _ => {}
    }
    if golden.name.starts_with("bare") {
        changes = rng.below(3);
    }
    (0..changes).for_each(|_| change(rng, &mut parts, &golden.given, goldens));
    if rng.below(8) > 0 {
        let (bytes, outcome) = repair(golden, &mut parts);
        return (which, bytes, outcome);
    }
    let bytes = parts.bytes();
    let outcome = golden.with(&bytes, |streams| decode(&golden.given, streams));
    (which, bytes, outcome)
}

/// Do two readers say the same? Of what two things are wrong, one may name the other; but it is in
/// the same record.
fn agree(a: &Outcome, b: &Outcome) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => a == b,
        (Err(a), Err(b)) => (a.stream, a.record) == (b.stream, b.record),
        _ => false,
    }
}

fn small() -> Vec<Golden> {
    let mut all = goldens(20_000);
    let few = |golden: &Golden| {
        golden.outcome.iter().flatten().map(|(_, memory)| memory.len()).sum::<usize>() <= 16 * PAGE
    };
    all.retain(|golden| golden.name != "ok_donor" && few(golden));
    all.push(bare());
    all.push(bare_vmm());
    all
}

#[test]
fn the_readers_agree_on_streams_that_nobody_thought_of() {
    let goldens = small();
    let receivers: Vec<Receiver> =
        goldens.iter().map(|golden| Receiver::new(&golden.given)).collect();
    let (taken, kinds) = (AtomicU64::new(0), Mutex::new(BTreeMap::<String, u64>::new()));
    let runs = many(8, |rng| {
        let seed = rng.0;
        let (which, bytes, outcome) = make(rng, &goldens);
        let golden = &goldens[which];
        let ours = golden.with(&bytes, |streams| apply(&golden.given, streams, Feed::Whole));
        // known: see LACKING in vectors.rs
        let twice = outcome.as_ref().is_err_and(|refused| refused.kind == "twice");
        let foreign = bytes.len() > 12 && bytes[12] & 4 != 0;
        let lacks = !LACKING.is_empty();
        let waits_and_rounds = lacks && foreign && (twice || bytes[12] & 2 != 0);
        assert!(
            waits_and_rounds || agree(&outcome, &ours),
            "run {seed:#x} of {}: the reference says {outcome:?}, the ledger {ours:?}\n{}",
            golden.name,
            hex(&bytes)
        );
        let word = outcome.as_ref().map_or_else(|refused| refused.kind, |_| "ok");
        let later = bytes.len() >= 28 && (bytes[10..12] != [0, 0] || bytes[20..28] != [0; 8]);
        let asks = frames(&bytes).iter().any(|frame| frame[4] == 10);
        let otherwise = lacks && (word == "missing" || later || asks);
        if golden.streams.len() == 1 && !waits_and_rounds && !otherwise {
            let theirs = receivers[which].take(&[&bytes], Feed::Whole, false);
            let same = match (&outcome, &theirs) {
                (Ok(a), Ok(b)) => a == b,
                (a, b) => a.is_err() && b.is_err(),
            };
            assert!(
                same,
                "run {seed:#x} of {}: the reference says {outcome:?}, the receiver {theirs:?}\n{}",
                golden.name,
                hex(&bytes)
            );
        }
        // a VMM remembers no sessions
        if golden.streams.len() == 1 && is_vmm(&bytes) && !asks {
            let relayed = receivers[which].relay(&bytes, Feed::Whole);
            assert!(
                outcome.is_ok() == relayed.is_ok(),
                "run {seed:#x} of {}: the reference says {outcome:?}, for a VMM {relayed:?}\n{}",
                golden.name,
                hex(&bytes)
            );
        }
        taken.fetch_add(u64::from(outcome.is_ok()), Ordering::Relaxed);
        *kinds.lock().unwrap().entry(word.to_owned()).or_default() += 1;
    });
    println!(
        "{runs} streams, {} of them right: {:?}",
        taken.into_inner(),
        kinds.into_inner().unwrap()
    );
    assert!(runs > 1000);
}

/// The first streams that show a fault, the smallest of some.
fn find(fault: Fault, goldens: &[Golden], enough: u64) -> Option<(u64, Vector)> {
    let mut found: Option<(u64, Vector)> = None;
    let mut finds = 0;
    for run in 0..8000 {
        let mut rng = Rng(0xfa << 40 | run);
        let (which, bytes, outcome) = make(&mut rng, goldens);
        let golden = &goldens[which];
        let faulty = with_fault(golden, &bytes, fault);
        if agree(&outcome, &faulty) {
            continue;
        }
        finds += 1;
        let smaller = found.as_ref().is_none_or(|(_, vector)| bytes.len() < vector.bytes().len());
        if smaller {
            let first = found.as_ref().map_or(run, |(first, _)| *first);
            found = Some((first, vector(fault, golden, bytes, &outcome)));
        }
        if finds == enough {
            break;
        }
    }
    found
}

fn with_fault(golden: &Golden, bytes: &[u8], fault: Fault) -> Outcome {
    golden.with(bytes, |streams| Applier::new(&golden.given, Some(fault)).all(streams, Feed::Whole))
}

fn name_of(fault: Fault) -> String {
    format!("planted_{fault:?}").to_lowercase()
}

fn vector(fault: Fault, golden: &Golden, bytes: Vec<u8>, outcome: &Outcome) -> Vector {
    Vector {
        name: name_of(fault),
        why: format!("shows the fault {fault:?} when it is planted; made of {}", golden.name),
        expect: outcome.as_ref().map_or_else(|refused| refused.kind, |_| "ok").to_owned(),
        must: None,
        given: golden.given.clone(),
        before: None,
        behind: None,
        vms: Vec::new(),
        pieces: vec![("stream".to_owned(), bytes)],
    }
}

/// The fuzzer is put to the test: faults are planted, and it must find them.
#[test]
fn planted_faults_are_found() {
    let mut goldens = small();
    goldens.retain(|golden| golden.streams.len() == 1);
    let bless = std::env::var_os("PAGEHERD_BLESS").is_some();
    let mut found = 0;
    for fault in Fault::ALL {
        match find(fault, &goldens, if bless { 20 } else { 1 }) {
            Some((run, vector)) => {
                println!("{fault:?}: after {run} streams");
                found += 1;
                if bless {
                    fs::write(folder("corpus").join(format!("{}.vec", vector.name)), vector.text())
                        .unwrap();
                }
            }
            None => println!("{fault:?}: not found"),
        }
    }
    println!("{found} of {} planted faults found", Fault::ALL.len());
    assert!(found == Fault::ALL.len());
}

/// Streams that once showed a fault show it for ever.
#[test]
fn the_corpus_is_judged_alike_and_shows_the_planted_faults() {
    let all = read_all(&folder("corpus"));
    assert!(all.len() >= Fault::ALL.len(), "the corpus is not here");
    for vector in &all {
        let bytes = vector.bytes();
        let outcome = decode(&vector.given, &[&bytes]);
        let word = outcome.as_ref().map_or_else(|refused| refused.kind, |_| "ok");
        assert_eq!(word, vector.expect, "{}", vector.name);
        for feed in [Feed::Whole, Feed::Pieces(5)] {
            let ours = apply(&vector.given, &[&bytes], feed);
            assert!(agree(&outcome, &ours), "{}: {outcome:?}, {ours:?}", vector.name);
        }
        let theirs = Receiver::new(&vector.given).take(&[&bytes], Feed::Whole, false);
        assert_eq!(theirs.is_ok(), outcome.is_ok(), "{}: {theirs:?}", vector.name);
        if let Some(fault) = Fault::ALL.into_iter().find(|&fault| name_of(fault) == vector.name) {
            let faulty = Applier::new(&vector.given, Some(fault)).all(&[&bytes], Feed::Whole);
            assert!(!agree(&outcome, &faulty), "{}: {faulty:?}", vector.name);
        }
    }
}
