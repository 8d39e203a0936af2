//! From the columns of a batch to the inputs of a graph.

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::record_batch::RecordBatch;

use super::tensor::{Data, Kind, Tensor, Words};
use crate::columns;
use crate::error::{Error, Result};
use crate::model::Input;

/// An input of the graph.
#[derive(Debug)]
pub struct Feed {
    /// What it holds.
    pub kind: Kind,
    /// Its columns, by their place in the signature.
    pub columns: std::ops::Range<usize>,
    /// Whether it has no dimension for its columns: it is a list.
    pub flat: bool,
}

impl Feed {
    /// Its columns.
    pub fn read(&self, batch: &RecordBatch, wanted: &[Input], words: &mut Words<'_>) -> Result<Vec<Data>> {
        let names = wanted.get(self.columns.clone()).unwrap_or_default();
        names.iter().map(|input| self.column(batch, &input.name, wanted, words)).collect()
    }

    fn column(&self, batch: &RecordBatch, name: &str, wanted: &[Input], words: &mut Words<'_>) -> Result<Data> {
        Ok(match self.kind {
            Kind::F32 => Data::F32(columns::singles(batch, name, wanted)?),
            Kind::F64 => Data::F64(columns::with_nan(&columns::numbers(batch, name, wanted)?)),
            Kind::I64 => Data::I64(whole(batch, name, wanted)?),
            Kind::I32 => {
                let small = |v: i64| {
                    i32::try_from(v).map_err(|_| Error::data(format!("column `{name}` has {v}, which is no int32")))
                };
                Data::I32(whole(batch, name, wanted)?.into_iter().map(small).collect::<Result<_>>()?)
            }
            Kind::Bool => Data::Bool(whole(batch, name, wanted)?.into_iter().map(|v| v != 0).collect()),
            Kind::Text => {
                let labels = columns::labels(batch, name, wanted)?;
                Data::Text(labels.iter().map(|label| words.number(label.unwrap_or(""))).collect())
            }
        })
    }

    /// Some rows of its columns.
    pub fn tensor(&self, columns: &[Data], start: usize, count: usize) -> Result<Tensor> {
        let width = columns.len();
        let mut data = Data::empty(self.kind, 0);
        if let [only] = columns {
            data.append(only, start..start + count)?;
        } else {
            fn rows<T: Copy + Default>(columns: &[&Vec<T>], start: usize, count: usize) -> Vec<T> {
                let mut rows = vec![T::default(); columns.len() * count];
                for (at, column) in columns.iter().enumerate() {
                    let places = rows[at..].iter_mut().step_by(columns.len());
                    places.zip(&column[start..start + count]).for_each(|(place, value)| *place = *value);
                }
                rows
            }
            fn all<'a, T>(columns: &'a [Data], get: fn(&'a Data) -> Option<&'a Vec<T>>) -> Vec<&'a Vec<T>> {
                columns.iter().filter_map(get).collect()
            }
            data = match self.kind {
                Kind::F32 => {
                    let all = all(columns, |c| if let Data::F32(v) = c { Some(v) } else { None });
                    Data::F32(rows(&all, start, count))
                }
                Kind::F64 => {
                    let all = all(columns, |c| if let Data::F64(v) = c { Some(v) } else { None });
                    Data::F64(rows(&all, start, count))
                }
                Kind::I64 => {
                    let all = all(columns, |c| if let Data::I64(v) = c { Some(v) } else { None });
                    Data::I64(rows(&all, start, count))
                }
                Kind::I32 => {
                    let all = all(columns, |c| if let Data::I32(v) = c { Some(v) } else { None });
                    Data::I32(rows(&all, start, count))
                }
                Kind::Bool => {
                    let all = all(columns, |c| if let Data::Bool(v) = c { Some(v) } else { None });
                    Data::Bool(rows(&all, start, count))
                }
                Kind::Text => {
                    let all = all(columns, |c| if let Data::Text(v) = c { Some(v) } else { None });
                    Data::Text(rows(&all, start, count))
                }
            };
        }
        Tensor::new(if self.flat { vec![count] } else { vec![count, width] }, data)
    }
}

/// A column of whole numbers, none missing.
fn whole(batch: &RecordBatch, name: &str, wanted: &[Input]) -> Result<Vec<i64>> {
    let hint = "replace or cast the values in the feature SQL";
    let column = columns::find(batch, name, wanted)?;
    let kind = columns::value_type(column);
    if kind.is_integer() || matches!(kind, DataType::Boolean) {
        let plain =
            cast(column, &DataType::Int64).map_err(|_| columns::wrong(name, "whole numbers", column.data_type()))?;
        if plain.null_count() > 0 {
            return Err(
                Error::data(format!("column `{name}` has a null, and the model wants whole numbers")).with_hint(hint)
            );
        }
        return Ok(plain.as_primitive::<Int64Type>().values().to_vec());
    }
    let exact = |v: f64| {
        if v.fract() == 0.0 && v.abs() <= 9_007_199_254_740_992.0 {
            return Ok(v as i64);
        }
        Err(Error::data(format!("column `{name}` has the value {v}, and the model wants whole numbers"))
            .with_hint(hint))
    };
    columns::with_nan(&columns::numbers(batch, name, wanted)?).into_iter().map(exact).collect()
}
