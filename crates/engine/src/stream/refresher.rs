//! Newer features and newer models, loaded beside a running stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::join::JoinTable;
use super::program::{Program, Scorer};
use crate::Result;
use crate::notify::Warn;
use crate::workspace::Workspace;

/// Seconds between two looks for a newer model.
const MODEL_LOOK: Duration = Duration::from_secs(2);

/// What is loaded beside the loop and taken over by it.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    pub join: Mutex<Option<Arc<JoinTable>>>,
    pub scorer: Mutex<Option<Arc<Scorer>>>,
}

impl Fresh {
    pub fn is_there(&self) -> bool {
        fn has<T>(slot: &Mutex<Option<T>>) -> bool {
            slot.lock().unwrap_or_else(PoisonError::into_inner).is_some()
        }
        has(&self.join) || has(&self.scorer)
    }
}

/// What is in a slot, which is empty then.
pub(super) fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Looks for newer inputs of the join and a newer model. A failure leaves what
/// is there, is told, and is tried again.
pub(super) struct Refresher {
    workspace: Workspace,
    program: Arc<Program>,
    fresh: Arc<Fresh>,
    warn: Option<Warn>,
    /// What failed last, by what was to be loaded.
    told: BTreeMap<&'static str, String>,
}

impl Refresher {
    /// Nothing failed yet.
    pub fn new(workspace: &Workspace, program: &Arc<Program>, fresh: &Arc<Fresh>, warn: Option<Warn>) -> Self {
        let (workspace, program, fresh) = (workspace.clone(), program.clone(), fresh.clone());
        Self { workspace, program, fresh, warn, told: BTreeMap::new() }
    }

    /// Looks until it is dropped.
    pub async fn run(mut self, mut join: Option<Arc<JoinTable>>, mut scorer: Arc<Scorer>) {
        let refresh = self.program.pipeline.join.as_ref();
        let every = refresh.map_or(MODEL_LOOK, |join| Duration::from_micros(join.refresh as u64));
        let mut joined = 0.0;
        loop {
            tokio::time::sleep(every.min(MODEL_LOOK)).await;
            let now = self.workspace.clock().monotonic_seconds();
            if let Some(table) = &join
                && now - joined >= every.as_secs_f64()
            {
                joined = now;
                let newer = self.newer_features(table).await;
                if let Some(table) = self.or_told("features", newer) {
                    join = Some(table.clone());
                    *self.fresh.join.lock().unwrap_or_else(PoisonError::into_inner) = Some(table);
                }
            }
            let newer = self.newer_model(&scorer);
            if let Some(newer) = self.or_told("model", newer) {
                scorer = newer.clone();
                *self.fresh.scorer.lock().unwrap_or_else(PoisonError::into_inner) = Some(newer);
            }
        }
    }

    async fn newer_features(&self, table: &JoinTable) -> Result<Option<Arc<JoinTable>>> {
        let Some(query) = &self.program.join else { return Ok(None) };
        if !query.is_stale(&self.workspace, table)? {
            return Ok(None);
        }
        query.load(&self.workspace).await.map(|table| Some(Arc::new(table)))
    }

    fn newer_model(&self, scorer: &Scorer) -> Result<Option<Arc<Scorer>>> {
        let Some(now) = self.program.resolve(&self.workspace)? else { return Ok(None) };
        if scorer.resolved.as_ref().is_some_and(|model| (model.version, &model.sha256) == (now.version, &now.sha256)) {
            return Ok(None);
        }
        self.program.scorer(&self.workspace).map(|newer| Some(Arc::new(newer)))
    }

    /// What there is; of a failure the caller's warning, once until another.
    fn or_told<T>(&mut self, what: &'static str, found: Result<Option<T>>) -> Option<T> {
        let error = match found {
            Ok(found) => {
                self.told.remove(what);
                return found;
            }
            Err(error) => error,
        };
        let text = error.to_string();
        if let Some(warn) = &self.warn
            && self.told.get(what) != Some(&text)
        {
            let remedy = error.get_hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            warn(&format!(
                "{}: the {what} cannot be refreshed and stay as they are: {text}{remedy}; it is tried again",
                self.program.pipeline.name
            ));
        }
        self.told.insert(what, text);
        None
    }
}
