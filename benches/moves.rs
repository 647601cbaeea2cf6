//! mig-send and mig-recv against the limits of the machine and against peers, as ratios in one run.
//!
//! Each round runs every case once, one after the other, so that what else the machine does hits
//! all of them; the first round is dropped (the host takes free pages back, and the first touch of
//! cold memory is up to five times slower), and the median of the ratios is told. Times are of whole
//! commands, their start and the freezing of the process included. `make bench` on an idle machine,
//! as root.

#![allow(unsafe_code)] // UFFDIO_COPY, the limit for fresh memory, is an ioctl

use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Rounds, the first of which is dropped.
const ROUNDS: usize = 6;
/// Memory that is moved.
const BYTES: u64 = 1 << 30;
const PAGES: u64 = BYTES / 4096;
const MIB: usize = 1 << 20;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    match words.as_slice() {
        ["role", "write", bytes] => return write_pipe(number(bytes)),
        ["role", "read"] => return read_pipe(),
        ["role", "pump", pid, ranges @ ..] => return pump(pid, ranges),
        ["role", "uffd", bytes] => return fresh_by_uffd(number(bytes)),
        // `cargo test --benches` only wants to know that this builds and starts
        words if !words.contains(&"--bench") => return,
        _ => {}
    }
    let only = words.iter().find(|word| !word.starts_with('-')).copied().unwrap_or("");
    let all: [(&str, fn()); 6] = [
        ("pipe", nothing_to_save),
        ("tcp", over_tcp),
        ("third", thirty_thirty_forty),
        ("shared", shared_against_same),
        ("zstd", against_zstd),
        ("memory", peak_memory),
    ];
    for (name, case) in all.iter().filter(|(name, _)| name.contains(only)) {
        println!("\n== {name}");
        case();
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

// --- what is measured against what -------------------------------------------

fn nothing_to_save() {
    let holder = Holder::new(&[&format!("anon:{PAGES}")]);
    let vm = holder.vm();
    let herd = scratch("herd");
    let huge = HugeTmpfs::new();
    let in_huge = huge.0.join("herd");
    let into = |herd: &Path| {
        let time = moved(&vm, "none", &["--into", text(herd)]);
        fs::remove_dir_all(herd).expect("the herd goes");
        time
    };
    let table = rounds(vec![
        (
            "pipe: write | read, 1 MiB",
            Box::new(|| pair(role(&["write", &BYTES.to_string()]), role(&["read"]))),
        ),
        ("pump of /proc/PID/mem | read", Box::new(|| holder.pump(1))),
        ("mig-send none | mig-recv --discard", Box::new(|| moved(&vm, "none", &["--discard"]))),
        ("mig-send auto | mig-recv --discard", Box::new(|| moved(&vm, "auto", &["--discard"]))),
        (
            "mig-send zero,same | mig-recv --discard",
            Box::new(|| moved(&vm, "zero,same", &["--discard"])),
        ),
        (
            "UFFDIO_COPY, 2 MiB, fresh memory",
            Box::new(|| said(role(&["uffd", &BYTES.to_string()]))),
        ),
        ("mig-send none | mig-recv --into tmpfs", Box::new(|| into(&herd))),
        ("the same, tmpfs of huge pages", Box::new(|| into(&in_huge))),
    ]);
    table.speed(BYTES);
    table.ratio("mig none / pipe (at least 0.8 as fast)", 2, 0);
    table.ratio("mig none / pump (aim: 1.7 as fast)", 2, 1);
    table.ratio("mig auto / mig none (at most 15 % slower)", 3, 2);
    table.ratio("mig zero,same / mig none (at most 15 % slower)", 4, 2);
    table.ratio("mig into tmpfs / UFFDIO_COPY (at least 0.8 as fast)", 6, 5);
    table.ratio("mig into tmpfs of huge pages / UFFDIO_COPY (at least 0.8 as fast)", 7, 5);
}

fn over_tcp() {
    let holder = Holder::new(&[&format!("anon:{PAGES}")]);
    let vm = holder.vm();
    let table = rounds(vec![
        ("raw socket, 1 MiB", Box::new(raw_tcp)),
        (
            "mig-send none, tcp",
            Box::new(|| {
                let mut recv =
                    mig("mig-recv", &["-q", "--from", "tcp:127.0.0.1:34571", "--discard"]);
                let mut recv = recv.spawn().expect("mig-recv starts");
                std::thread::sleep(Duration::from_millis(300)); // until it listens
                let start = Instant::now();
                let args = ["-q", "--vm", &vm, "--filters", "none", "--to", "tcp:127.0.0.1:34571"];
                assert!(mig("mig-send", &args).status().expect("it runs").success());
                assert!(recv.wait().expect("it ends").success());
                start.elapsed()
            }),
        ),
    ]);
    table.speed(BYTES);
    table.ratio("mig / raw socket (at least 0.85 as fast)", 1, 0);
}

fn thirty_thirty_forty() {
    let part = |percent: u64| PAGES * percent / 100;
    let holder = Holder::new(&[
        &format!("anon:{}", part(10)),
        &format!("anon:{},seed=1", part(30)),
        &format!("anon:{},seed=1", part(30)),
        &format!("zero:{}", part(30)),
    ]);
    let vm = format!("a=pid:{},map=anon", holder.pid);
    let mut wire = 0.0;
    let table = rounds(vec![
        ("pump of /proc/PID/mem | read", Box::new(|| holder.pump(4))),
        ("mig-send none | mig-recv --discard", Box::new(|| moved(&vm, "none", &["--discard"]))),
        (
            "mig-send zero,same | mig-recv --discard",
            Box::new(|| {
                let (time, bill) = billed(&vm, "zero,same", &["--discard"]);
                wire = bill["stream_bytes"].as_f64().expect("bytes")
                    / bill["memory_bytes"].as_f64().expect("bytes");
                time
            }),
        ),
    ]);
    table.speed(BYTES);
    table.ratio("zero,same / an unfiltered pump (at least 2 times as fast)", 2, 0);
    table.ratio("zero,same / none", 2, 1);
    println!("   stream bytes of memory bytes: {wire:.4} (at most 0.405)");
}

fn shared_against_same() {
    let holder = Holder::new(&["fork=3", &format!("anon:{}", PAGES / 4)]);
    let vms: Vec<String> =
        holder.pids().iter().map(|pid| format!("v{pid}=pid:{pid},map=anon")).collect();
    let names: Vec<String> = holder.pids().iter().map(|pid| format!("v{pid}")).collect();
    let trust = names.join(",");
    let per_page = |filters: &str| {
        let mut args: Vec<&str> =
            vec!["--json", "--filters", filters, "--keep-filters", "--to", "file:/dev/null"];
        args.extend(vms.iter().flat_map(|vm| ["--vm", vm.as_str()]));
        if filters == "same" {
            args.extend(["--trust", &trust]);
        }
        let out = mig("mig-send", &args).stderr(Stdio::inherit()).output().expect("it runs");
        assert!(out.status.success());
        let bill: Value = serde_json::from_slice(&out.stdout).expect("a bill");
        let account = &bill["filters"][0];
        let seconds = bill["seconds"].as_f64().expect("seconds");
        (
            account["nanos"].as_f64().expect("time") / account["pages"].as_f64().expect("pages"),
            seconds,
            account["pages"].clone(),
        )
    };
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let (shared, same) = (per_page("shared"), per_page("same"));
        if round > 0 {
            ratios.push(shared.1 / same.1);
            println!(
                "   shared {:.0} ns a page ({} pages, {:.3} s in all), same {:.0} ns a page and its reading and hashing ({:.3} s in all)",
                shared.0, shared.2, shared.1, same.0, same.1
            );
        }
    }
    println!("   whole time, shared / same: {:.2}", median(&mut ratios));
}

fn against_zstd() {
    let image = scratch("image");
    make_image(&image, 512 << 20);
    let (ours, theirs) = (scratch("ours"), scratch("theirs"));
    let vm = format!("a=image:{}", image.display());
    let to = format!("file:{}", ours.display());
    let table = rounds(vec![
        (
            "zstd -1 -T2",
            Box::new(|| {
                let out = File::create(&theirs).expect("a file");
                let args = ["-q", "-1", "-T2", "-c", text(&image)];
                timed(Command::new("zstd").args(args).stdout(out))
            }),
        ),
        (
            "mig-send zero,zstd, kept on",
            Box::new(|| {
                let args = [
                    "-q",
                    "--vm",
                    &vm,
                    "--filters",
                    "unused,zero,zstd",
                    "--keep-filters",
                    "--to",
                    &to,
                ];
                timed(&mut mig("mig-send", &args))
            }),
        ),
        ("mig-send none | mig-recv --discard", Box::new(|| moved(&vm, "none", &["--discard"]))),
        ("mig-send auto | mig-recv --discard", Box::new(|| moved(&vm, "auto", &["--discard"]))),
    ]);
    table.speed(512 << 20);
    table.ratio("ours / zstd (time at most 1.2)", 0, 1);
    let length = |path: &Path| fs::metadata(path).expect("it is there").len() as f64;
    println!("   bytes, ours / zstd: {:.3} (at most 1)", length(&ours) / length(&theirs));
    table.ratio("auto / none on a fast link (never slower)", 3, 2);
    for path in [image, ours, theirs] {
        fs::remove_file(path).expect("it goes");
    }
}

fn peak_memory() {
    for (what, extra) in [("every page its own", "anon"), ("all shared with a fork", "fork")] {
        let mut peaks = Vec::new();
        for pages in [PAGES / 4, PAGES] {
            let region = format!("anon:{pages}");
            let args: &[&str] = if extra == "fork" { &["fork=1", &region] } else { &[&region] };
            let holder = Holder::new(args);
            let herd = scratch("herd");
            let mut send = mig("mig-send", &["-q", "--filters", "auto"]);
            for pid in holder.pids() {
                send.args(["--vm", &format!("v{pid}=pid:{pid},map=anon")]);
            }
            let mut recv = mig("mig-recv", &["-q", "--into", text(&herd)]);
            let mut send = send.stdout(Stdio::piped()).spawn().expect("it starts");
            let out = send.stdout.take().expect("a pipe");
            let mut recv = recv.stdin(out).spawn().expect("it starts");
            let peaks_now = both_peaks(&mut send, &mut recv);
            let vms = holder.pids().len() as u64;
            peaks.push((pages * vms, peaks_now));
            fs::remove_dir_all(&herd).expect("the herd goes");
        }
        let (small, large) = (&peaks[0], &peaks[1]);
        let growth = |a: u64, b: u64| (b as f64 - a as f64) / (large.0 - small.0) as f64;
        println!(
            "   {what}: mig-send {} KiB, {:.1} bytes a page; mig-recv {} KiB, {:.1} bytes a page (at most 16)",
            large.1.0 / 1024,
            growth(small.1.0, large.1.0),
            large.1.1 / 1024,
            growth(small.1.1, large.1.1),
        );
    }
}

// --- rounds ------------------------------------------------------------------

struct Table {
    names: Vec<String>,
    /// By case, by round, in seconds.
    times: Vec<Vec<f64>>,
}

type Case<'a> = (&'static str, Box<dyn FnMut() -> Duration + 'a>);

fn rounds(mut cases: Vec<Case<'_>>) -> Table {
    let mut times = vec![Vec::new(); cases.len()];
    for round in 0..ROUNDS {
        for (times, (_, case)) in times.iter_mut().zip(&mut cases) {
            let time = case().as_secs_f64();
            if round > 0 {
                times.push(time);
            }
        }
    }
    let names = cases.into_iter().map(|(name, _)| name.to_owned()).collect();
    Table { names, times }
}

impl Table {
    fn speed(&self, bytes: u64) {
        for (name, times) in self.names.iter().zip(&self.times) {
            let time = median(&mut times.clone());
            println!("   {name:44} {time:7.3} s  {:6.2} GB/s", bytes as f64 / 1e9 / time);
        }
    }

    /// How fast case `a` is for case `b`: the median over the rounds.
    fn ratio(&self, what: &str, a: usize, b: usize) {
        let mut ratios: Vec<f64> =
            self.times[b].iter().zip(&self.times[a]).map(|(b, a)| b / a).collect();
        println!("   {what}: {:.2}", median(&mut ratios));
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

// --- commands ----------------------------------------------------------------

fn beside(name: &str) -> PathBuf {
    // target/release/deps/moves-…: the commands lie two folders up
    let own = std::env::current_exe().expect("our own path");
    own.ancestors().nth(2).expect("a target folder").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("plain names")
}

fn scratch(name: &str) -> PathBuf {
    PathBuf::from(format!("/dev/shm/pageherd-bench-{}-{name}", std::process::id()))
}

fn mig(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(beside(name));
    command.args(args);
    command
}

fn role(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("our own path"));
    command.arg("role").args(args);
    command
}

fn timed(command: &mut Command) -> Duration {
    let start = Instant::now();
    assert!(command.status().expect("it runs").success());
    start.elapsed()
}

/// The time that a role itself says.
fn said(mut command: Command) -> Duration {
    let out = command.output().expect("it runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Duration::from_secs_f64(String::from_utf8_lossy(&out.stdout).trim().parse().expect("seconds"))
}

fn pair(mut left: Command, mut right: Command) -> Duration {
    let start = Instant::now();
    let mut left = left.stdout(Stdio::piped()).spawn().expect("it starts");
    let out = left.stdout.take().expect("a pipe");
    let mut reader = right.stdin(out).spawn().expect("it starts");
    drop(right); // it holds the reading end, and mig-send looks at who does
    let right = reader.wait().expect("it ends");
    assert!(left.wait().expect("it ends").success() && right.success());
    start.elapsed()
}

fn moved(vm: &str, filters: &str, to: &[&str]) -> Duration {
    let send = mig("mig-send", &["-q", "--vm", vm, "--filters", filters]);
    let mut recv = mig("mig-recv", &["-q"]);
    recv.args(to);
    pair(send, recv)
}

fn billed(vm: &str, filters: &str, to: &[&str]) -> (Duration, Value) {
    let start = Instant::now();
    let args = ["--json", "--vm", vm, "--filters", filters, "--keep-filters"];
    let mut send = mig("mig-send", &args);
    let mut send = send.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let out = send.stdout.take().expect("a pipe");
    let mut recv = mig("mig-recv", &["-q"]).args(to).stdin(out).spawn().expect("it starts");
    let recv = recv.wait().expect("it ends");
    let send = send.wait_with_output().expect("it ends");
    assert!(send.status.success() && recv.success());
    let words = String::from_utf8_lossy(&send.stderr).into_owned();
    let line = words.lines().find(|line| line.starts_with('{')).expect("a bill");
    (start.elapsed(), serde_json::from_str(line).expect("in JSON"))
}

/// Waits for two commands and tells the most memory that each had, as last seen.
fn both_peaks(left: &mut Child, right: &mut Child) -> (u64, u64) {
    let mut most = [0; 2];
    loop {
        let mut ended = true;
        for (most, child) in most.iter_mut().zip([&mut *left, &mut *right]) {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id()));
            let status = status.unwrap_or_default();
            let line = status.lines().find(|line| line.starts_with("VmHWM:"));
            let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            *most = kib.map_or(*most, |kib| kib * 1024).max(*most);
            ended &= child.try_wait().expect("it can be asked").is_some();
        }
        if ended {
            return (most[0], most[1]);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A tmpfs that gives out huge pages, for a herd (`mount -o huge=always`). It goes with this value.
struct HugeTmpfs(PathBuf);

impl HugeTmpfs {
    fn new() -> Self {
        let at = scratch("huge");
        fs::create_dir_all(&at).expect("a folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "huge=always", "bench"]).arg(&at);
        assert!(mount.status().expect("mount runs").success(), "it is mounted");
        Self(at)
    }
}

impl Drop for HugeTmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

/// A process that holds memory, with its children.
struct Holder {
    child: Child,
    pid: i32,
    children: Vec<i32>,
    ranges: Vec<String>,
}

impl Holder {
    fn new(args: &[&str]) -> Self {
        let mut child = Command::new(beside("examples/holder"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the holder starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("it has an output");
        BufReader::new(out).read_line(&mut line).expect("it says what it holds");
        let said: Value = serde_json::from_str(&line).expect("in JSON");
        let pid = |v: &Value| i32::try_from(v.as_i64().expect("a number")).expect("a pid");
        let children = said["children"].as_array().expect("a list").iter().map(pid).collect();
        let range = |region: &Value| region["range"].as_str().expect("a range").to_owned();
        let ranges = said["regions"].as_array().expect("regions").iter().map(range).collect();
        Self { pid: pid(&said["pid"]), children, ranges, child }
    }

    /// Its first region as a target.
    fn vm(&self) -> String {
        format!("a=pid:{},range={}", self.pid, self.ranges[0])
    }

    /// Its first regions through /proc/PID/mem and a pipe.
    fn pump(&self, regions: usize) -> Duration {
        let pid = self.pid.to_string();
        let mut args = vec!["pump", pid.as_str()];
        args.extend(self.ranges[..regions].iter().map(String::as_str));
        pair(role(&args), role(&["read"]))
    }

    fn pids(&self) -> Vec<i32> {
        std::iter::once(self.pid).chain(self.children.iter().copied()).collect()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// --- peers and limits --------------------------------------------------------

fn write_pipe(bytes: u64) {
    let buffer = vec![7u8; MIB];
    let mut out = std::io::stdout().lock();
    widen(&out);
    for _ in 0..bytes / MIB as u64 {
        out.write_all(&buffer).expect("the pipe takes it");
    }
}

fn read_pipe() {
    let mut buffer = vec![0u8; MIB];
    let stdin = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned();
    let mut input = File::from(stdin.expect("a copy"));
    widen(&input);
    while input.read(&mut buffer).expect("the pipe gives it") > 0 {}
}

fn widen(fd: &impl std::os::fd::AsFd) {
    let size = nix::fcntl::FcntlArg::F_SETPIPE_SZ(1 << 20);
    let _ = nix::fcntl::fcntl(fd, size);
}

fn pump(pid: &str, ranges: &[&str]) {
    let memory = File::open(format!("/proc/{pid}/mem")).expect("its memory");
    let mut buffer = vec![0u8; MIB];
    let mut out = std::io::stdout().lock();
    widen(&out);
    let hex = |text| u64::from_str_radix(text, 16).expect("an address");
    for range in ranges {
        let (from, to) = range.split_once('-').expect("two addresses");
        let (mut at, to) = (hex(from), hex(to));
        while at < to {
            let some = &mut buffer[..MIB.min(usize::try_from(to - at).expect("it fits"))];
            memory.read_exact_at(some, at).expect("it is there");
            out.write_all(some).expect("the pipe takes it");
            at += some.len() as u64;
        }
    }
}

fn raw_tcp() -> Duration {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("its address");
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a peer");
        let mut buffer = vec![0u8; MIB];
        while stream.read(&mut buffer).expect("it gives") > 0 {}
    });
    let mut stream = TcpStream::connect(at).expect("it listens");
    let buffer = vec![7u8; MIB];
    let start = Instant::now();
    for _ in 0..BYTES / MIB as u64 {
        stream.write_all(&buffer).expect("it takes");
    }
    drop(stream);
    reader.join().expect("it ends");
    start.elapsed()
}

/// Fills fresh anonymous memory by UFFDIO_COPY in pieces of 2 MiB, and says how long that took.
fn fresh_by_uffd(bytes: u64) {
    use linux_raw_sys::general::{uffdio_api, uffdio_copy, uffdio_range, uffdio_register};
    nix::ioctl_readwrite!(api, 0xAA, 0x3f, uffdio_api);
    nix::ioctl_readwrite!(register, 0xAA, 0x00, uffdio_register);
    nix::ioctl_readwrite!(copy, 0xAA, 0x03, uffdio_copy);
    const PIECE: u64 = 2 << 20;
    let length = usize::try_from(bytes).expect("it fits");
    // SAFETY: a system call with one integer.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    let fd = i32::try_from(fd).expect("a descriptor");
    assert!(fd >= 0, "userfaultfd: {}", std::io::Error::last_os_error());
    let target = memmap2::MmapMut::map_anon(length).expect("memory");
    target.advise(memmap2::Advice::NoHugePage).expect("small pages");
    let source = vec![7u8; usize::try_from(PIECE).expect("it fits")];
    let start = target.as_ptr() as u64;
    let mut asked = uffdio_api { api: 0xAA, features: 0, ioctls: 0 };
    let range = uffdio_range { start, len: bytes };
    let mut wanted = uffdio_register { range, mode: 1, ioctls: 0 };
    // SAFETY: both structs are the kernel's own and live on our stack.
    unsafe {
        api(fd, &raw mut asked).expect("UFFDIO_API");
        register(fd, &raw mut wanted).expect("UFFDIO_REGISTER");
    }
    let begun = Instant::now();
    for at in (0..bytes).step_by(usize::try_from(PIECE).expect("it fits")) {
        let mut one = uffdio_copy {
            dst: start + at,
            src: source.as_ptr() as u64,
            len: PIECE,
            mode: 0,
            copy: 0,
        };
        // SAFETY: `dst` is within our own mapping, which nobody looks at, `src` is as long as `len`.
        unsafe { copy(fd, &raw mut one) }.expect("UFFDIO_COPY");
    }
    println!("{}", begun.elapsed().as_secs_f64());
}

/// An image of what memory holds: programs and libraries, and zeros between them.
fn make_image(path: &Path, bytes: u64) {
    let out = File::create(path).expect("an image");
    out.set_len(bytes).expect("its length");
    let mut files: Vec<PathBuf> = ["/usr/bin", "/usr/lib/x86_64-linux-gnu"]
        .iter()
        .flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()))
        .filter(|path| {
            path.symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.len() > 65536)
        })
        .collect();
    files.sort();
    let mut at = 0;
    for content in files.iter().filter_map(|path| fs::read(path).ok()).cycle().take(100_000) {
        let whole = content.len() / 4096 * 4096;
        if at + whole as u64 > bytes {
            return;
        }
        out.write_all_at(&content[..whole], at).expect("it takes");
        at += whole as u64 + whole as u64 / 8 / 4096 * 4096; // an eighth of zeros
    }
}
