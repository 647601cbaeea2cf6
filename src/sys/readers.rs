//! Who reads a pipe.

use nix::sys::stat::{SFlag, fstat};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
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
    ends(pipe, libc::O_WRONLY)
}

/// The processes that have an end of this pipe to which they can write, as far as they can be seen.
pub fn writers(pipe: &impl AsFd) -> Vec<i32> {
    let found = ends(pipe, libc::O_RDONLY);
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    found.into_iter().filter(|&pid| pid != own).collect()
}

/// Those with an end of it that is open in another mode than `not`.
fn ends(pipe: &impl AsFd, not: libc::c_int) -> Vec<i32> {
    let Ok(meta) = fstat(pipe) else { return Vec::new() };
    if SFlag::from_bits_truncate(meta.st_mode) & SFlag::S_IFMT != SFlag::S_IFIFO {
        return Vec::new();
    }
    // `pipe:[INODE]`; or a FIFO, which has other names in other mount namespaces
    let own = format!("/proc/self/fd/{}", pipe.as_fd().as_raw_fd());
    let Ok(name) = fs::read_link(own) else { return Vec::new() };
    let is_unnamed = name.to_string_lossy().starts_with("pipe:[");
    let is_it = |entry: &Path| {
        if is_unnamed {
            return fs::read_link(entry).is_ok_and(|to| to == name);
        }
        let found = fs::metadata(entry);
        found.is_ok_and(|found| (found.dev(), found.ino()) == (meta.st_dev, meta.st_ino))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let has = |pid: &i32| has_end(&Path::new("/proc").join(pid.to_string()), &is_it, not);
    numbers.filter(has).collect()
}

/// Has the process such a descriptor?
fn has_end(process: &Path, is_it: &impl Fn(&Path) -> bool, not: libc::c_int) -> bool {
    let all = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    all.filter(|entry| is_it(&entry.path())).any(|entry| {
        let info = fs::read_to_string(process.join("fdinfo").join(entry.file_name()));
        let info = info.unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        // a descriptor that closed meanwhile counts: it is the careful answer
        flags.is_none_or(|flags| flags & libc::O_ACCMODE != not)
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
