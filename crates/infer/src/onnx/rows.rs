//! From the columns of a batch to the inputs of a graph.

use std::borrow::Cow;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Int64Type};
use arrow::record_batch::RecordBatch;
use arrow::util::bit_chunk_iterator::BitChunks;

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

/// A column of an input, in a batch.
#[derive(Debug)]
pub struct Column<'a> {
    name: &'a str,
    array: &'a ArrayRef,
    /// Its values, where the input and the column are float32.
    singles: Option<Singles<'a>>,
}

/// The values of a float32 column. Threads read parts of it at the same time:
/// borrowed, so that no part counts references to the column's buffers.
#[derive(Debug, Clone, Copy)]
struct Singles<'a> {
    values: &'a [f32],
    nulls: Option<&'a NullBuffer>,
}

impl<'a> Singles<'a> {
    fn of(array: &'a ArrayRef) -> Option<Self> {
        let plain = array.as_primitive_opt::<Float32Type>()?;
        Some(Self { values: plain.values(), nulls: plain.nulls().filter(|nulls| nulls.null_count() > 0) })
    }

    /// Some rows of it, NaN where null.
    fn part(&self, start: usize, count: usize) -> Cow<'a, [f32]> {
        let values = self.values.get(start..start + count).unwrap_or_default();
        let Some(nulls) = self.nulls else { return Cow::Borrowed(values) };
        let bits = BitChunks::new(nulls.validity(), nulls.offset() + start, values.len());
        let mut own = values.to_vec();
        for (word, part) in bits.iter_padded().zip(own.chunks_mut(64)) {
            let mut missing = !word;
            if part.len() < 64 {
                missing &= (1 << part.len()) - 1;
            }
            while missing != 0 {
                part[missing.trailing_zeros() as usize] = f32::NAN;
                missing &= missing - 1;
            }
        }
        Cow::Owned(own)
    }
}

impl Feed {
    /// Its columns in a batch.
    ///
    /// # Errors
    /// When the batch lacks one, or its type is wrong.
    pub fn columns<'a>(
        &self,
        batch: &'a RecordBatch,
        wanted: &'a [Input],
        words: &mut Words<'_>,
    ) -> Result<Vec<Column<'a>>> {
        let names = wanted.get(self.columns.clone()).unwrap_or_default();
        let columns = names.iter().map(|input| {
            let array = columns::find(batch, &input.name, wanted)?;
            let singles = if self.kind == Kind::F32 { Singles::of(array) } else { None };
            let column = Column { name: &input.name, array, singles };
            // A wrong type is told for no rows as well.
            if singles.is_none() {
                column.read(self.kind, 0, 0, words)?;
            }
            Ok(column)
        });
        columns.collect()
    }

    /// Some rows of its columns.
    ///
    /// # Errors
    /// When a value is none of the input's kind.
    pub fn read(&self, columns: &[Column<'_>], start: usize, count: usize, words: &mut Words<'_>) -> Result<Tensor> {
        if self.kind == Kind::F32 {
            let parts = columns.iter().map(|column| column.part(start, count));
            let parts = parts.collect::<Result<Vec<Cow<'_, [f32]>>>>()?;
            let data = by_row(&parts.iter().map(AsRef::as_ref).collect::<Vec<&[f32]>>(), count);
            return self.shaped(Data::F32(data), columns.len(), count);
        }
        let parts = columns.iter().map(|column| column.read(self.kind, start, count, words));
        self.tensor(&parts.collect::<Result<Vec<Data>>>()?, count)
    }

    /// All values of its columns, each of so many rows.
    ///
    /// # Errors
    /// When they are of another kind.
    pub fn tensor(&self, columns: &[Data], count: usize) -> Result<Tensor> {
        fn all<'a, T: Copy + Default>(
            columns: &'a [Data],
            get: fn(&'a Data) -> Option<&'a [T]>,
            count: usize,
        ) -> Vec<T> {
            by_row(&columns.iter().filter_map(get).collect::<Vec<&[T]>>(), count)
        }
        let data = match self.kind {
            Kind::F32 => Data::F32(all(columns, |c| if let Data::F32(v) = c { Some(v) } else { None }, count)),
            Kind::F64 => Data::F64(all(columns, |c| if let Data::F64(v) = c { Some(v) } else { None }, count)),
            Kind::I64 => Data::I64(all(columns, |c| if let Data::I64(v) = c { Some(v) } else { None }, count)),
            Kind::I32 => Data::I32(all(columns, |c| if let Data::I32(v) = c { Some(v) } else { None }, count)),
            Kind::Bool => Data::Bool(all(columns, |c| if let Data::Bool(v) = c { Some(v) } else { None }, count)),
            Kind::Text => Data::Text(all(columns, |c| if let Data::Text(v) = c { Some(v) } else { None }, count)),
        };
        self.shaped(data, columns.len(), count)
    }

    fn shaped(&self, data: Data, width: usize, count: usize) -> Result<Tensor> {
        Tensor::new(if self.flat { vec![count] } else { vec![count, width] }, data)
    }
}

/// The values row by row.
fn by_row<T: Copy + Default>(columns: &[&[T]], count: usize) -> Vec<T> {
    if let [only] = columns {
        return only.to_vec();
    }
    let mut rows = vec![T::default(); columns.len() * count];
    for (at, column) in columns.iter().enumerate() {
        let places = rows[at..].iter_mut().step_by(columns.len());
        places.zip(*column).for_each(|(place, value)| *place = *value);
    }
    rows
}

impl Column<'_> {
    fn part(&self, start: usize, count: usize) -> Result<Cow<'_, [f32]>> {
        match self.singles {
            Some(singles) => Ok(singles.part(start, count)),
            None => columns::single_array(&self.array.slice(start, count), self.name).map(Cow::Owned),
        }
    }

    fn read(&self, kind: Kind, start: usize, count: usize, words: &mut Words<'_>) -> Result<Data> {
        let (name, array) = (self.name, self.array.slice(start, count));
        Ok(match kind {
            Kind::F32 => Data::F32(columns::single_array(&array, name)?),
            Kind::F64 => Data::F64(columns::with_nan(&columns::number_array(&array, name)?)),
            Kind::I64 => Data::I64(whole(&array, name)?),
            Kind::I32 => {
                let small = |v: i64| {
                    i32::try_from(v).map_err(|_| Error::data(format!("column `{name}` has {v}, which is no int32")))
                };
                Data::I32(whole(&array, name)?.into_iter().map(small).collect::<Result<_>>()?)
            }
            Kind::Bool => Data::Bool(whole(&array, name)?.into_iter().map(|v| v != 0).collect()),
            Kind::Text => {
                let labels = columns::label_array(&array, name)?;
                Data::Text(labels.iter().map(|label| words.number(label.unwrap_or(""))).collect())
            }
        })
    }
}

/// A column of whole numbers, none missing.
fn whole(column: &ArrayRef, name: &str) -> Result<Vec<i64>> {
    let hint = "replace or cast the values in the feature SQL";
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
    columns::with_nan(&columns::number_array(column, name)?).into_iter().map(exact).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::Float32Array;

    use super::*;

    #[test]
    fn any_rows_of_a_column_are_those_of_its_slice() {
        let all: Float32Array = (0..500).map(|i| (i % 7 != 3 && i % 64 != 0).then_some(i as f32)).collect();
        // With a start that is no multiple of a byte, as after a slice.
        for offset in [0, 1, 13, 64, 130] {
            let column: ArrayRef = std::sync::Arc::new(all.slice(offset, 300));
            let singles = Singles::of(&column).unwrap();
            for (start, count) in [(0, 300), (0, 0), (5, 1), (63, 66), (64, 128), (171, 129), (300, 0)] {
                let found = singles.part(start, count);
                let wanted = columns::single_array(&column.slice(start, count), "x").unwrap();
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
                assert_eq!(bits(&found), bits(&wanted), "rows {start}+{count} from {offset}");
            }
        }
    }
}
