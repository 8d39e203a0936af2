//! What the outputs of a graph mean, and how they become predictions.
//!
//! Nothing in a file says it. The labels' classes are found by following the
//! label back through casts and reshapes to where it is chosen; scores are
//! probabilities unless they come straight from a linear function or from
//! trees with negative values that nothing has transformed.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::Float64Array;

use super::document::{Attribute, Document, Graph, Node};
use super::graph::Program;
use super::node::Classes;
use super::operators::SAME;
use super::tensor::{Data, Kind, Tensor, WordList};
use crate::error::{Error, Result};
use crate::model::{ClassProbabilities, Predictions, Raw};

/// What a graph answers.
#[derive(Debug)]
pub struct Outcome {
    /// The class labels of a classifier.
    pub labels: Arc<[String]>,
    form: Form,
    /// The place of each label that is a number.
    numbers: HashMap<i64, usize>,
    /// The place of each label that is a word.
    texts: HashMap<u32, usize>,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    /// One number.
    Value(usize),
    /// A label whose number is the answer, and perhaps one score.
    Plain { label: usize, score: Option<usize> },
    /// One of several classes.
    Class { label: Option<usize>, scores: Option<(usize, Scores)> },
}

/// What the scores of a classifier are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scores {
    Probabilities,
    Raw,
}

/// Answers while they are collected.
#[derive(Debug)]
pub struct Answer {
    predictions: Vec<f64>,
    scores: Vec<f64>,
    width: usize,
}

impl Outcome {
    /// Of a model's outputs.
    ///
    /// # Errors
    /// `Invalid` when it cannot be told what they mean.
    pub fn of(document: &Document, program: &Program, rows: usize, words: &mut WordList) -> Result<Self> {
        let graph = &document.graph;
        let trace = Trace::new(graph, program, words);
        let (mut label, mut scores) = (None, None);
        for (at, output) in graph.outputs.iter().enumerate() {
            let declared = output.kind.and_then(|kind| Kind::from_code(kind).ok());
            let kind = program.samples.get(at).and_then(Option::as_ref).map(Tensor::kind).or(declared);
            let place = match kind {
                Some(Kind::F32 | Kind::F64) | None => &mut scores,
                Some(_) => &mut label,
            };
            if place.replace(at).is_some() {
                let names: Vec<&str> = graph.outputs.iter().map(|output| output.name.as_str()).collect();
                return Err(Error::invalid(format!(
                    "it cannot be told what its outputs `{}` mean",
                    names.join("`, `")
                ))
                .with_hint("export the model with one label and one tensor of scores, or one number"));
            }
        }
        let width = |at: usize| match program.samples.get(at) {
            Some(Some(sample)) => Some(sample.len().checked_div(rows).unwrap_or(0)),
            _ => graph.outputs.get(at).and_then(|o| o.shape.as_ref()).and_then(|s| s.get(1).copied().flatten()),
        };
        let name = |at: usize| graph.outputs.get(at).map_or("", |output| output.name.as_str());
        let named = scores.and_then(|at| trace.zipped(name(at)));
        let classes = match label {
            Some(at) => trace.classes(name(at), scores.and_then(width)).map(|found| match found {
                Found::Classes(classes) => Some(classes),
                Found::Cluster => None,
            }),
            None => None,
        };
        let cluster = matches!(classes, Some(None));
        let classes = classes.flatten().or(named).or_else(|| scores.and_then(|at| trace.chosen(name(at))));
        let mut outcome = Self {
            labels: classes.as_ref().map(Classes::labels).unwrap_or_default().into(),
            form: Form::Value(0),
            numbers: HashMap::new(),
            texts: HashMap::new(),
        };
        outcome.form = match (label, scores, &classes) {
            (label, Some(at), Some(classes)) if !cluster => {
                let kind = if trace.raw(name(at)) { Scores::Raw } else { Scores::Probabilities };
                if kind == Scores::Probabilities && width(at).is_some_and(|width| width != classes.len()) {
                    return Err(Error::invalid(format!(
                        "its output `{}` does not have a column for each of {} classes",
                        name(at),
                        classes.len()
                    )));
                }
                Form::Class { label, scores: Some((at, kind)) }
            }
            (Some(label), None, Some(_)) if !cluster => Form::Class { label: Some(label), scores: None },
            // The scores of a cluster are distances.
            (Some(label), _, _) if cluster => Form::Plain { label, score: None },
            (Some(label), None, None) => Form::Plain { label, score: None },
            (Some(label), Some(score), None) if width(score) == Some(1) => Form::Plain { label, score: Some(score) },
            (None, Some(at), None) if width(at) == Some(1) => Form::Value(at),
            (None, Some(at), _) => {
                return Err(Error::invalid(format!("its output `{}` is not one number a row", name(at)))
                    .with_hint("export a classifier with its label, a regressor with one target"));
            }
            _ => {
                return Err(Error::invalid("it cannot be told which classes its scores stand for")
                    .with_hint("export the classifier with the ZipMap operator"));
            }
        };
        match &classes {
            Some(Classes::Numbers(numbers)) => {
                outcome.numbers = numbers.iter().enumerate().map(|(at, v)| (*v, at)).collect();
            }
            Some(Classes::Texts(texts)) => {
                outcome.texts = texts.iter().enumerate().map(|(at, v)| (words.number(v), at)).collect();
            }
            None => {}
        }
        if let Form::Plain { label, .. } = outcome.form
            && program.samples.get(label).and_then(Option::as_ref).map(Tensor::kind) == Some(Kind::Text)
        {
            return Err(Error::invalid("it cannot be told which classes its labels are"));
        }
        Ok(outcome)
    }

    /// An answer for so many rows.
    pub fn start(&self, rows: usize) -> Answer {
        Answer { predictions: Vec::with_capacity(rows), scores: Vec::new(), width: 0 }
    }

    /// Adds the outputs for a block of rows.
    pub fn add(&self, answer: &mut Answer, outputs: &[Tensor], rows: usize) -> Result<()> {
        let output = |at: usize| outputs.get(at).ok_or_else(|| Error::data("an output is missing"));
        let column = |at: usize| -> Result<&Tensor> {
            let tensor = output(at)?;
            if tensor.len() == rows { Ok(tensor) } else { Err(mixed(tensor, rows)) }
        };
        match self.form {
            Form::Value(at) => answer.predictions.extend(column(at)?.doubles()?),
            Form::Plain { label, score } => {
                answer.predictions.extend(column(label)?.doubles()?);
                if let Some(score) = score {
                    answer.width = 1;
                    answer.scores.extend(column(score)?.doubles()?);
                }
            }
            Form::Class { label, scores } => {
                if let Some((at, kind)) = scores {
                    let tensor = output(at)?;
                    let width = tensor.len().checked_div(rows).filter(|width| width * rows == tensor.len());
                    let width = width.filter(|width| *width > 0).ok_or_else(|| mixed(tensor, rows))?;
                    if answer.width != 0 && answer.width != width
                        || kind == Scores::Probabilities && width != self.labels.len()
                    {
                        return Err(mixed(tensor, rows));
                    }
                    if answer.width == 0 {
                        answer.scores.reserve_exact(answer.predictions.capacity() * width);
                    }
                    answer.width = width;
                    answer.scores.extend(tensor.doubles()?);
                }
                match label {
                    Some(label) => self.places(column(label)?, &mut answer.predictions)?,
                    None => {
                        let from = answer.predictions.len() * answer.width;
                        for row in answer.scores.get(from..).unwrap_or_default().chunks_exact(answer.width.max(1)) {
                            let mut best = 0;
                            for (class, score) in row.iter().enumerate() {
                                if *score > row[best] {
                                    best = class;
                                }
                            }
                            answer.predictions.push(best as f64);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The places of labels among the classes.
    fn places(&self, labels: &Tensor, predictions: &mut Vec<f64>) -> Result<()> {
        let unknown = || Error::data("the model answers a label that is not among its classes");
        match &labels.data {
            Data::Text(values) => {
                for word in values {
                    predictions.push(*self.texts.get(word).ok_or_else(unknown)? as f64);
                }
            }
            _ => {
                let values = match &labels.data {
                    Data::Bool(values) => values.iter().map(|v| i64::from(*v)).collect(),
                    _ => labels.ints()?,
                };
                for number in values {
                    predictions.push(*self.numbers.get(&number).ok_or_else(unknown)? as f64);
                }
            }
        }
        Ok(())
    }

    /// The predictions of all rows.
    pub fn finish(&self, answer: Answer) -> Predictions {
        let Answer { predictions, scores, width } = answer;
        let mut result = Predictions::plain(predictions);
        let last = |scores: &[f64]| -> Float64Array {
            Float64Array::from_iter_values(scores.chunks_exact(width.max(1)).filter_map(|row| row.last().copied()))
        };
        match self.form {
            Form::Plain { score: Some(_), .. } => result.margin = Some(scores.into()),
            Form::Class { scores: Some((_, Scores::Probabilities)), .. } => {
                if self.labels.len() == 2 {
                    result.probability = Some(last(&scores));
                }
                result.probabilities = Some(ClassProbabilities { labels: self.labels.clone(), values: scores });
            }
            Form::Class { scores: Some((_, Scores::Raw)), .. } if self.labels.len() == 2 && width <= 2 => {
                result.margin = Some(last(&scores));
            }
            Form::Class { scores: Some((_, Scores::Raw)), .. } => result.raw = Some(Raw { width, values: scores }),
            _ => {}
        }
        result
    }
}

fn mixed(tensor: &Tensor, rows: usize) -> Error {
    Error::invalid(format!("it answers {:?} for {rows} rows", tensor.shape))
        .with_hint("only models that score each row by itself are supported")
}

/// What a label is.
enum Found {
    Classes(Classes),
    Cluster,
}

/// Follows values back through a graph.
struct Trace<'a> {
    makers: HashMap<&'a str, &'a Node>,
    constants: HashMap<&'a str, &'a Tensor>,
    graph: &'a Graph,
    program: &'a Program,
    words: &'a WordList,
}

impl<'a> Trace<'a> {
    fn new(graph: &'a Graph, program: &'a Program, words: &'a WordList) -> Self {
        let makers = graph.nodes.iter().flat_map(|node| node.outputs.iter().map(move |name| (name.as_str(), node)));
        let constants = graph.constants.iter().map(|(name, tensor)| (name.as_str(), tensor));
        Self { makers: makers.collect(), constants: constants.collect(), graph, program, words }
    }

    /// The node that makes a value, behind casts and reshapes, and the name it
    /// has there.
    fn maker(&self, name: &'a str) -> Option<(&'a Node, &'a str)> {
        let mut name = name;
        for _ in 0..=self.graph.nodes.len() {
            let node = self.makers.get(name)?;
            match node.inputs.first() {
                Some(input) if SAME.contains(&node.operator.as_str()) => name = input,
                _ => return Some((node, name)),
            }
        }
        None
    }

    /// The classes that a ZipMap names.
    fn zipped(&self, name: &str) -> Option<Classes> {
        self.program.classes.get(name).cloned()
    }

    /// The classes of the classifier whose output this is.
    fn chosen(&self, name: &'a str) -> Option<Classes> {
        let (node, _) = self.maker(name)?;
        node.outputs.first().and_then(|first| self.program.classes.get(first)).cloned()
    }

    /// What a label is chosen from.
    fn classes(&self, name: &'a str, width: Option<usize>) -> Option<Found> {
        let (node, _) = self.maker(name)?;
        if let Some(classes) = node.outputs.first().and_then(|first| self.program.classes.get(first)) {
            return Some(Found::Classes(classes.clone()));
        }
        match node.operator.as_str() {
            "ArrayFeatureExtractor" | "Gather" => {
                let constant = self.constants.get(node.inputs.first()?.as_str())?;
                let classes = match &constant.data {
                    Data::Text(values) => {
                        Classes::Texts(values.iter().map(|v| self.words.text(*v).to_owned()).collect())
                    }
                    Data::F32(_) | Data::F64(_) => {
                        let values = constant.doubles().ok()?;
                        if values.iter().any(|v| v.fract() != 0.0) {
                            return None;
                        }
                        Classes::Numbers(values.into_iter().map(|v| v as i64).collect())
                    }
                    Data::Bool(values) => Classes::Numbers(values.iter().map(|v| i64::from(*v)).collect()),
                    _ => Classes::Numbers(constant.ints().ok()?),
                };
                Some(Found::Classes(classes))
            }
            "ArgMax" => width.map(|width| Found::Classes(Classes::Numbers((0..width as i64).collect()))),
            "ArgMin" => Some(Found::Cluster),
            _ => None,
        }
    }

    /// Whether scores come straight from a linear function or such trees.
    fn raw(&self, name: &'a str) -> bool {
        let mut name = name;
        for _ in 0..=self.graph.nodes.len() {
            let Some((node, _)) = self.maker(name) else { return false };
            let text = |name: &str| match node.attributes.get(name) {
                Some(Attribute::Text(text)) => text.as_str(),
                _ => "NONE",
            };
            match node.operator.as_str() {
                "MatMul" | "Gemm" => return true,
                "LinearClassifier" => return text("post_transform") == "NONE",
                "SVMClassifier" => return !node.attributes.contains_key("prob_a"),
                "TreeEnsembleClassifier" => {
                    let negative =
                        match (node.attributes.get("class_weights"), node.attributes.get("class_weights_as_tensor")) {
                            (Some(Attribute::Floats(weights)), _) => weights.iter().any(|w| *w < 0.0),
                            (_, Some(Attribute::Tensor(weights))) => {
                                weights.doubles().is_ok_and(|weights| weights.iter().any(|w| *w < 0.0))
                            }
                            _ => false,
                        };
                    return text("post_transform") == "NONE" && negative;
                }
                "Add" | "Sub" | "Mul" | "Neg" | "Sum" | "Less" | "Concat" | "ArrayFeatureExtractor" | "Slice" => {
                    let open = node.inputs.iter().find(|input| !self.constants.contains_key(input.as_str()));
                    match open {
                        Some(input) => name = input,
                        None => return false,
                    }
                }
                _ => return false,
            }
        }
        false
    }
}
