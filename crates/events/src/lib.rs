//! Payloads of events to columns: they are walked once, and only the declared
//! fields are kept; what is noticed of events that are not what they were; and
//! rows of predictions to JSON. It is compiled for speed: every event of every
//! stream comes by here.

mod cells;
mod decode;
mod drift;
mod field;
mod json;
mod lines;
mod time;

pub use cells::{Cell, Event, Layout, Node, Walk, Wanted};
pub use decode::{Columns, Decoder, Payloads, Problem, Written};
pub use drift::{Change, Drift, News, Origin};
pub use field::{CHANGE_COLUMNS, CHANGE_TIMESTAMP, FieldKind, FieldSettings, TimeFormat};
pub use json::Scalar;
pub use lines::{Lines, lines};
pub use time::Unit;
