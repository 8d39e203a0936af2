//! Scores tabular models: a `RecordBatch` in, predictions out.
//!
//! Words: an *artifact* is a model's files; a *loader* turns them into the one
//! intermediate form: column steps that fill numeric *slots*, then a *head*
//! (trees or a linear function) over them. Every index of a model is checked
//! when it is loaded, so that scoring cannot leave its arrays.
//!
//! Formats: XGBoost (`json`, `ubj`), LightGBM (text), CatBoost (`cbm`, `json`),
//! ONNX (what tabular models are exported to), Spark ML (`PipelineModel` folders)
//! and MLflow folders that hold one of them. Scores are those of the library that
//! made the model: XGBoost, LightGBM and CatBoost margins to the bit, Spark's
//! within 1e-12, ONNX as ONNX Runtime scores.
//!
//! [`Model::contributions`] says what every column added to a row's raw score,
//! as the libraries' own TreeSHAP does, [`top_reasons`] puts it into words.
//!
//! Columns are found by name; their order and any others do not matter.
//! Integers, floats, decimals and booleans become numbers, strings (also in
//! dictionaries) are labels, anything else is an error. Null is missing, and
//! so is NaN: XGBoost sends both the node's default way, Spark's Imputer
//! replaces both, its VectorAssembler refuses both or passes both on as NaN.

mod artifact;
mod catboost;
mod columns;
mod document;
mod error;
mod explain;
mod forest;
mod json;
mod lightgbm;
mod mlflow;
mod model;
mod onnx;
mod row;
mod spark;
mod vectors;
mod xgboost;

use std::sync::Arc;

pub use artifact::Artifact;
pub use error::{Error, Result};
pub use explain::{Contributions, Reason, ReasonValue, top_reasons};
pub use model::{ClassProbabilities, Description, Input, InputKind, Model, Predictions, Raw, Signature};
#[cfg(feature = "onnxruntime")]
pub use onnx::use_onnx_runtime;
pub use row::{RowPrediction, RowScorer, Scratch};
pub use spark::{SqlPlan, SqlStage};
pub use vectors::Vectors;

const KNOWN: &str = "known are XGBoost .json and .ubj files, LightGBM .txt files, CatBoost .cbm and .json files, \
                     ONNX .onnx files, Spark ML PipelineModel and MLflow folders";

/// Recognises and loads a model.
///
/// # Errors
/// `Invalid` when the format or a part of it is not supported, `Data` when a
/// file is damaged. A model is never half loaded.
pub fn load(artifact: &Artifact) -> Result<Arc<dyn Model>> {
    load_any(artifact, None)
}

/// As [`load`], with an engine for the SQL statements that are stages of some
/// Spark ML pipelines.
///
/// # Errors
/// As [`load`].
pub fn load_with(artifact: &Artifact, engine: &Arc<dyn SqlStage>) -> Result<Arc<dyn Model>> {
    load_any(artifact, Some(engine))
}

fn load_any(artifact: &Artifact, engine: Option<&Arc<dyn SqlStage>>) -> Result<Arc<dyn Model>> {
    let files = artifact.files();
    if files.contains_key(mlflow::FILE) {
        return mlflow::load(artifact, engine);
    }
    if files.keys().any(|path| path.starts_with("metadata/part-")) {
        return spark::load(artifact, engine);
    }
    if files.keys().any(|path| path == "metadata" || path.starts_with("metadata/")) {
        return Err(Error::invalid(
            "the folder has `metadata` but no `metadata/part-…`: it is no Spark ML model as a classic session saves it",
        )
        .with_hint("a model saved through Spark Connect has another layout: save it with a classic session"));
    }
    if files.len() == 1
        && let Some((name, bytes)) = files.iter().next()
    {
        if bytes.is_empty() {
            return Err(Error::data(format!("`{name}` is empty")));
        }
        let start = bytes.iter().find(|b| !b.is_ascii_whitespace());
        if [".pkl", ".pickle", ".joblib", ".skops"].iter().any(|end| name.ends_with(end)) {
            return Err(Error::invalid(format!("`{name}` is a pickle: loading one runs code, so it is never loaded"))
                .with_hint(mlflow::CONVERT));
        }
        if bytes.starts_with(catboost::MAGIC) || (start == Some(&b'{') && catboost::recognises(bytes)) {
            return catboost::load(name, bytes);
        }
        if start == Some(&b'{') {
            return xgboost::load(name, bytes);
        }
        if bytes.starts_with(b"tree\n") || bytes.starts_with(b"tree\r\n") {
            return lightgbm::load(name, bytes);
        }
        if name.ends_with(".onnx") || onnx::is_onnx(bytes) {
            return onnx::load(name, bytes);
        }
        return Err(Error::invalid(format!("`{name}` is no model format that is known here")).with_hint(KNOWN));
    }
    if let Some(loaded) = onnx::load_folder(files) {
        return loaded;
    }
    let names: Vec<&str> = files.keys().take(5).map(String::as_str).collect();
    Err(Error::invalid(format!("the files {} are no model format that is known here", names.join(", ")))
        .with_hint(KNOWN))
}
