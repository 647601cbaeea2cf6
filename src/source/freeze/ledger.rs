//! Who holds a process still, written where all commands of one user meet: a file by process.
//!
//! Everyone who holds it has a shared lock (`flock`) on its file. Whoever lets go asks for the
//! exclusive lock: gets it only who is the last, and then does what the file says has to be undone.
//! What is to be undone stands in the file before it is done, so that a command that is killed at
//! any moment, even together with its guard, leaves the next one knowing what to undo. Lines are
//! only ever added, each by one write.

use super::{FreezeError, How};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest file that is read, in bytes: a few lines by holder.
const MAX_BYTES: u64 = 1 << 20;

/// One line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Line {
    /// During which boot the file was begun: numbers and times of processes repeat after another.
    Boot(String),
    /// This is about to be done and has to be undone by the last.
    Undo(How),
    /// It was not done, or is undone.
    Undone(How),
    /// It stands still now, by this.
    Still(How),
    /// A holder wants it to stay as it is if that holder is gone without another word.
    Keep(String),
    /// The holder takes that back.
    Release(String),
}

/// What the lines add up to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Told {
    /// What the last has to undo, in the order in which it was done.
    pub(super) undo: Vec<How>,
    /// What it stands still by.
    pub(super) still: Option<How>,
    /// Who wants it to stay as it is.
    pub(super) keep: BTreeSet<String>,
    boot: Option<String>,
}

impl Told {
    /// Was nothing said but the boot?
    pub(super) fn is_empty(&self) -> bool {
        self.undo.is_empty() && self.still.is_none() && self.keep.is_empty()
    }
}

/// How the file was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// Nobody holds the process; the lock is exclusive.
    Alone,
    /// Others hold it, and it stands still; the lock is shared with them.
    Joined,
}

/// Who may let a process go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// We: nobody else holds it. The lock is exclusive.
    Last,
    /// Others hold it: the last of them. Our lock is open.
    Others,
    /// Somebody has let it go already, or it was never held.
    Over,
}

/// The file of one process, open and locked.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    file: Flock<File>,
}

/// The file of process `pid` that started at `start`.
pub(super) fn path(pid: i32, start: u64) -> Result<PathBuf, FreezeError> {
    let uid = nix::unistd::geteuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = runtime.filter(|dir| dir.is_absolute());
    let mut folders = vec![PathBuf::from("/run/pageherd")];
    folders.extend(runtime.map(|dir| dir.join("pageherd")));
    folders.push(PathBuf::from(format!("/tmp/pageherd-{uid}")));
    let mut why = None;
    for folder in folders {
        match ensure(&folder, uid) {
            Ok(()) => return Ok(folder.join(format!("{pid}-{start}"))),
            Err(source) => why = Some(FreezeError::Ledger { path: folder, source }),
        }
    }
    Err(why.unwrap_or(FreezeError::Gone { pid }))
}

/// Makes the folder where it is not there, and takes it only if nobody else can put anything in it.
fn ensure(folder: &Path, uid: u32) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let found = fs::symlink_metadata(folder)?;
    if found.is_dir() && found.uid() == uid && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        "it belongs to somebody else, or others may write in it",
    ))
}

impl Ledger {
    /// Takes part in holding a process. Waits, for `most` at most, while somebody is just beginning
    /// or ending to hold it.
    pub(super) fn take(path: &Path, most: Duration) -> Result<(Self, Found), FreezeError> {
        let end = Instant::now() + most;
        let failed = |source| FreezeError::Ledger { path: path.to_owned(), source };
        loop {
            let mut file = open(path, true).map_err(failed)?;
            for (how, found) in [
                (FlockArg::LockExclusiveNonblock, Found::Alone),
                (FlockArg::LockSharedNonblock, Found::Joined),
            ] {
                match Flock::lock(file, how) {
                    Ok(locked) => {
                        let ledger = Self { path: path.to_owned(), file: locked };
                        // it may be a file that was taken away before we had the lock
                        if !ledger.is_in_place() {
                            break;
                        }
                        if found == Found::Alone {
                            ledger.begin()?;
                            return Ok((ledger, found));
                        }
                        // without that word its writer was killed: try to be the first
                        if ledger.read()?.still.is_some() {
                            return Ok((ledger, found));
                        }
                        break;
                    }
                    Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => file = back,
                    Err((_, e)) => return Err(failed(e.into())),
                }
            }
            if Instant::now() > end {
                return Err(FreezeError::Busy { path: path.to_owned(), seconds: most.as_secs() });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Takes the exclusive lock of a file that is there: the same turns as [`Self::turn`], for one
    /// who held nothing.
    pub(super) fn take_over(path: &Path) -> Result<(Option<Self>, Turn), FreezeError> {
        let failed = |source| FreezeError::Ledger { path: path.to_owned(), source };
        let file = match open(path, false) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((None, Turn::Over)),
            opened => opened.map_err(failed)?,
        };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => {
                let ledger = Self { path: path.to_owned(), file };
                let turn = if ledger.is_in_place() { Turn::Last } else { Turn::Over };
                Ok((Some(ledger), turn))
            }
            Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => Ok((None, Turn::Others)),
            Err((_, e)) => Err(failed(e.into())),
        }
    }

    /// Whose turn is it to let the process go?
    pub(super) fn turn(&self) -> Result<Turn, FreezeError> {
        match self.file.relock(FlockArg::LockExclusiveNonblock) {
            Ok(()) if self.is_in_place() => Ok(Turn::Last),
            Ok(()) => Ok(Turn::Over),
            // the shared lock is open now: it is taken off before the other is refused (flock(2)),
            // so that of two who ask at once one is the last
            Err(Errno::EWOULDBLOCK) => Ok(Turn::Others),
            Err(e) => Err(self.failed(e.into())),
        }
    }

    /// Lets others take part. `false` where somebody let go for all in the moment between the locks.
    pub(super) fn share(&self) -> Result<bool, FreezeError> {
        loop {
            match self.file.relock(FlockArg::LockShared) {
                Ok(()) => return Ok(self.is_in_place()),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(self.failed(e.into())),
            }
        }
    }

    /// Is the name still that of the file which is open?
    fn is_in_place(&self) -> bool {
        let here = self.file.metadata().map(|meta| (meta.dev(), meta.ino()));
        let there = fs::symlink_metadata(&self.path).map(|meta| (meta.dev(), meta.ino()));
        matches!((here, there), (Ok(here), Ok(there)) if here == there)
    }

    /// Forgets what an earlier boot wrote, and says which boot this is.
    fn begin(&self) -> Result<(), FreezeError> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|source| self.failed(source))?
            .trim()
            .to_owned();
        let told = self.read()?;
        if told.boot.as_ref() == Some(&boot) {
            return Ok(());
        }
        self.file.set_len(0).map_err(|source| self.failed(source))?;
        self.add(&Line::Boot(boot))
    }

    /// Forgets everything that was written.
    pub(super) fn clear(&self) -> Result<(), FreezeError> {
        self.file.set_len(0).map_err(|source| self.failed(source))?;
        self.begin()
    }

    /// Adds a line.
    pub(super) fn add(&self, line: &Line) -> Result<(), FreezeError> {
        let text = serde_json::to_string(line).map_err(|e| self.failed(e.into()))?;
        (&*self.file)
            .write_all(format!("{text}\n").as_bytes())
            .map_err(|source| self.failed(source))
    }

    /// What the lines add up to.
    pub(super) fn read(&self) -> Result<Told, FreezeError> {
        let mut text = String::new();
        let mut file = &*self.file;
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.take(MAX_BYTES).read_to_string(&mut text))
            .map_err(|source| self.failed(source))?;
        fold(&text).ok_or_else(|| FreezeError::Damaged { path: self.path.clone() })
    }

    /// Takes the file away: nobody holds the process. The folder goes with the last file.
    pub(super) fn remove(&self) -> Result<(), FreezeError> {
        fs::remove_file(&self.path).map_err(|source| self.failed(source))?;
        let _ = self.path.parent().map(fs::remove_dir);
        Ok(())
    }

    fn failed(&self, source: io::Error) -> FreezeError {
        FreezeError::Ledger { path: self.path.clone(), source }
    }
}

/// Opens the file of a process, no link, and to nobody else.
fn open(path: &Path, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(create).mode(0o600);
    options.custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    match options.open(path) {
        // the last file took its folder with it
        Err(e) if create && e.kind() == io::ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                ensure(folder, nix::unistd::geteuid().as_raw())?;
            }
            options.open(path)
        }
        opened => opened,
    }
}

/// Adds lines up. A last line without its end was never said; any other that cannot be read makes
/// all of it worthless.
fn fold(text: &str) -> Option<Told> {
    let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
    let mut told = Told::default();
    for line in whole.lines() {
        match serde_json::from_str(line).ok()? {
            Line::Boot(boot) => told.boot = Some(boot),
            Line::Undo(how) => {
                told.undo.retain(|other| *other != how);
                told.undo.push(how);
            }
            Line::Undone(how) => told.undo.retain(|other| *other != how),
            Line::Still(how) => told.still = Some(how),
            Line::Keep(who) => drop(told.keep.insert(who)),
            Line::Release(who) => drop(told.keep.remove(&who)),
        }
    }
    Some(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(30);

    #[test]
    fn the_last_of_three_has_the_turn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1-2");
        let (a, found) = Ledger::take(&path, SHORT).unwrap();
        assert_eq!(found, Found::Alone);
        // who comes while the first is at it has to wait
        assert!(matches!(Ledger::take(&path, SHORT), Err(FreezeError::Busy { .. })));
        a.add(&Line::Undo(How::Stop)).unwrap();
        a.add(&Line::Still(How::Stop)).unwrap();
        assert!(a.share().unwrap());
        let (b, found) = Ledger::take(&path, SHORT).unwrap();
        assert_eq!(found, Found::Joined);
        assert_eq!(Ledger::take_over(&path).unwrap().1, Turn::Others);
        let (c, _) = Ledger::take(&path, SHORT).unwrap();
        assert_eq!(a.turn().unwrap(), Turn::Others);
        assert_eq!(c.turn().unwrap(), Turn::Others);
        assert_eq!(b.turn().unwrap(), Turn::Last);
        assert_eq!(b.read().unwrap().undo, [How::Stop]);
        b.remove().unwrap();
        drop(b);
        assert_eq!(a.turn().unwrap(), Turn::Over);
        assert_eq!(Ledger::take_over(&path).unwrap().1, Turn::Over);
    }

    #[test]
    fn who_was_killed_while_beginning_is_followed_by_one_who_knows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1-2");
        let (a, _) = Ledger::take(&path, SHORT).unwrap();
        a.add(&Line::Undo(How::Stop)).unwrap();
        drop(a);
        let (b, found) = Ledger::take(&path, SHORT).unwrap();
        assert_eq!((found, b.read().unwrap().undo), (Found::Alone, vec![How::Stop]));
        b.clear().unwrap();
        assert_eq!(b.read().unwrap().undo, []);
        b.remove().unwrap();
    }

    #[test]
    fn the_lines_of_another_boot_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1-2");
        fs::write(&path, "{\"boot\":\"another\"}\n{\"undo\":\"stop\"}\n").unwrap();
        let (a, found) = Ledger::take(&path, SHORT).unwrap();
        assert_eq!((found, a.read().unwrap().undo), (Found::Alone, vec![]));
        a.remove().unwrap();
    }

    #[test]
    fn lines_add_up() {
        let how = How::Qmp("/a b".into());
        let line = |line: Line| serde_json::to_string(&line).unwrap() + "\n";
        let text = [
            Line::Undo(how.clone()),
            Line::Undo(How::Stop),
            Line::Undone(how),
            Line::Still(How::Stop),
            Line::Keep("a".into()),
            Line::Keep("b".into()),
            Line::Release("a".into()),
        ]
        .map(line)
        .concat();
        let told = fold(&text).unwrap();
        assert_eq!((told.undo, told.still), (vec![How::Stop], Some(How::Stop)));
        assert_eq!(told.keep.into_iter().collect::<Vec<_>>(), ["b"]);
        assert!(fold(&text[..text.len() - 1]).unwrap().keep.contains("a"), "half a line is none");
        assert_eq!(fold("nonsense\n"), None);
        assert_eq!(fold(""), Some(Told::default()));
    }

    #[test]
    fn a_folder_of_somebody_else_and_a_link_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        let open_to_all = folder.path().join("open");
        DirBuilder::new().create(&open_to_all).unwrap();
        fs::set_permissions(&open_to_all, std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .unwrap();
        assert!(ensure(&open_to_all, uid).is_err());
        assert!(ensure(&folder.path().join("new"), uid).is_ok());
        assert!(ensure(&folder.path().join("new"), uid + 1).is_err());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("new"), &link).unwrap();
        assert!(ensure(&link, uid).is_err());
        assert!(open(&link, true).is_err());
    }
}
