//! Runs: evaluate a plan, write, commit once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::AsArray;
use datafusion::common::{JoinType, TableReference};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::ident;
use datafusion::physical_plan::ExecutionPlan;
use iceberg::spec::DataFile;
use insightera_core::ErrorKind;
use insightera_entities::entries::{Collected, Entries, State};
use serde::Serialize;

use super::definition::AsOf;
use super::exec::{Counters, Reason, Resources, ScoreExec, ScoreSpec};
use super::features::{self, FeatureQuery};
use super::plan::{self, Draft, ModelName, Reasons, Work};
use super::target::{describe, prediction_time, ready_table, removal_files, save_index};
use super::write::WriteExec;
use super::{locality, metrics, newest, shards, state};
use crate::erase::ErasedEntities;
use crate::lake::commit::{self, Outcome};
use crate::lake::faults::{self, Bug};
use crate::lake::maintain::policy;
use crate::lake::{Table, TableName};
use crate::sql::{plan_error, session, show_time};
use crate::workspace::Workspace;
use crate::{Error, Result};

/// Plans again after another run of the same pipeline was first: this often.
const REPLANS: usize = 3;

/// What the caller wants.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Score every entity.
    pub full: bool,
    /// Score every entity as if it were another time.
    pub as_of: Option<AsOf>,
}

/// Is told the name of a stage and, where known, how many rows it will see.
pub type OnStage = dyn Fn(&str, Option<u64>) + Send + Sync;

/// Where a run says how far it is.
#[derive(Clone)]
pub struct Reporter {
    /// A stage begins.
    pub stage: Arc<OnStage>,
    /// Rows were evaluated.
    pub rows: Arc<dyn Fn(u64) + Send + Sync>,
}

impl Reporter {
    /// Says nothing.
    pub fn silent() -> Self {
        Self { stage: Arc::new(|_, _| {}), rows: Arc::new(|_| {}) }
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reporter")
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    /// Rows were committed.
    Committed,
    /// No row differed.
    Unchanged,
}

/// What a run did for its table besides.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Maintained {
    /// Small files and old snapshots.
    Done(policy::Report),
    /// It failed, the run did not.
    Failed(String),
}

/// What a run did.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    /// The pipeline.
    pub pipeline: String,
    /// The run.
    pub run_id: String,
    /// The time that was scored as of, if not now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
    /// The table that got the rows.
    pub table: String,
    /// How it ended.
    pub status: RunStatus,
    /// The commit; none when inputs and definition were the same as before.
    pub snapshot_id: Option<i64>,
    /// When it was, microseconds since the epoch.
    #[serde(skip_serializing)]
    pub committed_at: Option<i64>,
    /// Live entities.
    pub entities: u64,
    /// Entities scored.
    pub scored: u64,
    /// Entities left as they were.
    pub skipped: u64,
    /// Entities that left the feature set.
    pub removed: u64,
    /// Why.
    pub reasons: Reasons,
    /// Entities of the first input that have no partner in another, counted
    /// when every entity is evaluated; else null.
    pub dropped_by_joins: Option<u64>,
    /// Feature rows whose entity key is null.
    pub null_keys: u64,
    /// Feature rows of entities that were erased: they are not scored.
    pub suppressed: u64,
    /// The model.
    pub model: Option<ModelName>,
    /// The strategy.
    pub strategy: &'static str,
    /// Why it was not `snapshot`.
    pub why_not_snapshot: Option<String>,
    /// Columns added to the table.
    pub added_columns: Vec<String>,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Seconds by stage; `decide`, `score`, `output` and `write` are summed
    /// over threads.
    pub stages: BTreeMap<&'static str, f64>,
    /// Bytes written.
    pub bytes_written: u64,
    /// Maintenance of the table, where it was due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintained>,
}

/// What evaluating a plan found.
#[derive(Debug)]
pub struct Evaluation {
    /// Live entities afterwards.
    pub entities: u64,
    /// Scored, by reason.
    pub reasons: [u64; 6],
    /// Index slots of entities that left.
    pub removed: Vec<usize>,
    /// Rows with a null key.
    pub null_keys: u64,
    /// Rows of entities that were erased.
    pub suppressed: u64,
    /// Rows that joins dropped, where evaluating counted them.
    pub dropped_by_joins: Option<u64>,
    /// New states.
    pub entries: Collected,
    /// Files written.
    pub files: Vec<DataFile>,
    /// Keys that came twice, and one of them.
    pub duplicates: (u64, Option<String>),
    /// Seconds by stage.
    pub stages: BTreeMap<&'static str, f64>,
    /// The first few entities to score, when nothing is written.
    pub named: Vec<(Reason, String)>,
}

impl Evaluation {
    /// Duplicate keys are an error, unless the pipeline says which row wins.
    pub fn refuse_duplicates(&self, draft: &Draft) -> Result<()> {
        let (count, example) = &self.duplicates;
        if *count == 0 {
            return Ok(());
        }
        let pipeline = &draft.definition.pipeline;
        Err(Error::data(format!(
            "{}: the feature SQL yields {count} duplicate rows for the entity key ({}), for example `{}`",
            pipeline.file.display(),
            pipeline.entity_key.join(", "),
            example.as_deref().unwrap_or("?")
        ))
        .hint("make the SQL yield one row per entity, or set [features] duplicates = \"latest\" with a feature_time"))
    }
}

/// Evaluates the features of a plan; with a table, scores and writes files.
pub async fn evaluate(
    workspace: &Workspace,
    draft: &Draft,
    work: &Work,
    spec: ScoreSpec,
    table: Option<&Table>,
    reporter: &Reporter,
) -> Result<Evaluation> {
    let pipeline = &draft.definition.pipeline;
    let what = features::source(pipeline);
    let damaged = |error: Error| match (error.kind() == ErrorKind::Data).then(|| draft.inputs.find_damaged()).flatten()
    {
        Some(damaged) => damaged,
        _ => error,
    };
    let failed = |e| damaged(plan_error(&what, &pipeline.features.sql, e));
    let query = FeatureQuery::new(workspace, pipeline, &draft.inputs, &work.filters).await?;
    let state = query.context.state();
    (reporter.stage)("read", None);
    let start = workspace.clock().monotonic_seconds();
    let mut stages = BTreeMap::new();
    let candidates = work.candidates.as_ref().map(|keys| keys.len() as u64);
    let sharded = match &work.prepared.locality {
        Ok(keys) => {
            let count = work.count_dropped && table.is_some();
            shards::sharded(workspace, (pipeline, &draft.inputs), &query, keys, candidates, count)
                .await
                .map_err(&damaged)?
        }
        Err(_) => None,
    };
    let (mut physical, shards) = match &sharded {
        Some(sharded) => (sharded.plan.clone(), Some(sharded.shards_per_partition)),
        None => {
            let plan = state.create_physical_plan(&query.run_plan(pipeline)?).await;
            (plan.and_then(newest::streamed).map_err(failed)?, None)
        }
    };
    stages.insert("read", workspace.clock().monotonic_seconds() - start);
    let spec = Arc::new(spec);
    let schema = work.prepared.output.row_schema();
    physical = Arc::new(ScoreExec::new(physical, spec.clone(), schema));
    if !spec.dry {
        physical = Arc::new(WriteExec::new(physical, spec.key.clone(), shards));
    }
    let slots = work.index.slots();
    let resources = Arc::new(Resources {
        model: work.prepared.model.clone(),
        output: work.prepared.output.clone(),
        index: work.index.clone(),
        suppressed: draft.suppressed(),
        seen: (0..slots.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
        collected: Collected::default(),
        counters: Counters::default(),
        duplicate: Mutex::default(),
        duplicates: AtomicU64::new(0),
        table: table.cloned(),
        clock: workspace.clock().clone(),
        reporter: reporter.clone(),
        named: spec.dry.then(Mutex::default),
    });
    let context = TaskContext::from(&state);
    let config = context.session_config().clone().with_extension(resources.clone());
    let context = Arc::new(context.with_session_config(config));
    (reporter.stage)("score", Some(work.rows));
    let start = workspace.clock().monotonic_seconds();
    let batches = datafusion::physical_plan::collect(physical.clone(), context).await.map_err(failed)?;
    stages.insert("evaluate", workspace.clock().monotonic_seconds() - start);
    drop::<Arc<dyn ExecutionPlan>>(physical);
    let dropped_by_joins = sharded.and_then(|sharded| sharded.dropped_by_joins);
    let mut files = Vec::new();
    if let Some(table) = table {
        let metadata = table.metadata();
        for json in batches.iter().flat_map(|b| b.column(0).as_string::<i32>().iter().flatten()) {
            let file = iceberg::spec::deserialize_data_file_from_json(
                json,
                metadata.default_partition_spec_id(),
                metadata.default_partition_type(),
                metadata.current_schema(),
            );
            files.push(file.map_err(|e| Error::internal(format!("a data file description: {e}")).cause(e))?);
        }
    }
    let counters = &resources.counters;
    let nanos = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64 / 1e9;
    for (name, counter) in [
        ("decide", &counters.decide_ns),
        ("score", &counters.score_ns),
        ("explain", &counters.explain_ns),
        ("output", &counters.output_ns),
        ("write", &counters.write_ns),
    ] {
        if name != "explain" || resources.output.explain.is_some() {
            stages.insert(name, nanos(counter));
        }
    }
    let mut removed: Vec<usize> = match &work.candidates {
        None => work.index.live_unseen(|slot| resources.was_seen(slot)).into_iter().map(|(slot, _)| slot).collect(),
        Some(keys) => keys
            .iter()
            .filter_map(|hash| work.index.get(*hash))
            .filter(|(slot, state)| state.live && !resources.was_seen(*slot))
            .map(|(slot, _)| slot)
            .collect(),
    };
    if let Some(erased) = &resources.suppressed {
        // Who was erased has not left: there is nothing to say of them.
        removed.retain(|slot| work.index.key_of(*slot).is_none_or(|key| !erased.is_erased(key)));
    }
    let reasons: [u64; 6] = std::array::from_fn(|i| counters.reasons[i].load(Ordering::Relaxed));
    let mut entries = resources.collected.take();
    let mut duplicates = resources.duplicates.load(Ordering::Relaxed);
    let mut example = resources.duplicate.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    // Keys that the index does not know can come twice as well.
    entries.duplicates(workspace.threads(), |hash, key| {
        if work.index.get(hash).is_none() {
            duplicates += 1;
            example.get_or_insert_with(|| state::show_key(key));
        }
    });
    let rows = counters.rows.load(Ordering::Relaxed);
    let entities = match work.candidates {
        None => rows,
        Some(_) => (work.index.live() + reasons[0] + reasons[1]).saturating_sub(removed.len() as u64),
    };
    Ok(Evaluation {
        entities,
        reasons,
        removed,
        null_keys: counters.null_keys.load(Ordering::Relaxed),
        suppressed: counters.suppressed.load(Ordering::Relaxed),
        dropped_by_joins,
        entries,
        files,
        duplicates: (duplicates, example),
        stages,
        named: resources
            .named
            .as_ref()
            .map(|named| std::mem::take(&mut *named.lock().unwrap_or_else(std::sync::PoisonError::into_inner)))
            .unwrap_or_default(),
    })
}

/// Counts entities of the query's first input that another input lacks, where
/// the query is entity-local and joins inner; zero where it joins nothing.
async fn dropped_by_joins(workspace: &Workspace, draft: &Draft, work: &Work) -> Result<Option<u64>> {
    let pipeline = &draft.definition.pipeline;
    let Ok(columns) = &work.prepared.locality else { return Ok(None) };
    let query = FeatureQuery::new(workspace, pipeline, &draft.inputs, &BTreeMap::new()).await?;
    let Some((first, partners)) = locality::inner_joined(&query.plan) else { return Ok(Some(0)) };
    let failed = |e| plan_error(&features::source(pipeline), &pipeline.features.sql, e);
    let keys_of = |input: &str| -> Option<Vec<&str>> { Some(columns.get(input)?.iter().map(String::as_str).collect()) };
    let Some(key) = keys_of(&first) else { return Ok(None) };
    let table = |input: &str| {
        let (namespace, name) = input.split_once('.').unwrap_or(("default", input));
        TableReference::partial(namespace.to_owned(), name.to_owned())
    };
    let select = |columns: &[&str]| columns.iter().copied().map(ident).collect::<Vec<_>>();
    let all = query.context.table(table(&first)).await.and_then(|f| f.select(select(&key))).map_err(failed)?;
    let mut kept = all.clone();
    for partner in &partners {
        let Some(other) = keys_of(partner) else { return Ok(None) };
        let right = query.context.table(table(partner)).await.and_then(|f| f.select(select(&other))).map_err(failed)?;
        kept = kept.join(right, JoinType::LeftSemi, &key, &other, None).map_err(failed)?;
    }
    let before = all.count().await.map_err(failed)? as u64;
    let after = kept.count().await.map_err(failed)? as u64;
    Ok(Some(before.saturating_sub(after)))
}

/// Runs a pipeline once.
///
/// # Errors
/// The user's to fix: wrong configuration, SQL, model or data. `Conflict` when
/// other runs of the same pipeline kept being first.
pub async fn run(workspace: &Workspace, name: &str, options: &RunOptions, reporter: &Reporter) -> Result<RunReport> {
    let start = workspace.clock().monotonic_seconds();
    let mut winner = 0;
    for _ in 0..=REPLANS {
        match attempt(workspace, name, options, reporter, start).await? {
            Attempt::Done(mut report) => {
                metrics::append(workspace, &report)?;
                report.maintenance = maintained(workspace, &report).await;
                return Ok(*report);
            }
            Attempt::Stale(newest) => winner = newest,
        }
    }
    Err(Error::conflict(format!(
        "other runs of pipeline `{name}` were first {} times in a row, the last as snapshot {winner}",
        REPLANS + 1
    ))
    .hint("one run at a time is enough: the others find nothing to do"))
}

/// Maintains the table that a run wrote, where the project wants that. A run
/// is done when it has committed: what goes wrong here is told, no more.
async fn maintained(workspace: &Workspace, report: &RunReport) -> Option<Maintained> {
    let policy = &workspace.project().settings.maintenance;
    if !policy.auto || report.snapshot_id.is_none() || report.as_of.is_some() {
        return None;
    }
    let done = async {
        let name = TableName::parse(&report.table)?;
        policy::after_run(workspace.lake(), &session(workspace, "UTC")?, &name, policy).await
    };
    match done.await {
        Ok(report) => report.map(Maintained::Done),
        Err(error) => Some(Maintained::Failed(error.to_string())),
    }
}

enum Attempt {
    Done(Box<RunReport>),
    Stale(i64),
}

async fn attempt(
    workspace: &Workspace,
    name: &str,
    options: &RunOptions,
    reporter: &Reporter,
    start: f64,
) -> Result<Attempt> {
    let clock = workspace.clock();
    (reporter.stage)("plan", None);
    let draft = Draft::new(workspace, name, options).await?;
    let run_id = workspace.new_run_id().to_string();
    let mut report = RunReport {
        pipeline: name.to_owned(),
        run_id: run_id.clone(),
        as_of: options.as_of.as_ref().map(|as_of| show_time(as_of.micros)),
        table: draft.definition.table().to_string(),
        status: RunStatus::Unchanged,
        snapshot_id: None,
        committed_at: None,
        entities: draft.progress.as_ref().and_then(|p| p.entities).unwrap_or(0),
        scored: 0,
        skipped: 0,
        removed: 0,
        reasons: Reasons::default(),
        dropped_by_joins: None,
        null_keys: 0,
        suppressed: 0,
        model: ModelName::of(&draft.definition),
        strategy: "snapshot",
        why_not_snapshot: None,
        added_columns: Vec::new(),
        seconds: 0.0,
        stages: BTreeMap::from([("plan", clock.monotonic_seconds() - start)]),
        bytes_written: 0,
        maintenance: None,
    };
    let Some(work) = &draft.work else {
        report.skipped = report.entities;
        report.seconds = clock.monotonic_seconds() - start;
        return Ok(Attempt::Done(Box::new(report)));
    };
    let (table, added_columns) = ready_table(workspace, &draft, work)?;
    let timestamp = match &options.as_of {
        Some(as_of) => as_of.micros,
        None => prediction_time(workspace, &table),
    };
    let spec = draft.spec(work, &run_id, timestamp, options, false);
    let evaluation = evaluate(workspace, &draft, work, spec.clone(), Some(&table), reporter).await?;
    evaluation.refuse_duplicates(&draft)?;
    report.dropped_by_joins = match evaluation.dropped_by_joins {
        None if work.count_dropped => dropped_by_joins(workspace, &draft, work).await?,
        counted => counted,
    };
    let Evaluation { entities, reasons, mut removed, null_keys, suppressed, entries, mut files, stages, .. } =
        evaluation;

    if faults::bug(Bug::ForgetRemoved) {
        removed.clear();
    }
    (reporter.stage)("commit", None);
    let commit_start = clock.monotonic_seconds();
    files.extend(removal_files(work, &spec, &table, &removed)?);
    let mut gone = Entries::default();
    for key in removed.iter().filter_map(|slot| work.index.key_of(*slot)) {
        let state = State { feature_hash: 0, definition_hash: spec.definition_hash, live: false };
        gone.push(xxhash_rust::xxh3::xxh3_128(key), state, |out| out.extend_from_slice(key));
    }
    entries.add(&gone);
    report.stages.extend(stages);
    report.entities = entities;
    report.scored = reasons.iter().sum();
    report.removed = removed.len() as u64;
    report.reasons = Reasons::new(&reasons, report.removed);
    report.skipped = entities.saturating_sub(report.scored);
    report.null_keys = null_keys;
    report.suppressed = suppressed;
    report.strategy = work.strategy.as_str();
    report.why_not_snapshot.clone_from(&work.why_not_snapshot);
    report.added_columns = added_columns;
    report.bytes_written = files.iter().map(DataFile::file_size_in_bytes).sum();
    report.status = if files.is_empty() { RunStatus::Unchanged } else { RunStatus::Committed };

    let nothing_new = options.as_of.is_some()
        || draft.progress.as_ref().is_some_and(|p| plan::settled(p, &draft.definition, &draft.inputs));
    if files.is_empty() && nothing_new {
        report.seconds = clock.monotonic_seconds() - start;
        return Ok(Attempt::Done(Box::new(report)));
    }
    let change = describe(&draft, work, &table, &spec, files, entities)?;
    if draft.table.is_none() {
        // Someone else may have made the table meanwhile: then plan on theirs.
        let created = commit::create(workspace.lake(), &table)?;
        if created.metadata().uuid() != table.metadata().uuid() {
            return Ok(Attempt::Stale(created.current_snapshot_id().unwrap_or(0)));
        }
        // An erasure looks at the tables that are there: one that came before
        // this table did not see it.
        if ErasedEntities::read(&workspace.project().dir)?.number() != draft.erased.number() {
            return Ok(Attempt::Stale(0));
        }
    }
    let (committed, snapshot_id) = match commit::commit(workspace.lake(), &change)? {
        Outcome::Stale { newest } => return Ok(Attempt::Stale(newest)),
        Outcome::Committed { table, snapshot_id } => (table, snapshot_id),
    };
    report.snapshot_id = Some(snapshot_id);
    report.committed_at = committed.committed_at(snapshot_id);
    report.stages.insert("commit", clock.monotonic_seconds() - commit_start);
    let index_start = clock.monotonic_seconds();
    if !spec.as_of {
        save_index(workspace, name, draft, &committed, snapshot_id, entries);
    }
    report.stages.insert("index", clock.monotonic_seconds() - index_start);
    report.seconds = clock.monotonic_seconds() - start;
    Ok(Attempt::Done(Box::new(report)))
}
