//! What both file formats say, in one form, before anything of it is trusted.

use std::collections::HashMap;

/// A model as a file describes it.
#[derive(Debug, Default)]
pub struct Parts {
    /// Numeric features.
    pub numbers: Vec<NumberPart>,
    /// Categorical features.
    pub categories: Vec<CategoryPart>,
    /// Which categorical feature is split into single values, in this order.
    pub one_hot: Vec<OneHotPart>,
    /// Statistics of categories that are split like numbers.
    pub statistics: Vec<StatisticPart>,
    /// Their tables, by [`StatisticPart::table`].
    pub tables: HashMap<String, TablePart>,
    /// The trees.
    pub trees: Vec<TreePart>,
    /// Numbers of a leaf.
    pub outputs: usize,
    /// The sum is multiplied by it.
    pub scale: f64,
    /// Added to the scaled sum, one an output or none.
    pub bias: Vec<f64>,
    /// The training's notes: `params` and `class_params` as JSON, others as text.
    pub notes: HashMap<String, String>,
}

/// A numeric feature.
#[derive(Debug)]
pub struct NumberPart {
    /// Its number among the numeric features.
    pub index: i64,
    /// Its number among all features.
    pub flat: i64,
    /// Its name, empty when it has none.
    pub name: String,
    /// Thresholds.
    pub borders: Vec<f32>,
    /// Whether a missing value is larger than every border; otherwise it is smaller.
    pub missing_high: bool,
}

/// A categorical feature.
#[derive(Debug)]
pub struct CategoryPart {
    /// Its number among the categorical features.
    pub index: i64,
    /// Its number among all features.
    pub flat: i64,
    /// Its name, empty when it has none.
    pub name: String,
}

/// Values of a categorical feature that splits ask for.
#[derive(Debug)]
pub struct OneHotPart {
    /// [`CategoryPart::index`].
    pub category: i64,
    /// Hashes of the values.
    pub values: Vec<u32>,
}

/// A statistic of one or several features, as CatBoost's "CTR".
#[derive(Debug)]
pub struct StatisticPart {
    /// What is hashed, in this order.
    pub elements: Vec<ElementPart>,
    /// How counts become a number.
    pub kind: StatisticKind,
    /// The target's class (or border) that counts.
    pub target: i64,
    /// Added to the counts.
    pub prior: (f32, f32),
    /// Added to the quotient.
    pub shift: f32,
    /// Multiplies what comes out.
    pub scale: f32,
    /// Thresholds.
    pub borders: Vec<f32>,
    /// The key of its table.
    pub table: String,
}

/// One part of what a statistic is looked up by.
#[derive(Debug, Clone, PartialEq)]
pub enum ElementPart {
    /// A category.
    Category(i64),
    /// Whether a number is larger than a border.
    Above(i64, f32),
    /// Whether a category is this one.
    Is(i64, u32),
}

/// How counts become a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatisticKind {
    /// Rows of the classes above a border, of all rows.
    Borders,
    /// Rows of one class, of all rows.
    Buckets,
    /// The mean of the target.
    Mean,
    /// Rows, of a total of the whole table.
    Counter,
}

impl StatisticKind {
    /// By the name that CatBoost gives it.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "Borders" => Self::Borders,
            "Buckets" => Self::Buckets,
            "BinarizedTargetMeanValue" | "FloatTargetMeanValue" => Self::Mean,
            "Counter" | "FeatureFreq" => Self::Counter,
            _ => return None,
        })
    }
}

/// Counts by hash.
#[derive(Debug, Default)]
pub struct TablePart {
    /// The row of a hash.
    pub rows: HashMap<u64, usize>,
    /// Rows of `width` numbers; a mean has a sum and a count.
    pub counts: Vec<f64>,
    /// Numbers of a row.
    pub width: usize,
    /// The total of a counter.
    pub total: i64,
}

/// A tree.
#[derive(Debug)]
pub enum TreePart {
    /// All nodes of a level ask the same; the first split gives the lowest bit
    /// of a leaf's number. Splits are numbers of borders and values over all
    /// numeric features, then one-hot values, then statistics.
    Levels {
        /// By level.
        splits: Vec<i64>,
        /// `outputs` numbers a leaf.
        leaves: Vec<f64>,
        /// How much of the training data reached every leaf; empty when that is not known.
        weights: Vec<f64>,
    },
    /// Any tree; the root is the first node.
    Nodes {
        /// Its nodes.
        nodes: Vec<NodePart>,
        /// `outputs` numbers a leaf.
        leaves: Vec<f64>,
        /// How much of the training data reached every leaf; empty when that is not known.
        weights: Vec<f64>,
    },
}

/// A node.
#[derive(Debug, Clone, Copy)]
pub enum NodePart {
    /// Its leaf's number within the tree.
    Leaf(usize),
    /// A split, and the nodes where it is false and where it is true.
    Split(i64, usize, usize),
}
