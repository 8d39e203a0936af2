//! The fuzzing engine.

pub use libfuzzer_sys::*;
