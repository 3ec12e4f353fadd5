//! The kernel has the last word on filters: they are loaded in a child, which then tries system calls.
#![cfg(target_arch = "x86_64")]

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

use oci_spec::runtime::LinuxSeccomp;
use runtime::containers::capabilities;
use runtime::containers::seccomp::{Program, program, read_profile, runtime_default};

/// `struct sock_fprog`.
#[repr(C)]
struct Filter {
    length: u16,
    instructions: *const u8,
}

/// Gives up new privileges and loads the filter; allocates nothing, so it is fit for a forked child.
fn load(program: &Program) -> io::Result<()> {
    const SET_MODE_FILTER: libc::c_ulong = 1;
    let filter = Filter { length: (program.bytes.len() / 8) as u16, instructions: program.bytes.as_ptr() };
    // SAFETY: prctl takes numbers, and `filter` points to a program that lives until the call returns.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, program.flags, &raw const filter)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How a forked child ends that loads the filter and makes one call: its errno (0 for success), or -signal.
fn outcome(profile: &LinuxSeccomp, call: impl Fn() -> libc::c_long) -> i32 {
    let program = program(profile).unwrap();
    // SAFETY: the child only makes system calls and ends with _exit.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let code = match load(&program) {
            Err(_) => 255,
            Ok(()) if call() < 0 => io::Error::last_os_error().raw_os_error().unwrap_or(254),
            Ok(()) => 0,
        };
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `child` is ours, and `status` is a place for the result.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    if libc::WIFSIGNALED(status) { -libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

fn call(number: libc::c_long, arguments: [libc::c_ulong; 3]) -> impl Fn() -> libc::c_long {
    // SAFETY: the calls made here take numbers or null pointers, and change nothing outside the child.
    move || unsafe { libc::syscall(number, arguments[0], arguments[1], arguments[2]) }
}

fn default_profile() -> LinuxSeccomp {
    runtime_default(capabilities::default_mask())
}

#[test]
fn the_kernel_takes_the_default_filter_and_enforces_it() {
    let profile = default_profile();
    let tried = |number, arguments| outcome(&profile, call(number, arguments));
    assert_eq!(tried(libc::SYS_getpid, [0; 3]), 0);
    assert_eq!(tried(libc::SYS_mount, [0; 3]), libc::EPERM);
    assert_eq!(tried(libc::SYS_unshare, [libc::CLONE_NEWUTS as libc::c_ulong, 0, 0]), libc::EPERM);
    assert_eq!(tried(libc::SYS_clone3, [0; 3]), libc::ENOSYS);
    assert_eq!(tried(libc::SYS_keyctl, [0; 3]), libc::EPERM);
    assert_eq!(tried(libc::SYS_socket, [libc::AF_INET as libc::c_ulong, libc::SOCK_STREAM as libc::c_ulong, 0]), 0);
    assert_eq!(
        tried(libc::SYS_socket, [libc::AF_VSOCK as libc::c_ulong, libc::SOCK_STREAM as libc::c_ulong, 0]),
        libc::EPERM
    );
    assert_eq!(tried(libc::SYS_socket, [(1 << 32) | 38, 5, 0]), libc::EPERM);
    assert_eq!(tried(libc::SYS_personality, [0x40000, 0, 0]), libc::EPERM);
    assert_eq!(tried(libc::SYS_personality, [0xffff_ffff, 0, 0]), 0);
    assert_eq!(tried(999, [0; 3]), libc::ENOSYS, "a call from the future");
    assert_eq!(tried(0x4000_0000 | libc::SYS_getpid, [0; 3]), libc::ENOSYS, "x32");
}

#[test]
fn a_capability_opens_its_calls() {
    let admin = runtime_default(capabilities::bit("SYS_ADMIN").unwrap());
    assert_eq!(outcome(&admin, call(libc::SYS_unshare, [libc::CLONE_NEWUTS as libc::c_ulong, 0, 0])), 0);
    let module = runtime_default(0);
    assert_eq!(outcome(&module, call(libc::SYS_finit_module, [0; 3])), libc::EPERM);
}

/// `int 0x80` is 32-bit x86 from within a 64-bit program: the old way around a filter.
#[test]
fn the_32_bit_entrance_is_guarded_as_well() {
    fn old_call(number: u32) -> libc::c_long {
        let result: u32;
        // SAFETY: getpid and mount with null pointers touch no memory of ours.
        unsafe {
            std::arch::asm!(
                "push rbx", "xor ebx, ebx", "int 0x80", "pop rbx",
                inlateout("eax") number => result, in("ecx") 0, in("edx") 0, in("esi") 0, in("edi") 0,
            );
        }
        if (result as i32) < 0 {
            // SAFETY: errno is the calling thread's own.
            unsafe { *libc::__errno_location() = -(result as i32) };
            return -1;
        }
        result.into()
    }
    let mut open = default_profile();
    open.set_default_action(oci_spec::runtime::LinuxSeccompAction::ScmpActAllow).set_syscalls(None);
    if outcome(&open, || old_call(20)) != 0 {
        #[expect(clippy::print_stdout, reason = "a silent skip reads as a pass")]
        {
            println!("skipped: this kernel has no 32-bit system calls");
        }
        return;
    }
    assert_eq!(outcome(&default_profile(), || old_call(20)), 0, "getpid");
    assert_eq!(outcome(&default_profile(), || old_call(21)), libc::EPERM, "mount");
}

#[test]
fn a_profile_of_ones_own_is_read_and_carried_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("profile.json");
    let text = r#"{
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            { "names": ["getuid", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13 },
            { "names": ["getgid"], "action": "SCMP_ACT_KILL_PROCESS" },
            { "names": ["geteuid"], "action": "SCMP_ACT_TRAP" },
            { "names": ["getpgid"], "action": "SCMP_ACT_ERRNO",
              "args": [{ "index": 0, "value": 4294967295, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ" }] }
        ]
    }"#;
    std::fs::write(&path, text).unwrap();
    let profile = read_profile(&path).unwrap();
    assert_eq!(outcome(&profile, call(libc::SYS_getuid, [0; 3])), libc::EACCES);
    assert_eq!(outcome(&profile, call(libc::SYS_getgid, [0; 3])), -libc::SIGSYS);
    assert_eq!(outcome(&profile, call(libc::SYS_geteuid, [0; 3])), -libc::SIGSYS);
    assert_eq!(outcome(&profile, call(libc::SYS_getpgid, [1, 0, 0])), libc::EPERM);
    assert_eq!(outcome(&profile, call(libc::SYS_getpgid, [0, 0, 0])), 0);
}

#[test]
fn a_profile_that_is_none_or_far_too_large_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("profile.json");
    assert!(read_profile(&path).is_err(), "missing");
    std::fs::write(&path, "{}").unwrap();
    assert!(read_profile(&path).unwrap_err().to_string().contains("is not valid"));
    std::fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(read_profile(&path).unwrap_err().to_string().contains("larger than 1 MiB"));
}

/// A shell that starts programs, reads directories and pipes: what every container does.
#[test]
fn ordinary_programs_run_under_the_default_filter() {
    let program = program(&default_profile()).unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "for i in 1 2 3; do ls -l /etc | sort | wc -l; done; date; sleep 0.01; echo whole"]);
    command.stdout(Stdio::piped());
    // SAFETY: `load` allocates nothing and touches only the child.
    unsafe { command.pre_exec(move || load(&program)) };
    let output = command.output().unwrap();
    assert_eq!(output.status.signal(), None);
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("whole\n"), "{output:?}");
}
