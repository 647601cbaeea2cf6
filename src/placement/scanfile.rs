//! The record of a scan: a text file that `sort`, `join` and `diff` understand.
//!
//! ```text
//! #pageherd-scan 1
//! #{"taken":1700000000,"boot":"…","vms":[…],"ksm":{…}}
//! VM  BLOCK  PAGE  PAGES  STATE  KIND  PFN  SHARERS          (tabs between)
//! #end rows=N crc32=hhhhhhhh
//! ```
//!
//! The checksum is over every byte before the last line. Who wrote the file is not proven by it.

use crate::base::target::is_name;
use crate::base::{Mechanism, Pfn};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::str::FromStr;

/// First words of the first line.
const MAGIC: &str = "#pageherd-scan ";

/// The version that is written and read.
pub const VERSION: u32 = 1;

/// VMs that a file may name.
pub const MAX_VMS: usize = 65_536;

/// What is known of a whole scan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Header {
    /// When it was taken, in seconds since 1970.
    pub taken: u64,
    /// The host's boot: addresses and frames of different boots have nothing in common.
    pub boot: String,
    /// The VMs.
    pub vms: Vec<VmHeader>,
    /// KSM's state; none where the kernel has no KSM.
    pub ksm: Option<KsmTotals>,
}

/// What KSM had merged then, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KsmTotals {
    /// The scanner ran.
    pub running: bool,
    /// Whole passes over all mergeable memory.
    pub full_scans: u64,
    /// Merged frames.
    pub pages_shared: u64,
    /// Further pages that map them.
    pub pages_sharing: u64,
}

/// One VM of a scan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VmHeader {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: Option<i32>,
    /// When that process started, in clock ticks since boot.
    pub start_time: Option<u64>,
    /// Its blocks.
    pub blocks: Vec<BlockHeader>,
}

/// One block of a VM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BlockHeader {
    /// Its name in `/proc/PID/maps`.
    pub name: String,
    /// Host-virtual address of its first page, in pages.
    pub first_page: u64,
    /// How many pages it has.
    pub pages: u64,
    /// Mapped shared.
    pub shared: bool,
}

/// What a page is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PageState {
    /// On a frame that nothing else maps.
    Unique,
    /// On a frame that others map too.
    Shared(Mechanism),
    /// On a swap device.
    Swapped,
    /// It changed while it was looked at.
    Changed,
    /// Not here: never touched, given back, or not mapped yet. Records leave these out.
    Absent,
}

impl PageState {
    /// The word in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unique => "unique",
            Self::Shared(mechanism) => mechanism.name(),
            Self::Swapped => "swapped",
            Self::Changed => "changed",
            Self::Absent => "absent",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "unique" => Self::Unique,
            "swapped" => Self::Swapped,
            "changed" => Self::Changed,
            "absent" => Self::Absent,
            other => Self::Shared(Mechanism::from_name(other)?),
        })
    }
}

/// Consecutive pages of one block that are alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Position of the VM.
    pub vm: u32,
    /// Position of the block in the VM.
    pub block: u32,
    /// First page, within the block.
    pub page: u64,
    /// How many.
    pub pages: u64,
    /// What they are.
    pub state: PageState,
    /// Pages of a file or of shared memory, and not anonymous.
    pub file: bool,
    /// The frame of the first page; the others follow it. Left out where it says nothing.
    pub pfn: Option<Pfn>,
    /// The VMs that map the frames, ascending; empty unless shared.
    pub sharers: Vec<u32>,
    /// Others map them too.
    pub outside: bool,
}

impl Row {
    /// Where the next row of the block may begin.
    fn end(&self) -> (u32, u32, u64) {
        (self.vm, self.block, self.page + self.pages)
    }
}

/// A file that is no record, or a damaged one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanFileError {
    /// Another kind of file.
    #[error(
        "this is no record of a scan: it does not begin with '#pageherd-scan'; 'memscan record -o FILE' makes one"
    )]
    Foreign,
    /// A version that this program does not know.
    #[error(
        "this record has version {0}, and version {VERSION} is what this memscan reads: use the memscan that made it"
    )]
    Version(String),
    /// The header is not understood.
    #[error("the record is damaged: its header (line 2) is not understood: {0}")]
    Header(String),
    /// The file ends too early.
    #[error(
        "the record is cut off: its last line is missing; was memscan stopped, or the disk full?"
    )]
    Truncated,
    /// The checksum does not fit.
    #[error("the record is damaged: its checksum is {found} and its last line says {said}")]
    Checksum {
        /// Of the bytes that are there.
        found: String,
        /// As written.
        said: String,
    },
    /// A row is not understood.
    #[error("the record is damaged: line {line}: {what}")]
    Row {
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// The first two lines.
pub fn write_header(header: &Header) -> String {
    let json = serde_json::to_string(header).unwrap_or_default();
    format!("{MAGIC}{VERSION}\n#{json}\n")
}

/// Appends the line of one row.
pub fn write_row(row: &Row, out: &mut String) {
    let kind = if row.file { "file" } else { "anon" };
    let pfn = row.pfn.map_or_else(|| "-".to_owned(), |pfn| format!("{:x}", pfn.0));
    let _ = writeln!(
        out,
        "{}\t{}\t{}\t{}\t{}\t{kind}\t{pfn}\t{}",
        row.vm,
        row.block,
        row.page,
        row.pages,
        row.state.name(),
        sharers(row)
    );
}

fn sharers(row: &Row) -> String {
    let mut list: Vec<String> = row.sharers.iter().map(ToString::to_string).collect();
    if row.outside {
        list.push("+".to_owned());
    }
    if list.is_empty() { "-".to_owned() } else { list.join(",") }
}

/// The last line, for `rows` rows and the checksum of all bytes before it.
pub fn write_end(rows: u64, crc32: u32) -> String {
    format!("#end rows={rows} crc32={crc32:08x}\n")
}

/// Do these first bytes of a file promise a record?
pub fn looks_like_one(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC.as_bytes())
}

/// Reads a whole record.
pub fn parse(bytes: &[u8]) -> Result<(Header, Vec<Row>), ScanFileError> {
    if !looks_like_one(bytes) {
        return Err(ScanFileError::Foreign);
    }
    let end = last_line(bytes).ok_or(ScanFileError::Truncated)?;
    let (body, end_line) = bytes.split_at(end);
    let said = std::str::from_utf8(end_line).map_err(|_| ScanFileError::Truncated)?;
    let text = std::str::from_utf8(body).map_err(|_| ScanFileError::Foreign)?;
    let mut lines = text.lines();
    let version = lines.next().and_then(|l| l.strip_prefix(MAGIC)).ok_or(ScanFileError::Foreign)?;
    if version != VERSION.to_string() {
        return Err(ScanFileError::Version(version.chars().take(20).collect()));
    }
    let (rows_said, crc_said) = end_of(said).ok_or(ScanFileError::Truncated)?;
    let crc = format!("{:08x}", crc32fast::hash(body));
    if crc != crc_said {
        return Err(ScanFileError::Checksum { found: crc, said: crc_said.to_owned() });
    }
    let header = lines.next().and_then(|l| l.strip_prefix('#')).unwrap_or_default();
    let header: Header =
        serde_json::from_str(header).map_err(|e| ScanFileError::Header(e.to_string()))?;
    check(&header).map_err(|what| ScanFileError::Header(what.to_owned()))?;
    let mut rows = Vec::new();
    for (i, line) in lines.enumerate() {
        let wrong = |what| ScanFileError::Row { line: i + 3, what };
        let row = parse_row(line, &header).map_err(wrong)?;
        if rows.last().is_some_and(|last: &Row| last.end() > (row.vm, row.block, row.page)) {
            return Err(wrong("its pages stand before it, or in it twice"));
        }
        rows.push(row);
    }
    if rows.len() as u64 != rows_said {
        return Err(ScanFileError::Row { line: rows.len() + 3, what: "rows are missing" });
    }
    Ok((header, rows))
}

/// Where the last line starts, if it is whole.
fn last_line(bytes: &[u8]) -> Option<usize> {
    let body = bytes.strip_suffix(b"\n")?;
    let start = body.iter().rposition(|&b| b == b'\n')? + 1;
    bytes[start..].starts_with(b"#end ").then_some(start)
}

fn end_of(line: &str) -> Option<(u64, &str)> {
    let rest = line.trim_end().strip_prefix("#end rows=")?;
    let (rows, crc) = rest.split_once(" crc32=")?;
    Some((rows.parse().ok()?, crc))
}

/// Pages that all blocks of a record may have together: an address space of 64 bits.
pub const MAX_PAGES: u64 = 1 << 52;

/// Bytes of a block's name: a path whose every byte is written as four.
pub const MAX_BLOCK_NAME: usize = 16_384;

/// Frame numbers end here: 4 PiB of memory.
const MAX_PFN: u64 = 1 << 40;

/// A header comes from anywhere: nothing in it may overflow a sum or steer a terminal.
fn check(header: &Header) -> Result<(), &'static str> {
    if header.vms.len() > MAX_VMS {
        return Err("too many VMs");
    }
    let mut names = BTreeSet::new();
    let mut pages = 0u64;
    for vm in &header.vms {
        if !is_name(&vm.name) || !names.insert(&vm.name) {
            return Err("a VM's name is no name, or stands twice");
        }
        for block in &vm.blocks {
            if block.name.len() > MAX_BLOCK_NAME || block.name.chars().any(char::is_control) {
                return Err("a block's name is too long or has control characters");
            }
            let end = block.first_page.checked_add(block.pages);
            if end.is_none_or(|end| end > MAX_PAGES) {
                return Err("a block is outside of every address space");
            }
            pages = pages.saturating_add(block.pages);
        }
    }
    if pages > MAX_PAGES { Err("its blocks have too many pages") } else { Ok(()) }
}

/// Digits and nothing else: `+10` is a number to the library and not to us.
fn digits<T: FromStr>(text: &str) -> Result<T, &'static str> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| plain).ok_or("a field is no number")
}

fn frame(text: &str, pages: u64) -> Result<Pfn, &'static str> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let number = u64::from_str_radix(text, 16).ok().filter(|_| plain);
    let fits = |n: &u64| n.checked_add(pages).is_some_and(|end| end <= MAX_PFN);
    number.filter(fits).map(Pfn).ok_or("its frame is no number, or too large a one")
}

fn parse_row(line: &str, header: &Header) -> Result<Row, &'static str> {
    let mut fields = line.split('\t');
    let mut field = || fields.next().ok_or("it has too few fields");
    let (vm, block): (u32, u32) = (digits(field()?)?, digits(field()?)?);
    let (page, pages): (u64, u64) = (digits(field()?)?, digits(field()?)?);
    let whole = header
        .vms
        .get(vm as usize)
        .and_then(|vm| vm.blocks.get(block as usize))
        .ok_or("it names a VM or block that the header does not have")?;
    if pages == 0 || page.checked_add(pages).is_none_or(|end| end > whole.pages) {
        return Err("its pages are outside the block");
    }
    let state = PageState::from_name(field()?).ok_or("its state is unknown")?;
    let file = match field()? {
        "file" => true,
        "anon" => false,
        _ => return Err("its kind is unknown"),
    };
    let pfn = match field()? {
        "-" => None,
        hex => Some(frame(hex, pages)?),
    };
    let (mut sharers, mut outside): (Vec<u32>, bool) = (Vec::new(), false);
    match field()? {
        "-" => {}
        list => {
            for part in list.split(',') {
                match part {
                    "+" => outside = true,
                    vm => sharers.push(digits(vm)?),
                }
            }
        }
    }
    let ascending = sharers.windows(2).all(|pair| pair[0] < pair[1]);
    if !ascending || sharers.last().is_some_and(|&vm| vm as usize >= header.vms.len()) {
        return Err("its sharers are not VMs of the header, each once and in order");
    }
    if fields.next().is_some() {
        return Err("it has too many fields");
    }
    Ok(Row { vm, block, page, pages, state, file, pfn, sharers, outside })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        let block =
            BlockHeader { name: "anon".into(), first_page: 0x7f00, pages: 1000, shared: false };
        let vm = |name: &str| VmHeader {
            name: name.into(),
            pid: Some(7),
            start_time: Some(9),
            blocks: vec![block.clone()],
        };
        Header { taken: 1, boot: "b".into(), vms: vec![vm("a"), vm("b")], ksm: None }
    }

    fn row() -> Row {
        Row {
            vm: 1,
            block: 0,
            page: 5,
            pages: 10,
            state: PageState::Shared(Mechanism::Ksm),
            file: false,
            pfn: Some(Pfn(0xabc)),
            sharers: vec![0, 1],
            outside: true,
        }
    }

    fn whole(rows: &[Row]) -> Vec<u8> {
        let mut text = write_header(&header());
        for row in rows {
            write_row(row, &mut text);
        }
        let end = write_end(rows.len() as u64, crc32fast::hash(text.as_bytes()));
        (text + &end).into_bytes()
    }

    #[test]
    fn a_record_reads_back() {
        let rows = [
            row(),
            Row {
                page: 15,
                state: PageState::Swapped,
                pfn: None,
                sharers: vec![],
                outside: false,
                ..row()
            },
        ];
        let (h, r) = parse(&whole(&rows)).unwrap();
        assert_eq!((h, r.as_slice()), (header(), rows.as_slice()));
    }

    #[test]
    fn every_prefix_and_every_flipped_bit_is_refused() {
        crate::placement::damage::is_refused(
            &whole(&[row(), Row { page: 15, ..row() }]),
            |bytes| parse(bytes).is_ok(),
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(parse(b"\x7fELF"), Err(ScanFileError::Foreign));
        assert_eq!(parse(b""), Err(ScanFileError::Foreign));
        let newer = String::from_utf8(whole(&[])).unwrap().replacen("scan 1", "scan 2", 1);
        assert_eq!(parse(newer.as_bytes()), Err(ScanFileError::Version("2".into())));
        let outside = Row { page: 995, ..row() };
        assert!(parse(&whole(&[outside])).unwrap_err().to_string().contains("line 3"));
        let stranger = Row { sharers: vec![2], ..row() };
        assert!(parse(&whole(&[stranger])).is_err());
        let twice = Row { sharers: vec![1, 1], ..row() };
        assert!(parse(&whole(&[twice])).is_err());
        let overlap = Row { page: 6, ..row() };
        assert!(parse(&whole(&[row(), overlap])).unwrap_err().to_string().contains("line 4"));
        let far = Row { pfn: Some(Pfn(MAX_PFN - 9)), ..row() };
        assert!(parse(&whole(&[far])).is_err());
        assert!(digits::<u64>("+1").is_err() && frame("+f", 1).is_err() && frame("F", 1).is_err());
    }

    #[test]
    fn a_header_cannot_overflow_a_sum_or_steer_a_terminal() {
        let wrong = |change: &dyn Fn(&mut Header)| {
            let mut header = header();
            change(&mut header);
            let text = write_header(&header);
            let end = write_end(0, crc32fast::hash(text.as_bytes()));
            assert!(matches!(parse((text + &end).as_bytes()), Err(ScanFileError::Header(_))));
        };
        wrong(&|h| h.vms[1].name = "a".into());
        wrong(&|h| h.vms[0].name = "\x1b[31m".into());
        wrong(&|h| h.vms[0].blocks[0].name = "evil\x1b[31m".into());
        wrong(&|h| h.vms[0].blocks[0].pages = u64::MAX);
        wrong(&|h| h.vms[0].blocks[0].first_page = u64::MAX);
        wrong(&|h| {
            h.vms.iter_mut().for_each(|vm| vm.blocks[0].pages = MAX_PAGES / 2 + 1);
            h.vms.iter_mut().for_each(|vm| vm.blocks[0].first_page = 0);
        });
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let mut begun = MAGIC.as_bytes().to_vec();
            begun.extend(bytes);
            let _ = parse(&begun);
        }

        /// With a checksum that fits, so that the rows themselves are reached.
        #[test]
        fn any_row_is_read_or_refused(line in "[0-9a-z\t,+-]{0,40}") {
            let text = format!("{}{line}\n", write_header(&header()));
            let end = write_end(1, crc32fast::hash(text.as_bytes()));
            let _ = parse((text + &end).as_bytes());
        }
    }
}
