//! The partitions that one process has.

use std::collections::BTreeMap;

use super::each_event::EachEvent;
use super::error::StreamError;
use super::input::Batch;
use super::output::EventOutput;
use super::seed::{NewKey, Seed};

/// `each_event` over the partitions of one process. It refuses a key that
/// comes from two of them: its windows would be two halves.
#[derive(Debug, Default)]
pub struct Partitions {
    states: BTreeMap<u32, EachEvent>,
}

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
        self.states.insert(partition, state);
        Ok(())
    }

    /// Gives a partition up, with its state.
    ///
    /// # Errors
    /// [`StreamError::NotAssigned`].
    pub fn revoke(&mut self, partition: u32) -> Result<EachEvent, StreamError> {
        self.states.remove(&partition).ok_or(StreamError::NotAssigned(partition))
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
        let mut state = self.revoke(batch.partition)?;
        let others = &self.states;
        let mut check = |new: NewKey<'_>| {
            if let Some(other) = others.values().find(|other| other.has_key(new.index, new.key)) {
                let (first, second) = (other.partition(), batch.partition);
                return Err(StreamError::KeyInTwoPartitions { key: new.key.to_string(), first, second });
            }
            new_key(new)
        };
        let result = state.process(batch, from, &mut check, out);
        self.states.insert(batch.partition, state);
        result
    }
}
