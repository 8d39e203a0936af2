//! The schemas that payloads are written by: one of a file, or those of a
//! registry, each named by the payload in Confluent's form: a zero byte, the
//! schema's number in four bytes, then the value.
//!
//! A schema is fetched before the events that name it are read
//! ([`Schemas::learn`]), once in the life of a process: what a number means
//! never changes. A number that the registry has not got makes dead letters; a
//! registry that is away makes the stream wait.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use insightera_events::{Problem, Walk, Written as ReadsPayloads};

use super::avro;
use super::protobuf;
use super::registry::{SchemaRegistry, Written};
use super::source::RawPart;
use crate::config::{EventFormat, EventSettings, SchemaSettings};
use crate::{Error, Result};

/// Bytes before a value that names its schema.
const HEAD: usize = 5;

/// A schema that values can be read by.
#[derive(Debug)]
enum Compiled {
    Avro(avro::Schema),
    Protobuf(protobuf::Schema),
}

/// What is known of a schema's number.
#[derive(Debug, Clone)]
enum Known {
    Schema(Arc<Compiled>),
    /// Why nothing can be read by it.
    Useless(String),
}

/// How payloads are to be read.
#[derive(Debug)]
pub struct Schemas {
    format: EventFormat,
    /// The message that payloads must be.
    message: Option<String>,
    from: Origin,
    /// What payloads have that their schemas have not.
    strange: Mutex<Vec<String>>,
}

#[derive(Debug)]
enum Origin {
    File(Arc<Compiled>),
    Registry(Box<SchemaRegistry>, Mutex<Learned>),
}

#[derive(Debug, Default)]
struct Learned {
    known: HashMap<u32, Known>,
    /// The fields of the newest schema.
    names: BTreeSet<String>,
    news: Vec<String>,
}

impl Schemas {
    /// What a pipeline's events are written by; none for JSON, which Debezium's
    /// are as well unless they have a schema.
    ///
    /// # Errors
    /// When the schema's file is no schema, or the registry's settings are
    /// wrong. No registry is asked.
    pub fn new(file: &Path, events: &EventSettings) -> Result<Option<Self>> {
        let (format, message) = (events.format, events.message.clone());
        let Some(settings) = &events.schema else { return Ok(None) };
        let from = match settings {
            SchemaSettings::File { path, bytes, .. } => {
                let compiled = match format {
                    EventFormat::Protobuf => {
                        let message = message.as_deref().unwrap_or_default();
                        protobuf::Schema::of_file(path, bytes, message).map(Compiled::Protobuf)
                    }
                    _ => std::str::from_utf8(bytes)
                        .map_err(|e| e.to_string())
                        .and_then(|text| compile(format, text, &[], None)),
                };
                let compiled = compiled.map_err(|why| {
                    let (file, shown) = (file.display(), path.display());
                    let what = if format == EventFormat::Debezium { "schema of change events" } else { "schema" };
                    Error::invalid(format!("{file}: [events] schema: `{shown}` is no {what}: {why}"))
                })?;
                Origin::File(Arc::new(compiled))
            }
            SchemaSettings::Registry(settings) => {
                Origin::Registry(Box::new(SchemaRegistry::open(settings)?), Mutex::default())
            }
        };
        Ok(Some(Self { format, message, from, strange: Mutex::default() }))
    }

    /// Learns the schemas of these events, so that they can be read.
    ///
    /// # Errors
    /// As [`SchemaRegistry::schema`].
    pub fn learn_all(&self, parts: &[RawPart]) -> Result<()> {
        parts.iter().try_for_each(|part| (0..part.len()).try_for_each(|index| self.learn(part.payload(index))))
    }

    /// Learns the schema that a payload names.
    ///
    /// # Errors
    /// As [`SchemaRegistry::schema`].
    fn learn(&self, payload: &[u8]) -> Result<()> {
        let (Origin::Registry(registry, learned), Ok((id, _))) = (&self.from, framed(payload)) else { return Ok(()) };
        if lock(learned).known.contains_key(&id) {
            return Ok(());
        }
        let found = registry.schema(id)?;
        let known = match &found {
            None => Known::Useless(format!("the registry has no schema {id}")),
            Some(written) => match self.compiled(written) {
                Ok(compiled) => Known::Schema(Arc::new(compiled)),
                Err(why) => Known::Useless(format!("schema {id} of the registry: {why}")),
            },
        };
        lock(learned).learn(id, known, self.format == EventFormat::Debezium);
        Ok(())
    }

    fn compiled(&self, written: &Written) -> std::result::Result<Compiled, String> {
        let wanted = match self.format {
            EventFormat::Avro | EventFormat::Debezium => "AVRO",
            EventFormat::Protobuf => "PROTOBUF",
            EventFormat::Json => return Err("JSON has no schemas".to_owned()),
        };
        if written.kind != wanted {
            return Err(format!("it is of type {}, and [events] format wants {wanted}", written.kind));
        }
        compile(self.format, &written.text, &written.references, self.message.as_deref())
    }

    /// What is new since it was asked last.
    pub fn news(&self) -> Vec<String> {
        let mut news = std::mem::take(&mut *self.strange.lock().unwrap_or_else(PoisonError::into_inner));
        if let Origin::Registry(_, learned) = &self.from {
            news.append(&mut lock(learned).news);
        }
        news
    }
}

impl ReadsPayloads for Schemas {
    fn read(&self, payload: &[u8], walk: &mut Walk<'_>) -> std::result::Result<(), (Problem, String)> {
        let (compiled, value) = match &self.from {
            Origin::File(compiled) => (compiled.clone(), payload),
            Origin::Registry(_, learned) => {
                let (id, value) = framed(payload).map_err(|why| (Problem::Schema, why))?;
                let known = lock(learned).known.get(&id).cloned();
                match known {
                    Some(Known::Schema(compiled)) => (compiled, value),
                    Some(Known::Useless(why)) => return Err((Problem::Schema, why)),
                    None => return Err((Problem::Schema, format!("schema {id} was not asked for"))),
                }
            }
        };
        match compiled.as_ref() {
            Compiled::Avro(schema) => schema.read(value, walk).map_err(|why| (Problem::Avro, why)),
            Compiled::Protobuf(schema) => {
                let news = schema.read(value, walk).map_err(|why| (Problem::Protobuf, why))?;
                self.strange.lock().unwrap_or_else(PoisonError::into_inner).extend(news);
                Ok(())
            }
        }
    }
}

impl Learned {
    fn learn(&mut self, id: u32, known: Known, is_change: bool) {
        match &known {
            Known::Useless(why) => self.news.push(format!("events are dead letters: {why}")),
            Known::Schema(compiled) => {
                let names = match compiled.as_ref() {
                    Compiled::Avro(schema) => schema.names(is_change),
                    Compiled::Protobuf(schema) => schema.names(),
                };
                let listed = |names: Vec<&String>| match names.is_empty() {
                    true => "none".to_owned(),
                    false => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
                };
                // The first one is no change.
                if self.known.values().any(|known| matches!(known, Known::Schema(_))) {
                    let (new, gone) = (names.difference(&self.names), self.names.difference(&names));
                    self.news.push(format!(
                        "events have another schema now, {id}: new fields {}, without {}",
                        listed(new.collect()),
                        listed(gone.collect())
                    ));
                }
                self.names = names;
            }
        }
        self.known.insert(id, known);
    }
}

fn lock(learned: &Mutex<Learned>) -> MutexGuard<'_, Learned> {
    learned.lock().unwrap_or_else(PoisonError::into_inner)
}

fn compile(
    format: EventFormat,
    text: &str,
    references: &[(String, String)],
    message: Option<&str>,
) -> std::result::Result<Compiled, String> {
    match format {
        EventFormat::Protobuf => protobuf::Schema::of_registry(text, references, message).map(Compiled::Protobuf),
        EventFormat::Avro | EventFormat::Debezium => {
            let references: Vec<String> = references.iter().map(|(_, text)| text.clone()).collect();
            let schema = avro::Schema::new(text, &references)?;
            if format == EventFormat::Debezium {
                schema.check_envelope()?;
            }
            Ok(Compiled::Avro(schema))
        }
        EventFormat::Json => Err("JSON has no schemas".to_owned()),
    }
}

/// The number of a payload's schema, and its value.
fn framed(payload: &[u8]) -> std::result::Result<(u32, &[u8]), String> {
    let Some((head, value)) = payload.split_first_chunk::<HEAD>() else {
        return Err(format!("{} bytes are too few to name a schema", payload.len()));
    };
    let [magic, id @ ..] = *head;
    match magic {
        0 => Ok((u32::from_be_bytes(id), value)),
        other => Err(format!("the payload begins with byte {other}, not with 0 and the number of a schema")),
    }
}

#[cfg(test)]
mod tests;
