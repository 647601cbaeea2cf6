//! What docs/QEMU.md has for copying works as it is written.

use crate::support::qemu::{Build, Q35, Version, ready_with};
use crate::support::{root, skip, tool, wait_for};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The script of the guide, which gives descriptors to a QEMU.
fn script() -> String {
    let guide = fs::read_to_string(root().join("docs/QEMU.md")).unwrap();
    let (_, rest) = guide.split_once("```\n#!/usr/bin/python3\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// A run of the script, which ends with this value, and what it started too.
struct Run(Child);

impl Run {
    fn new(script: &Path, way: &str, qmp: &Path, command: &str, address: &str) -> Self {
        let mut python = Command::new("python3");
        python.arg(script).arg(way).arg(qmp).arg(tool(command).get_program());
        python.args(["--qemu", "--vm", "web1"]).arg(address);
        python.process_group(0).stdout(Stdio::piped());
        Self(python.spawn().unwrap())
    }

    /// What it says at its end; panics where that is not well.
    fn said(mut self) -> String {
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}: {said}");
        said
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = killpg(group, Signal::SIGKILL);
            let _ = self.0.wait();
        }
    }
}

#[test]
fn the_guides_script_moves_a_guest_between_qemus_that_may_start_no_program() {
    let test = "the_guides_script_moves_a_guest_between_qemus_that_may_start_no_program";
    if Command::new("python3").arg("--version").output().is_err() {
        return skip(test, "there is no python3");
    }
    for version in Version::ALL {
        if !ready_with(test, &[version]) {
            continue;
        }
        let build = Build { sandbox: true, ..Build::small("web1", version, Q35) };
        let source = build.boot();
        source.control().unthrottle();
        let there = build.incoming("defer").spawn();
        let (move_fd, socket) = (source.path("move-fd"), source.path("socket"));
        fs::write(&move_fd, script()).unwrap();
        let run = |way, qmp: &Path, command, address: &str| {
            let address = format!("--{address}=unix:{}", socket.display());
            Run::new(&move_fd, way, qmp, command, &address)
        };
        let receiver = run("in", &there.path("qmp"), "mig-recv", "from");
        wait_for("the receiver listens", Duration::from_secs(20), || socket.exists());
        let sender = run("out", &source.path("qmp"), "mig-send", "to");
        assert!(sender.said().starts_with("QEMU says completed"));
        assert!(receiver.said().starts_with("QEMU says completed"));
        assert_eq!(source.control().runstate(), "postmigrate");
        there.assert_sane_after(2);
    }
}
