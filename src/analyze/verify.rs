//! Second look: the pages are read again after all of them were read once.
//!
//! A frame read once says where to look and proves nothing. A page whose entry is the same before
//! and after every other page was read was on its frame all the while (unless it left and came
//! back), so two such pages with one frame shared it at the same time. A page whose entry has
//! changed is withdrawn and counted apart.
//!
//! A frame comes to another process by a page fault of that process, or by the kernel moving pages
//! (migration, collapse, KSM, swap). Where no target had a fault meanwhile and the kernel counted no
//! move, a sample is looked at, for what those counters do not tell; otherwise every page is.

use super::collect::{Found, Run};
use super::sighting::Sighting;
use crate::abi::pagemap::Entry;
use crate::source::PageSource;
use serde::Serialize;
use std::io;

/// How much is read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Verify {
    /// A sample; everything that is not exclusive as soon as the sample shows a change.
    #[default]
    Auto,
    /// Everything that is not exclusive.
    Full,
    /// Nothing.
    None,
}

/// What the second look found.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Second {
    /// Pages read again.
    pub reread: u64,
    /// Of these, unchanged.
    pub stable: u64,
    /// On another frame, or shared otherwise than before.
    pub changed: u64,
    /// No longer present.
    pub vanished: u64,
}

impl Second {
    /// Adds another count.
    pub fn merge(&mut self, other: &Self) {
        self.reread += other.reread;
        self.stable += other.stable;
        self.changed += other.changed;
        self.vanished += other.vanished;
    }

    /// Changed or vanished.
    pub const fn unstable(&self) -> u64 {
        self.changed + self.vanished
    }

    /// Upper bound, with 95 % confidence, of the share of pages that change, from what was read
    /// again: the rule of three where nothing changed, Wilson's interval otherwise. 1 where nothing
    /// was read.
    pub fn change_bound(&self) -> f64 {
        if self.reread == 0 {
            return 1.0;
        }
        let n = self.reread as f64;
        if self.unstable() == 0 {
            return (3.0 / n).min(1.0);
        }
        let (p, z) = (self.unstable() as f64 / n, 1.96f64);
        let z2 = z * z;
        let middle = p + z2 / (2.0 * n);
        let spread = z * ((p * (1.0 - p) + z2 / (4.0 * n)) / n).sqrt();
        ((middle + spread) / (1.0 + z2 / n)).min(1.0)
    }
}

/// Up to so many sightings in all, a sample is everything: it costs a few milliseconds.
pub const FEW: usize = 1 << 16;

/// [`SAMPLED`] pages are read in each stretch of so many, and of runs that are shorter in one of
/// [`RUNS`].
const STRETCH: u32 = 2048;

/// See [`STRETCH`].
const SAMPLED: u32 = 8;

/// See [`STRETCH`].
const RUNS: usize = 32;

/// Pieces so near to one another are read at once, with what lies between them.
const NEAR: u64 = 64;

/// Entries read at once.
const BUFFER: usize = 8192;

/// Pages that have sightings and are to be read again.
#[derive(Clone, Copy)]
struct Piece {
    /// First page.
    start: u64,
    /// How many.
    len: u32,
    /// Position of the first page's sighting.
    at: usize,
}

impl Piece {
    const fn end(self) -> u64 {
        self.start + self.len as u64
    }
}

/// Reads a sample of a task again and withdraws what has changed in it.
pub fn sample(found: &mut Found, source: &dyn PageSource) -> io::Result<Second> {
    let mut second = Second::default();
    if let Some(sample) = &found.sample {
        let mut again = vec![Entry(0); sample.entries.len()];
        let got = source.facts(sample.start, &mut again)?;
        again[got..].fill(Entry(0));
        for (&was, &is) in sample.entries.iter().zip(&again) {
            compare(was, is, &mut second);
        }
    }
    let pieces = pieces(&found.runs, sampled);
    read_again(&mut found.sightings, &pieces, source, &mut second)?;
    Ok(second)
}

/// Reads every sighting of a task again and withdraws those that have changed.
pub fn full(found: &mut Found, source: &dyn PageSource) -> io::Result<Second> {
    let mut second = Second::default();
    let pieces = pieces(&found.runs, |_, _| STRETCH);
    read_again(&mut found.sightings, &pieces, source, &mut second)?;
    Ok(second)
}

/// How many pages of each stretch of a run a sample has.
fn sampled(number: usize, run: &Run) -> u32 {
    if run.len >= STRETCH || number.is_multiple_of(RUNS) { SAMPLED } else { 0 }
}

/// The first pages of each stretch of each run, as many as `wanted` says.
fn pieces(runs: &[Run], wanted: impl Fn(usize, &Run) -> u32) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut at = 0;
    for (number, run) in runs.iter().enumerate() {
        let wanted = wanted(number, run);
        for from in (0..run.len).step_by(STRETCH as usize).filter(|_| wanted > 0) {
            let len = wanted.min(run.len - from);
            pieces.push(Piece { start: run.start + u64::from(from), len, at: at + from as usize });
        }
        at += run.len as usize;
    }
    pieces
}

fn read_again(
    sightings: &mut [Sighting],
    mut pieces: &[Piece],
    source: &dyn PageSource,
    second: &mut Second,
) -> io::Result<()> {
    let mut buffer = vec![Entry(0); BUFFER];
    while let Some(first) = pieces.first() {
        let near = |pair: &&[Piece]| {
            pair[0].end() <= pair[1].start
                && pair[1].start - pair[0].end() <= NEAR
                && pair[1].end() - first.start <= BUFFER as u64
        };
        let together = 1 + pieces.windows(2).take_while(near).count();
        let (batch, rest) = pieces.split_at(together);
        pieces = rest;
        let end = batch.last().map_or(first.end(), |piece| piece.end());
        let again = &mut buffer[..usize::try_from(end - first.start).unwrap_or(BUFFER)];
        let got = source.facts(first.start, again)?;
        again[got..].fill(Entry(0));
        for piece in batch {
            let from = usize::try_from(piece.start - first.start).unwrap_or(0);
            let len = piece.len as usize;
            let pages = sightings[piece.at..piece.at + len].iter_mut();
            for (sighting, &is) in pages.zip(&again[from..from + len]) {
                if !second_look(*sighting, is, second) {
                    *sighting = Sighting::WITHDRAWN;
                }
            }
        }
    }
    Ok(())
}

/// Is the page still on the frame on which it was seen?
fn second_look(was: Sighting, is: Entry, second: &mut Second) -> bool {
    second.reread += 1;
    if was == Sighting::WITHDRAWN {
        second.changed += 1; // in the sample before
        false
    } else if !is.is_present() {
        second.vanished += 1;
        false
    } else if is.pfn() == was.pfn() && is.is_file() == was.is_file() {
        second.stable += 1;
        true
    } else {
        second.changed += 1;
        false
    }
}

fn compare(was: Entry, is: Entry, second: &mut Second) {
    second.reread += 1;
    if was.is_present() && !is.is_present() {
        second.vanished += 1;
    } else if was.is_present() == is.is_present() && (!was.is_present() || was.pfn() == is.pfn()) {
        second.stable += 1;
    } else {
        second.changed += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Pfn;

    #[test]
    fn the_bound_shrinks_with_what_was_read() {
        let of = |reread, changed| {
            Second { reread, changed, stable: reread - changed, vanished: 0 }.change_bound()
        };
        assert_eq!(of(0, 0), 1.0);
        assert_eq!(of(300, 0), 0.01);
        assert!(of(1000, 10) > 0.01 && of(1000, 10) < 0.02);
        assert_eq!(of(10, 10), 1.0);
    }

    #[test]
    fn a_page_is_stable_on_its_frame_alone() {
        let seen = Sighting::new(Pfn(5), 0, false);
        let mut second = Second::default();
        assert!(second_look(seen, Entry::present(Pfn(5), false, false), &mut second));
        assert!(second_look(seen, Entry::present(Pfn(5), true, false), &mut second));
        assert!(!second_look(seen, Entry::present(Pfn(6), false, false), &mut second));
        assert!(!second_look(seen, Entry(0), &mut second));
        assert!(!second_look(seen, Entry::swapped(0), &mut second));
        assert!(!second_look(
            Sighting::WITHDRAWN,
            Entry::present(Pfn(5), false, false),
            &mut second
        ));
        assert_eq!(second, Second { reread: 6, stable: 2, changed: 2, vanished: 2 });
    }

    #[test]
    fn a_sample_is_spread_and_a_full_look_has_every_page() {
        let mut runs = vec![Run { start: 10, len: 30, region: 0 }; 2];
        runs.push(Run { start: 5000, len: 5000, region: 0 });
        let sample = pieces(&runs, sampled);
        let list: Vec<(u64, u32, usize)> = sample.iter().map(|p| (p.start, p.len, p.at)).collect();
        assert_eq!(list, [(10, 8, 0), (5000, 8, 60), (7048, 8, 2108), (9096, 8, 4156)]);
        let all = pieces(&runs, |_, _| STRETCH);
        assert_eq!(all.iter().map(|p| p.len).sum::<u32>(), 5060);
    }
}
