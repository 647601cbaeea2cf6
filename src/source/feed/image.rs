//! A memory image as a feed. Its holes are known (`SEEK_DATA`): they are unused.

use super::{Fact, Feed};
use crate::base::PAGE_SIZE;
use crate::source::image::ImageError;
use crate::sys::extents;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// An image, open.
#[derive(Debug)]
pub struct ImageFeed {
    file: File,
    label: String,
    pages: u64,
    opened: Stamp,
}

/// What changes when a file is written to: its length, and the time of its last change, in
/// nanoseconds (of the kernel's clock ticks before Linux 6.13).
type Stamp = (u64, i64, i64);

fn stamp(file: &File) -> io::Result<Stamp> {
    let meta = file.metadata()?;
    Ok((meta.len(), meta.mtime(), meta.mtime_nsec()))
}

impl ImageFeed {
    /// Opens the image at `path`.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        crate::source::image::file_id(path)?;
        let failed = |source| ImageError::Io { path: path.to_owned(), source };
        let wrong = |what| ImageError::NoImage { path: path.to_owned(), what };
        let file = File::open(path).map_err(failed)?;
        let opened = stamp(&file).map_err(failed)?;
        let length = opened.0;
        if length % PAGE_SIZE != 0 {
            return Err(wrong("not whole pages of 4096 bytes long"));
        }
        if length == 0 {
            return Err(wrong("empty"));
        }
        Ok(Self { file, label: "ram".to_owned(), pages: length / PAGE_SIZE, opened })
    }
}

impl Feed for ImageFeed {
    fn blocks(&self) -> Vec<(String, u64)> {
        vec![(self.label.clone(), self.pages)]
    }

    fn facts(&self, first: u64, out: &mut [Fact]) -> io::Result<()> {
        let end = first + out.len() as u64;
        out.fill(Fact::Unused);
        let mut at = first * PAGE_SIZE;
        while let Some(data) = extents::next_data(&self.file, at)? {
            let from = data.start / PAGE_SIZE;
            if from >= end {
                break;
            }
            let to = data.end.div_ceil(PAGE_SIZE).min(end);
            let index = |page: u64| usize::try_from(page.max(first) - first).unwrap_or(usize::MAX);
            out[index(from)..index(to)].fill(Fact::Unknown);
            if to >= end {
                break;
            }
            at = data.end;
        }
        Ok(())
    }

    fn read(&self, first: u64, _facts: &[Fact], out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, first * PAGE_SIZE).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                let why = "its image is shorter now than it was: begin again when it stands still";
                io::Error::new(io::ErrorKind::UnexpectedEof, why)
            }
            _ => error,
        })
    }

    /// What is cut off reads as a hole, and so as zeros: without this it would be sent as that.
    fn stood_still(&self) -> Result<(), String> {
        match stamp(&self.file) {
            Ok(now) if now == self.opened => Ok(()),
            Ok(_) => Err("its image was written to meanwhile, so what was read of it is worth nothing: begin again when it stands still".to_owned()),
            Err(error) => Err(format!("its image cannot be looked at any more: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_keeps_the_contract_and_its_holes_are_unused() {
        for folder in ["/dev/shm", "/var/tmp"] {
            let file = tempfile::NamedTempFile::new_in(folder).unwrap();
            let mut content = vec![0u8; 64 * 4096];
            for (page, byte) in [(3usize, 3u8), (4, 4), (5, 5), (40, 40), (63, 63)] {
                content[page * 4096..(page + 1) * 4096].fill(byte);
                let bytes = &content[page * 4096..(page + 1) * 4096];
                file.as_file().write_all_at(bytes, page as u64 * 4096).unwrap();
            }
            let feed = ImageFeed::open(file.path()).unwrap();
            super::super::contract::holds(&feed, &content);
            let mut facts = [Fact::Unknown; 3];
            feed.facts(6, &mut facts).unwrap();
            assert_eq!(facts, [Fact::Unused; 3]);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8192).unwrap();
        let feed = ImageFeed::open(file.path()).unwrap();
        feed.stood_still().unwrap();
        file.as_file().set_len(4096).unwrap();
        assert!(feed.stood_still().unwrap_err().contains("written to"));
        let odd = tempfile::NamedTempFile::new().unwrap();
        odd.as_file().set_len(5000).unwrap();
        assert!(ImageFeed::open(odd.path()).unwrap_err().to_string().contains("whole pages"));
    }
}
