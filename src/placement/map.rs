//! The placement map: for each page of each block of some VMs, its place. `docs/FORMAT.md` is the
//! description that this follows.

use crate::base::Place;
use crate::base::bytes::{Reader, Truncated};

/// First eight bytes: a byte above 127, letters, and line ends of both kinds, so that damage by a
/// text-mode transfer shows at once.
const MAGIC: [u8; 8] = [0x89, b'P', b'H', b'M', b'\r', b'\n', 0x1a, b'\n'];

/// Version that is written; readers refuse another major number.
pub const VERSION: (u16, u16) = (1, 0);

/// Base-2 logarithm of the page size.
const PAGE_SHIFT: u8 = 12;

/// VMs in a map.
pub const MAX_VMS: u32 = 65_536;
/// Blocks in a VM.
pub const MAX_BLOCKS: u32 = 1 << 20;
/// Files that places can name.
pub const MAX_FILES: u32 = 1 << 20;
/// Bytes of a name.
pub const MAX_NAME: u16 = 4096;

/// Numbers of the places in the file. They are a type of their own: the order of the enum in memory
/// may change, these never.
mod tag {
    pub(super) const END: u8 = 255;
    pub(super) const ZERO: u8 = 1;
    pub(super) const UNUSED: u8 = 2;
    pub(super) const TEMPLATE: u8 = 3;
    pub(super) const POOL: u8 = 4;
    pub(super) const LOCAL: u8 = 5;
    pub(super) const BYTES: u8 = 6;
}

/// A VM in a map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapVm {
    /// Its name.
    pub name: String,
    /// Its blocks: names and pages.
    pub blocks: Vec<(String, u64)>,
}

/// A file that places name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapFile {
    /// Its path or name.
    pub path: String,
    /// Its device, as `(major << 32) | minor`.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
}

/// What stands before the runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MapHeader {
    /// The VMs.
    pub vms: Vec<MapVm>,
    /// The files.
    pub files: Vec<MapFile>,
}

/// Consecutive pages whose places follow one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapRun {
    /// Position of the VM.
    pub vm: u32,
    /// Position of the block.
    pub block: u32,
    /// First page in the block.
    pub page: u64,
    /// How many pages.
    pub pages: u64,
    /// Place of the first page.
    pub place: Place,
}

/// No placement map, or a damaged one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// Another kind of file.
    #[error("this is no placement map: it does not begin with its mark")]
    Foreign,
    /// Another major version.
    #[error("this placement map has version {0}; version 1 is what is read")]
    Version(u16),
    /// A feature that a reader must know.
    #[error("this placement map needs features {0:#x}, which are not known here")]
    Feature(u64),
    /// It ends too early.
    #[error("the placement map is cut off")]
    Truncated(#[from] Truncated),
    /// A checksum does not fit.
    #[error("the placement map is damaged: the checksum of its {0} does not fit")]
    Checksum(&'static str),
    /// A number is over its bound or out of order.
    #[error("the placement map is wrong: {0}")]
    Wrong(&'static str),
}

/// Writes the header.
pub fn write_header(header: &MapHeader) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.0.to_le_bytes());
    out.extend(VERSION.1.to_le_bytes());
    out.extend(0u64.to_le_bytes()); // features that a reader must know
    out.extend(0u64.to_le_bytes()); // features that a reader may pass over
    out.push(PAGE_SHIFT);
    count(&mut out, header.vms.len());
    for vm in &header.vms {
        name(&mut out, &vm.name);
        count(&mut out, vm.blocks.len());
        for (block, pages) in &vm.blocks {
            name(&mut out, block);
            out.extend(pages.to_le_bytes());
        }
    }
    count(&mut out, header.files.len());
    for file in &header.files {
        name(&mut out, &file.path);
        out.extend(file.device.to_le_bytes());
        out.extend(file.inode.to_le_bytes());
    }
    let crc = crc32fast::hash(&out);
    out.extend(crc.to_le_bytes());
    out
}

fn count(out: &mut Vec<u8>, n: usize) {
    out.extend(u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
}

fn name(out: &mut Vec<u8>, name: &str) {
    let mut end = name.len().min(MAX_NAME as usize);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let bytes = &name.as_bytes()[..end];
    out.extend(u16::try_from(bytes.len()).unwrap_or(MAX_NAME).to_le_bytes());
    out.extend(bytes);
}

/// Appends a run.
pub fn write_run(run: &MapRun, out: &mut Vec<u8>) {
    let (tag, file, page) = match run.place {
        Place::Zero => (tag::ZERO, None, None),
        Place::Unused => (tag::UNUSED, None, None),
        Place::Template { file, page } => (tag::TEMPLATE, Some(file), Some(page)),
        Place::Pool { page } => (tag::POOL, None, Some(page)),
        Place::Local { file, page } => (tag::LOCAL, Some(file), Some(page)),
        Place::Bytes => (tag::BYTES, None, None),
    };
    out.push(tag);
    out.extend(run.vm.to_le_bytes());
    out.extend(run.block.to_le_bytes());
    out.extend(run.page.to_le_bytes());
    out.extend(run.pages.to_le_bytes());
    if let Some(file) = file {
        out.extend(file.to_le_bytes());
    }
    if let Some(page) = page {
        out.extend(page.to_le_bytes());
    }
}

/// The end, for `runs` runs and the checksum of every byte since the header.
pub fn write_end(runs: u64, crc32: u32) -> Vec<u8> {
    let mut out = vec![tag::END];
    out.extend(runs.to_le_bytes());
    out.extend(crc32.to_le_bytes());
    out
}

/// Reads a whole map. Every page of every block stands in it exactly once, in order.
pub fn parse(bytes: &[u8]) -> Result<(MapHeader, Vec<MapRun>), MapError> {
    let mut r = Reader::new(bytes);
    if r.take(MAGIC.len(), "mark").map_err(|_| MapError::Foreign)? != MAGIC {
        return Err(MapError::Foreign);
    }
    let header = read_header(&mut r)?;
    let body = r.offset();
    let mut runs: Vec<MapRun> = Vec::new();
    let mut next = Cursor::new(&header);
    loop {
        let at = r.offset();
        let tag = r.u8("tag")?;
        if tag == tag::END {
            let said = r.u64("number of runs")?;
            let crc = r.u32("checksum")?;
            if crc != crc32fast::hash(&bytes[body..at]) {
                return Err(MapError::Checksum("runs"));
            }
            if said != runs.len() as u64 {
                return Err(MapError::Wrong("its number of runs is not the one it says"));
            }
            if r.left() != 0 {
                return Err(MapError::Wrong("something follows its end"));
            }
            next.at_end()?;
            return Ok((header, runs));
        }
        let run = read_run(tag, &mut r, &header)?;
        next.take(&run)?;
        runs.push(run);
    }
}

fn read_header(r: &mut Reader<'_>) -> Result<MapHeader, MapError> {
    let start = r.clone();
    let major = r.u16("version")?;
    if major != VERSION.0 {
        return Err(MapError::Version(major));
    }
    r.u16("minor version")?;
    let required = r.u64("required features")?;
    if required != 0 {
        return Err(MapError::Feature(required));
    }
    r.u64("optional features")?;
    if r.u8("page size")? != PAGE_SHIFT {
        return Err(MapError::Wrong("its pages are not of 4 KiB"));
    }
    let mut header = MapHeader::default();
    for _ in 0..bounded(r, MAX_VMS, "it has too many VMs")? {
        let name = read_name(r)?;
        let mut blocks = Vec::new();
        for _ in 0..bounded(r, MAX_BLOCKS, "a VM has too many blocks")? {
            blocks.push((read_name(r)?, r.u64("pages of a block")?));
        }
        header.vms.push(MapVm { name, blocks });
    }
    for _ in 0..bounded(r, MAX_FILES, "it has too many files")? {
        header.files.push(MapFile {
            path: read_name(r)?,
            device: r.u64("device")?,
            inode: r.u64("inode")?,
        });
    }
    let length = r.offset() - start.offset();
    let mut whole = crc32fast::Hasher::new();
    whole.update(&MAGIC);
    whole.update(start.clone().take(length, "header")?);
    if r.u32("checksum of the header")? != whole.finalize() {
        return Err(MapError::Checksum("header"));
    }
    Ok(header)
}

fn bounded(r: &mut Reader<'_>, most: u32, too_many: &'static str) -> Result<u32, MapError> {
    let n = r.u32("a count")?;
    if n > most { Err(MapError::Wrong(too_many)) } else { Ok(n) }
}

fn read_name(r: &mut Reader<'_>) -> Result<String, MapError> {
    let len = r.u16("length of a name")?;
    if len > MAX_NAME {
        return Err(MapError::Wrong("a name is too long"));
    }
    let bytes = r.take(usize::from(len), "a name")?;
    String::from_utf8(bytes.to_vec()).map_err(|_| MapError::Wrong("a name is not UTF-8"))
}

fn read_run(tag: u8, r: &mut Reader<'_>, header: &MapHeader) -> Result<MapRun, MapError> {
    let (vm, block) = (r.u32("VM of a run")?, r.u32("block of a run")?);
    let (page, pages) = (r.u64("page of a run")?, r.u64("pages of a run")?);
    let mut file = || match r.u32("file of a run")? {
        n if (n as usize) < header.files.len() => Ok(n),
        _ => Err(MapError::Wrong("a run names a file that the header does not have")),
    };
    let place = match tag {
        tag::ZERO => Place::Zero,
        tag::UNUSED => Place::Unused,
        tag::BYTES => Place::Bytes,
        tag::TEMPLATE => Place::Template { file: file()?, page: r.u64("page of a file")? },
        tag::LOCAL => Place::Local { file: file()?, page: r.u64("page of a file")? },
        tag::POOL => Place::Pool { page: r.u64("page of the pool")? },
        _ => return Err(MapError::Wrong("a run has an unknown tag")),
    };
    let first = match place {
        Place::Template { page, .. } | Place::Local { page, .. } | Place::Pool { page } => page,
        Place::Zero | Place::Unused | Place::Bytes => 0,
    };
    if first.checked_add(pages).is_none() {
        return Err(MapError::Wrong("the places of a run do not end"));
    }
    Ok(MapRun { vm, block, page, pages, place })
}

/// Which page must come next.
struct Cursor<'a> {
    header: &'a MapHeader,
    vm: usize,
    block: usize,
    page: u64,
}

impl<'a> Cursor<'a> {
    fn new(header: &'a MapHeader) -> Self {
        let mut cursor = Self { header, vm: 0, block: 0, page: 0 };
        cursor.skip();
        cursor
    }

    /// Goes on to the next block that has a page left.
    fn skip(&mut self) {
        while let Some(vm) = self.header.vms.get(self.vm) {
            match vm.blocks.get(self.block) {
                Some((_, pages)) if self.page < *pages => return,
                Some(_) => (self.block, self.page) = (self.block + 1, 0),
                None => (self.vm, self.block, self.page) = (self.vm + 1, 0, 0),
            }
        }
    }

    fn take(&mut self, run: &MapRun) -> Result<(), MapError> {
        let here =
            (run.vm as usize, run.block as usize, run.page) == (self.vm, self.block, self.page);
        let left = self.header.vms.get(self.vm).and_then(|vm| vm.blocks.get(self.block));
        let left = left.map_or(0, |(_, pages)| pages - self.page);
        if !here || run.pages == 0 || run.pages > left {
            return Err(MapError::Wrong("a page is missing, or stands in it twice"));
        }
        self.page += run.pages;
        self.skip();
        Ok(())
    }

    fn at_end(&self) -> Result<(), MapError> {
        if self.vm < self.header.vms.len() {
            return Err(MapError::Wrong("its last pages are missing"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> MapHeader {
        MapHeader {
            vms: vec![
                MapVm { name: "a".into(), blocks: vec![("ram".into(), 10), ("rom".into(), 0)] },
                MapVm { name: "b".into(), blocks: vec![("ram".into(), 2)] },
            ],
            files: vec![MapFile { path: "/t".into(), device: 1, inode: 2 }],
        }
    }

    fn runs() -> Vec<MapRun> {
        let run = |vm, page, pages, place| MapRun { vm, block: 0, page, pages, place };
        vec![
            run(0, 0, 3, Place::Zero),
            run(0, 3, 1, Place::Unused),
            run(0, 4, 2, Place::Template { file: 0, page: 4 }),
            run(0, 6, 1, Place::Pool { page: 9 }),
            run(0, 7, 3, Place::Bytes),
            run(1, 0, 2, Place::Local { file: 0, page: 1 }),
        ]
    }

    fn whole(runs: &[MapRun]) -> Vec<u8> {
        let mut body = Vec::new();
        for run in runs {
            write_run(run, &mut body);
        }
        let end = write_end(runs.len() as u64, crc32fast::hash(&body));
        [write_header(&header()), body, end].concat()
    }

    #[test]
    fn a_map_reads_back() {
        assert_eq!(parse(&whole(&runs())), Ok((header(), runs())));
    }

    #[test]
    fn every_prefix_and_every_flipped_bit_is_refused() {
        crate::placement::damage::is_refused(&whole(&runs()), |bytes| parse(bytes).is_ok());
    }

    #[test]
    fn each_page_stands_in_it_once() {
        let all = runs();
        assert!(matches!(
            parse(&whole(&all[..5])),
            Err(MapError::Wrong("its last pages are missing"))
        ));
        let twice = [&all[..2], &all[1..]].concat();
        assert!(matches!(parse(&whole(&twice)), Err(MapError::Wrong(_))));
        let mut none = all.clone();
        none[1].pages = 0;
        assert!(parse(&whole(&none)).is_err());
        let mut stranger = all;
        stranger[2].place = Place::Template { file: 1, page: 0 };
        assert!(parse(&whole(&stranger)).is_err());
        let more = [whole(&runs()), vec![0]].concat();
        assert_eq!(parse(&more), Err(MapError::Wrong("something follows its end")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_map_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let mut begun = write_header(&header());
            begun.extend(bytes);
            let _ = parse(&begun);
        }
    }
}
