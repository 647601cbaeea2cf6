//! mig-send: memory of virtual machines as a stream, with nothing in it that the far end has.

mod args;
mod bill;
mod run;
mod texts;
mod vmm;

use args::Cli;
use pageherd::cli::manual::Book;
use pageherd::cli::moves;
use pageherd::cli::start::{self, Tool};
use std::process::ExitCode;

/// The command's name in messages.
const NAME: &str = "mig-send";

fn main() -> ExitCode {
    start::command::<Cli>(&Tool { name: NAME, book, hint }, |cli| run::run(&cli))
}

fn book() -> Book {
    Book {
        page: &texts::MIG_SEND,
        synopsis: &texts::USAGE,
        subcommands: &[],
        exit: moves::CLOSED_PIPE,
        see: &["mig-recv(1)", "memscan(1)", "ssh(1)", "signal(7)", "capabilities(7)"],
        shared: true,
    }
}

/// Flags of the other end, and what is meant by a word without a flag.
fn hint(error: &clap::Error) -> Option<String> {
    moves::hint(
        error,
        &[
            ("--from", "the sender says where to: --to ADDRESS"),
            ("--into", "that is for mig-recv; here: --to 'exec:ssh HOST mig-recv --into DIR'"),
            ("--image", "that is for mig-recv; to send an image: --vm NAME=image:FILE"),
            ("--streams", "that is for mig-recv"),
            ("--explain", "that is for mig-recv"),
            ("--incoming", "that is for QEMU: -incoming \"exec:mig-recv --qemu …\""),
            ("--pool-max", "the receiver keeps the pages: mig-recv --pool-max SIZE"),
            ("--end", "to end a group: --group NAME --end-group"),
            ("--leave", "that is for memscan what-if; to give memory up: --move"),
        ],
        "name a VM by --vm, as in --vm web=pid:4711",
    )
}
