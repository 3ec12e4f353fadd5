use super::*;

fn set(replicas: u32, image: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db}}\nspec:\n  serviceName: dbs\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: db}}}}\n  {more}\n  template:\n    metadata: {{labels: {{app: db}}}}\n    spec:\n      \
         containers: [{{name: c, image: '{image}', volumeMounts: [{{name: data, mountPath: /data}}]}}]\n  \
         volumeClaimTemplates:\n  - metadata: {{name: data}}\n    spec:\n      accessModes: [ReadWriteOnce]\n      \
         resources: {{requests: {{storage: 1Mi}}}}\n"
    )
}

fn claims(world: &World) -> Vec<String> {
    world.pods.objects.persistent_volume_claims.keys().map(ToString::to_string).collect()
}

#[test]
fn pods_come_in_order_each_when_the_former_is_ready() {
    let mut world = World::new(&set(3, "i:1", ""));
    world.hear();
    assert_eq!(world.names(), ["db-0"]);
    assert_eq!(claims(&world), ["default/data-db-0"]);
    world.ready("db-0");
    world.hear();
    assert_eq!(world.names(), ["db-0", "db-1"]);
    world.ready("db-1");
    world.hear();
    assert_eq!(world.names(), ["db-0", "db-1", "db-2"]);
    let pod = world.pod("db-1");
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-1"), Some("dbs")));
    let volume = spec.volumes.as_ref().unwrap().iter().find(|volume| volume.name == "data").unwrap();
    assert_eq!(volume.persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-1");
    let labels = pod.metadata.labels.as_ref().unwrap();
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "db-1");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "1");
}

#[test]
fn in_parallel_all_come_at_once() {
    let world = World::new(&set(3, "i:1", "podManagementPolicy: Parallel\n  ordinals: {start: 5}"));
    assert_eq!(world.names(), ["db-5", "db-6", "db-7"]);
}

#[test]
fn fewer_go_from_the_top_one_by_one_and_their_claims_stay() {
    let mut world = World::new(&set(3, "i:1", ""));
    world.all_ready();
    world.edit(&set(1, "i:1", ""));
    assert_eq!(world.names(), ["db-0", "db-1"]);
    world.turn();
    assert_eq!(world.names(), ["db-0", "db-1"]);
    world.gone();
    assert_eq!(world.names(), ["db-0"]);
    world.gone();
    assert_eq!(claims(&world), ["default/data-db-0", "default/data-db-1", "default/data-db-2"]);
    let drop = "persistentVolumeClaimRetentionPolicy: {whenScaled: Delete}";
    world.edit(&set(1, "i:1", drop));
    world.all_ready();
    assert_eq!(claims(&world), ["default/data-db-0"]);
}

#[test]
fn a_new_template_goes_from_the_top_each_when_the_former_is_ready() {
    let mut world = World::new(&set(3, "i:1", ""));
    world.all_ready();
    let first = world.uid("db-2");
    world.edit(&set(3, "i:2", ""));
    assert_eq!(world.names(), ["db-0", "db-1"]);
    world.gone();
    assert_ne!(world.uid("db-2"), first);
    world.hear();
    assert_eq!(world.images(), BTreeMap::from([("i:1".into(), 2), ("i:2".into(), 1)]));
    world.ready("db-2");
    assert_eq!(world.names(), ["db-0", "db-2"]);
    world.all_ready();
    assert_eq!(world.images(), BTreeMap::from([("i:2".into(), 3)]));
}

#[test]
fn below_the_partition_the_former_template_stays() {
    let partition = "updateStrategy: {rollingUpdate: {partition: 2}}";
    let mut world = World::new(&set(3, "i:1", partition));
    world.all_ready();
    world.edit(&set(3, "i:2", partition));
    world.all_ready();
    assert_eq!(world.images(), BTreeMap::from([("i:1".into(), 2), ("i:2".into(), 1)]));
    // One that is made anew below the partition is made of the former template.
    world.end("db-0", End::Failed);
    world.gone();
    world.pass(secs(10));
    world.all_ready();
    assert_eq!(world.images(), BTreeMap::from([("i:1".into(), 2), ("i:2".into(), 1)]));
    world.edit(&set(3, "i:2", ""));
    world.all_ready();
    assert_eq!(world.images(), BTreeMap::from([("i:2".into(), 3)]));
}

#[test]
fn a_broken_template_is_replaced_by_a_mended_one() {
    let mut world = World::new(&set(2, "broken", ""));
    world.hear();
    assert_eq!(world.names(), ["db-0"]);
    world.edit(&set(2, "i:2", ""));
    world.all_ready();
    assert_eq!(world.images(), BTreeMap::from([("i:2".into(), 2)]));
}
