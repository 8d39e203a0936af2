//! From a file's parts to a model, with every number checked.

use std::collections::HashMap;
use std::sync::Arc;

use super::json::note;
use super::parts::{ElementPart, NodePart, Parts, StatisticKind, StatisticPart, TablePart, TreePart};
use super::statistic::{Element, Formula, Statistic};
use super::{CatboostModel, Slot, Transform};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::explain::{Explainer, Source};
use crate::forest::{Ensemble, Leaves, NodeBuilder, Test, TreeBuilder};
use crate::model::{Description, Input, InputKind, Signature};

/// Levels of a tree; CatBoost has 16.
const MAX_LEVELS: usize = 20;

/// Builds a model.
pub fn build(parts: Parts) -> Result<CatboostModel> {
    if parts.trees.is_empty() || parts.outputs == 0 || parts.outputs > 1 << 16 {
        return Err(Error::data(format!("it has {} trees and {} outputs", parts.trees.len(), parts.outputs)));
    }
    let (objective, transform) = objective(&parts)?;
    if parts.bias.len() != parts.outputs {
        return Err(Error::data(format!("it has {} biases for {} outputs", parts.bias.len(), parts.outputs)));
    }
    let inputs = Inputs::new(&parts)?;
    let mut slots = Slots::default();
    slots.numbers(&parts)?;
    slots.one_hot(&parts, &inputs)?;
    slots.statistics(&parts, &inputs)?;

    let (mut values, mut weights) = (Vec::new(), Vec::new());
    let mut builders = Vec::with_capacity(parts.trees.len());
    for (at, tree) in parts.trees.iter().enumerate() {
        let first = (values.len() / parts.outputs) as u32;
        let (builder, leaves) = slots.tree(tree, parts.outputs, first).map_err(|e| e.within(&format!("tree {at}")))?;
        values.extend_from_slice(leaves);
        builders.push(builder);
        let (TreePart::Levels { weights: own, .. } | TreePart::Nodes { weights: own, .. }) = tree;
        weights.extend_from_slice(own);
    }
    let builders = Arc::new(builders);
    let trees = Ensemble::new(&builders, slots.slots.len(), Leaves::vectors(values.clone(), parts.outputs))?;
    let known = weights.len() == values.len() / parts.outputs;
    let covers = builders.iter().map(|tree| if known { covers(tree, &weights) } else { Vec::new() }).collect();
    let (players, groups) = slots.players(&inputs);
    let explainer = Explainer::new(Source {
        trees: builders,
        covers,
        values,
        width: parts.outputs,
        groups: Vec::new(),
        outputs: parts.outputs,
        players,
        targets: (0..groups.len() as u32).collect(),
        columns: groups.len(),
    });
    let labels = labels(&parts, transform)?;
    let description = Description {
        flavor: "catboost".into(),
        objective,
        labels: labels.clone(),
        trees: trees.trees(),
        nodes: trees.node_count(),
        max_depth: trees.max_depth(),
    };
    Ok(CatboostModel {
        trees,
        explainer,
        groups,
        slots: slots.slots,
        numbers: inputs.numbers,
        categories: inputs.categories,
        scale: parts.scale,
        bias: parts.bias,
        transform,
        labels: labels.into(),
        description,
        signature: Signature { inputs: inputs.list },
    })
}

/// How much of the training data reached every node of a checked tree, from what
/// reached its leaves.
fn covers(tree: &TreeBuilder, weights: &[f64]) -> Vec<f64> {
    let mut covers = vec![0.0; tree.nodes.len()];
    let (mut order, mut open) = (Vec::with_capacity(tree.nodes.len()), vec![0]);
    while let Some(at) = open.pop() {
        order.push(at);
        if let NodeBuilder::Split { left, right, .. } = &tree.nodes[at] {
            open.extend([*left, *right]);
        }
    }
    for at in order.into_iter().rev() {
        covers[at] = match &tree.nodes[at] {
            NodeBuilder::Leaf(leaf) => weights[*leaf as usize],
            NodeBuilder::Split { left, right, .. } => covers[*left] + covers[*right],
        };
    }
    covers
}

/// What it was trained for, and what that makes of raw scores.
fn objective(parts: &Parts) -> Result<(String, Transform)> {
    let parameters = note(&parts.notes, "params")?;
    let name = parameters
        .as_ref()
        .and_then(|p| p.get("loss_function")?.get("type")?.text())
        .ok_or_else(|| {
            Error::invalid("it does not say what it was trained for: `params.loss_function` is not there")
                .with_hint("sums of models lose it: save a model as it was trained")
        })?
        .to_owned();
    let transform = match name.as_str() {
        "Logloss" | "CrossEntropy" | "Focal" => {
            let border = match parts.notes.get("binclass_probability_threshold") {
                None => 0.0,
                Some(text) => {
                    let share: Option<f64> = text.trim().parse().ok().filter(|p| *p > 0.0 && *p < 1.0);
                    let share = share.ok_or_else(|| Error::data("its probability threshold is no probability"))?;
                    -(1.0 / share - 1.0).ln()
                }
            };
            Transform::Binary(border)
        }
        "MultiClass" => Transform::Softmax,
        "MultiClassOneVsAll" => Transform::OneAgainstAll,
        "Poisson" | "Tweedie" => Transform::Exp,
        "RMSE" | "MAE" | "Quantile" | "LogLinQuantile" | "Expectile" | "Huber" | "LogCosh" | "MAPE" | "Lq"
        | "RMSPE" | "GroupQuantile" | "Cox" | "SurvivalAft" | "YetiRank" | "YetiRankPairwise" | "PairLogit"
        | "PairLogitPairwise" | "QueryRMSE" | "QuerySoftMax" | "QueryCrossEntropy" | "StochasticFilter"
        | "StochasticRank" | "LambdaMart" => Transform::Identity,
        other => {
            return Err(Error::invalid(format!("the loss function `{other}` is not supported")).with_hint(
                "supported are Logloss, CrossEntropy, Focal, MultiClass, MultiClassOneVsAll, regression with one \
                 target and ranking",
            ));
        }
    };
    let several = matches!(transform, Transform::Softmax | Transform::OneAgainstAll);
    if several != (parts.outputs > 1) {
        return Err(Error::data(format!("the loss function `{name}` does not go with {} outputs", parts.outputs)));
    }
    Ok((name, transform))
}

fn labels(parts: &Parts, transform: Transform) -> Result<Vec<String>> {
    let classes = match transform {
        Transform::Binary(_) => 2,
        Transform::Softmax | Transform::OneAgainstAll => parts.outputs,
        Transform::Identity | Transform::Exp => return Ok(Vec::new()),
    };
    let known = note(&parts.notes, "class_params")?;
    let list = |key: &str| -> Vec<String> {
        match known.as_ref().and_then(|known| known.get(key)) {
            Some(Document::List(items)) => items.iter().filter_map(Document::text).map(str::to_owned).collect(),
            Some(other) => other.as_numbers().iter().flat_map(|n| n.iter()).map(f64::to_string).collect(),
            None => Vec::new(),
        }
    };
    for key in ["class_names", "class_to_label"] {
        let names = list(key);
        if names.len() == classes {
            return Ok(names);
        }
        if key == "class_names" && !names.is_empty() {
            return Err(Error::data(format!("it has {} class names for {classes} classes", names.len())));
        }
    }
    Ok((0..classes).map(|class| class.to_string()).collect())
}

/// The columns, in the order of the training.
struct Inputs {
    list: Vec<Input>,
    /// The input of each numeric feature, in the order of the file.
    numbers: Vec<usize>,
    categories: Vec<usize>,
    /// Places by the features' own numbers.
    number_of: HashMap<i64, usize>,
    category_of: HashMap<i64, usize>,
}

impl Inputs {
    fn new(parts: &Parts) -> Result<Self> {
        let called = |flat: i64, name: &str| if name.is_empty() { flat.to_string() } else { name.to_owned() };
        let mut all: Vec<(i64, Input, usize)> = Vec::new();
        for (at, part) in parts.numbers.iter().enumerate() {
            all.push((part.flat, Input { name: called(part.flat, &part.name), kind: InputKind::Numeric }, at));
        }
        for (at, part) in parts.categories.iter().enumerate() {
            all.push((part.flat, Input { name: called(part.flat, &part.name), kind: InputKind::Categorical }, at));
        }
        all.sort_by_key(|(flat, ..)| *flat);
        if all.windows(2).any(|pair| pair[0].0 == pair[1].0) || all.iter().any(|(flat, ..)| *flat < 0) {
            return Err(Error::data("two features have the same number, or one has none"));
        }
        let (mut numbers, mut categories) = (vec![0; parts.numbers.len()], vec![0; parts.categories.len()]);
        for (place, (_, input, at)) in all.iter().enumerate() {
            match input.kind {
                InputKind::Numeric => numbers[*at] = place,
                InputKind::Categorical => categories[*at] = place,
            }
        }
        Ok(Self {
            list: all.into_iter().map(|(_, input, _)| input).collect(),
            numbers,
            categories,
            number_of: parts.numbers.iter().enumerate().map(|(at, part)| (part.index, at)).collect(),
            category_of: parts.categories.iter().enumerate().map(|(at, part)| (part.index, at)).collect(),
        })
    }

    fn category(&self, index: i64) -> Result<usize> {
        let found = self.category_of.get(&index).copied();
        found.ok_or_else(|| Error::data(format!("the categorical feature {index} does not exist")))
    }
}

/// How a split decides.
#[derive(Debug, Clone, Copy)]
enum Split {
    /// True above the border, and for a missing value when it says so.
    Above(u32, f32, bool),
    /// True for this place of a category.
    Is(u32, u32),
}

/// What the trees look at, and all splits by their numbers.
#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    splits: Vec<Split>,
}

impl Slots {
    fn above(&mut self, borders: &[f32], missing_high: bool) -> Result<()> {
        let slot = self.slots.len() as u32 - 1;
        if let Some(border) = borders.iter().find(|border| !border.is_finite()) {
            return Err(Error::data(format!("a border is {border}")));
        }
        self.splits.extend(borders.iter().map(|border| Split::Above(slot, *border, missing_high)));
        Ok(())
    }

    fn numbers(&mut self, parts: &Parts) -> Result<()> {
        for (at, part) in parts.numbers.iter().enumerate().filter(|(_, part)| !part.borders.is_empty()) {
            self.slots.push(Slot::Number(at));
            self.above(&part.borders, part.missing_high)?;
        }
        Ok(())
    }

    fn one_hot(&mut self, parts: &Parts, inputs: &Inputs) -> Result<()> {
        for part in &parts.one_hot {
            let mut sorted = part.values.clone();
            sorted.sort_unstable();
            sorted.dedup();
            if sorted.len() >= 1 << 20 {
                return Err(Error::data("a feature is asked for more single values than are supported"));
            }
            let slot = self.slots.len() as u32;
            let place = |value: &u32| Split::Is(slot, sorted.partition_point(|known| known < value) as u32);
            self.splits.extend(part.values.iter().map(place));
            self.slots.push(Slot::OneHot(inputs.category(part.category)?, sorted));
        }
        Ok(())
    }

    fn statistics(&mut self, parts: &Parts, inputs: &Inputs) -> Result<()> {
        let mut shared: HashMap<&str, Arc<HashMap<u64, usize>>> = HashMap::new();
        for part in &parts.statistics {
            let table = parts.tables.get(&part.table).ok_or_else(|| {
                Error::invalid("its tables of category statistics (CTR) are not in the file").with_hint(
                    "save it as `.cbm`, or as JSON with the training pool: `save_model(…, format=\"json\", pool=pool)`",
                )
            })?;
            let rows = shared.entry(&part.table).or_insert_with(|| Arc::new(table.rows.clone())).clone();
            self.slots.push(Slot::Statistic(statistic(part, table, rows, parts, inputs)?));
            self.above(&part.borders, false)?;
        }
        Ok(())
    }

    /// The player of every slot, and the inputs of every player. A statistic of
    /// several categories is a player of its own, as CatBoost has it, whose value
    /// they share; what else it is looked up by has none of it.
    fn players(&self, inputs: &Inputs) -> (Vec<u32>, Vec<Vec<usize>>) {
        let (mut groups, mut known) = (Vec::new(), HashMap::new());
        let player = |slot: &Slot| {
            let mut of = match slot {
                Slot::Number(at) => vec![inputs.numbers[*at]],
                Slot::OneHot(category, _) => vec![inputs.categories[*category]],
                Slot::Statistic(statistic) => {
                    let category = |element: &Element| match element {
                        Element::Category(at) => Some(inputs.categories[*at]),
                        Element::Above(..) | Element::Is(..) => None,
                    };
                    let any = |element: &Element| match element {
                        Element::Category(at) | Element::Is(at, _) => inputs.categories[*at],
                        Element::Above(at, ..) => inputs.numbers[*at],
                    };
                    let of: Vec<usize> = statistic.elements.iter().filter_map(category).collect();
                    if of.is_empty() { statistic.elements.iter().map(any).collect() } else { of }
                }
            };
            of.sort_unstable();
            of.dedup();
            *known.entry(of.clone()).or_insert_with(|| {
                groups.push(of);
                groups.len() as u32 - 1
            })
        };
        (self.slots.iter().map(player).collect(), groups)
    }

    fn split(&self, number: i64, on_true: usize, on_false: usize) -> Result<NodeBuilder> {
        let split = usize::try_from(number).ok().and_then(|at| self.splits.get(at));
        let split = split.ok_or_else(|| Error::data(format!("the split {number} of {}", self.splits.len())))?;
        Ok(match *split {
            // `x <= border` is `x < next border`; a missing value is larger than none, or than all.
            Split::Above(feature, border, missing_high) => NodeBuilder::Split {
                feature,
                test: Test::Less(f64::from(border.next_up())),
                missing_left: !missing_high,
                left: on_false,
                right: on_true,
            },
            Split::Is(feature, place) => NodeBuilder::Split {
                feature,
                test: Test::In([place].into()),
                missing_left: false,
                left: on_true,
                right: on_false,
            },
        })
    }

    /// A tree whose first leaf gets the number `first`, and the values of its leaves.
    fn tree<'a>(&self, tree: &'a TreePart, outputs: usize, first: u32) -> Result<(TreeBuilder, &'a [f64])> {
        let mut builder = TreeBuilder::default();
        match tree {
            TreePart::Levels { splits, leaves, .. } => {
                let depth = splits.len();
                if depth > MAX_LEVELS || leaves.len() != outputs << depth {
                    return Err(Error::data(format!("{} values for {depth} levels of splits", leaves.len())));
                }
                // Node `n` has the children `2n + 1` and `2n + 2`; the last split is at the root.
                for (level, split) in splits.iter().rev().enumerate() {
                    for node in (1usize << level) - 1..(2 << level) - 1 {
                        builder.nodes.push(self.split(*split, 2 * node + 2, 2 * node + 1)?);
                    }
                }
                builder.nodes.extend((0..1u32 << depth).map(|leaf| NodeBuilder::Leaf(first + leaf)));
                Ok((builder, leaves))
            }
            TreePart::Nodes { nodes, leaves, .. } => {
                let count = leaves.len() / outputs;
                for node in nodes {
                    builder.nodes.push(match node {
                        NodePart::Leaf(leaf) if *leaf < count => NodeBuilder::Leaf(first + *leaf as u32),
                        NodePart::Leaf(leaf) => return Err(Error::data(format!("the leaf {leaf} of {count}"))),
                        NodePart::Split(split, on_false, on_true) => self.split(*split, *on_true, *on_false)?,
                    });
                }
                Ok((builder, leaves))
            }
        }
    }
}

fn statistic(
    part: &StatisticPart,
    table: &TablePart,
    rows: Arc<HashMap<u64, usize>>,
    parts: &Parts,
    inputs: &Inputs,
) -> Result<Statistic> {
    let elements = part.elements.iter().map(|element| {
        Ok(match element {
            ElementPart::Category(index) => Element::Category(inputs.category(*index)?),
            ElementPart::Is(index, value) => Element::Is(inputs.category(*index)?, *value),
            ElementPart::Above(index, border) => {
                let at = inputs.number_of.get(index).copied();
                let at = at.ok_or_else(|| Error::data(format!("the numeric feature {index} does not exist")))?;
                Element::Above(at, *border, parts.numbers[at].missing_high)
            }
        })
    });
    let target = usize::try_from(part.target).unwrap_or(usize::MAX);
    let wanted = match part.kind {
        StatisticKind::Mean => table.width == 2,
        StatisticKind::Counter => table.width == 1,
        StatisticKind::Buckets => target < table.width,
        StatisticKind::Borders => table.width >= 2 && target < table.width - 1,
    };
    let count = table.counts.len().checked_div(table.width).unwrap_or(0);
    if !wanted || table.rows.values().any(|row| *row >= count) {
        return Err(Error::data("a table of category statistics (CTR) does not go with its use"));
    }
    let formula = Formula {
        kind: part.kind,
        target,
        prior: part.prior,
        shift: part.shift,
        scale: part.scale,
        total: table.total,
    };
    let values = table.counts.chunks_exact(table.width).map(|counts| formula.of(counts)).collect();
    Ok(Statistic { elements: elements.collect::<Result<_>>()?, rows, values, absent: formula.absent() })
}
