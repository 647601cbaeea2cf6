//! The freezer of control groups: version 2 (`cgroup.freeze`, Linux 5.2) and version 1
//! (`freezer.state`). It stops all processes of a group and of those below it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A control group with a freezer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Freezer {
    folder: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    One,
    Two,
}

impl Freezer {
    /// The groups in which process `pid` is and which have a freezer, version 2 first: there a
    /// frozen process can still be killed, and freezing takes less time.
    ///
    /// # Errors
    /// Where `/proc` cannot be read.
    pub fn of(pid: i32) -> io::Result<Vec<Self>> {
        let groups = fs::read(format!("/proc/{pid}/cgroup"))?;
        let mounts = fs::read("/proc/self/mountinfo")?;
        let folders = folders(&String::from_utf8_lossy(&groups), &String::from_utf8_lossy(&mounts));
        Ok(folders.iter().filter_map(|folder| Self::at(folder)).collect())
    }

    /// The group whose folder is `folder`, if it has a freezer. The first group of a hierarchy has
    /// none.
    pub fn at(folder: &Path) -> Option<Self> {
        let has = |file: &str| folder.join(file).exists();
        let version = match () {
            () if has("cgroup.freeze") => Version::Two,
            () if has("freezer.state") => Version::One,
            () => return None,
        };
        Some(Self { folder: folder.to_owned(), version })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Is `pid`, with all its threads, in it, and nobody else in it or below it?
    ///
    /// # Errors
    /// Where that cannot be read, as in groups of single threads.
    pub fn holds_only(&self, pid: i32) -> io::Result<bool> {
        let own = fs::read(format!("/proc/{pid}/cgroup"))?;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            match fs::read(task?.path().join("cgroup")) {
                Ok(groups) if groups == own => {}
                Ok(_) => return Ok(false),
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {}
                Err(e) => return Err(e),
            }
        }
        let mut here = Vec::new();
        members(&self.folder, &mut here)?;
        Ok(here == [pid])
    }

    /// Has somebody asked that this very group be frozen?
    ///
    /// # Errors
    /// Where that cannot be read.
    pub fn is_asked(&self) -> io::Result<bool> {
        let file = match self.version {
            Version::Two => "cgroup.freeze",
            Version::One => "freezer.self_freezing",
        };
        Ok(fs::read_to_string(self.folder.join(file))?.trim() == "1")
    }

    /// Do all in it stand still?
    ///
    /// # Errors
    /// Where that cannot be read.
    pub fn is_frozen(&self) -> io::Result<bool> {
        let read = |file: &str| fs::read_to_string(self.folder.join(file));
        Ok(match self.version {
            Version::Two => read("cgroup.events")?.lines().any(|line| line == "frozen 1"),
            Version::One => read("freezer.state")?.trim() == "FROZEN",
        })
    }

    /// Asks that all in it be stopped. Acts on other processes; [`Self::is_frozen`] tells when it
    /// is done.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn freeze(&self) -> io::Result<()> {
        self.set("1", "FROZEN")
    }

    /// Lets them run on.
    ///
    /// # Errors
    /// Where it cannot be written; `NotFound` where the group is gone.
    pub fn thaw(&self) -> io::Result<()> {
        self.set("0", "THAWED")
    }

    /// How it is thawed from a shell.
    pub fn thawed_by_hand(&self) -> String {
        let (word, file) = self.words("0", "THAWED");
        format!("echo {word} > {}", self.folder.join(file).display())
    }

    fn words<'a>(&self, two: &'a str, one: &'a str) -> (&'a str, &'static str) {
        match self.version {
            Version::Two => (two, "cgroup.freeze"),
            Version::One => (one, "freezer.state"),
        }
    }

    fn set(&self, two: &str, one: &str) -> io::Result<()> {
        let (word, file) = self.words(two, one);
        fs::write(self.folder.join(file), word)
    }
}

/// The processes of a group and of all below it. Stops at the second: more is as bad as two.
fn members(folder: &Path, found: &mut Vec<i32>) -> io::Result<()> {
    let text = fs::read_to_string(folder.join("cgroup.procs"))?;
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if found.len() > 1 {
            break;
        }
        if entry.file_type()?.is_dir() {
            members(&entry.path(), found)?;
        }
    }
    Ok(())
}

/// The folders of a process's groups of version 2 and of version 1's freezer, by `/proc/PID/cgroup`
/// and `/proc/self/mountinfo`.
fn folders(groups: &str, mounts: &str) -> Vec<PathBuf> {
    let group = |wanted: &dyn Fn(&str, &str) -> bool| {
        groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            wanted(number, controllers).then_some(path)
        })
    };
    let is_freezer = |list: &str| list.split(',').any(|one| one == "freezer");
    let two = group(&|number, controllers| number == "0" && controllers.is_empty());
    let one = group(&|_, controllers| is_freezer(controllers));
    let mut found: [Vec<PathBuf>; 2] = Default::default();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ').skip(3);
        let (Some(root), Some(at)) = (left.next(), left.next()) else { continue };
        let mut right = right.split(' ');
        let kind = right.next().unwrap_or_default();
        let (which, path) = match kind {
            "cgroup2" => (0, two),
            "cgroup" if right.next_back().is_some_and(is_freezer) => (1, one),
            _ => continue,
        };
        // what is above our root of groups shows as /..: it is not below this mount
        let below = path.and_then(|path| {
            let rest = Path::new(path).strip_prefix(unescape(root)).ok()?;
            (!path.contains("/..")).then(|| rest.to_owned())
        });
        found[which].extend(below.map(|rest| Path::new(&unescape(at)).join(rest)));
    }
    found.concat()
}

/// A path as mountinfo writes it: `\040` is a space.
fn unescape(text: &str) -> String {
    let mut out = text.to_owned();
    for (code, sign) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        out = out.replace(code, sign);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime shared:3 - cgroup2 cgroup2 rw
";

    #[test]
    fn the_folder_of_a_group_is_found_in_both_versions() {
        let paths = |groups: &str, mounts: &str| {
            let all = folders(groups, mounts);
            all.iter().map(|p| p.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            paths("6:freezer:/a\n3:cpuset:/b\n0::/c d\n", HYBRID),
            ["/sys/fs/cgroup/uni fied/c d", "/sys/fs/cgroup/freezer/a"]
        );
        assert_eq!(paths("3:cpuset:/b\n", HYBRID), [""; 0]);
        assert_eq!(paths("0::/../x\n", HYBRID), [""; 0], "above our own root of groups");
        let bound = "50 1 0:38 /pod/x /cg rw - cgroup2 cgroup2 rw\n";
        assert_eq!(paths("0::/pod/x/vm\n", bound), ["/cg/vm"]);
        assert_eq!(paths("0::/pod/y\n", bound), [""; 0]);
    }

    #[test]
    fn our_own_groups_can_be_asked_for() {
        let pid = i32::try_from(std::process::id()).unwrap();
        for freezer in Freezer::of(pid).unwrap() {
            assert!(!freezer.is_frozen().unwrap(), "we run");
            assert!(freezer.folder().is_dir());
        }
        assert_eq!(Freezer::at(Path::new("/proc")), None);
    }
}
