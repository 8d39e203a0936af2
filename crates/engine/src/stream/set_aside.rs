//! Events that became no prediction: everything that is needed to look at
//! them, and to try them again.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimestampMicrosecondType};
use iceberg::spec::Transform;
use insightera_events::Problem;

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

/// The table that says which dead letters were replayed, and what became of
/// each.
pub fn replays_table(dead_letters: &TableName) -> NewTable {
    let columns = vec![
        Column::required("pipeline", DataType::Utf8),
        Column::required("source", DataType::Utf8),
        Column::required("source_partition", DataType::Int32),
        Column::required("source_offset", DataType::Int64),
        Column::required("outcome", DataType::Utf8),
        Column::required("replay", DataType::Int64),
        Column::required("replayed_at", timestamptz()),
        Column::required("run_id", DataType::Utf8),
    ];
    let name = TableName { name: format!("{}_replayed", dead_letters.name), ..dead_letters.clone() };
    let (partition_by, location) = Default::default();
    NewTable { name, columns, partition_by, properties: super::table_properties(), location }
}

/// What became of a replayed event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has a prediction.
    Scored,
    /// It is among the late events.
    Late,
    /// The filter took it out.
    Filtered,
}

impl Outcome {
    /// Its word in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scored => "scored",
            Self::Late => "late",
            Self::Filtered => "filtered",
        }
    }
}

/// Events by partition and offset.
pub type Places = BTreeMap<(u32, i64), Outcome>;

/// The rows of that table.
pub fn replay_rows(
    places: &Places,
    pipeline: &str,
    source: &str,
    (replay, at): (i64, i64),
    run_id: &str,
) -> Result<RecordBatch> {
    let count = places.len();
    let same = |text: &str| Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, count))) as ArrayRef;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("pipeline", same(pipeline)),
        ("source", same(source)),
        ("source_partition", Arc::new(Int32Array::from_iter_values(places.keys().map(|(p, _)| *p as i32)))),
        ("source_offset", Arc::new(Int64Array::from_iter_values(places.keys().map(|(_, offset)| *offset)))),
        ("outcome", Arc::new(StringArray::from_iter_values(places.values().map(|outcome| outcome.as_str())))),
        ("replay", Arc::new(Int64Array::from_value(replay, count))),
        ("replayed_at", Arc::new(TimestampMicrosecondArray::from_value(at, count).with_timezone("UTC"))),
        ("run_id", same(run_id)),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .map_err(|e| Error::internal(format!("what was replayed: {e}")).cause(e))
}

/// A dead letter.
#[derive(Debug, Clone)]
pub struct Letter {
    /// When it came, microseconds UTC.
    pub arrival: i64,
    /// Its key at the source.
    pub key: Vec<u8>,
    /// The event.
    pub payload: Vec<u8>,
}

/// The dead letters of a pipeline by partition and offset: those that no
/// replay has taken, or those of replay number `replay`.
pub async fn letters(
    workspace: &Workspace,
    (dead, replays): (&TableName, &TableName),
    (pipeline, source): (&str, &str),
    replay: Option<i64>,
) -> Result<BTreeMap<(u32, i64), Letter>> {
    let taken = match workspace.lake().find(replays)? {
        None if replay.is_some() => return Err(Error::internal(format!("table `{replays}` is gone"))),
        None => String::new(),
        Some(_) => {
            let (word, which) = match replay {
                None => ("NOT EXISTS", String::new()),
                Some(number) => ("EXISTS", format!(" AND r.replay = {number}")),
            };
            format!(
                " AND {word} (SELECT 1 FROM {} r WHERE r.pipeline = d.pipeline AND {} AND \
                 r.source_partition = d.source_partition AND r.source_offset = d.source_offset{which})",
                quoted(replays),
                continues("d.source", "r.source")
            )
        }
    };
    let sql = format!(
        "SELECT source_partition, source_offset, arrival_timestamp, event_key, payload FROM {} d \
         WHERE d.pipeline = '{}' AND {} AND d.error_class <> '{}'{taken}",
        quoted(dead),
        pipeline.replace('\'', "''"),
        continues("d.source", &format!("'{}'", source.replace('\'', "''"))),
        Problem::Late.as_str()
    );
    let mut letters = BTreeMap::new();
    for batch in &query(workspace, &sql).await?.batches {
        let wanted = [DataType::Int32, DataType::Int64, timestamptz(), DataType::Binary, DataType::Binary];
        let columns = batch.columns().iter().zip(&wanted).map(|(column, wanted)| cast(column, wanted));
        let columns = columns.collect::<Result<Vec<_>, _>>();
        let columns = columns.map_err(|e| Error::data(format!("table `{dead}` has other columns: {e}")).cause(e))?;
        let (partitions, offsets) = (columns[0].as_primitive::<Int32Type>(), columns[1].as_primitive::<Int64Type>());
        let arrivals = columns[2].as_primitive::<TimestampMicrosecondType>();
        let (keys, payloads) = (columns[3].as_binary::<i32>(), columns[4].as_binary::<i32>());
        for row in 0..batch.num_rows() {
            let key = if keys.is_null(row) { Vec::new() } else { keys.value(row).to_vec() };
            let letter = Letter { arrival: arrivals.value(row), key, payload: payloads.value(row).to_vec() };
            letters.insert((partitions.value(row) as u32, offsets.value(row)), letter);
        }
    }
    Ok(letters)
}

/// [`position::continues`](insightera_core::stream::position::continues) in SQL.
fn continues(before: &str, now: &str) -> String {
    format!("({before} = {now} OR (starts_with({before}, 'kafka:') AND starts_with({now}, concat({before}, ','))))")
}

fn quoted(name: &TableName) -> String {
    format!("\"{}\".\"{}\"", name.namespace, name.name)
}

/// What an event was set aside for.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Where it is in its partition.
    pub offset: i64,
    /// When it came, microseconds UTC.
    pub arrival: i64,
    /// The word of its [`Problem`].
    pub class: String,
}

/// The events of a partition that were set aside from offset `from` on because
/// of their arrival, and from offset `all` on for whatever reason. An event
/// that is read again arrives later, and what it is joined with is another:
/// it must be judged as it was.
pub async fn verdicts(
    workspace: &Workspace,
    table: &TableName,
    pipeline: &str,
    partition: u32,
    (from, all): (i64, i64),
) -> Result<Vec<Verdict>> {
    let sql = format!(
        "SELECT source_offset, arrival_timestamp, error_class FROM \"{}\".\"{}\" WHERE pipeline = '{pipeline}' \
         AND source_partition = {partition} AND (source_offset >= {all} OR source_offset >= {from} AND error_class = '{}')",
        table.namespace,
        table.name,
        Problem::Future.as_str()
    );
    let found = query(workspace, &sql).await?;
    let mut verdicts = Vec::new();
    for batch in &found.batches {
        let offsets = batch.column(0).as_primitive::<Int64Type>();
        let arrivals = batch.column(1).as_primitive::<TimestampMicrosecondType>();
        let classes = cast(batch.column(2), &DataType::Utf8)
            .map_err(|e| Error::data(format!("table `{table}` has other columns: {e}")).cause(e))?;
        let classes = classes.as_string::<i32>();
        verdicts.extend((0..batch.num_rows()).map(|row| Verdict {
            offset: offsets.value(row),
            arrival: arrivals.value(row),
            class: classes.value(row).to_owned(),
        }));
    }
    Ok(verdicts)
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
