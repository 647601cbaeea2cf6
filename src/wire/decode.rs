//! Bytes to records: a state machine that says how many bytes it wants and takes exactly those.

use super::WireError;
use super::answer::Answer;
use super::encode::{FRAME, checksum};
use super::header::{Direction, HEADER, Header};
use super::limits::MAX_BODY;
use super::record::Record;
use crate::base::bytes::Reader;

/// Reads the frames of one direction.
#[derive(Debug)]
pub struct Decoder {
    direction: Direction,
    state: State,
    header: [u8; HEADER],
    next: u32,
    read: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Header,
    Frame,
    Body { head: [u8; FRAME] },
}

/// What some bytes were.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<'a> {
    /// The header.
    Header(Header),
    /// The beginning of a frame; its body is wanted next.
    Part,
    /// A record of the sender.
    Record(Record<'a>),
    /// An answer of the receiver.
    Answer(Answer),
}

impl Decoder {
    /// For a stream.
    pub fn stream() -> Self {
        Self::new(Direction::Stream)
    }

    /// For answers.
    pub fn answers() -> Self {
        Self::new(Direction::Answers)
    }

    fn new(direction: Direction) -> Self {
        Self { direction, state: State::Header, header: [0; HEADER], next: 0, read: 0 }
    }

    /// How many bytes it wants next; never more than a frame can have.
    pub fn wants(&self) -> usize {
        match self.state {
            State::Header => HEADER,
            State::Frame => FRAME,
            State::Body { head } => length(&head) as usize + 4,
        }
    }

    /// Is this between two frames, where a stream may end?
    pub const fn is_between(&self) -> bool {
        matches!(self.state, State::Frame)
    }

    /// The header's bytes as they came, zero before: with the minor version and the optional
    /// features of a later writer, over which the seal goes as well.
    pub const fn header(&self) -> &[u8; HEADER] {
        &self.header
    }

    /// Frames taken so far.
    pub const fn frames(&self) -> u32 {
        self.next
    }

    /// Bytes taken so far.
    pub const fn read(&self) -> u64 {
        self.read
    }

    /// Takes the bytes that it wanted.
    ///
    /// # Errors
    /// After an error nothing more can be taken: what follows has no meaning.
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> Result<Taken<'a>, WireError> {
        if bytes.len() != self.wants() {
            return Err(self.cut(bytes.len()));
        }
        let taken = match self.state {
            State::Header => {
                self.header.copy_from_slice(bytes);
                let header = Header::read(self.direction, &self.header)?;
                self.state = State::Frame;
                Taken::Header(header)
            }
            State::Frame => {
                let mut head = [0; FRAME];
                head.copy_from_slice(bytes);
                if length(&head) > MAX_BODY {
                    let (number, length) = (self.next, length(&head));
                    return Err(WireError::TooLong { number, length, most: MAX_BODY });
                }
                self.state = State::Body { head };
                Taken::Part
            }
            State::Body { head } => {
                self.state = State::Frame;
                self.frame(&head, bytes)?
            }
        };
        self.read += bytes.len() as u64;
        Ok(taken)
    }

    fn frame<'a>(&mut self, head: &[u8; FRAME], bytes: &'a [u8]) -> Result<Taken<'a>, WireError> {
        let (body, sum) = bytes.split_at(bytes.len() - 4);
        let mut crc = checksum(&self.header);
        crc.update(head);
        crc.update(body);
        if sum != crc.finalize().to_le_bytes() {
            return Err(WireError::Checksum { what: format!("frame {}", self.next) });
        }
        let mut r = Reader::new(&head[4..]);
        let (tag, flags, zero) = (r.u8("type")?, r.u8("flags")?, r.u16("zero")?);
        let number = r.u32("number")?;
        if number != self.next {
            return Err(WireError::Order { wanted: self.next, found: number });
        }
        if flags != 0 || zero != 0 {
            return Err(WireError::Wrong("a frame has flags that are not defined"));
        }
        self.next =
            self.next.checked_add(1).ok_or(WireError::Wrong("there are too many frames"))?;
        Ok(match self.direction {
            Direction::Stream => Taken::Record(Record::read(tag, body)?),
            Direction::Answers => Taken::Answer(Answer::read(tag, body)?),
        })
    }

    /// The error for a stream that ended when `have` of the wanted bytes had come.
    pub fn cut(&self, have: usize) -> WireError {
        let inside = match self.state {
            State::Header => "its header",
            State::Frame => "the next frame",
            State::Body { .. } => "a frame",
        };
        WireError::Cut { after: self.read + have as u64, inside }
    }
}

fn length(head: &[u8; FRAME]) -> u32 {
    u32::from_le_bytes([head[0], head[1], head[2], head[3]])
}
