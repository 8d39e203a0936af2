//! The engine of Insightera: the lake, the registry, SQL, and the runs that
//! score features into prediction tables.

mod background;
pub mod config;
pub mod erase;
pub mod features;
pub mod lake;
mod memory;
mod network;
pub mod notify;
pub mod registry;
pub mod score;
pub mod sql;
pub mod stream;
mod webhook;
mod workspace;

pub use insightera_core::{Error, Result};
pub use insightera_entities::key;
pub use workspace::{BUSY_TIMEOUT, Workspace};
