//! Finds files under a table's location that nothing reaches, and moves them
//! into a quarantine.
//!
//! Such files are what lost commits and killed writers leave behind. A file of
//! a commit that is being prepared right now looks the same, so only files
//! that are old by the storage's own clock count.

use std::collections::BTreeSet;
use std::time::Duration;

use super::check_collectable;
use super::reach::{self, Reached};
use crate::lake::faults::{self, Bug};
use crate::lake::storage::{self, Storage};
use crate::lake::table::Table;
use crate::lake::{Lake, TableName};
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
    /// The locations of the files, sorted, at most as many as the cap.
    pub files: Vec<String>,
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
    let (mut files, young) = candidates(lake, name, search)?;
    // A commit between listing and here may have come to need one of them.
    let table = lake.table(name)?;
    let needed = Needed::of(&table)?;
    files.retain(|file| !needed.contains(&file.location));
    files.sort_by(|a, b| a.location.cmp(&b.location));
    let mut found = Orphans { young, ..Orphans::default() };
    if files.len() > search.cap {
        found.beyond_cap = files.len() - search.cap;
        files.truncate(search.cap);
    }
    found.bytes = files.iter().map(|file| file.bytes).sum();
    found.files = files.into_iter().map(|file| file.location).collect();
    Ok(found)
}

/// Files under the table's folders that nothing reaches, of any age; those of a
/// commit in progress are among them.
pub(super) fn unreached(lake: &Lake, name: &TableName) -> Result<Vec<storage::Listed>> {
    let (mut found, _) = candidates(lake, name, Search { older_than_ms: i64::MAX, cap: usize::MAX })?;
    let needed = Needed::of(&lake.table(name)?)?;
    found.retain(|file| !needed.contains(&file.location));
    found.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(found)
}

/// Old files that nothing reaches, and how many are too young to tell.
fn candidates(lake: &Lake, name: &TableName, search: Search) -> Result<(Vec<storage::Listed>, usize)> {
    let table = lake.table(name)?;
    check_collectable(&table)?;
    let folders = folders(&table);
    check_alone(lake, &table, &folders)?;
    let needed = Needed::of(&table)?;
    let (mut old, mut young) = (Vec::new(), 0);
    for folder in &folders {
        for file in table.storage().list(folder)? {
            if needed.contains(&file.location) {
                continue;
            }
            check_uuid(&table, &file.location)?;
            if file.modified_ms < search.older_than_ms || faults::bug(Bug::OrphansOfAnyAge) {
                old.push(file);
            } else {
                young += 1;
            }
        }
    }
    Ok((old, young))
}

/// Where a table's files are: its location, and the folders its properties
/// name.
pub(super) fn folders(table: &Table) -> Vec<String> {
    let properties = table.metadata().properties();
    let mut folders = vec![table.metadata().location().trim_end_matches('/').to_owned()];
    for key in ["write.data.path", "write.metadata.path"] {
        if let Some(path) = properties.get(key).map(|location| location.trim_end_matches('/'))
            && !folders.iter().any(|folder| is_below(path, folder))
        {
            folders.push(path.to_owned());
        }
    }
    folders
}

/// Whether a location is a folder or something in it.
fn is_below(location: &str, folder: &str) -> bool {
    let plain = |location: &str| match storage::is_local(location) {
        true => storage::local_path(location).display().to_string(),
        false => location.to_owned(),
    };
    let (location, folder) = (plain(location), plain(folder));
    location.strip_prefix(&folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The files that a table's metadata reaches. The same file can be written in
/// several ways, through a link for example: one spelling is compared.
struct Needed {
    storage: Storage,
    files: BTreeSet<String>,
}

impl Needed {
    fn of(table: &Table) -> Result<Self> {
        let reached = Reached::all(table)?;
        let metadata = reach::metadata_files(table);
        let storage = table.storage().clone();
        // Hadoop's pointer, where the table was copied from such a warehouse.
        let hint = storage::join(table.metadata().location(), "metadata/version-hint.text");
        let files = reached.paths().chain(&metadata).chain([&hint]).map(|file| storage.identity(file)).collect();
        Ok(Self { storage, files })
    }

    fn contains(&self, location: &str) -> bool {
        self.files.contains(&self.storage.identity(location))
    }
}

/// Two tables in one folder would each see the other's files as orphans.
fn check_alone(lake: &Lake, table: &Table, folders: &[String]) -> Result<()> {
    for other in lake.catalog().tables()? {
        if other == *table.name() {
            continue;
        }
        let Some(other) = lake.find(&other)? else { continue };
        for theirs in self::folders(&other) {
            if let Some(ours) = folders.iter().find(|ours| is_below(&theirs, ours) || is_below(ours, &theirs)) {
                return Err(Error::invalid(format!(
                    "the files of table `{}` and of table `{}` are in one folder, `{ours}`: no orphans can be told",
                    table.name(),
                    other.name(),
                )));
            }
        }
    }
    Ok(())
}

/// A metadata file of another table means that this folder is not this
/// table's alone. One that cannot be read is what a killed writer left.
fn check_uuid(table: &Table, location: &str) -> Result<()> {
    if !location.ends_with(".metadata.json") {
        return Ok(());
    }
    match Table::load(table.name().clone(), location.to_owned(), table.storage().clone()) {
        Ok(other) if other.metadata().uuid() != table.metadata().uuid() && !never_began(&other, table) => {
            Err(Error::invalid(format!(
                "`{location}` belongs to a table with the uuid {}: no orphans of table `{}` can be told",
                other.metadata().uuid(),
                table.name()
            ))
            .hint("move the file out of the table's folder if it does not belong there"))
        }
        _ => Ok(()),
    }
}

/// Whether the other is a table of the very same place that nothing was ever
/// committed to: what a writer leaves that ends between the first metadata
/// file and the catalog's entry. A table that was dropped has a later metadata
/// file beside its first, if anything was ever in it. So no row is lost with
/// such a file, only the definition of an empty table.
fn never_began(other: &Table, table: &Table) -> bool {
    let metadata = other.metadata();
    let (there, here) = (metadata.location(), table.metadata().location());
    is_below(there.trim_end_matches('/'), here.trim_end_matches('/'))
        && is_below(here.trim_end_matches('/'), there.trim_end_matches('/'))
        && metadata.last_sequence_number() == 0
        && metadata.snapshots().next().is_none()
        && metadata.metadata_log().is_empty()
        && check_collectable(other).is_ok()
}

/// Moves orphans into the quarantine, keeping their paths under the table's
/// folder. Answers where they are.
pub fn quarantine(lake: &Lake, name: &TableName, orphans: &Orphans) -> Result<String> {
    let table = lake.table(name)?;
    let stamp = chrono::DateTime::from_timestamp_millis(lake.clock().now_millis())
        .map_or_else(|| "now".to_owned(), |time| time.format("%Y%m%dT%H%M%S%3f").to_string());
    let target = format!("{}/{}/{}/{stamp}", quarantine_of(lake), name.namespace, name.name);
    let folders = folders(&table);
    for location in &orphans.files {
        let top = folders.iter().find(|folder| is_below(location, folder)).cloned().unwrap_or_default();
        let plain = |location: &str| storage::local_path(location).display().to_string();
        let inside = match storage::is_local(location) {
            true => plain(location).strip_prefix(&plain(&top)).map(str::to_owned),
            false => location.strip_prefix(&top).map(str::to_owned),
        };
        let inside = inside.unwrap_or_else(|| location.rsplit('/').next().unwrap_or_default().to_owned());
        table.storage().rename(location, &storage::join(&target, inside.trim_start_matches('/')))?;
        storage::remove_empty_folders(location, &top);
    }
    Ok(target)
}

/// Where the quarantine is.
pub(super) fn quarantine_of(lake: &Lake) -> String {
    storage::join(lake.warehouse(), QUARANTINE)
}

/// Deletes what has been in the quarantine for longer than `age`. Answers how
/// many files and bytes.
pub fn sweep(lake: &Lake, age: Duration) -> Result<(u64, u64)> {
    let top = quarantine_of(lake);
    let limit = lake.clock().now_millis().saturating_sub(age.as_millis() as i64);
    let (mut files, mut bytes) = (0, 0);
    for file in lake.storage().list(&top)? {
        // <namespace>/<table>/<stamp>/...
        let stamp = file.location.strip_prefix(&top).and_then(|inside| inside.split('/').nth(3));
        let time = stamp.and_then(|stamp| chrono::NaiveDateTime::parse_from_str(stamp, "%Y%m%dT%H%M%S%3f").ok());
        if time.is_none_or(|time| time.and_utc().timestamp_millis() >= limit) {
            continue;
        }
        if lake.storage().remove(&file.location)? {
            files += 1;
            bytes += file.bytes;
        }
        storage::remove_empty_folders(&file.location, &top);
    }
    Ok((files, bytes))
}
