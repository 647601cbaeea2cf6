//! A live process as a source.

use super::{Fate, PageSource};
use crate::abi::ksm::KsmStat;
use crate::abi::pagemap::Entry;
use crate::abi::vma::Vma;
use crate::base::{PAGE_SIZE, PageRange};
use crate::sys::cache;
use crate::sys::process::{Memory, Process, ProcessError};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

/// An address space this many times larger than what is resident is asked for its populated ranges
/// first: reading an empty stretch of pagemap costs about a third of a full one.
const SPARSE: u64 = 4;

/// Some or all of a process's memory.
#[derive(Debug)]
pub struct ProcessSource {
    process: Process,
    blocks: Vec<Vma>,
    sparse: bool,
    memory: OnceLock<Option<Memory>>,
}

impl ProcessSource {
    /// The blocks `blocks` of a process, which are some of its mappings.
    pub fn new(process: Process, blocks: Vec<Vma>, pagemap_scan: bool) -> Self {
        let size: u64 = blocks.iter().map(|b| b.pages.pages()).sum();
        let sparse = pagemap_scan && size / SPARSE > process.resident_pages();
        Self { process, blocks, sparse, memory: OnceLock::new() }
    }

    /// The process.
    pub const fn process(&self) -> &Process {
        &self.process
    }

    fn memory(&self) -> io::Result<&Memory> {
        self.memory
            .get_or_init(|| self.process.memory().ok())
            .as_ref()
            .ok_or_else(|| io::Error::from(io::ErrorKind::PermissionDenied))
    }
}

impl PageSource for ProcessSource {
    fn blocks(&self) -> &[Vma] {
        &self.blocks
    }

    fn facts(&self, first: u64, out: &mut [Entry]) -> io::Result<usize> {
        self.process.entries(first, out)
    }

    fn populated(&self, range: PageRange) -> Vec<PageRange> {
        let mut found = Vec::new();
        if self.sparse && self.process.populated(range, &mut found).is_ok() {
            return found;
        }
        vec![range]
    }

    fn is_huge(&self, page: u64) -> bool {
        self.process.is_huge(page).unwrap_or(false)
    }

    fn huge_pages(&self, range: PageRange) -> u64 {
        self.process.huge_pages(range).unwrap_or(0)
    }

    fn content(&self, page: u64, out: &mut [u8]) -> io::Result<usize> {
        self.memory()?.read(crate::base::Hva::of_page(page), out)
    }

    fn cached(&self, block: &Vma, pages: PageRange) -> Option<Vec<bool>> {
        block.file?;
        let file = self.process.mapped_file(block).ok().filter(cache::is_memory)?;
        let in_file = PageRange::of(block.page_in_file(pages.start), pages.pages());
        cache::resident(&file, in_file).ok()
    }

    fn file_content(&self, block: &Vma, page: u64, out: &mut [u8]) -> io::Result<usize> {
        let file = self.process.mapped_file(block)?;
        file.read_at(out, block.page_in_file(page) * PAGE_SIZE)
    }

    fn blocks_with_flags(&self) -> io::Result<Vec<Vma>> {
        let all = self.process.smaps().map_err(|e| match e {
            ProcessError::Io { source, .. } => source,
            ProcessError::NoSuch { .. } => io::Error::new(io::ErrorKind::NotFound, e),
            other => io::Error::other(other),
        })?;
        if all.is_empty() && !self.blocks.is_empty() {
            // smaps of a process that has ended, or has mapped other memory since, is no error
            return Err(io::Error::new(io::ErrorKind::NotFound, "it has ended"));
        }
        Ok(self.blocks.iter().map(|block| with_flags(block, &all)).collect())
    }

    fn ksm(&self) -> Option<KsmStat> {
        self.process.ksm_stat()
    }

    fn faults(&self) -> u64 {
        self.process.faults()
    }

    fn fate(&self) -> Fate {
        self.process.fate()
    }
}

/// The block with the flags of the mapping in which it begins.
fn with_flags(block: &Vma, all: &[Vma]) -> Vma {
    let at = all.partition_point(|vma| vma.pages.end <= block.pages.start);
    let flags = all.get(at).filter(|vma| vma.pages.start <= block.pages.start);
    Vma { flags: Some(flags.and_then(|vma| vma.flags).unwrap_or_default()), ..block.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mapping::Mapping;

    #[test]
    fn a_process_keeps_the_contract() {
        let mut memory = Mapping::anonymous(64).unwrap();
        memory.write(4096, b"here");
        let process = Process::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        let maps = process.maps().unwrap();
        let page = memory.pages().start + 1;
        let blocks: Vec<Vma> = maps
            .into_iter()
            .filter(|b| b.pages.start <= page && page < b.pages.end)
            .map(|b| Vma { pages: b.pages.intersect(memory.pages()), ..b })
            .collect();
        let source = ProcessSource::new(process, blocks, true);
        super::super::contract::holds(&source, page);
        let mut bytes = [0u8; 4];
        source.content(page, &mut bytes).unwrap();
        assert_eq!(&bytes, b"here");
    }

    #[test]
    fn a_process_that_runs_another_program_is_gone() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read x; exec sleep 60"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let process = Process::open(i32::try_from(child.id()).unwrap()).unwrap();
        while process.comm() != "sh" {
            std::thread::yield_now();
        }
        let blocks = process.maps().unwrap();
        let source = ProcessSource::new(process, blocks, false);
        assert_eq!(source.fate(), Fate::Alive);
        drop(child.stdin.take());
        while crate::sys::process::comm(i32::try_from(child.id()).unwrap()).as_deref()
            != Some("sleep")
        {
            std::thread::yield_now();
        }
        assert_eq!(source.fate(), Fate::Execed);
        let mut entries = [Entry(0); 2];
        assert_eq!(source.facts(source.blocks()[0].pages.start, &mut entries).unwrap(), 0);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(source.fate(), Fate::Exited);
    }
}
