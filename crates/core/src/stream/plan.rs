//! Checked settings, compiled to the layout of the state.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::codec::Writer;
use super::error::StreamError;
use super::hash::hash_bytes;
use super::output::{ClosedRows, EventOutput, OutColumn, SetOutput};
use super::settings::{Aggregate, ColumnType, Function, KeyType, LatePolicy, Settings, WindowSet};
use super::slab::CHUNK;
use super::tiles::{SPAN_LIMIT, Tiles};

/// Words of 8 bytes that the state of one key may have.
const WORDS_PER_KEY: i64 = 1 << 16;

/// Checked settings; the windows of every partition of a stream share one.
#[derive(Debug)]
pub struct Plan {
    settings: Settings,
    pub(crate) sets: Vec<SetPlan>,
    /// How far behind the newest event of its partition an event may be and
    /// still enter a window.
    pub(crate) reach_back: i64,
    /// Bytes by which sketches and byte values of one event can grow, but for
    /// the values themselves.
    pub(crate) growth: u64,
    /// Bytes by which greater numbers of one event can grow the rows.
    pub(crate) widest: u64,
    /// Whether any state is held outside the rows.
    pub(crate) has_blobs: bool,
    pub(crate) fingerprint: u64,
}

/// One window set.
#[derive(Debug)]
pub(crate) struct SetPlan {
    pub name: String,
    pub key: usize,
    pub tiles: Tiles,
    pub aggregates: Vec<AggregatePlan>,
    /// What each word of a tile's state is.
    pub words: Vec<WordKind>,
    /// Tiles that are kept of a key.
    pub ring: i64,
    pub has_blobs: bool,
}

/// One aggregate and where its state is in a tile.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AggregatePlan {
    pub operation: Operation,
    pub argument: Option<usize>,
    pub filter: Option<usize>,
    pub at: usize,
    pub output: ColumnType,
}

/// What an aggregate keeps, for the type of its argument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Operation {
    /// `[count]`
    Count,
    /// `[sum, count]`, of doubles; the argument may be longs.
    SumDouble,
    /// `[low, high, count]`
    SumLong,
    /// As `SumDouble`.
    Avg,
    /// `[value, count]`
    ExtremeDouble { greatest: bool },
    /// `[value, count]`
    ExtremeLong { greatest: bool },
    /// `[value, time, flags]`
    Edge { last: bool, ignore_nulls: bool },
    /// `[sketch]`
    Distinct,
    /// `[sketch]`
    Quantile { q: f64 },
}

/// What a word of state means to the codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WordKind {
    /// A number that is often small.
    Number,
    /// The bits of a double.
    Double,
    /// Where a sketch is kept.
    Distinct,
    /// Where a sketch is kept.
    Quantile,
    /// Where a byte value is kept.
    Bytes,
}

impl WordKind {
    pub fn is_blob(self) -> bool {
        matches!(self, Self::Distinct | Self::Quantile | Self::Bytes)
    }
}

impl Plan {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`StreamError::Settings`] names what does not fit together.
    pub fn new(settings: Settings) -> Result<Arc<Self>, StreamError> {
        let refuse = |reason: String| Err(StreamError::Settings(reason));
        let grace = match settings.late {
            LatePolicy::SideOutput => 0,
            LatePolicy::IntoWindow { grace } => grace,
        };
        let spans =
            [("allowed_lateness", settings.allowed_lateness), ("max_future", settings.max_future), ("grace", grace)];
        for (name, span) in spans {
            if !(0..=SPAN_LIMIT).contains(&span) {
                return refuse(format!("`{name}` is {span} microseconds, and must be from 0 to {SPAN_LIMIT}"));
            }
        }
        if settings.sets.is_empty() {
            return refuse("there is no window set".to_owned());
        }
        let reach_back = settings.allowed_lateness + grace;
        let mut sets = Vec::new();
        for set in &settings.sets {
            match SetPlan::new(set, &settings, reach_back) {
                Ok(plan) => sets.push(plan),
                Err(reason) => return refuse(format!("window set `{}`: {reason}", set.name)),
            }
        }
        for key in 0..settings.keys.len() {
            let of_key = sets.iter().filter(|set| set.key == key);
            let words: i64 = of_key.map(|set| 1 + set.ring * set.words.len() as i64).sum();
            if words > WORDS_PER_KEY {
                return refuse(format!(
                    "key {key} would need {words} words for each entity, more than {WORDS_PER_KEY}; hint: coarser tiles or less lateness"
                ));
            }
        }
        let growth = sets.iter().flat_map(|set| &set.words).map(|kind| match kind {
            WordKind::Number | WordKind::Double => 0,
            WordKind::Distinct => 8 << 10,
            WordKind::Quantile => 64 << 10,
            WordKind::Bytes => 256,
        });
        let growth = growth.sum();
        let widest = sets.iter().map(|set| (CHUNK * 7 * set.row_words()) as u64).sum();
        let has_blobs = sets.iter().any(|set| set.has_blobs);
        let fingerprint = fingerprint(&settings);
        Ok(Arc::new(Self { settings, sets, reach_back, growth, widest, has_blobs, fingerprint }))
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// An empty output for [`EachEvent::process`](super::EachEvent::process).
    pub fn event_output(&self) -> EventOutput {
        let sets = self.sets.iter().map(|set| SetOutput {
            window_ends: Vec::new(),
            complete: Vec::new(),
            columns: set.columns(),
        });
        EventOutput { dispositions: Vec::new(), sets: sets.collect() }
    }

    /// Empty outputs for [`close`](super::close), one for each window set.
    pub fn closed_output(&self) -> Vec<ClosedRows> {
        let rows = self.sets.iter().map(|set| ClosedRows {
            keys: OutColumn::new(match self.settings.keys[set.key] {
                KeyType::Bytes => ColumnType::Bytes,
                KeyType::Id => ColumnType::Long,
            }),
            window_starts: Vec::new(),
            window_ends: Vec::new(),
            complete: Vec::new(),
            columns: set.columns(),
        });
        rows.collect()
    }

    /// Bytes of state that one key of `key_length` bytes takes in `each_event`,
    /// at least and at most: its row, its place in the key table (at its
    /// emptiest) and the key itself. A row is small while counts and sums are
    /// below 256. Sketches and byte values come on top.
    pub fn bytes_per_key(&self, key: usize, key_length: usize) -> RangeInclusive<u64> {
        let sets = || self.sets.iter().filter(|set| set.key == key);
        let words: u64 = sets().map(|set| set.row_words() as u64).sum();
        let key_bytes = if self.settings.keys[key] == KeyType::Id { 0 } else { key_length as u64 * 9 / 8 };
        let rest = (1 + sets().count() as u64) * 8 + 22 + 1 + key_bytes;
        rest + words..=rest + words * 8
    }
}

impl SetPlan {
    fn new(set: &WindowSet, settings: &Settings, reach_back: i64) -> Result<Self, String> {
        if set.key >= settings.keys.len() {
            return Err(format!("there is no key {}", set.key));
        }
        let tiles = Tiles::new(set.window)?;
        let mut words = Vec::new();
        let mut aggregates = Vec::new();
        for aggregate in &set.aggregates {
            let plan = AggregatePlan::new(aggregate, &settings.columns, &mut words)
                .map_err(|reason| format!("aggregate `{}`: {reason}", aggregate.name))?;
            aggregates.push(plan);
        }
        let ring = tiles.per_window.saturating_add(tiles.reach(reach_back));
        if ring.checked_mul(words.len().max(1) as i64).is_none_or(|words| words > WORDS_PER_KEY) {
            return Err(format!("{ring} tiles are too many; hint: coarser tiles or less lateness"));
        }
        let has_blobs = words.iter().any(|kind| kind.is_blob());
        Ok(Self { name: set.name.clone(), key: set.key, tiles, aggregates, words, ring, has_blobs })
    }

    fn columns(&self) -> Vec<OutColumn> {
        self.aggregates.iter().map(|aggregate| OutColumn::new(aggregate.output)).collect()
    }

    /// Words of a key's row that belong to this set in `each_event`, besides
    /// the newest tile.
    pub fn row_words(&self) -> usize {
        self.ring as usize * self.words.len()
    }
}

impl AggregatePlan {
    fn new(aggregate: &Aggregate, columns: &[ColumnType], words: &mut Vec<WordKind>) -> Result<Self, String> {
        let column = |index: usize| columns.get(index).copied().ok_or(format!("there is no column {index}"));
        if let Some(filter) = aggregate.filter
            && column(filter)? != ColumnType::Boolean
        {
            return Err(format!("its filter, column {filter}, is not boolean"));
        }
        let argument = aggregate.argument.map(column).transpose()?;
        let at = words.len();
        let numeric = matches!(argument, Some(ColumnType::Double | ColumnType::Long));
        let (operation, output) = match (aggregate.function, argument) {
            (Function::Count, _) => (Operation::Count, ColumnType::Long),
            (_, None) => return Err("it needs an argument".to_owned()),
            (Function::Sum, Some(ColumnType::Double)) => (Operation::SumDouble, ColumnType::Double),
            (Function::Sum, Some(ColumnType::Long)) => (Operation::SumLong, ColumnType::Long),
            (Function::Avg, Some(_)) if numeric => (Operation::Avg, ColumnType::Double),
            (Function::Min, Some(ColumnType::Double)) => {
                (Operation::ExtremeDouble { greatest: false }, ColumnType::Double)
            }
            (Function::Max, Some(ColumnType::Double)) => {
                (Operation::ExtremeDouble { greatest: true }, ColumnType::Double)
            }
            (Function::Min, Some(ColumnType::Long)) => (Operation::ExtremeLong { greatest: false }, ColumnType::Long),
            (Function::Max, Some(ColumnType::Long)) => (Operation::ExtremeLong { greatest: true }, ColumnType::Long),
            (Function::First { ignore_nulls }, Some(of)) => (Operation::Edge { last: false, ignore_nulls }, of),
            (Function::Last { ignore_nulls }, Some(of)) => (Operation::Edge { last: true, ignore_nulls }, of),
            (Function::ApproxDistinct, Some(_)) => (Operation::Distinct, ColumnType::Long),
            (Function::Quantile { q }, Some(_)) if numeric && (0.0..=1.0).contains(&q) => {
                (Operation::Quantile { q }, ColumnType::Double)
            }
            (Function::Quantile { q }, Some(_)) if numeric => return Err(format!("{q} is not from 0 to 1")),
            (function, Some(of)) => return Err(format!("{function:?} of {of:?} is not defined")),
        };
        use WordKind::{Bytes, Distinct, Double, Number, Quantile};
        words.extend_from_slice(match (operation, output) {
            (Operation::Count, _) => &[Number],
            (Operation::SumDouble | Operation::Avg | Operation::ExtremeDouble { .. }, _) => &[Double, Number],
            (Operation::SumLong, _) => &[Number, Number, Number],
            (Operation::ExtremeLong { .. }, _) => &[Number, Number],
            (Operation::Edge { .. }, ColumnType::Double) => &[Double, Number, Number],
            (Operation::Edge { .. }, ColumnType::Bytes) => &[Bytes, Number, Number],
            (Operation::Edge { .. }, _) => &[Number, Number, Number],
            (Operation::Distinct, _) => &[Distinct],
            (Operation::Quantile { .. }, _) => &[Quantile],
        });
        Ok(Self { operation, argument: aggregate.argument, filter: aggregate.filter, at, output })
    }
}

/// What a checkpoint must agree with: all that decides the layout and meaning
/// of the state, without names and bounds.
fn fingerprint(settings: &Settings) -> u64 {
    let mut writer = Writer::default();
    writer.number(settings.keys.len() as u64);
    settings.keys.iter().for_each(|key| writer.byte(*key as u8));
    writer.number(settings.columns.len() as u64);
    settings.columns.iter().for_each(|column| writer.byte(*column as u8));
    // Without one it is as it was before there were any.
    if settings.meaning != 0 {
        writer.number(settings.meaning);
    }
    writer.signed(settings.allowed_lateness);
    writer.signed(match settings.late {
        LatePolicy::SideOutput => -1,
        LatePolicy::IntoWindow { grace } => grace,
    });
    for set in &settings.sets {
        writer.number(set.key as u64);
        let (kind, a, b, offset) = match set.window {
            super::Window::Tumbling { size, offset } => (0, size, size, offset),
            super::Window::Hopping { size, slide, offset } => (1, size, slide, offset),
            super::Window::Rolling { tile, tiles, offset } => (2, tile, tiles, offset),
        };
        writer.byte(kind);
        [a, b, offset].into_iter().for_each(|number| writer.signed(number));
        writer.number(set.aggregates.len() as u64);
        for aggregate in &set.aggregates {
            let (function, detail) = match aggregate.function {
                Function::Count => (0, 0),
                Function::Sum => (1, 0),
                Function::Avg => (2, 0),
                Function::Min => (3, 0),
                Function::Max => (4, 0),
                Function::First { ignore_nulls } => (5, u64::from(ignore_nulls)),
                Function::Last { ignore_nulls } => (6, u64::from(ignore_nulls)),
                Function::ApproxDistinct => (7, 0),
                // The sketch is the same whatever is asked of it.
                Function::Quantile { .. } => (8, 0),
            };
            writer.byte(function);
            writer.number(detail);
            for index in [aggregate.argument, aggregate.filter] {
                writer.number(index.map_or(0, |index| index as u64 + 1));
            }
        }
    }
    hash_bytes(&writer.into_bytes())
}
