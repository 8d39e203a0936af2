//! One XGBoost tree, from its parallel lists.

use super::document::Document;
use crate::error::{Error, Result};
use crate::forest::{NodeBuilder, Test, TreeBuilder};

/// Builds a tree; leaf values, times `weight`, go behind `values`.
pub fn build(source: &Document, weight: f32, values: &mut Vec<f32>) -> Result<TreeBuilder> {
    let leaf_width = source.get("tree_param").and_then(|p| p.get("size_leaf_vector")).and_then(Document::number);
    if leaf_width.is_some_and(|n| n > 1.0) {
        return Err(Error::invalid("its leaves hold vectors, which is not supported")
            .with_hint("train with multi_strategy = \"one_output_per_tree\""));
    }
    let left = source.numbers("left_children")?;
    let right = source.numbers("right_children")?;
    let features = source.numbers("split_indices")?;
    let conditions = source.numbers("split_conditions")?;
    let default_left = source.numbers("default_left")?;
    let n = left.len();
    if n == 0 || [right.len(), features.len(), conditions.len(), default_left.len()].iter().any(|len| *len != n) {
        return Err(Error::data("its lists have different lengths"));
    }
    let types = if source.get("split_type").is_some() { source.numbers("split_type")? } else { &[] };
    let categories = categories(source, n)?;
    let index = |value: f64, side: &str, at: usize| {
        let good = value >= 0.0 && value < n as f64 && value.fract() == 0.0;
        if good {
            Ok(value as usize)
        } else {
            Err(Error::data(format!("the {side} child of node {at} is out of range")))
        }
    };
    let nodes = (0..n)
        .map(|at| {
            // Deleted nodes keep their place; nothing leads to them.
            if left[at] == -1.0 {
                values.push(conditions[at] as f32 * weight);
                return Ok(NodeBuilder::Leaf(values.len() as u32 - 1));
            }
            let (l, r) = (index(left[at], "left", at)?, index(right[at], "right", at)?);
            if !(features[at] >= 0.0 && features[at] < 1e9) {
                return Err(Error::data(format!("the feature of node {at} is out of range")));
            }
            let (feature, to_left) = (features[at] as u32, default_left[at] != 0.0);
            if types.get(at).is_some_and(|t| *t == 1.0) {
                // The categories of the set go right, all others left.
                let set = categories.binary_search_by_key(&at, |(node, _)| *node).ok().map(|i| categories[i].1.clone());
                let set = set.ok_or_else(|| Error::data(format!("node {at} has no categories")))?;
                return Ok(NodeBuilder::Split {
                    feature,
                    test: Test::In(set),
                    missing_left: !to_left,
                    left: r,
                    right: l,
                });
            }
            let threshold = f64::from(conditions[at] as f32);
            Ok(NodeBuilder::Split { feature, test: Test::Less(threshold), missing_left: to_left, left: l, right: r })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(TreeBuilder { nodes })
}

/// The weight of the training rows that reached every node; empty when the
/// file does not have it.
pub fn covers(source: &Document) -> Vec<f64> {
    source.numbers("sum_hessian").map(<[f64]>::to_vec).unwrap_or_default()
}

/// The category sets, by node.
fn categories(source: &Document, n: usize) -> Result<Vec<(usize, Vec<u32>)>> {
    if source.get("categories_nodes").is_none() {
        return Ok(Vec::new());
    }
    let nodes = source.numbers("categories_nodes")?;
    let segments = source.numbers("categories_segments")?;
    let sizes = source.numbers("categories_sizes")?;
    let all = source.numbers("categories")?;
    if segments.len() != nodes.len() || sizes.len() != nodes.len() {
        return Err(Error::data("its category lists have different lengths"));
    }
    let mut used = 0usize;
    let mut sets = (0..nodes.len())
        .map(|i| {
            let (from, count) = (segments[i] as usize, sizes[i] as usize);
            used = used.saturating_add(count);
            let set = from.checked_add(count).and_then(|to| all.get(from..to));
            // Segments do not overlap, so a small file cannot ask for much.
            let set = set.filter(|_| used <= all.len() && nodes[i] >= 0.0 && nodes[i] < n as f64);
            let set = set.ok_or_else(|| Error::data("its categories are out of range"))?;
            if !set.iter().all(|c| *c >= 0.0 && *c < 16_777_216.0) {
                return Err(Error::data("a category is out of range"));
            }
            Ok((nodes[i] as usize, set.iter().map(|c| *c as u32).collect()))
        })
        .collect::<Result<Vec<_>>>()?;
    sets.sort_by_key(|(node, _)| *node);
    Ok(sets)
}
