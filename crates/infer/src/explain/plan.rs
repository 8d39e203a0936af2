//! How trees are cut into groups of leaves that share their bits.
//!
//! A group is the subtree below a node: its bits are one for every player on
//! the way to the node and one for every split in the subtree. A subtree with
//! too many bits is cut at its root; a single leaf with too many is *wide*.

use std::collections::HashMap;

use super::Source;
use crate::forest::{NodeBuilder, Test, TreeBuilder};

/// Bits of a group at most, so that its pattern is a byte.
pub const MAX_BITS: usize = 8;
/// Players on the way to a leaf at most.
const MAX_PLAYERS: usize = 1 << 12;
/// Steps of all paths at most.
const MAX_STEPS: usize = 1 << 27;
/// Comparisons of players at most, to find the different ones on all paths.
const MAX_WORK: usize = 1 << 33;

/// A split of a tree, by its number.
#[derive(Debug, Clone)]
pub struct Split {
    /// The slot it looks at.
    pub slot: u32,
    /// How it decides.
    pub test: Test,
    /// Where a missing value goes.
    pub missing_left: bool,
    /// The player that the slot belongs to.
    pub player: u32,
    /// The left and the right child.
    pub children: [Child; 2],
    /// The shares of the cover that go left and right.
    pub shares: [f64; 2],
    /// Splits in this subtree, this one included.
    size: usize,
}

/// What a split leads to.
#[derive(Debug, Clone, Copy)]
pub enum Child {
    /// Another split, by its number, which is larger.
    Split(usize),
    /// A leaf, by the loader's number.
    Leaf(u32),
}

/// One step of a path.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// The split.
    pub split: usize,
    /// Its left (0) or right (1) child.
    pub side: usize,
}

/// How much there is to do for all trees.
#[derive(Debug, Default)]
pub struct Cost {
    steps: usize,
    work: usize,
}

/// A tree whose splits are numbered from the root.
#[derive(Debug)]
pub struct Tree {
    /// Parents come before their children.
    pub splits: Vec<Split>,
    /// The root.
    pub root: Child,
}

impl Tree {
    /// From a checked tree and its covers.
    pub fn new(tree: &TreeBuilder, covers: &[f64], players: &[u32]) -> Result<Self, String> {
        let mut splits: Vec<Split> = Vec::new();
        // A node and the place in its parent that leads to it.
        let mut open: Vec<(usize, Option<(usize, usize)>)> = vec![(0, None)];
        let mut root = None;
        while let Some((at, from)) = open.pop() {
            let child = match tree.nodes.get(at) {
                None => return Err(format!("node {at} does not exist")),
                Some(NodeBuilder::Leaf(leaf)) => Child::Leaf(*leaf),
                Some(NodeBuilder::Split { feature, test, missing_left, left, right }) => {
                    let number = splits.len();
                    splits.push(Split {
                        slot: *feature,
                        test: test.clone(),
                        missing_left: *missing_left,
                        player: players[*feature as usize],
                        children: [Child::Leaf(0); 2],
                        shares: shares(covers, at, [*left, *right])?,
                        size: 1,
                    });
                    open.push((*right, Some((number, 1))));
                    open.push((*left, Some((number, 0))));
                    Child::Split(number)
                }
            };
            match from {
                Some((parent, side)) => splits[parent].children[side] = child,
                None => root = Some(child),
            }
        }
        for number in (0..splits.len()).rev() {
            let below: usize = splits[number].children.iter().map(|child| size(&splits, *child)).sum();
            splits[number].size += below;
        }
        let root = root.ok_or("it has no nodes")?;
        Ok(Self { splits, root })
    }

    /// Hands every group to `visit`: the way to it and its root, and whether
    /// it is a wide leaf.
    pub fn cut(&self, bits: usize, cost: &mut Cost, mut visit: impl FnMut(&[Step], Child, bool)) -> Result<(), String> {
        let mut path: Vec<Step> = Vec::new();
        let mut open: Vec<(Child, usize, Option<Step>)> = vec![(self.root, 0, None)];
        // How many steps every player has on the path.
        let mut times: HashMap<u32, u32> = HashMap::new();
        while let Some((at, depth, step)) = open.pop() {
            for step in path.drain(depth..) {
                let player = self.splits[step.split].player;
                match times.get_mut(&player) {
                    Some(count) if *count > 1 => *count -= 1,
                    _ => _ = times.remove(&player),
                }
            }
            if let Some(step) = step {
                *times.entry(self.splits[step.split].player).or_default() += 1;
                path.push(step);
            }
            let above = times.len();
            if above > MAX_PLAYERS {
                return Err("its paths are too long".into());
            }
            let fits = above + size(&self.splits, at) <= bits;
            match at {
                Child::Split(split) if !fits => {
                    for side in [1, 0] {
                        open.push((self.splits[split].children[side], path.len(), Some(Step { split, side })));
                    }
                }
                // A tree that is a leaf has no player.
                Child::Leaf(_) if path.is_empty() => {}
                _ => {
                    cost.steps += path.len();
                    cost.work += path.len() * above;
                    if cost.steps > MAX_STEPS || cost.work > MAX_WORK {
                        return Err("its paths are too long".into());
                    }
                    visit(&path, at, !fits);
                }
            }
        }
        Ok(())
    }

    /// The leaves below `at` with their paths from there.
    pub fn leaves(&self, at: Child, mut visit: impl FnMut(&[Step], u32)) {
        let mut path: Vec<Step> = Vec::new();
        let mut open = vec![(at, 0usize, None)];
        while let Some((at, depth, step)) = open.pop() {
            path.truncate(depth);
            path.extend(step);
            match at {
                Child::Leaf(leaf) => visit(&path, leaf),
                Child::Split(split) => {
                    for side in [1, 0] {
                        open.push((self.splits[split].children[side], path.len(), Some(Step { split, side })));
                    }
                }
            }
        }
    }

    /// The splits of the subtree `at`: they have consecutive numbers.
    pub fn splits_below(&self, at: Child) -> std::ops::Range<usize> {
        match at {
            Child::Leaf(_) => 0..0,
            Child::Split(split) => split..split + self.splits[split].size,
        }
    }
}

fn size(splits: &[Split], child: Child) -> usize {
    match child {
        Child::Leaf(_) => 0,
        Child::Split(split) => splits[split].size,
    }
}

/// The different players, in the order of their first appearance.
pub fn players(all: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut found = Vec::new();
    for player in all {
        if !found.contains(&player) {
            found.push(player);
        }
    }
    found
}

/// The shares of a node's cover that its children have. Where nothing arrived
/// the libraries divide zero by zero; here both children have a half, which
/// is nothing unless the row itself goes there.
fn shares(covers: &[f64], node: usize, children: [usize; 2]) -> Result<[f64; 2], String> {
    let cover = |node: usize| match covers.get(node) {
        None => Err("it does not say how many rows reached its nodes".to_owned()),
        Some(cover) if cover.is_finite() && *cover >= 0.0 => Ok(*cover),
        Some(cover) => Err(format!("node {node} has the cover `{cover}`")),
    };
    let (all, left, right) = (cover(node)?, cover(children[0])?, cover(children[1])?);
    if all == 0.0 && left == 0.0 && right == 0.0 {
        return Ok([0.5; 2]);
    }
    let shares = [left / all, right / all];
    if shares.iter().all(|share| share.is_finite()) {
        return Ok(shares);
    }
    Err(format!("node {node} has the cover `{all}`, its children have `{left}` and `{right}`"))
}

/// The bits of groups with which all tables have at most `cells` numbers.
pub fn bits(source: &Source, trees: &[Tree], cells: usize) -> Result<usize, String> {
    for bits in (1..=MAX_BITS).rev() {
        let (mut cost, mut used) = (Cost::default(), 0usize);
        for (number, tree) in trees.iter().enumerate() {
            let cut = tree.cut(bits, &mut cost, |path, at, wide| {
                if !wide {
                    let below = tree.splits_below(at);
                    let own = players(path.iter().map(|step| tree.splits[step.split].player));
                    let targets = targets(source, tree, path, at).len();
                    used += (targets * source.width) << (own.len() + below.len());
                }
            });
            cut.map_err(|e| format!("tree {number}: {e}"))?;
        }
        if used <= cells {
            return Ok(bits);
        }
    }
    Ok(0)
}

/// The targets of all players on the way to a group and in it.
pub fn targets(source: &Source, tree: &Tree, path: &[Step], at: Child) -> Vec<u32> {
    let below = tree.splits_below(at);
    let all = path.iter().map(|step| step.split).chain(below);
    players(all.map(|split| source.targets[tree.splits[split].player as usize]))
}
