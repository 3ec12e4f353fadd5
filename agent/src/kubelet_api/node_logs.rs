//! `/logs/`: the node's own log folder, file by file.
//!
//! Names are resolved beneath the folder by the kernel, links included: nothing outside can be named, by whatever link
//! somebody has put there.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use axum::body::Body;
use hyper::header::{HeaderValue, LOCATION};
use hyper::{Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use tokio_util::io::ReaderStream;

use super::answers::{Answer, text, whole};

/// Where the node's logs are.
const FOLDER: &str = "/var/log";
/// A folder with more entries is shown up to there.
const MOST_ENTRIES: usize = 10_000;

/// What a name stands for.
#[derive(Debug)]
enum Found {
    File(File),
    Folder(Vec<String>),
}

pub(super) async fn answer(path: &[String], ends_with_slash: bool) -> Answer {
    let wanted: PathBuf = path.iter().collect();
    let looked = tokio::task::spawn_blocking(move || find(Path::new(FOLDER), &wanted)).await;
    let found = looked.unwrap_or_else(|gone| Err(io::Error::other(gone)));
    match found {
        Ok(Found::File(file)) => {
            let body = Body::from_stream(ReaderStream::new(tokio::fs::File::from_std(file)));
            whole(StatusCode::OK, "text/plain; charset=utf-8", body)
        }
        Ok(Found::Folder(names)) if ends_with_slash => {
            whole(StatusCode::OK, "text/html; charset=utf-8", listing(&names))
        }
        Ok(Found::Folder(_)) => with_slash(path.last().map_or("logs", String::as_str)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => text(StatusCode::FORBIDDEN, "403 Forbidden\n"),
        Err(_) => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// The links of a listing are relative to it.
fn with_slash(name: &str) -> Answer {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(place) = HeaderValue::from_str(&format!("{}/", escaped(name))) {
        answer.headers_mut().insert(LOCATION, place);
    }
    answer
}

fn find(folder: &Path, wanted: &Path) -> io::Result<Found> {
    let root = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let wanted = if wanted.as_os_str().is_empty() { Path::new(".") } else { wanted };
    // A pipe that nobody writes to must not hold us up.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(root, wanted, flags, Mode::empty(), beneath)?;
    match FileType::from_raw_mode(fstat(&found)?.st_mode) {
        FileType::RegularFile => Ok(Found::File(found.into())),
        FileType::Directory => {
            let mut names = Vec::new();
            for entry in rustix::fs::Dir::read_from(&found)?.take(MOST_ENTRIES) {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let slash = if entry.file_type() == FileType::Directory { "/" } else { "" };
                if name != "." && name != ".." {
                    names.push(name + slash);
                }
            }
            names.sort();
            Ok(Found::Folder(names))
        }
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// As Go's file server lists a folder.
fn listing(names: &[String]) -> String {
    let line = |name: &String| format!("<a href=\"{}\">{}</a>\n", escaped(name), html(name));
    format!("<!doctype html>\n<pre>\n{}</pre>\n", names.iter().map(line).collect::<String>())
}

/// A colon too: a name with one would be read as a scheme.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

fn escaped(name: &str) -> String {
    utf8_percent_encode(name, ESCAPED).to_string()
}

fn html(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_can_be_named_by_whatever_link() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("log"), dir.path().join("secret"));
        std::fs::create_dir_all(inside.join("pods")).unwrap();
        std::fs::write(&outside, "s").unwrap();
        std::fs::write(inside.join("pods/a.log"), "line").unwrap();
        for (name, to) in
            [("absolute", outside.as_path()), ("up", Path::new("../secret")), ("fine", Path::new("pods/a.log"))]
        {
            std::os::unix::fs::symlink(to, inside.join(name)).unwrap();
        }
        rustix::fs::mkfifoat(rustix::fs::CWD, inside.join("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
        for bad in ["absolute", "up", "../secret", "pods/../../secret", "pipe", "/etc/passwd", "none"] {
            assert!(find(&inside, Path::new(bad)).is_err(), "{bad}");
        }
        for good in ["fine", "pods/a.log"] {
            assert!(matches!(find(&inside, Path::new(good)), Ok(Found::File(_))), "{good}");
        }
        let Ok(Found::Folder(names)) = find(&inside, Path::new("")) else { panic!("no folder") };
        assert_eq!(names, ["absolute", "fine", "pipe", "pods/", "up"]);
    }

    #[test]
    fn a_listing_is_html_whatever_the_names() {
        assert_eq!(
            listing(&["a b/".to_owned(), "<x>:".to_owned()]),
            "<!doctype html>\n<pre>\n<a href=\"a%20b/\">a b/</a>\n<a href=\"%3Cx%3E%3A\">&lt;x&gt;:</a>\n</pre>\n"
        );
    }
}
