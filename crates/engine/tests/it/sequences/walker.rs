//! Walks from the catalog's pointers to every file that some snapshot needs,
//! and reads the rows of every snapshot, with the parsers of the Iceberg and
//! Parquet crates and nothing of ours: neither the reader nor what removes
//! files.
//!
//! Every file is read again at every walk; what was parsed before is used
//! again only if the bytes are the same.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type};
use iceberg::spec::{DataContentType, FormatVersion, Manifest, ManifestList, ManifestStatus};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// A row: the student's number, and how many of the columns that came later
/// have a value.
pub type Row = (usize, usize);
/// How often each row is there.
pub type Rows = BTreeMap<Row, usize>;

/// The columns that a table is made with; later ones have higher numbers.
pub const FIRST_COLUMNS: usize = 3;

/// What a walk found of one table.
#[derive(Debug)]
pub struct Found {
    pub uuid: String,
    /// Columns that came later.
    pub columns: usize,
    pub current: Option<i64>,
    /// Tags and branches beside `main`.
    pub refs: BTreeMap<String, i64>,
    pub snapshots: BTreeMap<i64, Snapshot>,
}

#[derive(Debug)]
pub struct Snapshot {
    pub sequence: i64,
    pub parent: Option<i64>,
    pub rows: Rows,
}

impl Found {
    /// The rows of the current snapshot.
    pub fn rows(&self) -> Rows {
        self.current.and_then(|id| self.snapshots.get(&id)).map(|s| s.rows.clone()).unwrap_or_default()
    }

    /// The current snapshot and those before it.
    pub fn line(&self) -> Vec<i64> {
        let mut line = Vec::new();
        let mut next = self.current;
        while let Some((id, snapshot)) = next.and_then(|id| self.snapshots.get_key_value(&id)) {
            line.push(*id);
            next = snapshot.parent;
        }
        line
    }

    /// All snapshots, oldest first.
    pub fn ordered(&self) -> Vec<i64> {
        let mut ids: Vec<i64> = self.snapshots.keys().copied().collect();
        ids.sort_by_key(|id| self.snapshots[id].sequence);
        ids
    }
}

/// One live file of a manifest.
struct Entry {
    path: String,
    content: DataContentType,
    /// Given by the manifest list where the manifest leaves it out.
    sequence: Option<i64>,
    rows: u64,
    bytes: u64,
}

/// What a list says of a manifest.
struct Listed {
    path: String,
    bytes: i64,
    sequence: i64,
}

/// What stands in a Parquet file.
enum Content {
    Data(Vec<Row>),
    Positions(Vec<(String, u64)>),
    Values(HashSet<usize>),
}

enum Parsed {
    List(Vec<Listed>),
    Manifest(Vec<Entry>),
    Parquet(Content),
}

type Parse<'a> = &'a dyn Fn(&[u8]) -> Result<Parsed, String>;

/// The walker and what it has parsed.
#[derive(Default)]
pub struct Walker {
    parsed: HashMap<String, (Vec<u8>, Rc<Parsed>)>,
    /// Files that this walk has read.
    seen: HashMap<String, Rc<Parsed>>,
    /// Who is in Parquet files, reachable or not, by their bytes.
    people: HashMap<Vec<u8>, HashSet<usize>>,
}

pub fn path_of(location: &str) -> PathBuf {
    PathBuf::from(location.trim_start_matches("file://"))
}

fn read(location: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path_of(location)).map_err(|e| format!("a reachable file is lost: {location}: {e}"))
}

impl Walker {
    /// Walks one table from its pointer.
    pub fn walk(&mut self, pointer: &str) -> Result<Found, String> {
        self.seen.clear();
        let metadata = metadata(pointer)?;
        for logged in list(&metadata, "metadata-log") {
            read(text(logged, "metadata-file"))?;
        }
        let mut snapshots = BTreeMap::new();
        for snapshot in list(&metadata, "snapshots") {
            let id = snapshot["snapshot-id"].as_i64().ok_or("a snapshot without an id")?;
            let rows = self.snapshot(snapshot).map_err(|e| format!("snapshot {id}: {e}"))?;
            let sequence = snapshot["sequence-number"].as_i64().unwrap_or_default();
            snapshots.insert(id, Snapshot { sequence, parent: snapshot["parent-snapshot-id"].as_i64(), rows });
        }
        let mut refs = BTreeMap::new();
        for (name, reference) in metadata["refs"].as_object().into_iter().flatten() {
            let id = reference["snapshot-id"].as_i64().unwrap_or_default();
            if !snapshots.contains_key(&id) {
                return Err(format!("`{name}` points to snapshot {id}, which is lost"));
            }
            refs.insert(name.clone(), id);
        }
        let current = refs.remove("main");
        if metadata["current-snapshot-id"].as_i64().filter(|id| *id >= 0) != current {
            return Err(format!("the current snapshot is not that of main: {current:?}"));
        }
        let schema = list(&metadata, "schemas").find(|s| s["schema-id"] == metadata["current-schema-id"]);
        let columns = schema.map_or(0, |schema| list(schema, "fields").count()).saturating_sub(FIRST_COLUMNS);
        // What is not reached any more is not needed.
        self.parsed.retain(|path, _| self.seen.contains_key(path));
        Ok(Found { uuid: text(&metadata, "table-uuid").to_owned(), columns, current, refs, snapshots })
    }

    /// Refuses files below a folder, reachable or not, in which one of the
    /// students stands. What is no whole Parquet file holds nobody.
    pub fn look_for(&mut self, folder: &Path, students: &[usize]) -> Result<(), String> {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                self.look_for(&path, students)?;
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "parquet") {
                continue;
            }
            let bytes = std::fs::read(&path).map_err(|e| e.to_string())?;
            let people = self.people.entry(bytes).or_insert_with_key(|bytes| people(bytes));
            if let Some(student) = students.iter().find(|student| people.contains(student)) {
                return Err(format!("student {student}, who was erased, is in {}", path.display()));
            }
        }
        Ok(())
    }

    fn snapshot(&mut self, snapshot: &serde_json::Value) -> Result<Rows, String> {
        let list = self.parse(text(snapshot, "manifest-list"), None, &parse_list)?;
        let Parsed::List(manifests) = list.as_ref() else { return Err("not a list".into()) };
        let (mut data, mut deletes) = (Vec::new(), Vec::new());
        let mut records = 0;
        for manifest in manifests {
            let parsed = self.parse(&manifest.path, Some(manifest.bytes as u64), &parse_manifest)?;
            let Parsed::Manifest(entries) = parsed.as_ref() else { return Err("not a manifest".into()) };
            for entry in entries {
                let parse: Parse<'_> = match entry.content {
                    DataContentType::Data => &parse_data,
                    DataContentType::PositionDeletes => &parse_positions,
                    DataContentType::EqualityDeletes => &parse_values,
                };
                let content = self.parse(&entry.path, Some(entry.bytes), parse)?;
                let sequence = entry.sequence.unwrap_or(manifest.sequence);
                match content.as_ref() {
                    Parsed::Parquet(Content::Data(rows)) => {
                        if rows.len() as u64 != entry.rows {
                            return Err(format!("{} has {} rows, not {}", entry.path, rows.len(), entry.rows));
                        }
                        records += entry.rows;
                        data.push((entry.path.clone(), sequence, content.clone()));
                    }
                    _ => deletes.push((sequence, content.clone())),
                }
            }
        }
        let told = text(&snapshot["summary"], "total-records").parse::<u64>().ok();
        if told.is_some_and(|told| told != records) {
            return Err(format!("it has {records} rows, its summary says {told:?}"));
        }
        Ok(alive(&data, &deletes))
    }

    fn parse(&mut self, location: &str, bytes: Option<u64>, parse: Parse<'_>) -> Result<Rc<Parsed>, String> {
        if let Some(parsed) = self.seen.get(location) {
            return Ok(parsed.clone());
        }
        let content = read(location)?;
        if bytes.is_some_and(|bytes| bytes != content.len() as u64) {
            return Err(format!("{location} is torn"));
        }
        let parsed = match self.parsed.get(location) {
            Some((known, parsed)) if *known == content => parsed.clone(),
            _ => {
                let parsed = Rc::new(parse(&content).map_err(|e| format!("{location}: {e}"))?);
                self.parsed.insert(location.to_owned(), (content, parsed.clone()));
                parsed
            }
        };
        self.seen.insert(location.to_owned(), parsed.clone());
        Ok(parsed)
    }
}

/// The rows that no delete file takes out.
fn alive(data: &[(String, i64, Rc<Parsed>)], deletes: &[(i64, Rc<Parsed>)]) -> Rows {
    let mut rows = Rows::new();
    for (path, sequence, content) in data {
        let Parsed::Parquet(Content::Data(all)) = content.as_ref() else { continue };
        let mut gone: BTreeSet<u64> = BTreeSet::new();
        let mut values: Vec<&HashSet<usize>> = Vec::new();
        for (deleted_at, delete) in deletes {
            match delete.as_ref() {
                Parsed::Parquet(Content::Positions(positions)) if deleted_at >= sequence => {
                    gone.extend(positions.iter().filter(|(of, _)| of == path).map(|(_, at)| *at));
                }
                Parsed::Parquet(Content::Values(students)) if deleted_at > sequence => values.push(students),
                _ => {}
            }
        }
        for (at, row) in all.iter().enumerate() {
            if !gone.contains(&(at as u64)) && !values.iter().any(|students| students.contains(&row.0)) {
                *rows.entry(*row).or_default() += 1;
            }
        }
    }
    rows
}

fn metadata(pointer: &str) -> Result<serde_json::Value, String> {
    let wrong = |e: &dyn std::fmt::Display| format!("{pointer}: {e}");
    let mut bytes = read(pointer)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes.as_slice()), &mut text)
            .map_err(|e| wrong(&e))?;
        bytes = text;
    }
    serde_json::from_slice(&bytes).map_err(|e| wrong(&e))
}

fn list<'a>(json: &'a serde_json::Value, key: &str) -> impl Iterator<Item = &'a serde_json::Value> {
    json[key].as_array().into_iter().flatten()
}

fn text<'a>(json: &'a serde_json::Value, key: &str) -> &'a str {
    json[key].as_str().unwrap_or_default()
}

fn parse_list(bytes: &[u8]) -> Result<Parsed, String> {
    let list = ManifestList::parse_with_version(bytes, FormatVersion::V2).map_err(|e| e.to_string())?;
    let listed = |m: &iceberg::spec::ManifestFile| Listed {
        path: m.manifest_path.clone(),
        bytes: m.manifest_length,
        sequence: m.sequence_number,
    };
    Ok(Parsed::List(list.entries().iter().map(listed).collect()))
}

fn parse_manifest(bytes: &[u8]) -> Result<Parsed, String> {
    let (entries, _) = Manifest::parse_avro(bytes).map_err(|e| e.to_string())?.into_parts();
    let mut alive = Vec::new();
    for entry in entries.iter().filter(|entry| entry.status() != ManifestStatus::Deleted) {
        if entry.status() == ManifestStatus::Existing && entry.sequence_number().is_none() {
            return Err(format!("{} is there already and has no sequence number", entry.file_path()));
        }
        alive.push(Entry {
            path: entry.file_path().to_owned(),
            content: entry.content_type(),
            sequence: entry.sequence_number(),
            rows: entry.record_count(),
            bytes: entry.file_size_in_bytes(),
        });
    }
    Ok(Parsed::Manifest(alive))
}

fn batches(bytes: &[u8]) -> Result<Vec<RecordBatch>, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::copy_from_slice(bytes));
    let reader = reader.and_then(|reader| reader.build()).map_err(|e| e.to_string())?;
    reader.collect::<Result<_, _>>().map_err(|e| e.to_string())
}

fn texts(batch: &RecordBatch, name: &str) -> Result<arrow::array::StringArray, String> {
    let column = batch.column_by_name(name).ok_or_else(|| format!("no column `{name}`"))?;
    Ok(cast(column, &DataType::Utf8).map_err(|e| e.to_string())?.as_string::<i32>().clone())
}

/// The number of a student, by the key.
pub fn student(nim: &str) -> Result<usize, String> {
    let number: usize = nim.parse().map_err(|_| format!("`{nim}` is nobody's number"))?;
    if number.is_multiple_of(7919) { Ok(number / 7919) } else { Err(format!("`{nim}` is nobody's number")) }
}

/// The value of a later column.
pub fn later_value(student: usize) -> i32 {
    3 * student as i32 + 1
}

/// Rows, each of whose values must be right.
fn parse_data(bytes: &[u8]) -> Result<Parsed, String> {
    let mut rows = Vec::new();
    for batch in batches(bytes)? {
        let nims = texts(&batch, "nim")?;
        let gpa = batch.column_by_name("gpa").ok_or("no column `gpa`")?.as_primitive::<Float64Type>().clone();
        let schema = batch.schema();
        let id = |field: &arrow::datatypes::Field| field.metadata().get("PARQUET:field_id")?.parse::<usize>().ok();
        let later =
            schema.fields().iter().zip(batch.columns()).filter(|(f, _)| id(f).is_none_or(|id| id > FIRST_COLUMNS));
        let later: Vec<_> = later.map(|(_, column)| column.as_primitive::<Int32Type>().clone()).collect();
        for row in 0..batch.num_rows() {
            let student = student(nims.value(row))?;
            let extra = later.iter().filter(|column| column.is_valid(row));
            let right = gpa.value(row) == student as f64 + 0.5
                && extra.clone().all(|column| column.value(row) == later_value(student));
            if !right {
                return Err(format!("the row of student {student} has wrong values"));
            }
            rows.push((student, extra.count()));
        }
    }
    Ok(Parsed::Parquet(Content::Data(rows)))
}

fn parse_positions(bytes: &[u8]) -> Result<Parsed, String> {
    let mut found = Vec::new();
    for batch in batches(bytes)? {
        let paths = texts(&batch, "file_path")?;
        let at = batch.column_by_name("pos").ok_or("no column `pos`")?.as_primitive::<Int64Type>().clone();
        found.extend((0..batch.num_rows()).map(|row| (paths.value(row).to_owned(), at.value(row) as u64)));
    }
    Ok(Parsed::Parquet(Content::Positions(found)))
}

fn parse_values(bytes: &[u8]) -> Result<Parsed, String> {
    let mut found = HashSet::new();
    for batch in batches(bytes)? {
        for nim in texts(&batch, "nim")?.iter().flatten() {
            found.insert(student(nim)?);
        }
    }
    Ok(Parsed::Parquet(Content::Values(found)))
}

/// Who is in a file of rows, or of deletes by value.
fn people(bytes: &[u8]) -> HashSet<usize> {
    let mut found = HashSet::new();
    for batch in batches(bytes).unwrap_or_default() {
        if let Ok(nims) = texts(&batch, "nim") {
            found.extend(nims.iter().flatten().filter_map(|nim| student(nim).ok()));
        }
    }
    found
}
