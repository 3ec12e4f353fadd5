//! `/statusz`, `/flagz` and `/metrics/slis`: small pages in the form of Kubernetes' own servers (`component-base/zpages`).

use std::fmt::Write as _;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::Value;

use super::answers::{Answer, text};
use crate::cluster::VERSION;
use crate::config::kubelet::FLAGS;
use crate::logging;
use crate::metrics::{Exposition, Kind};

const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
    guarantees and is for debugging purposes only.\n";

/// Since when, and which version.
pub(super) fn statusz(started: Timestamp, now: Timestamp) -> Answer {
    let up = now.duration_since(started).as_secs().max(0);
    let (hours, minutes, seconds) = (up / 3_600, up / 60 % 60, up % 60);
    let started = started.strftime("%a %b %e %H:%M:%S UTC %Y");
    let own = env!("CARGO_PKG_VERSION");
    text(
        StatusCode::OK,
        format!(
            "\nkubelet statusz\n{WARNING}\nStarted: {started}\nUp: {hours} hr {minutes:02} min {seconds:02} sec\n\
             Program: longshore {own}\nBinary version: {VERSION}\n\n\
             Paths: /configz /debug /flagz /healthz /metrics\n"
        ),
    )
}

/// What each flag of the kubelet is set to, by files and defaults too. `configz` has no secrets in it.
pub(super) fn flagz(configz: &Value) -> Answer {
    let mut page = format!("\nkubelet flagz\n{WARNING}\n");
    let mut flags: Vec<_> = FLAGS.iter().collect();
    flags.sort_unstable_by_key(|flag| flag.name);
    for flag in flags {
        let value = flag.field.split('.').try_fold(configz, |node, step| node.get(step));
        let shown = match value {
            None | Some(Value::Null) => continue,
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        // Writing into a String does not fail.
        let _ = writeln!(page, "{}={shown}", flag.name);
    }
    text(StatusCode::OK, page)
}

/// A body is a number.
const LARGEST_NUMBER: usize = 64;

/// `PUT /debug/flags/v`: from now on so much is logged, as klog counts.
pub(super) async fn verbosity(body: Incoming) -> Answer {
    let body = Limited::new(body, LARGEST_NUMBER).collect();
    let Ok(Ok(body)) = tokio::time::timeout(Duration::from_secs(10), body).await else {
        return text(StatusCode::BAD_REQUEST, "a number was expected\n");
    };
    let asked = String::from_utf8_lossy(&body.to_bytes()).trim().to_owned();
    match asked.parse() {
        Ok(number) => match logging::set(&logging::of_klog(number, &[])) {
            Ok(()) => text(StatusCode::OK, format!("successfully set klog.logging.verbosity to {number}")),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        Err(error) => text(StatusCode::BAD_REQUEST, format!("failed set klog.logging.verbosity {asked:?}: {error}")),
    }
}

/// Health as Prometheus reads it.
pub(super) fn slis(goes: bool) -> String {
    let mut text = Exposition::default();
    let help = "Whether a check of the node's health passes now.";
    let mut family = text.family("kubernetes_healthcheck", Kind::Gauge, help);
    for (name, passes) in [("log", true), ("ping", true), ("syncloop", goes)] {
        family.add(&[("name", name), ("type", "healthz")], f64::from(u8::from(passes)));
    }
    text.finish()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::metrics::lint;

    async fn page(answer: Answer) -> String {
        String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_pages_say_since_when_and_with_what() {
        let started: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let shown = page(statusz(started, "2026-01-02T05:05:06Z".parse().unwrap())).await;
        assert!(shown.contains("Started: Fri Jan  2 03:04:05 UTC 2026\nUp: 2 hr 01 min 01 sec\n"), "{shown}");
        let config =
            json!({"maxPods": 7, "clusterDNS": ["192.0.2.1"], "authentication": {"anonymous": {"enabled": false}}});
        let shown = page(flagz(&config)).await;
        let flags: Vec<_> = shown.lines().filter(|line| line.contains('=')).collect();
        expect![[r#"
            anonymous-auth=false
            cluster-dns=["192.0.2.1"]
            max-pods=7"#]]
        .assert_eq(&flags.join("\n"));
    }

    #[test]
    fn health_is_a_figure() {
        let text = slis(false);
        lint::check(&text);
        assert!(text.contains("kubernetes_healthcheck{name=\"syncloop\",type=\"healthz\"} 0\n"), "{text}");
    }
}
