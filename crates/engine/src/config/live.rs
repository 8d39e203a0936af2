//! `[live]` of a stream: where predictions are sent to as they are made.

use std::collections::BTreeMap;

use serde::Serialize;

use super::notifiers::{Secret, read_url};
use super::pipeline::keys_in;
use super::section::Section;
use super::source::read_options;
use super::stream::{Emit, SECOND, SECTIONS, span};
use crate::Result;

/// What goes with which receiver.
const OF_TOPICS: &[&str] = &["topic", "kafka"];
const OF_WEBHOOKS: &[&str] = &["url", "timeout"];

/// Where predictions are sent to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LiveSettings {
    /// A Kafka topic.
    Topic {
        /// The topic.
        topic: String,
        /// The client's options by librdkafka's names.
        options: BTreeMap<String, String>,
    },
    /// A webhook.
    Webhook {
        /// Its address.
        url: Secret,
        /// Microseconds that a request may take.
        timeout: i64,
    },
}

/// Reads `[live]`.
pub(super) fn read_live(section: &Section<'_>, emit: Emit) -> Result<LiveSettings> {
    section.allow(keys_in(SECTIONS, "live"), SECTIONS)?;
    if emit == Emit::OnClose {
        let error = section.error_here("[live] is not supported yet with `emit = \"on_close\"`");
        return Err(error.hint("leave it out, or write a stream with `each_event`"));
    }
    match (section.find("topic"), section.find("url")) {
        (Some(_), None) => {
            refuse(section, OF_WEBHOOKS, "`url`, not with `topic`")?;
            let topic = section.required_text("topic")?.value.to_owned();
            Ok(LiveSettings::Topic { topic, options: read_options(section)? })
        }
        (None, Some(_)) => {
            refuse(section, OF_TOPICS, "`topic`, not with `url`")?;
            let url = read_url(section)?;
            Ok(LiveSettings::Webhook { url, timeout: span(section, "timeout", 1000)?.unwrap_or(10 * SECOND) })
        }
        (Some(_), Some(url)) => Err(section
            .error(&url.key_span, "[live] has `topic` or `url`, not both")
            .hint("leave one of them out: a topic of Kafka is named by `topic`, a webhook by `url`")),
        (None, None) => Err(section.error_here("[live] has neither `topic` nor `url`").hint(
            "write `topic = \"NAME\"` with [live.kafka], or `url = \"https://…\"` or `\"env:NAME\"` of a webhook",
        )),
    }
}

/// Refuses what goes with the other receiver.
fn refuse(section: &Section<'_>, keys: &[&str], with: &str) -> Result<()> {
    match keys.iter().find_map(|key| section.find(key)) {
        None => Ok(()),
        Some(entry) => Err(section.error(&entry.key_span, format!("`{}` goes with {with}", entry.key))),
    }
}
