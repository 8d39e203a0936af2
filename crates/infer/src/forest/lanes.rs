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
//! has no branch and no dependent load: 64 rows cost three vector instructions
//! a node and register. The compiler vectorises the loops; [`Lanes::add`] runs
//! them compiled for the widest registers that the processor has.

use std::collections::{BTreeMap, HashMap};

use super::{Leaves, NodeBuilder, Sum, Test, TreeBuilder, Value, bits, contains};

/// Rows of a block.
const ROWS: usize = 64;
/// Leaves of a tree: their numbers are bytes.
const MAX_LEAVES: usize = 256;
/// Thresholds of a lane: bins are 0 to 254, and 255 for a missing value.
const MAX_CUTS: usize = 254;
/// Lanes of a block: together they stay in the second-level cache.
const MAX_LANES: usize = 4096;
/// The first places of the work space hold the numbers of the leaves.
const CONSTANTS: usize = MAX_LEAVES;

/// Bins, less 128: signed bytes compare in one instruction.
type Lane = [i8; ROWS];
/// Leaf numbers.
type Found = [u8; ROWS];

/// `work[out] = lane < threshold ? work[left] : work[right]`
#[derive(Debug, Clone, Copy)]
struct Select {
    lane: u16,
    left: u16,
    right: u16,
    out: u16,
    threshold: i8,
}

/// The end of a tree's selections, and where its values are.
#[derive(Debug)]
struct Tree {
    end: usize,
    found: u16,
    output: usize,
    values: usize,
}

/// How lanes are filled.
#[derive(Debug)]
struct Fill<T> {
    feature: usize,
    bins: Bins<T>,
    /// The lane in which a missing value goes left.
    left: Option<usize>,
    /// The lane in which it goes right.
    right: Option<usize>,
}

#[derive(Debug)]
enum Bins<T> {
    /// Few thresholds: all are compared.
    Few(Vec<T>),
    /// Sixteen groups of sixteen: first the group, then the place in it. NaN,
    /// which nothing reaches, fills up.
    Many(Box<[[T; 16]; 17]>),
    /// Categories.
    Set(Vec<u64>),
}

/// Trees as a program over lanes.
#[derive(Debug)]
pub struct Lanes<T, V> {
    fills: Vec<Fill<T>>,
    lanes: usize,
    work: usize,
    program: Vec<Select>,
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
        let mut plan = Plan::new(trees, slots)?;
        let (mut program, mut packed) = (Vec::new(), Vec::with_capacity(trees.len()));
        let mut values = Vec::new();
        let mut work = CONSTANTS;
        for (number, tree) in trees.iter().enumerate() {
            let at = values.len();
            let found = plan.tree(tree, &mut program, &mut work, &mut |leaf| {
                let from = leaf as usize * leaves.width;
                values.extend_from_slice(&leaves.values[from..from + leaves.width]);
            })?;
            packed.push(Tree { end: program.len(), found, output: leaves.output_of(number), values: at });
        }
        // A byte can be any leaf: the last tree has as many values as the others could have.
        values.resize(values.len() + MAX_LEAVES * leaves.width, V::default());
        Some(Self { fills: plan.fills, lanes: plan.lanes, work, program, trees: packed, values, width: leaves.width })
    }

    /// Adds the leaves of all rows to `sums`, one column an output.
    pub fn add(&self, columns: &[&[T]], rows: usize, sums: &mut [Vec<V>]) {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512bw") && std::arch::is_x86_feature_detected!("avx512vl") {
                #[expect(unsafe_code, reason = "the processor has what the function is compiled for")]
                // SAFETY: both features were detected.
                return unsafe { self.add_avx512(columns, rows, sums) };
            }
            if std::arch::is_x86_feature_detected!("avx2") {
                #[expect(unsafe_code, reason = "the processor has what the function is compiled for")]
                // SAFETY: the feature was detected.
                return unsafe { self.add_avx2(columns, rows, sums) };
            }
        }
        self.add_blocks(columns, rows, sums);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2")]
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
        let mut lanes: Vec<Lane> = vec![[0; ROWS]; self.lanes];
        let mut work: Vec<Found> = vec![[0; ROWS]; self.work];
        for (number, constant) in work.iter_mut().take(CONSTANTS).enumerate() {
            *constant = [number as u8; ROWS];
        }
        for start in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - start);
            for fill in &self.fills {
                let mut values = [T::default(); ROWS];
                values[..count].copy_from_slice(&columns[fill.feature][start..start + count]);
                fill.fill(&values, &mut lanes);
            }
            let mut from = 0;
            for tree in &self.trees {
                for select in &self.program[from..tree.end] {
                    let lane = &lanes[select.lane as usize];
                    let (left, right) = (work[select.left as usize], work[select.right as usize]);
                    let mut out = [0; ROWS];
                    for row in 0..ROWS {
                        // A mask, not a choice of two addresses.
                        let below = 0u8.wrapping_sub(u8::from(lane[row] < select.threshold));
                        out[row] = right[row] ^ ((left[row] ^ right[row]) & below);
                    }
                    work[select.out as usize] = out;
                }
                from = tree.end;
                self.add_tree(tree, &work[tree.found as usize], start, count, sums);
            }
        }
    }

    #[inline(always)]
    fn add_tree(&self, tree: &Tree, found: &Found, start: usize, count: usize, sums: &mut [Vec<V>]) {
        match self.width {
            1 => {
                let values: &[V; MAX_LEAVES] = self.table(tree.values);
                let sums = &mut sums[tree.output][start..start + count];
                for (sum, leaf) in sums.iter_mut().zip(found) {
                    *sum += values[*leaf as usize];
                }
            }
            2 => {
                let values: &[V; 2 * MAX_LEAVES] = self.table(tree.values);
                let [zero, one] = sums else { return };
                let (zero, one) = (&mut zero[start..start + count], &mut one[start..start + count]);
                for ((zero, one), leaf) in zero.iter_mut().zip(one).zip(found) {
                    *zero += values[2 * *leaf as usize];
                    *one += values[2 * *leaf as usize + 1];
                }
            }
            width => {
                for (output, sums) in sums.iter_mut().enumerate() {
                    for (sum, leaf) in sums[start..start + count].iter_mut().zip(found) {
                        *sum += self.values[tree.values + width * *leaf as usize + output];
                    }
                }
            }
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

impl<T: Value> Fill<T> {
    #[inline(always)]
    fn fill(&self, values: &[T; ROWS], lanes: &mut [Lane]) {
        let mut bins = [0u8; ROWS];
        match &self.bins {
            Bins::Few(cuts) => {
                for cut in cuts {
                    for (bin, value) in bins.iter_mut().zip(values) {
                        *bin += u8::from(*value >= *cut);
                    }
                }
            }
            Bins::Many(groups) => {
                for (bin, value) in bins.iter_mut().zip(values) {
                    let group = reached(&groups[16], *value);
                    *bin = 16 * group + reached(&groups[group as usize & 15], *value);
                }
            }
            Bins::Set(set) => {
                for (bin, value) in bins.iter_mut().zip(values) {
                    *bin = u8::from(!contains(set, *value));
                }
            }
        }
        let missing = values.map(Value::missing);
        for (lane, instead) in [(self.left, 0u8), (self.right, 255)] {
            let Some(lane) = lane else { continue };
            let lane = &mut lanes[lane];
            for row in 0..ROWS {
                let bin = if missing[row] { instead } else { bins[row] };
                lane[row] = (bin ^ 128) as i8;
            }
        }
    }
}

/// How many of the thresholds a value reaches.
#[inline(always)]
fn reached<T: Value>(cuts: &[T; 16], value: T) -> u8 {
    let mut count = 0;
    for cut in cuts {
        count += u32::from(value >= *cut);
    }
    count as u8
}

/// A numeric test: which lane, and below which bin it goes left.
type Place = (usize, usize);

/// Finds the lanes that trees need.
struct Plan<T> {
    fills: Vec<Fill<T>>,
    lanes: usize,
    /// The thresholds of every feature, ascending.
    cuts: Vec<Vec<T>>,
    /// The first fill of every feature.
    first: Vec<usize>,
    sets: HashMap<(u32, bool, Vec<u64>), usize>,
}

impl<T: Value> Plan<T> {
    fn new(trees: &[TreeBuilder], slots: usize) -> Option<Self> {
        let mut cuts: BTreeMap<usize, Vec<T>> = BTreeMap::new();
        for node in trees.iter().flat_map(|t| &t.nodes) {
            if let NodeBuilder::Split { feature, test: Test::Less(threshold), .. } = node {
                cuts.entry(*feature as usize).or_default().push(T::from_f64(*threshold));
            }
        }
        let mut plan = Self {
            fills: Vec::new(),
            lanes: 0,
            cuts: vec![Vec::new(); slots],
            first: vec![0; slots],
            sets: HashMap::new(),
        };
        for (feature, mut found) in cuts {
            found.sort_unstable_by(Value::order);
            found.dedup_by(|a, b| a == b);
            plan.first[feature] = plan.fills.len();
            for chunk in found.chunks(MAX_CUTS) {
                plan.fills.push(Fill { feature, bins: Bins::of(chunk), left: None, right: None });
            }
            plan.cuts[feature] = found;
        }
        (plan.fills.len() <= MAX_LANES).then_some(plan)
    }

    /// The lane of a fill for one direction of missing values.
    fn lane(&mut self, fill: usize, missing_left: bool) -> usize {
        let next = self.lanes;
        let fill = &mut self.fills[fill];
        let lane = if missing_left { &mut fill.left } else { &mut fill.right };
        if lane.is_none() {
            self.lanes += 1;
        }
        *lane.get_or_insert(next)
    }

    fn place(&mut self, feature: u32, test: &Test, missing_left: bool) -> Place {
        match test {
            Test::Less(threshold) => {
                let threshold = T::from_f64(*threshold);
                let at = self.cuts[feature as usize].partition_point(|cut| *cut < threshold);
                let fill = self.first[feature as usize] + at / MAX_CUTS;
                (self.lane(fill, missing_left), at % MAX_CUTS + 1)
            }
            Test::In(categories) => {
                let key = (feature, missing_left, bits(categories));
                let fill = match self.sets.get(&key) {
                    Some(fill) => *fill,
                    None => {
                        let bins = Bins::Set(key.2.clone());
                        self.fills.push(Fill { feature: feature as usize, bins, left: None, right: None });
                        self.sets.insert(key, self.fills.len() - 1);
                        self.fills.len() - 1
                    }
                };
                (self.lane(fill, missing_left), 1)
            }
        }
    }

    /// Appends the selections of a tree and answers where its leaf numbers
    /// end up. `keep` is told the leaves in the order of their numbers.
    fn tree(
        &mut self,
        tree: &TreeBuilder,
        program: &mut Vec<Select>,
        work: &mut usize,
        keep: &mut impl FnMut(u32),
    ) -> Option<u16> {
        // Parents before children; then, from the end, children before parents.
        let mut order = vec![0usize];
        let mut next = 0;
        while let Some(at) = order.get(next).copied() {
            if let NodeBuilder::Split { left, right, .. } = &tree.nodes[at] {
                order.extend([*left, *right]);
            }
            next += 1;
        }
        // Places of the work space that a node needs at once: the child that
        // needs more goes first, so that eight places do for 256 leaves.
        let mut needs = vec![0usize; tree.nodes.len()];
        for at in order.iter().rev() {
            if let NodeBuilder::Split { left, right, .. } = &tree.nodes[*at] {
                let (a, b) = (needs[*left], needs[*right]);
                needs[*at] = if a == b { a + 1 } else { a.max(b) };
            }
        }
        enum Step {
            Enter(usize),
            Leave(usize),
        }
        let mut leaves = 0u16;
        let mut results: HashMap<usize, u16> = HashMap::new();
        let mut free: Vec<u16> = Vec::new();
        let mut top = CONSTANTS;
        let mut steps = vec![Step::Enter(0)];
        while let Some(step) = steps.pop() {
            match step {
                Step::Enter(at) => match &tree.nodes[at] {
                    NodeBuilder::Leaf(leaf) => {
                        keep(*leaf);
                        results.insert(at, leaves);
                        leaves += 1;
                    }
                    NodeBuilder::Split { left, right, .. } => {
                        steps.push(Step::Leave(at));
                        let (first, second) =
                            if needs[*left] >= needs[*right] { (*left, *right) } else { (*right, *left) };
                        steps.push(Step::Enter(second));
                        steps.push(Step::Enter(first));
                    }
                },
                Step::Leave(at) => {
                    let NodeBuilder::Split { feature, test, missing_left, left, right } = &tree.nodes[at] else {
                        continue;
                    };
                    let (lane, below) = self.place(*feature, test, *missing_left);
                    let (left, right) = (results.remove(left)?, results.remove(right)?);
                    free.extend([left, right].into_iter().filter(|place| usize::from(*place) >= CONSTANTS));
                    let out = free.pop().unwrap_or_else(|| {
                        top += 1;
                        (top - 1) as u16
                    });
                    *work = (*work).max(top);
                    results.insert(at, out);
                    if self.lanes > MAX_LANES {
                        return None;
                    }
                    let threshold = (below as u8 ^ 128) as i8;
                    program.push(Select { lane: lane as u16, left, right, out, threshold });
                }
            }
        }
        results.remove(&0)
    }
}

impl<T: Value> Bins<T> {
    fn of(cuts: &[T]) -> Self {
        if cuts.len() <= 24 {
            return Self::Few(cuts.to_vec());
        }
        let mut groups = Box::new([[T::NAN; 16]; 17]);
        for (at, cut) in cuts.iter().enumerate() {
            groups[at / 16][at % 16] = *cut;
        }
        for group in 0..16 {
            groups[16][group] = groups[group][15];
        }
        Self::Many(groups)
    }
}
