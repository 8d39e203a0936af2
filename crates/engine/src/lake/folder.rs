//! Parquet folders as inputs: listing, hive partitions, fingerprint.
//!
//! The fingerprint is xxh3-64 over the sorted list of (relative path, size,
//! modification time): it says whether anything changed, not what.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use xxhash_rust::xxh3::xxh3_64;

use super::{deletes, durable};
use crate::{Error, Result};

/// One Parquet file of a folder.
#[derive(Debug, Clone)]
pub struct FolderFile {
    /// Its path.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
    /// The values of the hive partition columns, in the folder's order.
    pub partition: Vec<Option<String>>,
}

/// A folder of Parquet files as it stands now.
#[derive(Debug, Clone)]
pub struct Folder {
    /// The folder.
    pub root: PathBuf,
    /// Its files, sorted by path.
    pub files: Vec<FolderFile>,
    /// Names of the hive partition columns.
    pub partition_columns: Vec<String>,
    /// The columns of the files, then the partition columns as strings.
    pub schema: SchemaRef,
    /// The columns of the files.
    pub file_schema: SchemaRef,
    /// Changes when any file does.
    pub fingerprint: String,
}

impl Folder {
    /// Lists a folder and reads its schema.
    ///
    /// # Errors
    /// When the folder is missing or holds no Parquet file, a file is damaged,
    /// or files disagree about a column's type.
    pub fn open(name: &str, root: &Path) -> Result<Self> {
        if !root.is_dir() {
            return Err(Error::not_found(format!("input `{name}` has no folder `{}`", root.display()))
                .hint(format!("correct `[inputs.\"{name}\"] parquet` in insightera.toml")));
        }
        let mut paths = Vec::new();
        list(root, &mut paths)?;
        paths.sort();
        if paths.is_empty() {
            return Err(Error::not_found(format!("input `{name}`: there is no .parquet file in `{}`", root.display())));
        }
        let mut seen = String::new();
        let mut files = Vec::with_capacity(paths.len());
        let mut partition_columns: Option<Vec<String>> = None;
        let mut columns: Vec<Field> = Vec::new();
        for path in paths {
            let meta = fs::metadata(&path).map_err(|e| durable::io_error("read", &path, e))?;
            let modified = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            let relative = path.strip_prefix(root).unwrap_or(&path);
            seen.push_str(&format!("{}\t{}\t{}\n", relative.display(), meta.len(), modified.as_nanos()));
            let parts = hive(relative);
            let names: Vec<String> = parts.iter().map(|(k, _)| k.clone()).collect();
            match &partition_columns {
                None => partition_columns = Some(names),
                Some(known) if *known == names => {}
                Some(known) => {
                    return Err(Error::data(format!(
                        "input `{name}`: `{}` has the partition columns {names:?}, files before it have {known:?}",
                        relative.display()
                    )));
                }
            }
            let (_, parquet) = deletes::open_file(&path)?;
            merge(name, relative, &mut columns, &parquet)?;
            files.push(FolderFile {
                bytes: meta.len(),
                rows: parquet.metadata().file_metadata().num_rows().max(0) as u64,
                partition: parts.into_iter().map(|(_, v)| v).collect(),
                path,
            });
        }
        let partition_columns = partition_columns.unwrap_or_default();
        columns.retain(|f| !partition_columns.contains(f.name()));
        let file_schema = SchemaRef::new(Schema::new(columns.clone()));
        columns.extend(partition_columns.iter().map(|name| Field::new(name, DataType::Utf8, true)));
        Ok(Self {
            root: root.to_owned(),
            files,
            partition_columns,
            schema: SchemaRef::new(Schema::new(columns)),
            file_schema,
            fingerprint: format!("{:016x}", xxh3_64(seen.as_bytes())),
        })
    }

    /// The fingerprint alone, without opening a file.
    pub fn fingerprint_of(root: &Path) -> Result<String> {
        let mut paths = Vec::new();
        list(root, &mut paths)?;
        paths.sort();
        let mut seen = String::new();
        for path in paths {
            let meta = fs::metadata(&path).map_err(|e| durable::io_error("read", &path, e))?;
            let modified = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            let relative = path.strip_prefix(root).unwrap_or(&path);
            seen.push_str(&format!("{}\t{}\t{}\n", relative.display(), meta.len(), modified.as_nanos()));
        }
        Ok(format!("{:016x}", xxh3_64(seen.as_bytes())))
    }
}

/// Parquet files below `root`; names that start with `_` or `.` are not data.
fn list(root: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(root).map_err(|e| durable::io_error("list", root, e))? {
        let path = entry.map_err(|e| durable::io_error("list", root, e))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        if name.starts_with(['_', '.']) {
            continue;
        }
        if path.is_dir() {
            list(&path, found)?;
        } else if name.ends_with(".parquet") {
            found.push(path);
        }
    }
    Ok(())
}

/// `year=2026/month=__HIVE_DEFAULT_PARTITION__` to names and values.
fn hive(relative: &Path) -> Vec<(String, Option<String>)> {
    let folders = relative.parent().into_iter().flat_map(Path::components);
    folders
        .filter_map(|part| part.as_os_str().to_str()?.split_once('='))
        .map(|(name, value)| {
            let value = (value != "__HIVE_DEFAULT_PARTITION__").then(|| unescape(value));
            (name.to_owned(), value)
        })
        .collect()
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Adds a file's columns to those known; a type may widen, not change.
fn merge(name: &str, file: &Path, columns: &mut Vec<Field>, parquet: &ArrowReaderMetadata) -> Result<()> {
    let known: BTreeMap<String, usize> = columns.iter().enumerate().map(|(i, f)| (f.name().clone(), i)).collect();
    for field in parquet.schema().fields() {
        let data_type = query_type(field.data_type());
        match known.get(field.name()) {
            None => columns.push(Field::new(field.name(), data_type, true)),
            Some(&at) if *columns[at].data_type() == data_type => {}
            Some(&at) => {
                let wider = wider(columns[at].data_type(), &data_type).ok_or_else(|| {
                    Error::data(format!(
                        "input `{name}`: column `{}` has type {data_type} in `{}` and {} in the files before it",
                        field.name(),
                        file.display(),
                        columns[at].data_type()
                    ))
                    .hint("write the files with one type")
                })?;
                columns[at] = Field::new(field.name(), wider, true);
            }
        }
    }
    Ok(())
}

/// The type that queries see: strings as views, time in microseconds.
fn query_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        DataType::Dictionary(_, value) => query_type(value),
        DataType::Timestamp(_, zone) => {
            DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, zone.as_ref().map(|_| "UTC".into()))
        }
        other => other.clone(),
    }
}

fn wider(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType as T;
    let rank = |t: &DataType| match t {
        T::Int8 => Some((0, 1)),
        T::Int16 => Some((0, 2)),
        T::Int32 => Some((0, 3)),
        T::Int64 => Some((0, 4)),
        T::Float32 => Some((1, 1)),
        T::Float64 => Some((1, 2)),
        _ => None,
    };
    let (ra, rb) = (rank(a)?, rank(b)?);
    (ra.0 == rb.0).then(|| if ra.1 >= rb.1 { a.clone() } else { b.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hive_folders_become_columns() {
        let parts = hive(Path::new("year=2026/unit=a%2Fb/x=__HIVE_DEFAULT_PARTITION__/part-0.parquet"));
        let want = [("year", Some("2026")), ("unit", Some("a/b")), ("x", None)];
        let want: Vec<_> = want.iter().map(|(k, v)| ((*k).to_owned(), v.map(str::to_owned))).collect();
        assert_eq!(parts, want);
    }
}
