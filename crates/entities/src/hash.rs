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

/// Bytes of an encoded name and a class that are copied at once.
const PREFIX: usize = 32;
/// Bytes of a value that is not text or bytes, at most.
const VALUE: usize = 17;

#[derive(Debug)]
struct HashedColumn {
    /// The encoded name and the value's class.
    name: Vec<u8>,
    /// The same, filled up; only where it fits.
    prefix: Option<[u8; PREFIX]>,
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
    /// What stands before a value that is not null.
    fn class(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Boolean(_) => 1,
            Self::Numbers(class, _) => *class,
            Self::Floats(_) => 3,
            Self::Text(_) => 4,
            Self::Bytes(_) => 5,
            Self::Decimals(..) => 9,
        }
    }

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
            let values = Values::new(&column);
            let mut encoded = (name.len() as u32).to_le_bytes().to_vec();
            encoded.extend_from_slice(name.as_bytes());
            encoded.push(values.class());
            let mut prefix = [0; PREFIX];
            let prefix = prefix.get_mut(..encoded.len()).map(|place| place.copy_from_slice(&encoded)).map(|()| prefix);
            let nulls = column.nulls().filter(|nulls| nulls.null_count() > 0).cloned();
            columns.push(HashedColumn { name: encoded, prefix, nulls, values });
        }
        Ok(Self { columns, rows: batch.num_rows() })
    }

    /// The hash of every row.
    pub fn hashes(&self) -> Vec<u64> {
        // The longest row without its texts; every copy of a fixed size fits.
        let fixed: usize = self.columns.iter().map(|c| c.name.len().max(PREFIX) + VALUE).sum::<usize>() + PREFIX;
        let mut buffer = vec![0; fixed];
        (0..self.rows)
            .map(|row| {
                let texts: usize = self.columns.iter().map(|column| column.length(row)).sum();
                if fixed + texts > buffer.len() {
                    buffer.resize(fixed + texts, 0);
                }
                let mut end = 0;
                for column in &self.columns {
                    end = column.put(row, &mut buffer, end);
                }
                xxh3_64(&buffer[..end])
            })
            .collect()
    }
}

impl HashedColumn {
    /// Bytes of a row's text.
    #[inline(always)]
    fn length(&self, row: usize) -> usize {
        match &self.values {
            Values::Text(values) if !values.is_null(row) => values.value(row).len(),
            Values::Bytes(values) if !values.is_null(row) => values.value(row).len(),
            _ => 0,
        }
    }

    /// Writes the encoding of a row's value at `at`; where it ends.
    #[inline(always)]
    fn put(&self, row: usize, out: &mut [u8], at: usize) -> usize {
        let end = at + self.name.len();
        match &self.prefix {
            Some(prefix) => out[at..at + PREFIX].copy_from_slice(prefix),
            None => out[at..end].copy_from_slice(&self.name),
        }
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            out[end - 1] = 0;
            return end;
        }
        match &self.values {
            Values::Floats(values) => number(canonical(values[row]), out, end),
            Values::Numbers(_, values) => number(values[row] as u64, out, end),
            Values::Text(values) => bytes(values.value(row).as_bytes(), out, end),
            Values::Bytes(values) => bytes(values.value(row), out, end),
            Values::Boolean(values) => {
                out[end] = u8::from(values.value(row));
                end + 1
            }
            Values::Decimals(values, scale) => {
                let (mut value, mut scale) = (values[row], *scale);
                while value != 0 && value % 10 == 0 && scale > i8::MIN {
                    value /= 10;
                    scale -= 1;
                }
                out[end] = if value == 0 { 0 } else { scale as u8 };
                out[end + 1..end + VALUE].copy_from_slice(&value.to_le_bytes());
                end + VALUE
            }
            Values::Null => end,
        }
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

#[inline(always)]
fn number(value: u64, out: &mut [u8], at: usize) -> usize {
    out[at..at + 8].copy_from_slice(&value.to_le_bytes());
    at + 8
}

/// Length and bytes.
#[inline(always)]
fn bytes(value: &[u8], out: &mut [u8], at: usize) -> usize {
    let (from, end) = (at + 4, at + 4 + value.len());
    out[at..from].copy_from_slice(&(value.len() as u32).to_le_bytes());
    out[from..end].copy_from_slice(value);
    end
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

    /// As the format is described, without a look at how it is done.
    fn described(names: &[&str], values: &[Vec<u8>]) -> u64 {
        let mut all: Vec<_> = names.iter().zip(values).collect();
        all.sort();
        let mut bytes = Vec::new();
        for (name, value) in all {
            bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(value);
        }
        xxh3_64(&bytes)
    }

    #[test]
    fn names_and_texts_of_any_length_are_hashed_as_described() {
        let names = ["a", "the_share_of_lectures_attended_in_the_last_seven_days", "t", "u", "z"];
        let text = |n: usize| "wörter ".repeat(n);
        let texts = [0, 1, 200, 2, 0, 3000, 1];
        let rows = texts.len();
        let found = hash(vec![
            (names[0], Arc::new(Float64Array::from_iter((0..rows).map(|n| (n != 3).then_some(n as f64))))),
            (names[1], Arc::new(StringArray::from_iter(texts.map(|n| (n != 1).then(|| text(n)))))),
            (names[2], Arc::new(StringArray::from_iter_values(texts.map(text)))),
            (names[3], Arc::new(Decimal128Array::from(vec![-7; rows]).with_precision_and_scale(38, 0).unwrap())),
            (names[4], Arc::new(Int64Array::from_iter_values(0..rows as i64))),
        ]);
        for (row, count) in texts.into_iter().enumerate() {
            let class = |class: u8, value: &[u8]| [&[class], value].concat();
            let string = |s: String| class(4, &[&(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat());
            let values = [
                if row == 3 { vec![0] } else { class(3, &(row as f64).to_bits().to_le_bytes()) },
                if count == 1 { vec![0] } else { string(text(count)) },
                string(text(count)),
                class(9, &[&[0][..], &(-7i128).to_le_bytes()].concat()),
                class(2, &(row as i64).to_le_bytes()),
            ];
            assert_eq!(found[row], described(&names, &values), "row {row}");
        }
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
