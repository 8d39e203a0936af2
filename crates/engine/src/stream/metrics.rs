//! What a stream tells `ml_monitoring.inference_metrics`: each of its commits,
//! how many rows went into them, how fast, and how old they were when they were
//! predicted and when they could be read.
//!
//! Stages, about every ten seconds: `total`; `commit`, one for each; percentiles
//! of a latency as in `arrival_to_prediction_p99`; and its histogram as in
//! `arrival_to_prediction_histogram`, where `batch_size` rows took more than
//! half of `latency_ms`, and not more than that. Histograms add up; percentiles
//! do not.

use std::collections::BTreeMap;

use super::commit::Committed;
use super::program::{Program, Scorer};
use crate::Result;
use crate::score::metrics::{CommitFacts, Facts, Stage, append_stages};
use crate::workspace::Workspace;

/// Seconds between two appends: each is a commit of its own.
const EVERY: f64 = 10.0;
/// The percentiles.
const PERCENTILES: [(&str, f64); 3] = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)];
/// The stage of a commit.
pub const COMMIT: &str = "commit";
/// Commits that are kept while metrics cannot be appended.
const KEPT: usize = 1000;
/// The lowest bucket of a histogram ends at two to this power, milliseconds.
const LOWEST: i32 = -4;

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
    commits: Vec<Stage>,
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
        let (predicted, queryable, commits) = Default::default();
        Self { workspace: workspace.clone(), facts, predicted, queryable, commits, since }
    }

    /// Takes in a commit, and appends if it is time.
    ///
    /// # Errors
    /// As of [`Metrics::flush`].
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
        let Committed { snapshot_id, committed_at, predicted_until, seconds, .. } = *committed;
        if !times.is_empty() {
            let commit = CommitFacts { snapshot_id, committed_at, predicted_until };
            self.commits.push(commit_stage(commit, times.len() as u64, Some(seconds)));
        }
        self.facts.snapshot_id = Some(snapshot_id);
        self.facts.committed_at = Some(committed_at);
        self.facts.model_name = scorer.resolved.as_ref().map(|model| model.name.clone());
        self.facts.model_version = Some(scorer.version.clone());
        if monotonic - self.since < EVERY { Ok(()) } else { self.flush() }
    }

    /// Appends what there is.
    ///
    /// # Errors
    /// When the append fails; the commits are kept then for another time.
    pub fn flush(&mut self) -> Result<()> {
        let now = self.workspace.clock().monotonic_seconds();
        let seconds = now - std::mem::replace(&mut self.since, now);
        let (predicted, queryable) = (std::mem::take(&mut self.predicted), std::mem::take(&mut self.queryable));
        let mut stages = std::mem::take(&mut self.commits);
        if stages.is_empty() {
            return Ok(());
        }
        let commits = stages.len();
        if !predicted.is_empty() {
            self.facts.batch_size = predicted.len() as u64;
            let throughput = (seconds > 0.0).then(|| predicted.len() as f64 / seconds);
            stages.push(Stage { name: "total".into(), seconds: Some(seconds), throughput, ..Stage::default() });
        }
        for (what, ages) in [("arrival_to_prediction", predicted), ("arrival_to_queryable", queryable)] {
            let stage = |name: &str, latency_ms: f64, rows: Option<u64>| {
                let name = format!("{what}_{name}");
                Stage { name, seconds: Some(latency_ms / 1000.0), rows, ..Stage::default() }
            };
            stages.extend(histogram(&ages).into_iter().map(|(end, rows)| stage("histogram", end, Some(rows))));
            stages.extend(percentiles(ages).map(|(name, latency_ms)| stage(name, latency_ms, None)));
        }
        let appended = append_stages(&self.workspace, &self.facts, &stages);
        if appended.is_err() {
            // The oldest are found in the table's snapshots, as those of a killed process are.
            stages.truncate(commits);
            self.commits = stages.split_off(commits.saturating_sub(KEPT));
        }
        appended
    }
}

/// A commit as a stage.
pub fn commit_stage(commit: CommitFacts, rows: u64, seconds: Option<f64>) -> Stage {
    Stage { name: COMMIT.into(), seconds, rows: Some(rows), commit: Some(commit), ..Stage::default() }
}

/// How many values are in each bucket that has one, by where it ends: at powers
/// of two.
fn histogram(values: &[f64]) -> Vec<(f64, u64)> {
    let mut buckets = BTreeMap::<i32, u64>::new();
    for value in values {
        let mut power = (value.log2().ceil() as i32).max(LOWEST);
        // Of a value just above a power the logarithm may be that power.
        power += i32::from(*value > f64::from(power).exp2());
        *buckets.entry(power).or_default() += 1;
    }
    buckets.into_iter().map(|(power, count)| (f64::from(power).exp2(), count)).collect()
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

    #[test]
    fn a_bucket_has_the_values_up_to_where_it_ends_and_above_half_of_that() {
        let lowest = 0.0625;
        assert_eq!(
            histogram(&[0.0, lowest, 0.07, 1.0, 1.0000000000000002, 2.0, 1000.0]),
            [(lowest, 2), (0.125, 1), (1.0, 1), (2.0, 2), (1024.0, 1)]
        );
        assert!(histogram(&[]).is_empty());
    }
}
