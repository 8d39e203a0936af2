//! Intervals into tables: side tables first, the prediction table last, each
//! with the positions of its own, so that every row is there exactly once.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use insightera_core::stream::position::{self, Act, Claim, Decision, Intent};
use serde_json::Value;
use uuid::Uuid;

use super::checkpoints::{self, Pending};
use super::flow::SideRows;
use super::live::Sent;
use super::metrics::Times;
use super::program::{Program, Scorer};
use super::starts::{Offsets, starts};
use crate::lake::commit::{Change, Samples, StreamMove, StreamOutcome, StreamState, commit_stream, samples_of};
use crate::lake::faults::{self, Bug};
use crate::lake::writer::{TableWriter, WriteOptions};
use crate::lake::{Lake, Table, TableName, keys};
use crate::notify::Delivery;
use crate::score::{Consumed, write_rows};
use crate::{Error, Result};

/// Tries to take partitions over against others that take them as well.
const TAKEOVERS: usize = 10;
/// The longest pause between two tries of a commit.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What goes into one commit.
#[derive(Debug)]
pub struct Interval {
    /// Partition to where it begins and where it ends.
    pub ranges: BTreeMap<u32, (i64, i64)>,
    /// Rows of the prediction table.
    pub rows: Vec<RecordBatch>,
    /// When each of them arrived and was predicted.
    pub times: Vec<Times>,
    /// Rows of side tables.
    pub sides: Vec<SideRows>,
    /// What its partitions are known by at its end, where that is news.
    pub described: BTreeMap<u32, Value>,
    /// The state of the windows at its end.
    pub states: Vec<Pending>,
    /// Hashes of some of the keys of its partitions, for others to look for.
    pub samples: Samples,
    /// What scored.
    pub scorer: Arc<Scorer>,
    /// What was joined.
    pub inputs: BTreeMap<String, Consumed>,
    /// The newest prediction time, microseconds since the epoch.
    pub timestamp: i64,
    /// Its predictions on their way to the receiver of [live].
    pub sent: Option<Sent>,
    /// Its alerts on their way to notifiers.
    pub notices: Delivery,
}

impl Interval {
    /// Nothing yet, after predictions at `timestamp`.
    pub fn new(scorer: Arc<Scorer>, timestamp: i64) -> Self {
        let (ranges, rows, times, sides, described, states, samples, inputs) = Default::default();
        let (sent, notices) = Default::default();
        Self { ranges, rows, times, sides, described, states, samples, scorer, inputs, timestamp, sent, notices }
    }

    /// Bytes of its predictions.
    pub fn bytes(&self) -> usize {
        self.rows.iter().map(RecordBatch::get_array_memory_size).sum()
    }
}

/// What was committed.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The positions in the prediction table now.
    pub positions: BTreeMap<u32, i64>,
    /// Its snapshot.
    pub snapshot_id: i64,
    /// Hashes of some of the keys of other processes' partitions.
    pub samples: Samples,
    /// When that was, microseconds since the epoch.
    pub committed_at: i64,
    /// The newest prediction in it, if there is one, microseconds since the
    /// epoch.
    pub predicted_until: Option<i64>,
    /// Data files of it, those of side tables with them.
    pub files: usize,
    /// Seconds that it took.
    pub seconds: f64,
}

/// A commit of the prediction table.
struct Written {
    snapshot_id: i64,
    committed_at: i64,
    files: usize,
}

/// What a process owns in one table.
#[derive(Debug, Clone)]
struct Owned {
    name: TableName,
    uuid: Uuid,
    positions: BTreeMap<u32, i64>,
    epochs: BTreeMap<u32, u64>,
    /// Hashes of some of the keys of others' partitions.
    others: Samples,
}

/// What a commit says of its partitions beside their positions.
#[derive(Debug, Default)]
struct Beside {
    partitions: BTreeMap<u32, Value>,
    checkpoints: BTreeMap<u32, Vec<String>>,
    samples: Samples,
}

/// Writes and commits, one interval after the other.
#[derive(Debug)]
pub struct Committer {
    lake: Lake,
    program: Arc<Program>,
    run_id: String,
    source: String,
    erasures: u64,
    main: Option<Owned>,
    sides: Vec<Owned>,
    chains: BTreeMap<u32, Vec<String>>,
    /// Dead letters of events that are read again, since an accident came
    /// between their commit and that of the predictions.
    dead: HashSet<(u32, i64)>,
    /// Counted with [`Bug::RestartedIntents`] alone.
    intents: u64,
}

impl Committer {
    /// Owns nothing yet.
    pub fn new(lake: &Lake, program: Arc<Program>, run_id: String) -> Self {
        let source = String::new();
        let (main, sides, chains, dead) = Default::default();
        Self { lake: lake.clone(), program, run_id, source, erasures: 0, main, sides, chains, dead, intents: 0 }
    }

    /// The newest erasure that the rows respect.
    pub fn respecting(&mut self, erasures: u64) {
        self.erasures = erasures;
    }

    /// What the positions are positions of.
    pub fn of_source(&mut self, identity: &str) {
        identity.clone_into(&mut self.source);
    }

    /// Before partitions are looked at by their numbers: whether the positions
    /// of the prediction table are of this source.
    ///
    /// # Errors
    /// `Data` when they are of another one.
    pub fn check_source(&self, state: &StreamState) -> Result<()> {
        match &state.committed.source {
            Some(found) if !position::continues(found, &self.source) => {
                let (wanted, found) = (self.source.clone(), found.clone());
                Err(fatal(&self.program.table(), &position::Reason::SourceReplaced { wanted, found }))
            }
            _ => Ok(()),
        }
    }

    /// Makes or extends the tables, and says what the prediction table says.
    ///
    /// # Errors
    /// When a table cannot be made, or is another kind of table.
    pub fn prepare(&self) -> Result<(Table, StreamState)> {
        let output = &self.program.output;
        let name = self.program.table();
        let table = match self.lake.find(&name)? {
            Some(table) => {
                output.evolution(&self.program.pipeline.file, &table)?;
                output.fit(&self.lake, &name)?
            }
            None => {
                let mut new = output.new_table(&self.program.pipeline.output);
                for (key, value) in super::table_properties() {
                    new.properties.entry(key).or_insert(value);
                }
                self.lake.create_table(&new)?
            }
        };
        for side in &self.program.sides {
            self.lake.create_table(side)?;
        }
        let state = StreamState::read(&table, &self.program.pipeline.name)?;
        Ok((table, state))
    }

    /// Takes partitions over in all tables: raises their epochs, so that who
    /// had them cannot commit any more. `own` are those, with their first
    /// events; `begins` is asked where topics are begun, when one of them has no
    /// position. Answers the positions to go on from.
    ///
    /// # Errors
    /// When a table's positions are of another source, or others keep taking
    /// the partitions.
    pub fn acquire(
        &mut self,
        own: &Offsets,
        descriptions: &BTreeMap<u32, Value>,
        begins: &mut dyn FnMut() -> Result<Vec<Offsets>>,
    ) -> Result<StreamState> {
        let name = self.program.table();
        let (mut owned, state) = self.acquire_in(&name, own, descriptions, begins)?;
        let positions: BTreeMap<u32, i64> = owned.positions.clone();
        if let Some(before) = self.main.take() {
            owned = joined(before, owned);
        }
        self.main = Some(owned);
        let names: Vec<TableName> = self.program.sides.iter().map(|side| side.name.clone()).collect();
        for (index, name) in names.iter().enumerate() {
            let (owned, _) = self.acquire_in(name, &positions, &BTreeMap::new(), &mut || Ok(Vec::new()))?;
            match self.sides.get_mut(index) {
                Some(before) => *before = joined(before.clone(), owned),
                None => self.sides.push(owned),
            }
        }
        for (partition, files) in &state.checkpoints {
            if own.contains_key(partition) {
                self.chains.insert(*partition, files.clone());
            }
        }
        Ok(state)
    }

    fn acquire_in(
        &self,
        name: &TableName,
        own: &Offsets,
        descriptions: &BTreeMap<u32, Value>,
        begins: &mut dyn FnMut() -> Result<Vec<Offsets>>,
    ) -> Result<(Owned, StreamState)> {
        let pipeline = &self.program.pipeline.name;
        let mut asked: Option<Vec<Offsets>> = None;
        for _ in 0..TAKEOVERS {
            let table = self.lake.table(name)?;
            let state = StreamState::read(&table, pipeline)?;
            let id = Uuid::new_v4().to_string();
            let known = &state.committed.positions;
            if asked.is_none() && own.keys().any(|partition| !known.contains_key(partition)) {
                asked = Some(begins()?);
            }
            let starts = starts(known, own, asked.as_deref().unwrap_or_default());
            let intent = position::acquire(&state.committed, id, self.source.clone(), &starts.all)
                .map_err(|reason| fatal(name, &reason))?;
            let (partitions, checkpoints) = (descriptions.clone(), BTreeMap::new());
            let (begun, samples) = (starts.begun, BTreeMap::new());
            let moved = StreamMove { pipeline: pipeline.clone(), intent, partitions, begun, checkpoints, samples };
            let mut change = Change::append(&table, Vec::new());
            change.summary.insert(keys::RUN_ID.into(), self.run_id.clone());
            if let Some(timestamp) = state.timestamp {
                change.summary.insert(keys::TIMESTAMP.into(), timestamp.to_string());
            }
            match commit_stream(&self.lake, &change, &moved)? {
                StreamOutcome::Committed { table, .. } => {
                    // Of the others it only says where they begin.
                    let claims = moved.intent.claims.iter().filter(|(partition, _)| own.contains_key(partition));
                    let owned = Owned {
                        name: name.clone(),
                        uuid: table.metadata().uuid(),
                        positions: claims.clone().map(|(partition, claim)| (*partition, claim.lo)).collect(),
                        epochs: claims.map(|(partition, claim)| (*partition, claim.epoch)).collect(),
                        others: Samples::new(),
                    };
                    return Ok((owned, StreamState::read(&table, pipeline)?));
                }
                StreamOutcome::Refused(Decision::Fatal(reason)) => return Err(fatal(name, &reason)),
                StreamOutcome::Refused(_) | StreamOutcome::Erased => {}
            }
        }
        Err(Error::conflict(format!("other processes kept taking the partitions of `{pipeline}` in table `{name}`"))
            .hint("give every process partitions of its own with --partitions"))
    }

    /// These events, which are read again, are dead letters already.
    pub fn dead_already(&mut self, places: impl Iterator<Item = (u32, i64)>) {
        self.dead.extend(places);
    }

    /// Gives partitions up: what they are at is another process's business.
    pub fn release(&mut self, partitions: &[u32]) {
        for partition in partitions {
            self.chains.remove(partition);
            self.dead.retain(|(of, _)| of != partition);
            for owned in self.main.iter_mut().chain(&mut self.sides) {
                owned.positions.remove(partition);
                owned.epochs.remove(partition);
            }
        }
    }

    /// Where a partition, or what has a number like one, is in the last side
    /// table.
    pub fn last_side_position(&self, partition: u32) -> Option<i64> {
        self.sides.last()?.positions.get(&partition).copied()
    }

    /// How far the dead letters of a partition are.
    pub fn dead_letters_position(&self, partition: u32) -> Option<i64> {
        self.sides.first()?.positions.get(&partition).copied()
    }

    /// Commits an interval: when it answers, every row of it is in its table.
    ///
    /// # Errors
    /// `Conflict` when someone else owns a partition now; other errors that
    /// trying again does not mend. `keep_trying` is asked before another try.
    pub fn commit(&mut self, interval: &Interval, keep_trying: &dyn Fn(u32) -> bool) -> Result<Committed> {
        let start = self.lake.clock().monotonic_seconds();
        let (mut side_files, predictions_first) = (0, faults::bug(Bug::PredictionsFirst));
        if !predictions_first {
            side_files = self.commit_sides(interval, keep_trying)?;
        }
        let Written { snapshot_id, committed_at, files } = self.commit_predictions(interval, keep_trying)?;
        if predictions_first {
            side_files = self.commit_sides(interval, keep_trying)?;
        }
        Ok(Committed {
            positions: self.main.as_ref().map(|main| main.positions.clone()).unwrap_or_default(),
            snapshot_id,
            samples: self.main.as_ref().map(|main| main.others.clone()).unwrap_or_default(),
            committed_at,
            predicted_until: (!interval.times.is_empty()).then_some(interval.timestamp),
            files: side_files + files,
            seconds: self.lake.clock().monotonic_seconds() - start,
        })
    }

    /// Answers how many data files that are.
    fn commit_sides(&mut self, interval: &Interval, keep_trying: &dyn Fn(u32) -> bool) -> Result<usize> {
        let mut written = 0;
        // The dead letters first: when the events are read again, those of them that were too far in the future are
        // judged by the arrivals that stand there, and the others with them. Then the last one: what a replay is of
        // is known before anything of it is there, and a replay has no dead letters.
        let mut order: Vec<usize> = (0..self.sides.len()).rev().collect();
        if !faults::bug(Bug::DeadLettersLast) {
            order.rotate_right(1);
        }
        for side in order {
            let mut owned = self.sides[side].clone();
            let mut batches = Vec::new();
            for rows in interval.sides.iter().filter(|rows| rows.side == side) {
                // After an accident the side table may be ahead. Of the dead letters it is known which: what
                // becomes one only when it is read again is there once as well.
                let new = |place: &(u32, i64)| {
                    faults::bug(Bug::RepeatSideRows)
                        || owned.positions.get(&place.0).is_none_or(|position| place.1 >= *position)
                        || (side == 0 && !self.dead.contains(place))
                };
                let wanted: BooleanArray = rows.places.iter().map(|place| Some(new(place))).collect();
                let rows = filter_record_batch(&rows.rows, &wanted)
                    .map_err(|e| Error::internal(format!("rows of a side table: {e}")).cause(e))?;
                if rows.num_rows() > 0 {
                    batches.push(rows);
                }
            }
            if batches.is_empty() {
                continue;
            }
            let table = self.patiently(keep_trying, || self.lake.table(&owned.name))?;
            same_table(&table, &owned)?;
            let mut writer = TableWriter::new(&table, WriteOptions::default())?;
            batches.iter().try_for_each(|batch| writer.write(batch))?;
            let files = writer.finish()?;
            written += files.len();
            let mut change = Change::append(&table, files);
            change.erasures = Some(self.erasures);
            change.summary.insert(keys::RUN_ID.into(), self.run_id.clone());
            self.count(&mut change);
            let claims = self.claims(&owned, interval);
            self.retry(&mut owned, &change, claims, &Beside::default(), keep_trying)?;
            self.sides[side] = owned;
        }
        Ok(written)
    }

    fn commit_predictions(&mut self, interval: &Interval, keep_trying: &dyn Fn(u32) -> bool) -> Result<Written> {
        let Some(mut owned) = self.main.clone() else { return Err(Error::internal("a commit without a table")) };
        for (partition, base, name) in checkpoints::write(&self.lake, &self.program.pipeline.name, &interval.states)? {
            let chain = self.chains.entry(partition).or_default();
            if base {
                chain.clear();
            }
            chain.push(name);
        }
        let states = interval.states.iter().map(|state| state.partition);
        let chains = states.filter_map(|p| Some((p, self.chains.get(&p)?.clone()))).collect();
        let table = self.patiently(keep_trying, || self.lake.table(&owned.name))?;
        same_table(&table, &owned)?;
        let files = write_rows(&table, interval.rows.clone(), &self.program.pipeline.entity_key)?;
        let written = files.len();
        let mut change = Change::append(&table, files);
        change.erasures = Some(self.erasures);
        let scorer = &interval.scorer;
        let model = scorer.resolved.as_ref();
        let inputs = serde_json::to_string(&interval.inputs)
            .map_err(|e| Error::internal(format!("inputs have no JSON form: {e}")))?;
        let optional = [
            (keys::RUN_ID, Some(self.run_id.clone())),
            (keys::INPUTS, Some(inputs)),
            (keys::MODEL, model.map(|model| model.name.clone())),
            (keys::MODEL_VERSION, Some(scorer.version.clone())),
            (keys::MODEL_SHA256, model.map(|model| model.sha256.clone())),
            (keys::DEFINITION_HASH, Some(format!("{:016x}", scorer.definition_hash))),
            (keys::TIMESTAMP, (interval.timestamp > i64::MIN).then(|| interval.timestamp.to_string())),
        ];
        change.summary.extend(optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
        self.count(&mut change);
        let claims = self.claims(&owned, interval);
        let beside =
            Beside { partitions: interval.described.clone(), checkpoints: chains, samples: interval.samples.clone() };
        let (snapshot_id, committed_at) = self.retry(&mut owned, &change, claims, &beside, keep_trying)?;
        self.main = Some(owned);
        Ok(Written { snapshot_id, committed_at, files: written })
    }

    fn count(&mut self, change: &mut Change) {
        if faults::bug(Bug::RestartedIntents) {
            self.intents += 1;
            change.intent_id = format!("{}-{}", self.program.pipeline.name, self.intents);
        }
    }

    /// What the interval claims in a table: from where that table is.
    fn claims(&self, owned: &Owned, interval: &Interval) -> BTreeMap<u32, Claim> {
        let claim = |(partition, (_, hi)): (&u32, &(i64, i64))| {
            let lo = *owned.positions.get(partition)?;
            let epoch = *owned.epochs.get(partition)?;
            // A side table that is ahead stays where it is.
            Some((*partition, Claim { epoch, lo, hi: lo.max(*hi) }))
        };
        interval.ranges.iter().filter_map(claim).collect()
    }

    /// One intent, tried until it is known to be in the table or refused: its
    /// snapshot, and when that was.
    fn retry(
        &self,
        owned: &mut Owned,
        change: &Change,
        claims: BTreeMap<u32, Claim>,
        beside: &Beside,
        keep_trying: &dyn Fn(u32) -> bool,
    ) -> Result<(i64, i64)> {
        let moved = StreamMove {
            pipeline: self.program.pipeline.name.clone(),
            intent: Intent {
                id: change.intent_id.clone(),
                table: owned.uuid.to_string(),
                source: self.source.clone(),
                act: Act::Append,
                claims,
            },
            partitions: beside.partitions.clone(),
            begun: Offsets::new(),
            checkpoints: beside.checkpoints.clone(),
            samples: beside.samples.clone(),
        };
        // What was sent may be in the table: the same intent again.
        match self.patiently(keep_trying, || commit_stream(&self.lake, change, &moved))? {
            StreamOutcome::Committed { snapshot_id, table } => {
                if !moved.samples.is_empty() {
                    let mut others = samples_of(&table)?;
                    others.retain(|partition, _| !owned.epochs.contains_key(partition));
                    owned.others = others;
                }
                owned.positions.extend(moved.intent.claims.iter().map(|(p, claim)| (*p, claim.hi)));
                // A snapshot that is gone already was made a moment ago.
                let now = || self.lake.clock().now_micros();
                Ok((snapshot_id, table.committed_at(snapshot_id).unwrap_or_else(now)))
            }
            StreamOutcome::Refused(decision) => Err(refused(&owned.name, &decision)),
            StreamOutcome::Erased => Err(Error::conflict(format!(
                "an entity was erased from table `{}` since this process read its events",
                owned.name
            ))
            .hint("start the stream again: it goes on from the last commit, without the entity")),
        }
    }

    /// Asks the catalog again while it is away. Who writes files has tried often
    /// enough: a disk that refuses will not change its mind.
    fn patiently<T>(&self, keep_trying: &dyn Fn(u32) -> bool, work: impl Fn() -> Result<T>) -> Result<T> {
        let (mut pause, mut tries) = (Duration::from_millis(100), 0);
        loop {
            tries += 1;
            match work() {
                Err(error) if error.retryable() && keep_trying(tries) => {
                    self.lake.clock().sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                done => return done,
            }
        }
    }
}

fn joined(mut before: Owned, now: Owned) -> Owned {
    before.positions.extend(now.positions);
    before.epochs.extend(now.epochs);
    before
}

fn same_table(table: &Table, owned: &Owned) -> Result<()> {
    if table.metadata().uuid() == owned.uuid {
        return Ok(());
    }
    Err(Error::data(format!("table `{}` was dropped and made again while the stream wrote it", owned.name))
        .hint("start the stream again: the new table has no positions, so it begins at the source's first event"))
}

fn fatal(name: &TableName, reason: &position::Reason) -> Error {
    let error = Error::data(format!("table `{name}`: {reason}"));
    match reason {
        position::Reason::SourceReplaced { wanted, found } if position::continues(wanted, found) => {
            error.hint("another process reads more topics by now: give this one the same `topics` in [source]")
        }
        position::Reason::SourceReplaced { wanted, .. } if wanted.contains(',') => error
            .hint("topics are added at the end of `topics`, and nothing else of it may change: write to a new table"),
        position::Reason::SourceReplaced { .. } => {
            error.hint("positions of one source mean nothing in another: write to a new table, or restore the source")
        }
        position::Reason::TableReplaced { .. } => error.hint("start the stream again"),
        position::Reason::EpochLost { .. } => error.hint("the table was rolled back: start the stream again"),
        _ => error,
    }
}

fn refused(name: &TableName, decision: &Decision) -> Error {
    match decision {
        Decision::Fatal(reason) => fatal(name, reason),
        Decision::Fenced(epochs) => {
            let partitions: Vec<String> = epochs.keys().map(u32::to_string).collect();
            Error::conflict(format!(
                "another process has taken over the partitions {} of table `{name}`",
                partitions.join(", ")
            ))
            .hint("one process per partition; nothing was lost, the other goes on from the last commit")
        }
        Decision::Rebuild(positions) => {
            Error::conflict(format!("table `{name}` is at {positions:?}, which is not where this process read on from"))
                .hint("start the stream again: it goes on from where the table is")
        }
        Decision::Done | Decision::Proceed(_) => Error::internal(format!("table `{name}` refused without a reason")),
    }
}
