//! What decides a prediction besides the features, and whether it all fits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use insightera_core::closest;
use insightera_entities::hash;
use insightera_infer::Model;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::features::{self, FeatureQuery};
use super::inputs::Inputs;
use super::locality::{self, KeyColumns};
use super::output::OutputPlan;
use super::progress;
use crate::config::{Duplicates, ModelRef, Pipeline, Selector, Strategy};
use crate::key;
use crate::lake::schema::Evolution;
use crate::lake::{Table, TableName};
use crate::registry::ResolvedModel;
use crate::workspace::Workspace;
use crate::{Error, Result};

/// A pipeline with its model resolved and pinned.
#[derive(Debug, Clone)]
pub struct Definition {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// The model version, resolved once.
    pub model: Option<ResolvedModel>,
    /// xxh3-64 of model sha256, SQL and output expressions.
    pub hash: u64,
    /// Another time than now, and where its rows go.
    pub as_of: Option<AsOf>,
}

/// Scoring as if it were another time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsOf {
    /// The time, microseconds since the epoch.
    pub micros: i64,
    /// The table for the rows, in the place of the pipeline's own.
    pub into: Option<TableName>,
}

impl Definition {
    /// Resolves the pipeline's model, as of now or of another time. Opens
    /// neither table nor artifact.
    pub fn resolve(workspace: &Workspace, name: &str, as_of: Option<AsOf>) -> Result<Self> {
        let pipeline = workspace.project().pipeline(name)?;
        let resolve = |model: &ModelRef| {
            let selector = match (&as_of, &model.selector) {
                (Some(as_of), Selector::Alias(alias)) => version_at(workspace, model, alias, as_of.micros)?,
                _ => model.selector.clone(),
            };
            workspace.registry().resolve(&model.name, &selector)
        };
        let model = pipeline.model.as_ref().map(resolve).transpose()?;
        let mut text = serde_json::json!({
            "model_sha256": model.as_ref().map(|m| &m.sha256),
            "sql": pipeline.features.sql,
            "columns": pipeline.output.columns,
        });
        if let Some(explain) = pipeline.model.as_ref().and_then(|model| model.explain.as_ref()) {
            text["explain"] = serde_json::json!(explain);
        }
        let hash = xxh3_64(text.to_string().as_bytes());
        Ok(Self { pipeline, model, hash, as_of })
    }

    /// The name of the table that gets the rows.
    pub fn table(&self) -> TableName {
        if let Some(into) = self.as_of.as_ref().and_then(|as_of| as_of.into.clone()) {
            return into;
        }
        TableName { namespace: self.pipeline.output.namespace.clone(), name: self.pipeline.output.table.clone() }
    }

    /// What `model_version` says: the registry's version, or for a rule the
    /// definition itself.
    pub fn version(&self) -> String {
        self.model.as_ref().map_or_else(|| format!("rule-{:016x}", self.hash), |m| m.version.to_string())
    }
}

/// The version that an alias pointed to.
fn version_at(workspace: &Workspace, model: &ModelRef, alias: &str, micros: i64) -> Result<Selector> {
    let version = workspace.registry().production_at(&model.name, alias, micros)?;
    version.map(Selector::Version).ok_or_else(|| {
        let time = crate::sql::show_time(micros);
        Error::not_found(format!("model `{}` had no alias `{alias}` at {time}", model.name)).hint(format!(
            "`insightera model history {} --alias {alias}` lists its moves; `version = N` in the pipeline's [model] \
             scores with a version of another time",
            model.name
        ))
    })
}

/// A definition with everything planned and checked.
#[derive(Debug)]
pub struct Prepared {
    /// The definition.
    pub definition: Definition,
    /// The loaded model.
    pub model: Option<Arc<dyn Model>>,
    /// The columns that the feature hash covers.
    pub hashed: Vec<String>,
    /// The output.
    pub output: Arc<OutputPlan>,
    /// The key columns of every input, or why the query is not entity-local.
    pub locality: Result<KeyColumns, String>,
    /// Aggregates whose last bit depends on the order of the rows.
    pub order_dependent: BTreeSet<String>,
    /// Where the feature time comes from: input and column.
    pub time_sources: BTreeMap<String, String>,
    /// What the prediction table needs.
    pub evolution: Evolution,
}

impl Prepared {
    /// Plans the query on `inputs` and checks it against model and table.
    pub async fn new(
        workspace: &Workspace,
        definition: Definition,
        inputs: &Inputs,
        table: Option<&Table>,
    ) -> Result<Self> {
        let pipeline = &definition.pipeline;
        let file = pipeline.file.display().to_string();
        let query = FeatureQuery::new(workspace, pipeline, inputs, &BTreeMap::new()).await?;
        let feature_schema: SchemaRef = Arc::new(query.plan.schema().as_arrow().clone());
        check_columns(pipeline, &feature_schema)?;
        let order_dependent = locality::order_dependent(&query.plan);
        let clocks = locality::clock_functions(&query.plan);
        if let Some(name) = clocks.first() {
            return Err(Error::invalid(format!(
                "{file}: the feature SQL calls `{name}()`, which gives another answer every time"
            ))
            .hint(
                "features must be a function of the inputs; compute ages in the output from `prediction_timestamp`",
            ));
        }
        let skip: Vec<&String> = pipeline
            .entity_key
            .iter()
            .chain(&pipeline.features.feature_time)
            .chain(&pipeline.features.known_time)
            .chain(&pipeline.features.unhashed)
            .collect();
        let mut hashed: Vec<String> =
            feature_schema.fields().iter().map(|f| f.name().clone()).filter(|n| !skip.contains(&n)).collect();
        hashed.sort();
        for name in &hashed {
            let field = feature_schema.field_with_name(name).map_err(|e| Error::internal(e.to_string()))?;
            hash::check_type(name, field.data_type())
                .map_err(|e| Error::invalid(format!("{file}: {e}")).hint(e.get_hint().unwrap_or_default()))?;
        }
        let model = match &definition.model {
            None => None,
            Some(resolved) => {
                let model = load_model(workspace, resolved)?;
                check_signature(&pipeline.file, resolved, model.as_ref(), &feature_schema)?;
                // No rows, but the types: a wrong one is told before anything runs.
                model.score(&RecordBatch::new_empty(feature_schema.clone())).map_err(|e| {
                    Error::new(e.kind(), format!("{file}: model `{}` version {}: {e}", resolved.name, resolved.version))
                        .hint(e.hint().unwrap_or("cast the column in the feature SQL"))
                })?;
                if pipeline.model.as_ref().is_some_and(|model| model.explain.is_some()) {
                    model.contributions(&RecordBatch::new_empty(feature_schema.clone())).map_err(|e| {
                        let of = format!("model `{}` version {}", resolved.name, resolved.version);
                        Error::new(e.kind(), format!("{file}: [model] explain: {of}: {e}"))
                            .hint(e.hint().unwrap_or("leave out [model] explain"))
                    })?;
                }
                Some(model)
            }
        };
        let output = OutputPlan::new(&query.context, pipeline.into(), &feature_schema)?;
        let evolution = match table {
            None => Evolution::default(),
            Some(table) => output.evolution(&pipeline.file, table)?,
        };
        let locality = locality::key_columns(&query.plan, &pipeline.entity_key);
        let time_sources = time_sources(pipeline, &query);
        let output = Arc::new(output);
        Ok(Self { definition, model, hashed, output, locality, order_dependent, time_sources, evolution })
    }
}

/// Loads a version of a model.
pub fn load_model(workspace: &Workspace, resolved: &ResolvedModel) -> Result<Arc<dyn Model>> {
    let artifact = workspace.registry().load_artifact(resolved)?;
    crate::sql::load_model(&artifact).map_err(|e| {
        Error::new(e.kind(), format!("model `{}` version {} cannot be loaded: {e}", resolved.name, resolved.version))
            .hint(e.hint().unwrap_or("register a working artifact as a new version and promote it"))
    })
}

/// The inputs whose columns the feature time is made of; an input with two
/// such columns is left out, since neither alone says when a row changed.
fn time_sources(pipeline: &Pipeline, query: &FeatureQuery) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    if let Some(time) = &pipeline.features.feature_time {
        for (table, column) in locality::lineage(&query.plan, time) {
            found.entry(table).or_default().push(column);
        }
    }
    found.into_iter().filter(|(_, c)| c.len() == 1).map(|(t, mut c)| (t, c.remove(0))).collect()
}

fn check_columns(pipeline: &Pipeline, schema: &SchemaRef) -> Result<()> {
    let file = pipeline.file.display();
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    for (index, name) in names.iter().enumerate() {
        if names[..index].contains(name) {
            return Err(Error::invalid(format!("{file}: the feature SQL yields two columns named `{name}`"))
                .hint("name the columns in the SELECT list, each once, with AS"));
        }
    }
    let features = &pipeline.features;
    // `known_time = "feature_time"` is a word where no column has this name.
    let is_word = |known: &str| known == "feature_time" && features.feature_time.is_some();
    let wanted = pipeline
        .entity_key
        .iter()
        .map(|n| ("[entity] key", n))
        .chain(features.feature_time.iter().map(|n| ("[features] feature_time", n)))
        .chain(features.known_time.iter().filter(|n| !is_word(n)).map(|n| ("[features] known_time", n)))
        .chain(features.unhashed.iter().map(|n| ("[features] unhashed", n)));
    for (what, name) in wanted {
        if !names.contains(&name.as_str()) {
            let error = Error::invalid(format!("{file}: {what} names `{name}`, which the feature SQL does not yield"));
            return Err(match closest(name, names.iter().copied()) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint(format!("its columns are {}", names.join(", "))),
            });
        }
    }
    for name in &pipeline.entity_key {
        let field = schema.field_with_name(name).map_err(|e| Error::internal(e.to_string()))?;
        key::check_key_type(name, field.data_type())
            .map_err(|e| Error::invalid(format!("{file}: {e}")).hint(e.get_hint().unwrap_or_default()))?;
    }
    if features.duplicates == Duplicates::Latest && features.feature_time.is_none() {
        return Err(Error::invalid(format!("{file}: duplicates = \"latest\" needs [features] feature_time")));
    }
    if features.strategy == Strategy::Timestamp && features.feature_time.is_none() {
        return Err(Error::invalid(format!("{file}: strategy = \"timestamp\" needs [features] feature_time")));
    }
    if let Some(time) = &features.feature_time {
        let field = schema.field_with_name(time).map_err(|e| Error::internal(e.to_string()))?;
        if !field.data_type().is_temporal() {
            return Err(Error::invalid(format!("{file}: feature_time `{time}` has type {}", field.data_type()))
                .hint("it must be a TIMESTAMP or a DATE; cast it in the feature SQL"));
        }
    }
    Ok(())
}

/// Whether the features have every column that the model wants.
pub fn check_signature(file: &Path, resolved: &ResolvedModel, model: &dyn Model, schema: &Schema) -> Result<()> {
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let missing: Vec<&str> =
        model.signature().inputs.iter().map(|i| i.name.as_str()).filter(|n| !names.contains(n)).collect();
    let Some(first) = missing.first() else { return Ok(()) };
    let error = Error::invalid(format!(
        "{}: model `{}` version {} wants {} `{}`, which the features do not have",
        file.display(),
        resolved.name,
        resolved.version,
        if missing.len() == 1 { "the column" } else { "the columns" },
        missing.join("`, `")
    ));
    Err(match closest(first, names.iter().copied()) {
        Some(near) => error.hint(format!("there is `{near}`: name it `{first}`")),
        None => error.hint("add them to the features, or pin a version of the model that does not need them"),
    })
}

/// What `check` found of one pipeline.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// The pipeline.
    pub pipeline: String,
    /// Its prediction table.
    pub table: String,
    /// Whether the table exists.
    pub table_exists: bool,
    /// The model, `name` version `v`.
    pub model: Option<String>,
    /// The strategy that a run would use now.
    pub strategy: &'static str,
    /// Why it is not `snapshot`.
    pub why_not_snapshot: Option<String>,
    /// Inputs.
    pub inputs: Vec<String>,
    /// Columns that the next run adds to the table.
    pub adds_columns: Vec<String>,
    /// What is right and may yet surprise.
    pub warnings: Vec<String>,
}

/// Validates one pipeline against everything it touches, without running it.
pub async fn check(workspace: &Workspace, name: &str) -> Result<CheckReport> {
    let definition = Definition::resolve(workspace, name, None)?;
    let inputs = Inputs::pin(workspace, features::reads(workspace, &definition.pipeline)?, None)?;
    let table = workspace.lake().find(&definition.table())?;
    let prepared = Prepared::new(workspace, definition, &inputs, table.as_ref()).await?;
    let (strategy, why_not_snapshot) = super::plan::choose(&prepared, &inputs)?;
    if let Some(table) = &table {
        progress::progress(table, name)?;
    }
    let definition = &prepared.definition;
    Ok(CheckReport {
        pipeline: name.to_owned(),
        table: definition.table().to_string(),
        table_exists: table.is_some(),
        model: definition.model.as_ref().map(|m| format!("{} version {}", m.name, m.version)),
        strategy: strategy.as_str(),
        why_not_snapshot,
        inputs: inputs.iter().map(|(name, _)| name.clone()).collect(),
        adds_columns: prepared.evolution.added.iter().map(|c| c.name.clone()).collect(),
        warnings: prepared
            .order_dependent
            .iter()
            .map(|aggregate| {
                format!(
                    "{aggregate} adds up floats in no fixed order: its last bit can differ between two runs, which \
                     then score entities whose features are the same; round it, or add up a DECIMAL"
                )
            })
            .collect(),
    })
}
