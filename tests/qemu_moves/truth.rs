//! Each of the five that take part in a move killed at points all over it: there is one owner, and
//! QEMU's own word says who.

use crate::rig::{
    Act, Golden, LONG, Pair, Piece, Place, all_of_them, end_it, has_arrived, runstate,
};
use crate::support::qemu::{Build, Guest, Q35, Version, ready_with};
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Who is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    Sender,
    Receiver,
    Link,
    Source,
    Destination,
}

const VICTIMS: [Victim; 5] =
    [Victim::Sender, Victim::Receiver, Victim::Link, Victim::Source, Victim::Destination];

#[derive(Clone, Copy, Debug)]
struct Point {
    victim: Victim,
    place: Place,
    /// Killed so many milliseconds after that place was reached.
    after: u64,
    /// QEMU waits for a word (return-path), and not at the pipe.
    told: bool,
}

/// The bytes of a whole move.
#[derive(Clone, Copy, Debug)]
struct Shape {
    forward: u64,
    /// Answers up to and with the one that all is there.
    sealed: u64,
    /// Of these, the last one.
    seal: u64,
    commit: u64,
    committed: u64,
}

impl Shape {
    /// From what passed in a move that went well.
    fn of(pieces: &[Piece]) -> Self {
        let sum = |forward: bool| pieces.iter().filter(|p| p.0 == forward).map(|p| p.1).sum();
        let (forward, answers): (u64, u64) = (sum(true), sum(false));
        let last: Vec<u64> = pieces.iter().rev().filter(|p| !p.0).map(|p| p.1).take(2).collect();
        // what went to the receiver between its last two answers
        let mut back = 0;
        let tail = pieces.iter().rev().take_while(|p| {
            back += u32::from(!p.0);
            back < 2
        });
        let commit = tail.filter(|p| p.0).map(|p| p.1).sum();
        Self { forward, sealed: answers - last[0], seal: last[1], commit, committed: last[0] }
    }

    /// Fifty places, and how long after it.
    fn places(&self) -> Vec<(Place, u64)> {
        let Self { forward, sealed, seal, commit, committed } = *self;
        let mut places: Vec<(Place, u64)> =
            (0..28).map(|i| (Place::Forward(forward * i / 28), i % 3)).collect();
        // the description and what belongs to it
        places.extend([(Place::Forward(forward.saturating_sub(commit + 4096)), 0)]);
        let before = sealed - seal;
        places.extend([(Place::Back(before / 2), 0), (Place::Back(before), 3)]);
        places.extend([(Place::Back(before + seal / 2), 0)]);
        places.extend([0, 1, 5, 20].map(|after| (Place::Back(sealed), after)));
        places.extend([0, 5].map(|after| (Place::Commit(0), after)));
        places.extend([(Place::Commit(commit / 2), 0), (Place::Commit(commit - 1), 2)]);
        places.extend([0, 1, 2, 5, 20].map(|after| (Place::Commit(commit), after)));
        places.extend([(Place::Back(sealed + committed / 2), 0)]);
        places.extend([0, 1, 5, 20].map(|after| (Place::Back(sealed + committed), after)));
        assert_eq!(places.len(), 50);
        places
    }
}

/// What a move with a kill in it came to.
struct Outcome {
    /// Who can be moved next.
    next: Option<Guest>,
    /// The place was reached.
    killed: bool,
    /// Who owns the guest, in a word.
    owner: &'static str,
}

fn word(of: bool, yes: &'static str, no: &'static str) -> &'static str {
    if of { yes } else { no }
}

/// One whole move, of which it is seen how long it is.
fn whole(golden: &Golden) -> (Guest, Shape) {
    let source = golden.start();
    let pair = Pair::new();
    let mut there = golden.build.incoming(&pair.receiver("")).spawn();
    let sender = pair.sender("near", "");
    let relay = pair.relay(u64::MAX, None);
    source.control().migrate(&sender);
    assert!(has_arrived(&mut there).unwrap(), "{}", pair.words());
    assert!(pair.all_gone(LONG));
    there.control().unthrottle();
    (there, Shape::of(&relay.end()))
}

/// Moves a guest, with a kill at one point, and says who owns it. An error is a surprise.
fn play(golden: &Golden, source: Guest, shape: &Shape, point: &Point) -> Result<Outcome, String> {
    let pair = Pair::new();
    let mut there = golden.build.incoming(&pair.receiver("")).spawn();
    let sender = pair.sender("near", "");
    let act = if point.victim == Victim::Link && point.after == 0 {
        Act::Cut
    } else {
        let pids = [pair.path("mig-send.pid"), pair.path("mig-recv.pid")];
        let (victim, after) = (point.victim, Duration::from_millis(point.after));
        let qemus = [source.pid, there.pid];
        Act::Do(Box::new(move || {
            std::thread::sleep(after);
            let read = |i: usize| std::fs::read_to_string(&pids[i]).unwrap().trim().parse();
            match victim {
                Victim::Sender => end_it(read(0).unwrap()),
                Victim::Receiver => end_it(read(1).unwrap()),
                Victim::Source => end_it(qemus[0]),
                Victim::Destination => end_it(qemus[1]),
                Victim::Link => {}
            }
        }))
    };
    let relay = pair.relay(shape.sealed, Some((point.place, act)));
    source.control().set_capability("return-path", point.told);
    source.control().migrate(&sender);
    let gone = pair.all_gone(LONG);
    if !gone {
        return Err(format!("processes stay: {:?}", pair.processes()));
    }
    let killed = relay.acted();
    drop(relay);
    let arrived = has_arrived(&mut there)?;
    let said = pair.said("mig-send");
    let unknown = said.contains("was lost after the far end was told to commit");
    let confirmed = said.lines().any(|line| {
        serde_json::from_str::<Value>(line).is_ok_and(|bill| bill["confirmed"] == true)
    });
    if confirmed && !arrived && point.victim != Victim::Destination {
        return Err("mig-send has said that it is there, and it is not".into());
    }
    // the source, by its own word
    let (mut status, mut state) = (String::from("gone"), String::from("gone"));
    if !(point.victim == Victim::Source && killed) {
        let over = ["failed", "completed", "cancelled", "none"];
        let end = Instant::now() + LONG;
        loop {
            status = source.control().migration_status();
            state = runstate(&source).ok_or("the source's QEMU has ended")?;
            // it says how it went before it lets the guest go on
            let settled = match status.as_str() {
                "completed" => state == "postmigrate",
                "failed" | "cancelled" | "none" => state == "running",
                _ => false,
            };
            if over.contains(&status.as_str()) && settled {
                break;
            }
            if Instant::now() > end {
                return Err(format!("the source is {state} and says {status}, for good"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    match (arrived, status.as_str()) {
        (true, "completed" | "gone") => {
            there.control().unthrottle();
            there.assert_sane_after(1);
            let again = runstate(&source);
            if again.as_deref() == Some("running") {
                return Err("both run".into());
            }
            Ok(Outcome { next: Some(there), killed, owner: "there" })
        }
        (true, _) => Err(format!("both run: the source is {state} and says {status}")),
        (false, "gone") => Ok(Outcome { next: None, killed, owner: "died with its QEMU" }),
        (false, "completed") => {
            // only where the word to commit may have gone out
            let in_window = matches!(point.place, Place::Commit(_))
                || matches!(point.place, Place::Back(at) if at >= shape.sealed);
            let may = unknown || confirmed || (point.victim == Victim::Sender && in_window);
            if !may {
                return Err("the source says completed, and nobody has it".into());
            }
            source.control().cont();
            source.assert_sane_after(1);
            Ok(Outcome { next: Some(source), killed, owner: "paused here" })
        }
        (false, _) => {
            if unknown {
                return Err("it runs here, and mig-send has said that nobody knows".into());
            }
            source.assert_sane_after(1);
            Ok(Outcome { next: Some(source), killed, owner: "here" })
        }
    }
    .map_err(|e: String| format!("{e} ({})", word(killed, "killed", "not reached")))
    .map_err(|e| format!("{e}\n{}", pair.words()))
}

#[test]
fn whoever_is_killed_at_any_point_there_is_one_owner() {
    const TEST: &str = "whoever_is_killed_at_any_point_there_is_one_owner";
    if !ready_with(TEST, &[]) {
        return;
    }
    let small = Build::small("web1", Version::V7, Q35);
    let golden =
        Golden::make(Build { mib: 96, work: 8, room: 0, tick: 50, ..small }, "rewrite 100");
    let (first, shape) = whole(&golden);
    drop(first);
    let mut points = Vec::new();
    for (at, (place, after)) in shape.places().into_iter().enumerate() {
        for (number, victim) in VICTIMS.into_iter().enumerate() {
            let told = (at / 5 + number) % 3 == 2;
            // by default a fifth of them, for each victim another one
            if all_of_them() || at % 5 == number {
                points.push(Point { victim, place, after, told });
            }
        }
    }
    let only = std::env::var("PAGEHERD_POINTS").unwrap_or_default();
    points.retain(|point| format!("{point:?}").contains(&only));
    let (next, killed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (surprises, owners) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                // a guest ends with the thread that started it
                let mut guest: Option<Guest> = None;
                while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let played = catch_unwind(AssertUnwindSafe(|| {
                        let source = guest.take().unwrap_or_else(|| golden.start());
                        play(&golden, source, &shape, point)
                    }));
                    let played = played.unwrap_or_else(|_| Err("a panic, above".into()));
                    match played {
                        Ok(outcome) => {
                            killed.fetch_add(usize::from(outcome.killed), Ordering::Relaxed);
                            guest = outcome.next;
                            owners.lock().unwrap().push(outcome.owner);
                        }
                        Err(words) => {
                            eprintln!("SURPRISE {point:?}: {words}");
                            surprises.lock().unwrap().push(format!("{point:?}: {words}"));
                        }
                    }
                }
            });
        }
    });
    let (surprises, owners) = (surprises.into_inner().unwrap(), owners.into_inner().unwrap());
    let how_often = |owner: &str| owners.iter().filter(|o| **o == owner).count();
    let words = ["here", "there", "paused here", "died with its QEMU"]
        .map(|owner| format!("{} {owner}", how_often(owner)))
        .join(", ");
    let some = if all_of_them() { "" } else { " (a fifth of them; all with PAGEHERD_ALL=1)" };
    let killed = killed.into_inner();
    eprintln!(
        "{} kill points{some}, {} surprises; {killed} were reached; the guest: {words}",
        points.len(),
        surprises.len()
    );
    assert!(surprises.is_empty(), "\n{}", surprises.join("\n"));
    assert!(killed * 10 >= points.len() * 9, "of {} only {killed} were reached", points.len());
}
