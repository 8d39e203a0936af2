//! The statements. Every function works inside the caller's transaction.

use std::collections::BTreeMap;

use insightera_core::closest;
use rusqlite::{Connection, OptionalExtension, Row};
use uuid::Uuid;

use super::PRODUCTION;
use super::alias_log::LogEntry;
use super::artifacts::StoredFile;
use super::database::Failure;
use super::records::{AliasAction, ModelSummary, Registration, VersionDetails};
use crate::Error;

/// The experiment of runs that name none; MLflow's id for it is 0.
const DEFAULT_EXPERIMENT: &str = "Default";

/// Fails with the nearest name unless the model exists.
pub(super) fn require_model(connection: &Connection, name: &str) -> Result<(), Failure> {
    let found =
        connection.query_row("SELECT 1 FROM registered_models WHERE name = ?1", [name], |_| Ok(())).optional()?;
    if found.is_some() {
        return Ok(());
    }
    let mut statement = connection.prepare("SELECT name FROM registered_models ORDER BY name")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    let error = Error::not_found(format!("there is no model `{}`", name.escape_debug()));
    let near = closest(name, names.iter().map(String::as_str));
    Err(Failure::Ours(match near {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None if names.is_empty() => error.hint("no model is registered yet: run `insightera model register`"),
        None => error.hint("run `insightera model list` to see the models"),
    }))
}

/// Fails with the list of versions unless this one exists.
pub(super) fn require_version(connection: &Connection, name: &str, version: u64) -> Result<(), Failure> {
    let versions = version_numbers(connection, name)?;
    if versions.contains(&version) {
        return Ok(());
    }
    let error = Error::not_found(format!("model `{name}` has no version {version}"));
    let listed = match versions.as_slice() {
        [] => return Err(Failure::Ours(error)),
        [only] => format!("its only version is {only}"),
        [first, .., last] if versions.len() > 20 => format!("its versions are {first} to {last}"),
        all => format!("its versions are {}", all.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
    };
    Err(Failure::Ours(error.hint(listed)))
}

/// The error of an alias that the model does not have.
pub(super) fn no_alias(connection: &Connection, name: &str, alias: &str) -> Result<Error, Failure> {
    let error = Error::not_found(format!("model `{name}` has no alias `{}`", alias.escape_debug()));
    let aliases = aliases(connection, name)?;
    if let Some(near) = closest(alias, aliases.keys().map(String::as_str)) {
        return Ok(error.hint(format!("did you mean `{near}`?")));
    }
    let version = version_numbers(connection, name)?.last().map_or("VERSION".to_owned(), u64::to_string);
    let flag = if alias == PRODUCTION { String::new() } else { format!(" --alias {alias}") };
    Ok(error.hint(format!("run `insightera model promote {name} {version}{flag}` to set it")))
}

fn version_numbers(connection: &Connection, name: &str) -> Result<Vec<u64>, Failure> {
    let mut statement = connection.prepare("SELECT version FROM model_versions WHERE name = ?1 ORDER BY version")?;
    let versions = statement.query_map([name], |row| unsigned(row, 0))?.collect::<Result<Vec<_>, _>>()?;
    Ok(versions)
}

/// What the aliases of a model point to.
pub(super) fn aliases(connection: &Connection, name: &str) -> Result<BTreeMap<String, u64>, Failure> {
    let mut statement = connection.prepare("SELECT alias, version FROM registered_model_aliases WHERE name = ?1")?;
    let aliases = statement.query_map([name], |row| Ok((row.get(0)?, unsigned(row, 1)?)))?.collect::<Result<_, _>>()?;
    Ok(aliases)
}

/// What an alias points to.
pub(super) fn alias(connection: &Connection, name: &str, alias: &str) -> Result<Option<u64>, Failure> {
    Ok(connection
        .query_row(
            "SELECT version FROM registered_model_aliases WHERE name = ?1 AND alias = ?2",
            (name, alias),
            |row| unsigned(row, 0),
        )
        .optional()?)
}

/// The log of an alias, oldest first.
pub(super) fn alias_log(connection: &Connection, name: &str, alias: &str) -> Result<Vec<LogEntry>, Failure> {
    let mut statement = connection.prepare(
        "SELECT version, action, valid_from, system_time FROM alias_log
         WHERE name = ?1 AND alias = ?2 ORDER BY entry",
    )?;
    let rows = statement
        .query_map((name, alias), |row| Ok((unsigned(row, 0)?, row.get::<_, String>(1)?, row.get(2)?, row.get(3)?)))?;
    let mut log = Vec::new();
    for row in rows {
        let (version, word, valid_from, system_time) = row?;
        let Some(action) = AliasAction::from_word(&word) else {
            let message = format!("the log of the alias `{alias}` of model `{name}` has the unknown action `{word}`");
            return Err(Error::data(message).into());
        };
        log.push(LogEntry { version, valid_from, system_time, action });
    }
    Ok(log)
}

/// Moves an alias and writes its log.
pub(super) fn move_alias(connection: &Connection, name: &str, alias: &str, entry: &LogEntry) -> Result<(), Failure> {
    let version = signed(entry.version)?;
    connection.execute(
        "INSERT INTO alias_log (name, alias, version, action, valid_from, system_time) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (name, alias, version, entry.action.as_str(), entry.valid_from, entry.system_time),
    )?;
    connection.execute(
        "INSERT INTO registered_model_aliases (name, alias, version) VALUES (?1, ?2, ?3)
         ON CONFLICT (name, alias) DO UPDATE SET version = excluded.version",
        (name, alias, version),
    )?;
    touch(connection, name, entry.system_time)
}

fn touch(connection: &Connection, name: &str, now: i64) -> Result<(), Failure> {
    connection.execute("UPDATE registered_models SET last_update_time = ?2 WHERE name = ?1", (name, now))?;
    Ok(())
}

/// The highest version of a model with this artifact.
pub(super) fn version_of_artifact(connection: &Connection, name: &str, sha256: &str) -> Result<Option<u64>, Failure> {
    let version: Option<i64> = connection.query_row(
        "SELECT MAX(v.version) FROM model_versions v JOIN logged_models l USING (model_id)
         WHERE v.name = ?1 AND l.artifact_sha256 = ?2",
        (name, sha256),
        |row| row.get(0),
    )?;
    version.map(|version| u64::try_from(version).map_err(|_| corrupt(name))).transpose()
}

/// The artifact of a version that exists.
pub(super) fn artifact_of_version(connection: &Connection, name: &str, version: u64) -> Result<String, Failure> {
    Ok(connection.query_row(
        "SELECT l.artifact_sha256 FROM model_versions v JOIN logged_models l USING (model_id)
         WHERE v.name = ?1 AND v.version = ?2",
        (name, signed(version)?),
        |row| row.get(0),
    )?)
}

/// The files of an artifact; none if it is not known.
pub(super) fn artifact_files(connection: &Connection, sha256: &str) -> Result<Vec<StoredFile>, Failure> {
    let mut statement =
        connection.prepare("SELECT path, bytes, file_sha256 FROM artifact_files WHERE sha256 = ?1 ORDER BY path")?;
    let files = statement
        .query_map([sha256], |row| Ok(StoredFile { path: row.get(0)?, bytes: unsigned(row, 1)?, sha256: row.get(2)? }))?
        .collect::<Result<_, _>>()?;
    Ok(files)
}

/// Writes the rows of a new version and returns its number. The artifact's
/// files are on disk already.
pub(super) fn insert_version(
    connection: &Connection,
    new: &Registration,
    sha256: &str,
    files: &[StoredFile],
    now: i64,
) -> Result<u64, Failure> {
    insert_artifact(connection, sha256, files, now)?;
    let run_id = insert_run(connection, new, now)?;
    let model_id = format!("m-{}", Uuid::new_v4().simple());
    connection.execute(
        "INSERT INTO logged_models
             (model_id, source_run_id, name, model_type, signature, artifact_sha256, status, creation_time)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'READY', ?7)",
        (
            &model_id,
            &run_id,
            &new.name,
            &new.model_type,
            new.signature.as_ref().map(serde_json::Value::to_string),
            sha256,
            now,
        ),
    )?;
    connection.execute(
        "INSERT INTO registered_models (name, creation_time, last_update_time) VALUES (?1, ?2, ?2)
         ON CONFLICT (name) DO UPDATE SET last_update_time = excluded.last_update_time",
        (&new.name, now),
    )?;
    let version: i64 = connection.query_row(
        "INSERT INTO model_versions (name, version, model_id, description, creation_time)
         VALUES (?1, (SELECT COALESCE(MAX(version), 0) + 1 FROM model_versions WHERE name = ?1), ?2, ?3, ?4)
         RETURNING version",
        (&new.name, &model_id, &new.description, now),
        |row| row.get(0),
    )?;
    for (key, value) in &new.tags {
        connection.execute(
            "INSERT INTO model_version_tags (name, version, key, value) VALUES (?1, ?2, ?3, ?4)",
            (&new.name, version, key, value),
        )?;
    }
    u64::try_from(version).map_err(|_| corrupt(&new.name))
}

fn insert_artifact(connection: &Connection, sha256: &str, files: &[StoredFile], now: i64) -> Result<(), Failure> {
    let bytes = signed(files.iter().map(|file| file.bytes).sum())?;
    let added = connection.execute(
        "INSERT INTO artifacts (sha256, bytes, creation_time) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        (sha256, bytes, now),
    )?;
    for file in files.iter().filter(|_| added == 1) {
        connection.execute(
            "INSERT INTO artifact_files (sha256, path, bytes, file_sha256) VALUES (?1, ?2, ?3, ?4)",
            (sha256, &file.path, signed(file.bytes)?, &file.sha256),
        )?;
    }
    Ok(())
}

/// The run that made a version, with its metrics and parameters.
fn insert_run(connection: &Connection, new: &Registration, now: i64) -> Result<String, Failure> {
    let experiment = experiment_id(connection, new.experiment.as_deref().unwrap_or(DEFAULT_EXPERIMENT), now)?;
    let run_id = Uuid::new_v4().simple().to_string();
    connection.execute(
        "INSERT INTO runs (run_id, experiment_id, name, status, start_time, end_time)
         VALUES (?1, ?2, ?3, 'FINISHED', ?4, ?4)",
        (&run_id, experiment, format!("register {}", new.name), now),
    )?;
    for (key, value) in &new.metrics {
        connection.execute(
            "INSERT INTO metrics (run_id, key, timestamp, value, is_nan) VALUES (?1, ?2, ?3, ?4, ?5)",
            (&run_id, key, now, (!value.is_nan()).then_some(*value), value.is_nan()),
        )?;
    }
    for (key, value) in &new.params {
        connection.execute("INSERT INTO params (run_id, key, value) VALUES (?1, ?2, ?3)", (&run_id, key, value))?;
    }
    Ok(run_id)
}

fn experiment_id(connection: &Connection, name: &str, now: i64) -> Result<String, Failure> {
    let found = connection
        .query_row("SELECT experiment_id FROM experiments WHERE name = ?1", [name], |row| row.get(0))
        .optional()?;
    if let Some(id) = found {
        return Ok(id);
    }
    let next: i64 = connection.query_row(
        "SELECT COALESCE(MAX(CAST(experiment_id AS INTEGER)), 0) + 1 FROM experiments",
        [],
        |row| row.get(0),
    )?;
    let id = if name == DEFAULT_EXPERIMENT { "0".to_owned() } else { next.to_string() };
    connection.execute(
        "INSERT INTO experiments (experiment_id, name, creation_time, last_update_time) VALUES (?1, ?2, ?3, ?3)",
        (&id, name, now),
    )?;
    Ok(id)
}

/// All models, sorted by name.
pub(super) fn summaries(connection: &Connection) -> Result<Vec<ModelSummary>, Failure> {
    let mut statement = connection.prepare(
        "SELECT m.name, COUNT(v.version), COALESCE(MAX(v.version), 0), m.creation_time, m.last_update_time
         FROM registered_models m LEFT JOIN model_versions v USING (name) GROUP BY m.name ORDER BY m.name",
    )?;
    let mut models = statement
        .query_map([], |row| {
            Ok(ModelSummary {
                name: row.get(0)?,
                versions: unsigned(row, 1)?,
                latest_version: unsigned(row, 2)?,
                aliases: BTreeMap::new(),
                created_micros: row.get(3)?,
                updated_micros: row.get(4)?,
            })
        })?
        .collect::<Result<Vec<_>, _>>()?;
    for model in &mut models {
        model.aliases = aliases(connection, &model.name)?;
    }
    Ok(models)
}

/// When a model was made and last changed.
pub(super) fn model_times(connection: &Connection, name: &str) -> Result<(i64, i64), Failure> {
    Ok(connection.query_row(
        "SELECT creation_time, last_update_time FROM registered_models WHERE name = ?1",
        [name],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?)
}

/// The versions of a model, oldest first; aliases are left empty.
pub(super) fn versions(connection: &Connection, name: &str) -> Result<Vec<VersionDetails>, Failure> {
    let mut statement = connection.prepare(
        "SELECT v.version, l.artifact_sha256, a.bytes, v.creation_time, v.description,
                l.source_run_id, e.name, l.model_type, l.signature
         FROM model_versions v
         JOIN logged_models l USING (model_id)
         JOIN artifacts a ON a.sha256 = l.artifact_sha256
         JOIN runs r ON r.run_id = l.source_run_id
         JOIN experiments e USING (experiment_id)
         WHERE v.name = ?1 ORDER BY v.version",
    )?;
    let rows = statement.query_map([name], |row| {
        let details = VersionDetails {
            version: unsigned(row, 0)?,
            sha256: row.get(1)?,
            bytes: unsigned(row, 2)?,
            files: BTreeMap::new(),
            created_micros: row.get(3)?,
            description: row.get(4)?,
            tags: BTreeMap::new(),
            run_id: row.get(5)?,
            experiment: row.get(6)?,
            metrics: BTreeMap::new(),
            params: BTreeMap::new(),
            model_type: row.get(7)?,
            signature: None,
            aliases: Vec::new(),
        };
        Ok((details, row.get::<_, Option<String>>(8)?))
    })?;
    let mut versions = Vec::new();
    for row in rows {
        let (mut details, signature) = row?;
        details.signature = match signature.map(|text| serde_json::from_str(&text)).transpose() {
            Ok(signature) => signature,
            Err(error) => {
                let message = format!("the signature of version {} of model `{name}` is not JSON", details.version);
                return Err(Error::data(message).cause(error).into());
            }
        };
        details.files =
            artifact_files(connection, &details.sha256)?.into_iter().map(|file| (file.path, file.bytes)).collect();
        details.tags = version_tags(connection, name, details.version)?;
        details.metrics = metrics(connection, &details.run_id)?;
        details.params = params(connection, &details.run_id)?;
        versions.push(details);
    }
    Ok(versions)
}

/// Sets a tag of a version that exists.
pub(super) fn tag_version(
    connection: &Connection,
    name: &str,
    version: u64,
    key: &str,
    value: &str,
) -> Result<(), Failure> {
    connection.execute(
        "INSERT INTO model_version_tags (name, version, key, value) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (name, version, key) DO UPDATE SET value = excluded.value",
        (name, signed(version)?, key, value),
    )?;
    Ok(())
}

fn version_tags(connection: &Connection, name: &str, version: u64) -> Result<BTreeMap<String, String>, Failure> {
    let mut statement =
        connection.prepare_cached("SELECT key, value FROM model_version_tags WHERE name = ?1 AND version = ?2")?;
    let rows = statement.query_map((name, signed(version)?), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The last value of each metric.
fn metrics(connection: &Connection, run_id: &str) -> Result<BTreeMap<String, f64>, Failure> {
    let mut statement =
        connection.prepare_cached("SELECT key, value FROM metrics WHERE run_id = ?1 ORDER BY step, timestamp")?;
    let rows =
        statement.query_map([run_id], |row| Ok((row.get(0)?, row.get::<_, Option<f64>>(1)?.unwrap_or(f64::NAN))))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn params(connection: &Connection, run_id: &str) -> Result<BTreeMap<String, String>, Failure> {
    let mut statement = connection.prepare_cached("SELECT key, value FROM params WHERE run_id = ?1")?;
    let rows = statement.query_map([run_id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// SQLite's integers are signed.
fn unsigned(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(index)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(index, value))
}

fn signed(value: u64) -> Result<i64, Failure> {
    i64::try_from(value).map_err(|_| Failure::Ours(Error::invalid(format!("the number {value} is too large"))))
}

fn corrupt(name: &str) -> Failure {
    Failure::Ours(Error::data(format!("model `{name}` has a negative version number")))
}
