//! Tree ensembles: `TreeEnsembleClassifier`, `TreeEnsembleRegressor` and the
//! newer `TreeEnsemble`, on the kernels of [`crate::forest`].
//!
//! ONNX Runtime compares and adds in the input's precision, from zero, in the
//! order of the trees, and adds the base values last; with several threads it
//! adds the trees of a model in parts, with one it does not. So it is here: its
//! scores with one thread, to the bit.
//!
//! The kernels know `value < threshold` and where a missing value goes. `<=`,
//! `>=` and `>` are that with other thresholds or the children exchanged. What
//! is not, `==` and `!=` and infinite thresholds, becomes a slot of its own
//! that is 0 where the node's test holds and 1 where it does not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::super::explain::{Explained, Slots};
use super::super::node::{Classes, Inputs, Run, Settings, Whole};
use super::super::tensor::{Data, Kind, Tensor};
use super::scores::{self, Score, Second, Transform};
use crate::error::{Error, Result};
use crate::explain::{Explainer, Source};
use crate::forest::{Ensemble, Leaves, NodeBuilder, Test, TreeBuilder, Value};

/// Values of all leaves: each leaf has one for every class.
const MAX_LEAF_VALUES: usize = 1 << 26;
/// Classes and targets.
const MAX_OUTPUTS: usize = 1 << 16;

/// How a node compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Mode {
    LessOrEqual,
    Less,
    GreaterOrEqual,
    Greater,
    Equal,
    NotEqual,
}

impl Mode {
    fn named(name: &str) -> Result<Option<Self>> {
        Ok(Some(match name {
            "LEAF" => return Ok(None),
            "BRANCH_LEQ" => Self::LessOrEqual,
            "BRANCH_LT" => Self::Less,
            "BRANCH_GTE" => Self::GreaterOrEqual,
            "BRANCH_GT" => Self::Greater,
            "BRANCH_EQ" => Self::Equal,
            "BRANCH_NEQ" => Self::NotEqual,
            other => return Err(Error::invalid(format!("the node mode `{other}` is not supported"))),
        }))
    }

    fn holds<T: PartialOrd>(self, value: T, threshold: T) -> bool {
        match self {
            Self::LessOrEqual => value <= threshold,
            Self::Less => value < threshold,
            Self::GreaterOrEqual => value >= threshold,
            Self::Greater => value > threshold,
            Self::Equal => value == threshold,
            Self::NotEqual => value != threshold,
        }
    }
}

/// A precision in which trees are computed.
trait Precision: Value + Score + crate::forest::Sum {
    /// Columns of slots.
    fn slots(columns: Vec<Vec<Self>>) -> Slots;
    fn next_up(self) -> Self;
    fn finite(self) -> bool;
    fn bits(self) -> u64;
    fn wide(self) -> f64;
    /// The values of a tensor, row by row.
    fn of(tensor: &Tensor) -> Result<Vec<Self>>;
}

impl Precision for f32 {
    fn slots(columns: Vec<Vec<Self>>) -> Slots {
        Slots::Singles(columns)
    }
    fn next_up(self) -> Self {
        Self::next_up(self)
    }
    fn finite(self) -> bool {
        self.is_finite()
    }
    fn bits(self) -> u64 {
        u64::from(self.to_bits())
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn of(tensor: &Tensor) -> Result<Vec<Self>> {
        Ok(tensor.singles()?.into_owned())
    }
}

impl Precision for f64 {
    fn slots(columns: Vec<Vec<Self>>) -> Slots {
        Slots::Doubles(columns)
    }
    fn next_up(self) -> Self {
        Self::next_up(self)
    }
    fn finite(self) -> bool {
        self.is_finite()
    }
    fn bits(self) -> u64 {
        self.to_bits()
    }
    fn wide(self) -> f64 {
        self
    }
    fn of(tensor: &Tensor) -> Result<Vec<Self>> {
        tensor.doubles()
    }
}

/// A node as the file has it.
#[derive(Debug, Clone)]
struct RawNode {
    feature: u32,
    mode: Option<Mode>,
    missing_true: bool,
    threshold: f64,
    /// Its children in the tree; of a leaf the range of its weights.
    yes: u32,
    no: u32,
}

/// Trees as the file has them.
#[derive(Debug)]
struct Raw {
    /// Of all trees, one behind the other.
    nodes: Vec<RawNode>,
    /// Where every tree begins, and the end.
    starts: Vec<usize>,
    /// Outputs and values of all leaves.
    weights: Vec<(u32, f64)>,
    /// How many training rows reached every node; empty when the file does not say.
    covers: Vec<f64>,
    outputs: usize,
}

impl Raw {
    fn trees(&self) -> impl ExactSizeIterator<Item = &[RawNode]> {
        self.starts.windows(2).map(|ends| &self.nodes[ends[0]..ends[1]])
    }

    fn weights(&self, leaf: &RawNode) -> &[(u32, f64)] {
        &self.weights[leaf.yes as usize..leaf.no as usize]
    }
}

/// How leaves become one score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aggregate {
    Sum,
    Average,
    Min,
    Max,
}

impl Aggregate {
    fn named(name: Option<&str>) -> Result<Self> {
        Ok(match name.unwrap_or("SUM") {
            "SUM" => Self::Sum,
            "AVERAGE" => Self::Average,
            "MIN" => Self::Min,
            "MAX" => Self::Max,
            other => return Err(Error::invalid(format!("its `aggregate_function` of `{other}` is not supported"))),
        })
    }
}

/// A slot that tells whether a node's test holds.
#[derive(Debug)]
struct Told<T> {
    feature: usize,
    mode: Mode,
    threshold: T,
    missing_true: bool,
}

/// Prepared trees.
#[derive(Debug)]
struct Forest<T> {
    /// All leaves added up; one forest a tree where they are not.
    parts: Vec<Ensemble<T, T>>,
    /// How many leaves with a value a row reached, by output; where it is not
    /// the same for all rows.
    counts: Option<Ensemble<T, T>>,
    /// Outputs that every row gets a value for.
    always: Vec<bool>,
    features: usize,
    told: Vec<Told<T>>,
    outputs: usize,
    aggregate: Aggregate,
    trees: Arc<Vec<TreeBuilder>>,
    /// Outputs and values of all leaves, and where every leaf's are.
    weights: Vec<(u32, f64)>,
    leaves: Vec<(u32, u32)>,
}

/// A column of scores an output, and whether a row has one.
type Scores<T> = (Vec<Vec<T>>, Vec<Vec<bool>>);

/// What every tree operator says of itself, for the description.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Trees.
    pub trees: usize,
    /// Nodes.
    pub nodes: usize,
    /// The longest path.
    pub depth: usize,
}

impl<T: Precision> Forest<T> {
    fn new(raw: Raw, aggregate: Aggregate) -> Result<(Self, Counts)> {
        let features = raw.nodes.iter().filter(|n| n.mode.is_some()).map(|n| n.feature as usize + 1).max();
        let features = features.unwrap_or(0);
        let mut told: Vec<Told<T>> = Vec::new();
        let mut known: HashMap<(usize, Mode, u64, bool), u32> = HashMap::new();
        let (mut builders, mut leaves) = (Vec::with_capacity(raw.starts.len()), Vec::new());
        for nodes in raw.trees() {
            let mut builder = TreeBuilder { nodes: Vec::with_capacity(nodes.len()) };
            for node in nodes {
                let Some(mode) = node.mode else {
                    builder.nodes.push(NodeBuilder::Leaf(leaves.len() as u32));
                    leaves.push((node.yes, node.no));
                    continue;
                };
                let (yes, no) = (node.yes as usize, node.no as usize);
                let threshold = T::from_f64(node.threshold);
                let plain = |test: T, exchanged: bool| NodeBuilder::Split {
                    feature: node.feature,
                    test: Test::Less(test.wide()),
                    missing_left: node.missing_true != exchanged,
                    left: if exchanged { no } else { yes },
                    right: if exchanged { yes } else { no },
                };
                let above = Precision::next_up(threshold);
                builder.nodes.push(match mode {
                    Mode::Less if threshold.finite() => plain(threshold, false),
                    Mode::LessOrEqual if threshold.finite() && above.finite() => plain(above, false),
                    Mode::GreaterOrEqual if threshold.finite() => plain(threshold, true),
                    Mode::Greater if threshold.finite() && above.finite() => plain(above, true),
                    _ => {
                        let key = (node.feature as usize, mode, threshold.bits(), node.missing_true);
                        let slot = *known.entry(key).or_insert_with(|| {
                            told.push(Told {
                                feature: node.feature as usize,
                                mode,
                                threshold,
                                missing_true: node.missing_true,
                            });
                            (features + told.len() - 1) as u32
                        });
                        let test = Test::Less(0.5);
                        NodeBuilder::Split { feature: slot, test, missing_left: false, left: yes, right: no }
                    }
                });
            }
            builders.push(builder);
        }
        let (always, ever) = reached(&raw);
        let Raw { weights, outputs, nodes, .. } = raw;
        drop(nodes);
        leaves.shrink_to_fit();
        let mut forest = Self {
            parts: Vec::new(),
            counts: None,
            always,
            features,
            told,
            outputs,
            aggregate,
            trees: Arc::new(builders),
            weights,
            leaves,
        };
        let mixed = forest.always.iter().zip(&ever).any(|(always, ever)| always != ever);
        forest.parts = if matches!(aggregate, Aggregate::Sum | Aggregate::Average) {
            vec![forest.pack(&forest.trees, false)?]
        } else if mixed {
            return Err(Error::invalid("its extremes of leaves, of which some have no value, are not supported"));
        } else if forest.leaves.len().checked_mul(forest.trees.len()).is_none_or(|count| count > MAX_LEAF_VALUES) {
            return Err(Error::invalid("its extremes of so many trees are not supported"));
        } else {
            let one = |tree: &TreeBuilder| forest.pack(&Arc::new(vec![tree.clone()]), false);
            forest.trees.iter().map(one).collect::<Result<_>>()?
        };
        forest.counts = if mixed { Some(forest.pack(&forest.trees, true)?) } else { None };
        let sizes = Counts {
            trees: forest.trees.len(),
            nodes: forest.parts.iter().map(Ensemble::node_count).sum(),
            depth: forest.parts.iter().map(Ensemble::max_depth).max().unwrap_or(0),
        };
        Ok((forest, sizes))
    }

    fn weights(&self, leaf: u32) -> &[(u32, f64)] {
        let (from, to) = self.leaves[leaf as usize];
        &self.weights[from as usize..to as usize]
    }

    /// The one output that each of some trees has values for, if each has one, in all its leaves.
    fn groups(&self, trees: &[TreeBuilder]) -> Option<Vec<u32>> {
        let mut groups = Vec::with_capacity(trees.len());
        for tree in trees {
            let mut group = None;
            for node in &tree.nodes {
                let NodeBuilder::Leaf(leaf) = node else { continue };
                let [(output, _)] = self.weights(*leaf) else { return None };
                if *group.get_or_insert(*output) != *output {
                    return None;
                }
            }
            groups.push(group.unwrap_or(0));
        }
        Some(groups)
    }

    /// The values of all leaves, one output or all of them a leaf.
    fn values<V: Copy + Default>(&self, single: bool, value: impl Fn(f64) -> V) -> Result<Vec<V>> {
        let width = if single { 1 } else { self.outputs };
        if self.leaves.len().checked_mul(width).is_none_or(|count| count > MAX_LEAF_VALUES) {
            return Err(Error::data("its leaves have too many values"));
        }
        let mut values = vec![V::default(); self.leaves.len() * width];
        for (leaf, row) in values.chunks_exact_mut(width).enumerate() {
            for (output, v) in self.weights(leaf as u32) {
                row[if single { 0 } else { *output as usize }] = value(*v);
            }
        }
        Ok(values)
    }

    fn pack(&self, trees: &Arc<Vec<TreeBuilder>>, counting: bool) -> Result<Ensemble<T, T>> {
        let slots = self.features + self.told.len();
        let value = |v: f64| if counting { T::ONE } else { T::from_f64(v) };
        let groups = self.groups(trees);
        let values = self.values(groups.is_some(), value)?;
        let leaves = match groups {
            Some(groups) => Leaves::grouped(values, groups, self.outputs),
            None => Leaves::vectors(values, self.outputs),
        };
        Ensemble::new(trees, slots, leaves)
    }

    /// What the trees look at, slot by slot.
    fn slots(&self, input: &Tensor) -> Result<(Vec<Vec<T>>, usize)> {
        let (rows, width) = input.matrix()?;
        if width < self.features {
            return Err(Error::invalid(format!("its trees look at {} columns and it is given {width}", self.features)));
        }
        let values = T::of(input)?;
        let mut columns: Vec<Vec<T>> =
            (0..self.features).map(|column| (0..rows).map(|row| values[row * width + column]).collect()).collect();
        for told in &self.told {
            let holds =
                |value: &T| told.mode.holds(*value, told.threshold) || (told.missing_true && Value::missing(*value));
            let column = columns[told.feature].iter().map(|v| if holds(v) { T::default() } else { T::ONE }).collect();
            columns.push(column);
        }
        Ok((columns, rows))
    }

    /// What explains the score of one output, or of all of them. `covers` are the
    /// training rows of all nodes, tree after tree.
    fn explainer(&self, output: Option<u32>, covers: &[f64]) -> Result<Explainer, String> {
        let scale = match self.aggregate {
            Aggregate::Sum => 1.0,
            Aggregate::Average => self.trees.len() as f64,
            Aggregate::Min | Aggregate::Max => return Err("its score is an extreme of its trees' and no sum".into()),
        };
        if covers.is_empty() {
            return Err(
                "the file does not say how many training rows reached its nodes: their `nodes_hitrates` are no counts"
                    .into(),
            );
        }
        let mut rest = covers;
        let covers = self.trees.iter().map(|tree| {
            let (own, others) = rest.split_at(tree.nodes.len());
            rest = others;
            own.to_vec()
        });
        let covers = covers.collect();
        let too_many = |e: Error| e.to_string();
        let (values, width, groups) = match output {
            Some(output) => {
                let of = |leaf: u32| self.weights(leaf).iter().find(|(of, _)| *of == output).map_or(0.0, |(_, v)| *v);
                ((0..self.leaves.len() as u32).map(of).collect(), 1, Vec::new())
            }
            None => match self.groups(&self.trees) {
                Some(groups) => (self.values(true, |v| v).map_err(too_many)?, 1, groups),
                None => (self.values(false, |v| v).map_err(too_many)?, self.outputs, Vec::new()),
            },
        };
        let players = (0..self.features).chain(self.told.iter().map(|told| told.feature)).map(|of| of as u32);
        Ok(Explainer::new(Source {
            trees: self.trees.clone(),
            covers,
            values: values.into_iter().map(|value: f64| value / scale).collect(),
            width,
            groups,
            outputs: if output.is_some() { 1 } else { self.outputs },
            players: players.collect(),
            targets: (0..self.features as u32).collect(),
            columns: self.features,
        }))
    }

    /// Ready to score, and to explain where that can be.
    fn finish(
        mut self,
        settings: &mut Settings<'_>,
        explainer: Result<Explainer, String>,
        base: Vec<f64>,
    ) -> Arc<Self> {
        (self.weights, self.leaves) = (Vec::new(), Vec::new());
        let forest = Arc::new(self);
        let explained = forest.clone();
        let slots = move |input: &Tensor| {
            same_kind::<T>(input)?;
            let (columns, rows) = explained.slots(input)?;
            Ok((T::slots(columns), rows))
        };
        settings.explained = Some(explainer.map(|explainer| Explained::trees(explainer, Box::new(slots), base)));
        forest
    }

    /// A column of scores an output, and whether a row has one.
    fn scores(&self, input: &Tensor) -> Result<Scores<T>> {
        let (columns, rows) = self.slots(input)?;
        let zeros = vec![T::default(); self.outputs];
        let mut parts = self.parts.iter().map(|part| part.sums(&columns, rows, &zeros));
        let mut sums = parts.next().unwrap_or_default();
        for more in parts {
            for (sums, more) in sums.iter_mut().zip(more) {
                for (sum, value) in sums.iter_mut().zip(more) {
                    let better = if self.aggregate == Aggregate::Min { value < *sum } else { value > *sum };
                    if better {
                        *sum = value;
                    }
                }
            }
        }
        if self.aggregate == Aggregate::Average {
            let trees = T::from_f64(self.trees.len() as f64);
            sums.iter_mut().flatten().for_each(|sum| *sum = sum.div(trees).unwrap_or_default());
        }
        let has = match &self.counts {
            None => self.always.iter().map(|always| vec![*always; rows]).collect(),
            Some(counts) => counts
                .sums(&columns, rows, &zeros)
                .into_iter()
                .map(|counts| counts.into_iter().map(|count| count > T::default()).collect())
                .collect(),
        };
        Ok((sums, has))
    }
}

/// Whether these numbers are the training rows of every node: those of a split are
/// those of its children. Many exporters write ones.
fn counted(raw: &Raw, covers: &Numbers<'_>) -> bool {
    covers.len() == raw.nodes.len()
        && raw.starts.windows(2).all(|ends| {
            raw.nodes[ends[0]..ends[1]].iter().enumerate().all(|(at, node)| {
                let cover = |place: usize| covers.at(ends[0] + place);
                let (all, below) = (cover(at), || cover(node.yes as usize) + cover(node.no as usize));
                // Sums of single precision.
                node.mode.is_none() || (below() - all).abs() <= 1e-3 * all.abs().max(1e-3)
            })
        })
}

/// Outputs that every row gets a value for, and those that some row gets.
fn reached(raw: &Raw) -> (Vec<bool>, Vec<bool>) {
    let (mut always, mut ever) = (vec![false; raw.outputs], vec![false; raw.outputs]);
    for tree in raw.trees() {
        let leaves = || tree.iter().filter(|node| node.mode.is_none());
        let total = leaves().count();
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        let outputs = leaves().flat_map(|leaf| raw.weights(leaf));
        outputs.for_each(|(output, _)| *counts.entry(*output).or_default() += 1);
        for (output, count) in counts {
            ever[output as usize] = true;
            always[output as usize] |= count == total;
        }
    }
    (always, ever)
}

/// The places of nodes by their numbers, tree by tree.
struct Places<'a> {
    starts: &'a [usize],
    /// Of trees whose numbers do not count from 0.
    others: HashMap<usize, HashMap<i64, usize>>,
}

impl<'a> Places<'a> {
    fn new(ids: Whole<'_>, trees: Whole<'_>, starts: &'a [usize]) -> Result<Self> {
        let mut places = Self { starts, others: HashMap::new() };
        for (tree, ends) in starts.windows(2).enumerate() {
            let count = ends[1] - ends[0];
            if (0..count).all(|at| ids.at(ends[0] + at) == at as i64) {
                continue;
            }
            let mut known = HashMap::with_capacity(count);
            for at in 0..count {
                let id = ids.at(ends[0] + at);
                if known.insert(id, at).is_some() {
                    return Err(Error::data(format!("tree {} has the node {id} twice", trees.at(ends[0]))));
                }
            }
            places.others.insert(tree, known);
        }
        Ok(places)
    }

    /// Within its tree.
    fn of(&self, tree: usize, id: i64) -> Option<usize> {
        if let Some(known) = self.others.get(&tree) {
            return known.get(&id).copied();
        }
        let (from, to) = (self.starts[tree], self.starts[tree + 1]);
        usize::try_from(id).ok().filter(|at| *at < to - from)
    }
}

/// A list of numbers, single or in a constant of doubles.
enum Numbers<'a> {
    Singles(&'a [f32]),
    Doubles(Vec<f64>),
}

impl<'a> Numbers<'a> {
    fn read(settings: &mut Settings<'a>, name: &'static str, tensor: &'static str) -> Result<Self> {
        Ok(match settings.tensor(tensor)? {
            Some(values) => Self::Doubles(values.doubles()?),
            None => Self::Singles(settings.floats(name)?),
        })
    }

    fn len(&self) -> usize {
        match self {
            Self::Singles(values) => values.len(),
            Self::Doubles(values) => values.len(),
        }
    }

    fn at(&self, at: usize) -> f64 {
        match self {
            Self::Singles(values) => f64::from(values[at]),
            Self::Doubles(values) => values[at],
        }
    }

    fn all(&self) -> Vec<f64> {
        (0..self.len()).map(|at| self.at(at)).collect()
    }
}

/// The trees of the two older operators; `kind` is `class` or `target`.
fn read(settings: &mut Settings<'_>, names: [&'static str; 5], outputs: usize) -> Result<Raw> {
    if outputs == 0 || outputs > MAX_OUTPUTS {
        return Err(Error::data(format!("{outputs} outputs are impossible")));
    }
    let trees = settings.whole("nodes_treeids")?;
    let ids = settings.whole("nodes_nodeids")?;
    let features = settings.whole("nodes_featureids")?;
    let yes = settings.whole("nodes_truenodeids")?;
    let no = settings.whole("nodes_falsenodeids")?;
    let (named, modes) = settings.few("nodes_modes")?;
    let named = named.iter().map(|name| Mode::named(name)).collect::<Result<Vec<_>>>()?;
    let missing = settings.whole("nodes_missing_value_tracks_true")?;
    let values = Numbers::read(settings, "nodes_values", "nodes_values_as_tensor")?;
    let covers = Numbers::read(settings, "nodes_hitrates", "nodes_hitrates_as_tensor")?;
    let count = trees.len();
    let lists = [ids.len(), features.len(), yes.len(), no.len(), modes.len(), values.len()];
    if count == 0 || lists.iter().any(|len| *len != count) || !(missing.len() == 0 || missing.len() == count) {
        return Err(Error::data("its lists of nodes are empty or differ in length"));
    }
    if u32::try_from(count).is_err() {
        return Err(Error::data("it has too many nodes"));
    }
    // A tree's nodes stand together; its first is its root.
    let (mut starts, mut numbers_of) = (Vec::new(), BTreeMap::new());
    for at in 0..count {
        let tree = trees.at(at);
        if at == 0 || trees.at(at - 1) != tree {
            if numbers_of.insert(tree, starts.len()).is_some() {
                return Err(Error::data(format!("the nodes of tree {tree} do not stand together")));
            }
            starts.push(at);
        }
    }
    starts.push(count);
    let places = Places::new(ids, trees, &starts)?;
    let mut nodes = Vec::with_capacity(count);
    for number in 0..starts.len() - 1 {
        for at in starts[number]..starts[number + 1] {
            let wrong = |what: &str| Error::data(format!("node {} of tree {} {what}", ids.at(at), trees.at(at)));
            let mode = named[usize::from(modes[at])];
            let child = |id: i64| {
                let found = places.of(number, id).map(|place| place as u32);
                found.ok_or_else(|| wrong(&format!("leads to the node {id}, which does not exist")))
            };
            let mut node = RawNode {
                feature: u32::try_from(features.at(at)).unwrap_or(0),
                mode,
                threshold: values.at(at),
                missing_true: missing.get(at).is_some_and(|v| v == 1),
                yes: 0,
                no: 0,
            };
            if mode.is_some() {
                (node.yes, node.no) = (child(yes.at(at))?, child(no.at(at))?);
                let known = u32::try_from(features.at(at)).ok().filter(|f| *f < 1 << 24);
                node.feature = known.ok_or_else(|| wrong("looks at an impossible column"))?;
                if node.threshold.is_nan() {
                    return Err(wrong("compares with NaN"));
                }
            }
            nodes.push(node);
        }
    }
    let [of_trees, of_nodes, of_outputs, of_weights, of_tensor] = names;
    let (weight_trees, weight_nodes) = (settings.whole(of_trees)?, settings.whole(of_nodes)?);
    let weight_outputs = settings.whole(of_outputs)?;
    let weights = Numbers::read(settings, of_weights, of_tensor)?;
    if [weight_nodes.len(), weight_outputs.len(), weights.len()].iter().any(|len| *len != weight_trees.len()) {
        return Err(Error::data("its lists of leaf values differ in length"));
    }
    let mut of_leaves: Vec<(u32, u32, f64)> = Vec::with_capacity(weights.len());
    let mut last = None;
    for at in 0..weights.len() {
        let (tree, id) = (weight_trees.at(at), weight_nodes.at(at));
        let wrong = |what: &str| Error::data(format!("the value of node {id} of tree {tree} {what}"));
        // The values of a tree nearly always stand together.
        let number = match last {
            Some((known, number)) if known == tree => Some(number),
            _ => numbers_of.get(&tree).copied(),
        };
        last = number.map(|number| (tree, number));
        let place = number.and_then(|number| Some(starts[number] + places.of(number, id)?));
        let place = place.ok_or_else(|| wrong("has no node"))?;
        let output = u32::try_from(weight_outputs.at(at)).ok().filter(|o| (*o as usize) < outputs);
        let output = output.ok_or_else(|| wrong("has no output"))?;
        if nodes[place].mode.is_none() {
            of_leaves.push((place as u32, output, weights.at(at)));
        }
    }
    // By leaf and output; in files they nearly always are.
    if !of_leaves.is_sorted_by_key(|(place, output, _)| (*place, *output)) {
        of_leaves.sort_by_key(|(place, output, _)| (*place, *output));
    }
    if let Some(pair) = of_leaves.windows(2).find(|pair| (pair[0].0, pair[0].1) == (pair[1].0, pair[1].1)) {
        let at = pair[0].0 as usize;
        return Err(Error::invalid(format!("the value of node {} of tree {} comes twice", ids.at(at), trees.at(at))));
    }
    for own in of_leaves.chunk_by(|a, b| a.0 == b.0) {
        let leaf = &mut nodes[own[0].0 as usize];
        leaf.no = own.len() as u32;
    }
    let mut from = 0;
    for leaf in nodes.iter_mut().filter(|node| node.mode.is_none()) {
        (leaf.yes, leaf.no) = (from, from + leaf.no);
        from = leaf.no;
    }
    let weights = of_leaves.into_iter().map(|(_, output, weight)| (output, weight)).collect();
    let raw = Raw { nodes, starts, weights, covers: Vec::new(), outputs };
    let covers = if counted(&raw, &covers) { covers.all() } else { Vec::new() };
    Ok(Raw { covers, ..raw })
}

/// Prepares one of these operators.
pub fn build(settings: &mut Settings<'_>) -> Result<Option<Run>> {
    let double = settings.sample_kind(0) == Some(Kind::F64);
    match settings.node.operator.as_str() {
        "TreeEnsembleClassifier" if double => classifier::<f64>(settings).map(Some),
        "TreeEnsembleClassifier" => classifier::<f32>(settings).map(Some),
        "TreeEnsembleRegressor" if double => regressor::<f64>(settings).map(Some),
        "TreeEnsembleRegressor" => regressor::<f32>(settings).map(Some),
        _ => Ok(None),
    }
}

fn same_kind<T: Precision>(input: &Tensor) -> Result<()> {
    let double = input.kind() == Kind::F64;
    if double == (size_of::<T>() == 8) { Ok(()) } else { Err(input.wrong("the type it was prepared for")) }
}

fn regressor<T: Precision>(settings: &mut Settings<'_>) -> Result<Run> {
    let outputs = settings.int("n_targets")?.ok_or_else(|| Error::data("it has no `n_targets`"))?;
    let outputs = usize::try_from(outputs).unwrap_or(0);
    let aggregate = Aggregate::named(settings.text("aggregate_function")?)?;
    let transform = Transform::named(settings.text("post_transform")?)?;
    let base = Numbers::read(settings, "base_values", "base_values_as_tensor")?.all();
    let names = ["target_treeids", "target_nodeids", "target_ids", "target_weights", "target_weights_as_tensor"];
    let raw = read(settings, names, outputs)?;
    let mut raw = raw;
    let covers = std::mem::take(&mut raw.covers);
    let (forest, counts) = Forest::<T>::new(raw, aggregate)?;
    settings.count(counts);
    if !base.is_empty() && base.len() != outputs {
        return Err(Error::invalid(format!("{} base values for {outputs} targets are not supported", base.len())));
    }
    let bias = if base.is_empty() { vec![0.0; outputs] } else { base.clone() };
    let explainer = forest.explainer(None, &covers);
    let forest = forest.finish(settings, explainer, bias);
    let base: Vec<T> = base.into_iter().map(T::from_f64).collect();
    let plus = move |output: usize, score: T| base.get(output).map_or(score, |base| score.add(*base));
    Ok(Box::new(move |inputs: Inputs<'_>, _| {
        let input = inputs.get(0)?;
        same_kind::<T>(input)?;
        let (sums, _) = forest.scores(input)?;
        let rows = sums.first().map_or(0, Vec::len);
        let mut all = Vec::with_capacity(rows * outputs);
        let (mut row_scores, mut work) = (vec![T::default(); outputs], Vec::new());
        for row in 0..rows {
            for (output, (score, sums)) in row_scores.iter_mut().zip(&sums).enumerate() {
                *score = plus(output, sums[row]);
            }
            scores::write(transform, &row_scores, Second::Not, &mut work, &mut all);
        }
        Ok(vec![Tensor::new(vec![rows, outputs], Data::F32(all))?])
    }))
}

fn classifier<T: Precision>(settings: &mut Settings<'_>) -> Result<Run> {
    let classes = Classes::read(settings, "classlabels_int64s", "classlabels_strings")?;
    let outputs = classes.len();
    if outputs < 2 {
        return Err(Error::invalid("a classifier of one class is not supported"));
    }
    let transform = Transform::named(settings.text("post_transform")?)?;
    let base = Numbers::read(settings, "base_values", "base_values_as_tensor")?.all();
    let names = ["class_treeids", "class_nodeids", "class_ids", "class_weights", "class_weights_as_tensor"];
    let raw = read(settings, names, outputs)?;
    let mut raw = raw;
    let covers = std::mem::take(&mut raw.covers);
    let positive = raw.weights.iter().all(|(_, weight)| *weight >= 0.0);
    let used: BTreeSet<u32> = raw.weights.iter().map(|(output, _)| *output).collect();
    let binary = outputs == 2 && used.len() == 1;
    let (forest, counts) = Forest::<T>::new(raw, Aggregate::Sum)?;
    settings.count(counts);
    // Of two classes it is the second one's score; values for one class alone are that.
    let (output, bias) = match (outputs, base.as_slice()) {
        (2, []) => (Some(if binary { used.first().copied().unwrap_or(1) } else { 1 }), Some(vec![0.0])),
        (2, [base]) if binary => (used.first().copied(), Some(vec![*base])),
        (2, [_, base]) if !binary => (Some(1), Some(vec![*base])),
        (2, _) => (None, None),
        // Of several classes all are explained.
        (_, []) => (None, Some(vec![0.0; outputs])),
        (_, base) => (None, (base.len() == outputs).then(|| base.to_vec())),
    };
    let explainer = match bias {
        _ if outputs == 2 && !binary && matches!(transform, Transform::Softmax | Transform::SoftmaxZero) => {
            Err("its two classes share a softmax".into())
        }
        Some(_) => forest.explainer(output, &covers),
        None => Err("its base values do not go with its classes".into()),
    };
    let forest = forest.finish(settings, explainer, bias.unwrap_or_default());
    let base: Vec<T> = base.into_iter().map(T::from_f64).collect();
    if base.len() > outputs {
        return Err(Error::data("it has more base values than classes"));
    }
    let decision = Decision { outputs, base, binary, positive, transform };
    let labels = settings.labels(&classes);
    Ok(Box::new(move |inputs: Inputs<'_>, _| {
        let input = inputs.get(0)?;
        same_kind::<T>(input)?;
        let (sums, has) = forest.scores(input)?;
        let rows = sums.first().map_or(0, Vec::len);
        let mut all = Vec::with_capacity(rows * outputs);
        let mut chosen = Vec::with_capacity(rows);
        let (mut row_scores, mut row_has, mut work) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..rows {
            row_scores.clear();
            row_scores.extend(sums.iter().map(|sums| sums[row]));
            row_has.clear();
            row_has.extend(has.iter().map(|has| has[row]));
            let (class, second) = decision.of(&mut row_scores, &mut row_has);
            chosen.push(class);
            scores::write(decision.transform, &row_scores, second, &mut work, &mut all);
        }
        let width = all.len().checked_div(rows).unwrap_or(outputs);
        Ok(vec![labels.of(&chosen)?, Tensor::new(vec![rows, width], Data::F32(all))?])
    }))
}

/// How a classifier chooses.
#[derive(Debug)]
struct Decision<T> {
    outputs: usize,
    base: Vec<T>,
    /// Two classes, and values for one of them.
    binary: bool,
    /// No value is below zero.
    positive: bool,
    transform: Transform,
}

impl<T: Precision> Decision<T> {
    /// The class of a row. Its scores become those to write.
    fn of(&self, scores: &mut Vec<T>, has: &mut [bool]) -> (usize, Second) {
        if self.outputs > 2 {
            for ((score, has), base) in scores.iter_mut().zip(has.iter_mut()).zip(&self.base) {
                *score = if *has { score.add(*base) } else { *base };
                *has = true;
            }
            let mut best: Option<usize> = None;
            for (class, score) in scores.iter().enumerate() {
                if has[class] && best.is_none_or(|best| *score > scores[best]) {
                    best = Some(class);
                }
            }
            return (best.unwrap_or(0), Second::Not);
        }
        match *self.base.as_slice() {
            [_, base] if has[1] => {
                scores[1] = base.add(scores[0]);
                scores[0] = T::default().sub(scores[1]);
            }
            [first, second] => {
                scores[1] = scores[1].add(second);
                scores[0] = scores[0].add(first);
            }
            [base] => {
                scores[0] = scores[0].add(base);
                if !has[1] {
                    scores.pop();
                }
            }
            _ => {
                if !has[1] {
                    scores.pop();
                }
            }
        }
        let zero = T::default();
        let weight = match scores.get(1) {
            Some(score) if has[1] => *score,
            _ if has[0] => scores[0],
            _ => zero,
        };
        match (self.binary, self.positive) {
            (true, true) => (usize::from(weight > T::from_f64(0.5)), Second::Rest),
            (true, false) => (usize::from(weight > zero), Second::Opposite),
            (false, _) => (usize::from(weight > zero), Second::Opposite),
        }
    }
}
