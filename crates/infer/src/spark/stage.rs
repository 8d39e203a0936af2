//! The stages that prepare features.

use std::collections::HashMap;

use arrow::array::Array;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use serde_json::Value;

use super::store::{self, Folder, Parameters};
use crate::columns;
use crate::error::{Error, Result};
use crate::model::InputKind;

/// What a stage does with a value that it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// Refuses the row.
    Error,
    /// Keeps it as a value of its own.
    Keep,
}

/// A step over named columns.
#[derive(Debug)]
pub enum Stage {
    /// Labels to their numbers.
    StringIndexer { columns: Vec<(String, String)>, labels: Vec<HashMap<String, usize>>, invalid: Invalid },
    /// Numbers to one-hot vectors.
    OneHot { columns: Vec<(String, String)>, sizes: Vec<usize>, width: Vec<usize>, invalid: Invalid },
    /// Missing values to a constant.
    Imputer { columns: Vec<(String, String)>, surrogates: Vec<f64>, missing: f64 },
    /// Columns side by side.
    Assembler { inputs: Vec<String>, output: String, invalid: Invalid },
    /// `(x - mean) * scale`.
    Scaler { input: String, output: String, shift: Option<Vec<f64>>, scale: Option<Vec<f64>> },
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
            other => Err(Error::invalid(format!(
                "{class} has handleInvalid = `{other}`, which would drop rows without a word"
            ))
            .with_hint("fit the pipeline with handleInvalid = \"keep\" or \"error\"")),
        };
        Ok(Some(match class {
            "StringIndexerModel" => {
                let rows = folder.rows("data")?;
                let columns = pairs()?;
                let lists = match rows.column_by_name("labelsArray") {
                    Some(nested) => {
                        let outer = nested.as_any().downcast_ref::<arrow::array::ListArray>();
                        let inner = outer.filter(|l| !l.is_empty()).map(|l| l.value(0));
                        let inner = inner.ok_or_else(|| Error::data("StringIndexerModel has no labels"))?;
                        (0..inner.len()).map(|i| store::strings(&inner, i)).collect::<Result<Vec<_>>>()?
                    }
                    None => vec![store::strings(store::column(&rows, "labels")?, 0)?],
                };
                if lists.len() != columns.len() {
                    return Err(Error::data("StringIndexerModel has another number of label lists than columns"));
                }
                let labels =
                    lists.into_iter().map(|l| l.into_iter().enumerate().map(|(i, l)| (l, i)).collect()).collect();
                Self::StringIndexer { columns, labels, invalid: invalid()? }
            }
            "OneHotEncoderModel" => {
                let rows = folder.rows("data")?;
                let sizes = store::list(store::column(&rows, "categorySizes")?, 0)?;
                let sizes: Vec<usize> = sizes.into_iter().map(|s| s as usize).collect();
                let columns = pairs()?;
                if sizes.len() != columns.len() || sizes.iter().any(|s| *s > 10_000_000) {
                    return Err(Error::data("OneHotEncoderModel has category sizes that do not fit its columns"));
                }
                let invalid = invalid()?;
                let keep = usize::from(invalid == Invalid::Keep);
                let drop = usize::from(parameters.flag("dropLast"));
                let width = sizes.iter().map(|s| (s + keep).saturating_sub(drop)).collect();
                Self::OneHot { columns, sizes, width, invalid }
            }
            "ImputerModel" => {
                let rows = folder.rows("data")?;
                let columns = pairs()?;
                let surrogates = columns
                    .iter()
                    .map(|(input, _)| {
                        let value = store::numbers(store::column(&rows, input)?)?.first().copied();
                        value.ok_or_else(|| Error::data(format!("ImputerModel has no value for `{input}`")))
                    })
                    .collect::<Result<_>>()?;
                let missing = match parameters.get("missingValue") {
                    Some(Value::Number(n)) => n.as_f64().unwrap_or(f64::NAN),
                    _ => f64::NAN,
                };
                Self::Imputer { columns, surrogates, missing }
            }
            "VectorAssembler" => Self::Assembler {
                inputs: parameters.columns("inputCols", "inputCol")?,
                output: parameters.text("outputCol").unwrap_or("features").to_owned(),
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
                let column = |name: &str| {
                    parameters
                        .text(name)
                        .map(str::to_owned)
                        .ok_or_else(|| Error::data(format!("{class} has no {name}")))
                };
                Self::Scaler { input: column("inputCol")?, output: column("outputCol")?, shift, scale }
            }
            _ => return Ok(None),
        }))
    }

    /// The columns it reads.
    pub fn inputs(&self) -> Vec<(&str, InputKind)> {
        match self {
            Self::StringIndexer { columns, .. } => of_pairs(columns, InputKind::Categorical),
            Self::OneHot { columns, .. } | Self::Imputer { columns, .. } => of_pairs(columns, InputKind::Numeric),
            Self::Assembler { inputs, .. } => inputs.iter().map(|i| (i.as_str(), InputKind::Numeric)).collect(),
            Self::Scaler { input, .. } => vec![(input.as_str(), InputKind::Numeric)],
        }
    }

    /// The columns it makes.
    pub fn outputs(&self) -> Vec<&str> {
        match self {
            Self::StringIndexer { columns, .. } | Self::OneHot { columns, .. } | Self::Imputer { columns, .. } => {
                columns.iter().map(|(_, o)| o.as_str()).collect()
            }
            Self::Assembler { output, .. } | Self::Scaler { output, .. } => vec![output.as_str()],
        }
    }

    /// Adds the columns it makes.
    pub fn apply(&self, frame: &mut Frame<'_>) -> Result<()> {
        match self {
            Self::StringIndexer { columns, labels, invalid } => {
                for ((input, output), known) in columns.iter().zip(labels) {
                    let values = columns::labels(frame.batch, input)?;
                    let mut numbers = Vec::with_capacity(values.len());
                    for row in 0..values.len() {
                        let label = (!values.is_null(row)).then(|| values.value(row));
                        let number = match (label.and_then(|l| known.get(l)), invalid) {
                            (Some(number), _) => *number,
                            (None, Invalid::Keep) => known.len(),
                            (None, Invalid::Error) => return Err(unseen(input, label)),
                        };
                        numbers.push(number as f64);
                    }
                    frame.made.insert(output.clone(), Made::Numbers(numbers));
                }
            }
            Self::OneHot { columns, sizes, width, invalid } => {
                for (index, (input, output)) in columns.iter().enumerate() {
                    let values = frame.numbers(input)?;
                    let hot = values
                        .into_iter()
                        .map(|value| {
                            if value >= 0.0 && value < sizes[index] as f64 && value.fract() == 0.0 {
                                Ok(value as u32)
                            } else if *invalid == Invalid::Keep {
                                Ok(sizes[index] as u32)
                            } else {
                                Err(unseen(input, Some(&value.to_string())))
                            }
                        })
                        .collect::<Result<Vec<u32>>>()?;
                    frame.made.insert(output.clone(), Made::OneHot { width: width[index], hot });
                }
            }
            Self::Imputer { columns, surrogates, missing } => {
                for ((input, output), surrogate) in columns.iter().zip(surrogates) {
                    // Spark casts back to the column's own type.
                    let value = match frame.batch.column_by_name(input).map(|c| c.data_type()) {
                        Some(t) if t.is_integer() => surrogate.trunc(),
                        Some(DataType::Float32) => f64::from(*surrogate as f32),
                        _ => *surrogate,
                    };
                    let mut values = frame.numbers(input)?;
                    for v in &mut values {
                        if v.is_nan() || *v == *missing {
                            // Spark only replaces NaN where NaN is the missing value;
                            // a null is always replaced, and both are NaN here.
                            *v = value;
                        }
                    }
                    frame.made.insert(output.clone(), Made::Numbers(values));
                }
            }
            Self::Assembler { inputs, output, invalid } => {
                let assembled = frame.assemble(inputs, *invalid)?;
                frame.made.insert(output.clone(), assembled);
            }
            Self::Scaler { input, output, shift, scale } => {
                let (width, mut values) = frame.vectors(input)?;
                for part in [shift, scale].into_iter().flatten() {
                    if part.len() != width {
                        return Err(Error::data(format!(
                            "StandardScalerModel was fitted on {} values, the rows have {width}",
                            part.len()
                        )));
                    }
                }
                for row in values.chunks_mut(width.max(1)) {
                    if let Some(shift) = shift {
                        row.iter_mut().zip(shift).for_each(|(v, s)| *v -= s);
                    }
                    if let Some(scale) = scale {
                        row.iter_mut().zip(scale).for_each(|(v, s)| *v *= s);
                    }
                }
                frame.made.insert(output.clone(), Made::Vectors { width, values });
            }
        }
        Ok(())
    }
}

fn of_pairs(columns: &[(String, String)], kind: InputKind) -> Vec<(&str, InputKind)> {
    columns.iter().map(|(i, _)| (i.as_str(), kind)).collect()
}

fn unseen(column: &str, value: Option<&str>) -> Error {
    let shown = value.map_or_else(|| "null".to_owned(), |v| format!("`{v}`"));
    Error::data(format!("column `{column}` has the value {shown}, which the model has never seen"))
        .with_hint("fit the pipeline with handleInvalid = \"keep\", or filter such rows in the feature SQL")
}

/// The columns of a batch, and those the stages made.
#[derive(Debug)]
pub struct Frame<'a> {
    batch: &'a RecordBatch,
    made: HashMap<String, Made>,
}

#[derive(Debug)]
enum Made {
    Numbers(Vec<f64>),
    /// The one position of every row; outside the width is the empty vector.
    OneHot {
        width: usize,
        hot: Vec<u32>,
    },
    Vectors {
        width: usize,
        values: Vec<f64>,
    },
}

impl<'a> Frame<'a> {
    /// A batch before any stage.
    pub fn new(batch: &'a RecordBatch) -> Self {
        Self { batch, made: HashMap::new() }
    }

    fn numbers(&self, name: &str) -> Result<Vec<f64>> {
        match self.made.get(name) {
            Some(Made::Numbers(values)) => Ok(values.clone()),
            Some(_) => Err(Error::data(format!("column `{name}` holds vectors where numbers were expected"))),
            None => Ok(columns::with_nan(&columns::numbers(self.batch, name)?)),
        }
    }

    /// A column of vectors, row-major; taken out of the frame.
    pub fn vectors(&mut self, name: &str) -> Result<(usize, Vec<f64>)> {
        match self.made.remove(name) {
            Some(Made::Vectors { width, values }) => Ok((width, values)),
            _ => Err(Error::data(format!("column `{name}` does not hold vectors"))),
        }
    }

    fn assemble(&self, inputs: &[String], invalid: Invalid) -> Result<Made> {
        enum Part<'p> {
            Numbers(std::borrow::Cow<'p, [f64]>),
            OneHot(usize, &'p [u32]),
            Vectors(usize, &'p [f64]),
        }
        let mut width = 0;
        let mut parts = Vec::with_capacity(inputs.len());
        for name in inputs {
            let part = match self.made.get(name) {
                Some(Made::Numbers(values)) => Part::Numbers(values.as_slice().into()),
                Some(Made::OneHot { width, hot }) => Part::OneHot(*width, hot),
                Some(Made::Vectors { width, values }) => Part::Vectors(*width, values),
                None => Part::Numbers(columns::with_nan(&columns::numbers(self.batch, name)?).into()),
            };
            width += match &part {
                Part::Numbers(_) => 1,
                Part::OneHot(width, _) | Part::Vectors(width, _) => *width,
            };
            parts.push(part);
        }
        let rows = self.batch.num_rows();
        let mut out = vec![0.0; rows * width];
        let mut at = 0;
        for (part, name) in parts.iter().zip(inputs) {
            match part {
                Part::Numbers(values) => {
                    if invalid == Invalid::Error
                        && let Some(row) = values.iter().position(|v| v.is_nan())
                    {
                        return Err(Error::data(format!(
                            "column `{name}` has no value in row {row} of a batch, and the model refuses missing values"
                        ))
                        .with_hint(
                            "fill it in the feature SQL, or fit the VectorAssembler with handleInvalid = \"keep\"",
                        ));
                    }
                    values.iter().enumerate().for_each(|(row, v)| out[row * width + at] = *v);
                    at += 1;
                }
                Part::OneHot(wide, hot) => {
                    for (row, position) in hot.iter().enumerate() {
                        if (*position as usize) < *wide {
                            out[row * width + at + *position as usize] = 1.0;
                        }
                    }
                    at += wide;
                }
                Part::Vectors(wide, values) => {
                    for row in 0..rows {
                        out[row * width + at..row * width + at + wide]
                            .copy_from_slice(&values[row * wide..(row + 1) * wide]);
                    }
                    at += wide;
                }
            }
        }
        Ok(Made::Vectors { width, values: out })
    }
}
