//! A graph, prepared: steps in an order in which every value is there before
//! it is used.
//!
//! While it is prepared it runs once, step by step, on rows of zeros: what
//! does not fit in type or shape is found then, and nodes learn what they will
//! be given. Only values that an operator refuses, such as an unknown category,
//! are left for the rows.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use insightera_core::ErrorKind;

use super::document::{Attribute, Graph, Node};
use super::explain::{Explanation, Origins, choose, refused};
use super::node::{Classes, Context, Inputs, Run, Settings};
use super::operators::{Counts, MODELS, prepare};
use super::tensor::{Tensor, WordList, Words};
use crate::error::{Error, Result};

/// Nodes of a graph at most.
const MAX_NODES: usize = 1 << 20;

/// A graph that can run.
pub struct Program {
    /// ONNX Runtime, which has the graph instead of the steps.
    #[cfg(feature = "onnxruntime")]
    outside: Option<super::runtime::Outside>,
    steps: Vec<Step>,
    constants: Vec<(usize, Tensor)>,
    values: usize,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    /// What it answered for rows of zeros, where it could.
    pub samples: Vec<Option<Tensor>>,
    /// The most values that a node made of rows of zeros.
    pub largest: usize,
    /// Sizes of its trees.
    pub counts: Counts,
    /// The classes of nodes that choose from some, by the name of an output.
    pub classes: HashMap<String, Classes>,
    /// What explains its scores, or why nothing does.
    explanation: Result<Explanation, String>,
}

struct Step {
    label: String,
    run: Run,
    inputs: Vec<Option<usize>>,
    outputs: Vec<Option<usize>>,
    /// Values that nobody needs afterwards.
    done: Vec<usize>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("steps", &self.steps.len()).field("values", &self.values).finish()
    }
}

/// A value while the graph runs.
enum Held<'a> {
    Lent(&'a Tensor),
    Own(Tensor),
}

impl Held<'_> {
    fn get(&self) -> &Tensor {
        match self {
            Held::Lent(tensor) => tensor,
            Held::Own(tensor) => tensor,
        }
    }
}

/// How a message names a node.
fn label(node: &Node, versions: &BTreeMap<String, i64>) -> String {
    let domain = if node.domain.is_empty() { "ai.onnx" } else { &node.domain };
    let version = versions.get(&node.domain).map_or_else(|| "unknown".to_owned(), i64::to_string);
    format!("node `{}` ({} of {domain} version {version})", node.name, node.operator)
}

/// Names that a graph takes from the one around it.
fn free(graph: &Graph) -> BTreeSet<String> {
    let mut own: BTreeSet<&str> = graph.inputs.iter().map(|input| input.name.as_str()).collect();
    own.extend(graph.constants.iter().map(|(name, _)| name.as_str()));
    own.extend(graph.nodes.iter().flat_map(|node| node.outputs.iter().map(String::as_str)));
    let mut used: BTreeSet<String> = graph.outputs.iter().map(|output| output.name.clone()).collect();
    for node in &graph.nodes {
        used.extend(node.inputs.iter().cloned());
        for attribute in node.attributes.values() {
            if let Attribute::Graph(graph) = attribute {
                used.extend(free(graph));
            }
        }
    }
    used.retain(|name| !name.is_empty() && !own.contains(name.as_str()));
    used
}

/// Nodes in an order in which each comes after those it needs.
fn order(nodes: &[Cow<'_, Node>], mut known: BTreeSet<String>) -> Result<Vec<usize>> {
    let mut waiting: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut missing = vec![0usize; nodes.len()];
    let mut ready = std::collections::VecDeque::new();
    for (at, node) in nodes.iter().enumerate() {
        let needed: BTreeSet<&str> = node.inputs.iter().map(String::as_str).filter(|n| !n.is_empty()).collect();
        for name in needed.into_iter().filter(|name| !known.contains(*name)) {
            waiting.entry(name).or_default().push(at);
            missing[at] += 1;
        }
        if missing[at] == 0 {
            ready.push_back(at);
        }
    }
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(at) = ready.pop_front() {
        order.push(at);
        for name in nodes[at].outputs.iter().filter(|name| !name.is_empty()) {
            if !known.insert(name.clone()) {
                return Err(Error::data(format!("the value `{name}` is made twice")));
            }
            for next in waiting.remove(name.as_str()).into_iter().flatten() {
                missing[next] -= 1;
                if missing[next] == 0 {
                    ready.push_back(next);
                }
            }
        }
    }
    match waiting.keys().next() {
        None => Ok(order),
        Some(name) => Err(Error::data(format!("the value `{name}` is made nowhere, or out of itself"))),
    }
}

impl Program {
    fn empty() -> Self {
        Self {
            #[cfg(feature = "onnxruntime")]
            outside: None,
            steps: Vec::new(),
            constants: Vec::new(),
            values: 0,
            inputs: Vec::new(),
            outputs: Vec::new(),
            samples: Vec::new(),
            largest: 0,
            counts: Counts::default(),
            classes: HashMap::new(),
            explanation: Err("it runs in ONNX Runtime".into()),
        }
    }

    /// A graph that ONNX Runtime has; `samples` are rows of zeros for it.
    ///
    /// # Errors
    /// `Invalid` when it answers them with what is not supported.
    #[cfg(feature = "onnxruntime")]
    pub fn outside(
        outside: super::runtime::Outside,
        graph: &Graph,
        samples: &[&Tensor],
        words: &WordList,
    ) -> Result<Self> {
        let mut program = Self::empty();
        program.samples = match outside.run(samples, &mut Words::new(words)) {
            Ok(found) => found.into_iter().map(Some).collect(),
            Err(e) if e.kind() == ErrorKind::Data => graph.outputs.iter().map(|_| None).collect(),
            Err(e) => return Err(e),
        };
        for node in &graph.nodes {
            let names = ["classlabels_int64s", "classlabels_ints", "classlabels_strings"];
            let classes = names.into_iter().find_map(|name| match node.attributes.get(name) {
                Some(Attribute::Ints(numbers)) => Some(Classes::Numbers(numbers.clone())),
                Some(Attribute::Texts(texts)) => {
                    Some(Classes::Texts(texts.iter().map(|text| text.to_string()).collect()))
                }
                _ => None,
            });
            let Some(classes) = classes else { continue };
            program.classes.extend(node.outputs.iter().map(|name| (name.clone(), classes.clone())));
        }
        program.outside = Some(outside);
        Ok(program)
    }

    /// Prepares a graph whose inputs have these names.
    ///
    /// # Errors
    /// `Invalid` when it has something that is not supported, `Data` when it is
    /// damaged.
    pub fn prepare(
        graph: &Graph,
        inputs: &[String],
        mut samples: HashMap<String, Tensor>,
        versions: &BTreeMap<String, i64>,
        words: &mut WordList,
    ) -> Result<Self> {
        if graph.nodes.len() > MAX_NODES {
            return Err(Error::data(format!("it has more than {MAX_NODES} nodes")));
        }
        let mut constants: HashMap<String, Tensor> = HashMap::new();
        for (name, tensor) in &graph.constants {
            if constants.insert(name.clone(), tensor.clone()).is_some() {
                return Err(Error::data(format!("the constant `{name}` is there twice")));
            }
        }
        // Values that the graphs inside nodes use become inputs of those nodes.
        let mut nodes: Vec<Cow<'_, Node>> = graph.nodes.iter().map(Cow::Borrowed).collect();
        let own_inputs: Vec<usize> = nodes.iter().map(|node| node.inputs.len()).collect();
        for node in &mut nodes {
            let inner: Vec<String> = node
                .attributes
                .values()
                .filter_map(|attribute| if let Attribute::Graph(graph) = attribute { Some(free(graph)) } else { None })
                .flatten()
                .collect();
            if !inner.is_empty() {
                node.to_mut().inputs.extend(inner);
            }
        }
        let mut known: BTreeSet<String> = constants.keys().cloned().collect();
        known.extend(inputs.iter().cloned());
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut program = Self::empty();
        for name in inputs {
            let at = program.place(name, &mut places);
            program.inputs.push(at);
        }
        let mut origins = Origins::new(inputs, &samples);
        let mut models = Vec::new();
        for (name, tensor) in &constants {
            samples.insert(name.clone(), tensor.clone());
        }
        for at in order(&nodes, known)? {
            let node: &Node = &nodes[at];
            let said = label(node, versions);
            let within = |e: Error| e.within(&said);
            let context = Context { versions, constants: &constants, samples: &samples };
            let mut settings = Settings::new(node, context, own_inputs[at], words).map_err(within)?;
            let run = prepare(&mut settings).map_err(within)?;
            program.counts.trees += settings.counts.trees;
            program.counts.nodes += settings.counts.nodes;
            program.counts.depth = program.counts.depth.max(settings.counts.depth);
            if let Some(classes) = settings.classes.take() {
                node.outputs.iter().for_each(|name| {
                    program.classes.insert(name.clone(), classes.clone());
                });
            }
            let explained = settings.explained.take();
            let tried = sample(&run, node, &samples, words).map_err(within)?;
            origins.follow(node, &samples, &constants, tried.as_deref());
            for (name, tensor) in node.outputs.iter().zip(tried.into_iter().flatten()) {
                if node.operator == "Constant" {
                    constants.insert(name.clone(), tensor.clone());
                }
                program.largest = program.largest.max(tensor.len());
                samples.insert(name.clone(), tensor);
            }
            if node.operator == "Constant" && node.domain.is_empty() {
                continue;
            }
            let find = |name: &String| (!name.is_empty()).then(|| name.clone());
            let step = Step {
                inputs: node.inputs.iter().map(|n| find(n).map(|n| program.place(&n, &mut places))).collect(),
                outputs: node.outputs.iter().map(|n| find(n).map(|n| program.place(&n, &mut places))).collect(),
                label: said,
                run,
                done: Vec::new(),
            };
            if MODELS.contains(&node.operator.as_str()) {
                let explained = explained.unwrap_or_else(|| Err(format!("{} is not explained", node.operator)));
                let given = step.inputs.first().copied().flatten().unwrap_or(usize::MAX);
                models.push((node, program.steps.len(), given, explained));
            }
            program.steps.push(step);
        }
        let all: Vec<&Node> = nodes.iter().map(AsRef::as_ref).collect();
        let outputs: Vec<String> = graph.outputs.iter().map(|output| output.name.clone()).collect();
        program.explanation = choose(models, &all, &outputs, &samples, &origins);
        for output in &graph.outputs {
            let known = places.contains_key(&output.name) || constants.contains_key(&output.name);
            if !known {
                return Err(Error::data(format!("the output `{}` is made nowhere", output.name)));
            }
            let at = program.place(&output.name, &mut places);
            program.outputs.push(at);
            program.samples.push(samples.remove(&output.name));
        }
        for (name, tensor) in constants {
            if let Some(at) = places.get(&name) {
                program.constants.push((*at, tensor));
            }
        }
        program.forget();
        Ok(program)
    }

    fn place(&mut self, name: &str, places: &mut HashMap<String, usize>) -> usize {
        *places.entry(name.to_owned()).or_insert_with(|| {
            self.values += 1;
            self.values - 1
        })
    }

    /// Finds after which step each value is needed no more.
    fn forget(&mut self) {
        let mut needed = vec![false; self.values];
        self.outputs.iter().for_each(|at| needed[*at] = true);
        for step in self.steps.iter_mut().rev() {
            for at in step.inputs.iter().chain(&step.outputs).flatten() {
                if !std::mem::replace(&mut needed[*at], true) {
                    step.done.push(*at);
                }
            }
        }
    }

    /// Runs it on values for its inputs, in their order.
    pub fn run(&self, inputs: &[&Tensor], words: &mut Words<'_>) -> Result<Vec<Tensor>> {
        #[cfg(feature = "onnxruntime")]
        if let Some(outside) = &self.outside {
            return outside.run(inputs, words);
        }
        let values = self.after(self.steps.len(), inputs, words)?;
        let take = |at: &usize| {
            let value = values[*at].as_ref().map(|held| held.get().clone());
            value.ok_or_else(|| Error::new(ErrorKind::Internal, "a value of an ONNX graph is missing"))
        };
        self.outputs.iter().map(take).collect()
    }

    /// Whether ONNX Runtime has the graph.
    pub fn is_outside(&self) -> bool {
        #[cfg(feature = "onnxruntime")]
        return self.outside.is_some();
        #[cfg(not(feature = "onnxruntime"))]
        false
    }

    /// Scores of a row that are explained.
    ///
    /// # Errors
    /// `Invalid`, saying why they cannot be.
    pub fn explained(&self) -> Result<usize> {
        self.explanation.as_ref().map(|found| found.of.outputs()).map_err(|why| refused(why))
    }

    /// What the columns of its inputs contribute to rows: see `Explained::values`.
    pub fn contributions(&self, inputs: &[&Tensor], words: &mut Words<'_>) -> Result<Vec<f64>> {
        let explanation = self.explanation.as_ref().map_err(|why| refused(why))?;
        let values = self.after(explanation.step, inputs, words)?;
        let given = values.get(explanation.given).and_then(Option::as_ref).map(Held::get);
        explanation.of.values(given.ok_or_else(|| refused("what it looks at is missing"))?)
    }

    /// All values that are needed after some steps.
    fn after<'a>(
        &'a self,
        steps: usize,
        inputs: &[&'a Tensor],
        words: &mut Words<'_>,
    ) -> Result<Vec<Option<Held<'a>>>> {
        let mut values: Vec<Option<Held<'a>>> = (0..self.values).map(|_| None).collect();
        for (at, tensor) in &self.constants {
            values[*at] = Some(Held::Lent(tensor));
        }
        for (at, tensor) in self.inputs.iter().zip(inputs) {
            values[*at] = Some(Held::Lent(tensor));
        }
        for step in &self.steps[..steps] {
            let given: Vec<Option<&Tensor>> =
                step.inputs.iter().map(|at| at.and_then(|at| values[at].as_ref().map(Held::get))).collect();
            let results = (step.run)(Inputs(&given), words).map_err(|e| e.within(&step.label))?;
            if results.len() < step.outputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1) {
                return Err(Error::invalid("it has outputs that are not supported").within(&step.label));
            }
            for (at, result) in step.outputs.iter().zip(results) {
                if let Some(at) = at {
                    values[*at] = Some(Held::Own(result));
                }
            }
            step.done.iter().for_each(|at| values[*at] = None);
        }
        Ok(values)
    }
}

/// What a node answers for rows of zeros; nothing when it refuses their values
/// or what it needs is not known.
fn sample(run: &Run, node: &Node, samples: &HashMap<String, Tensor>, words: &WordList) -> Result<Option<Vec<Tensor>>> {
    let mut given = Vec::with_capacity(node.inputs.len());
    for name in &node.inputs {
        let found = samples.get(name);
        if found.is_none() && !name.is_empty() {
            return Ok(None);
        }
        given.push(found);
    }
    match run(Inputs(&given), &mut Words::new(words)) {
        Ok(results) => Ok(Some(results)),
        Err(e) if e.kind() == ErrorKind::Data => Ok(None),
        Err(e) => Err(e),
    }
}
