//! What a process that reads what strangers send gives up before it reads a byte: rights, files,
//! and most of the kernel. Changes our own process, for good.
//!
//! Everything that it will need is opened before: sockets, memory, directories as descriptors,
//! programs as filters. Then [`enter`], while there is one thread, and only then threads and bytes.
//! In this order:
//!
//! 1. another user and no group but its own, so that files are opened with that one's rights. A
//!    directory that was opened as root does not keep root's rights: what is created beneath it must
//!    be permitted to the new user;
//! 2. no capability; nothing that is executed gives one back (`PR_SET_NO_NEW_PRIVS`); no other
//!    process of that user may look into our memory, which holds guests (`PR_SET_DUMPABLE`);
//! 3. Landlock (Linux 5.13, by its `landlock` crate): no file but beneath the directories that the
//!    [`Plan`] names; no TCP connection (6.7), no signal to others and no abstract socket (6.12);
//! 4. seccomp: what nobody does who only receives (`execve`, `ptrace`, `mount`, …) ends the process;
//!    what is not on the list of the needful fails with `ENOSYS`, so that a C library that asks for
//!    something new finds its way round as on an old kernel.
//!
//! What the kernel lacks is not enforced, and [`Entered::missing`] says so: the caller shows it. A
//! right that could be given up and was not is an error.
//!
//! Not even a child that was started before can be killed afterwards: it has another user, and
//! Landlock stops signals. It is ended by the end of its input.

use crate::sys::seccomp;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, make_bitflags,
};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{self, Gid, Uid};
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

/// A user and group to become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct User {
    /// Number of the user.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
}

impl User {
    /// The user of that name, with its first group; `None` where there is none.
    ///
    /// # Errors
    /// The list of users cannot be read.
    pub fn named(name: &str) -> io::Result<Option<Self>> {
        let found = unistd::User::from_name(name)?;
        Ok(found.map(|user| Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }

    /// `nobody`; 65534 for both, as the kernel has it, where there is no such user.
    pub fn nobody() -> Self {
        Self::named("nobody").ok().flatten().unwrap_or(Self { uid: 65534, gid: 65534 })
    }
}

/// What stays allowed.
#[derive(Clone, Debug, Default)]
pub struct Plan<'a> {
    /// Whom to become where we are root; `None` stays who we are.
    pub user: Option<User>,
    /// Directories beneath which files are read, written, made, renamed and removed.
    pub writable: Vec<BorrowedFd<'a>>,
    /// Directories beneath which files are read, and files that are opened once more to be read.
    pub readable: Vec<BorrowedFd<'a>>,
    /// Making sockets and connecting them. Sockets that are open work in any case.
    pub connect: bool,
    /// Starting threads. Processes never.
    pub threads: bool,
}

/// How far Landlock was enforced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Landlock {
    /// All that this program knows to ask for.
    Full,
    /// As far as this kernel's version of it goes.
    Partial,
    /// Not at all.
    None,
}

/// What was given up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entered {
    /// Whom we became.
    pub user: Option<User>,
    /// Files and connections.
    pub landlock: Landlock,
    /// System calls.
    pub seccomp: bool,
    /// What could not be enforced, each as a sentence for the user.
    pub missing: Vec<String>,
}

impl fmt::Display for Entered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.user {
            Some(User { uid, gid }) => write!(f, "user {uid}, group {gid}")?,
            None => write!(f, "user unchanged")?,
        }
        let files = match self.landlock {
            Landlock::Full => "Landlock in full",
            Landlock::Partial => "Landlock as far as this kernel has it",
            Landlock::None => "no Landlock",
        };
        write!(f, "; {files}; {}", if self.seccomp { "seccomp" } else { "no seccomp" })
    }
}

/// Why the sandbox was not entered. The process may have given up a part by then, and is to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// A thread that exists would keep its rights.
    #[error("a process with {count} threads cannot give up its rights for all of them")]
    Threads {
        /// How many.
        count: usize,
    },
    /// The kernel refused one of the steps.
    #[error("the sandbox cannot be entered: {step} failed")]
    Step {
        /// Which.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A right came back after it was given up.
    #[error("the sandbox cannot be entered: user {uid} can be root again")]
    StillRoot {
        /// Whom we became.
        uid: u32,
    },
    /// Landlock is there and refused.
    #[error("the sandbox cannot be entered: Landlock refused the rules")]
    Landlock(#[source] RulesetError),
    /// The list of system calls was refused.
    #[error("the sandbox cannot be entered: seccomp refused the list of system calls")]
    Seccomp(#[source] seccompiler::Error),
}

/// Gives up everything that `plan` does not name. There is no way back.
///
/// # Errors
/// See [`SandboxError`]; what the kernel does not have is no error but [`Entered::missing`].
pub fn enter(plan: &Plan<'_>) -> Result<Entered, SandboxError> {
    let step = |step| move |source: io::Error| SandboxError::Step { step, source };
    let count = std::fs::read_dir("/proc/self/task")
        .map_err(step("counting the threads in /proc/self/task"))?
        .count();
    if count != 1 {
        return Err(SandboxError::Threads { count });
    }
    let mut missing = Vec::new();
    let user = plan.user.filter(|_| unistd::geteuid().is_root());
    match (user, plan.user) {
        (Some(user), _) => become_user(user)?,
        (None, Some(User { uid, .. })) if unistd::geteuid().as_raw() != uid => missing
            .push(format!("the user stays {}: only root can become user {uid}", unistd::geteuid())),
        _ => {}
    }
    prctl::set_no_new_privs().map_err(|e| step("PR_SET_NO_NEW_PRIVS")(e.into()))?;
    prctl::set_dumpable(false).map_err(|e| step("PR_SET_DUMPABLE")(e.into()))?;
    no_capabilities().map_err(step("dropping the capabilities"))?;
    let landlock = restrict_files(plan, &mut missing)?;
    let seccomp = match seccomp::restrict(plan.threads, plan.connect) {
        Ok(()) => true,
        Err(seccompiler::Error::Seccomp(e) | seccompiler::Error::Prctl(e))
            if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) =>
        {
            let why = "system calls are not restricted: this kernel has no seccomp filters";
            missing.push(format!("{why} (CONFIG_SECCOMP_FILTER)"));
            false
        }
        Err(e) => return Err(SandboxError::Seccomp(e)),
    };
    Ok(Entered { user, landlock, seccomp, missing })
}

fn become_user(user: User) -> Result<(), SandboxError> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let step = |step| move |e: Errno| SandboxError::Step { step, source: e.into() };
    unistd::setgroups(&[]).map_err(step("leaving all groups (setgroups)"))?;
    unistd::setresgid(gid, gid, gid).map_err(step("changing the group (setresgid)"))?;
    unistd::setresuid(uid, uid, uid).map_err(step("changing the user (setresuid)"))?;
    let root = Uid::from_raw(0);
    if !uid.is_root() && unistd::setresuid(root, root, root).is_ok() {
        return Err(SandboxError::StillRoot { uid: user.uid });
    }
    Ok(())
}

/// Every capability of this thread, which is the only one. A change of user from root has dropped
/// them already; this is for root that stays root, and for a program that got some from its file.
fn no_capabilities() -> io::Result<()> {
    // struct __user_cap_header_struct and twice __user_cap_data_struct of linux/capability.h,
    // version 3 (Linux 2.6.26): two words, and three words for each half of the 64 capabilities
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0_u32; 6];
    // SAFETY: both arrays are as long as the kernel reads for this version, and it writes to the
    // header alone, only where the version is unknown to it; `header` is passed as mutable memory of
    // ours that is not read again.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const none) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn restrict_files(plan: &Plan<'_>, missing: &mut Vec<String>) -> Result<Landlock, SandboxError> {
    let RestrictionStatus { ruleset, landlock, .. } =
        landlock_rules(plan).map_err(SandboxError::Landlock)?;
    let version = match landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi as i32,
        _ => 0,
    };
    match version {
        0 => missing.push(
            "files are not restricted: this kernel has no Landlock (CONFIG_SECURITY_LANDLOCK, and landlock in the lsm= of its command line)".into(),
        ),
        1..3 => missing.push(format!("files may be truncated: Landlock {version} cannot forbid it")),
        _ => {}
    }
    if (1..4).contains(&version) && !plan.connect {
        missing.push(format!("only seccomp forbids connections: Landlock {version} cannot"));
    }
    if (1..6).contains(&version) {
        missing.push(format!("only seccomp forbids signals: Landlock {version} cannot"));
    }
    Ok(match ruleset {
        RulesetStatus::FullyEnforced => Landlock::Full,
        RulesetStatus::PartiallyEnforced => Landlock::Partial,
        RulesetStatus::NotEnforced => Landlock::None,
    })
}

fn landlock_rules(plan: &Plan<'_>) -> Result<RestrictionStatus, RulesetError> {
    let all = ABI::V9; // what the running kernel does not know of it is left out
    let read: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    // no symbolic links, devices or sockets, and nothing to execute
    let write = read
        | make_bitflags!(AccessFs::{
            WriteFile | Truncate | MakeReg | RemoveFile | MakeDir | RemoveDir | Refer
        });
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(all))?
        .scope(Scope::from_all(all))?;
    if !plan.connect {
        rules = rules.handle_access(AccessNet::from_all(all))?;
    }
    let mut rules = rules.create()?;
    for fd in &plan.writable {
        rules = rules.add_rule(PathBeneath::new(fd, write))?;
    }
    for fd in &plan.readable {
        rules = rules.add_rule(PathBeneath::new(fd, read))?;
    }
    rules.restrict_self()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{AtFlags, FallocateFlags, OFlag, fallocate, openat, renameat};
    use nix::sys::stat::Mode;
    use nix::sys::wait::WaitStatus;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::process::{Command, Output};

    const SCENE: &str = "PAGEHERD_TEST_SCENE";

    /// Plays `scene` in a process of its own: this test program once more, as a child of one thread.
    fn play(scene: &str, argument: &str) -> Output {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "sys::sandbox::tests::a_scene", "--test-threads=1", "--nocapture"]);
        child.env(SCENE, scene).env("PAGEHERD_TEST_ARGUMENT", argument);
        child.env("RUST_BACKTRACE", "0").output().unwrap()
    }

    fn plays_well(scene: &str, argument: &str) {
        let out = play(scene, argument);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(42), "{scene}: {}: {said}", out.status);
    }

    fn is_root() -> bool {
        unistd::geteuid().is_root()
    }

    /// What [`play`] runs; nothing by itself.
    #[test]
    fn a_scene() {
        let Ok(scene) = std::env::var(SCENE) else { return };
        // SAFETY: the other thread waits for this test to end and holds no lock meanwhile. The child
        // leaves below by `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let played = std::panic::catch_unwind(|| scene_in_child(&scene));
            // SAFETY: ends the process.
            unsafe { libc::_exit(if played.is_ok() { 42 } else { 1 }) };
        }
        let end = nix::sys::wait::waitpid(unistd::Pid::from_raw(child), None).unwrap();
        std::process::exit(match end {
            WaitStatus::Exited(_, code) => code,
            WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
            other => panic!("{other:?}"),
        });
    }

    fn scene_in_child(scene: &str) {
        let argument = std::env::var("PAGEHERD_TEST_ARGUMENT").unwrap();
        let plan = Plan { user: Some(User::nobody()), ..Plan::default() };
        match scene {
            "directory" => directory(Path::new(&argument)),
            "rights" => rights(),
            "connect" => connect(&argument),
            "threads" => {
                let (_stop, wait) = std::sync::mpsc::channel::<()>();
                std::thread::spawn(move || wait.recv());
                let error = enter(&plan).unwrap_err();
                assert!(matches!(error, SandboxError::Threads { count: 2 }), "{error}");
            }
            "user" => {
                unistd::setresuid(1234.into(), 1234.into(), 1234.into()).unwrap();
                let entered = enter(&plan).unwrap();
                assert_eq!(entered.user, None);
                assert!(entered.missing[0].contains("stays 1234"), "{entered:?}");
                no_files(&entered);
            }
            "root" => {
                let entered = enter(&Plan::default()).unwrap();
                assert_eq!((entered.user, unistd::geteuid().is_root()), (None, true));
                no_files(&entered);
            }
            attack => {
                enter(&plan).unwrap();
                let zero = 0_usize;
                let call = attack.parse::<i64>().unwrap();
                // SAFETY: null pointers and zeros, which these calls answer with an error.
                unsafe { libc::syscall(call, zero, zero, zero, zero, zero, zero) };
            }
        }
    }

    /// Where the kernel has Landlock; where it has none, that is told.
    fn no_files(entered: &Entered) {
        if entered.landlock == Landlock::None {
            assert!(entered.missing.iter().any(|what| what.contains("Landlock")), "{entered:?}");
            return;
        }
        for path in ["/etc/passwd", "/proc/self/maps", "/", "/dev/null"] {
            let error = File::open(path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{path}");
        }
    }

    fn rights() {
        let mut status = File::open("/proc/self/status").unwrap();
        let parent = unistd::getppid();
        let nobody = User::nobody();
        let plan = Plan { user: Some(nobody), threads: true, ..Plan::default() };
        let entered = enter(&plan).unwrap();
        assert_eq!((entered.user, entered.seccomp), (Some(nobody), true), "{entered}");

        let mut text = String::new();
        status.read_to_string(&mut text).unwrap();
        let line = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().collect::<Vec<_>>()
        };
        let uid = nobody.uid.to_string();
        assert_eq!(line("Uid:"), [&uid[..]; 4]);
        assert_eq!(line("Groups:"), [""; 0]);
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(line(set), ["0000000000000000"], "{set}");
        }
        assert_eq!((&line("NoNewPrivs:")[..], &line("Seccomp:")[..]), (&["1"][..], &["2"][..]));

        assert!(unistd::setuid(0.into()).is_err());
        no_files(&entered);
        assert!(UdpSocket::bind("127.0.0.1:0").is_err());
        assert!(TcpStream::connect("127.0.0.1:1").is_err());
        assert!(nix::sys::signal::kill(parent, None).is_err());
        assert!(Command::new("/bin/true").spawn().is_err());
        let exec = nix::sys::mman::ProtFlags::PROT_EXEC;
        let private = nix::sys::mman::MapFlags::MAP_PRIVATE;
        let one = std::num::NonZeroUsize::MIN;
        // SAFETY: a new mapping at an address that the kernel chooses.
        assert!(unsafe { nix::sys::mman::mmap_anonymous(None, one, exec, private) }.is_err());

        // what is to go on
        let sum = std::thread::spawn(|| vec![1_u8; 50 << 20].iter().map(|&b| u64::from(b)).sum());
        let sum: u64 = sum.join().unwrap();
        assert_eq!(sum, 50 << 20);
        assert!(std::thread::spawn(|| panic!("as expected")).join().is_err());
        std::thread::sleep(std::time::Duration::from_millis(2));
        let (mut from, mut to) = std::io::pipe().unwrap();
        to.write_all(b"bytes").unwrap();
        drop(to);
        let mut back = String::new();
        from.read_to_string(&mut back).unwrap();
        assert_eq!(back, "bytes");
    }

    fn directory(path: &Path) {
        let dir = File::open(path).unwrap();
        let outside = File::open("/").unwrap();
        let readable = File::open("/etc/hosts").unwrap();
        let plan = Plan {
            user: Some(User::nobody()),
            writable: vec![dir.as_fd()],
            readable: vec![readable.as_fd()],
            ..Plan::default()
        };
        if enter(&plan).unwrap().landlock == Landlock::None {
            return;
        }
        assert!(std::thread::Builder::new().spawn(|| ()).is_err(), "threads are not planned");

        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let new = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        let mut file = File::from(openat(&dir, "new", new, mode).unwrap());
        fallocate(&file, FallocateFlags::empty(), 0, 8192).unwrap();
        file.write_all(b"page").unwrap();
        file.sync_all().unwrap();
        file.set_len(4096).unwrap();
        renameat(&dir, "new", &dir, "kept").unwrap();
        nix::sys::stat::mkdirat(&dir, "sub", Mode::S_IRWXU).unwrap();
        unistd::linkat(&dir, "kept", &dir, "sub/link", AtFlags::empty()).unwrap();
        renameat(&dir, "sub/link", &dir, "moved").unwrap();
        assert_eq!(std::fs::read(path.join("kept")).unwrap().len(), 4096, "by its path as well");
        unistd::unlinkat(&dir, "moved", unistd::UnlinkatFlags::NoRemoveDir).unwrap();
        assert!(File::open("/etc/hosts").is_ok());

        let read = OFlag::O_RDONLY;
        for name in ["../outside", "link", "/etc/passwd"] {
            let error = openat(&dir, name, read, mode).unwrap_err();
            assert_eq!(error, Errno::EACCES, "{name}");
        }
        assert!(openat(&outside, "etc/passwd", read, mode).is_err(), "by an open descriptor");
        assert!(openat(&dir, "../made", new, mode).is_err());
        assert!(renameat(&dir, "kept", &dir, "../made").is_err());
        assert!(unistd::symlinkat("/etc/passwd", &dir, "made").is_err());
    }

    fn connect(address: &str) {
        let plan = Plan { user: Some(User::nobody()), connect: true, ..Plan::default() };
        let entered = enter(&plan).unwrap();
        TcpStream::connect(address).unwrap().write_all(b"here").unwrap();
        no_files(&entered);
        assert!(TcpListener::bind("127.0.0.1:0").is_err());
    }

    #[test]
    fn nobody_has_no_file_no_socket_no_program_and_goes_on_working() {
        if is_root() {
            plays_well("rights", "");
        }
    }

    #[test]
    fn a_directory_that_is_planned_is_written_and_nothing_beside_it() {
        if !is_root() {
            return;
        }
        let outer = tempfile::tempdir().unwrap();
        let User { uid, gid } = User::nobody();
        let allowed = outer.path().join("allowed");
        std::fs::create_dir(&allowed).unwrap();
        std::fs::write(outer.path().join("outside"), "x").unwrap();
        symlink("/etc/passwd", allowed.join("link")).unwrap();
        for path in [outer.path(), &allowed, &outer.path().join("outside")] {
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
        }
        plays_well("directory", allowed.to_str().unwrap());
    }

    #[test]
    fn a_connection_is_made_where_it_is_planned() {
        if !is_root() {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        plays_well("connect", &listener.local_addr().unwrap().to_string());
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        assert_eq!(text, "here");
    }

    #[test]
    fn threads_that_exist_are_refused() {
        plays_well("threads", "");
    }

    #[test]
    fn who_is_not_root_stays_who_he_is_and_is_told() {
        if is_root() {
            plays_well("user", "");
            plays_well("root", "");
        }
    }

    #[test]
    fn an_attack_ends_the_process() {
        if !is_root() {
            return;
        }
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_mount,
            libc::SYS_bpf,
            libc::SYS_unshare,
            libc::SYS_kexec_load,
        ] {
            let out = play(&call.to_string(), "");
            assert_eq!(out.status.code(), Some(128 + libc::SIGSYS), "call {call}: {}", out.status);
        }
        // neither needed nor an attack: an error, and the process goes on
        plays_well(&libc::SYS_io_uring_setup.to_string(), "");
        plays_well(&libc::SYS_clone3.to_string(), "");
    }
}
