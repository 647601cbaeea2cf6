//! What moves are broken with: a link that does something at one byte, commands whose processes can
//! be found, guests that start in a moment, and who owns a guest at the end.

use crate::support::qemu::{Build, Guest, exec};
use crate::support::{shm, tool, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nothing of a move takes as long, on a busy machine either.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// All of the points are tried, where a part is otherwise.
pub(crate) fn all_of_them() -> bool {
    std::env::var_os("PAGEHERD_ALL").is_some_and(|value| value == "1")
}

/// A place on the way between both ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// After so many bytes to the receiver.
    Forward(u64),
    /// After so many bytes of its answers.
    Back(u64),
    /// After so many bytes to the receiver behind those before which it has answered so much: the
    /// word to commit.
    Commit(u64),
}

/// What happens at a place.
pub(crate) enum Act {
    /// This is done; then all goes on.
    Do(Box<dyn FnOnce() + Send>),
    /// The link ends, in both directions.
    Cut,
    /// The next byte has this bit wrong.
    Flip(u8),
}

/// A piece that passed: to the receiver or back, and its bytes.
pub(crate) type Piece = (bool, u64);

struct Shared {
    place: Option<Place>,
    act: Mutex<Option<Act>>,
    answers: AtomicU64,
    /// So many bytes of answers come before the word to commit.
    sealed: u64,
    pieces: Mutex<Vec<Piece>>,
    /// What went to the receiver, where that is asked for.
    bytes: Option<Mutex<Vec<u8>>>,
}

/// A link between both ends, which does something at one place.
pub(crate) struct Relay {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    socket: PathBuf,
}

impl Relay {
    /// Listens at `near` and connects to `far` when somebody comes. `sealed`: bytes of answers up to
    /// the word to commit, where that is known.
    pub(crate) fn new(near: &Path, far: &Path, sealed: u64, at: Option<(Place, Act)>) -> Self {
        Self::start(near, far, sealed, at, false)
    }

    /// One that keeps what goes to the receiver.
    pub(crate) fn recorder(near: &Path, far: &Path) -> Self {
        Self::start(near, far, u64::MAX, None, true)
    }

    fn start(
        near: &Path,
        far: &Path,
        sealed: u64,
        at: Option<(Place, Act)>,
        records: bool,
    ) -> Self {
        let listener = UnixListener::bind(near).unwrap();
        let (place, act) = at.unzip();
        let shared = Arc::new(Shared {
            place,
            act: Mutex::new(act),
            answers: AtomicU64::new(0),
            sealed,
            pieces: Mutex::default(),
            bytes: records.then(Mutex::default),
        });
        let (run, far) = (shared.clone(), far.to_owned());
        let thread = std::thread::spawn(move || {
            let Ok((sender, _)) = listener.accept() else { return };
            let Ok(receiver) = UnixStream::connect(far) else { return };
            let back = (receiver.try_clone().unwrap(), sender.try_clone().unwrap());
            std::thread::scope(|scope| {
                scope.spawn(|| run.pass(back.0, back.1, false));
                run.pass(sender, receiver, true);
            });
        });
        Self { shared, thread: Some(thread), socket: near.to_owned() }
    }

    /// Waits until both ends have gone; what passed, in pieces.
    pub(crate) fn end(mut self) -> Vec<Piece> {
        self.join();
        self.shared.pieces.lock().unwrap().clone()
    }

    /// The same; the bytes that went to the receiver.
    pub(crate) fn recorded(mut self) -> Vec<u8> {
        self.join();
        self.shared.bytes.as_ref().unwrap().lock().unwrap().clone()
    }

    fn join(&mut self) {
        // where nobody ever came, or comes
        let _ = UnixStream::connect(&self.socket);
        let _ = self.thread.take().map(JoinHandle::join);
        let _ = fs::remove_file(&self.socket);
    }

    /// Was the place reached?
    pub(crate) fn acted(&self) -> bool {
        self.shared.act.lock().unwrap().is_none()
    }
}

impl Shared {
    fn pass(&self, mut from: UnixStream, mut to: UnixStream, forward: bool) {
        let (mut done, mut base, mut buffer) = (0, None, vec![0; 64 << 10]);
        loop {
            let place = match (self.place, forward) {
                (Some(Place::Forward(at)), true) | (Some(Place::Back(at)), false) => Some(at),
                (Some(Place::Commit(at)), true) => base.map(|base: u64| base + at),
                _ => None,
            };
            if place == Some(done) && self.act(&from, &to, &mut |_| {}) {
                return;
            }
            let Ok(some) = from.read(&mut buffer) else { break };
            if some == 0 {
                break;
            }
            // the sender says nothing more until it has heard what was answered
            if forward && base.is_none() && self.answers.load(Ordering::SeqCst) >= self.sealed {
                base = Some(done);
            }
            let place = match (self.place, base) {
                (Some(Place::Commit(at)), Some(base)) if forward => Some(base + at),
                _ => place,
            };
            let end = done + some as u64;
            let here = place.filter(|at| (done..end).contains(at) && !self.is_over());
            let piece = &mut buffer[..some];
            let before = here.map_or(some, |at| usize::try_from(at - done).unwrap());
            if !self.give(&mut to, &piece[..before], forward) {
                break;
            }
            if here.is_some() {
                let rest = &mut piece[before..];
                if self.act(&from, &to, &mut |bit| rest[0] ^= 1 << bit) {
                    return;
                }
                if !self.give(&mut to, rest, forward) {
                    break;
                }
            }
            done = end;
        }
        let _ = to.shutdown(Shutdown::Write);
        let _ = from.shutdown(Shutdown::Read);
    }

    fn is_over(&self) -> bool {
        self.act.lock().unwrap().is_none()
    }

    fn give(&self, to: &mut UnixStream, bytes: &[u8], forward: bool) -> bool {
        if bytes.is_empty() {
            return true;
        }
        if to.write_all(bytes).is_err() {
            return false;
        }
        self.pieces.lock().unwrap().push((forward, bytes.len() as u64));
        if forward {
            self.bytes.iter().for_each(|kept| kept.lock().unwrap().extend_from_slice(bytes));
        } else {
            self.answers.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        }
        true
    }

    /// Does what is to be done; true where the link has ended by it.
    fn act(&self, from: &UnixStream, to: &UnixStream, flip: &mut dyn FnMut(u8)) -> bool {
        let act = self.act.lock().unwrap().take();
        match act {
            None => {}
            Some(Act::Do(act)) => act(),
            Some(Act::Flip(bit)) => flip(bit),
            Some(Act::Cut) => {
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
                return true;
            }
        }
        false
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.join();
        }
    }
}

/// A move that is to be broken: a folder for its sockets and for what both ends say. Their processes
/// have a mark, and end with this.
pub(crate) struct Pair {
    dir: tempfile::TempDir,
    mark: String,
}

impl Pair {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new().prefix("pageherd-pair.").tempdir_in(shm()).unwrap();
        Self { dir, mark: format!("{}-{number}", std::process::id()) }
    }

    /// A file in its folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command of one end, which outlives its QEMU if it can: its number is in `END.pid`, what it
    /// says in `END`. With `code` a shell stays to say how it ended, in `END.code`.
    fn command(&self, end: &str, args: &str) -> String {
        let program = tool(end).get_program().to_string_lossy().into_owned();
        let at = |name: &str| self.path(name).display().to_string();
        let (said, pid, mark) = (at(end), at(&format!("{end}.pid")), &self.mark);
        format!("exec:echo $$ >{pid}; PAGEHERD_MARK={mark} exec {program} --qemu {args} 2>{said}")
    }

    /// What the QEMU that waits starts; it listens at `far`.
    pub(crate) fn receiver(&self, more: &str) -> String {
        let socket = self.path("far");
        self.command("mig-recv", &format!("--vm web1 --from unix:{} {more}", socket.display()))
    }

    /// What the source starts; it connects to `near`, where a relay listens, or to `far`.
    pub(crate) fn sender(&self, to: &str, more: &str) -> String {
        let far = self.path("far");
        wait_for("the receiver to listen", LONG, || far.exists());
        let socket = self.path(to);
        self.command("mig-send", &format!("--json --vm web1 --to unix:{} {more}", socket.display()))
    }

    /// The link between both.
    pub(crate) fn relay(&self, sealed: u64, at: Option<(Place, Act)>) -> Relay {
        Relay::new(&self.path("near"), &self.path("far"), sealed, at)
    }

    /// The process of an end, once it is there.
    pub(crate) fn pid_of(&self, end: &str) -> Option<i32> {
        fs::read_to_string(self.path(&format!("{end}.pid"))).ok()?.trim().parse().ok()
    }

    /// What an end has said.
    pub(crate) fn said(&self, end: &str) -> String {
        fs::read_to_string(self.path(end)).unwrap_or_default()
    }

    /// What both have said.
    pub(crate) fn words(&self) -> String {
        ["mig-send", "mig-recv"].map(|end| format!("[{end}] {}", self.said(end))).concat()
    }

    /// A command of one end that a test starts itself.
    pub(crate) fn tool(&self, end: &str) -> std::process::Command {
        let mut command = tool(end);
        command.env("PAGEHERD_MARK", &self.mark);
        command
    }

    /// Processes of both ends, keepers too.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let marked = format!("PAGEHERD_MARK={}", self.mark);
        let all = pageherd::sys::process::all_pids().unwrap().into_iter();
        all.filter(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|&b| b == 0).any(|var| var == marked.as_bytes())
        })
        .collect()
    }

    /// Waits until none is left; false where one stays.
    pub(crate) fn all_gone(&self, most: Duration) -> bool {
        let end = Instant::now() + most;
        while !self.processes().is_empty() {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.processes().into_iter().for_each(end_it);
    }
}

/// Kills a process; one that has gone meanwhile is none.
pub(crate) fn end_it(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// A guest at work, whole in a file: guests go on from there in a moment.
pub(crate) struct Golden {
    dir: tempfile::TempDir,
    pub(crate) build: Build,
}

impl Golden {
    /// Boots one, tells it what to do, and keeps it.
    pub(crate) fn make(build: Build, tell: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("pageherd-guest.").tempdir_in(shm()).unwrap();
        let golden = Self { dir, build };
        let guest = golden.build.boot();
        guest.tell(tell);
        let mut control = guest.control();
        control.stop();
        control.unthrottle();
        control.migrate(&format!("exec:cat >{}", golden.file().display()));
        control.wait_migrated();
        drop(control);
        golden
    }

    /// Its state.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A guest that goes on from there.
    pub(crate) fn start(&self) -> Guest {
        let from = exec(&format!("cat {}", self.file().display()));
        let guest = self.build.incoming(&from).spawn();
        guest.control().wait_runstate("paused");
        guest.control().unthrottle();
        guest.control().cont();
        guest.wait_ticks(1);
        guest
    }
}

/// What a QEMU's machine does; `None` where QEMU is no more.
pub(crate) fn runstate(guest: &Guest) -> Option<String> {
    let asked = guest.control().execute("query-status", &serde_json::json!({}));
    Some(asked.ok()?["status"].as_str().unwrap_or("?").to_owned())
}

/// Waits until a QEMU that waited for a guest has one, or has ended: which? Whoever fed it has ended:
/// one that has not got a byte waits for ever (QEMU looks for input alone, and not for the end of a
/// pipe), and is ended here.
pub(crate) fn has_arrived(there: &mut Guest) -> Result<bool, String> {
    let begin = Instant::now();
    loop {
        if there.has_ended() {
            return Ok(false);
        }
        let state = runstate(there);
        if state.as_deref() == Some("running") {
            return Ok(true);
        }
        let status = there.control().execute("query-migrate", &serde_json::json!({}));
        let waits = match status.map(|said| said["status"].as_str().unwrap_or("none").to_owned()) {
            Ok(status) if ["none", "setup"].contains(&status.as_str()) => true,
            // 10.0 stays when it was started with `defer`
            Ok(status) => status == "failed",
            Err(_) => false,
        };
        if waits && begin.elapsed() > Duration::from_secs(2) {
            there.kill();
            return Ok(false);
        }
        if begin.elapsed() > LONG {
            return Err(format!("the QEMU at the far end is {state:?} for good"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
