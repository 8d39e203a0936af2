//! One XGBoost tree, from its parallel lists.

use serde_json::Value;

use super::{field, numbers};
use crate::error::{Error, Result};
use crate::forest::{NodeBuilder, Test, TreeBuilder};

/// Builds a tree; leaf values, times `weight`, go behind `values`.
pub fn build(source: &Value, weight: f32, values: &mut Vec<f32>) -> Result<TreeBuilder> {
    let left = numbers(source, "left_children")?;
    let right = numbers(source, "right_children")?;
    let features = numbers(source, "split_indices")?;
    let conditions = numbers(source, "split_conditions")?;
    let default_left = numbers(source, "default_left")?;
    let n = left.len();
    if n == 0 || [right.len(), features.len(), conditions.len(), default_left.len()].iter().any(|len| *len != n) {
        return Err(Error::data("its lists have different lengths"));
    }
    if source
        .get("tree_param")
        .and_then(|p| p.get("size_leaf_vector"))
        .and_then(super::as_number)
        .is_some_and(|n| n > 1.0)
    {
        return Err(Error::invalid("leaves that hold vectors are not supported"));
    }
    let types = if source.get("split_type").is_some() { numbers(source, "split_type")? } else { Vec::new() };
    let categories = categories(source, n)?;
    let index = |value: f64, what: &str| {
        if value >= 0.0 && value < n as f64 {
            Ok(value as usize)
        } else {
            Err(Error::data(format!("a {what} child is out of range")))
        }
    };
    let nodes = (0..n)
        .map(|at| {
            // Deleted nodes keep their place; nothing leads to them.
            if left[at] < 0.0 {
                values.push(conditions[at] as f32 * weight);
                return Ok(NodeBuilder::Leaf(values.len() as u32 - 1));
            }
            let (l, r) = (index(left[at], "left")?, index(right[at], "right")?);
            let feature = u32::try_from(features[at] as i64).map_err(|_| Error::data("a feature is out of range"))?;
            let to_left = default_left[at] != 0.0;
            if types.get(at).is_some_and(|t| *t == 1.0) {
                // XGBoost sends the categories of the set to the right.
                let set =
                    categories.iter().find(|(node, _)| *node == at).map(|(_, set)| set.clone()).unwrap_or_default();
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

fn categories(source: &Value, n: usize) -> Result<Vec<(usize, Vec<u32>)>> {
    if field(source, "categories_nodes").is_err() {
        return Ok(Vec::new());
    }
    let nodes = numbers(source, "categories_nodes")?;
    let segments = numbers(source, "categories_segments")?;
    let sizes = numbers(source, "categories_sizes")?;
    let all = numbers(source, "categories")?;
    if segments.len() != nodes.len() || sizes.len() != nodes.len() {
        return Err(Error::data("its category lists have different lengths"));
    }
    (0..nodes.len())
        .map(|i| {
            let (from, count) = (segments[i] as usize, sizes[i] as usize);
            let set = from.checked_add(count).and_then(|to| all.get(from..to));
            let set = set.filter(|_| nodes[i] >= 0.0 && nodes[i] < n as f64);
            let set = set.ok_or_else(|| Error::data("its categories are out of range"))?;
            Ok((nodes[i] as usize, set.iter().map(|c| *c as u32).collect()))
        })
        .collect()
}
