//! CatBoost models: `.cbm`, as `save_model` writes it, and its JSON form.
//!
//! Raw scores are CatBoost's own to the bit: features in single precision, the
//! leaves added in double precision in the order of the trees, then scale and
//! bias. Probabilities are within 1e-12 of its own.
//!
//! - A feature without a name is called by its number, `0`, `1`, ...
//! - A categorical column holds strings, whole numbers or booleans; the last
//!   two are the same as their text, `7`, and `0` or `1`. Null is an error, as
//!   in CatBoost, and so is a number with a fraction. A category that training
//!   never saw is none of those it asks for.
//! - Statistics of categories ("CTR") come from the tables in the file.
//! - `prediction` of a classifier is the class as its place among the labels,
//!   of `Poisson` and `Tweedie` the exponential, as `CatBoostRegressor` has it,
//!   of anything else the raw value.
//! - Text and embedding features and several targets are refused by name.
//! - Contributions are CatBoost's `ShapValues`: what a statistic of several
//!   categories adds is shared by them equally. They need the leaves' weights,
//!   which a model has unless it was made of others. Of trees that are not
//!   symmetric CatBoost's own do not add up to the raw score; these are Shapley
//!   values there too, and so they are of a scaled model, which CatBoost refuses.

mod build;
mod cbm;
mod city;
mod flat;
mod json;
mod parts;
mod statistic;

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, Float64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;

use crate::columns;
use crate::error::{Error, Result};
use crate::explain::{Contributions, Explainer, check_size};
use crate::forest::Ensemble;
use crate::model::{ClassProbabilities, Description, Model, Predictions, Raw, Signature};
use crate::row::{self, RowPrediction, Scratch};
use statistic::Statistic;

/// The first bytes of a binary model.
pub const MAGIC: &[u8] = b"CBM1";

/// Loads a model from the bytes of one file, of either format.
///
/// # Errors
/// `Data` when the file is damaged, `Invalid` when a part is not supported.
pub fn load(name: &str, bytes: &[u8]) -> Result<Arc<dyn Model>> {
    let parts = if bytes.starts_with(MAGIC) { cbm::parse(bytes) } else { json::parse(bytes) };
    let model = parts.and_then(build::build).map_err(|error| error.within(&format!("`{name}`")))?;
    Ok(Arc::new(model))
}

/// Whether a JSON file is a model of CatBoost: one of its own keys comes before
/// any of XGBoost's.
pub fn recognises(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(1 << 16)];
    let find = |key: &str| head.windows(key.len()).position(|part| part == key.as_bytes());
    let own = ["\"ctr_data\"", "\"features_info\"", "\"oblivious_trees\"", "\"model_info\""];
    let first = own.iter().filter_map(|key| find(key)).min();
    first.is_some_and(|at| find("\"learner\"").is_none_or(|other| at < other))
}

/// From raw scores to predictions.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Transform {
    Identity,
    Exp,
    /// A probability of class 1; the raw score from which a row is class 1.
    Binary(f64),
    Softmax,
    /// A sigmoid for every class.
    OneAgainstAll,
}

/// Where the trees take a number from.
#[derive(Debug)]
enum Slot {
    /// A numeric feature.
    Number(usize),
    /// The place of a category among the values that splits ask for.
    OneHot(usize, Vec<u32>),
    /// A statistic.
    Statistic(Statistic),
}

#[derive(Debug)]
struct CatboostModel {
    trees: Ensemble<f32, f64>,
    explainer: Explainer,
    /// The inputs of each of its players.
    groups: Vec<Vec<usize>>,
    slots: Vec<Slot>,
    /// Inputs that hold numbers, by number; and which are categories.
    numbers: Vec<usize>,
    categories: Vec<usize>,
    scale: f64,
    bias: Vec<f64>,
    transform: Transform,
    labels: Arc<[String]>,
    description: Description,
    signature: Signature,
}

/// The hashes of a column of categories.
fn hashes(batch: &RecordBatch, name: &str, inputs: &[crate::model::Input]) -> Result<Vec<u32>> {
    let column = columns::find(batch, name, inputs)?;
    let wrong = || columns::wrong(name, "labels or whole numbers", column.data_type());
    let texts: StringArray = match columns::value_type(column) {
        DataType::Boolean => {
            let plain = cast(column, &DataType::Boolean).map_err(|_| wrong())?;
            let plain: &BooleanArray = plain.as_boolean();
            plain.iter().map(|value| value.map(|value| if value { "1" } else { "0" })).collect()
        }
        found if found.is_integer() => {
            let plain = cast(column, &DataType::Utf8).map_err(|_| wrong())?;
            plain.as_string::<i32>().clone()
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {
            columns::labels(batch, name, inputs)?
        }
        _ => return Err(wrong()),
    };
    if texts.null_count() > 0 {
        return Err(Error::data(format!("column `{name}` has null, and CatBoost knows no missing category")).with_hint(
            "replace it by the text that stood for it in training, such as `coalesce(column, '')`, in the feature SQL",
        ));
    }
    Ok(texts.iter().map(|text| city::category(text.unwrap_or_default())).collect())
}

impl CatboostModel {
    /// Hands `with` what the trees look at, a column a slot.
    fn with_slots<R>(&self, batch: &RecordBatch, with: impl FnOnce(&[&[f32]]) -> R) -> Result<R> {
        let inputs = &self.signature.inputs;
        let rows = batch.num_rows();
        let numbers = self.numbers.iter().map(|at| columns::singles(batch, &inputs[*at].name, inputs));
        let numbers: Vec<Vec<f32>> = numbers.collect::<Result<_>>()?;
        let categories = self.categories.iter().map(|at| hashes(batch, &inputs[*at].name, inputs));
        let categories: Vec<Vec<u32>> = categories.collect::<Result<_>>()?;
        let made: Vec<Vec<f32>> = self
            .slots
            .iter()
            .map(|slot| match slot {
                Slot::Number(_) => Vec::new(),
                Slot::OneHot(category, values) => {
                    let place = |hash: &u32| values.binary_search(hash).map_or(f32::NAN, |place| place as f32);
                    categories[*category].iter().map(place).collect()
                }
                Slot::Statistic(statistic) => statistic.of(&numbers, &categories, rows),
            })
            .collect();
        let columns: Vec<&[f32]> = self
            .slots
            .iter()
            .zip(&made)
            .map(|(slot, made)| match slot {
                Slot::Number(at) => numbers[*at].as_slice(),
                _ => made.as_slice(),
            })
            .collect();
        Ok(with(&columns))
    }

    /// Raw scores, a column an output.
    fn raw(&self, batch: &RecordBatch) -> Result<Vec<Vec<f64>>> {
        let zeros = vec![0.0; self.bias.len()];
        let mut raw = self.with_slots(batch, |slots| self.trees.sums(slots, batch.num_rows(), &zeros))?;
        if self.scale != 1.0 || self.bias.iter().any(|bias| *bias != 0.0) {
            for (column, bias) in raw.iter_mut().zip(&self.bias) {
                column.iter_mut().for_each(|value| *value = *value * self.scale + bias);
            }
        }
        Ok(raw)
    }

    fn classes(&self, raw: &[Vec<f64>], rows: usize) -> Predictions {
        let mut values = Vec::with_capacity(rows * raw.len());
        let mut predictions = Vec::with_capacity(rows);
        for row in 0..rows {
            let mut best = 0;
            for class in 1..raw.len() {
                if raw[class][row] > raw[best][row] {
                    best = class;
                }
            }
            predictions.push(best as f64);
            if self.transform == Transform::OneAgainstAll {
                values.extend(raw.iter().map(|of| sigmoid(of[row])));
                continue;
            }
            let from = values.len();
            values.extend(raw.iter().map(|of| (of[row] - raw[best][row]).exp()));
            let sum: f64 = values[from..].iter().fold(0.0, |sum, share| sum + share);
            values[from..].iter_mut().for_each(|share| *share /= sum);
        }
        Predictions {
            probabilities: Some(ClassProbabilities { labels: self.labels.clone(), values }),
            raw: Some(Raw::from_columns(raw)),
            ..Predictions::plain(predictions)
        }
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Model for CatboostModel {
    fn description(&self) -> &Description {
        &self.description
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn score(&self, batch: &RecordBatch) -> Result<Predictions> {
        let mut raw = self.raw(batch)?;
        if matches!(self.transform, Transform::Softmax | Transform::OneAgainstAll) {
            return Ok(self.classes(&raw, batch.num_rows()));
        }
        let margin = std::mem::take(&mut raw[0]);
        if let Transform::Binary(border) = self.transform {
            let shares: Vec<f64> = margin.iter().map(|m| sigmoid(*m)).collect();
            let values = shares.iter().flat_map(|p| [1.0 - p, *p]).collect();
            return Ok(Predictions {
                prediction: Float64Array::from_iter_values(margin.iter().map(|m| f64::from(u8::from(*m > border)))),
                probability: Some(shares.into()),
                probabilities: Some(ClassProbabilities { labels: self.labels.clone(), values }),
                margin: Some(margin.into()),
                raw: None,
            });
        }
        let prediction = match self.transform {
            Transform::Exp => Float64Array::from_iter_values(margin.iter().map(|m| m.exp())),
            _ => margin.clone().into(),
        };
        Ok(Predictions { margin: Some(margin.into()), ..Predictions::plain(prediction) })
    }

    fn score_row(&self, row: &[f64], scratch: &mut Scratch, found: &mut RowPrediction) -> Result<()> {
        if self.bias.len() != 1 || !self.categories.is_empty() {
            return row::as_batch(self, row, found);
        }
        scratch.singles.clear();
        for slot in &self.slots {
            let Slot::Number(at) = slot else { return row::as_batch(self, row, found) };
            scratch.singles.push(row[self.numbers[*at]] as f32);
        }
        scratch.double_sums.clear();
        scratch.double_sums.push(0.0);
        self.trees.add_row(&scratch.singles, &mut scratch.single_trees, &mut scratch.double_sums);
        let mut margin = scratch.double_sums[0];
        if self.scale != 1.0 || self.bias[0] != 0.0 {
            margin = margin * self.scale + self.bias[0];
        }
        found.margin = Some(margin);
        found.probability = None;
        found.probabilities.clear();
        found.prediction = match self.transform {
            Transform::Binary(border) => {
                let share = sigmoid(margin);
                found.probability = Some(share);
                found.probabilities.extend([1.0 - share, share]);
                f64::from(u8::from(margin > border))
            }
            Transform::Exp => margin.exp(),
            Transform::Identity => margin,
            Transform::Softmax | Transform::OneAgainstAll => return row::as_batch(self, row, found),
        };
        Ok(())
    }

    /// As CatBoost's `ShapValues`, of the raw score.
    fn contributions(&self, batch: &RecordBatch) -> Result<Contributions> {
        let (columns, outputs, rows) = (self.signature.inputs.len(), self.bias.len(), batch.num_rows());
        check_size(rows, columns, outputs)?;
        let zeros = vec![0.0; outputs];
        let by_player = self.with_slots(batch, |slots| self.explainer.values(slots, rows, &zeros))??;
        let mut values = vec![0.0; rows * outputs * (columns + 1)];
        let parts = by_player.chunks_exact(self.groups.len() + 1).zip(values.chunks_exact_mut(columns + 1));
        for (at, (by_player, values)) in parts.enumerate() {
            for (group, value) in self.groups.iter().zip(by_player) {
                group.iter().for_each(|input| values[*input] += self.scale * value / group.len() as f64);
            }
            values[columns] = self.scale * by_player[self.groups.len()] + self.bias[at % outputs];
        }
        Contributions::new(batch, &self.signature.inputs, outputs, values)
    }
}
