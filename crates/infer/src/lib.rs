//! Scores tabular models: a `RecordBatch` in, predictions out.
//!
//! Words: an *artifact* is a model's files; a *loader* turns them into the one
//! intermediate form: column steps that fill numeric *slots*, then a *head*
//! (trees or a linear function) over them. Every index of a model is checked
//! when it is loaded, so that scoring cannot leave its arrays.
//!
//! Formats: XGBoost (`json`, `ubj`), LightGBM (text) and Spark ML
//! (`PipelineModel` folders). Scores are those of the library that made the
//! model: XGBoost and LightGBM margins to the bit, Spark's within 1e-12.
//!
//! Columns are found by name; their order and any others do not matter.
//! Integers, floats, decimals and booleans become numbers, strings (also in
//! dictionaries) are labels, anything else is an error. Null is missing, and
//! so is NaN: XGBoost sends both the node's default way, Spark's Imputer
//! replaces both, its VectorAssembler refuses both or passes both on as NaN.

mod artifact;
mod columns;
mod error;
mod forest;
mod lightgbm;
mod model;
mod spark;
mod xgboost;

use std::sync::Arc;

pub use artifact::Artifact;
pub use error::{Error, Result};
pub use model::{ClassProbabilities, Description, Input, InputKind, Model, Predictions, Raw, Signature};
pub use spark::{SqlPlan, SqlStage};

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
    if files.keys().any(|path| path == "MLmodel") {
        return Err(Error::invalid("an MLflow model folder is not supported yet")
            .with_hint("register the folder or file inside it: `sparkml/`, `model.json` or `model.ubj`"));
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
        if name.ends_with(".pkl") || name.ends_with(".pickle") || name.ends_with(".joblib") {
            return Err(Error::invalid(format!("`{name}` is a pickle: loading one runs code, so it is never loaded"))
                .with_hint("save the model in the library's own format, for XGBoost `save_model(\"model.ubj\")`"));
        }
        if start == Some(&b'{') {
            return xgboost::load(name, bytes);
        }
        if bytes.starts_with(b"tree\n") || bytes.starts_with(b"tree\r\n") {
            return lightgbm::load(name, bytes);
        }
        return Err(Error::invalid(format!("`{name}` is no model format that is known here")).with_hint(
            "known are XGBoost .json and .ubj files, LightGBM .txt files and Spark ML PipelineModel folders",
        ));
    }
    let names: Vec<&str> = files.keys().take(5).map(String::as_str).collect();
    Err(Error::invalid(format!("the files {} are no model format that is known here", names.join(", ")))
        .with_hint("known are XGBoost .json and .ubj files, LightGBM .txt files and Spark ML PipelineModel folders"))
}
