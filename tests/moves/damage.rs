//! Damaged streams at a real receiver: refused, whatever is wrong, and nothing is kept.

use super::*;
use pageherd::base::address::Address;
use pageherd::filter::chain::Chain;
use pageherd::migrate::codecs::Codecs;
use pageherd::migrate::receive::{Ends, ReceiveError, Received, Site, receive};
use pageherd::migrate::send::{Options, SendVm, send};
use pageherd::migrate::templates::TemplateFile;
use pageherd::source::feed::image::ImageFeed;
use pageherd::store::herd::Herd;
use pageherd::transport::{self, Drain};
use pageherd::wire::header::Session;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

/// What is written, for the test to look at.
#[derive(Clone, Default)]
struct Tape(Arc<Mutex<Vec<u8>>>);

impl Write for Tape {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(from);
        Ok(from.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drain for Tape {}

/// Memories, a template, and a stream of them that has every kind of operation.
struct Golden {
    folder: Folder,
    memories: [Vec<u8>; 2],
    stream: Vec<u8>,
}

fn word(page: &mut [u8], word: &str) {
    page[..word.len()].copy_from_slice(word.as_bytes());
}

impl Golden {
    fn new(session: u8) -> Self {
        let folder = Folder::new();
        let mut template = vec![0; 3 * PAGE];
        (0..3).for_each(|page| word(&mut template[page * PAGE..], &format!("template {page}")));
        fs::write(folder.path("template"), &template).unwrap();
        let mut a = vec![0; 9 * PAGE];
        a[..PAGE].copy_from_slice(&template[PAGE..2 * PAGE]);
        for (page, text) in [(2, "two"), (3, "three"), (5, "two"), (6, "six"), (8, "eight")] {
            word(&mut a[page * PAGE..], text);
        }
        let mut b = a.clone();
        word(&mut b[4 * PAGE..], "another");
        for (name, memory) in [("a", &a), ("b", &b)] {
            let file = File::create(folder.path(name)).unwrap();
            file.set_len(memory.len() as u64).unwrap();
            for (page, bytes) in memory.chunks(PAGE).enumerate() {
                if bytes.iter().any(|&byte| byte != 0) || page == 7 {
                    file.write_all_at(bytes, (page * PAGE) as u64).unwrap();
                }
            }
        }
        let stream = Self::send(&folder, session);
        Self { folder, memories: [a, b], stream }
    }

    fn send(folder: &Folder, session: u8) -> Vec<u8> {
        // one packs pages that are no neighbours together, the other with the template
        let codec = if session.is_multiple_of(2) { "zstd" } else { "lz4" };
        let template = TemplateFile::open(&folder.path("template")).unwrap();
        let options = Options {
            chain: format!("unused,zero,template,same,{codec}").parse::<Chain>().unwrap(),
            keep_filters: true,
            hashing: Hashing::Plain,
            templates: vec![template.know(&Hashing::Plain).unwrap()],
            codecs: Codecs::new(1, None),
            still: true,
            live: false,
            remember: 0,
            verify: false,
            session: Session([session; 16]),
            secret: [7; 32],
            unproven: false,
        };
        let feeds = ["a", "b"].map(|name| ImageFeed::open(&folder.path(name)).unwrap());
        let vm =
            |(name, feed): (&str, _)| SendVm { name: name.into(), feed, foreign: false, group: 0 };
        let vms = [vm(("a", &feeds[0])), vm(("b", &feeds[1]))];
        let null = Address::File { path: "/dev/null".into(), offset: None };
        let mut medium = transport::connect(&null, &transport::Options::default()).unwrap();
        let tape = Tape::default();
        medium.output = Some(Box::new(tape.clone()));
        send(&vms, &options, &mut medium, &()).unwrap();
        tape.0.lock().unwrap().clone()
    }

    /// A receiver with a new herd.
    fn site(&self, herd: &str) -> Site {
        let open = || TemplateFile::open(&self.folder.path("template")).unwrap();
        let maps = vec![open().as_map_file()];
        let store = Box::new(Herd::open(&self.folder.path(herd), maps).unwrap());
        let known = vec![open().know(&Hashing::Plain).unwrap()];
        Site::new(store, known, Codecs::new(1, None), Hashing::Plain, 1 << 20)
    }

    fn has_nothing(&self, herd: &str, what: &str) {
        assert_eq!(self.folder.names(herd), ["journal", "lock", "pool"], "{what}");
    }

    /// The header, and each frame.
    fn frames(&self) -> Vec<Vec<u8>> {
        let mut rest = self.stream.as_slice();
        let mut frames = vec![rest[..64].to_vec()];
        rest = &rest[64..];
        while !rest.is_empty() {
            let body = u32::from_le_bytes(rest[..4].try_into().unwrap());
            let (frame, after) = rest.split_at(12 + usize::try_from(body).unwrap() + 4);
            frames.push(frame.to_vec());
            rest = after;
        }
        frames
    }
}

fn take(site: &Site, stream: &[u8]) -> Result<Received, ReceiveError> {
    let answers: Option<&mut Vec<u8>> = None;
    receive(site, Ends { input: stream, answers, strict: true }, &|_| ())
}

#[test]
fn the_stream_itself_is_taken_and_has_every_kind_of_operation() {
    let mut all = std::collections::BTreeSet::new();
    for session in [1, 2] {
        let golden = Golden::new(session);
        assert!(golden.stream.len() < 2000, "small, so that all of it can be tried");
        let site = golden.site("h");
        take(&site, &golden.stream).unwrap();
        drop(site);
        for (name, memory) in ["a", "b"].iter().zip(&golden.memories) {
            assert!(in_herd(&golden.folder.path("h"), name) == *memory);
        }
        all.extend(golden.frames()[1..].iter().flat_map(|frame| operations(frame)));
    }
    let all: Vec<String> = all.into_iter().collect();
    assert_eq!(all, ["More", "Packed", "Same", "Template", "Unused", "Zero"]);
}

fn operations(frame: &[u8]) -> Vec<String> {
    use pageherd::wire::record::Record;
    match Record::read(frame[4], &frame[12..frame.len() - 4]).unwrap() {
        Record::Pages(pages) => pages
            .ops
            .iter()
            .map(|op| format!("{:?}", op.op).split([' ', '{']).next().unwrap().to_owned())
            .collect(),
        _ => Vec::new(),
    }
}

#[test]
fn every_prefix_is_refused_and_nothing_is_kept() {
    let golden = Golden::new(9);
    let site = golden.site("h");
    for end in 0..golden.stream.len() {
        let result = take(&site, &golden.stream[..end]);
        assert!(result.is_err(), "the first {end} bytes");
        if end % 50 == 0 {
            golden.has_nothing("h", &format!("the first {end} bytes"));
        }
    }
    golden.has_nothing("h", "all prefixes");
    // a receiver that has refused so much takes what is right
    take(&site, &golden.stream).unwrap();
    let mut longer = golden.stream.clone();
    longer.push(0);
    drop(site);
    assert!(take(&golden.site("other"), &longer).is_err(), "and one byte more");
    golden.has_nothing("other", "one byte more");
}

#[test]
fn every_flipped_bit_is_refused_and_nothing_is_kept() {
    let golden = Golden::new(3);
    let site = golden.site("h");
    let mut stream = golden.stream.clone();
    for bit in 0..stream.len() * 8 {
        stream[bit / 8] ^= 1 << (bit % 8);
        assert!(take(&site, &stream).is_err(), "bit {bit}");
        stream[bit / 8] ^= 1 << (bit % 8);
        if bit % 500 == 0 {
            golden.has_nothing("h", &format!("bit {bit}"));
        }
    }
    golden.has_nothing("h", "all bits");
    drop(site);
    let pool = fs::metadata(golden.folder.path("h/pool")).unwrap();
    assert_eq!(pool.len(), 0, "slots that nobody refers to are given back");
}

/// As one would change it who knows the format: every checksum fits. Then the seal and the digests
/// are what is left, and what is taken all the same must be the same memory.
#[test]
fn every_flipped_bit_under_a_checksum_that_fits_is_refused_or_changes_nothing() {
    let golden = Golden::new(4);
    let frames = golden.frames();
    let mut taken = 0;
    for (number, frame) in frames.iter().enumerate().skip(1) {
        for bit in 4 * 8..(frame.len() - 4) * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let body = bad.len() - 4;
            let mut crc = crc32fast::Hasher::new();
            crc.update(&frames[0][60..]);
            crc.update(&bad[..body]);
            bad[body..].copy_from_slice(&crc.finalize().to_le_bytes());
            let mut all = frames.clone();
            all[number] = bad;
            let site = golden.site("h");
            let result = take(&site, &all.concat());
            drop(site);
            if result.is_ok() {
                taken += 1;
                for (name, memory) in ["a", "b"].iter().zip(&golden.memories) {
                    let there = in_herd(&golden.folder.path("h"), name);
                    assert!(there == *memory, "frame {number}, bit {bit}");
                }
                fs::remove_dir_all(golden.folder.path("h")).unwrap();
            } else {
                golden.has_nothing("h", &format!("frame {number}, bit {bit}"));
            }
        }
    }
    // untouched and zero are one to the digest, and so are different ways to say one page
    assert!(taken < 200, "{taken} were taken");
}

#[test]
fn frames_that_are_dropped_doubled_swapped_or_of_another_stream_are_refused() {
    let (golden, other) = (Golden::new(5), Golden::new(6));
    let (frames, foreign) = (golden.frames(), other.frames());
    assert_eq!(frames.len(), foreign.len());
    let mut bad: Vec<(String, Vec<Vec<u8>>)> = Vec::new();
    for i in 0..frames.len() {
        let mut dropped = frames.clone();
        dropped.remove(i);
        bad.push((format!("without frame {i}"), dropped));
        let mut doubled = frames.clone();
        doubled.insert(i, frames[i].clone());
        bad.push((format!("frame {i} twice"), doubled));
        for j in i + 1..frames.len() {
            let mut swapped = frames.clone();
            swapped.swap(i, j);
            bad.push((format!("frames {i} and {j} swapped"), swapped));
        }
        let mut spliced = frames.clone();
        spliced[i].clone_from(&foreign[i]);
        bad.push((format!("frame {i} of another stream"), spliced));
        if i > 0 {
            let joined = [&frames[..i], &foreign[i..]].concat();
            bad.push((format!("another stream from frame {i} on"), joined));
        }
    }
    bad.push(("twice".into(), [frames.clone(), frames.clone()].concat()));
    bad.push(("two streams".into(), [frames.clone(), foreign].concat()));
    let site = golden.site("h");
    for (what, frames) in &bad {
        assert!(take(&site, &frames.concat()).is_err(), "{what}");
        golden.has_nothing("h", what);
    }
}

#[test]
fn random_damage_is_refused() {
    let golden = Golden::new(7);
    let site = golden.site("h");
    let mut dice = Dice(7);
    for turn in 0..20_000 {
        let mut stream = golden.stream.clone();
        for _ in 0..1 + dice.below(3) {
            let (at, length) = (dice.below(stream.len()), 1 + dice.below(16));
            let end = (at + length).min(stream.len());
            match dice.below(4) {
                0 => {
                    for byte in &mut stream[at..end] {
                        *byte = dice.roll().to_le_bytes()[0];
                    }
                }
                1 => drop(stream.drain(at..end)),
                2 => {
                    let piece = stream[at..end].to_vec();
                    stream.splice(at..at, piece);
                }
                _ => stream[at..end].fill(0),
            }
            if stream.is_empty() {
                stream.push(0);
            }
        }
        if stream != golden.stream {
            assert!(take(&site, &stream).is_err(), "turn {turn}");
        }
    }
    golden.has_nothing("h", "all turns");
}

#[test]
fn the_command_refuses_damaged_files_with_a_word_and_a_number() {
    let golden = Golden::new(8);
    let (folder, stream) = (&golden.folder, &golden.stream);
    let mut dice = Dice(8);
    let template = folder.at("template");
    let from = format!("file:{}", folder.at("x"));
    for turn in 0..24 {
        let mut bad = stream.clone();
        match turn % 3 {
            0 => bad.truncate(dice.below(stream.len())),
            1 => bad[dice.below(stream.len())] ^= 1 << dice.below(8),
            _ => bad.extend([0; 3]),
        }
        fs::write(folder.path("x"), &bad).unwrap();
        let args = ["--from", &from, "--into", &folder.at("h"), "--template", &template];
        let out = Run::new(mig_recv(&args)).end();
        assert_eq!(code(&out), 65, "turn {turn}: {}", words(&out));
        assert_eq!(said(&out).lines().count(), 1, "{}", said(&out));
        golden.has_nothing("h", "the command");
    }
    fs::write(folder.path("x"), stream).unwrap();
    let args = ["--from", &from, "--into", &folder.at("h")];
    let out = Run::new(mig_recv(&args)).end();
    assert_eq!(code(&out), 77, "without its template: {}", words(&out));
    golden.has_nothing("h", "without its template");
    Run::new(mig_recv(&[&args[..], &["--template", &template]].concat())).well();
    assert!(in_herd(&folder.path("h"), "b") == golden.memories[1]);
}
