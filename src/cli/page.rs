//! What the long texts of commands are made of, and how `--help` lays them out. The manual is made
//! of the same ones (`cli::manual`).

use std::fmt::Write;

/// Widest line of a text in `--help`.
const WIDTH: usize = 80;

/// What there is to say of a command or of one of its subcommands.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// What it does, in a paragraph or two.
    pub about: &'static str,
    /// The sections after the flags.
    pub sections: &'static [Section],
}

/// A section with its heading.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// The heading.
    pub title: &'static str,
    /// What stands below it.
    pub parts: &'static [Part],
}

/// A piece of a section.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// A paragraph.
    Text(&'static str),
    /// Words and what they mean.
    Terms(&'static [(&'static str, &'static str)]),
    /// Commands and what they do; a command may be several lines.
    Examples(&'static [(&'static str, &'static str)]),
}

impl Page {
    /// The sections as `--help` shows them.
    pub fn help(&self) -> String {
        let mut out = String::new();
        for section in self.sections {
            let _ = writeln!(out, "{}:", section.title);
            for part in section.parts {
                match part {
                    Part::Text(text) => wrap(text, 2, &mut out),
                    Part::Terms(terms) => terms.iter().for_each(|(word, meaning)| {
                        let _ = writeln!(out, "  {word}");
                        wrap(meaning, 10, &mut out);
                    }),
                    Part::Examples(all) => all.iter().for_each(|(command, what)| {
                        command.lines().for_each(|line| {
                            let _ = writeln!(out, "  {line}");
                        });
                        wrap(what, 10, &mut out);
                    }),
                }
            }
            out.push('\n');
        }
        out.truncate(out.trim_end().len());
        out
    }
}

/// Command lines as the parser shows them behind "Usage: ", where its own would list every flag.
pub fn usage(lines: &[&str]) -> String {
    lines.join("\n       ")
}

/// Appends `text` in lines of at most [`WIDTH`] columns, each indented.
fn wrap(text: &str, indent: usize, out: &mut String) {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(out, "{:indent$}{line}", "");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(out, "{:indent$}{line}", "");
}
