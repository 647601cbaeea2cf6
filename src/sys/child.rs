//! A child gets its standard streams and no other descriptor of ours, whoever opened them.

use nix::sys::resource::{Resource, getrlimit};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Most descriptors that are marked one by one where the kernel cannot mark them all at once.
const MOST: libc::c_int = 1 << 16;

/// Has `command` inherit descriptors 0, 1 and 2 alone: also those that we were started with
/// ourselves, and that nobody marked as ours alone, are not passed on.
pub fn inherit_only_standard(command: &mut Command) {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    let most = libc::c_int::try_from(limit).unwrap_or(MOST).min(MOST);
    // SAFETY: between fork and exec the closure makes system calls alone: it takes no lock and
    // allocates nothing, and of ours it touches only the integer that it owns.
    unsafe { command.pre_exec(move || mark_all(most)) };
}

/// Marks every descriptor from 3 on to be closed by exec. Closing them at once would also close the
/// one through which the standard library learns that exec failed.
fn mark_all(most: libc::c_int) -> io::Result<()> {
    // SAFETY: three integers; only flags of descriptors change (Linux 5.11).
    let done = unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if done == 0 {
        return Ok(());
    }
    for fd in 3..most {
        // SAFETY: integers; a number that is not open is an error that changes nothing.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}
