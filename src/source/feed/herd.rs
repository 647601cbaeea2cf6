//! A VM of a herd as a feed: its places are its facts. Two pages on one slot of the pool have the
//! same content, which is proof by itself: a slot that is in use does not change.

use super::{Fact, Feed, Frame, Space};
use crate::base::Place;
use crate::source::herd::{HerdError, HerdMemory, HerdVm};
use std::io;

/// A VM of a herd, open.
#[derive(Debug)]
pub struct HerdFeed {
    memory: HerdMemory,
    space: Space,
}

impl HerdFeed {
    /// Opens it.
    pub fn open(vm: &HerdVm) -> Result<Self, HerdError> {
        let memory = HerdMemory::open(vm)?;
        let id = memory.pool_id().unwrap_or_default();
        let space = Space::Pool { device: id.device, inode: id.inode };
        Ok(Self { memory, space })
    }
}

impl Feed for HerdFeed {
    fn blocks(&self) -> Vec<(String, u64)> {
        self.memory.blocks.clone()
    }

    fn facts(&self, first: u64, out: &mut [Fact]) -> io::Result<()> {
        for (page, fact) in (first..).zip(out) {
            *fact = match self.memory.places.get(page) {
                Some(Place::Zero) => Fact::Zero,
                Some(Place::Unused) => Fact::Unused,
                Some(Place::Pool { page: number }) => {
                    let frame = Frame { space: self.space, number };
                    Fact::Frame { frame, shared: true, clean: false }
                }
                _ => Fact::Unknown,
            };
        }
        Ok(())
    }

    fn read(&self, first: u64, _facts: &[Fact], out: &mut [u8]) -> io::Result<()> {
        self.memory.read(first, out)
    }
}
