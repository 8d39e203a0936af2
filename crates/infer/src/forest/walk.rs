//! Trees walked from the root, several rows at a time.
//!
//! All trees share one array of nodes of 16 bytes (12 in single precision).
//! Eight rows walk a tree at once, so that their loads overlap; a leaf leads
//! to itself, so a walk takes as many steps as the tree is deep and needs no
//! test for the end. A step is a load, a comparison and an addition.
//!
//! A numeric node goes left when `x < threshold`; Spark's `x <= t` becomes
//! `x < next_up(t)`, which is the same for every number. A missing value
//! (NaN) costs nothing either: a row holds each value in the form that goes
//! left, the form that goes right, or both, and a node names the one it wants.

use super::{Leaves, NodeBuilder, Sum, Test, TreeBuilder, Value, bits, contains, words};
use crate::error::{Error, Result};

/// Rows that walk a tree together.
const LANES: usize = 8;
/// Bytes of a block: it shares the first-level cache with the nodes of a tree.
const BLOCK_BYTES: usize = 24 << 10;
/// Rows of a block at most.
const MAX_BLOCK: usize = 256;

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
pub struct Walk<T> {
    nodes: Vec<Node<T>>,
    roots: Vec<(u32, u32)>,
    /// The caller's leaf number of every node.
    leaves: Vec<u32>,
    sets: Vec<Vec<u64>>,
    set_words: usize,
    copies: Copies,
    slots: usize,
}

impl<T: Value> Walk<T> {
    /// Packs checked trees.
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
        };
        for (number, tree) in trees.iter().enumerate() {
            forest.push(tree).map_err(|e| Error::data(format!("tree {number}: {e}")))?;
        }
        Ok(forest)
    }

    /// Lays one checked tree out breadth first, siblings side by side.
    fn push(&mut self, tree: &TreeBuilder) -> Result<()> {
        let root = self.nodes.len();
        self.reserve();
        let mut level = vec![(0usize, root)];
        let mut depth = 0;
        while !level.is_empty() {
            let mut next = Vec::new();
            for (from, to) in level {
                match &tree.nodes[from] {
                    NodeBuilder::Leaf(leaf) => self.leaves[to] = *leaf,
                    NodeBuilder::Split { feature, test, missing_left, left, right } => {
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
        self.roots.push((root as u32, depth as u32));
        Ok(())
    }

    /// A node's threshold and feature fields.
    fn test(&mut self, test: &Test, feature: u32, missing_left: bool) -> Result<(T, u32), String> {
        let categories = match test {
            Test::Less(value) => {
                let right = self.copies == Copies::Both && !missing_left;
                return Ok((T::from_f64(*value), feature + if right { self.slots as u32 } else { 0 }));
            }
            Test::In(categories) => categories,
        };
        self.set_words = self.set_words.saturating_add(words(categories));
        // Set numbers stay exact in single precision.
        if self.set_words > MAX_SET_WORDS || self.sets.len() >= 1 << 24 {
            return Err("has categories beyond what is supported".into());
        }
        self.sets.push(bits(categories));
        let missing = if missing_left { MISSING_LEFT } else { 0 };
        Ok((T::from_f64((self.sets.len() - 1) as f64), feature | CATEGORICAL | missing))
    }

    /// A new node, a leaf for the time being.
    fn reserve(&mut self) {
        self.nodes.push(Node { threshold: T::from_f64(f64::NAN), left: self.nodes.len() as u32, feature: 0 });
        self.leaves.push(0);
    }

    /// Values of a row in a block.
    fn stride(&self) -> usize {
        self.slots.max(1) * if self.copies == Copies::Both { 2 } else { 1 }
    }

    /// Adds the leaves of all rows to `sums`, one column an output.
    pub fn add<V: Sum>(&self, columns: &[&[T]], rows: usize, leaves: &Leaves<V>, sums: &mut [Vec<V>]) {
        if leaves.width == 1 {
            self.for_each(columns, rows, |tree, row, leaf| {
                sums[leaves.output_of(tree)][row] += leaves.values[leaf as usize];
            });
        } else {
            self.for_each(columns, rows, |_, row, leaf| {
                let values = &leaves.values[leaf as usize * leaves.width..];
                for (sums, value) in sums.iter_mut().zip(values) {
                    sums[row] += *value;
                }
            });
        }
    }

    /// Hands `(tree, row, leaf)` to `visit`, for each row in the order of the
    /// trees.
    pub fn for_each(&self, columns: &[&[T]], rows: usize, mut visit: impl FnMut(usize, usize, u32)) {
        let row_bytes = self.stride() * size_of::<T>();
        let block_rows = (BLOCK_BYTES / row_bytes).clamp(LANES, MAX_BLOCK) / LANES * LANES;
        let mut block = vec![T::default(); block_rows * self.stride()];
        for start in (0..rows).step_by(block_rows) {
            let count = block_rows.min(rows - start);
            for (slot, column) in columns.iter().enumerate() {
                for (row, value) in column[start..start + count].iter().enumerate() {
                    self.put(&mut block, row, slot, *value);
                }
            }
            self.visit(&block, count, |tree, row, leaf| visit(tree, start + row, leaf));
        }
    }

    /// Hands `(tree, leaf)` of one row to `visit`, in the order of the trees.
    pub fn for_row(&self, row: &[T], block: &mut Vec<T>, mut visit: impl FnMut(usize, u32)) {
        block.clear();
        block.resize(self.stride(), T::default());
        for (slot, value) in row.iter().enumerate().take(self.slots) {
            self.put(block, 0, slot, *value);
        }
        let mut walk = |first: usize, roots: &[(u32, u32)]| {
            // Trees take the part of rows; the last ones walk together with the first of them.
            let mut at: [u32; LANES] = std::array::from_fn(|lane| roots.get(lane).unwrap_or(&roots[0]).0);
            let deepest = roots.iter().map(|(_, depth)| *depth).max().unwrap_or(0);
            for level in 0..deepest {
                if level > PATIENCE / 2 && at.iter().all(|node| self.nodes[*node as usize].left == *node) {
                    break;
                }
                for node in &mut at {
                    *node = self.step::<true>(*node, block, 0);
                }
            }
            for (lane, node) in at.iter().enumerate().take(roots.len()) {
                visit(first + lane, self.leaves[*node as usize]);
            }
        };
        for (number, roots) in self.roots.chunks(LANES).enumerate() {
            walk(number * LANES, roots);
        }
    }

    /// Puts one value into a block.
    #[inline(always)]
    fn put(&self, block: &mut [T], row: usize, slot: usize, value: T) {
        let at = row * self.stride() + slot;
        let sent_right = if value.missing() { T::INFINITY } else { value };
        match self.copies {
            Copies::Left => block[at] = value,
            Copies::Right => block[at] = sent_right,
            Copies::Both => {
                block[at] = value;
                block[at + self.slots] = sent_right;
            }
        }
    }

    /// Walks every tree for the first `rows` rows of a block and hands
    /// `(tree, row, leaf)` to `visit`, trees in order for each row.
    #[inline]
    fn visit(&self, block: &[T], rows: usize, visit: impl FnMut(usize, usize, u32)) {
        if self.sets.is_empty() {
            self.walk::<false>(block, rows, visit);
        } else {
            self.walk::<true>(block, rows, visit);
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
        node.threshold.category().and_then(|s| self.sets.get(s)).is_some_and(|set| contains(set, value))
    }
}
