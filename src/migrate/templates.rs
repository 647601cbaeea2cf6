//! Templates at either end: opened, proven by a digest of all of them, and known page by page.

use crate::base::PAGE_SIZE;
use crate::base::digest::{Hashing, PageHash, is_zero, of_template};
use crate::placement::map::MapFile;
use crate::source::image::{ImageError, file_id, stretches};
use rayon::prelude::*;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Pages that one processor reads and hashes at once, in its cache.
const PIECE: usize = 128;
const PAGE: usize = 4096;

/// A template, proven.
#[derive(Clone, Debug)]
pub struct KnownTemplate {
    /// Where it is; absolute, for maps that will be read elsewhere.
    pub path: PathBuf,
    /// Its device, as maps name it.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// Its pages.
    pub pages: u64,
    /// What it is known by ([`of_template`]).
    pub digest: [u8; 32],
    /// Of each page; `None` where it is zero.
    pub hashes: Arc<[Option<PageHash>]>,
    file: Arc<File>,
    changed: (i64, i64),
}

/// A template that is open and has not been read yet.
#[derive(Debug)]
pub struct TemplateFile {
    path: PathBuf,
    id: crate::abi::vma::FileId,
    meta: Metadata,
    file: File,
}

impl TemplateFile {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let id = file_id(path)?;
        let failed = |source| ImageError::Io { path: path.to_owned(), source };
        let wrong = |what| ImageError::NoImage { path: path.to_owned(), what };
        let file = File::open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if meta.len() == 0 || meta.len() % PAGE_SIZE != 0 {
            return Err(wrong("not whole pages of 4096 bytes long"));
        }
        // absolute, for maps that will be read from elsewhere; a memfd (/proc/PID/fd/N) has no other
        // path than the one that was given
        let path = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
        let path = path.map_err(failed)?;
        Ok(Self { path, id, meta, file })
    }

    /// How a placement map names it.
    pub fn as_map_file(&self) -> MapFile {
        let path = self.path.display().to_string();
        MapFile { path, device: self.id.device, inode: self.id.inode }
    }

    /// Its pages.
    pub fn pages(&self) -> u64 {
        self.meta.len() / PAGE_SIZE
    }

    /// Its descriptor, once more.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Reads all of it but its holes, with all processors.
    pub fn know(self, hashing: &Hashing) -> Result<KnownTemplate, ImageError> {
        let Self { path, id, meta, file } = self;
        let failed = |source| ImageError::Io { path: path.clone(), source };
        let hashes: Arc<[_]> = read(&file, meta.len() / PAGE_SIZE, hashing).map_err(failed)?.into();
        Ok(KnownTemplate {
            device: id.device,
            inode: id.inode,
            pages: meta.len() / PAGE_SIZE,
            digest: of_template(&hashes),
            hashes,
            file: Arc::new(file),
            changed: (meta.ctime(), meta.ctime_nsec()),
            path,
        })
    }
}

impl KnownTemplate {
    /// Copies pages.
    pub fn read(&self, page: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, page * PAGE_SIZE)
    }

    /// Has anybody written to it since it was read?
    pub fn has_changed(&self) -> bool {
        let now = self.file.metadata();
        now.map_or(true, |meta| {
            (meta.ctime(), meta.ctime_nsec()) != self.changed
                || meta.len() != self.pages * PAGE_SIZE
        })
    }
}

/// Pieces are read and hashed side by side; holes are not read.
fn read(file: &File, pages: u64, hashing: &Hashing) -> io::Result<Vec<Option<PageHash>>> {
    let mut hashes = vec![None; usize::try_from(pages).unwrap_or(0)];
    for data in stretches(file, pages)? {
        let [from, to] = [data.start, data.end].map(|page| usize::try_from(page).unwrap_or(0));
        let pieces = hashes[from..to].par_chunks_mut(PIECE).enumerate();
        pieces.try_for_each_init(Vec::new, |buffer: &mut Vec<u8>, (number, hashes)| {
            buffer.resize(hashes.len() * PAGE, 0);
            let first = (from + number * PIECE) as u64;
            file.read_exact_at(buffer, first * PAGE_SIZE)?;
            for (hash, page) in hashes.iter_mut().zip(buffer.chunks(PAGE)) {
                *hash = (!is_zero(page)).then(|| hashing.page(page));
            }
            io::Result::Ok(())
        })?;
    }
    Ok(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_known_and_a_change_is_seen() {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        let mut whole = vec![0; 300 * PAGE];
        let fill = |at: usize, byte: u8| byte.wrapping_add(u8::try_from(at / PAGE % 251).unwrap());
        // two stretches of data, the second of more than a piece and from the middle of a page on
        for (from, to) in [(PAGE, 3 * PAGE), (5 * PAGE + 100, 290 * PAGE)] {
            (from..to).for_each(|at| whole[at] = fill(at, 7));
            file.as_file().write_all_at(&whole[from..to], from as u64).unwrap();
        }
        file.as_file().set_len(whole.len() as u64).unwrap();
        for hashing in [Hashing::Plain, Hashing::keyed(b"secret")] {
            let known = TemplateFile::open(file.path()).unwrap().know(&hashing).unwrap();
            assert_eq!(known.pages, 300);
            let hash = |page: &[u8]| page.iter().any(|&b| b != 0).then(|| hashing.page(page));
            let wanted: Vec<Option<PageHash>> = whole.chunks(PAGE).map(hash).collect();
            assert!(known.hashes[..] == wanted[..]);
            let bytes = wanted.iter().flat_map(|hash| hash.map_or([0; 8], |h| h.0.to_le_bytes()));
            assert_eq!(known.digest, *blake3::hash(&bytes.collect::<Vec<u8>>()).as_bytes());
        }
        let known = TemplateFile::open(file.path()).unwrap().know(&Hashing::Plain).unwrap();
        assert!(!known.has_changed());
        file.as_file().write_all_at(&[6], 0).unwrap();
        assert!(known.has_changed());
    }
}
