//! Against Shapley's own definition, over all subsets of players.

use std::sync::Arc;

use super::*;
use crate::forest::{NodeBuilder, Test};

/// A repeatable stream of numbers.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

const SLOTS: usize = 5;

/// A random tree of at most so many splits, and its covers.
fn tree(numbers: &mut Numbers, splits: usize, values: &mut Vec<f64>) -> (TreeBuilder, Vec<f64>) {
    let mut nodes = vec![NodeBuilder::Leaf(0)];
    let mut covers = vec![1000.0];
    for _ in 0..splits {
        let at = numbers.below(nodes.len() as u64) as usize;
        if matches!(nodes[at], NodeBuilder::Split { .. }) || covers[at] < 2.0 {
            continue;
        }
        let (left, right) = (nodes.len(), nodes.len() + 1);
        let feature = numbers.below(SLOTS as u64) as u32;
        let test = match feature {
            0 => Test::In((0..4).filter(|_| numbers.below(2) == 0).collect()),
            _ => Test::Less(numbers.below(7) as f64),
        };
        nodes[at] = NodeBuilder::Split { feature, test, missing_left: numbers.below(2) == 0, left, right };
        let part = (covers[at] * (1 + numbers.below(8)) as f64 / 10.0).floor();
        covers.extend([part, covers[at] - part]);
        nodes.extend([NodeBuilder::Leaf(0), NodeBuilder::Leaf(0)]);
    }
    for node in &mut nodes {
        if let NodeBuilder::Leaf(leaf) = node {
            *leaf = values.len() as u32;
            values.push(numbers.below(2000) as f64 / 100.0 - 10.0);
        }
    }
    (TreeBuilder { nodes }, covers)
}

/// What a tree expects of a row of which it knows the players in `known`.
fn expected(source: &Source, number: usize, at: usize, row: &[f64], known: u32) -> f64 {
    let (tree, covers) = (&source.trees[number], &source.covers[number]);
    match &tree.nodes[at] {
        NodeBuilder::Leaf(leaf) => source.values[*leaf as usize],
        NodeBuilder::Split { feature, test, missing_left, left, right } => {
            let below = |child: usize| expected(source, number, child, row, known);
            if known >> source.players[*feature as usize] & 1 == 0 {
                return (covers[*left] * below(*left) + covers[*right] * below(*right)) / covers[at];
            }
            let value = row[*feature as usize];
            let goes_left = match test {
                _ if value.is_nan() => *missing_left,
                Test::Less(threshold) => value < *threshold,
                Test::In(set) => set.contains(&(value as u32)),
            };
            below(if goes_left { *left } else { *right })
        }
    }
}

fn shapley(source: &Source, row: &[f64], players: usize) -> Vec<f64> {
    let value = |known: u32| (0..source.trees.len()).map(|tree| expected(source, tree, 0, row, known)).sum::<f64>();
    let factorial = |n: usize| (1..=n).map(|i| i as f64).product::<f64>();
    (0..players)
        .map(|player| {
            let others = (0u32..1 << players).filter(|known| known >> player & 1 == 0);
            let part = |known: u32| {
                let size = known.count_ones() as usize;
                factorial(size) * factorial(players - size - 1) / factorial(players)
                    * (value(known | 1 << player) - value(known))
            };
            others.map(part).sum()
        })
        .collect()
}

fn rows(numbers: &mut Numbers, count: usize) -> Vec<Vec<f64>> {
    let value = |numbers: &mut Numbers| match numbers.below(9) {
        8 => f64::NAN,
        number => number as f64,
    };
    (0..SLOTS).map(|_| (0..count).map(|_| value(numbers)).collect()).collect()
}

fn source(numbers: &mut Numbers, trees: usize, splits: usize, players: Vec<u32>, columns: usize) -> Source {
    let mut values = Vec::new();
    let (trees, covers): (Vec<_>, Vec<_>) = (0..trees).map(|_| tree(numbers, splits, &mut values)).unzip();
    Source {
        trees: Arc::new(trees),
        covers,
        values,
        width: 1,
        groups: Vec::new(),
        outputs: 1,
        players,
        targets: (0..columns as u32).collect(),
        columns,
    }
}

#[test]
fn contributions_are_the_shapley_values_of_all_subsets() {
    let mut numbers = Numbers(7);
    for round in 0..60 {
        // Slots 3 and 4 are one player in half of the rounds.
        let (players, columns) = if round % 2 == 0 { (vec![0, 1, 2, 3, 4], 5) } else { (vec![0, 1, 2, 3, 3], 4) };
        let source = source(&mut numbers, 3, 2 + round, players, columns);
        let slots = rows(&mut numbers, 20);
        let explainer = Explainer::new(source);
        let found = explainer.values::<f64>(&slots, 20, &[0.5]).unwrap();
        for row in 0..20 {
            let one: Vec<f64> = slots.iter().map(|slot| slot[row]).collect();
            let mut wanted = shapley(&explainer.source, &one, columns);
            let nothing: f64 = (0..3).map(|tree| expected(&explainer.source, tree, 0, &one, 0)).sum();
            wanted.push(nothing + 0.5);
            for (column, wanted) in wanted.iter().enumerate() {
                let found = found[row * (columns + 1) + column];
                assert!((found - wanted).abs() < 1e-12, "round {round} row {row} column {column}: {found} {wanted}");
            }
        }
    }
}

#[test]
fn tables_and_wide_leaves_give_the_same_values() {
    let mut numbers = Numbers(11);
    for splits in [1, 3, 9, 40] {
        let source = source(&mut numbers, 4, splits, vec![0, 1, 2, 3, 4], 5);
        let slots = rows(&mut numbers, 700);
        let slots: Vec<&[f64]> = slots.iter().map(Vec::as_slice).collect();
        let values = |bits: usize| Built::with_bits(&source, bits).unwrap().values(&source, &slots, 700, &[0.0]);
        let most = values(plan::MAX_BITS);
        for bits in 0..plan::MAX_BITS {
            for (a, b) in most.iter().zip(values(bits)) {
                assert!((a - b).abs() < 1e-12, "{splits} splits, {bits} bits: {a} {b}");
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_batch() {
    let mut numbers = Numbers(3);
    let source = source(&mut numbers, 6, 60, vec![0, 1, 2, 3, 4], 5);
    let slots = rows(&mut numbers, 5000);
    // With few bits the leaves are wide.
    for bits in [plan::MAX_BITS, 4, 0] {
        let built = Built::with_bits(&source, bits).unwrap();
        let values = |from: usize, to: usize| {
            let part: Vec<&[f64]> = slots.iter().map(|slot| &slot[from..to]).collect();
            built.values(&source, &part, to - from, &[1.0])
        };
        let all = values(0, 5000);
        for (from, to) in [(0, 1), (17, 19), (20, 23), (100, 611), (2040, 2060), (4999, 5000)] {
            let same = values(from, to).iter().zip(&all[from * 6..]).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{bits} bits, rows {from} to {to}");
        }
    }
}

#[test]
fn a_model_without_covers_or_with_impossible_ones_is_refused_by_name() {
    let mut numbers = Numbers(5);
    let refusal = |change: &dyn Fn(&mut Source)| {
        let mut source = source(&mut Numbers(5), 2, 9, vec![0, 1, 2, 3, 4], 5);
        change(&mut source);
        Explainer::new(source).values::<f64>(&rows(&mut Numbers(1), 2), 2, &[0.0]).unwrap_err().to_string()
    };
    assert!(rows(&mut numbers, 1).len() == SLOTS);
    assert!(refusal(&|s| s.covers[1].clear()).contains("tree 1: it does not say how many rows"));
    assert!(refusal(&|s| s.covers[0][0] = f64::NAN).contains("tree 0: node 0 has the cover `NaN`"));
    assert!(refusal(&|s| s.covers[0][0] = -1.0).contains("node 0 has the cover `-1`"));
    assert!(refusal(&|s| s.covers[0][0] = 0.0).contains("node 0 has the cover `0`, its children"));
}

#[test]
fn a_batch_too_large_for_memory_is_refused_with_the_size_that_fits() {
    assert!(check_size(1 << 20, 255, 1).is_ok());
    let error = check_size((1 << 20) + 1, 255, 1).unwrap_err();
    assert_eq!(error.hint(), Some("explain at most 1048576 rows at a time"));
}

#[test]
fn a_chain_with_a_player_a_node_is_explained_within_its_limits() {
    let chain = |length: usize| {
        let mut nodes = Vec::new();
        for at in 0..length {
            let (feature, test) = (at as u32, Test::Less(0.5));
            let (left, right) = (2 * at + 1, 2 * at + 2);
            nodes.push(NodeBuilder::Split { feature, test, missing_left: true, left, right });
            nodes.push(NodeBuilder::Leaf(at as u32));
        }
        nodes.push(NodeBuilder::Leaf(length as u32));
        let mut covers = Vec::new();
        for at in 0..length {
            covers.extend([(length - at + 1) as f64, 1.0]);
        }
        covers.push(1.0);
        Explainer::new(Source {
            trees: Arc::new(vec![TreeBuilder { nodes }]),
            covers: vec![covers],
            values: (0..=length).map(|leaf| leaf as f64).collect(),
            width: 1,
            groups: Vec::new(),
            outputs: 1,
            players: (0..length as u32).collect(),
            targets: (0..length as u32).collect(),
            columns: length,
        })
    };
    // Every row goes right all the way, to the last leaf.
    let found = chain(200).values::<f64>(&vec![vec![1.0; 3]; 200], 3, &[0.0]).unwrap();
    assert!(found.chunks_exact(201).all(|row| (row.iter().sum::<f64>() - 200.0).abs() < 1e-9));
    let error = chain(5000).values::<f64>(&vec![vec![1.0; 1]; 5000], 1, &[0.0]).unwrap_err();
    assert!(error.to_string().contains("its paths are too long"), "{error}");
}
