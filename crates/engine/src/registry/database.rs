//! The SQLite file: opening, migrating, transactions, and what its errors mean.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};

use super::schema::{APPLICATION_ID, MIGRATIONS, latest};
use crate::{Error, Result};

/// An open registry database with the current schema.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    connection: Mutex<Connection>,
}

/// Why a transaction failed: for SQLite, or for us.
#[derive(Debug)]
pub(super) enum Failure {
    /// SQLite's reason.
    Sqlite(rusqlite::Error),
    /// Ours.
    Ours(Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

impl Database {
    /// Opens `path`; makes it if `create`. `now` is written as the time of
    /// migrations.
    pub(super) fn open(path: &Path, create: bool, busy_timeout: Duration, now: i64) -> Result<Self> {
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        if create {
            flags |= OpenFlags::SQLITE_OPEN_CREATE;
        }
        let open = || -> Result<Connection, Failure> {
            let mut connection = Connection::open_with_flags(path, flags)?;
            prepare(&connection, path, busy_timeout)?;
            migrate(&mut connection, path, now)?;
            Ok(connection)
        };
        match open() {
            Ok(connection) => Ok(Self { path: path.to_owned(), connection: Mutex::new(connection) }),
            Err(failure) => Err(explain(path, failure)),
        }
    }

    /// Runs `query` on one consistent state.
    pub(super) fn read<T>(&self, query: impl FnOnce(&Connection) -> Result<T, Failure>) -> Result<T> {
        self.transaction(TransactionBehavior::Deferred, |transaction| query(transaction))
    }

    /// Runs `change` as the only writer; it happens as a whole or not at all.
    pub(super) fn write<T>(&self, change: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>) -> Result<T> {
        self.transaction(TransactionBehavior::Immediate, change)
    }

    fn transaction<T>(
        &self,
        behavior: TransactionBehavior,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T> {
        let mut connection = self.lock();
        let run = || -> Result<T, Failure> {
            let transaction = connection.transaction_with_behavior(behavior)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|failure| explain(&self.path, failure))
    }

    /// A panic inside a transaction rolled it back: the connection is sound.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `synchronous = EXTRA` is FULL plus a sync of the folder after the journal is
/// removed: without it, a power loss can undo a commit that was confirmed.
fn prepare(connection: &Connection, path: &Path, busy_timeout: Duration) -> Result<(), Failure> {
    connection.busy_timeout(busy_timeout)?;
    // In this order: tables and mark appear in one commit of whoever migrates.
    let has_tables: bool = connection.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_master)", [], |row| row.get(0))?;
    let application: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    if has_tables && application != APPLICATION_ID {
        let message = format!("`{}` is an SQLite database, but not a model registry", path.display());
        return Err(Error::data(message).hint("set [registry] path to another folder").into());
    }
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get(0))?;
    if !mode.eq_ignore_ascii_case("delete") {
        let message = format!("the model registry `{}` is used by another process in `{mode}` mode", path.display());
        return Err(Error::unavailable(message).hint("close the other program").into());
    }
    connection.pragma_update(None, "synchronous", "EXTRA")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(())
}

/// Brings the schema up to date; a current one is only read.
fn migrate(connection: &mut Connection, path: &Path, now: i64) -> Result<(), Failure> {
    let found = schema_version(connection)?;
    if found > latest() {
        let message = format!(
            "the model registry `{}` has schema {found}, this version of insightera knows up to {}",
            path.display(),
            latest()
        );
        return Err(Error::invalid(message).hint("it was written by a newer insightera: use that version").into());
    }
    if found == latest() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have migrated while this one waited for the lock.
    let found = schema_version(&transaction)?;
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > found) {
        if migration.version == 1 {
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.execute_batch(
                "CREATE TABLE schema_migrations (
                    version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at INTEGER NOT NULL
                ) STRICT",
            )?;
        }
        transaction.execute_batch(migration.sql)?;
        transaction.execute(
            "INSERT INTO schema_migrations (version, name, applied_at) VALUES (?1, ?2, ?3)",
            (migration.version, migration.name, now),
        )?;
    }
    transaction.commit()?;
    Ok(())
}

fn schema_version(connection: &Connection) -> Result<i64, Failure> {
    let exists = connection
        .query_row("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_migrations'", [], |_| Ok(()))
        .optional()?;
    if exists.is_none() {
        return Ok(0);
    }
    Ok(connection.query_row("SELECT COALESCE(MAX(version), 0) FROM schema_migrations", [], |row| row.get(0))?)
}

/// What a failure means for the user.
pub(super) fn explain(path: &Path, failure: Failure) -> Error {
    let error = match failure {
        Failure::Ours(error) => return error,
        Failure::Sqlite(error) => error,
    };
    let path = path.display();
    let explained = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Error::unavailable(format!("the model registry `{path}` is locked by another process"))
                .hint("try again when the other command has finished")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            Error::invalid(format!("the model registry `{path}` cannot be written"))
                .hint("give this user the permission to write the file and its folder")
        }
        Some(ErrorCode::CannotOpen) => Error::unavailable(format!("the model registry `{path}` cannot be opened"))
            .hint("check that the file and its folder can be read and written by this user"),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            Error::data(format!("the model registry `{path}` is damaged"))
                .hint("restore the file from a backup; the files of the models are next to it in `artifacts`")
        }
        Some(ErrorCode::DiskFull) => {
            Error::unavailable(format!("the model registry `{path}` cannot grow: the disk is full")).hint("make room")
        }
        Some(ErrorCode::SystemIoFailure | ErrorCode::FileLockingProtocolFailed) => {
            Error::unavailable(format!("the model registry `{path}` cannot be read or written"))
        }
        _ => Error::internal(format!("the model registry `{path}` failed")),
    };
    explained.cause(error)
}
