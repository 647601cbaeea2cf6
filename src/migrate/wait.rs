//! The ledger between streams: who waits for what, and until when.

use crate::base::digest::MemoryDigest;
use crate::migrate::receive::ReceiveError;
use crate::placement::ledger::{Ledger, LedgerError, Readiness, VmId};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The ledger, for several streams at once.
#[derive(Debug)]
pub struct Desk {
    ledger: Mutex<Ledger>,
    streams: Mutex<Streams>,
    changed: Condvar,
}

#[derive(Debug)]
struct Streams {
    /// Streams that have not ended, those among them that have not come yet.
    left: usize,
}

impl Desk {
    /// For one stream; see [`Self::expect`].
    pub fn new(ledger: Ledger) -> Self {
        let streams = Mutex::new(Streams { left: 1 });
        Self { ledger: Mutex::new(ledger), streams, changed: Condvar::new() }
    }

    /// So many streams will come.
    pub fn expect(&self, streams: usize) {
        self.streams().left = streams;
    }

    /// The ledger.
    pub fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has come: who waits looks again.
    pub fn changed(&self) {
        self.changed.notify_all();
    }

    /// A stream has ended, in whatever way.
    pub fn stream_ended(&self) {
        let mut streams = self.streams();
        streams.left = streams.left.saturating_sub(1);
        drop(streams);
        self.changed();
    }

    /// The VMs of a stream that failed are forgotten.
    pub fn give_up(&self, ids: &[VmId]) {
        let mut ledger = self.lock();
        ids.iter().for_each(|&id| ledger.give_up(id));
        drop(ledger);
        self.changed();
    }

    /// Waits until a VM is whole, and compares its digest.
    ///
    /// # Errors
    /// Where its memory is another, a page never came, or one that it refers to does not come in
    /// time or cannot come any more.
    pub fn whole(
        &self,
        id: VmId,
        wanted: MemoryDigest,
        wait: Duration,
    ) -> Result<(), ReceiveError> {
        let until = Instant::now() + wait;
        let mut ledger = self.lock();
        loop {
            match ledger.readiness(id)? {
                Readiness::Whole(found) if found == wanted => return Ok(()),
                Readiness::Whole(found) => {
                    let name = ledger.name(id).to_owned();
                    return Err(LedgerError::Digest { name, found, wanted }.into());
                }
                Readiness::Waits { page, of, of_page } => {
                    // ours is one of those that are left
                    if self.streams().left <= 1 {
                        return Err(ledger.never((id, page), &of, of_page).into());
                    }
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        let (name, seconds) = (ledger.name(id).to_owned(), wait.as_secs());
                        return Err(ReceiveError::WaitedTooLong {
                            name,
                            page,
                            of,
                            of_page,
                            seconds,
                        });
                    }
                    // a look now and then, should a word be lost between two locks
                    let nap = left.min(Duration::from_millis(200));
                    let waited = self.changed.wait_timeout(ledger, nap);
                    ledger = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}
