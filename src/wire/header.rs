//! The first 64 bytes of a stream and of its answers: readable without anything else.

use super::WireError;
use crate::base::bytes::Reader;
use crate::base::digest::Hashing;

/// Length of a header, in bytes.
pub const HEADER: usize = 64;

/// First eight bytes of a stream: a byte above 127, letters, and line ends of both kinds, so that
/// damage by a text-mode transfer shows at once.
const STREAM: [u8; 8] = [0x89, b'P', b'H', b'S', b'\r', b'\n', 0x1a, b'\n'];
/// First eight bytes of the answers to one.
const ANSWERS: [u8; 8] = [0x89, b'P', b'H', b'A', b'\r', b'\n', 0x1a, b'\n'];

/// Version that is written; readers refuse another major number.
pub const VERSION: (u16, u16) = (1, 0);
/// Base-2 logarithm of the page size.
const PAGE_SHIFT: u8 = 12;

/// Features that a reader must know.
pub mod feature {
    /// The sender waits for answers and commits.
    pub const ANSWERS: u64 = 1;
    /// Pages can come again in a later round.
    pub const ROUNDS: u64 = 1 << 1;
    /// References to VMs that arrive in other streams.
    pub const FOREIGN: u64 = 1 << 2;
    /// Templates.
    pub const TEMPLATES: u64 = 1 << 3;
    /// Pages packed by an external filter.
    pub const EXEC: u64 = 1 << 4;
    /// It carries a VMM's own migration stream: pages come as the VMM sends them, and what is not
    /// pages between them.
    pub const VMM: u64 = 1 << 5;
    /// All of these.
    pub const ALL: u64 = ANSWERS | ROUNDS | FOREIGN | TEMPLATES | EXEC | VMM;
    /// Names, by bit, for people.
    pub const NAMES: [&str; 6] = ["answers", "rounds", "foreign", "templates", "exec", "vmm"];
}

/// Which direction it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the sender.
    Stream,
    /// From the receiver.
    Answers,
}

/// The number of one attempt to move something: 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Session(pub [u8; 16]);

impl std::fmt::Display for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for Session {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is no session: it is 32 hexadecimal digits");
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| bad())?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// What stands in a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Stream or answers.
    pub direction: Direction,
    /// Features that a reader must know.
    pub required: u64,
    /// How pages are hashed: 1 without, 2 with a key.
    pub hashing: u8,
    /// The session.
    pub session: Session,
    /// Shows that both ends have the same key; zero without one.
    pub key_check: [u8; 8],
}

impl Header {
    /// A header for `hashing`.
    pub fn new(direction: Direction, required: u64, session: Session, hashing: &Hashing) -> Self {
        let key_check = key_check(hashing, session);
        Self { direction, required, hashing: hashing.number(), session, key_check }
    }

    /// Its bytes.
    pub fn write(&self) -> [u8; HEADER] {
        let mut out = Vec::with_capacity(HEADER);
        out.extend(match self.direction {
            Direction::Stream => STREAM,
            Direction::Answers => ANSWERS,
        });
        out.extend(VERSION.0.to_le_bytes());
        out.extend(VERSION.1.to_le_bytes());
        out.extend(self.required.to_le_bytes());
        out.extend(0u64.to_le_bytes()); // features that a reader may pass over
        out.extend([PAGE_SHIFT, self.hashing, 0, 0]);
        out.extend(self.session.0);
        out.extend(self.key_check);
        out.extend([0; 4]);
        out.extend(crc32fast::hash(&out).to_le_bytes());
        let mut bytes = [0; HEADER];
        bytes.copy_from_slice(&out);
        bytes
    }

    /// Reads a header of this direction.
    pub fn read(direction: Direction, bytes: &[u8; HEADER]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let mark = match direction {
            Direction::Stream => STREAM,
            Direction::Answers => ANSWERS,
        };
        if r.bytes("mark")? != mark {
            return Err(WireError::Foreign);
        }
        let major = r.u16("version")?;
        if major != VERSION.0 {
            return Err(WireError::Version(major));
        }
        r.u16("minor version")?;
        let required = r.u64("required features")?;
        r.u64("optional features")?;
        let (shift, hashing, zero) = (r.u8("page size")?, r.u8("hash")?, r.u16("zero")?);
        let session = Session(r.bytes("session")?);
        let key_check = r.bytes("check of the key")?;
        let zeros = r.u32("zero")?;
        if r.u32("checksum")? != crc32fast::hash(&bytes[..HEADER - 4]) {
            return Err(WireError::Checksum { what: "the header".into() });
        }
        if required & !feature::ALL != 0 {
            return Err(WireError::Feature(required & !feature::ALL));
        }
        if shift != PAGE_SHIFT {
            return Err(WireError::Wrong("its pages are not of 4 KiB"));
        }
        if zero != 0
            || zeros != 0
            || !matches!(hashing, 1 | 2)
            || (hashing == 1 && key_check != [0; 8])
        {
            return Err(WireError::Wrong("its header holds what is not defined"));
        }
        Ok(Self { direction, required, hashing, session, key_check })
    }

    /// Was it made with the same key, or lack of one?
    pub fn check_key(&self, ours: &Hashing) -> Result<(), WireError> {
        match (self.hashing, ours.number()) {
            (2, 1) => {
                Err(WireError::Keying("the stream was made with a key: give the same --key here"))
            }
            (1, 2) => Err(WireError::Keying(
                "the stream was made without a key, and one is asked for here: give mig-send the same --key",
            )),
            _ if self.key_check != key_check(ours, self.session) => Err(WireError::OtherKey),
            _ => Ok(()),
        }
    }
}

fn key_check(hashing: &Hashing, session: Session) -> [u8; 8] {
    let mut check = [0; 8];
    if let Hashing::Keyed(_) = hashing {
        let sealed = hashing.seal(&[b"check".as_slice(), &session.0].concat());
        check.copy_from_slice(&sealed[..8]);
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_every_flipped_bit_is_refused() {
        let keyed = Hashing::keyed(b"k");
        for hashing in [Hashing::Plain, keyed] {
            let header =
                Header::new(Direction::Stream, feature::ROUNDS, Session([7; 16]), &hashing);
            let bytes = header.write();
            assert_eq!(Header::read(Direction::Stream, &bytes), Ok(header));
            assert_eq!(Header::read(Direction::Answers, &bytes), Err(WireError::Foreign));
            header.check_key(&hashing).unwrap();
            for bit in 0..HEADER * 8 {
                let mut bad = bytes;
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(Header::read(Direction::Stream, &bad).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn another_key_is_told_at_once() {
        let (a, b) = (Hashing::keyed(b"a"), Hashing::keyed(b"b"));
        let header = |h: &Hashing| Header::new(Direction::Stream, 0, Session([1; 16]), h);
        assert_eq!(header(&a).check_key(&b), Err(WireError::OtherKey));
        assert!(matches!(header(&a).check_key(&Hashing::Plain), Err(WireError::Keying(_))));
        assert!(matches!(header(&Hashing::Plain).check_key(&a), Err(WireError::Keying(_))));
    }

    #[test]
    fn a_session_is_written_and_read() {
        let session = Session([0xab; 16]);
        assert_eq!(session.to_string().parse(), Ok(session));
        assert!("xyz".parse::<Session>().is_err());
        assert!("+0000000000000000000000000000000".parse::<Session>().is_err());
    }
}
