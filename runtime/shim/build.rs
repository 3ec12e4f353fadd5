//! Builds the pause, which has no std and so is no cargo package.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// About a kilobyte: no runtime, no unwinding tables, no page between code and constants.
const FLAGS: [&str; 17] = [
    "--edition=2024",
    "--crate-type=bin",
    "--crate-name=pause",
    "-Copt-level=s",
    "-Cpanic=abort",
    "-Crelocation-model=static",
    "-Cstrip=symbols",
    "-Cforce-unwind-tables=no",
    "-Ccodegen-units=1",
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-static",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-Wl,--build-id=none",
    "-Clink-arg=-Wl,-z,noseparate-code",
    "-Clink-arg=-Wl,-z,norelro",
    "-Clink-arg=-Wl,--no-eh-frame-hdr",
    "-Clink-arg=-Wl,--gc-sections",
];

fn main() {
    let source = "../pause/pause.rs";
    println!("cargo::rerun-if-changed={source}");
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name: &str| env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name} for build scripts"));
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(FLAGS).arg("--target").arg(variable("TARGET"));
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={}", linker.to_string_lossy()));
    }
    rustc.arg("-o").arg(PathBuf::from(variable("OUT_DIR")).join("pause")).arg(source);
    let status = rustc.status().unwrap_or_else(|error| panic!("running {rustc:?}: {error}"));
    assert!(status.success(), "building the pause failed: {rustc:?}");
}
