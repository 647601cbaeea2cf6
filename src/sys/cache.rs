//! Which pages of a file are in the page cache, without bringing any in.
//!
//! `mincore` on a mapping of our own that nobody touches asks the page cache
//! (`mm/mincore.c`); for tmpfs and memfd that is the memory itself. Reading a hole of a tmpfs file
//! through a mapping would allocate it: nothing is read here.

use crate::base::{PAGE_SIZE, PageRange};
use nix::fcntl::{AtFlags, PosixFadviseAdvice, posix_fadvise};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};
use nix::unistd::{AccessFlags, faccessat};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;

/// Pages in one call.
const PIECE: u64 = 1 << 18;

/// For each page of `pages`, numbered from the start of the file: is it in the page cache?
///
/// # Errors
/// `EPERM` for a file of another that we may not write: the kernel then says of every page that it
/// is there, so as to tell nothing (`can_do_mincore`, since 5.2).
pub fn resident(file: &File, pages: PageRange) -> io::Result<Vec<bool>> {
    let own = file.metadata()?.uid() == nix::unistd::geteuid().as_raw();
    if !own {
        let flags = AtFlags::AT_EMPTY_PATH | AtFlags::AT_EACCESS;
        faccessat(file, "", AccessFlags::W_OK, flags)?;
    }
    let mut all = Vec::with_capacity(usize::try_from(pages.pages()).unwrap_or(0));
    for piece in pages.pieces(PIECE) {
        one_piece(file, piece, &mut all)?;
    }
    Ok(all)
}

/// Has reads through this descriptor bring in what they ask for and no more.
pub fn no_readahead(file: &File) -> io::Result<()> {
    Ok(posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM)?)
}

/// Is the file memory without a disk behind it: tmpfs, a memfd, hugetlbfs?
pub fn is_memory(file: &File) -> bool {
    let kinds = [TMPFS_MAGIC, HUGETLBFS_MAGIC];
    fstatfs(file).is_ok_and(|fs| kinds.contains(&fs.filesystem_type()))
}

fn one_piece(file: &File, pages: PageRange, out: &mut Vec<bool>) -> io::Result<()> {
    let too_far = || io::Error::from(io::ErrorKind::InvalidInput);
    let bytes = usize::try_from(pages.pages() * PAGE_SIZE).map_err(|_| too_far())?;
    let Some(length) = NonZeroUsize::new(bytes) else { return Ok(()) };
    let offset = i64::try_from(pages.start * PAGE_SIZE).map_err(|_| too_far())?;
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
    let base =
        unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, file, offset) }?;
    let mut vector = vec![0u8; bytes / 4096];
    // SAFETY: `base` is the mapping of `bytes` bytes made above; the kernel writes one byte a page
    // to `vector`, which has as many.
    let result = unsafe { libc::mincore(base.as_ptr(), bytes, vector.as_mut_ptr()) };
    let result = if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: unmaps exactly the mapping made above, of which no reference was formed.
    unsafe { munmap(base, bytes) }?;
    result?;
    out.extend(vector.iter().map(|byte| byte & 1 != 0));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_hole_stays_a_hole_and_a_written_page_is_seen() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(8 * PAGE_SIZE).unwrap();
        file.write_all_at(&[1], 3 * PAGE_SIZE).unwrap();
        let seen = resident(&file, PageRange::of(0, 8)).unwrap();
        assert_eq!(seen, [false, false, false, true, false, false, false, false]);
        assert_eq!(resident(&file, PageRange::of(2, 3)).unwrap(), [false, true, false]);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
        assert_eq!(blocks, 8, "one page of 512-byte blocks: looking allocated nothing");
    }
}
