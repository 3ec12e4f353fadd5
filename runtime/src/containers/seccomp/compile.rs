//! From an OCI profile to one filter with several actions.
//!
//! Calls with the same fate and neighbouring numbers become one range; a binary search over the ranges finds a call's
//! fate in about six comparisons, however many calls the profile names.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag as Flag, LinuxSyscall,
};

use super::bpf::{
    ARCHITECTURE_AT, Condition, IF_AT_LEAST, IF_EQUAL, Instruction, NUMBER_AT, answer, conditions, jump, load, test,
};
use super::{SeccompError, numbers};

/// `SECCOMP_RET_KILL_PROCESS`: what a call through an architecture the profile does not name gets.
const KILL_PROCESS: u32 = 0x8000_0000;
/// `SECCOMP_RET_ERRNO` with ENOSYS: "there is no such call", so that programs fall back to an older one.
const NO_SUCH_CALL: u32 = 0x0005_0000 | libc::ENOSYS as u32;
/// From here on numbers of 64-bit x86 mean x32, an interface whose calls the profile's numbers do not cover.
const X32: u32 = 0x4000_0000;
/// `BPF_MAXINSNS`.
const LONGEST: usize = 4096;

/// One architecture's part of a filter.
struct Target {
    /// `AUDIT_ARCH_*`.
    audit: u32,
    calls: &'static [(&'static str, u32)],
    has_x32: bool,
}

const X86_64: Target = Target { audit: 0xc000_003e, calls: numbers::X86_64, has_x32: true };
const X86: Target = Target { audit: 0x4000_0003, calls: numbers::X86, has_x32: false };
const AARCH64: Target = Target { audit: 0xc000_00b7, calls: numbers::AARCH64, has_x32: false };

/// What happens to the calls from one number up to the next entry's.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Always(u32),
    /// The first whose conditions all hold; otherwise the last action.
    ByArguments(Vec<(Vec<Condition>, u32)>, u32),
}

/// The filter for this machine's architecture (and 32-bit x86 where the profile names it).
pub(super) fn compile(profile: &LinuxSeccomp) -> Result<Vec<Instruction>, SeccompError> {
    let native = if cfg!(target_arch = "x86_64") { X86_64 } else { AARCH64 };
    let named = |arch| profile.architectures().iter().flatten().any(|named| *named == arch);
    let second = (cfg!(target_arch = "x86_64") && named(Arch::ScmpArchX86)).then_some(X86);
    compile_for(profile, std::iter::once(native).chain(second))
}

fn compile_for(
    profile: &LinuxSeccomp,
    targets: impl Iterator<Item = Target>,
) -> Result<Vec<Instruction>, SeccompError> {
    refuse_listener(profile)?;
    let mut program = vec![load(ARCHITECTURE_AT)];
    for target in targets {
        let mut section = vec![load(NUMBER_AT)];
        section.extend(search(&ranges(profile, &target)?));
        program.extend([test(IF_EQUAL, target.audit, 1, 0), jump(length(&section)?)]);
        program.extend(section);
    }
    program.push(answer(KILL_PROCESS));
    if program.len() > LONGEST { Err(SeccompError::TooLong(program.len())) } else { Ok(program) }
}

/// `SECCOMP_FILTER_FLAG_*` of the profile's flags. TSYNC means nothing to a process with one thread, and
/// WAIT_KILLABLE_RECV nothing without a listener.
pub(super) fn flags(profile: &LinuxSeccomp) -> u32 {
    let one = |flag: &Flag| match flag {
        Flag::SeccompFilterFlagLog => 2,
        Flag::SeccompFilterFlagSpecAllow => 4,
        Flag::SeccompFilterFlagTsync | Flag::SeccompFilterFlagWaitKillableRecv => 0,
    };
    profile.flags().iter().flatten().map(one).fold(0, |all, flag| all | flag)
}

fn refuse_listener(profile: &LinuxSeccomp) -> Result<(), SeccompError> {
    let notifies = |action| action == Action::ScmpActNotify;
    let any = notifies(profile.default_action()) || calls(profile).any(|rule| notifies(rule.action()));
    if any || profile.listener_path().is_some() { Err(SeccompError::Notify) } else { Ok(()) }
}

fn calls(profile: &LinuxSeccomp) -> impl Iterator<Item = &LinuxSyscall> {
    profile.syscalls().iter().flatten()
}

/// An errno is twelve bits to the kernel, and no larger than 4095.
fn action(action: Action, errno: Option<u32>) -> Result<u32, SeccompError> {
    match (action, errno) {
        (Action::ScmpActErrno | Action::ScmpActTrace, Some(errno)) if errno > 4095 => Err(SeccompError::Errno(errno)),
        _ => Ok(action.as_u32(errno)),
    }
}

/// Number of the first call of each range, in order, beginning with 0.
fn ranges(profile: &LinuxSeccomp, target: &Target) -> Result<Vec<(u32, Fate)>, SeccompError> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let fates = fates(profile, target, default)?;
    let mut points: Vec<(u32, Fate)> = Vec::new();
    let mut next = 0;
    for (number, fate) in &fates {
        if *number > next {
            points.push((next, Fate::Always(default)));
        }
        points.push((*number, fate.clone()));
        next = number + 1;
    }
    points.push((next, Fate::Always(beyond(profile.default_action(), default))));
    if target.has_x32 {
        points.push((X32, Fate::Always(NO_SUCH_CALL)));
    }
    points.dedup_by(|later, earlier| later.1 == earlier.1);
    Ok(points)
}

/// Calls newer than any the profile names: its author could not know them, and a program that hears EPERM does not
/// fall back to an older call as it does on ENOSYS. runc does the same.
fn beyond(default: Action, value: u32) -> u32 {
    if default == Action::ScmpActErrno { NO_SUCH_CALL } else { value }
}

/// Names this architecture does not have are passed over, as in runc: profiles name calls of many.
fn fates(profile: &LinuxSeccomp, target: &Target, default: u32) -> Result<BTreeMap<u32, Fate>, SeccompError> {
    let mut fates = BTreeMap::new();
    for rule in calls(profile) {
        let value = action(rule.action(), rule.errno_ret())?;
        let alternatives = alternatives(rule.args().as_deref().unwrap_or_default())?;
        for name in rule.names() {
            let Ok(at) = target.calls.binary_search_by_key(&name.as_str(), |(known, _)| known) else { continue };
            add(fates.entry(target.calls[at].1), &alternatives, value, default);
        }
    }
    Ok(fates)
}

/// The first rule without conditions decides for what no condition caught.
fn add(
    entry: std::collections::btree_map::Entry<'_, u32, Fate>,
    alternatives: &[Vec<Condition>],
    value: u32,
    default: u32,
) {
    if alternatives.is_empty() {
        let fate = entry.or_insert(Fate::Always(value));
        if let Fate::ByArguments(_, last) = fate
            && *last == default
        {
            *last = value;
        }
        return;
    }
    let fate = entry.or_insert_with(|| Fate::ByArguments(Vec::new(), default));
    let new = alternatives.iter().map(|conditions| (conditions.clone(), value));
    match fate {
        Fate::ByArguments(rules, _) => rules.extend(new),
        Fate::Always(last) => *fate = Fate::ByArguments(new.collect(), *last),
    }
}

/// Conditions on different arguments must hold together; several on the same argument are alternatives, as in runc.
fn alternatives(arguments: &[LinuxSeccompArg]) -> Result<Vec<Vec<Condition>>, SeccompError> {
    let all: Vec<Condition> = arguments.iter().map(condition).collect::<Result<_, _>>()?;
    let repeated = all.iter().enumerate().any(|(at, one)| all[..at].iter().any(|other| other.index == one.index));
    Ok(match (all.is_empty(), repeated) {
        (true, _) => Vec::new(),
        (false, true) => all.into_iter().map(|one| vec![one]).collect(),
        (false, false) => vec![all],
    })
}

fn condition(argument: &LinuxSeccompArg) -> Result<Condition, SeccompError> {
    let index = u32::try_from(argument.index()).ok().filter(|index| *index < 6);
    let index = index.ok_or(SeccompError::Argument(argument.index()))?;
    let second = argument.value_two().unwrap_or(0);
    Ok(Condition { index, operator: argument.op(), value: argument.value(), second })
}

/// Halves the ranges until one is left. The number stays in the accumulator until a fate loads an argument.
fn search(ranges: &[(u32, Fate)]) -> Vec<Instruction> {
    match ranges {
        [] => Vec::new(),
        [(_, fate)] => fate_code(fate),
        _ => {
            let (lower, upper) = ranges.split_at(ranges.len() / 2);
            let (lower, upper_code) = (search(lower), search(upper));
            let at_least = upper[0].0;
            let mut code = match u8::try_from(lower.len()) {
                Ok(over) => vec![test(IF_AT_LEAST, at_least, over, 0)],
                // Too far for a conditional jump, whose distance is one byte.
                Err(_) => vec![test(IF_AT_LEAST, at_least, 0, 1), jump(lower.len() as u32)],
            };
            code.extend(lower);
            code.extend(upper_code);
            code
        }
    }
}

fn fate_code(fate: &Fate) -> Vec<Instruction> {
    match fate {
        Fate::Always(action) => vec![answer(*action)],
        Fate::ByArguments(rules, last) => {
            let mut code = Vec::new();
            for (all, action) in rules {
                code.extend(conditions(all, 1));
                code.push(answer(*action));
            }
            code.push(answer(*last));
            code
        }
    }
}

fn length(code: &[Instruction]) -> Result<u32, SeccompError> {
    u32::try_from(code.len()).map_err(|_| SeccompError::TooLong(code.len()))
}

#[cfg(test)]
mod tests;
