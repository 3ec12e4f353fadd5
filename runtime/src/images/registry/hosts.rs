//! Which servers a registry's name leads to: containerd's `hosts.toml` and its defaults.
//!
//! ```toml
//! server = "https://registry-1.docker.io"   # asked last; the default is the name itself
//! [host."https://mirror.example"]           # asked before it, in the order of the file
//!   capabilities = ["pull", "resolve"]
//!   ca = "mirror.pem"                        # beside hosts.toml, or absolute
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hyper::http::uri::Uri;
use hyper::http::{HeaderName, HeaderValue};
use toml_edit::{Document, Item, Table};

use super::error::RegistryError;

// An operator's file; containerd's own examples have twenty lines.
const MAX_HOSTS: u64 = 1 << 20;

/// One server to ask.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// `http` or `https`.
    pub(super) scheme: String,
    /// Host and port.
    pub(super) authority: String,
    /// What stands before `/REPOSITORY/manifests/…`, usually `/v2`.
    pub(super) path: String,
    /// Whether tags are looked up here.
    pub(super) resolves: bool,
    /// Whether content is fetched here.
    pub(super) pulls: bool,
    /// Whether this is the registry itself, and no mirror: only it is shown credentials.
    pub(super) is_origin: bool,
    pub(super) tls: TlsOptions,
    /// The operator's own headers; their values may be secrets.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// How a server proves who it is, and we to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct TlsOptions {
    /// Files with authorities that are trusted besides those of the system.
    pub(super) ca: Vec<PathBuf>,
    /// Certificate and key files.
    pub(super) client: Option<(PathBuf, PathBuf)>,
    /// Trust anybody.
    pub(super) skip_verify: bool,
}

/// Reads the configuration of `host` from the first folder that has one.
pub(super) fn endpoints(folders: &[PathBuf], host: &str) -> Result<Vec<Endpoint>, RegistryError> {
    for folder in folders.iter().flat_map(|root| candidates(root, host)) {
        let path = folder.join("hosts.toml");
        match read_bounded(&path) {
            Ok(text) => return parse(host, &text, &folder).map_err(|why| RegistryError::Hosts { path, why }),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(RegistryError::Hosts { path, why: error.to_string() }),
        }
        match certificates_in(&folder) {
            Ok(tls) => return Ok(vec![origin(host, tls)]),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(RegistryError::Hosts { path: folder, why: error.to_string() }),
        }
    }
    Ok(vec![origin(host, TlsOptions::default())])
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// `HOST_PORT_` where file names may have no colon, the host itself, and what holds for all others.
fn candidates(root: &Path, host: &str) -> Vec<PathBuf> {
    let without_colon = host.rsplit_once(':').map(|(name, port)| format!("{name}_{port}_"));
    without_colon.into_iter().chain([host.to_owned(), "_default".to_owned()]).map(|name| root.join(name)).collect()
}

fn read_bounded(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_HOSTS {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 1 MiB"));
    }
    fs::read_to_string(path)
}

/// Docker's older way: `*.crt` are authorities, `NAME.cert` and `NAME.key` what a client shows.
fn certificates_in(folder: &Path) -> io::Result<TlsOptions> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<io::Result<_>>()?;
    files.sort();
    let has = |path: &PathBuf, extension: &str| path.extension().is_some_and(|e| e == extension);
    let client = files.iter().find(|path| has(path, "cert")).map(|path| (path.clone(), path.with_extension("key")));
    Ok(TlsOptions { ca: files.into_iter().filter(|path| has(path, "crt")).collect(), client, skip_verify: false })
}

/// The registry itself, where nothing is configured. Docker's hub has another address than its name, and registries on
/// this machine speak plain HTTP unless told otherwise, as with containerd.
fn origin(host: &str, tls: TlsOptions) -> Endpoint {
    let authority = if host == "docker.io" { "registry-1.docker.io" } else { host };
    Endpoint {
        scheme: default_scheme(authority, &tls).to_owned(),
        authority: authority.to_owned(),
        path: "/v2".to_owned(),
        resolves: true,
        pulls: true,
        is_origin: true,
        tls,
        headers: Vec::new(),
    }
}

fn default_scheme(authority: &str, tls: &TlsOptions) -> &'static str {
    let name = authority.rsplit_once(':').map_or(authority, |(name, _)| name);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let local = name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if local && *tls == TlsOptions::default() { "http" } else { "https" }
}

/// What `hosts.toml` says, mirrors first. The error names the key.
fn parse(host: &str, text: &str, folder: &Path) -> Result<Vec<Endpoint>, String> {
    let document = Document::parse(text).map_err(|error| error.to_string().trim_end().to_owned())?;
    let mut endpoints = Vec::new();
    if let Some(hosts) = document.get("host") {
        let hosts = hosts.as_table_like().ok_or("host: a table for each server is wanted")?;
        let mut mirrors: Vec<(&str, &Item)> = hosts.iter().collect();
        // The order of the file, which decides who is asked first.
        mirrors.sort_by_key(|(_, item)| item.as_table().and_then(Table::position));
        for (address, item) in mirrors {
            let at = |why: String| format!("host.{address:?}: {why}");
            let get = |key: &str| item.as_table_like().and_then(|table| table.get(key));
            endpoints.push(endpoint(address, host, &get, folder).map_err(at)?);
        }
    }
    let server = match document.get("server") {
        Some(item) => item.as_str().ok_or("server: a text is wanted")?.to_owned(),
        None => String::new(),
    };
    let get = |key: &str| document.get(key);
    let mut last = if server.is_empty() {
        let tls = tls(&get, folder)?;
        Endpoint { headers: headers(&get)?, ..origin(host, tls) }
    } else {
        endpoint(&server, host, &get, folder).map_err(|why| format!("server: {why}"))?
    };
    last.is_origin = true;
    // A server that is listed as a host as well is asked once, in that place.
    let listed = endpoints.iter_mut().find(|e| (&e.scheme, &e.authority) == (&last.scheme, &last.authority));
    match listed {
        Some(listed) => listed.is_origin = true,
        None => endpoints.push(last),
    }
    Ok(endpoints)
}

type Get<'a> = dyn Fn(&str) -> Option<&'a Item> + 'a;

fn endpoint<'a>(address: &str, host: &str, get: &Get<'a>, folder: &Path) -> Result<Endpoint, String> {
    let tls = tls(get, folder)?;
    let full = match address.contains("://") {
        true => address.to_owned(),
        false => format!("{}://{address}", default_scheme(address.split('/').next().unwrap_or(address), &tls)),
    };
    let bad = || format!("{address:?} is not an address: http:// or https:// and a host are wanted");
    let uri: Uri = full.parse().map_err(|_| bad())?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(bad());
    };
    if authority.as_str().contains('@') {
        return Err("a user has no place in an address; a header can carry credentials".to_owned());
    }
    let path = uri.path().trim_end_matches('/');
    let path =
        if flag(get, "override_path")? || path.ends_with("/v2") { path.to_owned() } else { format!("{path}/v2") };
    let capabilities = strings(get, "capabilities")?;
    let can = |what: &str| capabilities.is_empty() || capabilities.iter().any(|c| c == what);
    Ok(Endpoint {
        scheme: scheme.to_owned(),
        authority: authority.to_string(),
        path,
        resolves: can("resolve"),
        pulls: can("pull"),
        is_origin: authority.as_str() == host,
        tls,
        headers: headers(get)?,
    })
}

fn tls(get: &Get<'_>, folder: &Path) -> Result<TlsOptions, String> {
    let ca = strings(get, "ca")?.iter().map(|path| folder.join(path)).collect();
    Ok(TlsOptions { ca, client: client(get, folder)?, skip_verify: flag(get, "skip_verify")? })
}

/// `client = [["cert", "key"]]`, or one file that has both. Of several pairs the first is taken.
fn client(get: &Get<'_>, folder: &Path) -> Result<Option<(PathBuf, PathBuf)>, String> {
    let wanted = "client: a file, or pairs of certificate and key files are wanted";
    let Some(item) = get("client") else { return Ok(None) };
    if let Some(both) = item.as_str() {
        return Ok(Some((folder.join(both), folder.join(both))));
    }
    match item.as_array().and_then(|list| list.get(0)) {
        None => Err(wanted.to_owned()),
        Some(first) => match (first.as_str(), first.as_array()) {
            (Some(both), _) => Ok(Some((folder.join(both), folder.join(both)))),
            (None, Some(pair)) => match (pair.get(0).and_then(|v| v.as_str()), pair.get(1).and_then(|v| v.as_str())) {
                (Some(certificate), None | Some("")) => Ok(Some((folder.join(certificate), folder.join(certificate)))),
                (Some(certificate), Some(key)) => Ok(Some((folder.join(certificate), folder.join(key)))),
                (None, _) => Err(wanted.to_owned()),
            },
            (None, None) => Err(wanted.to_owned()),
        },
    }
}

fn headers(get: &Get<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let Some(item) = get("header") else { return Ok(Vec::new()) };
    let table = item.as_table_like().ok_or("header: a table is wanted")?;
    let mut headers = Vec::new();
    for (name, _) in table.iter() {
        // The value may be a secret: it is not shown.
        let bad = || format!("header.{name:?}: a name and a value of HTTP are wanted");
        for value in strings(&|key| table.get(key), name)? {
            let mut value: HeaderValue = value.parse().map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.push((name.parse().map_err(|_| bad())?, value));
        }
    }
    Ok(headers)
}

/// A text or a list of texts; absent is an empty list.
fn strings(get: &Get<'_>, key: &str) -> Result<Vec<String>, String> {
    let wanted = || format!("{key}: a text or a list of texts is wanted");
    let Some(item) = get(key) else { return Ok(Vec::new()) };
    match (item.as_str(), item.as_array()) {
        (Some(text), _) => Ok(vec![text.to_owned()]),
        (None, Some(list)) => list.iter().map(|v| v.as_str().map(str::to_owned).ok_or_else(wanted)).collect(),
        (None, None) => Err(wanted()),
    }
}

fn flag(get: &Get<'_>, key: &str) -> Result<bool, String> {
    match get(key) {
        None => Ok(false),
        Some(item) => item.as_bool().ok_or_else(|| format!("{key}: true or false is wanted")),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(host: &str, text: &str, expected: Expect) {
        let shown = match parse(host, text, Path::new("/etc/x")) {
            Err(why) => format!("error: {why}\n"),
            Ok(endpoints) => endpoints.iter().map(show).collect(),
        };
        expected.assert_eq(&shown);
    }

    fn show(e: &Endpoint) -> String {
        let mut line = format!("{}://{}{}", e.scheme, e.authority, e.path);
        for (on, word) in
            [(e.resolves, " resolve"), (e.pulls, " pull"), (e.is_origin, " origin"), (e.tls.skip_verify, " skip")]
        {
            if on {
                line += word;
            }
        }
        if !e.tls.ca.is_empty() || e.tls.client.is_some() {
            line += &format!(" {:?} {:?}", e.tls.ca, e.tls.client);
        }
        if !e.headers.is_empty() {
            line += &format!(" {:?}", e.headers);
        }
        line + "\n"
    }

    #[test]
    fn without_a_file_the_name_is_the_address() {
        let shown = |host| show(&endpoints(&["/nonexistent".into()], host).unwrap()[0]);
        assert_eq!(shown("docker.io"), "https://registry-1.docker.io/v2 resolve pull origin\n");
        assert_eq!(shown("quay.io"), "https://quay.io/v2 resolve pull origin\n");
        assert_eq!(shown("localhost:5000"), "http://localhost:5000/v2 resolve pull origin\n");
        assert_eq!(shown("127.1.2.3:5000"), "http://127.1.2.3:5000/v2 resolve pull origin\n");
        assert_eq!(shown("[::1]:5000"), "http://[::1]:5000/v2 resolve pull origin\n");
        assert_eq!(shown("10.0.0.1:5000"), "https://10.0.0.1:5000/v2 resolve pull origin\n");
    }

    #[test]
    fn mirrors_come_first_in_the_order_of_the_file() {
        check(
            "docker.io",
            r#"
            server = "https://registry-1.docker.io"
            [host."https://z.example"]
            capabilities = ["pull"]
            ca = "ca.pem"
            [host."http://a.example:5000/cache"]
            [host."https://b.example/own/path"]
            override_path = true
            skip_verify = true
            client = [["/c.pem", "k.pem"]]
            [host."https://b.example/own/path".header]
            authorization = "Basic secret"
            "#,
            expect![[r#"
                https://z.example/v2 pull ["/etc/x/ca.pem"] None
                http://a.example:5000/cache/v2 resolve pull
                https://b.example/own/path resolve pull skip [] Some(("/c.pem", "/etc/x/k.pem")) [("authorization", Sensitive)]
                https://registry-1.docker.io/v2 resolve pull origin
            "#]],
        );
    }

    #[test]
    fn the_server_may_be_left_out_or_configured_at_the_top() {
        check(
            "reg:5000",
            "ca = ['/a.pem', 'b.pem']\nskip_verify = true",
            expect![[r#"
                https://reg:5000/v2 resolve pull origin skip ["/a.pem", "/etc/x/b.pem"] None
            "#]],
        );
        check("reg:5000", "server = 'http://reg:5000'", expect!["http://reg:5000/v2 resolve pull origin\n"]);
        check(
            "reg:5000",
            "server = 'http://reg:5000'\n[host.'http://reg:5000']\ncapabilities = ['pull', 'resolve', 'push']",
            expect!["http://reg:5000/v2 resolve pull origin\n"],
        );
    }

    #[test]
    fn an_error_names_the_key_and_shows_no_secret() {
        check("a", "server = 5", expect!["error: server: a text is wanted\n"]);
        check(
            "a",
            "[host.'ftp://x']",
            expect![[r#"
            error: host."ftp://x": "ftp://x" is not an address: http:// or https:// and a host are wanted
        "#]],
        );
        check(
            "a",
            "[host.'https://u:p@x']",
            expect![[r#"
            error: host."https://u:p@x": a user has no place in an address; a header can carry credentials
        "#]],
        );
        check(
            "a",
            "[host.'https://x']\nskip_verify = 'yes'",
            expect![[r#"
            error: host."https://x": skip_verify: true or false is wanted
        "#]],
        );
        check(
            "a",
            "[host.'https://x'.header]\nx = \"hunter2\\n\"",
            expect![[r#"
            error: host."https://x": header."x": a name and a value of HTTP are wanted
        "#]],
        );
        check(
            "a",
            "server = ",
            expect![[r#"
            error: TOML parse error at line 1, column 10
              |
            1 | server = 
              |          ^
            string values must be quoted, expected literal string
        "#]],
        );
    }

    #[test]
    fn the_folder_of_a_host_is_found_by_any_of_its_names() {
        let tmp = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            fs::create_dir_all(tmp.path().join(name)).unwrap();
            fs::write(tmp.path().join(name).join("hosts.toml"), text).unwrap();
        };
        let first =
            |host: &str| endpoints(&["/nonexistent".into(), tmp.path().into()], host).unwrap()[0].authority.clone();
        write("_default", "[host.'https://all']");
        write("a_5000_", "[host.'https://one']");
        write("b", "[host.'https://two']");
        assert_eq!([first("a:5000"), first("b"), first("c")], ["one", "two", "all"]);
        fs::create_dir(tmp.path().join("d")).unwrap();
        fs::write(tmp.path().join("d/own.crt"), "").unwrap();
        fs::write(tmp.path().join("d/me.cert"), "").unwrap();
        let d = endpoints(&[tmp.path().into()], "d").unwrap().remove(0);
        assert_eq!(d.tls.ca, [tmp.path().join("d/own.crt")]);
        assert_eq!(d.tls.client, Some((tmp.path().join("d/me.cert"), tmp.path().join("d/me.key"))));
    }
}
