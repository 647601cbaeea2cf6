//! Flat sparse images: of each VM a file in which page *n* is at byte *n* × 4096, through all its
//! blocks. What is zero is a hole. Where the file system has reflinks, pages that are the same share
//! their blocks on disk.
//!
//! Slots lie where their first page does. What refers to them is copied when all has come; a stream
//! with rounds would write over them, so it is copied into the pool of a herd first, not here.
//!
//! An image has no name until its session is committed ([`crate::sys::unnamed`]). Several images of one
//! session get their names one after another: a crash between two of them leaves the first alone.
//! Who needs all or none uses a herd.

use super::{Store, StoreError, Whole};
use crate::base::{PAGE_SIZE, Place};
use crate::sys::reflink;
use crate::sys::unnamed::Unnamed;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where images go.
#[derive(Debug)]
pub struct Images {
    paths: HashMap<String, PathBuf>,
    templates: Vec<File>,
    force: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<String, Image>,
    /// Where each slot lies: runs in the order of slots.
    homes: Vec<Home>,
}

#[derive(Debug)]
struct Image {
    unnamed: Unnamed,
    pages: u64,
}

impl Image {
    const fn file(&self) -> &File {
        self.unnamed.file()
    }
}

/// Slots that follow one another, and the pages where they lie.
#[derive(Clone, Debug)]
struct Home {
    slot: u64,
    pages: u64,
    vm: String,
    page: u64,
}

impl Images {
    /// VM names and the files that they go to; the templates that places can name, in order. A file
    /// that exists is replaced only if `force`.
    pub fn new(paths: HashMap<String, PathBuf>, templates: Vec<File>, force: bool) -> Self {
        Self { paths, templates, force, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &str) -> Result<&Path, StoreError> {
        let path = self.paths.get(name).map(PathBuf::as_path);
        path.ok_or_else(|| StoreError::NoImage(name.to_owned()))
    }

    fn begin(&self, name: &str, pages: u64) -> Result<Image, StoreError> {
        let path = self.path(name)?;
        let failed = || StoreError::io(path, "making the image");
        let unnamed = Unnamed::new(path).map_err(failed())?;
        let image = Image { unnamed, pages };
        image.file().set_len(pages * PAGE_SIZE).map_err(failed())?;
        Ok(image)
    }
}

impl State {
    fn home(&self, slot: u64) -> Option<(&Home, u64)> {
        let index = self.homes.partition_point(|home| home.slot + home.pages <= slot);
        let home = self.homes.get(index).filter(|home| home.slot <= slot)?;
        Some((home, slot - home.slot))
    }

    /// Puts what is at a place where a page of an image is: `pages` of them.
    fn settle(
        &self,
        image: &Image,
        name: &str,
        page: u64,
        pages: u64,
        place: Place,
        templates: &[File],
    ) -> io::Result<()> {
        let mut done = 0;
        while done < pages {
            let at = (page + done) * PAGE_SIZE;
            match place.after(done) {
                Place::Pool { page: slot } => {
                    let gone = || io::Error::other("a slot has no home");
                    let (home, offset) = self.home(slot).ok_or_else(gone)?;
                    let run = (pages - done).min(home.pages - offset);
                    if (home.vm.as_str(), home.page + offset) != (name, page + done) {
                        let from = self.files.get(&home.vm).ok_or_else(gone)?;
                        let at_home = (home.page + offset) * PAGE_SIZE;
                        reflink::copy(from.file(), at_home, image.file(), at, run * PAGE_SIZE)?;
                    }
                    done += run;
                }
                Place::Template { file, page } => {
                    let gone = || io::Error::other("a template is not open");
                    let from = templates.get(file as usize).ok_or_else(gone)?;
                    let run = pages - done;
                    reflink::copy(from, page * PAGE_SIZE, image.file(), at, run * PAGE_SIZE)?;
                    done = pages;
                }
                Place::Zero | Place::Unused | Place::Local { .. } | Place::Bytes => done = pages,
            }
        }
        Ok(())
    }
}

impl Store for Images {
    fn slots(&self) -> u64 {
        0
    }

    /// A page that comes again would be written over what others refer to.
    fn takes_rounds(&self) -> bool {
        false
    }

    fn expect(&self, name: &str, blocks: &[(String, u64)]) -> Result<(), StoreError> {
        let path = self.path(name)?;
        if !self.force && path.symlink_metadata().is_ok() {
            return Err(StoreError::Exists(path.to_owned()));
        }
        let image = self.begin(name, blocks.iter().map(|(_, pages)| pages).sum())?;
        self.state().files.insert(name.to_owned(), image);
        Ok(())
    }

    fn put(&self, name: &str, page: u64, slot: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let mut state = self.state();
        let pages = bytes.len() as u64 / PAGE_SIZE;
        let image = state.files.get(name).ok_or_else(|| StoreError::NoImage(name.to_owned()))?;
        debug_assert!(page + pages <= image.pages);
        let failed = StoreError::io(self.path(name)?, "writing");
        image.file().write_all_at(bytes, page * PAGE_SIZE).map_err(failed)?;
        let home = Home { slot, pages, vm: name.to_owned(), page };
        match state.homes.last_mut() {
            Some(last)
                if last.slot + last.pages == slot
                    && last.page + last.pages == page
                    && last.vm == name =>
            {
                last.pages += pages;
            }
            // streams take turns: slots of one can come before those that were given out earlier
            Some(last) if last.slot > slot => {
                let at = state.homes.partition_point(|home| home.slot < slot);
                state.homes.insert(at, home);
            }
            _ => state.homes.push(home),
        }
        Ok(())
    }

    fn read(&self, slot: u64, out: &mut [u8]) -> Result<(), StoreError> {
        let state = self.state();
        let (home, offset) =
            state.home(slot).ok_or_else(|| StoreError::NoImage(format!("slot {slot}")))?;
        let failed = StoreError::io(self.path(&home.vm)?, "reading");
        let image = state.files.get(&home.vm);
        let image = image.ok_or_else(|| StoreError::NoImage(home.vm.clone()))?;
        image.file().read_exact_at(out, (home.page + offset) * PAGE_SIZE).map_err(failed)
    }

    fn prepare(&self, _session: &str, vms: &[Whole<'_>]) -> Result<(), StoreError> {
        let state = self.state();
        for vm in vms {
            let image = state.files.get(vm.name);
            let image = image.ok_or_else(|| StoreError::NoImage(vm.name.to_owned()))?;
            let failed = || StoreError::io(self.paths[vm.name].clone(), "writing");
            for run in vm.places.runs() {
                let place = run.place.unwrap_or(Place::Bytes);
                state
                    .settle(image, vm.name, run.page, run.pages, place, &self.templates)
                    .map_err(failed())?;
            }
            image.file().sync_all().map_err(failed())?;
        }
        Ok(())
    }

    fn publish(&self, _session: &str, vms: &[&str]) -> Result<(), StoreError> {
        let mut state = self.state();
        for name in vms {
            let path = self.path(name)?;
            let Some(image) = state.files.get_mut(*name) else { continue };
            let failed = || StoreError::io(path, "syncing its folder");
            // opened first: once it has its name nothing more may fail
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
            let folder = File::open(folder.unwrap_or(Path::new("."))).map_err(failed())?;
            image.unnamed.name(self.force).map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => StoreError::Exists(path.to_owned()),
                _ => StoreError::io(path, "naming the image")(e),
            })?;
            folder.sync_all().map_err(failed())?;
        }
        Ok(())
    }

    fn forget(&self, _session: &str, vms: &[&str]) {
        let mut state = self.state();
        vms.iter().for_each(|name| drop(state.files.remove(*name)));
    }

    fn resolve(&self, _session: &str) -> Result<Option<bool>, StoreError> {
        Ok(None)
    }
}
