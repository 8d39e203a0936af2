//! Commits that `ml_monitoring.inference_metrics` has not got, as long as the
//! table's snapshots know of them: those of a process that was killed before it
//! told of them, and those of replays of dead letters.

use std::collections::{BTreeMap, HashSet};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use iceberg::spec::{Operation, SnapshotRef};

use super::metrics::{COMMIT, commit_stage};
use super::program::Program;
use crate::Result;
use crate::lake::keys;
use crate::score::metrics::{CommitFacts, Facts, append_stages, table_name};
use crate::sql::query;
use crate::workspace::Workspace;

/// Microseconds until a commit is taken for forgotten: who lives has told of it
/// by then.
const YOUNG: i64 = 120_000_000;
/// Commits that are older were looked for before.
const OLD: i64 = 2 * 86_400_000_000;

/// Appends what was forgotten; answers how many commits that were. Two processes
/// that look at the same time may append one twice.
///
/// # Errors
/// When a table cannot be read, or the append fails.
pub async fn note_forgotten(workspace: &Workspace, program: &Program) -> Result<usize> {
    let pipeline = &program.pipeline.name;
    let Some(table) = workspace.lake().find(&program.table())? else { return Ok(0) };
    let now = workspace.clock().now_micros();
    let micros = |snapshot: &SnapshotRef| snapshot.timestamp_ms().saturating_mul(1000);
    let recent = table.ancestry().take_while(|snapshot| micros(snapshot) >= now - OLD);
    let mut commits: Vec<Commit> = recent
        .filter(|snapshot| micros(snapshot) <= now - YOUNG)
        .filter_map(|one| Commit::of(&one, pipeline))
        .collect();
    if !commits.is_empty() {
        let known = known(workspace, pipeline, now - 2 * OLD).await?;
        commits.retain(|commit| !known.contains(&commit.facts.snapshot_id));
    }
    let forgotten = commits.len();
    let mut by_run = BTreeMap::<String, Vec<Commit>>::new();
    for commit in commits {
        by_run.entry(commit.run_id.clone()).or_default().push(commit);
    }
    for (run_id, commits) in by_run {
        let facts = Facts {
            pipeline: pipeline.clone(),
            run_id,
            inference_type: "stream".into(),
            status: "committed".into(),
            strategy: if program.on_close() { "on_close" } else { "each_event" }.into(),
            ..Facts::default()
        };
        let stages: Vec<_> = commits.into_iter().map(|commit| commit_stage(commit.facts, commit.rows, None)).collect();
        append_stages(workspace, &facts, &stages)?;
    }
    Ok(forgotten)
}

/// What a snapshot says of itself.
struct Commit {
    run_id: String,
    rows: u64,
    facts: CommitFacts,
}

impl Commit {
    /// None where it added no rows of the pipeline.
    fn of(snapshot: &SnapshotRef, pipeline: &str) -> Option<Self> {
        let summary = snapshot.summary();
        let said = |key: &str| summary.additional_properties.get(key);
        if summary.operation != Operation::Append || said(keys::PIPELINE).is_none_or(|of| of != pipeline) {
            return None;
        }
        let rows = said("added-records")?.parse().ok().filter(|rows| *rows > 0)?;
        let facts = CommitFacts {
            snapshot_id: snapshot.snapshot_id(),
            committed_at: snapshot.timestamp_ms().saturating_mul(1000),
            predicted_until: said(keys::TIMESTAMP)?.parse().ok(),
        };
        Some(Self { run_id: said(keys::RUN_ID)?.clone(), rows, facts })
    }
}

/// The snapshots that the metrics know since a time.
async fn known(workspace: &Workspace, pipeline: &str, since: i64) -> Result<HashSet<i64>> {
    let metrics = table_name();
    if workspace.lake().find(&metrics)?.is_none() {
        return Ok(HashSet::new());
    }
    let sql = format!(
        "SELECT snapshot_id FROM {metrics} WHERE stage = '{COMMIT}' AND pipeline = '{pipeline}' AND snapshot_id IS NOT NULL \
         AND \"timestamp\" >= to_timestamp_micros({since})"
    );
    let found = query(workspace, &sql).await?;
    Ok(found.batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect())
}
