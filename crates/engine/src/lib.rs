//! The engine of Insightera: the lake, the registry, and the runs that score
//! features into prediction tables.

pub mod config;
mod error;
pub mod key;
pub mod lake;
pub mod registry;

pub use error::{Error, Result};
