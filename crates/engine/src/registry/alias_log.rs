//! Decisions about one alias of one model, from its log alone.

use super::records::{AliasAction, AliasChange};

/// One move of an alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogEntry {
    /// The version it moved to.
    pub(super) version: u64,
    /// Since when, in microseconds.
    pub(super) valid_from: i64,
    /// When it was written, in microseconds.
    pub(super) system_time: i64,
    /// What moved it.
    pub(super) action: AliasAction,
}

/// The entry that moves the alias to `version`, or `None` if it is there.
///
/// Valid time is `now`, or just after the last move where the clock has not
/// passed it: the times of a log strictly increase.
pub(super) fn plan_move(log: &[LogEntry], version: u64, now: i64, action: AliasAction) -> Option<LogEntry> {
    let last = log.last();
    if last.is_some_and(|last| last.version == version) {
        return None;
    }
    let valid_from = last.map_or(now, |last| now.max(last.valid_from.saturating_add(1)));
    Some(LogEntry { version, valid_from, system_time: now, action })
}

/// The version a rollback moves to: the one before the last move that was not
/// undone yet. `None` when there is no such move.
pub(super) fn rollback_target(log: &[LogEntry]) -> Option<u64> {
    let standing = standing_moves(log);
    standing.len().checked_sub(2).map(|index| standing[index])
}

/// The versions of the moves that were not undone, oldest first.
fn standing_moves(log: &[LogEntry]) -> Vec<u64> {
    let mut standing = Vec::new();
    for entry in log {
        match entry.action {
            AliasAction::Register | AliasAction::Promote => standing.push(entry.version),
            AliasAction::Rollback => {
                standing.pop();
            }
        }
    }
    standing
}

/// The log as adjacent times, the last one open.
pub(super) fn history(log: &[LogEntry]) -> Vec<AliasChange> {
    let ends = log.iter().skip(1).map(|next| Some(next.valid_from)).chain([None]);
    log.iter()
        .zip(ends)
        .map(|(entry, to_micros)| AliasChange {
            version: entry.version,
            from_micros: entry.valid_from,
            to_micros,
            by: entry.action,
            system_micros: entry.system_time,
        })
        .collect()
}

/// What is wrong with a log whose alias points to `current`: nothing, ever.
pub(super) fn violation(log: &[LogEntry], current: Option<u64>) -> Option<String> {
    if log.last().map(|last| last.version) != current {
        return Some(format!("the alias points to {current:?}, its log ends with {:?}", log.last()));
    }
    for (index, pair) in log.windows(2).enumerate() {
        if pair[0].valid_from >= pair[1].valid_from {
            return Some(format!("valid times do not increase: {pair:?}"));
        }
        if pair[0].version == pair[1].version {
            return Some(format!("a move that goes nowhere: {pair:?}"));
        }
        if pair[1].action == AliasAction::Rollback && rollback_target(&log[..=index]) != Some(pair[1].version) {
            return Some(format!("a rollback that does not undo the last move: {pair:?}"));
        }
    }
    match log.first() {
        Some(first) if first.action == AliasAction::Rollback => Some("the log begins with a rollback".to_owned()),
        _ => None,
    }
}
