//! Requests of the kubelet's ports, counted under the kubelet's names.

use std::time::{Duration, Instant};

use hyper::Method;

use super::route::{Asked, Route};
use crate::metrics::{Exposition, Figures, Metric, exponential};

const REQUESTS: Metric = Metric::counter("kubelet_http_requests_total", "Requests of the node's API.");
const IN_FLIGHT: Metric = Metric::gauge("kubelet_http_inflight_requests", "Requests whose answer has not begun.");
const TOOK: Metric = Metric::histogram(
    "kubelet_http_requests_duration_seconds",
    "From a request to the beginning of its answer.",
    || exponential(0.001, 2.0, 15),
);

/// What was asked, on all ports.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests(Figures);

impl Requests {
    /// A request has come; it is answered when the guard goes.
    pub(super) fn begin(&self, asked: &Asked, method: &Method, server: &'static str) -> Begun {
        let labels = [
            ("long_running", if is_long(asked) { "true" } else { "false" }),
            ("method", known(method)),
            ("path", asked.word()),
            ("server_type", server),
        ];
        self.0.add(REQUESTS, &labels, 1.0);
        self.0.add(IN_FLIGHT, &labels, 1.0);
        Begun { figures: self.0.clone(), labels, at: Instant::now() }
    }

    pub(super) fn write(&self, text: &mut Exposition) {
        self.0.write(text);
    }
}

/// A request that is being answered.
pub(super) struct Begun {
    figures: Figures,
    labels: [(&'static str, &'static str); 4],
    at: Instant,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let took: Duration = self.at.elapsed();
        self.figures.add(IN_FLIGHT, &self.labels, -1.0);
        self.figures.took(TOOK, &self.labels, took);
    }
}

/// Anybody can make up a method; series are not made of it.
fn known(method: &Method) -> &'static str {
    let all = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
    all.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

fn is_long(asked: &Asked) -> bool {
    matches!(asked.route, Ok(Route::Stream(_) | Route::ContainerLogs(..)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::lint;

    #[test]
    fn requests_are_counted_by_what_is_served_and_never_by_what_is_made_up() {
        let requests = Requests::default();
        let ask = |method: &str, path: &str| {
            let method: Method = method.parse().unwrap();
            requests.begin(&Asked::of(&method, path), &method, "readwrite")
        };
        let under_way = ask("GET", "/exec/ns/p/c");
        drop((ask("GET", "/pods"), ask("GET", "/pods/"), ask("BREW", "/made/up/by/a/stranger")));
        let mut text = Exposition::default();
        requests.write(&mut text);
        let text = text.finish();
        lint::check(&text);
        let labels = |long: bool, method: &str, path: &str| {
            format!(r#"{{long_running="{long}",method="{method}",path="{path}",server_type="readwrite"}}"#)
        };
        for line in [
            format!("kubelet_http_requests_total{} 2", labels(false, "GET", "pods")),
            format!("kubelet_http_requests_total{} 1", labels(false, "other", "other")),
            format!("kubelet_http_inflight_requests{} 1", labels(true, "GET", "exec")),
            format!("kubelet_http_inflight_requests{} 0", labels(false, "GET", "pods")),
            format!("kubelet_http_requests_duration_seconds_count{} 2", labels(false, "GET", "pods")),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        drop(under_way);
    }
}
