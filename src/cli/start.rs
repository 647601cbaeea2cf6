//! How a command begins and ends: parse, run, one line for an error, an exit code.
//!
//! memscan ends quietly when its reader goes away; what carries memory does not: there SIGPIPE stays
//! ignored, as Rust programs start, and a closed pipe is a failed transfer.

use super::args::Color;
use super::exit::Misuse;
use super::manual::{self, Book};
use super::{Exit, exit, output, usage};
use clap::Parser;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// What a command is beside its flags.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// Its name, in messages.
    pub name: &'static str,
    /// What the manual says of it.
    pub book: fn() -> Book,
    /// What to write instead of a wrong command line, where that is known: words that are added to
    /// what the parser says.
    pub hint: fn(&clap::Error) -> Option<String>,
}

/// Runs a command whose flags are `A`.
pub fn command<A: Parser>(tool: &Tool, run: impl FnOnce(A) -> anyhow::Result<Exit>) -> ExitCode {
    crate::sys::signal::too_large_files_are_errors();
    let name = tool.name;
    let work = || -> anyhow::Result<Exit> {
        if let Some((man, completions)) = generate(std::env::args_os().skip(1))? {
            return manual::write(A::command(), &(tool.book)(), &man, &completions);
        }
        match A::try_parse() {
            Ok(args) => run(args),
            Err(e) if e.use_stderr() => {
                say(&usage::message(&A::command(), &e, (tool.hint)(&e).as_deref()));
                Ok(Exit::Usage)
            }
            // --help or --version
            Err(e) => help(&e).map(|()| Exit::Ok),
        }
    };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(Ok(exit)) => exit.into(),
        Ok(Err(error)) => {
            say(&exit::message(name, &error));
            exit::code_of(&error).into()
        }
        Err(_) => {
            say(&format!("{name}: this is a bug in {name}: please report it with the lines above"));
            Exit::Bug.into()
        }
    }
}

/// `generate MAN COMPLETIONS`: folders for the manual and the completions. It is for who builds the
/// command and not for who uses it, so the parser, and with it help and completions, know nothing
/// of it.
fn generate(
    mut words: impl Iterator<Item = OsString>,
) -> Result<Option<(PathBuf, PathBuf)>, Misuse> {
    if words.next().is_none_or(|word| word != "generate") {
        return Ok(None);
    }
    match (words.next(), words.next(), words.next()) {
        (Some(man), Some(completions), None) => Ok(Some((man.into(), completions.into()))),
        _ => Err(Misuse("generate wants two folders: generate <MAN> <COMPLETIONS>".to_owned())),
    }
}

fn help(asked: &clap::Error) -> anyhow::Result<()> {
    let words = asked.render();
    output::text(&match Color::Auto.on_stdout() {
        true => words.ansi().to_string(),
        false => words.to_string(),
    })
}

/// On standard error, where it can be said at all.
fn say(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}
