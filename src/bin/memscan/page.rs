//! What a long text is made of, and how `--help` lays it out.

use std::fmt::Write;

/// Widest line of a text in `--help`.
const WIDTH: usize = 80;

/// What there is to say of one subcommand.
pub(crate) struct Page {
    /// What it does, in a paragraph or two.
    pub(crate) about: &'static str,
    /// The sections after the flags.
    pub(crate) sections: &'static [Section],
}

/// A section with its heading.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) parts: &'static [Part],
}

/// A piece of a section.
pub(crate) enum Part {
    /// A paragraph.
    Text(&'static str),
    /// Words and what they mean.
    Terms(&'static [(&'static str, &'static str)]),
    /// Commands and what they do.
    Examples(&'static [(&'static str, &'static str)]),
}

impl Page {
    /// The sections as `--help` shows them.
    pub(crate) fn help(&self) -> String {
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
                        let _ = writeln!(out, "  {command}");
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
