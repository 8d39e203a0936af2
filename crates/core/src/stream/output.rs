//! What goes out, as columns that a caller keeps and clears between batches.

use super::settings::ColumnType;

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// It is in its windows.
    OnTime,
    /// It is older than the watermark and in its windows all the same: by
    /// policy, or because only some of its hopping windows had closed.
    LateInWindow,
    /// It is late and in no window.
    Late,
    /// Its time is too far after its arrival; it moved nothing.
    Future,
    /// Its time is more than 36,000 years from 1970; it moved nothing.
    Unreadable,
}

impl Disposition {
    /// Whether the event entered a window.
    pub fn entered(self) -> bool {
        matches!(self, Self::OnTime | Self::LateInWindow)
    }
}

/// The values of one aggregate.
#[derive(Debug, Clone, PartialEq)]
pub enum OutValues {
    /// Doubles.
    Double(Vec<f64>),
    /// Longs.
    Long(Vec<i64>),
    /// Booleans.
    Boolean(Vec<bool>),
    /// Byte strings: where each ends, and the bytes of all.
    Bytes(Vec<usize>, Vec<u8>),
}

/// A column of results.
#[derive(Debug, Clone, PartialEq)]
pub struct OutColumn {
    /// The values; 0, false or empty where null.
    pub values: OutValues,
    /// Which are not null.
    pub valid: Vec<bool>,
}

/// One result, for reading single cells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// No value.
    Null,
    /// A double.
    Double(f64),
    /// A long.
    Long(i64),
    /// A boolean.
    Boolean(bool),
    /// Bytes.
    Bytes(&'a [u8]),
}

impl OutColumn {
    pub(crate) fn new(of: ColumnType) -> Self {
        let values = match of {
            ColumnType::Double => OutValues::Double(Vec::new()),
            ColumnType::Long => OutValues::Long(Vec::new()),
            ColumnType::Boolean => OutValues::Boolean(Vec::new()),
            ColumnType::Bytes => OutValues::Bytes(Vec::new(), Vec::new()),
        };
        Self { values, valid: Vec::new() }
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.valid.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.valid.is_empty()
    }

    /// Row `index`.
    pub fn get(&self, index: usize) -> Value<'_> {
        if !self.valid[index] {
            return Value::Null;
        }
        match &self.values {
            OutValues::Double(values) => Value::Double(values[index]),
            OutValues::Long(values) => Value::Long(values[index]),
            OutValues::Boolean(values) => Value::Boolean(values[index]),
            OutValues::Bytes(ends, data) => {
                let start = if index == 0 { 0 } else { ends[index - 1] };
                Value::Bytes(&data[start..ends[index]])
            }
        }
    }

    /// Adds a row; a value of another type is a null.
    #[inline]
    pub(crate) fn push(&mut self, value: Value<'_>) {
        let mut valid = true;
        match (&mut self.values, value) {
            (OutValues::Double(values), Value::Double(value)) => values.push(value),
            (OutValues::Long(values), Value::Long(value)) => values.push(value),
            (OutValues::Boolean(values), Value::Boolean(value)) => values.push(value),
            (OutValues::Bytes(ends, data), Value::Bytes(value)) => {
                data.extend_from_slice(value);
                ends.push(data.len());
            }
            (values, _) => {
                valid = false;
                match values {
                    OutValues::Double(values) => values.push(0.0),
                    OutValues::Long(values) => values.push(0),
                    OutValues::Boolean(values) => values.push(false),
                    OutValues::Bytes(ends, data) => ends.push(data.len()),
                }
            }
        }
        self.valid.push(valid);
    }

    fn clear(&mut self) {
        self.valid.clear();
        match &mut self.values {
            OutValues::Double(values) => values.clear(),
            OutValues::Long(values) => values.clear(),
            OutValues::Boolean(values) => values.clear(),
            OutValues::Bytes(ends, data) => {
                ends.clear();
                data.clear();
            }
        }
    }
}

/// The windows of each event, for one window set.
#[derive(Debug, Clone, PartialEq)]
pub struct SetOutput {
    /// Where the event's window ends (exclusive), microseconds UTC; 0 where
    /// the event was refused.
    pub window_ends: Vec<i64>,
    /// Whether the stream or a seed covers the whole window.
    pub complete: Vec<bool>,
    /// One column for each aggregate.
    pub columns: Vec<OutColumn>,
}

/// One row for each event, refused ones included.
#[derive(Debug, Clone, PartialEq)]
pub struct EventOutput {
    /// What became of the events.
    pub dispositions: Vec<Disposition>,
    /// One for each window set.
    pub sets: Vec<SetOutput>,
}

impl EventOutput {
    /// How many events it has a row for.
    pub fn len(&self) -> usize {
        self.dispositions.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.dispositions.is_empty()
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.dispositions.clear();
        for set in &mut self.sets {
            set.window_ends.clear();
            set.complete.clear();
            set.columns.iter_mut().for_each(OutColumn::clear);
        }
    }

    pub(crate) fn push_refused(&mut self, disposition: Disposition) {
        self.dispositions.push(disposition);
        for set in &mut self.sets {
            set.window_ends.push(0);
            set.complete.push(false);
            set.columns.iter_mut().for_each(|column| column.push(Value::Null));
        }
    }
}

/// Rows of closed windows of one window set, by window end, then key.
#[derive(Debug, Clone, PartialEq)]
pub struct ClosedRows {
    /// The keys: a long column of the ids, bit for bit, or a bytes column.
    pub keys: OutColumn,
    /// Where the windows start, microseconds UTC.
    pub window_starts: Vec<i64>,
    /// Where they end (exclusive).
    pub window_ends: Vec<i64>,
    /// Whether the stream covers the whole window.
    pub complete: Vec<bool>,
    /// One column for each aggregate.
    pub columns: Vec<OutColumn>,
}

impl ClosedRows {
    /// How many rows.
    pub fn len(&self) -> usize {
        self.window_ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.window_ends.is_empty()
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.window_starts.clear();
        self.window_ends.clear();
        self.complete.clear();
        self.columns.iter_mut().for_each(OutColumn::clear);
    }
}
