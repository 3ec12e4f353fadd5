//! The content of a large blob, piece by piece, taken up again where a connection broke.

use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_RANGE;
use hyper::http::uri::Uri;
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;

use super::error::RegistryError;
use super::http::{bad_answer, next_chunk, shown};
use super::session::{Session, What};
use crate::images::digest::Digest;

/// What a reader gets. Without `End` the blob is not whole.
pub(crate) enum Piece {
    Bytes(Bytes),
    End,
}

// In a row without a byte in between; a transfer that gets on is never given up.
const TRIES: u32 = 5;

impl Session<'_> {
    /// Sends a blob of `size` bytes to `reader`, which checks the digest. A reader that is gone ends it without error.
    pub(crate) async fn stream_blob(
        &self,
        digest: &Digest,
        size: u64,
        reader: &mpsc::Sender<Piece>,
    ) -> Result<(), RegistryError> {
        let mut sent = 0;
        let mut tries = 0;
        loop {
            let before = sent;
            let error = match self.stream_from(digest, size, &mut sent, reader).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            tries = if sent > before { 0 } else { tries + 1 };
            match error.wait_before_retry(tries) {
                Some(wait) if tries < TRIES => tokio::time::sleep(wait).await,
                _ => return Err(error),
            }
        }
    }

    async fn stream_from(
        &self,
        digest: &Digest,
        size: u64,
        sent: &mut u64,
        reader: &mpsc::Sender<Piece>,
    ) -> Result<(), RegistryError> {
        let (uri, answer) = self.open(What::Blob(digest, *sent)).await?;
        let mut skip = to_skip(&uri, &answer, *sent)?;
        let mut body: Incoming = answer.into_body();
        let broken = |source| RegistryError::Broken { address: shown(&uri), source };
        while let Some(mut bytes) = next_chunk(&mut body).await.map_err(broken)? {
            // A server without ranges begins anew: what is here already is passed over.
            let passed = skip.min(bytes.len() as u64);
            skip -= passed;
            let bytes = bytes.split_off(usize::try_from(passed).unwrap_or(bytes.len()));
            *sent += bytes.len() as u64;
            if *sent > size {
                return Err(bad_answer(&uri, &format!("it is longer than the {size} bytes that its manifest says")));
            }
            if !bytes.is_empty() && reader.send(Piece::Bytes(bytes)).await.is_err() {
                return Ok(());
            }
        }
        if *sent < size {
            return Err(broken(std::io::ErrorKind::UnexpectedEof.into()));
        }
        // Nobody there any more: the reader has its reason, and says it.
        let _ = reader.send(Piece::End).await;
        Ok(())
    }
}

/// How many bytes of the answer are here already.
fn to_skip(uri: &Uri, answer: &Response<Incoming>, sent: u64) -> Result<u64, RegistryError> {
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(sent);
    }
    let range = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    match range.and_then(range_start) {
        Some(start) if start <= sent => Ok(sent - start),
        _ => Err(bad_answer(uri, "it is another part than the one that was asked for")),
    }
}

/// The first number of `bytes 5-9/10`.
fn range_start(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_says_where_it_starts() {
        assert_eq!(range_start("bytes 5-9/10"), Some(5));
        assert_eq!(range_start("bytes 0-0/*"), Some(0));
        assert_eq!(range_start("bytes */10"), None);
        assert_eq!(range_start("items 5-9/10"), None);
    }
}
