//! Builds the shim as it is shipped: static, at a fixed address, optimised for size, in every profile of the outer
//! build. Included by the build script of whoever embeds it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name of the binary in `OUT_DIR` after [`build`].
pub(crate) const SHIM: &str = "longshore-shim";

/// What the outer cargo has set for its own build and the inner one must not take for settings.
const OUTER: [&str; 14] = [
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CARGO_MAKEFLAGS",
    "CARGO_TARGET_DIR",
    "MAKEFLAGS",
    "MFLAGS",
    "OUT_DIR",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
    "TARGET",
    "CLIPPY_ARGS",
];

/// One page less of everything: no position independence (its relocations are private memory of every pod), no
/// unwinding, the whole program optimised as one.
const PROFILE: [(&str, &str); 7] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
    ("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static\u{1f}-Crelocation-model=static"),
];

/// Leaves [`SHIM`] in `OUT_DIR`. `shim` is the directory of the shim's package.
///
/// The inner build has its own target directory, so it waits for no lock of the outer one, and cargo finds out by
/// itself whether there is anything to do. It works without a network: it needs `libc` only, which the outer build
/// has as well.
pub(crate) fn build(shim: &Path) {
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"));
    for input in ["src", "build.rs", "Cargo.toml", "embed.rs", "../pause/pause.rs", "../../Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", shim.join(input).display());
    }
    let (out, target) = (PathBuf::from(variable("OUT_DIR")), variable("TARGET"));
    let directory = out.join("shim-target");
    let mut cargo = Command::new(variable("CARGO"));
    cargo.args(["build", "--release", "--offline", "--locked", "--quiet", "--bin", SHIM, "--target", &target]);
    cargo.arg("--manifest-path").arg(shim.join("Cargo.toml")).arg("--target-dir").arg(&directory);
    remove_outer(&mut cargo);
    cargo.envs(PROFILE);
    let status = cargo.status().unwrap_or_else(|error| panic!("running {cargo:?}: {error}"));
    assert!(status.success(), "building the shim failed: {cargo:?}");
    let built = directory.join(target).join("release").join(SHIM);
    std::fs::copy(&built, out.join(SHIM)).unwrap_or_else(|error| panic!("copying {}: {error}", built.display()));
}

fn remove_outer(cargo: &mut Command) {
    for name in OUTER {
        cargo.env_remove(name);
    }
    let leaks = |name: &str| {
        name.starts_with("CARGO_PROFILE_")
            || name.starts_with("CARGO_CFG_")
            || name.starts_with("CARGO_FEATURE_")
            || (name.starts_with("CARGO_TARGET_") && name.ends_with("_RUSTFLAGS"))
    };
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(leaks)) {
        cargo.env_remove(name);
    }
}
