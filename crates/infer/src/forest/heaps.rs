//! Trees as heaps: no pointers, the upper levels in registers.
//!
//! A tree is filled up to a complete one and laid out level by level: below
//! node `n` are nodes `2n` and `2n + 1`. A leaf above the last level is repeated
//! in all places below it: wherever the steps go from there, they end in the
//! same value.
//!
//! The first [`TOP`] levels compare byte bins ([`bins`](super::bins)) of many
//! rows at a time and select, from the last of these levels up, the place that
//! a row arrives at: two vector instructions a node, with everything between in
//! registers, since the shape is known when this is compiled. Levels below are
//! walked, a node being only a lane of 16-bit bins and a threshold: a step is
//! two loads, a comparison and an addition, without a branch. [`ACROSS`] rows
//! walk at once, so that their loads overlap.
//!
//! A block of rows stays in the first-level cache while the trees go by.

use super::bins::{Fill, Limits, Plan};
use super::{Leaves, NodeBuilder, Sum, TreeBuilder, Value};
use crate::vectors::Vectors;

/// Rows of a block.
const ROWS: usize = 128;
/// Levels that are evaluated in registers.
const TOP: usize = 6;
/// Nodes of these levels, and the place without a node before the root.
const TOP_NODES: usize = 1 << TOP;
/// Rows that walk a tree together.
const ACROSS: usize = 8;
/// Levels of a tree at most.
const MAX_DEPTH: usize = 12;
/// Places of the last level of the deepest tree.
const PLACES: usize = 1 << MAX_DEPTH;
/// Trees are filled up to at most this many times their nodes.
const MAX_FILL: usize = 6;
/// Thresholds of a byte lane: bins are 0 to 254, and 255 for a missing value.
const BYTE_LIMITS: Limits = Limits { cuts: 254, lanes: 1024 };
/// The first bin of a lane, as nodes name it, is a number of 16 bits.
const WORD_LIMITS: Limits = Limits { cuts: u16::MAX as usize - 1, lanes: (1 << 16) / ROWS };
/// Bins that a node can name, for the first of the rows that walk together.
const WINDOW: usize = (1 << 16) + ACROSS;

/// Byte bins, less 128: signed bytes compare in one instruction. Aligned, so
/// that no load crosses a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Lane([i8; ROWS]);

/// All byte lanes that a node can name.
type Lanes = [Lane; BYTE_LIMITS.lanes];

/// A node of the upper levels: left when the bin is less than the threshold.
#[derive(Debug, Clone, Copy, Default)]
struct Upper {
    lane: u16,
    threshold: i8,
}

/// A node of the lower levels: right when the bin is not below the threshold.
#[derive(Debug, Clone, Copy, Default)]
struct Lower {
    /// The lane's first bin.
    bins: u16,
    threshold: u16,
}

#[derive(Debug)]
struct Tree {
    /// Levels in registers: 3 to [`TOP`].
    top: usize,
    /// All levels.
    depth: usize,
    upper: Box<[Upper; TOP_NODES]>,
    /// Its first place in the lower nodes, by the numbers of the whole heap.
    lower: usize,
    output: usize,
    /// The values of its leaves.
    values: usize,
}

/// Complete trees over lanes.
#[derive(Debug)]
pub struct Heaps<T, V> {
    bytes: Vec<Fill<T>>,
    words: Vec<Fill<T>>,
    trees: Vec<Tree>,
    lower: Vec<Lower>,
    /// By tree and place of the last level, `width` numbers each.
    values: Vec<V>,
    width: usize,
}

impl<T: Value, V: Sum> Heaps<T, V> {
    /// Checked trees filled up, if they suit this kernel.
    pub fn new(trees: &[TreeBuilder], slots: usize, leaves: &Leaves<V>) -> Option<Self> {
        let depths = trees.iter().map(depth).collect::<Option<Vec<usize>>>()?;
        let nodes: usize = trees.iter().map(|tree| tree.nodes.len()).sum();
        if depths.iter().map(|depth| 2usize << depth).sum::<usize>() > MAX_FILL * nodes {
            return None;
        }
        let heaps: Vec<Vec<u32>> = trees.iter().zip(&depths).map(|(tree, depth)| heap(tree, *depth)).collect();
        let part = |upper: bool| {
            trees.iter().zip(&heaps).flat_map(move |(tree, heap)| {
                let (upper_part, lower_part) = heap.split_at(heap.len().min(TOP_NODES));
                let part = if upper { upper_part } else { lower_part };
                part.iter().map(|at| &tree.nodes[*at as usize])
            })
        };
        let mut bytes = Plan::of_nodes(|| part(true), slots, BYTE_LIMITS)?;
        let mut words = Plan::of_nodes(|| part(false), slots, WORD_LIMITS)?;
        let (mut lower, mut packed, mut values) = (vec![Lower::default(); TOP_NODES], Vec::new(), Vec::new());
        for (number, (tree, heap)) in trees.iter().zip(&heaps).enumerate() {
            let depth = heap.len().ilog2() as usize - 1;
            let mut upper = Box::new([Upper::default(); TOP_NODES]);
            // A tree's nodes begin with those of the upper levels, which are not kept.
            let from = lower.len() - TOP_NODES;
            for (place, at) in heap.iter().enumerate().take(1 << depth).skip(1) {
                let node = &tree.nodes[*at as usize];
                if place < TOP_NODES {
                    if let NodeBuilder::Split { feature, test, missing_left, .. } = node {
                        let (lane, below) = bytes.place(*feature, test, *missing_left)?;
                        upper[place] = Upper { lane: lane as u16, threshold: (below as u8 ^ 128) as i8 };
                    }
                } else if let NodeBuilder::Split { feature, test, missing_left, .. } = node {
                    let (lane, below) = words.place(*feature, test, *missing_left)?;
                    lower.push(Lower { bins: (lane * ROWS) as u16, threshold: below as u16 });
                } else {
                    lower.push(Lower::default());
                }
            }
            let output = leaves.output_of(number);
            packed.push(Tree { top: depth.min(TOP), depth, upper, lower: from, output, values: values.len() });
            for at in &heap[1 << depth..] {
                let NodeBuilder::Leaf(leaf) = &tree.nodes[*at as usize] else { return None };
                let from = *leaf as usize * leaves.width;
                values.extend_from_slice(&leaves.values[from..from + leaves.width]);
            }
        }
        // The last tree has as many places as the others could have.
        lower.resize(lower.len() + PLACES, Lower::default());
        values.resize(values.len() + TOP_NODES * leaves.width, V::default());
        let (bytes, words, width) = (bytes.fills, words.fills, leaves.width);
        Some(Self { bytes, words, trees: packed, lower, values, width })
    }

    /// Adds the leaves of all rows to `sums`, one column an output.
    pub fn add(&self, vectors: Vectors, columns: &[&[T]], rows: usize, sums: &mut [Vec<V>]) {
        #[cfg(target_arch = "x86_64")]
        {
            if vectors.avx512() {
                #[expect(unsafe_code, reason = "the processor has what the function is compiled for")]
                // SAFETY: `Vectors` says so only of what the processor has.
                return unsafe { self.add_avx512(columns, rows, sums) };
            }
            if vectors.avx2() {
                #[expect(unsafe_code, reason = "the processor has what the function is compiled for")]
                // SAFETY: `Vectors` says so only of what the processor has.
                return unsafe { self.add_avx2(columns, rows, sums) };
            }
        }
        self.add_blocks::<16>(columns, rows, sums);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn add_avx512(&self, columns: &[&[T]], rows: usize, sums: &mut [Vec<V>]) {
        self.add_blocks::<64>(columns, rows, sums);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn add_avx2(&self, columns: &[&[T]], rows: usize, sums: &mut [Vec<V>]) {
        self.add_blocks::<32>(columns, rows, sums);
    }

    /// `WIDE` rows fill a register.
    #[inline(always)]
    fn add_blocks<const WIDE: usize>(&self, columns: &[&[T]], rows: usize, sums: &mut [Vec<V>]) {
        let mut lanes = vec![Lane([0; ROWS]); BYTE_LIMITS.lanes];
        let mut bins = vec![0u16; if self.words.is_empty() { 0 } else { WINDOW + ROWS }];
        for start in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - start);
            let values = |feature: usize| {
                let mut values = [T::default(); ROWS];
                values[..count].copy_from_slice(&columns[feature][start..start + count]);
                values
            };
            for fill in &self.bytes {
                put_bytes(fill, &values(fill.feature), &mut lanes);
            }
            for fill in &self.words {
                put_words(fill, &values(fill.feature), &mut bins);
            }
            let lanes: &Lanes = window(&lanes);
            for tree in &self.trees {
                let mut found = [0u8; ROWS];
                let places = found.as_chunks_mut::<WIDE>().0;
                match tree.top {
                    0..=3 => top::<WIDE, 3>(&tree.upper, lanes, places),
                    4 => top::<WIDE, 4>(&tree.upper, lanes, places),
                    5 => top::<WIDE, 5>(&tree.upper, lanes, places),
                    _ => top::<WIDE, 6>(&tree.upper, lanes, places),
                }
                let found = &found[..count];
                if tree.depth <= TOP {
                    self.add_tree(tree, start, found.iter().map(|at| *at as usize), sums);
                } else {
                    let found = self.walk(tree, found, &bins);
                    self.add_tree(tree, start, found[..count].iter().map(|at| *at as usize), sums);
                }
            }
        }
    }

    /// The place of the last level where every row of the block arrives.
    #[inline(always)]
    fn walk(&self, tree: &Tree, top: &[u8], bins: &[u16]) -> [u16; ROWS] {
        let nodes: &[Lower; PLACES] = window(&self.lower[tree.lower..]);
        let mut from = [1u8; ROWS];
        from[..top.len()].copy_from_slice(top);
        let mut found = [0u16; ROWS];
        let groups = found.as_chunks_mut::<ACROSS>().0.iter_mut().zip(from.as_chunks::<ACROSS>().0);
        for (group, (found, from)) in groups.enumerate() {
            let bins: &[u16; WINDOW] = window(&bins[group * ACROSS..]);
            let mut at = [0usize; ACROSS];
            for (at, from) in at.iter_mut().zip(from) {
                *at = usize::from(*from);
            }
            for _ in TOP..tree.depth {
                for (row, at) in at.iter_mut().enumerate() {
                    let node = nodes[*at % PLACES];
                    *at = 2 * *at + usize::from(bins[node.bins as usize + row] >= node.threshold);
                }
            }
            for (found, at) in found.iter_mut().zip(at) {
                *found = at as u16;
            }
        }
        found
    }

    /// Adds a tree's leaves.
    #[inline(always)]
    fn add_tree(&self, tree: &Tree, start: usize, found: impl Iterator<Item = usize>, sums: &mut [Vec<V>]) {
        let places = 1usize << tree.depth;
        let values = &self.values[tree.values..tree.values + places * self.width];
        if self.width == 1 {
            for (sum, at) in sums[tree.output][start..].iter_mut().zip(found) {
                *sum += values[at % places];
            }
            return;
        }
        for (row, at) in found.enumerate() {
            let values = &values[at % places * self.width..];
            for (sums, value) in sums.iter_mut().zip(values) {
                sums[start + row] += *value;
            }
        }
    }
}

/// How deep a checked tree is, at least 3, unless it is too deep.
pub fn depth(tree: &TreeBuilder) -> Option<usize> {
    let mut level = vec![0usize];
    for depth in 0..=MAX_DEPTH {
        let mut next = Vec::new();
        for at in level {
            if let NodeBuilder::Split { left, right, .. } = &tree.nodes[at] {
                next.extend([*left, *right]);
            }
        }
        if next.is_empty() {
            return Some(depth.max(3));
        }
        level = next;
    }
    None
}

/// The levels that a tree of this depth is filled up to, unless it is too deep.
pub fn levels(depth: usize) -> Option<usize> {
    (depth <= MAX_DEPTH).then_some(depth.max(3))
}

/// What a tree of this depth costs a row, in nodes of the kernel that evaluates
/// small trees whole: measured, a level that is walked costs as much as 20 of
/// those nodes, and a node in registers three quarters of one.
pub fn cost(depth: usize) -> usize {
    (3 << depth.min(TOP)) / 4 + 20 * depth.saturating_sub(TOP)
}

/// The nodes of a checked tree by their place in the heap; the root is in
/// place 1, and also in place 0, which is not used.
pub fn heap(tree: &TreeBuilder, depth: usize) -> Vec<u32> {
    let mut heap = vec![0u32; 2 << depth];
    for place in 1..1 << depth {
        let (left, right) = match &tree.nodes[heap[place] as usize] {
            NodeBuilder::Split { left, right, .. } => (*left as u32, *right as u32),
            NodeBuilder::Leaf(_) => (heap[place], heap[place]),
        };
        (heap[2 * place], heap[2 * place + 1]) = (left, right);
    }
    heap
}

/// The place after the first `LEVELS` levels where every row arrives.
#[inline(always)]
fn top<const WIDE: usize, const LEVELS: usize>(nodes: &[Upper; TOP_NODES], lanes: &Lanes, found: &mut [[u8; WIDE]]) {
    for (chunk, found) in found.iter_mut().enumerate() {
        let rows = Rows { nodes, lanes, chunk };
        *found = match LEVELS {
            3 => rows.three(1),
            4 => rows.four(1),
            5 => rows.five(1),
            _ => rows.six(1),
        };
    }
}

/// The rows that fill a register.
struct Rows<'a, const WIDE: usize> {
    nodes: &'a [Upper; TOP_NODES],
    lanes: &'a Lanes,
    chunk: usize,
}

impl<const WIDE: usize> Rows<'_, WIDE> {
    /// All bits set for rows that go left.
    #[inline(always)]
    fn below(&self, node: usize) -> [u8; WIDE] {
        let node = self.nodes[node];
        let bins = &self.lanes[node.lane as usize % BYTE_LIMITS.lanes].0.as_chunks::<WIDE>().0[self.chunk];
        let mut below = [0; WIDE];
        for row in 0..WIDE {
            below[row] = 0u8.wrapping_sub(u8::from(bins[row] < node.threshold));
        }
        below
    }

    /// Below a node of the last level.
    #[inline(always)]
    fn one(&self, node: usize) -> [u8; WIDE] {
        let (mut found, right) = (self.below(node), (2 * node + 1) as u8);
        for found in &mut found {
            *found = right.wrapping_add(*found);
        }
        found
    }

    #[inline(always)]
    fn select(&self, node: usize, left: [u8; WIDE], right: [u8; WIDE]) -> [u8; WIDE] {
        let mut found = self.below(node);
        for row in 0..WIDE {
            // A mask, not a choice of two addresses.
            found[row] = right[row] ^ ((left[row] ^ right[row]) & found[row]);
        }
        found
    }

    #[inline(always)]
    fn two(&self, node: usize) -> [u8; WIDE] {
        self.select(node, self.one(2 * node), self.one(2 * node + 1))
    }

    #[inline(always)]
    fn three(&self, node: usize) -> [u8; WIDE] {
        self.select(node, self.two(2 * node), self.two(2 * node + 1))
    }

    #[inline(always)]
    fn four(&self, node: usize) -> [u8; WIDE] {
        self.select(node, self.three(2 * node), self.three(2 * node + 1))
    }

    #[inline(always)]
    fn five(&self, node: usize) -> [u8; WIDE] {
        self.select(node, self.four(2 * node), self.four(2 * node + 1))
    }

    #[inline(always)]
    fn six(&self, node: usize) -> [u8; WIDE] {
        self.select(node, self.five(2 * node), self.five(2 * node + 1))
    }
}

/// The first places of an array; the arrays here end with a whole window.
#[inline(always)]
pub fn window<const N: usize, E>(values: &[E]) -> &[E; N] {
    match values.first_chunk() {
        Some(window) => window,
        None => unreachable!("the array ends with a whole window"),
    }
}

/// Fills the byte lanes of a feature.
#[inline(always)]
fn put_bytes<T: Value>(fill: &Fill<T>, values: &[T; ROWS], lanes: &mut [Lane]) {
    let bins = fill.bins.bytes(values);
    for (lane, instead) in [(fill.left, 0), (fill.right, u8::MAX)] {
        let Some(lane) = lane else { continue };
        for ((out, bin), value) in lanes[lane].0.iter_mut().zip(bins).zip(values) {
            *out = (if value.missing() { instead } else { bin } ^ 128) as i8;
        }
    }
}

/// Fills the word lanes of a feature.
#[inline(always)]
fn put_words<T: Value>(fill: &Fill<T>, values: &[T; ROWS], lanes: &mut [u16]) {
    let bins = fill.bins.words(values);
    for (lane, instead) in [(fill.left, 0), (fill.right, u16::MAX)] {
        let Some(lane) = lane else { continue };
        for ((out, bin), value) in lanes[lane * ROWS..(lane + 1) * ROWS].iter_mut().zip(bins).zip(values) {
            *out = if value.missing() { instead } else { bin };
        }
    }
}
