//! A shim that was killed is started again on the same directory, and finds everything there.

use std::path::Path;

use super::files;
use super::task::{Kind, Task};

/// Every container and exec that is on record.
pub(super) fn tasks(sandbox: &Path) -> Vec<Task> {
    let mut found = Vec::new();
    for kind in [Kind::Container, Kind::Exec] {
        for id in files::directories(&sandbox.join(kind.folder())) {
            let key = found.len() as u32 + 1;
            if files::check_id(&id).is_ok() {
                found.extend(Task::adopt(sandbox, kind, &id, key));
            }
        }
    }
    found
}
