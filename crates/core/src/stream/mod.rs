//! Event-time windows, watermarks and keyed state of a stream.
mod aggregate;
mod blobs;
mod checkpoint;
mod codec;
mod distinct;
mod each_event;
mod error;
mod group;
mod hash;
mod input;
mod keyed;
mod on_close;
mod output;
mod plan;
mod quantile;
mod seed;
mod settings;
#[cfg(test)]
mod tests;
mod tiles;
mod watermark;

pub use distinct::DistinctSketch;
pub use each_event::{Coverage, EachEvent};
pub use error::{CheckpointError, StreamError};
pub use input::{Batch, Bits, Column, Key, Keys, Strings, Values};
pub use on_close::{OnClose, close};
pub use output::{ClosedRows, Disposition, EventOutput, OutColumn, OutValues, SetOutput, Value};
pub use plan::Plan;
pub use quantile::QuantileSketch;
pub use seed::{NewKey, Part, Seed};
pub use settings::{Aggregate, ColumnType, Function, KeyType, LatePolicy, Settings, Window, WindowSet};
pub use watermark::Watermarks;
