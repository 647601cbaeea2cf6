//! The directory of a group: how it is named, found and trusted.

use super::GroupError;
use super::inside::Inside;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{Uid, UnlinkatFlags, fchown, geteuid, unlinkat};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Where groups are that are named by a word.
const MEMORY: &str = "/dev/shm";

/// How long the lock of a directory is waited for, which is held for some system calls.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a directory is made that others remove.
const TRIES: u32 = 100;

/// What `--group` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GroupName {
    /// A directory of that name below `/dev/shm/pageherd-UID`.
    Short(String),
    /// That directory.
    Path(PathBuf),
}

impl FromStr for GroupName {
    type Err = GroupError;

    fn from_str(text: &str) -> Result<Self, GroupError> {
        let wrong = |why| GroupError::Name { name: text.to_owned(), why };
        if text.contains('/') {
            let path = PathBuf::from(text);
            return match path.file_name() {
                Some(_) => Ok(Self::Path(path)),
                None => Err(wrong("the path ends in no name")),
            };
        }
        let may = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        match text {
            "" => Err(wrong("it is empty")),
            _ if text.len() > 100 => Err(wrong("it is longer than 100 bytes")),
            _ if text.starts_with('.') => Err(wrong("it begins with a dot")),
            _ if !text.chars().all(may) => Err(wrong("it has a character that is none of these")),
            _ => Ok(Self::Short(text.to_owned())),
        }
    }
}

impl GroupName {
    /// The directory, where it belongs to user `owner`, or to who runs this.
    pub fn path(&self, owner: Option<u32>) -> PathBuf {
        match self {
            Self::Short(name) => base(uid(owner)).join(name),
            Self::Path(path) => path.clone(),
        }
    }
}

fn uid(owner: Option<u32>) -> u32 {
    owner.unwrap_or_else(|| geteuid().as_raw())
}

fn base(uid: u32) -> PathBuf {
    Path::new(MEMORY).join(format!("pageherd-{uid}"))
}

/// The end of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The source.
    Send,
    /// The destination.
    Recv,
}

impl Role {
    const fn folder(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Recv => "recv",
        }
    }
}

/// The directory of a group, open and checked: it is a directory and no link, ours, and closed to
/// others. It can be opened before a sandbox is entered and used in it.
#[derive(Debug)]
pub struct GroupDir {
    path: PathBuf,
    role: Role,
    uid: u32,
    root: File,
    /// The directory above, if that too is ours.
    base: Option<PathBuf>,
}

impl GroupDir {
    /// Opens the directory of `name`, or makes it, for user `owner`: who is to own it is another
    /// than who runs this where a receiver becomes another user later.
    ///
    /// # Errors
    /// [`GroupError::NotOurs`]; what the kernel says.
    pub fn open(name: &GroupName, role: Role, owner: Option<u32>) -> Result<Self, GroupError> {
        let mut tries = 0;
        loop {
            match Self::reach(name, role, owner, true) {
                // whoever ends another group removes the directory above when it is empty
                Err(e) if e.is_not_found() && tries < TRIES => tries += 1,
                reached => return reached,
            }
        }
    }

    /// Opens the directory where it is there.
    pub(super) fn find(name: &GroupName, role: Role) -> Result<Self, GroupError> {
        Self::reach(name, role, None, false)
    }

    fn reach(
        name: &GroupName,
        role: Role,
        owner: Option<u32>,
        create: bool,
    ) -> Result<Self, GroupError> {
        let (uid, path) = (uid(owner), name.path(owner));
        let (above, last, base) = match name {
            GroupName::Short(last) => {
                let (base, memory) = (base(uid), Path::new(MEMORY));
                let memory = File::open(memory).map_err(GroupError::io(memory, "opening"))?;
                let above = ours(&memory, &base, &format!("pageherd-{uid}"), uid, create)?;
                (above, last.clone(), Some(base))
            }
            GroupName::Path(path) => {
                let above = path.parent().filter(|p| !p.as_os_str().is_empty());
                let above = above.unwrap_or(Path::new("."));
                let last = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                (File::open(above).map_err(GroupError::io(above, "opening"))?, last, None)
            }
        };
        let root = ours(&above, &path, &last, uid, create)?;
        Ok(Self { path, role, uid, root, base })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its descriptor: what a sandbox has to leave open for writing.
    pub const fn writable(&self) -> &File {
        &self.root
    }

    /// The same directory once more, for another stream of this process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn again(&self) -> Result<Self, GroupError> {
        let root = self.root.try_clone();
        let root = root.map_err(GroupError::io(&self.path, "taking its descriptor"))?;
        let (path, base) = (self.path.clone(), self.base.clone());
        Ok(Self { path, role: self.role, uid: self.uid, root, base })
    }

    /// Goes into the part of this role, and locks it.
    pub(super) fn enter(&self, create: bool) -> Result<Inside, GroupError> {
        let path = self.path.join(self.role.folder());
        for _ in 0..TRIES {
            let dir = match ours(&self.root, &path, self.role.folder(), self.uid, create) {
                Ok(dir) => dir,
                // a directory that has been removed has nothing made in it
                Err(e) if e.is_not_found() && create => break,
                Err(e) => return Err(e),
            };
            if let Some(inside) = Inside::lock(&dir, &path, self.role, PATIENCE)? {
                return Ok(inside);
            }
        }
        Err(GroupError::Ended { path: self.path.clone() })
    }

    /// Removes the part of this role and what is above it, as far as it is empty: who can do that can
    /// make it again. To be called with the lock of [`Self::enter`] held.
    pub(super) fn remove(&self) {
        if unlinkat(&self.root, self.role.folder(), UnlinkatFlags::RemoveDir).is_ok() {
            // in a sandbox these cannot be named: empty directories stay
            let _ = std::fs::remove_dir(&self.path);
            let _ = self.base.as_ref().map(std::fs::remove_dir);
        }
    }
}

/// Opens the directory `name` in `above`, makes it where it is not there, and checks whose it is.
/// `path` is for messages.
fn ours(above: &File, path: &Path, name: &str, uid: u32, create: bool) -> Result<File, GroupError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let open = || openat(above.as_fd(), name, flags, Mode::empty());
    let not_ours = |why: String| GroupError::NotOurs { path: path.to_owned(), why };
    let (mut opened, mut made) = (open(), false);
    if create && matches!(opened, Err(Errno::ENOENT)) {
        match mkdirat(above.as_fd(), name, Mode::S_IRWXU) {
            Ok(()) => made = true,
            Err(Errno::EEXIST) => {}
            Err(e) => return Err(GroupError::io(path, "making the directory")(e)),
        }
        opened = open();
    }
    let dir = match opened {
        Ok(dir) => File::from(dir),
        Err(Errno::ELOOP | Errno::ENOTDIR) => {
            return Err(not_ours("it is no directory, or a symbolic link".into()));
        }
        Err(e) => return Err(GroupError::io(path, "opening the directory")(e)),
    };
    if made && uid != geteuid().as_raw() {
        fchown(&dir, Some(Uid::from_raw(uid)), None)
            .map_err(GroupError::io(path, "giving the directory to its user"))?;
    }
    let found = fstat(&dir).map_err(GroupError::io(path, "looking at the directory"))?;
    if found.st_uid != uid {
        return Err(not_ours(format!("it belongs to user {}, not {uid}", found.st_uid)));
    }
    if found.st_mode & 0o077 != 0 {
        return Err(not_ours(format!("its mode {:04o} lets others in", found.st_mode & 0o7777)));
    }
    Ok(dir)
}
