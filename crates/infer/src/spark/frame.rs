//! The stages at work: the columns of a batch and those made from them.

use std::borrow::Cow;
use std::collections::HashMap;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::record_batch::RecordBatch;

use super::stage::{IndexedColumn, Invalid, Stage};
use crate::columns;
use crate::error::{Error, Result};
use crate::model::Input;

/// A one-hot position that stands for a null.
const NULL: u32 = u32::MAX;

/// The columns of a batch, and those the stages made.
#[derive(Debug)]
pub struct Frame<'a> {
    batch: &'a RecordBatch,
    wanted: &'a [Input],
    made: HashMap<&'a str, Made>,
}

#[derive(Debug)]
enum Made {
    Numbers(Vec<f64>),
    /// The one position of every row; outside the width is the empty vector.
    OneHot {
        width: usize,
        hot: Vec<u32>,
    },
    /// Column by column.
    Vectors(Vec<Vec<f64>>),
}

impl<'a> Frame<'a> {
    /// A batch before any stage; `wanted` is the model's signature.
    pub fn new(batch: &'a RecordBatch, wanted: &'a [Input]) -> Self {
        Self { batch, wanted, made: HashMap::new() }
    }

    /// Adds the columns that a stage makes.
    pub fn apply(&mut self, stage: &'a Stage) -> Result<()> {
        match stage {
            Stage::StringIndexer { columns, invalid } => {
                for column in columns {
                    let numbers = self.index(column, *invalid)?;
                    self.made.insert(&column.output, Made::Numbers(numbers));
                }
            }
            Stage::OneHot { columns, invalid } => {
                for column in columns {
                    let place = |value: Option<f64>| match value {
                        None => Ok(NULL),
                        Some(value) if value >= 0.0 && value < f64::from(column.size) => Ok(value as u32),
                        Some(_) if *invalid == Invalid::Keep => Ok(column.size),
                        Some(value) => Err(unseen(&column.input, Some(&value.to_string()), *invalid)),
                    };
                    let hot = self.optional(&column.input)?.into_iter().map(place).collect::<Result<Vec<u32>>>()?;
                    self.made.insert(&column.output, Made::OneHot { width: column.width, hot });
                }
            }
            Stage::Imputer { columns, missing } => {
                for column in columns {
                    // Spark casts the value to the column's own type.
                    let found = self.batch.column_by_name(&column.input).map(columns::value_type);
                    let surrogate = match found {
                        Some(t) if t.is_integer() => column.surrogate.trunc(),
                        Some(DataType::Float32) => f64::from(column.surrogate as f32),
                        _ => column.surrogate,
                    };
                    let fill = |value: Option<f64>| match value {
                        Some(value) if value != *missing && !(value.is_nan() && missing.is_nan()) => value,
                        _ => surrogate,
                    };
                    let values = self.optional(&column.input)?.into_iter().map(fill).collect();
                    self.made.insert(&column.output, Made::Numbers(values));
                }
            }
            Stage::Assembler { inputs, output, invalid } => {
                let assembled = self.assemble(inputs, *invalid)?;
                self.made.insert(output, assembled);
            }
            Stage::Scaler { input, output, shift, scale, .. } => {
                let mut columns = self.vectors(input)?.into_owned();
                for (place, column) in columns.iter_mut().enumerate() {
                    if let Some(shift) = shift.as_ref().and_then(|shift| shift.get(place)) {
                        column.iter_mut().for_each(|v| *v -= shift);
                    }
                    if let Some(scale) = scale.as_ref().and_then(|scale| scale.get(place)) {
                        column.iter_mut().for_each(|v| *v *= scale);
                    }
                }
                self.made.insert(output, Made::Vectors(columns));
            }
        }
        Ok(())
    }

    /// The vectors of a column, value by value.
    pub fn into_vectors(mut self, name: &str) -> Result<Vec<Vec<f64>>> {
        if let Some(Made::Vectors(columns)) = self.made.remove(name) {
            return Ok(columns);
        }
        self.vectors(name).map(Cow::into_owned)
    }

    /// The numbers of labels.
    fn index(&self, column: &IndexedColumn, invalid: Invalid) -> Result<Vec<f64>> {
        let (name, other) = (column.input.as_str(), column.labels.len());
        let source = columns::find(self.batch, name, self.wanted)?;
        let number = |known: Option<&u32>, shown: &dyn Fn() -> Option<String>| match known {
            Some(number) => Ok(f64::from(*number)),
            None if invalid == Invalid::Keep => Ok(other as f64),
            None => Err(unseen(name, shown().as_deref(), invalid)),
        };
        let wrong = || columns::wrong(name, "labels", source.data_type());
        let floats = match columns::value_type(source) {
            DataType::Float64 => Some(&column.doubles),
            DataType::Float32 => Some(&column.singles),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null | DataType::Boolean => None,
            t if t.is_integer() => None,
            _ => return Err(wrong()),
        };
        if let Some(known) = floats {
            let plain = cast(source, &DataType::Float64).map_err(|_| wrong())?;
            let canonical = |v: f64| if v.is_nan() { f64::NAN } else { v };
            let values = plain.as_primitive::<Float64Type>().iter();
            return values
                .map(|v| number(v.and_then(|v| known.get(&canonical(v).to_bits())), &|| v.map(|v| v.to_string())))
                .collect();
        }
        let plain = cast(source, &DataType::Utf8).map_err(|_| wrong())?;
        let labels = plain.as_string::<i32>().iter();
        labels.map(|l| number(l.and_then(|l| column.numbers.get(l)), &|| l.map(str::to_owned))).collect()
    }

    fn optional(&self, name: &str) -> Result<Vec<Option<f64>>> {
        match self.made.get(name) {
            Some(Made::Numbers(values)) => Ok(values.iter().copied().map(Some).collect()),
            Some(_) => Err(Error::data(format!("column `{name}` holds vectors where numbers were expected"))),
            None => Ok(columns::numbers(self.batch, name, self.wanted)?.iter().collect()),
        }
    }

    fn vectors(&self, name: &str) -> Result<Cow<'_, [Vec<f64>]>> {
        match self.made.get(name) {
            Some(Made::Vectors(columns)) => Ok(columns.into()),
            Some(Made::OneHot { width, hot }) => one_hot(name, *width, hot, Invalid::Error).map(Cow::Owned),
            _ => Err(Error::data(format!("column `{name}` does not hold vectors"))),
        }
    }

    fn assemble(&self, inputs: &[String], invalid: Invalid) -> Result<Made> {
        let mut out: Vec<Vec<f64>> = Vec::new();
        for name in inputs {
            let numbers = match self.made.get(name.as_str()) {
                Some(Made::Numbers(values)) => values.clone(),
                Some(Made::OneHot { width, hot }) => {
                    out.extend(one_hot(name, *width, hot, invalid)?);
                    continue;
                }
                Some(Made::Vectors(columns)) => {
                    out.extend(columns.iter().cloned());
                    continue;
                }
                None => columns::with_nan(&columns::numbers(self.batch, name, self.wanted)?),
            };
            if invalid != Invalid::Keep
                && let Some(row) = numbers.iter().position(|v| v.is_nan())
            {
                return Err(missing(name, row, invalid));
            }
            out.push(numbers);
        }
        Ok(Made::Vectors(out))
    }
}

/// One-hot positions as columns; a null is NaN in all of them, or refused.
fn one_hot(name: &str, width: usize, hot: &[u32], invalid: Invalid) -> Result<Vec<Vec<f64>>> {
    let mut columns = vec![vec![0.0; hot.len()]; width];
    for (row, place) in hot.iter().enumerate() {
        if *place == NULL {
            if invalid != Invalid::Keep {
                return Err(missing(name, row, invalid));
            }
            columns.iter_mut().for_each(|column| column[row] = f64::NAN);
        } else if let Some(column) = columns.get_mut(*place as usize) {
            column[row] = 1.0;
        }
    }
    Ok(columns)
}

fn unseen(column: &str, value: Option<&str>, invalid: Invalid) -> Error {
    let shown = value.map_or_else(|| "null".to_owned(), |v| format!("`{v}`"));
    let error = Error::data(format!("column `{column}` has the value {shown}, which the model has never seen"));
    error.with_hint(match invalid {
        Invalid::Skip => "Spark would drop the row (handleInvalid = \"skip\"): filter such rows in the feature SQL",
        _ => "fit the pipeline with handleInvalid = \"keep\", or filter such rows in the feature SQL",
    })
}

fn missing(column: &str, row: usize, invalid: Invalid) -> Error {
    let error = Error::data(format!(
        "column `{column}` has no value in row {row} of a batch, and the model refuses missing values"
    ));
    error.with_hint(match invalid {
        Invalid::Skip => "Spark would drop the row (handleInvalid = \"skip\"): filter such rows in the feature SQL",
        _ => "fill it in the feature SQL, or fit the VectorAssembler with handleInvalid = \"keep\"",
    })
}
