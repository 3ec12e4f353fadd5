//! What is read of the kernel besides cgroups.

pub(crate) mod interfaces;
