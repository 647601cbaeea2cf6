//! A herd directory: one pool in which each distinct page stands once, and a placement map a VM;
//! beside it, of a VM that came as a VMM's stream, what that had beside pages.
//!
//! Everything is done relative to the directory's descriptor, so that a receiver that has given up
//! the rest of the file system can still work. Space is asked for before it is used where the file
//! system can promise it (`fallocate`); on tmpfs the write itself reports a full one, and nothing
//! is ever written through a mapping, where a full tmpfs would be a SIGBUS.

use super::{Store, StoreError, Whole};
use crate::base::{PAGE_SIZE, PageRange, Place};
use crate::placement::herd::{
    Entry, JOURNAL, LOCK, POOL, Verdict, map_file, parse_journal, part_file, part_of, state_file,
    state_part_file, state_part_of, vm_of, vm_of_state,
};
use crate::placement::map::{self, MapFile, MapHeader, MapRun, MapVm};
use crate::sys::cache;
use nix::dir::Dir;
use nix::fcntl::{
    FallocateFlags, Flock, FlockArg, OFlag, RenameFlags, fallocate, openat, renameat2,
};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Space is asked for in steps of this many pages: 64 MiB.
const STEP: u64 = 1 << 14;

/// A herd that is open for writing.
#[derive(Debug)]
pub struct Herd {
    path: PathBuf,
    dir: File,
    pool: File,
    /// Slots in use when it was opened.
    slots: u64,
    /// Does the file system promise space?
    promises: bool,
    state: Mutex<State>,
    templates: Vec<MapFile>,
    _lock: Flock<File>,
}

#[derive(Debug)]
struct State {
    journal: File,
    entries: Vec<Entry>,
    /// Slots for which there is space.
    reserved: u64,
}

impl Herd {
    /// Opens the herd `path` for writing, or makes it. What an interrupted receiver left is brought
    /// to its end: committed, or gone. `templates` are the files that places can name, in order.
    pub fn open(path: &Path, templates: Vec<MapFile>) -> Result<Self, StoreError> {
        let failed = |doing| StoreError::io(path, doing);
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("making the directory")(e));
            }
            _ => {}
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        let dir = nix::fcntl::open(path, flags, Mode::empty()).map_err(io::Error::from);
        let dir = File::from(dir.map_err(failed("opening the directory"))?);
        let create = OFlag::O_RDWR | OFlag::O_CREAT;
        let lock = open_in(&dir, LOCK, create).map_err(failed("opening the lock"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| StoreError::Busy(path.to_owned()))?;
        let pool = open_in(&dir, POOL, create).map_err(failed("opening the pool"))?;
        let mut journal = open_in(&dir, JOURNAL, create | OFlag::O_APPEND)
            .map_err(failed("opening the journal"))?;
        let mut text = Vec::new();
        journal.read_to_end(&mut text).map_err(failed("reading the journal"))?;
        let damaged = |file: &str, why: String| StoreError::Damaged {
            dir: path.to_owned(),
            file: file.to_owned(),
            why,
        };
        let text = String::from_utf8(text).map_err(|_| damaged(JOURNAL, "it is no text".into()))?;
        let entries = parse_journal(&text).map_err(|e| damaged(JOURNAL, e.to_string()))?;
        let torn = text.len() - text.rfind('\n').map_or(0, |end| end + 1);
        if torn > 0 {
            let whole = (text.len() - torn) as u64;
            journal.set_len(whole).map_err(failed("mending the journal"))?;
        }
        recover(&dir, &entries).map_err(failed("finishing what was interrupted"))?;
        let used = used_slots(&dir, &pool, &damaged)?;
        let slots = used.last().map_or(0, |run| run.end);
        sweep(&pool, &used, slots).map_err(failed("giving back unused space"))?;
        let promises = !cache::is_memory(&pool);
        let state = Mutex::new(State { journal, entries, reserved: slots });
        Ok(Self {
            path: path.to_owned(),
            dir,
            pool,
            slots,
            promises,
            state,
            templates,
            _lock: lock,
        })
    }

    /// The directory's own descriptor.
    pub const fn dir(&self) -> &File {
        &self.dir
    }

    /// The VMs that it has, with their maps.
    pub fn maps(&self) -> Result<Vec<(String, MapHeader, Vec<MapRun>)>, StoreError> {
        let damaged = |file: &str, why: String| StoreError::Damaged {
            dir: self.path.clone(),
            file: file.to_owned(),
            why,
        };
        let names = list(&self.dir).map_err(StoreError::io(&self.path, "listing the directory"))?;
        let mut all = Vec::new();
        for file in names {
            let Some(vm) = vm_of(&file) else { continue };
            let (header, runs) = read_map(&self.dir, &file, &damaged)?;
            all.push((vm.to_owned(), header, runs));
        }
        Ok(all)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that there is space for the slots up to `end`.
    fn reserve(&self, end: u64) -> Result<(), StoreError> {
        if !self.promises {
            return Ok(());
        }
        let mut state = self.state();
        if end <= state.reserved {
            return Ok(());
        }
        let from = state.reserved;
        let to = end.max(from + STEP);
        let offset = |page: u64| i64::try_from(page * PAGE_SIZE).unwrap_or(i64::MAX);
        let flags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.pool, flags, offset(from), offset(to - from)) {
            // a file system that promises nothing reports a full disk when it is written to
            Ok(()) | Err(nix::errno::Errno::EOPNOTSUPP) => state.reserved = to,
            // nearly full: what is needed now may still fit
            Err(nix::errno::Errno::ENOSPC) if to > end => {
                fallocate(&self.pool, flags, offset(from), offset(end - from))
                    .map_err(|e| self.no_space(e))?;
                state.reserved = end;
            }
            Err(e) => return Err(self.no_space(e)),
        }
        Ok(())
    }

    fn no_space(&self, error: nix::errno::Errno) -> StoreError {
        StoreError::io(self.path.join(POOL), "reserving space")(error.into())
    }

    fn record(&self, state: &mut State, entry: Entry) -> Result<(), StoreError> {
        let failed = || StoreError::io(self.path.join(JOURNAL), "writing the journal");
        let before = state.journal.metadata().map_err(failed())?.len();
        let line = entry.to_string();
        let written = state.journal.write_all(line.as_bytes());
        match written.and_then(|()| state.journal.sync_data()) {
            Ok(()) => {
                state.entries.push(entry);
                Ok(())
            }
            Err(e) => {
                // whoever reads it later must not find what was not said
                let _ = state.journal.set_len(before).and_then(|()| state.journal.sync_data());
                Err(failed()(e))
            }
        }
    }
}

impl Store for Herd {
    fn slots(&self) -> u64 {
        self.slots
    }

    fn expect(&self, name: &str, _blocks: &[(String, u64)]) -> Result<(), StoreError> {
        // held while names are given: a state whose map has no name yet is not taken for a leftover
        let state = self.state();
        match open_in(&self.dir, &map_file(name), OFlag::O_RDONLY) {
            Ok(_) => return Err(StoreError::Exists(self.path.join(map_file(name)))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => {
                return Err(StoreError::io(self.path.join(map_file(name)), "looking for the map")(
                    e,
                ));
            }
        }
        let failed = StoreError::io(&self.path, "giving up what is left of a VM of this name");
        give_up_state(&self.dir, &state.entries, name).map_err(failed)
    }

    fn put(&self, _name: &str, _page: u64, slot: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.reserve(slot + bytes.len() as u64 / PAGE_SIZE)?;
        self.pool
            .write_all_at(bytes, slot * PAGE_SIZE)
            .map_err(StoreError::io(self.path.join(POOL), "writing"))
    }

    fn read(&self, slot: u64, out: &mut [u8]) -> Result<(), StoreError> {
        self.pool
            .read_exact_at(out, slot * PAGE_SIZE)
            .map_err(StoreError::io(self.path.join(POOL), "reading"))
    }

    fn takes_state(&self) -> bool {
        true
    }

    fn attach(&self, session: &str, name: &str, state: &[u8]) -> Result<(), StoreError> {
        let file = state_part_file(name, session);
        let failed = || StoreError::io(self.path.join(&file), "writing the VMM's state");
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let mut part = open_in(&self.dir, &file, flags).map_err(failed())?;
        part.write_all(state).and_then(|()| part.sync_all()).map_err(failed())
    }

    fn prepare(&self, session: &str, vms: &[Whole<'_>]) -> Result<(), StoreError> {
        self.pool.sync_data().map_err(StoreError::io(self.path.join(POOL), "syncing"))?;
        for vm in vms {
            let file = part_file(vm.name, session);
            let failed = || StoreError::io(self.path.join(&file), "writing the placement map");
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
            let mut part = open_in(&self.dir, &file, flags).map_err(failed())?;
            write_map(vm, &self.templates, &mut part).map_err(failed())?;
            part.sync_all().map_err(failed())?;
        }
        self.dir.sync_all().map_err(StoreError::io(&self.path, "syncing the directory"))
    }

    fn publish(&self, session: &str, vms: &[&str]) -> Result<(), StoreError> {
        let mut state = self.state();
        match verdict(&state.entries, session) {
            Some(Verdict::Aborted) => return Err(StoreError::Resolved(session.to_owned())),
            Some(Verdict::Committed(_)) => {}
            None => {
                let names = vms.iter().map(|&name| name.to_owned()).collect();
                let verdict = Verdict::Committed(names);
                self.record(&mut state, Entry { session: session.to_owned(), verdict })?;
            }
        }
        for vm in vms {
            name_state(&self.dir, vm, session)
                .map_err(StoreError::io(self.path.join(state_file(vm)), "naming the state"))?;
            name_map(&self.dir, vm, session)
                .map_err(StoreError::io(self.path.join(map_file(vm)), "naming the map"))?;
        }
        self.dir.sync_all().map_err(StoreError::io(&self.path, "syncing the directory"))
    }

    fn forget(&self, session: &str, vms: &[&str]) {
        if self.is_committed(session) {
            return; // maps that could not be named yet: who opens the herd next does it
        }
        for vm in vms {
            for part in [part_file(vm, session), state_part_file(vm, session)] {
                let _ = unlinkat(&self.dir, part.as_str(), UnlinkatFlags::NoRemoveDir);
            }
        }
    }

    fn is_committed(&self, session: &str) -> bool {
        matches!(verdict(&self.state().entries, session), Some(Verdict::Committed(_)))
    }

    fn resolve(&self, session: &str) -> Result<Option<bool>, StoreError> {
        let mut state = self.state();
        if let Some(verdict) = verdict(&state.entries, session) {
            return Ok(Some(matches!(verdict, Verdict::Committed(_))));
        }
        let entry = Entry { session: session.to_owned(), verdict: Verdict::Aborted };
        self.record(&mut state, entry)?;
        Ok(Some(false))
    }
}

impl Drop for Herd {
    /// Slots that nobody refers to are given back.
    fn drop(&mut self) {
        let damaged = |file: &str, why: String| StoreError::Damaged {
            dir: self.path.clone(),
            file: file.to_owned(),
            why,
        };
        if let Ok(used) = used_slots(&self.dir, &self.pool, &damaged) {
            let end = used.last().map_or(0, |run| run.end);
            let _ = sweep(&self.pool, &used, end);
        }
    }
}

fn verdict(entries: &[Entry], session: &str) -> Option<Verdict> {
    entries.iter().find(|entry| entry.session == session).map(|entry| entry.verdict.clone())
}

/// Opens a plain file, no link, to nobody else.
pub(super) fn open_in(dir: &File, name: &str, flags: OFlag) -> io::Result<File> {
    // without waiting: a named pipe in the place of a file has nobody at its other end
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = File::from(openat(dir.as_fd(), name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file"))
    }
}

fn list(dir: &File) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    for entry in Dir::openat(dir.as_fd(), ".", flags, Mode::empty())?.iter() {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// What is committed gets its names, states before maps: a VM that can be seen has its state. What is
/// not, goes, and with it states whose VM has left the herd.
fn recover(dir: &File, entries: &[Entry]) -> io::Result<()> {
    type Parts = fn(&str) -> Option<(&str, &str)>;
    type Naming = fn(&File, &str, &str) -> io::Result<()>;
    let kinds: [(Parts, Naming); 2] = [(state_part_of, name_state), (part_of, name_map)];
    for (part_of, name) in kinds {
        for file in list(dir)? {
            match part_of(&file) {
                Some((vm, session)) if has_committed(entries, session, vm) => {
                    name(dir, vm, session)?;
                }
                Some(_) => unlinkat(dir, file.as_str(), UnlinkatFlags::NoRemoveDir)?,
                None => {}
            }
        }
    }
    let names = list(dir)?;
    for file in &names {
        if vm_of_state(file).is_some_and(|vm| !names.contains(&map_file(vm))) {
            unlinkat(dir, file.as_str(), UnlinkatFlags::NoRemoveDir)?;
        }
    }
    dir.sync_all()
}

/// Did this session bring this VM?
fn has_committed(entries: &[Entry], session: &str, vm: &str) -> bool {
    match verdict(entries, session) {
        Some(Verdict::Committed(vms)) => vms.iter().any(|name| name == vm),
        _ => false,
    }
}

/// A VM of this name is to come, and there is no map of one: the state of one that has left the herd
/// goes. One of whose session the map could not be named yet is there, whoever sees it or not.
fn give_up_state(dir: &File, entries: &[Entry], vm: &str) -> io::Result<()> {
    let comes = |file: &String| {
        part_of(file).is_some_and(|(of, session)| of == vm && has_committed(entries, session, vm))
    };
    if list(dir)?.iter().any(comes) {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "one was committed and has no name yet: open the herd again",
        ));
    }
    match unlinkat(dir, state_file(vm).as_str(), UnlinkatFlags::NoRemoveDir) {
        Err(nix::errno::Errno::ENOENT) => Ok(()),
        other => Ok(other?),
    }
}

/// Gives a prepared map its name; that it has it already is no error.
fn name_map(dir: &File, vm: &str, session: &str) -> io::Result<()> {
    name_part(dir, &part_file(vm, session), &map_file(vm))
}

/// Gives a prepared state its name. Most VMs have none, and one may have its name already.
fn name_state(dir: &File, vm: &str, session: &str) -> io::Result<()> {
    let part = state_part_file(vm, session);
    match open_in(dir, &part, OFlag::O_RDONLY) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(_) => name_part(dir, &part, &state_file(vm)),
    }
}

fn name_part(dir: &File, part: &str, name: &str) -> io::Result<()> {
    match renameat2(dir, part, dir, name, RenameFlags::RENAME_NOREPLACE) {
        Err(nix::errno::Errno::ENOENT) if open_in(dir, name, OFlag::O_RDONLY).is_ok() => Ok(()),
        // before Linux 6.? some network file systems do not know the flag; the lock is ours
        Err(nix::errno::Errno::EINVAL) => Ok(nix::fcntl::renameat(dir, part, dir, name)?),
        other => Ok(other?),
    }
}

fn read_map(
    dir: &File,
    file: &str,
    damaged: &dyn Fn(&str, String) -> StoreError,
) -> Result<(MapHeader, Vec<MapRun>), StoreError> {
    let mut bytes = Vec::new();
    open_in(dir, file, OFlag::O_RDONLY)
        .and_then(|mut map| map.read_to_end(&mut bytes))
        .map_err(StoreError::io(file, "reading the placement map"))?;
    map::parse(&bytes).map_err(|e| damaged(file, e.to_string()))
}

/// The slots that maps refer to, in order, as runs that do not touch.
fn used_slots(
    dir: &File,
    pool: &File,
    damaged: &dyn Fn(&str, String) -> StoreError,
) -> Result<Vec<PageRange>, StoreError> {
    let pages =
        pool.metadata().map_err(StoreError::io(POOL, "looking at the pool"))?.len() / PAGE_SIZE;
    let mut used = Vec::new();
    for file in list(dir).map_err(StoreError::io(".", "listing the directory"))? {
        // maps that are being prepared by another stream of this process count as well
        if vm_of(&file).is_some() || part_of(&file).is_some() {
            let (_, runs) = read_map(dir, &file, damaged)?;
            // new slots come behind those in use: a map that lies would have them start anywhere
            if runs
                .iter()
                .any(|run| matches!(run.place, Place::Pool { page } if page + run.pages > pages))
            {
                return Err(damaged(&file, "it refers to pages beyond the end of the pool".into()));
            }
            used.extend(runs.iter().filter_map(|run| match run.place {
                Place::Pool { page } => Some(PageRange::of(page, run.pages)),
                _ => None,
            }));
        }
    }
    used.sort_unstable();
    let mut joined: Vec<PageRange> = Vec::new();
    for run in used {
        match joined.last_mut() {
            Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
            _ => joined.push(run),
        }
    }
    Ok(joined)
}

/// Gives back what lies between the used slots and after them.
fn sweep(pool: &File, used: &[PageRange], end: u64) -> io::Result<()> {
    pool.set_len(end * PAGE_SIZE)?;
    let mut from = 0;
    for run in used {
        if run.start > from {
            let offset = |page: u64| i64::try_from(page * PAGE_SIZE).unwrap_or(i64::MAX);
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            match fallocate(pool, flags, offset(from), offset(run.start - from)) {
                Ok(()) | Err(nix::errno::Errno::EOPNOTSUPP) => {}
                Err(e) => return Err(e.into()),
            }
        }
        from = run.end;
    }
    Ok(())
}

/// Writes the placement map of one memory.
fn write_map(vm: &Whole<'_>, templates: &[MapFile], out: &mut impl Write) -> io::Result<()> {
    let header = MapHeader {
        vms: vec![MapVm { name: vm.name.to_owned(), blocks: vm.blocks.to_vec() }],
        files: templates.to_vec(),
    };
    let mut out = io::BufWriter::with_capacity(1 << 16, out);
    out.write_all(&map::write_header(&header))?;
    let (mut crc, mut runs, mut bytes) = (crc32fast::Hasher::new(), 0, Vec::new());
    let (mut block, mut start) = (0u32, 0u64);
    for run in vm.places.runs() {
        let mut page = run.page;
        let end = run.page + run.pages;
        while page < end {
            while vm.blocks[block as usize].1 <= page - start {
                start += vm.blocks[block as usize].1;
                block += 1;
            }
            let pages = (end - page).min(start + vm.blocks[block as usize].1 - page);
            let place = run.place.unwrap_or(Place::Bytes).after(page - run.page);
            bytes.clear();
            let run = MapRun { vm: 0, block, page: page - start, pages, place };
            map::write_run(&run, &mut bytes);
            crc.update(&bytes);
            out.write_all(&bytes)?;
            runs += 1;
            page += pages;
        }
    }
    out.write_all(&map::write_end(runs, crc.finalize()))?;
    out.flush()
}

#[cfg(test)]
#[path = "herd_tests.rs"]
mod tests;
