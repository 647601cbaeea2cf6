//! The system calls that a process needs which only receives: the lists behind
//! [`crate::sys::sandbox`].
//!
//! Two filters, of which the stricter word counts. The first ends the process for calls that are an
//! attack if this program makes them. The second allows what is needed, some of it by argument, and
//! answers everything else with `ENOSYS`. Paths are not looked at, as seccomp cannot: Landlock does.

use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, apply_filter_all_threads,
};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls that end the process.
const DEADLY: &[i64] = &[
    // another program, or into another process
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // another view of the files
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_by_handle_at,
    libc::SYS_setns,
    libc::SYS_unshare,
    // into the kernel
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_acct,
];

/// Calls that are allowed whatever their arguments.
const ALLOWED: &[i64] = &[
    // memory; mmap and mprotect are below
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munlock,
    libc::SYS_munmap,
    // bytes
    libc::SYS_copy_file_range,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_tee,
    libc::SYS_vmsplice,
    libc::SYS_write,
    libc::SYS_writev,
    // files, as far as Landlock lets them be named
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pipe2,
    libc::SYS_readlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sync_file_range,
    libc::SYS_unlinkat,
    // waiting
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_restart_syscall,
    libc::SYS_wait4,
    libc::SYS_waitid,
    // sockets that are there; new ones are below
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socketpair, // by which signals are told to a thread
    // threads; starting one is below
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    // signals, to ourselves alone: see `by_argument`
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    // who and where we are
    libc::SYS_getcpu,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrusage,
    libc::SYS_getsid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_sysinfo,
    libc::SYS_times,
    libc::SYS_umask,
    libc::SYS_uname,
];

/// What x86 has beside those, and its C library still uses.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[
    libc::SYS_access,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_getdents,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];

/// Other architectures never had them.
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[];

/// What `ioctl` may be asked.
const IOCTLS: [u64; 7] = [
    libc::FICLONE,
    libc::FICLONERANGE,
    libc::FIONREAD,
    libc::FIONBIO,    // sockets of the standard library
    libc::TCGETS,     // is it a terminal?
    libc::TCGETS2,    // the same, of a newer C library
    libc::TIOCGWINSZ, // how wide is it?
];

/// What `fcntl` may be asked: nothing that sends signals.
const FCNTLS: [i32; 16] = [
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_GETLK,
    libc::F_SETLK,
    libc::F_SETLKW,
    libc::F_OFD_GETLK,
    libc::F_OFD_SETLK,
    libc::F_OFD_SETLKW,
    libc::F_GETPIPE_SZ,
    libc::F_SETPIPE_SZ,
    libc::F_ADD_SEALS,
    libc::F_GET_SEALS,
];

/// Installs both filters, for every thread.
///
/// # Errors
/// What the kernel said. After an error one of them may be installed.
pub(super) fn restrict(threads: bool, connect: bool) -> Result<(), Error> {
    let deadly = DEADLY.iter().map(|&call| (call, vec![])).collect();
    let (allow, kill) = (SeccompAction::Allow, SeccompAction::KillProcess);
    apply_filter_all_threads(&program(deadly, allow, kill)?)?;
    let other = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    apply_filter_all_threads(&program(allowed(threads, connect)?, other, SeccompAction::Allow)?)
}

fn program(rules: Rules, other: SeccompAction, listed: SeccompAction) -> Result<BpfProgram, Error> {
    let machine = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, other, listed, machine)?.try_into()?)
}

fn allowed(threads: bool, connect: bool) -> Result<Rules, BackendError> {
    let mut rules: Rules = ALLOWED.iter().chain(OLD).map(|&call| (call, vec![])).collect();
    by_argument(&mut rules)?;
    if threads {
        // A thread and never a process. clone3 hides its flags behind a pointer; the C library uses
        // clone where clone3 says ENOSYS.
        let flags = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND).cast_unsigned();
        let thread = SeccompCmpOp::MaskedEq(u64::from(flags));
        rules.insert(libc::SYS_clone, vec![when(0, thread, u64::from(flags))?]);
    }
    if connect {
        let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
        let families = families.map(i32::cast_unsigned).map(u64::from);
        rules.insert(libc::SYS_socket, any_of(0, families)?);
        rules.insert(libc::SYS_connect, vec![]);
    }
    Ok(rules)
}

fn by_argument(rules: &mut Rules) -> Result<(), BackendError> {
    rules.insert(libc::SYS_ioctl, any_of(1, IOCTLS)?);
    rules.insert(libc::SYS_fcntl, any_of(1, FCNTLS.map(|ask| u64::from(ask.cast_unsigned())))?);
    // no memory that can be executed
    let exec = u64::from(libc::PROT_EXEC.cast_unsigned());
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![when(2, SeccompCmpOp::MaskedEq(exec), 0)?]);
    }
    // limits are read and not set
    let null = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![null])?]);
    // names of threads and of memory
    let names = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA];
    rules.insert(libc::SYS_prctl, any_of(0, names.map(|ask| u64::from(ask.cast_unsigned())))?);
    // abort() and panics; a number that is used again is not ours as long as we live
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![when(0, SeccompCmpOp::Eq, own)?]);
    Ok(())
}

fn any_of<const N: usize>(arg: u8, values: [u64; N]) -> Result<Vec<SeccompRule>, BackendError> {
    values.into_iter().map(|value| when(arg, SeccompCmpOp::Eq, value)).collect()
}

/// Compares the lower half of an argument: the kernel takes these as 32 bits.
fn when(arg: u8, compare: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    let half = SeccompCmpArgLen::Dword;
    SeccompRule::new(vec![SeccompCondition::new(arg, half, compare, value)?])
}
