//! Moves with nothing of pageherd between the two QEMUs: what the guests and their tests can be
//! relied on for.

use crate::road::{by_descriptor, by_fifo, fifo, from, into};
use crate::support::qemu::{
    Build, Guest, PC, Q35, Ram, Template, Version, file_pages, ready_with, work_page,
};
use crate::support::{n, shm, wait_for};
use serde_json::json;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const PAGES: u64 = 16 << 8; // of the work of Build::small

/// Has the guest rewrite memory, moves it slowly enough for that to matter, and sees it go on.
fn moves_while_it_writes(from: &Build, to: &Build) {
    let source = from.boot();
    source.tell("rewrite 300");
    // some 50 MiB go, and 6 MiB a second are written anew
    source.control().set_parameters(&json!({"max-bandwidth": 32 << 20}));
    let before = source.last_tick();
    let (there, counted) = by_fifo(&source, to);
    let left = source.last_tick();
    assert!(left > before, "it ran while it moved");
    assert!(n(&counted["ram"]["dirty-sync-count"]) > 1, "{counted}");
    there.assert_sane_after(3);
    assert!(there.last_tick() >= left + 3, "it goes on where it was");
    assert_eq!(source.last_tick(), left, "and nowhere else");
    there.tell("rewrite 0");
}

fn moves(test: &str, version: Version, machine: &str) {
    if ready_with(test, &[version]) {
        let build = Build::small("moves", version, machine);
        moves_while_it_writes(&build, &build);
    }
}

#[test]
fn a_pc_moves_from_qemu_7_while_it_writes() {
    moves("a_pc_moves_from_qemu_7_while_it_writes", Version::V7, PC);
}

#[test]
fn a_q35_moves_from_qemu_7_while_it_writes() {
    moves("a_q35_moves_from_qemu_7_while_it_writes", Version::V7, Q35);
}

#[test]
fn a_pc_moves_from_qemu_10_while_it_writes() {
    moves("a_pc_moves_from_qemu_10_while_it_writes", Version::V10, PC);
}

#[test]
fn a_q35_moves_from_qemu_10_while_it_writes() {
    moves("a_q35_moves_from_qemu_10_while_it_writes", Version::V10, Q35);
}

#[test]
fn a_guest_moves_from_qemu_7_to_10_and_to_other_ram() {
    if !ready_with("a_guest_moves_from_qemu_7_to_10_and_to_other_ram", &Version::ALL) {
        return;
    }
    // the machine must be of a version that both have; RAM keeps its name with any backend
    let old = Build::small("moves", Version::V7, "pc-i440fx-7.2").ram(Ram::Memfd { share: false });
    let new = Build { version: Version::V10, ..old.clone() };
    moves_while_it_writes(&old, &new.ram(Ram::Memfd { share: true }));
}

#[test]
fn a_guest_moves_by_descriptors_where_qemu_may_start_no_program() {
    for version in Version::ALL {
        if !ready_with("a_guest_moves_by_descriptors_where_qemu_may_start_no_program", &[version]) {
            continue;
        }
        let mut build = Build::small("moves", version, Q35);
        build.sandbox = true;
        let source = build.boot();
        source.control().unthrottle();
        let (there, _) = by_descriptor(&source, &build);
        there.assert_sane_after(2);

        // a program it cannot start: the attempt ends 7.2 (SIGSYS), and is refused by 10.0
        let mut there = there;
        let refused = there.control().execute("migrate", &json!({"uri": "exec:cat >/dev/null"}));
        assert!(refused.is_err(), "{refused:?}");
        if version == Version::V7 {
            assert!(!there.wait_ended().success());
        } else {
            there.assert_sane_after(1);
        }
    }
}

#[test]
fn a_guest_does_as_it_is_told() {
    if !ready_with("a_guest_does_as_it_is_told", &[]) {
        return;
    }
    let guest = Build { nokaslr: true, ..Build::small("told", Version::V7, PC) }.boot();
    let anew = |page: u64, version: u32| is_in_ram(&guest, &guest.work_page(page, version));
    assert!(anew(PAGES - 1, 0) && !anew(PAGES - 1, 1), "first contents");
    guest.tell("zero 100");
    guest.assert_sane_after(1);
    assert!(!anew(PAGES - 1, 0) && !anew(PAGES - 100, 0) && anew(PAGES - 101, 0));
    guest.tell("fill 1100"); // those, and a thousand of the room
    guest.assert_sane_after(1);
    assert!(anew(PAGES - 1, 1) && anew(PAGES + 999, 1) && !anew(PAGES + 1000, 1));
    guest.tell(&format!("rewrite {PAGES}"));
    guest.assert_sane_after(3);
    guest.tell("rewrite 0");
    assert!(!anew(0, 0) && !anew(PAGES - 1, 1), "all were written anew");
}

/// Is this page somewhere in the guest's RAM?
fn is_in_ram(guest: &Guest, page: &[u8]) -> bool {
    let ram = guest.main_ram();
    let memory = File::open(format!("/proc/{}/mem", guest.pid)).unwrap();
    let mut bytes = vec![0; usize::try_from(guest.bytes).unwrap()];
    memory.read_exact_at(&mut bytes, ram.start * 4096).unwrap();
    bytes.chunks(4096).any(|other| other == page)
}

#[test]
fn a_byte_that_changes_on_the_way_is_seen_by_the_guest() {
    if !ready_with("a_byte_that_changes_on_the_way_is_seen_by_the_guest", &[]) {
        return;
    }
    let dir = tempfile::tempdir_in(shm()).unwrap();
    let [whole, bad] = ["whole", "bad"].map(|name| dir.path().join(name));
    let build = Build::small("seen", Version::V7, PC);
    let source = build.boot();
    source.control().stop();
    source.control().unthrottle();
    source.control().migrate(&into(&whole));
    source.control().wait_migrated();
    let mut stream = fs::read(&whole).unwrap();
    let page = PAGES - 7;
    let wanted = source.work_page(page, 0);
    let at = stream.windows(64).position(|w| *w == wanted[..64]).expect("the page in the stream");
    assert_eq!(stream[at..at + 4096], wanted);
    stream[at + 4095] ^= 0x10;
    fs::write(&bad, &stream).unwrap();

    let arrive = |path: &Path| {
        let guest = build.incoming(&from(path)).spawn();
        // as the source was: it does not run by itself
        guest.control().wait_runstate("paused");
        guest.control().cont();
        guest
    };
    arrive(&whole).assert_sane_after(2);
    let said = arrive(&bad).wait_corrupt();
    assert!(said[0].starts_with(&format!("CORRUPT page {page} of version 0")), "{said:?}");
    assert!(said.iter().any(|l| l.ends_with(" corrupt 1")), "that page alone: {said:?}");
}

#[test]
fn clones_share_their_template_and_leave_it_as_it_is() {
    for (version, machine) in [(Version::V7, Q35), (Version::V10, PC)] {
        if !ready_with("clones_share_their_template_and_leave_it_as_it_is", &[version]) {
            continue;
        }
        let first = Template::make(version, machine);
        let template = Template::make(version, machine); // the second is a copy
        let holes = |template: &Template| file_pages(&File::open(template.path()).unwrap());
        assert!(holes(&first) == holes(&template));
        let before = fs::read(template.path()).unwrap();
        assert!(before == fs::read(first.path()).unwrap());
        assert!(before.chunks(4096).any(|page| page == work_page(1, PAGES - 1, 0)));

        let [a, b] = ["a", "b"].map(|name| template.start(name));
        let common = || a.file_frames_of_ram().intersection(&b.file_frames_of_ram()).count() as u64;
        let (shared, private) = (common(), a.private_pages_of_ram());
        assert!(shared >= PAGES, "the work was read, not written: {shared}");
        assert!(private < PAGES / 2, "{private}");
        a.tell("rewrite 1000");
        a.assert_sane_after(2);
        a.tell("rewrite 0");
        assert!(a.private_pages_of_ram() >= private + 1000);
        assert!(common() <= shared - 1000);
        b.assert_sane_after(1);
        assert!(before == fs::read(template.path()).unwrap());

        // a clone moves as any other guest
        a.control().unthrottle();
        let (there, _) = by_fifo(&a, &template.build("there"));
        there.assert_sane_after(2);
    }
}

#[test]
fn a_qemu_ends_with_who_started_it_and_what_it_started_with_it() {
    if !ready_with("a_qemu_ends_with_who_started_it_and_what_it_started_with_it", &Version::ALL) {
        return;
    }
    for version in Version::ALL {
        let keeper = Build::small("keeper", version, PC).more(&["-S"]).spawn();
        // nobody ever writes to this FIFO, so that cat waits for ever
        let path = fifo(&keeper, "road");
        let build = Build::small("ends", version, PC).incoming(&from(&path));
        let started = |build: Build| {
            let guest = build.spawn();
            let child = || fs::read_to_string(format!("/proc/{0}/task/{0}/children", guest.pid));
            let cat = || child().ok()?.trim().parse::<i32>().ok().filter(|p| comm(*p) == "cat\n");
            wait_for("the program", Duration::from_secs(20), || cat().is_some());
            let pids = [guest.pid, cat().unwrap()];
            (guest, pids)
        };
        let gone = |pids: [i32; 2]| {
            wait_for("both to end", Duration::from_secs(20), || {
                pids.iter().all(|&pid| has_ended(pid))
            });
        };
        // with its value
        let (guest, pids) = started(build.clone());
        drop(guest);
        gone(pids);
        // and without a word, with the thread that started it
        let forgotten = std::thread::spawn(move || {
            let (guest, pids) = started(build);
            let folder = guest.path("");
            std::mem::forget(guest);
            (folder, pids)
        });
        let (folder, pids) = forgotten.join().unwrap();
        gone(pids);
        fs::remove_dir_all(folder).unwrap();
    }
}

fn comm(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}

/// Has ended, whether or not somebody has asked how.
fn has_ended(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}
