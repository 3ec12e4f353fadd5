//! YAML and JSON as Kubernetes reads them, decoded into typed values with every mistake named by field and line.
//!
//! Text becomes [`Node`]s first: they remember their line and whether a scalar was quoted, which decides whether `3`
//! is a number or text. [`decode`] then reads a node into any serde type: it knows the fields of each struct, so that
//! a field that does not exist is reported, with the nearest one that does.
//!
//! Plain scalars follow YAML 1.1 as the API's tools do: `0644` is 420, `yes` and `on` are true.

mod decode;
mod json;
mod nearest;
mod node;
mod parse;
mod scalar;
mod split;

pub use decode::{Mistake, decode, decode_leniently};
pub use node::{Kind, Node};
pub use parse::{Broken, documents};

#[cfg(test)]
mod tests;
