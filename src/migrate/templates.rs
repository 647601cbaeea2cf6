//! Templates at either end: opened, proven by a digest of all of them, and known page by page.

use crate::base::PAGE_SIZE;
use crate::base::digest::{Hashing, PageHash, is_zero};
use crate::placement::map::MapFile;
use crate::source::image::{ImageError, file_id};
use rayon::prelude::*;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes hashed at once.
const PIECE: u64 = 1 << 22;

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
    /// BLAKE3 of all of it.
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

    /// Reads all of it, with all processors.
    pub fn know(self, hashing: &Hashing) -> Result<KnownTemplate, ImageError> {
        let Self { path, id, meta, file } = self;
        let failed = |source| ImageError::Io { path: path.clone(), source };
        let (digest, hashes) = read(&file, meta.len(), hashing).map_err(failed)?;
        Ok(KnownTemplate {
            device: id.device,
            inode: id.inode,
            pages: meta.len() / PAGE_SIZE,
            digest,
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

type Read = ([u8; 32], Arc<[Option<PageHash>]>);

/// The digest is one over the whole; the pages of each piece are hashed by all processors while it
/// is in the cache.
fn read(file: &File, length: u64, hashing: &Hashing) -> io::Result<Read> {
    let mut whole = blake3::Hasher::new();
    let mut hashes = Vec::with_capacity(usize::try_from(length / PAGE_SIZE).unwrap_or(0));
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < length {
        let piece = usize::try_from(PIECE.min(length - at)).unwrap_or(0);
        buffer.resize(piece, 0);
        file.read_exact_at(&mut buffer, at)?;
        let (_, pages) = rayon::join(
            || whole.update_rayon(&buffer),
            || {
                let pages = buffer.par_chunks(4096);
                pages.map(|page| (!is_zero(page)).then(|| hashing.page(page))).collect::<Vec<_>>()
            },
        );
        hashes.extend(pages);
        at += piece as u64;
    }
    Ok((*whole.finalize().as_bytes(), hashes.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_known_and_a_change_is_seen() {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        file.as_file().set_len(3 * 4096).unwrap();
        file.as_file().write_all_at(&[5; 4096], 4096).unwrap();
        let known = TemplateFile::open(file.path()).unwrap().know(&Hashing::Plain).unwrap();
        assert_eq!(known.pages, 3);
        assert_eq!(known.hashes[0], None);
        assert_eq!(known.hashes[1], Some(Hashing::Plain.page(&[5; 4096])));
        let whole: Vec<u8> = [[0; 4096], [5; 4096], [0; 4096]].concat();
        assert_eq!(known.digest, *blake3::hash(&whole).as_bytes());
        assert!(!known.has_changed());
        file.as_file().write_all_at(&[6], 0).unwrap();
        assert!(known.has_changed());
    }
}
