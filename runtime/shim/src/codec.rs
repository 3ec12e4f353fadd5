//! The bytes behind [`crate::plan`] and [`crate::wire`]: a version byte, then fields in order, little-endian,
//! everything of variable length preceded by its count.
//!
//! Both ends are built together, so there is nothing to negotiate: another version is refused, and whoever reads it
//! (a shim that outlived an upgrade) is asked in the version it was started with.

use std::ffi::{CString, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Changes with every change of a field.
pub(crate) const VERSION: u8 = 1;

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Written by another version of this crate.
    Version(u8),
    /// More bytes than this kind of message may have.
    TooLarge(usize),
    /// The bytes end in the middle of a field.
    Short,
    /// Bytes are left after the last field.
    Trailing(usize),
    /// An enum's tag or a flag that does not exist.
    Tag(u8),
    /// A text that is not UTF-8, or a NUL inside a string that ends with one.
    Text,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(found) => write!(f, "written in version {found}, this is version {VERSION}"),
            Self::TooLarge(bytes) => write!(f, "{bytes} bytes are more than it may have"),
            Self::Short => write!(f, "it ends in the middle of a field"),
            Self::Trailing(bytes) => write!(f, "{bytes} bytes follow its last field"),
            Self::Tag(tag) => write!(f, "there is no variant {tag}"),
            Self::Text => write!(f, "a text in it is not valid"),
        }
    }
}

impl std::error::Error for DecodeError {}

impl From<DecodeError> for std::io::Error {
    fn from(error: DecodeError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// A value with a fixed place in the bytes.
pub(crate) trait Field: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn take(input: &mut &[u8]) -> Result<Self, DecodeError>;
}

/// Version byte and value.
pub(crate) fn encode(value: &impl Field) -> Vec<u8> {
    let mut out = vec![VERSION];
    value.put(&mut out);
    out
}

/// The whole of `bytes`, which are at most `limit`.
pub(crate) fn decode<T: Field>(bytes: &[u8], limit: usize) -> Result<T, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLarge(bytes.len()));
    }
    let mut input = bytes;
    match u8::take(&mut input)? {
        VERSION => {}
        other => return Err(DecodeError::Version(other)),
    }
    let value = T::take(&mut input)?;
    if input.is_empty() { Ok(value) } else { Err(DecodeError::Trailing(input.len())) }
}

fn split<'a>(input: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], DecodeError> {
    let (head, tail) = input.split_at_checked(bytes).ok_or(DecodeError::Short)?;
    *input = tail;
    Ok(head)
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Field for $number {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
                let (head, tail) = input.split_first_chunk().ok_or(DecodeError::Short)?;
                *input = tail;
                Ok(<$number>::from_le_bytes(*head))
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64, i32, i64);

impl Field for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        match u8::take(input)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Tag(other)),
        }
    }
}

/// Lengths are 32 bits: the limits of whole messages are far below.
fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    (bytes.len() as u32).put(out);
    out.extend_from_slice(bytes);
}

fn take_bytes(input: &mut &[u8]) -> Result<Vec<u8>, DecodeError> {
    let length = u32::take(input)? as usize;
    Ok(split(input, length)?.to_vec())
}

impl Field for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), out);
    }
    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Self::from_utf8(take_bytes(input)?).map_err(|_| DecodeError::Text)
    }
}

impl Field for CString {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), out);
    }
    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Self::new(take_bytes(input)?).map_err(|_| DecodeError::Text)
    }
}

impl Field for PathBuf {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_os_str().as_bytes(), out);
    }
    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let bytes = take_bytes(input)?;
        if bytes.contains(&0) { Err(DecodeError::Text) } else { Ok(OsString::from_vec(bytes).into()) }
    }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        self.iter().for_each(|item| item.put(out));
    }
    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let count = u32::take(input)? as usize;
        // Every item has at least one byte, so a count can't make us allocate much more than what was sent.
        if count > input.len() {
            return Err(DecodeError::Short);
        }
        (0..count).map(|_| T::take(input)).collect()
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        self.iter().for_each(|value| value.put(out));
    }
    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(if bool::take(input)? { Some(T::take(input)?) } else { None })
    }
}

macro_rules! tuples {
    ($(($($name:ident $index:tt),*)),*) => {$(
        impl<$($name: Field),*> Field for ($($name,)*) {
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$index.put(out);)*
            }
            fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
                Ok(($($name::take(input)?,)*))
            }
        }
    )*};
}
tuples!((A 0, B 1), (A 0, B 1, C 2));

/// Every field of a struct, in the order given here.
macro_rules! record {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::codec::Field for $name {
            fn put(&self, out: &mut Vec<u8>) {
                // Taken apart so that a field that is forgotten here does not compile.
                let Self { $($field),* } = self;
                $($crate::codec::Field::put($field, out);)*
            }
            fn take(input: &mut &[u8]) -> Result<Self, $crate::codec::DecodeError> {
                Ok(Self { $($field: $crate::codec::Field::take(input)?),* })
            }
        }
    };
}

/// Every variant of an enum with its tag.
macro_rules! choice {
    ($name:ident { $($tag:literal => $variant:ident { $($field:ident),* }),* $(,)? }) => {
        impl $crate::codec::Field for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant { $($field),* } => {
                        out.push($tag);
                        $($crate::codec::Field::put($field, out);)*
                    })*
                }
            }
            fn take(input: &mut &[u8]) -> Result<Self, $crate::codec::DecodeError> {
                match <u8 as $crate::codec::Field>::take(input)? {
                    $($tag => Ok(Self::$variant { $($field: $crate::codec::Field::take(input)?),* }),)*
                    other => Err($crate::codec::DecodeError::Tag(other)),
                }
            }
        }
    };
}

pub(crate) use {choice, record};
