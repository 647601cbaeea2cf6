//! Who reads a pipe.

use nix::sys::stat::{SFlag, fstat};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// Is every process that can read this pipe one that runs the program `name`, and is there one?
///
/// It looks through the descriptors of all processes, which root alone can do; for anybody else the
/// answer is no. A process that gets the reading end later is not seen: the answer is for a pipe of
/// a pipeline, whose ends the shell has given out and closed.
pub fn all_run(pipe: &impl AsFd, name: &str) -> bool {
    if !nix::unistd::geteuid().is_root() {
        return false;
    }
    let runs = |pid: &i32| {
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        program.file_name().is_some_and(|program| program == name)
    };
    let found = of(pipe);
    !found.is_empty() && found.iter().all(runs)
}

/// The processes that have an end of this pipe from which they can read it, as far as this process
/// may see them.
pub fn of(pipe: &impl AsFd) -> Vec<i32> {
    let Ok(meta) = fstat(pipe) else { return Vec::new() };
    if SFlag::from_bits_truncate(meta.st_mode) & SFlag::S_IFMT != SFlag::S_IFIFO {
        return Vec::new();
    }
    // `pipe:[INODE]`, or the path of a FIFO
    let own = format!("/proc/self/fd/{}", pipe.as_fd().as_raw_fd());
    let Ok(wanted) = fs::read_link(own) else { return Vec::new() };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter(|pid| reads(&Path::new("/proc").join(pid.to_string()), &wanted)).collect()
}

/// Has the process a descriptor that reads it?
fn reads(process: &Path, pipe: &Path) -> bool {
    let all = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    all.filter(|entry| fs::read_link(entry.path()).is_ok_and(|to| to == pipe)).any(|entry| {
        let info = fs::read_to_string(process.join("fdinfo").join(entry.file_name()));
        let info = info.unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        // a descriptor that closed meanwhile counts as a reader: it is the careful answer
        flags.is_none_or(|flags| flags & libc::O_ACCMODE != libc::O_WRONLY)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_readers_of_a_pipe_are_known_by_their_program() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let mut cat =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pipe = cat.stdin.take().unwrap();
        while !all_run(&pipe, "cat") {
            std::thread::yield_now(); // until it has become cat
        }
        assert!(!all_run(&pipe, "mig-recv"));
        assert!(!all_run(&fs::File::open("/dev/null").unwrap(), "cat"));
        drop(pipe);
        cat.wait().unwrap();
    }
}
