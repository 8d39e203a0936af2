//! One row at a time.
//!
//! Small trees are filled up to complete ones and decide in bytes ([`bytes`]).
//! Larger ones are filled up to one depth and laid out level by level as in
//! [`heaps`](super::heaps), and several of them are walked at once, so that
//! their loads overlap. Trees that are too deep or too lopsided for that are
//! walked by their pointers. Nothing is allocated once a [`Scratch`] has been
//! used.

mod bytes;

use super::bins::{Fill, Limits, Plan};
use super::heaps::{self, heap};
use super::walk::Walk;
use super::{Leaves, NodeBuilder, Sum, TreeBuilder, Value};
pub use bytes::Bytes;

/// Trees that are walked together.
const ACROSS: usize = 8;
/// Trees are filled up to at most this many times their nodes.
const MAX_FILL: usize = 4;
/// A lane is the number of a bin.
const LIMITS: Limits = Limits { cuts: u16::MAX as usize - 1, lanes: 1 << 16 };

/// Work space, to be used again.
#[derive(Debug, Default)]
pub struct Scratch<T> {
    bytes: bytes::Row,
    bins: Vec<u16>,
    values: Vec<T>,
}

/// Right when the bin is not below the threshold.
#[derive(Debug, Clone, Copy, Default)]
struct Node {
    lane: u16,
    threshold: u16,
}

/// Trees in the form for single rows.
#[derive(Debug)]
pub enum Single<T, V> {
    /// Small trees.
    Bytes(Bytes<T, V>),
    /// Complete trees of one depth.
    Heaps(Heaps<T, V>),
    /// Any others.
    Walk(Walk<T>),
    /// The batches' own.
    Kernel,
}

impl<T: Value, V: Sum> Single<T, V> {
    /// The form that suits checked trees. `walk` says whether those that no other
    /// suits are walked, if they can be.
    pub fn new(trees: &[TreeBuilder], slots: usize, leaves: &Leaves<V>, walk: bool) -> Self {
        if let Some(bytes) = Bytes::new(trees, slots, leaves) {
            return Self::Bytes(bytes);
        }
        if let Some(heaps) = Heaps::new(trees, slots, leaves) {
            return Self::Heaps(heaps);
        }
        let walk = if walk { Walk::new(trees, slots).ok() } else { None };
        walk.map_or(Self::Kernel, Self::Walk)
    }
}

/// Complete trees of one depth.
#[derive(Debug)]
pub struct Heaps<T, V> {
    fills: Vec<Fill<T>>,
    depth: usize,
    /// By tree and place; the root is in place 1.
    nodes: Vec<Node>,
    /// By tree and place of the last level, `width` numbers each.
    values: Vec<V>,
    width: usize,
    /// The output of every tree.
    outputs: Vec<usize>,
}

impl<T: Value, V: Sum> Heaps<T, V> {
    /// Checked trees filled up, if that does not make them much larger.
    pub fn new(trees: &[TreeBuilder], slots: usize, leaves: &Leaves<V>) -> Option<Self> {
        let mut depth = 0;
        for tree in trees {
            depth = depth.max(heaps::depth(tree)?);
        }
        let nodes: usize = trees.iter().map(|tree| tree.nodes.len()).sum();
        if trees.len() << (depth + 1) > MAX_FILL * nodes {
            return None;
        }
        let mut plan = Plan::new(trees, slots, LIMITS)?;
        let (mut nodes, mut values) = (Vec::with_capacity(trees.len() << depth), Vec::new());
        for tree in trees {
            let heap = heap(tree, depth);
            for at in &heap[..1 << depth] {
                nodes.push(match &tree.nodes[*at as usize] {
                    NodeBuilder::Leaf(_) => Node::default(),
                    NodeBuilder::Split { feature, test, missing_left, .. } => {
                        let (lane, below) = plan.place(*feature, test, *missing_left)?;
                        Node { lane: lane as u16, threshold: below as u16 }
                    }
                });
            }
            for at in &heap[1 << depth..] {
                let NodeBuilder::Leaf(leaf) = &tree.nodes[*at as usize] else { return None };
                let from = *leaf as usize * leaves.width;
                values.extend_from_slice(&leaves.values[from..from + leaves.width]);
            }
        }
        let outputs = (0..trees.len()).map(|tree| leaves.output_of(tree)).collect();
        Some(Self { fills: plan.fills, depth, nodes, values, width: leaves.width, outputs })
    }

    /// Adds the leaves of a row to `sums`, one an output.
    pub fn add(&self, row: &[T], scratch: &mut Scratch<T>, sums: &mut [V]) {
        let bins = &mut scratch.bins;
        // As many as a lane's number can name, so that none needs a check.
        bins.resize(LIMITS.lanes, 0);
        for fill in &self.fills {
            let value = row[fill.feature];
            let [bin] = fill.bins.words(&[value]);
            for (lane, instead) in [(fill.left, 0), (fill.right, u16::MAX)] {
                if let Some(lane) = lane {
                    bins[lane] = if value.missing() { instead } else { bin };
                }
            }
        }
        let bins = heaps::window(bins);
        match self.depth {
            0..=3 => self.walk::<8>(bins, sums),
            4 => self.walk::<16>(bins, sums),
            5 => self.walk::<32>(bins, sums),
            6 => self.walk::<64>(bins, sums),
            7 => self.walk::<128>(bins, sums),
            8 => self.walk::<256>(bins, sums),
            9 => self.walk::<512>(bins, sums),
            10 => self.walk::<1024>(bins, sums),
            11 => self.walk::<2048>(bins, sums),
            _ => self.walk::<4096>(bins, sums),
        }
    }

    /// `PLACES` is two to the power of the depth.
    fn walk<const PLACES: usize>(&self, bins: &Bins, sums: &mut [V]) {
        let trees = self.nodes.as_chunks::<PLACES>().0;
        let values = self.values.chunks_exact(PLACES * self.width);
        let (groups, rest) = trees.as_chunks::<ACROSS>();
        let mut outputs = self.outputs.iter().zip(values);
        for group in groups {
            let mut at = [1usize; ACROSS];
            for _ in 0..PLACES.ilog2() {
                for (at, tree) in at.iter_mut().zip(group) {
                    *at = step(tree, bins, *at);
                }
            }
            for (at, (output, values)) in at.iter().zip(&mut outputs) {
                self.add_leaf(&values[at % PLACES * self.width..], *output, sums);
            }
        }
        for (tree, (output, values)) in rest.iter().zip(outputs) {
            let mut at = 1;
            for _ in 0..PLACES.ilog2() {
                at = step(tree, bins, at);
            }
            self.add_leaf(&values[at % PLACES * self.width..], *output, sums);
        }
    }

    #[inline(always)]
    fn add_leaf(&self, leaf: &[V], output: usize, sums: &mut [V]) {
        if self.width == 1 {
            sums[output] += leaf[0];
        } else {
            sums.iter_mut().zip(leaf).for_each(|(sum, value)| *sum += *value);
        }
    }
}

/// All bins that a node can name.
type Bins = [u16; LIMITS.lanes];

/// One level down.
#[inline(always)]
fn step<const PLACES: usize>(tree: &[Node; PLACES], bins: &Bins, at: usize) -> usize {
    let node = tree[at % PLACES];
    2 * at + usize::from(bins[node.lane as usize] >= node.threshold)
}

/// Adds the leaves of a row, by pointers.
pub fn walk<T: Value, V: Sum>(walk: &Walk<T>, leaves: &Leaves<V>, row: &[T], scratch: &mut Scratch<T>, sums: &mut [V]) {
    walk.for_row(row, &mut scratch.values, |tree, leaf| {
        let values = &leaves.values[leaf as usize * leaves.width..];
        if leaves.width == 1 {
            sums[leaves.output_of(tree)] += values[0];
        } else {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += *value);
        }
    });
}
