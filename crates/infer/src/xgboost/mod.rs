//! XGBoost models, JSON and UBJSON, of 1.x to 3.x: trees, DART and linear.
//!
//! Margins are XGBoost's own to the bit: single precision, the base margin
//! first, then the trees in order. Transforms are in single precision too.
//!
//! - A model without feature names wants columns `f0`, `f1`, ...
//! - A booster that scikit-learn's wrapper saved after early stopping scores
//!   with its best iteration, as the wrapper does; any other with all trees,
//!   as `Booster.predict` does.
//! - `prediction` of `binary:logistic` is the class, 1 when the probability is
//!   above 0.5, and `probability` is what `Booster.predict` returns. Of
//!   `multi:*` it is the class, `probabilities` has all; there is no margin.
//!   Of everything else it is what `Booster.predict` returns.
//! - Several targets or quantiles are known where predictions are margins:
//!   `prediction` is the first, `raw` has all.
//! - The linear booster scores with all its rounds, as `Booster.predict` does.
//! - Categories that the model knows by label are looked up, null is missing,
//!   and a label it does not know is an error, as in XGBoost.
//! - The wrapper's `missing=` value is not in the file: only NaN and null are
//!   missing.

mod linear;
mod load;
mod tree;
mod ubjson;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::Float64Array;
use arrow::record_batch::RecordBatch;

use crate::columns;
use crate::error::{Error, Result};
use crate::explain::{Contributions, Explainer, check_size};
use crate::forest::Ensemble;
use crate::model::{ClassProbabilities, Description, Model, Predictions, Raw, Signature};
use crate::row::{self, RowPrediction, Scratch};

use linear::Linear;
pub use load::load;

/// How margins become predictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transform {
    Identity,
    /// `binary:logistic`, `reg:logistic`.
    Sigmoid,
    /// Counts and other log links.
    Exp,
    /// `binary:hinge`.
    Hinge,
    /// `multi:softprob`, `multi:softmax`.
    Softmax,
}

impl Transform {
    /// Of one margin.
    fn of(self, margin: f32) -> f32 {
        match self {
            Self::Sigmoid => sigmoid(margin),
            Self::Exp => margin.exp(),
            Self::Hinge => f32::from(u8::from(margin > 0.0)),
            Self::Identity | Self::Softmax => margin,
        }
    }
}

/// What a column holds.
#[derive(Debug)]
enum Column {
    Numbers,
    /// Labels, by their code.
    Texts(HashMap<String, f32>),
    /// Numbers that are labels: the bits of the number, by code.
    NumberLabels(HashMap<u64, f32>),
}

/// What makes margins of features.
#[derive(Debug)]
enum Booster {
    Trees { forest: Box<Ensemble<f32, f32>>, explainer: Box<Explainer> },
    Linear(Linear),
}

#[derive(Debug)]
struct XgboostModel {
    booster: Booster,
    columns: Vec<Column>,
    /// The base margin of every class.
    base: Vec<f32>,
    transform: Transform,
    classifier: bool,
    labels: Arc<[String]>,
    description: Description,
    signature: Signature,
}

impl XgboostModel {
    /// The features, column by column.
    fn features(&self, batch: &RecordBatch) -> Result<Vec<Vec<f32>>> {
        let unknown = |name: &str, value: &str| {
            Error::data(format!("column `{name}` has the value `{value}`, which the model has never seen"))
                .with_hint("replace it by null, which XGBoost knows as missing, in the feature SQL")
        };
        let inputs = &self.signature.inputs;
        let read = |(input, column): (&crate::model::Input, &Column)| -> Result<Vec<f32>> {
            let name = input.name.as_str();
            match column {
                Column::Numbers => columns::singles(batch, name, inputs),
                Column::Texts(codes) => {
                    let labels = columns::labels(batch, name, inputs)?;
                    let code = |label: Option<&str>| match label {
                        None => Ok(f32::NAN),
                        Some(label) => codes.get(label).copied().ok_or_else(|| unknown(name, label)),
                    };
                    labels.iter().map(code).collect()
                }
                Column::NumberLabels(codes) => {
                    let numbers = columns::with_nan(&columns::numbers(batch, name, inputs)?);
                    let code = |number: f64| match codes.get(&(number + 0.0).to_bits()) {
                        Some(code) => Ok(*code),
                        None if number.is_nan() => Ok(f32::NAN),
                        None => Err(unknown(name, &number.to_string())),
                    };
                    numbers.into_iter().map(code).collect()
                }
            }
        };
        inputs.iter().zip(&self.columns).map(read).collect()
    }

    fn softmax(&self, margins: &[Vec<f32>], rows: usize) -> Predictions {
        let classes = margins.len();
        let mut predictions = Vec::with_capacity(rows);
        let mut values = Vec::with_capacity(rows * classes);
        let mut shares = vec![0f32; classes];
        for row in 0..rows {
            let mut best = 0;
            for class in 0..classes {
                if margins[class][row] > margins[best][row] {
                    best = class;
                }
            }
            predictions.push(best as f64);
            let most = margins[best][row];
            let mut sum = 0f64;
            for (share, margin) in shares.iter_mut().zip(margins) {
                *share = (margin[row] - most).exp();
                sum += f64::from(*share);
            }
            values.extend(shares.iter().map(|share| f64::from(share / sum as f32)));
        }
        let probabilities = ClassProbabilities { labels: self.labels.clone(), values };
        Predictions {
            probabilities: Some(probabilities),
            raw: Some(Raw::from_columns(margins)),
            ..Predictions::plain(predictions)
        }
    }
}

/// XGBoost's sigmoid, in single precision: the exponent is capped where the
/// exponential would overflow.
fn sigmoid(x: f32) -> f32 {
    1.0 / ((-x).min(88.7).exp() + 1.0 + 1e-16)
}

fn widened(values: impl Iterator<Item = f32>) -> Float64Array {
    Float64Array::from_iter_values(values.map(f64::from))
}

impl Model for XgboostModel {
    fn description(&self) -> &Description {
        &self.description
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn score(&self, batch: &RecordBatch) -> Result<Predictions> {
        let (features, rows) = (self.features(batch)?, batch.num_rows());
        let mut margins = match &self.booster {
            Booster::Trees { forest, .. } => forest.sums(&features, rows, &self.base),
            Booster::Linear(linear) => linear.sums(&features, rows, &self.base),
        };
        if self.transform == Transform::Softmax {
            return Ok(self.softmax(&margins, rows));
        }
        if margins.len() > 1 {
            let raw = Some(Raw::from_columns(&margins));
            return Ok(Predictions { raw, ..Predictions::plain(widened(margins[0].iter().copied())) });
        }
        let margins = std::mem::take(&mut margins[0]);
        let margin = widened(margins.iter().copied());
        if self.transform == Transform::Sigmoid && self.classifier {
            let shares: Vec<f32> = margins.iter().map(|m| sigmoid(*m)).collect();
            let values = shares.iter().flat_map(|p| [f64::from(1.0 - *p), f64::from(*p)]).collect();
            return Ok(Predictions {
                prediction: Float64Array::from_iter_values(shares.iter().map(|p| f64::from(u8::from(*p > 0.5)))),
                probability: Some(widened(shares.iter().copied())),
                probabilities: Some(ClassProbabilities { labels: self.labels.clone(), values }),
                margin: Some(margin),
                raw: None,
            });
        }
        let prediction = widened(margins.iter().map(|m| self.transform.of(*m)));
        Ok(Predictions { margin: Some(margin), ..Predictions::plain(prediction) })
    }

    fn contributions(&self, batch: &RecordBatch) -> Result<Contributions> {
        let (features, rows) = (self.features(batch)?, batch.num_rows());
        let values = match &self.booster {
            Booster::Trees { explainer, .. } => {
                let base: Vec<f64> = self.base.iter().copied().map(f64::from).collect();
                explainer.values(&features, rows, &base)?
            }
            Booster::Linear(linear) => {
                check_size(rows, features.len(), self.base.len())?;
                linear.contributions(&features, rows, &self.base)
            }
        };
        Contributions::new(batch, &self.signature.inputs, self.base.len(), values)
    }

    fn score_row(&self, row: &[f64], scratch: &mut Scratch, found: &mut RowPrediction) -> Result<()> {
        let Booster::Trees { forest, .. } = &self.booster else { return row::as_batch(self, row, found) };
        if self.base.len() != 1 || !self.columns.iter().all(|c| matches!(c, Column::Numbers)) {
            return row::as_batch(self, row, found);
        }
        scratch.singles.clear();
        scratch.singles.extend(row.iter().map(|value| *value as f32));
        scratch.single_sums.clear();
        scratch.single_sums.extend_from_slice(&self.base);
        forest.add_row(&scratch.singles, &mut scratch.single_trees, &mut scratch.single_sums);
        let margin = scratch.single_sums[0];
        found.margin = Some(f64::from(margin));
        found.probability = None;
        found.probabilities.clear();
        found.prediction = match self.transform {
            Transform::Sigmoid if self.classifier => {
                let share = sigmoid(margin);
                found.probability = Some(f64::from(share));
                found.probabilities.extend([f64::from(1.0 - share), f64::from(share)]);
                f64::from(u8::from(share > 0.5))
            }
            transform => f64::from(transform.of(margin)),
        };
        Ok(())
    }
}
