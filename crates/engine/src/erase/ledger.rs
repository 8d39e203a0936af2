//! The ledger of erased entities, and who must not be scored.
//!
//! Two files in the project's folder `erasures`: `key`, 32 random bytes as
//! hexadecimal that only the owner reads, and `ledger.json`, the orders. An
//! order has HMAC-SHA256 hashes of the entity's key under that key, never the
//! key itself. The key is hashed in the encoding of [`crate::key`], the columns
//! in the order of their names, once for every type that the text can be of, so
//! that a pipeline finds it whichever type its column has.
//!
//! Every row of a run is asked, so beside each hash stand 24 bits of a faster
//! one: only rows that have them are hashed in full.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::key::Keys;
use crate::lake::durable::{self, NewFile};
use crate::lake::erase::Entity;
use crate::lake::faults::{self, Stage};
use crate::{Error, Result};

/// The folder in the project.
const FOLDER: &str = "erasures";
const VERSION: u32 = 1;
const SIEVE_BITS: u32 = 24;
/// Columns of a key whose types are tried in all combinations.
const MOST_COLUMNS: usize = 6;
/// Longer words of an event that cannot be read are no keys.
const LONGEST_WORD: usize = 64;

/// A hash of a key, and a part of a faster one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyedHash {
    /// HMAC-SHA256, hexadecimal.
    pub hmac: String,
    /// 24 bits of xxh3-64 seeded with the key.
    pub sieve: u32,
}

/// How far an order is in a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableState {
    /// The metadata file that is, or was, about to be replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacing: Option<String>,
    /// Whether all is done.
    pub done: bool,
    /// Rows that were erased, over all tries.
    pub rows: u64,
    /// Data files that held them.
    pub data_files: u64,
    /// Snapshots that were written again.
    pub snapshots: u64,
    /// Files that were removed.
    pub removed_files: u64,
}

/// One order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Counted from 1.
    pub number: u64,
    /// The key columns, sorted.
    pub columns: Vec<String>,
    /// The key, hashed.
    pub hashes: Vec<KeyedHash>,
    /// Why.
    pub reason: String,
    /// When it was given, RFC 3339.
    pub ordered_at: String,
    /// When it was carried out; none while it is not.
    pub completed_at: Option<String>,
    /// By table.
    pub tables: BTreeMap<String, TableState>,
    /// The newest proof, relative to the project.
    pub proof: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    records: Vec<Record>,
}

/// The orders of a project.
#[derive(Debug)]
pub struct Ledger {
    folder: PathBuf,
    secret: Secret,
    /// Oldest first.
    pub records: Vec<Record>,
}

/// The project's key. It is in no message.
#[derive(Clone, PartialEq, Eq)]
struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Secret {
    fn sieve(&self, encoded: &[u8]) -> u32 {
        let seed = self.0.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        (xxh3_64_with_seed(encoded, seed) >> (64 - SIEVE_BITS)) as u32
    }

    fn hash(&self, encoded: &[u8]) -> KeyedHash {
        KeyedHash { hmac: hexadecimal(&hmac_sha256(&self.0, encoded)), sieve: self.sieve(encoded) }
    }
}

/// RFC 2104 with SHA-256 and a key of at most one block.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let mut block = [0u8; BLOCK];
    block[..key.len().min(BLOCK)].copy_from_slice(&key[..key.len().min(BLOCK)]);
    let padded = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hexadecimal(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

impl Ledger {
    /// The folder of a project's ledger and proofs.
    pub fn folder(project: &Path) -> PathBuf {
        project.join(FOLDER)
    }

    /// Reads the ledger; `None` before the first order.
    ///
    /// # Errors
    /// When it cannot be read, or a newer Insightera wrote it. A run must not
    /// go on without it: it would score who was erased.
    pub fn read(project: &Path) -> Result<Option<Self>> {
        let folder = Self::folder(project);
        let (path, key) = (folder.join("ledger.json"), folder.join("key"));
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(durable::io_error("read", &path, error)),
        };
        let damaged = |path: &Path, what: &dyn std::fmt::Display| {
            Error::data(format!("`{}` is damaged: {what}", path.display()))
                .hint("restore the folder `erasures` from a backup; without it erased entities would be scored again")
        };
        let file: File = serde_json::from_slice(&text).map_err(|e| damaged(&path, &e))?;
        if file.version != VERSION {
            return Err(Error::invalid(format!("`{}` has version {}", path.display(), file.version))
                .hint(format!("this build knows version {VERSION}: use the newer Insightera that wrote it")));
        }
        let text = std::fs::read_to_string(&key).map_err(|e| damaged(&key, &e))?;
        let secret = from_hexadecimal(text.trim()).ok_or_else(|| damaged(&key, &"it is not 64 hexadecimal digits"))?;
        Ok(Some(Self { folder, secret: Secret(secret), records: file.records }))
    }

    /// Reads the ledger, or begins one with a key of its own.
    ///
    /// # Errors
    /// As [`Ledger::read`], and when the folder cannot be written.
    pub fn open(project: &Path) -> Result<Self> {
        if let Some(ledger) = Self::read(project)? {
            return Ok(ledger);
        }
        let folder = Self::folder(project);
        durable::create_dirs(&folder)?;
        let key = folder.join("key");
        // A key without a ledger is what an accident left: nothing is hashed with it.
        let mut secret = [0; 32];
        for half in secret.chunks_mut(16) {
            half.copy_from_slice(Sha256::digest(uuid::Uuid::new_v4().as_bytes()).get(..16).unwrap_or_default());
        }
        replace(&key, format!("{}\n", hexadecimal(&secret)).as_bytes(), true)?;
        let ledger = Self { folder, secret: Secret(secret), records: Vec::new() };
        ledger.write()?;
        Ok(ledger)
    }

    /// Writes the ledger, durably.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&self) -> Result<()> {
        let file = File { version: VERSION, records: self.records.clone() };
        let mut text = serde_json::to_vec_pretty(&file)
            .map_err(|e| Error::internal(format!("the ledger has no JSON form: {e}")))?;
        text.push(b'\n');
        replace(&self.folder.join("ledger.json"), &text, false)
    }

    /// Writes a proof, durably. Answers its path.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write_proof(&self, name: &str, text: &[u8]) -> Result<PathBuf> {
        let path = self.folder.join(name);
        replace(&path, text, false)?;
        Ok(path)
    }

    /// The hashes of an entity, in every type that its values can be of.
    ///
    /// # Errors
    /// When the key has too many columns.
    pub fn hashes(&self, entity: &Entity) -> Result<Vec<KeyedHash>> {
        if entity.columns.len() > MOST_COLUMNS {
            return Err(Error::invalid(format!("a key of more than {MOST_COLUMNS} columns cannot be erased")));
        }
        let mut batches: Vec<Vec<(&str, ArrayRef)>> = vec![Vec::new()];
        for (column, value) in entity.columns.iter().zip(&entity.values) {
            let typed = typed(value);
            batches = batches
                .into_iter()
                .flat_map(|batch| {
                    typed.iter().map(move |array| {
                        let mut batch = batch.clone();
                        batch.push((column.as_str(), array.clone()));
                        batch
                    })
                })
                .collect();
        }
        let encoded = batches.into_iter().map(|batch| {
            let batch = RecordBatch::try_from_iter(batch).map_err(|e| Error::internal(format!("a key: {e}")))?;
            let mut encoded = Vec::new();
            Keys::new(&batch, &entity.columns)?.encode(0, &mut encoded);
            Ok(self.secret.hash(&encoded))
        });
        encoded.collect()
    }

    /// Who must not be scored.
    pub fn erased(&self) -> ErasedEntities {
        ErasedEntities {
            number: self.records.last().map_or(0, |r| r.number),
            secret: self.secret.clone(),
            records: self.records.clone(),
        }
    }
}

/// A value in every type of a key that its text can be of.
fn typed(value: &str) -> Vec<ArrayRef> {
    let text: ArrayRef = Arc::new(StringArray::from(vec![value]));
    let mut arrays = vec![text.clone()];
    // Exactly as the number is written: `007` is a text.
    if let Ok(number) = value.parse::<i64>()
        && number.to_string() == value
    {
        arrays.push(Arc::new(Int64Array::from(vec![number])));
    }
    if let Ok(date) = cast(&text, &DataType::Date32)
        && let Some(date) = date.as_any().downcast_ref::<Date32Array>()
        && date.iter().flatten().next().is_some()
    {
        arrays.push(Arc::new(date.clone()));
    }
    arrays
}

/// Writes a file beside and renames it; each step is a durable operation of its
/// own.
fn replace(path: &Path, bytes: &[u8], private: bool) -> Result<()> {
    let temporary = path.with_extension(format!("tmp-{}", uuid::Uuid::new_v4().simple()));
    let mut file = NewFile::create(&temporary)?;
    if private {
        restrict(&temporary)?;
    }
    file.write_all(bytes).map_err(|e| durable::io_error("write", &temporary, e))?;
    file.finish()?;
    faults::step(Stage::Other, "rename", path, || std::fs::rename(&temporary, path))
        .map_err(|e| durable::io_error("write", path, e))?;
    durable::sync_parent(path)
}

#[cfg(unix)]
fn restrict(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(|e| durable::io_error("restrict", path, e))
}

#[cfg(not(unix))]
fn restrict(_: &Path) -> Result<()> {
    Ok(())
}

/// The entities that were erased, at one time.
#[derive(Debug, Clone)]
pub struct ErasedEntities {
    number: u64,
    secret: Secret,
    records: Vec<Record>,
}

impl ErasedEntities {
    /// Reads the ledger of a project.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub fn read(project: &Path) -> Result<Self> {
        let none = || Self { number: 0, secret: Secret([0; 32]), records: Vec::new() };
        Ok(Ledger::read(project)?.map_or_else(none, |ledger| ledger.erased()))
    }

    /// The newest order; 0 is none.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Those of a key; `None` where none was erased.
    pub fn of(&self, key: &[String]) -> Option<Suppressed> {
        let mut order: Vec<usize> = (0..key.len()).collect();
        order.sort_by(|a, b| key[*a].cmp(&key[*b]));
        let sorted: Vec<&String> = order.iter().map(|at| &key[*at]).collect();
        let mut hashes: HashMap<u32, Vec<String>> = HashMap::new();
        for record in self.records.iter().filter(|record| record.columns.iter().eq(sorted.iter().copied())) {
            for hash in &record.hashes {
                hashes.entry(hash.sieve).or_default().push(hash.hmac.clone());
            }
        }
        (!hashes.is_empty()).then(|| Suppressed { key: key.to_vec(), order, secret: self.secret.clone(), hashes })
    }
}

/// The erased entities of one key.
#[derive(Debug, Clone)]
pub struct Suppressed {
    key: Vec<String>,
    /// The places of the columns in the order of their names.
    order: Vec<usize>,
    secret: Secret,
    hashes: HashMap<u32, Vec<String>>,
}

impl Suppressed {
    /// Whether an encoded key is that of an erased entity.
    pub fn is_erased(&self, encoded: &[u8]) -> bool {
        let sorted;
        let encoded = if self.order.is_sorted() {
            encoded
        } else {
            let parts = crate::key::parts(encoded);
            sorted = self.order.iter().filter_map(|at| parts.get(*at)).copied().collect::<Vec<_>>().concat();
            &sorted
        };
        let Some(known) = self.hashes.get(&self.secret.sieve(encoded)) else { return false };
        let hash = hexadecimal(&hmac_sha256(&self.secret.0, encoded));
        known.contains(&hash)
    }

    /// Whether a text is the key of an erased entity, where the key is of one
    /// column.
    pub fn is_text(&self, text: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(text) else { return false };
        if self.key.len() != 1 {
            return false;
        }
        typed(text).into_iter().any(|array| {
            let Ok(batch) = RecordBatch::try_from_iter([(self.key[0].as_str(), array)]) else { return false };
            let mut encoded = Vec::new();
            Keys::new(&batch, &self.key).is_ok_and(|keys| {
                keys.encode(0, &mut encoded);
                self.is_erased(&encoded)
            })
        })
    }

    /// Whether a word of a text is such a key: what could not be read as an
    /// event may still name somebody.
    pub fn is_mentioned(&self, text: &[u8]) -> bool {
        let words = text.split(|byte| !byte.is_ascii_alphanumeric());
        words.filter(|word| !word.is_empty() && word.len() <= LONGEST_WORD).any(|word| self.is_text(word))
    }

    /// Which rows of a batch are of erased entities; `None` where none is.
    ///
    /// # Errors
    /// When the batch lacks a key column.
    pub fn rows(&self, batch: &RecordBatch) -> Result<Option<Vec<bool>>> {
        let keys = Keys::new(batch, &self.key)?;
        let mut buffer = Vec::with_capacity(64);
        let rows: Vec<bool> = (0..batch.num_rows())
            .map(|row| {
                buffer.clear();
                keys.encode(row, &mut buffer);
                self.is_erased(&buffer)
            })
            .collect();
        Ok(rows.contains(&true).then_some(rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity(columns: &[&str], values: &[&str]) -> Entity {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Entity { columns: own(columns), values: own(values) }
    }

    fn recorded(folder: &Path, entity: &Entity) -> ErasedEntities {
        let mut ledger = Ledger::open(folder).unwrap();
        let record = Record {
            number: ledger.records.len() as u64 + 1,
            columns: entity.columns.clone(),
            hashes: ledger.hashes(entity).unwrap(),
            reason: "asked".into(),
            ordered_at: String::new(),
            completed_at: None,
            tables: BTreeMap::new(),
            proof: None,
        };
        ledger.records.push(record);
        ledger.write().unwrap();
        ErasedEntities::read(folder).unwrap()
    }

    #[test]
    fn hmac_sha256_is_that_of_rfc_4231() {
        let hash = hmac_sha256(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(hexadecimal(&hash), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let hash = hmac_sha256(&[0x0b; 20], b"Hi There");
        assert_eq!(hexadecimal(&hash), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    }

    #[test]
    fn an_entity_is_found_whichever_type_its_column_has() {
        let temp = tempfile::tempdir().unwrap();
        let erased = recorded(temp.path(), &entity(&["nim"], &["1919"]));
        assert_eq!(erased.number(), 1);
        let suppressed = erased.of(&["nim".to_owned()]).unwrap();
        let rows = |array: ArrayRef| suppressed.rows(&RecordBatch::try_from_iter([("nim", array)]).unwrap()).unwrap();
        assert_eq!(rows(Arc::new(StringArray::from(vec!["1918", "1919"]))), Some(vec![false, true]));
        assert_eq!(rows(Arc::new(Int64Array::from(vec![1919, 7]))), Some(vec![true, false]));
        assert_eq!(rows(Arc::new(Int64Array::from(vec![7, 8]))), None);
        assert!(erased.of(&["unit".to_owned()]).is_none());
    }

    #[test]
    fn the_order_of_key_columns_does_not_matter() {
        let temp = tempfile::tempdir().unwrap();
        let erased = recorded(temp.path(), &entity(&["a", "b"], &["x", "7"]));
        let (a, b): (ArrayRef, ArrayRef) =
            (Arc::new(StringArray::from(vec!["x"])), Arc::new(Int64Array::from(vec![7])));
        let batch = RecordBatch::try_from_iter([("a", a), ("b", b)]).unwrap();
        for key in [["a", "b"], ["b", "a"]] {
            let suppressed = erased.of(&key.map(str::to_owned)).unwrap();
            assert_eq!(suppressed.rows(&batch).unwrap(), Some(vec![true]), "{key:?}");
        }
    }

    #[test]
    fn the_files_hold_no_plain_key_and_a_damaged_ledger_is_no_empty_one() {
        let temp = tempfile::tempdir().unwrap();
        recorded(temp.path(), &entity(&["nim"], &["1919599262"]));
        let ledger = temp.path().join("erasures/ledger.json");
        assert!(!std::fs::read_to_string(&ledger).unwrap().contains("1919599262"));
        std::fs::write(&ledger, "{}").unwrap();
        assert!(ErasedEntities::read(temp.path()).is_err());
        recorded_key_is_private(temp.path());
    }

    #[cfg(unix)]
    fn recorded_key_is_private(folder: &Path) {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(folder.join("erasures/key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[cfg(not(unix))]
    fn recorded_key_is_private(_: &Path) {}
}
