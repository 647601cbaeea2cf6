//! What the command lines of mig-send and mig-recv promise: help, hints, the bill, pipes, files,
//! moving, and words that say what to do next.

#![allow(clippy::unwrap_used)] // a test that cannot go on fails where it stands

mod support;

use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::{COMMANDS, Holder, example, json, n, tool};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// What stands on standard error.
fn words(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// Runs one of the commands.
fn does(command: &str, args: &[&str]) -> Output {
    tool(command).args(args).stdin(Stdio::null()).output().unwrap()
}

/// The same, which is to end well.
fn done(command: &str, args: &[&str]) -> Output {
    let out = does(command, args);
    assert!(out.status.success(), "{command} {args:?}: {}", words(&out));
    out
}

/// It ends with `code`, in one line that has these parts and says who says so.
fn refused(command: &str, args: &[&str], code: i32, parts: &[&str]) {
    let out = does(command, args);
    let said = words(&out);
    assert_eq!(out.status.code(), Some(code), "{command} {args:?}: {said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{command} {args:?}: {said}");
    assert!(said.starts_with(&format!("{command}: ")), "{said}");
    for part in parts {
        assert!(said.contains(part), "{command} {args:?}: no '{part}' in: {said}");
    }
}

/// A line for a shell that knows the commands by name; a failure in a pipe is one of the line.
fn shell(line: &str) -> Output {
    let folders: Vec<&Path> =
        COMMANDS.iter().map(|(_, path)| Path::new(path).parent().unwrap()).collect();
    let path = format!("{}:{}", folders[0].display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    shell.args(["-o", "pipefail", "-c", line]).env("PATH", path).stdin(Stdio::null());
    shell.output().unwrap()
}

fn shell_done(line: &str) -> Output {
    let out = shell(line);
    assert!(out.status.success(), "{line}: {}", words(&out));
    out
}

/// An image of `pages` pages: each its own, but every fourth is zero and every eighth a hole.
fn image(folder: &TempDir, name: &str, pages: u64) -> PathBuf {
    let path = folder.path().join(name);
    let file = fs::File::create(&path).unwrap();
    file.set_len(pages * 4096).unwrap();
    for page in (0..pages).filter(|page| page % 8 != 0) {
        let byte = if page % 4 == 0 { 0 } else { u8::try_from(page % 251 + 1).unwrap() };
        let mut bytes = [byte; 4096];
        bytes[..8].copy_from_slice(&(page * u64::from(byte != 0)).to_le_bytes());
        file.write_all_at(&bytes, page * 4096).unwrap();
    }
    path
}

fn state(pid: i32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|l| l.strip_prefix("State:\t")).unwrap()[..1].to_owned()
}

#[test]
fn help_and_version_go_to_standard_output_and_end_with_0() {
    for name in ["mig-send", "mig-recv"] {
        let text = |flag: &str| String::from_utf8(done(name, &[flag]).stdout).unwrap();
        assert_eq!(text("--version"), format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
        let (short, long) = (text("-h"), text("--help"));
        assert!(short.len() * 2 < long.len() && !long.contains('\x1b'), "{name}");
        assert!(short.contains(&format!("Usage: {name} ")) && short.contains("--help' tells more"));
        assert!(long.contains("Examples:") && !long.contains("generate"), "{name}");
    }
}

#[test]
fn a_wrong_command_line_is_answered_with_what_to_write_instead() {
    for (command, args, parts) in [
        ("mig-send", &[][..], &["--vm web=pid:4711"][..]),
        ("mig-send", &["pid:7"], &["'pid:7'", "name a VM by --vm", "mig-send --help"]),
        ("mig-send", &["--into", "x"], &["--into", "exec:ssh HOST mig-recv --into DIR"]),
        ("mig-send", &["--from", "x"], &["--to ADDRESS"]),
        ("mig-send", &["--filter", "zero"], &["'--filter'", "'--filters'"]),
        ("mig-send", &["--vm", "7"], &["'7'", "pid:"]),
        ("mig-send", &["--vm", "pid:1", "--filters", "zeros"], &["'zeros'", "unused, zero"]),
        ("mig-send", &["--vm", "pid:1", "--filters", "lz4,zero"], &["'zero' comes too late"]),
        ("mig-send", &["--vm", "pid:1", "--to", "host:7000"], &["not an address", "tcp:HOST:PORT"]),
        ("mig-send", &["--vm", "pid:1", "--freeze", "hard"], &["'hard'", "cgroup, stop and none"]),
        ("mig-send", &["--vm", "pid:1", "--rate", "fast"], &["'fast'", "--rate"]),
        ("mig-send", &["--vm", "pid:1", "--json", "-q"], &["--json", "--quiet"]),
        ("mig-send", &["--vm", "pid:1", "--one-way"], &["--move"]),
        ("mig-send", &["--resolve", "12"], &["32 hexadecimal digits"]),
        ("mig-send", &["--vm", "pid:1", "--tls-cert", "x"], &["--tls-key", "--tls-ca"]),
        ("mig-send", &["generate", "x"], &["<MAN>", "<COMPLETIONS>"]),
        ("mig-recv", &[], &["--into DIR", "--image NAME=FILE", "--discard"]),
        ("mig-recv", &["here"], &["--into DIR", "mig-recv --help"]),
        ("mig-recv", &["--to", "x"], &["--from ADDRESS"]),
        ("mig-recv", &["--vm", "x"], &["--image NAME=FILE"]),
        ("mig-recv", &["--into", "a", "--image", "a=b"], &["--into", "--image"]),
        ("mig-recv", &["--image", "x"], &["NAME=FILE"]),
        ("mig-recv", &["--image", "a=x", "--image", "a=y"], &["a= is there twice"]),
        (
            "mig-recv",
            &["--into", "/dev/null/x", "--from", "unix:a", "--from", "unix:b"],
            &["--streams 2"],
        ),
        ("mig-recv", &["--discard", "--user", "nobody-of-that-name"], &["nobody-of-that-name"]),
        ("mig-recv", &["--discard", "--filter", "cat"], &["exec:COMMAND"]),
    ] {
        refused(command, args, 64, parts);
    }
}

#[test]
fn what_must_not_be_done_is_refused_with_the_flag_that_allows_it() {
    let dir = folder();
    let image = format!("a=image:{}", image(&dir, "a", 8).display());
    let key = dir.path().join("key");
    fs::write(&key, "short").unwrap();
    let key = key.to_str().unwrap();
    let file = format!("file:{}", dir.path().join("x").display());
    for (args, code, parts) in [
        (&["--to", "tcp:192.0.2.1:7"][..], 77, &["--insecure", "tls:", "exec:ssh"][..]),
        (&["--move", "--to", &file], 77, &["--one-way", "exec:"]),
        (&["--key", key, "--to", &file], 64, &["5 bytes", "at least 16"]),
        (&["--key", "/nonexistent/key", "--to", &file], 66, &["/nonexistent/key"]),
        (&["--to", "file:/dev"], 77, &["is a directory"]),
        (&["--to", "unix:/nonexistent/s"], 66, &["unix:/nonexistent/s"]),
        (&["--to", "exec:exit 3"], 69, &["exec:exit 3", "exit status: 3"]),
        (&["--vm", &image, "--to", &file], 64, &["two VMs are named a"]),
        (&["--trust", "b", "--to", &file], 64, &["--trust names b"]),
        (&["--template", key, "--to", &file], 66, &["whole pages"]),
    ] {
        refused("mig-send", &[&["--vm", &image][..], args].concat(), code, parts);
    }
    assert!(!dir.path().join("x").exists(), "nothing that was refused is left");
    assert_eq!(fs::read(dir.path().join("key")).unwrap(), b"short");
    for (args, code, parts) in [
        (&["--from", "tcp:0.0.0.0:0"][..], 77, &["--insecure"][..]),
        (&["--from", "file:/nonexistent"], 66, &["/nonexistent"]),
        (&["--from", "file:/dev/null"], 65, &["cut off"]),
        (&["--from", &format!("file:{key}")], 65, &["cut off after 5 bytes"]),
    ] {
        refused("mig-recv", &[&["--discard"][..], args].concat(), code, parts);
    }
}

#[test]
fn a_pipe_carries_processes_and_images_into_a_herd_and_out_of_it() {
    let dir = folder();
    let (herd, out) = (dir.path().join("herd"), dir.path().join("c.out"));
    let c = image(&dir, "c", 300);
    let h = Holder::new(&["fork=1", "dirty=8", "anon:512"]);
    let (a, b) = (h.target("a", 0), h.target_of("b", h.children[0], 0));
    let (herd, c) = (herd.display(), c.display());
    let said = words(&shell_done(&format!(
        "mig-send --vm {a} --vm {b} --vm c=image:{c} | mig-recv --into {herd}"
    )));
    // a line for each VM, and the bill
    for (vm, size) in [("a", "2M"), ("b", "2M"), ("c", "1.2M")] {
        assert!(said.contains(&format!("mig-recv: {vm}: {size}, digest ")), "{said}");
    }
    let row = |name: &str| -> Vec<String> {
        let line =
            said.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{said}"));
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(row("FILTER"), ["FILTER", "PAGES", "SAVED", "SECONDS", "NOTE"]);
    assert_eq!(row("shared")[1..3], ["504", "2M"], "{said}");
    assert!(said.contains("5.2M of memory as "), "{said}");
    // what was shared is shared there
    let scan = |a: &str, b: &str| json(&["--json", a, b]);
    let at = |vm: &str| format!("{vm}=herd:{herd}/{vm}");
    let (before, after) = (scan(&a, &b), scan(&at("a"), &at("b")));
    assert_eq!(n(&after["footprint_pages"]), 512 + 8);
    assert_eq!(before["footprint_pages"], after["footprint_pages"]);
    shell_done(&format!(
        "mig-send -q --vm c=herd:{herd}/c | mig-recv -q --image c={}",
        out.display()
    ));
    assert!(fs::read(&out).unwrap() == fs::read(c.to_string()).unwrap());
    // it is there, and nothing replaces it
    let again = shell(&format!("mig-send -q --vm c=image:{c} | mig-recv --into {herd}"));
    assert_eq!(again.status.code(), Some(77), "{}", words(&again));
    assert!(words(&again).contains("exists already"), "{}", words(&again));
}

#[test]
fn the_bill_is_json_where_the_stream_is_not() {
    let dir = folder();
    let image = image(&dir, "a", 300);
    let (image, file) = (image.display(), dir.path().join("a.herd"));
    let sent = done(
        "mig-send",
        &[
            "--vm",
            &format!("a=image:{image}"),
            "--json",
            "--to",
            &format!("file:{}", file.display()),
        ],
    );
    assert_eq!(words(&sent), "");
    let bill: Value = serde_json::from_slice(&sent.stdout).unwrap();
    assert_eq!((&bill["confirmed"], &bill["moved"]), (&Value::Bool(false), &Value::Bool(false)));
    assert_eq!(n(&bill["memory_bytes"]), 300 * 4096);
    assert_eq!(n(&bill["stream_bytes"]), fs::metadata(&file).unwrap().len());
    for account in bill["filters"].as_array().unwrap() {
        for key in ["filter", "looked_at", "pages", "saved_bytes", "nanos", "off_pages"] {
            assert!(account.get(key).is_some(), "{key}: {account}");
        }
    }
    // in a pipe the bill stands on standard error, and mig-recv's on standard output
    let both = shell_done(&format!(
        "mig-send --vm a=image:{image} --json 2>{0}/bill | mig-recv --discard --json",
        dir.path().display()
    ));
    let piped: Value = serde_json::from_slice(&fs::read(dir.path().join("bill")).unwrap()).unwrap();
    let arrived: Value = serde_json::from_slice(&both.stdout).unwrap();
    let vm = &arrived["streams"][0]["vms"][0];
    assert_eq!(vm["digest"], piped["vms"][0]["digest"]);
    assert_eq!(vm["digest"], bill["vms"][0]["digest"], "of the memory, not of the stream");
    assert_eq!((&vm["name"], n(&vm["pages"])), (&Value::from("a"), 300));
    assert_eq!(arrived["streams"][0]["session"], piped["session"]);
    // quiet is quiet
    let quiet = shell_done(&format!("mig-send -q --vm a=image:{image} | mig-recv -q --discard"));
    assert_eq!(words(&quiet), "");
}

#[test]
fn a_stream_in_a_file_can_be_proven_and_used_later() {
    let dir = folder();
    let a = image(&dir, "a", 64);
    let (stream, out) = (dir.path().join("s"), dir.path().join("out"));
    let from = format!("file:{}", stream.display());
    done("mig-send", &["-q", "--vm", &format!("a=image:{}", a.display()), "--to", &from]);
    done("mig-recv", &["-q", "--from", &from, "--discard"]);
    let to = format!("a={}", out.display());
    done("mig-recv", &["-q", "--from", &from, "--image", &to]);
    assert!(fs::read(&a).unwrap() == fs::read(&out).unwrap());
    refused("mig-recv", &["--from", &from, "--image", &to], 77, &["exists already"]);
    done("mig-recv", &["-q", "--from", &from, "--image", &to, "--force"]);
    refused("mig-recv", &["--from", &from, "--image", "b=/dev/shm/b"], 64, &["--image a=FILE"]);
    let mut bytes = fs::read(&stream).unwrap();
    bytes[3000] ^= 1;
    fs::write(&stream, bytes).unwrap();
    refused("mig-recv", &["--from", &from, "--discard"], 65, &["damaged"]);
}

#[test]
fn a_move_leaves_the_source_paused_and_says_how_to_free_it() {
    let dir = folder();
    let h = Holder::new(&["anon:64"]);
    let target = h.target("a", 0);
    let recv = |name: &str| {
        let recv = tool("mig-recv").get_program().to_str().unwrap().to_owned();
        format!("exec:{recv} -q --into {} 2>&-", dir.path().join(name).display())
    };
    // a copy lets it run on
    let out = done("mig-send", &["--vm", &target, "--to", &recv("copy")]);
    assert!(words(&out).contains(", committed\n"), "{}", words(&out));
    assert_ne!(state(h.pid), "T");
    // refused by the receiver: it runs on
    refused(
        "mig-send",
        &["-q", "--vm", &target, "--move", "--to", &recv("copy")],
        77,
        &["the receiver refuses"],
    );
    assert_ne!(state(h.pid), "T");
    let out = done("mig-send", &["--vm", &target, "--move", "--to", &recv("move")]);
    let said = words(&out);
    assert!(said.contains("the source stays paused"), "{said}");
    assert_eq!(state(h.pid), "T");
    let by_hand = format!("kill -CONT {}", h.pid);
    assert!(said.contains(&by_hand), "{said}");
    shell_done(&by_hand);
    assert_ne!(state(h.pid), "T");
    // the herd's journal answers for the session, and for one that never was
    let session = said.split("session ").nth(1).unwrap()[..32].to_owned();
    let ask = |session: &str| {
        let out = done("mig-send", &["--resolve", session, "--to", &recv("move")]);
        (String::from_utf8(out.stdout.clone()).unwrap(), words(&out))
    };
    let (word, meaning) = ask(&session);
    assert!(word == "committed\n" && meaning.contains("end the source"), "{word} {meaning}");
    let (word, meaning) = ask(&"0".repeat(32));
    assert!(word == "aborted\n" && meaning.contains("can run on"), "{word} {meaning}");
}

#[test]
fn one_way_a_move_is_for_those_who_say_so() {
    let dir = folder();
    let h = Holder::new(&["anon:64"]);
    let (target, file) = (h.target("a", 0), format!("file:{}", dir.path().join("s").display()));
    refused("mig-send", &["--vm", &target, "--move", "--to", &file], 77, &["--one-way"]);
    assert_ne!(state(h.pid), "T");
    done("mig-send", &["-q", "--vm", &target, "--move", "--one-way", "--to", &file]);
    assert_eq!(state(h.pid), "T");
    shell_done(&format!("kill -CONT {}", h.pid));
}

#[test]
fn the_worked_example_of_an_external_filter_packs_and_unpacks() {
    let dir = folder();
    let filter = format!("exec:{}", example("filter_words").display());
    let image = image(&dir, "a", 256);
    let (image, herd) = (image.display(), dir.path().join("herd").display().to_string());
    let send =
        format!("mig-send --keep-filters --vm a=image:{image} --filters unused,zero,{filter}");
    let out = shell_done(&format!("{send} | mig-recv -q --into {herd} --filter {filter}"));
    let bill = words(&out);
    let row = bill.lines().find(|line| line.starts_with("exec")).unwrap();
    let pages: u64 = row.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(pages, 192, "all that are not zero: {bill}");
    let without = shell(&format!("{send} -q | mig-recv --discard"));
    assert_eq!(without.status.code(), Some(65), "{}", words(&without));
    assert!(words(&without).contains("--filter exec:COMMAND"), "{}", words(&without));
}

#[test]
fn a_template_is_named_at_both_ends_or_the_stream_is_refused_before_it_begins() {
    let dir = folder();
    let (base, a) = (image(&dir, "base", 256), image(&dir, "a", 256));
    fs::File::options().write(true).open(&a).unwrap().write_all_at(b"new", 4096 * 9).unwrap();
    let recv = tool("mig-recv").get_program().to_str().unwrap().to_owned();
    let (base, herd) = (base.display(), dir.path().join("herd"));
    let send = |to: &str| {
        does(
            "mig-send",
            &[
                "--json",
                "--vm",
                &format!("a=image:{}", a.display()),
                "--template",
                &base.to_string(),
                "--to",
                to,
            ],
        )
    };
    let without = send(&format!("exec:{recv} -q --discard"));
    assert_eq!(without.status.code(), Some(77), "{}", words(&without));
    assert!(words(&without).contains("--template"), "{}", words(&without));
    let with = send(&format!("exec:{recv} -q --template {base} --into {}", herd.display()));
    let bill: Value = serde_json::from_slice(&with.stdout).unwrap();
    let template = bill["filters"].as_array().unwrap().iter().find(|f| f["filter"] == "template");
    assert_eq!(n(&template.unwrap()["pages"]), 191, "{bill}");
    assert_eq!(fs::metadata(herd.join("pool")).unwrap().len(), 4096, "one page of its own");
    let out = dir.path().join("out");
    shell_done(&format!(
        "mig-send -q --vm a=herd:{}/a | mig-recv -q --image a={}",
        herd.display(),
        out.display()
    ));
    assert!(fs::read(&a).unwrap() == fs::read(&out).unwrap());
}

#[test]
fn a_key_is_the_same_at_both_ends_or_nothing_arrives() {
    let dir = folder();
    let a = image(&dir, "a", 16);
    let key = |name: &str, byte: u8| {
        let path = dir.path().join(name);
        fs::write(&path, [byte; 32]).unwrap();
        path.display().to_string()
    };
    let (ours, other) = (key("ours", 1), key("other", 2));
    let send = format!("mig-send -q --vm a=image:{} --key {ours}", a.display());
    shell_done(&format!("{send} | mig-recv -q --discard --key {ours}"));
    for wrong in [String::new(), format!("--key {other}")] {
        let out = shell(&format!(
            "{send} --to file:{0}/s && mig-recv --from file:{0}/s --discard {wrong}",
            dir.path().display()
        ));
        assert_eq!(out.status.code(), Some(77), "{}", words(&out));
        assert!(words(&out).contains("--key"), "{}", words(&out));
        fs::remove_file(dir.path().join("s")).unwrap();
    }
}
