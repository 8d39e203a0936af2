//! Builds a snapshot: its manifests, its manifest list, its summary.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use iceberg::TableUpdate;
use iceberg::spec::{
    DataContentType, DataFile, ManifestContentType, ManifestEntry, ManifestFile, ManifestListWriter, ManifestStatus,
    ManifestWriter, ManifestWriterBuilder, PartitionSpec, Snapshot, SnapshotReference, SnapshotRetention,
    SnapshotSummaryCollector, Summary,
};
use uuid::Uuid;

use super::{Change, ManifestRewrite};
use crate::lake::faults::{self, Bug};
use crate::lake::table::Table;
use crate::lake::{Lake, files, keys, run_now};
use crate::{Error, Result};

/// Manifests of one partition spec are merged when there are this many;
/// `commit.manifest.min-count-to-merge` overrides it.
const MIN_COUNT_TO_MERGE: usize = 100;
/// Manifests above this size are left alone when others are merged.
const MERGE_TARGET_BYTES: i64 = 8 * 1024 * 1024;

/// Writes the manifests and the manifest list of `change` on `base`, durably,
/// and answers the snapshot's id with the updates that put it into the table.
pub fn build(lake: &Lake, base: &Table, manifests_of: &Table, change: &Change) -> Result<(i64, Vec<TableUpdate>)> {
    let metadata = base.metadata();
    let snapshot_id = (Uuid::new_v4().as_u128() as i64) & i64::MAX;
    let mut writer = Writer { base, snapshot_id, commit: Uuid::new_v4(), count: 0 };
    let mut summary = SnapshotSummaryCollector::default();
    let parent = metadata.current_snapshot();

    let mut manifests = match manifests_of.metadata().current_snapshot() {
        Some(current) => files::manifest_list(manifests_of, current)?,
        None => Vec::new(),
    };
    // A manifest that only tells what an earlier snapshot removed has told it.
    if change.manifests.is_none() {
        manifests.retain(|manifest| manifest.has_added_files() || manifest.has_existing_files());
    }
    if !change.removed.is_empty() {
        let removed = change.removed.iter().cloned().collect();
        manifests = writer.remove(manifests, &removed, ManifestContentType::Data, &mut summary)?;
    }
    if change.drop_dangling_deletes {
        let added = if faults::bug(Bug::DanglingIgnoresAdded) { &[] } else { change.added.as_slice() };
        let sequence = change.data_sequence.unwrap_or_else(|| metadata.next_sequence_number());
        let dangling = dangling_deletes(base, &manifests, added, sequence)?;
        if !dangling.is_empty() {
            manifests = writer.remove(manifests, &dangling, ManifestContentType::Deletes, &mut summary)?;
        }
    }
    let mut counts = HashMap::new();
    manifests = match &change.manifests {
        Some(rewrite) => writer.rewrite(manifests, *rewrite, &mut counts)?,
        None => writer.merge(manifests)?,
    };
    for (files, content) in
        [(&change.added, ManifestContentType::Data), (&change.deletes, ManifestContentType::Deletes)]
    {
        if !files.is_empty() {
            let spec = metadata.default_partition_spec().clone();
            for file in files {
                summary.add_file(file, metadata.current_schema().clone(), spec.clone());
            }
            manifests.push(writer.add(files, content, change.data_sequence)?);
        }
    }

    let sequence = metadata.next_sequence_number();
    let list = format!("{}/metadata/snap-{snapshot_id}-0-{}.avro", metadata.location(), writer.commit);
    let parent_id = parent.map(|p| p.snapshot_id());
    run_now(async {
        let output = base.storage().file_io().new_output(&list)?.writer().await?;
        let mut writer = ManifestListWriter::v2(output, snapshot_id, parent_id, sequence);
        writer.add_manifests(manifests.into_iter())?;
        writer.close().await
    })
    .map_err(|e| cannot_write("manifest list", &list, e))?;

    let before = parent.map(|p| &p.summary().additional_properties);
    let mut properties = with_totals(summary.build(), before);
    properties.extend(counts);
    properties.extend(change.summary.iter().map(|(k, v)| (k.clone(), v.clone())));
    properties.insert(keys::INTENT_ID.into(), change.intent_id.clone());
    properties.insert(keys::FORMAT.into(), "1".into());
    let mut updates = Vec::new();
    if let Some(pipeline) = change.mirrored() {
        let mirror = mirrored_progress(snapshot_id, &properties);
        updates.push(TableUpdate::SetProperties { updates: HashMap::from([(keys::progress(pipeline), mirror)]) });
    }
    // A snapshot is never older than the one before it, whatever the clock.
    let newest = metadata.snapshots().map(|s| s.timestamp_ms()).max().unwrap_or(0).max(metadata.last_updated_ms());
    let snapshot = Snapshot::builder()
        .with_snapshot_id(snapshot_id)
        .with_parent_snapshot_id(parent_id)
        .with_sequence_number(sequence)
        .with_timestamp_ms(lake.clock().now_millis().max(newest))
        .with_manifest_list(list)
        .with_schema_id(metadata.current_schema_id())
        .with_summary(Summary { operation: change.operation.clone(), additional_properties: properties })
        .build();
    updates.push(TableUpdate::AddSnapshot { snapshot });
    updates.push(TableUpdate::SetSnapshotRef {
        ref_name: "main".into(),
        reference: SnapshotReference::new(snapshot_id, SnapshotRetention::branch(None, None, None)),
    });
    Ok((snapshot_id, updates))
}

/// What the table property `insightera.progress.<pipeline>` holds.
pub fn mirrored_progress(snapshot_id: i64, summary: &HashMap<String, String>) -> String {
    let mut mirror = serde_json::Map::new();
    mirror.insert("snapshot-id".into(), snapshot_id.into());
    for (key, value) in summary {
        if let Some(short) = key.strip_prefix("insightera.").filter(|k| *k != "format") {
            mirror.insert(short.to_owned(), value.clone().into());
        }
    }
    mirror.sort_keys();
    serde_json::Value::Object(mirror).to_string()
}

fn cannot_write(what: &str, location: &str, error: iceberg::Error) -> Error {
    use std::error::Error as _;
    // The durable layer's own error has the kind and the hint: keep them.
    let inner = error.source().and_then(|s| s.downcast_ref::<Error>());
    let (kind, hint) = inner.map_or((insightera_core::ErrorKind::Unavailable, None), |e| (e.kind(), e.get_hint()));
    let message = inner.map_or_else(|| error.to_string(), ToString::to_string);
    let new = Error::new(kind, format!("cannot write the {what} `{location}`: {message}"));
    match hint.map(str::to_owned) {
        Some(hint) => new.hint(hint),
        None => new,
    }
}

struct Writer<'a> {
    base: &'a Table,
    snapshot_id: i64,
    commit: Uuid,
    count: usize,
}

impl Writer<'_> {
    fn manifest(&mut self, spec: PartitionSpec, content: ManifestContentType) -> Result<(String, ManifestWriter)> {
        let metadata = self.base.metadata();
        let location = format!("{}/metadata/{}-m{}.avro", metadata.location(), self.commit, self.count);
        self.count += 1;
        let output =
            self.base.storage().file_io().new_output(&location).map_err(|e| cannot_write("manifest", &location, e))?;
        let schema = metadata.current_schema().clone();
        let builder = ManifestWriterBuilder::new(output, Some(self.snapshot_id), schema, spec);
        let writer = match content {
            ManifestContentType::Data => builder.build_v2_data(),
            ManifestContentType::Deletes => builder.build_v2_deletes(),
        };
        Ok((location, writer))
    }

    fn finish(&self, location: &str, writer: ManifestWriter) -> Result<ManifestFile> {
        run_now(writer.write_manifest_file()).map_err(|e| cannot_write("manifest", location, e))
    }

    fn spec(&self, id: i32) -> Result<PartitionSpec> {
        let found = self.base.metadata().partition_spec_by_id(id);
        found.map(|spec| spec.as_ref().clone()).ok_or_else(|| {
            Error::data(format!(
                "table `{}` has a manifest of partition spec `{id}`, which it does not define",
                self.base.name()
            ))
        })
    }

    fn add(
        &mut self,
        files: &[DataFile],
        content: ManifestContentType,
        data_sequence: Option<i64>,
    ) -> Result<ManifestFile> {
        // A negative number is left to the manifest list.
        let sequence = data_sequence.unwrap_or(-1);
        let spec = self.base.metadata().default_partition_spec().as_ref().clone();
        let (location, mut writer) = self.manifest(spec, content)?;
        for file in files {
            writer.add_file(file.clone(), sequence).map_err(|e| cannot_write("manifest", &location, e))?;
        }
        self.finish(&location, writer)
    }

    /// Marks `removed` as deleted, rewriting only the manifests that hold them.
    fn remove(
        &mut self,
        manifests: Vec<ManifestFile>,
        removed: &HashSet<String>,
        content: ManifestContentType,
        summary: &mut SnapshotSummaryCollector,
    ) -> Result<Vec<ManifestFile>> {
        let mut found = 0;
        let mut kept = Vec::with_capacity(manifests.len());
        for manifest in manifests {
            let entries = files::manifest_entries(self.base, &manifest)?;
            let hit = |e: &iceberg::spec::ManifestEntryRef| e.is_alive() && removed.contains(e.file_path());
            if manifest.content != content || !entries.iter().any(hit) {
                kept.push(manifest);
                continue;
            }
            let spec = self.spec(manifest.partition_spec_id)?;
            let (location, mut writer) = self.manifest(spec.clone(), content)?;
            for entry in entries.iter().filter(|e| e.is_alive()) {
                let (file, sequence) = (entry.data_file(), entry.sequence_number().unwrap_or(0));
                let written = if removed.contains(entry.file_path()) {
                    found += 1;
                    summary.remove_file(file, self.base.schema().clone(), spec.clone().into());
                    writer.add_delete_file(file.clone(), sequence, entry.file_sequence_number)
                } else {
                    let added_by = entry.snapshot_id().unwrap_or(manifest.added_snapshot_id);
                    writer.add_existing_file(file.clone(), added_by, sequence, entry.file_sequence_number)
                };
                written.map_err(|e| cannot_write("manifest", &location, e))?;
            }
            kept.push(self.finish(&location, writer)?);
        }
        if found != removed.len() {
            return Err(Error::conflict(format!(
                "{} of {} files to remove are no longer in table `{}`",
                removed.len() - found,
                removed.len(),
                self.base.name()
            )));
        }
        Ok(kept)
    }

    /// Writes the manifests of a spec anew: entries in the order of their
    /// partitions, as many to a manifest as the target size holds.
    fn rewrite(
        &mut self,
        manifests: Vec<ManifestFile>,
        rewrite: ManifestRewrite,
        counts: &mut HashMap<String, String>,
    ) -> Result<Vec<ManifestFile>> {
        let (old, mut kept): (Vec<_>, Vec<_>) =
            manifests.into_iter().partition(|m| m.partition_spec_id == rewrite.spec_id);
        let (kept_count, replaced) = (kept.len(), old.len());
        let (mut created, mut processed) = (0, 0);
        for content in [ManifestContentType::Data, ManifestContentType::Deletes] {
            let mut bytes = 0;
            let mut entries = Vec::new();
            for manifest in old.iter().filter(|m| m.content == content) {
                bytes += manifest.manifest_length;
                for entry in files::manifest_entries(self.base, manifest)?.iter().filter(|e| e.is_alive()) {
                    let partition = format!("{:?}", entry.data_file().partition());
                    entries.push((partition, entry.clone(), manifest.added_snapshot_id));
                }
            }
            if entries.is_empty() {
                continue;
            }
            entries.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.file_path().cmp(b.1.file_path())));
            processed += entries.len();
            let files = usize::try_from(bytes / rewrite.target_bytes.max(1)).unwrap_or(0) + 1;
            for chunk in entries.chunks(entries.len().div_ceil(files).max(1)) {
                let (location, mut writer) = self.manifest(self.spec(rewrite.spec_id)?, content)?;
                for (_, entry, manifest_snapshot) in chunk {
                    let added_by = entry.snapshot_id().unwrap_or(*manifest_snapshot);
                    let sequence = entry.sequence_number().unwrap_or(0);
                    writer
                        .add_existing_file(entry.data_file().clone(), added_by, sequence, entry.file_sequence_number)
                        .map_err(|e| cannot_write("manifest", &location, e))?;
                }
                kept.push(self.finish(&location, writer)?);
                created += 1;
            }
        }
        for (key, value) in [
            ("manifests-created", created),
            ("manifests-kept", kept_count),
            ("manifests-replaced", replaced),
            ("entries-processed", processed),
        ] {
            counts.insert(key.into(), value.to_string());
        }
        Ok(kept)
    }

    /// Merges small data manifests of one spec when there are many, so that
    /// the cost of a commit and of a scan does not grow with history.
    fn merge(&mut self, manifests: Vec<ManifestFile>) -> Result<Vec<ManifestFile>> {
        let properties = self.base.metadata().properties();
        let setting = |key: &str| properties.get(key).map(String::as_str);
        if setting("commit.manifest-merge.enabled") == Some("false") {
            return Ok(manifests);
        }
        let least =
            setting("commit.manifest.min-count-to-merge").and_then(|v| v.parse().ok()).unwrap_or(MIN_COUNT_TO_MERGE);
        let small = |m: &ManifestFile| m.content == ManifestContentType::Data && m.manifest_length < MERGE_TARGET_BYTES;
        let mut counts: HashMap<i32, usize> = HashMap::new();
        for manifest in manifests.iter().filter(|m| small(m)) {
            *counts.entry(manifest.partition_spec_id).or_default() += 1;
        }
        let mut merged = manifests;
        let mut specs: Vec<i32> = counts.into_iter().filter(|(_, n)| *n >= least.max(2)).map(|(id, _)| id).collect();
        specs.sort_unstable();
        for spec_id in specs {
            let (many, rest): (Vec<_>, Vec<_>) =
                merged.into_iter().partition(|m| small(m) && m.partition_spec_id == spec_id);
            let (location, mut writer) = self.manifest(self.spec(spec_id)?, ManifestContentType::Data)?;
            for manifest in &many {
                for entry in files::manifest_entries(self.base, manifest)?.iter() {
                    if entry.status == ManifestStatus::Deleted {
                        continue;
                    }
                    let added_by = entry.snapshot_id().unwrap_or(manifest.added_snapshot_id);
                    let sequence = entry.sequence_number().unwrap_or(0);
                    writer
                        .add_existing_file(entry.data_file().clone(), added_by, sequence, entry.file_sequence_number)
                        .map_err(|e| cannot_write("manifest", &location, e))?;
                }
            }
            merged = vec![self.finish(&location, writer)?];
            merged.extend(rest);
        }
        Ok(merged)
    }
}

/// The delete files of `manifests` that apply to none of their data files, nor
/// to those that are added with this data sequence number: rows of older files
/// may have been deleted by value while they were written.
fn dangling_deletes(
    base: &Table,
    manifests: &[ManifestFile],
    added: &[DataFile],
    sequence: i64,
) -> Result<HashSet<String>> {
    let mut live = files::LiveFiles::default();
    for file in added {
        let entry = ManifestEntry::builder()
            .status(ManifestStatus::Added)
            .sequence_number(sequence)
            .data_file(file.clone())
            .build();
        let spec_id = base.metadata().default_partition_spec_id();
        live.data.push(files::LiveFile { entry: Arc::new(entry), spec_id });
    }
    for manifest in manifests {
        for entry in files::manifest_entries(base, manifest)?.iter().filter(|e| e.is_alive()) {
            let file = files::LiveFile { entry: entry.clone(), spec_id: manifest.partition_spec_id };
            match manifest.content {
                ManifestContentType::Data => live.data.push(file),
                ManifestContentType::Deletes => live.deletes.push(file),
            }
        }
    }
    let mut dangling: HashSet<String> =
        live.deletes.iter().map(|delete| delete.data_file().file_path().to_owned()).collect();
    let mut named: HashMap<String, HashSet<String>> = HashMap::new();
    for file in &live.data {
        for delete in live.deletes_for(file, base) {
            let path = delete.data_file().file_path();
            if !dangling.contains(path) {
                continue;
            }
            // A delete file of a whole partition names the data files inside.
            let needed = if delete.data_file().content_type() == DataContentType::PositionDeletes
                && delete.data_file().referenced_data_file().is_none()
            {
                if !named.contains_key(path) {
                    let positions = crate::lake::deletes::positions(base.storage(), [delete])?;
                    named.insert(path.to_owned(), positions.into_keys().collect());
                }
                named.get(path).is_some_and(|files| files.contains(file.data_file().file_path()))
            } else {
                true
            };
            if needed {
                dangling.remove(path);
            }
        }
    }
    Ok(dangling)
}

/// Adds the running totals that readers show.
fn with_totals(
    mut summary: HashMap<String, String>,
    before: Option<&HashMap<String, String>>,
) -> HashMap<String, String> {
    const TOTALS: [(&str, &str, &str); 6] = [
        ("total-data-files", "added-data-files", "deleted-data-files"),
        ("total-records", "added-records", "deleted-records"),
        ("total-files-size", "added-files-size", "removed-files-size"),
        ("total-delete-files", "added-delete-files", "removed-delete-files"),
        ("total-position-deletes", "added-position-deletes", "removed-position-deletes"),
        ("total-equality-deletes", "added-equality-deletes", "removed-equality-deletes"),
    ];
    let number = |map: Option<&HashMap<String, String>>, key: &str| {
        map.and_then(|m| m.get(key)).and_then(|v| v.parse::<i64>().ok()).unwrap_or(0)
    };
    for (total, added, removed) in TOTALS {
        let value = number(before, total) + number(Some(&summary), added) - number(Some(&summary), removed);
        summary.insert(total.into(), value.to_string());
    }
    summary
}
