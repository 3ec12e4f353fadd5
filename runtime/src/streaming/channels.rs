//! What a binary message of the channel protocols means.

use super::Ended;
use super::head::Protocol;

/// Standard input.
pub(crate) const STDIN: u8 = 0;
/// Standard output.
pub(crate) const STDOUT: u8 = 1;
/// Standard error.
pub(crate) const STDERR: u8 = 2;
/// How it ended: a `Status` as JSON.
pub(crate) const ERROR: u8 = 3;
/// Size of the terminal.
pub(crate) const RESIZE: u8 = 4;
/// v5: the channel named in the one byte that follows is half-closed.
pub(crate) const CLOSE: u8 = 255;

/// A client's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FromClient<'a> {
    /// For the process's standard input.
    Input(&'a [u8]),
    /// The end of the process's standard input.
    EndOfInput,
    /// New size of the terminal: columns, rows.
    Resize(u16, u16),
    /// An empty or harmless message, such as the first empty one that opens a channel.
    Nothing,
    /// The client broke the protocol.
    Bad(&'static str),
}

/// Understands a client's message.
pub(crate) fn understand(message: &[u8], protocol: Protocol) -> FromClient<'_> {
    match (message.split_first(), protocol) {
        (None, _) | (Some((&STDIN, [])), _) => FromClient::Nothing,
        (Some((&STDIN, data)), _) => FromClient::Input(data),
        (Some((&RESIZE, json)), _) => resize(json),
        (Some((&CLOSE, [STDIN])), Protocol::V5) => FromClient::EndOfInput,
        (Some((&CLOSE, [_])), Protocol::V5) => FromClient::Nothing,
        _ => FromClient::Bad("a client sends on channels 0 and 4 only"),
    }
}

#[derive(serde::Deserialize)]
struct Size {
    #[serde(rename = "Width", alias = "width")]
    width: u16,
    #[serde(rename = "Height", alias = "height")]
    height: u16,
}

fn resize(json: &[u8]) -> FromClient<'_> {
    if json.len() > 256 {
        return FromClient::Bad("a terminal size is a short JSON object");
    }
    match serde_json::from_slice::<Size>(json) {
        Ok(size) => FromClient::Resize(size.width, size.height),
        Err(_) if json.is_empty() => FromClient::Nothing,
        Err(_) => FromClient::Bad("a terminal size is {\"Width\":80,\"Height\":24}"),
    }
}

/// A message on `channel`.
pub(crate) fn message(channel: u8, data: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(data.len() + 1);
    message.push(channel);
    message.extend_from_slice(data);
    message
}

/// The `Status` that tells a client how it ended.
pub(crate) fn status(ended: &Ended) -> Vec<u8> {
    let status = match ended {
        Ended::Exited(0) => serde_json::json!({"metadata": {}, "status": "Success"}),
        Ended::Exited(code) => serde_json::json!({
            "metadata": {},
            "status": "Failure",
            "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Ended::Failed(why) => serde_json::json!({
            "metadata": {},
            "status": "Failure",
            "reason": "InternalError",
            "message": format!("Internal error occurred: {why}"),
            "code": 500,
        }),
    };
    status.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn only_v5_can_end_its_input() {
        assert_eq!(understand(&[CLOSE, STDIN], Protocol::V5), FromClient::EndOfInput);
        assert!(matches!(understand(&[CLOSE, STDIN], Protocol::V4), FromClient::Bad(_)));
    }

    #[test]
    fn input_and_sizes_are_told_apart() {
        assert_eq!(understand(b"\x00hi", Protocol::V4), FromClient::Input(b"hi"));
        assert_eq!(understand(b"\x00", Protocol::V4), FromClient::Nothing);
        assert_eq!(understand(br#"{"Width":80,"Height":24}"#.as_slice(), Protocol::V4), {
            FromClient::Bad("a client sends on channels 0 and 4 only")
        });
        let size = [&[RESIZE][..], br#"{"Width":80,"Height":24}"#].concat();
        assert_eq!(understand(&size, Protocol::V4), FromClient::Resize(80, 24));
        let absurd = [&[RESIZE][..], br#"{"Width":99999,"Height":24}"#].concat();
        assert!(matches!(understand(&absurd, Protocol::V4), FromClient::Bad(_)));
    }

    #[test]
    fn an_exit_code_travels_as_a_cause() {
        let text = |ended| String::from_utf8(status(&ended)).unwrap();
        expect![[r#"{"metadata":{},"status":"Success"}"#]].assert_eq(&text(Ended::Exited(0)));
        expect![[r#"{"details":{"causes":[{"message":"3","reason":"ExitCode"}]},"message":"command terminated with non-zero exit code: exit status 3","metadata":{},"reason":"NonZeroExitCode","status":"Failure"}"#]]
            .assert_eq(&text(Ended::Exited(3)));
        expect![[r#"{"code":500,"message":"Internal error occurred: gone","metadata":{},"reason":"InternalError","status":"Failure"}"#]]
            .assert_eq(&text(Ended::Failed("gone".into())));
    }
}
