//! XGBoost models, JSON and UBJSON.
//!
//! Margins are XGBoost's own to the bit: single precision, the base margin
//! first, then the trees in order. Transforms are in single precision too.
//! A booster that scikit-learn's wrapper saved after early stopping scores
//! with its best iteration, as the wrapper does; any other with all trees, as
//! `Booster.predict` does.

mod tree;
mod ubjson;

use std::sync::Arc;

use arrow::array::Float64Array;
use arrow::record_batch::RecordBatch;
use serde_json::Value;

use crate::columns;
use crate::error::{Error, Result};
use crate::forest::Forest;
use crate::model::{ClassProbabilities, Description, Input, InputKind, Model, Predictions, Signature};

/// Rows that are laid out and walked together.
const BLOCK: usize = 256;

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

#[derive(Debug)]
struct XgboostModel {
    forest: Forest<f32>,
    values: Vec<f32>,
    groups: Vec<u32>,
    base: Vec<f32>,
    transform: Transform,
    classifier: bool,
    labels: Arc<[String]>,
    description: Description,
    signature: Signature,
}

/// Loads a model from the bytes of one file.
pub fn load(name: &str, bytes: &[u8]) -> Result<Arc<dyn Model>> {
    let damaged = |what: String| Error::data(format!("`{name}` is not a readable XGBoost model: {what}"));
    // UBJSON has a type marker where JSON has a quote or a space.
    let text = bytes.get(1).is_some_and(|b| matches!(b, b'"' | b' ' | b'\n' | b'\r' | b'\t'));
    let document: Value = if text {
        serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?
    } else {
        ubjson::parse(bytes).map_err(damaged)?
    };
    build(&document).map_err(|error| {
        let new = Error::new(error.kind(), format!("`{name}`: {error}"));
        match error.hint() {
            Some(hint) => new.with_hint(hint),
            None => new,
        }
    })
}

fn build(document: &Value) -> Result<Arc<dyn Model>> {
    let learner = document.get("learner").ok_or_else(|| {
        Error::invalid("it is no XGBoost model: it has no `learner`")
            .with_hint("save it with `save_model(\"model.json\")`")
    })?;
    let parameters = field(learner, "learner_model_param")?;
    let features = number(parameters, "num_feature")? as usize;
    let classes = (number(parameters, "num_class")? as usize).max(1);
    if parameters.get("num_target").and_then(as_number).is_some_and(|n| n > 1.0) {
        return Err(Error::invalid("models with several targets are not supported"));
    }
    let objective = field(field(learner, "objective")?, "name")?.as_str().unwrap_or_default().to_owned();
    let (transform, log_base) = objective_of(&objective)?;
    let (model, weights) = booster(field(learner, "gradient_booster")?)?;
    let trees = field(model, "trees")?.as_array().ok_or_else(|| Error::data("`trees` is no list"))?;
    let info: Vec<f64> = numbers(model, "tree_info")?;
    let used = used_trees(learner, model, trees.len(), classes)?;
    let names = feature_names(learner, features)?;

    let mut values = Vec::new();
    let mut built = Vec::with_capacity(used);
    for (index, source) in trees.iter().take(used).enumerate() {
        let weight = weights.as_ref().map_or(Some(1.0), |w| w.get(index).copied());
        let weight = weight.ok_or_else(|| Error::data("`weight_drop` is shorter than the trees"))?;
        built.push(
            tree::build(source, weight as f32, &mut values).map_err(|e| Error::data(format!("tree {index}: {e}")))?,
        );
    }
    let forest = Forest::new(&built, features)?;
    let groups = (0..used)
        .map(|tree| match info.get(tree) {
            Some(group) if (*group as usize) < classes => Ok(*group as u32),
            _ => Err(Error::data(format!("tree {tree} belongs to no class"))),
        })
        .collect::<Result<Vec<u32>>>()?;
    let base = base_margin(parameters, classes, transform, log_base)?;
    let classifier = matches!(transform, Transform::Softmax | Transform::Hinge) || objective.starts_with("binary:");
    let labels: Vec<String> = match (classifier, classes) {
        (true, 1) => vec!["0".into(), "1".into()],
        (true, n) => (0..n).map(|i| i.to_string()).collect(),
        _ => Vec::new(),
    };
    let description = Description {
        flavor: "xgboost".into(),
        objective,
        labels: labels.clone(),
        trees: forest.trees(),
        nodes: forest.node_count(),
        max_depth: forest.max_depth(),
    };
    let inputs = names.into_iter().map(|name| Input { name, kind: InputKind::Numeric }).collect();
    let signature = Signature { inputs };
    let labels = labels.into();
    Ok(Arc::new(XgboostModel { forest, values, groups, base, transform, classifier, labels, description, signature }))
}

fn objective_of(name: &str) -> Result<(Transform, bool)> {
    Ok(match name {
        "binary:logistic" | "reg:logistic" => (Transform::Sigmoid, false),
        "binary:logitraw" => (Transform::Identity, false),
        "binary:hinge" => (Transform::Hinge, false),
        "multi:softprob" | "multi:softmax" => (Transform::Softmax, false),
        "count:poisson" | "reg:gamma" | "reg:tweedie" | "survival:cox" | "survival:aft" => (Transform::Exp, true),
        "reg:squarederror"
        | "reg:squaredlogerror"
        | "reg:pseudohubererror"
        | "reg:absoluteerror"
        | "reg:linear"
        | "rank:pairwise"
        | "rank:ndcg"
        | "rank:map" => (Transform::Identity, false),
        other => return Err(Error::invalid(format!("the objective `{other}` is not supported"))),
    })
}

/// The tree model inside the booster, and DART's weights.
fn booster(booster: &Value) -> Result<(&Value, Option<Vec<f64>>)> {
    match field(booster, "name")?.as_str() {
        Some("gbtree") => Ok((field(booster, "model")?, None)),
        Some("dart") => {
            let weights = numbers(booster, "weight_drop")?;
            Ok((field(field(booster, "gbtree")?, "model")?, Some(weights)))
        }
        other => Err(Error::invalid(format!("the booster `{}` is not supported", other.unwrap_or("?")))
            .with_hint("supported are gbtree and dart")),
    }
}

/// How many trees score: see the module's head.
fn used_trees(learner: &Value, model: &Value, trees: usize, classes: usize) -> Result<usize> {
    let attributes = learner.get("attributes");
    let attribute = |name: &str| attributes.and_then(|a| a.get(name)).and_then(Value::as_str);
    let (Some(_), Some(best)) = (attribute("scikit_learn"), attribute("best_iteration")) else { return Ok(trees) };
    let best: usize = best.parse().map_err(|_| Error::data("`best_iteration` is no number"))?;
    let ends = model.get("iteration_indptr").and_then(Value::as_array);
    if let Some(end) = ends.and_then(|e| e.get(best + 1)).and_then(as_number) {
        return Ok((end as usize).min(trees));
    }
    let parallel = model.get("gbtree_model_param").and_then(|p| p.get("num_parallel_tree")).and_then(as_number);
    Ok(((best + 1) * classes * parallel.unwrap_or(1.0).max(1.0) as usize).min(trees))
}

fn feature_names(learner: &Value, features: usize) -> Result<Vec<String>> {
    let names: Vec<String> = learner
        .get("feature_names")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    match names.len() {
        0 => Ok((0..features).map(|i| format!("f{i}")).collect()),
        n if n == features => Ok(names),
        n => Err(Error::data(format!("{n} feature names for {features} features"))),
    }
}

/// The base score of every class as a margin, in single precision.
fn base_margin(parameters: &Value, classes: usize, transform: Transform, log_base: bool) -> Result<Vec<f32>> {
    let text = field(parameters, "base_score")?;
    let scores: Vec<f32> = match text {
        Value::String(text) => text
            .trim_matches(|c| matches!(c, '[' | ']'))
            .split(',')
            .map(|part| part.trim().parse::<f32>())
            .collect::<Result<_, _>>()
            .map_err(|_| Error::data(format!("`base_score` is `{text}`")))?,
        Value::Array(list) => list.iter().filter_map(as_number).map(|v| v as f32).collect(),
        other => vec![as_number(other).ok_or_else(|| Error::data("`base_score` is no number"))? as f32],
    };
    let to_margin = |score: f32| match transform {
        Transform::Sigmoid => -(1.0 / score - 1.0).ln(),
        _ if log_base => score.ln(),
        _ => score,
    };
    match scores.len() {
        1 => Ok(vec![to_margin(scores[0]); classes]),
        n if n == classes => Ok(scores.into_iter().map(to_margin).collect()),
        n => Err(Error::data(format!("{n} base scores for {classes} classes"))),
    }
}

fn field<'a>(value: &'a Value, name: &str) -> Result<&'a Value> {
    value.get(name).ok_or_else(|| Error::data(format!("it has no `{name}`")))
}

fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => text.parse().ok(),
        Value::Bool(b) => Some(f64::from(u8::from(*b))),
        _ => None,
    }
}

fn number(value: &Value, name: &str) -> Result<f64> {
    let found = as_number(field(value, name)?).filter(|n| *n >= 0.0 && *n < 1e9);
    found.ok_or_else(|| Error::data(format!("`{name}` is no usable number")))
}

fn numbers(value: &Value, name: &str) -> Result<Vec<f64>> {
    let list = field(value, name)?.as_array().ok_or_else(|| Error::data(format!("`{name}` is no list")))?;
    list.iter()
        .map(|v| as_number(v).ok_or_else(|| Error::data(format!("`{name}` holds something that is no number"))))
        .collect()
}

impl XgboostModel {
    /// Margins, row-major, one per class.
    fn margins(&self, batch: &RecordBatch) -> Result<Vec<f32>> {
        let columns = self
            .signature
            .inputs
            .iter()
            .map(|input| columns::numbers(batch, &input.name).map(|c| columns::with_nan(&c)))
            .collect::<Result<Vec<_>>>()?;
        let (rows, width, classes) = (batch.num_rows(), columns.len(), self.base.len());
        let mut margins: Vec<f32> = self.base.iter().copied().cycle().take(rows * classes).collect();
        let mut block = vec![0f32; BLOCK * width];
        for start in (0..rows).step_by(BLOCK) {
            let count = BLOCK.min(rows - start);
            for (slot, column) in columns.iter().enumerate() {
                for (row, value) in column[start..start + count].iter().enumerate() {
                    block[row * width + slot] = *value as f32;
                }
            }
            let out = &mut margins[start * classes..(start + count) * classes];
            self.forest.visit(&block, count, |tree, row, leaf| {
                out[row * classes + self.groups[tree] as usize] += self.values[leaf as usize];
            });
        }
        Ok(margins)
    }
}

fn sigmoid(x: f32) -> f32 {
    let exponent = (-x).min(88.7);
    1.0 / (exponent.exp() + 1.0 + 1e-16)
}

impl Model for XgboostModel {
    fn description(&self) -> &Description {
        &self.description
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn score(&self, batch: &RecordBatch) -> Result<Predictions> {
        let margins = self.margins(batch)?;
        if self.transform == Transform::Softmax {
            return Ok(self.softmax(margins));
        }
        let margin = Float64Array::from_iter_values(margins.iter().map(|m| f64::from(*m)));
        let probability = (self.transform == Transform::Sigmoid && self.classifier)
            .then(|| Float64Array::from_iter_values(margins.iter().map(|m| f64::from(sigmoid(*m)))));
        let prediction = match (&probability, self.transform) {
            (Some(p), _) => Float64Array::from_iter_values(p.values().iter().map(|p| f64::from(u8::from(*p > 0.5)))),
            (None, Transform::Sigmoid) => {
                Float64Array::from_iter_values(margins.iter().map(|m| f64::from(sigmoid(*m))))
            }
            (None, Transform::Exp) => Float64Array::from_iter_values(margins.iter().map(|m| f64::from(m.exp()))),
            (None, Transform::Hinge) => {
                Float64Array::from_iter_values(margins.iter().map(|m| f64::from(u8::from(*m > 0.0))))
            }
            (None, _) => margin.clone(),
        };
        let probabilities = probability.as_ref().map(|p| ClassProbabilities {
            labels: self.labels.clone(),
            values: p.values().iter().flat_map(|p| [1.0 - p, *p]).collect(),
        });
        Ok(Predictions { prediction, probability, probabilities, margin: Some(margin) })
    }
}

impl XgboostModel {
    fn softmax(&self, mut margins: Vec<f32>) -> Predictions {
        let classes = self.base.len();
        let mut predictions = Vec::with_capacity(margins.len() / classes);
        for row in margins.chunks_mut(classes) {
            let mut best = 0;
            for (class, margin) in row.iter().enumerate() {
                if *margin > row[best] {
                    best = class;
                }
            }
            predictions.push(best as f64);
            let most = row[best];
            let mut sum = 0f64;
            for value in row.iter_mut() {
                *value = (*value - most).exp();
                sum += f64::from(*value);
            }
            row.iter_mut().for_each(|value| *value /= sum as f32);
        }
        let values = margins.into_iter().map(f64::from).collect();
        let probabilities = ClassProbabilities { labels: self.labels.clone(), values };
        Predictions {
            prediction: predictions.into(),
            probability: None,
            probabilities: Some(probabilities),
            margin: None,
        }
    }
}
