//! The head of one HTTP/1.1 request, read with limits.

/// Longest head, bytes: an API server's request with all its proxy headers is below 4 KiB.
pub(crate) const LARGEST_HEAD: usize = 16 << 10;

/// A request head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The verb.
    pub method: String,
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
    pub(crate) fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.headers.iter().filter(move |(header, _)| header == name);
        named.flat_map(|(_, value)| value.split(',')).map(str::trim)
    }

    /// Whether `token` is in such a list, in whatever case.
    pub(crate) fn has(&self, name: &str, token: &str) -> bool {
        self.list(name).any(|value| value.eq_ignore_ascii_case(token))
    }
}

/// A whole response that says no.
pub(crate) fn refusal(status: &str, why: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{why}\n",
        why.len() + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(request: &str) -> Parsed {
        parse((request.replace('\n', "\r\n") + "\r\n\r\n").as_bytes())
    }

    #[test]
    fn lists_are_read_over_all_headers_of_a_name() {
        let Parsed::Done(head, _) = parsed("GET /exec/t?a=b HTTP/1.1\nUpgrade: a, b\nupgrade: C") else { panic!() };
        assert_eq!((head.method.as_str(), head.path.as_str(), head.query.as_str()), ("GET", "/exec/t", "a=b"));
        assert_eq!(head.list("upgrade").collect::<Vec<_>>(), ["a", "b", "C"]);
        assert!(head.has("upgrade", "c") && !head.has("upgrade", "d"));
    }

    #[test]
    fn what_is_no_request_is_not_taken_for_one() {
        assert_eq!(parsed("GET / HTTP/1.0"), Parsed::Bad);
        assert_eq!(parsed("GET http://x/ HTTP/1.1"), Parsed::Bad);
        assert_eq!(parsed("GET / HTTP/1.1\nno colon"), Parsed::Bad);
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Parsed::More);
        assert_eq!(parse(&vec![b'a'; LARGEST_HEAD]), Parsed::Bad);
    }
}
