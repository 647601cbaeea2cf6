//! Several guests that move with one group, and other ways to be told and to fail.

use crate::road::Far;
use crate::support::qemu::{Build, Guest, PC, Q35, Version, ready_with};
use crate::support::{n, shm, tool, words};
use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The pages that a filter of a bill settled.
fn settled(bill: &serde_json::Value, name: &str) -> u64 {
    let all = bill["filters"].as_array().unwrap();
    all.iter().find(|f| f["filter"] == name).map_or(0, |filter| n(&filter["pages"]))
}

fn end_group(name: &str, group: &str) -> std::process::Output {
    tool(name).args(["--end-group", "--group", group]).output().unwrap()
}

/// A guest that was told to go, and where to.
struct Move {
    far: Far,
    source: Guest,
    there: Guest,
}

impl Move {
    /// Begins; `more` is for both ends.
    fn begin(build: &Build, source: Guest, more: &str) -> Self {
        let far = Far::new(&source, &build.name);
        let there = build.incoming(&far.receiver(more)).spawn();
        source.control().unthrottle();
        source.control().migrate(&far.sender(more));
        Self { far, source, there }
    }

    fn ends_well(&self) -> serde_json::Value {
        let status =
            self.source.control().wait_status(&["completed", "failed"], Duration::from_secs(90));
        assert_eq!(status, "completed", "{}", self.far.said());
        self.there.control().wait_runstate("running");
        self.there.assert_sane_after(2);
        self.far.bill()
    }

    fn fails(&self) -> String {
        let status =
            self.source.control().wait_status(&["completed", "failed"], Duration::from_secs(90));
        assert_eq!(status, "failed", "{}", self.far.said());
        self.source.control().wait_runstate("running");
        self.source.assert_sane_after(1);
        self.far.said()
    }
}

#[test]
fn guests_of_one_group_send_what_they_share_once() {
    let test = "guests_of_one_group_send_what_they_share_once";
    if !ready_with(test, &[Version::V7]) {
        return;
    }
    let dir = tempfile::tempdir_in(shm()).unwrap();
    let group = dir.path().join("group").display().to_string();
    let build = |name: &str| Build { nokaslr: true, ..Build::small(name, Version::V7, PC) };
    let more = format!("--group {group} --filters zero,same");
    let both = format!("--group {group}");
    let begin = |name: &str| {
        let build = build(name);
        let source = build.boot();
        let far = Far::new(&source, name);
        let there = build.incoming(&far.receiver(&both)).spawn();
        source.control().unthrottle();
        source.control().migrate(&far.sender(&more));
        Move { far, source, there }
    };
    // one by itself, then two at once
    let first = begin("web1").ends_well();
    let [second, third] = ["web2", "web3"].map(begin);
    let bills = [&second, &third].map(|moved| moved.ends_well());
    for bill in &bills {
        let (bytes, of) = (n(&bill["stream_bytes"]), n(&first["stream_bytes"]));
        assert!(bytes * 2 < of, "{bytes} bytes, and {of} of the first");
        assert!(settled(bill, "same") > 5000, "{bill}");
    }
    for name in ["mig-send", "mig-recv"] {
        let out = end_group(name, &group);
        assert!(out.status.success(), "{}", words(&out));
        let again = end_group(name, &group);
        assert_eq!(again.status.code(), Some(66), "{}", words(&again));
    }
    assert!(!dir.path().join("group").exists(), "nothing is left");
}

#[test]
fn a_full_group_is_named_and_the_source_runs_on() {
    let test = "a_full_group_is_named_and_the_source_runs_on";
    if !ready_with(test, &[Version::V7]) {
        return;
    }
    let dir = tempfile::tempdir_in(shm()).unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8M,mode=0700", "small"])
        .arg(dir.path())
        .status();
    assert!(mount.unwrap().success());
    let group = dir.path().join("group").display().to_string();
    let build = Build::small("web1", Version::V7, Q35);
    let moved = Move::begin(&build, build.boot(), &format!("--group {group}"));
    let said = moved.fails();
    drop(moved);
    let _ = Command::new("umount").arg(dir.path()).status();
    assert!(said.contains("full") && said.contains("--end-group"), "{said}");
}

#[test]
fn qemu_is_told_by_its_way_back() {
    let test = "qemu_is_told_by_its_way_back";
    for (version, machine) in [(Version::V7, Q35), (Version::V10, PC)] {
        if !ready_with(test, &[version]) {
            continue;
        }
        let build = Build::small("web1", version, machine);
        let mut source = build.boot();
        // first where it is refused: QEMU says failed, and can be asked again
        for name in ["another", "web1"] {
            source.control().set_capability("return-path", true);
            source.control().unthrottle();
            let far = Far::new(&source, "web1");
            let there =
                build.incoming(&far.receiver("").replace("--vm web1", &format!("--vm {name}")));
            let moved = Move { source, there: there.spawn(), far };
            moved.source.control().migrate(&moved.far.sender(""));
            if name == "web1" {
                moved.ends_well();
                break;
            }
            assert!(moved.fails().contains("web1"), "it says which VM came");
            source = moved.source;
        }
    }
}

#[test]
fn what_is_no_stream_of_qemu_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let send = |bytes: &[u8]| {
        let path = dir.path().join("stream");
        fs::write(&path, bytes).unwrap();
        let mut send = tool("mig-send");
        send.arg("--qemu").stdin(File::open(&path).unwrap()).stdout(Stdio::null());
        let out = send.output().unwrap();
        (out.status.code(), words(&out))
    };
    let (code, said) = send(b"");
    assert!(code == Some(65) && said.contains("query-migrate"), "{said}");
    let (code, said) = send(&[7; 9000]);
    assert!(code == Some(65) && said.contains("QEVM"), "{said}");
    let recv = |args: &[&str], bytes: &[u8]| {
        let path = dir.path().join("stream");
        fs::write(&path, bytes).unwrap();
        let mut recv = tool("mig-recv");
        recv.args(args).stdin(File::open(&path).unwrap()).stdout(Stdio::null());
        let out = recv.output().unwrap();
        (out.status.code(), words(&out))
    };
    // an ordinary stream where a QEMU waits
    let image = dir.path().join("image");
    fs::write(&image, vec![1; 1 << 16]).unwrap();
    let mut send = tool("mig-send");
    send.args(["-q", "--vm"]).arg(format!("a=image:{}", image.display()));
    let stream = send.output().unwrap().stdout;
    let (code, said) = recv(&["--qemu"], &stream);
    assert!(code == Some(77) && said.contains("--into DIR"), "{said}");
}
