//! A memory image in a file as a source: its pages in the page cache, which are the frames that a
//! VM on that image shares.
//!
//! The file is mapped here and only those pages are touched that the page cache already has, so
//! that our own page table tells their frames. Nothing is read from a disk, and no hole of a tmpfs
//! file is filled: the kernel's fault-around maps what is cached, and no more.

use super::PageSource;
use crate::abi::pagemap::Entry;
use crate::abi::vma::{FileId, Vma, printable};
use crate::base::{PAGE_SIZE, PageRange};
use crate::sys::extents::next_data;
use crate::sys::mapping::Mapping;
use crate::sys::{cache, pagemap};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// An image, mapped.
#[derive(Debug)]
pub struct ImageSource {
    file: File,
    pagemap: File,
    blocks: Vec<Vma>,
    /// Keeps the pages in our page table.
    _mapping: Mapping,
}

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// It cannot be opened or mapped.
    #[error("image {path} cannot be read")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It is no regular file, or an empty one.
    #[error("image {path} is {what}: a memory image is a regular file of at least one page")]
    NoImage {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
}

/// Which file that is, as mappings name it.
pub fn file_id(path: &Path) -> Result<FileId, ImageError> {
    let failed = |source| ImageError::Io { path: path.to_owned(), source };
    let meta = std::fs::metadata(path).map_err(failed)?;
    if !meta.is_file() {
        return Err(ImageError::NoImage { path: path.to_owned(), what: "no regular file" });
    }
    Ok(id_of(&meta))
}

/// The pages of an image of `pages` pages that have data, also where only a part of one has; all others
/// are holes, and zero.
///
/// # Errors
/// Those of `lseek`.
pub fn stretches(file: &File, pages: u64) -> io::Result<Vec<PageRange>> {
    let (mut all, mut at) = (Vec::new(), 0);
    while let Some(data) = next_data(file, at)? {
        let (start, end) = (data.start / PAGE_SIZE, data.end.div_ceil(PAGE_SIZE).min(pages));
        if start >= end {
            break; // it has grown
        }
        all.push(PageRange { start, end });
        at = data.end;
    }
    Ok(all)
}

pub(super) fn id_of(meta: &std::fs::Metadata) -> FileId {
    let dev = meta.dev();
    let major = u64::from(nix::libc::major(dev));
    let minor = u64::from(nix::libc::minor(dev));
    FileId { device: major << 32 | minor, inode: meta.ino() }
}

impl ImageSource {
    /// Opens and maps the image at `path`.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Io { path: path.to_owned(), source };
        let wrong = |what| ImageError::NoImage { path: path.to_owned(), what };
        let meta = std::fs::metadata(path).map_err(failed)?;
        if !meta.is_file() {
            return Err(wrong("no regular file"));
        }
        let pages = meta.len() / PAGE_SIZE;
        if pages == 0 {
            return Err(wrong("smaller than a page"));
        }
        let file = File::open(path).map_err(failed)?;
        let mapping = Mapping::read_only_file(&file, pages).map_err(failed)?;
        // touching a page must not make the kernel read those after it
        mapping.advise(memmap2::Advice::Random).map_err(failed)?;
        cache::no_readahead(&file).map_err(failed)?;
        let cached = cache::resident(&file, PageRange::of(0, pages)).map_err(failed)?;
        for page in (0..pages).zip(&cached).filter_map(|(page, &here)| here.then_some(page)) {
            mapping.touch(page);
        }
        let vma = Vma {
            pages: mapping.pages(),
            read: true,
            write: false,
            exec: false,
            shared: true,
            file_page: 0,
            file: Some(id_of(&meta)),
            name: printable(&path.display().to_string()),
            flags: None,
        };
        let pagemap = File::open("/proc/self/pagemap").map_err(failed)?;
        Ok(Self { file, pagemap, blocks: vec![vma], _mapping: mapping })
    }
}

impl PageSource for ImageSource {
    fn blocks(&self) -> &[Vma] {
        &self.blocks
    }

    fn facts(&self, first: u64, out: &mut [Entry]) -> io::Result<usize> {
        pagemap::read(&self.pagemap, first, out)
    }

    fn content(&self, page: u64, out: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(out, (page - self.blocks[0].pages.start) * PAGE_SIZE)
    }

    fn cached(&self, block: &Vma, pages: PageRange) -> Option<Vec<bool>> {
        let in_file = PageRange::of(block.page_in_file(pages.start), pages.pages());
        cache::resident(&self.file, in_file).ok()
    }

    fn file_content(&self, _block: &Vma, page: u64, out: &mut [u8]) -> io::Result<usize> {
        self.content(page, out)
    }

    fn may_be_merged(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_keeps_the_contract_and_its_holes() {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        file.as_file().set_len(256 * PAGE_SIZE).unwrap();
        file.as_file().write_all_at(&[7; 4096], 100 * PAGE_SIZE).unwrap();
        let source = ImageSource::open(file.path()).unwrap();
        let start = source.blocks()[0].pages.start;
        super::super::contract::holds(&source, start + 100);
        let mut entries = vec![Entry(0); 256];
        source.facts(start, &mut entries).unwrap();
        assert_eq!(entries.iter().filter(|e| e.is_present()).count(), 1);
        assert_eq!(file.as_file().metadata().unwrap().blocks(), 8);
        assert_eq!(file_id(file.path()).unwrap(), source.blocks()[0].file.unwrap());
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let text = |path: &str| ImageSource::open(Path::new(path)).unwrap_err().to_string();
        assert!(text("/proc").contains("no regular file"));
        assert!(text("/no/such/file").contains("cannot be read"));
        let empty = tempfile::NamedTempFile::new().unwrap();
        assert!(text(empty.path().to_str().unwrap()).contains("smaller than a page"));
    }
}
