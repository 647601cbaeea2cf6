//! A process number that is used again must not put another process in the place of the first.

#![allow(clippy::unwrap_used)] // a test that cannot go on says where

mod support;

use pageherd::abi::pagemap::Entry;
use pageherd::source::process::ProcessSource;
use pageherd::source::{Fate, PageSource};
use pageherd::sys::process::Process;
use std::process::{Child, Command};
use support::{alone, skip};

/// The kernel gives the number after this one to the next process (`CONFIG_CHECKPOINT_RESTORE`).
const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";

fn sleeper() -> (Child, i32) {
    let child = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    (child, pid)
}

/// A new process with the number `pid`; others start processes too, so it may take some tries.
fn sleeper_with_number(pid: i32) -> Option<Child> {
    for _ in 0..100 {
        std::fs::write(LAST_PID, (pid - 1).to_string()).ok()?;
        let (mut child, got) = sleeper();
        if got == pid {
            return Some(child);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    None
}

#[test]
fn a_number_used_again_is_not_the_process_that_was_opened() {
    let _alone = alone();
    if std::fs::metadata(LAST_PID).is_err() {
        skip("a_number_used_again_is_not_the_process_that_was_opened", "ns_last_pid");
        return;
    }
    let (mut first, pid) = sleeper();
    let process = Process::open(pid).unwrap();
    let blocks = process.maps().unwrap();
    let source = ProcessSource::new(process, blocks, true);
    let page = source.blocks()[0].pages.start;
    let mut entries = [Entry(0); 1];
    assert_eq!(source.facts(page, &mut entries).unwrap(), 1);
    first.kill().unwrap();
    first.wait().unwrap();
    let mut second = sleeper_with_number(pid).expect("the number comes again");
    assert_eq!(source.fate(), Fate::Exited);
    assert_eq!(source.facts(page, &mut entries).unwrap(), 0, "its memory is gone");
    assert!(source.process().maps().is_err(), "its folder is not the new one's");
    second.kill().unwrap();
    second.wait().unwrap();
}
