//! One row at a time, for a caller that has values and wants a score now.
//!
//! [`RowScorer::new`] finds the columns by name once and makes the model's form
//! for rows; afterwards nothing is allocated for models of trees (a model without
//! such a form is scored as a batch of one). A row is a list of values in the
//! order of the names, or a record that names each of them. Scores are those of
//! [`Model::score`] on a batch with columns of `Float64` in which NaN is null, to
//! the bit.

use std::collections::HashMap;
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
    /// The caller's columns.
    names: Vec<String>,
    /// Their places.
    known: HashMap<String, usize>,
    /// The values of a record, and which of them it has.
    record: Vec<f64>,
    given: Vec<bool>,
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
        let mut scorer = Self {
            places,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            // Of two columns with one name it is the first, as above.
            known: names.iter().enumerate().rev().map(|(at, name)| ((*name).to_owned(), at)).collect(),
            record: vec![f64::NAN; names.len()],
            given: vec![false; names.len()],
            row: vec![f64::NAN; inputs.len()],
            scratch: Scratch::default(),
            found: RowPrediction::default(),
            model: model.clone(),
        };
        // Makes what the rows need; the model may refuse missing values, as any others.
        let _ = scorer.model.score_row(&scorer.row, &mut scorer.scratch, &mut scorer.found);
        Ok(scorer)
    }

    /// Scores one row; NaN is missing.
    ///
    /// # Errors
    /// `Invalid` when the number of values is not that of the names, `Data` when
    /// a value is refused by the model.
    pub fn score(&mut self, values: &[f64]) -> Result<&RowPrediction> {
        let width = self.names.len();
        if values.len() != width {
            return Err(Error::invalid(format!("a row has {} values for {width} columns", values.len())));
        }
        for (value, place) in self.row.iter_mut().zip(&self.places) {
            *value = values[*place];
        }
        self.model.score_row(&self.row, &mut self.scratch, &mut self.found)?;
        Ok(&self.found)
    }

    /// Scores one row, given as names and values in any order; fastest in that of
    /// the scorer's names. NaN is missing; other names do not matter.
    ///
    /// # Errors
    /// `Invalid` when the record lacks a column of the model, `Data` when a value
    /// is refused by the model.
    pub fn score_record(&mut self, record: &[(&str, f64)]) -> Result<&RowPrediction> {
        self.given.fill(false);
        for (place, (name, value)) in record.iter().enumerate() {
            let same = self.names.get(place).is_some_and(|known| known == name);
            let place = if same { Some(place) } else { self.known.get(*name).copied() };
            if let Some(place) = place {
                (self.record[place], self.given[place]) = (*value, true);
            }
        }
        for (value, place) in self.row.iter_mut().zip(&self.places) {
            if !self.given[*place] {
                return Err(Error::invalid(format!("the record lacks the model's column `{}`", self.names[*place]))
                    .with_hint("give NaN for a missing value"));
            }
            *value = self.record[*place];
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
