//! The plan node of a run that scores, and what the nodes share.
//!
//! [`ScoreExec`]: feature rows in, prediction rows out, only of entities whose
//! hash says so; the end of a shard, a batch without rows, passes. The nodes
//! hold plain data; the model, the index and the output expressions come from
//! the session's [`Resources`]. The rows are made in `rows.rs`, the files in
//! `write.rs`.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::TryStreamExt;
use insightera_core::Clock;
use insightera_entities::entries::{Collected, Entries, State};
use insightera_entities::hash::FeatureHasher;
use insightera_entities::index::StateIndex;
use insightera_infer::Model;
use serde::{Deserialize, Serialize};

use super::output::OutputPlan;
use super::rows::{Scored, explained, output_batch};
use crate::erase::Suppressed;
use crate::key::Keys;
use crate::lake::Table;
use crate::{Error, Result};

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
    /// It is scored as if it were another time.
    pub as_of: bool,
    /// Score everything.
    pub forced: bool,
    /// A new definition scores again.
    pub rescore: bool,
    /// Decide only: no model, no output rows.
    pub dry: bool,
}

impl ScoreSpec {
    /// What `inference_type` says.
    pub fn inference_type(&self) -> &'static str {
        if self.as_of { super::AS_OF } else { "batch" }
    }

    /// Decides one row: pure.
    pub fn decide(&self, known: Option<State>, feature_hash: u64) -> Option<Reason> {
        if self.as_of {
            return Some(Reason::Forced);
        }
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
    /// Rows of entities that were erased.
    pub suppressed: AtomicU64,
    /// Nanoseconds hashing and deciding.
    pub decide_ns: AtomicU64,
    /// Nanoseconds in the model.
    pub score_ns: AtomicU64,
    /// Nanoseconds finding reasons.
    pub explain_ns: AtomicU64,
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
    /// Entities that must not be scored.
    pub suppressed: Option<Suppressed>,
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

    /// Adds the time that `act` takes to a counter.
    pub fn timed<T>(&self, counter: &AtomicU64, act: impl FnOnce() -> T) -> T {
        let start = self.clock.monotonic_seconds();
        let result = act();
        counter.fetch_add(((self.clock.monotonic_seconds() - start) * 1e9) as u64, Ordering::Relaxed);
        result
    }
}

/// What a session's nodes share.
pub fn resources(context: &TaskContext) -> DfResult<Arc<Resources>> {
    context
        .session_config()
        .get_extension::<Resources>()
        .ok_or_else(|| DataFusionError::Internal("the session has no scoring resources".into()))
}

/// Our error inside the query engine's.
pub fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The properties of a node that reads its input once.
pub fn properties(schema: &SchemaRef, partitions: usize) -> Arc<PlanProperties> {
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
    let named = |e: insightera_infer::Error| {
        let version = format!("model `{}` version {}", spec.model_name.as_deref().unwrap_or("?"), spec.model_version);
        let error = Error::new(e.kind(), format!("{version}: {e}"));
        match e.hint() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    };
    let (mut predictions, mut reasoned) = (None, None);
    if let Some(model) = &resources.model {
        let scored = resources.timed(&counters.score_ns, || model.score(&chosen)).map_err(named)?;
        if let Some(explain) = &resources.output.explain {
            let reasons = || explained(model.as_ref(), &chosen, &scored, explain);
            reasoned = Some(resources.timed(&counters.explain_ns, reasons).map_err(named)?);
        }
        predictions = Some(scored);
    }
    let rows = resources.timed(&counters.output_ns, || {
        let reasons: ArrayRef = Arc::new(StringArray::from_iter_values(reasons.iter().map(|r| r.as_str())));
        let scored = Scored { predictions, explained: reasoned, reasons, feature_hashes: features };
        output_batch(spec.into(), &resources.output, schema, &chosen, scored)
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
    let (mut null_keys, mut suppressed) = (0, 0);
    let mut encoded = Vec::new();
    for row in 0..batch.num_rows() {
        if keys.is_null(row) {
            null_keys += 1;
            continue;
        }
        if let Some(erased) = &resources.suppressed {
            encoded.clear();
            keys.encode(row, &mut encoded);
            if erased.is_erased(&encoded) {
                suppressed += 1;
                continue;
            }
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
    counters.rows.fetch_add(batch.num_rows() as u64 - null_keys - suppressed, Ordering::Relaxed);
    counters.suppressed.fetch_add(suppressed, Ordering::Relaxed);
    counters.null_keys.fetch_add(null_keys, Ordering::Relaxed);
    if !entries.is_empty() {
        resources.collected.add(&entries);
    }
    Ok((rows, reasons, features))
}
