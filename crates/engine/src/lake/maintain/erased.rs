//! Removes what an erasure has replaced: at once, without a quarantine, and
//! durably.
//!
//! The same two rules as everywhere: a file goes only after a commit made it
//! unreachable, and what is reachable is computed again on the table as it then
//! is. Data goes before the manifests that name it and the metadata file last,
//! so that after an accident the same call finds what is left.

use std::collections::BTreeSet;
use std::ops::AddAssign;

use super::check_collectable;
use super::orphans;
use super::reach::{self, Reached};
use crate::Result;
use crate::lake::erase::MARK;
use crate::lake::faults::{self, Bug};
use crate::lake::storage::{self, Storage, local_path};
use crate::lake::table::Table;
use crate::lake::{Lake, TableName, durable};

/// Files that were removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gone {
    /// How many.
    pub files: u64,
    /// Those among them that their store keeps as earlier versions.
    pub versions: u64,
}

impl AddAssign for Gone {
    fn add_assign(&mut self, more: Self) {
        self.files += more.files;
        self.versions += more.versions;
    }
}

impl Gone {
    /// Removes one more file.
    fn remove(&mut self, storage: &Storage, location: &str) -> Result<()> {
        let kept = storage.keeps_versions(location)?;
        if storage.remove(location)? {
            self.files += 1;
            self.versions += u64::from(kept);
        }
        Ok(())
    }
}

/// Removes the files that only the metadata file `base` of the table needs, and
/// the metadata files before it. Answers how many there were.
///
/// # Errors
/// When the table cannot be read, or a file cannot be removed; calling again
/// goes on.
pub fn remove_replaced(lake: &Lake, name: &TableName, base: &str) -> Result<Gone> {
    let now = lake.table(name)?;
    let storage = now.storage();
    if !storage.exists(base) {
        return Ok(Gone::default());
    }
    check_collectable(&now)?;
    if now.metadata_location() == base {
        return Ok(Gone::default());
    }
    let before = Table::load(name.clone(), base.to_owned(), storage.clone())?;
    let mut needed_metadata = reach::metadata_files(&now);
    let unneeded = Reached::of_what_is_there(&before)?.without(&Reached::all(&now)?);
    let mut gone = Gone::default();
    let top = now.metadata().location();
    let mut sweep = |paths: &BTreeSet<String>| -> Result<()> {
        for location in paths {
            gone.remove(storage, location)?;
            storage::remove_empty_folders(location, top);
        }
        forgotten(paths)
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
    Ok(gone)
}

/// Removes what an erasure wrote under the table's folders and did not commit,
/// since it was killed or overtaken. Only one erasure may run. Answers how many
/// files there were.
///
/// # Errors
/// When a file cannot be removed.
pub fn remove_abandoned(lake: &Lake, name: &TableName) -> Result<Gone> {
    // Where orphans cannot be told nothing is removed; the leftovers say why.
    let Ok(files) = orphans::unreached(lake, name) else { return Ok(Gone::default()) };
    let abandoned = |location: &String| location.rsplit('/').next().is_some_and(|name| name.contains(MARK));
    let files: Vec<String> = files.into_iter().map(|file| file.location).filter(abandoned).collect();
    remove_files(lake.storage(), &files)
}

/// Removes files that no snapshot names and that hold the entity, such as the
/// window state of a stream. Answers how many there were.
///
/// # Errors
/// When a file cannot be removed.
pub fn remove_files(storage: &Storage, locations: &[String]) -> Result<Gone> {
    let mut gone = Gone::default();
    for location in locations {
        gone.remove(storage, location)?;
    }
    forgotten(locations)?;
    Ok(gone)
}

/// The names of removed files, too, must not come back after a power loss.
fn forgotten<'a>(locations: impl IntoIterator<Item = &'a String>) -> Result<()> {
    if faults::bug(Bug::ErasedNamesNotSynced) {
        return Ok(());
    }
    let local = locations.into_iter().filter(|location| storage::is_local(location)).map(|l| local_path(l));
    let folders: BTreeSet<_> = local.filter_map(|path| path.parent().map(std::path::Path::to_owned)).collect();
    folders.iter().filter(|folder| folder.is_dir()).try_for_each(|folder| durable::sync_dir(folder))
}

/// What no snapshot needs and a test finds the entity in.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Files that were removed.
    pub gone: Gone,
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
    holds: &dyn Fn(&Table, &str) -> Result<bool>,
    any_age: bool,
) -> Result<Leftovers> {
    let mut done = Leftovers::default();
    let table = lake.table(name)?;
    let is_data = |location: &str| location.ends_with(".parquet");
    let quarantine = format!("{}/{}/{}", orphans::quarantine_of(lake), name.namespace, name.name);
    let mut gone = Vec::new();
    for file in lake.storage().list(&quarantine)? {
        // One that cannot be read is nobody's to keep.
        if !is_data(&file.location) || holds(&table, &file.location).unwrap_or(true) {
            gone.push(file.location);
        }
    }
    let limit = if any_age { i64::MAX } else { lake.clock().now_millis() - orphans::LEAST_AGE.as_millis() as i64 };
    match orphans::unreached(lake, name) {
        Ok(all) => {
            for file in all.into_iter().filter(|file| is_data(&file.location)) {
                // A file that is being written has no footer yet.
                if !holds(&table, &file.location).unwrap_or(false) {
                    continue;
                }
                if file.modified_ms < limit {
                    gone.push(file.location);
                } else {
                    done.left.push(format!(
                        "`{}` is younger than a day: a commit may need it; erase again when it is older",
                        file.location
                    ));
                }
            }
        }
        Err(error) => done.left.push(format!("files that no snapshot needs were not looked at: {error}")),
    }
    done.gone = remove_files(lake.storage(), &gone)?;
    gone.iter().for_each(|location| storage::remove_empty_folders(location, lake.warehouse()));
    // Files that others have removed, expiry for example, and of which nothing
    // is left to see, must not come back either.
    let mut folders = orphans::folders(&table);
    folders.push(quarantine);
    for folder in folders.iter().filter(|folder| storage::is_local(folder)) {
        if !faults::bug(Bug::ErasedNamesNotSynced) {
            durable::sync_tree(&local_path(folder))?;
        }
    }
    Ok(done)
}
