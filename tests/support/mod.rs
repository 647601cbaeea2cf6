//! What the tests share: memory holders, the command, and kernel settings that are put back.

#![allow(dead_code, unreachable_pub)] // each test binary uses a part
#![allow(clippy::unwrap_used)] // a test that cannot go on says where

pub mod qemu;

use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The command under test.
pub fn memscan() -> Command {
    Command::new(env!("CARGO_BIN_EXE_memscan"))
}

/// All commands, by name, and how each is started.
pub const COMMANDS: [(&str, &str); 3] = [
    ("memscan", env!("CARGO_BIN_EXE_memscan")),
    ("mig-send", env!("CARGO_BIN_EXE_mig-send")),
    ("mig-recv", env!("CARGO_BIN_EXE_mig-recv")),
];

/// One of them.
pub fn tool(name: &str) -> Command {
    let found = COMMANDS.iter().find(|(known, _)| *known == name);
    Command::new(found.unwrap_or_else(|| panic!("no command {name}")).1)
}

/// Runs memscan; panics with everything it said where it did not end with 0.
pub fn run(args: &[&str]) -> String {
    let out = memscan().args(args).output().unwrap();
    assert!(
        out.status.success(),
        "memscan {} ended with {}: {}",
        args.join(" "),
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

/// Runs memscan and reads the JSON that it prints.
pub fn json(args: &[&str]) -> Value {
    let text = run(args);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON ({e}): {text}"))
}

/// Runs memscan expecting it to fail; returns its exit code and its words.
pub fn fails(args: &[&str]) -> (i32, String) {
    let out = memscan().args(args).output().unwrap();
    assert!(!out.status.success(), "memscan {} was to fail", args.join(" "));
    (out.status.code().unwrap_or(-1), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// One region of a holder.
#[derive(Clone, Debug)]
pub struct Region {
    /// `7f…-7f…`, as targets take it.
    pub range: String,
    /// Its pages.
    pub pages: u64,
}

/// A process that holds memory in known ways: see `examples/holder.rs`. It ends with this value.
#[derive(Debug)]
pub struct Holder {
    child: Child,
    answers: BufReader<ChildStdout>,
    /// Its number.
    pub pid: i32,
    /// The children that it forked.
    pub children: Vec<i32>,
    /// Its regions, in order.
    pub regions: Vec<Region>,
}

impl Holder {
    /// Starts a holder and waits until it holds everything; its own error where it cannot.
    pub fn try_new(args: &[&str]) -> Result<Self, String> {
        Self::start(Command::new(example("holder")).args(args))
    }

    fn start(command: &mut Command) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        answers.read_line(&mut line).unwrap();
        let Ok(said) = serde_json::from_str::<Value>(&line) else {
            let out = child.wait_with_output().unwrap();
            return Err(String::from_utf8_lossy(&out.stderr).into_owned());
        };
        let number = |v: &Value| i32::try_from(v.as_i64().unwrap()).unwrap();
        Ok(Self {
            child,
            answers,
            pid: number(&said["pid"]),
            children: said["children"].as_array().unwrap().iter().map(number).collect(),
            regions: said["regions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|r| Region {
                    range: r["range"].as_str().unwrap().to_owned(),
                    pages: r["pages"].as_u64().unwrap(),
                })
                .collect(),
        })
    }

    /// Starts a holder.
    pub fn new(args: &[&str]) -> Self {
        Self::try_new(args).unwrap_or_else(|e| panic!("holder {}: {e}", args.join(" ")))
    }

    /// Starts a holder that runs on one processor only, the same for all of them: frames that one
    /// gives back are the first that the next is given (the kernel's lists are by processor).
    pub fn beside_others(args: &[&str]) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let cpus = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap();
        let first = cpus.trim().split(['-', ',']).next().unwrap();
        let mut taskset = Command::new("taskset");
        let command = taskset.args(["--cpu-list", first]).arg(example("holder")).args(args);
        Self::start(command).unwrap_or_else(|e| panic!("holder {}: {e}", args.join(" ")))
    }

    /// The target that names one region of it.
    pub fn target(&self, name: &str, region: usize) -> String {
        self.target_of(name, self.pid, region)
    }

    /// The same region of a child.
    pub fn target_of(&self, name: &str, pid: i32, region: usize) -> String {
        format!("{name}=pid:{pid},range={}", self.regions[region].range)
    }

    /// Has it do something, see `examples/holder.rs`, and waits until it is done.
    pub fn tell(&mut self, command: &str) {
        writeln!(self.child.stdin.as_ref().unwrap(), "{command}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "the holder was told '{command}'");
    }

    /// Waits until it rests: what it runs while it waits for a command it has run once.
    pub fn settle(&mut self) {
        self.tell("discard 0 0");
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program of `examples/`. `cargo test` builds them; `cargo test --test NAME` does not, so that it
/// is built here where it is missing or older than its source.
pub fn example(name: &str) -> PathBuf {
    static BUILD: Mutex<()> = Mutex::new(());
    let tests = std::env::current_exe().unwrap();
    let profile = tests.parent().and_then(Path::parent).unwrap();
    let path = profile.join("examples").join(name);
    let made = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
    let _one_at_a_time = BUILD.lock().unwrap_or_else(|e| e.into_inner());
    if made(&path) < made(&root().join(format!("examples/{name}.rs"))) {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root()).args(["build", "--quiet", "--example", name, "--target-dir"]);
        cargo.arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let out = cargo.output().unwrap();
        assert!(out.status.success(), "{} cannot be built: {}", path.display(), words(&out));
    }
    path
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Held by tests that change the kernel, so that they run one at a time, over all test binaries.
pub fn alone() -> Flock<File> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alone.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
    // The guard opens the lock when it is dropped, also by a panic.
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).unwrap()
}

/// Says that a test cannot run here and what it lacks; `make test` counts these lines.
pub fn skip(test: &str, lacks: &str) {
    eprintln!("SKIPPED {test}: {lacks}");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped.txt");
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "{test}: {lacks}").unwrap();
}

/// A file of `/proc/sys` or `/sys` with another value, until this is dropped.
#[derive(Debug)]
pub struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    /// Writes `value`; `None` where the file is not there or does not take it.
    pub fn try_new(path: &str, value: &str) -> Option<Self> {
        let before = fs::read_to_string(path).ok()?.trim().to_owned();
        // a choice shows all words and has the present one in brackets
        let chosen =
            before.split_once('[').and_then(|(_, r)| r.split_once(']')).map(|(w, _)| w.to_owned());
        fs::write(path, value).ok()?;
        Some(Self { path: path.into(), before: chosen.unwrap_or(before) })
    }

    /// Writes `value`.
    pub fn new(path: &str, value: &str) -> Self {
        Self::try_new(path, value).unwrap_or_else(|| panic!("{path} does not take {value}"))
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(&self.path, &self.before);
    }
}

/// A swap file in use until this is dropped; then what is in it comes back.
#[derive(Debug)]
pub struct Swap {
    path: PathBuf,
}

impl Swap {
    /// Makes and uses one of `mib` MiB.
    pub fn new(mib: u64) -> Self {
        let path = tmp(&format!("swap.{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let swap = Self { path };
        // Written, not only given a length: a swap file must not have holes.
        let mut file =
            OpenOptions::new().create_new(true).write(true).mode(0o600).open(&swap.path).unwrap();
        let zeros = vec![0; 1 << 20];
        (0..mib).for_each(|_| file.write_all(&zeros).unwrap());
        file.sync_all().unwrap();
        swap.ask("mkswap");
        swap.ask("swapon");
        swap
    }

    fn ask(&self, tool: &str) {
        let path = format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap_or_default());
        let out = Command::new(tool).arg(&self.path).env("PATH", path).output();
        let out = out.unwrap_or_else(|e| panic!("{tool}: {e}"));
        assert!(out.status.success(), "{tool} {}: {}", self.path.display(), words(&out));
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let path = format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap_or_default());
        let _ = Command::new("swapoff").arg(&self.path).env("PATH", path).output();
        let _ = fs::remove_file(&self.path);
    }
}

/// A path in a folder of the build, which is on a disk.
pub fn tmp(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// A file that goes when this does.
#[derive(Debug)]
pub struct TempFile {
    /// Where it is.
    pub path: PathBuf,
    /// The file.
    pub file: File,
}

impl TempFile {
    /// A file of `pages` pages in `folder`, all of them holes.
    pub fn with_holes(folder: &Path, pages: u64) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("pageherd-test.{}.{n}", std::process::id()));
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path).unwrap();
        let new = Self { path, file };
        new.file.set_len(pages * 4096).unwrap();
        new
    }

    /// A file of `pages` pages in `folder`, none like another.
    pub fn new(folder: &Path, pages: u64) -> Self {
        let new = Self::with_holes(folder, pages);
        (0..pages).for_each(|page| new.write(page));
        new
    }

    /// Writes a page that is like no other.
    pub fn write(&self, page: u64) {
        let mut content = [0x5a; 4096];
        content[..8].copy_from_slice(&page.to_le_bytes());
        self.file.write_all_at(&content, page * 4096).unwrap();
    }

    /// Its path, for a command line.
    pub fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Blocks of 512 bytes that are allocated.
    pub fn blocks(&self) -> u64 {
        self.file.metadata().unwrap().blocks()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// tmpfs, by convention.
pub fn shm() -> &'static Path {
    Path::new("/dev/shm")
}

/// KSM's folder.
pub const KSM: &str = "/sys/kernel/mm/ksm";

/// KSM at full speed until this is dropped; then everything is unmerged and as it was before.
#[derive(Debug)]
pub struct KsmOn {
    settings: Vec<Setting>,
}

impl KsmOn {
    /// Starts the scanner.
    pub fn new() -> Self {
        let set = |file: &str, value: &str| Setting::new(&format!("{KSM}/{file}"), value);
        let mut settings = vec![set("pages_to_scan", "20000"), set("sleep_millisecs", "0")];
        // It passes pages over that did not merge at once; tests want every page looked at.
        settings.extend(Setting::try_new(&format!("{KSM}/smart_scan"), "0"));
        settings.push(set("run", "1"));
        Self { settings }
    }

    /// Waits until `done` holds; panics after a minute.
    pub fn wait(&self, what: &str, done: impl FnMut() -> bool) {
        wait_for(what, Duration::from_secs(60), done);
    }

    /// Waits for `n` more whole passes.
    pub fn wait_scans(&self, n: u64) {
        let start = ksm("full_scans");
        self.wait("KSM's passes", || ksm("full_scans") >= start + n);
    }
}

impl Drop for KsmOn {
    fn drop(&mut self) {
        // 2 unmerges everything before the former value comes back
        let _ = fs::write(format!("{KSM}/run"), "2");
        self.settings.drain(..).rev().for_each(drop);
    }
}

/// One of KSM's counters.
pub fn ksm(file: &str) -> u64 {
    fs::read_to_string(format!("{KSM}/{file}")).unwrap().trim().parse().unwrap()
}

/// Waits until `done` holds; panics at the end of `most`.
pub fn wait_for(what: &str, most: Duration, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + most;
    while !done() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A number in JSON.
pub fn n(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// What a command said, for messages.
pub fn words(out: &Output) -> String {
    format!(
        "{}: {}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}
