//! What a running stream says of itself: warnings, and its status.

use insightera_events::Drift;

use super::run::{HOUR, MINUTE, Stream};
use super::states::Extent;
use super::status::{self, LiveStatus};

/// What a status says of drift: so many, the newest.
const DRIFT_SHOWN: usize = 20;

/// What was told of dead letters.
#[derive(Debug, Default)]
pub(super) struct DeadLetters {
    /// How many, of how many events.
    pub(super) told: u64,
    pub(super) events: u64,
    /// The first since.
    pub(super) first: Option<String>,
    /// When others are told, monotonic seconds.
    pub(super) next: f64,
}

impl Stream {
    pub(super) fn warn(&self, text: &str) {
        if let Some(warn) = &self.options.on_warning {
            warn(&format!("{}: {text}", self.program.pipeline.name));
        }
    }

    pub(super) fn tell_of_source(&mut self, at_last: bool) {
        for remark in self.source.remarks(at_last) {
            self.warn(&remark);
        }
    }

    /// Says that events became dead letters, at once and then once a minute.
    pub(super) fn tell_of_dead_letters(&mut self, at_last: bool) {
        let now = self.now();
        let Some(first) = self.dead.first.as_ref().filter(|_| at_last || now >= self.dead.next) else { return };
        let (dead, events) = (self.counts.dead - self.dead.told, self.counts.events - self.dead.events);
        let tables = &self.program.pipeline.stream.dead_letters;
        let text = format!(
            "{dead} of {events} events became dead letters, in table `{}.{}`; the first of them: {first}",
            tables.0, tables.1
        );
        self.warn(&text);
        self.dead = DeadLetters { told: self.counts.dead, events: self.counts.events, first: None, next: now + MINUTE };
    }

    /// Tells how events are not what they were.
    pub(super) fn tell_drift(&mut self) {
        for news in self.flow.drift.as_mut().map(Drift::news).unwrap_or_default() {
            self.warn(&news.to_string());
        }
    }

    /// Says when commits are rarer than `freshness` wants them, for the files
    /// that they have.
    pub(super) fn tell_of_files(&mut self) {
        let settings = &self.program.pipeline.stream;
        let (spread, freshness) = (self.spread(), settings.freshness as f64 / 1e6);
        if spread <= freshness || self.now() < self.rare {
            return;
        }
        let files = self.files();
        self.rare = self.now() + HOUR;
        self.warn(&format!(
            "a commit has {files} files, and there may be {} in an hour: one commit in {spread:.1} s instead of \
             {freshness:.1} s; partition the tables by fewer values, or raise `files_per_hour` in [stream]",
            settings.files_per_hour
        ));
    }

    /// Says how it goes.
    pub(super) fn tell(&mut self, ended: bool) {
        let Extent { keys, bytes, watermark } = self.flow.states.extent();
        let drift = self.flow.drift.as_ref().map(Drift::noticed).unwrap_or_default();
        let (mut counts, commits) = self.before;
        counts.add(self.counts);
        let live = LiveStatus {
            pipeline: self.program.pipeline.name.clone(),
            process: self.process,
            partitions: self.positions.keys().copied().collect(),
            run_id: self.run_id.clone(),
            at: self.workspace.clock().now_micros(),
            seconds: self.now() - self.started,
            ended,
            events: counts.events,
            rows: counts.rows,
            filtered: counts.filtered,
            late: counts.late,
            dead: counts.dead,
            alerts: counts.alerts,
            waiting_rows: (self.interval_rows + self.sent_rows) as u64,
            commits: commits + self.commits,
            last_commit_seconds: self.last.as_ref().map_or(0.0, |last| last.seconds),
            last_commit_files: self.last.as_ref().map_or(0, |last| last.files as u64),
            latency_p50_ms: self.flow.latency.quantile(0.5),
            latency_p95_ms: self.flow.latency.quantile(0.95),
            latency_p99_ms: self.flow.latency.quantile(0.99),
            state_bytes: bytes,
            state_keys: keys,
            watermark,
            features_loaded: self.flow.join.as_ref().map(|join| join.loaded),
            model_version: self.flow.scorer.version.clone(),
            drift: drift[drift.len().saturating_sub(DRIFT_SHOWN)..].to_vec(),
        };
        status::publish(&self.workspace, &live);
        if let Some(told) = &self.options.on_status {
            told(&live);
        }
    }
}
