//! Leaves with many players on their path, integrated for rows side by side.

use super::Source;
use super::plan::{Step, Tree, players};
use super::table::term;

/// Rows side by side.
pub const LANES: usize = 16;
/// Rows side by side when there are no more.
const FEW: usize = 2;

/// A leaf whose patterns are too many for a table.
#[derive(Debug)]
pub struct Leaf {
    /// For every player the end of its terms in the terms of all groups.
    pub bits: Vec<u32>,
    /// The shares of the players.
    shares: Vec<f64>,
    /// The targets of the players.
    targets: Vec<u32>,
    /// The leaf's numbers, from here on.
    values: usize,
    /// The first output.
    output: usize,
}

impl Leaf {
    /// Describes a leaf.
    pub fn new(
        source: &Source,
        (tree, path, leaf): (&Tree, &[Step], u32),
        output: usize,
        terms: &mut Vec<u32>,
    ) -> Self {
        let own = players(path.iter().map(|step| tree.splits[step.split].player));
        let (mut bits, mut shares) = (Vec::with_capacity(own.len()), Vec::with_capacity(own.len()));
        for player in &own {
            let mut share = 1.0;
            for step in path.iter().filter(|step| tree.splits[step.split].player == *player) {
                terms.push(term(*step));
                share *= tree.splits[step.split].shares[step.side];
            }
            bits.push(terms.len() as u32);
            shares.push(share);
        }
        let targets = own.iter().map(|player| source.targets[*player as usize]).collect();
        Self { bits, shares, targets, values: leaf as usize * source.width, output }
    }

    /// Players on the path.
    pub fn players(&self) -> usize {
        self.shares.len()
    }

    /// Adds the contributions of up to [`LANES`] rows; `taken` says for every
    /// player which rows take the path.
    pub fn add(
        &self,
        source: &Source,
        rule: &[(f64, f64)],
        taken: &[[f64; LANES]],
        work: &mut Work,
        out: &mut [Vec<f64>],
        rows: std::ops::Range<usize>,
    ) {
        if rows.len() <= FEW {
            self.add_lanes::<FEW>(source, rule, taken, work, out, rows);
        } else {
            self.add_lanes::<LANES>(source, rule, taken, work, out, rows);
        }
    }

    /// Works on the first `N` lanes.
    fn add_lanes<const N: usize>(
        &self,
        source: &Source,
        rule: &[(f64, f64)],
        taken: &[[f64; LANES]],
        work: &mut Work,
        out: &mut [Vec<f64>],
        rows: std::ops::Range<usize>,
    ) {
        let count = self.shares.len();
        work.parts[..count].fill([0.0; LANES]);
        for (t, weight) in rule {
            let mut product = [*weight; LANES];
            for ((before, taken), share) in work.before.iter_mut().zip(taken).zip(&self.shares) {
                *before = product;
                let rest = (1.0 - t) * share;
                for (product, taken) in product[..N].iter_mut().zip(taken) {
                    *product *= rest + t * taken;
                }
            }
            let mut after = [1.0; LANES];
            for player in (0..count).rev() {
                let (part, before, taken) = (&mut work.parts[player], &work.before[player], &taken[player]);
                let rest = (1.0 - t) * self.shares[player];
                let rows = part[..N].iter_mut().zip(&mut after).zip(before.iter().zip(taken));
                for ((part, after), (before, taken)) in rows {
                    *part += before * *after;
                    *after *= rest + t * taken;
                }
            }
        }
        for player in 0..count {
            let mut part = work.parts[player];
            for (part, taken) in part.iter_mut().zip(&taken[player]).take(N) {
                *part *= taken - self.shares[player];
            }
            for of in 0..source.width {
                let value = source.values[self.values + of];
                let column = (self.output + of) * source.columns + self.targets[player] as usize;
                for (sum, part) in out[column][rows.clone()].iter_mut().zip(part) {
                    *sum += part * value;
                }
            }
        }
    }
}

/// Room for the players of a path.
#[derive(Debug)]
pub struct Work {
    before: Vec<[f64; LANES]>,
    parts: Vec<[f64; LANES]>,
}

impl Work {
    /// For paths of at most so many players.
    pub fn new(players: usize) -> Self {
        Self { before: vec![[0.0; LANES]; players], parts: vec![[0.0; LANES]; players] }
    }
}
