//! Expires snapshots: what the rules keep, the commit that forgets the others,
//! and then the files that nothing needs any more.

use std::collections::BTreeSet;

use iceberg::TableUpdate;
use iceberg::spec::{MAIN_BRANCH, SnapshotReference, SnapshotRetention};

use super::reach::Reached;
use super::{check_collectable, setting};
use crate::lake::faults::{self, Bug};
use crate::lake::table::Table;
use crate::lake::{Lake, TableName, commit};
use crate::{Error, Result};

/// Iceberg's default age, five days.
const MAX_AGE_MS: i64 = 5 * 24 * 60 * 60 * 1000;

/// What to expire; each rule that is not given is the table's property or
/// Iceberg's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Snapshots before this time, in milliseconds; else
    /// `history.expire.max-snapshot-age-ms`, five days.
    pub older_than_ms: Option<i64>,
    /// So many ancestors of every branch stay; else
    /// `history.expire.min-snapshots-to-keep`, 1.
    pub retain_last: Option<usize>,
    /// So many ancestors of every branch stay at most, however young.
    pub retain_most: Option<usize>,
    /// These, whatever their age.
    pub snapshot_ids: Vec<i64>,
}

/// What would be, or was, expired.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Snapshots, oldest first.
    pub snapshots: Vec<i64>,
    /// Tags and branches past their own age.
    pub refs: Vec<String>,
    /// Snapshots that stay.
    pub kept: usize,
}

/// Files that were removed, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// Data files.
    pub data_files: u64,
    /// Position delete files.
    pub position_delete_files: u64,
    /// Equality delete files.
    pub equality_delete_files: u64,
    /// Manifests.
    pub manifests: u64,
    /// Manifest lists.
    pub manifest_lists: u64,
    /// Statistics files.
    pub statistics_files: u64,
}

/// What the rules say of `table` at `now`.
///
/// # Errors
/// When a snapshot that is named does not exist or is the target of a tag or
/// branch, or a property is not a number.
pub fn plan(table: &Table, rules: &Rules, now_ms: i64) -> Result<Plan> {
    let metadata = table.metadata();
    let age = setting(table, "history.expire.max-snapshot-age-ms")?.unwrap_or(MAX_AGE_MS);
    let least = setting(table, "history.expire.min-snapshots-to-keep")?.unwrap_or(1);
    let ref_age = setting(table, "history.expire.max-ref-age-ms")?;
    let retain = rules.retain_last.unwrap_or(usize::try_from(least).unwrap_or(1)).max(1);
    let older_than = rules.older_than_ms.unwrap_or(now_ms.saturating_sub(age));
    let mut plan = Plan::default();
    let mut keep: BTreeSet<i64> = BTreeSet::new();
    let mut referenced: BTreeSet<i64> = BTreeSet::new();
    for (name, reference) in table.refs()? {
        if name != MAIN_BRANCH && faults::bug(Bug::ExpireIgnoresTags) {
            continue;
        }
        let Some(head) = metadata.snapshot_by_id(reference.snapshot_id) else { continue };
        let own_age = match reference.retention {
            SnapshotRetention::Branch { max_ref_age_ms, .. } | SnapshotRetention::Tag { max_ref_age_ms } => {
                max_ref_age_ms
            }
        };
        let too_old = own_age.or(ref_age).is_some_and(|age| now_ms.saturating_sub(head.timestamp_ms()) > age);
        if too_old && name != MAIN_BRANCH {
            plan.refs.push(name);
            continue;
        }
        keep.insert(head.snapshot_id());
        referenced.extend(line(table, &reference));
        if let SnapshotRetention::Branch { min_snapshots_to_keep, max_snapshot_age_ms, .. } = reference.retention {
            let count = min_snapshots_to_keep.and_then(|n| usize::try_from(n).ok()).unwrap_or(retain);
            let before = max_snapshot_age_ms.map_or(older_than, |age| now_ms.saturating_sub(age));
            for (index, id) in line(table, &reference).into_iter().enumerate() {
                let young = metadata.snapshot_by_id(id).is_some_and(|s| s.timestamp_ms() >= before);
                let crowded = rules.retain_most.is_some_and(|most| index >= most);
                if index < count || (young && !crowded) {
                    keep.insert(id);
                } else {
                    break;
                }
            }
        }
    }
    // What no tag or branch leads to, staged work for example, stays while it
    // is young.
    for snapshot in metadata.snapshots() {
        if !referenced.contains(&snapshot.snapshot_id()) && snapshot.timestamp_ms() >= older_than {
            keep.insert(snapshot.snapshot_id());
        }
    }
    for id in &rules.snapshot_ids {
        if metadata.snapshot_by_id(*id).is_none() {
            return Err(Error::not_found(format!("table `{}` has no snapshot {id}", table.name()))
                .hint(format!("`SELECT * FROM {}.snapshots` lists what there is", table.name())));
        }
        let refs = table.refs()?;
        if let Some((name, _)) = refs.iter().find(|(name, r)| r.snapshot_id == *id && !plan.refs.contains(name)) {
            return Err(Error::invalid(format!(
                "snapshot {id} of table `{}` cannot be expired: `{name}` points to it",
                table.name()
            ))
            .hint("drop the tag or branch first, or move it"));
        }
        keep.remove(id);
    }
    let mut gone: Vec<_> = metadata.snapshots().filter(|s| !keep.contains(&s.snapshot_id())).collect();
    if rules.older_than_ms.is_none() && rules.retain_last.is_none() && !rules.snapshot_ids.is_empty() {
        // Only the snapshots that are named.
        gone.retain(|s| rules.snapshot_ids.contains(&s.snapshot_id()));
    }
    gone.sort_by_key(|s| (s.timestamp_ms(), s.sequence_number()));
    plan.snapshots = gone.iter().map(|s| s.snapshot_id()).collect();
    plan.kept = metadata.snapshots().count() - plan.snapshots.len();
    Ok(plan)
}

/// The snapshots from a reference's head back, newest first.
fn line(table: &Table, reference: &SnapshotReference) -> Vec<i64> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    let mut next = Some(reference.snapshot_id);
    while let Some(snapshot) = next.and_then(|id| table.metadata().snapshot_by_id(id)) {
        if !seen.insert(snapshot.snapshot_id()) || (!reference.is_branch() && !found.is_empty()) {
            break;
        }
        found.push(snapshot.snapshot_id());
        next = snapshot.parent_snapshot_id();
    }
    found
}

/// Forgets the snapshots in one commit, then removes the files that only they
/// needed. Both look at the table as it is at that moment.
///
/// # Errors
/// As [`plan`]; a file that cannot be removed is told after all others were
/// tried, and is an orphan from then on.
pub fn expire(lake: &Lake, name: &TableName, rules: &Rules) -> Result<(Plan, Removed)> {
    let decided: std::cell::RefCell<(Plan, Reached)> = Default::default();
    let now = lake.clock().now_millis();
    commit::alter(lake, name, |base| {
        check_collectable(base)?;
        let plan = plan(base, rules, now)?;
        let expired: BTreeSet<i64> = plan.snapshots.iter().copied().collect();
        let needed = Reached::of(base, |id| expired.contains(&id))?;
        let mut updates: Vec<TableUpdate> = Vec::new();
        for ref_name in &plan.refs {
            updates.push(TableUpdate::RemoveSnapshotRef { ref_name: ref_name.clone() });
        }
        let statistics: BTreeSet<i64> = base.metadata().statistics_iter().map(|s| s.snapshot_id).collect();
        for snapshot_id in expired.intersection(&statistics) {
            updates.push(TableUpdate::RemoveStatistics { snapshot_id: *snapshot_id });
        }
        let partitions: BTreeSet<i64> = base.metadata().partition_statistics_iter().map(|s| s.snapshot_id).collect();
        for snapshot_id in expired.intersection(&partitions) {
            updates.push(TableUpdate::RemovePartitionStatistics { snapshot_id: *snapshot_id });
        }
        if !plan.snapshots.is_empty() {
            updates.push(TableUpdate::RemoveSnapshots { snapshot_ids: plan.snapshots.clone() });
        }
        decided.replace((plan, needed));
        Ok(updates)
    })?;
    let (plan, needed) = decided.into_inner();
    if plan.snapshots.is_empty() {
        return Ok((plan, Removed::default()));
    }
    // Another look: whatever was committed meanwhile counts.
    let now = lake.table(name)?;
    let still_needed = match faults::bug(Bug::ReachOfCurrent) {
        true => Reached::of(&now, |id| Some(id) == now.current_snapshot_id())?,
        false => Reached::all(&now)?,
    };
    let unneeded = needed.without(&still_needed);
    let mut removed = Removed::default();
    let mut failed: Option<Error> = None;
    let mut sweep = |paths: &BTreeSet<String>, count: &mut u64| {
        for path in paths {
            match now.storage().remove(path) {
                Ok(there) => *count += u64::from(there),
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
    };
    // Data before the manifests that name it: what a crash leaves behind is
    // then still found by whoever looks for orphans.
    sweep(&unneeded.data, &mut removed.data_files);
    sweep(&unneeded.position_deletes, &mut removed.position_delete_files);
    sweep(&unneeded.equality_deletes, &mut removed.equality_delete_files);
    sweep(&unneeded.statistics, &mut removed.statistics_files);
    sweep(&unneeded.manifests, &mut removed.manifests);
    sweep(&unneeded.lists, &mut removed.manifest_lists);
    match failed {
        None => Ok((plan, removed)),
        Some(error) => Err(Error::new(
            error.kind(),
            format!(
                "{} snapshots of table `{name}` are expired, but not every file could be removed: {error}",
                plan.snapshots.len()
            ),
        )
        .hint("the files that are left are orphans now: `remove_orphan_files` finds them later")
        .cause(error)),
    }
}
