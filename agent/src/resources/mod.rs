//! Requests and limits: the class they make of a pod, and the values they become in cgroups.

pub mod cgroup_values;
pub mod qos;
