//! The memory of a process as the kernel tells of it: mappings, page tables, files; slowly and simply,
//! with nothing of the code under test.

use super::Guest;
use nix::unistd::{Whence, lseek};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

pub(super) const PAGE: u64 = 4096;

/// A mapping, as smaps has it.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// First page, by address.
    pub start: u64,
    /// The page after the last.
    pub end: u64,
    /// Mapped shared.
    pub shared: bool,
    /// Page in the file of the first page.
    pub file_page: u64,
    /// Its name; empty for anonymous memory.
    pub name: String,
    /// KiB by name, as smaps counts them: `Private_Dirty`, `Anonymous` and so on.
    pub kib: HashMap<String, u64>,
    flags: Vec<String>,
}

impl Mapping {
    /// How many pages.
    pub const fn pages(&self) -> u64 {
        self.end - self.start
    }

    /// Has this flag of two letters.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag)
    }
}

/// The mappings of a process, without those in the kernel's half.
pub fn mappings(pid: i32) -> Vec<Mapping> {
    let text = fs::read(format!("/proc/{pid}/smaps")).unwrap();
    let mut all: Vec<Mapping> = Vec::new();
    for line in String::from_utf8_lossy(&text).lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            all.last_mut().unwrap().flags = flags.split_whitespace().map(str::to_owned).collect();
        } else if let Some((name, kib)) = line.strip_suffix(" kB").and_then(|l| l.split_once(':')) {
            let kib = kib.trim().parse().unwrap();
            all.last_mut().unwrap().kib.insert(name.to_owned(), kib);
        } else if line.as_bytes()[0].is_ascii_hexdigit() && line.contains('-') {
            let mut words = line.split_whitespace();
            let (start, end) = words.next().unwrap().split_once('-').unwrap();
            let hex = |s: &str| u64::from_str_radix(s, 16).unwrap();
            let perms = words.next().unwrap();
            let offset = hex(words.next().unwrap());
            let name: Vec<&str> = words.skip(2).collect();
            all.push(Mapping {
                start: hex(start) / PAGE,
                end: hex(end) / PAGE,
                shared: perms.ends_with('s'),
                file_page: offset / PAGE,
                name: name.join(" "),
                kib: HashMap::new(),
                flags: Vec::new(),
            });
        }
    }
    all.retain(|m| m.start >> 51 == 0);
    all
}

/// What one entry of a page table says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry(u64);

impl Entry {
    /// The frame, if the page is present.
    pub const fn frame(self) -> Option<u64> {
        if self.0 >> 63 == 1 { Some(self.0 & ((1 << 55) - 1)) } else { None }
    }

    /// A page of a file or of shared memory.
    pub const fn is_file(self) -> bool {
        self.0 >> 61 & 1 == 1
    }
}

/// Reads page tables page by page, and frames one by one.
#[derive(Debug)]
pub struct Slow {
    flags: File,
    zero: HashMap<u64, bool>,
}

impl Default for Slow {
    fn default() -> Self {
        Self { flags: File::open("/proc/kpageflags").unwrap(), zero: HashMap::new() }
    }
}

impl Slow {
    /// The entries of mappings, with the number of the mapping and the page.
    pub fn entries(pid: i32, ram: &[Mapping]) -> Vec<(usize, u64, Entry)> {
        let table = File::open(format!("/proc/{pid}/pagemap")).unwrap();
        let mut all = Vec::new();
        for (i, mapping) in ram.iter().enumerate() {
            let mut bytes = vec![0; usize::try_from(mapping.pages() * 8).unwrap()];
            table.read_exact_at(&mut bytes, mapping.start * 8).unwrap();
            let words = bytes.as_chunks::<8>().0.iter().map(|w| Entry(u64::from_le_bytes(*w)));
            all.extend((mapping.start..).zip(words).map(|(page, entry)| (i, page, entry)));
        }
        all
    }

    /// Is this the kernel's page of zeros (bit 24 of its flags)?
    pub fn is_zero(&mut self, frame: u64) -> bool {
        let flags = &self.flags;
        *self.zero.entry(frame).or_insert_with(|| {
            let mut word = [0; 8];
            flags.read_exact_at(&mut word, frame * 8).unwrap();
            u64::from_le_bytes(word) >> 24 & 1 == 1
        })
    }

    /// Counts the guest RAM of one QEMU.
    pub fn count(&mut self, guest: &Guest) -> Counted {
        let mut counted = Counted::default();
        for (_, _, entry) in Self::entries(guest.pid, &guest.ram()) {
            let Some(frame) = entry.frame() else { continue };
            counted.resident += 1;
            if self.is_zero(frame) {
                counted.zero += 1;
            } else {
                counted.frames.insert(frame);
                if entry.is_file() {
                    counted.file_frames.insert(frame);
                }
            }
        }
        counted
    }

    /// The frames of guests, each once, by their content; by each, whether any page on it is mapped
    /// shared. The zero page is left out.
    pub fn contents(&mut self, guests: &[Guest]) -> BTreeMap<Vec<u8>, Vec<bool>> {
        let mut seen = BTreeSet::new();
        let mut contents: BTreeMap<Vec<u8>, Vec<bool>> = BTreeMap::new();
        for guest in guests {
            let memory = File::open(format!("/proc/{}/mem", guest.pid)).unwrap();
            let ram = guest.ram();
            for (i, page, entry) in Self::entries(guest.pid, &ram) {
                let Some(frame) = entry.frame() else { continue };
                if !self.is_zero(frame) && seen.insert(frame) {
                    let mut bytes = vec![0; 4096];
                    memory.read_exact_at(&mut bytes, page * PAGE).unwrap();
                    contents.entry(bytes).or_default().push(ram[i].shared);
                }
            }
        }
        contents
    }
}

/// The guest RAM of one QEMU by the slow count.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Counted {
    /// Pages in the page table.
    pub resident: u64,
    /// Of these, on the kernel's page of zeros.
    pub zero: u64,
    /// Distinct frames without that page.
    pub frames: BTreeSet<u64>,
    /// Of these, frames that are pages of a file.
    pub file_frames: BTreeSet<u64>,
}

/// The file behind a mapping, whatever became of its name.
pub fn mapped_file(pid: i32, mapping: &Mapping) -> File {
    let (start, end) = (mapping.start * PAGE, mapping.end * PAGE);
    File::open(format!("/proc/{pid}/map_files/{start:x}-{end:x}")).unwrap()
}

/// The pages that a file in tmpfs has; the others are holes. Asks the file system and touches
/// nothing.
pub fn file_pages(file: &File) -> BTreeSet<u64> {
    let mut pages = BTreeSet::new();
    let mut at = 0;
    // ends with an error (ENXIO) behind the last page
    while let Ok(data) = lseek(file, at, Whence::SeekData) {
        at = lseek(file, data, Whence::SeekHole).unwrap();
        pages
            .extend(u64::try_from(data).unwrap() / PAGE..u64::try_from(at).unwrap().div_ceil(PAGE));
    }
    pages
}
