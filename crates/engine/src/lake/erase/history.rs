//! The history of a table: which files it names, which of them must be
//! replaced, and the metadata that names the new ones.

use std::collections::{BTreeMap, HashSet};

use iceberg::spec::{
    DataContentType, DataFile, DataFileFormat, ManifestContentType, ManifestFile, ManifestStatus, SnapshotRef,
    TableMetadata,
};
use serde_json::{Value, json};

use super::find::Finder;
use super::rewrite::Written;
use super::{Erased, Erasure, Moved};
use crate::lake::faults::{self, Bug};
use crate::lake::files::{self, LiveFile};
use crate::lake::keyed::in_parallel;
use crate::lake::storage::Storage;
use crate::lake::table::Table;
use crate::lake::{Lake, deletes, keys};
use crate::{Error, Result};

/// Threads that read data files.
const THREADS: usize = 2;

/// Everything that the snapshots of a table name.
#[derive(Debug)]
pub(super) struct History {
    /// Snapshots, oldest first, with the paths of their manifests.
    pub snapshots: Vec<(SnapshotRef, Vec<String>)>,
    /// Manifests by path.
    pub manifests: BTreeMap<String, ManifestFile>,
    files: BTreeMap<String, LiveFile>,
    alive: HashSet<String>,
    /// By manifest: files that are alive in it.
    live_in: BTreeMap<String, Vec<String>>,
}

/// The manifests of a snapshot.
pub(super) fn snapshot_list(table: &Table, snapshot: &SnapshotRef) -> Result<Vec<ManifestFile>> {
    files::manifest_list(table, snapshot)
}

impl History {
    /// Reads the history of a table.
    ///
    /// # Errors
    /// When a manifest list or manifest cannot be read.
    pub fn read(table: &Table) -> Result<Self> {
        let mut snapshots: Vec<SnapshotRef> = table.metadata().snapshots().cloned().collect();
        snapshots.sort_by_key(|s| (s.sequence_number(), s.timestamp_ms()));
        let (manifests, files, alive, live_in) = Default::default();
        let mut history = Self { snapshots: Vec::new(), manifests, files, alive, live_in };
        for snapshot in snapshots {
            let mut paths = Vec::new();
            for manifest in snapshot_list(table, &snapshot)? {
                paths.push(manifest.manifest_path.clone());
                if !history.manifests.contains_key(&manifest.manifest_path) {
                    history.add(table, manifest)?;
                }
            }
            history.snapshots.push((snapshot, paths));
        }
        Ok(history)
    }

    fn add(&mut self, table: &Table, manifest: ManifestFile) -> Result<()> {
        let mut live = Vec::new();
        for entry in files::manifest_entries(table, &manifest)?.iter() {
            let path = entry.file_path().to_owned();
            if entry.is_alive() {
                self.alive.insert(path.clone());
                live.push(path.clone());
            }
            let file = || LiveFile { entry: entry.clone(), spec_id: manifest.partition_spec_id };
            self.files.entry(path).or_insert_with(file);
        }
        self.live_in.insert(manifest.manifest_path.clone(), live);
        self.manifests.insert(manifest.manifest_path.clone(), manifest);
        Ok(())
    }

    /// A file by its path.
    pub fn file(&self, path: &str) -> Result<&LiveFile> {
        self.files.get(path).ok_or_else(|| Error::internal(format!("no snapshot names `{path}`")))
    }

    /// What is told of an erasure; `lists` are the new manifest lists.
    pub fn told(&self, table: &Table, replaced: &Replaced, lists: &BTreeMap<i64, String>) -> Erased {
        let mut refs: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for (name, reference) in table.refs().unwrap_or_default() {
            refs.entry(reference.snapshot_id).or_default().push(name);
        }
        let of = |path: &String| match replaced.files.get(path) {
            Some(Fate::Rows(rows)) if self.is_data(path) => Some(rows.len() as u64),
            Some(_) => Some(0),
            None => None,
        };
        let by_manifest: BTreeMap<&String, (bool, u64)> = self
            .live_in
            .iter()
            .map(|(manifest, live)| {
                let hits: Vec<u64> = live.iter().filter_map(of).collect();
                (manifest, (!hits.is_empty(), hits.iter().sum()))
            })
            .collect();
        let mut snapshots = Vec::new();
        for (snapshot, manifests) in &self.snapshots {
            let id = snapshot.snapshot_id();
            let found = manifests.iter().filter_map(|path| by_manifest.get(path));
            let (hit, rows) = found.fold((false, 0), |(hit, rows), (here, more)| (hit || *here, rows + more));
            if hit || lists.contains_key(&id) {
                let (refs, new) = (refs.get(&id).cloned().unwrap_or_default(), lists.get(&id).cloned());
                snapshots.push(Moved { snapshot_id: id, refs, rows, old: snapshot.manifest_list().to_owned(), new });
            }
        }
        let rows = |(path, fate): (&String, &Fate)| match fate {
            Fate::Rows(rows) if self.is_data(path) => Some(rows.len() as u64),
            _ => None,
        };
        let data: Vec<u64> = replaced.files.iter().filter_map(rows).collect();
        Erased {
            table: table.name().to_string(),
            rows: data.iter().sum(),
            data_files: data.len(),
            delete_files: replaced.files.len() - data.len(),
            snapshots,
            ..Erased::default()
        }
    }

    fn is_data(&self, path: &str) -> bool {
        self.files.get(path).is_some_and(|file| file.data_file().content_type() == DataContentType::Data)
    }
}

/// What happens to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is written again without these rows.
    Rows(Vec<u64>),
    /// Position deletes: they move along with the rows.
    Positions,
    /// It is gone already; its description loses its bounds.
    Unbounded,
}

/// The files that must be replaced.
#[derive(Debug, Default)]
pub(super) struct Replaced {
    /// By path.
    pub files: BTreeMap<String, Fate>,
}

impl Replaced {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Looks for the entity in every file of a history.
    ///
    /// # Errors
    /// When a file cannot be read or soundly rewritten.
    pub fn find(storage: &Storage, history: &History, finder: &Finder) -> Result<Self> {
        let content = |file: &LiveFile| file.data_file().content_type();
        let asked: Vec<(&String, &LiveFile)> = history
            .files
            .iter()
            .filter(|(_, f)| content(f) != DataContentType::PositionDeletes && finder.may_hold(f.data_file()))
            .collect();
        let fates = in_parallel(&asked, THREADS, |(path, file)| {
            if !storage.exists(path) && !history.alive.contains(*path) {
                return Ok(finder.is_bound(file.data_file()).then_some(Fate::Unbounded));
            }
            only_parquet(file.data_file())?;
            let rows = finder.rows(storage, path)?;
            Ok((!rows.is_empty()).then_some(Fate::Rows(rows)))
        })?;
        let mut replaced = Self::default();
        for ((path, file), fate) in asked.into_iter().zip(fates) {
            let Some(fate) = fate else { continue };
            if content(file) == DataContentType::EqualityDeletes && matches!(fate, Fate::Rows(_)) {
                only_of_the_entity(file.data_file(), finder)?;
            }
            replaced.files.insert(path.clone(), fate);
        }
        if faults::bug(Bug::EraseKeepsPositions) {
            return Ok(replaced);
        }
        for (path, file) in &history.files {
            if content(file) == DataContentType::PositionDeletes && replaced.moves(storage, path, file)? {
                replaced.files.insert(path.clone(), Fate::Positions);
            }
        }
        Ok(replaced)
    }

    /// Whether position deletes are of a file that changes, or keep whole rows.
    fn moves(&self, storage: &Storage, path: &str, file: &LiveFile) -> Result<bool> {
        if !storage.exists(path) {
            return Ok(false);
        }
        only_parquet(file.data_file())?;
        let (_, metadata) = deletes::open(storage, path)?;
        if metadata.metadata().file_metadata().schema_descr().num_columns() > 2 {
            return Ok(true);
        }
        let changes = |data: &String| matches!(self.files.get(data), Some(Fate::Rows(_)));
        match file.data_file().referenced_data_file() {
            Some(data) => Ok(changes(&data)),
            None if self.files.is_empty() => Ok(false),
            None => Ok(deletes::positions(storage, [file])?.keys().any(changes)),
        }
    }
}

fn only_parquet(file: &DataFile) -> Result<()> {
    if file.file_format() == DataFileFormat::Parquet {
        return Ok(());
    }
    Err(Error::invalid(format!("`{}` is not a Parquet file: it cannot be rewritten", file.file_path()))
        .hint("rewrite the table's data files, expire the snapshots before that, and erase again; nothing was changed"))
}

/// Deletes by value may lose the entity's row only if that row deletes nothing
/// else: if all key columns are compared.
fn only_of_the_entity(file: &DataFile, finder: &Finder) -> Result<()> {
    let compared = file.equality_ids().unwrap_or_default();
    let keys = finder.ids();
    if !keys.is_empty() && keys.iter().all(|ids| ids.iter().any(|id| compared.contains(id))) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "`{}` deletes rows by other columns than the key, and its rows carry the key: it cannot be rewritten soundly",
        file.file_path()
    ))
    .hint("`CALL system.rewrite_data_files` applies the deletes; expire the snapshots before that, and erase again; nothing was changed"))
}

/// What replacing files changes in the summary of a snapshot.
type Difference = BTreeMap<&'static str, i64>;

/// What the next metadata file is made of.
pub(super) struct NewMetadata<'a> {
    /// The metadata before, as JSON, with what else is to change.
    pub json: Value,
    /// Whether no earlier metadata file may stay.
    pub forget_log: bool,
    /// The new manifest lists by snapshot.
    pub lists: &'a BTreeMap<i64, String>,
}

/// The metadata of the base as JSON after the erasure's edit, and whether that
/// changed anything.
pub(super) fn edited(base: &Table, erasure: &Erasure<'_>) -> Result<(Value, bool)> {
    let mut json = serde_json::to_value(base.metadata()).map_err(|e| invalid(base, e))?;
    let edited = erasure.edit.map_or(Ok(false), |edit| edit(&mut json))?;
    Ok((json, edited))
}

fn invalid(base: &Table, error: serde_json::Error) -> Error {
    Error::internal(format!("the new metadata of table `{}` is not valid: {error}", base.name())).cause(error)
}

/// The metadata with the new lists, and nothing that names the old files.
///
/// # Errors
/// When it would not be valid.
pub(super) fn metadata(
    lake: &Lake,
    base: &Table,
    erasure: &Erasure<'_>,
    history: &History,
    written: &Written,
    change: NewMetadata<'_>,
) -> Result<TableMetadata> {
    let NewMetadata { json: mut metadata, forget_log, lists } = change;
    let (mut live, mut own) = (BTreeMap::new(), BTreeMap::new());
    for (path, manifest) in &history.manifests {
        if written.manifest(path).is_some() {
            let (all, of_snapshot) = differences(base, manifest, written)?;
            live.insert(path, all);
            own.insert(path, of_snapshot);
        }
    }
    for snapshot in metadata["snapshots"].as_array_mut().into_iter().flatten() {
        let Some(id) = snapshot["snapshot-id"].as_i64() else { continue };
        let Some(list) = lists.get(&id) else { continue };
        snapshot["manifest-list"] = json!(list);
        let manifests = history.snapshots.iter().find(|(s, _)| s.snapshot_id() == id).map(|(_, paths)| paths);
        for path in manifests.into_iter().flatten() {
            if let Some(difference) = live.get(path) {
                add(&mut snapshot["summary"], difference);
            }
            if let Some(difference) = own.get(path)
                && history.manifests.get(path).is_some_and(|manifest| manifest.added_snapshot_id == id)
            {
                add(&mut snapshot["summary"], difference);
            }
        }
    }
    if !forget_log {
        let entry =
            json!({"metadata-file": base.metadata_location(), "timestamp-ms": base.metadata().last_updated_ms()});
        if let Some(log) = metadata["metadata-log"].as_array_mut() {
            log.push(entry);
            let most = base.metadata().properties().get("write.metadata.previous-versions-max");
            let most = most.and_then(|text| text.parse().ok()).unwrap_or(100_usize).max(1);
            log.drain(..log.len().saturating_sub(most));
        } else {
            metadata["metadata-log"] = json!([entry]);
        }
    } else {
        metadata["metadata-log"] = json!([]);
    }
    if !lists.is_empty() {
        // They are of files that are no more.
        metadata["statistics"] = json!([]);
        metadata["partition-statistics"] = json!([]);
    }
    if let Some(number) = erasure.number {
        metadata["properties"][keys::ERASURES] = json!(number.max(keys::erasures_of(base)).to_string());
    }
    metadata["last-updated-ms"] = json!(lake.clock().now_millis().max(base.metadata().last_updated_ms()));
    serde_json::from_value(metadata).map_err(|e| invalid(base, e))
}

/// Adds to the numbers of a summary that are there.
fn add(summary: &mut Value, difference: &Difference) {
    for (key, more) in difference {
        let before = summary.get(*key).and_then(Value::as_str).and_then(|text| text.parse::<i64>().ok());
        if let Some(before) = before {
            summary[*key] = json!((before + more).max(0).to_string());
        }
    }
}

/// What a manifest's files change: in the totals of every snapshot that names
/// it, and in what its own snapshot added and removed.
fn differences(table: &Table, manifest: &ManifestFile, written: &Written) -> Result<(Difference, Difference)> {
    let (mut totals, mut own) = (Difference::new(), Difference::new());
    for entry in files::manifest_entries(table, manifest)?.iter() {
        let Some(new) = written.file(entry.file_path()) else { continue };
        let old = entry.data_file();
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let records = new.as_ref().map_or(0, |f| number(f.record_count())) - number(old.record_count());
        let bytes = new.as_ref().map_or(0, |f| number(f.file_size_in_bytes())) - number(old.file_size_in_bytes());
        let files = if new.is_some() { 0 } else { -1 };
        let kind = |data: &'static str, positions: &'static str, equality: &'static str| match old.content_type() {
            DataContentType::Data => data,
            DataContentType::PositionDeletes => positions,
            DataContentType::EqualityDeletes => equality,
        };
        let is_data = manifest.content == ManifestContentType::Data;
        let note = |to: &mut Difference, key: &'static str, more: i64| *to.entry(key).or_default() += more;
        if entry.is_alive() {
            note(&mut totals, kind("total-records", "total-position-deletes", "total-equality-deletes"), records);
            note(&mut totals, "total-files-size", bytes);
            note(&mut totals, if is_data { "total-data-files" } else { "total-delete-files" }, files);
        }
        match entry.status {
            ManifestStatus::Existing => {}
            ManifestStatus::Added => {
                note(&mut own, kind("added-records", "added-position-deletes", "added-equality-deletes"), records);
                note(&mut own, "added-files-size", bytes);
                note(&mut own, if is_data { "added-data-files" } else { "added-delete-files" }, files);
                if !is_data {
                    note(&mut own, kind("", "added-position-delete-files", "added-equality-delete-files"), files);
                }
            }
            ManifestStatus::Deleted => {
                note(
                    &mut own,
                    kind("deleted-records", "removed-position-deletes", "removed-equality-deletes"),
                    records,
                );
                note(&mut own, "removed-files-size", bytes);
                note(&mut own, if is_data { "deleted-data-files" } else { "removed-delete-files" }, files);
                if !is_data {
                    note(&mut own, kind("", "removed-position-delete-files", "removed-equality-delete-files"), files);
                }
            }
        }
    }
    Ok((totals, own))
}
