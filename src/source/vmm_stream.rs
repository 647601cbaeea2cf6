//! A VMM's own migration stream, as `exec:` or `fd:` hands it to us, and the VMM's verdict.
//!
//! QEMU asks nobody whether a move through `exec:` went well: what it could write has arrived, for
//! it. It would say `completed`, and keep the guest paused for good, where the far end failed. There
//! are two ways to make its verdict the truth:
//!
//! - **the way back** (capability `return-path`): QEMU reads our standard output and waits there for a
//!   word. It says `failed` without one, also where we were killed. The word must not come before QEMU
//!   has written everything: 7.2 closes the pipe when it has read it, under the thread that writes
//!   (`source_return_path_thread`, migration/migration.c: the way back is the same channel), and then
//!   says `failed` whatever the word was. For the same reason nobody is told `failed`: that we are gone
//!   says it too;
//! - **the pipe**: QEMU is not done before it has written the description at the end, which nobody
//!   needs. Whoever leaves more of it unread than the pipe holds has QEMU wait. For that the pipe must
//!   be small before the last section of memory has been read: device state and description
//!   together can be less than 100 KB (QEMU 10.0, q35, `-nodefaults`: 78 KB), and a pipe that holds
//!   more cannot be made smaller.
//!
//! Where neither is possible (a socket, a file, no description) the verdict is QEMU's alone.
//!
//! A *keeper*, another process, has the pipe too: from when the far end is told to commit until it has
//! answered, nobody may let the source go, also where we are killed then.

use crate::qemu::stream::{PONG, shut};
use crate::sys::fd::{Want, broken, fits_pipe, pipe_room, unread, wait};
use crate::sys::guard::{self, Link};
use crate::sys::readers;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Room of the pipe while the end may be near, and what one call reads: together they are well below
/// the description, so that QEMU waits at its end also where the pipe cannot be made smaller still.
const ROOM: usize = 16 << 10;
/// Rooms while it is far, the largest first. Each time that a pipe is full or empty one end is woken,
/// which takes 50 us where a processor sleeps: 16 KiB carry 0.3 GB/s then (docs/KERNEL.md).
const ROOMS: [usize; 3] = [256 << 10, 64 << 10, ROOM];
/// How many times its room must still come: a pipe is made smaller by the reads that follow, each of
/// which takes out all that it holds.
const MARGIN: u64 = 4;
/// Room, and what one call reads, where QEMU waits for our word.
const WIDE: usize = 1 << 20;
/// Room of the pipe at the end: one page, the least there is.
const LEAST: usize = 4096;

/// Who holds the pipe where we are killed.
#[derive(Debug)]
pub struct Keeper(Link);

impl Keeper {
    /// Starts it: while there is one thread.
    ///
    /// # Errors
    /// Those of fork, and where there are more threads.
    pub fn start() -> io::Result<Self> {
        guard::start("mig-send-keeper", keep).map(Self)
    }

    /// From now on the source must not go on, also where we are killed; or it may again.
    ///
    /// # Errors
    /// Where the keeper is gone.
    pub fn keep(&self, keep: bool) -> io::Result<()> {
        self.0.send(&[if keep { word::KEEP } else { word::LET_GO }], None)
    }
}

mod word {
    pub(super) const INPUT: u8 = b'i';
    pub(super) const REPLY: u8 = b'r';
    pub(super) const KEEP: u8 = b'k';
    pub(super) const LET_GO: u8 = b'l';
    /// Eight bytes follow: so many are unread.
    pub(super) const UNREAD: u8 = b'u';
}

/// What the keeper does: nothing, until who made it is no more.
fn keep(link: &Link) {
    let (mut input, mut reply, mut keeps, mut unread) = (None, None, false, 0);
    while let Ok(Some(message)) = link.receive(None) {
        match message.bytes.as_slice() {
            [word::INPUT] => input = message.fd,
            [word::REPLY] => reply = message.fd,
            [word::KEEP] => keeps = true,
            [word::LET_GO] => keeps = false,
            [word::UNREAD, rest @ ..] => {
                unread = rest.try_into().map_or(0, u64::from_le_bytes);
            }
            _ => {}
        }
    }
    if let (Some(input), true) = (input, keeps) {
        // The far end may have it: the guest must not go on here by itself. QEMU says `completed`
        // and keeps it paused; a human can let it go.
        let _ = end(&mut File::from(input), reply.map(File::from).as_ref(), unread);
    }
}

/// Takes what QEMU still writes, and tells it that all went well as soon as it has written `unread`
/// bytes: those that are left of its stream.
fn end(input: &mut File, reply: Option<&File>, unread: u64) -> io::Result<()> {
    io::copy(&mut Read::take(&*input, unread), &mut io::sink())?;
    if let Some(mut reply) = reply {
        reply.write_all(&shut(false))?;
        reply.flush()?;
    }
    io::copy(input, &mut io::sink()).map(drop)
}

/// Does who writes `input` read `output`, as QEMU does where it starts a program: both ends of one
/// socket, or a pipe that it reads? Where its descriptors cannot be seen, a pipe is taken for one.
pub fn is_way_back(input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> bool {
    let ids = |fd: BorrowedFd<'_>| {
        let file = File::from(fd.try_clone_to_owned().ok()?);
        let meta = file.metadata().ok()?;
        Some((meta.file_type(), meta.dev(), meta.ino()))
    };
    let (Some(from), Some(to)) = (ids(input), ids(output)) else { return false };
    if from.0.is_socket() || to.0.is_socket() {
        return from == to;
    }
    if !to.0.is_fifo() || broken(output) {
        return false;
    }
    let (heard, spoken) = (readers::of(&output), readers::writers(&input));
    heard.is_empty() || spoken.is_empty() || heard.iter().any(|pid| spoken.contains(pid))
}

/// Whether QEMU is still at the other ends.
#[derive(Debug)]
pub struct Lives {
    /// It waits for us; one that does not may be done.
    waits: Arc<AtomicBool>,
    input: Option<File>,
    reply: Option<Arc<Ear>>,
}

impl Lives {
    /// Has it closed none of them, although it waits, and does it still listen?
    pub fn is_there(&self) -> bool {
        if !self.waits.load(Ordering::Relaxed) {
            return true;
        }
        let gone = self.input.as_ref().is_some_and(|file| broken(file.as_fd()));
        !gone && self.reply.as_ref().is_none_or(|ear| ear.still_listens())
    }
}

/// Longest time in which QEMU takes a word from the way back, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where QEMU listens, if it does.
///
/// That it says so is not enough. QEMU 7.2 says it, and does not listen, in the move after one that
/// failed with `return-path` on, where the capability was turned off in between (`rp_thread_created`
/// is left as it was); it then says `completed` without waiting for anything. And after
/// `migrate_cancel` it closes nothing, waits for our word and runs the guest whatever that is (7.2 and
/// 10.0: a pipe cannot be shut down). So it is given words that say nothing, and whether it takes them
/// tells.
#[derive(Debug)]
struct Ear {
    reply: File,
    /// A first word has gone out.
    asked: AtomicBool,
    heard: AtomicBool,
}

impl Ear {
    const fn new(reply: File) -> Self {
        Self { reply, asked: AtomicBool::new(false), heard: AtomicBool::new(false) }
    }

    fn say(&self) -> bool {
        (&self.reply).write_all(&PONG).is_ok()
    }

    fn has_taken(&self) -> bool {
        unread(self.reply.as_fd()).is_ok_and(|bytes| bytes == 0)
    }

    fn takes(&self) -> bool {
        let end = Instant::now() + PATIENCE;
        while !broken(self.reply.as_fd()) && Instant::now() < end {
            if self.has_taken() {
                return true;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        false
    }

    /// QEMU has said that it listens: it is asked, and later looked at.
    fn try_out(&self) {
        if !self.asked.swap(true, Ordering::Relaxed) {
            self.say();
        } else if self.has_taken() {
            self.heard.store(true, Ordering::Relaxed);
        }
    }

    /// QEMU has taken what it was told.
    fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// Does it still? True too where it never listened.
    ///
    /// Two words, one after the other: after `migrate_cancel` QEMU takes one, finds that it has been
    /// cancelled, and takes no other.
    fn still_listens(&self) -> bool {
        !self.is_heard() || (0..2).all(|_| self.say() && self.takes())
    }
}

/// Why QEMU's verdict is true, or is not ours to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// QEMU waits for our word.
    Told,
    /// QEMU waits until we read on.
    Held,
    /// QEMU is done, whatever becomes of the move.
    Blind(Blind),
}

/// Why a verdict is QEMU's alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blind {
    /// The stream comes from a file.
    File,
    /// It comes through a socket, which holds more than a description.
    Socket,
    /// The description is missing or shorter than the pipe is long.
    Short,
    /// The pipe was never empty enough to be made small.
    Wide,
    /// The stream is not understood, and nobody knows where it ends.
    Opaque,
}

impl std::fmt::Display for Blind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::File => "its stream comes from a file",
            Self::Socket => {
                "a socket holds the rest of its stream; give it a pipe, or turn its capability return-path on"
            }
            Self::Short => {
                "the description at the end of its stream is missing or too short: turn the machine's suppress-vmdesc off, or its capability return-path on"
            }
            Self::Opaque => "the stream is not understood, and its end cannot be seen",
            Self::Wide => {
                "the pipe could not be made small in time; turn its capability return-path on"
            }
        })
    }
}

/// The stream, and the way to tell QEMU.
#[derive(Debug)]
pub struct VmmStream {
    input: File,
    reply: Option<Arc<Ear>>,
    keeper: Option<Arc<Keeper>>,
    /// A pipe, and how much it holds now.
    pipe: Option<usize>,
    /// How much it should hold.
    room: usize,
    /// How much it may hold: what the kernel has not refused.
    most: usize,
    /// QEMU waits for us.
    waits: Arc<AtomicBool>,
    is_socket: bool,
    /// Bytes of the stream that have not been taken out of the pipe, once that is known.
    unread: u64,
}

impl VmmStream {
    /// Reads from `input`; QEMU listens at `reply`, if it does.
    ///
    /// # Errors
    /// Where the keeper cannot be told.
    pub fn new(
        input: OwnedFd,
        reply: Option<OwnedFd>,
        keeper: Option<Arc<Keeper>>,
    ) -> io::Result<Self> {
        if let Some(Keeper(link)) = keeper.as_deref() {
            link.send(&[word::INPUT], Some(input.as_fd()))?;
            if let Some(reply) = &reply {
                link.send(&[word::REPLY], Some(reply.as_fd()))?;
            }
        }
        let input = File::from(input);
        let kind = input.metadata()?.file_type();
        let pipe = if kind.is_fifo() {
            fits_pipe(input.as_fd(), ROOM);
            pipe_room(input.as_fd()).ok()
        } else {
            None
        };
        let reply = reply.map(|reply| Arc::new(Ear::new(File::from(reply))));
        Ok(Self {
            input,
            reply,
            keeper,
            pipe,
            room: ROOM,
            most: WIDE,
            waits: Arc::default(),
            is_socket: kind.is_socket(),
            unread: 0,
        })
    }

    /// QEMU said that it listens. Where that is so it waits for our word, and the pipe may be wide. To
    /// be called after each read.
    pub fn listens(&mut self) {
        let Some(ear) = self.reply.as_ref().filter(|_| self.room < WIDE) else { return };
        ear.try_out();
        // not any more, where the pipe must be small
        if ear.is_heard() && self.room > LEAST && self.most == WIDE {
            self.room = WIDE;
            self.fit();
        }
    }

    /// At least so many bytes come before the end: as long as that is far the pipe may be wide. To be
    /// called after each read.
    pub fn ahead(&mut self, bytes: u64) {
        if self.room < WIDE && self.room > LEAST {
            let fits = |&&room: &&usize| room <= self.most && room as u64 * MARGIN <= bytes;
            self.room = *ROOMS.iter().find(fits).unwrap_or(&ROOM);
            self.fit();
        }
    }

    /// To see whether QEMU is there while the stream is read elsewhere.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn lives(&self) -> io::Result<Lives> {
        // of a file nobody holds the other end, and a pipe whose writer is done is no news then
        let watched = self.pipe.is_some() || self.is_socket;
        let input = if watched { Some(self.input.try_clone()?) } else { None };
        let waits = self.waits.clone();
        Ok(Lives { waits, input, reply: self.reply.clone() })
    }

    /// Does QEMU wait for our word, if it says so?
    pub const fn is_heard(&self) -> bool {
        self.reply.is_some()
    }

    /// Does nothing come for so long?
    pub fn is_quiet(&self, long: Duration) -> bool {
        matches!(wait(self.input.as_fd(), Want::Read, Some(long)), Ok(false))
    }

    /// All memory has come: from now on the pipe is made smaller after each read, until it is as small
    /// as it can be.
    pub fn narrow(&mut self) {
        if self.room < WIDE {
            self.room = LEAST;
            self.fit();
        }
    }

    /// Just after a read, which has emptied the pipe: the writer needs longer to wake than this takes.
    /// One that is not empty can be made as small as what is in it.
    fn fit(&mut self) {
        let Some(pipe) = self.pipe.filter(|pipe| *pipe != self.room) else { return };
        if pipe < self.room && !fits_pipe(self.input.as_fd(), self.room) {
            // a user may have no more (fs.pipe-max-size, fs.pipe-user-pages-soft)
            self.most = self.room - 1;
            self.room = pipe.max(ROOM);
            return;
        }
        let least = [LEAST, 2 * LEAST];
        let sizes = if self.room == LEAST { &least[..] } else { std::slice::from_ref(&self.room) };
        let fits = |size: &&usize| **size != pipe && fits_pipe(self.input.as_fd(), **size);
        self.pipe = Some(sizes.iter().find(fits).copied().unwrap_or(pipe));
    }

    /// Whose is the verdict, when so many bytes have not been taken out of the pipe yet? `returns`:
    /// QEMU said that it listens.
    pub fn verdict(&mut self, returns: bool, unread: Option<u64>) -> Verdict {
        self.unread = unread.unwrap_or(0);
        if let Some(Keeper(link)) = self.keeper.as_deref() {
            let count = self.unread.to_le_bytes();
            // a keeper that is gone cannot be asked to keep anything either, and that is seen
            let _ = link.send(&[&[word::UNREAD][..], &count].concat(), None);
        }
        if let Some(ear) = self.reply.as_ref().filter(|ear| returns && !ear.is_heard()) {
            // a short stream: it may not have had the time
            ear.try_out();
            ear.heard.store(ear.takes(), Ordering::Relaxed);
        }
        let told = self.reply.as_ref().is_some_and(|ear| ear.is_heard());
        let whose = match (self.pipe, unread) {
            _ if returns && told => Verdict::Told,
            (None, _) if self.is_socket => Verdict::Blind(Blind::Socket),
            (None, _) => Verdict::Blind(Blind::File),
            (Some(room), Some(unread)) if unread > room as u64 => Verdict::Held,
            (Some(room), _) if room > LEAST => Verdict::Blind(Blind::Wide),
            (Some(_), _) => Verdict::Blind(Blind::Short),
        };
        self.waits.store(!matches!(whose, Verdict::Blind(_)), Ordering::Relaxed);
        whose
    }

    /// The move went well, or may have: QEMU is to say `completed` and leave the guest paused.
    ///
    /// # Errors
    /// Where QEMU is gone.
    pub fn complete(mut self, verdict: Verdict) -> io::Result<()> {
        // whoever said that it listens gets the word, so that nobody waits for ever
        let asked = |ear: &&Arc<Ear>| verdict == Verdict::Told || ear.asked.load(Ordering::Relaxed);
        let reply = self.reply.as_ref().filter(asked);
        end(&mut self.input, reply.map(|ear| &ear.reply), self.unread)?;
        self.keeper.as_ref().map_or(Ok(()), |keeper| keeper.keep(false))
    }

    /// The move failed: QEMU sees us end, says `failed` and lets the guest go on.
    pub fn fail(self) {
        let _ = self.keeper.as_ref().map(|keeper| keeper.keep(false));
    }
}

impl Read for VmmStream {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        // What is taken out is not waited for, so little of it where the end may be near. But all that
        // the pipe holds: one that is always full could not be made smaller.
        let most = self.pipe.map_or(to.len(), |pipe| to.len().min(pipe.max(ROOM)));
        loop {
            match self.input.read(&mut to[..most]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => {
                    self.fit();
                    return done;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::pipe;

    #[test]
    fn a_writer_waits_while_more_is_unread_than_the_pipe_holds() {
        let (from, mut to) = pipe().unwrap();
        let mut stream = VmmStream::new(from.into(), None, None).unwrap();
        assert_eq!(stream.pipe, Some(ROOM));
        to.write_all(&[1; 100]).unwrap();
        stream.narrow();
        stream.read_exact(&mut [0; 100]).unwrap();
        assert_eq!(stream.verdict(false, Some(50_000)), Verdict::Held);
        assert_eq!(stream.verdict(false, Some(4096)), Verdict::Blind(Blind::Short));
        assert_eq!(stream.verdict(false, None), Verdict::Blind(Blind::Short));
        let writing = std::thread::spawn(move || to.write_all(&[2; 50_000]));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!writing.is_finished());
        stream.complete(Verdict::Held).unwrap();
        writing.join().unwrap().unwrap();
    }

    #[test]
    fn a_pipe_is_wide_while_the_end_is_far() {
        let (from, mut to) = pipe().unwrap();
        let never_waits = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
        nix::fcntl::fcntl(&to, never_waits).unwrap();
        let mut stream = VmmStream::new(from.into(), None, None).unwrap();
        let mut buffer = vec![0; WIDE];
        for (bytes, room) in
            [(1 << 20, 256 << 10), ((1 << 20) - 1, 64 << 10), (9, ROOM), (1 << 30, 256 << 10)]
        {
            // behind a link that is slower than QEMU the pipe is full whenever it is looked at
            while to.write(&[1; LEAST]).is_ok() {}
            stream.ahead(bytes);
            let _ = stream.read(&mut buffer).unwrap();
            assert_eq!(stream.pipe, Some(room), "{bytes} bytes are to come");
        }
        while to.write(&[1; LEAST]).is_ok() {}
        stream.narrow();
        let _ = stream.read(&mut buffer).unwrap();
        stream.ahead(1 << 30);
        assert_eq!(stream.pipe, Some(LEAST), "memory has come to its end");
    }

    #[test]
    fn a_pipe_that_may_not_be_wide_is_asked_once() {
        let (from, _to) = pipe().unwrap();
        let mut stream = VmmStream::new(from.into(), None, None).unwrap();
        stream.most = (256 << 10) - 1; // as if that had been refused
        stream.ahead(1 << 30);
        assert_eq!(stream.pipe, Some(64 << 10));
    }

    #[test]
    fn a_full_pipe_stays_wide_until_it_is_read() {
        let (from, mut to) = pipe().unwrap();
        let mut stream = VmmStream::new(from.into(), None, None).unwrap();
        to.write_all(&[1; 16_000]).unwrap();
        stream.narrow();
        assert_eq!(stream.verdict(false, Some(1 << 20)), Verdict::Held);
        assert_eq!(stream.verdict(false, Some(1 << 13)), Verdict::Blind(Blind::Wide));
        stream.read_exact(&mut [0; 100]).unwrap(); // 15,900 bytes are left: four pages
        assert_eq!(stream.pipe, Some(ROOM));
        stream.read_exact(&mut [0; 8_092]).unwrap(); // 7,808: two pages
        assert_eq!(stream.pipe, Some(2 * LEAST));
        stream.read_exact(&mut [0; 7_808]).unwrap();
        assert_eq!(stream.verdict(false, Some(1 << 13)), Verdict::Held);
    }

    /// A QEMU that listens: takes words as they come and says what they were.
    fn listening(mut heard: io::PipeReader) -> std::thread::JoinHandle<Vec<[u8; 8]>> {
        std::thread::spawn(move || {
            let (mut words, mut word) = (Vec::new(), [0; 8]);
            while heard.read_exact(&mut word).is_ok() {
                words.push(word);
                if word == shut(false) {
                    break;
                }
            }
            words
        })
    }

    #[test]
    fn who_listens_is_told_when_it_has_written_everything() {
        let (from, mut to) = pipe().unwrap();
        let (heard, reply) = pipe().unwrap();
        let mut stream = VmmStream::new(from.into(), Some(reply.into()), None).unwrap();
        let listening = listening(heard);
        stream.listens();
        assert_eq!(stream.verdict(true, Some(100_000)), Verdict::Told);
        assert!(stream.lives().unwrap().is_there());
        let completing = std::thread::spawn(move || stream.complete(Verdict::Told));
        to.write_all(&[1; 99_999]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(!listening.is_finished(), "the word must not have come yet");
        to.write_all(&[1]).unwrap();
        assert_eq!(listening.join().unwrap(), [PONG, PONG, PONG, shut(false)]);
        drop(to);
        completing.join().unwrap().unwrap();
    }

    #[test]
    fn who_only_says_that_it_listens_is_held() {
        let (from, _to) = pipe().unwrap();
        let (_heard, reply) = pipe().unwrap();
        let mut stream = VmmStream::new(from.into(), Some(reply.into()), None).unwrap();
        stream.listens();
        stream.listens();
        assert_eq!(stream.pipe, Some(ROOM), "the pipe stays small");
        assert_eq!(stream.verdict(true, Some(50_000)), Verdict::Held);
        assert!(stream.lives().unwrap().is_there(), "it never listened");
    }

    #[test]
    fn who_takes_one_word_more_and_no_other_listens_no_longer() {
        for closes in [false, true] {
            let (from, _to) = pipe().unwrap();
            let (mut heard, reply) = pipe().unwrap();
            let mut stream = VmmStream::new(from.into(), Some(reply.into()), None).unwrap();
            let taking = std::thread::spawn(move || {
                heard.read_exact(&mut [0; 16]).unwrap();
                (!closes).then_some(heard)
            });
            assert_eq!(stream.verdict(true, None), Verdict::Told);
            assert!(!stream.lives().unwrap().is_there());
            drop(taking.join().unwrap());
        }
    }

    #[test]
    fn who_listens_hears_nothing_where_the_move_failed() {
        let (from, _to) = pipe().unwrap();
        let (mut heard, reply) = pipe().unwrap();
        VmmStream::new(from.into(), Some(reply.into()), None).unwrap().fail();
        assert_eq!(heard.read(&mut [0; 8]).unwrap(), 0);
    }
}
