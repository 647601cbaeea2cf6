//! How a command of one kind begins and ends: parse, run, one line for an error, an exit code.
//!
//! memscan ends quietly when its reader goes away; what carries memory does not: there SIGPIPE stays
//! ignored, as Rust programs start, and a closed pipe is a failed transfer.

use super::args::Color;
use super::{Exit, exit, output};
use std::io::Write;
use std::process::ExitCode;

/// Runs a command whose flags were parsed.
pub fn command<A>(
    name: &str,
    parsed: Result<A, clap::Error>,
    run: impl FnOnce(&A) -> anyhow::Result<Exit>,
) -> ExitCode {
    let args = match parsed {
        Ok(args) => args,
        Err(e) if e.use_stderr() => {
            say(&misuse(name, &e));
            return Exit::Usage.into();
        }
        // --help or --version
        Err(e) => return end(name, help(&e).map(|()| Exit::Ok)),
    };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&args))) {
        Ok(result) => end(name, result),
        Err(_) => {
            say(&format!("{name}: this is a bug in {name}: please report it with the lines above"));
            Exit::Bug.into()
        }
    }
}

/// The parser's words in the form that every other message has.
pub fn misuse(name: &str, error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let mut words = Vec::new();
    for line in rendered.lines().map(str::trim) {
        if line.starts_with("Usage:") || line.starts_with("For more information") {
            break;
        }
        // that an option can be passed as a value is never what was meant here
        if !line.is_empty() && !line.starts_with("tip: to pass") {
            words.push(line.strip_prefix("error: ").unwrap_or(line));
        }
    }
    let said = words.join(" ");
    format!("{name}: {}; try '{name} --help'", said.trim_end_matches('.'))
}

fn help(asked: &clap::Error) -> anyhow::Result<()> {
    let words = asked.render();
    output::text(&match Color::Auto.on_stdout() {
        true => words.ansi().to_string(),
        false => words.to_string(),
    })
}

fn end(name: &str, result: anyhow::Result<Exit>) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            say(&exit::message(name, &error));
            exit::code_of(&error).into()
        }
    }
}

/// On standard error, where it can be said at all.
fn say(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}
