//! A folder as a tar stream, always the same for the same folder: names sorted, owners and times as they are.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Dir, FileType, OFlags, Stat};
use rustix::io::Errno;
use tar::{EntryType, Header};

use crate::images::layers::tree;

/// Length of the stream of an empty folder: the two blocks that end an archive.
pub(super) const EMPTY_LENGTH: u64 = 1024;
const BLOCK: u64 = 512;

/// Everything in `folder`, without the folder itself: its own mode says more about where it lay (0700 under `/tmp`)
/// than about the image's `/`. Other file systems mounted below it show as empty folders; sockets are left out.
pub(super) fn stream(folder: OwnedFd) -> impl Read + Send {
    TarStream {
        folder,
        todo: Vec::new(),
        started: false,
        pending: Cursor::default(),
        file: None,
        links: HashMap::new(),
    }
}

struct TarStream {
    folder: OwnedFd,
    /// Paths still to write, the next one last.
    todo: Vec<Vec<u8>>,
    started: bool,
    /// Headers and padding that are ready.
    pending: Cursor<Vec<u8>>,
    /// The file whose content comes next, how much of it, and the padding after it.
    file: Option<(File, u64, u64)>,
    /// The first name of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl Read for TarStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.pending.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            if let Some((file, left, padding)) = &mut self.file {
                if *left == 0 {
                    let padding = usize::try_from(*padding).map_err(io::Error::other)?;
                    self.file = None;
                    self.pending = Cursor::new(vec![0; padding]);
                    continue;
                }
                let wanted = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                let count = file.read(&mut buffer[..wanted])?;
                if count == 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file shrank while it was read"));
                }
                *left -= count as u64;
                return Ok(count);
            }
            if !self.advance()? {
                return Ok(0);
            }
        }
    }
}

impl TarStream {
    /// Prepares the next entry, or once the end of the archive; false after that.
    fn advance(&mut self) -> io::Result<bool> {
        if !self.started {
            self.started = true;
            self.push_children(b"")?;
        } else if self.todo.is_empty() {
            return Ok(false);
        }
        match self.todo.pop() {
            Some(path) if path == END => self.pending = Cursor::new(vec![0; EMPTY_LENGTH as usize]),
            Some(path) => self.entry(&path)?,
            None => {}
        }
        Ok(true)
    }

    fn push_children(&mut self, path: &[u8]) -> io::Result<()> {
        if path.is_empty() {
            self.todo.push(END.to_vec());
        }
        let folder = match tree::open_plain(&self.folder, path_or_dot(path), OFlags::DIRECTORY | OFlags::RDONLY) {
            Err(error) if error.raw_os_error() == Some(libc::EXDEV) => return Ok(()),
            folder => folder?,
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
        self.todo.extend(names.into_iter().map(|name| [path, slash, &name].concat()));
        Ok(())
    }

    fn entry(&mut self, path: &[u8]) -> io::Result<()> {
        let handle = match tree::open_plain(&self.folder, path, OFlags::PATH) {
            // A link cannot be opened by a walk that follows none; its parent can.
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => self.open_link(path)?,
            Err(error) if error.raw_os_error() == Some(libc::EXDEV) => return self.mount_point(path),
            handle => handle?,
        };
        let stat = rustix::fs::fstat(&handle)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Socket {
            return Ok(());
        }
        if stat.st_nlink > 1 && kind != FileType::Directory {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                self.pending = Cursor::new(headers(path, first, EntryType::Link, &stat, 0, &[])?);
                return Ok(());
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        match kind {
            FileType::RegularFile => self.regular(path, &handle, &stat)?,
            FileType::Directory => {
                let name = [path, b"/"].concat();
                self.pending = Cursor::new(headers(&name, b"", EntryType::Directory, &stat, 0, &xattrs(&handle)?)?);
                self.push_children(path)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&handle, "", Vec::new())?.into_bytes();
                self.pending = Cursor::new(headers(path, &target, EntryType::Symlink, &stat, 0, &[])?);
            }
            FileType::CharacterDevice => self.node(path, EntryType::Char, &stat)?,
            FileType::BlockDevice => self.node(path, EntryType::Block, &stat)?,
            _ => self.node(path, EntryType::Fifo, &stat)?,
        }
        Ok(())
    }

    fn node(&mut self, path: &[u8], kind: EntryType, stat: &Stat) -> io::Result<()> {
        self.pending = Cursor::new(headers(path, b"", kind, stat, 0, &[])?);
        Ok(())
    }

    fn regular(&mut self, path: &[u8], handle: &OwnedFd, stat: &Stat) -> io::Result<()> {
        let size = u64::try_from(stat.st_size).map_err(io::Error::other)?;
        let file = File::open(format!("/proc/self/fd/{}", handle.as_raw_fd()))?;
        self.pending = Cursor::new(headers(path, b"", EntryType::Regular, stat, size, &xattrs(handle)?)?);
        self.file = Some((file, size, size.next_multiple_of(BLOCK) - size));
        Ok(())
    }

    fn open_link(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let (folder, name) = match path.iter().rposition(|&b| b == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b"."[..], path),
        };
        let folder = tree::open_plain(&self.folder, folder, OFlags::PATH | OFlags::DIRECTORY)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(folder, name, flags, rustix::fs::Mode::empty())?)
    }

    fn mount_point(&mut self, path: &[u8]) -> io::Result<()> {
        let Some(stat) = tree::stat(&self.folder, path)?.filter(tree::is_folder) else { return Ok(()) };
        self.pending = Cursor::new(headers(&[path, b"/"].concat(), b"", EntryType::Directory, &stat, 0, &[])?);
        Ok(())
    }
}

/// No file's path: names cannot be empty between slashes.
const END: &[u8] = b"//";

fn path_or_dot(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

/// The attributes that an unpacker keeps, sorted.
fn xattrs(handle: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // Descriptors that only name a file have no attributes of their own; their entry in /proc has.
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let mut kept = Vec::new();
    let names = match xattr::list_deref(&path) {
        Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => return Ok(kept),
        names => names?,
    };
    for name in names {
        let name = name.into_encoded_bytes();
        if name == b"security.capability" || name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_") {
            let key: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(name.clone());
            kept.extend(xattr::get_deref(&path, key)?.map(|value| (name, value)));
        }
    }
    kept.sort();
    Ok(kept)
}

/// The header blocks of one entry: one, or three and more when PAX records are needed.
fn headers(
    name: &[u8],
    link: &[u8],
    kind: EntryType,
    stat: &Stat,
    size: u64,
    xattrs: &[(Vec<u8>, Vec<u8>)],
) -> io::Result<Vec<u8>> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(size);
    if matches!(kind, EntryType::Char | EntryType::Block) {
        header.set_device_major(rustix::fs::major(stat.st_rdev))?;
        header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
    }
    let mut records = Vec::new();
    let gnu = header.as_gnu_mut().ok_or(Errno::INVAL)?;
    for (key, value, field) in [(&b"path"[..], name, &mut gnu.name), (b"linkpath", link, &mut gnu.linkname)] {
        let fits = value.len().min(field.len());
        field[..fits].copy_from_slice(&value[..fits]);
        if value.len() > field.len() {
            record(&mut records, key, value);
        }
    }
    for (key, value) in xattrs {
        record(&mut records, &[b"SCHILY.xattr.", &key[..]].concat(), value);
    }
    header.set_cksum();
    let mut blocks = Vec::new();
    if !records.is_empty() {
        let mut extended = Header::new_ustar();
        extended.set_entry_type(EntryType::XHeader);
        extended.set_size(records.len() as u64);
        extended.set_cksum();
        blocks.extend_from_slice(extended.as_bytes());
        records.resize(records.len().next_multiple_of(BLOCK as usize), 0);
        blocks.append(&mut records);
    }
    blocks.extend_from_slice(header.as_bytes());
    Ok(blocks)
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts its own digits too.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(&[key, b"=", value, b"\n"].concat());
}
