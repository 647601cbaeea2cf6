//! Memory that VMs own in files of memory which they map shared (memfd, tmpfs), without having it in
//! their page tables: written by another process, or not touched since the file was handed over.

use crate::abi::pagemap::Entry;
use crate::abi::vma::{FileId, Vma};
use crate::source::Vm;
use std::collections::BTreeMap;

/// Pages looked at together.
const BATCH: u64 = 1 << 16;

/// Such pages of one VM. Asks the page cache, page by page, and brings nothing in.
pub fn of_vm(vm: &Vm) -> u64 {
    let mut pages = 0;
    each_page(vm, &mut |_, _, cached, mapped| pages += u64::from(cached && !mapped));
    pages
}

/// Pages of each file that no page table of these VMs has, each once.
pub fn of_all(vms: &[&Vm]) -> BTreeMap<FileId, u64> {
    /// Of one page of a file.
    #[derive(Clone, Copy, Default)]
    struct Page {
        cached: bool,
        mapped: bool,
    }
    let mut files: BTreeMap<FileId, Vec<Page>> = BTreeMap::new();
    for vm in vms {
        each_page(vm, &mut |file, page, cached, mapped| {
            let pages = files.entry(file).or_default();
            let at = usize::try_from(page).unwrap_or(usize::MAX);
            if pages.len() <= at {
                pages.resize(at + 1, Page::default());
            }
            pages[at].cached |= cached;
            pages[at].mapped |= mapped;
        });
    }
    let count = |pages: &[Page]| pages.iter().filter(|p| p.cached && !p.mapped).count() as u64;
    files.into_iter().map(|(file, pages)| (file, count(&pages))).collect()
}

/// Tells of each page of the files of memory that a VM maps shared: the file, the page's number in
/// it, whether it is there, and whether the VM's page table has it.
fn each_page(vm: &Vm, tell: &mut dyn FnMut(FileId, u64, bool, bool)) {
    let shared = |block: &&Vma| block.shared && block.file.is_some();
    for block in vm.source.blocks().iter().filter(|_| vm.pid.is_some()).filter(shared) {
        let Some(file) = block.file else { continue };
        for piece in block.pages.pieces(BATCH) {
            let Some(cached) = vm.source.cached(block, piece) else { break };
            let mut entries = vec![Entry(0); cached.len()];
            let got = vm.source.facts(piece.start, &mut entries).unwrap_or(0);
            for ((page, entry), &cached) in (piece.start..).zip(&entries[..got]).zip(&cached) {
                tell(file, block.page_in_file(page), cached, entry.is_present());
            }
        }
    }
}
