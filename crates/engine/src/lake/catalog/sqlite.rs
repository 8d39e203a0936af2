//! The SQLite catalog, in the layout that PyIceberg and Java's JDBC catalog
//! read and write: `iceberg_tables` and `iceberg_namespace_properties`.
//!
//! One connection per operation with `journal_mode=DELETE`, `synchronous=FULL`
//! and a busy timeout, because foreign processes write the same file.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};

use super::{Catalog, FORMAT, FORMAT_PROPERTY, Loaded, Next, Swap, check_format};
use crate::lake::durable;
use crate::lake::faults::{self, Bug, Stage};
use crate::lake::table::{Table, TableName};
use crate::{Error, Result};

/// A SQLite catalog file.
#[derive(Debug, Clone)]
pub struct SqliteCatalog {
    path: PathBuf,
    name: String,
    busy_timeout: Duration,
}

impl SqliteCatalog {
    /// Opens the catalog at `path`, creating file and tables when missing.
    ///
    /// # Errors
    /// When the file is not a SQLite database, is locked for longer than
    /// `busy_timeout`, or its folder cannot be written.
    pub fn create(path: &Path, name: &str, busy_timeout: Duration) -> Result<Self> {
        let catalog = Self { path: path.to_owned(), name: name.to_owned(), busy_timeout };
        if !path.exists() {
            if let Some(parent) = path.parent() {
                durable::create_dirs(parent)?;
            }
            let connection = catalog.connect(true)?;
            let sql = "CREATE TABLE IF NOT EXISTS iceberg_tables (
                    catalog_name VARCHAR(255) NOT NULL, table_namespace VARCHAR(255) NOT NULL,
                    table_name VARCHAR(255) NOT NULL, metadata_location VARCHAR(1000),
                    previous_metadata_location VARCHAR(1000), iceberg_type VARCHAR(5),
                    PRIMARY KEY (catalog_name, table_namespace, table_name));
                CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (
                    catalog_name VARCHAR(255) NOT NULL, namespace VARCHAR(255) NOT NULL,
                    property_key VARCHAR(255) NOT NULL, property_value VARCHAR(1000) NOT NULL,
                    PRIMARY KEY (catalog_name, namespace, property_key));";
            connection.execute_batch(sql).map_err(|e| catalog.sql_error("create", e))?;
            drop(connection);
            durable::sync_parent(path)?;
        }
        catalog.check_formats()?;
        Ok(catalog)
    }

    /// Opens the catalog at `path`, which must exist.
    ///
    /// # Errors
    /// When it does not, cannot be read, or a newer Insightera wrote it.
    pub fn open(path: &Path, name: &str, busy_timeout: Duration) -> Result<Self> {
        if !path.exists() {
            return Err(Error::not_found(format!("there is no catalog at `{}`", path.display())).hint(
                "create the project with `insightera init DIR`, or correct `[catalog] path` in insightera.toml",
            ));
        }
        let catalog = Self { path: path.to_owned(), name: name.to_owned(), busy_timeout };
        catalog.check_formats()?;
        Ok(catalog)
    }

    fn connect(&self, create: bool) -> Result<Connection> {
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        if create {
            flags |= OpenFlags::SQLITE_OPEN_CREATE;
        }
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(self.busy_timeout)?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
            if mode != "delete" {
                connection.pragma_update(None, "journal_mode", "DELETE")?;
            }
            Ok(connection)
        };
        open().map_err(|e| self.sql_error("open", e))
    }

    fn sql_error(&self, action: &str, error: rusqlite::Error) -> Error {
        let path = self.path.display();
        let code = error.sqlite_error_code();
        match code {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => Error::unavailable(
                format!("the catalog `{path}` is locked by another process"),
            )
            .hint(format!(
                "it stayed locked for {} s; find the process that holds it (`fuser {path}`), or try again later",
                self.busy_timeout.as_secs_f64()
            ))
            .cause(error),
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
                Error::data(format!("`{path}` is not a SQLite catalog, or is damaged"))
                    .hint("restore it from a backup; the tables themselves are in the warehouse folder")
                    .cause(error)
            }
            Some(
                rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::CannotOpen | rusqlite::ErrorCode::PermissionDenied,
            ) => Error::invalid(format!("cannot {action} the catalog `{path}`: {error}"))
                .hint("give this user write access to the warehouse folder and its files")
                .cause(error),
            Some(rusqlite::ErrorCode::DiskFull) => {
                Error::unavailable(format!("the disk of the catalog `{path}` is full"))
                    .hint("free disk space and run again; nothing was committed")
                    .cause(error)
            }
            _ => Error::unavailable(format!("cannot {action} the catalog `{path}`: {error}")).cause(error),
        }
    }

    fn check_formats(&self) -> Result<()> {
        for (namespace, properties) in self.namespaces()? {
            if let Some(value) = properties.get(FORMAT_PROPERTY) {
                check_format(&namespace, value)?;
            }
        }
        Ok(())
    }

    fn change(&self, act: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<usize>) -> Swap {
        let mut connection = match self.connect(false) {
            Ok(connection) => connection,
            Err(error) => return Swap::Unknown(error),
        };
        let outcome = faults::step(Stage::Swap, "commit", &self.path, || {
            Ok((|| -> rusqlite::Result<usize> {
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let rows = act(&transaction)?;
                transaction.commit()?;
                Ok(rows)
            })())
        });
        match outcome {
            Ok(Ok(0)) => Swap::Conflict,
            Ok(Ok(_)) => Swap::Done(None),
            Ok(Err(error)) => Swap::Unknown(self.sql_error("write", error)),
            Err(error) => Swap::Unknown(durable::io_error("write", &self.path, error)),
        }
    }
}

impl Catalog for SqliteCatalog {
    fn namespaces(&self) -> Result<BTreeMap<String, HashMap<String, String>>> {
        let connection = self.connect(false)?;
        let read = || -> rusqlite::Result<BTreeMap<String, HashMap<String, String>>> {
            let mut found: BTreeMap<String, HashMap<String, String>> = BTreeMap::new();
            let mut statement = connection.prepare(
                "SELECT namespace, property_key, property_value FROM iceberg_namespace_properties
                 WHERE catalog_name = ?1
                 UNION ALL SELECT table_namespace, NULL, NULL FROM iceberg_tables WHERE catalog_name = ?1",
            )?;
            let mut rows = statement.query(params![self.name])?;
            while let Some(row) = rows.next()? {
                let properties = found.entry(row.get(0)?).or_default();
                if let (Some(key), Some(value)) = (row.get(1)?, row.get(2)?) {
                    properties.insert(key, value);
                }
            }
            Ok(found)
        };
        read().map_err(|e| self.sql_error("read", e))
    }

    /// Whether a namespace was made, or holds a table.
    fn has_namespace(&self, namespace: &str) -> Result<bool> {
        let connection = self.connect(false)?;
        let sql =
            "SELECT (SELECT count(*) FROM iceberg_namespace_properties WHERE catalog_name = ?1 AND namespace = ?2)
             + (SELECT count(*) FROM iceberg_tables WHERE catalog_name = ?1 AND table_namespace = ?2)";
        let count: rusqlite::Result<i64> = connection.query_row(sql, params![self.name, namespace], |row| row.get(0));
        count.map(|n| n > 0).map_err(|e| self.sql_error("read", e))
    }

    /// Creates a namespace if it is missing. One that was made elsewhere gets
    /// the format property.
    fn ensure_namespace(&self, namespace: &str) -> Result<()> {
        let mut connection = self.connect(false)?;
        let mut act = || -> rusqlite::Result<()> {
            let known: i64 = connection.query_row(
                "SELECT count(*) FROM iceberg_namespace_properties
                 WHERE catalog_name = ?1 AND namespace = ?2 AND property_key IN ('exists', ?3)",
                params![self.name, namespace, FORMAT_PROPERTY],
                |row| row.get(0),
            )?;
            if known >= 2 {
                return Ok(());
            }
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for (key, value) in [("exists", "true".to_owned()), (FORMAT_PROPERTY, FORMAT.to_string())] {
                transaction.execute(
                    "INSERT OR IGNORE INTO iceberg_namespace_properties
                     (catalog_name, namespace, property_key, property_value) VALUES (?1, ?2, ?3, ?4)",
                    params![self.name, namespace, key, value],
                )?;
            }
            transaction.commit()
        };
        act().map_err(|e| self.sql_error("write", e))
    }

    /// All tables, sorted.
    fn tables(&self) -> Result<Vec<TableName>> {
        let connection = self.connect(false)?;
        let read = || -> rusqlite::Result<Vec<TableName>> {
            connection
                .prepare(
                    "SELECT table_namespace, table_name FROM iceberg_tables WHERE catalog_name = ?1
                     AND metadata_location IS NOT NULL ORDER BY table_namespace, table_name",
                )?
                .query_map(params![self.name], |row| Ok(TableName { namespace: row.get(0)?, name: row.get(1)? }))?
                .collect()
        };
        read().map_err(|e| self.sql_error("read", e))
    }

    fn load(&self, table: &TableName) -> Result<Option<Loaded>> {
        let connection = self.connect(false)?;
        let location = connection
            .query_row(
                "SELECT metadata_location FROM iceberg_tables
                 WHERE catalog_name = ?1 AND table_namespace = ?2 AND table_name = ?3",
                params![self.name, table.namespace, table.name],
                |row| row.get::<_, Option<String>>(0),
            )
            .optional()
            .map_err(|e| self.sql_error("read", e))?
            .flatten();
        Ok(location.map(|location| Loaded { location, metadata: None, properties: HashMap::new() }))
    }

    fn create(&self, table: &TableName, next: Next<'_>) -> Swap {
        self.change(|transaction| {
            transaction.execute(
                "INSERT OR IGNORE INTO iceberg_tables
                 (catalog_name, table_namespace, table_name, metadata_location, iceberg_type)
                 VALUES (?1, ?2, ?3, ?4, 'TABLE')",
                params![self.name, table.namespace, table.name, next.location],
            )
        })
    }

    fn swap(&self, base: &Table, next: Next<'_>) -> Swap {
        let compare = if faults::bug(Bug::BlindSwap) { "" } else { "AND metadata_location = ?2" };
        let sql = format!(
            "UPDATE iceberg_tables SET metadata_location = ?1, previous_metadata_location = ?2
             WHERE catalog_name = ?3 AND table_namespace = ?4 AND table_name = ?5 {compare}"
        );
        let (old, table) = (base.metadata_location(), base.name());
        self.change(|transaction| {
            transaction.execute(&sql, params![next.location, old, self.name, table.namespace, table.name])
        })
    }

    fn rename(&self, from: &TableName, to: &TableName) -> Swap {
        self.change(|transaction| {
            transaction.execute(
                "UPDATE OR IGNORE iceberg_tables SET table_namespace = ?1, table_name = ?2
                 WHERE catalog_name = ?3 AND table_namespace = ?4 AND table_name = ?5",
                params![to.namespace, to.name, self.name, from.namespace, from.name],
            )
        })
    }

    fn drop_table(&self, table: &TableName) -> Result<bool> {
        let dropped = self.change(|transaction| {
            transaction.execute(
                "DELETE FROM iceberg_tables WHERE catalog_name = ?1 AND table_namespace = ?2 AND table_name = ?3",
                params![self.name, table.namespace, table.name],
            )
        });
        match dropped {
            Swap::Done(_) => Ok(true),
            Swap::Conflict => Ok(false),
            Swap::Unknown(error) | Swap::Refused(error) => Err(error),
        }
    }
}
