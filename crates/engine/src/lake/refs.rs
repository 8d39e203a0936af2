//! Tags, branches, and moving the main branch to another snapshot.

use std::collections::HashMap;

use iceberg::TableUpdate;
use iceberg::spec::{MAIN_BRANCH, SnapshotReference, SnapshotRetention};

use super::table::Table;
use super::{Lake, TableName, commit, keys};
use crate::{Error, Result};

/// What a reference is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefKind {
    /// A name of one snapshot.
    Tag,
    /// A line of snapshots.
    Branch,
}

impl RefKind {
    /// `tag` or `branch`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tag => "tag",
            Self::Branch => "branch",
        }
    }
}

/// What to do when the name is there already, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// `CREATE`: it must not be there.
    Refuse,
    /// `CREATE IF NOT EXISTS`: leave it.
    Keep,
    /// `CREATE OR REPLACE`.
    Replace,
    /// `REPLACE`: it must be there.
    Require,
}

/// How long a reference and, on a branch, its snapshots are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// The reference itself, in milliseconds since its snapshot's time.
    pub reference_ms: Option<i64>,
    /// At least so many snapshots of the branch.
    pub min_snapshots: Option<i32>,
    /// Snapshots of the branch, in milliseconds.
    pub snapshot_ms: Option<i64>,
}

/// Makes or replaces a tag or branch at `snapshot_id`, by default the current
/// snapshot.
///
/// # Errors
/// When the table has no such snapshot, or `existing` forbids it.
pub fn set(
    lake: &Lake,
    name: &TableName,
    kind: RefKind,
    reference: &str,
    snapshot_id: Option<i64>,
    retention: Retention,
    existing: Existing,
) -> Result<Table> {
    check_name(kind, reference)?;
    commit::alter(lake, name, |base| {
        let refs = base.refs()?;
        let found = refs.get(reference);
        match (found, existing) {
            (Some(_), Existing::Keep) => return Ok(Vec::new()),
            (Some(_), Existing::Refuse) => {
                return Err(Error::conflict(format!("table `{name}` has a tag or branch `{reference}` already"))
                    .hint(format!("write CREATE OR REPLACE {} to move it", kind.name().to_uppercase())));
            }
            (None, Existing::Require) => return Err(missing(base, kind, reference)),
            _ => {}
        }
        same_kind(base, reference, found, kind)?;
        let target = match snapshot_id.or_else(|| base.current_snapshot_id()) {
            Some(target) => target,
            None => {
                return Err(Error::invalid(format!(
                    "table `{name}` has no snapshot yet that a {} could name",
                    kind.name()
                )));
            }
        };
        known(base, target)?;
        let retention = match kind {
            RefKind::Tag => SnapshotRetention::Tag { max_ref_age_ms: retention.reference_ms },
            RefKind::Branch => {
                SnapshotRetention::branch(retention.min_snapshots, retention.snapshot_ms, retention.reference_ms)
            }
        };
        Ok(vec![TableUpdate::SetSnapshotRef {
            ref_name: reference.to_owned(),
            reference: SnapshotReference::new(target, retention),
        }])
    })
}

/// Drops a tag or branch.
///
/// # Errors
/// When there is none of that name and kind, unless `if_exists`.
pub fn drop(lake: &Lake, name: &TableName, kind: RefKind, reference: &str, if_exists: bool) -> Result<Table> {
    check_name(kind, reference)?;
    commit::alter(lake, name, |base| {
        let refs = base.refs()?;
        same_kind(base, reference, refs.get(reference), kind)?;
        match refs.get(reference) {
            None if if_exists => Ok(Vec::new()),
            None => Err(missing(base, kind, reference)),
            Some(_) => Ok(vec![TableUpdate::RemoveSnapshotRef { ref_name: reference.to_owned() }]),
        }
    })
}

/// Which snapshots the main branch may be moved to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Only ancestors of the current one: a rollback.
    Ancestors,
    /// Every snapshot of the table.
    Any,
}

/// Moves the main branch. The progress of every pipeline that the table's
/// properties mirror is set to what the new line of snapshots holds. Answers
/// the snapshot before.
///
/// # Errors
/// When the table has no such snapshot, or it is not within `reach`.
pub fn move_main(lake: &Lake, name: &TableName, to: i64, reach: Reach) -> Result<(Table, Option<i64>)> {
    let before = std::cell::Cell::new(None);
    let table = commit::alter(lake, name, |base| {
        before.set(base.current_snapshot_id());
        known(base, to)?;
        if reach == Reach::Ancestors && !base.ancestry().any(|s| s.snapshot_id() == to) {
            return Err(Error::invalid(format!(
                "snapshot {to} of table `{name}` is not an ancestor of the current one"
            ))
            .hint("set_current_snapshot moves to any snapshot; `SELECT * FROM table.history` shows the ancestors"));
        }
        if base.current_snapshot_id() == Some(to) {
            return Ok(Vec::new());
        }
        let mut updates = progress_at(base, to);
        updates.push(TableUpdate::SetSnapshotRef {
            ref_name: MAIN_BRANCH.into(),
            reference: SnapshotReference::new(to, SnapshotRetention::branch(None, None, None)),
        });
        Ok(updates)
    })?;
    Ok((table, before.get()))
}

/// The mirrored progress as the line that ends at `to` has it: pipelines that
/// committed on it, and no others.
fn progress_at(base: &Table, to: i64) -> Vec<TableUpdate> {
    let mut newest: HashMap<String, String> = HashMap::new();
    let mut next = base.metadata().snapshot_by_id(to).cloned();
    let mut whole = true;
    while let Some(snapshot) = next {
        let summary = &snapshot.summary().additional_properties;
        if let Some(pipeline) = summary.get(keys::PIPELINE) {
            let mirror = commit::mirrored_progress(snapshot.snapshot_id(), summary);
            newest.entry(keys::progress(pipeline)).or_insert(mirror);
        }
        let parent = snapshot.parent_snapshot_id();
        next = parent.and_then(|id| base.metadata().snapshot_by_id(id)).cloned();
        whole = parent.is_none() || next.is_some();
    }
    let prefix = keys::progress("");
    let mirrored = base.metadata().properties().keys().filter(|key| key.starts_with(&prefix));
    // Where the line ends at an expired snapshot, a pipeline without a commit
    // on what is left may have made one before: its mirror stays.
    let gone: Vec<String> = mirrored.filter(|key| whole && !newest.contains_key(*key)).cloned().collect();
    let mut updates = Vec::new();
    if !newest.is_empty() {
        updates.push(TableUpdate::SetProperties { updates: newest });
    }
    if !gone.is_empty() {
        updates.push(TableUpdate::RemoveProperties { removals: gone });
    }
    updates
}

/// The names of a table's tags and branches.
pub fn listed(table: &Table) -> String {
    let names: Vec<String> = table.refs().unwrap_or_default().keys().map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn known(base: &Table, snapshot_id: i64) -> Result<()> {
    match base.metadata().snapshot_by_id(snapshot_id) {
        Some(_) => Ok(()),
        None => Err(Error::not_found(format!("table `{}` has no snapshot {snapshot_id}", base.name()))
            .hint(format!("`SELECT * FROM {}.snapshots` lists what there is; it may have been expired", base.name()))),
    }
}

fn same_kind(base: &Table, reference: &str, found: Option<&SnapshotReference>, kind: RefKind) -> Result<()> {
    let Some(found) = found.filter(|found| found.is_branch() != (kind == RefKind::Branch)) else { return Ok(()) };
    let other = if found.is_branch() { RefKind::Branch } else { RefKind::Tag }.name();
    Err(Error::invalid(format!("`{reference}` of table `{}` is a {other}, not a {}", base.name(), kind.name()))
        .hint(format!("drop the {other} first, or choose another name")))
}

fn missing(base: &Table, kind: RefKind, reference: &str) -> Error {
    let names = base.refs().unwrap_or_default();
    let error = Error::not_found(format!("table `{}` has no {} `{reference}`", base.name(), kind.name()));
    match insightera_core::closest(reference, names.keys().map(String::as_str)) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!("its tags and branches are {}", listed(base))),
    }
}

fn check_name(kind: RefKind, reference: &str) -> Result<()> {
    insightera_core::validate_name(kind.name(), reference)?;
    if reference == MAIN_BRANCH {
        return Err(Error::invalid("`main` is the table itself: it can be neither made nor dropped")
            .hint("to move it use `CALL system.rollback_to_snapshot(...)` or `set_current_snapshot`"));
    }
    Ok(())
}
