//! The stages that prepare features: what they are, loaded and checked.
//!
//! Where Spark would drop a row (`handleInvalid = "skip"`), scoring is an
//! error that says so: every row that comes in gets a prediction.

use std::collections::{HashMap, HashSet};

use arrow::array::{Array, AsArray, ListArray};
use serde_json::Value;

use super::store::{self, Folder, Parameters};
use crate::error::{Error, Result};
use crate::model::InputKind;

/// Values of a made column at most.
pub const MAX_WIDTH: usize = 1 << 20;

/// What a stage does with a value that it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// Refuses it.
    Error,
    /// Would drop the row.
    Skip,
    /// Keeps it as a value of its own.
    Keep,
}

/// A step over named columns.
#[derive(Debug)]
pub enum Stage {
    /// Labels to their numbers.
    StringIndexer { columns: Vec<IndexedColumn>, invalid: Invalid },
    /// Numbers to one-hot vectors.
    OneHot { columns: Vec<EncodedColumn>, invalid: Invalid },
    /// Missing values to a constant.
    Imputer { columns: Vec<ImputedColumn>, missing: f64 },
    /// Columns side by side.
    Assembler { inputs: Vec<String>, output: String, invalid: Invalid },
    /// `(x - shift) * scale`.
    Scaler { input: String, output: String, shift: Option<Vec<f64>>, scale: Option<Vec<f64>>, mean: Vec<f64> },
}

/// A column of a StringIndexer.
#[derive(Debug)]
pub struct IndexedColumn {
    /// Reads.
    pub input: String,
    /// Makes.
    pub output: String,
    /// In their order.
    pub labels: Vec<String>,
    /// Their numbers.
    pub numbers: HashMap<String, u32>,
    /// The labels that a column of doubles or floats can have: Spark indexes
    /// the text of a number, so what is compared is the number of the text.
    pub doubles: HashMap<u64, u32>,
    /// Single precision, widened.
    pub singles: HashMap<u64, u32>,
}

/// A column of a OneHotEncoder.
#[derive(Debug)]
pub struct EncodedColumn {
    /// Reads.
    pub input: String,
    /// Makes.
    pub output: String,
    /// Categories it was fitted on.
    pub size: u32,
    /// Values of a vector.
    pub width: usize,
}

/// A column of an Imputer.
#[derive(Debug)]
pub struct ImputedColumn {
    /// Reads.
    pub input: String,
    /// Makes.
    pub output: String,
    /// For missing values.
    pub surrogate: f64,
    /// Whether that is the mean of the others.
    pub mean: bool,
}

impl IndexedColumn {
    fn new(input: String, output: String, labels: Vec<String>) -> Self {
        // Java writes a finite number of a floating type with a point.
        let floats = || {
            labels
                .iter()
                .zip(0u32..)
                .filter(|(l, _)| l.contains('.') || matches!(l.as_str(), "NaN" | "Infinity" | "-Infinity"))
        };
        let doubles = floats().filter_map(|(l, n)| l.parse::<f64>().ok().map(|v| (v.to_bits(), n))).collect();
        let singles =
            floats().filter_map(|(l, n)| l.parse::<f32>().ok().map(|v| (f64::from(v).to_bits(), n))).collect();
        let numbers = labels.iter().cloned().zip(0u32..).collect();
        Self { input, output, labels, numbers, doubles, singles }
    }
}

impl Stage {
    /// Loads a stage; `None` when `class` is not one that prepares features.
    pub fn load(class: &str, parameters: &Parameters<'_>, folder: &Folder<'_>) -> Result<Option<Self>> {
        let pairs = || -> Result<Vec<(String, String)>> {
            let inputs = parameters.columns("inputCols", "inputCol")?;
            let outputs = parameters.columns("outputCols", "outputCol")?;
            if inputs.len() != outputs.len() {
                return Err(Error::data(format!("{class} has {} inputs and {} outputs", inputs.len(), outputs.len())));
            }
            Ok(inputs.into_iter().zip(outputs).collect())
        };
        let invalid = || match parameters.text("handleInvalid").unwrap_or("error") {
            "error" => Ok(Invalid::Error),
            "keep" => Ok(Invalid::Keep),
            "skip" => Ok(Invalid::Skip),
            other => Err(Error::data(format!("{class} has handleInvalid = `{other}`"))),
        };
        let one = |name: &str| {
            parameters.text(name).map(str::to_owned).ok_or_else(|| Error::data(format!("{class} has no {name}")))
        };
        Ok(Some(match class {
            "StringIndexerModel" => {
                let (pairs, lists) = (pairs()?, labels(folder)?);
                if lists.len() != pairs.len() {
                    return Err(Error::data("StringIndexerModel has another number of label lists than columns"));
                }
                let columns = pairs
                    .into_iter()
                    .zip(lists)
                    .map(|((input, output), labels)| IndexedColumn::new(input, output, labels));
                Self::StringIndexer { columns: columns.collect(), invalid: invalid()? }
            }
            "OneHotEncoderModel" => {
                let rows = folder.rows("data")?;
                let sizes = store::list(store::column(&rows, "categorySizes")?, 0)?;
                let (pairs, invalid) = (pairs()?, invalid()?);
                if sizes.len() != pairs.len() || sizes.iter().any(|s| !(*s >= 0.0 && *s < MAX_WIDTH as f64)) {
                    return Err(Error::data("OneHotEncoderModel has category sizes that do not fit its columns"));
                }
                let (keep, drop) = (usize::from(invalid == Invalid::Keep), usize::from(parameters.flag("dropLast")));
                let column = |((input, output), size): ((String, String), f64)| {
                    let width = (size as usize + keep).saturating_sub(drop);
                    EncodedColumn { input, output, size: size as u32, width }
                };
                Self::OneHot { columns: pairs.into_iter().zip(sizes).map(column).collect(), invalid }
            }
            "ImputerModel" => {
                let rows = folder.rows("data")?;
                let mean = parameters.text("strategy").unwrap_or("mean") == "mean";
                let column = |(input, output): (String, String)| {
                    let value = store::numbers(store::column(&rows, &input)?)?.first().copied();
                    let surrogate =
                        value.ok_or_else(|| Error::data(format!("ImputerModel has no value for `{input}`")))?;
                    Ok(ImputedColumn { input, output, surrogate, mean })
                };
                let missing = match parameters.get("missingValue") {
                    Some(Value::Number(n)) => n.as_f64().unwrap_or(f64::NAN),
                    _ => f64::NAN,
                };
                Self::Imputer { columns: pairs()?.into_iter().map(column).collect::<Result<_>>()?, missing }
            }
            "VectorAssembler" => Self::Assembler {
                inputs: parameters.columns("inputCols", "inputCol")?,
                output: one("outputCol")?,
                invalid: invalid()?,
            },
            "StandardScalerModel" => {
                let rows = folder.rows("data")?;
                let vector = |name: &str| store::vector(store::column(&rows, name)?, 0);
                let shift = if parameters.flag("withMean") { Some(vector("mean")?) } else { None };
                let scale = if parameters.flag("withStd") {
                    Some(vector("std")?.into_iter().map(|s| if s == 0.0 { 0.0 } else { 1.0 / s }).collect())
                } else {
                    None
                };
                // Explaining alone needs the mean of values that are not shifted.
                let mean = vector("mean").unwrap_or_default();
                Self::Scaler { input: one("inputCol")?, output: one("outputCol")?, shift, scale, mean }
            }
            _ => return Ok(None),
        }))
    }

    /// Numbers that it keeps.
    pub fn held(&self) -> usize {
        match self {
            Self::Scaler { shift, scale, .. } => [shift, scale].into_iter().flatten().map(Vec::len).sum(),
            _ => 0,
        }
    }

    /// The columns it reads.
    pub fn inputs(&self) -> Vec<(&str, InputKind)> {
        let number = |name| (name, InputKind::Numeric);
        match self {
            Self::StringIndexer { columns, .. } => {
                columns.iter().map(|c| (c.input.as_str(), InputKind::Categorical)).collect()
            }
            Self::OneHot { columns, .. } => columns.iter().map(|c| number(c.input.as_str())).collect(),
            Self::Imputer { columns, .. } => columns.iter().map(|c| number(c.input.as_str())).collect(),
            Self::Assembler { inputs, .. } => inputs.iter().map(|i| number(i.as_str())).collect(),
            Self::Scaler { input, .. } => vec![number(input.as_str())],
        }
    }

    /// The columns it makes.
    pub fn outputs(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::StringIndexer { columns, .. } => Box::new(columns.iter().map(|c| c.output.as_str())),
            Self::OneHot { columns, .. } => Box::new(columns.iter().map(|c| c.output.as_str())),
            Self::Imputer { columns, .. } => Box::new(columns.iter().map(|c| c.output.as_str())),
            Self::Assembler { output, .. } | Self::Scaler { output, .. } => Box::new(std::iter::once(output.as_str())),
        }
    }

    /// Leaves out the columns that `needed` does not hold, adds to it what the
    /// others read, and says whether anything is left.
    pub fn keep_needed(&mut self, needed: &mut HashSet<String>) -> bool {
        match self {
            Self::StringIndexer { columns, .. } => columns.retain(|c| needed.contains(&c.output)),
            Self::OneHot { columns, .. } => columns.retain(|c| needed.contains(&c.output)),
            Self::Imputer { columns, .. } => columns.retain(|c| needed.contains(&c.output)),
            Self::Assembler { output, .. } | Self::Scaler { output, .. } => {
                if !needed.contains(output) {
                    return false;
                }
            }
        }
        let inputs: Vec<String> = self.inputs().into_iter().map(|(name, _)| name.to_owned()).collect();
        let any = !inputs.is_empty();
        needed.extend(inputs);
        any || matches!(self, Self::Assembler { .. })
    }

    /// Works out the width of the columns it makes from those before, so that
    /// scoring need not check any.
    pub fn widths(&self, made: &mut HashMap<String, Width>) -> Result<()> {
        let number = |made: &HashMap<String, Width>, name: &str| match made.get(name) {
            None | Some(Width::Number) => Ok(()),
            Some(Width::Vector(_)) => {
                Err(Error::data(format!("column `{name}` holds vectors where numbers were expected")))
            }
        };
        match self {
            Self::StringIndexer { columns, .. } => {
                for column in columns {
                    if made.contains_key(&column.input) {
                        return Err(Error::invalid(format!(
                            "a StringIndexer of the column `{}`, which another stage makes, is not supported",
                            column.input
                        )));
                    }
                    made.insert(column.output.clone(), Width::Number);
                }
            }
            Self::OneHot { columns, .. } => {
                for column in columns {
                    number(made, &column.input)?;
                    made.insert(column.output.clone(), Width::Vector(column.width));
                }
            }
            Self::Imputer { columns, .. } => {
                for column in columns {
                    number(made, &column.input)?;
                    made.insert(column.output.clone(), Width::Number);
                }
            }
            Self::Assembler { inputs, output, .. } => {
                let width: usize = inputs.iter().map(|i| made.get(i).map_or(1, |w| w.values())).sum();
                if width > MAX_WIDTH {
                    return Err(Error::invalid(format!("`{output}` has {width} values, which is too wide")));
                }
                made.insert(output.clone(), Width::Vector(width));
            }
            Self::Scaler { input, output, shift, scale, .. } => {
                let Some(Width::Vector(width)) = made.get(input).copied() else {
                    return Err(Error::data(format!("column `{input}` does not hold vectors")));
                };
                for part in [shift, scale].into_iter().flatten() {
                    if part.len() != width {
                        return Err(Error::data(format!(
                            "StandardScalerModel was fitted on {} values, `{input}` has {width}",
                            part.len()
                        )));
                    }
                }
                made.insert(output.clone(), Width::Vector(width));
            }
        }
        Ok(())
    }
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// One number.
    Number,
    /// A vector of so many.
    Vector(usize),
}

impl Width {
    /// Values of a row.
    pub fn values(self) -> usize {
        match self {
            Self::Number => 1,
            Self::Vector(width) => width,
        }
    }
}

/// The label lists of a StringIndexer: one list per column, before Spark 3 one.
fn labels(folder: &Folder<'_>) -> Result<Vec<Vec<String>>> {
    let rows = folder.rows("data")?;
    let Some(nested) = rows.column_by_name("labelsArray") else {
        return Ok(vec![store::strings(store::column(&rows, "labels")?, 0)?]);
    };
    let outer: Option<&ListArray> = nested.as_list_opt();
    let inner = outer.filter(|l| !l.is_empty()).map(|l| l.value(0));
    let inner = inner.ok_or_else(|| Error::data("StringIndexerModel has no labels"))?;
    (0..inner.len()).map(|i| store::strings(&inner, i)).collect()
}
