//! The source's end.

use super::*;
use crate::store::group::sent::{Kept, News, Other};
use std::collections::BTreeSet;
use std::thread;
use std::time::Instant;

pub(super) fn nothing() -> News {
    News::default()
}

fn digest(member: u32, n: u64) -> [u8; 16] {
    let mut digest = [0; 16];
    digest[..4].copy_from_slice(&member.to_le_bytes());
    digest[8..].copy_from_slice(&n.to_le_bytes());
    digest
}

/// A member that has just begun or ended is seen at the next look.
fn soon() {
    thread::sleep(Duration::from_millis(60));
}

#[test]
fn what_one_has_written_the_others_learn_and_itself_does_not() {
    let (_dir, name) = place();
    let mut a = SentGroup::join(&name).unwrap();
    let mut b = SentGroup::join(&name).unwrap();
    assert_eq!((a.member(), b.member()), (0, 1));
    assert_eq!((a.id(), a.key()), (b.id(), b.key()));
    assert!(a.id() != [0; 16] && a.key() != [0; 32]);
    assert_eq!(b.news().unwrap(), nothing());
    a.kept(&[digest(0, 0), digest(0, 1)]).unwrap();
    let first = Kept { member: 0, first: 0, digests: vec![digest(0, 0), digest(0, 1)] };
    assert_eq!(b.news().unwrap().kept, [first]);
    a.kept(&[]).unwrap();
    assert_eq!(b.news().unwrap(), nothing());
    a.kept(&[digest(0, 2)]).unwrap();
    assert_eq!(b.news().unwrap().kept[0].first, 2);
    assert_eq!(b.others(), [Other { member: 0, pages: 3, done: false }]);
    assert_eq!(a.news().unwrap(), nothing());
}

#[test]
fn who_commits_leaves_its_log_and_who_does_not_takes_it_away() {
    let (_dir, name) = place();
    let mut a = SentGroup::join(&name).unwrap();
    let mut b = SentGroup::join(&name).unwrap();
    let mut c = SentGroup::join(&name).unwrap();
    let id = a.id();
    a.kept(&[digest(0, 0)]).unwrap();
    b.kept(&[digest(1, 0)]).unwrap();
    assert_eq!(c.news().unwrap().kept.len(), 2);
    a.kept(&[digest(0, 1)]).unwrap();
    a.done(true).unwrap();
    b.kept(&[digest(1, 1)]).unwrap();
    drop(b); // as if it had failed
    let news = c.news().unwrap();
    assert_eq!((news.kept.len(), &news.gone[..]), (1, &[1][..]), "told at once: {news:?}");
    soon();
    assert_eq!(c.news().unwrap(), nothing());
    assert_eq!(c.others(), [Other { member: 0, pages: 2, done: true }]);
    c.done(false).unwrap();
    assert_eq!(files(&name, "send"), ["done.0", "group"]);
    // a later one has all of it, and no number comes twice
    let mut d = SentGroup::join(&name).unwrap();
    assert_eq!((d.id(), d.member()), (id, 3));
    let news = d.news().unwrap();
    assert_eq!(
        news.kept,
        [Kept { member: 0, first: 0, digests: vec![digest(0, 0), digest(0, 1)] }]
    );
}

#[test]
fn a_group_of_which_nothing_is_left_is_gone() {
    let (_dir, name) = place();
    let a = SentGroup::join(&name).unwrap();
    let b = SentGroup::join(&name).unwrap();
    let (id, key) = (a.id(), a.key());
    drop((a, b));
    assert!(!name.path(None).exists());
    let c = SentGroup::join(&name).unwrap();
    assert!(c.id() != id && c.key() != key);
}

#[test]
fn a_group_that_nobody_needs_any_more_is_followed_by_another() {
    let (_dir, name) = place();
    let a = SentGroup::join(&name).unwrap();
    let id = a.id();
    a.done(true).unwrap();
    thread::sleep(Duration::from_millis(20));
    let b = SentGroup::join(&name).unwrap();
    assert_eq!(b.id(), id);
    // as long as somebody is alive it is not over, however long ago others finished
    let c = SentGroup::join_after(&name, Duration::ZERO).unwrap();
    assert_eq!(c.id(), id);
    drop(b);
    drop(c);
    thread::sleep(Duration::from_millis(1100)); // the kernel's clock of files ticks
    let d = SentGroup::join_after(&name, Duration::from_secs(1)).unwrap();
    assert!(d.id() != id);
    assert_eq!((d.member(), files(&name, "send")), (0, vec!["group".into(), "log.0".into()]));
}

#[test]
fn four_at_once_lose_nothing_and_invent_nothing() {
    const PAGES: u64 = 20_000;
    let (_dir, name) = place();
    let start = std::sync::Barrier::new(4);
    let numbers: BTreeSet<u32> = thread::scope(|scope| {
        let run = || {
            let mut group = SentGroup::join(&name).unwrap();
            start.wait();
            let me = group.member();
            let (mut mine, mut seen, mut by) = (0, 0, [0; 4]);
            while mine < PAGES || seen < 3 * PAGES {
                let batch = (PAGES - mine).min(1 + mine % 97);
                let batch: Vec<_> = (mine..mine + batch).map(|n| digest(me, n)).collect();
                group.kept(&batch).unwrap();
                mine += batch.len() as u64;
                let news = group.news().unwrap();
                assert_eq!(news.gone, [0; 0]);
                for kept in news.kept {
                    let next = &mut by[kept.member as usize];
                    assert_eq!(kept.first, *next);
                    for digest_seen in kept.digests {
                        assert_eq!(digest_seen, digest(kept.member, *next));
                        *next += 1;
                        seen += 1;
                    }
                }
            }
            // who leaves now is done, not gone: others may not have read all of it yet
            group.done(true).unwrap();
            me
        };
        let all: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(numbers, (0..4).collect());
}

#[test]
fn a_million_pages_are_told_quickly_and_asking_for_nothing_costs_little() {
    const MILLION: u64 = 1_000_000;
    let (_dir, name) = place();
    let mut members: Vec<_> = (0..4).map(|_| SentGroup::join(&name).unwrap()).collect();
    let mut reader = members.pop().unwrap();
    let from = Instant::now();
    let batch = vec![[7; 16]; 256];
    for _ in 0..MILLION.div_ceil(256) {
        members[0].kept(&batch).unwrap();
    }
    let written = from.elapsed();
    let from = Instant::now();
    let mut told = 0;
    while told < MILLION {
        told += reader.news().unwrap().kept.iter().map(|k| k.digests.len() as u64).sum::<u64>();
    }
    let read = from.elapsed();
    let from = Instant::now();
    for _ in 0..10_000 {
        assert_eq!(reader.news().unwrap(), nothing());
    }
    let idle = from.elapsed() / 10_000;
    println!("10^6 digests: written in {written:?}, read in {read:?}; nothing new: {idle:?}");
    assert!(written + read < Duration::from_secs(5) && idle < Duration::from_micros(100));
}
