//! Maintenance of a table by policy: what is due, and doing it.

use std::time::Duration;

use datafusion::prelude::SessionContext;
use serde::Serialize;

use super::expire::{self, Removed, Rules};
use super::manifests;
use super::orphans::{self, Orphans, Search};
use super::rewrite::{self, Options};
use crate::Result;
use crate::lake::{Lake, Table, TableName, files};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// Files of one size that are worth a rewrite behind a stream.
const TIER_FILES: usize = 8;
/// Bytes of files that are rewritten together behind a stream.
const TIER_BYTES: u64 = 256 << 20;

/// How long things are kept and when files are rewritten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Snapshots older than this are expired.
    pub expire_after_days: u32,
    /// So many of the newest snapshots stay, whatever their age.
    pub keep_snapshots: u32,
    /// So many stay at most, however young: a stream makes one every few
    /// seconds, and every commit writes them all down. Tagged ones are not counted.
    pub most_snapshots: u32,
    /// Files that nothing reaches are moved away at this age; at least 1.
    pub orphan_days: u32,
    /// What was moved away is deleted at this age.
    pub quarantine_days: u32,
    /// So many small files of one partition are worth a rewrite.
    pub min_input_files: u32,
    /// Whether runs maintain the table that they wrote, once something is due.
    pub auto: bool,
    /// Whether streams maintain the tables that they write while they run.
    pub streams: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            expire_after_days: 30,
            keep_snapshots: 10,
            orphan_days: 3,
            quarantine_days: 7,
            min_input_files: 5,
            most_snapshots: 2000,
            auto: false,
            streams: true,
        }
    }
}

/// What is due for a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Due {
    /// The table.
    pub table: String,
    /// Data files to rewrite.
    pub rewrite_files: usize,
    /// Their bytes.
    pub rewrite_bytes: u64,
    /// Groups they form; each becomes one file or a few.
    pub rewrite_groups: usize,
    /// Snapshots to expire.
    pub expire_snapshots: usize,
    /// Snapshots that stay.
    pub keep_snapshots: usize,
    /// Tags and branches past their own age.
    pub expire_refs: Vec<String>,
    /// Files to move into the quarantine.
    pub orphan_files: usize,
    /// Their bytes.
    pub orphan_bytes: u64,
    /// Why no file would be removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_removed: Option<String>,
}

/// What was done for a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The table.
    pub table: String,
    /// Data files that were replaced.
    pub rewritten_files: usize,
    /// Data files that replace them.
    pub added_files: usize,
    /// Data files that others changed meanwhile.
    pub failed_files: usize,
    /// Manifests that were replaced.
    pub rewritten_manifests: usize,
    /// Manifests that replace them.
    pub added_manifests: usize,
    /// Snapshots that were expired.
    pub expired_snapshots: usize,
    /// Files that only they needed.
    pub removed: Removed,
    /// Files moved into the quarantine.
    pub orphan_files: usize,
    /// Their bytes.
    pub orphan_bytes: u64,
    /// Orphans left for the next time.
    pub orphans_left: usize,
    /// Why no file was removed and no snapshot expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_removed: Option<String>,
}

impl Policy {
    fn rules(&self, now: i64) -> Rules {
        Rules {
            older_than_ms: Some(now - i64::from(self.expire_after_days) * DAY_MS),
            retain_last: Some(self.keep_snapshots.max(1) as usize),
            retain_most: Some(self.most_snapshots.max(self.keep_snapshots).max(1) as usize),
            snapshot_ids: Vec::new(),
        }
    }

    fn options(&self) -> Options {
        Options {
            min_input_files: self.min_input_files.max(2) as usize,
            delete_file_threshold: 1,
            ..Options::default()
        }
    }

    fn search(&self, now: i64) -> Search {
        Search { older_than_ms: now - i64::from(self.orphan_days.max(1)) * DAY_MS, cap: orphans::DEFAULT_CAP }
    }
}

/// What is due, without changing anything.
pub fn due(lake: &Lake, name: &TableName, policy: &Policy) -> Result<Due> {
    let table: Table = lake.table(name)?;
    let now = lake.clock().now_millis();
    let live = files::live_files(&table, table.current_snapshot_id())?;
    let groups = rewrite::plan(&table, &live, &policy.options(), &vec![true; live.data.len()])?;
    let due = Due {
        table: name.to_string(),
        rewrite_files: groups.iter().map(|group| group.files.len()).sum(),
        rewrite_bytes: groups.iter().map(rewrite::Group::bytes).sum(),
        rewrite_groups: groups.len(),
        ..Due::default()
    };
    if let Some(why) = not_removed(&table) {
        return Ok(Due { not_removed: Some(why), ..due });
    }
    let expired = expire::plan(&table, &policy.rules(now), now)?;
    let orphans = orphans::find(lake, name, policy.search(now))?;
    Ok(Due {
        expire_snapshots: expired.snapshots.len(),
        keep_snapshots: expired.kept,
        expire_refs: expired.refs,
        orphan_files: orphans.files.len(),
        orphan_bytes: orphans.bytes,
        ..due
    })
}

/// Why files of a table must stay, if they must: they are rewritten all the
/// same.
fn not_removed(table: &Table) -> Option<String> {
    let error = super::check_collectable(table).err()?;
    Some(error.get_hint().map_or_else(|| error.to_string(), |hint| format!("{error} ({hint})")))
}

/// Rewrites data files, then manifests, expires snapshots, and moves orphans
/// away: in this order, so that each finds what the one before left.
pub async fn maintain(lake: &Lake, context: &SessionContext, name: &TableName, policy: &Policy) -> Result<Report> {
    let now = lake.clock().now_millis();
    let files = rewrite::rewrite(lake, context, name, &policy.options(), None).await?;
    let manifests = manifests::rewrite(lake, name, None)?;
    let report = Report {
        table: name.to_string(),
        rewritten_files: files.rewritten_files,
        added_files: files.added_files,
        failed_files: files.failed_files,
        rewritten_manifests: manifests.rewritten,
        added_manifests: manifests.added,
        ..Report::default()
    };
    if let Some(why) = not_removed(&lake.table(name)?) {
        return Ok(Report { not_removed: Some(why), ..report });
    }
    let (expired, removed) = expire::expire(lake, name, &policy.rules(now))?;
    let orphans = put_orphans_away(lake, name, policy)?;
    Ok(Report {
        expired_snapshots: expired.snapshots.len(),
        removed,
        orphan_files: orphans.files.len(),
        orphan_bytes: orphans.bytes,
        orphans_left: orphans.beyond_cap,
        ..report
    })
}

/// Moves files that nothing reaches into the quarantine, once they are as old as
/// the policy says. It lists the whole folder. Of a table whose files must all
/// stay it moves none.
///
/// # Errors
/// As [`orphans::find`].
pub fn put_orphans_away(lake: &Lake, name: &TableName, policy: &Policy) -> Result<Orphans> {
    if super::check_collectable(&lake.table(name)?).is_err() {
        return Ok(Orphans::default());
    }
    let found = orphans::find(lake, name, policy.search(lake.clock().now_millis()))?;
    if !found.files.is_empty() {
        orphans::quarantine(lake, name, &found)?;
    }
    Ok(found)
}

/// What a run does for its table: small files and old snapshots, and only what
/// is due. Orphans are left to `maintain`, which lists the whole folder.
/// Answers nothing where nothing was due.
///
/// # Errors
/// As [`maintain`].
pub async fn after_run(
    lake: &Lake,
    context: &SessionContext,
    name: &TableName,
    policy: &Policy,
) -> Result<Option<Report>> {
    what_is_due(lake, context, name, policy, &policy.options()).await
}

/// What is done for a table behind the stream that writes it: files of about
/// one size become one of the next, so that a row is rewritten a few times and
/// not with every commit; snapshots beyond the policy go. Answers nothing where
/// nothing was due.
///
/// # Errors
/// As [`maintain`].
pub async fn behind_stream(
    lake: &Lake,
    context: &SessionContext,
    name: &TableName,
    policy: &Policy,
) -> Result<Option<Report>> {
    let options = Options { tiers: true, min_input_files: TIER_FILES, max_group_bytes: TIER_BYTES, ..policy.options() };
    what_is_due(lake, context, name, policy, &options).await
}

async fn what_is_due(
    lake: &Lake,
    context: &SessionContext,
    name: &TableName,
    policy: &Policy,
    options: &Options,
) -> Result<Option<Report>> {
    let now = lake.clock().now_millis();
    let table = lake.table(name)?;
    let live = files::live_files(&table, table.current_snapshot_id())?;
    let groups = rewrite::plan(&table, &live, options, &vec![true; live.data.len()])?;
    let mut old = expire::plan(&table, &policy.rules(now), now)?;
    if super::check_collectable(&table).is_err() {
        old.snapshots.clear();
    }
    let mut report = Report { table: name.to_string(), ..Report::default() };
    if groups.is_empty() && old.snapshots.is_empty() {
        return Ok(None);
    }
    if !groups.is_empty() {
        let files = rewrite::rewrite(lake, context, name, options, None).await?;
        (report.rewritten_files, report.added_files) = (files.rewritten_files, files.added_files);
        report.failed_files = files.failed_files;
    }
    if !old.snapshots.is_empty() {
        let (expired, removed) = expire::expire(lake, name, &policy.rules(now))?;
        (report.expired_snapshots, report.removed) = (expired.snapshots.len(), removed);
    }
    Ok(Some(report))
}

/// Deletes what has been in the quarantine for longer than the policy says.
/// Answers how many files and bytes.
pub fn sweep(lake: &Lake, policy: &Policy) -> Result<(u64, u64)> {
    orphans::sweep(lake, Duration::from_millis(u64::from(policy.quarantine_days) * DAY_MS as u64))
}
