//! Whole trees, 64 rows at a time, in bytes.
//!
//! A tree compares a feature with few different thresholds. So a value is
//! first replaced by its *bin*, the number of that feature's thresholds that it
//! reaches: `x < threshold[k]` is then `bin <= k`, one byte comparison. A block
//! of 64 rows has a *lane* of 64 bins per feature; a feature with more than 254
//! thresholds has several lanes. A missing value is the smallest bin where it
//! goes left and the largest where it goes right, so a feature whose splits
//! disagree about that has a lane for each. A set of categories is a lane of
//! its own, 0 inside and 1 outside.
//!
//! A tree is evaluated from its leaves up: each node selects, row by row,
//! between the leaf numbers that its children found. That visits all nodes but
//! has no branch, and no load depends on another: 64 rows cost three vector
//! instructions a node and register. Several trees are evaluated together,
//! lowest nodes first, so that a node's operands were finished long before. The
//! compiler vectorises the loops; [`Lanes::add`] runs them compiled for the
//! widest registers that the processor has.

use super::bins::{Fill, Limits, Plan};
use super::{Leaves, NodeBuilder, Sum, TreeBuilder, Value};
use crate::vectors::Vectors;

/// Rows of a block.
const ROWS: usize = 128;
/// Leaves of a tree: their numbers are bytes.
const MAX_LEAVES: usize = 256;
/// Thresholds of a lane: bins are 0 to 254, and 255 for a missing value.
const MAX_CUTS: usize = 254;
/// Lanes of a block: together they stay in the second-level cache.
const MAX_LANES: usize = 4096;
/// Trees are evaluated together until their leaf numbers fill this many places:
/// the work space stays in the first-level cache.
const GROUP: usize = 64;
/// The first places of the work space hold the numbers of the leaves.
const CONSTANTS: usize = MAX_LEAVES;

/// Bins, less 128: signed bytes compare in one instruction. Aligned, so that no
/// load crosses a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Lane([i8; ROWS]);

/// Leaf numbers.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Found([u8; ROWS]);

/// A node above two leaves with consecutive numbers:
/// `work[out] = lane < threshold ? leaf : leaf + 1`
#[derive(Debug, Clone, Copy)]
struct Pair {
    lane: u16,
    out: u16,
    threshold: i8,
    leaf: u8,
}

/// Any other node: `work[out] = lane < threshold ? work[left] : work[right]`
#[derive(Debug, Clone, Copy)]
struct Select {
    lane: u16,
    left: u16,
    right: u16,
    out: u16,
    threshold: i8,
}

/// Trees that are evaluated together: the ends of their parts of the program.
#[derive(Debug)]
struct Group {
    pairs: usize,
    selects: usize,
    trees: usize,
}

/// Where a tree's leaf numbers end up, and where its values are.
#[derive(Debug)]
struct Tree {
    found: u16,
    output: usize,
    values: usize,
}
/// Trees as a program over lanes.
#[derive(Debug)]
pub struct Lanes<T, V> {
    fills: Vec<Fill<T>>,
    lanes: usize,
    work: usize,
    groups: Vec<Group>,
    pairs: Vec<Pair>,
    selects: Vec<Select>,
    trees: Vec<Tree>,
    /// By tree and leaf, `width` numbers each.
    values: Vec<V>,
    width: usize,
}

impl<T: Value, V: Sum> Lanes<T, V> {
    /// The program of checked trees, if they suit this kernel.
    pub fn new(trees: &[TreeBuilder], slots: usize, leaves: &Leaves<V>) -> Option<Self> {
        let leaf_count = |t: &TreeBuilder| t.nodes.iter().filter(|n| matches!(n, NodeBuilder::Leaf(_))).count();
        if trees.iter().any(|t| leaf_count(t) > MAX_LEAVES) {
            return None;
        }
        let mut plan = Plan::new(trees, slots, Limits { cuts: MAX_CUTS, lanes: MAX_LANES })?;
        let (mut groups, mut pairs, mut packed, mut values) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        // With the height of the node above the leaves, for the order within a group.
        let (mut selects, mut open): (Vec<Select>, Vec<(usize, Select)>) = (Vec::new(), Vec::new());
        let (mut top, mut work) = (CONSTANTS, CONSTANTS);
        for (number, tree) in trees.iter().enumerate() {
            let at = values.len();
            let found = program(&mut plan, tree, &mut pairs, &mut open, &mut top, &mut |leaf| {
                let from = leaf as usize * leaves.width;
                values.extend_from_slice(&leaves.values[from..from + leaves.width]);
            })?;
            packed.push(Tree { found, output: leaves.output_of(number), values: at });
            work = work.max(top);
            if top - CONSTANTS >= GROUP || number + 1 == trees.len() {
                open.sort_by_key(|(height, _)| *height);
                selects.extend(open.drain(..).map(|(_, select)| select));
                groups.push(Group { pairs: pairs.len(), selects: selects.len(), trees: packed.len() });
                top = CONSTANTS;
            }
        }
        // A byte can be any leaf: the last tree has as many values as the others could have.
        values.resize(values.len() + MAX_LEAVES * leaves.width, V::default());
        let (fills, lanes, width) = (plan.fills, plan.lanes, leaves.width);
        Some(Self { fills, lanes, work, groups, pairs, selects, trees: packed, values, width })
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
        self.add_blocks(columns, rows, sums);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn add_avx512(&self, columns: &[&[T]], rows: usize, sums: &mut [Vec<V>]) {
        self.add_blocks(columns, rows, sums);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn add_avx2(&self, columns: &[&[T]], rows: usize, sums: &mut [Vec<V>]) {
        self.add_blocks(columns, rows, sums);
    }

    #[inline(always)]
    fn add_blocks(&self, columns: &[&[T]], rows: usize, sums: &mut [Vec<V>]) {
        let mut lanes: Vec<Lane> = vec![Lane([0; ROWS]); self.lanes];
        let mut work: Vec<Found> = vec![Found([0; ROWS]); self.work];
        for (number, constant) in work.iter_mut().take(CONSTANTS).enumerate() {
            constant.0 = [number as u8; ROWS];
        }
        for start in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - start);
            for fill in &self.fills {
                let mut values = [T::default(); ROWS];
                values[..count].copy_from_slice(&columns[fill.feature][start..start + count]);
                put(fill, &values, &mut lanes);
            }
            let (mut pairs, mut selects, mut trees) = (0, 0, 0);
            for group in &self.groups {
                for pair in &self.pairs[pairs..group.pairs] {
                    let lane = &lanes[pair.lane as usize].0;
                    let right = pair.leaf.wrapping_add(1);
                    let mut out = [0; ROWS];
                    for row in 0..ROWS {
                        out[row] = right.wrapping_sub(u8::from(lane[row] < pair.threshold));
                    }
                    work[pair.out as usize].0 = out;
                }
                for select in &self.selects[selects..group.selects] {
                    let lane = &lanes[select.lane as usize].0;
                    let (left, right) = (work[select.left as usize].0, work[select.right as usize].0);
                    let mut out = [0; ROWS];
                    for row in 0..ROWS {
                        // A mask, not a choice of two addresses.
                        let below = 0u8.wrapping_sub(u8::from(lane[row] < select.threshold));
                        out[row] = right[row] ^ ((left[row] ^ right[row]) & below);
                    }
                    work[select.out as usize].0 = out;
                }
                self.add_trees(&self.trees[trees..group.trees], &work, start, count, sums);
                (pairs, selects, trees) = (group.pairs, group.selects, group.trees);
            }
        }
    }

    /// Adds the leaves that trees have found, in the order of the trees.
    #[inline(always)]
    fn add_trees(&self, trees: &[Tree], work: &[Found], start: usize, count: usize, sums: &mut [Vec<V>]) {
        let found = |tree: &Tree| &work[tree.found as usize].0;
        match self.width {
            1 => {
                // Four trees at a time, so that a sum is loaded and stored once.
                let (fours, rest) = trees.as_chunks::<4>();
                for four in fours {
                    let [a, b, c, d] = four.each_ref().map(|tree| self.table::<MAX_LEAVES>(tree.values));
                    let [of_a, of_b, of_c, of_d] = four.each_ref().map(found);
                    let output = four[0].output;
                    if four.iter().any(|tree| tree.output != output) {
                        for tree in four {
                            self.add_tree(tree, found(tree), start, count, sums);
                        }
                        continue;
                    }
                    for (row, sum) in sums[output][start..start + count].iter_mut().enumerate() {
                        let mut total = *sum;
                        total += a[of_a[row % ROWS] as usize];
                        total += b[of_b[row % ROWS] as usize];
                        total += c[of_c[row % ROWS] as usize];
                        total += d[of_d[row % ROWS] as usize];
                        *sum = total;
                    }
                }
                for tree in rest {
                    self.add_tree(tree, found(tree), start, count, sums);
                }
            }
            2 => {
                let [zero, one] = sums else { return };
                let (zero, one) = (&mut zero[start..start + count], &mut one[start..start + count]);
                for tree in trees {
                    let values: &[V; 2 * MAX_LEAVES] = self.table(tree.values);
                    for ((zero, one), leaf) in zero.iter_mut().zip(&mut *one).zip(found(tree)) {
                        *zero += values[2 * *leaf as usize];
                        *one += values[2 * *leaf as usize + 1];
                    }
                }
            }
            width => {
                for tree in trees {
                    for (output, sums) in sums.iter_mut().enumerate() {
                        for (sum, leaf) in sums[start..start + count].iter_mut().zip(found(tree)) {
                            *sum += self.values[tree.values + width * *leaf as usize + output];
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn add_tree(&self, tree: &Tree, found: &[u8; ROWS], start: usize, count: usize, sums: &mut [Vec<V>]) {
        let values: &[V; MAX_LEAVES] = self.table(tree.values);
        for (sum, leaf) in sums[tree.output][start..start + count].iter_mut().zip(found) {
            *sum += values[*leaf as usize];
        }
    }

    #[inline(always)]
    fn table<const N: usize>(&self, from: usize) -> &[V; N] {
        match self.values[from..].first_chunk() {
            Some(table) => table,
            None => unreachable!("the values end with a whole table"),
        }
    }
}
/// Fills the lanes of a feature.
#[inline(always)]
fn put<T: Value>(fill: &Fill<T>, values: &[T; ROWS], lanes: &mut [Lane]) {
    let bins = fill.bins.bytes(values);
    let missing = values.map(Value::missing);
    for (lane, instead) in [(fill.left, 0u8), (fill.right, 255)] {
        let Some(lane) = lane else { continue };
        let lane = &mut lanes[lane];
        for row in 0..ROWS {
            let bin = if missing[row] { instead } else { bins[row] };
            lane.0[row] = (bin ^ 128) as i8;
        }
    }
}

/// Adds the nodes of a tree and answers where its leaf numbers end up.
/// `keep` is told the leaves in the order of their numbers.
fn program<T: Value>(
    plan: &mut Plan<T>,
    tree: &TreeBuilder,
    pairs: &mut Vec<Pair>,
    selects: &mut Vec<(usize, Select)>,
    top: &mut usize,
    keep: &mut impl FnMut(u32),
) -> Option<u16> {
    enum Step {
        Enter(usize),
        Leave(usize),
    }
    let mut leaves = 0u16;
    // By node: where its leaf numbers are, and its height above the leaves.
    let mut done: Vec<Option<(u16, usize)>> = vec![None; tree.nodes.len()];
    let mut steps = vec![Step::Enter(0)];
    while let Some(step) = steps.pop() {
        let at = match step {
            Step::Enter(at) => {
                match &tree.nodes[at] {
                    NodeBuilder::Leaf(leaf) => {
                        keep(*leaf);
                        done[at] = Some((leaves, 0));
                        leaves += 1;
                    }
                    NodeBuilder::Split { left, right, .. } => {
                        steps.extend([Step::Leave(at), Step::Enter(*right), Step::Enter(*left)]);
                    }
                }
                continue;
            }
            Step::Leave(at) => at,
        };
        let NodeBuilder::Split { feature, test, missing_left, left, right } = &tree.nodes[at] else { continue };
        let (lane, below) = plan.place(*feature, test, *missing_left)?;
        let (lane, threshold) = (lane as u16, (below as u8 ^ 128) as i8);
        let ((left, left_height), (right, right_height)) = (done[*left].take()?, done[*right].take()?);
        let height = left_height.max(right_height) + 1;
        // A node takes the place of a child, unless both are leaves.
        let out = if left_height > 0 {
            left
        } else if right_height > 0 {
            right
        } else {
            *top += 1;
            (*top - 1) as u16
        };
        if height == 1 {
            pairs.push(Pair { lane, out, threshold, leaf: left as u8 });
        } else {
            selects.push((height, Select { lane, left, right, out, threshold }));
        }
        done[at] = Some((out, height));
    }
    done[0].map(|(found, _)| found)
}
