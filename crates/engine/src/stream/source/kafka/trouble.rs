//! What goes wrong with the client, and what that means.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::super::Source;
use super::client::KafkaClient;
use super::{ATTEMPT, Kafka, LOOK, PATIENCE, SECTION};
use crate::{Error, Result};

impl Kafka {
    /// The topic that is away, if one is.
    pub(super) fn missing(&self) -> Option<String> {
        self.topics.names().into_iter().find(|topic| self.is_missing(topic)).map(str::to_owned)
    }

    /// Whether a topic stays away for some seconds: of one that was made a
    /// moment ago a broker says at first that there is none.
    pub(super) fn is_missing(&self, topic: &str) -> bool {
        for _ in 0..25 {
            let metadata = self.consumer.ask(|time| self.consumer.fetch_metadata(Some(topic), time));
            let Some(metadata) = metadata.ok().filter(|_| !self.consumer.stops()) else {
                // The broker is away, the topic need not be; or nobody waits any more.
                return false;
            };
            let mut topics = metadata.topics().iter();
            if topics.any(|t| t.name() == topic && t.error().is_none() && !t.partitions().is_empty()) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        true
    }

    /// Nothing comes any more of a client that has given up, and it says so only
    /// once of itself.
    ///
    /// # Errors
    /// Why it has: `Conflict` when joining the group again mends that.
    pub(super) fn is_alive(&self) -> Result<()> {
        let Some((code, why)) = self.consumer.client().fatal_error() else { return Ok(()) };
        let (group, member) = (&self.group.name, self.group.member.as_deref().unwrap_or("?"));
        Err(match code {
            // What the client still had to say to the group it said as nobody.
            RDKafkaErrorCode::FencedInstanceId if self.consumer.context().missed.load(Ordering::SeqCst) => {
                Error::conflict(format!("the group `{group}` has missed this process"))
            }
            RDKafkaErrorCode::FencedInstanceId => Error::invalid(format!(
                "another process is the member `{member}` of the group `{group}`"
            ))
            .hint("give every process a \"group.instance.id\" of its own in [source.kafka]; a copy of a project has the same one, until its `.insightera/stream` is removed"),
            _ => Error::internal(format!("the Kafka client of the group `{group}` cannot go on: {why}")),
        })
    }

    /// What a poll without an event says.
    pub(super) fn interpret(&mut self, error: KafkaError) -> Result<()> {
        self.is_alive().map_err(|dead| dead.cause(error.clone()))?;
        let code = match &error {
            KafkaError::MessageConsumption(code) | KafkaError::MessageConsumptionFatal(code) => *code,
            KafkaError::Global(code) => *code,
            _ => return Err(Error::unavailable(format!("{}: {error}", self.topics.shown())).cause(error)),
        };
        match code {
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
                // Another topic by the same name has other offsets.
                self.is_still().or_else(|other| if other.retryable() { Ok(()) } else { Err(other) })?;
                let what = format!("events that come next in {} are not there any more: {error}", self.topics.shown());
                let hint = "its retention is shorter than this stream was away; write to a new table to begin anew";
                Err(Error::data(what).hint(hint).cause(error))
            }
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
                // Of a topic that was read it could be another one by the same name.
                let unread = self.read.is_empty() && self.assigned.values().all(|position| *position == 0);
                let missing = match (unread, self.topics.is_one()) {
                    (false, true) => Some(self.topics.names()[0].to_owned()),
                    _ => self.missing(),
                };
                match missing {
                    Some(topic) => Err(Error::data(format!("the topic `{topic}` is gone")).cause(error)),
                    None if unread => Ok(()),
                    None => Err(Error::data(format!("one of {} was gone", self.topics.shown())).cause(error)),
                }
            }
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::Authentication => {
                let refused = self.consumer.context().refusals.error(SECTION, &self.options);
                let other = || Error::invalid(format!("{} may not be read: {error}", self.topics.shown()));
                Err(refused.unwrap_or_else(other).cause(error))
            }
            RDKafkaErrorCode::SSL => match self.consumer.context().refusals.error(SECTION, &self.options) {
                Some(refused) => Err(refused.cause(error)),
                None => Ok(()),
            },
            // The client itself connects again.
            _ => Ok(()),
        }
    }
}

/// Waits until a broker has answered, or the stream is to stop.
///
/// # Errors
/// `Invalid` at once when the brokers refuse the client, `Unavailable` when
/// none answers in time.
pub fn reach(consumer: &KafkaClient, topic: &str, options: &BTreeMap<String, String>) -> Result<()> {
    let mut waited = Duration::ZERO;
    loop {
        let Err(error) = consumer.fetch_metadata(Some(topic), ATTEMPT) else { return Ok(()) };
        waited += ATTEMPT;
        // Nothing is read yet: what comes by a poll is what went wrong.
        while let Some(Err(_)) = consumer.poll(LOOK) {}
        if let Some(refused) = consumer.context().refusals.error(SECTION, options) {
            return Err(refused.cause(error));
        }
        if waited >= PATIENCE || consumer.stops() {
            return Err(unreachable_broker(options, error));
        }
    }
}

fn unreachable_broker(options: &BTreeMap<String, String>, error: KafkaError) -> Error {
    let servers = options.get("bootstrap.servers").map_or("", String::as_str);
    Error::unavailable(format!("no answer from the brokers `{servers}`: {error}"))
        .hint("correct `\"bootstrap.servers\"` in [source.kafka], or start the broker")
        .cause(error)
}
