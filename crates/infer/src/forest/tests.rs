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
    if let Some(lanes) = lanes::Lanes::new(trees, slots, &leaves()) {
        let mut found = vec![vec![0.0; rows.len()]];
        lanes.add(&columns, rows.len(), &mut found);
        assert_eq!(found, walked);
    }
    if let Some(heaps) = heaps::Heaps::new(trees, slots, &leaves()) {
        let mut found = vec![vec![0.0; rows.len()]];
        heaps.add(&columns, rows.len(), &mut found);
        assert_eq!(found, walked);
    }
    let ensemble = Ensemble::new(trees, slots, leaves()).unwrap();
    let mut scratch = Scratch::default();
    for (row, wanted) in rows.iter().zip(&walked[0]) {
        let mut sum = [0.0];
        ensemble.add_row(row, &mut scratch, &mut sum);
        assert_eq!(sum, [*wanted]);
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
        assert!(Ensemble::<f64, f64>::new(&[TreeBuilder { nodes }], 1, Leaves::single(vec![0.0])).is_err());
    }
}

#[test]
fn a_category_goes_left_when_it_is_in_the_set() {
    let nodes = vec![
        NodeBuilder::Split { feature: 0, test: Test::In(vec![1, 70]), missing_left: true, left: 1, right: 2 },
        NodeBuilder::Leaf(1),
        NodeBuilder::Leaf(2),
    ];
    let trees = [TreeBuilder { nodes }];
    let rows = [1.0, 70.0, 2.0, -1.0, f64::NAN, 70.9, f64::INFINITY, 1e18].map(|v| vec![v]);
    assert_eq!(leaves_of(&trees, 1, &rows), [1, 1, 2, 2, 1, 2, 2, 2]);
}
