//! Replaces rows by key: position deletes for the old rows, an append for the
//! new, in one commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use iceberg::spec::{DataContentType, DataFileBuilder, DataFileFormat, Operation, Struct};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use uuid::Uuid;

use super::commit::{self, Change, Outcome};
use super::schema::FIELD_ID;
use super::writer::{TableWriter, WriteOptions, write_plain};
use super::{Lake, Table, deletes, files};
use crate::key::{KeySet, Keys};
use crate::{Error, Result};

/// Appends `batches` to `table` in one commit.
pub fn append(lake: &Lake, table: &Table, batches: &[RecordBatch], sorted_by: &[String]) -> Result<Table> {
    let rows = batches.iter().map(RecordBatch::num_rows).sum();
    let options = WriteOptions { bloom: sorted_by.to_vec(), sorted_by: sorted_by.to_vec(), expected_rows: rows };
    let mut writer = TableWriter::new(table, options)?;
    batches.iter().try_for_each(|batch| writer.write(batch))?;
    let change = Change::append(table, writer.finish()?);
    match commit::commit(lake, &change)? {
        Outcome::Committed { table, .. } => Ok(*table),
        Outcome::Stale { .. } => Err(Error::internal("a commit without a fence was stale")),
    }
}

/// Replaces the rows of `table` that have the keys of `rows`, and adds those
/// that are new, in one commit. The table must have no partitions. A row that an
/// equality delete already took out is deleted once more, by its position.
pub fn upsert(lake: &Lake, table: &Table, rows: &RecordBatch, key: &[String]) -> Result<Table> {
    if !table.metadata().default_partition_spec().is_unpartitioned() {
        return Err(Error::invalid(format!("table `{}` is partitioned: upsert needs a table without", table.name())));
    }
    let wanted: KeySet = Keys::new(rows, key)?.hashes().into_iter().collect();
    let live = files::live_files(table, table.current_snapshot_id())?;
    let mut hits: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for file in &live.data {
        let location = file.data_file().file_path();
        let deletes = live.deletes_for(file, table).into_iter();
        let deletes = deletes.filter(|d| d.data_file().content_type() == DataContentType::PositionDeletes);
        let gone = deletes::positions(table.storage(), deletes)?.remove(location).unwrap_or_default();
        let (input, metadata) = deletes::open(table.storage(), location)?;
        let schema = metadata.metadata().file_metadata().schema_descr_ptr();
        let mask = ProjectionMask::columns(&schema, key.iter().map(String::as_str));
        let damaged = |e: &dyn std::fmt::Display| Error::data(format!("`{location}` cannot be read: {e}"));
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata)
            .with_projection(mask)
            .with_batch_size(8192)
            .build()
            .map_err(|e| damaged(&e))?;
        let mut position = 0i64;
        for batch in reader {
            let batch = batch.map_err(|e| damaged(&e))?;
            for hash in Keys::new(&batch, key)?.hashes() {
                if wanted.contains(&hash) && gone.binary_search(&(position as u64)).is_err() {
                    hits.entry(location.to_owned()).or_default().push(position);
                }
                position += 1;
            }
        }
    }
    let mut writer = TableWriter::new(
        table,
        WriteOptions { bloom: key.to_vec(), sorted_by: Vec::new(), expected_rows: rows.num_rows() },
    )?;
    writer.write(rows)?;
    let mut change = Change::append(table, writer.finish()?);
    change.operation = if hits.is_empty() { Operation::Append } else { Operation::Overwrite };
    if !hits.is_empty() {
        change.deletes.push(position_delete_file(table, &hits)?);
    }
    match commit::commit(lake, &change)? {
        Outcome::Committed { table, .. } => Ok(*table),
        Outcome::Stale { .. } => Err(Error::internal("a commit without a fence was stale")),
    }
}

/// Writes one position delete file for an unpartitioned table.
pub fn position_delete_file(table: &Table, hits: &BTreeMap<String, Vec<i64>>) -> Result<iceberg::spec::DataFile> {
    delete_file(table, &position_rows(hits)?, DataContentType::PositionDeletes, None)
}

/// The rows of a position delete file, in the order of paths and positions.
pub(super) fn position_rows(hits: &BTreeMap<String, Vec<i64>>) -> Result<RecordBatch> {
    let field = |name: &str, data_type, id: i32| {
        Field::new(name, data_type, false).with_metadata([(FIELD_ID.to_owned(), id.to_string())].into())
    };
    let schema = Arc::new(Schema::new(vec![
        field("file_path", DataType::Utf8, deletes::FILE_PATH_ID),
        field("pos", DataType::Int64, deletes::POSITION_ID),
    ]));
    let pairs: Vec<(&str, i64)> =
        hits.iter().flat_map(|(path, rows)| rows.iter().map(move |row| (path.as_str(), *row))).collect();
    let paths = StringArray::from_iter_values(pairs.iter().map(|(path, _)| *path));
    let rows = Int64Array::from_iter_values(pairs.iter().map(|(_, row)| *row));
    RecordBatch::try_new(schema, vec![Arc::new(paths), Arc::new(rows)])
        .map_err(|e| Error::internal(format!("position deletes: {e}")))
}

/// Writes one equality delete file for an unpartitioned table: rows of older
/// commits that have these values in all columns of `keys` are gone.
pub fn equality_delete_file(table: &Table, keys: &RecordBatch) -> Result<iceberg::spec::DataFile> {
    let schema = table.metadata().current_schema();
    let (mut fields, mut ids) = (Vec::new(), Vec::new());
    for field in keys.schema().fields() {
        let id = schema
            .field_id_by_name(field.name())
            .ok_or_else(|| Error::not_found(format!("table `{}` has no column `{}`", table.name(), field.name())))?;
        ids.push(id);
        fields.push(field.as_ref().clone().with_metadata([(FIELD_ID.to_owned(), id.to_string())].into()));
    }
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), keys.columns().to_vec())
        .map_err(|e| Error::internal(format!("equality deletes: {e}")))?;
    delete_file(table, &batch, DataContentType::EqualityDeletes, Some(ids))
}

fn delete_file(
    table: &Table,
    batch: &RecordBatch,
    content: DataContentType,
    equality_ids: Option<Vec<i32>>,
) -> Result<iceberg::spec::DataFile> {
    let location = format!("{}/data/{}-deletes.parquet", table.metadata().location(), Uuid::now_v7());
    let (bytes, parquet) = write_plain(table.storage(), &location, batch)?;
    DataFileBuilder::default()
        .content(content)
        .equality_ids(equality_ids)
        .file_path(location)
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::empty())
        .partition_spec_id(table.metadata().default_partition_spec_id())
        .record_count(parquet.file_metadata().num_rows().max(0) as u64)
        .file_size_in_bytes(bytes)
        .build()
        .map_err(|e| Error::internal(format!("an incomplete delete file description: {e}")))
}
