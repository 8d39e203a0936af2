//! What the windows must say, from all events kept and looked at again.

use super::events::Event;
use crate::stream::{Aggregate, Disposition, Function, LatePolicy, OutColumn, Settings, Value, Window};

/// A value as the oracle has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expected {
    Null,
    Double(f64),
    Long(i64),
    Boolean(bool),
    Bytes(Vec<u8>),
    /// Within the relative error of the quantile sketch.
    Near(f64),
}

impl Expected {
    pub fn is(&self, value: Value<'_>) -> bool {
        match (self, value) {
            (Self::Null, Value::Null) => true,
            (Self::Double(a), Value::Double(b)) => a == &b || (a.is_nan() && b.is_nan()),
            (Self::Long(a), Value::Long(b)) => *a == b,
            (Self::Boolean(a), Value::Boolean(b)) => *a == b,
            (Self::Bytes(a), Value::Bytes(b)) => a == b,
            (Self::Near(a), Value::Double(b)) => (a - b).abs() <= a.abs() / 128.0,
            _ => false,
        }
    }
}

pub(super) fn assert_cell(column: &OutColumn, row: usize, expected: &Expected, what: &dyn std::fmt::Debug) {
    assert!(expected.is(column.get(row)), "{what:?}: {:?}, expected {expected:?}", column.get(row));
}

/// All windows that hold a time, by looking at every start near it.
pub(super) fn windows(window: Window, time: i64) -> Vec<(i64, i64)> {
    let (size, slide, offset) = match window {
        Window::Tumbling { size, offset } => (size, size, offset),
        Window::Hopping { size, slide, offset } => (size, slide, offset),
        Window::Rolling { tile, tiles, offset } => (tile * tiles, tile, offset),
    };
    let near = (time - offset).div_euclid(slide);
    (near - size / slide - 2..=near + 1)
        .map(|number| (number * slide + offset, number * slide + offset + size))
        .filter(|(start, end)| (*start..*end).contains(&time))
        .collect()
}

/// What becomes of each event in `each_event`.
pub(super) fn dispositions(settings: &Settings, events: &[Event]) -> Vec<Disposition> {
    let mut newest: Option<i64> = None;
    let grace = if let LatePolicy::IntoWindow { grace } = settings.late { grace } else { 0 };
    let judge = |event: &Event| {
        if event.time > event.arrival + settings.max_future {
            return Disposition::Future;
        }
        let late = newest.map_or(0, |newest| newest - settings.allowed_lateness - event.time);
        newest = Some(newest.map_or(event.time, |newest| newest.max(event.time)));
        match late {
            ..=0 => Disposition::OnTime,
            late if late <= grace => Disposition::LateInWindow,
            _ => Disposition::Late,
        }
    };
    events.iter().map(judge).collect()
}

/// An aggregate over events, in (partition, offset) order.
pub(super) fn aggregate(aggregate: &Aggregate, events: &[&Event]) -> Expected {
    let kept: Vec<&Event> =
        events.iter().copied().filter(|event| aggregate.filter.is_none() || event.boolean == Some(true)).collect();
    let Some(argument) = aggregate.argument else { return Expected::Long(kept.len() as i64) };
    let value = |event: &Event| match argument {
        0 => event.double.map(Expected::Double),
        1 => event.long.map(Expected::Long),
        2 => event.boolean.map(Expected::Boolean),
        _ => event.bytes.clone().map(Expected::Bytes),
    };
    let values: Vec<Expected> = kept.iter().filter_map(|event| value(event)).collect();
    let number = |value: &Expected| match value {
        Expected::Double(value) => *value,
        Expected::Long(value) => *value as f64,
        _ => unreachable!("not numeric"),
    };
    let as_argument = |value: f64| if argument == 1 { Expected::Long(value as i64) } else { Expected::Double(value) };
    if values.is_empty() && !matches!(aggregate.function, Function::First { .. } | Function::Last { .. }) {
        let counts = matches!(aggregate.function, Function::Count | Function::ApproxDistinct);
        return if counts { Expected::Long(0) } else { Expected::Null };
    }
    match aggregate.function {
        Function::Count => Expected::Long(values.len() as i64),
        Function::Sum => as_argument(values.iter().map(number).sum()),
        Function::Avg => Expected::Double(values.iter().map(number).sum::<f64>() / values.len() as f64),
        Function::Min => as_argument(values.iter().map(number).fold(f64::INFINITY, f64::min)),
        Function::Max => as_argument(values.iter().map(number).fold(f64::NEG_INFINITY, f64::max)),
        Function::First { ignore_nulls } | Function::Last { ignore_nulls } => {
            let mut there: Vec<&Event> =
                kept.into_iter().filter(|event| !ignore_nulls || value(event).is_some()).collect();
            there.sort_by_key(|event| event.time);
            let edge = if matches!(aggregate.function, Function::First { .. }) { there.first() } else { there.last() };
            edge.and_then(|event| value(event)).unwrap_or(Expected::Null)
        }
        Function::ApproxDistinct => {
            let mut seen: Vec<Expected> = Vec::new();
            for value in values {
                if !seen.contains(&value) {
                    seen.push(value);
                }
            }
            Expected::Long(seen.len() as i64)
        }
        Function::Quantile { q } => {
            let mut numbers: Vec<f64> = values.iter().map(number).collect();
            numbers.sort_by(f64::total_cmp);
            Expected::Near(numbers[(q * (numbers.len() - 1) as f64).floor() as usize])
        }
    }
}

/// Whether two events have the same key of a window set.
pub(super) fn same_key(key: usize, a: &Event, b: &Event) -> bool {
    if key == 0 { a.name == b.name } else { a.id == b.id }
}
