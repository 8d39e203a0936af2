//! The two plan nodes of a run: [`ScoreExec`] and [`WriteExec`].
//!
//! Score: feature rows in, prediction rows out, only of entities whose hash
//! says so; the end of a shard, a batch without rows, passes. Write: prediction
//! rows in, sorted by entity key into data files, shard by shard where there
//! are any; out comes one row per file, its description as JSON. The nodes hold plain
//! data; the model, the index and the output expressions come from the
//! session's [`Resources`].

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{
    Array, ArrayRef, Date32Array, Float64Array, Int64Array, MapArray, RecordBatch, Scalar, StringArray, StructArray,
    TimestampMicrosecondArray, UInt32Array, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{cast, interleave, take, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, EquivalenceProperties};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::{StreamExt, TryStreamExt};
use insightera_core::Clock;
use insightera_infer::{Model, Predictions};
use serde::{Deserialize, Serialize};

use super::entries::{Collected, Entries, State};
use super::hash::FeatureHasher;
use super::index::StateIndex;
use super::output::OutputPlan;
use crate::error::{Error, Result};
use crate::key::Keys;
use crate::lake::Table;
use crate::lake::writer::{TableWriter, WriteOptions};

/// At most this many keys are named.
const NAMED: usize = 20;

/// Why an entity is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The pipeline's first run.
    First,
    /// No row by this pipeline, or the last one says removed.
    Insert,
    /// Its features differ.
    Update,
    /// Its features are the same, the definition differs.
    Model,
    /// Nothing differs, the run was forced.
    Forced,
    /// It left the feature set.
    Removed,
}

impl Reason {
    /// All, in the order of reports.
    pub const ALL: [Self; 6] = [Self::First, Self::Insert, Self::Update, Self::Model, Self::Forced, Self::Removed];

    /// The word in `score_reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Model => "model",
            Self::Forced => "forced",
            Self::Removed => "removed",
        }
    }
}

/// What a run decides with, plain data.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScoreSpec {
    /// The pipeline.
    pub pipeline: String,
    /// Its entity key.
    pub key: Vec<String>,
    /// The hashed columns.
    pub hashed: Vec<String>,
    /// The model's name.
    pub model_name: Option<String>,
    /// What `model_version` says.
    pub model_version: String,
    /// The model's sha256.
    pub model_sha256: Option<String>,
    /// The definition.
    pub definition_hash: u64,
    /// The run.
    pub run_id: String,
    /// The run's prediction time, microseconds since the epoch.
    pub timestamp: i64,
    /// The pipeline has never run.
    pub first_run: bool,
    /// Score everything.
    pub forced: bool,
    /// A new definition scores again.
    pub rescore: bool,
    /// Decide only: no model, no output rows.
    pub dry: bool,
}

impl ScoreSpec {
    /// Decides one row: pure.
    pub fn decide(&self, known: Option<State>, feature_hash: u64) -> Option<Reason> {
        let reason = match known {
            None if self.first_run => Some(Reason::First),
            None => Some(Reason::Insert),
            Some(state) if !state.live => Some(Reason::Insert),
            Some(state) if state.feature_hash != feature_hash => Some(Reason::Update),
            Some(state) if self.rescore && state.definition_hash != self.definition_hash => Some(Reason::Model),
            Some(_) => None,
        };
        reason.or(self.forced.then_some(Reason::Forced))
    }
}

/// Counters of a run, shared by its partitions.
#[derive(Debug, Default)]
pub struct Counters {
    /// Feature rows seen.
    pub rows: AtomicU64,
    /// Rows scored, by reason.
    pub reasons: [AtomicU64; 6],
    /// Rows whose key is null.
    pub null_keys: AtomicU64,
    /// Nanoseconds hashing and deciding.
    pub decide_ns: AtomicU64,
    /// Nanoseconds in the model.
    pub score_ns: AtomicU64,
    /// Nanoseconds in output expressions.
    pub output_ns: AtomicU64,
    /// Nanoseconds sorting and encoding files.
    pub write_ns: AtomicU64,
}

/// The live things that the nodes need, found through the session.
#[derive(Debug)]
pub struct Resources {
    /// The model that the spec names by sha256.
    pub model: Option<Arc<dyn Model>>,
    /// The output expressions.
    pub output: Arc<OutputPlan>,
    /// The state of every entity before the run.
    pub index: Arc<StateIndex>,
    /// Which index slots were seen, one bit each.
    pub seen: Vec<AtomicU64>,
    /// What was scored, for the index.
    pub collected: Collected,
    /// The hashes of rows that were seen and not scored.
    pub counters: Counters,
    /// The first key that came twice.
    pub duplicate: Mutex<Option<String>>,
    /// Keys seen twice.
    pub duplicates: AtomicU64,
    /// The table that is written.
    pub table: Option<Table>,
    /// The clock of the stage timers.
    pub clock: Arc<dyn Clock>,
    /// Told the number of rows as they are seen.
    pub reporter: super::run::Reporter,
    /// The first few keys by reason, when a caller wants to name them.
    pub named: Option<Mutex<Vec<(Reason, String)>>>,
}

impl Resources {
    /// Marks a slot; false when it was marked before.
    fn mark(&self, slot: usize) -> bool {
        let bit = 1u64 << (slot % 64);
        self.seen.get(slot / 64).is_none_or(|word| word.fetch_or(bit, Ordering::Relaxed) & bit == 0)
    }

    /// Whether a slot was seen.
    pub fn was_seen(&self, slot: usize) -> bool {
        self.seen.get(slot / 64).is_some_and(|word| word.load(Ordering::Relaxed) & (1 << (slot % 64)) != 0)
    }

    fn note_duplicate(&self, key: String) {
        self.duplicates.fetch_add(1, Ordering::Relaxed);
        let mut first = self.duplicate.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        first.get_or_insert(key);
    }

    fn timed<T>(&self, counter: &AtomicU64, act: impl FnOnce() -> T) -> T {
        let start = self.clock.monotonic_seconds();
        let result = act();
        counter.fetch_add(((self.clock.monotonic_seconds() - start) * 1e9) as u64, Ordering::Relaxed);
        result
    }
}

fn resources(context: &TaskContext) -> DfResult<Arc<Resources>> {
    context
        .session_config()
        .get_extension::<Resources>()
        .ok_or_else(|| DataFusionError::Internal("the session has no scoring resources".into()))
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn properties(schema: &SchemaRef, partitions: usize) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(schema.clone()),
        Partitioning::UnknownPartitioning(partitions),
        EmissionType::Incremental,
        Boundedness::Bounded,
    ))
}

/// Hashes, decides, scores and evaluates the output.
#[derive(Debug)]
pub struct ScoreExec {
    input: Arc<dyn ExecutionPlan>,
    spec: Arc<ScoreSpec>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl ScoreExec {
    /// Scores the rows of `input`; `schema` is that of the prediction rows.
    pub fn new(input: Arc<dyn ExecutionPlan>, spec: Arc<ScoreSpec>, schema: SchemaRef) -> Self {
        let properties = properties(&schema, input.output_partitioning().partition_count());
        Self { input, spec, schema, properties }
    }
}

impl DisplayAs for ScoreExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScoreExec: pipeline={}, model={:?}", self.spec.pipeline, self.spec.model_sha256)
    }
}

impl ExecutionPlan for ScoreExec {
    fn name(&self) -> &'static str {
        "ScoreExec"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(children.swap_remove(0), self.spec.clone(), self.schema.clone())))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let resources = resources(&context)?;
        let spec = self.spec.clone();
        let input = self.input.execute(partition, context)?;
        let schema = self.schema.clone();
        let rows = input.try_filter_map(move |batch| {
            let scored = score_batch(&spec, &resources, &schema, &batch).map_err(external);
            futures::future::ready(scored)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), rows)))
    }
}

/// One batch: which rows, then their predictions.
fn score_batch(
    spec: &ScoreSpec,
    resources: &Resources,
    schema: &SchemaRef,
    batch: &RecordBatch,
) -> Result<Option<RecordBatch>> {
    if batch.num_rows() == 0 {
        return Ok(Some(RecordBatch::new_empty(schema.clone())));
    }
    let counters = &resources.counters;
    let (rows, reasons, features) = resources.timed(&counters.decide_ns, || decide_batch(spec, resources, batch))?;
    (resources.reporter.rows)(batch.num_rows() as u64);
    if rows.is_empty() || spec.dry {
        return Ok(None);
    }
    let failed = |e: arrow::error::ArrowError| Error::internal(format!("rows cannot be taken: {e}")).cause(e);
    let chosen = if rows.len() == batch.num_rows() {
        batch.clone()
    } else {
        take_record_batch(batch, &UInt32Array::from(rows)).map_err(failed)?
    };
    let predictions = match &resources.model {
        None => None,
        Some(model) => Some(resources.timed(&counters.score_ns, || model.score(&chosen)).map_err(|e| {
            let error = Error::new(
                e.kind(),
                format!("model `{}` version {}: {e}", spec.model_name.as_deref().unwrap_or("?"), spec.model_version),
            );
            match e.hint() {
                Some(hint) => error.hint(hint),
                None => error,
            }
        })?),
    };
    let rows = resources.timed(&counters.output_ns, || {
        output_batch(spec, resources, schema, &chosen, predictions, &reasons, &features)
    })?;
    Ok(Some(rows))
}

type Decided = (Vec<u32>, Vec<Reason>, Vec<i64>);

fn decide_batch(spec: &ScoreSpec, resources: &Resources, batch: &RecordBatch) -> Result<Decided> {
    let counters = &resources.counters;
    let keys = Keys::new(batch, &spec.key)?;
    let key_hashes = keys.hashes();
    let feature_hashes = FeatureHasher::new(batch, &spec.hashed)?.hashes();
    let (mut rows, mut reasons, mut features) = (Vec::new(), Vec::new(), Vec::new());
    let mut entries = Entries::default();
    let mut null_keys = 0;
    for row in 0..batch.num_rows() {
        if keys.is_null(row) {
            null_keys += 1;
            continue;
        }
        let known = resources.index.get(key_hashes[row]);
        if let Some((slot, _)) = known
            && !resources.mark(slot)
        {
            resources.note_duplicate(keys.display(row));
        }
        let Some(reason) = spec.decide(known.map(|(_, state)| state), feature_hashes[row]) else { continue };
        counters.reasons[reason as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(named) = &resources.named {
            let mut named = named.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if named.len() < NAMED {
                named.push((reason, keys.display(row)));
            }
        }
        let state = State { feature_hash: feature_hashes[row], definition_hash: spec.definition_hash, live: true };
        entries.push(key_hashes[row], state, |out| keys.encode(row, out));
        rows.push(row as u32);
        reasons.push(reason);
        features.push(feature_hashes[row] as i64);
    }
    counters.rows.fetch_add(batch.num_rows() as u64 - null_keys, Ordering::Relaxed);
    counters.null_keys.fetch_add(null_keys, Ordering::Relaxed);
    if !entries.is_empty() {
        resources.collected.add(&entries);
    }
    Ok((rows, reasons, features))
}

/// The model's columns beside the features, then every output expression.
fn output_batch(
    spec: &ScoreSpec,
    resources: &Resources,
    schema: &SchemaRef,
    features: &RecordBatch,
    predictions: Option<Predictions>,
    reasons: &[Reason],
    feature_hashes: &[i64],
) -> Result<RecordBatch> {
    let rows = features.num_rows();
    let plan = &resources.output;
    let mut columns: Vec<ArrayRef> = features.columns().to_vec();
    columns.extend(prediction_columns(spec, plan, features.num_columns(), predictions, rows)?);
    let failed = |e: arrow::error::ArrowError| Error::internal(format!("the scoring batch does not fit: {e}")).cause(e);
    let wide = RecordBatch::try_new(plan.input_schema.clone(), columns).map_err(failed)?;
    let mut out: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for (column, field) in plan.columns.iter().zip(schema.fields()) {
        let value = column.physical.evaluate(&wide).and_then(|v| v.into_array(rows)).map_err(|e| {
            Error::data(format!("[output.columns] {} = {}: {}", column.column.name, column.sql, e.strip_backtrace()))
                .hint("guard the expression against the values that it cannot take, for example with CASE or NULLIF")
        })?;
        out.push(cast(&value, field.data_type()).map_err(failed)?);
    }
    out.push(text(Some(&spec.pipeline), rows));
    out.push(text(spec.model_name.as_deref(), rows));
    out.push(text(Some(&spec.run_id), rows));
    out.push(Arc::new(StringArray::from_iter_values(reasons.iter().map(|r| r.as_str()))));
    out.push(Arc::new(Int64Array::from(feature_hashes.to_vec())));
    out.push(Arc::new(Int64Array::from_value(spec.definition_hash as i64, rows)));
    out.push(new_null_array(&DataType::Utf8, rows));
    out.push(new_null_array(&DataType::Float64, rows));
    RecordBatch::try_new(schema.clone(), out).map_err(failed)
}

fn text(value: Option<&str>, rows: usize) -> ArrayRef {
    match value {
        Some(value) => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(value, rows))),
        None => new_null_array(&DataType::Utf8, rows),
    }
}

fn prediction_columns(
    spec: &ScoreSpec,
    plan: &OutputPlan,
    from: usize,
    predictions: Option<Predictions>,
    rows: usize,
) -> Result<Vec<ArrayRef>> {
    let null = |index: usize| new_null_array(plan.input_schema.field(from + index).data_type(), rows);
    let number = |array: Option<Float64Array>, index: usize| match array {
        Some(array) => Arc::new(array) as ArrayRef,
        None => null(index),
    };
    let (prediction, probability, probabilities, margin) = match predictions {
        None => (null(0), null(1), null(2), null(3)),
        Some(p) => {
            let map = match p.probabilities.as_ref().filter(|_| plan.uses_probabilities) {
                None => null(2),
                Some(classes) => {
                    let labels = classes.labels.len();
                    let keys: Vec<&str> = (0..rows).flat_map(|_| classes.labels.iter().map(String::as_str)).collect();
                    let keys = StringArray::from(keys);
                    let values = Float64Array::from(classes.values.clone());
                    let DataType::Map(entries, _) = plan.input_schema.field(from + 2).data_type().clone() else {
                        return Err(Error::internal("`probabilities` is not a map"));
                    };
                    let DataType::Struct(fields) = entries.data_type().clone() else {
                        return Err(Error::internal("a map without entries"));
                    };
                    let inner = StructArray::new(fields, vec![Arc::new(keys), Arc::new(values)], None);
                    let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(labels, rows));
                    Arc::new(MapArray::new(entries, offsets, inner, None, false)) as ArrayRef
                }
            };
            (Arc::new(p.prediction) as ArrayRef, number(p.probability, 1), map, number(p.margin, 3))
        }
    };
    let timestamps = TimestampMicrosecondArray::from_value(spec.timestamp, rows).with_timezone("UTC");
    let day = i32::try_from(spec.timestamp.div_euclid(86_400_000_000)).unwrap_or(i32::MAX);
    Ok(vec![
        prediction,
        probability,
        probabilities,
        margin,
        text(Some(&spec.model_version), rows),
        Arc::new(timestamps),
        Arc::new(Date32Array::from_value(day, rows)),
        text(Some("batch"), rows),
    ])
}

/// Rows that say an entity left the feature set: key, time and record columns,
/// everything else null.
pub fn removed_rows(spec: &ScoreSpec, plan: &OutputPlan, schema: &SchemaRef, keys: &[&[u8]]) -> Result<RecordBatch> {
    let rows = keys.len();
    let types = spec
        .key
        .iter()
        .map(|k| schema.field_with_name(k).map(|f| f.data_type().clone()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Error::internal(e.to_string()))?;
    let decoded = crate::key::decode(keys, &types)?;
    let features = plan.input_schema.fields().len() - super::output::prediction_fields().len();
    let facts = prediction_columns(spec, plan, features, None, rows)?;
    let fact = |name: &str| {
        plan.input_schema.index_of(name).ok().and_then(|i| i.checked_sub(features)).and_then(|i| facts.get(i)).cloned()
    };
    let columns = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(index, field)| {
            if let Some(at) = spec.key.iter().position(|k| k == field.name()) {
                return Ok(decoded[at].clone());
            }
            if let Some(own) = plan.columns.get(index) {
                // Only what the engine itself knows has a value.
                return Ok(fact(own.sql.trim().trim_matches('"'))
                    .filter(|a| a.data_type() == field.data_type())
                    .unwrap_or_else(|| new_null_array(field.data_type(), rows)));
            }
            Ok(match field.name().as_str() {
                "pipeline" => text(Some(&spec.pipeline), rows),
                "model_name" => text(spec.model_name.as_deref(), rows),
                "run_id" => text(Some(&spec.run_id), rows),
                "score_reason" => text(Some(Reason::Removed.as_str()), rows),
                "definition_hash" => Arc::new(Int64Array::from_value(spec.definition_hash as i64, rows)),
                _ => new_null_array(field.data_type(), rows),
            })
        })
        .collect::<Result<Vec<ArrayRef>>>()?;
    RecordBatch::try_new(schema.clone(), columns).map_err(|e| Error::internal(e.to_string()).cause(e))
}

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
