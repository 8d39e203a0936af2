//! The commit layer: the only code that moves a table's pointer.
//!
//! A commit loads the base, **decides on that very base** ([`decide`]), writes
//! manifests and metadata durably, compares and swaps the pointer, and
//! classifies the outcome:
//!
//! - *done*: the pointer moved.
//! - *conflict*: the pointer was elsewhere: load the new base, decide again.
//! - *unknown*: the pointer is read again until it is known. If the intent is
//!   in the ancestry the commit is done; if the pointer still stands at the
//!   base, the same metadata file is swapped in again, so that a late first
//!   attempt and the second are the same commit.
//!
//! What a lost commit wrote is for maintenance, with one exception: the
//! metadata file of a lost race, which holds the table's whole history, goes
//! when every attempt to swap it in was answered with a conflict. Without that
//! two writers leave more metadata than the table has.

mod change;
mod decide;
mod snapshot;
mod stream;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use iceberg::TableUpdate;
use iceberg::spec::{DataContentType, TableMetadata};
use uuid::Uuid;

pub use change::{Change, ManifestRewrite};
pub use decide::{AncestorFacts, BaseFacts, Decision, Fence, Intent, decide};
pub(super) use snapshot::mirrored_progress;
pub use stream::{Samples, StreamMove, StreamOutcome, StreamState, commit_stream, samples_of};

use super::catalog::{Loaded, Next, Swap};
use super::faults::{self, Bug};
use super::storage::Storage;
use super::table::{self, Table, TableName};
use super::{Lake, files, keys};
use crate::{Error, Result};

/// Tries against other writers before a commit gives up.
const ATTEMPTS: usize = 100;

/// How a commit ended.
#[derive(Debug)]
pub enum Outcome {
    /// It is in the table as this snapshot.
    Committed {
        /// The table with the commit in it.
        table: Box<Table>,
        /// The commit's snapshot.
        snapshot_id: i64,
    },
    /// Another run of the same pipeline was first, or the table is not what
    /// the change was planned on: plan again.
    Stale {
        /// The snapshot that came in between.
        newest: i64,
    },
}

/// Commits a change of rows.
///
/// # Errors
/// `Conflict` when the table was replaced or other writers kept winning;
/// `Unavailable` when the catalog cannot be reached, the outcome then unknown
/// and said so.
pub fn commit(lake: &Lake, change: &Change) -> Result<Outcome> {
    commit_if(lake, change, &mut |_| Ok(Some(Summary::new())))
}

/// Keys of a snapshot's summary.
type Summary = BTreeMap<String, String>;

/// Commits if `consent` gives further summary keys for the base that is
/// swapped; without them the outcome is stale.
fn commit_if(
    lake: &Lake,
    change: &Change,
    consent: &mut dyn FnMut(&Table) -> Result<Option<Summary>>,
) -> Result<Outcome> {
    let mut first_base: Option<Table> = None;
    for _ in 0..ATTEMPTS {
        let base = lake.table(&change.table)?;
        base.check_writable()?;
        let decided_on = match &first_base {
            Some(old) if faults::bug(Bug::FenceOnOldBase) => old,
            _ => &base,
        };
        let forgetful = faults::bug(Bug::UnknownIsFailure);
        let decision = match decide(&base_facts(decided_on, change.fence.as_ref()), &change_intent(change)) {
            Decision::AlreadyDone(_) if forgetful => Decision::Proceed,
            decided => decided,
        };
        match decision {
            Decision::AlreadyDone(snapshot_id) => {
                return Ok(Outcome::Committed { table: Box::new(base), snapshot_id });
            }
            Decision::TableReplaced => {
                return Err(Error::conflict(format!(
                    "table `{}` was dropped and made again during the run",
                    change.table
                ))
                .hint("run again: the new table has no predictions yet"));
            }
            Decision::Stale(newest) => return Ok(Outcome::Stale { newest }),
            Decision::Proceed => {}
        }
        if let Some(newest) = overtaken(&base, change)? {
            return Ok(Outcome::Stale { newest });
        }
        let Some(further) = consent(decided_on)? else {
            return Ok(Outcome::Stale { newest: base.current_snapshot_id().unwrap_or_default() });
        };
        let further = (!further.is_empty()).then(|| {
            let mut change = change.clone();
            change.summary.extend(further);
            change
        });
        let manifests_of = first_base.as_ref().filter(|_| faults::bug(Bug::LostManifests)).unwrap_or(&base);
        let (snapshot_id, updates) = snapshot::build(lake, &base, manifests_of, further.as_ref().unwrap_or(change))?;
        match apply(lake, &base, updates)? {
            Applied::Done(table) => return Ok(Outcome::Committed { table: Box::new(table), snapshot_id }),
            Applied::Conflict => {}
        }
        first_base.get_or_insert(base);
    }
    Err(Error::conflict(format!("table `{}` was changed by others {ATTEMPTS} times in a row", change.table))
        .hint("run again when there are fewer writers"))
}

/// The snapshot of the base that makes a change stale which was planned on
/// another.
fn overtaken(base: &Table, change: &Change) -> Result<Option<i64>> {
    let current = base.current_snapshot_id();
    if change.erasures.is_some_and(|known| keys::erasures_of(base) > known) {
        return Ok(Some(current.unwrap_or_default()));
    }
    if change.expected.is_some_and(|expected| expected != current) {
        return Ok(Some(current.unwrap_or_default()));
    }
    // An erasure keeps the ids of snapshots and replaces their files.
    if (change.expected.is_some() || change.planned_on.is_some())
        && !faults::bug(Bug::ExpectedById)
        && let Some((read, list)) = &change.read
        && base.metadata().snapshot_by_id(*read).is_some_and(|snapshot| snapshot.manifest_list() != list)
    {
        return Ok(Some(current.unwrap_or_default()));
    }
    let Some(planned) = change.planned_on.filter(|planned| Some(*planned) != current) else { return Ok(None) };
    if faults::bug(Bug::RewriteIgnoresRace) {
        return Ok(None);
    }
    let metadata = base.metadata();
    let Some(planned) = metadata.snapshot_by_id(planned) else { return Ok(Some(current.unwrap_or_default())) };
    let removed: HashSet<&str> = change.removed.iter().map(String::as_str).collect();
    let live = files::live_files(base, current)?;
    let there = live.data.iter().filter(|f| removed.contains(f.data_file().file_path()));
    let (mut found, mut hit) = (0, false);
    for file in there {
        found += 1;
        hit |= live.deletes_for(file, base).iter().any(|delete| {
            delete.sequence() > planned.sequence_number()
                && delete.data_file().content_type() == DataContentType::PositionDeletes
        });
    }
    Ok((hit || found < removed.len()).then(|| current.unwrap_or_default()))
}

/// Changes a table's schema, partition spec or properties. `decide` sees the
/// base that the swap compares with and may find nothing to do.
pub fn alter(lake: &Lake, name: &TableName, decide: impl Fn(&Table) -> Result<Vec<TableUpdate>>) -> Result<Table> {
    for _ in 0..ATTEMPTS {
        let base = lake.table(name)?;
        base.check_writable()?;
        let updates = decide(&base)?;
        if updates.is_empty() {
            return Ok(base);
        }
        if let Applied::Done(table) = apply(lake, &base, updates)? {
            return Ok(table);
        }
    }
    Err(Error::conflict(format!("table `{name}` was changed by others {ATTEMPTS} times in a row")))
}

/// Registers a drafted table; an existing one of that name is returned as it
/// is, with its own uuid.
pub fn create(lake: &Lake, draft: &Table) -> Result<Table> {
    let (name, metadata) = (draft.name(), draft.metadata());
    lake.catalog().ensure_namespace(&name.namespace)?;
    let location = write_next(lake, draft.storage(), None, metadata)?;
    faults::before_swap();
    match lake.catalog().create(name, Next { updates: &[], metadata, location: &location }) {
        Swap::Done(Some(loaded)) => lake.loaded(name, *loaded),
        Swap::Done(None) => Ok(Table::new(name.clone(), draft.metadata_ref(), location, draft.storage().clone())),
        Swap::Conflict => {
            let table = lake.table(name)?;
            if !location.is_empty() && table.metadata().uuid() != metadata.uuid() {
                // Nobody was told of the file, and to who looks for orphans it
                // would be another table's. One that stays is told there.
                let _ = draft.storage().remove(&location);
            }
            Ok(table)
        }
        Swap::Refused(error) => Err(error),
        Swap::Unknown(error) => match lake.find(name) {
            Ok(Some(table)) => Ok(table),
            _ => Err(error),
        },
    }
}

/// Puts other metadata in the place of a table's: what no update can say, such
/// as other manifest lists of the same snapshots. `decide` sees the base that
/// the swap compares with and may find nothing to do.
pub(super) fn replace_metadata(
    lake: &Lake,
    name: &TableName,
    mut decide: impl FnMut(&Table) -> Result<Option<TableMetadata>>,
) -> Result<Table> {
    for _ in 0..ATTEMPTS {
        let base = lake.table(name)?;
        base.check_writable()?;
        if lake.catalog().writes_metadata() {
            return Err(Error::invalid(format!(
                "the catalog writes the metadata of table `{name}` itself, and it cannot be told to replace its history"
            ))
            .hint("erase through a catalog that moves pointers, SQLite, PostgreSQL or Hive, over the same files"));
        }
        let Some(metadata) = decide(&base)? else { return Ok(base) };
        if let Applied::Done(table) = swap(lake, &base, &[], metadata)? {
            return Ok(table);
        }
    }
    Err(Error::conflict(format!("table `{name}` was changed by others {ATTEMPTS} times in a row"))
        .hint("run again when there are fewer writers"))
}

enum Applied {
    Done(Table),
    Conflict,
}

fn apply(lake: &Lake, base: &Table, updates: Vec<TableUpdate>) -> Result<Applied> {
    let adds_snapshot = updates.iter().any(|update| matches!(update, TableUpdate::AddSnapshot { .. }));
    let mut builder = base.metadata().clone().into_builder(Some(base.metadata_location().to_owned()));
    for update in &updates {
        builder = update.clone().apply(builder).map_err(|e| refused(base, e))?;
    }
    let mut metadata = builder.build().map_err(|e| refused(base, e))?.metadata;
    if !adds_snapshot {
        let now = lake.clock().now_micros().div_euclid(1000);
        metadata = table::dated(metadata, now.max(base.metadata().last_updated_ms()))?;
    }
    swap(lake, base, &updates, metadata)
}

/// Writes the metadata file and moves the pointer from the base to it.
fn swap(lake: &Lake, base: &Table, updates: &[TableUpdate], metadata: TableMetadata) -> Result<Applied> {
    let location = write_next(lake, base.storage(), Some(base), &metadata)?;
    faults::before_swap();
    let metadata = Arc::new(metadata);
    let next = Next { updates, metadata: &metadata, location: &location };
    let done = |told: Option<Box<Loaded>>| -> Result<Applied> {
        if let Some(loaded) = told {
            return Ok(Applied::Done(lake.loaded(base.name(), *loaded)?));
        }
        lake.metadata_cache().put(&location, metadata.clone());
        remove_old_metadata(base, &metadata);
        let storage = base.storage().clone();
        Ok(Applied::Done(Table::new(base.name().clone(), metadata.clone(), location.clone(), storage)))
    };
    let mut unknown: Option<Error> = None;
    // The same two states every time: attempts cannot pile up.
    for _ in 0..3 {
        let swapped = match lake.catalog().swap(base, next) {
            Swap::Done(_) if faults::lose_reply() => Swap::Unknown(Error::unavailable("the reply was lost")),
            other => other,
        };
        match swapped {
            Swap::Done(told) => return done(told),
            Swap::Refused(error) => return Err(error),
            Swap::Conflict => {
                // This attempt, an unknown one before it, or another writer's?
                let now = match settle(lake, base.name()) {
                    Err(_) if unknown.is_none() => return Ok(Applied::Conflict),
                    settled => settled?,
                };
                if is_or_was(&now, &next) {
                    return Ok(Applied::Done(now));
                }
                return match unknown {
                    Some(error) if !tells(&now, base, &next) => Err(untold(base.name(), &error)),
                    Some(_) => Ok(Applied::Conflict),
                    None => {
                        // Every attempt was answered: nobody was told of the
                        // file. One that stays takes space only.
                        if !location.is_empty() {
                            let _ = base.storage().remove(&location);
                        }
                        Ok(Applied::Conflict)
                    }
                };
            }
            Swap::Unknown(error) if faults::bug(Bug::UnknownIsFailure) => {
                drop(error);
                return Ok(Applied::Conflict);
            }
            Swap::Unknown(error) if faults::bug(Bug::DeleteOnUnknown) => {
                base.storage().remove(&location)?;
                return Err(error);
            }
            Swap::Unknown(error) => {
                let now = settle(lake, base.name())?;
                if is_or_was(&now, &next) {
                    return Ok(Applied::Done(now));
                }
                unknown = Some(error);
            }
        }
    }
    Err(unknown.unwrap_or_else(|| Error::internal("a swap without an outcome")))
}

/// Whether a table that does not show `next` shows that it never was its state.
/// Where the server keeps one snapshot its ancestry does not go back to the base;
/// then the progress of a pipeline tells, and nothing of other changes of rows.
fn tells(now: &Table, base: &Table, next: &Next<'_>) -> bool {
    let adds_rows = next.updates.iter().any(|update| matches!(update, TableUpdate::AddSnapshot { .. }));
    let prefix = keys::progress("");
    let of_a_pipeline = next.updates.iter().any(|update| match update {
        TableUpdate::SetProperties { updates } => updates.keys().any(|key| key.starts_with(&prefix)),
        _ => false,
    });
    let (mut cut, mut reached) = (false, false);
    for snapshot in now.ancestry() {
        reached |= Some(snapshot.snapshot_id()) == base.current_snapshot_id();
        cut = snapshot.parent_snapshot_id().is_some_and(|id| now.metadata().snapshot_by_id(id).is_none());
    }
    !next.location.is_empty() || !adds_rows || of_a_pipeline || reached || !cut
}

fn untold(name: &TableName, error: &Error) -> Error {
    Error::unavailable(format!(
        "whether the change of table `{name}` was made is not known: its answer was lost ({error}), others changed the table since, and the catalog does not keep the snapshots between"
    ))
    .hint("look whether its rows are in the table before doing it again")
}

/// Whether `next` is the table's state or has been on its way to it. The
/// pointer's own history tells: our file is the current one or in its log. Where
/// the catalog names the files, our snapshot, or else the same state, tells.
fn is_or_was(now: &Table, next: &Next<'_>) -> bool {
    if !next.location.is_empty() {
        let log = now.metadata().metadata_log();
        return now.metadata_location() == next.location
            || log.iter().any(|entry| entry.metadata_file == next.location);
    }
    let added = next.updates.iter().find_map(|update| match update {
        TableUpdate::AddSnapshot { snapshot } => Some(snapshot.snapshot_id()),
        _ => None,
    });
    match added {
        Some(snapshot_id) => now.metadata().snapshot_by_id(snapshot_id).is_some(),
        None => {
            let state = |metadata: &TableMetadata| {
                let mut json = serde_json::to_value(metadata).ok()?;
                // What the server counts by itself.
                for key in ["last-updated-ms", "metadata-log", "snapshot-log"] {
                    json.as_object_mut()?.remove(key);
                }
                json["properties"].as_object_mut()?.retain(|key, _| !key.starts_with("nessie."));
                Some(json)
            };
            state(now.metadata()).is_some_and(|found| Some(found) == state(next.metadata))
        }
    }
}

/// Writes the metadata file that the pointer is to name; answers its location,
/// which is empty where the catalog writes the file.
fn write_next(lake: &Lake, storage: &Storage, base: Option<&Table>, metadata: &TableMetadata) -> Result<String> {
    if lake.catalog().writes_metadata() {
        return Ok(String::new());
    }
    let table = base.map_or(metadata.location(), |base| base.metadata().location());
    let location = metadata_location(table, base.map(Table::metadata_location), metadata);
    write_metadata(storage, &location, metadata)?;
    Ok(location)
}

/// With `write.metadata.delete-after-commit.enabled`, removes the metadata files
/// that have left the log of earlier ones. One that stays takes space only.
fn remove_old_metadata(base: &Table, after: &TableMetadata) {
    let wanted = after.properties().get("write.metadata.delete-after-commit.enabled");
    if wanted.is_none_or(|value| !value.eq_ignore_ascii_case("true")) {
        return;
    }
    let kept: HashSet<&str> = after.metadata_log().iter().map(|entry| entry.metadata_file.as_str()).collect();
    for entry in base.metadata().metadata_log().iter().filter(|entry| !kept.contains(entry.metadata_file.as_str())) {
        let _ = base.storage().remove(&entry.metadata_file);
    }
}

/// Reads the table until the catalog answers.
fn settle(lake: &Lake, name: &TableName) -> Result<Table> {
    let mut wait = Duration::from_millis(50);
    loop {
        match lake.table(name) {
            Err(error) if error.retryable() && wait < Duration::from_secs(4) => {
                lake.clock().sleep(wait);
                wait *= 2;
            }
            other => return other,
        }
    }
}

fn refused(base: &Table, error: iceberg::Error) -> Error {
    let text = error.to_string();
    let new = Error::internal(format!("the new metadata of table `{}` is not valid: {text}", base.name())).cause(error);
    if text.contains("Invalid update timestamp") || text.contains("Invalid snapshot timestamp") {
        return new
            .hint("the machine's clock is behind the table's newest commit: set it right, or wait until it passes");
    }
    new
}

fn change_intent(change: &Change) -> Intent {
    Intent { id: change.intent_id.clone(), uuid: change.uuid.to_string(), fence: change.fence.clone() }
}

/// Reads the facts of a base.
fn base_facts(base: &Table, fence: Option<&Fence>) -> BaseFacts {
    let mut expired = false;
    let mut ancestry = Vec::new();
    for snapshot in base.ancestry() {
        let summary = &snapshot.summary().additional_properties;
        expired = snapshot.parent_snapshot_id().is_some_and(|id| base.metadata().snapshot_by_id(id).is_none());
        ancestry.push(AncestorFacts {
            snapshot_id: snapshot.snapshot_id(),
            intent_id: summary.get(keys::INTENT_ID).cloned(),
            pipeline: summary.get(keys::PIPELINE).cloned(),
        });
    }
    let mirrored = fence.filter(|_| expired).and_then(|fence| {
        let text = base.metadata().properties().get(&keys::progress(&fence.pipeline))?;
        serde_json::from_str::<serde_json::Value>(text).ok()?.get("snapshot-id")?.as_i64()
    });
    BaseFacts { uuid: base.metadata().uuid().to_string(), ancestry, mirrored }
}

/// `<location>/metadata/<version>-<uuid>[.gz].metadata.json`, the version one
/// above the current file's.
fn metadata_location(table: &str, current: Option<&str>, metadata: &TableMetadata) -> String {
    let version = current
        .and_then(|location| location.rsplit('/').next())
        .and_then(|name| name.trim_start_matches('v').split(['-', '.']).next())
        .and_then(|digits| digits.parse::<u64>().ok())
        .map_or(0, |version| version + 1);
    let suffix = if gzip(metadata.properties()) { ".gz" } else { "" };
    let folder =
        metadata.properties().get("write.metadata.path").cloned().unwrap_or_else(|| format!("{table}/metadata"));
    format!("{folder}/{version:05}-{}{suffix}.metadata.json", Uuid::new_v4())
}

fn gzip(properties: &HashMap<String, String>) -> bool {
    properties.get("write.metadata.compression-codec").is_some_and(|codec| codec.eq_ignore_ascii_case("gzip"))
}

fn write_metadata(storage: &Storage, location: &str, metadata: &TableMetadata) -> Result<()> {
    use std::io::Write;
    let json = serde_json::to_vec(metadata).map_err(|e| Error::internal(format!("metadata has no JSON form: {e}")))?;
    let bytes = if gzip(metadata.properties()) {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder
            .write_all(&json)
            .and_then(|()| encoder.finish())
            .map_err(|e| Error::internal(format!("cannot compress metadata: {e}")))?
    } else {
        json
    };
    storage.write_new(location, &bytes)
}
