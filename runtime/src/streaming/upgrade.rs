//! Which protocol a connection goes on with, and how it is told; from the head of its request alone.

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::head::{Head, refusal};

/// The SPDY that is spoken.
const SPDY: &str = "SPDY/3.1";

/// The subprotocol of forwarded ports on SPDY streams.
const FORWARD: &str = "portforward.k8s.io";

/// The same, inside the binary messages of a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// How the end of a process is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// A `Status` as JSON, also for success.
    Status,
    /// What went wrong as text, nothing for success.
    Text,
}

/// A subprotocol that puts channels into the messages of a WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Channels {
    /// As it is negotiated; empty where the client names none.
    pub name: &'static str,
    /// Channels can be closed one by one.
    pub half_close: bool,
    /// Messages are text: a digit and base64.
    pub base64: bool,
    /// How the end is told.
    pub told: Told,
}

/// Newest first.
const CHANNELS: [Channels; 6] = [
    Channels { name: "v5.channel.k8s.io", half_close: true, base64: false, told: Told::Status },
    Channels { name: "v4.channel.k8s.io", half_close: false, base64: false, told: Told::Status },
    Channels { name: "v4.base64.channel.k8s.io", half_close: false, base64: true, told: Told::Status },
    Channels { name: "channel.k8s.io", half_close: false, base64: false, told: Told::Text },
    Channels { name: "base64.channel.k8s.io", half_close: false, base64: true, told: Told::Text },
    Channels { name: "", half_close: false, base64: false, told: Told::Text },
];

/// A subprotocol of a process on SPDY streams.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lanes {
    name: &'static str,
    /// The client opens a stream for sizes of the terminal.
    pub resizes: bool,
    /// How the end is told.
    pub told: Told,
}

/// Newest first.
const LANES: [Lanes; 4] = [
    Lanes { name: "v4.channel.k8s.io", resizes: true, told: Told::Status },
    Lanes { name: "v3.channel.k8s.io", resizes: true, told: Told::Text },
    Lanes { name: "v2.channel.k8s.io", resizes: false, told: Told::Text },
    Lanes { name: "channel.k8s.io", resizes: false, told: Told::Text },
];

/// What the URL was handed out for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Exec or attach.
    Process,
    /// Port-forward.
    Forward,
}

/// How a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Messages of a WebSocket.
    Channels(&'static Channels),
    /// A process on SPDY streams.
    Lanes(&'static Lanes),
    /// Forwarded ports on SPDY streams.
    Pairs,
    /// The same in a WebSocket.
    TunnelledPairs,
}

/// What to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Switch protocols; `response` is the whole head of the answer.
    Upgrade {
        /// Chosen protocol.
        protocol: Protocol,
        /// To be sent.
        response: String,
    },
    /// Say no and close; nothing that follows on the connection is looked at.
    Refuse {
        /// To be sent.
        response: String,
    },
}

/// Decides about a head whose token was good.
pub(crate) fn judge(head: &Head, kind: Kind) -> Verdict {
    let asks = |what| head.has("upgrade", what) && head.has("connection", "upgrade");
    match () {
        () if asks("websocket") && head.method == "GET" => websocket(head, kind),
        () if asks(SPDY) && matches!(head.method.as_str(), "GET" | "POST") => spdy(head, kind),
        () => refuse("400 Bad Request", "unable to upgrade: a WebSocket or SPDY/3.1 upgrade is expected here"),
    }
}

fn websocket(head: &Head, kind: Kind) -> Verdict {
    if !head.has("sec-websocket-version", "13") {
        return refuse("426 Upgrade Required", "WebSocket version 13 is spoken here");
    }
    let Some(key) = head.list("sec-websocket-key").next().filter(|key| key.len() == 24) else {
        return refuse("400 Bad Request", "the WebSocket key is missing or malformed");
    };
    let offered = |name: &str| match name {
        "" => head.list("sec-websocket-protocol").all(str::is_empty),
        name => head.list("sec-websocket-protocol").any(|offer| offer == name),
    };
    if kind == Kind::Forward && offered(TUNNEL) {
        return Verdict::Upgrade { protocol: Protocol::TunnelledPairs, response: switch_websocket(key, TUNNEL) };
    }
    // Forwarded ports have neither an end that is told nor half-closing.
    let fits =
        |channels: &Channels| kind == Kind::Process || (channels.name.is_empty() || channels.name.starts_with("v4"));
    let known = || CHANNELS.iter().filter(|channels| fits(channels));
    match known().find(|channels| offered(channels.name)) {
        Some(channels) => {
            Verdict::Upgrade { protocol: Protocol::Channels(channels), response: switch_websocket(key, channels.name) }
        }
        None => {
            let names: Vec<_> = known().map(|channels| channels.name).filter(|name| !name.is_empty()).collect();
            let tunnel = if kind == Kind::Forward { " and SPDY/3.1+portforward.k8s.io" } else { "" };
            let why = format!("none of the offered subprotocols is spoken here: {}{tunnel} are", names.join(", "));
            refuse("403 Forbidden", &why)
        }
    }
}

fn spdy(head: &Head, kind: Kind) -> Verdict {
    let offers: Vec<_> = head.list("x-stream-protocol-version").filter(|offer| !offer.is_empty()).collect();
    if offers.is_empty() {
        return refuse(
            "400 Bad Request",
            "unable to upgrade: header X-Stream-Protocol-Version does not exist in request",
        );
    }
    let accepted: Vec<_> = match kind {
        Kind::Process => LANES.iter().map(|lanes| lanes.name).collect(),
        Kind::Forward => vec![FORWARD],
    };
    // The client's order counts, as upstream.
    let Some(name) = offers.iter().find(|offer| accepted.contains(offer)) else {
        return cannot_agree(&offers, &accepted);
    };
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {SPDY}\r\n\
         X-Stream-Protocol-Version: {name}\r\n\r\n"
    );
    let lanes = LANES.iter().find(|lanes| kind == Kind::Process && lanes.name == *name);
    Verdict::Upgrade { protocol: lanes.map_or(Protocol::Pairs, Protocol::Lanes), response }
}

/// Clients read from the headers which of theirs to try next.
fn cannot_agree(offers: &[&str], accepted: &[&str]) -> Verdict {
    let why = format!(
        "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
        offers.join(" "),
        accepted.join(" ")
    );
    let lines: String =
        accepted.iter().map(|name| format!("X-Accepted-Stream-Protocol-Versions: {name}\r\n")).collect();
    let response = refusal("403 Forbidden", &why).replacen("\r\n", &format!("\r\n{lines}"), 1);
    Verdict::Refuse { response }
}

fn switch_websocket(key: &str, name: &str) -> String {
    let chosen = if name.is_empty() { String::new() } else { format!("Sec-WebSocket-Protocol: {name}\r\n") };
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n{chosen}\r\n",
        derive_accept_key(key.as_bytes())
    )
}

fn refuse(status: &str, why: &str) -> Verdict {
    Verdict::Refuse { response: refusal(status, why) }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::streaming::head::{Parsed, parse};

    fn answer(kind: Kind, request: &str) -> String {
        let text = request.replace('\n', "\r\n") + "\r\n\r\n";
        let Parsed::Done(head, _) = parse(text.as_bytes()) else { panic!("{request}") };
        let (Verdict::Upgrade { response, .. } | Verdict::Refuse { response }) = judge(&head, kind);
        response.replace('\r', "")
    }

    fn check(kind: Kind, request: &str, expected: Expect) {
        expected.assert_eq(&answer(kind, request));
    }

    const WEBSOCKET: &str = "GET /exec/t HTTP/1.1\nhost: x\nConnection: keep-alive, Upgrade\nUpgrade: WebSocket\n\
        Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n";
    const SPDY_POST: &str = "POST /exec/t HTTP/1.1\nConnection: Upgrade\nUpgrade: SPDY/3.1\n";

    #[test]
    fn the_newest_websocket_subprotocol_both_know_is_chosen() {
        check(
            Kind::Process,
            &format!("{WEBSOCKET}Sec-WebSocket-Protocol: v4.channel.k8s.io, v5.channel.k8s.io, channel.k8s.io"),
            expect![[r#"
                HTTP/1.1 101 Switching Protocols
                Upgrade: websocket
                Connection: Upgrade
                Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=
                Sec-WebSocket-Protocol: v5.channel.k8s.io

            "#]],
        );
        let tunnel = answer(Kind::Forward, &format!("{WEBSOCKET}Sec-WebSocket-Protocol: v4.channel.k8s.io, {TUNNEL}"));
        assert!(tunnel.ends_with("Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\n\n"), "{tunnel}");
        let none = answer(Kind::Process, WEBSOCKET.trim_end());
        assert!(none.ends_with("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\n\n"), "{none}");
    }

    #[test]
    fn the_first_of_kubectls_spdy_subprotocols_that_is_known_is_chosen() {
        let offers = ["v5", "v4", "v3", "v2"].map(|v| format!("X-Stream-Protocol-Version: {v}.channel.k8s.io\n"));
        check(
            Kind::Process,
            &format!("{SPDY_POST}{}X-Stream-Protocol-Version: channel.k8s.io", offers.concat()),
            expect![[r#"
                HTTP/1.1 101 Switching Protocols
                Connection: Upgrade
                Upgrade: SPDY/3.1
                X-Stream-Protocol-Version: v4.channel.k8s.io

            "#]],
        );
        let forward = answer(Kind::Forward, &format!("{SPDY_POST}X-Stream-Protocol-Version: portforward.k8s.io"));
        assert!(forward.starts_with("HTTP/1.1 101"), "{forward}");
    }

    #[test]
    fn a_client_that_speaks_other_subprotocols_is_told_ours() {
        check(
            Kind::Process,
            &format!("{WEBSOCKET}Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io"),
            expect![[r#"
                HTTP/1.1 403 Forbidden
                Content-Type: text/plain
                Content-Length: 155
                Connection: close

                none of the offered subprotocols is spoken here: v5.channel.k8s.io, v4.channel.k8s.io, v4.base64.channel.k8s.io, channel.k8s.io, base64.channel.k8s.io are
            "#]],
        );
        check(
            Kind::Forward,
            &format!("{SPDY_POST}X-Stream-Protocol-Version: v4.channel.k8s.io, v3.channel.k8s.io"),
            expect![[r#"
                HTTP/1.1 403 Forbidden
                X-Accepted-Stream-Protocol-Versions: portforward.k8s.io
                Content-Type: text/plain
                Content-Length: 140
                Connection: close

                unable to upgrade: unable to negotiate protocol: client supports [v4.channel.k8s.io v3.channel.k8s.io], server accepts [portforward.k8s.io]
            "#]],
        );
    }

    #[test]
    fn what_asks_for_no_upgrade_gets_none() {
        for request in [
            "GET /exec/t HTTP/1.1\nHost: x",
            "PUT /exec/t HTTP/1.1\nConnection: Upgrade\nUpgrade: SPDY/3.1",
            "POST /exec/t HTTP/1.1\nConnection: Upgrade\nUpgrade: SPDY/2",
            "POST /exec/t HTTP/1.1\nUpgrade: SPDY/3.1\nX-Stream-Protocol-Version: v4.channel.k8s.io",
            SPDY_POST.trim_end(),
        ] {
            assert!(answer(Kind::Process, request).starts_with("HTTP/1.1 400 "), "{request}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            if let Parsed::Done(head, _) = parse(&bytes) {
                judge(&head, Kind::Process);
            }
        }
    }
}
