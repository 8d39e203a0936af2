//! LightGBM models, from the text that `Booster.save_model` writes.
//!
//! Sums are in double precision in the order of the trees, as LightGBM adds
//! them. What is missing depends on the node: NaN, zero (and NaN), or nothing
//! (NaN is then zero); so a feature becomes one slot for each way in which
//! nodes look at it, and the trees see plain comparisons.

mod load;
mod text;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::Float64Array;
use arrow::record_batch::RecordBatch;

use crate::columns;
use crate::error::{Error, Result};
use crate::explain::{Contributions, Explainer};
use crate::forest::{Ensemble, Walked};
use crate::model::{ClassProbabilities, Description, Model, Predictions, Raw, Signature};
use crate::row::{self, RowPrediction, Scratch};

pub use load::load;

/// How nodes look at a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Look {
    /// NaN is zero.
    Plain,
    /// Zero and NaN are missing.
    Zero,
    /// NaN is missing.
    Nan,
    /// A whole number that is not negative, or missing.
    Category,
}

/// Zero is what is not larger than this, as LightGBM has it.
const ZERO: f64 = 1e-35f32 as f64;

impl Look {
    fn at(self, value: f64) -> f64 {
        match self {
            Self::Plain if value.is_nan() => 0.0,
            Self::Zero if value.abs() <= ZERO => f64::NAN,
            // LightGBM casts to a 32-bit integer, toward zero.
            Self::Category if value > -1.0 && value < 2_147_483_648.0 => value.trunc() + 0.0,
            Self::Category => f64::NAN,
            // A threshold may be infinite, and infinity does not exceed it.
            _ if value == f64::INFINITY => f64::MAX,
            _ => value,
        }
    }
}

/// From raw scores to predictions.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Transform {
    Identity,
    /// The square with the sign of the score.
    Square,
    Exp,
    /// `ln(1 + exp(x))`
    Softplus,
    /// `1 / (1 + exp(-k x))`, a probability of class 1.
    Binary(f64),
    /// The same, as a plain number.
    Logistic,
    Softmax,
    /// `1 / (1 + exp(-k x))` for every class.
    OneAgainstAll(f64),
}

impl Transform {
    /// Of one raw score.
    fn of(self, score: f64) -> f64 {
        match self {
            Self::Square => score.signum() * score * score,
            Self::Exp => score.exp(),
            Self::Softplus => score.exp().ln_1p(),
            Self::Logistic => sigmoid(score),
            _ => score,
        }
    }
}

/// Codes of a column of categories.
#[derive(Debug)]
enum Codes {
    /// The numbers are the categories.
    Numbers,
    /// Labels, by pandas.
    Texts(HashMap<String, f64>),
    /// Numbers that pandas numbered again, by their bits.
    Renumbered(HashMap<u64, f64>),
}

#[derive(Debug)]
enum Trees {
    Plain(Box<Ensemble<f64, f64>>),
    /// Leaves that are linear functions.
    Linear(Box<LinearTrees>),
}

#[derive(Debug)]
struct LinearTrees {
    walk: Walked,
    leaves: Vec<LinearLeaf>,
    /// The output of every tree.
    groups: Vec<usize>,
}

/// `constant` plus products; `instead` when a feature is NaN.
#[derive(Debug)]
struct LinearLeaf {
    constant: f64,
    terms: Vec<(usize, f64)>,
    instead: f64,
}

#[derive(Debug)]
struct LightgbmModel {
    trees: Trees,
    /// Linear trees have none.
    explainer: Option<Explainer>,
    /// Feature and look of every slot.
    slots: Vec<(usize, Look)>,
    codes: Vec<Codes>,
    outputs: usize,
    /// Trees are averaged over this many iterations.
    average: Option<f64>,
    transform: Transform,
    labels: Arc<[String]>,
    description: Description,
    signature: Signature,
}

impl LightgbmModel {
    fn features(&self, batch: &RecordBatch) -> Result<Vec<Vec<f64>>> {
        let inputs = &self.signature.inputs;
        inputs
            .iter()
            .zip(&self.codes)
            .map(|(input, codes)| {
                // A label that pandas has not seen has no code: it is missing.
                Ok(match codes {
                    Codes::Texts(codes) => columns::labels(batch, &input.name, inputs)?
                        .iter()
                        .map(|label| label.and_then(|l| codes.get(l)).copied().unwrap_or(f64::NAN))
                        .collect(),
                    Codes::Renumbered(codes) => columns::with_nan(&columns::numbers(batch, &input.name, inputs)?)
                        .into_iter()
                        .map(|number| codes.get(&(number + 0.0).to_bits()).copied().unwrap_or(f64::NAN))
                        .collect(),
                    Codes::Numbers => columns::with_nan(&columns::numbers(batch, &input.name, inputs)?),
                })
            })
            .collect()
    }

    /// The features as the nodes see them, slot by slot.
    fn looked_at(&self, features: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let look = |(feature, look): &(usize, Look)| features[*feature].iter().map(|v| look.at(*v)).collect();
        self.slots.iter().map(look).collect()
    }

    /// Raw scores, a column an output; a forest's are not averaged yet.
    fn raw(&self, batch: &RecordBatch) -> Result<Vec<Vec<f64>>> {
        let features = self.features(batch)?;
        let rows = batch.num_rows();
        let slots = self.looked_at(&features);
        Ok(match &self.trees {
            Trees::Plain(trees) => trees.sums(&slots, rows, &vec![0.0; self.outputs]),
            Trees::Linear(trees) => {
                let mut sums = vec![vec![0.0; rows]; self.outputs];
                trees.walk.visit(&slots, rows, |tree, row, leaf| {
                    sums[trees.groups[tree]][row] += trees.leaves[leaf as usize].at(&features, row);
                });
                sums
            }
        })
    }

    fn classes(&self, raw: &[Vec<f64>], rows: usize) -> Predictions {
        let mut values = Vec::with_capacity(rows * raw.len());
        let mut predictions = Vec::with_capacity(rows);
        for row in 0..rows {
            let from = values.len();
            match self.transform {
                Transform::OneAgainstAll(k) => values.extend(raw.iter().map(|of| sigmoid(k * of[row]))),
                _ => {
                    let most = raw.iter().map(|of| of[row]).fold(f64::NEG_INFINITY, f64::max);
                    values.extend(raw.iter().map(|of| (of[row] - most).exp()));
                    let sum: f64 = values[from..].iter().fold(0.0, |sum, share| sum + share);
                    values[from..].iter_mut().for_each(|share| *share /= sum);
                }
            }
            let mut best = 0;
            for (class, share) in values[from..].iter().enumerate() {
                if *share > values[from + best] {
                    best = class;
                }
            }
            predictions.push(best as f64);
        }
        Predictions {
            probabilities: Some(ClassProbabilities { labels: self.labels.clone(), values }),
            ..Predictions::plain(predictions)
        }
    }
}

impl LinearLeaf {
    fn at(&self, features: &[Vec<f64>], row: usize) -> f64 {
        let mut sum = self.constant;
        for (feature, coefficient) in &self.terms {
            let value = features[*feature][row];
            if value.is_nan() {
                return self.instead;
            }
            sum += coefficient * value;
        }
        sum
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Model for LightgbmModel {
    fn description(&self) -> &Description {
        &self.description
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn score(&self, batch: &RecordBatch) -> Result<Predictions> {
        let mut raw = self.raw(batch)?;
        // LightGBM's raw score of a forest is the sum, its prediction is made of the mean.
        let sums = self.average.map(|_| raw[0].clone());
        let several = (raw.len() > 1).then(|| Raw::from_columns(&raw));
        if let Some(iterations) = self.average {
            raw.iter_mut().flatten().for_each(|sum| *sum /= iterations);
        }
        if matches!(self.transform, Transform::Softmax | Transform::OneAgainstAll(_)) {
            return Ok(Predictions { raw: several, ..self.classes(&raw, batch.num_rows()) });
        }
        let margin = std::mem::take(&mut raw[0]);
        if let Transform::Binary(k) = self.transform {
            let shares: Vec<f64> = margin.iter().map(|m| sigmoid(k * m)).collect();
            let values = shares.iter().flat_map(|p| [1.0 - p, *p]).collect();
            return Ok(Predictions {
                prediction: Float64Array::from_iter_values(shares.iter().map(|p| f64::from(u8::from(*p > 0.5)))),
                probability: Some(shares.into()),
                probabilities: Some(ClassProbabilities { labels: self.labels.clone(), values }),
                margin: Some(sums.unwrap_or(margin).into()),
                raw: None,
            });
        }
        let prediction = Float64Array::from_iter_values(margin.iter().map(|m| self.transform.of(*m)));
        Ok(Predictions { margin: Some(sums.unwrap_or(margin).into()), ..Predictions::plain(prediction) })
    }

    /// As LightGBM's, of the raw score; a forest's are of the sum of its trees.
    fn contributions(&self, batch: &RecordBatch) -> Result<Contributions> {
        let Some(explainer) = &self.explainer else {
            return Err(Error::invalid("contributions of linear trees are not supported, neither by LightGBM")
                .with_hint("train with `linear_tree=false`"));
        };
        let slots = self.looked_at(&self.features(batch)?);
        let values = explainer.values(&slots, batch.num_rows(), &vec![0.0; self.outputs])?;
        Contributions::new(batch, &self.signature.inputs, self.outputs, values)
    }

    fn score_row(&self, row: &[f64], scratch: &mut Scratch, found: &mut RowPrediction) -> Result<()> {
        let Trees::Plain(trees) = &self.trees else { return row::as_batch(self, row, found) };
        if self.outputs != 1 || !self.codes.iter().all(|codes| matches!(codes, Codes::Numbers)) {
            return row::as_batch(self, row, found);
        }
        scratch.doubles.clear();
        scratch.doubles.extend(self.slots.iter().map(|(feature, look)| look.at(row[*feature])));
        scratch.double_sums.clear();
        scratch.double_sums.push(0.0);
        trees.add_row(&scratch.doubles, &mut scratch.double_trees, &mut scratch.double_sums);
        let sum = scratch.double_sums[0];
        let score = self.average.map_or(sum, |iterations| sum / iterations);
        found.margin = Some(sum);
        found.probability = None;
        found.probabilities.clear();
        found.prediction = if let Transform::Binary(k) = self.transform {
            let share = sigmoid(k * score);
            found.probability = Some(share);
            found.probabilities.extend([1.0 - share, share]);
            f64::from(u8::from(share > 0.5))
        } else {
            self.transform.of(score)
        };
        Ok(())
    }
}
