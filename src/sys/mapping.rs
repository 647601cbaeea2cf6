//! Mappings of our own: memory that we make, and files that we look into.
//!
//! Memory that others can write (a file mapped shared, a memfd) is never handed out as a reference:
//! it is copied in and out by pages through raw pointers.

use crate::base::{Hva, PAGE_SIZE, PageRange};
use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io;

/// A mapping that ends with this value.
#[derive(Debug)]
pub struct Mapping {
    kind: Kind,
    len: usize,
}

#[derive(Debug)]
enum Kind {
    /// Private memory: ours alone to write.
    Private(MmapMut),
    /// Shared with a file: others may write at any time.
    Shared(MmapRaw),
}

impl Mapping {
    /// Anonymous private memory, untouched.
    pub fn anonymous(pages: u64) -> io::Result<Self> {
        Self::private(pages, |o| o.map_anon())
    }

    /// Anonymous private memory of huge pages of 2 MiB (`MAP_HUGETLB`); `ENOMEM` where the pool
    /// has too few.
    pub fn hugetlb(pages: u64) -> io::Result<Self> {
        Self::private(pages, |o| o.huge(Some(21)).map_anon())
    }

    /// The first `pages` pages of a file, private: a write makes a copy.
    pub fn private_file(file: &File, pages: u64) -> io::Result<Self> {
        // SAFETY: the result is only reached through this type, which copies bytes in and out and
        // hands out no reference, so that a change of the file by others is seen as other bytes
        // and never as a broken promise to the compiler. A file that shrinks ends the process by
        // SIGBUS, which is safe, if rude; callers that cannot trust a file use `read_at`.
        Self::private(pages, |o| unsafe { o.map_copy(file) })
    }

    fn private(
        pages: u64,
        map: impl FnOnce(&mut MmapOptions) -> io::Result<MmapMut>,
    ) -> io::Result<Self> {
        let len = byte_length(pages)?;
        Ok(Self { kind: Kind::Private(map(MmapOptions::new().len(len))?), len })
    }

    /// The first `pages` pages of a file opened for writing, shared.
    pub fn shared_file(file: &File, pages: u64) -> io::Result<Self> {
        let len = byte_length(pages)?;
        Ok(Self { kind: Kind::Shared(MmapOptions::new().len(len).map_raw(file)?), len })
    }

    /// The first `pages` pages of a file, shared and only to be read.
    pub fn read_only_file(file: &File, pages: u64) -> io::Result<Self> {
        let len = byte_length(pages)?;
        Ok(Self { kind: Kind::Shared(MmapOptions::new().len(len).map_raw_read_only(file)?), len })
    }

    /// Which pages of our address space it takes.
    pub fn pages(&self) -> PageRange {
        PageRange::of(Hva(self.base() as u64).page(), self.len as u64 / PAGE_SIZE)
    }

    fn base(&self) -> *const u8 {
        match &self.kind {
            Kind::Private(map) => map.as_ptr(),
            Kind::Shared(map) => map.as_ptr(),
        }
    }

    /// Reads one byte of page `page` of the mapping, so that it is in our page table.
    ///
    /// # Panics
    /// Where the mapping has no such page.
    pub fn touch(&self, page: u64) -> u8 {
        let at = usize::try_from(page * PAGE_SIZE).unwrap_or(usize::MAX);
        assert!(at < self.len, "page {page} is outside a mapping of {} bytes", self.len);
        // SAFETY: `at` is within the mapping, which lives as long as `self` and is readable; a
        // volatile read of one byte makes no promise about what others write there.
        unsafe { self.base().add(at).read_volatile() }
    }

    /// Writes `bytes` at offset `at`.
    ///
    /// # Panics
    /// Where they do not fit. The kernel ends the process where the mapping is only to be read.
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        assert!(at.checked_add(bytes.len()).is_some_and(|end| end <= self.len));
        let base = match &mut self.kind {
            Kind::Private(map) => map.as_mut_ptr(),
            Kind::Shared(map) => map.as_mut_ptr(),
        };
        // SAFETY: `at..at + len` is within the mapping, checked above; `bytes` is memory of ours
        // that cannot overlap it, as no reference into a shared mapping exists and a private one
        // is borrowed here.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), base.add(at), bytes.len()) };
    }

    /// Copies what stands at offset `at`.
    ///
    /// # Panics
    /// Where the mapping does not have so many bytes there.
    pub fn read(&self, at: u64, out: &mut [u8]) {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        assert!(at.checked_add(out.len()).is_some_and(|end| end <= self.len));
        // SAFETY: `at..at + len` is within the mapping, checked above, and readable as long as `self`
        // lives; `out` is memory of ours that cannot overlap it, as no reference into a mapping is
        // ever handed out. A private mapping is not written meanwhile, since that borrows
        // exclusively; what others write to a shared one comes out as bytes, old or new.
        unsafe {
            std::ptr::copy_nonoverlapping(self.base().add(at), out.as_mut_ptr(), out.len());
        }
    }

    /// Tells the kernel what the memory is for: `Mergeable`, `HugePage`, `NoHugePage`, …
    pub fn advise(&self, advice: Advice) -> io::Result<()> {
        match &self.kind {
            Kind::Private(map) => map.advise(advice),
            Kind::Shared(map) => map.advise(advice),
        }
    }

    /// Asks the kernel to swap the memory out (`MADV_PAGEOUT`, Linux 5.4). Content stays.
    pub fn page_out(&self) -> io::Result<()> {
        self.raw_advise(0, self.len, libc::MADV_PAGEOUT)
    }

    /// Gives pages of a private mapping back (`MADV_DONTNEED`): they read as zeros, or as the file.
    pub fn discard(&mut self, pages: PageRange) -> io::Result<()> {
        let byte = |page: u64| usize::try_from(page * PAGE_SIZE).unwrap_or(usize::MAX);
        let (from, to) = (byte(pages.start), byte(pages.end));
        if to > self.len {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        self.raw_advise(from, to - from, libc::MADV_DONTNEED)
    }

    fn raw_advise(&self, at: usize, len: usize, advice: i32) -> io::Result<()> {
        // SAFETY: the range is within the mapping. Both kinds of advice leave it mapped; what it
        // holds afterwards is bytes, which is all that this type promises, and `discard` borrows
        // exclusively, so that no reference sees them change.
        let result = unsafe { libc::madvise(self.base().add(at).cast_mut().cast(), len, advice) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// A memfd of `pages` pages: memory with a descriptor and without a name in a file system.
pub fn memfd(name: &str, pages: u64) -> io::Result<File> {
    let file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.set_len(byte_length(pages)? as u64)?;
    Ok(file)
}

fn byte_length(pages: u64) -> io::Result<usize> {
    pages
        .checked_mul(PAGE_SIZE)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_beyond_the_end() {
        let mut memory = Mapping::anonymous(2).unwrap();
        memory.write(4094, b"abcd");
        let mut out = [0; 6];
        memory.read(4093, &mut out);
        assert_eq!(&out, b"\0abcd\0");
        memory.read(8186, &mut out);
        assert!(std::panic::catch_unwind(|| memory.read(8187, &mut [0; 6])).is_err());
        assert!(std::panic::catch_unwind(|| memory.read(u64::MAX, &mut [0; 1])).is_err());
    }

    #[test]
    fn a_private_page_does_not_reach_the_file() {
        let file = memfd("t", 2).unwrap();
        let mut shared = Mapping::shared_file(&file, 2).unwrap();
        let mut private = Mapping::private_file(&file, 2).unwrap();
        shared.write(0, b"a");
        assert_eq!(private.touch(0), b'a');
        private.write(0, b"b");
        assert_eq!((shared.touch(0), private.touch(0)), (b'a', b'b'));
        private.discard(PageRange::of(0, 1)).unwrap();
        assert_eq!(private.touch(0), b'a');
    }
}
