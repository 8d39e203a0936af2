//! The estimators: trees and linear models, with Spark's own formulas.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch};
use serde_json::Value;

use super::store::{self, Folder, Parameters};
use crate::error::{Error, Result};
use crate::forest::{Forest, NodeBuilder, Test, TreeBuilder, next_up};
use crate::model::{ClassProbabilities, Description, Predictions};

/// Rows that walk the trees together.
const BLOCK: usize = 256;

/// What follows the features.
#[derive(Debug)]
pub enum Head {
    /// Trees.
    Trees(Trees),
    /// `intercept + coefficients · x`.
    Linear { coefficients: Vec<f64>, intercept: f64 },
    /// One margin a class, or one for two classes.
    Logistic {
        classes: usize,
        width: usize,
        coefficients: Vec<f64>,
        intercepts: Vec<f64>,
        multinomial: bool,
        thresholds: Option<Vec<f64>>,
    },
}

/// A tree ensemble.
#[derive(Debug)]
pub struct Trees {
    forest: Forest<f64>,
    width: usize,
    /// `stride` values a leaf: normalised class shares, or one prediction.
    values: Vec<f64>,
    stride: usize,
    weights: Vec<f64>,
    kind: Kind,
    thresholds: Option<Vec<f64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Sums the shares of the trees, then normalises.
    Shares,
    /// The mean of the trees.
    Mean,
    /// The weighted sum of the trees.
    Sum,
    /// The weighted sum is half the log odds.
    LogOdds,
}

impl Head {
    /// Loads an estimator.
    pub fn load(class: &str, metadata: &Value, parameters: &Parameters<'_>, folder: &Folder<'_>) -> Result<Self> {
        let thresholds = thresholds(parameters)?;
        let kind = match class {
            "RandomForestClassificationModel" | "DecisionTreeClassificationModel" => Kind::Shares,
            "RandomForestRegressionModel" | "DecisionTreeRegressionModel" => Kind::Mean,
            "GBTRegressionModel" => Kind::Sum,
            "GBTClassificationModel" => Kind::LogOdds,
            "LinearRegressionModel" => {
                let rows = folder.rows("data")?;
                let coefficients = store::vector(store::column(&rows, "coefficients")?, 0)?;
                let intercept = first(&rows, "intercept")?;
                return Ok(Self::Linear { coefficients, intercept });
            }
            "LogisticRegressionModel" => return logistic(folder, thresholds, parameters),
            other => {
                return Err(Error::invalid(format!("the Spark ML stage {other} is not supported"))
                    .with_hint("supported are StringIndexer, OneHotEncoder, Imputer, VectorAssembler, StandardScaler; decision trees, random forests, gradient-boosted trees, logistic and linear regression"));
            }
        };
        let count = |name: &str| metadata.get(name).and_then(Value::as_u64).map(|n| n as usize);
        let width = count("numFeatures").ok_or_else(|| Error::data(format!("{class} does not say its numFeatures")))?;
        let single = class.starts_with("DecisionTree");
        let rows = folder.rows("data")?;
        let nodes = nodes(&rows, single)?;
        let trees = nodes.last().map_or(0, |n| n.tree + 1);
        let weights = if single { vec![1.0] } else { weights(&folder.rows("treesMetadata")?, trees)? };
        let stride = if kind == Kind::Shares {
            nodes.first().map_or(2, |n| n.stats.len()).max(count("numClasses").unwrap_or(0))
        } else {
            1
        };
        let mut values = Vec::new();
        let mut builders: Vec<TreeBuilder> = (0..trees).map(|_| TreeBuilder::default()).collect();
        for node in nodes {
            builders[node.tree].nodes.push(node.build(kind, stride, &mut values)?);
        }
        if builders.is_empty() || builders.iter().any(|b| b.nodes.is_empty()) {
            return Err(Error::data(format!("{class} lacks trees")));
        }
        let forest = Forest::new(&builders, width)?;
        Ok(Self::Trees(Trees { forest, width, values, stride, weights, kind, thresholds }))
    }

    /// Values of a feature vector.
    pub fn width(&self) -> usize {
        match self {
            Self::Trees(trees) => trees.width,
            Self::Linear { coefficients, .. } => coefficients.len(),
            Self::Logistic { width, .. } => *width,
        }
    }

    /// What it is.
    pub fn describe(&self) -> Description {
        let labels = |n: usize| (0..n).map(|i| i.to_string()).collect();
        match self {
            Self::Trees(t) => Description {
                labels: match t.kind {
                    Kind::Shares => labels(t.stride),
                    Kind::LogOdds => labels(2),
                    _ => Vec::new(),
                },
                trees: t.forest.trees(),
                nodes: t.forest.node_count(),
                max_depth: t.forest.max_depth(),
                ..Description::default()
            },
            Self::Linear { .. } => Description::default(),
            Self::Logistic { classes, .. } => Description { labels: labels(*classes), ..Description::default() },
        }
    }

    /// Scores row-major feature vectors.
    pub fn score(&self, features: &[f64], rows: usize) -> Predictions {
        match self {
            Self::Trees(trees) => trees.score(features, rows),
            Self::Linear { coefficients, intercept } => {
                let width = coefficients.len();
                let values =
                    (0..rows).map(|row| dot(&features[row * width..(row + 1) * width], coefficients) + intercept);
                regression(values.collect())
            }
            Self::Logistic { classes, width, coefficients, intercepts, multinomial, thresholds } => {
                let mut shares = vec![0.0; rows * classes];
                let mut margins = Vec::with_capacity(rows);
                for row in 0..rows {
                    let x = &features[row * width..(row + 1) * width];
                    let out = &mut shares[row * classes..(row + 1) * classes];
                    if *multinomial {
                        for (class, share) in out.iter_mut().enumerate() {
                            *share = dot(x, &coefficients[class * width..(class + 1) * width]) + intercepts[class];
                        }
                        margins.push(out.get(1).copied().unwrap_or(f64::NAN));
                        softmax(out);
                    } else {
                        let margin = dot(x, coefficients) + intercepts[0];
                        margins.push(margin);
                        out[0] = 1.0 / (1.0 + margin.exp());
                        out[1] = 1.0 - out[0];
                    }
                }
                classification(shares, *classes, thresholds.as_deref(), (*classes == 2).then_some(margins))
            }
        }
    }
}

impl Trees {
    fn score(&self, features: &[f64], rows: usize) -> Predictions {
        let stride = self.stride;
        let mut sums = vec![0.0; rows * stride];
        let plain = self.weights.iter().all(|w| *w == 1.0);
        for start in (0..rows).step_by(BLOCK) {
            let count = BLOCK.min(rows - start);
            let block = &features[start * self.width..(start + count) * self.width];
            let out = &mut sums[start * stride..(start + count) * stride];
            match (stride, plain) {
                (1, _) => self.forest.visit(block, count, |tree, row, leaf| {
                    out[row] += self.weights[tree] * self.values[leaf as usize];
                }),
                (2, true) => self.forest.visit(block, count, |_, row, leaf| {
                    let leaf = leaf as usize * 2;
                    out[row * 2] += self.values[leaf];
                    out[row * 2 + 1] += self.values[leaf + 1];
                }),
                _ => self.forest.visit(block, count, |tree, row, leaf| {
                    for class in 0..stride {
                        out[row * stride + class] += self.weights[tree] * self.values[leaf as usize * stride + class];
                    }
                }),
            }
        }
        match self.kind {
            Kind::Sum => regression(sums),
            Kind::Mean => {
                let trees = self.forest.trees() as f64;
                regression(sums.into_iter().map(|s| s / trees).collect())
            }
            Kind::LogOdds => {
                let shares = sums
                    .iter()
                    .flat_map(|margin| {
                        let positive = 1.0 / (1.0 + (-2.0 * margin).exp());
                        [1.0 - positive, positive]
                    })
                    .collect();
                classification(shares, 2, self.thresholds.as_deref(), Some(sums))
            }
            Kind::Shares => {
                let margins = (stride == 2).then(|| sums.chunks(2).map(|c| c[1]).collect());
                for row in sums.chunks_mut(stride) {
                    let total: f64 = row.iter().sum();
                    if total != 0.0 {
                        row.iter_mut().for_each(|share| *share /= total);
                    }
                }
                classification(sums, stride, self.thresholds.as_deref(), margins)
            }
        }
    }
}

fn dot(x: &[f64], coefficients: &[f64]) -> f64 {
    x.iter().zip(coefficients).map(|(a, b)| a * b).sum()
}

fn softmax(margins: &mut [f64]) {
    let most = margins.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    margins.iter_mut().for_each(|m| *m = (*m - most).exp());
    let sum: f64 = margins.iter().sum();
    margins.iter_mut().for_each(|m| *m /= sum);
}

fn regression(values: Vec<f64>) -> Predictions {
    Predictions { prediction: Float64Array::from(values), probability: None, probabilities: None, margin: None }
}

fn classification(
    shares: Vec<f64>,
    classes: usize,
    thresholds: Option<&[f64]>,
    margins: Option<Vec<f64>>,
) -> Predictions {
    let predictions = shares.chunks(classes).map(|row| predict(row, thresholds) as f64);
    let prediction = Float64Array::from_iter_values(predictions);
    let probability = (classes == 2).then(|| Float64Array::from_iter_values(shares.chunks(2).map(|row| row[1])));
    let labels: Vec<String> = (0..classes).map(|i| i.to_string()).collect();
    let labels: Arc<[String]> = labels.into();
    Predictions {
        prediction,
        probability,
        probabilities: Some(ClassProbabilities { labels, values: shares }),
        margin: margins.map(Float64Array::from),
    }
}

/// The first class with the largest probability, by threshold where set.
fn predict(row: &[f64], thresholds: Option<&[f64]>) -> usize {
    let scaled = |class: usize| match thresholds.map(|t| t[class]) {
        None => row[class],
        Some(0.0) if row[class] == 0.0 => f64::NAN,
        Some(0.0) => f64::INFINITY,
        Some(threshold) => row[class] / threshold,
    };
    let mut best = 0;
    for class in 1..row.len() {
        if scaled(class) > scaled(best) || scaled(best).is_nan() {
            best = class;
        }
    }
    best
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
    let classes = first(&rows, "numClasses")? as usize;
    let intercepts = store::vector(store::column(&rows, "interceptVector")?, 0)?;
    let (sets, width, coefficients) = store::matrix(store::column(&rows, "coefficientMatrix")?, 0)?;
    let multinomial =
        store::column(&rows, "isMultinomial")?.as_boolean_opt().is_some_and(|b| b.len() == 1 && b.value(0));
    let expected = if multinomial { classes } else { 1 };
    if classes < 2 || sets != expected || intercepts.len() != expected {
        return Err(Error::data("LogisticRegressionModel has coefficients that do not fit its classes"));
    }
    // A single threshold is the probability of class 1 to be reached.
    let single = parameters.get("threshold").and_then(Value::as_f64).filter(|t| *t != 0.5);
    let thresholds = thresholds.or_else(|| single.filter(|_| classes == 2).map(|t| vec![1.0 - t, t]));
    if thresholds.as_ref().is_some_and(|t| t.len() != classes) {
        return Err(Error::data("`thresholds` do not fit the classes"));
    }
    Ok(Head::Logistic { classes, width, coefficients, intercepts, multinomial, thresholds })
}

/// The weights of the trees, by tree number. Names differ between Spark
/// versions, the order does not: number, metadata, weight.
fn weights(rows: &RecordBatch, trees: usize) -> Result<Vec<f64>> {
    if rows.num_columns() < 3 {
        return Err(Error::data("`treesMetadata` has fewer than three columns"));
    }
    let numbers = store::integers(rows.column(0))?;
    let values = store::numbers(rows.column(2))?;
    let mut weights = vec![f64::NAN; trees];
    for (number, weight) in numbers.iter().zip(values) {
        if let Some(slot) = usize::try_from(*number).ok().and_then(|n| weights.get_mut(n)) {
            *slot = weight;
        }
    }
    if weights.iter().any(|w| w.is_nan()) {
        return Err(Error::data("`treesMetadata` lacks the weight of a tree"));
    }
    Ok(weights)
}

struct FlatNode {
    tree: usize,
    id: usize,
    prediction: f64,
    stats: Vec<f64>,
    left: i64,
    right: i64,
    feature: i64,
    categories: i64,
    thresholds: Vec<f64>,
}

/// All nodes, by tree and id. Ids must count from 0 in every tree.
fn nodes(rows: &RecordBatch, single: bool) -> Result<Vec<FlatNode>> {
    let (trees, fields): (Vec<i64>, RecordBatch) = if single {
        (vec![0; rows.num_rows()], rows.clone())
    } else {
        let data = store::column(rows, "nodeData")?;
        let data = data.as_struct_opt().ok_or_else(|| Error::data("`nodeData` is no struct"))?;
        (store::integers(store::column(rows, "treeID")?)?, data.clone().into())
    };
    let numbers = |name: &str| store::numbers(store::column(&fields, name)?);
    let integers = |name: &str| store::integers(store::column(&fields, name)?);
    let (ids, predictions) = (integers("id")?, numbers("prediction")?);
    let (left, right) = (integers("leftChild")?, integers("rightChild")?);
    let stats: &ArrayRef = store::column(&fields, "impurityStats")?;
    let split = store::column(&fields, "split")?;
    let split = split.as_struct_opt().ok_or_else(|| Error::data("`split` is no struct"))?.clone();
    let split: RecordBatch = split.into();
    let features = store::integers(store::column(&split, "featureIndex")?)?;
    let thresholds = store::column(&split, "leftCategoriesOrThreshold")?;
    let categories = store::integers(store::column(&split, "numCategories")?)?;
    let mut nodes = (0..fields.num_rows())
        .map(|row| {
            let place = |n: i64| usize::try_from(n).ok().filter(|n| *n < 100_000_000);
            let (tree, id) = (place(trees[row]), place(ids[row]));
            let (Some(tree), Some(id)) = (tree.filter(|t| *t < 1_000_000), id) else {
                return Err(Error::data("a node has an impossible number"));
            };
            Ok(FlatNode {
                tree,
                id,
                prediction: predictions[row],
                stats: store::list(stats, row)?,
                left: left[row],
                right: right[row],
                feature: features[row],
                categories: categories[row],
                thresholds: store::list(thresholds, row)?,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    nodes.sort_by_key(|n| (n.tree, n.id));
    let mut expected = 0;
    let mut tree = 0;
    for node in &nodes {
        if node.tree != tree {
            (tree, expected) = (node.tree, 0);
        }
        if node.id != expected {
            return Err(Error::data(format!("tree {tree} lacks node {expected}")));
        }
        expected += 1;
    }
    Ok(nodes)
}

impl FlatNode {
    fn build(self, kind: Kind, stride: usize, values: &mut Vec<f64>) -> Result<NodeBuilder> {
        if self.left < 0 || self.right < 0 {
            let leaf = (values.len() / stride) as u32;
            if kind == Kind::Shares {
                if self.stats.len() != stride {
                    return Err(Error::data(format!(
                        "a leaf of tree {} has {} classes of {stride}",
                        self.tree,
                        self.stats.len()
                    )));
                }
                let total: f64 = self.stats.iter().sum();
                values.extend(self.stats.iter().map(|s| if total == 0.0 { 0.0 } else { s / total }));
            } else {
                values.push(self.prediction);
            }
            return Ok(NodeBuilder::Leaf(leaf));
        }
        let feature = u32::try_from(self.feature).map_err(|_| Error::data("a split has no feature"))?;
        let test = if self.categories < 0 {
            let threshold = self.thresholds.first().copied();
            Test::Less(next_up(threshold.ok_or_else(|| Error::data("a split has no threshold"))?))
        } else {
            Test::In(self.thresholds.iter().map(|c| *c as u32).collect())
        };
        // NaN is not `<=` anything, so Spark sends it to the right.
        Ok(NodeBuilder::Split {
            feature,
            test,
            missing_left: false,
            left: self.left as usize,
            right: self.right as usize,
        })
    }
}
