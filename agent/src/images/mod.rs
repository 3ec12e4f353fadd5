//! Images for containers: pull policy, credentials, and pulls within bounds.

pub mod collect;
mod credentials;
mod pull;
#[cfg(test)]
mod tests;

pub use credentials::{Keyring, keyring};
pub use pull::{ImageError, Images, Policy, Pulled, with_default_tag};
