//! The manual and the completions in the repository are those that the commands would write today.

#![allow(clippy::unwrap_used)] // a test that cannot go on fails where it stands

mod support;

use pageherd::cli::Exit;
use std::fs;
use std::path::Path;
use std::process::Output;
use support::{COMMANDS, root, run, tool, words};

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The subcommands, as `--help` lists them.
fn subcommands() -> Vec<String> {
    let help = run(&["-h"]);
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let first = |line: &str| line.split_whitespace().next().unwrap().to_owned();
    list.lines().map(first).filter(|name| name != "help").collect()
}

/// A page of section 1.
fn page(name: &str) -> String {
    page_in(name, 1)
}

fn page_in(name: &str, section: u8) -> String {
    fs::read_to_string(root().join("man").join(format!("{name}.{section}"))).unwrap()
}

fn help(command: &str) -> String {
    let out: Output = tool(command).arg("--help").output().unwrap();
    assert!(out.status.success(), "{}", words(&out));
    String::from_utf8(out.stdout).unwrap()
}

/// A section of a page, its heading left out.
fn section<'a>(page: &'a str, title: &str) -> &'a str {
    let titles = [format!(".SH \"{title}\"\n"), format!(".SH {title}\n")];
    let found = titles.iter().find_map(|t| page.split_once(t.as_str()));
    let (_, rest) = found.unwrap_or_else(|| panic!("no section {title} in {page}"));
    rest.split("\n.SH ").next().unwrap()
}

/// Text as it stands in a page.
fn roff(text: &str) -> String {
    text.replace('-', "\\-").replace('\'', "\\(aq")
}

#[test]
fn manual_and_completions_are_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let (man, completions) = (dir.path().join("man"), dir.path().join("completions"));
    for (name, _) in COMMANDS {
        let out = tool(name)
            .args(["generate".as_ref(), man.as_os_str(), completions.as_os_str()])
            .env("COLUMNS", "41") // as on a narrow terminal
            .env("PAGEHERD_THREADS", "1")
            .output()
            .unwrap();
        assert!(out.status.success(), "{name}: {}", words(&out));
    }
    for (fresh, kept) in [(&man, root().join("man")), (&completions, root().join("completions"))] {
        assert_eq!(names(fresh), names(&kept), "in {}", kept.display());
        for name in names(fresh) {
            let same = fs::read(fresh.join(&name)).unwrap() == fs::read(kept.join(&name)).unwrap();
            assert!(same, "{name} is stale: run 'make gen'");
        }
    }
}

#[test]
fn every_command_and_subcommand_has_a_page_that_teaches() {
    let all = subcommands();
    assert_eq!(all.len(), 9, "{all:?}");
    let commands = COMMANDS.iter().map(|(name, _)| (*name).to_owned());
    for name in all.iter().map(|sub| format!("memscan-{sub}")).chain(commands) {
        let page = page(&name);
        assert!(page.starts_with(&format!(".TH {} 1 ", name.to_uppercase())), "{name}");
        for title in ["NAME", "SYNOPSIS", "OPTIONS", "SEE ALSO"] {
            assert!(section(&page, title).len() > 10, "{name}: {title}");
        }
        let own = roff(if name.starts_with("memscan") { "memscan" } else { &name });
        assert!(section(&page, "EXAMPLES").contains(&own), "{name}");
        let described = section(&page, "DESCRIPTION").split_whitespace().count();
        assert!(described >= 10, "{name} is described in {described} words");
        let status = section(&page, "EXIT STATUS");
        for (exit, meaning) in Exit::TABLE {
            let code = format!(".TP\n\\fB{}\\fR\n", exit as u8);
            assert!(status.contains(&code) && status.contains(&roff(meaning)), "{name}: {exit:?}");
        }
        links_lead_somewhere(&name, &page);
    }
    let main = page("memscan");
    for (title, word) in [
        ("TARGETS", "cgroup:PATH"),
        ("ENVIRONMENT", "PAGEHERD_THREADS"),
        ("ENVIRONMENT", "NO_COLOR"),
        ("FILES", "/proc/kpagecount"),
        ("COMMANDS", "memscan\\-what\\-if"),
    ] {
        assert!(section(&main, title).contains(word), "{title}: {word}");
    }
}

/// The pages of ours that a page says to see are there.
fn links_lead_somewhere(name: &str, page: &str) {
    let ours = |link: &&str| ["memscan", "mig\\-", "pageherd"].iter().any(|own| link.contains(own));
    for link in section(page, "SEE ALSO").lines().filter(ours) {
        let mut link = link.split_whitespace().skip(1);
        let other = link.next().unwrap().replace("\\-", "-");
        let number = link.next().unwrap().trim_matches(['(', ')', ',']);
        assert!(root().join("man").join(format!("{other}.{number}")).exists(), "{name}: {other}");
    }
}

#[test]
fn every_filter_has_a_page_of_its_own_and_a_line_in_the_help() {
    let (help, main) = (help("mig-send"), page("mig-send"));
    for words in &pageherd::cli::filters::ALL {
        let name = format!("pageherd-{}", words.name);
        let page = page_in(&name, 7);
        assert!(page.starts_with(&format!(".TH {} 7 ", name.to_uppercase())), "{name}");
        for title in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "PROOF",
            "COST",
            "WHEN IT TURNS ITSELF OFF",
            "AT THE FAR END",
            "EXAMPLES",
            "ORIGIN",
            "SEE ALSO",
        ] {
            assert!(section(&page, title).len() > 5, "{name}: {title}");
        }
        assert!(section(&page, "EXAMPLES").contains("mig\\-send"), "{name}");
        links_lead_somewhere(&name, &page);
        assert!(help.contains(&format!("\n  {}\n", words.spelled)), "{name}");
        assert!(section(&main, "SEE ALSO").contains(&roff(&name)), "{name}");
    }
}

/// What the external filter's author reads is what the code speaks.
#[test]
fn the_page_of_exec_has_the_protocol() {
    use pageherd::filter::codec::MOST;
    use pageherd::transport::filter_exec::{ANSWER_TIMEOUT, MOST_IN_FLIGHT};
    let page = page_in("pageherd-exec", 7);
    let seconds = ANSWER_TIMEOUT.as_secs();
    assert_eq!(MOST, 262_144);
    for part in [
        "pageherd-filter 1 pack",
        "pageherd-filter 1 unpack",
        "PAGEHERD_FILTER",
        "262,144 bytes",
        &format!("Up to {MOST_IN_FLIGHT} requests"),
        &format!("within {seconds} seconds"),
        "examples/filter_words.rs",
    ] {
        assert!(page.contains(&roff(part)), "{part}");
    }
    assert!(root().join("examples/filter_words.rs").exists());
}

#[test]
fn the_pages_of_the_two_ends_say_what_must_be_known() {
    for (command, parts) in [
        (
            "mig-send",
            &[
                "exec:ssh host mig-recv",
                "tls:HOST:PORT",
                "set -o pipefail",
                "--resolve",
                "--one-way",
                "75",
                "SIGSTOP",
                "vhost",
                "--refer",
                "last line",
                "same(7)",
                "--group NAME --end-group",
                "return-path",
            ][..],
        ),
        (
            "mig-recv",
            &[
                "--streams",
                "journal",
                "Landlock",
                "seccomp",
                "--user",
                "--max-ram",
                "reflinks",
                "-incoming",
                "--pool-max",
            ],
        ),
    ] {
        let (help, page) = (help(command), page(command));
        for part in parts {
            assert!(page.contains(&roff(part)), "{command} manual: {part}");
            assert!(*part == "75" || help.contains(part), "{command} --help: {part}");
        }
        for line in help.lines().filter(|line| !line.trim_start().starts_with("mig-")) {
            assert!(line.chars().count() <= 100, "{command}, too wide: {line}");
        }
    }
}

/// A flag that the guide names is one that a command has; and the page leads on.
#[test]
fn the_guide_to_qemu_speaks_of_flags_that_there_are() {
    let guide = fs::read_to_string(root().join("docs/QEMU.md")).unwrap();
    let known = ["mig-send", "mig-recv"].map(help).concat();
    let part = |c: char| !(c.is_ascii_lowercase() || c == '-');
    let flags: Vec<&str> = guide
        .split(part)
        .filter(|word| word.starts_with("--") && !word.starts_with("---"))
        .collect();
    assert!(flags.len() > 30, "{flags:?}");
    for flag in flags {
        assert!(known.contains(&format!(" {flag}")), "{flag}");
    }
    let page = page_in("pageherd-qemu", 7);
    links_lead_somewhere("pageherd-qemu", &page);
    for command in ["mig-send", "mig-recv"] {
        assert!(section(&self::page(command), "SEE ALSO").contains(".BR pageherd\\-qemu (7)"));
    }
}

/// No line of a page is taken for a request by accident, and every request is one that we mean.
#[test]
fn pages_are_sane_roff() {
    const KNOWN: [&str; 18] = [
        ".TH", ".SH", ".TP", ".PP", ".RS", ".RE", ".nf", ".fi", ".br", ".BR", ".ie", ".el", ".IP",
        ".sp", ".SS", ".in", ".TS", ".TE",
    ];
    for file in names(&root().join("man")) {
        let page = fs::read_to_string(root().join("man").join(&file)).unwrap();
        let open = |request: &str| page.lines().filter(|l| l.starts_with(request)).count();
        assert_eq!(open(".nf"), open(".fi"), "{file}");
        assert_eq!(open(".RS"), open(".RE"), "{file}");
        // a first line that has man(1) run tbl(1) is no text
        let tables = page.starts_with("'\\\" t\n");
        assert_eq!(tables, open(".TS") > 0, "{file}");
        for line in page.lines().skip(usize::from(tables)) {
            assert!(!line.starts_with('\''), "{file}: {line}");
            let request = line.split_whitespace().next().unwrap_or_default();
            assert!(!line.starts_with('.') || KNOWN.contains(&request), "{file}: {line}");
            assert!(!line.ends_with(char::is_whitespace), "{file}: blanks at the end of '{line}'");
        }
    }
}

#[test]
fn the_words_of_reports_are_explained_in_help_and_manual() {
    for (sub, words) in [
        (
            "summary",
            &["resident", "unique", "shared", "naive footprint", "expansion", "outside", "changed"]
                [..],
        ),
        ("summary", &["ksm", "fork", "file", "shmem", "zero", "footprint", "unmapped"]),
        ("matrix", &["on the diagonal", "off the diagonal", "groups"]),
        ("what-if", &["growth (destination)", "freed (source)", "send", "template"]),
        ("why", &["mapped-shared", "not-mergeable", "still-scanning", "there twice", "hugetlb"]),
        ("map", &["STATE", "SHARERS", "PFN", "placement"]),
        ("diff", &["what became of pages", "shared by pairs"]),
        ("ksm", &["merged", "saved", "profit"]),
    ] {
        let help = run(&[sub, "--help"]);
        let page = page(&format!("memscan-{sub}"));
        for word in words {
            let heading = format!("\n  {word}\n");
            let nested = format!("\n    {word}\n");
            assert!(help.contains(&heading) || help.contains(&nested), "{sub} --help: {word}");
            assert!(page.contains(&format!("{}\\fR\n", roff(word))), "{sub} manual: {word}");
        }
    }
}

/// What the summary's and the map's reports call things is what the help explains.
#[test]
fn every_cause_of_why_is_explained() {
    use pageherd::analyze::why::Cause;
    let help = run(&["why", "--help"]);
    for cause in [
        Cause::Hugetlb,
        Cause::MappedShared,
        Cause::FilePage,
        Cause::NotMergeable,
        Cause::Volatile,
        Cause::KsmAbsent,
        Cause::KsmOff,
        Cause::Zeros,
        Cause::OtherNode,
        Cause::MaxPageSharing,
        Cause::HugePage,
        Cause::StillScanning,
    ] {
        assert!(help.contains(&format!("\n  {}\n", cause.name())), "{}", cause.name());
    }
}

#[test]
fn completions_know_every_subcommand_and_the_targets_flags() {
    for file in ["memscan.bash", "_memscan", "memscan.fish"] {
        let text = fs::read_to_string(root().join("completions").join(file)).unwrap();
        for sub in subcommands() {
            assert!(text.contains(&sub), "{file}: {sub}");
        }
        assert!(text.contains("prometheus") && text.contains("list-columns"), "{file}");
    }
    for (command, flag) in [("mig-send", "keep-filters"), ("mig-recv", "max-ram")] {
        for file in [format!("{command}.bash"), format!("_{command}"), format!("{command}.fish")] {
            let text = fs::read_to_string(root().join("completions").join(&file)).unwrap();
            assert!(text.contains(flag) && !text.contains("generate"), "{file}");
        }
    }
}
