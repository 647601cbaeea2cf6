//! A process as a feed. Its page table tells what is unused, zero or shared; its content is read
//! from its memory, and where a page is not in the page table but in the file behind it, from that
//! file: reading it through the process would put it into its page table, and fill holes of tmpfs.

use super::{Fact, Feed, Frame, Space, starts};
use crate::abi::pagemap::{Entry, State};
use crate::abi::vma::{FileId, Vma};
use crate::base::{Hva, PAGE_SIZE};
use crate::source::Fate;
use crate::sys::pagemap;
use crate::sys::process::{Memory, Process};
use crate::sys::vm;
use crate::wire::record::as_label;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

/// Some or all of a process's memory, to be sent.
#[derive(Debug)]
pub struct ProcessFeed {
    process: Process,
    blocks: Vec<Block>,
    /// First page of each block, and the end.
    starts: Vec<u64>,
    memory: OnceLock<Option<Memory>>,
    left_out: Vec<String>,
}

#[derive(Debug)]
struct Block {
    vma: Vma,
    file: OnceLock<Option<File>>,
}

/// Why a mapping is no memory that could be sent.
fn is_no_memory(vma: &Vma) -> bool {
    let device = vma.flags.is_some_and(|flags| flags.device);
    let name = vma.name.as_str();
    let special = name.starts_with("[vvar") || name.starts_with("[vsyscall");
    let node = name.starts_with("/dev/")
        && !["/dev/shm/", "/dev/zero", "/dev/hugepages/"]
            .iter()
            .any(|known| name.starts_with(known));
    device || special || node
}

impl ProcessFeed {
    /// The mappings `blocks` of a process. Those of devices and of the kernel's own data are left
    /// out: they are no memory of the process.
    pub fn new(process: Process, blocks: Vec<Vma>) -> Self {
        let (out, blocks): (Vec<Vma>, Vec<Vma>) = blocks.into_iter().partition(is_no_memory);
        let starts = starts(blocks.iter().map(|vma| vma.pages.pages()));
        let blocks = blocks.into_iter().map(|vma| Block { vma, file: OnceLock::new() }).collect();
        let left_out = out.into_iter().map(|vma| vma.name).collect();
        Self { process, blocks, starts, memory: OnceLock::new(), left_out }
    }

    /// The process.
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// Names of the mappings that are no memory.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    fn memory(&self) -> io::Result<&Memory> {
        self.memory
            .get_or_init(|| self.process.memory().ok())
            .as_ref()
            .ok_or_else(|| io::Error::from(io::ErrorKind::PermissionDenied))
    }

    /// The pieces of `pages` pages from `first` on, by block: which block, its page there, how many.
    fn pieces(&self, first: u64, pages: u64) -> impl Iterator<Item = (usize, u64, u64)> + '_ {
        let (mut at, end) = (first, first.saturating_add(pages));
        let mut block = self.starts.partition_point(|&start| start <= first).saturating_sub(1);
        std::iter::from_fn(move || {
            while at < end && block < self.blocks.len() {
                let (start, stop) = (self.starts[block], self.starts[block + 1]);
                if at < stop {
                    let piece = (block, at - start, stop.min(end) - at);
                    at += piece.2;
                    return Some(piece);
                }
                block += 1;
            }
            None
        })
    }

    fn read_file(&self, block: usize, page: u64, out: &mut [u8]) -> io::Result<bool> {
        let Block { vma, file } = &self.blocks[block];
        let Some(file) = file.get_or_init(|| self.process.mapped_file(vma).ok()) else {
            return Ok(false);
        };
        let mut done = 0;
        let at = vma.page_in_file(vma.pages.start + page) * PAGE_SIZE;
        while done < out.len() {
            match file.read_at(&mut out[done..], at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        out[done..].fill(0); // behind the end of the file there is nothing
        Ok(true)
    }

    /// Pages that nobody else maps are read by number, which is faster; that it was still the same
    /// process is asked at the end ([`Feed::is_there`]).
    ///
    /// Only those: `process_vm_readv` pins what it reads, and pinning an anonymous page that is
    /// shared gives the process a copy of its own first (mm/gup.c, `gup_must_unshare`, since 5.19).
    /// It would break the very sharing that is to be kept. `/proc/PID/mem` does not pin.
    fn read_own(&self, block: usize, page: u64, out: &mut [u8]) -> io::Result<()> {
        let at = Hva::of_page(self.blocks[block].vma.pages.start + page);
        match vm::read(self.process.pid(), &[(at, out.len())], out) {
            Ok(read) if read == out.len() => Ok(()),
            // what is mapped without the right to read needs the descriptor
            _ => self.read_memory(block, page, out),
        }
    }

    fn read_memory(&self, block: usize, page: u64, out: &mut [u8]) -> io::Result<()> {
        let at = Hva::of_page(self.blocks[block].vma.pages.start + page);
        let mut done = 0;
        let memory = self.memory()?;
        while done < out.len() {
            match memory.read(Hva(at.0 + done as u64), &mut out[done..]) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::NotFound)),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Where the content of a page is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It is known to be zero; reading it would map it.
    Nowhere,
    File,
    /// Nobody else maps it.
    Own,
    Memory,
}

impl Way {
    const fn of(fact: Fact) -> Self {
        match fact {
            Fact::Unused | Fact::Zero => Self::Nowhere,
            Fact::File => Self::File,
            Fact::Frame { shared: false, .. } => Self::Own,
            Fact::Unknown | Fact::Frame { .. } => Self::Memory,
        }
    }
}

/// Is what was never touched zero? Not so in mappings of the kernel's own, such as `[vdso]`: their
/// pages are put into the page table when they are used (mm/mmap.c, special_mapping_fault).
fn is_anonymous(vma: &Vma) -> bool {
    let known = ["[heap]", "[stack", "[anon"];
    let own = vma.name.starts_with('[') && !known.iter().any(|name| vma.name.starts_with(name));
    vma.file.is_none() && !vma.shared && !own
}

fn fact(vma: &Vma, entry: Entry, zero: u64) -> Fact {
    let anonymous = is_anonymous(vma);
    match entry.state() {
        // without CAP_SYS_ADMIN every frame has the number 0
        State::Present { pfn, .. } if pfn.0 == 0 => Fact::Unknown,
        State::Present { pfn, .. } if pfn.0 == zero => Fact::Zero,
        State::Present { pfn, exclusive, file } => Fact::Frame {
            frame: Frame { space: Space::Physical, number: pfn.0 },
            shared: !exclusive,
            clean: file && !vma.shared,
        },
        State::Absent | State::Marker if anonymous => Fact::Unused,
        State::Absent | State::Marker => Fact::File,
        State::Swapped | State::InTransit => Fact::Unknown,
    }
}

impl Feed for ProcessFeed {
    fn blocks(&self) -> Vec<(String, u64)> {
        self.blocks.iter().map(|b| (as_label(&b.vma.name), b.vma.pages.pages())).collect()
    }

    fn facts(&self, first: u64, out: &mut [Fact]) -> io::Result<()> {
        let zero = pagemap::zero_page().0;
        let mut entries = vec![Entry::default(); out.len()];
        let mut done = 0;
        for (block, page, pages) in self.pieces(first, out.len() as u64) {
            let vma = &self.blocks[block].vma;
            let to = done + usize::try_from(pages).unwrap_or(0);
            let here = &mut entries[done..to];
            if self.process.entries(vma.pages.start + page, here)? < here.len() {
                return Err(io::Error::from(io::ErrorKind::NotFound));
            }
            for (fact_out, entry) in out[done..to].iter_mut().zip(here) {
                *fact_out = fact(vma, *entry, zero);
            }
            done = to;
        }
        Ok(())
    }

    fn read(&self, first: u64, facts: &[Fact], out: &mut [u8]) -> io::Result<()> {
        let size = usize::try_from(PAGE_SIZE).unwrap_or(4096);
        let (mut rest, mut facts) = (out, facts);
        for (block, page, pages) in self.pieces(first, facts.len() as u64) {
            let mut at = page;
            while at < page + pages {
                let way = Way::of(facts[0]);
                let most = usize::try_from(page + pages - at).unwrap_or(0);
                let run = facts[..most].iter().take_while(|&&fact| Way::of(fact) == way).count();
                let (here, after) = rest.split_at_mut(run * size);
                match way {
                    Way::Nowhere => here.fill(0),
                    Way::File if self.read_file(block, at, here)? => {}
                    Way::Own => self.read_own(block, at, here)?,
                    Way::File | Way::Memory => self.read_memory(block, at, here)?,
                }
                (rest, facts, at) = (after, &facts[run..], at + run as u64);
            }
        }
        Ok(())
    }

    fn file(&self, page: u64) -> Option<(FileId, u64)> {
        let (block, page, _) = self.pieces(page, 1).next()?;
        let vma = &self.blocks[block].vma;
        let file = vma.file.filter(|_| !vma.shared)?;
        Some((file, vma.page_in_file(vma.pages.start + page)))
    }

    fn is_there(&self) -> bool {
        self.process.fate() == Fate::Alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mapping::{Mapping, memfd};

    /// Our own memory as a feed: the blocks of these mappings.
    fn feed(of: &[&Mapping]) -> ProcessFeed {
        let process = Process::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        let maps = process.maps().unwrap();
        let cut = |mapping: &&Mapping| {
            let here = mapping.pages();
            maps.iter()
                .filter(|vma| !vma.pages.intersect(here).is_empty())
                .map(|vma| {
                    let pages = vma.pages.intersect(here);
                    Vma { file_page: vma.page_in_file(pages.start), pages, ..vma.clone() }
                })
                .collect::<Vec<_>>()
        };
        ProcessFeed::new(process, of.iter().flat_map(cut).collect())
    }

    #[test]
    fn a_process_keeps_the_contract_and_its_holes() {
        let mut anonymous = Mapping::anonymous(8).unwrap();
        anonymous.write(2 * 4096, &[7; 4096]);
        anonymous.touch(3);
        let file = memfd("feed", 8).unwrap();
        let mut shared = Mapping::shared_file(&file, 8).unwrap();
        file.write_all_at(&[8; 4096], 5 * 4096).unwrap(); // in no page table
        shared.write(6 * 4096, &[9; 4096]);
        let mut private = Mapping::private_file(&file, 8).unwrap();
        private.write(0, &[5; 4096]);
        private.touch(5);
        let mut content = vec![0u8; 24 * 4096];
        for (page, byte) in [(2, 7), (13, 8), (14, 9), (16, 5), (21, 8), (22, 9)] {
            content[page * 4096..(page + 1) * 4096].fill(byte);
        }
        let feed = feed(&[&anonymous, &shared, &private]);
        super::super::contract::holds(&feed, &content);
        let mut facts = [Fact::Unknown; 24];
        feed.facts(0, &mut facts).unwrap();
        assert_eq!(facts[0], Fact::Unused);
        assert!(matches!(facts[2], Fact::Frame { shared: false, clean: false, .. }));
        assert_eq!(facts[3], Fact::Zero);
        assert_eq!(facts[13], Fact::File);
        assert!(matches!(facts[16], Fact::Frame { clean: false, .. }));
        assert!(matches!(facts[21], Fact::Frame { clean: true, .. }));
        assert_eq!(feed.file(21).map(|(_, page)| page), Some(5));
        assert_eq!(feed.file(13), None, "a shared mapping is written to");
        let blocks = std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
        assert_eq!(blocks, 24, "no hole was filled but the one that was written to privately");
    }

    #[test]
    fn a_process_that_ended_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(i32::try_from(child.id()).unwrap()).unwrap();
        let blocks = process.maps().unwrap();
        let feed = ProcessFeed::new(process, blocks);
        assert!(feed.is_there());
        child.kill().unwrap();
        child.wait().unwrap();
        let gone = feed.facts(0, &mut [Fact::Unknown; 2]).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        assert!(!feed.is_there());
    }
}
