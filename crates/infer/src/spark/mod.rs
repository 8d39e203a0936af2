//! Spark ML `PipelineModel` folders, of Spark 3 and 4.
//!
//! Every stage becomes a [`stage::Stage`] over named columns; the last one, a
//! tree ensemble or a linear model, becomes the [`head::Head`]. A stage that is
//! not known is an error that names it.

mod head;
mod stage;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use serde_json::Value;

use crate::artifact::Artifact;
use crate::error::{Error, Result};
use crate::model::{Description, Input, InputKind, Model, Predictions, Signature};
use head::Head;
use stage::{Frame, Stage};
use store::Folder;

#[derive(Debug)]
struct SparkModel {
    stages: Vec<Stage>,
    head: Head,
    features: String,
    width: usize,
    description: Description,
    signature: Signature,
}

/// Loads a pipeline, or a folder of one fitted stage.
pub fn load(artifact: &Artifact) -> Result<Arc<dyn Model>> {
    let root = Folder::new(artifact, "");
    let metadata = root.metadata()?;
    let class = class_of(&metadata);
    let mut folders = Vec::new();
    if class == "PipelineModel" {
        let uids = metadata
            .get("paramMap")
            .and_then(|p| p.get("stageUids"))
            .and_then(Value::as_array)
            .ok_or_else(|| Error::data("`metadata` of the pipeline has no stageUids"))?;
        for (index, uid) in uids.iter().enumerate() {
            let uid = uid.as_str().unwrap_or_default();
            let digits = uids.len().to_string().len();
            let path = format!("stages/{index:0digits$}_{uid}/");
            folders.push(Folder::new(artifact, &path));
        }
    } else {
        folders.push(root);
    }
    build(&folders)
}

/// `org.apache.spark.ml.feature.StringIndexerModel` to its last part.
fn class_of(metadata: &Value) -> String {
    let class = metadata.get("class").and_then(Value::as_str).unwrap_or_default();
    class.rsplit('.').next().unwrap_or_default().to_owned()
}

fn build(folders: &[Folder<'_>]) -> Result<Arc<dyn Model>> {
    let mut stages = Vec::new();
    let mut found: Option<(Head, String, String)> = None;
    for folder in folders {
        let metadata = folder.metadata()?;
        let class = class_of(&metadata);
        if found.is_some() {
            return Err(Error::invalid(format!(
                "the stage {class} comes after the model's estimator, which is not supported"
            )));
        }
        let parameters = store::Parameters::new(&metadata);
        match Stage::load(&class, &parameters, folder)? {
            Some(stage) => stages.push(stage),
            None => {
                let head = Head::load(&class, &metadata, &parameters, folder)?;
                found = Some((head, parameters.text("featuresCol").unwrap_or("features").to_owned(), class));
            }
        }
    }
    let (head, features, class) =
        found.ok_or_else(|| Error::invalid("the pipeline has no estimator: it only prepares features"))?;
    // The columns that no stage makes come from the rows.
    let mut made: BTreeSet<&str> = BTreeSet::new();
    let mut inputs: BTreeMap<&str, InputKind> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    for stage in &stages {
        for (name, kind) in stage.inputs() {
            if !made.contains(name) && inputs.insert(name, kind).is_none() {
                order.push(name);
            }
        }
        made.extend(stage.outputs());
    }
    if !made.contains(features.as_str()) {
        return Err(Error::invalid(format!(
            "no stage makes the column `{features}`: rows would have to bring vectors"
        ))
        .with_hint("save the whole PipelineModel, with its VectorAssembler"));
    }
    let signature =
        Signature { inputs: order.iter().map(|n| Input { name: (*n).to_owned(), kind: inputs[n] }).collect() };
    let description = Description { flavor: "spark".into(), objective: class, ..head.describe() };
    let width = head.width();
    Ok(Arc::new(SparkModel { stages, head, features, width, description, signature }))
}

impl Model for SparkModel {
    fn description(&self) -> &Description {
        &self.description
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn score(&self, batch: &RecordBatch) -> Result<Predictions> {
        let mut frame = Frame::new(batch);
        for stage in &self.stages {
            stage.apply(&mut frame)?;
        }
        let (width, values) = frame.vectors(&self.features)?;
        if width != self.width {
            return Err(Error::data(format!(
                "the features have {width} values, the model was trained on {}",
                self.width
            )));
        }
        Ok(self.head.score(&values, batch.num_rows()))
    }
}
