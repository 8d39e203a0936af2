//! `[source]` of a stream's file: where events come from, and where a topic is
//! begun.

use std::collections::BTreeMap;

use chrono::DateTime;
use serde::Serialize;

use super::events::EventSettings;
use super::pipeline::keys_in;
use super::section::{Located, Section, quoted};
use super::stream::{AlertSettings, Emit, SECTIONS, WindowSettings, key_columns};
use crate::Result;

/// Where events come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SourceSettings {
    /// A file of lines of JSON, or a folder of such files, read as they grow.
    Files {
        /// As the pipeline's file has it, relative to the project.
        path: String,
    },
    /// Kafka topics.
    Kafka {
        /// The topics, mostly one, in the order of the file: the partitions of
        /// each have their numbers by its place.
        topics: Vec<String>,
        /// Whether they are a list, if only of one: then an event says which
        /// topic it is of.
        is_list: bool,
        /// The client's options by librdkafka's names.
        options: BTreeMap<String, String>,
        /// The columns whose values decide an event's topic and partition;
        /// empty when nothing is known of them.
        partition_key: Vec<String>,
        /// Where a topic is begun.
        start: Start,
    },
}

/// The partitions of a topic have numbers from its place in the list times this
/// on.
pub const PARTITIONS_OF_A_TOPIC: u32 = 1 << 16;

/// More topics than this are refused: a partition's number fits the tables'
/// 32 bits.
const MOST_TOPICS: usize = 1000;

/// The column of events that says which topic of a list they are of.
pub const SOURCE_TOPIC: &str = "source_topic";

impl SourceSettings {
    /// The topics of a list, which events are told apart by.
    pub fn listed(&self) -> Option<&[String]> {
        match self {
            Self::Kafka { topics, is_list: true, .. } => Some(topics),
            Self::Kafka { .. } | Self::Files { .. } => None,
        }
    }

    /// What a person calls a partition: `topic/3` of topics of a list, else its
    /// number.
    pub fn partition_name(&self, partition: u32) -> String {
        let topic = self.listed().and_then(|topics| topics.get((partition / PARTITIONS_OF_A_TOPIC) as usize));
        match topic {
            Some(topic) => format!("{topic}/{}", partition % PARTITIONS_OF_A_TOPIC),
            None => partition.to_string(),
        }
    }
}

/// Where a stream begins a topic of which its table has no positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// At the first event that is there.
    #[default]
    Earliest,
    /// Behind the last one.
    Latest,
    /// At the first event whose timestamp in Kafka is not before this time,
    /// microseconds since the epoch; behind the last one when there is none.
    Time(i64),
}

/// Reads `[source]`.
pub(super) fn read_source(section: &Section<'_>, events: &EventSettings) -> Result<SourceSettings> {
    section.allow(keys_in(SECTIONS, "source"), SECTIONS)?;
    let files = section.text("files")?;
    match (files, read_topics(section)?) {
        (Some(path), None) => {
            for key in ["kafka", "partition_key", "start"] {
                if let Some(entry) = section.find(key) {
                    return Err(section.error(&entry.key_span, format!("`{key}` goes with `topic`, not with `files`")));
                }
            }
            Ok(SourceSettings::Files { path: path.value.to_owned() })
        }
        (None, Some((topics, is_list))) => {
            let options = read_options(section)?;
            let partition_key = match section.text_list("partition_key")? {
                None => Vec::new(),
                Some(columns) => key_columns(section, "partition_key", &columns, events)?,
            };
            let start = section.text("start")?.map(|text| read_start(section, &text)).transpose()?.unwrap_or_default();
            let topics = topics.into_iter().map(|topic| topic.value.to_owned()).collect();
            Ok(SourceSettings::Kafka { topics, is_list, options, partition_key, start })
        }
        (Some(_), Some((topics, is_list))) => {
            let key = if is_list { "topics" } else { "topic" };
            Err(section.error(&topics[0].span, format!("a source has `files` or `{key}`, not both")))
        }
        (None, None) => Err(section
            .error_here("[source] names no source")
            .hint("write `files = \"FILE or FOLDER\"`, or `topic = \"NAME\"` with [source.kafka]")),
    }
}

/// Topics, and whether they are written as a list.
type Topics<'d> = (Vec<Located<&'d str>>, bool);

/// `topic` or `topics`; there is at least one.
fn read_topics<'d>(section: &Section<'d>) -> Result<Option<Topics<'d>>> {
    let (one, list, entry) = (section.text("topic")?, section.text_list("topics")?, section.find("topics"));
    let (topics, entry) = match (one, list.zip(entry)) {
        (None, None) => return Ok(None),
        (Some(topic), None) => return Ok(Some((vec![topic], false))),
        (Some(topic), Some(_)) => {
            return Err(section
                .error(&topic.span, "a source has `topic` or `topics`, not both")
                .hint("name all of them in `topics`; to go on where a table is, with the one of `topic` first"));
        }
        (None, Some(listed)) => listed,
    };
    if topics.is_empty() || topics.len() > MOST_TOPICS {
        let message = format!("`topics` must name 1 to {MOST_TOPICS} topics, found {}", topics.len());
        return Err(section.error(&entry.span, message).hint("write `topics = [\"a\", \"b\"]`"));
    }
    let allowed = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if let Some(topic) = topics.iter().find(|topic| !allowed(topic.value)) {
        let message = format!("`{}` is not the name of a topic", topic.value.escape_debug());
        return Err(section.error(&topic.span, message).hint("Kafka's topics have letters, digits, `.`, `_` and `-`"));
    }
    Ok(Some((topics, true)))
}

/// `"earliest"`, `"latest"` or a time with its zone.
fn read_start(section: &Section<'_>, text: &Located<&str>) -> Result<Start> {
    match text.value {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        time => match DateTime::parse_from_rfc3339(time) {
            Ok(time) => Ok(Start::Time(time.timestamp_micros())),
            Err(_) => {
                let message = format!("`{}` is not where a topic can be begun", time.escape_debug());
                let hint = "write `start = \"earliest\"`, `\"latest\"`, or a time with its zone, as in \
                            `\"2026-01-31T00:00:00Z\"` or `\"2026-01-31T07:00:00+07:00\"`";
                Err(section.error(&text.span, message).hint(hint))
            }
        },
    }
}

/// [source.kafka] or [live.kafka]: options of the client.
pub(super) fn read_options(section: &Section<'_>) -> Result<BTreeMap<String, String>> {
    let kafka = section.required_section("kafka").map_err(|error| {
        error.hint("add a section with the line `\"bootstrap.servers\" = \"HOST:PORT\"`, as in [source.kafka]")
    })?;
    let mut options = BTreeMap::new();
    for entry in kafka.entries() {
        if entry.value.is_table() {
            let error = kafka.error(&entry.key_span, format!("`{}` is not in quotes", entry.key));
            return Err(error.hint("write an option as `\"bootstrap.servers\" = \"localhost:9092\"`"));
        }
        let text = match (entry.value.as_bool(), entry.value.as_integer()) {
            (Some(value), _) => value.to_string(),
            (None, Some(integer)) if integer.radix() == 10 => integer.as_str().to_owned(),
            _ => kafka.text_of(entry)?.value.to_owned(),
        };
        options.insert(entry.key.to_owned(), text);
    }
    if !options.contains_key("bootstrap.servers") {
        return Err(kafka
            .missing("bootstrap.servers")
            .hint("add the line `\"bootstrap.servers\" = \"HOST:PORT\"`, quotes included"));
    }
    Ok(options)
}

/// Events of one key of a window must be in one partition: its key has all
/// columns of the partition key. Of several topics that must be said: an event
/// of another topic is mostly of the same keys. Windows that close take a key
/// from several partitions.
pub(super) fn check_partition_key(
    top: &Section<'_>,
    source: &SourceSettings,
    entity: &[String],
    windows: &[WindowSettings],
    alerts: &[AlertSettings],
    emit: Emit,
) -> Result<()> {
    let SourceSettings::Kafka { topics, partition_key, .. } = source else { return Ok(()) };
    if topics.len() > 1 && partition_key.is_empty() && emit == Emit::EachEvent {
        let window = windows.first().map(|window| format!("the window `{}` is kept by key", window.name));
        let on_change = || alerts.iter().find(|alert| alert.on_change);
        let needs = window.or_else(|| Some(format!("[alerts.{}] on_change is about an entity", on_change()?.name)));
        if let Some(needs) = needs {
            let error = top.error_here(format!(
                "{needs}, and nothing says that all events of one are in one partition of one of the topics"
            ));
            return Err(error.hint(
                "if they are, add to [source] partition_key = [\"COLUMN\", …], what decides the topic and the partition \
                 of an event; if not, read one topic, or count by windows that close (`emit = \"on_close\"`), which \
                 take a key from several",
            ));
        }
    }
    let missing = |key: &[String]| partition_key.iter().find(|column| !key.contains(column)).cloned();
    let quoted_of = |key: &[String]| quoted(&key.iter().map(String::as_str).collect::<Vec<_>>());
    for window in windows {
        if let Some(column) = missing(&window.key) {
            let error = top.error_here(format!(
                "the window `{}` is by {}, without `{column}` of [source] partition_key, so the events of one of its \
                 keys are in several partitions",
                window.name,
                quoted_of(&window.key)
            ));
            return Err(error.hint(format!(
                "add `{column}` to the window's key, or have the topic partitioned by {} and say so in partition_key",
                quoted_of(&window.key)
            )));
        }
    }
    if let (Some(alert), Some(column)) = (alerts.iter().find(|alert| alert.on_change), missing(entity)) {
        let error = top.error_here(format!(
            "[alerts.{}] on_change is about {}, without `{column}` of [source] partition_key, so the events of one \
             entity are in several partitions",
            alert.name,
            quoted_of(entity)
        ));
        return Err(error.hint("leave `on_change` out, or have the topic partitioned by the entity's key"));
    }
    Ok(())
}
