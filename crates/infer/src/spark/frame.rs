//! The columns of a block of rows: those that came in and those made from them.
//!
//! A column that came in is read by its type: numbers, or vectors (a struct
//! `type, size, indices, values` as Spark writes it to Parquet, or a list of
//! numbers).

use std::collections::HashMap;
use std::rc::Rc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Int32Type, Schema};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::stage::{Invalid, MAX_WIDTH, Step};
use super::vectors::{Numbers, Sparsity, Vectors};
use crate::columns;
use crate::error::{Error, Result};
use crate::model::Input;

/// The columns of a block, and those the stages made.
#[derive(Debug)]
pub struct Frame<'a> {
    batch: &'a RecordBatch,
    wanted: &'a [Input],
    made: HashMap<&'a str, Made>,
}

/// A column that a stage made.
#[derive(Debug, Clone)]
pub enum Made {
    /// Numbers.
    Numbers(Numbers),
    /// Vectors.
    Vectors(Vectors),
    /// Anything else.
    Raw(ArrayRef),
}

impl<'a> Frame<'a> {
    /// A block before any stage; `wanted` is the model's signature.
    pub fn new(batch: &'a RecordBatch, wanted: &'a [Input]) -> Self {
        Self { batch, wanted, made: HashMap::new() }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.batch.num_rows()
    }

    /// Adds the columns that a stage makes.
    pub fn apply(&mut self, step: &'a Step) -> Result<()> {
        let made = step.work.apply(self, &step.reads).map_err(|e| e.within(&step.class))?;
        self.made.extend(step.makes.iter().map(String::as_str).zip(made));
        Ok(())
    }

    /// A column that is no vector and no number that a stage made.
    pub fn raw(&self, name: &str) -> Option<&ArrayRef> {
        match self.made.get(name) {
            Some(Made::Raw(array)) => Some(array),
            Some(_) => None,
            None => self.batch.column_by_name(name),
        }
    }

    /// A column, read by its type.
    pub fn get(&self, name: &str) -> Result<Made> {
        let array = match self.made.get(name) {
            Some(Made::Raw(array)) => array,
            Some(made) => return Ok(made.clone()),
            None => columns::find(self.batch, name, self.wanted)?,
        };
        Ok(match columns::value_type(array) {
            DataType::Struct(_) | DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
                Made::Vectors(read_vectors(array, name)?)
            }
            t if t.is_numeric() || matches!(t, DataType::Boolean) => {
                Made::Numbers(columns::number_array(array, name)?.iter().collect())
            }
            _ => Made::Raw(array.clone()),
        })
    }

    /// A column of numbers.
    pub fn numbers(&self, name: &str) -> Result<Numbers> {
        match self.get(name)? {
            Made::Numbers(numbers) => Ok(numbers),
            Made::Vectors(_) => {
                Err(Error::invalid(format!("column `{name}` holds vectors where numbers were expected")))
            }
            Made::Raw(array) => columns::number_array(&array, name).map(|numbers| numbers.iter().collect()),
        }
    }

    /// A column of vectors without nulls, of this width where one is given.
    pub fn vectors(&self, name: &str, width: Option<usize>) -> Result<Vectors> {
        let vectors = match self.get(name)? {
            Made::Vectors(vectors) => vectors,
            Made::Numbers(_) => return Err(Error::invalid(format!("column `{name}` does not hold vectors"))),
            Made::Raw(array) => return Err(columns::wrong(name, "vectors", array.data_type())),
        };
        if let Some(row) = vectors.nulls.as_ref().and_then(|nulls| nulls.iter().position(|null| *null)) {
            return Err(missing(name, row, Invalid::Error));
        }
        if let Some(width) = width.filter(|w| *w != vectors.width()) {
            let found = vectors.width();
            return Err(Error::data(format!("column `{name}` has vectors of {found} values instead of {width}")));
        }
        Ok(vectors)
    }

    /// All columns that came in, and those in `names` that were made.
    pub fn table(&self, names: &[String]) -> Result<RecordBatch> {
        let mut table: Vec<(String, ArrayRef)> = Vec::new();
        for name in names {
            let array = match self.made.get(name.as_str()) {
                None => columns::find(self.batch, name, self.wanted)?.clone(),
                Some(Made::Raw(array)) => array.clone(),
                Some(Made::Numbers(numbers)) => {
                    std::sync::Arc::new(numbers.iter().collect::<arrow::array::Float64Array>())
                }
                Some(Made::Vectors(_)) => {
                    return Err(Error::invalid(format!("column `{name}` holds vectors, which SQL here does not read")));
                }
            };
            table.push((name.clone(), array));
        }
        let fields: Vec<Field> = table.iter().map(|(name, a)| Field::new(name, a.data_type().clone(), true)).collect();
        let arrays = table.into_iter().map(|(_, array)| array).collect();
        // A statement of constants reads no column.
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows()));
        RecordBatch::try_new_with_options(Schema::new(fields).into(), arrays, &options)
            .map_err(|e| Error::invalid(e.to_string()))
    }
}

/// Vectors in a column that came in.
fn read_vectors(array: &ArrayRef, name: &str) -> Result<Vectors> {
    let wrong = || columns::wrong(name, "vectors", array.data_type());
    let lists = |array: &ArrayRef, inner: DataType| -> Result<ArrayRef> {
        let field = Field::new("element", inner, true);
        cast(array, &DataType::List(field.into())).map_err(|_| wrong())
    };
    let rows = array.len();
    let nulls: Vec<bool> = (0..rows).map(|row| array.is_null(row)).collect();
    let (kinds, sizes, indices, values) = match array.as_struct_opt() {
        None => (None, None, None, lists(array, DataType::Float64)?),
        Some(fields) => {
            let field = |part: &str| fields.column_by_name(part).ok_or_else(wrong);
            let integers = |part: &str| cast(field(part)?, &DataType::Int32).map_err(|_| wrong());
            let indices = lists(field("indices")?, DataType::Int32)?;
            let values = lists(field("values")?, DataType::Float64)?;
            (Some(integers("type")?), Some(integers("size")?), Some(indices), values)
        }
    };
    let values = values.as_list::<i32>();
    // A null inside a vector has no meaning; it must not become a number.
    if values.values().null_count() > 0 {
        return Err(Error::data(format!("column `{name}` has a null inside a vector")));
    }
    let numbers = values.values().as_primitive::<Float64Type>();
    let slice = |row: usize| {
        let offsets = values.value_offsets();
        &numbers.values()[offsets[row] as usize..offsets[row + 1] as usize]
    };
    let is_sparse = |row: usize| kinds.as_ref().is_some_and(|k| k.as_primitive::<Int32Type>().value(row) == 0);
    let width_of = |row: usize| match (&sizes, is_sparse(row)) {
        (Some(sizes), true) => usize::try_from(sizes.as_primitive::<Int32Type>().value(row)).unwrap_or(usize::MAX),
        _ => slice(row).len(),
    };
    let width = (0..rows).find(|row| !nulls[*row]).map_or(0, width_of);
    if width > MAX_WIDTH || width.saturating_mul(rows) > 1 << 27 {
        return Err(Error::invalid(format!("column `{name}` has vectors of {width} values, which is too wide")));
    }
    let mut columns = vec![vec![0.0; rows]; width];
    let mut sparse = vec![false; rows];
    for row in 0..rows {
        if nulls[row] {
            columns.iter_mut().for_each(|column| column[row] = f64::NAN);
            continue;
        }
        if width_of(row) != width {
            return Err(Error::data(format!("column `{name}` has vectors of {width} and of {} values", width_of(row))));
        }
        sparse[row] = is_sparse(row);
        match indices.as_ref().filter(|_| sparse[row]) {
            None => columns.iter_mut().zip(slice(row)).for_each(|(column, value)| column[row] = *value),
            Some(indices) => {
                let places = indices.as_list::<i32>().value(row);
                let places = places.as_primitive::<Int32Type>();
                if places.len() != slice(row).len() || places.null_count() > 0 {
                    return Err(Error::data(format!("column `{name}` has a damaged sparse vector")));
                }
                for (place, value) in places.values().iter().zip(slice(row)) {
                    let column = usize::try_from(*place).ok().and_then(|place| columns.get_mut(place));
                    let column =
                        column.ok_or_else(|| Error::data(format!("column `{name}` has a damaged sparse vector")))?;
                    column[row] = *value;
                }
            }
        }
    }
    let mut vectors = Vectors::dense(rows, columns);
    vectors.sparse = Sparsity::Rows(Rc::new(sparse));
    vectors.nulls = nulls.contains(&true).then(|| Rc::new(nulls));
    Ok(vectors)
}

/// A value that the model does not know.
pub fn unseen(column: &str, value: Option<&str>, invalid: Invalid) -> Error {
    let shown = value.map_or_else(|| "null".to_owned(), |v| format!("`{v}`"));
    let error = Error::data(format!("column `{column}` has the value {shown}, which the model has never seen"));
    error.with_hint(match invalid {
        Invalid::Skip => "Spark would drop the row (handleInvalid = \"skip\"): filter such rows in the feature SQL",
        _ => "fit the pipeline with handleInvalid = \"keep\", or filter such rows in the feature SQL",
    })
}

/// A value that is missing where the model refuses that.
pub fn missing(column: &str, row: usize, invalid: Invalid) -> Error {
    let error = Error::data(format!(
        "column `{column}` has no value in row {row} of a batch, and the model refuses missing values"
    ));
    error.with_hint(match invalid {
        Invalid::Skip => "Spark would drop the row (handleInvalid = \"skip\"): filter such rows in the feature SQL",
        _ => "fill it in the feature SQL, or fit the VectorAssembler with handleInvalid = \"keep\"",
    })
}
