//! The state index: entity key → (feature hash, definition hash, live).
//!
//! A cache: what it says is also in the prediction table, and a missing, stale
//! or damaged index only costs the time to read it from there. It is a chain of
//! segments, newest first, each a sorted array over the 128-bit key hash with a
//! bucket table in front, so that a look-up touches one or two cache lines and
//! a run adds a segment as large as its changes. Small segments are merged into
//! the base when they add up, so the cost of a run does not grow with history.
//!
//! File: magic, version, header (JSON, length first), then columns: bucket
//! offsets u32, key hashes u128, feature hashes u64, definition numbers u16,
//! flags u8, key offsets u32, key bytes; last the xxh3-64 of all before it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use insightera_core::{Error, Result};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::entries::{Collected, Entries, Part, State};
use crate::key::KeyHash;

const MAGIC: &[u8; 8] = b"INSIDX01";
/// Segments are merged when there are more than these, or when the small ones
/// hold more than an eighth of the base.
const MAX_SEGMENTS: usize = 12;
/// From this many entries on, several threads write.
const PARALLEL: usize = 50_000;
/// Entries that are taken out of a segment at once.
const MERGED: usize = 8192;

/// Of which table state an index speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The pipeline.
    pub pipeline: String,
    /// The prediction table's uuid.
    pub table_uuid: String,
    /// The table's snapshot.
    pub snapshot_id: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Header {
    anchor: Anchor,
    /// The snapshot of the next older segment.
    parent: Option<i64>,
    entries: usize,
    live: i64,
    bucket_bits: u32,
    key_bytes: usize,
    definitions: Vec<u64>,
}

/// One sorted run of entries, read from a file as it is.
#[derive(Debug)]
struct Segment {
    header: Header,
    bytes: Vec<u8>,
    places: Places,
}

/// Where the columns of a segment begin.
#[derive(Debug, Clone, Copy)]
struct Places {
    buckets: usize,
    hashes: usize,
    features: usize,
    definitions: usize,
    flags: usize,
    offsets: usize,
    keys: usize,
    end: usize,
}

impl Places {
    /// Behind a header of `length` bytes.
    fn new(header: &Header, length: usize) -> Self {
        let n = header.entries;
        let buckets = 12 + length;
        let hashes = buckets + 4 * ((1usize << header.bucket_bits.min(40)) + 1);
        let features = hashes + 16 * n;
        let definitions = features + 8 * n;
        let flags = definitions + 2 * n;
        let offsets = flags + n;
        let keys = offsets + 4 * (n + 1);
        Self { buckets, hashes, features, definitions, flags, offsets, keys, end: keys + header.key_bytes }
    }
}

/// The columns of a segment that is being built, or the rest of them.
struct Columns<'a> {
    hashes: &'a mut [u8],
    features: &'a mut [u8],
    definitions: &'a mut [u8],
    flags: &'a mut [u8],
    offsets: &'a mut [u8],
    keys: &'a mut [u8],
}

impl<'a> Columns<'a> {
    fn new(bytes: &'a mut [u8], places: &Places) -> Self {
        let (rest, keys) = bytes[..places.end].split_at_mut(places.keys);
        let (rest, offsets) = rest.split_at_mut(places.offsets);
        let (rest, flags) = rest.split_at_mut(places.flags);
        let (rest, definitions) = rest.split_at_mut(places.definitions);
        let (rest, features) = rest.split_at_mut(places.features);
        let (_, hashes) = rest.split_at_mut(places.hashes);
        Self { hashes, features, definitions, flags, offsets, keys }
    }

    /// The places of the next entries.
    fn take(&mut self, entries: usize, key_bytes: usize) -> Columns<'a> {
        fn front<'a>(rest: &mut &'a mut [u8], length: usize) -> &'a mut [u8] {
            let (front, back) = std::mem::take(rest).split_at_mut(length);
            *rest = back;
            front
        }
        Columns {
            hashes: front(&mut self.hashes, 16 * entries),
            features: front(&mut self.features, 8 * entries),
            definitions: front(&mut self.definitions, 2 * entries),
            flags: front(&mut self.flags, entries),
            offsets: front(&mut self.offsets, 4 * entries),
            keys: front(&mut self.keys, key_bytes),
        }
    }

    /// Writes the entries of a part, whose keys begin at `offset`;
    /// `definitions` are the numbers of the part's definitions.
    fn fill(self, part: &Part, definitions: &[u16], mut offset: u32) {
        let (features, definition_numbers) = (self.features.chunks_exact_mut(8), self.definitions.chunks_exact_mut(2));
        let (hashes, offsets) = (self.hashes.chunks_exact_mut(16), self.offsets.chunks_exact_mut(4));
        let mut keys = self.keys;
        let places = hashes.zip(features).zip(definition_numbers).zip(self.flags).zip(offsets);
        for (((((out_hash, feature), number), flag), out_offset), at) in places.zip(part.ordered()) {
            let state = part.entries.state(at);
            out_hash.copy_from_slice(&part.entries.hash(at).to_le_bytes());
            feature.copy_from_slice(&state.feature_hash.to_le_bytes());
            number.copy_from_slice(&definitions[part.entries.definition(at)].to_le_bytes());
            *flag = u8::from(state.live);
            out_offset.copy_from_slice(&offset.to_le_bytes());
            let key = part.entries.key(at);
            let (place, rest) = std::mem::take(&mut keys).split_at_mut(key.len());
            place.copy_from_slice(key);
            keys = rest;
            offset += key.len() as u32;
        }
    }
}

/// Puts bytes into a file: whoever reads it sees these or what was there before.
pub type Replace<'a> = &'a dyn Fn(&Path, &[u8]) -> Result<()>;

/// An open index.
#[derive(Debug)]
pub struct StateIndex {
    anchor: Anchor,
    /// Newest first.
    segments: Vec<Segment>,
    live: u64,
}

impl StateIndex {
    /// An index of an empty table state.
    pub fn empty(anchor: Anchor) -> Self {
        Self { anchor, segments: Vec::new(), live: 0 }
    }

    /// Builds an index of these entries; of entries with one key the last
    /// counts.
    ///
    /// # Errors
    /// `Internal` for what an index cannot hold.
    pub fn build(anchor: Anchor, entries: Collected, threads: usize) -> Result<Self> {
        let segment = Segment::build(&anchor, None, entries.into_newest(threads), None, threads)?;
        let live = segment.header.live.max(0) as u64;
        Ok(Self { anchor, segments: vec![segment], live })
    }

    /// The newest saved snapshot of `folder` that is in `candidates`; they come
    /// newest first.
    pub fn open(folder: &Path, anchors: impl IntoIterator<Item = Anchor>) -> Option<Self> {
        let anchor = anchors.into_iter().find(|a| file(folder, a.snapshot_id).exists())?;
        let mut segments = Vec::new();
        let mut next = Some(anchor.snapshot_id);
        while let Some(snapshot) = next {
            let segment = Segment::read(&file(folder, snapshot))?;
            let same = segment.header.anchor.pipeline == anchor.pipeline
                && segment.header.anchor.table_uuid == anchor.table_uuid
                && segment.header.anchor.snapshot_id == snapshot;
            if !same || segments.len() > 2 * MAX_SEGMENTS {
                return None;
            }
            next = segment.header.parent;
            segments.push(segment);
        }
        let live = segments.first()?.header.live.max(0) as u64;
        Some(Self { anchor, segments, live })
    }

    /// What it speaks of.
    pub fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    /// Live entities.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// Entries of all segments; slots are below this.
    pub fn slots(&self) -> usize {
        self.segments.iter().map(Segment::len).sum()
    }

    /// The state of a key, and the slot that holds it.
    pub fn get(&self, hash: KeyHash) -> Option<(usize, State)> {
        let mut base = 0;
        for segment in &self.segments {
            if let Some(at) = segment.find(hash) {
                return Some((base + at, segment.state(at)));
            }
            base += segment.len();
        }
        None
    }

    /// The newest live entries whose slot `seen` does not know: slot and hash.
    pub fn live_unseen(&self, seen: impl Fn(usize) -> bool) -> Vec<(usize, KeyHash)> {
        let mut found = Vec::new();
        let mut base = 0;
        for (depth, segment) in self.segments.iter().enumerate() {
            for at in 0..segment.len() {
                if seen(base + at) || !segment.state(at).live {
                    continue;
                }
                let hash = segment.hash(at);
                if self.segments[..depth].iter().all(|newer| newer.find(hash).is_none()) {
                    found.push((base + at, hash));
                }
            }
            base += segment.len();
        }
        found
    }

    /// The encoded key of a slot.
    pub fn key_of(&self, mut slot: usize) -> Option<&[u8]> {
        for segment in &self.segments {
            if slot < segment.len() {
                return Some(segment.key(slot));
            }
            slot -= segment.len();
        }
        None
    }

    /// Adds the entries of a commit and saves what is new, by `replace`.
    ///
    /// # Errors
    /// Those of `replace`, and `Internal` for what an index cannot hold. They
    /// are not the run's errors: the index is dropped.
    pub fn advance(
        mut self,
        folder: &Path,
        anchor: Anchor,
        entries: Collected,
        threads: usize,
        replace: Replace<'_>,
    ) -> Result<()> {
        let parts = entries.into_newest(threads);
        let changes: usize = parts.iter().map(|part| part.order.len()).sum();
        let small: usize = self.segments.iter().rev().skip(1).map(Segment::len).sum::<usize>() + changes;
        let base = self.segments.last().map_or(0, Segment::len);
        let merge = self.segments.is_empty() || small * 8 > base || self.segments.len() >= MAX_SEGMENTS;
        let segment = if self.segments.is_empty() {
            Segment::build(&anchor, None, parts, None, threads)?
        } else if merge {
            let all = self.take_all();
            parts.iter().for_each(|part| all.add(&part.entries));
            Segment::build(&anchor, None, all.into_newest(threads), None, threads)?
        } else {
            let mut live = self.live as i64;
            for part in &parts {
                for at in part.ordered() {
                    let was = self.get(part.entries.hash(at)).is_some_and(|(_, state)| state.live);
                    live += i64::from(part.entries.state(at).live) - i64::from(was);
                }
            }
            Segment::build(&anchor, Some(self.anchor.snapshot_id), parts, Some(live), threads)?
        };
        replace(&file(folder, anchor.snapshot_id), &segment.bytes)?;
        if merge {
            sweep(folder, anchor.snapshot_id);
        }
        Ok(())
    }

    /// Saves an index that was built from the table, by `replace`.
    ///
    /// # Errors
    /// Those of `replace`.
    pub fn save(&self, folder: &Path, replace: Replace<'_>) -> Result<()> {
        let Some(segment) = self.segments.first().filter(|_| self.segments.len() == 1) else { return Ok(()) };
        replace(&file(folder, self.anchor.snapshot_id), &segment.bytes)?;
        sweep(folder, self.anchor.snapshot_id);
        Ok(())
    }

    /// The entries of all segments, oldest first.
    fn take_all(&mut self) -> Collected {
        let all = Collected::default();
        for segment in std::mem::take(&mut self.segments).into_iter().rev() {
            for from in (0..segment.len()).step_by(MERGED) {
                let mut batch = Entries::default();
                for at in from..segment.len().min(from + MERGED) {
                    batch.push(segment.hash(at), segment.state(at), |out| out.extend_from_slice(segment.key(at)));
                }
                all.add(&batch);
            }
        }
        all
    }
}

fn file(folder: &Path, snapshot: i64) -> PathBuf {
    folder.join(format!("{snapshot}.idx"))
}

/// Removes the segments that a merged one replaces.
fn sweep(folder: &Path, keep: i64) {
    let keep = file(folder, keep);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path() != keep && entry.path().extension().is_some_and(|e| e == "idx") {
            // A leftover only wastes space.
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Segment {
    /// Of sorted parts; `live` is the number of live entities, where it is not
    /// that of the live entries.
    fn build(
        anchor: &Anchor,
        parent: Option<i64>,
        parts: Vec<Part>,
        live: Option<i64>,
        threads: usize,
    ) -> Result<Self> {
        let count: usize = parts.iter().map(|part| part.order.len()).sum();
        let key_bytes: Vec<usize> =
            parts.iter().map(|part| part.ordered().map(|at| part.entries.key(at).len()).sum()).collect();
        if u32::try_from(key_bytes.iter().sum::<usize>()).is_err() || u32::try_from(count).is_err() {
            return Err(Error::internal("a state index of more than 4 GiB of keys"));
        }
        let live_entries =
            || parts.iter().flat_map(|p| p.ordered().map(|at| p.entries.state(at).live)).filter(|l| *l).count() as i64;
        let live = live.unwrap_or_else(live_entries);
        let mut definitions: Vec<u64> = Vec::new();
        for definition in parts.iter().flat_map(|part| part.entries.definitions()) {
            if !definitions.contains(definition) {
                definitions.push(*definition);
            }
        }
        if definitions.len() > usize::from(u16::MAX) {
            return Err(Error::internal("too many definitions in a state index"));
        }
        let number = |definition: &u64| definitions.iter().position(|d| d == definition).unwrap_or(0) as u16;
        let numbers: Vec<Vec<u16>> =
            parts.iter().map(|part| part.entries.definitions().iter().map(number).collect()).collect();
        let bucket_bits = (count / 4).checked_ilog2().unwrap_or(0);
        let header = Header {
            anchor: anchor.clone(),
            parent,
            entries: count,
            live,
            bucket_bits,
            key_bytes: key_bytes.iter().sum(),
            definitions,
        };
        let json = serde_json::to_vec(&header).map_err(|e| Error::internal(format!("index header: {e}")))?;
        let places = Places::new(&header, json.len());
        let mut bytes = vec![0u8; places.end + 8];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&(json.len() as u32).to_le_bytes());
        bytes[12..12 + json.len()].copy_from_slice(&json);
        let mut columns = Columns::new(&mut bytes, &places);
        let (mut jobs, mut offset) = (Vec::new(), 0u32);
        for ((part, key_bytes), numbers) in parts.into_iter().zip(&key_bytes).zip(numbers) {
            let place = columns.take(part.order.len(), *key_bytes);
            jobs.push((part, place, numbers, offset));
            offset += *key_bytes as u32;
        }
        columns.offsets.copy_from_slice(&offset.to_le_bytes());
        // A part is let go as soon as it is written.
        let jobs = Mutex::new(jobs.into_iter());
        let work = || {
            loop {
                let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((part, place, numbers, offset)) = next else { return };
                place.fill(&part, &numbers, offset);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..if count < PARALLEL { 1 } else { threads.max(1) } {
                scope.spawn(work);
            }
            work();
        });
        drop(jobs);
        let (front, back) = bytes.split_at_mut(places.hashes);
        let leading = |hash: &[u8]| {
            let mut word = [0; 16];
            word.copy_from_slice(hash);
            bucket_of(u128::from_le_bytes(word), bucket_bits)
        };
        let mut hashes = back[..16 * count].chunks_exact(16).map(leading).enumerate().peekable();
        for (bucket, out) in front[places.buckets..].chunks_exact_mut(4).enumerate() {
            while hashes.next_if(|(_, leading)| *leading < bucket as u64).is_some() {}
            let from = hashes.peek().map_or(count, |(at, _)| *at);
            out.copy_from_slice(&(from as u32).to_le_bytes());
        }
        let sum = xxh3_64(&bytes[..places.end]);
        bytes[places.end..].copy_from_slice(&sum.to_le_bytes());
        Ok(Self { header, bytes, places })
    }

    fn read(path: &Path) -> Option<Self> {
        Self::parse(fs::read(path).ok()?)
    }

    /// Checks sum, header and sizes; anything odd is no index.
    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let body = bytes.len().checked_sub(8)?;
        if xxh3_64(&bytes[..body]).to_le_bytes() != bytes[body..] || !bytes.starts_with(MAGIC) {
            return None;
        }
        let length = u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?) as usize;
        let header: Header = serde_json::from_slice(bytes.get(12..12 + length)?).ok()?;
        let places = Places::new(&header, length);
        (places.end == body).then_some(Self { header, bytes, places })
    }

    fn len(&self) -> usize {
        self.header.entries
    }

    fn u32_at(&self, at: usize) -> usize {
        let mut word = [0; 4];
        word.copy_from_slice(&self.bytes[at..at + 4]);
        u32::from_le_bytes(word) as usize
    }

    fn hash(&self, at: usize) -> KeyHash {
        let from = self.places.hashes + 16 * at;
        let mut word = [0; 16];
        word.copy_from_slice(&self.bytes[from..from + 16]);
        u128::from_le_bytes(word)
    }

    fn find(&self, hash: KeyHash) -> Option<usize> {
        let bucket = bucket_of(hash, self.header.bucket_bits) as usize;
        let from = self.u32_at(self.places.buckets + 4 * bucket);
        let to = self.u32_at(self.places.buckets + 4 * (bucket + 1));
        (from..to).find(|at| self.hash(*at) == hash)
    }

    fn state(&self, at: usize) -> State {
        let mut feature = [0; 8];
        feature.copy_from_slice(&self.bytes[self.places.features + 8 * at..self.places.features + 8 * at + 8]);
        let from = self.places.definitions + 2 * at;
        let number = u16::from_le_bytes([self.bytes[from], self.bytes[from + 1]]) as usize;
        State {
            feature_hash: u64::from_le_bytes(feature),
            definition_hash: self.header.definitions.get(number).copied().unwrap_or(0),
            live: self.bytes[self.places.flags + at] == 1,
        }
    }

    fn key(&self, at: usize) -> &[u8] {
        let from = self.u32_at(self.places.offsets + 4 * at);
        let to = self.u32_at(self.places.offsets + 4 * (at + 1));
        &self.bytes[self.places.keys + from..self.places.keys + to]
    }
}

fn bucket_of(hash: KeyHash, bits: u32) -> u64 {
    if bits == 0 { 0 } else { (hash >> (128 - bits)) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, bytes: &[u8]) -> Result<()> {
        fs::write(path, bytes).map_err(|e| Error::unavailable(e.to_string()))
    }

    fn anchor(snapshot_id: i64) -> Anchor {
        Anchor { pipeline: "p".into(), table_uuid: "u".into(), snapshot_id }
    }

    #[derive(Clone)]
    struct Entry {
        hash: KeyHash,
        key: Vec<u8>,
        state: State,
    }

    fn entry(n: u64, feature: u64, live: bool) -> Entry {
        let key = n.to_le_bytes().to_vec();
        let state = State { feature_hash: feature, definition_hash: n % 3, live };
        Entry { hash: xxhash_rust::xxh3::xxh3_128(&key), key, state }
    }

    fn collected(entries: impl IntoIterator<Item = Entry>) -> Collected {
        let mut all = Entries::default();
        entries.into_iter().for_each(|e| all.push(e.hash, e.state, |out| out.extend_from_slice(&e.key)));
        Collected::from(&all)
    }

    #[test]
    fn what_was_added_is_found_through_every_segment() {
        let folder = tempfile::tempdir().unwrap();
        let first: Vec<Entry> = (0..5000).map(|n| entry(n, n, true)).collect();
        StateIndex::build(anchor(1), collected(first.iter().cloned()), 2).unwrap().save(folder.path(), &write).unwrap();
        let mut want = first;
        for round in 2..40i64 {
            let index = StateIndex::open(folder.path(), [anchor(round), anchor(round - 1)]).unwrap();
            assert_eq!(index.anchor().snapshot_id, round - 1);
            let changes: Vec<Entry> =
                (0..100).map(|i| entry((round as u64 * 977 + i * 13) % 6000, round as u64, i % 10 != 0)).collect();
            for change in &changes {
                match want.iter_mut().find(|e| e.hash == change.hash) {
                    Some(old) => *old = change.clone(),
                    None => want.push(change.clone()),
                }
            }
            index.advance(folder.path(), anchor(round), collected(changes), 2, &write).unwrap();
        }
        let index = StateIndex::open(folder.path(), [anchor(39)]).unwrap();
        for expected in &want {
            assert_eq!(index.get(expected.hash).unwrap().1, expected.state);
        }
        let live = want.iter().filter(|e| e.state.live).count();
        let found = index.live_unseen(|_| false);
        assert_eq!((index.live() as usize, found.len()), (live, live));
        for (slot, hash) in found {
            assert_eq!(xxhash_rust::xxh3::xxh3_128(index.key_of(slot).unwrap()), hash);
        }
    }

    #[test]
    fn a_damaged_or_foreign_index_is_no_index() {
        let folder = tempfile::tempdir().unwrap();
        let index = StateIndex::build(anchor(1), collected((0..50).map(|n| entry(n, n, true))), 2).unwrap();
        index.save(folder.path(), &write).unwrap();
        assert!(StateIndex::open(folder.path(), [Anchor { table_uuid: "other".into(), ..anchor(1) }]).is_none());
        let path = file(folder.path(), 1);
        let good = fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            fs::write(&path, &bad).unwrap();
            assert!(StateIndex::open(folder.path(), [anchor(1)]).is_none(), "byte {at}");
        }
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert!(StateIndex::open(folder.path(), [anchor(1)]).is_none());
    }
}
