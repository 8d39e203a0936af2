//! Contributions of a group for every pattern of its bits.

use super::Source;
use super::plan::{Child, Step, Tree, players, targets};

/// A group of leaves whose contributions are worked out.
#[derive(Debug)]
pub struct Group {
    /// For every bit the splits and sides that must all be taken: the end in
    /// the terms of all groups.
    pub bits: Vec<u32>,
    /// The accumulators that the group adds to.
    pub columns: Vec<u32>,
    /// Where its cells begin: `1 << bits` for every accumulator.
    pub cells: usize,
}

/// A split and the side that must be taken: `split * 2 + side`.
pub fn term(step: Step) -> u32 {
    (step.split * 2 + step.side) as u32
}

/// A player on the path to a leaf: the mask of the group's bits that must be
/// set, the mask of those that must not be, and its share.
struct Seat {
    player: u32,
    set: u32,
    unset: u32,
    share: f64,
}

impl Group {
    /// Works a group out. `output` is that of the tree, if leaves hold one
    /// number.
    pub fn new(
        source: &Source,
        (tree, path, at): (&Tree, &[Step], Child),
        output: usize,
        rules: &[Vec<(f64, f64)>],
        terms: &mut Vec<u32>,
        cells: &mut Vec<f64>,
    ) -> Self {
        let above = players(path.iter().map(|step| tree.splits[step.split].player));
        let below = tree.splits_below(at);
        let mut bits = Vec::with_capacity(above.len() + below.len());
        for player in &above {
            terms.extend(path.iter().filter(|step| tree.splits[step.split].player == *player).map(|step| term(*step)));
            bits.push(terms.len() as u32);
        }
        for split in below.clone() {
            terms.push(term(Step { split, side: 0 }));
            bits.push(terms.len() as u32);
        }
        let targets = targets(source, tree, path, at);
        let (from, patterns) = (cells.len(), 1usize << bits.len());
        cells.resize(from + targets.len() * source.width * patterns, 0.0);
        let own = &mut cells[from..];
        tree.leaves(at, |way, leaf| {
            let seats = seats(tree, path, &above, way, below.start);
            let values = &source.values[leaf as usize * source.width..][..source.width];
            let places: Vec<usize> = seats
                .iter()
                .map(|seat| targets.iter().position(|t| *t == source.targets[seat.player as usize]).unwrap_or(0))
                .collect();
            let worked_out = all_patterns(&seats, &rules[seats.len()]);
            for pattern in 0..patterns {
                let taken = seats.iter().enumerate().fold(0usize, |taken, (number, seat)| {
                    let takes = pattern as u32 & seat.set == seat.set && pattern as u32 & seat.unset == 0;
                    taken | usize::from(takes) << number
                });
                for (number, place) in places.iter().enumerate() {
                    let part = worked_out[taken * seats.len() + number];
                    for (of, value) in values.iter().enumerate() {
                        own[(place * source.width + of) * patterns + pattern] += part * value;
                    }
                }
            }
        });
        let column = |target: &u32, of: usize| (output + of) * source.columns + *target as usize;
        let columns = targets.iter().flat_map(|t| (0..source.width).map(move |of| column(t, of) as u32)).collect();
        Self { bits, columns, cells: from }
    }
}

/// The players on the path to a leaf of a group.
fn seats(tree: &Tree, path: &[Step], above: &[u32], way: &[Step], first: usize) -> Vec<Seat> {
    let mut seats: Vec<Seat> =
        above.iter().enumerate().map(|(bit, p)| Seat { player: *p, set: 1 << bit, unset: 0, share: 1.0 }).collect();
    for step in path.iter().chain(way) {
        let player = tree.splits[step.split].player;
        if !seats.iter().any(|seat| seat.player == player) {
            seats.push(Seat { player, set: 0, unset: 0, share: 1.0 });
        }
        for seat in seats.iter_mut().filter(|seat| seat.player == player) {
            seat.share *= tree.splits[step.split].shares[step.side];
        }
    }
    for step in way {
        let bit = 1u32 << (above.len() + step.split - first);
        for seat in seats.iter_mut().filter(|seat| seat.player == tree.splits[step.split].player) {
            if step.side == 0 {
                seat.set |= bit;
            } else {
                seat.unset |= bit;
            }
        }
    }
    seats
}

/// The contributions to a leaf of value 1, for every set of players that take
/// the path: one number a player.
fn all_patterns(seats: &[Seat], rule: &[(f64, f64)]) -> Vec<f64> {
    let players = seats.len();
    let mut found = vec![0.0; players << players];
    let mut before = vec![0.0; players];
    for (taken, out) in found.chunks_exact_mut(players).enumerate() {
        let takes = |player: usize| (taken >> player & 1) as f64;
        for (t, weight) in rule {
            let factor = |player: usize| (1.0 - t) * seats[player].share + t * takes(player);
            let mut product = *weight;
            for (player, before) in before.iter_mut().enumerate() {
                *before = product;
                product *= factor(player);
            }
            let mut after = 1.0;
            for player in (0..players).rev() {
                out[player] += before[player] * after;
                after *= factor(player);
            }
        }
        for (player, out) in out.iter_mut().enumerate() {
            *out *= takes(player) - seats[player].share;
        }
    }
    found
}
