//! A Kafka topic. Who *reads* a partition is decided by hand, or by Kafka's
//! group of the processes that write one table; who may *commit* it is decided
//! by the tables alone, and so is how far it was read. So a wrong belief of the
//! group (a paused process, a lost heartbeat) costs time, never a row. The
//! group's offsets are told to the broker for others to see, and never read.
//!
//! **In a group.** A rebalance is an event of a poll. It stays unanswered, and
//! no partition changes hands, until what was read is committed
//! ([`Source::rebalance`], [`Source::assign`]); partitions that stay are read
//! on meanwhile (`cooperative-sticky`). Members are static: one that is started
//! again within the session's time-out has its partitions back at once; one
//! that leaves in order gives them up at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use insightera_core::Clock;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, Timestamp};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use serde_json::{Value, json};

use super::super::kafka_client::{Refusals, check_security};
use super::topic_id::topic_id;
use super::{Group, Partition, RawPart, Rebalance, Source};
use crate::config::Secret;
use crate::{Error, Result};

/// How long the broker may take to answer, and how long until it is looked
/// whether it refuses to.
const PATIENCE: Duration = Duration::from_secs(15);
const ATTEMPT: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);
/// Where the options stand.
const SECTION: &str = "[source.kafka]";
/// How long leaving a group may take, and how long the request to do so.
const FAREWELL: Duration = Duration::from_secs(5);
const LAST_WORDS: Duration = Duration::from_millis(300);
/// Seconds between two polls that take events, at least: a poll costs as much as
/// some dozens of events, here and at the brokers. An event that comes alone is
/// not held up.
const PACE: f64 = 0.0005;
/// Seconds after which a partition that ended somewhere, and brought nothing
/// since, is taken for one that has nothing: the client reconnects sooner.
const QUIET: f64 = 30.0;
/// Events of a poll.
const POLL_EVENTS: usize = 16 * 1024;

/// What a table calls the id of the topic that it was made of.
const TOPIC_ID: &str = "topic_id";

/// What the tables decide; an option that says otherwise is refused.
const OURS: &[(&str, &str)] = &[
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("enable.partition.eof", "true"),
];

/// How a member of a group behaves; options of the pipeline come first. With
/// the broker's own protocol the broker says the most of it.
const MEMBER: &[(&str, &str)] = &[
    ("partition.assignment.strategy", "cooperative-sticky"),
    ("session.timeout.ms", "10000"),
    ("heartbeat.interval.ms", "1000"),
];

/// A topic.
pub struct Kafka {
    topic: String,
    identity: String,
    clock: Arc<dyn Clock>,
    consumer: BaseConsumer<Member>,
    options: BTreeMap<String, String>,
    group: Group,
    /// The topic's own id, since its partitions were looked at first.
    id: Option<String>,
    assigned: BTreeMap<u32, i64>,
    at_end: BTreeSet<u32>,
    /// Of partitions that were read to their end: since when the broker says
    /// that they end where, monotonic seconds.
    quiet: BTreeMap<u32, (f64, i64)>,
    read: BTreeMap<u32, RawPart>,
    pace: Pace,
}

/// When the last poll with events took them, monotonic seconds, and the bytes of
/// the partition that had most.
#[derive(Debug, Default)]
struct Pace {
    taken: f64,
    bytes: usize,
}

impl Pace {
    /// How long events that are there wait for others.
    fn wait(&self, now: f64) -> Duration {
        Duration::from_secs_f64((self.taken + PACE - now).clamp(0.0, PACE))
    }
}

/// Events of one partition that come after one another.
struct Run {
    partition: u32,
    position: i64,
    part: RawPart,
    /// Whether it has a message that was not read before.
    is_new: bool,
}

/// What the client tells us. Its own log goes nowhere: what matters comes as
/// an error.
#[derive(Default)]
struct Member {
    /// Rebalances that wait for an answer.
    asked: Mutex<VecDeque<Rebalance>>,
    /// Nobody is there any more to answer.
    closing: AtomicBool,
    /// The group has missed this process, which has no partitions again yet.
    missed: AtomicBool,
    refusals: Refusals,
}

impl Member {
    fn asked(&self) -> std::sync::MutexGuard<'_, VecDeque<Rebalance>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Member {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, why: &str) {
        self.refusals.note(&error, why);
    }
}

impl ConsumerContext for Member {
    /// Called by a poll. It only notes what is wanted: the answer takes a
    /// commit, and is given from the stream's own loop.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = list.elements().iter().map(|element| element.partition() as u32).collect();
        let gained = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::SeqCst) {
            // Without an answer the client never closes.
            let _ = match (consumer.rebalance_protocol(), gained) {
                (RebalanceProtocol::Cooperative, false) => consumer.incremental_unassign(list),
                (RebalanceProtocol::Cooperative, true) => Ok(()),
                _ => consumer.unassign(),
            };
            return;
        }
        self.missed.store(!gained && consumer.assignment_lost(), Ordering::SeqCst);
        self.asked().push_back(if gained { Rebalance::Gained(partitions) } else { Rebalance::Lost(partitions) });
    }
}

impl Kafka {
    /// Connects to the brokers.
    pub fn new(topic: &str, options: &BTreeMap<String, String>, clock: Arc<dyn Clock>, group: &Group) -> Result<Self> {
        check_security(SECTION, options)?;
        let mut config = ClientConfig::new();
        config.set("group.id", &group.name);
        if let Some(member) = &group.member {
            config.set("group.instance.id", member);
            // How soon partitions that a topic got later are found.
            config.set("topic.metadata.refresh.interval.ms", "10000");
            if options.get("group.protocol").is_none_or(|protocol| protocol != "consumer") {
                for (key, value) in MEMBER {
                    config.set(*key, *value);
                }
            }
        }
        config.set("client.id", "insightera");
        config.set("fetch.wait.max.ms", "5");
        config.set("queued.max.messages.kbytes", "65536");
        // Else a partition whose queue was full once is not read for a second.
        config.set("fetch.queue.backoff.ms", "2");
        for (key, value) in options {
            if let Some((_, wanted)) = OURS.iter().find(|(ours, wanted)| ours == key && wanted != value) {
                return Err(Error::invalid(format!("[source.kafka] `{key}` cannot be `{value}`"))
                    .hint(format!("remove it: positions are kept in the tables, and it is always `{wanted}`")));
            }
            config.set(key, Secret::new(value).reveal(&format!("[source.kafka] `{key}`"))?);
        }
        for (key, value) in OURS {
            config.set(*key, *value);
        }
        let consumer: BaseConsumer<Member> = config.create_with_context(Member::default()).map_err(|e| match &e {
            KafkaError::ClientConfig(_, why, key, _) => {
                let secret = ["password", "secret", "pem", "token", "oauth"].iter().any(|word| key.contains(word));
                // As the file has it: what a variable holds is not shown.
                let shown = if secret { "***" } else { options.get(key).map_or("", String::as_str) };
                Error::invalid(format!("{SECTION} `{key}` = `{shown}`: {why}"))
                    .hint("the options are librdkafka's, by its names")
            }
            _ => Error::invalid(format!("[source.kafka]: {e}")).cause(e),
        })?;
        reach(&consumer, topic, options)?;
        let no_cluster = || Error::unavailable("the brokers of [source.kafka] do not say which cluster they are");
        let cluster = consumer.client().fetch_cluster_id(PATIENCE).ok_or_else(no_cluster)?;
        let (assigned, at_end, quiet, read) = Default::default();
        let identity = format!("kafka:{cluster}/{topic}");
        if group.member.is_some() {
            consumer.subscribe(&[topic]).map_err(|e| {
                Error::unavailable(format!("the topic `{topic}` cannot be subscribed to: {e}")).cause(e)
            })?;
        }
        // As the pipeline calls them, where it does.
        let named = |key: &str| options.get(key).cloned();
        let group = Group {
            name: named("group.id").unwrap_or_else(|| group.name.clone()),
            member: group.member.clone().map(|member| named("group.instance.id").unwrap_or(member)),
        };
        let (topic, options) = (topic.to_owned(), options.clone());
        let pace = Pace::default();
        Ok(Self { topic, identity, clock, consumer, options, group, id: None, assigned, at_end, quiet, read, pace })
    }

    fn no_answer(&self, error: KafkaError) -> Error {
        Error::unavailable(format!("the topic `{}` has no answer: {error}", self.topic)).cause(error)
    }

    /// The topic's id, which is the one that was `known` and the one that it had
    /// before.
    fn identify(&mut self, known: Option<&str>, patience: Duration) -> Result<Option<String>> {
        let found = topic_id(self.consumer.client(), &self.topic, patience);
        let Some(id) = found.map_err(|e| self.no_answer(e))? else {
            // It had one.
            if self.id.is_some() && self.is_missing() {
                return Err(Error::data(format!("the topic `{}` is gone", self.topic)));
            }
            return Ok(None);
        };
        if let Some(other) = known.or(self.id.as_deref()).filter(|other| *other != id) {
            return Err(self.made_again(&format!("has the id {id}, and what was read had {other}")));
        }
        self.id = Some(id.clone());
        Ok(Some(id))
    }

    fn made_again(&self, why: &str) -> Error {
        Error::data(format!("the topic `{}` {why}: it was made again", self.topic))
            .hint("positions of one topic mean nothing in another: write to a new table")
    }

    fn watermarks(&self, partition: u32) -> Result<(i64, i64)> {
        self.consumer.fetch_watermarks(&self.topic, partition as i32, PATIENCE).map_err(|e| {
            Error::unavailable(format!("partition {partition} of the topic `{}` has no answer: {e}", self.topic))
                .cause(e)
        })
    }

    /// Where a partition ends that was read up to `position`, and whose broker
    /// has the events from there on.
    fn end_of(&self, partition: u32, position: i64) -> Result<i64> {
        let (low, high) = self.watermarks(partition)?;
        if position < low {
            return Err(Error::data(format!(
                "partition {partition} of the topic `{}` begins at offset {low}, and offset {position} comes next: events were removed before they were read",
                self.topic
            ))
            .hint("its retention is shorter than this stream was away; write to a new table to begin anew"));
        }
        if position > high {
            let why = format!("ends at offset {high} in partition {partition}, and was read up to {position}");
            return Err(self.made_again(&why));
        }
        Ok(high)
    }

    /// Reads a partition from `position` on.
    fn start(&self, list: &mut TopicPartitionList, partition: u32, position: i64) -> Result<()> {
        self.end_of(partition, position)?;
        list.add_partition_offset(&self.topic, partition as i32, Offset::Offset(position))
            .map_err(|e| Error::internal(format!("an assignment of the topic `{}`: {e}", self.topic)).cause(e))
    }

    /// Answers a rebalance: `positions` are what is read from now on.
    fn answer(&mut self, asked: &Rebalance, positions: &BTreeMap<u32, i64>) -> Result<()> {
        let mut list = TopicPartitionList::new();
        let cooperative = matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let done = match asked {
            Rebalance::Gained(gained) => {
                for partition in gained {
                    let position = *positions.get(partition).ok_or_else(|| {
                        Error::internal(format!("partition {partition} was gained and has no position"))
                    })?;
                    self.start(&mut list, *partition, position)?;
                    self.assigned.insert(*partition, position);
                    self.at_end.remove(partition);
                    self.read.remove(partition);
                }
                if cooperative { self.consumer.incremental_assign(&list) } else { self.consumer.assign(&list) }
            }
            Rebalance::Lost(lost) => {
                for partition in lost {
                    list.add_partition(&self.topic, *partition as i32);
                    self.assigned.remove(partition);
                    self.at_end.remove(partition);
                    self.read.remove(partition);
                }
                if cooperative { self.consumer.incremental_unassign(&list) } else { self.consumer.unassign() }
            }
        };
        self.consumer.context().asked().pop_front();
        // It was overtaken by another event of the group.
        done.map_err(|e| Error::conflict(format!("the group of the topic `{}`: {e}", self.topic)).cause(e))
    }

    /// Answers what nobody will answer any more.
    fn decline(&mut self) {
        while let Some(asked) = self.rebalance() {
            let asked = match asked {
                Rebalance::Gained(_) => Rebalance::Gained(Vec::new()),
                lost => lost,
            };
            let _ = self.answer(&asked, &BTreeMap::new());
        }
    }

    /// Whether the topic stays away for some seconds: of one that was made a
    /// moment ago a broker says at first that there is none.
    fn is_missing(&self) -> bool {
        for _ in 0..25 {
            let Ok(metadata) = self.consumer.fetch_metadata(Some(&self.topic), PATIENCE) else {
                // The broker is away, the topic need not be.
                return false;
            };
            let mut topics = metadata.topics().iter();
            if topics.any(|t| t.name() == self.topic && t.error().is_none() && !t.partitions().is_empty()) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        true
    }

    /// What a poll without an event says.
    fn interpret(&mut self, error: KafkaError) -> Result<()> {
        if let Some((code, why)) = self.consumer.client().fatal_error() {
            let (group, member) = (&self.group.name, self.group.member.as_deref().unwrap_or("?"));
            return Err(match code {
                // What the client still had to say to the group it said as nobody.
                RDKafkaErrorCode::FencedInstanceId if self.consumer.context().missed.load(Ordering::SeqCst) => {
                    Error::conflict(format!("the group `{group}` has missed this process"))
                }
                RDKafkaErrorCode::FencedInstanceId => Error::invalid(format!(
                    "another process is the member `{member}` of the group `{group}`"
                ))
                .hint("give every process a \"group.instance.id\" of its own in [source.kafka]; a copy of a project has the same one, until its `.insightera/stream` is removed"),
                _ => Error::internal(format!("the Kafka client of the group `{group}` cannot go on: {why}")),
            }
            .cause(error));
        }
        let code = match &error {
            KafkaError::MessageConsumption(code) | KafkaError::MessageConsumptionFatal(code) => *code,
            KafkaError::Global(code) => *code,
            _ => return Err(Error::unavailable(format!("the topic `{}`: {error}", self.topic)).cause(error)),
        };
        match code {
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
                // Another topic by the same name has other offsets.
                self.is_still().or_else(|other| if other.retryable() { Ok(()) } else { Err(other) })?;
                let what =
                    format!("the topic `{}` has not got the events that come next any more: {error}", self.topic);
                let hint = "its retention is shorter than this stream was away; write to a new table to begin anew";
                Err(Error::data(what).hint(hint).cause(error))
            }
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
                // Of a topic that was read it could be another one by the same name.
                let unread = self.read.is_empty() && self.assigned.values().all(|position| *position == 0);
                if unread && !self.is_missing() {
                    return Ok(());
                }
                Err(Error::data(format!("the topic `{}` is gone", self.topic)).cause(error))
            }
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::Authentication => {
                let refused = self.consumer.context().refusals.error(SECTION, &self.options);
                let other = || Error::invalid(format!("the topic `{}` may not be read: {error}", self.topic));
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

/// When an event came: by the broker's clock, or else by its producer's, which
/// is believed as long as it does not say that it is yet to come, or nothing.
fn arrival(timestamp: Timestamp, now: i64) -> i64 {
    match timestamp {
        Timestamp::LogAppendTime(ms) if ms > 0 => ms.saturating_mul(1000),
        Timestamp::CreateTime(ms) if ms > 0 => ms.saturating_mul(1000).min(now),
        _ => now,
    }
}

/// Notes how far a run of events came. One of a partition that is not read, or
/// that brought nothing, leaves no trace.
fn end(
    run: Option<Run>,
    assigned: &mut BTreeMap<u32, i64>,
    at_end: &mut BTreeSet<u32>,
    read: &mut BTreeMap<u32, RawPart>,
) {
    let Some(Run { partition, position, part, is_new }) = run else { return };
    if is_new {
        assigned.insert(partition, position);
        at_end.remove(&partition);
    }
    if part.next_offset > 0 {
        read.insert(partition, part);
    }
}

/// Waits until a broker has answered.
///
/// # Errors
/// `Invalid` at once when the brokers refuse the client, `Unavailable` when
/// none answers in time.
fn reach(consumer: &BaseConsumer<Member>, topic: &str, options: &BTreeMap<String, String>) -> Result<()> {
    let mut waited = Duration::ZERO;
    loop {
        let Err(error) = consumer.fetch_metadata(Some(topic), ATTEMPT) else { return Ok(()) };
        waited += ATTEMPT;
        // Nothing is read yet: what comes by a poll is what went wrong.
        while let Some(Err(_)) = consumer.poll(LOOK) {}
        if let Some(refused) = consumer.context().refusals.error(SECTION, options) {
            return Err(refused.cause(error));
        }
        if waited >= PATIENCE {
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

impl Source for Kafka {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn partitions(&mut self, known: &BTreeMap<u32, Value>) -> Result<BTreeMap<u32, Partition>> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), PATIENCE).map_err(|e| self.no_answer(e))?;
        let numbers: Vec<u32> = metadata
            .topics()
            .iter()
            .filter(|topic| topic.name() == self.topic)
            .flat_map(|topic| topic.partitions().iter().map(|partition| partition.id() as u32))
            .collect();
        if numbers.is_empty() {
            return Err(Error::not_found(format!("there is no topic `{}`", self.topic))
                .hint("create it, or correct `topic` in [source]"));
        }
        let of_known = known.values().find_map(|description| description.get(TOPIC_ID)?.as_str());
        let id = self.identify(of_known, PATIENCE)?;
        let mut partitions = BTreeMap::new();
        for number in numbers {
            // The beginning of one that is being read does not matter.
            let start = if self.assigned.contains_key(&number) { 0 } else { self.watermarks(number)?.0 };
            // One partition of the topic says it for all: it is in every snapshot.
            let description = match &id {
                Some(id) if partitions.is_empty() => json!({ TOPIC_ID: id }),
                _ => Value::Null,
            };
            partitions.insert(number, Partition { description, start });
        }
        Ok(partitions)
    }

    fn is_still(&mut self) -> Result<()> {
        self.identify(None, ATTEMPT).map(drop)
    }

    fn assign(&mut self, positions: &BTreeMap<u32, i64>) -> Result<()> {
        if self.group.member.is_some() {
            return match self.rebalance() {
                Some(asked) => self.answer(&asked, positions),
                None => Err(Error::internal("an assignment that the group did not ask for")),
            };
        }
        let mut list = TopicPartitionList::new();
        for (partition, position) in positions {
            self.start(&mut list, *partition, *position)?;
        }
        self.consumer
            .assign(&list)
            .map_err(|e| Error::unavailable(format!("the topic `{}` cannot be read: {e}", self.topic)).cause(e))?;
        self.assigned = positions.clone();
        self.at_end.clear();
        self.read.clear();
        Ok(())
    }

    fn poll(&mut self, max_bytes: usize, wait: Duration) -> Result<Vec<RawPart>> {
        let now = self.clock.now_micros();
        let (mut bytes, mut events, mut paced) = (0, 0, false);
        let mut problems = Vec::new();
        let mut patience = wait;
        let mut run: Option<Run> = None;
        while bytes < max_bytes && events < POLL_EVENTS {
            // Also when the group asks for something.
            let Some(found) = self.consumer.poll(patience) else { break };
            patience = Duration::ZERO;
            let message = match found {
                Ok(message) => message,
                Err(KafkaError::PartitionEOF(partition)) => {
                    end(run.take(), &mut self.assigned, &mut self.at_end, &mut self.read);
                    self.at_end.insert(partition as u32);
                    continue;
                }
                Err(error) => {
                    problems.push(error);
                    continue;
                }
            };
            let partition = message.partition() as u32;
            let mut of_partition = match run.take() {
                Some(run) if run.partition == partition => run,
                other => {
                    end(other, &mut self.assigned, &mut self.at_end, &mut self.read);
                    let position = self.assigned.get(&partition).copied().unwrap_or(i64::MAX);
                    let part = self.read.remove(&partition);
                    let part = part.unwrap_or_else(|| RawPart { partition, ..RawPart::default() });
                    Run { partition, position, part, is_new: false }
                }
            };
            if message.offset() < of_partition.position {
                run = Some(of_partition);
                continue;
            }
            if !paced {
                paced = true;
                let wait = self.pace.wait(self.clock.monotonic_seconds());
                if !wait.is_zero() {
                    std::thread::sleep(wait);
                }
                self.pace.taken = self.clock.monotonic_seconds();
            }
            let part = &mut of_partition.part;
            of_partition.position = message.offset() + 1;
            of_partition.is_new = true;
            part.next_offset = of_partition.position;
            // A tombstone is no event; its offset counts.
            if let Some(payload) = message.payload() {
                if part.payload.is_empty() {
                    part.payload.reserve(self.pace.bytes);
                }
                part.payload.extend_from_slice(payload);
                part.ends.push(part.payload.len());
                part.keys.extend_from_slice(message.key().unwrap_or_default());
                part.key_ends.push(part.keys.len());
                part.offsets.push(message.offset());
                part.arrivals.push(arrival(message.timestamp(), now));
                bytes += payload.len();
                events += 1;
            }
            run = Some(of_partition);
        }
        end(run, &mut self.assigned, &mut self.at_end, &mut self.read);
        for problem in problems {
            self.interpret(problem)?;
        }
        if events > 0 {
            self.pace.bytes = self.read.values().map(|part| part.payload.len()).max().unwrap_or(0);
        }
        Ok(std::mem::take(&mut self.read).into_values().collect())
    }

    fn ends(&mut self, positions: &BTreeMap<u32, i64>) -> Result<BTreeMap<u32, i64>> {
        positions.iter().map(|(partition, position)| Ok((*partition, self.end_of(*partition, *position)?))).collect()
    }

    /// The client may be away from a broker that others reach, and does not say
    /// so. What it read to its end ends there still, a while later.
    fn is_drained(&mut self, partition: u32) -> bool {
        if !self.at_end.contains(&partition) {
            self.quiet.remove(&partition);
            return false;
        }
        let now = self.clock.monotonic_seconds();
        match self.quiet.get(&partition).copied() {
            Some((since, _)) if now - since < QUIET => false,
            known => {
                let Ok((_, end)) = self.watermarks(partition) else { return false };
                let same = known.is_some_and(|(_, before)| before == end);
                if !same {
                    self.quiet.insert(partition, (now, end));
                }
                same
            }
        }
    }

    fn at_end(&mut self) -> Result<bool> {
        Ok(self.assigned.keys().all(|partition| self.at_end.contains(partition)))
    }

    fn committed(&mut self, positions: &BTreeMap<u32, i64>) {
        // To a group that has missed this process it is another one by its name.
        if self.consumer.assignment_lost() {
            return;
        }
        let mut list = TopicPartitionList::new();
        for (partition, position) in positions {
            if list.add_partition_offset(&self.topic, *partition as i32, Offset::Offset(*position)).is_err() {
                return;
            }
        }
        // Only for others to see: nothing here ever reads it.
        let _ = self.consumer.commit(&list, CommitMode::Async);
    }

    fn rebalance(&mut self) -> Option<Rebalance> {
        self.consumer.context().asked().front().cloned()
    }

    fn leave(&mut self) {
        if self.group.member.is_none() {
            return;
        }
        self.consumer.unsubscribe();
        let mut waited = Duration::ZERO;
        while waited < FAREWELL && !self.assigned.is_empty() {
            // A message that still comes is another's.
            drop(self.consumer.poll(LAST_WORDS));
            waited += LAST_WORDS;
            self.decline();
        }
        // The request to leave goes out from the client's own thread.
        drop(self.consumer.poll(LAST_WORDS));
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.decline();
        self.consumer.context().closing.store(true, Ordering::SeqCst);
    }
}
