//! From targets as written to VMs that can be read.

use super::Vm;
use super::herd::{HerdError, HerdVm};
use super::image::{ImageError, ImageSource};
use super::process::ProcessSource;
use super::vmm::{self, Vmm};
use crate::abi::vma::Vma;
use crate::base::PageRange;
use crate::base::target::{MAX_NAME, Part, Target, TargetKind, is_name};
use crate::sys::process::{self, Process, ProcessError};
use globset::{Glob, GlobMatcher};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// How many processes stand for the host where no VMM runs.
pub const LARGEST: usize = 10;

/// The VMs, and what should be said about how they were found.
#[derive(Debug)]
pub struct Resolved {
    /// The VMs, in the order of the targets.
    pub vms: Vec<Vm>,
    /// Remarks for the user.
    pub notes: Vec<String>,
}

/// Why targets cannot be resolved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// A process cannot be opened.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// An image cannot be opened.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A herd cannot be opened, or has no such VM.
    #[error(transparent)]
    Herd(#[from] HerdError),
    /// A pattern that is no pattern.
    #[error("'{pattern}' is not a shell pattern: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A pattern or a control group that holds no process.
    #[error("{target} matches no process{hint}")]
    NoMatch {
        /// The target.
        target: String,
        /// What may help.
        hint: &'static str,
    },
    /// `map=` or `range=` that matches nothing in the process.
    #[error(
        "process {pid} has no mapping that matches {wanted}; 'cut -c74- /proc/{pid}/maps | sort -u' lists their names"
    )]
    NoMapping {
        /// The process.
        pid: i32,
        /// What was asked for.
        wanted: String,
    },
    /// A control group that does not exist.
    #[error("there is no control group {path}: name it as in /proc/PID/cgroup, or by its folder")]
    NoCgroup {
        /// The path.
        path: PathBuf,
    },
    /// Memory that is not there yet.
    #[error(
        "pages of process {pid} in {mapping} come by userfaultfd when they are touched, and nobody brings them while it is held still: wait until it has loaded all of its memory, then send it"
    )]
    NotLoaded {
        /// The process.
        pid: i32,
        /// The mapping.
        mapping: String,
    },
    /// One process behind two targets.
    #[error(
        "process {pid} is given twice, as {first} and as {second}: its pages would be counted twice"
    )]
    Twice {
        /// The process.
        pid: i32,
        /// The name it has first.
        first: String,
        /// The name it has again.
        second: String,
    },
    /// Two VMs of one name.
    #[error("two VMs are named {name}: give one another name, as in b={target}")]
    SameName {
        /// The name.
        name: String,
        /// The second target.
        target: String,
    },
    /// Nothing to look at on this host.
    #[error("there is no process to look at")]
    Nobody,
    /// /proc cannot be listed.
    #[error("/proc cannot be listed")]
    Proc(#[source] io::Error),
}

/// What a target names, found and held, and not opened to be read in one way or the other yet.
#[derive(Debug)]
pub struct Found {
    /// The name that the user gave or that its holder has.
    pub name: String,
    /// What it is, in words: `qemu-system-x86 guest RAM`.
    pub what: String,
    /// What holds the memory.
    pub holder: Holder,
}

/// What holds a VM's memory.
#[derive(Debug)]
pub enum Holder {
    /// A process, and which of its mappings.
    Process(Process, Vec<Vma>),
    /// A memory image.
    Image(PathBuf),
    /// A VM of a herd directory.
    Herd(HerdVm),
}

impl Found {
    fn pid(&self) -> Option<i32> {
        match &self.holder {
            Holder::Process(process, _) => Some(process.pid()),
            Holder::Image(_) | Holder::Herd(_) => None,
        }
    }

    fn blocks(&self) -> &[Vma] {
        match &self.holder {
            Holder::Process(_, blocks) => blocks,
            Holder::Image(_) | Holder::Herd(_) => &[],
        }
    }

    /// How it could be written as a target.
    fn target(&self) -> String {
        match &self.holder {
            Holder::Process(process, _) => format!("pid:{}", process.pid()),
            Holder::Image(path) => format!("image:{}", path.display()),
            Holder::Herd(vm) => format!("herd:{}", vm.path().display()),
        }
    }

    /// As a source of facts; `pagemap_scan` says whether the kernel has that call.
    fn open(self, pagemap_scan: bool) -> Result<Vm, ResolveError> {
        let Self { name, what, holder } = self;
        Ok(match holder {
            Holder::Process(process, blocks) => Vm {
                name,
                pid: Some(process.pid()),
                start_time: Some(process.start_time()),
                what,
                source: Box::new(ProcessSource::new(process, blocks, pagemap_scan)),
            },
            Holder::Image(path) => {
                let source = Box::new(ImageSource::open(&path)?);
                Vm { name, pid: None, start_time: None, what, source }
            }
            Holder::Herd(vm) => {
                let source = Box::new(super::herd::HerdSource::open(&vm)?);
                Vm { name, pid: None, start_time: None, what, source }
            }
        })
    }
}

/// Opens what the targets name; where there are none, every VMM of the host, or else its largest
/// processes. `pagemap_scan` says whether the kernel has that call.
pub fn resolve(targets: &[Target], pagemap_scan: bool) -> Result<Resolved, ResolveError> {
    let (found, notes) = find(targets)?;
    let vms = found.into_iter().map(|found| found.open(pagemap_scan)).collect::<Result<_, _>>()?;
    Ok(Resolved { vms, notes })
}

/// Finds what the targets name, as [`resolve`] does, with what should be said about it.
pub fn find(targets: &[Target]) -> Result<(Vec<Found>, Vec<String>), ResolveError> {
    let mut all = Resolver {
        ram_only: targets.is_empty(),
        vms: Vec::new(),
        own_name: Vec::new(),
        notes: Vec::new(),
    };
    if targets.is_empty() {
        all.whole_host()?;
    }
    for target in targets {
        all.add(target)?;
    }
    if all.vms.is_empty() {
        return Err(ResolveError::Nobody); // they all ended while they were looked up
    }
    all.tell_apart();
    all.refuse_doubles()?;
    Ok((all.vms, all.notes))
}

struct Resolver {
    /// A VMM that holds no guest is passed over: nobody named it.
    ram_only: bool,
    vms: Vec<Found>,
    /// By VM: its name is its holder's own, not the user's.
    own_name: Vec<bool>,
    notes: Vec<String>,
}

impl Resolver {
    fn add(&mut self, target: &Target) -> Result<(), ResolveError> {
        let name = target.name.clone();
        match &target.kind {
            TargetKind::Pid { pid, part } => self.push(Process::open(*pid)?, name, part),
            TargetKind::Comm(pattern) => {
                let glob = glob(pattern)?;
                let pids = all_pids()?;
                let found = pids
                    .into_iter()
                    .filter(|&pid| process::comm(pid).is_some_and(|comm| glob.is_match(comm)));
                let hint = "; the name is that of /proc/PID/comm, at most 15 characters";
                self.add_each(found, name.as_deref(), &target.to_string(), hint)
            }
            TargetKind::Cgroup(path) => {
                let pids = cgroup_pids(path)?;
                self.add_each(pids, name.as_deref(), &target.to_string(), "")
            }
            TargetKind::Image(path) => {
                let file_name = path.file_name().map(|n| n.to_string_lossy().into_owned());
                self.own_name.push(false);
                self.vms.push(Found {
                    name: name.unwrap_or_else(|| as_name(&file_name.unwrap_or_default())),
                    what: format!("image {}", path.display()),
                    holder: Holder::Image(path.clone()),
                });
                Ok(())
            }
            TargetKind::Herd(path) => {
                for vm in HerdVm::find(path)? {
                    self.own_name.push(false);
                    self.vms.push(Found {
                        name: name.clone().unwrap_or_else(|| vm.name().to_owned()),
                        what: format!("herd {}", vm.path().display()),
                        holder: Holder::Herd(vm),
                    });
                }
                Ok(())
            }
        }
    }

    /// Adds every process of a list that is still there and has memory.
    fn add_each(
        &mut self,
        pids: impl IntoIterator<Item = i32>,
        name: Option<&str>,
        target: &str,
        hint: &'static str,
    ) -> Result<(), ResolveError> {
        let (found, refused) = open_all(pids);
        self.refused(&found, refused)?;
        if found.is_empty() {
            return Err(ResolveError::NoMatch { target: target.to_owned(), hint });
        }
        let alone = found.len() == 1;
        for process in found {
            let name = name.map(|name| match alone {
                true => name.to_owned(),
                false => numbered(name, process.pid()),
            });
            self.push_if_there(process, name)?;
        }
        Ok(())
    }

    /// Of processes that a pattern named, those that may not be looked into are said; where that
    /// is all of them it is an error.
    fn refused(
        &mut self,
        found: &[Process],
        refused: Vec<ProcessError>,
    ) -> Result<(), ResolveError> {
        let more = refused.len().saturating_sub(1);
        match refused.into_iter().next() {
            None => Ok(()),
            Some(first) if found.is_empty() => Err(first.into()),
            Some(first) => {
                let others = if more > 0 { format!(" (and {more} more)") } else { String::new() };
                self.notes.push(format!("left out: {first}{others}"));
                Ok(())
            }
        }
    }

    /// Adds a process that a pattern named, unless it has ended meanwhile.
    fn push_if_there(
        &mut self,
        process: Process,
        name: Option<String>,
    ) -> Result<(), ResolveError> {
        match self.push(process, name, &Part::Auto) {
            Err(ResolveError::Process(ProcessError::NoSuch { .. })) => Ok(()),
            other => other,
        }
    }

    fn push(
        &mut self,
        process: Process,
        name: Option<String>,
        part: &Part,
    ) -> Result<(), ResolveError> {
        let vmm = vmm::identify(&process.program(), process.comm());
        let Some((blocks, what)) = self.choose(&process, vmm, part)? else { return Ok(()) };
        if blocks.is_empty() {
            // every process has mappings until it ends
            return Err(ProcessError::NoSuch { pid: process.pid() }.into());
        }
        self.own_name.push(name.is_none());
        let name = name.unwrap_or_else(|| {
            vmm.filter(|&v| v == Vmm::Qemu)
                .and_then(|_| vmm::guest_name(&process.cmdline()))
                .map_or_else(
                    || format!("{}-{}", as_name(process.comm()), process.pid()),
                    |n| as_name(&n),
                )
        });
        self.vms.push(Found { name, what, holder: Holder::Process(process, blocks) });
        Ok(())
    }

    fn choose(
        &mut self,
        process: &Process,
        vmm: Option<Vmm>,
        part: &Part,
    ) -> Result<Option<(Vec<Vma>, String)>, ResolveError> {
        let (pid, comm) = (process.pid(), process.comm());
        let none = |wanted: String| ResolveError::NoMapping { pid, wanted };
        match (part, vmm) {
            (Part::Auto, Some(vmm)) => {
                let ram: Vec<Vma> =
                    process.smaps()?.into_iter().filter(|vma| vmm.is_guest_ram(vma)).collect();
                if !ram.is_empty() {
                    return Ok(Some((ram, format!("{comm} guest RAM"))));
                }
                if self.ram_only {
                    // libvirt starts a QEMU without a machine to ask what it can
                    self.notes.push(format!(
                        "left out: process {pid} ({comm}) is {} and holds no guest",
                        vmm.name()
                    ));
                    return Ok(None);
                }
                self.notes.push(format!(
                    "process {pid} ({comm}) looks like {} but no guest RAM was found in it; all of its memory is taken",
                    vmm.name()
                ));
                Ok(Some((process.maps()?, comm.to_owned())))
            }
            (Part::Auto | Part::All, _) => Ok(Some((process.maps()?, comm.to_owned()))),
            (Part::Map(pattern), _) => {
                let glob = glob(pattern)?;
                let mut maps = process.maps()?;
                // the name itself first: `[heap]` as a pattern would be one letter of four
                maps.retain(|vma| vma.name == *pattern || glob.is_match(&vma.name));
                if maps.is_empty() {
                    return Err(none(format!("map={pattern}")));
                }
                Ok(Some((maps, format!("{comm} {pattern}"))))
            }
            (Part::Range(range), _) => {
                let cut: Vec<Vma> =
                    process.maps()?.into_iter().filter_map(|vma| cut(vma, *range)).collect();
                if cut.is_empty() {
                    let (a, b) = (range.address(), PageRange::of(range.end, 0).address());
                    return Err(none(format!("range={:x}-{:x}", a.0, b.0)));
                }
                Ok(Some((cut, format!("{comm} range"))))
            }
        }
    }

    /// Every VMM; where none runs, the processes with the largest footprint.
    fn whole_host(&mut self) -> Result<(), ResolveError> {
        let (found, refused) = open_all(all_pids()?);
        self.refused(&found, refused)?;
        let (vmms, mut others): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|p| vmm::identify(&p.program(), p.comm()).is_some());
        for process in vmms {
            self.push_if_there(process, None)?;
        }
        if self.vms.is_empty() {
            others.sort_by_key(|p| std::cmp::Reverse(p.resident_pages()));
            others.truncate(LARGEST);
            self.notes.push(format!(
                "no VMM runs on this host; these are its {} largest processes",
                others.len()
            ));
            for process in others {
                self.push_if_there(process, None)?;
            }
        }
        if self.vms.is_empty() { Err(ResolveError::Nobody) } else { Ok(()) }
    }

    /// Guests of one name are told apart by their processes: while a guest moves within a host there
    /// are two of them. Names that the user gave stay.
    fn tell_apart(&mut self) {
        let names: Vec<String> = self.vms.iter().map(|vm| vm.name.clone()).collect();
        let is_double = |name: &String| names.iter().filter(|&other| other == name).count() > 1;
        for (vm, name) in self
            .vms
            .iter_mut()
            .zip(&names)
            .zip(&self.own_name)
            .filter_map(|(pair, &own)| own.then_some(pair))
        {
            if let Some(pid) = vm.pid().filter(|_| is_double(name)) {
                vm.name = format!("{name}-{pid}");
            }
        }
    }

    fn refuse_doubles(&self) -> Result<(), ResolveError> {
        for (i, second) in self.vms.iter().enumerate() {
            for first in &self.vms[..i] {
                if let (Some(a), Some(b)) = (first.pid(), second.pid())
                    && a == b
                    && overlap(first.blocks(), second.blocks())
                {
                    let (first, second) = (first.name.clone(), second.name.clone());
                    return Err(ResolveError::Twice { pid: a, first, second });
                }
                if first.name == second.name {
                    let target = second.target();
                    return Err(ResolveError::SameName { name: second.name.clone(), target });
                }
            }
        }
        Ok(())
    }
}

fn overlap(a: &[Vma], b: &[Vma]) -> bool {
    a.iter().any(|x| b.iter().any(|y| !x.pages.intersect(y.pages).is_empty()))
}

fn cut(vma: Vma, range: PageRange) -> Option<Vma> {
    let pages = vma.pages.intersect(range);
    (!pages.is_empty()).then(|| Vma { file_page: vma.page_in_file(pages.start), pages, ..vma })
}

fn glob(pattern: &str) -> Result<GlobMatcher, ResolveError> {
    let glob = Glob::new(pattern).map_err(|e| ResolveError::Pattern {
        pattern: pattern.to_owned(),
        reason: e.kind().to_string(),
    })?;
    Ok(glob.compile_matcher())
}

fn all_pids() -> Result<Vec<i32>, ResolveError> {
    process::all_pids().map_err(ResolveError::Proc)
}

/// Opens every process of a list but our own; beside them, why some may not be opened. Those that
/// have ended, zombies and kernel threads are nothing to look at.
fn open_all(pids: impl IntoIterator<Item = i32>) -> (Vec<Process>, Vec<ProcessError>) {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let (mut found, mut refused) = (Vec::new(), Vec::new());
    for pid in pids.into_iter().filter(|&pid| pid != own) {
        match Process::open(pid) {
            Ok(process) => found.push(process),
            Err(e @ ProcessError::NotPermitted { .. }) => refused.push(e),
            Err(_) => {}
        }
    }
    (found, refused)
}

/// A name for one of several: with the process's number, and short enough for it.
fn numbered(name: &str, pid: i32) -> String {
    let number = format!("-{pid}");
    let room = name.len().min(MAX_NAME - number.len()); // a name is ASCII
    format!("{}{number}", &name[..room])
}

/// `text` with what cannot be in a name replaced.
fn as_name(text: &str) -> String {
    let name: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' })
        .take(40)
        .collect();
    if is_name(&name) { name } else { "vm".to_owned() }
}

/// The processes of a control group and of those below it.
fn cgroup_pids(path: &Path) -> Result<BTreeSet<i32>, ResolveError> {
    let mut pids = BTreeSet::new();
    let mut folders = cgroup_folders(path);
    if folders.is_empty() {
        return Err(ResolveError::NoCgroup { path: path.to_owned() });
    }
    while let Some(folder) = folders.pop() {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        let below = fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    Ok(pids)
}

/// The folders that a control group has: by its folder, or by its path as in `/proc/PID/cgroup`, in
/// version 2 or in any hierarchy of version 1.
fn cgroup_folders(path: &Path) -> Vec<PathBuf> {
    const ROOT: &str = "/sys/fs/cgroup";
    let relative = path.strip_prefix("/").unwrap_or(path);
    let hierarchies = fs::read_dir(ROOT).into_iter().flatten().flatten().map(|e| e.path());
    let candidates = [path.to_owned(), Path::new(ROOT).join(relative)]
        .into_iter()
        .chain(hierarchies.map(|h| h.join(relative)));
    candidates.filter(|folder| folder.join("cgroup.procs").is_file()).collect()
}

/// Name, number and statistics of every process of which KSM has a page or may have one.
pub fn ksm_users() -> Result<Vec<(String, i32, crate::abi::ksm::KsmStat)>, ResolveError> {
    let users = all_pids()?.into_iter().filter_map(|pid| {
        let process = Process::open(pid).ok()?;
        let stat = process.ksm_stat()?;
        let uses = stat.merging_pages > 0
            || stat.rmap_items > 0
            || stat.mergeable == Some(true)
            || stat.merge_any == Some(true);
        uses.then(|| (as_name(process.comm()), pid, stat))
    });
    Ok(users.collect())
}
