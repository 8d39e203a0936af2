//! The engine's laws, on real files in temporary folders.

mod bad_input;
mod changed;
#[cfg(feature = "faults")]
mod faults;
mod project;
mod runs;
mod shards;
#[cfg(feature = "faults")]
mod stream_faults;
mod streams;
