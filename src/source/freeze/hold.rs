//! One process that is held: the ways in which it comes to rest, and how each is undone. The same
//! code undoes in the command and in its guard.

use super::ledger::{Found, Ledger, Line, Told, Turn};
use super::monitor::{Monitor, MonitorError};
use super::{FreezeError, How, Now, Options, Way};
use crate::qemu::qmp;
use crate::source::vmm::{self, Vmm};
use crate::sys::cgroup::Freezer;
use crate::sys::pidfd::PidFd;
use crate::sys::process::Process;
use crate::sys::threads::{self, Thread};
use nix::sys::signal::Signal;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a QEMU may take to let its guest run: it may have to open disks again.
const CONT: Duration = Duration::from_secs(10);

/// Gives the guard a copy of a connection.
pub(super) type Attach<'a> = dyn Fn(BorrowedFd<'_>) -> Result<(), FreezeError> + 'a;

/// A process that is held, or about to be.
#[derive(Debug)]
pub(super) struct Hold {
    pid: i32,
    comm: String,
    pidfd: PidFd,
    lock: PathBuf,
    /// `None` in the guard, and after others were left to hold it.
    ledger: Option<Ledger>,
    monitor: Option<Monitor>,
    /// The threads of a stopped process when it had come to rest.
    rest: Option<Vec<Thread>>,
}

/// A way was tried.
enum Tried {
    /// It stands still by it.
    Still(How),
    /// It cannot be taken; nothing has changed.
    No(FreezeError),
}

impl Hold {
    pub(super) const fn new(pid: i32, comm: String, pidfd: PidFd, lock: PathBuf) -> Self {
        Self { pid, comm, pidfd, lock, ledger: None, monitor: None, rest: None }
    }

    /// A connection that another process of ours opened.
    pub(super) fn use_monitor(&mut self, monitor: Monitor) {
        self.monitor = Some(monitor);
    }

    /// Has it come to rest, or finds that it has, and takes part in holding it.
    pub(super) fn take(
        &mut self,
        process: &Process,
        options: &Options,
        attach: &Attach<'_>,
        notes: &mut Vec<String>,
    ) -> Result<How, FreezeError> {
        loop {
            // whoever is at it has as much patience as we have, and some time for QMP
            let most = options.patience + Duration::from_secs(10);
            let (ledger, found) = Ledger::take(&self.lock, most)?;
            let told = ledger.read()?;
            self.ledger = Some(ledger);
            let still = told.still.clone();
            let how = match (found, still) {
                (Found::Joined, Some(how)) => {
                    let name = how.name();
                    notes.push(format!("another pageherd command holds it already, by {name}"));
                    self.ensure(&how, options.patience)?;
                    how
                }
                _ => match self.inherited(&told, attach, notes)? {
                    Some(how) => {
                        self.ensure(&how, options.patience)?;
                        how
                    }
                    None => self.choose(process, options, attach, notes)?,
                },
            };
            if found == Found::Joined {
                return Ok(how);
            }
            self.add(&Line::Still(how.clone()))?;
            if self.ledger()?.share()? {
                return Ok(how);
            }
        }
    }

    fn ledger(&self) -> Result<&Ledger, FreezeError> {
        self.ledger.as_ref().ok_or(FreezeError::Gone { pid: self.pid })
    }

    fn add(&self, line: &Line) -> Result<(), FreezeError> {
        self.ledger()?.add(line)
    }

    /// What commands that were killed together with their guards have left: it is taken over where
    /// the process still stands by it, and forgotten where it does not.
    fn inherited(
        &mut self,
        told: &Told,
        attach: &Attach<'_>,
        notes: &mut Vec<String>,
    ) -> Result<Option<How>, FreezeError> {
        let mut ways = told.undo.clone();
        ways.extend(told.still.iter().filter(|how| !told.undo.contains(how)).cloned());
        let mut unknown = false;
        for how in ways {
            match self.is_in_force(&how) {
                Some(true) => {
                    notes.push("a pageherd command that was killed left it standing".to_owned());
                    if !told.keep.is_empty() {
                        notes.push(
                            "that command did not know whether it may run, so it will stay so"
                                .to_owned(),
                        );
                    }
                    if let Some(monitor) = &self.monitor {
                        attach(monitor.as_fd())?;
                    }
                    return Ok(Some(how));
                }
                Some(false) => {}
                None => unknown = true,
            }
        }
        if !unknown && !told.is_empty() {
            self.ledger()?.clear()?;
        }
        Ok(None)
    }

    /// Does the process stand by this? `None` where that cannot be known.
    fn is_in_force(&mut self, how: &How) -> Option<bool> {
        match how {
            How::Stop => Some(threads::of(self.pid).ok()?.iter().all(Thread::stands)),
            How::Cgroup(folder) => {
                let groups = Freezer::of(self.pid).ok()?;
                let its = groups.iter().find(|freezer| freezer.folder() == folder);
                Some(its.is_some_and(|freezer| freezer.is_asked().unwrap_or(false)))
            }
            How::Qmp(socket) => {
                let mut monitor = Monitor::open(socket, self.pid).ok()?;
                let stands = monitor.status().ok()?.stands();
                self.monitor = stands.then_some(monitor);
                Some(stands)
            }
        }
    }

    /// Sees that it stands by what others hold it by.
    fn ensure(&mut self, how: &How, patience: Duration) -> Result<(), FreezeError> {
        match how {
            How::Stop => self.by_stop(patience).map(drop),
            How::Cgroup(folder) => match Freezer::at(folder) {
                Some(freezer) => match self.by_freezer(&freezer, patience)? {
                    Tried::Still(_) => Ok(()),
                    Tried::No(why) => Err(why),
                },
                None => Err(FreezeError::Moved { pid: self.pid }),
            },
            // its only connection is theirs
            How::Qmp(_) => Ok(()),
        }
    }

    fn choose(
        &mut self,
        process: &Process,
        options: &Options,
        attach: &Attach<'_>,
        notes: &mut Vec<String>,
    ) -> Result<How, FreezeError> {
        let pid = self.pid;
        let mut no = None;
        match &options.way {
            Way::Stop => return self.by_stop(options.patience),
            Way::Qmp { socket: Some(socket) } => {
                return match self.by_qmp(socket, options.patience, attach)? {
                    Tried::Still(how) => Ok(how),
                    Tried::No(why) => Err(why),
                };
            }
            // it neither answers nor needs it
            Way::Auto if self.is_in_force(&How::Stop) == Some(true) => {
                return self.by_stop(options.patience);
            }
            Way::Auto | Way::Qmp { .. } | Way::Cgroup => {}
        }
        if options.way != Way::Cgroup {
            for socket in its_sockets(process) {
                match self.by_qmp(&socket, options.patience, attach)? {
                    Tried::Still(how) => return Ok(how),
                    Tried::No(why) => {
                        notes.push(in_one_line(&why));
                        no = Some(why);
                    }
                }
            }
            if options.way != Way::Auto {
                return Err(no.unwrap_or(FreezeError::NoMonitor { pid }));
            }
        }
        for freezer in Freezer::of(pid).unwrap_or_default() {
            if !freezer.holds_only(pid).unwrap_or(false) {
                continue;
            }
            match self.by_freezer(&freezer, options.patience)? {
                Tried::Still(how) => return Ok(how),
                Tried::No(why) => {
                    notes.push(in_one_line(&why));
                    no = Some(why);
                }
            }
        }
        if options.way == Way::Cgroup {
            return Err(no.unwrap_or(FreezeError::NotAlone { pid }));
        }
        self.by_stop(options.patience)
    }

    fn by_qmp(
        &mut self,
        socket: &Path,
        patience: Duration,
        attach: &Attach<'_>,
    ) -> Result<Tried, FreezeError> {
        let pid = self.pid;
        let failed = |source| FreezeError::Monitor { pid, socket: socket.to_owned(), source };
        let asked = Monitor::open(socket, pid).and_then(|mut m| m.status().map(|s| (m, s)));
        let (mut monitor, status) = match asked {
            Ok(both) => both,
            Err(why) => return Ok(Tried::No(failed(why))),
        };
        let how = How::Qmp(socket.to_owned());
        if !status.running && !status.stands() {
            return Ok(Tried::No(FreezeError::Unsteady { pid, state: status.state }));
        }
        if status.running {
            attach(monitor.as_fd())?;
            self.add(&Line::Undo(how.clone()))?;
            let done = monitor.ask("stop", patience).and_then(|_| monitor.status());
            monitor.stopped();
            self.monitor = Some(monitor);
            let status = done.map_err(failed)?;
            if !status.stands() {
                return Err(FreezeError::Unsteady { pid, state: status.state });
            }
        } else {
            monitor.stopped();
            self.monitor = Some(monitor);
        }
        Ok(Tried::Still(how))
    }

    fn by_freezer(&mut self, freezer: &Freezer, patience: Duration) -> Result<Tried, FreezeError> {
        let pid = self.pid;
        let failed = |source| FreezeError::Cgroup { folder: freezer.folder().to_owned(), source };
        let how = How::Cgroup(freezer.folder().to_owned());
        match freezer.is_asked() {
            Err(why) => return Ok(Tried::No(failed(why))),
            Ok(true) => {}
            Ok(false) => {
                self.add(&Line::Undo(how.clone()))?;
                if let Err(why) = freezer.freeze() {
                    self.add(&Line::Undone(how))?;
                    return Ok(Tried::No(failed(why)));
                }
            }
        }
        let end = Instant::now() + patience;
        let mut pause = Pause::default();
        while !freezer.is_frozen().map_err(failed)? {
            if self.pidfd.has_ended() {
                return Err(FreezeError::Gone { pid });
            }
            if Instant::now() > end {
                let what = "the group is still freezing".to_owned();
                return Err(FreezeError::TooSlow { pid, seconds: patience.as_secs(), what });
            }
            pause.rest();
        }
        // between the look and the freeze another may have come in; one that leaves it again frozen
        // is in no danger, as the group is thawed at once
        if freezer.holds_only(pid).map_err(failed)? {
            return Ok(Tried::Still(how));
        }
        if self.pidfd.has_ended() {
            return Err(FreezeError::Gone { pid });
        }
        if self.ledger()?.read()?.undo.contains(&how) {
            freezer.thaw().map_err(failed)?;
            self.add(&Line::Undone(how))?;
        }
        Ok(Tried::No(FreezeError::NotAlone { pid }))
    }

    fn by_stop(&mut self, patience: Duration) -> Result<How, FreezeError> {
        let pid = self.pid;
        let end = Instant::now() + patience;
        let mut pause = Pause::default();
        // did it stand before? A stop that is just under way is waited for
        loop {
            let now = self.threads()?;
            if let Some(t) = now.iter().find(|t| t.tracer != 0) {
                return Err(FreezeError::Traced { pid, tid: t.tid, tracer: t.tracer });
            }
            if now.iter().all(Thread::stands) {
                break;
            }
            if !now.iter().any(|t| t.state == 'T' || t.stop_pending) {
                self.add(&Line::Undo(How::Stop))?;
                self.stop()?;
                break;
            }
            if Instant::now() > end {
                return Err(self.too_slow(&now, patience));
            }
            pause.rest();
        }
        // twice the same: a thread that was made while the first list was read is in the second
        let mut before = Vec::new();
        loop {
            let now = self.threads()?;
            let all_stand = now.iter().all(Thread::stands);
            if all_stand && now == before {
                self.rest = Some(now);
                return Ok(How::Stop);
            }
            if Instant::now() > end {
                return Err(self.too_slow(&now, patience));
            }
            if !all_stand {
                pause.rest();
            }
            before = now;
        }
    }

    fn stop(&self) -> Result<(), FreezeError> {
        let pid = self.pid;
        self.pidfd.signal(Signal::SIGSTOP).or_else(|source| {
            self.add(&Line::Undone(How::Stop))?;
            Err(match source.raw_os_error() {
                Some(libc::EPERM) => FreezeError::NotPermitted { pid, comm: self.comm.clone() },
                Some(libc::ESRCH) => FreezeError::Gone { pid },
                _ => FreezeError::Proc { pid, source },
            })
        })
    }

    /// Its threads, if it lives.
    fn threads(&self) -> Result<Vec<Thread>, FreezeError> {
        let pid = self.pid;
        let all = threads::of(pid).map_err(|source| match source.raw_os_error() {
            None | Some(libc::ENOENT | libc::ESRCH) => FreezeError::Gone { pid },
            _ => FreezeError::Proc { pid, source },
        })?;
        if self.pidfd.has_ended() || all.iter().all(|t| matches!(t.state, 'Z' | 'X')) {
            return Err(FreezeError::Gone { pid });
        }
        Ok(all)
    }

    fn too_slow(&self, threads: &[Thread], patience: Duration) -> FreezeError {
        let what = threads.iter().find(|t| !t.stands()).map_or_else(
            || "threads come and go".to_owned(),
            |t| format!("its thread {} is in state {}", t.tid, t.state),
        );
        FreezeError::TooSlow { pid: self.pid, seconds: patience.as_secs(), what }
    }

    /// Has it stood still since it came to rest?
    pub(super) fn check(&mut self, how: &How) -> Result<(), FreezeError> {
        let pid = self.pid;
        if self.pidfd.has_ended() {
            return Err(FreezeError::Gone { pid });
        }
        let still = match how {
            How::Stop => Some(self.threads()?) == self.rest,
            How::Cgroup(folder) => match Freezer::at(folder) {
                Some(freezer) => {
                    let failed = |source| FreezeError::Cgroup { folder: folder.clone(), source };
                    freezer.is_frozen().map_err(failed)? && freezer.holds_only(pid).unwrap_or(false)
                }
                None => false,
            },
            How::Qmp(socket) => match &mut self.monitor {
                Some(monitor) => !monitor.has_run().map_err(|source| FreezeError::Monitor {
                    pid,
                    socket: socket.clone(),
                    source,
                })?,
                None => true,
            },
        };
        if still { Ok(()) } else { Err(FreezeError::Moved { pid }) }
    }

    pub(super) fn keep(&self, name: &str) -> Result<(), FreezeError> {
        self.add(&Line::Keep(name.to_owned()))
    }

    pub(super) fn keep_no_more(&self, name: &str) -> Result<(), FreezeError> {
        self.add(&Line::Release(name.to_owned()))
    }

    /// Lets go: the last who does undoes what was done. May be called again where it failed.
    pub(super) fn release(&mut self) -> Result<Now, FreezeError> {
        let turn = if let Some(ledger) = &self.ledger {
            ledger.turn()?
        } else {
            let (ledger, turn) = Ledger::take_over(&self.lock)?;
            self.ledger = ledger;
            turn
        };
        match turn {
            Turn::Last => {}
            Turn::Others => {
                (self.ledger, self.monitor) = (None, None);
                return Ok(Now::HeldByOthers);
            }
            Turn::Over => return Ok(Now::AsBefore),
        }
        let told = self.ledger()?.read()?;
        let now = if self.pidfd.has_ended() {
            Now::Ended
        } else if !told.keep.is_empty() {
            Now::Left
        } else if told.undo.is_empty() {
            Now::AsBefore
        } else {
            Now::Runs
        };
        if matches!(now, Now::Runs | Now::Ended) {
            // a group that was frozen with a process that has ended is thawed, too
            for how in told.undo.iter().rev() {
                self.undo(how)?;
            }
        }
        self.ledger()?.remove()?;
        self.ledger = None;
        Ok(now)
    }

    /// Lets go after [`Self::take`] failed: nothing was done where it failed before it had the file.
    pub(super) fn give_up(&mut self) -> Result<(), FreezeError> {
        if self.ledger.is_some() { self.release().map(drop) } else { Ok(()) }
    }

    fn undo(&mut self, how: &How) -> Result<(), FreezeError> {
        let pid = self.pid;
        match how {
            How::Stop => match self.pidfd.signal(Signal::SIGCONT) {
                Ok(()) => Ok(()),
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                    Err(FreezeError::NotPermitted { pid, comm: self.comm.clone() })
                }
                Err(source) => Err(FreezeError::Proc { pid, source }),
            },
            How::Cgroup(folder) => match Freezer::at(folder).map(|freezer| freezer.thaw()) {
                None | Some(Ok(())) => Ok(()),
                // the group is gone, and who was in it has been moved out of it or has ended
                Some(Err(e)) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
                    Ok(())
                }
                Some(Err(source)) => Err(FreezeError::Cgroup { folder: folder.clone(), source }),
            },
            How::Qmp(socket) => {
                let given = self.monitor.take();
                let mut done = match given {
                    Some(mut monitor) => cont(&mut monitor),
                    None => Err(MonitorError::Closed),
                };
                if matches!(done, Err(MonitorError::Closed | MonitorError::Io(_)))
                    && !self.pidfd.has_ended()
                {
                    done = Monitor::open(socket, pid).and_then(|mut monitor| cont(&mut monitor));
                }
                match done {
                    Err(source) if !self.pidfd.has_ended() => {
                        Err(FreezeError::Monitor { pid, socket: socket.clone(), source })
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    /// How it is freed by hand: all that has to be undone.
    pub(super) fn by_hand(&self, how: &How) -> String {
        let told = self.ledger.as_ref().and_then(|ledger| ledger.read().ok()).unwrap_or_default();
        let undo = if told.undo.is_empty() { vec![how.clone()] } else { told.undo };
        let words: Vec<String> = undo.iter().rev().map(|how| how.by_hand(self.pid)).collect();
        words.join("; ")
    }

    /// It could not be let go.
    pub(super) fn not_thawed(&self, why: FreezeError) -> FreezeError {
        let by_hand = self.by_hand(&How::Stop);
        FreezeError::NotThawed { pid: self.pid, by_hand, source: Box::new(why) }
    }
}

/// Lets a guest run on that was paused, and no other: one that has been migrated away meanwhile, or
/// has a failed disk, is not to run because of us.
fn cont(monitor: &mut Monitor) -> Result<(), MonitorError> {
    if monitor.status()?.state != "paused" {
        return Ok(());
    }
    monitor.ask("cont", CONT)?;
    match monitor.status()? {
        status if status.state == "paused" => Err(MonitorError::Nonsense("cont")),
        _ => Ok(()),
    }
}

/// The QMP sockets that a QEMU's command line tells of, as we reach them.
fn its_sockets(process: &Process) -> Vec<PathBuf> {
    if vmm::identify(&process.program(), process.comm()) != Some(Vmm::Qemu) {
        return Vec::new();
    }
    let pid = process.pid();
    let same_mounts = fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()
        == fs::read_link("/proc/self/ns/mnt").ok();
    let reach = |path: PathBuf| {
        let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        let path = folder.join(path); // an absolute path takes the place of the folder
        let below = path.strip_prefix("/").unwrap_or(&path);
        if same_mounts { path } else { Path::new(&format!("/proc/{pid}/root")).join(below) }
    };
    qmp::sockets(&process.cmdline()).into_iter().map(reach).collect()
}

/// An error with its causes.
fn in_one_line(error: &FreezeError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

/// Waits between looks: shortly at first, since most come to rest within a millisecond.
#[derive(Debug)]
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(Duration::from_micros(50))
    }
}

impl Pause {
    fn rest(&mut self) {
        std::thread::sleep(self.0);
        self.0 = (self.0 * 2).min(Duration::from_millis(5));
    }
}
