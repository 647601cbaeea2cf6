//! Tests of groups: real directories, threads, processes and kills.

mod pool;
mod process;
mod sent;

use super::dir::{GroupDir, GroupName, Role};
use super::inside::Inside;
use super::*;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use tempfile::TempDir;

const SHORT: Duration = Duration::from_millis(30);
const LONG: Duration = Duration::from_secs(20);

/// A group in a directory that goes with the test.
fn place() -> (TempDir, GroupName) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let name = GroupName::Path(dir.path().join("g"));
    (dir, name)
}

fn recv(name: &GroupName) -> GroupDir {
    GroupDir::open(name, Role::Recv, None).unwrap()
}

/// The files of one end.
fn files(name: &GroupName, role: &str) -> Vec<String> {
    let Ok(list) = fs::read_dir(name.path(None).join(role)) else { return Vec::new() };
    let mut names: Vec<_> = list.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn names_are_words_or_paths() {
    for good in ["web", "a.b_c-9", "/x/y", "./y", "y/", "/dev/shm/ä"] {
        assert!(good.parse::<GroupName>().is_ok(), "{good}");
    }
    for bad in ["", ".", "..", ".web", "a b", "ä", "a\n", "/", "x/..", &"x".repeat(101)] {
        let error = bad.parse::<GroupName>().unwrap_err();
        assert!(matches!(error, GroupError::Name { .. }), "{bad}: {error}");
    }
    let uid = nix::unistd::geteuid();
    let path = "web".parse::<GroupName>().unwrap().path(None);
    assert_eq!(path, Path::new(&format!("/dev/shm/pageherd-{uid}/web")));
}

#[test]
fn a_group_with_a_short_name_is_closed_to_others_and_goes_wholly() {
    let name: GroupName = format!("test-{}", std::process::id()).parse().unwrap();
    let (sent, path) = (SentGroup::join(&name).unwrap(), name.path(None));
    for dir in [&path, &path.join("send"), path.parent().unwrap()] {
        assert_eq!(fs::metadata(dir).unwrap().mode() & 0o7777, 0o700, "{dir:?}");
    }
    for file in ["group", "log.0"] {
        assert_eq!(fs::metadata(path.join("send").join(file)).unwrap().mode() & 0o7777, 0o600);
    }
    assert!(matches!(end(&name, Role::Send), Err(GroupError::Alive { members: 1, .. })));
    assert!(matches!(end(&name, Role::Recv), Err(GroupError::NoGroup { .. })));
    sent.done(true).unwrap();
    assert_eq!(end(&name, Role::Send).unwrap(), Ended { members: 1, bytes: 16 });
    assert!(!path.exists());
    assert!(matches!(end(&name, Role::Send), Err(GroupError::NoGroup { .. })));
}

#[test]
fn a_directory_that_others_can_enter_is_refused() {
    let (dir, name) = place();
    let path = name.path(None);
    let refused = |what: &str| {
        let error = GroupDir::open(&name, Role::Recv, None).unwrap_err();
        assert!(matches!(error, GroupError::NotOurs { .. }), "{what}: {error}");
        assert!(error.to_string().contains(what), "{what}: {error}");
    };
    fs::create_dir(&path).unwrap();
    for mode in [0o755, 0o710, 0o701, 0o1777] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        refused(&format!("{mode:04o}"));
    }
    if is_root() {
        chown(&path, Some(1234), None).unwrap();
        refused("belongs to user 1234");
        chown(&path, Some(0), None).unwrap();
    }
    // the part within it as well
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    symlink(dir.path(), path.join("send")).unwrap();
    let error = SentGroup::join(&name).unwrap_err();
    assert!(error.to_string().contains("symbolic link"), "{error}");
    fs::remove_file(path.join("send")).unwrap();
    fs::remove_dir(&path).unwrap();
    symlink(dir.path(), &path).unwrap();
    refused("symbolic link");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    refused("no directory");
    let nowhere = GroupName::Path(dir.path().join("no/such/g"));
    assert!(GroupDir::open(&nowhere, Role::Recv, None).unwrap_err().is_not_found());
}

#[test]
fn root_makes_a_directory_for_the_user_that_it_becomes() {
    if is_root() {
        let (_dir, name) = place();
        let group = GroupDir::open(&name, Role::Recv, Some(1234)).unwrap();
        assert_eq!(group.writable().metadata().unwrap().uid(), 1234);
        assert!(GroupDir::open(&name, Role::Recv, Some(1234)).is_ok());
        assert!(matches!(GroupDir::open(&name, Role::Recv, None), Err(GroupError::NotOurs { .. })));
    }
}

#[test]
fn a_lock_that_is_not_given_back_is_told() {
    let (_dir, name) = place();
    let group = recv(&name);
    let inside = group.enter(true).unwrap();
    let patience = SHORT;
    let second = Inside::lock(&inside.dir, &inside.path, Role::Recv, patience);
    assert!(matches!(second, Err(GroupError::Busy { .. })));
    let (dir, path) = (inside.dir.try_clone().unwrap(), inside.path.clone());
    group.remove();
    drop(inside);
    assert!(Inside::lock(&dir, &path, Role::Recv, patience).unwrap().is_none(), "it is no more");
}

#[test]
fn garbage_in_the_directory_does_no_harm() {
    let (_dir, name) = place();
    for role in [Role::Send, Role::Recv] {
        let (folder, live) = match role {
            Role::Send => ("send", "log"),
            Role::Recv => ("recv", "pool"),
        };
        let inside = GroupDir::open(&name, role, None).unwrap().enter(true).unwrap();
        let path = inside.path.clone();
        drop(inside);
        for (file, content) in [
            (format!("{live}.9"), "x".repeat(5000)),
            (format!("{live}.007"), String::new()),
            (format!("{live}.4294967295"), String::new()),
            (format!("{live}.99999999999999999999"), String::new()),
            (format!("{live}."), String::new()),
            ("done.5".into(), "short".into()),
            ("new.3".into(), "left by one that was killed".into()),
            ("new.group".into(), "the same".into()),
            ("notes".into(), "of the user".into()),
        ] {
            fs::write(path.join(file), content).unwrap();
        }
        fs::create_dir(path.join(format!("{live}.7"))).unwrap();
        symlink("/etc/passwd", path.join(format!("{live}.6"))).unwrap();
        let fifo = path.join(format!("{live}.8"));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        match role {
            Role::Send => {
                fs::write(path.join("group"), "rubbish").unwrap();
                let damaged = SentGroup::join(&name).unwrap_err();
                assert!(matches!(damaged, GroupError::Damaged { .. }), "{damaged}");
                fs::remove_file(path.join("group")).unwrap();
                fs::write(path.join("done.5"), "short").unwrap();
                // it has no card, so nothing there is of a group: it begins anew
                let mut a = SentGroup::join(&name).unwrap();
                fs::write(path.join("done.77"), "x".repeat(1000)).unwrap();
                assert_eq!((a.member(), a.news().unwrap()), (0, sent::nothing()));
                a.done(true).unwrap();
            }
            Role::Recv => {
                fs::remove_file(path.join("done.5")).unwrap();
                let mut pool = Pool::join(recv(&name), [1; 16], 0, 1 << 20).unwrap();
                for member in [6, 7, 8] {
                    let error = pool.read(member, 0, &mut [0; 4096], SHORT).unwrap_err();
                    assert!(matches!(error, GroupError::Io { .. }), "{member}: {error}");
                }
                assert_eq!(pool.append(&[7; 4096]).unwrap(), 0);
                pool.finish(true).unwrap();
            }
        }
        end(&name, role).unwrap();
        assert!(files(&name, folder).contains(&"notes".to_owned()), "what is not ours stays");
        assert!(!path.join("group").exists());
    }
    assert!(File::open("/etc/passwd").is_ok());
}
