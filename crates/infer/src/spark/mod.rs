//! Spark ML models: `PipelineModel` folders and single fitted stages, of Spark
//! 3 and 4.
//!
//! Every stage that prepares features becomes one or more [`stage::Step`]s
//! over named columns; the estimator becomes the [`head::Head`]. A stage that
//! is not known is an error that names it. Pipelines inside pipelines, and the
//! best models of cross-validations, are laid out flat.
//!
//! - Stages whose columns the model does not use, such as the indexer of the
//!   label, are left out: rows need no label. Classes have the labels of an
//!   IndexToString of the predictions, else those of the label's indexer, else
//!   `0`, `1`, ...; `prediction` is always the class number.
//! - Features may also come with the rows, as vectors: the struct that Spark
//!   writes to Parquet, or a list of numbers.
//! - Null and NaN: an Imputer replaces both. A VectorAssembler refuses both
//!   (`error`, `skip`) or passes NaN on (`keep`); trees send NaN to the right.
//!   A StringIndexer treats null as a label it has not seen.
//! - `margin` is the raw prediction of the positive class of two.
//! - Sums are added in the order of Spark's own library on Java 11 or later, by
//!   the version that wrote the model: see [`sums`]. What Spark itself adds in
//!   another order (a DCT, a decomposed covariance, Spark 4 on a processor of wider
//!   vectors) is within 1e-12 of the sum of the terms' sizes, so that a score
//!   near 0 may differ by more than 1e-12 of itself.
//! - Zeros inside a sparse vector that the rows bring are zeros that are not
//!   stored.

mod bayes;
mod clusters;
mod explain;
mod frame;
mod head;
mod labels;
mod linear;
mod mixture;
mod perceptron;
mod pipeline;
mod scale;
mod shape;
mod shapes;
mod sizes;
mod sql;
mod stage;
mod store;
mod sums;
mod trees;
mod vectors;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::Value;

pub use sql::{SqlPlan, SqlStage};

use crate::artifact::Artifact;
use crate::error::{Error, Result};
use crate::model::Model;
use store::Folder;

/// Pipelines inside pipelines.
const MAX_NESTING: usize = 8;

/// Loads a pipeline, or a folder of one fitted stage; `engine` runs the
/// statements of SQLTransformers.
pub fn load(artifact: &Artifact, engine: Option<&Arc<dyn SqlStage>>) -> Result<Arc<dyn Model>> {
    let mut folders = Vec::new();
    flatten(artifact, "", 0, &mut folders)?;
    pipeline::build(&folders, engine).map(|model| Arc::new(model) as Arc<dyn Model>)
}

/// The folders of all stages, in order, with their metadata.
fn flatten<'a>(
    artifact: &'a Artifact,
    path: &str,
    nesting: usize,
    folders: &mut Vec<(Folder<'a>, Value)>,
) -> Result<()> {
    if nesting > MAX_NESTING {
        return Err(Error::data(format!("`{path}` is a pipeline nested too deep")));
    }
    let folder = Folder::new(artifact, path);
    let metadata = folder.metadata()?;
    match class_of(&metadata).as_str() {
        "PipelineModel" => {}
        "CrossValidatorModel" | "TrainValidationSplitModel" => {
            return flatten(artifact, &format!("{path}bestModel/"), nesting + 1, folders);
        }
        _ => {
            folders.push((folder, metadata));
            return Ok(());
        }
    }
    let uids = metadata.get("paramMap").and_then(|p| p.get("stageUids")).and_then(Value::as_array);
    let uids = uids.ok_or_else(|| Error::data(format!("`{path}metadata` of the pipeline has no stageUids")))?;
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
