//! The way of a layer's bytes: counted and hashed as they come, decompressed, hashed again.

use std::io::{self, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use crate::images::digest::{Digest, Hasher};
use crate::images::progress::LayerCounter;

/// Hashes and counts what is read through it.
pub(crate) struct HashReader<R> {
    input: R,
    hasher: Hasher,
    count: u64,
    progress: Option<std::sync::Arc<LayerCounter>>,
}

impl<R: Read> HashReader<R> {
    /// A reader that computes the digest with the algorithm of `like`.
    pub(crate) fn new(input: R, like: &Digest) -> Self {
        Self { input, hasher: Hasher::like(like), count: 0, progress: None }
    }

    /// Shows every byte to `progress`.
    pub(crate) fn showing(mut self, progress: std::sync::Arc<LayerCounter>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// The input, and digest and number of all bytes read from it.
    pub(crate) fn finish(self) -> (R, Digest, u64) {
        (self.input, self.hasher.finish(), self.count)
    }
}

impl<R: Read> Read for HashReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        if let Some(progress) = &self.progress {
            progress.advance(count as u64);
        }
        Ok(count)
    }
}

/// The input with its first bytes, which were read to choose, put back in front.
type Input<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// A decompressor chosen by the first bytes; media types are not believed, many tools write the wrong one.
pub(crate) enum Decoder<R: Read> {
    Plain(Input<R>),
    Gzip(Box<MultiGzDecoder<Input<R>>>),
    Zstd(zstd::Decoder<'static, Input<R>>),
}

impl<R: Read> Decoder<R> {
    pub(crate) fn new(mut input: R) -> io::Result<Self> {
        let mut magic = Vec::with_capacity(4);
        input.by_ref().take(4).read_to_end(&mut magic)?;
        let (gzip, zstd) = (magic.starts_with(&[0x1f, 0x8b]), is_zstd(&magic));
        let input = BufReader::with_capacity(64 * 1024, Cursor::new(magic).chain(input));
        Ok(match (gzip, zstd) {
            (true, _) => Self::Gzip(Box::new(MultiGzDecoder::new(input))),
            (_, true) => Self::Zstd(zstd::Decoder::with_buffer(input)?),
            _ => Self::Plain(input),
        })
    }

    /// Whether the bytes are compressed.
    pub(crate) fn is_compressed(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// What the decompressor read from, and the bytes it had taken from there without using them.
    pub(crate) fn into_inner(self) -> R {
        let input = match self {
            Self::Plain(input) => input,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        };
        input.into_inner().into_inner().1
    }
}

/// A zstd frame, or one for other tools that files with random access may begin with.
fn is_zstd(magic: &[u8]) -> bool {
    match magic {
        [0x28, 0xb5, 0x2f, 0xfd] => true,
        [first, 0x2a, 0x4d, 0x18] => first & 0xf0 == 0x50,
        _ => false,
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Gives one byte at a time, as a slow connection may.
    struct Drip(Cursor<Vec<u8>>);

    impl Read for Drip {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let end = buffer.len().min(1);
            self.0.read(&mut buffer[..end])
        }
    }

    fn decoded(bytes: Vec<u8>) -> (bool, Vec<u8>) {
        let mut decoder = Decoder::new(Drip(Cursor::new(bytes))).unwrap();
        let mut plain = Vec::new();
        decoder.read_to_end(&mut plain).unwrap();
        (decoder.is_compressed(), plain)
    }

    #[test]
    fn the_first_bytes_tell_the_compression() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"layer").unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(decoded([gzip.clone(), gzip].concat()), (true, b"layerlayer".to_vec()));
        let zstd = zstd::encode_all(&b"layer"[..], 1).unwrap();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..], &zstd].concat();
        assert_eq!(decoded(zstd), (true, b"layer".to_vec()));
        assert_eq!(decoded(skippable), (true, b"layer".to_vec()));
        assert_eq!(decoded(b"la".to_vec()), (false, b"la".to_vec()));
    }
}
