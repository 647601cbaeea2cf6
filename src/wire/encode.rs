//! Records to bytes.

use super::answer::Answer;
use super::header::{HEADER, Header};
use super::pages::{PageOp, write_head};
use super::record::{Record, tag};

/// Bytes before the body of a frame.
pub(super) const FRAME: usize = 12;

/// Where payloads of pages should begin in the stream. A socket's buffers and a pipe's pages then have
/// them on cache lines, and the kernel copies them faster on both sides (docs/PERFORMANCE.md).
const ALIGNED: usize = 64;

/// A frame, in pieces: so that pages are written from where they lie.
#[derive(Debug, Default)]
pub struct Frame {
    /// Length, type, number, and the body up to the payload.
    pub head: Vec<u8>,
    /// The checksum.
    pub tail: [u8; 4],
}

/// Numbers and seals the frames of one direction.
#[derive(Clone, Debug)]
pub struct Encoder {
    header: [u8; HEADER],
    next: u32,
}

impl Encoder {
    /// For a stream or answers with this header.
    pub fn new(header: &Header) -> Self {
        Self { header: header.write(), next: 0 }
    }

    /// The header's bytes.
    pub const fn header(&self) -> &[u8; HEADER] {
        &self.header
    }

    /// A record as one piece.
    pub fn record(&mut self, record: &Record<'_>) -> Vec<u8> {
        let mut body = Vec::new();
        record.write(&mut body);
        self.whole(record.tag(), &body)
    }

    /// An answer as one piece.
    pub fn answer(&mut self, answer: &Answer) -> Vec<u8> {
        let mut body = Vec::new();
        answer.write(&mut body);
        self.whole(answer.tag(), &body)
    }

    /// A frame of any type and body: what [`Self::record`] does, and what tests need to say what no
    /// record can.
    pub fn whole(&mut self, tag: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = Frame::default();
        self.begin(tag, &mut frame);
        frame.head.extend(body);
        self.finish(&mut frame, &[]);
        frame.head.extend(frame.tail);
        frame.head
    }

    /// Pages from `page` on of VM `vm`, whose bytes lie in `payload`: head and tail to be written
    /// around them.
    pub fn pages(&mut self, vm: u32, page: u64, ops: &[PageOp], payload: &[&[u8]]) -> Frame {
        let mut frame = Frame::default();
        self.begin(tag::PAGES, &mut frame);
        write_head(vm, page, ops, &mut frame.head);
        self.finish(&mut frame, payload);
        frame
    }

    /// A frame that says nothing, to be written before one whose payload begins `ahead` bytes further
    /// on in the stream, so that it begins at a multiple of 64. Empty where it does already.
    pub fn pad(&mut self, ahead: u64) -> Vec<u8> {
        let over = usize::try_from(ahead % ALIGNED as u64).unwrap_or(0);
        if over == 0 {
            return Vec::new();
        }
        let body = (2 * ALIGNED - (over + FRAME + 4) % ALIGNED) % ALIGNED;
        self.whole(tag::PAD, &[0; ALIGNED][..body])
    }

    fn begin(&mut self, tag: u8, frame: &mut Frame) {
        frame.head.extend([0, 0, 0, 0, tag, 0, 0, 0]);
        frame.head.extend(self.next.to_le_bytes());
        self.next += 1;
    }

    fn finish(&self, frame: &mut Frame, payload: &[&[u8]]) {
        let payload_length: usize = payload.iter().map(|piece| piece.len()).sum();
        let length = u32::try_from(frame.head.len() - FRAME + payload_length).unwrap_or(u32::MAX);
        debug_assert!(length <= super::limits::MAX_BODY);
        frame.head[..4].copy_from_slice(&length.to_le_bytes());
        let mut crc = checksum(&self.header);
        crc.update(&frame.head);
        payload.iter().for_each(|piece| crc.update(piece));
        frame.tail = crc.finalize().to_le_bytes();
    }
}

/// The checksum of a frame begins with that of the header, which no other session has: a frame of
/// another stream does not fit.
pub(super) fn checksum(header: &[u8; HEADER]) -> crc32fast::Hasher {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[HEADER - 4..]);
    crc
}
