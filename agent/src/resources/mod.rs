//! Requests and limits: whether a pod fits, the class they make of it, and the values they become in cgroups.

pub mod admission;
pub mod cgroup_values;
pub mod eviction;
pub mod ledger;
pub mod preemption;
pub mod qos;
pub mod resize;
