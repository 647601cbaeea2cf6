//! The pages of a stream that is in no group: memory of this process.

use super::GroupError;
use crate::base::PAGE_SIZE;
use crate::sys::mapping::Mapping;

/// Pages in one mapping: 32 MiB. Memory is used page by page as they come.
const CHUNK: u64 = 1 << 13;

/// Pages by number, from 0.
#[derive(Debug, Default)]
pub(super) struct Private {
    chunks: Vec<Mapping>,
    pub(super) pages: u64,
}

impl Private {
    pub(super) fn append(&mut self, mut bytes: &[u8]) -> Result<(), GroupError> {
        let new = bytes.len() as u64 / PAGE_SIZE;
        let chunks = (self.pages + new).div_ceil(CHUNK);
        while (self.chunks.len() as u64) < chunks {
            // huge pages are not asked for: that was no faster here (10^6 pages, Linux 6.18, a
            // virtual machine), and with defrag=madvise a fault may wait for compaction
            self.chunks.push(Mapping::anonymous(CHUNK).map_err(GroupError::NoMemory)?);
        }
        let mut page = self.pages;
        while !bytes.is_empty() {
            let (chunk, at, room) = place(page);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.chunks[chunk].write(at, now);
            page += now.len() as u64 / PAGE_SIZE;
            bytes = later;
        }
        self.pages = page;
        Ok(())
    }

    /// Copies pages from `page` on, all of which are there.
    pub(super) fn read(&self, mut page: u64, mut out: &mut [u8]) {
        while !out.is_empty() {
            let (chunk, at, room) = place(page);
            let now = out.len().min(room);
            let (now, later) = std::mem::take(&mut out).split_at_mut(now);
            self.chunks[chunk].read(at, now);
            page += now.len() as u64 / PAGE_SIZE;
            out = later;
        }
    }
}

/// Where a page is: its chunk, its offset there, and the bytes from there to the chunk's end.
fn place(page: u64) -> (usize, u64, usize) {
    let within = page % CHUNK;
    let bytes = |pages: u64| usize::try_from(pages * PAGE_SIZE).unwrap_or(usize::MAX);
    (usize::try_from(page / CHUNK).unwrap_or(usize::MAX), within * PAGE_SIZE, bytes(CHUNK - within))
}
