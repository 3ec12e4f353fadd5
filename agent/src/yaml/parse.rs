use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::node::{Kind, Node};
use super::{json, split};

/// Deeper nesting is no manifest; the limit keeps the stack bounded.
const DEEPEST: usize = 100;
/// What a document may hold with its aliases put in, by [`weight`]: half a million short values.
const LARGEST: usize = 32 << 20;
/// What a value weighs beside its text: about what it takes in memory.
const NODE: usize = 64;

/// A document that is neither YAML nor JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Line of the file, from 1; 0 where it is not known.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// The documents of a file, YAML or JSON; empty ones are left out. One that cannot be read does not hide the others.
pub fn documents(text: &str) -> Vec<Result<Node, Broken>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('{') {
        match json::values(text) {
            Ok(values) => return values.into_iter().map(Ok).collect(),
            // A flow mapping of YAML begins like JSON too; if it is neither, JSON was probably meant.
            Err((line, message)) => {
                let yaml: Vec<_> = yaml(text);
                let is_yaml = yaml.iter().all(Result::is_ok);
                return if is_yaml {
                    yaml
                } else {
                    vec![Err(Broken { line, message: format!("not JSON: {message}") })]
                };
            }
        }
    }
    yaml(text)
}

fn yaml(text: &str) -> Vec<Result<Node, Broken>> {
    let pieces = split::split(text);
    pieces.into_iter().map(|piece| Reader::new(piece.text, piece.before).document()).collect()
}

/// Builds one document from the parser's events.
struct Reader<'a> {
    events: Parser<'a, granit_parser::StrInput<'a>>,
    before: usize,
    anchors: HashMap<usize, Node>,
    weight: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, before: usize) -> Self {
        let options = granit_parser::options! { flow_nesting_limit: DEEPEST, block_nesting_limit: DEEPEST };
        let events = Parser::new_from_str_with_options(text, options);
        Self { events, before, anchors: HashMap::new(), weight: 0 }
    }

    fn document(mut self) -> Result<Node, Broken> {
        let root = loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(..), _) => {}
                (event, span) => break self.node(event, span, 0)?,
            }
        };
        loop {
            match self.next()? {
                (Event::DocumentEnd, _) => {}
                (Event::StreamEnd, _) => return Ok(root),
                (_, span) => {
                    return Err(self.broken(span, "a second document begins here; put a line --- in front of it"));
                }
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Broken> {
        match self.events.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.scan_error(&error)),
            None => Err(Broken { line: self.before + 1, message: "not YAML: the document ends too early".to_owned() }),
        }
    }

    fn scan_error(&self, error: &ScanError) -> Broken {
        let message = format!("not YAML: {} (column {})", error.info(), error.marker().col() + 1);
        Broken { line: self.before + error.marker().line(), message }
    }

    fn broken(&self, span: Span, message: impl Into<String>) -> Broken {
        Broken { line: self.line(span), message: message.into() }
    }

    fn line(&self, span: Span) -> usize {
        self.before + span.start.line()
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Broken> {
        if depth > DEEPEST {
            return Err(self.broken(span, "nested too deeply"));
        }
        let line = self.line(span);
        let (anchor, kind) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.weigh(text.len() + NODE, span)?;
                let forced = tag.is_some_and(|tag| tag.suffix() == "str");
                let plain = style == ScalarStyle::Plain && !forced;
                let text = text.into_owned();
                (anchor, if plain { Kind::Plain(text) } else { Kind::Text(text) })
            }
            Event::SequenceStart(_, anchor, _) => (anchor, self.list(depth)?),
            Event::MappingStart(_, anchor, _) => (anchor, self.map(depth)?),
            Event::Alias(id) => return self.alias(id, span),
            _ => return Err(self.broken(span, "not YAML: a value is missing")),
        };
        let node = Node { line, kind };
        if anchor != 0 {
            self.weigh(weight(&node), span)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<Node, Broken> {
        let Some(weight) = self.anchors.get(&id).map(weight) else {
            return Err(self.broken(span, "an alias may not stand inside what it names"));
        };
        self.weigh(weight, span)?;
        Ok(self.anchors[&id].clone())
    }

    fn weigh(&mut self, more: usize, span: Span) -> Result<(), Broken> {
        self.weight = self.weight.saturating_add(more);
        if self.weight > LARGEST { Err(self.broken(span, "too large with its aliases put in")) } else { Ok(()) }
    }

    fn list(&mut self, depth: usize) -> Result<Kind, Broken> {
        let mut list = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Kind::List(list)),
                (event, span) => list.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Kind, Broken> {
        let mut entries = Vec::new();
        let mut merged = Vec::new();
        let mut lines = HashMap::new();
        loop {
            let (event, span) = match self.next()? {
                (Event::MappingEnd, _) => break,
                event => event,
            };
            let key = self.key(event, span, depth)?;
            let (event, value_span) = self.next()?;
            let value = self.node(event, value_span, depth + 1)?;
            if key == "<<" {
                merged.push((span, value));
                continue;
            }
            if let Some(first) = lines.insert(key.clone(), self.line(span)) {
                return Err(self.broken(span, format!("key {key:?} is given twice, first in line {first}")));
            }
            entries.push((key, value));
        }
        for (span, source) in merged {
            self.merge(&mut entries, source, span)?;
        }
        Ok(Kind::Map(entries))
    }

    fn key(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<String, Broken> {
        let node = self.node(event, span, depth + 1)?;
        match node.kind {
            Kind::Text(text) | Kind::Plain(text) => Ok(text),
            _ => Err(self.broken(span, "a key must be text, not a list or a mapping")),
        }
    }

    /// `<<`: what the named mappings have and this one has not.
    fn merge(&self, entries: &mut Vec<(String, Node)>, source: Node, span: Span) -> Result<(), Broken> {
        let sources = match source.kind {
            Kind::List(sources) => sources,
            kind => vec![Node { line: source.line, kind }],
        };
        for source in sources {
            let Kind::Map(more) = source.kind else {
                return Err(self.broken(span, "<< merges mappings only"));
            };
            let has: HashSet<String> = entries.iter().map(|(key, _)| key.clone()).collect();
            entries.extend(more.into_iter().filter(|(key, _)| !has.contains(key)));
        }
        Ok(())
    }
}

fn weight(node: &Node) -> usize {
    NODE + match &node.kind {
        Kind::Text(text) | Kind::Plain(text) => text.len(),
        Kind::List(list) => list.iter().map(weight).sum(),
        Kind::Map(entries) => entries.iter().map(|(key, node)| key.len() + weight(node)).sum(),
    }
}
