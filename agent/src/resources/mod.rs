//! Requests and limits: whether a pod fits, the class they make of it, the values they become in cgroups, and who goes when
//! the node runs short.

pub mod admission;
pub mod cgroup_values;
pub mod eviction;
pub mod ledger;
pub mod preemption;
pub mod pressure;
pub mod qos;
pub mod resize;
