//! Claims to volumes. Pure: what is there and what was bound before goes in, what is bound now comes out.
//!
//! A claim keeps what it has. A new one gets the volume it names, or one that names it, or the smallest that fits. A
//! claim of a class that no volume has gets a directory of its own below the agent's root: the built-in provisioner,
//! for manifests that count on a default class. Only `storageClassName: ""` asks for none of that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec};
use serde::{Deserialize, Serialize};

use super::fits;
use crate::names::{ObjectName, PodUid};
use crate::selectors::Labels;

/// All volumes, by name.
pub(super) type Volumes = BTreeMap<String, Arc<PersistentVolume>>;
/// All claims, by name.
pub(super) type Claims = BTreeMap<Key, Arc<PersistentVolumeClaim>>;

/// Which claim: one of a pod's own is another one when the pod is another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Key {
    pub name: ObjectName,
    /// The pod that an ephemeral volume lives and ends with.
    pub owner: Option<PodUid>,
}

/// What a claim has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Bound {
    /// This PersistentVolume.
    Volume(String),
    /// A directory of this name below the agent's root.
    Directory(String),
}

/// All that is bound; written to disk before it is used.
pub(super) type Bindings = BTreeMap<Key, Bound>;

/// What is bound now.
pub(super) fn bind(claims: &Claims, volumes: &Volumes, before: &Bindings, node: &Labels) -> Bindings {
    let mut bound: Bindings = before
        .iter()
        .filter(|(key, bound)| is_kept(key, bound, claims, volumes))
        .map(|(key, bound)| (key.clone(), bound.clone()))
        .collect();
    // Whoever names its volume comes before those that take any.
    let order = |claim: &PersistentVolumeClaim| usize::from(volume_name(claim).is_none());
    let mut new: Vec<_> = claims.iter().filter(|(key, _)| !bound.contains_key(*key)).collect();
    new.sort_by_key(|(_, claim)| order(claim));
    for (key, claim) in new {
        if let Some(found) = find(key, claim, volumes, &bound, node) {
            bound.insert(key.clone(), found);
        }
    }
    bound
}

fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

fn is_kept(key: &Key, bound: &Bound, claims: &Claims, volumes: &Volumes) -> bool {
    let Bound::Volume(name) = bound else {
        // What was provisioned stays with its claim's name: a claim that comes back finds its files.
        return true;
    };
    match (claims.get(key), volumes.get(name)) {
        (Some(claim), _) => volume_name(claim).is_none_or(|wanted| wanted == name),
        // An ephemeral claim is only known while its own pod is looked at.
        (None, Some(_)) if key.owner.is_some() => true,
        (None, Some(volume)) => {
            let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
            policy != Some("Delete")
        }
        (None, None) => false,
    }
}

fn find(key: &Key, claim: &PersistentVolumeClaim, volumes: &Volumes, bound: &Bindings, node: &Labels) -> Option<Bound> {
    let spec = claim.spec.clone().unwrap_or_default();
    let taken: BTreeSet<&str> = taken(bound);
    let free = volumes.iter().filter(|(name, volume)| !taken.contains(name.as_str()) && may_have(key, volume));
    let wanted = volume_name(claim);
    let good = free
        .filter(|(name, _)| wanted.is_none_or(|wanted| wanted == name.as_str()))
        .filter(|(_, volume)| fits::misfit(&spec, volume, node).is_none());
    let best = good.min_by_key(|(name, volume)| {
        let reserved = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some());
        (!reserved, volume.spec.as_ref().map(fits::capacity), name.as_str())
    });
    match best {
        Some((name, _)) => Some(Bound::Volume(name.clone())),
        None if is_provisioned(&spec, volumes) => Some(Bound::Directory(directory(key))),
        None => None,
    }
}

fn taken(bound: &Bindings) -> BTreeSet<&str> {
    let names = bound.values().filter_map(|bound| match bound {
        Bound::Volume(name) => Some(name.as_str()),
        Bound::Directory(_) => None,
    });
    names.collect()
}

/// A volume with a claimRef is for that claim only.
fn may_have(key: &Key, volume: &PersistentVolume) -> bool {
    let reserved = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    reserved.is_none_or(|claim| {
        claim.name.as_deref() == Some(&key.name.name)
            && claim.namespace.as_deref().unwrap_or("default") == key.name.namespace
    })
}

fn is_provisioned(claim: &PersistentVolumeClaimSpec, volumes: &Volumes) -> bool {
    let class = claim.storage_class_name.as_deref();
    let has_class = |volume: &Arc<PersistentVolume>| {
        volume.spec.as_ref().is_some_and(|spec| class.is_some() && spec.storage_class_name.as_deref() == class)
    };
    let named = claim.volume_name.as_deref().is_some_and(|name| !name.is_empty());
    let block = claim.volume_mode.as_deref() == Some("Block");
    class != Some("") && !named && !block && claim.selector.is_none() && !volumes.values().any(has_class)
}

/// A file name holds 255 bytes, namespace and name together up to 317: what is too long is cut and numbered.
fn directory(key: &Key) -> String {
    let owner = key.owner.as_ref().map(|uid| format!("_{uid}")).unwrap_or_default();
    let name = format!("{}_{}{owner}", key.name.namespace, key.name.name);
    if name.len() <= 200 {
        return name;
    }
    // FNV-1a, 64 bits.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let cut: String = name.chars().take(160).collect();
    format!("{cut}-{hash:016x}")
}

/// Why a claim has nothing, and what would help.
pub(super) fn why_not(
    key: &Key,
    claim: &PersistentVolumeClaim,
    volumes: &Volumes,
    bound: &Bindings,
    node: &Labels,
) -> String {
    const SHOWN: usize = 5;
    let spec = claim.spec.clone().unwrap_or_default();
    let reason = |name: &str, volume: &PersistentVolume| {
        let holder = bound.iter().find(|(_, bound)| **bound == Bound::Volume(name.to_owned())).map(|(key, _)| key);
        match holder {
            Some(holder) => format!("is bound to {}", holder.name),
            None if !may_have(key, volume) => "is reserved for another claim".to_owned(),
            None => fits::misfit(&spec, volume, node).unwrap_or_else(|| "fits".to_owned()),
        }
    };
    if let Some(wanted) = volume_name(claim) {
        return match volumes.get(wanted) {
            Some(volume) => format!("volume {wanted:?} {}", reason(wanted, volume)),
            None => format!("there is no PersistentVolume {wanted:?}"),
        };
    }
    if volumes.is_empty() {
        return "there is no PersistentVolume".to_owned();
    }
    let reasons: Vec<_> =
        volumes.iter().take(SHOWN).map(|(name, volume)| format!("{name} {}", reason(name, volume))).collect();
    let more = volumes.len().saturating_sub(SHOWN);
    let more = if more == 0 { String::new() } else { format!(", and {more} more do not fit either") };
    format!("no PersistentVolume fits: {}{more}", reasons.join(", "))
}

#[cfg(test)]
mod tests;
