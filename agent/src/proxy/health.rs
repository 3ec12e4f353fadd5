//! Whether Services are programmed: `/healthz` and `/livez`, and the ports that load balancers ask for one Service.
//!
//! A family is unhealthy when a change has waited for a minute; with nothing to do it is healthy for ever.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use netfilter::{Family, Model, NodePortAddresses};
use serde_json::{Map, Value, json};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::metrics::{Metrics, family_name};
use crate::listen::listen;
use crate::names::ObjectName;

/// How long a change may wait: twice kube-proxy's time between full syncs.
const LATE: Duration = Duration::from_secs(60);

/// Clones share one state.
#[derive(Clone)]
pub(super) struct Health(Arc<Mutex<State>>);

struct State {
    families: BTreeMap<&'static str, FamilyState>,
    is_eligible: bool,
}

#[derive(Default)]
struct FamilyState {
    /// When the kernel last had everything.
    updated: Option<Timestamp>,
    /// Since when a change has been waiting.
    waiting: Option<Instant>,
}

impl FamilyState {
    fn is_healthy(&self, now: Instant) -> bool {
        self.waiting.is_none_or(|since| now.duration_since(since) < LATE)
    }
}

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { families: BTreeMap::new(), is_eligible: true })))
    }
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something to be programmed.
    pub(super) fn queued(&self, family: Family, now: Instant) {
        self.state().families.entry(family_name(family)).or_default().waiting.get_or_insert(now);
    }

    /// The kernel has everything.
    pub(super) fn updated(&self, family: Family, at: Timestamp) {
        self.state().families.insert(family_name(family), FamilyState { updated: Some(at), waiting: None });
    }

    /// The machine does not have this family.
    pub(super) fn absent(&self, family: Family) {
        self.state().families.remove(family_name(family));
    }

    /// Whether load balancers may send to this node.
    pub(super) fn eligible(&self, is_eligible: bool) {
        self.state().is_eligible = is_eligible;
    }

    fn is_healthy(&self, now: Instant) -> bool {
        self.state().families.values().all(|family| family.is_healthy(now))
    }

    /// Status and body of `/healthz`, or of `/livez`, which does not care about the node.
    fn answer(&self, with_node: bool, now: Instant, at: Timestamp) -> (bool, Value) {
        let state = self.state();
        let healthy = state.families.values().all(|family| family.is_healthy(now));
        let is_good = healthy && (state.is_eligible || !with_node);
        let newest = state.families.values().filter_map(|family| family.updated).max();
        let updated = if is_good { Some(at) } else { newest };
        let families = state.families.iter().filter_map(|(name, family)| {
            let status = json!({"lastUpdated": time(family.updated?), "healthy": family.is_healthy(now)});
            Some(((*name).to_owned(), status))
        });
        let status: Map<String, Value> = families.collect();
        let updated = updated.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), time);
        let mut body = json!({"lastUpdated": updated, "currentTime": time(at), "healthy": healthy, "status": status});
        if with_node && let Some(body) = body.as_object_mut() {
            body.insert("nodeEligible".to_owned(), state.is_eligible.into());
        }
        (is_good, body)
    }
}

fn time(at: Timestamp) -> String {
    format!("{at:.9}")
}

fn answer(is_good: bool, body: String, more: Option<(&'static str, usize)>) -> Response {
    let status = if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if let Some((name, value)) = more {
        headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
    }
    response
}

/// Serves `/healthz` and `/livez`.
pub(super) async fn serve(at: SocketAddr, health: Health, metrics: Metrics) -> std::io::Result<JoinHandle<()>> {
    let asked = move |with_node: bool, name: &'static str| {
        let (is_good, body) = health.answer(with_node, Instant::now(), Timestamp::now());
        metrics.add(name, if is_good { "code=\"200\"" } else { "code=\"503\"" }, 1.0);
        answer(is_good, body.to_string(), None)
    };
    let alive = asked.clone();
    let router = Router::new()
        .route("/healthz", get(move || async move { asked(true, "kubeproxy_proxy_healthz_total") }))
        .route("/livez", get(move || async move { alive(false, "kubeproxy_proxy_livez_total") }));
    spawn(at, router).await
}

/// Serves `/metrics`, and the two small pages beside it.
pub(super) async fn serve_metrics(
    at: SocketAddr,
    metrics: Metrics,
    mode: &'static str,
) -> std::io::Result<JoinHandle<()>> {
    let text = "text/plain; version=0.0.4; charset=utf-8";
    let router = Router::new()
        .route("/metrics", get(move || async move { ([(CONTENT_TYPE, text)], metrics.text()) }))
        .route("/healthz", get(|| async { "ok" }))
        .route("/proxyMode", get(move || async move { mode }));
    spawn(at, router).await
}

async fn spawn(at: SocketAddr, router: Router) -> std::io::Result<JoinHandle<()>> {
    let listener = listen(at)?;
    Ok(tokio::spawn(async move {
        // It ends only with its task.
        let _ = axum::serve(listener, router).await;
    }))
}

/// What a load balancer asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    service: ObjectName,
    at: SocketAddr,
}

/// A server for each Service with a health check node port, on each address where node ports answer.
#[derive(Default)]
pub(super) struct NodePorts {
    servers: BTreeMap<Port, (Arc<Mutex<usize>>, JoinHandle<()>)>,
}

impl NodePorts {
    /// Opens, closes and updates what `model` says, on the addresses that are `chosen`; tells what could not be opened.
    pub(super) fn follow(
        &mut self,
        model: &Model,
        health: &Health,
        chosen: impl FnOnce() -> NodePortAddresses,
    ) -> Vec<String> {
        let is_v6 = model.family() == Family::V6;
        let wanted = wanted(model, chosen);
        self.servers.retain(|port, (_, task)| {
            let stays = port.at.is_ipv6() != is_v6 || wanted.contains_key(port);
            if !stays {
                task.abort();
            }
            stays
        });
        let mut failed = Vec::new();
        for (port, count) in wanted {
            if let Some((known, _)) = self.servers.get(&port) {
                *known.lock().unwrap_or_else(PoisonError::into_inner) = count;
                continue;
            }
            match open(&port, count, health) {
                Ok(server) => drop(self.servers.insert(port, server)),
                Err(error) => failed.push(format!(
                    "the health check port of Service {} cannot be opened on {}: {error}",
                    port.service, port.at
                )),
            }
        }
        failed
    }
}

impl Drop for NodePorts {
    fn drop(&mut self) {
        self.servers.values().for_each(|(_, task)| task.abort());
    }
}

/// The servers that there should be, with what each is to say.
fn wanted(model: &Model, chosen: impl FnOnce() -> NodePortAddresses) -> BTreeMap<Port, usize> {
    let counts = local_endpoints(model);
    if counts.is_empty() {
        return BTreeMap::new();
    }
    let every: IpAddr = match model.family() {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let addresses = match chosen() {
        NodePortAddresses::All => vec![every],
        NodePortAddresses::Only(addresses) => addresses,
    };
    let on_each = counts.into_iter().flat_map(|((service, number), count)| {
        let port = move |address| Port { service: service.clone(), at: SocketAddr::new(address, number) };
        addresses.iter().map(move |address| (port(*address), count)).collect::<Vec<_>>()
    });
    on_each.collect()
}

/// How many distinct addresses of ready endpoints are on this node, by Service and port: ready ones over all of its ports.
fn local_endpoints(model: &Model) -> BTreeMap<(ObjectName, u16), usize> {
    let mut found = BTreeMap::<_, std::collections::BTreeSet<_>>::new();
    for (name, service) in model.services() {
        let Some(number) = service.health_check_node_port else { continue };
        let owner = ObjectName::new(name.namespace(), name.service());
        let ready = service.endpoints.iter().filter(|end| end.local && end.ready).map(|end| end.address);
        found.entry((owner, number.get())).or_default().extend(ready);
    }
    found.into_iter().map(|(port, addresses)| (port, addresses.len())).collect()
}

fn open(port: &Port, count: usize, health: &Health) -> std::io::Result<(Arc<Mutex<usize>>, JoinHandle<()>)> {
    let socket = if port.at.is_ipv6() { only_v6()? } else { TcpSocket::new_v4()? };
    socket.set_reuseaddr(true)?;
    socket.bind(port.at)?;
    let listener = socket.listen(128)?;
    let (count, service, health) = (Arc::new(Mutex::new(count)), port.service.clone(), health.clone());
    let known = count.clone();
    let router = Router::new().fallback(move || {
        let count = *known.lock().unwrap_or_else(PoisonError::into_inner);
        let (is_healthy, service) = (health.is_healthy(Instant::now()), service.clone());
        async move { service_answer(&service, count, is_healthy) }
    });
    let task = tokio::spawn(async move {
        let _ = axum::serve(listener, router).await;
    });
    Ok((count, task))
}

/// Beside an IPv4 server on the same port.
fn only_v6() -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v6()?;
    rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    Ok(socket)
}

fn service_answer(service: &ObjectName, count: usize, is_healthy: bool) -> Response {
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {},\n\t\t\"name\": {}\n\t}},\n\t\"localEndpoints\": {count},\n\t\
         \"serviceProxyHealthy\": {is_healthy}\n}}",
        Value::from(&*service.namespace),
        Value::from(&*service.name),
    );
    answer(count > 0 && is_healthy, body, Some(("x-load-balancing-endpoint-weight", count)))
}

#[cfg(test)]
mod tests {
    use netfilter::{Endpoint, Protocol, ServicePort, ServicePortName};

    use super::*;

    #[test]
    fn a_change_that_waits_for_a_minute_is_unhealthy() {
        let (health, start, at) = (Health::default(), Instant::now(), Timestamp::UNIX_EPOCH);
        assert!(health.answer(true, start, at).0, "nothing to do");
        health.queued(Family::V4, start);
        health.queued(Family::V4, start + LATE);
        assert!(health.answer(true, start + LATE - Duration::from_secs(1), at).0);
        assert!(!health.answer(true, start + LATE, at).0, "the first of the waiting counts");
        assert!(!health.answer(false, start + LATE, at).0);
        health.updated(Family::V4, at);
        let (is_good, body) = health.answer(true, start + LATE * 9, at);
        assert!(is_good);
        assert_eq!(body["status"]["IPv4"]["lastUpdated"], "1970-01-01T00:00:00.000000000Z");
        assert_eq!((body["nodeEligible"].clone(), body["healthy"].clone()), (true.into(), true.into()));
    }

    #[test]
    fn a_node_that_goes_is_alive_and_not_for_load_balancers() {
        let health = Health::default();
        health.eligible(false);
        let ask = |with_node| health.answer(with_node, Instant::now(), Timestamp::UNIX_EPOCH);
        assert!(!ask(true).0 && ask(false).0);
        assert_eq!((ask(true).1["healthy"].clone(), ask(false).1.get("nodeEligible")), (true.into(), None));
        assert_eq!(ask(true).1["lastUpdated"], "0001-01-01T00:00:00Z");
    }

    #[test]
    fn local_ready_endpoints_are_counted_once_and_told_where_node_ports_answer() {
        let (mut model, port) = (Model::new(Family::V4), |number: u16| number.try_into().unwrap());
        for (label, number) in [("a", 80), ("b", 81)] {
            let mut service = ServicePort::new(Protocol::Tcp, "10.0.0.1".parse().unwrap(), port(number));
            service.health_check_node_port = Some(port(31_000));
            let end = |ip: &str| Endpoint { local: true, ..Endpoint::ready(ip.parse().unwrap(), port(8080)) };
            let leaving = Endpoint { ready: false, terminating: true, ..end("10.1.0.3") };
            let far = Endpoint { local: false, ..end("10.1.0.4") };
            service.endpoints = vec![end("10.1.0.1"), end("10.1.0.2"), leaving, far];
            model.insert(ServicePortName::new("demo", "edge", label).unwrap(), service);
        }
        assert_eq!(local_endpoints(&model).into_values().collect::<Vec<_>>(), [2]);
        let on = |chosen| wanted(&model, || chosen).into_keys().map(|port| port.at.to_string()).collect::<Vec<_>>();
        assert_eq!(on(NodePortAddresses::All), ["0.0.0.0:31000"]);
        let two = ["192.0.2.10", "192.0.2.11"].map(|ip| ip.parse().unwrap());
        assert_eq!(on(NodePortAddresses::Only(two.into())), ["192.0.2.10:31000", "192.0.2.11:31000"]);
    }

    #[test]
    fn a_load_balancer_is_told_in_upstreams_form() {
        let response = service_answer(&ObjectName::new("demo", "edge"), 1, true);
        assert_eq!(
            (response.status(), &response.headers()["x-load-balancing-endpoint-weight"]),
            (StatusCode::OK, &HeaderValue::from(1))
        );
        assert_eq!(service_answer(&ObjectName::new("demo", "edge"), 0, true).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            service_answer(&ObjectName::new("demo", "edge"), 1, false).status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
}
