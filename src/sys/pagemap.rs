//! Bulk reads of `/proc/PID/pagemap` (`fs/proc/task_mmu.c`, `pagemap_read`).
//!
//! The procfs crate returns 16 bytes an entry in a new vector; we read millions of them into one
//! buffer, eight bytes each.

use crate::abi::pagemap::Entry;
use crate::base::Pfn;
use crate::sys::mapping::Mapping;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = size_of::<Entry>();

const _: () = assert!(ENTRY_BYTES == 8 && align_of::<Entry>() == 8);

/// Reads the entries of the pages from `first` on; returns how many the kernel gave.
///
/// Fewer than asked for means that the address space ended, or that it is gone: after `execve` or
/// exit the kernel returns 0 bytes and no error.
pub fn read(pagemap: &File, first: u64, out: &mut [Entry]) -> io::Result<usize> {
    let at = first
        .checked_mul(ENTRY_BYTES as u64)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let bytes = as_bytes(out);
    let mut done = 0;
    while done < bytes.len() {
        match pagemap.read_at(&mut bytes[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done / ENTRY_BYTES)
}

/// The frame of the kernel's page of zeros: a page of ours that was read and never written is on it.
/// A number that no frame has, where the kernel hides frames from this process.
pub fn zero_page() -> Pfn {
    static ZERO: OnceLock<Pfn> = OnceLock::new();
    *ZERO.get_or_init(|| {
        let look = || -> io::Result<Pfn> {
            let page = Mapping::anonymous(1)?;
            page.advise(memmap2::Advice::NoHugePage)?;
            page.touch(0);
            let mut entry = [Entry::default()];
            read(&File::open("/proc/self/pagemap")?, page.pages().start, &mut entry)?;
            Ok(entry[0].pfn())
        };
        look().ok().filter(|pfn| pfn.0 != 0).unwrap_or(Pfn(u64::MAX))
    })
}

fn as_bytes(entries: &mut [Entry]) -> &mut [u8] {
    // SAFETY: `Entry` is a transparent u64: every bit pattern is valid, it has no padding, and its
    // alignment is above that of u8. Length and lifetime are those of the slice that we hold
    // exclusively for as long as the result lives.
    unsafe {
        std::slice::from_raw_parts_mut(entries.as_mut_ptr().cast::<u8>(), size_of_val(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Hva;

    #[test]
    fn a_page_of_our_own_is_present() {
        let page = vec![1u8; 8192];
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let mut entries = [Entry(0); 1];
        let at = Hva(page.as_ptr() as u64 + 4096).page();
        assert_eq!(read(&pagemap, at, &mut entries).unwrap(), 1);
        assert!(entries[0].is_present());
    }

    #[test]
    fn what_was_read_and_never_written_is_on_the_page_of_zeros() {
        let mut pages = Mapping::anonymous(2).unwrap();
        pages.touch(0);
        pages.write(4096, &[1]);
        let mut entries = [Entry(0); 2];
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        read(&pagemap, pages.pages().start, &mut entries).unwrap();
        assert_eq!(entries[0].pfn(), zero_page());
        assert_ne!(entries[1].pfn(), zero_page());
    }

    #[test]
    fn past_the_end_there_is_nothing() {
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let mut entries = [Entry(0); 4];
        assert_eq!(read(&pagemap, 1 << 36, &mut entries).unwrap_or(0), 0);
        assert!(read(&pagemap, u64::MAX, &mut entries).is_err());
    }
}
