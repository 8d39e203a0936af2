//! Rows by key in the order of time: what was the newest at a moment.
//!
//! A *moment* is a value that two rows are compared by, as a number.
//! [`RightIndex`] sorts the rows of one side within each key and answers for
//! every row of the other side which of them matches. Null keys and null
//! moments match nothing.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use arrow::array::{Array, ArrayRef, AsArray, DynComparator, RecordBatch, UInt32Array, make_comparator};
use arrow::buffer::NullBuffer;
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use xxhash_rust::xxh3::xxh3_128;

use crate::key::{HashOfHash, KeyHash};

/// How a value of the left row compares with one of the right row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compare {
    /// `>`
    After,
    /// `>=`
    NotBefore,
    /// `<`
    Before,
    /// `<=`
    NotAfter,
}

impl Compare {
    /// Whether right values above the left one are wanted.
    pub fn is_forward(self) -> bool {
        matches!(self, Self::Before | Self::NotAfter)
    }

    /// Whether equal values do not match.
    pub fn is_strict(self) -> bool {
        matches!(self, Self::After | Self::Before)
    }

    /// `>=`, …
    pub fn as_str(self) -> &'static str {
        match self {
            Self::After => ">",
            Self::NotBefore => ">=",
            Self::Before => "<",
            Self::NotAfter => "<=",
        }
    }
}

/// Keys of rows as hashes of 128 bit; none where a part of the key is null.
///
/// # Errors
/// When a column is of a type without an order.
pub fn key_hashes(keys: &[ArrayRef], rows: usize) -> Result<Vec<Option<KeyHash>>, ArrowError> {
    if keys.is_empty() {
        return Ok(vec![Some(0); rows]);
    }
    let fields = keys.iter().map(|k| SortField::new(k.data_type().clone())).collect();
    let encoded = RowConverter::new(fields)?.convert_columns(keys)?;
    let nulls = keys.iter().fold(None, |all, key| NullBuffer::union(all.as_ref(), key.logical_nulls().as_ref()));
    let hash = |row: usize| xxh3_128(encoded.row(row).as_ref());
    Ok((0..rows).map(|row| nulls.as_ref().is_none_or(|n| n.is_valid(row)).then(|| hash(row))).collect())
}

/// Values of a comparison as numbers that compare as they do; for a search
/// forward turned round, so that the largest that is not above is wanted
/// always.
#[derive(Debug)]
pub struct Moments {
    values: Vec<i64>,
    nulls: Option<NullBuffer>,
}

impl Moments {
    /// The values of a column of times, dates or numbers.
    ///
    /// # Errors
    /// When the column is of another type.
    pub fn new(column: &ArrayRef, compare: Compare) -> Result<Self, ArrowError> {
        let nulls = column.logical_nulls();
        let mut values: Vec<i64> = match column.data_type() {
            DataType::Float32 | DataType::Float64 => {
                let floats = cast(column, &DataType::Float64)?;
                floats.as_primitive::<Float64Type>().values().iter().map(|v| ordered(*v)).collect()
            }
            _ => cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().values().to_vec(),
        };
        if compare.is_forward() {
            values.iter_mut().for_each(|v| *v = !*v);
        }
        Ok(Self { values, nulls })
    }

    fn get(&self, row: usize) -> Option<i64> {
        self.nulls.as_ref().is_none_or(|n| n.is_valid(row)).then(|| self.values[row])
    }
}

/// The total order of floats: -0 is 0, NaN is largest.
fn ordered(value: f64) -> i64 {
    let value = if value.is_nan() { f64::NAN.abs() } else { value + 0.0 };
    let bits = value.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

/// Rows of one side, sorted within each key.
#[derive(Debug)]
pub struct RightIndex {
    /// Where the rows of a key are in `rows`.
    keys: HashMap<KeyHash, (u32, u32), BuildHasherDefault<HashOfHash>>,
    /// Row numbers.
    rows: Vec<u32>,
    /// The values of each comparison, beside `rows`.
    moments: Vec<Vec<i64>>,
    compare: Vec<Compare>,
}

impl RightIndex {
    /// Indexes `payload`, at most 2^32 rows, whose columns break ties.
    ///
    /// # Errors
    /// When a column is of a type without an order.
    pub fn new(
        payload: &RecordBatch,
        keys: &[ArrayRef],
        moments: &[Moments],
        compare: Vec<Compare>,
    ) -> Result<Self, ArrowError> {
        let count = payload.num_rows();
        let hashes = key_hashes(keys, count)?;
        let mut groups: HashMap<KeyHash, u32, BuildHasherDefault<HashOfHash>> = HashMap::default();
        let (mut group_of, mut sizes) = (vec![u32::MAX; count], Vec::<u32>::new());
        for (row, hash) in hashes.iter().enumerate() {
            let Some(hash) = hash else { continue };
            if moments.iter().any(|m| m.get(row).is_none()) {
                continue;
            }
            let group = *groups.entry(*hash).or_insert_with(|| {
                sizes.push(0);
                sizes.len() as u32 - 1
            });
            group_of[row] = group;
            sizes[group as usize] += 1;
        }
        let mut starts = Vec::with_capacity(sizes.len());
        let mut total = 0;
        for size in &sizes {
            starts.push(total);
            total += size;
        }
        let mut rows = vec![0u32; total as usize];
        let mut next = starts.clone();
        for (row, group) in group_of.iter().enumerate().filter(|(_, group)| **group != u32::MAX) {
            let at = &mut next[*group as usize];
            rows[*at as usize] = row as u32;
            *at += 1;
        }
        let mut ties = Ties { payload, comparators: None };
        for (start, size) in starts.iter().zip(&sizes) {
            rows[*start as usize..(*start + *size) as usize].sort_unstable_by(|a, b| ties.order(moments, *a, *b));
        }
        if let Some(Err(problem)) = ties.comparators {
            return Err(problem);
        }
        let moments = moments.iter().map(|m| rows.iter().map(|row| m.values[*row as usize]).collect()).collect();
        let keys = groups.into_iter().map(|(hash, g)| (hash, (starts[g as usize], sizes[g as usize]))).collect();
        Ok(Self { keys, rows, moments, compare })
    }

    /// For each left row its match.
    pub fn matches(&self, keys: &[Option<KeyHash>], moments: &[Moments]) -> UInt32Array {
        let wanted = |row: usize| -> Option<u32> {
            let (start, size) = *self.keys.get(keys[row].as_ref()?)?;
            let (start, end) = (start as usize, (start + size) as usize);
            let (compare, first) = (self.compare.first()?, self.moments.first()?);
            let moment = moments.first()?.get(row)?;
            let above = first[start..end].partition_point(|v| fits(*v, moment, *compare));
            let rest: Vec<i64> = moments[1..].iter().map(|m| m.get(row)).collect::<Option<_>>()?;
            let all = |at: &usize| {
                let others = self.moments[1..].iter().zip(&self.compare[1..]);
                others.zip(&rest).all(|((values, compare), moment)| fits(values[*at], *moment, *compare))
            };
            (start..start + above).rev().find(all).map(|at| self.rows[at])
        };
        (0..keys.len()).map(wanted).collect()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.keys.capacity() * 28 + self.rows.capacity() * (4 + 8 * self.moments.len())
    }
}

fn fits(right: i64, left: i64, compare: Compare) -> bool {
    if compare.is_strict() { right < left } else { right <= left }
}

type Comparators = Result<Vec<DynComparator>, ArrowError>;

/// Orders rows of one key; the payload is looked at only where all moments are
/// equal.
struct Ties<'a> {
    payload: &'a RecordBatch,
    comparators: Option<Comparators>,
}

impl Ties<'_> {
    fn order(&mut self, moments: &[Moments], a: u32, b: u32) -> Ordering {
        let (a, b) = (a as usize, b as usize);
        for m in moments {
            match m.values[a].cmp(&m.values[b]) {
                Ordering::Equal => {}
                order => return order,
            }
        }
        let columns = self.payload.columns();
        let make = || {
            let least = SortOptions { descending: false, nulls_first: true };
            columns.iter().map(|c| make_comparator(c, c, least)).collect()
        };
        let Ok(comparators) = self.comparators.get_or_insert_with(make) else { return Ordering::Equal };
        comparators.iter().map(|c| c(a, b)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
    }
}
