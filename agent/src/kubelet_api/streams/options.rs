//! What the query of a stream asks for, in the names that the API server gives it for a node, and the kubelet's words for
//! what is wrong with it.

use axum::extract::Query;
use hyper::{HeaderMap, Uri};

/// What exec and attach are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) command: Vec<String>,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl Options {
    pub(super) fn of(query: &str) -> Result<Self, String> {
        let pairs = pairs(query);
        let set = |name: &str| pairs.iter().find(|(key, _)| key == name).is_some_and(|(_, value)| value == "1");
        let command = pairs.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect();
        let (stdin, stdout, stderr, tty) = (set("input"), set("output"), set("error"), set("tty"));
        // A terminal has no stderr of its own.
        let stderr = stderr && !tty;
        match stdin || stdout || stderr {
            true => Ok(Self { command, stdin, stdout, stderr, tty }),
            false => Err("you must specify at least 1 of stdin, stdout, stderr".into()),
        }
    }
}

/// The command of `run`: words between single spaces.
pub(super) fn command_of_run(query: &str) -> Vec<String> {
    let command = pairs(query).into_iter().find(|(key, _)| key == "cmd").map(|(_, value)| value);
    command.unwrap_or_default().split(' ').map(str::to_owned).collect()
}

/// Ports in the query, which only a WebSocket of the old kind names there.
pub(super) fn forwarded_ports(headers: &HeaderMap, query: &str) -> Result<Vec<i32>, String> {
    let names = |name: &str, value: &str| {
        let values = headers.get_all(name).iter().filter_map(|one| one.to_str().ok());
        values.flat_map(|one| one.split(',')).any(|one| one.trim().eq_ignore_ascii_case(value))
    };
    if !names("upgrade", "websocket") || names("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io") {
        return Ok(Vec::new());
    }
    let values: Vec<_> = pairs(query).into_iter().filter(|(key, _)| key == "port").map(|(_, value)| value).collect();
    if values.is_empty() {
        return Err("query parameter \"port\" is required".into());
    }
    values
        .iter()
        .flat_map(|value| value.split(',').map(move |port| (value, port)))
        .map(|(value, port)| match port.parse::<u16>() {
            Ok(0) => Err(format!("port {value:?} must be > 0")),
            Ok(port) => Ok(i32::from(port)),
            Err(_) if value.is_empty() => Err("query parameter \"port\" cannot be empty".into()),
            Err(_) => Err(format!("unable to parse {value:?} as a port")),
        })
        .collect()
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let uri = format!("/?{query}").parse::<Uri>().ok();
    let pairs = uri.and_then(|uri| Query::<Vec<(String, String)>>::try_from_uri(&uri).ok());
    pairs.map(|Query(pairs)| pairs).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_asked_for_in_the_nodes_names() {
        let options = Options::of("command=sh&command=-c&command=echo+a%26b&input=1&output=1&tty=1&error=1").unwrap();
        assert_eq!(options.command, ["sh", "-c", "echo a&b"]);
        assert_eq!((options.stdin, options.stdout, options.stderr, options.tty), (true, true, false, true));
        for none in ["", "command=ls", "input=0", "stdin=1&stdout=true", "error=1&tty=1"] {
            assert!(Options::of(none).is_err(), "{none}");
        }
        assert_eq!(command_of_run("cmd=ls+-l%20/"), ["ls", "-l", "/"]);
    }

    #[test]
    fn ports_are_named_in_the_query_by_old_websockets_alone() {
        let headers = |protocol: &'static str| {
            let pairs = [("upgrade", "websocket"), ("sec-websocket-protocol", protocol)];
            pairs.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).into_iter().collect()
        };
        let old = headers("v4.channel.k8s.io");
        assert_eq!(forwarded_ports(&old, "port=80&port=443,8080"), Ok(vec![80, 443, 8080]));
        for wrong in ["", "port=", "port=0", "port=x", "port=65536", "port=80,"] {
            assert!(forwarded_ports(&old, wrong).is_err(), "{wrong}");
        }
        assert_eq!(forwarded_ports(&headers("SPDY/3.1+portforward.k8s.io"), ""), Ok(vec![]));
        assert_eq!(forwarded_ports(&HeaderMap::new(), ""), Ok(vec![]));
    }
}
