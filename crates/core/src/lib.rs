//! The words and the pure decisions of Insightera: no I/O, no Arrow, no async.
//!
//! Everything here can be tested without a file system or a clock. The crates
//! above it read facts, call a function of this crate, and act on the answer.

mod clock;
mod error;
mod names;
mod run_id;
pub mod stream;

pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{Error, ErrorKind, Result};
pub use names::{InvalidName, closest, validate_name};
pub use run_id::RunId;
