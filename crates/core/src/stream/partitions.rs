//! The partitions that one process has.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::each_event::{EachEvent, hash_of_key};
use super::error::StreamError;
use super::input::{Batch, Key};
use super::output::EventOutput;
use super::seed::{NewKey, Seed};

/// `each_event` over the partitions of one process. It refuses a key that
/// comes from two of them: its windows would be two halves.
#[derive(Debug, Default)]
pub struct Partitions {
    states: BTreeMap<u32, EachEvent>,
    samples: BTreeMap<u32, Sample>,
}

/// The smallest hashes of a partition's keys: whoever has another partition
/// looks for them among its own keys. Of columns that do not decide the
/// partition two partitions soon have the same keys.
type Sample = BTreeSet<u64>;

/// How many keys of a partition are compared with those of another process.
const SAMPLE: usize = 16;

impl Partitions {
    /// Takes over a partition, new or restored.
    ///
    /// # Errors
    /// [`StreamError::AlreadyAssigned`].
    pub fn assign(&mut self, state: EachEvent) -> Result<(), StreamError> {
        let partition = state.partition();
        if self.states.contains_key(&partition) {
            return Err(StreamError::AlreadyAssigned(partition));
        }
        let sample = self.samples.entry(partition).or_default();
        state.all_keys().for_each(|(index, key)| note(sample, index, key));
        self.states.insert(partition, state);
        Ok(())
    }

    /// Hashes of some of a partition's keys: the smallest.
    pub fn sample(&self, partition: u32) -> BTreeSet<u64> {
        self.samples.get(&partition).cloned().unwrap_or_default()
    }

    /// The key with this hash, and its partition.
    pub fn key_with_hash(&self, hash: u64) -> Option<(String, u32)> {
        self.states.values().find_map(|state| Some((state.key_with_hash(hash)?.to_string(), state.partition())))
    }

    /// Gives a partition up, with its state.
    ///
    /// # Errors
    /// [`StreamError::NotAssigned`].
    pub fn revoke(&mut self, partition: u32) -> Result<EachEvent, StreamError> {
        self.samples.remove(&partition);
        self.states.remove(&partition).ok_or(StreamError::NotAssigned(partition))
    }

    /// A key that two of the partitions have, and which: two processes may
    /// have had them, and did not see it.
    pub fn shared_key(&self) -> Option<(String, u32, u32)> {
        if self.states.len() < 2 {
            return None;
        }
        let mut seen: HashMap<u64, u32> = HashMap::new();
        for (partition, state) in &self.states {
            for (index, key) in state.all_keys() {
                let before = seen.insert(hash_of_key(index, key), *partition);
                // Two keys may have one hash.
                if let Some(other) = before.filter(|other| other != partition)
                    && self.states[&other].has_key(index, key)
                {
                    return Some((key.to_string(), other, *partition));
                }
            }
        }
        None
    }

    /// The states by partition.
    pub fn states(&mut self) -> impl Iterator<Item = &mut EachEvent> {
        self.states.values_mut()
    }

    /// Heap bytes of all states.
    pub fn state_bytes(&self) -> u64 {
        self.states.values().map(EachEvent::state_bytes).sum()
    }

    /// As [`EachEvent::process`], of the batch's partition.
    ///
    /// # Errors
    /// As there; [`StreamError::NotAssigned`] and
    /// [`StreamError::KeyInTwoPartitions`].
    pub fn process(
        &mut self,
        batch: &Batch<'_>,
        from: usize,
        new_key: &mut dyn FnMut(NewKey<'_>) -> Result<Vec<Seed>, StreamError>,
        out: &mut EventOutput,
    ) -> Result<(), StreamError> {
        let mut state = self.states.remove(&batch.partition).ok_or(StreamError::NotAssigned(batch.partition))?;
        let others = &self.states;
        let sample = self.samples.entry(batch.partition).or_default();
        let mut check = |new: NewKey<'_>| {
            if let Some(other) = others.values().find(|other| other.has_key(new.index, new.key)) {
                let (first, second) = (other.partition(), batch.partition);
                return Err(StreamError::KeyInTwoPartitions { key: new.key.to_string(), first, second });
            }
            note(sample, new.index, new.key);
            new_key(new)
        };
        let result = state.process(batch, from, &mut check, out);
        self.states.insert(batch.partition, state);
        result
    }
}

fn note(sample: &mut Sample, index: usize, key: Key<'_>) {
    let hash = hash_of_key(index, key);
    if sample.len() == SAMPLE && sample.last().is_some_and(|largest| hash >= *largest) {
        return;
    }
    sample.insert(hash);
    if sample.len() > SAMPLE {
        sample.pop_last();
    }
}
