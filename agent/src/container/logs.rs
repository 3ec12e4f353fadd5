//! Where logs are: `<root>/<namespace>_<name>_<uid>/<container>/<n>.log`.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

/// File names end at 255 bytes.
const NAME_MAX: usize = 255;

/// The pod's directory below `root`.
pub fn pod_dir(root: &Path, pod: &Pod) -> PathBuf {
    let meta = &pod.metadata;
    let of = |value: &Option<String>| value.clone().unwrap_or_default();
    root.join(format!("{}_{}_{}", of(&meta.namespace), of(&meta.name), of(&meta.uid)))
}

/// One instance's log, relative to the pod's directory.
pub fn relative(container: &str, restarts: u32) -> String {
    format!("{container}/{restarts}.log")
}

/// Name of the legacy link to a container's log.
pub fn link_name(pod: &Pod, container: &str, id: &str) -> String {
    let meta = &pod.metadata;
    let (name, namespace) = (meta.name.as_deref().unwrap_or_default(), meta.namespace.as_deref().unwrap_or_default());
    let text = format!("{name}_{namespace}_{container}-{id}");
    // Names and ids are ASCII: a byte is a character.
    let short: String = text.chars().take(NAME_MAX - ".log".len()).collect();
    short + ".log"
}

/// The restart count that continues the logs in `files` of one container: the highest `<n>.log*` and one more.
pub fn restarts_after<'a>(files: impl IntoIterator<Item = &'a str>) -> u32 {
    let number = |file: &str| file.split_once(".log").and_then(|(number, _)| number.parse::<u32>().ok());
    files.into_iter().filter_map(number).max().map_or(0, |newest| newest.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_logs_count_and_strangers_do_not() {
        assert_eq!(restarts_after(["0.log", "2.log.20260101-000000.gz", "x.log", "7.txt"]), 3);
        assert_eq!(restarts_after([]), 0);
    }

    #[test]
    fn a_link_name_fits_into_a_directory() {
        let pod = super::super::testing::pod(serde_json::json!({}));
        assert_eq!(link_name(&pod, "c", "id"), "web_shop_c-id.log");
        assert_eq!(link_name(&pod, &"c".repeat(300), "id").len(), NAME_MAX);
    }
}
