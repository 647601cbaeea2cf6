//! `/proc/kpagecount` and `/proc/kpageflags`: 64 bits a frame, indexed by its number
//! (`fs/proc/page.c`).
//!
//! The kernel's cost is by frame (65 to 70 ns), so no gap is ever read: sorted frames are asked for
//! in exact runs.

use crate::base::Pfn;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Frames in one read.
const BATCH: usize = 4096;

/// One of the two files.
#[derive(Debug)]
pub struct KPage {
    file: File,
}

impl KPage {
    /// `/proc/kpagecount`: how often a frame is mapped. Precise with `CONFIG_PAGE_MAPCOUNT`,
    /// otherwise an average over its folio.
    pub fn count() -> io::Result<Self> {
        File::open("/proc/kpagecount").map(|file| Self { file })
    }

    /// `/proc/kpageflags`: what the frame is, see [`crate::abi::kpageflags`].
    pub fn flags() -> io::Result<Self> {
        File::open("/proc/kpageflags").map(|file| Self { file })
    }

    /// The words of `pfns`, which are sorted and distinct. A frame beyond physical memory reads as
    /// `beyond`.
    pub fn read(&self, pfns: &[Pfn], beyond: u64, out: &mut Vec<u64>) -> io::Result<()> {
        out.clear();
        out.reserve(pfns.len());
        let mut bytes = [0u8; BATCH * 8];
        for run in pfns.chunk_by(|a, b| a.0 + 1 == b.0).flat_map(|run| run.chunks(BATCH)) {
            let want = &mut bytes[..run.len() * 8];
            let got = read_up_to(&self.file, want, run[0].0 * 8)?;
            out.extend(
                want[..got / 8 * 8]
                    .chunks_exact(8)
                    .map(|c| u64::from_ne_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]])),
            );
            out.extend(std::iter::repeat_n(beyond, run.len() - got / 8));
        }
        Ok(())
    }
}

/// Reads until the buffer is full or the file ends. A position past the last frame is `EINVAL` on
/// some kernels and 0 bytes on others; both are the end.
fn read_up_to(file: &File, out: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < out.len() {
        match file.read_at(&mut out[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.raw_os_error() == Some(nix::libc::EINVAL) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}
