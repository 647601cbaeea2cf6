//! What becomes of a held process when the command, its guard, or both are killed.

use super::*;
use std::collections::BTreeMap;
use support::{skip, tmp};

/// From nothing to let go, the command is killed at moments that are spread over all it does.
#[test]
fn a_command_killed_at_any_moment_leaves_its_process_running() {
    let holder = ticking();
    let program = example("freezer");
    let mut caught = 0;
    for step in 0..40u64 {
        let mark = mark();
        let mut child = Command::new(&program)
            .arg(holder.pid.to_string())
            .env("PAGEHERD_MARK", &mark)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // the second half also lets go, in the midst of which it is killed
        if step >= 20 {
            let _ = child.stdin.as_ref().unwrap().write_all(b"thaw\n");
        }
        sleep(Duration::from_micros(step % 20 * 700));
        caught += u32::from(is_stopped(holder.pid));
        child.kill().unwrap();
        child.wait().unwrap();
        wait_free(holder.pid);
        no_guard(&mark);
    }
    moves(&holder);
    assert!(caught > 0, "it was never held when the command was killed");
}

/// The same at exact places: every call of the kernel by which a command does something.
#[test]
fn a_command_killed_at_any_call_of_the_kernel_leaves_its_process_running() {
    const TEST: &str = "a_command_killed_at_any_call_of_the_kernel_leaves_its_process_running";
    if Command::new("strace").arg("-V").output().is_err() {
        skip(TEST, "strace is not installed");
        return;
    }
    let holder = ticking();
    let run = |args: &[&str]| {
        let mark = mark();
        let mut child = Command::new("strace")
            .args(["-qq", "-o"])
            .arg(tmp("freeze.strace"))
            .args(args)
            .arg(example("freezer"))
            .arg(holder.pid.to_string())
            .env("PAGEHERD_MARK", &mark)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // where it was killed already there is nobody to hear it
        let _ = child.stdin.take().unwrap().write_all(b"check\nthaw\n");
        let status = child.wait().unwrap();
        wait_free(holder.pid);
        no_guard(&mark);
        status
    };
    if !run(&[]).success() {
        skip(TEST, "strace may not trace here");
        return;
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in fs::read_to_string(tmp("freeze.strace")).unwrap().lines() {
        *counts.entry(line.split('(').next().unwrap().to_owned()).or_default() += 1;
    }
    let mut killed = 0;
    for (call, most) in [
        ("clone", 1),
        ("sendmsg", 9),
        ("recvmsg", 9),
        ("openat", 99),
        ("flock", 9),
        ("ftruncate", 9),
        ("write", 99),
        ("lseek", 9),
        ("pidfd_send_signal", 9),
        ("unlink", 9),
        ("rmdir", 9),
        ("statx", 99),
        ("close", 99),
    ] {
        for nth in 1..=counts.get(call).copied().unwrap_or(0).min(most) {
            let inject = format!("inject={call}:signal=KILL:when={nth}");
            killed += u32::from(!run(&["-e", &inject]).success());
        }
    }
    let _ = fs::remove_file(tmp("freeze.strace"));
    assert!(killed >= 60, "killed only {killed} times");
    moves(&holder);
}

#[test]
fn a_command_lets_go_though_its_guard_was_killed() {
    let holder = ticking();
    let mut freezer = Freezer::of(holder.pid);
    freezer.kill_guard();
    stands_for(&holder, Duration::from_millis(100));
    assert_eq!(freezer.tell("thaw"), "thawed Runs");
    wait_free(holder.pid);
    let said = freezer.tell(&format!("hold {}", holder.pid));
    assert!(said.contains("the guard") && said.contains("is gone"), "{said}");
    assert!(!is_stopped(holder.pid) && is_forgotten(holder.pid));
}

#[test]
fn a_guard_that_is_stopped_holds_nobody_up_for_long() {
    let holder = ticking();
    let mut freezer = Freezer::new(&[]);
    send(freezer.guard, Signal::SIGSTOP);
    let begin = Instant::now();
    let said = freezer.tell(&format!("hold {}", holder.pid));
    assert!(said.contains("is gone") && begin.elapsed() < Duration::from_secs(4), "{said}");
    assert!(!is_stopped(holder.pid));
    // it goes on, hears of a hold that was not, and of the end
    send(freezer.guard, Signal::SIGCONT);
    freezer.kill();
    wait_free(holder.pid);
}

#[test]
fn a_panic_an_exit_and_a_core_dump_are_ends_like_others() {
    for end in ["exit", "abort", "TERM"] {
        let holder = ticking();
        let mut freezer = Freezer::of(holder.pid);
        match end {
            "exit" => drop(freezer.child.stdin.take()),
            "abort" => drop(freezer.tell("abort")),
            _ => send(freezer.pid(), Signal::SIGTERM),
        }
        freezer.child.wait().unwrap();
        wait_free(holder.pid);
        moves(&holder);
    }
}

#[test]
fn what_is_to_be_kept_stays_when_its_command_is_killed() {
    let holder = ticking();
    for guarded in [true, false] {
        let mut freezer = Freezer::of(holder.pid);
        assert_eq!(freezer.tell("keep"), "done");
        if guarded {
            freezer.kill();
        } else {
            freezer.tell("drop");
        }
        drop(freezer); // and its guard is gone then
        stands_for(&holder, Duration::from_millis(300));
        assert!(is_stopped(holder.pid) && is_forgotten(holder.pid));
        send(holder.pid, Signal::SIGCONT);
        moves(&holder);
    }
    // taken back in time
    let mut freezer = Freezer::of(holder.pid);
    assert_eq!([freezer.tell("keep"), freezer.tell("unkeep")], ["done", "done"]);
    freezer.kill();
    wait_free(holder.pid);
    // an order to let go is more than the wish
    let mut freezer = Freezer::of(holder.pid);
    assert_eq!([freezer.tell("keep"), freezer.tell("thaw")], ["done", "thawed Runs"]);
    wait_free(holder.pid);
}

#[test]
fn what_is_left_stays_until_a_hand_frees_it() {
    let holder = ticking();
    let mut freezer = Freezer::of(holder.pid);
    assert_eq!(freezer.tell("leave"), "done");
    assert!(is_stopped(holder.pid) && is_forgotten(holder.pid));
    drop(freezer);
    stands_for(&holder, Duration::from_millis(200));
    send(holder.pid, Signal::SIGCONT);
    moves(&holder);
}

/// Where command and guard are killed at once nobody lets go; whoever holds the process next knows
/// how it was before.
#[test]
fn the_next_command_knows_what_a_killed_one_and_its_guard_left() {
    let holder = ticking();
    Freezer::of(holder.pid).kill_with_guard();
    stands_for(&holder, Duration::from_millis(200));
    assert!(!is_forgotten(holder.pid));
    let mut next = Freezer::of(holder.pid);
    assert!(next.said[0].contains("that was killed left it standing"), "{:?}", next.said);
    assert_eq!(next.tell("thaw"), "thawed Runs");
    wait_free(holder.pid);
    // one that did not know whether it may run again
    let mut unsure = Freezer::of(holder.pid);
    assert_eq!(unsure.tell("keep"), "done");
    unsure.kill_with_guard();
    let mut next = Freezer::of(holder.pid);
    assert!(next.said[1].contains("it will stay so"), "{:?}", next.said);
    assert_eq!(next.tell("thaw"), "thawed Left");
    assert!(is_stopped(holder.pid) && is_forgotten(holder.pid));
    send(holder.pid, Signal::SIGCONT);
    // freed by hand meanwhile: what was left is of no interest any more
    let mut unsure = Freezer::of(holder.pid);
    assert_eq!(unsure.tell("keep"), "done");
    unsure.kill_with_guard();
    send(holder.pid, Signal::SIGCONT);
    moves(&holder);
    let mut next = Freezer::of(holder.pid);
    assert_eq!(next.tell("thaw"), "thawed Runs");
    wait_free(holder.pid);
}
