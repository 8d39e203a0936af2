//! SQL over the lake: sessions, tables at a point in time, current views.

mod error;
mod metadata_tables;
mod query;
mod session;
mod travel;

pub(crate) use error::plan_error;
pub(crate) use query::put;
pub use query::{QueryResult, query};
pub use session::session;
pub(crate) use session::single_threaded_session;
pub(crate) use travel::parse;
