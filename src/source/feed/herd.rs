//! A VM of a herd as a feed: its places are its facts. Two pages on one slot of the pool, or on one
//! page of a template, have the same content, which is proof by itself: a slot that is in use does
//! not change, nor does a template.

use super::{Fact, Feed, FileId, Frame, Space};
use crate::base::Place;
use crate::source::herd::{HerdError, HerdMemory, HerdVm};
use std::io;

/// A VM of a herd, open.
#[derive(Debug)]
pub struct HerdFeed {
    memory: HerdMemory,
    space: Space,
    /// Which files the templates are.
    templates: Vec<FileId>,
}

impl HerdFeed {
    /// Opens it.
    pub fn open(vm: &HerdVm) -> Result<Self, HerdError> {
        let memory = HerdMemory::open(vm)?;
        let templates = memory.template_ids();
        let space = space(memory.pool_id().unwrap_or_default());
        Ok(Self { memory, space, templates })
    }
}

const fn space(id: FileId) -> Space {
    Space::Pool { device: id.device, inode: id.inode }
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
                Some(Place::Template { file, page: number }) => {
                    let id = self.templates.get(file as usize).copied().unwrap_or_default();
                    let frame = Frame { space: space(id), number };
                    Fact::Frame { frame, shared: true, clean: true }
                }
                _ => Fact::Unknown,
            };
        }
        Ok(())
    }

    fn file(&self, page: u64) -> Option<(FileId, u64)> {
        match self.memory.places.get(page)? {
            Place::Template { file, page } => Some((*self.templates.get(file as usize)?, page)),
            _ => None,
        }
    }

    fn read(&self, first: u64, _facts: &[Fact], out: &mut [u8]) -> io::Result<()> {
        self.memory.read(first, out)
    }
}
