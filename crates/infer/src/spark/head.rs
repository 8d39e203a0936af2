//! The estimators: what they make of features, with Spark's own formulas.
//!
//! A [`Function`] answers raw scores; [`Classes`] turns those into
//! probabilities and classes as Spark does, rounding included: without
//! thresholds a class is the first with the largest *raw* score.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::explain::Slot;
use super::frame::{Frame, Made};
use super::stage::{MAX_WIDTH, Source};
use super::store::{self, Parameters};
use super::trees::Trees;
use super::vectors::{Column, Vectors};
use super::{bayes, clusters, linear, perceptron};
use crate::error::{Error, Result};
use crate::model::{ClassProbabilities, Description, Predictions, Raw};

/// Stages that are known, for a message.
const KNOWN: &str = "supported are the stages that index, encode, impute, bucket, scale, select, expand and assemble \
    columns; trees and forests, linear, logistic and generalized linear models, linear SVC, naive Bayes, perceptrons, \
    factorization machines, isotonic and survival regression, k-means, bisecting k-means, Gaussian mixtures, one-vs-rest";

/// What follows the features.
#[derive(Debug)]
pub struct Head {
    /// Its column of features.
    pub features: String,
    /// The column of its labels, which rows need not have.
    pub label: String,
    /// The column of its predictions.
    pub prediction: String,
    /// A column that is added to the raw score.
    pub offset: Option<String>,
    function: Box<dyn Function>,
    output: Output,
}

/// Raw scores of features.
pub trait Function: fmt::Debug + Send + Sync {
    /// Values of a feature vector; none when it takes any.
    fn width(&self) -> Option<usize>;

    /// Scores features: a column per score.
    ///
    /// # Errors
    /// When it refuses a value.
    fn score(&self, features: &Vectors, offset: Option<&[f64]>) -> Result<Vec<Vec<f64>>>;

    /// Says where the slots come from, so that they can be explained.
    fn explain_by(&mut self, _slots: &[Slot], _columns: usize) {}

    /// Contributions of `columns` columns to dense features, one list a place,
    /// with the number of outputs; of two classes they are the positive one's.
    /// None when the function cannot be explained.
    fn contributions(
        &self,
        _features: &[Vec<f64>],
        _slots: &[Slot],
        _columns: usize,
        _rows: usize,
    ) -> Option<Result<(usize, Vec<f64>)>> {
        None
    }

    /// Its size.
    fn describe(&self) -> Description {
        Description::default()
    }

    /// The place of the features that it looks at, when a column of numbers
    /// does as well.
    fn place(&self) -> Option<usize> {
        None
    }
}

/// What the raw scores are.
#[derive(Debug)]
pub enum Output {
    /// The prediction.
    Value,
    /// Scores of classes.
    Classes(Classes),
    /// Shares of clusters, of which the first largest is the prediction.
    Mixture(Arc<[String]>),
}

/// From raw scores to classes.
#[derive(Debug)]
pub struct Classes {
    labels: Arc<[String]>,
    link: Link,
    decision: Decision,
}

/// From raw scores to probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Class counts, one per class: divided by their sum.
    Shares,
    /// One score m for class 1: `1 / (1 + exp(-m))`, of class 0 first.
    Logistic,
    /// The same, of class 1 first.
    Sigmoid,
    /// One score m for class 1: `1 / (1 + exp(-2m))`.
    HalfLogOdds,
    /// A score per class.
    Softmax,
    /// One score for class 1, no probabilities.
    Margin,
    /// A score per class, no probabilities.
    Scores,
}

/// From scores to a class.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The first with the largest raw score.
    Largest,
    /// The first with the largest raw score that is a number above negative
    /// infinity, else -1.
    LargestNumber,
    /// Class 1 when its raw score is above.
    Above(f64),
    /// The first with the largest probability by threshold.
    Thresholds(Vec<f64>),
}

impl Decision {
    /// By the `thresholds` of an estimator.
    pub fn of(parameters: &Parameters<'_>) -> Result<Self> {
        Ok(parameters.numbers("thresholds")?.map_or(Self::Largest, Self::Thresholds))
    }

    /// With a score of class 1 only, the largest is the one above 0.
    pub fn of_margin(parameters: &Parameters<'_>) -> Result<Self> {
        Ok(match Self::of(parameters)? {
            Self::Largest => Self::Above(0.0),
            other => other,
        })
    }
}

impl Head {
    /// Loads an estimator.
    pub fn load(source: &Source<'_>) -> Result<Self> {
        let (class, parameters) = (source.class, source.parameters);
        let trees = |shares: bool| Trees::load(class, feature_count(source)?, shares, source.folder);
        let (function, output): (Box<dyn Function>, Output) = match class {
            "RandomForestClassificationModel" | "DecisionTreeClassificationModel" => {
                let trees = trees(true)?;
                let classes = Classes::new(trees.outputs(), Link::Shares, Decision::of(parameters)?);
                (Box::new(trees), Output::Classes(classes))
            }
            "GBTClassificationModel" => {
                let classes = Classes::new(2, Link::HalfLogOdds, Decision::of_margin(parameters)?);
                (Box::new(trees(false)?), Output::Classes(classes))
            }
            "RandomForestRegressionModel" | "DecisionTreeRegressionModel" | "GBTRegressionModel" => {
                (Box::new(trees(false)?), Output::Value)
            }
            "LinearRegressionModel" => linear::regression(source)?,
            "GeneralizedLinearRegressionModel" => linear::generalized(source)?,
            "AFTSurvivalRegressionModel" => linear::survival(source)?,
            "LogisticRegressionModel" => linear::logistic(source)?,
            "LinearSVCModel" => linear::machine(source)?,
            "FMClassificationModel" | "FMRegressionModel" => linear::factorization(source)?,
            "IsotonicRegressionModel" => linear::isotonic(source)?,
            "NaiveBayesModel" => bayes::load(source)?,
            "MultilayerPerceptronClassificationModel" => perceptron::load(source)?,
            "KMeansModel" => clusters::means(source)?,
            "BisectingKMeansModel" => clusters::bisecting(source)?,
            "GaussianMixtureModel" => super::mixture::load(source)?,
            "OneVsRestModel" => one_against_rest(source)?,
            other => {
                return Err(Error::invalid(format!("the Spark ML stage {other} is not supported")).with_hint(KNOWN));
            }
        };
        if let Output::Classes(Classes { decision: Decision::Thresholds(thresholds), labels, .. }) = &output
            && thresholds.len() != labels.len()
        {
            return Err(Error::data(format!(
                "{class} has {} thresholds for {} classes",
                thresholds.len(),
                labels.len()
            )));
        }
        let text = |name: &str, default: &str| parameters.text(name).unwrap_or(default).to_owned();
        let (features, label) = (text("featuresCol", "features"), text("labelCol", "label"));
        let offset = parameters.text("offsetCol").filter(|name| !name.is_empty()).map(str::to_owned);
        Ok(Self { features, label, prediction: text("predictionCol", "prediction"), offset, function, output })
    }

    /// Values of a feature vector, where the model says.
    pub fn width(&self) -> Option<usize> {
        self.function.width()
    }

    /// Whether a column of numbers can be the features.
    pub fn takes_numbers(&self) -> bool {
        self.function.place().is_some()
    }

    /// Gives the classes the labels that an indexer had for them, if there are as many.
    pub fn name_classes(&mut self, labels: &[String]) {
        if let Output::Classes(classes) = &mut self.output
            && classes.labels.len() == labels.len()
        {
            classes.labels = labels.into();
        }
    }

    /// Gives the classes the labels of an IndexToString of the predictions.
    pub fn label_classes(&mut self, labels: &[String]) -> Result<()> {
        let Output::Classes(classes) = &mut self.output else {
            return Err(Error::invalid("an IndexToString of predictions that are no classes is not supported"));
        };
        let count = classes.labels.len();
        let labels = labels.get(..count).ok_or_else(|| {
            Error::data(format!("the IndexToString of the predictions has {} labels for {count} classes", labels.len()))
        })?;
        classes.labels = labels.into();
        Ok(())
    }

    /// What it is.
    pub fn describe(&self) -> Description {
        let labels = match &self.output {
            Output::Classes(classes) => classes.labels.to_vec(),
            _ => Vec::new(),
        };
        Description { labels, ..self.function.describe() }
    }

    /// Says where the slots come from, so that they can be explained.
    pub fn explain_by(&mut self, slots: &[Slot], columns: usize) {
        self.function.explain_by(slots, columns);
    }

    /// Contributions of `columns` columns to a block, with the number of
    /// outputs; of two classes they are the positive one's. None when this
    /// estimator cannot be explained.
    pub fn contributions(
        &self,
        frame: &Frame<'_>,
        slots: &[Slot],
        columns: usize,
    ) -> Result<Option<(usize, Vec<f64>)>> {
        let features = frame.vectors(&self.features, self.width())?;
        let rows = features.rows;
        let dense = |column: &Column| column.values().map_or_else(|| vec![0.0; rows], <[f64]>::to_vec);
        let features: Vec<Vec<f64>> = features.columns.iter().map(dense).collect();
        self.function.contributions(&features, slots, columns, rows).transpose()
    }

    /// The raw scores of a block, a column each.
    pub fn raw(&self, frame: &Frame<'_>) -> Result<Vec<Vec<f64>>> {
        let features = match (self.function.place(), frame.get(&self.features)?) {
            (Some(place), Made::Numbers(numbers)) => {
                if let Some(row) = (0..frame.rows()).find(|row| numbers.get(*row).is_none()) {
                    return Err(super::frame::missing(&self.features, row, super::stage::Invalid::Error));
                }
                let mut features = Vectors::dense(frame.rows(), vec![numbers.values.to_vec()]);
                features.columns = vec![features.columns[0].clone(); place + 1];
                features
            }
            _ => frame.vectors(&self.features, self.width())?,
        };
        let offset = self.offset.as_ref().map(|name| frame.numbers(name)).transpose()?;
        self.function.score(&features, offset.as_ref().map(|offset| offset.values.as_slice()))
    }

    /// What the raw scores of all rows mean.
    pub fn finish(&self, raw: Vec<Vec<f64>>) -> Predictions {
        match &self.output {
            Output::Value => Predictions::plain(by_row(raw)),
            Output::Classes(classes) => classes.decide(by_row(raw)),
            Output::Mixture(labels) => {
                let shares = by_row(raw);
                let prediction: Vec<f64> = shares.chunks_exact(labels.len()).map(first_largest).collect();
                Predictions {
                    probabilities: Some(ClassProbabilities { labels: labels.clone(), values: shares }),
                    ..Predictions::plain(prediction)
                }
            }
        }
    }
}

/// The features that a model was fitted on.
fn feature_count(source: &Source<'_>) -> Result<usize> {
    let count = source.metadata.get("numFeatures").and_then(Value::as_u64);
    let count = count.ok_or_else(|| Error::data(format!("{} does not say its numFeatures", source.class)))?;
    let fits = usize::try_from(count).ok().filter(|count| *count <= MAX_WIDTH);
    fits.ok_or_else(|| Error::invalid(format!("{} has numFeatures = {count}, which is too wide", source.class)))
}

/// Classifiers of two classes, of which the one with the largest score wins.
#[derive(Debug)]
struct OneAgainstRest(Vec<Head>);

impl Function for OneAgainstRest {
    fn width(&self) -> Option<usize> {
        self.0.first().and_then(Head::width)
    }

    fn score(&self, features: &Vectors, offset: Option<&[f64]>) -> Result<Vec<Vec<f64>>> {
        let positive = |head: &Head| {
            let mut scores = head.function.score(features, offset)?;
            scores.pop().ok_or_else(|| Error::data("a model of OneVsRest has no score"))
        };
        self.0.iter().map(positive).collect()
    }
}

fn one_against_rest(source: &Source<'_>) -> Result<(Box<dyn Function>, Output)> {
    let count = source.metadata.get("numClasses").and_then(Value::as_u64).unwrap_or(0);
    if !(1..=MAX_WIDTH as u64).contains(&count) {
        return Err(Error::data(format!("OneVsRestModel has {count} classes")));
    }
    let mut heads: Vec<Head> = Vec::new();
    for number in 0..count {
        let name = format!("model_{number}");
        let folder = source.folder.inner(&name);
        let metadata = folder.metadata()?;
        let class = super::class_of(&metadata);
        if class == "OneVsRestModel" {
            return Err(Error::invalid(format!("OneVsRestModel has another one as its `{name}`")));
        }
        let parameters = Parameters::new(&metadata);
        let inner = Source { class: &class, metadata: &metadata, parameters: &parameters, folder: &folder };
        let head = Head::load(&inner).map_err(|e| e.within(&name))?;
        let two = matches!(&head.output, Output::Classes(classes) if classes.labels.len() == 2);
        if !two || heads.first().is_some_and(|first| first.width() != head.width()) || head.offset.is_some() {
            return Err(Error::data(format!("OneVsRestModel has `{name}`, which does not fit the others")));
        }
        heads.push(head);
    }
    let decision = if source.since_4() { Decision::LargestNumber } else { Decision::Largest };
    let classes = Classes::new(heads.len(), Link::Scores, decision);
    Ok((Box::new(OneAgainstRest(heads)), Output::Classes(classes)))
}

/// Columns of scores row by row.
fn by_row(mut columns: Vec<Vec<f64>>) -> Vec<f64> {
    if columns.len() == 1 {
        return columns.swap_remove(0);
    }
    let rows = columns.first().map_or(0, Vec::len);
    (0..rows).flat_map(|row| columns.iter().map(move |column| column[row])).collect()
}

impl Classes {
    /// Classes named by their numbers.
    pub fn new(count: usize, link: Link, decision: Decision) -> Self {
        Self { labels: numbered(count), link, decision }
    }

    fn decide(&self, raw: Vec<f64>) -> Predictions {
        let count = self.labels.len();
        let probabilities: Option<Vec<f64>> = match self.link {
            Link::Shares => Some(raw.chunks_exact(count).flat_map(shares).collect()),
            Link::Softmax => Some(raw.chunks_exact(count).flat_map(softmax).collect()),
            // Spark computes the probability of class 0 first.
            Link::Logistic => Some(raw.iter().flat_map(|m| complement(1.0 / (1.0 + m.exp()))).collect()),
            Link::HalfLogOdds => Some(raw.iter().flat_map(|m| complement(1.0 / (1.0 + (2.0 * m).exp()))).collect()),
            Link::Sigmoid => {
                let both = |m: &f64| complement(1.0 / (1.0 + (-m).exp())).into_iter().rev();
                Some(raw.iter().flat_map(both).collect())
            }
            Link::Margin | Link::Scores => None,
        };
        let prediction: Vec<f64> = match (&self.decision, &probabilities) {
            (Decision::Above(threshold), _) => raw.iter().map(|m| f64::from(u8::from(m > threshold))).collect(),
            (Decision::Thresholds(thresholds), Some(probabilities)) => {
                probabilities.chunks_exact(count).map(|row| largest(row, thresholds)).collect()
            }
            (Decision::LargestNumber, _) => raw.chunks_exact(count).map(first_largest_number).collect(),
            _ => raw.chunks_exact(count).map(first_largest).collect(),
        };
        let one = matches!(self.link, Link::Logistic | Link::HalfLogOdds | Link::Sigmoid | Link::Margin);
        let scores = if one {
            Raw { width: 2, values: raw.iter().flat_map(|m| [-m, *m]).collect() }
        } else {
            Raw { width: count, values: raw.clone() }
        };
        let second = |values: &[f64]| values.chunks_exact(2).map(|row| row[1]).collect::<Vec<f64>>();
        let margin = if one { Some(raw) } else { (count == 2).then(|| second(&raw)) };
        let probability = probabilities.as_ref().filter(|_| count == 2).map(|values| second(values).into());
        Predictions {
            prediction: prediction.into(),
            probability,
            probabilities: probabilities.map(|values| ClassProbabilities { labels: self.labels.clone(), values }),
            margin: margin.map(Into::into),
            raw: Some(scores),
        }
    }
}

/// `0`, `1`, ...
pub fn numbered(count: usize) -> Arc<[String]> {
    (0..count).map(|i| i.to_string()).collect()
}

fn complement(of_class_0: f64) -> [f64; 2] {
    [of_class_0, 1.0 - of_class_0]
}

fn shares(row: &[f64]) -> impl Iterator<Item = f64> {
    let total: f64 = row.iter().fold(0.0, |sum, v| sum + v);
    let total = if total == 0.0 { 1.0 } else { total };
    row.iter().map(move |share| share / total)
}

/// Infinity takes all; Spark multiplies the others by 0, which leaves NaN of
/// what is not finite.
fn softmax(row: &[f64]) -> Vec<f64> {
    if let Some(infinite) = row.iter().position(|m| *m == f64::INFINITY) {
        return row.iter().enumerate().map(|(place, m)| if place == infinite { 1.0 } else { m * 0.0 }).collect();
    }
    let most = row.iter().fold(f64::MIN, |most, m| if *m > most { *m } else { most });
    let exponentials: Vec<f64> = row.iter().map(|m| (m - most).exp()).collect();
    let part = 1.0 / exponentials.iter().fold(0.0, |sum, e| sum + e);
    exponentials.into_iter().map(|e| e * part).collect()
}

/// The place of the first largest value; nothing is larger than NaN in front.
fn first_largest(row: &[f64]) -> f64 {
    let mut best = 0;
    for (place, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = place;
        }
    }
    best as f64
}

/// The place of the first largest value above negative infinity, -1 without one.
fn first_largest_number(row: &[f64]) -> f64 {
    let (mut best, mut most) = (-1.0, f64::NEG_INFINITY);
    for (place, value) in row.iter().enumerate() {
        if *value > most {
            (best, most) = (place as f64, *value);
        }
    }
    best
}

/// The place of the first largest probability by threshold.
fn largest(row: &[f64], thresholds: &[f64]) -> f64 {
    let (mut best, mut most) = (0, f64::NEG_INFINITY);
    for (place, value) in row.iter().zip(thresholds).map(|(p, t)| p / t).enumerate() {
        if value > most {
            (best, most) = (place, value);
        }
    }
    best as f64
}

/// The first number of a column.
pub fn first(rows: &arrow::array::RecordBatch, name: &str) -> Result<f64> {
    let values = store::numbers(store::column(rows, name)?)?;
    values.first().copied().ok_or_else(|| Error::data(format!("the model's `{name}` is missing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tie_goes_to_the_first_class_and_a_zero_threshold_wins_unless_the_probability_is_zero() {
        assert_eq!(first_largest(&[0.5, 0.5]), 0.0);
        assert_eq!(first_largest(&[f64::NAN, 0.1]), 0.0);
        assert_eq!(largest(&[f64::NAN, 0.1], &[1.0, 1.0]), 1.0);
        assert_eq!(first_largest_number(&[f64::NAN, 0.1]), 1.0);
        assert_eq!(first_largest_number(&[f64::NAN, f64::NEG_INFINITY]), -1.0);
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
        assert_eq!(share(Link::Softmax, &[0.0, f64::INFINITY]), [0.0, 1.0]);
        let half = Classes::new(2, Link::HalfLogOdds, Decision::Above(0.0)).decide(vec![third / 2.0, -0.0]);
        assert!((half.probability.unwrap().value(0) - 0.75).abs() < 1e-15);
        assert_eq!(half.prediction.values().to_vec(), [1.0, 0.0]);
    }
}
