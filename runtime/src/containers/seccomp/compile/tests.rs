use super::*;
use crate::containers::seccomp::bpf::{AND, IF_GREATER, JUMP, LOAD, RETURN};
use crate::containers::{capabilities, seccomp::runtime_default};
use expect_test::{Expect, expect};
use oci_spec::runtime::{LinuxSeccompArgBuilder, LinuxSeccompOperator as Operator};
use proptest::prelude::*;

/// `struct seccomp_data`, as far as filters look at it.
#[derive(Clone, Copy, Debug)]
struct Call {
    audit: u32,
    number: u32,
    arguments: [u64; 6],
}

/// Runs the program as the kernel would.
fn run(program: &[Instruction], call: &Call) -> u32 {
    let word = |at: u32| match at {
        0 => call.number,
        4 => call.audit,
        _ => {
            let argument = call.arguments[((at - 16) / 8) as usize];
            if at.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
        }
    };
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let i = program[at];
        let branch = |yes: bool| usize::from(if yes { i.if_true } else { i.if_false });
        at += 1 + match i.code {
            LOAD => (accumulator = word(i.value), 0).1,
            AND => (accumulator &= i.value, 0).1,
            JUMP => i.value as usize,
            IF_EQUAL => branch(accumulator == i.value),
            IF_GREATER => branch(accumulator > i.value),
            IF_AT_LEAST => branch(accumulator >= i.value),
            RETURN => return i.value,
            other => panic!("unknown instruction {other:#x}"),
        };
    }
}

fn number(name: &str) -> u32 {
    numbers::X86_64[numbers::X86_64.binary_search_by_key(&name, |(known, _)| known).unwrap()].1
}

fn told(answer: u32) -> String {
    match answer & 0xffff_0000 {
        0x7fff_0000 => "allow".to_owned(),
        0x7ffc_0000 => "log".to_owned(),
        0x8000_0000 => "kill process".to_owned(),
        0x0000_0000 => "kill thread".to_owned(),
        0x0003_0000 => "trap".to_owned(),
        0x0005_0000 => format!("errno {}", answer & 0xffff),
        _ => format!("{answer:#x}"),
    }
}

fn for_x86(profile: &LinuxSeccomp) -> Vec<Instruction> {
    compile_for(profile, [X86_64, X86].into_iter()).unwrap()
}

fn check(profile: &LinuxSeccomp, calls: &[(&str, &[u64])], expected: Expect) {
    let program = for_x86(profile);
    let mut text = String::new();
    for (name, given) in calls {
        let mut arguments = [0; 6];
        arguments[..given.len()].copy_from_slice(given);
        let call = Call { audit: X86_64.audit, number: number(name), arguments };
        text += &format!("{name}({given:x?}): {}\n", told(run(&program, &call)));
    }
    expected.assert_eq(&text);
}

fn argument(index: usize, op: Operator, value: u64, second: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default().index(index).op(op).value(value).value_two(second).build().unwrap()
}

fn rule(name: &str, action: Action, errno: Option<u32>, arguments: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(vec![name.to_owned()]).set_action(action).set_errno_ret(errno).set_args(Some(arguments));
    rule
}

fn profile(default: Action, rules: Vec<LinuxSyscall>) -> LinuxSeccomp {
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(default).set_syscalls(Some(rules));
    profile
}

#[test]
fn the_default_profile_allows_what_containers_do_and_no_more() {
    check(
        &runtime_default(capabilities::default_mask()),
        &[
            ("read", &[]),
            ("mount", &[]),
            ("chroot", &[]),
            ("clone", &[0x3d0f00]),
            ("clone", &[0x1000_0000]),
            ("clone3", &[]),
            ("unshare", &[]),
            ("personality", &[0x20008]),
            ("personality", &[0x40000]),
            ("personality", &[0x1_0000_0000]),
            ("socket", &[2]),
            ("socket", &[38]),
            ("socket", &[40]),
            ("socket", &[0x1_0000_0028]),
            ("keyctl", &[]),
            ("open_by_handle_at", &[]),
            ("io_uring_setup", &[]),
        ],
        expect![[r#"
            read([]): allow
            mount([]): errno 1
            chroot([]): allow
            clone([3d0f00]): allow
            clone([10000000]): errno 1
            clone3([]): errno 38
            unshare([]): errno 1
            personality([20008]): allow
            personality([40000]): errno 1
            personality([100000000]): errno 1
            socket([2]): allow
            socket([26]): errno 1
            socket([28]): errno 1
            socket([100000028]): errno 1
            keyctl([]): errno 1
            open_by_handle_at([]): errno 1
            io_uring_setup([]): errno 1
        "#]],
    );
}

#[test]
fn an_administrator_may_make_namespaces() {
    check(
        &runtime_default(capabilities::bit("SYS_ADMIN").unwrap()),
        &[("clone", &[0x1000_0000]), ("clone3", &[]), ("unshare", &[]), ("chroot", &[])],
        expect![[r#"
            clone([10000000]): allow
            clone3([]): allow
            unshare([]): allow
            chroot([]): errno 1
        "#]],
    );
}

#[test]
fn other_interfaces_are_no_way_around() {
    let program = for_x86(&runtime_default(0));
    let answer = |audit, number| told(run(&program, &Call { audit, number, arguments: [0; 6] }));
    assert_eq!(answer(X86.audit, 21), "errno 1", "mount of 32-bit x86");
    assert_eq!(answer(X86.audit, 20), "allow", "getpid of 32-bit x86");
    assert_eq!(answer(X86_64.audit, X32 + number("getpid")), "errno 38");
    assert_eq!(answer(X86_64.audit, u32::MAX), "errno 38");
    assert_eq!(answer(AARCH64.audit, 1), "kill process");
    // Also where everything is allowed that is not named.
    let open = for_x86(&profile(Action::ScmpActAllow, vec![rule("mount", Action::ScmpActErrno, None, vec![])]));
    let call = Call { audit: X86_64.audit, number: X32 + number("mount"), arguments: [0; 6] };
    assert_eq!(told(run(&open, &call)), "errno 38");
}

#[test]
fn a_call_newer_than_the_profile_does_not_exist() {
    let program = for_x86(&runtime_default(0));
    let call = Call { audit: X86_64.audit, number: 500, arguments: [0; 6] };
    assert_eq!(told(run(&program, &call)), "errno 38");
}

#[test]
fn one_filter_holds_every_action() {
    use Action::*;
    let rules = vec![
        rule("getuid", ScmpActErrno, Some(13), vec![]),
        rule("getgid", ScmpActKillProcess, None, vec![]),
        rule("geteuid", ScmpActTrap, None, vec![]),
        rule("getegid", ScmpActLog, None, vec![]),
        rule("getppid", ScmpActKill, None, vec![]),
        rule("no_such_call_anywhere", ScmpActKill, None, vec![]),
    ];
    check(
        &profile(ScmpActAllow, rules),
        &[("getuid", &[]), ("getgid", &[]), ("geteuid", &[]), ("getegid", &[]), ("getppid", &[]), ("getpid", &[])],
        expect![[r#"
            getuid([]): errno 13
            getgid([]): kill process
            geteuid([]): trap
            getegid([]): log
            getppid([]): kill thread
            getpid([]): allow
        "#]],
    );
}

#[test]
fn conditions_on_one_argument_are_alternatives_and_on_several_hold_together() {
    let eq = |index, value| argument(index, Operator::ScmpCmpEq, value, 0);
    let rules = vec![
        rule("ioctl", Action::ScmpActAllow, None, vec![eq(1, 5), eq(1, 7)]),
        rule("fcntl", Action::ScmpActAllow, None, vec![eq(0, 1), eq(1, 2)]),
        rule("fcntl", Action::ScmpActErrno, Some(9), vec![]),
    ];
    check(
        &profile(Action::ScmpActErrno, rules),
        &[("ioctl", &[0, 5]), ("ioctl", &[0, 7]), ("ioctl", &[0, 6]), ("fcntl", &[1, 2]), ("fcntl", &[1, 3])],
        expect![[r#"
            ioctl([0, 5]): allow
            ioctl([0, 7]): allow
            ioctl([0, 6]): errno 1
            fcntl([1, 2]): allow
            fcntl([1, 3]): errno 9
        "#]],
    );
}

#[test]
fn what_no_filter_can_do_is_refused() {
    let refused = |rule| compile(&profile(Action::ScmpActErrno, vec![rule])).unwrap_err().to_string();
    expect!["seccomp notify is not supported by this runtime"].assert_eq(&refused(rule(
        "read",
        Action::ScmpActNotify,
        None,
        vec![],
    )));
    expect!["70000 is not an errno"].assert_eq(&refused(rule("read", Action::ScmpActErrno, Some(70_000), vec![])));
    let seventh = argument(6, Operator::ScmpCmpEq, 0, 0);
    expect!["a system call has no argument 6"].assert_eq(&refused(rule(
        "read",
        Action::ScmpActAllow,
        None,
        vec![seventh],
    )));
}

#[test]
fn a_filter_that_is_too_long_is_refused() {
    let one = |value| rule("read", Action::ScmpActAllow, None, vec![argument(0, Operator::ScmpCmpEq, value, 0)]);
    let long = profile(Action::ScmpActErrno, (0..2000).map(one).collect());
    assert!(matches!(compile(&long), Err(SeccompError::TooLong(_))));
}

#[test]
fn the_default_filter_is_short() {
    let program = for_x86(&runtime_default(u64::MAX));
    assert!(program.len() < 700, "{} instructions", program.len());
}

#[test]
fn the_names_of_arm_have_numbers_of_their_own() {
    let program = compile_for(&runtime_default(0), std::iter::once(AARCH64)).unwrap();
    let answer = |number| told(run(&program, &Call { audit: AARCH64.audit, number, arguments: [0; 6] }));
    assert_eq!(answer(63), "allow", "read");
    assert_eq!(answer(40), "errno 1", "mount");
}

/// What the OCI specification says, word by word, for one call.
fn model(profile: &LinuxSeccomp, call: &Call) -> u32 {
    let holds = |argument: &LinuxSeccompArg| {
        let given = call.arguments[argument.index()];
        match argument.op() {
            Operator::ScmpCmpNe => given != argument.value(),
            Operator::ScmpCmpLt => given < argument.value(),
            Operator::ScmpCmpLe => given <= argument.value(),
            Operator::ScmpCmpEq => given == argument.value(),
            Operator::ScmpCmpGe => given >= argument.value(),
            Operator::ScmpCmpGt => given > argument.value(),
            Operator::ScmpCmpMaskedEq => given & argument.value() == argument.value_two().unwrap_or(0),
        }
    };
    let named = |rule: &&LinuxSyscall| rule.names().iter().any(|name| number(name) == call.number);
    let rules: Vec<&LinuxSyscall> = calls(profile).filter(named).collect();
    let conditional = rules.iter().find(|rule| {
        let arguments = rule.args().as_deref().unwrap_or_default();
        let repeated = arguments.len() == 2 && arguments[0].index() == arguments[1].index();
        !arguments.is_empty() && if repeated { arguments.iter().any(holds) } else { arguments.iter().all(holds) }
    });
    let plain = rules.iter().find(|rule| rule.args().as_deref().unwrap_or_default().is_empty());
    match conditional.or(plain) {
        Some(rule) => rule.action().as_u32(rule.errno_ret()),
        None => profile.default_action().as_u32(profile.default_errno_ret()),
    }
}

const NAMES: [&str; 6] = ["read", "write", "open", "socket", "clone", "setns"];

fn interesting() -> impl Strategy<Value = u64> {
    let edge = prop_oneof![Just(0u64), Just(1), Just(0xffff_ffff), Just(0x1_0000_0000), Just(u64::MAX), any::<u64>()];
    (edge, -1i64..=1).prop_map(|(edge, step)| edge.wrapping_add_signed(step))
}

fn any_operator() -> impl Strategy<Value = Operator> {
    use Operator::*;
    prop::sample::select(vec![ScmpCmpNe, ScmpCmpLt, ScmpCmpLe, ScmpCmpEq, ScmpCmpGe, ScmpCmpGt, ScmpCmpMaskedEq])
}

fn any_rule() -> impl Strategy<Value = LinuxSyscall> {
    let arguments = prop::collection::vec((0usize..3, any_operator(), interesting(), interesting()), 0..=2);
    (prop::sample::select(NAMES.to_vec()), 1u32..100, arguments).prop_map(|(name, errno, arguments)| {
        let arguments = arguments.into_iter().map(|(index, op, value, second)| argument(index, op, value, second));
        rule(name, Action::ScmpActErrno, Some(errno), arguments.collect())
    })
}

proptest! {
    #[test]
    fn a_filter_decides_as_its_profile_says(
        rules in prop::collection::vec(any_rule(), 0..12),
        name in prop::sample::select(NAMES.to_vec()),
        pick in any::<prop::sample::Index>(),
        random in prop::array::uniform3(interesting()),
    ) {
        let profile = profile(Action::ScmpActAllow, rules);
        // Every other time an argument is exactly what a rule compares it with.
        let values: Vec<u64> = calls(&profile).flat_map(|r| r.args().clone().unwrap_or_default()).map(|a| a.value()).collect();
        let mut arguments = [random[0], random[1], random[2], 0, 0, 0];
        if !values.is_empty() {
            arguments[0] = *pick.get(&values);
        }
        let call = Call { audit: X86_64.audit, number: number(name), arguments };
        prop_assert_eq!(told(run(&for_x86(&profile), &call)), told(model(&profile, &call)));
    }
}
