//! `pipelines/NAME.toml` with `kind = "stream"`.

use std::path::{Path, PathBuf};

use insightera_core::validate_name;
use serde::Serialize;

use super::document::Document;
use super::events::{EventFormat, EventSettings, read_events};
use super::live::{LiveSettings, read_live};
use super::pipeline::{ModelRef, Output, check_column, keys_in, read_entity, read_model, read_output, read_sql};
use super::section::{Entry, Located, Section, quoted};
use super::settings::{parse_bytes, split_table, time_zone};
use super::source::{SOURCE_TOPIC, SourceSettings, check_partition_key, read_source};
use crate::Result;

/// A configured stream: events in, a prediction for each of them out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StreamPipeline {
    /// The file's name without `.toml`.
    pub name: String,
    /// The file.
    pub file: PathBuf,
    /// What it is for.
    pub description: Option<String>,
    /// Where events come from.
    pub source: SourceSettings,
    /// What an event is.
    pub events: EventSettings,
    /// The columns that say what a prediction is about; at least one.
    pub entity_key: Vec<String>,
    /// Windows over the events, in the order of the file.
    pub windows: Vec<WindowSettings>,
    /// Features from the lake.
    pub join: Option<JoinSettings>,
    /// Further inputs of the model, made of all columns before: name and SQL.
    pub features: Vec<(String, String)>,
    /// What scores; `None` is a rule in SQL.
    pub model: Option<ModelRef>,
    /// What comes out.
    pub output: Output,
    /// Where predictions are sent to as they are made.
    pub live: Option<LiveSettings>,
    /// Rows that somebody should know of.
    pub alerts: Vec<AlertSettings>,
    /// How it runs.
    pub stream: StreamSettings,
}

/// One window and its aggregates.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WindowSettings {
    /// Its name, for messages.
    pub name: String,
    /// The window.
    pub window: insightera_core::stream::Window,
    /// The columns by which it is kept.
    pub key: Vec<String>,
    /// Column name and aggregate in SQL, in the order of the file.
    pub columns: Vec<(String, String)>,
}

/// Features from the lake, looked up by key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JoinSettings {
    /// The text of the query.
    pub sql: String,
    /// The file the text came from, if it is not inline.
    pub sql_file: Option<PathBuf>,
    /// Columns of the query and of the event.
    pub key: Vec<String>,
    /// Microseconds between two looks for newer snapshots.
    pub refresh: i64,
    /// The zone of inputs without one.
    pub time_zone: String,
}

/// Rows that somebody should know of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AlertSettings {
    /// Its name.
    pub name: String,
    /// Which rows, in SQL over the output columns.
    pub when: String,
    /// Only the first row of an entity, until one is not of them.
    pub on_change: bool,
    /// The table they are written to: namespace and name.
    pub table: (String, String),
    /// Who is told, by name.
    pub notify: Vec<String>,
}

/// How a stream runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamSettings {
    /// When rows are made.
    pub emit: Emit,
    /// Microseconds without events after which closing windows do not wait for
    /// a partition any more.
    pub idle_after: i64,
    /// Microseconds after which a row is in its table, where the disk allows.
    pub freshness: i64,
    /// Rows after which a commit begins whatever the time.
    pub max_rows: usize,
    /// Data files that commits may make in an hour; where they would make more,
    /// they are rarer than `freshness` wants them.
    pub files_per_hour: u32,
    /// The bound on the window state of one partition, in bytes.
    pub max_state_bytes: u64,
    /// Where events go that cannot be read.
    pub dead_letters: (String, String),
    /// Where late events go.
    pub late_events: (String, String),
}

/// When rows are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Emit {
    /// At every event.
    EachEvent,
    /// When a window has closed: a row for each of its keys.
    OnClose,
}

/// The keys of a stream's file.
pub(super) const SECTIONS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "kind",
            "description",
            "source",
            "events",
            "entity",
            "windows",
            "join",
            "features",
            "model",
            "output",
            "live",
            "alerts",
            "stream",
        ],
    ),
    ("source", &["files", "topic", "topics", "kafka", "partition_key", "start"]),
    (
        "events",
        &[
            "format",
            "schema",
            "message",
            "registry",
            "fields",
            "columns",
            "time",
            "time_zone",
            "filter",
            "allowed_lateness",
            "max_future",
            "late_grace",
        ],
    ),
    ("join", &["sql", "sql_file", "key", "refresh", "time_zone"]),
    ("features", &["columns"]),
    ("live", &["topic", "kafka", "url", "timeout"]),
    (
        "stream",
        &["emit", "idle_after", "freshness", "max_rows", "files_per_hour", "max_state", "dead_letters", "late_events"],
    ),
];
const WINDOW: &[&str] = &["rolling", "tumbling", "hopping", "key", "columns"];
const ALERT: &[&str] = &["when", "on_change", "table", "notify"];

/// Microseconds.
pub(super) const SECOND: i64 = 1_000_000;
/// Microseconds.
pub(super) const DAY: i64 = 86_400 * SECOND;

impl StreamPipeline {
    /// Reads the stream `name` from a parsed file.
    pub(super) fn read(name: &str, file: &Path, document: &Document, top: &Section<'_>) -> Result<Self> {
        top.allow(keys_in(SECTIONS, ""), SECTIONS)?;
        let entity = top.required_section("entity")?;
        let key = read_entity(&entity)?;
        let events = read_events(&top.required_section("events")?, file)?;
        for column in &key {
            let names: Vec<&str> = events.names().collect();
            if !names.contains(&column.value) {
                let message = format!("the key column `{}` is not among the event's", column.value.escape_debug());
                let hint = format!("the columns of [events] are {}", quoted(&names));
                return Err(entity.error(&column.span, message).hint(hint));
            }
        }
        let entity_key: Vec<String> = key.iter().map(|column| column.value.to_owned()).collect();
        let windows = read_windows(top, &entity_key, &events)?;
        let join = top.section("join")?.map(|join| read_join(&join, &events, file, document)).transpose()?;
        let features = match top.section("features")? {
            None => Vec::new(),
            Some(section) => {
                section.allow(keys_in(SECTIONS, "features"), SECTIONS)?;
                named_expressions(&section.required_section("columns")?)?
            }
        };
        let model = match top.section("model")? {
            None => None,
            Some(section) => {
                let model = read_model(&section)?;
                if let (Some(_), Some(entry)) = (&model.explain, section.find("explain")) {
                    let error = section.error(&entry.key_span, "`explain` is not supported yet by streams");
                    return Err(error.hint("leave it out, or explain in a batch pipeline"));
                }
                Some(model)
            }
        };
        let stream = read_stream(top, name)?;
        if windows.is_empty() {
            refuse_lateness(top)?;
        }
        let alerts = read_alerts(top)?;
        let live = top.section("live")?.map(|section| read_live(&section, stream.emit)).transpose()?;
        let source = read_source(&top.required_section("source")?, &events)?;
        if let (SourceSettings::Files { .. }, Some(_)) = (&source, &events.schema) {
            let (what, remedy) = match events.format {
                EventFormat::Debezium => ("change events with a schema are Avro", "leave the schema out"),
                _ => ("[events] format is another one", "write the events as JSON"),
            };
            let error = top.error_here(format!("[source] files are lines of JSON, and {what}"));
            return Err(error.hint(format!("read a topic, or {remedy}")));
        }
        if let (Some(_), Some(name)) =
            (source.listed(), events.names().find(|name| name.eq_ignore_ascii_case(SOURCE_TOPIC)))
        {
            let error =
                top.error_here(format!("with `topics` in [source] the engine has a column `{name}` of its own"));
            return Err(error.hint("give the column of [events] another name"));
        }
        check_partition_key(top, &source, &entity_key, &windows, &alerts, stream.emit)?;
        if stream.emit == Emit::OnClose {
            check_on_close(top, &entity_key, &windows, &events)?;
            if let Some(alert) = alerts.iter().find(|alert| alert.on_change) {
                let error = top.error_here(format!("[alerts.{}] on_change is about single events", alert.name));
                return Err(error.hint("leave it out with `emit = \"on_close\"`: a window has one row"));
            }
        }
        Ok(Self {
            name: name.to_owned(),
            file: file.to_owned(),
            description: top.text("description")?.map(|text| text.value.to_owned()),
            source,
            windows,
            join,
            features,
            model,
            output: read_output(&top.required_section("output")?, &entity, &key)?,
            live,
            alerts,
            stream,
            events,
            entity_key,
        })
    }
}

impl StreamPipeline {
    /// Whether several processes may share the partitions out: nothing is
    /// remembered of one event for another, or the events of a key are all in
    /// one partition.
    pub fn is_shareable(&self) -> bool {
        let SourceSettings::Kafka { partition_key, .. } = &self.source else { return false };
        let remembers = !self.windows.is_empty() || self.alerts.iter().any(|alert| alert.on_change);
        self.stream.emit == Emit::EachEvent && (!remembers || !partition_key.is_empty())
    }
}

/// Nothing is late for windows that are not there.
fn refuse_lateness(top: &Section<'_>) -> Result<()> {
    for (section, keys) in [("events", ["allowed_lateness", "late_grace"].as_slice()), ("stream", &["late_events"])] {
        let Some(section) = top.section(section)? else { continue };
        if let Some((key, entry)) = keys.iter().find_map(|key| Some((key, section.find(key)?))) {
            let error = section.error(&entry.key_span, format!("`{key}` is about windows, and there are no [windows]"));
            return Err(error.hint("leave it out: without windows every event is predicted, however late it is"));
        }
    }
    Ok(())
}

fn read_windows(top: &Section<'_>, entity: &[String], events: &EventSettings) -> Result<Vec<WindowSettings>> {
    let Some(all) = top.section("windows")? else { return Ok(Vec::new()) };
    let mut windows: Vec<WindowSettings> = Vec::new();
    for entry in all.entries() {
        let section = all.subsection(entry)?;
        section.allow(WINDOW, SECTIONS)?;
        let key = match section.text_list("key")? {
            None => entity.to_vec(),
            Some(columns) => key_columns(&section, "key", &columns, events)?,
        };
        let columns = named_expressions(&section.required_section("columns")?)?;
        windows.push(WindowSettings { name: entry.key.to_owned(), window: read_window(&section)?, key, columns });
    }
    Ok(windows)
}

/// What `emit = "on_close"` needs: one window, kept by the entity, and events
/// that come too late for it set aside.
fn check_on_close(
    top: &Section<'_>,
    entity: &[String],
    windows: &[WindowSettings],
    events: &EventSettings,
) -> Result<()> {
    let [window] = windows else {
        let error = top.error_here(format!("`emit = \"on_close\"` needs one window, and here are {}", windows.len()));
        return Err(error.hint("write a stream for each window: a row is about one of them"));
    };
    if window.key != entity {
        let error = top.error_here(format!(
            "with `emit = \"on_close\"` a row is about a key of the window `{}`, {}, and the entity is {}",
            window.name,
            quoted(&window.key.iter().map(String::as_str).collect::<Vec<_>>()),
            quoted(&entity.iter().map(String::as_str).collect::<Vec<_>>())
        ));
        return Err(error.hint("make [entity] key and the window's key the same"));
    }
    if events.late_grace.is_some() {
        let error = top.error_here("`late_grace` puts late events into windows that were emitted already");
        return Err(error.hint("leave it out with `emit = \"on_close\"`: late events go to their table"));
    }
    Ok(())
}

pub(super) fn key_columns(
    section: &Section<'_>,
    name: &str,
    columns: &[Located<&str>],
    events: &EventSettings,
) -> Result<Vec<String>> {
    if columns.is_empty() {
        return Err(section.error_here(format!("`{name}` needs at least one column")));
    }
    for column in columns {
        let names: Vec<&str> = events.names().collect();
        if !names.contains(&column.value) {
            let message = format!("`{name}` names `{}`, which is not among the event's", column.value.escape_debug());
            let hint = format!("the columns of [events] are {}", quoted(&names));
            return Err(section.error(&column.span, message).hint(hint));
        }
    }
    Ok(columns.iter().map(|column| column.value.to_owned()).collect())
}

fn read_window(section: &Section<'_>) -> Result<insightera_core::stream::Window> {
    use insightera_core::stream::Window;
    let kinds = ["rolling", "tumbling", "hopping"];
    let found: Vec<&Entry<'_>> = kinds.iter().filter_map(|kind| section.find(kind)).collect();
    let [entry] = found.as_slice() else {
        let error = section.error_here("a window is one of `rolling`, `tumbling` and `hopping`");
        return Err(error.hint("for example `rolling = { tile = \"1 day\", tiles = 7 }`"));
    };
    let parts = section.subsection(entry)?;
    let needed = |key: &str| -> Result<i64> { span(&parts, key, 1)?.ok_or_else(|| parts.missing(key)) };
    Ok(match entry.key {
        "rolling" => {
            parts.allow(&["tile", "tiles", "offset"], &[])?;
            let tiles = parts.integer("tiles", 1..=1 << 20)?.ok_or_else(|| parts.missing("tiles"))?.value as i64;
            Window::Rolling { tile: needed("tile")?, tiles, offset: span(&parts, "offset", 0)?.unwrap_or(0) }
        }
        "tumbling" => {
            parts.allow(&["size", "offset"], &[])?;
            Window::Tumbling { size: needed("size")?, offset: span(&parts, "offset", 0)?.unwrap_or(0) }
        }
        _ => {
            parts.allow(&["size", "slide", "offset"], &[])?;
            let (size, slide) = (needed("size")?, needed("slide")?);
            Window::Hopping { size, slide, offset: span(&parts, "offset", 0)?.unwrap_or(0) }
        }
    })
}

fn read_join(section: &Section<'_>, events: &EventSettings, file: &Path, document: &Document) -> Result<JoinSettings> {
    section.allow(keys_in(SECTIONS, "join"), SECTIONS)?;
    let (sql, sql_file) = read_sql(section, file, document)?;
    let key = section.text_list("key")?.ok_or_else(|| section.missing("key"))?;
    Ok(JoinSettings {
        sql,
        sql_file,
        key: key_columns(section, "key", &key, events)?,
        refresh: span(section, "refresh", 1)?.unwrap_or(60 * SECOND),
        time_zone: time_zone(section)?.unwrap_or_else(|| "UTC".to_owned()),
    })
}

fn read_alerts(top: &Section<'_>) -> Result<Vec<AlertSettings>> {
    let Some(all) = top.section("alerts")? else { return Ok(Vec::new()) };
    let mut alerts = Vec::new();
    for entry in all.entries() {
        validate_name("alert", entry.key).map_err(|error| all.error(&entry.key_span, error.to_string()))?;
        let section = all.subsection(entry)?;
        section.allow(ALERT, SECTIONS)?;
        let table = section.required_text("table")?;
        let on_change = match section.find("on_change") {
            None => false,
            Some(entry) => entry.value.as_bool().ok_or_else(|| section.wrong_type(entry, "true or false"))?,
        };
        alerts.push(AlertSettings {
            name: entry.key.to_owned(),
            when: section.required_text("when")?.value.to_owned(),
            on_change,
            table: split_table(table.value).map_err(|message| section.error(&table.span, message))?,
            notify: section.text_list("notify")?.unwrap_or_default().iter().map(|name| name.value.to_owned()).collect(),
        });
    }
    Ok(alerts)
}

fn read_stream(top: &Section<'_>, name: &str) -> Result<StreamSettings> {
    let beside = |what: &str| ("ml_monitoring".to_owned(), format!("{}_{what}", name.replace(['-', '.'], "_")));
    let mut settings = StreamSettings {
        emit: Emit::EachEvent,
        idle_after: 60 * SECOND,
        freshness: 10 * SECOND,
        max_rows: 1_000_000,
        files_per_hour: 36_000,
        max_state_bytes: 1 << 30,
        dead_letters: beside("dead_letters"),
        late_events: beside("late_events"),
    };
    let Some(section) = top.section("stream")? else { return Ok(settings) };
    section.allow(keys_in(SECTIONS, "stream"), SECTIONS)?;
    let modes = [("each_event", Emit::EachEvent), ("on_close", Emit::OnClose)];
    if let Some(emit) = section.choice("emit", &modes, &[])? {
        settings.emit = emit;
    }
    if let Some(idle_after) = span(&section, "idle_after", SECOND)? {
        if let (Emit::EachEvent, Some(entry)) = (settings.emit, section.find("idle_after")) {
            let error = section.error(&entry.key_span, "`idle_after` is about windows that close");
            return Err(error.hint("it goes with `emit = \"on_close\"`; leave it out"));
        }
        settings.idle_after = idle_after;
    }
    if let Some(freshness) = span(&section, "freshness", SECOND / 10)? {
        settings.freshness = freshness;
    }
    if let Some(rows) = section.integer("max_rows", 1..=100_000_000)? {
        settings.max_rows = rows.value as usize;
    }
    if let Some(files) = section.integer("files_per_hour", 1..=10_000_000)? {
        settings.files_per_hour = files.value as u32;
    }
    if let Some(text) = section.text("max_state")? {
        settings.max_state_bytes = parse_bytes(text.value)
            .map_err(|error| section.error(&text.span, error.to_string()).hint("write it as `512MB` or `2GiB`"))?;
    }
    for (key, table) in [("dead_letters", &mut settings.dead_letters), ("late_events", &mut settings.late_events)] {
        if let Some(text) = section.text(key)? {
            *table = split_table(text.value).map_err(|message| section.error(&text.span, message))?;
        }
    }
    Ok(settings)
}

/// Names and SQL expressions, in the order of the file.
pub(super) fn named_expressions(section: &Section<'_>) -> Result<Vec<(String, String)>> {
    let mut columns: Vec<(String, String)> = Vec::new();
    for entry in section.entries() {
        check_column(section, entry.key, &entry.key_span)?;
        if columns.iter().any(|(name, _)| name.eq_ignore_ascii_case(entry.key)) {
            return Err(section.error(&entry.key_span, format!("the column `{}` is there already", entry.key)));
        }
        if !entry.value.is_str() {
            return Err(section.wrong_type(entry, "an SQL expression in quotes"));
        }
        columns.push((entry.key.to_owned(), section.text_of(entry)?.value.to_owned()));
    }
    if columns.is_empty() {
        return Err(section.error_here("this section needs at least one column"));
    }
    Ok(columns)
}

/// A span of time such as `7 days`, in microseconds.
pub(super) fn span(section: &Section<'_>, key: &str, least: i64) -> Result<Option<i64>> {
    let Some(text) = section.text(key)? else { return Ok(None) };
    match parse_span(text.value).filter(|span| *span >= least) {
        Some(span) => Ok(Some(span)),
        None => {
            let message = format!("`{}` is not a span of time for `{key}`", text.value.escape_debug());
            let hint = "a number and a unit, as in `500 ms`, `10 seconds`, `5 minutes`, `2 hours`, `7 days`";
            Err(section.error(&text.span, message).hint(hint))
        }
    }
}

fn parse_span(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim() {
        "ms" | "millisecond" | "milliseconds" => 1_000,
        "s" | "second" | "seconds" => SECOND,
        "m" | "minute" | "minutes" => 60 * SECOND,
        "h" | "hour" | "hours" => 3600 * SECOND,
        "d" | "day" | "days" => DAY,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_number_and_a_unit() {
        assert_eq!(parse_span("7 days"), Some(7 * DAY));
        assert_eq!(parse_span("500ms"), Some(500_000));
        assert_eq!(parse_span(" 1 h "), Some(3_600_000_000));
        for wrong in ["", "7", "days", "-1 day", "1.5 h", "7 weeks", "9223372036854775807 days"] {
            assert_eq!(parse_span(wrong), None, "{wrong}");
        }
    }
}
