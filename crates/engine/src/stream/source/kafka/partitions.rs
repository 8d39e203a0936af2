//! What the brokers say of topics and partitions.

use std::collections::{BTreeMap, BTreeSet};

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::Kafka;
use super::topics::Topics;
use crate::config::PARTITIONS_OF_A_TOPIC;
use crate::{Error, Result};

impl Kafka {
    pub(super) fn no_answer(&self, error: KafkaError) -> Error {
        no_answer(&self.topics.shown(), error)
    }

    /// The topics' ids, which were `found` by name, are those that were `known`,
    /// and those that they had before.
    pub(super) fn identify(
        &mut self,
        known: &BTreeMap<usize, String>,
        found: KafkaResult<BTreeMap<String, String>>,
    ) -> Result<()> {
        let names = self.topics.names();
        let mut found = found.map_err(|e| self.no_answer(e))?;
        for (place, topic) in names.into_iter().enumerate() {
            let Some(id) = found.remove(topic) else {
                // It had one.
                return match self.ids.contains_key(&place) {
                    true if self.is_missing(topic) => Err(Error::data(format!("the topic `{topic}` is gone"))),
                    true => Err(Error::unavailable(format!("the topic `{topic}` has no id at the moment"))),
                    false => continue,
                };
            };
            if let Some(other) = known.get(&place).or(self.ids.get(&place)).filter(|other| **other != id) {
                return Err(made_again(topic, &format!("has the id {id}, and what was read had {other}")));
            }
            self.ids.insert(place, id);
        }
        Ok(())
    }

    /// The numbers of all partitions.
    pub(super) fn numbers(&self) -> Result<BTreeSet<u32>> {
        let mut numbers = BTreeSet::new();
        for (place, topic) in self.topics.names().into_iter().enumerate() {
            let metadata = self.consumer.ask(|time| self.consumer.fetch_metadata(Some(topic), time));
            let metadata = metadata.map_err(|e| no_answer(&format!("the topic `{topic}`"), e))?;
            let found = metadata.topics().iter().filter(|found| found.name() == topic);
            let found: Vec<i32> = found.flat_map(|found| found.partitions().iter().map(|one| one.id())).collect();
            if found.is_empty() {
                return Err(Error::not_found(format!("there is no topic `{topic}`"))
                    .hint("create it, or correct its name in [source]"));
            }
            if found.len() > PARTITIONS_OF_A_TOPIC as usize {
                return Err(Error::invalid(format!("the topic `{topic}` has {} partitions", found.len()))
                    .hint(format!("a stream reads topics of up to {PARTITIONS_OF_A_TOPIC} partitions")));
            }
            numbers.extend(found.into_iter().map(|partition| Topics::number(place, partition)));
        }
        Ok(numbers)
    }

    pub(super) fn watermarks(&self, number: u32) -> Result<(i64, i64)> {
        let (topic, partition) = self.topics.of(number)?;
        self.consumer.ask(|time| self.consumer.fetch_watermarks(topic, partition, time)).map_err(|e| {
            Error::unavailable(format!("partition {partition} of the topic `{topic}` has no answer: {e}")).cause(e)
        })
    }

    /// Where a partition ends that was read up to `position`, and whose broker
    /// has the events from there on.
    pub(super) fn end_of(&self, number: u32, position: i64) -> Result<i64> {
        let (topic, partition) = self.topics.of(number)?;
        let (low, high) = self.watermarks(number)?;
        if position < low {
            return Err(Error::data(format!(
                "partition {partition} of the topic `{topic}` begins at offset {low}, and offset {position} comes next: events were removed before they were read"
            ))
            .hint("its retention is shorter than this stream was away; write to a new table to begin anew"));
        }
        if position > high {
            let why = format!("ends at offset {high} in partition {partition}, and was read up to {position}");
            return Err(made_again(topic, &why));
        }
        Ok(high)
    }

    /// The first events at or after a time, of partitions that end at `ends`;
    /// those that have none keep their end. Later events are behind it.
    pub(super) fn since(&self, micros: i64, ends: BTreeMap<u32, i64>) -> Result<BTreeMap<u32, i64>> {
        let millis = micros.div_euclid(1000) + i64::from(micros.rem_euclid(1000) > 0);
        let times = self.list(ends.keys().map(|number| (*number, Some(millis.max(0)))))?;
        let found = self
            .consumer
            .ask(|time| self.consumer.offsets_for_times(times.clone(), time))
            .map_err(|e| self.no_answer(e))?;
        let mut since = ends;
        for (number, end) in &mut since {
            let (topic, partition) = self.topics.of(*number)?;
            let Some(element) = found.find_partition(topic, partition) else { continue };
            element.error().map_err(|e| self.no_answer(e))?;
            if let Offset::Offset(offset) = element.offset() {
                *end = offset;
            }
        }
        Ok(since)
    }

    /// Partitions as the client lists them, with what stands beside each.
    pub(super) fn list(&self, partitions: impl Iterator<Item = (u32, Option<i64>)>) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (number, offset) in partitions {
            let (topic, partition) = self.topics.of(number)?;
            let Some(offset) = offset else {
                list.add_partition(topic, partition);
                continue;
            };
            list.add_partition_offset(topic, partition, Offset::Offset(offset))
                .map_err(|e| Error::internal(format!("partition {partition} of the topic `{topic}`: {e}")).cause(e))?;
        }
        Ok(list)
    }

    /// Partitions that are read from these positions on, where their brokers
    /// have the events.
    pub(super) fn starts(&self, positions: &BTreeMap<u32, i64>) -> Result<TopicPartitionList> {
        for (number, position) in positions {
            self.end_of(*number, *position)?;
        }
        self.list(positions.iter().map(|(number, position)| (*number, Some(*position))))
    }
}

fn no_answer(of: &str, error: KafkaError) -> Error {
    Error::unavailable(format!("{of} has no answer: {error}")).cause(error)
}

fn made_again(topic: &str, why: &str) -> Error {
    Error::data(format!("the topic `{topic}` {why}: it was made again"))
        .hint("positions of one topic mean nothing in another: write to a new table")
}
