//! From a container's spec to what the runtime is told. All of it is pure: values in, CRI messages out.

pub mod labels;
