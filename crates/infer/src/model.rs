//! What every model is, whatever made it.

use std::fmt;
use std::sync::Arc;

use arrow::array::Float64Array;
use arrow::record_batch::RecordBatch;

use crate::error::{Error, Result};
use crate::explain::Contributions;
use crate::row::{self, RowPrediction, Scratch};

/// A loaded model. Scoring is single-threaded and does not depend on how rows
/// are cut into batches.
pub trait Model: Send + Sync + fmt::Debug {
    /// What it is.
    fn description(&self) -> &Description;

    /// The columns it wants.
    fn signature(&self) -> &Signature;

    /// Scores every row of `batch`; columns are found by name.
    ///
    /// # Errors
    /// `Invalid` when a column is missing or has a type that cannot be used,
    /// `Data` when a value is refused by the model.
    fn score(&self, batch: &RecordBatch) -> Result<Predictions>;

    /// What every column of the signature added to the raw scores of every
    /// row, in the units of the raw score (log-odds for binary logistic).
    ///
    /// # Errors
    /// As [`Model::score`], and `Invalid` when this kind of model cannot be
    /// explained.
    fn contributions(&self, batch: &RecordBatch) -> Result<Contributions> {
        let _ = batch;
        let about = self.description();
        Err(Error::invalid(format!(
            "contributions of the {} model {} are not supported",
            about.flavor, about.objective
        )))
    }

    /// Scores one row: a number for every column of the signature, in its order,
    /// NaN for missing. [`RowScorer`](crate::RowScorer) is the way to call it.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    fn score_row(&self, row: &[f64], _scratch: &mut Scratch, found: &mut RowPrediction) -> Result<()> {
        row::as_batch(self, row, found)
    }
}

/// What a model is.
#[derive(Debug, Clone, Default)]
pub struct Description {
    /// `xgboost`, `lightgbm`, `onnx` or `spark`.
    pub flavor: String,
    /// XGBoost's objective, Spark's last stage, ONNX's model operator.
    pub objective: String,
    /// Class labels of a classifier.
    pub labels: Vec<String>,
    /// Trees.
    pub trees: usize,
    /// Nodes of all trees, leaves included.
    pub nodes: usize,
    /// The longest path from a root to a leaf.
    pub max_depth: usize,
}

/// The columns a model wants.
#[derive(Debug, Clone, Default)]
pub struct Signature {
    /// In the model's own order.
    pub inputs: Vec<Input>,
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: InputKind,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputKind {
    /// Numbers.
    Numeric,
    /// Labels.
    Categorical,
}

/// The predictions for the rows of a batch.
#[derive(Debug, Clone)]
pub struct Predictions {
    /// The class of a classifier (as a number), the value of a regressor.
    pub prediction: Float64Array,
    /// Probability of the positive class of a binary classifier.
    pub probability: Option<Float64Array>,
    /// Probabilities of all classes.
    pub probabilities: Option<ClassProbabilities>,
    /// The raw score before the output transform, where it is one number.
    pub margin: Option<Float64Array>,
    /// The raw scores of all classes, where there are several.
    pub raw: Option<Raw>,
}

impl Predictions {
    /// Only a value or class, nothing beside it.
    pub fn plain(prediction: impl Into<Float64Array>) -> Self {
        Self { prediction: prediction.into(), probability: None, probabilities: None, margin: None, raw: None }
    }
}

/// Raw scores, row by row.
#[derive(Debug, Clone)]
pub struct Raw {
    /// Scores of a row.
    pub width: usize,
    /// `width` values a row.
    pub values: Vec<f64>,
}

impl Raw {
    /// From one column of scores a class.
    pub fn from_columns<T: Copy + Into<f64>>(columns: &[Vec<T>]) -> Self {
        let rows = columns.first().map_or(0, Vec::len);
        let values = (0..rows).flat_map(|row| columns.iter().map(move |column| column[row].into())).collect();
        Self { width: columns.len(), values }
    }
}

/// Probabilities, row by row.
#[derive(Debug, Clone)]
pub struct ClassProbabilities {
    /// The classes.
    pub labels: Arc<[String]>,
    /// `labels.len()` values a row.
    pub values: Vec<f64>,
}
