//! Templates: a file of RAM and the state of its devices, from which clones start.

#![allow(clippy::unwrap_used)] // a test that cannot go on panics

use super::memory::{PAGE, file_pages};
use super::{Build, Guest, Ram, Version};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A guest that was booted on a new file in tmpfs and stopped at work: that file, and the state of
/// its devices.
#[derive(Debug)]
pub struct Template {
    dir: tempfile::TempDir,
    build: Build,
}

/// What was made before, by version and machine: RAM and state. In memory that nothing names, which
/// goes with the process however it ends.
static MADE: Mutex<BTreeMap<(Version, String), [File; 2]>> = Mutex::new(BTreeMap::new());

impl Template {
    /// Makes one.
    pub fn new(build: Build) -> Self {
        let template = Self { dir: tempfile::tempdir_in("/dev/shm").unwrap(), build };
        let ram = Ram::File { path: template.path(), share: true };
        let mut guest = template.build.clone().ram(ram).boot();
        let mut control = guest.control();
        control.stop();
        control.set_capability("x-ignore-shared", true);
        control.migrate(&format!("exec:cat > {}", template.state().display()));
        control.wait_migrated();
        drop(control);
        guest.kill();
        template
    }

    /// One of [`Build::small`]. Booted once in a process; each caller has files of its own.
    pub fn make(version: Version, machine: &str) -> Self {
        let mut made = MADE.lock().unwrap_or_else(|e| e.into_inner());
        let build = Build::small("template", version, machine);
        let key = (version, machine.to_owned());
        if let Some([ram, state]) = made.get(&key) {
            let template = Self { dir: tempfile::tempdir_in("/dev/shm").unwrap(), build };
            copy(ram, &File::create_new(template.path()).unwrap());
            copy(state, &File::create_new(template.state()).unwrap());
            return template;
        }
        let template = Self::new(build);
        made.insert(key, [kept(&template.path()), kept(&template.state())]);
        template
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("template")
    }

    /// The state of its devices: a stream without RAM (`x-ignore-shared`).
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A guest of its shape that has the file as RAM, mapped copy-on-write: with
    /// [`Build::incoming`], what a clone of it can move to.
    pub fn build(&self, name: &str) -> Build {
        let ram = Ram::File { path: self.path(), share: false };
        Build { name: name.into(), ram, ..self.build.clone() }
    }

    /// A clone: the file mapped copy-on-write, the guest where it was stopped. Waits for a tick.
    pub fn start(&self, name: &str) -> Guest {
        let guest = self.build(name).incoming("defer").spawn();
        let mut control = guest.control();
        control.set_capability("x-ignore-shared", true);
        control.migrate_incoming(&format!("exec:cat {}", self.state().display()));
        control.wait_migrated();
        // the capability is of the next migration too, and without RAM that would be lost
        control.set_capability("x-ignore-shared", false);
        control.cont();
        drop(control);
        // the new serial log begins with the first tick after the stop
        guest.wait_ticks(1);
        guest
    }
}

fn kept(path: &Path) -> File {
    let copied = File::from(memfd_create(c"template", MFdFlags::MFD_CLOEXEC).unwrap());
    copy(&File::open(path).unwrap(), &copied);
    copied
}

/// Copies a file in tmpfs, and leaves its holes holes.
fn copy(from: &File, to: &File) {
    let length = from.metadata().unwrap().len();
    to.set_len(length).unwrap();
    let mut page = [0; 4096];
    for at in file_pages(from).into_iter().map(|number| number * PAGE) {
        let length = usize::try_from(PAGE.min(length - at)).unwrap();
        from.read_exact_at(&mut page[..length], at).unwrap();
        to.write_all_at(&page[..length], at).unwrap();
    }
}
