//! Files, drop-ins and flags, laid over each other before anything is decided.
//!
//! A drop-in is merged into the file as a JSON merge patch is: mappings field by field, everything else is replaced, and
//! `null` takes back what was set. A flag replaces.

use std::io;
use std::path::{Path, PathBuf};

use super::file::File;
use super::{BadConfiguration, Setting};
use crate::files;
use crate::yaml::{self, Kind, Mistake, Node};

const VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const KIND: &str = "KubeletConfiguration";
/// Paths that are relative to the file that names them.
const PATHS: [&[&str]; 5] = [
    &["staticPodPath"],
    &["resolvConf"],
    &["tlsCertFile"],
    &["tlsPrivateKeyFile"],
    &["authentication", "x509", "clientCAFile"],
];

/// Everything that was given, in the order in which it wins.
pub(super) struct Layers {
    merged: Node,
    /// What each layer is called and what it says, so that a bad value can be blamed on it.
    origins: Vec<(String, Node)>,
    pub(super) warnings: Vec<String>,
}

impl Layers {
    /// # Errors
    /// What cannot be read or is not of the form; with every unknown field of a drop-in.
    pub(super) fn read(
        file: Option<&Path>,
        folder: Option<&Path>,
        flags: &[Setting],
    ) -> Result<Self, BadConfiguration> {
        let mut layers = Self { merged: empty(), origins: Vec::new(), warnings: Vec::new() };
        if let Some(path) = file {
            layers.add_file(path, false)?;
        }
        for path in folder.map(drop_ins).transpose()?.into_iter().flatten() {
            layers.add_file(&path, true)?;
        }
        for flag in flags {
            layers.add_flag(flag)?;
        }
        Ok(layers)
    }

    /// One text, as if it were the file.
    ///
    /// # Errors
    /// What is not of the form.
    pub(super) fn of_text(name: &str, text: &str) -> Result<Self, BadConfiguration> {
        let mut layers = Self { merged: empty(), origins: Vec::new(), warnings: Vec::new() };
        layers.add_text(name, text, Path::new("/"), false)?;
        Ok(layers)
    }

    /// The merged document.
    ///
    /// # Errors
    /// What two layers make of each other that neither was alone.
    pub(super) fn decode(&self) -> Result<File, BadConfiguration> {
        // Unknown fields were told, or were refused, when their file was read.
        let decoded = yaml::decode_leniently(&self.merged, true);
        decoded.map(|(file, _)| file).map_err(|mistakes| BadConfiguration::bad(lines("", &mistakes)))
    }

    /// Which layer a field comes from, with the line where it is known.
    pub(super) fn origin(&self, field: &str) -> String {
        let top = field.split(['.', '[']).next().unwrap_or(field);
        let from = self.origins.iter().rev().find(|(_, node)| node.get(top).is_some());
        from.map_or_else(String::new, |(name, node)| match node.get(top).map(|_| node.line_of(field)) {
            Some(line) if line > 0 => format!("{name}: line {line}: "),
            _ => format!("{name}: "),
        })
    }

    fn add_file(&mut self, path: &Path, strict: bool) -> Result<(), BadConfiguration> {
        let read = |source: io::Error| BadConfiguration::Read { path: path.to_owned(), source };
        let text = files::read_text(path).map_err(read)?;
        let folder = std::path::absolute(path).map_err(read)?;
        self.add_text(&path.display().to_string(), &text, folder.parent().unwrap_or(Path::new("/")), strict)
    }

    fn add_text(&mut self, shown: &str, text: &str, folder: &Path, strict: bool) -> Result<(), BadConfiguration> {
        let mut node = document(text).map_err(|problem| BadConfiguration::bad(vec![format!("{shown}: {problem}")]))?;
        let bad = |mistakes: &[Mistake]| BadConfiguration::bad(lines(&format!("{shown}: "), mistakes));
        let (_, unknown) = yaml::decode_leniently::<File>(&node, true).map_err(|mistakes| bad(&mistakes))?;
        if strict && !unknown.is_empty() {
            return Err(bad(&unknown));
        }
        // Files that kubeadm wrote for a newer or older kubelet are taken as that kubelet takes them.
        let left_out = lines(&format!("{shown}: "), &unknown).into_iter().map(|line| format!("{line}; it is left out"));
        self.warnings.extend(left_out);
        PATHS.iter().for_each(|field| make_absolute(&mut node, field, folder));
        merge(&mut self.merged, &node);
        self.origins.push((shown.to_owned(), node));
        Ok(())
    }

    fn add_flag(&mut self, flag: &Setting) -> Result<(), BadConfiguration> {
        let steps: Vec<_> = flag.field.split('.').collect();
        let node = steps.iter().rev().fold(flag.value.clone(), |inner, step| map(step, inner));
        let name = format!("--{}", flag.flag);
        yaml::decode::<File>(&node, true).map_err(|mistakes| {
            let lines = mistakes.iter().map(|mistake| format!("{name}: {}", mistake.message)).collect();
            BadConfiguration::bad(lines)
        })?;
        if !flag.adds {
            remove(&mut self.merged, &steps);
        }
        merge(&mut self.merged, &node);
        self.origins.push((name, node));
        Ok(())
    }
}

/// The `*.conf` of a folder and of those below it, by name; links to files count, links to folders do not.
fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, BadConfiguration> {
    let read = |source| BadConfiguration::Read { path: folder.to_owned(), source };
    let mut entries: Vec<_> = std::fs::read_dir(folder).map_err(read)?.collect::<Result<_, _>>().map_err(read)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    let mut found = Vec::new();
    for entry in entries {
        if entry.file_type().map_err(read)?.is_dir() {
            found.extend(drop_ins(&entry.path())?);
        } else if entry.path().extension().is_some_and(|ending| ending == "conf") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The one document of a file, of the right kind.
fn document(text: &str) -> Result<Node, String> {
    let mut documents = yaml::documents(text).into_iter();
    let node = documents.next().ok_or("is empty")?;
    let node = node.map_err(|broken| format!("line {}: {}", broken.line, broken.message))?;
    if documents.next().is_some() {
        return Err("holds more than one document".to_owned());
    }
    let said = |field: &str| node.get(field).and_then(Node::as_str).unwrap_or_default().to_owned();
    match (said("apiVersion").as_str(), said("kind").as_str()) {
        (VERSION, KIND) => Ok(node),
        (version, kind) => {
            Err(format!("apiVersion and kind are {version:?} and {kind:?}, must be {VERSION} and {KIND}"))
        }
    }
}

fn lines(before: &str, mistakes: &[Mistake]) -> Vec<String> {
    let line = |mistake: &Mistake| match (mistake.line, mistake.field.as_str()) {
        (0, field) => format!("{before}{field}: {}", mistake.message),
        (line, "") => format!("{before}line {line}: {}", mistake.message),
        (line, field) => format!("{before}line {line}: {field}: {}", mistake.message),
    };
    mistakes.iter().map(line).collect()
}

fn empty() -> Node {
    Node { line: 0, kind: Kind::Map(Vec::new()) }
}

fn map(key: &str, value: Node) -> Node {
    Node { line: value.line, kind: Kind::Map(vec![(key.to_owned(), value)]) }
}

fn merge(base: &mut Node, patch: &Node) {
    let Kind::Map(entries) = &patch.kind else {
        *base = patch.clone();
        return;
    };
    if !matches!(base.kind, Kind::Map(_)) {
        *base = Node { line: patch.line, ..empty() };
    }
    for (key, value) in entries {
        if let Kind::Map(known) = &mut base.kind {
            if value.is_null() {
                known.retain(|(name, _)| name != key);
                continue;
            }
            if !known.iter().any(|(name, _)| name == key) {
                known.push((key.clone(), empty()));
            }
        }
        if let Some(inner) = base.get_mut(key) {
            merge(inner, value);
        }
    }
}

fn remove(node: &mut Node, steps: &[&str]) {
    match steps {
        [] => {}
        [last] => {
            if let Kind::Map(entries) = &mut node.kind {
                entries.retain(|(name, _)| name != last);
            }
        }
        [first, rest @ ..] => {
            if let Some(inner) = node.get_mut(first) {
                remove(inner, rest);
            }
        }
    }
}

fn make_absolute(node: &mut Node, steps: &[&str], folder: &Path) {
    let found = steps.iter().try_fold(node, |node, step| node.get_mut(step));
    let Some(Node { kind: Kind::Text(text) | Kind::Plain(text), .. }) = found else { return };
    // Nothing stays nothing; so do the words for it.
    if !text.is_empty() && !matches!(text.as_str(), "null" | "~") {
        *text = folder.join(&*text).display().to_string();
    }
}
