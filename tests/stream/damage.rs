//! Damage to streams that are right: nothing of it may be taken for a stream with another memory.

use crate::alloc::most_of;
use crate::applier::{Applier, apply};
use crate::given::{Feed, Given, Outcome, Rng};
use crate::receiver::Receiver;
use crate::refdecoder::decode;
use crate::vecfile::Vector;
use crate::vectors::{All, LACKING, slices};
use pageherd::wire::decode::{Decoder, Taken};
use pageherd::wire::explain::{Explained, explain};
use pageherd::wire::{Encoder, Header};
use std::time::{Duration, Instant};

/// A stream that is right, with what it makes.
pub(crate) struct Golden {
    pub name: String,
    pub given: Given,
    /// All streams that the reader takes, in order; the damage is done to `own`.
    pub streams: Vec<Vec<u8>>,
    pub own: usize,
    pub outcome: Outcome,
    /// What comes after its commit changes nothing.
    pub open_end: bool,
}

impl Golden {
    fn new(all: &All, vector: &Vector) -> Self {
        let (streams, own) = all.streams(vector);
        let outcome = decode(&vector.given, &slices(&streams));
        let open_end = vector.name == "ok_anything_after_commit";
        Self {
            name: vector.name.clone(),
            given: vector.given.clone(),
            streams,
            own,
            outcome,
            open_end,
        }
    }

    fn size(&self) -> usize {
        self.streams[self.own].len()
    }

    /// The outcome with other bytes in the place of its own.
    pub(crate) fn with(&self, bytes: &[u8], taken: impl FnOnce(&[&[u8]]) -> Outcome) -> Outcome {
        let mut streams = slices(&self.streams);
        streams[self.own] = bytes;
        taken(&streams)
    }

    fn applied(&self, bytes: &[u8]) -> Outcome {
        self.with(bytes, |streams| apply(&self.given, streams, Feed::Whole))
    }
}

/// Those that the ledger takes, none larger than `most` bytes.
pub(crate) fn goldens(most: usize) -> Vec<Golden> {
    let all = All::read();
    let good =
        all.0.iter().filter(|v| v.expect == "ok" && !LACKING.contains(&("the ledger", &v.name)));
    good.map(|vector| Golden::new(&all, vector)).filter(|golden| golden.size() <= most).collect()
}

/// Runs until the time is over or all is done, on two threads; returns how many were run. The time
/// is that of an ordinary test; `PAGEHERD_FUZZ` gives the number of runs instead.
pub(crate) fn many(seconds: u64, each: impl Fn(&mut Rng) + Sync) -> u64 {
    let runs: Option<u64> = std::env::var("PAGEHERD_FUZZ").ok().and_then(|runs| runs.parse().ok());
    let until = Instant::now() + Duration::from_secs(seconds);
    let half = |seed: u64| {
        let mut run = 0;
        while runs.map_or_else(|| Instant::now() < until, |runs| run < runs.div_ceil(2)) {
            let mut rng = Rng(seed << 40 | run);
            each(&mut rng);
            run += 1;
        }
        run
    };
    std::thread::scope(|scope| {
        let threads = [1, 2].map(|seed| scope.spawn(move || half(seed)));
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

#[test]
fn every_prefix_is_refused() {
    let mut prefixes = 0;
    for golden in goldens(20_000) {
        let bytes = &golden.streams[golden.own];
        let whole = bytes.len() - if golden.open_end { 3 } else { 0 };
        // all of them where it is small; around the frames where pages lie
        let step = |end: &usize| bytes.len() < 1500 || end.is_multiple_of(61) || whole - end < 200;
        for end in (0..whole).filter(step) {
            let found = golden.applied(&bytes[..end]);
            assert!(
                matches!(&found, Err(e) if e.kind == "cut"),
                "{} {end}: {found:?}",
                golden.name
            );
            prefixes += 1;
        }
    }
    println!("{prefixes} prefixes refused");
    assert!(prefixes > 5000);
}

#[test]
fn every_prefix_is_refused_by_the_receiver() {
    let mut prefixes = 0;
    for golden in goldens(1500).iter().filter(|g| !g.open_end && g.streams.len() == 1) {
        let receiver = Receiver::new(&golden.given);
        let bytes = &golden.streams[0];
        for end in 0..bytes.len() {
            let found = receiver.take(&[&bytes[..end]], Feed::Whole, false);
            assert!(
                matches!(&found, Err(e) if e.kind == "cut"),
                "{} {end}: {found:?}",
                golden.name
            );
            prefixes += 1;
        }
    }
    println!("{prefixes} prefixes refused");
    assert!(prefixes > 3000);
}

#[test]
fn every_flipped_bit_is_refused() {
    let (mut flips, mut large) = (0u64, Rng(1));
    for golden in goldens(70_000).iter().filter(|golden| !golden.open_end) {
        let mut bytes = golden.streams[golden.own].clone();
        let bits = bytes.len() * 8;
        // each bit of those that are small, some thousand of the others
        let chosen: Vec<usize> = if bytes.len() < 400 {
            (0..bits).collect()
        } else {
            (0..1000).map(|_| large.index(bits)).collect()
        };
        for bit in chosen {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let found = golden.applied(&bytes);
            assert!(found.is_err(), "{}: bit {bit}", golden.name);
            bytes[bit / 8] ^= 1 << (bit % 8);
            flips += 1;
        }
    }
    println!("{flips} flipped bits refused");
    assert!(flips > 20_000);
}

/// Damages some bytes at random, as lines, disks and programs do.
fn damage(rng: &mut Rng, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.index(bytes.len());
    let end = bytes.len().min(at + 1 + rng.index(64));
    match rng.below(8) {
        0 => bytes[at] = rng.byte(),
        1 => bytes[at..end].iter_mut().for_each(|byte| *byte = rng.byte()),
        2 => bytes[at..end].fill(0),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let piece = bytes[at..end].to_vec();
            let to = rng.index(bytes.len() + 1);
            bytes.splice(to..to, piece);
        }
        5 => bytes.truncate(at),
        6 => {
            let other = rng.index(bytes.len());
            bytes.swap(at, other);
        }
        _ => {
            let interesting = [0, 1, 0x7f, 0x80, 0xff];
            bytes[at] = rng.one_of(&interesting);
        }
    }
}

#[test]
fn random_damage_is_refused_or_makes_the_same_memory() {
    let goldens = goldens(10_000);
    let runs = many(6, |rng| {
        let golden = &goldens[rng.index(goldens.len())];
        let mut bytes = golden.streams[golden.own].clone();
        (0..=rng.below(3)).for_each(|_| damage(rng, &mut bytes));
        let found = golden.applied(&bytes);
        if found.is_ok() {
            assert_eq!(found, golden.outcome, "{}: other memory", golden.name);
            let own = &golden.streams[golden.own];
            let end = own.len() - if golden.open_end { 3 } else { 0 };
            let kept = bytes == *own || own[12] & 1 != 0 && bytes.starts_with(&own[..end]);
            assert!(kept, "{}: damage was not seen", golden.name);
        }
    });
    println!("{runs} damaged streams");
    assert!(runs > 1000);
}

/// The frames of a stream, without its header.
pub(crate) fn frames(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut frames, mut at) = (Vec::new(), 64);
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
        let Some(frame) = bytes.get(at..at + 16 + length) else { break };
        frames.push(frame);
        at += frame.len();
    }
    frames
}

#[test]
fn frames_dropped_doubled_swapped_or_of_another_session_are_refused() {
    let goldens = goldens(70_000);
    let mut done = 0;
    for golden in goldens.iter().filter(|golden| !golden.open_end) {
        let bytes = &golden.streams[golden.own];
        let all = frames(bytes);
        if all.len() > 100 {
            continue;
        }
        let check = |frames: &[&[u8]]| {
            let changed = [&bytes[..64], &frames.concat()].concat();
            // what follows the end of a stream with answers changes nothing
            let same = changed.starts_with(bytes) && bytes[12] & 1 != 0;
            let found = golden.applied(&changed);
            let good = if same { found == golden.outcome } else { found.is_err() };
            assert!(&changed == bytes || good, "{}", golden.name);
        };
        for at in 0..all.len() {
            let mut dropped = all.clone();
            dropped.remove(at);
            check(&dropped);
            let mut doubled = all.clone();
            doubled.insert(at, all[at]);
            check(&doubled);
            for other in at + 1..all.len() {
                let mut swapped = all.clone();
                swapped.swap(at, other);
                check(&swapped);
            }
            done += 1 + all.len();
        }
        // frames with the same number, of all other streams
        for other in goldens.iter().filter(|other| other.streams[other.own][..64] != bytes[..64]) {
            for (at, frame) in frames(&other.streams[other.own]).iter().enumerate().take(all.len())
            {
                let mut spliced = all.clone();
                spliced[at] = frame;
                check(&spliced);
                done += 1;
            }
        }
    }
    println!("{done} streams of frames in another order");
    assert!(done > 1000);
}

/// Everything that lies about its size, with the ledger and the decoder alone.
#[test]
fn a_lying_length_costs_nothing() {
    let all = All::read();
    let mut highest = (0, "");
    for vector in &all.0 {
        let (streams, _) = all.streams(vector);
        let streams = slices(&streams);
        let (_, most) = most_of(|| Applier::new(&vector.given, None).take(&streams, Feed::Whole));
        assert!(most < 32 << 20, "{}: {most} bytes", vector.name);
        highest = highest.max((most, &vector.name));
    }
    println!("at most {} bytes at once: {}", highest.0, highest.1);
}

/// One record says the same after it was read and written again, and is explained.
#[test]
fn what_is_read_is_written_as_it_was() {
    let all = All::read();
    for vector in &all.0 {
        let bytes = vector.bytes();
        let mut said = Vec::new();
        let end = explain(&mut bytes.as_slice(), &mut said).unwrap();
        let text = String::from_utf8(said).unwrap();
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{}", vector.name);
        if vector.expect == "ok" && vector.name != "ok_anything_after_commit" {
            assert!(matches!(end, Explained::Whole { .. }), "{}: {end:?}", vector.name);
        }
        again(&bytes);
    }
}

/// Reads until something is wrong; what was right is written again.
fn again(bytes: &[u8]) {
    let (mut decoder, mut encoder, mut at) = (Decoder::stream(), None::<Encoder>, 0);
    let mut head = 0;
    while let Some(piece) = bytes.get(at..at + decoder.wants()) {
        at += piece.len();
        match decoder.take(piece) {
            Ok(Taken::Header(header)) => {
                let header: Header = header;
                if header.write() != piece {
                    return; // a later minor version: nothing that this version would write
                }
                encoder = Some(Encoder::new(&header));
            }
            Ok(Taken::Part) => head = piece.len(),
            Ok(Taken::Record(record)) => {
                let encoder = encoder.as_mut().unwrap();
                let written = if record.tag() >= 128 {
                    encoder.whole(record.tag(), &piece[..piece.len() - 4])
                } else {
                    encoder.record(&record)
                };
                let control =
                    matches!(&record, pageherd::wire::Record::Abort(why) if why.contains('?'));
                assert!(control || written == bytes[at - head - piece.len()..at]);
            }
            _ => return,
        }
    }
}
