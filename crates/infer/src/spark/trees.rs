//! Spark's tree ensembles.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};

use super::explain::Slot;
use super::head::Function;
use super::store::{self, Folder};
use super::vectors::Vectors;
use crate::error::{Error, Result};
use crate::explain::{Explainer, Source};
use crate::forest::{Ensemble, Leaves, NodeBuilder, Test, TreeBuilder, next_up};
use crate::model::Description;

/// Categories of a split at most.
const MAX_CATEGORIES: i64 = 1 << 20;

/// A tree ensemble.
#[derive(Debug)]
pub struct Trees {
    forest: Ensemble<f64, f64>,
    explainer: Box<Explainer>,
    outputs: usize,
    /// The sum is divided by the number of trees.
    mean: bool,
}

impl Trees {
    /// Loads the trees of a model of this class over `width` features; with
    /// `shares` a leaf holds a number per class, else one prediction.
    pub fn load(class: &str, width: usize, shares: bool, folder: &Folder<'_>) -> Result<Self> {
        let single = class.starts_with("DecisionTree");
        let nodes = nodes(&folder.rows("data")?, single)?;
        let trees = nodes.last().map_or(0, |n| n.tree + 1);
        let weights = if single { Vec::new() } else { weights(&folder.rows("treesMetadata")?, trees)? };
        // Spark ignores the weights of forests, which are all 1.
        let boosted = class.starts_with("GBT");
        let mean = !boosted && !shares && !single;
        let stride = if shares { nodes.first().map_or(0, |n| n.stats.len()) } else { 1 };
        if stride == 0 {
            return Err(Error::data(format!("{class} has no classes")));
        }
        // A forest adds the shares of its trees, a tree alone gives its counts.
        let leaves = if !shares {
            Leaf::Prediction
        } else if single {
            Leaf::Counts
        } else {
            Leaf::Shares
        };
        let mut values = Vec::new();
        let mut builders: Vec<TreeBuilder> = (0..trees).map(|_| TreeBuilder::default()).collect();
        let mut covers: Vec<Vec<f64>> = vec![Vec::new(); trees];
        for node in nodes {
            // Statistics are counts by class, else the count, the sum and the sum of squares.
            let counts = if shares { &node.stats[..] } else { &node.stats[..node.stats.len().min(1)] };
            covers[node.tree].push(if counts.is_empty() { f64::NAN } else { counts.iter().sum() });
            let weight = if boosted { weights[node.tree] } else { 1.0 };
            builders[node.tree].nodes.push(node.build(leaves, stride, weight, &mut values)?);
        }
        if builders.is_empty() || builders.iter().any(|b| b.nodes.is_empty()) {
            return Err(Error::data(format!("{class} lacks trees")));
        }
        let explained = explained(&values, stride, shares, if boosted { 1.0 } else { trees as f64 });
        let leaves = if stride == 1 { Leaves::single(values) } else { Leaves::vectors(values, stride) };
        builders.iter_mut().for_each(|builder| builder.nodes.shrink_to_fit());
        let builders = Arc::new(builders);
        let forest = Ensemble::new(&builders, width, leaves)?;
        let outputs = if stride == 2 { 1 } else { stride };
        let explainer = Box::new(Explainer::new(Source {
            trees: builders,
            covers,
            values: explained,
            width: outputs,
            groups: Vec::new(),
            outputs,
            players: (0..width as u32).collect(),
            targets: (0..width as u32).collect(),
            columns: width,
        }));
        Ok(Self { forest, explainer, outputs: stride, mean })
    }

    /// Values of a row's score.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
}

impl Function for Trees {
    fn width(&self) -> Option<usize> {
        Some(self.forest.slots())
    }

    fn describe(&self) -> Description {
        Description {
            trees: self.forest.trees(),
            nodes: self.forest.node_count(),
            max_depth: self.forest.max_depth(),
            ..Description::default()
        }
    }

    fn score(&self, features: &Vectors, _offset: Option<&[f64]>) -> Result<Vec<Vec<f64>>> {
        let zeros = vec![0.0; features.rows];
        let columns: Vec<&[f64]> = features.columns.iter().map(|column| column.values().unwrap_or(&zeros)).collect();
        let mut sums = self.forest.sums(&columns, features.rows, &vec![0.0; self.outputs]);
        if self.mean {
            let trees = self.forest.trees() as f64;
            sums.iter_mut().flatten().for_each(|sum| *sum /= trees);
        }
        Ok(sums)
    }

    fn explain_by(&mut self, slots: &[Slot], columns: usize) {
        self.explainer.set_targets(slots.iter().map(|slot| slot.column).collect(), columns);
    }

    /// To the probability of the positive class or of all classes, else to
    /// the value or margin.
    fn contributions(
        &self,
        features: &[Vec<f64>],
        _slots: &[Slot],
        _columns: usize,
        rows: usize,
    ) -> Option<Result<(usize, Vec<f64>)>> {
        let outputs = if self.outputs == 2 { 1 } else { self.outputs };
        Some(self.explainer.values(features, rows, &vec![0.0; outputs]).map(|values| (outputs, values)))
    }
}

/// What leaves add to what is explained: the mean of the trees' shares or
/// predictions. Of two classes it is the second one's share.
fn explained(values: &[f64], stride: usize, shares: bool, trees: f64) -> Vec<f64> {
    if !shares {
        return values.iter().map(|value| value / trees).collect();
    }
    let leaf = |leaf: &[f64]| {
        let total: f64 = leaf.iter().sum();
        let total = if total == 0.0 { 1.0 } else { total } * trees;
        leaf.iter().map(move |value| value / total).collect::<Vec<f64>>()
    };
    let from = usize::from(stride == 2);
    values.chunks_exact(stride).flat_map(|values| leaf(values).split_off(from)).collect()
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
        (store::integers(store::column(rows, "treeID")?)?, store::record(rows, "nodeData")?)
    };
    let numbers = |name: &str| store::numbers(store::column(&fields, name)?);
    let integers = |name: &str| store::integers(store::column(&fields, name)?);
    let (ids, predictions) = (integers("id")?, numbers("prediction")?);
    let (left, right) = (integers("leftChild")?, integers("rightChild")?);
    let stats: &ArrayRef = store::column(&fields, "impurityStats")?;
    let split = store::record(&fields, "split")?;
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

/// What a leaf holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaf {
    Prediction,
    Counts,
    Shares,
}

impl FlatNode {
    fn build(self, leaves: Leaf, stride: usize, weight: f64, values: &mut Vec<f64>) -> Result<NodeBuilder> {
        let tree = self.tree;
        if self.left < 0 || self.right < 0 {
            let leaf = (values.len() / stride) as u32;
            if leaves == Leaf::Prediction {
                values.push(weight * self.prediction);
                return Ok(NodeBuilder::Leaf(leaf));
            }
            if self.stats.len() != stride {
                return Err(Error::data(format!("a leaf of tree {tree} has {} classes of {stride}", self.stats.len())));
            }
            let total: f64 = self.stats.iter().sum();
            let total = if leaves == Leaf::Counts || total == 0.0 { 1.0 } else { total };
            values.extend(self.stats.iter().map(|s| s / total));
            return Ok(NodeBuilder::Leaf(leaf));
        }
        let feature =
            u32::try_from(self.feature).map_err(|_| Error::data(format!("a split of tree {tree} has no feature")))?;
        let (left, right) = (self.left as usize, self.right as usize);
        if self.categories < 0 {
            let threshold = self.thresholds.first().copied();
            let threshold = threshold.ok_or_else(|| Error::data(format!("a split of tree {tree} has no threshold")))?;
            // NaN is not `<=` anything, so Spark sends it to the right.
            return Ok(NodeBuilder::Split {
                feature,
                test: Test::Less(next_up(threshold)),
                missing_left: false,
                left,
                right,
            });
        }
        let known = |c: f64| (c >= 0.0 && c < self.categories as f64 && c.fract() == 0.0).then_some(c as u32);
        let set: Option<BTreeSet<u32>> = self.thresholds.iter().map(|c| known(*c)).collect();
        let set = set.filter(|_| self.categories <= MAX_CATEGORIES);
        let set = set.ok_or_else(|| Error::data(format!("a split of tree {tree} has impossible categories")))?;
        // Spark keeps the smaller of the two sets, and whatever is not in it,
        // NaN included, goes to the other side.
        if set.len() <= self.categories as usize / 2 {
            return Ok(NodeBuilder::Split {
                feature,
                test: Test::In(set.into_iter().collect()),
                missing_left: false,
                left,
                right,
            });
        }
        let rest = (0..self.categories as u32).filter(|c| !set.contains(c)).collect();
        Ok(NodeBuilder::Split { feature, test: Test::In(rest), missing_left: false, left: right, right: left })
    }
}
