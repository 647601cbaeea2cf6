//! A store that keeps nothing: for proving a stream, and for measuring without a disk or fresh
//! memory at the end.

use super::{Store, StoreError, Whole};
use std::io;

/// Keeps nothing.
#[derive(Debug, Default)]
pub struct Discard;

impl Store for Discard {
    fn slots(&self) -> u64 {
        0
    }

    fn expect(&self, _name: &str, _blocks: &[(String, u64)]) -> Result<(), StoreError> {
        Ok(())
    }

    fn put(&self, _name: &str, _page: u64, _slot: u64, _bytes: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }

    fn read(&self, _slot: u64, _out: &mut [u8]) -> Result<(), StoreError> {
        let gone = io::Error::other(
            "nothing is kept, and the stream has differences to what it sent before",
        );
        Err(StoreError::io("--discard", "reading back")(gone))
    }

    fn takes_state(&self) -> bool {
        true // nothing is kept of it
    }

    fn prepare(&self, _session: &str, _vms: &[Whole<'_>]) -> Result<(), StoreError> {
        Ok(())
    }

    fn publish(&self, _session: &str, _vms: &[&str]) -> Result<(), StoreError> {
        Ok(())
    }

    fn forget(&self, _session: &str, _vms: &[&str]) {}

    fn resolve(&self, _session: &str) -> Result<Option<bool>, StoreError> {
        Ok(None)
    }
}
