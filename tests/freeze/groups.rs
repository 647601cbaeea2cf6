//! Control groups with a freezer, of both versions.

use super::*;
use pageherd::sys::cgroup::Freezer as Group;
use std::path::{Path, PathBuf};
use support::skip;

/// A group of our own; it is thawed, emptied and removed when this is dropped.
struct Own {
    folder: PathBuf,
    home: PathBuf,
}

impl Own {
    fn new(home: &Path) -> Option<Self> {
        let folder = home.join(format!("pageherd-test-{}", mark()));
        fs::create_dir(&folder).ok()?;
        Some(Self { folder, home: home.to_owned() })
    }

    fn add(&self, pid: i32) {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    fn group(&self) -> Group {
        Group::at(&self.folder).unwrap()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.group().thaw();
        let inside = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        for pid in inside.lines() {
            let _ = fs::write(self.home.join("cgroup.procs"), pid);
        }
        let begin = Instant::now();
        while fs::remove_dir(&self.folder).is_err() && begin.elapsed() < SOON {
            sleep(Duration::from_millis(10));
        }
    }
}

/// A group of each version that this machine has.
fn each(test: &str, tried: impl Fn(&Own)) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for (version, mark) in [(2, " - cgroup2 "), (1, " - cgroup ")] {
        let home = mounts.lines().find_map(|line| {
            let right = line.split_once(" - ")?.1;
            let fits = line.contains(mark) && (version == 2 || right.ends_with("freezer"));
            fits.then(|| PathBuf::from(line.split(' ').nth(4).unwrap()))
        });
        match home.as_deref().and_then(Own::new) {
            Some(own) if Group::at(&own.folder).is_some() => tried(&own),
            _ => skip(test, &format!("no freezer of control groups of version {version}")),
        }
    }
}

#[test]
fn a_process_alone_in_its_group_is_frozen_with_it() {
    each("a_process_alone_in_its_group_is_frozen_with_it", |own| {
        let holder = ticking();
        own.add(holder.pid);
        let folder = own.folder.display();
        let mut freezer = Freezer::of(holder.pid);
        assert_eq!(freezer.said, [format!("frozen {} the freezer of {folder}", holder.pid)]);
        assert!(own.group().is_frozen().unwrap() && !is_stopped(holder.pid));
        stands_for(&holder, Duration::from_millis(600));
        assert_eq!(freezer.tell("check"), "done");
        let words = freezer.tell("words");
        assert!(words.starts_with("echo ") && words.contains(&format!(" > {folder}/")), "{words}");
        assert_eq!(freezer.tell("thaw"), "thawed Runs");
        moves(&holder);
        // and killed
        let mut freezer = Freezer::of(holder.pid);
        freezer.kill();
        wait_free(holder.pid);
        wait_for("the thaw", SOON, || !own.group().is_asked().unwrap());
        moves(&holder);
        // the words do what they say
        let mut freezer = Freezer::of(holder.pid);
        let words = freezer.tell("words");
        assert!(Command::new("sh").args(["-c", &words]).status().unwrap().success());
        moves(&holder);
        assert!(freezer.tell("check").contains("has run"));
        assert_eq!(freezer.tell("thaw"), "thawed Runs");
        wait_free(holder.pid);
    });
}

#[test]
fn others_in_the_group_are_never_frozen() {
    each("others_in_the_group_are_never_frozen", |own| {
        let (holder, other) = (ticking(), ticking());
        own.add(holder.pid);
        let below = own.folder.join("below");
        fs::create_dir(&below).unwrap();
        fs::write(below.join("cgroup.procs"), other.pid.to_string()).unwrap();
        let mut freezer = Freezer::of(holder.pid);
        assert_eq!(freezer.said, [format!("frozen {} SIGSTOP", holder.pid)]);
        moves(&other);
        assert_eq!(freezer.tell("thaw"), "thawed Runs");
        // in the same group
        own.add(other.pid);
        fs::remove_dir(&below).unwrap();
        let mut freezer = Freezer::of(holder.pid);
        assert_eq!(freezer.said, [format!("frozen {} SIGSTOP", holder.pid)]);
        moves(&other);
        assert_eq!(freezer.tell("thaw"), "thawed Runs");
        wait_free(holder.pid);
    });
}

#[test]
fn a_group_that_was_frozen_before_stays_frozen_and_two_share_one() {
    each("a_group_that_was_frozen_before_stays_frozen_and_two_share_one", |own| {
        let holder = ticking();
        own.add(holder.pid);
        own.group().freeze().unwrap();
        wait_for("the freezer", SOON, || own.group().is_frozen().unwrap());
        let (mut a, mut b) = (Freezer::of(holder.pid), Freezer::of(holder.pid));
        a.kill();
        assert_eq!(b.tell("thaw"), "thawed AsBefore");
        assert!(own.group().is_frozen().unwrap() && is_forgotten(holder.pid));
        own.group().thaw().unwrap();
        moves(&holder);
        let (mut a, mut b) = (Freezer::of(holder.pid), Freezer::of(holder.pid));
        assert_eq!(a.tell("thaw"), "thawed HeldByOthers");
        stands_for(&holder, Duration::from_millis(100));
        b.kill();
        wait_free(holder.pid);
        moves(&holder);
        // left by both command and guard
        Freezer::of(holder.pid).kill_with_guard();
        assert!(own.group().is_frozen().unwrap());
        assert_eq!(Freezer::of(holder.pid).tell("thaw"), "thawed Runs");
        moves(&holder);
    });
}

/// Version 1 keeps a killed process until it is thawed; version 2 lets it die.
#[test]
fn one_that_is_killed_in_a_frozen_group_can_die() {
    each("one_that_is_killed_in_a_frozen_group_can_die", |own| {
        let mut holder = ticking();
        own.add(holder.pid);
        let mut freezer = Freezer::of(holder.pid);
        send(holder.pid, Signal::SIGKILL);
        freezer.kill();
        wait_for("its end", SOON, || !lives(holder.pid));
        no_guard(&freezer.mark);
        assert!(is_forgotten(holder.pid) && !own.group().is_asked().unwrap());
        holder.kill();
    });
}
