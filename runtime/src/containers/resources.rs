//! CRI resources as the resources of an OCI spec.

use cri_proto::v1;
use oci_spec::runtime::{LinuxCpu, LinuxDeviceCgroup, LinuxHugepageLimit, LinuxMemory, LinuxResources};

use crate::cgroups::Resources;

/// Limits and device rules; every part is set, so that nothing of `oci_spec`'s own choosing is in it.
pub(super) fn resources(
    wanted: Option<&v1::LinuxContainerResources>,
    devices: Vec<LinuxDeviceCgroup>,
) -> LinuxResources {
    let limits = wanted.map(Resources::from).unwrap_or_default();
    let mut resources = LinuxResources::default();
    resources
        .set_devices(Some(devices))
        .set_cpu(Some(cpu(&limits)))
        .set_memory(Some(memory(&limits)))
        .set_hugepage_limits(hugepages(&limits))
        .set_unified((!limits.unified.is_empty()).then(|| limits.unified.clone().into_iter().collect()));
    resources
}

fn cpu(limits: &Resources) -> LinuxCpu {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(limits.cpu_shares).set_quota(limits.cpu_quota).set_period(limits.cpu_period);
    cpu.set_cpus(limits.cpus.clone()).set_mems(limits.mems.clone());
    cpu
}

fn memory(limits: &Resources) -> LinuxMemory {
    let mut memory = LinuxMemory::default();
    memory.set_limit(limits.memory_limit).set_swap(limits.memory_swap_limit);
    memory
}

/// A page count beyond 2^63 is as good as unlimited, which is what the largest number says.
fn hugepages(limits: &Resources) -> Option<Vec<LinuxHugepageLimit>> {
    let one = |(size, bytes): &(String, u64)| {
        let mut limit = LinuxHugepageLimit::default();
        limit.set_page_size(size.clone()).set_limit(i64::try_from(*bytes).unwrap_or(i64::MAX));
        limit
    };
    let all: Vec<_> = limits.hugepage_limits.iter().map(one).collect();
    (!all.is_empty()).then_some(all)
}
