//! Copies of parts of files that share their blocks where the file system can do that
//! (`copy_file_range`, Linux 4.5: it reflinks on Btrfs and XFS, and copies within the kernel
//! elsewhere).

use nix::errno::Errno;
use nix::fcntl::copy_file_range;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Copies `length` bytes from byte `at` of one file to byte `to_at` of another.
pub fn copy(from: &File, at: u64, to: &File, to_at: u64, length: u64) -> io::Result<()> {
    let offset =
        |at: u64| i64::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let mut done = 0;
    while done < length {
        let (mut here, mut there) = (offset(at + done)?, offset(to_at + done)?);
        let most = usize::try_from(length - done).unwrap_or(usize::MAX).min(1 << 30);
        match copy_file_range(from, Some(&mut here), to, Some(&mut there), most) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Ok(copied) => done += copied as u64,
            Err(Errno::EINTR) => {}
            // between two file systems before 5.3, and overlapping parts of one file
            Err(Errno::EXDEV | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                return by_hand(from, at + done, to, to_at + done, length - done);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn by_hand(from: &File, at: u64, to: &File, to_at: u64, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut done = 0;
    while done < length {
        let piece = usize::try_from(length - done).unwrap_or(usize::MAX).min(buffer.len());
        from.read_exact_at(&mut buffer[..piece], at + done)?;
        to.write_all_at(&buffer[..piece], to_at + done)?;
        done += piece as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_copied_within_and_between_files() {
        let one = tempfile::tempfile_in("/dev/shm").unwrap();
        let two = tempfile::tempfile_in("/var/tmp").unwrap();
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        one.write_all_at(&bytes, 0).unwrap();
        copy(&one, 4096, &two, 8192, 100_000).unwrap();
        copy(&one, 0, &one, 300_000, 150_000).unwrap();
        let mut read = vec![0; 100_000];
        two.read_exact_at(&mut read, 8192).unwrap();
        assert!(read == bytes[4096..104_096]);
        let mut read = vec![0; 150_000];
        one.read_exact_at(&mut read, 300_000).unwrap();
        assert!(read == bytes[..150_000]);
        assert!(copy(&one, 10_000_000, &two, 0, 1).is_err());
    }
}
