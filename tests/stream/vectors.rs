//! The vectors: made by code, kept in the repository, and read by every decoder.

use crate::applier::{applied, apply};
use crate::given::{Feed, Given, Memories, Outcome, PAGE, STATE};
use crate::receiver::Receiver;
use crate::refdecoder::World;
use crate::scenarios::{self, Scenario};
use crate::vecfile::{Vector, folder, hex, read_all};
use std::collections::BTreeSet;
use std::fs;

/// All of the vectors, and the streams that each needs, in their order.
pub(crate) struct All(pub Vec<Vector>);

impl All {
    pub(crate) fn read() -> Self {
        let all = Self(read_all(&folder("stream")));
        assert!(all.0.len() > 100, "the vectors are not here");
        all
    }

    /// The streams, and which of them is the vector's own.
    pub(crate) fn streams(&self, vector: &Vector) -> (Vec<Vec<u8>>, usize) {
        let other = |name: &Option<String>| {
            let name = name.as_ref()?;
            Some(
                self.0.iter().find(|v| v.name == *name).unwrap_or_else(|| panic!("{name}")).bytes(),
            )
        };
        let before = other(&vector.before);
        let own = usize::from(before.is_some());
        let streams = before.into_iter().chain([vector.bytes()]).chain(other(&vector.behind));
        (streams.collect(), own)
    }
}

pub(crate) fn slices(streams: &[Vec<u8>]) -> Vec<&[u8]> {
    streams.iter().map(Vec::as_slice).collect()
}

fn of_memories(all: &Memories) -> Vec<(String, u64, String)> {
    let line = |(name, bytes): &(String, Vec<u8>)| {
        let unit = if name.ends_with(STATE) { 1 } else { PAGE };
        let pages = (bytes.len() / unit) as u64;
        (name.clone(), pages, blake3::hash(bytes).to_hex().to_string())
    };
    all.iter().map(line).collect()
}

/// What a vector should say of its VMs, by the reference decoder.
fn vms(given: &Given, streams: &[&[u8]], own: usize) -> (Outcome, Vec<(String, u64, String)>) {
    let mut world = World::new(given);
    let outcome = world.decode(streams);
    let vms = match &outcome {
        Ok(all) => of_memories(all),
        Err(refused) => {
            assert_eq!(refused.stream, own);
            world
                .applied
                .into_iter()
                .map(|(name, pages, digest)| (name, pages, hex(&digest)))
                .collect()
        }
    };
    (outcome, vms)
}

fn vector_of(scenario: &Scenario, all: &[Scenario]) -> Vector {
    let bytes = |name: Option<&str>| {
        name.map(|name| all.iter().find(|s| s.name == name).unwrap().script.bytes())
    };
    let before = bytes(scenario.before);
    let own = usize::from(before.is_some());
    let streams: Vec<Vec<u8>> =
        before.into_iter().chain([scenario.script.bytes()]).chain(bytes(scenario.behind)).collect();
    let given = scenario.given.clone().unwrap_or_else(|| scenario.script.given.clone());
    let (outcome, vms) = vms(&given, &slices(&streams), own);
    match &outcome {
        Ok(found) => {
            assert_eq!(scenario.expect, "ok", "{}", scenario.name);
            // the writer knows the memories without any decoder
            for (name, memory) in &scenario.memories {
                assert!(
                    found.contains(&(name.clone(), memory.clone())),
                    "{}: {name}",
                    scenario.name
                );
            }
        }
        Err(refused) => assert_eq!(scenario.expect, refused.kind, "{}: {refused:?}", scenario.name),
    }
    Vector {
        name: scenario.name.to_owned(),
        why: scenario.why.to_owned(),
        expect: scenario.expect.to_owned(),
        must: scenario.must,
        given,
        before: scenario.before.map(str::to_owned),
        behind: scenario.behind.map(str::to_owned),
        vms,
        pieces: scenario.script.pieces.clone(),
    }
}

/// `PAGEHERD_BLESS=1` writes them anew.
#[test]
fn the_vectors_are_those_that_the_code_makes() {
    let scenarios = scenarios::all();
    let bless = std::env::var_os("PAGEHERD_BLESS").is_some();
    let folder = folder("stream");
    let mut names = BTreeSet::new();
    for scenario in &scenarios {
        let vector = vector_of(scenario, &scenarios);
        let text = vector.text();
        let path = folder.join(format!("{}.vec", scenario.name));
        assert!(names.insert(scenario.name), "{} twice", scenario.name);
        if bless {
            fs::write(&path, &text).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == text,
            "{} is stale: PAGEHERD_BLESS=1 cargo test --test stream",
            path.display()
        );
        assert_eq!(Vector::parse(scenario.name, &kept), vector);
    }
    for vector in read_all(&folder) {
        assert!(names.contains(vector.name.as_str()), "{} is nobody's: remove it", vector.name);
    }
}

/// The document's list and the vectors say the same.
#[test]
fn every_reason_to_reject_a_stream_has_a_vector() {
    let document = include_str!("../../docs/FORMAT.md");
    let list =
        document.split_once("### 3.14 ").unwrap().1.split_once("A sender MUST reject").unwrap().0;
    let reasons =
        list.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count();
    let all = All::read();
    let have: BTreeSet<u8> = all.0.iter().filter_map(|vector| vector.must).collect();
    let wanted: BTreeSet<u8> = (1..=u8::try_from(reasons).unwrap()).collect();
    assert_eq!(have, wanted);
    assert!(all.0.iter().all(|vector| (vector.expect == "ok") == vector.must.is_none()));
}

#[test]
fn every_kind_of_error_has_a_vector() {
    let all = All::read();
    let have: BTreeSet<&str> = all.0.iter().map(|vector| vector.expect.as_str()).collect();
    for kind in [
        "foreign",
        "version",
        "feature",
        "checksum",
        "order",
        "too-long",
        "short",
        "wrong",
        "unknown",
        "cut",
        "trailing",
        "other-key",
        "keying",
        "taken",
        "too-large",
        "beyond",
        "twice",
        "missing",
        "dangling",
        "never-arrived",
        "other-shape",
        "beyond-template",
        "digest",
        "template",
        "packed",
        "group",
        "aborted",
    ] {
        assert!(have.contains(kind), "{kind}");
    }
}

/// Judges one decoder's outcome by the vector: what is wrong with it.
fn judge(vector: &Vector, who: &str, outcome: &Outcome) -> Option<String> {
    let name = &vector.name;
    match outcome {
        Ok(_) if vector.expect != "ok" => Some(format!("{name}: {who} takes it")),
        Ok(memories) if of_memories(memories) != vector.vms => {
            Some(format!("{name}: {who} makes another memory"))
        }
        Err(refused) if refused.kind != vector.expect => {
            Some(format!("{name}: {who}: {refused:?}"))
        }
        _ => None,
    }
}

/// What is known to be judged otherwise by the library, and has to be mended there: who, and which
/// vector. One that is mended is to be taken out: the test says so.
pub(crate) const LACKING: &[(&str, &str)] = &[];

#[test]
fn every_vector_is_judged_alike_by_all_decoders() {
    let all = All::read();
    let mut faults: Vec<String> = Vec::new();
    for vector in &all.0 {
        let (streams, own) = all.streams(vector);
        let streams = slices(&streams);
        let (outcome, vms) = vms(&vector.given, &streams, own);
        faults.extend(judge(vector, "the reference decoder", &outcome));
        assert_eq!(vms, vector.vms, "{}", vector.name);
        let feeds = [Feed::Whole, Feed::Bytes, Feed::Pieces(1), Feed::Pieces(2)];
        for feed in feeds {
            let ours = apply(&vector.given, &streams, feed);
            let lacks = judge(vector, "the ledger", &ours);
            lacking(&mut faults, "the ledger", vector, feed, lacks);
            if let (Err(a), Err(b)) = (&outcome, &ours)
                && (a.stream, a.record) != (b.stream, b.record)
                && !LACKING.contains(&("the ledger", &vector.name))
            {
                faults.push(format!("{}: refused at {b:?}, not at {a:?}", vector.name));
            }
        }
        let receiver = Receiver::new(&vector.given);
        for feed in feeds.into_iter().take(3) {
            let theirs = receiver.take(&streams, feed, vector.behind.is_some());
            let lacks = judge(vector, "the receiver", &theirs);
            lacking(&mut faults, "the receiver", vector, feed, lacks);
        }
        if let ([bytes], true) = (streams.as_slice(), is_vmm(&vector.bytes())) {
            for feed in feeds.into_iter().take(3) {
                // a VMM gets it for the same reasons for which a herd keeps it
                let word = receiver.relay(bytes, feed).map_or_else(|kind| kind, |_| "ok");
                if word != vector.expect {
                    faults.push(format!("{}: for a VMM: {word}", vector.name));
                }
            }
        }
        if let Err(refused) = &outcome
            && refused.record.is_some()
        {
            let until = &streams[..=refused.stream];
            let found = applied(&vector.given, until, refused.record.unwrap_or(0));
            let found: Vec<_> = found.into_iter().map(|(n, p, d)| (n, p, hex(&d))).collect();
            assert_eq!(found, vector.vms, "{}: applied", vector.name);
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Does it say that it carries a VMM's stream?
pub(crate) fn is_vmm(bytes: &[u8]) -> bool {
    bytes.len() > 64 && bytes[12] & 32 != 0
}

fn lacking(
    faults: &mut Vec<String>,
    who: &str,
    vector: &Vector,
    feed: Feed,
    found: Option<String>,
) {
    let known = LACKING.iter().any(|&(lacks, name)| lacks == who && name == vector.name);
    match found {
        Some(fault) if !known => faults.push(format!("{fault}, fed {feed:?}")),
        // which of two streams is first is chance where they come together
        None if known && vector.behind.is_none() => {
            faults.push(format!("{}: {who} is mended: take it out of LACKING", vector.name));
        }
        _ => {}
    }
}
