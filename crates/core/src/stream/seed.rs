//! What is known of a key's windows from before the stream began.

use super::error::StreamError;
use super::input::Key;
use super::plan::{AggregatePlan, Operation, SetPlan};

/// A key that this state has not got, as its first event comes.
#[derive(Debug, Clone, Copy)]
pub struct NewKey<'a> {
    /// Index into [`Settings::keys`](super::Settings::keys).
    pub index: usize,
    /// The key.
    pub key: Key<'a>,
    /// When its event happened.
    pub event_time: i64,
    /// From when on the stream has all events; tiles before may be seeded, and
    /// the tile of this time with its part before.
    pub covered_from: i64,
}

/// The past of one key in one window set. With it the key's windows count as
/// complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Seed {
    /// Index into [`Settings::sets`](super::Settings::sets).
    pub set: usize,
    /// Tiles, each by any time in it, with a part for each aggregate.
    pub tiles: Vec<(i64, Vec<Part>)>,
}

/// The value of an aggregate over one tile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Part {
    /// No event in the tile.
    Empty,
    /// Of `count`.
    Count(u64),
    /// Of `sum` and `avg` of doubles, and `avg` of longs.
    Sum {
        /// The sum.
        sum: f64,
        /// How many values are in it.
        count: u64,
    },
    /// Of `sum` of longs.
    LongSum {
        /// The sum.
        sum: i64,
        /// How many values are in it.
        count: u64,
    },
    /// Of `min` and `max` of doubles.
    Double(f64),
    /// Of `min` and `max` of longs.
    Long(i64),
}

impl Part {
    /// Spreads the count of a whole window over its tiles, from old to new,
    /// for a history that knows no more: as evenly as can be, the newest tiles
    /// taking the rest. As the window moves on, an equal share leaves it.
    pub fn spread_count(count: u64, tiles: usize) -> Vec<Part> {
        let tiles = tiles.max(1) as u64;
        let (share, rest) = (count / tiles, count % tiles);
        (0..tiles).map(|tile| Part::Count(share + u64::from(tile >= tiles - rest))).collect()
    }
}

impl Seed {
    /// Checks the seed for a window set.
    pub(crate) fn check(&self, set: &SetPlan, covered_from: i64) -> Result<(), StreamError> {
        let refuse = |reason: String| Err(StreamError::Seed { set: set.name.clone(), reason });
        let last = set.tiles.tile_of(covered_from);
        for (time, parts) in &self.tiles {
            if !(-super::tiles::TIME_LIMIT..=super::tiles::TIME_LIMIT).contains(time) {
                return refuse(format!("time {time} is out of range"));
            }
            if set.tiles.tile_of(*time) > last {
                return refuse(format!("its tile at {time} is one that the stream covers"));
            }
            if parts.len() != set.aggregates.len() {
                return refuse(format!("it has {} parts for {} aggregates", parts.len(), set.aggregates.len()));
            }
            for (part, aggregate) in parts.iter().zip(&set.aggregates) {
                if part.words(aggregate).is_none() {
                    return refuse(format!("{part:?} is not a part of {:?}", aggregate.operation));
                }
            }
        }
        Ok(())
    }
}

impl Part {
    /// The state of the aggregate that this is, in its words.
    pub(crate) fn words(&self, aggregate: &AggregatePlan) -> Option<Vec<u64>> {
        let words = match (*self, aggregate.operation) {
            (Self::Empty, _) => Vec::new(),
            (Self::Count(count), Operation::Count) => vec![count],
            (Self::Sum { sum, count }, Operation::SumDouble | Operation::Avg) => vec![sum.to_bits(), count],
            (Self::LongSum { sum, count }, Operation::SumLong) => vec![sum as u64, (sum >> 63) as u64, count],
            (Self::Double(value), Operation::ExtremeDouble { .. }) => vec![value.to_bits(), 1],
            (Self::Long(value), Operation::ExtremeLong { .. }) => vec![value as u64, 1],
            _ => return None,
        };
        Some(words)
    }
}
