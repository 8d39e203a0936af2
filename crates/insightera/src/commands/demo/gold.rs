//! The university's gold layer: Iceberg tables and Parquet folders.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use insightera_engine::lake::commit::{Change, Outcome, commit};
use insightera_engine::lake::schema::Column;
use insightera_engine::lake::writer::{TableWriter, WriteOptions};
use insightera_engine::lake::{NewTable, TableName, default_properties, upsert};
use insightera_engine::{Error, Result, Workspace};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::folder::{GOLD, failed};
use crate::progress::Bar;
use crate::university::{GoldTable, NextDay, Storage, University};

/// Rows of a data file.
const CHUNK: usize = 1 << 16;

/// How hive names the folder of a null.
const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// Where a Parquet input is, relative to the project.
pub fn folder_of(table: &str) -> PathBuf {
    Path::new(GOLD).join(table.replace('.', "/"))
}

/// The Parquet inputs.
pub fn parquet_folders(university: &University) -> Vec<PathBuf> {
    let folders = university.tables().into_iter().filter(|table| table.storage == Storage::ParquetFolder);
    folders.map(|table| folder_of(table.name)).collect()
}

/// Writes all tables; says how many rows they have.
pub fn write(workspace: &Workspace, university: &University, bar: &Bar) -> anyhow::Result<u64> {
    let mut rows = 0;
    for table in university.tables() {
        bar.stage(table.name, Some(university.rows(table.name)));
        match table.storage {
            Storage::Iceberg => write_iceberg(workspace, university, table, bar)?,
            Storage::ParquetFolder => {
                let dir = workspace.project().dir.join(folder_of(table.name));
                write_folder(&dir, university, table, bar)?;
            }
        }
        rows += university.rows(table.name);
    }
    Ok(rows)
}

/// Replaces and adds the rows of the next day: one commit per table.
pub fn apply(workspace: &Workspace, university: &University, day: &NextDay) -> anyhow::Result<()> {
    for (name, rows) in &day.upserts {
        let key = university.tables().into_iter().find(|table| table.name == *name).map(|table| key(&table));
        let table = workspace.lake().table(&TableName::parse(name)?)?;
        upsert::upsert(workspace.lake(), &table, rows, &key.unwrap_or_default())?;
    }
    Ok(())
}

fn key(table: &GoldTable) -> Vec<String> {
    table.key.iter().map(|column| (*column).to_owned()).collect()
}

/// One commit; the files are written side by side, each with a range of keys.
fn write_iceberg(workspace: &Workspace, university: &University, gold: GoldTable, bar: &Bar) -> Result<()> {
    let schema = university.schema(gold.name);
    let columns = schema.fields().iter().map(|field| Column {
        name: field.name().clone(),
        data_type: field.data_type().clone(),
        nullable: field.is_nullable(),
        doc: None,
    });
    let table = workspace.lake().create_table(&NewTable {
        name: TableName::parse(gold.name)?,
        columns: columns.collect(),
        partition_by: Vec::new(),
        properties: default_properties(),
        location: None,
    })?;
    let chunks = university.rows(gold.name).div_ceil(CHUNK as u64);
    let next = AtomicU64::new(0);
    let written = Mutex::new(BTreeMap::new());
    let work = || -> Result<()> {
        loop {
            let chunk = next.fetch_add(1, Ordering::Relaxed);
            if chunk >= chunks {
                return Ok(());
            }
            let rows = university.batch(gold.name, chunk * CHUNK as u64, CHUNK);
            let options = WriteOptions { bloom: key(&gold), sorted_by: key(&gold), expected_rows: rows.num_rows() };
            let mut writer = TableWriter::new(&table, options)?;
            writer.write(&rows)?;
            let files = writer.finish()?;
            bar.rows(rows.num_rows() as u64);
            written.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(chunk, files);
        }
    };
    let workers = workspace.threads().min(usize::try_from(chunks).unwrap_or(1)).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| Error::internal("a writer stopped"))?)
    })?;
    let files = written.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    match commit(workspace.lake(), &Change::append(&table, files.into_values().flatten().collect()))? {
        Outcome::Committed { .. } => Ok(()),
        Outcome::Stale { .. } => Err(Error::internal("a commit without a fence was stale")),
    }
}

fn write_folder(dir: &Path, university: &University, gold: GoldTable, bar: &Bar) -> Result<()> {
    let mut writers: BTreeMap<String, ArrowWriter<File>> = BTreeMap::new();
    let mut start = 0;
    while start < university.rows(gold.name) {
        let rows = university.batch(gold.name, start, CHUNK);
        start += CHUNK as u64;
        bar.rows(rows.num_rows() as u64);
        for (folder, part) in split(&rows, gold.partition_column)? {
            let path = dir.join(&folder).join("part-00000.parquet");
            let cannot = |e: parquet::errors::ParquetError| {
                Error::unavailable(format!("cannot write `{}`", path.display())).cause(e)
            };
            let writer = match writers.entry(folder) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => entry.insert(open(&path, &part)?),
            };
            writer.write(&part).map_err(cannot)?;
        }
    }
    for (folder, writer) in writers {
        writer
            .close()
            .map_err(|e| Error::unavailable(format!("cannot write `{}`", dir.join(folder).display())).cause(e))?;
    }
    Ok(())
}

/// Creates a Parquet file, Snappy as in the lake.
pub fn open(path: &Path, rows: &RecordBatch) -> Result<ArrowWriter<File>> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| failed("make", parent, e))?;
    }
    let file = File::create(path).map_err(|e| failed("make", path, e))?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    ArrowWriter::try_new(file, rows.schema(), Some(properties))
        .map_err(|e| Error::unavailable(format!("cannot write `{}`", path.display())).cause(e))
}

/// The rows by the folder they go to. The partition column's value is the
/// folder's name, so the files are without it.
fn split(rows: &RecordBatch, column: Option<&str>) -> Result<Vec<(String, RecordBatch)>> {
    let Some(column) = column else { return Ok(vec![(String::new(), rows.clone())]) };
    let failed = |e: arrow::error::ArrowError| Error::internal(format!("rows by `{column}`: {e}"));
    let index = rows.schema().index_of(column).map_err(failed)?;
    let values = rows.column(index).as_string::<i32>().clone();
    let mut distinct: Vec<Option<&str>> = values.iter().collect();
    distinct.sort_unstable();
    distinct.dedup();
    let mut rest = rows.clone();
    rest.remove_column(index);
    distinct
        .into_iter()
        .map(|value| {
            let mask: BooleanArray =
                (0..values.len()).map(|row| Some((!values.is_null(row)).then(|| values.value(row)) == value)).collect();
            let part = filter_record_batch(&rest, &mask).map_err(failed)?;
            Ok((format!("{column}={}", value.unwrap_or(NULL_PARTITION)), part))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;

    #[test]
    fn a_partition_column_moves_into_the_folder_name() {
        let schema =
            Schema::new(vec![Field::new("rank", DataType::Utf8, true), Field::new("n", DataType::Int32, false)]);
        let rank = StringArray::from(vec![Some("b"), Some("a"), None, Some("b")]);
        let rows =
            RecordBatch::try_new(Arc::new(schema), vec![Arc::new(rank), Arc::new(Int32Array::from(vec![1, 2, 3, 4]))])
                .unwrap();
        let parts = split(&rows, Some("rank")).unwrap();
        let shape: Vec<(&str, usize, usize)> =
            parts.iter().map(|(folder, part)| (folder.as_str(), part.num_rows(), part.num_columns())).collect();
        assert_eq!(shape, [("rank=__HIVE_DEFAULT_PARTITION__", 1, 1), ("rank=a", 1, 1), ("rank=b", 2, 1)]);
    }
}
