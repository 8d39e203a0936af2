//! Decision trees: one packed form, one scalar kernel.
//!
//! All trees share one array of nodes of 16 bytes (12 in single precision).
//! Several rows walk a tree at once, so that their loads overlap; a leaf leads
//! to itself, so a walk takes as many steps as the tree is deep and needs no
//! test for the end. A step is a load, a comparison and an addition.
//!
//! A numeric node goes left when `x < threshold`; Spark's `x <= t` becomes
//! `x < next_up(t)`, which is the same for every number. A missing value
//! (NaN) costs nothing either: a row holds each value in the form that goes
//! left, the form that goes right, or both, and a node names the one it wants.
//!
//! Every child, feature and category set is checked when a forest is built.

use crate::error::{Error, Result};

/// Rows that walk a tree together.
const LANES: usize = 8;
/// Bytes of a block: it shares the first-level cache with the nodes of a tree.
const BLOCK_BYTES: usize = 24 << 10;
/// Rows of a block at most.
const MAX_BLOCK: usize = 256;

/// A tree as a loader sees it.
#[derive(Debug, Default)]
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
#[derive(Debug, Clone)]
pub enum Test {
    /// Left when the value is less.
    Less(f64),
    /// Left when the value, as a category, is in the set.
    In(Vec<u32>),
}

/// A number that trees compare.
pub trait Value: Copy + PartialOrd + Send + Sync + std::fmt::Debug + 'static {
    /// Larger than every threshold.
    const INFINITY: Self;
    /// From a threshold.
    fn from_f64(value: f64) -> Self;
    /// Whether it is NaN.
    fn missing(self) -> bool;
    /// As a category: XGBoost, in single precision, cuts off the fraction;
    /// Spark, in double precision, knows whole numbers only.
    fn category(self) -> Option<usize>;
}

impl Value for f32 {
    const INFINITY: Self = f32::INFINITY;
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn missing(self) -> bool {
        self.is_nan()
    }
    fn category(self) -> Option<usize> {
        (0.0..16_777_216.0).contains(&self).then_some(self as usize)
    }
}

impl Value for f64 {
    const INFINITY: Self = f64::INFINITY;
    fn from_f64(value: f64) -> Self {
        value
    }
    fn missing(self) -> bool {
        self.is_nan()
    }
    fn category(self) -> Option<usize> {
        ((0.0..4_294_967_296.0).contains(&self) && self.fract() == 0.0).then_some(self as usize)
    }
}

/// The next node is `left`, or `left + 1` when `value >= threshold`. A leaf's
/// threshold is NaN and its `left` is itself. `feature` is a place in a row of
/// the block; with [`CATEGORICAL`] set, the threshold is the number of a set.
#[derive(Debug, Clone, Copy)]
struct Node<T> {
    threshold: T,
    left: u32,
    feature: u32,
}

const CATEGORICAL: u32 = 1 << 31;
/// A category that is missing goes left.
const MISSING_LEFT: u32 = 1 << 30;
const PLACE: u32 = MISSING_LEFT - 1;

/// Nodes of a model.
const MAX_NODES: usize = 1 << 28;
/// 64-bit words of all category sets.
const MAX_SET_WORDS: usize = 1 << 24;
/// Trees deeper than this are asked on the way whether all rows have arrived.
const PATIENCE: u32 = 10;

/// Which forms of a value a row of the block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copies {
    /// As it is: `NaN >= t` is false, so it goes left.
    Left,
    /// With infinity for NaN, so that it goes right.
    Right,
    /// Both, the left ones first.
    Both,
}

/// Trees over `slots` features.
#[derive(Debug)]
pub struct Forest<T> {
    nodes: Vec<Node<T>>,
    roots: Vec<(u32, u32)>,
    /// The caller's leaf number of every node.
    leaves: Vec<u32>,
    sets: Vec<Vec<u64>>,
    set_words: usize,
    copies: Copies,
    slots: usize,
    max_depth: usize,
}

impl<T: Value> Forest<T> {
    /// Packs trees, checking every index.
    pub fn new(trees: &[TreeBuilder], slots: usize) -> Result<Self> {
        if slots >= (PLACE / 2) as usize {
            return Err(Error::invalid(format!("a tree model with {slots} features is too wide")));
        }
        let (mut left, mut right) = (false, false);
        for node in trees.iter().flat_map(|t| &t.nodes) {
            match node {
                NodeBuilder::Split { test: Test::Less(_), missing_left: false, .. } => right = true,
                NodeBuilder::Split { .. } => left = true,
                NodeBuilder::Leaf(_) => {}
            }
        }
        let copies = match (left, right) {
            (true, true) => Copies::Both,
            (false, true) => Copies::Right,
            _ => Copies::Left,
        };
        let mut forest = Self {
            nodes: Vec::new(),
            roots: Vec::with_capacity(trees.len()),
            leaves: Vec::new(),
            sets: Vec::new(),
            set_words: 0,
            copies,
            slots,
            max_depth: 0,
        };
        for (number, tree) in trees.iter().enumerate() {
            forest.push(tree).map_err(|e| Error::data(format!("tree {number}: {e}")))?;
        }
        Ok(forest)
    }

    /// Lays one tree out breadth first, siblings side by side.
    fn push(&mut self, tree: &TreeBuilder) -> Result<()> {
        if self.nodes.len() + tree.nodes.len() > MAX_NODES {
            return Err(Error::data(format!("the model has more than {MAX_NODES} nodes")));
        }
        let root = self.nodes.len();
        let mut seen = vec![false; tree.nodes.len()];
        self.reserve();
        let mut level = vec![(0usize, root)];
        let mut depth = 0;
        while !level.is_empty() {
            let mut next = Vec::new();
            for (from, to) in level {
                let node = tree.nodes.get(from).ok_or_else(|| Error::data(format!("node {from} does not exist")))?;
                if std::mem::replace(&mut seen[from], true) {
                    return Err(Error::data(format!("node {from} has two parents")));
                }
                match node {
                    NodeBuilder::Leaf(leaf) => self.leaves[to] = *leaf,
                    NodeBuilder::Split { feature, test, missing_left, left, right } => {
                        if *feature as usize >= self.slots {
                            return Err(Error::data(format!(
                                "node {from} splits on feature {feature} of {}",
                                self.slots
                            )));
                        }
                        let child = self.nodes.len();
                        self.reserve();
                        self.reserve();
                        let (threshold, feature) = self
                            .test(test, *feature, *missing_left)
                            .map_err(|e| Error::data(format!("node {from} {e}")))?;
                        self.nodes[to] = Node { threshold, left: child as u32, feature };
                        next.push((*left, child));
                        next.push((*right, child + 1));
                    }
                }
            }
            if !next.is_empty() {
                depth += 1;
            }
            level = next;
        }
        self.max_depth = self.max_depth.max(depth);
        self.roots.push((root as u32, depth as u32));
        Ok(())
    }

    /// A node's threshold and feature fields.
    fn test(&mut self, test: &Test, feature: u32, missing_left: bool) -> Result<(T, u32), String> {
        let categories = match test {
            Test::Less(value) if value.is_nan() => return Err("has NaN as its threshold".into()),
            Test::Less(value) => {
                let right = self.copies == Copies::Both && !missing_left;
                return Ok((T::from_f64(*value), feature + if right { self.slots as u32 } else { 0 }));
            }
            Test::In(categories) => categories,
        };
        let words = categories.iter().max().map_or(0, |c| *c as usize / 64 + 1);
        self.set_words += words;
        // Every set has at least one word in this count; set numbers stay exact in single precision.
        if self.set_words > MAX_SET_WORDS || self.sets.len() >= 1 << 24 {
            return Err("has categories beyond what is supported".into());
        }
        let mut set = vec![0u64; words];
        for category in categories {
            set[*category as usize / 64] |= 1 << (category % 64);
        }
        self.sets.push(set);
        let missing = if missing_left { MISSING_LEFT } else { 0 };
        Ok((T::from_f64((self.sets.len() - 1) as f64), feature | CATEGORICAL | missing))
    }

    /// A new node, a leaf for the time being.
    fn reserve(&mut self) {
        self.nodes.push(Node { threshold: T::from_f64(f64::NAN), left: self.nodes.len() as u32, feature: 0 });
        self.leaves.push(0);
    }

    /// Trees.
    pub fn trees(&self) -> usize {
        self.roots.len()
    }

    /// Nodes.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The longest path.
    pub fn max_depth(&self) -> usize {
        self.max_depth
    }

    /// Values of a row in a block.
    fn stride(&self) -> usize {
        self.slots.max(1) * if self.copies == Copies::Both { 2 } else { 1 }
    }

    /// An empty block, small enough for the first-level cache.
    pub fn block(&self) -> Block<T> {
        let row = self.stride() * size_of::<T>();
        let rows = (BLOCK_BYTES / row).clamp(LANES, MAX_BLOCK) / LANES * LANES;
        Block { values: vec![T::from_f64(0.0); rows * self.stride()], rows }
    }

    /// Puts one value into a block.
    #[inline(always)]
    pub fn put(&self, block: &mut Block<T>, row: usize, slot: usize, value: T) {
        let at = row * self.stride() + slot;
        let sent_right = if value.missing() { T::INFINITY } else { value };
        match self.copies {
            Copies::Left => block.values[at] = value,
            Copies::Right => block.values[at] = sent_right,
            Copies::Both => {
                block.values[at] = value;
                block.values[at + self.slots] = sent_right;
            }
        }
    }

    /// Walks every tree for the first `rows` rows of a block and hands
    /// `(tree, row, leaf)` to `visit`, trees in order for each row.
    ///
    /// This is the seam for faster kernels: which one walks is decided by the
    /// forest alone, never by the rows.
    #[inline]
    pub fn visit(&self, block: &Block<T>, rows: usize, visit: impl FnMut(usize, usize, u32)) {
        if self.sets.is_empty() {
            self.walk::<false>(&block.values, rows, visit);
        } else {
            self.walk::<true>(&block.values, rows, visit);
        }
    }

    #[inline]
    fn walk<const SETS: bool>(&self, values: &[T], rows: usize, mut visit: impl FnMut(usize, usize, u32)) {
        let stride = self.stride();
        for (tree, (root, depth)) in self.roots.iter().enumerate() {
            let mut start = 0;
            while start < rows {
                // The last rows walk together with whatever else the block holds.
                let lanes: [usize; LANES] = std::array::from_fn(|lane| (start + lane) * stride);
                let mut at = [*root; LANES];
                let mut left = *depth;
                while left > 0 {
                    let steps = if left > PATIENCE { PATIENCE / 2 } else { left };
                    for _ in 0..steps {
                        for (node, from) in at.iter_mut().zip(lanes) {
                            *node = self.step::<SETS>(*node, values, from);
                        }
                    }
                    left -= steps;
                    if left > 0 && at.iter().all(|node| self.nodes[*node as usize].left == *node) {
                        break;
                    }
                }
                for (lane, node) in at.iter().enumerate().take(rows - start) {
                    visit(tree, start + lane, self.leaves[*node as usize]);
                }
                start += LANES;
            }
        }
    }

    /// One step down; a leaf stays where it is.
    #[inline(always)]
    fn step<const SETS: bool>(&self, at: u32, values: &[T], from: usize) -> u32 {
        let node = &self.nodes[at as usize];
        if SETS && node.feature & CATEGORICAL != 0 {
            let value = values[from + (node.feature & PLACE) as usize];
            return node.left + u32::from(!self.in_set(node, value));
        }
        node.left + u32::from(values[from + node.feature as usize] >= node.threshold)
    }

    fn in_set(&self, node: &Node<T>, value: T) -> bool {
        if value.missing() {
            return node.feature & MISSING_LEFT != 0;
        }
        let set = node.threshold.category().and_then(|s| self.sets.get(s));
        match (set, value.category()) {
            (Some(set), Some(category)) => set.get(category / 64).is_some_and(|word| word >> (category % 64) & 1 == 1),
            _ => false,
        }
    }
}

/// Rows laid out for the trees, row by row.
#[derive(Debug)]
pub struct Block<T> {
    values: Vec<T>,
    rows: usize,
}

impl<T> Block<T> {
    /// Rows that fit.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// The smallest number above `value`: `x <= value` is `x < next_up(value)`.
pub fn next_up(value: f64) -> f64 {
    value.next_up()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(feature: u32, threshold: f64, left: usize, right: usize) -> NodeBuilder {
        NodeBuilder::Split { feature, test: Test::Less(threshold), missing_left: false, left, right }
    }

    fn leaves_of(forest: &Forest<f64>, rows: &[Vec<f64>]) -> Vec<u32> {
        let mut block = forest.block();
        let mut found = Vec::new();
        for chunk in rows.chunks(block.rows()) {
            for (row, values) in chunk.iter().enumerate() {
                values.iter().enumerate().for_each(|(slot, v)| forest.put(&mut block, row, slot, *v));
            }
            let mut leaves = vec![u32::MAX; chunk.len()];
            forest.visit(&block, chunk.len(), |_, row, leaf| leaves[row] = leaf);
            found.extend(leaves);
        }
        found
    }

    #[test]
    fn a_walk_ends_in_the_right_leaf_whatever_the_depth_around_it() {
        let nodes = vec![
            split(0, 1.0, 1, 2),
            NodeBuilder::Leaf(10),
            split(1, 5.0, 3, 4),
            NodeBuilder::Leaf(11),
            NodeBuilder::Leaf(12),
        ];
        let forest = Forest::<f64>::new(&[TreeBuilder { nodes }], 2).unwrap();
        let rows = [
            [0.5, 9.0],
            [1.0, 4.0],
            [1.0, 5.0],
            [f64::NAN, 0.0],
            [2.0, f64::NAN],
            [-1e300, 0.0],
            [f64::INFINITY, f64::NEG_INFINITY],
        ];
        let wanted = [10, 11, 12, 11, 12, 10, 11];
        let many: Vec<Vec<f64>> = rows.iter().cycle().take(1003).map(|r| r.to_vec()).collect();
        let wanted: Vec<u32> = wanted.iter().cycle().take(1003).copied().collect();
        assert_eq!(leaves_of(&forest, &many), wanted);
    }

    #[test]
    fn a_missing_value_goes_where_its_node_says_even_at_infinite_thresholds() {
        for threshold in [0.0, f64::INFINITY, f64::NEG_INFINITY] {
            for (first, second) in [(true, true), (true, false), (false, true), (false, false)] {
                let node = |missing_left, left, right| NodeBuilder::Split {
                    feature: 0,
                    test: Test::Less(threshold),
                    missing_left,
                    left,
                    right,
                };
                let nodes = vec![
                    node(first, 1, 2),
                    node(second, 3, 4),
                    node(second, 5, 6),
                    NodeBuilder::Leaf(3),
                    NodeBuilder::Leaf(4),
                    NodeBuilder::Leaf(5),
                    NodeBuilder::Leaf(6),
                ];
                let forest = Forest::<f64>::new(&[TreeBuilder { nodes }], 1).unwrap();
                let wanted = if first { 3 } else { 5 } + u32::from(!second);
                assert_eq!(leaves_of(&forest, &[vec![f64::NAN]]), [wanted], "{threshold} {first} {second}");
            }
        }
    }

    #[test]
    fn a_lopsided_tree_is_walked_to_its_end() {
        let depth = 57;
        let mut nodes = Vec::new();
        for level in 0..depth {
            nodes.push(split(0, f64::from(level), 2 * level as usize + 1, 2 * level as usize + 2));
            nodes.push(NodeBuilder::Leaf(level as u32));
        }
        nodes.push(NodeBuilder::Leaf(1000));
        let forest = Forest::<f64>::new(&[TreeBuilder { nodes }], 1).unwrap();
        assert_eq!(forest.max_depth(), 57);
        let rows: Vec<Vec<f64>> = (-1..60).map(|v| vec![f64::from(v)]).collect();
        let wanted: Vec<u32> = (-1..60).map(|v: i32| if v >= 56 { 1000 } else { (v + 1) as u32 }).collect();
        assert_eq!(leaves_of(&forest, &rows), wanted);
    }

    #[test]
    fn a_tree_with_a_cycle_or_a_wild_index_is_refused() {
        for nodes in [
            vec![split(0, 1.0, 0, 0)],
            vec![split(0, 1.0, 1, 1), NodeBuilder::Leaf(0)],
            vec![split(0, 1.0, 7, 8)],
            vec![split(9, 1.0, 1, 2), NodeBuilder::Leaf(0), NodeBuilder::Leaf(0)],
        ] {
            assert!(Forest::<f64>::new(&[TreeBuilder { nodes }], 1).is_err());
        }
    }

    #[test]
    fn a_category_goes_left_when_it_is_in_the_set() {
        let nodes = vec![
            NodeBuilder::Split { feature: 0, test: Test::In(vec![1, 70]), missing_left: true, left: 1, right: 2 },
            NodeBuilder::Leaf(1),
            NodeBuilder::Leaf(2),
        ];
        let forest = Forest::<f64>::new(&[TreeBuilder { nodes }], 1).unwrap();
        let rows = [1.0, 70.0, 2.0, -1.0, f64::NAN, 70.9, f64::INFINITY, 1e18].map(|v| vec![v]);
        assert_eq!(leaves_of(&forest, &rows), [1, 1, 2, 2, 1, 2, 2, 2]);
    }
}
