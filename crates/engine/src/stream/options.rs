//! What the caller of a stream wants, and what it is told.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::RecordBatch;
use serde::Serialize;

use super::flow::Counts;
use super::status::LiveStatus;
use crate::notify::Warn;

/// Somebody who is told of a `T`.
pub type Told<T> = Arc<dyn Fn(&T) + Send + Sync>;

/// What the caller wants.
#[derive(Clone, Default)]
pub struct StreamOptions {
    /// End when every event that is there has been committed.
    pub until_end: bool,
    /// Only these partitions; the others are other processes'.
    pub partitions: Option<Vec<u32>>,
    /// Set to end: what was read is committed first.
    pub stop: Arc<AtomicBool>,
    /// Told of every alert at once.
    pub on_alert: Option<Told<Alert>>,
    /// Told how it goes, about once a second.
    pub on_status: Option<Told<LiveStatus>>,
    /// Told of what went wrong beside the stream.
    pub on_warning: Option<Warn>,
}

impl fmt::Debug for StreamOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamOptions {{ until_end: {}, partitions: {:?} }}", self.until_end, self.partitions)
    }
}

/// Rows that somebody should know of. A row is in the alerts' table exactly
/// once. It is told at once, and again by a stream that ended before its commit:
/// that waits until notifiers have taken it, some seconds at most.
#[derive(Debug, Clone)]
pub struct Alert {
    /// The pipeline.
    pub pipeline: String,
    /// The alert's name.
    pub name: String,
    /// The prediction rows.
    pub rows: RecordBatch,
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamEnd {
    /// It was told to.
    Stopped,
    /// There were no more events.
    EndOfEvents,
}

/// What a stream did.
#[derive(Debug, Clone, Serialize)]
pub struct StreamSummary {
    /// The pipeline.
    pub pipeline: String,
    /// The run.
    pub run_id: String,
    /// Why it ended.
    pub end: StreamEnd,
    /// What became of the events.
    #[serde(flatten)]
    pub counts: Counts,
    /// Commits of the prediction table.
    pub commits: u64,
    /// The last of them.
    pub snapshot_id: Option<i64>,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Milliseconds from arrival to prediction: median.
    pub latency_p50_ms: Option<f64>,
    /// And the 99th of a hundred.
    pub latency_p99_ms: Option<f64>,
}
