//! Event-time windows, watermarks and keyed state of a stream: pure decisions,
//! no I/O, no clock.
//!
//! **Words.** An *event* has a key, an event time, an arrival time and argument
//! columns; a [`Batch`] is some events of one partition in offset order. A
//! [`WindowSet`] is one window with its aggregates, kept by one key; time is
//! cut into *tiles*, and a window is some tiles in a row. The *watermark* of a
//! partition is its newest event time minus the allowed lateness. A [`Plan`] is
//! checked [`Settings`]. State is kept by partition, and moves with it.
//!
//! **[`EachEvent`]** gives one row for each event: the values of the window
//! that holds the event and ends first, over all events of its key that have
//! arrived, itself included. A tumbling window is the one that the event is in,
//! a rolling one the last tiles up to the event's own; a late event is
//! evaluated for its own day, and later days count it from then on. An event
//! is late when it is older than its partition's watermark before it. So a row
//! is a function of the partition's events up to it: batches, interleaving and
//! restarts change nothing, to the bit, because a sum is a fold in offset order
//! within a tile and from the oldest tile to the newest. Tiles from before the
//! stream began come from a [`Seed`], or the row says `complete = false`.
//!
//! **[`OnClose`]** keeps windows until the watermark of all partitions
//! ([`Watermarks`]) has passed their end, and [`close`] gives their rows: what
//! Spark's append mode gives for `withWatermark(lateness)` and the same
//! `window`. Spark's watermark is that of a micro-batch: the newest event time
//! of all batches *before* it minus the delay, in milliseconds, not before 1970
//! and never back. At the end of a batch it emits windows with `end <=
//! watermark`, and it drops an event from each window with `end <=` the late
//! watermark: since 3.4 that of the batch before, until then the same one. So
//! what is dropped depends on how the trigger cut the stream. Here an event is
//! dropped from a window when `end <=` its own partition's watermark just
//! before the event, or when the window was emitted while the partition was
//! idle. Where no event is later than the delay both drop nothing and emit the
//! same rows. With one partition a later event is dropped here at least where
//! Spark drops it, and always the same way. With several, Spark's newest time
//! is that of the fastest partition, and it may drop the events of slower ones;
//! here a window waits for all partitions that are not idle, and when all are,
//! the greatest watermark counts, as Spark's does.
//!
//! **Nulls** as in SQL, see [`Function`]; NaN is the greatest number. **Times**
//! beyond arrival + `max_future` are refused and move nothing.
//!
//! **State.** `each_event`: a key is a row of words in one slab,
//! `8 + sum over sets of (8 + width * words * ring)` bytes, with `ring` the
//! tiles of a window and of the lateness, and `width` the bytes of the greatest
//! word of 64 rows beside each other: 1 while counts and whole sums are below
//! 256, then 2, 4 or 8; 11 to 22 bytes of the hash table; and the key's bytes
//! ([`Plan::bytes_per_key`]). For two counts over seven days with a day of
//! lateness that is 32 + 22 + key. `on_close`: for each open window
//! `8 + 8 * words` bytes and the same table and key. A distinct count takes up
//! to 2 KiB for each tile, then 4 KiB; a quantile 16 bytes for each of its bins.
//! A key whose newest tile no event can see any more is removed by a sweep that
//! advances with events. When an event could take the state beyond
//! `max_state_bytes` it is refused, and those before it are in.
//!
//! **Checkpoints** are full or hold what changed since the last one; each
//! increment names its predecessor by hash. A base and its increments restore
//! the same state, row for row.

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
mod partitions;
mod plan;
pub mod position;
mod quantile;
mod seed;
mod settings;
mod slab;
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
pub use partitions::Partitions;
pub use plan::Plan;
pub use quantile::QuantileSketch;
pub use seed::{NewKey, Part, Seed};
pub use settings::{Aggregate, ColumnType, Function, KeyType, LatePolicy, Settings, Window, WindowSet};
pub use watermark::Watermarks;
