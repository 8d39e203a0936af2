//! The table that a run writes: made or evolved before, committed to after.

use std::collections::BTreeMap;
use std::sync::Arc;

use iceberg::spec::DataFile;
use insightera_entities::entries::Collected;

use super::exec::ScoreSpec;
use super::inputs::{Consumed, Input};
use super::plan::{Draft, Work};
use super::rows::removed_rows;
use super::write::write_rows;
use super::{state, timestamps};
use crate::erase::ErasedEntities;
use crate::lake::commit::{Change, Fence};
use crate::lake::{Table, keys};
use crate::workspace::Workspace;
use crate::{Error, Result};

/// The table, drafted or evolved for what the pipeline writes.
pub(super) fn ready_table(workspace: &Workspace, draft: &Draft, work: &Work) -> Result<(Table, Vec<String>)> {
    let lake = workspace.lake();
    let Some(_) = &draft.table else {
        let mut new = work.prepared.output.new_table(&draft.definition.pipeline.output);
        new.name = draft.definition.table();
        return Ok((lake.draft_table(&new)?, Vec::new()));
    };
    let table = work.prepared.output.fit(lake, &draft.definition.table())?;
    Ok((table, work.prepared.evolution.added.iter().map(|c| c.name.clone()).collect()))
}

/// Now, but always after the table's newest run: a pipeline's prediction times
/// never go backwards.
pub(super) fn prediction_time(workspace: &Workspace, table: &Table) -> i64 {
    let newest = table
        .ancestry()
        .take(64)
        .filter_map(|s| s.summary().additional_properties.get(keys::TIMESTAMP)?.parse::<i64>().ok())
        .max();
    workspace.clock().now_micros().max(newest.map_or(i64::MIN, |t| t + 1))
}

/// The files with the rows of entities that left.
pub(super) fn removal_files(work: &Work, spec: &ScoreSpec, table: &Table, removed: &[usize]) -> Result<Vec<DataFile>> {
    if removed.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<&[u8]> = removed.iter().filter_map(|slot| work.index.key_of(*slot)).collect();
    let output = &work.prepared.output;
    let rows = removed_rows(spec, output, &output.row_schema(), &keys)?;
    write_rows(table, vec![rows], &spec.key)
}

/// The commit of a run: its files, what it consumed and what scored.
pub(super) fn describe(
    draft: &Draft,
    work: &Work,
    table: &Table,
    spec: &ScoreSpec,
    files: Vec<DataFile>,
    entities: u64,
) -> Result<Change> {
    let mut newest = BTreeMap::new();
    for (name, input) in draft.inputs.iter() {
        if let (Input::Folder { root, .. }, Some(column)) = (input, work.prepared.time_sources.get(name)) {
            let before = draft.progress.as_ref().and_then(|p| match p.inputs.get(name) {
                Some(Consumed::Parquet { max_feature_time, fingerprint }) => Some((
                    *max_feature_time,
                    matches!(input, Input::Folder { fingerprint: now, .. } if now == fingerprint),
                )),
                _ => None,
            });
            let time = match before {
                Some((Some(time), true)) => Some(time),
                _ => timestamps::newest(name, root, column)?,
            };
            if let Some(time) = time {
                newest.insert(name.clone(), time);
            }
        }
    }
    let inputs = serde_json::to_string(&draft.inputs.consumed(&newest))
        .map_err(|e| Error::internal(format!("inputs have no JSON form: {e}")))?;
    let previous = draft.progress.as_ref().map(|p| p.snapshot_id);
    let mut summary = BTreeMap::from([
        (keys::RUN_ID.to_owned(), spec.run_id.clone()),
        (keys::INPUTS.to_owned(), inputs),
        (keys::MODEL_VERSION.to_owned(), spec.model_version.clone()),
        (keys::DEFINITION_HASH.to_owned(), format!("{:016x}", spec.definition_hash)),
    ]);
    // Another time is no progress: neither its pipeline nor its time is looked for.
    let of_now = [
        (keys::PIPELINE, spec.pipeline.clone()),
        (keys::ENTITIES, entities.to_string()),
        (keys::TIMESTAMP, spec.timestamp.to_string()),
    ];
    let of_then = [(keys::AS_OF_PIPELINE, spec.pipeline.clone()), (keys::AS_OF, spec.timestamp.to_string())];
    let facts = if spec.as_of { &of_then[..] } else { &of_now[..] };
    summary.extend(facts.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    let optional = [
        (keys::PREVIOUS, previous.map(|p| p.to_string())),
        (keys::MODEL, spec.model_name.clone()),
        (keys::MODEL_SHA256, spec.model_sha256.clone()),
    ];
    summary.extend(optional.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?))));
    let fence = (!spec.as_of).then(|| Fence { pipeline: spec.pipeline.clone(), previous });
    let erasures = Some(draft.erased.number());
    Ok(Change { fence, summary, erasures, ..Change::append(table, files) })
}

/// Brings the cache up to the commit. Whatever goes wrong, the next run reads
/// the table instead.
pub(super) fn save_index(
    workspace: &Workspace,
    name: &str,
    draft: Draft,
    table: &Table,
    snapshot_id: i64,
    entries: Collected,
) {
    let folder = state::folder(workspace, name);
    let anchor = state::anchor(table, name, snapshot_id);
    let known = draft.erased.number();
    let Some(index) = draft.work.map(|w| w.index) else { return };
    let Ok(index) = Arc::try_unwrap(index) else { return };
    if index.advance(&folder, anchor, entries, workspace.threads(), &state::replace).is_err() {
        // Without a newer segment the old ones are stale and are not used.
        let _ = std::fs::remove_dir_all(&folder);
    }
    // Somebody who is erased meanwhile must not stay in what was just written.
    if ErasedEntities::read(&workspace.project().dir).map_or(true, |now| now.number() != known) {
        let _ = std::fs::remove_dir_all(&folder);
    }
}
