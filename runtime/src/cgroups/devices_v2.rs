//! Device rules on cgroup v2: a small program the kernel asks at every open and mknod of a device.
//!
//! The rules are decided bit by bit: each of read, write and mknod follows the last rule that names the device and
//! that access, exactly as the v1 controller adds and removes them.

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::{Access, CgroupError, DeviceKind, DeviceRule};

/// `struct bpf_insn`: opcode, registers (destination in the low half), jump offset, constant.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    constant: i32,
}

// Opcodes of linux/bpf.h: class, size or operation, source.
const LOAD_WORD: u8 = 0x61;
const COPY: u8 = 0xbf;
const SET: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_BITS: u8 = 0x45;
const EXIT: u8 = 0x95;

// Registers while the program runs; 0 is the answer, 1 the question (`struct bpf_cgroup_dev_ctx`).
const ANSWER: u8 = 0;
const QUESTION: u8 = 1;
const ACCESS: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const fn code(code: u8, register: u8, offset: i16, constant: i32) -> Instruction {
    Instruction { code, registers: register, offset, constant }
}

const fn from_register(code: u8, to: u8, from: u8, offset: i16) -> Instruction {
    Instruction { code, registers: to | (from << 4), offset, constant: 0 }
}

/// The whole program: what is asked, rule by rule from the last to the first, and "no" where none decided.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        // The first word of the question is the access in its upper and the kind in its lower half.
        from_register(LOAD_WORD, ACCESS, QUESTION, 0),
        from_register(COPY, KIND, ACCESS, 0),
        code(AND, KIND, 0, 0xffff),
        code(SHIFT_RIGHT, ACCESS, 0, 16),
        from_register(LOAD_WORD, MAJOR, QUESTION, 4),
        from_register(LOAD_WORD, MINOR, QUESTION, 8),
    ];
    program.extend(rules.iter().rev().flat_map(one_rule));
    program.extend([code(SET, ANSWER, 0, 0), code(EXIT, 0, 0, 0)]);
    program
}

/// Tests that skip the rest of the rule, then what the rule says about the accesses not decided so far.
fn one_rule(rule: &DeviceRule) -> Vec<Instruction> {
    let kind = match rule.kind {
        DeviceKind::All => None,
        DeviceKind::Block => Some(1),
        DeviceKind::Char => Some(2),
    };
    // Numbers are compared as the kernel holds them, 32 bits; the cast keeps the bits.
    let wanted = [(KIND, kind), (MAJOR, rule.major.map(|n| n as i32)), (MINOR, rule.minor.map(|n| n as i32))];
    let tests: Vec<(u8, i32)> = wanted.into_iter().filter_map(|(register, value)| Some((register, value?))).collect();
    let verdict = if rule.allow { allow(rule.access) } else { deny(rule.access) };
    let mut instructions = Vec::with_capacity(tests.len() + verdict.len());
    for (at, (register, value)) in tests.iter().enumerate() {
        let rest = tests.len() - at - 1 + verdict.len();
        instructions.push(code(JUMP_IF_NOT_EQUAL, *register, rest as i16, *value));
    }
    instructions.extend(verdict);
    instructions
}

/// Takes the allowed accesses off; when none is left undecided the answer is yes.
fn allow(access: Access) -> Vec<Instruction> {
    vec![
        code(AND, ACCESS, 0, !bits(access)),
        code(JUMP_IF_EQUAL, ACCESS, 1, 0),
        // Jumps over the answer; written this way round so that the common case falls through to the next rule.
        code(0x05, 0, 2, 0),
        code(SET, ANSWER, 0, 1),
        code(EXIT, 0, 0, 0),
    ]
}

/// One denied access among those not decided so far makes the answer no.
fn deny(access: Access) -> Vec<Instruction> {
    vec![code(JUMP_IF_BITS, ACCESS, 1, bits(access)), code(0x05, 0, 2, 0), code(SET, ANSWER, 0, 0), code(EXIT, 0, 0, 0)]
}

/// `BPF_DEVCG_ACC_*`.
fn bits(access: Access) -> i32 {
    i32::from(access.mknod) | i32::from(access.read) << 1 | i32::from(access.write) << 2
}

/// Loads the program for `rules` and attaches it to the group. Attached twice, both must say yes.
pub(super) fn attach(directory: &Path, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    // A privileged container: whatever stands above it in the tree still counts.
    if rules.last() == Some(&DeviceRule::EVERYTHING) {
        return Ok(());
    }
    let failed = |action| {
        let path = directory.display().to_string();
        move |source| CgroupError::DeviceProgram { action, path, source }
    };
    let group = File::open(directory).map_err(CgroupError::io("opening", directory))?;
    let program = load(&program(rules)).map_err(failed("loading"))?;
    attach_to(&group, &program).map_err(failed("attaching"))
}

/// The fields of `union bpf_attr` for `BPF_PROG_LOAD` that are not zero, in their places.
#[repr(C)]
#[derive(Default)]
struct LoadRequest {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The fields of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct AttachRequest {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    const PROG_LOAD: c_int = 5;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    let request = LoadRequest {
        program_type: TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        name: *b"longshore_device".first_chunk().unwrap_or(&[0; 16]),
        ..LoadRequest::default()
    };
    let request = LoadRequest { name: nul_ended(request.name), ..request };
    // SAFETY: `request` has the layout of the kernel's structure up to its size, and the instructions and the
    // licence it points to live until the call returns.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const request, size_of::<LoadRequest>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor to us (it fits a c_int) and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

/// The kernel wants the last byte of a program's name to be zero.
fn nul_ended(mut name: [u8; 16]) -> [u8; 16] {
    name[15] = 0;
    name
}

fn attach_to(group: &File, program: &OwnedFd) -> io::Result<()> {
    const PROG_ATTACH: c_int = 8;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let request = AttachRequest {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        attach_type: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: `request` has the layout of the kernel's structure up to its size, and both descriptors are open.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const request, size_of::<AttachRequest>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would; only what it uses is known.
    fn ask(rules: &[DeviceRule], kind: i64, access: &str, major: i64, minor: i64) -> bool {
        let program = program(rules);
        let access = i64::from(bits(Access::parse(access).unwrap()));
        let words = [access << 16 | kind, major, minor];
        let (mut at, mut registers) = (0usize, [0i64; 6]);
        loop {
            let i = program[at];
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            let constant = i64::from(i.constant);
            let jump = match i.code {
                LOAD_WORD => (registers[to] = words[usize::try_from(i.offset).unwrap() / 4], false).1,
                COPY => (registers[to] = registers[from], false).1,
                SET => (registers[to] = constant, false).1,
                AND => (registers[to] &= constant, false).1,
                SHIFT_RIGHT => (registers[to] >>= constant, false).1,
                JUMP_IF_NOT_EQUAL => registers[to] != constant,
                JUMP_IF_EQUAL => registers[to] == constant,
                JUMP_IF_BITS => registers[to] & constant != 0,
                0x05 => true,
                EXIT => return registers[0] == 1,
                other => panic!("unknown instruction {other:#x}"),
            };
            at += 1 + if jump { usize::try_from(i.offset).unwrap() } else { 0 };
        }
    }

    fn rule(allow: bool, major: u32, access: &str) -> DeviceRule {
        let access = Access::parse(access).unwrap();
        DeviceRule { allow, kind: DeviceKind::Char, major: Some(major), minor: None, access }
    }

    #[test]
    fn nothing_is_allowed_unless_a_rule_says_so() {
        assert!(!ask(&[], 2, "r", 1, 3));
        assert!(!ask(&[DeviceRule::NOTHING], 2, "r", 1, 3));
        assert!(ask(&[DeviceRule::NOTHING, rule(true, 1, "rwm")], 2, "rw", 1, 3));
        assert!(!ask(&[DeviceRule::NOTHING, rule(true, 1, "rwm")], 1, "rw", 1, 3), "a block device of the same number");
    }

    #[test]
    fn each_access_follows_the_last_rule_that_names_it() {
        let rules = [DeviceRule::NOTHING, rule(true, 1, "r"), rule(true, 1, "w")];
        assert!(ask(&rules, 2, "rw", 1, 3), "allowed by two rules together");
        let rules = [DeviceRule::EVERYTHING, rule(false, 1, "w")];
        assert!(ask(&rules, 2, "r", 1, 3));
        assert!(!ask(&rules, 2, "rw", 1, 3));
        assert!(ask(&rules, 2, "rw", 2, 3));
    }
}
