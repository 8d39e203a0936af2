//! The plan of a run: pinned inputs, strategy, candidates, and, evaluated
//! without writing, how many entities would be scored and why.

use std::collections::BTreeMap;
use std::sync::Arc;

use insightera_entities::index::{Anchor, StateIndex};
use serde::Serialize;

use super::definition::{Definition, Prepared};
use super::exec::Reason;
use super::features;
use super::inputs::{Consumed, Input, Inputs};
use super::progress::{Progress, progress};
use super::run::{Evaluation, Reporter, RunOptions, evaluate};
use super::state;
use crate::Result;
use crate::config::{OnModelChange, Strategy};
use crate::erase::{ErasedEntities, Suppressed};
use crate::key::KeySet;
use crate::lake::Table;
use crate::lake::changes::{self, Diff};
use crate::lake::scan::KeyFilter;
use crate::workspace::Workspace;

/// Scored entities by reason; reasons that did not occur are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Reasons(pub BTreeMap<&'static str, u64>);

impl Reasons {
    /// From the counters, with the removed added.
    pub fn new(counts: &[u64; 6], removed: u64) -> Self {
        let all = Reason::ALL.iter().zip(counts).map(|(r, n)| (r.as_str(), *n)).filter(|(_, n)| *n > 0);
        let mut reasons: BTreeMap<_, _> = all.collect();
        if removed > 0 {
            reasons.insert(Reason::Removed.as_str(), removed);
        }
        Self(reasons)
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// What a run would do.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The pipeline.
    pub pipeline: String,
    /// Live entities.
    pub entities: u64,
    /// Rows that would be written, removals included.
    pub to_score: u64,
    /// Why.
    pub reasons: Reasons,
    /// The pinned inputs.
    pub inputs: BTreeMap<String, Consumed>,
    /// Bytes of the files that hold the candidates.
    pub bytes: u64,
    /// Files that hold the candidates.
    pub files: u64,
    /// The model.
    pub model: Option<ModelName>,
    /// The strategy that was used.
    pub strategy: &'static str,
    /// Why it is not `snapshot`.
    pub why_not_snapshot: Option<String>,
    /// What the strategy can miss, if anything.
    pub can_miss: Option<String>,
    /// Columns that the run would add to the table.
    pub adds_columns: Vec<String>,
}

/// A model by name and version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelName {
    /// The model.
    pub name: String,
    /// The version.
    pub version: u64,
}

impl ModelName {
    pub(super) fn of(definition: &Definition) -> Option<Self> {
        definition.model.as_ref().map(|m| Self { name: m.name.clone(), version: m.version })
    }
}

/// Pins the inputs and says what a run would score, without writing.
pub async fn plan(workspace: &Workspace, name: &str, options: &RunOptions) -> Result<Plan> {
    let draft = Draft::new(workspace, name, options).await?;
    let consumed = draft.inputs.consumed(&BTreeMap::new());
    let (definition, work) = (&draft.definition, draft.work.as_ref());
    let mut plan = Plan {
        pipeline: name.to_owned(),
        entities: draft.progress.as_ref().and_then(|p| p.entities).unwrap_or(0),
        to_score: 0,
        reasons: Reasons::default(),
        inputs: consumed,
        bytes: 0,
        files: 0,
        model: ModelName::of(definition),
        strategy: Strategy::Snapshot.as_str(),
        why_not_snapshot: None,
        can_miss: None,
        adds_columns: Vec::new(),
    };
    let Some(work) = work else { return Ok(plan) };
    let spec = draft.spec(work, "plan", 0, options, true);
    let evaluation: Evaluation = evaluate(workspace, &draft, work, spec, None, &Reporter::silent()).await?;
    evaluation.refuse_duplicates(&draft)?;
    plan.entities = evaluation.entities;
    plan.reasons = Reasons::new(&evaluation.reasons, evaluation.removed.len() as u64);
    plan.to_score = plan.reasons.total();
    plan.bytes = work.bytes;
    plan.files = work.files;
    plan.strategy = work.strategy.as_str();
    plan.why_not_snapshot.clone_from(&work.why_not_snapshot);
    plan.can_miss.clone_from(&work.can_miss);
    plan.adds_columns = work.prepared.evolution.added.iter().map(|c| c.name.clone()).collect();
    Ok(plan)
}

/// A plan before its features are evaluated.
#[derive(Debug)]
pub struct Draft {
    /// The pinned definition.
    pub definition: Definition,
    /// The prediction table, if it exists.
    pub table: Option<Table>,
    /// The pipeline's last commit.
    pub progress: Option<Progress>,
    /// The pinned inputs.
    pub inputs: Inputs,
    /// What there is to do; nothing when inputs and definition are the same.
    pub work: Option<Work>,
    /// Who was erased when the plan was made.
    pub erased: ErasedEntities,
}

/// The part of a plan that needs the query.
#[derive(Debug)]
pub struct Work {
    /// The checked pipeline.
    pub prepared: Prepared,
    /// The state of every entity.
    pub index: Arc<StateIndex>,
    /// The strategy.
    pub strategy: Strategy,
    /// Why it is not `snapshot`.
    pub why_not_snapshot: Option<String>,
    /// What the strategy can miss.
    pub can_miss: Option<String>,
    /// Only these entities can have changed; `None` is all.
    pub candidates: Option<Arc<KeySet>>,
    /// Key filters for the inputs.
    pub filters: BTreeMap<String, KeyFilter>,
    /// Bytes of the files that hold the candidates.
    pub bytes: u64,
    /// How many files.
    pub files: u64,
    /// Rows that will be evaluated at most, for the progress bar.
    pub rows: u64,
    /// Whether every entity is evaluated because nothing narrower is possible:
    /// then the entities that joins drop are counted as well.
    pub count_dropped: bool,
}

/// Whether the last commit of the pipeline was of these inputs and this
/// definition.
pub fn settled(progress: &Progress, definition: &Definition, inputs: &Inputs) -> bool {
    let definition_settled = progress.definition_hash == definition.hash
        || definition.pipeline.features.on_model_change == OnModelChange::NewOnly;
    definition_settled && inputs.same_as(&progress.inputs)
}

impl Draft {
    /// The entities that must not be scored.
    pub fn suppressed(&self) -> Option<Suppressed> {
        self.erased.of(&self.definition.pipeline.entity_key)
    }

    /// Resolves, pins, and finds the candidates.
    pub async fn new(workspace: &Workspace, name: &str, options: &RunOptions) -> Result<Self> {
        let erased = ErasedEntities::read(&workspace.project().dir)?;
        let definition = Definition::resolve(workspace, name, options.as_of.clone())?;
        let as_of = options.as_of.as_ref().map(|as_of| as_of.micros);
        let inputs = Inputs::pin(workspace, features::reads(workspace, &definition.pipeline)?, as_of)?;
        let table = workspace.lake().find(&definition.table())?;
        // What was scored before does not matter to another time.
        let known = table.as_ref().filter(|_| as_of.is_none());
        let progress = known.map(|t| progress(t, name)).transpose()?.flatten();
        let settled = progress.as_ref().is_some_and(|p| settled(p, &definition, &inputs));
        let forced = options.full || as_of.is_some() || definition.pipeline.features.strategy == Strategy::Full;
        if settled && inputs.views().is_empty() && !forced {
            return Ok(Self { definition, table, progress, inputs, work: None, erased });
        }
        let work = Work::new(workspace, &definition, &inputs, table.as_ref(), progress.as_ref(), forced).await?;
        Ok(Self { definition, table, progress, inputs, work: Some(work), erased })
    }

    /// The spec of a run of this plan.
    pub fn spec(
        &self,
        work: &Work,
        run_id: &str,
        timestamp: i64,
        options: &RunOptions,
        dry: bool,
    ) -> super::exec::ScoreSpec {
        let pipeline = &self.definition.pipeline;
        super::exec::ScoreSpec {
            pipeline: pipeline.name.clone(),
            key: pipeline.entity_key.clone(),
            hashed: work.prepared.hashed.clone(),
            model_name: self.definition.model.as_ref().map(|m| m.name.clone()),
            model_version: self.definition.version(),
            model_sha256: self.definition.model.as_ref().map(|m| m.sha256.clone()),
            definition_hash: self.definition.hash,
            run_id: run_id.to_owned(),
            timestamp,
            first_run: self.progress.is_none(),
            as_of: self.definition.as_of.is_some(),
            forced: options.full || pipeline.features.strategy == Strategy::Full,
            rescore: pipeline.features.on_model_change == OnModelChange::Rescore,
            dry,
        }
    }
}

impl Work {
    async fn new(
        workspace: &Workspace,
        definition: &Definition,
        inputs: &Inputs,
        table: Option<&Table>,
        progress: Option<&Progress>,
        forced: bool,
    ) -> Result<Self> {
        let prepared = Prepared::new(workspace, definition.clone(), inputs, table).await?;
        let index = match table {
            Some(table) if progress.is_some() => state::load(workspace, table, &definition.pipeline.name).await?,
            _ => StateIndex::empty(Anchor {
                pipeline: definition.pipeline.name.clone(),
                table_uuid: String::new(),
                snapshot_id: 0,
            }),
        };
        let narrowed = if forced {
            Narrowed::all(Strategy::Full, "every entity is scored")
        } else {
            narrow(workspace, &prepared, inputs, progress)?
        };
        let mut work = Self {
            index: Arc::new(index),
            strategy: narrowed.strategy,
            why_not_snapshot: narrowed.why,
            can_miss: narrowed.can_miss,
            candidates: None,
            filters: BTreeMap::new(),
            bytes: narrowed.bytes,
            files: narrowed.files,
            rows: 0,
            count_dropped: progress.is_none() || forced,
            prepared,
        };
        if let (Some(keys), Ok(columns)) = (narrowed.candidates, &work.prepared.locality) {
            let keys = Arc::new(keys);
            for (input, columns) in columns {
                work.filters.insert(input.clone(), KeyFilter { columns: columns.clone(), keys: keys.clone() });
            }
            work.rows = keys.len() as u64;
            work.candidates = Some(keys);
        } else {
            for scan in inputs.scans(&BTreeMap::new())?.values() {
                work.bytes += scan.bytes();
                work.files += scan.file_count() as u64;
                work.rows = work.rows.max(scan.rows());
            }
        }
        Ok(work)
    }
}

/// The strategy that the query and the inputs allow, before history is looked
/// at, and why it is not `snapshot`.
pub fn choose(prepared: &Prepared, inputs: &Inputs) -> Result<(Strategy, Option<String>)> {
    let configured = prepared.definition.pipeline.features.strategy;
    if let Some(view) = inputs.views().first() {
        let why = format!("the rows of the feature view `{}` depend on the time", view.name);
        let strategy = if configured == Strategy::Full { configured } else { Strategy::Hash };
        return Ok((strategy, Some(why)));
    }
    let not_local = prepared.locality.as_ref().err().map(|why| format!("the query is not entity-local: {why}"));
    Ok(match configured {
        Strategy::Full => (Strategy::Full, Some("strategy = \"full\"".into())),
        Strategy::Hash => (Strategy::Hash, Some("strategy = \"hash\"".into())),
        Strategy::Timestamp => match not_local {
            Some(why) => (Strategy::Hash, Some(why)),
            None => (Strategy::Timestamp, Some("strategy = \"timestamp\"".into())),
        },
        Strategy::Auto | Strategy::Snapshot => {
            let folder = inputs.iter().find(|(_, i)| matches!(i, Input::Folder { .. }));
            match (not_local, folder) {
                (Some(why), _) => (Strategy::Hash, Some(why)),
                (None, Some((name, _))) => {
                    (Strategy::Hash, Some(format!("input `{name}` is a Parquet folder, which has no snapshots")))
                }
                (None, None) => (Strategy::Snapshot, None),
            }
        }
    })
}

struct Narrowed {
    strategy: Strategy,
    why: Option<String>,
    can_miss: Option<String>,
    candidates: Option<KeySet>,
    bytes: u64,
    files: u64,
}

impl Narrowed {
    fn all(strategy: Strategy, why: impl Into<String>) -> Self {
        Self { strategy, why: Some(why.into()), can_miss: None, candidates: None, bytes: 0, files: 0 }
    }
}

/// Above this share of an input's rows, reading all is cheaper than looking.
const WORTHWHILE: f64 = 0.25;

fn narrow(
    workspace: &Workspace,
    prepared: &Prepared,
    inputs: &Inputs,
    progress: Option<&Progress>,
) -> Result<Narrowed> {
    let (strategy, why) = choose(prepared, inputs)?;
    let Some(progress) = progress else {
        return Ok(Narrowed::all(Strategy::Hash, "this is the pipeline's first run"));
    };
    if !matches!(strategy, Strategy::Snapshot | Strategy::Timestamp) {
        return Ok(Narrowed { strategy, why, can_miss: None, candidates: None, bytes: 0, files: 0 });
    }
    let rescore = prepared.definition.pipeline.features.on_model_change == OnModelChange::Rescore;
    if rescore && progress.definition_hash != prepared.definition.hash {
        return Ok(Narrowed::all(Strategy::Hash, "the model, the SQL or an output expression changed"));
    }
    let Ok(columns) = &prepared.locality else {
        return Ok(Narrowed::all(Strategy::Hash, "the query is not entity-local"));
    };
    let mut keys = KeySet::default();
    let (mut bytes, mut files) = (0, 0);
    let mut blind: Vec<String> = Vec::new();
    for (name, input) in inputs.iter() {
        let Some(key) = columns.get(name) else { continue };
        match (input, progress.inputs.get(name)) {
            (Input::Table { table, snapshot_id }, Some(Consumed::Iceberg { uuid, snapshot_id: then })) => {
                if table.metadata().uuid().to_string() != *uuid {
                    return Ok(Narrowed::all(Strategy::Hash, format!("table `{name}` was dropped and made again")));
                }
                if snapshot_id == then {
                    continue;
                }
                let (Some(from), Some(to)) = (*then, *snapshot_id) else {
                    return Ok(Narrowed::all(Strategy::Hash, format!("table `{name}` was empty before, or is now")));
                };
                let changes = match changes::diff(table, from, to, key)? {
                    Diff::Declined(why) => return Ok(Narrowed::all(Strategy::Hash, why)),
                    Diff::Changes(changes) => changes,
                };
                let total = crate::lake::files::live_files(table, Some(to))?.data_rows();
                if changes.rows() as f64 > WORTHWHILE * total as f64 && total > 1000 {
                    let why = format!("the changed files of `{name}` hold {} of {total} rows", changes.rows());
                    return Ok(Narrowed::all(Strategy::Hash, why));
                }
                bytes += changes.bytes();
                files += changes.files() as u64;
                let Some(touched) = changes::touched_keys(table, &changes, key, workspace.threads())? else {
                    let why = format!("position deletes of `{name}` name a file that was cleaned up already");
                    return Ok(Narrowed::all(Strategy::Hash, why));
                };
                if keys.is_empty() { keys = touched } else { keys.extend(touched) }
            }
            (Input::Folder { root, fingerprint }, Some(Consumed::Parquet { fingerprint: then, max_feature_time })) => {
                if fingerprint == then {
                    continue;
                }
                let (Some(column), Some(since)) = (prepared.time_sources.get(name), max_feature_time) else {
                    blind.push(name.clone());
                    continue;
                };
                let found = super::timestamps::newer_keys(name, root, key, column, *since, workspace.threads())?;
                bytes += found.bytes;
                files += found.files;
                if keys.is_empty() { keys = found.keys } else { keys.extend(found.keys) }
            }
            _ => {
                return Ok(Narrowed::all(
                    Strategy::Hash,
                    format!("input `{name}` is new to the pipeline, or changed its kind"),
                ));
            }
        }
    }
    let can_miss = (strategy == Strategy::Timestamp).then(|| {
        let mut text = "rows that change or vanish without a newer feature time".to_owned();
        if !blind.is_empty() {
            text.push_str(&format!("; every change of {}, which has no feature time in the query", blind.join(", ")));
        }
        text
    });
    Ok(Narrowed { strategy, why, can_miss, candidates: Some(keys), bytes, files })
}
