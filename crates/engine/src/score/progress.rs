//! How far a pipeline is: read from the ancestry of its prediction table.

use std::collections::{BTreeMap, HashMap};

use super::inputs::Consumed;
use crate::lake::faults::{self, Bug};
use crate::lake::{Table, keys};
use crate::{Error, Result};

/// What a pipeline's last commit says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The snapshot of that commit.
    pub snapshot_id: i64,
    /// Its run.
    pub run_id: String,
    /// What it consumed.
    pub inputs: BTreeMap<String, Consumed>,
    /// The definition it scored with.
    pub definition_hash: u64,
    /// Live entities after it.
    pub entities: Option<u64>,
    /// When it was committed, milliseconds since the epoch.
    pub committed_ms: i64,
}

/// The newest commit of `pipeline` in the table's ancestry; behind an expired
/// parent, what the table's property remembers.
pub fn progress(table: &Table, pipeline: &str) -> Result<Option<Progress>> {
    let mut expired = false;
    for snapshot in table.ancestry() {
        let summary = &snapshot.summary().additional_properties;
        let ours = summary.get(keys::PIPELINE).is_some_and(|p| p == pipeline || faults::bug(Bug::SharedProgress));
        if ours {
            return read(table, snapshot.snapshot_id(), snapshot.timestamp_ms(), |key| summary.get(key).cloned())
                .map(Some);
        }
        expired = snapshot.parent_snapshot_id().is_some_and(|id| table.metadata().snapshot_by_id(id).is_none());
    }
    if !expired {
        return Ok(None);
    }
    let Some(text) = table.metadata().properties().get(&keys::progress(pipeline)) else { return Ok(None) };
    let mirror: HashMap<String, serde_json::Value> = serde_json::from_str(text).map_err(|e| {
        Error::data(format!("property `{}` of table `{}` is damaged", keys::progress(pipeline), table.name())).cause(e)
    })?;
    let snapshot_id = mirror.get("snapshot-id").and_then(serde_json::Value::as_i64).unwrap_or_default();
    let value =
        |key: &str| mirror.get(key.trim_start_matches("insightera.")).and_then(|v| v.as_str()).map(str::to_owned);
    read(table, snapshot_id, table.metadata().last_updated_ms(), value).map(Some)
}

fn read(
    table: &Table,
    snapshot_id: i64,
    committed_ms: i64,
    value: impl Fn(&str) -> Option<String>,
) -> Result<Progress> {
    let damaged = |key: &str| {
        Error::data(format!("snapshot {snapshot_id} of table `{}` has no readable `{key}`", table.name()))
            .hint("roll the table back to a snapshot that Insightera wrote")
    };
    let inputs = value(keys::INPUTS).ok_or_else(|| damaged(keys::INPUTS))?;
    let definition = value(keys::DEFINITION_HASH).ok_or_else(|| damaged(keys::DEFINITION_HASH))?;
    Ok(Progress {
        snapshot_id,
        run_id: value(keys::RUN_ID).unwrap_or_default(),
        inputs: serde_json::from_str(&inputs).map_err(|e| damaged(keys::INPUTS).cause(e))?,
        definition_hash: u64::from_str_radix(&definition, 16).map_err(|e| damaged(keys::DEFINITION_HASH).cause(e))?,
        entities: value(keys::ENTITIES).and_then(|v| v.parse().ok()),
        committed_ms,
    })
}
