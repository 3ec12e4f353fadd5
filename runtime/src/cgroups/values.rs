//! Which text goes into which file of a group: a pure decision.

use std::collections::BTreeMap;

use cri_proto::v1;
use oci_spec::runtime::LinuxResources;

use super::{CgroupError, Cgroups, Controllers, Version};

/// Limits of one group. `None` leaves what the kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Relative weight as cgroup v1 counts it: 2 to 262144, 1024 per core.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU per period; -1 is unlimited.
    pub cpu_quota: Option<i64>,
    /// Length of the period in microseconds.
    pub cpu_period: Option<u64>,
    /// CPUs the group may use, such as `0-3,5`.
    pub cpus: Option<String>,
    /// Memory nodes the group may use.
    pub mems: Option<String>,
    /// Bytes of memory; -1 is unlimited.
    pub memory_limit: Option<i64>,
    /// Bytes of memory and swap together, as cgroup v1 counts; -1 is unlimited.
    pub memory_swap_limit: Option<i64>,
    /// Number of processes and threads; -1 is unlimited.
    pub pids_limit: Option<i64>,
    /// Page size (`2MB`) and bytes.
    pub hugepage_limits: Vec<(String, u64)>,
    /// Files of cgroup v2 and their content, written as they are; ignored on v1 and hybrid.
    pub unified: BTreeMap<String, String>,
}

/// In the CRI a zero means "not set".
impl From<&v1::LinuxContainerResources> for Resources {
    fn from(from: &v1::LinuxContainerResources) -> Self {
        let text = |value: &String| Some(value.clone()).filter(|value| !value.is_empty());
        let signed = |value: i64| Some(value).filter(|value| *value != 0);
        let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value != 0);
        Self {
            cpu_shares: positive(from.cpu_shares),
            cpu_quota: signed(from.cpu_quota),
            cpu_period: positive(from.cpu_period),
            cpus: text(&from.cpuset_cpus),
            mems: text(&from.cpuset_mems),
            memory_limit: signed(from.memory_limit_in_bytes),
            memory_swap_limit: signed(from.memory_swap_limit_in_bytes),
            pids_limit: None,
            hugepage_limits: from.hugepage_limits.iter().map(|page| (page.page_size.clone(), page.limit)).collect(),
            unified: from.unified.iter().map(|(file, value)| (file.clone(), value.clone())).collect(),
        }
    }
}

impl From<&LinuxResources> for Resources {
    fn from(from: &LinuxResources) -> Self {
        let cpu = from.cpu().clone().unwrap_or_default();
        let memory = from.memory().unwrap_or_default();
        let hugepages = from.hugepage_limits().iter().flatten();
        Self {
            cpu_shares: cpu.shares(),
            cpu_quota: cpu.quota(),
            cpu_period: cpu.period(),
            cpus: cpu.cpus().clone(),
            mems: cpu.mems().clone(),
            memory_limit: memory.limit(),
            memory_swap_limit: memory.swap(),
            pids_limit: from.pids().map(|pids| pids.limit()),
            hugepage_limits: hugepages
                .map(|page| (page.page_size().clone(), u64::try_from(page.limit()).unwrap_or(u64::MAX)))
                .collect(),
            unified: from.unified().iter().flatten().map(|(file, value)| (file.clone(), value.clone())).collect(),
        }
    }
}

/// One file of a group and what is written into it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Write {
    /// The controller whose directory (on v1) holds the file.
    pub controller: &'static str,
    /// File name.
    pub file: String,
    /// Content.
    pub value: String,
}

/// Memory limits of the group as they are before the change: on v1 the two must cross in the right order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryNow {
    /// `memory.memsw.limit_in_bytes`; `None` for a new group.
    pub memory_and_swap: Option<u64>,
}

/// The writes that give a group these limits, in the order they have to be made.
///
/// # Errors
/// [`CgroupError::NoController`] where a limit above "nothing" has no controller here,
/// [`CgroupError::BadValue`] for a value no kernel takes.
pub fn cgroup_values(
    resources: &Resources,
    version: Version,
    controllers: &Controllers,
    now: MemoryNow,
) -> Result<Vec<Write>, CgroupError> {
    let mut writes = match version {
        Version::V2 => v2::values(resources, controllers)?,
        Version::V1 | Version::Hybrid => v1_values(resources, controllers, now)?,
    };
    // A controller the machine lacks is no reason to refuse a pod: the kubelet sends shares and pids always, and
    // runc leaves such values out as well. Only limits that protect the node are refused, by `need` below.
    writes.retain(|write| write.controller.is_empty() || controllers.has(write.controller));
    Ok(writes)
}

fn write(controller: &'static str, file: &str, value: impl ToString) -> Write {
    Write { controller, file: file.to_owned(), value: value.to_string() }
}

fn v1_values(from: &Resources, controllers: &Controllers, now: MemoryNow) -> Result<Vec<Write>, CgroupError> {
    let mut writes = cpuset(from);
    writes.extend(from.cpu_shares.map(|shares| write("cpu", "cpu.shares", shares.clamp(2, 262_144))));
    writes.extend(from.cpu_period.map(|period| write("cpu", "cpu.cfs_period_us", period)));
    writes.extend(from.cpu_quota.map(|quota| write("cpu", "cpu.cfs_quota_us", quota.max(-1))));
    writes.extend(v1_memory(from, controllers, now));
    writes.extend(from.pids_limit.map(|limit| write("pids", "pids.max", max_or(limit))));
    for (size, bytes) in hugepages(from, controllers)? {
        writes.push(write("hugetlb", &format!("hugetlb.{size}.limit_in_bytes"), bytes));
    }
    Ok(writes)
}

/// The kernel keeps memory ≤ memory + swap at every step: growing writes the sum first, shrinking the memory first.
fn v1_memory(from: &Resources, controllers: &Controllers, now: MemoryNow) -> Vec<Write> {
    let memory = from.memory_limit.map(|limit| write("memory", "memory.limit_in_bytes", limit.max(-1)));
    let sum = from.memory_swap_limit.filter(|_| controllers.swap);
    let sum = sum.or(from.memory_limit.filter(|limit| *limit == -1 && controllers.swap));
    let grows = match (sum, now.memory_and_swap) {
        (Some(-1), _) => true,
        (Some(sum), Some(now)) => u64::try_from(sum).is_ok_and(|sum| sum > now),
        _ => false,
    };
    let sum = sum.map(|limit| write("memory", "memory.memsw.limit_in_bytes", limit.max(-1)));
    if grows { sum.into_iter().chain(memory).collect() } else { memory.into_iter().chain(sum).collect() }
}

fn cpuset(from: &Resources) -> Vec<Write> {
    let cpus = from.cpus.as_ref().map(|cpus| write("cpuset", "cpuset.cpus", cpus));
    cpus.into_iter().chain(from.mems.as_ref().map(|mems| write("cpuset", "cpuset.mems", mems))).collect()
}

/// Limits of page sizes this machine has; zero for any other size asks for nothing.
fn hugepages<'a>(from: &'a Resources, controllers: &Controllers) -> Result<Vec<(&'a str, u64)>, CgroupError> {
    let mut limits = Vec::new();
    for (size, bytes) in &from.hugepage_limits {
        let known = controllers.has("hugetlb") && controllers.hugepage_sizes.iter().any(|have| have == size);
        match (known, bytes) {
            (true, bytes) => limits.push((size.as_str(), *bytes)),
            (false, 0) => {}
            (false, _) => return Err(need("hugetlb", format!("the limit of {size} pages"))),
        }
    }
    Ok(limits)
}

fn need(controller: &'static str, what: String) -> CgroupError {
    CgroupError::NoController { what, controller }
}

/// Both versions spell an unlimited number of processes `max`.
fn max_or(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

/// `cpu.weight` of a `cpu.shares`: the line from 2..262144 to 1..10000 that the kubelet uses for pods as well.
///
/// ```
/// use runtime::cgroups::values::weight_of_shares;
/// assert_eq!([2, 1024, 262_144].map(weight_of_shares), [1, 39, 10_000]);
/// ```
pub fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

mod v2 {
    use super::*;

    pub(super) fn values(from: &Resources, controllers: &Controllers) -> Result<Vec<Write>, CgroupError> {
        let mut writes = cpuset(from);
        writes.extend(from.cpu_shares.map(|shares| write("cpu", "cpu.weight", weight_of_shares(shares))));
        writes.extend(cpu_max(from).map(|value| write("cpu", "cpu.max", value)));
        writes.extend(from.memory_limit.map(|limit| write("memory", "memory.max", max_or(limit))));
        if let Some(swap) = swap_only(from)?.filter(|_| controllers.swap) {
            writes.push(write("memory", "memory.swap.max", swap));
        }
        writes.extend(from.pids_limit.map(|limit| write("pids", "pids.max", max_or(limit))));
        for (size, bytes) in hugepages(from, controllers)? {
            writes.push(write("hugetlb", &format!("hugetlb.{size}.max"), bytes));
        }
        writes.extend(unified(from, controllers)?);
        Ok(writes)
    }

    /// `cpu.max` takes quota and period together; a quota alone keeps the kernel's period.
    fn cpu_max(from: &Resources) -> Option<String> {
        let quota = from.cpu_quota.map(|quota| if quota < 0 { "max".to_owned() } else { quota.to_string() });
        match (quota, from.cpu_period) {
            (Some(quota), Some(period)) => Some(format!("{quota} {period}")),
            (Some(quota), None) => Some(quota),
            (None, Some(period)) => Some(format!("max {period}")),
            (None, None) => None,
        }
    }

    /// v1 counts memory and swap together, v2 counts swap alone.
    fn swap_only(from: &Resources) -> Result<Option<String>, CgroupError> {
        let Some(sum) = from.memory_swap_limit else { return Ok(None) };
        if sum < 0 {
            return Ok(Some("max".to_owned()));
        }
        let bad = || CgroupError::BadValue { what: "memory and swap limit", value: sum.to_string() };
        // Without a memory limit of its own there is nothing to take the swap's share from.
        let memory = from.memory_limit.filter(|limit| *limit >= 0).ok_or_else(bad)?;
        let swap = sum.checked_sub(memory).filter(|swap| *swap >= 0).ok_or_else(bad)?;
        Ok(Some(swap.to_string()))
    }

    /// A key is a file name, so it must not lead out of the group or into its administration.
    fn unified(from: &Resources, controllers: &Controllers) -> Result<Vec<Write>, CgroupError> {
        let mut writes = Vec::new();
        for (file, value) in &from.unified {
            let bad = || CgroupError::BadValue { what: "unified", value: file.clone() };
            let (prefix, _) = file.split_once('.').ok_or_else(bad)?;
            if file.contains('/') || prefix == "cgroup" {
                return Err(bad());
            }
            // `memory.swap.max` comes from the kubelet on every node; without swap accounting it has no file.
            if file.starts_with("memory.swap.") && !controllers.swap {
                continue;
            }
            if !controllers.has(prefix) {
                return Err(need(known_name(prefix), file.clone()));
            }
            writes.push(write("", file, value));
        }
        Ok(writes)
    }

    fn known_name(prefix: &str) -> &'static str {
        const NAMES: [&str; 8] = ["cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma"];
        NAMES.into_iter().find(|name| *name == prefix).unwrap_or("of that name")
    }
}

impl Cgroups {
    /// [`cgroup_values`] for this machine.
    ///
    /// # Errors
    /// As there.
    pub fn values(&self, resources: &Resources, now: MemoryNow) -> Result<Vec<Write>, CgroupError> {
        cgroup_values(resources, self.version(), self.controllers(), now)
    }
}

#[cfg(test)]
mod tests;
