//! From text to a model, with every part checked.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::text::{Section, Text};
use super::{Codes, LightgbmModel, LinearLeaf, LinearTrees, Look, Transform, Trees};
use crate::error::{Error, Result};
use crate::explain::{Explainer, Source};
use crate::forest::{Ensemble, Leaves, NodeBuilder, Test, TreeBuilder, Walked, next_up};
use crate::model::{Description, Input, InputKind, Model, Signature};

/// Categories of a split at most.
const MAX_CATEGORIES: usize = 1 << 20;

/// Loads a model from the bytes of one file.
///
/// # Errors
/// `Data` when the file is damaged, `Invalid` when a part is not supported.
pub fn load(name: &str, bytes: &[u8]) -> Result<Arc<dyn Model>> {
    let damaged = |error: Error| error.within(&format!("`{name}`"));
    let text = std::str::from_utf8(bytes).map_err(|e| damaged(Error::data(format!("it is no text: {e}"))))?;
    let text = Text::parse(text).map_err(damaged)?;
    let model = build(&text).map_err(damaged)?;
    Ok(Arc::new(model))
}

fn build(text: &Text<'_>) -> Result<LightgbmModel> {
    let header = &text.header;
    match header.get("version")? {
        "v2" | "v3" | "v4" => {}
        other => {
            return Err(Error::invalid(format!("its format version is `{other}`, known are v2 to v4"))
                .with_hint("save it again with a current LightGBM"));
        }
    }
    let features = header.number::<usize>("max_feature_idx")?.checked_add(1).filter(|n| *n < 1 << 24);
    let features = features.ok_or_else(|| header.wrong("max_feature_idx", "is too large"))?;
    let outputs: usize = header.number("num_tree_per_iteration")?;
    if outputs == 0 || outputs > 1 << 16 {
        return Err(header.wrong("num_tree_per_iteration", "is impossible"));
    }
    if text.trees.is_empty() || !text.trees.len().is_multiple_of(outputs) {
        return Err(Error::data(format!("it has {} trees for {outputs} outputs", text.trees.len())));
    }
    let objective = header.find("objective").unwrap_or("none").trim();
    let (transform, classes) = transform(header, objective)?;
    let several = matches!(transform, Transform::Softmax | Transform::OneAgainstAll(_));
    if outputs != if several { classes } else { 1 } || several && classes < 2 {
        return Err(header.wrong("objective", &format!("does not go with {outputs} outputs")));
    }

    let names = names(header, features)?;
    let mut looks = Looks::default();
    let (mut builders, mut values, mut linear, mut covers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (number, section) in text.trees.iter().enumerate() {
        let tree = tree(section, features, &mut looks, values.len() as u32)?;
        builders.push(tree.builder);
        values.extend(tree.values);
        linear.push(tree.linear);
        covers.push(tree.covers);
        if linear[number].is_some() != linear[0].is_some() {
            return Err(Error::data(format!("tree {number} is linear and others are not, or the other way round")));
        }
    }
    let groups: Vec<u32> = (0..builders.len()).map(|tree| (tree % outputs) as u32).collect();
    let nodes = builders.iter().map(|b: &TreeBuilder| b.nodes.len()).sum();
    let (slots, builders) = (looks.slots, Arc::new(builders));
    let plain = Ensemble::new(&builders, slots.len(), Leaves::grouped(values.clone(), groups.clone(), outputs))?;
    let max_depth = plain.max_depth();
    let (trees, explainer) = if linear[0].is_some() {
        let trees = LinearTrees {
            walk: Walked::new(&builders, slots.len())?,
            leaves: linear.into_iter().flatten().flatten().collect(),
            groups: groups.into_iter().map(|group| group as usize).collect(),
        };
        (Trees::Linear(Box::new(trees)), None)
    } else {
        let explainer = Explainer::new(Source {
            trees: builders,
            covers,
            values,
            width: 1,
            groups,
            outputs,
            players: slots.iter().map(|(feature, _)| *feature as u32).collect(),
            targets: (0..features as u32).collect(),
            columns: features,
        });
        (Trees::Plain(Box::new(plain)), Some(explainer))
    };
    let codes = codes(text, features)?;
    let labels: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
    let description = Description {
        flavor: "lightgbm".into(),
        objective: objective.to_owned(),
        labels: labels.clone(),
        trees: text.trees.len(),
        nodes,
        max_depth,
    };
    let kind =
        |codes: &Codes| if matches!(codes, Codes::Texts(_)) { InputKind::Categorical } else { InputKind::Numeric };
    let inputs = names.into_iter().zip(&codes).map(|(name, codes)| Input { name, kind: kind(codes) }).collect();
    let iterations = (text.trees.len() / outputs) as f64;
    Ok(LightgbmModel {
        trees,
        explainer,
        slots,
        codes,
        outputs,
        average: header.find("average_output").map(|_| iterations),
        transform,
        labels: labels.into(),
        description,
        signature: Signature { inputs },
    })
}

/// The transform of an objective, and how many classes it has.
fn transform(header: &Section<'_>, objective: &str) -> Result<(Transform, usize)> {
    let mut words = objective.split_ascii_whitespace();
    let name = words.next().unwrap_or("none");
    let (mut sigmoid, mut classes, mut square) = (1.0, 0usize, false);
    for word in words {
        let wrong = || header.wrong("objective", &format!("has `{word}`, which is not supported"));
        match word.split_once(':') {
            Some(("sigmoid", value)) => sigmoid = value.parse().map_err(|_| wrong())?,
            Some(("num_class", value)) => classes = value.parse().map_err(|_| wrong())?,
            // They matter to the training only.
            Some(("alpha" | "c" | "fair_c" | "tweedie_variance_power" | "poisson_max_delta_step", _)) => {}
            None if word == "sqrt" => square = true,
            _ => return Err(wrong()),
        }
    }
    Ok(match name {
        "binary" => (Transform::Binary(sigmoid), 2),
        "multiclass" => (Transform::Softmax, classes),
        "multiclassova" => (Transform::OneAgainstAll(sigmoid), classes),
        "cross_entropy" => (Transform::Logistic, 0),
        "cross_entropy_lambda" => (Transform::Softplus, 0),
        "poisson" | "gamma" | "tweedie" => (Transform::Exp, 0),
        "regression" if square => (Transform::Square, 0),
        "regression" | "regression_l1" | "huber" | "fair" | "quantile" | "mape" | "lambdarank" | "rank_xendcg"
        | "none" | "custom" => (Transform::Identity, 0),
        other => {
            return Err(Error::invalid(format!("the objective `{other}` is not supported")).with_hint(
                "supported are binary, multiclass, multiclassova, the regression objectives, poisson, gamma, tweedie, \
                 cross_entropy, cross_entropy_lambda, lambdarank and rank_xendcg",
            ));
        }
    })
}

fn names(header: &Section<'_>, features: usize) -> Result<Vec<String>> {
    let names: Vec<String> = header.get("feature_names")?.split(' ').map(str::to_owned).collect();
    if names.len() != features {
        return Err(header.wrong("feature_names", &format!("has {} names, not {features}", names.len())));
    }
    Ok(names)
}

/// How each feature is looked at, as slots.
#[derive(Default)]
struct Looks {
    slots: Vec<(usize, Look)>,
    known: HashMap<(usize, Look), u32>,
}

impl Looks {
    fn slot(&mut self, feature: usize, look: Look) -> u32 {
        *self.known.entry((feature, look)).or_insert_with(|| {
            self.slots.push((feature, look));
            (self.slots.len() - 1) as u32
        })
    }
}

struct Tree {
    builder: TreeBuilder,
    values: Vec<f64>,
    linear: Option<Vec<LinearLeaf>>,
    /// Training rows of every node; empty when the file does not have them.
    covers: Vec<f64>,
}

const CATEGORICAL: u8 = 1;
const DEFAULT_LEFT: u8 = 2;

/// One tree, whose first leaf gets the number `first`.
fn tree(section: &Section<'_>, features: usize, looks: &mut Looks, first: u32) -> Result<Tree> {
    let leaves: usize = section.number("num_leaves")?;
    if leaves == 0 || leaves > 1 << 24 {
        return Err(section.wrong("num_leaves", "is impossible"));
    }
    let splits = leaves - 1;
    let values: Vec<f64> = section.list("leaf_value", leaves)?;
    let linear = match section.find("is_linear").map(str::trim) {
        None | Some("0") => None,
        Some("1") => Some(linear_leaves(section, features, &values)?),
        Some(_) => return Err(section.wrong("is_linear", "is neither 0 nor 1")),
    };
    // Splits come first, leaves behind them.
    let mut nodes = Vec::with_capacity(splits + leaves);
    if splits > 0 {
        let split_features: Vec<usize> = section.list("split_feature", splits)?;
        let thresholds: Vec<f64> = section.list("threshold", splits)?;
        let decisions: Vec<u8> = section.list("decision_type", splits)?;
        let (left, right): (Vec<i64>, Vec<i64>) =
            (section.list("left_child", splits)?, section.list("right_child", splits)?);
        let mut sets = category_sets(section)?;
        let child = |key: &str, child: i64| -> Result<usize> {
            let (limit, place) = if child < 0 { (leaves as i64, !child) } else { (splits as i64, child) };
            if place >= limit {
                return Err(section.wrong(key, &format!("names the node {child}, which does not exist")));
            }
            Ok(if child < 0 { splits + place as usize } else { place as usize })
        };
        for node in 0..splits {
            let (feature, decision) = (split_features[node], decisions[node]);
            if feature >= features && !cfg!(insightera_planted = "bounds") {
                return Err(section.wrong("split_feature", &format!("names the feature {feature} of {features}")));
            }
            let (look, test, missing_left) = if decision & CATEGORICAL != 0 {
                // Every set belongs to one split: copies would make a large model of a small file.
                let set = (thresholds[node] >= 0.0).then(|| sets.get_mut(thresholds[node] as usize)).flatten();
                let set = set.and_then(Option::take).ok_or_else(|| {
                    section.wrong("threshold", "names a set of categories that is not there, or is another split's")
                })?;
                (Look::Category, Test::In(set.into()), false)
            } else {
                let look = match decision >> 2 {
                    0 => Look::Plain,
                    1 => Look::Zero,
                    2 => Look::Nan,
                    _ => return Err(section.wrong("decision_type", &format!("has the unknown value {decision}"))),
                };
                // Infinity stands for the largest number, see `Look::at`.
                if thresholds[node].is_nan() || thresholds[node] == f64::MAX {
                    return Err(section.wrong("threshold", &format!("has the impossible value {}", thresholds[node])));
                }
                (look, Test::Less(next_up(thresholds[node])), decision & DEFAULT_LEFT != 0)
            };
            nodes.push(NodeBuilder::Split {
                feature: looks.slot(feature, look),
                test,
                missing_left,
                left: child("left_child", left[node])?,
                right: child("right_child", right[node])?,
            });
        }
    }
    nodes.extend((0..leaves as u32).map(|leaf| NodeBuilder::Leaf(first + leaf)));
    let mut covers = Vec::new();
    if splits > 0 && section.find("internal_count").is_some() && section.find("leaf_count").is_some() {
        covers = section.list("internal_count", splits)?;
        covers.extend(section.list::<f64>("leaf_count", leaves)?);
    }
    Ok(Tree { builder: TreeBuilder { nodes }, values, linear, covers })
}

/// The categories that go left, of every categorical split.
fn category_sets(section: &Section<'_>) -> Result<Vec<Option<Vec<u32>>>> {
    let count: usize = match section.find("num_cat") {
        None => 0,
        Some(_) => section.number("num_cat")?,
    };
    if count == 0 {
        return Ok(Vec::new());
    }
    if count > 1 << 24 {
        return Err(section.wrong("num_cat", "is impossible"));
    }
    let boundaries: Vec<usize> = section.list("cat_boundaries", count + 1)?;
    let words = boundaries.last().copied().unwrap_or(0);
    if boundaries[0] != 0 || boundaries.windows(2).any(|pair| pair[0] > pair[1]) || words > MAX_CATEGORIES {
        return Err(section.wrong("cat_boundaries", "does not ascend from 0 to what is supported"));
    }
    let bits: Vec<u32> = section.list("cat_threshold", words)?;
    let set = |pair: &[usize]| -> Option<Vec<u32>> {
        let words = &bits[pair[0]..pair[1]];
        Some((0..words.len() as u32 * 32).filter(|c| words[*c as usize / 32] >> (c % 32) & 1 == 1).collect())
    };
    Ok(boundaries.windows(2).map(set).collect())
}

fn linear_leaves(section: &Section<'_>, features: usize, values: &[f64]) -> Result<Vec<LinearLeaf>> {
    let leaves = values.len();
    let constants: Vec<f64> = section.list("leaf_const", leaves)?;
    let counts: Vec<usize> = section.list("num_features", leaves)?;
    let total: usize = counts.iter().try_fold(0usize, |sum, n| sum.checked_add(*n)).unwrap_or(usize::MAX);
    let used: Vec<usize> = section.list("leaf_features", total)?;
    let coefficients: Vec<f64> = section.list("leaf_coeff", total)?;
    if let Some(feature) = used.iter().find(|feature| **feature >= features) {
        return Err(section.wrong("leaf_features", &format!("names the feature {feature} of {features}")));
    }
    let mut terms = used.into_iter().zip(coefficients);
    let leaf = |((constant, count), instead): ((&f64, &usize), &f64)| LinearLeaf {
        constant: *constant,
        terms: terms.by_ref().take(*count).collect(),
        instead: *instead,
    };
    Ok(constants.iter().zip(&counts).zip(values).map(leaf).collect())
}

/// How the columns of categories are numbered.
fn codes(text: &Text<'_>, features: usize) -> Result<Vec<Codes>> {
    let header = &text.header;
    let infos: Vec<&str> = header.get("feature_infos")?.split_ascii_whitespace().collect();
    if infos.len() != features {
        return Err(header.wrong("feature_infos", &format!("has {} values, not {features}", infos.len())));
    }
    let mut codes: Vec<Codes> = (0..features).map(|_| Codes::Numbers).collect();
    let lists: Option<Vec<Vec<Value>>> = match text.pandas_categorical.map(str::trim) {
        None | Some("" | "null" | "[]") => None,
        Some(json) => Some(
            serde_json::from_str(json)
                .map_err(|e| Error::data(format!("`pandas_categorical` is no list of lists: {e}")))?,
        ),
    };
    let Some(lists) = lists else { return Ok(codes) };
    // LightGBM does not say which features they are: those that it treats as
    // categories, unless one of them has no split at all.
    let categorical: Vec<usize> =
        (0..features).filter(|at| !infos[*at].starts_with('[') && infos[*at] != "none").collect();
    let constant = infos.contains(&"none");
    if lists.len() != categorical.len() {
        let why = if constant { ", since some features are never used" } else { "" };
        return Err(Error::invalid(format!(
            "it numbers the categories of {} columns, and {} features are categories: which are which is not in the file{why}",
            lists.len(),
            categorical.len()
        ))
        .with_hint("train it without the columns that are constant, or on numbers instead of pandas categories"));
    }
    for (feature, list) in categorical.into_iter().zip(lists) {
        if list.iter().all(Value::is_string) {
            let numbered = list.iter().enumerate().filter_map(|(code, v)| Some((v.as_str()?.to_owned(), code as f64)));
            codes[feature] = Codes::Texts(numbered.collect());
        } else if list.iter().all(Value::is_number) {
            let numbered =
                list.iter().enumerate().filter_map(|(code, v)| Some(((v.as_f64()? + 0.0).to_bits(), code as f64)));
            codes[feature] = Codes::Renumbered(numbered.collect());
        } else {
            return Err(Error::invalid("its pandas categories are neither all strings nor all numbers")
                .with_hint("train it on strings or on numbers"));
        }
    }
    Ok(codes)
}
