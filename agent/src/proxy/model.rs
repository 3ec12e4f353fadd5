//! Services with the pods that their selectors name, as the rules' model.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use netfilter::Model;

use super::{endpoints, rows};
use crate::errors::chain;
use crate::names::{ObjectName, PodUid};
use crate::view::PodView;

/// Adds the ports of one Service; headless Services, aliases and what has no address add none.
pub(super) fn insert(model: &mut Model, name: &ObjectName, service: &Service, views: &BTreeMap<PodUid, PodView>) {
    for row in rows::rows(name, service, model.family()) {
        match row {
            Ok(mut row) => {
                row.rules.endpoints = endpoints::of_port(name, service, row.port, views);
                model.insert(row.name, row.rules);
            }
            Err(bad) => tracing::warn!("{}", chain(&bad)),
        }
    }
}
