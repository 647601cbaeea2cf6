//! What the command line promises: help, columns, JSON, pipes, pictures, signals.

#![allow(clippy::unwrap_used)] // a test that cannot go on fails where it stands

mod support;

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{Holder, json, memscan, n, run, skip, words};

/// A small holder and the target that names its one region `a`.
fn small() -> (Holder, String) {
    let holder = Holder::new(&["anon:64"]);
    let target = holder.target("a", 0);
    (holder, target)
}

/// The command with a terminal in the place of standard output and error.
fn on_a_terminal(command: &str) -> (Option<i32>, String) {
    let mut script = Command::new("script");
    script.args(["-qec", &format!("{} {command}", env!("CARGO_BIN_EXE_memscan")), "/dev/null"]);
    let out = script.stdin(Stdio::null()).env("TERM", "xterm").output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn help_and_version_go_to_standard_output_and_end_with_0() {
    let version = run(&["--version"]);
    assert_eq!(version, format!("memscan {}\n", env!("CARGO_PKG_VERSION")));
    let (short, long) = (run(&["-h"]), run(&["--help"]));
    assert!(short.len() < long.len() && !long.contains('\x1b'));
    for word in ["summary", "what-if", "TARGET"] {
        assert!(short.contains(word) && long.contains(word), "{word}");
    }
    for word in ["CAP_SYS_ADMIN", "cgroup:PATH", "PAGEHERD_THREADS", "Examples:"] {
        assert!(long.contains(word), "{word}");
    }
    assert!(!long.contains("generate"), "what is hidden is not in the help");
    for sub in ["summary", "matrix", "what-if", "why", "ksm", "map", "record", "diff", "watch"] {
        assert!(run(&[sub, "--help"]).contains(&format!("memscan {sub}")), "{sub}");
        assert!(run(&["help", sub]).contains("Usage:"), "{sub}");
    }
    for line in long.lines() {
        assert!(line.chars().count() <= 100, "too wide: {line}");
    }
}

#[test]
fn without_a_subcommand_it_is_the_summary() {
    let (_h, a) = small();
    let whole = run(&["summary", "-o", "NAME,RESIDENT,UNIQUE", &a]);
    assert_eq!(run(&["-o", "NAME,RESIDENT,UNIQUE", &a]), whole);
    assert_eq!(keys(&json(&["--json", &a])), keys(&json(&["summary", "--json", &a])));
}

#[test]
fn without_a_target_it_finds_something_to_look_at() {
    let _h = small();
    let out = memscan().arg("--json").output().unwrap();
    // on a busy host one of the processes found may end meanwhile
    assert!(matches!(out.status.code(), Some(0 | 3)), "{}", words(&out));
    let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(!answer["vms"].as_array().unwrap().is_empty());
    if !answer["vms"][0]["what"].as_str().unwrap().contains("guest RAM") {
        assert!(words(&out).contains("largest processes"), "{}", words(&out));
    }
}

#[test]
fn columns_are_chosen_added_listed_and_nameless() {
    let (_h, a) = small();
    let lines = |args: &[&str]| -> Vec<Vec<String>> {
        let text = run(args);
        let table = text.split("\n\n").next().unwrap();
        table.lines().map(|l| l.split_whitespace().map(str::to_owned).collect()).collect()
    };
    let chosen = lines(&["-o", "resident,NAME", &a]);
    assert_eq!(chosen, [["RESIDENT", "NAME"], ["256K", "a"]]);
    assert_eq!(lines(&["-b", "-o", "RESIDENT", &a])[1], ["262144"]);
    assert_eq!(lines(&["--noheadings", "-o", "NAME,UNIQUE", &a]), [["a", "256K"]]);
    let (default, more) = (lines(&[&a]), lines(&["-o", "+OUTSIDE", &a]));
    assert_eq!(more[0].len(), default[0].len() + 1);
    assert_eq!(more[0].last().unwrap(), "OUTSIDE");
    for sub in ["summary", "what-if", "ksm", "watch"] {
        // needs no target and no privilege: it only says what there is
        let list = run(&[sub, "--list-columns"]);
        let first = |line: &str| line.split_whitespace().next().unwrap().to_owned();
        let names: Vec<String> = list.lines().map(first).collect();
        assert!(names.len() > 5, "{sub}: {list}");
        assert!(names.iter().all(|n| *n == n.to_uppercase()), "{sub}: {list}");
        assert!(list.lines().all(|l| l.split_whitespace().count() > 1), "{sub}: {list}");
    }
}

#[test]
fn colour_is_for_terminals_unless_it_is_asked_for() {
    let (_h, a) = small();
    let bold = "\x1b[1m";
    assert!(!run(&[&a]).contains('\x1b'));
    assert!(run(&["--color", "always", &a]).starts_with(bold));
    assert!(run(&["matrix", "--color", "always", &a]).starts_with(bold));
    let (code, seen) = on_a_terminal(&a);
    assert!(code == Some(0) && seen.contains(bold), "{seen}");
    assert!(!on_a_terminal(&format!("--color never --progress never {a}")).1.contains(bold));
    let out = Command::new("script")
        .args(["-qec", &format!("{} --progress never {a}", env!("CARGO_BIN_EXE_memscan"))])
        .arg("/dev/null")
        .stdin(Stdio::null())
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    assert!(!words(&out).contains(bold), "{}", words(&out));
}

#[test]
fn the_json_of_the_summary_has_the_promised_shape() {
    let h = Holder::new(&["fork=1", "dirty=8", "anon:64"]);
    let (a, b) = (h.target("a", 0), h.target_of("b", h.children[0], 0));
    let text = run(&["summary", "--json", &a, &b]);
    assert_eq!(text.matches('\n').count(), 1, "one line in a pipe");
    let s: Value = serde_json::from_str(&text).unwrap();
    for key in ["vms", "footprint_pages", "naive_pages", "expansion"] {
        assert!(keys(&s).contains(&key), "{key}");
    }
    for (vm, (name, pid)) in
        s["vms"].as_array().unwrap().iter().zip([("a", h.pid), ("b", h.children[0])])
    {
        assert_eq!((vm["name"].as_str(), vm["pid"].as_i64()), (Some(name), Some(pid.into())));
        for key in
            ["resident_pages", "unique_pages", "shared_pages", "swapped_pages", "changed_pages"]
        {
            assert!(vm[key].is_u64(), "{key}");
        }
        for by in ["ksm", "fork", "file", "shmem", "zero"] {
            assert!(vm["by"][by].is_u64(), "{by}");
        }
        assert_eq!(n(&vm["by"]["fork"]), 56);
    }
    assert_eq!((n(&s["footprint_pages"]), n(&s["naive_pages"])), (72, 128));
    assert!((s["expansion"].as_f64().unwrap() - 1.7778).abs() < 1e-9);
}

#[test]
fn the_json_of_matrix_and_what_if_has_the_promised_shape() {
    let h = Holder::new(&["fork=2", "dirty=8", "anon:64"]);
    let [b, c] = h.children[..] else { panic!("two children") };
    let (a, b, c) = (h.target("a", 0), h.target_of("b", b, 0), h.target_of("c", c, 0));
    let m = json(&["matrix", "--json", "--groups", &a, &b, &c]);
    assert_eq!(m["names"], serde_json::json!(["a", "b", "c"]));
    // the parent keeps the pages that both children have written
    assert_eq!(m["pages"], serde_json::json!([[64, 56, 56], [56, 64, 56], [56, 56, 64]]));
    for by in ["ksm", "fork", "file", "shmem", "zero"] {
        assert_eq!(m["by"][by].as_array().unwrap().len(), 3, "{by}");
    }
    assert_eq!(n(&m["by"]["fork"][0][2]), 56);
    assert_eq!(m["groups"][0]["vms"], serde_json::json!(["a", "b", "c"]));
    assert!(json(&["matrix", "--json", &a]).get("groups").is_none());

    let w = json(&["what-if", "--json", "--leave", "a", "--leave", "b", &a, &b, &c]);
    assert_eq!(w["leaving"], serde_json::json!(["a", "b"]));
    for key in ["destination_pages", "send_pages"] {
        assert_eq!((n(&w[key]["naive"]), n(&w[key]["kept"])), (128, 72), "{key}");
    }
    assert_eq!(n(&w["source_freed_pages"]), 16);
    assert_eq!(w["alone"].as_array().unwrap().len(), 2);
}

#[test]
fn the_other_reports_are_json_too() {
    let (_h, a) = small();
    let why = json(&["why", "--json", &a]);
    for key in ["vms", "causes", "equal_pages", "read_pages", "one_in", "double"] {
        assert!(keys(&why).contains(&key), "{key}");
    }
    let ksm = json(&["ksm", "--json", &a]);
    assert!(ksm["merged_mappings"].is_u64() && ksm["vms"].is_array(), "{ksm}");
    let rows = run(&["map", "--json", &a]);
    for line in rows.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        assert_eq!((row["vm"].as_str(), row["state"].as_str()), (Some("a"), Some("unique")));
        assert!(row["pfn"].is_string() && row["sharers"].is_array());
    }
    let pages: u64 =
        rows.lines().map(|line| n(&serde_json::from_str::<Value>(line).unwrap()["pages"])).sum();
    assert_eq!(pages, 64);
}

#[test]
fn a_map_is_columns_with_tabs() {
    let (h, a) = small();
    let text = run(&["map", &a]);
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("VM\tADDRESS\tPAGES\tSTATE\tKIND\tPFN\tSHARERS\tBLOCK\tPAGE"));
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split('\t').collect()).collect();
    assert!(rows.iter().all(|row| row.len() == 9), "{text}");
    let start = h.regions[0].range.split('-').next().unwrap();
    assert!(rows[0][1].ends_with(start), "{} begins at {start}", rows[0][1]);
    assert_eq!(run(&["map", "-n", &a]).lines().count(), rows.len());
}

#[test]
fn a_record_is_compared_with_a_later_one() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = (dir.path().join("before.scan"), dir.path().join("after.scan"));
    let (before, after) = (before.to_str().unwrap(), after.to_str().unwrap());
    let (_h, a) = small();
    assert_eq!(run(&["record", "-o", before, &a]), "");
    assert_eq!(run(&["record", "-o", after, &a]), "");
    let d = json(&["diff", "--json", before, after]);
    assert_eq!(d["footprint_pages"], serde_json::json!([64, 64]));
    assert_eq!(d["transitions"], serde_json::json!([]));
    assert!(run(&["diff", before, after]).starts_with("footprint 256K -> 256K (0B)"));
    let piped = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "'{m}' record -o - {a} | '{m}' diff {before} -",
            m = env!("CARGO_BIN_EXE_memscan")
        ))
        .output()
        .unwrap();
    assert!(piped.status.success(), "{}", words(&piped));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(before).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no part is left");
}

/// Every element closes in order, and no text has a bare `<` or `&`.
fn assert_svg(text: &str) {
    assert!(text.starts_with("<svg ") && text.trim_end().ends_with("</svg>"));
    let mut open: Vec<&str> = Vec::new();
    for piece in text.split('<').skip(1) {
        let (tag, data) = piece.split_once('>').expect("an open tag");
        assert!(!data.contains('>'), "{data}");
        let name = tag.trim_start_matches('/').split_whitespace().next().unwrap_or_default();
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        for entity in data.split('&').skip(1) {
            assert!(["amp;", "lt;", "gt;", "#"].iter().any(|e| entity.starts_with(e)), "{data}");
        }
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?} never end");
}

#[test]
fn pictures_are_svg_in_a_file_or_alone_on_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.svg");
    let h = Holder::new(&["fork=1", "anon:64"]);
    let (a, b) = (h.target("a", 0), h.target_of("b", h.children[0], 0));
    let table = run(&["matrix", "--svg", file.to_str().unwrap(), &a, &b]);
    assert!(table.starts_with("NAME"), "the table is shown beside the file: {table}");
    assert_svg(&fs::read_to_string(&file).unwrap());
    let alone = run(&["matrix", "--svg", "-", &a, &b]);
    assert_svg(&alone);
    assert_eq!(alone, fs::read_to_string(&file).unwrap());
    let series = dir.path().join("s.svg");
    run(&["watch", "--count", "2", "--interval", "0.01", "--svg", series.to_str().unwrap(), &a]);
    assert_svg(&fs::read_to_string(&series).unwrap());
}

#[test]
fn data_goes_to_standard_output_and_words_to_standard_error() {
    let (_h, a) = small();
    let out = memscan().args(["summary", "--json", &a]).output().unwrap();
    assert!(out.stderr.is_empty(), "no progress without a terminal: {}", words(&out));
    let out = memscan().args(["what-if", "--json", "--template", "/bin/sh", &a]).output().unwrap();
    serde_json::from_slice::<Value>(&out.stdout).unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.starts_with("memscan: ") && said.contains("template"), "{said}");
    let quiet = memscan().args(["what-if", "-q", "--template", "/bin/sh", &a]).output().unwrap();
    assert!(quiet.stderr.is_empty(), "{}", words(&quiet));
    let out = memscan().args(["--progress", "always", &a]).output().unwrap();
    assert!(!String::from_utf8_lossy(&out.stdout).contains('\r'), "{}", words(&out));
}

#[test]
fn binary_does_not_go_to_a_terminal() {
    let (_h, a) = small();
    let (code, seen) = on_a_terminal(&format!("map --format placement {a}"));
    assert_eq!(code, Some(64), "{seen}");
    assert!(seen.contains("not written to a terminal") && seen.contains("-o"), "{seen}");
    let (code, seen) = on_a_terminal(&format!("map --format placement -o /dev/tty {a}"));
    assert_eq!(code, Some(64), "{seen}");
    let piped = memscan().args(["map", "--format", "placement", &a]).output().unwrap();
    assert!(
        piped.status.success() && piped.stdout.starts_with(b"\x89PHM\r\n"),
        "{}",
        words(&piped)
    );
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    use std::os::unix::process::ExitStatusExt;
    let holder = Holder::new(&["anon:20000"]);
    for args in [vec!["map"], vec!["map", "--json"], vec!["record", "-o", "-"]] {
        let mut child = memscan()
            .args(args)
            .arg(format!("pid:{}", holder.pid))
            .arg("image:/bin/sh")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // closed at once: whatever is written finds no reader
        drop(child.stdout.take());
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.signal(), Some(nix::libc::SIGPIPE), "{}", words(&out));
        assert!(out.stderr.is_empty(), "{}", words(&out));
    }
    let head = Command::new("bash")
        .arg("-c")
        .arg(format!("{} map pid:{} | head -n 1", env!("CARGO_BIN_EXE_memscan"), holder.pid))
        .output()
        .unwrap();
    assert!(head.stdout.starts_with(b"VM\t") && head.stderr.is_empty(), "{}", words(&head));
}

#[test]
fn watch_prints_a_series_at_its_end() {
    let (_h, a) = small();
    let text = run(&["watch", "--count", "3", "--interval", "0.1", &a]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].trim_start().starts_with("SECONDS"), "{text}");
    let seconds = |line: &str| line.split_whitespace().next().unwrap().parse::<f64>().unwrap();
    assert!(seconds(lines[1]) < seconds(lines[3]), "{text}");
    assert!(seconds(lines[3]) >= 0.2, "{text}");
    assert!(lines[1].contains("256K"), "{text}");
}

#[test]
fn watch_as_json_is_an_object_a_line() {
    let (_h, a) = small();
    let text = run(&["watch", "--json", "--count", "3", "--interval", "0.05", &a]);
    assert_eq!(text.lines().count(), 3);
    for line in text.lines() {
        let point: Value = serde_json::from_str(line).unwrap();
        assert!(point["seconds"].is_f64());
        assert_eq!(n(&point["footprint_pages"]), 64);
    }
}

/// One line of Prometheus' text format: a comment of known kind, or `name{labels} value`.
fn assert_metric(line: &str, typed: &mut Vec<String>) {
    let name_ok = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if let Some(rest) = line.strip_prefix("# HELP ") {
        let (name, help) = rest.split_once(' ').unwrap();
        assert!(name_ok(name) && !help.is_empty(), "{line}");
        return;
    }
    if let Some(rest) = line.strip_prefix("# TYPE ") {
        let (name, kind) = rest.split_once(' ').unwrap();
        assert_eq!(kind, "gauge", "{line}");
        assert!(!typed.contains(&name.to_owned()), "{name} is typed twice");
        typed.push(name.to_owned());
        return;
    }
    let (series, value) = line.rsplit_once(' ').unwrap();
    assert!(value.parse::<f64>().is_ok(), "{line}");
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    assert_eq!(typed.last().map(String::as_str), Some(name), "{line} follows its own type");
    assert!(name_ok(name) && name.starts_with("pageherd_") && name.ends_with("_bytes"), "{line}");
    for label in labels.strip_suffix('}').unwrap().split(',').filter(|l| !l.is_empty()) {
        let (key, value) = label.split_once('=').unwrap();
        let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap();
        assert!(name_ok(key) && !inner.contains(['"', '\\']), "{line}");
    }
}

#[test]
fn the_file_for_prometheus_is_valid_and_readable_by_its_collector() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("memscan.prom");
    let (_h, a) = small();
    let args = ["watch", "--count", "2", "--interval", "0.01", "--prometheus"];
    let out = memscan().args(args).arg(&file).arg(&a).output().unwrap();
    assert!(out.status.success(), "{}", words(&out));
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.ends_with('\n'));
    let mut typed = Vec::new();
    text.lines().for_each(|line| assert_metric(line, &mut typed));
    assert!(text.contains("pageherd_vm_resident_bytes{vm=\"a\"} 262144\n"), "{text}");
    assert!(text.contains("pageherd_footprint_bytes 262144\n"), "{text}");
    assert!(text.contains("{vm=\"a\",mechanism=\"ksm\"} 0\n"), "{text}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn an_interrupted_watch_still_gives_its_series() {
    use nix::sys::signal::{Signal, kill};
    let (_h, a) = small();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.prom");
        let mut child = memscan()
            .args(["watch", "--interval", "60", "--prometheus"])
            .arg(&file)
            .arg(&a)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // the file says that the first scan is done
        support::wait_for("the first scan", Duration::from_secs(20), || file.exists());
        let before = Instant::now();
        kill(nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{signal}: {text}");
        assert_eq!(text.lines().count(), 2, "{signal}: {text}");
        assert!(before.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn an_interrupted_record_leaves_nothing() {
    use nix::sys::signal::{Signal, kill};
    let dir = tempfile::tempdir().unwrap();
    let holder = Holder::new(&["anon:50000"]);
    for wait in [5, 20, 40, 80] {
        let mut child = memscan()
            .args(["map", "--json", "-o"])
            .arg(dir.path().join("x"))
            .arg(holder.target("a", 0))
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        kill(nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT)
            .unwrap();
        child.wait().unwrap();
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.is_empty() || left == ["x"], "{left:?}");
    }
}

#[test]
fn a_live_view_ends_with_the_series() {
    let (_h, a) = small();
    let (code, seen) =
        on_a_terminal(&format!("watch --count 2 --interval 0.05 --progress never {a}"));
    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains("ends with ^C") && seen.contains("footprint 256K"), "{seen}");
    assert!(seen.trim_end().lines().rev().take(3).any(|l| l.contains("SECONDS")), "{seen}");
}

#[test]
fn processes_are_found_by_command_name() {
    // a name that nothing else on this host has
    let dir = tempfile::tempdir().unwrap();
    let name = format!("hold-{}", std::process::id());
    let program = dir.path().join(&name);
    fs::copy(support::example("holder"), &program).unwrap();
    let mut child = start(&program);
    let one = json(&["--json", &format!("comm:{name}")]);
    assert_eq!(one["vms"][0]["name"], format!("{name}-{}", child.id()));
    assert_eq!(json(&["--json", &format!("web=comm:{name}")])["vms"][0]["name"], "web");
    let mut second = start(&program);
    let two = json(&["--json", &format!("web=comm:{}*", &name[..name.len() - 1])]);
    let mut names: Vec<&str> =
        two["vms"].as_array().unwrap().iter().map(|vm| vm["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert!(names.contains(&format!("web-{}", child.id()).as_str()), "{names:?}");
    assert!(names.contains(&format!("web-{}", second.id()).as_str()), "{names:?}");
    for child in [&mut child, &mut second] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Starts a holder by another name and waits until it holds.
fn start(program: &Path) -> std::process::Child {
    let mut child = Command::new(program)
        .arg("anon:32")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    child
}

/// A control group of our own, gone when this is dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(hierarchy: &Path) -> Option<Self> {
        let folder = hierarchy.join(format!("pageherd-test-{}", std::process::id()));
        fs::create_dir(&folder).ok()?;
        // a plain folder of the tmpfs that holds the hierarchies is no control group
        if folder.join("cgroup.procs").exists() {
            return Some(Self(folder));
        }
        let _ = fs::remove_dir(&folder);
        None
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // the kernel lets go of a group a moment after its last process
        for _ in 0..50 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn processes_are_found_by_control_group() {
    let root = Path::new("/sys/fs/cgroup");
    let mut hierarchies = vec![root.to_owned()];
    hierarchies.extend(fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path()));
    let found = hierarchies.iter().find_map(|h| Cgroup::new(h));
    let Some(group) = found else {
        return skip("processes_are_found_by_control_group", "a control group that can be made");
    };
    let path = group.0.to_str().unwrap().to_owned();
    let empty = memscan().arg(format!("cgroup:{path}")).output().unwrap();
    assert_eq!(empty.status.code(), Some(66), "{}", words(&empty));
    let (mut h, _) = small();
    if fs::write(group.0.join("cgroup.procs"), h.pid.to_string()).is_err() {
        return skip("processes_are_found_by_control_group", "a group that takes a process");
    }
    let own = group.0.file_name().unwrap().to_str().unwrap();
    for target in [format!("g=cgroup:{path}"), format!("g=cgroup:/{own}")] {
        let s = json(&["--json", &target]);
        assert_eq!(s["vms"][0]["name"], "g", "{target}");
        assert_eq!(s["vms"][0]["pid"], h.pid, "{target}");
    }
    h.kill();
}

#[test]
fn an_image_is_looked_at_without_reading_it() {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    file.as_file().set_len(64 * 4096).unwrap();
    use std::os::unix::fs::{FileExt, MetadataExt};
    file.as_file().write_all_at(&[1; 8192], 4096).unwrap();
    let s = json(&["--json", &format!("t=image:{}", file.path().display())]);
    assert_eq!((&s["vms"][0]["pid"], n(&s["vms"][0]["resident_pages"])), (&Value::Null, 2));
    assert_eq!(file.as_file().metadata().unwrap().blocks(), 16, "no hole was filled");
}

#[test]
fn threads_come_from_the_flag_or_the_environment() {
    let (_h, a) = small();
    let with = |value: &str| memscan().env("PAGEHERD_THREADS", value).arg(&a).output().unwrap();
    assert!(with("2").status.success());
    let wrong = with("many");
    assert_eq!(wrong.status.code(), Some(64), "{}", words(&wrong));
    assert!(run(&["--threads", "1", "-o", "UNIQUE", "-n", &a]).contains("256K"));
}
