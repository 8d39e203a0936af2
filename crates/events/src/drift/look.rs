//! A close look at one event.

use crate::cells::{Layout, Node};
use crate::field::{FieldKind, TimeFormat};
use crate::json::{self, Next, Reader, Scalar};

use super::news::shortened;

/// What a value is. Null is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    Text,
    Number,
    Boolean,
}

impl Kind {
    /// Its words.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Object => "an object",
            Self::Array => "an array",
            Self::Text => "a string",
            Self::Number => "a number",
            Self::Boolean => "true or false",
        }
    }
}

/// What an event has.
#[derive(Debug)]
pub(super) struct Seen {
    /// By place: whether it has a value there.
    pub(super) there: Vec<bool>,
    /// Names that are neither declared nor known: the place that they are in,
    /// and their value's text.
    pub(super) names: Vec<(usize, String, String)>,
    /// Values of a kind that is not read at their place, and their text.
    pub(super) others: Vec<(usize, Kind, String)>,
}

/// Walks an event.
pub(super) struct Look<'a> {
    layout: &'a Layout,
    /// Whether a name at a place is known.
    knows: &'a dyn Fn(usize, &str) -> bool,
    seen: Seen,
}

impl<'a> Look<'a> {
    /// What the event `text` has; `None` when it is not JSON.
    pub(super) fn at(layout: &'a Layout, knows: &'a dyn Fn(usize, &str) -> bool, text: &str) -> Option<Seen> {
        let there = vec![false; layout.nodes.len()];
        let mut look = Look { layout, knows, seen: Seen { there, names: Vec::new(), others: Vec::new() } };
        let mut json = Reader::new(text);
        look.value(0, &mut json).and_then(|()| json.end()).ok()?;
        Some(look.seen)
    }

    fn value(&mut self, at: usize, json: &mut Reader<'_>) -> json::Result<()> {
        let next = json.peek()?;
        let from = json.at();
        let mut holds_object = false;
        let kind = match next {
            Next::Object => {
                self.object(at, json)?;
                Kind::Object
            }
            Next::Array => {
                json.skip()?;
                Kind::Array
            }
            Next::String => {
                let text = json.string()?;
                holds_object = self.object_in_string(at, &text);
                Kind::Text
            }
            Next::Scalar => match json.scalar()? {
                Scalar::Null => return Ok(()),
                Scalar::Boolean(_) => Kind::Boolean,
                Scalar::Whole(_) | Scalar::Number(_) => Kind::Number,
            },
        };
        self.seen.there[at] = true;
        if !holds_object && !self.is_read(&self.layout.nodes[at], kind) {
            self.seen.others.push((at, kind, shortened(json.since(from))));
        }
        Ok(())
    }

    fn object(&mut self, at: usize, json: &mut Reader<'_>) -> json::Result<()> {
        let mut more = json.enter()?;
        while more {
            let name = json.name()?;
            let children = &self.layout.nodes[at].children;
            match children.iter().find(|(child, _)| *child == name) {
                Some((_, child)) => self.value(*child, json)?,
                None => {
                    json.peek()?;
                    let from = json.at();
                    json.skip()?;
                    if !(self.knows)(at, &name) {
                        self.seen.names.push((at, name.into_owned(), shortened(json.since(from))));
                    }
                }
            }
            more = json.more(b'}')?;
        }
        Ok(())
    }

    /// Whether a string is an object's JSON, where one is looked for.
    fn object_in_string(&mut self, at: usize, text: &str) -> bool {
        if self.layout.nodes[at].children.is_empty() {
            return false;
        }
        let (names, others) = (self.seen.names.len(), self.seen.others.len());
        let mut inner = Reader::new(text);
        let is_object =
            inner.peek() == Ok(Next::Object) && self.object(at, &mut inner).and_then(|()| inner.end()).is_ok();
        if !is_object {
            self.seen.names.truncate(names);
            self.seen.others.truncate(others);
        }
        is_object
    }

    /// Whether a value of this kind is read there: by the fields, or, where
    /// there are only fields below, as an object.
    fn is_read(&self, node: &Node, kind: Kind) -> bool {
        if node.fields.is_empty() {
            return kind == Kind::Object;
        }
        node.fields.iter().all(|field| match &self.layout.wanted[*field].kind {
            FieldKind::String => kind == Kind::Text,
            FieldKind::Long | FieldKind::Double => kind == Kind::Number,
            FieldKind::Boolean => kind == Kind::Boolean,
            FieldKind::Timestamp(TimeFormat::Iso | TimeFormat::Pattern(_)) => kind == Kind::Text,
            FieldKind::Timestamp(_) => kind == Kind::Number || kind == Kind::Text,
        })
    }
}
