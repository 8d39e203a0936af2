//! Rewrites manifests: many small ones, or ones whose entries are in no order,
//! become few that are sorted by partition, so that a scan opens few of them.

use std::collections::BTreeMap;

use iceberg::spec::ManifestContentType;

use super::setting;
use crate::Result;
use crate::lake::commit::{self, Change, ManifestRewrite, Outcome};
use crate::lake::table::Table;
use crate::lake::{Lake, TableName, files};

/// Iceberg's default size of a manifest.
const TARGET_BYTES: i64 = 8 * 1024 * 1024;

/// What was rewritten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Manifests that were replaced.
    pub rewritten: usize,
    /// Manifests that replace them.
    pub added: usize,
}

/// Rewrites the manifests of one partition spec, by default the current one.
/// Nothing is committed where it would gain nothing.
pub fn rewrite(lake: &Lake, name: &TableName, spec_id: Option<i32>) -> Result<Rewritten> {
    loop {
        let table = lake.table(name)?;
        let spec = spec_id.unwrap_or_else(|| table.metadata().default_partition_spec_id());
        let Some(plan) = plan(&table, spec)? else { return Ok(Rewritten::default()) };
        let mut change = Change::replace(&table);
        change.manifests = Some(ManifestRewrite { spec_id: spec, target_bytes: plan.target_bytes });
        change.expected = Some(table.current_snapshot_id());
        match commit::commit(lake, &change)? {
            Outcome::Committed { table, snapshot_id } => {
                let summary =
                    table.metadata().snapshot_by_id(snapshot_id).map(|s| s.summary().additional_properties.clone());
                let number =
                    |key: &str| summary.as_ref().and_then(|s| s.get(key)).and_then(|v| v.parse().ok()).unwrap_or(0);
                return Ok(Rewritten { rewritten: number("manifests-replaced"), added: number("manifests-created") });
            }
            Outcome::Stale { .. } => {}
        }
    }
}

struct Plan {
    target_bytes: i64,
}

/// Whether a rewrite of the spec's manifests would leave fewer of them.
fn plan(table: &Table, spec: i32) -> Result<Option<Plan>> {
    let Some(snapshot) = table.metadata().current_snapshot() else { return Ok(None) };
    let target_bytes = setting(table, "commit.manifest.target-size-bytes")?.filter(|n| *n > 0).unwrap_or(TARGET_BYTES);
    let mut groups: BTreeMap<bool, (usize, i64, bool)> = BTreeMap::new();
    for manifest in files::manifest_list(table, snapshot)? {
        if manifest.partition_spec_id != spec {
            continue;
        }
        let group = groups.entry(manifest.content == ManifestContentType::Data).or_default();
        group.0 += 1;
        group.1 += manifest.manifest_length;
        group.2 |= manifest.deleted_files_count.unwrap_or(0) > 0;
    }
    let worth = |(count, bytes, dead): &(usize, i64, bool)| {
        *count > (*bytes as usize).div_ceil(target_bytes as usize).max(1) || *dead
    };
    Ok(groups.values().any(worth).then_some(Plan { target_bytes }))
}
