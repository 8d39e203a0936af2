//! Rows of words by key: one slab of rows, numbered without gaps, and an
//! open-addressing table from key to number.
//!
//! Removing a row moves the last one into its place, so that the state of a
//! checkpoint is simply rows 0 to n, and what changed since the last one is a
//! set of numbers and n. Memory is only what [`KeyedRows::heap_bytes`] says.

use super::hash::{hash_bytes, hash_word};
use super::input::Key;
use super::slab::{Slab, grown};

/// Bits of a key reference that hold the key's length.
const LENGTH_BITS: u32 = 24;
/// Keys may not be longer.
pub(crate) const KEY_LIMIT: usize = (1 << LENGTH_BITS) - 1;

/// Rows by key. Word 0 of a row's head refers to its key and is not the
/// caller's.
#[derive(Debug)]
pub(crate) struct KeyedRows {
    /// Keys are numbers and stand in word 0.
    numbers: bool,
    pub slab: Slab,
    len: usize,
    /// 0, or the upper half of the key's hash and the row's number plus 1. The
    /// half hash also gives the place, so that growing reads no key.
    table: Vec<u64>,
    /// The bytes of the keys; those of removed ones are squeezed out.
    arena: Vec<u8>,
    garbage: usize,
    /// One bit for each row: changed since the last checkpoint.
    dirty: Vec<u64>,
}

/// The half of the hash that tables use.
#[inline]
pub(crate) fn hash_of(key: Key<'_>) -> u32 {
    (full_hash_of(key) >> 32) as u32
}

/// The whole of it.
#[inline]
pub(crate) fn full_hash_of(key: Key<'_>) -> u64 {
    match key {
        Key::Id(id) => hash_word(id),
        Key::Bytes(bytes) => hash_bytes(bytes),
    }
}

impl KeyedRows {
    /// No rows yet, kept in a slab that is empty.
    pub fn new(numbers: bool, slab: Slab) -> Self {
        Self { numbers, slab, len: 0, table: Vec::new(), arena: Vec::new(), garbage: 0, dirty: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn keys_are_numbers(&self) -> bool {
        self.numbers
    }

    pub fn key(&self, number: usize) -> Key<'_> {
        let word = self.slab.head(number)[0];
        if self.numbers { Key::Id(word) } else { Key::Bytes(self.bytes_of(word)) }
    }

    fn bytes_of(&self, reference: u64) -> &[u8] {
        let start = (reference >> LENGTH_BITS) as usize;
        &self.arena[start..start + (reference as usize & KEY_LIMIT)]
    }

    #[inline]
    fn is_key(&self, number: usize, key: Key<'_>) -> bool {
        let word = self.slab.head(number)[0];
        match key {
            Key::Id(id) => word == id,
            Key::Bytes(bytes) => self.bytes_of(word) == bytes,
        }
    }

    /// The number of a key's row.
    #[inline]
    pub fn find(&self, key: Key<'_>, hash: u32) -> Option<usize> {
        if self.table.is_empty() {
            return None;
        }
        let mask = self.table.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let entry = self.table[at];
            if entry == 0 {
                return None;
            }
            if (entry >> 32) as u32 == hash {
                let number = entry as u32 as usize - 1;
                if self.is_key(number, key) {
                    return Some(number);
                }
            }
            at = (at + 1) & mask;
        }
    }

    /// The key with this (whole) hash.
    pub fn key_with_hash(&self, hash: u64) -> Option<Key<'_>> {
        if self.table.is_empty() {
            return None;
        }
        let mask = self.table.len() - 1;
        let half = (hash >> 32) as u32;
        let mut at = half as usize & mask;
        while self.table[at] != 0 {
            if (self.table[at] >> 32) as u32 == half {
                let key = self.key(self.table[at] as u32 as usize - 1);
                if full_hash_of(key) == hash {
                    return Some(key);
                }
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// The number of the row that a key with this hash most likely has; any
    /// number if it has none. Reads the table only.
    #[inline]
    pub fn guess(&self, hash: u32) -> u32 {
        if self.table.is_empty() {
            return u32::MAX;
        }
        let mask = self.table.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let entry = self.table[at];
            if entry == 0 || (entry >> 32) as u32 == hash {
                return (entry as u32).wrapping_sub(1);
            }
            at = (at + 1) & mask;
        }
    }

    /// Reads what [`Self::find_guessed`] and an update will read, so that it
    /// is in the cache by then: many such reads run at once, where those of
    /// one event after the other wait for each other.
    #[inline]
    pub fn touch(&self, guess: u32) -> u64 {
        if guess as usize >= self.len {
            return 0;
        }
        self.slab.touch(guess as usize)
    }

    /// Reads a guessed key.
    #[inline]
    pub fn touch_key(&self, guess: u32) -> u64 {
        if self.numbers || guess as usize >= self.len {
            return 0;
        }
        u64::from(self.bytes_of(self.slab.head(guess as usize)[0]).first().copied().unwrap_or(0))
    }

    /// As [`Self::find`], where a guess was made.
    #[inline]
    pub fn find_guessed(&self, guess: u32, key: Key<'_>, hash: u32) -> Option<usize> {
        if (guess as usize) < self.len && self.is_key(guess as usize, key) {
            return Some(guess as usize);
        }
        self.find(key, hash)
    }

    /// Adds an empty row for a key that has none, and gives its number.
    pub fn insert(&mut self, key: Key<'_>, hash: u32) -> usize {
        if self.table_is_full() {
            self.rebuild_table(self.grown_table());
        }
        let number = self.push_row(key);
        self.enter(hash, number);
        number
    }

    /// Bytes by which [`Self::insert`] of one more key grows the state.
    pub fn growth(&self, key: Key<'_>) -> u64 {
        let mut bytes = 0;
        if self.table_is_full() {
            bytes += (self.grown_table() - self.table.len()) * 8;
        }
        bytes += self.slab.growth(self.len);
        if self.len == self.dirty.len() * 64 {
            bytes += grown(self.dirty.len(), self.dirty.capacity(), 1) * 8;
        }
        if let Key::Bytes(key) = key {
            bytes += grown(self.arena.len(), self.arena.capacity(), key.len());
        }
        bytes as u64
    }

    pub fn heap_bytes(&self) -> u64 {
        let rest = self.table.len() * 8 + self.arena.capacity() + self.dirty.capacity() * 8;
        (self.slab.heap_bytes() + rest) as u64
    }

    /// Removes a row; the last one takes its number.
    pub fn remove(&mut self, number: usize) {
        self.leave(number);
        let last = self.len - 1;
        if number != last {
            let entry = self.entry_of(last);
            self.table[entry] = self.table[entry] & !u64::from(u32::MAX) | (number as u64 + 1);
            self.slab.copy(last, number);
            self.mark(number);
        }
        self.truncate_rows(last);
        self.shrink();
    }

    #[inline]
    pub fn mark(&mut self, number: usize) {
        self.dirty[number / 64] |= 1 << (number % 64);
    }

    /// The numbers of changed rows, ascending.
    pub fn changed(&self) -> impl Iterator<Item = usize> {
        let words = self.dirty.iter().enumerate().filter(|(_, word)| **word != 0);
        words.flat_map(|(index, word)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * 64 + bit))
    }

    pub fn mark_none(&mut self) {
        self.dirty.fill(0);
    }

    /// For restoring: takes a row out of the table, and forgets its key.
    pub fn leave(&mut self, number: usize) {
        let entry = self.entry_of(number);
        if !self.numbers {
            self.garbage += self.slab.head(number)[0] as usize & KEY_LIMIT;
        }
        let mask = self.table.len() - 1;
        // What stands behind the hole moves up, unless that is before its home.
        let (mut hole, mut at) = (entry, (entry + 1) & mask);
        while self.table[at] != 0 {
            let home = (self.table[at] >> 32) as usize & mask;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.table[hole] = self.table[at];
                hole = at;
            }
            at = (at + 1) & mask;
        }
        self.table[hole] = 0;
    }

    /// For restoring: drops rows from `len` on, which have left the table.
    pub fn truncate_rows(&mut self, len: usize) {
        self.len = len;
        self.slab.truncate(len);
        self.dirty.truncate(len.div_ceil(64));
        if !len.is_multiple_of(64) {
            self.dirty[len / 64] &= (1 << (len % 64)) - 1;
        }
    }

    /// For restoring: gives a row that has left the table a key and empties it.
    pub fn reenter(&mut self, number: usize, key: Key<'_>, hash: u32) {
        let reference = self.keep(key);
        self.slab.clear(number);
        self.slab.head_mut(number)[0] = reference;
        self.enter(hash, number);
    }

    /// Gives back memory that removed rows left behind.
    pub fn shrink(&mut self) {
        if self.table.len() > 64 && self.len < self.table.len() / 8 {
            self.rebuild_table(self.table.len() / 4);
        }
        if self.garbage > 4096 && self.garbage > self.arena.len() / 2 {
            self.squeeze();
        }
    }

    fn push_row(&mut self, key: Key<'_>) -> usize {
        let number = self.len;
        self.slab.reserve(number);
        if number == self.dirty.len() * 64 {
            let more = grown(self.dirty.len(), self.dirty.capacity(), 1);
            self.dirty.reserve_exact(self.dirty.capacity() - self.dirty.len() + more);
            self.dirty.push(0);
        }
        self.len += 1;
        let reference = self.keep(key);
        self.slab.clear(number);
        self.slab.head_mut(number)[0] = reference;
        self.mark(number);
        number
    }

    /// Keeps a key's bytes and gives word 0.
    fn keep(&mut self, key: Key<'_>) -> u64 {
        match key {
            Key::Id(id) => id,
            Key::Bytes(bytes) => {
                let start = self.arena.len();
                let more = grown(start, self.arena.capacity(), bytes.len());
                if more > 0 {
                    self.arena.reserve_exact(self.arena.capacity() - start + more);
                }
                self.arena.extend_from_slice(bytes);
                (start as u64) << LENGTH_BITS | bytes.len() as u64
            }
        }
    }

    fn enter(&mut self, hash: u32, number: usize) {
        let mask = self.table.len() - 1;
        let mut at = hash as usize & mask;
        while self.table[at] != 0 {
            at = (at + 1) & mask;
        }
        self.table[at] = u64::from(hash) << 32 | (number as u64 + 1);
    }

    fn entry_of(&self, number: usize) -> usize {
        let mask = self.table.len() - 1;
        let mut at = hash_of(self.key(number)) as usize & mask;
        while self.table[at] as u32 as usize != number + 1 {
            at = (at + 1) & mask;
        }
        at
    }

    fn table_is_full(&self) -> bool {
        (self.len + 1) * 4 > self.table.len() * 3
    }

    fn grown_table(&self) -> usize {
        (self.table.len() * 2).max(16)
    }

    fn rebuild_table(&mut self, places: usize) {
        let old = std::mem::replace(&mut self.table, vec![0; places]);
        for entry in old.into_iter().filter(|entry| *entry != 0) {
            self.enter((entry >> 32) as u32, entry as u32 as usize - 1);
        }
    }

    fn squeeze(&mut self) {
        let live = self.arena.len() - self.garbage;
        let old = std::mem::replace(&mut self.arena, Vec::with_capacity(live + live / 8));
        for number in 0..self.len {
            let reference = self.slab.head(number)[0];
            let (start, length) = ((reference >> LENGTH_BITS) as usize, reference as usize & KEY_LIMIT);
            let moved = self.arena.len() as u64;
            self.arena.extend_from_slice(&old[start..start + length]);
            self.slab.head_mut(number)[0] = moved << LENGTH_BITS | length as u64;
        }
        self.garbage = 0;
    }
}
