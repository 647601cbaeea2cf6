//! Where a file has data and where it has holes (`lseek`, `SEEK_DATA` and `SEEK_HOLE`, Linux 3.1).

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io;
use std::ops::Range;

/// The next stretch of data at byte `at` or after it; `None` where only a hole follows. A file
/// system that does not know says that all is data.
pub fn next_data(file: &File, at: u64) -> io::Result<Option<Range<u64>>> {
    let offset = i64::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let start = match lseek(file, offset, Whence::SeekData) {
        Ok(start) => start,
        Err(Errno::ENXIO) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let end = lseek(file, start, Whence::SeekHole)?;
    let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
    Ok(Some(unsigned(start)..unsigned(end)))
}
