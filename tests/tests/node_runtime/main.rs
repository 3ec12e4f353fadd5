//! The embedded runtime on a real kernel: pods and containers through the `Runtime` trait.

mod containers;
mod pods;
mod survival;
