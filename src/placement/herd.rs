//! A herd directory: what its files are called, and its journal.
//!
//! ```text
//! DIR/pool        each distinct page once; slot n is at byte n × 4096
//! DIR/NAME.map    the placement map of VM NAME
//! DIR/NAME.qemu   what its VMM's migration stream had beside pages, if it came so
//! DIR/journal     which sessions were committed, and which never will be
//! DIR/lock        held by who writes
//! DIR/.NAME.map.SESSION    a map that is on disk and not yet committed
//! DIR/.NAME.qemu.SESSION   the same of a state
//! ```
//!
//! A session is committed by one line in the journal. Then its states and its maps get their names, in
//! this order, so that a VM that can be seen has its state; if that is interrupted, whoever opens the
//! herd next goes on with it.

use crate::base::target::is_name;
use std::fmt;

/// The pool file.
pub const POOL: &str = "pool";
/// The journal.
pub const JOURNAL: &str = "journal";
/// The lock.
pub const LOCK: &str = "lock";
const MAP: &str = ".map";
const STATE: &str = ".qemu";

/// The file of a VM's placement map.
pub fn map_file(vm: &str) -> String {
    format!("{vm}{MAP}")
}

/// The file of what a VM's VMM said beside its pages.
pub fn state_file(vm: &str) -> String {
    format!("{vm}{STATE}")
}

/// The VM whose map a file of this name is.
pub fn vm_of(file: &str) -> Option<&str> {
    vm_with(file, MAP)
}

/// The VM whose state a file of this name is.
pub fn vm_of_state(file: &str) -> Option<&str> {
    vm_with(file, STATE)
}

fn vm_with<'a>(file: &'a str, ending: &str) -> Option<&'a str> {
    file.strip_suffix(ending).filter(|name| is_name(name) && !name.starts_with('.'))
}

/// The file of a map that is not committed yet.
pub fn part_file(vm: &str, session: &str) -> String {
    format!(".{vm}{MAP}.{session}")
}

/// The file of a state that is not committed yet.
pub fn state_part_file(vm: &str, session: &str) -> String {
    format!(".{vm}{STATE}.{session}")
}

/// The VM and the session of a map that is not committed yet.
pub fn part_of(file: &str) -> Option<(&str, &str)> {
    part_with(file, MAP)
}

/// The VM and the session of a state that is not committed yet.
pub fn state_part_of(file: &str) -> Option<(&str, &str)> {
    part_with(file, STATE)
}

fn part_with<'a>(file: &'a str, ending: &str) -> Option<(&'a str, &'a str)> {
    let (file, session) = file.strip_prefix('.')?.rsplit_once('.')?;
    Some((vm_with(file, ending)?, session))
}

/// How a session ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// These VMs are here.
    Committed(Vec<String>),
    /// It never will be committed.
    Aborted,
}

/// A line of the journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The session.
    pub session: String,
    /// How it ended.
    pub verdict: Verdict,
}

impl fmt::Display for Entry {
    /// The line with its checksum and its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = match &self.verdict {
            Verdict::Committed(_) => format!("committed {}", self.session),
            Verdict::Aborted => format!("aborted {}", self.session),
        };
        if let Verdict::Committed(vms) = &self.verdict {
            vms.iter().for_each(|vm| line.extend([" ", vm]));
        }
        writeln!(f, "{line} crc32={:08x}", crc32fast::hash(line.as_bytes()))
    }
}

/// The journal cannot be trusted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line} of the journal is damaged")]
pub struct BadJournal {
    /// Which line.
    pub line: usize,
}

/// Reads a journal. A last line without its end was being written when the host went down: it never
/// happened.
pub fn parse_journal(text: &str) -> Result<Vec<Entry>, BadJournal> {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = (1..).zip(whole.lines());
    lines.map(|(line, text)| parse_entry(text).ok_or(BadJournal { line })).collect()
}

fn parse_entry(line: &str) -> Option<Entry> {
    let (said, sum) = line.rsplit_once(" crc32=")?;
    if sum != format!("{:08x}", crc32fast::hash(said.as_bytes())) {
        return None;
    }
    let mut words = said.split(' ');
    let (kind, session) = (words.next()?, words.next()?.to_owned());
    let vms: Vec<String> = words.map(str::to_owned).collect();
    let verdict = match kind {
        "committed" => Verdict::Committed(vms),
        "aborted" if vms.is_empty() => Verdict::Aborted,
        _ => return None,
    };
    Some(Entry { session, verdict })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_tell_what_they_are() {
        assert_eq!(vm_of("web-1.map"), Some("web-1"));
        assert_eq!(vm_of(".web.map"), None);
        assert_eq!(vm_of("pool"), None);
        assert_eq!(part_of(&part_file("a.b", "00ff")), Some(("a.b", "00ff")));
        assert_eq!(part_of("a.map.x"), None);
        assert_eq!(vm_of_state(&state_file("web-1")), Some("web-1"));
        let part = state_part_file("a.map", "00ff");
        assert_eq!((state_part_of(&part), part_of(&part)), (Some(("a.map", "00ff")), None));
        let part = part_file("a.qemu", "00ff");
        assert_eq!((state_part_of(&part), part_of(&part)), (None, Some(("a.qemu", "00ff"))));
    }

    #[test]
    fn a_journal_reads_back_and_a_torn_line_never_happened() {
        let entries = vec![
            Entry {
                session: "aa".into(),
                verdict: Verdict::Committed(vec!["a".into(), "b".into()]),
            },
            Entry { session: "bb".into(), verdict: Verdict::Aborted },
        ];
        let text: String = entries.iter().map(ToString::to_string).collect();
        assert_eq!(parse_journal(&text), Ok(entries.clone()));
        for end in 0..text.len() {
            let whole = text[..end].matches('\n').count();
            assert_eq!(parse_journal(&text[..end]), Ok(entries[..whole].to_vec()));
        }
        for at in 0..text.len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(bad) = String::from_utf8(bytes) {
                assert_ne!(parse_journal(&bad), Ok(entries.clone()), "byte {at}");
            }
        }
    }
}
