//! A file as the medium: nobody answers on it, and what cannot be promised is refused.

use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn at(folder: &Folder, name: &str) -> String {
    format!("file:{}", folder.at(name))
}

#[test]
fn a_file_is_received_once_and_what_is_there_is_not_replaced() {
    let folder = Folder::new();
    let holder = Holder::new(&["anon:200"]);
    let vm = holder.target("a", 0);
    let sent = Run::new(mig_send(&["--vm", &vm, "--to", &at(&folder, "x"), "--json"])).well();
    assert_eq!(parsed(&sent.stdout)["confirmed"], false);
    assert_eq!(folder.names(""), ["x"]);
    let into =
        || Run::new(mig_recv(&["--from", &at(&folder, "x"), "--into", &folder.at("h")])).end();
    assert!(into().status.success());
    let again = into();
    assert_eq!(code(&again), 77);
    assert!(said(&again).contains("exists already"), "{}", said(&again));
    assert!(in_herd(&folder.path("h"), "a") == region_of(&holder, holder.pid, 0));
}

#[test]
fn a_move_without_a_way_back_is_refused_and_the_source_runs_on() {
    let holder = Holder::new(&["anon:100,tick"]);
    let vm = holder.target("a", 0);
    let folder = Folder::new();
    for to in [at(&folder, "x"), "-".to_owned()] {
        let sent = Run::new(mig_send(&["--vm", &vm, "--to", &to, "--move"])).end();
        assert_eq!(code(&sent), 77, "{}", said(&sent));
        assert!(said(&sent).contains("--one-way"), "{}", said(&sent));
        assert!(sent.stdout.is_empty(), "nothing was written");
        assert!(!is_stopped(holder.pid));
        assert!(folder.names("").is_empty());
    }
}

#[test]
fn a_one_way_move_leaves_the_source_paused_and_the_file_is_its_memory() {
    let holder = Holder::new(&["anon:300"]);
    let vm = holder.target("a", 0);
    let here = region_of(&holder, holder.pid, 0);
    let folder = Folder::new();
    let args = ["--vm", &vm, "--to", &at(&folder, "x"), "--move", "--one-way"];
    let sent = Run::new(mig_send(&args)).well();
    assert!(said(&sent).contains(&format!("kill -CONT {}", holder.pid)), "{}", said(&sent));
    assert!(is_stopped(holder.pid));
    Run::new(mig_recv(&["--from", &at(&folder, "x"), "--into", &folder.at("h")])).well();
    assert!(in_herd(&folder.path("h"), "a") == here);
    kill(Pid::from_raw(holder.pid), Signal::SIGCONT).unwrap();
    // a medium that fails leaves the source running
    let full = ["--vm", &vm, "--to", "file:/dev/full", "--move", "--one-way"];
    let sent = Run::new(mig_send(&full)).end();
    assert_eq!(code(&sent), 74, "{}", said(&sent));
    wait_for("it to run", LONG, || !is_stopped(holder.pid));
}

/// Asks a herd, or an image, by a command that is started for that.
fn ask(session: &str, recv: &str) -> Output {
    let to = format!("exec:{} {recv}", env!("CARGO_BIN_EXE_mig-recv"));
    Run::new(mig_send(&["--resolve", session, "--to", &to])).end()
}

#[test]
fn who_was_told_that_a_session_is_aborted_is_told_the_truth_for_ever() {
    let folder = Folder::new();
    let image = Dice(4).memory(50);
    fs::write(folder.path("i"), &image).unwrap();
    let vm = |name: &str| format!("{name}=image:{}", folder.at("i"));
    let session = |file: &str, vm: &str| {
        let args = ["--vm", vm, "--to", &at(&folder, file), "--json"];
        parsed(&Run::new(mig_send(&args)).well().stdout)["session"].as_str().unwrap().to_owned()
    };
    let (first, second) = (session("x", &vm("a")), session("y", &vm("b")));
    let into = format!("--into {}", folder.at("h"));
    let receive = |file: &str| {
        Run::new(mig_recv(&["--from", &at(&folder, file), "--into", &folder.at("h")])).end()
    };

    let asked = ask(&first, &into);
    assert_eq!((code(&asked), asked.stdout.as_slice()), (0, b"aborted\n".as_slice()));
    // the file is whole, and comes too late
    let late = receive("x");
    assert_eq!(code(&late), 77, "{}", said(&late));
    assert!(said(&late).contains("resolved as aborted"), "{}", said(&late));
    assert_eq!(folder.names("h"), ["journal", "lock", "pool"]);

    assert!(receive("y").status.success());
    for _ in 0..2 {
        assert_eq!(ask(&second, &into).stdout, b"committed\n");
        assert_eq!(ask(&first, &into).stdout, b"aborted\n");
    }
    assert!(in_herd(&folder.path("h"), "b") == image);

    // who keeps no journal does not make one up; a file cannot be asked
    let asked = ask(&first, &format!("--image a={}", folder.at("o")));
    assert_eq!(code(&asked), 77, "{}", said(&asked));
    assert!(said(&asked).contains("only a herd remembers"), "{}", said(&asked));
    let asked = Run::new(mig_send(&["--resolve", &first, "--to", &at(&folder, "x")])).end();
    assert_eq!(code(&asked), 64, "{}", said(&asked));
    assert!(fs::metadata(folder.path("x")).unwrap().len() > 4096, "the file is as it was");
}

/// The herd that a receiver was told to fill cannot name the map: it says so, and who opens it next
/// finds the memory.
#[test]
fn a_session_in_the_journal_is_committed_though_its_map_could_not_be_named() {
    let holder = Holder::new(&["anon:64"]);
    let here = region_of(&holder, holder.pid, 0);
    let folder = Folder::new();
    let socket = folder.path("s");
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o"]).arg(folder.path("strace"));
    strace.args(["-e", "inject=renameat2:error=EIO:when=1"]).arg(env!("CARGO_BIN_EXE_mig-recv"));
    let address = format!("unix:{}", socket.display());
    strace.args(["--from", &address, "--into", &folder.at("h"), "--no-sandbox"]);
    let receiver = Run::new(strace);
    wait_for("the socket", LONG, || socket.exists());
    let vm = holder.target("a", 0);
    let sent = Run::new(mig_send(&["--vm", &vm, "--to", &address, "--move", "--json"])).well();
    assert!(is_stopped(holder.pid));
    let received = receiver.end();
    assert_eq!(code(&received), 74, "{}", words(&received));
    let session = parsed(&sent.stdout)["session"].as_str().unwrap().to_owned();
    let asked = ask(&session, &format!("--into {}", folder.at("h")));
    assert_eq!(asked.stdout, b"committed\n");
    assert!(in_herd(&folder.path("h"), "a") == here);
    kill(Pid::from_raw(holder.pid), Signal::SIGCONT).unwrap();
}

/// A file that could not be kept is not lost: it is taken when there is room.
#[test]
fn a_file_for_which_there_was_no_room_is_taken_later() {
    let folder = Folder::new();
    let image = Dice(5).memory(300);
    fs::write(folder.path("i"), &image).unwrap();
    let vm = format!("a=image:{}", folder.at("i"));
    Run::new(mig_send(&["--vm", &vm, "--to", &at(&folder, "x")])).well();
    let recv = ["--from", &at(&folder, "x"), "--into", &folder.at("h")];
    // the disk fills up at every write, and at the last moment
    for (call, error) in [("pwrite64", "ENOSPC"), ("fdatasync", "EIO"), ("fsync", "ENOSPC")] {
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-o"]).arg(folder.path("strace"));
        strace.args(["-e", &format!("inject={call}:error={error}:when=1")]);
        strace.arg(env!("CARGO_BIN_EXE_mig-recv")).args(recv);
        let out = Run::new(strace).end();
        assert_eq!(code(&out), 74, "{call}: {}", words(&out));
        assert_eq!(folder.names("h"), ["journal", "lock", "pool"], "{call}");
    }
    Run::new(mig_recv(&recv)).well();
    assert!(in_herd(&folder.path("h"), "a") == image);
}
