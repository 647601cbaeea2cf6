//! Where each page of one memory is: a table that costs little where pages follow one another.
//!
//! Pages are kept in chunks of 512. A chunk that has one place for all, or places that follow one
//! another, takes 24 bytes; any other takes 8 bytes a page. So a huge empty memory costs nearly
//! nothing, and a lying length cannot make it cost more.

use super::Place;

const CHUNK: usize = 512;

/// A place in eight bytes: what it is, which file, which page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Code(u64);

const PAGE_BITS: u32 = 40;
const FILE_BITS: u32 = 20;
/// Pages of a file or a pool that can be named: 4 PiB.
pub const MAX_PAGE: u64 = 1 << PAGE_BITS;
/// Files that can be named.
pub const MAX_FILE: u32 = 1 << FILE_BITS;

impl Code {
    const NONE: Self = Self(0);

    fn new(place: Place) -> Self {
        let (tag, file, page) = match place {
            Place::Zero => (1u64, 0, 0),
            Place::Unused => (2, 0, 0),
            Place::Template { file, page } => (3, file, page),
            Place::Pool { page } => (4, 0, page),
            Place::Local { file, page } => (5, file, page),
            Place::Bytes => (6, 0, 0),
        };
        debug_assert!(page < MAX_PAGE && file < MAX_FILE);
        Self(tag << (PAGE_BITS + FILE_BITS) | u64::from(file) << PAGE_BITS | page)
    }

    fn place(self) -> Option<Place> {
        let page = self.0 & (MAX_PAGE - 1);
        let file = u32::try_from(self.0 >> PAGE_BITS & u64::from(MAX_FILE - 1)).unwrap_or(0);
        match self.0 >> (PAGE_BITS + FILE_BITS) {
            1 => Some(Place::Zero),
            2 => Some(Place::Unused),
            3 => Some(Place::Template { file, page }),
            4 => Some(Place::Pool { page }),
            5 => Some(Place::Local { file, page }),
            6 => Some(Place::Bytes),
            _ => None,
        }
    }

    fn after(self, pages: u64) -> Self {
        self.place().map_or(Self::NONE, |place| Self::new(place.after(pages)))
    }
}

#[derive(Clone, Debug)]
enum Chunk {
    /// Each page's place follows that of the page before it; `NONE` follows `NONE`.
    Run(Code),
    Each(Box<[Code; CHUNK]>),
}

impl Chunk {
    fn get(&self, at: usize) -> Code {
        match self {
            Self::Run(first) => first.after(at as u64),
            Self::Each(codes) => codes[at],
        }
    }

    fn each(&mut self) -> &mut [Code; CHUNK] {
        if let Self::Run(first) = *self {
            let mut codes = Box::new([Code::NONE; CHUNK]);
            for (i, code) in (0u64..).zip(codes.iter_mut()) {
                *code = first.after(i);
            }
            *self = Self::Each(codes);
        }
        match self {
            Self::Each(codes) => codes,
            Self::Run(_) => unreachable!("made above"),
        }
    }

    /// Folds a chunk whose places follow one another.
    fn fold(&mut self) {
        if let Self::Each(codes) = self
            && (1..).zip(&codes[1..]).all(|(i, code)| *code == codes[0].after(i))
        {
            *self = Self::Run(codes[0]);
        }
    }
}

/// The places of the pages `0..pages` of one memory.
#[derive(Clone, Debug)]
pub struct Places {
    pages: u64,
    known: u64,
    chunks: Vec<Chunk>,
}

/// Consecutive pages whose places follow one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// First page.
    pub page: u64,
    /// How many.
    pub pages: u64,
    /// Place of the first; `None` where nothing is known of them.
    pub place: Option<Place>,
}

impl Places {
    /// Of `pages` pages nothing is known yet.
    pub fn new(pages: u64) -> Self {
        let chunks = usize::try_from(pages.div_ceil(CHUNK as u64)).unwrap_or(usize::MAX);
        Self { pages, known: 0, chunks: vec![Chunk::Run(Code::NONE); chunks] }
    }

    /// How many pages it has.
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// Of how many no place is known.
    pub const fn missing(&self) -> u64 {
        self.pages - self.known
    }

    /// The place of a page, where it is known.
    pub fn get(&self, page: u64) -> Option<Place> {
        let (chunk, at) = split(page);
        self.chunks.get(chunk).filter(|_| page < self.pages)?.get(at).place()
    }

    /// The first of `pages` pages from `page` on whose place is known.
    pub fn first_known(&self, page: u64, pages: u64) -> Option<u64> {
        let end = page.saturating_add(pages).min(self.pages);
        let mut at = page;
        while at < end {
            let (index, first) = split(at);
            let here = ((CHUNK - first) as u64).min(end - at);
            if !matches!(self.chunks[index], Chunk::Run(Code::NONE)) {
                let found = (at..at + here).find(|&page| self.get(page).is_some());
                if found.is_some() {
                    return found;
                }
            }
            at += here;
        }
        None
    }

    /// Sets the places of `pages` pages from `page` on, which follow `place`.
    ///
    /// # Panics
    /// Where there are no such pages.
    pub fn set(&mut self, page: u64, pages: u64, place: Place) {
        let end = page.checked_add(pages).filter(|&end| end <= self.pages);
        let end = end.unwrap_or_else(|| panic!("pages beyond {}", self.pages));
        let mut at = page;
        while at < end {
            let (index, first) = split(at);
            let here = (CHUNK - first).min(usize::try_from(end - at).unwrap_or(CHUNK));
            let code = Code::new(place.after(at - page));
            let chunk = &mut self.chunks[index];
            if here == CHUNK {
                self.known += CHUNK as u64 - known_in(chunk);
                *chunk = Chunk::Run(code);
            } else {
                let codes = chunk.each();
                for (i, slot) in (0u64..).zip(&mut codes[first..first + here]) {
                    self.known += u64::from(*slot == Code::NONE);
                    *slot = code.after(i);
                }
                if first + here == CHUNK || at + here as u64 == self.pages {
                    self.tidy(index);
                }
            }
            at += here as u64;
        }
    }

    fn tidy(&mut self, index: usize) {
        // what lies beyond the last page goes on like a run, so that the last chunk folds too
        let inside = self.pages - index as u64 * CHUNK as u64;
        if inside < CHUNK as u64 {
            let inside = usize::try_from(inside).unwrap_or(CHUNK);
            let codes = self.chunks[index].each();
            for i in inside..CHUNK {
                codes[i] = codes[0].after(i as u64);
            }
        }
        self.chunks[index].fold();
    }

    /// All pages in order, as runs that are as long as they can be.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        let mut page = 0;
        std::iter::from_fn(move || {
            if page >= self.pages {
                return None;
            }
            let place = self.get(page);
            let first = place.map_or(Code::NONE, Code::new);
            let start = page;
            while page < self.pages {
                let (chunk, at) = split(page);
                let code = first.after(page - start);
                match &self.chunks[chunk] {
                    Chunk::Run(_) if at == 0 && self.chunks[chunk].get(0) == code => {
                        page = (page + CHUNK as u64).min(self.pages);
                    }
                    chunk if chunk.get(at) == code => page += 1,
                    _ => break,
                }
            }
            Some(Run { page: start, pages: page - start, place })
        })
    }
}

fn known_in(chunk: &Chunk) -> u64 {
    match chunk {
        Chunk::Run(Code::NONE) => 0,
        Chunk::Run(_) => CHUNK as u64,
        Chunk::Each(codes) => codes.iter().filter(|&&code| code != Code::NONE).count() as u64,
    }
}

fn split(page: u64) -> (usize, usize) {
    let chunk = usize::try_from(page / CHUNK as u64).unwrap_or(usize::MAX);
    (chunk, usize::try_from(page % CHUNK as u64).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place() -> impl Strategy<Value = Place> {
        prop_oneof![
            Just(Place::Zero),
            Just(Place::Unused),
            (0u64..5000).prop_map(|page| Place::Pool { page }),
            (0u32..3, 0u64..5000).prop_map(|(file, page)| Place::Template { file, page }),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_table(pages in 1u64..3000, sets in prop::collection::vec((0u64..3000, 1u64..1500, place()), 0..20)) {
            let mut table = Places::new(pages);
            let mut plain = vec![None; usize::try_from(pages).unwrap()];
            for (page, count, place) in sets {
                let page = page % pages;
                let count = count.min(pages - page);
                table.set(page, count, place);
                for i in 0..count {
                    plain[usize::try_from(page + i).unwrap()] = Some(place.after(i));
                }
            }
            for (page, place) in (0u64..).zip(&plain) {
                prop_assert_eq!(table.get(page), *place);
            }
            prop_assert_eq!(table.get(pages), None);
            let known = (0u64..).zip(&plain).find(|(page, p)| *page >= pages / 3 && p.is_some());
            prop_assert_eq!(table.first_known(pages / 3, pages), known.map(|(page, _)| page));
            prop_assert_eq!(table.missing(), plain.iter().filter(|p| p.is_none()).count() as u64);
            let mut at = 0;
            for run in table.runs() {
                prop_assert_eq!(run.page, at);
                for i in 0..run.pages {
                    prop_assert_eq!(table.get(at + i), run.place.map(|p| p.after(i)));
                }
                at += run.pages;
            }
            prop_assert_eq!(at, pages);
        }
    }

    #[test]
    fn long_runs_are_one_run_and_take_no_room() {
        let mut table = Places::new(1 << 28);
        table.set(0, 1 << 28, Place::Zero);
        assert_eq!(table.missing(), 0);
        assert_eq!(table.runs().count(), 1);
        let mut table = Places::new(1000);
        for page in 0..1000 {
            table.set(page, 1, Place::Pool { page: page + 7 });
        }
        assert_eq!(table.runs().count(), 1);
        assert!(table.chunks.iter().all(|chunk| matches!(chunk, Chunk::Run(_))));
    }
}
