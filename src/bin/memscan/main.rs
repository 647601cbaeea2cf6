//! memscan: which memory virtual machines share, with whom, through what, why not, and what a move
//! would cost.

mod args;
mod common;
mod diff;
mod ksm;
mod map;
mod matrix;
mod summary;
mod texts;
mod watch;
mod whatif;
mod why;

use args::{Cli, Command};
use clap::CommandFactory;
use pageherd::cli::Exit;
use pageherd::cli::manual::Book;
use pageherd::cli::start::{self, Tool};
use pageherd::cli::usage;
use std::process::ExitCode;

/// The command's name in messages.
const NAME: &str = "memscan";

fn main() -> ExitCode {
    // a report that its reader does not want any more has served
    pageherd::sys::signal::die_quietly_on_closed_pipe();
    start::command::<Cli>(&Tool { name: NAME, book, hint }, run)
}

fn book() -> Book {
    Book {
        page: &texts::MEMSCAN,
        synopsis: &[],
        subcommands: &texts::PAGES,
        exit: "A pipe that its reader closes ends memscan by SIGPIPE, without a word (141 in a shell).",
        see: &["mig-send(1)", "proc(5)", "madvise(2)", "capabilities(7)"],
        shared: false,
    }
}

/// A word without a colon where a target is wanted may be a subcommand, misspelt or in the wrong
/// place.
fn hint(error: &clap::Error) -> Option<String> {
    let value = usage::value(error)?;
    let target = usage::argument(error).is_some_and(|arg| arg.contains("TARGET"));
    if !target || value.contains(':') || value.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let commands = usage::subcommands(&Cli::command());
    Some(match commands.iter().any(|command| command == value) {
        true => format!("; a subcommand comes first: '{NAME} {value} …'"),
        false => format!(", or one of the subcommands {}", commands.join(", ")),
    })
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    match cli.command {
        None => summary::run(&cli.summary),
        Some(Command::Summary(args)) => summary::run(&args),
        Some(Command::Matrix(args)) => matrix::run(&args),
        Some(Command::WhatIf(args)) => whatif::run(&args),
        Some(Command::Why(args)) => why::run(&args),
        Some(Command::Ksm(args)) => ksm::run(&args),
        Some(Command::Map(args)) => map::run(&args),
        Some(Command::Record(args)) => map::record(&args),
        Some(Command::Diff(args)) => diff::run(&args),
        Some(Command::Watch(args)) => watch::run(&args),
    }
}
