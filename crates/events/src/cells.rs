//! The values of the event at hand, and how what a payload holds becomes one:
//! the same rules whichever way a payload is written.

use chrono::{DateTime, NaiveDate};

use super::decode::Problem;
use super::field::FieldKind;
use super::json::Scalar;
use super::time::{TimeReader, Unit};

/// A field and how it is read.
#[derive(Debug)]
pub struct Wanted {
    /// The column's name.
    pub name: String,
    /// What it holds.
    pub kind: FieldKind,
    /// How a point in time is written.
    pub time: Option<TimeReader>,
}

/// A place in the payload: the fields that are there, and names below it.
#[derive(Debug, Default)]
pub struct Node {
    /// Numbers of fields.
    pub fields: Vec<usize>,
    /// Names, and their places.
    pub children: Vec<(String, usize)>,
}

/// What is wanted of a payload, and where it stands in it. The outermost place
/// is number 0.
#[derive(Debug)]
pub struct Layout {
    /// The fields.
    pub wanted: Vec<Wanted>,
    /// The places.
    pub nodes: Vec<Node>,
    /// Fields that come out; those behind them are of the row before a change.
    pub count: usize,
}

/// A value of the event at hand.
#[derive(Debug, Clone, Copy)]
pub enum Cell {
    /// Nothing.
    Null,
    /// True or false.
    Boolean(bool),
    /// A whole number, or a time in microseconds.
    Long(i64),
    /// A number.
    Double(f64),
    /// A range of the scratch text.
    Text(usize, usize),
}

/// The event at hand.
#[derive(Debug, Default)]
pub struct Event {
    /// By field.
    pub cells: Vec<Cell>,
    /// The places that have been there.
    pub seen: Vec<bool>,
    /// The texts of cells.
    pub text: String,
    /// What is wrong with it.
    pub problem: Option<(Problem, String)>,
    /// Of the row before a change.
    pub problem_before: Option<(Problem, String)>,
}

impl Event {
    /// Begins another event.
    pub fn clear(&mut self, layout: &Layout) {
        self.cells.clear();
        self.cells.resize(layout.wanted.len(), Cell::Null);
        self.seen.clear();
        self.seen.resize(layout.nodes.len(), false);
        self.text.clear();
        (self.problem, self.problem_before) = (None, None);
    }
}

/// Takes the values of a payload in as a reader comes by them.
pub struct Walk<'a> {
    /// What is wanted.
    pub layout: &'a Layout,
    /// What was found.
    pub event: &'a mut Event,
}

impl Walk<'_> {
    /// The place of a name below another, if anything of it is wanted.
    pub fn child(&self, at: usize, name: &str) -> Option<usize> {
        let children = &self.layout.nodes[at].children;
        children.iter().find(|(child, _)| child == name).map(|(_, place)| *place)
    }

    /// The fields of a place take the value that was found, or it is a problem.
    fn set(&mut self, at: usize, found: impl Fn(&Wanted, &mut String) -> Option<Cell>, what: &str) {
        let layout = self.layout;
        for index in &layout.nodes[at].fields {
            let wanted = &layout.wanted[*index];
            match found(wanted, &mut self.event.text) {
                Some(cell) => self.event.cells[*index] = cell,
                None => {
                    let (problem, kind) = match wanted.kind {
                        FieldKind::String => (Problem::Type, "a string"),
                        FieldKind::Long => (Problem::Type, "a whole number of 64 bits"),
                        FieldKind::Double => (Problem::Type, "a number"),
                        FieldKind::Boolean => (Problem::Type, "true or false"),
                        FieldKind::Timestamp(_) => (Problem::Time, "a time of the declared format"),
                    };
                    let slot = match *index < layout.count {
                        true => &mut self.event.problem,
                        false => &mut self.event.problem_before,
                    };
                    slot.get_or_insert_with(|| (problem, format!("`{}` is {what}, not {kind}", wanted.name)));
                }
            }
        }
    }

    /// Null, a boolean or a number.
    pub fn scalar(&mut self, at: usize, scalar: Scalar) {
        match scalar {
            Scalar::Null => {}
            Scalar::Boolean(value) => {
                let read = |wanted: &Wanted, _: &mut String| match wanted.kind {
                    FieldKind::Boolean => Some(Cell::Boolean(value)),
                    _ => None,
                };
                self.set(at, read, "true or false");
            }
            Scalar::Whole(value) => {
                let read = |wanted: &Wanted, _: &mut String| match (&wanted.kind, &wanted.time) {
                    (FieldKind::Long, _) => Some(Cell::Long(value)),
                    (FieldKind::Double, _) => Some(Cell::Double(value as f64)),
                    (_, Some(time)) => time.whole(value).map(Cell::Long),
                    _ => None,
                };
                self.set(at, read, "a number");
            }
            Scalar::Number(value) => {
                let read = |wanted: &Wanted, _: &mut String| match (&wanted.kind, &wanted.time) {
                    (FieldKind::Double, _) => Some(Cell::Double(value)),
                    (_, Some(time)) => time.fraction(value).map(Cell::Long),
                    _ => None,
                };
                self.set(at, read, "a number");
            }
        }
    }

    /// A string without anything in it.
    pub fn text(&mut self, at: usize, value: &str) {
        let read = |wanted: &Wanted, text: &mut String| match (&wanted.kind, &wanted.time) {
            (FieldKind::String, _) => Some(written(value, text)),
            (_, Some(time)) => time.text(value).map(Cell::Long),
            _ => None,
        };
        self.set(at, read, "a string");
    }

    /// One of a set of names, each of which has a number.
    pub fn symbol(&mut self, at: usize, name: &str, number: i64) {
        let read = |wanted: &Wanted, text: &mut String| match wanted.kind {
            FieldKind::String => Some(written(name, text)),
            FieldKind::Long => Some(Cell::Long(number)),
            _ => None,
        };
        self.set(at, read, "a symbol");
    }

    /// A point in time in microseconds UTC.
    pub fn moment(&mut self, at: usize, micros: Option<i64>) {
        let read = |wanted: &Wanted, text: &mut String| match (&wanted.kind, &wanted.time) {
            (FieldKind::String, _) => Some(written(&utc(micros?)?, text)),
            (_, Some(_)) => micros.map(Cell::Long),
            _ => None,
        };
        self.set(at, read, "a time");
    }

    /// A point in time that is written as a number, since 1970 in UTC. What the
    /// pipeline declares of numbers must be what they are.
    pub fn counted_moment(&mut self, at: usize, count: i64, unit: Unit) {
        let read = |wanted: &Wanted, text: &mut String| match (&wanted.kind, &wanted.time) {
            (FieldKind::String, _) => Some(written(&utc(unit.micros(count)?)?, text)),
            (_, Some(time)) if time.contradicts(Some(unit)) => None,
            (_, Some(_)) => unit.micros(count).map(Cell::Long),
            _ => number(wanted, count),
        };
        let what = match unit {
            Unit::Milliseconds => "a time in milliseconds by its schema",
            Unit::Microseconds => "a time in microseconds by its schema",
            Unit::Nanoseconds => "a time in nanoseconds by its schema",
        };
        self.set(at, read, what);
    }

    /// The time on a clock somewhere, since its 1970; where that is the
    /// pipeline says.
    pub fn local_moment(&mut self, at: usize, count: i64, unit: Unit) {
        let local = unit.micros(count).and_then(DateTime::from_timestamp_micros).map(|time| time.naive_utc());
        let read = |wanted: &Wanted, text: &mut String| match (&wanted.kind, &wanted.time) {
            (FieldKind::String, _) => Some(written(&local?.format("%Y-%m-%dT%H:%M:%S%.6f").to_string(), text)),
            (_, Some(time)) if time.contradicts(Some(unit)) => None,
            (_, Some(time)) => time.local(local?).map(Cell::Long),
            _ => number(wanted, count),
        };
        let what = match unit {
            Unit::Milliseconds => "a local time in milliseconds by its schema",
            Unit::Microseconds => "a local time in microseconds by its schema",
            Unit::Nanoseconds => "a local time in nanoseconds by its schema",
        };
        self.set(at, read, what);
    }

    /// A span of time, such as that since midnight: a number, and a point in
    /// time for a pipeline only that declares just such numbers.
    pub fn span(&mut self, at: usize, count: i64, unit: Unit) {
        let read = |wanted: &Wanted, _: &mut String| match &wanted.time {
            Some(time) if time.counts(unit) => unit.micros(count).map(Cell::Long),
            _ => number(wanted, count),
        };
        let what = match unit {
            Unit::Milliseconds => "a span in milliseconds by its schema",
            Unit::Microseconds => "a span in microseconds by its schema",
            Unit::Nanoseconds => "a span in nanoseconds by its schema",
        };
        self.set(at, read, what);
    }

    /// A day, by its distance from 1970-01-01.
    pub fn date(&mut self, at: usize, days: i64) {
        let day = i32::try_from(days)
            .ok()
            .and_then(|days| NaiveDate::default().checked_add_signed(chrono::TimeDelta::days(days.into())));
        let read = |wanted: &Wanted, text: &mut String| match (&wanted.kind, &wanted.time) {
            (FieldKind::String, _) => Some(written(&day?.to_string(), text)),
            (_, Some(time)) if time.contradicts(None) => None,
            (_, Some(time)) => time.local(day?.and_hms_opt(0, 0, 0)?).map(Cell::Long),
            _ => number(wanted, days),
        };
        self.set(at, read, "a day by its schema");
    }

    /// A number by its digits.
    pub fn decimal(&mut self, at: usize, digits: &str) {
        let read = |wanted: &Wanted, text: &mut String| match wanted.kind {
            FieldKind::String => Some(written(digits, text)),
            FieldKind::Double => digits.parse().ok().map(Cell::Double),
            FieldKind::Long => {
                let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
                let whole = whole.parse().ok().map(Cell::Long);
                whole.filter(|_| fraction.bytes().all(|digit| digit == b'0'))
            }
            _ => None,
        };
        self.set(at, read, "a decimal");
    }

    /// Something that no field can hold.
    pub fn other(&mut self, at: usize, what: &str) {
        self.set(at, |_, _| None, what);
    }
}

/// A whole number as such.
fn number(wanted: &Wanted, value: i64) -> Option<Cell> {
    match wanted.kind {
        FieldKind::Long => Some(Cell::Long(value)),
        FieldKind::Double => Some(Cell::Double(value as f64)),
        _ => None,
    }
}

/// The text of a point in time in microseconds.
fn utc(micros: i64) -> Option<String> {
    let time = DateTime::from_timestamp_micros(micros)?;
    Some(time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
}

fn written(value: &str, text: &mut String) -> Cell {
    let from = text.len();
    text.push_str(value);
    Cell::Text(from, text.len())
}
