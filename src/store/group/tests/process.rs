//! Processes: many at once, killed ones, and a file system that is full.

use super::*;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

const SCENE: &str = "PAGEHERD_TEST_GROUP_SCENE";
const AT: &str = "PAGEHERD_TEST_GROUP_AT";

/// What a child does; nothing by itself.
#[test]
fn a_scene() {
    let Ok(scene) = std::env::var(SCENE) else { return };
    let name: GroupName = std::env::var(AT).unwrap().parse().unwrap();
    match scene.as_str() {
        "send" => {
            let mut sent = SentGroup::join(&name).unwrap();
            sent.kept(&[[1; 16], [2; 16]]).unwrap();
            say(&format!("{} {:?}", sent.member(), sent.id()));
            wait_for_ever();
        }
        "recv" => {
            let mut pool = Pool::join(recv(&name), [1; 16], 0, 1 << 30).unwrap();
            pool.append(&[7; 8192]).unwrap();
            say("there");
            wait_for_ever();
        }
        "numbers" => {
            let all: Vec<_> = (0..25).map(|_| SentGroup::join(&name).unwrap()).collect();
            let numbers: Vec<_> = all.iter().map(|one| one.member().to_string()).collect();
            say(&numbers.join(" "));
            all.into_iter().for_each(|one| one.done(true).unwrap());
        }
        "churn" => churn(&name),
        "full" => full(&name),
        other => panic!("{other}"),
    }
}

fn say(line: &str) {
    println!("said: {line}");
    std::io::stdout().flush().unwrap();
}

fn wait_for_ever() {
    thread::sleep(Duration::from_secs(60));
}

fn command(scene: &str, name: &GroupName) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    let this = "store::group::tests::process::a_scene";
    child.args(["--exact", this, "--test-threads=1", "--nocapture"]);
    child.env(SCENE, scene).env(AT, name.path(None)).stdout(Stdio::piped());
    child
}

/// Starts a child, and waits for what it says first.
fn start(scene: &str, name: &GroupName) -> (Child, String) {
    let mut child = command(scene, name).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let mut lines = out.lines().map(Result::unwrap);
    let said = lines.find_map(|line| Some(line.split_once("said: ")?.1.to_owned()));
    (child, said.unwrap())
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_sender_that_is_killed_takes_its_pages_with_it() {
    let (_dir, name) = place();
    let (child, said) = start("send", &name);
    let mut b = SentGroup::join(&name).unwrap();
    assert_eq!(said, format!("0 {:?}", b.id()));
    assert_eq!(b.news().unwrap().kept[0].digests, [[1; 16], [2; 16]]);
    kill(child);
    let from = Instant::now();
    let gone = loop {
        let news = b.news().unwrap();
        if !news.gone.is_empty() {
            break news.gone;
        }
        assert!(from.elapsed() < Duration::from_secs(2));
    };
    assert_eq!(gone, [0]);
    assert_eq!(files(&name, "send"), ["group", "log.1"]);
    let (child, _) = start("send", &name);
    kill(child);
    // who joins sees to it as well, and a killed one does not keep a group alive
    let c = SentGroup::join(&name).unwrap();
    assert_eq!((c.member(), c.id()), (3, b.id()));
    assert_eq!(files(&name, "send"), ["group", "log.1", "log.3"]);
    drop((b, c));
    let (child, _) = start("send", &name);
    assert!(matches!(end(&name, Role::Send), Err(GroupError::Alive { .. })));
    kill(child);
    assert_eq!(end(&name, Role::Send).unwrap(), Ended { members: 1, bytes: 48 });
}

#[test]
fn a_receiver_that_is_killed_is_not_waited_for() {
    let (_dir, name) = place();
    let (child, _) = start("recv", &name);
    let b = Pool::join(recv(&name), [1; 16], 1, 1 << 30).unwrap();
    let mut page = [0; 4096];
    b.read(0, 1, &mut page, LONG).unwrap();
    assert_eq!(page, [7; 4096]);
    let from = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(SHORT);
            kill(child);
        });
        let error = b.read(0, 2, &mut [0; 4096], LONG).unwrap_err();
        assert!(matches!(error, GroupError::NeverArrived { member: 0, page: 2 }), "{error}");
    });
    assert!(from.elapsed() < LONG / 4);
    // what had come is right, and can be had by who has it open; later ones find nothing
    b.read(0, 0, &mut page, SHORT).unwrap();
    let c = Pool::join(recv(&name), [1; 16], 2, 1 << 30).unwrap();
    assert_eq!(files(&name, "recv"), ["gone.0", "group", "pool.1", "pool.2"]);
    assert!(matches!(c.read(0, 0, &mut page, LONG), Err(GroupError::NeverArrived { .. })));
    b.read(0, 0, &mut page, SHORT).unwrap();
}

#[test]
fn of_four_processes_no_two_have_the_same_number() {
    let (_dir, name) = place();
    let first = SentGroup::join(&name).unwrap();
    let all: Vec<_> = (0..4).map(|_| command("numbers", &name).spawn().unwrap()).collect();
    let mut numbers = BTreeSet::new();
    for child in all {
        let out = child.wait_with_output().unwrap();
        let out = String::from_utf8(out.stdout).unwrap();
        let said = out.lines().find_map(|line| Some(line.split_once("said: ")?.1)).unwrap();
        numbers.extend(said.split(' ').map(|number| number.parse::<u32>().unwrap()));
    }
    assert_eq!(numbers, (1..=100).collect());
    drop(first);
    assert_eq!(end(&name, Role::Send).unwrap().members, 100);
}

/// Joins, leaves and ends as fast as it can.
fn churn(name: &GroupName) {
    let from = Instant::now();
    let (mut joined, mut n) = (0, u64::from(std::process::id()));
    while from.elapsed() < Duration::from_millis(800) {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        match n >> 61 {
            0 => match end(name, Role::Send) {
                Ok(_) | Err(GroupError::Alive { .. } | GroupError::NoGroup { .. }) => {}
                // the directory was removed and made anew while its lock was waited for
                Err(GroupError::Ended { .. }) => {}
                Err(e) => panic!("end: {e:?}"),
            },
            kind => {
                let mut one = SentGroup::join(name).unwrap();
                one.kept(&[[3; 16]; 9]).unwrap();
                one.news().unwrap();
                one.done(kind == 1).unwrap();
                joined += 1;
            }
        }
    }
    say(&joined.to_string());
}

#[test]
fn joining_leaving_and_ending_at_once_leaves_nothing_behind() {
    let (dir, name) = place();
    let all: Vec<_> = (0..4).map(|_| command("churn", &name).spawn().unwrap()).collect();
    for child in all {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    }
    match end(&name, Role::Send) {
        Ok(_) | Err(GroupError::NoGroup { .. }) => {}
        Err(e) => panic!("{e}"),
    }
    assert_eq!(files(&name, "send"), [""; 0]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// With a file system of 1 MiB.
fn full(name: &GroupName) {
    let mut pool = Pool::join(recv(name), [1; 16], 0, 1 << 30).unwrap();
    let batch = vec![5; 64 * 4096];
    let error = loop {
        if let Err(error) = pool.append(&batch) {
            break error;
        }
        assert!(pool.pages() < 1024);
    };
    assert!(matches!(error, GroupError::Full { .. }), "{error}");
    assert!(error.to_string().contains(&format!("{}", name.path(None).display())), "{error}");
    let kept = pool.pages();
    let mut page = [0; 4096];
    pool.read(0, kept - 1, &mut page, SHORT).unwrap();
    assert_eq!(page, [5; 4096]);
    assert!(matches!(pool.read(0, kept, &mut page, SHORT), Err(GroupError::NotYet { .. })));
    // the source in the same place
    let error = SentGroup::join(name).unwrap_err();
    assert!(matches!(error, GroupError::Full { .. }), "{error}");
    pool.finish(false).unwrap();
    let mut sent = SentGroup::join(name).unwrap();
    let mut other = SentGroup::join(name).unwrap();
    let batch = vec![[9; 16]; 4096];
    let mut said = 0;
    let error = loop {
        match sent.kept(&batch) {
            Ok(()) => said += 4096,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, GroupError::Full { .. }), "{error}");
    assert!(matches!(sent.kept(&batch), Err(GroupError::Stuck { .. })));
    let mut told = 0;
    while let Some(kept) = other.news().unwrap().kept.pop() {
        assert!(kept.first == told && kept.digests.iter().all(|digest| *digest == [9; 16]));
        told += kept.digests.len() as u64;
    }
    assert!((said..said + 4096).contains(&told), "{told} of {said}");
    sent.done(true).unwrap(); // needs no room
    drop(other);
    end(name, Role::Send).unwrap();
    say("full");
}

#[test]
fn a_full_file_system_is_an_error_that_names_the_directory() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let small = dir.path().join("small");
    fs::create_dir(&small).unwrap();
    let scene = command("full", &GroupName::Path(small.join("g")));
    // in a mount namespace of its own, which ends with it
    let mut own = Command::new("unshare");
    let script = "PATH=$PATH:/usr/sbin:/sbin; mount -t tmpfs -o size=1m none \"$0\" && exec \"$@\"";
    own.args(["-m", "sh", "-c", script]).arg(&small).arg(scene.get_program());
    own.args(scene.get_args());
    own.envs(scene.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let out = own.output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && said.contains("said: full"), "{said}\n{out:?}");
}
