//! Mode `each_event`: for every event the values of its windows, itself
//! included.

use std::sync::Arc;

use super::aggregate::Scratch;
use super::checkpoint::{Restored, RowLayout, read_rows, write_rows};
use super::codec::{Link, Mode, Reader, Writer, open_frame};
use super::error::{CheckpointError, StreamError};
use super::group::Group;
use super::hash::hash_word;
use super::input::{Batch, Key};
use super::keyed::{KEY_LIMIT, full_hash_of, hash_of};
use super::output::{Disposition, EventOutput};
use super::plan::Plan;
use super::seed::{NewKey, Seed};
use super::settings::LatePolicy;
use super::tiles::{BEGINNING, TIME_LIMIT};
use super::watermark::PartitionClock;

/// Events whose rows are read ahead.
const AHEAD: usize = 32;

/// From when on a stream has all events of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// It reads the source from its very first event: every window is whole.
    Everything,
    /// From this event time on.
    From(i64),
    /// From the time of the first event that enters a window.
    FirstEvent,
}

impl Coverage {
    pub(crate) fn time(self) -> Option<i64> {
        match self {
            Self::Everything => Some(BEGINNING),
            Self::From(time) => Some(time.clamp(-TIME_LIMIT, TIME_LIMIT)),
            Self::FirstEvent => None,
        }
    }
}

/// The windows of one partition. What it gives for an event is a function of
/// the events of its partition before it, in offset order, and of nothing
/// else: not of batches, other partitions or clocks.
#[derive(Debug)]
pub struct EachEvent {
    plan: Arc<Plan>,
    partition: u32,
    next_offset: i64,
    clock: PartitionClock,
    covered_from: Option<i64>,
    groups: Vec<Group>,
    /// For each set the oldest tile that an event can still see.
    oldest: Vec<i64>,
    /// The newest event time at which one of them changes.
    turns_at: i64,
    link: Option<Link>,
    scratch: Scratch,
    /// The rows of the event at hand, one for each group.
    found: Vec<(u32, Option<usize>)>,
    /// For each group the hashes and guessed rows of the next events.
    ahead: Vec<(u32, u32)>,
    ahead_rows: usize,
}

/// The hash of a key of a kind. Processes compare it, so it is public.
pub(crate) fn hash_of_key(index: usize, key: Key<'_>) -> u64 {
    full_hash_of(key) ^ hash_word(index as u64)
}

impl EachEvent {
    /// No state, before offset `next_offset` of a partition.
    pub fn new(plan: &Arc<Plan>, partition: u32, next_offset: i64, coverage: Coverage) -> Self {
        let groups: Vec<_> = (0..plan.settings().keys.len())
            .filter(|key| plan.sets.iter().any(|set| set.key == *key))
            .map(|key| Group::new(plan, key))
            .collect();
        Self {
            plan: Arc::clone(plan),
            partition,
            next_offset,
            clock: PartitionClock::default(),
            covered_from: coverage.time(),
            found: Vec::with_capacity(groups.len()),
            groups,
            oldest: vec![i64::MIN; plan.sets.len()],
            turns_at: i64::MIN,
            link: None,
            scratch: Scratch::default(),
            ahead: Vec::new(),
            ahead_rows: 0,
        }
    }

    /// The partition.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// The offset behind the last event that was processed.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Event times before this are late.
    pub fn watermark(&self) -> Option<i64> {
        self.clock.watermark(&self.plan)
    }

    /// Keys that have state, of all kinds.
    pub fn keys(&self) -> usize {
        self.groups.iter().map(|group| group.rows.len()).sum()
    }

    /// Heap bytes of the state: rows, tables, keys, sketches, with the memory
    /// that is allocated and empty.
    pub fn state_bytes(&self) -> u64 {
        self.groups.iter().map(Group::heap_bytes).sum()
    }

    /// Whether a key has state.
    pub fn has_key(&self, index: usize, key: Key<'_>) -> bool {
        self.groups.iter().any(|group| group.key == index && group.rows.find(key, hash_of(key)).is_some())
    }

    /// All keys that have state, each with the number of its kind.
    pub fn all_keys(&self) -> impl Iterator<Item = (usize, Key<'_>)> {
        self.groups.iter().flat_map(|group| (0..group.rows.len()).map(|number| (group.key, group.rows.key(number))))
    }

    /// Forgets the keys for which `gone` holds, each with the number of its
    /// kind. Answers how many; the next checkpoint must be a full one.
    pub fn forget(&mut self, gone: &dyn Fn(usize, Key<'_>) -> bool) -> usize {
        self.link = None;
        let plan = Arc::clone(&self.plan);
        self.groups.iter_mut().map(|group| group.forget(&plan, gone)).sum()
    }

    /// The key with this hash, of whichever kind.
    pub(crate) fn key_with_hash(&self, hash: u64) -> Option<Key<'_>> {
        self.groups.iter().find_map(|group| group.rows.key_with_hash(hash ^ hash_word(group.key as u64)))
    }

    /// Takes in the events of `batch` from number `from` on, and adds a row to
    /// `out` for each. For a key without state `new_key` is asked for seeds.
    ///
    /// # Errors
    /// [`StreamError::Batch`] and [`StreamError::Offset`] before anything was
    /// taken in. [`StreamError::StateLimit`] and what `new_key` gives at an
    /// event: those before it are in, and in `out`; it and those behind are
    /// not, and may be tried again.
    pub fn process(
        &mut self,
        batch: &Batch<'_>,
        from: usize,
        new_key: &mut dyn FnMut(NewKey<'_>) -> Result<Vec<Seed>, StreamError>,
        out: &mut EventOutput,
    ) -> Result<(), StreamError> {
        batch.check(&self.plan, self.partition, self.next_offset, from)?;
        for row in from..batch.len() {
            if (row - from).is_multiple_of(AHEAD) {
                self.look_ahead(batch, row);
            }
            let time = batch.event_times[row];
            let disposition = self.judge(time, batch.arrivals[row]);
            if disposition.entered() {
                let covered_from = self.covered_from.unwrap_or(time);
                self.find(batch, row, (row - from) % AHEAD, covered_from, new_key)?;
                self.covered_from = Some(covered_from);
                self.clock.advance(time);
                for (group, (_, number)) in self.groups.iter_mut().zip(&self.found) {
                    let number = number.expect("found or inserted");
                    group.enter(&self.plan, number, (batch, row), covered_from, &mut self.scratch, &mut out.sets);
                }
                out.dispositions.push(disposition);
                self.turn();
                self.groups.iter_mut().for_each(|group| group.sweep(&self.plan, &self.oldest));
            } else {
                out.push_refused(disposition);
            }
            self.next_offset = batch.offsets[row] + 1;
        }
        Ok(())
    }

    /// Guesses the rows of the next events and reads them. A guess stands
    /// only if the row has the event's key when its turn comes.
    fn look_ahead(&mut self, batch: &Batch<'_>, row: usize) {
        let rows = row..batch.len().min(row + AHEAD);
        self.ahead.clear();
        for group in &self.groups {
            let keys = &batch.keys[group.key];
            self.ahead.extend(rows.clone().map(|row| {
                let hash = hash_of(keys.get(row));
                (hash, group.rows.guess(hash))
            }));
            let guesses = &self.ahead[self.ahead.len() - rows.len()..];
            let mut read = guesses.iter().fold(0, |read, (_, guess)| read ^ group.rows.touch(*guess));
            read ^= guesses.iter().fold(0, |read, (_, guess)| read ^ group.rows.touch_key(*guess));
            std::hint::black_box(read);
        }
        self.ahead_rows = rows.len();
    }

    #[inline]
    fn judge(&self, time: i64, arrival: i64) -> Disposition {
        if let Some(refused) = PartitionClock::refuses(time, arrival, &self.plan) {
            return refused;
        }
        let Some(watermark) = self.watermark().filter(|watermark| time < *watermark) else {
            return Disposition::OnTime;
        };
        match self.plan.settings().late {
            LatePolicy::IntoWindow { grace } if time >= watermark - grace => Disposition::LateInWindow,
            _ => Disposition::Late,
        }
    }

    /// Finds the rows of an event's keys, or adds them all, or none.
    #[inline]
    fn find(
        &mut self,
        batch: &Batch<'_>,
        row: usize,
        ahead: usize,
        covered_from: i64,
        new_key: &mut dyn FnMut(NewKey<'_>) -> Result<Vec<Seed>, StreamError>,
    ) -> Result<(), StreamError> {
        self.found.clear();
        let mut missing = false;
        for (at, group) in self.groups.iter().enumerate() {
            let key = batch.keys[group.key].get(row);
            let (hash, guess) = self.ahead[at * self.ahead_rows + ahead];
            let number = group.rows.find_guessed(guess, key, hash);
            missing |= number.is_none();
            self.found.push((hash, number));
        }
        if missing || self.plan.has_blobs || self.is_nearly_full() {
            return self.grow(batch, row, covered_from, new_key);
        }
        Ok(())
    }

    /// Whether an event could take the state beyond its limit by nothing but
    /// greater numbers.
    #[inline]
    fn is_nearly_full(&self) -> bool {
        self.state_bytes() + self.plan.widest > self.plan.settings().max_state_bytes
    }

    #[cold]
    fn grow(
        &mut self,
        batch: &Batch<'_>,
        row: usize,
        covered_from: i64,
        new_key: &mut dyn FnMut(NewKey<'_>) -> Result<Vec<Seed>, StreamError>,
    ) -> Result<(), StreamError> {
        let mut needed = self.state_bytes() + self.plan.growth;
        let mut seeds = Vec::new();
        for (group, (_, number)) in self.groups.iter().zip(&self.found) {
            needed += group.widening(&self.plan, *number, (batch, row));
            if number.is_some() {
                continue;
            }
            let key = batch.keys[group.key].get(row);
            if matches!(key, Key::Bytes(bytes) if bytes.len() > KEY_LIMIT) {
                return Err(StreamError::batch(self.partition, "a key is longer than 16 MiB"));
            }
            needed += group.rows.growth(key);
            let event_time = batch.event_times[row];
            let of_key = new_key(NewKey { index: group.key, key, event_time, covered_from })?;
            for seed in &of_key {
                let Some(set) = self.plan.sets.get(seed.set).filter(|set| set.key == group.key) else {
                    let reason = "it has not the key that is new".to_owned();
                    return Err(StreamError::Seed { set: format!("{}", seed.set), reason });
                };
                seed.check(set, covered_from)?;
            }
            seeds.extend(of_key);
        }
        if self.plan.has_blobs {
            let values = batch.columns.iter().map(|column| column.value_bytes(row));
            needed += 2 * values.sum::<u64>();
        }
        let limit = self.plan.settings().max_state_bytes;
        if needed > limit {
            return Err(StreamError::StateLimit { needed, limit });
        }
        for (group, (hash, number)) in self.groups.iter_mut().zip(&mut self.found) {
            if number.is_none() {
                let key = batch.keys[group.key].get(row);
                let time = batch.event_times[row];
                let newest = self.clock.newest.map_or(time, |newest| newest.max(time));
                *number = Some(group.insert(&self.plan, key, *hash, (time, newest), &seeds));
            }
        }
        Ok(())
    }

    /// When the newest time has moved a set to a new oldest tile, the sweep
    /// begins another round.
    #[inline]
    fn turn(&mut self) {
        let Some(newest) = self.clock.newest.filter(|newest| *newest >= self.turns_at) else { return };
        self.set_oldest(newest);
        self.groups.iter_mut().for_each(|group| group.unswept = group.rows.len());
    }

    fn set_oldest(&mut self, newest: i64) {
        self.turns_at = i64::MAX;
        for (set, oldest) in self.plan.sets.iter().zip(&mut self.oldest) {
            let tile = set.tiles.tile_of(newest - self.plan.reach_back);
            *oldest = tile + 1 - set.tiles.per_window;
            self.turns_at = self.turns_at.min(set.tiles.start_of(tile + 1) + self.plan.reach_back);
        }
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
        for group in &mut self.groups {
            writer.number(group.hand as u64);
            writer.number(group.unswept as u64);
            let layout = RowLayout::Rings { plan: &self.plan, sets: &group.sets, newest: i64::MAX };
            write_rows(&group.rows, &group.blobs, &layout, last.is_none(), &mut writer);
            group.rows.mark_none();
        }
        let (link, bytes) = writer.into_frame(Mode::EachEvent, self.plan.fingerprint, last);
        self.link = Some(link);
        bytes
    }

    /// The state of a full checkpoint.
    ///
    /// # Errors
    /// [`StreamError::Checkpoint`], and [`StreamError::StateLimit`] when the
    /// limit is smaller than it was.
    pub fn restore(plan: &Arc<Plan>, bytes: &[u8]) -> Result<Self, StreamError> {
        let (head, reader) = open_frame(bytes, Mode::EachEvent, plan.fingerprint)?;
        Self::new(plan, 0, 0, Coverage::FirstEvent).read(head.full()?, reader)
    }

    /// The state after an increment, the next one of its base.
    ///
    /// # Errors
    /// As [`Self::restore`]; and [`CheckpointError::OutOfSequence`].
    pub fn apply(self, bytes: &[u8]) -> Result<Self, StreamError> {
        let (head, reader) = open_frame(bytes, Mode::EachEvent, self.plan.fingerprint)?;
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
        if let Some(newest) = self.clock.newest {
            self.set_oldest(newest);
        }
        let limit = self.plan.settings().max_state_bytes;
        for index in 0..self.groups.len() {
            let others = self.state_bytes() - self.groups[index].heap_bytes();
            let group = &mut self.groups[index];
            let (hand, unswept) = (reader.number()?, reader.number()?);
            let newest = self.clock.newest.unwrap_or(i64::MIN);
            let layout = RowLayout::Rings { plan: &self.plan, sets: &group.sets, newest };
            let mut restored = Restored { rows: &mut group.rows, blobs: &mut group.blobs, others, limit };
            read_rows(&mut restored, &layout, &mut reader)?;
            let rows = group.rows.len() as u64;
            if hand > rows || unswept > rows {
                return Err(StreamError::corrupt("the sweep is out of range"));
            }
            (group.hand, group.unswept) = (hand as usize, unswept as usize);
        }
        reader.finish()?;
        self.link = Some(link);
        Ok(self)
    }
}
