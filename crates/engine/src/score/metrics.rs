//! `ml_monitoring.inference_metrics`: one row per stage of every run, and one
//! for the whole.

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
    ];
    let properties = [("write.metadata.previous-versions-max".to_owned(), "20".to_owned())].into();
    let partition_by = vec![("timestamp".into(), Transform::Month)];
    NewTable { name: table_name(), columns, partition_by, properties, location: None }
}

/// Appends the stages of a run. `latency_ms` is the stage's time in
/// milliseconds, `throughput` its rows per second.
pub fn append(workspace: &Workspace, report: &RunReport) -> Result<()> {
    let lake = workspace.lake();
    let table = lake.create_table(&new_table())?;
    let mut stages: Vec<(&str, f64)> = report.stages.iter().map(|(k, v)| (*k, *v)).collect();
    stages.push(("total", report.seconds));
    let rows = stages.len();
    let repeated = |value: Option<String>| Arc::new(StringArray::from(vec![value; rows])) as ArrayRef;
    let scored = report.scored + report.removed;
    let status = if report.status == RunStatus::Committed { "committed" } else { "unchanged" };
    let per_second = stages.iter().map(|(_, s)| (*s > 0.0 && scored > 0).then(|| scored as f64 / s));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("pipeline", repeated(Some(report.pipeline.clone()))),
        ("run_id", repeated(Some(report.run_id.clone()))),
        ("stage", Arc::new(StringArray::from_iter_values(stages.iter().map(|(name, _)| *name)))),
        ("model_name", repeated(report.model.as_ref().map(|m| m.name.clone()))),
        ("model_version", repeated(report.model.as_ref().map(|m| m.version.to_string()))),
        ("inference_type", repeated(Some("batch".into()))),
        ("status", repeated(Some(status.into()))),
        ("strategy", repeated(Some(report.strategy.into()))),
        ("snapshot_id", Arc::new(Int64Array::from(vec![report.snapshot_id; rows]))),
        ("batch_size", Arc::new(Int64Array::from(vec![scored as i64; rows]))),
        ("bytes", Arc::new(Int64Array::from(vec![report.bytes_written as i64; rows]))),
        ("seconds", Arc::new(Float64Array::from_iter_values(stages.iter().map(|(_, s)| *s)))),
        ("latency_ms", Arc::new(Float64Array::from_iter_values(stages.iter().map(|(_, s)| s * 1000.0)))),
        ("throughput", Arc::new(Float64Array::from_iter(per_second))),
        (
            "timestamp",
            Arc::new(TimestampMicrosecondArray::from_value(workspace.clock().now_micros(), rows).with_timezone("UTC")),
        ),
    ];
    let batch = RecordBatch::try_from_iter(columns).map_err(|e| Error::internal(format!("metrics: {e}")))?;
    let mut writer = TableWriter::new(&table, WriteOptions::default())?;
    writer.write(&batch)?;
    match commit::commit(lake, &Change::append(&table, writer.finish()?))? {
        Outcome::Committed { .. } => Ok(()),
        Outcome::Stale { .. } => Err(Error::internal("a commit without a fence was stale")),
    }
}
