//! What a program that we start gets of us: three descriptors, and no more.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has the program that `command` starts inherit descriptors 0 to 2 alone, and SIGPIPE and
/// SIGXFSZ in their default state.
///
/// Our own descriptors are all closed on exec. Those that our parent left open to us are not, and a
/// filter would keep a pipe, a socket or a guest's memory open that it never heard of.
///
/// # Errors
/// Where the descriptors cannot be listed.
pub fn three_descriptors(command: &mut Command) -> io::Result<&mut Command> {
    let open = std::fs::read_dir("/proc/self/fd")?.flatten();
    let numbers = open.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let last = numbers.max().unwrap_or(2);
    let prepare = move || {
        // SAFETY: a signal number and a constant; async-signal-safe, as is all here, since it runs
        // between fork and exec.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_DFL) };
        let flags = libc::CLOSE_RANGE_CLOEXEC;
        // SAFETY: integers only. Marks descriptors and closes none, so that the one by which the
        // standard library tells of a failed exec still works.
        if unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flags) } == 0 {
            return Ok(());
        }
        // before Linux 5.11
        for fd in 3..=last {
            // SAFETY: integers only; a number that is not open is an error that says so.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
        Ok(())
    };
    // SAFETY: the closure calls `signal`, `close_range` and `fcntl` alone, takes no lock and
    // allocates nothing, which is what may be done in the child of a process with threads.
    Ok(unsafe { command.pre_exec(prepare) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    #[test]
    fn a_descriptor_that_was_left_open_is_not_inherited() {
        let file = File::open("/dev/null").unwrap();
        // SAFETY: integers only.
        let copy = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, 700) };
        assert!(copy >= 700);
        // SAFETY: just made, without close-on-exec, and owned by nobody else.
        let _left_open = unsafe { OwnedFd::from_raw_fd(copy) };
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo $(ls /proc/self/fd); grep SigIgn /proc/$$/status"]);
        let out = three_descriptors(&mut command).unwrap().output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let (fds, ignored) = text.split_once('\n').unwrap();
        assert_eq!(fds, "0 1 2 3", "the last is the folder that `ls` reads");
        let mask = u64::from_str_radix(ignored.trim_start_matches("SigIgn:").trim(), 16).unwrap();
        assert_eq!(mask & 1 << (libc::SIGPIPE - 1), 0, "SIGPIPE is ignored");
    }
}
