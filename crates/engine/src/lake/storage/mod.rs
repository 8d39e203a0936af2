//! Where files are: on the local file system, or in the bucket of an object
//! store, told by the scheme of a location.
//!
//! Words: a *location* is what table metadata says, `/a/b`, `file:///a/b` or
//! `s3://bucket/a/b`; a *store* is the client of one bucket. [`Storage`] opens
//! stores when they are first needed and hands them to every table.
//!
//! Promises, the same for every scheme: what [`Storage::write_new`] or
//! [`Output::finish`] has answered is durable under its name;
//! [`Storage::write_new`] never replaces a file; a reader sees the whole content or none; nothing
//! is removed but by [`Storage::remove`] and [`Storage::rename`]. Local files
//! are written through [`durable`](super::durable); a store's answer to a
//! request counts as durable.

mod file_io;
mod input;
mod objects;
mod output;

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use datafusion::execution::object_store::ObjectStoreUrl;
use iceberg::io::FileIO;
use object_store::ObjectStore;

pub(super) use self::file_io::cannot_write;
pub use self::input::Input;
pub use self::output::Output;

use self::objects::{Bucket, Object};
use super::durable;
use super::faults::{self, Stage};
use crate::config::StoreSettings;
use crate::{Error, Result};

/// The local path of an Iceberg location: `file:///a/b`, `file:/a/b` or `/a/b`,
/// with percent escapes left alone, as PyIceberg and Java write them.
pub fn local_path(location: &str) -> PathBuf {
    let path = location.strip_prefix("file://").or_else(|| location.strip_prefix("file:")).unwrap_or(location);
    PathBuf::from(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

/// When a local file was last written.
pub fn modified(location: &str) -> Option<chrono::DateTime<chrono::Utc>> {
    let facts = is_local(location).then(|| std::fs::metadata(local_path(location)).ok())??;
    facts.modified().ok().map(Into::into)
}

/// Whether a location is a local file or folder.
pub fn is_local(location: &str) -> bool {
    location.starts_with("file:") || !location.contains("://")
}

/// Refuses a location of no scheme that is known.
///
/// # Errors
/// When it is not a path, nor of a store.
pub fn check_location(location: &str) -> Result<()> {
    if is_local(location) { Ok(()) } else { objects::parse(location).map(drop) }
}

/// A location below another.
pub fn join(folder: &str, inside: &str) -> String {
    format!("{}/{inside}", folder.trim_end_matches('/'))
}

/// A file that a listing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Where it is.
    pub location: String,
    /// Its size.
    pub bytes: u64,
    /// When it was last written by the storage's own clock, in milliseconds;
    /// never, where that is not known.
    pub modified_ms: i64,
}

/// A file for DataFusion's reader: the store's address in its registry, and
/// the path in the store.
#[derive(Debug, Clone)]
pub struct StoredPath {
    /// The store's address.
    pub store: ObjectStoreUrl,
    /// The path in it.
    pub path: object_store::path::Path,
    /// The store, where it is not the local file system.
    pub object_store: Option<Arc<dyn ObjectStore>>,
}

/// Every file of the lake, whatever the scheme of its location. Cheap to clone.
#[derive(Clone)]
pub struct Storage {
    shared: Arc<Shared>,
}

struct Shared {
    settings: StoreSettings,
    /// Properties that a catalog gave for one table.
    vended: HashMap<String, String>,
    buckets: Mutex<HashMap<String, Arc<Bucket>>>,
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").finish_non_exhaustive()
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self::new(StoreSettings::default())
    }
}

enum Place {
    Local(PathBuf),
    Object(Object),
}

impl Storage {
    /// Storage whose stores are opened with these settings.
    pub fn new(settings: StoreSettings) -> Self {
        Self { shared: Arc::new(Shared { settings, vended: HashMap::new(), buckets: Mutex::default() }) }
    }

    /// The same with properties that a catalog gave for a table, credentials
    /// for example; they come before the settings.
    #[must_use]
    pub fn with_vended(&self, properties: HashMap<String, String>) -> Self {
        let vended: HashMap<String, String> =
            properties.into_iter().filter(|(key, _)| objects::is_store_property(key)).collect();
        if vended.is_empty() {
            return self.clone();
        }
        let settings = self.shared.settings.clone();
        Self { shared: Arc::new(Shared { settings, vended, buckets: Mutex::default() }) }
    }

    fn place(&self, location: &str) -> Result<Place> {
        if is_local(location) {
            return Ok(Place::Local(local_path(location)));
        }
        let parts = objects::parse(location)?;
        let mut buckets = self.shared.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = match buckets.get(&parts.address) {
            Some(bucket) => bucket.clone(),
            None => {
                let bucket = Arc::new(Bucket::open(&parts, &self.shared.settings, &self.shared.vended)?);
                buckets.insert(parts.address.clone(), bucket.clone());
                bucket
            }
        };
        Ok(Place::Object(Object { bucket, path: parts.path, location: location.to_owned() }))
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Unavailable` when the store cannot be
    /// reached.
    pub fn read(&self, location: &str) -> Result<Bytes> {
        match self.place(location)? {
            Place::Local(path) => fs::read(&path).map(Bytes::from).map_err(|e| durable::io_error("read", &path, e)),
            Place::Object(object) => object.read(),
        }
    }

    /// Opens a file for reading parts of it.
    pub fn open(&self, location: &str) -> Result<Input> {
        match self.place(location)? {
            Place::Local(path) => {
                fs::File::open(&path).map(Input::Local).map_err(|e| durable::io_error("open", &path, e))
            }
            Place::Object(object) => Ok(Input::Object(input::Blocks::open(object)?)),
        }
    }

    /// Whether there is a file. One that cannot be asked for counts as there.
    pub fn exists(&self, location: &str) -> bool {
        match self.place(location) {
            Ok(Place::Local(path)) => path.exists(),
            Ok(Place::Object(object)) => {
                object.head().map_or_else(|e| e.kind() != insightera_core::ErrorKind::NotFound, |_| true)
            }
            Err(_) => true,
        }
    }

    /// Whether a file's store says that it keeps the file as an earlier version
    /// when it is removed. One that is not there is not kept.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub fn keeps_versions(&self, location: &str) -> Result<bool> {
        match self.place(location)? {
            Place::Local(_) => Ok(false),
            Place::Object(object) => object.keeps_versions(),
        }
    }

    /// Begins a new file, whose name nobody else uses.
    pub fn create(&self, location: &str) -> Result<Output> {
        match self.place(location)? {
            Place::Local(path) => durable::NewFile::create(&path).map(Output::Local),
            Place::Object(object) => Ok(Output::Object(output::Upload::new(object))),
        }
    }

    /// Writes a new file, durably, only if there is none of that name.
    pub fn write_new(&self, location: &str, bytes: &[u8]) -> Result<()> {
        match self.place(location)? {
            Place::Local(path) => durable::write_new(&path, bytes),
            Place::Object(object) => object.put_new(Bytes::copy_from_slice(bytes)),
        }
    }

    /// Makes the names of finished files durable, where finishing did not.
    pub fn sync_names<'a>(&self, locations: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let paths: Vec<PathBuf> = locations.into_iter().filter(|l| is_local(l)).map(local_path).collect();
        durable::sync_parents(paths.iter().map(PathBuf::as_path))
    }

    /// Removes a file; one that is gone already is no error. Answers whether
    /// it was there.
    pub fn remove(&self, location: &str) -> Result<bool> {
        match self.place(location)? {
            Place::Local(path) => match faults::step(Stage::of(&path), "remove", &path, || fs::remove_file(&path)) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(durable::io_error("remove", &path, error)),
            },
            Place::Object(object) => object.remove(),
        }
    }

    /// Moves a file. One that is gone already is no error.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        match (self.place(from)?, self.place(to)?) {
            (Place::Local(from), Place::Local(to)) => move_local(&from, &to),
            (Place::Object(source), Place::Object(target)) if Arc::ptr_eq(&source.bucket, &target.bucket) => {
                match source.copy(&target) {
                    Err(error) if error.kind() == insightera_core::ErrorKind::NotFound => return Ok(()),
                    other => other?,
                }
                source.remove().map(drop)
            }
            _ => {
                let mut output = self.create(to)?;
                let mut input = match self.open(from) {
                    Err(error) if error.kind() == insightera_core::ErrorKind::NotFound => return Ok(()),
                    other => other?.reader(),
                };
                std::io::copy(&mut input, &mut output)
                    .map_err(|e| Error::unavailable(format!("cannot copy `{from}` to `{to}`: {e}")).cause(e))?;
                output.finish()?;
                self.sync_names([to])?;
                self.remove(from).map(drop)
            }
        }
    }

    /// Every file below a folder, in no order; none where there is no such
    /// folder. Links of the local file system are not followed.
    pub fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        match self.place(folder)? {
            Place::Local(path) => list_local(&path),
            Place::Object(object) => object.list(),
        }
    }

    /// One spelling of a location: two that name the same file are equal. The
    /// links that lead to a local folder are followed.
    pub fn identity(&self, location: &str) -> String {
        if !is_local(location) {
            return objects::parse(location).map_or_else(|_| location.to_owned(), |parts| parts.identity());
        }
        let path = local_path(location);
        let real = match (path.parent(), path.file_name()) {
            (Some(folder), Some(name)) => fs::canonicalize(folder).map(|folder| folder.join(name)),
            _ => fs::canonicalize(&path),
        };
        real.unwrap_or(path).display().to_string()
    }

    /// Where DataFusion's reader finds a file.
    pub fn stored_path(&self, location: &str) -> Result<StoredPath> {
        match self.place(location)? {
            Place::Local(path) => Ok(StoredPath {
                store: ObjectStoreUrl::local_filesystem(),
                path: object_store::path::Path::from_absolute_path(&path)
                    .map_err(|e| Error::invalid(format!("`{location}` is not a usable path: {e}")))?,
                object_store: None,
            }),
            Place::Object(object) => Ok(StoredPath {
                store: object.bucket.url.clone(),
                path: object.path,
                object_store: Some(object.bucket.store.clone()),
            }),
        }
    }

    /// Iceberg's seam to the same files.
    pub fn file_io(&self) -> FileIO {
        file_io::build(self)
    }
}

fn move_local(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        durable::create_dirs(parent)?;
    }
    match faults::step(Stage::of(from), "move", from, || {
        fs::rename(from, to).inspect(|()| faults::file_moved(from, to))
    }) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
            fs::copy(from, to).map_err(|e| durable::io_error("copy", from, e))?;
            fs::File::open(to).and_then(|file| file.sync_all()).map_err(|e| durable::io_error("sync", to, e))?;
            fs::remove_file(from).map_err(|e| durable::io_error("remove", from, e))
        }
        Err(error) => Err(durable::io_error("move", from, error)),
    }
}

fn list_local(top: &Path) -> Result<Vec<Listed>> {
    let mut found = Vec::new();
    let mut open = vec![top.to_owned()];
    while let Some(next) = open.pop() {
        let entries = match fs::read_dir(&next) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(durable::io_error("list", &next, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| durable::io_error("list", &next, e))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(|e| durable::io_error("read", &path, e))?;
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() {
                let facts = match entry.metadata() {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    other => other.map_err(|e| durable::io_error("read", &path, e))?,
                };
                // A file system that does not know says nothing of age: such a file is young.
                let modified_ms = facts
                    .modified()
                    .map_or(i64::MAX, |time| time.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as i64));
                found.push(Listed { location: format!("file://{}", path.display()), bytes: facts.len(), modified_ms });
            }
        }
    }
    Ok(found)
}

/// Removes the folders that are empty, from a file's up to and without `top`.
/// Object stores have no folders.
pub(super) fn remove_empty_folders(file: &str, top: &str) {
    if !is_local(file) || !is_local(top) {
        return;
    }
    let (path, top) = (local_path(file), local_path(top));
    let mut next = path.parent();
    while let Some(folder) = next.filter(|folder| folder.starts_with(&top) && *folder != top) {
        // A folder with something in it refuses, which ends the walk.
        if fs::remove_dir(folder).is_err() {
            return;
        }
        next = folder.parent();
    }
}

#[cfg(test)]
mod tests;
