//! From who reads and packs to who writes, by a queue: the one reads the next pages while the other
//! waits for the link. With one thread for both, 1 GiB through a pipe takes half as long again
//! (docs/PERFORMANCE.md).

use super::{Attempt, Item, SendError, VmDone};
use crate::base::buffer::Buffer;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Items on their way.
pub(super) struct Lane<'a, 'b> {
    attempt: Mutex<&'a mut Attempt<'b>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failed: Option<SendError>,
    /// Buffers that were written.
    spare: Vec<Buffer>,
    done: Vec<VmDone>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a, 'b> Lane<'a, 'b> {
    pub(super) fn new(attempt: &'a mut Attempt<'b>) -> Self {
        Self { attempt: Mutex::new(attempt), state: Mutex::default() }
    }

    /// Writes what comes, until nothing more does.
    pub(super) fn write_all(&self, from: Receiver<Item>) {
        for item in from {
            if !self.write(item) {
                return; // who sends more finds the queue closed
            }
        }
    }

    /// Takes an item. False where nothing more can be written.
    pub(super) fn put(&self, item: Item, to: &SyncSender<Item>) -> bool {
        lock(&self.state).failed.is_none() && to.send(item).is_ok()
    }

    fn write(&self, item: Item) -> bool {
        let mut spare = Vec::new();
        let result = lock(&self.attempt).write(&mut spare, item);
        let mut state = lock(&self.state);
        state.spare.append(&mut spare);
        match result {
            Ok(done) => state.done.extend(done),
            Err(error) => state.failed = Some(error),
        }
        state.failed.is_none()
    }

    /// A buffer to be filled again.
    pub(super) fn spare(&self) -> Option<Buffer> {
        lock(&self.state).spare.pop()
    }

    /// What was written; or what failed, which comes before what failed because of that.
    pub(super) fn end<T>(self, read: Result<T, SendError>) -> Result<(Vec<VmDone>, T), SendError> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.failed {
            Some(error) => Err(error),
            None => Ok((state.done, read?)),
        }
    }
}
