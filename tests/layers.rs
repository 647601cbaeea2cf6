//! The law of the house: which module may use which, where `unsafe` may stand, how long a file may
//! be. `ARCHITECTURE.md` has the drawing; this test keeps it.

#![allow(clippy::unwrap_used)] // a test that cannot go on fails where it stands

use std::fs;
use std::path::{Path, PathBuf};

/// What each module may use beside itself and std. A module that is not here has no floor yet.
const LAW: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("abi", &["base"]),
    ("placement", &["base"]),
    ("wire", &["base"]),
    ("filter", &["base"]),
    ("qemu", &["base"]),
    ("guest", &["base"]),
    ("sys", &["base", "abi"]),
    ("source", &["base", "abi", "placement", "wire", "filter", "qemu", "guest", "sys"]),
    ("sink", &["base", "abi", "placement", "wire", "filter", "qemu", "guest", "sys"]),
    ("store", &["base", "abi", "placement", "wire", "filter", "qemu", "guest", "sys"]),
    ("transport", &["base", "abi", "placement", "wire", "filter", "qemu", "guest", "sys"]),
    ("agent", &["base", "abi", "placement", "wire", "filter", "qemu", "guest", "sys"]),
    ("analyze", &["base", "abi", "placement", "qemu", "guest", "source"]),
    ("migrate", VERBS),
    ("delta", VERBS),
    ("cli", &["*"]),
    ("bin", &["*"]),
    ("lib.rs", &["*"]),
];

/// What verbs may use: everything below them but `sys`.
const VERBS: &[&str] = &[
    "base",
    "abi",
    "placement",
    "wire",
    "filter",
    "qemu",
    "guest",
    "source",
    "sink",
    "store",
    "transport",
    "agent",
];

/// Modules that are pure: bytes in, facts out.
const PURE: [&str; 7] = ["base", "abi", "placement", "wire", "filter", "qemu", "guest"];

/// What a pure module does not touch.
const IMPURE: [&str; 9] = [
    "std::fs",
    "std::net",
    "std::thread",
    "std::time",
    "std::process",
    "std::env",
    "libc::",
    "nix::",
    "procfs::",
];

/// Most lines of a file. A table of flags or texts may be longer.
const MOST_LINES: usize = 600;

/// Files that are such tables.
const TABLES: [&str; 6] = [
    "bin/memscan/args.rs",
    "bin/memscan/texts.rs",
    "bin/mig-send/args.rs",
    "bin/mig-send/texts.rs",
    "bin/mig-recv/args.rs",
    "bin/mig-recv/texts.rs",
];

/// Everything in one file that is against the law; `path` is relative to `src`.
fn faults(path: &str, text: &str) -> Vec<String> {
    let module = path.split('/').next().unwrap_or_default();
    let code = without_comments(text);
    let mut faults = Vec::new();
    match LAW.iter().find(|(name, _)| *name == module) {
        None => faults.push(format!("{path}: module '{module}' is on no floor: give it one")),
        Some((_, may)) => faults.extend(arrows(&code).into_iter().filter_map(|(line, to)| {
            let known = LAW.iter().any(|(name, _)| *name == to);
            let allowed = to == module || may.contains(&"*") || may.contains(&to.as_str());
            (known && !allowed).then(|| format!("{path}:{line}: {module} must not use {to}"))
        })),
    }
    for (number, line) in (1..).zip(code.lines()) {
        if module != "sys" && words(line).any(|word| word == "unsafe") {
            faults.push(format!("{path}:{number}: unsafe has an address, and it is src/sys"));
        }
    }
    if PURE.contains(&module) {
        let tested = code.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in (1..).zip(tested.lines()) {
            if let Some(what) = IMPURE.iter().find(|what| line.contains(**what)) {
                faults.push(format!("{path}:{number}: {module} is pure and must not use {what}"));
            }
        }
    }
    if !text.starts_with("//!") {
        faults.push(format!("{path}: does not begin by saying what it is (//!)"));
    }
    let lines = text.lines().count();
    if lines > MOST_LINES && !TABLES.contains(&path) {
        faults.push(format!("{path}: {lines} lines, more than {MOST_LINES}: make two files of it"));
    }
    faults
}

/// The code with its comments blanked and its lines kept. A `//` in a string counts as a comment,
/// which only ever hides the rest of one line.
fn without_comments(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The modules that paths from the root of the crate name, with the lines they stand in:
/// `crate::a`, `pageherd::a`, `crate::{a, b::{c}}`, and `super::super::a` that climbs to it.
fn arrows(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for root in ["crate::", "pageherd::", "super::super::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            let mut rest = code[at + root.len()..].trim_start();
            while let Some(up) = rest.strip_prefix("super::") {
                rest = up;
            }
            found.extend(heads(rest).into_iter().map(|head| (line, head)));
        }
    }
    found
}

/// First words of a path, or of each path of a group in braces.
fn heads(path: &str) -> Vec<String> {
    let first = |path: &str| words(path).next().unwrap_or_default().to_owned();
    let Some(group) = path.strip_prefix('{') else { return vec![first(path)] };
    let (mut depth, mut all, mut part) = (0, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => all.push(first(&std::mem::take(&mut part))),
            _ if depth == 0 => part.push(c),
            _ => {}
        }
    }
    all.push(first(&part));
    all.retain(|head| !head.is_empty());
    all
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path if path.extension().is_some_and(|e| e == "rs") => found.push(path),
            _ => {}
        }
    }
    found
}

#[test]
fn every_file_keeps_the_law() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let all = files(&src);
    assert!(all.len() > 40, "the sources are not here");
    let broken: Vec<String> = all
        .iter()
        .flat_map(|path| {
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap();
            faults(name, &fs::read_to_string(path).unwrap())
        })
        .collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn a_forbidden_arrow_is_caught_however_it_is_written() {
    for (path, code) in [
        ("analyze/x.rs", "use crate::sys::pagemap;"),
        ("analyze/deep/x.rs", "fn f() { let p = crate::sys::process::comm(1); }"),
        ("analyze/x.rs", "use crate::{base::Pfn, sys::{ksm, caps}};"),
        ("analyze/x.rs", "use crate::{\n    base::{Hva, Pfn},\n    cli,\n};"),
        ("analyze/x.rs", "use super::super::sys::ksm;"),
        ("analyze/x.rs", "    pub use pageherd::sys::ksm;"),
        ("base/x.rs", "use crate::abi::vma::Vma;"),
        ("abi/x.rs", "use crate::placement::map;"),
        ("placement/x.rs", "use crate::abi::vma;"),
        ("sys/x.rs", "use crate::source::Vm;"),
        ("source/x.rs", "use crate::analyze::scan;"),
        ("source/x.rs", "use crate::store::pool;"),
        ("migrate/x.rs", "use crate::sys::uffd;"),
        ("novel/x.rs", ""),
    ] {
        // siblings of one floor are checked by name
        let found = faults(path, &format!("//! x\n{code}\n"));
        assert_eq!(found.len(), 1, "{path}: {code}: {found:?}");
    }
}

#[test]
fn an_allowed_arrow_is_not() {
    for (path, code) in [
        ("analyze/x.rs", "use crate::source::Vm; // not crate::sys::ksm"),
        ("analyze/x.rs", "/// See [`crate::sys`].\nuse super::scan::Scan;"),
        ("sys/x.rs", "use crate::abi::pagemap::Entry;\nuse crate::sys::pagemap;"),
        ("bin/x/main.rs", "use pageherd::sys::ksm::KsmUnknown;"),
        ("cli/x.rs", "use crate::{analyze, source, sys};"),
        ("analyze/x.rs", "use mycrate::sys::x;"),
    ] {
        assert_eq!(faults(path, &format!("//! x\n{code}\n")), [""; 0], "{path}: {code}");
    }
}

#[test]
fn unsafe_impure_nameless_and_long_files_are_caught() {
    let one = |path: &str, text: &str, part: &str| {
        let found = faults(path, text);
        assert!(found.len() == 1 && found[0].contains(part), "{part}: {found:?}");
    };
    one("cli/x.rs", "//! x\nfn f() { unsafe { g() } }\n", "cli/x.rs:2: unsafe");
    one("abi/x.rs", "//! x\nuse std::fs::File;\n", "pure");
    one("abi/x.rs", "use std::io;\n", "//!");
    one("cli/x.rs", &format!("//! x\n{}", "\n".repeat(600)), "601 lines");
    assert!(faults("sys/x.rs", "//! x\nfn f() { unsafe { g() } }\n").is_empty());
    assert!(faults("cli/x.rs", "//! unsafe\n#![deny(unsafe_code)] // unsafe\n").is_empty());
    assert!(faults("abi/x.rs", "//! x\n#[cfg(test)]\nmod tests { use std::fs; }\n").is_empty());
}
