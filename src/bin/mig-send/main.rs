//! mig-send: memory of virtual machines as a stream, with nothing in it that the far end has.

mod args;
mod bill;
mod run;
mod texts;

use args::Cli;
use clap::Parser;
use std::process::ExitCode;

/// The command's name in messages.
const NAME: &str = "mig-send";

fn main() -> ExitCode {
    pageherd::cli::start::command(NAME, Cli::try_parse(), run::run)
}
