//! The estimators: trees and linear models, with Spark's own formulas.
//!
//! Raw scores are turned into probabilities and classes as Spark does it,
//! rounding included: without thresholds a class is the first with the largest
//! *raw* score.

use std::sync::Arc;

use arrow::array::{AsArray, Float64Array, RecordBatch};
use serde_json::Value;

use super::explain::{self, Slot};
use super::stage::MAX_WIDTH;
use super::store::{self, Folder, Parameters};
use super::trees::Trees;
use crate::error::{Error, Result};
use crate::explain::check_size;
use crate::model::{ClassProbabilities, Description, Predictions, Raw};

/// What follows the features.
#[derive(Debug)]
pub struct Head {
    function: Function,
    /// Of a classifier.
    classes: Option<Classes>,
}

#[derive(Debug)]
enum Function {
    /// A tree ensemble.
    Trees(Trees),
    /// One value a set of `width` coefficients.
    Linear { width: usize, coefficients: Vec<f64>, intercepts: Vec<f64> },
}

#[derive(Debug)]
struct Classes {
    labels: Arc<[String]>,
    link: Link,
    decision: Decision,
}

/// From raw scores to probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// Class counts, one per class: divided by their sum.
    Shares,
    /// One score m for class 1: `1 / (1 + exp(-m))`.
    Logistic,
    /// One score m for class 1: `1 / (1 + exp(-2m))`.
    HalfLogOdds,
    /// A score per class.
    Softmax,
}

/// From scores to a class.
#[derive(Debug, Clone, PartialEq)]
enum Decision {
    /// The first with the largest raw score.
    Largest,
    /// Class 1 when its raw score is above.
    Above(f64),
    /// The first with the largest probability by threshold.
    Thresholds(Vec<f64>),
}

impl Head {
    /// Loads an estimator.
    pub fn load(class: &str, metadata: &Value, parameters: &Parameters<'_>, folder: &Folder<'_>) -> Result<Self> {
        let thresholds = thresholds(parameters)?;
        let trees = |shares: bool| -> Result<Trees> {
            let count = |name: &str| metadata.get(name).and_then(Value::as_u64).map(|n| n as usize);
            let width =
                count("numFeatures").ok_or_else(|| Error::data(format!("{class} does not say its numFeatures")))?;
            if width > MAX_WIDTH {
                return Err(Error::invalid(format!("{class} has numFeatures = {width}, which is too wide")));
            }
            Trees::load(class, width, shares, folder)
        };
        let decision = thresholds.clone().map_or(Decision::Largest, Decision::Thresholds);
        let head = match class {
            "RandomForestClassificationModel" | "DecisionTreeClassificationModel" => {
                let trees = trees(true)?;
                let classes = Classes::new(trees.outputs(), Link::Shares, decision);
                Self { function: Function::Trees(trees), classes: Some(classes) }
            }
            "GBTClassificationModel" => {
                let decision = if decision == Decision::Largest { Decision::Above(0.0) } else { decision };
                let classes = Classes::new(2, Link::HalfLogOdds, decision);
                Self { function: Function::Trees(trees(false)?), classes: Some(classes) }
            }
            "RandomForestRegressionModel" | "DecisionTreeRegressionModel" | "GBTRegressionModel" => {
                Self { function: Function::Trees(trees(false)?), classes: None }
            }
            "LinearRegressionModel" => {
                let rows = folder.rows("data")?;
                let coefficients = store::vector(store::column(&rows, "coefficients")?, 0)?;
                let intercepts = vec![first(&rows, "intercept")?];
                Self {
                    function: Function::Linear { width: coefficients.len(), coefficients, intercepts },
                    classes: None,
                }
            }
            "LogisticRegressionModel" => logistic(folder, thresholds, parameters)?,
            other => {
                return Err(Error::invalid(format!("the Spark ML stage {other} is not supported"))
                    .with_hint("supported are StringIndexer, OneHotEncoder, Imputer, VectorAssembler, StandardScaler; decision trees, random forests, gradient-boosted trees, logistic and linear regression"));
            }
        };
        if let Some(Classes { decision: Decision::Thresholds(thresholds), labels, .. }) = &head.classes
            && thresholds.len() != labels.len()
        {
            return Err(Error::data(format!(
                "{class} has {} thresholds for {} classes",
                thresholds.len(),
                labels.len()
            )));
        }
        Ok(head)
    }

    /// Values of a feature vector.
    pub fn width(&self) -> usize {
        match &self.function {
            Function::Trees(trees) => trees.width(),
            Function::Linear { width, .. } => *width,
        }
    }

    /// Gives the classes the labels that an indexer had for them, if there are as many.
    pub fn name_classes(&mut self, labels: &[String]) {
        if let Some(classes) = &mut self.classes
            && classes.labels.len() == labels.len()
        {
            classes.labels = labels.into();
        }
    }

    /// What it is.
    pub fn describe(&self) -> Description {
        let labels = self.classes.as_ref().map_or_else(Vec::new, |c| c.labels.to_vec());
        match &self.function {
            Function::Trees(trees) => Description { labels, ..trees.describe() },
            Function::Linear { .. } => Description { labels, ..Description::default() },
        }
    }

    /// Says where the slots come from, so that they can be explained.
    pub fn explain_by(&mut self, slots: &[Slot], columns: usize) {
        if let Function::Trees(trees) = &mut self.function {
            trees.explain_by(slots.iter().map(|slot| slot.column).collect(), columns);
        }
    }

    /// Contributions of `columns` columns, with the number of outputs; of two
    /// classes they are the positive one's.
    pub fn contributions(
        &self,
        features: &[Vec<f64>],
        slots: &[Slot],
        columns: usize,
        rows: usize,
    ) -> Result<(usize, Vec<f64>)> {
        match &self.function {
            Function::Trees(trees) => trees.contributions(features, rows),
            Function::Linear { width, coefficients, intercepts } => {
                let sets = coefficients.chunks(*width.max(&1)).chain(std::iter::repeat(&[][..]));
                let sets: Vec<(&[f64], f64)> = sets.zip(intercepts.iter().copied()).collect();
                let sets = if sets.len() == 2 { &sets[1..] } else { &sets };
                check_size(rows, columns, sets.len())?;
                Ok((sets.len(), explain::linear(features, sets, slots, columns, rows)))
            }
        }
    }

    /// Scores features, one column of `rows` values each.
    pub fn score(&self, features: &[Vec<f64>], rows: usize) -> Predictions {
        let raw = match &self.function {
            Function::Trees(trees) => trees.score(features, rows),
            Function::Linear { width, coefficients, intercepts } => coefficients
                .chunks(*width.max(&1))
                .chain(std::iter::repeat(&[][..]))
                .zip(intercepts)
                .map(|(set, intercept)| linear(features, set, *intercept, rows))
                .collect(),
        };
        match &self.classes {
            Some(classes) => classes.decide(by_row(raw)),
            None => Predictions::plain(by_row(raw)),
        }
    }
}

/// Columns of scores row by row.
fn by_row(mut columns: Vec<Vec<f64>>) -> Vec<f64> {
    if columns.len() == 1 {
        return columns.swap_remove(0);
    }
    let rows = columns.first().map_or(0, Vec::len);
    (0..rows).flat_map(|row| columns.iter().map(move |column| column[row])).collect()
}

/// Products added in the order of the features, the intercept last.
fn linear(features: &[Vec<f64>], coefficients: &[f64], intercept: f64, rows: usize) -> Vec<f64> {
    let mut sums = vec![0.0; rows];
    for (column, coefficient) in features.iter().zip(coefficients) {
        sums.iter_mut().zip(column).for_each(|(sum, value)| *sum += value * coefficient);
    }
    sums.iter_mut().for_each(|sum| *sum += intercept);
    sums
}

impl Classes {
    fn new(count: usize, link: Link, decision: Decision) -> Self {
        let labels: Vec<String> = (0..count).map(|i| i.to_string()).collect();
        Self { labels: labels.into(), link, decision }
    }

    fn decide(&self, raw: Vec<f64>) -> Predictions {
        let count = self.labels.len();
        let probabilities: Vec<f64> = match self.link {
            Link::Shares => raw.chunks_exact(count).flat_map(shares).collect(),
            Link::Softmax => raw.chunks_exact(count).flat_map(softmax).collect(),
            // Spark computes the probability of class 0 first.
            Link::Logistic => raw.iter().flat_map(|m| complement(1.0 / (1.0 + m.exp()))).collect(),
            Link::HalfLogOdds => raw.iter().flat_map(|m| complement(1.0 / (1.0 + (2.0 * m).exp()))).collect(),
        };
        let prediction: Float64Array = match &self.decision {
            Decision::Above(threshold) => {
                Float64Array::from_iter_values(raw.iter().map(|m| f64::from(u8::from(m > threshold))))
            }
            Decision::Largest => {
                Float64Array::from_iter_values(raw.chunks_exact(count).map(|row| largest(row.iter().copied())))
            }
            Decision::Thresholds(thresholds) => Float64Array::from_iter_values(
                probabilities.chunks_exact(count).map(|row| largest(row.iter().zip(thresholds).map(|(p, t)| p / t))),
            ),
        };
        let scores = match self.link {
            Link::Logistic | Link::HalfLogOdds => Raw { width: 2, values: raw.iter().flat_map(|m| [-m, *m]).collect() },
            Link::Shares | Link::Softmax => Raw { width: count, values: raw.clone() },
        };
        let margin = match self.link {
            Link::Logistic | Link::HalfLogOdds => Some(raw),
            Link::Shares | Link::Softmax => (count == 2).then(|| raw.chunks_exact(2).map(|row| row[1]).collect()),
        };
        Predictions {
            prediction,
            probability: (count == 2)
                .then(|| probabilities.chunks_exact(2).map(|row| row[1]).collect::<Vec<f64>>().into()),
            probabilities: Some(ClassProbabilities { labels: self.labels.clone(), values: probabilities }),
            margin: margin.map(Float64Array::from),
            raw: Some(scores),
        }
    }
}

fn complement(of_class_0: f64) -> [f64; 2] {
    [of_class_0, 1.0 - of_class_0]
}

fn shares(row: &[f64]) -> impl Iterator<Item = f64> {
    let total: f64 = row.iter().sum();
    let total = if total == 0.0 { 1.0 } else { total };
    row.iter().map(move |share| share / total)
}

fn softmax(row: &[f64]) -> impl Iterator<Item = f64> {
    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().map(|m| (m - most).exp()).sum();
    row.iter().map(move |m| (m - most).exp() / sum)
}

/// The place of the first largest value; NaN is never larger.
fn largest(values: impl Iterator<Item = f64>) -> f64 {
    let (mut best, mut most) = (0, f64::NEG_INFINITY);
    for (place, value) in values.enumerate() {
        if value > most {
            (best, most) = (place, value);
        }
    }
    best as f64
}

fn thresholds(parameters: &Parameters<'_>) -> Result<Option<Vec<f64>>> {
    let Some(list) = parameters.get("thresholds").and_then(Value::as_array) else { return Ok(None) };
    let values: Vec<f64> = list.iter().filter_map(Value::as_f64).collect();
    if values.len() == list.len() { Ok(Some(values)) } else { Err(Error::data("`thresholds` are no numbers")) }
}

fn first(rows: &RecordBatch, name: &str) -> Result<f64> {
    let values = store::numbers(store::column(rows, name)?)?;
    values.first().copied().ok_or_else(|| Error::data(format!("the model's `{name}` is missing")))
}

fn logistic(folder: &Folder<'_>, thresholds: Option<Vec<f64>>, parameters: &Parameters<'_>) -> Result<Head> {
    let rows = folder.rows("data")?;
    let classes = first(&rows, "numClasses")?;
    let intercepts = store::vector(store::column(&rows, "interceptVector")?, 0)?;
    let (sets, width, coefficients) = store::matrix(store::column(&rows, "coefficientMatrix")?, 0)?;
    let multinomial =
        store::column(&rows, "isMultinomial")?.as_boolean_opt().is_some_and(|b| !b.is_empty() && b.value(0));
    let expected = if multinomial { classes } else { 1.0 };
    let fits = classes >= 2.0 && (multinomial || classes == 2.0);
    if !fits || sets as f64 != expected || intercepts.len() != sets {
        return Err(Error::data("LogisticRegressionModel has coefficients that do not fit its classes"));
    }
    let function = Function::Linear { width, coefficients, intercepts };
    let count = classes as usize;
    if multinomial {
        let decision = thresholds.map_or(Decision::Largest, Decision::Thresholds);
        return Ok(Head { function, classes: Some(Classes::new(count, Link::Softmax, decision)) });
    }
    // Two thresholds are one: the probability that class 1 must exceed.
    let threshold = match thresholds.as_deref() {
        Some([zero, one]) => 1.0 / (1.0 + zero / one),
        Some(other) => return Err(Error::data(format!("{} thresholds for 2 classes", other.len()))),
        None => parameters.get("threshold").and_then(Value::as_f64).unwrap_or(0.5),
    };
    let raw = if threshold == 0.0 {
        f64::NEG_INFINITY
    } else if threshold == 1.0 {
        f64::INFINITY
    } else {
        (threshold / (1.0 - threshold)).ln()
    };
    Ok(Head { function, classes: Some(Classes::new(2, Link::Logistic, Decision::Above(raw))) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tie_goes_to_the_first_class_and_a_zero_threshold_wins_unless_the_probability_is_zero() {
        assert_eq!(largest([0.5, 0.5].into_iter()), 0.0);
        assert_eq!(largest([f64::NAN, 0.1].into_iter()), 1.0);
        let decide = |raw: [f64; 2]| {
            let classes = Classes::new(2, Link::Shares, Decision::Thresholds(vec![1.0, 0.0]));
            classes.decide(raw.to_vec()).prediction.value(0)
        };
        assert_eq!([decide([9.0, 1.0]), decide([1.0, 0.0])], [1.0, 0.0]);
    }

    #[test]
    fn raw_scores_become_probabilities_by_the_estimators_own_formula() {
        let share = |link, raw: &[f64]| {
            Classes::new(2, link, Decision::Largest).decide(raw.to_vec()).probabilities.unwrap().values
        };
        assert_eq!(share(Link::Shares, &[3.0, 1.0]), [0.75, 0.25]);
        assert_eq!(share(Link::Shares, &[0.0, 0.0]), [0.0, 0.0]);
        let third = 3f64.ln();
        assert!((share(Link::Softmax, &[0.0, third])[1] - 0.75).abs() < 1e-15);
        let half = Classes::new(2, Link::HalfLogOdds, Decision::Above(0.0)).decide(vec![third / 2.0, -0.0]);
        assert!((half.probability.unwrap().value(0) - 0.75).abs() < 1e-15);
        assert_eq!(half.prediction.values().to_vec(), [1.0, 0.0]);
    }
}
