//! Real sources: processes with every kind of memory, and a guest that checks its own.

use super::*;
use nix::sys::signal::{Signal, kill};
use serde_json::json;
use support::qemu::{Build, Mapping, Qmp, mappings, ready};
use support::{KsmOn, Swap, TempFile, alone, shm, skip, tmp};

/// Sends one region of a holder and compares what arrives with what its process has.
fn carried(holder: &Holder, region: usize, filters: &str) {
    let folder = Folder::new();
    let vm = holder.target("a", region);
    let said = pass(&["--vm", &vm, "--filters", filters], &["--into", &folder.at("h")]);
    let here = region_of(holder, holder.pid, region);
    assert!(in_herd(&folder.path("h"), "a") == here, "region {region} of {holder:?}, {filters}");
    assert_eq!(digest_in(&said, "a"), digest_of(&here));
    assert!(!is_stopped(holder.pid));
}

#[test]
fn memory_of_every_kind_arrives() {
    let file = TempFile::with_holes(shm(), 400);
    (0..300).for_each(|page| file.write(page));
    let on_disk = TempFile::new(&tmp(""), 200);
    let private = format!("private:{},write=50", file.name());
    let shared = format!("shared:{}", on_disk.name());
    let regions = [
        "fork=1",
        "dirty=40",
        "anon:300",
        "ksm:100,alike",
        "zero:700",
        "thp:1024",
        "memfd:200",
        "double:50",
        &private,
        &shared,
        "unmapped:100",
    ];
    let holder = Holder::new(&regions);
    let kinds = regions.len() - 2;
    for region in 0..kinds {
        for filters in ["auto", "none", "zero,shared,same,zstd", "shared,lz4"] {
            carried(&holder, region, filters);
        }
    }
    // the child has other pages than its parent
    let folder = Folder::new();
    let vm = holder.target_of("a", holder.children[0], 0);
    pass(&["--vm", &vm], &["--into", &folder.at("h")]);
    let child = region_of(&holder, holder.children[0], 0);
    assert!(child != region_of(&holder, holder.pid, 0));
    assert!(in_herd(&folder.path("h"), "a") == child);
}

#[test]
fn a_whole_process_arrives_with_its_stack_and_its_program() {
    let mut holder = Holder::new(&["anon:100", "memfd:50", "zero:30"]);
    holder.settle();
    // stopped by us, it stays so: when a thread goes on, the kernel writes to its memory (rseq)
    let pid = nix::unistd::Pid::from_raw(holder.pid);
    kill(pid, Signal::SIGSTOP).unwrap();
    wait_for("it to stop", LONG, || is_stopped(holder.pid));
    let folder = Folder::new();
    let vm = format!("a=pid:{},all", holder.pid);
    let said = pass(&["--vm", &vm], &["--into", &folder.at("h")]);
    let is_memory = |m: &&Mapping| !m.name.starts_with("[vvar") && !m.name.starts_with("[vsyscall");
    let all = mappings(holder.pid);
    let here: Vec<u8> = all
        .iter()
        .filter(is_memory)
        .flat_map(|m| memory(holder.pid, m.start * 4096, m.end * 4096))
        .collect();
    let there = in_herd(&folder.path("h"), "a");
    assert_eq!(there.len(), here.len());
    let mut at = 0;
    for m in all.iter().filter(is_memory) {
        let length = usize::try_from(m.pages()).unwrap() * PAGE;
        let pages = here[at..at + length].chunks(PAGE).zip(there[at..at + length].chunks(PAGE));
        let differ: Vec<usize> =
            pages.enumerate().filter(|(_, (a, b))| a != b).map(|(page, _)| page).collect();
        assert!(differ.is_empty(), "pages {differ:?} of {m:?}");
        at += length;
    }
    assert_eq!(digest_in(&said, "a"), digest_of(&here));
    assert!(is_stopped(holder.pid), "as before");
    kill(pid, Signal::SIGCONT).unwrap();
    holder.settle();
}

#[test]
fn memory_that_is_swapped_out_arrives() {
    let _alone = alone();
    let _swap = Swap::new(64);
    let holder = Holder::new(&["swap:2000", "anon:100"]);
    for filters in ["auto", "none"] {
        carried(&holder, 0, filters);
    }
}

#[test]
fn memory_that_is_merged_arrives() {
    let _alone = alone();
    let (a, b) = (Holder::new(&["ksm:500,seed=7"]), Holder::new(&["ksm:600,seed=7"]));
    let on = KsmOn::new();
    let vms = [a.target("a", 0), b.target("b", 0)];
    on.wait("500 pages to be merged", || footprint_of(&vms) == 600);
    for filters in ["auto", "shared", "same,shared"] {
        let folder = Folder::new();
        let args = ["--vm", &vms[0], "--vm", &vms[1], "--filters", filters];
        let said = pass(&args, &["--into", &folder.at("h")]);
        for (name, holder) in [("a", &a), ("b", &b)] {
            assert!(in_herd(&folder.path("h"), name) == region_of(holder, holder.pid, 0));
        }
        assert_eq!(said["streams"][0]["distinct_pages"], 600, "{filters}");
    }
}

#[test]
fn memory_in_pages_of_hugetlb_arrives() {
    let _alone = alone();
    let pool = "/proc/sys/vm/nr_hugepages";
    let _setting = support::Setting::try_new(pool, "4");
    match Holder::try_new(&["hugetlb:1024"]) {
        Ok(holder) => ["auto", "none"].iter().for_each(|filters| carried(&holder, 0, filters)),
        Err(why) => skip("memory_in_pages_of_hugetlb_arrives", why.lines().next().unwrap_or("?")),
    }
}

#[test]
fn transports_of_the_commands_carry_the_same() {
    let holder = Holder::new(&["fork=1", "anon:600", "zero:100"]);
    let here = region_of(&holder, holder.pid, 0);
    let vm = holder.target("a", 0);
    let recv = env!("CARGO_BIN_EXE_mig-recv");
    let check = |folder: &Folder, what: &str| {
        assert!(in_herd(&folder.path("h"), "a") == here, "{what}");
    };
    // a command at the far end, with a way back
    let folder = Folder::new();
    let exec = format!("exec:{recv} --into {}", folder.at("h"));
    let sent = Run::new(mig_send(&["--vm", &vm, "--to", &exec, "--json"])).well();
    assert_eq!(parsed(&sent.stdout)["confirmed"], true);
    check(&folder, "exec");
    // and at this end: what it writes is the stream
    let folder = Folder::new();
    let send = env!("CARGO_BIN_EXE_mig-send");
    let file = folder.at("x");
    Run::new(mig_send(&["--vm", &vm, "--to", &format!("file:{file}")])).well();
    let image = format!("a=image:{}", folder.at("i"));
    Run::new(mig_recv(&[
        "--from",
        &format!("file:{file}"),
        "--image",
        &format!("a={}", folder.at("i")),
    ]))
    .well();
    let exec = format!("exec:{send} --vm {image} --filters zero,lz4");
    Run::new(mig_recv(&["--from", &exec, "--into", &folder.at("h")])).well();
    check(&folder, "exec at the receiver");
    // a port that was found
    let folder = Folder::new();
    let mut receiver = mig_recv(&["--from", "tcp:127.0.0.1:0", "--into", &folder.at("h")]);
    let mut child = receiver.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let at =
        lines.find_map(|l| Some(l.unwrap().split_once("listening at ")?.1.to_owned())).unwrap();
    Run::new(mig_send(&["--vm", &vm, "--to", &at, "--rate", "20M"])).well();
    assert!(child.wait().unwrap().success());
    check(&folder, "tcp");
    // descriptors that a shell opened
    let folder = Folder::new();
    let line = "\"$1\" --vm \"$2\" --to fd:7 7>&1 >/dev/null | \"$3\" --from fd:9 --into \"$4\" 9<&0 </dev/null";
    let mut shell = Command::new("bash");
    shell.args(["-o", "pipefail", "-c", line, "bash", send, &vm, recv, &folder.at("h")]);
    Run::new(shell).well();
    check(&folder, "fd");
    // an external filter, at both ends
    let folder = Folder::new();
    let words = support::example("filter_words");
    let filter = format!("exec:{}", words.display());
    let chain = format!("zero,shared,{filter}");
    let said = pass(
        &["--vm", &vm, "--filters", &chain, "--keep-filters"],
        &["--into", &folder.at("h"), "--filter", &filter],
    );
    check(&folder, "an external filter");
    assert_eq!(digest_in(&said, "a"), digest_of(&here));
}

/// A guest with a second QMP socket, for the test itself.
#[test]
fn a_running_guest_arrives_and_goes_on() {
    if !ready("a_running_guest_arrives_and_goes_on") {
        return;
    }
    let folder = Folder::new();
    let path = folder.path("second");
    let chardev = format!("socket,id=ours,path={},server=on,wait=off", path.display());
    let build = Build { mib: 96, work: 16, ..Build::new("moved", 7) };
    let mut guest = build.more(&["-chardev", &chardev, "-mon", "chardev=ours,mode=control"]).boot();
    let mut qmp = Qmp::at(&path);
    let mut state =
        move || qmp.ask("query-status", &json!({}))["status"].as_str().unwrap().to_owned();
    let vm = format!("guest=pid:{}", guest.pid);

    // copied while it runs: it is paused for that, and goes on
    let before = guest.ticks();
    let (sent, received) = piped(&["--vm", &vm], &["--into", &folder.at("copy")]);
    assert!(
        sent.status.success() && received.status.success(),
        "{}{}",
        words(&sent),
        words(&received)
    );
    assert_eq!(state(), "running");
    guest.wait_ticks(before + 2);

    // moved: it stays paused, and what QEMU holds is what arrived
    let receiver = listening(&folder.path("socket"), &["--into", &folder.at("moved")]);
    let to = format!("unix:{}", folder.at("socket"));
    let sent = Run::new(mig_send(&["--vm", &vm, "--to", &to, "--move", "--json"])).well();
    let received = receiver.well();
    assert_eq!(state(), "paused", "{}", said(&sent));
    assert_eq!(parsed(&sent.stdout)["moved"], true);
    let here: Vec<u8> =
        guest.ram().iter().flat_map(|m| memory(guest.pid, m.start * 4096, m.end * 4096)).collect();
    let there = in_herd(&folder.path("moved"), "guest");
    assert_eq!(there.len(), here.len());
    assert!(there == here);
    assert_eq!(digest_in(&parsed(&received.stdout), "guest"), digest_of(&here));
    let before = guest.ticks();
    let mut qmp = guest.qmp();
    qmp.ask("cont", &json!({}));
    guest.wait_ticks(before + 2);
    guest.kill();
}
