use proptest::prelude::*;

use super::*;
use crate::ports::Protocol;

fn open(directory: &Path, range: &str) -> Leases {
    let range = PodRange::new(range.parse().unwrap()).unwrap();
    Leases::load(directory.to_owned(), range).unwrap()
}

fn sandbox(name: &str) -> SandboxId {
    name.parse().unwrap()
}

fn port(host_port: u16) -> HostPort {
    HostPort { host_ip: None, host_port, protocol: Protocol::Tcp, container_port: 80 }
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_lease_outlives_the_store_and_its_sandbox_keeps_it() {
    let directory = tempfile::tempdir().unwrap();
    let address = open(directory.path(), "10.0.0.0/24").reserve(&sandbox("a"), &[port(80)]).unwrap();
    let again = open(directory.path(), "10.0.0.0/24");
    assert_eq!(again.of(&sandbox("a")), Some((address, Lease { sandbox: sandbox("a"), ports: vec![port(80)] })));
    assert_eq!(again.reserve(&sandbox("a"), &[]).unwrap(), address);
    assert_eq!(files(directory.path()), ["10.0.0.2", "last-given"]);
}

#[test]
fn the_round_goes_on_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), "10.0.0.0/24");
    store.reserve(&sandbox("a"), &[]).unwrap();
    store.release(&sandbox("a")).unwrap();
    let next = open(directory.path(), "10.0.0.0/24").reserve(&sandbox("b"), &[]).unwrap();
    assert_eq!(next, Ipv4Addr::new(10, 0, 0, 3));
}

#[test]
fn an_exhausted_range_says_so_and_a_freed_address_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), "10.0.0.0/30");
    store.reserve(&sandbox("a"), &[]).unwrap();
    let error = store.reserve(&sandbox("b"), &[]).unwrap_err();
    assert_eq!(error.to_string(), "pod range 10.0.0.0/30 is exhausted: all 1 addresses are leased");
    assert_eq!(files(directory.path()), ["10.0.0.2", "last-given"]);
    store.release(&sandbox("a")).unwrap();
    assert!(store.reserve(&sandbox("b"), &[]).is_ok());
}

#[test]
fn a_host_port_has_one_holder_and_the_error_names_both() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), "10.0.0.0/24");
    store.reserve(&sandbox("a"), &[port(80)]).unwrap();
    let error = store.reserve(&sandbox("b"), &[port(80)]).unwrap_err();
    assert_eq!(error.to_string(), "host port *:80/tcp wanted by sandbox b is held by sandbox a");
    store.drop_ports(&sandbox("a")).unwrap();
    assert!(store.reserve(&sandbox("b"), &[port(80)]).is_ok());
}

#[test]
fn what_a_killed_agent_left_half_written_is_cleared() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(".new-lease"), "{").unwrap();
    fs::write(directory.path().join("10.0.0.2"), "").unwrap();
    fs::write(directory.path().join("not-ours"), "").unwrap();
    let store = open(directory.path(), "10.0.0.0/24");
    assert_eq!(files(directory.path()), ["not-ours"]);
    assert_eq!(store.reserve(&sandbox("a"), &[]).unwrap(), Ipv4Addr::new(10, 0, 0, 2));
}

#[test]
fn a_temporary_file_that_is_still_linked_to_a_lease_does_not_spoil_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), "10.0.0.0/24");
    store.reserve(&sandbox("a"), &[]).unwrap();
    // Killed between linking and removing the temporary name.
    fs::hard_link(directory.path().join("10.0.0.2"), directory.path().join(".new-lease")).unwrap();
    store.reserve(&sandbox("b"), &[]).unwrap();
    assert_eq!(open(directory.path(), "10.0.0.0/24").of(&sandbox("a")).unwrap().0, Ipv4Addr::new(10, 0, 0, 2));
}

#[test]
fn an_address_that_another_process_took_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (open(directory.path(), "10.0.0.0/24"), open(directory.path(), "10.0.0.0/24"));
    assert_ne!(one.reserve(&sandbox("a"), &[]).unwrap(), two.reserve(&sandbox("b"), &[]).unwrap());
}

#[test]
fn removing_leaves_nothing_and_can_be_repeated() {
    let parent = tempfile::tempdir().unwrap();
    let store = open(&parent.path().join("leases"), "10.0.0.0/24");
    store.reserve(&sandbox("a"), &[]).unwrap();
    store.remove().unwrap();
    store.remove().unwrap();
    assert_eq!(files(parent.path()), [] as [&str; 0]);
}

#[derive(Clone, Debug)]
enum Step {
    Reserve(u8),
    Release(u8),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![4 => (0_u8..12).prop_map(Step::Reserve), 3 => (0_u8..12).prop_map(Step::Release), 1 => Just(Step::Restart)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_store_on_disk_is_always_one_address_per_sandbox(steps in prop::collection::vec(step(), 0..60)) {
        let directory = tempfile::tempdir().unwrap();
        let mut store = open(directory.path(), "10.0.0.0/29");
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Reserve(n) => match store.reserve(&sandbox(&n.to_string()), &[]) {
                    Ok(address) => prop_assert_eq!(*model.entry(n).or_insert(address), address),
                    Err(_) => prop_assert!(model.len() == 5 && !model.contains_key(&n)),
                },
                Step::Release(n) => {
                    store.release(&sandbox(&n.to_string())).unwrap();
                    model.remove(&n);
                }
                Step::Restart => store = open(directory.path(), "10.0.0.0/29"),
            }
        }
        let held: BTreeMap<_, _> = open(directory.path(), "10.0.0.0/29")
            .all()
            .into_iter()
            .map(|(address, lease)| (lease.sandbox.as_str().parse::<u8>().unwrap(), address))
            .collect();
        prop_assert_eq!(held, model);
    }
}
