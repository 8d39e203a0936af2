//! `[catalog]` of `insightera.toml`: where table pointers live.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::notifiers::Secret;
use super::section::Section;
use super::settings::local_path;
use crate::Result;
use crate::lake::catalog::CATALOG_NAME;
use crate::lake::storage::check_location;

/// Where table pointers live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CatalogSettings {
    /// An SQLite file with the tables of Iceberg's SQL catalog.
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// The name of the catalog in it.
        name: String,
    },
    /// A PostgreSQL database with the tables of Iceberg's SQL catalog.
    Postgres(PostgresSettings),
    /// An Iceberg REST catalog.
    Rest(RestSettings),
    /// A Hive Metastore.
    Hive(HiveSettings),
}

/// A Hive Metastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HiveSettings {
    /// Its servers, `host:port`; the next is asked where one is away.
    pub servers: Vec<String>,
    /// Where databases that are made get their folders; by default the
    /// warehouse of the tables.
    pub warehouse: Option<String>,
    /// Who the server is told is calling, and whose tables new ones are.
    pub user: Option<String>,
    /// Whether the server's lock of a table is taken for a commit.
    pub lock: bool,
}

/// A PostgreSQL database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PostgresSettings {
    /// `postgresql://user@host:port/database`.
    pub uri: Secret,
    /// The password, where the address has none.
    pub password: Option<Secret>,
    /// The name of the catalog in it.
    pub name: String,
}

/// An Iceberg REST catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestSettings {
    /// The server's address, without `/v1`.
    pub uri: String,
    /// Which of the server's warehouses.
    pub warehouse: Option<String>,
    /// A bearer token.
    pub token: Option<Secret>,
    /// `client-id:client-secret`, for which a token is fetched.
    pub credential: Option<Secret>,
    /// Where tokens are fetched; by default from the server itself.
    pub oauth2_uri: Option<String>,
    /// What tokens are for; by default `catalog`.
    pub scope: Option<String>,
    /// Whether the server is asked for the credentials of tables' files.
    pub vended: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    Sqlite,
    Postgres,
    Rest,
    Hive,
}

/// The keys of every kind.
pub(super) const KEYS: &[&str] = &[
    "kind",
    "path",
    "name",
    "uri",
    "password",
    "warehouse",
    "token",
    "credential",
    "oauth2_uri",
    "scope",
    "vended_credentials",
    "user",
    "lock",
];
const SQLITE_KEYS: &[&str] = &["kind", "path", "name"];
const POSTGRES_KEYS: &[&str] = &["kind", "uri", "password", "name"];
const REST_KEYS: &[&str] =
    &["kind", "uri", "warehouse", "token", "credential", "oauth2_uri", "scope", "vended_credentials"];

const HIVE_KEYS: &[&str] = &["kind", "uri", "warehouse", "user", "lock"];
/// The port of a metastore that names none.
const HIVE_PORT: u16 = 9083;

impl CatalogSettings {
    /// The SQLite file below the project folder that is there without a word.
    pub(super) fn built_in() -> Self {
        Self::Sqlite { path: "warehouse/catalog.db".into(), name: CATALOG_NAME.to_owned() }
    }

    /// With the path of a file from the project folder.
    pub(super) fn in_project(self, dir: &Path) -> Self {
        match self {
            Self::Sqlite { path, name } => Self::Sqlite { path: dir.join(path), name },
            other => other,
        }
    }

    /// The catalog's file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Sqlite { path, .. } => Some(path),
            Self::Postgres(_) | Self::Rest(_) | Self::Hive(_) => None,
        }
    }

    pub(super) fn read(section: &Section<'_>) -> Result<Self> {
        let kinds =
            [("sqlite", Kind::Sqlite), ("postgres", Kind::Postgres), ("rest", Kind::Rest), ("hive", Kind::Hive)];
        let name = || -> Result<String> {
            Ok(section.text("name")?.map_or_else(|| CATALOG_NAME.to_owned(), |name| name.value.to_owned()))
        };
        match section.choice("kind", &kinds, &[])?.unwrap_or(Kind::Sqlite) {
            Kind::Sqlite => {
                section.allow(SQLITE_KEYS, &[])?;
                let path = local_path(section, "path")?.unwrap_or_else(|| "warehouse/catalog.db".into());
                Ok(Self::Sqlite { path, name: name()? })
            }
            Kind::Postgres => {
                section.allow(POSTGRES_KEYS, &[])?;
                let uri = section.required_text("uri")?;
                let address = uri.value.starts_with("postgres") && uri.value.contains("://");
                if !address && !uri.value.starts_with("env:") {
                    return Err(section
                        .error(&uri.span, "`uri` is not the address of a PostgreSQL database")
                        .hint("write `postgresql://user@host:5432/database`, or `env:NAME`"));
                }
                // A password in the file would be read by whoever reads the file.
                let userinfo =
                    uri.value.split_once("://").and_then(|(_, rest)| rest.split_once('@')).map(|(user, _)| user);
                if address && userinfo.is_some_and(|user| user.contains(':')) {
                    return Err(section.error(&uri.span, "`uri` holds a password").hint(
                        "leave it out and write `password = \"env:NAME\"`, or the whole as `uri = \"env:NAME\"`",
                    ));
                }
                Ok(Self::Postgres(PostgresSettings {
                    uri: Secret::new(uri.value),
                    password: secret(section, "password")?,
                    name: name()?,
                }))
            }
            Kind::Hive => {
                section.allow(HIVE_KEYS, &[])?;
                let text =
                    |key: &str| -> Result<Option<String>> { Ok(section.text(key)?.map(|text| text.value.to_owned())) };
                let uri = section.required_text("uri")?;
                let servers = hive_servers(uri.value).map_err(|wrong| {
                    section
                        .error(&uri.span, format!("`uri` does not name a Hive Metastore: {wrong}"))
                        .hint("write `thrift://host:9083`, several with commas between")
                })?;
                let warehouse = section.text("warehouse")?;
                if let Some(found) = &warehouse {
                    check_location(found.value).map_err(|e| section.error(&found.span, e.to_string()))?;
                }
                Ok(Self::Hive(HiveSettings {
                    servers,
                    warehouse: warehouse.map(|found| found.value.to_owned()),
                    user: text("user")?,
                    lock: section.boolean("lock")?.unwrap_or(true),
                }))
            }
            Kind::Rest => {
                section.allow(REST_KEYS, &[])?;
                let text =
                    |key: &str| -> Result<Option<String>> { Ok(section.text(key)?.map(|text| text.value.to_owned())) };
                let web = |key: &str| -> Result<Option<String>> {
                    let Some(found) = section.text(key)? else { return Ok(None) };
                    if !found.value.starts_with("http://") && !found.value.starts_with("https://") {
                        return Err(section
                            .error(&found.span, format!("`{key}` is no address of the web"))
                            .hint("write `https://…`"));
                    }
                    Ok(Some(found.value.to_owned()))
                };
                let vended = section.boolean("vended_credentials")?.unwrap_or(false);
                Ok(Self::Rest(RestSettings {
                    uri: web("uri")?.ok_or_else(|| section.missing("uri"))?,
                    warehouse: text("warehouse")?,
                    token: secret(section, "token")?,
                    credential: secret(section, "credential")?,
                    oauth2_uri: web("oauth2_uri")?,
                    scope: text("scope")?,
                    vended,
                }))
            }
        }
    }
}

/// `host:port` of every server, or what is wrong.
fn hive_servers(uri: &str) -> Result<Vec<String>, String> {
    let server = |part: &str| {
        let address = part.trim().strip_prefix("thrift://").map(|rest| rest.trim_end_matches('/'));
        let address = address.ok_or_else(|| format!("`{}` does not begin with `thrift://`", part.trim()))?;
        let (host, port) = match address.rsplit_once(':') {
            // The colons of an address of IPv6 are inside of brackets.
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse::<u16>().map_err(|_| format!("`{port}` is no port"))?)
            }
            _ => (address, HIVE_PORT),
        };
        if host.is_empty() || host.contains(['/', '@', '?']) {
            return Err(format!("`{}` is no host and port", part.trim()));
        }
        Ok(format!("{host}:{port}"))
    };
    uri.split(',').map(server).collect()
}

/// The key of a secret: its place in the environment, never itself.
pub(super) fn secret(section: &Section<'_>, key: &str) -> Result<Option<Secret>> {
    let Some(found) = section.text(key)? else { return Ok(None) };
    if found.value.strip_prefix("env:").is_none_or(str::is_empty) {
        // Its own line would show the secret.
        return Err(section
            .error_here(format!("`{key}` is not a reference to the environment"))
            .hint(format!("put the secret into the environment and write `{key} = \"env:NAME\"`")));
    }
    Ok(Some(Secret::new(found.value)))
}
