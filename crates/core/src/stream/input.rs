//! What comes in: the events of one partition, in offset order, as columns.

use super::error::StreamError;
use super::plan::Plan;
use super::settings::{ColumnType, KeyType};

/// A column of bits as Arrow has it: least significant bit first, from a bit
/// offset.
#[derive(Debug, Clone, Copy)]
pub struct Bits<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Bits<'a> {
    /// The bits of `bytes` from bit `offset` on.
    pub fn new(bytes: &'a [u8], offset: usize) -> Self {
        Self { bytes, offset }
    }

    /// Bit `index`; false beyond the end.
    #[inline]
    pub fn get(&self, index: usize) -> bool {
        let at = self.offset + index;
        self.bytes.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1)
    }

    fn holds(&self, rows: usize) -> bool {
        self.offset.checked_add(rows).is_some_and(|bits| bits <= self.bytes.len().saturating_mul(8))
    }
}

/// Byte strings as Arrow has them: string `i` is `data[ends[i]..ends[i + 1]]`.
#[derive(Debug, Clone, Copy)]
pub struct Strings<'a> {
    offsets: &'a [i32],
    data: &'a [u8],
}

impl<'a> Strings<'a> {
    /// Strings with `offsets` (one more than strings) into `data`.
    pub fn new(offsets: &'a [i32], data: &'a [u8]) -> Self {
        Self { offsets, data }
    }

    /// String `index`.
    #[inline]
    pub fn get(&self, index: usize) -> &'a [u8] {
        &self.data[self.offsets[index] as usize..self.offsets[index + 1] as usize]
    }

    fn fits(&self, rows: usize) -> bool {
        let (Some(first), Some(last)) = (self.offsets.first(), self.offsets.last()) else { return false };
        self.offsets.len() == rows + 1
            && *first >= 0
            && usize::try_from(*last).is_ok_and(|last| last <= self.data.len())
            && self.offsets.is_sorted()
    }
}

/// The values of an argument column.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    /// Doubles.
    Double(&'a [f64]),
    /// Longs.
    Long(&'a [i64]),
    /// Booleans.
    Boolean(Bits<'a>),
    /// Byte strings.
    Bytes(Strings<'a>),
}

/// An argument column: values, and which of them are not null.
#[derive(Debug, Clone, Copy)]
pub struct Column<'a> {
    /// The values; those of nulls do not matter.
    pub values: Values<'a>,
    /// One bit per row, set where the row is not null; `None` without nulls.
    pub valid: Option<Bits<'a>>,
}

/// The keys of the events, never null.
#[derive(Debug, Clone, Copy)]
pub enum Keys<'a> {
    /// Encoded keys.
    Bytes(Strings<'a>),
    /// Numbers that the caller keeps for the keys.
    Ids(&'a [u64]),
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key<'a> {
    /// A number that the caller keeps for the key.
    Id(u64),
    /// The encoded key.
    Bytes(&'a [u8]),
}

impl std::fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Bytes(bytes) => write!(f, "{}", String::from_utf8_lossy(bytes).escape_debug()),
        }
    }
}

impl Key<'_> {
    /// Bytes that keeping it takes outside of words.
    pub(crate) fn len(&self) -> usize {
        if let Self::Bytes(bytes) = self { bytes.len() } else { 0 }
    }
}

impl<'a> Keys<'a> {
    /// Key `index`.
    #[inline]
    pub fn get(&self, index: usize) -> Key<'a> {
        match self {
            Self::Ids(ids) => Key::Id(ids[index]),
            Self::Bytes(strings) => Key::Bytes(strings.get(index)),
        }
    }
}

/// Events of one partition in offset order.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The partition that all of them come from.
    pub partition: u32,
    /// Their offsets, ascending; gaps are the source's affair.
    pub offsets: &'a [i64],
    /// Event times, microseconds UTC.
    pub event_times: &'a [i64],
    /// When they arrived, microseconds UTC, by the clock that caps the future:
    /// the broker's, so that a second reading decides the same.
    pub arrivals: &'a [i64],
    /// One column for each of [`Settings::keys`](super::Settings::keys).
    pub keys: &'a [Keys<'a>],
    /// One column for each of [`Settings::columns`](super::Settings::columns).
    pub columns: &'a [Column<'a>],
}

impl Column<'_> {
    fn fits(&self, wanted: ColumnType, rows: usize) -> bool {
        let values = match (self.values, wanted) {
            (Values::Double(values), ColumnType::Double) => values.len() == rows,
            (Values::Long(values), ColumnType::Long) => values.len() == rows,
            (Values::Boolean(bits), ColumnType::Boolean) => bits.holds(rows),
            (Values::Bytes(strings), ColumnType::Bytes) => strings.fits(rows),
            _ => false,
        };
        values && self.valid.is_none_or(|bits| bits.holds(rows))
    }

    /// Bytes that keeping the row's value takes outside of words.
    pub(crate) fn value_bytes(&self, row: usize) -> u64 {
        if let Values::Bytes(strings) = self.values { strings.get(row).len() as u64 } else { 0 }
    }

    #[inline]
    pub(crate) fn is_valid(&self, row: usize) -> bool {
        self.valid.is_none_or(|bits| bits.get(row))
    }

    /// Whether the row is true: false and null are not.
    #[inline]
    pub(crate) fn is_true(&self, row: usize) -> bool {
        matches!(self.values, Values::Boolean(bits) if bits.get(row)) && self.is_valid(row)
    }
}

impl Batch<'_> {
    /// How many events.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Checks the shape once, so that the loop over events need not.
    pub(crate) fn check(&self, plan: &Plan, partition: u32, next_offset: i64, from: usize) -> Result<(), StreamError> {
        let rows = self.offsets.len();
        let settings = plan.settings();
        if self.partition != partition {
            return Err(StreamError::batch(partition, format!("it is of partition {}", self.partition)));
        }
        if self.event_times.len() != rows || self.arrivals.len() != rows || from > rows {
            return Err(StreamError::batch(partition, "its columns differ in length"));
        }
        if self.keys.len() != settings.keys.len() || self.columns.len() != settings.columns.len() {
            return Err(StreamError::batch(partition, "it has other columns than were declared"));
        }
        for (index, (keys, wanted)) in self.keys.iter().zip(&settings.keys).enumerate() {
            let fits = match (keys, wanted) {
                (Keys::Ids(ids), KeyType::Id) => ids.len() == rows,
                (Keys::Bytes(strings), KeyType::Bytes) => strings.fits(rows),
                _ => false,
            };
            if !fits {
                return Err(StreamError::batch(partition, format!("key column {index} is not {rows} {wanted:?}")));
            }
        }
        for (index, (column, wanted)) in self.columns.iter().zip(&settings.columns).enumerate() {
            if !column.fits(*wanted, rows) {
                return Err(StreamError::batch(partition, format!("column {index} is not {rows} {wanted:?}")));
            }
        }
        let mut expected = next_offset;
        for offset in &self.offsets[from..] {
            if *offset < expected || *offset == i64::MAX {
                return Err(StreamError::Offset { partition, expected, found: *offset });
            }
            expected = offset + 1;
        }
        Ok(())
    }
}
