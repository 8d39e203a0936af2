//! What is declared of a payload.

use serde::Serialize;

/// What a change event says besides the row: `c`reate, `u`pdate, `d`elete or
/// `r`ead of a snapshot, and when the connector saw it.
pub const CHANGE_COLUMNS: &[&str] = &["change_op", CHANGE_TIMESTAMP];

/// The second of [`CHANGE_COLUMNS`].
pub const CHANGE_TIMESTAMP: &str = "change_timestamp";

/// One field of the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldSettings {
    /// The column's name.
    pub name: String,
    /// What it holds.
    pub kind: FieldKind,
    /// Names of objects from the outside in; a string on the way is read as
    /// JSON.
    pub path: Vec<String>,
}

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldKind {
    /// Text.
    String,
    /// A 64-bit integer.
    Long,
    /// A 64-bit floating point number.
    Double,
    /// True or false.
    Boolean,
    /// A point in time.
    Timestamp(TimeFormat),
}

/// How a point in time is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeFormat {
    /// `2026-01-31T10:00:00.5+07:00`, with a blank for the `T` and without a
    /// zone as well.
    Iso,
    /// A number of seconds since 1970, with a fraction or without.
    Seconds,
    /// Milliseconds since 1970.
    Milliseconds,
    /// Microseconds since 1970.
    Microseconds,
    /// A pattern as in `%d/%m/%Y %H:%M`.
    Pattern(String),
}
