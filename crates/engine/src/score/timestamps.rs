//! The `timestamp` strategy: keys of folder rows that are not older than the
//! newest one consumed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use parquet::file::statistics::Statistics;

use crate::key::{KeySet, Keys};
use crate::lake::deletes;
use crate::lake::folder::Folder;
use crate::{Error, Result};

/// The keys found, and what was read for them.
#[derive(Debug, Default)]
pub struct Found {
    /// The keys.
    pub keys: KeySet,
    /// Bytes of the files with such rows.
    pub bytes: u64,
    /// How many files.
    pub files: u64,
}

/// Keys of rows with `column >= since` (microseconds). A null time counts as
/// new. Row groups whose statistics say that all rows are older are skipped.
pub fn newer_keys(name: &str, root: &Path, key: &[String], column: &str, since: i64, threads: usize) -> Result<Found> {
    let folder = Arc::new(Folder::open(name, root)?);
    let next = AtomicUsize::new(0);
    let work = || -> Result<Found> {
        let mut found = Found::default();
        while let Some(file) = folder.files.get(next.fetch_add(1, Ordering::Relaxed)) {
            if scan(&file.path, key, column, since, &mut found.keys)? {
                found.bytes += file.bytes;
                found.files += 1;
            }
        }
        Ok(found)
    };
    let parts: Vec<Result<Found>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        handles
            .into_iter()
            .map(|h| h.join().unwrap_or_else(|_| Err(Error::internal("a reading thread ended early"))))
            .collect()
    });
    let mut all = Found::default();
    for part in parts {
        let part = part?;
        all.keys.extend(part.keys);
        all.bytes += part.bytes;
        all.files += part.files;
    }
    Ok(all)
}

/// The largest value of `column` in a folder, in microseconds.
pub fn newest(name: &str, root: &Path, column: &str) -> Result<Option<i64>> {
    let folder = Folder::open(name, root)?;
    let mut newest: Option<i64> = None;
    for file in &folder.files {
        let location = file.path.display().to_string();
        let (input, metadata) = deletes::open_file(&file.path)?;
        let schema = metadata.metadata().file_metadata().schema_descr_ptr();
        let Some(leaf) = (0..schema.num_columns()).find(|i| schema.column(*i).name() == column) else { continue };
        if let Some(known) = newest_of_groups(&metadata, leaf, column) {
            newest = newest.max(known);
            continue;
        }
        let mask = ProjectionMask::leaves(&schema, [leaf]);
        let damaged = |e: &dyn std::fmt::Display| Error::data(format!("`{location}` cannot be read: {e}"));
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata)
            .with_projection(mask)
            .with_batch_size(8192);
        for batch in reader.build().map_err(|e| damaged(&e))? {
            let batch = batch.map_err(|e| damaged(&e))?;
            let micros = micros(&batch, 0).map_err(|e| damaged(&e))?;
            newest = newest.max(arrow::compute::max(micros.as_primitive::<Int64Type>()));
        }
    }
    Ok(newest)
}

/// The largest value according to the statistics of the row groups, if all of
/// them say it exactly; there is none where all values are null.
fn newest_of_groups(metadata: &ArrowReaderMetadata, leaf: usize, column: &str) -> Option<Option<i64>> {
    let unit = micros_of_unit(metadata, column)?;
    let mut newest = None;
    for group in metadata.metadata().row_groups() {
        let Some(Statistics::Int64(statistics)) = group.column(leaf).statistics() else { return None };
        match statistics.max_opt() {
            Some(max) if statistics.max_is_exact() => newest = newest.max(Some(max.saturating_mul(unit))),
            None if statistics.null_count_opt() == Some(group.num_rows().max(0) as u64) => {}
            _ => return None,
        }
    }
    Some(newest)
}

/// Microseconds of the unit in which a column's times are stored.
fn micros_of_unit(metadata: &ArrowReaderMetadata, column: &str) -> Option<i64> {
    match metadata.schema().field_with_name(column).map(|f| f.data_type()) {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, _)) => Some(1),
        Ok(DataType::Timestamp(TimeUnit::Millisecond, _)) => Some(1000),
        _ => None,
    }
}

fn micros(batch: &RecordBatch, column: usize) -> std::result::Result<arrow::array::ArrayRef, arrow::error::ArrowError> {
    let column = batch.column(column);
    let time = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
    cast(&time, &DataType::Int64)
}

fn scan(path: &Path, key: &[String], column: &str, since: i64, keys: &mut KeySet) -> Result<bool> {
    let location = path.display().to_string();
    let damaged = |e: &dyn std::fmt::Display| Error::data(format!("`{location}` cannot be read: {e}"));
    let (input, metadata) = deletes::open_file(path)?;
    let schema = metadata.metadata().file_metadata().schema_descr_ptr();
    let leaf = |name: &str| (0..schema.num_columns()).find(|i| schema.column(*i).name() == name);
    let time = leaf(column).ok_or_else(|| damaged(&format!("it has no column `{column}`")))?;
    let mut leaves = vec![time];
    for name in key {
        leaves.push(leaf(name).ok_or_else(|| damaged(&format!("it has no column `{name}`")))?);
    }
    let unit = micros_of_unit(&metadata, column);
    let groups: Vec<usize> = metadata
        .metadata()
        .row_groups()
        .iter()
        .enumerate()
        .filter(|(_, group)| {
            let statistics = group.column(time).statistics();
            let (Some(Statistics::Int64(s)), Some(unit)) = (statistics, unit) else { return true };
            let old = s.max_opt().is_some_and(|max| max.saturating_mul(unit) < since);
            !(old && s.null_count_opt() == Some(0))
        })
        .map(|(index, _)| index)
        .collect();
    if groups.is_empty() {
        return Ok(false);
    }
    let mask = ProjectionMask::leaves(&schema, leaves);
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata)
        .with_projection(mask)
        .with_row_groups(groups)
        .with_batch_size(8192);
    let mut hit = false;
    for batch in reader.build().map_err(|e| damaged(&e))? {
        let batch = batch.map_err(|e| damaged(&e))?;
        let index = batch.schema().index_of(column).map_err(|e| damaged(&e))?;
        let times = micros(&batch, index).map_err(|e| damaged(&e))?;
        let times = times.as_primitive::<Int64Type>();
        let newer: BooleanArray =
            (0..batch.num_rows()).map(|r| Some(times.is_null(r) || times.value(r) >= since)).collect();
        if newer.true_count() > 0 {
            hit = true;
            let rows = filter_record_batch(&batch, &newer).map_err(|e| damaged(&e))?;
            keys.extend(Keys::new(&rows, key)?.hashes());
        }
    }
    Ok(hit)
}
