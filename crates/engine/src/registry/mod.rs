//! Models by name, version and alias, with the history of every alias.
//!
//! Words as in MLflow: an *experiment* holds *runs* (metrics, parameters, tags);
//! a run makes a *logged model*; a *registered model* has numbered *versions*,
//! each an immutable artifact identified by its SHA-256; an *alias* is a movable
//! pointer to one version. The *alias log* is append-only: its *valid time* says
//! since when a version was the one, its *system time* when that was written.
//!
//! Roles: [`Registry`] is the seam; [`EmbeddedRegistry`] keeps rows in
//! `registry.db` (SQLite) and files in `artifacts/SHA256/`. [`alias_log`]
//! decides moves and rollbacks from the log alone.
//!
//! Guarantees of the embedded registry:
//! - Files are on disk, synced, before a row names them: there is never a row
//!   without its artifact. An artifact without a row is harmless.
//! - A change is one transaction: a version, its metrics and its alias appear
//!   together; an alias moves from one version to the next with nothing between.
//! - The valid times of an alias strictly increase, whatever the clock does.
//! - The bytes that `load_artifact` returns are the bytes whose SHA-256 was
//!   checked.
//! - Rollback undoes the last move that was not undone yet; a second rollback
//!   goes further back. To take a rollback back, promote.

mod alias_log;
mod artifacts;
mod database;
mod embedded;
mod queries;
mod records;
mod schema;

use std::fmt;

use insightera_infer::Artifact;

use crate::Result;
use crate::config::Selector;

pub use embedded::{EmbeddedRegistry, RegistryOptions};
pub use records::{
    AliasAction, AliasChange, AliasMove, ModelDetails, ModelSummary, Registered, Registration, ResolvedModel,
    VersionDetails,
};

/// The alias that a pipeline uses when it names none.
pub const PRODUCTION: &str = "production";

/// A model registry. Calls block on files or the network; asynchronous callers
/// run them on a blocking thread.
pub trait Registry: Send + Sync + fmt::Debug {
    /// Adds a version, and the model if it is new.
    ///
    /// # Errors
    /// `Invalid` for a bad name, alias, tag or file name; `Unavailable` when the
    /// registry is locked or cannot be written.
    fn register(&self, new: Registration) -> Result<Registered>;

    /// All models, sorted by name.
    ///
    /// # Errors
    /// `Unavailable` or `Data` when the registry cannot be read.
    fn models(&self) -> Result<Vec<ModelSummary>>;

    /// One model with all its versions.
    ///
    /// # Errors
    /// `NotFound` with the nearest name.
    fn model(&self, name: &str) -> Result<ModelDetails>;

    /// The version that `selector` means now.
    ///
    /// # Errors
    /// `NotFound` when the model, the alias or the version does not exist.
    fn resolve(&self, name: &str, selector: &Selector) -> Result<ResolvedModel>;

    /// The files of a version, verified.
    ///
    /// # Errors
    /// `Data` with the name of the file that is missing or differs.
    fn load_artifact(&self, model: &ResolvedModel) -> Result<Artifact>;

    /// Sets a tag of a version, whatever it was before.
    ///
    /// # Errors
    /// `NotFound` when the model or the version does not exist, `Invalid` for a
    /// bad key.
    fn tag_version(&self, name: &str, version: u64, key: &str, value: &str) -> Result<()>;

    /// Points `alias` to `version`; nothing changes if it does already.
    ///
    /// # Errors
    /// `NotFound` when the model or the version does not exist.
    fn promote(&self, name: &str, version: u64, alias: &str) -> Result<AliasMove>;

    /// Points `alias` to the version it had before its last move that was not
    /// undone yet.
    ///
    /// # Errors
    /// `NotFound` when the model or the alias does not exist, `Invalid` when
    /// there is nothing to go back to.
    fn rollback(&self, name: &str, alias: &str) -> Result<AliasMove>;

    /// What `alias` pointed to, oldest first; the last entry is open.
    ///
    /// # Errors
    /// `NotFound` when the model does not exist or never had the alias.
    fn history(&self, name: &str, alias: &str) -> Result<Vec<AliasChange>>;

    /// The version that `alias` pointed to at a valid time, in microseconds
    /// since the epoch; `None` before its first move.
    ///
    /// # Errors
    /// As [`Registry::history`].
    fn production_at(&self, name: &str, alias: &str, micros: i64) -> Result<Option<u64>> {
        let history = self.history(name, alias)?;
        Ok(history.iter().find(|change| change.contains(micros)).map(|change| change.version))
    }
}

#[cfg(test)]
mod tests;
