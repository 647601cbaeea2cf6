//! `unused` and `zero`: pages that need no bytes at all.

use super::{Batch, Filter, Settled, World};
use crate::base::fact::Fact;

/// Pages that nobody ever used, by the kernel's word: not present, not swapped, no file behind
/// them. Not resident alone is not zero.
#[derive(Debug, Default)]
pub struct Unused;

impl Filter for Unused {
    fn name(&self) -> &'static str {
        "unused"
    }

    fn by_facts(&mut self, batch: &mut Batch, _world: &dyn World) -> u64 {
        settle(batch, Settled::Unused, |batch, at| batch.facts[at] == Fact::Unused)
    }
}

/// Pages of zeros: by the kernel's word where it has it, else by their content.
#[derive(Debug, Default)]
pub struct Zero;

impl Filter for Zero {
    fn name(&self) -> &'static str {
        "zero"
    }

    fn by_facts(&mut self, batch: &mut Batch, _world: &dyn World) -> u64 {
        settle(batch, Settled::Zero, |batch, at| batch.facts[at] == Fact::Zero)
    }

    fn by_content(&mut self, batch: &mut Batch, _world: &dyn World) -> u64 {
        // a page that was read and has no hash is zero: who read it has looked
        settle(batch, Settled::Zero, |batch, at| batch.was_read[at] && batch.hashes[at].is_none())
    }
}

fn settle(batch: &mut Batch, as_what: Settled, fits: impl Fn(&Batch, usize) -> bool) -> u64 {
    let mut pages = 0;
    for at in 0..batch.len() {
        if batch.settled[at].is_none() && fits(batch, at) {
            batch.settled[at] = Some(as_what);
            pages += 1;
        }
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::super::worlds::{Made, read};
    use super::*;

    #[test]
    fn the_kernels_word_or_the_content_makes_a_page_zero_and_nothing_else() {
        let mut batch = Batch::default();
        batch.reset(0, 0, 4);
        batch.facts = vec![Fact::Unused, Fact::Zero, Fact::File, Fact::Unknown];
        let world = Made::default();
        assert_eq!(Unused.by_facts(&mut batch, &world), 1);
        assert_eq!(Zero.by_facts(&mut batch, &world), 1);
        assert_eq!(batch.settled, [Some(Settled::Unused), Some(Settled::Zero), None, None]);
        let mut batch = read(0, 0, &[vec![0; 4096], vec![1; 4096]]);
        assert_eq!(Zero.by_content(&mut batch, &world), 1);
        assert_eq!(batch.settled, [Some(Settled::Zero), None]);
    }
}
