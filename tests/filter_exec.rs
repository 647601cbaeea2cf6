//! Filters outside of the program: the example, and everything that a filter can do wrong.

#![allow(clippy::unwrap_used)] // a test that cannot go on says where

mod support;

use pageherd::filter::codec::{Codec, CodecError, MOST, PAGE};
use pageherd::transport::filter_exec::{
    Direction, ExecCodec, ExecFilter, FilterError, MOST_IN_FLIGHT,
};
use std::time::{Duration, Instant};
use support::example;

const SOON: Duration = Duration::from_secs(10);

/// Speaks as a filter does, in the words of a shell.
const HELLO: &str = "read -r line; echo 'pageherd-filter 1';";

fn start(
    command: &str,
    direction: Direction,
    timeout: Duration,
) -> Result<ExecFilter, FilterError> {
    ExecFilter::start(command, direction, timeout)
}

fn words(direction: Direction) -> ExecFilter {
    start(example("filter_words").to_str().unwrap(), direction, SOON).unwrap()
}

fn shell(script: &str) -> ExecFilter {
    start(&format!("{HELLO} {script}"), Direction::Pack, SOON).unwrap()
}

/// The error of a filter that is asked once, and what it says.
fn told(script: &str) -> String {
    let mut out = Vec::new();
    let error = shell(script).ask(&[0; PAGE], PAGE, &mut out).unwrap_err().to_string();
    assert!(error.contains("pageherd-filter"), "the command is not named: {error}");
    error.split_once("' ").unwrap_or_default().1.rsplit("' ").next().unwrap().to_owned()
}

fn noise(len: usize) -> Vec<u8> {
    let mut x = 1_u64;
    let next = || {
        x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        x.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn the_example_packs_and_unpacks() {
    let (pack, unpack) =
        (ExecCodec::new(words(Direction::Pack)), ExecCodec::new(words(Direction::Unpack)));
    let mut mixed = noise(MOST);
    mixed[PAGE..MOST - PAGE].fill(9);
    for pages in [vec![0; PAGE], vec![1; MOST], mixed] {
        let (mut packed, mut back) = (vec![3], vec![7; pages.len()]);
        assert!(pack.pack(&pages, None, &mut packed).unwrap());
        assert!(packed.len() < pages.len());
        unpack.unpack(&packed, None, &mut back).unwrap();
        assert!(back == pages);
    }
    let mut packed = vec![3];
    assert!(!pack.pack(&noise(65536), None, &mut packed).unwrap(), "noise became smaller");
    assert!(packed.is_empty());
    assert!(matches!(pack.unpack(&[1], None, &mut [0; PAGE]), Err(CodecError::Failed { .. })));
    pack.finish().unwrap();
    unpack.finish().unwrap();
}

#[test]
fn a_full_pipe_in_both_directions_is_no_standstill() {
    // it reads and writes 4 MiB while nobody takes an answer
    let mut filter = words(Direction::Pack);
    let (pages, mut out) = (noise(MOST), Vec::new());
    let mut halves = pages.clone();
    halves[..MOST / 2].fill(0);
    for _ in 0..3 {
        for i in 0..MOST_IN_FLIGHT {
            filter.submit(if i % 2 == 0 { &halves } else { &pages }, MOST).unwrap();
        }
        assert!(matches!(filter.submit(&pages, MOST), Err(FilterError::Misused { .. })));
        for i in 0..MOST_IN_FLIGHT {
            let smaller = filter.answer(&mut out).unwrap();
            assert_eq!((smaller, out.is_empty()), (i % 2 == 0, i % 2 != 0), "answer {i}");
        }
    }
    assert!(matches!(filter.answer(&mut out), Err(FilterError::Misused { .. })));
    filter.submit(&pages, MOST).unwrap();
    filter.finish().unwrap();
}

#[test]
fn a_filter_that_never_reads_or_never_answers_is_killed_in_time() {
    for script in ["sleep 60", "cat >/dev/null", "printf '\\4\\0'; sleep 60"] {
        let begun = Instant::now();
        let mut filter =
            start(&format!("{HELLO} {script}"), Direction::Pack, Duration::from_millis(300))
                .unwrap();
        let pages = vec![0; MOST]; // more than a pipe holds
        let error = filter.ask(&pages, MOST, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, FilterError::Hangs { .. }), "{script}: {error}");
        let again = filter.ask(&pages, MOST, &mut Vec::new()).unwrap_err();
        assert!(matches!(again, FilterError::Misused { .. } | FilterError::Gone { .. }));
        assert!(begun.elapsed() < SOON, "{script}: it was waited for");
    }
    let error = start("sleep 60", Direction::Pack, Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, FilterError::Hangs { .. }), "{error}");
}

#[test]
fn the_end_of_a_filter_is_told_with_its_status() {
    assert_eq!(told("exit 3"), "ended with status 3 before all was done");
    assert_eq!(told("exit 0"), "ended with status 0 before all was done");
    assert_eq!(told("kill -9 $$"), "ended with signal 9 (SIGKILL) before all was done");
    assert_eq!(told("printf '\\1'; exit 4"), "ended with status 4 before all was done");
    let error = start("no-such-filter 2>/dev/null", Direction::Pack, SOON).unwrap_err();
    assert!(error.to_string().contains("there is no such program"), "{error}");
    // well until the last moment
    let error = shell("cat >/dev/null; exit 5").finish().unwrap_err();
    assert!(error.to_string().ends_with("ended with status 5"), "{error}");
    shell("cat >/dev/null").finish().unwrap();
}

#[test]
fn a_filter_that_closes_a_pipe_and_lives_on_is_told_and_killed() {
    assert!(told("exec >/dev/null; sleep 60").starts_with("closed its standard output"));
}

#[test]
fn answers_that_cannot_be_are_refused_as_soon_as_they_are_announced() {
    // a length of 4 GiB, and nothing behind it
    let error = told("printf '\\377\\377\\377\\377'; sleep 60");
    assert_eq!(error, "announced an answer of 4294967295 bytes where 4096 are the most");
    let error = told("printf '\\1\\20\\0\\0'; sleep 60");
    assert_eq!(error, "announced an answer of 4097 bytes where 4096 are the most");
    // as long as the pages: allowed, and of no use
    let same = shell("printf '\\0\\20\\0\\0'; head -c 4096 /dev/zero; cat >/dev/null");
    let mut out = Vec::new();
    assert!(!ExecCodec::new(same).pack(&[0; PAGE], None, &mut out).unwrap());

    for (script, len) in [("printf '\\377\\17\\0\\0'", 4095), ("printf '\\0\\0\\0\\0'", 0)] {
        let script = format!("{HELLO} {script}; sleep 60");
        let mut unpack = start(&script, Direction::Unpack, SOON).unwrap();
        let error = unpack.ask(&[1], PAGE, &mut out).unwrap_err().to_string();
        let expected = format!("announced an answer of {len} bytes where 4096 are expected");
        assert!(error.ends_with(&expected), "{error}");
    }
}

#[test]
fn what_nobody_asked_for_is_refused() {
    assert_eq!(told("printf '\\0\\0\\0\\0more'; sleep 60"), "wrote what nobody asked for");
    let error = shell("cat >/dev/null; echo bye").finish().unwrap_err();
    assert!(matches!(error, FilterError::Unasked { .. }), "{error}");
}

#[test]
fn a_program_that_is_no_filter_is_told_by_its_first_line() {
    for command in ["cat", "head -c 100000 /dev/zero", "echo; sleep 60", "echo pageherd-filter 2"] {
        let begun = Instant::now();
        let error = start(command, Direction::Pack, SOON).unwrap_err();
        assert!(matches!(error, FilterError::Hello { .. }), "{command}: {error}");
        assert!(begun.elapsed() < SOON / 2, "{command}");
    }
    let error = start("printf '\\033[2J\\n'", Direction::Pack, SOON).unwrap_err().to_string();
    assert!(!error.contains('\x1b'), "it reaches the terminal: {error:?}");
    let error = start("gzip", Direction::Pack, Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, FilterError::Hangs { .. }), "{error}");
}

#[test]
fn a_filter_has_three_descriptors_and_knows_its_direction() {
    let check = "[ \"$(ls /proc/self/fd | tr '\\n' ' ')\" = '0 1 2 3 ' ] && \
                 [ \"$line\" = \"pageherd-filter 1 $PAGEHERD_FILTER\" ] && cat >/dev/null";
    // the fourth is the folder that `ls` reads; what our parent left open: `sys::spawn`
    for direction in [Direction::Pack, Direction::Unpack] {
        start(&format!("{HELLO} {check}"), direction, SOON).unwrap().finish().unwrap();
    }
}

#[test]
fn a_whole_pipeline_ends_with_its_filter() {
    let mark = format!("60.{}", std::process::id());
    let filter = start(&format!("{HELLO} sleep {mark} | sleep {mark}"), Direction::Pack, SOON);
    let sleepers = || {
        let folders = std::fs::read_dir("/proc").unwrap().flatten();
        folders
            .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .filter(|line| line == format!("sleep\0{mark}\0").as_bytes())
            .count()
    };
    let filter = filter.unwrap();
    while sleepers() < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(filter);
    let begun = Instant::now();
    while sleepers() > 0 {
        assert!(begun.elapsed() < SOON, "orphans are left");
        std::thread::sleep(Duration::from_millis(5));
    }
}
