//! Spark's files: JSON metadata, Parquet data, parameters with defaults.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

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
        let found = self.artifact.files().iter().find(|(path, bytes)| path.starts_with(&prefix) && !bytes.is_empty());
        let (path, bytes) = found.ok_or_else(|| Error::data(format!("the model has no `{prefix}…`")))?;
        let text = std::str::from_utf8(bytes).map_err(|_| Error::data(format!("`{path}` is no text")))?;
        serde_json::from_str(text.lines().next().unwrap_or_default())
            .map_err(|e| Error::data(format!("`{path}` is no JSON: {e}")))
    }

    /// All rows of one of its Parquet folders, `data` or `treesMetadata`.
    pub fn rows(&self, name: &str) -> Result<RecordBatch> {
        let prefix = format!("{}{name}/part-", self.path);
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut any = false;
        for (path, bytes) in self.artifact.files().iter().filter(|(path, _)| path.starts_with(&prefix)) {
            any = true;
            let damaged = |e: &dyn std::fmt::Display| Error::data(format!("`{path}` cannot be read: {e}"));
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone())
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
    let indices = list(&fields("indices")?, row)?;
    let mut dense =
        vec![
            0.0;
            usize::try_from(size).ok().filter(|s| *s <= MAX_VALUES).ok_or_else(|| Error::data("a vector's size"))?
        ];
    for (index, value) in indices.iter().zip(values) {
        *dense.get_mut(*index as usize).ok_or_else(|| Error::data("a vector's index is out of range"))? = value;
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
    let mut dense = vec![0.0; rows * columns];
    let mut put = |major: usize, minor: usize, value: f64| {
        let (r, c) = if transposed { (major, minor) } else { (minor, major) };
        match dense.get_mut(r * columns + c) {
            Some(slot) if r < rows && c < columns => {
                *slot = value;
                Ok(())
            }
            _ => Err(Error::data("a matrix's index is out of range")),
        }
    };
    if kind == 1 {
        let minors = if transposed { columns } else { rows };
        if values.len() != rows * columns {
            return Err(Error::data("a matrix has another number of values than its size says"));
        }
        for (at, value) in values.iter().enumerate() {
            put(at / minors.max(1), at % minors.max(1), *value)?;
        }
    } else {
        let pointers = list(&fields("colPtrs")?, row)?;
        let indices = list(&fields("rowIndices")?, row)?;
        for major in 0..pointers.len().saturating_sub(1) {
            for at in pointers[major] as usize..pointers[major + 1] as usize {
                let (minor, value) = (indices.get(at), values.get(at));
                let (Some(minor), Some(value)) = (minor, value) else {
                    return Err(Error::data("a sparse matrix is cut short"));
                };
                put(major, *minor as usize, *value)?;
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
    Ok((kind, Box::new(get)))
}
