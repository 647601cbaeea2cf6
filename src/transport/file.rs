//! `file:PATH[,offset=N]`: a file that appears whole or not at all; with an offset a file or a
//! block device that is written in place; a named pipe or another device as it is.

use super::plain::{Medium, Plain};
use super::{Channel, End, Options, Source, TransportError};
use crate::base::address::Address;
use crate::sys::unnamed::Unnamed;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

fn address(path: &Path, offset: Option<u64>) -> String {
    Address::File { path: path.into(), offset }.to_string()
}

/// Opens `path` for a receiver. A named pipe waits here for its writer.
pub(super) fn read(
    path: &Path,
    offset: Option<u64>,
    options: &Options,
) -> Result<Channel, TransportError> {
    let what = address(path, offset);
    let mut file = File::open(path).map_err(|e| TransportError::of(&what, "open it", e))?;
    let kind = file.metadata().map_err(|e| TransportError::of(&what, "look at it", e))?;
    if kind.is_dir() {
        return Err(directory(what));
    }
    if let Some(offset) = offset {
        seek(&mut file, offset, &what)?;
        if kind.is_file() && kind.len() < offset {
            let why = format!("it has {} bytes, and the offset is behind them", kind.len());
            return Err(TransportError::Refused { what, why });
        }
    }
    let plain = Plain::new(file, &what, options)?;
    let strict = offset.is_none();
    Ok(Channel { strict, ..Channel::of_plain(Some(plain.clone()), None, plain) })
}

/// Opens `path` for a sender. A named pipe waits here for its reader.
pub(super) fn write(
    path: &Path,
    offset: Option<u64>,
    options: &Options,
) -> Result<Channel, TransportError> {
    let what = address(path, offset);
    let special = match fs::metadata(path) {
        Ok(kind) if kind.is_dir() => return Err(directory(what)),
        Ok(kind) => !kind.is_file(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(TransportError::of(&what, "look at it", error)),
    };
    match offset {
        Some(offset) => in_place(path, offset, special, what, options),
        None if special => as_it_is(path, &what, options),
        None => whole(path, &what, options),
    }
}

fn directory(what: String) -> TransportError {
    let why = "it is a directory: name a file in it".into();
    TransportError::Refused { what, why }
}

fn seek(file: &mut File, offset: u64, what: &str) -> Result<(), TransportError> {
    let at = file.seek(SeekFrom::Start(offset));
    at.map(drop).map_err(|e| TransportError::of(what, "go to its offset", e))
}

/// A device, a named pipe: neither made nor emptied.
fn as_it_is(path: &Path, what: &str, options: &Options) -> Result<Channel, TransportError> {
    let file = OpenOptions::new().write(true).open(path);
    let file = file.map_err(|e| TransportError::of(what, "open it", e))?;
    let kind = file.metadata().map_err(|e| TransportError::of(what, "look at it", e))?.file_type();
    if kind.is_socket() || !(kind.is_fifo() || kind.is_block_device() || kind.is_char_device()) {
        // it was something else a moment ago: a file would be overwritten from its start
        let why = "it was replaced while it was opened: try again".into();
        return Err(TransportError::Refused { what: what.into(), why });
    }
    let plain = Plain::new(file, what, options)?;
    Ok(Channel::of_plain(None, Some(plain.clone()), plain))
}

/// From `offset` on, with what stands before and behind left as it is.
fn in_place(
    path: &Path,
    offset: u64,
    special: bool,
    what: String,
    options: &Options,
) -> Result<Channel, TransportError> {
    let mut open = OpenOptions::new();
    open.write(true).create(!special).truncate(false).mode(0o600);
    let mut file = open.open(path).map_err(|e| TransportError::of(&what, "open it", e))?;
    seek(&mut file, offset, &what)?;
    let plain = Plain::new(file, &what, options)?;
    let end = InPlace { plain: plain.clone(), folder: folder(path) };
    Ok(Channel { what, end: Box::new(end), ..Channel::of_plain(None, Some(plain.clone()), plain) })
}

/// Without a name, until it is done.
fn whole(path: &Path, what: &str, options: &Options) -> Result<Channel, TransportError> {
    if path.file_name().is_none() {
        let why = "it ends in no name: name a file".into();
        return Err(TransportError::Refused { what: what.into(), why });
    }
    let unnamed = Unnamed::new(path);
    let unnamed = unnamed.map_err(|e| TransportError::of(what, "make a file there", e))?;
    let file = unnamed.file().try_clone();
    let plain =
        Plain::new(file.map_err(|e| TransportError::of(what, "open it", e))?, what, options)?;
    let end = Whole { plain: plain.clone(), unnamed, folder: folder(path) };
    Ok(Channel { end: Box::new(end), ..Channel::of_plain(None, Some(plain.clone()), plain) })
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.into(),
        _ => ".".into(),
    }
}

/// Brings the names in `folder` to the disk. Some file systems have nothing to do there and say so.
fn sync_folder(folder: &File, what: &str) -> Result<(), TransportError> {
    match folder.sync_all() {
        Err(e) if !matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EROFS)) => {
            Err(TransportError::of(what, "bring its name to the disk", e))
        }
        _ => Ok(()),
    }
}

/// The end of a file that is written in place.
struct InPlace {
    plain: Plain,
    folder: PathBuf,
}

impl End for InPlace {
    fn finish(self: Box<Self>, _input: Option<Box<dyn Source>>) -> Result<(), TransportError> {
        self.plain.sync()?;
        if self.plain.medium == Medium::File {
            let folder = File::open(&self.folder);
            let folder =
                folder.map_err(|e| TransportError::of(&self.plain.what, "open its folder", e))?;
            sync_folder(&folder, &self.plain.what)
        } else {
            Ok(())
        }
    }
}

/// The end of a file that appears whole.
struct Whole {
    plain: Plain,
    unnamed: Unnamed,
    folder: PathBuf,
}

impl End for Whole {
    fn finish(mut self: Box<Self>, _input: Option<Box<dyn Source>>) -> Result<(), TransportError> {
        let failed = |doing| {
            let what = self.plain.what.clone();
            move |e| TransportError::of(&what, doing, e)
        };
        self.plain.sync()?;
        // opened first: once it has its name nothing more may fail
        let folder = File::open(&self.folder).map_err(failed("open its folder"))?;
        self.unnamed.name(true).map_err(failed("give it its name"))?;
        sync_folder(&folder, &self.plain.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    fn fill(channel: &mut Channel, bytes: &[u8]) {
        channel.output.as_mut().unwrap().write_all(bytes).unwrap();
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "old").unwrap();
        let mut channel = write(&path, None, &Options::default()).unwrap();
        assert!(channel.is_file && channel.input.is_none());
        fill(&mut channel, b"new and longer");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        channel.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new and longer");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn a_file_that_is_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x".repeat(250));
        fs::write(&path, "old").unwrap();
        for end in [|c: Channel| drop(c), |c: Channel| c.abort().unwrap()] {
            let mut channel = write(&path, None, &Options::default()).unwrap();
            fill(&mut channel, b"half");
            assert_eq!(names(folder.path()).len(), 1, "it has no name yet");
            end(channel);
            assert_eq!(names(folder.path()).len(), 1);
            assert_eq!(fs::read(&path).unwrap(), b"old");
        }
    }

    #[test]
    fn a_link_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, victim) = (folder.path().join("a"), folder.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let mut channel = write(&path, None, &Options::default()).unwrap();
        fill(&mut channel, b"memory");
        channel.finish().unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn two_writers_of_one_name_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut first = write(&path, None, &Options::default()).unwrap();
        let mut second = write(&path, None, &Options::default()).unwrap();
        fill(&mut first, b"first");
        fill(&mut second, b"second");
        first.finish().unwrap();
        second.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn with_an_offset_a_file_is_written_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "0123456789").unwrap();
        let mut channel = write(&path, Some(3), &Options::default()).unwrap();
        fill(&mut channel, b"abc");
        channel.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"012abc6789");

        let mut channel = read(&path, Some(6), &Options::default()).unwrap();
        let mut got = String::new();
        channel.input.as_mut().unwrap().read_to_string(&mut got).unwrap();
        channel.finish().unwrap();
        assert_eq!(got, "6789");

        let error = read(&path, Some(11), &Options::default()).unwrap_err();
        assert!(error.to_string().contains("it has 10 bytes"), "{error}");
        let new = folder.path().join("new");
        write(&new, Some(0), &Options::default()).unwrap().finish().unwrap();
        assert_eq!(fs::metadata(&new).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_named_pipe_is_opened_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let to = path.clone();
        let writer = thread::spawn(move || {
            let mut channel = write(&to, None, &Options::default()).unwrap();
            assert!(!channel.is_file);
            fill(&mut channel, b"through");
            channel.finish().unwrap();
        });
        let mut channel = read(&path, None, &Options::default()).unwrap();
        let mut got = String::new();
        channel.input.as_mut().unwrap().read_to_string(&mut got).unwrap();
        assert_eq!(got, "through");
        writer.join().unwrap();
        assert_eq!(names(folder.path()), ["p"]);
    }

    #[test]
    fn a_full_device_a_folder_and_a_missing_file_are_told_apart() {
        let mut full = write(Path::new("/dev/full"), None, &Options::default()).unwrap();
        let error = full.output.as_mut().unwrap().write_all(b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let folder = tempfile::tempdir().unwrap();
        for opened in [
            write(folder.path(), None, &Options::default()),
            read(folder.path(), None, &Options::default()),
        ] {
            assert!(matches!(opened, Err(TransportError::Refused { .. })));
        }
        let error = read(&folder.path().join("x"), None, &Options::default()).unwrap_err();
        assert!(matches!(error, TransportError::Io { .. }), "{error}");
        let error = write(&folder.path().join("x/y"), None, &Options::default()).unwrap_err();
        assert!(matches!(error, TransportError::Io { .. }), "{error}");
    }
}
