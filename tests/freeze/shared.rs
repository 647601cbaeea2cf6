//! Several commands that hold one process: it stands until the last has let go.

use super::*;

/// How one of them ends.
fn end(freezer: &mut Freezer, how: &str) -> Option<String> {
    match how {
        "thaw" => return Some(freezer.tell("thaw")),
        "kill" => freezer.kill(),
        "drop" => drop(freezer.tell("drop")),
        _ => {
            freezer.kill_guard();
            return Some(freezer.tell("thaw"));
        }
    }
    None
}

#[test]
fn a_process_stands_until_both_have_let_go_in_all_orders() {
    let holder = ticking();
    let ways = ["thaw", "kill", "drop", "thaw without guard"];
    for first in ways {
        for second in ways {
            for swapped in [false, true] {
                let mut a = Freezer::of(holder.pid);
                let mut b = Freezer::of(holder.pid);
                assert!(b.said[0].contains("another pageherd command holds it"), "{:?}", b.said);
                if swapped {
                    std::mem::swap(&mut a, &mut b);
                }
                let said = end(&mut a, first);
                assert!(said.is_none_or(|said| said == "thawed HeldByOthers"));
                stands_for(&holder, Duration::from_millis(100));
                assert_eq!(b.tell("check"), "done", "{first}");
                let said = end(&mut b, second);
                assert!(said.is_none_or(|said| said == "thawed Runs"), "{first} {second}");
                wait_free(holder.pid);
            }
        }
    }
    moves(&holder);
}

#[test]
fn both_killed_at_the_same_moment_leave_it_running() {
    let holder = ticking();
    for _ in 0..20 {
        let (mut a, mut b) = (Freezer::of(holder.pid), Freezer::of(holder.pid));
        send(a.pid(), Signal::SIGKILL);
        send(b.pid(), Signal::SIGKILL);
        wait_free(holder.pid);
        a.kill();
        b.kill();
    }
    moves(&holder);
}

/// Many at once, each for a moment, and some killed: none ever sees it run while it holds it, and it
/// runs at the end.
#[test]
fn a_crowd_that_comes_and_goes_never_sees_it_run() {
    let holder = ticking();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let holder = &holder;
            scope.spawn(move || {
                let mut freezer = Freezer::new(&[]);
                for round in 0..40 {
                    let mut said = freezer.tell(&format!("hold {}", holder.pid));
                    while said.starts_with("note") {
                        said = freezer.hear();
                    }
                    assert!(said.starts_with("frozen"), "{said}");
                    let before = content(holder);
                    sleep(Duration::from_millis(round % 7));
                    assert_eq!(freezer.tell("check"), "done");
                    assert!(content(holder) == before, "it has run");
                    if round % 8 == n {
                        freezer = Freezer::new(&[]); // the one before is killed with what it holds
                        continue;
                    }
                    let said = freezer.tell("thaw");
                    assert!(said == "thawed Runs" || said == "thawed HeldByOthers", "{said}");
                }
            });
        }
    });
    wait_free(holder.pid);
    moves(&holder);
}

#[test]
fn the_wish_of_one_that_is_gone_binds_the_last() {
    let holder = ticking();
    for gone in ["kill", "leave"] {
        let (mut a, mut b) = (Freezer::of(holder.pid), Freezer::of(holder.pid));
        if gone == "kill" {
            assert_eq!(a.tell("keep"), "done");
            a.kill();
        } else {
            assert_eq!(a.tell("leave"), "done");
        }
        drop(a);
        assert_eq!(b.tell("thaw"), "thawed Left", "{gone}");
        assert!(is_stopped(holder.pid) && is_forgotten(holder.pid));
        send(holder.pid, Signal::SIGCONT);
        moves(&holder);
    }
}

#[test]
fn one_that_was_stopped_before_stays_so_for_two() {
    let holder = ticking();
    send(holder.pid, Signal::SIGSTOP);
    wait_for("it to stop", SOON, || is_stopped(holder.pid));
    let (mut a, mut b) = (Freezer::of(holder.pid), Freezer::of(holder.pid));
    assert_eq!(a.tell("thaw"), "thawed HeldByOthers");
    assert_eq!(b.tell("thaw"), "thawed AsBefore");
    assert!(is_stopped(holder.pid) && is_forgotten(holder.pid));
    send(holder.pid, Signal::SIGCONT);
}
