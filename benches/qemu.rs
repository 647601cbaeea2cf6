//! Moves of real QEMU guests through `mig-send --qemu` and `mig-recv --qemu`, against QEMU's own ways.
//!
//! Each round moves the same guest (or guests) once in every way, one after the other, so that what
//! else the machine does hits all of them; the first round is dropped, and the median of the ratios is
//! told. A move begins with the command `migrate` and is over when QEMU at the source says `completed`
//! and the guest runs at the other end; then the source goes on, and moves again. The QEMU that waits,
//! and what it starts, are there before. Bytes are counted by a relay between the ends, in both
//! directions; it can keep all that goes through it, together, to a rate. `make bench` on an idle
//! machine, as root; one part by its name, and with QEMU 10 instead of the one that is installed:
//! `cargo bench --bench qemu -- gbit v10`.

#[path = "qemu/link.rs"]
mod link;
#[path = "qemu/rounds.rs"]
mod rounds;
#[path = "../tests/support/mod.rs"]
mod support;
use link::{Ether, Relay, To, Wire};
use rounds::{Measure, Run, rounds};

use serde_json::json;
use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::qemu::{Build, Guest, Template, Version, exec, ready_with};
use support::{root, tmp, tool, wait_for};

/// Rounds, the first of which is dropped.
const ROUNDS: usize = 6;
/// Rounds where bytes are counted, which hardly differ.
const FEW: usize = 3;
/// Nothing takes as long.
const LONG: Duration = Duration::from_secs(180);
/// Between two looks at the state of a move.
const LOOK: Duration = Duration::from_millis(2);
/// A link of 1 Gbit/s, in bytes.
const GBIT: f64 = 125e6;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    // `cargo test --benches` only wants to know that this builds and starts
    if !words.contains(&"--bench") {
        return;
    }
    let version = if words.contains(&"v10") { Version::V10 } else { Version::V7 };
    let mut only = words.iter().filter(|word| !word.starts_with('-') && **word != "v10");
    let only = only.next().copied().unwrap_or("");
    if !ready_with("qemu", &[version]) {
        return;
    }
    type Part = fn(Version);
    let all: [(&str, Part); 5] = [
        ("exec", nothing_to_save),
        ("bytes", one_guest),
        ("template", onto_templates),
        ("group", of_a_group),
        ("gbit", on_a_slow_link),
    ];
    for (name, case) in all.iter().filter(|(name, _)| name.contains(only)) {
        println!("\n== {name}");
        case(version);
    }
}

// --- what is measured against what -------------------------------------------

fn nothing_to_save(version: Version) {
    let shape = Shape { mib: 1024, load: 640, ..Shape::new("full", version) };
    let source = shape.build().boot();
    let to = shape.build();
    let way = |way: Way| -> Run<'_> {
        let (source, to) = (&source, &to);
        Box::new(move || go(vec![Ready::new(source, to, &way, None)]))
    };
    let herd = Herd::new("full");
    let table = rounds(
        ROUNDS,
        vec![
            ("QEMU, exec:cat | fifo | exec:cat", way(Way::Cat)),
            ("QEMU, tcp", way(Way::Tcp(None))),
            ("QEMU, multifd 2", way(Way::Tcp(Some("none")))),
            ("mig-send --qemu, auto", way(Way::ours(""))),
            ("mig-send --qemu, none", way(Way::ours("--filters none"))),
            ("mig-send pid:, none, tcp, into a herd", Box::new(|| herd.takes(&source, "none"))),
            ("QEMU, exec:cat > /dev/null", Box::new(|| dropped(&source))),
        ],
    );
    table.show(shape.bytes());
    table.time("ours auto / exec:cat (at most 1)", 3, 0);
    table.time("ours none / exec:cat (at most 1)", 4, 0);
    table.time("ours auto / tcp", 3, 1);
    table.time("ours auto / multifd", 3, 2);
    table.time("RAM read by us, into a herd / multifd (at most 1)", 5, 2);
}

fn one_guest(version: Version) {
    let idle = Shape::new("idle", version);
    let cached = Shape { mib: 1024, file: 64, copies: 9, ..Shape::new("cached", version) };
    for (what, shape, goal) in
        [("idle", idle, 0.75), ("a file of 64 MiB and eight copies of it, cached", cached, 0.22)]
    {
        println!("   {what}:");
        let source = shape.build().boot();
        let to = shape.build();
        let (wire, slow) = (Wire::new(None), Wire::new(Some(GBIT)));
        let way = |way| over(&wire, &source, &to, way);
        let table = rounds(
            FEW,
            vec![
                ("QEMU, tcp", way(Way::Tcp(None))),
                ("QEMU, multifd 2, zstd", way(Way::Tcp(Some("zstd")))),
                (
                    "mig-send --qemu, zero,same",
                    way(Way::ours("--filters zero,same --keep-filters")),
                ),
                ("mig-send --qemu, auto, on a fast link", way(Way::ours(""))),
                (
                    "mig-send --qemu, zero,same,zstd",
                    way(Way::ours("--filters zero,same,zstd --keep-filters")),
                ),
                ("mig-send --qemu, auto, on 1 Gbit/s", over(&slow, &source, &to, Way::ours(""))),
            ],
        );
        table.show(shape.bytes());
        table.bytes(&format!("zero,same / QEMU (at most {goal})"), 2, 0);
        table.bytes(&format!("auto on 1 Gbit/s / QEMU (at most {goal})"), 5, 0);
        table.bytes("auto, which leaves off what is slower than the link / QEMU", 3, 0);
        table.bytes("zstd / QEMU's zstd multifd (at most 0.7)", 4, 1);
    }
}

/// One move over this link.
fn over<'a>(wire: &'a Wire, source: &'a Guest, to: &'a Build, way: Way) -> Run<'a> {
    Box::new(move || go(vec![Ready::new(source, to, &way, Some(wire))]))
}

fn onto_templates(version: Version) {
    clone_of_template(version, None);
    for (nokaslr, goal) in [(false, 0.50), (true, 0.20)] {
        let shape = Shape { nokaslr, ..Shape::new("boot", version) };
        println!("   idle, a template of another boot, {}:", shape.kernel());
        let template = Template::new(shape.build());
        let source = shape.build().boot();
        let wire = Wire::new(None);
        let table = rounds(FEW, clone_cases(&source, &shape, &template, &wire));
        table.show(shape.bytes());
        table.bytes(&format!("ours / QEMU (at most {goal})"), 1, 0);
        table.bytes(&format!("ours, uncompressed / QEMU (at most {goal})"), 2, 0);
    }
}

fn of_a_group(version: Version) {
    group_of_four(version, None);
}

fn on_a_slow_link(version: Version) {
    clone_of_template(version, Some(GBIT));
    group_of_four(version, Some(GBIT));
}

/// An idle clone goes to where its template is.
fn clone_of_template(version: Version, rate: Option<f64>) {
    let shape = Shape { mib: 1024, load: 512, ..Shape::new("clone", version) };
    println!("   a clone of a template of 1 GiB, half of it filled, idle:");
    let template = Template::new(shape.build());
    let source = template.start("web1");
    let wire = Wire::new(rate);
    let table = rounds(
        if rate.is_some() { ROUNDS } else { FEW },
        clone_cases(&source, &shape, &template, &wire),
    );
    table.show(shape.bytes());
    table.bytes("ours / QEMU (TLM: at most 0.08)", 1, 0);
    table.bytes("ours, uncompressed / QEMU (TLM: at most 0.08)", 2, 0);
    if rate.is_some() {
        table.time("ours / QEMU (TLM: at most 0.06)", 1, 0);
        table.time("ours, uncompressed / QEMU (TLM: at most 0.06)", 2, 0);
    }
}

/// QEMU's own stream, and ours onto a template.
fn clone_cases<'a>(
    source: &'a Guest,
    shape: &'a Shape,
    template: &Template,
    wire: &'a Wire,
) -> Vec<(&'static str, Run<'a>)> {
    let (plain, on) = (shape.build(), template.build("web1"));
    let named = format!("--template {}", template.path().display());
    let ours = move |filters: &str| -> Run<'a> {
        let (on, way) =
            (on.clone(), Way::Ours { send: format!("{named} {filters}"), recv: named.clone() });
        Box::new(move || go(vec![Ready::new(source, &on, &way, Some(wire))]))
    };
    vec![
        (
            "QEMU, tcp",
            Box::new(move || go(vec![Ready::new(source, &plain, &Way::Tcp(None), Some(wire))])),
        ),
        ("mig-send --qemu --template, auto", ours("")),
        (
            "mig-send --qemu --template, zero,template,same",
            ours("--filters zero,template,same --keep-filters"),
        ),
    ]
}

/// Four guests that were booted alike move at once.
fn group_of_four(version: Version, rate: Option<f64>) {
    let idle = Shape { mib: 256, ..Shape::new("alike", version) };
    let fixed = Shape { mib: 256, nokaslr: true, ..Shape::new("alike", version) };
    let loaded = Shape { mib: 512, load: 160, ..Shape::new("alike", version) };
    let all = [("idle", idle), ("idle, nokaslr", fixed), ("160 MiB alike in each", loaded)];
    for (what, shape) in all {
        println!("   4 guests booted alike, {what}:");
        let sources: Vec<Guest> = (0..4).map(|_| shape.build().spawn()).collect();
        sources.iter().for_each(|source| source.wait_ticks(1));
        let to = shape.build();
        let wire = Wire::new(rate);
        let at_once = |way: &Way| {
            let all = sources.iter().map(|source| Ready::new(source, &to, way, Some(&wire)));
            go(all.collect())
        };
        let grouped = |filters: &str| {
            let group = GroupOnce::new();
            at_once(&group.way(filters))
        };
        // what came before is known, where all at once may send the same page at the same time
        let in_turn = || {
            let group = GroupOnce::new();
            let way = group.way("--filters zero,same");
            let each = sources.iter().map(|s| go(vec![Ready::new(s, &to, &way, Some(&wire))]));
            each.fold(Measure::default(), |all, one| Measure {
                seconds: all.seconds + one.seconds,
                bytes: all.bytes + one.bytes,
            })
        };
        let table = rounds(
            if rate.is_some() { ROUNDS } else { FEW },
            vec![
                ("QEMU, tcp, each for itself", Box::new(|| at_once(&Way::Tcp(None)))),
                ("mig-send --qemu --group, auto", Box::new(|| grouped(""))),
                ("mig-send --qemu --group, zero,same", Box::new(|| grouped("--filters zero,same"))),
                ("the same, one after another", Box::new(in_turn)),
            ],
        );
        table.show(4 * shape.bytes());
        table.bytes("ours / QEMU (SLM: at most 0.38)", 1, 0);
        table.bytes("ours, uncompressed / QEMU (SLM: at most 0.38)", 2, 0);
        table.bytes("ours, uncompressed, one after another / QEMU", 3, 0);
        if rate.is_some() {
            table.time("ours / QEMU (SLM: at most 0.41)", 1, 0);
            table.time("ours, uncompressed / QEMU (SLM: at most 0.41)", 2, 0);
        }
    }
}

// --- guests ------------------------------------------------------------------

/// What a guest has in its memory; then it only looks after 1 MiB of it, once a second.
struct Shape {
    name: &'static str,
    version: Version,
    mib: u64,
    /// MiB that are the same in each guest, no page like another.
    load: u64,
    /// MiB of random bytes in a file, and how often it is cached.
    file: u64,
    copies: u64,
    nokaslr: bool,
}

impl Shape {
    const fn new(name: &'static str, version: Version) -> Self {
        Self { name, version, mib: 512, load: 0, file: 0, copies: 0, nokaslr: false }
    }

    const fn kernel(&self) -> &'static str {
        if self.nokaslr { "nokaslr" } else { "KASLR" }
    }

    fn build(&self) -> Build {
        let Self { load, file, copies, .. } = self;
        let nokaslr = if self.nokaslr { " nokaslr" } else { "" };
        // no_timer_check: a guest that starts on a busy host may think its timer broken
        let line = format!(
            "console=ttyS0 quiet panic=-1 no_timer_check{nokaslr} work=1 seed=1 tick=1000 \
             load={load} file={file} copies={copies}"
        );
        let build = Build {
            version: self.version,
            mib: self.mib,
            // not a multiple of 256 KiB: see Build::small
            kib: 8,
            ..Build::new(self.name, 1)
        };
        // QEMU takes the last of each
        build.more(&["-append", &line, "-initrd", text(&initrd())])
    }

    fn bytes(&self) -> u64 {
        self.build().bytes()
    }
}

/// The tests' initrd with an init of our own before guest-work. Words of the kernel's command line that
/// the kernel does not know are in init's environment.
fn initrd() -> PathBuf {
    const INIT: &str = "#!/bin/sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mkdir -p /t
/bin/busybox mount -t tmpfs -o size=90% t /t
if [ ${file:-0} -gt 0 ]; then
    /bin/busybox dd if=/dev/urandom of=/t/1 bs=1M count=$file 2>/dev/null
    for i in $(/bin/busybox seq 2 $copies); do /bin/busybox cat /t/1 >/t/$i; done
fi
if [ ${load:-0} -gt 0 ]; then
    # another guest-work, which fills so much and looks at it in a day
    echo \"work=$load seed=1 tick=86400000\" >/t/cmdline
    /bin/busybox mount --bind /t/cmdline /proc/cmdline
    /bin/guest-work >/t/said &
    until /bin/busybox grep -q READY /t/said; do /bin/busybox sleep 0.2; done
    /bin/busybox umount /proc/cmdline
fi
exec /bin/guest-work
";
    let path = tmp("bench-initrd");
    let new = tmp(&format!("bench-initrd.{}", std::process::id()));
    let mut bytes = fs::read(root().join("target/guest/initrd.gz")).expect("the tests' initrd");
    // a second archive begins at a multiple of 4
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    archive(&mut bytes, &[("init", INIT), ("TRAILER!!!", "")]);
    fs::write(&new, bytes).expect("an initrd");
    fs::rename(new, &path).expect("its name");
    path
}

/// An archive as the kernel unpacks it: cpio, newc, of programs.
fn archive(to: &mut Vec<u8>, files: &[(&str, &str)]) {
    for (inode, (name, content)) in (1..).zip(files) {
        let (mode, size, named) = (0o100_755, content.len(), name.len() + 1);
        let mut head = "070701".to_owned();
        for field in [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, named, 0] {
            let _ = write!(head, "{field:08x}");
        }
        for part in [&[head.as_bytes(), name.as_bytes(), b"\0"].concat(), content.as_bytes()] {
            to.extend_from_slice(part);
            to.resize(to.len().next_multiple_of(4), 0);
        }
    }
}

// --- moves -------------------------------------------------------------------

/// How a guest moves.
enum Way {
    /// By `exec:` at both ends: flags of mig-send and of mig-recv.
    Ours { send: String, recv: String },
    /// By `exec:cat` at both ends and a FIFO between.
    Cat,
    /// As QEMU does it, with two channels of multifd and this compression.
    Tcp(Option<&'static str>),
}

impl Way {
    fn ours(send: &str) -> Self {
        Self::Ours { send: send.to_owned(), recv: String::new() }
    }
}

/// A move that can begin: the other end waits.
struct Ready<'a> {
    source: &'a Guest,
    there: Guest,
    uri: String,
    multifd: bool,
    relay: Option<Relay>,
}

impl<'a> Ready<'a> {
    fn new(source: &'a Guest, to: &Build, way: &Way, wire: Option<&Wire>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = |name: &str| source.path(&format!("{name}{number}"));
        source.control().unthrottle();
        let multifd = matches!(way, Way::Tcp(Some(_)));
        let (there, uri, relay) = match way {
            Way::Cat => {
                let fifo = path("fifo");
                nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
                let there = to.incoming(&exec(&format!("cat {}", fifo.display()))).spawn();
                (there, exec(&format!("cat > {}", fifo.display())), None)
            }
            Way::Tcp(compression) => {
                let there = to.incoming("defer").spawn();
                if let Some(compression) = compression {
                    for end in [source, &there] {
                        let mut control = end.control();
                        control.set_capability("multifd", true);
                        let with =
                            json!({"multifd-channels": 2, "multifd-compression": compression});
                        control.set_parameters(&with);
                    }
                }
                let at = free_port();
                there.control().migrate_incoming(&format!("tcp:127.0.0.1:{at}"));
                let relay = wire.map(|wire| wire.relay(To::Tcp(at)));
                let at = relay.as_ref().map_or(at, |relay| relay.port);
                (there, format!("tcp:127.0.0.1:{at}"), relay)
            }
            Way::Ours { send, recv } => {
                let (socket, said) = (path("socket"), path("said"));
                let program = |name: &str| tool(name).get_program().to_string_lossy().into_owned();
                let there = to
                    .incoming(&exec(&format!(
                        "{} --qemu -q --from unix:{} {recv} 2>>{}",
                        program("mig-recv"),
                        socket.display(),
                        said.display()
                    )))
                    .spawn();
                wait_for("the receiver to listen", LONG, || socket.exists());
                let relay = wire.map(|wire| wire.relay(To::Unix(socket.clone())));
                let address = relay.as_ref().map_or_else(
                    || format!("unix:{}", socket.display()),
                    |relay| format!("tcp:127.0.0.1:{}", relay.port),
                );
                let uri = exec(&format!(
                    "{} --qemu -q --to {address} {send} 2>>{}",
                    program("mig-send"),
                    said.display()
                ));
                (there, uri, relay)
            }
        };
        Self { source, there, uri, multifd, relay }
    }

    /// It went, and runs there.
    fn is_over(&self) -> bool {
        let status = self.source.control().migration_status();
        let failed = ["failed", "cancelled"].contains(&status.as_str());
        assert!(!failed, "{} {}: {}", self.uri, status, self.said());
        status == "completed" && self.there.control().runstate() == "running"
    }

    fn said(&self) -> String {
        let all = fs::read_dir(self.source.path("")).expect("its folder").flatten();
        let all = all.filter(|file| file.file_name().to_string_lossy().starts_with("said"));
        let all = all.map(|file| fs::read_to_string(file.path()).unwrap_or_default());
        all.chain([self.source.stderr(), self.there.stderr()]).collect()
    }
}

/// Begins all moves and waits for their end; then all sources go on, and what has arrived is ended.
fn go(moves: Vec<Ready<'_>>) -> Measure {
    // what the other end prepares is not part of a move
    std::thread::sleep(Duration::from_millis(700));
    let wires: Vec<Arc<Ether>> =
        moves.iter().filter_map(|ready| Some(ready.relay.as_ref()?.ether.clone())).collect();
    let sent = || wires.first().map_or(0, |ether| ether.sent.load(Ordering::Relaxed));
    let (before, start) = (sent(), Instant::now());
    for ready in &moves {
        ready.source.control().migrate(&ready.uri);
    }
    let mut left: Vec<&Ready<'_>> = moves.iter().collect();
    while !left.is_empty() {
        left.retain(|ready| !ready.is_over());
        assert!(start.elapsed() < LONG, "it does not end: {}", left[0].said());
        std::thread::sleep(LOOK);
    }
    let time = start.elapsed();
    for Ready { source, multifd, there, .. } in moves {
        // a guest that cannot go on would be found out here
        there.assert_sane_after(1);
        drop(there);
        let mut control = source.control();
        if multifd {
            control.set_capability("multifd", false);
        }
        control.cont();
    }
    Measure { seconds: time.as_secs_f64(), bytes: sent() - before }
}

/// QEMU's stream is written to a program that drops it: the least that a way by `exec:` can take.
fn dropped(source: &Guest) -> Measure {
    let mut control = source.control();
    control.unthrottle();
    let start = Instant::now();
    control.migrate(&exec("cat > /dev/null"));
    while control.migration_status() != "completed" {
        assert!(start.elapsed() < LONG, "it does not end: {}", source.stderr());
        std::thread::sleep(LOOK);
    }
    let seconds = start.elapsed().as_secs_f64();
    control.cont();
    Measure { seconds, bytes: 0 }
}

/// Memory that is read by us: a QEMU's, as it stands, into a herd in tmpfs.
struct Herd(PathBuf);

impl Herd {
    fn new(name: &str) -> Self {
        Self(format!("/dev/shm/pageherd-bench-{}-{name}", std::process::id()).into())
    }

    fn takes(&self, source: &Guest, filters: &str) -> Measure {
        let at = format!("tcp:127.0.0.1:{}", free_port());
        let mut recv = tool("mig-recv");
        let mut recv =
            recv.args(["-q", "--from", &at, "--into", text(&self.0)]).spawn().expect("mig-recv");
        std::thread::sleep(Duration::from_millis(700)); // until it listens
        let start = Instant::now();
        let vm = format!("web1=pid:{}", source.pid);
        let send =
            tool("mig-send").args(["-q", "--vm", &vm, "--filters", filters, "--to", &at]).status();
        let taken = recv.wait().expect("it ends").success();
        let seconds = start.elapsed().as_secs_f64();
        assert!(send.expect("mig-send").success() && taken);
        fs::remove_dir_all(&self.0).expect("the herd goes");
        Measure { seconds, bytes: 0 }
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A group, which is over with this value.
struct GroupOnce(PathBuf);

impl GroupOnce {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(format!("/dev/shm/pageherd-bench-{}-group{number}", std::process::id()).into())
    }

    fn way(&self, filters: &str) -> Way {
        let name = format!("--group {}", self.0.display());
        Way::Ours { send: format!("{name} {filters}"), recv: name }
    }
}

impl Drop for GroupOnce {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("plain names")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}
