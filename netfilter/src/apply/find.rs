//! Which of the installed programs is the right one.
//!
//! A packet passes the rules of both back ends, so writing to the wrong one doubles every service. The
//! kubelet leaves a chain as a mark in the one that the host uses.

use super::{ApplyError, SAVE_DEADLINE, run};
use crate::Family;
use std::env;
use std::path::Path;

/// The programs of one back end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Programs {
    pub(super) iptables: &'static str,
    pub(super) restore: &'static str,
    pub(super) save: &'static str,
}

/// Each with where it is looked for: the search path first, then where systems keep it.
type Places = [[&'static str; 3]; 3];

macro_rules! places {
    ($name:literal) => {
        [
            [$name, concat!("/usr/sbin/", $name), concat!("/sbin/", $name)],
            [
                concat!($name, "-restore"),
                concat!("/usr/sbin/", $name, "-restore"),
                concat!("/sbin/", $name, "-restore"),
            ],
            [concat!($name, "-save"), concat!("/usr/sbin/", $name, "-save"), concat!("/sbin/", $name, "-save")],
        ]
    };
}

const PLAIN: [Places; 2] = [places!("iptables"), places!("ip6tables")];
const NFT: [Places; 2] = [places!("iptables-nft"), places!("ip6tables-nft")];
const LEGACY: [Places; 2] = [places!("iptables-legacy"), places!("ip6tables-legacy")];

const MARKS: [&str; 2] = [":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY "];

/// The programs to use.
pub(super) fn programs(family: Family) -> Result<Programs, ApplyError> {
    let of = |places: &[Places; 2], family: Family| found(&places[usize::from(family == Family::V6)]);
    let (nft, legacy) = (of(&NFT, family), of(&LEGACY, family));
    if let (Some(nft), Some(legacy)) = (nft, legacy) {
        // The mark may stand in either family.
        let saves = |places| [Family::V4, Family::V6].into_iter().filter_map(move |family| of(places, family));
        // Naming a table makes it exist in the older tables, so those are listed without.
        if saves(&NFT).any(|programs| is_marked(programs, &["-t", "mangle"])) {
            return Ok(nft);
        }
        if saves(&LEGACY).any(|programs| is_marked(programs, &[])) {
            return Ok(legacy);
        }
    }
    let missing = if family == Family::V6 { "ip6tables" } else { "iptables" };
    of(&PLAIN, family).or(nft).or(legacy).ok_or(ApplyError::Missing(missing))
}

/// The programs of every back end that is installed.
pub(super) fn every(family: Family) -> Vec<Programs> {
    let of = |places: &[Places; 2]| found(&places[usize::from(family == Family::V6)]);
    let named: Vec<_> = [&NFT, &LEGACY].into_iter().filter_map(of).collect();
    // Only where neither is named after its back end does the plain name stand for another one.
    if named.is_empty() { of(&PLAIN).into_iter().collect() } else { named }
}

/// Whether the machine has IPv6 switched on.
pub(super) fn has_ipv6() -> bool {
    let disabled = std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6");
    Path::new("/proc/net/if_inet6").exists() && disabled.is_ok_and(|value| value.trim() != "1")
}

fn is_marked(programs: Programs, arguments: &[&str]) -> bool {
    let listing = run::Command::new(programs.save, arguments).run_well(SAVE_DEADLINE, super::LONG_OUTPUT);
    // A back end that the kernel does not have holds no mark.
    listing.is_ok_and(|text| text.lines().any(|line| MARKS.iter().any(|mark| line.starts_with(mark))))
}

fn found(places: &Places) -> Option<Programs> {
    let program = |places: &[&'static str; 3]| places.iter().copied().find(|place| exists(place));
    Some(Programs { iptables: program(&places[0])?, restore: program(&places[1])?, save: program(&places[2])? })
}

pub(super) fn exists(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).is_file();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
