//! Writes the manual pages and the completions, which are kept in the repository.

use crate::args::{Cli, GenerateArgs};
use crate::page::{Page, Part, Section};
use crate::texts::{MEMSCAN, PAGES};
use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use pageherd::cli::Exit;
use std::fmt::Write;
use std::fs;
use std::path::Path;

pub(crate) fn run(args: &GenerateArgs) -> Result<Exit> {
    // The width of a terminal must not decide what the manual says.
    let mut command = Cli::command().term_width(100);
    command.build();
    fs::create_dir_all(&args.man).context("the folder of the manual")?;
    page(&command, "memscan", &MEMSCAN, &args.man)?;
    for (name, text) in &PAGES {
        let sub = command.find_subcommand(name).with_context(|| format!("no subcommand {name}"))?;
        page(sub, &format!("memscan-{name}"), text, &args.man)?;
    }
    fs::create_dir_all(&args.completions).context("the folder of the completions")?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut shown(), "memscan", &args.completions)
            .context("the completions")?;
    }
    Ok(Exit::Ok)
}

/// The command without what is hidden: completions would offer it all the same.
fn shown() -> Command {
    let all = Cli::command();
    Command::new("memscan")
        .version(env!("CARGO_PKG_VERSION"))
        .args(all.get_arguments().cloned())
        .subcommands(all.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned())
}

/// One page: the flags as the parser has them, then the texts.
fn page(command: &Command, name: &str, text: &Page, folder: &Path) -> Result<()> {
    let mut page = Vec::new();
    let named = command.clone().name(name.to_owned()).display_name(name.to_owned());
    let man = Man::new(named);
    let title = name.to_uppercase();
    // By hand: without a date, that pages do not change from day to day.
    let version = env!("CARGO_PKG_VERSION");
    page.extend(format!(".TH {title} 1 \"\" \"pageherd {version}\" pageherd\n").into_bytes());
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut rest = String::new();
    if name == "memscan" {
        subcommands(command, &mut rest);
    }
    let (examples, others): (Vec<&Section>, Vec<&Section>) =
        text.sections.iter().partition(|s| s.title == "Examples");
    others.iter().for_each(|s| section(s, &mut rest));
    exit_status(&mut rest);
    examples.iter().for_each(|s| section(s, &mut rest));
    see_also(name, &mut rest);
    page.extend(rest.into_bytes());
    let page: String =
        String::from_utf8(page)?.lines().map(|l| l.trim_end().to_owned() + "\n").collect();
    fs::write(folder.join(format!("{name}.1")), page).context("a manual page")
}

fn subcommands(command: &Command, out: &mut String) {
    out.push_str(".SH COMMANDS\n");
    for sub in command.get_subcommands().filter(|s| !s.is_hide_set() && s.get_name() != "help") {
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        let name = roff(&format!("memscan-{}", sub.get_name()));
        let _ = writeln!(out, ".TP\n\\fB{name}\\fR(1)\n{}", roff(&about));
    }
}

fn section(section: &Section, out: &mut String) {
    let _ = writeln!(out, ".SH \"{}\"", section.title.to_uppercase());
    for (i, part) in section.parts.iter().enumerate() {
        match part {
            Part::Text(text) => {
                let paragraph = if i > 0 { ".PP\n" } else { "" };
                let _ = writeln!(out, "{paragraph}{}", roff(text));
            }
            Part::Terms(terms) => {
                for (word, meaning) in *terms {
                    let _ = writeln!(out, ".TP\n\\fB{}\\fR\n{}", roff_line(word), roff(meaning));
                }
            }
            Part::Examples(all) => {
                for (n, (command, what)) in all.iter().enumerate() {
                    let paragraph = if i + n > 0 { ".PP\n" } else { "" };
                    let _ = writeln!(
                        out,
                        "{paragraph}{}\n.PP\n.RS 4\n.nf\n{}\n.fi\n.RE",
                        roff(what),
                        roff_line(command)
                    );
                }
            }
        }
    }
}

fn exit_status(out: &mut String) {
    out.push_str(".SH \"EXIT STATUS\"\n");
    for (exit, meaning) in Exit::TABLE {
        let _ = writeln!(out, ".TP\n\\fB{}\\fR\n{}", exit as u8, roff(meaning));
    }
    out.push_str(
        ".PP\nA pipe that its reader closes ends memscan by SIGPIPE, without a word (141 in a shell).\n",
    );
}

fn see_also(name: &str, out: &mut String) {
    out.push_str(".SH \"SEE ALSO\"\n");
    let own = std::iter::once("memscan".to_owned())
        .chain(PAGES.iter().map(|(sub, _)| format!("memscan-{sub}")));
    for page in own.filter(|page| page != name) {
        let _ = writeln!(out, ".BR {} (1),", roff_line(&page));
    }
    out.push_str(".BR proc (5),\n.BR madvise (2),\n.BR capabilities (7)\n");
}

/// Text as roff takes it, blanks of any kind as one.
fn roff(text: &str) -> String {
    roff_line(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A line of text as roff takes it: nothing in it is a request or an escape.
fn roff_line(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}
