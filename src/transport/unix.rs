//! `unix:PATH`: a socket in the file system, open to its owner alone.

use super::plain::Plain;
use super::{Channel, Options, TransportError};
use crate::base::address::Address;
use crate::sys::guard::{self, Link};
use crate::sys::socket::listen_unix;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process;
use std::thread::sleep;
use std::time::{Duration, Instant};

fn address(path: &Path) -> String {
    Address::Unix(path.into()).to_string()
}

/// Connects to the listener at `path`.
pub(super) fn connect(path: &Path, options: &Options) -> Result<Channel, TransportError> {
    let what = address(path);
    let stream = UnixStream::connect(path);
    let stream = stream.map_err(|source| TransportError::Io {
        what: what.clone(),
        doing: "connect",
        source,
    })?;
    Plain::new(stream, &what, options).map(Channel::of_socket)
}

/// How long the sweeper may take to remove a file.
const SWEEP: Duration = Duration::from_secs(1);

/// How long the sweeper waits until a process that is being killed has closed its listener.
const LAST_BREATH: Duration = Duration::from_millis(500);

/// A listener that takes its socket away when it ends, however it ends.
///
/// It may have no right to do so by then: a receiver gives up the folder of its socket, and its user
/// too, before it reads a byte. Killed it could not in any case. So a process is started beside it
/// that has the right and waits for its end ([`guard`]); where there are several threads already it
/// cannot be, and the socket of a listener that is killed stays until the next one replaces it.
#[derive(Debug)]
pub(super) struct Bound {
    listener: UnixListener,
    socket: Socket,
    sweeper: Option<Link>,
}

/// A socket in the file system.
#[derive(Clone, Debug)]
struct Socket {
    path: PathBuf,
    /// Device and inode, so that another listener's socket is not taken away.
    mine: Option<(u64, u64)>,
}

impl Socket {
    fn new(path: &Path) -> Self {
        let mine = fs::symlink_metadata(path).map(|kind| (kind.dev(), kind.ino()));
        // the sweeper leaves our folder
        let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
        Self { path, mine: mine.ok() }
    }

    /// Starts who takes the socket at `path` away when it is told to, or hears no more.
    fn sweeper(path: &Path) -> Option<Link> {
        let path = std::path::absolute(path).ok()?;
        let sweeper = guard::start("pageherd-sweep", move |link| {
            let told = matches!(link.receive(None), Ok(Some(_)));
            // A socket on which nobody listens is ours, or is in everybody's way. Of one who is
            // killed the link can close a moment before the listener.
            let end = Instant::now() + LAST_BREATH;
            while !told && !is_dead(&path).unwrap_or(false) && Instant::now() < end {
                sleep(Duration::from_millis(5));
            }
            let kind = fs::symlink_metadata(&path).map(|kind| kind.file_type());
            if kind.is_ok_and(|kind| kind.is_socket()) && (told || is_dead(&path).unwrap_or(false))
            {
                let _ = fs::remove_file(&path);
            }
            let _ = link.send(b"done", None);
        });
        sweeper.ok()
    }

    /// Takes it away; is it gone, or another's?
    fn remove(&self) -> bool {
        // our socket keeps its inode, so that the number cannot mean another file yet
        let now = fs::symlink_metadata(&self.path).map(|kind| (kind.dev(), kind.ino()));
        self.mine.is_none() || self.mine != now.ok() || fs::remove_file(&self.path).is_ok()
    }
}

impl Bound {
    /// Listens at `path`, where nothing may be but a socket whose listener is gone.
    pub(super) fn new(path: &Path) -> Result<Self, TransportError> {
        let what = address(path);
        // first, so that there is no moment at which a socket would stay
        let sweeper = Socket::sweeper(path);
        let listen = |path| listen_unix(path, 0o600);
        let listener = match listen(path) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                clear(path, &what)?;
                listen(path)
            }
            other => other,
        };
        let listener = listener.map_err(|e| TransportError::of(&what, "listen there", e))?;
        Ok(Self { listener, socket: Socket::new(path), sweeper })
    }

    /// Waits for the next connection.
    pub(super) fn accept(&self, options: &Options) -> Result<Channel, TransportError> {
        let what = address(&self.socket.path);
        let accepted = self.listener.accept();
        let (stream, _) =
            accepted.map_err(|e| TransportError::of(&what, "take a connection", e))?;
        Plain::new(stream, &what, options).map(Channel::of_socket)
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if self.socket.remove() {
            return;
        }
        if let Some(sweeper) = &self.sweeper {
            let _ = sweeper.send(b"end", None).and_then(|()| sweeper.receive(Some(SWEEP)));
        }
    }
}

/// Takes a socket away that nobody listens on.
fn clear(path: &Path, what: &str) -> Result<(), TransportError> {
    let refused = |why: &str| TransportError::Refused { what: what.into(), why: why.into() };
    let cannot = |e| TransportError::of(what, "replace what is there", e);
    let live = "another process listens there: end it, or use another path";
    match fs::symlink_metadata(path) {
        Ok(kind) if kind.file_type().is_socket() => {}
        Ok(_) => return Err(refused("there is a file that is no socket: remove it yourself")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot(error)),
    }
    if !is_dead(path).map_err(cannot)? {
        return Err(refused(live));
    }
    // Another process may do the same at this moment and have bound its own by now: what is moved
    // away is looked at once more, and put back if it lives.
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", process::id()));
    let aside = PathBuf::from(name);
    match fs::rename(path, &aside) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(cannot)?,
    }
    let dead = is_dead(&aside).map_err(cannot)?;
    if !dead {
        fs::hard_link(&aside, path).map_err(cannot)?;
    }
    fs::remove_file(&aside).map_err(cannot)?;
    if dead { Ok(()) } else { Err(refused(live)) }
}

/// Does no process have the socket at `path` any more? A socket for messages cannot be connected to
/// one for streams: the kernel says `EPROTOTYPE` where that one lives, and the listener sees no
/// connection that is none (net/unix/af_unix.c, unix_find_bsd).
fn is_dead(path: &Path) -> io::Result<bool> {
    match UnixDatagram::unbound()?.connect(path) {
        Ok(()) => Ok(false),
        Err(e) if e.raw_os_error() == Some(libc::EPROTOTYPE) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn two_ends_talk_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let bound = Bound::new(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut ours = connect(&path, &Options::default()).unwrap();
        let mut theirs = bound.accept(&Options::default()).unwrap();
        assert!(ours.two_way && !ours.answered());
        theirs.output.as_mut().unwrap().write_all(b"hello").unwrap();
        assert!(ours.answered());
        let finish = std::thread::spawn(|| theirs.finish());
        let mut text = String::new();
        ours.input.as_mut().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        ours.finish().unwrap();
        finish.join().unwrap().unwrap();
        drop(bound);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_live_listener_is_left_alone_and_not_disturbed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let bound = Bound::new(&path).unwrap();
        let error = Bound::new(&path).unwrap_err();
        assert!(error.to_string().contains("another process listens"), "{error}");
        bound.listener.set_nonblocking(true).unwrap();
        let error = bound.listener.accept().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "no connection came of asking");
        drop(UnixDatagram::bind(folder.path().join("d")).unwrap());
        let _datagram = UnixDatagram::bind(folder.path().join("e")).unwrap();
        assert!(is_dead(&folder.path().join("d")).unwrap());
        assert!(Bound::new(&folder.path().join("e")).is_err());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_file_never() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap()); // leaves its file
        let bound = Bound::new(&path).unwrap();
        connect(&path, &Options::default()).unwrap();
        drop(bound);
        fs::write(&path, "precious").unwrap();
        let error = Bound::new(&path).unwrap_err();
        assert!(matches!(error, TransportError::Refused { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_to_a_file_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(matches!(Bound::new(&path), Err(TransportError::Refused { .. })));
    }

    #[test]
    fn the_socket_of_another_listener_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let first = Bound::new(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Bound::new(&path).unwrap();
        drop(first);
        connect(&path, &Options::default()).unwrap();
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn who_listens_nowhere_is_named() {
        let error = connect(Path::new("/nonexistent/s"), &Options::default()).unwrap_err();
        assert!(error.to_string().contains("unix:/nonexistent/s: cannot connect"), "{error}");
    }
}
