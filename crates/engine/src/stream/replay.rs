//! What a stream computed as its events came, once more: from the same events,
//! the same snapshots of the joined tables and the same versions of the model,
//! or with another version, for what would have been.
//!
//! **Flow.** [`recorded`](super::recorded) says which offsets were scored by
//! what → the windows before them come from the nearest checkpoint, or from
//! reading the events before → the source is read again, a *block* of events at
//! a time → [`compare`](super::compare) beside the rows of the table, or into
//! another table.
//!
//! **Guarantees.** Nothing of the stream is changed, and a running one is not
//! disturbed. What is not there any more as it was (an expired snapshot, a
//! removed event, another file) is an error or a warning that names it, never
//! another row. Rows that are written are marked `as_of`, in one commit that is
//! no progress of the pipeline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;
use iceberg::spec::DataFile;
use insightera_core::stream::position;
use serde::Serialize;
use tokio::runtime::Handle;

use super::checkpoints::Checkpoints;
use super::compare::{Compared, Comparison};
use super::flow::{Counts, Flow, RowKind};
use super::join::JoinTable;
use super::program::{Program, Scorer};
use super::recorded::{Bound, Facts, Recorded, Stretch};
use super::remembered::Remembered;
use super::set_aside;
use super::source::{self, Group, RawPart, Source};
use super::states::PartitionState;
use super::windows::refused;
use crate::config::{Selector, SourceSettings};
use crate::erase::ErasedEntities;
use crate::lake::commit::{Change, Outcome, StreamState, commit};
use crate::lake::{Table, TableName, keys};
use crate::notify::Warn;
use crate::score::{Consumed, write_rows};
use crate::workspace::Workspace;
use crate::{Error, Result};

/// Bytes of a poll, and how long it waits.
const POLL_BYTES: usize = 4 << 20;
const POLL_WAIT: Duration = Duration::from_millis(50);
/// Polls without an event after which the source has nothing more.
const QUIET_POLLS: u32 = 100;
/// Events and bytes of a block.
const BLOCK_EVENTS: usize = 200_000;
const BLOCK_BYTES: usize = 64 << 20;

/// What the caller wants.
#[derive(Clone, Default)]
pub struct ReplayOptions {
    /// Where it begins; else at the first event of the stream that is known.
    pub from: Option<Bound>,
    /// Where it ends; else at the last commit.
    pub to: Option<Bound>,
    /// Another version of the model than those that scored.
    pub as_model: Option<Selector>,
    /// The table for the rows.
    pub into: Option<TableName>,
    /// Told of what keeps the answer from being whole.
    pub on_warning: Option<Warn>,
}

/// What a replay found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ReplayReport {
    /// The pipeline.
    pub pipeline: String,
    /// Its prediction table.
    pub table: String,
    /// The versions of the model that scored.
    pub versions: BTreeSet<String>,
    /// Whether those are the versions that scored the events then.
    pub same_model: bool,
    /// Whether the pipeline's SQL or output expressions are others by now.
    pub definition_changed: bool,
    /// Partition to its first offset and that behind its last.
    pub ranges: BTreeMap<u32, (i64, i64)>,
    /// How often model or features changed, and one.
    pub stretches: usize,
    /// What became of the events.
    #[serde(flatten)]
    pub counts: Counts,
    /// The comparison with the table, where its rows say of which event each is.
    pub compared: Option<Compared>,
    /// Columns that cannot be the same.
    pub left_out: Vec<String>,
    /// The table that has the rows.
    pub into: Option<String>,
    /// The commit of those.
    pub snapshot_id: Option<i64>,
}

impl ReplayReport {
    /// Whether the replay says the same as the table, as it must with the same
    /// model and the same definition.
    pub fn ok(&self) -> bool {
        self.compared.as_ref().is_none_or(Compared::is_equal)
    }
}

/// Computes what the stream `name` computed between two bounds once more.
///
/// # Errors
/// What is wrong with the pipeline; `NotFound` when nothing was committed
/// between the bounds, or a snapshot or version that was used is gone; `Data`
/// when the source is another one.
pub async fn replay(workspace: &Workspace, name: &str, options: &ReplayOptions) -> Result<ReplayReport> {
    let program = Arc::new(Program::new(workspace, name).await?);
    let file = program.pipeline.file.display();
    if program.on_close() {
        return Err(Error::invalid(format!(
            "{file}: with `emit = \"on_close\"` it depends on the time of day when an idle partition is not waited for, so a replay need not close the same windows"
        ))
        .hint("replay a stream with `each_event`; or run this one from the beginning into another table"));
    }
    let table = program.table();
    let known = workspace.lake().find(&table)?;
    let (commits, expired) = known.as_ref().map_or(Ok(Default::default()), |t| StreamState::history(t, name))?;
    let recorded = Recorded { commits, expired };
    let stretches = recorded.stretches(options.from.as_ref(), options.to.as_ref())?;
    let Some(newest) = recorded.commits.last().cloned().filter(|_| !stretches.is_empty()) else {
        let positions = recorded.commits.last().map(|commit| commit.committed.positions.clone()).unwrap_or_default();
        return Err(Error::not_found(format!(
            "the stream `{name}` has no commit there: its partitions are at {positions:?} in table `{table}`"
        ))
        .hint(
            "--from and --to are offsets, or times of commits: `SELECT committed_at, summary FROM TABLE.snapshots`",
        ));
    };
    let replay = Replay {
        into: options.into.as_ref().map(|into| target(workspace, &program, into)).transpose()?,
        chosen: options.as_model.as_ref().map(|selector| chosen(workspace, &program, selector)).transpose()?,
        run_id: workspace.new_run_id().to_string(),
        workspace: workspace.clone(),
        options: options.clone(),
        source: newest.committed.source.clone().unwrap_or_default(),
        newest,
        recorded,
        program,
    };
    let done = tokio::task::spawn_blocking(move || replay.run(&stretches)).await;
    done.map_err(|e| Error::internal(format!("the replay stopped with a panic: {e}")))?
}

/// The table for the rows, made or extended.
fn target(workspace: &Workspace, program: &Program, into: &TableName) -> Result<Table> {
    let (lake, pipeline) = (workspace.lake(), &program.pipeline);
    match lake.find(into)? {
        Some(table) => {
            program.output.evolution(&pipeline.file, &table)?;
            program.output.fit(lake, into)
        }
        None => {
            let mut new = program.output.new_table(&pipeline.output);
            new.name = into.clone();
            lake.create_table(&new)
        }
    }
}

/// The version that the caller wants.
fn chosen(workspace: &Workspace, program: &Program, selector: &Selector) -> Result<Arc<Scorer>> {
    let model = program.pipeline.model.as_ref().ok_or_else(|| {
        Error::invalid(format!("{}: the pipeline is a rule and has no [model]", program.pipeline.file.display()))
            .hint("leave `--as-model` out; to try another rule, replay after changing the file")
    })?;
    let resolved = workspace.registry().resolve(&model.name, selector)?;
    Ok(Arc::new(program.scorer_of(workspace, Some(resolved))?))
}

struct Replay {
    workspace: Workspace,
    program: Arc<Program>,
    options: ReplayOptions,
    recorded: Recorded,
    /// What the newest commit says.
    newest: StreamState,
    source: String,
    run_id: String,
    chosen: Option<Arc<Scorer>>,
    into: Option<Table>,
}

/// Where it is.
struct Work {
    flow: Flow,
    comparison: Option<Comparison>,
    restore_arrivals: bool,
    block: Vec<RawPart>,
    /// What has been compared of the stretch at hand: up to these offsets.
    covered: BTreeMap<u32, i64>,
    files: Vec<DataFile>,
    report: ReplayReport,
}

impl Replay {
    fn run(&self, stretches: &[Stretch]) -> Result<ReplayReport> {
        let pipeline = &self.program.pipeline;
        let clock = self.workspace.clock();
        let group = Group { name: format!("insightera-replay-{}", pipeline.name), ..Group::default() };
        let mut source = source::open(&self.workspace.project().dir, &pipeline.source, clock, &group)?;
        if !position::continues(&self.source, source.identity()) {
            return Err(Error::data(format!(
                "the predictions are of `{}`, and [source] is `{}`",
                self.source,
                source.identity()
            ))
            .hint("restore the source: its events are read again"));
        }
        let Some(first) = stretches.first() else { return Err(Error::internal("a replay of nothing")) };
        let mut scorer = self.scorer(&first.facts, None)?;
        let mut join = self.join(&first.facts, None)?;
        let identity = self.source.clone();
        let program = self.program.clone();
        // An erased entity has no rows online any more, and gets none here.
        let erased = ErasedEntities::read(&self.workspace.project().dir)?;
        let (run_id, first_join) = (self.run_id.clone(), join.clone());
        let mut flow = Flow::new(program, clock.clone(), run_id, identity, scorer.clone(), first_join, &erased);
        (flow.kind, flow.placed) = (RowKind::AGAIN, true);
        let report = ReplayReport {
            pipeline: pipeline.name.clone(),
            table: self.program.table().to_string(),
            same_model: self.chosen.is_none(),
            stretches: stretches.len(),
            definition_changed: self.chosen.is_none() && stretches.iter().any(|stretch| self.is_other(&stretch.facts)),
            into: self.options.into.as_ref().map(ToString::to_string),
            ..ReplayReport::default()
        };
        let comparison = match Comparison::new(&self.program, self.left_out(&report, false)) {
            // Rows that cannot be paired can be written all the same.
            Err(_) if self.into.is_some() => None,
            comparison => Some(comparison?),
        };
        let files = matches!(pipeline.source, SourceSettings::Files { .. });
        let restore_arrivals = files && comparison.as_ref().is_some_and(Comparison::knows_arrivals);
        let (block, covered, files_written) = Default::default();
        let mut work = Work { flow, comparison, restore_arrivals, block, covered, files: files_written, report };
        if files && !restore_arrivals && work.comparison.is_some() {
            work.comparison = Some(Comparison::new(&self.program, self.left_out(&work.report, true))?);
        }
        work.report.left_out = work.comparison.as_ref().map(|c| c.left_out.clone()).unwrap_or_default();
        if work.report.definition_changed {
            self.warn(&format!(
                "{}: events, windows, [join], [features] or [output] are not those of the recorded rows, so rows may differ",
                pipeline.file.display()
            ));
        }
        let mut positions = self.begin(source.as_mut(), &mut work.flow, stretches)?;
        for stretch in stretches {
            scorer = self.scorer(&stretch.facts, Some(&scorer))?;
            join = self.join(&stretch.facts, join)?;
            work.report.versions.insert(scorer.version.clone());
            work.flow.scorer = scorer.clone();
            work.flow.join.clone_from(&join);
            work.flow.then = Some(stretch.timestamp);
            for (partition, (lo, hi)) in &stretch.ranges {
                work.report.ranges.entry(*partition).or_insert((*lo, *hi)).1 = *hi;
            }
            self.read(source.as_mut(), stretch, &mut positions, &mut work)?;
        }
        let snapshot_id = self.write(&work.files, stretches)?;
        let compared = work.comparison.map(|comparison| comparison.compared);
        Ok(ReplayReport { compared, snapshot_id, ..work.report })
    }

    fn warn(&self, text: &str) {
        if let Some(warn) = &self.options.on_warning {
            warn(text);
        }
    }

    /// Whether the pipeline is another by now than the one that made some rows.
    fn is_other(&self, facts: &Facts) -> bool {
        let sha256 = facts.model.as_ref().map(|(_, sha256)| sha256.as_str());
        format!("{:016x}", self.program.definition_hash(sha256)) != facts.definition_hash
    }

    /// The model of some rows.
    fn scorer(&self, facts: &Facts, before: Option<&Arc<Scorer>>) -> Result<Arc<Scorer>> {
        if let Some(chosen) = &self.chosen {
            return Ok(chosen.clone());
        }
        let Some((name, sha256)) = &facts.model else {
            return match before.filter(|before| before.resolved.is_none()) {
                Some(before) => Ok(before.clone()),
                None => Ok(Arc::new(self.program.scorer_of(&self.workspace, None)?)),
            };
        };
        let same = |before: &&Arc<Scorer>| {
            before.resolved.as_ref().is_some_and(|model| model.name == *name && model.sha256 == *sha256)
        };
        // Two versions may be one artifact; the row names the version.
        if let Some(before) = before.filter(same).filter(|before| before.version == facts.version) {
            return Ok(before.clone());
        }
        let version = facts.version.parse().map_err(|e| {
            Error::data(format!("a commit says that version `{}` of model `{name}` scored", facts.version)).cause(e)
        })?;
        let resolved = self.workspace.registry().resolve(name, &Selector::Version(version))?;
        if resolved.sha256 != *sha256 {
            return Err(Error::data(format!(
                "model `{name}` version {version} is {}, and {sha256} scored",
                resolved.sha256
            ))
            .hint("the registry is another one; `--as-model` scores with a version of this one"));
        }
        Ok(Arc::new(self.program.scorer_of(&self.workspace, Some(resolved))?))
    }

    /// The features of some rows.
    fn join(&self, facts: &Facts, before: Option<Arc<JoinTable>>) -> Result<Option<Arc<JoinTable>>> {
        let Some(join) = &self.program.join else { return Ok(None) };
        let same = |before: &Arc<JoinTable>| as_read(&before.inputs) == as_read(&facts.inputs);
        if let Some(before) = before.filter(same) {
            return Ok(Some(before));
        }
        let loaded = Handle::current().block_on(join.load_again(&self.workspace, &facts.inputs))?;
        Ok(Some(Arc::new(loaded)))
    }

    /// Output columns that no replay can have equal: times of prediction and,
    /// where they are not known any more, of arrival; with another model or
    /// definition what it is called.
    fn left_out(&self, report: &ReplayReport, arrivals: bool) -> Vec<String> {
        let uses = |expression: &Arc<dyn PhysicalExpr>, names: &BTreeSet<String>| {
            collect_columns(expression).iter().any(|column| names.contains(column.name()))
        };
        let mut never: BTreeSet<String> =
            ["prediction_timestamp", "prediction_date", "inference_type"].map(str::to_owned).into();
        let mut hash = false;
        if arrivals {
            never.insert("arrival_timestamp".to_owned());
            for ((name, _), feature) in self.program.pipeline.features.iter().zip(&self.program.features) {
                if uses(feature.physical(), &never) {
                    never.insert(name.clone());
                    hash = true;
                }
            }
        }
        let other = !report.same_model || report.definition_changed;
        if other {
            never.insert("model_version".to_owned());
        }
        let output = &self.program.output;
        let columns = output.columns.iter().filter(|column| uses(&column.physical, &never));
        let mut left_out: Vec<String> = columns.map(|column| column.column.name.clone()).collect();
        if other {
            left_out.push("definition_hash".to_owned());
        }
        if hash || !report.same_model {
            left_out.push("feature_hash".to_owned());
        }
        left_out
    }

    /// The windows before the first event of each partition, and where reading
    /// it begins.
    fn begin(&self, source: &mut dyn Source, flow: &mut Flow, stretches: &[Stretch]) -> Result<BTreeMap<u32, i64>> {
        let known = source.partitions(&self.newest.partitions)?;
        let mut firsts: BTreeMap<u32, i64> = BTreeMap::new();
        for (partition, (lo, _)) in stretches.iter().flat_map(|stretch| &stretch.ranges) {
            firsts.entry(*partition).or_insert(*lo);
        }
        let mut positions = BTreeMap::new();
        for (partition, lo) in firsts {
            let Some(found) = known.get(&partition) else {
                return Err(Error::data(format!("`{}` has no partition {partition} any more", self.source)));
            };
            if found.start > lo {
                return Err(Error::data(format!(
                    "partition {partition} of `{}` begins at offset {} by now, and the replay at {lo}: events were removed",
                    self.source, found.start
                ))
                .hint("begin later with --from"));
            }
            let begun = self.newest.begun.get(&partition).copied().unwrap_or(i64::MIN);
            let from = self.windows(flow, partition, lo, found.start.max(begun))?;
            self.judged_before(flow, partition, from)?;
            positions.insert(partition, from);
        }
        Ok(positions)
    }

    /// Where a partition is read from, so that its windows are right at `lo`.
    fn windows(&self, flow: &mut Flow, partition: u32, lo: i64, start: i64) -> Result<i64> {
        let Some(windows) = &self.program.windows else { return Ok(lo) };
        let now = self.workspace.clock().now_micros();
        let mut assign = |state| flow.states.assign(state, now).map_err(|e| refused(e, "windows"));
        let begun = self.recorded.first(partition).unwrap_or(start);
        if lo > begun || (self.recorded.expired && begun > start) {
            let checkpoints = Checkpoints::new(self.workspace.lake(), &self.program.pipeline.name);
            for (commit, position) in self.recorded.before(partition, lo) {
                let files = commit.checkpoints.get(&partition).map(Vec::as_slice).unwrap_or_default();
                // Alerts are not told again.
                let mut remembered = Remembered::new(self.program.remembers_as());
                let restored = checkpoints.restore(Some((&windows.plan, false)), partition, files, &mut remembered);
                // Of other windows, or files that are gone: an older one, or the events themselves.
                if let Ok(Some(state)) = restored
                    && state.next_offset() <= position
                    && position >= start
                {
                    assign(state)?;
                    return Ok(position);
                }
            }
        }
        if start > begun || (self.recorded.expired && begun > start && lo >= begun) {
            self.warn(&format!(
                "partition {partition} is read from offset {start}, since there is no window state before offset {lo}; \
                 the stream may have read events before it that are not there any more"
            ));
        }
        // The stream began there, and not before.
        let from = if self.recorded.expired { start } else { start.max(begun) };
        let state = PartitionState::new(&windows.plan, false, partition, from).map_err(|e| refused(e, "windows"))?;
        assign(state)?;
        Ok(from)
    }

    /// Events that became dead letters are judged as they were.
    fn judged_before(&self, flow: &mut Flow, partition: u32, from: i64) -> Result<()> {
        let Some(dead) = self.program.sides.first() else { return Ok(()) };
        if self.workspace.lake().find(&dead.name)?.is_none() {
            return Ok(());
        }
        let name = &self.program.pipeline.name;
        let verdicts = set_aside::verdicts(&self.workspace, &dead.name, name, partition, (from, from));
        flow.judge_again(partition, &Handle::current().block_on(verdicts)?);
        Ok(())
    }

    /// Reads the events of a stretch.
    fn read(
        &self,
        source: &mut dyn Source,
        stretch: &Stretch,
        positions: &mut BTreeMap<u32, i64>,
        work: &mut Work,
    ) -> Result<()> {
        let mut at: BTreeMap<u32, i64> = stretch.ranges.keys().map(|p| (*p, positions[p])).collect();
        source.assign(&at)?;
        work.covered = stretch.ranges.iter().map(|(partition, (lo, _))| (*partition, *lo)).collect();
        for (partition, (lo, _)) in &stretch.ranges {
            // What comes before only goes into the windows.
            work.flow.silent_until.insert(*partition, *lo);
        }
        let (mut quiet, mut events, mut bytes) = (0, 0, 0);
        while at.iter().any(|(partition, position)| *position < stretch.ranges[partition].1) {
            let parts = source.poll(POLL_BYTES, POLL_WAIT)?;
            quiet = if parts.is_empty() { quiet + 1 } else { 0 };
            if quiet > QUIET_POLLS && source.at_end()? {
                let left = at.iter().find(|(partition, position)| **position < stretch.ranges[*partition].1);
                let (partition, position) = left.map_or((0, 0), |(partition, position)| (*partition, *position));
                return Err(Error::data(format!(
                    "partition {partition} of `{}` ends at offset {position}, and the stream has read it up to {}",
                    self.source, stretch.ranges[&partition].1
                ))
                .hint("the source lost events, or is not what it was"));
            }
            work.flow.learn_patiently(&parts)?;
            for part in parts {
                let (Some((lo, hi)), Some(position)) =
                    (stretch.ranges.get(&part.partition), at.get_mut(&part.partition))
                else {
                    continue;
                };
                if *position >= *hi {
                    continue;
                }
                *position = part.next_offset;
                let silent = part.between(i64::MIN, *lo);
                if !silent.is_empty() {
                    work.flow.process(&[silent])?;
                }
                let part = part.between(*lo, *hi);
                if !part.is_empty() {
                    work.flow.silent_until.remove(&part.partition);
                    events += part.len();
                    bytes += part.payload.len();
                    work.block.push(part);
                }
            }
            if events >= BLOCK_EVENTS || bytes >= BLOCK_BYTES {
                self.score(work, stretch, &at)?;
                (events, bytes) = (0, 0);
            }
        }
        self.score(work, stretch, &at)?;
        for (partition, (_, hi)) in &stretch.ranges {
            work.flow.silent_until.remove(partition);
            positions.insert(*partition, *hi);
        }
        Ok(())
    }

    /// Scores the events of the block, which goes up to `at`.
    fn score(&self, work: &mut Work, stretch: &Stretch, at: &BTreeMap<u32, i64>) -> Result<()> {
        let block = std::mem::take(&mut work.block);
        let mut ranges: BTreeMap<u32, (i64, i64)> = BTreeMap::new();
        for (partition, from) in &mut work.covered {
            let to = at[partition].min(stretch.ranges[partition].1);
            if *from < to {
                ranges.insert(*partition, (*from, to));
                *from = to;
            }
        }
        if ranges.is_empty() {
            return Ok(());
        }
        let online = match &work.comparison {
            None => None,
            Some(comparison) => Some(Handle::current().block_on(comparison.online(&self.workspace, &ranges))?),
        };
        if let (true, Some(online)) = (work.restore_arrivals, &online) {
            work.flow.arrivals.extend(online.arrivals()?);
        }
        let (mut rows, mut places) = (Vec::new(), Vec::new());
        for part in block {
            let output = work.flow.process(std::slice::from_ref(&part))?;
            work.report.counts.add(output.counts);
            rows.extend(output.rows);
            places.extend(output.places);
        }
        if let (Some(comparison), Some(online)) = (&mut work.comparison, &online) {
            comparison.take(&rows, &places, online)?;
        }
        if let Some(table) = &self.into {
            work.files.extend(write_rows(table, rows, &self.program.pipeline.entity_key)?);
        }
        Ok(())
    }

    /// Commits the rows, as no progress of the pipeline.
    fn write(&self, files: &[DataFile], stretches: &[Stretch]) -> Result<Option<i64>> {
        let Some(table) = self.into.as_ref().filter(|_| !files.is_empty()) else { return Ok(None) };
        let mut change = Change::append(table, files.to_vec());
        let newest = stretches.iter().map(|stretch| stretch.timestamp).max().unwrap_or_default();
        let mut summary = BTreeMap::from([
            (keys::RUN_ID.to_owned(), self.run_id.clone()),
            (keys::AS_OF_PIPELINE.to_owned(), self.program.pipeline.name.clone()),
            (keys::AS_OF.to_owned(), newest.to_string()),
        ]);
        if let Some(model) = self.chosen.as_ref().and_then(|chosen| chosen.resolved.as_ref()) {
            summary.insert(keys::MODEL.to_owned(), model.name.clone());
            summary.insert(keys::MODEL_VERSION.to_owned(), model.version.to_string());
            summary.insert(keys::MODEL_SHA256.to_owned(), model.sha256.clone());
        }
        change.summary.extend(summary);
        match commit(self.workspace.lake(), &change)? {
            Outcome::Committed { snapshot_id, .. } => Ok(Some(snapshot_id)),
            Outcome::Stale { .. } => Err(Error::internal("an append without a condition was stale")),
        }
    }
}

/// What decides the rows of the inputs.
fn as_read(inputs: &BTreeMap<String, Consumed>) -> Vec<(&String, String)> {
    let read = |consumed: &Consumed| match consumed {
        Consumed::Iceberg { uuid, snapshot_id } => format!("{uuid} {snapshot_id:?}"),
        Consumed::Parquet { fingerprint, .. } => fingerprint.clone(),
    };
    inputs.iter().map(|(name, consumed)| (name, read(consumed))).collect()
}
