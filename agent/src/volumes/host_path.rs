use std::fs::{self, DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::SetUpError;
use super::error::io;

/// `hostPath.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Anything,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

impl Expected {
    pub(super) fn of(kind: &str) -> Result<Self, SetUpError> {
        Ok(match kind {
            "" => Self::Anything,
            "DirectoryOrCreate" => Self::DirectoryOrCreate,
            "Directory" => Self::Directory,
            "FileOrCreate" => Self::FileOrCreate,
            "File" => Self::File,
            "Socket" => Self::Socket,
            "CharDevice" => Self::CharDevice,
            "BlockDevice" => Self::BlockDevice,
            other => return Err(SetUpError::Unsupported(format!("unknown hostPath type {other:?}"))),
        })
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::Anything => "path",
            Self::DirectoryOrCreate | Self::Directory => "directory",
            Self::FileOrCreate | Self::File => "file",
            Self::Socket => "socket file",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
        }
    }

    fn fits(self, kind: fs::FileType) -> bool {
        match self {
            Self::Anything => true,
            Self::DirectoryOrCreate | Self::Directory => kind.is_dir(),
            // The kubelet's rule: a file is what is no directory and nothing special.
            Self::FileOrCreate | Self::File => kind.is_file(),
            Self::Socket => kind.is_socket(),
            Self::CharDevice => kind.is_char_device(),
            Self::BlockDevice => kind.is_block_device(),
        }
    }
}

/// Checks a path of the node, and makes it where the type asks for that. Links are followed.
pub(super) fn check(path: &Path, expected: Expected) -> Result<(), SetUpError> {
    if !path.is_absolute() || path.components().any(|part| part == std::path::Component::ParentDir) {
        let path = path.display().to_string();
        return Err(SetUpError::Path { path, reason: "a hostPath must be absolute and without .." });
    }
    create(path, expected)?;
    match fs::metadata(path) {
        Ok(found) if expected.fits(found.file_type()) => Ok(()),
        Ok(_) => Err(wrong(path, expected)),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(wrong(path, expected)),
        Err(error) => Err(io("looking at", path)(error)),
    }
}

fn wrong(path: &Path, expected: Expected) -> SetUpError {
    SetUpError::HostPath { path: path.to_owned(), expected: expected.in_words() }
}

fn create(path: &Path, expected: Expected) -> Result<(), SetUpError> {
    let made = match expected {
        // Without a type the runtime would make the directory when it creates the container; made here, every runtime
        // behaves alike.
        Expected::DirectoryOrCreate | Expected::Anything if !path.exists() => {
            DirBuilder::new().recursive(true).mode(0o755).create(path)
        }
        Expected::FileOrCreate if !path.exists() => {
            OpenOptions::new().write(true).create_new(true).mode(0o644).open(path).map(drop)
        }
        _ => Ok(()),
    };
    match made {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(io("creating", path)(error)),
        _ => Ok(()),
    }
}
