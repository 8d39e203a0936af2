//! Contributions of the columns that a graph is given.
//!
//! One tree ensemble or linear function may be explained, whose scores are the
//! graph's own, up to casts, reshapes and its own transform. What it looks at must
//! come from one column each: through casts, scalers, imputers, encoders and
//! whatever else works value by value, put together and picked from. An operator
//! that mixes columns before it, or computes with its score behind it, is named.
//!
//! Contributions are to the score before the transform: of two classes the second
//! one's. Trees: Shapley values by path, for which the file has to say how many
//! training rows reached every node (`nodes_hitrates`). Linear functions:
//! coefficient times value.

use std::collections::HashMap;

use super::document::Node;
use super::operators::SAME;
use super::tensor::{Kind, Tensor};
use crate::error::{Error, Result};
use crate::explain::Explainer;

/// What trees look at, a column a slot.
#[derive(Debug)]
pub enum Slots {
    /// In single precision.
    Singles(Vec<Vec<f32>>),
    /// In double precision.
    Doubles(Vec<Vec<f64>>),
}

/// From what trees are given to what they look at, with the number of rows.
pub type Look = Box<dyn Fn(&Tensor) -> Result<(Slots, usize)> + Send + Sync>;

/// A node whose scores can be explained.
pub struct Explained {
    form: Form,
    /// Added to the sum of each output.
    base: Vec<f64>,
    /// The column of each value that it is given.
    origins: Vec<u32>,
    columns: usize,
}

enum Form {
    Trees(Box<Explainer>, Look),
    /// Coefficients, output by output.
    Linear(Vec<f64>),
}

impl std::fmt::Debug for Explained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Explained").field("outputs", &self.base.len()).field("origins", &self.origins.len()).finish()
    }
}

impl Explained {
    /// Of trees.
    pub fn trees(explainer: Explainer, look: Look, base: Vec<f64>) -> Self {
        Self { form: Form::Trees(Box::new(explainer), look), base, origins: Vec::new(), columns: 0 }
    }

    /// Of a linear function: so many coefficients an output.
    pub fn linear(coefficients: Vec<f64>, base: Vec<f64>) -> Self {
        Self { form: Form::Linear(coefficients), base, origins: Vec::new(), columns: 0 }
    }

    /// Says which column each value comes from that it is given.
    fn by(&mut self, origins: Vec<u32>, columns: usize) -> Result<(), String> {
        let looked_at = match &self.form {
            Form::Trees(explainer, _) => explainer.players(),
            Form::Linear(coefficients) => coefficients.len().checked_div(self.base.len()).unwrap_or(0),
        };
        if origins.len() < looked_at {
            return Err(format!("it looks at {looked_at} values and is given {}", origins.len()));
        }
        if let Form::Trees(explainer, _) = &mut self.form {
            explainer.set_targets(origins.clone(), columns);
        }
        (self.origins, self.columns) = (origins, columns);
        Ok(())
    }

    /// Scores of a row.
    pub fn outputs(&self) -> usize {
        self.base.len()
    }

    /// The contributions to rows, row by row and output by output: a value a
    /// column, then the bias.
    pub fn values(&self, input: &Tensor) -> Result<Vec<f64>> {
        let coefficients = match &self.form {
            Form::Trees(explainer, look) => {
                return match look(input)? {
                    (Slots::Singles(slots), rows) => explainer.values(&slots, rows, &self.base),
                    (Slots::Doubles(slots), rows) => explainer.values(&slots, rows, &self.base),
                };
            }
            Form::Linear(coefficients) => coefficients,
        };
        let (rows, width) = input.matrix()?;
        let inputs = input.doubles()?;
        let inner = coefficients.len() / self.base.len();
        let mut values = Vec::with_capacity(rows * self.base.len() * (self.columns + 1));
        for row in inputs.chunks_exact(width.max(1)) {
            for (coefficients, base) in coefficients.chunks_exact(inner.max(1)).zip(&self.base) {
                let from = values.len();
                values.resize(from + self.columns, 0.0);
                for ((value, coefficient), column) in row.iter().zip(coefficients).zip(&self.origins) {
                    values[from + *column as usize] += coefficient * value;
                }
                values.push(*base);
            }
        }
        Ok(values)
    }
}

/// Where the values of a graph come from.
#[derive(Debug, Default)]
pub struct Origins {
    /// The column of every value of a row; or the operator that mixed them.
    known: HashMap<String, Result<Vec<u32>, String>>,
    rows: usize,
    columns: usize,
}

/// Operators that work value by value on their first input.
const EACH: [&str; 24] = [
    "Identity",
    "Cast",
    "Scaler",
    "Imputer",
    "Binarizer",
    "LabelEncoder",
    "CategoryMapper",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Abs",
    "Neg",
    "Exp",
    "Log",
    "Sqrt",
    "Sign",
    "Floor",
    "Ceil",
    "Round",
    "IsNaN",
    "Not",
    "Clip",
    "Sigmoid",
];
/// Operators that work value by value on inputs of one shape, or constants.
const ALIKE: [&str; 14] = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Max",
    "Min",
    "Where",
    "Equal",
    "Less",
    "Greater",
    "LessOrEqual",
    "GreaterOrEqual",
    "And",
];

impl Origins {
    /// Of a graph's inputs, in their order, with values for some rows.
    pub fn new(inputs: &[String], samples: &HashMap<String, Tensor>) -> Self {
        let first = inputs.first().and_then(|name| samples.get(name));
        let mut origins = Self { rows: first.and_then(|s| s.shape.first().copied()).unwrap_or(0), ..Self::default() };
        for name in inputs {
            let width = samples.get(name).map_or(0, |sample| origins.width(sample));
            let own = origins.columns as u32..(origins.columns + width) as u32;
            origins.columns += width;
            origins.known.insert(name.clone(), Ok(own.collect()));
        }
        origins
    }

    fn width(&self, sample: &Tensor) -> usize {
        sample.len().checked_div(self.rows).unwrap_or(0)
    }

    /// Follows the values through a node that answers `made`.
    pub fn follow(
        &mut self,
        node: &Node,
        samples: &HashMap<String, Tensor>,
        constants: &HashMap<String, Tensor>,
        made: Option<&[Tensor]>,
    ) {
        let Some(output) = node.outputs.first() else { return };
        let given: Vec<&Result<Vec<u32>, String>> = node.inputs.iter().filter_map(|n| self.known.get(n)).collect();
        if given.is_empty() {
            return;
        }
        let mixed = || Err(node.operator.clone());
        let width = made.and_then(|made| made.first()).map(|tensor| self.width(tensor));
        let found = match given.iter().find(|origin| origin.is_err()) {
            Some(Err(operator)) => Err(operator.clone()),
            _ => {
                let given: Vec<&Vec<u32>> = given.into_iter().filter_map(|origin| origin.as_ref().ok()).collect();
                self.through(node, &given, samples, constants, width).map_or_else(mixed, Ok)
            }
        };
        self.known.insert(output.clone(), found);
        for other in node.outputs.iter().skip(1) {
            self.known.insert(other.clone(), mixed());
        }
    }

    fn through(
        &self,
        node: &Node,
        given: &[&Vec<u32>],
        samples: &HashMap<String, Tensor>,
        constants: &HashMap<String, Tensor>,
        width: Option<usize>,
    ) -> Option<Vec<u32>> {
        let first = *given.first()?;
        let is_first = node.inputs.first().is_some_and(|name| self.known.contains_key(name));
        let width = width?;
        let found = match node.operator.as_str() {
            name if EACH.contains(&name) && is_first && given.len() == 1 => first.clone(),
            name if ALIKE.contains(&name) && given.iter().all(|origin| *origin == first) => first.clone(),
            "Concat" | "FeatureVectorizer" if given.len() == node.inputs.len() => {
                // Along the last dimension, before which there are the rows alone.
                let flat = |sample: &Tensor| sample.shape.last().is_some_and(|last| *last == self.width(sample));
                let flat = node.inputs.iter().all(|name| samples.get(name).is_some_and(flat));
                flat.then(|| given.iter().flat_map(|origin| origin.iter().copied()).collect())?
            }
            "ArrayFeatureExtractor" | "Gather" if is_first && given.len() == 1 => {
                let picked = constants.get(node.inputs.get(1)?)?.ints().ok()?;
                let pick = |at: &i64| usize::try_from(*at).ok().and_then(|at| first.get(at).copied());
                picked.iter().map(pick).collect::<Option<Vec<u32>>>()?
            }
            "OneHotEncoder" if given.len() == 1 => {
                let each = width.checked_div(first.len())?;
                first.iter().flat_map(|column| std::iter::repeat_n(*column, each)).collect()
            }
            _ => return None,
        };
        (found.len() == width).then_some(found)
    }
}

/// What a graph's scores are explained by.
#[derive(Debug)]
pub struct Explanation {
    /// The node.
    pub of: Explained,
    /// Its step, before which the graph ends, and the value that it is given there.
    pub step: usize,
    pub given: usize,
}

/// The one node that decides, if it can be explained.
pub fn choose(
    mut found: Vec<(&Node, usize, usize, Result<Explained, String>)>,
    nodes: &[&Node],
    outputs: &[String],
    samples: &HashMap<String, Tensor>,
    origins: &Origins,
) -> Result<Explanation, String> {
    if found.len() > 1 {
        return Err(format!(
            "it has {} tree ensembles and linear functions, of which one can be explained",
            found.len()
        ));
    }
    let (node, step, given, explained) = found.pop().ok_or("it is neither a tree ensemble nor a linear function")?;
    let linear = node.operator.starts_with("Linear");
    let mut of = explained?;
    for output in outputs {
        if !samples.get(output).is_some_and(|sample| matches!(sample.kind(), Kind::F32 | Kind::F64)) {
            continue;
        }
        let mut name = output;
        // As many steps back as there are nodes: the graph has no cycle.
        while let Some(maker) = nodes.iter().find(|maker| maker.outputs.contains(name)) {
            if std::ptr::eq(*maker, node) {
                break;
            }
            let passes = SAME.contains(&maker.operator.as_str()) || (linear && maker.operator == "Normalizer");
            match maker.inputs.first() {
                Some(before) if passes => name = before,
                _ => return Err(format!("the operator {} computes with its score", maker.operator)),
            }
        }
    }
    let input = node.inputs.first().and_then(|name| origins.known.get(name));
    match input.ok_or("what it looks at is no column")? {
        Ok(columns) => of.by(columns.clone(), origins.columns)?,
        Err(operator) => return Err(format!("the operator {operator} mixes columns before it")),
    }
    Ok(Explanation { of, step, given })
}

/// Why there are no contributions.
pub fn refused(why: &str) -> Error {
    let error = Error::invalid(format!("contributions of this ONNX model are not supported: {why}"));
    if why.contains("nodes_hitrates") {
        return error.with_hint(
            "convert it with scripts/to_onnx.py, which writes them, or register the file of the library that trained it",
        );
    }
    error
}
