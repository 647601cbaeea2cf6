//! What goes wrong in a group: with one member of it, or with the group itself.

use crate::rig::{Act, LONG, Pair, Place, Relay, end_it, has_arrived, runstate};
use crate::support::qemu::{Build, Guest, Q35, Version, boot_all, ready_with};
use crate::support::{shm, tool, wait_for, words};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn build() -> Build {
    let small = Build::small("web1", Version::V7, Q35);
    Build { nokaslr: true, work: 8, room: 0, tick: 50, ..small }
}

/// A guest that moves, and the link that it moves over.
struct Moving {
    pair: Pair,
    relay: Option<Relay>,
    source: Guest,
    there: Guest,
}

/// Begins to move a guest; `at` is done on the way.
fn moving(
    source: Guest,
    build: &Build,
    group: &str,
    at: Option<(u64, Box<dyn FnOnce() + Send>)>,
) -> Moving {
    let pair = Pair::new();
    let more = format!("--group {group}");
    let there = build.incoming(&pair.receiver(&more)).spawn();
    let sender = pair.sender("near", &more);
    let at = at.map(|(bytes, act)| (Place::Forward(bytes), Act::Do(act)));
    let relay = Some(pair.relay(u64::MAX, at));
    source.control().unthrottle();
    source.control().migrate(&sender);
    Moving { pair, relay, source, there }
}

impl Moving {
    /// Waits for its end. The guest, where it runs here and nowhere else; `None`: at the far end.
    fn ends(mut self) -> (Option<Guest>, String) {
        assert!(self.pair.all_gone(LONG), "{}", self.pair.words());
        drop(self.relay.take());
        let said = self.pair.words();
        if has_arrived(&mut self.there).unwrap() {
            assert_eq!(runstate(&self.source).as_deref(), Some("postmigrate"), "{said}");
            self.there.assert_sane_after(1);
            return (None, said);
        }
        wait_for(&said, LONG, || runstate(&self.source).as_deref() == Some("running"));
        assert_eq!(self.source.control().migration_status(), "failed", "{said}");
        self.source.assert_sane_after(1);
        (Some(self.source), said)
    }
}

fn bytes_of(said: &str) -> u64 {
    let bill = said.lines().find_map(|line| {
        let line = line.strip_prefix("[mig-send] ").unwrap_or(line);
        serde_json::from_str::<Value>(line).ok()
    });
    bill.expect(said)["stream_bytes"].as_u64().unwrap()
}

fn end_group(group: &str) {
    for end in ["mig-send", "mig-recv"] {
        let out = tool(end).args(["--end-group", "--group", group]).output().unwrap();
        assert!(out.status.success() || out.status.code() == Some(66), "{}", words(&out));
    }
    assert!(!fs::exists(group).unwrap(), "nothing is left");
}

#[test]
fn a_member_that_is_killed_takes_no_other_with_it() {
    const TEST: &str = "a_member_that_is_killed_takes_no_other_with_it";
    if !ready_with(TEST, &[]) {
        return;
    }
    let dir = tempfile::tempdir_in(shm()).unwrap();
    for victim in ["mig-send", "mig-recv"] {
        let group = dir.path().join(victim).display().to_string();
        let build = build();
        let mut guests = boot_all(&[build.clone(), build.clone(), build.clone()]).into_iter();
        let mut next = || guests.next().unwrap();
        // two at once; the first is killed when it has brought 10 MB that the second may name
        let (say, hear) = std::sync::mpsc::channel();
        let tell = Box::new(move || say.send(()).unwrap());
        let first = moving(next(), &build, &group, Some((10_000_000, tell)));
        let second = moving(next(), &build, &group, None);
        hear.recv_timeout(LONG).unwrap();
        end_it(first.pair.pid_of(victim).unwrap());
        let (stays, words) = first.ends();
        assert!(stays.is_some(), "{words}");
        // it has named pages of the first that never came, or it has not
        let (here, words) = second.ends();
        match &here {
            None => assert!(bytes_of(&words) > 10_000_000, "{words}"),
            Some(_) => assert!(words.contains("never arrived"), "{words}"),
        }
        // and what is left of the first is no burden to those who come later
        let (here, words) = moving(next(), &build, &group, None).ends();
        assert!(here.is_none(), "{words}");
        let (here, words) = moving(stays.unwrap(), &build, &group, None).ends();
        assert!(here.is_none(), "{words}");
        assert!(bytes_of(&words) < 20_000_000, "it names what the others brought: {words}");
        end_group(&group);
    }
}

#[test]
fn a_group_that_is_in_use_or_was_ended_is_named() {
    const TEST: &str = "a_group_that_is_in_use_or_was_ended_is_named";
    if !ready_with(TEST, &[]) {
        return;
    }
    let dir = tempfile::tempdir_in(shm()).unwrap();
    let [here, other] = ["here", "other"].map(|name| dir.path().join(name).display().to_string());
    let build = build();
    // it is not ended while a move is under way
    let (say, hear) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let stop = Box::new(move || {
        say.send(()).unwrap();
        let _ = wait.recv_timeout(LONG);
    });
    let first = moving(build.boot(), &build, &here, Some((10_000_000, stop)));
    hear.recv_timeout(LONG).unwrap();
    for end in ["mig-send", "mig-recv"] {
        let out = tool(end).args(["--end-group", "--group", &here]).output().unwrap();
        assert!(words(&out).contains("under way"), "{}", words(&out));
        assert_eq!(out.status.code(), Some(1));
    }
    go.send(()).unwrap();
    let (stays, said) = first.ends();
    assert!(stays.is_none(), "{said}");
    // ended at the far end alone: what is named is not there
    let out = tool("mig-recv").args(["--end-group", "--group", &here]).output().unwrap();
    assert!(out.status.success(), "{}", words(&out));
    let (stays, said) = moving(build.boot(), &build, &here, None).ends();
    assert!(stays.is_some(), "{said}");
    assert!(said.contains("--end-group"), "it says what to do: {said}");
    let out = tool("mig-send").args(["--end-group", "--group", &here]).output().unwrap();
    assert!(out.status.success(), "{}", words(&out));
    let (stays, said) = moving(stays.unwrap(), &build, &here, None).ends();
    assert!(stays.is_none(), "{said}");
    end_group(&here);
    // a directory that others can look into
    fs::create_dir(&other).unwrap();
    fs::set_permissions(&other, PermissionsExt::from_mode(0o755)).unwrap();
    for (end, way) in [("mig-send", "--to"), ("mig-recv", "--from")] {
        let mut command = tool(end);
        command.args(["--qemu", "--group", &other, way, "unix:/nonexistent/s"]);
        let out = command.stdin(std::process::Stdio::null()).output().unwrap();
        assert_eq!(out.status.code(), Some(77), "{}", words(&out));
        assert!(words(&out).contains("mode 0755"), "{}", words(&out));
    }
}
