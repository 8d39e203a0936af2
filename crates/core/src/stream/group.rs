//! The rows of all window sets that share a key, for `each_event`.
//!
//! A row's head has, behind the key and for each set, a word with its newest
//! tile (and whether it was seeded); its words are a ring of tiles for each set.
//! Tile `t` is at place `t mod ring`; the ring is as long as a window and the
//! lateness that may enter one, so that no tile that an event can still see is
//! ever overwritten.

use super::aggregate::{Scratch, Tile};
use super::blobs::Blobs;
use super::input::{Batch, Key};
use super::keyed::KeyedRows;
use super::output::SetOutput;
use super::plan::{Plan, SetPlan};
use super::seed::Seed;
use super::settings::KeyType;
use super::slab::{Cell, Slab, Width, by_width};

#[derive(Debug)]
pub(crate) struct Group {
    /// Index of the key.
    pub key: usize,
    /// The window sets, and where in a row's words each begins.
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
        let (mut sets, mut kinds) = (Vec::new(), Vec::new());
        for (index, set) in plan.sets.iter().enumerate().filter(|(_, set)| set.key == key) {
            sets.push((index, kinds.len()));
            (0..set.ring).for_each(|_| kinds.extend(&set.words));
        }
        let numbers = plan.settings().keys[key] == KeyType::Id;
        let rows = KeyedRows::new(numbers, Slab::narrow(1 + sets.len(), kinds));
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
        let mut words = Vec::new();
        if !seeds.is_empty() {
            self.rows.slab.read(number, &mut words);
        }
        for (head, (index, at)) in (1..).zip(&self.sets) {
            let set = &plan.sets[*index];
            let seeds = || seeds.iter().filter(|seed| seed.set == *index);
            let limit = set.tiles.tile_of(newest);
            let seeded = seeds().flat_map(|seed| &seed.tiles).map(|(time, _)| set.tiles.tile_of(*time));
            let newest = seeded.filter(|tile| *tile <= limit).fold(set.tiles.tile_of(time), i64::max);
            self.rows.slab.head_mut(number)[head] = (newest << 1) as u64 | u64::from(seeds().next().is_some());
            for (time, parts) in seeds().flat_map(|seed| &seed.tiles) {
                let tile = set.tiles.tile_of(*time);
                if tile > newest || tile <= newest - set.ring {
                    continue;
                }
                let place = at + tile.rem_euclid(set.ring) as usize * set.words.len();
                for (part, aggregate) in parts.iter().zip(&set.aggregates) {
                    let state = part.words(aggregate).unwrap_or_default();
                    words[place + aggregate.at..][..state.len()].copy_from_slice(&state);
                }
            }
        }
        if !seeds.is_empty() {
            self.rows.slab.write(number, &words);
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
        for (order, (index, at)) in self.sets.iter().enumerate() {
            let set = &plan.sets[*index];
            let out = &mut out[*index];
            let near = &mut self.near[order];
            if time < near.from || time >= near.to {
                *near = Near::new(set, time);
            }
            let (near, ring) = (*near, *at..*at + set.ring as usize * set.words.len());
            let (head, cells, start) = self.rows.slab.row_mut(number);
            let header = &mut head[order + 1];
            let own = &mut scratch.own;
            let wider = by_width!(&mut *cells, cells => {
                let slots = &mut cells[start + ring.start..start + ring.end];
                advance(set, &near, header, slots, &mut self.blobs);
                let slot = &mut slots[near.place as usize * set.words.len()..][..set.words.len()];
                unpack(set, slot, own);
                for aggregate in &set.aggregates {
                    aggregate.update(own, &mut self.blobs, batch, row);
                }
                pack(set, own, slot).err()
            });
            let header = *header;
            if let Some(width) = wider {
                self.rows.slab.widen(number, width);
                let (_, cells, start) = self.rows.slab.row_mut(number);
                let slot = start + ring.start + near.place as usize * set.words.len();
                by_width!(cells, cells => {
                    let packed = pack(set, &scratch.own, &mut cells[slot..slot + set.words.len()]);
                    debug_assert!(packed.is_ok());
                });
            }
            let (cells, start) = self.rows.slab.cells(number);
            by_width!(cells, cells => {
                let slots = &cells[start + ring.start..start + ring.end];
                finish(set, &near, header as i64 >> 1, slots, &self.blobs, scratch, out);
            });
            out.window_ends.push(near.window_end);
            out.complete.push(header & 1 == 1 || near.window_start >= covered_from);
        }
    }

    /// Bytes by which an event widens the rows, when it enters that of its key,
    /// or a new one.
    pub fn widening(&self, plan: &Plan, number: Option<usize>, (batch, row): (&Batch<'_>, usize)) -> u64 {
        let mut width = Width::One;
        let mut own = Vec::new();
        for (order, (index, at)) in self.sets.iter().enumerate() {
            let set = &plan.sets[*index];
            own.clear();
            own.resize(set.words.len(), 0);
            let tile = set.tiles.tile_of(batch.event_times[row]);
            let held = number.filter(|number| tile <= self.rows.slab.head(*number)[order + 1] as i64 >> 1);
            if let Some(number) = held {
                let (cells, start) = self.rows.slab.cells(number);
                let slot = start + at + tile.rem_euclid(set.ring) as usize * set.words.len();
                by_width!(cells, cells => unpack(set, &cells[slot..slot + set.words.len()], &mut own));
            }
            for aggregate in &set.aggregates {
                aggregate.foresee(&mut own, &self.blobs, batch, row);
            }
            let widths = own.iter().zip(&set.words).map(|(word, kind)| Width::of(*word, *kind));
            width = widths.fold(width, Width::max);
        }
        self.rows.slab.widening(number.unwrap_or(self.rows.len()), width) as u64
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
            let newest = &self.rows.slab.head(self.hand)[1..];
            if self.sets.iter().zip(newest).any(|((index, _), newest)| (*newest as i64 >> 1) >= oldest[*index]) {
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
                let (_, cells, start) = self.rows.slab.row_mut(number);
                by_width!(cells, cells => {
                    for slot in cells[start + at..][..set.row_words()].chunks_exact_mut(set.words.len()) {
                        clear(set, slot, &mut self.blobs);
                    }
                });
            }
        }
    }
}

/// Makes the tile of an event the newest, if it is newer: tiles that leave the
/// ring are empty.
#[inline]
fn advance<C: Cell>(set: &SetPlan, near: &Near, header: &mut u64, slots: &mut [C], blobs: &mut Blobs) {
    let (width, ring, newest) = (set.words.len(), set.ring, *header as i64 >> 1);
    if near.tile <= newest {
        return;
    }
    for back in 0..(near.tile - newest).min(ring) {
        let place = near.place - back;
        let place = if place >= 0 { place } else { place + ring } as usize;
        clear(set, &mut slots[place * width..][..width], blobs);
    }
    *header = (near.tile << 1) as u64 | *header & 1;
}

/// The results over the tiles of the first window with an event.
#[inline]
fn finish<C: Cell>(
    set: &SetPlan,
    near: &Near,
    newest: i64,
    slots: &[C],
    blobs: &Blobs,
    scratch: &mut Scratch,
    out: &mut SetOutput,
) {
    let (width, ring) = (set.words.len(), set.ring);
    let oldest = near.first.max(newest - ring + 1);
    let count = near.behind.min(newest + 1) - oldest;
    let start = near.place - (near.tile - oldest);
    let start = if start < 0 { start + ring } else { start } as usize;
    let (end, ring) = (start + count as usize, ring as usize);
    let wrapped = &slots[..end.saturating_sub(ring) * width];
    let straight = &slots[start * width..end.min(ring) * width];
    let tiles = straight.chunks_exact(width.max(1)).chain(wrapped.chunks_exact(width.max(1)));
    let tiles = tiles.map(move |words| Tile { words, blobs });
    for (aggregate, column) in set.aggregates.iter().zip(&mut out.columns) {
        aggregate.finish(tiles.clone(), scratch, column);
    }
}

#[inline]
fn unpack<C: Cell>(set: &SetPlan, slot: &[C], words: &mut Vec<u64>) {
    words.clear();
    words.extend(slot.iter().zip(&set.words).map(|(cell, kind)| cell.word(*kind)));
}

/// Puts the words of a tile into its slot, all of them or, where one does not
/// fit, none: then says how wide they are.
#[inline]
fn pack<C: Cell>(set: &SetPlan, words: &[u64], slot: &mut [C]) -> Result<(), Width> {
    let kinds = || words.iter().zip(&set.words);
    if kinds().any(|(word, kind)| C::pack(*word, *kind).is_none()) {
        let widths = kinds().map(|(word, kind)| Width::of(*word, *kind));
        return Err(widths.max().unwrap_or(Width::One));
    }
    for (cell, (word, kind)) in slot.iter_mut().zip(kinds()) {
        *cell = C::pack(*word, *kind).unwrap_or_default();
    }
    Ok(())
}

/// Empties a tile.
#[inline]
pub(crate) fn clear<C: Cell>(set: &SetPlan, cells: &mut [C], blobs: &mut Blobs) {
    if set.has_blobs {
        for (cell, _) in cells.iter().zip(&set.words).filter(|(_, kind)| kind.is_blob()) {
            blobs.release(&mut cell.number());
        }
    }
    cells.fill(C::default());
}
