//! The default profile: what a container may ask of the kernel unless its pod says otherwise.
//!
//! The same calls are allowed under the same conditions as in the default profile that containerd and Docker share,
//! so that an image which runs there runs here.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};

use crate::containers::capabilities;

/// Allowed for everyone. `ptrace` and `process_vm_*` since Linux 4.8, from where on they cannot undo a filter.
#[rustfmt::skip]
const ALLOWED: &[&str] = &[
    "_llseek", "_newselect", "accept", "accept4", "access", "adjtimex", "alarm", "bind", "brk", "cachestat", "capget",
    "capset", "chdir", "chmod", "chown", "chown32", "clock_adjtime", "clock_adjtime64", "clock_getres",
    "clock_getres_time64", "clock_gettime", "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64", "close",
    "close_range", "connect", "copy_file_range", "creat", "dup", "dup2", "dup3", "epoll_create", "epoll_create1",
    "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd",
    "eventfd2", "execve", "execveat", "exit", "exit_group", "faccessat", "faccessat2", "fadvise64", "fadvise64_64",
    "fallocate", "fanotify_mark", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchown32", "fchownat",
    "fcntl", "fcntl64", "fdatasync", "fgetxattr", "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr", "fstat",
    "fstat64", "fstatat64", "fstatfs", "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futex", "futex_requeue",
    "futex_time64", "futex_wait", "futex_waitv", "futex_wake", "futimesat", "get_robust_list", "get_thread_area",
    "getcpu", "getcwd", "getdents", "getdents64", "getegid", "getegid32", "geteuid", "geteuid32", "getgid",
    "getgid32", "getgroups", "getgroups32", "getitimer", "getpeername", "getpgid", "getpgrp", "getpid", "getppid",
    "getpriority", "getrandom", "getresgid", "getresgid32", "getresuid", "getresuid32", "getrlimit", "getrusage",
    "getsid", "getsockname", "getsockopt", "gettid", "gettimeofday", "getuid", "getuid32", "getxattr", "getxattrat",
    "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch", "io_cancel", "io_destroy",
    "io_getevents", "io_pgetevents", "io_pgetevents_time64", "io_setup", "io_submit", "ioctl", "ioprio_get",
    "ioprio_set", "ipc", "kill", "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "lchown",
    "lchown32", "lgetxattr", "link", "linkat", "listen", "listmount", "listxattr", "listxattrat", "llistxattr",
    "lremovexattr", "lseek", "lsetxattr", "lstat", "lstat64", "madvise", "map_shadow_stack", "membarrier",
    "memfd_create", "memfd_secret", "mincore", "mkdir", "mkdirat", "mknod", "mknodat", "mlock", "mlock2", "mlockall",
    "mmap", "mmap2", "mprotect", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64",
    "mq_timedsend", "mq_timedsend_time64", "mq_unlink", "mremap", "mseal", "msgctl", "msgget", "msgrcv", "msgsnd",
    "msync", "munlock", "munlockall", "munmap", "name_to_handle_at", "nanosleep", "newfstatat", "open", "openat",
    "openat2", "pause", "pidfd_open", "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc", "pkey_free",
    "pkey_mprotect", "poll", "ppoll", "ppoll_time64", "prctl", "pread64", "preadv", "preadv2", "prlimit64",
    "process_mrelease", "process_vm_readv", "process_vm_writev", "pselect6", "pselect6_time64", "ptrace", "pwrite64",
    "pwritev", "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv", "recv", "recvfrom", "recvmmsg",
    "recvmmsg_time64", "recvmsg", "remap_file_pages", "removexattr", "removexattrat", "rename", "renameat",
    "renameat2", "restart_syscall", "rmdir", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask",
    "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64",
    "rt_tgsigqueueinfo", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr",
    "sched_getparam", "sched_getscheduler", "sched_rr_get_interval", "sched_rr_get_interval_time64",
    "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield", "seccomp", "select",
    "semctl", "semget", "semop", "semtimedop", "semtimedop_time64", "send", "sendfile", "sendfile64", "sendmmsg",
    "sendmsg", "sendto", "set_robust_list", "set_thread_area", "set_tid_address", "setfsgid", "setfsgid32",
    "setfsuid", "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setitimer", "setpgid", "setpriority",
    "setregid", "setregid32", "setresgid", "setresgid32", "setresuid", "setresuid32", "setreuid", "setreuid32",
    "setrlimit", "setsid", "setsockopt", "setuid", "setuid32", "setxattr", "setxattrat", "shmat", "shmctl", "shmdt",
    "shmget", "shutdown", "sigaltstack", "signalfd", "signalfd4", "sigprocmask", "sigreturn", "socketcall",
    "socketpair", "splice", "stat", "stat64", "statfs", "statfs64", "statmount", "statx", "symlink", "symlinkat",
    "sync", "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill", "time", "timer_create", "timer_delete",
    "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64", "timerfd_create",
    "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64", "times", "tkill", "truncate",
    "truncate64", "ugetrlimit", "umask", "uname", "unlink", "unlinkat", "uretprobe", "utime", "utimensat",
    "utimensat_time64", "utimes", "vfork", "vmsplice", "wait4", "waitid", "waitpid", "write", "writev",
];

/// Allowed for everyone on this architecture.
#[cfg(target_arch = "x86_64")]
const NATIVE: &[&str] = &["arch_prctl", "modify_ldt"];
/// Allowed for everyone on this architecture.
#[cfg(not(target_arch = "x86_64"))]
const NATIVE: &[&str] =
    &["arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cacheflush", "set_tls", "sync_file_range2"];

/// Allowed for those who hold the capability.
const BY_CAPABILITY: &[(&str, &[&str])] = &[
    ("DAC_READ_SEARCH", &["open_by_handle_at"]),
    (
        "SYS_ADMIN",
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("SYS_BOOT", &["reboot"]),
    ("SYS_CHROOT", &["chroot"]),
    ("SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("SYS_PACCT", &["acct"]),
    ("SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("SYS_RAWIO", &["ioperm", "iopl"]),
    ("SYS_TIME", &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    ("SYS_TTY_CONFIG", &["vhangup"]),
    ("SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("SYSLOG", &["syslog"]),
    ("BPF", &["bpf"]),
    ("PERFMON", &["perf_event_open"]),
];

/// `CLONE_NEW*` of mount, cgroup, UTS, IPC, user, pid and network namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, and the value that only asks.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The default profile for a process with these capabilities (bits of its bounding set).
///
/// Everything it does not name fails with EPERM.
pub fn runtime_default(capabilities: u64) -> LinuxSeccomp {
    let mut rules = vec![allow(ALLOWED), allow(NATIVE)];
    for (name, calls) in BY_CAPABILITY {
        if capabilities::bit(name).is_some_and(|bit| capabilities & bit != 0) {
            rules.push(allow(calls));
        }
    }
    if capabilities::bit("SYS_ADMIN").is_some_and(|bit| capabilities & bit == 0) {
        rules.extend(without_admin());
    }
    rules.extend(PERSONALITIES.map(|value| allow_if("personality", Operator::ScmpCmpEq, value, None)));
    rules.extend(sockets());
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(Action::ScmpActErrno)
        .set_default_errno_ret(Some(libc::EPERM as u32))
        .set_architectures(Some(architectures()))
        .set_flags(None)
        .set_syscalls(Some(rules));
    profile
}

/// Threads and processes, but no namespaces. The flags of `clone3` are behind a pointer no filter can follow:
/// ENOSYS makes C libraries fall back to `clone`.
fn without_admin() -> [LinuxSyscall; 2] {
    let mut clone3 = rule(&["clone3"], Action::ScmpActErrno, None);
    clone3.set_errno_ret(Some(libc::ENOSYS as u32));
    [allow_if("clone", Operator::ScmpCmpMaskedEq, NEW_NAMESPACES, Some(0)), clone3]
}

/// Every family but ALG (38: the kernel's cryptography, of no use to containers and with a history of holes) and
/// VSOCK (40: reaches the hypervisor, whatever the network namespace). The upper half of the argument counts
/// for the filter and not for the kernel, so no condition may hold for arbitrarily large values.
fn sockets() -> Vec<LinuxSyscall> {
    let below = allow_if("socket", Operator::ScmpCmpLt, libc::AF_ALG as u64, None);
    let equal = |family: u64| allow_if("socket", Operator::ScmpCmpEq, family, None);
    // NFC, then KCM, QIPCRTR, SMC, XDP and MCTP.
    std::iter::once(below).chain([39, 41, 42, 43, 44, 45].map(equal)).collect()
}

fn architectures() -> Vec<Arch> {
    if cfg!(target_arch = "x86_64") {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    } else {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    }
}

fn allow(names: &[&str]) -> LinuxSyscall {
    rule(names, Action::ScmpActAllow, None)
}

fn allow_if(name: &str, operator: Operator, value: u64, second: Option<u64>) -> LinuxSyscall {
    let argument = LinuxSeccompArgBuilder::default().index(0_usize).value(value).op(operator);
    let argument = match second {
        Some(second) => argument.value_two(second),
        None => argument,
    };
    let argument = argument.build().expect("every field has a default");
    rule(&[name], Action::ScmpActAllow, Some(vec![argument]))
}

fn rule(names: &[&str], action: Action, arguments: Option<Vec<LinuxSeccompArg>>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).to_owned()).collect())
        .set_action(action)
        .set_errno_ret(None)
        .set_args(arguments);
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_brings_its_calls() {
        let names = |mask: u64| -> Vec<String> {
            runtime_default(mask).syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect()
        };
        let (plain, admin) = (names(0), names(capabilities::bit("SYS_ADMIN").unwrap()));
        assert!(!plain.contains(&"mount".to_owned()) && admin.contains(&"mount".to_owned()));
        assert!(!names(0).contains(&"chroot".to_owned()));
        assert!(names(capabilities::default_mask()).contains(&"chroot".to_owned()));
    }

    #[test]
    fn every_capability_in_the_table_is_one() {
        assert!(BY_CAPABILITY.iter().all(|(name, _)| capabilities::bit(name).is_some()));
    }
}
