//! mig-recv: a stream of mig-send as memory that shares what it shared.

mod args;
mod explain;
mod run;
mod texts;
mod vmm;

use args::Cli;
use pageherd::cli::manual::Book;
use pageherd::cli::moves;
use pageherd::cli::start::{self, Tool};
use std::process::ExitCode;

/// The command's name in messages.
const NAME: &str = "mig-recv";

fn main() -> ExitCode {
    start::command::<Cli>(&Tool { name: NAME, book, hint }, |cli| run::run(&cli))
}

fn book() -> Book {
    Book {
        page: &texts::MIG_RECV,
        synopsis: &texts::USAGE,
        subcommands: &[],
        exit: moves::CLOSED_PIPE,
        see: &["mig-send(1)", "memscan(1)", "pageherd-qemu(7)", "ssh(1)", "capabilities(7)"],
        shared: false,
    }
}

/// Flags of the other end, and what is meant by a word without a flag.
fn hint(error: &clap::Error) -> Option<String> {
    moves::hint(
        error,
        &[
            (
                "--to",
                "the receiver says where from: --from ADDRESS; and where to keep it: --into DIR",
            ),
            (
                "--filters",
                "the sender chooses them; an external one is named here by --filter exec:CMD",
            ),
            ("--incoming", "that is for QEMU: -incoming \"exec:mig-recv --qemu …\""),
            ("--end", "to end a group: --group NAME --end-group"),
            ("--move", "the sender says that"),
            ("--resolve", "the sender asks: mig-send --resolve SESSION --to ADDRESS"),
        ],
        "a herd is named by --into DIR, a stream by --from ADDRESS",
    )
}
