//! What a receiver answers.

use super::WireError;
use super::header::Session;
use super::record::{put_text, text};
use crate::base::bytes::Reader;

/// Why a receiver refuses. Numbers of the stream; those of the exit codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The stream is damaged or wrong.
    Data = 65,
    /// It cannot write: a full disk.
    Io = 74,
    /// Its rules do not allow it: too large, a template that it does not have, a name in use.
    Policy = 77,
    /// Anything else.
    Other = 1,
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// What was declared is agreed to; pages may come.
    Welcome,
    /// Everything is here, proven and on disk, and is not visible yet. The seal is repeated.
    Sealed([u8; 16]),
    /// It is the receiver's.
    Committed(Session),
    /// It is not, and never will be.
    Refused(Refusal, String),
    /// What became of the session that was asked for: was it committed? If not, it never will be.
    State(bool),
}

mod tag {
    pub(super) const WELCOME: u8 = 1;
    pub(super) const SEALED: u8 = 2;
    pub(super) const COMMITTED: u8 = 3;
    pub(super) const REFUSED: u8 = 4;
    pub(super) const STATE: u8 = 5;
}

impl Answer {
    /// Its number.
    pub const fn tag(&self) -> u8 {
        match self {
            Self::Welcome => tag::WELCOME,
            Self::Sealed(_) => tag::SEALED,
            Self::Committed(_) => tag::COMMITTED,
            Self::Refused(..) => tag::REFUSED,
            Self::State(_) => tag::STATE,
        }
    }

    /// Its body.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Welcome => {}
            Self::Sealed(seal) => out.extend(seal),
            Self::Committed(session) => out.extend(session.0),
            Self::Refused(code, why) => {
                out.push(*code as u8);
                put_text(out, why);
            }
            Self::State(committed) => out.push(if *committed { 1 } else { 2 }),
        }
    }

    /// Reads a body.
    pub fn read(tag: u8, body: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(body);
        let answer = match tag {
            tag::WELCOME => Self::Welcome,
            tag::SEALED => Self::Sealed(r.bytes("seal")?),
            tag::COMMITTED => Self::Committed(Session(r.bytes("session")?)),
            tag::REFUSED => {
                let code = match r.u8("code")? {
                    65 => Refusal::Data,
                    74 => Refusal::Io,
                    77 => Refusal::Policy,
                    _ => Refusal::Other,
                };
                Self::Refused(code, text(&mut r)?)
            }
            tag::STATE => match r.u8("state")? {
                1 => Self::State(true),
                2 => Self::State(false),
                _ => {
                    return Err(WireError::Wrong("an answer tells of a state that is not defined"));
                }
            },
            _ => return Err(WireError::Unknown(tag)),
        };
        if r.left() == 0 {
            Ok(answer)
        } else {
            Err(WireError::Wrong("an answer goes on after its end"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_reads_back_and_is_never_longer() {
        for answer in [
            Answer::Welcome,
            Answer::Sealed([3; 16]),
            Answer::Committed(Session([4; 16])),
            Answer::Refused(Refusal::Policy, "no room".into()),
            Answer::State(true),
            Answer::State(false),
        ] {
            let mut body = Vec::new();
            answer.write(&mut body);
            assert_eq!(Answer::read(answer.tag(), &body), Ok(answer.clone()));
            body.push(0);
            assert!(Answer::read(answer.tag(), &body).is_err());
        }
        assert_eq!(Answer::read(9, &[]), Err(WireError::Unknown(9)));
    }

    #[test]
    fn a_text_cannot_steer_a_terminal() {
        let mut body = vec![1];
        put_text(&mut body, "a\x1b[2Jb\n");
        assert_eq!(Answer::read(4, &body), Ok(Answer::Refused(Refusal::Other, "a?[2Jb?".into())));
    }
}
