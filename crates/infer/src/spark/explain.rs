//! Contributions of a pipeline's input columns.
//!
//! Every slot of the feature vector comes from one input column: labels and
//! one-hot positions from the column of labels, filled, bucketed and scaled
//! numbers from the column of numbers; vectors that the rows bring are one
//! column. What slots contribute is added up by column. A stage that mixes
//! columns (PCA, Normalizer, FeatureHasher, products, SQL) cannot be explained,
//! which is said by its name when contributions are asked for.
//!
//! Trees: Shapley values by path, covers are Spark's own row counts. Linear
//! models: coefficient times the distance from the mean where the pipeline
//! knows the slot's mean (a StandardScaler, an Imputer that fills in means),
//! else coefficient times value; what the means themselves contribute is in
//! the bias.

use std::collections::HashMap;

use super::stage::Step;
use crate::error::{Error, Result};
use crate::model::Input;

/// A place of a feature vector.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    /// The input column it comes from, by its place in the signature.
    pub column: u32,
    /// The mean of its values, zero where it is not known.
    pub mean: f64,
}

/// The slots of the `width` values of the column `features`.
///
/// # Errors
/// `Invalid`, naming the stage whose columns come from several.
pub fn slots(steps: &[Step], inputs: &[Input], features: &str, width: usize) -> Result<Vec<Slot>> {
    let places: HashMap<&str, u32> = inputs.iter().map(|i| i.name.as_str()).zip(0..).collect();
    let mut made: HashMap<&str, Vec<Slot>> = HashMap::new();
    for step in steps {
        let read = |name: &String| {
            let given = || places.get(name.as_str()).map(|column| vec![Slot { column: *column, mean: 0.0 }]);
            made.get(name.as_str()).cloned().or_else(given).unwrap_or_default()
        };
        let found = step.work.slots(step.reads.iter().map(read).collect()).ok_or_else(|| {
            Error::invalid(format!("contributions through the Spark ML stage {} are not supported", step.class))
        })?;
        made.insert(&step.makes[0], found);
    }
    let slots = match (made.remove(features), places.get(features)) {
        (Some(slots), _) => slots,
        (None, column) => vec![Slot { column: column.copied().unwrap_or(0), mean: 0.0 }; width],
    };
    if slots.len() != width {
        return Err(Error::invalid(format!(
            "contributions are not supported: `{features}` has {width} values, of which {} come from a column",
            slots.len()
        )));
    }
    Ok(slots)
}

/// The same slots with nothing known of their means.
pub fn without_means(slots: Vec<Slot>) -> Vec<Slot> {
    slots.into_iter().map(|slot| Slot { mean: 0.0, ..slot }).collect()
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
