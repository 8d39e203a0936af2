//! The lake: a catalog of Iceberg tables on durable storage.
//!
//! Words: a *table* is what one metadata file describes; its *snapshot* is
//! Iceberg's; the *pointer* is the catalog's record of the current metadata
//! file. Flow of a write: data files ([`writer`]) → [`commit`] → pointer swap
//! ([`catalog`]). Flow of a read: pointer → metadata → live files ([`files`])
//! → DataFusion scan ([`scan`]).
//!
//! Tables and files are behind two seams: [`catalog`] and [`storage`].
//!
//! Promises: a pointer only ever names durable files; a reader sees a commit
//! whole or not at all; no code outside [`commit`] moves a pointer; no code
//! outside [`maintain`] removes a file.

mod avro_names;
mod cache;
pub mod catalog;
pub mod changes;
pub mod commit;
mod connect;
pub mod deletes;
pub mod durable;
pub mod erase;
pub mod evolve;
pub mod faults;
pub mod files;
pub mod folder;
pub mod history;
mod keyed;
pub mod keys;
pub mod maintain;
pub mod refs;
pub mod scan;
pub mod schema;
pub mod storage;
mod table;
pub mod upsert;
pub mod writer;

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::execution::cache::DefaultFilesMetadataCache;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use iceberg::spec::{
    FormatVersion, SortOrder, TableMetadataBuilder, Transform, UnboundPartitionField, UnboundPartitionSpec,
};
use iceberg::{TableCreation, spec::Schema};
use insightera_core::{Clock, closest};

use self::cache::MetadataCache;
use self::catalog::{Catalog, Loaded};
use self::storage::Storage;
use crate::{Error, Result};
pub use connect::connect;
pub use table::{Ancestry, Table, TableName};

/// Drives a future of our own storage, which never waits for anything.
pub(crate) fn run_now<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}

/// Footers and page indexes that are kept, in bytes.
const FOOTER_BYTES: usize = 64 << 20;

/// The catalog, the storage and the clock that all tables share.
#[derive(Debug, Clone)]
pub struct Lake {
    catalog: Arc<dyn Catalog>,
    storage: Storage,
    warehouse: String,
    clock: Arc<dyn Clock>,
    metadata: MetadataCache,
    footers: Arc<dyn FileMetadataCache>,
}

/// A table to be made.
#[derive(Debug, Clone)]
pub struct NewTable {
    /// Its name.
    pub name: TableName,
    /// Its columns.
    pub columns: Vec<schema::Column>,
    /// Partition fields: source column and transform.
    pub partition_by: Vec<(String, Transform)>,
    /// Table properties.
    pub properties: HashMap<String, String>,
    /// The location of its files; by default a folder in the warehouse.
    pub location: Option<String>,
}

/// The properties every table here starts with.
pub fn default_properties() -> HashMap<String, String> {
    HashMap::from([
        ("write.format.default".into(), "parquet".into()),
        ("write.parquet.compression-codec".into(), "snappy".into()),
        ("write.metadata.compression-codec".into(), "gzip".into()),
    ])
}

impl Lake {
    /// A lake; `warehouse` is the location of new tables, where the catalog
    /// does not decide it, and of what is not a table.
    pub fn new(catalog: Arc<dyn Catalog>, storage: Storage, warehouse: String, clock: Arc<dyn Clock>) -> Self {
        let footers = Arc::new(DefaultFilesMetadataCache::new(FOOTER_BYTES));
        avro_names::use_plain_names();
        Self { catalog, storage, warehouse, clock, metadata: MetadataCache::default(), footers }
    }

    /// The catalog.
    pub fn catalog(&self) -> &dyn Catalog {
        self.catalog.as_ref()
    }

    /// Where files are that are not a table's.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The location of new tables, and of what is not a table.
    pub fn warehouse(&self) -> &str {
        &self.warehouse
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Footers of Parquet files, for the statements of this process.
    pub(crate) fn footers(&self) -> &Arc<dyn FileMetadataCache> {
        &self.footers
    }

    pub(crate) fn metadata_cache(&self) -> &MetadataCache {
        &self.metadata
    }

    /// The table, or `None` when the catalog has none of that name.
    pub fn find(&self, name: &TableName) -> Result<Option<Table>> {
        self.catalog.load(name)?.map(|loaded| self.loaded(name, loaded)).transpose()
    }

    /// The table that a catalog's answer describes.
    pub(crate) fn loaded(&self, name: &TableName, loaded: Loaded) -> Result<Table> {
        let Loaded { location, metadata, properties } = loaded;
        let storage = self.storage.with_vended(properties);
        if let Some(metadata) = metadata {
            return Ok(Table::new(name.clone(), metadata, location, storage));
        }
        if let Some(metadata) = self.metadata.get(&location) {
            return Ok(Table::new(name.clone(), metadata, location, storage));
        }
        let table = Table::load(name.clone(), location, storage)?;
        self.metadata.put(table.metadata_location(), table.metadata_ref());
        Ok(table)
    }

    /// The table.
    ///
    /// # Errors
    /// `NotFound`, with the nearest name, when the catalog has none.
    pub fn table(&self, name: &TableName) -> Result<Table> {
        if let Some(table) = self.find(name)? {
            return Ok(table);
        }
        let names: Vec<String> = self.catalog.tables()?.iter().map(ToString::to_string).collect();
        let error = Error::not_found(format!("there is no table `{name}`"));
        Err(match closest(&name.to_string(), names.iter().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("`insightera table list` shows what there is"),
        })
    }

    /// Creates a table, or returns the one that exists.
    pub fn create_table(&self, new: &NewTable) -> Result<Table> {
        match self.find(&new.name)? {
            Some(table) => Ok(table),
            None => commit::create(self, &self.draft_table(new)?),
        }
    }

    /// A table with these columns: made where there is none, and given those
    /// that it lacks.
    ///
    /// # Errors
    /// When it has one of them with another type.
    pub fn table_with(&self, new: &NewTable) -> Result<Table> {
        match self.find(&new.name)? {
            Some(table) if schema::updates(&table, &new.columns)?.is_empty() => Ok(table),
            Some(_) => commit::alter(self, &new.name, |base| schema::updates(base, &new.columns)),
            None => self.create_table(new),
        }
    }

    /// A table that is not in the catalog yet: files can be written for it,
    /// and [`commit::create`] registers it.
    pub fn draft_table(&self, new: &NewTable) -> Result<Table> {
        let schema = schema::new_schema(&new.columns)?;
        let spec = partition_spec(&new.name, &schema, &new.partition_by)?;
        let mut properties = default_properties();
        properties.extend(new.properties.clone());
        check_properties(&new.name, &mut properties)?;
        let own = || format!("{}/{}/{}", self.warehouse, new.name.namespace, new.name.name);
        let location = new.location.clone().unwrap_or_else(own);
        let creation = TableCreation::builder()
            .name(new.name.name.clone())
            .location(location)
            .schema(schema)
            .partition_spec(spec)
            .sort_order(SortOrder::unsorted_order())
            .properties(properties)
            .format_version(FormatVersion::V2)
            .build();
        let metadata = TableMetadataBuilder::from_table_creation(creation)
            .and_then(|builder| builder.build())
            .map_err(|e| Error::invalid(format!("table `{}` cannot be made: {e}", new.name)).cause(e))?
            .metadata;
        let metadata = table::dated(metadata, self.clock.now_micros().div_euclid(1000))?;
        match self.catalog.draft(new, &metadata)? {
            Some(drafted) => self.loaded(&new.name, drafted),
            None => Ok(Table::new(new.name.clone(), metadata.into(), String::new(), self.storage.clone())),
        }
    }
}

/// Refuses properties that could not be kept.
fn check_properties(name: &TableName, properties: &mut HashMap<String, String>) -> Result<()> {
    let wrong = |key: &str, value: &str, wanted: &str| {
        Error::invalid(format!("table `{name}` cannot have `{key}` = `{value}`")).hint(wanted.to_owned())
    };
    if let Some(version) = properties.remove("format-version").filter(|version| version != "2") {
        return Err(wrong("format-version", &version, "tables are written in format version 2"));
    }
    let allowed: [(&str, &[&str]); 3] = [
        ("write.format.default", &["parquet"]),
        ("write.metadata.compression-codec", &["gzip", "none"]),
        ("write.parquet.compression-codec", &["snappy", "zstd", "gzip", "lz4", "lz4_raw", "uncompressed", "none"]),
    ];
    for (key, values) in allowed {
        if let Some(value) = properties.get(key).filter(|v| !values.contains(&v.to_ascii_lowercase().as_str())) {
            return Err(wrong(key, value, &format!("use {}", values.join(", "))));
        }
    }
    Ok(())
}

fn partition_spec(name: &TableName, schema: &Schema, fields: &[(String, Transform)]) -> Result<UnboundPartitionSpec> {
    let mut builder = UnboundPartitionSpec::builder().with_spec_id(0);
    for (column, transform) in fields {
        let source = schema.field_by_name(column).ok_or_else(|| {
            let names: Vec<&str> = schema.as_struct().fields().iter().map(|f| f.name.as_str()).collect();
            let near =
                closest(column, names.iter().copied()).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            Error::invalid(format!("table `{name}` cannot be partitioned by `{column}`: it has no such column{near}"))
        })?;
        let suffix = match transform {
            Transform::Identity => String::new(),
            Transform::Day => "_day".into(),
            Transform::Month => "_month".into(),
            Transform::Year => "_year".into(),
            Transform::Hour => "_hour".into(),
            Transform::Bucket(_) => "_bucket".into(),
            Transform::Truncate(_) => "_trunc".into(),
            other => {
                return Err(Error::invalid(format!("table `{name}`: partition transform `{other}` is not supported")));
            }
        };
        builder = builder
            .add_partition_fields([UnboundPartitionField {
                source_id: source.id,
                field_id: None,
                name: format!("{column}{suffix}"),
                transform: *transform,
            }])
            .map_err(|e| Error::invalid(format!("table `{name}` cannot be partitioned by `{column}`: {e}")).cause(e))?;
    }
    Ok(builder.build())
}
