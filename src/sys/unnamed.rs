//! A file that has no name until it is done, so that nothing is left of it when we are killed
//! before (`O_TMPFILE`, Linux 3.11).
//!
//! Not every file system has such files (NFS has none, overlayfs since 6.1, FUSE since 6.2). Where
//! it has none the file gets a hidden name beside its own, which is removed when the value goes;
//! only whoever is killed leaves it behind then.

use nix::fcntl::{AT_FDCWD, AtFlags, RenameFlags, renameat2};
use nix::unistd::linkat;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;

/// Longest part of a file's name in the name of its temporary: names end at 255 bytes.
const NAME_PART: usize = 200;

/// Hidden names that are tried, where those before are taken.
const TRIES: u32 = 1000;

/// A file that is being written, and is to be named. Dropped before, it is gone.
#[derive(Debug)]
pub struct Unnamed {
    file: File,
    path: PathBuf,
    hidden: Option<Hidden>,
}

/// A hidden name.
#[derive(Debug)]
struct Hidden {
    path: PathBuf,
    /// Device and inode, so that nothing is removed that another put in its place.
    mine: Option<(u64, u64)>,
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if self.mine.is_some() && self.mine == identity(&self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|kind| (kind.dev(), kind.ino()))
}

impl Unnamed {
    /// A file that is to be called `path`: empty, for reading and writing, and its owner's alone.
    ///
    /// # Errors
    /// What the kernel says, as where the folder is not there or not writable; `InvalidInput` where
    /// the path ends in no name.
    pub fn new(path: &Path) -> io::Result<Self> {
        Self::make(path, true)
    }

    fn make(path: &Path, nameless: bool) -> io::Result<Self> {
        if path.file_name().is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path ends in no name"));
        }
        let mut open = OpenOptions::new();
        open.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE);
        match open.open(folder(path)) {
            Ok(file) if nameless => return Ok(Self { file, path: path.into(), hidden: None }),
            // a kernel that does not know the flag sees a folder that is to be written
            Err(e) if !matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
                return Err(e);
            }
            _ => {}
        }
        // O_EXCL follows no link; others may not read memory, whatever the umask
        let mut open = OpenOptions::new();
        open.read(true).write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let (file, hidden) = first_free(path, |hidden| open.open(hidden))?;
        Ok(Self { file, path: path.into(), hidden: Some(hidden) })
    }

    /// The file.
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its name. What has it now is replaced only if `replace`, and then at once.
    ///
    /// # Errors
    /// `AlreadyExists`; what else the kernel says.
    pub fn name(&mut self, replace: bool) -> io::Result<()> {
        let hidden = match self.hidden.take() {
            Some(hidden) => hidden,
            None => match link(&self.file, &self.path) {
                // a name can only be replaced by another name
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && replace => {
                    first_free(&self.path, |hidden| link(&self.file, hidden))?.1
                }
                done => return done,
            },
        };
        if replace {
            fs::rename(&hidden.path, &self.path)
        } else {
            let flags = RenameFlags::RENAME_NOREPLACE;
            Ok(renameat2(AT_FDCWD, &hidden.path, AT_FDCWD, &self.path, flags)?)
        }
    }
}

/// Links a file without a name. By its descriptor alone (`AT_EMPTY_PATH`) that needs a capability
/// before Linux 6.10; by `/proc` it does not.
fn link(file: &File, path: &Path) -> io::Result<()> {
    let proc = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(AT_FDCWD, proc.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?)
}

/// Does `make` with the first hidden name beside `path` that is free: those before were left by
/// processes of the same number that were killed.
fn first_free<T>(
    path: &Path,
    mut make: impl FnMut(&Path) -> io::Result<T>,
) -> io::Result<(T, Hidden)> {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let mut number = 0;
    loop {
        let hidden = folder(path).join(hidden_name(name, number));
        match make(&hidden) {
            Ok(made) => {
                let mine = identity(&hidden);
                return Ok((made, Hidden { path: hidden, mine }));
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && number < TRIES => number += 1,
            Err(e) => return Err(e),
        }
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// `.NAME.PID.part`, or with a number where that is there.
fn hidden_name(name: &[u8], number: u32) -> OsString {
    let mut hidden = vec![b'.'];
    hidden.extend_from_slice(&name[..name.len().min(NAME_PART)]);
    hidden.extend_from_slice(format!(".{}", process::id()).as_bytes());
    if number > 0 {
        hidden.extend_from_slice(format!(".{number}").as_bytes());
    }
    hidden.extend_from_slice(b".part");
    OsString::from_vec(hidden)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(folder: &Path) -> Vec<OsString> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_not_there_until_it_has_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x".repeat(250));
        for nameless in [true, false] {
            let mut new = Unnamed::make(&path, nameless).unwrap();
            assert_eq!(names(folder.path()).len(), usize::from(!nameless));
            new.file().write_all(b"all").unwrap();
            new.name(false).unwrap();
            drop(new);
            assert_eq!(fs::read(&path).unwrap(), b"all");
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
            assert_eq!(names(folder.path()).len(), 1);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn one_that_is_there_is_replaced_at_once_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for nameless in [true, false] {
            fs::write(&path, "old").unwrap();
            // left behind by another
            fs::write(folder.path().join(hidden_name(b"a", 0)), "left").unwrap();
            let mut new = Unnamed::make(&path, nameless).unwrap();
            new.file().write_all(b"new").unwrap();
            assert_eq!(new.name(false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&path).unwrap(), b"old");
            drop(new);
            assert_eq!(names(folder.path()).len(), 2);
            let mut new = Unnamed::make(&path, nameless).unwrap();
            new.file().write_all(b"new").unwrap();
            new.name(true).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            assert_eq!(names(folder.path()).len(), 2);
        }
    }

    #[test]
    fn one_that_is_given_up_is_gone_and_a_folder_that_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        for nameless in [true, false] {
            drop(Unnamed::make(&folder.path().join("a"), nameless).unwrap());
            assert!(names(folder.path()).is_empty());
        }
        let error = Unnamed::new(&folder.path().join("no/a")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(Unnamed::new(Path::new("/")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
