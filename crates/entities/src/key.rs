//! Entity keys: their encoding, their 128-bit hashes, and sets of them.
//!
//! A key is one or more columns of type string, integer, date, boolean or
//! binary. Encoding per column: a tag byte, then integers as 8 bytes big
//! endian with the sign flipped, strings and bytes with a 4-byte length. Two
//! widths of an integer encode alike, so that widening a key column changes no
//! identity. The hash is xxh3-128 of the encoding; sets and the state index
//! compare hashes only: at 100 million keys a collision has a chance below
//! 2e-23.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, Date32Builder, Int64Builder, RecordBatch, StringBuilder,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, Int64Type};
use arrow::row::{RowConverter, Rows, SortField};
use xxhash_rust::xxh3::xxh3_128;

use insightera_core::{Error, Result};

/// The hash of an entity key.
pub type KeyHash = u128;

const NULL: u8 = 0;
pub(crate) const INTEGER: u8 = 1;
pub(crate) const STRING: u8 = 2;
pub(crate) const DATE: u8 = 3;
const BOOLEAN: u8 = 4;
pub(crate) const BYTES: u8 = 5;

/// Encodes the key columns of batches.
#[derive(Debug)]
pub struct Keys {
    columns: Vec<KeyColumn>,
    rows: usize,
}

#[derive(Debug)]
enum KeyColumn {
    Integer(ArrayRef),
    Text(ArrayRef),
    Date(ArrayRef),
    Boolean(ArrayRef),
    Bytes(ArrayRef),
}

/// Whether a column of this type can be part of an entity key.
pub fn check_key_type(name: &str, data_type: &DataType) -> Result<()> {
    use DataType as T;
    match data_type {
        T::Dictionary(_, value) => check_key_type(name, value),
        T::Int8
        | T::Int16
        | T::Int32
        | T::Int64
        | T::UInt8
        | T::UInt16
        | T::UInt32
        | T::Utf8
        | T::LargeUtf8
        | T::Utf8View
        | T::Date32
        | T::Boolean
        | T::Binary
        | T::LargeBinary
        | T::BinaryView
        | T::FixedSizeBinary(_) => Ok(()),
        T::Float16 | T::Float32 | T::Float64 => {
            Err(Error::invalid(format!("entity key column `{name}` has type {data_type}: a float is no identity"))
                .hint("cast it to BIGINT or VARCHAR in the feature SQL"))
        }
        other => Err(Error::invalid(format!("entity key column `{name}` has type {other}"))
            .hint("an entity key is a string, an integer, a date, a boolean or bytes; cast it in the feature SQL")),
    }
}

impl Keys {
    /// Takes the key `columns` out of a batch.
    pub fn new(batch: &RecordBatch, columns: &[String]) -> Result<Self> {
        let columns = columns
            .iter()
            .map(|name| {
                let column = batch
                    .column_by_name(name)
                    .ok_or_else(|| Error::internal(format!("the batch has no key column `{name}`")))?;
                KeyColumn::new(name, column)
            })
            .collect::<Result<_>>()?;
        Ok(Self { columns, rows: batch.num_rows() })
    }

    /// Whether any part of the key of `row` is null.
    pub fn is_null(&self, row: usize) -> bool {
        self.columns.iter().any(|c| c.array().is_null(row))
    }

    /// Appends the encoding of the key of `row`.
    pub fn encode(&self, row: usize, out: &mut Vec<u8>) {
        for column in &self.columns {
            column.encode(row, out);
        }
    }

    /// The hashes of all rows.
    pub fn hashes(&self) -> Vec<KeyHash> {
        if let [KeyColumn::Text(text)] = self.columns.as_slice() {
            let text = text.as_string_view();
            let mut hashes = vec![null_hash(); self.rows];
            let mut row = 0;
            let mut encoded = Encoded::default();
            for hashes in hashes.chunks_mut(BLOCK) {
                for (at, hash) in hashes.iter_mut().enumerate() {
                    if !text.is_null(row) {
                        let value = text.value(row).as_bytes();
                        encoded.bytes(at, STRING, value, value.len(), hash);
                    }
                    row += 1;
                }
                encoded.hash(hashes);
            }
            return hashes;
        }
        let mut buffer = Vec::with_capacity(64);
        (0..self.rows)
            .map(|row| {
                buffer.clear();
                self.encode(row, &mut buffer);
                xxh3_128(&buffer)
            })
            .collect()
    }

    /// The key of `row` as a person reads it.
    pub fn display(&self, row: usize) -> String {
        let parts: Vec<String> = self
            .columns
            .iter()
            .map(|c| arrow::util::display::array_value_to_string(c.array(), row).unwrap_or_else(|_| "?".into()))
            .collect();
        parts.join(", ")
    }
}

impl KeyColumn {
    fn new(name: &str, column: &ArrayRef) -> Result<Self> {
        check_key_type(name, column.data_type())?;
        let to = |target: DataType| {
            cast(column, &target).map_err(|e| Error::data(format!("key column `{name}` cannot be read: {e}")).cause(e))
        };
        let value_type = match column.data_type() {
            DataType::Dictionary(_, value) => value.as_ref().clone(),
            other => other.clone(),
        };
        Ok(match value_type {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text(to(DataType::Utf8View)?),
            DataType::Date32 => Self::Date(to(DataType::Date32)?),
            DataType::Boolean => Self::Boolean(to(DataType::Boolean)?),
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                Self::Bytes(to(DataType::BinaryView)?)
            }
            _ => Self::Integer(to(DataType::Int64)?),
        })
    }

    fn array(&self) -> &ArrayRef {
        match self {
            Self::Integer(a) | Self::Text(a) | Self::Date(a) | Self::Boolean(a) | Self::Bytes(a) => a,
        }
    }

    #[inline]
    fn encode(&self, row: usize, out: &mut Vec<u8>) {
        if self.array().is_null(row) {
            out.push(NULL);
            return;
        }
        match self {
            Self::Integer(a) => {
                out.push(INTEGER);
                let value = a.as_primitive::<Int64Type>().value(row);
                out.extend_from_slice(&((value as u64) ^ (1 << 63)).to_be_bytes());
            }
            Self::Date(a) => {
                out.push(DATE);
                let value = i64::from(a.as_primitive::<Date32Type>().value(row));
                out.extend_from_slice(&((value as u64) ^ (1 << 63)).to_be_bytes());
            }
            Self::Boolean(a) => out.extend_from_slice(&[BOOLEAN, u8::from(a.as_boolean().value(row))]),
            Self::Text(a) => bytes(STRING, a.as_string_view().value(row).as_bytes(), out),
            Self::Bytes(a) => bytes(BYTES, a.as_binary_view().value(row), out),
        }
    }
}

/// The order of keys, whatever the widths of their columns in a table: rows
/// compare as bytes.
#[derive(Debug)]
pub struct KeyOrder(RowConverter);

impl KeyOrder {
    /// The order of the key `columns` of batches like this one.
    pub fn new(batch: &RecordBatch, columns: &[String]) -> Result<Self> {
        let keys = Keys::new(batch, columns)?;
        let fields = keys.columns.iter().map(|c| SortField::new(c.array().data_type().clone())).collect();
        RowConverter::new(fields).map(Self).map_err(|e| Error::internal(format!("keys have no order: {e}")).cause(e))
    }

    /// The comparable form of every row.
    pub fn rows(&self, keys: &Keys) -> Result<Rows> {
        let columns: Vec<ArrayRef> = keys.columns.iter().map(|c| c.array().clone()).collect();
        self.0.convert_columns(&columns).map_err(|e| Error::internal(format!("keys cannot be ordered: {e}")).cause(e))
    }
}

/// The hash of a key that is null.
pub(crate) fn null_hash() -> KeyHash {
    xxh3_128(&[NULL])
}

/// Keys that are hashed together.
pub(crate) const BLOCK: usize = 64;
/// Bytes of a text that is hashed together with others.
const SHORT: usize = 16;
/// Bytes of the tag and the length of a text.
const FRONT: usize = 5;

/// Encodings of keys of one column. They are written first and hashed
/// afterwards, when the processor has them: a hash that reads what was stored a
/// moment ago in other pieces waits for it.
#[derive(Debug)]
pub(crate) struct Encoded {
    bytes: [[u8; SHORT + FRONT + 3]; BLOCK],
    lengths: [u8; BLOCK],
}

impl Default for Encoded {
    fn default() -> Self {
        Self { bytes: [[0; SHORT + FRONT + 3]; BLOCK], lengths: [0; BLOCK] }
    }
}

impl Encoded {
    /// The key at place `at` is the first `length` of `bytes`; what follows them
    /// allows to copy a fixed number of bytes. A long one is hashed at once.
    #[inline(always)]
    pub(crate) fn bytes(&mut self, at: usize, tag: u8, bytes: &[u8], length: usize, hash: &mut KeyHash) {
        if length > SHORT {
            *hash = long_hash(tag, &bytes[..length]);
            return;
        }
        let place = &mut self.bytes[at];
        place[0] = tag;
        place[1..FRONT].copy_from_slice(&(length as u32).to_be_bytes());
        match bytes.first_chunk::<SHORT>() {
            Some(first) => place[FRONT..FRONT + SHORT].copy_from_slice(first),
            None => place[FRONT..FRONT + length].copy_from_slice(&bytes[..length]),
        }
        self.lengths[at] = (FRONT + length) as u8;
    }

    /// The key at place `at` is a number.
    #[inline(always)]
    pub(crate) fn number(&mut self, at: usize, tag: u8, value: i64) {
        let place = &mut self.bytes[at];
        place[0] = tag;
        place[1..9].copy_from_slice(&((value as u64) ^ (1 << 63)).to_be_bytes());
        self.lengths[at] = 9;
    }

    /// Hashes the keys that were put here since the last time.
    #[inline(always)]
    pub(crate) fn hash(&mut self, hashes: &mut [KeyHash]) {
        for ((hash, encoded), length) in hashes.iter_mut().zip(&self.bytes).zip(&mut self.lengths) {
            if *length > 0 {
                *hash = xxh3_128(&encoded[..*length as usize]);
                *length = 0;
            }
        }
    }
}

/// The hash of a key that is one long text.
#[inline(never)]
fn long_hash(tag: u8, value: &[u8]) -> KeyHash {
    let mut encoded = Vec::with_capacity(FRONT + value.len());
    bytes(tag, value, &mut encoded);
    xxh3_128(&encoded)
}

fn bytes(tag: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&(value.len() as u32).to_be_bytes());
    out.extend_from_slice(value);
}

/// The columns of an encoded key, each in its own encoding; of a damaged one
/// those before the damage.
pub fn parts(encoded: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = encoded;
    while let Some(tag) = rest.first() {
        let length = match *tag {
            INTEGER | DATE => Some(9),
            STRING | BYTES => rest
                .get(1..)
                .and_then(|tail| tail.first_chunk::<4>())
                .and_then(|length| usize::try_from(u32::from_be_bytes(*length)).ok())
                .map(|length| 5 + length),
            BOOLEAN => Some(2),
            _ => Some(1),
        };
        let Some((part, next)) = length.and_then(|length| rest.split_at_checked(length)) else { break };
        parts.push(part);
        rest = next;
    }
    parts
}

/// Turns encodings back into columns of the given types.
pub fn decode(encodings: &[&[u8]], types: &[DataType]) -> Result<Vec<ArrayRef>> {
    let damaged = || Error::data("an encoded entity key is damaged");
    let mut rest: Vec<&[u8]> = encodings.to_vec();
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(types.len());
    for data_type in types {
        let (mut integers, mut strings) = (Int64Builder::new(), StringBuilder::new());
        let (mut dates, mut booleans, mut binaries) =
            (Date32Builder::new(), BooleanBuilder::new(), BinaryBuilder::new());
        let mut kind = NULL;
        for bytes in &mut rest {
            let (tag, tail) = bytes.split_first().ok_or_else(damaged)?;
            kind = *tag;
            *bytes = match *tag {
                INTEGER | DATE => {
                    let (value, tail) = tail.split_first_chunk::<8>().ok_or_else(damaged)?;
                    let value = (u64::from_be_bytes(*value) ^ (1 << 63)) as i64;
                    if *tag == INTEGER {
                        integers.append_value(value)
                    } else {
                        dates.append_value(value as i32)
                    }
                    tail
                }
                BOOLEAN => {
                    let (value, tail) = tail.split_first().ok_or_else(damaged)?;
                    booleans.append_value(*value == 1);
                    tail
                }
                STRING | BYTES => {
                    let (length, tail) = tail.split_first_chunk::<4>().ok_or_else(damaged)?;
                    let (value, tail) =
                        tail.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(damaged)?;
                    if *tag == STRING {
                        strings.append_value(std::str::from_utf8(value).map_err(|_| damaged())?);
                    } else {
                        binaries.append_value(value);
                    }
                    tail
                }
                _ => return Err(damaged()),
            };
        }
        let array: ArrayRef = match kind {
            INTEGER => std::sync::Arc::new(integers.finish()),
            DATE => std::sync::Arc::new(dates.finish()),
            BOOLEAN => std::sync::Arc::new(booleans.finish()),
            BYTES => std::sync::Arc::new(binaries.finish()),
            _ => std::sync::Arc::new(strings.finish()),
        };
        let typed = cast(&array, data_type).map_err(|e| damaged().cause(e))?;
        if typed.len() != encodings.len() {
            return Err(damaged());
        }
        columns.push(typed);
    }
    Ok(columns)
}

/// A set of key hashes.
pub type KeySet = HashSet<KeyHash, BuildHasherDefault<HashOfHash>>;

/// The keys are hashes already: their low bits serve as they are.
#[derive(Debug, Default, Clone, Copy)]
pub struct HashOfHash(u64);

impl Hasher for HashOfHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, StringArray};

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn two_widths_of_an_integer_are_one_key() {
        let narrow = batch(vec![("k", Arc::new(Int32Array::from(vec![-7, 9])))]);
        let wide = batch(vec![("k", Arc::new(arrow::array::Int64Array::from(vec![-7, 9])))]);
        let of = |b: &RecordBatch| Keys::new(b, &["k".into()]).unwrap().hashes();
        assert_eq!(of(&narrow), of(&wide));
    }

    #[test]
    fn parts_of_a_key_do_not_run_together() {
        let one =
            batch(vec![("a", Arc::new(StringArray::from(vec!["ab"]))), ("b", Arc::new(StringArray::from(vec!["c"])))]);
        let two =
            batch(vec![("a", Arc::new(StringArray::from(vec!["a"]))), ("b", Arc::new(StringArray::from(vec!["bc"])))]);
        let of = |b: &RecordBatch| Keys::new(b, &["a".into(), "b".into()]).unwrap().hashes();
        assert_ne!(of(&one), of(&two));
    }

    #[test]
    fn an_encoded_key_decodes_to_what_it_was() {
        let rows = batch(vec![
            ("a", Arc::new(StringArray::from(vec!["x", ""]))),
            ("b", Arc::new(Int32Array::from(vec![i32::MIN, 5]))),
        ]);
        let keys = Keys::new(&rows, &["a".into(), "b".into()]).unwrap();
        let mut encoded = [Vec::new(), Vec::new()];
        encoded.iter_mut().enumerate().for_each(|(row, out)| keys.encode(row, out));
        let slices: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
        let back = decode(&slices, &[DataType::Utf8, DataType::Int32]).unwrap();
        assert_eq!(&back[..], rows.columns());
        assert!(decode(&[&slices[0][..3]], &[DataType::Utf8, DataType::Int32]).is_err());
    }

    #[test]
    fn a_float_is_refused_as_a_key() {
        assert!(check_key_type("k", &DataType::Float64).unwrap_err().to_string().contains("no identity"));
    }
}
