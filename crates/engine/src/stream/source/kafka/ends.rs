//! Whether partitions were read to their ends.

use std::collections::BTreeSet;

use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::Offset;

use super::{ATTEMPT, Kafka};

/// Seconds after which a partition that ended somewhere, and brought nothing
/// since, is taken for one that has nothing: the client reconnects sooner.
const QUIET: f64 = 30.0;
/// Seconds after which a broker is asked again where partitions end that has not
/// said so.
const AWAY: f64 = 5.0;

/// Partitions that were read to their end.
#[derive(Debug, Default)]
pub struct Ends {
    certain: BTreeSet<u32>,
    /// A partition of their number was, of some topic.
    perhaps: BTreeSet<u32>,
}

impl Ends {
    /// A partition is read on, or elsewhere.
    pub fn remove(&mut self, number: u32) {
        self.certain.remove(&number);
        self.perhaps.remove(&number);
    }
}

impl Kafka {
    /// A partition of this number has ended, of a topic that the client does not
    /// name.
    pub(super) fn ended(&mut self, partition: i32) {
        let of: Vec<u32> = self.topics.all(partition).filter(|number| self.assigned.contains_key(number)).collect();
        match of.as_slice() {
            [number] => drop(self.ends.certain.insert(*number)),
            several => self.ends.perhaps.extend(several.iter().filter(|number| !self.ends.certain.contains(number))),
        }
    }

    /// Where a partition begins and ends, if its broker says so at once. After one
    /// that did not none is asked for some seconds.
    fn glance(&mut self, number: u32) -> Option<(i64, i64)> {
        let (topic, partition) = self.topics.of(number).ok()?;
        if self.clock.monotonic_seconds() < self.away {
            return None;
        }
        let found = self.consumer.fetch_watermarks(topic, partition, ATTEMPT);
        if found.is_err() {
            self.away = self.clock.monotonic_seconds() + AWAY;
        }
        found.ok()
    }

    /// Whether a partition was read to its end. The client's own position is
    /// behind marks of transactions as well.
    pub(super) fn is_at_end(&mut self, number: u32) -> bool {
        if self.ends.certain.contains(&number) || !self.ends.perhaps.contains(&number) {
            return self.ends.certain.contains(&number);
        }
        let Some((_, end)) = self.glance(number) else { return false };
        let (Ok(positions), Ok((topic, partition))) = (self.consumer.position(), self.topics.of(number)) else {
            return false;
        };
        let position = positions.find_partition(topic, partition).map(|element| element.offset());
        let own = self.assigned.get(&number).copied().unwrap_or(i64::MIN);
        let has_ended = match position {
            Some(Offset::Offset(position)) => position.max(own) >= end,
            _ => own >= end,
        };
        if has_ended {
            self.ends.perhaps.remove(&number);
            self.ends.certain.insert(number);
        }
        has_ended
    }

    /// The client may be away from a broker that others reach, and does not say
    /// so. What it read to its end ends there still, a while later.
    pub(super) fn is_quiet(&mut self, partition: u32) -> bool {
        if !self.is_at_end(partition) {
            self.quiet.remove(&partition);
            return false;
        }
        let now = self.clock.monotonic_seconds();
        match self.quiet.get(&partition).copied() {
            Some((since, _)) if now - since < QUIET => false,
            known => {
                let Some((_, end)) = self.glance(partition) else { return false };
                let same = known.is_some_and(|(_, before)| before == end);
                if !same {
                    self.quiet.insert(partition, (now, end));
                }
                same
            }
        }
    }
}
