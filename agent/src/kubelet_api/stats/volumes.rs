//! Volumes in `/metrics`, under the kubelet's names: those that have a claim.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::disks::PodDisks;
use crate::metrics::{Exposition, Kind};
use crate::names::PodUid;
use crate::view::PodView;
use crate::volumes::VolumeFigures;

/// A figure of a volume.
type Read = fn(&VolumeFigures) -> u64;

const SERIES: [(&str, &str, Read); 6] = [
    ("kubelet_volume_stats_available_bytes", "Bytes that a volume has left.", |volume| volume.available),
    ("kubelet_volume_stats_capacity_bytes", "Bytes that a volume has.", |volume| volume.capacity),
    ("kubelet_volume_stats_inodes", "Inodes that a volume has.", |volume| volume.inodes),
    ("kubelet_volume_stats_inodes_free", "Inodes that a volume has left.", |volume| volume.inodes_free),
    ("kubelet_volume_stats_inodes_used", "Inodes that a volume holds.", |volume| volume.inodes_used),
    ("kubelet_volume_stats_used_bytes", "Bytes that a volume holds.", |volume| volume.used),
];

/// The claim behind a volume, if there is one.
pub(super) fn claim(pod: &Pod, volume: &str) -> Option<String> {
    let volumes = pod.spec.as_ref()?.volumes.as_ref()?;
    let volume = volumes.iter().find(|one| one.name == volume)?;
    let named = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone());
    // An ephemeral claim is called after its pod and its volume.
    let own = || Some(format!("{}-{}", pod.metadata.name.as_ref()?, volume.name));
    named.or_else(|| volume.ephemeral.as_ref().and_then(|_| own()))
}

/// Each claim's volume once.
pub(in super::super) fn write(views: &BTreeMap<PodUid, PodView>, disks: &PodDisks, text: &mut Exposition) {
    let mut claims: Vec<_> = disks
        .iter()
        .filter_map(|(uid, disk)| Some((&views.get(uid)?.pod, disk)))
        .flat_map(|(pod, disk)| {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            disk.volumes.iter().filter_map(move |volume| Some((namespace.clone(), claim(pod, &volume.name)?, volume)))
        })
        .collect();
    claims.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    // Two pods may have one claim.
    claims.dedup_by(|a, b| (&a.0, &a.1) == (&b.0, &b.1));
    for (name, help, read) in SERIES {
        let mut family = text.family(name, Kind::Gauge, help);
        for (namespace, claim, volume) in &claims {
            family.add(&[("namespace", namespace), ("persistentvolumeclaim", claim)], read(volume) as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::usage;
    use super::*;
    use crate::metrics::lint;

    #[test]
    fn volumes_with_a_claim_are_told_once_and_others_not() {
        let usage = usage(0, 0);
        let (view, disk) = (usage.pods[0].view.clone().unwrap(), usage.pods[0].disk.clone().unwrap());
        let uids = [PodUid::from_number(1), PodUid::from_number(2)];
        let views = uids.clone().map(|uid| (uid, view.clone())).into();
        let mut text = Exposition::default();
        write(&views, &uids.map(|uid| (uid, disk.clone())).into(), &mut text);
        let text = text.finish();
        lint::check(&text);
        let told: Vec<_> =
            text.lines().filter(|line| line.contains("used_bytes{") || line.contains("scratch")).collect();
        assert_eq!(told, [r#"kubelet_volume_stats_used_bytes{namespace="shop",persistentvolumeclaim="disk"} 8192"#]);
    }
}
