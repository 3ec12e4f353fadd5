//! The classic BPF a seccomp filter is written in: instructions, and conditions on an argument.

use oci_spec::runtime::LinuxSeccompOperator as Operator;

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) if_true: u8,
    pub(super) if_false: u8,
    pub(super) value: u32,
}

// Opcodes of linux/bpf_common.h, as far as they are used.
pub(super) const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub(super) const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
pub(super) const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
pub(super) const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
pub(super) const IF_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
pub(super) const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
pub(super) const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Places in `struct seccomp_data`.
pub(super) const NUMBER_AT: u32 = 0;
pub(super) const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

pub(super) const fn load(at: u32) -> Instruction {
    Instruction { code: LOAD, if_true: 0, if_false: 0, value: at }
}

pub(super) const fn answer(action: u32) -> Instruction {
    Instruction { code: RETURN, if_true: 0, if_false: 0, value: action }
}

pub(super) const fn jump(over: u32) -> Instruction {
    Instruction { code: JUMP, if_true: 0, if_false: 0, value: over }
}

pub(super) const fn test(code: u16, value: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code, if_true, if_false, value }
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) index: u32,
    pub(super) operator: Operator,
    pub(super) value: u64,
    pub(super) second: u64,
}

/// Where a test leads before the distances are known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Next,
    /// The condition holds: on to what follows it.
    Holds,
    /// It does not: out of the whole rule.
    Fails,
}

enum Step {
    Plain(Instruction),
    Test(u16, u32, To, To),
}

/// Instructions that fall through when every condition holds and skip `rest` more instructions when one does not.
pub(super) fn conditions(conditions: &[Condition], rest: usize) -> Vec<Instruction> {
    let mut code = Vec::new();
    // From the last to the first, so that the distance to the end of the rule is known.
    for condition in conditions.iter().rev() {
        let mut one = assemble(&steps(condition), code.len() + rest);
        one.append(&mut code);
        code = one;
    }
    code
}

/// The kernel compares 32 bits at a time: the upper half decides, or leaves it to the lower one.
fn steps(condition: &Condition) -> Vec<Step> {
    use To::{Fails, Holds, Next};
    // Both supported architectures are little-endian: the lower half comes first.
    let low_at = ARGUMENTS_AT + 8 * condition.index;
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (high, low) = halves(condition.value);
    let (load_low, load_high) = (Step::Plain(load(low_at)), Step::Plain(load(low_at + 4)));
    let masked = |value: u32| Step::Plain(Instruction { code: AND, if_true: 0, if_false: 0, value });
    match condition.operator {
        Operator::ScmpCmpEq => {
            vec![load_high, Step::Test(IF_EQUAL, high, Next, Fails), load_low, Step::Test(IF_EQUAL, low, Holds, Fails)]
        }
        Operator::ScmpCmpNe => {
            vec![load_high, Step::Test(IF_EQUAL, high, Next, Holds), load_low, Step::Test(IF_EQUAL, low, Fails, Holds)]
        }
        Operator::ScmpCmpMaskedEq => {
            let (second_high, second_low) = halves(condition.second);
            vec![
                load_high,
                masked(high),
                Step::Test(IF_EQUAL, second_high, Next, Fails),
                load_low,
                masked(low),
                Step::Test(IF_EQUAL, second_low, Holds, Fails),
            ]
        }
        Operator::ScmpCmpGt => above(load_high, load_low, high, Step::Test(IF_GREATER, low, Holds, Fails)),
        Operator::ScmpCmpGe => above(load_high, load_low, high, Step::Test(IF_AT_LEAST, low, Holds, Fails)),
        Operator::ScmpCmpLt => below(load_high, load_low, high, Step::Test(IF_AT_LEAST, low, Fails, Holds)),
        Operator::ScmpCmpLe => below(load_high, load_low, high, Step::Test(IF_GREATER, low, Fails, Holds)),
    }
}

fn above(load_high: Step, load_low: Step, high: u32, last: Step) -> Vec<Step> {
    let decided = Step::Test(IF_GREATER, high, To::Holds, To::Next);
    vec![load_high, decided, Step::Test(IF_EQUAL, high, To::Next, To::Fails), load_low, last]
}

fn below(load_high: Step, load_low: Step, high: u32, last: Step) -> Vec<Step> {
    let decided = Step::Test(IF_GREATER, high, To::Fails, To::Next);
    vec![load_high, decided, Step::Test(IF_EQUAL, high, To::Next, To::Holds), load_low, last]
}

/// A rule has at most six conditions of six instructions, so every distance fits its byte.
fn assemble(steps: &[Step], rest: usize) -> Vec<Instruction> {
    let distance = |at: usize, to: To| {
        let behind = steps.len() - at - 1;
        u8::try_from(match to {
            To::Next => 0,
            To::Holds => behind,
            To::Fails => behind + rest,
        })
        .unwrap_or(u8::MAX)
    };
    let one = |(at, step): (usize, &Step)| match step {
        Step::Plain(instruction) => *instruction,
        Step::Test(code, value, yes, no) => test(*code, *value, distance(at, *yes), distance(at, *no)),
    };
    steps.iter().enumerate().map(one).collect()
}

/// The program as the kernel takes it: `struct sock_filter` in native byte order.
pub(super) fn bytes(program: &[Instruction]) -> Vec<u8> {
    let one = |instruction: &Instruction| {
        let [a, b] = instruction.code.to_ne_bytes();
        let [c, d, e, f] = instruction.value.to_ne_bytes();
        [a, b, instruction.if_true, instruction.if_false, c, d, e, f]
    };
    program.iter().flat_map(one).collect()
}
