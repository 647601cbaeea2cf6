//! `/proc/kpagecount` and `/proc/kpageflags`: 64 bits a frame, indexed by its number
//! (`fs/proc/page.c`).
//!
//! The kernel's cost is 65 to 70 ns a frame and some 250 ns a call: sorted frames are asked for in
//! runs, over gaps that cost less to read than to step over, and over no others.

use crate::base::Pfn;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Frames in one read.
const BATCH: usize = 4096;

/// Frames that are not wanted and read all the same, between two that are.
const GAP: u64 = 3;

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
        let mut rest = pfns;
        while let Some(first) = rest.first() {
            let near = |pair: &[Pfn]| {
                pair[1].0 - pair[0].0 <= GAP + 1 && pair[1].0 - first.0 < BATCH as u64
            };
            let (run, after) = rest.split_at(1 + rest.windows(2).take_while(|p| near(p)).count());
            rest = after;
            let place = |pfn: &Pfn| usize::try_from(pfn.0 - first.0).unwrap_or(usize::MAX) * 8;
            let want = &mut bytes[..run.last().map_or(0, place) + 8];
            let got = read_up_to(&self.file, want, first.0 * 8)?;
            let word = |pfn: &Pfn| match want.get(place(pfn)..place(pfn) + 8) {
                Some(c) if place(pfn) + 8 <= got => {
                    u64::from_ne_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]])
                }
                _ => beyond,
            };
            out.extend(run.iter().map(word));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Any file of words will do: the word at each place is its number.
    fn table(words: u64) -> KPage {
        let bytes: Vec<u8> = (0..words).flat_map(u64::to_ne_bytes).collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        KPage { file }
    }

    #[test]
    fn every_frame_gets_its_own_word_over_gaps_and_past_the_end() {
        let table = table(20_000);
        let wanted: Vec<Pfn> =
            (0..20_100).filter(|i| i % 7 != 3 && i % 64 < 40 || i % 5000 == 0).map(Pfn).collect();
        let mut words = Vec::new();
        table.read(&wanted, u64::MAX, &mut words).unwrap();
        let expected: Vec<u64> =
            wanted.iter().map(|p| if p.0 < 20_000 { p.0 } else { u64::MAX }).collect();
        assert_eq!(words, expected);
    }
}
