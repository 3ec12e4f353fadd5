//! What becomes of a log's older files before it is rotated once more. Pure.

/// Files to take away, then files to compress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// These go.
    pub delete: Vec<String>,
    /// These become `<name>.gz`.
    pub compress: Vec<String>,
}

/// The name of a rotated file without `.gz`, if `file` is one of `log`'s: `0.log.20260101-120000`.
pub fn rotated<'a>(log: &str, file: &'a str) -> Option<&'a str> {
    let stamp = file.strip_prefix(log)?.strip_prefix('.')?;
    let plain = stamp.strip_suffix(".gz").unwrap_or(stamp);
    let is_stamp = plain.len() == 15 && plain.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    is_stamp.then(|| file.strip_suffix(".gz").unwrap_or(file))
}

/// Makes room for one more rotated file, so that with it and the log itself there are `max_files` at most.
pub fn plan(log: &str, files: &[String], max_files: usize) -> Plan {
    let mut plan = Plan::default();
    let mut kept: Vec<&String> = Vec::new();
    for file in files.iter().filter(|file| file.strip_prefix(log).is_some_and(|rest| rest.starts_with('.'))) {
        // Left by a kill: a half-written archive, or an original whose archive is whole.
        if file.ends_with(".tmp") || files.contains(&format!("{file}.gz")) {
            plan.delete.push(file.clone());
        } else if rotated(log, file).is_some() {
            kept.push(file);
        }
    }
    // Their stamps sort by time.
    kept.sort();
    let stay = max_files.saturating_sub(2);
    let (old, young) = kept.split_at(kept.len().saturating_sub(stay));
    plan.delete.extend(old.iter().map(|file| (*file).clone()));
    plan.compress.extend(young.iter().filter(|file| !file.ends_with(".gz")).map(|file| (*file).clone()));
    plan
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_oldest_goes_and_the_others_are_compressed() {
        let files = names(&[
            "0.log",
            "0.log.20260101-000003",
            "0.log.20260101-000001.gz",
            "0.log.20260101-000002",
            "0.log.20260101-000002.gz",
            "0.log.20260101-000003.gz.tmp",
            "10.log.20260101-000000",
            "0.log.bak",
        ]);
        let plan = plan("0.log", &files, 4);
        assert_eq!(
            plan.delete,
            names(&["0.log.20260101-000002", "0.log.20260101-000003.gz.tmp", "0.log.20260101-000001.gz"])
        );
        assert_eq!(plan.compress, names(&["0.log.20260101-000003"]));
    }

    proptest! {
        #[test]
        fn there_are_never_more_than_the_maximum(max_files in 2usize..8, rounds in 0usize..20) {
            let mut files = vec!["0.log".to_owned()];
            for round in 0..rounds {
                let plan = plan("0.log", &files, max_files);
                files.retain(|file| !plan.delete.contains(file));
                for file in &mut files {
                    if plan.compress.contains(file) {
                        file.push_str(".gz");
                    }
                }
                files.push(format!("0.log.20260101-{round:06}"));
                prop_assert!(files.len() <= max_files, "{files:?}");
                // The newest one is never compressed: a reader may still be in it.
                prop_assert_eq!(files.iter().filter(|file| !file.ends_with(".gz")).count(), 2);
            }
        }
    }
}
