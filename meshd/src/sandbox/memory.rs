//! Keeping the keys in memory out of core dumps, debuggers, and swap.

use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Forbids core dumps, and reading this process's memory to other processes of its user.
///
/// # Errors
/// What the system does not allow.
pub fn forbid_dumps() -> Result<(), String> {
    // Should somebody switch dumps on again from outside, then no memory is in them: every kind of mapping is left out
    // (core(5)). Not on every kernel, and only until the next line while /proc/self is ours.
    let _ = std::fs::write("/proc/self/coredump_filter", "0");
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|error| format!("RLIMIT_CORE: {error}"))?;
    nix::sys::prctl::set_dumpable(false).map_err(|error| format!("PR_SET_DUMPABLE: {error}"))
}

/// Keeps all memory out of swap, where the limit allows any amount. Pages are locked as they are touched, so nothing grows.
///
/// # Errors
/// Why it may be swapped out.
pub fn lock() -> Result<String, String> {
    // At a limit the kernel refuses locked memory, also the growth of a stack, which ends the process.
    if !getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft == libc::RLIM_INFINITY) {
        return Err(
            "memory may be swapped out: the limit on locked memory (LimitMEMLOCK) is not `infinity`".into()
        );
    }
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT as libc::c_int);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault)
        .map(|()| "memory stays out of swap".into())
        .map_err(|error| format!("memory may be swapped out: {error}"))
}
