//! What a sender does last: frames, and how fast the link takes them.

use super::{Link, SendError};
use crate::base::buffer::Buffer;
use crate::migrate::send::parcel::{Parcel, Piece};
use crate::transport::{Drain, Lending, write_all_vectored};
use crate::wire::limits::MAX_OPS;
use crate::wire::{Encoder, Record};
use std::io::IoSlice;
use std::time::Instant;

/// Bytes of pages, not packed, for which it is worth sixteen more that they begin where they are
/// copied faster.
const LEAST_ALIGNED: usize = 1 << 15;

/// Writes records.
pub(super) struct Writer<'a> {
    out: &'a mut (dyn Drain + 'static),
    encoder: Encoder,
    link: &'a Link,
    /// Parcels without payload that are being joined.
    pending: Option<Parcel>,
    /// Pages are lent to the reader of a pipe, where that is safe.
    lending: Option<Lending>,
    bytes: u64,
    /// Bytes of the last record before its pages.
    head: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        out: &'a mut (dyn Drain + 'static),
        encoder: Encoder,
        link: &'a Link,
    ) -> Self {
        Self { out, encoder, link, pending: None, lending: None, bytes: 0, head: 0 }
    }

    /// Asks whether pages can be lent instead of copied.
    pub(super) fn lend(&mut self) {
        self.lending = Lending::to(self.out);
    }

    /// A buffer that was lent and has come back.
    pub(super) fn back(&mut self) -> Option<Buffer> {
        self.lending.as_mut()?.back(self.out).ok().flatten()
    }

    /// Bytes written.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn header(&mut self) -> Result<(), SendError> {
        let header = *self.encoder.header();
        self.write(&[&header])
    }

    pub(super) fn record(&mut self, record: &Record<'_>) -> Result<(), SendError> {
        self.settle()?;
        let bytes = self.encoder.record(record);
        self.write(&[&bytes])
    }

    pub(super) fn flush(&mut self) -> Result<(), SendError> {
        self.settle()?;
        self.out.flush().map_err(SendError::Write)
    }

    /// Writes a parcel, or keeps it to be joined with the next; gives its buffer back.
    pub(super) fn parcel(&mut self, parcel: Parcel) -> Result<Option<Buffer>, SendError> {
        let most = usize::try_from(MAX_OPS).unwrap_or(0) / 4;
        let parcel = match &mut self.pending {
            Some(pending) => match pending.join(parcel, most) {
                Ok(buffer) => return Ok(Some(buffer)),
                Err(parcel) => *parcel,
            },
            None => parcel,
        };
        self.settle()?;
        if parcel.payload.is_empty() {
            self.pending = Some(parcel);
            return Ok(None);
        }
        if self.lending.is_some() && !parcel.payload.iter().any(Piece::is_packed) {
            self.lent_pages(parcel)?;
            return Ok(None);
        }
        self.pages(&parcel)?;
        Ok(Some(parcel.content))
    }

    fn lent_pages(&mut self, parcel: Parcel) -> Result<(), SendError> {
        let payload = parcel.pieces();
        let frame = self.encoder.pages(parcel.vm, parcel.first, &parcel.ops, &payload);
        let parts = parcel.parts();
        self.write(&[&frame.head])?;
        let start = Instant::now();
        let bytes = parts.iter().map(ExactSizeIterator::len).sum();
        if let Some(lending) = &mut self.lending {
            lending.send(self.out, parcel.content, &parts).map_err(SendError::Write)?;
        }
        self.link.took(bytes, start.elapsed());
        self.bytes += bytes as u64;
        self.write(&[&frame.tail])
    }

    fn settle(&mut self) -> Result<(), SendError> {
        match self.pending.take() {
            Some(parcel) => self.pages(&parcel),
            None => Ok(()),
        }
    }

    fn pages(&mut self, parcel: &Parcel) -> Result<(), SendError> {
        let payload = parcel.pieces();
        let plain = parcel.open_bytes();
        let mut pad = Vec::new();
        if plain >= LEAST_ALIGNED {
            // what comes before the pages is mostly as long as it was before
            pad = self.encoder.pad(self.bytes + self.head as u64);
        }
        let frame = self.encoder.pages(parcel.vm, parcel.first, &parcel.ops, &payload);
        if plain >= LEAST_ALIGNED {
            self.head = frame.head.len();
        }
        let mut all = vec![pad.as_slice(), &frame.head];
        all.extend(payload);
        all.push(&frame.tail);
        self.write(&all)
    }

    fn write(&mut self, pieces: &[&[u8]]) -> Result<(), SendError> {
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let start = Instant::now();
        // the kernel takes at most IOV_MAX (1024) pieces in one call
        for pieces in pieces.chunks(1000) {
            let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|p| IoSlice::new(p)).collect();
            write_all_vectored(self.out, &mut slices).map_err(SendError::Write)?;
        }
        self.link.took(bytes, start.elapsed());
        self.bytes += bytes as u64;
        self.lending.iter_mut().for_each(|lending| lending.wrote(bytes));
        Ok(())
    }
}
