//! What a stream tells `ml_monitoring.inference_metrics`: how many rows went
//! into its commits, how fast, and how old they were when they were predicted
//! and when they could be read.

use super::commit::Committed;
use super::program::{Program, Scorer};
use crate::Result;
use crate::score::metrics::{Facts, Stage, append_stages};
use crate::workspace::Workspace;

/// Seconds between two appends: each is a commit of its own.
const EVERY: f64 = 10.0;
/// The percentiles.
const PERCENTILES: [(&str, f64); 3] = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)];

/// When a row's event arrived and when it was predicted, microseconds since
/// the epoch.
pub type Times = (i64, i64);

/// What has been committed since the last append.
#[derive(Debug)]
pub struct Metrics {
    workspace: Workspace,
    facts: Facts,
    /// Milliseconds from arrival to prediction, and until it could be read.
    predicted: Vec<f64>,
    queryable: Vec<f64>,
    /// Seconds of commits.
    committing: f64,
    since: f64,
}

impl Metrics {
    /// Nothing yet.
    pub fn new(workspace: &Workspace, program: &Program, run_id: &str) -> Self {
        let facts = Facts {
            pipeline: program.pipeline.name.clone(),
            run_id: run_id.to_owned(),
            inference_type: "stream".into(),
            status: "committed".into(),
            strategy: if program.on_close() { "on_close" } else { "each_event" }.into(),
            ..Facts::default()
        };
        let since = workspace.clock().monotonic_seconds();
        let (predicted, queryable) = Default::default();
        Self { workspace: workspace.clone(), facts, predicted, queryable, committing: 0.0, since }
    }

    /// Takes in a commit, and appends if it is time.
    ///
    /// # Errors
    /// When the append fails; nothing of it is kept then.
    pub fn note(&mut self, times: &[Times], scorer: &Scorer, committed: &Committed) -> Result<()> {
        if self.facts.model_version.as_ref().is_some_and(|version| *version != scorer.version) {
            self.flush()?;
        }
        let now = self.workspace.clock().now_micros();
        let monotonic = self.workspace.clock().monotonic_seconds();
        if self.predicted.is_empty() {
            // Time without events is no time that they took.
            let first = times.iter().map(|(arrived, _)| *arrived).min().unwrap_or(now);
            self.since = self.since.max(monotonic - (now - first).max(0) as f64 / 1e6);
        }
        let age = |from: i64, to: i64| (to - from).max(0) as f64 / 1000.0;
        self.predicted.extend(times.iter().map(|(arrived, predicted)| age(*arrived, *predicted)));
        self.queryable.extend(times.iter().map(|(arrived, _)| age(*arrived, now)));
        self.committing += committed.seconds;
        self.facts.snapshot_id = Some(committed.snapshot_id);
        self.facts.model_name = scorer.resolved.as_ref().map(|model| model.name.clone());
        self.facts.model_version = Some(scorer.version.clone());
        if monotonic - self.since < EVERY { Ok(()) } else { self.flush() }
    }

    /// Appends what there is.
    ///
    /// # Errors
    /// When the append fails; nothing of it is kept then.
    pub fn flush(&mut self) -> Result<()> {
        let now = self.workspace.clock().monotonic_seconds();
        let seconds = now - std::mem::replace(&mut self.since, now);
        let (predicted, queryable) = (std::mem::take(&mut self.predicted), std::mem::take(&mut self.queryable));
        let committing = std::mem::take(&mut self.committing);
        if predicted.is_empty() {
            return Ok(());
        }
        self.facts.batch_size = predicted.len() as u64;
        let throughput = (seconds > 0.0).then(|| predicted.len() as f64 / seconds);
        let mut stages = vec![
            Stage { name: "total".into(), seconds, latency_ms: seconds * 1000.0, throughput },
            Stage { name: "commit".into(), seconds: committing, latency_ms: committing * 1000.0, throughput: None },
        ];
        for (what, ages) in [("arrival_to_prediction", predicted), ("arrival_to_queryable", queryable)] {
            stages.extend(percentiles(ages).map(|(name, latency_ms)| Stage {
                name: format!("{what}_{name}"),
                seconds: latency_ms / 1000.0,
                latency_ms,
                throughput: None,
            }));
        }
        append_stages(&self.workspace, &self.facts, &stages)
    }
}

/// The smallest value that so many are not above.
fn percentiles(mut values: Vec<f64>) -> impl Iterator<Item = (&'static str, f64)> {
    values.sort_unstable_by(f64::total_cmp);
    PERCENTILES.iter().filter_map(move |(name, share)| {
        let rank = (share * values.len() as f64).ceil() as usize;
        values.get(rank.max(1) - 1).map(|value| (*name, *value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_there() {
        let of = |values: Vec<f64>| percentiles(values).map(|(_, value)| value).collect::<Vec<_>>();
        assert_eq!(of((1..=100).rev().map(f64::from).collect()), [50.0, 95.0, 99.0]);
        assert_eq!(of(vec![3.0]), [3.0, 3.0, 3.0]);
        assert!(of(Vec::new()).is_empty());
    }
}
