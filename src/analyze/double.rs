//! Memory that is there twice: private copies above pages of a memory file that nobody else needs.

use super::scan::ScanError;
use crate::abi::pagemap::Entry;
use crate::abi::vma::Vma;
use crate::source::Vm;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Memory that is there twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Double {
    /// The VM.
    pub vm: String,
    /// The file.
    pub file: String,
    /// Pages of zeros in the file, made there only because the copy above them was.
    pub pages: u64,
    /// What to change.
    pub advice: &'static str,
}

/// What to do about memory that is there twice.
const DOUBLE_ADVICE: &str = "the file's own pages are never read again: map it shared (share=on), or use anonymous memory instead of a memfd (Cloud Hypervisor: no memory zone with a file; QEMU: memory-backend-ram); leave it where it is a template from which more VMs are to start";

/// Private copies above pages of memory files. A file that several VMs of the scan map is a
/// template, and its copies are what they are for.
///
/// A write to a hole of a file that is mapped privately makes two pages: one of zeros in the file,
/// and its copy (`mm/memory.c`, `do_cow_fault`; `mm/shmem.c`, `shmem_fault`). Nobody has written to
/// those zeros, so that the kernel may drop them, as it does page cache: they are counted while they
/// are there. A page that has content counts where the file is a memfd, which no other can open by a
/// name; a named file with content is a template, from which others are yet to start.
pub fn find(vms: &[Vm], blocks: &[Vec<Vma>]) -> Result<Vec<Double>, ScanError> {
    let mut mapped_by: HashMap<_, HashSet<usize>> = HashMap::new();
    for (i, block) in blocks.iter().enumerate().flat_map(|(i, b)| b.iter().map(move |b| (i, b))) {
        if let Some(file) = block.file {
            mapped_by.entry(file).or_default().insert(i);
        }
    }
    let mut found: BTreeMap<(usize, &str), u64> = BTreeMap::new();
    for (i, block) in blocks.iter().enumerate().flat_map(|(i, b)| b.iter().map(move |b| (i, b))) {
        let alone = block.file.is_some_and(|file| mapped_by[&file].len() == 1);
        if block.shared || !alone || vms[i].pid.is_none() {
            continue;
        }
        let pages = copies_above_cache(&vms[i], block, block.is_memfd())?;
        if pages > 0 {
            *found.entry((i, &block.name)).or_default() += pages;
        }
    }
    Ok(found
        .into_iter()
        .map(|((i, file), pages)| Double {
            vm: vms[i].name.clone(),
            file: file.to_owned(),
            pages,
            advice: DOUBLE_ADVICE,
        })
        .collect())
}

/// Pages of a private mapping that are copied and whose original is still in memory; of these all,
/// or those that are zero in the file.
fn copies_above_cache(vm: &Vm, block: &Vma, all: bool) -> Result<u64, ScanError> {
    const AT_ONCE: usize = 64;
    let (mut pages, mut bytes) = (0, vec![0; AT_ONCE * 4096]);
    for piece in block.pages.pieces(1 << 16) {
        let Some(cached) = vm.source.cached(block, piece) else { return Ok(0) };
        let mut entries = vec![Entry(0); cached.len()];
        let got = vm
            .source
            .facts(piece.start, &mut entries)
            .map_err(|source| ScanError::PageTable { vm: vm.name.clone(), source })?;
        let copied = |e: &Entry| e.is_present() && !e.is_file();
        let doubled: Vec<u64> = (piece.start..)
            .zip(entries[..got].iter().zip(&cached))
            .filter_map(|(page, (e, c))| (copied(e) && *c).then_some(page))
            .collect();
        if all {
            pages += doubled.len() as u64;
            continue;
        }
        for run in doubled.chunk_by(|a, b| a + 1 == *b).flat_map(|run| run.chunks(AT_ONCE)) {
            let want = &mut bytes[..run.len() * 4096];
            let got = vm.source.file_content(block, run[0], want).unwrap_or(0);
            let zero = |page: &&[u8]| page.iter().all(|&byte| byte == 0);
            pages += want[..got].chunks_exact(4096).filter(zero).count() as u64;
        }
    }
    Ok(pages)
}
