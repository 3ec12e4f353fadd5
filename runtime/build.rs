//! Builds the shim that the runtime carries with it.

#[path = "shim/embed.rs"]
mod embed;

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    embed::build(Path::new("shim"));
}
