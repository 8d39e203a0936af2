//! Maintenance of tables: the only code that removes files, and the commits
//! that replace files by others with the same rows.
//!
//! Rules, each learned from somebody's lost data:
//! - metadata first: a file is removed only after a commit made it unreachable,
//!   and reachability is computed again on the table as it then is, over every
//!   tag and branch;
//! - an orphan is a file that nothing reaches **and** that is old by the
//!   storage's own clock; it is moved to a quarantine, never deleted at once;
//! - a rewrite adds as many rows as it removes, or it is not committed;
//! - tags and branches are never expired by age unless they say so themselves.

pub mod erased;
pub mod expire;
pub mod manifests;
pub mod orphans;
pub mod policy;
pub mod reach;
pub mod rewrite;

use crate::{Error, Result};

/// A number in a table's properties.
pub(crate) fn setting(table: &super::Table, key: &str) -> Result<Option<i64>> {
    let Some(text) = table.metadata().properties().get(key) else { return Ok(None) };
    match text.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => {
            Err(Error::invalid(format!("property `{key}` of table `{}` is `{text}`, not a number", table.name())))
        }
    }
}

/// Refuses to remove files of a table that shares them with another.
pub(super) fn check_collectable(table: &super::Table) -> Result<()> {
    let properties = table.metadata().properties();
    if properties.get("gc.enabled").is_none_or(|value| value != "false") {
        return Ok(());
    }
    let hint = if properties.contains_key(super::table::KEPT_BY_NESSIE) {
        "branches, tags and earlier commits of Project Nessie may need them: its own garbage collector, nessie-gc, knows"
    } else {
        "it may share files with another table; set gc.enabled to true if it does not"
    };
    Err(Error::invalid(format!("table `{}` has gc.enabled = false: its files are not removed", table.name()))
        .hint(hint))
}
