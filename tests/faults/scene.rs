//! A folder, the processes started in it, and what may be left of both.

use crate::support::Holder;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest time for a command of a row.
const LONG: Duration = Duration::from_secs(25);
/// Longest time in which what a command leaves to others must be tidied up.
const SOON: Duration = Duration::from_secs(3);
/// In the environment of everything that a row starts.
const MARK: &str = "PAGEHERD_FAULT";

/// The commands, where a user without rights can run them too.
static BIN: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = tempfile::Builder::new().prefix("pageherd-bin.").tempdir_in("/dev/shm").unwrap();
    let mode = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    mode(dir.path());
    for (name, path) in
        [("mig-send", env!("CARGO_BIN_EXE_mig-send")), ("mig-recv", env!("CARGO_BIN_EXE_mig-recv"))]
    {
        let to = dir.path().join(name);
        fs::copy(path, &to).unwrap();
        mode(&to);
    }
    dir
});

/// The path of a command.
pub(crate) fn program(name: &str) -> String {
    BIN.path().join(name).to_str().unwrap().to_owned()
}

/// Where the commands are, to be removed at the end.
pub(crate) fn programs() -> PathBuf {
    BIN.path().to_owned()
}

/// A row's world.
pub(crate) struct Scene {
    folder: TempDir,
    logs: TempDir,
    mark: String,
    /// Files that may be there at the end, by their path in the folder.
    known: BTreeSet<String>,
    herds: Vec<PathBuf>,
    held: Vec<i32>,
    count: u32,
}

impl Scene {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = |kind: &str| {
            let prefix = format!("pageherd-{kind}.");
            tempfile::Builder::new().prefix(&prefix).tempdir_in("/dev/shm").unwrap()
        };
        let (folder, logs) = (folder("fault"), folder("words"));
        let (known, herds, held) = (BTreeSet::new(), Vec::new(), Vec::new());
        Self { folder, logs, mark, known, herds, held, count: 0 }
    }

    /// On a disk, which promises space, instead of in memory.
    pub(crate) fn on_disk(&mut self) {
        self.folder =
            tempfile::Builder::new().prefix("pageherd-fault.").tempdir_in("/var/tmp").unwrap();
    }

    /// Open to every user.
    pub(crate) fn for_all(&self) {
        fs::set_permissions(self.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the folder, where nothing may be at the end.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// A path in the folder, where something may be at the end.
    pub(crate) fn keeps(&mut self, name: &str) -> String {
        self.known.insert(name.to_owned());
        self.path(name)
    }

    /// A herd, empty at the end but for VMs that the row names by [`Self::keeps`].
    pub(crate) fn herd(&mut self, name: &str) -> String {
        for file in ["", "/lock", "/journal", "/pool"] {
            self.known.insert(format!("{name}{file}"));
        }
        let path = self.path(name);
        self.herds.push(path.clone().into());
        path
    }

    /// A file with this content.
    pub(crate) fn file(&mut self, name: &str, content: &[u8]) -> String {
        let path = self.keeps(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// An image of so many pages: most are like no other, every eighth is zero.
    pub(crate) fn image(&mut self, name: &str, pages: u64) -> String {
        self.file(name, &memory(pages))
    }

    /// A stream of an image of so many pages as VM `a`, in a file; and the image's content.
    pub(crate) fn stream(&mut self, name: &str, pages: u64, flags: &[&str]) -> (String, Vec<u8>) {
        let image = self.image(&format!("{name}.image"), pages);
        let path = self.keeps(name);
        let (vm, to) = (format!("a=image:{image}"), format!("file:{path}"));
        let out = self.run(&mut self.send(&[&["--vm", &vm, "--to", &to], flags].concat()));
        assert_eq!(out.code, 0, "{}", out.err);
        (path, memory(pages))
    }

    /// mig-send without its bill.
    pub(crate) fn send(&self, args: &[&str]) -> Command {
        let mut command = self.command(&program("mig-send"));
        command.arg("--quiet").args(args);
        command
    }

    /// mig-recv without remarks.
    pub(crate) fn recv(&self, args: &[&str]) -> Command {
        let mut command = self.command(&program("mig-recv"));
        command.arg("--quiet").args(args);
        command
    }

    /// A command of this row.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env(MARK, &self.mark).env("PAGEHERD_THREADS", "2").current_dir(self.folder.path());
        command.env("RUST_BACKTRACE", "0").stdin(Stdio::null());
        command
    }

    /// A process whose memory is known; it must run at the end.
    pub(crate) fn holder(&mut self, args: &[&str]) -> Holder {
        let holder = Holder::new(args);
        self.held.push(holder.pid);
        holder
    }

    /// A process that must run at the end, if it is there.
    pub(crate) fn must_run(&mut self, pid: i32) {
        self.held.push(pid);
    }

    /// Starts a command; standard output goes to a file unless it was set to something else.
    pub(crate) fn start(&mut self, command: &mut Command) -> Proc {
        self.count += 1;
        let log = |kind: &str| self.logs.path().join(format!("{}.{kind}", self.count));
        let (out, err) = (log("out"), log("err"));
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Proc { child, out, err }
    }

    /// The same, with its standard output as a pipe.
    pub(crate) fn start_piped(&mut self, command: &mut Command) -> Proc {
        self.count += 1;
        let err = self.logs.path().join(format!("{}.err", self.count));
        command.stdout(Stdio::piped()).stderr(File::create(&err).unwrap());
        let child = command.spawn().unwrap();
        Proc { child, out: self.logs.path().join("none"), err }
    }

    /// Runs a command to its end.
    pub(crate) fn run(&mut self, command: &mut Command) -> Out {
        self.start(command).end()
    }

    /// Starts a receiver at a new socket, and waits until it listens.
    pub(crate) fn listen(&mut self, args: &[&str]) -> (Proc, String) {
        let path = self.path("socket");
        let address = format!("unix:{path}");
        let mut command = self.recv(&[&["--from", &address], args].concat());
        let mut proc = self.start(&mut command);
        let end = Instant::now() + LONG;
        // a socket is there a moment before it is listened on, which the kernel marks by a flag
        let listens = || {
            let sockets = fs::read_to_string("/proc/net/unix").unwrap();
            let mut ours = sockets.lines().filter(|line| line.ends_with(&path));
            ours.any(|line| line.split_whitespace().nth(3) == Some("00010000"))
        };
        while !listens() && proc.lives() && Instant::now() < end {
            sleep(Duration::from_millis(2));
        }
        (proc, address)
    }

    /// What is left that should not be.
    pub(crate) fn leftovers(&mut self) -> Vec<String> {
        let end = Instant::now() + SOON;
        loop {
            let left = self.left();
            if left.is_empty() || Instant::now() > end {
                return left;
            }
            sleep(Duration::from_millis(10));
        }
    }

    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mut names = BTreeSet::new();
        list(self.folder.path(), "", &mut names);
        left.extend(names.difference(&self.known).map(|name| format!("file {name}")));
        for herd in &self.herds {
            left.extend(garbage(herd));
        }
        for pid in pageherd::sys::process::all_pids().unwrap() {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let marked = format!("{MARK}={}", self.mark);
            if environ.split(|&b| b == 0).any(|var| var == marked.as_bytes()) && lives(pid) {
                let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                left.push(format!("process {}", comm.trim()));
            }
        }
        for &pid in &self.held {
            if is_stopped(pid) {
                left.push(format!("stopped process {pid}"));
            }
            let files = ["/run/pageherd", "/tmp/pageherd-65534"].map(fs::read_dir);
            let files = files.into_iter().flatten().flatten().flatten();
            let own = format!("{pid}-");
            let of = files.filter(|file| file.file_name().to_string_lossy().starts_with(&own));
            left.extend(of.map(|file| format!("file {}", file.path().display())));
        }
        left
    }
}

/// The pool of a herd is as long as its maps need it.
fn garbage(herd: &Path) -> Option<String> {
    let pool = fs::metadata(herd.join("pool")).ok()?.len() / 4096;
    let mut end = 0;
    for entry in fs::read_dir(herd).ok()?.flatten() {
        if entry.path().extension().is_some_and(|ext| ext == "map") {
            let (_, runs) = pageherd::placement::map::parse(&fs::read(entry.path()).ok()?).ok()?;
            for run in runs {
                if let pageherd::base::Place::Pool { page } = run.place {
                    end = end.max(page + run.pages);
                }
            }
        }
    }
    (pool != end).then(|| format!("{pool} pages in the pool, {end} used"))
}

fn list(folder: &Path, prefix: &str, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), &format!("{name}/"), names);
        }
        names.insert(name);
    }
}

/// Does a process run, or wait to?
pub(crate) fn lives(pid: i32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Is it held still?
pub(crate) fn is_stopped(pid: i32) -> bool {
    state(pid) == Some('T')
}

fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// So many pages: most are like no other, every eighth is zero.
pub(crate) fn memory(pages: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for page in 0..pages {
        let mut x = (page + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for _ in 0..512 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            bytes.extend(if page % 8 == 7 { 0u64 } else { x }.to_le_bytes());
        }
    }
    bytes
}

/// A command that runs. It is killed with this value.
pub(crate) struct Proc {
    pub(crate) child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Proc {
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal);
    }

    /// A line of `/proc/PID/status`.
    pub(crate) fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
        line.unwrap_or("gone").trim().to_owned()
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Out {
        let end = Instant::now() + LONG;
        let mut hangs = false;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > end {
                hangs = true;
                let _ = self.child.kill();
            }
            sleep(Duration::from_millis(2));
        };
        let read =
            |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into();
        let code = if hangs {
            999
        } else {
            status.code().unwrap_or_else(|| -status.signal().unwrap_or(0))
        };
        Out { code, out: read(&self.out), err: read(&self.err) }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a command ended.
pub(crate) struct Out {
    /// Its exit code; a signal as a negative number; 999 where it hung and was killed.
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Out {
    /// The exit code alone where it failed in one line that has one of the words; else what it did.
    pub(crate) fn says(&self, words: &[&str]) -> String {
        let lines = self.err.lines().count();
        let named = self.err.starts_with("mig-send: ") || self.err.starts_with("mig-recv: ");
        let has = words.is_empty() || words.iter().any(|word| self.err.contains(word));
        let well = match self.code {
            0 => lines == 0,
            code => code > 0 && lines == 1 && named && has && self.out.is_empty(),
        };
        if well { self.code.to_string() } else { self.whole() }
    }

    /// Everything.
    pub(crate) fn whole(&self) -> String {
        let what = match self.code {
            999 => "hangs".to_owned(),
            code => code.to_string(),
        };
        format!("{what}: {}{}", self.out, self.err)
    }
}

/// Writes all, or as much as is taken.
pub(crate) fn pour(mut to: impl Write, bytes: &[u8]) {
    let _ = to.write_all(bytes);
    let _ = to.flush();
}
