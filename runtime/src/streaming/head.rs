//! What a connection asks for: the head of one HTTP/1.1 request, read with limits and judged.

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Longest head, bytes: an API server's request with all its proxy headers is below 4 KiB.
pub(crate) const LARGEST_HEAD: usize = 16 << 10;

/// A request head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    method: String,
    /// Path without the query.
    pub path: String,
    /// What follows `?`, still encoded.
    pub query: String,
    headers: Vec<(String, String)>,
}

/// What bytes have told so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// The head is not complete.
    More,
    /// The head, and how many bytes it took.
    Done(Head, usize),
    /// This is no HTTP request, or a head larger than [`LARGEST_HEAD`].
    Bad,
}

/// A subprotocol we speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// `v5.channel.k8s.io`: v4 and half-closing.
    V5,
    /// `v4.channel.k8s.io`.
    V4,
}

impl Protocol {
    /// As it is negotiated.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V5 => "v5.channel.k8s.io",
            Self::V4 => "v4.channel.k8s.io",
        }
    }
}

/// What to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Switch protocols; `response` is the whole head of the answer.
    Upgrade {
        /// Chosen subprotocol.
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

/// Reads a head from the beginning of `bytes`.
pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    let Some(end) = bytes.windows(4).take(LARGEST_HEAD).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() < LARGEST_HEAD { Parsed::More } else { Parsed::Bad };
    };
    match std::str::from_utf8(&bytes[..end]).ok().and_then(parse_text) {
        Some(head) => Parsed::Done(head, end + 4),
        None => Parsed::Bad,
    }
}

fn parse_text(text: &str) -> Option<Head> {
    let mut lines = text.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || version != "HTTP/1.1" || !target.starts_with('/') {
        return None;
    }
    let headers = lines
        .map(|line| line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())))
        .collect::<Option<Vec<_>>>()?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Some(Head { method: method.into(), path: path.into(), query: query.into(), headers })
}

impl Head {
    /// All values of a header that is a comma-separated list.
    fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.headers.iter().filter(move |(header, _)| header == name);
        named.flat_map(|(_, value)| value.split(',')).map(str::trim)
    }

    fn has(&self, name: &str, token: &str) -> bool {
        self.list(name).any(|value| value.eq_ignore_ascii_case(token))
    }
}

/// Decides about a head whose token was good.
pub(crate) fn judge(head: &Head) -> Verdict {
    if head.list("upgrade").any(|value| value.to_ascii_lowercase().starts_with("spdy/")) {
        return refuse("501 Not Implemented", "SPDY is not supported here: use a WebSocket client (v5.channel.k8s.io)");
    }
    if !head.has("upgrade", "websocket") || !head.has("connection", "upgrade") || head.method != "GET" {
        return refuse("400 Bad Request", "this address takes a WebSocket upgrade");
    }
    if !head.has("sec-websocket-version", "13") {
        return refuse("426 Upgrade Required", "WebSocket version 13 is spoken here");
    }
    let Some(key) = head.list("sec-websocket-key").next().filter(|key| key.len() == 24) else {
        return refuse("400 Bad Request", "the WebSocket key is missing or malformed");
    };
    let offered = |protocol: &Protocol| head.has("sec-websocket-protocol", protocol.name());
    match [Protocol::V5, Protocol::V4].into_iter().find(offered) {
        Some(protocol) => Verdict::Upgrade { protocol, response: switch(key, protocol) },
        None => refuse(
            "403 Forbidden",
            "none of the offered subprotocols is spoken here: v5.channel.k8s.io and v4.channel.k8s.io are",
        ),
    }
}

fn switch(key: &str, protocol: Protocol) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {}\r\n\r\n",
        derive_accept_key(key.as_bytes()),
        protocol.name()
    )
}

/// A whole response that says no.
pub(crate) fn refusal(status: &str, why: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{why}\n",
        why.len() + 1
    )
}

fn refuse(status: &str, why: &str) -> Verdict {
    Verdict::Refuse { response: refusal(status, why) }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(request: &str, expected: Expect) {
        let text = request.replace('\n', "\r\n") + "\r\n\r\n";
        let shown = match parse(text.as_bytes()) {
            Parsed::Done(head, taken) => {
                assert_eq!(taken, text.len());
                match judge(&head) {
                    Verdict::Upgrade { response, .. } | Verdict::Refuse { response } => response.replace('\r', ""),
                }
            }
            other => format!("{other:?}"),
        };
        expected.assert_eq(&shown);
    }

    const KEY: &str = "Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

    #[test]
    fn the_newest_subprotocol_both_know_is_chosen() {
        check(
            &format!(
                "GET /exec/t HTTP/1.1\nhost: x\nConnection: keep-alive, Upgrade\nUpgrade: WebSocket\n{KEY}\n\
                 Sec-WebSocket-Protocol: v4.channel.k8s.io, v5.channel.k8s.io, channel.k8s.io"
            ),
            expect![[r#"
                HTTP/1.1 101 Switching Protocols
                Upgrade: websocket
                Connection: Upgrade
                Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=
                Sec-WebSocket-Protocol: v5.channel.k8s.io

            "#]],
        );
    }

    #[test]
    fn spdy_is_refused_in_words() {
        check(
            "POST /exec/t HTTP/1.1\nConnection: Upgrade\nUpgrade: SPDY/3.1\nX-Stream-Protocol-Version: v4.channel.k8s.io",
            expect![[r#"
                HTTP/1.1 501 Not Implemented
                Content-Type: text/plain
                Content-Length: 71
                Connection: close

                SPDY is not supported here: use a WebSocket client (v5.channel.k8s.io)
            "#]],
        );
    }

    #[test]
    fn a_client_that_speaks_other_subprotocols_is_told_ours() {
        check(
            &format!(
                "GET /portforward/t HTTP/1.1\nConnection: Upgrade\nUpgrade: websocket\n{KEY}\n\
                 Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io"
            ),
            expect![[r#"
                HTTP/1.1 403 Forbidden
                Content-Type: text/plain
                Content-Length: 93
                Connection: close

                none of the offered subprotocols is spoken here: v5.channel.k8s.io and v4.channel.k8s.io are
            "#]],
        );
    }

    #[test]
    fn what_is_no_request_is_not_taken_for_one() {
        check("GET / HTTP/1.0", expect!["Bad"]);
        check("GET http://x/ HTTP/1.1", expect!["Bad"]);
        check("GET / HTTP/1.1\nno colon", expect!["Bad"]);
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Parsed::More);
        assert_eq!(parse(&vec![b'a'; LARGEST_HEAD]), Parsed::Bad);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            if let Parsed::Done(head, _) = parse(&bytes) {
                judge(&head);
            }
        }
    }
}
