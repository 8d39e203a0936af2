//! Spark's files: JSON metadata, Parquet data, parameters with defaults.

use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Float64Type, Int32Type, Int64Type};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use serde_json::Value;

use super::sizes;
use super::stage::MAX_WIDTH;
use crate::artifact::Artifact;
use crate::error::{Error, Result};

/// Values of a vector or matrix at most.
const MAX_VALUES: usize = 1 << 24;

/// A folder of an artifact.
#[derive(Debug)]
pub struct Folder<'a> {
    artifact: &'a Artifact,
    path: String,
}

impl<'a> Folder<'a> {
    /// The folder `path`, empty or with a slash at its end.
    pub fn new(artifact: &'a Artifact, path: &str) -> Self {
        Self { artifact, path: path.to_owned() }
    }

    /// Its metadata: the first line of the first part.
    pub fn metadata(&self) -> Result<Value> {
        let prefix = format!("{}metadata/part-", self.path);
        let found = self.parts(&prefix).find(|(_, bytes)| !bytes.is_empty());
        let (path, bytes) = found.ok_or_else(|| Error::data(format!("the model has no `{prefix}…`")))?;
        let text = std::str::from_utf8(bytes).map_err(|_| Error::data(format!("`{path}` is no text")))?;
        serde_json::from_str(text.lines().next().unwrap_or_default())
            .map_err(|e| Error::data(format!("`{path}` is no JSON: {e}")))
    }

    /// The files whose paths begin so.
    fn parts<'p>(&self, prefix: &'p str) -> impl Iterator<Item = (&'a String, &'a Bytes)> + use<'a, 'p> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.artifact.files().range::<str, _>(from).take_while(move |(path, _)| path.starts_with(prefix))
    }

    /// All rows of one of its Parquet folders, `data` or `treesMetadata`.
    pub fn rows(&self, name: &str) -> Result<RecordBatch> {
        let prefix = format!("{}{name}/part-", self.path);
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut any = false;
        for (path, bytes) in self.parts(&prefix) {
            any = true;
            let damaged = |e: &dyn std::fmt::Display| Error::data(format!("`{path}` cannot be read: {e}"));
            sizes::check(bytes).map_err(|e| e.within(&format!("`{path}` cannot be read")))?;
            // The types are those of the file: Spark adds no Arrow schema.
            let plain = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
            let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes.clone(), plain)
                .and_then(ParquetRecordBatchReaderBuilder::build)
                .map_err(|e| damaged(&e))?;
            for batch in reader {
                batches.push(batch.map_err(|e| damaged(&e))?);
            }
        }
        if !any {
            return Err(Error::data(format!("the model has no `{prefix}…`"))
                .with_hint("copy the whole folder; a model saved by Spark Connect has another layout: save it with a classic session"));
        }
        let Some(first) = batches.first() else {
            return Err(Error::data(format!("`{}{name}` holds no rows", self.path)));
        };
        // `concat_batches` takes every batch to have the columns of the first.
        let alike = |batch: &RecordBatch| {
            let (mine, firsts) = (batch.schema(), first.schema());
            let same = |(a, b): (&Arc<Field>, &Arc<Field>)| a.name() == b.name() && a.data_type() == b.data_type();
            mine.fields().len() == firsts.fields().len() && mine.fields().iter().zip(firsts.fields()).all(same)
        };
        if !batches.iter().all(alike) {
            return Err(Error::data(format!("the parts of `{}{name}` have different columns", self.path)));
        }
        concat_batches(&first.schema(), &batches).map_err(|e| Error::data(format!("`{}{name}`: {e}", self.path)))
    }
}

/// The effective parameters: set ones before defaults.
#[derive(Debug)]
pub struct Parameters<'a> {
    set: Option<&'a Value>,
    default: Option<&'a Value>,
}

impl<'a> Parameters<'a> {
    /// Of a stage's metadata.
    pub fn new(metadata: &'a Value) -> Self {
        Self { set: metadata.get("paramMap"), default: metadata.get("defaultParamMap") }
    }

    /// One parameter.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        let in_map = |map: Option<&'a Value>| map.and_then(|m| m.get(name));
        in_map(self.set).or_else(|| in_map(self.default)).filter(|v| !v.is_null())
    }

    /// A text parameter.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.as_str()
    }

    /// A boolean parameter, false when missing.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Columns: the list `plural`, or the one `singular`.
    pub fn columns(&self, plural: &str, singular: &str) -> Result<Vec<String>> {
        if let Some(list) = self.get(plural).and_then(Value::as_array) {
            return Ok(list.iter().filter_map(Value::as_str).map(str::to_owned).collect());
        }
        let one = self
            .text(singular)
            .ok_or_else(|| Error::data(format!("a stage has neither `{plural}` nor `{singular}`")))?;
        Ok(vec![one.to_owned()])
    }
}

/// A column by name.
pub fn column<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    rows.column_by_name(name).ok_or_else(|| Error::data(format!("the model's data has no column `{name}`")))
}

/// A column of structs, none of them null, as columns.
pub fn record(rows: &RecordBatch, name: &str) -> Result<RecordBatch> {
    let fields = column(rows, name)?.as_struct_opt().ok_or_else(|| Error::data(format!("`{name}` is no struct")))?;
    if fields.null_count() > 0 {
        return Err(Error::data(format!("`{name}` is missing in a row")));
    }
    Ok(fields.clone().into())
}

/// A number as an index, if it is one.
fn index(value: f64) -> Option<usize> {
    (value >= 0.0 && value < MAX_VALUES as f64 && value.fract() == 0.0).then_some(value as usize)
}

/// A column of numbers, null as NaN.
pub fn numbers(array: &ArrayRef) -> Result<Vec<f64>> {
    let plain = cast(array, &DataType::Float64).map_err(|e| Error::data(format!("numbers were expected: {e}")))?;
    Ok(plain.as_primitive::<Float64Type>().iter().map(|v| v.unwrap_or(f64::NAN)).collect())
}

/// A column of whole numbers.
pub fn integers(array: &ArrayRef) -> Result<Vec<i64>> {
    let plain = cast(array, &DataType::Int64).map_err(|e| Error::data(format!("whole numbers were expected: {e}")))?;
    if plain.null_count() > 0 {
        return Err(Error::data("a number is missing"));
    }
    Ok(plain.as_primitive::<Int64Type>().values().to_vec())
}

/// The list of numbers in one row of a list column.
pub fn list(array: &ArrayRef, row: usize) -> Result<Vec<f64>> {
    let lists = array.as_list_opt::<i32>().ok_or_else(|| Error::data("a list was expected"))?;
    if row >= lists.len() || lists.is_null(row) {
        return Ok(Vec::new());
    }
    numbers(&lists.value(row))
}

/// A list of strings in one row.
pub fn strings(array: &ArrayRef, row: usize) -> Result<Vec<String>> {
    let lists = array.as_list_opt::<i32>().ok_or_else(|| Error::data("a list was expected"))?;
    if row >= lists.len() {
        return Err(Error::data("a list is missing"));
    }
    texts(&lists.value(row))
}

/// The strings of an array.
pub fn texts(array: &ArrayRef) -> Result<Vec<String>> {
    let plain = cast(array, &DataType::Utf8).map_err(|e| Error::data(format!("text was expected: {e}")))?;
    Ok(plain.as_string::<i32>().iter().map(|v| v.unwrap_or_default().to_owned()).collect())
}

/// A vector in one row: dense (type 1) or sparse (type 0).
pub fn vector(array: &ArrayRef, row: usize) -> Result<Vec<f64>> {
    let (kind, fields) = tagged(array, row)?;
    let values = list(&fields("values")?, row)?;
    if kind == 1 {
        return Ok(values);
    }
    let size = integers(&fields("size")?.slice(row, 1))?[0];
    let size = usize::try_from(size).ok().filter(|s| *s <= MAX_WIDTH);
    let size = size.ok_or_else(|| Error::data("the size of a vector is impossible"))?;
    let indices = list(&fields("indices")?, row)?;
    if indices.len() != values.len() {
        return Err(Error::data("a sparse vector has another number of indices than of values"));
    }
    let mut dense = vec![0.0; size];
    for (at, value) in indices.into_iter().zip(values) {
        let slot = index(at).and_then(|at| dense.get_mut(at));
        *slot.ok_or_else(|| Error::data("a vector's index is out of range"))? = value;
    }
    Ok(dense)
}

/// A matrix in one row, row-major: rows, columns, values.
pub fn matrix(array: &ArrayRef, row: usize) -> Result<(usize, usize, Vec<f64>)> {
    let (kind, fields) = tagged(array, row)?;
    let size = |name: &str| -> Result<usize> {
        let value = integers(&fields(name)?.slice(row, 1))?[0];
        usize::try_from(value).ok().filter(|n| *n <= 1_000_000).ok_or_else(|| Error::data("a matrix's size"))
    };
    let (rows, columns) = (size("numRows")?, size("numCols")?);
    let transposed = {
        let field = fields("isTransposed")?;
        let flags = field.as_boolean_opt().ok_or_else(|| Error::data("`isTransposed` is no boolean"))?;
        flags.value(row)
    };
    let values = list(&fields("values")?, row)?;
    if rows.saturating_mul(columns) > MAX_VALUES {
        return Err(Error::data(format!("a matrix of {rows} rows and {columns} columns is too large")));
    }
    if kind == 1 && values.len() != rows * columns {
        return Err(Error::data("a matrix has another number of values than its size says"));
    }
    let mut dense = vec![0.0; rows * columns];
    let mut put = |major: usize, minor: usize, value: f64| {
        let (r, c) = if transposed { (major, minor) } else { (minor, major) };
        if r >= rows || c >= columns {
            return Err(Error::data("a matrix's index is out of range"));
        }
        dense[r * columns + c] = value;
        Ok(())
    };
    if kind == 1 {
        let minors = if transposed { columns } else { rows };
        for (at, value) in values.iter().enumerate() {
            put(at / minors.max(1), at % minors.max(1), *value)?;
        }
    } else {
        let pointers = list(&fields("colPtrs")?, row)?;
        let indices = list(&fields("rowIndices")?, row)?;
        // Ascending, so that no value is read twice.
        if pointers.windows(2).any(|pair| pair[0] > pair[1]) {
            return Err(Error::data("the pointers of a sparse matrix do not ascend"));
        }
        for (major, ends) in pointers.windows(2).enumerate() {
            let (Some(from), Some(to)) = (index(ends[0]), index(ends[1])) else {
                return Err(Error::data("a pointer of a sparse matrix is impossible"));
            };
            for at in from..to {
                let (minor, value) = (indices.get(at).copied().and_then(index), values.get(at));
                let (Some(minor), Some(value)) = (minor, value) else {
                    return Err(Error::data("a sparse matrix is cut short"));
                };
                put(major, minor, *value)?;
            }
        }
    }
    Ok((rows, columns, dense))
}

type Fields<'a> = Box<dyn Fn(&str) -> Result<ArrayRef> + 'a>;

fn tagged(array: &ArrayRef, row: usize) -> Result<(i32, Fields<'_>)> {
    let fields = array.as_struct_opt().ok_or_else(|| Error::data("a vector or matrix was expected"))?;
    if row >= fields.len() {
        return Err(Error::data("a vector or matrix is missing"));
    }
    let get = move |name: &str| {
        fields.column_by_name(name).cloned().ok_or_else(|| Error::data(format!("a vector or matrix has no `{name}`")))
    };
    let kind = cast(&get("type")?, &DataType::Int32).map_err(|e| Error::data(e.to_string()))?;
    let kind = kind.as_primitive::<Int32Type>().value(row);
    if !matches!(kind, 0 | 1) {
        return Err(Error::data(format!("a vector or matrix of the unknown type {kind}")));
    }
    Ok((kind, Box::new(get)))
}
