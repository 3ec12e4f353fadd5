//! What a message of the channel protocols means, and how the end of a process is told in all protocols.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio_tungstenite::tungstenite::Message;

use super::Ended;
use super::upgrade::{Channels, Told};

/// Standard input.
pub(crate) const STDIN: u8 = 0;
/// Standard output.
pub(crate) const STDOUT: u8 = 1;
/// Standard error.
pub(crate) const STDERR: u8 = 2;
/// How it ended.
pub(crate) const ERROR: u8 = 3;
/// Size of the terminal.
pub(crate) const RESIZE: u8 = 4;
/// v5: the channel named in the one byte that follows is half-closed.
pub(crate) const CLOSE: u8 = 255;

/// Bytes of a terminal's size that is not whole yet; a whole one has some 30.
const LARGEST_SIZE: usize = 256;

/// A message, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parted {
    /// On this channel.
    On(u8, Bytes),
    /// Not for us: a ping, an empty message.
    Nothing,
    /// The client closes, or broke the protocol.
    End,
}

impl Channels {
    /// A message on `channel`.
    pub(crate) fn message(&self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::with_capacity(data.len() * 4 / 3 + 5);
            text.push(char::from(b'0' + channel));
            STANDARD.encode_string(data, &mut text);
            return Message::text(text);
        }
        let mut message = Vec::with_capacity(data.len() + 1);
        message.push(channel);
        message.extend_from_slice(data);
        Message::binary(message)
    }

    /// What a client's message is.
    pub(crate) fn part(&self, message: Message) -> Parted {
        let mut bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) if self.base64 => Bytes::from(text),
            Message::Close(_) | Message::Text(_) => return Parted::End,
            _ => return Parted::Nothing,
        };
        if bytes.is_empty() {
            return Parted::Nothing;
        }
        let channel = bytes.split_to(1)[0];
        match self.base64 {
            false => Parted::On(channel, bytes),
            true => match (channel.checked_sub(b'0'), STANDARD.decode(&bytes)) {
                (Some(channel @ ..=9), Ok(data)) => Parted::On(channel, data.into()),
                _ => Parted::End,
            },
        }
    }
}

/// Reads sizes of a terminal, JSON objects one after the other.
#[derive(Debug, Default)]
pub(crate) struct Sizes(Vec<u8>);

#[derive(serde::Deserialize)]
struct Size {
    #[serde(rename = "Width", alias = "width")]
    width: u16,
    #[serde(rename = "Height", alias = "height")]
    height: u16,
}

impl Sizes {
    /// The newest size in these bytes, if one has become whole (columns, rows); the error says that they are no sizes.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<Option<(u16, u16)>, &'static str> {
        self.0.extend_from_slice(bytes);
        let mut newest = None;
        let mut sizes = serde_json::Deserializer::from_slice(&self.0).into_iter::<Size>();
        for size in sizes.by_ref() {
            match size {
                Ok(size) => newest = Some((size.width, size.height)),
                Err(error) if error.is_eof() => break,
                Err(_) => return Err("a terminal size is {\"Width\":80,\"Height\":24}"),
            }
        }
        // What begins behind the last whole one is kept.
        let done = sizes.byte_offset();
        self.0.drain(..done);
        if self.0.len() > LARGEST_SIZE { Err("a terminal size is a short JSON object") } else { Ok(newest) }
    }
}

/// What a client is told of the end; nothing where success needs no words.
pub(crate) fn tell(ended: &Ended, told: Told) -> Vec<u8> {
    let message = match ended {
        Ended::Exited(0) => String::new(),
        Ended::Exited(code) => format!("command terminated with non-zero exit code: exit status {code}"),
        Ended::Failed(why) => format!("Internal error occurred: {why}"),
    };
    if told == Told::Text {
        return message.into_bytes();
    }
    let status = match ended {
        Ended::Exited(0) => serde_json::json!({"metadata": {}, "status": "Success"}),
        Ended::Exited(code) => serde_json::json!({
            "metadata": {},
            "status": "Failure",
            "reason": "NonZeroExitCode",
            "message": message,
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Ended::Failed(_) => serde_json::json!({
            "metadata": {},
            "status": "Failure",
            "reason": "InternalError",
            "message": message,
            "code": 500,
        }),
    };
    status.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    const BINARY: Channels = Channels { name: "", half_close: false, base64: false, told: Told::Text };
    const BASE64: Channels = Channels { base64: true, ..BINARY };

    #[test]
    fn a_message_is_a_channel_and_its_bytes() {
        assert_eq!(BINARY.message(STDOUT, b"hi"), Message::binary(&b"\x01hi"[..]));
        assert_eq!(BINARY.part(Message::binary(&b"\x00hi"[..])), Parted::On(STDIN, "hi".into()));
        assert_eq!(BINARY.part(Message::binary(&b""[..])), Parted::Nothing);
        assert_eq!(BINARY.part(Message::text("0aGk=")), Parted::End);
    }

    #[test]
    fn base64_messages_are_a_digit_and_text() {
        assert_eq!(BASE64.message(STDOUT, b"hi"), Message::text("1aGk="));
        assert_eq!(BASE64.part(Message::text("0aGk=")), Parted::On(STDIN, "hi".into()));
        assert_eq!(BASE64.part(Message::binary(&b"0aGk="[..])), Parted::On(STDIN, "hi".into()));
        for wrong in ["0!", "xaGk=", "/aGk="] {
            assert_eq!(BASE64.part(Message::text(wrong)), Parted::End, "{wrong}");
        }
    }

    #[test]
    fn sizes_come_in_any_pieces_and_the_newest_counts() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.take(b"{\"Width\":80,\"Hei"), Ok(None));
        assert_eq!(sizes.take(b"ght\":24}\n{\"Width\":100,\"Height\":30}\n{"), Ok(Some((100, 30))));
        assert_eq!(sizes.take(b"\"Width\":1,\"Height\":2}"), Ok(Some((1, 2))));
        assert!(sizes.take(b"{\"Width\":99999,\"Height\":24}").is_err());
        assert!(Sizes::default().take(b"[1]").is_err());
        assert!(Sizes::default().take(&[b' '; 4000]).is_ok());
        assert!(Sizes::default().take(format!("{{\"Width\":1,{}", " ".repeat(4000)).as_bytes()).is_err());
        assert_eq!(Sizes::default().take(b""), Ok(None));
    }

    #[test]
    fn an_exit_code_travels_as_a_cause() {
        let text = |ended| String::from_utf8(tell(&ended, Told::Status)).unwrap();
        expect![[r#"{"metadata":{},"status":"Success"}"#]].assert_eq(&text(Ended::Exited(0)));
        expect![[r#"{"details":{"causes":[{"message":"3","reason":"ExitCode"}]},"message":"command terminated with non-zero exit code: exit status 3","metadata":{},"reason":"NonZeroExitCode","status":"Failure"}"#]]
            .assert_eq(&text(Ended::Exited(3)));
        expect![[r#"{"code":500,"message":"Internal error occurred: gone","metadata":{},"reason":"InternalError","status":"Failure"}"#]]
            .assert_eq(&text(Ended::Failed("gone".into())));
    }

    #[test]
    fn older_clients_are_told_in_words_and_of_success_nothing() {
        assert_eq!(tell(&Ended::Exited(0), Told::Text), b"");
        let said = b"command terminated with non-zero exit code: exit status 3";
        assert_eq!(tell(&Ended::Exited(3), Told::Text), said);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            BASE64.part(Message::binary(bytes.clone()));
            let _ = Sizes::default().take(&bytes);
        }
    }
}
