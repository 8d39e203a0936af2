//! The proof of an erasure, by code that shares nothing with the eraser.
//!
//! It walks from the catalog's record of each table over the metadata file,
//! every snapshot, manifest list and manifest to every data file and delete
//! file, alive or only told of, and reads their key columns below Arrow. Then
//! it looks at the bytes of every file in the tables' folders, of what streams
//! remember, of quarantine and caches, packed and unpacked. What cannot be read
//! makes the proof a failure. It holds the keyed hash, and no key.
//!
//! A SQLite catalog and local files it opens by itself; other catalogs and
//! stores it asks through their clients, which the eraser has, too.

mod avro;
mod columns;
mod files;
mod traces;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use self::avro::Container;
use self::columns::Wanted;
use self::files::{Files, plain};
use self::traces::{Traces, gunzip, scan};
use crate::lake::storage::Storage;

/// Where to look.
pub struct Places<'a> {
    /// Where each table's metadata file is, by namespace and name.
    pub pointer: &'a dyn Fn(&str, &str) -> Result<String, String>,
    /// The clients of the stores.
    pub storage: &'a Storage,
    /// The project's folder: paths are told relative to it.
    pub project: &'a Path,
    /// Tables as namespace and name, and whether they have the key's columns.
    pub tables: Vec<(String, String, bool)>,
    /// Further folders.
    pub folders: Vec<String>,
}

/// One table.
#[derive(Debug, Default, Serialize)]
pub struct TableProof {
    /// The table.
    pub table: String,
    /// Its metadata file.
    pub metadata_file: String,
    /// Snapshots that were walked.
    pub snapshots: usize,
    /// Tags and branches.
    pub refs: BTreeMap<String, i64>,
    /// Manifests.
    pub manifests: usize,
    /// Data files.
    pub data_files: usize,
    /// Delete files.
    pub delete_files: usize,
    /// Rows whose key was read.
    pub rows: u64,
    /// Rows of the entity.
    pub rows_of_the_entity: u64,
}

/// A proof.
#[derive(Debug, Serialize)]
pub struct Proof {
    /// The form of this file.
    pub version: u32,
    /// The order's number.
    pub erasure: u64,
    /// The key columns.
    pub columns: Vec<String>,
    /// The key as the ledger has it.
    pub hmac_sha256: Vec<String>,
    /// When, RFC 3339.
    pub checked_at: String,
    /// Whether nothing of the entity was found and everything could be read.
    pub ok: bool,
    /// By table.
    pub tables: Vec<TableProof>,
    /// Files whose bytes were looked at.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were looked at after unpacking.
    pub unpacked_bytes: u64,
    /// Why bytes were not looked at, if they were not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_not_searched: Option<String>,
    /// Files that hold the entity.
    pub holding: Vec<String>,
    /// What could not be read.
    pub unreadable: Vec<String>,
}

/// Looks everywhere for the key `(column, value)` of an order.
pub fn prove(places: &Places<'_>, key: &[(&str, &str)], erasure: u64, hashes: Vec<String>, now: String) -> Proof {
    let mut proof = Proof {
        version: 1,
        erasure,
        columns: key.iter().map(|(column, _)| (*column).to_owned()).collect(),
        hmac_sha256: hashes,
        checked_at: now,
        ok: false,
        tables: Vec::new(),
        files: 0,
        bytes: 0,
        unpacked_bytes: 0,
        bytes_not_searched: None,
        holding: Vec::new(),
        unreadable: Vec::new(),
    };
    let files = Files { storage: places.storage };
    let shown = |location: &str| {
        let path = plain(location);
        Path::new(&path)
            .strip_prefix(places.project)
            .map_or_else(|_| path.clone(), |inside| inside.display().to_string())
    };
    let mut folders: Vec<String> = places.folders.iter().map(|folder| plain(folder)).collect();
    for (namespace, name, keyed) in &places.tables {
        let mut table = TableProof { table: format!("{namespace}.{name}"), ..TableProof::default() };
        let pointer = (places.pointer)(namespace, name);
        let walked = pointer.and_then(|pointer| walk(files, &pointer, key, *keyed, &mut table, &shown));
        match walked {
            Ok(Walked { folders: of_table, holding, unreadable }) => {
                folders.extend(of_table);
                proof.holding.extend(holding);
                proof.unreadable.extend(unreadable);
            }
            Err(error) => proof.unreadable.push(format!("{}: {error}", table.table)),
        }
        proof.tables.push(table);
    }
    folders.sort();
    folders.dedup();
    let within = folders.clone();
    folders.retain(|folder| !within.iter().any(|other| folder.starts_with(&format!("{other}/"))));
    match key.iter().map(|(_, value)| Traces::new(value)).collect::<Option<Vec<Traces>>>() {
        None => {
            proof.bytes_not_searched = Some("the key is too short to be told from other bytes".into());
        }
        Some(parts) => {
            let found = scan(files, &folders, &parts, &shown);
            (proof.files, proof.bytes, proof.unpacked_bytes) = (found.files, found.bytes, found.unpacked_bytes);
            proof.holding.extend(found.holding);
            proof.unreadable.extend(found.unreadable);
        }
    }
    for list in [&mut proof.holding, &mut proof.unreadable] {
        // A path that is the key has no place here.
        for text in list.iter_mut() {
            for (_, value) in key {
                *text = text.replace(value, "***");
            }
        }
        list.sort();
        list.dedup();
    }
    let rows: u64 = proof.tables.iter().map(|table| table.rows_of_the_entity).sum();
    proof.ok = rows == 0 && proof.holding.is_empty() && proof.unreadable.is_empty();
    proof
}

/// Where the record of a SQLite catalog points, read by the database alone.
pub fn sqlite_pointer(catalog: &Path, catalog_name: &str, namespace: &str, name: &str) -> Result<String, String> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let catalog = rusqlite::Connection::open_with_flags(catalog, flags).map_err(|e| e.to_string())?;
    catalog.busy_timeout(std::time::Duration::from_secs(30)).map_err(|e| e.to_string())?;
    let sql = "SELECT metadata_location FROM iceberg_tables WHERE catalog_name = ?1 AND table_namespace = ?2 AND table_name = ?3";
    catalog.query_row(sql, [catalog_name, namespace, name], |row| row.get(0)).map_err(|e| e.to_string())
}

#[derive(Default)]
struct Walked {
    folders: Vec<String>,
    holding: Vec<String>,
    unreadable: Vec<String>,
}

fn walk(
    files: Files<'_>,
    pointer: &str,
    key: &[(&str, &str)],
    keyed: bool,
    table: &mut TableProof,
    shown: &dyn Fn(&str) -> String,
) -> Result<Walked, String> {
    let mut walked = Walked::default();
    let mut bytes = files.needed(pointer)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        bytes = gunzip(&bytes)?.into();
    }
    let metadata: Value = serde_json::from_slice(&bytes).map_err(|e| format!("{pointer}: {e}"))?;
    table.metadata_file = shown(pointer);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    walked.folders.extend(text(&metadata["location"]).map(|location| plain(&location)));
    for key in ["write.data.path", "write.metadata.path"] {
        walked.folders.extend(text(&metadata["properties"][key]).map(|location| plain(&location)));
    }
    for (name, reference) in metadata["refs"].as_object().into_iter().flatten() {
        table.refs.insert(name.clone(), reference["snapshot-id"].as_i64().unwrap_or_default());
    }
    let wanted: Vec<Wanted> = key
        .iter()
        .map(|(column, value)| {
            let fields = metadata["schemas"].as_array().into_iter().flatten().filter_map(|s| s["fields"].as_array());
            let ids = fields.flatten().filter(|field| field["name"].as_str() == Some(*column));
            let ids = ids.filter_map(|field| i32::try_from(field["id"].as_i64()?).ok()).collect();
            Wanted { name: (*column).to_owned(), ids, value: (*value).to_owned() }
        })
        .collect();
    let mut manifests = BTreeSet::new();
    for snapshot in metadata["snapshots"].as_array().into_iter().flatten() {
        table.snapshots += 1;
        let list = text(&snapshot["manifest-list"]).ok_or("a snapshot has no manifest list")?;
        let records = Container::read(&files.needed(&list)?).and_then(|list| list.records());
        for manifest in records.map_err(|e| format!("{list}: {e}"))? {
            manifests
                .insert(text(&manifest["manifest_path"]).ok_or_else(|| format!("{list}: a manifest has no path"))?);
        }
    }
    table.manifests = manifests.len();
    let mut named: BTreeMap<String, (bool, i64)> = BTreeMap::new();
    for manifest in &manifests {
        let records = Container::read(&files.needed(manifest)?).and_then(|manifest| manifest.records());
        for entry in records.map_err(|e| format!("{manifest}: {e}"))? {
            let file = &entry["data_file"];
            let path = text(&file["file_path"]).ok_or_else(|| format!("{manifest}: a file has no path"))?;
            let known = named.entry(path).or_insert((false, file["content"].as_i64().unwrap_or(0)));
            known.0 |= entry["status"].as_i64() != Some(2);
        }
    }
    for (location, (alive, content)) in named {
        let file = match files.read(&location) {
            Ok(Some(file)) => Ok(file),
            // A file that is only told of may be gone.
            Ok(None) if !alive => continue,
            Ok(None) => Err("there is no such file".to_owned()),
            Err(error) => Err(error),
        };
        match content {
            0 => table.data_files += 1,
            _ => table.delete_files += 1,
        }
        if !keyed || content == 1 {
            continue;
        }
        match file.and_then(|file| columns::count(file, &wanted)) {
            Err(error) => walked.unreadable.push(format!("{}: {error}", shown(&location))),
            Ok((rows, found)) => {
                table.rows += rows;
                table.rows_of_the_entity += found;
                if found > 0 {
                    walked.holding.push(shown(&location));
                }
            }
        }
    }
    Ok(walked)
}
