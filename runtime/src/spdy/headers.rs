//! Header blocks: names and values, compressed over the whole life of a connection.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::Violation;
use super::dictionary::dictionary;

/// Largest header block after inflation. A stream of kubectl's has three short headers.
pub const LARGEST_BLOCK: usize = 16 << 10;

/// Most headers in one block; each costs us two allocations.
const MOST_HEADERS: usize = 64;

/// Names and values of a stream. Several values of one name are joined by NUL, as on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// From names in lower case and their values.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// The first value of a header; `name` in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.iter().find(|(have, _)| have == name)?.1.as_str();
        value.split('\0').next()
    }

    fn to_block(&self) -> Vec<u8> {
        let mut block = Vec::new();
        block.extend((self.0.len() as u32).to_be_bytes());
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.extend((text.len() as u32).to_be_bytes());
            block.extend(text.as_bytes());
        }
        block
    }

    fn from_block(block: &[u8]) -> Option<Self> {
        let mut rest = block;
        let count = usize::try_from(number(&mut rest)?).ok().filter(|count| *count <= MOST_HEADERS)?;
        let headers = (0..count).map(|_| Some((text(&mut rest)?.to_ascii_lowercase(), text(&mut rest)?)));
        let headers = headers.collect::<Option<Vec<_>>>()?;
        rest.is_empty().then_some(Self(headers))
    }
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_be_bytes(*bytes))
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = number(rest)?.try_into().ok()?;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    String::from_utf8(bytes.to_vec()).ok()
}

/// Compresses the blocks we send.
#[derive(Debug)]
pub(super) struct Deflate(Compress);

impl Deflate {
    pub(super) fn new() -> Self {
        let mut stream = Compress::new(Compression::fast(), true);
        // Fails only in the middle of a stream, and this one has not begun.
        let _ = stream.set_dictionary(&dictionary());
        Self(stream)
    }

    /// A block as it is sent next; the order of calls is the order on the wire.
    pub(super) fn block(&mut self, headers: &Headers) -> Vec<u8> {
        let block = headers.to_block();
        // Room for what cannot be compressed, for zlib's header and for the empty block of a flush.
        let mut sent = Vec::with_capacity(block.len() + 64);
        let before = self.0.total_in();
        loop {
            let done = (self.0.total_in() - before) as usize;
            let spoken = self.0.compress_vec(&block[done..], &mut sent, FlushCompress::Sync);
            // Room that is left means that everything, flush included, is out.
            if spoken.is_err() || sent.len() < sent.capacity() {
                return sent;
            }
            sent.reserve(256);
        }
    }
}

/// Reads the blocks that come.
#[derive(Debug)]
pub(super) struct Inflate(Decompress);

impl Inflate {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// The headers in the next block. After an error nothing more can be read from the connection.
    pub(super) fn block(&mut self, sent: &[u8]) -> Result<Headers, Violation> {
        let mut block = Vec::with_capacity(512);
        let mut rest = sent;
        loop {
            let (taken, made) = (self.0.total_in(), block.len());
            let status = self.step(rest, &mut block)?;
            rest = &rest[(self.0.total_in() - taken) as usize..];
            match status {
                Status::StreamEnd => return Err(Violation::Compression),
                _ if block.len() > LARGEST_BLOCK => return Err(Violation::HeadersTooLarge),
                // Room that is left means that nothing more comes out.
                _ if rest.is_empty() && block.len() < block.capacity() => break,
                _ if block.len() == made && block.len() < block.capacity() => return Err(Violation::Compression),
                _ => block.reserve(1024),
            }
        }
        Headers::from_block(&block).ok_or(Violation::Headers)
    }

    fn step(&mut self, rest: &[u8], block: &mut Vec<u8>) -> Result<Status, Violation> {
        let before = self.0.total_in();
        let error = match self.0.decompress_vec(rest, block, FlushDecompress::Sync) {
            Ok(status) => return Ok(status),
            Err(error) => error,
        };
        if error.needs_dictionary().is_none() || self.0.set_dictionary(&dictionary()).is_err() {
            return Err(Violation::Compression);
        }
        let rest = &rest[(self.0.total_in() - before) as usize..];
        self.0.decompress_vec(rest, block, FlushDecompress::Sync).map_err(|_| Violation::Compression)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blocks_of_one_connection_are_read_in_their_order() {
        let (mut out, mut back) = (Deflate::new(), Inflate::new());
        for kind in ["error", "stdin", "stdout", "stdin"] {
            let headers = Headers::new([("streamtype", kind), ("port", "80")]);
            assert_eq!(back.block(&out.block(&headers)), Ok(headers));
        }
    }

    #[test]
    fn a_block_that_inflates_without_end_is_refused_early() {
        let bomb = Headers::new([("a", "x".repeat(1 << 20).as_str())]);
        let sent = Deflate::new().block(&bomb);
        assert!(sent.len() < super::super::decode::LARGEST_CONTROL);
        assert_eq!(Inflate::new().block(&sent), Err(Violation::HeadersTooLarge));
    }

    #[test]
    fn more_headers_than_announced_or_allowed_are_refused() {
        let many: Vec<_> = (0..=MOST_HEADERS).map(|_| ("a", "b")).collect();
        assert_eq!(Inflate::new().block(&Deflate::new().block(&Headers::new(many))), Err(Violation::Headers));
        assert_eq!(Headers::from_block(b"\0\0\0\0x"), None);
        assert_eq!(Headers::from_block(b"\xff\xff\xff\xff"), None);
        assert_eq!(Headers::from_block(b"\0\0\0\x01\xff\xff\xff\xff"), None);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(blocks in prop::collection::vec(prop::collection::vec(("[a-z]{1,9}", ".{0,40}"), 0..20), 1..5)) {
            let (mut out, mut back) = (Deflate::new(), Inflate::new());
            for block in blocks {
                let headers = Headers::new(block.iter().map(|(name, value)| (name.as_str(), value.as_str())));
                prop_assert_eq!(back.block(&out.block(&headers)), Ok(headers));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = Inflate::new().block(&bytes);
            let _ = Headers::from_block(&bytes);
        }
    }
}
