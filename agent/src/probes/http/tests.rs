//! Against real servers on loopback.

use std::net::SocketAddr;
use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::hook::{self, HookAnswer};
use super::*;

/// A server that answers each request with what `answer` makes of it, and closes.
async fn server(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let record = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let request = head(&mut stream).await;
            let answer = answer(&request);
            record.lock().unwrap().push(request);
            // Who is probed with a time-out hangs up in between.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, seen)
}

async fn head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

fn action(value: Value) -> HTTPGetAction {
    serde_json::from_value(value).unwrap()
}

async fn ask(value: Value, limit: Duration) -> Found {
    let request = Request::of(&action(value), &Container::default(), Some("127.0.0.1"), "kube-probe").unwrap();
    probe(&Http::new().unwrap(), &request, limit).await
}

const SECOND: Duration = Duration::from_secs(1);

fn answer(status: &str, more: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn the_status_decides_and_the_body_is_never_shown() {
    let (address, _) = server(|request| {
        let code = request.split(['/', ' ']).nth(2).unwrap().to_owned();
        answer(&format!("{code} Word"), "", "private")
    })
    .await;
    for (code, want) in [
        (200, Found::Success),
        (204, Found::Success),
        (304, Found::Warning("Probe terminated redirects, Response body: ".to_owned())),
        (302, Found::Warning("Probe terminated redirects, Response body: private".to_owned())),
        (404, Found::Failure("HTTP probe failed with statuscode: 404".to_owned())),
        (500, Found::Failure("HTTP probe failed with statuscode: 500".to_owned())),
    ] {
        assert_eq!(ask(json!({"port": address.port(), "path": format!("/{code}")}), SECOND).await, want);
    }
}

#[tokio::test]
async fn headers_are_the_kubelets_unless_given() {
    let (address, seen) = server(|_| answer("200 OK", "", "")).await;
    let port = address.port();
    ask(json!({"port": port, "path": "health?a=b c"}), SECOND).await;
    ask(
        json!({"port": port, "httpHeaders": [
        {"name": "host", "value": "web.example"}, {"name": "X-A", "value": "1"}, {"name": "X-A", "value": "2"},
        {"name": "User-Agent", "value": "me"}, {"name": "Accept", "value": ""}]}),
        SECOND,
    )
    .await;
    let seen = seen.lock().unwrap();
    assert_eq!(
        seen[0],
        format!(
            "GET /health?a=b%20c HTTP/1.1\r\nUser-Agent: kube-probe/1.36\r\nAccept: */*\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        )
    );
    assert_eq!(
        seen[1],
        "GET / HTTP/1.1\r\nHost: web.example\r\nX-A: 1\r\nX-A: 2\r\nUser-Agent: me\r\nConnection: close\r\n\r\n"
    );
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host_only() {
    let (address, seen) = server(|request| match request.split(' ').nth(1).unwrap() {
        "/same" => answer("302 Found", "Location: /there\r\n", ""),
        "/there" => answer("500 Broken", "", ""),
        "/other" => answer("302 Found", "Location: http://localhost:1/\r\n", "elsewhere"),
        _ => answer("307 Again", "Location: /loop\r\n", ""),
    })
    .await;
    let at = |path: &str| json!({"port": address.port(), "path": path});
    assert_eq!(ask(at("/same"), SECOND).await, Found::Failure("HTTP probe failed with statuscode: 500".to_owned()));
    assert_eq!(
        ask(at("/other"), SECOND).await,
        Found::Warning("Probe terminated redirects, Response body: elsewhere".to_owned())
    );
    seen.lock().unwrap().clear();
    let url = format!("http://127.0.0.1:{}/loop", address.port());
    assert_eq!(ask(at("/loop"), SECOND).await, Found::Failure(format!("Get \"{url}\": stopped after 10 redirects")));
    assert_eq!(seen.lock().unwrap().len(), 10, "the first and nine more");
}

#[tokio::test]
async fn a_host_of_ones_own_goes_along_as_far_as_the_answer_leaves_it() {
    let (address, seen) = server(|request| match request.split(' ').nth(1).unwrap() {
        "/relative" => answer("302 Found", "Location: /there\r\n", ""),
        "/full" => {
            answer("302 Found", "Location: http://127.0.0.1:PORT/there\r\n", "").replace("PORT", &port_of(request))
        }
        _ => answer("200 OK", "", ""),
    })
    .await;
    let port = address.port();
    let at = |path: &str| {
        let headers = json!([{"name": "Host", "value": "web.example"}, {"name": "X-Port", "value": port.to_string()}]);
        json!({"port": port, "path": path, "httpHeaders": headers})
    };
    assert_eq!(ask(at("/relative"), SECOND).await, Found::Success);
    assert_eq!(ask(at("/full"), SECOND).await, Found::Success);
    let seen = seen.lock().unwrap();
    assert!(seen[1].contains("\r\nHost: web.example\r\n"), "{}", seen[1]);
    assert!(seen[1].contains(&format!("\r\nReferer: http://127.0.0.1:{port}/relative\r\n")), "{}", seen[1]);
    assert!(seen[3].contains(&format!("\r\nHost: 127.0.0.1:{port}\r\n")), "{}", seen[3]);
}

fn port_of(request: &str) -> String {
    let line = request.lines().find_map(|line| line.strip_prefix("X-Port: "));
    line.unwrap_or_default().to_owned()
}

#[tokio::test]
async fn nobody_there_nobody_answering_and_nonsense_are_failures() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let text = format!("Get \"http://{closed}/\": dial tcp {closed}: connect: connection refused");
    assert_eq!(ask(json!({"port": closed.port()}), SECOND).await, Found::Failure(text));

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let found = ask(json!({"port": silent.local_addr().unwrap().port()}), Duration::from_millis(50)).await;
    assert!(matches!(&found, Found::Failure(text) if text.contains("deadline exceeded")), "{found:?}");

    let (address, _) = server(|_| "SSH-2.0-not-http\r\n\r\n".to_owned()).await;
    let found = ask(json!({"port": address.port()}), SECOND).await;
    assert!(matches!(found, Found::Failure(_)), "{found:?}");
}

#[tokio::test]
async fn a_body_without_end_is_read_so_far_and_no_further() {
    let (address, _) = server(|_| format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(1 << 20))).await;
    assert_eq!(ask(json!({"port": address.port()}), SECOND).await, Found::Success);
    let (address, _) = server(|_| "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort".to_owned()).await;
    let found = ask(json!({"port": address.port()}), SECOND).await;
    assert!(matches!(found, Found::Broken(_)), "{found:?}");
    let headers = (0..2_000).map(|n| format!("X-{n}: {}\r\n", "y".repeat(100))).collect::<String>();
    let (address, _) = server(move |_| answer("200 OK", &headers, "")).await;
    assert!(matches!(ask(json!({"port": address.port()}), SECOND).await, Found::Failure(_)));
}

#[tokio::test]
async fn a_body_that_stalls_says_nothing_of_the_container() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart").await.unwrap();
        // Held open until the other side gives up.
        let _ = stream.read_u8().await;
    });
    let found = ask(json!({"port": port}), Duration::from_millis(200)).await;
    let text = "context deadline exceeded (Client.Timeout or context cancellation while reading body)";
    assert_eq!(found, Found::Broken(text.to_owned()));
}

/// A TLS server with a certificate that nobody signed.
async fn tls_server() -> SocketAddr {
    let made = rcgen::generate_simple_self_signed(vec!["wrong.example".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            head(&mut stream).await;
            let _ = stream.write_all(answer("200 OK", "", "").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

#[tokio::test]
async fn certificates_are_not_verified() {
    let address = tls_server().await;
    assert_eq!(ask(json!({"port": address.port(), "scheme": "HTTPS"}), SECOND).await, Found::Success);
    let named = json!({"port": address.port(), "scheme": "HTTPS", "host": "localhost"});
    assert_eq!(ask(named, SECOND).await, Found::Success);
}

#[tokio::test]
async fn a_hook_is_content_with_any_answer_and_falls_back_to_plain_text() {
    let (address, seen) = server(|_| answer("500 Broken", "", "")).await;
    let http = Http::new().unwrap();
    let ask =
        async |value: Value| hook::http_get(&http, &action(value), &Container::default(), Some("127.0.0.1")).await;
    assert_eq!(ask(json!({"port": address.port()})).await.unwrap(), HookAnswer::Answered);
    assert!(seen.lock().unwrap()[0].contains("User-Agent: kube-lifecycle/1.36\r\n"));
    seen.lock().unwrap().clear();

    // Plain HTTP servers answer a TLS hello with an error in plain text.
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = plain.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let mut first = [0; 1];
            let _ = stream.read_exact(&mut first).await;
            if first[0] != 0x16 {
                let rest = head(&mut stream).await;
                assert!(!rest.to_lowercase().contains("authorization"));
            }
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let secret = json!({"port": port, "scheme": "HTTPS", "httpHeaders": [{"name": "Authorization", "value": "hush"}]});
    assert_eq!(ask(secret).await.unwrap(), HookAnswer::AnsweredInPlainText { host: format!("127.0.0.1:{port}") });

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = ask(json!({"port": closed.port()})).await.unwrap_err();
    assert_eq!(error.to_string(), format!("Get \"http://{closed}/\": dial tcp {closed}: connect: connection refused"));
}
