//! Real guests: QEMU under TCG, the Linux of `scripts/guest-assets` in it, and a slow count of
//! their memory that knows nothing of the code under test.

#![allow(clippy::unwrap_used)] // a test that cannot go on panics

use super::{root, skip, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Whence, lseek};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const QEMU: &str = "qemu-system-x86_64";
const PAGE: u64 = 4096;

/// What the guests need is there: made on the first call where it is missing. Where it cannot be
/// had, says so in the name of `test`.
pub fn ready(test: &str) -> bool {
    if Command::new(QEMU).arg("--version").output().is_err() {
        skip(test, &format!("{QEMU} is not installed"));
        return false;
    }
    let there = |name: &str| root().join("target/guest").join(name).exists();
    if there("vmlinuz") && there("initrd.gz") {
        return true;
    }
    let made = Command::new(root().join("scripts/guest-assets")).status();
    if !made.is_ok_and(|status| status.success()) {
        skip(test, "scripts/guest-assets failed: the test guest could not be made");
        return false;
    }
    true
}

/// How a guest gets its RAM.
#[derive(Clone, Debug)]
pub enum Ram {
    /// As QEMU does it unless told otherwise: private and anonymous.
    Anonymous,
    /// `memory-backend-memfd`.
    Memfd {
        /// Mapped shared.
        share: bool,
    },
    /// `memory-backend-file`.
    File {
        /// The file.
        path: PathBuf,
        /// Mapped shared.
        share: bool,
    },
}

/// A guest to be started.
#[derive(Clone, Debug)]
pub struct Build {
    /// The value of `-name`.
    pub name: String,
    /// Its RAM.
    pub ram: Ram,
    /// MiB of it.
    pub mib: u64,
    /// MiB that guest-work fills.
    pub work: u64,
    /// Its seed: the second half of the work is alike for guests of one seed.
    pub seed: u64,
    /// More arguments.
    pub more: Vec<String>,
}

impl Build {
    /// A guest of 160 MiB, 48 of them filled, with anonymous RAM.
    pub fn new(name: &str, seed: u64) -> Self {
        Self { name: name.into(), ram: Ram::Anonymous, mib: 160, work: 48, seed, more: Vec::new() }
    }

    /// With other RAM.
    pub fn ram(self, ram: Ram) -> Self {
        Self { ram, ..self }
    }

    /// With more arguments.
    pub fn more(self, args: &[&str]) -> Self {
        Self { more: args.iter().map(|&a| a.to_owned()).collect(), ..self }
    }

    fn memory(&self) -> Vec<String> {
        let mib = self.mib;
        let backend = match &self.ram {
            Ram::Anonymous => {
                return vec!["-M".into(), "pc".into(), "-m".into(), format!("{mib}M")];
            }
            Ram::Memfd { share } => format!("memory-backend-memfd,share={}", on(*share)),
            Ram::File { path, share } => {
                format!("memory-backend-file,share={},mem-path={}", on(*share), path.display())
            }
        };
        let machine = "pc,memory-backend=pc.ram".to_owned();
        let object = format!("{backend},id=pc.ram,size={mib}M");
        vec!["-M".into(), machine, "-m".into(), format!("{mib}M"), "-object".into(), object]
    }

    /// Starts it and waits until it has filled its memory and checked it once.
    pub fn boot(&self) -> Guest {
        let guest = self.spawn();
        guest.wait_ticks(1);
        guest
    }

    /// Starts it.
    pub fn spawn(&self) -> Guest {
        let dir = tempfile::tempdir().unwrap();
        let assets = root().join("target/guest");
        // The kernel ends QEMU with the thread that started it: also where a test is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", QEMU, "-accel", "tcg", "-nodefaults", "-no-reboot"])
            .args(["-display", "none", "-name", &self.name])
            .args(self.memory())
            .arg("-serial")
            .arg(format!("file:{}", dir.path().join("serial").display()))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", dir.path().join("qmp").display()))
            .arg("-kernel")
            .arg(assets.join("vmlinuz"))
            .arg("-initrd")
            .arg(assets.join("initrd.gz"))
            .arg("-append")
            // no_timer_check: a guest that starts on a busy host may think its timer broken
            .arg(format!(
                "console=ttyS0 quiet panic=-1 no_timer_check work={} seed={}",
                self.work, self.seed
            ))
            .args(&self.more)
            .stdin(Stdio::null())
            .stderr(File::create(dir.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        Guest { child, pid, mib: self.mib, dir }
    }
}

const fn on(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// Starts guests side by side and waits for all of them.
pub fn boot_all(builds: &[Build]) -> Vec<Guest> {
    let guests: Vec<Guest> = builds.iter().map(Build::spawn).collect();
    for guest in &guests {
        guest.wait_ticks(1);
    }
    guests
}

/// A QEMU that runs. It ends with this value.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    /// Its number.
    pub pid: i32,
    /// MiB of RAM.
    pub mib: u64,
    dir: tempfile::TempDir,
}

impl Guest {
    fn file(&self, name: &str) -> String {
        let bytes = fs::read(self.dir.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// How often guest-work has found its memory right. Panics where it ever was not, or where the
    /// guest has ended.
    pub fn ticks(&self) -> usize {
        let serial = self.file("serial");
        let bad = ["CORRUPT", "corrupt", "FAILED", "ended with", "panic"];
        if let Some(line) = serial.lines().find(|line| bad.iter().any(|b| line.contains(b))) {
            panic!("the guest says: {line}");
        }
        assert!(
            Path::new(&format!("/proc/{}/exe", self.pid)).read_link().is_ok(),
            "QEMU has ended: {}",
            self.file("stderr")
        );
        serial.lines().filter(|l| l.starts_with("TICK ") && l.ends_with(" ok")).count()
    }

    /// Waits until it has found its memory right `n` times.
    pub fn wait_ticks(&self, n: usize) {
        wait_for("the guest", Duration::from_secs(60), || self.ticks() >= n);
    }

    /// Stands still, every thread of it, until the guard is dropped.
    pub fn freeze(&self) -> Frozen {
        let frozen = Frozen(Pid::from_raw(self.pid));
        kill(frozen.0, Signal::SIGSTOP).unwrap();
        let stopped = |task: &Path| {
            let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        };
        wait_for("QEMU to stop", Duration::from_secs(10), || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
            tasks.flatten().all(|task| stopped(&task.path()))
        });
        frozen
    }

    /// Ends it at once, without a word to it, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends it the signal that ends it, and does not wait.
    pub fn begin_to_die(&self) {
        kill(Pid::from_raw(self.pid), Signal::SIGKILL).unwrap();
    }

    /// Opens its control socket.
    pub fn qmp(&self) -> Qmp {
        Qmp::at(&self.dir.path().join("qmp"))
    }

    /// Its mappings.
    pub fn mappings(&self) -> Vec<Mapping> {
        mappings(self.pid)
    }

    /// Its guest RAM: what QEMU itself keeps out of forks, and of that nothing else.
    pub fn ram(&self) -> Vec<Mapping> {
        self.mappings().into_iter().filter(|m| m.has("dc")).collect()
    }

    /// The mapping of the RAM that `-m` gave.
    pub fn main_ram(&self) -> Mapping {
        let ram = self.ram();
        ram.into_iter().find(|m| m.pages() * PAGE == self.mib << 20).expect("main RAM")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A stopped process; it runs on when this is dropped.
#[derive(Debug)]
pub struct Frozen(Pid);

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// QEMU's control socket.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Qmp {
    /// Opens the control socket at `path`.
    pub fn at(path: &Path) -> Self {
        wait_for("the control socket", Duration::from_secs(10), || {
            UnixStream::connect(path).is_ok()
        });
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap());
        let mut qmp = Self { stream, lines };
        qmp.ask("qmp_capabilities", &json!({}));
        qmp
    }

    /// Asks and returns the answer; events in between are dropped.
    pub fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        writeln!(self.stream, "{}", json!({"execute": command, "arguments": arguments})).unwrap();
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "QEMU hung up at {command}");
            let said: Value = serde_json::from_str(&line).unwrap();
            assert!(said.get("error").is_none(), "{command}: {said}");
            if let Some(answer) = said.get("return") {
                return answer.clone();
            }
        }
    }

    /// Lets the stream leave RAM out that is in a shared file.
    fn ignore_shared(&mut self) {
        let capability = json!([{"capability": "x-ignore-shared", "state": true}]);
        self.ask("migrate-set-capabilities", &json!({"capabilities": capability}));
    }

    fn wait_migrated(&mut self) {
        wait_for("the state", Duration::from_secs(30), || {
            let status = self.ask("query-migrate", &json!({}))["status"].clone();
            assert_ne!(status, "failed");
            status == "completed"
        });
    }
}

/// Boots a guest on a new file in tmpfs, stops it at work, and keeps the file and its device state:
/// what clones start from.
#[derive(Debug)]
pub struct Template {
    dir: tempfile::TempDir,
    build: Build,
}

impl Template {
    /// Makes one.
    pub fn new(build: Build) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("template");
        let mut guest = Build { ram: Ram::File { path, share: true }, ..build.clone() }.boot();
        let mut qmp = guest.qmp();
        qmp.ask("stop", &json!({}));
        qmp.ignore_shared();
        let state = dir.path().join("state");
        qmp.ask("migrate", &json!({"uri": format!("exec:cat > {}", state.display())}));
        qmp.wait_migrated();
        guest.kill();
        Self { dir, build }
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("template")
    }

    /// A clone: the file mapped copy-on-write, the guest where it was stopped. Waits for a tick.
    pub fn start(&self, name: &str) -> Guest {
        let ram = Ram::File { path: self.path(), share: false };
        let build = Build { name: name.into(), ram, ..self.build.clone() };
        let guest = build.more(&["-incoming", "defer"]).spawn();
        let mut qmp = guest.qmp();
        qmp.ignore_shared();
        let state = self.dir.path().join("state");
        qmp.ask("migrate-incoming", &json!({"uri": format!("exec:cat {}", state.display())}));
        qmp.wait_migrated();
        qmp.ask("cont", &json!({}));
        // the new serial log begins with the first tick after the stop
        guest.wait_ticks(1);
        guest
    }
}

/// A mapping, as smaps has it.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// First page, by address.
    pub start: u64,
    /// The page after the last.
    pub end: u64,
    /// Mapped shared.
    pub shared: bool,
    /// Page in the file of the first page.
    pub file_page: u64,
    /// Its name; empty for anonymous memory.
    pub name: String,
    flags: Vec<String>,
}

impl Mapping {
    /// How many pages.
    pub const fn pages(&self) -> u64 {
        self.end - self.start
    }

    /// Has this flag of two letters.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag)
    }
}

/// The mappings of a process, without those in the kernel's half.
pub fn mappings(pid: i32) -> Vec<Mapping> {
    let text = fs::read(format!("/proc/{pid}/smaps")).unwrap();
    let mut all: Vec<Mapping> = Vec::new();
    for line in String::from_utf8_lossy(&text).lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            all.last_mut().unwrap().flags = flags.split_whitespace().map(str::to_owned).collect();
        } else if line.as_bytes()[0].is_ascii_hexdigit() && line.contains('-') {
            let mut words = line.split_whitespace();
            let (start, end) = words.next().unwrap().split_once('-').unwrap();
            let hex = |s: &str| u64::from_str_radix(s, 16).unwrap();
            let perms = words.next().unwrap();
            let offset = hex(words.next().unwrap());
            let name: Vec<&str> = words.skip(2).collect();
            all.push(Mapping {
                start: hex(start) / PAGE,
                end: hex(end) / PAGE,
                shared: perms.ends_with('s'),
                file_page: offset / PAGE,
                name: name.join(" "),
                flags: Vec::new(),
            });
        }
    }
    all.retain(|m| m.start >> 51 == 0);
    all
}

/// What one entry of a page table says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry(u64);

impl Entry {
    /// The frame, if the page is present.
    pub const fn frame(self) -> Option<u64> {
        if self.0 >> 63 == 1 { Some(self.0 & ((1 << 55) - 1)) } else { None }
    }

    /// A page of a file or of shared memory.
    pub const fn is_file(self) -> bool {
        self.0 >> 61 & 1 == 1
    }
}

/// Reads page tables page by page, and frames one by one.
#[derive(Debug)]
pub struct Slow {
    flags: File,
    zero: HashMap<u64, bool>,
}

impl Default for Slow {
    fn default() -> Self {
        Self { flags: File::open("/proc/kpageflags").unwrap(), zero: HashMap::new() }
    }
}

impl Slow {
    /// The entries of mappings, with the number of the mapping and the page.
    pub fn entries(pid: i32, ram: &[Mapping]) -> Vec<(usize, u64, Entry)> {
        let table = File::open(format!("/proc/{pid}/pagemap")).unwrap();
        let mut all = Vec::new();
        for (i, mapping) in ram.iter().enumerate() {
            let mut bytes = vec![0; usize::try_from(mapping.pages() * 8).unwrap()];
            table.read_exact_at(&mut bytes, mapping.start * 8).unwrap();
            let words = bytes.as_chunks::<8>().0.iter().map(|w| Entry(u64::from_le_bytes(*w)));
            all.extend((mapping.start..).zip(words).map(|(page, entry)| (i, page, entry)));
        }
        all
    }

    /// Is this the kernel's page of zeros (bit 24 of its flags)?
    pub fn is_zero(&mut self, frame: u64) -> bool {
        let flags = &self.flags;
        *self.zero.entry(frame).or_insert_with(|| {
            let mut word = [0; 8];
            flags.read_exact_at(&mut word, frame * 8).unwrap();
            u64::from_le_bytes(word) >> 24 & 1 == 1
        })
    }

    /// Counts the guest RAM of one QEMU.
    pub fn count(&mut self, guest: &Guest) -> Counted {
        let mut counted = Counted::default();
        for (_, _, entry) in Self::entries(guest.pid, &guest.ram()) {
            let Some(frame) = entry.frame() else { continue };
            counted.resident += 1;
            if self.is_zero(frame) {
                counted.zero += 1;
            } else {
                counted.frames.insert(frame);
                if entry.is_file() {
                    counted.file_frames.insert(frame);
                }
            }
        }
        counted
    }

    /// The frames of guests, each once, by their content; by each, whether any page on it is mapped
    /// shared. The zero page is left out.
    pub fn contents(&mut self, guests: &[Guest]) -> BTreeMap<Vec<u8>, Vec<bool>> {
        let mut seen = BTreeSet::new();
        let mut contents: BTreeMap<Vec<u8>, Vec<bool>> = BTreeMap::new();
        for guest in guests {
            let memory = File::open(format!("/proc/{}/mem", guest.pid)).unwrap();
            let ram = guest.ram();
            for (i, page, entry) in Self::entries(guest.pid, &ram) {
                let Some(frame) = entry.frame() else { continue };
                if !self.is_zero(frame) && seen.insert(frame) {
                    let mut bytes = vec![0; 4096];
                    memory.read_exact_at(&mut bytes, page * PAGE).unwrap();
                    contents.entry(bytes).or_default().push(ram[i].shared);
                }
            }
        }
        contents
    }
}

/// The guest RAM of one QEMU by the slow count.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Counted {
    /// Pages in the page table.
    pub resident: u64,
    /// Of these, on the kernel's page of zeros.
    pub zero: u64,
    /// Distinct frames without that page.
    pub frames: BTreeSet<u64>,
    /// Of these, frames that are pages of a file.
    pub file_frames: BTreeSet<u64>,
}

/// The file behind a mapping, whatever became of its name.
pub fn mapped_file(pid: i32, mapping: &Mapping) -> File {
    let (start, end) = (mapping.start * PAGE, mapping.end * PAGE);
    File::open(format!("/proc/{pid}/map_files/{start:x}-{end:x}")).unwrap()
}

/// The pages that a file in tmpfs has; the others are holes. Asks the file system and touches
/// nothing.
pub fn file_pages(file: &File) -> BTreeSet<u64> {
    let mut pages = BTreeSet::new();
    let mut at = 0;
    // ends with an error (ENXIO) behind the last page
    while let Ok(data) = lseek(file, at, Whence::SeekData) {
        at = lseek(file, data, Whence::SeekHole).unwrap();
        pages
            .extend(u64::try_from(data).unwrap() / PAGE..u64::try_from(at).unwrap().div_ceil(PAGE));
    }
    pages
}
