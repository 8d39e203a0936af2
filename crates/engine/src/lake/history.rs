//! When each file of a table was part of it: the rows of all times, each with
//! the times between which it could be read.
//!
//! The table's own log says which snapshot was current when. A file is told
//! apart by the delete files that apply to it, so a row that was deleted later
//! is there until then. A compaction ends a file and begins another at one
//! moment.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::files::{self, LiveFile, LiveFiles};
use super::table::Table;
use crate::Result;

/// Rows that could be read from one time on until another.
#[derive(Debug, Clone)]
pub struct Period {
    /// Microseconds since the epoch, inclusive.
    pub from: i64,
    /// Microseconds since the epoch, exclusive; the largest number when they
    /// still can.
    pub until: i64,
    /// Their files, with the delete files that applied then.
    pub files: LiveFiles,
}

/// All that a table's log still tells.
#[derive(Debug, Default)]
pub struct History {
    /// The periods, oldest first.
    pub periods: Vec<Period>,
    /// Since when the log tells it, microseconds since the epoch; what was
    /// before has been expired, or the table was not there.
    pub since: Option<i64>,
    /// Whether snapshots before that have been expired.
    pub expired: bool,
}

/// A data file and the delete files that apply to it.
type Version = (String, Vec<String>);

struct Open {
    from: i64,
    file: LiveFile,
    deletes: Vec<LiveFile>,
}

/// Reads the history of `table`.
///
/// # Errors
/// When a manifest or a manifest list cannot be read.
pub fn history(table: &Table) -> Result<History> {
    let mut found = History::default();
    let mut open: HashMap<Version, Open> = HashMap::new();
    let mut closed: BTreeMap<(i64, i64, Vec<String>), LiveFiles> = BTreeMap::new();
    let mut close = |version: &Version, was: Open, until: i64| {
        let files = closed.entry((was.from, until, version.1.clone())).or_default();
        files.data.push(was.file);
        files.deletes = was.deletes;
    };
    let mut before: Option<HashSet<String>> = None;
    for entry in table.metadata().history() {
        let at = entry.timestamp_ms().saturating_mul(1000);
        let Some(snapshot) = table.metadata().snapshot_by_id(entry.snapshot_id) else {
            for (version, was) in open.drain() {
                close(&version, was, at);
            }
            (found.since, found.expired, before) = (None, true, None);
            continue;
        };
        if found.since.is_none() {
            found.since = Some(at);
            // The log is cut where snapshots were expired; its first tells.
            let parent = snapshot.parent_snapshot_id();
            found.expired |= parent.is_some_and(|id| table.metadata().snapshot_by_id(id).is_none());
        }
        let list = files::manifest_list(table, snapshot)?;
        let deletes = list.iter().any(|m| m.content == iceberg::spec::ManifestContentType::Deletes);
        let paths: HashSet<String> = list.iter().map(|m| m.manifest_path.clone()).collect();
        // Only appended to: what was there still is, what is new is in new manifests.
        let appended = before.as_ref().filter(|before| !deletes && before.is_subset(&paths));
        if let Some(before) = appended {
            for manifest in list.iter().filter(|m| !before.contains(&m.manifest_path)) {
                for entry in files::manifest_entries(table, manifest)?.iter().filter(|e| e.is_alive()) {
                    let file = LiveFile { entry: entry.clone(), spec_id: manifest.partition_spec_id };
                    let version = (file.data_file().file_path().to_owned(), Vec::new());
                    open.entry(version).or_insert_with(|| Open { from: at, file, deletes: Vec::new() });
                }
            }
        } else {
            let live = files::live_files(table, Some(entry.snapshot_id))?;
            let mut now: HashMap<Version, Open> = HashMap::with_capacity(live.data.len());
            for file in &live.data {
                let applied: Vec<LiveFile> = live.deletes_for(file, table).into_iter().cloned().collect();
                let mut names: Vec<String> = applied.iter().map(|d| d.data_file().file_path().to_owned()).collect();
                names.sort();
                let version = (file.data_file().file_path().to_owned(), names);
                let from = open.remove(&version).map_or(at, |was| was.from);
                now.insert(version, Open { from, file: file.clone(), deletes: applied });
            }
            for (version, was) in open.drain() {
                close(&version, was, at);
            }
            open = now;
        }
        before = (!deletes).then_some(paths);
    }
    for (version, was) in open.drain() {
        close(&version, was, i64::MAX);
    }
    found.periods = closed.into_iter().map(|((from, until, _), files)| Period { from, until, files }).collect();
    Ok(found)
}
