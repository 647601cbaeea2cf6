//! Streams taken apart and put together again, with checksums that fit.

use pageherd::base::digest::Hashing;
use pageherd::wire::header::{Direction, HEADER, Header, Session};
use pageherd::wire::{Encoder, Record};

/// A stream as its header and its frames.
#[derive(Clone)]
pub(crate) struct Frames {
    pub(crate) header: Vec<u8>,
    /// Type and body of each.
    pub(crate) frames: Vec<(u8, Vec<u8>)>,
}

impl Frames {
    /// Takes a whole stream apart.
    pub(crate) fn of(stream: &[u8]) -> Self {
        let (header, mut rest) = stream.split_at(HEADER);
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
            frames.push((rest[4], rest[12..12 + length].to_vec()));
            rest = &rest[12 + length + 4..];
        }
        Self { header: header.to_vec(), frames }
    }

    /// A stream of these records, without answers unless `required` says so.
    pub(crate) fn new(required: u64, records: &[Record<'_>]) -> Self {
        let session = Session([7; 16]);
        let header = Header::new(Direction::Stream, required, session, &Hashing::Plain).write();
        let mut new = Self { header: header.to_vec(), frames: Vec::new() };
        records.iter().for_each(|record| new.push(record));
        new
    }

    pub(crate) fn push(&mut self, record: &Record<'_>) {
        let mut body = Vec::new();
        record.write(&mut body);
        self.frames.push((record.tag(), body));
    }

    /// Its bytes, each frame with its number and a checksum that fits.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut header = self.header.clone();
        let sum = crc32(&header[..HEADER - 4]);
        header[HEADER - 4..].copy_from_slice(&sum.to_le_bytes());
        let mut out = header.clone();
        for (number, (tag, body)) in (0u32..).zip(&self.frames) {
            out.extend(frame(&header, number, *tag, body));
        }
        out
    }

    /// The first frame of a type.
    pub(crate) fn at(&self, tag: u8) -> usize {
        self.frames.iter().position(|(t, _)| *t == tag).unwrap()
    }
}

/// A frame of a stream with this header.
pub(crate) fn frame(header: &[u8], number: u32, tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    out.extend([tag, 0, 0, 0]);
    out.extend(number.to_le_bytes());
    out.extend(body);
    let mut sum = crc32fast::Hasher::new();
    sum.update(&header[HEADER - 4..]);
    sum.update(&out);
    out.extend(sum.finalize().to_le_bytes());
    out
}

pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The answers of a receiver, as it would write them.
pub(crate) fn answers(session: [u8; 16]) -> Encoder {
    let header = Header::new(Direction::Answers, 0, Session(session), &Hashing::Plain);
    Encoder::new(&header)
}
