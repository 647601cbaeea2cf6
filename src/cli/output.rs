//! Writing results: to standard output or to a file, every byte checked.

use super::exit::{CannotWrite, Misuse};
use anyhow::{Context, Result, bail};
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Writes text to standard output.
pub fn text(text: &str) -> Result<()> {
    let mut out = stdout()?.lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|e| CannotWrite::new(Path::new("-"), e).into())
}

/// Standard output, if we were started with one: what is written to a closed descriptor is lost.
fn stdout() -> Result<io::Stdout> {
    if crate::sys::stdio::stdout_was_closed() {
        let closed = io::Error::other("it is closed: send it to a file or a pipe");
        return Err(CannotWrite::new(Path::new("-"), closed).into());
    }
    Ok(io::stdout())
}

/// Writes a value as JSON, indented on a terminal, in one line elsewhere.
pub fn json(value: &impl Serialize) -> Result<()> {
    let mut line = if io::stdout().is_terminal() {
        serde_json::to_string_pretty(value)?
    } else {
        serde_json::to_string(value)?
    };
    line.push('\n');
    text(&line)
}

/// A word to the user on standard error; that it cannot be said is no failure.
pub fn remark(name: &str, quiet: bool, words: &str) {
    if !quiet {
        let _ = writeln!(io::stderr(), "{name}: {words}");
    }
}

/// A file that appears whole or not at all, however the program ends: it has no name until it is
/// finished (`O_TMPFILE`), or on file systems without that, one beside its own.
#[derive(Debug)]
pub struct WholeFile {
    path: PathBuf,
    part: PathBuf,
    named: bool,
    out: Option<BufWriter<File>>,
}

impl WholeFile {
    /// Begins the file `path`. One that exists keeps its permissions; a new one is readable by its
    /// owner alone, for who shares memory is a secret.
    pub fn create(path: &Path) -> Result<Self> {
        let failed = |e| CannotWrite::new(path, e);
        // Through a symbolic link, as any other program would write it.
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let name =
            real.file_name().with_context(|| format!("{} is no file name", path.display()))?;
        let part =
            real.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), std::process::id()));
        let folder = real.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let options = || {
            let mut options = OpenOptions::new();
            options.write(true).mode(0o600);
            options
        };
        let unnamed = options().custom_flags(nix::libc::O_TMPFILE).open(folder);
        let (file, named) = match unnamed {
            Ok(file) => (file, false),
            Err(_) => (options().create_new(true).open(&part).map_err(failed)?, true),
        };
        let begun = Self { path: real, part, named, out: Some(BufWriter::new(file)) };
        if let Ok(old) = fs::metadata(&begun.path) {
            begun.set_mode(old.permissions()).map_err(failed)?;
        }
        Ok(begun)
    }

    fn set_mode(&self, mode: fs::Permissions) -> io::Result<()> {
        self.out.as_ref().map_or(Ok(()), |out| out.get_ref().set_permissions(mode))
    }

    /// Ends the file: it is on the disk and under its name.
    pub fn finish(mut self) -> Result<()> {
        self.settle().map_err(|e| CannotWrite::new(&self.path, e).into())
    }

    fn settle(&mut self) -> io::Result<()> {
        let Some(out) = self.out.take() else { return Ok(()) };
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        if !self.named {
            let open = format!("/proc/self/fd/{}", file.as_raw_fd());
            linkat(AT_FDCWD, open.as_str(), AT_FDCWD, &self.part, AtFlags::AT_SYMLINK_FOLLOW)?;
            self.named = true;
        }
        fs::rename(&self.part, &self.path)?;
        self.named = false;
        Ok(())
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.as_mut().map_or(Ok(0), |out| out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for WholeFile {
    /// What was not finished leaves nothing behind.
    fn drop(&mut self) {
        drop(self.out.take());
        if self.named {
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// Where a result goes: `-` is standard output. Binary data does not go to a terminal.
#[derive(Debug)]
pub enum Sink {
    /// Standard output.
    Stdout(BufWriter<io::Stdout>),
    /// A device or a named pipe, which is written and never replaced.
    Device(BufWriter<File>, PathBuf),
    /// A file.
    File(WholeFile),
}

impl Sink {
    /// Opens the sink.
    pub fn open(path: &Path, binary: bool) -> Result<Self> {
        let refuse = |terminal: bool| match binary && terminal {
            true => Err(Misuse(
                "binary data is not written to a terminal: name a file with -o, or use a pipe"
                    .into(),
            )),
            false => Ok(()),
        };
        if path == Path::new("-") {
            let out = stdout()?;
            refuse(out.is_terminal())?;
            return Ok(Self::Stdout(BufWriter::new(out)));
        }
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => {
                bail!(Misuse(format!("{} is a directory: name a file in it", path.display())))
            }
            Ok(meta) if !meta.is_file() => {
                let device = OpenOptions::new().write(true).open(path);
                let device = device.map_err(|e| CannotWrite::new(path, e))?;
                refuse(device.is_terminal())?;
                Ok(Self::Device(BufWriter::new(device), path.to_owned()))
            }
            _ => WholeFile::create(path).map(Self::File),
        }
    }

    /// Writes out what is left; a file gets its name.
    pub fn finish(self) -> Result<()> {
        match self {
            Self::Stdout(mut out) => {
                out.flush().map_err(|e| CannotWrite::new(Path::new("-"), e).into())
            }
            Self::Device(mut out, path) => {
                out.flush().map_err(|e| CannotWrite::new(&path, e).into())
            }
            Self::File(file) => file.finish(),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::Device(out, _) => out.write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::Device(out, _) => out.flush(),
            Self::File(file) => file.flush(),
        }
    }
}

/// Writes `content` to the file `path`, whole or not at all; `-` is standard output.
pub fn file(path: &Path, content: &[u8]) -> Result<()> {
    put(Sink::open(path, false)?, path, content)
}

/// The same for a file that programs of other users read, as collectors of metrics do.
pub fn public_file(path: &Path, content: &[u8]) -> Result<()> {
    let sink = Sink::open(path, false)?;
    if let Sink::File(file) = &sink
        && !path.exists()
    {
        let failed = |e| CannotWrite::new(path, e);
        file.set_mode(fs::Permissions::from_mode(0o644)).map_err(failed)?;
    }
    put(sink, path, content)
}

fn put(mut sink: Sink, path: &Path, content: &[u8]) -> Result<()> {
    sink.write_all(content).map_err(|e| CannotWrite::new(path, e))?;
    sink.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_or_absent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut half = WholeFile::create(&path).unwrap();
        half.write_all(b"half").unwrap();
        drop(half);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        file(&path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        file(&path, b"again").unwrap();
        assert_eq!((mode(&path), fs::read(&path).unwrap()), (0o640, b"again".to_vec()));
        assert!(file(Path::new("/no/such/folder/x"), b"").is_err());
        assert!(file(Path::new("/"), b"").is_err());
    }

    #[test]
    fn a_link_is_followed_and_a_device_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        file(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"new");
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        file(&link, b"nowhere").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("/dev/full", &link).unwrap();
        assert!(file(&link, b"full").unwrap_err().to_string().contains("cannot be written"));
    }
}
