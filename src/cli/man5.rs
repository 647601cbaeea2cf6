//! The manual's pages of file formats, made from `docs/FORMAT.md`: a format is described once.

use super::markdown::{body, inline};
use std::fmt::Write;

/// The description of all formats.
const FORMAT: &str = include_str!("../../docs/FORMAT.md");

/// The pages: name, section of the document, what `whatis` says.
const PAGES: [(&str, &str, &str); 4] = [
    ("pageherd-scan", "1", "the record of a scan, as memscan writes and reads it"),
    ("pageherd-map", "2", "the placement map: where the content of each page is"),
    ("pageherd-stream", "3", "the stream that mig-send writes and mig-recv reads"),
    ("pageherd-herd", "4", "the herd directory, in which pages that are shared stand once"),
];

/// All pages: file name and content.
pub fn pages() -> Vec<(String, String)> {
    let page = |(name, section, what): &(&str, &str, &str)| {
        (format!("{name}.5"), page(FORMAT, name, section, what))
    };
    PAGES.iter().map(page).collect()
}

fn page(document: &str, name: &str, number: &str, what: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let upper = name.to_uppercase();
    // the first line asks for tbl
    let mut out = format!("'\\\" t\n.TH {upper} 5 \"\" \"pageherd {version}\" pageherd\n");
    let _ = writeln!(out, ".SH NAME\n{} \\- {}", inline(name), inline(what));
    out.push_str(".SH DESCRIPTION\n");
    body(section(document, number), &mut out);
    out.push_str(".SH CONVENTIONS\n");
    body(section(document, "0"), &mut out);
    out.push_str(".PP\nNumbers of sections are those of the whole description:");
    for (i, (other, section, _)) in PAGES.iter().enumerate() {
        let end = if i + 1 < PAGES.len() { ',' } else { '.' };
        let _ = write!(out, "\n{section} is\n.BR {} (5){end}", inline(other));
    }
    out.push_str("\n.SH \"SEE ALSO\"\n");
    for (other, ..) in PAGES.iter().filter(|(other, ..)| *other != name) {
        let _ = writeln!(out, ".BR {} (5),", inline(other));
    }
    out.push_str(".BR memscan (1)\n");
    out
}

/// The lines under the heading `## NUMBER. …`.
fn section<'a>(document: &'a str, number: &str) -> &'a str {
    let heading = format!("\n## {number}. ");
    let Some((_, rest)) = document.split_once(&heading) else { return "" };
    let rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
    rest.split_once("\n## ").map_or(rest, |(section, _)| section)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_is_a_page_and_nothing_of_it_is_lost() {
        for ((file, page), (name, number, _)) in pages().iter().zip(PAGES) {
            assert_eq!(*file, format!("{name}.5"));
            let text = section(FORMAT, number);
            assert!(text.len() > 1000, "section {number} is not there");
            assert_eq!(page.matches(".TS\n").count(), page.matches(".TE\n").count());
            assert_eq!(page.matches("T{\n").count(), page.matches("\nT}").count());
            assert_eq!(page.matches(".nf\n").count(), page.matches(".fi\n").count());
            let headings = text.lines().filter(|line| line.starts_with("### "));
            for heading in headings {
                let heading = format!(".SH \"{}\"\n", inline(&heading[4..].to_uppercase()));
                assert!(page.contains(&heading), "{heading}");
            }
            assert!(page.is_ascii(), "{:?}", page.chars().find(|c| !c.is_ascii()));
            for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
                let request = line.split(' ').next().unwrap_or_default();
                let known = [
                    "'\\\"", ".TH", ".SH", ".PP", ".IP", ".RS", ".RE", ".nf", ".fi", ".TS", ".TE",
                    ".BR",
                ];
                assert!(known.contains(&request), "{line}");
            }
            assert!(!page.contains("```") && !page.contains("\n|"), "{file}");
        }
    }
}
