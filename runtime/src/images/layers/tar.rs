//! A tar stream as a sequence of entries: ustar, GNU and PAX, with every size bounded.
//!
//! The `tar` crate's header type decodes the fields. Its own iterator is not used: it reads long names and PAX records
//! of any length into memory, and a layer's bytes are foreign.

use std::io::{self, Read};

use ::tar::{EntryType, GnuExtSparseHeader, Header};

use super::pax::{Pax, number};
use super::sparse::{MAX_SEGMENTS, Segment, segments};
use super::{LayerLimits, UnpackError, shown};

const BLOCK: u64 = 512;
// Long names and PAX records; Go's reader, which wrote most images, has the same bound.
const MAX_SPECIAL: u64 = 1 << 20;
// uid and gid -1 mean "unchanged" to the kernel.
const MAX_ID: u64 = u32::MAX as u64 - 1;

/// What kind of file an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Symlink,
    HardLink,
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// One entry with all extensions applied.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Bytes of the file, holes included.
    pub(crate) size: u64,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data go, if the file has holes.
    pub(crate) segments: Option<Vec<Segment>>,
}

/// What special entries before a header said about it.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

/// Reads entries one after the other; between two calls of `next`, `data` yields the content of the current one.
pub(crate) struct TarReader<R> {
    input: R,
    limits: LayerLimits,
    offset: u64,
    entries: u64,
    /// Bytes of the current entry that are still to be read.
    left: u64,
    padding: u64,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(input: R, limits: LayerLimits) -> Self {
        Self { input, limits, offset: 0, entries: 0, left: 0, padding: 0 }
    }

    /// Where the current entry's data begin in the stream.
    pub(crate) fn data_offset(&self) -> u64 {
        self.offset
    }

    /// The next entry; `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, UnpackError> {
        let mut extensions = Extensions::default();
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let size = blank_or(&header.as_old().size, header.entry_size());
            let size = size.map_err(|_| self.damaged("its size is not a number"))?;
            match header.entry_type() {
                EntryType::GNULongName => extensions.name = Some(self.long_name(size)?),
                EntryType::GNULongLink => extensions.link = Some(self.long_name(size)?),
                EntryType::XHeader => extensions.pax = Some(self.pax(size)?),
                // Readers in Go skip it too; git writes a comment there.
                EntryType::XGlobalHeader => drop(self.special(size)?),
                _ => return self.entry(&header, size, extensions).map(Some),
            }
        }
    }

    /// The current entry's data as they are stored.
    pub(crate) fn data(&mut self) -> impl Read + '_ {
        Data(self)
    }

    /// Passes over the current entry's data without reading them.
    pub(crate) fn skip_by_seeking(&mut self) -> Result<(), UnpackError>
    where
        R: io::Seek,
    {
        let rest = self.left + self.padding;
        let distance = i64::try_from(rest).map_err(|_| self.damaged("its size is beyond all numbers"))?;
        self.input.seek_relative(distance).map_err(UnpackError::Read)?;
        (self.left, self.padding) = (0, 0);
        self.advance(rest)
    }

    /// Reads on to the end of the stream, so that a digest covers all of it, and gives the input back.
    pub(crate) fn finish(mut self) -> Result<R, UnpackError> {
        let mut buffer = [0; 32 * 1024];
        loop {
            match self.input.read(&mut buffer) {
                Ok(0) => return Ok(self.input),
                Ok(count) => self.advance(count as u64)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(UnpackError::Read(error)),
            }
        }
    }

    fn header(&mut self) -> Result<Option<Header>, UnpackError> {
        self.skip_data()?;
        let mut block = [0; BLOCK as usize];
        // An archive may end without its two empty blocks; the digest tells whether anything is missing.
        if !self.block_or_end(&mut block)? || block.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(UnpackError::TooMuch { what: "entries", limit: self.limits.entries });
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum: u32 = block[..148].iter().chain(&block[156..]).map(|&b| u32::from(b)).sum::<u32>() + 8 * 32;
        if header.cksum().ok() != Some(sum) {
            return Err(self.damaged("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    fn entry(&mut self, header: &Header, size: u64, ext: Extensions) -> Result<Entry, UnpackError> {
        let mut pax = ext.pax.unwrap_or_default();
        let raw_name = ext.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let mut name = pax.path.take().unwrap_or(raw_name);
        let raw_link = || header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
        let link = pax.link.take().or(ext.link).unwrap_or_else(raw_link);
        let kind = self.kind(header, &name)?;
        // Header-only kinds carry no data whatever their size says: Go reads them so, and writes them so.
        let stored = if kind == Kind::File { pax.size.unwrap_or(size) } else { 0 };
        self.expect_data(stored)?;
        let (size, segments) = self.layout(header, &pax, stored)?;
        if size > self.limits.bytes {
            return Err(UnpackError::TooMuch { what: "bytes in one file", limit: self.limits.bytes });
        }
        if let Some(real) = pax.sparse.name.take() {
            name = real;
        }
        let uid = self.id(pax.uid.map_or_else(|| blank_or(&header.as_old().uid, header.uid()), Ok), &name)?;
        let gid = self.id(pax.gid.map_or_else(|| blank_or(&header.as_old().gid, header.gid()), Ok), &name)?;
        let mode = blank_or(&header.as_old().mode, header.mode().map(u64::from));
        let mode = mode.map_err(|_| self.damaged("its mode is not a number"))? as u32 & 0o7777;
        let stamp = || (header.mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0), 0);
        let mtime = pax.mtime.unwrap_or_else(stamp);
        Ok(Entry { name, link, kind, mode, uid, gid, mtime, size, xattrs: pax.xattrs, segments })
    }

    fn kind(&self, header: &Header, name: &[u8]) -> Result<Kind, UnpackError> {
        let number = |field: io::Result<Option<u32>>| {
            field.ok().flatten().ok_or_else(|| self.damaged("a device without numbers"))
        };
        Ok(match header.entry_type() {
            // Version 7 had no folders of their own.
            EntryType::Regular | EntryType::Continuous if name.ends_with(b"/") => Kind::Folder,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Directory => Kind::Folder,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            EntryType::Char => Kind::Char(number(header.device_major())?, number(header.device_minor())?),
            EntryType::Block => Kind::Block(number(header.device_major())?, number(header.device_minor())?),
            EntryType::Fifo => Kind::Fifo,
            _ => return Err(UnpackError::Refused { name: shown(name), why: "its kind of entry is unknown" }),
        })
    }

    /// The file's real size, and where its data go if it has holes.
    fn layout(&mut self, header: &Header, pax: &Pax, stored: u64) -> Result<(u64, Option<Vec<Segment>>), UnpackError> {
        let sparse = &pax.sparse;
        let (real, pairs) = if header.entry_type() == EntryType::GNUSparse {
            self.gnu_map(header)?
        } else if let Some(real) = sparse.real_size {
            (real, if sparse.map_in_data { self.map_in_data()? } else { sparse.map.clone() })
        } else {
            return Ok((stored, None));
        };
        let map = segments(&pairs, real, self.left).map_err(|what| self.damaged(what))?;
        Ok((real, Some(map)))
    }

    /// The old GNU form: four parts in the header, more in blocks behind it.
    fn gnu_map(&mut self, header: &Header) -> Result<(u64, Vec<u64>), UnpackError> {
        let gnu = header.as_gnu().ok_or_else(|| self.damaged("a sparse file without a GNU header"))?;
        let real = gnu.real_size().map_err(|_| self.damaged("a sparse file without its size"))?;
        let mut pairs = Vec::new();
        let mut take = |parts: &[::tar::GnuSparseHeader]| -> io::Result<()> {
            for part in parts.iter().filter(|part| !part.is_empty()) {
                pairs.extend([part.offset()?, part.length()?]);
            }
            Ok(())
        };
        take(&gnu.sparse).map_err(|_| self.damaged("a sparse map that is not numbers"))?;
        let mut more = gnu.is_extended();
        let mut blocks = 0;
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.input.read_exact(block.as_mut_bytes()).map_err(UnpackError::Read)?;
            self.advance(BLOCK)?;
            take(block.sparse()).map_err(|_| self.damaged("a sparse map that is not numbers"))?;
            more = block.is_extended();
            blocks += 1;
            if blocks * 21 > MAX_SEGMENTS {
                return Err(UnpackError::TooMuch { what: "parts in a sparse file", limit: MAX_SEGMENTS as u64 });
            }
        }
        Ok((real, pairs))
    }

    /// PAX 1.0: decimal lines before the data, padded to a block: their count, then offset and length of each part.
    fn map_in_data(&mut self) -> Result<Vec<u64>, UnpackError> {
        let start = self.left;
        let count = self.decimal_line()?;
        if count > MAX_SEGMENTS as u64 {
            return Err(UnpackError::TooMuch { what: "parts in a sparse file", limit: MAX_SEGMENTS as u64 });
        }
        let mut pairs = Vec::new();
        for _ in 0..count * 2 {
            pairs.push(self.decimal_line()?);
        }
        let padding = (start - self.left).next_multiple_of(BLOCK) - (start - self.left);
        let skipped = io::copy(&mut self.data().take(padding), &mut io::sink()).map_err(UnpackError::Read)?;
        if skipped == padding { Ok(pairs) } else { Err(self.damaged("a sparse map that does not end")) }
    }

    fn decimal_line(&mut self) -> Result<u64, UnpackError> {
        let mut digits = Vec::with_capacity(20);
        loop {
            let mut byte = [0];
            let count = self.data().read(&mut byte).map_err(UnpackError::Read)?;
            if count == 0 || digits.len() > 20 {
                return Err(self.damaged("a sparse map that does not end"));
            }
            if byte[0] == b'\n' {
                return number(&digits).ok_or_else(|| self.damaged("a sparse map that is not numbers"));
            }
            digits.push(byte[0]);
        }
    }

    fn id(&self, id: io::Result<u64>, name: &[u8]) -> Result<u32, UnpackError> {
        match id {
            Ok(id) if id <= MAX_ID => Ok(id as u32),
            Ok(_) => Err(UnpackError::Refused { name: shown(name), why: "its owner is out of range" }),
            Err(_) => Err(self.damaged("its owner is not a number")),
        }
    }

    fn pax(&mut self, size: u64) -> Result<Pax, UnpackError> {
        let bytes = self.special(size)?;
        Pax::parse(&bytes).ok_or_else(|| self.damaged("a PAX record is malformed"))
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        let mut bytes = self.special(size)?;
        if let Some(end) = bytes.iter().position(|&b| b == 0) {
            bytes.truncate(end);
        }
        Ok(bytes)
    }

    fn special(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        if size > MAX_SPECIAL {
            return Err(UnpackError::TooMuch { what: "bytes in a name or PAX header", limit: MAX_SPECIAL });
        }
        self.expect_data(size)?;
        let mut bytes = Vec::new();
        self.data().read_to_end(&mut bytes).map_err(UnpackError::Read)?;
        if self.left > 0 { Err(self.damaged("it ends within a header")) } else { Ok(bytes) }
    }

    fn expect_data(&mut self, size: u64) -> Result<(), UnpackError> {
        if size > self.limits.bytes {
            return Err(UnpackError::TooMuch { what: "bytes in one file", limit: self.limits.bytes });
        }
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK) - size;
        Ok(())
    }

    fn skip_data(&mut self) -> Result<(), UnpackError> {
        io::copy(&mut self.data(), &mut io::sink()).map_err(UnpackError::Read)?;
        let padding = std::mem::take(&mut self.padding);
        let skipped = io::copy(&mut (&mut self.input).take(padding), &mut io::sink()).map_err(UnpackError::Read)?;
        self.advance(skipped)?;
        if self.left > 0 || skipped < padding { Err(self.damaged("it ends within an entry")) } else { Ok(()) }
    }

    /// False at the end of the input.
    fn block_or_end(&mut self, block: &mut [u8]) -> Result<bool, UnpackError> {
        let mut filled = 0;
        while filled < block.len() {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.damaged("it ends within a header")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(UnpackError::Read(error)),
            }
        }
        self.advance(filled as u64)?;
        Ok(true)
    }

    fn advance(&mut self, bytes: u64) -> Result<(), UnpackError> {
        self.offset = self.offset.saturating_add(bytes);
        if self.offset > self.limits.bytes {
            return Err(UnpackError::TooMuch { what: "bytes", limit: self.limits.bytes });
        }
        Ok(())
    }

    fn damaged(&self, what: &'static str) -> UnpackError {
        UnpackError::Damaged { offset: self.offset, what }
    }
}

/// Fields that were never written are zero: small tools and old ones leave them so.
fn blank_or(field: &[u8], value: io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|b| matches!(b, 0 | b' ')) { Ok(0) } else { value }
}

struct Data<'a, R>(&'a mut TarReader<R>);

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let reader = &mut *self.0;
        let wanted = buffer.len().min(usize::try_from(reader.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            // Not asked of the input: a zstd decoder takes many reads of nothing for a fault.
            return Ok(0);
        }
        let count = reader.input.read(&mut buffer[..wanted])?;
        reader.left -= count as u64;
        reader.advance(count as u64).map_err(io::Error::other)?;
        Ok(count)
    }
}
