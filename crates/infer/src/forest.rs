//! Decision trees: one packed form, one scalar kernel.
//!
//! All trees share one array of 16-byte nodes. Several rows walk a tree at
//! once, so that their loads overlap; a leaf points at itself, so a walk takes
//! as many steps as the tree is deep and needs no test for the end.
//!
//! A numeric node goes left when `x < threshold`; Spark's `x <= t` becomes
//! `x < next_up(t)`, which is the same for every number. NaN goes where the
//! node says.

use crate::error::{Error, Result};

/// Rows that walk a tree together.
const LANES: usize = 8;

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
    /// From a threshold.
    fn from_f64(value: f64) -> Self;
    /// Whether it is NaN.
    fn missing(self) -> bool;
    /// As a category; negative or too large is none.
    fn category(self) -> Option<usize>;
}

impl Value for f32 {
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn missing(self) -> bool {
        self.is_nan()
    }
    fn category(self) -> Option<usize> {
        (self >= 0.0 && self < 16_777_216.0).then_some(self as usize)
    }
}

impl Value for f64 {
    fn from_f64(value: f64) -> Self {
        value
    }
    fn missing(self) -> bool {
        self.is_nan()
    }
    fn category(self) -> Option<usize> {
        (self >= 0.0 && self < 4_294_967_296.0).then_some(self as usize)
    }
}

/// The child of a node is `left` or `left + 1`. `flags` bit 0: missing goes
/// left; bit 1: categorical, the threshold is then the index of a set.
#[derive(Debug, Clone, Copy)]
struct Node<T> {
    threshold: T,
    left: u32,
    feature: u16,
    flags: u16,
}

const MISSING_LEFT: u16 = 1;
const CATEGORICAL: u16 = 2;

/// Trees over `slots` features.
#[derive(Debug)]
pub struct Forest<T> {
    nodes: Vec<Node<T>>,
    roots: Vec<(u32, u32)>,
    /// The caller's leaf number of every node.
    leaves: Vec<u32>,
    sets: Vec<Vec<u64>>,
    categorical: bool,
    slots: usize,
    max_depth: usize,
}

impl<T: Value> Forest<T> {
    /// Packs trees, checking every index.
    pub fn new(trees: &[TreeBuilder], slots: usize) -> Result<Self> {
        let mut forest = Self {
            nodes: Vec::new(),
            roots: Vec::with_capacity(trees.len()),
            leaves: Vec::new(),
            sets: Vec::new(),
            categorical: false,
            slots,
            max_depth: 0,
        };
        if slots > usize::from(u16::MAX) {
            return Err(Error::invalid(format!("a tree model with {slots} features; at most 65535 are supported")));
        }
        for (number, tree) in trees.iter().enumerate() {
            forest.push(tree).map_err(|e| Error::data(format!("tree {number}: {e}")))?;
        }
        Ok(forest)
    }

    /// Lays one tree out breadth first, siblings side by side.
    fn push(&mut self, tree: &TreeBuilder) -> Result<()> {
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
                    NodeBuilder::Leaf(leaf) => {
                        self.nodes[to] =
                            Node { threshold: T::from_f64(f64::NAN), left: to as u32, feature: 0, flags: MISSING_LEFT };
                        self.leaves[to] = *leaf;
                    }
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
                        let mut flags = if *missing_left { MISSING_LEFT } else { 0 };
                        let threshold = match test {
                            Test::Less(value) if value.is_nan() => {
                                return Err(Error::data(format!("node {from} has NaN as its threshold")));
                            }
                            Test::Less(value) => T::from_f64(*value),
                            Test::In(categories) => {
                                flags |= CATEGORICAL;
                                self.categorical = true;
                                let mut set = Vec::new();
                                for category in categories {
                                    let word = *category as usize / 64;
                                    if word >= 1 << 18 {
                                        return Err(Error::data(format!("node {from} has category {category}")));
                                    }
                                    if set.len() <= word {
                                        set.resize(word + 1, 0u64);
                                    }
                                    set[word] |= 1 << (category % 64);
                                }
                                self.sets.push(set);
                                T::from_f64((self.sets.len() - 1) as f64)
                            }
                        };
                        self.nodes[to] = Node { threshold, left: child as u32, feature: *feature as u16, flags };
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
        if self.sets.len() > 16_000_000 {
            return Err(Error::invalid("a model with more than 16 million categorical splits"));
        }
        self.max_depth = self.max_depth.max(depth);
        self.roots.push((root as u32, depth as u32));
        Ok(())
    }

    fn reserve(&mut self) {
        self.nodes.push(Node { threshold: T::from_f64(f64::NAN), left: 0, feature: 0, flags: MISSING_LEFT });
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

    /// Walks every tree for every row of a row-major block and hands
    /// `(tree, row, leaf)` to `visit`, trees in order for each row.
    #[inline]
    pub fn visit(&self, block: &[T], rows: usize, mut visit: impl FnMut(usize, usize, u32)) {
        for (tree, (root, depth)) in self.roots.iter().enumerate() {
            let mut row = 0;
            while row + LANES <= rows {
                let mut at = [*root; LANES];
                for _ in 0..*depth {
                    for (lane, node) in at.iter_mut().enumerate() {
                        *node = self.step(*node, &block[(row + lane) * self.slots..(row + lane + 1) * self.slots]);
                    }
                }
                for (lane, node) in at.iter().enumerate() {
                    visit(tree, row + lane, self.leaves[*node as usize]);
                }
                row += LANES;
            }
            while row < rows {
                let mut at = *root;
                for _ in 0..*depth {
                    at = self.step(at, &block[row * self.slots..(row + 1) * self.slots]);
                }
                visit(tree, row, self.leaves[at as usize]);
                row += 1;
            }
        }
    }

    /// One step down; a leaf stays: its flags send every value left, to itself.
    #[inline(always)]
    fn step(&self, at: u32, row: &[T]) -> u32 {
        let node = &self.nodes[at as usize];
        let value = row[node.feature as usize];
        if self.categorical && node.flags & CATEGORICAL != 0 {
            return node.left + u32::from(!self.in_set(node, value));
        }
        let less = value < node.threshold;
        // A leaf's threshold is NaN: nothing is less, nothing is not missing.
        let missing = value.missing() | node.threshold.missing();
        let left = less | (missing & (node.flags & MISSING_LEFT != 0));
        node.left + u32::from(!left)
    }

    fn in_set(&self, node: &Node<T>, value: T) -> bool {
        if value.missing() {
            return node.flags & MISSING_LEFT != 0;
        }
        let set = node.threshold.category().and_then(|s| self.sets.get(s));
        match (set, value.category()) {
            (Some(set), Some(category)) => set.get(category / 64).is_some_and(|word| word >> (category % 64) & 1 == 1),
            _ => false,
        }
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

    fn leaf_of(forest: &Forest<f64>, row: &[f64]) -> u32 {
        let mut found = u32::MAX;
        forest.visit(row, 1, |_, _, leaf| found = leaf);
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
        let rows = [[0.5, 9.0], [1.0, 4.0], [1.0, 5.0], [f64::NAN, 0.0], [2.0, f64::NAN], [-1e300, 0.0]];
        assert_eq!(rows.map(|r| leaf_of(&forest, &r)), [10, 11, 12, 11, 12, 10]);
        let block: Vec<f64> = rows.iter().cycle().take(23).flatten().copied().collect();
        let mut leaves = vec![0; 23];
        forest.visit(&block, 23, |_, row, leaf| leaves[row] = leaf);
        assert_eq!(leaves[17..23], [10, 10, 11, 12, 11, 12]);
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
        assert_eq!([1.0, 70.0, 2.0, -1.0, f64::NAN].map(|v| leaf_of(&forest, &[v])), [1, 1, 2, 2, 1]);
    }
}
