//! The source: what this stream and the others of its group have sent.

use super::dir::{GroupDir, GroupName, Role};
use super::inside::{Card, Kind, bytes, is_held, is_over, list, open_in, stat_in};
use super::seat::Seat;
use super::{GRACE, GroupError, IDLE};
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};

/// Bytes of a log before its digests: the group's id.
const HEAD: u64 = 16;

/// Bytes of a digest.
const DIGEST: u64 = 16;

/// How often the directory is looked through for new logs and dead writers.
const LOOK: Duration = Duration::from_millis(50);

/// Most digests that one call takes from one log: 1 MiB.
const MOST: u64 = 1 << 16;

/// Most logs that are open at once; the others are read when these are done with.
const MOST_OPEN: usize = 256;

/// What others have done since last asked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct News {
    /// Pages that they have written to their links, in order for each.
    pub kept: Vec<Kept>,
    /// Members that have given up or were killed: their pages are not to be named any more.
    pub gone: Vec<u32>,
}

/// Pages of one member that follow one another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Whose.
    pub member: u32,
    /// The number of the first.
    pub first: u64,
    /// Their digests, by the group's key.
    pub digests: Vec<[u8; 16]>,
}

/// Another member, as far as it is known here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Other {
    /// Its number.
    pub member: u32,
    /// Pages of it that [`SentGroup::news`] has told of: what may be named.
    pub pages: u64,
    /// Has it finished? Then there are no more.
    pub done: bool,
}

/// A member's view of its group, at the source.
#[derive(Debug)]
pub struct SentGroup {
    seat: Seat,
    card: Card,
    /// Digests that we have written.
    kept: u64,
    /// A write failed: the numbers of pages that come later would be wrong.
    stuck: bool,
    others: BTreeMap<u32, Log>,
    /// Members that gave up, or whose files are none: not to be opened again.
    gone: BTreeSet<u32>,
    looked: Option<Instant>,
}

/// The log of another.
#[derive(Debug)]
struct Log {
    /// `None` when all of it is read and no more will come.
    file: Option<File>,
    read: u64,
    done: bool,
}

impl SentGroup {
    /// Joins the group `name`; makes it where it is not there, or is over ([`IDLE`]).
    ///
    /// # Errors
    /// See [`GroupError`].
    pub fn join(name: &GroupName) -> Result<Self, GroupError> {
        Self::join_after(name, IDLE + GRACE)
    }

    pub(super) fn join_after(name: &GroupName, idle: Duration) -> Result<Self, GroupError> {
        let mut tries = 0;
        let (group, inside) = loop {
            let group = GroupDir::open(name, Role::Send, None)?;
            match group.enter(true) {
                // who left it last has removed it under us
                Err(GroupError::Ended { .. }) if tries < 100 => tries += 1,
                entered => break (group, entered?),
            }
        };
        let members = inside.survey()?;
        let card = match inside.card()? {
            Some(card) if !is_over(&members, idle) => card,
            _ => {
                let card = fresh().map_err(GroupError::io("/dev/urandom".as_ref(), "reading"))?;
                inside.begin(&card)?;
                card
            }
        };
        let members = inside.survey()?;
        let member = inside.number(&card, &members)?;
        let seat = Seat::take(group, Role::Send, &inside, member, &card.id)?;
        Ok(Self {
            seat,
            card,
            kept: 0,
            stuck: false,
            others: BTreeMap::new(),
            gone: BTreeSet::new(),
            looked: None,
        })
    }

    /// Which group it is: 16 random bytes.
    pub const fn id(&self) -> [u8; 16] {
        self.card.id
    }

    /// Our number in it.
    pub const fn member(&self) -> u32 {
        self.seat.member
    }

    /// The group's secret, for digests of pages that nobody outside can make. It is not to be sent.
    pub const fn key(&self) -> [u8; 32] {
        self.card.key
    }

    /// These pages are on their way, in this order: from now on others may name them.
    /// Our page *n* is the *n*-th for which this was said, from 0.
    ///
    /// # Errors
    /// [`GroupError::Full`] and others, and then [`GroupError::Stuck`]. The move need not fail for
    /// it: what was not said is not named by others, and that is all.
    pub fn kept(&mut self, digests: &[[u8; 16]]) -> Result<(), GroupError> {
        if self.stuck {
            return Err(GroupError::Stuck { path: self.seat.path.clone() });
        }
        let at = HEAD + self.kept * DIGEST;
        if let Err(e) = self.seat.file()?.write_all_at(digests.as_flattened(), at) {
            self.stuck = true;
            return Err(GroupError::io(&self.seat.path, "writing the log")(e));
        }
        self.kept += digests.len() as u64;
        Ok(())
    }

    /// What others have done since this was asked last: at most 65536 pages of each at once, so that
    /// whoever wants all asks until nothing comes. A member that begins or is killed is seen within
    /// 50 ms.
    pub fn news(&mut self) -> Result<News, GroupError> {
        if self.looked.is_none_or(|at| at.elapsed() >= LOOK) {
            self.look()?;
            self.looked = Some(Instant::now());
        }
        let mut news = News::default();
        let failed = || GroupError::io(&self.seat.path, "reading a log");
        for (&member, log) in &mut self.others {
            let Some(file) = &log.file else { continue };
            let found = fstat(file).map_err(|e| failed()(io::Error::from(e)))?;
            if found.st_nlink == 0 {
                news.gone.push(member);
                continue;
            }
            let there = bytes(&found).saturating_sub(HEAD) / DIGEST;
            let many = there.saturating_sub(log.read).min(MOST);
            if many > 0 {
                let mut digests = vec![[0; 16]; usize::try_from(many).unwrap_or(0)];
                file.read_exact_at(digests.as_flattened_mut(), HEAD + log.read * DIGEST)
                    .map_err(failed())?;
                news.kept.push(Kept { member, first: log.read, digests });
                log.read += many;
            }
            if log.done && log.read >= there {
                log.file = None;
            }
        }
        for &member in &news.gone {
            self.gone.insert(member);
        }
        // of whom nothing was told nothing has to be taken back
        let others = &mut self.others;
        news.gone.retain(|member| others.remove(member).is_some_and(|log| log.read > 0));
        Ok(news)
    }

    /// The others of whom [`Self::news`] has told, without those that are gone: what a receiver has
    /// to have, for what this stream may name.
    pub fn others(&self) -> Vec<Other> {
        let all = self.others.iter();
        all.map(|(&member, log)| Other { member, pages: log.read, done: log.done }).collect()
    }

    /// Looks for new logs, and for writers that are no more.
    fn look(&mut self) -> Result<(), GroupError> {
        let names = list(&self.seat.dir)
            .map_err(GroupError::io(&self.seat.path, "listing the directory"))?;
        let mut open = self.others.values().filter(|log| log.file.is_some()).count();
        for name in names {
            let Some((kind @ (Kind::Live | Kind::Done), member)) = Kind::of(Role::Send, &name)
            else {
                continue;
            };
            let known = self.others.contains_key(&member) || self.gone.contains(&member);
            if known || member == self.seat.member || open >= MOST_OPEN {
                continue;
            }
            match open_in(&self.seat.dir, &name, OFlag::O_RDONLY) {
                Ok(file) if self.is_log(&file) => {
                    let log = Log { file: Some(file), read: 0, done: kind == Kind::Done };
                    self.others.insert(member, log);
                    open += 1;
                }
                // it has just got another name, or has gone: the next look tells
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                _ => drop(self.gone.insert(member)),
            }
        }
        self.bury()
    }

    fn is_log(&self, mut file: &File) -> bool {
        let mut head = [0; 16];
        file.read_exact(&mut head).is_ok() && head == self.card.id
    }

    /// Whoever's lock is free has finished, or is no more; the latter's log goes.
    fn bury(&mut self) -> Result<(), GroupError> {
        let failed = || GroupError::io(&self.seat.path, "testing a lock");
        for (&member, log) in &mut self.others {
            let Some(file) = log.file.as_ref().filter(|_| !log.done) else { continue };
            if is_held(file).map_err(failed())? {
                continue;
            }
            let found = file.metadata().map_err(failed())?;
            let named = |kind: Kind| {
                stat_in(&self.seat.dir, &kind.file(Role::Send, member))
                    .is_some_and(|there| (there.st_dev, there.st_ino) == (found.dev(), found.ino()))
            };
            log.done = named(Kind::Done);
            if !log.done && named(Kind::Live) {
                // the name is removed under the lock by who gets it; a busy one is tried again
                self.seat.sweep()?;
            }
        }
        Ok(())
    }

    /// Leaves the group. Where the move is `committed`, later members go on naming its pages;
    /// otherwise nobody may any more.
    ///
    /// # Errors
    /// Where the log could not be left behind it is as if it had not been committed.
    pub fn done(mut self, committed: bool) -> Result<(), GroupError> {
        self.seat.leave(committed)
    }
}

/// A group that nobody has had.
fn fresh() -> io::Result<Card> {
    let mut card = Card { id: [0; 16], next: 0, key: [0; 32] };
    let mut random = File::open("/dev/urandom")?;
    random.read_exact(&mut card.id)?;
    random.read_exact(&mut card.key)?;
    Ok(card)
}
