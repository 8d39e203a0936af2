//! Tables of the lake: names, loaded metadata, ancestry.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::Read;
use std::sync::Arc;

use iceberg::spec::{FormatVersion, SchemaRef, SnapshotRef, SnapshotReference, TableMetadata, TableMetadataRef};

use super::storage::Storage;
use crate::{Error, Result};

/// Two clocks that are this near, in milliseconds, are one.
const TOLERANCE: u64 = 10_000;

/// `namespace.name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// The namespace, one level.
    pub namespace: String,
    /// The name in it.
    pub name: String,
}

impl TableName {
    /// Parses `namespace.name`.
    pub fn parse(text: &str) -> Result<Self> {
        let (namespace, name) = text.split_once('.').ok_or_else(|| {
            Error::invalid(format!("`{text}` is not a table name")).hint("write it as `namespace.table`")
        })?;
        insightera_core::validate_name("namespace", namespace)?;
        insightera_core::validate_name("table", name)?;
        if name.contains('.') {
            return Err(Error::invalid(format!("`{text}` has more than one namespace level"))
                .hint("write it as `namespace.table`"));
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace, self.name)
    }
}

/// A table as one metadata file describes it.
#[derive(Debug, Clone)]
pub struct Table {
    name: TableName,
    metadata: TableMetadataRef,
    metadata_location: String,
    storage: Storage,
}

impl Table {
    /// Reads and parses the metadata file at `location`.
    pub fn load(name: TableName, location: String, storage: Storage) -> Result<Self> {
        let bytes = storage.read(&location)?;
        let metadata = parse_metadata(&bytes).map_err(|cause| {
            Error::data(format!("the metadata file `{location}` of table `{name}` cannot be read"))
                .hint("restore the file; the catalog keeps the one before it in `previous_metadata_location`")
                .cause(cause)
        })?;
        Ok(Self { name, metadata: Arc::new(metadata), metadata_location: location, storage })
    }

    pub(crate) fn new(
        name: TableName,
        metadata: TableMetadataRef,
        metadata_location: String,
        storage: Storage,
    ) -> Self {
        Self { name, metadata, metadata_location, storage }
    }

    /// `namespace.name`.
    pub fn name(&self) -> &TableName {
        &self.name
    }

    /// The parsed metadata.
    pub fn metadata(&self) -> &TableMetadata {
        &self.metadata
    }

    /// The parsed metadata, shared.
    pub fn metadata_ref(&self) -> TableMetadataRef {
        self.metadata.clone()
    }

    /// Where the table's files are.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The metadata file.
    pub fn metadata_location(&self) -> &str {
        &self.metadata_location
    }

    /// The current schema.
    pub fn schema(&self) -> &SchemaRef {
        self.metadata.current_schema()
    }

    /// The id of the current snapshot of the main branch.
    pub fn current_snapshot_id(&self) -> Option<i64> {
        self.metadata.current_snapshot_id()
    }

    /// When a snapshot was committed, microseconds since the epoch.
    pub fn committed_at(&self, snapshot_id: i64) -> Option<i64> {
        Some(self.metadata.snapshot_by_id(snapshot_id)?.timestamp_ms().saturating_mul(1000))
    }

    /// Tags and branches, `main` among them once there is a snapshot.
    pub fn refs(&self) -> Result<BTreeMap<String, SnapshotReference>> {
        references(&self.metadata)
            .map_err(|e| Error::internal(format!("the metadata of table `{}` has no JSON form: {e}", self.name)))
    }

    /// Refuses what this build must not write.
    pub fn check_writable(&self) -> Result<()> {
        if self.metadata.format_version() == FormatVersion::V3 {
            return Err(Error::invalid(format!(
                "table `{}` has Iceberg format version 3, which is read only here",
                self.name
            ))
            .hint("write to a table of format version 2"));
        }
        Ok(())
    }

    /// The snapshots from the current one back to the first, or to where the
    /// next parent has been expired.
    pub fn ancestry(&self) -> Ancestry<'_> {
        Ancestry { metadata: &self.metadata, next: self.metadata.current_snapshot().cloned(), seen: HashSet::new() }
    }

    /// The snapshots from `from` (exclusive) to `to` (inclusive), newest
    /// first; `None` when `from` is not an ancestor of `to` or a link between
    /// them has been expired.
    pub fn between(&self, from: i64, to: i64) -> Option<Vec<SnapshotRef>> {
        let mut found = Vec::new();
        let mut next = self.metadata.snapshot_by_id(to).cloned();
        while let Some(snapshot) = next {
            if snapshot.snapshot_id() == from {
                return Some(found);
            }
            if found.len() > self.metadata.snapshots().len() {
                return None;
            }
            next = snapshot.parent_snapshot_id().and_then(|id| self.metadata.snapshot_by_id(id)).cloned();
            found.push(snapshot);
        }
        None
    }
}

/// Walks from a snapshot to its parents.
#[derive(Debug)]
pub struct Ancestry<'a> {
    metadata: &'a TableMetadata,
    next: Option<SnapshotRef>,
    seen: HashSet<i64>,
}

impl Iterator for Ancestry<'_> {
    type Item = SnapshotRef;

    fn next(&mut self) -> Option<SnapshotRef> {
        let snapshot = self.next.take()?;
        if !self.seen.insert(snapshot.snapshot_id()) {
            return None;
        }
        self.next = snapshot.parent_snapshot_id().and_then(|id| self.metadata.snapshot_by_id(id)).cloned();
        Some(snapshot)
    }
}

/// The property by which Project Nessie marks the tables that it keeps.
pub(crate) const KEPT_BY_NESSIE: &str = "nessie.catalog.content-id";

/// The tags and branches of a table: the crate keeps them to itself, its JSON
/// form does not.
pub(super) fn references(metadata: &TableMetadata) -> serde_json::Result<BTreeMap<String, SnapshotReference>> {
    match serde_json::to_value(metadata)?.get_mut("refs").map(serde_json::Value::take) {
        None | Some(serde_json::Value::Null) => Ok(BTreeMap::new()),
        Some(refs) => serde_json::from_value(refs),
    }
}

/// The metadata as of a time in milliseconds. The crate takes the machine's
/// own time where there is no new snapshot, and then no snapshot can be older;
/// the lake has one clock.
pub(super) fn dated(metadata: TableMetadata, millis: i64) -> Result<TableMetadata> {
    let newest = metadata.history().last().map_or(i64::MIN, |entry| entry.timestamp_ms());
    let wanted = millis.max(newest);
    if metadata.last_updated_ms().abs_diff(wanted) < TOLERANCE {
        return Ok(metadata);
    }
    let wrong = |e| Error::internal(format!("table metadata has no JSON form: {e}"));
    let mut json = serde_json::to_value(&metadata).map_err(wrong)?;
    json["last-updated-ms"] = wanted.into();
    serde_json::from_value(json).map_err(wrong)
}

fn parse_metadata(bytes: &[u8]) -> Result<TableMetadata, Box<dyn std::error::Error + Send + Sync>> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut text = Vec::with_capacity(bytes.len() * 8);
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    } else {
        Ok(serde_json::from_slice(bytes)?)
    }
}
