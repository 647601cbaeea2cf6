//! The manual's guide to moving the guests of a QEMU, made from `docs/QEMU.md`.
//!
//! Its numbers and words are written by hand; what must not drift from the code (the exit codes, the
//! bounds) is compared by the tests below and in `tests/generated.rs`.

use super::manual::{see_also, title};
use super::markdown::{body, inline};
use std::fmt::Write;

/// The guide.
const GUIDE: &str = include_str!("../../docs/QEMU.md");

/// Name of the page.
const NAME: &str = "pageherd-qemu";

/// The page: file name and content.
pub fn page() -> (String, String) {
    // the first line asks for tbl
    let mut out = format!("'\\\" t\n{}", title(NAME, 7));
    let what = inline("moving the guests of an unmodified QEMU through mig-send and mig-recv");
    let _ = writeln!(out, ".SH NAME\n{} \\- {what}\n.SH DESCRIPTION", inline(NAME));
    body(&parts(GUIDE), &mut out);
    let see = ["mig-send(1)", "mig-recv(1)", "memscan(1)", "pageherd-same(7)"];
    let more = ["pageherd-template(7)", "pageherd-stream(5)", "pageherd-herd(5)", "ssh(1)"];
    let see: Vec<String> = see.into_iter().chain(more).map(str::to_owned).collect();
    see_also(&see, &mut out);
    (format!("{NAME}.7"), out)
}

/// The document without its title. Its headings are one higher than those of a page of formats, which
/// is a section of a document.
fn parts(document: &str) -> String {
    let mut out = String::new();
    let mut code = false;
    for line in document.lines().skip(1) {
        code ^= line.starts_with("```");
        if !code && line.starts_with("##") {
            out.push('#');
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Exit;
    use crate::store::group::IDLE;

    #[test]
    fn headings_become_sections_and_code_stays_as_it_is() {
        assert_eq!(
            parts("# T\n\n## A\n\n### B\n\n```\n## c\n```\n"),
            "\n### A\n\n#### B\n\n```\n## c\n```\n"
        );
    }

    #[test]
    fn the_whole_guide_is_a_page() {
        let (file, page) = page();
        assert_eq!(file, "pageherd-qemu.7");
        assert!(page.is_ascii(), "{:?}", page.chars().find(|c| !c.is_ascii()));
        let headings = parts(GUIDE);
        for heading in headings.lines().filter_map(|line| line.strip_prefix("### ")) {
            let heading = format!(".SH \"{}\"\n", inline(&heading.to_uppercase()));
            assert!(page.contains(&heading), "{heading}");
        }
        assert!(!page.contains("```") && !page.contains("\n|"));
    }

    #[test]
    fn numbers_of_the_guide_are_those_of_the_code() {
        let says = |words: &str| assert!(GUIDE.contains(words), "{words}");
        says("ten minutes");
        assert_eq!(IDLE.as_secs(), 600);
        for (exit, words) in [
            (Exit::Data, "| 65 "),
            (Exit::NoTarget, "| 66 "),
            (Exit::Unavailable, "| 69 "),
            (Exit::Io, "| 74 "),
            (Exit::Unknown, "| 75 "),
            (Exit::NotPermitted, "| 77 "),
        ] {
            says(words);
            assert_eq!(words.trim_matches(['|', ' ']), (exit as u8).to_string());
        }
    }
}
