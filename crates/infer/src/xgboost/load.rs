//! From a file to a model, with every part checked.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::linear::Linear;
use super::{Booster, Column, Transform, XgboostModel, tree, ubjson};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::explain::{Explainer, Source};
use crate::forest::{Ensemble, Leaves};
use crate::json;
use crate::model::{Description, Input, InputKind, Model, Signature};

/// What a tree has besides, and nothing here looks at.
const UNUSED: &[&str] = &["loss_changes", "parents"];

/// Loads a model from the bytes of one file.
pub fn load(name: &str, bytes: &[u8]) -> Result<Arc<dyn Model>> {
    let damaged = |what: String| Error::data(format!("`{name}` is not a readable XGBoost model: {what}"));
    // After the brace UBJSON has a type marker, JSON a quote or a space.
    let text = bytes.first() != Some(&b'{')
        || bytes.get(1).is_none_or(|b| matches!(b, b'"' | b' ' | b'\n' | b'\r' | b'\t' | b'}'));
    let document: Document =
        if text { json::parse_without(bytes, UNUSED) } else { ubjson::parse(bytes, UNUSED) }.map_err(damaged)?;
    let model = build(&document).map_err(|error| error.within(&format!("`{name}`")))?;
    Ok(Arc::new(model))
}

fn build(document: &Document) -> Result<XgboostModel> {
    let learner = document.get("learner").ok_or_else(|| {
        Error::invalid("it is no XGBoost model: it has no `learner`")
            .with_hint("save it with `save_model(\"model.json\")`")
    })?;
    let parameters = learner.field("learner_model_param")?;
    let features = parameters.count("num_feature")?;
    let classes = parameters.count("num_class")?.max(1);
    let targets = parameters.get("num_target").map_or(Ok(1), |_| parameters.count("num_target"))?.max(1);
    let outputs = classes.max(targets);
    let objective = learner.field("objective")?.field("name")?.text().unwrap_or_default().to_owned();
    let (transform, link) = objective_of(&objective)?;
    if (transform == Transform::Softmax) != (classes > 1) {
        return Err(Error::data(format!("the objective `{objective}` does not go with {classes} classes")));
    }
    if targets > 1 && (transform != Transform::Identity || classes > 1) {
        return Err(Error::invalid(format!(
            "it predicts {targets} targets with `{objective}`, which is not supported"
        ))
        .with_hint("train one model per target"));
    }
    if outputs > 1 << 20 {
        return Err(Error::data(format!("it has {outputs} outputs")));
    }
    // Before anything is made for every feature: their number is bounded here.
    let names = feature_names(learner, features)?;
    let source = learner.field("gradient_booster")?;
    let (booster, columns) = if source.field("name")?.text() == Some("gblinear") {
        let linear = Linear::new(source.field("model")?, features, outputs)?;
        (Booster::Linear(linear), (0..features).map(|_| Column::Numbers).collect())
    } else {
        let (model, weights) = tree_model(source)?;
        let (forest, explainer) = forest(learner, model, weights.as_deref(), features, outputs)?;
        (Booster::Trees { forest: Box::new(forest), explainer: Box::new(explainer) }, columns(model, features)?)
    };
    if listed_names(learner).1 {
        return Err(Error::data("`feature_names` is no list of texts"));
    }
    let base = base_margin(parameters, outputs, link)?;
    let classifier = matches!(transform, Transform::Softmax | Transform::Hinge) || objective.starts_with("binary:");
    let labels: Vec<String> =
        if classifier { (0..classes.max(2)).map(|i| i.to_string()).collect() } else { Vec::new() };
    let description = Description {
        flavor: "xgboost".into(),
        objective,
        labels: labels.clone(),
        ..match &booster {
            Booster::Trees { forest, .. } => Description {
                trees: forest.trees(),
                nodes: forest.node_count(),
                max_depth: forest.max_depth(),
                ..Description::default()
            },
            Booster::Linear(_) => Description::default(),
        }
    };
    let kind = |column: &Column| match column {
        Column::Texts(_) => InputKind::Categorical,
        Column::Numbers | Column::NumberLabels(_) => InputKind::Numeric,
    };
    let inputs = names.into_iter().zip(&columns).map(|(name, column)| Input { name, kind: kind(column) }).collect();
    let signature = Signature { inputs };
    let labels = labels.into();
    Ok(XgboostModel { booster, columns, base, transform, classifier, labels, description, signature })
}

/// The trees that score, as many as `used_trees` says.
fn forest(
    learner: &Document,
    model: &Document,
    weights: Option<&[f64]>,
    features: usize,
    outputs: usize,
) -> Result<(Ensemble<f32, f32>, Explainer)> {
    let trees = model.field("trees")?.items().ok_or_else(|| Error::data("`trees` is no list"))?;
    if trees.is_empty() {
        // XGBoost itself scores such a model without its base score's link.
        return Err(Error::invalid("it has no trees").with_hint("train it for at least one round"));
    }
    let info = model.numbers("tree_info")?;
    let used = used_trees(learner, model, trees.len(), outputs)?;
    let width = tree::leaf_width(&trees[0]);
    if width > 1 && (width != outputs || weights.is_some()) {
        return Err(Error::invalid(format!(
            "leaves of {width} values do not go with {outputs} outputs of this booster"
        )));
    }
    // Every round adds a tree an output, so a small file has few outputs.
    if width == 1 && outputs > trees.len() {
        return Err(Error::data(format!("it has {outputs} outputs, with {} trees in all", trees.len())));
    }
    let mut values = Vec::new();
    let mut built = Vec::with_capacity(used);
    for (index, source) in trees.iter().take(used).enumerate() {
        let weight = weights.map_or(Some(1.0), |w| w.get(index).copied());
        let weight = weight.ok_or_else(|| Error::data("`weight_drop` is shorter than the trees"))?;
        let tree = tree::build(source, weight as f32, width, &mut values);
        built.push(tree.map_err(|e| e.within(&format!("tree {index}")))?);
    }
    let groups = if width > 1 {
        Vec::new()
    } else {
        let group = |tree: usize| match info.get(tree) {
            Some(group) if *group >= 0.0 && *group < outputs as f64 => Ok(*group as u32),
            _ => Err(Error::data(format!("tree {tree} belongs to no class"))),
        };
        (0..used).map(group).collect::<Result<Vec<u32>>>()?
    };
    let wide: Vec<f64> = values.iter().copied().map(f64::from).collect();
    let leaves =
        if width > 1 { Leaves::vectors(values, width) } else { Leaves::grouped(values, groups.clone(), outputs) };
    let built = Arc::new(built);
    let forest = Ensemble::new(&built, features, leaves)?;
    let explainer = Explainer::new(Source {
        trees: built,
        covers: trees.iter().take(used).map(tree::covers).collect(),
        values: wide,
        width,
        groups,
        outputs,
        players: (0..features as u32).collect(),
        targets: (0..features as u32).collect(),
        columns: features,
    });
    Ok((forest, explainer))
}

/// How a base score becomes a margin.
#[derive(Debug, Clone, Copy)]
enum Link {
    Identity,
    Logit,
    Log,
}

fn objective_of(name: &str) -> Result<(Transform, Link)> {
    Ok(match name {
        "binary:logistic" | "reg:logistic" => (Transform::Sigmoid, Link::Logit),
        "binary:logitraw" => (Transform::Identity, Link::Identity),
        "binary:hinge" => (Transform::Hinge, Link::Identity),
        "multi:softprob" | "multi:softmax" => (Transform::Softmax, Link::Identity),
        "count:poisson" | "reg:gamma" | "reg:tweedie" | "survival:cox" | "survival:aft" => (Transform::Exp, Link::Log),
        "reg:squarederror"
        | "reg:squaredlogerror"
        | "reg:pseudohubererror"
        | "reg:absoluteerror"
        | "reg:quantileerror"
        | "reg:linear"
        | "rank:pairwise"
        | "rank:ndcg"
        | "rank:map" => (Transform::Identity, Link::Identity),
        other => {
            return Err(Error::invalid(format!("the objective `{other}` is not supported")).with_hint(
                "supported are binary:*, multi:*, reg:*, rank:*, count:poisson, survival:cox and survival:aft",
            ));
        }
    })
}

/// The tree model inside the booster, and DART's weights.
fn tree_model(booster: &Document) -> Result<(&Document, Option<Cow<'_, [f64]>>)> {
    match booster.field("name")?.text() {
        Some("gbtree") => Ok((booster.field("model")?, None)),
        Some("dart") => Ok((booster.field("gbtree")?.field("model")?, Some(booster.numbers("weight_drop")?))),
        other => Err(Error::invalid(format!("the booster `{}` is not supported", other.unwrap_or("?")))
            .with_hint("supported are gbtree, dart and gblinear")),
    }
}

/// How many trees score: see the module's head.
fn used_trees(learner: &Document, model: &Document, trees: usize, classes: usize) -> Result<usize> {
    let attributes = learner.get("attributes");
    let attribute = |name: &str| attributes.and_then(|a| a.get(name)).and_then(Document::text);
    let (Some(_), Some(best)) = (attribute("scikit_learn"), attribute("best_iteration")) else { return Ok(trees) };
    let best = best.parse::<u32>().map_err(|_| Error::data("`best_iteration` is no number"))? as usize;
    if let Some(end) = model.numbers("iteration_indptr").ok().and_then(|ends| ends.get(best + 1).copied()) {
        return Ok((end as usize).min(trees));
    }
    let parallel = model.get("gbtree_model_param").and_then(|p| p.count("num_parallel_tree").ok()).unwrap_or(1).max(1);
    Ok((best + 1).saturating_mul(classes).saturating_mul(parallel).min(trees))
}

/// The texts among `feature_names`, and whether there is anything else.
fn listed_names(learner: &Document) -> (Vec<String>, bool) {
    match learner.get("feature_names") {
        None | Some(Document::Null) => (Vec::new(), false),
        Some(list) => {
            let items = list.items();
            let texts: Vec<String> =
                items.unwrap_or_default().iter().filter_map(Document::text).map(str::to_owned).collect();
            let others = items.is_none_or(|items| items.len() > texts.len());
            (texts, others)
        }
    }
}

/// The names of the features; a model without names wants `f0`, `f1`, ...
fn feature_names(learner: &Document, features: usize) -> Result<Vec<String>> {
    let (names, _) = listed_names(learner);
    match names.len() {
        0 if features < 1_000_000 => Ok((0..features).map(|i| format!("f{i}")).collect()),
        n if n == features => Ok(names),
        n => Err(Error::data(format!("{n} feature names for {features} features"))),
    }
}

/// What each feature's column holds. Since 3.1 a model that was trained on a
/// data frame with categories knows them; before, rows bring their codes.
fn columns(model: &Document, features: usize) -> Result<Vec<Column>> {
    let encodings = model.get("cats").and_then(|c| c.get("enc")).and_then(Document::items).unwrap_or_default();
    if encodings.is_empty() {
        return Ok((0..features).map(|_| Column::Numbers).collect());
    }
    if encodings.len() != features {
        return Err(Error::data(format!("{} category lists for {features} features", encodings.len())));
    }
    let column = |encoding: &Document| -> Result<Column> {
        let values = encoding.numbers("values")?;
        let Some(offsets) = encoding.get("offsets") else {
            let codes = values.iter().enumerate().map(|(code, value)| (value.to_bits(), code as f32));
            return Ok(Column::NumberLabels(codes.collect()));
        };
        if offsets.items().is_some_and(<[Document]>::is_empty) {
            return Ok(Column::Numbers);
        }
        let bytes: Vec<u8> = values.iter().map(|b| *b as i8 as u8).collect();
        let mut labels = HashMap::new();
        for (code, ends) in encoding.numbers("offsets")?.windows(2).enumerate() {
            let text = bytes.get(ends[0] as usize..ends[1] as usize).and_then(|b| std::str::from_utf8(b).ok());
            let text = text.ok_or_else(|| Error::data("a category is no text"))?;
            labels.insert(text.to_owned(), code as f32);
        }
        Ok(Column::Texts(labels))
    };
    encodings.iter().map(column).collect()
}

/// The base score of every class as a margin, in single precision. It is a
/// number in text, since 3.1 a list of numbers in text.
fn base_margin(parameters: &Document, classes: usize, link: Link) -> Result<Vec<f32>> {
    let scores: Vec<f32> = match parameters.field("base_score")? {
        Document::Text(text) => text
            .trim_matches(|c| matches!(c, '[' | ']'))
            .split(',')
            .map(|part| part.trim().parse::<f32>())
            .collect::<Result<_, _>>()
            .map_err(|_| Error::data(format!("`base_score` is `{text}`")))?,
        Document::Numbers(list) => list.iter().map(|v| *v as f32).collect(),
        other => vec![other.number().ok_or_else(|| Error::data("`base_score` is no number"))? as f32],
    };
    let margins = scores.iter().map(|score| match link {
        Link::Logit => -(1.0 / score - 1.0).ln(),
        Link::Log => score.ln(),
        Link::Identity => *score,
    });
    let margins: Vec<f32> = margins.collect();
    if margins.iter().any(|m| m.is_nan()) {
        return Err(Error::data(format!("the base score {} is out of the objective's range", scores[0])));
    }
    match margins.len() {
        1 if classes <= 1_000_000 => Ok(vec![margins[0]; classes]),
        n if n == classes => Ok(margins),
        n => Err(Error::data(format!("{n} base scores for {classes} classes"))),
    }
}
