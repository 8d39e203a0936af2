//! Takes typed columns out of a batch.

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::record_batch::RecordBatch;
use insightera_core::closest;

use crate::error::{Error, Result};

fn find<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| {
        let schema = batch.schema();
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let error = Error::invalid(format!("the model wants column `{name}`, which the rows do not have"));
        match closest(name, names.iter().copied()) {
            Some(near) => error.with_hint(format!("did you mean `{near}`?")),
            None => error.with_hint(format!("the rows have {}", names.join(", "))),
        }
    })
}

fn wrong(name: &str, wanted: &str, found: &DataType) -> Error {
    Error::invalid(format!("the model wants {wanted} in column `{name}`, which has type {found}"))
        .with_hint("cast the column in the feature SQL")
}

/// A numeric column: integers, floats, decimals, booleans; null stays null.
pub fn numbers(batch: &RecordBatch, name: &str) -> Result<Float64Array> {
    let column = find(batch, name)?;
    let value_type = match column.data_type() {
        DataType::Dictionary(_, value) => value.as_ref(),
        other => other,
    };
    let numeric = value_type.is_numeric() || matches!(value_type, DataType::Boolean | DataType::Null);
    if !numeric {
        return Err(wrong(name, "numbers", column.data_type()));
    }
    let plain = cast(column, &DataType::Float64).map_err(|_| wrong(name, "numbers", column.data_type()))?;
    Ok(plain.as_primitive::<Float64Type>().clone())
}

/// A column of labels: strings, or numbers as Spark writes them.
pub fn labels(batch: &RecordBatch, name: &str) -> Result<StringArray> {
    let column = find(batch, name)?;
    let value_type = match column.data_type() {
        DataType::Dictionary(_, value) => value.as_ref(),
        other => other,
    };
    match value_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {}
        // Spark's StringIndexer casts numbers to strings, doubles with ".0".
        t if t.is_integer() || matches!(t, DataType::Boolean) => {}
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
    column.iter().map(|v| v.unwrap_or(f64::NAN)).collect()
}
