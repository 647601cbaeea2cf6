//! Who owns the memory: both ends as state machines, without a socket or a clock.
//!
//! ```text
//! sender    Declaring -> Agreed -> Sealed -> CommitAsked -> Committed
//!               |          |         |            |
//!               +----------+---------+            +-- answer lost --> Unknown -- resolve --> Committed
//!                          v                                                            \--> Aborted
//!                       Aborted
//! receiver  Filling -> Prepared -> Committed
//!               |          |
//!               +----------+--> Aborted
//! ```
//!
//! The memory is the sender's until the receiver has committed, which is one line in its journal.
//! It commits only when told to, and is told only once it has said that everything is there, proven
//! and on disk. A sender whose order to commit was not answered does not know what became of it
//! (no protocol can spare it that): it stays paused, says so, and asks later; who is asked and had
//! not committed never will.

/// What the sender knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Sender {
    /// It says what it has.
    Declaring,
    /// The receiver has agreed; pages go.
    Agreed,
    /// Everything is sent.
    Sealed,
    /// The receiver was told to commit.
    CommitAsked,
    /// The receiver has it.
    Committed,
    /// It failed; the memory is still the sender's.
    Aborted,
    /// The receiver may have it or not.
    Unknown,
}

/// What a sender meets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SenderEvent {
    /// The receiver agrees to what was declared.
    Welcomed,
    /// The last record of pages has gone.
    AllSent,
    /// The receiver has everything on disk; the seal that it repeats is ours.
    Prepared,
    /// The receiver has committed.
    Committed,
    /// The receiver refuses.
    Refused,
    /// The connection is gone, or this end gives up.
    Lost,
    /// The receiver, asked later, has committed: yes or no.
    Resolved(bool),
}

/// What may be done with a source that was to be moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// It is ours: it can go on.
    Ours,
    /// It must stay as it is.
    Held,
    /// It is the receiver's: it never goes on.
    Gone,
}

/// Something came that cannot come here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the other end said {event} while this end was {state}: it does not keep to the protocol")]
pub struct OutOfTurn {
    state: &'static str,
    event: &'static str,
}

impl Sender {
    /// The state after `event`.
    pub const fn on(self, event: SenderEvent) -> Result<Self, OutOfTurn> {
        use SenderEvent as E;
        Ok(match (self, event) {
            (Self::Declaring, E::Welcomed) => Self::Agreed,
            (Self::Agreed, E::AllSent) => Self::Sealed,
            (Self::Sealed, E::Prepared) => Self::CommitAsked,
            (Self::CommitAsked, E::Committed) | (Self::Unknown, E::Resolved(true)) => {
                Self::Committed
            }
            // refused after it was told to commit: its journal says that it never will
            (Self::Declaring | Self::Agreed | Self::Sealed | Self::CommitAsked, E::Refused)
            | (Self::Declaring | Self::Agreed | Self::Sealed, E::Lost)
            | (Self::Unknown, E::Resolved(false)) => Self::Aborted,
            (Self::CommitAsked | Self::Unknown, E::Lost) => Self::Unknown,
            _ => return Err(OutOfTurn { state: self.name(), event: event.name() }),
        })
    }

    /// What may be done with the source now.
    pub const fn source(self) -> Source {
        match self {
            Self::Aborted => Source::Ours,
            Self::Committed => Source::Gone,
            Self::Declaring | Self::Agreed | Self::Sealed | Self::CommitAsked | Self::Unknown => {
                Source::Held
            }
        }
    }

    /// If this process is killed now, may whoever comes next let the source go on?
    pub const fn may_thaw_when_killed(self) -> bool {
        matches!(self, Self::Declaring | Self::Agreed | Self::Sealed | Self::Aborted)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Declaring => "declaring",
            Self::Agreed => "sending",
            Self::Sealed => "waiting for the receiver",
            Self::CommitAsked => "waiting for the commit",
            Self::Committed => "done",
            Self::Aborted => "giving up",
            Self::Unknown => "unsure",
        }
    }
}

impl SenderEvent {
    const fn name(self) -> &'static str {
        match self {
            Self::Welcomed => "welcome",
            Self::AllSent => "all sent",
            Self::Prepared => "sealed",
            Self::Committed => "committed",
            Self::Refused => "refused",
            Self::Lost => "nothing more",
            Self::Resolved(_) => "what became of it",
        }
    }
}

/// What the receiver has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Receiver {
    /// Pages come.
    Filling,
    /// Everything is there, proven and on disk, and not visible.
    Prepared,
    /// It is the receiver's.
    Committed,
    /// It never will be.
    Aborted,
}

/// What a receiver meets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReceiverEvent {
    /// The seal fits, and all of it is on disk.
    Prepared,
    /// It is told to commit, and the journal has taken it.
    Commit,
    /// The connection is gone, the sender gives up, the journal forbids it, or this end failed.
    Lost,
}

impl Receiver {
    /// The state after `event`.
    pub const fn on(self, event: ReceiverEvent) -> Result<Self, OutOfTurn> {
        use ReceiverEvent as E;
        Ok(match (self, event) {
            (Self::Filling, E::Prepared) => Self::Prepared,
            (Self::Prepared, E::Commit) => Self::Committed,
            (Self::Filling | Self::Prepared | Self::Aborted, E::Lost) => Self::Aborted,
            // what is committed stays so, whatever becomes of the connection
            (Self::Committed, E::Lost) => Self::Committed,
            (_, E::Prepared) => return Err(self.out_of_turn("the seal")),
            (_, E::Commit) => return Err(self.out_of_turn("commit")),
        })
    }

    const fn out_of_turn(self, event: &'static str) -> OutOfTurn {
        let state = match self {
            Self::Filling => "taking pages",
            Self::Prepared => "waiting for the commit",
            Self::Committed => "done",
            Self::Aborted => "giving up",
        };
        OutOfTurn { state, event }
    }
}

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod tests;
