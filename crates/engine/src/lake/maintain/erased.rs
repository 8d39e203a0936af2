//! Removes what an erasure has replaced: at once, without a quarantine, and
//! durably.
//!
//! The same two rules as everywhere: a file goes only after a commit made it
//! unreachable, and what is reachable is computed again on the table as it then
//! is. Data goes before the manifests that name it and the metadata file last,
//! so that after an accident the same call finds what is left.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::orphans::{self, QUARANTINE};
use super::reach::{self, Reached};
use super::{check_collectable, remove, remove_empty};
use crate::lake::erase::MARK;
use crate::lake::storage::local_path;
use crate::lake::table::Table;
use crate::lake::{Lake, TableName, durable};
use crate::{Error, Result};

/// Removes the files that only the metadata file `base` of the table needs, and
/// the metadata files before it. Answers how many there were.
///
/// # Errors
/// When the table cannot be read, or a file cannot be removed; calling again
/// goes on.
pub fn remove_replaced(lake: &Lake, name: &TableName, base: &str) -> Result<u64> {
    if !local_path(base).exists() {
        return Ok(0);
    }
    let now = lake.table(name)?;
    check_collectable(&now)?;
    if now.metadata_location() == base {
        return Ok(0);
    }
    let before = Table::load(name.clone(), base.to_owned())?;
    let mut needed_metadata = reach::metadata_files(&now);
    let unneeded = Reached::of_what_is_there(&before)?.without(&Reached::all(&now)?);
    let mut count = 0;
    let mut folders = BTreeSet::new();
    let top = local_path(now.metadata().location());
    let mut sweep = |paths: &BTreeSet<String>| -> Result<()> {
        for location in paths {
            count += u64::from(remove(location)?);
            folders.extend(local_path(location).parent().map(PathBuf::from));
            remove_empty(&local_path(location), &top);
        }
        // The names, too, must not come back.
        folders.iter().filter(|folder| folder.is_dir()).try_for_each(|folder| durable::sync_dir(folder))
    };
    let data = [&unneeded.data, &unneeded.position_deletes, &unneeded.equality_deletes, &unneeded.statistics];
    data.into_iter().try_for_each(&mut sweep)?;
    sweep(&unneeded.manifests)?;
    sweep(&unneeded.lists)?;
    needed_metadata.insert(base.to_owned());
    let log: BTreeSet<String> = reach::metadata_files(&before).difference(&needed_metadata).cloned().collect();
    sweep(&log)?;
    if !reach::metadata_files(&now).contains(base) {
        sweep(&BTreeSet::from([base.to_owned()]))?;
    }
    Ok(count)
}

/// Removes what an erasure wrote under the table's folders and did not commit,
/// since it was killed or overtaken. Only one erasure may run. Answers how many
/// files there were.
///
/// # Errors
/// When a file cannot be removed.
pub fn remove_abandoned(lake: &Lake, name: &TableName) -> Result<u64> {
    let search = orphans::Search { older_than_ms: i64::MAX, cap: usize::MAX };
    // Where orphans cannot be told nothing is removed; the leftovers say why.
    let Ok(mut files) = orphans::unreached(lake, name, search) else { return Ok(0) };
    files.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(MARK)));
    remove_files(&files)
}

/// Removes files that no snapshot names and that hold the entity, such as the
/// window state of a stream. Answers how many there were.
///
/// # Errors
/// When a file cannot be removed.
pub fn remove_files(paths: &[PathBuf]) -> Result<u64> {
    let mut count = 0;
    for path in paths {
        let location = path.to_str().ok_or_else(|| Error::invalid(format!("`{}` is no text", path.display())))?;
        count += u64::from(remove(location)?);
    }
    durable::sync_parents(paths.iter().map(PathBuf::as_path).filter(|path| path.parent().is_some_and(|p| p.is_dir())))?;
    Ok(count)
}

/// What no snapshot needs and a test finds the entity in.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Files that were removed.
    pub removed: u64,
    /// Files that stay, and why.
    pub left: Vec<String>,
}

/// Removes the files under the table's folders, and in its quarantine, that no
/// snapshot needs and that hold rows of the entity. Files of other kinds in the
/// quarantine go as well. With `any_age` young files count, too: nobody may
/// commit them any more.
///
/// # Errors
/// When the table cannot be read or a file cannot be removed.
pub fn remove_leftovers(
    lake: &Lake,
    name: &TableName,
    holds: &dyn Fn(&Table, &std::path::Path) -> Result<bool>,
    any_age: bool,
) -> Result<Leftovers> {
    let mut done = Leftovers::default();
    let table = lake.table(name)?;
    let is_data = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "parquet");
    let quarantine = lake.warehouse().join(QUARANTINE).join(&name.namespace).join(&name.name);
    let mut gone = Vec::new();
    for path in orphans::files_below(&quarantine)? {
        // One that cannot be read is nobody's to keep.
        if !is_data(&path) || holds(&table, &path).unwrap_or(true) {
            gone.push(path);
        }
    }
    let search = |older_than_ms: i64| orphans::Search { older_than_ms, cap: usize::MAX };
    let limit = if any_age { i64::MAX } else { lake.clock().now_millis() - orphans::LEAST_AGE.as_millis() as i64 };
    match orphans::unreached(lake, name, search(i64::MAX)) {
        Ok(all) => {
            for path in all.into_iter().filter(is_data) {
                // A file that is being written has no footer yet.
                if !holds(&table, &path).unwrap_or(false) {
                    continue;
                }
                if orphans::written_ms(&path) < limit {
                    gone.push(path);
                } else {
                    done.left.push(format!("`{}` is younger than a day: a commit may need it", path.display()));
                }
            }
        }
        Err(error) => done.left.push(format!("files that no snapshot needs were not looked at: {error}")),
    }
    done.removed = remove_files(&gone)?;
    gone.iter().for_each(|path| remove_empty(path, lake.warehouse()));
    Ok(done)
}
