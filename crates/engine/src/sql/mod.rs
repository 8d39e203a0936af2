//! SQL over the lake: sessions, tables at a point in time, current views.

mod error;
mod functions;
mod metadata_tables;
mod query;
mod run;
mod session;
mod statement;
mod tokens;
mod transformer;
mod travel;

pub(crate) use error::plan_error;
pub(crate) use query::put;
pub use query::{QueryResult, query};
pub use run::Shell;
pub use session::session;
pub(crate) use session::{physical_expression, single_threaded_session};
pub use transformer::load_model;
pub(crate) use travel::parse;
pub use travel::snapshot_of_version;
