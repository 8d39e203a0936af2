//! Verify: does the table say what the features say?
//!
//! Reads every entity's newest row from the table itself, not from the index,
//! evaluates the features as they are now, and compares.

use std::sync::Arc;

use insightera_entities::index::{Anchor, StateIndex};
use serde::Serialize;

use super::exec::Reason;
use super::plan::{Draft, Work};
use super::run::{Reporter, RunOptions, evaluate};
use super::state;
use crate::Result;
use crate::config::Strategy;
use crate::workspace::Workspace;

/// What verify found.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// Whether every live entity has exactly one current prediction, and no
    /// other entity has one.
    pub ok: bool,
    /// The pipeline.
    pub pipeline: String,
    /// Entities in the feature set; those that were erased are not counted.
    pub entities: u64,
    /// Feature rows of entities that were erased.
    pub suppressed: u64,
    /// Those with exactly one current prediction.
    pub current: u64,
    /// Those without any.
    pub missing: u64,
    /// Those whose prediction is of other features or another definition.
    pub stale: u64,
    /// Those whose newest prediction stands more than once.
    pub duplicate: u64,
    /// Entities with a prediction that are not in the feature set.
    pub extra: u64,
    /// The first few that are not right: what is wrong, and the key.
    pub named: Vec<(String, String)>,
}

/// Verifies one pipeline.
pub async fn verify(workspace: &Workspace, name: &str) -> Result<VerifyReport> {
    let options = RunOptions { full: true, ..RunOptions::default() };
    let mut draft = Draft::new(workspace, name, &options).await?;
    let (index, duplicate, example) = match &draft.table {
        Some(table) => {
            let read = state::read(workspace, table, name).await?;
            (read.index, read.duplicates, read.duplicate)
        }
        None => {
            let anchor = Anchor { pipeline: name.to_owned(), table_uuid: String::new(), snapshot_id: 0 };
            (StateIndex::empty(anchor), 0, None)
        }
    };
    let Some(work) = draft.work.take() else {
        return Err(crate::Error::internal("verify found nothing to evaluate"));
    };
    let work = Work { index: Arc::new(index), strategy: Strategy::Hash, ..work };
    let mut spec = draft.spec(&work, "verify", 0, &RunOptions::default(), true);
    spec.first_run = false;
    spec.forced = false;
    let evaluation = evaluate(workspace, &draft, &work, spec, None, &Reporter::silent()).await?;
    evaluation.refuse_duplicates(&draft)?;
    let count = |reason: Reason| evaluation.reasons[reason as usize];
    let missing = count(Reason::Insert) + count(Reason::First);
    let stale = count(Reason::Update) + count(Reason::Model);
    let extra = evaluation.removed.len() as u64;
    let mut named: Vec<(String, String)> = evaluation
        .named
        .iter()
        .map(|(reason, key)| {
            let wrong = if matches!(reason, Reason::Update | Reason::Model) { "stale" } else { "missing" };
            (wrong.to_owned(), key.clone())
        })
        .collect();
    let left = evaluation.removed.iter().take(5).filter_map(|slot| work.index.key_of(*slot));
    named.extend(left.map(|key| ("extra".to_owned(), state::show_key(key))));
    named.extend(example.map(|key| ("duplicate".to_owned(), key)));
    let wrong = missing + stale;
    Ok(VerifyReport {
        ok: wrong + duplicate + extra == 0,
        pipeline: name.to_owned(),
        entities: evaluation.entities,
        suppressed: evaluation.suppressed,
        current: evaluation.entities.saturating_sub(wrong + duplicate),
        missing,
        stale,
        duplicate,
        extra,
        named,
    })
}
