use super::*;

fn split(feature: u32, threshold: f64, left: usize, right: usize) -> NodeBuilder {
    NodeBuilder::Split { feature, test: Test::Less(threshold), missing_left: false, left, right }
}

/// The leaves of rows, by both kernels where both can.
fn leaves_of(trees: &[TreeBuilder], slots: usize, rows: &[Vec<f64>]) -> Vec<u32> {
    let columns: Vec<Vec<f64>> = (0..slots).map(|slot| rows.iter().map(|r| r[slot]).collect()).collect();
    let columns: Vec<&[f64]> = columns.iter().map(Vec::as_slice).collect();
    let leaves = || Leaves::single((0..5000).map(f64::from).collect());
    leaves().check(trees).unwrap();
    for tree in trees {
        check(tree, slots).unwrap();
    }
    let mut walked = vec![vec![0.0; rows.len()]];
    walk::Walk::new(trees, slots).unwrap().add(&columns, rows.len(), &leaves(), &mut walked);
    let (lanes, heaps) = (lanes::Lanes::new(trees, slots, &leaves()), heaps::Heaps::new(trees, slots, &leaves()));
    for vectors in Vectors::available() {
        if let Some(lanes) = &lanes {
            let mut found = vec![vec![0.0; rows.len()]];
            lanes.add(vectors, &columns, rows.len(), &mut found);
            assert_eq!(found, walked, "{vectors:?}");
        }
        if let Some(heaps) = &heaps {
            let mut found = vec![vec![0.0; rows.len()]];
            heaps.add(vectors, &columns, rows.len(), &mut found);
            assert_eq!(found, walked, "{vectors:?}");
        }
    }
    let ensemble = Ensemble::new(&Arc::new(trees.to_vec()), slots, leaves()).unwrap();
    let mut scratch = Scratch::default();
    for (row, wanted) in rows.iter().zip(&walked[0]) {
        let mut sum = [0.0];
        ensemble.add_row(row, &mut scratch, &mut sum);
        assert_eq!(sum, [*wanted]);
        if let Some(bytes) = single::Bytes::new(trees, slots, &leaves()) {
            for vectors in Vectors::available() {
                let mut sum = [0.0];
                bytes.add(vectors, row, &mut scratch, &mut sum);
                assert_eq!(sum, [*wanted], "{vectors:?}");
            }
        }
        if let Some(heaps) = single::Heaps::new(trees, slots, &leaves()) {
            let mut sum = [0.0];
            heaps.add(row, &mut scratch, &mut sum);
            assert_eq!(sum, [*wanted]);
        }
        let mut sum = [0.0];
        single::walk(&walk::Walk::new(trees, slots).unwrap(), &leaves(), row, &mut scratch, &mut sum);
        assert_eq!(sum, [*wanted]);
    }
    walked[0].iter().map(|leaf| *leaf as u32).collect()
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
    let trees = [TreeBuilder { nodes }];
    let rows = [
        [0.5, 9.0],
        [1.0, 4.0],
        [1.0, 5.0],
        [f64::NAN, 0.0],
        [2.0, f64::NAN],
        [-1e300, 0.0],
        [f64::INFINITY, f64::NEG_INFINITY],
    ];
    let wanted = [10, 11, 12, 11, 12, 10, 11];
    let many: Vec<Vec<f64>> = rows.iter().cycle().take(1003).map(|r| r.to_vec()).collect();
    let wanted: Vec<u32> = wanted.iter().cycle().take(1003).copied().collect();
    assert_eq!(leaves_of(&trees, 2, &many), wanted);
}

#[test]
fn a_missing_value_goes_where_its_node_says_even_at_infinite_thresholds() {
    for threshold in [0.0, f64::INFINITY, f64::NEG_INFINITY] {
        for (first, second) in [(true, true), (true, false), (false, true), (false, false)] {
            let node = |missing_left, left, right| NodeBuilder::Split {
                feature: 0,
                test: Test::Less(threshold),
                missing_left,
                left,
                right,
            };
            let nodes = vec![
                node(first, 1, 2),
                node(second, 3, 4),
                node(second, 5, 6),
                NodeBuilder::Leaf(3),
                NodeBuilder::Leaf(4),
                NodeBuilder::Leaf(5),
                NodeBuilder::Leaf(6),
            ];
            let trees = [TreeBuilder { nodes }];
            let wanted = if first { 3 } else { 5 } + u32::from(!second);
            assert_eq!(leaves_of(&trees, 1, &[vec![f64::NAN]]), [wanted], "{threshold} {first} {second}");
        }
    }
}

#[test]
fn a_lopsided_tree_is_walked_to_its_end() {
    let depth = 57;
    let mut nodes = Vec::new();
    for level in 0..depth {
        nodes.push(split(0, f64::from(level), 2 * level as usize + 1, 2 * level as usize + 2));
        nodes.push(NodeBuilder::Leaf(level as u32));
    }
    nodes.push(NodeBuilder::Leaf(1000));
    let trees = [TreeBuilder { nodes }];
    assert_eq!(check(&trees[0], 1), Ok(57));
    let rows: Vec<Vec<f64>> = (-1..60).map(|v| vec![f64::from(v)]).collect();
    let wanted: Vec<u32> = (-1..60).map(|v: i32| if v >= 56 { 1000 } else { (v + 1) as u32 }).collect();
    assert_eq!(leaves_of(&trees, 1, &rows), wanted);
}

#[test]
fn a_tree_with_a_cycle_or_a_wild_index_is_refused() {
    for nodes in [
        vec![split(0, 1.0, 0, 0)],
        vec![split(0, 1.0, 1, 1), NodeBuilder::Leaf(0)],
        vec![split(0, 1.0, 7, 8)],
        vec![split(9, 1.0, 1, 2), NodeBuilder::Leaf(0), NodeBuilder::Leaf(0)],
    ] {
        let trees = Arc::new(vec![TreeBuilder { nodes }]);
        assert!(Ensemble::<f64, f64>::new(&trees, 1, Leaves::single(vec![0.0])).is_err());
    }
}

#[test]
fn a_category_goes_left_when_it_is_in_the_set() {
    let nodes = vec![
        NodeBuilder::Split { feature: 0, test: Test::In([1, 70].into()), missing_left: true, left: 1, right: 2 },
        NodeBuilder::Leaf(1),
        NodeBuilder::Leaf(2),
    ];
    let trees = [TreeBuilder { nodes }];
    let rows = [1.0, 70.0, 2.0, -1.0, f64::NAN, 70.9, f64::INFINITY, 1e18].map(|v| vec![v]);
    assert_eq!(leaves_of(&trees, 1, &rows), [1, 1, 2, 2, 1, 2, 2, 2]);
}

/// A repeatable stream of numbers.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// A tree of at most so many levels and splits, whose leaves have the numbers from `first` on.
fn random_tree(numbers: &mut Numbers, slots: usize, levels: usize, splits: usize, first: &mut u32) -> TreeBuilder {
    let mut nodes = vec![NodeBuilder::Leaf(0)];
    let mut depths = vec![0];
    for _ in 0..splits {
        let at = numbers.below(nodes.len());
        if depths[at] == levels || matches!(nodes[at], NodeBuilder::Split { .. }) {
            continue;
        }
        let feature = numbers.below(slots) as u32;
        let test = match numbers.below(6) {
            0 => Test::In((0..70).filter(|_| numbers.below(2) == 0).collect()),
            _ => Test::Less(numbers.below(900) as f64 / 2.0 - 100.0),
        };
        let (left, right) = (nodes.len(), nodes.len() + 1);
        nodes[at] = NodeBuilder::Split { feature, test, missing_left: numbers.below(2) == 0, left, right };
        depths.extend([depths[at] + 1; 2]);
        nodes.extend([NodeBuilder::Leaf(0), NodeBuilder::Leaf(0)]);
    }
    for node in &mut nodes {
        if let NodeBuilder::Leaf(leaf) = node {
            *leaf = *first;
            *first += 1;
        }
    }
    TreeBuilder { nodes }
}

#[test]
fn a_row_by_itself_has_the_same_bits_in_every_form_whatever_the_trees() {
    let mut numbers = Numbers(5);
    let (mut in_bytes, mut lanes) = (0, std::collections::BTreeSet::new());
    for round in 0..60 {
        // From few lanes to more than a table of bytes has; several outputs, of trees and of leaves.
        let slots = [3, 20, 45, 90, 160][round % 5];
        let (width, outputs) = [(1, 1), (1, 3), (2, 2), (3, 3)][round % 4];
        let levels = if round % 7 == 6 { 9 } else { 1 + round % 6 };
        let mut count = 0;
        let trees: Vec<TreeBuilder> =
            (0..1 + round * 3).map(|_| random_tree(&mut numbers, slots, levels, 90, &mut count)).collect();
        let values: Vec<f32> = (0..count as usize * width).map(|_| numbers.below(1000) as f32 / 7.0 - 50.0).collect();
        let leaves = match outputs {
            _ if width > 1 => Leaves::vectors(values, width),
            1 => Leaves::single(values),
            _ => Leaves::grouped(values, (0..trees.len()).map(|tree| (tree % outputs) as u32).collect(), outputs),
        };
        let trees = Arc::new(trees);
        let ensemble = Ensemble::new(&trees, slots, leaves.clone()).unwrap();
        let walk = walk::Walk::new(&trees, slots).unwrap();
        let bytes = single::Bytes::new(&trees, slots, &leaves);
        let mut scratch = Scratch::default();
        for _ in 0..40 {
            let value = |numbers: &mut Numbers| match numbers.below(12) {
                0 => f32::NAN,
                1 => f32::INFINITY,
                2 => f32::NEG_INFINITY,
                _ => numbers.below(900) as f32 / 2.0 - 100.0,
            };
            let row: Vec<f32> = (0..slots).map(|_| value(&mut numbers)).collect();
            let mut wanted = vec![vec![0.5f32]; outputs];
            let columns: Vec<&[f32]> = row.iter().map(std::slice::from_ref).collect();
            walk.add(&columns, 1, &leaves, &mut wanted);
            let wanted: Vec<u32> = wanted.iter().map(|sum| sum[0].to_bits()).collect();
            let bits = |sums: &[f32]| sums.iter().map(|sum| sum.to_bits()).collect::<Vec<u32>>();
            let mut sums = vec![0.5; outputs];
            ensemble.add_row(&row, &mut scratch, &mut sums);
            assert_eq!(bits(&sums), wanted, "round {round}");
            let Some(bytes) = &bytes else { continue };
            for vectors in Vectors::available() {
                let mut sums = vec![0.5; outputs];
                bytes.add(vectors, &row, &mut scratch, &mut sums);
                assert_eq!(bits(&sums), wanted, "round {round}, {vectors:?}");
            }
        }
        in_bytes += usize::from(bytes.is_some());
        lanes.extend(bytes.map(|bytes| bytes.lanes().div_ceil(64)));
    }
    // One register, two, and up to four.
    assert!(in_bytes > 20 && lanes.contains(&1) && lanes.contains(&2) && lanes.contains(&4), "{in_bytes} {lanes:?}");
}
