//! The rows of all window sets that share a key, for `each_event`.
//!
//! A row has, for each set, a word with its newest tile (and whether it was
//! seeded), then a ring of tiles. Tile `t` is at place `t mod ring`; the ring
//! is as long as a window and the lateness that may enter one, so that no tile
//! that an event can still see is ever overwritten.

use super::aggregate::{Scratch, Tile};
use super::blobs::Blobs;
use super::input::{Batch, Key};
use super::keyed::KeyedRows;
use super::output::SetOutput;
use super::plan::{Plan, SetPlan};
use super::seed::Seed;
use super::settings::KeyType;

#[derive(Debug)]
pub(crate) struct Group {
    /// Index of the key.
    pub key: usize,
    /// The window sets, and where in a row each begins.
    pub sets: Vec<(usize, usize)>,
    /// For each set the tile of the last event: the next is mostly in it, and
    /// divisions are slow.
    near: Vec<Near>,
    pub rows: KeyedRows,
    pub blobs: Blobs,
    /// The next row that the sweep looks at.
    pub hand: usize,
    /// Rows that the sweep still looks at.
    pub unswept: usize,
}

/// A tile, and what follows from it.
#[derive(Debug, Clone, Copy)]
struct Near {
    /// When it starts and ends.
    from: i64,
    to: i64,
    tile: i64,
    place: i64,
    /// The first window with it: its tiles, start and end.
    first: i64,
    behind: i64,
    window_start: i64,
    window_end: i64,
}

impl Near {
    #[cold]
    fn new(set: &SetPlan, time: i64) -> Self {
        let tile = set.tiles.tile_of(time);
        let (first, behind) = set.tiles.first_window_with(tile);
        Self {
            from: set.tiles.start_of(tile),
            to: set.tiles.start_of(tile + 1),
            tile,
            place: tile.rem_euclid(set.ring),
            first,
            behind,
            window_start: set.tiles.start_of(first),
            window_end: set.tiles.start_of(behind),
        }
    }
}

impl Group {
    pub fn new(plan: &Plan, key: usize) -> Self {
        let mut at = 1;
        let mut sets = Vec::new();
        for (index, set) in plan.sets.iter().enumerate().filter(|(_, set)| set.key == key) {
            sets.push((index, at));
            at += set.row_words();
        }
        let numbers = plan.settings().keys[key] == KeyType::Id;
        let rows = KeyedRows::new(numbers, at - 1);
        let near = sets.iter().map(|(index, _)| Near::new(&plan.sets[*index], 0)).collect();
        Self { key, sets, near, rows, blobs: Blobs::default(), hand: 0, unswept: 0 }
    }

    pub fn heap_bytes(&self) -> u64 {
        self.rows.heap_bytes() + self.blobs.heap_bytes()
    }

    /// Adds a key whose first event is at `time`, in a partition whose newest
    /// is at `newest`; seeds of later tiles do not count yet and never will.
    pub fn insert(
        &mut self,
        plan: &Plan,
        key: Key<'_>,
        hash: u32,
        (time, newest): (i64, i64),
        seeds: &[Seed],
    ) -> usize {
        let number = self.rows.insert(key, hash);
        self.unswept += usize::from(self.unswept > 0);
        let row = self.rows.row_mut(number);
        for (index, at) in &self.sets {
            let set = &plan.sets[*index];
            let seeds = || seeds.iter().filter(|seed| seed.set == *index);
            let limit = set.tiles.tile_of(newest);
            let seeded = seeds().flat_map(|seed| &seed.tiles).map(|(time, _)| set.tiles.tile_of(*time));
            let newest = seeded.filter(|tile| *tile <= limit).fold(set.tiles.tile_of(time), i64::max);
            let words = &mut row[*at..*at + set.row_words()];
            words[0] = (newest << 1) as u64 | u64::from(seeds().next().is_some());
            for (time, parts) in seeds().flat_map(|seed| &seed.tiles) {
                let tile = set.tiles.tile_of(*time);
                if tile > newest || tile <= newest - set.ring {
                    continue;
                }
                let place = 1 + tile.rem_euclid(set.ring) as usize * set.words.len();
                for (part, aggregate) in parts.iter().zip(&set.aggregates) {
                    let state = part.words(aggregate).unwrap_or_default();
                    words[place + aggregate.at..][..state.len()].copy_from_slice(&state);
                }
            }
        }
        number
    }

    /// Takes an event into its row and gives the windows with it.
    #[inline]
    pub fn enter(
        &mut self,
        plan: &Plan,
        number: usize,
        (batch, row): (&Batch<'_>, usize),
        covered_from: i64,
        scratch: &mut Scratch,
        out: &mut [SetOutput],
    ) {
        self.rows.mark(number);
        let time = batch.event_times[row];
        let state = self.rows.row_mut(number);
        for ((index, at), near) in self.sets.iter().zip(&mut self.near) {
            let set = &plan.sets[*index];
            let out = &mut out[*index];
            if time < near.from || time >= near.to {
                *near = Near::new(set, time);
            }
            let Near { tile, place, first, behind, .. } = *near;
            let (header, slots) = state[*at..*at + set.row_words()].split_at_mut(1);
            let (width, ring) = (set.words.len(), set.ring);
            let mut newest = header[0] as i64 >> 1;
            if tile > newest {
                for back in 0..(tile - newest).min(ring) {
                    let place = if place >= back { place - back } else { place - back + ring } as usize;
                    clear(set, &mut slots[place * width..][..width], &mut self.blobs);
                }
                newest = tile;
                header[0] = (tile << 1) as u64 | header[0] & 1;
            }
            let own = &mut slots[place as usize * width..][..width];
            for aggregate in &set.aggregates {
                aggregate.update(own, &mut self.blobs, batch, row);
            }

            let oldest = first.max(newest - ring + 1);
            let count = behind.min(newest + 1) - oldest;
            let start = place - (tile - oldest);
            let start = if start < 0 { start + ring } else { start } as usize;
            let (slots, blobs) = (&*slots, &self.blobs);
            let (end, ring) = (start + count as usize, ring as usize);
            let wrapped = &slots[..end.saturating_sub(ring) * width];
            let straight = &slots[start * width..end.min(ring) * width];
            let tiles = straight.chunks_exact(width.max(1)).chain(wrapped.chunks_exact(width.max(1)));
            let tiles = tiles.map(move |words| Tile { words, blobs });
            for (aggregate, column) in set.aggregates.iter().zip(&mut out.columns) {
                aggregate.finish(tiles.clone(), scratch, column);
            }
            out.window_ends.push(near.window_end);
            out.complete.push(header[0] & 1 == 1 || near.window_start >= covered_from);
        }
    }

    /// Looks at the next rows and removes those that no window can need: their
    /// newest tile is before the oldest that an event can still see.
    pub fn sweep(&mut self, plan: &Plan, oldest: &[i64]) {
        for _ in 0..self.unswept.min(2) {
            self.unswept -= 1;
            if self.rows.len() == 0 {
                self.unswept = 0;
                return;
            }
            if self.hand >= self.rows.len() {
                self.hand = 0;
            }
            let row = self.rows.row(self.hand);
            if self.sets.iter().any(|(index, at)| (row[*at] as i64 >> 1) >= oldest[*index]) {
                self.hand += 1;
                continue;
            }
            self.clear_row(plan, self.hand);
            self.rows.remove(self.hand);
        }
    }

    /// Removes the rows of keys for which `gone` holds. Answers how many.
    pub fn forget(&mut self, plan: &Plan, gone: &dyn Fn(usize, Key<'_>) -> bool) -> usize {
        let before = self.rows.len();
        // The row that takes a removed one's place has been looked at.
        for number in (0..before).rev() {
            if gone(self.key, self.rows.key(number)) {
                self.clear_row(plan, number);
                self.rows.remove(number);
            }
        }
        let left = self.rows.len();
        (self.hand, self.unswept) = (self.hand.min(left), self.unswept.min(left));
        before - left
    }

    /// Drops the blobs of a row.
    pub fn clear_row(&mut self, plan: &Plan, number: usize) {
        for (index, at) in &self.sets {
            let set = &plan.sets[*index];
            if set.has_blobs {
                let row = self.rows.row_mut(number);
                for slot in row[*at + 1..*at + set.row_words()].chunks_exact_mut(set.words.len()) {
                    clear(set, slot, &mut self.blobs);
                }
            }
        }
    }
}

/// Empties a tile.
#[inline]
pub(crate) fn clear(set: &SetPlan, words: &mut [u64], blobs: &mut Blobs) {
    if set.has_blobs {
        for (word, kind) in words.iter_mut().zip(&set.words) {
            if kind.is_blob() {
                blobs.release(word);
            }
        }
    }
    words.fill(0);
}
