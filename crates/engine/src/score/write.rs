//! Prediction rows in, sorted by entity key into data files, shard by shard
//! where there are any; out comes one row per file, its description as JSON.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, Scalar, StringArray, UInt32Array};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{interleave, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::common::Result as DfResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::Distribution;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use futures::StreamExt;

use super::exec::{Resources, external, properties, resources};
use crate::lake::Table;
use crate::lake::writer::{TableWriter, WriteOptions};
use crate::{Error, Result};

/// Sorts rows by entity key and writes them into data files.
#[derive(Debug)]
pub struct WriteExec {
    input: Arc<dyn ExecutionPlan>,
    key: Vec<String>,
    /// How many shards each partition of the input has, in the order of their
    /// keys, each ended by a batch without rows; `None` when there are none.
    shards: Option<usize>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl WriteExec {
    /// Writes the rows of `input`, which may come in shards.
    pub fn new(input: Arc<dyn ExecutionPlan>, key: Vec<String>, shards: Option<usize>) -> Self {
        let schema = Arc::new(Schema::new(vec![Field::new("data_file", DataType::Utf8, false)]));
        let properties = properties(&schema, input.output_partitioning().partition_count());
        Self { input, key, shards, schema, properties }
    }
}

impl DisplayAs for WriteExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriteExec: sort=[{}]", self.key.join(", "))
    }
}

impl ExecutionPlan for WriteExec {
    fn name(&self) -> &'static str {
        "WriteExec"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::UnspecifiedDistribution]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(children.swap_remove(0), self.key.clone(), self.shards)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let resources = resources(&context)?;
        let mut input = self.input.execute(partition, context)?;
        let (key, schema, shards) = (self.key.clone(), self.schema.clone(), self.shards);
        let work = async move {
            let mut files = SortedFiles { resources: &resources, key: &key, shards: shards.unwrap_or(1), writer: None };
            let mut batches = Vec::new();
            while let Some(batch) = input.next().await {
                let batch = batch?;
                if batch.num_rows() > 0 {
                    batches.push(batch);
                } else if shards.is_some() {
                    files.write(std::mem::take(&mut batches)).map_err(external)?;
                }
            }
            files.write(batches).map_err(external)?;
            let json = StringArray::from(files.finish().map_err(external)?);
            Ok(RecordBatch::try_new(schema, vec![Arc::new(json)])?)
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::once(work))))
    }
}

/// The files of one partition.
struct SortedFiles<'a> {
    resources: &'a Resources,
    key: &'a [String],
    shards: usize,
    writer: Option<TableWriter>,
}

impl SortedFiles<'_> {
    /// Writes rows whose keys are all larger than those before.
    fn write(&mut self, batches: Vec<RecordBatch>) -> Result<()> {
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if rows == 0 {
            return Ok(());
        }
        let resources = self.resources;
        resources.timed(&resources.counters.write_ns, || {
            let Some(table) = &resources.table else { return Err(Error::internal("a write without a table")) };
            let mut writer = match self.writer.take() {
                Some(writer) => writer,
                None => sorted_writer(table, self.key, rows * self.shards)?,
            };
            write_sorted(&mut writer, batches, self.key)?;
            self.writer = Some(writer);
            Ok(())
        })
    }

    /// The descriptions of the finished files.
    fn finish(self) -> Result<Vec<String>> {
        let (resources, Some(writer)) = (self.resources, self.writer) else { return Ok(Vec::new()) };
        let Some(table) = &resources.table else { return Err(Error::internal("a write without a table")) };
        let metadata = table.metadata();
        resources.timed(&resources.counters.write_ns, || {
            let describe = |file| {
                let (partition, version) = (metadata.default_partition_type(), metadata.format_version());
                iceberg::spec::serialize_data_file_to_json(file, partition, version)
                    .map_err(|e| Error::internal(format!("a data file description: {e}")).cause(e))
            };
            writer.finish()?.into_iter().map(describe).collect()
        })
    }
}

/// Writes batches, sorted by `key`, into data files of `table`.
pub fn write_rows(table: &Table, batches: Vec<RecordBatch>, key: &[String]) -> Result<Vec<iceberg::spec::DataFile>> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if rows == 0 {
        return Ok(Vec::new());
    }
    let mut writer = sorted_writer(table, key, rows)?;
    write_sorted(&mut writer, batches, key)?;
    writer.finish()
}

fn sorted_writer(table: &Table, key: &[String], expected_rows: usize) -> Result<TableWriter> {
    TableWriter::new(table, WriteOptions { bloom: key.to_vec(), sorted_by: key.to_vec(), expected_rows })
}

/// Sorts the rows of these batches and writes them.
fn write_sorted(writer: &mut TableWriter, batches: Vec<RecordBatch>, key: &[String]) -> Result<()> {
    const CHUNK: usize = 16 * 1024;
    let failed = |e: arrow::error::ArrowError| Error::internal(format!("rows cannot be sorted: {e}")).cause(e);
    let Some(schema) = batches.first().map(RecordBatch::schema) else { return Ok(()) };
    let order = sorted_order(&batches, key)?;
    // A column of one value, such as the run id, is the same in any order.
    let zeros = UInt32Array::from(vec![0; CHUNK.min(order.len())]);
    let columns = (0..schema.fields().len())
        .map(|at| {
            let parts: Vec<&dyn Array> = batches.iter().map(|b| b.column(at).as_ref()).collect();
            Ok(if one_value(&parts) { Err(take(parts[0], &zeros, None)?) } else { Ok(parts) })
        })
        .collect::<Result<Vec<Result<Vec<&dyn Array>, ArrayRef>>, _>>()
        .map_err(failed)?;
    for chunk in order.chunks(CHUNK) {
        let sorted = columns
            .iter()
            .map(|column| match column {
                Ok(parts) => interleave(parts, chunk),
                Err(repeated) => Ok(repeated.slice(0, chunk.len())),
            })
            .collect::<Result<Vec<ArrayRef>, _>>()
            .and_then(|columns| RecordBatch::try_new(schema.clone(), columns))
            .map_err(failed)?;
        writer.write(&sorted)?;
    }
    Ok(())
}

/// Whether all rows have the same value.
fn one_value(parts: &[&dyn Array]) -> bool {
    let Some(first) = parts.iter().find(|part| !part.is_empty()) else { return true };
    let value = Scalar::new(first.slice(0, 1));
    parts.iter().all(|part| {
        // Most columns are told apart by their first rows.
        let all = |part: &dyn Array| not_distinct(&part, &value).is_ok_and(|same| same.true_count() == part.len());
        all(&*part.slice(0, part.len().min(16))) && all(*part)
    })
}

/// (batch, row) in the order of the key columns.
fn sorted_order(batches: &[RecordBatch], key: &[String]) -> Result<Vec<(usize, usize)>> {
    let failed = |e: arrow::error::ArrowError| Error::internal(format!("keys cannot be sorted: {e}")).cause(e);
    let columns = |batch: &RecordBatch| -> Result<Vec<ArrayRef>> {
        key.iter()
            .map(|k| batch.column_by_name(k).cloned().ok_or_else(|| Error::internal(format!("no key column `{k}`"))))
            .collect()
    };
    let fields = columns(&batches[0])?.iter().map(|c| SortField::new(c.data_type().clone())).collect();
    let converter = RowConverter::new(fields).map_err(failed)?;
    let mut encoded = converter.empty_rows(0, 0);
    let mut starts = Vec::with_capacity(batches.len());
    for batch in batches {
        starts.push(encoded.num_rows());
        converter.append(&mut encoded, &columns(batch)?).map_err(failed)?;
    }
    let mut order: Vec<(u64, u32)> = (0..encoded.num_rows())
        .map(|row| {
            let mut prefix = [0u8; 8];
            let data = encoded.row(row);
            let bytes = data.as_ref();
            let length = bytes.len().min(9);
            // The first byte of an encoded value only says that it is there.
            prefix[..length.saturating_sub(1)].copy_from_slice(&bytes[1.min(length)..length]);
            (u64::from_be_bytes(prefix), row as u32)
        })
        .collect();
    order.sort_unstable_by(|a, b| {
        a.0.cmp(&b.0).then_with(|| encoded.row(a.1 as usize).cmp(&encoded.row(b.1 as usize))).then(a.1.cmp(&b.1))
    });
    Ok(order
        .into_iter()
        .map(|(_, row)| {
            let batch = starts.partition_point(|start| *start <= row as usize) - 1;
            (batch, row as usize - starts[batch])
        })
        .collect())
}
