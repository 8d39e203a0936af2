//! Finds files under a table's location that nothing reaches, and moves them
//! into a quarantine.
//!
//! Such files are what lost commits and killed writers leave behind. A file of
//! a commit that is being prepared right now looks the same, so only files
//! that are old by the storage's own clock count.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::reach::{self, Reached};
use super::{check_collectable, remove_empty};
use crate::lake::faults::{self, Stage};
use crate::lake::storage::local_path;
use crate::lake::table::Table;
use crate::lake::{Lake, TableName, durable};
use crate::{Error, Result};

/// Files younger than this are never orphans.
pub const LEAST_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Iceberg's default age.
pub const DEFAULT_AGE: Duration = Duration::from_secs(3 * 24 * 60 * 60);
/// Files that one run moves at most.
pub const DEFAULT_CAP: usize = 10_000;
/// The folder of the warehouse that holds what was moved.
pub const QUARANTINE: &str = ".quarantine";

/// What to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Search {
    /// Only files last written before this time, in milliseconds.
    pub older_than_ms: i64,
    /// At most so many.
    pub cap: usize,
}

/// The search that a table gets when nothing is said.
pub fn default_search(now_ms: i64) -> Search {
    Search { older_than_ms: now_ms - DEFAULT_AGE.as_millis() as i64, cap: DEFAULT_CAP }
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Orphans {
    /// The files, sorted, at most as many as the cap.
    pub files: Vec<PathBuf>,
    /// Their bytes.
    pub bytes: u64,
    /// Orphans beyond the cap.
    pub beyond_cap: usize,
    /// Files that nothing reaches and that are too young to tell.
    pub young: usize,
}

/// Finds orphans without touching them.
///
/// # Errors
/// When the time is nearer than a day; a metadata file or manifest cannot be
/// read; another table lives in the same folder; or the folder holds metadata
/// of another table.
pub fn find(lake: &Lake, name: &TableName, search: Search) -> Result<Orphans> {
    let now = lake.clock().now_millis();
    let limit = now - LEAST_AGE.as_millis() as i64;
    if search.older_than_ms > limit {
        return Err(Error::invalid(
            "files that are not 24 hours old cannot be told from those of a commit in progress",
        )
        .hint("choose an older_than at least 24 hours ago"));
    }
    let mut found = candidates(lake, name, search)?;
    // A commit between listing and here may have come to need one of them.
    let table = lake.table(name)?;
    let mut needed = Needed::of(&table)?;
    found.files.retain(|path| !needed.contains(path));
    found.files.sort();
    if found.files.len() > search.cap {
        found.beyond_cap = found.files.len() - search.cap;
        found.files.truncate(search.cap);
    }
    found.bytes = found.files.iter().filter_map(|path| fs::metadata(path).ok()).map(|m| m.len()).sum();
    Ok(found)
}

/// Files under the table's folders that nothing reaches, of any age; those of a
/// commit in progress are among them.
pub(super) fn unreached(lake: &Lake, name: &TableName, search: Search) -> Result<Vec<PathBuf>> {
    let mut found = candidates(lake, name, search)?.files;
    let mut needed = Needed::of(&lake.table(name)?)?;
    found.retain(|path| !needed.contains(path));
    found.sort();
    Ok(found)
}

/// When a file was last written, in milliseconds by the storage's clock.
pub(super) fn written_ms(path: &Path) -> i64 {
    fs::metadata(path).map_or(i64::MAX - 1, |facts| modified_ms(&facts).min(i64::MAX - 1))
}

/// All files below a folder, which may be missing.
pub(super) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = open.pop() {
        let entries = match fs::read_dir(&next) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(durable::io_error("list", &next, error)),
        };
        for entry in entries {
            let path = entry.map_err(|e| durable::io_error("list", &next, e))?.path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

fn candidates(lake: &Lake, name: &TableName, search: Search) -> Result<Orphans> {
    let table = lake.table(name)?;
    check_collectable(&table)?;
    let folders = folders(&table);
    check_alone(lake, &table, &folders)?;
    let mut needed = Needed::of(&table)?;
    let mut found = Orphans::default();
    for folder in &folders {
        let mut open = vec![folder.clone()];
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
                    continue;
                }
                // Links lead elsewhere and are nobody's orphans.
                if !kind.is_file() || needed.contains(&path) {
                    continue;
                }
                let facts = entry.metadata().map_err(|e| durable::io_error("read", &path, e))?;
                check_uuid(&table, &path)?;
                if modified_ms(&facts) < search.older_than_ms {
                    found.files.push(path);
                } else {
                    found.young += 1;
                }
            }
        }
    }
    Ok(found)
}

fn modified_ms(facts: &fs::Metadata) -> i64 {
    // A file system that does not know says nothing of age: such a file is young.
    let Ok(modified) = facts.modified() else { return i64::MAX };
    modified.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as i64)
}

/// Where a table's files are: its location, and the folders its properties
/// name.
fn folders(table: &Table) -> Vec<PathBuf> {
    let properties = table.metadata().properties();
    let mut folders = vec![local_path(table.metadata().location())];
    for key in ["write.data.path", "write.metadata.path"] {
        if let Some(path) = properties.get(key).map(|location| local_path(location))
            && !folders.iter().any(|folder| path.starts_with(folder))
        {
            folders.push(path);
        }
    }
    folders
}

/// The files that a table's metadata reaches. The same file can be written in
/// several ways, through a link for example: real paths are compared.
struct Needed {
    paths: BTreeSet<PathBuf>,
    real: HashMap<PathBuf, PathBuf>,
}

impl Needed {
    fn of(table: &Table) -> Result<Self> {
        let reached = Reached::all(table)?;
        let metadata = reach::metadata_files(table);
        let mut needed = Self { paths: BTreeSet::new(), real: HashMap::new() };
        for location in reached.paths().chain(&metadata) {
            let path = needed.real(&local_path(location));
            needed.paths.insert(path);
        }
        // Hadoop's pointer, where the table was copied from such a warehouse.
        let hint = needed.real(&local_path(table.metadata().location()).join("metadata").join("version-hint.text"));
        needed.paths.insert(hint);
        Ok(needed)
    }

    fn contains(&mut self, path: &Path) -> bool {
        let real = self.real(path);
        self.paths.contains(&real)
    }

    fn real(&mut self, path: &Path) -> PathBuf {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return path.to_owned() };
        if !self.real.contains_key(folder) {
            let real = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
            self.real.insert(folder.to_owned(), real);
        }
        self.real.get(folder).map_or_else(|| path.to_owned(), |real| real.join(name))
    }
}

/// Two tables in one folder would each see the other's files as orphans.
fn check_alone(lake: &Lake, table: &Table, folders: &[PathBuf]) -> Result<()> {
    for other in lake.catalog().tables()? {
        if other == *table.name() {
            continue;
        }
        let Some(other) = lake.find(&other)? else { continue };
        for theirs in self::folders(&other) {
            if let Some(ours) = folders.iter().find(|ours| theirs.starts_with(ours) || ours.starts_with(&theirs)) {
                return Err(Error::invalid(format!(
                    "the files of table `{}` and of table `{}` are in one folder, `{}`: no orphans can be told",
                    table.name(),
                    other.name(),
                    ours.display()
                )));
            }
        }
    }
    Ok(())
}

/// A metadata file of another table means that this folder is not this
/// table's alone. One that cannot be read is what a killed writer left.
fn check_uuid(table: &Table, path: &Path) -> Result<()> {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    if !name.ends_with(".metadata.json") {
        return Ok(());
    }
    match Table::load(table.name().clone(), format!("file://{}", path.display())) {
        Ok(other) if other.metadata().uuid() != table.metadata().uuid() => Err(Error::invalid(format!(
            "`{}` belongs to a table with the uuid {}: no orphans of table `{}` can be told",
            path.display(),
            other.metadata().uuid(),
            table.name()
        ))
        .hint("move the file out of the table's folder if it does not belong there")),
        _ => Ok(()),
    }
}

/// Moves orphans into the quarantine, keeping their paths under the
/// warehouse. Answers the folder they are in.
pub fn quarantine(lake: &Lake, name: &TableName, orphans: &Orphans) -> Result<PathBuf> {
    let table = lake.table(name)?;
    let stamp = chrono::DateTime::from_timestamp_millis(lake.clock().now_millis())
        .map_or_else(|| "now".to_owned(), |time| time.format("%Y%m%dT%H%M%S%3f").to_string());
    let target = lake.warehouse().join(QUARANTINE).join(&name.namespace).join(&name.name).join(stamp);
    let folders = folders(&table);
    for path in &orphans.files {
        let top = folders.iter().find(|folder| path.starts_with(folder)).cloned().unwrap_or_default();
        let inside = path.strip_prefix(&top).unwrap_or(path);
        let to = target.join(inside);
        if let Some(parent) = to.parent() {
            durable::create_dirs(parent)?;
        }
        match faults::step(Stage::of(path), "move", path, || fs::rename(path, &to)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
                fs::copy(path, &to).map_err(|e| durable::io_error("copy", path, e))?;
                fs::File::open(&to).and_then(|file| file.sync_all()).map_err(|e| durable::io_error("sync", &to, e))?;
                fs::remove_file(path).map_err(|e| durable::io_error("remove", path, e))?;
            }
            Err(error) => return Err(durable::io_error("move", path, error)),
        }
        remove_empty(path, &top);
    }
    Ok(target)
}

/// Deletes what has been in the quarantine for longer than `age`. Answers how
/// many files and bytes.
pub fn sweep(lake: &Lake, age: Duration) -> Result<(u64, u64)> {
    let top = lake.warehouse().join(QUARANTINE);
    let limit = lake.clock().now_millis().saturating_sub(age.as_millis() as i64);
    let (mut files, mut bytes) = (0, 0);
    for namespace in children(&top)? {
        for table in children(&namespace)? {
            for moved in children(&table)? {
                let stamp = moved.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                let time = chrono::NaiveDateTime::parse_from_str(&stamp, "%Y%m%dT%H%M%S%3f").ok();
                if time.is_none_or(|time| time.and_utc().timestamp_millis() >= limit) {
                    continue;
                }
                let (count, size) = weigh(&moved)?;
                fs::remove_dir_all(&moved).map_err(|e| durable::io_error("remove", &moved, e))?;
                files += count;
                bytes += size;
            }
        }
    }
    Ok((files, bytes))
}

fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(durable::io_error("list", folder, error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| durable::io_error("list", folder, e))?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn weigh(folder: &Path) -> Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(folder).map_err(|e| durable::io_error("list", folder, e))? {
        let path = entry.map_err(|e| durable::io_error("list", folder, e))?.path();
        if path.is_dir() {
            let (count, size) = weigh(&path)?;
            files += count;
            bytes += size;
        } else {
            files += 1;
            bytes += fs::metadata(&path).map_or(0, |m| m.len());
        }
    }
    Ok((files, bytes))
}
