//! New states of entities, gathered while a run scores.
//!
//! Threads make [`Entries`] batch by batch and add them to [`Collected`], which
//! keeps them in parts by the leading bits of the key hash: a part sorts in the
//! cache, parts sort in parallel, and each is let go as soon as it stands in
//! the index. Of one key the entry that was added last counts.

use std::sync::{Mutex, PoisonError};

use crate::key::KeyHash;

/// Parts are two to the power of this.
const PART_BITS: u32 = 6;
/// From this many entries on, several threads sort.
const PARALLEL: usize = 50_000;

/// What the last prediction of an entity says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Its feature hash.
    pub feature_hash: u64,
    /// Its definition hash.
    pub definition_hash: u64,
    /// False when the last row says `removed`.
    pub live: bool,
}

/// States with their keys, column by column.
#[derive(Debug, Default)]
pub struct Entries {
    hashes: Vec<KeyHash>,
    features: Vec<u64>,
    /// Places in `known`.
    definitions: Vec<u16>,
    known: Vec<u64>,
    live: Vec<bool>,
    ends: Vec<u32>,
    keys: Vec<u8>,
}

impl Entries {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Adds one; `encode` appends the encoded key.
    pub fn push(&mut self, hash: KeyHash, state: State, encode: impl FnOnce(&mut Vec<u8>)) {
        let place = self.known.iter().rposition(|d| *d == state.definition_hash).unwrap_or_else(|| {
            self.known.push(state.definition_hash);
            self.known.len() - 1
        });
        self.hashes.push(hash);
        self.features.push(state.feature_hash);
        self.definitions.push(u16::try_from(place).unwrap_or(u16::MAX));
        self.live.push(state.live);
        encode(&mut self.keys);
        self.ends.push(self.keys.len() as u32);
    }

    /// The hash of an entry's key.
    pub fn hash(&self, at: usize) -> KeyHash {
        self.hashes[at]
    }

    /// An entry's state.
    pub fn state(&self, at: usize) -> State {
        let definition_hash = self.known[usize::from(self.definitions[at])];
        State { feature_hash: self.features[at], definition_hash, live: self.live[at] }
    }

    /// The encoded key of an entry.
    pub fn key(&self, at: usize) -> &[u8] {
        let from = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.keys[from as usize..self.ends[at] as usize]
    }

    /// The definitions that its states have.
    pub fn definitions(&self) -> &[u64] {
        &self.known
    }

    /// The place of an entry's definition among [`Self::definitions`].
    pub fn definition(&self, at: usize) -> usize {
        usize::from(self.definitions[at])
    }

    fn extend(&mut self, other: &Self, rows: &[u32]) {
        let places: Vec<u16> = other
            .known
            .iter()
            .map(|definition| {
                let place = self.known.iter().rposition(|d| d == definition).unwrap_or_else(|| {
                    self.known.push(*definition);
                    self.known.len() - 1
                });
                u16::try_from(place).unwrap_or(u16::MAX)
            })
            .collect();
        let rows = rows.iter().map(|row| *row as usize);
        self.hashes.extend(rows.clone().map(|row| other.hashes[row]));
        self.features.extend(rows.clone().map(|row| other.features[row]));
        self.definitions.extend(rows.clone().map(|row| places[usize::from(other.definitions[row])]));
        self.live.extend(rows.clone().map(|row| other.live[row]));
        for row in rows {
            self.keys.extend_from_slice(other.key(row));
            self.ends.push(self.keys.len() as u32);
        }
    }
}

/// Entries of a range of hashes.
#[derive(Debug, Default)]
pub struct Part {
    /// In the order of arrival.
    pub entries: Entries,
    /// By hash, those of one key in the order of arrival.
    pub order: Vec<u32>,
}

impl Part {
    /// Sorts again what was sorted before entries were added.
    fn sort(&mut self) {
        let hashes = &self.entries.hashes;
        if self.order.len() == hashes.len() {
            return;
        }
        // First into buckets of about four by the leading bits, then each.
        let fine = (hashes.len() / 4).checked_ilog2().unwrap_or(0);
        let middle = |hash: &KeyHash| (hash << PART_BITS >> 64) as u64;
        let bucket = |hash: &KeyHash| if fine == 0 { 0 } else { (middle(hash) >> (64 - fine)) as usize };
        let mut ends = vec![0u32; (1 << fine) + 1];
        hashes.iter().for_each(|hash| ends[bucket(hash) + 1] += 1);
        for at in 1..ends.len() {
            ends[at] += ends[at - 1];
        }
        let mut sorted = vec![(0u64, 0u32); hashes.len()];
        for (hash, at) in hashes.iter().zip(0u32..) {
            let next = &mut ends[bucket(hash)];
            sorted[*next as usize] = (middle(hash), at);
            *next += 1;
        }
        let mut from = 0;
        for end in &ends[..ends.len() - 1] {
            sorted[from..*end as usize].sort_unstable_by(|a, b| {
                let whole = || hashes[a.1 as usize].cmp(&hashes[b.1 as usize]);
                a.0.cmp(&b.0).then_with(whole).then(a.1.cmp(&b.1))
            });
            from = *end as usize;
        }
        self.order = sorted.into_iter().map(|(_, at)| at).collect();
    }

    /// Leaves of one key only the last in the order.
    fn newest(&mut self) {
        let hashes = &self.entries.hashes;
        self.order.reverse();
        self.order.dedup_by(|a, b| hashes[*a as usize] == hashes[*b as usize]);
        self.order.reverse();
    }

    /// The entries in their order.
    pub fn ordered(&self) -> impl Iterator<Item = usize> + '_ {
        self.order.iter().map(|at| *at as usize)
    }
}

/// All entries of a run, in parts by hash.
#[derive(Debug)]
pub struct Collected {
    parts: Vec<Mutex<Part>>,
}

impl Default for Collected {
    fn default() -> Self {
        Self { parts: (0..1 << PART_BITS).map(|_| Mutex::default()).collect() }
    }
}

fn unlocked(part: &mut Mutex<Part>) -> &mut Part {
    part.get_mut().unwrap_or_else(PoisonError::into_inner)
}

impl Collected {
    /// What was added until now; what is added later is another collection.
    pub fn take(&self) -> Self {
        let part = |part: &Mutex<Part>| std::mem::take(&mut *part.lock().unwrap_or_else(PoisonError::into_inner));
        Self { parts: self.parts.iter().map(|p| Mutex::new(part(p))).collect() }
    }

    /// Adds the entries of a batch.
    pub fn add(&self, batch: &Entries) {
        let part_of = |hash: &KeyHash| (hash >> (128 - PART_BITS)) as usize;
        let mut ends = vec![0u32; self.parts.len() + 1];
        batch.hashes.iter().for_each(|hash| ends[part_of(hash) + 1] += 1);
        for at in 1..ends.len() {
            ends[at] += ends[at - 1];
        }
        let mut rows = vec![0u32; batch.len()];
        for (hash, row) in batch.hashes.iter().zip(0u32..) {
            let next = &mut ends[part_of(hash)];
            rows[*next as usize] = row;
            *next += 1;
        }
        // Threads begin at different parts, so as not to wait for each other.
        let first = batch.hashes.first().map_or(0, |hash| *hash as usize);
        for turn in 0..self.parts.len() {
            let at = first.wrapping_add(turn) % self.parts.len();
            let from = if at == 0 { 0 } else { ends[at - 1] };
            let rows = &rows[from as usize..ends[at] as usize];
            if !rows.is_empty() {
                self.parts[at].lock().unwrap_or_else(PoisonError::into_inner).entries.extend(batch, rows);
            }
        }
    }

    /// Sorts every part.
    pub fn sort(&mut self, threads: usize) {
        let entries: usize = self.parts.iter_mut().map(|part| unlocked(part).entries.len()).sum();
        if entries < PARALLEL || threads < 2 {
            return self.parts.iter_mut().for_each(|part| unlocked(part).sort());
        }
        let each = self.parts.len().div_ceil(threads);
        std::thread::scope(|scope| {
            for parts in self.parts.chunks_mut(each) {
                scope.spawn(|| parts.iter_mut().for_each(|part| unlocked(part).sort()));
            }
        });
    }

    /// Hands every entry that another of the same key precedes to `visit`.
    pub fn duplicates(&mut self, threads: usize, mut visit: impl FnMut(KeyHash, &[u8])) {
        self.sort(threads);
        for part in &mut self.parts {
            let Part { entries, order } = unlocked(part);
            for pair in order.windows(2) {
                let (one, other) = (pair[0] as usize, pair[1] as usize);
                if entries.hashes[one] == entries.hashes[other] {
                    visit(entries.hashes[one], entries.key(other));
                }
            }
        }
    }

    /// The parts in the order of hashes, each sorted, of one key the last entry.
    pub fn into_newest(mut self, threads: usize) -> Vec<Part> {
        self.sort(threads);
        let parts = self.parts.into_iter().map(|part| part.into_inner().unwrap_or_else(PoisonError::into_inner));
        parts
            .map(|mut part| {
                part.newest();
                part
            })
            .collect()
    }
}

impl From<&Entries> for Collected {
    fn from(entries: &Entries) -> Self {
        let all = Self::default();
        all.add(entries);
        all
    }
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_128;

    use super::*;

    fn entries(keys: impl Iterator<Item = u64>) -> Entries {
        let mut all = Entries::default();
        for (at, key) in keys.enumerate() {
            let key = key.to_le_bytes();
            let state = State { feature_hash: at as u64, definition_hash: at as u64 % 3, live: at % 2 == 0 };
            all.push(xxh3_128(&key), state, |out| out.extend_from_slice(&key));
        }
        all
    }

    #[test]
    fn parts_hold_every_key_once_in_the_order_of_hashes_with_its_last_state() {
        for (count, threads) in [(0u64, 1), (1, 1), (700, 2), (120_000, 3)] {
            let mut all = Collected::default();
            let batches = [entries(0..count), entries((0..count).filter(|k| k % 5 == 0))];
            batches.iter().for_each(|batch| all.add(batch));
            let mut twice = 0;
            all.duplicates(threads, |_, _| twice += 1);
            assert_eq!(twice, batches[1].len());
            let parts = all.into_newest(threads);
            let found: Vec<KeyHash> =
                parts.iter().flat_map(|part| part.ordered().map(|at| part.entries.hash(at))).collect();
            assert_eq!(found.len() as u64, count);
            assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
            for part in &parts {
                for at in part.ordered() {
                    let key = u64::from_le_bytes(part.entries.key(at).try_into().unwrap());
                    let (batch, row) = if key % 5 == 0 { (1, key / 5) } else { (0, key) };
                    assert_eq!(part.entries.state(at), batches[batch].state(row as usize));
                }
            }
        }
    }
}
