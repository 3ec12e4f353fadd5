use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rcgen::KeyPair;

use super::purpose::Purpose;
use crate::{der, files};

/// Where certificates of one purpose are kept.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    prefix: &'static str,
}

impl Store {
    pub(crate) fn new(folder: &Path, purpose: &Purpose) -> Self {
        Self { folder: folder.to_owned(), prefix: purpose.file() }
    }

    /// The link that says which file is in use.
    pub(crate) fn current(&self) -> PathBuf {
        self.folder.join(format!("{}-current.pem", self.prefix))
    }

    /// Certificate and key in one file, then the link.
    ///
    /// # Errors
    /// The file that could not be written.
    pub(crate) fn keep(&self, certificate: &[u8], key: &KeyPair) -> Result<PathBuf, (PathBuf, io::Error)> {
        let now = Timestamp::now().strftime("%Y-%m-%d-%H-%M-%S").to_string();
        let file = format!("{}-{now}.pem", self.prefix);
        let both = [certificate, b"\n", key.serialize_pem().as_bytes()].concat();
        let path = self.folder.join(&file);
        files::write(&path, &both, 0o600).map_err(|error| (path, error))?;
        let (link, fresh) = (self.current(), self.folder.join(format!(".{}-current.tmp", self.prefix)));
        let made = files::remove(&fresh)
            .and_then(|()| std::os::unix::fs::symlink(&file, &fresh))
            .and_then(|()| std::fs::rename(&fresh, &link));
        made.map_err(|error| (link.clone(), error))?;
        Ok(link)
    }

    /// From when to when the certificate in use is good; `None` when there is none that can be read.
    pub(crate) fn validity(&self) -> Option<(Timestamp, Timestamp)> {
        der::validity_of_pem(&files::read(&self.current()).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_certificate_is_the_one_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), &Purpose::Client);
        assert_eq!(store.validity(), None);
        for year in [2030, 2031] {
            let key = KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::default();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let current = store.keep(params.self_signed(&key).unwrap().pem().as_bytes(), &key).unwrap();
            assert_eq!(current, dir.path().join("kubelet-client-current.pem"));
            assert_eq!(store.validity().unwrap().1.to_string(), format!("{year}-01-01T00:00:00Z"));
            let text = std::fs::read_to_string(&current).unwrap();
            assert!(text.contains("BEGIN CERTIFICATE") && text.contains("BEGIN PRIVATE KEY"));
        }
    }
}
