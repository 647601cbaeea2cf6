//! Targets that change as fast as they can: what is reported as shared is shared, and what changed
//! is called so.
//!
//! The VMs here have no page in common by construction, while frames go from one to the other all
//! the time: each forks and ends children, so that its pages are not exclusive and are looked up by
//! frame, gives its pages back and makes them again. Both run on one processor, so that each is
//! given what the other has just given back, and the scan reads a large idle process between the
//! two, so that there is time for it. Without a second look that shows within a few scans.

#![allow(clippy::unwrap_used)] // a test that cannot go on says where and ends

mod support;

use nix::fcntl::Flock;
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Holder, KsmOn, TempFile, alone, json, ksm, memscan, n, shm, wait_for};

/// Scans of each kind in a test.
const SCANS: usize = 60;

/// Two that change, and an idle one that is scanned between them. Tests that have them run one at a
/// time: others would take frames and processor from them.
struct Strangers {
    holders: [Holder; 3],
    whole: bool,
    _alone: Flock<File>,
}

impl Strangers {
    /// Two holders; of each the first region is looked at, or the `whole` process.
    fn new(a: &[&str], b: &[&str], whole: bool) -> Self {
        let _alone = alone();
        let idle = Holder::new(&["zero:60000"]);
        Self { holders: [Holder::beside_others(a), idle, Holder::beside_others(b)], whole, _alone }
    }

    fn scan(&self, command: &str, how: &str) -> Value {
        let target = |(name, h): (&str, &Holder)| match self.whole && name != "idle" {
            true => format!("{name}=pid:{},all", h.pid),
            false => h.target(name, 0),
        };
        let targets: Vec<String> =
            ["a", "idle", "b"].into_iter().zip(&self.holders).map(target).collect();
        let mut args = vec![command, "--json", "--threads", "1", "--verify", how];
        args.extend(targets.iter().map(String::as_str));
        json(&args)
    }

    /// Frames that both are said to have, by mechanism; the zero page is nobody's.
    fn common(&self, how: &str, by: &str) -> u64 {
        let matrix = self.scan("matrix", how);
        let rows = &matrix["by"][by];
        assert_eq!(rows[0][2], rows[2][0]);
        n(&rows[0][2])
    }

    /// Scans again and again; nothing may be common through anonymous memory.
    fn have_nothing_in_common(&self, how: &str) {
        for scan in 0..SCANS {
            let matrix = self.scan("matrix", how);
            for by in ["ksm", "fork", "shmem"] {
                let common = n(&matrix["by"][by][0][2]);
                assert_eq!(common, 0, "scan {scan} with --verify {how}: {}", matrix["by"]);
            }
        }
    }
}

const CHURN: [&str; 2] = ["breed", "anon:400,rush"];

#[test]
fn frames_that_go_from_one_to_another_are_never_shared_between_them() {
    let strangers = Strangers::new(&CHURN, &CHURN, false);
    strangers.have_nothing_in_common("full");
    strangers.have_nothing_in_common("auto");
    // and it is the second look that sees to it
    let fooled = (0..400).any(|_| strangers.common("none", "fork") > 0);
    assert!(
        fooled,
        "frames do not go from one to the other fast enough for this test to mean much"
    );
}

#[test]
fn a_small_part_that_changes_beside_a_large_idle_one_is_not_taken_for_shared() {
    let churn = ["breed", "anon:8000", "anon:64,rush"];
    let strangers = Strangers::new(&churn, &churn, true);
    strangers.have_nothing_in_common("full");
    strangers.have_nothing_in_common("auto");
}

#[test]
fn frames_that_are_merged_and_unmerged_are_never_shared_with_strangers() {
    // pages alike within each, and none alike in both
    let region = |seed: u32| format!("ksm:300,alike,seed={seed},rush");
    let strangers = Strangers::new(&["breed", &region(1)], &["breed", &region(2)], false);
    let on = KsmOn::new();
    let passes = ksm("full_scans");
    strangers.have_nothing_in_common("full");
    strangers.have_nothing_in_common("auto");
    on.wait("KSM's passes", || ksm("full_scans") > passes);
}

#[test]
fn a_part_that_is_shared_in_truth_is_never_more_than_it_is() {
    let file = TempFile::new(shm(), 300);
    let shared = format!("shared:{}", file.name());
    let churn = ["breed", &shared, "anon:96,rush"];
    let strangers = Strangers::new(&churn, &churn, true);
    for _ in 0..SCANS / 2 {
        for how in ["full", "auto"] {
            assert_eq!(strangers.common(how, "shmem"), 300, "--verify {how}");
            assert_eq!(strangers.common(how, "fork"), 0, "--verify {how}");
        }
    }
}

#[test]
fn pages_that_change_between_two_looks_are_counted_apart() {
    let strangers = Strangers::new(&CHURN, &CHURN, false);
    let changed = |_| {
        let summary = strangers.scan("summary", "full");
        let mut changes = false;
        for vm in summary["vms"].as_array().unwrap() {
            let second = &vm["verify"];
            let unstable = n(&second["changed"]) + n(&second["vanished"]);
            assert_eq!(n(&second["reread"]), n(&second["stable"]) + unstable, "{vm}");
            assert!(n(&vm["changed_pages"]) >= unstable, "{vm}");
            let settled = n(&vm["unique_pages"]) + n(&vm["shared_pages"]);
            let all = settled + n(&vm["changed_pages"]);
            assert!(settled <= n(&vm["resident_pages"]) && n(&vm["resident_pages"]) <= all, "{vm}");
            changes |= unstable > 0;
        }
        changes
    };
    assert!((0..100).any(changed), "no page was seen to change in 100 scans");
}

/// A scan of a large target and what it says in the end.
struct Scanning {
    child: Child,
}

impl Scanning {
    /// Starts a scan with one thread, and returns when it has opened the page table of `last`, the
    /// last of the targets: from then on it only reads.
    fn begin(last: i32, targets: &[&str]) -> Self {
        let mut child = memscan();
        child.args(["summary", "--json", "--threads", "1"]).args(targets);
        let child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let folder = format!("/proc/{}/fd", child.id());
        let wanted = format!("/proc/{last}/pagemap");
        let end = Instant::now() + Duration::from_secs(10);
        let mut opened = false;
        while !opened && Instant::now() < end {
            let Ok(files) = fs::read_dir(&folder) else { break };
            let links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
            opened = links.into_iter().any(|link| link.as_os_str() == wanted.as_str());
        }
        Self { child }
    }

    /// Exit code, JSON, words.
    fn end(self) -> (i32, Value, String) {
        let out = self.child.wait_with_output().unwrap();
        let words = String::from_utf8(out.stderr).unwrap();
        let summary = serde_json::from_slice(&out.stdout).unwrap_or(Value::Null);
        (out.status.code().unwrap(), summary, words)
    }
}

/// The target was lost after the scan was over, or before it began.
fn missed((code, _, words): &(i32, Value, String)) -> bool {
    *code == 0 || (*code == 66 && words.contains("there is no process"))
}

/// The row of a VM that was lost has no counts, and the exit code says so.
fn expect_lost((code, summary, words): &(i32, Value, String), name: &str, state: &str, said: &str) {
    assert_eq!(*code, 3, "{words}{summary}");
    let row = summary["vms"].as_array().unwrap().iter().find(|vm| vm["name"] == name).unwrap();
    assert_eq!(row["state"], state, "{row}");
    assert_eq!(n(&row["resident_pages"]), 0, "{row}");
    assert!(words.contains(&format!("{name} {said}")), "{words}");
}

#[test]
fn a_target_that_is_killed_in_the_midst_is_left_out_and_named() {
    let mut hits = 0;
    for round in 0u64..40 {
        // four gigabytes of the zero page cost nothing, and take a while to read
        let mut large = Holder::new(&["zero:1000000"]);
        let small = Holder::new(&["anon:100"]);
        let targets = [large.target("large", 0), small.target("small", 0)];
        let scanning = Scanning::begin(small.pid, &[&targets[0], &targets[1]]);
        std::thread::sleep(Duration::from_millis(round % 20));
        large.kill();
        let end = scanning.end();
        if missed(&end) {
            continue;
        }
        expect_lost(&end, "large", "exited", "exited");
        // the report is whole for the one that remains
        assert_eq!(n(&end.1["vms"][1]["unique_pages"]), 100, "{}", end.1);
        assert_eq!(n(&end.1["footprint_pages"]), 100, "{}", end.1);
        hits += 1;
        if hits == 8 {
            return;
        }
    }
    assert!(hits > 0, "the scan was over each time before the target was");
}

#[test]
fn a_target_that_runs_another_program_in_the_midst_is_left_out_and_named() {
    let large = Holder::new(&["zero:1000000"]);
    let mut hits = 0;
    for _ in 0..20 {
        let mut shell = Command::new("sh")
            .args(["-c", "read line; exec sleep 60"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(shell.id()).unwrap();
        let comm = || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        wait_for("the shell", Duration::from_secs(10), || comm() == "sh\n");
        let target = format!("shell=pid:{pid},all");
        let scanning = Scanning::begin(pid, &[&large.target("large", 0), &target]);
        shell.stdin.as_ref().unwrap().write_all(b"go\n").unwrap();
        let end = scanning.end();
        shell.kill().unwrap();
        shell.wait().unwrap();
        if missed(&end) {
            continue;
        }
        expect_lost(&end, "shell", "execed", "began another program");
        assert_eq!(n(&end.1["vms"][0]["by"]["zero"]), 1_000_000, "{}", end.1);
        hits += 1;
        if hits == 5 {
            return;
        }
    }
    assert!(hits > 0, "the scan was over each time before the target ran its program");
}

#[test]
fn pages_shared_with_one_that_was_killed_are_not_shared_any_more() {
    let mut hits = 0;
    for _ in 0..20 {
        let fork = Holder::new(&["fork=1", "anon:500"]);
        let large = Holder::new(&["zero:1000000"]);
        let targets = [
            fork.target("a", 0),
            large.target("large", 0),
            fork.target_of("b", fork.children[0], 0),
        ];
        let scanning = Scanning::begin(fork.children[0], &[&targets[0], &targets[1], &targets[2]]);
        let child = nix::unistd::Pid::from_raw(fork.children[0]);
        nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
        let end = scanning.end();
        if missed(&end) {
            continue;
        }
        expect_lost(&end, "b", "exited", "exited");
        let a = &end.1["vms"][0];
        assert_eq!(n(&a["resident_pages"]), 500, "{a}");
        assert_eq!(n(&end.1["footprint_pages"]), 500, "{}", end.1);
        hits += 1;
        if hits == 3 {
            return;
        }
    }
    assert!(hits > 0, "the scan was over each time before the target was");
}
