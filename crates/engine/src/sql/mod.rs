//! SQL over the lake: sessions, tables at a point in time, current views.

mod asof;
mod error;
mod feature_views;
mod functions;
mod metadata_tables;
mod query;
mod run;
mod session;
mod statement;
mod tokens;
mod transformer;
mod travel;
mod widened;

pub(crate) use asof::AsOfJoin;
pub(crate) use error::plan_error;
pub(crate) use feature_views::{COMMITTED, FeatureViewTable, Past, STATUS, instant};
pub use query::{QueryResult, check_feature_view, query};
pub(crate) use query::{put, show_time};
pub use run::Shell;
pub use session::session;
pub(crate) use session::{modest_session, physical_expression, single_threaded_session};
pub use transformer::load_model;
pub(crate) use travel::parse;
pub(crate) use travel::snapshot_at;
pub use travel::snapshot_of_version;
