//! The files of `fixtures/stream/`: lines that say what a stream is and what becomes of it, an empty
//! line, and its bytes.
//!
//! ```text
//! why: pages of a VM that has ended
//! expect: wrong
//! must: 26
//! applied: a 2 00…
//!
//! # frame 0 vm
//! 0000000d01…
//! 11*4096
//! ```
//!
//! Bytes are hexadecimal, `11*4096` is a byte so many times, `#` begins a comment.

use crate::given::Given;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// A scenario.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Vector {
    pub name: String,
    /// In words.
    pub why: String,
    /// `ok`, or the kind of the error.
    pub expect: String,
    /// Which of the numbered reasons to reject it.
    pub must: Option<u8>,
    pub given: Given,
    /// Vectors whose streams the reader took before; after it, another comes to the same reader.
    pub before: Option<String>,
    pub behind: Option<String>,
    /// VMs at the end: name, pages, BLAKE3 of the memory; of `NAME.qemu`, what is kept of a VMM's
    /// stream, its bytes and BLAKE3. Where it is refused: name, pages, digest
    /// (3.9) of what had been applied.
    pub vms: Vec<(String, u64, String)>,
    /// The bytes in pieces, each with what it is.
    pub pieces: Vec<(String, Vec<u8>)>,
}

impl Vector {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.pieces.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
    }

    /// The file.
    pub(crate) fn text(&self) -> String {
        let mut out = format!("why: {}\nexpect: {}\n", self.why, self.expect);
        if let Some(must) = self.must {
            let _ = writeln!(out, "must: {must}");
        }
        if let Some(secret) = &self.given.secret {
            let _ = writeln!(out, "key: {}", hex(secret));
        }
        for template in &self.given.templates {
            let _ = writeln!(out, "template: {}", hex(template));
        }
        if self.given.max_pages != Given::default().max_pages {
            let _ = writeln!(out, "max-pages: {}", self.given.max_pages);
        }
        if self.given.exec {
            out.push_str("exec: fill\n");
        }
        for (word, other) in [("before", &self.before), ("behind", &self.behind)] {
            if let Some(other) = other {
                let _ = writeln!(out, "{word}: {other}");
            }
        }
        let word = if self.expect == "ok" { "memory" } else { "applied" };
        for (name, pages, digest) in &self.vms {
            let _ = writeln!(out, "{word}: {name} {pages} {digest}");
        }
        for (what, bytes) in &self.pieces {
            let _ = writeln!(out, "\n# {what}");
            body(bytes, &mut out);
        }
        out
    }

    pub(crate) fn parse(name: &str, text: &str) -> Self {
        let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let mut vector = Self {
            name: name.to_owned(),
            why: String::new(),
            expect: String::new(),
            must: None,
            given: Given::default(),
            before: None,
            behind: None,
            vms: Vec::new(),
            pieces: Vec::new(),
        };
        for line in head.lines() {
            let (word, value) = line.split_once(": ").unwrap_or_else(|| panic!("{name}: {line}"));
            let own = value.to_owned();
            match word {
                "why" => vector.why = own,
                "expect" => vector.expect = own,
                "must" => vector.must = Some(value.parse().unwrap()),
                "key" => vector.given.secret = Some(unhex(value)),
                "template" => vector.given.templates.push(unhex(value)),
                "max-pages" => vector.given.max_pages = value.parse().unwrap(),
                "exec" => vector.given.exec = true,
                "before" => vector.before = Some(own),
                "behind" => vector.behind = Some(own),
                "memory" | "applied" => {
                    let mut words = value.split(' ').map(str::to_owned);
                    let mut next = || words.next().unwrap();
                    vector.vms.push((next(), next().parse().unwrap(), next()));
                }
                _ => panic!("{name}: {line}"),
            }
        }
        for line in body.lines().filter(|line| !line.is_empty()) {
            if let Some(what) = line.strip_prefix("# ") {
                vector.pieces.push((what.to_owned(), Vec::new()));
                continue;
            }
            if vector.pieces.is_empty() {
                vector.pieces.push(("bytes".to_owned(), Vec::new()));
            }
            let bytes = &mut vector.pieces.last_mut().unwrap().1;
            match line.split_once('*') {
                Some((byte, times)) => bytes.extend(unhex(byte).repeat(times.parse().unwrap())),
                None => bytes.extend(unhex(line)),
            }
        }
        vector
    }
}

fn body(bytes: &[u8], out: &mut String) {
    const LINE: usize = 32;
    let mut rest = bytes;
    let mut line = Vec::new();
    let flush = |line: &mut Vec<u8>, out: &mut String| {
        if !line.is_empty() {
            let _ = writeln!(out, "{}", hex(line));
            line.clear();
        }
    };
    while let Some(&first) = rest.first() {
        let run = rest.iter().take_while(|&&byte| byte == first).count();
        if run > LINE {
            flush(&mut line, out);
            let _ = writeln!(out, "{first:02x}*{run}");
            rest = &rest[run..];
            continue;
        }
        line.push(first);
        rest = &rest[1..];
        if line.len() == LINE {
            flush(&mut line, out);
        }
    }
    flush(&mut line, out);
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text}");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// All vectors of a folder, by name.
pub(crate) fn read_all(folder: &Path) -> Vec<Vector> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "vec") {
            let name = path.file_stem().unwrap().to_str().unwrap();
            all.push(Vector::parse(name, &fs::read_to_string(&path).unwrap()));
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}
