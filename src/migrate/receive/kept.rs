//! A VMM's stream that is kept instead of given to a VMM: its pages as a memory like any other, all else
//! beside it.

use super::{ReceiveError, Stream};
use crate::base::Place;
use crate::migrate::seal::NativeSeal;
use crate::wire::WireError;
use crate::wire::record::Native;
use std::io::{Read, Write};

/// Most bytes that a stream may have beside pages.
const MOST_STATE: usize = 256 << 20;
/// In the place of a slot: the page is zero.
const ZERO: u64 = u64::MAX;

/// What is kept of a VMM's stream beside its pages.
#[derive(Debug, Default)]
pub(super) struct Kept {
    seal: NativeSeal,
    /// The stream without its pages.
    state: Vec<u8>,
    keeps: bool,
    /// Slots of the pages that the stream may name again, in the order in which they came.
    slots: Vec<u64>,
}

impl Kept {
    pub(super) const fn seal(&self) -> &NativeSeal {
        &self.seal
    }

    pub(super) fn state(&self) -> &[u8] {
        &self.state
    }

    /// So many pages came and are in slots that follow one another, or are zero.
    pub(super) fn came(&mut self, slot: Option<u64>, pages: u64) {
        if self.keeps {
            self.slots.extend((0..pages).map(|i| slot.map_or(ZERO, |slot| slot + i)));
        }
    }

    /// Where a page of the pool is; `None` where it has not come.
    pub(super) fn place(&self, member: u32, page: u64) -> Option<Place> {
        let slot = usize::try_from(page).ok().and_then(|at| self.slots.get(at));
        match *slot.filter(|_| member == 0)? {
            ZERO => Some(Place::Zero),
            page => Some(Place::Pool { page }),
        }
    }
}

impl<R: Read, W: Write> Stream<'_, R, W> {
    pub(super) fn kept_native(&mut self, part: Native<'_>) -> Result<(), ReceiveError> {
        let kept = self.kept.as_mut().ok_or(WireError::Wrong("it has no VM"))?;
        kept.seal.add(&self.site.hashing, part);
        if let Native::Bytes(bytes) = part {
            if kept.state.len() + bytes.len() > MOST_STATE {
                return Err(ReceiveError::StateTooLong { mib: MOST_STATE >> 20 });
            }
            kept.state.extend_from_slice(bytes);
        }
        Ok(())
    }

    pub(super) fn kept_keep(&mut self, keep: bool) {
        self.kept.iter_mut().for_each(|kept| kept.keeps = keep);
    }
}
