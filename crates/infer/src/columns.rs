//! Takes typed columns out of a batch.
//!
//! Integers, floats, decimals and booleans are numbers; null is missing (NaN).
//! Strings of every Arrow layout, also behind a dictionary, are labels.
//! Nothing is parsed and nothing else is cast: a date or a string where the
//! model wants a number is an error.

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Float64Array, PrimitiveArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::record_batch::RecordBatch;
use insightera_core::closest;

use crate::error::{Error, Result};
use crate::model::Input;

/// Names in an error message.
const NAMED: usize = 40;
/// A longer name has no near one: the comparison takes its length times that of every column.
const COMPARED: usize = 256;

/// The column `name`; `wanted` is all that the model wants, for the message.
pub fn find<'a>(batch: &'a RecordBatch, name: &str, wanted: &[Input]) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| {
        let schema = batch.schema();
        let candidates = schema.fields().iter().map(|f| f.name().as_str()).filter(|n| n.len() <= COMPARED);
        let near = if name.len() <= COMPARED { closest(name, candidates) } else { None };
        let near = near.map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
        let mut list = wanted.iter().take(NAMED).map(|i| i.name.as_str()).collect::<Vec<_>>().join("`, `");
        if wanted.len() > NAMED {
            list.push_str(&format!("` and {} more, up to `{}", wanted.len() - NAMED, wanted[wanted.len() - 1].name));
        }
        Error::invalid(format!("the model wants column `{name}`, which the rows do not have"))
            .with_hint(format!("{near}the model wants `{list}`"))
    })
}

/// The type of the values, behind a dictionary too.
pub fn value_type(column: &ArrayRef) -> &DataType {
    match column.data_type() {
        DataType::Dictionary(_, value) => value,
        other => other,
    }
}

/// A column has a type that the model cannot use.
pub fn wrong(name: &str, wanted: &str, found: &DataType) -> Error {
    Error::invalid(format!("the model wants {wanted} in column `{name}`, which has type {found}"))
        .with_hint("cast the column in the feature SQL")
}

fn numeric(column: &ArrayRef, name: &str) -> Result<()> {
    let found = value_type(column);
    let good = found.is_numeric() || matches!(found, DataType::Boolean | DataType::Null);
    if good { Ok(()) } else { Err(wrong(name, "numbers", column.data_type())) }
}

/// A numeric column; null stays null.
pub fn numbers(batch: &RecordBatch, name: &str, wanted: &[Input]) -> Result<Float64Array> {
    number_array(find(batch, name, wanted)?, name)
}

/// The numbers of a column; null stays null.
pub fn number_array(column: &ArrayRef, name: &str) -> Result<Float64Array> {
    numeric(column, name)?;
    let plain = cast(column, &DataType::Float64).map_err(|_| wrong(name, "numbers", column.data_type()))?;
    Ok(plain.as_primitive::<Float64Type>().clone())
}

/// A numeric column in single precision, null as NaN. Integers are rounded
/// once, straight to single precision.
pub fn singles(batch: &RecordBatch, name: &str, wanted: &[Input]) -> Result<Vec<f32>> {
    single_array(find(batch, name, wanted)?, name)
}

/// The numbers of a column in single precision, null as NaN.
pub fn single_array(column: &ArrayRef, name: &str) -> Result<Vec<f32>> {
    numeric(column, name)?;
    if !value_type(column).is_integer() && !matches!(column.data_type(), DataType::Float32) {
        return Ok(with_nan(&number_array(column, name)?).into_iter().map(|v| v as f32).collect());
    }
    let plain = cast(column, &DataType::Float32).map_err(|_| wrong(name, "numbers", column.data_type()))?;
    let plain = plain.as_primitive::<Float32Type>();
    if plain.null_count() == 0 {
        return Ok(plain.values().to_vec());
    }
    Ok(filled(plain, f32::NAN))
}

/// A column of strings.
pub fn labels(batch: &RecordBatch, name: &str, wanted: &[Input]) -> Result<StringArray> {
    label_array(find(batch, name, wanted)?, name)
}

/// The strings of a column.
pub fn label_array(column: &ArrayRef, name: &str) -> Result<StringArray> {
    match value_type(column) {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {}
        _ => return Err(wrong(name, "labels", column.data_type())),
    }
    let plain = cast(column, &DataType::Utf8).map_err(|_| wrong(name, "labels", column.data_type()))?;
    Ok(plain.as_string::<i32>().clone())
}

/// The values of a numeric column with null as NaN.
pub fn with_nan(column: &Float64Array) -> Vec<f64> {
    if column.null_count() == 0 {
        return column.values().to_vec();
    }
    filled(column, f64::NAN)
}

/// The values with `missing` for null.
fn filled<T: ArrowPrimitiveType>(column: &PrimitiveArray<T>, missing: T::Native) -> Vec<T::Native> {
    let mut values = column.values().to_vec();
    if let Some(valid) = column.nulls() {
        for at in (!valid.inner()).set_indices() {
            values[at] = missing;
        }
    }
    values
}
