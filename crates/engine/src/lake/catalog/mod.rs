//! Catalogs: what namespaces and tables there are, and where each table's
//! pointer stands.
//!
//! Words: a *pointer* is the catalog's record of a table's current metadata; a
//! *swap* moves it from the base that a change was decided on to the next
//! state, or not at all. Two kinds: those that keep the place of a metadata
//! file which the commit layer has written ([`sqlite`], [`postgres`], [`hive`]), and
//! those whose server keeps and writes metadata itself ([`rest`]).
//!
//! Promises, which the commit layer builds on:
//! - a swap compares with its base and moves the pointer in one step;
//! - what is not known for certain is [`Swap::Unknown`], never a guess;
//! - no method but [`Catalog::create`], [`Catalog::swap`], [`Catalog::rename`]
//!   and [`Catalog::drop_table`] changes a table's entry, and none removes a file;
//! - a namespace of a newer warehouse format is refused: by SQL catalogs when
//!   they are opened, by others when the namespace is first used.

pub mod hive;
pub mod postgres;
pub mod rest;
pub mod sqlite;

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use iceberg::TableUpdate;
use iceberg::spec::{TableMetadata, TableMetadataRef};

use super::NewTable;
use super::table::{Table, TableName};
use crate::{Error, Result};

/// The name under which PyIceberg and Java open an SQL catalog, if the
/// settings do not say another.
pub const CATALOG_NAME: &str = "insightera";
/// The warehouse format this build reads and writes.
pub const FORMAT: u32 = 1;
/// The namespace property that carries the format.
pub const FORMAT_PROPERTY: &str = "insightera.format";

/// What a catalog says of a table.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The metadata file.
    pub location: String,
    /// What stands in it, where the catalog tells.
    pub metadata: Option<TableMetadataRef>,
    /// Properties for this table's files, credentials for example. They are
    /// secrets: never shown.
    pub properties: HashMap<String, String>,
}

/// The state that a pointer is to move to.
#[derive(Debug, Clone, Copy)]
pub struct Next<'a> {
    /// What was done to the base.
    pub updates: &'a [TableUpdate],
    /// The metadata after it.
    pub metadata: &'a TableMetadata,
    /// The file that holds it; empty where the catalog writes it.
    pub location: &'a str,
}

/// How a pointer swap ended.
#[derive(Debug)]
pub enum Swap {
    /// The pointer moved; the new state, where the catalog tells.
    Done(Option<Box<Loaded>>),
    /// The pointer was not where the caller saw it.
    Conflict,
    /// The pointer did not move, and trying again is of no use.
    Refused(Error),
    /// It cannot be known from here: read the pointer again.
    Unknown(Error),
}

/// A catalog of Iceberg tables.
pub trait Catalog: fmt::Debug + Send + Sync {
    /// Whether the server writes metadata files, from the updates alone.
    fn writes_metadata(&self) -> bool {
        false
    }

    /// All namespaces, and their properties as far as they come with the list.
    fn namespaces(&self) -> Result<BTreeMap<String, HashMap<String, String>>>;

    /// Whether a namespace was made, or holds a table.
    fn has_namespace(&self, namespace: &str) -> Result<bool>;

    /// Creates a namespace if it is missing. One that was made elsewhere gets
    /// the format property, where that can be set.
    fn ensure_namespace(&self, namespace: &str) -> Result<()>;

    /// All tables, sorted.
    fn tables(&self) -> Result<Vec<TableName>>;

    /// The table's current state; `None` when there is no such table.
    fn load(&self, table: &TableName) -> Result<Option<Loaded>>;

    /// The metadata that a new table would have, where the server decides.
    /// Its namespace is made for it.
    fn draft(&self, _new: &NewTable, _metadata: &TableMetadata) -> Result<Option<Loaded>> {
        Ok(None)
    }

    /// Registers a new table. Conflict when the name is taken.
    fn create(&self, table: &TableName, next: Next<'_>) -> Swap;

    /// Moves the pointer of `base`'s table if it stands where `base` was read.
    fn swap(&self, base: &Table, next: Next<'_>) -> Swap;

    /// Gives a table another name. Conflict when that is taken, or the table
    /// is not there.
    fn rename(&self, from: &TableName, to: &TableName) -> Swap;

    /// Removes a table's entry; its files stay for maintenance. Answers whether
    /// it was there.
    fn drop_table(&self, table: &TableName) -> Result<bool>;
}

/// Refuses what a newer Insightera wrote.
pub(super) fn check_format(namespace: &str, value: &str) -> Result<()> {
    if value.parse::<u32>().is_ok_and(|found| found <= FORMAT) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "namespace `{namespace}` has warehouse format `{value}`, this build knows format `{FORMAT}`"
    ))
    .hint("a newer Insightera wrote this warehouse: upgrade this one; nothing was changed"))
}
