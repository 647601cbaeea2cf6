//! What `/proc/PID/maps` and `/proc/PID/smaps` say of one mapping.
//!
//! Source: `fs/proc/task_mmu.c` (`show_map_vma`, `show_smap_vma_flags`).

use crate::base::PageRange;

/// A mapping of a process's address space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vma {
    /// Its pages, numbered from address 0.
    pub pages: PageRange,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// Holds code that may run.
    pub exec: bool,
    /// Mapped `MAP_SHARED`: writes reach the file and all who map it.
    pub shared: bool,
    /// Offset in the file, in pages.
    pub file_page: u64,
    /// Device and inode of the file; `None` for anonymous memory.
    pub file: Option<FileId>,
    /// The name shown: a path, `[heap]`, `anon`, `[anon:NAME]`.
    pub name: String,
    /// Flags that only smaps tells; `None` where only maps was read.
    pub flags: Option<VmaFlags>,
}

/// Which file: equal for every mapping of the same one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FileId {
    /// Major and minor number of the device, as `(major << 32) | minor`.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// The `VmFlags` that matter for sharing.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VmaFlags {
    /// `mg`: KSM may merge here (`MADV_MERGEABLE`, `PR_SET_MEMORY_MERGE`).
    pub mergeable: bool,
    /// `hg`: huge pages are asked for.
    pub hugepage: bool,
    /// `ht`: hugetlb.
    pub hugetlb: bool,
    /// `dc`: not copied by a fork, which QEMU asks for its guest RAM.
    pub dont_fork: bool,
    /// `dd`: not in core dumps.
    pub dont_dump: bool,
    /// `de`: cannot grow by `mremap`.
    pub dont_expand: bool,
    /// `um`: pages that are not there come by userfaultfd when they are touched.
    pub by_userfault: bool,
    /// `nr`: no swap reserved.
    pub no_reserve: bool,
    /// `ac`: counted against the commit limit.
    pub accountable: bool,
    /// `io` or `pf`: device memory, without pages of its own.
    pub device: bool,
    /// KiB that the kernel counts as mapped huge here (`AnonHugePages`, `ShmemPmdMapped`,
    /// `FilePmdMapped`, hugetlb).
    pub huge_kib: u64,
}

/// The name of a mapping without a name.
pub const ANON_NAME: &str = "anon";

impl Vma {
    /// A memfd, a file in tmpfs or in hugetlbfs, or System V shared memory by its name: memory that
    /// no disk backs. `/dev/shm` and `/run` are where tmpfs is by convention; the file system itself
    /// is asked where it matters.
    pub fn is_memfd(&self) -> bool {
        self.name.starts_with("/memfd:") || self.name.starts_with("/SYSV") || self.is_shared_anon()
    }

    /// Anonymous memory mapped shared (`MAP_SHARED | MAP_ANONYMOUS`).
    pub fn is_shared_anon(&self) -> bool {
        self.name.starts_with("/dev/zero") || self.name.starts_with("[anon_shmem")
    }

    /// Page of the file that stands behind page `page` of the address space.
    pub fn page_in_file(&self, page: u64) -> u64 {
        self.file_page + (page - self.pages.start)
    }
}

/// A program chooses the name of a memfd and its own: nothing in it may steer a terminal.
pub fn printable(name: &str) -> String {
    let escape = |c: char| match c.is_control() {
        true => format!("\\{:03o}", u32::from(c)), // as the kernel writes a line end in maps
        false => c.to_string(),
    };
    name.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_steer_a_terminal() {
        assert_eq!(printable("/memfd:a\x1b[31m\tb"), "/memfd:a\\033[31m\\011b");
        assert_eq!(printable("/usr/lib/ä.so"), "/usr/lib/ä.so");
    }
}
