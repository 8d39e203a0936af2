//! A node while it is prepared: its settings, read once and by type.
//!
//! A setting that nobody has asked for is one that is not known here, and an
//! error: it might change the result.

use std::collections::{BTreeSet, HashMap};

use super::document::{Attribute, Graph, Node};
use super::explain::Explained;
use super::operators::Counts;
use super::tensor::{Data, Kind, Tensor, WordList, Words};
use crate::error::{Error, Result};

/// A prepared node: from its inputs to its outputs.
pub type Run = Box<dyn Fn(Inputs<'_>, &mut Words<'_>) -> Result<Vec<Tensor>> + Send + Sync>;

/// What a node is given; an input may be left out.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a>(pub &'a [Option<&'a Tensor>]);

impl<'a> Inputs<'a> {
    /// An input that has to be there.
    pub fn get(&self, at: usize) -> Result<&'a Tensor> {
        self.find(at).ok_or_else(|| Error::data(format!("input {at} is missing")))
    }

    /// An input that may be left out.
    pub fn find(&self, at: usize) -> Option<&'a Tensor> {
        self.0.get(at).copied().flatten()
    }

    /// All that are there.
    pub fn all(&self) -> impl Iterator<Item = &'a Tensor> {
        self.0.iter().copied().flatten()
    }
}

/// The settings of a node.
#[derive(Debug)]
pub struct Settings<'a> {
    /// The node.
    pub node: &'a Node,
    /// Inputs in the file; those of the graphs inside it come behind.
    pub own_inputs: usize,
    /// The version of its operator set.
    pub version: i64,
    /// All operator sets, for the graphs inside.
    pub versions: &'a std::collections::BTreeMap<String, i64>,
    /// The constants of the model, by name.
    pub constants: &'a HashMap<String, Tensor>,
    /// Words that the model knows.
    pub words: &'a mut WordList,
    /// What it is given for some rows of zeros, where that is known.
    pub samples: &'a HashMap<String, Tensor>,
    /// Sizes of its trees.
    pub counts: Counts,
    /// The classes that it chooses from.
    pub classes: Option<Classes>,
    /// What explains its scores, or why nothing does.
    pub explained: Option<Result<Explained, String>>,
    read: BTreeSet<&'static str>,
}

/// What is loaded: names by which nodes find things.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The version of every operator set.
    pub versions: &'a std::collections::BTreeMap<String, i64>,
    /// The constants of the model, by name.
    pub constants: &'a HashMap<String, Tensor>,
    /// Values for some rows of zeros, by name.
    pub samples: &'a HashMap<String, Tensor>,
}

impl<'a> Settings<'a> {
    /// Of a node.
    pub fn new(node: &'a Node, context: Context<'a>, own_inputs: usize, words: &'a mut WordList) -> Result<Self> {
        let Context { versions, constants, samples } = context;
        let version = versions.get(&node.domain).copied();
        let version = version.ok_or_else(|| Error::data("its operator set is not among those the model imports"))?;
        Ok(Self {
            node,
            own_inputs,
            version,
            versions,
            constants,
            words,
            samples,
            counts: Counts::default(),
            classes: None,
            explained: None,
            read: BTreeSet::new(),
        })
    }

    /// What an input holds, where that is known.
    pub fn sample_kind(&self, input: usize) -> Option<Kind> {
        self.node.inputs.get(input).and_then(|name| self.samples.get(name)).map(Tensor::kind)
    }

    /// Notes the size of trees.
    pub fn count(&mut self, counts: Counts) {
        self.counts = counts;
    }

    /// Notes the classes, and makes them ready to be chosen from.
    pub fn labels(&mut self, classes: &Classes) -> Labels {
        self.classes = Some(classes.clone());
        Labels(match classes {
            Classes::Numbers(numbers) => Data::I64(numbers.clone()),
            Classes::Texts(texts) => Data::Text(texts.iter().map(|text| self.words.number(text)).collect()),
        })
    }

    fn get(&mut self, name: &'static str) -> Option<&'a Attribute> {
        self.read.insert(name);
        self.node.attributes.get(name)
    }

    fn wrong(name: &str) -> Error {
        Error::data(format!("the attribute `{name}` has the wrong type"))
    }

    /// Whether it is set.
    pub fn has(&self, name: &str) -> bool {
        self.node.attributes.contains_key(name)
    }

    /// A whole number.
    pub fn int(&mut self, name: &'static str) -> Result<Option<i64>> {
        match self.get(name) {
            None => Ok(None),
            Some(Attribute::Int(value)) => Ok(Some(*value)),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    /// A truth value, which is a whole number.
    pub fn flag(&mut self, name: &'static str, otherwise: bool) -> Result<bool> {
        Ok(self.int(name)?.map_or(otherwise, |value| value != 0))
    }

    /// A number.
    pub fn float(&mut self, name: &'static str) -> Result<Option<f32>> {
        match self.get(name) {
            None => Ok(None),
            Some(Attribute::Float(value)) => Ok(Some(*value)),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    /// A text.
    pub fn text(&mut self, name: &'static str) -> Result<Option<&'a str>> {
        match self.get(name) {
            None => Ok(None),
            Some(Attribute::Text(value)) => Ok(Some(value)),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    /// A constant.
    pub fn tensor(&mut self, name: &'static str) -> Result<Option<&'a Tensor>> {
        match self.get(name) {
            None => Ok(None),
            Some(Attribute::Tensor(value)) => Ok(Some(value)),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    /// A graph.
    pub fn graph(&mut self, name: &'static str) -> Result<&'a Graph> {
        match self.get(name) {
            Some(Attribute::Graph(value)) => Ok(value),
            _ => Err(Self::wrong(name)),
        }
    }

    /// Numbers; none when it is not set.
    pub fn floats(&mut self, name: &'static str) -> Result<&'a [f32]> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Attribute::Floats(values)) => Ok(values),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    /// Whole numbers; none when it is not set.
    pub fn ints(&mut self, name: &'static str) -> Result<&'a [i64]> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Attribute::Ints(values)) => Ok(values),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    /// Whole numbers of the nodes of trees; none when it is not set.
    pub fn whole(&mut self, name: &'static str) -> Result<Whole<'a>> {
        match self.get(name) {
            None => Ok(Whole::Small(&[])),
            Some(Attribute::Ints(values)) => Ok(Whole::Wide(values)),
            Some(Attribute::Small(values)) => Ok(Whole::Small(values)),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    /// Texts; none when it is not set.
    pub fn texts(&mut self, name: &'static str) -> Result<&'a [String]> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Attribute::Texts(values)) => Ok(values),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    /// Texts of the nodes of trees: the different ones, and the place of each.
    pub fn few(&mut self, name: &'static str) -> Result<(&'a [String], &'a [u8])> {
        match self.get(name) {
            None => Ok((&[], &[])),
            Some(Attribute::Few(texts, places)) => Ok((texts, places)),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    /// An input, where it is a constant of the model.
    pub fn constant(&self, input: usize) -> Option<&'a Tensor> {
        self.node.inputs.get(input).and_then(|name| self.constants.get(name))
    }

    /// Says that a setting does not matter to the result.
    pub fn ignore(&mut self, name: &'static str) {
        self.read.insert(name);
    }

    /// No setting is left that nobody asked for.
    pub fn check(&self) -> Result<()> {
        match self.node.attributes.keys().find(|name| !self.read.contains(name.as_str())) {
            None => Ok(()),
            Some(name) => Err(Error::invalid(format!("its attribute `{name}` is not supported"))),
        }
    }
}

/// Whole numbers, as narrow as they are kept.
#[derive(Debug, Clone, Copy)]
pub enum Whole<'a> {
    /// As the file has them.
    Wide(&'a [i64]),
    /// All of them are small.
    Small(&'a [i32]),
}

impl Whole<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Wide(values) => values.len(),
            Self::Small(values) => values.len(),
        }
    }

    /// One of them.
    pub fn get(&self, at: usize) -> Option<i64> {
        match self {
            Self::Wide(values) => values.get(at).copied(),
            Self::Small(values) => values.get(at).map(|value| i64::from(*value)),
        }
    }

    /// One that is there.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn at(&self, at: usize) -> i64 {
        match self {
            Self::Wide(values) => values[at],
            Self::Small(values) => i64::from(values[at]),
        }
    }
}

/// Classes that are chosen from by their place.
#[derive(Debug)]
pub struct Labels(Data);

impl Labels {
    /// A list of classes.
    pub fn of(&self, places: &[usize]) -> Result<Tensor> {
        Tensor::new(vec![places.len()], self.0.pick(places))
    }
}

/// A class as a file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Classes {
    /// By number.
    Numbers(Vec<i64>),
    /// By word.
    Texts(Vec<String>),
}

impl Classes {
    /// From two lists, of which one is given.
    pub fn read(settings: &mut Settings<'_>, ints: &'static str, texts: &'static str) -> Result<Self> {
        let (numbers, texts) = (settings.ints(ints)?, settings.texts(texts)?);
        match (numbers.is_empty(), texts.is_empty()) {
            (false, true) => Ok(Self::Numbers(numbers.to_vec())),
            (true, false) => Ok(Self::Texts(texts.to_vec())),
            _ => Err(Error::data("it has no class labels, or two kinds of them")),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.len(),
            Self::Texts(texts) => texts.len(),
        }
    }

    /// As texts.
    pub fn labels(&self) -> Vec<String> {
        match self {
            Self::Numbers(numbers) => numbers.iter().map(i64::to_string).collect(),
            Self::Texts(texts) => texts.clone(),
        }
    }
}
