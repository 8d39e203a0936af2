//! Which entity keys the commits between two snapshots of an input touched.
//!
//! A key is touched when it stands in an added file, in a removed file, or in
//! a row that a delete file hits. The answer is a superset: the feature hash
//! decides. Whatever cannot be answered from the files is *declined*, with the
//! reason, and the run compares every entity instead.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use iceberg::spec::{DataContentType, ManifestContentType, ManifestStatus, Operation};
use insightera_entities::pages::{KeyPages, Wanted};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder, RowSelection};

use super::deletes;
use super::faults::{self, Bug};
use super::files::{self, LiveFile};
use super::storage::Input;
use super::table::Table;
use crate::key::{KeySet, Keys};
use crate::{Error, Result};

/// The files that changed between two snapshots.
#[derive(Debug, Default)]
pub struct Changes {
    whole: Vec<LiveFile>,
    positions: Vec<LiveFile>,
    equality: Vec<LiveFile>,
}

/// The answer for one input.
#[derive(Debug)]
pub enum Diff {
    /// The changed files.
    Changes(Changes),
    /// Why it cannot be told.
    Declined(String),
}

impl Changes {
    /// An upper bound of the rows whose keys will be read.
    pub fn rows(&self) -> u64 {
        [&self.whole, &self.positions, &self.equality].into_iter().flatten().map(|f| f.data_file().record_count()).sum()
    }

    /// Bytes of the changed files.
    pub fn bytes(&self) -> u64 {
        [&self.whole, &self.positions, &self.equality]
            .into_iter()
            .flatten()
            .map(|f| f.data_file().file_size_in_bytes())
            .sum()
    }

    /// Number of changed files.
    pub fn files(&self) -> usize {
        self.whole.len() + self.positions.len() + self.equality.len()
    }
}

/// Compares two snapshots of one table; `key` are the input's key columns.
pub fn diff(table: &Table, from: i64, to: i64, key: &[String]) -> Result<Diff> {
    let declined = |why: String| Ok(Diff::Declined(why));
    let name = table.name();
    let Some(path) = table.between(from, to) else {
        return declined(format!(
            "snapshot {from} of `{name}` is not in the ancestry of {to}: it was expired, or the table was rolled back"
        ));
    };
    let metadata = table.metadata();
    let start = metadata.snapshot_by_id(from);
    let schema_of = |id: Option<&iceberg::spec::SnapshotRef>| id.and_then(|s| s.schema_id());
    if path.iter().any(|s| s.schema_id() != schema_of(start)) || schema_of(start) != Some(metadata.current_schema_id())
    {
        return declined(format!("the schema of `{name}` changed since snapshot {from}"));
    }
    let known_specs: HashSet<i32> = match start {
        Some(start) => files::manifest_list(table, start)?.iter().map(|m| m.partition_spec_id).collect(),
        None => HashSet::new(),
    };
    let mut added: HashMap<String, LiveFile> = HashMap::new();
    let mut removed: HashMap<String, LiveFile> = HashMap::new();
    let mut deletes: Vec<LiveFile> = Vec::new();
    for snapshot in path.iter().rev() {
        if snapshot.summary().operation == Operation::Replace {
            continue;
        }
        for manifest in files::manifest_list(table, snapshot)? {
            if manifest.added_snapshot_id != snapshot.snapshot_id() {
                continue;
            }
            for entry in files::manifest_entries(table, &manifest)?.iter() {
                if entry.snapshot_id() != Some(snapshot.snapshot_id()) {
                    continue;
                }
                let file = LiveFile { entry: entry.clone(), spec_id: manifest.partition_spec_id };
                let path = entry.file_path().to_owned();
                match (manifest.content, entry.status) {
                    (ManifestContentType::Data, ManifestStatus::Added) => {
                        if !known_specs.is_empty() && !known_specs.contains(&manifest.partition_spec_id) {
                            return declined(format!("the partition spec of `{name}` changed since snapshot {from}"));
                        }
                        added.insert(path, file);
                    }
                    (ManifestContentType::Data, ManifestStatus::Deleted) => {
                        // Added and removed in between: its rows were never
                        // seen here, or stand in another added file.
                        if added.remove(&path).is_none() {
                            removed.insert(path, file);
                        }
                    }
                    (ManifestContentType::Deletes, ManifestStatus::Added) => deletes.push(file),
                    // Its rows may have come back: they count as touched, too.
                    (ManifestContentType::Deletes, ManifestStatus::Deleted) => match file.data_file().content_type() {
                        DataContentType::PositionDeletes => deletes.push(file),
                        _ => {
                            return declined(format!(
                                "a commit took equality deletes out of `{name}`, rows may have come back"
                            ));
                        }
                    },
                    (_, ManifestStatus::Existing) => {}
                }
            }
        }
    }
    let mut changes = Changes::default();
    for file in deletes {
        if faults::bug(Bug::IgnoreDeletes) {
            continue;
        }
        match file.data_file().content_type() {
            DataContentType::EqualityDeletes => {
                let ids: HashSet<i32> = file.data_file().equality_ids().unwrap_or_default().into_iter().collect();
                let wanted: HashSet<i32> =
                    key.iter().filter_map(|k| metadata.current_schema().field_id_by_name(k)).collect();
                if ids != wanted {
                    return declined(format!("`{name}` has equality deletes on columns that are not the entity key"));
                }
                changes.equality.push(file);
            }
            _ => changes.positions.push(file),
        }
    }
    changes.whole = added.into_values().chain(removed.into_values()).collect();
    changes.whole.sort_by(|a, b| a.data_file().file_path().cmp(b.data_file().file_path()));
    let gone = [&changes.whole, &changes.positions, &changes.equality]
        .into_iter()
        .flatten()
        .find(|f| !table.storage().exists(f.data_file().file_path()));
    if let Some(gone) = gone {
        return declined(format!("file `{}` of `{name}` was cleaned up already", gone.data_file().file_path()));
    }
    Ok(Diff::Changes(changes))
}

/// One piece of reading: a file, and which of its rows.
struct Piece<'a> {
    location: &'a str,
    rows: Option<Vec<u64>>,
}

/// Reads the touched keys. `key` are the input's key columns in the order of
/// the entity key. `None` when position deletes name a file that was cleaned
/// up: its rows cannot be asked for their keys any more.
pub fn touched_keys(table: &Table, changes: &Changes, key: &[String], threads: usize) -> Result<Option<KeySet>> {
    let mut pieces: Vec<Piece<'_>> = changes
        .whole
        .iter()
        .chain(&changes.equality)
        .map(|f| Piece { location: f.data_file().file_path(), rows: None })
        .collect();
    let positions = deletes::positions(table.storage(), &changes.positions)?;
    if positions.keys().any(|path| !table.storage().exists(path)) {
        return Ok(None);
    }
    pieces.extend(positions.iter().map(|(path, rows)| Piece { location: path, rows: Some(rows.clone()) }));
    let ids: Vec<Option<i32>> = key.iter().map(|k| table.schema().field_id_by_name(k)).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || -> Result<KeySet> {
        let mut set = KeySet::default();
        while let Some(piece) = pieces.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            read_piece(table, piece, key, &ids, &mut set)?;
        }
        Ok(set)
    };
    let threads = threads.clamp(1, pieces.len().max(1));
    let sets: Vec<Result<KeySet>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles
            .into_iter()
            .map(|h| h.join().unwrap_or_else(|_| Err(Error::internal("a reading thread ended early"))))
            .collect()
    });
    let mut all = KeySet::default();
    for set in sets {
        let set = set?;
        if all.is_empty() { all = set } else { all.extend(set) }
    }
    Ok(Some(all))
}

fn read_piece(table: &Table, piece: &Piece<'_>, key: &[String], ids: &[Option<i32>], set: &mut KeySet) -> Result<()> {
    let (file, metadata) = deletes::open(table.storage(), piece.location)?;
    let damaged = |e: &dyn std::fmt::Display| Error::data(format!("`{}` cannot be read: {e}", piece.location));
    let leaves = key
        .iter()
        .zip(ids)
        .map(|(name, id)| leaf(&metadata, name, *id).ok_or_else(|| damaged(&format!("it has no column `{name}`"))))
        .collect::<Result<Vec<usize>>>()?;
    let names: Vec<String> = leaves
        .iter()
        .map(|i| metadata.metadata().file_metadata().schema_descr().column(*i).name().to_owned())
        .collect();
    let total = metadata.metadata().file_metadata().num_rows().max(0) as u64;
    if let ([leaf], [name]) = (leaves.as_slice(), names.as_slice()) {
        let field = metadata.schema().field_with_name(name).map_err(|e| damaged(&e))?;
        if let Some(pages) = KeyPages::new(&metadata, *leaf, field.data_type()) {
            let file = Arc::new(file.try_clone().map_err(|e| damaged(&e))?);
            if read_pages(&pages, &file, &metadata, piece.rows.as_deref(), set).map_err(|e| damaged(&e))? {
                return Ok(());
            }
        }
    }
    let mask = ProjectionMask::leaves(metadata.metadata().file_metadata().schema_descr(), leaves);
    let mut builder =
        ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata).with_projection(mask).with_batch_size(8192);
    if let Some(rows) = &piece.rows {
        let selection: RowSelection = deletes::selection(rows, 0, total, true);
        builder = builder.with_row_selection(selection);
    }
    for batch in builder.build().map_err(|e| damaged(&e))? {
        let batch: RecordBatch = batch.map_err(|e| damaged(&e))?;
        set.extend(Keys::new(&batch, &names)?.hashes());
    }
    Ok(())
}

/// Adds the keys of these rows, or of all, to `set`; false when it cannot: then
/// the set holds some of them.
fn read_pages(
    pages: &KeyPages,
    file: &Arc<Input>,
    metadata: &ArrowReaderMetadata,
    rows: Option<&[u64]>,
    set: &mut KeySet,
) -> insightera_core::Result<bool> {
    let mut start = 0;
    for (index, group) in metadata.metadata().row_groups().iter().enumerate() {
        let end = start + group.num_rows().max(0) as u64;
        let read = match rows {
            None => pages.read(file, index, Wanted::All, &mut |_, hashes| set.extend(hashes))?,
            Some(rows) => {
                let inside = rows.partition_point(|row| *row < start)..rows.partition_point(|row| *row < end);
                let inside: Vec<u64> = rows[inside].iter().map(|row| row - start).collect();
                let mut left = inside.as_slice();
                inside.is_empty()
                    || pages.read(file, index, Wanted::Rows(&inside), &mut |range, hashes| {
                        let (now, rest) = left.split_at(left.partition_point(|row| *row < range.end));
                        set.extend(now.iter().map(|row| hashes[(row - range.start) as usize]));
                        left = rest;
                    })?
            }
        };
        if !read {
            return Ok(false);
        }
        start = end;
    }
    Ok(true)
}

/// The leaf of a column: by field id, else by name.
fn leaf(metadata: &ArrowReaderMetadata, name: &str, id: Option<i32>) -> Option<usize> {
    let schema = metadata.metadata().file_metadata().schema_descr();
    let with_id = |i: &usize| {
        let info = schema.column(*i).self_type().get_basic_info().clone();
        info.has_id() && Some(info.id()) == id
    };
    (0..schema.num_columns())
        .find(with_id)
        .or_else(|| (0..schema.num_columns()).find(|i| schema.column(*i).name() == name))
}
