//! Contributions of a pipeline's input columns.
//!
//! Every slot of the feature vector comes from one input column: labels and
//! one-hot positions from the column of labels, filled and scaled numbers from
//! the column of numbers. What slots contribute is added up by column.
//!
//! Trees: Shapley values by path, covers are Spark's own row counts. Linear
//! models: coefficient times the distance from the mean where the pipeline
//! knows the slot's mean (a StandardScaler, an Imputer that fills in means),
//! else coefficient times value; what the means themselves contribute is in
//! the bias.

use std::collections::HashMap;

use super::stage::Stage;
use crate::model::Input;

/// A place of a feature vector.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    /// The input column it comes from, by its place in the signature.
    pub column: u32,
    /// The mean of its values, zero where it is not known.
    pub mean: f64,
}

/// The slots of the column `features`.
pub fn slots(stages: &[Stage], inputs: &[Input], features: &str) -> Vec<Slot> {
    let mut made: HashMap<&str, Vec<Slot>> = HashMap::new();
    let places: HashMap<&str, u32> = inputs.iter().map(|i| i.name.as_str()).zip(0..).collect();
    fn of(made: &HashMap<&str, Vec<Slot>>, places: &HashMap<&str, u32>, name: &str) -> Vec<Slot> {
        let given = || places.get(name).map(|column| vec![Slot { column: *column, mean: 0.0 }]);
        made.get(name).cloned().or_else(given).unwrap_or_default()
    }
    for stage in stages {
        match stage {
            Stage::StringIndexer { columns, .. } => {
                for column in columns {
                    let slots = of(&made, &places, &column.input);
                    made.insert(&column.output, slots);
                }
            }
            Stage::OneHot { columns, .. } => {
                for column in columns {
                    let slot = of(&made, &places, &column.input).into_iter().take(1);
                    let slots = slot.flat_map(|slot| vec![Slot { mean: 0.0, ..slot }; column.width]).collect();
                    made.insert(&column.output, slots);
                }
            }
            Stage::Imputer { columns, .. } => {
                for column in columns {
                    let mean = if column.mean { column.surrogate } else { 0.0 };
                    let slots = of(&made, &places, &column.input).into_iter().map(|slot| Slot { mean, ..slot });
                    let slots = slots.collect();
                    made.insert(&column.output, slots);
                }
            }
            Stage::Assembler { inputs, output, .. } => {
                let slots = inputs.iter().flat_map(|input| of(&made, &places, input)).collect();
                made.insert(output, slots);
            }
            Stage::Scaler { input, output, shift, scale, mean } => {
                let at = |list: &Option<Vec<f64>>, place: usize| list.as_ref().and_then(|l| l.get(place)).copied();
                let scaled = |(place, slot): (usize, Slot)| {
                    let mean = mean.get(place).copied().unwrap_or(slot.mean);
                    let mean = (mean - at(shift, place).unwrap_or(0.0)) * at(scale, place).unwrap_or(1.0);
                    Slot { mean, ..slot }
                };
                let slots = of(&made, &places, input).into_iter().enumerate().map(scaled).collect();
                made.insert(output, slots);
            }
        }
    }
    of(&made, &places, features)
}

/// Contributions of linear functions, row by row and output by output: a value
/// a column, then the bias.
pub fn linear(features: &[Vec<f64>], sets: &[(&[f64], f64)], slots: &[Slot], columns: usize, rows: usize) -> Vec<f64> {
    let width = columns + 1;
    let mut values = vec![0.0; rows * sets.len() * width];
    for (output, (coefficients, intercept)) in sets.iter().enumerate() {
        let mut bias = *intercept;
        for ((feature, coefficient), slot) in features.iter().zip(*coefficients).zip(slots) {
            bias += coefficient * slot.mean;
            let from = output * width + slot.column as usize;
            for (sum, value) in values.iter_mut().skip(from).step_by(sets.len() * width).zip(feature) {
                *sum += coefficient * (value - slot.mean);
            }
        }
        let from = output * width + columns;
        values.iter_mut().skip(from).step_by(sets.len() * width).for_each(|value| *value = bias);
    }
    values
}
