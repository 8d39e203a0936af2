//! Mode `on_close`: a row for each window and key once the window has closed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::aggregate::{Scratch, Tile};
use super::blobs::Blobs;
use super::checkpoint::{Restored, RowLayout, read_rows, write_rows};
use super::codec::{Link, Mode, Reader, Writer, open_frame};
use super::each_event::Coverage;
use super::error::{CheckpointError, StreamError};
use super::group::clear;
use super::input::{Batch, Key};
use super::keyed::{KEY_LIMIT, KeyedRows, hash_of};
use super::output::{ClosedRows, Disposition, Value};
use super::plan::{Plan, SetPlan};
use super::settings::{KeyType, LatePolicy};
use super::slab::Slab;
use super::watermark::PartitionClock;

/// The open windows of one partition. [`close`] gives the rows of closed ones,
/// of several partitions together.
#[derive(Debug)]
pub struct OnClose {
    plan: Arc<Plan>,
    partition: u32,
    next_offset: i64,
    clock: PartitionClock,
    covered_from: Option<i64>,
    /// Windows that end here or before were emitted.
    closed: i64,
    /// For each set its open windows.
    open: Vec<BTreeMap<i64, Pane>>,
    link: Option<Link>,
    /// Bytes that an event with short keys can add besides doubling the state.
    slack: u64,
}

/// The keys of one window, each with one tile.
#[derive(Debug)]
struct Pane {
    rows: KeyedRows,
    blobs: Blobs,
}

impl Pane {
    fn new(plan: &Plan, set: &SetPlan) -> Self {
        let numbers = plan.settings().keys[set.key] == KeyType::Id;
        Self { rows: KeyedRows::new(numbers, Slab::wide(1, set.words.len())), blobs: Blobs::default() }
    }

    fn heap_bytes(&self) -> u64 {
        self.rows.heap_bytes() + self.blobs.heap_bytes() + (size_of::<Self>() + 8) as u64
    }
}

impl OnClose {
    /// No state, before offset `next_offset` of a partition.
    ///
    /// # Errors
    /// When late events should enter windows: a closed one is not emitted
    /// again.
    pub fn new(plan: &Arc<Plan>, partition: u32, next_offset: i64, coverage: Coverage) -> Result<Self, StreamError> {
        if plan.settings().late != LatePolicy::SideOutput {
            let reason = "`on_close` cannot put late events into a window that was emitted";
            return Err(StreamError::Settings(reason.to_owned()));
        }
        let of_set = |set: &SetPlan| {
            let pane = Pane::new(plan, set).heap_bytes() + (1 << 17) + (64 * 8 * (set.words.len() as u64 + 1));
            pane * set.tiles.windows_with(0).count() as u64
        };
        let slack = plan.sets.iter().map(of_set).sum();
        Ok(Self {
            plan: Arc::clone(plan),
            partition,
            next_offset,
            clock: PartitionClock::default(),
            covered_from: coverage.time(),
            closed: i64::MIN,
            open: plan.sets.iter().map(|_| BTreeMap::new()).collect(),
            link: None,
            slack: if plan.has_blobs { u64::MAX / 4 } else { slack },
        })
    }

    /// The partition.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// The offset behind the last event that was processed.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Windows that end here or before take no more events of the partition.
    pub fn watermark(&self) -> Option<i64> {
        self.clock.watermark(&self.plan)
    }

    /// Open windows with an event, over all sets.
    pub fn windows(&self) -> usize {
        self.open.iter().map(BTreeMap::len).sum()
    }

    /// Heap bytes of the state, with the memory that is allocated and empty.
    pub fn state_bytes(&self) -> u64 {
        self.open.iter().flat_map(BTreeMap::values).map(Pane::heap_bytes).sum()
    }

    /// Takes in the events of `batch` from number `from` on, and adds what
    /// became of each to `out`.
    ///
    /// # Errors
    /// As [`EachEvent::process`](super::EachEvent::process).
    pub fn process(&mut self, batch: &Batch<'_>, from: usize, out: &mut Vec<Disposition>) -> Result<(), StreamError> {
        batch.check(&self.plan, self.partition, self.next_offset, from)?;
        let mut held = self.state_bytes();
        let plan = Arc::clone(&self.plan);
        for row in from..batch.len() {
            let disposition = self.enter(&plan, batch, row, &mut held)?;
            out.push(disposition);
            self.next_offset = batch.offsets[row] + 1;
        }
        Ok(())
    }

    fn enter(
        &mut self,
        plan: &Plan,
        batch: &Batch<'_>,
        row: usize,
        held: &mut u64,
    ) -> Result<Disposition, StreamError> {
        let time = batch.event_times[row];
        if let Some(refused) = PartitionClock::refuses(time, batch.arrivals[row], plan) {
            return Ok(refused);
        }
        let shut = self.closed.max(self.watermark().unwrap_or(i64::MIN));
        let limit = plan.settings().max_state_bytes;
        // Far from the limit there is no need to look what the event needs: an
        // insertion at most doubles what is there.
        if held.saturating_mul(2).saturating_add(self.slack) > limit
            || batch.keys.iter().any(|keys| keys.get(row).len() > 1 << 16)
        {
            let needed = *held + self.growth(batch, row, shut)?;
            if needed > limit {
                return Err(StreamError::StateLimit { needed, limit });
            }
        }
        let (mut entered, mut shut_out) = (false, false);
        for (set, open) in plan.sets.iter().zip(&mut self.open) {
            let key = batch.keys[set.key].get(row);
            let hash = hash_of(key);
            for window in set.tiles.windows_with(set.tiles.tile_of(time)) {
                if set.tiles.bounds(window).1 <= shut {
                    shut_out = true;
                    continue;
                }
                entered = true;
                let pane = open.entry(window).or_insert_with(|| {
                    let pane = Pane::new(plan, set);
                    *held += pane.heap_bytes();
                    pane
                });
                let number = match pane.rows.find(key, hash) {
                    Some(number) if !set.has_blobs => number,
                    found => {
                        let before = pane.heap_bytes();
                        let number = found.unwrap_or_else(|| pane.rows.insert(key, hash));
                        pane.update(set, number, batch, row);
                        *held = *held + pane.heap_bytes() - before;
                        continue;
                    }
                };
                pane.update(set, number, batch, row);
            }
        }
        self.clock.advance(time);
        // Also by an event whose windows have closed, when it is read again.
        self.covered_from.get_or_insert(time);
        if !entered {
            return Ok(Disposition::Late);
        }
        Ok(if shut_out { Disposition::LateInWindow } else { Disposition::OnTime })
    }

    /// Bytes by which an event can grow the state.
    fn growth(&self, batch: &Batch<'_>, row: usize, shut: i64) -> Result<u64, StreamError> {
        let mut bytes = 0;
        for (set, open) in self.plan.sets.iter().zip(&self.open) {
            let key = batch.keys[set.key].get(row);
            let hash = hash_of(key);
            if matches!(key, Key::Bytes(bytes) if bytes.len() > KEY_LIMIT) {
                return Err(StreamError::batch(self.partition, "a key is longer than 16 MiB"));
            }
            for window in set.tiles.windows_with(set.tiles.tile_of(batch.event_times[row])) {
                if set.tiles.bounds(window).1 <= shut {
                    continue;
                }
                bytes += match open.get(&window) {
                    Some(pane) if pane.rows.find(key, hash).is_some() => 0,
                    Some(pane) => pane.rows.growth(key),
                    None => {
                        let pane = Pane::new(&self.plan, set);
                        pane.heap_bytes() + pane.rows.growth(key)
                    }
                };
                if set.has_blobs {
                    let values = batch.columns.iter().map(|column| column.value_bytes(row));
                    bytes += self.plan.growth + 2 * values.sum::<u64>();
                }
            }
        }
        Ok(bytes)
    }

    /// Forgets the keys for which `gone` holds, each with the number of its
    /// kind. Answers from how many windows they went; the next checkpoint must
    /// be a full one.
    pub fn forget(&mut self, gone: &dyn Fn(usize, Key<'_>) -> bool) -> usize {
        self.link = None;
        let mut count = 0;
        for (set, open) in self.plan.sets.iter().zip(&mut self.open) {
            for pane in open.values_mut() {
                for number in (0..pane.rows.len()).rev() {
                    if gone(set.key, pane.rows.key(number)) {
                        clear(set, pane.rows.slab.wide_row_mut(number), &mut pane.blobs);
                        pane.rows.remove(number);
                        count += 1;
                    }
                }
            }
            open.retain(|_, pane| pane.rows.len() > 0);
        }
        count
    }

    /// The whole state, and the base of increments to come.
    pub fn checkpoint(&mut self) -> Vec<u8> {
        self.write(None)
    }

    /// What changed since the last checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError::NoBase`] before the first full one.
    pub fn increment(&mut self) -> Result<Vec<u8>, StreamError> {
        let last = self.link.ok_or(CheckpointError::NoBase)?;
        Ok(self.write(Some(last)))
    }

    fn write(&mut self, last: Option<Link>) -> Vec<u8> {
        let mut writer = Writer::framed();
        writer.number(u64::from(self.partition));
        writer.signed(self.next_offset);
        writer.optional(self.clock.newest);
        writer.optional(self.covered_from);
        writer.signed(self.closed);
        for (set, open) in self.plan.sets.iter().zip(&mut self.open) {
            writer.number(open.len() as u64);
            for (window, pane) in open {
                writer.signed(*window);
                write_rows(&pane.rows, &pane.blobs, &RowLayout::Tile(set), last.is_none(), &mut writer);
                pane.rows.mark_none();
            }
        }
        let (link, bytes) = writer.into_frame(Mode::OnClose, self.plan.fingerprint, last);
        self.link = Some(link);
        bytes
    }

    /// The state of a full checkpoint.
    ///
    /// # Errors
    /// As [`EachEvent::restore`](super::EachEvent::restore).
    pub fn restore(plan: &Arc<Plan>, bytes: &[u8]) -> Result<Self, StreamError> {
        let empty = Self::new(plan, 0, 0, Coverage::FirstEvent)?;
        let (head, reader) = open_frame(bytes, Mode::OnClose, plan.fingerprint)?;
        empty.read(head.full()?, reader)
    }

    /// The state after an increment, the next one of its base.
    ///
    /// # Errors
    /// As [`EachEvent::apply`](super::EachEvent::apply).
    pub fn apply(self, bytes: &[u8]) -> Result<Self, StreamError> {
        let (head, reader) = open_frame(bytes, Mode::OnClose, self.plan.fingerprint)?;
        let link = head.after(self.link)?;
        self.read(link, reader)
    }

    fn read(mut self, link: Link, mut reader: Reader<'_>) -> Result<Self, StreamError> {
        let partition = u32::try_from(reader.number()?).map_err(|_| CheckpointError::Corrupt("no partition"))?;
        if link.number > 0 && partition != self.partition {
            return Err(StreamError::corrupt("it is of another partition"));
        }
        self.partition = partition;
        self.next_offset = reader.signed()?;
        self.clock.newest = reader.time()?;
        self.covered_from = reader.time()?;
        self.closed = reader.signed()?;
        let limit = self.plan.settings().max_state_bytes;
        for index in 0..self.open.len() {
            let plan = Arc::clone(&self.plan);
            let set = &plan.sets[index];
            let mut before = std::mem::take(&mut self.open[index]);
            for _ in 0..reader.count(3)? {
                let window = reader.signed()?;
                let is_next = self.open[index].last_key_value().is_none_or(|(last, _)| *last < window);
                if !is_next || !set.tiles.is_window(window) {
                    return Err(StreamError::corrupt("a window is out of order or out of range"));
                }
                let mut pane = before.remove(&window).unwrap_or_else(|| Pane::new(&plan, set));
                let others = self.state_bytes();
                let mut restored = Restored { rows: &mut pane.rows, blobs: &mut pane.blobs, others, limit };
                read_rows(&mut restored, &RowLayout::Tile(set), &mut reader)?;
                self.open[index].insert(window, pane);
            }
        }
        reader.finish()?;
        self.link = Some(link);
        Ok(self)
    }
}

impl Pane {
    #[inline]
    fn update(&mut self, set: &SetPlan, number: usize, batch: &Batch<'_>, row: usize) {
        self.rows.mark(number);
        let tile = self.rows.slab.wide_row_mut(number);
        for aggregate in &set.aggregates {
            aggregate.update(tile, &mut self.blobs, batch, row);
        }
    }
}

/// Closes the windows that end at `watermark` or before and adds their rows
/// to `out`, one element for each window set: by window end, then key. A key
/// that several of the partitions have is one row, folded by partition number.
/// Call it with all partitions of a process, ascending by number.
pub fn close(partitions: &mut [&mut OnClose], watermark: i64, out: &mut [ClosedRows]) {
    let Some(plan) = partitions.first().map(|partition| Arc::clone(&partition.plan)) else { return };
    let mut scratch = Scratch::default();
    for (index, (set, out)) in plan.sets.iter().zip(out).enumerate() {
        loop {
            let firsts = partitions.iter().filter_map(|partition| partition.open[index].first_key_value());
            let Some(window) = firsts.map(|(window, _)| *window).min() else { break };
            let (start, end) = set.tiles.bounds(window);
            if end > watermark {
                break;
            }
            // A window is whole when it is in every partition that has it.
            let covered = |partition: &&&mut OnClose| partition.covered_from.is_some_and(|from| start >= from);
            let having = || partitions.iter().filter(|partition| partition.open[index].contains_key(&window));
            let complete = having().all(|partition| covered(&partition));
            let panes: Vec<Pane> =
                partitions.iter_mut().filter_map(|partition| partition.open[index].remove(&window)).collect();
            emit(set, &panes, &mut scratch, out);
            let rows = out.keys.len() - out.window_ends.len();
            out.window_starts.extend(std::iter::repeat_n(start, rows));
            out.window_ends.extend(std::iter::repeat_n(end, rows));
            out.complete.extend(std::iter::repeat_n(complete, rows));
        }
    }
    for partition in partitions {
        partition.closed = partition.closed.max(watermark);
    }
}

/// Adds the keys and values of a window.
fn emit(set: &SetPlan, panes: &[Pane], scratch: &mut Scratch, out: &mut ClosedRows) {
    let mut order: Vec<(Key<'_>, usize, usize)> = Vec::new();
    for (at, pane) in panes.iter().enumerate() {
        order.extend((0..pane.rows.len()).map(|number| (pane.rows.key(number), at, number)));
    }
    order.sort_unstable();
    for same in order.chunk_by(|(a, ..), (b, ..)| a == b) {
        out.keys.push(match same[0].0 {
            Key::Id(id) => Value::Long(id as i64),
            Key::Bytes(bytes) => Value::Bytes(bytes),
        });
        let tiles = same.iter().map(|(_, at, number)| {
            let pane = &panes[*at];
            Tile { words: pane.rows.slab.wide_row(*number), blobs: &pane.blobs }
        });
        for (aggregate, column) in set.aggregates.iter().zip(&mut out.columns) {
            aggregate.finish(tiles.clone(), scratch, column);
        }
    }
}
