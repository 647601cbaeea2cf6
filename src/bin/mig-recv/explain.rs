//! `--explain`.

use crate::NAME;
use anyhow::{Context, Result};
use pageherd::cli::Exit;
use pageherd::cli::exit::CannotWrite;
use pageherd::cli::output::remark;
use pageherd::wire::explain::{Explained, explain};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

/// Prints a stream, annotated. What is wrong with it is said where it is, and by the exit status.
pub(crate) fn run(path: &Path, quiet: bool) -> Result<Exit> {
    let input: Box<dyn Read> = match path == Path::new("-") {
        true => Box::new(io::stdin().lock()),
        false => {
            let file = File::open(path);
            Box::new(file.with_context(|| format!("{} cannot be opened", path.display()))?)
        }
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let explained = explain(&mut BufReader::new(input), &mut out).and_then(|explained| {
        out.flush()?;
        Ok(explained)
    });
    match explained {
        // a reader that has seen enough, as of `| head`
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Ok),
        Err(e) => Err(CannotWrite::new(Path::new("-"), e).into()),
        Ok(explained) => Ok(end(&explained, quiet)),
    }
}

fn end(explained: &Explained, quiet: bool) -> Exit {
    match explained {
        Explained::Whole { .. } => Exit::Ok,
        Explained::Wrong { error, .. } => {
            remark(NAME, quiet, &error.to_string());
            Exit::Data
        }
    }
}
