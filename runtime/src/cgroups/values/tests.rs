use super::*;
use expect_test::{Expect, expect};

fn machine(names: &[&str], swap: bool) -> Controllers {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Controllers { names, swap, hugepage_sizes: vec!["2MB".to_owned()] }
}

fn everything() -> Controllers {
    machine(&["cpu", "cpuset", "hugetlb", "memory", "pids"], true)
}

fn text(result: Result<Vec<Write>, CgroupError>) -> String {
    match result {
        Ok(writes) => writes.iter().map(|write| format!("{} = {}\n", write.file, write.value)).collect(),
        Err(error) => format!("refused: {error}\n"),
    }
}

fn check(resources: &Resources, version: Version, controllers: &Controllers, now: Option<u64>, expected: Expect) {
    let now = MemoryNow { memory_and_swap: now };
    expected.assert_eq(&text(cgroup_values(resources, version, controllers, now)));
}

fn full() -> Resources {
    Resources {
        cpu_shares: Some(512),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        cpus: Some("0-1".to_owned()),
        mems: Some("0".to_owned()),
        memory_limit: Some(64 << 20),
        memory_swap_limit: Some(96 << 20),
        pids_limit: Some(100),
        hugepage_limits: vec![("2MB".to_owned(), 4 << 20), ("1GB".to_owned(), 0)],
        unified: BTreeMap::from([("memory.oom.group".to_owned(), "1".to_owned())]),
    }
}

#[test]
fn every_limit_has_its_file_on_v1() {
    check(
        &full(),
        Version::Hybrid,
        &everything(),
        None,
        expect![[r#"
            cpuset.cpus = 0-1
            cpuset.mems = 0
            cpu.shares = 512
            cpu.cfs_period_us = 100000
            cpu.cfs_quota_us = 50000
            memory.limit_in_bytes = 67108864
            memory.memsw.limit_in_bytes = 100663296
            pids.max = 100
            hugetlb.2MB.limit_in_bytes = 4194304
        "#]],
    );
}

#[test]
fn every_limit_has_its_file_on_v2_and_swap_is_counted_alone() {
    check(
        &full(),
        Version::V2,
        &everything(),
        None,
        expect![[r#"
            cpuset.cpus = 0-1
            cpuset.mems = 0
            cpu.weight = 20
            cpu.max = 50000 100000
            memory.max = 67108864
            memory.swap.max = 33554432
            pids.max = 100
            hugetlb.2MB.max = 4194304
            memory.oom.group = 1
        "#]],
    );
}

#[test]
fn unlimited_is_spelled_as_each_version_wants_it() {
    let resources = Resources {
        cpu_quota: Some(-1),
        cpu_period: Some(100_000),
        memory_limit: Some(-1),
        memory_swap_limit: Some(-1),
        pids_limit: Some(-1),
        ..Resources::default()
    };
    check(
        &resources,
        Version::V1,
        &everything(),
        Some(1 << 20),
        expect![[r#"
            cpu.cfs_period_us = 100000
            cpu.cfs_quota_us = -1
            memory.memsw.limit_in_bytes = -1
            memory.limit_in_bytes = -1
            pids.max = max
        "#]],
    );
    check(
        &resources,
        Version::V2,
        &everything(),
        None,
        expect![[r#"
            cpu.max = max 100000
            memory.max = max
            memory.swap.max = max
            pids.max = max
        "#]],
    );
}

#[test]
fn on_v1_memory_and_swap_cross_in_the_order_the_kernel_accepts() {
    let resources = Resources { memory_limit: Some(200), memory_swap_limit: Some(300), ..Resources::default() };
    check(
        &resources,
        Version::V1,
        &everything(),
        Some(100),
        expect![[r#"
            memory.memsw.limit_in_bytes = 300
            memory.limit_in_bytes = 200
        "#]],
    );
    check(
        &resources,
        Version::V1,
        &everything(),
        Some(1000),
        expect![[r#"
            memory.limit_in_bytes = 200
            memory.memsw.limit_in_bytes = 300
        "#]],
    );
}

#[test]
fn a_machine_without_swap_accounting_limits_memory_alone() {
    let mut resources = full();
    resources.unified = BTreeMap::from([("memory.swap.max".to_owned(), "0".to_owned())]);
    let machine = machine(&["memory"], false);
    resources.hugepage_limits.clear();
    check(
        &resources,
        Version::V1,
        &machine,
        None,
        expect![[r#"
            memory.limit_in_bytes = 67108864
        "#]],
    );
    check(
        &resources,
        Version::V2,
        &machine,
        None,
        expect![[r#"
            memory.max = 67108864
        "#]],
    );
}

#[test]
fn huge_pages_are_refused_only_where_some_are_asked_for() {
    let none = Resources { hugepage_limits: vec![("1GB".to_owned(), 0)], ..Resources::default() };
    check(&none, Version::V2, &machine(&["memory"], true), None, expect![""]);
    let some = Resources { hugepage_limits: vec![("1GB".to_owned(), 1 << 30)], ..Resources::default() };
    check(
        &some,
        Version::V2,
        &everything(),
        None,
        expect![[r#"
            refused: the limit of 1GB pages needs the cgroup controller hugetlb, which is not available
        "#]],
    );
}

#[test]
fn unified_files_stay_in_the_group_and_out_of_its_administration() {
    for file in ["../memory.max", "cgroup.procs", "memory", "io.max"] {
        let resources =
            Resources { unified: BTreeMap::from([(file.to_owned(), "1".to_owned())]), ..Resources::default() };
        let result = cgroup_values(&resources, Version::V2, &everything(), MemoryNow::default());
        assert!(result.is_err(), "{file}");
    }
}

#[test]
fn a_zero_of_the_cri_sets_nothing() {
    assert_eq!(Resources::from(&v1::LinuxContainerResources::default()), Resources::default());
}

#[test]
fn shares_become_weights_along_the_kubelets_line() {
    assert_eq!([0, 2, 100, 1024, 2048, 262_144, u64::MAX].map(weight_of_shares), [1, 1, 4, 39, 79, 10_000, 10_000]);
}
