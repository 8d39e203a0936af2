//! What is told of a drift.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::look::Kind;
use crate::field::FieldKind;

/// Characters of an example, and of a name.
const LONGEST: usize = 60;

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The partition.
    pub partition: u32,
    /// Its offset there.
    pub offset: i64,
}

/// How events are not what they were, or what was declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A field that is not declared, and that the first events had not.
    NewField,
    /// A field that is not declared, close to a declared one that none has.
    Misspelt,
    /// Something else stands where an object, or a field's kind of value, was
    /// declared.
    OtherKind,
    /// A declared field that has no value any more.
    Gone,
    /// A declared field that had no value before.
    Came,
}

/// Something that was noticed of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// What it is.
    pub change: Change,
    /// The field: names from the outside in, with dots between them.
    pub field: String,
    /// The field that it may be by another name.
    pub near: Option<String>,
    /// What is told.
    pub says: String,
    /// What can be done.
    pub remedy: String,
    /// The value of the first such event, shortened. It is told and not kept:
    /// it may be of somebody who is erased later.
    #[serde(skip)]
    pub example: Option<String>,
    /// The partition of the first such event.
    pub partition: u32,
    /// Its offset there.
    pub offset: i64,
}

impl News {
    pub(super) fn new_field(field: String, near: Option<String>, origin: Origin, example: Option<String>) -> Self {
        let mut says = format!("`{field}` is new in the events, and not declared");
        let remedy = match &near {
            None => "declare it in [events.fields] if it is to be read".to_owned(),
            Some(near) => {
                says.push_str(&format!("; `{near}` is missing there"));
                renamed(near, &field)
            }
        };
        Self::new(Change::NewField, field, near, (says, remedy), origin, example)
    }

    pub(super) fn misspelt(field: String, near: String, origin: Origin, example: Option<String>) -> Self {
        let says = format!("no event so far has `{near}`, and `{field}`, which they have, is not declared");
        let remedy = format!("did you mean `{field}`? {}", renamed(&near, &field));
        Self::new(Change::Misspelt, field, Some(near), (says, remedy), origin, example)
    }

    pub(super) fn other_kind(
        path: &str,
        kind: Kind,
        wanted: Option<&FieldKind>,
        origin: Origin,
        example: Option<String>,
    ) -> Self {
        let field = if path.is_empty() { "the event".to_owned() } else { format!("`{path}`") };
        let found = kind.as_str();
        let (says, remedy) = match (wanted, kind) {
            (Some(wanted), _) => (
                format!("{field} is {found}, not {}: such events are dead letters", words(wanted)),
                "declare in [events.fields] the type that it has now, then `insightera stream replay-dlq`",
            ),
            (None, Kind::Text) => (
                format!("{field} is a string that holds no object: such events are dead letters"),
                "fields below it are read of an object, or of a string that is an object's JSON",
            ),
            (None, _) => (
                format!("{field} is {found}, not an object: the fields below it have no value"),
                "fields below it are read of an object; ask who produces the events, or change their paths",
            ),
        };
        Self::new(Change::OtherKind, path.to_owned(), None, (says, remedy.to_owned()), origin, example)
    }

    pub(super) fn gone(field: &str, near: Option<String>, origin: Origin, events: u64) -> Self {
        let says = format!("`{field}` has no value any more, in none of {events} events; most had one");
        let remedy = match &near {
            None => "what is computed of it is null; ask who produces the events".to_owned(),
            Some(near) => format!("what is computed of it is null; did you mean `{near}`? {}", renamed(field, near)),
        };
        Self::new(Change::Gone, field.to_owned(), near, (says, remedy), origin, None)
    }

    pub(super) fn came(field: &str, origin: Origin) -> Self {
        let says = format!("`{field}` has values in most events now, and had none before");
        let remedy = "a model that was trained without them may have to be trained again".to_owned();
        Self::new(Change::Came, field.to_owned(), None, (says, remedy), origin, None)
    }

    fn new(
        change: Change,
        field: String,
        near: Option<String>,
        (says, remedy): (String, String),
        Origin { partition, offset }: Origin,
        example: Option<String>,
    ) -> Self {
        Self { change, field, near, says, remedy, example, partition, offset }
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (first at partition {}, offset {}", self.says, self.partition, self.offset)?;
        if let Some(example) = &self.example {
            write!(f, ", as {example}")?;
        }
        write!(f, "); hint: {}", self.remedy)
    }
}

fn renamed(from: &str, to: &str) -> String {
    format!("if `{from}` is called so now, make `{to}` its `path` in [events.fields]")
}

fn words(kind: &FieldKind) -> &'static str {
    match kind {
        FieldKind::String => "a string",
        FieldKind::Long | FieldKind::Double => "a number",
        FieldKind::Boolean => "true or false",
        FieldKind::Timestamp(_) => "a time of the declared format",
    }
}

/// A name below a path.
pub(super) fn path(parent: &str, name: &str) -> String {
    let name = shortened(&name.escape_debug().to_string());
    if parent.is_empty() { name } else { format!("{parent}.{name}") }
}

/// The beginning of a text, in one line.
pub(super) fn shortened(text: &str) -> String {
    let mut start: String =
        text.chars().take(LONGEST).map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if text.chars().nth(LONGEST).is_some() {
        start.push('…');
    }
    start
}
