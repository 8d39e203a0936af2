//! Columns from rows: one place that says which Arrow type a Rust type becomes.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

/// A column's name and type; keys and times are never null.
pub(super) fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

/// A string column that is never null.
pub(super) fn key(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

/// A `timestamptz` column in microseconds that is never null.
pub(super) fn time(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false)
}

/// A schema.
pub(super) fn schema(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

/// A batch; the columns were written next to the schema, so a mismatch is a
/// mistake in this module.
pub(super) fn batch(schema: SchemaRef, columns: Vec<ArrayRef>) -> RecordBatch {
    RecordBatch::try_new(schema, columns).expect("the columns follow the schema")
}

pub(super) fn strings<T>(rows: &[T], value: impl Fn(&T) -> &str) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(rows.iter().map(value)))
}

pub(super) fn optional_strings<T>(rows: &[T], value: impl Fn(&T) -> Option<&'static str>) -> ArrayRef {
    Arc::new(rows.iter().map(value).collect::<StringArray>())
}

pub(super) fn ints<T>(rows: &[T], value: impl Fn(&T) -> i32) -> ArrayRef {
    Arc::new(Int32Array::from_iter_values(rows.iter().map(value)))
}

pub(super) fn optional_ints<T>(rows: &[T], value: impl Fn(&T) -> Option<i32>) -> ArrayRef {
    Arc::new(rows.iter().map(value).collect::<Int32Array>())
}

pub(super) fn longs<T>(rows: &[T], value: impl Fn(&T) -> i64) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(rows.iter().map(value)))
}

pub(super) fn doubles<T>(rows: &[T], value: impl Fn(&T) -> f64) -> ArrayRef {
    Arc::new(Float64Array::from_iter_values(rows.iter().map(value)))
}

pub(super) fn optional_doubles<T>(rows: &[T], value: impl Fn(&T) -> Option<f64>) -> ArrayRef {
    Arc::new(rows.iter().map(value).collect::<Float64Array>())
}

pub(super) fn times<T>(rows: &[T], value: impl Fn(&T) -> i64) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(value)).with_timezone("UTC"))
}
