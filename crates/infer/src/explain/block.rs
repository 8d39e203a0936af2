//! All trees worked out, and rows sent through them block by block.
//!
//! Trees come first and rows second, in runs of up to [`MAX_RUN`] rows: the tables of a
//! tree stay in the cache while a run passes.

use super::plan::{self, Child, MAX_BITS, Split, Tree};
use super::table::Group;
use super::wide::{LANES, Leaf, Work};
use super::{Source, quadrature};
use crate::forest::{Test, Value, bits, contains};

/// Numbers of all tables at most: 128 MiB.
const MAX_CELLS: usize = 1 << 24;
/// Rows of a run at most.
const MAX_RUN: usize = 2048;
/// Sums of a run at most.
const MAX_SUMS: usize = 1 << 22;
/// Rows of a block at most.
const MAX_BLOCK: usize = 256;
/// Bytes of the decisions of a block at most.
const BLOCK_BYTES: usize = 1 << 18;

/// A model whose rows can be explained.
#[derive(Debug)]
pub struct Built {
    trees: Vec<Packed>,
    /// Splits and sides, of all bits of all groups and then leaves, in order.
    terms: Vec<u32>,
    cells: Vec<f64>,
    /// What the trees expect of every output.
    bias: Vec<f64>,
    /// Quadrature rules by number of players, as far as they are needed.
    rules: Vec<Vec<(f64, f64)>>,
    block: usize,
    widest: usize,
}

#[derive(Debug)]
struct Packed {
    decisions: Vec<Decision>,
    groups: Vec<Group>,
    leaves: Vec<Leaf>,
    /// Where its terms begin.
    terms: usize,
}

/// How a split decides, without the tree around it.
#[derive(Debug)]
struct Decision {
    slot: usize,
    missing_left: bool,
    test: Fast,
}

#[derive(Debug)]
enum Fast {
    Less(f64),
    In(Vec<u64>),
}

impl Decision {
    fn new(split: &Split) -> Self {
        let test = match &split.test {
            Test::Less(threshold) => Fast::Less(*threshold),
            Test::In(categories) => Fast::In(bits(categories)),
        };
        Self { slot: split.slot as usize, missing_left: split.missing_left, test }
    }

    /// 1 for the rows that go left, else 0.
    fn decide<T: Value>(&self, values: &[T], out: &mut [u8]) {
        match (&self.test, self.missing_left) {
            (Fast::Less(threshold), missing_left) => {
                let threshold = T::from_f64(*threshold);
                let missing = u8::from(missing_left);
                for (out, value) in out.iter_mut().zip(values) {
                    *out = u8::from(*value < threshold) | u8::from(value.missing()) & missing;
                }
            }
            (Fast::In(set), missing_left) => {
                for (out, value) in out.iter_mut().zip(values) {
                    *out = u8::from(if value.missing() { missing_left } else { contains(set, *value) });
                }
            }
        }
    }
}

impl Built {
    /// Works everything out.
    pub fn new(source: &Source) -> Result<Self, String> {
        let trees = trees(source)?;
        let bits = plan::bits(source, &trees, MAX_CELLS)?;
        Self::pack(source, &trees, bits)
    }

    /// Works everything out with groups of at most so many bits.
    #[cfg(test)]
    pub fn with_bits(source: &Source, bits: usize) -> Result<Self, String> {
        Self::pack(source, &trees(source)?, bits)
    }

    fn pack(source: &Source, trees: &[Tree], bits: usize) -> Result<Self, String> {
        let mut rules: Vec<Vec<(f64, f64)>> =
            (0..=MAX_BITS).map(|players| quadrature::rule(quadrature::points(players))).collect();
        let (mut terms, mut cells) = (Vec::new(), Vec::new());
        let mut bias = vec![0.0; source.outputs];
        let mut packed = Vec::with_capacity(trees.len());
        let (mut cost, mut widest, mut most) = (plan::Cost::default(), 0, 0);
        for (number, tree) in trees.iter().enumerate() {
            let output = source.groups.get(number).map_or(0, |group| *group as usize);
            let from = terms.len();
            let (mut groups, mut found) = (Vec::new(), Vec::new());
            tree.cut(bits, &mut cost, |path, at, wide| match at {
                Child::Leaf(leaf) if wide => found.push((path.to_vec(), leaf)),
                _ => groups.push(Group::new(source, (tree, path, at), output, &rules, &mut terms, &mut cells)),
            })?;
            let leaves: Vec<Leaf> =
                found.iter().map(|(path, leaf)| Leaf::new(source, (tree, path, *leaf), output, &mut terms)).collect();
            for leaf in &leaves {
                if rules.len() <= leaf.players() {
                    rules.resize(leaf.players() + 1, Vec::new());
                }
                if rules[leaf.players()].is_empty() {
                    rules[leaf.players()] = quadrature::rule(quadrature::points(leaf.players()));
                }
                widest = widest.max(leaf.players());
            }
            expect(source, tree, output, &mut bias);
            most = most.max(tree.splits.len());
            let decisions = tree.splits.iter().map(Decision::new).collect();
            packed.push(Packed { decisions, groups, leaves, terms: from });
        }
        let block = (BLOCK_BYTES / most.max(1)).clamp(LANES, MAX_BLOCK) / LANES * LANES;
        Ok(Self { trees: packed, terms, cells, bias, rules, block, widest })
    }

    /// See [`super::Explainer::values`].
    pub fn values<T: Value>(&self, source: &Source, slots: &[&[T]], rows: usize, base: &[f64]) -> Vec<f64> {
        let (columns, outputs) = (source.columns, source.outputs);
        let row = (columns + 1) * outputs;
        let mut values = vec![0.0; rows * row];
        let run = (MAX_SUMS / (columns * outputs).max(1)).clamp(1, MAX_RUN).min(rows);
        let mut sums = vec![vec![0.0; run]; columns * outputs];
        let mut room = Room {
            decisions: vec![0; self.block * self.trees.iter().map(|t| t.decisions.len()).max().unwrap_or(0)],
            pattern: vec![0; self.block],
            bit: vec![0; self.block],
            taken: vec![[0.0; LANES]; self.widest * self.block / LANES],
            work: Work::new(self.widest),
        };
        for start in (0..rows).step_by(run) {
            let count = run.min(rows - start);
            sums.iter_mut().for_each(|column| column.fill(0.0));
            for tree in &self.trees {
                for from in (0..count).step_by(self.block) {
                    let to = count.min(from + self.block);
                    self.tree(tree, source, (slots, start), from..to, &mut room, &mut sums);
                }
            }
            for output in 0..outputs {
                for column in 0..columns {
                    let sums = &sums[output * columns + column][..count];
                    let at = start * row + output * (columns + 1) + column;
                    for (value, sum) in values[at..].iter_mut().step_by(row).zip(sums) {
                        *value = *sum;
                    }
                }
                let at = start * row + output * (columns + 1) + columns;
                let bias = self.bias[output] + base[output];
                values[at..].iter_mut().step_by(row).take(count).for_each(|value| *value = bias);
            }
        }
        values
    }

    fn tree<T: Value>(
        &self,
        tree: &Packed,
        source: &Source,
        (slots, start): (&[&[T]], usize),
        rows: std::ops::Range<usize>,
        room: &mut Room,
        sums: &mut [Vec<f64>],
    ) {
        let count = rows.len();
        for (decision, out) in tree.decisions.iter().zip(room.decisions.chunks_exact_mut(self.block)) {
            let values = &slots[decision.slot][start + rows.start..start + rows.end];
            decision.decide(values, &mut out[..count]);
        }
        let mut from = tree.terms;
        for group in &tree.groups {
            room.pattern[..count].fill(0);
            for (bit, end) in group.bits.iter().enumerate() {
                room.bit(&self.terms[from..*end as usize], self.block, count);
                for (pattern, taken) in room.pattern[..count].iter_mut().zip(&room.bit) {
                    *pattern |= taken << bit;
                }
                from = *end as usize;
            }
            let patterns = 1 << group.bits.len();
            let cells = &self.cells[group.cells..group.cells + group.columns.len() * patterns];
            for (column, cells) in group.columns.iter().zip(cells.chunks_exact(patterns)) {
                look_up(cells, &room.pattern[..count], &mut sums[*column as usize][rows.clone()]);
            }
        }
        for leaf in &tree.leaves {
            let players = leaf.players();
            for (player, end) in leaf.bits.iter().enumerate() {
                room.bit(&self.terms[from..*end as usize], self.block, count);
                for (part, bits) in room.bit.chunks_exact(LANES).enumerate() {
                    room.taken[part * players + player] = std::array::from_fn(|lane| f64::from(bits[lane]));
                }
                from = *end as usize;
            }
            for (part, at) in rows.clone().step_by(LANES).enumerate() {
                let taken = &room.taken[part * players..(part + 1) * players];
                let rows = at..rows.end.min(at + LANES);
                leaf.add(source, &self.rules[players], taken, &mut room.work, sums, rows);
            }
        }
    }
}

/// The trees with their splits numbered.
fn trees(source: &Source) -> Result<Vec<Tree>, String> {
    let tree = |(number, tree)| {
        let covers = source.covers.get(number).map_or(&[][..], Vec::as_slice);
        Tree::new(tree, covers, &source.players).map_err(|e| format!("tree {number}: {e}"))
    };
    source.trees.iter().enumerate().map(tree).collect()
}

/// What the rows of a block need, allocated once.
#[derive(Debug)]
struct Room {
    decisions: Vec<u8>,
    pattern: Vec<u8>,
    bit: Vec<u8>,
    taken: Vec<[f64; LANES]>,
    work: Work,
}

impl Room {
    /// 1 for the rows that take all of `terms`, else 0.
    fn bit(&mut self, terms: &[u32], block: usize, count: usize) {
        for (number, term) in terms.iter().enumerate() {
            let from = (*term >> 1) as usize * block;
            let other = (*term & 1) as u8;
            let (bit, decisions) = (&mut self.bit[..count], &self.decisions[from..from + count]);
            if number == 0 {
                bit.iter_mut().zip(decisions).for_each(|(bit, left)| *bit = left ^ other);
            } else {
                bit.iter_mut().zip(decisions).for_each(|(bit, left)| *bit &= left ^ other);
            }
        }
    }
}

/// Adds the cell of every row's pattern.
fn look_up(cells: &[f64], pattern: &[u8], sums: &mut [f64]) {
    match cells.len() {
        2 => add_cells::<2>(cells, pattern, sums),
        4 => add_cells::<4>(cells, pattern, sums),
        8 => add_cells::<8>(cells, pattern, sums),
        16 => add_cells::<16>(cells, pattern, sums),
        32 => add_cells::<32>(cells, pattern, sums),
        64 => add_cells::<64>(cells, pattern, sums),
        128 => add_cells::<128>(cells, pattern, sums),
        _ => add_cells::<256>(cells, pattern, sums),
    }
}

fn add_cells<const N: usize>(cells: &[f64], pattern: &[u8], sums: &mut [f64]) {
    let cells = &cells[..N];
    for (sum, pattern) in sums.iter_mut().zip(pattern) {
        *sum += cells[*pattern as usize & (N - 1)];
    }
}

/// Adds what a tree expects.
fn expect(source: &Source, tree: &Tree, output: usize, bias: &mut [f64]) {
    let mut open = vec![(tree.root, 1.0)];
    while let Some((at, share)) = open.pop() {
        match at {
            Child::Leaf(leaf) => {
                let values = &source.values[leaf as usize * source.width..][..source.width];
                for (bias, value) in bias[output..].iter_mut().zip(values) {
                    *bias += share * value;
                }
            }
            Child::Split(split) => {
                let split = &tree.splits[split];
                open.extend((0..2).map(|side| (split.children[side], share * split.shares[side])));
            }
        }
    }
}
