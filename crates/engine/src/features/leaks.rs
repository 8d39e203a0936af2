//! What nobody could have known: looks at a finished training set.

use std::cmp::Ordering;
use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use serde::Serialize;

use crate::{Error, Result};

/// Fewer rows of a label than this say nothing about a feature.
const FEWEST: usize = 20;
/// A feature that alone puts this share of all pairs of rows in the right
/// order is the label by another name.
const TELLING: f64 = 0.999;

/// A value that could not have been had.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Leak {
    /// The feature view.
    pub view: String,
    /// The feature, where it is about one.
    pub feature: Option<String>,
    /// What is wrong.
    pub kind: LeakKind,
    /// Rows that have it.
    pub rows: u64,
    /// The first of these rows, counted from 0.
    pub first_row: u64,
}

/// What is wrong with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeakKind {
    /// It became true after the moment.
    TrueLater,
    /// It became known after the moment.
    KnownLater,
    /// It says that it was known, but the lake did not have it yet.
    CommittedLater,
    /// It says that it was known before it was true.
    KnownBeforeTrue,
    /// It is the label, or says it.
    Label,
}

impl LeakKind {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TrueLater => "became true after the label's time",
            Self::KnownLater => "became known after the label's time",
            Self::CommittedLater => "was not in the lake at the label's time, whatever its known time says",
            Self::KnownBeforeTrue => "claims to be known before it was true",
            Self::Label => "tells the label almost always",
        }
    }
}

/// The columns of one view in a training set.
#[derive(Debug)]
pub(super) struct Columns<'a> {
    pub view: &'a str,
    /// When the label became true.
    pub moment: &'a str,
    pub feature_time: String,
    pub known_time: Option<String>,
    /// Whether the lake had other values then.
    pub late: Option<String>,
}

/// Leaks that times tell.
pub(super) fn times(rows: &RecordBatch, columns: &Columns<'_>) -> Result<Vec<Leak>> {
    let moments = instants(rows, columns.moment)?;
    let truths = instants(rows, &columns.feature_time)?;
    let known = columns.known_time.as_ref().map(|name| instants(rows, name)).transpose()?;
    let late = match &columns.late {
        None => None,
        Some(name) => Some(column(rows, name)?.as_boolean().clone()),
    };
    let after = |a: Option<i64>, b: Option<i64>| matches!((a, b), (Some(a), Some(b)) if a > b);
    let known = |row: usize| known.as_ref().and_then(|known| known[row]);
    let checks: [(LeakKind, &dyn Fn(usize) -> bool); 4] = [
        (LeakKind::TrueLater, &|row| {
            truths[row].is_some() && (moments[row].is_none() || after(truths[row], moments[row]))
        }),
        (LeakKind::KnownLater, &|row| after(known(row), moments[row])),
        (LeakKind::KnownBeforeTrue, &|row| after(truths[row], known(row))),
        (LeakKind::CommittedLater, &|row| late.as_ref().is_some_and(|late| late.is_valid(row) && late.value(row))),
    ];
    Ok(checks.into_iter().filter_map(|(kind, is)| leak(rows.num_rows(), columns.view, None, kind, is)).collect())
}

fn leak(rows: usize, view: &str, feature: Option<&str>, kind: LeakKind, is: impl Fn(usize) -> bool) -> Option<Leak> {
    let mut found = (0..rows).filter(|row| is(*row));
    let first = found.next()?;
    Some(Leak {
        view: view.to_owned(),
        feature: feature.map(str::to_owned),
        kind,
        rows: 1 + found.count() as u64,
        first_row: first as u64,
    })
}

fn column<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    rows.column_by_name(name).ok_or_else(|| Error::internal(format!("the training set has no column `{name}`")))
}

/// Microseconds since the epoch.
fn instants(rows: &RecordBatch, name: &str) -> Result<Vec<Option<i64>>> {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let values = cast(column(rows, name)?, &utc)
        .and_then(|times| cast(&times, &DataType::Int64))
        .map_err(|e| Error::invalid(format!("`{name}` is not a time: {e}")).cause(e))?;
    Ok(values.as_primitive::<Int64Type>().iter().collect())
}

/// Features that alone tell a label of two values.
pub(super) fn labels(rows: &RecordBatch, label: &str, features: &[(&str, &str)]) -> Result<Vec<Leak>> {
    let Some(classes) = two_classes(column(rows, label)?)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for (view, feature) in features {
        let values = column(rows, feature)?;
        let tells = match cast(values, &DataType::Float64) {
            Ok(numbers) if is_number(values.data_type()) => separation(numbers.as_primitive(), &classes),
            _ => purity(values, &classes)?,
        };
        if tells.is_some_and(|share| share >= TELLING) {
            let is = |row: usize| values.is_valid(row) && classes[row].is_some();
            found.extend(leak(rows.num_rows(), view, Some(feature), LeakKind::Label, is));
        }
    }
    Ok(found)
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric() || matches!(data_type, DataType::Boolean)
}

/// Whether each row has the second value; none for a label of other than two
/// values, or with too few rows of one.
fn two_classes(label: &ArrayRef) -> Result<Option<Vec<Option<bool>>>> {
    let texts = cast(label, &DataType::Utf8).map_err(|e| Error::invalid(format!("the label: {e}")).cause(e))?;
    let texts = texts.as_string::<i32>();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for text in texts.iter().flatten() {
        *counts.entry(text).or_default() += 1;
        if counts.len() > 2 {
            return Ok(None);
        }
    }
    if counts.len() != 2 || counts.values().any(|count| *count < FEWEST) {
        return Ok(None);
    }
    let second = counts.keys().max().copied();
    Ok(Some(texts.iter().map(|text| text.map(|t| Some(t) == second)).collect()))
}

/// The share of pairs of unlike rows that the values put in one order (the
/// area under the ROC curve, or one less it).
fn separation(values: &Float64Array, classes: &[Option<bool>]) -> Option<f64> {
    let mut rows: Vec<(f64, bool)> =
        values.iter().zip(classes).filter_map(|(v, c)| Some((v.filter(|v| !v.is_nan())?, (*c)?))).collect();
    rows.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal));
    let ones = rows.iter().filter(|(_, class)| *class).count() as f64;
    let zeros = rows.len() as f64 - ones;
    if ones < FEWEST as f64 || zeros < FEWEST as f64 {
        return None;
    }
    let (mut below, mut ordered) = (0.0, 0.0);
    for tied in rows.chunk_by(|a, b| a.0 == b.0) {
        let ones = tied.iter().filter(|(_, class)| *class).count() as f64;
        let zeros = tied.len() as f64 - ones;
        ordered += ones * (below + zeros / 2.0);
        below += zeros;
    }
    let area = ordered / (ones * zeros);
    Some(area.max(1.0 - area))
}

/// The share of rows whose label is the most frequent of their value; none
/// where values hardly come twice, so that each names its row.
fn purity(values: &ArrayRef, classes: &[Option<bool>]) -> Result<Option<f64>> {
    let Ok(texts) = cast(values, &DataType::Utf8) else { return Ok(None) };
    let mut counts: HashMap<&str, [usize; 2]> = HashMap::new();
    let mut seen = [0; 2];
    for (text, class) in texts.as_string::<i32>().iter().zip(classes) {
        if let (Some(text), Some(class)) = (text, class) {
            counts.entry(text).or_default()[usize::from(*class)] += 1;
            seen[usize::from(*class)] += 1;
        }
    }
    let rows: usize = seen.iter().sum();
    if seen.iter().any(|count| *count < FEWEST) || counts.len() * 4 > rows {
        return Ok(None);
    }
    let right: usize = counts.values().map(|of| of[0].max(of[1])).sum();
    Ok(Some(right as f64 / rows as f64))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{BooleanArray, Int64Array, StringArray, TimestampMicrosecondArray};

    use super::*;

    fn time(values: &[Option<i64>]) -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(values.to_vec()).with_timezone("UTC"))
    }

    fn kinds(moment: &[Option<i64>], truth: &[Option<i64>], known: &[Option<i64>], late: bool) -> Vec<LeakKind> {
        let late: ArrayRef = Arc::new(BooleanArray::from(vec![late; moment.len()]));
        let rows = RecordBatch::try_from_iter([
            ("seen", time(moment)),
            ("t", time(truth)),
            ("k", time(known)),
            ("late", late),
        ])
        .unwrap();
        let columns = Columns {
            view: "v",
            moment: "seen",
            feature_time: "t".into(),
            known_time: Some("k".into()),
            late: Some("late".into()),
        };
        times(&rows, &columns).unwrap().iter().map(|leak| leak.kind).collect()
    }

    #[test]
    fn each_planted_leak_of_time_is_found() {
        let at = |t: i64| [Some(t), None];
        assert!(kinds(&at(5), &at(4), &at(5), false).is_empty());
        assert_eq!(kinds(&at(5), &at(6), &at(6), false), [LeakKind::TrueLater, LeakKind::KnownLater]);
        assert_eq!(kinds(&at(5), &at(4), &at(6), false), [LeakKind::KnownLater]);
        assert_eq!(kinds(&at(5), &at(4), &at(3), false), [LeakKind::KnownBeforeTrue]);
        assert_eq!(kinds(&at(5), &at(4), &at(4), true), [LeakKind::CommittedLater]);
        // A row without a moment has no features.
        assert_eq!(kinds(&[None], &[Some(1)], &[Some(1)], false), [LeakKind::TrueLater]);
    }

    #[test]
    fn a_feature_that_is_the_label_is_found_and_a_good_one_is_not() {
        let number = |f: &dyn Fn(i64) -> i64| Arc::new(Int64Array::from_iter_values((0..200).map(f))) as ArrayRef;
        let word = |f: &dyn Fn(i64) -> String| Arc::new(StringArray::from_iter_values((0..200).map(f))) as ArrayRef;
        let rows = RecordBatch::try_from_iter([
            ("gone", number(&|i| i % 2)),
            ("same", number(&|i| 7 - i % 2)),
            ("good", number(&|i| i % 2 * 3 + i % 5)),
            ("word", word(&|i| if i % 2 == 0 { "active".into() } else { format!("left {}", i % 3) })),
            ("name", word(&|i| i.to_string())),
            ("other", word(&|i| (i % 7).to_string())),
        ])
        .unwrap();
        let features = ["same", "good", "word", "name", "other"].map(|name| ("v", name));
        let found = labels(&rows, "gone", &features).unwrap();
        let names: Vec<_> = found.iter().filter_map(|leak| leak.feature.as_deref()).collect();
        assert_eq!(names, ["same", "word"]);
        assert!(labels(&rows, "other", &features).unwrap().is_empty());
    }
}
