//! A process that holds memory in known ways, for tests, benchmarks and the demo.
//!
//! ```text
//! holder [fork=N] [dirty=PAGES] [touch] [breed] REGION…
//! ```
//! A region is `KIND:ARGUMENT[,OPTION…]`, by which its pages are known by construction:
//!
//! | region | what it is |
//! |---|---|
//! | `anon:PAGES` | private memory, written |
//! | `ksm:PAGES` | the same, declared mergeable |
//! | `zero:PAGES` | private memory, read and never written: the zero page |
//! | `thp:PAGES` | private memory in transparent huge pages |
//! | `hugetlb:PAGES` | pages of hugetlb |
//! | `memfd:PAGES` | a memfd, mapped shared and written |
//! | `double:PAGES` | an empty memfd, mapped privately and written: there twice |
//! | `private:PATH` | a file, mapped privately and read |
//! | `shared:PATH` | a file, mapped shared and read |
//! | `swap:PAGES` | private memory, written and swapped out |
//! | `unmapped:PAGES` | a memfd, filled by writing, mapped shared, never touched |
//!
//! Options: `seed=S` (pages of equal seed and index are equal), `alike` (all pages are equal),
//! `write=PAGES` (write so many pages of a private file again), `tick` (one page is written every
//! few milliseconds, one after the other), `toss` (pages are given back and read again all the
//! time), `rush` (the same without a pause between).
//!
//! `dirty=PAGES` has each child write the first pages of the first region; `touch` has it read
//! every page of every region, since a fork leaves the page tables of files empty; `breed` forks a
//! child and ends the one before, all the time.
//!
//! When all is held it prints one line of JSON, with the children that it forked, and waits until
//! its standard input ends. If nothing changes by itself it takes commands there, a line each, and
//! answers each with the line `done`: `write REGION PAGES` (new content in the first pages),
//! `discard REGION PAGES`, `unmerge REGION`; regions are numbered from 0.

use memmap2::Advice;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getppid};
use pageherd::abi::pagemap::Entry;
use pageherd::base::{PAGE_SIZE, PageRange};
use pageherd::sys::fork::{Forked, die_with_parent, fork};
use pageherd::sys::mapping::{Mapping, memfd};
use pageherd::sys::pagemap;
use serde_json::json;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::time::Duration;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A region as asked for.
struct Wanted {
    kind: String,
    argument: String,
    seed: u64,
    alike: bool,
    write: u64,
    tick: bool,
    toss: bool,
    rush: bool,
}

/// A region that is held.
struct Held {
    kind: String,
    map: Mapping,
    wanted: Wanted,
    /// Kept open: a memfd lives as long as it is.
    _file: Option<File>,
}

fn main() -> Result<()> {
    die_with_parent()?;
    let (mut children, mut dirty, mut wanted) = (0u32, 0u64, Vec::new());
    let (mut touch, mut breed) = (false, false);
    for arg in std::env::args().skip(1) {
        match arg.split_once('=') {
            Some(("fork", n)) => children = n.parse()?,
            Some(("dirty", n)) => dirty = n.parse()?,
            None if arg == "touch" => touch = true,
            None if arg == "breed" => breed = true,
            _ => wanted.push(parse(&arg)?),
        }
    }
    let mut held = wanted.into_iter().map(hold).collect::<Result<Vec<_>>>()?;
    let mut pids = Vec::new();
    for child in 0..children {
        let (mut done, mut ready) = std::io::pipe()?;
        match fork()? {
            Forked::Parent(pid) => {
                drop(ready);
                done.read_exact(&mut [0])?;
                pids.push(pid);
            }
            Forked::Child => {
                drop(done);
                die_with_parent()?;
                for page in 0..dirty {
                    held[0].map.write(page * PAGE_SIZE, &content(0xd1e7 + u64::from(child), page));
                }
                for map in held.iter().filter(|_| touch).map(|h| &h.map) {
                    (0..map.pages().pages()).for_each(|page| {
                        map.touch(page);
                    });
                }
                ready.write_all(&[1])?;
                stay();
            }
        }
    }
    announce(&held, &pids)?;
    if breed || held.iter().any(|h| h.wanted.tick || h.wanted.toss) {
        change(&mut held, breed)
    } else {
        obey(&mut held)
    }
}

/// A child has nothing to do but to be there.
fn stay() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn parse(arg: &str) -> Result<Wanted> {
    let mut parts = arg.split(',');
    let (kind, argument) = parts
        .next()
        .and_then(|p| p.split_once(':'))
        .ok_or_else(|| format!("'{arg}' is no region"))?;
    let mut wanted = Wanted {
        kind: kind.to_owned(),
        argument: argument.to_owned(),
        seed: u64::from(std::process::id()) << 20,
        alike: false,
        write: 0,
        tick: false,
        toss: false,
        rush: false,
    };
    for option in parts {
        match option.split_once('=').unwrap_or((option, "")) {
            ("seed", seed) => wanted.seed = seed.parse()?,
            ("write", pages) => wanted.write = pages.parse()?,
            ("alike", "") => wanted.alike = true,
            ("tick", "") => wanted.tick = true,
            ("toss", "") => wanted.toss = true,
            ("rush", "") => (wanted.toss, wanted.rush) = (true, true),
            _ => return Err(format!("'{option}' is no option of a region").into()),
        }
    }
    Ok(wanted)
}

/// The page number `page` of a seed: no two are equal, none is zero.
fn content(seed: u64, page: u64) -> [u8; 4096] {
    let mut bytes = [0; 4096];
    let mut x = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (page + 1).wrapping_mul(0xd134_2543_de82_ef95);
    for word in bytes.chunks_exact_mut(8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        word.copy_from_slice(&x.to_le_bytes());
    }
    bytes
}

fn fill(map: &mut Mapping, wanted: &Wanted) {
    for page in 0..map.pages().pages() {
        map.write(page * PAGE_SIZE, &content(wanted.seed, if wanted.alike { 0 } else { page }));
    }
}

fn hold(wanted: Wanted) -> Result<Held> {
    let pages = || wanted.argument.parse::<u64>();
    let mut kept = None;
    let map = match wanted.kind.as_str() {
        "anon" | "ksm" | "zero" | "thp" | "swap" => {
            let mut map = Mapping::anonymous(pages()?)?;
            let huge = wanted.kind == "thp";
            map.advise(if huge { Advice::HugePage } else { Advice::NoHugePage })?;
            match wanted.kind.as_str() {
                "ksm" => map.advise(Advice::Mergeable)?,
                "zero" => (0..map.pages().pages()).for_each(|page| {
                    map.touch(page);
                }),
                _ => {}
            }
            if wanted.kind != "zero" {
                fill(&mut map, &wanted);
            }
            if wanted.kind == "swap" {
                swap_out(&map)?;
            }
            map
        }
        "hugetlb" => {
            let mut map = Mapping::hugetlb(pages()?)?;
            fill(&mut map, &wanted);
            map
        }
        "memfd" | "double" | "unmapped" => {
            let file = memfd("holder", pages()?)?;
            let mut map = match wanted.kind.as_str() {
                // each write fills a hole of the file with zeros and makes a copy of them
                "double" => Mapping::private_file(&file, pages()?)?,
                _ => Mapping::shared_file(&file, pages()?)?,
            };
            if wanted.kind == "unmapped" {
                for page in 0..pages()? {
                    file.write_all_at(&content(wanted.seed, page), page * PAGE_SIZE)?;
                }
            } else {
                fill(&mut map, &wanted);
            }
            kept = Some(file);
            map
        }
        "private" | "shared" => {
            let shared = wanted.kind == "shared";
            let file = OpenOptions::new().read(true).write(shared).open(&wanted.argument)?;
            let pages = file.metadata()?.len() / PAGE_SIZE;
            let mut map = match shared {
                true => Mapping::shared_file(&file, pages)?,
                false => Mapping::private_file(&file, pages)?,
            };
            for page in 0..pages {
                map.touch(page);
            }
            for page in 0..wanted.write {
                map.write(page * PAGE_SIZE, &content(wanted.seed, page));
            }
            map
        }
        other => return Err(format!("'{other}' is no kind of region").into()),
    };
    Ok(Held { kind: wanted.kind.clone(), map, wanted, _file: kept })
}

/// The kernel passes over pages that wait in another processor's list of new pages, and says
/// nothing: it is asked until none is left.
fn swap_out(map: &Mapping) -> Result<()> {
    let pagemap = File::open("/proc/self/pagemap")?;
    let mut entries = vec![Entry(0); usize::try_from(map.pages().pages())?];
    for _ in 0..100 {
        map.page_out()?;
        pagemap::read(&pagemap, map.pages().start, &mut entries)?;
        if !entries.iter().any(|e| e.is_present()) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err("the kernel does not swap it out: is there swap?".into())
}

fn announce(held: &[Held], children: &[i32]) -> Result<()> {
    let regions: Vec<_> = held
        .iter()
        .map(|h| {
            let pages = h.map.pages();
            let end = PageRange::of(pages.end, 0).address().0;
            json!({
                "kind": h.kind,
                "range": format!("{:x}-{end:x}", pages.address().0),
                "pages": pages.pages(),
            })
        })
        .collect();
    let mut out = std::io::stdout().lock();
    let line = json!({ "pid": std::process::id(), "children": children, "regions": regions });
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

/// Does what standard input says, until it ends.
fn obey(held: &mut [Held]) -> Result<()> {
    for (turn, line) in (1u64..).zip(std::io::stdin().lines()) {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let (verb, numbers) = words.split_first().ok_or("an empty command")?;
        let numbers =
            numbers.iter().map(|n| n.parse()).collect::<std::result::Result<Vec<u64>, _>>()?;
        let region = numbers.first().and_then(|&n| held.get_mut(usize::try_from(n).ok()?));
        let map = &mut region.ok_or_else(|| format!("'{line}' names no region"))?.map;
        match (*verb, &numbers[1..]) {
            ("write", &[pages]) => {
                for page in 0..pages {
                    map.write(page * PAGE_SIZE, &content(0xb0b_0000 + turn, page));
                }
            }
            ("discard", &[pages]) => map.discard(PageRange::of(0, pages))?,
            ("unmerge", []) => map.advise(Advice::Unmergeable)?,
            _ => return Err(format!("'{line}' is no command").into()),
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "done")?;
        out.flush()?;
    }
    Ok(())
}

/// Changes memory, for ever.
fn change(held: &mut [Held], breed: bool) -> Result<()> {
    // making content takes longer than writing it, and what is tossed is to come back fast
    let contents: Vec<Vec<[u8; 4096]>> = held
        .iter()
        .map(|h| {
            let pages = if h.wanted.toss { h.map.pages().pages() } else { 0 };
            let index = |page| if h.wanted.alike { 0 } else { page };
            (0..pages).map(|page| content(h.wanted.seed, index(page))).collect()
        })
        .collect();
    let rush = held.iter().any(|h| h.wanted.rush);
    let mut child = None;
    for turn in 0u64.. {
        if breed {
            child = Some(succeed(child)?);
        }
        for (h, contents) in held.iter_mut().zip(&contents) {
            let pages = h.map.pages().pages();
            if h.wanted.tick {
                h.map.write(turn % pages * PAGE_SIZE, &content(turn, turn));
            }
            if h.wanted.toss {
                // half of it goes and comes back, on other frames or as the file again
                let start = turn % 2 * (pages / 2);
                h.map.discard(PageRange::of(start, pages / 2))?;
                if rush {
                    std::thread::yield_now(); // let others take the frames
                }
                let again = start..start + pages / 2;
                for (page, content) in (0..).zip(contents).filter(|(p, _)| again.contains(p)) {
                    match h.kind.as_str() {
                        "private" => {
                            h.map.touch(page);
                        }
                        _ => h.map.write(page * PAGE_SIZE, content),
                    }
                }
            }
        }
        if !rush {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// A new child, and the end of the one before.
fn succeed(before: Option<Pid>) -> Result<Pid> {
    if let Some(pid) = before {
        kill(pid, Signal::SIGKILL)?;
        waitpid(pid, None)?;
    }
    let parent = Pid::this();
    match fork()? {
        Forked::Parent(pid) => Ok(Pid::from_raw(pid)),
        Forked::Child => {
            die_with_parent()?;
            // it may have ended before it could be told that we end with it
            if getppid() != parent {
                std::process::exit(0);
            }
            stay()
        }
    }
}
