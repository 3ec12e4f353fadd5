//! One-time tokens.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ids::random_hex;

/// How long a URL works. A caller connects at once; a minute covers a busy machine.
const LIFE: Duration = Duration::from_secs(60);

/// URLs that wait for their client; each is a few hundred bytes.
const MOST: usize = 1000;

/// What waits for a client, by token.
#[derive(Debug)]
pub(crate) struct Tokens<T> {
    waiting: Mutex<HashMap<String, (Instant, T)>>,
}

/// A token could not be given out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// Too many URLs were asked for and not used.
    #[error("{MOST} streaming URLs wait for their clients already")]
    TooMany,
    /// The kernel gave no random numbers.
    #[error("making a streaming token")]
    Random(#[source] io::Error),
}

impl<T> Default for Tokens<T> {
    fn default() -> Self {
        Self { waiting: Mutex::default() }
    }
}

impl<T> Tokens<T> {
    /// Keeps `thing` for whoever shows the token that comes back.
    ///
    /// # Errors
    /// When too many wait already.
    pub(crate) fn give(&self, thing: T, now: Instant) -> Result<String, TokenError> {
        let token = random_hex().map_err(TokenError::Random)?;
        let mut waiting = self.lock();
        waiting.retain(|_, (given, _)| now.saturating_duration_since(*given) < LIFE);
        if waiting.len() >= MOST {
            return Err(TokenError::TooMany);
        }
        waiting.insert(token.clone(), (now, thing));
        Ok(token)
    }

    /// What `token` stands for: once, and not after its time.
    pub(crate) fn redeem(&self, token: &str, now: Instant) -> Option<T> {
        let (given, thing) = self.lock().remove(token)?;
        (now.saturating_duration_since(given) < LIFE).then_some(thing)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, T)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_works_once_and_for_a_minute() {
        let (tokens, noon) = (Tokens::default(), Instant::now());
        let first = tokens.give(1, noon).unwrap();
        assert_eq!(tokens.redeem(&first, noon), Some(1));
        assert_eq!(tokens.redeem(&first, noon), None);
        let second = tokens.give(2, noon).unwrap();
        assert_eq!(tokens.redeem(&second, noon + LIFE), None);
    }

    #[test]
    fn unused_tokens_are_bounded_and_make_room_when_they_are_old() {
        let (tokens, noon) = (Tokens::default(), Instant::now());
        for _ in 0..MOST {
            tokens.give((), noon).unwrap();
        }
        assert!(matches!(tokens.give((), noon), Err(TokenError::TooMany)));
        assert!(tokens.give((), noon + LIFE).is_ok());
    }
}
