//! Streams that share what they have sent: the directory of a group, at both ends.
//!
//! Several streams of one *group* run at once or one after another. What one of them has brought the
//! others only name. There is no daemon and no shared counter: each stream is a *member* with a
//! number that is never used twice in its group, and a page has a name, (member, n): the n-th page
//! that this member's stream asked to be kept. So every file here has one writer, and only grows.
//!
//! ```text
//! /dev/shm/pageherd-UID/web/      --group web; --group /path/dir is that directory
//!     send/                       at the source (sent.rs)
//!         group                   id, next number, key
//!         log.2  done.0           digests of the pages that members 2 and 0 have written out
//!     recv/                       at the destination (pool.rs)
//!         group                   id
//!         pool.2  done.0          the pages themselves
//!         gone.1                  member 1 gave up: nobody has to wait for it
//! ```
//!
//! What the order of events rests on (all of it is tested beside the code):
//! - A member that lives holds an exclusive `flock` on its own file, and the file gets its name only
//!   when it is locked. So a file `log.N` or `pool.N` whose lock is free has lost its writer, however
//!   that ended; whoever sees it takes it away.
//! - Files get and lose names under an exclusive `flock` on the directory itself, which is held for a
//!   few system calls. A directory that was removed while somebody waited for its lock has no links.
//! - A page or a digest is there when the size of the file covers it. `write` copies first and sets
//!   the size then (mm/shmem.c `shmem_write_end`, Linux 6.18; `generic_perform_write`), and a reader
//!   that has seen the size takes the lock of the folio. Nothing is mapped: a file that shrinks would
//!   be a SIGBUS.
//! - No stream waits for another in a circle: a member learns of a page only after that was put on its
//!   way, and each stream keeps its order, so a reference is always later than what it refers to.
//!
//! A lock belongs to the open file and outlives its process in a child that was forked: fork first,
//! join then.

pub mod dir;
mod inside;
pub mod pool;
mod private;
mod seat;
pub mod sent;
#[cfg(test)]
mod tests;

pub use dir::{GroupDir, GroupName, Role};
pub use pool::Pool;
pub use sent::{News, SentGroup};

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A group nobody of which is alive is over this long after its last member finished: the next
/// stream begins a new one at the source, and a stream of another group may come at the destination.
pub const IDLE: Duration = Duration::from_secs(600);

/// The source waits this much longer than the destination: its member may finish before the
/// receiver's, on a link without answers, and must not find a group over there that goes on here.
const GRACE: Duration = Duration::from_secs(60);

/// Most members that a group can ever have.
pub const MOST_MEMBERS: u32 = 1 << 16;

/// Why a group cannot be used, or a page of it not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The name cannot be one of a group.
    #[error(
        "'{name}' cannot name a group: {why}; take letters, digits, '.', '_' and '-', or a path with a '/'"
    )]
    Name {
        /// What was asked for.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The kernel refused.
    #[error("group {path}: {doing} failed")]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The directory is not one of ours alone.
    #[error(
        "{path} is not used for a group: {why}; give it to the user of this command with mode 0700, or name another directory (--group /PATH)"
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Another process has the directory locked.
    #[error(
        "group {path}: another process has kept its lock for {seconds} s: is one stopped (state T)? Let it go on, or end it"
    )]
    Busy {
        /// The directory.
        path: PathBuf,
        /// For how long.
        seconds: u64,
    },
    /// A group with living members is not ended.
    #[error("group {path} has {members} stream(s) under way: wait for them, or end them first")]
    Alive {
        /// The directory.
        path: PathBuf,
        /// How many.
        members: usize,
    },
    /// There is no such group.
    #[error("there is no group {path}")]
    NoGroup {
        /// The directory.
        path: PathBuf,
    },
    /// The group was ended, or its directory removed, between two steps.
    #[error("group {path} was ended while this stream was about to join it: start it again")]
    Ended {
        /// The directory.
        path: PathBuf,
    },
    /// The directory has the pages of another group.
    #[error(
        "group {path} holds what another source has sent{}: take another name (--group), wait, or give it up with --end-group",
        if *live > 0 { ", and that is under way" } else { ", less than ten minutes ago" }
    )]
    OtherMove {
        /// The directory.
        path: PathBuf,
        /// How many of its members are alive.
        live: usize,
    },
    /// The file that says which group it is cannot be understood.
    #[error("group {path}: its file 'group' is damaged: give the group up with --end-group")]
    Damaged {
        /// The directory.
        path: PathBuf,
    },
    /// A number that was used comes again.
    #[error(
        "group {path}: stream {member} has been here already: a stream is not received twice, send anew"
    )]
    MemberTwice {
        /// The directory.
        path: PathBuf,
        /// The number.
        member: u32,
    },
    /// The numbers are used up.
    #[error("group {path} has had all {MOST_MEMBERS} streams that it can have: take another name")]
    TooMany {
        /// The directory.
        path: PathBuf,
    },
    /// The file system is full.
    #[error(
        "group {path}: its file system is full: make room there, end groups that are over (--end-group), or take a directory with more room (--group /PATH)"
    )]
    Full {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The limit is reached.
    #[error(
        "the pages kept for later references would take more than {limit} bytes: raise --pool-max"
    )]
    Limit {
        /// In bytes.
        limit: u64,
    },
    /// No memory for the pages of a stream without a group.
    #[error(
        "there is no memory for the pages that the stream wants kept: lower --pool-max, send with --filters zero,zstd, or add memory"
    )]
    NoMemory(#[source] io::Error),
    /// An earlier write to the log failed, so that the numbers of later pages would be wrong.
    #[error(
        "group {path}: an earlier write to its log failed: later pages are not offered to others"
    )]
    Stuck {
        /// The directory.
        path: PathBuf,
    },
    /// A reference to a page of our own that has not come.
    #[error(
        "the stream refers to page {page} of its own, and only {pages} have come: it is damaged"
    )]
    NotYet {
        /// The page.
        page: u64,
        /// How many came.
        pages: u64,
    },
    /// A reference to another's page, and no group.
    #[error(
        "the stream refers to a page that stream {member} of its group brought: start mig-recv with the --group that this has"
    )]
    Alone {
        /// Who brought it.
        member: u32,
    },
    /// The page will not come any more.
    #[error(
        "page {page} of stream {member} never arrived: that stream failed, or its group was received elsewhere; send this one again, and if that does not help end the group at the source (mig-send --group … --end-group)"
    )]
    NeverArrived {
        /// Whose it is.
        member: u32,
        /// Its number.
        page: u64,
    },
    /// The page did not come in time.
    #[error(
        "page {page} of stream {member} did not come within {seconds} s: is its mig-recv running, with the same --group?"
    )]
    WaitedTooLong {
        /// Whose it is.
        member: u32,
        /// Its number.
        page: u64,
        /// How long without any progress of that stream.
        seconds: u64,
    },
}

impl GroupError {
    fn io<E: Into<io::Error>>(path: &Path, doing: &'static str) -> impl FnOnce(E) -> Self + use<E> {
        let path = path.to_owned();
        move |source| {
            let source = source.into();
            match source.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => Self::Full { path, source },
                _ => Self::Io { path, doing, source },
            }
        }
    }

    fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// What was given back by [`end`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Streams that had left something.
    pub members: usize,
    /// Bytes of their files.
    pub bytes: u64,
}

/// Gives up the group `name` at this end: removes what its members left. The directory goes too,
/// unless it holds something else.
///
/// # Errors
/// [`GroupError::Alive`] while a member is; [`GroupError::NoGroup`].
pub fn end(name: &GroupName, role: Role) -> Result<Ended, GroupError> {
    let no_group = |e: GroupError| match e {
        e if e.is_not_found() => GroupError::NoGroup { path: name.path(None) },
        e => e,
    };
    let dir = GroupDir::find(name, role).map_err(no_group)?;
    let inside = dir.enter(false).map_err(no_group)?;
    // what a killed process left counts as well
    let (before, bytes) = inside.sizes(None)?;
    let members = inside.survey()?;
    let live = members.iter().filter(|m| m.is_live()).count();
    if live > 0 {
        return Err(GroupError::Alive { path: dir.path().to_owned(), members: live });
    }
    inside.wipe()?;
    dir.remove();
    Ok(Ended { members: before, bytes })
}
