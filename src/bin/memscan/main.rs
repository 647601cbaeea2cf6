//! memscan: which memory virtual machines share, with whom, through what, why not, and what a move
//! would cost.

mod args;
mod common;
mod diff;
mod generate;
mod ksm;
mod map;
mod matrix;
mod page;
mod summary;
mod texts;
mod usage;
mod watch;
mod whatif;
mod why;

use args::{Cli, Command};
use clap::Parser;
use pageherd::cli::args::Color;
use pageherd::cli::{Exit, exit, output};
use std::io::Write;
use std::process::ExitCode;

/// The command's name in messages.
const NAME: &str = "memscan";

fn main() -> ExitCode {
    pageherd::sys::signal::die_quietly_on_closed_pipe();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if e.use_stderr() => {
            say(&usage::message(&e));
            return Exit::Usage.into();
        }
        // --help or --version
        Err(e) => return end(help(&e).map(|()| Exit::Ok)),
    };
    match std::panic::catch_unwind(|| run(cli)) {
        Ok(result) => end(result),
        Err(_) => {
            say("memscan: this is a bug in memscan: please report it with the lines above");
            Exit::Bug.into()
        }
    }
}

fn help(asked: &clap::Error) -> anyhow::Result<()> {
    let words = asked.render();
    output::text(&match Color::Auto.on_stdout() {
        true => words.ansi().to_string(),
        false => words.to_string(),
    })
}

fn end(result: anyhow::Result<Exit>) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            say(&exit::message(NAME, &error));
            exit::code_of(&error).into()
        }
    }
}

/// On standard error, where it can be said at all.
fn say(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
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
        Some(Command::Generate(args)) => generate::run(&args),
    }
}
