//! When an interval ends, and what goes with it to its commit.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde_json::Value;

use super::checkpoints::Pending;
use super::commit::Interval;
use super::flow::Flow;
use super::live::Live;
use super::options::StreamEnd;
use super::run::{HOUR, MINUTE, POLL_WAIT, Stream};
use super::states::{CLOSED, States};
use super::takeover::Sharing;
use crate::Result;
use crate::lake::commit::Samples;

/// Bytes of rows that may wait for the commit before them.
const WAITING_BYTES: usize = 96 << 20;

impl Stream {
    /// Whether it can be told that what was read is of the source that its
    /// partitions were taken for; if not it waits, and who ends reads it again.
    pub(super) fn is_certain(&mut self) -> Result<bool> {
        let error = match self.source.is_still() {
            Err(error) if error.retryable() => error,
            still => return still.map(|()| true),
        };
        let now = self.now();
        if now >= self.doubted {
            self.doubted = now + MINUTE;
            self.warn(&format!(
                "{error}; what was read since the last commit is committed when it can be told what it is of"
            ));
        }
        Ok(false)
    }

    /// Whether what was read may be committed, if anything was.
    pub(super) fn may_cut(&mut self) -> Result<bool> {
        Ok(self.opened.is_none() || self.is_certain()?)
    }

    /// Ends the interval, or lets it grow until it is full; then it waits.
    pub(super) fn cut_when_certain(&mut self) -> Result<()> {
        while !self.may_cut()? {
            if !self.is_full() || self.options.stop.load(Ordering::SeqCst) {
                return Ok(());
            }
            std::thread::sleep(POLL_WAIT);
        }
        self.cut()
    }

    /// Commits what was read at last. Who has read everything waits until it may
    /// be, unless it is told to stop; who is told to stop does not.
    pub(super) fn last_cut(&mut self, end: StreamEnd) -> Result<StreamEnd> {
        while !self.may_cut()? {
            if self.options.stop.load(Ordering::SeqCst) {
                self.finish_commit(true)?;
                return Ok(StreamEnd::Stopped);
            }
            std::thread::sleep(POLL_WAIT);
        }
        self.cut()?;
        self.finish_commit(true)?;
        Ok(end)
    }

    /// Whether the interval may not grow.
    pub(super) fn is_full(&self) -> bool {
        self.interval_rows >= self.program.pipeline.stream.max_rows || self.interval_bytes >= WAITING_BYTES
    }

    /// Whether the interval is old or large enough, and may go.
    pub(super) fn is_due(&self) -> bool {
        let Some(opened) = self.opened else { return false };
        let settings = &self.program.pipeline.stream;
        let freshness = settings.freshness as f64 / 1e6;
        // The commit takes its time as well.
        let lead = self.last.as_ref().map_or(freshness / 4.0, |last| (2.0 * last.seconds).min(freshness / 2.0));
        let old = self.now() - opened >= (freshness - lead).max(self.spread());
        let full = self.is_full();
        // While a commit runs the next interval waits, until it is full.
        if self.worker.busy { full } else { old || full }
    }

    /// Files that the next commit may have: as many as the last one had, and
    /// not more than its rows are.
    pub(super) fn files(&self) -> usize {
        self.last.as_ref().map_or(0, |last| last.files).min(self.interval_rows)
    }

    /// Seconds between two commits with so many files, so that there are not
    /// more of them than the pipeline wants.
    pub(super) fn spread(&self) -> f64 {
        self.files() as f64 * HOUR / self.program.pipeline.stream.files_per_hour as f64
    }

    /// Ends the interval and sends it off. Partitions that are still building
    /// up their windows have nothing to commit.
    pub(super) fn cut(&mut self) -> Result<()> {
        let silent = &self.flow.silent_until;
        self.interval.ranges.retain(|partition, _| !silent.contains_key(partition));
        self.opened = None;
        if self.interval.ranges.is_empty() {
            return Ok(());
        }
        self.finish_commit(true)?;
        self.interval.sent = self.live.as_mut().map(Live::take_sent);
        self.interval.notices = self.notices.take();
        self.interval.described = self.described();
        self.interval.states = self.states();
        self.interval.samples = self.samples();
        if let Some(join) = &self.flow.join {
            self.interval.inputs = join.inputs.clone();
        }
        // No prediction of the next interval has the time of one of this.
        self.flow.timestamp = self.flow.timestamp.saturating_add(1);
        let next = Interval::new(self.flow.scorer.clone(), self.flow.timestamp);
        let interval = std::mem::replace(&mut self.interval, next);
        self.sent_rows = self.interval_rows;
        (self.interval_rows, self.interval_bytes) = (0, 0);
        self.worker.send(interval)
    }

    /// What the partitions of the interval are known by at its end.
    pub(super) fn described(&mut self) -> BTreeMap<u32, Value> {
        let ranges = self.interval.ranges.iter().filter(|(partition, _)| **partition != CLOSED);
        ranges.filter_map(|(partition, (_, end))| Some((*partition, self.source.describe(*partition, *end)?))).collect()
    }

    /// The state at the end of the interval, of its partitions.
    pub(super) fn states(&mut self) -> Vec<Pending> {
        let mut own: Vec<u32> = self.interval.ranges.keys().copied().filter(|p| *p != CLOSED).collect();
        let Flow { states, remembered, .. } = &mut self.flow;
        let mut remembered = self.program.remembers().then_some(remembered);
        if self.program.windows.is_none() {
            own.retain(|_| remembered.is_some());
            return own.into_iter().map(|p| self.checkpoints.take(p, None, remembered.as_deref_mut())).collect();
        }
        let mut taken = Vec::new();
        for state in states.checkpointed() {
            let partition = state.partition();
            if own.contains(&partition) {
                taken.push(self.checkpoints.take(partition, Some(state), remembered.as_deref_mut()));
            }
        }
        taken
    }

    /// Hashes of some of the keys of its partitions, where others have
    /// partitions too.
    pub(super) fn samples(&self) -> Samples {
        let States::EachEvent(states) = &self.flow.states else { return Samples::new() };
        if self.sharing == Sharing::All {
            return Samples::new();
        }
        let named = |partition: &u32| {
            let hashes = states.sample(*partition).into_iter().map(|hash| format!("{hash:016x}"));
            (*partition, hashes.collect())
        };
        self.interval.ranges.keys().map(named).collect()
    }

    /// A key of a window has its events in one partition, or its windows are
    /// halves.
    pub(super) fn refuse_keys_of_others(&self, samples: &Samples) -> Result<()> {
        let States::EachEvent(states) = &self.flow.states else { return Ok(()) };
        for (other, hashes) in samples.iter().filter(|(other, _)| !self.positions.contains_key(other)) {
            let hashes = hashes.iter().filter_map(|hash| u64::from_str_radix(hash, 16).ok());
            if let Some((key, partition)) = hashes.filter_map(|hash| states.key_with_hash(hash)).next() {
                return Err(self.in_two_partitions(&key, *other, partition));
            }
        }
        Ok(())
    }

    pub(super) fn finish_commit(&mut self, wait: bool) -> Result<()> {
        if let Some(committed) = self.worker.result(wait)? {
            let of_source = |(partition, _): &(&u32, &i64)| **partition != CLOSED;
            let positions = committed.positions.iter().filter(of_source).map(|(p, at)| (*p, *at)).collect();
            self.source.committed(&positions);
            self.commits += 1;
            self.sent_rows = 0;
            self.refuse_keys_of_others(&committed.samples)?;
            self.last = Some(committed);
        }
        Ok(())
    }
}
