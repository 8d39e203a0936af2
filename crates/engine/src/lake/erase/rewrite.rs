//! Files without the entity: data files, delete files, manifests, lists.
//!
//! What was written is kept by the name of the file that it replaces: a table
//! that others changed meanwhile needs little more.

use std::collections::{BTreeMap, HashMap};

use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Manifest, ManifestContentType, ManifestFile,
    ManifestListWriter, ManifestStatus, ManifestWriterBuilder,
};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::Type;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use uuid::Uuid;

use super::MARK;
use super::history::{Fate, History, Replaced, snapshot_list};
use crate::lake::files::{self, LiveFile};
use crate::lake::keyed::in_parallel;
use crate::lake::storage::Storage;
use crate::lake::table::Table;
use crate::lake::upsert::position_rows;
use crate::lake::writer::{self, Tee, write_plain};
use crate::lake::{deletes, run_now};
use crate::{Error, Result};

/// Threads that write data files.
const THREADS: usize = 2;

/// What was written, by what it replaces; `None` where nothing is left.
#[derive(Debug, Default)]
pub(super) struct Written {
    files: BTreeMap<String, Option<DataFile>>,
    manifests: BTreeMap<String, Option<ManifestFile>>,
}

impl Written {
    /// What a file became, if it was replaced.
    pub fn file(&self, path: &str) -> Option<&Option<DataFile>> {
        self.files.get(path)
    }

    /// What a manifest became, if it was replaced.
    pub fn manifest(&self, path: &str) -> Option<&Option<ManifestFile>> {
        self.manifests.get(path)
    }

    /// Writes the data files and delete files, durably.
    pub fn write(&mut self, table: &Table, history: &History, replaced: &Replaced) -> Result<()> {
        let new: Vec<(&String, &Fate)> =
            replaced.files.iter().filter(|(path, _)| !self.files.contains_key(*path)).collect();
        let of = |path: &String| history.file(path);
        let rewritten = in_parallel(&new, THREADS, |(path, fate)| match fate {
            Fate::Rows(rows) => rewrite_file(table, of(path)?, rows).map(Some),
            Fate::Unbounded => rebuilt(of(path)?, of(path)?.data_file().file_path()).map(|file| Some(Some(file))),
            Fate::Positions => Ok(None),
        })?;
        for ((path, _), file) in new.iter().zip(rewritten) {
            if let Some(file) = file {
                self.files.insert((*path).clone(), file);
            }
        }
        // Positions need to know what the data files became.
        for (path, fate) in new {
            if *fate == Fate::Positions {
                let file = self.translate(table.storage(), history.file(path)?, replaced)?;
                self.files.insert(path.clone(), file);
            }
        }
        let storage = table.storage();
        let paths = self.files.values().flatten().map(DataFile::file_path);
        storage.sync_names(paths.filter(|path| storage.exists(path)))
    }

    /// The position deletes of rows that are left, at the places they have now.
    fn translate(&self, storage: &Storage, delete: &LiveFile, replaced: &Replaced) -> Result<Option<DataFile>> {
        let old = delete.data_file();
        let mut rows: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for (path, positions) in deletes::positions(storage, [delete])? {
            let (Some(Fate::Rows(erased)), Some(new)) = (replaced.files.get(&path), self.files.get(&path)) else {
                rows.insert(path, positions.into_iter().map(|row| row as i64).collect());
                continue;
            };
            let Some(new) = new else { continue };
            let kept = positions.into_iter().filter(|row| erased.binary_search(row).is_err());
            let moved: Vec<i64> =
                kept.map(|row| (row - erased.partition_point(|gone| *gone < row) as u64) as i64).collect();
            if !moved.is_empty() {
                rows.insert(new.file_path().to_owned(), moved);
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let referenced = old.referenced_data_file().map(|path| match self.files.get(&path) {
            Some(Some(new)) => new.file_path().to_owned(),
            _ => path,
        });
        let location = beside(old.file_path(), "-deletes");
        let (bytes, parquet) = write_plain(storage, &location, &position_rows(&rows)?)?;
        DataFileBuilder::default()
            .content(DataContentType::PositionDeletes)
            .file_path(location)
            .file_format(DataFileFormat::Parquet)
            .partition(old.partition().clone())
            .partition_spec_id(delete.spec_id)
            .record_count(parquet.file_metadata().num_rows().max(0) as u64)
            .file_size_in_bytes(bytes)
            .referenced_data_file(referenced)
            .build()
            .map(Some)
            .map_err(incomplete)
    }

    /// Writes the manifests that name replaced files, and the lists of the
    /// snapshots that name those. Answers the lists by snapshot.
    pub fn lists(&mut self, table: &Table, history: &History) -> Result<BTreeMap<i64, String>> {
        for (path, manifest) in &history.manifests {
            let entries = files::manifest_entries(table, manifest)?;
            let hit = entries.iter().any(|entry| self.files.contains_key(entry.file_path()));
            if hit && !self.manifests.contains_key(path) {
                let new = self.rewrite_manifest(table, manifest, &entries)?;
                self.manifests.insert(path.clone(), new);
            }
        }
        let mut lists = BTreeMap::new();
        for (snapshot, manifests) in &history.snapshots {
            if !manifests.iter().any(|path| self.manifests.contains_key(path)) {
                continue;
            }
            let id = snapshot.snapshot_id();
            let kept: Vec<ManifestFile> = snapshot_list(table, snapshot)?
                .into_iter()
                .filter_map(|manifest| match self.manifests.get(&manifest.manifest_path) {
                    None => Some(manifest),
                    Some(new) => new.clone(),
                })
                .collect();
            let location =
                format!("{}/metadata/snap-{id}-0-{}{MARK}.avro", table.metadata().location(), Uuid::new_v4());
            run_now(async {
                let output = table.storage().file_io().new_output(&location)?.writer().await?;
                let (parent, sequence) = (snapshot.parent_snapshot_id(), snapshot.sequence_number());
                let mut writer = ManifestListWriter::v2(output, id, parent, sequence);
                writer.add_manifests(kept.into_iter())?;
                writer.close().await
            })
            .map_err(|e| cannot_write(&location, e))?;
            lists.insert(id, location);
        }
        Ok(lists)
    }

    fn rewrite_manifest(
        &self,
        table: &Table,
        manifest: &ManifestFile,
        entries: &[iceberg::spec::ManifestEntryRef],
    ) -> Result<Option<ManifestFile>> {
        let bytes = table.storage().read(&manifest.manifest_path)?;
        let parsed = Manifest::parse_avro(&bytes)
            .map_err(|e| Error::data(format!("the manifest `{}` cannot be read", manifest.manifest_path)).cause(e))?;
        let location = format!("{}/metadata/{}{MARK}-m0.avro", table.metadata().location(), Uuid::new_v4());
        let output = table.storage().file_io().new_output(&location).map_err(|e| cannot_write(&location, e))?;
        let (schema, spec) = (parsed.metadata().schema().clone(), parsed.metadata().partition_spec().clone());
        let builder = ManifestWriterBuilder::new(output, Some(manifest.added_snapshot_id), schema, spec);
        let mut writer = match manifest.content {
            ManifestContentType::Data => builder.build_v2_data(),
            ManifestContentType::Deletes => builder.build_v2_deletes(),
        };
        let mut count = 0;
        for entry in entries {
            let file = match self.files.get(entry.file_path()) {
                None => entry.data_file().clone(),
                Some(Some(new)) => new.clone(),
                Some(None) => continue,
            };
            count += 1;
            let added_by = entry.snapshot_id().unwrap_or(manifest.added_snapshot_id);
            let (sequence, file_sequence) = (entry.sequence_number().unwrap_or(0), entry.file_sequence_number);
            if entry.status != ManifestStatus::Existing && added_by != manifest.added_snapshot_id {
                return Err(Error::data(format!(
                    "the manifest `{}` of snapshot {} says what snapshot {added_by} did",
                    manifest.manifest_path, manifest.added_snapshot_id
                ))
                .hint("`CALL system.rewrite_manifests` and expire the snapshots before it"));
            }
            match entry.status {
                ManifestStatus::Added => writer.add_file(file, sequence),
                ManifestStatus::Existing => writer.add_existing_file(file, added_by, sequence, file_sequence),
                ManifestStatus::Deleted => writer.add_delete_file(file, sequence, file_sequence),
            }
            .map_err(|e| cannot_write(&location, e))?;
        }
        if count == 0 {
            return Ok(None);
        }
        let mut new = run_now(writer.write_manifest_file()).map_err(|e| cannot_write(&location, e))?;
        new.sequence_number = manifest.sequence_number;
        new.min_sequence_number = manifest.min_sequence_number;
        Ok(Some(new))
    }
}

/// A new name in the same folder.
fn beside(location: &str, suffix: &str) -> String {
    let folder = location.rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{folder}/{}{MARK}{suffix}.parquet", Uuid::now_v7())
}

/// A data file, or deletes by value, without some rows; `None` when it had no
/// others.
fn rewrite_file(table: &Table, file: &LiveFile, erased: &[u64]) -> Result<Option<DataFile>> {
    let old = file.data_file();
    let (input, metadata) = deletes::open(table.storage(), old.file_path())?;
    let damaged = |e: &dyn std::fmt::Display| Error::data(format!("`{}` cannot be read: {e}", old.file_path()));
    let groups = metadata.metadata().row_groups();
    let total: u64 = groups.iter().map(|group| group.num_rows().max(0) as u64).sum();
    if erased.len() as u64 >= total {
        return Ok(None);
    }
    let location = beside(old.file_path(), "");
    let options = ArrowWriterOptions::new()
        .with_properties(properties(&metadata, old.file_path())?)
        .with_skip_arrow_metadata(true)
        .with_parquet_schema(metadata.metadata().file_metadata().schema_descr().clone());
    let mut writer =
        ArrowWriter::try_new_with_options(Tee::create(table.storage(), &location)?, metadata.schema().clone(), options)
            .map_err(|e| writer::cannot_encode(&location, e))?;
    let mut start = 0u64;
    for (number, group) in groups.iter().enumerate() {
        let rows = group.num_rows().max(0) as u64;
        let inside = erased.partition_point(|row| *row < start)..erased.partition_point(|row| *row < start + rows);
        let input = input.try_clone().map_err(|e| damaged(&e))?;
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata.clone())
            .with_row_groups(vec![number])
            .with_row_selection(deletes::selection(&erased[inside], start, rows, false))
            .with_batch_size(8192)
            .build()
            .map_err(|e| damaged(&e))?;
        for batch in reader {
            writer.write(&batch.map_err(|e| damaged(&e))?).map_err(|e| writer::cannot_encode(&location, e))?;
        }
        writer.flush().map_err(|e| writer::cannot_encode(&location, e))?;
        start += rows;
    }
    let parquet = writer.finish().map_err(|e| writer::cannot_encode(&location, e))?;
    let bytes = writer.inner_mut().finish()?;
    let written = parquet.file_metadata().num_rows().max(0) as u64;
    if written + erased.len() as u64 != total {
        return Err(Error::internal(format!(
            "`{}` has {total} rows, {} are to go, and {written} were written; nothing was committed",
            old.file_path(),
            erased.len()
        )));
    }
    let mut builder = writer::statistics(&parquet, table.schema());
    builder
        .content(old.content_type())
        .equality_ids(old.equality_ids())
        .file_path(location)
        .file_format(DataFileFormat::Parquet)
        .partition(old.partition().clone())
        .partition_spec_id(file.spec_id)
        .record_count(written)
        .file_size_in_bytes(bytes);
    if let Some(order) = old.sort_order_id() {
        builder.sort_order_id(order);
    }
    builder.build().map(Some).map_err(incomplete)
}

/// The writer's settings that the file itself shows.
fn properties(metadata: &ArrowReaderMetadata, location: &str) -> Result<WriterProperties> {
    let file = metadata.metadata();
    let mut builder = WriterProperties::builder()
        .set_created_by(format!("insightera {}", env!("CARGO_PKG_VERSION")))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_key_value_metadata(file.file_metadata().key_value_metadata().cloned())
        .set_max_row_group_row_count(None);
    if let Some(group) = file.row_groups().first() {
        builder = builder.set_sorting_columns(group.sorting_columns().cloned());
        for column in group.columns() {
            let path = column.column_path().clone();
            if column.column_type() == Type::INT96 {
                return Err(Error::invalid(format!(
                    "column `{}` of `{location}` has Parquet's old type INT96, which is read only here",
                    path.string()
                ))
                .hint("rewrite the table with `CALL system.rewrite_data_files`, and expire the older snapshots"));
            }
            builder = builder
                .set_column_compression(path.clone(), column.compression())
                .set_column_dictionary_enabled(path.clone(), column.dictionary_page_offset().is_some());
            if column.bloom_filter_offset().is_some() {
                builder = builder
                    .set_column_bloom_filter_ndv(path.clone(), group.num_rows().max(1024) as u64)
                    .set_column_bloom_filter_fpp(path, 0.01);
            }
        }
    }
    Ok(builder.build())
}

/// The same description without bounds: of a file that is not there any more
/// and that only tells of its removal.
fn rebuilt(file: &LiveFile, location: &str) -> Result<DataFile> {
    let old = file.data_file();
    let mut builder = DataFileBuilder::default();
    builder
        .content(old.content_type())
        .equality_ids(old.equality_ids())
        .file_path(location.to_owned())
        .file_format(old.file_format())
        .partition(old.partition().clone())
        .partition_spec_id(file.spec_id)
        .record_count(old.record_count())
        .file_size_in_bytes(old.file_size_in_bytes())
        .lower_bounds(HashMap::new())
        .upper_bounds(HashMap::new())
        .referenced_data_file(old.referenced_data_file());
    builder.build().map_err(incomplete)
}

fn incomplete(error: impl std::fmt::Display) -> Error {
    Error::internal(format!("an incomplete file description: {error}"))
}

fn cannot_write(location: &str, error: iceberg::Error) -> Error {
    use std::error::Error as _;
    let inner = error.source().and_then(|source| source.downcast_ref::<Error>());
    let kind = inner.map_or(insightera_core::ErrorKind::Unavailable, Error::kind);
    let message = inner.map_or_else(|| error.to_string(), ToString::to_string);
    Error::new(kind, format!("cannot write `{location}`: {message}"))
}
