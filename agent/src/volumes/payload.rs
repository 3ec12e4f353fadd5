use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::KeyToPath;

use super::SetUpError;

/// One file of a volume.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct File {
    /// Permission bits, exactly these.
    pub mode: u32,
    /// Its user; root where there is none.
    pub owner: Option<u32>,
    /// Content.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for File {
    /// Never the content: it may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o} {} bytes", self.mode, self.bytes.len())?;
        self.owner.map_or(Ok(()), |owner| write!(f, " of user {owner}"))
    }
}

/// All files of a volume, by relative path.
pub(super) type Payload = BTreeMap<String, File>;

/// Deeper paths than anyone needs; the walk over them keeps two descriptors open per level.
const DEEPEST: usize = 64;

/// Checks a path that a manifest or a key gives.
pub(super) fn check_path(path: &str) -> Result<(), SetUpError> {
    let reason = if path.is_empty() {
        "must not be empty"
    } else if path.starts_with('/') {
        "must be relative"
    } else if path.len() > 4096 {
        "is longer than 4096 bytes"
    } else if path.starts_with("..") {
        "must not begin with .."
    } else if path.split('/').any(|part| part == ".." || part == ".") || path.contains('\0') {
        "must not contain .. or ."
    } else if path.split('/').any(|part| part.len() > 255) {
        "has a part longer than 255 bytes"
    } else if path.split('/').count() > DEEPEST {
        "is too deep"
    } else {
        return Ok(());
    };
    Err(SetUpError::Path { path: path.to_owned(), reason })
}

/// A path without empty parts, as the disk knows it.
pub(super) fn plain(path: &str) -> String {
    path.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

/// The mode of a file: its own, the volume's, or the API's default.
pub(super) fn mode(own: Option<i32>, volume: Option<i32>) -> u32 {
    // The API allows nine bits; anything else was refused before.
    u32::try_from(own.or(volume).unwrap_or(0o644)).unwrap_or(0o644) & 0o777
}

/// Files of an object with keys: all of them, or those that `items` names. Missing ones are skipped when `optional`.
pub(super) fn from_keys<'a>(
    keys: &BTreeMap<&'a str, &'a [u8]>,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: bool,
    missing: impl Fn(String) -> SetUpError,
) -> Result<Payload, SetUpError> {
    let mut payload = Payload::new();
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, bytes) in keys {
            check_path(key)?;
            payload
                .insert((*key).to_owned(), File { mode: mode(None, default_mode), owner: None, bytes: bytes.to_vec() });
        }
        return Ok(payload);
    };
    for item in items {
        match keys.get(item.key.as_str()) {
            Some(bytes) => {
                check_path(&item.path)?;
                let file = File { mode: mode(item.mode, default_mode), owner: None, bytes: bytes.to_vec() };
                payload.insert(plain(&item.path), file);
            }
            None if optional => {}
            None => return Err(missing(item.key.clone())),
        }
    }
    Ok(payload)
}
