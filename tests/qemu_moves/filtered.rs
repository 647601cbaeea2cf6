//! Moves through `mig-send --qemu` and `mig-recv --qemu`.

use crate::road::{Far, into};
use crate::support::qemu::{Build, Guest, PC, Q35, Template, Version, exec, ready_with};
use crate::support::tool;
use serde_json::json;
use std::fs::{self, File};
use std::time::Duration;

/// Moves a guest by `exec:` at both ends and a Unix socket between; says what mig-send's bill has.
fn moves_while_it_writes(version: Version, machine: &str, send: &str) {
    let build = Build::small("web1", version, machine);
    let source = build.boot();
    source.tell("rewrite 300");
    source.control().set_parameters(&json!({"max-bandwidth": 64 << 20}));
    let before = source.last_tick();
    let far = Far::new(&source, "web1");
    let there = build.incoming(&far.receiver("")).spawn();
    source.control().migrate(&far.sender(send));
    source.control().wait_migrated();
    there.control().wait_runstate("running");
    assert_eq!(source.control().runstate(), "postmigrate");
    let left = source.last_tick();
    assert!(left > before, "it ran while it moved");
    there.assert_sane_after(3);
    assert!(there.last_tick() >= left + 3, "it goes on where it was");
    let bill = far.bill();
    assert!(bill["confirmed"].as_bool().unwrap(), "{bill}");
}

macro_rules! each {
    ($($name:ident, $version:ident, $machine:expr;)*) => {$(
        #[test]
        fn $name() {
            if ready_with(stringify!($name), &[Version::$version]) {
                moves_while_it_writes(Version::$version, $machine, "");
            }
        }
    )*};
}

each! {
    a_pc_of_qemu_7_moves_filtered_while_it_writes, V7, PC;
    a_q35_of_qemu_7_moves_filtered_while_it_writes, V7, Q35;
    a_pc_of_qemu_10_moves_filtered_while_it_writes, V10, PC;
    a_q35_of_qemu_10_moves_filtered_while_it_writes, V10, Q35;
}

/// What QEMU writes when it is stopped and migrates to a file.
fn recorded(source: &Guest) -> Vec<u8> {
    let path = source.path("q.stream");
    source.control().stop();
    source.control().unthrottle();
    source.control().migrate(&into(&path));
    source.control().wait_migrated();
    fs::read(path).unwrap()
}

#[test]
fn a_recorded_stream_is_rebuilt_byte_for_byte_and_resumes() {
    let test = "a_recorded_stream_is_rebuilt_byte_for_byte_and_resumes";
    for version in Version::ALL {
        if !ready_with(test, &[version]) {
            continue;
        }
        let build = Build::small("web1", version, Q35);
        let source = build.boot();
        let stream = recorded(&source);
        let (herd, again) = (source.path("w.herd"), source.path("q2.stream"));
        let open = |path: &std::path::Path| File::open(path).unwrap();
        let send = tool("mig-send")
            .args(["--qemu", "-q"])
            .stdin(open(&source.path("q.stream")))
            .stdout(File::create(&herd).unwrap())
            .status();
        assert!(send.unwrap().success());
        let recv = tool("mig-recv")
            .args(["--qemu", "-q"])
            .stdin(open(&herd))
            .stdout(File::create(&again).unwrap())
            .status();
        assert!(recv.unwrap().success());
        assert!(fs::read(&again).unwrap() == stream, "the same bytes");
        assert!(fs::metadata(&herd).unwrap().len() < stream.len() as u64);
        let there = build.incoming(&exec(&format!("cat {}", again.display()))).spawn();
        // it was stopped when it was recorded, and arrives so
        there.control().wait_runstate("paused");
        there.control().cont();
        there.assert_sane_after(2);
    }
}

#[test]
fn a_receiver_that_fails_leaves_the_source_running_and_qemu_says_failed() {
    let test = "a_receiver_that_fails_leaves_the_source_running_and_qemu_says_failed";
    for (version, machine) in [(Version::V7, PC), (Version::V7, Q35), (Version::V10, Q35)] {
        if !ready_with(test, &[version]) {
            continue;
        }
        let build = Build::small("web1", version, machine);
        let source = build.clone().more(&["-device", "virtio-balloon-pci"]).boot();
        source.control().unthrottle();
        let far = Far::new(&source, "web1");
        // a machine without a device that is sent: QEMU refuses it when all memory is there
        let mut there = build.incoming(&far.receiver("")).spawn();
        source.control().migrate(&far.sender(""));
        let status =
            source.control().wait_status(&["failed", "completed"], Duration::from_secs(60));
        assert_eq!(status, "failed", "{}", far.said());
        source.control().wait_runstate("running");
        source.assert_sane_after(2);
        if version == Version::V7 {
            assert!(!there.wait_ended().success());
        }
    }
}

#[test]
fn a_clone_moves_onto_its_template_and_stays_on_it() {
    let test = "a_clone_moves_onto_its_template_and_stays_on_it";
    for version in Version::ALL {
        if !ready_with(test, &[version]) {
            continue;
        }
        let template = Template::make(version, PC);
        let source = template.start("web1");
        source.assert_sane_after(2);
        source.tell("rewrite 500");
        source.assert_sane_after(1);
        source.tell("rewrite 0");
        let before = source.private_pages_of_ram();
        let on = format!("--template {}", template.path().display());
        let far = Far::new(&source, "web1");
        let there = template.build("web1").incoming(&far.receiver(&on)).spawn();
        source.control().unthrottle();
        source.control().migrate(&far.sender(&on));
        source.control().wait_migrated();
        there.control().wait_runstate("running");
        let after = there.private_pages_of_ram();
        there.assert_sane_after(2);
        assert!(after <= before + before / 20 + 64, "{before} private pages, then {after}");
        assert!(!there.file_frames_of_ram().is_disjoint(&source.file_frames_of_ram()));
        let bill = far.bill();
        let settled = bill["filters"].as_array().unwrap();
        let template = settled.iter().find(|f| f["filter"] == "template").unwrap();
        assert!(template["pages"].as_u64().unwrap() > 1000, "{bill}");
    }
}
