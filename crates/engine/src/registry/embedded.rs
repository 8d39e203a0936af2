//! The registry in a folder: `registry.db` and `artifacts/`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use insightera_core::{Clock, validate_name};
use insightera_infer::Artifact;
use rusqlite::Transaction;

use super::alias_log::{self, LogEntry};
use super::artifacts::{self, ArtifactFolder};
use super::database::{Database, Failure};
use super::queries;
use super::records::{
    AliasAction, AliasChange, AliasMove, ModelDetails, ModelSummary, Registered, Registration, ResolvedModel,
};
use super::{PRODUCTION, Registry};
use crate::config::Selector;
use crate::{Error, Result};

/// How a registry is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistryOptions {
    /// Whether a registry that is not there is made.
    pub create: bool,
    /// How long a call waits for another process.
    pub busy_timeout: Duration,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self { create: true, busy_timeout: Duration::from_secs(30) }
    }
}

/// A registry in a folder, shared safely by threads and processes.
#[derive(Debug)]
pub struct EmbeddedRegistry {
    database: Database,
    artifacts: ArtifactFolder,
    clock: Arc<dyn Clock>,
}

impl EmbeddedRegistry {
    /// Opens the registry in `dir`, or makes one there.
    ///
    /// # Errors
    /// `Unavailable` when it is locked, `Invalid` when the folder cannot be
    /// written or a newer version wrote it, `Data` when it is damaged.
    pub fn open(dir: &Path, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::open_with(dir, clock, RegistryOptions::default())
    }

    /// Opens the registry in `dir`.
    ///
    /// # Errors
    /// As [`EmbeddedRegistry::open`], and `NotFound` when there is none.
    pub fn open_existing(dir: &Path, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::open_with(dir, clock, RegistryOptions { create: false, ..RegistryOptions::default() })
    }

    /// Opens the registry in `dir` with `options`.
    ///
    /// # Errors
    /// As [`EmbeddedRegistry::open`] and [`EmbeddedRegistry::open_existing`].
    pub fn open_with(dir: &Path, clock: Arc<dyn Clock>, options: RegistryOptions) -> Result<Self> {
        let path = dir.join("registry.db");
        let artifacts = ArtifactFolder::new(dir.join("artifacts"));
        let size = match fs::metadata(&path) {
            Ok(file) if file.is_file() => Some(file.len()),
            Ok(_) => return Err(Error::invalid(format!("`{}` is not a file", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let message = format!("the model registry `{}` cannot be opened", path.display());
                return Err(Error::unavailable(message).cause(error));
            }
        };
        match size {
            None if !options.create => {
                let message = format!("there is no model registry in `{}`", dir.display());
                return Err(Error::not_found(message).hint("run `insightera model register` to make one"));
            }
            None => artifacts::create_folder(dir).map_err(|error| artifacts::unwritable(dir, error))?,
            // SQLite takes an empty file for a new database. One is left by a
            // crash before the first transaction, when nothing was stored yet.
            Some(0) if !options.create || !artifacts.is_empty() => {
                let message = format!("the model registry `{}` is empty", path.display());
                return Err(Error::data(message).hint("the file was truncated: restore it from a backup"));
            }
            Some(_) => {}
        }
        let database = Database::open(&path, options.create, options.busy_timeout, clock.now_micros())?;
        Ok(Self { database, artifacts, clock })
    }

    /// Writes the move that `decide` makes of the log, and checks the log.
    fn change_alias(
        &self,
        transaction: &Transaction<'_>,
        name: &str,
        alias: &str,
        decide: impl FnOnce(&[LogEntry], i64) -> Result<Option<LogEntry>, Failure>,
    ) -> Result<AliasMove, Failure> {
        let mut log = queries::alias_log(transaction, name, alias)?;
        let from = queries::alias(transaction, name, alias)?;
        let planned = decide(&log, self.clock.now_micros())?;
        let moved = planned.is_some();
        let mut to = from.unwrap_or_default();
        if let Some(entry) = planned {
            queries::move_alias(transaction, name, alias, &entry)?;
            to = entry.version;
            log.push(entry);
        }
        debug_assert_eq!(alias_log::violation(&log, queries::alias(transaction, name, alias)?), None);
        Ok(AliasMove { alias: alias.to_owned(), from, to, moved })
    }

    fn resolved(&self, name: &str, version: u64, sha256: String) -> ResolvedModel {
        let artifact_path: PathBuf = self.artifacts.path_of(&sha256);
        ResolvedModel { name: name.to_owned(), version, sha256, artifact_path }
    }
}

impl Registry for EmbeddedRegistry {
    fn register(&self, new: Registration) -> Result<Registered> {
        check(&new)?;
        let files = artifacts::describe(&new.artifact)?;
        let sha256 = new.artifact.sha256();
        // Before the rows: a crash here leaves files that nobody names.
        self.artifacts.store(&sha256, &new.artifact, &files)?;
        self.database.write(|transaction| {
            let existing = match new.if_absent {
                true => queries::version_of_artifact(transaction, &new.name, &sha256)?,
                false => None,
            };
            let version = match existing {
                Some(version) => version,
                None => queries::insert_version(transaction, &new, &sha256, &files, self.clock.now_micros())?,
            };
            let alias = match &new.alias {
                Some(alias) => Some(self.change_alias(transaction, &new.name, alias, |log, now| {
                    Ok(alias_log::plan_move(log, version, now, AliasAction::Register))
                })?),
                None => None,
            };
            Ok(Registered {
                name: new.name.clone(),
                version,
                sha256: sha256.clone(),
                reused: existing.is_some(),
                alias,
            })
        })
    }

    fn models(&self) -> Result<Vec<ModelSummary>> {
        self.database.read(queries::summaries)
    }

    fn model(&self, name: &str) -> Result<ModelDetails> {
        self.database.read(|connection| {
            queries::require_model(connection, name)?;
            let (created_micros, updated_micros) = queries::model_times(connection, name)?;
            let aliases = queries::aliases(connection, name)?;
            let mut versions = queries::versions(connection, name)?;
            for version in &mut versions {
                let pointing = aliases.iter().filter(|(_, target)| **target == version.version);
                version.aliases = pointing.map(|(alias, _)| alias.clone()).collect();
            }
            Ok(ModelDetails { name: name.to_owned(), created_micros, updated_micros, aliases, versions })
        })
    }

    fn resolve(&self, name: &str, selector: &Selector) -> Result<ResolvedModel> {
        self.database.read(|connection| {
            queries::require_model(connection, name)?;
            let version = match selector {
                Selector::Version(version) => {
                    queries::require_version(connection, name, *version)?;
                    *version
                }
                Selector::Alias(alias) => match queries::alias(connection, name, alias)? {
                    Some(version) => version,
                    None => return Err(queries::no_alias(connection, name, alias)?.into()),
                },
            };
            Ok(self.resolved(name, version, queries::artifact_of_version(connection, name, version)?))
        })
    }

    fn load_artifact(&self, model: &ResolvedModel) -> Result<Artifact> {
        let files = self.database.read(|connection| queries::artifact_files(connection, &model.sha256))?;
        let identity = format!("version {} of model `{}`", model.version, model.name);
        if files.is_empty() {
            return Err(Error::data(format!("{identity}: the artifact `{}` is not registered", model.sha256)));
        }
        let buffers = self.artifacts.load(&model.sha256, &files).map_err(|error| {
            let located = Error::new(error.kind(), format!("{identity}: {error}"));
            match error.get_hint() {
                Some(hint) => located.hint(hint.to_owned()).cause(error),
                None => located.cause(error),
            }
        })?;
        let artifact = Artifact::from_files(buffers).map_err(|e| Error::data(format!("{identity}: {e}")))?;
        if artifact.sha256() != model.sha256 {
            let message = format!("{identity}: the files do not have the registered sha256 `{}`", model.sha256);
            return Err(Error::data(message).hint("the registry was edited: register the model again"));
        }
        Ok(artifact)
    }

    fn tag_version(&self, name: &str, version: u64, key: &str, value: &str) -> Result<()> {
        check_key("tag", key)?;
        self.database.write(|transaction| {
            queries::require_model(transaction, name)?;
            queries::require_version(transaction, name, version)?;
            queries::tag_version(transaction, name, version, key, value)
        })
    }

    fn promote(&self, name: &str, version: u64, alias: &str) -> Result<AliasMove> {
        check_alias(alias)?;
        self.database.write(|transaction| {
            queries::require_model(transaction, name)?;
            queries::require_version(transaction, name, version)?;
            self.change_alias(transaction, name, alias, |log, now| {
                Ok(alias_log::plan_move(log, version, now, AliasAction::Promote))
            })
        })
    }

    fn rollback(&self, name: &str, alias: &str) -> Result<AliasMove> {
        self.database.write(|transaction| {
            queries::require_model(transaction, name)?;
            let Some(current) = queries::alias(transaction, name, alias)? else {
                return Err(queries::no_alias(transaction, name, alias)?.into());
            };
            self.change_alias(transaction, name, alias, |log, now| {
                let Some(target) = alias_log::rollback_target(log) else {
                    let message = format!("model `{name}` has no version before {current} to roll `{alias}` back to");
                    return Err(Error::invalid(message).hint(promote_hint(name, alias)).into());
                };
                Ok(alias_log::plan_move(log, target, now, AliasAction::Rollback))
            })
        })
    }

    fn history(&self, name: &str, alias: &str) -> Result<Vec<AliasChange>> {
        self.database.read(|connection| {
            queries::require_model(connection, name)?;
            let log = queries::alias_log(connection, name, alias)?;
            if log.is_empty() {
                return Err(queries::no_alias(connection, name, alias)?.into());
            }
            Ok(alias_log::history(&log))
        })
    }
}

fn promote_hint(name: &str, alias: &str) -> String {
    let flag = if alias == PRODUCTION { String::new() } else { format!(" --alias {alias}") };
    format!("run `insightera model promote {name} VERSION{flag}` to choose another version")
}

/// Refuses names that could not be shown, typed or stored.
fn check(new: &Registration) -> Result<()> {
    validate_name("model", &new.name)?;
    if let Some(alias) = &new.alias {
        check_alias(alias)?;
    }
    let keys = [
        ("metric", new.metrics.keys().collect::<Vec<_>>()),
        ("tag", new.tags.keys().collect()),
        ("parameter", new.params.keys().collect()),
        ("experiment", new.experiment.iter().collect()),
    ];
    for (what, names) in keys {
        names.into_iter().try_for_each(|name| check_key(what, name))?;
    }
    Ok(())
}

fn check_key(what: &str, name: &str) -> Result<()> {
    if name.trim().is_empty() || name.len() > 250 || name.contains(char::is_control) {
        let message = format!("`{}` is not a name for {what} of a model", name.escape_debug());
        return Err(Error::invalid(message).hint("use 1 to 250 printable characters"));
    }
    Ok(())
}

/// MLflow keeps `latest` and `v1`, `v2`, ... for itself.
fn check_alias(alias: &str) -> Result<()> {
    validate_name("model alias", alias)?;
    let lower = alias.to_ascii_lowercase();
    let numbered = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
    if lower == "latest" || numbered(&lower) || lower.strip_prefix('v').is_some_and(numbered) {
        let message = format!("`{alias}` cannot be a model alias: it reads as a version");
        return Err(Error::invalid(message).hint("choose a word, such as `production` or `challenger`"));
    }
    Ok(())
}
