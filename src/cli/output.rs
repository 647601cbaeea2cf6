//! Writing results: to standard output or to a file, every byte checked.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Writes text to standard output.
pub fn text(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("standard output")
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

/// A file that appears whole or not at all: written beside its name, then renamed.
#[derive(Debug)]
pub struct WholeFile {
    path: PathBuf,
    part: PathBuf,
    out: Option<BufWriter<File>>,
}

impl WholeFile {
    /// Begins the file `path`, readable by its owner alone: who shares memory is a secret.
    pub fn create(path: &Path) -> Result<Self> {
        let name =
            path.file_name().with_context(|| format!("{} is no file name", path.display()))?;
        let part =
            path.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)
            .with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self { path: path.to_owned(), part, out: Some(BufWriter::new(file)) })
    }

    /// Ends the file: it is on the disk and under its name.
    pub fn finish(mut self) -> Result<()> {
        let path = self.path.clone();
        let failed = || format!("{} cannot be written", path.display());
        if let Some(out) = self.out.take() {
            let file =
                out.into_inner().map_err(io::IntoInnerError::into_error).with_context(failed)?;
            file.sync_all().with_context(failed)?;
        }
        fs::rename(&self.part, &self.path).with_context(failed)
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
        let _ = fs::remove_file(&self.part);
    }
}

/// Where a result goes: `-` is standard output, which must not be a terminal for binary data.
#[derive(Debug)]
pub enum Sink {
    /// Standard output.
    Stdout(BufWriter<io::Stdout>),
    /// A file.
    File(WholeFile),
}

impl Sink {
    /// Opens the sink.
    pub fn open(path: &Path, binary: bool) -> Result<Self> {
        if path != Path::new("-") {
            return WholeFile::create(path).map(Self::File);
        }
        if binary && io::stdout().is_terminal() {
            bail!(super::exit::Misuse(
                "binary data is not written to a terminal: name a file, or use a pipe".into()
            ));
        }
        Ok(Self::Stdout(BufWriter::new(io::stdout())))
    }

    /// Writes out what is left; a file gets its name.
    pub fn finish(self) -> Result<()> {
        match self {
            Self::Stdout(mut out) => out.flush().context("standard output"),
            Self::File(file) => file.finish(),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::File(file) => file.flush(),
        }
    }
}

/// Writes `content` to the file `path`, whole or not at all; `-` is standard output.
pub fn file(path: &Path, content: &[u8]) -> Result<()> {
    let mut sink = Sink::open(path, false)?;
    sink.write_all(content).with_context(|| format!("{} cannot be written", path.display()))?;
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
        assert!(file(Path::new("/no/such/folder/x"), b"").is_err());
        assert!(file(Path::new("/"), b"").is_err());
    }
}
