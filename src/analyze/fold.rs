//! Stretches of frames that several regions have in the same order are kept once.
//!
//! A fork or a clone of a template maps the same frames in the same order as its siblings: of
//! twenty of them, nineteen say nothing new. So sightings are cut into stretches where the frames
//! themselves say (one frame in 128 ends a stretch, wherever it stands, so that a page more or less
//! at the front shifts nothing), and a stretch that was met before only adds its region to the
//! *place* of the first. What is left to sort is as long as what is distinct.

use super::sighting::{MAX_PLACES, Region, Sighting};
use std::collections::HashMap;

/// Stretches are at least this long, unless their region ends.
const LEAST: usize = 16;

/// And at most this long.
const MOST: usize = 1024;

/// The regions that have a frame in common, by number: the places of sightings.
#[derive(Clone, Debug)]
pub struct Places {
    sets: Vec<Set>,
    /// Which set comes of one set and one more region.
    with: HashMap<(u32, u32), u32>,
}

/// The regions of one place, once for each page that they have on the frame.
#[derive(Clone, Debug)]
pub struct Set {
    /// Their numbers.
    pub regions: Box<[u32]>,
    /// KSM can have merged pages of every one of them.
    pub may_be_merged: bool,
    /// One of them is mapped privately.
    pub private: bool,
}

impl Places {
    /// A place for each region, of the same number.
    pub fn new(regions: &[Region]) -> Self {
        let one = |(number, region): (u32, &Region)| Set {
            regions: Box::new([number]),
            may_be_merged: region.may_be_merged,
            private: !region.shared,
        };
        Self { sets: (0u32..).zip(regions).map(one).collect(), with: HashMap::new() }
    }

    /// The regions of a place.
    pub fn of(&self, place: u32) -> &Set {
        &self.sets[place as usize]
    }

    /// How many pages are on a frame that was seen so.
    pub fn pages(&self, frame: &[Sighting]) -> u64 {
        frame.iter().map(|s| self.of(s.place()).regions.len() as u64).sum()
    }

    /// Is one of the pages mapped privately?
    pub fn any_private(&self, frame: &[Sighting]) -> bool {
        frame.iter().any(|s| self.of(s.place()).private)
    }

    /// The regions of a frame's pages.
    pub fn regions<'a>(&'a self, frame: &'a [Sighting]) -> impl Iterator<Item = u32> + 'a {
        frame.iter().flat_map(|s| self.of(s.place()).regions.iter().copied())
    }

    /// The VMs behind a frame, ascending.
    pub fn vms(&self, frame: &[Sighting], regions: &[Region]) -> Vec<u32> {
        let mut vms: Vec<u32> = self.regions(frame).map(|r| regions[r as usize].vm).collect();
        vms.sort_unstable();
        vms.dedup();
        vms
    }

    /// The place of `place` and one more region; `None` where there are too many places.
    fn with(&mut self, place: u32, region: u32) -> Option<u32> {
        if let Some(&known) = self.with.get(&(place, region)) {
            return Some(known);
        }
        let number =
            u32::try_from(self.sets.len()).ok().filter(|_| self.sets.len() < MAX_PLACES)?;
        let (old, one) = (self.of(place), self.of(region));
        let set = Set {
            regions: old.regions.iter().chain(&one.regions).copied().collect(),
            may_be_merged: old.may_be_merged && one.may_be_merged,
            private: old.private || one.private,
        };
        self.sets.push(set);
        self.with.insert((place, region), number);
        Some(number)
    }
}

/// A stretch that is kept.
struct Stretch {
    start: usize,
    len: usize,
    place: u32,
}

/// All sightings in one vector, each stretch once; withdrawn ones left out. Parts are freed as they
/// are taken.
pub fn fold(parts: Vec<Vec<Sighting>>, places: &mut Places) -> Vec<Sighting> {
    let mut kept: Vec<Sighting> = Vec::new();
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut by_hash: HashMap<u64, usize> = HashMap::new();
    for part in parts {
        let mut rest = part.as_slice();
        while let Some(first) = rest.first() {
            if *first == Sighting::WITHDRAWN {
                rest = &rest[1..];
                continue;
            }
            let (len, hash) = next_stretch(rest);
            let (stretch, after) = rest.split_at(len);
            rest = after;
            let met = by_hash.get(&hash).map(|&i| &mut stretches[i]).filter(|met| {
                let before = &kept[met.start..met.start + met.len];
                before.len() == len && before.iter().zip(stretch).all(|(a, b)| a.same_frame(*b))
            });
            if let Some(met) = met
                && let Some(place) = places.with(met.place, first.place())
            {
                met.place = place;
                continue;
            }
            by_hash.insert(hash, stretches.len());
            stretches.push(Stretch { start: kept.len(), len, place: first.place() });
            kept.extend_from_slice(stretch);
        }
    }
    for stretch in stretches {
        let sightings = &mut kept[stretch.start..stretch.start + stretch.len];
        if sightings[0].place() != stretch.place {
            sightings.iter_mut().for_each(|s| *s = s.at(stretch.place));
        }
    }
    kept
}

/// Length and hash of the stretch that `sightings` begin with.
fn next_stretch(sightings: &[Sighting]) -> (usize, u64) {
    let place = sightings[0].place();
    let mut hash = 0u64;
    for (i, s) in sightings.iter().enumerate() {
        if s.place() != place || *s == Sighting::WITHDRAWN {
            return (i, hash);
        }
        let pfn = s.pfn().0;
        hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(pfn + 1);
        let ends = pfn.wrapping_mul(0xd134_2543_de82_ef95) >> 57 == 0 && i + 1 >= LEAST;
        if ends || i + 1 == MOST {
            return (i + 1, hash);
        }
    }
    (sightings.len(), hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Pfn;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn regions(n: u32) -> Vec<Region> {
        let region =
            |vm| Region { vm, file: None, shared: false, may_be_merged: true, name: String::new() };
        (0..n).map(region).collect()
    }

    fn part(region: u32, pfns: impl IntoIterator<Item = u64>) -> Vec<Sighting> {
        pfns.into_iter().map(|pfn| Sighting::new(Pfn(pfn), region, false)).collect()
    }

    #[test]
    fn siblings_are_kept_once_even_where_one_has_a_page_more() {
        let mut places = Places::new(&regions(3));
        let frames = || (0..20_000u64).map(|i| i * 7 + 13);
        let parts =
            vec![part(0, frames()), part(1, frames()), part(2, [5u64].into_iter().chain(frames()))];
        let kept = fold(parts, &mut places);
        assert!(kept.len() < 20_000 + MOST + 1, "{} sightings are left", kept.len());
        let all_three = kept.iter().filter(|s| *places.of(s.place()).regions == [0, 1, 2]).count();
        assert!(all_three > 18_000, "{all_three} of them have all three");
    }

    proptest! {
        /// Whatever was seen, the same pages of the same regions are on the same frames.
        #[test]
        fn nothing_is_lost_or_made_up(
            lists in prop::collection::vec(prop::collection::vec(0u64..300, 0..400), 0..5),
            withdrawn in prop::collection::vec(any::<u16>(), 0..5),
        ) {
            let mut places = Places::new(&regions(3));
            let mut expected: BTreeMap<(u64, u32), usize> = BTreeMap::new();
            let mut parts = Vec::new();
            for (i, list) in (0u32..).zip(&lists) {
                // some lists twice, by two regions, so that there is something to fold
                for region in [i % 3, (i + 1) % 3] {
                    let mut sightings = part(region, list.iter().copied());
                    if let (Some(&at), false) = (withdrawn.get(i as usize), sightings.is_empty()) {
                        let at = usize::from(at) % sightings.len();
                        sightings[at] = Sighting::WITHDRAWN;
                    }
                    for s in sightings.iter().filter(|s| **s != Sighting::WITHDRAWN) {
                        *expected.entry((s.pfn().0, region)).or_default() += 1;
                    }
                    parts.push(sightings);
                }
            }
            let mut got: BTreeMap<(u64, u32), usize> = BTreeMap::new();
            for s in fold(parts, &mut places) {
                for &region in &places.of(s.place()).regions {
                    *got.entry((s.pfn().0, region)).or_default() += 1;
                }
            }
            prop_assert_eq!(got, expected);
        }
    }
}
