//! Batch runs: plan → run → verify.
//!
//! Words: a *definition* is what decides a prediction besides the features:
//! model, feature SQL, output expressions. An *input* is a table or a Parquet
//! folder, pinned when the plan is made. A *plan* says which entities may have
//! changed and why; the *feature hash* decides which are scored.
//!
//! Flow: [`prepare`](definition::prepare) resolves and checks the pipeline →
//! [`plan`] pins the inputs and finds the candidates → [`run`] executes one
//! DataFusion plan (scan → features → score → write) and makes one commit →
//! [`verify`] compares the table with the features as they are.
//!
//! Promises: one commit per run, or none; the commit carries the consumed
//! inputs, the model and the run id; a strategy never scores less than a
//! comparison of all hashes would, or it declines.

mod definition;
mod exec;
mod features;
mod inputs;
mod locality;
pub mod metrics;
mod newest;
mod output;
mod plan;
mod progress;
mod rows;
mod run;
mod shards;
mod state;
mod target;
mod timestamps;
mod verify;
mod write;

pub use definition::{AsOf, CheckReport, check};
pub(crate) use definition::{check_signature, load_model};
pub(crate) use features::reads_of;
pub use inputs::{Consumed, Inputs, Reads};
pub(crate) use locality::clock_functions;
pub use output::TableShape;
pub(crate) use output::{OutputPlan, OutputSource, refuse_clocks};
pub use plan::{Plan, Reasons, plan};
pub use progress::{Progress, progress};
pub(crate) use rows::{RowFacts, Scored, output_batch, text};
pub use run::{Maintained, Reporter, RunOptions, RunReport, RunStatus, run};
pub(crate) use state::folder as index_folder;
pub use verify::{VerifyReport, verify};
pub(crate) use write::write_rows;

/// The `inference_type` of rows that were scored as if it were another time.
pub const AS_OF: &str = "as_of";
/// The `inference_type` of rows by a model that is only watched.
pub const SHADOW: &str = "shadow";
