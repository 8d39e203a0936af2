//! Dead letters once more: what can be read and scored now is scored exactly
//! once, and the rest stays where it is.
//!
//! A replayed event has the row that it would have had at its place: its
//! windows are those of the events before it in its partition, so with windows
//! the source is read again from its beginning, silently. Nothing that was
//! written changes, nor do the windows of a stream that runs meanwhile.
//!
//! **Exactly once.** Replays are numbered, and how many are in a table is a
//! position of its own ([`REPLAYS`]), moved by the commit that has the rows and
//! decided like all positions. The table of what was replayed is the first to
//! be committed, the prediction table the last: a replay that ended between the
//! two is done again, of the same events.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use insightera_core::stream::position;
use serde::Serialize;

use super::commit::{Committer, Interval};
use super::flow::{Flow, PollOutput, RowKind, SideRows};
use super::join::JoinTable;
use super::program::{Program, Scorer};
use super::set_aside::{self, Letter, Outcome, Places};
use super::source::{self, Group, RawPart, Source};
use super::states::{PartitionState, REPLAYS};
use super::windows::refused;
use crate::erase::ErasedEntities;
use crate::lake::TableName;
use crate::lake::commit::StreamState;
use crate::notify::Warn;
use crate::workspace::Workspace;
use crate::{Error, Result};

/// Bytes of a poll, and how long it waits.
const POLL_BYTES: usize = 4 << 20;
const POLL_WAIT: Duration = Duration::from_millis(50);
/// Events of a poll that are made of dead letters.
const POLL_LETTERS: usize = 16 * 1024;
/// Polls without an event after which the source has none of those that were
/// set aside.
const QUIET_POLLS: u32 = 100;
/// Tries of a commit.
const TRIES: u32 = 10;
/// Dead letters that stay, of which the reason is told.
const TOLD: usize = 3;

/// What a replay did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ReplaySummary {
    /// The pipeline.
    pub pipeline: String,
    /// Dead letters that no replay had taken.
    pub letters: u64,
    /// Those that have a prediction now.
    pub scored: u64,
    /// Those that are late events now.
    pub late: u64,
    /// Those that the filter took out.
    pub filtered: u64,
    /// Those that stay, because they still cannot be read.
    pub unreadable: u64,
    /// The commit; none when nothing was to be done.
    pub snapshot_id: Option<i64>,
}

type Letters = BTreeMap<(u32, i64), Letter>;

/// Events read again, and what they gave.
#[derive(Default)]
struct Again {
    output: Vec<PollOutput>,
    places: Places,
    unread: Vec<String>,
}

/// Scores the dead letters of the stream `name` that can be read now.
///
/// # Errors
/// What is wrong with the pipeline; `Conflict` when another replay runs;
/// `Data` when events of a replay that was interrupted cannot be read any more.
pub async fn replay_dead_letters(workspace: &Workspace, name: &str, warn: Option<&Warn>) -> Result<ReplaySummary> {
    let mut program = Program::new(workspace, name).await?;
    let file = program.pipeline.file.display().to_string();
    if program.on_close() {
        return Err(Error::invalid(format!(
            "{file}: with `emit = \"on_close\"` the windows of dead letters have closed"
        ))
        .hint("write a stream with `each_event` to another table, and replay its dead letters"));
    }
    let dead = program.sides[0].name.clone();
    let record = set_aside::replays_table(&dead);
    let replays = record.name.clone();
    program.sides.push(record);
    let program = Arc::new(program);
    let mut total = ReplaySummary { pipeline: name.to_owned(), ..ReplaySummary::default() };
    let Some(state) = state_of(workspace, &program.table(), name)? else { return Ok(total) };
    if workspace.lake().find(&dead)?.is_none() {
        return Ok(total);
    }
    let source = state.committed.source.clone().unwrap_or_default();
    let scorer = Arc::new(program.scorer(workspace)?);
    let join = match &program.join {
        None => None,
        Some(join) => Some(Arc::new(join.load(workspace).await?)),
    };
    // Replays that were recorded and ended before their predictions, then a new one.
    loop {
        let done = replays_in(workspace, &program.table(), name)?;
        let unfinished = (replays_in(workspace, &replays, name)? > done).then_some(done);
        let letters = set_aside::letters(workspace, (&dead, &replays), (name, &source), unfinished).await?;
        total.letters += letters.len() as u64;
        let replay = Replay {
            workspace: workspace.clone(),
            program: program.clone(),
            run_id: workspace.new_run_id().to_string(),
            source: source.clone(),
            number: done,
            unfinished: unfinished.is_some(),
            timestamp: state.timestamp,
            begun: state.begun.clone(),
        };
        let (scorer, join, known) = (scorer.clone(), join.clone(), state.partitions.clone());
        let work = move || replay.run(&letters, scorer, join, &known);
        let done = tokio::task::spawn_blocking(work).await;
        let (snapshot_id, again) =
            done.map_err(|e| Error::internal(format!("the replay stopped with a panic: {e}")))??;
        let count = |wanted| again.places.values().filter(|outcome| **outcome == wanted).count() as u64;
        total.scored += count(Outcome::Scored);
        total.late += count(Outcome::Late);
        total.filtered += count(Outcome::Filtered);
        total.snapshot_id = snapshot_id.or(total.snapshot_id);
        if unfinished.is_some() {
            continue;
        }
        total.unreadable = again.unread.len() as u64;
        if let Some(warn) = warn {
            again.unread.iter().take(TOLD).for_each(|why| warn(why));
        }
        return Ok(total);
    }
}

fn state_of(workspace: &Workspace, table: &TableName, pipeline: &str) -> Result<Option<StreamState>> {
    workspace.lake().find(table)?.map(|table| StreamState::read(&table, pipeline)).transpose()
}

/// How many replays are in a table.
fn replays_in(workspace: &Workspace, table: &TableName, pipeline: &str) -> Result<i64> {
    let state = state_of(workspace, table, pipeline)?;
    Ok(state.and_then(|state| state.committed.positions.get(&REPLAYS).copied()).unwrap_or(0))
}

/// One replay.
struct Replay {
    workspace: Workspace,
    program: Arc<Program>,
    run_id: String,
    source: String,
    number: i64,
    /// Its events are recorded, and no others belong to it.
    unfinished: bool,
    timestamp: Option<i64>,
    /// Where the stream has begun partitions, if not at their first events.
    begun: BTreeMap<u32, i64>,
}

impl Replay {
    fn run(
        &self,
        letters: &Letters,
        scorer: Arc<Scorer>,
        join: Option<Arc<JoinTable>>,
        known: &BTreeMap<u32, serde_json::Value>,
    ) -> Result<(Option<i64>, Again)> {
        if letters.is_empty() && !self.unfinished {
            return Ok((None, Again::default()));
        }
        let clock = self.workspace.clock().clone();
        let inputs = join.as_ref().map(|join| join.inputs.clone()).unwrap_or_default();
        let erased = ErasedEntities::read(&self.workspace.project().dir)?;
        let mut flow = Flow::new(
            self.program.clone(),
            clock,
            self.run_id.clone(),
            self.source.clone(),
            scorer.clone(),
            join,
            &erased,
        );
        flow.timestamp = self.timestamp.unwrap_or(i64::MIN);
        flow.only = Some(letters.keys().copied().collect());
        (flow.kind, flow.placed) = (RowKind::LETTER, true);
        flow.arrivals = letters.iter().map(|(place, letter)| (*place, letter.arrival)).collect();
        let mut again = match self.program.windows {
            None => self.score_letters(&mut flow, letters)?,
            Some(_) => self.read_again(&mut flow, letters, known)?,
        };
        if self.unfinished && again.places.len() < letters.len() {
            return Err(Error::data(format!(
                "replay {} of `{}` was interrupted after it was recorded, and {} of its events cannot be read any more: {}",
                self.number,
                self.program.pipeline.name,
                letters.len() - again.places.len(),
                again.unread.first().map_or("", String::as_str)
            ))
            .hint("bring the pipeline's file back as it was then, and replay again"));
        }
        if again.places.is_empty() && !self.unfinished {
            return Ok((None, again));
        }
        let interval = self.interval(&mut again, scorer, inputs, flow.timestamp)?;
        let mut committer = Committer::new(self.workspace.lake(), self.program.clone(), self.run_id.clone());
        committer.prepare()?;
        committer.respecting(erased.number());
        committer.of_source(&self.source);
        let state = committer.acquire(&BTreeMap::from([(REPLAYS, 0)]), &BTreeMap::new(), &mut || Ok(Vec::new()))?;
        let (at, recorded) =
            (state.committed.positions.get(&REPLAYS).copied(), committer.last_side_position(REPLAYS).unwrap_or(0));
        if at != Some(self.number) || recorded != self.number + i64::from(self.unfinished) {
            return Err(Error::conflict(format!("another replay of `{}` ran meanwhile", self.program.pipeline.name))
                .hint("replay again: what it has scored is not scored twice"));
        }
        let committed = committer.commit(&interval, &|tries| tries < TRIES)?;
        Ok((Some(committed.snapshot_id), again))
    }

    /// Without windows an event needs none before it.
    fn score_letters(&self, flow: &mut Flow, letters: &Letters) -> Result<Again> {
        let mut again = Again::default();
        let places: Vec<_> = letters.keys().copied().collect();
        for places in places.chunks(POLL_LETTERS) {
            let mut parts: BTreeMap<u32, RawPart> = BTreeMap::new();
            places.iter().for_each(|place| push(&mut parts, *place, &letters[place]));
            again.take(flow, &parts.into_values().collect::<Vec<_>>())?;
        }
        Ok(again)
    }

    /// With windows their partitions are read again, up to the last of them.
    fn read_again(
        &self,
        flow: &mut Flow,
        letters: &Letters,
        known: &BTreeMap<u32, serde_json::Value>,
    ) -> Result<Again> {
        let pipeline = &self.program.pipeline;
        let group = Group { name: format!("insightera-replay-{}", pipeline.name), ..Group::default() };
        let mut source = source::open(&self.workspace.project().dir, &pipeline.source, self.workspace.clock(), &group)?;
        if !position::continues(&self.source, source.identity()) {
            return Err(Error::data(format!(
                "the dead letters are of `{}`, and [source] is `{}`",
                self.source,
                source.identity()
            ))
            .hint("restore the source: with windows the events before a dead letter are read again"));
        }
        let ends: BTreeMap<u32, i64> = letters.keys().copied().collect();
        let found = source.partitions(known)?;
        let (mut again, mut early, mut starts) = (Again::default(), BTreeMap::new(), BTreeMap::new());
        for partition in ends.keys() {
            let begun = self.begun.get(partition).copied().unwrap_or(i64::MIN);
            let start = found.get(partition).map_or(i64::MAX, |found| found.start.max(begun));
            // What the source does not keep any more is here.
            let gone = letters.range((*partition, i64::MIN)..(*partition, start));
            gone.for_each(|(place, letter)| push(&mut early, *place, letter));
            let first = early.get(partition).map_or(start, |part: &RawPart| part.offsets[0].min(start));
            if let Some(windows) = &self.program.windows {
                let state = PartitionState::new(&windows.plan, false, *partition, first);
                let state = state.map_err(|e| refused(e, "windows"))?;
                flow.states.assign(state, self.workspace.clock().now_micros()).map_err(|e| refused(e, "windows"))?;
            }
            if start <= ends[partition] {
                starts.insert(*partition, start);
            }
        }
        again.take(flow, &early.into_values().collect::<Vec<_>>())?;
        if !starts.is_empty() {
            source.assign(&starts)?;
            self.drain(source.as_mut(), flow, (&ends, starts), &mut again)?;
        }
        Ok(again)
    }

    /// Reads until behind the last dead letter of each partition.
    fn drain(
        &self,
        source: &mut dyn Source,
        flow: &mut Flow,
        (ends, mut positions): (&BTreeMap<u32, i64>, BTreeMap<u32, i64>),
        again: &mut Again,
    ) -> Result<()> {
        let mut quiet = 0;
        while positions.iter().any(|(partition, position)| *position <= ends[partition]) {
            let mut parts = source.poll(POLL_BYTES, POLL_WAIT)?;
            quiet = if parts.is_empty() { quiet + 1 } else { 0 };
            if quiet > QUIET_POLLS && source.at_end()? {
                break;
            }
            parts.retain(|part| positions.get(&part.partition).is_some_and(|at| *at <= ends[&part.partition]));
            positions.extend(parts.iter().map(|part| (part.partition, part.next_offset)));
            again.take(flow, &parts)?;
        }
        Ok(())
    }

    /// The rows, and the record of what they are of.
    fn interval(
        &self,
        again: &mut Again,
        scorer: Arc<Scorer>,
        inputs: BTreeMap<String, crate::score::Consumed>,
        timestamp: i64,
    ) -> Result<Interval> {
        let mut sides = Vec::new();
        let mut rows = Vec::new();
        for output in again.output.drain(..) {
            rows.extend(output.rows);
            sides.extend(output.sides);
        }
        let now = self.workspace.clock().now_micros();
        let pipeline = &self.program.pipeline.name;
        let record = set_aside::replay_rows(&again.places, pipeline, &self.source, (self.number, now), &self.run_id)?;
        let (side, places) = (self.program.sides.len() - 1, vec![(REPLAYS, self.number); record.num_rows()]);
        sides.push(SideRows { side, rows: record, places });
        // A row of a replay is new where the replay is.
        for side in &mut sides {
            side.places.iter_mut().for_each(|place| *place = (REPLAYS, self.number));
        }
        let ranges = BTreeMap::from([(REPLAYS, (self.number, self.number + 1))]);
        Ok(Interval { ranges, rows, sides, inputs, ..Interval::new(scorer, timestamp) })
    }
}

impl Again {
    fn take(&mut self, flow: &mut Flow, parts: &[RawPart]) -> Result<()> {
        if parts.is_empty() {
            return Ok(());
        }
        flow.learn_patiently(parts)?;
        let output = flow.process(parts)?;
        let Some(only) = &flow.only else { return Ok(()) };
        let unread: HashSet<(u32, i64)> = output.unread.iter().map(|event| (event.partition, event.offset)).collect();
        let scored: HashSet<(u32, i64)> = output.places.iter().copied().collect();
        let late: HashSet<(u32, i64)> = output.late.iter().copied().collect();
        for part in parts {
            for offset in &part.offsets {
                let place = (part.partition, *offset);
                if !only.contains(&place) || unread.contains(&place) {
                    continue;
                }
                let outcome = match (scored.contains(&place), late.contains(&place)) {
                    (true, _) => Outcome::Scored,
                    (_, true) => Outcome::Late,
                    _ => Outcome::Filtered,
                };
                self.places.insert(place, outcome);
            }
        }
        self.unread.extend(
            output
                .unread
                .iter()
                .map(|event| format!("partition {}, offset {}: {}", event.partition, event.offset, event.message)),
        );
        if output.rows.is_some() || !output.sides.is_empty() {
            self.output.push(output);
        }
        Ok(())
    }
}

/// A dead letter as an event of its partition.
fn push(parts: &mut BTreeMap<u32, RawPart>, (partition, offset): (u32, i64), letter: &Letter) {
    let part = parts.entry(partition).or_insert_with(|| RawPart { partition, ..RawPart::default() });
    part.payload.extend_from_slice(&letter.payload);
    part.ends.push(part.payload.len());
    part.keys.extend_from_slice(&letter.key);
    part.key_ends.push(part.keys.len());
    part.offsets.push(offset);
    part.arrivals.push(letter.arrival);
    part.next_offset = offset + 1;
}
