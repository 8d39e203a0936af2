//! Erasing: the rows of one entity leave a table and all of its history.
//!
//! Every data file that any snapshot names is asked for rows of the entity
//! ([`find`]). Those that hold some are written again without them, in the same
//! order, schema and codec; position deletes are moved along with the rows that
//! they delete ([`rewrite`]). Manifests and manifest lists that named one of
//! those files are written again under the same snapshot ids, sequence numbers
//! and statuses, so that `AS OF`, tags and incremental reads mean what they
//! meant, without the entity ([`history`]).
//!
//! The pointer moves once, through the commit layer: who committed meanwhile is
//! looked at again, and what was written already is used again. Afterwards the
//! files that only the metadata before needed are removed at once, by
//! [`maintain::erased`](super::maintain::erased).
//!
//! Refused before anything is changed: files that are not Parquet, tables that
//! share their files (`gc.enabled = false`), deletes by value whose rows carry
//! the key and delete more than the entity.

mod find;
mod history;
mod rewrite;

use std::collections::BTreeMap;

use serde::Serialize;

use self::find::Finder;
pub use self::find::{Mentioned, holds};
use self::history::{History, Replaced};
use super::table::Table;
use super::{Lake, TableName, commit, keys, maintain};
use crate::Result;

/// An entity: its key columns and their values as text, in the same order.
#[derive(Clone, PartialEq, Eq)]
pub struct Entity {
    /// The key columns, sorted by name.
    pub columns: Vec<String>,
    /// The values.
    pub values: Vec<String>,
}

impl std::fmt::Debug for Entity {
    /// Without the values: they have no place in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entity {:?}", self.columns)
    }
}

/// Which rows of a table are the entity's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Those whose key columns hold the key.
    Key,
    /// Those of which the texts and bytes, taken together, mention all parts of
    /// the key as words: events as they came.
    Mention,
}

/// In the names of files that an erasure writes: what it has not committed is
/// known by it.
pub(super) const MARK: &str = "-erased";

/// A change of the table's metadata as JSON, made in the same swap; answers
/// whether there was something to change.
pub type Edit<'a> = &'a dyn Fn(&mut serde_json::Value) -> Result<bool>;

/// What is erased from one table.
#[derive(Clone, Copy)]
pub struct Erasure<'a> {
    /// The entity.
    pub entity: &'a Entity,
    /// Its rows.
    pub rule: Rule,
    /// The number of this erasure: rows that respect fewer are refused from
    /// then on. `None` for tables that pipelines do not write.
    pub number: Option<u64>,
    /// What else the metadata says of the entity.
    pub edit: Option<Edit<'a>>,
}

/// A snapshot that was written again: the same id, another manifest list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// The snapshot.
    pub snapshot_id: i64,
    /// Tags and branches that point to it.
    pub refs: Vec<String>,
    /// Rows of the entity that it held; deleted ones are among them.
    pub rows: u64,
    /// The manifest list before.
    pub old: String,
    /// The manifest list now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
}

/// What is, or was, erased from a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Erased {
    /// The table.
    pub table: String,
    /// Rows in all data files of its history.
    pub rows: u64,
    /// Data files that held them.
    pub data_files: usize,
    /// Delete files that were written again with them.
    pub delete_files: usize,
    /// Snapshots that named one of these files.
    pub snapshots: Vec<Moved>,
    /// Files that were removed from the storage.
    pub removed_files: u64,
    /// Removed files that their store keeps as earlier versions.
    #[serde(skip_serializing_if = "is_none")]
    pub kept_versions: u64,
    /// What could not be removed yet, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_none(count: &u64) -> bool {
    *count == 0
}

/// What [`erase`] would erase; changes nothing.
///
/// # Errors
/// As [`erase`].
pub fn survey(table: &Table, erasure: &Erasure<'_>) -> Result<Erased> {
    let (history, replaced) = look(table, erasure)?;
    Ok(history.told(table, &replaced, &BTreeMap::new()))
}

/// The history of a table, and what of it must be replaced.
fn look(table: &Table, erasure: &Erasure<'_>) -> Result<(History, Replaced)> {
    table.check_writable()?;
    maintain::check_collectable(table)?;
    let history = History::read(table)?;
    let finder = Finder::new(table, erasure)?;
    let replaced = Replaced::find(table.storage(), &history, &finder)?;
    Ok((history, replaced))
}

/// Erases the entity from the table. `before_swap` is told the metadata file
/// that is about to be replaced, before every try: after an accident
/// [`maintain::erased::remove_replaced`] with the last of them does the rest.
///
/// # Errors
/// `Invalid` where the table cannot be rewritten soundly, `Data` when a file of
/// its history cannot be read: nothing was changed then. `Conflict` when others
/// kept changing the table.
pub fn erase(
    lake: &Lake,
    name: &TableName,
    erasure: &Erasure<'_>,
    before_swap: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Erased> {
    let mut written = rewrite::Written::default();
    let mut done = Erased { table: name.to_string(), ..Erased::default() };
    let (mut base_location, mut forgotten) = (None, false);
    commit::replace_metadata(lake, name, |base| {
        let (history, replaced) = look(base, erasure)?;
        base_location = None;
        let marked = erasure.number.is_none_or(|number| keys::erasures_of(base) >= number);
        let (json, edited) = history::edited(base, erasure)?;
        if replaced.is_empty() && marked && !edited {
            done = history.told(base, &replaced, &BTreeMap::new());
            return Ok(None);
        }
        written.write(base, &history, &replaced)?;
        let lists = written.lists(base, &history)?;
        done = history.told(base, &replaced, &lists);
        before_swap(base.metadata_location())?;
        base_location = Some(base.metadata_location().to_owned());
        let change = history::NewMetadata { json, forget_log: edited || !lists.is_empty(), lists: &lists };
        forgotten = change.forget_log;
        history::metadata(lake, base, erasure, &history, &written, change).map(Some)
    })?;
    if let Some(location) = base_location.filter(|_| forgotten) {
        let gone = maintain::erased::remove_replaced(lake, name, &location)?;
        (done.removed_files, done.kept_versions) = (gone.files, gone.versions);
    }
    Ok(done)
}
