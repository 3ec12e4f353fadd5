//! Who waits for which exec.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Execs of one sandbox that have not ended yet.
#[derive(Debug, Default)]
pub(crate) struct Execs(Mutex<HashMap<String, oneshot::Sender<i32>>>);

impl Execs {
    /// To be called before the exec is started, so that its end cannot be missed.
    pub(crate) fn expect(&self, id: &str) -> oneshot::Receiver<i32> {
        let (tell, wait) = oneshot::channel();
        self.lock().insert(id.to_owned(), tell);
        wait
    }

    /// An exec ended with `code`; `false` when nobody of ours had started it.
    pub(crate) fn ended(&self, id: &str, code: i32) -> bool {
        match self.lock().remove(id) {
            Some(tell) => {
                // Who asked may have given up.
                let _ = tell.send(code);
                true
            }
            None => false,
        }
    }

    /// It was not started after all.
    pub(crate) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// The sandbox is gone: nobody will be told anything any more.
    pub(crate) fn give_up(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<i32>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
