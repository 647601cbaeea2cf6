//! A member's place in its group: the file that it alone writes, locked as long as it lives.

use super::GroupError;
use super::dir::{GroupDir, Role};
use super::inside::Inside;
use nix::fcntl::Flock;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

/// How long who leaves waits for the lock of the directory.
const PATIENCE: Duration = Duration::from_secs(10);

/// A member. Dropped before it has left, it has given up.
#[derive(Debug)]
pub(super) struct Seat {
    group: GroupDir,
    role: Role,
    /// The directory in which the files of its end are, and where that is.
    pub(super) dir: File,
    pub(super) path: PathBuf,
    pub(super) member: u32,
    /// `None` when it has left.
    file: Option<Flock<File>>,
}

impl Seat {
    /// Takes the seat: makes the file, which begins with `head`.
    pub(super) fn take(
        group: GroupDir,
        role: Role,
        inside: &Inside,
        member: u32,
        head: &[u8],
    ) -> Result<Self, GroupError> {
        let failed = GroupError::io(&inside.path, "taking its descriptor");
        let dir = inside.dir.try_clone().map_err(failed)?;
        let file = Some(inside.make(member, head)?);
        Ok(Self { group, role, dir, path: inside.path.clone(), member, file })
    }

    /// Its file.
    pub(super) fn file(&self) -> Result<&File, GroupError> {
        let left = || GroupError::Ended { path: self.path.clone() };
        self.file.as_deref().ok_or_else(left)
    }

    /// Takes away what the killed have left, unless the directory is locked just now.
    pub(super) fn sweep(&self) -> Result<(), GroupError> {
        match Inside::lock(&self.dir, &self.path, self.role, Duration::ZERO) {
            Ok(Some(inside)) => inside.survey().map(drop),
            Ok(None) | Err(GroupError::Busy { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Leaves. What it had stays for others if `committed`; otherwise it goes, and the whole group
    /// with it if nobody is there and nobody has left anything.
    pub(super) fn leave(&mut self, committed: bool) -> Result<(), GroupError> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let locked = Inside::lock(&self.dir, &self.path, self.role, PATIENCE);
        // without the lock its name stays, and who sees that its lock is free removes it
        let Some(inside) = locked? else { return Ok(()) };
        if committed {
            return inside.keep(self.member);
        }
        inside.give_up(self.member)?;
        drop(file);
        if inside.survey()?.is_empty() {
            inside.wipe()?;
            self.group.remove();
        }
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let _ = self.leave(false);
    }
}
