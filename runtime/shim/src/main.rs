//! `longshore-shim <sandbox directory>`: the parent of one pod's containers, see the library's documentation.
//!
//! Its stdout is closed when it answers on `shim.sock`; when it can't start, the reason is written there (and to
//! `shim.error`) and it exits with 1. One thread, no allocation that grows with what a container writes.

mod daemon;
mod launch;
mod sys;

use std::path::PathBuf;

fn main() {
    let directory = std::env::args_os().nth(1).map(PathBuf::from).unwrap_or_default();
    let outcome = if directory.is_absolute() {
        daemon::run(&directory)
    } else {
        let usage = "usage: longshore-shim <absolute path of a sandbox directory>".to_owned();
        Err(launch::Failure::plain(usage, libc::EINVAL))
    };
    if let Err(failure) = outcome {
        daemon::report(&failure);
        sys::process::exit(1);
    }
}
