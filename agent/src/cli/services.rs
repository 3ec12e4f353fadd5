//! `longshore services`: what the agent programs.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::client::Client;
use super::table;
use super::talk::Format;
use crate::proxy::{PortRow, ServiceRow};
use crate::server::Services;

#[derive(Args, Debug)]
pub(super) struct ServicesArgs {
    /// Print all there is to know.
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
}

pub(super) async fn services(agent: &Client, args: ServicesArgs) -> anyhow::Result<ExitCode> {
    let answer: Services = agent.get("/v1/services").await?;
    let text = match args.output {
        Some(Format::Json) => serde_json::to_string_pretty(&answer)?,
        None if answer.services.is_empty() => "No services.".to_owned(),
        None => lines(&answer.services).join("\n"),
    };
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// One line for each port; a Service without rules has one line too.
fn lines(services: &[ServiceRow]) -> Vec<String> {
    let headings = ["NAME", "TYPE", "ADDRESSES", "ENDPOINTS", "PACKETS", "BYTES"];
    let rows: Vec<_> = services.iter().flat_map(service).collect();
    table::columns(headings, &rows)
}

fn service(service: &ServiceRow) -> Vec<[String; 6]> {
    let none = || "-".to_owned();
    if service.ports.is_empty() {
        return vec![[service.name.to_string(), service.kind.clone(), none(), none(), none(), none()]];
    }
    let number = |number: Option<u64>| number.map_or_else(none, |number| number.to_string());
    let line = |port: &PortRow| {
        let colon = if port.name.is_empty() { "" } else { ":" };
        [
            format!("{}{colon}{}", service.name, port.name),
            service.kind.clone(),
            format!("{}/{}", port.addresses.join(","), port.protocol),
            format!("{}/{}", port.ready, port.endpoints),
            number(port.packets),
            number(port.bytes),
        ]
    };
    service.ports.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::names::ObjectName;

    #[test]
    fn every_port_has_a_line() {
        let port = |name: &str, addresses: &[&str], packets| PortRow {
            name: name.into(),
            protocol: "tcp".into(),
            addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
            ready: 1,
            endpoints: 2,
            packets,
            bytes: packets.map(|count| count * 60),
        };
        let service = |name: &str, kind: &str, ports| ServiceRow {
            name: ObjectName::new("demo", name),
            kind: kind.into(),
            ports,
        };
        let services = [
            service("db", "ClusterIP", vec![]),
            service(
                "web",
                "NodePort",
                vec![port("http", &["10.96.0.1:80", "*:30080"], Some(7)), port("", &["[fd00::1]:80"], None)],
            ),
        ];
        expect![[r#"
            NAME            TYPE        ADDRESSES                  ENDPOINTS   PACKETS   BYTES
            demo/db         ClusterIP   -                          -           -         -
            demo/web:http   NodePort    10.96.0.1:80,*:30080/tcp   1/2         7         420
            demo/web        NodePort    [fd00::1]:80/tcp           1/2         -         -"#]]
        .assert_eq(&lines(&services).join("\n"));
    }
}
