//! The API server: how it is reached, asked and followed. Knows HTTP and the API's conventions, nothing of what the
//! objects mean.
//!
//! ```text
//! Kubeconfig::load(path)         // who and where; strict, named errors
//! Client::new(&kubeconfig)       // one for the agent; certificates and tokens are read anew when their files change
//! client.get/create/patch/…      // one object
//! follow(client, Feed, stop)     // list + watch: the whole set by name, in a `watch` channel, for ever
//! ```
//!
//! A client of our own on hyper, which the tree has anyway: what the node needs is one connection per watch, JSON, and
//! credentials that change under it. kube-rs reads certificates once, and there is little room in a binary of 20 MB.

mod client;
mod credentials;
pub mod discovery;
mod error;
mod follow;
mod kubeconfig;
mod lines;
mod objects;
mod patience;

pub use client::{Body, Call, Client};
pub use credentials::CredentialsError;
pub use error::ApiError;
pub use follow::{Feed, Set, Sets, follow};
pub use kubeconfig::{Kubeconfig, KubeconfigError, Source, User};
pub use objects::{path_of, path_of_all};
pub use patience::Patience;
pub(crate) use patience::random_part;
