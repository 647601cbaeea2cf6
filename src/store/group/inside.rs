//! What stands in the directory of a group, for one end: the card that says which group it is, and a
//! file a member. Names are given and taken under the directory's lock.

use super::dir::Role;
use super::{GroupError, MOST_MEMBERS};
pub(super) use crate::store::herd::open_in;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The card.
const CARD: &str = "group";

/// Files that are being made begin with this. They are made under the lock: who has the lock and
/// sees one sees what a killed process left.
const NEW: &str = "new.";

/// What a file in the directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Of a member that lives, if it is locked.
    Live,
    /// Of one that has finished and leaves it to others.
    Done,
    /// Says that one has given up.
    Gone,
}

impl Kind {
    /// The file's name, for this member.
    pub(super) fn file(self, role: Role, member: u32) -> String {
        format!("{}{member}", self.prefix(role))
    }

    const fn prefix(self, role: Role) -> &'static str {
        match (self, role) {
            (Self::Live, Role::Send) => "log.",
            (Self::Live, Role::Recv) => "pool.",
            (Self::Done, _) => "done.",
            (Self::Gone, _) => "gone.",
        }
    }

    /// What this name says, if it is one of ours.
    pub(super) fn of(role: Role, name: &str) -> Option<(Self, u32)> {
        [Self::Live, Self::Done, Self::Gone].into_iter().find_map(|kind| {
            let number = name.strip_prefix(kind.prefix(role))?;
            let member = number.parse().ok()?;
            // 007 and +7 are no numbers that we write
            (kind.file(role, member) == name).then_some((kind, member))
        })
    }
}

/// Which group a directory is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Card {
    pub(super) id: [u8; 16],
    /// The number of the next member; the source alone counts them.
    pub(super) next: u32,
    /// The group's secret; zeros at the destination.
    pub(super) key: [u8; 32],
}

/// What the file of a card begins with.
const MAGIC: &[u8; 8] = b"phgroup1";

/// Where the next number stands in it.
const NEXT_AT: u64 = 24;

impl Card {
    fn to_bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..24].copy_from_slice(&self.id);
        bytes[24..28].copy_from_slice(&self.next.to_le_bytes());
        bytes[32..].copy_from_slice(&self.key);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 64] = bytes.try_into().ok()?;
        let (mut id, mut next, mut key) = ([0; 16], [0; 4], [0; 32]);
        id.copy_from_slice(&bytes[8..24]);
        next.copy_from_slice(&bytes[24..28]);
        key.copy_from_slice(&bytes[32..]);
        let next = u32::from_le_bytes(next);
        (&bytes[..8] == MAGIC).then_some(Self { id, next, key })
    }
}

/// A member that is there or has left something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) member: u32,
    /// `None` while it lives; else how long ago it finished.
    pub(super) finished: Option<Duration>,
}

impl Found {
    pub(super) const fn is_live(&self) -> bool {
        self.finished.is_none()
    }
}

/// Is nobody alive, and the last who finished did so longer than `idle` ago?
pub(super) fn is_over(members: &[Found], idle: Duration) -> bool {
    members.iter().all(|member| member.finished.is_some_and(|ago| ago > idle))
}

/// The part of one role, locked: names are given and taken by nobody else.
#[derive(Debug)]
pub(super) struct Inside {
    pub(super) dir: File,
    pub(super) path: PathBuf,
    role: Role,
    _lock: Flock<File>,
}

impl Inside {
    /// Locks the directory; `None` if it was removed meanwhile.
    pub(super) fn lock(
        dir: &File,
        path: &Path,
        role: Role,
        patience: Duration,
    ) -> Result<Option<Self>, GroupError> {
        let failed = || GroupError::io(path, "locking the directory");
        // opened anew: threads of one process exclude each other as well
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut file = match openat(dir.as_fd(), ".", flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            Err(e) => return Err(failed()(e)),
        };
        let end = Instant::now() + patience;
        let lock = loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => break lock,
                Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => file = back,
                Err((_, e)) => return Err(failed()(e)),
            }
            if Instant::now() >= end {
                let seconds = patience.as_secs();
                return Err(GroupError::Busy { path: path.to_owned(), seconds });
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        if fstat(dir).map_err(failed())?.st_nlink == 0 {
            return Ok(None);
        }
        let dir = dir.try_clone().map_err(GroupError::io(path, "locking the directory"))?;
        Ok(Some(Self { dir, path: path.to_owned(), role, _lock: lock }))
    }

    fn failed(&self, name: &str, doing: &'static str) -> impl FnOnce(Errno) -> GroupError {
        GroupError::io(&self.path.join(name), doing)
    }

    /// The card, where there is one.
    pub(super) fn card(&self) -> Result<Option<Card>, GroupError> {
        let mut bytes = Vec::new();
        match open_in(&self.dir, CARD, OFlag::O_RDONLY) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened
                .and_then(|file| file.take(65).read_to_end(&mut bytes))
                .map_err(GroupError::io(&self.path.join(CARD), "reading"))?,
        };
        let damaged = || GroupError::Damaged { path: self.path.clone() };
        Card::from_bytes(&bytes).map(Some).ok_or_else(damaged)
    }

    /// Makes this the directory of another group: what was there goes.
    pub(super) fn begin(&self, card: &Card) -> Result<(), GroupError> {
        self.wipe()?;
        let name = format!("{NEW}{CARD}");
        let failed = || GroupError::io(&self.path.join(CARD), "writing");
        let mut file = open_in(&self.dir, &name, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL)
            .map_err(failed())?;
        let written = file.write_all(&card.to_bytes());
        if let Err(e) = written {
            self.unlink(&name)?;
            return Err(failed()(e));
        }
        renameat(&self.dir, name.as_str(), &self.dir, CARD).map_err(self.failed(CARD, "naming"))
    }

    /// Takes the next number that no member has had.
    pub(super) fn number(&self, card: &Card, members: &[Found]) -> Result<u32, GroupError> {
        let most = members.iter().map(|m| m.member.saturating_add(1)).max().unwrap_or(0);
        let number = card.next.max(most);
        if number >= MOST_MEMBERS {
            return Err(GroupError::TooMany { path: self.path.clone() });
        }
        // before the number is used: one that is lost is no harm, one that is used twice is
        open_in(&self.dir, CARD, OFlag::O_WRONLY)
            .and_then(|file| file.write_all_at(&(number + 1).to_le_bytes(), NEXT_AT))
            .map_err(GroupError::io(&self.path.join(CARD), "counting the members"))?;
        Ok(number)
    }

    /// Makes the file of a member, which begins with `head`, and gives it its name when it is locked.
    pub(super) fn make(&self, member: u32, head: &[u8]) -> Result<Flock<File>, GroupError> {
        let name = Kind::Live.file(self.role, member);
        let taken = |kind: Kind| self.stat(&kind.file(self.role, member)).is_some();
        if [Kind::Live, Kind::Done, Kind::Gone].into_iter().any(taken) {
            return Err(GroupError::MemberTwice { path: self.path.clone(), member });
        }
        let new = format!("{NEW}{member}");
        let failed = || GroupError::io(&self.path.join(&name), "making the file");
        let made = open_in(&self.dir, &new, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL)
            .map_err(failed())
            .and_then(|file| {
                file.write_all_at(head, 0).map_err(failed())?;
                let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock);
                lock.map_err(|(_, e)| failed()(e.into()))
            });
        let renamed = made.and_then(|file| {
            let flags = RenameFlags::RENAME_NOREPLACE;
            match renameat2(&self.dir, new.as_str(), &self.dir, name.as_str(), flags) {
                // file systems that do not know the flag; nothing is there, and the lock is ours
                Err(Errno::EINVAL) => renameat(&self.dir, new.as_str(), &self.dir, name.as_str()),
                renamed => renamed,
            }
            .map_err(|e| failed()(e.into()))?;
            Ok(file)
        });
        if renamed.is_err() {
            let _ = self.unlink(&new);
        }
        renamed
    }

    /// A member leaves its file to others.
    pub(super) fn keep(&self, member: u32) -> Result<(), GroupError> {
        let (from, to) = (Kind::Live.file(self.role, member), Kind::Done.file(self.role, member));
        renameat(&self.dir, from.as_str(), &self.dir, to.as_str())
            .map_err(self.failed(&to, "naming"))
    }

    /// A member has given up: its file goes. Who has it open can still read what it had.
    pub(super) fn give_up(&self, member: u32) -> Result<(), GroupError> {
        if self.role == Role::Recv {
            // no more than a courtesy to who would wait, so a full disk is no error
            let name = Kind::Gone.file(self.role, member);
            let _ = open_in(&self.dir, &name, OFlag::O_WRONLY | OFlag::O_CREAT);
        }
        self.unlink(&Kind::Live.file(self.role, member))
    }

    /// Who is there. What the killed have left is taken away.
    pub(super) fn survey(&self) -> Result<Vec<Found>, GroupError> {
        let mut members = Vec::new();
        for name in self.list()? {
            if name.starts_with(NEW) {
                self.unlink(&name)?;
                continue;
            }
            let Some((kind, member)) = self.kind(&name) else { continue };
            if kind == Kind::Live {
                // what is no plain file is no member's
                if self.stat(&name).is_none() {
                    continue;
                }
                // a file that cannot be opened (no descriptor is left) may be that of one who lives
                let held = open_in(&self.dir, &name, OFlag::O_RDONLY).and_then(|f| is_held(&f));
                if held.map_err(GroupError::io(&self.path.join(&name), "testing its lock"))? {
                    members.push(Found { member, finished: None });
                } else {
                    self.give_up(member)?;
                }
            } else if let (Kind::Done, Some(found)) = (kind, self.stat(&name)) {
                members.push(Found { member, finished: Some(age(&found)) });
            }
        }
        Ok(members)
    }

    /// Members that have files here, `but` one, and bytes of these.
    pub(super) fn sizes(&self, but: Option<u32>) -> Result<(usize, u64), GroupError> {
        sizes(&self.dir, self.role, but)
            .map_err(GroupError::io(&self.path, "listing the directory"))
    }

    /// Removes everything that is a group's.
    pub(super) fn wipe(&self) -> Result<(), GroupError> {
        for name in self.list()? {
            let ours = name == CARD || name.starts_with(NEW) || self.kind(&name).is_some();
            if ours && self.stat(&name).is_some() {
                self.unlink(&name)?;
            }
        }
        Ok(())
    }

    fn unlink(&self, name: &str) -> Result<(), GroupError> {
        match unlinkat(&self.dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(e) => Err(self.failed(name, "removing")(e)),
        }
    }

    fn list(&self) -> Result<Vec<String>, GroupError> {
        list(&self.dir).map_err(GroupError::io(&self.path, "listing the directory"))
    }

    fn stat(&self, name: &str) -> Option<FileStat> {
        stat_in(&self.dir, name)
    }

    fn kind(&self, name: &str) -> Option<(Kind, u32)> {
        Kind::of(self.role, name)
    }
}

/// How long ago a file got its last name: that sets `ctime`, which nobody can set back.
fn age(found: &FileStat) -> Duration {
    let since = Duration::from_secs(found.st_ctime.try_into().unwrap_or(0));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(since)
}

/// Bytes of a file.
pub(super) fn bytes(found: &FileStat) -> u64 {
    found.st_size.try_into().unwrap_or(0)
}

/// The plain file `name`; `None` if there is none.
pub(super) fn stat_in(dir: &File, name: &str) -> Option<FileStat> {
    let found = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
    (found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits()).then_some(found)
}

/// The names in a directory.
pub(super) fn list(dir: &File) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    for entry in Dir::openat(dir.as_fd(), ".", flags, Mode::empty())?.iter() {
        // what is no text is no name of ours
        if let Ok(name) = entry?.file_name().to_str() {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Does its writer live? The lock is shared for a moment, so that two who ask do not take each other
/// for the writer.
pub(super) fn is_held(file: &File) -> io::Result<bool> {
    match Flock::lock(file.try_clone()?, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(false),
        Err((_, Errno::EWOULDBLOCK)) => Ok(true),
        Err((_, e)) => Err(e.into()),
    }
}

/// Members that have files in `dir`, but member `but`, and the bytes of these files.
pub(super) fn sizes(dir: &File, role: Role, but: Option<u32>) -> io::Result<(usize, u64)> {
    let (mut members, mut all) = (0, 0);
    for name in list(dir)? {
        if let Some((Kind::Live | Kind::Done, member)) = Kind::of(role, &name)
            && Some(member) != but
            && let Some(found) = stat_in(dir, &name)
        {
            members += 1;
            all += bytes(&found);
        }
    }
    Ok((members, all))
}
