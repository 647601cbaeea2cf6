//! One process, opened once: everything is read through descriptors that were taken at the start,
//! so that neither a number used again nor an `execve` can put another memory in its place.

use crate::abi::ksm::KsmStat;
use crate::abi::pagemap::Entry;
use crate::abi::vma::{ANON_NAME, FileId, Vma, VmaFlags, printable};
use crate::base::{Hva, PageRange};
use crate::sys::{pagemap, pidfd::PidFd, scan};
use procfs::process::{MMPermissions, MMapPath, MemoryMap, MemoryMaps, StatFlags, VmFlags};
use procfs::{FromBufRead, ProcError};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// A process's memory as it was when this was opened.
#[derive(Debug)]
pub struct Process {
    dir: procfs::process::Process,
    pidfd: PidFd,
    pagemap: File,
    comm: String,
    start_time: u64,
}

/// Why a process cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// No such process, or it ended while it was opened.
    #[error("there is no process {pid}")]
    NoSuch {
        /// Its number.
        pid: i32,
    },
    /// A thread's number.
    #[error("{pid} is a thread of process {process}: name the process, pid:{process}")]
    Thread {
        /// The thread.
        pid: i32,
        /// The process.
        process: i32,
    },
    /// It has ended and waits for its parent.
    #[error("process {pid} ({comm}) is a zombie: it has ended, its memory is gone")]
    Zombie {
        /// Its number.
        pid: i32,
        /// Its name.
        comm: String,
    },
    /// A thread of the kernel has no memory of its own.
    #[error("process {pid} ({comm}) is a kernel thread: it has no memory of its own")]
    Kernel {
        /// Its number.
        pid: i32,
        /// Its name.
        comm: String,
    },
    /// Looking into it is not allowed.
    #[error(
        "process {pid} may not be looked into: reading its {file} needs the capability CAP_SYS_PTRACE, which root has unless a container or a security module took it"
    )]
    NotPermitted {
        /// Its number.
        pid: i32,
        /// The file in `/proc/PID`.
        file: &'static str,
    },
    /// Something else.
    #[error("/proc/{pid}/{file} cannot be read")]
    Io {
        /// Its number.
        pid: i32,
        /// The file in `/proc/PID`.
        file: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// What became of a process while it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It lives, with the memory that was opened.
    Alive,
    /// It has ended.
    Exited,
    /// It lives, but runs another program: the memory that was opened is gone.
    Execed,
}

impl Process {
    /// Takes hold of process `pid` and its memory.
    pub fn open(pid: i32) -> Result<Self, ProcessError> {
        let dir = procfs::process::Process::new(pid).map_err(|e| failed(pid, "", e))?;
        let stat = dir.stat().map_err(|e| failed(pid, "stat", e))?;
        let comm = printable(&stat.comm);
        if matches!(stat.state, 'Z' | 'X') {
            return Err(ProcessError::Zombie { pid, comm });
        }
        if StatFlags::from_bits_truncate(stat.flags).contains(StatFlags::PF_KTHREAD) {
            return Err(ProcessError::Kernel { pid, comm });
        }
        let tgid = dir.status().map_err(|e| failed(pid, "status", e))?.tgid;
        if tgid != pid {
            return Err(ProcessError::Thread { pid, process: tgid });
        }
        let pidfd = PidFd::open(pid).map_err(|source| match source.raw_os_error() {
            Some(libc::ESRCH) => ProcessError::NoSuch { pid },
            _ => ProcessError::Io { pid, file: "", source },
        })?;
        let pagemap = dir.open_relative("pagemap").map_err(|e| failed(pid, "pagemap", e))?;
        // `dir` and `pidfd` were taken one after the other: if `dir` still answers now, both mean
        // the same process, as its number cannot have been used again in between.
        if !dir.is_alive() {
            return Err(ProcessError::NoSuch { pid });
        }
        Ok(Self { dir, pidfd, pagemap, comm, start_time: stat.starttime })
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.dir.pid
    }

    /// Its command name, at most 15 bytes.
    pub fn comm(&self) -> &str {
        &self.comm
    }

    /// File name of the program that it runs; empty where that may not be known.
    pub fn program(&self) -> String {
        let path = self.dir.exe().unwrap_or_default();
        path.file_name().map_or_else(String::new, |name| {
            let name = name.to_string_lossy();
            name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned()
        })
    }

    /// When it started, in clock ticks since boot: with the number, its name for as long as the
    /// host runs.
    pub const fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Its command line.
    pub fn cmdline(&self) -> Vec<String> {
        self.dir.cmdline().unwrap_or_default()
    }

    /// Its mappings, as `/proc/PID/maps` has them; those that user space cannot reach left out.
    pub fn maps(&self) -> Result<Vec<Vma>, ProcessError> {
        self.mappings("maps")
    }

    /// Its mappings with their flags, as `/proc/PID/smaps` has them. As dear as a read of all its
    /// page table.
    pub fn smaps(&self) -> Result<Vec<Vma>, ProcessError> {
        self.mappings("smaps")
    }

    fn mappings(&self, file: &'static str) -> Result<Vec<Vma>, ProcessError> {
        let pid = self.pid();
        let mut text = Vec::new();
        self.dir
            .open_relative(file)
            .map_err(|e| failed(pid, file, e))?
            .read_to_end(&mut text)
            .map_err(|e| io_failed(pid, file, e))?;
        // A path may be any bytes; the crate wants UTF-8.
        let text = String::from_utf8_lossy(&text);
        let maps = MemoryMaps::from_buf_read(text.as_bytes()).map_err(|e| failed(pid, file, e))?;
        let with_flags = file == "smaps";
        Ok(maps.into_iter().filter_map(|map| vma(&map, with_flags)).collect())
    }

    /// Pages that the kernel counts as resident; cheap and approximate.
    pub fn resident_pages(&self) -> u64 {
        self.dir.statm().map_or(0, |statm| statm.resident)
    }

    /// Page faults that it has had, of all its threads; 0 where it has ended.
    pub fn faults(&self) -> u64 {
        self.dir.stat().map_or(0, |stat| stat.minflt + stat.majflt)
    }

    /// What KSM counts for it; `None` before Linux 6.1 or without KSM.
    pub fn ksm_stat(&self) -> Option<KsmStat> {
        let mut text = String::new();
        self.dir.open_relative("ksm_stat").ok()?.read_to_string(&mut text).ok()?;
        KsmStat::parse(&text).ok()
    }

    /// The entries of the pages from `first` on. Fewer than asked for: see [`Self::fate`].
    pub fn entries(&self, first: u64, out: &mut [Entry]) -> io::Result<usize> {
        pagemap::read(&self.pagemap, first, out)
    }

    /// The populated ranges of `range`; needs Linux 6.7.
    pub fn populated(&self, range: PageRange, out: &mut Vec<PageRange>) -> io::Result<()> {
        scan::populated(&self.pagemap, range, out)
    }

    /// Is this page mapped by a huge entry? Needs Linux 6.7.
    pub fn is_huge(&self, page: u64) -> io::Result<bool> {
        scan::is_huge(&self.pagemap, page)
    }

    /// Pages of `range` that are mapped huge; needs Linux 6.7.
    pub fn huge_pages(&self, range: PageRange) -> io::Result<u64> {
        scan::huge_pages(&self.pagemap, range)
    }

    /// Its memory, to be read: the descriptor stays with the memory that it was opened for.
    pub fn memory(&self) -> Result<Memory, ProcessError> {
        let mem = self.dir.open_relative("mem").map_err(|e| failed(self.pid(), "mem", e))?;
        Ok(Memory(mem))
    }

    /// The file behind a mapping or a part of one, opened to be looked at, whatever became of its
    /// name.
    pub fn mapped_file(&self, vma: &Vma) -> io::Result<File> {
        match self.open_map_file(vma.pages) {
            // The folder knows whole mappings only, and they may have been divided or joined.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let maps = self.maps().map_err(io::Error::other)?;
                let now = maps.iter().find(|now| {
                    now.file == vma.file && now.pages.intersect(vma.pages) == vma.pages
                });
                self.open_map_file(now.ok_or(e)?.pages)
            }
            opened => opened,
        }
    }

    fn open_map_file(&self, mapping: PageRange) -> io::Result<File> {
        let range =
            format!("map_files/{:x}-{:x}", mapping.address().0, Hva::of_page(mapping.end).0);
        self.dir.open_relative(range).map_err(|e| match e {
            ProcError::Io(source, _) => source,
            ProcError::PermissionDenied(_) => io::Error::from(io::ErrorKind::PermissionDenied),
            ProcError::NotFound(_) => io::Error::from(io::ErrorKind::NotFound),
            other => io::Error::other(other.to_string()),
        })
    }

    /// What became of it.
    pub fn fate(&self) -> Fate {
        if self.pidfd.has_ended() {
            return Fate::Exited;
        }
        // An address space that is gone reads as 0 bytes, and page 0 of a living one as an entry.
        let mut entry = [Entry(0)];
        match pagemap::read(&self.pagemap, 0, &mut entry) {
            Ok(0) if self.is_ending() => Fate::Exited,
            Ok(0) => Fate::Execed,
            _ => Fate::Alive,
        }
    }

    /// Does it end just now? Its memory goes before the pidfd tells of its end, and of a process of
    /// many threads long before (`kernel/exit.c`, `do_exit`: PF_EXITING, `exit_mm`, `exit_notify`).
    fn is_ending(&self) -> bool {
        self.dir.stat().map_or(true, |stat| {
            matches!(stat.state, 'Z' | 'X')
                || StatFlags::from_bits_truncate(stat.flags).contains(StatFlags::PF_EXITING)
        })
    }
}

/// The content of a process's memory. Reading a page that is not present would bring it in: callers
/// read what the page table has just shown to be there.
#[derive(Debug)]
pub struct Memory(File);

impl Memory {
    /// Reads from address `at` on; returns how many bytes there were.
    pub fn read(&self, at: Hva, out: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(out, at.0)
    }
}

/// Numbers of all processes.
pub fn all_pids() -> io::Result<Vec<i32>> {
    let mut pids: Vec<i32> = std::fs::read_dir("/proc")?
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    Ok(pids)
}

/// The command name of process `pid`, if it is there.
pub fn comm(pid: i32) -> Option<String> {
    let text = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(printable(String::from_utf8_lossy(&text).trim_end_matches('\n')))
}

fn failed(pid: i32, file: &'static str, error: ProcError) -> ProcessError {
    match error {
        ProcError::NotFound(_) => ProcessError::NoSuch { pid },
        ProcError::PermissionDenied(_) => ProcessError::NotPermitted { pid, file },
        ProcError::Io(source, _) => io_failed(pid, file, source),
        other => ProcessError::Io { pid, file, source: io::Error::other(other.to_string()) },
    }
}

fn io_failed(pid: i32, file: &'static str, source: io::Error) -> ProcessError {
    match source.raw_os_error() {
        Some(libc::ESRCH | libc::ENOENT) => ProcessError::NoSuch { pid },
        Some(libc::EPERM | libc::EACCES) => ProcessError::NotPermitted { pid, file },
        _ => ProcessError::Io { pid, file, source },
    }
}

/// `None` for what user space cannot reach (vsyscall) or what is turned round.
fn vma(map: &MemoryMap, with_flags: bool) -> Option<Vma> {
    let (start, end) = map.address;
    if start >> 63 != 0 {
        return None;
    }
    let name = match &map.pathname {
        MMapPath::Anonymous => ANON_NAME.to_owned(),
        MMapPath::Path(path) => path.display().to_string(),
        MMapPath::Heap => "[heap]".to_owned(),
        MMapPath::Stack => "[stack]".to_owned(),
        MMapPath::TStack(tid) => format!("[stack:{tid}]"),
        MMapPath::Vdso => "[vdso]".to_owned(),
        MMapPath::Vvar => "[vvar]".to_owned(),
        MMapPath::Vsyscall => return None,
        MMapPath::Rollup => "[rollup]".to_owned(),
        MMapPath::Vsys(key) => format!("/SYSV{key:08x}"),
        MMapPath::Other(other) => format!("[{other}]"),
    };
    let name = printable(&name);
    let number = |n: i32| u64::from(n.unsigned_abs());
    let file = (map.inode != 0)
        .then(|| FileId { device: number(map.dev.0) << 32 | number(map.dev.1), inode: map.inode });
    let has = |flag| map.extension.vm_flags.contains(flag);
    let kib = |key: &str| map.extension.map.get(key).map_or(0, |bytes| bytes / 1024);
    let flags = with_flags.then(|| VmaFlags {
        mergeable: has(VmFlags::MG),
        hugepage: has(VmFlags::HG),
        hugetlb: has(VmFlags::HT),
        dont_fork: has(VmFlags::DC),
        dont_dump: has(VmFlags::DD),
        dont_expand: has(VmFlags::DE),
        by_userfault: has(VmFlags::UM),
        no_reserve: has(VmFlags::NR),
        accountable: has(VmFlags::AC),
        device: has(VmFlags::IO) || has(VmFlags::PF),
        huge_kib: [
            "AnonHugePages",
            "ShmemPmdMapped",
            "FilePmdMapped",
            "Private_Hugetlb",
            "Shared_Hugetlb",
        ]
        .iter()
        .map(|key| kib(key))
        .sum(),
    });
    Some(Vma {
        pages: PageRange::covering(Hva(start), Hva(end))?,
        read: map.perms.contains(MMPermissions::READ),
        write: map.perms.contains(MMPermissions::WRITE),
        exec: map.perms.contains(MMPermissions::EXECUTE),
        shared: map.perms.contains(MMPermissions::SHARED),
        file_page: map.offset / crate::base::PAGE_SIZE,
        file,
        name,
        flags,
    })
}
