//! The loop of a stream: poll, score, cut, commit beside it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arrow::array::RecordBatch;
use serde::Serialize;
use serde_json::Value;
use tokio::runtime::Handle;

use super::checkpoints::{Checkpoints, Pending};
use super::commit::{Committed, Committer, Interval};
use super::flow::{Counts, Flow, PollOutput};
use super::join::JoinTable;
use super::metrics::Metrics;
use super::program::{Program, Scorer};
use super::set_aside;
use super::source::{self, RawPart, Source};
use super::states::{CLOSED, Extent, PartitionState, States};
use super::status::{self, LiveStatus};
use super::windows::refused;
use crate::config::SourceSettings;
use crate::lake::commit::StreamState;
use crate::lake::faults::{self, Bug};
use crate::notify::{Notice, Outbox, Warn};
use crate::workspace::Workspace;
use crate::{Error, Result};

/// Bytes of a poll, about: at most, and for each row that a commit may have.
const POLL_BYTES: usize = 4 << 20;
const POLL_BYTES_OF_A_ROW: usize = 64;
/// How long a poll waits for events.
const POLL_WAIT: Duration = Duration::from_millis(20);
/// Seconds between two statuses.
const LOOK: f64 = 1.0;
/// Looks after which new partitions are looked for.
const PARTITION_LOOKS: u64 = 2;
/// Seconds between two looks for a newer model.
const MODEL_LOOK: Duration = Duration::from_secs(2);
/// Bytes of rows that may wait for the commit before them.
const WAITING_BYTES: usize = 512 << 20;
/// Tries of a commit after the stream was told to stop.
const LAST_TRIES: u32 = 5;
/// How long the last notices may take after a stream has ended.
const LAST_NOTICES: Duration = Duration::from_secs(15);

/// Somebody who is told of a `T`.
pub type Told<T> = Arc<dyn Fn(&T) + Send + Sync>;

/// What the caller wants.
#[derive(Clone, Default)]
pub struct StreamOptions {
    /// End when every event that is there has been committed.
    pub until_end: bool,
    /// Only these partitions; the others are other processes'.
    pub partitions: Option<Vec<u32>>,
    /// Set to end: what was read is committed first.
    pub stop: Arc<AtomicBool>,
    /// Told of every alert at once.
    pub on_alert: Option<Told<Alert>>,
    /// Told how it goes, about once a second.
    pub on_status: Option<Told<LiveStatus>>,
    /// Told of what went wrong beside the stream.
    pub on_warning: Option<Warn>,
}

impl fmt::Debug for StreamOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamOptions {{ until_end: {}, partitions: {:?} }}", self.until_end, self.partitions)
    }
}

/// Rows that somebody should know of. They are told at least once: a row is in
/// the alerts' table exactly once, but a stream that ended before its commit
/// tells them again.
#[derive(Debug, Clone)]
pub struct Alert {
    /// The pipeline.
    pub pipeline: String,
    /// The alert's name.
    pub name: String,
    /// The prediction rows.
    pub rows: RecordBatch,
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamEnd {
    /// It was told to.
    Stopped,
    /// There were no more events.
    EndOfEvents,
}

/// What a stream did.
#[derive(Debug, Clone, Serialize)]
pub struct StreamSummary {
    /// The pipeline.
    pub pipeline: String,
    /// The run.
    pub run_id: String,
    /// Why it ended.
    pub end: StreamEnd,
    /// What became of the events.
    #[serde(flatten)]
    pub counts: Counts,
    /// Commits of the prediction table.
    pub commits: u64,
    /// The last of them.
    pub snapshot_id: Option<i64>,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Milliseconds from arrival to prediction: median.
    pub latency_p50_ms: Option<f64>,
    /// And the 99th of a hundred.
    pub latency_p99_ms: Option<f64>,
}

/// What is loaded beside the loop and taken over by it.
#[derive(Debug, Default)]
struct Fresh {
    join: Mutex<Option<Arc<JoinTable>>>,
    scorer: Mutex<Option<Arc<Scorer>>>,
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Runs the stream `name` until it is told to stop, or to the end of its
/// events.
///
/// # Errors
/// What is wrong with the pipeline; `Conflict` when another process took its
/// partitions over; `Data` when the source is another one or lost events. What
/// was committed stays right: the next start goes on from there.
pub async fn run(workspace: &Workspace, name: &str, options: &StreamOptions) -> Result<StreamSummary> {
    let program = Arc::new(Program::new(workspace, name).await?);
    let scorer = Arc::new(program.scorer(workspace)?);
    let join = match &program.join {
        None => None,
        Some(join) => Some(Arc::new(join.load(workspace).await?)),
    };
    let fresh = Arc::new(Fresh::default());
    let outbox = Arc::new(outbox(workspace, &program, options)?);
    let refresh = refresher(workspace.clone(), program.clone(), fresh.clone(), join.clone(), scorer.clone());
    let refresh = tokio::spawn(refresh);
    let (workspace, mut options) = (workspace.clone(), options.clone());
    let (told, own, alerts) = (options.on_alert.take(), outbox.clone(), program.clone());
    options.on_alert = Some(Arc::new(move |alert: &Alert| {
        if let Some(told) = &told {
            told(alert);
        }
        let plan = alerts.alerts.iter().find(|plan| plan.name == alert.name && !plan.notify.is_empty());
        if let Some(plan) = plan {
            own.tell(&plan.notify, Notice::new(&alert.pipeline, &alert.name, &alert.rows));
        }
    }));
    let work = move || Stream::start(&workspace, program, scorer, join, options)?.run(&fresh);
    let done = tokio::task::spawn_blocking(work).await;
    refresh.abort();
    if let Some(outbox) = Arc::into_inner(outbox) {
        outbox.close(LAST_NOTICES).await;
    }
    done.map_err(|e| Error::internal(format!("the stream stopped with a panic: {e}")))?
}

/// The notifiers that the stream's alerts want.
fn outbox(workspace: &Workspace, program: &Program, options: &StreamOptions) -> Result<Outbox> {
    let wanted = |name: &String| program.alerts.iter().any(|alert| alert.notify.contains(name));
    let warn = options.on_warning.clone().unwrap_or_else(|| Arc::new(|_| {}));
    let notifiers = workspace.project().settings.notifiers.iter().filter(|(name, _)| wanted(name));
    Outbox::open(notifiers, warn)
}

/// Looks for newer inputs of the join and a newer model. A failure leaves what
/// is there, and is tried again.
async fn refresher(
    workspace: Workspace,
    program: Arc<Program>,
    fresh: Arc<Fresh>,
    mut join: Option<Arc<JoinTable>>,
    mut scorer: Arc<Scorer>,
) {
    let every = program.pipeline.join.as_ref().map_or(MODEL_LOOK, |join| Duration::from_micros(join.refresh as u64));
    let mut joined = 0.0;
    loop {
        tokio::time::sleep(every.min(MODEL_LOOK)).await;
        let now = workspace.clock().monotonic_seconds();
        if let (Some(query), Some(table)) = (&program.join, &join)
            && now - joined >= every.as_secs_f64()
        {
            joined = now;
            if query.is_stale(&workspace, table).unwrap_or(false)
                && let Ok(table) = query.load(&workspace).await
            {
                let table = Arc::new(table);
                join = Some(table.clone());
                *fresh.join.lock().unwrap_or_else(PoisonError::into_inner) = Some(table);
            }
        }
        let current = scorer.resolved.as_ref().map(|model| (model.version, model.sha256.clone()));
        if let Ok(Some(now)) = program.resolve(&workspace)
            && current != Some((now.version, now.sha256))
            && let Ok(newer) = program.scorer(&workspace)
        {
            scorer = Arc::new(newer);
            *fresh.scorer.lock().unwrap_or_else(PoisonError::into_inner) = Some(scorer.clone());
        }
    }
}

/// A running stream.
struct Stream {
    workspace: Workspace,
    program: Arc<Program>,
    options: StreamOptions,
    run_id: String,
    source: Box<dyn Source>,
    flow: Flow,
    checkpoints: Checkpoints,
    /// What the partitions are of the source.
    known: BTreeMap<u32, Value>,
    /// How far each partition was read.
    positions: BTreeMap<u32, i64>,
    worker: Worker,
    interval: Interval,
    /// When its first event came, monotonic seconds.
    opened: Option<f64>,
    interval_rows: usize,
    interval_bytes: usize,
    counts: Counts,
    commits: u64,
    last: Option<Committed>,
    started: f64,
}

/// The thread that commits, and the ways to and from it.
struct Worker {
    committer: Arc<Mutex<Committer>>,
    intervals: Option<SyncSender<Interval>>,
    results: Receiver<Result<Committed>>,
    busy: bool,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn new(committer: Committer, mut metrics: Metrics, options: &StreamOptions) -> Self {
        let (stop, warn) = (options.stop.clone(), options.on_warning.clone());
        let committer = Arc::new(Mutex::new(committer));
        let (intervals, incoming) = sync_channel::<Interval>(1);
        let (outgoing, results) = channel();
        let own = committer.clone();
        let thread = std::thread::spawn(move || {
            let keep_trying = |tries: u32| !stop.load(Ordering::SeqCst) || tries <= LAST_TRIES;
            while let Ok(interval) = incoming.recv() {
                let mut committer = own.lock().unwrap_or_else(PoisonError::into_inner);
                let result = committer.commit(&interval, &keep_trying);
                drop(committer);
                let failed = result.is_err();
                let committed = result.as_ref().ok().cloned();
                let gone = outgoing.send(result).is_err();
                if let Some(committed) = committed {
                    told(metrics.note(&interval.times, &interval.scorer, &committed), warn.as_ref());
                }
                if gone || failed {
                    break;
                }
            }
            told(metrics.flush(), warn.as_ref());
        });
        Self { committer, intervals: Some(intervals), results, busy: false, thread: Some(thread) }
    }

    /// Lets the thread end, with what it still has to tell.
    fn end(&mut self) {
        self.intervals = None;
        if let Some(thread) = self.thread.take() {
            // A panic of it was told as a result that did not come.
            let _ = thread.join();
        }
    }

    fn send(&mut self, interval: Interval) -> Result<()> {
        let gone = || Error::internal("the committing thread is gone");
        self.busy = true;
        self.intervals.as_ref().ok_or_else(gone)?.send(interval).map_err(|_| gone())
    }

    /// The result of the commit that runs, if it is there.
    fn result(&mut self, wait: bool) -> Result<Option<Committed>> {
        if !self.busy {
            return Ok(None);
        }
        let gone = || Error::internal("the committing thread stopped with a panic");
        let result = if wait {
            self.results.recv().map_err(|_| gone())?
        } else {
            match self.results.try_recv() {
                Ok(result) => result,
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => return Err(gone()),
            }
        };
        self.busy = false;
        result.map(Some)
    }
}

impl Stream {
    fn start(
        workspace: &Workspace,
        program: Arc<Program>,
        scorer: Arc<Scorer>,
        join: Option<Arc<JoinTable>>,
        options: StreamOptions,
    ) -> Result<Self> {
        let clock = workspace.clock().clone();
        if options.partitions.is_some() && matches!(program.pipeline.source, SourceSettings::Files { .. }) {
            return Err(Error::invalid(
                "`--partitions` shares out the partitions of a topic; files are read by one process",
            )
            .hint("leave it out"));
        }
        if options.partitions.is_some() && program.on_close() {
            return Err(Error::invalid(format!(
                "{}: with `emit = \"on_close\"` a window waits for all partitions, so `--partitions` cannot share them out",
                program.pipeline.file.display()
            ))
            .hint("run it in one process"));
        }
        let source = source::open(&workspace.project().dir, &program.pipeline.source, &clock)?;
        let run_id = workspace.new_run_id().to_string();
        let identity = source.identity().to_owned();
        let committer = Committer::new(workspace.lake(), program.clone(), run_id.clone(), identity.clone());
        let (table, state) = committer.prepare()?;
        let checkpoints = Checkpoints::new(workspace.lake().warehouse(), &program.pipeline.name);
        checkpoints.sweep(&table, &program.pipeline.name, &state)?;
        let mut flow = Flow::new(program.clone(), clock.clone(), run_id.clone(), identity, scorer.clone(), join);
        flow.timestamp = state.timestamp.unwrap_or(i64::MIN);
        let mut stream = Self {
            interval: empty(&flow),
            flow,
            source,
            checkpoints,
            worker: Worker::new(committer, Metrics::new(workspace, &program, &run_id), &options),
            known: state.partitions,
            positions: BTreeMap::new(),
            run_id,
            options,
            opened: None,
            interval_rows: 0,
            interval_bytes: 0,
            counts: Counts::default(),
            commits: 0,
            last: None,
            started: clock.monotonic_seconds(),
            workspace: workspace.clone(),
            program,
        };
        stream.look_for_partitions()?;
        Ok(stream)
    }

    /// Takes over partitions that are new to this process.
    fn look_for_partitions(&mut self) -> Result<()> {
        let found = match self.source.partitions(&self.known) {
            // A broker that is away for a while comes back.
            Err(error) if error.retryable() && !self.positions.is_empty() => return Ok(()),
            found => found?,
        };
        let wanted = |partition: &u32| {
            let own = self.options.partitions.as_ref().is_none_or(|own| own.contains(partition));
            own && !self.positions.contains_key(partition)
        };
        let new: BTreeMap<u32, source::Partition> = found.into_iter().filter(|(p, _)| wanted(p)).collect();
        if new.is_empty() {
            return Ok(());
        }
        self.cut()?;
        self.finish_commit(true)?;
        let mut starts: BTreeMap<u32, i64> = new.iter().map(|(partition, found)| (*partition, found.start)).collect();
        let first = self.positions.is_empty() && self.program.on_close();
        if first {
            starts.insert(CLOSED, 0);
        }
        let described = new.iter().filter(|(_, found)| !found.description.is_null());
        let described: BTreeMap<u32, Value> = described.map(|(p, found)| (*p, found.description.clone())).collect();
        let mut committer = self.worker.committer.lock().unwrap_or_else(PoisonError::into_inner);
        let state = committer.acquire(&starts, &described)?;
        let ahead: BTreeMap<u32, Option<i64>> =
            new.keys().map(|partition| (*partition, committer.dead_letters_position(*partition))).collect();
        drop(committer);
        for (partition, found) in &new {
            self.take_over(*partition, found.start, &state)?;
            if let (Some(from), Some(Some(ahead))) = (self.positions.get(partition).copied(), ahead.get(partition))
                && from < *ahead
            {
                self.remember_arrivals(*partition, from)?;
            }
        }
        if let States::OnClose(closing) = &mut self.flow.states {
            let committed = state.committed.positions.get(&CLOSED).copied().unwrap_or(0);
            closing.closed_to(closing.closed.max(committed));
        }
        self.known = state.partitions;
        self.source.assign(&self.positions)
    }

    /// Events that are read again keep the arrival by which they were judged.
    fn remember_arrivals(&mut self, partition: u32, from: i64) -> Result<()> {
        let (workspace, pipeline) = (&self.workspace, &self.program.pipeline.name);
        let Some(dead) = self.program.sides.first() else { return Ok(()) };
        let judged = set_aside::judged_by_arrival(workspace, &dead.name, pipeline, partition, from);
        for (offset, arrival) in Handle::current().block_on(judged)? {
            self.flow.arrivals.insert((partition, offset), arrival);
        }
        Ok(())
    }

    /// Restores the windows of a partition, or reads it again to build them.
    fn take_over(&mut self, partition: u32, start: i64, state: &StreamState) -> Result<()> {
        let position = state.committed.positions.get(&partition).copied().unwrap_or(start);
        let mut from = position;
        let files = state.checkpoints.get(&partition).map(Vec::as_slice).unwrap_or_default();
        let plan = self.program.windows.as_ref().map(|windows| (&windows.plan, self.program.on_close()));
        let restored = match self.checkpoints.restore(plan, partition, files, &mut self.flow.remembered) {
            Ok(restored) => restored.filter(|state| state.next_offset() <= position),
            // Windows that were declared otherwise, or files that are gone:
            // the source has the events. Alerts are told once more.
            Err(_) => None,
        };
        if !self.program.remembers() {
            self.flow.remembered.forget(partition);
        }
        if let Some((plan, on_close)) = plan {
            let restored = restored.filter(|_| !faults::bug(Bug::ForgetWindows));
            let windows = match restored {
                Some(restored) => restored,
                None => {
                    if !faults::bug(Bug::ForgetWindows) {
                        from = start;
                    }
                    PartitionState::new(plan, on_close, partition, from).map_err(|e| refused(e, "windows"))?
                }
            };
            let now = self.workspace.clock().now_micros();
            self.flow.states.assign(windows, now).map_err(|e| refused(e, "windows"))?;
        }
        if from < position {
            self.flow.silent_until.insert(partition, position);
        }
        self.positions.insert(partition, from);
        Ok(())
    }

    fn run(mut self, fresh: &Fresh) -> Result<StreamSummary> {
        let end = self.work(fresh);
        let end = end.and_then(|end| {
            self.cut()?;
            self.finish_commit(true)?;
            Ok(end)
        });
        if end.is_err() {
            // A commit that runs is let through, but not tried for ever.
            self.options.stop.store(true, Ordering::SeqCst);
            let _ = self.worker.result(true);
        }
        self.tell(true);
        self.worker.end();
        let end = end?;
        Ok(StreamSummary {
            pipeline: self.program.pipeline.name.clone(),
            run_id: self.run_id.clone(),
            end,
            counts: self.counts,
            commits: self.commits,
            snapshot_id: self.last.as_ref().map(|last| last.snapshot_id),
            seconds: self.now() - self.started,
            latency_p50_ms: self.flow.latency.quantile(0.5),
            latency_p99_ms: self.flow.latency.quantile(0.99),
        })
    }

    fn now(&self) -> f64 {
        self.workspace.clock().monotonic_seconds()
    }

    fn work(&mut self, fresh: &Fresh) -> Result<StreamEnd> {
        let (mut looked, mut looks) = (self.now(), 0u64);
        let bytes = POLL_BYTES.min(self.program.pipeline.stream.max_rows.saturating_mul(POLL_BYTES_OF_A_ROW));
        loop {
            if self.options.stop.load(Ordering::SeqCst) {
                return Ok(StreamEnd::Stopped);
            }
            if let Some(join) = take(&fresh.join) {
                self.flow.join = Some(join);
            }
            if let Some(scorer) = take(&fresh.scorer) {
                // One commit, one model: it changes at a cut.
                self.cut()?;
                self.flow.scorer = scorer.clone();
                self.interval.scorer = scorer;
            }
            let parts = match self.source.poll(bytes, POLL_WAIT) {
                Err(error) if error.retryable() => {
                    std::thread::sleep(POLL_WAIT);
                    Vec::new()
                }
                parts => parts?,
            };
            let idle = parts.is_empty();
            // Windows also close because time goes by, when nothing is left to
            // be read.
            if !idle || (self.program.on_close() && self.source.at_end()?) {
                self.take(&parts)?;
            }
            self.finish_commit(false)?;
            if self.is_due() {
                self.cut()?;
            }
            if self.now() - looked >= LOOK {
                looked = self.now();
                self.tell(false);
                looks += 1;
                if looks.is_multiple_of(PARTITION_LOOKS) {
                    self.look_for_partitions()?;
                }
            }
            if idle && self.options.until_end && self.source.at_end()? {
                if self.program.on_close() {
                    self.flow.ended = true;
                    self.take(&[])?;
                }
                return Ok(StreamEnd::EndOfEvents);
            }
        }
    }

    /// A poll into the interval.
    fn take(&mut self, parts: &[RawPart]) -> Result<()> {
        let closed = self.closed();
        let PollOutput { rows, times, sides, alerts, counts } = self.flow.process(parts)?;
        if self.opened.is_none() && (!parts.is_empty() || rows.is_some()) {
            self.opened = Some(self.now());
        }
        if let Some(told) = &self.options.on_alert {
            for (name, rows) in alerts {
                told(&Alert { pipeline: self.program.pipeline.name.clone(), name, rows });
            }
        }
        for part in parts {
            let from = self.positions.insert(part.partition, part.next_offset).unwrap_or(part.next_offset);
            let range = self.interval.ranges.entry(part.partition).or_insert((from, from));
            range.1 = part.next_offset;
        }
        if let (Some(from), Some(to)) = (closed, self.closed())
            && (rows.is_some() || !self.interval.ranges.is_empty())
        {
            self.interval.ranges.entry(CLOSED).or_insert((from, to)).1 = to;
        }
        self.counts.add(counts);
        self.interval.timestamp = self.flow.timestamp;
        self.interval.times.extend(times);
        if let Some(rows) = rows {
            self.interval_rows += rows.num_rows();
            self.interval_bytes += rows.get_array_memory_size();
            self.interval.rows.push(rows);
        }
        self.interval_rows += sides.iter().map(|side| side.rows.num_rows()).sum::<usize>();
        self.interval_bytes += sides.iter().map(|side| side.rows.get_array_memory_size()).sum::<usize>();
        self.interval.sides.extend(sides);
        Ok(())
    }

    /// Where windows have been closed to.
    fn closed(&self) -> Option<i64> {
        match &self.flow.states {
            States::OnClose(closing) => Some(closing.closed),
            States::EachEvent(_) => None,
        }
    }

    /// Whether the interval is old or large enough, and may go.
    fn is_due(&self) -> bool {
        let Some(opened) = self.opened else { return false };
        let settings = &self.program.pipeline.stream;
        let freshness = settings.freshness as f64 / 1e6;
        // The commit takes its time as well.
        let lead = self.last.as_ref().map_or(freshness / 4.0, |last| (2.0 * last.seconds).min(freshness / 2.0));
        let old = self.now() - opened >= freshness - lead;
        let full = self.interval_rows >= settings.max_rows || self.interval_bytes >= WAITING_BYTES;
        // While a commit runs the next interval waits, until it is full.
        if self.worker.busy { full } else { old || full }
    }

    /// Ends the interval and sends it off. Partitions that are still building
    /// up their windows have nothing to commit.
    fn cut(&mut self) -> Result<()> {
        let silent = &self.flow.silent_until;
        self.interval.ranges.retain(|partition, _| !silent.contains_key(partition));
        self.opened = None;
        if self.interval.ranges.is_empty() {
            return Ok(());
        }
        self.finish_commit(true)?;
        self.interval.states = self.states();
        if let Some(join) = &self.flow.join {
            self.interval.inputs = join.inputs.clone();
        }
        let interval = std::mem::replace(&mut self.interval, empty(&self.flow));
        (self.interval_rows, self.interval_bytes) = (0, 0);
        self.worker.send(interval)
    }

    /// The state at the end of the interval, of its partitions.
    fn states(&mut self) -> Vec<Pending> {
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

    fn finish_commit(&mut self, wait: bool) -> Result<()> {
        if let Some(committed) = self.worker.result(wait)? {
            let of_source = |(partition, _): &(&u32, &i64)| **partition != CLOSED;
            let positions = committed.positions.iter().filter(of_source).map(|(p, at)| (*p, *at)).collect();
            self.source.committed(&positions);
            self.commits += 1;
            self.last = Some(committed);
        }
        Ok(())
    }

    /// Says how it goes.
    fn tell(&mut self, ended: bool) {
        let Extent { keys, bytes, watermark } = self.flow.states.extent();
        let live = LiveStatus {
            pipeline: self.program.pipeline.name.clone(),
            run_id: self.run_id.clone(),
            at: self.workspace.clock().now_micros(),
            seconds: self.now() - self.started,
            ended,
            events: self.counts.events,
            rows: self.counts.rows,
            filtered: self.counts.filtered,
            late: self.counts.late,
            dead: self.counts.dead,
            alerts: self.counts.alerts,
            waiting_rows: self.interval_rows as u64,
            commits: self.commits,
            last_commit_seconds: self.last.as_ref().map_or(0.0, |last| last.seconds),
            latency_p50_ms: self.flow.latency.quantile(0.5),
            latency_p99_ms: self.flow.latency.quantile(0.99),
            state_bytes: bytes,
            state_keys: keys,
            watermark,
            features_loaded: self.flow.join.as_ref().map(|join| join.loaded),
            model_version: self.flow.scorer.version.clone(),
        };
        status::publish(&self.workspace, &live);
        if let Some(told) = &self.options.on_status {
            told(&live);
        }
    }
}

/// Metrics that cannot be written are a warning: the predictions are there.
fn told(result: Result<()>, warn: Option<&Warn>) {
    if let (Err(error), Some(warn)) = (result, warn) {
        warn(&format!("`ml_monitoring.inference_metrics` has no row of this interval: {error}"));
    }
}

fn empty(flow: &Flow) -> Interval {
    let (ranges, rows, times, sides, states, inputs) = Default::default();
    Interval { ranges, rows, times, sides, states, scorer: flow.scorer.clone(), inputs, timestamp: flow.timestamp }
}
