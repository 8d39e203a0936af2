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

    /// A folder inside it; `name` without a slash.
    pub fn inner(&self, name: &str) -> Self {
        Self { artifact: self.artifact, path: format!("{}{name}/", self.path) }
    }

    /// Its path inside the artifact.
    pub fn path(&self) -> &str {
        &self.path
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
            let within = |e: Error| e.within(&format!("`{path}` cannot be read"));
            let columns = sizes::check(bytes).map_err(within)?;
            // The types are those of the file: Spark adds no Arrow schema.
            let plain = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
            let reader =
                ParquetRecordBatchReaderBuilder::try_new_with_options(bytes.clone(), plain).map_err(|e| damaged(&e))?;
            columns.agree(reader.metadata()).map_err(within)?;
            for batch in reader.build().map_err(|e| damaged(&e))? {
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

    /// A number; infinities and NaN are text in Spark's files.
    pub fn number(&self, name: &str) -> Result<Option<f64>> {
        let number = |v| store_number(name, v);
        self.get(name).map(number).transpose()
    }

    /// A list of numbers.
    pub fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let list = value.as_array().ok_or_else(|| Error::data(format!("`{name}` is no list")))?;
        list.iter().map(|v| store_number(name, v)).collect::<Result<Vec<f64>>>().map(Some)
    }

    /// A list of texts; anything else in it is an error.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let list = value.as_array().ok_or_else(|| Error::data(format!("`{name}` is no list")))?;
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let texts: Option<Vec<String>> = list.iter().map(text).collect();
        texts.map(Some).ok_or_else(|| Error::data(format!("`{name}` holds something that is no text")))
    }

    /// Columns: the list `plural`, or the one `singular`.
    pub fn columns(&self, plural: &str, singular: &str) -> Result<Vec<String>> {
        if let Some(list) = self.texts(plural)? {
            return Ok(list);
        }
        let one = self
            .text(singular)
            .ok_or_else(|| Error::data(format!("a stage has neither `{plural}` nor `{singular}`")))?;
        Ok(vec![one.to_owned()])
    }
}

fn store_number(name: &str, value: &Value) -> Result<f64> {
    json_number(value).ok_or_else(|| Error::data(format!("`{name}` has the value {value}, which is no number")))
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
    // What trees have in every node, without an array for each.
    if let Some(values) = lists.values().as_primitive_opt::<Float64Type>().filter(|values| values.null_count() == 0) {
        let (start, end) = (lists.value_offsets()[row] as usize, lists.value_offsets()[row + 1] as usize);
        return Ok(values.values()[start..end].to_vec());
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

/// A vector of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Vector {
    /// All its values.
    pub values: Vec<f64>,
    /// It is stored without its zeros: Spark then adds in another order.
    pub sparse: bool,
}

/// A matrix of a model, row by row.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// `rows * columns` values, row by row whatever the file's order.
    pub values: Vec<f64>,
    /// It was stored row by row.
    pub transposed: bool,
    /// It was stored without its zeros.
    pub sparse: bool,
}

/// A vector in one row: dense (type 1) or sparse (type 0).
pub fn vector(array: &ArrayRef, row: usize) -> Result<Vec<f64>> {
    stored_vector(array, row).map(|vector| vector.values)
}

/// A vector in one row, with the way it is stored.
pub fn stored_vector(array: &ArrayRef, row: usize) -> Result<Vector> {
    let (kind, fields) = tagged(array, row)?;
    let values = list(&fields("values")?, row)?;
    if kind == 1 {
        return Ok(Vector { values, sparse: false });
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
    Ok(Vector { values: dense, sparse: true })
}

/// A vector parameter, as Spark writes it into a stage's metadata.
pub fn json_vector(value: &Value) -> Option<Vector> {
    let numbers = |name: &str| -> Option<Vec<f64>> { value.get(name)?.as_array()?.iter().map(json_number).collect() };
    let values = numbers("values")?;
    if value.get("type")?.as_u64()? == 1 {
        return Some(Vector { values, sparse: false });
    }
    let size = usize::try_from(value.get("size")?.as_u64()?).ok().filter(|s| *s <= MAX_WIDTH)?;
    let indices = numbers("indices")?;
    if indices.len() != values.len() {
        return None;
    }
    let mut dense = vec![0.0; size];
    for (at, value) in indices.into_iter().zip(values) {
        *dense.get_mut(index(at)?)? = value;
    }
    Some(Vector { values: dense, sparse: true })
}

/// A number in JSON; infinities and NaN are text.
pub fn json_number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" | "Inf" => Some(f64::INFINITY),
            "-Infinity" | "-Inf" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// The place of a feature, and its values with the numbers of their categories.
pub type Categories = (usize, Vec<(f64, f64)>);

/// The categories of a VectorIndexer, of each of its features.
pub fn categories(array: &ArrayRef) -> Result<Vec<Categories>> {
    let wrong = || Error::data("`categoryMaps` is no map of features to maps");
    let outer = array.as_map_opt().filter(|m| !m.is_empty() && m.is_valid(0)).ok_or_else(wrong)?.value(0);
    let features = integers(outer.column(0))?;
    let maps = outer.column(1).as_map_opt().ok_or_else(wrong)?;
    let mut out = Vec::with_capacity(features.len());
    for (row, feature) in features.iter().enumerate() {
        let inner = maps.value(row);
        let (keys, values) = (numbers(inner.column(0))?, numbers(inner.column(1))?);
        let feature = usize::try_from(*feature).map_err(|_| wrong())?;
        out.push((feature, keys.into_iter().zip(values).collect()));
    }
    Ok(out)
}

/// A matrix in one row.
pub fn matrix(array: &ArrayRef, row: usize) -> Result<Matrix> {
    let (kind, fields) = tagged(array, row)?;
    let size = |name: &str| -> Result<usize> {
        let value = integers(&fields(name)?.slice(row, 1))?[0];
        let size = usize::try_from(value).ok().filter(|n| *n <= 1_000_000);
        size.ok_or_else(|| Error::data("a matrix's size is impossible"))
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
    Ok(Matrix { rows, columns, values: dense, transposed, sparse: kind != 1 })
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
