//! What this process may do and this kernel can, asked once.

use crate::abi::pagemap::Entry;
use crate::base::{Hva, PageRange};
use crate::sys::{mapping::Mapping, pagemap, scan};
use std::fs::File;
use std::io;

/// Why page frame numbers cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoPfns {
    /// The kernel opens pagemap and writes zeros for the frames (since 4.2).
    #[error(
        "the kernel hides page frame numbers from this process: it needs the capability CAP_SYS_ADMIN in the first user namespace; run it as root, outside of containers"
    )]
    Hidden,
    /// pagemap cannot be opened or read at all.
    #[error("/proc/self/pagemap cannot be read; the kernel needs CONFIG_PROC_PAGE_MONITOR")]
    NoPagemap(#[source] io::Error),
    /// A kernel with larger base pages.
    #[error(
        "this kernel's pages are of {0} bytes; memscan counts in pages of 4096 and would be wrong here"
    )]
    PageSize(i64),
}

/// What the kernel offers beyond the minimum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// `PAGEMAP_SCAN` (Linux 6.7).
    pub pagemap_scan: bool,
}

/// Looks at a page of our own: its frame is there, or it says why not.
pub fn probe() -> Result<Caps, NoPfns> {
    match nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE) {
        Ok(Some(4096)) => {}
        other => return Err(NoPfns::PageSize(other.ok().flatten().unwrap_or(0))),
    }
    let mut page = Mapping::anonymous(1).map_err(NoPfns::NoPagemap)?;
    page.write(0, &[1]);
    let at: PageRange = page.pages();
    let file = File::open("/proc/self/pagemap").map_err(NoPfns::NoPagemap)?;
    let mut entry = [Entry(0)];
    pagemap::read(&file, at.start, &mut entry).map_err(NoPfns::NoPagemap)?;
    if entry[0].is_present() && entry[0].pfn().0 == 0 {
        return Err(NoPfns::Hidden);
    }
    let mut found = Vec::new();
    let pagemap_scan = scan::populated(&file, at, &mut found).is_ok()
        && found.first().is_some_and(|r| r.address() == Hva::of_page(at.start));
    Ok(Caps { pagemap_scan })
}
