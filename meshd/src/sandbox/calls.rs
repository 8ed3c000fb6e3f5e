//! Which system calls the process may make from now on (seccomp(2)): filters for x86-64 and AArch64.
//!
//! Three filters, of whose answers the kernel takes the strictest: one allows what the daemon does and refuses the rest
//! with `EPERM`; one answers `clone3` with `ENOSYS`, so that the C library takes `clone`, whose flags a filter can see; and
//! in strict mode one ends the process at calls that only an intruder makes.
//!
//! What the daemon does was found by tracing it through the scenarios (`strace -f`), on purpose wider where C libraries and
//! kernels differ. A call without conditions costs nothing: the kernel remembers that it is allowed (since Linux 5.11).

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::Mode;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Restricts all threads of the process.
///
/// # Errors
/// What the kernel lacks.
pub fn restrict(mode: Mode) -> Result<String, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let failed = |error: seccompiler::Error| error.to_string();
    let build = |rules, otherwise, matched| -> Result<BpfProgram, String> {
        let filter =
            SeccompFilter::new(rules, otherwise, matched, arch).map_err(|error| error.to_string())?;
        BpfProgram::try_from(filter).map_err(|error| error.to_string())
    };
    let allowed = allowed().map_err(|error| error.to_string())?;
    let count = allowed.len();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    let mut filters = Vec::new();
    if mode == Mode::Strict {
        let rules = DEADLY.iter().chain(DEADLY_HERE).map(|call| (*call, Vec::new())).collect();
        filters.push(build(rules, SeccompAction::Allow, SeccompAction::KillProcess)?);
    }
    filters.push(build(Rules::from([(libc::SYS_clone3, Vec::new())]), SeccompAction::Allow, missing)?);
    // Last: it does not allow to install more.
    filters.push(build(allowed, refuse, SeccompAction::Allow)?);
    for filter in &filters {
        seccompiler::apply_filter_all_threads(filter).map_err(failed)?;
    }
    let others =
        if mode == Mode::Strict { "others refused, an intruder's end meshd" } else { "others refused" };
    Ok(format!("seccomp: {count} system calls allowed, {others}"))
}

/// What the daemon does, with conditions on the arguments where a call can do more than that.
pub(super) fn allowed() -> Result<Rules, seccompiler::Error> {
    let mut rules: Rules = PLAIN.iter().chain(PLAIN_HERE).map(|call| (*call, Vec::new())).collect();
    let any_of = |argument: u8, values: &[u64]| -> Result<Vec<SeccompRule>, seccompiler::Error> {
        values.iter().map(|value| Ok(SeccompRule::new(vec![equals(argument, *value)?])?)).collect()
    };
    let [stream, datagram, raw] =
        [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW].map(|kind| kind as u64);
    let kind = |wanted: u64| masked(1, 0xf, wanted);
    let mut sockets = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX] {
        for wanted in [stream, datagram] {
            sockets.push(SeccompRule::new(vec![equals(0, family as u64)?, kind(wanted)?])?);
        }
    }
    for wanted in [raw, datagram] {
        let netlink = equals(0, libc::AF_NETLINK as u64)?;
        sockets.push(SeccompRule::new(vec![netlink, kind(wanted)?, equals(2, libc::NETLINK_ROUTE as u64)?])?);
    }
    rules.insert(libc::SYS_socket, sockets);
    rules.insert(libc::SYS_socketpair, any_of(0, &[libc::AF_UNIX as u64])?);
    // Threads; no processes, no namespaces.
    let thread = (libc::CLONE_VM | libc::CLONE_THREAD) as u64;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![masked(0, thread | NAMESPACES, thread)?])?]);
    rules.insert(libc::SYS_prctl, any_of(0, &[libc::PR_SET_NAME as u64, PR_SET_VMA])?);
    rules.insert(libc::SYS_ioctl, any_of(1, IOCTLS)?);
    // Code comes from files only (libraries of nsswitch.conf), and is never changed.
    let [writable, executable] = [libc::PROT_WRITE as u64, libc::PROT_EXEC as u64];
    let not = |bit: u64| masked(2, bit, 0);
    rules.insert(
        libc::SYS_mmap,
        vec![SeccompRule::new(vec![not(executable)?])?, SeccompRule::new(vec![not(writable)?])?],
    );
    rules.insert(libc::SYS_mprotect, vec![SeccompRule::new(vec![not(executable)?])?]);
    // Limits are read, not set.
    let nothing_new = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![nothing_new])?]);
    // To itself, as abort(3) does.
    rules.insert(libc::SYS_tgkill, any_of(0, &[u64::from(std::process::id())])?);
    Ok(rules)
}

fn equals(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::Error> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, seccompiler::Error> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)?)
}

const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;
/// Names memory for `/proc/PID/maps`, as some C libraries do.
const PR_SET_VMA: u64 = 0x5356_4d41;

/// Sockets and terminals: whether bytes wait, not to block, and which interface has a name.
const IOCTLS: &[u64] = &[
    libc::FIONBIO,
    libc::FIONREAD,
    libc::FIOCLEX,
    libc::TCGETS,
    libc::TIOCGWINSZ,
    libc::SIOCGIFINDEX,
    libc::SIOCGIFNAME,
];

/// Allowed whatever the arguments, on all machines.
const PLAIN: &[i64] = &[
    // Descriptors.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    // Files; which ones is Landlock's business.
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_umask,
    // Sockets that exist.
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    // Memory, threads, and signals.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    // Answered with ENOSYS by a filter of its own.
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Questions.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
];

/// Older names of the same, which newer machines do not have.
#[cfg(target_arch = "x86_64")]
const PLAIN_HERE: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_renameat,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_time,
    libc::SYS_arch_prctl,
];
/// `renameat`, which `libc` has no name for with glibc, though rename(3) is just that (asm-generic/unistd.h).
#[cfg(target_arch = "aarch64")]
const PLAIN_HERE: &[i64] = &[38];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const PLAIN_HERE: &[i64] = &[];

/// No fault of the daemon's own makes these, nor any library that it uses.
const DEADLY: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_clock_settime,
    libc::SYS_settimeofday,
    libc::SYS_personality,
];

#[cfg(target_arch = "x86_64")]
const DEADLY_HERE: &[i64] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_mknod,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
];
#[cfg(not(target_arch = "x86_64"))]
const DEADLY_HERE: &[i64] = &[];
