//! Everything that can be wrong with what memscan is given, or with the host: each has its own
//! message, in one line that says what to do, and its own exit code; and nothing is left behind.

#![allow(clippy::unwrap_used)] // a test that cannot go on fails where it stands

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use support::{Holder, memscan, run, skip, wait_for, words};

const MEMSCAN: &str = env!("CARGO_BIN_EXE_memscan");

/// The documented codes, by what they mean.
mod code {
    pub(crate) const PARTIAL: i32 = 3;
    pub(crate) const USAGE: i32 = 64;
    pub(crate) const DATA: i32 = 65;
    pub(crate) const NO_TARGET: i32 = 66;
    pub(crate) const UNAVAILABLE: i32 = 69;
    pub(crate) const IO: i32 = 74;
    pub(crate) const NOT_PERMITTED: i32 = 77;
}

/// Asserts an exit code and that standard error is one line with these words.
#[track_caller]
fn assert_error(what: &str, out: &Output, code: i32, parts: &[&str]) {
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{what}: {}", words(out));
    assert_eq!(said.lines().count(), 1, "{what}: one line: {said}");
    assert!(said.starts_with("memscan: ") && said.ends_with('\n'), "{what}: {said}");
    for part in parts {
        assert!(said.contains(part), "{what}: '{part}' is not in: {said}");
    }
}

/// Runs memscan, which is to fail without a word on standard output.
#[track_caller]
fn refused(args: &[&str], code: i32, parts: &[&str]) {
    let out = within(&mut memscan_with(args));
    assert_error(&args.join(" "), &out, code, parts);
    assert!(out.stdout.is_empty(), "{}: {}", args.join(" "), words(&out));
}

fn memscan_with(args: &[&str]) -> Command {
    let mut command = memscan();
    command.args(args);
    command
}

/// The output of a command that must not hang.
#[track_caller]
fn within(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        if std::time::Instant::now() > end {
            let _ = child.kill();
            panic!("{command:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().unwrap()
}

fn small() -> (Holder, String) {
    let holder = Holder::new(&["anon:64"]);
    let target = holder.target("a", 0);
    (holder, target)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// A number that no process has.
fn no_pid() -> i32 {
    let max: i32 = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap().trim().parse().unwrap();
    (1..).map(|i| max - i).find(|pid| !Path::new(&format!("/proc/{pid}")).exists()).unwrap()
}

#[test]
fn a_command_line_without_sense_is_answered_with_what_to_write() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    for (args, parts) in [
        (&["4711"][..], &["'4711' is not a target", "pid:4711", "memscan --help"][..]),
        (&["sumary"], &["'sumary' is not a target", "subcommands summary, matrix"]),
        (&["pid:1", "matrix"], &["a subcommand comes first", "memscan matrix"]),
        (&["--frobnicate"], &["'--frobnicate'", "memscan --help"]),
        (&["watch", "--intervall", "3"], &["--intervall", "'--interval'", "memscan watch --help"]),
        (&["vm:3"], &["unknown kind 'vm'", "cgroup:PATH"]),
        (&["pid:abc"], &["'abc' is not a process ID"]),
        (&["pid:0"], &["'0' is not a process ID"]),
        (&["pid:-1"], &["'-1' is not a process ID"]),
        (&["a b=pid:1"], &["'a b' cannot be a name", "dashes"]),
        (&["=pid:1"], &["cannot be a name"]),
        (&["pid:1,range="], &["not an address range", "hexadecimal"]),
        (&["pid:1,range=2000-1000"], &["not an address range"]),
        (&["pid:1,map="], &["pattern"]),
        (&["pid:1,frob"], &["unknown option 'frob'", ",map=PATTERN"]),
        (&["comm:"], &["pattern"]),
        (&["image:"], &["path of a memory image"]),
        (&["matrix", "--by", "magic"], &["'magic'", "ksm, fork, file, shmem, zero"]),
        (&["--color", "blue"], &["auto, always, never"]),
        (&["--threads", "1000000"], &["--threads", "0 to 1024"]),
        (&["--threads", "-1"], &["-1"]),
        (&["--memory", "5X"], &["'5X' is no size", "512M"]),
        (&["why", "--read", "-3"], &["-3"]),
        (&["map", "--format", "xml"], &["tsv, jsonl, placement"]),
        (&["map", "--json", "--format", "tsv"], &["--json", "--format"]),
        (&["record"], &["--output", "memscan record --help"]),
        (&["diff", "one"], &["<AFTER>", "memscan diff --help"]),
        (&["diff", "-", "-"], &["only one", "standard input"]),
        (&["what-if", "--leave"], &["a value is required", "--leave"]),
        (&["watch", "--interval", "0", "pid:1"], &["--interval 0", "seconds, above 0"]),
        (&["watch", "--interval", "-2", "pid:1"], &["--interval -2", "above 0"]),
        (&["watch", "--interval", "nan", "pid:1"], &["--interval NaN", "above 0"]),
        (&["watch", "--interval", "soon"], &["'soon'"]),
        (&["watch", "--count", "0"], &["--count", "0"]),
        (&["generate"], &["<MAN>", "<COMPLETIONS>"]),
        (&["diff", folder, folder], &["is a directory", "memscan record"]),
    ] {
        refused(args, code::USAGE, parts);
    }
}

#[test]
fn options_that_do_not_fit_the_targets_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let (h, a) = small();
    let a = a.as_str();
    let pid = format!("pid:{}", h.pid);
    let (again, other) = (format!("b=pid:{}", h.pid), Holder::new(&["anon:64"]));
    let same = other.target("a", 0);
    let twice = format!("process {} is given twice, as a and as b", h.pid);
    for (args, parts) in [
        (&[a, &again][..], &[twice.as_str(), "counted twice"][..]),
        (&[&pid, &pid], &["is given twice"]),
        (&[a, &same], &["two VMs are named a", "b=pid:"]),
        (&["image:/bin/sh", "image:/bin/sh"], &["two VMs are named sh", "b=image:/bin/sh"]),
        (&["comm:[", a], &["'[' is not a shell pattern"]),
        (&[&format!("{pid},map=[a"), a], &["'[a' is not a shell pattern"]),
        (&["--memory", "1", a], &["--memory must be at least 8 MiB"]),
        (&["map", "--memory", "64M", a], &["--memory cannot bound this"]),
        (&["record", "-o", folder, a], &["is a directory", "name a file in it"]),
        (&["-o", "NAME,NIX", a], &["no column 'NIX'", "RESIDENT"]),
        (&["-o", "", a], &["no column ''"]),
        (&["what-if", "-o", "NIX", a], &["no column 'NIX'", "FREED"]),
        (&["what-if", "--leave", "x", a], &["--leave x: there is no such VM; there are a"]),
        (&["what-if", "--leave", "a", "--leave", "a", a], &["--leave a is given twice"]),
    ] {
        refused(args, code::USAGE, parts);
    }
    // one name for two parts of one process is as ambiguous
    let two = Holder::new(&["anon:64", "anon:64"]);
    let (first, second) = (two.target("a", 0), two.target("a", 1));
    refused(&[&first, &second], code::USAGE, &["two VMs are named a"]);
    run(&[&first, &two.target("b", 1)]);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn what_does_not_exist_or_has_no_memory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (h, a) = small();
    let gone = no_pid();
    fs::write(path("empty"), "").unwrap();
    fs::write(path("short"), "less than a page").unwrap();
    nix::unistd::mkfifo(path("fifo").as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let kthread = kernel_thread();
    let image = |name: &str| format!("image:{}", path(name));
    for (args, parts) in [
        (&[&format!("pid:{gone}")][..], vec![format!("there is no process {gone}")]),
        (
            &[&format!("pid:{kthread}")],
            vec![format!("process {kthread} ("), "is a kernel thread".into()],
        ),
        (&[&a, &format!("b=pid:{gone}")], vec![format!("there is no process {gone}")]),
        (
            &[&"comm:no-such-*".to_owned()],
            vec!["comm:no-such-* matches no process".into(), "15 characters".into()],
        ),
        (
            &[&"cgroup:/no/such".to_owned()],
            vec!["no control group /no/such".into(), "/proc/PID/cgroup".into()],
        ),
        (
            &[&format!("pid:{},map=*no-such*", h.pid)],
            vec!["no mapping that matches map=*no-such*".into(), format!("/proc/{}/maps", h.pid)],
        ),
        (
            &[&format!("pid:{},range=1000-2000", h.pid)],
            vec!["no mapping that matches range=1000-2000".into()],
        ),
        (&[&image("none")], vec!["none cannot be read: No such file".into()]),
        (&[&image("empty")], vec!["smaller than a page".into(), "regular file".into()]),
        (&[&image("short")], vec!["smaller than a page".into()]),
        (&[&image("")], vec!["no regular file".into()]),
        (&[&image("fifo")], vec!["no regular file".into()]),
        (&[&"image:/dev/zero".to_owned()], vec!["no regular file".into()]),
    ] {
        let args: Vec<&str> = args.iter().map(|s| s.as_str()).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        refused(&args, code::NO_TARGET, &parts);
    }
    for template in [path("none"), path("fifo"), path("")] {
        refused(&["what-if", "--template", &template, &a], code::NO_TARGET, &[template.as_str()]);
    }
    refused(&["diff", &path("none"), &path("none")], code::NO_TARGET, &["none cannot be read"]);
}

/// A thread of the kernel: kthreadd, where this PID namespace shows it.
fn kernel_thread() -> i32 {
    let is_kernel = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let flags = stat.rsplit(')').next().unwrap_or_default().split_whitespace().nth(6);
        flags.and_then(|f| f.parse::<u64>().ok()).is_some_and(|f| f & 0x0020_0000 != 0)
    };
    (2..100).find(is_kernel).expect("a kernel thread: are we in a PID namespace of our own?")
}

#[test]
fn a_zombie_and_a_thread_are_called_so() {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id();
    let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    wait_for("a zombie", Duration::from_secs(10), || stat().contains(") Z "));
    let target = format!("pid:{pid}");
    refused(&[&target], code::NO_TARGET, &["(true) is a zombie", "its memory is gone"]);
    child.wait().unwrap();

    let (tell, told) = std::sync::mpsc::channel();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        tell.send(nix::unistd::gettid()).unwrap();
        let _ = stopped.recv();
    });
    let target = format!("pid:{}", told.recv().unwrap());
    let own = format!("name the process, pid:{}", std::process::id());
    refused(&[&target], code::NO_TARGET, &["is a thread of process", &own]);
    drop(stop);
    thread.join().unwrap();
}

#[test]
fn a_target_that_vanishes_is_named_once_and_the_rest_is_reported() {
    let (_h, a) = small();
    let mut leaver = Holder::new(&["anon:64"]);
    let b = leaver.target("b", 0);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.prom");
    let watch = memscan()
        .args(["watch", "--json", "--count", "6", "--interval", "0.3", "--prometheus"])
        .args([file.as_os_str(), a.as_ref(), b.as_ref()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the first scan", Duration::from_secs(20), || file.exists());
    leaver.kill();
    let out = watch.wait_with_output().unwrap();
    assert_error("a target vanishes", &out, code::PARTIAL, &["b exited", "left out"]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(text.lines().count(), 6, "the rest is watched to the end");
    let points: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ended: Vec<_> = points.iter().filter(|p| p["vms"][1]["state"] == "exited").collect();
    assert_eq!(ended.len(), 1, "it has one last row, without a page: {text}");
    assert_eq!(ended[0]["vms"][1]["resident_pages"], 0);
    let last = points.last().unwrap()["vms"].as_array().unwrap();
    assert_eq!((last.len(), &last[0]["unique_pages"]), (1, &serde_json::json!(64)), "{text}");
}

#[test]
fn a_watch_whose_targets_are_all_gone_ends() {
    let mut leaver = Holder::new(&["anon:64"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.prom");
    let watch = memscan()
        .args(["watch", "--interval", "0.05", "--prometheus"])
        .args([file.as_os_str(), leaver.target("b", 0).as_ref()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the first scan", Duration::from_secs(20), || file.exists());
    leaver.kill();
    let out = watch.wait_with_output().unwrap();
    assert_error("all targets vanish", &out, code::PARTIAL, &["b exited"]);
    assert!(String::from_utf8_lossy(&out.stdout).contains("FOOTPRINT"), "{}", words(&out));
}

/// The command where a user without rights can run it.
struct ForAll {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl ForAll {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = dir.path().join("memscan");
        fs::copy(MEMSCAN, &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { _dir: dir, path }
    }

    /// Under `setpriv` with some of its flags.
    fn under(&self, setpriv: &[&str], args: &[&str]) -> Output {
        within(Command::new("setpriv").args(setpriv).arg(&self.path).args(args))
    }
}

const NOBODY: [&str; 5] = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];

/// A process of the user nobody, with no capability, and its number.
fn of_nobody() -> Child {
    let child = Command::new("setpriv").args(NOBODY).args(["sleep", "600"]).spawn().unwrap();
    let comm = format!("/proc/{}/comm", child.id());
    let runs = || fs::read_to_string(&comm).unwrap().trim() == "sleep";
    wait_for("a process of nobody", Duration::from_secs(10), runs);
    child
}

/// The kernel lets pagemap be opened and writes zeros for the frames: taken at its word, everything
/// would look alike or nothing shared.
#[test]
fn frames_that_the_kernel_hides_are_an_error_and_never_a_report() {
    let memscan = ForAll::new();
    let mut own = of_nobody();
    let target = format!("a=pid:{}", own.id());
    let no_admin = ["--bounding-set", "-sys_admin"];
    for setpriv in [&NOBODY[..], &no_admin] {
        for args in [
            &[target.as_str()][..],
            &["summary", "--json", &target],
            &["matrix", &target],
            &["what-if", &target],
            &["why", &target],
            &["map", &target],
            &["record", "-o", "-", &target],
            &["watch", "--count", "1", &target],
            &[],
        ] {
            let out = memscan.under(setpriv, args);
            let what = format!("{setpriv:?} {args:?}");
            assert_error(&what, &out, code::NOT_PERMITTED, &["CAP_SYS_ADMIN", "root"]);
            assert!(out.stdout.is_empty(), "{what}: {}", words(&out));
        }
    }
    own.kill().unwrap();
    own.wait().unwrap();
}

#[test]
fn what_needs_no_frames_needs_no_rights() {
    let memscan = ForAll::new();
    for args in [&["--help"][..], &["--list-columns"], &["ksm"], &["ksm", "--json"]] {
        let out = memscan.under(&NOBODY, args);
        assert_eq!(out.status.code(), Some(0), "{args:?}: {}", words(&out));
    }
}

#[test]
fn frame_tables_that_may_not_be_opened_name_file_and_capability() {
    let memscan = ForAll::new();
    let admin =
        ["--inh-caps", "+sys_admin", "--ambient-caps", "+sys_admin"].iter().chain(&NOBODY).copied();
    let out = memscan.under(&admin.collect::<Vec<_>>(), &["pid:1"]);
    let parts = ["/proc/kpagecount", "CAP_DAC_READ_SEARCH"];
    assert_error("kpagecount", &out, code::NOT_PERMITTED, &parts);
}

#[test]
fn a_process_that_may_not_be_looked_into_names_the_capability() {
    let memscan = ForAll::new();
    let mut other = of_nobody();
    let (nobodys, init) = (format!("pid:{}", other.id()), "pid:1".to_owned());
    // Since 6.16 CAP_SYS_ADMIN (and CAP_PERFMON) suffices to read others' page tables; init may
    // still be kept from us by a container.
    let refusal = [nobodys, init].into_iter().find_map(|target| {
        let out = memscan.under(&["--bounding-set", "-sys_ptrace"], &[&target]);
        (out.status.code() != Some(0)).then_some(out)
    });
    match refusal {
        Some(out) => {
            let parts = ["may not be looked into", "CAP_SYS_PTRACE"];
            assert_error("another's process", &out, code::NOT_PERMITTED, &parts);
        }
        None => skip(
            "a_process_that_may_not_be_looked_into_names_the_capability",
            "a process that this kernel keeps from CAP_SYS_ADMIN",
        ),
    }
    other.kill().unwrap();
    other.wait().unwrap();
}

/// Runs a script in mount namespace of its own.
fn unshared(script: &str, args: &[&str]) -> Output {
    within(Command::new("unshare").args(["-m", "sh", "-ec", script, MEMSCAN]).args(args))
}

#[test]
fn a_kernel_without_ksm_is_named_as_the_cause() {
    let hidden = "mount -t tmpfs none /sys/kernel/mm; exec \"$0\" \"$@\"";
    let h = Holder::new(&["ksm:64", "anon:64"]);
    let (a, b) = (h.target("a", 0), h.target("b", 1));
    let out = unshared(hidden, &["ksm"]);
    assert_error("no KSM", &out, code::UNAVAILABLE, &["no KSM", "CONFIG_KSM"]);
    let out = unshared(hidden, &["why", "--json", &a, &b]);
    assert!(out.status.success(), "{}", words(&out));
    let why: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(why["vms"][0]["regions"][0]["blockers"], serde_json::json!(["ksm-absent"]));
    let other = why["vms"][1]["regions"][0]["blockers"].as_array().unwrap();
    assert!(other.contains(&"ksm-absent".into()), "{other:?}");
    assert!(why["vms"][0]["verdict"].as_str().unwrap().contains("CONFIG_KSM"), "{why}");
    for args in [&["summary", &a, &b][..], &["map", &a], &["record", "-o", "-", &a]] {
        let out = unshared(hidden, args);
        assert!(out.status.success(), "{args:?} needs no KSM: {}", words(&out));
    }
}

#[test]
fn a_kernel_without_frame_tables_is_named_as_the_cause() {
    let hidden = "mount -t tmpfs none /mnt; mkdir /mnt/p; mount --rbind /proc /mnt/p; \
                  mount -t tmpfs none /proc; ln -s /mnt/p/self /proc/self; exec \"$0\" \"$@\"";
    let out = unshared(hidden, &["pid:1"]);
    assert_error(
        "no kpagecount",
        &out,
        code::UNAVAILABLE,
        &["/proc/kpagecount", "CONFIG_PROC_PAGE_MONITOR"],
    );
}

#[test]
fn a_record_that_is_damaged_cut_off_foreign_or_newer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (_h, a) = small();
    let good = path("good");
    run(&["record", "-o", &good, &a]);
    let text = fs::read_to_string(&good).unwrap();
    let (head, body) = text.split_once('\n').unwrap();
    let newer = head.replace(" 1", " 2") + "\n" + body;
    let flipped = text.replacen("unique", "changed", 1);
    let middle = text[..text.len() / 2].to_owned();
    let no_end = text.trim_end().rsplit_once('\n').unwrap().0.to_owned() + "\n";
    let crlf = text.replace('\n', "\r\n");
    for (name, bytes, parts) in [
        ("flipped", flipped.as_bytes(), &["damaged", "checksum"][..]),
        ("middle", middle.as_bytes(), &["cut off", "disk full"]),
        ("no_end", no_end.as_bytes(), &["cut off"]),
        ("newer", newer.as_bytes(), &["version 2", "version 1"]),
        ("crlf", crlf.as_bytes(), &["crlf"]),
        ("foreign", b"hello, world\n", &["no record of a scan", "memscan record -o FILE"]),
        ("elf", &fs::read("/bin/sh").unwrap(), &["no record of a scan"]),
        ("empty", b"", &["no record of a scan"]),
    ] {
        let bad = path(name);
        fs::write(&bad, bytes).unwrap();
        let with_name: Vec<&str> = parts.iter().copied().chain([bad.as_str()]).collect();
        refused(&["diff", &good, &bad], code::DATA, &with_name);
        refused(&["diff", "--json", &bad, &good], code::DATA, &with_name);
    }
    refused(&["diff", &good, "/dev/null"], code::DATA, &["/dev/null", "no record"]);
    // has no end: it must not be read to it
    refused(&["diff", "/dev/zero", &good], code::DATA, &["/dev/zero", "no record"]);
    let mut piped = memscan_with(&["diff", &good, "-"]);
    let piped = piped.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    child.stdin.take().unwrap().write_all(middle.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_error("a cut pipe", &out, code::DATA, &["standard input", "cut off"]);
}

/// Every way to write a report.
fn reports(a: &str, record: &str) -> Vec<Vec<String>> {
    let all = [
        format!("summary {a}"),
        format!("summary --json {a}"),
        "summary --list-columns".to_owned(),
        format!("matrix {a}"),
        format!("matrix --json {a}"),
        format!("matrix --svg - {a}"),
        format!("what-if {a}"),
        format!("what-if --json {a}"),
        format!("why {a}"),
        format!("why --json {a}"),
        "ksm".to_owned(),
        "ksm --json".to_owned(),
        format!("map {a}"),
        format!("map --json {a}"),
        format!("map --format placement {a}"),
        format!("record -o - {a}"),
        format!("diff {record} {record}"),
        format!("diff --json {record} {record}"),
        format!("watch --count 1 {a}"),
        format!("watch --json --count 1 {a}"),
        format!("watch --count 1 --svg - {a}"),
        "--help".to_owned(),
        "--version".to_owned(),
    ];
    all.iter().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

#[test]
fn a_full_or_closed_standard_output_is_an_error_of_every_subcommand() {
    let dir = tempfile::tempdir().unwrap();
    let record = dir.path().join("x.scan").to_str().unwrap().to_owned();
    let (_h, a) = small();
    run(&["record", "-o", &record, &a]);
    for args in reports(&a, &record) {
        let what = args.join(" ");
        let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let out = memscan().args(&args).stdout(full()).stderr(Stdio::piped()).output().unwrap();
        let parts = ["standard output", "No space left"];
        assert_error(&format!("{what} > /dev/full"), &out, code::IO, &parts);
        let mut closed = Command::new("sh");
        closed.args(["-c", "exec \"$0\" \"$@\" >&-", MEMSCAN]).args(&args);
        let out = within(&mut closed);
        let parts = ["standard output", "closed"];
        assert_error(&format!("{what} >&-"), &out, code::IO, &parts);
    }
}

#[test]
fn output_that_cannot_be_written_leaves_nothing_behind() {
    let (_h, a) = small();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    // stands for a file where a folder is wanted
    let file = format!("{folder}/file");
    fs::write(&file, "").unwrap();
    for flags in [
        &["record", "-o"][..],
        &["map", "-o"],
        &["map", "--format", "placement", "-o"],
        &["matrix", "--svg"],
        &["watch", "--count", "1", "--svg"],
        &["watch", "--count", "1", "--prometheus"],
    ] {
        for (path, cause) in [
            ("/dev/full".to_owned(), "No space left"),
            (format!("{folder}/no/such/x"), "No such file"),
            (format!("{file}/x"), "Not a directory"),
        ] {
            let args: Vec<&str> = flags.iter().copied().chain([path.as_str(), &a]).collect();
            let out = within(&mut memscan_with(&args));
            assert_error(&args.join(" "), &out, code::IO, &[&path, "cannot be written", cause]);
        }
        assert_eq!(names(dir.path()), ["file"], "{flags:?}");
    }
    let device = fs::metadata("/dev/full").unwrap();
    assert!(!device.is_file(), "a device is written, and never replaced by a file");
}

#[test]
fn a_full_disk_is_an_error_and_leaves_no_part_of_a_file() {
    // On a file system of one page, twice: the first failure must not be why the second one fails.
    let script = "d=$(mktemp -d); mount -t tmpfs -o size=4k none \"$d\"; set +e; \
                  for i in 1 2; do \"$0\" \"$@\" \"$d/x\"; code=$?; \
                  ls -A \"$d\" | sed 's/^/left: /'; done; \
                  echo fits > \"$d/y\" && echo room; umount \"$d\"; rmdir \"$d\"; exit $code";
    let h = Holder::new(&["anon:64"]);
    let all: Vec<String> = [("a", h.pid), ("b", i32::try_from(std::process::id()).unwrap())]
        .map(|(name, pid)| format!("{name}=pid:{pid},all"))
        .to_vec();
    for args in [
        &["map", "-o"][..],
        &["map", "--json", "-o"],
        &["map", "--format", "placement", "-o"],
        &["record", "-o"],
        &["matrix", "--svg"],
        &["watch", "--count", "1", "--svg"],
        &["watch", "--count", "1", "--prometheus"],
    ] {
        // the targets stand first, since the script adds the file's name at the end
        let (sub, flags) = args.split_first().unwrap();
        let mut line = vec![*sub];
        line.extend(all.iter().map(String::as_str));
        // metrics of two VMs fit in a page
        let many: Vec<String> = (0..30).map(|i| format!("vm{i}=image:/bin/sh")).collect();
        if flags.contains(&"--prometheus") || flags.contains(&"--svg") {
            line.extend(many.iter().map(String::as_str));
        }
        line.extend(flags);
        let out = unshared(script, &line);
        let said = words(&out);
        assert_eq!(out.status.code(), Some(code::IO), "{args:?}: {said}");
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(errors.lines().count(), 2, "{args:?}: {said}");
        for line in errors.lines() {
            assert!(line.contains("/x cannot be written: No space left"), "{args:?}: {said}");
        }
        assert!(said.contains("room") && !said.contains("left: "), "{args:?}: {said}");
    }
}
