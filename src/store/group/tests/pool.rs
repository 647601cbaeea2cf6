//! The destination's end.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

const PAGE: usize = 4096;
const MUCH: u64 = 1 << 30;

fn join(name: &GroupName, id: u8, member: u32) -> Result<Pool, GroupError> {
    Pool::join(recv(name), [id; 16], member, MUCH)
}

/// A page in which every eight bytes say whose it is and which.
fn stamp(member: u32, n: u64) -> Vec<u8> {
    ((n << 8) | u64::from(member)).to_le_bytes().repeat(PAGE / 8)
}

fn stamps(member: u32, pages: std::ops::Range<u64>) -> Vec<u8> {
    pages.flat_map(|n| stamp(member, n)).collect()
}

#[test]
fn pages_of_a_stream_without_a_group_are_found_again() {
    let mut pool = Pool::private(9000 * 4096);
    let border = 8192; // of two mappings
    let mut n = 0;
    while n < border + 200 {
        let many = 1 + n % 131;
        assert_eq!(pool.append(&stamps(0, n..n + many)).unwrap(), n);
        n += many;
    }
    assert_eq!((pool.pages(), pool.member()), (n, 0));
    for (from, many) in [(0, 1), (border - 1, 2), (border - 5, 100), (border, 1), (n - 1, 1)] {
        let mut out = vec![0; PAGE * usize::try_from(many).unwrap()];
        pool.read(0, from, &mut out, SHORT).unwrap();
        assert!(out == stamps(0, from..from + many), "{from}");
    }
    let mut page = [0; PAGE];
    for wrong in [n, u64::MAX, u64::MAX - 1, 1 << 52, u64::MAX / 4096] {
        let error = pool.read(0, wrong, &mut page, SHORT).unwrap_err();
        assert!(matches!(error, GroupError::NotYet { page, .. } if page == wrong), "{error}");
    }
    let error = pool.read(1, 0, &mut page, SHORT).unwrap_err();
    assert!(matches!(error, GroupError::Alone { member: 1 }), "{error}");
    assert!(pool.has(0, n).unwrap() && !pool.has(0, n + 1).unwrap() && !pool.has(1, 0).unwrap());
    let error = pool.append(&vec![0; 9000 * PAGE]).unwrap_err();
    assert!(matches!(error, GroupError::Limit { .. }), "{error}");
    assert_eq!(pool.pages(), n);
    pool.finish(true).unwrap();
}

#[test]
fn one_finds_what_another_has_brought_while_it_lives_and_after() {
    let (_dir, name) = place();
    let (mut a, mut b) = (join(&name, 1, 0).unwrap(), join(&name, 1, 1).unwrap());
    assert_eq!(a.append(&stamps(0, 0..3)).unwrap(), 0);
    assert_eq!(a.append(&stamps(0, 3..4)).unwrap(), 3);
    assert_eq!(b.append(&stamps(1, 0..1)).unwrap(), 0);
    let mut two = vec![0; 2 * PAGE];
    b.read(0, 2, &mut two, SHORT).unwrap();
    assert!(two == stamps(0, 2..4));
    let mut page = vec![0; PAGE];
    a.read(1, 0, &mut page, SHORT).unwrap();
    assert!(page == stamp(1, 0));
    a.read(0, 3, &mut page, SHORT).unwrap();
    assert!(page == stamp(0, 3));
    assert!(b.has(0, 4).unwrap() && !b.has(0, 5).unwrap() && !b.has(2, 0).unwrap());
    a.finish(true).unwrap();
    b.read(0, 0, &mut page, SHORT).unwrap();
    let c = join(&name, 1, 2).unwrap();
    c.read(0, 1, &mut page, SHORT).unwrap();
    assert!(page == stamp(0, 1) && c.has(0, 4).unwrap());
    // a page that it never had does not come any more: nobody waits
    let from = Instant::now();
    for n in [4, 3 << 40, u64::MAX] {
        let error = c.read(0, n, &mut page, LONG).unwrap_err();
        assert!(matches!(error, GroupError::NeverArrived { member: 0, .. }), "{error}");
    }
    assert!(from.elapsed() < Duration::from_secs(1));
    drop((b, c));
    assert_eq!(files(&name, "recv"), ["done.0", "gone.1", "gone.2", "group"]);
    assert!(matches!(join(&name, 1, 0), Err(GroupError::MemberTwice { member: 0, .. })));
    assert!(matches!(join(&name, 1, 2), Err(GroupError::MemberTwice { member: 2, .. })));
    assert!(matches!(join(&name, 1, u32::MAX), Err(GroupError::TooMany { .. })));
    assert_eq!(end(&name, Role::Recv).unwrap(), Ended { members: 1, bytes: 4 * 4096 });
}

#[test]
fn a_page_is_waited_for_as_long_as_it_can_come() {
    let (_dir, name) = place();
    let b = join(&name, 1, 1).unwrap();
    let mut page = vec![0; PAGE];
    let error = b.read(0, 0, &mut page, SHORT).unwrap_err();
    assert!(matches!(error, GroupError::WaitedTooLong { member: 0, page: 0, .. }), "{error}");
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(SHORT);
            let mut a = join(&name, 1, 0).unwrap();
            // each page comes within the wait that is allowed, all of them do not
            for n in 0..4 {
                thread::sleep(SHORT);
                a.append(&stamp(0, n)).unwrap();
            }
            a.finish(true).unwrap();
        });
        b.read(0, 3, &mut page, 3 * SHORT).unwrap();
    });
    assert!(page == stamp(0, 3));
    let c = join(&name, 1, 2).unwrap();
    let error = b.read(2, 0, &mut page, SHORT).unwrap_err();
    assert!(matches!(error, GroupError::WaitedTooLong { member: 2, .. }), "{error}");
    let from = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(SHORT);
            drop(c);
        });
        let error = b.read(2, 0, &mut page, LONG).unwrap_err();
        assert!(matches!(error, GroupError::NeverArrived { member: 2, page: 0 }), "{error}");
    });
    assert!(from.elapsed() < LONG / 4, "who gives up is not waited for");
    let d = join(&name, 1, 3).unwrap();
    assert!(matches!(d.read(2, 0, &mut page, LONG), Err(GroupError::NeverArrived { .. })));
}

#[test]
fn a_directory_is_of_one_group_at_a_time() {
    let (_dir, name) = place();
    let again = |id, idle| Pool::join_after(recv(&name), [id; 16], 0, MUCH, idle);
    let mut a = join(&name, 1, 0).unwrap();
    assert!(matches!(join(&name, 2, 0), Err(GroupError::OtherMove { live: 1, .. })));
    a.append(&stamp(0, 0)).unwrap();
    a.finish(true).unwrap();
    let error = join(&name, 2, 0).unwrap_err();
    assert!(matches!(error, GroupError::OtherMove { live: 0, .. }), "{error}");
    assert!(error.to_string().contains("--end"), "{error}");
    thread::sleep(Duration::from_millis(1100));
    let b = again(2, Duration::from_secs(1)).unwrap();
    assert_eq!(files(&name, "recv"), ["group", "pool.0"]);
    let c = join(&name, 2, 4).unwrap();
    drop(b);
    drop(c);
    assert!(!name.path(None).join("recv").exists(), "nothing is left of who failed");
    join(&name, 3, 0).unwrap().finish(true).unwrap();
}

#[test]
fn the_limit_is_that_of_the_group() {
    let (_dir, name) = place();
    let limit = 4 << 20;
    let open = |member| Pool::join(recv(&name), [1; 16], member, limit).unwrap();
    let (mut a, mut b) = (open(0), open(1));
    let mib = vec![1; 1 << 20];
    a.append(&mib).unwrap();
    a.append(&mib).unwrap();
    b.append(&mib).unwrap();
    b.append(&mib).unwrap();
    for _ in 0..2 {
        assert!(matches!(b.append(&[0; PAGE]), Err(GroupError::Limit { limit: l }) if l == limit));
    }
    assert_eq!(b.pages(), 512);
    drop(a); // and there is room again
    assert_eq!(b.append(&mib).unwrap(), 512);
}

#[test]
fn a_page_within_the_size_is_whole_for_whoever_reads_at_once() {
    for memory in ["/dev/shm", "/var/tmp"] {
        let dir = tempfile::tempdir_in(memory).unwrap();
        let name = GroupName::Path(dir.path().join("g"));
        let over = AtomicBool::new(false);
        let mut a = join(&name, 1, 0).unwrap();
        thread::scope(|scope| {
            let reader = |me: u32| {
                let b = join(&name, 1, me).unwrap();
                let (mut next, mut page) = (0, vec![0; PAGE]);
                let file = name.path(None).join("recv/pool.0");
                let file = File::open(file).unwrap();
                while !over.load(Ordering::Relaxed) {
                    // the newest page there is, the moment the size says so
                    let pages = file.metadata().unwrap().len() / 4096;
                    if pages > next {
                        next = pages;
                        b.read(0, pages - 1, &mut page, LONG).unwrap();
                        assert!(page == stamp(0, pages - 1), "page {} is torn", pages - 1);
                    }
                }
                next
            };
            let readers = [scope.spawn(move || reader(1)), scope.spawn(move || reader(2))];
            let from = Instant::now();
            let mut n = 0;
            while from.elapsed() < Duration::from_millis(700) {
                let many = 1 + n % 61;
                a.append(&stamps(0, n..n + many)).unwrap();
                n += many;
            }
            over.store(true, Ordering::Relaxed);
            for reader in readers {
                assert!(reader.join().unwrap() > 0);
            }
        });
    }
}
