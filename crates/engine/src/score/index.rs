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

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::key::{KeyHash, KeySet};
use crate::lake::durable;

const MAGIC: &[u8; 8] = b"INSIDX01";
/// Segments are merged when there are more than these, or when the small ones
/// hold more than an eighth of the base.
const MAX_SEGMENTS: usize = 12;
/// From this many entries on, several threads sort and write.
const PARALLEL: usize = 50_000;
/// They are two to the power of this.
const PART_BITS: u32 = 1;

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

/// A state with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The hash of the encoded key.
    pub hash: KeyHash,
    /// The encoded key.
    pub key: Vec<u8>,
    /// The state.
    pub state: State,
}

/// Many entries, column by column.
#[derive(Debug, Default)]
pub struct Entries {
    hashes: Vec<KeyHash>,
    features: Vec<u64>,
    definitions: Vec<u64>,
    live: Vec<bool>,
    ends: Vec<usize>,
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
        self.hashes.push(hash);
        self.features.push(state.feature_hash);
        self.definitions.push(state.definition_hash);
        self.live.push(state.live);
        encode(&mut self.keys);
        self.ends.push(self.keys.len());
    }

    /// All of them, in this order.
    pub fn concat(parts: Vec<Self>) -> Self {
        let rows = parts.iter().map(Self::len).sum();
        let mut all = Self {
            hashes: Vec::with_capacity(rows),
            features: Vec::with_capacity(rows),
            definitions: Vec::with_capacity(rows),
            live: Vec::with_capacity(rows),
            ends: Vec::with_capacity(rows),
            keys: Vec::with_capacity(parts.iter().map(|p| p.keys.len()).sum()),
        };
        for mut part in parts {
            let offset = all.keys.len();
            all.hashes.append(&mut part.hashes);
            all.features.append(&mut part.features);
            all.definitions.append(&mut part.definitions);
            all.live.append(&mut part.live);
            all.keys.append(&mut part.keys);
            all.ends.extend(part.ends.into_iter().map(|end| end + offset));
        }
        all
    }

    /// The encoded key of an entry.
    pub fn key(&self, at: usize) -> &[u8] {
        let from = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.keys[from..self.ends[at]]
    }

    /// The entries by hash, those of one key in order of arrival, in parts that
    /// follow each other; each part was made by a thread.
    pub fn by_hash(&self) -> Vec<Vec<(KeyHash, u32)>> {
        if self.len() < PARALLEL {
            return vec![self.hashed(0, 0)];
        }
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..1 << PART_BITS).map(|part| scope.spawn(move || self.hashed(PART_BITS, part))).collect();
            workers.into_iter().flat_map(|worker| worker.join()).collect()
        })
    }

    /// Those whose hash begins with the `bits` bits of `part`, by hash.
    fn hashed(&self, bits: u32, part: u64) -> Vec<(KeyHash, u32)> {
        // First into buckets of about four by the leading bits, then each.
        let fine = bits.max((self.len() / 4).checked_ilog2().unwrap_or(0));
        let first = part << (fine - bits);
        let mine = |hash: &KeyHash| bucket_of(*hash, bits) == part;
        let bucket = |hash: &KeyHash| (bucket_of(*hash, fine) - first) as usize;
        let mut ends = vec![0u32; (1 << (fine - bits)) + 1];
        self.hashes.iter().filter(|hash| mine(hash)).for_each(|hash| ends[bucket(hash) + 1] += 1);
        for at in 1..ends.len() {
            ends[at] += ends[at - 1];
        }
        let mut sorted = vec![(0, 0u32); ends.last().map_or(0, |end| *end as usize)];
        for (at, hash) in self.hashes.iter().enumerate().filter(|(_, hash)| mine(hash)) {
            let next = &mut ends[bucket(hash)];
            sorted[*next as usize] = (*hash, at as u32);
            *next += 1;
        }
        let mut from = 0;
        for end in &ends[..ends.len() - 1] {
            sorted[from..*end as usize].sort_unstable();
            from = *end as usize;
        }
        sorted
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Self {
        let mut all = Self::default();
        for entry in entries {
            all.push(entry.hash, entry.state, |out| out.extend_from_slice(&entry.key));
        }
        all
    }
}

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

    /// Writes entries, whose keys begin at `offset`.
    fn fill(self, part: &[(KeyHash, u32)], entries: &Entries, definitions: &[u64], mut offset: u32) {
        let (features, definition_numbers) = (self.features.chunks_exact_mut(8), self.definitions.chunks_exact_mut(2));
        let (hashes, offsets) = (self.hashes.chunks_exact_mut(16), self.offsets.chunks_exact_mut(4));
        let mut keys = self.keys;
        let places = hashes.zip(features).zip(definition_numbers).zip(self.flags).zip(offsets);
        for (((((out_hash, feature), number), flag), out_offset), (hash, at)) in places.zip(part) {
            let at = *at as usize;
            out_hash.copy_from_slice(&hash.to_le_bytes());
            feature.copy_from_slice(&entries.features[at].to_le_bytes());
            let known = definitions.iter().position(|d| *d == entries.definitions[at]).unwrap_or(0);
            number.copy_from_slice(&(known as u16).to_le_bytes());
            *flag = u8::from(entries.live[at]);
            out_offset.copy_from_slice(&offset.to_le_bytes());
            let key = entries.key(at);
            let (place, rest) = std::mem::take(&mut keys).split_at_mut(key.len());
            place.copy_from_slice(key);
            keys = rest;
            offset += key.len() as u32;
        }
    }
}

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
    pub fn build(anchor: Anchor, entries: &Entries) -> Result<Self> {
        let segment = Segment::build(&anchor, None, entries, 0)?;
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

    /// Adds the entries of a commit and saves what is new. Errors of the file
    /// system are not the run's errors: the index is dropped.
    pub fn advance(mut self, folder: &Path, anchor: Anchor, entries: Entries) -> Result<()> {
        let small: usize = self.segments.iter().rev().skip(1).map(Segment::len).sum::<usize>() + entries.len();
        let base = self.segments.last().map_or(0, Segment::len);
        let merge = self.segments.is_empty() || small * 8 > base || self.segments.len() >= MAX_SEGMENTS;
        fs::create_dir_all(folder).map_err(|e| durable::io_error("create folder", folder, e))?;
        let segment = if merge {
            let all = if self.segments.is_empty() { entries } else { Entries::concat(vec![self.take_all(), entries]) };
            Segment::build(&anchor, None, &all, 0)?
        } else {
            let mut live = self.live as i64;
            let mut seen = KeySet::default();
            for at in (0..entries.len()).rev() {
                if seen.insert(entries.hashes[at]) {
                    let was = self.get(entries.hashes[at]).is_some_and(|(_, s)| s.live);
                    live += i64::from(entries.live[at]) - i64::from(was);
                }
            }
            Segment::build(&anchor, Some(self.anchor.snapshot_id), &entries, live)?
        };
        segment.write(&file(folder, anchor.snapshot_id))?;
        if merge {
            sweep(folder, anchor.snapshot_id);
        }
        Ok(())
    }

    /// Saves an index that was built from the table.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let Some(segment) = self.segments.first().filter(|_| self.segments.len() == 1) else { return Ok(()) };
        fs::create_dir_all(folder).map_err(|e| durable::io_error("create folder", folder, e))?;
        segment.write(&file(folder, self.anchor.snapshot_id))?;
        sweep(folder, self.anchor.snapshot_id);
        Ok(())
    }

    fn take_all(&mut self) -> Entries {
        let mut all = Entries::default();
        for segment in std::mem::take(&mut self.segments).into_iter().rev() {
            for at in 0..segment.len() {
                all.push(segment.hash(at), segment.state(at), |out| out.extend_from_slice(segment.key(at)));
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
    fn build(anchor: &Anchor, parent: Option<i64>, entries: &Entries, live: i64) -> Result<Self> {
        if u32::try_from(entries.keys.len()).is_err() || u32::try_from(entries.len()).is_err() {
            return Err(Error::internal("a state index of more than 4 GiB of keys"));
        }
        let mut parts = entries.by_hash();
        // Of one key the last given counts.
        parts.iter_mut().for_each(|part| {
            part.reverse();
            part.dedup_by_key(|(hash, _)| *hash);
            part.reverse();
        });
        let count: usize = parts.iter().map(Vec::len).sum();
        let all = || parts.iter().flatten().map(|(_, at)| *at as usize);
        let live = if parent.is_none() { all().filter(|at| entries.live[*at]).count() as i64 } else { live };
        let mut definitions: Vec<u64> = Vec::new();
        for definition in &entries.definitions {
            if definitions.last() != Some(definition) && !definitions.contains(definition) {
                definitions.push(*definition);
            }
        }
        if definitions.len() > usize::from(u16::MAX) {
            return Err(Error::internal("too many definitions in a state index"));
        }
        let key_bytes_of = |part: &[(KeyHash, u32)]| part.iter().map(|(_, at)| entries.key(*at as usize).len()).sum();
        let key_bytes: Vec<usize> = parts.iter().map(|part| key_bytes_of(part)).collect();
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
        let mut hashes = parts.iter().flatten().map(|(hash, _)| *hash).enumerate().peekable();
        for (bucket, out) in bytes[places.buckets..places.hashes].chunks_exact_mut(4).enumerate() {
            while hashes.next_if(|(_, hash)| bucket_of(*hash, bucket_bits) < bucket as u64).is_some() {}
            let from = hashes.peek().map_or(count, |(at, _)| *at);
            out.copy_from_slice(&(from as u32).to_le_bytes());
        }
        let mut columns = Columns::new(&mut bytes, &places);
        std::thread::scope(|scope| {
            let mut offset = 0u32;
            for (part, key_bytes) in parts.iter().zip(&key_bytes) {
                let (mine, definitions, from) = (columns.take(part.len(), *key_bytes), &header.definitions, offset);
                offset += *key_bytes as u32;
                let fill = move || mine.fill(part, entries, definitions, from);
                if parts.len() == 1 {
                    fill();
                } else {
                    scope.spawn(fill);
                }
            }
            columns.offsets.copy_from_slice(&offset.to_le_bytes());
        });
        let sum = xxh3_64(&bytes[..places.end]);
        bytes[places.end..].copy_from_slice(&sum.to_le_bytes());
        Ok(Self { header, bytes, places })
    }

    fn write(&self, path: &Path) -> Result<()> {
        durable::replace(path, &self.bytes, false)
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

    fn anchor(snapshot_id: i64) -> Anchor {
        Anchor { pipeline: "p".into(), table_uuid: "u".into(), snapshot_id }
    }

    fn entry(n: u64, feature: u64, live: bool) -> Entry {
        let key = n.to_le_bytes().to_vec();
        let state = State { feature_hash: feature, definition_hash: n % 3, live };
        Entry { hash: xxhash_rust::xxh3::xxh3_128(&key), key, state }
    }

    #[test]
    fn what_was_added_is_found_through_every_segment() {
        let folder = tempfile::tempdir().unwrap();
        let first: Vec<Entry> = (0..5000).map(|n| entry(n, n, true)).collect();
        StateIndex::build(anchor(1), &first.iter().cloned().collect()).unwrap().save(folder.path()).unwrap();
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
            index.advance(folder.path(), anchor(round), changes.into_iter().collect()).unwrap();
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
        let index = StateIndex::build(anchor(1), &(0..50).map(|n| entry(n, n, true)).collect()).unwrap();
        index.save(folder.path()).unwrap();
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
