//! What is to be committed.

use std::collections::BTreeMap;

use iceberg::spec::{DataFile, Operation};
use uuid::Uuid;

use super::Fence;
use crate::lake::keys;
use crate::lake::table::{Table, TableName};

/// A change of a table's rows.
#[derive(Debug, Clone)]
pub struct Change {
    /// The table.
    pub table: TableName,
    /// The uuid of the table that the files were written for.
    pub uuid: Uuid,
    /// The idempotency key.
    pub intent_id: String,
    /// The snapshot's operation.
    pub operation: Operation,
    /// New data files.
    pub added: Vec<DataFile>,
    /// New delete files.
    pub deletes: Vec<DataFile>,
    /// Paths of data files to remove.
    pub removed: Vec<String>,
    /// The pipeline's fence.
    pub fence: Option<Fence>,
    /// Further keys of the snapshot's summary.
    pub summary: BTreeMap<String, String>,
    /// The current snapshot when the change was prepared, and its manifest list.
    pub read: Option<(i64, String)>,
    /// The base must still have this current snapshot, with the files that it
    /// had; else the outcome is stale.
    pub expected: Option<Option<i64>>,
    /// The snapshot that was read to write [`Change::added`] in the place of
    /// [`Change::removed`]; position deletes that came to the removed files
    /// since then make the outcome stale.
    pub planned_on: Option<i64>,
    /// The data sequence number of the added files, where they hold rows of
    /// older files; else the commit's own.
    pub data_sequence: Option<i64>,
    /// Whether delete files that apply to no data file any more are removed.
    pub drop_dangling_deletes: bool,
    /// Manifests to write anew.
    pub manifests: Option<ManifestRewrite>,
    /// The newest erasure that the rows respect; a base that went through a
    /// later one makes the outcome stale.
    pub erasures: Option<u64>,
}

/// The manifests of one partition spec become as few as their entries need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestRewrite {
    /// The spec.
    pub spec_id: i32,
    /// About how large a manifest becomes.
    pub target_bytes: i64,
}

impl Change {
    /// An append to `table` with a fresh intent.
    pub fn append(table: &Table, added: Vec<DataFile>) -> Self {
        Self {
            table: table.name().clone(),
            uuid: table.metadata().uuid(),
            intent_id: Uuid::new_v4().to_string(),
            operation: Operation::Append,
            added,
            deletes: Vec::new(),
            removed: Vec::new(),
            fence: None,
            summary: BTreeMap::new(),
            read: table.metadata().current_snapshot().map(|s| (s.snapshot_id(), s.manifest_list().to_owned())),
            expected: None,
            planned_on: None,
            data_sequence: None,
            drop_dangling_deletes: false,
            manifests: None,
            erasures: None,
        }
    }

    /// The pipeline whose progress the table's properties mirror.
    pub(super) fn mirrored(&self) -> Option<&str> {
        let streams = || self.summary.get(keys::PIPELINE).filter(|_| self.summary.contains_key(keys::POSITIONS));
        self.fence.as_ref().map(|fence| &fence.pipeline).or_else(streams).map(String::as_str)
    }

    /// Other files with the same rows; the table reads the same.
    pub fn replace(table: &Table) -> Self {
        Self { operation: Operation::Replace, ..Self::append(table, Vec::new()) }
    }
}
