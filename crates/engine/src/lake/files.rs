//! Which files make up a snapshot, and which delete files apply to each.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use iceberg::spec::{
    DataContentType, DataFile, Manifest, ManifestContentType, ManifestEntryRef, ManifestFile, ManifestList,
    ManifestStatus, SnapshotRef,
};

use super::cache::State;
use super::storage;
use super::table::Table;
use crate::{Error, Result};

/// One live file of a snapshot.
#[derive(Debug, Clone)]
pub struct LiveFile {
    /// The manifest entry, sequence numbers and snapshot id filled in.
    pub entry: ManifestEntryRef,
    /// The partition spec it was written with.
    pub spec_id: i32,
}

impl LiveFile {
    /// The file's description.
    pub fn data_file(&self) -> &DataFile {
        self.entry.data_file()
    }

    /// The data sequence number.
    pub fn sequence(&self) -> i64 {
        self.entry.sequence_number().unwrap_or(0)
    }
}

/// The live files of one snapshot.
#[derive(Debug, Default, Clone)]
pub struct LiveFiles {
    /// Data files.
    pub data: Vec<LiveFile>,
    /// Position and equality delete files.
    pub deletes: Vec<LiveFile>,
}

impl LiveFiles {
    /// The delete files that apply to `file`.
    pub fn deletes_for(&self, file: &LiveFile, table: &Table) -> Vec<&LiveFile> {
        self.deletes.iter().filter(|delete| applies(delete, file, table)).collect()
    }

    /// Bytes of all data files.
    pub fn data_bytes(&self) -> u64 {
        self.data.iter().map(|f| f.data_file().file_size_in_bytes()).sum()
    }

    /// Rows of all data files, deleted ones included.
    pub fn data_rows(&self) -> u64 {
        self.data.iter().map(|f| f.data_file().record_count()).sum()
    }
}

/// The specification's scope rules for delete files.
fn applies(delete: &LiveFile, data: &LiveFile, table: &Table) -> bool {
    let same_partition =
        delete.spec_id == data.spec_id && delete.data_file().partition() == data.data_file().partition();
    match delete.data_file().content_type() {
        DataContentType::PositionDeletes => {
            if let Some(path) = delete.data_file().referenced_data_file() {
                return path == data.data_file().file_path() && delete.sequence() >= data.sequence();
            }
            delete.sequence() >= data.sequence() && same_partition
        }
        DataContentType::EqualityDeletes => {
            let global =
                table.metadata().partition_spec_by_id(delete.spec_id).is_none_or(|spec| spec.is_unpartitioned());
            delete.sequence() > data.sequence() && (global || same_partition)
        }
        DataContentType::Data => false,
    }
}

/// Manifests do not change: parsed once per process, the newest kept.
static MANIFESTS: LazyLock<Mutex<HashMap<String, Arc<Vec<ManifestEntryRef>>>>> = LazyLock::new(Mutex::default);
const MANIFEST_CACHE: usize = 512;

fn manifests() -> MutexGuard<'static, HashMap<String, Arc<Vec<ManifestEntryRef>>>> {
    MANIFESTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The entries of one manifest, inherited values filled in.
pub fn manifest_entries(table: &Table, manifest: &ManifestFile) -> Result<Arc<Vec<ManifestEntryRef>>> {
    // A manifest written before its commit is read with the sequence number
    // that its list gave it, so the list's answer is part of the key.
    let key = format!("{}#{}", manifest.manifest_path, manifest.sequence_number);
    if let Some(found) = manifests().get(&key) {
        return Ok(found.clone());
    }
    let bytes = table.storage().read(&manifest.manifest_path)?;
    let damaged = |e: iceberg::Error| {
        Error::data(format!("the manifest `{}` of table `{}` cannot be read", manifest.manifest_path, table.name()))
            .hint("restore the file from a backup, or roll the table back to a snapshot without it")
            .cause(e)
    };
    let (entries, _) = Manifest::parse_avro(&bytes).map_err(damaged)?.into_parts();
    let inherited: Vec<ManifestEntryRef> = entries
        .into_iter()
        .map(|entry| {
            let mut entry = Arc::unwrap_or_clone(entry);
            inherit(&mut entry, manifest);
            Arc::new(entry)
        })
        .collect();
    let inherited = Arc::new(inherited);
    let mut cache = manifests();
    if cache.len() >= MANIFEST_CACHE {
        cache.clear();
    }
    cache.insert(key, inherited.clone());
    Ok(inherited)
}

/// Entries leave out what their manifest list knows: snapshot and sequence.
fn inherit(entry: &mut iceberg::spec::ManifestEntry, manifest: &ManifestFile) {
    if entry.snapshot_id.is_none() {
        entry.snapshot_id = Some(manifest.added_snapshot_id);
    }
    let fresh = entry.status == ManifestStatus::Added || manifest.sequence_number == 0;
    if entry.sequence_number.is_none() && fresh {
        entry.sequence_number = Some(manifest.sequence_number);
    }
    if entry.file_sequence_number.is_none() && fresh {
        entry.file_sequence_number = Some(manifest.sequence_number);
    }
}

/// Manifest lists, by location; as many as have so many entries in all.
static LISTS: LazyLock<Mutex<Lists>> = LazyLock::new(Mutex::default);
const LIST_CACHE: usize = 20_000;

#[derive(Default)]
struct Lists {
    parsed: HashMap<String, (Option<State>, Arc<Vec<ManifestFile>>)>,
    entries: usize,
}

fn lists() -> MutexGuard<'static, Lists> {
    LISTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The manifest list of a snapshot.
pub fn manifest_list(table: &Table, snapshot: &SnapshotRef) -> Result<Vec<ManifestFile>> {
    let location = snapshot.manifest_list();
    let state = State::of(location);
    if let Some((then, list)) = lists().parsed.get(location)
        && *then == state
        && (state.is_some() || !storage::is_local(location))
    {
        return Ok(list.to_vec());
    }
    let bytes = table.storage().read(location)?;
    let list = ManifestList::parse_with_version(&bytes, table.metadata().format_version()).map_err(|e| {
        Error::data(format!("the manifest list `{location}` of table `{}` cannot be read", table.name()))
            .hint("restore the file from a backup, or roll the table back to another snapshot")
            .cause(e)
    })?;
    let list: Vec<ManifestFile> = list.consume_entries().into_iter().collect();
    let mut kept = lists();
    if kept.entries + list.len() > LIST_CACHE {
        *kept = Lists::default();
    }
    kept.entries += list.len().max(1);
    kept.parsed.insert(location.to_owned(), (state, Arc::new(list.clone())));
    Ok(list)
}

/// The live files of `snapshot_id`; none of it is an empty table.
pub fn live_files(table: &Table, snapshot_id: Option<i64>) -> Result<LiveFiles> {
    let Some(snapshot_id) = snapshot_id else { return Ok(LiveFiles::default()) };
    let snapshot = table.metadata().snapshot_by_id(snapshot_id).ok_or_else(|| {
        Error::not_found(format!("table `{}` has no snapshot `{snapshot_id}`", table.name()))
            .hint("it may have been expired; `insightera table history` lists what there is")
    })?;
    let mut files = LiveFiles::default();
    for manifest in manifest_list(table, snapshot)? {
        let target = match manifest.content {
            ManifestContentType::Data => &mut files.data,
            ManifestContentType::Deletes => &mut files.deletes,
        };
        for entry in manifest_entries(table, &manifest)?.iter().filter(|e| e.is_alive()) {
            target.push(LiveFile { entry: entry.clone(), spec_id: manifest.partition_spec_id });
        }
    }
    Ok(files)
}
