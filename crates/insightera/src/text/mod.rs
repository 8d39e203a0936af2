//! Values as text: rows as aligned columns, JSON or CSV; numbers, sizes and
//! times for people.

mod cells;
mod numbers;
mod rows;

pub use cells::{columns, csv};
pub use numbers::{bytes, count, instant, seconds};
pub use rows::{batches_csv, batches_json, batches_table};
