//! `[events]` of a stream's file: what a payload is, and what is read of it.

use std::path::{Path, PathBuf};

pub use insightera_events::{CHANGE_COLUMNS, CHANGE_TIMESTAMP, FieldKind, FieldSettings, TimeFormat};
use insightera_events::{Decoder, Payloads};
use serde::Serialize;

use super::notifiers::Secret;
use super::pipeline::{check_column, keys_in};
use super::section::{Entry, Located, Section, quoted};
use super::settings::time_zone;
use super::stream::{DAY, SECOND, SECTIONS, named_expressions, span};
use crate::Result;

/// What an event is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventSettings {
    /// What a payload is.
    pub format: EventFormat,
    /// Where its schema is, of formats that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<SchemaSettings>,
    /// The message, of formats that have several in a schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The fields that are read of the payload, in the order of the file.
    pub fields: Vec<FieldSettings>,
    /// Columns that are computed of the fields: name and SQL.
    pub columns: Vec<(String, String)>,
    /// The field with the event's time.
    pub time: String,
    /// The zone of times without one.
    pub time_zone: String,
    /// Which events count, in SQL over the fields.
    pub filter: Option<String>,
    /// Microseconds by which an event may be older than the newest of its
    /// partition.
    pub allowed_lateness: i64,
    /// Microseconds by which an event's time may be after its arrival.
    pub max_future: i64,
    /// Microseconds behind the watermark at which a late event still enters
    /// its window; `None` keeps late events out.
    pub late_grace: Option<i64>,
}

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventFormat {
    /// The event, as JSON.
    Json,
    /// A Debezium change event: the fields are those of the row, after the
    /// change or before a deletion. It is JSON, with its schema beside it or
    /// without; or, where a `schema` is named, a value written by that in Avro.
    Debezium,
    /// A value written by an Avro schema.
    Avro,
    /// A message of Protocol Buffers.
    Protobuf,
}

/// Where the schemas of events are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemaSettings {
    /// All events are written by one, of a file.
    File {
        /// The file.
        #[serde(skip)]
        path: PathBuf,
        /// What it holds.
        #[serde(skip)]
        bytes: Vec<u8>,
        /// Its hash, in hexadecimal.
        hash: String,
    },
    /// Each event names its own, of a registry.
    Registry(SchemaRegistrySettings),
}

/// A schema registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SchemaRegistrySettings {
    /// Its address, or `env:NAME`.
    #[serde(skip)]
    pub url: String,
    /// Who asks.
    #[serde(skip)]
    pub username: Option<String>,
    /// The password, or the secret of a key.
    #[serde(skip)]
    pub password: Option<Secret>,
    /// Certificates that it may be signed by, besides the machine's.
    #[serde(skip)]
    pub ca: Option<PathBuf>,
    /// Microseconds until a request has failed.
    #[serde(skip)]
    pub timeout: i64,
}

const FIELD: &[&str] = &["type", "path", "format"];
const REGISTRY: &[&str] = &["url", "username", "password", "ca", "timeout"];

/// Types of fields.
const TYPES: &[&str] = &["string", "long", "double", "boolean", "timestamp"];

/// Columns that the engine knows of every event.
pub const EVENT_COLUMNS: &[&str] =
    &["event_timestamp", "arrival_timestamp", "source_partition", "source_offset", "window_complete"];

impl EventSettings {
    /// Reads its payloads as JSON; events without a value in `key` are set
    /// aside.
    pub fn decoder(&self, key: &[String]) -> Decoder {
        let Self { fields, time, time_zone, format, .. } = self;
        Decoder::new(Payloads { fields, time, time_zone, key, is_change: *format == EventFormat::Debezium })
    }

    /// The columns of an event: fields, then those of a change, then computed
    /// ones.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let known: &[&str] = if self.format == EventFormat::Debezium { CHANGE_COLUMNS } else { &[] };
        let fields = self.fields.iter().map(|field| field.name.as_str()).chain(known.iter().copied());
        fields.chain(self.columns.iter().map(|(name, _)| name.as_str()))
    }
}

/// `schema = "FILE"` or [events.registry].
fn read_schema(section: &Section<'_>, file: &Path, format: EventFormat) -> Result<Option<SchemaSettings>> {
    let (named, registry) = (section.text("schema")?, section.section("registry")?);
    if let (EventFormat::Json, Some(entry)) = (format, section.find("schema").or_else(|| section.find("registry"))) {
        let formats = "`format = \"avro\"`, `\"debezium\"` or `\"protobuf\"`";
        return Err(section
            .error(&entry.key_span, format!("`{}` goes with {formats}", entry.key))
            .hint("JSON has no schema: leave it out, or name the format"));
    }
    match (named, registry) {
        (None, None) if matches!(format, EventFormat::Json | EventFormat::Debezium) => Ok(None),
        (Some(named), None) => {
            let path = file.parent().unwrap_or(Path::new("")).join(named.value);
            let bytes = std::fs::read(&path).map_err(|error| {
                let shown = path.display();
                section.error(&named.span, format!("the schema `{shown}` cannot be read: {error}")).cause(error)
            })?;
            let hash = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&bytes));
            Ok(Some(SchemaSettings::File { path, bytes, hash }))
        }
        (None, Some(registry)) => {
            registry.allow(REGISTRY, &[])?;
            let url = registry.required_text("url")?.value.to_owned();
            let (username, password) = (registry.text("username")?, registry.text("password")?);
            if let (Some(password), None) = (&password, &username) {
                return Err(registry.error(&password.span, "a password without `username`"));
            }
            Ok(Some(SchemaSettings::Registry(SchemaRegistrySettings {
                url,
                username: username.map(|name| name.value.to_owned()),
                password: password.map(|password| Secret::new(password.value)),
                ca: registry.text("ca")?.map(|ca| file.parent().unwrap_or(Path::new("")).join(ca.value)),
                timeout: span(&registry, "timeout", 1000)?.unwrap_or(10 * SECOND),
            })))
        }
        (Some(named), Some(_)) => {
            Err(section.error(&named.span, "events have `schema` or [events.registry], not both"))
        }
        (None, None) => Err(section
            .error_here("the format of [events] needs a schema")
            .hint("write `schema = \"FILE\"`, or [events.registry] with `url = \"https://…\"`")),
    }
}

/// Reads `[events]`.
pub(super) fn read_events(section: &Section<'_>, file: &Path) -> Result<EventSettings> {
    section.allow(keys_in(SECTIONS, "events"), SECTIONS)?;
    let formats = [
        ("json", EventFormat::Json),
        ("debezium", EventFormat::Debezium),
        ("avro", EventFormat::Avro),
        ("protobuf", EventFormat::Protobuf),
    ];
    let format = section.choice("format", &formats, &[])?.unwrap_or(EventFormat::Json);
    let schema = read_schema(section, file, format)?;
    let message = section.text("message")?;
    match (&message, format, &schema) {
        (Some(message), EventFormat::Json | EventFormat::Debezium | EventFormat::Avro, _) => {
            let error = section.error(&message.span, "`message` goes with `format = \"protobuf\"`");
            return Err(error.hint("leave it out"));
        }
        (None, EventFormat::Protobuf, Some(SchemaSettings::File { .. })) => {
            return Err(section
                .missing("message")
                .hint("name the message of the schema, as in `message = \"campus.Event\"`"));
        }
        _ => {}
    }
    let known: &[&str] = if format == EventFormat::Debezium { CHANGE_COLUMNS } else { &[] };
    let listed = section.required_section("fields")?;
    let mut fields: Vec<FieldSettings> = Vec::new();
    for entry in listed.entries() {
        check_column(&listed, entry.key, &entry.key_span)?;
        if let Some(taken) = EVENT_COLUMNS.iter().chain(known).find(|name| name.eq_ignore_ascii_case(entry.key)) {
            let error = listed.error(&entry.key_span, format!("the engine has a column `{taken}` of its own"));
            return Err(error.hint("give the field another name, and its name in the payload as `path`"));
        }
        if fields.iter().any(|field| field.name.eq_ignore_ascii_case(entry.key)) {
            return Err(listed.error(&entry.key_span, format!("the field `{}` is there already", entry.key)));
        }
        fields.push(read_field(&listed, entry)?);
    }
    if fields.is_empty() {
        return Err(listed.error_here("[events.fields] needs at least one field"));
    }
    let columns = match section.section("columns")? {
        None => Vec::new(),
        Some(columns) => named_expressions(&columns)?,
    };
    let time = section.required_text("time")?;
    let named = fields.iter().find(|field| field.name == time.value);
    match named.map(|field| &field.kind) {
        Some(FieldKind::Timestamp(_)) => {}
        None if format == EventFormat::Debezium && time.value == CHANGE_TIMESTAMP => {}
        Some(_) => {
            let error = section.error(&time.span, format!("the field `{}` is no timestamp", time.value));
            return Err(error.hint("give it `type = \"timestamp\"` and, if it is not ISO 8601, a `format`"));
        }
        None => {
            let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
            let error = section.error(&time.span, format!("there is no field `{}`", time.value.escape_debug()));
            return Err(error.hint(format!("the fields are {}", quoted(&names))));
        }
    }
    Ok(EventSettings {
        format,
        schema,
        message: message.map(|message| message.value.to_owned()),
        time: time.value.to_owned(),
        time_zone: time_zone(section)?.unwrap_or_else(|| "UTC".to_owned()),
        filter: section.text("filter")?.map(|text| text.value.to_owned()),
        allowed_lateness: span(section, "allowed_lateness", 0)?.unwrap_or(DAY),
        max_future: span(section, "max_future", 0)?.unwrap_or(3600 * SECOND),
        late_grace: span(section, "late_grace", 0)?,
        fields,
        columns,
    })
}

/// `name = "type"`, or `name = { type = "…", path = "a.b", format = "…" }`.
fn read_field<'d>(listed: &Section<'d>, entry: &Entry<'d>) -> Result<FieldSettings> {
    let (word, path, format) = if entry.value.is_table() {
        let field = listed.subsection(entry)?;
        field.allow(FIELD, &[])?;
        let path = match field.text("path")? {
            None => vec![entry.key.to_owned()],
            Some(path) if path.value.split('.').any(str::is_empty) => {
                let error = field.error(&path.span, format!("`{}` is not a path", path.value.escape_debug()));
                return Err(error.hint("names with dots between them, as in `event_data.attendance_flag`"));
            }
            Some(path) => path.value.split('.').map(str::to_owned).collect(),
        };
        (field.required_text("type")?, path, field.text("format")?)
    } else {
        (listed.text_of(entry)?, vec![entry.key.to_owned()], None)
    };
    let kind = match word.value {
        "string" => FieldKind::String,
        "long" => FieldKind::Long,
        "double" => FieldKind::Double,
        "boolean" => FieldKind::Boolean,
        "timestamp" => FieldKind::Timestamp(match &format {
            None => TimeFormat::Iso,
            Some(format) => time_format(listed, format)?,
        }),
        other => {
            let error = listed.error(&word.span, format!("`{}` is not the type of a field", other.escape_debug()));
            return Err(error.hint(format!("the types are {}", quoted(TYPES))));
        }
    };
    if let (Some(format), false) = (&format, matches!(kind, FieldKind::Timestamp(_))) {
        return Err(listed.error(&format.span, "only a timestamp has a `format`"));
    }
    Ok(FieldSettings { name: entry.key.to_owned(), kind, path })
}

fn time_format(section: &Section<'_>, text: &Located<&str>) -> Result<TimeFormat> {
    Ok(match text.value {
        "iso" => TimeFormat::Iso,
        "seconds" => TimeFormat::Seconds,
        "milliseconds" => TimeFormat::Milliseconds,
        "microseconds" => TimeFormat::Microseconds,
        pattern => {
            let items: Vec<_> = chrono::format::StrftimeItems::new(pattern).collect();
            if !pattern.contains('%') || items.contains(&chrono::format::Item::Error) {
                let error = section.error(&text.span, format!("`{}` is not a time format", pattern.escape_debug()));
                return Err(error.hint(
                    "`iso`, `seconds`, `milliseconds`, `microseconds`, or a pattern such as `%d/%m/%Y %H:%M:%S`",
                ));
            }
            TimeFormat::Pattern(pattern.to_owned())
        }
    })
}
