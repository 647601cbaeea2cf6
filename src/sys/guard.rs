//! A process that outlives us by a moment: it sees our end, however we end, and does what is left
//! to do. Changes our own process: there are two afterwards.
//!
//! It is made by fork while there is one thread, so that it may run any code; it has a session of
//! its own, takes no signal that can be refused, and holds no descriptor of ours but one end of a
//! [`Link`], whose other end closes when we end. `close-on-exec` keeps that end out of the programs
//! that we start.

use crate::sys::fork::{Forked, fork};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Longest message on a link, in bytes.
pub const MAX_MESSAGE: usize = 16 << 10;

/// One end of the way between us and the guard: messages stay whole and in order, with a descriptor
/// beside each if wanted.
#[derive(Debug)]
pub struct Link(OwnedFd);

/// What came over a link.
#[derive(Debug)]
pub struct Message {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The descriptor that came beside it.
    pub fd: Option<OwnedFd>,
}

impl Link {
    /// Sends a message.
    ///
    /// # Errors
    /// `EPIPE` where the other end is closed; `EMSGSIZE` where it is longer than [`MAX_MESSAGE`].
    pub fn send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        if bytes.len() > MAX_MESSAGE {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        let raw = fd.map(|fd| [fd.as_raw_fd()]);
        let beside: Vec<ControlMessage<'_>> =
            raw.iter().map(|raw| ControlMessage::ScmRights(raw)).collect();
        let parts = [IoSlice::new(bytes)];
        loop {
            match sendmsg::<()>(self.0.as_raw_fd(), &parts, &beside, MsgFlags::MSG_NOSIGNAL, None) {
                Err(Errno::EINTR) => {}
                sent => return sent.map(drop).map_err(io::Error::from),
            }
        }
    }

    /// Waits for a message, for `most` at most where that is given. `None` where the other end is
    /// closed and all that was sent has been read.
    ///
    /// # Errors
    /// `TimedOut`; what the kernel says otherwise.
    pub fn receive(&self, most: Option<Duration>) -> io::Result<Option<Message>> {
        let end = most.map(|most| Instant::now() + most);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let wait = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            });
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, wait) {
                Ok(0) if left.is_some_and(|left| left.is_zero()) => {
                    return Err(io::Error::from(io::ErrorKind::TimedOut));
                }
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(e) => return Err(e.into()),
            }
            match self.receive_now() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // it was killed with a message of ours unread
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                done => return done,
            }
        }
    }

    fn receive_now(&self) -> io::Result<Option<Message>> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut beside = cmsg_space!([libc::c_int; 1]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let got = recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut beside), flags)?;
        let mut fds = Vec::new();
        // more descriptors than there is room for are an error here (MSG_CTRUNC)
        for control in got.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raws) = control {
                // SAFETY: the kernel has just made these descriptors for us, and nobody else has
                // taken them out of this message.
                fds.extend(raws.iter().map(|&raw| unsafe { OwnedFd::from_raw_fd(raw) }));
            }
        }
        let length = got.bytes;
        if length == 0 {
            return Ok(None);
        }
        bytes.truncate(length);
        Ok(Some(Message { bytes, fd: fds.pop() }))
    }
}

/// Starts a guard, which does `run` and ends. Nobody has to wait for it: it is no child of ours.
///
/// # Errors
/// Where this process has more than one thread: see [`fork`].
pub fn start(name: &str, run: impl FnOnce(&Link)) -> io::Result<Link> {
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let (ours, theirs) = (Link(pair.0), Link(pair.1));
    match fork()? {
        Forked::Parent(child) => {
            drop(theirs);
            // ends at once, by its own fork; ECHILD is as good (SIGCHLD may be ignored)
            while waitpid(Pid::from_raw(child), None) == Err(Errno::EINTR) {}
            Ok(ours)
        }
        Forked::Child => {
            let done = catch_unwind(AssertUnwindSafe(|| {
                drop(ours);
                leave_home(name, &theirs).map(|stay| {
                    if stay {
                        run(&theirs);
                    }
                })
            }));
            let code = if matches!(done, Ok(Ok(()))) { 0 } else { 70 };
            // SAFETY: an integer. Ends the process without what would run at an ordinary exit: the
            // buffers of standard output and all else here are the parent's, not ours.
            unsafe { libc::_exit(code) }
        }
    }
}

/// Takes off everything that ties this process to the one that made it; is this the one that stays?
fn leave_home(name: &str, link: &Link) -> io::Result<bool> {
    setsid()?;
    // the second fork gives it to init, so that it is nobody's zombie, and takes the session's
    // leadership from it
    if fork()? != Forked::Child {
        return Ok(false);
    }
    SigSet::all().thread_block()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    drop(null);
    let kept = link.0.as_raw_fd();
    let open = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    for fd in open.collect::<Vec<_>>().into_iter().filter(|&fd| fd > 2 && fd != kept) {
        // SAFETY: an integer. Whatever value of the parent's owned this descriptor is never used
        // nor dropped in this process, which ends by `_exit`; the iterator over the folder is gone.
        unsafe { libc::close(fd) };
    }
    std::env::set_current_dir("/")?;
    // both are wishes: a name for ps, and to be passed over when memory runs out, since whoever is
    // killed then needs it most
    let _ = fs::write("/proc/self/comm", name);
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_many_threads_makes_no_guard() {
        let here = std::thread::spawn(|| start("guard", |_| ()).map(drop));
        let error = here.join().unwrap().unwrap_err();
        assert!(error.to_string().contains("threads"), "{error}");
    }

    #[test]
    fn messages_stay_whole_and_carry_a_descriptor() {
        let flags = SockFlag::SOCK_CLOEXEC;
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let (a, b) = (Link(pair.0), Link(pair.1));
        a.send(b"one", None).unwrap();
        a.send(b"two", Some(b.0.as_fd())).unwrap();
        assert!(a.send(&vec![0; MAX_MESSAGE + 1], None).is_err());
        let one = b.receive(None).unwrap().unwrap();
        assert_eq!((one.bytes.as_slice(), one.fd.is_none()), (&b"one"[..], true));
        let two = b.receive(Some(Duration::from_secs(1))).unwrap().unwrap();
        assert_eq!((two.bytes.as_slice(), two.fd.is_some()), (&b"two"[..], true));
        drop(two);
        let late = b.receive(Some(Duration::from_millis(20))).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        drop(a);
        assert!(b.receive(None).unwrap().is_none());
        assert!(b.send(b"x", None).is_err());
    }
}
