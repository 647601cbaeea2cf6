//! The destination: pages that came and may be named again, by this stream or by others.

use super::dir::{GroupDir, Role};
use super::inside::{Card, Kind, is_held, is_over, open_in, sizes, stat_in};
use super::private::Private;
use super::seat::Seat;
use super::{GroupError, IDLE, MOST_MEMBERS};
use crate::base::PAGE_SIZE;
use nix::fcntl::OFlag;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between two looks at a page that has not come: from, to.
const PAUSE: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(5));

/// After so many bytes of our own it is counted anew what the others have.
const RECOUNT: u64 = 16 << 20;

/// Most files of others that are open at once.
const MOST_OPEN: usize = 256;

/// Pages by name: (member, number).
#[derive(Debug)]
pub struct Pool {
    /// In bytes: of the group, or of this stream alone.
    limit: u64,
    kind: Which,
}

#[derive(Debug)]
enum Which {
    Private(Private),
    Group(Box<Shared>),
}

#[derive(Debug)]
struct Shared {
    seat: Seat,
    /// Pages of our own.
    pages: u64,
    /// What others had when it was counted, and how much of ours there was then; in bytes.
    counted: Option<(u64, u64)>,
    others: Mutex<HashMap<u32, Arc<Other>>>,
}

/// The file of another.
#[derive(Debug)]
struct Other {
    file: File,
    /// Bytes that are known to be there.
    known: AtomicU64,
}

/// What there is of a member.
enum Sight {
    Open(Arc<Other>),
    Gone,
    Nothing,
}

impl Pool {
    /// For a stream that is in no group: its pages are kept in memory of this process, and are those
    /// of member 0. More than `limit` bytes are refused.
    pub fn private(limit: u64) -> Self {
        Self { limit, kind: Which::Private(Private::default()) }
    }

    /// For member `member` of the group `id`. The directory is that of one group: where it has
    /// another's, that has to be over. All files of the group together take `limit` bytes at most,
    /// give or take 16 MiB for each member.
    ///
    /// What is done here and later needs [`GroupDir::writable`] alone, so it can be done when the
    /// rest of the file system is given up.
    ///
    /// # Errors
    /// [`GroupError::OtherMove`], [`GroupError::MemberTwice`] and others.
    pub fn join(
        group: GroupDir,
        id: [u8; 16],
        member: u32,
        limit: u64,
    ) -> Result<Self, GroupError> {
        Self::join_after(group, id, member, limit, IDLE)
    }

    pub(super) fn join_after(
        group: GroupDir,
        id: [u8; 16],
        member: u32,
        limit: u64,
        idle: Duration,
    ) -> Result<Self, GroupError> {
        if member >= MOST_MEMBERS {
            return Err(GroupError::TooMany { path: group.path().to_owned() });
        }
        let inside = group.enter(true)?;
        let members = inside.survey()?;
        if inside.card()?.is_none_or(|card| card.id != id) {
            if !is_over(&members, idle) {
                let live = members.iter().filter(|m| m.is_live()).count();
                return Err(GroupError::OtherMove { path: group.path().to_owned(), live });
            }
            inside.begin(&Card { id, next: 0, key: [0; 32] })?;
        }
        let seat = Seat::take(group, Role::Recv, &inside, member, &[])?;
        let others = Mutex::new(HashMap::new());
        let shared = Shared { seat, pages: 0, counted: None, others };
        Ok(Self { limit, kind: Which::Group(Box::new(shared)) })
    }

    /// Our number in the group.
    pub fn member(&self) -> u32 {
        match &self.kind {
            Which::Private(_) => 0,
            Which::Group(group) => group.seat.member,
        }
    }

    /// Pages of our own that are kept.
    pub fn pages(&self) -> u64 {
        match &self.kind {
            Which::Private(private) => private.pages,
            Which::Group(group) => group.pages,
        }
    }

    /// Keeps whole pages; the number of the first of them.
    ///
    /// # Errors
    /// [`GroupError::Limit`], [`GroupError::Full`]: nothing of them counts as kept then.
    ///
    /// # Panics
    /// Where the bytes are no whole pages.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64, GroupError> {
        assert!((bytes.len() as u64).is_multiple_of(PAGE_SIZE), "{} bytes", bytes.len());
        let (first, new) = (self.pages(), bytes.len() as u64);
        let own = first * PAGE_SIZE + new;
        let limit = self.limit;
        match &mut self.kind {
            Which::Private(private) => {
                if own > limit {
                    return Err(GroupError::Limit { limit });
                }
                private.append(bytes)?;
            }
            Which::Group(group) => {
                if own.saturating_add(group.others_bytes(own, limit)?) > limit {
                    return Err(GroupError::Limit { limit });
                }
                let failed = GroupError::io(&group.seat.path, "writing pages");
                // what a full disk took of it may be seen by others: it is what they ask for
                group.seat.file()?.write_all_at(bytes, first * PAGE_SIZE).map_err(failed)?;
                group.pages += new / PAGE_SIZE;
            }
        }
        Ok(first)
    }

    /// Copies pages `n..` of `member` to `out`. A page of another that has not come is waited for,
    /// as long as that one lives and something comes from it within `wait`.
    ///
    /// # Errors
    /// [`GroupError::NeverArrived`], [`GroupError::WaitedTooLong`]; [`GroupError::NotYet`] for our
    /// own, which are not waited for; [`GroupError::Alone`].
    ///
    /// # Panics
    /// Where `out` is no whole pages.
    pub fn read(
        &self,
        member: u32,
        n: u64,
        out: &mut [u8],
        wait: Duration,
    ) -> Result<(), GroupError> {
        assert!((out.len() as u64).is_multiple_of(PAGE_SIZE), "{} bytes", out.len());
        let end = n.checked_add(out.len() as u64 / PAGE_SIZE);
        if member == self.member() {
            let pages = self.pages();
            if end.is_none_or(|end| end > pages) {
                return Err(GroupError::NotYet { page: n.max(pages), pages });
            }
        }
        let end = end.and_then(|end| end.checked_mul(PAGE_SIZE));
        let end = end.ok_or(GroupError::NeverArrived { member, page: n })?;
        match &self.kind {
            Which::Private(private) if member == 0 => private.read(n, out),
            Which::Private(_) => return Err(GroupError::Alone { member }),
            Which::Group(group) if member == group.seat.member => group
                .seat
                .file()?
                .read_exact_at(out, n * PAGE_SIZE)
                .map_err(GroupError::io(&group.seat.path, "reading pages"))?,
            Which::Group(group) => group.read(member, n, end, out, wait)?,
        }
        Ok(())
    }

    /// Has `member` brought so many pages at least? Not waited for.
    pub fn has(&self, member: u32, pages: u64) -> Result<bool, GroupError> {
        match &self.kind {
            _ if member == self.member() => Ok(self.pages() >= pages),
            Which::Private(_) => Ok(false),
            Which::Group(group) => match group.find(member)? {
                Sight::Open(other) => Ok(group.size(&other)? / PAGE_SIZE >= pages),
                Sight::Gone | Sight::Nothing => Ok(false),
            },
        }
    }

    /// Leaves the group. What came stays for later members if `committed`; otherwise it goes.
    ///
    /// # Errors
    /// Where the pages could not be left behind it is as if it had not been committed.
    pub fn finish(self, committed: bool) -> Result<(), GroupError> {
        match self.kind {
            Which::Private(_) => Ok(()),
            Which::Group(mut group) => group.seat.leave(committed),
        }
    }
}

impl Shared {
    /// Bytes of the others, as counted not long ago; anew where it would be too much.
    fn others_bytes(&mut self, own: u64, limit: u64) -> Result<u64, GroupError> {
        match self.counted {
            Some((others, at)) if own - at < RECOUNT && own.saturating_add(others) <= limit => {
                Ok(others)
            }
            _ => {
                let (_, others) = sizes(&self.seat.dir, Role::Recv, Some(self.seat.member))
                    .map_err(GroupError::io(&self.seat.path, "counting what others have"))?;
                self.counted = Some((others, own));
                Ok(others)
            }
        }
    }

    fn size(&self, other: &Other) -> Result<u64, GroupError> {
        let found = other.file.metadata();
        let size = found.map_err(GroupError::io(&self.seat.path, "looking at a pool"))?.len();
        other.known.fetch_max(size, Ordering::Relaxed);
        Ok(size)
    }

    /// Finds what there is of a member.
    fn find(&self, member: u32) -> Result<Sight, GroupError> {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = others.get(&member) {
            return Ok(Sight::Open(other.clone()));
        }
        // in this order: a file that has the second name does not get the first again
        for kind in [Kind::Live, Kind::Done] {
            match open_in(&self.seat.dir, &kind.file(Role::Recv, member), OFlag::O_RDONLY) {
                Ok(file) => {
                    if others.len() >= MOST_OPEN {
                        others.clear();
                    }
                    let other = Arc::new(Other { file, known: AtomicU64::new(0) });
                    others.insert(member, other.clone());
                    return Ok(Sight::Open(other));
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(GroupError::io(&self.seat.path, "opening a pool")(e)),
            }
        }
        let gone = stat_in(&self.seat.dir, &Kind::Gone.file(Role::Recv, member)).is_some();
        Ok(if gone { Sight::Gone } else { Sight::Nothing })
    }

    fn read(
        &self,
        member: u32,
        n: u64,
        end: u64,
        out: &mut [u8],
        wait: Duration,
    ) -> Result<(), GroupError> {
        let never = || GroupError::NeverArrived { member, page: n };
        let (mut since, mut seen, mut pause) = (Instant::now(), 0, PAUSE.0);
        loop {
            match self.find(member)? {
                Sight::Open(other) => {
                    if other.known.load(Ordering::Relaxed) >= end || self.size(&other)? >= end {
                        return other.file.read_exact_at(out, n * PAGE_SIZE).map_err(|e| {
                            match e.kind() {
                                io::ErrorKind::UnexpectedEof => never(),
                                _ => GroupError::io(&self.seat.path, "reading pages")(e),
                            }
                        });
                    }
                    let held = is_held(&other.file);
                    let held = held.map_err(GroupError::io(&self.seat.path, "testing a lock"))?;
                    let size = self.size(&other)?;
                    if size >= end {
                        continue; // it came while we asked
                    }
                    if !held {
                        return Err(never());
                    }
                    if size > seen {
                        (since, seen) = (Instant::now(), size);
                    }
                }
                Sight::Gone => return Err(never()),
                Sight::Nothing => {}
            }
            let left = wait.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Err(GroupError::WaitedTooLong { member, page: n, seconds: wait.as_secs() });
            }
            sleep(pause.min(left));
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}
