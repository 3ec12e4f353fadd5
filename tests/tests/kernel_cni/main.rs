//! The pod network on a real kernel: every test has a node of its own, a network namespace that ends with it.

mod figures;
mod kills;
mod lifetime;
mod refusals;
mod traffic;
mod world;
