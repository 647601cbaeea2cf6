//! The ways into and out of QEMU, and what can be wrong with them: each failure has a name, says what
//! to do, leaves nothing behind, and the guest runs where it was.

use crate::rig::{Act, Golden, LONG, Pair, Place, has_arrived, runstate};
use crate::support::qemu::{Build, Guest, PC, Q35, Ram, Version, ready_with};
use crate::support::{wait_for, words};
use std::fs;
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

/// Waits for a command.
fn ended(mut child: Child, what: &str) -> Output {
    let end = Instant::now() + LONG;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            let _ = child.kill();
            panic!("{what} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// What a command said against it: the one line with its name that is no remark.
fn complaint(out: &Output) -> String {
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    said.lines().last().unwrap_or_default().to_owned()
}

/// A mig-send that reads a QEMU which may start no program: QEMU has one end of the pipe, it the other.
fn sending(pair: &Pair, source: &Guest, args: &[&str]) -> Child {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = pair.tool("mig-send");
    command.args(["--qemu", "--vm", "web1"]).args(args).stdin(reader);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let mut control = source.control();
    control.getfd("road", &writer);
    drop(writer);
    control.migrate("fd:road");
    child
}

/// A mig-recv that writes to a pipe.
fn receiving(pair: &Pair, args: &[&str], to: impl Into<Stdio>) -> Child {
    let far = pair.path("far");
    let mut command = pair.tool("mig-recv");
    command.args(["--qemu", "--from", &format!("unix:{}", far.display())]).args(args);
    let child = command.stdout(to).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the receiver", LONG, || far.exists());
    child
}

/// The source says that it failed, and the guest runs.
fn runs_on(source: &Guest, what: &str) {
    let status = source.control().wait_status(&["failed", "completed", "cancelled"], LONG);
    assert_eq!(status, "failed", "{what}");
    wait_for("the guest to go on", LONG, || runstate(source).as_deref() == Some("running"));
    source.assert_sane_after(1);
}

/// A device: the state of a machine that has it is refused, at its end, by one that has not.
const BALLOON: [&str; 2] = ["-device", "virtio-balloon-pci"];

fn small(version: Version, machine: &str) -> Build {
    Build { work: 8, room: 0, tick: 50, ..Build::small("web1", version, machine) }
}

#[test]
fn filters_at_both_ends_of_descriptors_where_qemu_may_start_no_program() {
    const TEST: &str = "filters_at_both_ends_of_descriptors_where_qemu_may_start_no_program";
    for version in Version::ALL {
        if !ready_with(TEST, &[version]) {
            continue;
        }
        let build = Build { sandbox: true, ..small(version, Q35) };
        let source = build.boot();
        source.tell("rewrite 100");
        source.control().unthrottle();
        let pair = Pair::new();
        let (reader, writer) = std::io::pipe().unwrap();
        let receiver = receiving(&pair, &["--vm", "web1"], writer);
        let mut there = build.incoming("fd:0").spawn_on(reader.into());
        let to = format!("unix:{}", pair.path("far").display());
        let sender = sending(&pair, &source, &["--to", &to]);
        let (sent, received) = (ended(sender, "mig-send"), ended(receiver, "mig-recv"));
        let said = format!("{}{}", words(&sent), words(&received));
        assert!(sent.status.success() && received.status.success(), "{said}");
        assert!(has_arrived(&mut there).unwrap(), "{said}");
        assert_eq!(source.control().migration_status(), "completed");
        there.assert_sane_after(2);
    }
}

#[test]
fn qemu_that_listens_is_told_the_truth() {
    const TEST: &str = "qemu_that_listens_is_told_the_truth";
    for version in Version::ALL {
        if !ready_with(TEST, &[version]) {
            continue;
        }
        for more in ["", ",suppress-vmdesc=on"] {
            let other = small(version, &format!("{Q35}{more}"));
            let build = other.clone().more(&BALLOON);
            let source = build.boot();
            source.control().unthrottle();
            source.control().set_capability("return-path", true);
            let pair = Pair::new();
            let mut there = other.incoming(&pair.receiver("")).spawn();
            source.control().migrate(&pair.sender("far", ""));
            assert!(pair.all_gone(LONG));
            assert!(!has_arrived(&mut there).unwrap());
            runs_on(&source, &pair.words());
            assert!(pair.said("mig-send").contains("has refused the stream"), "{}", pair.words());

            let pair = Pair::new();
            let mut there = build.incoming(&pair.receiver("")).spawn();
            source.control().migrate(&pair.sender("far", ""));
            assert!(pair.all_gone(LONG));
            assert!(has_arrived(&mut there).unwrap(), "{}", pair.words());
            assert_eq!(source.control().migration_status(), "completed", "{}", pair.words());
            assert!(!pair.said("mig-send").contains("does not wait"), "{}", pair.words());
            there.assert_sane_after(1);
        }
    }
}

/// The pipe is wide at first, always full, and small in time: of a guest that does not run, without a
/// pause before its end.
#[test]
fn qemu_is_held_where_the_link_is_slower_than_it() {
    const TEST: &str = "qemu_is_held_where_the_link_is_slower_than_it";
    for version in Version::ALL {
        if !ready_with(TEST, &[version]) {
            continue;
        }
        let build = Build { mib: 512, work: 80, ..small(version, Q35) };
        let source = build.boot();
        source.control().unthrottle();
        source.control().stop();
        let pair = Pair::new();
        let there = build.incoming(&pair.receiver("")).spawn();
        source.control().migrate(&pair.sender("far", "--filters zero --rate 100M"));
        assert!(pair.all_gone(LONG));
        assert!(!pair.said("mig-send").contains("does not wait"), "{}", pair.words());
        wait_for("the guest there", LONG, || runstate(&there).as_deref() == Some("paused"));
        assert_eq!(source.control().migration_status(), "completed", "{}", pair.words());
        there.control().cont();
        there.assert_sane_after(1);
    }
}

#[test]
fn where_qemu_cannot_be_held_that_is_said_and_the_guest_can_be_let_go() {
    const TEST: &str = "where_qemu_cannot_be_held_that_is_said_and_the_guest_can_be_let_go";
    for version in Version::ALL {
        if !ready_with(TEST, &[version]) {
            continue;
        }
        let other = small(version, &format!("{Q35},suppress-vmdesc=on"));
        let build = other.clone().more(&BALLOON);
        let source = build.boot();
        source.control().unthrottle();
        let pair = Pair::new();
        let mut there = other.incoming(&pair.receiver("")).spawn();
        source.control().migrate(&pair.sender("far", ""));
        assert!(pair.all_gone(LONG));
        assert!(!has_arrived(&mut there).unwrap());
        let said = pair.said("mig-send");
        assert!(said.contains("says completed whatever becomes of it"), "{said}");
        assert!(said.contains("suppress-vmdesc off, or its capability return-path on"), "{said}");
        assert!(said.contains("let it go on with the QMP command cont"), "{said}");
        assert_eq!(source.control().migration_status(), "completed");
        source.control().cont();
        source.assert_sane_after(1);

        let pair = Pair::new();
        let mut there = build.incoming(&pair.receiver("")).spawn();
        source.control().migrate(&pair.sender("far", ""));
        assert!(pair.all_gone(LONG));
        assert!(has_arrived(&mut there).unwrap(), "{}", pair.words());
        there.assert_sane_after(1);
    }
}

#[test]
fn memory_that_both_qemus_have_is_not_sent() {
    const TEST: &str = "memory_that_both_qemus_have_is_not_sent";
    for version in Version::ALL {
        if !ready_with(TEST, &[version]) {
            continue;
        }
        let pair = Pair::new();
        let ram = Ram::File { path: pair.path("ram"), share: true };
        let build = small(version, Q35).ram(ram);
        let source = build.boot();
        let mut there = build.incoming("defer").spawn();
        for guest in [&source, &there] {
            guest.control().set_capability("x-ignore-shared", true);
        }
        there.control().migrate_incoming(&pair.receiver(""));
        source.control().migrate(&pair.sender("far", ""));
        assert!(pair.all_gone(LONG), "{}", pair.words());
        assert!(has_arrived(&mut there).unwrap(), "{}", pair.words());
        assert_eq!(source.control().migration_status(), "completed", "{}", pair.words());
        there.assert_sane_after(2);
    }
}

/// What is not taken apart passes whole, or QEMU does not begin; either is said, and there is one
/// guest that runs.
#[test]
fn what_is_asked_of_qemu_and_cannot_be_filtered_is_named() {
    const TEST: &str = "what_is_asked_of_qemu_and_cannot_be_filtered_is_named";
    let capabilities = ["postcopy-ram", "multifd", "xbzrle", "mapped-ram", "compress"];
    for version in Version::ALL {
        if !ready_with(TEST, &[version]) {
            continue;
        }
        let build = small(version, PC);
        let mut source = build.boot();
        for capability in capabilities {
            let on = |guest: &Guest| {
                let all = serde_json::json!([{"capability": capability, "state": true}]);
                let all = serde_json::json!({"capabilities": all});
                guest.control().execute("migrate-set-capabilities", &all)
            };
            if on(&source).is_err() {
                continue; // this QEMU has none such
            }
            source.control().unthrottle();
            source.tell("rewrite 100");
            let pair = Pair::new();
            let mut there = build.incoming("defer").spawn();
            let _ = on(&there);
            let uri = pair.receiver("");
            let opened = there
                .control()
                .execute("migrate-incoming", &serde_json::json!({"uri": uri.as_str()}));
            let begun = opened.and_then(|_| {
                let uri = pair.sender("far", "");
                source.control().execute("migrate", &serde_json::json!({"uri": uri}))
            });
            let what = format!("{version:?}, {capability}");
            match begun {
                Err(refused) => assert!(refused.contains("igrat"), "{what}: {refused}"),
                Ok(_) => {
                    assert!(pair.all_gone(LONG), "{what}: {}", pair.words());
                    let said = pair.said("mig-send");
                    let arrived = has_arrived(&mut there).unwrap();
                    eprintln!("{what}: arrived {arrived}: {said}");
                    // multifd is refused by QEMU only when the first byte is due
                    let named = [capability, "post-copy is on", "QEMU sent nothing: ask it why"];
                    // and xbzrle is only allowed: a page that came back in time is sent whole
                    let unused = capability == "xbzrle" && arrived;
                    let is_named = named.iter().any(|name| said.contains(name));
                    assert!(is_named || unused, "{what}: {said}");
                    if arrived {
                        wait_for("the source", LONG, || {
                            runstate(&source).as_deref() == Some("postmigrate")
                        });
                        source = there;
                    }
                }
            }
            let off = serde_json::json!([{"capability": capability, "state": false}]);
            let off = serde_json::json!({"capabilities": off});
            source.control().execute("migrate-set-capabilities", &off).unwrap();
            wait_for("it to run", LONG, || runstate(&source).as_deref() == Some("running"));
            source.assert_sane_after(1);
        }
    }
}

/// A row: what is wrong, with which arguments at each end, how mig-send ends, and what it says.
struct Wrong {
    what: &'static str,
    send: Vec<String>,
    recv: Vec<String>,
    code: i32,
    says: &'static str,
}

fn wrong(what: &'static str, send: &str, recv: &str, code: i32, says: &'static str) -> Wrong {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    Wrong { what, send: words(send), recv: words(recv), code, says }
}

#[test]
fn what_is_wrong_at_the_far_end_has_a_name_and_the_guest_runs_on() {
    const TEST: &str = "what_is_wrong_at_the_far_end_has_a_name_and_the_guest_runs_on";
    if !ready_with(TEST, &[]) {
        return;
    }
    let golden = Golden::make(small(Version::V7, Q35).more(&BALLOON), "rewrite 50");
    let source = golden.start();
    let files = tempfile::tempdir().unwrap();
    let at = |name: &str| files.path().join(name).display().to_string();
    let random: Vec<u8> = (0..2_u32 << 18).flat_map(u32::to_le_bytes).collect();
    fs::write(at("template"), &random).unwrap();
    fs::write(at("other"), &random[4096..]).unwrap();
    fs::write(at("key"), [7; 32]).unwrap();
    let (template, group) = (at("template"), at("group"));
    let rows = [
        wrong("another name", "", "--vm db1", 77, "db1"),
        wrong("no template there", &format!("--template {template}"), "", 77, "template"),
        wrong(
            "another template there",
            &format!("--template {template}"),
            &format!("--template {}", at("other")),
            77,
            "template",
        ),
        wrong("no group there", &format!("--group {group}"), "", 77, "group"),
        wrong("no room for the pool", "", "--pool-max 1M", 74, "--pool-max"),
        wrong("a key there", "", &format!("--key {}", at("key")), 77, "key"),
        wrong("too little memory", "", "--max-ram 1M", 77, "max-ram"),
    ];
    let mut bad = Vec::new();
    for row in rows {
        let pair = Pair::new();
        let (reader, writer) = std::io::pipe().unwrap();
        let args: Vec<&str> = row.recv.iter().map(String::as_str).collect();
        let receiver = receiving(&pair, &args, writer);
        let mut there = golden.build.incoming("fd:0").spawn_on(reader.into());
        let to = format!("unix:{}", pair.path("far").display());
        let mut args = vec!["--to", &to];
        args.extend(row.send.iter().map(String::as_str));
        let sender = sending(&pair, &source, &args);
        let (sent, received) = (ended(sender, "mig-send"), ended(receiver, "mig-recv"));
        let what = format!("{}: {}{}", row.what, words(&sent), words(&received));
        runs_on(&source, &what);
        assert!(!has_arrived(&mut there).unwrap(), "{what}");
        assert!(pair.all_gone(LONG) && !pair.path("far").exists(), "{what}");
        let said = complaint(&sent);
        let good = sent.status.code() == Some(row.code) && said.contains(row.says);
        if !good || !said.starts_with("mig-send: ") || fs::exists(&group).unwrap() {
            bad.push(what);
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// QEMU 7.2 says that it listens also where it does not: in the move after one that failed with the
/// capability return-path, which was then turned off (`rp_thread_created` stays).
#[test]
fn qemu_that_only_says_that_it_listens_does_not_lie_either() {
    const TEST: &str = "qemu_that_only_says_that_it_listens_does_not_lie_either";
    if !ready_with(TEST, &[]) {
        return;
    }
    let other = small(Version::V7, Q35);
    let build = other.clone().more(&BALLOON);
    let source = build.boot();
    source.control().unthrottle();
    for told in [true, false, true, false] {
        source.control().set_capability("return-path", told);
        let pair = Pair::new();
        let mut there = other.incoming(&pair.receiver("")).spawn();
        let sender = pair.sender("near", "");
        let pid = pair.path("mig-send.pid");
        let kill = Act::Do(Box::new(move || {
            let pid = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
            crate::rig::end_it(pid);
        }));
        let relay = pair.relay(u64::MAX, told.then_some((Place::Forward(5_000_000), kill)));
        source.control().migrate(&sender);
        assert!(pair.all_gone(LONG));
        drop(relay);
        assert!(!has_arrived(&mut there).unwrap());
        runs_on(&source, &format!("told {told}: {}", pair.words()));
    }
}

/// While the far end says that it has everything, somebody takes the move back. QEMU then closes
/// nothing, waits for our word, and runs the guest whatever that is.
#[test]
fn a_move_that_is_cancelled_at_the_last_moment_is_not_committed() {
    const TEST: &str = "a_move_that_is_cancelled_at_the_last_moment_is_not_committed";
    for version in Version::ALL {
        if !ready_with(TEST, &[version]) {
            continue;
        }
        let build = small(version, Q35);
        let source = build.boot();
        source.control().unthrottle();
        source.control().set_capability("return-path", true);
        for _ in 0..2 {
            let pair = Pair::new();
            let mut there = build.incoming(&pair.receiver("")).spawn();
            let sender = pair.sender("near", "");
            let (say, hear) = std::sync::mpsc::channel();
            let wait = Act::Do(Box::new(move || {
                say.send(()).unwrap();
                std::thread::sleep(Duration::from_secs(1));
            }));
            // the header of the answers, and that it may begin, are 80 bytes
            let relay = pair.relay(u64::MAX, Some((Place::Back(81), wait)));
            source.control().migrate(&sender);
            hear.recv_timeout(LONG).unwrap();
            source.control().ask("migrate_cancel", &serde_json::json!({}));
            assert!(pair.all_gone(LONG));
            drop(relay);
            let what = pair.words();
            assert!(!has_arrived(&mut there).unwrap(), "{what}");
            assert!(pair.said("mig-send").contains("was cancelled there"), "{what}");
            assert_eq!(source.control().migration_status(), "cancelled", "{what}");
            wait_for("it to run", LONG, || runstate(&source).as_deref() == Some("running"));
            source.assert_sane_after(1);
        }
    }
}

#[test]
fn a_far_end_that_is_not_there_has_a_name_and_the_guest_runs_on() {
    const TEST: &str = "a_far_end_that_is_not_there_has_a_name_and_the_guest_runs_on";
    if !ready_with(TEST, &[]) {
        return;
    }
    let golden = Golden::make(small(Version::V7, Q35), "rewrite 50");
    let source = golden.start();
    let mut bad = Vec::new();
    let mut judge = |pair: &Pair, sent: &Output, code: i32, says: &str, what: &str| {
        let what = format!("{what}: {}", words(sent));
        runs_on(&source, &what);
        assert!(pair.all_gone(LONG), "{what}");
        let said = complaint(sent);
        let named = said.starts_with("mig-send: ") && said.contains(says);
        if sent.status.code() != Some(code) || !named {
            bad.push(what);
        }
    };
    // nobody is there, or nobody who says a word
    let pair = Pair::new();
    let silent = UnixListener::bind(pair.path("silent")).unwrap();
    let at = |name: &str| format!("unix:{}", pair.path(name).display());
    for (to, code, says) in [
        (at("nothing"), 66, "cannot connect"),
        ("tcp:127.0.0.1:1".to_owned(), 69, "cannot connect"),
        (at("silent"), 69, "1 s"),
    ] {
        let child = sending(&pair, &source, &["--stall", "1", "--to", &to]);
        judge(&pair, &ended(child, "mig-send"), code, says, &to);
    }
    drop(silent);
    // a QEMU there that goes when half has come, and one that stands still
    for stands in [false, true] {
        let pair = Pair::new();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let receiver = receiving(&pair, &["--stall", "1"], writer);
        let far = format!("unix:{}", pair.path("far").display());
        let child = sending(&pair, &source, &["--to", &far]);
        std::io::copy(&mut Read::take(&mut reader, 5_000_000), &mut std::io::sink()).unwrap();
        let still = stands.then_some(reader);
        let (sent, received) = (ended(child, "mig-send"), ended(receiver, "mig-recv"));
        drop(still);
        let says = if stands { "has taken nothing for 1 s" } else { "is gone" };
        judge(&pair, &sent, 74, says, if stands { "stands" } else { "gone" });
        assert_eq!(received.status.code(), Some(69), "{}", words(&received));
        assert!(complaint(&received).contains(says), "{}", words(&received));
    }
    // a template that is written to meanwhile
    let pair = Pair::new();
    let template = pair.path("template");
    fs::write(&template, vec![3; 1 << 20]).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let name = template.display().to_string();
    let receiver = receiving(&pair, &["--template", &name], writer);
    let reading = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    let change = Act::Do(Box::new(move || fs::write(&template, vec![4; 1 << 20]).unwrap()));
    let relay = pair.relay(u64::MAX, Some((Place::Forward(5_000_000), change)));
    let near = format!("unix:{}", pair.path("near").display());
    let child = sending(&pair, &source, &["--template", &name, "--to", &near]);
    let (sent, received) = (ended(child, "mig-send"), ended(receiver, "mig-recv"));
    drop(relay);
    reading.join().unwrap().unwrap();
    judge(&pair, &sent, 1, "must not change", "changed");
    assert!(!received.status.success(), "{}", words(&received));
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn a_guest_that_the_qemu_there_does_not_know_runs_on() {
    const TEST: &str = "a_guest_that_the_qemu_there_does_not_know_runs_on";
    for (from, machine, to, other) in [
        (Version::V7, Q35, Version::V7, PC),
        (Version::V10, PC, Version::V7, PC),
        (Version::V10, Q35, Version::V10, PC),
    ] {
        if !ready_with(TEST, &[from, to]) {
            continue;
        }
        let source = small(from, machine).boot();
        source.control().unthrottle();
        let pair = Pair::new();
        let mut there = small(to, other).incoming(&pair.receiver("")).spawn();
        source.control().migrate(&pair.sender("far", ""));
        assert!(pair.all_gone(LONG), "{}", pair.words());
        assert!(!has_arrived(&mut there).unwrap());
        runs_on(&source, &pair.words());
        assert!(pair.said("mig-send").contains("has refused the stream"), "{}", pair.words());
    }
}
