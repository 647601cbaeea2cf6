//! Plain descriptors: taking over one that was inherited, how it is opened, waiting for it, and the
//! room in a pipe.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{dup2_stdin, dup2_stdout};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most slices that one system call takes (`UIO_MAXIOV`).
const MOST_SLICES: usize = 1024;

/// What to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// Something to read, or the end.
    Read,
    /// Room to write, or nobody who reads.
    Write,
}

/// Takes over descriptor `number`, which this process has been started with, and marks it as not
/// to be passed on.
///
/// # Errors
/// `EBADF` where it is not open; `InvalidInput` for 0 to 2, which the standard library has, and for
/// one that this process opened itself or has already taken over.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _held = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let ours = "it is not inherited: this process opened it itself, or has taken it already";
    if number <= 2 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a standard stream"));
    }
    // SAFETY: asks for the flags of a descriptor by number; no memory is involved.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags == -1 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, ours));
    }
    // SAFETY: sets a flag of a descriptor by number; no memory is involved.
    if unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and no value of this process owns it: what the standard
    // library and this crate open has FD_CLOEXEC from the start, and this one did not until now.
    // A second call finds the flag set, and the lock keeps two calls from looking at once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Takes standard input out of its place and puts `/dev/null` there.
pub fn take_stdin() -> io::Result<OwnedFd> {
    let taken = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(File::open("/dev/null")?)?;
    Ok(taken)
}

/// Takes standard output out of its place and puts `/dev/null` there: what is printed later goes
/// nowhere, and who reads the other end sees its end when the value is dropped.
pub fn take_stdout() -> io::Result<OwnedFd> {
    io::stdout().flush()?;
    let taken = io::stdout().as_fd().try_clone_to_owned()?;
    dup2_stdout(OpenOptions::new().write(true).open("/dev/null")?)?;
    Ok(taken)
}

/// How a descriptor was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// It can be read.
    pub read: bool,
    /// It can be written.
    pub write: bool,
    /// Reads and writes return at once, with `EAGAIN` where they cannot be done.
    pub nonblocking: bool,
}

/// How `fd` was opened.
pub fn access(fd: BorrowedFd<'_>) -> io::Result<Access> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    let mode = flags & OFlag::O_ACCMODE;
    Ok(Access {
        read: mode == OFlag::O_RDONLY || mode == OFlag::O_RDWR,
        write: mode == OFlag::O_WRONLY || mode == OFlag::O_RDWR,
        nonblocking: flags.contains(OFlag::O_NONBLOCK),
    })
}

/// Gives the pipe `fd` room for `bytes`, so that a frame of a stream passes with fewer switches
/// between the two processes. Quietly does not where the user may not have so much
/// (`fs.pipe-max-size`), or the pipe has more already.
pub fn widen_pipe(fd: BorrowedFd<'_>, bytes: u32) {
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
    if fcntl(fd, FcntlArg::F_GETPIPE_SZ).is_ok_and(|now| now < bytes) {
        let _ = fcntl(fd, FcntlArg::F_SETPIPE_SZ(bytes));
    }
}

/// Gives a pipe this much room, if what is in it fits; bytes are rounded up to pages. One that does
/// not take it stays as it is. Did it?
pub fn fits_pipe(fd: BorrowedFd<'_>, bytes: usize) -> bool {
    fcntl(fd, FcntlArg::F_SETPIPE_SZ(i32::try_from(bytes).unwrap_or(i32::MAX))).is_ok()
}

/// Bytes that were written to a pipe or a socket and not read yet; of a pipe, either end may be asked.
///
/// # Errors
/// `ENOTTY` where it is neither.
pub fn unread(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let socket = crate::sys::socket::kind(fd).is_ok_and(|kind| kind.is_some());
    let ask = if socket { libc::TIOCOUTQ } else { libc::FIONREAD };
    let mut bytes: libc::c_int = 0;
    // SAFETY: both requests write one int, which is ours.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), ask, &raw mut bytes) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    u64::try_from(bytes).map_err(io::Error::other)
}

/// Has nobody the other end of a pipe or a socket any more?
pub fn broken(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        && fds[0].revents().is_some_and(|events| events.intersects(gone))
}

/// How much a pipe holds.
///
/// # Errors
/// `EBADF` where it is no pipe.
pub fn pipe_room(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let room = fcntl(fd, FcntlArg::F_GETPIPE_SZ)?;
    usize::try_from(room).map_err(io::Error::other)
}

/// Waits until `fd` can be read or written, or has failed, which the next call then tells; at most
/// `limit`. Did it happen in time?
pub fn wait(fd: BorrowedFd<'_>, want: Want, limit: Option<Duration>) -> io::Result<bool> {
    let end = limit.and_then(|limit| Instant::now().checked_add(limit));
    let flags = match want {
        Want::Read => PollFlags::POLLIN,
        Want::Write => PollFlags::POLLOUT,
    };
    loop {
        let timeout = match end {
            None => PollTimeout::NONE,
            Some(end) => {
                // rounded up, so that the last millisecond is slept and not spun
                let left = end.saturating_duration_since(Instant::now());
                let left = left + Duration::from_micros(999);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut [PollFd::new(fd, flags)], timeout) {
            Ok(0) if end.is_none_or(|end| Instant::now() < end) => {}
            Ok(ready) => return Ok(ready > 0),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes what there is room for at once, and never waits, whatever mode the descriptor is in.
///
/// # Errors
/// `EAGAIN` where there is no room; `EOPNOTSUPP` where the kernel cannot do this for `fd` (pipes:
/// before Linux 6.5).
pub fn write_now(fd: BorrowedFd<'_>, from: &[IoSlice<'_>]) -> io::Result<usize> {
    let count = from.len().min(MOST_SLICES);
    let count = libc::c_int::try_from(count).unwrap_or(libc::c_int::MAX);
    // SAFETY: IoSlice has the layout of iovec, as its documentation promises; `from` borrows the
    // slices and what they point to for the whole call, and the kernel only reads them. No more
    // slices are announced than there are.
    let written = unsafe {
        libc::pwritev2(fd.as_raw_fd(), from.as_ptr().cast(), count, -1, libc::RWF_NOWAIT)
    };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::IntoRawFd;

    #[test]
    fn an_inherited_descriptor_is_taken_over_once() {
        let file = File::open("/dev/null").unwrap();
        // without FD_CLOEXEC, as an inherited one
        let number = nix::unistd::dup(&file).unwrap().into_raw_fd();
        let taken = adopt(number).unwrap();
        let flags = fcntl(&taken, FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        assert!(adopt(number).unwrap_err().to_string().contains("taken it already"));
        assert!(adopt(file.as_raw_fd()).is_err(), "opened by this process");
        assert!(adopt(2).unwrap_err().to_string().contains("standard"));
        assert_eq!(adopt(1 << 20).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert!(adopt(-1).is_err());
    }

    #[test]
    fn a_pipe_tells_how_it_is_opened_and_grows() {
        let (read, write) = io::pipe().unwrap();
        assert_eq!(
            access(write.as_fd()).unwrap(),
            Access { read: false, write: true, nonblocking: false }
        );
        widen_pipe(read.as_fd(), 1 << 18);
        assert!(fcntl(&write, FcntlArg::F_GETPIPE_SZ).unwrap() >= 1 << 18);
        widen_pipe(read.as_fd(), u32::MAX); // more than anyone may have: nothing happens
    }

    #[test]
    fn a_full_pipe_is_not_waited_for() {
        let (mut read, write) = io::pipe().unwrap();
        let page = [7; 4096];
        assert!(wait(write.as_fd(), Want::Write, Some(Duration::ZERO)).unwrap());
        assert!(!wait(read.as_fd(), Want::Read, Some(Duration::ZERO)).unwrap());
        let slices = [IoSlice::new(&page), IoSlice::new(&page)];
        let error = loop {
            match write_now(write.as_fd(), &slices) {
                Ok(written) => assert!(written > 0),
                Err(error) => break error,
            }
        };
        if error.raw_os_error() == Some(libc::EAGAIN) {
            assert!(!wait(write.as_fd(), Want::Write, Some(Duration::from_millis(1))).unwrap());
            read.read_exact(&mut [0; 4096]).unwrap();
            assert!(wait(write.as_fd(), Want::Write, None).unwrap());
        } else {
            assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
        }
        drop(read);
        assert!(wait(write.as_fd(), Want::Write, None).unwrap(), "a dead reader ends the wait");
        assert_eq!((&write).write(&page).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
