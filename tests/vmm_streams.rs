//! Recorded streams of QEMU through `mig-send --qemu` and `mig-recv --qemu`, without a QEMU: what comes
//! out is what went in, whatever the filters and the medium. `fixtures/qemu/README.md` says what the
//! streams are.

#![allow(clippy::unwrap_used)] // a test that cannot go on panics

mod support;

use pageherd::qemu::stream::NO_DESCRIPTION;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{root, tool, words};

fn streams() -> Vec<PathBuf> {
    let all = fs::read_dir(root().join("fixtures/qemu")).unwrap();
    let all = all.map(|entry| entry.unwrap().path());
    let found: Vec<_> = all.filter(|p| p.extension().is_some_and(|e| e == "qevm")).collect();
    assert!(found.len() >= 7);
    found
}

fn done(mut command: Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", words(&out));
    words(&out)
}

fn from_to(name: &str, args: &[&str], from: &Path, to: &Path) -> Command {
    let mut command = tool(name);
    command.arg("--qemu").args(args).stdin(File::open(from).unwrap());
    command.stdout(File::create(to).unwrap());
    command
}

#[test]
fn a_stream_comes_out_byte_for_byte_with_any_filters() {
    let dir = tempfile::tempdir().unwrap();
    let [herd, again, key] = ["herd", "again", "key"].map(|name| dir.path().join(name));
    fs::write(&key, [7; 32]).unwrap();
    let key = format!("--key={}", key.display());
    for stream in streams() {
        let whole = fs::read(&stream).unwrap();
        for filters in ["auto", "none", "zero", "same", "zero,lz4", "zstd=3"] {
            let send = ["--filters", filters, "--keep-filters", &key];
            done(from_to("mig-send", &send, &stream, &herd));
            done(from_to("mig-recv", &[&key], &herd, &again));
            assert!(fs::read(&again).unwrap() == whole, "{}, {filters}", stream.display());
        }
    }
}

#[test]
fn where_the_far_end_answers_the_description_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    for stream in streams() {
        let [socket, again] = ["socket", "again"].map(|name| dir.path().join(name));
        let _ = fs::remove_file(&socket);
        let address = format!("unix:{}", socket.display());
        let mut recv = tool("mig-recv");
        recv.args(["--qemu", "-q", "--vm", "web1", "--from", &address]);
        let mut recv =
            recv.stdout(File::create(&again).unwrap()).stdin(Stdio::null()).spawn().unwrap();
        support::wait_for("the socket", std::time::Duration::from_secs(10), || socket.exists());
        let mut send = tool("mig-send");
        send.args(["--qemu", "-q", "--vm", "web1", "--to", &address]);
        send.stdin(File::open(&stream).unwrap()).stdout(Stdio::null());
        done(send);
        assert!(recv.wait().unwrap().success());
        let (whole, again) = (fs::read(&stream).unwrap(), fs::read(&again).unwrap());
        if stream.to_string_lossy().contains("suppress") {
            assert!(again == whole, "it had none");
            continue;
        }
        let same = again.len() - NO_DESCRIPTION.len();
        assert!(again[..same] == whole[..same], "{}", stream.display());
        assert_eq!(again[same..], NO_DESCRIPTION);
        assert_eq!(again[same - 1], 0, "what lets the guest run");
    }
}
