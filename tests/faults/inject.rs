//! The kernel refuses a call, interrupts it or kills: each in turn, made by strace.

use crate::herds::whole;
use crate::matrix::Rows;
use crate::scene::{Out, Scene, memory, program};
use std::fs;

/// Most calls of one kind that are looked for; a small transfer makes fewer.
const MOST: u32 = 60;

pub(crate) fn add(rows: &mut Rows) {
    for (call, errors) in [
        ("pwrite64", &["ENOSPC", "EIO"][..]),
        ("fdatasync", &["EIO"]),
        ("fsync", &["EIO", "ENOSPC"]),
        ("renameat2", &["ENOSPC", "EIO"]),
        ("fallocate", &["ENOSPC", "EIO", "EOPNOTSUPP"]),
        ("ftruncate", &["EIO"]),
        ("write", &["ENOSPC"]),
        ("linkat", &["EIO"]),
        ("unlinkat", &["EIO"]),
    ] {
        for &error in errors {
            for store in ["herd", "image"] {
                every(rows, store, call, error);
            }
            if matches!(call, "write" | "fsync" | "renameat2" | "linkat") {
                every(rows, "file", call, error);
            }
        }
    }
    for store in ["herd", "image", "file"] {
        for call in
            ["pwrite64", "fsync", "fdatasync", "renameat2", "linkat", "write", "writev", "rename"]
        {
            killed(rows, store, call);
        }
    }
    for (tool, calls) in [
        (
            "recv",
            &["read", "pwrite64", "fsync", "recvfrom", "poll", "write", "pread64", "fallocate"][..],
        ),
        (
            "send",
            &["read", "pread64", "write", "writev", "poll", "process_vm_readv", "sendto", "ppoll"],
        ),
    ] {
        for &call in calls {
            let mode = if tool == "recv" { "herd" } else { "file" };
            rows.add(
                "EINTR storm",
                mode,
                format!("every second {call}"),
                "0; same bytes",
                move |scene| storm(scene, tool, call),
            );
        }
    }
}

/// A command under strace, which does something at the call number `when` of every thread. Was it
/// done?
fn traced(scene: &mut Scene, inject: &str, program: &str, args: &[&str]) -> (Out, bool) {
    let log = scene.path("strace");
    let mut strace = scene.command("strace");
    strace.args([
        "-f",
        "-qq",
        "-o",
        &log,
        "-e",
        &format!("trace={}", inject.split(':').next().unwrap()),
    ]);
    strace.args(["-e", &format!("inject={inject}"), program, "--quiet"]).args(args);
    let out = scene.run(&mut strace);
    let done = fs::read_to_string(&log)
        .is_ok_and(|log| log.contains("INJECTED") || log.contains("SIGKILL"));
    let _ = fs::remove_file(&log);
    (out, done)
}

/// What is there before: a herd with VM `old`, an image, or a file.
fn before(scene: &mut Scene, store: &str) -> Vec<String> {
    let image = scene.image("old.image", 16);
    scene.stream("x", 40, &["--filters", "zero"]);
    match store {
        "herd" => {
            let herd = scene.herd("h");
            scene.keeps("h/old.map");
            scene.keeps("h/a.map");
            let (vm, file) = (format!("old=image:{image}"), scene.keeps("old.stream"));
            let to = format!("file:{file}");
            assert_eq!(scene.run(&mut scene.send(&["--vm", &vm, "--to", &to])).says(&[]), "0");
            assert_eq!(
                scene.run(&mut scene.recv(&["--into", &herd, "--from", &to])).says(&[]),
                "0"
            );
            ["--into", &herd, "--from", "file:x"].map(str::to_owned).to_vec()
        }
        "image" => {
            let old = scene.file("old", b"precious");
            ["--image", &format!("a={old}"), "--force", "--from", "file:x"]
                .map(str::to_owned)
                .to_vec()
        }
        _ => {
            let old = scene.file("old", b"precious");
            ["--vm", "a=image:x.image", "--filters", "zero", "--to", &format!("file:{old}")]
                .map(str::to_owned)
                .to_vec()
        }
    }
}

/// Is what was there whole, and the new there whole or not at all?
fn after(scene: &mut Scene, store: &str, out: &Out) -> String {
    let content = memory(40);
    match store {
        "herd" => {
            let herd = scene.path("h");
            // whoever opens it next finishes what was interrupted
            let third = scene.image("third.image", 8);
            let (vm, file) = (format!("third=image:{third}"), scene.keeps("third.stream"));
            let to = format!("file:{file}");
            scene.run(&mut scene.send(&["--vm", &vm, "--to", &to]));
            scene.keeps("h/third.map");
            let next = scene.run(&mut scene.recv(&["--into", &herd, "--from", &to])).says(&[]);
            let old = whole(scene, &herd, "old", &memory(16));
            if next != "0" || old != "old whole" {
                return format!("the next stream {next}; {old}");
            }
            let there = fs::exists(format!("{herd}/a.map")).unwrap();
            scene.keeps("h/a.map");
            let new = if there { whole(scene, &herd, "a", &content) } else { "old whole".into() };
            if new != "old whole" || (out.code == 0 && !there) {
                return format!("new: {new}, there: {there}");
            }
        }
        "image" => {
            let bytes = fs::read(scene.path("old")).unwrap_or_default();
            if !(bytes == content || (bytes == b"precious" && out.code != 0)) {
                return format!("an image of {} bytes after {}", bytes.len(), out.code);
            }
        }
        _ => {
            let bytes = fs::read(scene.path("old")).unwrap_or_default();
            let stream = fs::read(scene.path("x")).unwrap();
            // two streams differ by their sessions alone
            if !(bytes.len() == stream.len() || (bytes == b"precious" && out.code != 0)) {
                return format!("a file of {} bytes after {}", bytes.len(), out.code);
            }
        }
    }
    "well".into()
}

/// Every call of a kind fails in turn, until one is not reached.
fn every(rows: &mut Rows, store: &'static str, call: &'static str, error: &'static str) {
    rows.add(
        format!("{error} at each {call}"),
        store,
        "every one in turn",
        "74 or done, old whole",
        move |scene| {
            scene.on_disk();
            let args = before(scene, store);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let tool = program(if store == "file" { "mig-send" } else { "mig-recv" });
            for when in 1..MOST {
                let inject = format!("{call}:error={error}:when={when}");
                let (out, done) = traced(scene, &inject, &tool, &args);
                let said = out.says(&[]);
                if !done {
                    return if out.code == 0 {
                        "74 or done, old whole".into()
                    } else {
                        format!("without a fault: {said}")
                    };
                }
                let well =
                    matches!(said.as_str(), "74" | "0") || (call == "write" && out.code == 74);
                let state = after(scene, store, &out);
                if !well || state != "well" {
                    return format!("number {when}: {said}; {state}");
                }
                again(scene, store);
            }
            "74 or done, old whole".into()
        },
    );
}

/// As it was before the transfer.
fn again(scene: &mut Scene, store: &str) {
    if store == "herd" {
        let _ = fs::remove_file(scene.path("h/a.map"));
        let _ = fs::remove_file(scene.path("h/third.map"));
    } else {
        fs::write(scene.path("old"), "precious").unwrap();
    }
}

/// Killed at every call of a kind.
fn killed(rows: &mut Rows, store: &'static str, call: &'static str) {
    rows.add(
        format!("SIGKILL at each {call}"),
        store,
        "every one in turn",
        "old or new whole",
        move |scene| {
            scene.on_disk();
            let args = before(scene, store);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let tool = program(if store == "file" { "mig-send" } else { "mig-recv" });
            for when in 1..MOST {
                let inject = format!("{call}:signal=KILL:when={when}");
                let (out, done) = traced(scene, &inject, &tool, &args);
                if !done {
                    return if out.code == 0 {
                        "old or new whole".into()
                    } else {
                        format!("without a fault: {}", out.whole())
                    };
                }
                let state = after(scene, store, &out);
                if state != "well" {
                    return format!("number {when}: {}; {state}", out.whole());
                }
                if call == "rename" {
                    // a name can be replaced only by another: here, and nowhere else, is a moment
                    // at which the new one has a hidden name
                    hidden(scene).iter().for_each(|path| fs::remove_file(path).unwrap());
                }
                again(scene, store);
            }
            "old or new whole".into()
        },
    );
}

/// Hidden names that a killed command left.
fn hidden(scene: &Scene) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(scene.folder()).unwrap().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|ext| ext == "part")).collect()
}

fn storm(scene: &mut Scene, tool: &str, call: &str) -> String {
    // the loader reads before we do, and does not read again
    let inject = format!("{call}:error=EINTR:when=9+2");
    if tool == "recv" {
        let (_, content) = scene.stream("x", 40, &[]);
        let herd = scene.herd("h");
        scene.keeps("h/a.map");
        let (out, _) = traced(
            scene,
            &inject,
            &program("mig-recv"),
            &["--into", &herd, "--from", "exec:cat x"],
        );
        let same = out.code == 0 && whole(scene, &herd, "a", &content) == "old whole";
        return format!("{}; {}", out.says(&[]), if same { "same bytes" } else { "other bytes" });
    }
    let holder = scene.holder(&["anon:300"]);
    let (vm, file) = (holder.target("a", 0), scene.keeps("x"));
    let to = format!("file:{file}");
    let (out, _) = traced(scene, &inject, &program("mig-send"), &["--vm", &vm, "--to", &to]);
    let got = scene.run(&mut scene.recv(&["--discard", "--from", &to])).says(&[]);
    format!("{}; {}", out.says(&[]), if got == "0" { "same bytes" } else { "other bytes" })
}
