//! What is proved from outside: kernel, node, bench.

pub mod pod_network;
