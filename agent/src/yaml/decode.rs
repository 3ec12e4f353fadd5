use std::cell::RefCell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};

use super::nearest::nearest;
use super::node::{Kind, Node};
use super::scalar::{Scalar, resolve};

/// Something in a document that does not fit its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line of the file, from 1; 0 where it is not known.
    pub line: usize,
    /// The field, such as `spec.containers[0].image`; empty for the document itself.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Reads `node` as a `T`. With `secret`, messages never show values.
///
/// # Errors
/// Every field that the types do not have, and the first value of a wrong type.
pub fn decode<T: DeserializeOwned>(node: &Node, secret: bool) -> Result<T, Vec<Mistake>> {
    match decode_leniently(node, secret)? {
        (value, unknown) if unknown.is_empty() => Ok(value),
        (_, unknown) => Err(unknown),
    }
}

/// Reads `node` as a `T`, and says which of its fields the types do not have: those are left out. With `secret`, messages
/// never show values.
///
/// # Errors
/// The first value of a wrong type, behind every field that the types do not have.
pub fn decode_leniently<T: DeserializeOwned>(node: &Node, secret: bool) -> Result<(T, Vec<Mistake>), Vec<Mistake>> {
    let seen = Seen { unknown: RefCell::default(), secret };
    let value = T::deserialize(Decoder { node, path: &Path::Root, seen: &seen, raw: false });
    let mut mistakes = seen.unknown.into_inner();
    match value {
        Ok(value) => Ok((value, mistakes)),
        Err(Failed { message, place }) => {
            let (line, field) = place.unwrap_or((node.line, String::new()));
            mistakes.push(Mistake { line, field, message });
            Err(mistakes)
        }
    }
}

struct Seen {
    unknown: RefCell<Vec<Mistake>>,
    secret: bool,
}

/// Where in the document a value stands.
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) if name.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                write!(f, "{parent}.{name}")
            }
            Path::Field(parent, name) => write!(f, "{parent}[{name}]"),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A value that does not fit; the innermost decoder that sees it fills in the place.
#[derive(Debug)]
struct Failed {
    message: String,
    place: Option<(usize, String)>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failed {}

impl de::Error for Failed {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), place: None }
    }
}

#[derive(Clone, Copy)]
struct Decoder<'a> {
    node: &'a Node,
    path: &'a Path<'a>,
    seen: &'a Seen,
    /// Numbers are taken as they are written: quantities.
    raw: bool,
}

impl Decoder<'_> {
    fn fail<T>(&self, message: String) -> Result<T, Failed> {
        Err(Failed { message, place: Some((self.node.line, self.path.to_string())) })
    }

    fn wrong<T>(&self, wanted: &str) -> Result<T, Failed> {
        self.fail(format!("is {}, must be {wanted}", self.node.described()))
    }

    fn placed<T>(&self, result: Result<T, Failed>) -> Result<T, Failed> {
        result.map_err(|failed| match failed.place {
            Some(_) => failed,
            None => Failed { place: Some((self.node.line, self.path.to_string())), ..failed },
        })
    }

    fn scalar(&self) -> Option<Scalar> {
        match &self.node.kind {
            Kind::Plain(text) => Some(resolve(text)),
            Kind::Text(_) => Some(Scalar::Text),
            _ => None,
        }
    }

    fn integer(&self) -> Result<i64, Failed> {
        match (self.scalar(), self.node.as_str()) {
            (Some(Scalar::Int(value)), _) => match i64::try_from(value) {
                Ok(value) => Ok(value),
                Err(_) => self.fail("is too large a number".to_owned()),
            },
            (Some(Scalar::Text), Some(text)) if !self.seen.secret && text.parse::<i64>().is_ok() => {
                self.fail(format!("is text, must be a whole number: write {text} without quotes"))
            }
            (Some(Scalar::Float(_)), _) => self.wrong("a whole number"),
            _ => self.wrong("a number"),
        }
    }

    fn text(&self) -> Result<&str, Failed> {
        match (&self.node.kind, self.scalar()) {
            (Kind::Text(text) | Kind::Plain(text), Some(Scalar::Text)) => Ok(text),
            (_, Some(Scalar::Null)) => Ok(""),
            (Kind::Plain(text), Some(_)) if !self.seen.secret => {
                self.fail(format!("is {}, must be text: write \"{text}\"", self.node.described()))
            }
            _ => self.wrong("text"),
        }
    }

    fn unknown(&self, key: &str, value: &Node, fields: &[&str]) {
        let message = match nearest(key, fields) {
            Some(field) => format!("unknown field; did you mean {field}?"),
            None => {
                let mut fields: Vec<_> =
                    fields.iter().copied().filter(|f| *f != "apiVersion" && *f != "kind").collect();
                fields.truncate(12);
                format!("unknown field; known here: {}", fields.join(", "))
            }
        };
        let field = Path::Field(self.path, key).to_string();
        self.seen.unknown.borrow_mut().push(Mistake { line: value.line, field, message });
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
            let value = self.integer()?;
            match <$type>::try_from(value) {
                Ok(value) => self.placed(visitor.$visit(value)),
                Err(_) => self.fail(format!("must be between {} and {}", <$type>::MIN, <$type>::MAX)),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for Decoder<'_> {
    type Error = Failed;

    integers! {
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        let result = match (&self.node.kind, self.scalar()) {
            (Kind::Map(_), _) => return self.deserialize_map(visitor),
            (Kind::List(_), _) => return self.deserialize_seq(visitor),
            (Kind::Plain(text), Some(Scalar::Int(_) | Scalar::Float(_))) if self.raw => visitor.visit_str(text),
            (_, Some(Scalar::Null)) => visitor.visit_unit(),
            (_, Some(Scalar::Bool(value))) => visitor.visit_bool(value),
            (_, Some(Scalar::Int(_))) => visitor.visit_i64(self.integer()?),
            (_, Some(Scalar::Float(value))) => visitor.visit_f64(value),
            (Kind::Text(text) | Kind::Plain(text), _) => visitor.visit_str(text),
        };
        // Visitors of the API's types describe what they got in serde's words; say it in ours.
        match result {
            Err(Failed { place: None, .. }) if !matches!(self.scalar(), Some(Scalar::Text)) => self.wrong("a value"),
            result => self.placed(result),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match self.scalar() {
            Some(Scalar::Bool(value)) => self.placed(visitor.visit_bool(value)),
            _ => self.wrong("true or false (without quotes)"),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match self.scalar() {
            Some(Scalar::Float(value)) => self.placed(visitor.visit_f64(value)),
            _ => self.placed(visitor.visit_i64(self.integer()?)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        let text = self.text()?;
        self.placed(visitor.visit_str(text))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        if self.node.is_null() { visitor.visit_none() } else { self.placed(visitor.visit_some(self)) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Failed> {
        let raw = self.raw || name == "Quantity";
        self.placed(visitor.visit_newtype_struct(Self { raw, ..self }))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        let Kind::List(list) = &self.node.kind else { return self.wrong("a list (lines that begin with -)") };
        self.placed(visitor.visit_seq(Items { of: self, list: list.iter().enumerate() }))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        let Kind::Map(entries) = &self.node.kind else { return self.wrong("a mapping (key: value)") };
        self.placed(visitor.visit_map(Entries { of: self, fields: None, left: entries.iter(), value: None }))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        let Kind::Map(entries) = &self.node.kind else { return self.wrong("a mapping (key: value)") };
        self.placed(visitor.visit_map(Entries { of: self, fields: Some(fields), left: entries.iter(), value: None }))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        let text: StrDeserializer<'_, Failed> = self.text()?.into_deserializer();
        self.placed(visitor.visit_enum(text))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! { i128 u128 bytes byte_buf unit unit_struct tuple tuple_struct identifier }
}

struct Items<'a> {
    of: Decoder<'a>,
    list: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Failed;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Failed> {
        let Some((index, node)) = self.list.next() else { return Ok(None) };
        let path = Path::Index(self.of.path, index);
        seed.deserialize(Decoder { node, path: &path, ..self.of }).map(Some)
    }
}

struct Entries<'a> {
    of: Decoder<'a>,
    /// The fields of a struct; `None` where any key is fine.
    fields: Option<&'static [&'static str]>,
    left: std::slice::Iter<'a, (String, Node)>,
    value: Option<&'a (String, Node)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Failed;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Failed> {
        for entry in self.left.by_ref() {
            match self.fields {
                Some(fields) if !fields.contains(&entry.0.as_str()) => self.of.unknown(&entry.0, &entry.1, fields),
                _ => {
                    self.value = Some(entry);
                    let key: StrDeserializer<'_, Failed> = entry.0.as_str().into_deserializer();
                    return seed.deserialize(key).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Failed> {
        let Some((key, node)) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let path = Path::Field(self.of.path, key);
        seed.deserialize(Decoder { node, path: &path, ..self.of })
    }
}
