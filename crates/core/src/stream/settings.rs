//! What a user declares: plain data, checked by [`Plan::new`](super::Plan::new).

use serde::{Deserialize, Serialize};

/// Everything that decides what the windows of a stream are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The keys by which windows are kept; a batch brings one key column for
    /// each.
    pub keys: Vec<KeyType>,
    /// The argument columns that a batch brings.
    pub columns: Vec<ColumnType>,
    /// The window sets.
    pub sets: Vec<WindowSet>,
    /// What keys and columns are made of, as a number: state of another meaning
    /// is of other windows.
    #[serde(default)]
    pub meaning: u64,
    /// Microseconds by which an event may be older than the newest event of
    /// its partition without being late.
    pub allowed_lateness: i64,
    /// Microseconds by which an event's time may be after its arrival.
    pub max_future: i64,
    /// What happens to late events.
    #[serde(default)]
    pub late: LatePolicy,
    /// The bound on the state of one partition.
    pub max_state_bytes: u64,
}

/// How keys are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyType {
    /// The encoded entity key.
    Bytes,
    /// A number that the caller keeps for the key, the same for ever.
    Id,
}

/// The type of an argument column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// 64-bit floating point.
    Double,
    /// 64-bit integer.
    Long,
    /// Boolean.
    Boolean,
    /// Bytes or UTF-8 text.
    Bytes,
}

/// What happens to an event that is older than the watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatePolicy {
    /// It is reported as late and touches no window.
    #[default]
    SideOutput,
    /// It enters the window of its own day, up to `grace` microseconds behind
    /// the watermark; beyond, it is reported as late. Only for `each_event`:
    /// a closed window cannot be emitted again.
    IntoWindow {
        /// Microseconds behind the watermark.
        grace: i64,
    },
}

/// Aggregates over one window, kept by one key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSet {
    /// Its name, for messages.
    pub name: String,
    /// Index into [`Settings::keys`].
    pub key: usize,
    /// The window.
    pub window: Window,
    /// The aggregates, one output column each.
    pub aggregates: Vec<Aggregate>,
}

/// Windows in event time, in microseconds, aligned to the epoch plus `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Window {
    /// One window after the other.
    Tumbling {
        /// Length of a window.
        size: i64,
        /// Shift against the epoch.
        #[serde(default)]
        offset: i64,
    },
    /// Windows of `size` that start every `slide`.
    Hopping {
        /// Length of a window.
        size: i64,
        /// Distance of two starts; at most `size`.
        slide: i64,
        /// Shift against the epoch.
        #[serde(default)]
        offset: i64,
    },
    /// The last `tiles` tiles, the event's own included.
    Rolling {
        /// Length of a tile: a UTC day is 86,400,000,000.
        tile: i64,
        /// How many tiles.
        tiles: i64,
        /// Shift against the epoch.
        #[serde(default)]
        offset: i64,
    },
}

/// One aggregate: `function(argument) FILTER (WHERE filter)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aggregate {
    /// Its name, for messages.
    pub name: String,
    /// What is computed.
    pub function: Function,
    /// Index into [`Settings::columns`]; only `count` may go without.
    #[serde(default)]
    pub argument: Option<usize>,
    /// Index of a boolean column; events where it is false or null are left out.
    #[serde(default)]
    pub filter: Option<usize>,
}

/// What is computed over the events of a window. All but `count` without an
/// argument and `first`, `last` pass over nulls; over no value at all counts
/// are 0 and the others null.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    /// Events, or those with an argument that is not null.
    Count,
    /// The sum: a double, or a long, which is null beyond 64 bits.
    Sum,
    /// The mean, a double.
    Avg,
    /// The smallest value; NaN is greater than every number, as in Spark.
    Min,
    /// The greatest value; NaN is greater than every number, as in Spark.
    Max,
    /// The value of the earliest event, ties by the smaller (partition,
    /// offset); its null is a value unless `ignore_nulls`.
    First {
        /// Pass over nulls.
        #[serde(default)]
        ignore_nulls: bool,
    },
    /// The value of the latest event, ties by the greater (partition, offset);
    /// its null is a value unless `ignore_nulls`.
    Last {
        /// Pass over nulls.
        #[serde(default)]
        ignore_nulls: bool,
    },
    /// The number of different values: exact up to 256, beyond with a
    /// standard error of 1.6 %.
    ApproxDistinct,
    /// The value at rank `floor(q * (n - 1))`, within 0.79 %.
    Quantile {
        /// From 0 to 1.
        q: f64,
    },
}
