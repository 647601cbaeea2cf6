//! Documents as roff: what `docs/` uses of Markdown, for the pages of the manual that are made of it.
//!
//! What is understood: headings, paragraphs of one line, tables, lists, code in fences, and in a line
//! `code`, **bold**, *italic* and links.

use std::fmt::Write;

/// What stands before a block: a blank line, but none after a heading.
fn apart(out: &mut String) {
    let last = out.lines().last().unwrap_or_default();
    if !last.starts_with(".S") {
        out.push_str(".PP\n");
    }
}

/// Appends the blocks of a text.
pub(super) fn body(text: &str, out: &mut String) {
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        if let Some((request, heading)) = heading(line) {
            let _ = writeln!(out, "{request} \"{}\"", inline(&heading));
        } else if line.starts_with("```") {
            apart(out);
            out.push_str(".RS 4\n.nf\n");
            for code in lines.by_ref().take_while(|code| !code.starts_with("```")) {
                let _ = writeln!(out, "{}", guarded(&escaped(code)));
            }
            out.push_str(".fi\n.RE\n");
        } else if line.starts_with('|') {
            let mut rows = vec![cells(line)];
            while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                rows.push(cells(row));
            }
            table(&rows, out);
        } else if let Some((mark, item)) = list_item(line) {
            let (indent, mark) = if mark == "-" { (2, "\\(bu".to_owned()) } else { (4, mark) };
            let _ = writeln!(out, ".IP {mark} {indent}\n{}", guarded(&inline(item)));
        } else {
            apart(out);
            let _ = writeln!(out, "{}", guarded(&inline(line)));
        }
    }
}

/// `### ` is a section of a page; `#### ` is a part of one.
fn heading(line: &str) -> Option<(&'static str, String)> {
    if let Some(heading) = line.strip_prefix("### ") {
        return Some((".SH", heading.to_uppercase()));
    }
    line.strip_prefix("#### ").map(|heading| (".SS", heading.to_owned()))
}

/// `- item` or `12. item`.
fn list_item(line: &str) -> Option<(String, &str)> {
    if let Some(item) = line.strip_prefix("- ") {
        return Some(("-".to_owned(), item));
    }
    let (number, item) = line.split_once(". ")?;
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| (format!("{number}."), item))
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
    inner.split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// A table for tbl: short columns as wide as they are, the last and long ones share the rest.
fn table(rows: &[Vec<String>], out: &mut String) {
    const SHORT: usize = 20;
    let Some(head) = rows.first() else { return };
    let rest = rows.iter().skip(2); // the line under the heading
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let wide: Vec<bool> =
        (0..head.len()).map(|i| i + 1 == head.len() || width(i) > SHORT).collect();
    apart(out);
    out.push_str(".TS\n");
    let bold = vec!["lb"; head.len()].join(" ");
    let plain: Vec<&str> = wide.iter().map(|&wide| if wide { "lx" } else { "l" }).collect();
    let _ = writeln!(out, "{bold}\n{}.", plain.join(" "));
    let _ =
        writeln!(out, "{}", head.iter().map(|cell| inline(cell)).collect::<Vec<_>>().join("\t"));
    for row in rest {
        let cell = |(i, cell): (usize, &String)| match wide.get(i) {
            Some(true) => format!("T{{\n{}\nT}}", guarded(&inline(cell))),
            _ => guarded(&inline(cell)),
        };
        let _ =
            writeln!(out, "{}", row.iter().enumerate().map(cell).collect::<Vec<_>>().join("\t"));
    }
    out.push_str(".TE\n");
}

/// A line that roff takes for text, whatever it begins with.
fn guarded(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
}

/// Text in which nothing is an escape. `2⁶⁴` becomes `2^64`: not every terminal has raised digits.
fn escaped(text: &str) -> String {
    const RAISED: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let mut out = String::new();
    let mut raised = false;
    for c in text.chars() {
        let digit = RAISED.iter().position(|&r| r == c);
        if let Some(digit) = digit {
            let _ = write!(out, "{}{digit}", if raised { "" } else { "\\(ha" });
        }
        raised = digit.is_some();
        match c {
            _ if raised => {}
            '\\' => out.push_str("\\e"),
            '-' => out.push_str("\\-"),
            '\'' => out.push_str("\\(aq"),
            '`' => out.push_str("\\(ga"),
            '^' => out.push_str("\\(ha"),
            '~' => out.push_str("\\(ti"),
            '…' => out.push_str("..."),
            '–' | '−' => out.push_str("\\-"),
            c if c.is_ascii() => out.push(c),
            c => {
                let _ = write!(out, "\\[u{:04X}]", u32::from(c));
            }
        }
    }
    out
}

/// A line with its code, bold, italics and links.
pub(super) fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['`', '*', '[']) {
        out.push_str(&escaped(&rest[..at]));
        let (mark, after) = (&rest[at..=at], &rest[at + 1..]);
        let span = match mark {
            "`" => after.split_once('`').map(|(code, rest)| (bold(code), rest)),
            "*" if after.starts_with('*') => {
                after[1..].split_once("**").map(|(strong, rest)| (bold(strong), rest))
            }
            "*" => after
                .split_once('*')
                .filter(|(words, _)| !words.starts_with(' '))
                .map(|(words, rest)| (format!("\\fI{}\\fR", escaped(words)), rest)),
            _ => link(after),
        };
        match span {
            Some((said, after)) => {
                out.push_str(&said);
                rest = after;
            }
            None => {
                out.push_str(mark);
                rest = after;
            }
        }
    }
    out.push_str(&escaped(rest));
    out
}

fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", escaped(text))
}

/// `words](address)`: the words.
fn link(after: &str) -> Option<(String, &str)> {
    let (words, rest) = after.split_once("](")?;
    let (_, rest) = rest.split_once(')')?;
    Some((escaped(words), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_line_can_have_becomes_roff() {
        assert_eq!(
            inline("a `b-c` **d** *e* [f](g) 2 * 3"),
            "a \\fBb\\-c\\fR \\fBd\\fR \\fIe\\fR f 2 * 3"
        );
        assert_eq!(inline("below 2⁶⁴, 2¹⁰ − 1"), "below 2\\(ha64, 2\\(ha10 \\- 1");
        assert_eq!(inline(r"'\n'"), r"\(aq\en\(aq");
        assert_eq!(guarded(".map"), "\\&.map");
        assert_eq!(list_item("12. x. y"), Some(("12.".to_owned(), "x. y")));
        assert_eq!(list_item("e.g. x"), None);
    }

    #[test]
    fn headings_are_sections_and_parts() {
        let mut out = String::new();
        body("### One\n\n#### Of it\n\nText.\n\nMore.\n", &mut out);
        assert_eq!(out, ".SH \"ONE\"\n.SS \"Of it\"\nText.\n.PP\nMore.\n");
    }
}
