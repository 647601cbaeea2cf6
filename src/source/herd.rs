//! A VM of a herd directory as a source of facts: its places, and the pages of the pool behind
//! them.
//!
//! The pool and the templates are mapped here and those of their pages are touched that are in memory
//! already, so that our own page table tells their frames: two VMs that have a page in common have it
//! on one frame.

use super::PageSource;
use crate::abi::pagemap::Entry;
use crate::abi::vma::{FileId, Vma};
use crate::base::{PAGE_SIZE, PageRange, Place, Places};
use crate::placement::herd::{POOL, map_file, vm_of};
use crate::placement::map::{self, MapFile};
use crate::sys::mapping::Mapping;
use crate::sys::{cache, pagemap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Pages of a VM that are read: 4 TiB. A table of places for more would take memory for what a
/// damaged map only says.
const MOST_PAGES: u64 = 1 << 30;

/// Why a herd cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HerdError {
    /// No herd there.
    #[error(
        "{0} is no herd: a herd is a directory with a pool and a .map file for each VM; name it, or a VM in it as DIR/VM"
    )]
    NoHerd(PathBuf),
    /// A herd without any VM.
    #[error("herd {0} has no VM")]
    Empty(PathBuf),
    /// A herd without that VM.
    #[error("herd {dir} has no VM {vm}; it has {has}")]
    NoVm {
        /// The herd.
        dir: PathBuf,
        /// The VM.
        vm: String,
        /// Those that it has.
        has: String,
    },
    /// A map that cannot be used.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A template is not there any more, or is another.
    #[error("{map} refers to the template {template}, which {why}")]
    Template {
        /// The map.
        map: PathBuf,
        /// The template.
        template: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Reading failed.
    #[error("{path} cannot be read")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A VM in a herd, found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HerdVm {
    dir: PathBuf,
    name: String,
}

impl HerdVm {
    /// What `DIR/VM` or `DIR` names.
    pub fn find(path: &Path) -> Result<Vec<Self>, HerdError> {
        if path.join(POOL).is_file() {
            let vms = vms(path)?;
            if vms.is_empty() {
                return Err(HerdError::Empty(path.to_owned()));
            }
            return Ok(vms.into_iter().map(|name| Self { dir: path.to_owned(), name }).collect());
        }
        let no_herd = || HerdError::NoHerd(path.to_owned());
        let dir = path.parent().filter(|dir| dir.join(POOL).is_file()).ok_or_else(no_herd)?;
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(no_herd)?;
        let (dir, name) = (dir.to_owned(), name.to_owned());
        let has = vms(&dir)?;
        if !has.contains(&name) {
            let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
            return Err(HerdError::NoVm { dir, vm: name, has });
        }
        Ok(vec![Self { dir, name }])
    }

    /// Its name in the herd.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `DIR/VM`.
    pub fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }
}

fn vms(dir: &Path) -> Result<Vec<String>, HerdError> {
    let entries = fs::read_dir(dir).map_err(failed(dir))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut vms: Vec<String> = names.filter_map(|name| vm_of(&name).map(str::to_owned)).collect();
    vms.sort();
    Ok(vms)
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> HerdError {
    let path = path.to_owned();
    move |source| HerdError::Io { path, source }
}

/// A VM's memory in a herd, open.
#[derive(Debug)]
pub struct HerdMemory {
    /// Its blocks: labels and pages.
    pub blocks: Vec<(String, u64)>,
    /// Where its pages are.
    pub places: Places,
    pool: File,
    templates: Vec<Option<File>>,
}

impl HerdMemory {
    /// Opens a VM. Its map is checked against the pool and the templates that it refers to.
    pub fn open(vm: &HerdVm) -> Result<Self, HerdError> {
        let path = vm.dir.join(map_file(&vm.name));
        let damaged = |why: String| HerdError::Damaged { path: path.clone(), why };
        let pool_path = vm.dir.join(POOL);
        let pool = File::open(&pool_path).map_err(failed(&pool_path))?;
        let pool_pages = pool.metadata().map_err(failed(&pool_path))?.len() / PAGE_SIZE;
        if !fs::metadata(&path).map_err(failed(&path))?.is_file() {
            return Err(damaged("it is no regular file".to_owned()));
        }
        let bytes = fs::read(&path).map_err(failed(&path))?;
        let (mut header, runs) = map::parse(&bytes).map_err(|e| damaged(e.to_string()))?;
        if header.vms.len() != 1 {
            return Err(damaged("it is of more than one VM".to_owned()));
        }
        let blocks = header.vms.remove(0).blocks;
        let starts: Vec<u64> = blocks
            .iter()
            .scan(0u64, |next, (_, pages)| {
                let start = *next;
                *next = next.saturating_add(*pages);
                Some(start)
            })
            .collect();
        let all = blocks.iter().fold(0u64, |all, (_, pages)| all.saturating_add(*pages));
        if all > MOST_PAGES {
            return Err(damaged("it has more pages than there can be".to_owned()));
        }
        let mut places = Places::new(all);
        // of each template that is named, the end of what is used of it
        let mut named: Vec<Option<u64>> = vec![None; header.files.len()];
        for run in &runs {
            match run.place {
                Place::Pool { page } if page + run.pages > pool_pages => {
                    return Err(damaged(
                        "it refers to pages beyond the end of the pool".to_owned(),
                    ));
                }
                Place::Template { file, page } => {
                    let end = &mut named[file as usize];
                    *end = Some(end.unwrap_or(0).max(page + run.pages));
                }
                Place::Pool { .. } | Place::Zero | Place::Unused => {}
                Place::Local { .. } | Place::Bytes => {
                    return Err(damaged("it has pages whose content is not here".to_owned()));
                }
            }
            places.set(starts[run.block as usize] + run.page, run.pages, run.place);
        }
        let open = |(file, end): (&MapFile, &Option<u64>)| {
            end.map(|end| template(file, end, &path)).transpose()
        };
        let templates = header.files.iter().zip(&named).map(open).collect::<Result<_, _>>()?;
        Ok(Self { blocks, places, pool, templates })
    }

    /// Which file the pool is.
    pub fn pool_id(&self) -> Option<FileId> {
        self.pool.metadata().ok().map(|meta| super::image::id_of(&meta))
    }

    /// Which files the templates are, in the order in which places name them; of one that no place
    /// names, nothing.
    pub fn template_ids(&self) -> Vec<FileId> {
        let id = |file: &Option<File>| {
            let meta = file.as_ref().and_then(|file| file.metadata().ok());
            meta.map(|meta| super::image::id_of(&meta)).unwrap_or_default()
        };
        self.templates.iter().map(id).collect()
    }

    /// Copies the content of consecutive pages.
    pub fn read(&self, first: u64, out: &mut [u8]) -> io::Result<()> {
        let mut page = first;
        let end = first + out.len() as u64 / PAGE_SIZE;
        let mut rest = out;
        while page < end {
            let place = self.places.get(page);
            let follows = |next: u64| self.places.get(next) == place.map(|p| p.after(next - page));
            let run = 1 + (page + 1..end).take_while(|&next| follows(next)).count();
            let (here, after) = rest.split_at_mut(run * usize::try_from(PAGE_SIZE).unwrap_or(4096));
            match place {
                Some(Place::Pool { page }) => self.pool.read_exact_at(here, page * PAGE_SIZE)?,
                Some(Place::Template { file, page }) => {
                    let file = self.templates.get(file as usize).and_then(Option::as_ref);
                    let file = file.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
                    file.read_exact_at(here, page * PAGE_SIZE)?;
                }
                _ => here.fill(0),
            }
            page += run as u64;
            rest = after;
        }
        Ok(())
    }
}

/// Opens a template of which the pages up to `end` are used.
fn template(file: &MapFile, end: u64, map: &Path) -> Result<File, HerdError> {
    let wrong = |why| HerdError::Template { map: map.to_owned(), template: file.path.clone(), why };
    // without waiting, should it be a named pipe now
    let open = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&file.path);
    let open = open.map_err(|_| wrong("cannot be opened any more"))?;
    let meta = open.metadata().map_err(|_| wrong("cannot be looked at"))?;
    let id = super::image::id_of(&meta);
    if (id.device, id.inode) != (file.device, file.inode) {
        return Err(wrong("is another file now"));
    }
    if meta.len() / PAGE_SIZE < end {
        return Err(wrong("is shorter now than what is used of it"));
    }
    Ok(open)
}

/// Distance between the blocks of a herd VM in the address space that it is shown in, in pages.
const GAP: u64 = 1 << 10;

/// A VM of a herd as a source of facts. Its blocks lie one after another in an address space of
/// their own, which begins at 1 GiB.
#[derive(Debug)]
pub struct HerdSource {
    memory: HerdMemory,
    pagemap: File,
    blocks: Vec<Vma>,
    /// First page of each block in the VM.
    starts: Vec<u64>,
    /// Keep the pages in our page table: of the pool, then of each template. `None` where nothing of
    /// it is mapped.
    mappings: Vec<Option<Mapping>>,
}

impl HerdSource {
    /// Opens a VM and maps its pool.
    pub fn open(vm: &HerdVm) -> Result<Self, HerdError> {
        let memory = HerdMemory::open(vm)?;
        let path = vm.dir.join(POOL);
        let files = std::iter::once(Some(&memory.pool));
        let files = files.chain(memory.templates.iter().map(Option::as_ref));
        let mappings = (0..).zip(files).map(|(index, file)| match file {
            Some(file) => map_file_of(&memory, index, file),
            None => Ok(None),
        });
        let mappings = mappings.collect::<io::Result<_>>().map_err(failed(&path))?;
        let file = memory.pool_id();
        let (mut blocks, mut starts, mut at, mut start) = (Vec::new(), Vec::new(), 1 << 18, 0);
        for (name, pages) in &memory.blocks {
            blocks.push(Vma {
                pages: PageRange::of(at, *pages),
                read: true,
                write: false,
                exec: false,
                shared: true,
                file_page: 0,
                file,
                name: name.clone(),
                flags: None,
            });
            starts.push(start);
            (at, start) = (at + pages + GAP, start + pages);
        }
        let pagemap =
            File::open("/proc/self/pagemap").map_err(failed(Path::new("/proc/self/pagemap")))?;
        Ok(Self { memory, pagemap, blocks, starts, mappings })
    }

    /// The page of the VM at a page of its address space.
    fn page(&self, at: u64) -> Option<u64> {
        let index = self.blocks.partition_point(|block| block.pages.end <= at);
        let block = self.blocks.get(index).filter(|block| block.pages.start <= at)?;
        Some(self.starts[index] + at - block.pages.start)
    }

    /// Which mapping a page is in, and which page of that.
    fn home(&self, at: u64) -> Option<(usize, u64)> {
        home(self.memory.places.get(self.page(at)?)?)
    }
}

/// The mapping of a place, 0 for the pool and the templates from 1 on, and the page in it.
fn home(place: Place) -> Option<(usize, u64)> {
    match place {
        Place::Pool { page } => Some((0, page)),
        Place::Template { file, page } => Some((file as usize + 1, page)),
        Place::Zero | Place::Unused | Place::Local { .. } | Place::Bytes => None,
    }
}

/// Maps the pool or a template, and touches those pages of it that the VM has and that are in memory.
fn map_file_of(memory: &HerdMemory, index: usize, file: &File) -> io::Result<Option<Mapping>> {
    let pages = file.metadata()?.len() / PAGE_SIZE;
    if pages == 0 {
        return Ok(None);
    }
    let mapping = Mapping::read_only_file(file, pages)?;
    mapping.advise(memmap2::Advice::Random)?;
    cache::no_readahead(file)?;
    let cached = cache::resident(file, PageRange::of(0, pages))?;
    for run in memory.places.runs() {
        let Some((_, first)) = run.place.and_then(home).filter(|(of, _)| *of == index) else {
            continue;
        };
        for page in first..first + run.pages {
            if cached.get(usize::try_from(page).unwrap_or(usize::MAX)) == Some(&true) {
                mapping.touch(page);
            }
        }
    }
    Ok(Some(mapping))
}

impl PageSource for HerdSource {
    fn blocks(&self) -> &[Vma] {
        &self.blocks
    }

    fn facts(&self, first: u64, out: &mut [Entry]) -> io::Result<usize> {
        let mut at = 0;
        while at < out.len() {
            let home = self.home(first + at as u64);
            let follows = |i: usize| {
                let next = self.home(first + i as u64);
                next == home.map(|(of, page)| (of, page + (i - at) as u64))
            };
            let end = (at + 1..out.len()).find(|&i| !follows(i)).unwrap_or(out.len());
            let mapping =
                home.and_then(|(of, page)| Some((self.mappings.get(of)?.as_ref()?, page)));
            match mapping {
                Some((mapping, page)) => {
                    let start = mapping.pages().start + page;
                    pagemap::read(&self.pagemap, start, &mut out[at..end])?;
                }
                None => out[at..end].fill(Entry(0)),
            }
            at = end;
        }
        Ok(out.len())
    }

    fn content(&self, page: u64, out: &mut [u8]) -> io::Result<usize> {
        let page = self.page(page).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut whole = [0; 4096];
        self.memory.read(page, &mut whole)?;
        let length = out.len().min(whole.len());
        out[..length].copy_from_slice(&whole[..length]);
        Ok(length)
    }

    fn cached(&self, _block: &Vma, _pages: PageRange) -> Option<Vec<bool>> {
        None
    }

    fn file_content(&self, _block: &Vma, page: u64, out: &mut [u8]) -> io::Result<usize> {
        self.content(page, out)
    }

    fn may_be_merged(&self) -> bool {
        false
    }
}
