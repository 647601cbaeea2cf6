//! What the guard is told, and what it does when it hears no more.

use super::hold::Hold;
use super::monitor::Monitor;
use super::{FreezeError, Now};
use crate::sys::guard::{self, Link};
use crate::sys::pidfd::PidFd;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long the guard may take to answer: it does nothing but wait for orders.
const ANSWER: Duration = Duration::from_secs(2);

/// How long the guard waits until whoever it guards has closed its files, once it hears no more.
const LAST_BREATH: Duration = Duration::from_millis(500);

/// How long it asks for its turn. Others that hold the process let it go in its place, so that it
/// need not wait for them: only for one that is dying just now, and for copies of descriptors in a
/// program that was just being started.
const TURN: Duration = Duration::from_millis(300);

/// An order to the guard.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Whom it guards; with the process's descriptor.
    Sender,
    /// A process is going to be held; with its descriptor.
    Arm {
        /// The name of this hold.
        id: u32,
        /// The process.
        pid: i32,
        /// Its name.
        comm: String,
        /// Where it is written who holds it.
        lock: PathBuf,
    },
    /// Its guest will be paused over this connection; with its descriptor.
    Monitor {
        /// The hold.
        id: u32,
    },
    /// It was let go.
    Forget {
        /// The hold.
        id: u32,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Numbered {
    number: u32,
    order: Order,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    number: u32,
    pid: u32,
}

/// Our end of the way to the guard.
#[derive(Debug)]
pub(super) struct Watch {
    seat: Mutex<Seat>,
    pid: i32,
}

#[derive(Debug)]
struct Seat {
    link: Link,
    number: u32,
    holds: u32,
}

impl Watch {
    /// Starts the guard.
    pub(super) fn start() -> Result<Self, FreezeError> {
        let own = i32::try_from(std::process::id()).map_err(|e| io::Error::other(e.to_string()));
        let own = own.and_then(PidFd::open).map_err(FreezeError::NoGuard)?;
        let link = guard::start("pageherd-guard", stand).map_err(FreezeError::NoGuard)?;
        let seat = Mutex::new(Seat { link, number: 0, holds: 0 });
        let mut watch = Self { seat, pid: 0 };
        watch.pid = watch.ask(&Order::Sender, Some(own.as_fd())).map_err(FreezeError::NoGuard)?;
        Ok(watch)
    }

    /// The guard's number.
    pub(super) const fn pid(&self) -> i32 {
        self.pid
    }

    /// A name for a hold.
    pub(super) fn next(&self) -> u32 {
        let mut seat = self.seat();
        seat.holds += 1;
        seat.holds
    }

    /// Gives an order and waits until the guard has it.
    pub(super) fn order(
        &self,
        order: &Order,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), FreezeError> {
        self.ask(order, fd).map(drop).map_err(FreezeError::GuardGone)
    }

    /// Tells it that a process was let go. Where it is gone, there is nothing to tell.
    pub(super) fn forget(&self, id: u32) {
        let _ = Self::send(&mut self.seat(), &Order::Forget { id }, None);
    }

    fn ask(&self, order: &Order, fd: Option<BorrowedFd<'_>>) -> io::Result<i32> {
        let mut seat = self.seat();
        let number = Self::send(&mut seat, order, fd)?;
        loop {
            let message = seat.link.receive(Some(ANSWER))?;
            let message = message.ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
            let answer: Answer = serde_json::from_slice(&message.bytes)?;
            // an answer that came too late for its order may still be there
            if answer.number == number {
                return i32::try_from(answer.pid).map_err(io::Error::other);
            }
        }
    }

    fn send(seat: &mut Seat, order: &Order, fd: Option<BorrowedFd<'_>>) -> io::Result<u32> {
        #[derive(Serialize)]
        struct Out<'a> {
            number: u32,
            order: &'a Order,
        }
        seat.number = seat.number.wrapping_add(1);
        let out = Out { number: seat.number, order };
        seat.link.send(&serde_json::to_vec(&out)?, fd)?;
        Ok(seat.number)
    }

    fn seat(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The life of the guard.
fn stand(link: &Link) {
    let mut sender: Option<PidFd> = None;
    let mut holds: BTreeMap<u32, Hold> = BTreeMap::new();
    // an error is an end, too: nobody could tell us more
    while let Ok(Some(message)) = link.receive(None) {
        let Ok(Numbered { number, order }) = serde_json::from_slice(&message.bytes) else {
            continue;
        };
        match (order, message.fd) {
            (Order::Sender, Some(fd)) => sender = Some(PidFd::from(fd)),
            (Order::Arm { id, pid, comm, lock }, Some(fd)) => {
                holds.insert(id, Hold::new(pid, comm, PidFd::from(fd), lock));
            }
            (Order::Monitor { id }, Some(fd)) => {
                if let Some(hold) = holds.get_mut(&id) {
                    hold.use_monitor(Monitor::over(fd, "pageherd-guard"));
                }
            }
            (Order::Forget { id }, _) => {
                holds.remove(&id);
                continue; // nobody waits for an answer
            }
            _ => continue,
        }
        let answer = Answer { number, pid: std::process::id() };
        let _ = serde_json::to_vec(&answer).map(|bytes| link.send(&bytes, None));
    }
    if holds.is_empty() {
        return;
    }
    // its files are closed one after the other: the link may go before the locks
    if let Some(sender) = sender {
        sender.wait_end(LAST_BREATH);
    }
    let end = Instant::now() + TURN;
    loop {
        holds.retain(|_, hold| matches!(hold.release(), Ok(Now::HeldByOthers)));
        if holds.is_empty() || Instant::now() > end {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
