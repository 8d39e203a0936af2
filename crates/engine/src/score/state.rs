//! The state of every entity, from the cache or from the table itself.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::logical_expr::{ident, lit};
use futures::StreamExt;
use iceberg::spec::Operation;
use insightera_entities::entries::{Collected, Entries, State};
use insightera_entities::index::{Anchor, StateIndex};

use super::output::TableShape;
use crate::key::{HashOfHash, KeyHash, Keys};
use crate::lake::faults::{self, Bug};
use crate::lake::scan::Scan;
use crate::lake::{Table, durable, keys};
use crate::sql::{plan_error, session};
use crate::workspace::Workspace;
use crate::{Error, Result};

/// How a segment of the index is saved: a cache, which need not survive a loss
/// of power.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    durable::replace(path, bytes, false)
}

/// The folder of a pipeline's index.
pub fn folder(workspace: &Workspace, pipeline: &str) -> PathBuf {
    workspace.cache().join("state").join(pipeline)
}

/// What an index of `pipeline` at `snapshot_id` is of.
pub fn anchor(table: &Table, pipeline: &str, snapshot_id: i64) -> Anchor {
    // Snapshots keep their ids when an entity is erased from them.
    let table_uuid = match keys::erasures_of(table) {
        0 => table.metadata().uuid().to_string(),
        erasures => format!("{}#{erasures}", table.metadata().uuid()),
    };
    Anchor { pipeline: pipeline.to_owned(), table_uuid, snapshot_id }
}

/// The state as of the table's current snapshot: the cached index if it is of
/// a snapshot since which nothing of this pipeline changed, else a scan.
pub async fn load(workspace: &Workspace, table: &Table, pipeline: &str) -> Result<StateIndex> {
    let Some(current) = table.current_snapshot_id() else {
        return Ok(StateIndex::empty(anchor(table, pipeline, 0)));
    };
    let mut anchors = Vec::new();
    for snapshot in table.ancestry() {
        anchors.push(anchor(table, pipeline, snapshot.snapshot_id()));
        let summary = snapshot.summary();
        let ours = summary.additional_properties.get(keys::PIPELINE).is_some_and(|p| p == pipeline);
        let keeps_rows = matches!(summary.operation, Operation::Append | Operation::Replace);
        if (ours || !keeps_rows) && !faults::bug(Bug::StaleIndex) {
            break;
        }
    }
    let folder = folder(workspace, pipeline);
    if let Some(index) = StateIndex::open(&folder, anchors) {
        return Ok(index);
    }
    let index = read(workspace, table, pipeline).await?.index;
    debug_assert_eq!(index.anchor().snapshot_id, current);
    // The index is a cache: a disk that refuses it must not stop a run.
    let _ = index.save(&folder, &replace);
    Ok(index)
}

/// The state read from the table.
#[derive(Debug)]
pub struct TableState {
    /// As an index.
    pub index: StateIndex,
    /// Entities whose newest row stands more than once.
    pub duplicates: u64,
    /// One of them.
    pub duplicate: Option<String>,
}

/// Reads the newest row of every entity of `pipeline` from the table.
pub async fn read(workspace: &Workspace, table: &Table, pipeline: &str) -> Result<TableState> {
    let shape = TableShape::read(table.metadata().properties()).ok_or_else(|| {
        Error::invalid(format!("table `{}` was not made by a pipeline", table.name()))
            .hint("let `insightera run` create the prediction table, or name another in [output] table")
    })?;
    let snapshot = table.current_snapshot_id();
    let anchored = anchor(table, pipeline, snapshot.unwrap_or(0));
    let context = session(workspace, "UTC")?;
    let what = format!("table `{}`", table.name());
    let failed = |e| plan_error(&what, "", e);
    let mut columns: Vec<String> = shape.key.clone();
    columns.extend(
        [&shape.timestamp, "run_id", "feature_hash", "definition_hash", "score_reason", &shape.inference_type]
            .map(str::to_owned),
    );
    let mut stream = context
        .read_table(Arc::new(Scan::table(table.clone(), snapshot)?))
        .and_then(|frame| frame.filter(ident("pipeline").eq(lit(pipeline))))
        .and_then(|frame| frame.select(columns.iter().map(ident).collect::<Vec<_>>()))
        .map_err(failed)?
        .execute_stream()
        .await
        .map_err(failed)?;

    let mut slots: HashMap<KeyHash, usize, BuildHasherDefault<HashOfHash>> = HashMap::default();
    let mut newest: Vec<Newest> = Vec::new();
    let mut runs: Vec<String> = Vec::new();
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(failed)?;
        let column = |name: &str, to: DataType| {
            batch
                .column_by_name(name)
                .ok_or_else(|| Error::data(format!("{what} has no column `{name}`")))
                .and_then(|c| cast(c, &to).map_err(|e| Error::data(format!("{what}: {e}")).cause(e)))
        };
        let keys = Keys::new(&batch, &shape.key)?;
        let times = column(&shape.timestamp, DataType::Int64)?;
        let (features, definitions) =
            (column("feature_hash", DataType::Int64)?, column("definition_hash", DataType::Int64)?);
        let (run_ids, reasons) = (column("run_id", DataType::Utf8)?, column("score_reason", DataType::Utf8)?);
        let kinds = column(&shape.inference_type, DataType::Utf8)?;
        let (times, features) = (times.as_primitive::<Int64Type>(), features.as_primitive::<Int64Type>());
        let definitions = definitions.as_primitive::<Int64Type>();
        let (run_ids, reasons, kinds) =
            (run_ids.as_string::<i32>(), reasons.as_string::<i32>(), kinds.as_string::<i32>());
        for (row, hash) in keys.hashes().into_iter().enumerate() {
            if !kinds.is_null(row) && matches!(kinds.value(row), super::AS_OF | super::SHADOW) {
                continue;
            }
            let id = if run_ids.is_null(row) { "" } else { run_ids.value(row) };
            let run = match runs.iter().rposition(|r| r == id) {
                Some(run) => run,
                None => {
                    runs.push(id.to_owned());
                    runs.len() - 1
                }
            };
            let state = State {
                feature_hash: if features.is_null(row) { 0 } else { features.value(row) as u64 },
                definition_hash: if definitions.is_null(row) { 0 } else { definitions.value(row) as u64 },
                live: reasons.is_null(row) || reasons.value(row) != "removed",
            };
            let mut candidate = Newest { hash, time: times.value(row), run, state, copies: 1, key: Vec::new() };
            match slots.get(&hash) {
                None => {
                    keys.encode(row, &mut candidate.key);
                    slots.insert(hash, newest.len());
                    newest.push(candidate);
                }
                Some(&slot) => newest[slot].merge(candidate, &runs),
            }
        }
    }
    let mut entries = Entries::default();
    let (mut duplicates, mut duplicate) = (0, None);
    for entry in newest {
        if entry.copies > 1 {
            duplicates += 1;
            duplicate.get_or_insert_with(|| show_key(&entry.key));
        }
        entries.push(entry.hash, entry.state, |out| out.extend_from_slice(&entry.key));
    }
    Ok(TableState {
        index: StateIndex::build(anchored, Collected::from(&entries), workspace.threads())?,
        duplicates,
        duplicate,
    })
}

struct Newest {
    hash: KeyHash,
    time: i64,
    run: usize,
    state: State,
    copies: u32,
    key: Vec<u8>,
}

impl Newest {
    fn merge(&mut self, other: Self, runs: &[String]) {
        let order = other.time.cmp(&self.time).then_with(|| runs[other.run].cmp(&runs[self.run]));
        match order {
            std::cmp::Ordering::Greater => {
                let key = std::mem::take(&mut self.key);
                *self = Self { key, ..other };
            }
            std::cmp::Ordering::Equal => self.copies += 1,
            std::cmp::Ordering::Less => {}
        }
    }
}

/// An encoded key as a person reads it.
pub fn show_key(encoded: &[u8]) -> String {
    let mut parts = Vec::new();
    let mut rest = encoded;
    while let Some((tag, tail)) = rest.split_first() {
        let (text, next) = match tag {
            1 | 3 => match tail.split_first_chunk::<8>() {
                Some((v, next)) => (((u64::from_be_bytes(*v) ^ (1 << 63)) as i64).to_string(), next),
                None => break,
            },
            2 | 5 => match tail.split_first_chunk::<4>() {
                Some((n, next)) => match next.split_at_checked(u32::from_be_bytes(*n) as usize) {
                    Some((v, next)) => (String::from_utf8_lossy(v).into_owned(), next),
                    None => break,
                },
                None => break,
            },
            4 => match tail.split_first() {
                Some((v, next)) => ((*v == 1).to_string(), next),
                None => break,
            },
            _ => ("null".to_owned(), tail),
        };
        parts.push(text);
        rest = next;
    }
    parts.join(", ")
}
