//! The PostgreSQL catalog, in the layout that PyIceberg's `SqlCatalog` and
//! Java's JDBC catalog read and write.
//!
//! Each change is one statement, committed by itself, with
//! `synchronous_commit` on. An error that the server tells is known not to
//! have changed anything; a connection that ends while a change is on its way
//! leaves the outcome unknown.

mod tls;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use insightera_core::ErrorKind;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Row};

use super::{Catalog, FORMAT, FORMAT_PROPERTY, Loaded, Next, Swap, check_format};
use crate::lake::faults::{self, Bug, Stage};
use crate::lake::table::{Table, TableName};
use crate::network::wait;
use crate::{Error, Result};

/// A change that has no answer after this is of unknown outcome.
const TIMEOUT: Duration = Duration::from_secs(60);

type Parameters = Vec<String>;

/// Tables of a PostgreSQL database.
pub struct PostgresCatalog {
    config: Config,
    name: String,
    shown: String,
    client: Mutex<Option<Arc<Client>>>,
}

impl fmt::Debug for PostgresCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostgresCatalog").field(&self.shown).finish()
    }
}

/// Why a statement has no rows.
enum Failure {
    /// The server said so: nothing was done.
    Told(Error),
    /// It cannot be known.
    Lost(Error),
}

impl Failure {
    fn error(self) -> Error {
        match self {
            Self::Told(error) | Self::Lost(error) => error,
        }
    }
}

impl PostgresCatalog {
    /// Opens the catalog `name` in the database at `uri`, `postgresql://user@host/database`.
    /// Its tables are made when they are missing, as PyIceberg does.
    ///
    /// # Errors
    /// When the address is wrong, the server cannot be reached or refuses, or a
    /// newer Insightera wrote the catalog.
    pub fn open(uri: &str, password: Option<String>, name: &str) -> Result<Self> {
        let wrong = |e: tokio_postgres::Error| {
            Error::invalid(format!("`uri` of [catalog] is not the address of a PostgreSQL database: {e}"))
                .hint("write `postgresql://user@host:5432/database`, and the password as `password = \"env:NAME\"`")
        };
        // SQLAlchemy's spelling names a driver.
        let plain = match uri.split_once("://") {
            Some((scheme, rest)) if scheme.starts_with("postgresql+") => format!("postgresql://{rest}"),
            _ => uri.to_owned(),
        };
        let mut config: Config = plain.parse().map_err(wrong)?;
        if let Some(password) = password {
            config.password(password);
        }
        config.connect_timeout(Duration::from_secs(10)).application_name("insightera").keepalives(true);
        let host = config.get_hosts().first().map(|host| match host {
            tokio_postgres::config::Host::Tcp(host) => host.clone(),
            #[cfg(unix)]
            tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
        });
        let shown =
            format!("{}/{}", host.unwrap_or_default(), config.get_dbname().or(config.get_user()).unwrap_or_default());
        let catalog = Self { config, name: name.to_owned(), shown, client: Mutex::default() };
        let namespaces = match catalog.namespaces() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                catalog.make_tables()?;
                catalog.namespaces()?
            }
            other => other?,
        };
        for (namespace, properties) in namespaces {
            if let Some(value) = properties.get(FORMAT_PROPERTY) {
                check_format(&namespace, value)?;
            }
        }
        Ok(catalog)
    }

    fn make_tables(&self) -> Result<()> {
        let sql = [
            "CREATE TABLE IF NOT EXISTS iceberg_tables (
                catalog_name VARCHAR(255) NOT NULL, table_namespace VARCHAR(255) NOT NULL,
                table_name VARCHAR(255) NOT NULL, metadata_location VARCHAR(1000),
                previous_metadata_location VARCHAR(1000), iceberg_type VARCHAR(5),
                PRIMARY KEY (catalog_name, table_namespace, table_name))",
            "CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (
                catalog_name VARCHAR(255) NOT NULL, namespace VARCHAR(255) NOT NULL,
                property_key VARCHAR(255) NOT NULL, property_value VARCHAR(1000) NOT NULL,
                PRIMARY KEY (catalog_name, namespace, property_key))",
        ];
        for statement in sql {
            match self.execute(statement, vec![]) {
                Ok(_) => {}
                // Two that make it at once collide in the server's own tables.
                Err(failure) if self.execute(statement, vec![]).is_err() => return Err(failure.error()),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn connected(&self) -> Result<Arc<Client>> {
        let mut kept = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let config = self.config.clone();
        let connect = async move {
            let (client, connection) = config.connect(tls::connector()?).await.map_err(Connect::Server)?;
            tokio::spawn(async move {
                // Whoever waits for an answer is told when the connection ends.
                let _ = connection.await;
            });
            client.batch_execute("SET synchronous_commit TO on").await.map_err(Connect::Server)?;
            Ok(client)
        };
        let client = wait(connect)?.map_err(|e: Connect| match e {
            Connect::Server(error) => self.error("open", error),
            Connect::Tls(error) => error,
        })?;
        let client = Arc::new(client);
        *kept = Some(client.clone());
        Ok(client)
    }

    fn error(&self, action: &str, error: tokio_postgres::Error) -> Error {
        let text = error.as_db_error().map_or_else(|| error.to_string(), |told| told.message().to_owned());
        let message = format!("cannot {action} the catalog `{}`: {text}", self.shown);
        match error.code() {
            Some(code)
                if [
                    SqlState::INVALID_PASSWORD,
                    SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                    SqlState::INVALID_CATALOG_NAME,
                    SqlState::INSUFFICIENT_PRIVILEGE,
                ]
                .contains(code) =>
            {
                Error::invalid(message)
                    .hint("correct `uri` and `password` of [catalog], or the user's rights")
                    .cause(error)
            }
            Some(code) if *code == SqlState::UNDEFINED_TABLE => Error::not_found(message)
                .hint("somebody took the catalog's tables away; or correct `uri` of [catalog]")
                .cause(error),
            None if message.contains("certificate") => Error::invalid(message)
                .hint(
                    "name the server's certificate in SSL_CERT_FILE, or write `?sslmode=disable` behind the address \
                     if the network can be trusted",
                )
                .cause(error),
            _ => Error::unavailable(message).cause(error),
        }
    }

    fn ask(&self, sql: &str, parameters: Parameters) -> std::result::Result<(u64, Vec<Row>), Failure> {
        let client = self.connected().map_err(Failure::Told)?;
        let (sql, asked) = (sql.to_owned(), client.clone());
        let request = async move {
            let values: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|p| p as &(dyn ToSql + Sync)).collect();
            let statement = async {
                if sql.trim_start().starts_with("SELECT") {
                    asked.query(sql.as_str(), &values).await.map(|rows| (rows.len() as u64, rows))
                } else {
                    asked.execute(sql.as_str(), &values).await.map(|count| (count, Vec::new()))
                }
            };
            tokio::time::timeout(TIMEOUT, statement).await
        };
        match wait(request).map_err(Failure::Lost)? {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let told = error.as_db_error().is_some() && !ends_unknown(error.code());
                let error = self.error("use", error);
                Err(if told { Failure::Told(error) } else { Failure::Lost(error) })
            }
            Err(_) => {
                // The next one gets a connection of its own.
                self.client.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(Failure::Lost(Error::unavailable(format!(
                    "the catalog `{}` has not answered within {} s",
                    self.shown,
                    TIMEOUT.as_secs()
                ))))
            }
        }
    }

    /// Reads; a connection that was closed meanwhile is opened again.
    fn read(&self, sql: &str, parameters: Parameters) -> Result<Vec<Row>> {
        match self.ask(sql, parameters.clone()) {
            Ok((_, rows)) => Ok(rows),
            Err(Failure::Told(error)) => Err(error),
            Err(Failure::Lost(_)) => self.ask(sql, parameters).map(|(_, rows)| rows).map_err(Failure::error),
        }
    }

    fn execute(&self, sql: &str, parameters: Parameters) -> std::result::Result<u64, Failure> {
        self.ask(sql, parameters).map(|(count, _)| count)
    }

    /// One statement that changes the entry of a table.
    fn change(&self, sql: &str, parameters: Parameters) -> Swap {
        // A connection that is found closed here has had no part in it.
        if let Err(error) = self.connected() {
            return Swap::Unknown(error);
        }
        let place = Path::new(&self.shown);
        match faults::step(Stage::Swap, "commit", place, || Ok(self.execute(sql, parameters))) {
            Ok(Ok(0)) => Swap::Conflict,
            Ok(Ok(_)) => Swap::Done(None),
            Ok(Err(Failure::Told(error))) if error.retryable() => Swap::Unknown(error),
            Ok(Err(Failure::Told(error))) => Swap::Refused(error),
            Ok(Err(Failure::Lost(error))) => Swap::Unknown(error),
            Err(error) => Swap::Unknown(Error::unavailable(format!("cannot write the catalog: {error}")).cause(error)),
        }
    }

    fn with_name(&self, parameters: &[&str]) -> Parameters {
        std::iter::once(self.name.as_str()).chain(parameters.iter().copied()).map(str::to_owned).collect()
    }
}

enum Connect {
    Tls(Error),
    Server(tokio_postgres::Error),
}

impl From<Error> for Connect {
    fn from(error: Error) -> Self {
        Self::Tls(error)
    }
}

/// Errors with which the server says that it does not know the outcome, or
/// ends the connection.
fn ends_unknown(code: Option<&SqlState>) -> bool {
    code.is_none_or(|code| code.code().starts_with("08") || code.code().starts_with("57") || code.code() == "40003")
}

impl Catalog for PostgresCatalog {
    fn namespaces(&self) -> Result<BTreeMap<String, HashMap<String, String>>> {
        let mut found: BTreeMap<String, HashMap<String, String>> = BTreeMap::new();
        let rows = self.read(
            "SELECT namespace, property_key, property_value FROM iceberg_namespace_properties WHERE catalog_name = $1
             UNION ALL SELECT table_namespace, NULL, NULL FROM iceberg_tables WHERE catalog_name = $1",
            self.with_name(&[]),
        )?;
        for row in rows {
            let properties = found.entry(row.get(0)).or_default();
            if let (Some(key), Some(value)) = (row.get(1), row.get(2)) {
                properties.insert(key, value);
            }
        }
        Ok(found)
    }

    fn has_namespace(&self, namespace: &str) -> Result<bool> {
        let rows = self.read(
            "SELECT 1 FROM iceberg_namespace_properties WHERE catalog_name = $1 AND namespace = $2
             UNION ALL SELECT 1 FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 LIMIT 1",
            self.with_name(&[namespace]),
        )?;
        Ok(!rows.is_empty())
    }

    fn ensure_namespace(&self, namespace: &str) -> Result<()> {
        let format = FORMAT.to_string();
        for (key, value) in [("exists", "true"), (FORMAT_PROPERTY, format.as_str())] {
            let sql = "INSERT INTO iceberg_namespace_properties (catalog_name, namespace, property_key, property_value)
                 VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
            // What is there already is left alone, so that it can be said twice.
            let parameters = self.with_name(&[namespace, key, value]);
            match self.execute(sql, parameters.clone()) {
                Err(Failure::Lost(_)) => self.execute(sql, parameters).map(drop).map_err(Failure::error)?,
                other => other.map(drop).map_err(Failure::error)?,
            }
        }
        Ok(())
    }

    fn tables(&self) -> Result<Vec<TableName>> {
        let rows = self.read(
            "SELECT table_namespace, table_name FROM iceberg_tables
             WHERE catalog_name = $1 AND metadata_location IS NOT NULL",
            self.with_name(&[]),
        )?;
        let mut names: Vec<TableName> =
            rows.iter().map(|row| TableName { namespace: row.get(0), name: row.get(1) }).collect();
        names.sort();
        Ok(names)
    }

    fn load(&self, table: &TableName) -> Result<Option<Loaded>> {
        let rows = self.read(
            "SELECT metadata_location FROM iceberg_tables
             WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3",
            self.with_name(&[&table.namespace, &table.name]),
        )?;
        let location: Option<String> = rows.first().and_then(|row| row.get(0));
        Ok(location.map(|location| Loaded { location, metadata: None, properties: HashMap::new() }))
    }

    fn create(&self, table: &TableName, next: Next<'_>) -> Swap {
        self.change(
            "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type)
             VALUES ($1, $2, $3, $4, 'TABLE') ON CONFLICT DO NOTHING",
            self.with_name(&[&table.namespace, &table.name, next.location]),
        )
    }

    fn swap(&self, base: &Table, next: Next<'_>) -> Swap {
        let compare = if faults::bug(Bug::BlindSwap) { "OR TRUE" } else { "" };
        let sql = format!(
            "UPDATE iceberg_tables SET metadata_location = $4, previous_metadata_location = $5
             WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3
             AND (metadata_location = $5 {compare})"
        );
        let (old, table) = (base.metadata_location(), base.name());
        self.change(&sql, self.with_name(&[&table.namespace, &table.name, next.location, old]))
    }

    fn rename(&self, from: &TableName, to: &TableName) -> Swap {
        self.change(
            "UPDATE iceberg_tables SET table_namespace = $4, table_name = $5
             WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3 AND NOT EXISTS (
                 SELECT 1 FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $4 AND table_name = $5)",
            self.with_name(&[&from.namespace, &from.name, &to.namespace, &to.name]),
        )
    }

    fn drop_table(&self, table: &TableName) -> Result<bool> {
        let dropped = self.change(
            "DELETE FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3",
            self.with_name(&[&table.namespace, &table.name]),
        );
        match dropped {
            Swap::Done(_) => Ok(true),
            Swap::Conflict => Ok(false),
            Swap::Unknown(error) | Swap::Refused(error) => Err(error),
        }
    }
}
