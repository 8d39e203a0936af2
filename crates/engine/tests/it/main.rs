//! The engine's laws, on real files in temporary folders.

mod bad_input;
mod changed;
mod project;
mod runs;
