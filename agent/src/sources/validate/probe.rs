use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Report, or};

/// The three probes and the two hooks of a container. `at` is its field.
pub(super) fn check(container: &Container, at: &str, report: &mut Report) {
    let probes = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (kind, probe) in probes {
        if let Some(probe) = probe {
            self::probe(container, probe, kind, &format!("{at}.{kind}"), report);
        }
    }
    let hooks = container.lifecycle.as_ref();
    if let Some(hook) = hooks.and_then(|hooks| hooks.post_start.as_ref()) {
        handler(container, hook, &format!("{at}.lifecycle.postStart"), report);
    }
    if let Some(hook) = hooks.and_then(|hooks| hooks.pre_stop.as_ref()) {
        handler(container, hook, &format!("{at}.lifecycle.preStop"), report);
    }
}

/// Probes and hooks where the API does not allow them.
pub(super) fn refuse_all(container: &Container, at: &str, report: &mut Report) {
    let given = [
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ];
    for (field, _) in given.into_iter().filter(|(_, given)| *given) {
        report.add(format!("{at}.{field}"), "an init container has none, unless its restartPolicy is Always");
    }
}

fn probe(container: &Container, probe: &Probe, kind: &str, at: &str, report: &mut Report) {
    let handlers = [
        ("exec", probe.exec.is_some()),
        ("httpGet", probe.http_get.is_some()),
        ("tcpSocket", probe.tcp_socket.is_some()),
        ("grpc", probe.grpc.is_some()),
    ];
    one_handler(&handlers, at, report);
    let empty = probe.exec.as_ref().is_some_and(|exec| exec.command.as_ref().is_none_or(Vec::is_empty));
    report.check(!empty, format!("{at}.exec.command"), || "is empty; it needs the program to run".to_owned());
    http(container, probe.http_get.as_ref(), at, report);
    tcp(container, probe.tcp_socket.as_ref(), at, report);
    if let Some(grpc) = &probe.grpc {
        port(container, &IntOrString::Int(grpc.port), &format!("{at}.grpc.port"), report);
    }
    numbers(probe, at, report);
    let once = kind == "readinessProbe" || probe.success_threshold.unwrap_or(1) == 1;
    report.check(once, format!("{at}.successThreshold"), || "must be 1 for liveness and startup probes".to_owned());
    let grace = probe.termination_grace_period_seconds;
    let field = format!("{at}.terminationGracePeriodSeconds");
    match (kind, grace) {
        ("readinessProbe", Some(_)) => report.add(field, "is for liveness and startup probes only"),
        (_, Some(grace)) => report.check(grace >= 1, field, || "must be at least 1".to_owned()),
        _ => {}
    }
}

fn numbers(probe: &Probe, at: &str, report: &mut Report) {
    let fields = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (field, value) in fields {
        report.check(value.unwrap_or(0) >= 0, format!("{at}.{field}"), || "must not be negative".to_owned());
    }
}

fn handler(container: &Container, hook: &LifecycleHandler, at: &str, report: &mut Report) {
    let handlers = [
        ("exec", hook.exec.is_some()),
        ("httpGet", hook.http_get.is_some()),
        ("sleep", hook.sleep.is_some()),
        ("tcpSocket", hook.tcp_socket.is_some()),
    ];
    one_handler(&handlers, at, report);
    let empty = hook.exec.as_ref().is_some_and(|exec| exec.command.as_ref().is_none_or(Vec::is_empty));
    report.check(!empty, format!("{at}.exec.command"), || "is empty; it needs the program to run".to_owned());
    http(container, hook.http_get.as_ref(), at, report);
    report.check(hook.tcp_socket.is_none(), format!("{at}.tcpSocket"), || {
        "hooks cannot use tcpSocket; use exec, httpGet or sleep".to_owned()
    });
    let negative = hook.sleep.as_ref().is_some_and(|sleep| sleep.seconds < 0);
    report.check(!negative, format!("{at}.sleep.seconds"), || "must not be negative".to_owned());
}

fn one_handler(handlers: &[(&str, bool)], at: &str, report: &mut Report) {
    let names: Vec<_> = handlers.iter().map(|(name, _)| *name).collect();
    let given: Vec<_> = handlers.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    match given.as_slice() {
        [_] => {}
        [] => report.add(at, format!("does nothing; it needs {}", or(&names))),
        more => report.add(at, format!("has {}; only one of them may be given", more.join(" and "))),
    }
}

fn http(container: &Container, action: Option<&HTTPGetAction>, at: &str, report: &mut Report) {
    let Some(action) = action else { return };
    port(container, &action.port, &format!("{at}.httpGet.port"), report);
    report.one_of(action.scheme.as_ref(), &["HTTP", "HTTPS"], format!("{at}.httpGet.scheme"));
    for (index, header) in action.http_headers.iter().flatten().enumerate() {
        let field = format!("{at}.httpGet.httpHeaders[{index}]");
        report.check(
            hyper::header::HeaderName::from_bytes(header.name.as_bytes()).is_ok(),
            format!("{field}.name"),
            || format!("{:?} is not the name of an HTTP header", header.name),
        );
        report.check(hyper::header::HeaderValue::from_str(&header.value).is_ok(), format!("{field}.value"), || {
            "cannot be sent in an HTTP header".to_owned()
        });
    }
}

fn tcp(container: &Container, action: Option<&TCPSocketAction>, at: &str, report: &mut Report) {
    if let Some(action) = action {
        port(container, &action.port, &format!("{at}.tcpSocket.port"), report);
    }
}

fn port(container: &Container, port: &IntOrString, at: &str, report: &mut Report) {
    let name = match port {
        IntOrString::Int(number) => {
            return report.check((1..=65_535).contains(number), at, || format!("{number} must be between 1 and 65535"));
        }
        IntOrString::String(name) => name,
    };
    let known = container.ports.iter().flatten().any(|port| port.name.as_ref() == Some(name));
    let number = name.parse::<u16>().is_ok_and(|number| number > 0);
    report.check(known || number, at, || {
        let names: Vec<_> = container.ports.iter().flatten().filter_map(|port| port.name.as_deref()).collect();
        match names.as_slice() {
            [] => format!("{name:?} is no port: the container names none; write a number"),
            names => format!("{name:?} is no port of this container; {} is", or(names)),
        }
    });
}
