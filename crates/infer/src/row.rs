//! One row at a time, for a caller that has values and wants a score now.
//!
//! [`RowScorer::new`] finds the columns by name once; after the first row
//! nothing is allocated for models of trees (a model without a form for rows is
//! scored as a batch of one). Scores are those of [`Model::score`] on a batch
//! with columns of `Float64` in which NaN is null, to the bit.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array};
use arrow::record_batch::RecordBatch;
use insightera_core::closest;

use crate::error::{Error, Result};
use crate::forest;
use crate::model::{InputKind, Model};

/// What a model says of one row; see [`Predictions`](crate::Predictions).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RowPrediction {
    /// The class of a classifier (as a number), the value of a regressor.
    pub prediction: f64,
    /// Probability of the positive class of a binary classifier.
    pub probability: Option<f64>,
    /// The raw score before the output transform, where it is one number.
    pub margin: Option<f64>,
    /// Probabilities of all classes; empty when there are none.
    pub probabilities: Vec<f64>,
}

/// Work space of a model, to be used again.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) singles: Vec<f32>,
    pub(crate) doubles: Vec<f64>,
    pub(crate) single_sums: Vec<f32>,
    pub(crate) double_sums: Vec<f64>,
    pub(crate) single_trees: forest::Scratch<f32>,
    pub(crate) double_trees: forest::Scratch<f64>,
}

/// Scores rows whose values come in an order of the caller's.
#[derive(Debug)]
pub struct RowScorer {
    model: Arc<dyn Model>,
    /// Where the caller has the model's columns.
    places: Vec<usize>,
    /// How many columns the caller has.
    width: usize,
    row: Vec<f64>,
    scratch: Scratch,
    found: RowPrediction,
}

impl RowScorer {
    /// A scorer for rows with the columns `names`; any order, others do not
    /// matter.
    ///
    /// # Errors
    /// `Invalid` when a column is missing, or holds labels.
    pub fn new(model: Arc<dyn Model>, names: &[&str]) -> Result<Self> {
        let inputs = &model.signature().inputs;
        let mut places = Vec::with_capacity(inputs.len());
        for input in inputs {
            let name = input.name.as_str();
            if input.kind == InputKind::Categorical {
                return Err(Error::invalid(format!(
                    "the model wants labels in column `{name}`, a row has numbers only"
                ))
                .with_hint("score a batch of one row"));
            }
            let place = names.iter().position(|n| *n == name).ok_or_else(|| {
                let near = closest(name, names.iter().copied()).map(|n| format!("did you mean `{n}`? "));
                Error::invalid(format!("the model wants column `{name}`, which the rows do not have"))
                    .with_hint(format!("{}the model wants {} columns", near.unwrap_or_default(), inputs.len()))
            })?;
            places.push(place);
        }
        let row = vec![0.0; places.len()];
        let (scratch, found) = (Scratch::default(), RowPrediction::default());
        Ok(Self { model, places, width: names.len(), row, scratch, found })
    }

    /// Scores one row; NaN is missing.
    ///
    /// # Errors
    /// `Invalid` when the number of values is not that of the names, `Data` when
    /// a value is refused by the model.
    pub fn score(&mut self, values: &[f64]) -> Result<&RowPrediction> {
        if values.len() != self.width {
            return Err(Error::invalid(format!("a row has {} values for {} columns", values.len(), self.width)));
        }
        for (value, place) in self.row.iter_mut().zip(&self.places) {
            *value = values[*place];
        }
        self.model.score_row(&self.row, &mut self.scratch, &mut self.found)?;
        Ok(&self.found)
    }
}

/// A row as a batch of one; NaN becomes null.
pub fn as_batch(model: &(impl Model + ?Sized), row: &[f64], found: &mut RowPrediction) -> Result<()> {
    let inputs = &model.signature().inputs;
    let columns = inputs.iter().zip(row).map(|(input, value)| {
        let column: ArrayRef = Arc::new(Float64Array::from(vec![Some(*value).filter(|v| !v.is_nan())]));
        (input.name.as_str(), column)
    });
    let batch = RecordBatch::try_from_iter(columns)
        .map_err(|e| Error::invalid(format!("the model's columns are no batch: {e}")))?;
    let scored = model.score(&batch)?;
    found.prediction = scored.prediction.value(0);
    found.probability = scored.probability.map(|p| p.value(0));
    found.margin = scored.margin.map(|m| m.value(0));
    found.probabilities.clear();
    found.probabilities.extend(scored.probabilities.iter().flat_map(|p| &p.values));
    Ok(())
}
