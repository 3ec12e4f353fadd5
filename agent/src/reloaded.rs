//! A value made from files, made anew when one of them has changed.

use std::fmt::Display;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// What tells one content of the files from another without reading them. Links are followed: certificates are renewed
/// by pointing one elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fingerprint(Vec<Option<(u64, u64, i64, i64)>>);

impl Fingerprint {
    fn of(files: &[PathBuf]) -> Self {
        let stat = |path: &PathBuf| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
        };
        Self(files.iter().map(stat).collect())
    }
}

type Make<T, E> = Box<dyn Fn() -> Result<T, E> + Send + Sync>;

/// The newest value that could be made.
pub(crate) struct Reloaded<T, E> {
    what: String,
    files: Vec<PathBuf>,
    make: Make<T, E>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    made_of: Fingerprint,
    /// Told once for each content that cannot be used.
    complained_of: Option<Fingerprint>,
}

impl<T, E: Display> Reloaded<T, E> {
    /// Makes it for the first time.
    ///
    /// # Errors
    /// Those of `make`.
    pub(crate) fn new(
        what: impl Into<String>,
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        // Looked at first: a change in between is seen with the next use.
        let made_of = Fingerprint::of(&files);
        let state = Mutex::new(State { value: Arc::new(make()?), made_of, complained_of: None });
        Ok(Self { what: what.into(), files, make: Box::new(make), state })
    }

    /// The value for what the files hold now. While that cannot be used, the former value serves, and each use tries again.
    pub(crate) fn current(&self) -> Arc<T> {
        let now = Fingerprint::of(&self.files);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.made_of != now {
            match (self.make)() {
                Ok(fresh) => {
                    *state = State { value: Arc::new(fresh), made_of: now, complained_of: None };
                    tracing::info!("{}: read anew", self.what);
                }
                Err(error) => {
                    if state.complained_of.as_ref() != Some(&now) {
                        tracing::warn!("{}: {error}; what was read before is used", self.what);
                        state.complained_of = Some(now);
                    }
                }
            }
        }
        Arc::clone(&state.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_is_read_anew_and_one_that_is_bad_is_not_used() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        std::fs::write(&path, "1").unwrap();
        let from = path.clone();
        let make = move || std::fs::read_to_string(&from).unwrap().parse::<u32>();
        let number = Reloaded::new("the number", vec![path.clone()], make).unwrap();
        let first = number.current();
        assert_eq!((*first, Arc::ptr_eq(&first, &number.current())), (1, true));
        std::fs::write(&path, "no number").unwrap();
        assert_eq!(*number.current(), 1);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "22").unwrap();
        assert_eq!(*number.current(), 22);
    }
}
