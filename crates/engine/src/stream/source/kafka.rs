//! Kafka topics. Who *reads* a partition is decided by hand, or by Kafka's
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
//!
//! **Several topics** are read by one client, and are numbered one after the
//! other ([`topics`]). The client says that a partition has ended without its
//! topic: where several topics have a partition of that number, it is looked
//! which of them it is when somebody wants to know.

mod client;
mod ends;
mod member;
mod partitions;
mod topics;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use insightera_core::Clock;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, Timestamp};
use serde_json::{Value, json};

use self::client::{FAREWELL, KafkaClient};
use self::ends::Ends;
use self::member::Member;
use self::topics::Topics;
use self::trouble::reach;
use super::super::kafka_client::check_security;
use super::topic_id::topic_ids;
use super::{Group, Partition, RawPart, Rebalance, Source};
use crate::config::{Secret, Start};
use crate::{Error, Result};

/// How long the broker may take to answer, and how long until it is looked
/// whether it refuses to.
const PATIENCE: Duration = Duration::from_secs(15);
const ATTEMPT: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);
/// Where the options stand.
const SECTION: &str = "[source.kafka]";
/// Seconds between two polls that take events, at least: a poll costs as much as
/// some dozens of events, here and at the brokers. An event that comes alone is
/// not held up.
const PACE: f64 = 0.0005;
/// How long the request to leave a group may take.
const LAST_WORDS: Duration = Duration::from_millis(300);
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

/// Topics.
pub struct Kafka {
    topics: Topics,
    identity: String,
    clock: Arc<dyn Clock>,
    consumer: KafkaClient,
    options: BTreeMap<String, String>,
    group: Group,
    /// The topics' own ids, by their places, since their partitions were looked
    /// at first.
    ids: BTreeMap<usize, String>,
    /// Where they are begun.
    start: Start,
    /// The partitions that there were when they were looked at last.
    partitions: BTreeSet<u32>,
    assigned: BTreeMap<u32, i64>,
    ends: Ends,
    /// Of partitions that were read to their end: since when the broker says
    /// that they end where, monotonic seconds.
    quiet: BTreeMap<u32, (f64, i64)>,
    /// Until when no broker is asked for that, monotonic seconds.
    away: f64,
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

impl Kafka {
    /// Connects to the brokers.
    pub fn new(
        topics: &[String],
        options: &BTreeMap<String, String>,
        start: Start,
        clock: Arc<dyn Clock>,
        group: &Group,
    ) -> Result<Self> {
        check_security(SECTION, options)?;
        let topics = Topics::new(topics);
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
        let consumer = config.create_with_context(Member::new(topics.clone())).map_err(|e| match &e {
            KafkaError::ClientConfig(_, why, key, _) => {
                let secret = ["password", "secret", "pem", "token", "oauth"].iter().any(|word| key.contains(word));
                // As the file has it: what a variable holds is not shown.
                let shown = if secret { "***" } else { options.get(key).map_or("", String::as_str) };
                Error::invalid(format!("{SECTION} `{key}` = `{shown}`: {why}"))
                    .hint("the options are librdkafka's, by its names")
            }
            _ => Error::invalid(format!("[source.kafka]: {e}")).cause(e),
        })?;
        let consumer = KafkaClient::new(consumer, group);
        reach(&consumer, topics.names()[0], options)?;
        let late = KafkaError::Global(RDKafkaErrorCode::OperationTimedOut);
        let cluster = consumer.ask(|time| consumer.client().fetch_cluster_id(time).ok_or_else(|| late.clone()));
        let cluster = cluster.map_err(|e| {
            Error::unavailable("the brokers of [source.kafka] do not say which cluster they are").cause(e)
        })?;
        let identity = topics.identity(&cluster);
        if group.member.is_some() {
            consumer
                .subscribe(&topics.names())
                .map_err(|e| Error::unavailable(format!("{} cannot be subscribed to: {e}", topics.shown())).cause(e))?;
        }
        // As the pipeline calls them, where it does.
        let named = |key: &str| options.get(key).cloned();
        let group = Group {
            name: named("group.id").unwrap_or_else(|| group.name.clone()),
            member: group.member.clone().map(|member| named("group.instance.id").unwrap_or(member)),
            stop: group.stop.clone(),
        };
        let (ids, partitions, assigned, ends, quiet, read) = Default::default();
        Ok(Self {
            topics,
            identity,
            clock,
            consumer,
            options: options.clone(),
            group,
            ids,
            start,
            partitions,
            assigned,
            ends,
            quiet,
            away: f64::NEG_INFINITY,
            read,
            pace: Pace::default(),
        })
    }

    /// A partition is read from elsewhere, or by another.
    fn forget(&mut self, number: u32) {
        self.ends.remove(number);
        self.read.remove(&number);
    }

    /// Answers a rebalance: `positions` are what is read from now on.
    fn answer(&mut self, asked: &Rebalance, positions: &BTreeMap<u32, i64>) -> Result<()> {
        let cooperative = matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let done = match asked {
            Rebalance::Gained(gained) => {
                let position = |partition: &u32| {
                    let position = positions.get(partition).copied();
                    let none = || Error::internal(format!("partition {partition} was gained and has no position"));
                    Ok((*partition, position.ok_or_else(none)?))
                };
                let gained: BTreeMap<u32, i64> = gained.iter().map(position).collect::<Result<_>>()?;
                let list = self.starts(&gained)?;
                gained.keys().for_each(|partition| self.forget(*partition));
                self.assigned.extend(gained);
                if cooperative { self.consumer.incremental_assign(&list) } else { self.consumer.assign(&list) }
            }
            Rebalance::Lost(lost) => {
                let list = self.list(lost.iter().map(|partition| (*partition, None)))?;
                for partition in lost {
                    self.assigned.remove(partition);
                    self.forget(*partition);
                }
                if cooperative { self.consumer.incremental_unassign(&list) } else { self.consumer.unassign() }
            }
        };
        self.consumer.context().asked().pop_front();
        // It was overtaken by another event of the group.
        done.map_err(|e| Error::conflict(format!("the group of {}: {e}", self.topics.shown())).cause(e))
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
fn end(run: Option<Run>, assigned: &mut BTreeMap<u32, i64>, ends: &mut Ends, read: &mut BTreeMap<u32, RawPart>) {
    let Some(Run { partition, position, part, is_new }) = run else { return };
    if is_new {
        assigned.insert(partition, position);
        ends.remove(partition);
    }
    if part.next_offset > 0 {
        read.insert(partition, part);
    }
}

impl Source for Kafka {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn partitions(&mut self, known: &BTreeMap<u32, Value>) -> Result<BTreeMap<u32, Partition>> {
        let numbers = self.numbers()?;
        let ids = known.iter().filter_map(|(number, description)| {
            let id = description.get(TOPIC_ID)?.as_str()?;
            Some((Topics::place(*number), id.to_owned()))
        });
        let found = self.consumer.ask(|time| topic_ids(self.consumer.client(), &self.topics.names(), time));
        self.identify(&ids.collect(), found)?;
        let (mut partitions, mut named) = (BTreeMap::new(), BTreeSet::new());
        for number in &numbers {
            // The beginning of one that is being read does not matter.
            let start = if self.assigned.contains_key(number) { 0 } else { self.watermarks(*number)?.0 };
            // One partition of a topic says it for all: it is in every snapshot.
            let place = Topics::place(*number);
            let description = match self.ids.get(&place) {
                Some(id) if named.insert(place) => json!({ TOPIC_ID: id }),
                _ => Value::Null,
            };
            partitions.insert(*number, Partition { description, start });
        }
        self.partitions = numbers;
        Ok(partitions)
    }

    fn begins(&mut self) -> Result<Vec<BTreeMap<u32, i64>>> {
        let mut topics: BTreeMap<usize, BTreeMap<u32, i64>> = BTreeMap::new();
        for number in self.partitions.iter().filter(|_| self.start != Start::Earliest) {
            let (_, end) = self.watermarks(*number)?;
            topics.entry(Topics::place(*number)).or_default().insert(*number, end);
        }
        let begun = |ends| match self.start {
            Start::Time(micros) => self.since(micros, ends),
            Start::Earliest | Start::Latest => Ok(ends),
        };
        topics.into_values().map(begun).collect()
    }

    fn is_still(&mut self) -> Result<()> {
        let found = topic_ids(self.consumer.client(), &self.topics.names(), ATTEMPT);
        self.identify(&BTreeMap::new(), found)
    }

    fn assign(&mut self, positions: &BTreeMap<u32, i64>) -> Result<()> {
        if self.group.member.is_some() {
            return match self.rebalance() {
                Some(asked) => self.answer(&asked, positions),
                None => Err(Error::internal("an assignment that the group did not ask for")),
            };
        }
        let list = self.starts(positions)?;
        self.consumer
            .assign(&list)
            .map_err(|e| Error::unavailable(format!("{} cannot be read: {e}", self.topics.shown())).cause(e))?;
        self.assigned = positions.clone();
        self.ends = Ends::default();
        self.read.clear();
        Ok(())
    }

    fn poll(&mut self, max_bytes: usize, wait: Duration) -> Result<Vec<RawPart>> {
        let now = self.clock.now_micros();
        let (mut bytes, mut events, mut paced) = (0, 0, false);
        let mut problems = Vec::new();
        let mut patience = wait;
        let (mut run, mut place): (Option<Run>, usize) = (None, 0);
        while bytes < max_bytes && events < POLL_EVENTS {
            // Also when the group asks for something.
            let Some(found) = self.consumer.poll(patience) else { break };
            patience = Duration::ZERO;
            let message = match found {
                Ok(message) => message,
                Err(KafkaError::PartitionEOF(partition)) => {
                    end(run.take(), &mut self.assigned, &mut self.ends, &mut self.read);
                    self.ended(partition);
                    continue;
                }
                Err(error) => {
                    problems.push(error);
                    continue;
                }
            };
            if !self.topics.is_one() {
                let unknown = || Error::internal(format!("an event of the topic `{}`", message.topic()));
                place = self.topics.find(message.topic(), place).ok_or_else(unknown)?;
            }
            let partition = Topics::number(place, message.partition());
            let mut of_partition = match run.take() {
                Some(run) if run.partition == partition => run,
                other => {
                    end(other, &mut self.assigned, &mut self.ends, &mut self.read);
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
        end(run, &mut self.assigned, &mut self.ends, &mut self.read);
        for problem in problems {
            self.interpret(problem)?;
        }
        if events == 0 {
            self.is_alive()?;
        } else {
            self.pace.bytes = self.read.values().map(|part| part.payload.len()).max().unwrap_or(0);
        }
        Ok(std::mem::take(&mut self.read).into_values().collect())
    }

    fn ends(&mut self, positions: &BTreeMap<u32, i64>) -> Result<BTreeMap<u32, i64>> {
        positions.iter().map(|(partition, position)| Ok((*partition, self.end_of(*partition, *position)?))).collect()
    }

    fn is_drained(&mut self, partition: u32) -> bool {
        self.is_quiet(partition)
    }

    fn at_end(&mut self) -> Result<bool> {
        let assigned: Vec<u32> = self.assigned.keys().copied().collect();
        Ok(assigned.into_iter().all(|partition| self.is_at_end(partition)))
    }

    fn committed(&mut self, positions: &BTreeMap<u32, i64>) {
        // To a group that has missed this process it is another one by its name.
        if self.consumer.assignment_lost() {
            return;
        }
        let list = self.list(positions.iter().map(|(partition, position)| (*partition, Some(*position))));
        let Ok(list) = list else { return };
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
        self.consumer.has_waited(waited);
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.decline();
    }
}
