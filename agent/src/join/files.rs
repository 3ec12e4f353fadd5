//! What a joined machine has on its disk, and where: as kubeadm leaves it.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::cluster_info::Cluster;
use crate::files;

/// Where everything lies. Below `/`, or below another root in tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

/// What is written.
#[derive(Clone)]
pub struct Files {
    /// The cluster.
    pub cluster: Cluster,
    /// Credentials for the request of a certificate; nothing where the machine has one.
    pub token: Option<String>,
    /// `KubeletConfiguration`.
    pub configuration: String,
    /// Flags for the agent beside those that name these files.
    pub flags: Vec<String>,
}

impl Layout {
    /// Below this folder.
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Written by the agent when it has its certificate.
    pub fn kubeconfig(&self) -> PathBuf {
        self.at("etc/kubernetes/kubelet.conf")
    }

    /// Holds the token.
    pub fn bootstrap_kubeconfig(&self) -> PathBuf {
        self.at("etc/kubernetes/bootstrap-kubelet.conf")
    }

    /// The cluster's authority.
    pub fn ca(&self) -> PathBuf {
        self.at("etc/kubernetes/pki/ca.crt")
    }

    /// `KubeletConfiguration`.
    pub fn configuration(&self) -> PathBuf {
        self.at("var/lib/kubelet/config.yaml")
    }

    /// Further flags, for the unit.
    pub fn flags(&self) -> PathBuf {
        self.at("var/lib/kubelet/kubeadm-flags.env")
    }

    /// Keys and certificates of the node.
    pub fn cert_dir(&self) -> PathBuf {
        self.at("var/lib/kubelet/pki")
    }

    /// Says that the files beside it are ours.
    fn mark(&self) -> PathBuf {
        self.at("etc/kubernetes/.joined-by-longshore")
    }

    /// Whether what is here was written by a joining of ours, whole or not.
    pub fn is_ours(&self) -> bool {
        self.mark().exists()
    }

    /// Files of a joining that is not ours.
    pub fn strangers(&self) -> Vec<PathBuf> {
        if self.is_ours() {
            return Vec::new();
        }
        let known = [self.kubeconfig(), self.bootstrap_kubeconfig(), self.ca()];
        known.into_iter().filter(|path| path.exists()).collect()
    }

    /// The flags that name these files.
    pub fn agent_flags(&self) -> Vec<String> {
        let flag = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
        vec![
            flag("bootstrap-kubeconfig", self.bootstrap_kubeconfig()),
            flag("kubeconfig", self.kubeconfig()),
            flag("cert-dir", self.cert_dir()),
            flag("config", self.configuration()),
        ]
    }

    /// Writes everything; the mark first and the token last, so that what is there is always known to be ours and the agent
    /// never begins with half of it.
    ///
    /// # Errors
    /// The file that could not be written.
    pub fn write(&self, written: &Files) -> Result<(), (PathBuf, io::Error)> {
        let all = [
            (self.mark(), Vec::new(), 0o600),
            (self.ca(), written.cluster.ca.clone(), 0o644),
            (self.configuration(), self.located(&written.configuration).into_bytes(), 0o644),
            (self.flags(), format!("KUBELET_KUBEADM_ARGS=\"{}\"\n", written.flags.join(" ")).into_bytes(), 0o644),
        ];
        for (path, bytes, mode) in all {
            write(&path, &bytes, mode).map_err(|error| (path, error))?;
        }
        if let Some(token) = &written.token {
            let path = self.bootstrap_kubeconfig();
            write(&path, bootstrap_kubeconfig(&written.cluster, token).as_bytes(), 0o600)
                .map_err(|error| (path, error))?;
        }
        Ok(())
    }

    /// The name that the node joined with, where it was not the host's.
    pub fn node_name(&self) -> Option<String> {
        let text = files::read_text(&self.flags()).ok()?;
        let (_, behind) = text.split_once("--hostname-override=")?;
        Some(behind.split(['"', ' ', '\n']).next()?.to_owned())
    }

    /// Where the machine's own files lie elsewhere than in `/`, so does the authority that the configuration names.
    fn located(&self, configuration: &str) -> String {
        if self.root == Path::new("/") {
            return configuration.to_owned();
        }
        configuration.replace("/etc/kubernetes/pki/ca.crt", &self.ca().display().to_string())
    }

    /// The token has done its work.
    ///
    /// # Errors
    /// The file that could not be removed.
    pub fn forget_token(&self) -> Result<(), (PathBuf, io::Error)> {
        remove(self.bootstrap_kubeconfig())
    }

    /// Takes back a joining that did not get its certificate. Its key stays: a second try finds its request again.
    ///
    /// # Errors
    /// The file that could not be removed.
    pub fn roll_back(&self) -> Result<(), (PathBuf, io::Error)> {
        [self.bootstrap_kubeconfig(), self.flags(), self.configuration(), self.ca(), self.mark()]
            .into_iter()
            .try_for_each(remove)
    }

    /// Removes everything that joining and the agent wrote; the mark last.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn remove(&self) -> Result<(), (PathBuf, io::Error)> {
        remove(self.kubeconfig())?;
        let pki = self.cert_dir();
        match std::fs::remove_dir_all(&pki) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((pki, error)),
            _ => {}
        }
        self.roll_back()
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        files::make_dir(folder, 0o755)?;
    }
    files::write(path, bytes, mode)
}

fn remove(path: PathBuf) -> Result<(), (PathBuf, io::Error)> {
    files::remove(&path).map_err(|error| (path, error))
}

/// As kubeadm writes it.
fn bootstrap_kubeconfig(cluster: &Cluster, token: &str) -> String {
    let (server, ca) = (&cluster.server, STANDARD.encode(&cluster.ca));
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: kubernetes\n  cluster:\n    certificate-authority-data: {ca}\n    \
         server: {server}\ncontexts:\n- name: tls-bootstrap-token-user@kubernetes\n  context:\n    cluster: kubernetes\n    \
         user: tls-bootstrap-token-user\ncurrent-context: tls-bootstrap-token-user@kubernetes\nusers:\n\
         - name: tls-bootstrap-token-user\n  user:\n    token: {token}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Kubeconfig, Source};

    #[test]
    fn what_is_written_is_ours_is_read_again_and_goes_without_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::below(dir.path());
        let cluster = Cluster { server: "https://192.0.2.1:6443".into(), ca: b"CA".to_vec() };
        let written = Files {
            cluster,
            token: Some("abcdef.0123456789abcdef".into()),
            configuration: "x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}".into(),
            flags: vec!["--hostname-override=n1".into()],
        };
        layout.write(&written).unwrap();
        layout.write(&written).unwrap();
        assert!(layout.is_ours() && layout.strangers().is_empty());
        let read = Kubeconfig::load(&layout.bootstrap_kubeconfig()).unwrap();
        assert_eq!(read.user.token, Some(Source::Data(b"abcdef.0123456789abcdef".to_vec())));
        assert_eq!(
            std::fs::read_to_string(layout.flags()).unwrap(),
            "KUBELET_KUBEADM_ARGS=\"--hostname-override=n1\"\n"
        );
        assert_eq!(layout.node_name().as_deref(), Some("n1"));
        let configuration = std::fs::read_to_string(layout.configuration()).unwrap();
        assert!(configuration.contains(&layout.ca().display().to_string()), "{configuration}");
        std::fs::write(layout.kubeconfig(), "").unwrap();
        layout.remove().unwrap();
        layout.remove().unwrap();
        std::fs::write(layout.ca(), "").unwrap();
        assert_eq!(layout.strangers(), [layout.ca()]);
    }
}
