//! The engine's laws, on real files in temporary folders.

mod bad_input;
#[cfg(feature = "faults")]
mod cadence;
mod catalogs;
mod changed;
mod erased_streams;
mod erasures;
#[cfg(feature = "faults")]
mod faults;
#[cfg(feature = "faults")]
mod letters;
mod point_in_time;
mod project;
mod reading;
mod replay;
mod runs;
#[cfg(feature = "faults")]
mod sequences;
mod shards;
#[cfg(feature = "faults")]
mod simulations;
#[cfg(feature = "faults")]
mod stream_faults;
mod streams;
