//! Spark ML `PipelineModel` folders, of Spark 3 and 4.
//!
//! Every stage becomes a [`stage::Stage`] over named columns; the last one, a
//! tree ensemble or a linear model, becomes the [`head::Head`]. A stage that is
//! not known is an error that names it. Pipelines inside pipelines are laid
//! out flat.
//!
//! - Stages whose columns the model does not use, such as the indexer of the
//!   label, are left out: rows need no label. Classes have the labels of that
//!   indexer, else `0`, `1`, ...; `prediction` is always the class number.
//! - Null and NaN: an Imputer replaces both. A VectorAssembler refuses both
//!   (`error`, `skip`) or passes NaN on (`keep`); trees send NaN to the right.
//!   A StringIndexer treats null as a label it has not seen.
//! - `margin` is the raw prediction of the positive class of two.

mod explain;
mod frame;
mod head;
mod sizes;
mod stage;
mod store;
mod trees;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use serde_json::Value;

use crate::artifact::Artifact;
use crate::error::{Error, Result};
use crate::explain::Contributions;
use crate::model::{Description, Input, Model, Predictions, Signature};
use frame::Frame;
use head::Head;
use stage::{Stage, Width};
use store::Folder;

/// Pipelines inside pipelines.
const MAX_NESTING: usize = 8;
/// Numbers of all stages, and values that they make of one row, at most.
const MAX_VALUES: usize = 1 << 23;
/// Values that stages make at once: rows beyond are scored after the others.
const MADE_AT_ONCE: usize = 1 << 24;

#[derive(Debug)]
struct SparkModel {
    stages: Vec<Stage>,
    head: Head,
    features: String,
    slots: Vec<explain::Slot>,
    rows_at_once: usize,
    description: Description,
    signature: Signature,
}

/// Loads a pipeline, or a folder of one fitted stage.
pub fn load(artifact: &Artifact) -> Result<Arc<dyn Model>> {
    let mut folders = Vec::new();
    flatten(artifact, "", 0, &mut folders)?;
    build(folders).map(|model| Arc::new(model) as Arc<dyn Model>)
}

/// The folders of all stages, in order, with their metadata.
fn flatten<'a>(
    artifact: &'a Artifact,
    path: &str,
    nesting: usize,
    folders: &mut Vec<(Folder<'a>, Value)>,
) -> Result<()> {
    let folder = Folder::new(artifact, path);
    let metadata = folder.metadata()?;
    if class_of(&metadata) != "PipelineModel" {
        folders.push((folder, metadata));
        return Ok(());
    }
    let uids = metadata.get("paramMap").and_then(|p| p.get("stageUids")).and_then(Value::as_array);
    let uids = uids.ok_or_else(|| Error::data(format!("`{path}metadata` of the pipeline has no stageUids")))?;
    if nesting > MAX_NESTING {
        return Err(Error::data(format!("`{path}` is a pipeline nested too deep")));
    }
    let digits = uids.len().to_string().len();
    for (index, uid) in uids.iter().enumerate() {
        let uid = uid.as_str().unwrap_or_default();
        flatten(artifact, &format!("{path}stages/{index:0digits$}_{uid}/"), nesting + 1, folders)?;
    }
    Ok(())
}

/// `org.apache.spark.ml.feature.StringIndexerModel` to its last part.
fn class_of(metadata: &Value) -> String {
    let class = metadata.get("class").and_then(Value::as_str).unwrap_or_default();
    class.rsplit('.').next().unwrap_or_default().to_owned()
}

fn build(folders: Vec<(Folder<'_>, Value)>) -> Result<SparkModel> {
    let (mut stages, mut held) = (Vec::new(), 0);
    let mut found: Option<(Head, String, String, String)> = None;
    for (folder, metadata) in &folders {
        let class = class_of(metadata);
        if found.is_some() {
            return Err(Error::invalid(format!(
                "the stage {class} comes after the model's estimator, which is not supported"
            ))
            .with_hint("`prediction` is the number of the class: name it in an output expression"));
        }
        let parameters = store::Parameters::new(metadata);
        match Stage::load(&class, &parameters, folder)? {
            Some(stage) => {
                held += stage.held();
                if held > MAX_VALUES {
                    return Err(Error::invalid(format!(
                        "the pipeline has more than {MAX_VALUES} numbers before its model"
                    )));
                }
                stages.push(stage);
            }
            None => {
                let head = Head::load(&class, metadata, &parameters, folder)?;
                let text = |name: &str, default: &str| parameters.text(name).unwrap_or(default).to_owned();
                found = Some((head, text("featuresCol", "features"), text("labelCol", "label"), class));
            }
        }
    }
    let (mut head, features, label, class) =
        found.ok_or_else(|| Error::invalid("the pipeline has no estimator: it only prepares features"))?;
    for stage in &stages {
        if let Stage::StringIndexer { columns, .. } = stage
            && let Some(column) = columns.iter().find(|c| c.output == label)
        {
            head.name_classes(&column.labels);
        }
    }
    let mut needed = HashSet::from([features.clone()]);
    let mut kept: Vec<bool> = stages.iter_mut().rev().map(|stage| stage.keep_needed(&mut needed)).collect();
    kept.reverse();
    let mut kept = kept.into_iter();
    stages.retain(|_| kept.next().unwrap_or(false));

    // The columns that no stage makes come from the rows.
    let mut made: HashMap<String, Width> = HashMap::new();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut inputs: Vec<Input> = Vec::new();
    let mut row_values = 0;
    for stage in &stages {
        for (name, kind) in stage.inputs() {
            if !made.contains_key(name) && seen.insert(name.to_owned()) {
                inputs.push(Input { name: name.to_owned(), kind });
            }
        }
        stage.widths(&mut made)?;
        row_values += stage.outputs().filter_map(|name| made.get(name)).map(|width| width.values()).sum::<usize>();
        if row_values > MAX_VALUES {
            return Err(Error::invalid(format!("the stages make more than {MAX_VALUES} values of one row")));
        }
    }
    match made.get(&features) {
        Some(Width::Vector(width)) if *width == head.width() => {}
        Some(width) => {
            return Err(Error::data(format!(
                "`{features}` has {} values, {class} was trained on {}",
                width.values(),
                head.width()
            )));
        }
        None => {
            return Err(Error::invalid(format!(
                "no stage makes the column `{features}`: rows would have to bring vectors"
            ))
            .with_hint("save the whole PipelineModel, with its VectorAssembler"));
        }
    }
    let description = Description { flavor: "spark".into(), objective: class, ..head.describe() };
    let slots = explain::slots(&stages, &inputs, &features);
    if slots.len() != head.width() {
        return Err(Error::data(format!("`{features}` has values that come from no column")));
    }
    head.explain_by(&slots, inputs.len());
    let rows_at_once = (MADE_AT_ONCE / row_values.max(1)).max(1);
    Ok(SparkModel { stages, head, features, slots, rows_at_once, description, signature: Signature { inputs } })
}

impl SparkModel {
    /// The feature vectors, slot by slot.
    fn vectors(&self, batch: &RecordBatch) -> Result<Vec<Vec<f64>>> {
        let mut frame = Frame::new(batch, &self.signature.inputs);
        for stage in &self.stages {
            frame.apply(stage)?;
        }
        let features = frame.into_vectors(&self.features)?;
        debug_assert_eq!(features.len(), self.head.width());
        Ok(features)
    }
}

impl Model for SparkModel {
    fn description(&self) -> &Description {
        &self.description
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn score(&self, batch: &RecordBatch) -> Result<Predictions> {
        let rows = batch.num_rows();
        if rows <= self.rows_at_once {
            return Ok(self.head.score(&self.vectors(batch)?, rows));
        }
        let parts = (0..rows).step_by(self.rows_at_once);
        let parts = parts.map(|from| self.score(&batch.slice(from, self.rows_at_once.min(rows - from))));
        Ok(Predictions::concat(parts.collect::<Result<_>>()?))
    }

    fn contributions(&self, batch: &RecordBatch) -> Result<Contributions> {
        let (features, inputs) = (self.vectors(batch)?, &self.signature.inputs);
        let (outputs, values) = self.head.contributions(&features, &self.slots, inputs.len(), batch.num_rows())?;
        Contributions::new(batch, inputs, outputs, values)
    }
}
