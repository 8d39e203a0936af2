//! One XGBoost tree, from its parallel lists.

use std::borrow::Cow;

use crate::document::Document;
use crate::error::{Error, Result};
use crate::forest::{NodeBuilder, Test, TreeBuilder};

/// How many values a leaf of this tree has.
pub fn leaf_width(source: &Document) -> usize {
    let width = source.get("tree_param").and_then(|p| p.get("size_leaf_vector")).and_then(Document::number);
    width.map_or(1, |width| (width as usize).max(1))
}

/// Builds a tree; leaf values, times `weight`, go behind `values`, `width` of
/// them a leaf.
pub fn build(source: &Document, weight: f32, width: usize, values: &mut Vec<f32>) -> Result<TreeBuilder> {
    if leaf_width(source) != width {
        return Err(Error::invalid(format!("its leaves have {} values and others {width}", leaf_width(source))));
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
    let types = if source.get("split_type").is_some() { source.numbers("split_type")? } else { Cow::default() };
    let vectors = if width > 1 { Some(Vectors::of(source)?) } else { None };
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
                match &vectors {
                    Some(all) => {
                        values.extend(all.vector(at, right[at], n, width)?.iter().map(|value| *value as f32));
                    }
                    None => values.push(conditions[at] as f32 * weight),
                }
                return Ok(NodeBuilder::Leaf((values.len() / width) as u32 - 1));
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
                    test: Test::In(set.into()),
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
    source.numbers("sum_hessian").map(Cow::into_owned).unwrap_or_default()
}

/// The values of leaves that have several: since 3.1 a leaf's right child is its
/// number among the leaves' values, before they stood among those of all nodes.
struct Vectors<'a> {
    list: Cow<'a, [f64]>,
    of_leaves: bool,
}

impl<'a> Vectors<'a> {
    fn of(source: &'a Document) -> Result<Self> {
        let of_leaves = source.get("leaf_weights").is_some();
        let list = source.numbers(if of_leaves { "leaf_weights" } else { "base_weights" })?;
        Ok(Self { list, of_leaves })
    }

    fn vector(&self, at: usize, right: f64, nodes: usize, width: usize) -> Result<&[f64]> {
        let place = if self.of_leaves { right } else { at as f64 };
        let place = (place >= 0.0 && place < nodes as f64).then_some(place as usize * width);
        let found = place.and_then(|from| self.list.get(from..from + width));
        found.ok_or_else(|| Error::data(format!("the leaf {at} has no values")))
    }
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
