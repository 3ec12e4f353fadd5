//! Against real HTTP/2 servers on loopback.

use std::sync::{Arc, Mutex};

use expect_test::expect;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

/// How a server ends a call.
#[derive(Clone)]
enum End {
    /// This serving status, and OK.
    Serving(u8),
    /// A gRPC status and message, without an answer.
    Status(&'static str, &'static str),
    /// A plain HTTP status.
    Http(u16),
    /// Nothing, ever.
    Silence,
}

type Seen = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

async fn server(end: End) -> (u16, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Seen::default();
    let record = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, end.clone(), record.clone()));
        }
    });
    (port, seen)
}

async fn serve(stream: TcpStream, end: End, seen: Seen) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (end, seen) = (end.clone(), seen.clone());
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let data = body.data().await.unwrap().unwrap();
            let header = |name: &str| head.headers.get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
            let told = format!("{} {} {} {}", head.method, head.uri, header("content-type"), header("te"));
            seen.lock().unwrap().push((told, data.to_vec()));
            let mut answer = Response::builder().header("content-type", "application/grpc");
            match end {
                End::Silence => std::future::pending().await,
                End::Status(code, message) => {
                    answer = answer.header("grpc-status", code).header("grpc-message", message);
                    respond.send_response(answer.body(()).unwrap(), true).unwrap();
                }
                End::Http(status) => {
                    respond.send_response(answer.status(status).body(()).unwrap(), true).unwrap();
                }
                End::Serving(status) => {
                    let mut stream = respond.send_response(answer.body(()).unwrap(), false).unwrap();
                    stream.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), false).unwrap();
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    stream.send_trailers(trailers).unwrap();
                }
            }
        });
    }
}

const LIMIT: Duration = Duration::from_secs(10);

async fn ask(end: End) -> String {
    let (port, _) = server(end).await;
    format!("{:?}\n", probe("127.0.0.1", port, "", LIMIT).await)
}

#[tokio::test]
async fn the_service_is_asked_for_by_name() {
    let (port, seen) = server(End::Serving(1)).await;
    assert_eq!(probe("127.0.0.1", port, "shop.Cart", LIMIT).await, Found::Success);
    let (told, data) = seen.lock().unwrap()[0].clone();
    let want = format!("POST http://127.0.0.1:{port}/grpc.health.v1.Health/Check application/grpc trailers");
    assert_eq!((told, data), (want, b"\0\0\0\0\x0b\x0a\x09shop.Cart".to_vec()));
    assert_eq!(message("")[..], [0; 5]);
    assert_eq!(message(&"x".repeat(300))[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
}

#[tokio::test]
async fn answers_are_told_in_the_kubelets_words() {
    let mut text = String::new();
    for end in [
        End::Serving(0),
        End::Serving(2),
        End::Serving(3),
        End::Serving(9),
        End::Status("12", "unknown service grpc.health.v1.Health"),
        End::Status("5", "unknown%20service%"),
        End::Status("4", "slow"),
        End::Status("nonsense", ""),
        End::Http(404),
        End::Http(503),
    ] {
        text += &ask(end).await;
    }
    expect![[r#"
        Failure("service unhealthy (responded with \"UNKNOWN\")")
        Failure("service unhealthy (responded with \"NOT_SERVING\")")
        Failure("service unhealthy (responded with \"SERVICE_UNKNOWN\")")
        Failure("service unhealthy (responded with \"9\")")
        Failure("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service grpc.health.v1.Health")
        Failure("error: health rpc probe failed: rpc error: code = NotFound desc = unknown service%")
        Failure("timeout: health rpc did not complete within 10s")
        Failure("error: health rpc probe failed: rpc error: code = Unknown desc = ")
        Failure("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unexpected HTTP status code received from server: 404 (Not Found)")
        Failure("error: health rpc probe failed: rpc error: code = Unavailable desc = unexpected HTTP status code received from server: 503 (Service Unavailable)")
    "#]]
    .assert_eq(&text);
}

#[tokio::test]
async fn silence_nobody_and_another_protocol_are_failures() {
    let (port, _) = server(End::Silence).await;
    let found = probe("127.0.0.1", port, "", Duration::from_secs(1)).await;
    assert_eq!(found, Found::Failure("timeout: health rpc did not complete within 1s".to_owned()));

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let found = probe("127.0.0.1", closed.port(), "", Duration::from_secs(1)).await;
    let text = format!("timeout: failed to connect service \"{closed}\" within 1s: context deadline exceeded");
    assert_eq!(found, Found::Failure(text));

    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = plain.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
        }
    });
    let found = probe("127.0.0.1", port, "", LIMIT).await;
    assert!(matches!(&found, Found::Failure(text) if text.starts_with("error: health rpc probe failed")), "{found:?}");
    assert!(matches!(probe("", 80, "", LIMIT).await, Found::Failure(_)));
}

#[tokio::test]
async fn a_server_that_is_just_coming_up_is_waited_for() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let asked = tokio::spawn(async move { probe("127.0.0.1", address.port(), "", LIMIT).await });
    tokio::time::sleep(Duration::from_millis(120)).await;
    let listener = TcpListener::bind(address).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    tokio::spawn(serve(stream, End::Serving(1), Seen::default()));
    assert_eq!(asked.await.unwrap(), Found::Success);
}

#[test]
fn answers_of_a_later_protocol_are_read_and_nonsense_is_not() {
    let framed = |body: &[u8]| [&[0, 0, 0, 0, u8::try_from(body.len()).unwrap()][..], body].concat();
    assert_eq!(serving(&framed(&[])), Ok(0));
    assert_eq!(serving(&framed(&[0x12, 2, 1, 1, 8, 1, 0x1d, 0, 0, 0, 0])), Ok(1));
    for broken in [&[8][..], &[8, 0x80], &[0x12, 9, 1], &[0x0b], &[8; 40]] {
        let read = serving(&framed(broken));
        assert!(read.is_err() || broken.len() == 40, "{broken:?} {read:?}");
    }
    assert!(serving(&[1, 0, 0, 0, 0]).is_err(), "compressed");
    assert!(serving(&[0, 0, 0, 0, 9]).is_err(), "cut off");
    assert_eq!(["1s", "1m0s", "1h1m1s"], [1, 60, 3_661].map(|seconds| duration(Duration::from_secs(seconds))));
}
