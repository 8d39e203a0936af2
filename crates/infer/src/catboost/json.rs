//! The JSON form.

use std::collections::HashMap;

use super::parts::{
    CategoryPart, ElementPart, NodePart, NumberPart, OneHotPart, Parts, StatisticKind, StatisticPart, TablePart,
    TreePart,
};
use crate::document::Document;
use crate::error::{Error, Result};

/// Reads a model.
pub fn parse(bytes: &[u8]) -> Result<Parts> {
    let document = crate::json::parse(bytes).map_err(|e| Error::data(format!("it is no readable JSON: {e}")))?;
    let info = document.field("features_info")?;
    for (name, what) in
        [("text_features", "text"), ("embedding_features", "embedding"), ("estimated_features", "estimated")]
    {
        if items(info, name)?.is_some_and(|list| !list.is_empty()) {
            return Err(Error::invalid(format!("it has {what} features, which are not supported"))
                .with_hint("train without them"));
        }
    }
    let mut parts = Parts { scale: 1.0, ..Parts::default() };
    for feature in items(info, "float_features")?.unwrap_or_default() {
        parts.numbers.push(number(feature)?);
    }
    for feature in items(info, "categorical_features")?.unwrap_or_default() {
        let index = integer(feature, "feature_index")?;
        parts.categories.push(CategoryPart {
            index,
            flat: integer(feature, "flat_feature_index")?,
            name: name(feature),
        });
        if feature.get("values").is_some() {
            let values = feature.numbers("values")?.iter().map(|value| hash(*value)).collect::<Result<_>>()?;
            parts.one_hot.push(OneHotPart { category: index, values });
        }
    }
    for feature in items(info, "ctrs")?.unwrap_or_default() {
        parts.statistics.push(statistic(feature)?);
    }
    if let Some(Document::Map(tables)) = document.get("ctr_data") {
        for (key, source) in tables {
            parts.tables.insert(key.clone(), table(source)?);
        }
    }
    trees(&document, &mut parts)?;
    scale_and_bias(&document, &mut parts)?;
    if let Some(Document::Map(notes)) = document.get("model_info") {
        parts.notes = notes.iter().map(|(key, value)| (key.clone(), text(value))).collect();
    }
    Ok(parts)
}

/// A note as text; JSON is written again.
fn text(value: &Document) -> String {
    match value {
        Document::Text(text) => text.clone(),
        other => plain(other).to_string(),
    }
}

fn plain(value: &Document) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Document::Null => Value::Null,
        Document::Number(number) if number.fract() == 0.0 && number.abs() < 9e15 => Value::from(*number as i64),
        Document::Number(number) => Value::from(*number),
        Document::Text(text) => Value::from(text.as_str()),
        Document::List(items) => items.iter().map(plain).collect(),
        list @ (Document::Numbers(_) | Document::Singles(_) | Document::Integers(_) | Document::Bytes(_)) => {
            list.as_numbers().iter().flat_map(|numbers| numbers.iter()).map(|n| plain(&Document::Number(*n))).collect()
        }
        Document::Map(entries) => {
            Value::Object(entries.iter().map(|(key, value)| (key.clone(), plain(value))).collect())
        }
    }
}

fn items<'a>(of: &'a Document, name: &str) -> Result<Option<&'a [Document]>> {
    match of.get(name) {
        None | Some(Document::Null) => Ok(None),
        Some(list) => list.items().map(Some).ok_or_else(|| Error::data(format!("`{name}` is no list"))),
    }
}

fn integer(of: &Document, name: &str) -> Result<i64> {
    let found = of.field(name)?.number().filter(|n| n.fract() == 0.0 && n.abs() < 1e15);
    found.map(|n| n as i64).ok_or_else(|| Error::data(format!("`{name}` is no whole number")))
}

fn single(of: &Document, name: &str) -> Result<f32> {
    of.field(name)?.number().map(|n| n as f32).ok_or_else(|| Error::data(format!("`{name}` is no number")))
}

fn name(feature: &Document) -> String {
    let found = ["feature_name", "feature_id"].iter().find_map(|key| feature.get(key)?.text());
    found.unwrap_or_default().to_owned()
}

/// A hash, which is written as a signed number.
fn hash(value: f64) -> Result<u32> {
    let good = value.fract() == 0.0 && (-2_147_483_648.0..4_294_967_296.0).contains(&value);
    if good { Ok(value as i64 as u32) } else { Err(Error::data(format!("`{value}` is no hash of a category"))) }
}

fn number(feature: &Document) -> Result<NumberPart> {
    let nan = feature.get("has_nans").and_then(Document::number).is_some_and(|n| n != 0.0);
    let missing_high = match feature.get("nan_value_treatment").and_then(Document::text) {
        None | Some("AsIs" | "AsFalse") => false,
        Some("AsTrue") => nan,
        Some(other) => return Err(Error::invalid(format!("the `nan_value_treatment` `{other}` is not supported"))),
    };
    Ok(NumberPart {
        index: integer(feature, "feature_index")?,
        flat: integer(feature, "flat_feature_index")?,
        name: name(feature),
        borders: borders(feature)?,
        missing_high,
    })
}

fn borders(feature: &Document) -> Result<Vec<f32>> {
    Ok(feature.numbers("borders")?.iter().map(|border| *border as f32).collect())
}

fn statistic(feature: &Document) -> Result<StatisticPart> {
    let kind = feature.field("ctr_type")?.text().unwrap_or_default();
    let kind = StatisticKind::named(kind)
        .ok_or_else(|| Error::invalid(format!("the kind `{kind}` of category statistics (CTR) is unknown")))?;
    let elements = items(feature, "elements")?.unwrap_or_default().iter().map(|element| {
        Ok(match element.field("combination_element")?.text() {
            Some("cat_feature_value") => ElementPart::Category(integer(element, "cat_feature_index")?),
            Some("float_feature") => {
                ElementPart::Above(integer(element, "float_feature_index")?, single(element, "border")?)
            }
            Some("cat_feature_exact_value") => {
                let value = element.field("value")?.number().unwrap_or(f64::NAN);
                ElementPart::Is(integer(element, "cat_feature_index")?, hash(value)?)
            }
            other => return Err(Error::invalid(format!("the `combination_element` {other:?} is not supported"))),
        })
    });
    Ok(StatisticPart {
        elements: elements.collect::<Result<_>>()?,
        kind,
        target: integer(feature, "target_border_idx")?,
        // Their spelling.
        prior: (single(feature, "prior_numerator")?, single(feature, "prior_denomerator")?),
        shift: single(feature, "shift")?,
        scale: single(feature, "scale")?,
        borders: borders(feature)?,
        table: feature.field("identifier")?.text().unwrap_or_default().to_owned(),
    })
}

/// A table is one list: a hash as text, then its counts.
fn table(source: &Document) -> Result<TablePart> {
    let stride = source.count("hash_stride")?;
    let list = source.field("hash_map")?.items().ok_or_else(|| Error::data("`hash_map` is no list"))?;
    if stride < 2 || list.len() % stride != 0 {
        return Err(Error::data(format!("`hash_map` does not consist of groups of {stride}")));
    }
    let mut part =
        TablePart { width: stride - 1, total: integer(source, "counter_denominator")?, ..TablePart::default() };
    for group in list.chunks_exact(stride) {
        let hash: u64 = group[0]
            .text()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Error::data("a hash in `hash_map` is no number in text"))?;
        if hash == u64::MAX {
            continue;
        }
        part.rows.insert(hash, part.counts.len() / part.width);
        for count in &group[1..] {
            part.counts.push(count.number().ok_or_else(|| Error::data("a count in `hash_map` is no number"))?);
        }
    }
    Ok(part)
}

fn trees(document: &Document, parts: &mut Parts) -> Result<()> {
    if let Some(list) = items(document, "oblivious_trees")? {
        for (at, tree) in list.iter().enumerate() {
            let within = |e: Error| e.within(&format!("tree {at}"));
            let splits = items(tree, "splits").map_err(within)?.unwrap_or_default();
            let splits = splits.iter().map(|split| integer(split, "split_index")).collect::<Result<Vec<i64>>>();
            let (splits, leaves) = (splits.map_err(within)?, tree.numbers("leaf_values").map_err(within)?.to_vec());
            if at == 0 {
                parts.outputs = leaves.len() >> splits.len().min(63);
            }
            let weights = match tree.get("leaf_weights") {
                Some(_) => tree.numbers("leaf_weights").map_err(within)?.to_vec(),
                None => Vec::new(),
            };
            parts.trees.push(TreePart::Levels { splits, leaves, weights });
        }
        return Ok(());
    }
    let Some(list) = items(document, "trees")? else {
        return Err(Error::data("it has neither `oblivious_trees` nor `trees`"));
    };
    for (at, root) in list.iter().enumerate() {
        let (mut nodes, mut leaves, mut weights) = (vec![NodePart::Leaf(0)], Vec::new(), Vec::new());
        let mut open = vec![(0usize, root)];
        while let Some((place, source)) = open.pop() {
            match source.get("value") {
                Some(value) => {
                    let before = leaves.len();
                    match value {
                        Document::Number(number) => leaves.push(*number),
                        Document::Numbers(numbers) => leaves.extend_from_slice(numbers),
                        _ => return Err(Error::data(format!("tree {at}: a leaf's `value` is no number"))),
                    }
                    if parts.outputs == 0 {
                        parts.outputs = leaves.len();
                    }
                    if leaves.len() - before != parts.outputs || parts.outputs == 0 {
                        return Err(Error::data(format!("tree {at}: leaves have different numbers of values")));
                    }
                    weights.extend(source.get("weight").and_then(Document::number));
                    nodes[place] = NodePart::Leaf(before / parts.outputs);
                }
                None => {
                    let within = |e: Error| e.within(&format!("tree {at}"));
                    let split =
                        source.field("split").and_then(|split| integer(split, "split_index")).map_err(within)?;
                    let (left, right) = (nodes.len(), nodes.len() + 1);
                    nodes[place] = NodePart::Split(split, left, right);
                    nodes.extend([NodePart::Leaf(0); 2]);
                    open.push((left, source.field("left").map_err(within)?));
                    open.push((right, source.field("right").map_err(within)?));
                }
            }
        }
        parts.trees.push(TreePart::Nodes { nodes, leaves, weights });
    }
    Ok(())
}

/// `[scale, bias]`, the bias a number or a list.
fn scale_and_bias(document: &Document, parts: &mut Parts) -> Result<()> {
    let wrong = || Error::data("`scale_and_bias` is no pair of numbers");
    parts.bias = vec![0.0; parts.outputs];
    match document.get("scale_and_bias") {
        None => {}
        Some(Document::Numbers(pair)) if pair.len() == 2 => {
            parts.scale = pair[0];
            parts.bias = vec![pair[1]; parts.outputs];
        }
        Some(Document::List(pair)) if pair.len() == 2 => {
            parts.scale = pair[0].number().ok_or_else(wrong)?;
            let Document::Numbers(bias) = &pair[1] else { return Err(wrong()) };
            parts.bias = if bias.is_empty() { vec![0.0; parts.outputs] } else { bias.clone() };
        }
        Some(_) => return Err(wrong()),
    }
    Ok(())
}

/// The notes' JSON, of either format.
pub fn note(notes: &HashMap<String, String>, key: &str) -> Result<Option<Document>> {
    let Some(text) = notes.get(key) else { return Ok(None) };
    let parsed = crate::json::parse(text.as_bytes());
    parsed.map(Some).map_err(|e| Error::data(format!("its note `{key}` is no readable JSON: {e}")))
}
