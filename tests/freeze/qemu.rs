//! A real guest, paused by its QEMU.

use super::*;
use serde_json::json;
use support::qemu::{Build, Guest, Qmp, ready};

/// A guest with a second QMP socket, for the test itself.
struct Watched {
    guest: Guest,
    qmp: Qmp,
}

impl Watched {
    /// `None` where there is no QEMU.
    fn boot(test: &str, folder: &tempfile::TempDir) -> Option<Self> {
        if !ready(test) {
            return None;
        }
        let path = folder.path().join("second");
        let id = "chardev=ours,mode=control";
        let chardev = format!("socket,id=ours,path={},server=on,wait=off", path.display());
        let build = Build { mib: 96, work: 16, ..Build::new("frozen", 7) };
        let guest = build.more(&["-chardev", &chardev, "-mon", id]).boot();
        let qmp = Qmp::at(&path);
        Some(Self { guest, qmp })
    }

    fn state(&mut self) -> String {
        self.qmp.ask("query-status", &json!({}))["status"].as_str().unwrap().to_owned()
    }

    /// A digest of its RAM.
    fn ram(&self) -> blake3::Hash {
        let ram = self.guest.main_ram();
        let length = usize::try_from(ram.pages() * 4096).unwrap();
        blake3::hash(&bytes(self.guest.pid, ram.start * 4096, length))
    }

    /// Waits until it runs and nobody remembers that it did not.
    fn wait_running(&mut self) {
        let begin = Instant::now();
        while self.state() != "running" || !is_forgotten(self.guest.pid) {
            assert!(begin.elapsed() < SOON, "{}", self.state());
            sleep(Duration::from_millis(10));
        }
        // what was written is taken away after it was let go
        assert_eq!(self.state(), "running");
    }
}

#[test]
fn a_guest_stands_still_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut vm) = Watched::boot("a_guest_stands_still_and_goes_on", &folder) else { return };
    let pid = vm.guest.pid;
    let mut freezer = Freezer::of(pid);
    assert!(freezer.said[0].contains("QMP stop at /"), "{:?}", freezer.said);
    assert_eq!(vm.state(), "paused");
    assert!(!is_stopped(pid), "QEMU itself runs");
    let before = vm.ram();
    sleep(Duration::from_millis(600));
    assert_eq!(vm.ram(), before);
    assert_eq!(freezer.tell("check"), "done");
    assert_eq!(freezer.tell("thaw"), "thawed Runs");
    vm.wait_running();
    vm.guest.wait_ticks(vm.guest.ticks() + 1);

    // somebody else lets it run
    assert!(freezer.tell(&format!("hold {pid}")).contains("QMP stop"));
    vm.qmp.ask("cont", &json!({}));
    vm.qmp.ask("stop", &json!({}));
    assert!(freezer.tell("check").contains("has run"));
    assert_eq!(freezer.tell("thaw"), "thawed Runs");
    vm.wait_running();

    // a paused guest stays paused, however its holder ends
    vm.qmp.ask("stop", &json!({}));
    assert!(freezer.tell(&format!("hold {pid}")).contains("QMP stop"));
    assert_eq!(freezer.tell("thaw"), "thawed AsBefore");
    assert!(freezer.tell(&format!("hold {pid}")).contains("QMP stop"));
    freezer.kill();
    no_guard(&freezer.mark);
    assert_eq!(vm.state(), "paused");
    vm.qmp.ask("cont", &json!({}));

    // to be kept, and then killed
    let mut freezer = Freezer::of(pid);
    assert_eq!(freezer.tell("keep"), "done");
    freezer.kill();
    no_guard(&freezer.mark);
    assert_eq!(vm.state(), "paused");
    assert!(is_forgotten(pid));
    vm.qmp.ask("cont", &json!({}));
    vm.guest.wait_ticks(vm.guest.ticks() + 1);
}

#[test]
fn a_guest_runs_again_when_its_holder_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let test = "a_guest_runs_again_when_its_holder_is_killed";
    let Some(mut vm) = Watched::boot(test, &folder) else { return };
    let pid = vm.guest.pid;
    let mut caught = 0;
    for step in 0..25u64 {
        let mark = mark();
        let mut child = Command::new(example("freezer"))
            .arg(pid.to_string())
            .env("PAGEHERD_MARK", &mark)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        if step % 3 == 0 {
            let _ = child.stdin.as_ref().unwrap().write_all(b"thaw\n");
        }
        sleep(Duration::from_micros(step * 1500));
        child.kill().unwrap();
        caught += u32::from(vm.state() == "paused");
        child.wait().unwrap();
        vm.wait_running();
        no_guard(&mark);
    }
    assert!(caught > 0, "it was never paused when its holder was killed");
    // without a guard, the next one knows
    Freezer::of(pid).kill_with_guard();
    assert_eq!(vm.state(), "paused");
    let mut next = Freezer::of(pid);
    assert_eq!(next.tell("check"), "done");
    assert_eq!(next.tell("thaw"), "thawed Runs");
    vm.wait_running();
    vm.guest.wait_ticks(vm.guest.ticks() + 1);
}

#[test]
fn two_hold_a_guest_and_the_last_lets_it_run() {
    let folder = tempfile::tempdir().unwrap();
    let test = "two_hold_a_guest_and_the_last_lets_it_run";
    let Some(mut vm) = Watched::boot(test, &folder) else { return };
    let pid = vm.guest.pid;
    for first in ["first thaws", "first is killed", "second thaws", "second is killed"] {
        for last in ["thaw", "kill"] {
            let (mut a, mut b) = (Freezer::of(pid), Freezer::of(pid));
            assert!(b.said[0].contains("holds it already, by QMP"), "{:?}", b.said);
            if first.starts_with("second") {
                std::mem::swap(&mut a, &mut b);
            }
            if first.ends_with("thaws") {
                assert_eq!(a.tell("thaw"), "thawed HeldByOthers");
            } else {
                a.kill();
                no_guard(&a.mark);
            }
            assert_eq!(vm.state(), "paused", "{first}");
            if last == "kill" {
                b.kill();
            } else {
                assert_eq!(b.tell("thaw"), "thawed Runs");
            }
            vm.wait_running();
        }
    }
    vm.guest.wait_ticks(vm.guest.ticks() + 1);
}

/// As under libvirt: the socket has a client, and QEMU serves one at a time.
#[test]
fn a_socket_with_another_client_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let test = "a_socket_with_another_client_is_passed_over";
    let Some(mut vm) = Watched::boot(test, &folder) else { return };
    let pid = vm.guest.pid;
    let other = vm.guest.qmp();
    let mut freezer = Freezer::of(pid);
    assert!(freezer.said.iter().any(|line| line.contains("another client, such as libvirt")));
    assert!(freezer.said.last().unwrap().ends_with("SIGSTOP"), "{:?}", freezer.said);
    assert!(is_stopped(pid));
    let before = vm.ram();
    sleep(Duration::from_millis(500));
    assert_eq!(vm.ram(), before);
    assert_eq!(freezer.tell("check"), "done");
    freezer.kill();
    wait_free(pid);
    vm.wait_running();
    // asked for by name it is an error, and nothing has happened to the guest
    let mut freezer = Freezer::new(&["way=qmp", &pid.to_string()]);
    assert!(freezer.said.last().unwrap().starts_with("error"), "{:?}", freezer.said);
    assert_eq!(vm.state(), "running");
    drop(other);
    assert!(freezer.tell(&format!("hold {pid}")).contains("QMP stop"));
    // QEMU ends while it is held
    vm.guest.kill();
    assert_eq!(freezer.tell("thaw"), "thawed Ended");
    assert!(is_forgotten(pid));
}
