//! Rows in checkpoints, full and incremental alike: how many rows there are,
//! the numbers of those that follow, then key and state of each. Rows that are
//! gone are those whose number is now another's, or not below the count.

use super::blobs::Blobs;
use super::codec::{Reader, Writer};
use super::error::{CheckpointError, StreamError};
use super::group::clear;
use super::input::Key;
use super::keyed::{KEY_LIMIT, KeyedRows, hash_of};
use super::plan::{Plan, SetPlan, WordKind};

/// How the words of a row are cut.
#[derive(Debug)]
pub(crate) enum RowLayout<'a> {
    /// For each set its newest tile, not above that of `newest`, and a ring.
    Rings { plan: &'a Plan, sets: &'a [(usize, usize)], newest: i64 },
    /// One tile.
    Tile(&'a SetPlan),
}

/// Rows being restored.
#[derive(Debug)]
pub(crate) struct Restored<'a> {
    pub rows: &'a mut KeyedRows,
    pub blobs: &'a mut Blobs,
    /// Bytes of state elsewhere.
    pub others: u64,
    pub limit: u64,
}

pub(crate) fn write_rows(rows: &KeyedRows, blobs: &Blobs, layout: &RowLayout<'_>, all: bool, writer: &mut Writer) {
    let numbers: Vec<usize> = if all { (0..rows.len()).collect() } else { rows.changed().collect() };
    writer.number(rows.len() as u64);
    writer.number(numbers.len() as u64);
    let mut next = 0;
    for number in &numbers {
        writer.number((number - next) as u64);
        next = number + 1;
    }
    let mut words = Vec::new();
    for number in numbers {
        match rows.key(number) {
            Key::Id(id) => writer.number(id),
            Key::Bytes(bytes) => writer.bytes(bytes),
        }
        rows.slab.read(number, &mut words);
        match layout {
            RowLayout::Tile(set) => write_tiles(set, &words, blobs, writer),
            RowLayout::Rings { plan, sets, .. } => {
                for ((index, at), newest) in sets.iter().zip(&rows.slab.head(number)[1..]) {
                    let set = &plan.sets[*index];
                    writer.signed(*newest as i64);
                    write_tiles(set, &words[*at..*at + set.row_words()], blobs, writer);
                }
            }
        }
    }
}

/// Tiles that are not empty: which they are, 64 to a number, then their words.
fn write_tiles(set: &SetPlan, words: &[u64], blobs: &Blobs, writer: &mut Writer) {
    let width = set.words.len().max(1);
    for tiles in words.chunks(64 * width) {
        let mut there = 0u64;
        for (index, tile) in tiles.chunks_exact(width).enumerate() {
            there |= u64::from(tile.iter().any(|word| *word != 0)) << index;
        }
        writer.number(there);
    }
    for tile in words.chunks_exact(width).filter(|tile| tile.iter().any(|word| *word != 0)) {
        for (word, kind) in tile.iter().zip(&set.words) {
            match kind {
                WordKind::Number => writer.number(*word),
                // The low bits of a double's mantissa are often zero.
                WordKind::Double => writer.number(word.swap_bytes()),
                _ => blobs.write(*word, writer),
            }
        }
    }
}

pub(crate) fn read_rows(
    to: &mut Restored<'_>,
    layout: &RowLayout<'_>,
    reader: &mut Reader<'_>,
) -> Result<(), StreamError> {
    let len = usize::try_from(reader.number()?).unwrap_or(usize::MAX);
    let count = reader.count(2)?;
    let before = to.rows.len();
    let mut numbers = Vec::with_capacity(count);
    let mut next = 0usize;
    for _ in 0..count {
        let gap = usize::try_from(reader.number()?).unwrap_or(usize::MAX);
        let number = next.checked_add(gap).filter(|number| *number < len);
        let number = number.ok_or(CheckpointError::Corrupt("a row's number is too great"))?;
        numbers.push(number);
        next = number + 1;
    }
    for number in numbers.iter().copied().take_while(|number| *number < before).chain(len.min(before)..before) {
        to.clear(layout, number);
        to.rows.leave(number);
    }
    to.rows.truncate_rows(len.min(before));
    let mut words = Vec::new();
    for number in numbers {
        let key = to.read_key(reader)?;
        let hash = hash_of(key);
        if to.rows.find(key, hash).is_some() {
            return Err(StreamError::corrupt("a key is there twice"));
        }
        to.check_limit(to.rows.growth(key))?;
        match number.cmp(&to.rows.len()) {
            std::cmp::Ordering::Less => to.rows.reenter(number, key, hash),
            std::cmp::Ordering::Equal => drop(to.rows.insert(key, hash)),
            std::cmp::Ordering::Greater => return Err(StreamError::corrupt("a row is missing")),
        }
        to.read_row(layout, number, &mut words, reader)?;
        to.check_limit(0)?;
    }
    if to.rows.len() != len {
        return Err(StreamError::corrupt("rows are missing at the end"));
    }
    to.rows.mark_none();
    to.rows.shrink();
    Ok(())
}

impl Restored<'_> {
    fn read_key<'b>(&self, reader: &mut Reader<'b>) -> Result<Key<'b>, StreamError> {
        if self.rows.keys_are_numbers() {
            return Ok(Key::Id(reader.number()?));
        }
        let bytes = reader.bytes()?;
        if bytes.len() > KEY_LIMIT {
            return Err(StreamError::corrupt("a key is too long"));
        }
        Ok(Key::Bytes(bytes))
    }

    fn check_limit(&self, more: u64) -> Result<(), StreamError> {
        let needed = self.others + self.rows.heap_bytes() + self.blobs.heap_bytes() + more;
        if needed > self.limit { Err(StreamError::StateLimit { needed, limit: self.limit }) } else { Ok(()) }
    }

    /// Drops the blobs of a row.
    fn clear(&mut self, layout: &RowLayout<'_>, number: usize) {
        let mut words = Vec::new();
        self.rows.slab.read(number, &mut words);
        match layout {
            RowLayout::Tile(set) => clear(set, &mut words, self.blobs),
            RowLayout::Rings { plan, sets, .. } => {
                for (index, at) in *sets {
                    let set = &plan.sets[*index];
                    for tile in words[*at..*at + set.row_words()].chunks_exact_mut(set.words.len().max(1)) {
                        clear(set, tile, self.blobs);
                    }
                }
            }
        }
    }

    fn read_row(
        &mut self,
        layout: &RowLayout<'_>,
        number: usize,
        words: &mut Vec<u64>,
        reader: &mut Reader<'_>,
    ) -> Result<(), StreamError> {
        // It is empty.
        self.rows.slab.read(number, words);
        match layout {
            RowLayout::Tile(set) => read_tiles(set, words, self.blobs, reader)?,
            RowLayout::Rings { plan, sets, newest } => {
                for (order, (index, at)) in sets.iter().enumerate() {
                    let set = &plan.sets[*index];
                    let header = reader.signed()?;
                    let tile = header >> 1;
                    if !set.tiles.is_tile(tile) || *newest == i64::MIN || tile > set.tiles.tile_of(*newest) {
                        return Err(StreamError::corrupt("a key's newest tile is out of range"));
                    }
                    self.rows.slab.head_mut(number)[order + 1] = header as u64;
                    read_tiles(set, &mut words[*at..*at + set.row_words()], self.blobs, reader)?;
                }
            }
        }
        self.rows.slab.write(number, words);
        Ok(())
    }
}

fn read_tiles(
    set: &SetPlan,
    words: &mut [u64],
    blobs: &mut Blobs,
    reader: &mut Reader<'_>,
) -> Result<(), CheckpointError> {
    let width = set.words.len().max(1);
    let mut there = Vec::new();
    for tiles in words.chunks(64 * width) {
        let bits = reader.number()?;
        let count = tiles.len() / width;
        if count < 64 && bits >> count != 0 {
            return Err(CheckpointError::Corrupt("a tile is out of range"));
        }
        there.push(bits);
    }
    for (index, tile) in words.chunks_exact_mut(width).enumerate() {
        if there[index / 64] >> (index % 64) & 1 == 0 {
            continue;
        }
        for (word, kind) in tile.iter_mut().zip(&set.words) {
            *word = match kind {
                WordKind::Number => reader.number()?,
                WordKind::Double => reader.number()?.swap_bytes(),
                _ => blobs.read(*kind, reader)?,
            };
        }
    }
    Ok(())
}
