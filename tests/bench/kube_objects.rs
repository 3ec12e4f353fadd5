//! Services and EndpointSlices of the bench, in an API server: thousands of them, written by several hands at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::control_plane::ControlPlane;

use crate::kube_api::Api;

/// Where the service answers whose endpoint changes.
pub(crate) const CHANGED: &str = "10.96.0.50:80";
const HANDS: usize = 8;
const SERVICES: &str = "/api/v1/namespaces/default/services";

/// The services that there are.
pub(crate) struct Objects {
    api: Api,
    /// `discovery.k8s.io/…`: 1.20 has only v1beta1, and later ones no longer have that.
    group: String,
    count: usize,
}

impl Objects {
    /// With the one service that changes, which leads nowhere yet.
    pub(crate) fn new(plane: &ControlPlane) -> Result<Self> {
        let groups = plane.get("/apis/discovery.k8s.io")?.context("the API group discovery.k8s.io")?;
        let group = groups["preferredVersion"]["groupVersion"].as_str().context("its version")?.to_owned();
        let objects = Self { api: Api::open(plane)?, group, count: 0 };
        objects.create("changed", CHANGED, &[])?;
        Ok(objects)
    }

    /// How many there are beside the one that changes.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Creates others until there are `count`.
    pub(crate) fn grow(&mut self, count: usize) -> Result<()> {
        let next = AtomicUsize::new(self.count);
        let work = || -> Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(());
                }
                self.create(&format!("service-{number}"), &address(number), &[41, 42])?;
            }
        };
        std::thread::scope(|scope| {
            let hands: Vec<_> = (0..HANDS).map(|_| scope.spawn(work)).collect();
            hands.into_iter().try_for_each(|hand| hand.join().expect("no hand panics"))
        })?;
        self.count = self.count.max(count);
        Ok(())
    }

    /// Lets the service that changes lead to 192.0.2.`last` and nowhere else.
    pub(crate) fn point(&self, last: u8) -> Result<()> {
        let path = format!("{}/changed", self.slices());
        self.api.request("PATCH", &path, &json!({"endpoints": endpoints(&[last])}))
    }

    fn create(&self, name: &str, address: &str, to: &[u8]) -> Result<()> {
        let (address, _) = address.split_once(':').context("address:port")?;
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"clusterIP": address, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
        self.api.request("POST", SERVICES, &service)?;
        let slice = json!({"apiVersion": self.group, "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "labels": {
                "kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "longshore-bench"}},
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}], "endpoints": endpoints(to)});
        self.api.request("POST", &self.slices(), &slice)
    }

    fn slices(&self) -> String {
        format!("/apis/{}/namespaces/default/endpointslices", self.group)
    }
}

fn endpoints(to: &[u8]) -> Value {
    let endpoint = |last: &u8| json!({"addresses": [format!("192.0.2.{last}")], "conditions": {"ready": true}});
    to.iter().map(endpoint).collect()
}

/// Where one of the others answers.
pub(crate) fn address(number: usize) -> String {
    format!("10.96.{}.{}:80", 100 + number / 256, number % 256)
}
