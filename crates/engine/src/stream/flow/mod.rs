//! The hot path: a poll in, rows out. One thread, no locks, columns all the
//! way; all events of a poll are scored by one call.

mod decode;
mod rows;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use insightera_core::Clock;
use insightera_core::stream::{Disposition, EventOutput, QuantileSketch};
use insightera_events::{Drift, Origin, Problem};

use self::decode::Decoded;
use self::rows::{kept, others};
use super::join::JoinTable;
use super::metrics::Times;
use super::program::{Program, Scorer};
use super::remembered::Remembered;
use super::set_aside::{self, SetAside, Verdict};
use super::source::RawPart;
use super::states::{CLOSED, States, process_each};
use crate::erase::{ErasedEntities, Suppressed};
use crate::{Error, Result};

/// Tries to learn a schema, and the pause after the first; later ones are as
/// many times longer.
const LEARN_TRIES: u32 = 8;
const LEARN_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// Polls to rows.
pub struct Flow {
    program: Arc<Program>,
    clock: Arc<dyn Clock>,
    run_id: String,
    source: String,
    /// The windows of the assigned partitions.
    pub states: States,
    /// The alerts that were told, and are not told again.
    pub remembered: Remembered,
    /// Entities whose events are passed over.
    suppressed: Option<Suppressed>,
    /// Watches whether events are what they were, where somebody wants to know.
    pub drift: Option<Drift>,
    out: EventOutput,
    /// The model that scores.
    pub scorer: Arc<Scorer>,
    /// The features that are joined.
    pub join: Option<Arc<JoinTable>>,
    /// The newest prediction time.
    pub timestamp: i64,
    /// Where a partition is only read to build up its windows: until here.
    pub silent_until: BTreeMap<u32, i64>,
    /// When events are read again for the rows of a few: those. Nothing else
    /// has a row, or is set aside.
    pub only: Option<HashSet<(u32, i64)>>,
    /// What the rows say of themselves.
    pub kind: RowKind,
    /// When the rows are predicted, as if it were then; else now.
    pub then: Option<i64>,
    /// Whether the places of rows are wanted.
    pub placed: bool,
    /// The source has nothing more, and nothing more is waited for.
    pub ended: bool,
    /// By partition and offset: arrivals of events that are read again, and
    /// were judged by them.
    pub arrivals: HashMap<(u32, i64), i64>,
    /// The names of partitions that are files.
    pub files: BTreeMap<u32, String>,
    /// Events that are read again, and are dead letters because of a value: they
    /// have no row, whatever their features are now.
    refused: HashSet<(u32, i64)>,
    /// Milliseconds from arrival to prediction.
    pub latency: QuantileSketch,
}

/// What rows say of themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowKind {
    /// Why there is a row for an event.
    pub reason: &'static str,
    /// What `inference_type` says.
    pub inference_type: &'static str,
}

impl RowKind {
    /// Of events as they come.
    pub const EVENT: Self = Self { reason: "event", inference_type: "stream" };
    /// Of dead letters.
    pub const LETTER: Self = Self { reason: "replay", inference_type: "stream" };
    /// Of events that are computed once more, which never count as current.
    pub const AGAIN: Self = Self { reason: "replay", inference_type: crate::score::AS_OF };
}

/// Rows of a side table, and where each comes from.
#[derive(Debug)]
pub struct SideRows {
    /// Which side table.
    pub side: usize,
    /// The rows.
    pub rows: RecordBatch,
    /// Partition and offset of each.
    pub places: Vec<(u32, i64)>,
}

/// What became of the events of polls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Events read.
    pub events: u64,
    /// Predictions.
    pub rows: u64,
    /// Events that the filter took out.
    pub filtered: u64,
    /// Events of entities that were erased: they are passed over.
    pub suppressed: u64,
    /// Late events.
    pub late: u64,
    /// Dead letters.
    pub dead: u64,
    /// Alerts.
    pub alerts: u64,
}

impl Counts {
    /// Adds others.
    pub fn add(&mut self, other: Self) {
        self.events += other.events;
        self.rows += other.rows;
        self.filtered += other.filtered;
        self.suppressed += other.suppressed;
        self.late += other.late;
        self.dead += other.dead;
        self.alerts += other.alerts;
    }
}

/// What a poll gave.
#[derive(Debug, Default)]
pub struct PollOutput {
    /// Rows of the prediction table.
    pub rows: Option<RecordBatch>,
    /// Where each of them comes from, when only a few events have rows or
    /// rows are sent to a topic.
    pub places: Vec<(u32, i64)>,
    /// Where late events come from, likewise.
    pub late: Vec<(u32, i64)>,
    /// Events that were read again in vain.
    pub unread: Vec<SetAside>,
    /// When each of them arrived and was predicted.
    pub times: Vec<Times>,
    /// Rows of side tables.
    pub sides: Vec<SideRows>,
    /// Alerts: name and rows.
    pub alerts: Vec<(String, RecordBatch)>,
    /// The first dead letter, for a person.
    pub dead: Option<String>,
    /// What became of the events.
    pub counts: Counts,
}

impl Flow {
    /// Nothing read yet.
    pub fn new(
        program: Arc<Program>,
        clock: Arc<dyn Clock>,
        run_id: String,
        source: String,
        scorer: Arc<Scorer>,
        join: Option<Arc<JoinTable>>,
        erased: &ErasedEntities,
    ) -> Self {
        let out = match &program.windows {
            Some(windows) if !program.on_close() => windows.plan.event_output(),
            _ => EventOutput { dispositions: Vec::new(), sets: Vec::new() },
        };
        let plan = program.windows.as_ref().map(|windows| &windows.plan);
        let placed = program.pipeline.live.is_some();
        Self {
            states: States::new(plan, program.on_close()),
            remembered: Remembered::new(program.remembers_as()),
            suppressed: erased.of(&program.pipeline.entity_key),
            drift: None,
            program,
            clock,
            run_id,
            source,
            out,
            scorer,
            join,
            timestamp: i64::MIN,
            silent_until: BTreeMap::new(),
            only: None,
            kind: RowKind::EVENT,
            then: None,
            placed,
            ended: false,
            files: BTreeMap::new(),
            arrivals: HashMap::new(),
            refused: HashSet::new(),
            latency: QuantileSketch::default(),
        }
    }

    /// Learns what is needed to read events; without it they may not be
    /// processed.
    ///
    /// # Errors
    /// `Unavailable` while a schema registry is away.
    pub fn learn(&self, parts: &[RawPart]) -> Result<()> {
        self.program.schemas.as_ref().map_or(Ok(()), |schemas| schemas.learn_all(parts))
    }

    /// The same, for those who have nothing else to do meanwhile.
    ///
    /// # Errors
    /// `Unavailable` when the registry stays away.
    pub fn learn_patiently(&self, parts: &[RawPart]) -> Result<()> {
        for tries in 1.. {
            match self.learn(parts) {
                Err(error) if error.retryable() && tries < LEARN_TRIES => std::thread::sleep(LEARN_PAUSE * tries),
                other => return other,
            }
        }
        Ok(())
    }

    /// Watches whether events are what they were. Nobody is quoted where
    /// somebody was erased.
    pub fn watch(&mut self, drift: Option<Drift>) {
        self.drift = drift;
        if let (Some(drift), Some(_)) = (&mut self.drift, &self.suppressed) {
            drift.without_examples();
        }
    }

    /// A closer look at some of the events.
    fn look(&mut self, parts: &[RawPart]) {
        let Some(drift) = &mut self.drift else { return };
        for part in parts {
            for (number, index) in drift.choose(part.len()) {
                let origin = Origin { partition: part.partition, offset: part.offsets[index] };
                drift.look(&self.program.decoder, number, part.payload(index), origin);
            }
        }
    }

    /// Takes in a poll.
    ///
    /// An event with a value that an expression or the model cannot take is set
    /// aside; with `on_close` the row of a closed window is no event, and fails.
    ///
    /// # Errors
    /// When the windows may not grow, or a key comes from two partitions.
    pub fn process(&mut self, parts: &[RawPart]) -> Result<PollOutput> {
        let program = self.program.clone();
        let mut output = PollOutput::default();
        let mut aside: Vec<SetAside> = Vec::new();
        let decoded = self.decode(parts, &mut aside)?;
        output.counts.events = parts.iter().map(|part| self.speaking(part)).sum();
        let decoded = match &program.filter {
            None => decoded,
            Some(condition) => {
                let (decoded, wanted) = self.able(decoded, parts, &mut aside, &|batch| condition.is_true(batch))?;
                let kept = self.count_of(&decoded.batch, &wanted);
                output.counts.filtered = self.count_of(&decoded.batch, &others(&[], wanted.len())) - kept;
                decoded.keep(&wanted)?
            }
        };
        let decoded = self.without_erased(decoded, &mut aside, &mut output.counts)?;
        let (decoded, arguments) = self.able(decoded, parts, &mut aside, &|batch| {
            program.windows.as_ref().map_or(Ok(Vec::new()), |windows| windows.arguments(batch))
        })?;
        let late_from = aside.len();
        let entered = self.windows(&decoded, &arguments, parts, &mut aside)?;
        let late = aside.split_off(late_from);
        self.unsilence(parts);
        if program.on_close() {
            self.close(parts, &mut output)?;
        } else if let Some((batch, windows)) = entered {
            self.score_events(batch, windows, parts, &mut aside, &mut output)?;
        }
        let (late, future): (Vec<_>, Vec<_>) = late.into_iter().partition(|event| event.problem == Problem::Late);
        aside.extend(future);
        (output.counts.dead, output.counts.late) = (aside.len() as u64, late.len() as u64);
        output.dead = aside.first().map(|event| {
            format!(
                "partition {}, offset {}: {}: {}",
                program.pipeline.source.partition_name(event.partition),
                event.offset,
                event.problem.as_str(),
                event.message
            )
        });
        if self.only.is_some() {
            // They are where they were.
            output.unread = std::mem::take(&mut aside);
            output.late = late.iter().map(|event| (event.partition, event.offset)).collect();
        }
        for (side, events) in [(0, aside), (program.late_side, late)] {
            if !events.is_empty() {
                let rows = set_aside::rows(&events, &program.pipeline.name, &self.source, &self.run_id)?;
                let places = events.iter().map(|event| (event.partition, event.offset)).collect();
                output.sides.push(SideRows { side, rows, places });
            }
        }
        Ok(output)
    }

    /// Only events of entities that were not erased; of the others not even a
    /// dead letter is kept that names them.
    fn without_erased(&self, decoded: Decoded, aside: &mut Vec<SetAside>, counts: &mut Counts) -> Result<Decoded> {
        let Some(erased) = &self.suppressed else { return Ok(decoded) };
        let before = aside.len();
        aside.retain(|event| {
            let key = event.key.as_deref().is_some_and(|key| erased.is_text(key));
            !key && !erased.is_mentioned(&event.payload)
        });
        counts.suppressed += (before - aside.len()) as u64;
        let Some(rows) = erased.rows(&decoded.batch)? else { return Ok(decoded) };
        counts.suppressed += rows.iter().filter(|erased| **erased).count() as u64;
        decoded.keep(&rows.into_iter().map(|erased| Some(!erased)).collect())
    }

    /// Forgets a partition that is another process's now.
    pub fn forget(&mut self, partition: u32) {
        if let States::EachEvent(states) = &mut self.states {
            // One that has no windows is no surprise.
            let _ = states.revoke(partition);
        }
        self.remembered.forget(partition);
        self.silent_until.remove(&partition);
        self.refused.retain(|(of, _)| *of != partition);
        self.arrivals.retain(|(of, _), _| *of != partition);
    }

    /// Events of a partition that are read again are judged as they were.
    pub fn judge_again(&mut self, partition: u32, verdicts: &[Verdict]) {
        for verdict in verdicts {
            let place = (partition, verdict.offset);
            if verdict.class == Problem::Future.as_str() {
                self.arrivals.insert(place, verdict.arrival);
            } else if verdict.class == Problem::Value.as_str() {
                self.refused.insert(place);
            }
        }
    }

    fn is_silent(&self, partition: u32, offset: i64) -> bool {
        if let Some(only) = &self.only {
            return !only.contains(&(partition, offset));
        }
        self.silent_until.get(&partition).is_some_and(|until| offset < *until)
    }

    /// How many events of a part are not only read to build up windows.
    fn speaking(&self, part: &RawPart) -> u64 {
        let silent = self.silent_until.get(&part.partition);
        (part.len() - silent.map_or(0, |until| part.offsets.partition_point(|offset| offset < until))) as u64
    }

    /// How many of some rows are.
    fn count_of(&self, batch: &RecordBatch, rows: &BooleanArray) -> u64 {
        if self.silent_until.is_empty() {
            return rows.true_count() as u64;
        }
        let (partitions, offsets) = (batch_partitions(batch), batch_offsets(batch));
        let speaks = |row: &usize| {
            rows.value(*row)
                && self
                    .silent_until
                    .get(&(partitions.value(*row) as u32))
                    .is_none_or(|until| offsets.value(*row) >= *until)
        };
        (0..rows.len()).filter(speaks).count() as u64
    }

    /// Partitions that have come to where they speak.
    fn unsilence(&mut self, parts: &[RawPart]) {
        for part in parts {
            if self.silent_until.get(&part.partition).is_some_and(|until| part.next_offset >= *until) {
                self.silent_until.remove(&part.partition);
            }
        }
    }

    /// The events that entered their windows, with the windows' columns;
    /// others are set aside.
    fn windows(
        &mut self,
        decoded: &Decoded,
        arguments: &[ArrayRef],
        parts: &[RawPart],
        aside: &mut Vec<SetAside>,
    ) -> Result<Option<(RecordBatch, Vec<ArrayRef>)>> {
        let batch = &decoded.batch;
        if batch.num_rows() == 0 {
            return Ok(None);
        }
        let program = self.program.clone();
        let (mut columns, complete, dispositions): (Vec<ArrayRef>, BooleanArray, Vec<Disposition>) =
            match &program.windows {
                Some(windows) => {
                    self.out.clear();
                    let (states, out, now) = (&mut self.states, &mut self.out, self.clock.now_micros());
                    windows.process(batch, arguments, &decoded.ranges, &self.files, &mut |events| match states {
                        States::EachEvent(states) => process_each(states, events, out),
                        States::OnClose(closing) => closing.process(events, &mut out.dispositions, now),
                    })?;
                    let (columns, complete) = match states {
                        States::EachEvent(_) => windows.columns(out),
                        States::OnClose(_) => (Vec::new(), BooleanArray::from(vec![true; batch.num_rows()])),
                    };
                    (columns, complete, out.dispositions.clone())
                }
                None => {
                    let future = program.pipeline.events.max_future;
                    let (times, arrivals) = (micros(batch, "event_timestamp"), micros(batch, "arrival_timestamp"));
                    let judged = times.values().iter().zip(arrivals.values().iter()).map(|(time, arrival)| {
                        if *time > arrival.saturating_add(future) { Disposition::Future } else { Disposition::OnTime }
                    });
                    (Vec::new(), BooleanArray::from(vec![true; batch.num_rows()]), judged.collect())
                }
            };
        columns.insert(0, Arc::new(complete));
        let all_in = self.silent_until.is_empty()
            && self.only.is_none()
            && dispositions.iter().all(|disposition| disposition.entered());
        if all_in {
            return Ok(Some((batch.clone(), columns)));
        }
        let (times, partitions) = (micros(batch, "event_timestamp"), batch_partitions(batch));
        let offsets = batch_offsets(batch);
        let mut wanted = Vec::with_capacity(dispositions.len());
        for (row, disposition) in dispositions.iter().enumerate() {
            let silent = self.is_silent(partitions.value(row) as u32, offsets.value(row));
            wanted.push(disposition.entered() && !silent);
            if disposition.entered() || silent {
                continue;
            }
            let (problem, message) = match disposition {
                Disposition::Late => (Problem::Late, "older than the watermark of its partition"),
                Disposition::Future => (Problem::Future, "its time is too far after its arrival"),
                _ => (Problem::Time, "its time is out of range"),
            };
            let (part, index) = place(parts, decoded.raw.value(row) as usize);
            aside.push(taken(part, index, Some(times.value(row)), problem, message.to_owned()));
        }
        let wanted = BooleanArray::from(wanted);
        let entered = kept(batch, &columns, &wanted)?;
        Ok((entered.0.num_rows() > 0).then_some(entered))
    }

    /// Rows of the windows that have closed by now.
    fn close(&mut self, parts: &[RawPart], output: &mut PollOutput) -> Result<()> {
        let program = self.program.clone();
        let (Some(windows), States::OnClose(closing)) = (&program.windows, &mut self.states) else { return Ok(()) };
        let now = self.clock.now_micros();
        let silent = !self.silent_until.is_empty();
        let idle_after = if self.ended { 0 } else { program.pipeline.stream.idle_after };
        let Some((rows, first)) = closing.close(now, idle_after, silent) else {
            return Ok(());
        };
        let key = &program.subject_schema.fields()[..program.pipeline.entity_key.len()];
        let types: Vec<_> = key.iter().map(|field| field.data_type().clone()).collect();
        let count = rows.len() - first;
        let (columns, complete) = windows.closed(rows, &types)?;
        let mut columns: Vec<ArrayRef> = columns.iter().map(|column| column.slice(first, count)).collect();
        let mut computed = columns.split_off(types.len() + 2);
        computed.insert(0, Arc::new(complete.slice(first, count)));
        // The newest arrival: what closed them.
        let arrival = parts.iter().flat_map(|part| &part.arrivals).max().copied().unwrap_or(now);
        columns.push(Arc::new(TimestampMicrosecondArray::from_value(arrival, count).with_timezone("UTC")));
        let ends = rows.window_ends[first..].to_vec();
        let subjects = RecordBatch::try_new(program.subject_schema.clone(), columns).map_err(misfit)?;
        self.advance();
        let made = self.made(&subjects, &computed, "window")?;
        self.take(&subjects, made, &|row| (CLOSED, ends[row]), output)
    }
}

fn misfit(error: arrow::error::ArrowError) -> Error {
    Error::internal(format!("the columns of a poll do not fit: {error}")).cause(error)
}

fn named<'a>(batch: &'a RecordBatch, name: &str) -> &'a ArrayRef {
    batch.column_by_name(name).expect("every event has it")
}

fn micros<'a>(batch: &'a RecordBatch, name: &str) -> &'a TimestampMicrosecondArray {
    named(batch, name).as_primitive::<TimestampMicrosecondType>()
}

fn batch_partitions(batch: &RecordBatch) -> Int32Array {
    named(batch, "source_partition").as_primitive::<Int32Type>().clone()
}

fn batch_offsets(batch: &RecordBatch) -> Int64Array {
    named(batch, "source_offset").as_primitive::<Int64Type>().clone()
}

/// The part and place in it of an event by its number in the poll.
fn place(parts: &[RawPart], mut number: usize) -> (&RawPart, usize) {
    for part in parts {
        if number < part.len() {
            return (part, number);
        }
        number -= part.len();
    }
    unreachable!("events are numbered over all parts")
}

fn taken(part: &RawPart, index: usize, event_time: Option<i64>, problem: Problem, message: String) -> SetAside {
    SetAside {
        partition: part.partition,
        offset: part.offsets[index],
        arrival: part.arrivals[index],
        event_time,
        problem,
        message,
        key: part.key(index).map(<[u8]>::to_vec),
        payload: part.payload(index).to_vec(),
    }
}
