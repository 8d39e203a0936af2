//! How a stream is: what its table says, what its source says, and what the
//! running processes say of themselves. Each is asked by itself, so that one
//! that is away holds the others up no longer than the caller wants.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use insightera_core::stream::position;
use insightera_events::News;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::member::{self, Member};
use super::source::{self, Group, file_of};
use super::starts::{Offsets, starts};
use super::states::{CLOSED, REPLAYS};
use crate::config::{SourceSettings, StreamPipeline};
use crate::lake::TableName;
use crate::lake::commit::StreamState;
use crate::lake::durable;
use crate::workspace::Workspace;
use crate::{Error, Result};

/// What a running stream says of itself, about once a second.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LiveStatus {
    /// The pipeline.
    pub pipeline: String,
    /// The number of the process among those of this project.
    pub process: u32,
    /// The partitions that it reads.
    pub partitions: Vec<u32>,
    /// Its run.
    pub run_id: String,
    /// When it said this, microseconds since the epoch.
    pub at: i64,
    /// Seconds since it started.
    pub seconds: f64,
    /// Whether it has ended.
    pub ended: bool,
    /// Events read by this process.
    pub events: u64,
    /// Predictions made.
    pub rows: u64,
    /// Events that the filter took out.
    pub filtered: u64,
    /// Late events.
    pub late: u64,
    /// Dead letters.
    pub dead: u64,
    /// Alerts.
    pub alerts: u64,
    /// Rows that wait for their commit.
    pub waiting_rows: u64,
    /// Commits.
    pub commits: u64,
    /// Seconds of the last commit.
    pub last_commit_seconds: f64,
    /// Its data files, those of side tables with them.
    pub last_commit_files: u64,
    /// Milliseconds from arrival to prediction: median.
    pub latency_p50_ms: Option<f64>,
    /// And the 95th of a hundred.
    pub latency_p95_ms: Option<f64>,
    /// And the 99th.
    pub latency_p99_ms: Option<f64>,
    /// Bytes of window state.
    pub state_bytes: u64,
    /// Keys with window state.
    pub state_keys: u64,
    /// The oldest watermark of a partition, microseconds since the epoch.
    pub watermark: Option<i64>,
    /// When the joined features were read, microseconds since the epoch.
    pub features_loaded: Option<i64>,
    /// What `model_version` says.
    pub model_version: String,
    /// How events were not what they were, the newest twenty.
    pub drift: Vec<News>,
}

/// How a stream is.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The pipeline.
    pub pipeline: String,
    /// Its prediction table.
    pub table: String,
    /// When the table was read, microseconds since the epoch.
    pub at: i64,
    /// What the positions are positions of.
    pub source: Option<String>,
    /// Why the source could not be asked how much it has.
    pub source_error: Option<String>,
    /// What is to be read yet, of all partitions.
    pub lag: Option<i64>,
    /// What the positions count.
    pub lag_unit: LagUnit,
    /// The last commit.
    pub snapshot_id: Option<i64>,
    /// When, milliseconds since the epoch.
    pub committed_ms: Option<i64>,
    /// By partition.
    pub partitions: Vec<PartitionStatus>,
    /// What the process that spoke last said.
    pub live: Option<LiveStatus>,
    /// What the processes that run now said last.
    pub processes: Vec<LiveStatus>,
}

/// What positions of a source count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LagUnit {
    /// Of a topic, tombstones and the marks of transactions with them.
    Events,
    /// Of files.
    Bytes,
}

impl fmt::Display for LagUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Events => "events",
            Self::Bytes => "bytes",
        })
    }
}

/// How a partition is.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionStatus {
    /// Its number.
    pub partition: u32,
    /// What the source calls it.
    pub name: Option<String>,
    /// The committed position; of one that was never read its first.
    pub position: i64,
    /// Behind the newest event, where the source can be asked.
    pub end: Option<i64>,
    /// From `position` to `end`.
    pub lag: Option<i64>,
    /// How often it has been taken over.
    pub epoch: u64,
    /// Files of its window state.
    pub state_files: usize,
}

/// Where a process writes its status.
fn live_file(workspace: &Workspace, pipeline: &str, process: u32) -> PathBuf {
    member::folder(workspace).join(match process {
        0 => format!("{pipeline}.json"),
        other => format!("{pipeline}~{other}.json"),
    })
}

/// What a process said last.
fn read(file: &Path) -> Result<Option<LiveStatus>> {
    let Ok(bytes) = std::fs::read(file) else { return Ok(None) };
    let live = serde_json::from_slice(&bytes);
    live.map(Some).map_err(|e| Error::data(format!("`{}` cannot be read", file.display())).cause(e))
}

/// Writes the live status; losing it loses nothing.
pub(super) fn publish(workspace: &Workspace, live: &LiveStatus) {
    if let Ok(bytes) = serde_json::to_vec(live) {
        let _ = durable::replace(&live_file(workspace, &live.pipeline, live.process), &bytes, false);
    }
}

/// Where the status of a process goes when another one takes its number.
fn past_file(workspace: &Workspace, pipeline: &str, process: u32) -> PathBuf {
    member::folder(workspace).join(format!("{pipeline}~{process}.past.json"))
}

/// What the process before said is not what the one says that has its number now.
pub(super) fn set_past(workspace: &Workspace, pipeline: &str, process: u32) {
    // Mostly there is none to set aside.
    let _ = std::fs::rename(live_file(workspace, pipeline, process), past_file(workspace, pipeline, process));
}

/// What the prediction table of a stream says.
#[derive(Debug, Clone)]
pub struct TableStatus {
    pipeline: StreamPipeline,
    table: TableName,
    state: StreamState,
    at: i64,
}

impl TableStatus {
    /// Reads the table of the stream `name`.
    ///
    /// # Errors
    /// When the pipeline or its table cannot be read.
    pub fn read(workspace: &Workspace, name: &str) -> Result<Self> {
        let at = workspace.clock().now_micros();
        let pipeline = workspace.project().stream(name)?;
        let table = TableName { namespace: pipeline.output.namespace.clone(), name: pipeline.output.table.clone() };
        let mut state = match workspace.lake().find(&table)? {
            Some(table) => StreamState::read(&table, name)?,
            None => StreamState::default(),
        };
        state.committed.positions.retain(|partition, _| ![CLOSED, REPLAYS].contains(partition));
        Ok(Self { pipeline, table, state, at })
    }
}

/// What the source of a stream says of how much it has, or why it does not.
#[derive(Debug, Clone, Default)]
pub struct SourceStatus {
    error: Option<String>,
    /// Behind the newest event of each partition.
    ends: Offsets,
    /// Where partitions begin that were never read.
    starts: Offsets,
    /// What partitions are known by.
    described: BTreeMap<u32, Value>,
}

impl SourceStatus {
    /// Asks the source; of one that is away it takes as long as it takes to
    /// see that.
    pub fn ask(workspace: &Workspace, table: &TableStatus) -> Self {
        ask(workspace, table).unwrap_or_else(|error| Self::failed(error.to_string()))
    }

    /// Of a source that did not answer.
    pub fn failed(why: String) -> Self {
        Self { error: Some(why), ..Self::default() }
    }
}

/// What the processes of a stream say, those of this machine.
#[derive(Debug, Clone, Default)]
pub struct ProcessStatus {
    /// That spoke last, whether it runs or not.
    last: Option<LiveStatus>,
    running: Vec<LiveStatus>,
}

impl ProcessStatus {
    /// Reads what they said.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(workspace: &Workspace, name: &str) -> Result<Self> {
        let mut said = read(&live_file(workspace, name, 0))?.into_iter().collect::<Vec<_>>();
        let mut running = Vec::new();
        for (number, lives) in Member::all(workspace, name) {
            said.extend(read(&past_file(workspace, name, number))?);
            let live = read(&live_file(workspace, name, number))?;
            if lives {
                running.extend(live.clone());
            }
            said.extend(live);
        }
        Ok(Self { last: said.into_iter().max_by_key(|live| live.at), running })
    }
}

impl Status {
    /// Of what each says.
    pub fn new(table: &TableStatus, source: &SourceStatus, processes: &ProcessStatus) -> Self {
        let TableStatus { pipeline, table, state, at } = table;
        let mut positions = source.starts.clone();
        positions.extend(&state.committed.positions);
        let file = |partition: &u32| {
            let described = state.partitions.get(partition).or_else(|| source.described.get(partition));
            described.and_then(|value| file_of(value)).map(str::to_owned)
        };
        let of_partition = |(partition, position): (&u32, &i64)| {
            let end = source.ends.get(partition).copied();
            PartitionStatus {
                partition: *partition,
                name: match pipeline.source.listed() {
                    Some(_) => Some(pipeline.source.partition_name(*partition)),
                    None => file(partition),
                },
                position: *position,
                end,
                lag: end.map(|end| end - position),
                epoch: state.committed.owners.get(partition).map_or(0, |owner| owner.epoch),
                state_files: state.checkpoints.get(partition).map_or(0, Vec::len),
            }
        };
        let partitions: Vec<_> = positions.iter().map(of_partition).collect();
        Self {
            pipeline: pipeline.name.clone(),
            table: table.to_string(),
            at: *at,
            source: state.committed.source.clone(),
            lag: match source.error {
                None => partitions.iter().map(|partition| partition.lag).sum(),
                Some(_) => None,
            },
            source_error: source.error.clone(),
            lag_unit: match pipeline.source {
                SourceSettings::Kafka { .. } => LagUnit::Events,
                SourceSettings::Files { .. } => LagUnit::Bytes,
            },
            snapshot_id: state.snapshot_id,
            committed_ms: state.snapshot_id.map(|_| state.committed_ms),
            partitions,
            live: processes.last.clone(),
            processes: processes.running.clone(),
        }
    }
}

/// The status of the stream `name`.
///
/// # Errors
/// When the pipeline or its table cannot be read.
pub fn status(workspace: &Workspace, name: &str) -> Result<Status> {
    let table = TableStatus::read(workspace, name)?;
    let source = SourceStatus::ask(workspace, &table);
    Ok(Status::new(&table, &source, &ProcessStatus::read(workspace, name)?))
}

fn ask(workspace: &Workspace, table: &TableStatus) -> Result<SourceStatus> {
    let TableStatus { pipeline, state, .. } = table;
    let group = Group { name: format!("insightera-status-{}", pipeline.name), ..Group::default() };
    let mut source = source::open(&workspace.project().dir, &pipeline.source, workspace.clock(), &group)?;
    if let Some(other) =
        state.committed.source.as_deref().filter(|other| !position::continues(other, source.identity()))
    {
        return Err(Error::data(format!("the positions are of `{other}`, and [source] is `{}`", source.identity())));
    }
    let found = source.partitions(&state.partitions)?;
    let mut positions = state.committed.positions.clone();
    if found.keys().any(|partition| !positions.contains_key(partition)) {
        let first = found.iter().map(|(partition, found)| (*partition, found.start)).collect();
        for (partition, start) in starts(&state.committed.positions, &first, &source.begins()?).all {
            positions.entry(partition).or_insert(start);
        }
    }
    let ends = source.ends(&positions)?;
    positions.retain(|partition, _| !state.committed.positions.contains_key(partition));
    Ok(SourceStatus {
        error: None,
        ends,
        starts: positions,
        described: found.into_iter().map(|(partition, found)| (partition, found.description)).collect(),
    })
}
