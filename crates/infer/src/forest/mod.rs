//! Sums of decision trees: one checked form, three kernels and one for rows.
//!
//! A loader describes its trees node by node; [`Ensemble::new`] checks every
//! child, feature and category set and chooses a kernel by the shape of the
//! trees alone, never by the rows. Small trees are evaluated whole, many rows
//! at a time ([`lanes`]); of larger ones that are nearly complete the upper
//! levels are, and rows walk the rest ([`heaps`]); others are walked from the
//! root ([`walk`]). A row by itself has its own form ([`single`]), made when the
//! first row comes. All find the same leaf for the same row, and a row's leaves
//! are added in the order of the trees: the same bits from every kernel, on every
//! processor, however rows are cut into batches.

mod bins;
mod heaps;
mod lanes;
mod single;
mod walk;

use std::ops::AddAssign;
use std::sync::{Arc, OnceLock};

pub use single::Scratch;

use crate::error::{Error, Result};
use crate::vectors::Vectors;

/// A tree as a loader sees it.
#[derive(Debug, Default, Clone)]
pub struct TreeBuilder {
    /// Its nodes; the root is the first.
    pub nodes: Vec<NodeBuilder>,
}

/// One node as a loader sees it.
#[derive(Debug, Clone)]
pub enum NodeBuilder {
    /// Ends here with a value of the caller's.
    Leaf(u32),
    /// Goes on.
    Split {
        /// The slot it looks at.
        feature: u32,
        /// How it decides.
        test: Test,
        /// Where a missing value goes.
        missing_left: bool,
        /// The left child.
        left: usize,
        /// The right child.
        right: usize,
    },
}

/// How a node decides.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// Left when the value is less.
    Less(f64),
    /// Left when the value, as a category, is in the set.
    In(Box<[u32]>),
}

/// A number that trees compare.
pub trait Value: Copy + PartialOrd + Default + Send + Sync + std::fmt::Debug + 'static {
    /// Larger than every threshold.
    const INFINITY: Self;
    /// Not a number.
    const NAN: Self;
    /// From a threshold.
    fn from_f64(value: f64) -> Self;
    /// Whether it is NaN.
    fn missing(self) -> bool;
    /// As a category: XGBoost, in single precision, cuts off the fraction;
    /// Spark, in double precision, knows whole numbers only.
    fn category(self) -> Option<usize>;
    /// An order of all numbers.
    fn order(&self, other: &Self) -> std::cmp::Ordering;
    /// A monotone function into the whole numbers below `count`.
    fn cell(self, low: Self, scale: Self, count: usize) -> usize;
    /// The `low` and `scale` by which ascending numbers fall into `count` buckets.
    fn buckets(numbers: &[Self], count: usize) -> (Self, Self);
}

impl Value for f32 {
    #[inline(always)]
    fn cell(self, low: Self, scale: Self, count: usize) -> usize {
        // NaN becomes 0. The cast to 32 bits is one instruction, to 64 unsigned ones it is many.
        ((self - low) * scale).max(0.0).min((count - 1) as Self) as i32 as usize
    }
    fn buckets(numbers: &[Self], count: usize) -> (Self, Self) {
        // The ends of 98% of the numbers, lest a far one leaves the rest in one bucket.
        let edge = numbers.len() / 100;
        let low = numbers.get(edge).copied().unwrap_or(0.0);
        let high = numbers.get(numbers.len() - 1 - edge).copied().unwrap_or(0.0);
        let scale = count as Self / (high - low);
        if low.is_finite() && scale.is_finite() && scale > 0.0 { (low, scale) } else { (0.0, 0.0) }
    }
    const INFINITY: Self = f32::INFINITY;
    const NAN: Self = f32::NAN;
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn missing(self) -> bool {
        self.is_nan()
    }
    fn category(self) -> Option<usize> {
        (0.0..16_777_216.0).contains(&self).then_some(self as usize)
    }
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        self.total_cmp(other)
    }
}

impl Value for f64 {
    #[inline(always)]
    fn cell(self, low: Self, scale: Self, count: usize) -> usize {
        // NaN becomes 0. The cast to 32 bits is one instruction, to 64 unsigned ones it is many.
        ((self - low) * scale).max(0.0).min((count - 1) as Self) as i32 as usize
    }
    fn buckets(numbers: &[Self], count: usize) -> (Self, Self) {
        // The ends of 98% of the numbers, lest a far one leaves the rest in one bucket.
        let edge = numbers.len() / 100;
        let low = numbers.get(edge).copied().unwrap_or(0.0);
        let high = numbers.get(numbers.len() - 1 - edge).copied().unwrap_or(0.0);
        let scale = count as Self / (high - low);
        if low.is_finite() && scale.is_finite() && scale > 0.0 { (low, scale) } else { (0.0, 0.0) }
    }
    const INFINITY: Self = f64::INFINITY;
    const NAN: Self = f64::NAN;
    fn from_f64(value: f64) -> Self {
        value
    }
    fn missing(self) -> bool {
        self.is_nan()
    }
    fn category(self) -> Option<usize> {
        ((0.0..4_294_967_296.0).contains(&self) && self.fract() == 0.0).then_some(self as usize)
    }
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        self.total_cmp(other)
    }
}

/// A number that leaves hold.
pub trait Sum: Copy + AddAssign + Default + Send + Sync + std::fmt::Debug + 'static {}

impl Sum for f32 {}
impl Sum for f64 {}

/// What the leaves of all trees hold.
#[derive(Debug, Clone)]
pub struct Leaves<V> {
    /// `width` numbers a leaf, by the loader's leaf numbers.
    pub values: Vec<V>,
    /// Numbers of a leaf.
    pub width: usize,
    /// The output that each tree adds to, where a leaf holds one number for one
    /// of several; empty when all trees add to all outputs.
    pub groups: Vec<u32>,
    /// Outputs of a row.
    pub outputs: usize,
}

impl<V> Leaves<V> {
    /// Leaves of one number, all added up.
    pub fn single(values: Vec<V>) -> Self {
        Self { values, width: 1, groups: Vec::new(), outputs: 1 }
    }

    /// Leaves of `width` numbers, added up number by number.
    pub fn vectors(values: Vec<V>, width: usize) -> Self {
        Self { values, width, groups: Vec::new(), outputs: width }
    }

    /// Leaves of one number, added up by the tree's group.
    pub fn grouped(values: Vec<V>, groups: Vec<u32>, outputs: usize) -> Self {
        Self { values, width: 1, groups, outputs }
    }

    fn check(&self, trees: &[TreeBuilder]) -> Result<()> {
        let known = self.values.len().checked_div(self.width).unwrap_or(0);
        let leaf = |node: &NodeBuilder| matches!(node, NodeBuilder::Leaf(leaf) if *leaf as usize >= known);
        if let Some(tree) = trees.iter().position(|t| t.nodes.iter().any(leaf)) {
            return Err(Error::data(format!("tree {tree} has a leaf without a value")));
        }
        let groups = self.groups.len() == trees.len() && self.groups.iter().all(|g| (*g as usize) < self.outputs);
        if (self.outputs != self.width || !self.groups.is_empty()) && !(groups && self.width == 1) {
            return Err(Error::data("trees and outputs do not go together"));
        }
        Ok(())
    }

    /// The first output that a tree adds to.
    fn output_of(&self, tree: usize) -> usize {
        self.groups.get(tree).map_or(0, |group| *group as usize)
    }
}

/// Trees over `slots` features whose leaves are added up.
#[derive(Debug)]
pub struct Ensemble<T, V> {
    /// The trees as they were checked, which explanations share.
    trees: Arc<Vec<TreeBuilder>>,
    leaves: Leaves<V>,
    kernel: Kernel<T, V>,
    /// The form for single rows, once there was one.
    single: OnceLock<single::Single<T, V>>,
    slots: usize,
    nodes: usize,
    max_depth: usize,
}

#[derive(Debug)]
enum Kernel<T, V> {
    Lanes(lanes::Lanes<T, V>),
    Heaps(heaps::Heaps<T, V>),
    Walk(walk::Walk<T>),
}

/// The kernel for the shape of the trees, if one of the two without pointers
/// suits: whole trees by their nodes while these are few, else complete ones.
fn kernel_of<T: Value, V: Sum>(
    trees: &[TreeBuilder],
    depths: &[usize],
    slots: usize,
    leaves: &Leaves<V>,
) -> Option<Kernel<T, V>> {
    // Of a symmetric tree a level costs what a node of others does.
    let cost = |tree: &TreeBuilder| lanes::symmetric(tree).map_or(tree.nodes.len() / 2, |levels| levels.len());
    let nodes: usize = trees.iter().map(cost).sum();
    let complete = depths.iter().map(|depth| heaps::levels(*depth).map(heaps::cost)).sum::<Option<usize>>();
    let by_nodes = || lanes::Lanes::new(trees, slots, leaves).map(Kernel::Lanes);
    let by_levels = || heaps::Heaps::new(trees, slots, leaves).map(Kernel::Heaps);
    if complete.is_some_and(|cost| cost < nodes) {
        by_levels().or_else(by_nodes)
    } else {
        by_nodes().or_else(by_levels)
    }
}

/// Nodes of a model.
const MAX_NODES: usize = 1 << 28;

impl<T: Value, V: Sum> Ensemble<T, V> {
    /// Packs trees, checking every index.
    ///
    /// # Errors
    /// When a node has no parent or two, a feature or a leaf does not exist, or
    /// the model is larger than what is supported.
    pub fn new(trees: &Arc<Vec<TreeBuilder>>, slots: usize, leaves: Leaves<V>) -> Result<Self> {
        leaves.check(trees)?;
        let (mut nodes, mut depths) = (0usize, Vec::with_capacity(trees.len()));
        for (number, tree) in trees.iter().enumerate() {
            nodes += tree.nodes.len();
            depths.push(check(tree, slots).map_err(|e| Error::data(format!("tree {number}: {e}")))?);
        }
        let max_depth = depths.iter().copied().max().unwrap_or(0);
        if nodes > MAX_NODES {
            return Err(Error::data(format!("the model has more than {MAX_NODES} nodes")));
        }
        let kernel = match kernel_of(trees, &depths, slots, &leaves) {
            Some(kernel) => kernel,
            None => Kernel::Walk(walk::Walk::new(trees, slots)?),
        };
        Ok(Self { trees: trees.clone(), leaves, kernel, single: OnceLock::new(), slots, nodes, max_depth })
    }

    /// Features.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Trees.
    pub fn trees(&self) -> usize {
        self.trees.len()
    }

    /// Nodes, leaves included.
    pub fn node_count(&self) -> usize {
        self.nodes
    }

    /// The longest path from a root to a leaf.
    pub fn max_depth(&self) -> usize {
        self.max_depth
    }

    /// Adds the leaves of every row to `base`, one number an output: a column
    /// of `rows` sums for each output. `columns` are the features, one column
    /// of `rows` values each.
    ///
    /// # Panics
    /// When there are fewer columns than features or fewer values than rows.
    pub fn sums(&self, columns: &[impl AsRef<[T]>], rows: usize, base: &[V]) -> Vec<Vec<V>> {
        assert_eq!(base.len(), self.leaves.outputs, "a base for every output");
        let columns: Vec<&[T]> = columns.iter().take(self.slots).map(|c| &c.as_ref()[..rows]).collect();
        assert_eq!(columns.len(), self.slots, "a column for every feature");
        let mut sums: Vec<Vec<V>> = base.iter().map(|base| vec![*base; rows]).collect();
        match &self.kernel {
            Kernel::Lanes(lanes) => lanes.add(Vectors::used(), &columns, rows, &mut sums),
            Kernel::Heaps(heaps) => heaps.add(Vectors::used(), &columns, rows, &mut sums),
            Kernel::Walk(walk) => walk.add(&columns, rows, &self.leaves, &mut sums),
        }
        sums
    }

    /// Adds the leaves of one row to `sums`, which holds the base of every
    /// output: the same bits as [`sums`](Self::sums).
    ///
    /// # Panics
    /// When there are fewer values than features or fewer sums than outputs.
    pub fn add_row(&self, row: &[T], scratch: &mut Scratch<T>, sums: &mut [V]) {
        assert!(row.len() >= self.slots && sums.len() == self.leaves.outputs, "a value for every feature");
        let form = self.single.get_or_init(|| match &self.kernel {
            Kernel::Walk(_) => single::Single::new(&self.trees, self.slots, &self.leaves, false),
            _ => single::Single::new(&self.trees, self.slots, &self.leaves, true),
        });
        match (form, &self.kernel) {
            (single::Single::Bytes(bytes), _) => bytes.add(Vectors::used(), row, scratch, sums),
            (single::Single::Heaps(heaps), _) => heaps.add(row, scratch, sums),
            (single::Single::Walk(walk), _) | (single::Single::Kernel, Kernel::Walk(walk)) => {
                single::walk(walk, &self.leaves, row, scratch, sums);
            }
            (single::Single::Kernel, _) => {
                let columns: Vec<[T; 1]> = row.iter().take(self.slots).map(|value| [*value]).collect();
                let found = self.sums(&columns, 1, sums);
                sums.iter_mut().zip(found).for_each(|(sum, found)| *sum = found[0]);
            }
        }
    }
}

/// Trees of which the caller wants the leaves themselves.
#[derive(Debug)]
pub struct Walked {
    walk: walk::Walk<f64>,
    slots: usize,
}

impl Walked {
    /// Packs trees, checking every index.
    ///
    /// # Errors
    /// As [`Ensemble::new`].
    pub fn new(trees: &[TreeBuilder], slots: usize) -> Result<Self> {
        for (number, tree) in trees.iter().enumerate() {
            check(tree, slots).map_err(|e| Error::data(format!("tree {number}: {e}")))?;
        }
        Ok(Self { walk: walk::Walk::new(trees, slots)?, slots })
    }

    /// Hands `(tree, row, leaf)` to `visit`, for each row in the order of the
    /// trees.
    ///
    /// # Panics
    /// When there are fewer columns than features or fewer values than rows.
    pub fn visit(&self, columns: &[impl AsRef<[f64]>], rows: usize, visit: impl FnMut(usize, usize, u32)) {
        let columns: Vec<&[f64]> = columns.iter().take(self.slots).map(|c| &c.as_ref()[..rows]).collect();
        assert_eq!(columns.len(), self.slots, "a column for every feature");
        self.walk.for_each(&columns, rows, visit);
    }
}

/// Every node but the root has one parent and every index is in range. Answers
/// the depth. `fuzz/planted.sh` leaves each of the two checks out, to see that
/// fuzzing finds it.
fn check(tree: &TreeBuilder, slots: usize) -> Result<usize, String> {
    // Also of nodes that no other leads to: kernels collect what all nodes ask.
    for (at, node) in tree.nodes.iter().enumerate() {
        let NodeBuilder::Split { feature, test, .. } = node else { continue };
        if *feature as usize >= slots && !cfg!(insightera_planted = "bounds") {
            return Err(format!("node {at} splits on feature {feature} of {slots}"));
        }
        if matches!(test, Test::Less(threshold) if threshold.is_nan()) {
            return Err(format!("node {at} has NaN as its threshold"));
        }
    }
    let mut seen = vec![false; tree.nodes.len()];
    let mut level = vec![0usize];
    let mut depth = 0;
    loop {
        let mut next = Vec::new();
        for at in level {
            let node = tree.nodes.get(at).ok_or_else(|| format!("node {at} does not exist"))?;
            if std::mem::replace(&mut seen[at], true) && !cfg!(insightera_planted = "cycle") {
                return Err(format!("node {at} has two parents"));
            }
            let NodeBuilder::Split { left, right, .. } = node else { continue };
            next.extend([*left, *right]);
        }
        if next.is_empty() {
            return Ok(depth);
        }
        depth += 1;
        level = next;
    }
}

/// 64-bit words of the bits of categories.
fn words(categories: &[u32]) -> usize {
    categories.iter().max().map_or(0, |c| *c as usize / 64 + 1)
}

/// Categories as bits.
pub(crate) fn bits(categories: &[u32]) -> Vec<u64> {
    let mut set = vec![0u64; words(categories)];
    for category in categories {
        set[*category as usize / 64] |= 1 << (category % 64);
    }
    set
}

/// Whether a value, which is not missing, is in a set.
pub(crate) fn contains<T: Value>(set: &[u64], value: T) -> bool {
    value.category().is_some_and(|c| set.get(c / 64).is_some_and(|word| word >> (c % 64) & 1 == 1))
}

/// The smallest number above `value`: `x <= value` is `x < next_up(value)`.
pub fn next_up(value: f64) -> f64 {
    value.next_up()
}

#[cfg(test)]
mod tests;
