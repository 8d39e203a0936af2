//! The engine of Insightera: the lake, the registry, SQL, and the runs that
//! score features into prediction tables.

pub mod config;
mod error;
pub mod key;
pub mod lake;
pub mod registry;
pub mod score;
pub mod sql;
pub mod stream;
mod workspace;

pub use error::{Error, Result};
pub use workspace::{BUSY_TIMEOUT, Workspace};
