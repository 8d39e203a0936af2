//! The feature hash: xxh3-64 over a row's hashed columns, sorted by name.
//!
//! Encoding per column: the name's length (u32, little endian) and bytes, a
//! class byte, the value. Classes and values:
//!
//! | class | type | value |
//! |---|---|---|
//! | 0 | null of any type | nothing |
//! | 1 | boolean | one byte |
//! | 2 | integer of any width | i64 |
//! | 3 | float of any width | f64 bits; -0.0 as 0.0, every NaN as one NaN |
//! | 4 | string | length (u32), bytes |
//! | 5 | bytes | length (u32), bytes |
//! | 6 | date | days as i64 |
//! | 7 | timestamp with a zone | UTC microseconds as i64 |
//! | 8 | timestamp without a zone | microseconds as i64 |
//! | 9 | decimal | scale without trailing zeros (i8), unscaled value (i128) |
//!
//! Numbers are little endian. Widening a type therefore changes no hash. This
//! is a public format: `tests/vectors/feature_hash.json` holds test vectors.

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewArray, BooleanArray, RecordBatch, StringViewArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use xxhash_rust::xxh3::xxh3_64;

use insightera_core::{Error, Result};

/// Whether a column of this type can be hashed.
pub fn check_type(name: &str, data_type: &DataType) -> Result<()> {
    target(data_type).map(|_| ()).ok_or_else(|| {
        Error::invalid(format!("feature column `{name}` has type {data_type}, which cannot be compared between runs"))
            .hint("cast it in the feature SQL, or list it in `unhashed`")
    })
}

/// The type a column is read as.
fn target(data_type: &DataType) -> Option<DataType> {
    use DataType as T;
    Some(match data_type {
        T::Dictionary(_, value) => return target(value),
        T::Null | T::Boolean => T::Boolean,
        T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 | T::UInt64 => T::Int64,
        T::Float16 | T::Float32 | T::Float64 => T::Float64,
        T::Utf8 | T::LargeUtf8 | T::Utf8View => T::Utf8View,
        T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => T::BinaryView,
        T::Date32 | T::Date64 => T::Date32,
        T::Timestamp(_, zone) => T::Timestamp(TimeUnit::Microsecond, zone.clone()),
        T::Decimal32(p, s) | T::Decimal64(p, s) | T::Decimal128(p, s) => T::Decimal128(*p, *s),
        _ => return None,
    })
}

/// The hashed columns of a batch, ready to be read row by row.
#[derive(Debug)]
pub struct FeatureHasher {
    columns: Vec<HashedColumn>,
    rows: usize,
}

#[derive(Debug)]
struct HashedColumn {
    /// The encoded name.
    name: Vec<u8>,
    nulls: Option<NullBuffer>,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Null,
    Boolean(BooleanArray),
    /// A class and its numbers: integers, dates, timestamps.
    Numbers(u8, ScalarBuffer<i64>),
    Floats(ScalarBuffer<f64>),
    Text(StringViewArray),
    Bytes(BinaryViewArray),
    Decimals(ScalarBuffer<i128>, i8),
}

impl Values {
    /// Of a column of a type that [`target`] names.
    fn new(column: &ArrayRef) -> Self {
        match column.data_type() {
            DataType::Boolean => Self::Boolean(column.as_boolean().clone()),
            DataType::Int64 => Self::Numbers(2, column.as_primitive::<Int64Type>().values().clone()),
            DataType::Float64 => Self::Floats(column.as_primitive::<Float64Type>().values().clone()),
            DataType::Utf8View => Self::Text(column.as_string_view().clone()),
            DataType::BinaryView => Self::Bytes(column.as_binary_view().clone()),
            DataType::Date32 => {
                Self::Numbers(6, column.as_primitive::<Date32Type>().values().iter().map(|d| i64::from(*d)).collect())
            }
            DataType::Timestamp(_, zone) => {
                let class = if zone.is_some() { 7 } else { 8 };
                Self::Numbers(class, column.as_primitive::<TimestampMicrosecondType>().values().clone())
            }
            DataType::Decimal128(_, scale) => {
                Self::Decimals(column.as_primitive::<Decimal128Type>().values().clone(), *scale)
            }
            _ => Self::Null,
        }
    }
}

impl FeatureHasher {
    /// Takes the columns `names`, in any order, out of a batch.
    pub fn new(batch: &RecordBatch, names: &[String]) -> Result<Self> {
        let mut sorted: Vec<&String> = names.iter().collect();
        sorted.sort();
        let mut columns = Vec::with_capacity(sorted.len());
        for name in sorted {
            let column = batch
                .column_by_name(name)
                .ok_or_else(|| Error::internal(format!("the batch has no hashed column `{name}`")))?;
            check_type(name, column.data_type())?;
            let wanted = target(column.data_type()).unwrap_or(DataType::Boolean);
            let column = cast(column, &wanted)
                .map_err(|e| Error::data(format!("feature column `{name}` cannot be hashed: {e}")).cause(e))?;
            let mut encoded = (name.len() as u32).to_le_bytes().to_vec();
            encoded.extend_from_slice(name.as_bytes());
            let nulls = column.nulls().filter(|nulls| nulls.null_count() > 0).cloned();
            columns.push(HashedColumn { name: encoded, nulls, values: Values::new(&column) });
        }
        Ok(Self { columns, rows: batch.num_rows() })
    }

    /// The hash of every row.
    pub fn hashes(&self) -> Vec<u64> {
        let mut buffer = Vec::with_capacity(1024);
        (0..self.rows)
            .map(|row| {
                buffer.clear();
                for column in &self.columns {
                    buffer.extend_from_slice(&column.name);
                    if column.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                        buffer.push(0);
                    } else {
                        encode(&column.values, row, &mut buffer);
                    }
                }
                xxh3_64(&buffer)
            })
            .collect()
    }
}

#[inline]
fn encode(values: &Values, row: usize, out: &mut Vec<u8>) {
    match values {
        Values::Floats(values) => number(3, canonical(values[row]), out),
        Values::Numbers(class, values) => number(*class, values[row] as u64, out),
        Values::Text(values) => bytes(4, values.value(row).as_bytes(), out),
        Values::Bytes(values) => bytes(5, values.value(row), out),
        Values::Boolean(values) => out.extend_from_slice(&[1, u8::from(values.value(row))]),
        Values::Decimals(values, scale) => {
            let (mut value, mut scale) = (values[row], *scale);
            while value != 0 && value % 10 == 0 && scale > i8::MIN {
                value /= 10;
                scale -= 1;
            }
            let scale = if value == 0 { 0 } else { scale };
            out.extend_from_slice(&[9, scale as u8]);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Values::Null => out.push(0),
    }
}

/// One bit pattern for every number and for every NaN.
fn canonical(value: f64) -> u64 {
    if value.is_nan() {
        f64::NAN.to_bits() & !(1 << 63)
    } else if value == 0.0 {
        0
    } else {
        value.to_bits()
    }
}

#[inline]
fn number(class: u8, value: u64, out: &mut Vec<u8>) {
    let mut encoded = [class; 9];
    encoded[1..].copy_from_slice(&value.to_le_bytes());
    out.extend_from_slice(&encoded);
}

fn bytes(class: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(class);
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
        TimestampNanosecondArray,
    };

    use super::*;

    fn hash(columns: Vec<(&str, ArrayRef)>) -> Vec<u64> {
        let names: Vec<String> = columns.iter().map(|(n, _)| (*n).to_owned()).collect();
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap();
        FeatureHasher::new(&batch, &names).unwrap().hashes()
    }

    #[test]
    fn widening_a_type_scores_nothing() {
        let narrow = hash(vec![
            ("a", Arc::new(Int32Array::from(vec![Some(-5), None]))),
            ("b", Arc::new(Float32Array::from(vec![0.5, -0.0]))),
            ("t", Arc::new(TimestampMicrosecondArray::from(vec![7, 8]))),
            ("d", Arc::new(Decimal128Array::from(vec![150, 0]).with_precision_and_scale(10, 2).unwrap())),
        ]);
        let wide = hash(vec![
            ("d", Arc::new(Decimal128Array::from(vec![1500, 0]).with_precision_and_scale(20, 3).unwrap())),
            ("a", Arc::new(Int64Array::from(vec![Some(-5), None]))),
            ("t", Arc::new(TimestampNanosecondArray::from(vec![7000, 8000]))),
            ("b", Arc::new(Float64Array::from(vec![0.5, 0.0]))),
        ]);
        assert_eq!(narrow, wide);
    }

    #[test]
    fn null_differs_from_nan_and_from_zero() {
        let all =
            hash(vec![("x", Arc::new(Float64Array::from(vec![None, Some(f64::NAN), Some(0.0), Some(-f64::NAN)])))]);
        assert_eq!(all[1], all[3]);
        assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2]);
    }

    #[test]
    fn a_value_moved_to_another_column_is_a_change() {
        let one =
            hash(vec![("a", Arc::new(StringArray::from(vec!["x"]))), ("b", Arc::new(StringArray::from(vec![""])))]);
        let two =
            hash(vec![("a", Arc::new(StringArray::from(vec![""]))), ("b", Arc::new(StringArray::from(vec!["x"])))]);
        assert_ne!(one, two);
    }

    #[test]
    fn the_published_vectors_hold() {
        let found = hash(vec![
            ("ipk", Arc::new(Float64Array::from(vec![Some(3.25), None]))),
            ("name", Arc::new(StringArray::from(vec!["Siti", ""]))),
            ("semester", Arc::new(Int32Array::from(vec![4, -1]))),
            ("active", Arc::new(BooleanArray::from(vec![true, false]))),
        ]);
        let text = include_str!("../tests/vectors/feature_hash.json");
        let want: serde_json::Value = serde_json::from_str(text).unwrap();
        let want: Vec<u64> =
            want["rows"].as_array().unwrap().iter().map(|r| r["xxh3_64"].as_str().unwrap().parse().unwrap()).collect();
        assert_eq!(found, want);
    }
}
