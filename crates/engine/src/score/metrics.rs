//! `ml_monitoring.inference_metrics`: one row per stage of every run, and one
//! for the whole. Rows of commits keep when that was, past the expiry of their
//! snapshots.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::DataType;
use iceberg::spec::Transform;

use super::run::{RunReport, RunStatus};
use crate::lake::commit::{self, Change, Outcome};
use crate::lake::schema::{Column, timestamptz};
use crate::lake::writer::{TableWriter, WriteOptions};
use crate::lake::{NewTable, TableName};
use crate::workspace::Workspace;
use crate::{Error, Result};

/// The table's name.
pub fn table_name() -> TableName {
    TableName { namespace: "ml_monitoring".into(), name: "inference_metrics".into() }
}

fn new_table() -> NewTable {
    let text = |name: &str| Column::nullable(name, DataType::Utf8);
    let number = |name: &str| Column::nullable(name, DataType::Int64);
    let columns = vec![
        Column::required("pipeline", DataType::Utf8),
        Column::required("run_id", DataType::Utf8),
        Column::required("stage", DataType::Utf8),
        text("model_name"),
        text("model_version"),
        text("inference_type"),
        text("status"),
        text("strategy"),
        number("snapshot_id"),
        number("batch_size"),
        number("bytes"),
        Column::nullable("seconds", DataType::Float64),
        Column::nullable("latency_ms", DataType::Float64),
        Column::nullable("throughput", DataType::Float64),
        Column::required("timestamp", timestamptz()),
        Column::nullable("committed_at", timestamptz()),
        Column::nullable("predicted_until", timestamptz()),
    ];
    let properties = [
        ("write.metadata.previous-versions-max".to_owned(), "20".to_owned()),
        ("write.metadata.delete-after-commit.enabled".to_owned(), "true".to_owned()),
    ];
    let properties = properties.into();
    let partition_by = vec![("timestamp".into(), Transform::Month)];
    NewTable { name: table_name(), columns, partition_by, properties, location: None }
}

/// What all rows of an append have in common.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The pipeline.
    pub pipeline: String,
    /// The run.
    pub run_id: String,
    /// The model's name.
    pub model_name: Option<String>,
    /// Its version.
    pub model_version: Option<String>,
    /// `batch`, `as_of` or `stream`.
    pub inference_type: String,
    /// How it ended.
    pub status: String,
    /// How rows were chosen.
    pub strategy: String,
    /// The commit.
    pub snapshot_id: Option<i64>,
    /// When it was, microseconds since the epoch.
    pub committed_at: Option<i64>,
    /// Rows that were written.
    pub batch_size: u64,
    /// Bytes that were written, where that is known.
    pub bytes: Option<u64>,
}

/// One stage, one commit, or one percentile or bucket of a latency.
#[derive(Debug, Clone, Default)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// How long it took, where that is known.
    pub seconds: Option<f64>,
    /// Rows a second.
    pub throughput: Option<f64>,
    /// Its rows, where they are not those of the whole.
    pub rows: Option<u64>,
    /// Which commit it is about, where that is not the commit of the whole.
    pub commit: Option<CommitFacts>,
}

/// A commit of a run that has several.
#[derive(Debug, Clone, Default)]
pub struct CommitFacts {
    /// Its snapshot.
    pub snapshot_id: i64,
    /// When it was, microseconds since the epoch.
    pub committed_at: i64,
    /// The newest prediction in it, microseconds since the epoch: that of a row
    /// is in the first commit of its run for which this is not before it.
    pub predicted_until: Option<i64>,
}

/// Appends the stages of a run; `throughput` is rows per second.
pub fn append(workspace: &Workspace, report: &RunReport) -> Result<()> {
    let scored = report.scored + report.removed;
    let facts = Facts {
        pipeline: report.pipeline.clone(),
        run_id: report.run_id.clone(),
        model_name: report.model.as_ref().map(|m| m.name.clone()),
        model_version: report.model.as_ref().map(|m| m.version.to_string()),
        inference_type: if report.as_of.is_some() { super::AS_OF } else { "batch" }.into(),
        status: if report.status == RunStatus::Committed { "committed" } else { "unchanged" }.into(),
        strategy: report.strategy.into(),
        snapshot_id: report.snapshot_id,
        committed_at: report.committed_at,
        batch_size: scored,
        bytes: Some(report.bytes_written),
    };
    let stages = report.stages.iter().map(|(name, seconds)| (*name, *seconds)).chain([("total", report.seconds)]);
    let stages: Vec<Stage> = stages
        .map(|(name, seconds)| Stage {
            name: name.to_owned(),
            seconds: Some(seconds),
            throughput: (seconds > 0.0 && scored > 0).then(|| scored as f64 / seconds),
            ..Stage::default()
        })
        .collect();
    append_stages(workspace, &facts, &stages)
}

/// Appends a row for each stage.
pub fn append_stages(workspace: &Workspace, facts: &Facts, stages: &[Stage]) -> Result<()> {
    let lake = workspace.lake();
    let table = lake.table_with(&new_table())?;
    let rows = stages.len();
    let repeated = |value: Option<&str>| Arc::new(StringArray::from(vec![value; rows])) as ArrayRef;
    let numbers = |value: &dyn Fn(&Stage) -> Option<i64>| Arc::new(stages.iter().map(value).collect::<Int64Array>());
    let times = |value: &dyn Fn(&Stage) -> Option<i64>| {
        Arc::new(stages.iter().map(value).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
    };
    let now = workspace.clock().now_micros();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("pipeline", repeated(Some(&facts.pipeline))),
        ("run_id", repeated(Some(&facts.run_id))),
        ("stage", Arc::new(StringArray::from_iter_values(stages.iter().map(|stage| &stage.name)))),
        ("model_name", repeated(facts.model_name.as_deref())),
        ("model_version", repeated(facts.model_version.as_deref())),
        ("inference_type", repeated(Some(&facts.inference_type))),
        ("status", repeated(Some(&facts.status))),
        ("strategy", repeated(Some(&facts.strategy))),
        ("snapshot_id", numbers(&|stage| stage.commit.as_ref().map(|own| own.snapshot_id).or(facts.snapshot_id))),
        ("batch_size", numbers(&|stage| Some(stage.rows.unwrap_or(facts.batch_size) as i64))),
        ("bytes", numbers(&|_| facts.bytes.map(|bytes| bytes as i64))),
        ("seconds", Arc::new(Float64Array::from_iter(stages.iter().map(|stage| stage.seconds)))),
        ("latency_ms", Arc::new(Float64Array::from_iter(stages.iter().map(|stage| Some(stage.seconds? * 1000.0))))),
        ("throughput", Arc::new(Float64Array::from_iter(stages.iter().map(|stage| stage.throughput)))),
        ("timestamp", times(&|_| Some(now))),
        ("committed_at", times(&|stage| stage.commit.as_ref().map(|own| own.committed_at).or(facts.committed_at))),
        ("predicted_until", times(&|stage| stage.commit.as_ref().and_then(|own| own.predicted_until))),
    ];
    let batch = RecordBatch::try_from_iter(columns).map_err(|e| Error::internal(format!("metrics: {e}")))?;
    let mut writer = TableWriter::new(&table, WriteOptions::default())?;
    writer.write(&batch)?;
    match commit::commit(lake, &Change::append(&table, writer.finish()?))? {
        Outcome::Committed { .. } => Ok(()),
        Outcome::Stale { .. } => Err(Error::internal("a commit without a fence was stale")),
    }
}
