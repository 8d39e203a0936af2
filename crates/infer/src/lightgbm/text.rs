//! The text of a LightGBM model: a header, trees, parameters, each `key=value`.
//!
//! Every key is known by name; one that is not, or a list of the wrong length,
//! is an error with its line.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

const HEADER: [&str; 12] = [
    "version",
    "num_class",
    "num_tree_per_iteration",
    "label_index",
    "max_feature_idx",
    "objective",
    "average_output",
    "feature_names",
    "monotone_constraints",
    "feature_infos",
    "tree_sizes",
    "tree",
];
const TREE: [&str; 22] = [
    "num_leaves",
    "num_cat",
    "split_feature",
    "split_gain",
    "threshold",
    "decision_type",
    "left_child",
    "right_child",
    "leaf_value",
    "leaf_weight",
    "leaf_count",
    "internal_value",
    "internal_weight",
    "internal_count",
    "cat_boundaries",
    "cat_threshold",
    "is_linear",
    "shrinkage",
    "leaf_const",
    "num_features",
    "leaf_features",
    "leaf_coeff",
];

/// One section.
#[derive(Debug, Default)]
pub struct Section<'a> {
    /// For messages: `the header`, `tree 7`.
    name: String,
    values: BTreeMap<&'a str, (usize, &'a str)>,
}

/// A model file in its parts.
#[derive(Debug)]
pub struct Text<'a> {
    /// What stands before the trees.
    pub header: Section<'a>,
    /// The trees, in order.
    pub trees: Vec<Section<'a>>,
    /// The JSON behind `pandas_categorical:`.
    pub pandas_categorical: Option<&'a str>,
}

impl<'a> Text<'a> {
    /// Splits a file.
    ///
    /// # Errors
    /// `Data` when a line is unknown or the file ends early.
    pub fn parse(text: &'a str) -> Result<Self> {
        let mut header = Section { name: "the header".into(), ..Section::default() };
        let mut trees: Vec<Section<'a>> = Vec::new();
        let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim_end()));
        let mut ended = false;
        for (at, line) in lines.by_ref() {
            if line.is_empty() {
                continue;
            }
            if line == "end of trees" {
                ended = true;
                break;
            }
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            if key == "Tree" {
                if value.parse() != Ok(trees.len()) {
                    return Err(Error::data(format!("line {at} has tree `{value}` where tree {} is due", trees.len())));
                }
                trees.push(Section { name: format!("tree {}", trees.len()), ..Section::default() });
                continue;
            }
            let (section, known) = match trees.last_mut() {
                Some(tree) => (tree, &TREE[..]),
                None => (&mut header, &HEADER[..]),
            };
            if !known.contains(&key) {
                let shown: String = key.chars().take(40).collect();
                return Err(Error::data(format!("line {at}: `{shown}` is no known part of {}", section.name)));
            }
            if section.values.insert(key, (at, value)).is_some() {
                return Err(Error::data(format!("line {at}: {} has `{key}` twice", section.name)));
            }
        }
        if !ended {
            return Err(Error::data("it ends before `end of trees`"));
        }
        // Importances and parameters follow, which scoring does not need.
        let pandas_categorical = lines.find_map(|(_, line)| line.strip_prefix("pandas_categorical:"));
        Ok(Self { header, trees, pandas_categorical })
    }
}

impl<'a> Section<'a> {
    /// A value, if it is there.
    pub fn find(&self, key: &str) -> Option<&'a str> {
        self.values.get(key).map(|(_, value)| *value)
    }

    /// A value that must be there.
    pub fn get(&self, key: &str) -> Result<&'a str> {
        self.find(key).ok_or_else(|| Error::data(format!("{} has no `{key}`", self.name)))
    }

    /// A number that must be there.
    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Result<T> {
        self.get(key)?.trim().parse().map_err(|_| self.wrong(key, "is no number that fits"))
    }

    /// A list of exactly `length` numbers.
    pub fn list<T: std::str::FromStr>(&self, key: &str, length: usize) -> Result<Vec<T>> {
        let list = self.get(key)?.split_ascii_whitespace().map(str::parse).collect::<Result<Vec<T>, _>>();
        match list {
            Ok(list) if list.len() == length => Ok(list),
            Ok(list) => Err(self.wrong(key, &format!("has {} values, not {length}", list.len()))),
            Err(_) => Err(self.wrong(key, "is no list of numbers that fit")),
        }
    }

    /// A complaint about a value.
    pub fn wrong(&self, key: &str, what: &str) -> Error {
        let line = self.values.get(key).map_or(0, |(at, _)| *at);
        Error::data(format!("line {line}: `{key}` of {} {what}", self.name))
    }
}
