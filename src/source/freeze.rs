//! Holds a process still while its memory is read, and always lets it go again.
//!
//! Three ways, the first that is there: QEMU's own `stop`, by which it also finishes what its
//! devices were writing; the freezer of a control group in which the process is alone; SIGSTOP.
//! With the last two, what the kernel writes on behalf of the process goes on for a moment (direct
//! reads that are under way, vhost before Linux 6.4).
//!
//! [`Guard`], a process of its own, sees our end and lets go what we held, also where we were killed
//! by SIGKILL. The `ledger` says who else holds a process: it runs on when the last has let go.

mod guard;
mod hold;
mod ledger;
mod monitor;

pub use monitor::MonitorError;

use crate::sys::pidfd::PidFd;
use crate::sys::process::{Fate, Process};
use crate::sys::{self, threads};
use guard::{Order, Watch};
use hold::Hold;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// By what a process stands still.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Its guest is paused, by the QMP socket at this path; the process itself runs.
    Qmp(PathBuf),
    /// The control group with this folder is frozen.
    Cgroup(PathBuf),
    /// It is stopped, as by SIGSTOP.
    Stop,
}

impl How {
    /// In words: `QMP stop at /run/qmp`.
    pub fn name(&self) -> String {
        match self {
            Self::Qmp(socket) => format!("QMP stop at {}", socket.display()),
            Self::Cgroup(folder) => format!("the freezer of {}", folder.display()),
            Self::Stop => "SIGSTOP".to_owned(),
        }
    }

    /// How process `pid` is freed from a shell.
    pub fn by_hand(&self, pid: i32) -> String {
        match self {
            Self::Qmp(socket) => {
                let path = socket.display();
                format!("tell the QMP socket {path} 'qmp_capabilities' and then 'cont'")
            }
            Self::Cgroup(folder) => sys::cgroup::Freezer::at(folder).map_or_else(
                || format!("thaw the control group {}", folder.display()),
                |freezer| freezer.thawed_by_hand(),
            ),
            Self::Stop => format!("kill -CONT {pid}"),
        }
    }
}

/// Which way is to be taken.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Way {
    /// The first that works.
    #[default]
    Auto,
    /// QMP: at this socket, or where the command line of the QEMU says.
    Qmp {
        /// The socket.
        socket: Option<PathBuf>,
    },
    /// The freezer of a control group in which the process is alone.
    Cgroup,
    /// SIGSTOP.
    Stop,
}

/// How a process is to be held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The way. Where somebody holds the process already, his way counts.
    pub way: Way,
    /// How long the process may take until it stands still. Then it is let go.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { way: Way::Auto, patience: Duration::from_secs(10) }
    }
}

/// What became of a process that was let go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Now {
    /// It runs.
    Runs,
    /// Another pageherd command holds it, and lets it go when it is done.
    HeldByOthers,
    /// It stood still before we came, and still does.
    AsBefore,
    /// It stays still, because we or another that held it wanted that.
    Left,
    /// It has ended.
    Ended,
}

/// A process that was let go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thawed {
    /// How long we held it.
    pub held: Duration,
    /// What it does now.
    pub now: Now,
}

/// Why a process is not held, or not let go.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FreezeError {
    /// We would stop ourselves.
    #[error("process {pid} is this command itself, which cannot read while it stands still")]
    Own {
        /// Its number.
        pid: i32,
    },
    /// It waits for us, or for one that waits for us.
    #[error(
        "process {pid} ({comm}) started this command, directly or not, and would stop with it: start the command from elsewhere"
    )]
    Ancestor {
        /// Its number.
        pid: i32,
        /// Its name.
        comm: String,
    },
    /// It has ended, or runs another program than when it was opened.
    #[error("process {pid} has ended, or runs another program now")]
    Gone {
        /// Its number.
        pid: i32,
    },
    /// It is not ours.
    #[error(
        "process {pid} ({comm}) may not be stopped: it belongs to another user, and that needs the capability CAP_KILL"
    )]
    NotPermitted {
        /// Its number.
        pid: i32,
        /// Its name.
        comm: String,
    },
    /// A debugger decides whether it runs.
    #[error(
        "thread {tid} of process {pid} is traced by process {tracer}, which decides when it runs: detach it first"
    )]
    Traced {
        /// The process.
        pid: i32,
        /// Its thread.
        tid: i32,
        /// Who traces it.
        tracer: i32,
    },
    /// It does not come to rest.
    #[error(
        "process {pid} did not come to rest within {seconds} s, {what}: it runs on; try again, or give it more time"
    )]
    TooSlow {
        /// Its number.
        pid: i32,
        /// How long it was waited for.
        seconds: u64,
        /// What still ran.
        what: String,
    },
    /// Its command line names no QMP socket.
    #[error(
        "process {pid} has no QMP socket that its command line tells of: name the socket, or hold it in another way"
    )]
    NoMonitor {
        /// Its number.
        pid: i32,
    },
    /// Its QMP socket is of no use.
    #[error("the QMP socket {} of process {pid} is of no use", socket.display())]
    Monitor {
        /// Its number.
        pid: i32,
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: MonitorError,
    },
    /// The guest neither runs nor stands.
    #[error(
        "the guest of process {pid} is in state '{state}', in which its memory may change by itself: wait until that is over"
    )]
    Unsteady {
        /// Its number.
        pid: i32,
        /// QEMU's word.
        state: String,
    },
    /// No control group for it alone.
    #[error(
        "process {pid} is not alone in a control group that has a freezer, and others are not to be stopped with it: hold it by SIGSTOP"
    )]
    NotAlone {
        /// Its number.
        pid: i32,
    },
    /// The freezer does not work.
    #[error("the freezer of {} cannot be used", folder.display())]
    Cgroup {
        /// The folder of the group.
        folder: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It has run, though it was held.
    #[error(
        "process {pid} has run while it was to stand still: somebody let it go, so what was read of it is worth nothing; begin again"
    )]
    Moved {
        /// Its number.
        pid: i32,
    },
    /// Others are just beginning or ending to hold it.
    #[error(
        "another pageherd command has been busy with the process for {seconds} s ({}): end it, or wait for it", path.display()
    )]
    Busy {
        /// The file on which they meet.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The file of who holds what cannot be used.
    #[error("{}, where it stands who holds the process, cannot be used", path.display())]
    Ledger {
        /// The file, or its folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// That file is damaged.
    #[error(
        "{}, where it stands who holds the process, is damaged: see that the process runs, then remove it", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// No guard.
    #[error("the guard, which frees a held process if this command is killed, cannot be started")]
    NoGuard(#[source] io::Error),
    /// The guard has been killed, or is stopped.
    #[error(
        "the guard, which frees a held process if this command is killed, is gone: nothing more is held; start the command again"
    )]
    GuardGone(#[source] io::Error),
    /// `/proc` or the process cannot be looked at.
    #[error("the threads of process {pid} cannot be looked at")]
    Proc {
        /// Its number.
        pid: i32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It could not be let go.
    #[error("process {pid} could not be let go; to free it: {by_hand}")]
    NotThawed {
        /// Its number.
        pid: i32,
        /// What frees it.
        by_hand: String,
        /// Why.
        #[source]
        source: Box<Self>,
    },
}

/// The process that lets go what we hold, when we cannot do so any more.
///
/// It ends with this value and the last [`Frozen`] made by it.
#[derive(Debug)]
pub struct Guard {
    watch: Arc<Watch>,
}

impl Guard {
    /// Starts it. To be called before this process has a second thread: at the begin of `main`. A
    /// fork later on that does not run another program would keep it from seeing our end.
    ///
    /// # Errors
    /// [`FreezeError::NoGuard`].
    pub fn start() -> Result<Self, FreezeError> {
        Ok(Self { watch: Arc::new(Watch::start()?) })
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.watch.pid()
    }

    /// Makes a process stand still. When this returns, it does.
    ///
    /// # Errors
    /// Any but [`FreezeError::NotThawed`] and [`FreezeError::Moved`]; the process then runs, or is
    /// held by others, or was stopped before.
    pub fn freeze(&self, process: &Process, options: &Options) -> Result<Frozen, FreezeError> {
        let pid = process.pid();
        if u32::try_from(pid) == Ok(std::process::id()) || pid == self.pid() {
            return Err(FreezeError::Own { pid });
        }
        if threads::ancestors().contains(&pid) || pid == 1 {
            return Err(FreezeError::Ancestor { pid, comm: process.comm().to_owned() });
        }
        let pidfd = PidFd::open(pid).map_err(|_| FreezeError::Gone { pid })?;
        // it lives after our pidfd was taken: so the pidfd means it
        if process.fate() != Fate::Alive {
            return Err(FreezeError::Gone { pid });
        }
        let lock = ledger::path(pid, process.start_time())?;
        let id = self.watch.next();
        let order = Order::Arm { id, pid, comm: process.comm().to_owned(), lock: lock.clone() };
        self.watch.order(&order, Some(pidfd.as_fd()))?;
        let mut hold = Hold::new(pid, process.comm().to_owned(), pidfd, lock);
        let mut notes = Vec::new();
        let attach = |fd: BorrowedFd<'_>| self.watch.order(&Order::Monitor { id }, Some(fd));
        let held = hold.take(process, options, &attach, &mut notes);
        match held {
            Ok(how) => Ok(Frozen {
                hold,
                watch: Arc::clone(&self.watch),
                id,
                how,
                notes,
                since: Instant::now(),
                kept: None,
                done: false,
            }),
            Err(error) => {
                // what cannot be let go now stays with the guard, which tries once more at our end
                match hold.give_up() {
                    Ok(_) => self.watch.forget(id),
                    Err(why) => return Err(hold.not_thawed(why)),
                }
                Err(error)
            }
        }
    }
}

/// A process that stands still until this is dropped, or we end.
#[derive(Debug)]
pub struct Frozen {
    hold: Hold,
    watch: Arc<Watch>,
    id: u32,
    how: How,
    notes: Vec<String>,
    since: Instant,
    /// The name under which it is to be kept if we are killed.
    kept: Option<String>,
    done: bool,
}

impl Frozen {
    /// By what it stands still.
    pub const fn how(&self) -> &How {
        &self.how
    }

    /// What is worth knowing of how it came: which ways did not work and why, who else holds it.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How long it has been held.
    pub fn since(&self) -> Duration {
        self.since.elapsed()
    }

    /// Has it stood still all the time? For a stopped process the kernel's count of how often its
    /// threads ran tells, for a paused guest QEMU's events; of a frozen group it is the state now. To
    /// be asked when all has been read. Of a guest that another command paused nothing is known but
    /// that nobody let it go by pageherd.
    ///
    /// # Errors
    /// [`FreezeError::Moved`], [`FreezeError::Gone`], or that it cannot be known.
    pub fn check(&mut self) -> Result<(), FreezeError> {
        self.hold.check(&self.how)
    }

    /// From now on, if we are killed or this is dropped: leave it as it is (`true`), or let it go
    /// (`false`, as at the beginning). For the time in which nobody knows whether the other side has
    /// taken over. It holds for the others, too: whoever is the last lets it stand.
    ///
    /// # Errors
    /// [`FreezeError::Ledger`]: it could not be written down, so nothing has changed.
    pub fn keep_when_killed(&mut self, keep: bool) -> Result<(), FreezeError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        match (&self.kept, keep) {
            (None, true) => {
                let n = COUNT.fetch_add(1, Ordering::Relaxed);
                let pid = std::process::id();
                let start = i32::try_from(pid).ok().and_then(threads::start_time);
                let name = format!("{pid}-{}-{n}", start.unwrap_or(0));
                self.hold.keep(&name)?;
                self.kept = Some(name);
            }
            (Some(name), false) => {
                self.hold.keep_no_more(name)?;
                self.kept = None;
            }
            _ => {}
        }
        Ok(())
    }

    /// Lets it go. It runs if nobody else holds it, and if it ran before.
    ///
    /// # Errors
    /// [`FreezeError::NotThawed`]; the guard tries once more when we end.
    pub fn thaw(mut self) -> Result<Thawed, FreezeError> {
        self.done = true;
        let held = self.since();
        self.keep_when_killed(false)
            .and_then(|()| self.hold.release())
            .map(|now| {
                self.watch.forget(self.id);
                Thawed { held, now }
            })
            .map_err(|why| self.hold.not_thawed(why))
    }

    /// Leaves it as it is for good, also when others that hold it let go. [`Self::words`] says how
    /// it is freed by hand.
    ///
    /// # Errors
    /// That it could not be written down: then it is still held, by nobody but the guard, which lets
    /// it go when we end.
    pub fn leave(mut self) -> Result<(), FreezeError> {
        self.done = true;
        self.keep_when_killed(true)?;
        self.hold.release()?;
        self.watch.forget(self.id);
        Ok(())
    }

    /// How it is freed by hand, as `kill -CONT 4711`.
    pub fn words(&self) -> String {
        self.hold.by_hand(&self.how)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // with `keep_when_killed` this leaves it: an end by a panic is an end that nobody planned
        if !self.done && self.hold.release().is_ok() {
            self.watch.forget(self.id);
        }
    }
}
