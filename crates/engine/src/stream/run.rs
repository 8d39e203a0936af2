//! The loop of a stream: poll, score, cut, commit beside it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use insightera_core::ErrorKind;
use insightera_events::Drift;
use serde_json::Value;

use super::checkpoints::Checkpoints;
use super::commit::{Committed, Committer, Interval};
use super::feed;
use super::flow::{Counts, Flow, PollOutput};
use super::join::JoinTable;
use super::live::{Live, Watch};
use super::member::Member;
use super::metrics::Metrics;
use super::notices::Notices;
use super::options::{StreamEnd, StreamOptions, StreamSummary};
use super::program::{Program, Scorer};
use super::refresher::{Fresh, Refresher, take};
use super::source::{Group, RawPart, Source};
use super::states::{CLOSED, States};
use super::takeover::Sharing;
use super::telling::DeadLetters;
use super::upkeep::upkeep;
use super::worker::Worker;
use crate::background::Background;
use crate::config::SourceSettings;
use crate::erase::ErasedEntities;
use crate::lake::faults::{self, Bug};
use crate::notify::Outbox;
use crate::workspace::Workspace;
use crate::{Error, Result};

/// Bytes of a poll, about: at most, and for each row that a commit may have.
const POLL_BYTES: usize = 4 << 20;
const POLL_BYTES_OF_A_ROW: usize = 64;
/// How long a poll waits for events.
pub(super) const POLL_WAIT: Duration = Duration::from_millis(20);
/// Seconds between two statuses.
const LOOK: f64 = 1.0;
/// Seconds between two warnings of the same.
pub(super) const MINUTE: f64 = 60.0;
pub(super) const HOUR: f64 = 3600.0;
/// Looks after which new partitions are looked for.
const PARTITION_LOOKS: u64 = 2;
/// Seconds that events wait for their schema: at first, and at most.
const FIRST_HOLD: f64 = 0.1;
const LONGEST_HOLD: f64 = 5.0;
/// How often a process may be overtaken before it has committed anything.
const OVERTAKEN: u32 = 5;
/// How long it waits before it joins its group again.
const JOIN_AGAIN: Duration = Duration::from_millis(500);
/// How long the last notices may take after a stream has ended.
const LAST_NOTICES: Duration = Duration::from_secs(15);

/// Runs the stream `name` until it is told to stop, or to the end of its
/// events.
///
/// Processes of a group share the partitions of a topic out; one that was
/// overtaken, because it stood still for longer than the group waits, joins
/// again and goes on from the tables.
///
/// # Errors
/// What is wrong with the pipeline; `Conflict` when another process took its
/// partitions over and there is no group, or none that agrees; `Data` when the
/// source is another one or lost events. What was committed stays right: the
/// next start goes on from there.
pub async fn run(workspace: &Workspace, name: &str, options: &StreamOptions) -> Result<StreamSummary> {
    let program = Arc::new(Program::new(workspace, name).await?);
    let scorer = Arc::new(program.scorer(workspace)?);
    let join = match &program.join {
        None => None,
        Some(join) => Some(Arc::new(join.load(workspace).await?)),
    };
    let fresh = Arc::new(Fresh::default());
    let outbox = Arc::new(outbox(workspace, &program, options)?);
    let refresher = Refresher::new(workspace, &program, &fresh, options.on_warning.clone());
    let refresher = refresher.run(join.clone(), scorer.clone());
    let refresher = Background::spawn("refresher of a stream", refresher)?;
    let upkeep = upkeep(workspace.clone(), program.clone(), options.on_warning.clone());
    let upkeep = Background::spawn("upkeep of a stream", upkeep)?;
    let (workspace, options, own) = (workspace.clone(), options.clone(), outbox.clone());
    let work = move || runs(&workspace, &program, (scorer, join), &options, &fresh, &own);
    let done = tokio::task::spawn_blocking(work).await;
    drop((refresher, upkeep));
    if let Some(outbox) = Arc::into_inner(outbox) {
        outbox.close(LAST_NOTICES).await;
    }
    done.map_err(|e| Error::internal(format!("the stream stopped with a panic: {e}")))?
}

/// Runs until it ends of itself; a process of a group that was overtaken begins
/// again.
fn runs(
    workspace: &Workspace,
    program: &Arc<Program>,
    (mut scorer, mut join): (Arc<Scorer>, Option<Arc<JoinTable>>),
    options: &StreamOptions,
    fresh: &Fresh,
    outbox: &Arc<Outbox>,
) -> Result<StreamSummary> {
    let member = Member::take(workspace, &program.pipeline.name);
    let started = workspace.clock().monotonic_seconds();
    let (mut counts, mut commits, mut in_vain) = (Counts::default(), 0, 0);
    let mut drift = Drift::of(&program.decoder);
    loop {
        let notices = Notices::new(program, options.on_alert.clone(), outbox, workspace.clock());
        let mut stream = Stream::start(workspace, program, (scorer, join), options, &member, notices)?;
        stream.before = (counts, commits);
        stream.flow.watch(drift);
        let end = stream.run(fresh);
        counts.add(stream.counts);
        commits += stream.commits;
        in_vain = if stream.commits > 0 { 0 } else { in_vain + 1 };
        let overtaken = |error: &Error| {
            stream.sharing == Sharing::Group && error.kind() == ErrorKind::Conflict && in_vain <= OVERTAKEN
        };
        let erased = |error: &Error| error.kind() == ErrorKind::Conflict && stream.is_of_the_past();
        let stopped = options.stop.load(Ordering::SeqCst);
        let end = match end {
            // What it read and holds may be of who was erased meanwhile: the
            // tables say where to go on from.
            Err(error) if erased(&error) && stopped => StreamEnd::Stopped,
            Err(error) if erased(&error) => {
                (scorer, join) = (stream.flow.scorer.clone(), stream.flow.join.clone());
                drift = stream.flow.drift.take();
                drop(stream);
                continue;
            }
            // Others have its partitions, and what it read.
            Err(error) if overtaken(&error) && options.stop.load(Ordering::SeqCst) => StreamEnd::Stopped,
            Err(error) if overtaken(&error) => {
                if let Some(warn) = &options.on_warning {
                    warn(&format!("{error}; this process joins the group again"));
                }
                (scorer, join) = (stream.flow.scorer.clone(), stream.flow.join.clone());
                drift = stream.flow.drift.take();
                drop(stream);
                workspace.clock().sleep(JOIN_AGAIN);
                continue;
            }
            end => end?,
        };
        return Ok(StreamSummary {
            pipeline: program.pipeline.name.clone(),
            run_id: stream.run_id.clone(),
            end,
            counts,
            commits,
            snapshot_id: stream.last.as_ref().map(|last| last.snapshot_id),
            seconds: workspace.clock().monotonic_seconds() - started,
            latency_p50_ms: stream.flow.latency.quantile(0.5),
            latency_p99_ms: stream.flow.latency.quantile(0.99),
        });
    }
}

/// The notifiers that the stream's alerts want.
fn outbox(workspace: &Workspace, program: &Program, options: &StreamOptions) -> Result<Outbox> {
    let wanted = |name: &String| program.alerts.iter().any(|alert| alert.notify.contains(name));
    let warn = options.on_warning.clone().unwrap_or_else(|| Arc::new(|_| {}));
    let notifiers = workspace.project().settings.notifiers.iter().filter(|(name, _)| wanted(name));
    Outbox::open(&workspace.project().dir, notifiers, warn)
}

/// A running stream.
pub struct Stream {
    pub(super) workspace: Workspace,
    pub(super) program: Arc<Program>,
    pub(super) options: StreamOptions,
    pub(super) process: u32,
    pub(super) sharing: Sharing,
    pub(super) run_id: String,
    pub(super) source: Box<dyn Source>,
    /// Events that were polled and cannot be read yet, until when they are left
    /// alone, and for how many seconds that was.
    pub(super) held: Vec<RawPart>,
    pub(super) held_until: f64,
    pub(super) held_pause: f64,
    pub(super) flow: Flow,
    pub(super) checkpoints: Checkpoints,
    pub(super) live: Option<Live>,
    pub(super) notices: Notices,
    /// What the partitions are of the source.
    pub(super) known: BTreeMap<u32, Value>,
    /// How far each partition was read.
    pub(super) positions: BTreeMap<u32, i64>,
    pub(super) worker: Worker,
    pub(super) interval: Interval,
    /// When its first event came, monotonic seconds.
    pub(super) opened: Option<f64>,
    pub(super) interval_rows: usize,
    /// Those of the interval that is being committed.
    pub(super) sent_rows: usize,
    pub(super) interval_bytes: usize,
    pub(super) counts: Counts,
    /// What the process did, and how often it committed, before it joined its
    /// group again.
    pub(super) before: (Counts, u64),
    pub(super) dead: DeadLetters,
    /// When it is said again that the source does not say what it is.
    pub(super) doubted: f64,
    /// When it is said again that commits are rare, monotonic seconds.
    pub(super) rare: f64,
    pub(super) commits: u64,
    pub(super) last: Option<Committed>,
    pub(super) started: f64,
    /// The newest erasure that it respects.
    pub(super) erasures: u64,
}

/// Which partitions a process reads.
///
/// # Errors
/// When they cannot be shared out as it was told to.
fn sharing(program: &Program, options: &StreamOptions) -> Result<Sharing> {
    let pipeline = &program.pipeline;
    let SourceSettings::Kafka { .. } = pipeline.source else {
        return match options.partitions {
            None => Ok(Sharing::All),
            Some(_) => Err(Error::invalid(
                "`--partitions` shares out the partitions of a topic; files are read by one process",
            )
            .hint("leave it out")),
        };
    };
    match &options.partitions {
        Some(_) if program.on_close() => Err(Error::invalid(format!(
            "{}: with `emit = \"on_close\"` a window waits for all partitions, so `--partitions` cannot share them out",
            pipeline.file.display()
        ))
        .hint("run it in one process")),
        Some(_) if !pipeline.is_shareable() => Err(Error::invalid(format!(
            "{}: `--partitions` shares partitions out, and nothing says that all events of a window's key are in one",
            pipeline.file.display()
        ))
        .hint("add to [source] partition_key = [\"COLUMN\", …], what decides the partition of an event")),
        Some(named) => Ok(Sharing::Named(named.clone())),
        None if options.until_end || !pipeline.is_shareable() => Ok(Sharing::All),
        None => Ok(Sharing::Group),
    }
}

/// Opens the way to the receiver of predictions, if there is one.
fn live(workspace: &Workspace, program: &Program, run_id: &str, options: &StreamOptions) -> Result<Option<Live>> {
    let pipeline = &program.pipeline;
    let Some(settings) = &pipeline.live else { return Ok(None) };
    let watch = Watch {
        pipeline: pipeline.name.clone(),
        run_id: run_id.to_owned(),
        stop: options.stop.clone(),
        warn: options.on_warning.clone(),
        clock: workspace.clock().clone(),
    };
    Live::open(settings, &pipeline.entity_key, watch).map(Some)
}

impl Stream {
    fn start(
        workspace: &Workspace,
        program: &Arc<Program>,
        (scorer, join): (Arc<Scorer>, Option<Arc<JoinTable>>),
        options: &StreamOptions,
        member: &Member,
        notices: Notices,
    ) -> Result<Self> {
        let (clock, pipeline) = (workspace.clock().clone(), &program.pipeline);
        let sharing = sharing(program, options)?;
        let run_id = workspace.new_run_id().to_string();
        let mut committer = Committer::new(workspace.lake(), program.clone(), run_id.clone());
        let (table, state) = committer.prepare()?;
        // Those are a group who write one table.
        let name = format!("insightera-{}-{}", pipeline.name, table.metadata().uuid().simple());
        let group = Group {
            name,
            member: (sharing == Sharing::Group).then(|| member.name.clone()),
            stop: options.stop.clone(),
        };
        let source = feed::open(workspace, &pipeline.source, &group)?;
        let identity = source.identity().to_owned();
        committer.of_source(&identity);
        committer.check_source(&state)?;
        let checkpoints = Checkpoints::new(workspace.lake(), &pipeline.name);
        checkpoints.sweep(&table, &pipeline.name, &state, clock.now_millis())?;
        // After the tables are there: an erasure looks at those that are.
        let erased = ErasedEntities::read(&workspace.project().dir)?;
        committer.respecting(erased.number());
        let mut flow = Flow::new(program.clone(), clock.clone(), run_id.clone(), identity, scorer, join, &erased);
        flow.timestamp = state.timestamp.unwrap_or(i64::MIN);
        let mut stream = Self {
            interval: Interval::new(flow.scorer.clone(), flow.timestamp),
            flow,
            source,
            held: Vec::new(),
            held_until: 0.0,
            held_pause: 0.0,
            checkpoints,
            live: live(workspace, program, &run_id, options)?,
            notices,
            worker: Worker::new(committer, Metrics::new(workspace, program, &run_id), options),
            known: state.partitions,
            erasures: erased.number(),
            positions: BTreeMap::new(),
            run_id,
            options: options.clone(),
            process: member.number,
            sharing,
            opened: None,
            interval_rows: 0,
            sent_rows: 0,
            interval_bytes: 0,
            counts: Counts::default(),
            before: Default::default(),
            dead: DeadLetters::default(),
            doubted: 0.0,
            rare: 0.0,
            commits: 0,
            last: None,
            started: clock.monotonic_seconds(),
            workspace: workspace.clone(),
            program: program.clone(),
        };
        if stream.sharing != Sharing::Group {
            stream.look_for_partitions()?;
        }
        Ok(stream)
    }

    fn run(&mut self, fresh: &Fresh) -> Result<StreamEnd> {
        let end = self.work(fresh);
        let end = end.and_then(|end| self.last_cut(end));
        let overtaken = end.as_ref().is_err_and(|error| error.kind() == ErrorKind::Conflict)
            && (self.sharing == Sharing::Group || self.is_of_the_past());
        if end.is_err() && !overtaken {
            // A commit that runs is let through, but not tried for ever.
            self.options.stop.store(true, Ordering::SeqCst);
            let _ = self.worker.result(true);
        }
        if !overtaken {
            self.source.leave();
            self.flow.drift.iter_mut().for_each(Drift::end);
        }
        self.tell_drift();
        self.tell(true);
        self.tell_of_dead_letters(true);
        if let Some(live) = &self.live {
            live.close();
        }
        self.worker.end();
        end
    }

    /// Whether an entity was erased since it began.
    fn is_of_the_past(&self) -> bool {
        ErasedEntities::read(&self.workspace.project().dir).is_ok_and(|now| now.number() > self.erasures)
    }

    pub(super) fn now(&self) -> f64 {
        self.workspace.clock().monotonic_seconds()
    }

    fn work(&mut self, fresh: &Fresh) -> Result<StreamEnd> {
        let (mut looked, mut looks) = (self.now(), 0u64);
        let bytes = POLL_BYTES.min(self.program.pipeline.stream.max_rows.saturating_mul(POLL_BYTES_OF_A_ROW));
        loop {
            if self.options.stop.load(Ordering::SeqCst) {
                return Ok(StreamEnd::Stopped);
            }
            // One commit, one model and one state of the features: they change at a
            // cut, so that the commit says of each row what made it.
            if fresh.is_there() && self.may_cut()? {
                self.cut()?;
                if let Some(join) = take(&fresh.join) {
                    self.flow.join = Some(join);
                }
                if let Some(scorer) = take(&fresh.scorer) {
                    self.flow.scorer = scorer.clone();
                    self.interval.scorer = scorer;
                }
            }
            let parts = self.next(bytes)?;
            let waits = !self.held.is_empty();
            let idle = parts.is_empty() && !waits;
            // Windows also close because time goes by, when nothing is left to
            // be read.
            if !parts.is_empty() || (idle && self.program.on_close() && self.source.at_end()?) {
                self.take(&parts)?;
            }
            if self.sharing == Sharing::Group && !waits {
                self.rebalance()?;
            }
            if let Some(wait) = feed::look(&self.workspace) {
                self.finish_commit(wait)?;
            }
            if self.is_due() {
                self.cut_when_certain()?;
            }
            if self.now() - looked >= LOOK {
                looked = self.now();
                self.tell(false);
                self.tell_of_dead_letters(false);
                self.tell_of_source(false);
                self.tell_of_files();
                self.hold_partitions();
                looks += 1;
                if looks.is_multiple_of(PARTITION_LOOKS) && self.sharing != Sharing::Group && !waits {
                    self.look_for_partitions()?;
                }
            }
            if idle && self.options.until_end && self.source.at_end()? {
                if self.program.on_close() {
                    self.flow.ended = true;
                    self.take(&[])?;
                }
                self.tell_of_source(true);
                return Ok(StreamEnd::EndOfEvents);
            }
        }
    }

    /// The next events that can be read. Those whose schema cannot be learned
    /// at the moment are held, and nothing is polled before them.
    fn next(&mut self, bytes: usize) -> Result<Vec<RawPart>> {
        let parts = if self.held.is_empty() {
            match self.source.poll(bytes, POLL_WAIT) {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    std::thread::sleep(POLL_WAIT);
                    Vec::new()
                }
                parts => self.not_yet_read(parts?),
            }
        } else if self.now() < self.held_until {
            std::thread::sleep(POLL_WAIT);
            return Ok(Vec::new());
        } else {
            std::mem::take(&mut self.held)
        };
        let learned = self.flow.learn(&parts);
        for news in self.program.schemas.as_ref().map(|schemas| schemas.news()).unwrap_or_default() {
            self.warn(&news);
        }
        match learned {
            Ok(()) => {
                self.held_pause = 0.0;
                Ok(parts)
            }
            Err(error) if error.retryable() => {
                if self.held_pause == 0.0 {
                    self.warn(&format!("{error}; the events wait, and it is asked again"));
                }
                self.held_pause = (2.0 * self.held_pause).clamp(FIRST_HOLD, LONGEST_HOLD);
                self.held_until = self.now() + self.held_pause;
                self.held = parts;
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// What a source gives out again, and what is another process's, is not
    /// read twice.
    fn not_yet_read(&self, parts: Vec<RawPart>) -> Vec<RawPart> {
        if faults::bug(Bug::DuplicatesTaken) {
            return parts;
        }
        let fresh = |part: RawPart| {
            let position = *self.positions.get(&part.partition)?;
            let again = part.offsets.first().is_some_and(|first| *first < position);
            let part = if again { part.between(position, i64::MAX) } else { part };
            (part.next_offset > position).then_some(part)
        };
        parts.into_iter().filter_map(fresh).collect()
    }

    /// Closing windows do not wait for a partition that has nothing; but for one
    /// that cannot be read they do.
    fn hold_partitions(&mut self) {
        let States::OnClose(closing) = &mut self.flow.states else { return };
        for partition in self.positions.keys() {
            if self.options.stop.load(Ordering::SeqCst) {
                return;
            }
            closing.hold(*partition, !self.source.is_drained(*partition));
        }
    }

    /// A poll into the interval.
    fn take(&mut self, parts: &[RawPart]) -> Result<()> {
        let closed = self.closed();
        let PollOutput { rows, places, times, sides, alerts, counts, dead, .. } = self.flow.process(parts)?;
        self.dead.first = self.dead.first.take().or(dead);
        self.tell_drift();
        if let (Some(live), Some(rows)) = (&self.live, &rows) {
            live.send(rows, &places)?;
        }
        if self.opened.is_none() && (!parts.is_empty() || rows.is_some()) {
            self.opened = Some(self.now());
        }
        for (name, rows) in alerts {
            self.notices.tell(name, rows);
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
    pub(super) fn closed(&self) -> Option<i64> {
        match &self.flow.states {
            States::OnClose(closing) => Some(closing.closed),
            States::EachEvent(_) => None,
        }
    }
}
