//! The process that holds a pod's namespaces, and its PID 1 when the pod's containers share one pid namespace: it
//! reaps whoever is left without a parent, and ends on SIGTERM or SIGINT.
//!
//! Without std: one page of memory per pod instead of a hundred. Built by `runtime/shim/build.rs`.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

const SIGINT: u64 = 2;
const SIGTERM: u64 = 15;
const SIGCHLD: u64 = 17;
const WNOHANG: usize = 1;
const PR_SET_DUMPABLE: usize = 4;
const PR_SET_NAME: usize = 15;

#[cfg(target_arch = "x86_64")]
mod numbers {
    pub const EXIT_GROUP: usize = 231;
    pub const PRCTL: usize = 157;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const WAIT4: usize = 61;
}

#[cfg(target_arch = "aarch64")]
mod numbers {
    pub const EXIT_GROUP: usize = 94;
    pub const PRCTL: usize = 167;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
}

use numbers::*;

// The kernel jumps here without a return address; a Rust function wants the stack as after a call.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {run}", run = sym run);

#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "bl {run}", run = sym run);

extern "C" fn run() -> ! {
    system_call(PRCTL, [PR_SET_NAME, c"pause".as_ptr() as usize, 0, 0]);
    // Containers that share our pid namespace must not look into us.
    system_call(PRCTL, [PR_SET_DUMPABLE, 0, 0, 0]);
    let signals: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);
    let set = &raw const signals as usize;
    // Blocked signals reach even a PID 1, for which unblocked ones without a handler are dropped.
    system_call(RT_SIGPROCMASK, [0, set, 0, 8]);
    loop {
        // A child that ended before the mask was set is found in the first round.
        while system_call(WAIT4, [usize::MAX, 0, WNOHANG, 0]) > 0 {}
        let signal = system_call(RT_SIGTIMEDWAIT, [set, 0, 0, 8]) as u64;
        if signal == SIGINT || signal == SIGTERM {
            system_call(EXIT_GROUP, [0, 0, 0, 0]);
        }
    }
}

fn system_call(number: usize, arguments: [usize; 4]) -> isize {
    let result: isize;
    let [first, second, third, fourth] = arguments;
    // SAFETY: the calls above read at most the eight bytes of a live signal set or a live text, and write nothing.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") first, in("rsi") second,
            in("rdx") third, in("r10") fourth, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") first as isize => result, in("x1") second,
            in("x2") third, in("x3") fourth, options(nostack));
    }
    result
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        system_call(EXIT_GROUP, [1, 0, 0, 0]);
    }
}
