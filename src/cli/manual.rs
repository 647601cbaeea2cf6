//! Writes the manual pages and the completions of a command, which are kept in the repository. The
//! flags come from the parser, the words from the same texts as `--help`.

use super::Exit;
use super::page::{Page, Part, Section};
use super::{filters, guide, man5};
use anyhow::{Context, Result};
use clap::Command;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// What the manual says of one command.
#[derive(Clone, Copy, Debug)]
pub struct Book {
    /// Of the command itself.
    pub page: &'static Page,
    /// Its command lines, where the parser's own list of all flags would teach nobody.
    pub synopsis: &'static [&'static str],
    /// Of each subcommand, by name.
    pub subcommands: &'static [(&'static str, Page)],
    /// What is said below the exit codes.
    pub exit: &'static str,
    /// Other pages to see, as `proc(5)`.
    pub see: &'static [&'static str],
    /// Does it write, and refer to, the pages that belong to no command alone?
    pub shared: bool,
}

/// Pages that belong to no command alone: names of files, and what stands in them. `mig-send`
/// writes them.
pub fn shared() -> Vec<(String, String)> {
    let mut pages = filters::pages();
    pages.extend(man5::pages());
    pages.push(guide::page());
    pages
}

/// Writes the pages of a command and its completions into two folders, which are made.
///
/// # Errors
/// A folder or a file that cannot be written; a text for a subcommand that there is none of.
pub fn write(command: Command, book: &Book, man: &Path, completions: &Path) -> Result<Exit> {
    // The width of a terminal must not decide what the manual says.
    let mut command = command.term_width(100);
    command.build();
    let name = command.get_name().to_owned();
    fs::create_dir_all(man).context("the folder of the manual")?;
    page(&command, &name, book.page, book, man)?;
    for (sub, text) in book.subcommands {
        let flags = command.find_subcommand(sub).with_context(|| format!("no subcommand {sub}"))?;
        page(flags, &format!("{name}-{sub}"), text, book, man)?;
    }
    for (file, text) in shared().iter().filter(|_| book.shared) {
        fs::write(man.join(file), text).with_context(|| format!("manual page {file}"))?;
    }
    fs::create_dir_all(completions).context("the folder of the completions")?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, &name, completions).context("the completions")?;
    }
    Ok(Exit::Ok)
}

/// The first line of a page. By hand: without a date, that pages do not change from day to day.
pub(super) fn title(name: &str, section: u8) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(".TH {} {section} \"\" \"pageherd {version}\" pageherd\n", name.to_uppercase())
}

/// One page of section 1: the flags as the parser has them, then the texts.
fn page(command: &Command, name: &str, text: &Page, book: &Book, folder: &Path) -> Result<()> {
    let named = command.clone().name(name.to_owned()).display_name(name.to_owned());
    let man = Man::new(named);
    let mut page = title(name, 1).into_bytes();
    man.render_name_section(&mut page)?;
    match book.synopsis {
        [] => man.render_synopsis_section(&mut page)?,
        lines => page.extend(synopsis(lines).into_bytes()),
    }
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut rest = String::new();
    if command.has_subcommands() {
        subcommands(command, &mut rest);
    }
    let (examples, others): (Vec<&Section>, Vec<&Section>) =
        text.sections.iter().partition(|s| s.title == "Examples");
    others.iter().for_each(|s| section(s, &mut rest));
    exit_status(book.exit, &mut rest);
    examples.iter().for_each(|s| section(s, &mut rest));
    let root = name.split_once('-').filter(|_| !book.subcommands.is_empty());
    let root = root.map_or(name, |(root, _)| root);
    let mut see: Vec<String> = vec![format!("{root}(1)")];
    see.extend(book.subcommands.iter().map(|(sub, _)| format!("{root}-{sub}(1)")));
    see.extend(book.see.iter().map(|&page| page.to_owned()));
    if book.shared {
        see.extend(shared().iter().filter_map(|(file, _)| {
            let (name, section) = file.rsplit_once('.')?;
            Some(format!("{name}({section})"))
        }));
    }
    see.retain(|page| *page != format!("{name}(1)"));
    see_also(&see, &mut rest);
    page.extend(rest.into_bytes());
    let page: String =
        String::from_utf8(page)?.lines().map(|l| l.trim_end().to_owned() + "\n").collect();
    fs::write(folder.join(format!("{name}.1")), page).context("a manual page")
}

fn synopsis(lines: &[&str]) -> String {
    let lines: Vec<String> = lines.iter().map(|line| roff(line)).collect();
    format!(".SH SYNOPSIS\n{}\n", lines.join("\n.br\n"))
}

fn subcommands(command: &Command, out: &mut String) {
    out.push_str(".SH COMMANDS\n");
    for sub in command.get_subcommands().filter(|s| !s.is_hide_set() && s.get_name() != "help") {
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        let name = roff(&format!("{}-{}", command.get_name(), sub.get_name()));
        let _ = writeln!(out, ".TP\n\\fB{name}\\fR(1)\n{}", roff(&about));
    }
}

/// One section as roff.
pub(super) fn section(section: &Section, out: &mut String) {
    let _ = writeln!(out, ".SH \"{}\"", section.title.to_uppercase());
    parts(section.parts, out);
}

/// What stands in a section, as roff.
pub(super) fn parts(parts: &[Part], out: &mut String) {
    for (i, part) in parts.iter().enumerate() {
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
                    let lines: Vec<String> = command.lines().map(roff_line).collect();
                    let _ = writeln!(
                        out,
                        "{paragraph}{}\n.PP\n.RS 4\n.nf\n{}\n.fi\n.RE",
                        roff(what),
                        lines.join("\n")
                    );
                }
            }
        }
    }
}

fn exit_status(below: &str, out: &mut String) {
    out.push_str(".SH \"EXIT STATUS\"\n");
    for (exit, meaning) in Exit::TABLE {
        let _ = writeln!(out, ".TP\n\\fB{}\\fR\n{}", exit as u8, roff(meaning));
    }
    let _ = writeln!(out, ".PP\n{}", roff(below));
}

/// The last section; each page as `name(section)`.
pub(super) fn see_also(pages: &[String], out: &mut String) {
    out.push_str(".SH \"SEE ALSO\"\n");
    for (i, page) in pages.iter().enumerate() {
        let (name, section) = page.split_once('(').unwrap_or((page, "1)"));
        let comma = if i + 1 < pages.len() { "," } else { "" };
        let _ = writeln!(out, ".BR {} ({section}{comma}", roff_line(name));
    }
}

/// Text as roff takes it, blanks of any kind as one.
pub(super) fn roff(text: &str) -> String {
    roff_line(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A line of text as roff takes it: nothing in it is a request or an escape.
pub(super) fn roff_line(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    #[test]
    fn the_system_reads_them_without_a_warning() {
        if Command::new("man").arg("--version").output().is_err() {
            return; // no man here: the tests of each kind of page have said what can be said
        }
        for (file, page) in shared() {
            let mut man = Command::new("man")
                .args(["--warnings=all", "-E", "UTF-8", "-l", "-"])
                .envs([("LC_ALL", "C.UTF-8"), ("MANWIDTH", "100"), ("MANROFFSEQ", "t")])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            man.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
            let out = man.wait_with_output().unwrap();
            let (text, words) =
                (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            assert!(out.status.success() && words.is_empty(), "{file}: {words}");
            assert!(!text.contains("\\("), "{file}:\n{text}");
        }
    }
}
