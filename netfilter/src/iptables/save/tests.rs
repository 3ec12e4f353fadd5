use super::*;
use Family::{V4, V6};

#[track_caller]
fn check(family: Family, given: &str, printed: &str) {
    assert_eq!(saved(given, family).as_deref(), Ok(printed));
    assert_eq!(saved(printed, family).as_deref(), Ok(printed), "the printed form stays");
}

#[test]
fn rules_are_printed_as_iptables_1_8_9_prints_them() {
    check(
        V4,
        "-m comment --comment demo/web:http -m recent --name KUBE-SEP-A --set -m tcp -p tcp -j DNAT --to-destination 10.244.1.7:8080",
        "-p tcp -m comment --comment \"demo/web:http\" -m recent --set --name KUBE-SEP-A --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 10.244.1.7:8080",
    );
    check(
        V4,
        "-m comment --comment \"ns/svc cluster IP\" -m tcp -p tcp -d 10.96.0.50 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ",
        "! -s 10.244.0.0/16 -d 10.96.0.50/32 -p tcp -m comment --comment \"ns/svc cluster IP\" -m tcp --dport 80 -j KUBE-MARK-MASQ",
    );
    check(V4, "-j MARK --xor-mark 0x00004000", "-j MARK --set-xmark 0x4000/0x0");
    check(V4, "-m mark ! --mark 0x00004000/0x00004000 -j RETURN", "-m mark ! --mark 0x4000/0x4000 -j RETURN");
    check(
        V4,
        "-m comment --comment x -j REJECT",
        "-m comment --comment \"x\" -j REJECT --reject-with icmp-port-unreachable",
    );
    check(V6, "-d fd00::1 -j REJECT", "-d fd00::1/128 -j REJECT --reject-with icmp6-port-unreachable");
}

#[test]
fn probabilities_are_rounded_as_the_kernel_rounds_them() {
    for (given, printed) in
        [("0.3333333333", "0.33333333349"), ("0.1428571429", "0.14285714272"), ("0.0000100000", "0.00001000008")]
    {
        let rule = |p| format!("-m statistic --mode random --probability {p} -j X");
        check(V4, &rule(given), &rule(printed));
    }
}

#[test]
fn what_our_rules_never_hold_is_refused() {
    assert_eq!(saved("--queue-num 1", V4), Err(Unreadable::Option("--queue-num".into())));
    assert_eq!(saved("-d fd00::1 -j DROP", V4), Err(Unreadable::Value("-d".into())));
    assert_eq!(saved("-m comment --comment \"open", V4), Err(Unreadable::Quote));
}
