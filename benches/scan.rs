//! memscan against the bare reads that it needs and against its peers, as ratios in one run.
//!
//! Each round runs every case once, one after the other, so that what else the machine does hits
//! all of them; the first round is dropped, and the median of the ratios of the others is told.
//! Times are of the calls themselves, without the start of a process, but for page-types, which is
//! a program. Run it with `make bench` on an idle machine; it needs root.

use nix::time::{ClockId, clock_gettime};
use pageherd::abi::pagemap::Entry;
use pageherd::analyze::matrix::matrix;
use pageherd::analyze::summary::summary;
use pageherd::analyze::{Options, scan};
use pageherd::base::target::{Part, Target, TargetKind};
use pageherd::source::host::Host;
use pageherd::source::resolve::resolve;
use pageherd::sys::process::Process;
use serde_json::Value;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Rounds, the first of which is dropped.
const ROUNDS: usize = 12;

fn main() {
    let mut args = std::env::args();
    if args.nth(1).as_deref() == Some(PEAK) {
        return run_and_say_peak(args);
    }
    // `cargo test --benches` only wants to know that this builds and starts.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let exclusive = Holder::new(&["anon:1048576"]);
    ratios("one process, 4 GiB, every page its own", &exclusive.pids[..1]);
    let alone = memory(&exclusive.pids[..1]);
    drop(exclusive);
    let half = Holder::new(&["fork=19", "dirty=25600", "anon:51200"]);
    ratios("20 processes of 200 MiB, half of it shared by all", &half.pids);
    drop(half);
    let all = Holder::new(&["fork=19", "anon:51200"]);
    ratios("20 processes of 200 MiB, all of it shared by all", &all.pids);
    let shared = memory(&all.pids);
    let bounded = bounded(&all.pids, 8 << 20);
    drop(all);
    report_memory(&alone, &shared, &bounded);
}

/// A process that holds memory, with its children.
struct Holder {
    child: Child,
    pids: Vec<i32>,
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
        let number = |v: &Value| i32::try_from(v.as_i64().expect("a number")).expect("a pid");
        let children = said["children"].as_array().expect("a list").iter().map(number);
        let pids = std::iter::once(number(&said["pid"])).chain(children).collect();
        Self { child, pids }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that cargo built beside this one.
fn beside(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a path");
    own.parent().and_then(Path::parent).expect("a folder").join(name)
}

/// What a case cost.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

fn cost(work: impl FnOnce()) -> Cost {
    let cpu = || Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("a clock"));
    let (wall_start, cpu_start) = (Instant::now(), cpu());
    work();
    Cost { wall: wall_start.elapsed(), cpu: cpu() - cpu_start }
}

/// The bound: every entry of every mapping, read and dropped.
fn bare_read(pids: &[i32]) {
    let mut buffer = vec![Entry(0); 8192];
    for &pid in pids {
        let process = Process::open(pid).expect("it lives");
        for vma in process.maps().expect("it has mappings") {
            for piece in vma.pages.pieces(8192) {
                let want = usize::try_from(piece.pages()).expect("small");
                black_box(process.entries(piece.start, &mut buffer[..want]).expect("readable"));
            }
        }
    }
}

/// All that memscan does between its start and its output.
fn whole_scan(pids: &[i32], threads: usize) {
    let targets: Vec<Target> = pids
        .iter()
        .map(|&pid| Target { name: None, kind: TargetKind::Pid { pid, part: Part::Auto } })
        .collect();
    let host = Host::open().expect("root");
    let vms = resolve(&targets, host.caps().pagemap_scan).expect("they live").vms;
    let options = Options { threads, ..Options::default() };
    let found = scan(&vms, &host, &options, &|_| {}).expect("a scan");
    black_box((summary(&found), matrix(&found, false)));
}

fn smaps_rollup(pids: &[i32]) {
    for pid in pids {
        let mut text = String::new();
        let mut file = std::fs::File::open(format!("/proc/{pid}/smaps_rollup")).expect("it lives");
        file.read_to_string(&mut text).expect("readable");
        black_box(text);
    }
}

fn page_types(program: &Path, pids: &[i32]) {
    for pid in pids {
        let pid = pid.to_string();
        let out = Command::new(program).args(["-p", &pid]).output().expect("page-types runs");
        black_box(out);
    }
}

fn ratios(title: &str, pids: &[i32]) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest/page-types");
    let have_page_types = program.exists();
    let names = [
        "bare read of pagemap",
        "summary and matrix, 1 thread",
        "summary and matrix, 2 threads",
        "cat smaps_rollup",
        "page-types -p (a program)",
    ];
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); names.len()];
    for round in 0..ROUNDS {
        let mut one = [None; 5];
        one[0] = Some(cost(|| bare_read(pids)));
        one[1] = Some(cost(|| whole_scan(pids, 1)));
        one[2] = Some(cost(|| whole_scan(pids, 2)));
        one[3] = Some(cost(|| smaps_rollup(pids)));
        if have_page_types && round < 4 {
            one[4] = Some(cost(|| page_types(&program, pids)));
        }
        if round > 0 {
            for (list, cost) in costs.iter_mut().zip(one) {
                list.extend(cost);
            }
        }
    }
    println!(
        "\n{title}\n{:32} {:>10} {:>10} {:>12} {:>12}",
        "", "wall ms", "cpu ms", "wall / bare", "cpu / bare"
    );
    let base = costs[0].clone();
    for (name, list) in names.iter().zip(&costs).filter(|(_, list)| !list.is_empty()) {
        let millis = |d: Duration| d.as_secs_f64() * 1e3;
        let wall = median(list.iter().map(|c| millis(c.wall)));
        let cpu = median(list.iter().map(|c| millis(c.cpu)));
        let against = |part: fn(&Cost) -> Duration| {
            median(list.iter().zip(&base).map(|(c, b)| millis(part(c)) / millis(part(b))))
        };
        // a program's CPU time is its own, not ours
        let cpu_ratio = if name.contains("program") {
            String::new()
        } else {
            format!("{:12.2} {:12.2}", against(|c| c.wall), against(|c| c.cpu))
        };
        let cpu_ratio =
            if cpu_ratio.is_empty() { format!("{:12.2}", against(|c| c.wall)) } else { cpu_ratio };
        println!("{name:32} {wall:10.1} {cpu:10.1} {cpu_ratio}");
    }
    if !have_page_types {
        println!("(page-types is not there: scripts/guest-assets builds it)");
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Peak memory of a memscan that summarises these processes, and how many pages of which kind it
/// saw.
struct Peak {
    kib: u64,
    exclusive: u64,
    sightings: u64,
    passes: u64,
}

fn memory(pids: &[i32]) -> Peak {
    peak(pids, &[])
}

fn bounded(pids: &[i32], bytes: u64) -> Peak {
    peak(pids, &["--memory", &bytes.to_string()])
}

fn peak(pids: &[i32], more: &[&str]) -> Peak {
    // A process of our own in between, so that memscan is the only child whose peak is asked for.
    let out = Command::new(std::env::current_exe().expect("a path"))
        .arg(PEAK)
        .arg(beside("memscan"))
        .args(["summary", "--json", "--threads", "1"])
        .args(more)
        .args(pids.iter().map(|pid| format!("pid:{pid}")))
        .output()
        .expect("memscan runs");
    let said: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let kib = String::from_utf8_lossy(&out.stderr).trim().parse().expect("a number");
    let vms = said["vms"].as_array().expect("a list");
    let sum = |key: &str| vms.iter().map(|vm| vm[key].as_u64().unwrap_or(0)).sum::<u64>();
    Peak {
        kib,
        exclusive: sum("unique_pages"),
        sightings: sum("shared_pages"),
        passes: said["passes"].as_u64().unwrap_or(0),
    }
}

/// Has this program run another and say its peak memory, in KiB, on standard error.
const PEAK: &str = "--peak-of";

fn run_and_say_peak(mut args: std::env::Args) {
    let program = args.next().expect("a program");
    let status = Command::new(program).args(args).status().expect("it runs");
    assert!(status.success());
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN);
    eprintln!("{}", usage.expect("a usage").max_rss());
}

fn report_memory(alone: &Peak, shared: &Peak, bounded: &Peak) {
    println!("\npeak memory of memscan, one thread");
    for (name, p) in [
        ("4 GiB exclusive", alone),
        ("4 GiB shared by 20", shared),
        ("the same, --memory 8M", bounded),
    ] {
        println!(
            "{name:24} {:8} KiB  ({} pages exclusive, {} not, {} passes)",
            p.kib, p.exclusive, p.sightings, p.passes
        );
    }
    let grown = shared.kib.saturating_sub(alone.kib) * 1024;
    println!(
        "bytes for each page that is not exclusive: {:.1}",
        grown as f64 / shared.sightings.max(1) as f64
    );
}
