//! Writes the manual pages and the completions, which are kept in the repository.

use crate::args::{Cli, GenerateArgs};
use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use pageherd::cli::Exit;
use std::fs;
use std::path::Path;

pub(crate) fn run(args: &GenerateArgs) -> Result<Exit> {
    // The width of a terminal must not decide what the manual says.
    let mut command = Cli::command().term_width(100);
    command.build();
    fs::create_dir_all(&args.man).context("the folder of the manual")?;
    pages(&command, "memscan", &args.man)?;
    fs::create_dir_all(&args.completions).context("the folder of the completions")?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut Cli::command(), "memscan", &args.completions)
            .context("the completions")?;
    }
    Ok(Exit::Ok)
}

/// One page for the command and one for each of its subcommands.
fn pages(command: &Command, name: &str, folder: &Path) -> Result<()> {
    let mut page = Vec::new();
    let named = command.clone().name(name.to_owned()).display_name(name.to_owned());
    let man = Man::new(named).title(name.to_uppercase()).section("1").manual("pageherd");
    man.render(&mut page)?;
    page.extend(exit_status().into_bytes());
    fs::write(folder.join(format!("{name}.1")), page).context("a manual page")?;
    for sub in command.get_subcommands().filter(|s| !s.is_hide_set() && s.get_name() != "help") {
        pages(sub, &format!("{name}-{}", sub.get_name()), folder)?;
    }
    Ok(())
}

fn exit_status() -> String {
    let rows =
        Exit::TABLE.map(|(exit, meaning)| format!(".TP\n\\fB{}\\fR\n{meaning}\n", exit as u8));
    format!(".SH \"EXIT STATUS\"\n{}", rows.concat())
}
