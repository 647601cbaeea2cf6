//! What a command works on, as the user writes it: `[NAME=]KIND:VALUE[,OPTION…]`.
//!
//! One grammar for every command. This file knows only the words; `source` finds what they name.

use super::{Hva, PageRange};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Longest name of a VM, in bytes.
pub const MAX_NAME: usize = 64;

/// A target as written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The name the user gave it.
    pub name: Option<String>,
    /// What it names.
    pub kind: TargetKind,
}

/// What a target names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TargetKind {
    /// `pid:N`: one process.
    Pid {
        /// Its number.
        pid: i32,
        /// Which of its memory.
        part: Part,
    },
    /// `comm:PATTERN`: every process whose command name matches the shell pattern.
    Comm(String),
    /// `cgroup:PATH`: every process in that control group and those below it.
    Cgroup(PathBuf),
    /// `image:PATH`: a memory image in a file, by its pages in the page cache.
    Image(PathBuf),
    /// `herd:DIR/VM`: a VM of a herd directory; `herd:DIR`: all of them.
    Herd(PathBuf),
}

/// Which part of a process's memory a target means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// The guest RAM of a known VMM, all memory of any other process.
    Auto,
    /// `,all`: all memory, of a VMM too.
    All,
    /// `,map=PATTERN`: the mappings whose name in `/proc/PID/maps` matches; `anon` for those
    /// without a name.
    Map(String),
    /// `,range=A-B`: host-virtual addresses, hexadecimal.
    Range(PageRange),
}

/// The text is not a target.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TargetError {
    /// No `KIND:`.
    #[error(
        "'{0}' is not a target: write [NAME=]KIND:VALUE, for example pid:4711 or web1=pid:4711"
    )]
    NoKind(String),
    /// A kind that does not exist.
    #[error(
        "unknown kind '{kind}' in '{text}': there are pid:N, comm:PATTERN, cgroup:PATH, image:PATH and herd:DIR/VM"
    )]
    UnknownKind {
        /// The kind.
        kind: String,
        /// The whole target.
        text: String,
    },
    /// A name that is empty, too long, or has other characters.
    #[error(
        "'{0}' cannot be a name: use 1 to {MAX_NAME} letters, digits, dots, dashes or underscores"
    )]
    BadName(String),
    /// A value that does not fit its kind.
    #[error("'{value}' is not {wanted}")]
    BadValue {
        /// The value.
        value: String,
        /// What would fit.
        wanted: &'static str,
    },
    /// An option that the kind does not have.
    #[error("unknown option '{0}': pid:N takes ,map=PATTERN or ,range=A-B or ,all")]
    UnknownOption(String),
}

/// May this be the name of a VM?
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (head, value) =
            text.split_once(':').ok_or_else(|| TargetError::NoKind(text.to_owned()))?;
        let (name, kind) = match head.split_once('=') {
            Some((name, _)) if !is_name(name) => return Err(TargetError::BadName(name.to_owned())),
            Some((name, kind)) => (Some(name.to_owned()), kind),
            None => (None, head),
        };
        let kind = match kind {
            "pid" => pid(value)?,
            "comm" => TargetKind::Comm(filled(value, "a pattern for a command name")?.to_owned()),
            "cgroup" => TargetKind::Cgroup(filled(value, "the path of a control group")?.into()),
            "image" => TargetKind::Image(filled(value, "the path of a memory image")?.into()),
            "herd" => TargetKind::Herd(filled(value, "a herd directory, or a VM in one")?.into()),
            _ => {
                return Err(TargetError::UnknownKind {
                    kind: kind.to_owned(),
                    text: text.to_owned(),
                });
            }
        };
        Ok(Self { name, kind })
    }
}

fn filled<'a>(value: &'a str, wanted: &'static str) -> Result<&'a str, TargetError> {
    if value.is_empty() {
        return Err(TargetError::BadValue { value: value.to_owned(), wanted });
    }
    Ok(value)
}

fn pid(value: &str) -> Result<TargetKind, TargetError> {
    let (number, option) = match value.split_once(',') {
        Some((number, option)) => (number, Some(option)),
        None => (value, None),
    };
    let bad = || TargetError::BadValue {
        value: number.to_owned(),
        wanted: "a process ID (a whole number from 1 on)",
    };
    let pid = number.parse::<i32>().ok().filter(|&pid| pid > 0).ok_or_else(bad)?;
    let part = match option.map(|o| o.split_once('=').unwrap_or((o, ""))) {
        None => Part::Auto,
        Some(("all", "")) => Part::All,
        Some(("map", pattern)) => {
            Part::Map(filled(pattern, "a pattern for a mapping's name")?.to_owned())
        }
        Some(("range", range)) => Part::Range(address_range(range)?),
        Some((other, _)) => return Err(TargetError::UnknownOption(other.to_owned())),
    };
    Ok(TargetKind::Pid { pid, part })
}

fn address_range(text: &str) -> Result<PageRange, TargetError> {
    let hex = |s: &str| u64::from_str_radix(s.strip_prefix("0x").unwrap_or(s), 16).ok();
    text.split_once('-')
        .and_then(|(a, b)| Some((hex(a)?, hex(b)?)))
        .filter(|(a, b)| a < b)
        .and_then(|(a, b)| PageRange::covering(Hva(a), Hva(b)))
        .ok_or(TargetError::BadValue {
            value: text.to_owned(),
            wanted: "an address range: two hexadecimal addresses, the lower first, as in 7f0000000000-7f0010000000",
        })
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}=")?;
        }
        match &self.kind {
            TargetKind::Pid { pid, part } => {
                write!(f, "pid:{pid}")?;
                match part {
                    Part::Auto => Ok(()),
                    Part::All => write!(f, ",all"),
                    Part::Map(pattern) => write!(f, ",map={pattern}"),
                    Part::Range(r) => {
                        write!(f, ",range={:x}-{:x}", r.address().0, Hva::of_page(r.end).0)
                    }
                }
            }
            TargetKind::Comm(pattern) => write!(f, "comm:{pattern}"),
            TargetKind::Cgroup(path) => write!(f, "cgroup:{}", path.display()),
            TargetKind::Image(path) => write!(f, "image:{}", path.display()),
            TargetKind::Herd(path) => write!(f, "herd:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Target, TargetError> {
        text.parse()
    }

    #[test]
    fn the_grammar_round_trips() {
        for text in [
            "a=herd:/dev/shm/h/a",
            "pid:1",
            "a=pid:4711",
            "web-1.x=pid:1,map=*memfd:ram*",
            "pid:7,range=7f0000000000-7f0010000000",
            "pid:7,all",
            "comm:qemu-*",
            "c=cgroup:/machine.slice",
            "image:/dev/shm/a=b,c",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("4711", "pid:4711 or"),
            ("pid:", "process ID"),
            ("pid:0", "process ID"),
            ("pid:-3", "process ID"),
            ("pid:99999999999", "process ID"),
            ("pid:1,map=", "pattern"),
            ("pid:1,range=5-4", "address range"),
            ("pid:1,range=0-0", "address range"),
            ("pid:1,frob=2", "unknown option 'frob'"),
            ("qemu:1", "unknown kind 'qemu'"),
            ("a b=pid:1", "cannot be a name"),
            ("=pid:1", "cannot be a name"),
            ("comm:", "pattern"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_target_or_an_error(text in ".*") {
            if let Ok(target) = parse(&text) {
                prop_assert_eq!(parse(&target.to_string()).unwrap(), target);
            }
        }
    }
}
