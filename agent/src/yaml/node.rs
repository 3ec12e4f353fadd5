use super::scalar::{Scalar, resolve};

/// One value of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Line of the file, from 1; 0 where it is not known (JSON).
    pub line: usize,
    /// The value.
    pub kind: Kind,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A quoted or block scalar: always text.
    Text(String),
    /// A plain scalar: what it is depends on how it looks.
    Plain(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file; no key stands twice.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// The value of `key`, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The value of `key`, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        match &mut self.kind {
            Kind::Map(entries) => entries.iter_mut().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The text of a scalar, quoted or not.
    pub fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) | Kind::Plain(text) => Some(text),
            _ => None,
        }
    }

    /// The line of a field such as `spec.ports[0].port`, or of the nearest thing around it that the document has.
    pub fn line_of(&self, field: &str) -> usize {
        let mut node = self;
        for step in field.split(['.', '[']) {
            let step = step.trim_end_matches(']');
            let next = match &node.kind {
                Kind::List(list) => step.parse::<usize>().ok().and_then(|index| list.get(index)),
                _ => node.get(step),
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.line
    }

    /// Nothing, `~` or `null`.
    pub fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Plain(text) if resolve(text) == Scalar::Null)
    }

    /// What a person would call it.
    pub(super) fn described(&self) -> &'static str {
        match &self.kind {
            Kind::Text(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
            Kind::Plain(text) => match resolve(text) {
                Scalar::Null => "empty",
                Scalar::Bool(_) => "true or false",
                Scalar::Int(_) | Scalar::Float(_) => "a number",
                Scalar::Text => "text",
            },
        }
    }
}
