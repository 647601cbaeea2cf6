//! Sockets: what kind one is, its options, and a Unix listener that is never open to others.

use nix::sys::stat::{Mode, fchmod};
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

/// What a socket is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind {
    /// A stream of bytes, not of messages.
    pub stream: bool,
    /// It takes connections and carries nothing itself.
    pub listens: bool,
}

/// What socket `fd` is; `None` where it is no socket.
pub fn kind(fd: BorrowedFd<'_>) -> io::Result<Option<Kind>> {
    match option(fd, libc::SO_TYPE) {
        Ok(kind) => Ok(Some(Kind {
            stream: kind == libc::SOCK_STREAM,
            listens: option(fd, libc::SO_ACCEPTCONN)? != 0,
        })),
        Err(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Has the kernel ask a silent TCP peer whether it lives: after 30 s, and each 10 s three times
/// more. A host that lost its power says nothing by itself.
pub fn keep_alive(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &1)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, &30)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, &10)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, &3)
}

/// Ends reads and writes of a blocking socket with `EAGAIN` when nothing has moved for `limit`; at
/// least a millisecond, because none at all means for ever to the kernel.
pub fn limit_waiting(fd: BorrowedFd<'_>, limit: Duration) -> io::Result<()> {
    let limit = limit.max(Duration::from_millis(1));
    let time = libc::timeval {
        tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_usec: limit.subsec_micros().into(),
    };
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &time)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &time)
}

/// Says to the peer that nothing more comes; what was written still arrives.
pub fn end_writing(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: two integers; no memory is involved.
    checked(unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) })
}

/// Listens at `path`, which must not exist, with a socket that has the permissions `mode` (less the
/// umask) from the moment that it is there.
///
/// # Errors
/// `EADDRINUSE` where something is at `path`; `InvalidInput` where the path is too long for a
/// socket's address (107 bytes), or has a zero byte.
pub fn listen_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: an address is integers alone, for which zero is a value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    // one byte less than there is: the path ends with a zero
    if bytes.is_empty() || bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        let why = "the path of a socket has 1 to 107 bytes: give a shorter one";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).map_err(io::Error::other)?;
    for (to, &from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from as libc::c_char;
    }
    // SAFETY: integers go in, a descriptor or -1 comes out.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    checked(fd)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // bind() makes the file with the mode of the socket's own inode, less the umask (net/unix/
    // af_unix.c, unix_bind_bsd): set before, there is no moment in which others could connect
    fchmod(&socket, Mode::from_bits_truncate(mode))?;
    let length = offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    let length = libc::socklen_t::try_from(length).map_err(io::Error::other)?;
    // SAFETY: `address` lives through the call and is longer than `length`, as checked above; the
    // kernel only reads it.
    checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    // SAFETY: two integers; no memory is involved.
    checked(unsafe { libc::listen(socket.as_raw_fd(), 16) })?;
    Ok(UnixListener::from(socket))
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An option at the level of sockets that is one integer.
fn option(fd: BorrowedFd<'_>, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let size = size_of::<libc::c_int>();
    let mut length = libc::socklen_t::try_from(size).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of `value`; both live
    // through the call.
    checked(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    })?;
    Ok(value)
}

fn set_option<T>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let value: *const T = value;
    // SAFETY: the kernel reads at most `length` bytes, which is the size of what `value` borrows.
    checked(unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), level, name, value.cast(), length) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    #[test]
    fn what_a_socket_is_can_be_asked() {
        let (a, _b) = UnixStream::pair().unwrap();
        assert_eq!(kind(a.as_fd()).unwrap(), Some(Kind { stream: true, listens: false }));
        let (a, _b) = UnixDatagram::pair().unwrap();
        assert_eq!(kind(a.as_fd()).unwrap(), Some(Kind { stream: false, listens: false }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(kind(listener.as_fd()).unwrap(), Some(Kind { stream: true, listens: true }));
        assert_eq!(kind(io::pipe().unwrap().0.as_fd()).unwrap(), None);
        keep_alive(listener.as_fd()).unwrap();
    }

    #[test]
    fn a_read_from_a_silent_socket_ends() {
        let (mut a, b) = UnixStream::pair().unwrap();
        limit_waiting(a.as_fd(), Duration::ZERO).unwrap();
        assert_eq!(a.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        end_writing(b.as_fd()).unwrap();
        assert_eq!(a.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_unix_socket_has_its_permissions_from_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = listen_unix(&path, 0o600).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        let again = listen_unix(&path, 0o600).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
        for wrong in ["", "a\0b", &"x".repeat(108)] {
            let error = listen_unix(Path::new(wrong), 0o600).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{wrong}");
        }
    }
}
