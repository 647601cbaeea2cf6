//! Either end killed at any moment: one owner, and both ends can say who.

use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pageherd::store::{Store, herd::Herd};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::{skip, tmp};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Sender,
    Receiver,
}

/// When which end is killed.
#[derive(Clone, Debug)]
enum When {
    /// Before its `nth` call of the kernel of that name.
    Call(String, usize),
    /// So many microseconds after the sender was started.
    After(u64),
    /// Never: to see which calls there are, in this file.
    Never(PathBuf),
}

#[derive(Clone, Debug)]
struct Point {
    end: End,
    when: When,
    moves: bool,
}

/// The command, under strace where the point asks for that.
fn traced(command: Command, when: &When, folder: &Folder) -> Command {
    let (record, inject) = match when {
        When::After(_) => return command,
        When::Never(record) => (record.clone(), None),
        When::Call(call, nth) => {
            (folder.path("strace"), Some(format!("inject={call}:signal=KILL:when={nth}")))
        }
    };
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o"]).arg(record);
    inject.iter().for_each(|inject| {
        strace.args(["-e", inject]);
    });
    strace.arg(command.get_program()).args(command.get_args());
    strace
}

/// Waits until no process with this mark in its environment lives: the guard has done its work.
fn wait_for_guard(mark: &str) {
    let marked = format!("PAGEHERD_MARK={mark}");
    wait_for("the guard's end", Duration::from_secs(20), || {
        let all = pageherd::sys::process::all_pids().unwrap();
        !all.into_iter().any(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|&b| b == 0).any(|var| var == marked.as_bytes())
        })
    });
}

/// The session that a sender has told of.
fn session_in(words: &str) -> Option<String> {
    let at = words.find("--resolve ")? + "--resolve ".len();
    Some(words[at..].chars().take_while(char::is_ascii_hexdigit).collect())
}

/// Asks what became of a session, as a user does.
fn resolved(folder: &Folder, session: &str) -> bool {
    let socket = folder.path("asked");
    let receiver = listening(&socket, &["--into", &folder.at("h")]);
    let to = format!("unix:{}", socket.display());
    let asked = Run::new(mig_send(&["--resolve", session, "--to", &to])).well();
    let told = parsed(&receiver.well().stdout);
    let words = String::from_utf8(asked.stdout).unwrap();
    assert_eq!(told["streams"][0]["state"], words.trim());
    match words.trim() {
        "committed" => true,
        "aborted" => false,
        other => panic!("{other}"),
    }
}

/// Moves or copies a holder, has one end killed, and looks who owns the memory. Was it killed?
fn try_one(holder: &Holder, content: &[u8], point: &Point) -> bool {
    static MARK: AtomicUsize = AtomicUsize::new(0);
    let mark = format!("{}-{}", std::process::id(), MARK.fetch_add(1, Ordering::Relaxed));
    let folder = Folder::new();
    let socket = folder.path("s");
    let address = format!("unix:{}", socket.display());
    let mut recv = mig_recv(&["--from", &address, "--into", &folder.at("h"), "--json"]);
    let vm = holder.target("a", 0);
    let mut send = mig_send(&["--vm", &vm, "--to", &address, "--json"]);
    if point.moves {
        send.arg("--move");
    }
    match point.end {
        End::Sender => send = traced(send, &point.when, &folder),
        End::Receiver => recv = traced(recv, &point.when, &folder),
    }
    send.env("PAGEHERD_MARK", &mark);
    let mut receiver = Run::new(recv);
    wait_for("the socket", LONG, || socket.exists() || receiver.has_ended());
    let mut sender = Run::new(send);
    if let When::After(micros) = point.when {
        std::thread::sleep(Duration::from_micros(micros));
        match point.end {
            End::Sender => sender.kill(),
            End::Receiver => receiver.kill(),
        }
    }
    let sent = sender.end();
    if socket.exists() && point.end == End::Sender {
        // a sender that was killed before it connected leaves a receiver that waits
        let begin = Instant::now();
        while !receiver.has_ended() && begin.elapsed() < Duration::from_secs(10) {
            if begin.elapsed() > Duration::from_millis(200) {
                drop(std::os::unix::net::UnixStream::connect(&socket));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let received = receiver.end();
    wait_for_guard(&mark);
    let runs = !is_stopped(holder.pid);
    let what = format!(
        "{point:?}: the source {}; {}; {}",
        if runs { "runs" } else { "stands" },
        words(&sent),
        words(&received)
    );
    // who opens the herd next finds what is committed, whole, and nothing else
    let session = session_in(&said(&sent));
    let verdict = match &session {
        Some(session) if !runs => Some(resolved(&folder, session)),
        Some(session) => {
            let herd = Herd::open(&folder.path("h"), Vec::new()).unwrap();
            herd.resolve(session).unwrap()
        }
        None => {
            drop(Herd::open(&folder.path("h"), Vec::new()).unwrap());
            None
        }
    };
    let there = has(&folder.path("h"), "a");
    let mut names = vec!["journal", "lock", "pool"];
    if there {
        names.insert(0, "a.map");
        assert!(in_herd(&folder.path("h"), "a") == content, "{what}");
    }
    assert_eq!(folder.names("h"), names, "{what}");
    let pool = fs::metadata(folder.path("h").join("pool")).unwrap();
    let kept = std::os::unix::fs::MetadataExt::blocks(&pool) / 8;
    assert_eq!(kept, if there { content.len() as u64 / 4096 } else { 0 }, "{what}");
    if let Some(committed) = verdict {
        assert_eq!(committed, there, "{what}");
    }
    if point.moves {
        assert!(!(runs && there), "two owners: {what}");
        // one that stands though the far end has nothing may go on, and is told so
        assert!(runs || there || verdict == Some(false), "no owner: {what}");
        match sent.status.code() {
            Some(0) => assert!(there, "{what}"),
            Some(75) => assert!(!runs && session.is_some(), "{what}"),
            Some(_) => assert!(runs, "{what}"),
            None => assert!(runs || session.is_some(), "who killed it cannot ask: {what}"),
        }
    } else {
        assert!(runs, "{what}");
    }
    let killed = |out: &Output| out.status.code().is_none();
    match point.end {
        End::Sender => killed(&sent),
        End::Receiver => killed(&received),
    }
}

/// As [`try_one`], where a source that stands with nobody's memory at the far end is let go.
fn owned_by_one(holder: &Holder, content: &[u8], point: &Point) -> bool {
    let killed = try_one(holder, content, point);
    if is_stopped(holder.pid) {
        kill(Pid::from_raw(holder.pid), Signal::SIGCONT).unwrap();
        wait_for("it to run", LONG, || !is_stopped(holder.pid));
    }
    killed
}

/// How often a command calls the kernel, by call.
fn calls(record: &Path) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in fs::read_to_string(record).unwrap().lines() {
        *counts.entry(line.split('(').next().unwrap().to_owned()).or_default() += 1;
    }
    counts
}

/// The calls by which an end does something, and each how-manieth is tried.
const SENDER: [(&str, usize); 14] = [
    ("writev", 1),
    ("write", 1),
    ("poll", 1),
    ("sendmsg", 1),
    ("recvmsg", 1),
    ("flock", 1),
    ("ftruncate", 1),
    ("connect", 1),
    ("shutdown", 1),
    ("pidfd_send_signal", 1),
    ("unlink", 1),
    ("mkdir", 1),
    ("read", 6),
    ("close", 4),
];
const RECEIVER: [(&str, usize); 13] = [
    ("writev", 1),
    ("write", 1),
    ("fsync", 1),
    ("fdatasync", 1),
    ("renameat2", 1),
    ("pwrite64", 1),
    ("ftruncate", 1),
    ("openat", 1),
    ("read", 1),
    ("close", 2),
    ("shutdown", 1),
    ("poll", 1),
    ("unlink", 1),
];

#[test]
fn either_end_killed_at_any_moment_leaves_one_owner() {
    const TEST: &str = "either_end_killed_at_any_moment_leaves_one_owner";
    if Command::new("strace").arg("-V").output().is_err() {
        skip(TEST, "strace is not installed");
        return;
    }
    let holder = Holder::new(&["anon:64"]);
    let content = region_of(&holder, holder.pid, 0);
    let mut points = Vec::new();
    for end in [End::Sender, End::Receiver] {
        let record = tmp(&format!("moves.{end:?}.strace"));
        let whole = Point { end, when: When::Never(record.clone()), moves: true };
        assert!(!owned_by_one(&holder, &content, &whole));
        let counts = calls(&record);
        fs::remove_file(&record).unwrap();
        if counts.is_empty() {
            skip(TEST, "strace may not trace here");
            return;
        }
        let of: &[(&str, usize)] = if end == End::Sender { &SENDER } else { &RECEIVER };
        for &(call, step) in of {
            for nth in (1..=counts.get(call).copied().unwrap_or(0)).step_by(step) {
                let when = When::Call(call.to_owned(), nth);
                points.push(Point { end, when: when.clone(), moves: true });
                if nth % 4 == 1 {
                    points.push(Point { end, when, moves: false });
                }
            }
        }
        for step in 0..30 {
            points.push(Point { end, when: When::After(step * 700), moves: step % 3 > 0 });
        }
    }
    assert!(points.len() >= 200, "only {} points", points.len());
    let (next, killed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                // a holder ends with the thread that started it
                let holder = Holder::new(&["anon:64"]);
                let content = region_of(&holder, holder.pid, 0);
                while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let was_killed = owned_by_one(&holder, &content, point);
                    killed.fetch_add(usize::from(was_killed), Ordering::Relaxed);
                }
            });
        }
    });
    let killed = killed.into_inner();
    assert!(killed * 10 >= points.len() * 8, "of {} only {killed} were killed", points.len());
}

/// On a file nobody answers: once the file is there whole, the source must not run again, whoever
/// is killed.
#[test]
fn a_one_way_move_killed_at_any_call_never_leaves_a_whole_file_and_a_running_source() {
    const TEST: &str =
        "a_one_way_move_killed_at_any_call_never_leaves_a_whole_file_and_a_running_source";
    if Command::new("strace").arg("-V").output().is_err() {
        skip(TEST, "strace is not installed");
        return;
    }
    let holder = Holder::new(&["anon:64"]);
    let content = region_of(&holder, holder.pid, 0);
    let mut owners = [0; 3];
    let mut run = |when: &When, check: bool| {
        let folder = Folder::new();
        let to = format!("file:{}", folder.at("x"));
        let vm = holder.target("a", 0);
        let args = ["--vm", &vm, "--to", &to, "--move", "--one-way", "--quiet"];
        let mark = format!("{}-file-{}", std::process::id(), owners.iter().sum::<usize>());
        let mut command = traced(mig_send(&args), when, &folder);
        command.env("PAGEHERD_MARK", &mark);
        let sent = Run::new(command).end();
        wait_for_guard(&mark);
        let (runs, whole) = (!is_stopped(holder.pid), folder.path("x").exists());
        let what = format!("{when:?}: {}", words(&sent));
        assert!(!(runs && whole), "two owners: {what}");
        assert!(!sent.status.success() || whole, "{what}");
        if whole && check {
            Run::new(mig_recv(&["--from", &to, "--into", &folder.at("h")])).well();
            assert!(in_herd(&folder.path("h"), "a") == content, "{what}");
        }
        owners[usize::from(!runs) + usize::from(whole)] += 1;
        kill(Pid::from_raw(holder.pid), Signal::SIGCONT).unwrap();
        wait_for("it to run", LONG, || !is_stopped(holder.pid));
    };
    let record = tmp("moves.file.strace");
    run(&When::Never(record.clone()), true);
    let counts = calls(&record);
    fs::remove_file(&record).unwrap();
    for (call, last) in [
        ("writev", 9),
        ("write", 9),
        ("fsync", 9),
        ("rename", 9),
        ("fcntl", 6),
        ("unlink", 9),
        ("close", 9),
    ] {
        let all = counts.get(call).copied().unwrap_or(0);
        for nth in (1 + all.saturating_sub(last)..=all).rev() {
            run(&When::Call(call.to_owned(), nth), nth == all);
        }
    }
    assert!(owners[0] > 0 && owners[2] > 0, "killed before and after: {owners:?}");
}
