//! mig-recv: a stream of mig-send as memory that shares what it shared.

mod args;
mod explain;
mod run;
mod texts;

use args::Cli;
use clap::Parser;
use std::process::ExitCode;

/// The command's name in messages.
const NAME: &str = "mig-recv";

fn main() -> ExitCode {
    pageherd::cli::start::command(NAME, Cli::try_parse(), run::run)
}
