//! Events that became no prediction: everything that is needed to look at
//! them, and to try them again.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use iceberg::spec::Transform;

use super::decode::Problem;
use crate::lake::schema::{Column, timestamptz};
use crate::lake::{NewTable, TableName};
use crate::sql::query;
use crate::workspace::Workspace;
use crate::{Error, Result};

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct SetAside {
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: i64,
    /// When it came, microseconds UTC.
    pub arrival: i64,
    /// When it happened, where that is known, microseconds UTC.
    pub event_time: Option<i64>,
    /// Why.
    pub problem: Problem,
    /// Why, in words.
    pub message: String,
    /// The event's key at the source.
    pub key: Option<Vec<u8>>,
    /// The event.
    pub payload: Vec<u8>,
}

/// The table of dead letters or late events.
pub fn new_table(name: TableName) -> NewTable {
    let columns = vec![
        Column::required("pipeline", DataType::Utf8),
        Column::required("source", DataType::Utf8),
        Column::required("source_partition", DataType::Int32),
        Column::required("source_offset", DataType::Int64),
        Column::required("arrival_timestamp", timestamptz()),
        Column::nullable("event_timestamp", timestamptz()),
        Column::required("error_class", DataType::Utf8),
        Column::required("error_message", DataType::Utf8),
        Column::nullable("event_key", DataType::Binary),
        Column::required("payload", DataType::Binary),
        Column::required("run_id", DataType::Utf8),
    ];
    NewTable {
        name,
        columns,
        partition_by: vec![("arrival_timestamp".into(), Transform::Day)],
        properties: super::table_properties(),
        location: None,
    }
}

/// The events of a partition, from an offset on, that were set aside because
/// of their arrival: offset and arrival. An event that is read again arrives
/// later, and must be judged as it was.
pub async fn judged_by_arrival(
    workspace: &Workspace,
    table: &TableName,
    pipeline: &str,
    partition: u32,
    from: i64,
) -> Result<Vec<(i64, i64)>> {
    let sql = format!(
        "SELECT source_offset, arrival_timestamp FROM \"{}\".\"{}\" WHERE pipeline = '{pipeline}' \
         AND source_partition = {partition} AND source_offset >= {from} AND error_class = '{}'",
        table.namespace,
        table.name,
        Problem::Future.as_str()
    );
    let found = query(workspace, &sql).await?;
    let mut events = Vec::new();
    for batch in &found.batches {
        let offsets = batch.column(0).as_primitive::<Int64Type>();
        let arrivals = batch.column(1).as_primitive::<TimestampMicrosecondType>();
        events.extend(offsets.values().iter().copied().zip(arrivals.values().iter().copied()));
    }
    Ok(events)
}

/// The events as rows of that table.
pub fn rows(events: &[SetAside], pipeline: &str, source: &str, run_id: &str) -> Result<RecordBatch> {
    let same =
        |text: &str| Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, events.len()))) as ArrayRef;
    let partitions = events.iter().map(|event| event.partition as i32);
    let arrivals = TimestampMicrosecondArray::from_iter_values(events.iter().map(|event| event.arrival));
    let times: TimestampMicrosecondArray = events.iter().map(|event| event.event_time).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("pipeline", same(pipeline)),
        ("source", same(source)),
        ("source_partition", Arc::new(Int32Array::from_iter_values(partitions))),
        ("source_offset", Arc::new(Int64Array::from_iter_values(events.iter().map(|event| event.offset)))),
        ("arrival_timestamp", Arc::new(arrivals.with_timezone("UTC"))),
        ("event_timestamp", Arc::new(times.with_timezone("UTC"))),
        ("error_class", Arc::new(StringArray::from_iter_values(events.iter().map(|event| event.problem.as_str())))),
        ("error_message", Arc::new(StringArray::from_iter_values(events.iter().map(|event| &event.message)))),
        ("event_key", Arc::new(events.iter().map(|event| event.key.as_deref()).collect::<BinaryArray>())),
        ("payload", Arc::new(BinaryArray::from_iter_values(events.iter().map(|event| &event.payload)))),
        ("run_id", same(run_id)),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .map_err(|e| Error::internal(format!("events that were set aside: {e}")).cause(e))
}
