//! The linear booster: in single precision, the bias, the base margin, then
//! the features in order; what is missing adds nothing.

use crate::document::Document;
use crate::error::{Error, Result};

/// Weights by feature and output, the biases behind them.
#[derive(Debug)]
pub struct Linear {
    weights: Vec<f32>,
    outputs: usize,
}

impl Linear {
    /// From the booster's model.
    pub fn new(model: &Document, features: usize, outputs: usize) -> Result<Self> {
        let weights: Vec<f32> = model.numbers("weights")?.iter().map(|weight| *weight as f32).collect();
        let wanted = features.checked_add(1).and_then(|rows| rows.checked_mul(outputs));
        if Some(weights.len()) != wanted {
            return Err(Error::data(format!(
                "it has {} weights for {features} features and {outputs} outputs",
                weights.len()
            )));
        }
        Ok(Self { weights, outputs })
    }

    /// Margins, a column an output.
    pub fn sums(&self, columns: &[Vec<f32>], rows: usize, base: &[f32]) -> Vec<Vec<f32>> {
        let biases = &self.weights[columns.len() * self.outputs..];
        // XGBoost 3.1 and later know a base score for every output, and take the first.
        let first = base.first().copied().unwrap_or_default();
        let start = biases.iter().map(|bias| vec![bias + first; rows]);
        let mut sums: Vec<Vec<f32>> = start.collect();
        for (feature, column) in columns.iter().enumerate() {
            for (output, sums) in sums.iter_mut().enumerate() {
                let weight = self.weights[feature * self.outputs + output];
                for (sum, value) in sums.iter_mut().zip(column).filter(|(_, value)| !value.is_nan()) {
                    *sum += value * weight;
                }
            }
        }
        sums
    }

    /// What every feature adds to the margins of every row, row by row and output
    /// by output: a value a feature, then the bias and the base margin.
    pub fn contributions(&self, columns: &[Vec<f32>], rows: usize, base: &[f32]) -> Vec<f64> {
        let biases = &self.weights[columns.len() * self.outputs..];
        let first = base.first().copied().unwrap_or_default();
        let mut values = Vec::with_capacity(rows * self.outputs * (columns.len() + 1));
        for row in 0..rows {
            for (output, bias) in biases.iter().enumerate() {
                values.extend(columns.iter().enumerate().map(|(feature, column)| {
                    let added = column[row] * self.weights[feature * self.outputs + output];
                    if column[row].is_nan() { 0.0 } else { f64::from(added) }
                }));
                values.push(f64::from(bias + first));
            }
        }
        values
    }
}
