//! `PAGEMAP_SCAN` (Linux 6.7, `fs/proc/task_mmu.c`, `do_pagemap_scan`): ranges of pages by what
//! they are, without an entry for each page.
//!
//! Used read-only here: where a sparse address space is populated, and what is mapped huge. No
//! write-protecting flag is ever passed.

use crate::base::PageRange;
use crate::base::addr::PAGE_SHIFT;
use linux_raw_sys::general::{
    PAGE_IS_HUGE, PAGE_IS_PRESENT, PAGE_IS_SWAPPED, page_region, pm_scan_arg,
};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const _: () = assert!(size_of::<pm_scan_arg>() == 96 && size_of::<page_region>() == 24);

mod request {
    use linux_raw_sys::general::pm_scan_arg;
    nix::ioctl_readwrite! {
        /// `_IOWR('f', 16, struct pm_scan_arg)`, `include/uapi/linux/fs.h`.
        pagemap_scan, b'f', 16, pm_scan_arg
    }
}

/// Regions in one call.
const REGIONS: usize = 1024;

/// Appends the ranges within `range` in which something is present or swapped.
///
/// # Errors
/// `ENOTTY` before Linux 6.7.
pub fn populated(pagemap: &File, range: PageRange, out: &mut Vec<PageRange>) -> io::Result<()> {
    let mut regions = vec![NONE; REGIONS];
    let any = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
    scan(pagemap, range, 0, any, &mut regions, &mut |found| out.push(found))
}

/// How many pages of `range` are mapped by an entry for a huge page: a transparent huge page that
/// is mapped whole, or hugetlb.
///
/// # Errors
/// `ENOTTY` before Linux 6.7.
pub fn huge_pages(pagemap: &File, range: PageRange) -> io::Result<u64> {
    let mut pages = 0;
    let mut regions = vec![NONE; REGIONS];
    scan(pagemap, range, HUGE, 0, &mut regions, &mut |found| pages += found.pages())?;
    Ok(pages)
}

/// Is page `page` mapped by an entry for a huge page? One entry is looked at, whatever it maps.
///
/// # Errors
/// `ENOTTY` before Linux 6.7.
pub fn is_huge(pagemap: &File, page: u64) -> io::Result<bool> {
    let mut found = false;
    scan(pagemap, PageRange::of(page, 1), HUGE, 0, &mut [NONE], &mut |_| found = true)?;
    Ok(found)
}

/// What a huge entry is.
const HUGE: u32 = PAGE_IS_HUGE | PAGE_IS_PRESENT;

/// A region not yet written.
const NONE: page_region = page_region { start: 0, end: 0, categories: 0 };

fn scan(
    pagemap: &File,
    range: PageRange,
    all_of: u32,
    any_of: u32,
    regions: &mut [page_region],
    found: &mut dyn FnMut(PageRange),
) -> io::Result<()> {
    let mut at = range.start << PAGE_SHIFT;
    let end = range.end << PAGE_SHIFT;
    while at < end {
        let mut arg = pm_scan_arg {
            size: size_of::<pm_scan_arg>() as u64,
            flags: 0,
            start: at,
            end,
            walk_end: 0,
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            max_pages: 0,
            category_inverted: 0,
            category_mask: u64::from(all_of),
            category_anyof_mask: u64::from(any_of),
            return_mask: u64::from(all_of | any_of),
        };
        // SAFETY: the kernel reads and writes `arg`, which lives across the call and has the size
        // that it states, and writes at most `vec_len` regions to `vec`, which is a slice of that
        // length that is borrowed here for writing.
        let count = unsafe { request::pagemap_scan(pagemap.as_raw_fd(), &raw mut arg) }?;
        let count = usize::try_from(count).unwrap_or(0);
        for region in &regions[..count] {
            if let Some(range) =
                PageRange::new(region.start >> PAGE_SHIFT, region.end >> PAGE_SHIFT)
            {
                found(range);
            }
        }
        if arg.walk_end <= at {
            break; // no progress: an address space that is gone
        }
        at = arg.walk_end;
    }
    Ok(())
}
