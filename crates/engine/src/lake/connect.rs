//! From settings to a lake.

use std::sync::Arc;
use std::time::Duration;

use insightera_core::Clock;

use super::catalog::Catalog;
use super::catalog::hive::HiveCatalog;
use super::catalog::postgres::PostgresCatalog;
use super::catalog::rest::RestCatalog;
use super::catalog::sqlite::SqliteCatalog;
use super::storage::{self, Storage};
use super::{Lake, durable};
use crate::Result;
use crate::config::{CatalogSettings, Settings};

/// The lake that the settings describe; with `create`, catalog and folder are
/// made when they are missing. `busy_timeout` is how long another process may
/// hold a catalog file.
///
/// # Errors
/// When the catalog is missing, cannot be reached, read or written, or a newer
/// Insightera wrote the warehouse.
pub fn connect(settings: &Settings, busy_timeout: Duration, clock: Arc<dyn Clock>, create: bool) -> Result<Lake> {
    let location = &settings.storage.warehouse;
    let warehouse = match storage::is_local(location) {
        true => {
            let folder = storage::local_path(location);
            if create {
                durable::create_dirs(&folder)?;
            }
            format!("file://{}", folder.display())
        }
        false => location.clone(),
    };
    let catalog: Arc<dyn Catalog> = match &settings.catalog {
        CatalogSettings::Sqlite { path, name } if create => Arc::new(SqliteCatalog::create(path, name, busy_timeout)?),
        CatalogSettings::Sqlite { path, name } => Arc::new(SqliteCatalog::open(path, name, busy_timeout)?),
        CatalogSettings::Postgres(settings) => {
            let uri = settings.uri.reveal("`uri` of [catalog]")?;
            let password = settings.password.as_ref().map(|p| p.reveal("`password` of [catalog]")).transpose()?;
            Arc::new(PostgresCatalog::open(&uri, password, &settings.name)?)
        }
        CatalogSettings::Hive(settings) => Arc::new(HiveCatalog::open(settings, &warehouse)?),
        CatalogSettings::Rest(settings) => Arc::new(RestCatalog::open(settings)?),
    };
    Ok(Lake::new(catalog, Storage::new(settings.storage.stores.clone()), warehouse, clock))
}
