//! `shared`: pages on a frame that was sent already, for this VM or for another of the herd.
//!
//! Eswaran 2024, §5.4, Algorithm 1: a page whose frame has not been met is *unique* and is sent; one
//! whose frame has been met is *shared* and only named. A frame's number says where to look and
//! proves nothing: frames are freed and used again while a migration runs, by KSM, compaction and
//! swap even of processes that are frozen. What proves is this: the page table of the candidate is
//! read, then that of the page that was sent, then that of the candidate again, and all three show
//! the frame. Then both pages were on one frame at one time, and since both stand still, what was
//! sent for the one is the content of the other. No byte is read for that.
//!
//! In the pool of a herd a slot does not change while it is in use: there the number is the proof.

use super::frames::{Frames, Sent};
use super::{Batch, Filter, Settled, World};
use crate::base::fact::{Fact, Frame, Space};

/// Frames whose content was sent.
#[derive(Debug)]
pub struct Shared {
    frames: Frames,
    /// Do without the proof: to show in a test what happens then.
    unproven: bool,
    /// Compare content too.
    verify: bool,
    /// Candidates that the proof refused.
    refused: u64,
    /// Pages of the present batch that are proven to be those of another sender. Whoever reads the
    /// digest must know their content, and nobody has read it here yet: they are settled once that
    /// is done, so that only their bytes are spared.
    foreign: Vec<Candidate>,
}

impl Shared {
    /// For VMs of so many pages each; with everything compared as well, if `verify`.
    pub fn new(pages: &[u64], verify: bool) -> Self {
        let frames = Frames::new(pages);
        Self { frames, unproven: false, verify, refused: 0, foreign: Vec::new() }
    }

    /// Without proof. Only to show what the proof is for.
    #[doc(hidden)]
    pub fn unproven(pages: &[u64]) -> Self {
        Self { unproven: true, ..Self::new(pages, false) }
    }

    /// Pages whose frame had been met and which were not on it any more.
    pub const fn refused(&self) -> u64 {
        self.refused
    }
}

fn sent(batch: &Batch, at: usize, frame: Frame) -> Sent {
    Sent { frame: frame.number, vm: batch.vm, page: batch.first + at as u64, hash: None }
}

const fn frame_of(fact: Fact) -> Option<Frame> {
    match fact {
        Fact::Frame { frame, shared: true, .. } => Some(frame),
        _ => None,
    }
}

/// A page of the batch and where its frame was sent.
type Candidate = (usize, Sent);

impl Filter for Shared {
    fn name(&self) -> &'static str {
        "shared"
    }

    fn by_facts(&mut self, batch: &mut Batch, world: &dyn World) -> u64 {
        self.foreign.clear();
        let candidates: Vec<Candidate> = batch
            .open()
            .filter_map(|at| Some((at, self.frames.find(frame_of(batch.facts[at])?)?)))
            .collect();
        let within = within(batch, &candidates);
        let pages = self.settle(batch, candidates, world);
        pages + settle_within(batch, &within, self.unproven, world)
    }

    fn by_content(&mut self, batch: &mut Batch, _world: &dyn World) -> u64 {
        let mut pages = 0;
        for (at, sent) in std::mem::take(&mut self.foreign) {
            if batch.settled[at].is_some() || !batch.was_read[at] {
                continue;
            }
            batch.settled[at] = Some(Settled::Same { vm: sent.vm, page: sent.page });
            pages += 1;
            // the next page on that frame need not be read
            if let (Some(frame), Some(hash)) = (frame_of(batch.facts[at]), batch.hashes[at]) {
                self.frames.insert(frame.space, &Sent { hash: Some(hash), ..sent });
            }
        }
        pages
    }

    fn learn(&mut self, batch: &Batch) {
        for at in batch.carried() {
            let (Some(frame), Some(hash)) = (frame_of(batch.facts[at]), batch.hashes[at]) else {
                continue;
            };
            self.frames.insert(frame.space, &Sent { hash: Some(hash), ..sent(batch, at, frame) });
        }
    }

    fn learn_foreign(&mut self, batch: &Batch) {
        for at in 0..batch.len() {
            if let Some(frame) = frame_of(batch.facts[at])
                && self.frames.find(frame).is_none()
            {
                self.frames.insert(frame.space, &sent(batch, at, frame));
            }
        }
    }
}

impl Shared {
    fn settle(&mut self, batch: &mut Batch, candidates: Vec<Candidate>, world: &dyn World) -> u64 {
        if candidates.is_empty() {
            return 0;
        }
        let stands = vec![true; candidates.len()];
        let proven = if self.unproven { stands } else { prove(batch, &candidates, world) };
        let mut pages = 0;
        for ((at, sent), proven) in candidates.into_iter().zip(proven) {
            if !proven || (self.verify && !equal(batch, at, sent, world)) {
                self.refused += 1;
                continue;
            }
            if sent.hash.is_none() {
                self.foreign.push((at, sent));
                continue;
            }
            batch.settled[at] = Some(Settled::Same { vm: sent.vm, page: sent.page });
            batch.hashes[at] = sent.hash;
            pages += 1;
        }
        pages
    }
}

/// Pages of a batch on the frame of an earlier page of it, which is not settled yet: theirs and the
/// earlier one's positions.
fn within(batch: &Batch, candidates: &[Candidate]) -> Vec<(usize, usize)> {
    let is_candidate = |at: usize| candidates.binary_search_by_key(&at, |&(at, _)| at).is_ok();
    let mut frames: Vec<(u64, usize)> = batch
        .open()
        .filter(|&at| !is_candidate(at))
        .filter_map(|at| Some((frame_of(batch.facts[at])?.number, at)))
        .collect();
    frames.sort_unstable();
    let mut found: Vec<(usize, usize)> = frames
        .chunk_by(|a, b| a.0 == b.0)
        .flat_map(|group| group[1..].iter().map(|&(_, at)| (at, group[0].1)))
        .collect();
    found.sort_unstable();
    found
}

/// Settles them, if a second look shows all of them where they were: each was looked at between two
/// looks at its fellow. Their hash is that of the earlier page, once that is read.
fn settle_within(
    batch: &mut Batch,
    within: &[(usize, usize)],
    unproven: bool,
    world: &dyn World,
) -> u64 {
    if within.is_empty() || !world.stands_still() {
        return 0;
    }
    let mut facts = vec![Fact::Unknown; batch.len()];
    if !world.facts(batch.vm, batch.first, &mut facts) {
        return 0;
    }
    let mut pages = 0;
    for &(at, earlier) in within {
        let stays = |at: usize| frame_of(facts[at]) == frame_of(batch.facts[at]);
        if unproven || (stays(at) && stays(earlier)) {
            let page = batch.first + earlier as u64;
            batch.settled[at] = Some(Settled::Same { vm: batch.vm, page });
            pages += 1;
        }
    }
    pages
}

/// Which candidates are on the frame together with the page that was sent. The facts of the batch
/// are the first look at the candidates; here come the look at the others, and the second.
fn prove(batch: &Batch, candidates: &[Candidate], world: &dyn World) -> Vec<bool> {
    let fixed =
        |fact: Fact| matches!(frame_of(fact), Some(Frame { space: Space::Pool { .. }, .. }));
    if !world.stands_still() && !candidates.iter().all(|&(at, _)| fixed(batch.facts[at])) {
        return vec![false; candidates.len()];
    }
    let mut proven = vec![false; candidates.len()];
    let mut facts = Vec::new();
    let mut i = 0;
    // the others, in runs: clones of one VM have their shared pages in the same order
    while i < candidates.len() {
        let (_, first) = candidates[i];
        let follows = |&(k, (_, sent)): &(u64, &Candidate)| {
            (sent.vm, sent.page) == (first.vm, first.page + k)
        };
        let run = (0u64..).zip(&candidates[i..]).take_while(follows).count();
        facts.clear();
        facts.resize(run, Fact::Unknown);
        if world.facts(first.vm, first.page, &mut facts) {
            for (k, fact) in facts.iter().enumerate() {
                let (at, sent) = candidates[i + k];
                let space = frame_of(batch.facts[at]).map(|frame| frame.space);
                proven[i + k] = matches!(fact, Fact::Frame { frame, .. }
                    if frame.number == sent.frame && Some(frame.space) == space);
            }
        }
        i += run;
    }
    // the second look at the candidates, all at once
    let (low, high) = (candidates[0].0, candidates[candidates.len() - 1].0);
    facts.clear();
    facts.resize(high - low + 1, Fact::Unknown);
    if !world.facts(batch.vm, batch.first + low as u64, &mut facts) {
        return vec![false; candidates.len()];
    }
    for (proven, &(at, sent)) in proven.iter_mut().zip(candidates) {
        let again =
            matches!(facts[at - low], Fact::Frame { frame, .. } if frame.number == sent.frame);
        *proven &= again;
    }
    proven
}

fn equal(batch: &Batch, at: usize, sent: Sent, world: &dyn World) -> bool {
    let (mut ours, mut theirs) = ([0; super::PAGE], [0; super::PAGE]);
    world.content(batch.vm, batch.first + at as u64, &mut ours)
        && world.content(sent.vm, sent.page, &mut theirs)
        && ours == theirs
}

#[cfg(test)]
mod tests {
    use super::super::worlds::{Made, read};
    use super::*;

    /// Pages of the VMs of these tests.
    const VMS: [u64; 2] = [100, 100];

    fn on(number: u64) -> Fact {
        let frame = Frame { space: Space::Physical, number };
        Fact::Frame { frame, shared: true, clean: false }
    }

    /// VM 0 has sent its page 5, which was on frame 77.
    fn sent(mut filter: Shared) -> Shared {
        let mut first = read(0, 5, &[vec![1; 4096]]);
        first.facts[0] = on(77);
        filter.learn(&first);
        filter
    }

    fn candidate() -> Batch {
        let mut batch = Batch::default();
        batch.reset(1, 9, 1);
        batch.facts[0] = on(77);
        batch
    }

    #[test]
    fn a_page_on_the_frame_together_with_the_sent_one_is_settled() {
        let mut world = Made::default();
        world.facts.insert((0, 5), on(77));
        world.facts.insert((1, 9), on(77));
        let mut batch = candidate();
        assert_eq!(sent(Shared::new(&VMS, false)).by_facts(&mut batch, &world), 1);
        assert_eq!(batch.settled[0], Some(Settled::Same { vm: 0, page: 5 }));
        assert!(batch.hashes[0].is_some());
    }

    #[test]
    fn a_frame_that_was_used_again_proves_nothing() {
        for (owner, ours) in [(on(78), on(77)), (on(77), on(78)), (Fact::Unused, on(77))] {
            let mut world = Made::default();
            world.facts.insert((0, 5), owner);
            world.facts.insert((1, 9), ours);
            let (mut batch, mut filter) = (candidate(), sent(Shared::new(&VMS, false)));
            assert_eq!(filter.by_facts(&mut batch, &world), 0);
            assert_eq!((batch.settled[0], filter.refused()), (None, 1));
            // without the proof it would have been taken
            assert_eq!(sent(Shared::unproven(&VMS)).by_facts(&mut candidate(), &world), 1);
        }
    }

    #[test]
    fn memory_that_moves_is_not_settled_by_page_tables() {
        let mut world = Made { moves: true, ..Made::default() };
        world.facts.insert((0, 5), on(77));
        world.facts.insert((1, 9), on(77));
        assert_eq!(sent(Shared::new(&VMS, false)).by_facts(&mut candidate(), &world), 0);
    }

    #[test]
    fn exclusive_frames_are_neither_kept_nor_looked_up() {
        let exclusive = |number| match on(number) {
            Fact::Frame { frame, clean, .. } => Fact::Frame { frame, clean, shared: false },
            fact => fact,
        };
        let mut filter = Shared::new(&VMS, false);
        let mut first = read(0, 5, &[vec![1; 4096]]);
        first.facts[0] = exclusive(77);
        filter.learn(&first);
        assert!(filter.frames.find(Frame { space: Space::Physical, number: 77 }).is_none());
    }

    #[test]
    fn pages_of_one_batch_on_one_frame_are_one_page() {
        let mut world = Made::default();
        for page in 0..3 {
            world.facts.insert((0, page), on(if page == 1 { 8 } else { 9 }));
        }
        let mut batch = Batch::default();
        batch.reset(0, 0, 3);
        batch.facts = vec![on(9), on(8), on(9)];
        assert_eq!(Shared::new(&VMS, false).by_facts(&mut batch, &world), 1);
        assert_eq!(batch.settled, [None, None, Some(Settled::Same { vm: 0, page: 0 })]);
        world.facts.insert((0, 0), on(10)); // it has left meanwhile
        batch.settled = vec![None; 3];
        assert_eq!(Shared::new(&VMS, false).by_facts(&mut batch, &world), 0);
    }

    #[test]
    fn a_page_that_another_sender_sends_is_referred_to_once_it_is_read() {
        let mut world = Made::default();
        world.facts.insert((0, 5), on(77));
        world.facts.insert((1, 9), on(77));
        let mut theirs = Batch::default();
        theirs.reset(0, 5, 1);
        theirs.facts[0] = on(77);
        let mut filter = Shared::new(&VMS, false);
        filter.learn_foreign(&theirs);
        let mut batch = candidate();
        assert_eq!(filter.by_facts(&mut batch, &world), 0, "the digest needs its content");
        let content = read(1, 9, &[vec![1; 4096]]);
        let mut batch = Batch { facts: batch.facts, ..content };
        assert_eq!(filter.by_content(&mut batch, &world), 1);
        let same = Some(Settled::Same { vm: 0, page: 5 });
        assert_eq!(batch.settled, [same]);
        let mut next = candidate();
        assert_eq!(filter.by_facts(&mut next, &world), 1, "its hash is known now");
        assert_eq!((next.settled[0], next.hashes[0]), (same, batch.hashes[0]));
        // one that has left the frame is not referred to
        world.facts.insert((0, 5), on(78));
        let mut filter = Shared::new(&VMS, false);
        filter.learn_foreign(&theirs);
        assert_eq!(filter.by_facts(&mut candidate(), &world), 0);
        let mut batch = Batch { facts: vec![on(77)], ..read(1, 9, &[vec![1; 4096]]) };
        assert_eq!(filter.by_content(&mut batch, &world), 0);
    }

    #[test]
    fn verify_compares_as_well() {
        let mut world = Made::default();
        world.facts.insert((0, 5), on(77));
        world.facts.insert((1, 9), on(77));
        world.content.insert((0, 5), vec![1; 4096]);
        world.content.insert((1, 9), vec![2; 4096]);
        assert_eq!(sent(Shared::new(&VMS, true)).by_facts(&mut candidate(), &world), 0);
        world.content.insert((1, 9), vec![1; 4096]);
        assert_eq!(sent(Shared::new(&VMS, true)).by_facts(&mut candidate(), &world), 1);
    }
}
