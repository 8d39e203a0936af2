//! The operators, by what they do.
//!
//! An operator that is not here is an error that names it; so is a setting
//! that its operator does not know. Whatever a file says is checked when the
//! node is prepared; shapes, which depend on the rows, when it runs.

mod encode;
mod functions;
mod linear;
mod math;
mod matrix;
mod reduce;
mod scan;
mod scores;
mod shape;
mod svm;
mod trees;

use super::node::{Run, Settings};
use crate::error::{Error, Result};

pub use trees::Counts;

/// The newest operator sets that are known here, of ONNX and of `ai.onnx.ml`.
const NEWEST: (i64, i64) = (28, 5);

/// Operators that decide what a model is.
pub const MODELS: [&str; 7] = [
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
    "TreeEnsemble",
    "LinearClassifier",
    "LinearRegressor",
    "SVMClassifier",
    "SVMRegressor",
];

/// Operators that leave values as they are, up to their type and shape.
pub const SAME: [&str; 8] = ["Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "ZipMap"];

/// Prepares a node.
///
/// # Errors
/// `Invalid` when the operator or a setting is not supported, `Data` when it is
/// damaged.
pub fn prepare(settings: &mut Settings<'_>) -> Result<Run> {
    let newest = match settings.node.domain.as_str() {
        "" => NEWEST.0,
        "ai.onnx.ml" => NEWEST.1,
        _ => i64::MAX,
    };
    if settings.version > newest || settings.version < 1 {
        return Err(Error::invalid(format!("operator sets newer than version {newest} are not supported"))
            .with_hint("export the model with an older target_opset"));
    }
    let run = match settings.node.domain.as_str() {
        "" => plain(settings)?,
        "ai.onnx.ml" => learned(settings)?,
        "com.microsoft" => matrix::build_microsoft(settings)?,
        _ => None,
    };
    let run = run.ok_or_else(|| {
        Error::invalid("this operator is not supported")
            .with_hint("a build with the cargo feature `onnxruntime` gives models with such operators to ONNX Runtime")
    })?;
    settings.check()?;
    Ok(run)
}

fn plain(settings: &mut Settings<'_>) -> Result<Option<Run>> {
    if let Some(run) = math::build(settings)? {
        return Ok(Some(run));
    }
    if let Some(run) = shape::build(settings)? {
        return Ok(Some(run));
    }
    if let Some(run) = reduce::build(settings)? {
        return Ok(Some(run));
    }
    if settings.node.operator == "Scan" {
        return scan::build(settings).map(Some);
    }
    matrix::build(settings)
}

fn learned(settings: &mut Settings<'_>) -> Result<Option<Run>> {
    if let Some(run) = trees::build(settings)? {
        return Ok(Some(run));
    }
    if let Some(run) = linear::build(settings)? {
        return Ok(Some(run));
    }
    if let Some(run) = encode::build(settings)? {
        return Ok(Some(run));
    }
    svm::build(settings)
}
