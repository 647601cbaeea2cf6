//! Second look: the pages are read again after all of them were read once.
//!
//! A frame read once says where to look and proves nothing. A page whose entry is the same before
//! and after every other page was read was on its frame all the while (unless it left and came
//! back), so two such pages with one frame shared it at the same time. A page whose entry has
//! changed is withdrawn and counted apart.

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

/// Reads the sample of a task again, and one in 256 of its sightings.
pub fn sample(found: &Found, source: &dyn PageSource) -> io::Result<Second> {
    let mut second = Second::default();
    if let Some(sample) = &found.sample {
        let mut again = vec![Entry(0); sample.entries.len()];
        let got = source.facts(sample.start, &mut again)?;
        again[got..].fill(Entry(0));
        for (&was, &is) in sample.entries.iter().zip(&again) {
            compare(was, is, &mut second);
        }
    }
    let mut at = 0;
    let mut again = Vec::new();
    for (i, run) in found.runs.iter().enumerate() {
        let len = run.len as usize;
        let chosen = if len >= 256 { len / 256 } else { usize::from(i % 256 == 0) };
        if chosen > 0 {
            again.resize(chosen, Entry(0));
            let got = source.facts(run.start, &mut again)?;
            again[got..].fill(Entry(0));
            for (sighting, &is) in found.sightings[at..].iter().zip(&again) {
                second_look(*sighting, is, &mut second);
            }
        }
        at += len;
    }
    Ok(second)
}

/// Reads every sighting of a task again and withdraws those that have changed; returns, with the
/// counts, how many were withdrawn from each region.
pub fn full(found: &mut Found, source: &dyn PageSource) -> io::Result<(Second, Vec<(u32, u64)>)> {
    let mut second = Second::default();
    let mut withdrawn = Vec::new();
    let mut at = 0;
    let mut buffer = vec![Entry(0); 8192];
    let runs: &[Run] = &found.runs;
    for run in runs {
        let mut done = 0u32;
        let mut lost = 0;
        while done < run.len {
            let len = (run.len - done).min(8192) as usize;
            let again = &mut buffer[..len];
            let got = source.facts(run.start + u64::from(done), again)?;
            again[got..].fill(Entry(0));
            for (sighting, &is) in found.sightings[at..at + len].iter_mut().zip(again.iter()) {
                if !second_look(*sighting, is, &mut second) {
                    *sighting = Sighting::WITHDRAWN;
                    lost += 1;
                }
            }
            at += len;
            done += u32::try_from(len).unwrap_or(u32::MAX);
        }
        if lost > 0 {
            withdrawn.push((run.region, lost));
        }
    }
    Ok((second, withdrawn))
}

/// Is the page still on the frame on which it was seen?
fn second_look(was: Sighting, is: Entry, second: &mut Second) -> bool {
    second.reread += 1;
    if !is.is_present() {
        second.vanished += 1;
        false
    } else if is.pfn() == was.pfn() {
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
        assert_eq!(second, Second { reread: 5, stable: 2, changed: 1, vanished: 2 });
    }
}
