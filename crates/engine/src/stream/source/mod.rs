//! Where events come from.
//!
//! A source has an *identity*, which is written down beside the positions: a
//! position means nothing in another source. Its partitions are numbered, and
//! what a number means is written down as well, where the source does not
//! number them itself.

mod files;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "kafka")]
mod topic_id;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::Value;

use crate::Result;
use crate::config::SourceSettings;

/// Events of a topic or of a folder of files.
pub trait Source: Send {
    /// What the positions are positions of.
    fn identity(&self) -> &str;

    /// The partitions there are now: of `known` ones nothing but that they
    /// are still the same, of new ones a number, a description and the offset
    /// of their first event.
    ///
    /// # Errors
    /// `Data` when a known partition is gone or is another one now.
    fn partitions(&mut self, known: &BTreeMap<u32, Value>) -> Result<BTreeMap<u32, Partition>>;

    /// By topic where all of its partitions are begun by a stream that has no
    /// position of any, of topics that are not begun at their first events;
    /// [`Source::partitions`] was called before.
    ///
    /// # Errors
    /// `Unavailable` when the source cannot be reached.
    fn begins(&mut self) -> Result<Vec<BTreeMap<u32, i64>>> {
        Ok(Vec::new())
    }

    /// Reads these partitions from these offsets on, and no others.
    ///
    /// # Errors
    /// `Data` when the source has not got the events from there on.
    fn assign(&mut self, positions: &BTreeMap<u32, i64>) -> Result<()>;

    /// The next events; none after `wait`. About `max_bytes` at once.
    ///
    /// # Errors
    /// `Unavailable` when the source cannot be reached, `Data` when events
    /// were lost.
    fn poll(&mut self, max_bytes: usize, wait: Duration) -> Result<Vec<RawPart>>;

    /// The offsets behind the newest events, of partitions that were read up to
    /// these positions; [`Source::partitions`] was called before.
    ///
    /// # Errors
    /// `Unavailable` when the source cannot be reached, `Data` when it has not
    /// got the events from there on.
    fn ends(&mut self, positions: &BTreeMap<u32, i64>) -> Result<BTreeMap<u32, i64>>;

    /// Whether it is certain that an assigned partition has no event that was
    /// not given out. Events of a source that is away are not seen.
    fn is_drained(&mut self, partition: u32) -> bool {
        let _ = partition;
        true
    }

    /// What a person should know of the source since this was asked last; at
    /// last also what there may be of events that was not read.
    fn remarks(&mut self, at_last: bool) -> Vec<String> {
        let _ = at_last;
        Vec::new()
    }

    /// What an assigned partition is known by after it was read up to a
    /// position, where that is more than it was known by before.
    fn describe(&mut self, partition: u32, position: i64) -> Option<Value> {
        let _ = (partition, position);
        None
    }

    /// Whether everything that was there has been given out, as far as the
    /// last poll knew.
    ///
    /// # Errors
    /// `Unavailable` when the source cannot be reached.
    fn at_end(&mut self) -> Result<bool>;

    /// Looks whether what was read is still what its partitions were taken for,
    /// before it is committed.
    ///
    /// # Errors
    /// `Data` when it is another source by now, `Unavailable` when that cannot
    /// be told.
    fn is_still(&mut self) -> Result<()> {
        Ok(())
    }

    /// The rows before these offsets are in their tables.
    fn committed(&mut self, positions: &BTreeMap<u32, i64>) {
        let _ = positions;
    }

    /// What the group wants to be different, of a source whose partitions a
    /// group of processes shares: the same answer until [`Source::assign`] was
    /// called with partitions accordingly.
    fn rebalance(&mut self) -> Option<Rebalance> {
        None
    }

    /// Leaves the group, so that the others need not wait until this process
    /// is missed. Nothing is read after that.
    fn leave(&mut self) {}
}

/// What a group of processes has decided for this one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(any(feature = "kafka", feature = "faults")), expect(dead_code, reason = "only topics have groups"))]
pub enum Rebalance {
    /// These partitions are this process's from now on; there may be none.
    Gained(Vec<u32>),
    /// These are another's.
    Lost(Vec<u32>),
}

/// The group of processes that share a source's partitions out.
#[derive(Debug, Clone, Default)]
#[cfg_attr(not(any(feature = "kafka", feature = "faults")), expect(dead_code, reason = "only topics have groups"))]
pub struct Group {
    /// The group: whoever writes the same table of the same pipeline.
    pub name: String,
    /// The process, by a name that it has again when it is started again;
    /// `None` takes partitions by hand, and only has the group's name.
    pub member: Option<String>,
    /// Set when the stream is to stop: no broker is waited for any more.
    pub stop: Arc<AtomicBool>,
}

/// A partition of a source.
#[derive(Debug, Clone, PartialEq)]
pub struct Partition {
    /// What the source knows it by; null where its number is enough.
    pub description: Value,
    /// The offset of its first event that is there.
    pub start: i64,
}

/// The file that a partition is, by its description; none of a topic's.
pub fn file_of(description: &Value) -> Option<&str> {
    description.get("file")?.as_str()
}

/// Events of one partition, in offset order.
#[derive(Debug, Clone, Default)]
pub struct RawPart {
    /// The partition.
    pub partition: u32,
    /// Where each event stands.
    pub offsets: Vec<i64>,
    /// When each came, microseconds UTC.
    pub arrivals: Vec<i64>,
    /// Where each payload ends in `payload`.
    pub ends: Vec<usize>,
    /// All payloads.
    pub payload: Vec<u8>,
    /// Where each key ends in `keys`; empty when the source has no keys.
    pub key_ends: Vec<usize>,
    /// All keys.
    pub keys: Vec<u8>,
    /// Events whose payload is only the beginning of what was there, and how
    /// many bytes that was.
    pub cut: Vec<(usize, usize)>,
    /// The offset that comes next.
    pub next_offset: i64,
}

impl RawPart {
    /// How many events.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The events from offset `lo` on and before `hi`.
    pub fn between(&self, lo: i64, hi: i64) -> Self {
        let from = self.offsets.partition_point(|offset| *offset < lo);
        let to = self.offsets.partition_point(|offset| *offset < hi).max(from);
        let part = |ends: &[usize], bytes: &[u8]| {
            let Some(own) = ends.get(from..to).filter(|own| !own.is_empty()) else { return Default::default() };
            let first = if from == 0 { 0 } else { ends[from - 1] };
            (own.iter().map(|end| end - first).collect(), bytes[first..ends[to - 1]].to_vec())
        };
        let (ends, payload) = part(&self.ends, &self.payload);
        let (key_ends, keys) = part(&self.key_ends, &self.keys);
        Self {
            partition: self.partition,
            offsets: self.offsets[from..to].to_vec(),
            arrivals: self.arrivals[from..to].to_vec(),
            ends,
            payload,
            key_ends,
            keys,
            cut: self.cut.iter().filter(|(at, _)| (from..to).contains(at)).map(|(at, n)| (at - from, *n)).collect(),
            next_offset: self.next_offset.min(hi),
        }
    }

    /// The payload of an event.
    pub fn payload(&self, index: usize) -> &[u8] {
        let from = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.payload[from..self.ends[index]]
    }

    /// How many bytes an event had of which only the beginning is here.
    pub fn cut(&self, index: usize) -> Option<usize> {
        self.cut.iter().find(|(at, _)| *at == index).map(|(_, length)| *length)
    }

    /// The key of an event.
    pub fn key(&self, index: usize) -> Option<&[u8]> {
        let to = *self.key_ends.get(index)?;
        let from = if index == 0 { 0 } else { self.key_ends[index - 1] };
        (to > from).then(|| &self.keys[from..to])
    }
}

/// Opens the source of a pipeline of the project in `project`.
///
/// # Errors
/// When its settings are wrong or it is not there.
pub fn open(
    project: &Path,
    settings: &SourceSettings,
    clock: &std::sync::Arc<dyn insightera_core::Clock>,
    group: &Group,
) -> Result<Box<dyn Source>> {
    // Files have no groups.
    let _ = group;
    match settings {
        SourceSettings::Files { path } => Ok(Box::new(files::Files::new(project, path, clock.clone())?)),
        #[cfg(feature = "kafka")]
        SourceSettings::Kafka { topics, options, start, .. } => {
            Ok(Box::new(kafka::Kafka::new(topics, options, *start, clock.clone(), group)?))
        }
        #[cfg(not(feature = "kafka"))]
        SourceSettings::Kafka { topics, .. } => Err(crate::Error::invalid(format!(
            "the topic `{}` cannot be read: this insightera was built without Kafka",
            topics.join("`, `")
        ))
        .hint("build it with the feature `kafka`, or read `files`")),
    }
}
