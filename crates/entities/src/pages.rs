//! Hashes of the entity keys in a Parquet file, straight from its pages.
//!
//! A run that looks for few entities must read the key of every row of its
//! inputs. That needs no arrays: a page is decompressed, a value is hashed
//! where it stands, a dictionary is hashed once. [`KeyPages`] does so for a key
//! of one column that is text, bytes, an integer or a date, plain or in a
//! dictionary, which is what every writer's default is; for anything else it
//! says that it cannot, and the caller reads arrays. The hashes are those of
//! [`crate::key::Keys`].

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::DataType;
use insightera_core::{Error, Result};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageReader};
use parquet::file::reader::ChunkReader;
use parquet::file::serialized_reader::SerializedPageReader;

use crate::key::{self, BLOCK, Encoded, KeyHash, KeySet};

/// Rows that are looked at together.
const CHUNK: usize = 1024;

/// How a value becomes part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Length and bytes; the tag of text or of bytes.
    Bytes(u8),
    /// A number of 4 or 8 bytes; the tag of an integer or of a date.
    Number(u8, usize),
}

/// The key column of one Parquet file.
#[derive(Debug)]
pub struct KeyPages {
    column: usize,
    class: Class,
    optional: bool,
    metadata: ArrowReaderMetadata,
}

/// Which rows of a row group are hashed.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// All.
    All,
    /// These, ascending, counted from the beginning of the row group.
    Rows(&'a [u64]),
}

impl KeyPages {
    /// The leaf `column` of a file as a key; `None` when its hashes cannot be
    /// read from pages. `data_type` is what the column is to the reader.
    pub fn new(metadata: &ArrowReaderMetadata, column: usize, data_type: &DataType) -> Option<Self> {
        let schema = metadata.metadata().file_metadata().schema_descr();
        if column >= schema.num_columns() {
            return None;
        }
        let leaf = schema.column(column);
        if leaf.max_rep_level() > 0 || leaf.max_def_level() > 1 || leaf.path().parts().len() != 1 {
            return None;
        }
        let in_file = metadata.schema().field_with_name(leaf.name()).ok()?.data_type();
        let class = class(in_file, leaf.physical_type())?;
        if self::class(data_type, leaf.physical_type())? != class {
            return None;
        }
        Some(Self { column, class, optional: leaf.max_def_level() == 1, metadata: metadata.clone() })
    }

    /// Tells `visit` the hashes of a row group's keys, some rows at a time and
    /// in their order: the rows, counted from the beginning of the row group,
    /// and their hashes. Of rows that are not wanted the hash is anything.
    /// False when a page is of an encoding that is not read here: what was told
    /// until then is not all.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn read<R: ChunkReader + 'static>(
        &self,
        file: &Arc<R>,
        group: usize,
        wanted: Wanted<'_>,
        visit: &mut dyn FnMut(Range<u64>, &[KeyHash]),
    ) -> Result<bool> {
        let damaged = |e: &dyn std::fmt::Display| Error::data(format!("row group {group} cannot be read: {e}"));
        let group_metadata = self.metadata.metadata().row_group(group);
        let rows = u64::try_from(group_metadata.num_rows()).map_err(|e| damaged(&e))?;
        let chunk = group_metadata.column(self.column);
        let mut pages = SerializedPageReader::new(file.clone(), chunk, rows as usize, None).map_err(|e| damaged(&e))?;
        let mut hashes = vec![0; CHUNK];
        let mut dictionary: Option<Vec<KeyHash>> = None;
        let mut row = 0u64;
        let mut listed = 0;
        while let Some(page) = pages.get_next_page().map_err(|e| damaged(&e))? {
            let count = page.num_values() as usize;
            let body = match self.open(&page) {
                Opened::Dictionary(values) => {
                    dictionary =
                        Some(self.dictionary(values, count).ok_or_else(|| damaged(&"a dictionary is cut off"))?);
                    continue;
                }
                Opened::Data(body) => body,
                Opened::Unknown => return Ok(false),
                Opened::Damaged => return Err(damaged(&"a page is cut off")),
            };
            let Body { mut levels, mut values } = body;
            if let (Values::Places(_), None) = (&values, &dictionary) {
                return Err(damaged(&"a page refers to a dictionary that is not there"));
            }
            if row + count as u64 > rows {
                return Err(damaged(&"it has more values than rows"));
            }
            let mut left = count;
            while left > 0 {
                let many = left.min(CHUNK);
                let chosen = match wanted {
                    Wanted::All => None,
                    Wanted::Rows(list) => {
                        let from = listed;
                        while listed < list.len() && list[listed] < row + many as u64 {
                            listed += 1;
                        }
                        Some(&list[from..listed])
                    }
                };
                let out = &mut hashes[..many];
                self.chunk(&mut levels, &mut values, dictionary.as_deref(), row, chosen, out)
                    .ok_or_else(|| damaged(&"a page is cut off"))?;
                visit(row..row + many as u64, out);
                row += many as u64;
                left -= many;
            }
        }
        if row != rows {
            return Err(damaged(&format!("it has {row} values for {rows} rows")));
        }
        Ok(true)
    }

    fn open<'a>(&self, page: &'a Page) -> Opened<'a> {
        match page {
            Page::DictionaryPage { buf, encoding: Encoding::PLAIN | Encoding::PLAIN_DICTIONARY, .. } => {
                Opened::Dictionary(buf)
            }
            Page::DataPage { buf, encoding, def_level_encoding, .. } => {
                let (mut levels, mut rest) = (None, &buf[..]);
                if self.optional {
                    if *def_level_encoding != Encoding::RLE {
                        return Opened::Unknown;
                    }
                    let Some((length, tail)) = rest.split_first_chunk::<4>() else { return Opened::Damaged };
                    let Some((data, tail)) = tail.split_at_checked(u32::from_le_bytes(*length) as usize) else {
                        return Opened::Damaged;
                    };
                    (levels, rest) = (Some(Runs::new(data, 1)), tail);
                }
                data(levels, rest, *encoding)
            }
            Page::DataPageV2 { buf, encoding, def_levels_byte_len, rep_levels_byte_len, .. } => {
                let Some(rest) = buf.get(*rep_levels_byte_len as usize..) else { return Opened::Damaged };
                let Some((levels, rest)) = rest.split_at_checked(*def_levels_byte_len as usize) else {
                    return Opened::Damaged;
                };
                data(self.optional.then(|| Runs::new(levels, 1)), rest, *encoding)
            }
            Page::DictionaryPage { .. } => Opened::Unknown,
        }
    }

    fn dictionary(&self, mut values: &[u8], count: usize) -> Option<Vec<KeyHash>> {
        // Every value has four bytes at least: a count that is larger is damage.
        if count > values.len() {
            return None;
        }
        let mut hashes = vec![0; count];
        self.plain(&mut values, &mut hashes)?;
        Some(hashes)
    }

    /// Takes the next plain value.
    #[inline(always)]
    fn value<'a>(&self, values: &mut &'a [u8]) -> Option<Plain<'a>> {
        match self.class {
            Class::Bytes(tag) => {
                let (length, rest) = values.split_first_chunk::<4>()?;
                let length = u32::from_le_bytes(*length) as usize;
                *values = rest.get(length..)?;
                Some(Plain::Bytes(tag, rest, length))
            }
            Class::Number(tag, 4) => {
                let (number, rest) = values.split_first_chunk::<4>()?;
                *values = rest;
                Some(Plain::Number(tag, i64::from(i32::from_le_bytes(*number))))
            }
            Class::Number(tag, _) => {
                let (number, rest) = values.split_first_chunk::<8>()?;
                *values = rest;
                Some(Plain::Number(tag, i64::from_le_bytes(*number)))
            }
        }
    }

    /// The hashes of the next plain values.
    fn plain(&self, values: &mut &[u8], out: &mut [KeyHash]) -> Option<()> {
        let mut encoded = Encoded::default();
        for out in out.chunks_mut(BLOCK) {
            for (at, hash) in out.iter_mut().enumerate() {
                match self.value(values)? {
                    Plain::Bytes(tag, bytes, length) => encoded.bytes(at, tag, bytes, length, hash),
                    Plain::Number(tag, value) => encoded.number(at, tag, value),
                }
            }
            encoded.hash(out);
        }
        Some(())
    }

    /// The hash of the next plain value.
    fn next(&self, values: &mut &[u8]) -> Option<KeyHash> {
        let mut hash = [0];
        self.plain(values, &mut hash)?;
        Some(hash[0])
    }

    /// The hashes of the next `out.len()` rows, the first of which is `row`;
    /// of these alone where some are `chosen`.
    fn chunk(
        &self,
        levels: &mut Option<Runs<'_>>,
        values: &mut Values<'_>,
        dictionary: Option<&[KeyHash]>,
        row: u64,
        chosen: Option<&[u64]>,
        out: &mut [KeyHash],
    ) -> Option<()> {
        let mut present = [1u32; CHUNK];
        let mut full = true;
        if let Some(levels) = levels {
            levels.fill(&mut present[..out.len()])?;
            full = present[..out.len()].iter().all(|level| *level == 1);
        }
        match values {
            Values::Places(places) => {
                let mut numbers = [0u32; CHUNK];
                let count = present[..out.len()].iter().filter(|level| **level == 1).count();
                places.fill(&mut numbers[..count])?;
                let mut next = numbers.iter();
                for (hash, level) in out.iter_mut().zip(present) {
                    *hash = if level == 1 { *dictionary?.get(*next.next()? as usize)? } else { key::null_hash() };
                }
            }
            Values::Plain(rest) => match chosen {
                None if full => self.plain(rest, out)?,
                None => {
                    let count = present[..out.len()].iter().filter(|level| **level == 1).count();
                    let mut found = [0; CHUNK];
                    self.plain(rest, &mut found[..count])?;
                    let mut found = found.iter();
                    for (hash, level) in out.iter_mut().zip(present) {
                        *hash = if level == 1 { *found.next()? } else { key::null_hash() };
                    }
                }
                Some(chosen) => {
                    let mut at = 0;
                    for place in chosen {
                        let place = usize::try_from(place.checked_sub(row)?).ok()?;
                        let passed = present.get(at..place)?.iter().filter(|level| **level == 1).count();
                        for _ in 0..passed {
                            self.value(rest)?;
                        }
                        let hash = if present[place] == 1 { self.next(rest)? } else { key::null_hash() };
                        *out.get_mut(place)? = hash;
                        at = place + 1;
                    }
                    let passed = present.get(at..out.len())?.iter().filter(|level| **level == 1).count();
                    for _ in 0..passed {
                        self.value(rest)?;
                    }
                }
            },
        }
        Some(())
    }
}

/// What stands in a page.
enum Opened<'a> {
    Dictionary(&'a [u8]),
    Data(Body<'a>),
    Unknown,
    Damaged,
}

struct Body<'a> {
    levels: Option<Runs<'a>>,
    values: Values<'a>,
}

enum Values<'a> {
    Plain(&'a [u8]),
    /// Places in the dictionary.
    Places(Runs<'a>),
}

enum Plain<'a> {
    /// Tag, the bytes from the value on, the value's length.
    Bytes(u8, &'a [u8], usize),
    Number(u8, i64),
}

fn data<'a>(levels: Option<Runs<'a>>, rest: &'a [u8], encoding: Encoding) -> Opened<'a> {
    let values = match encoding {
        Encoding::PLAIN => Values::Plain(rest),
        Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => match rest.split_first() {
            Some((width, places)) if *width <= 32 => Values::Places(Runs::new(places, u32::from(*width))),
            Some(_) => return Opened::Damaged,
            // A page of nulls alone.
            None => Values::Places(Runs::new(&[], 0)),
        },
        _ => return Opened::Unknown,
    };
    Opened::Data(Body { levels, values })
}

fn class(data_type: &DataType, physical: Type) -> Option<Class> {
    use DataType as T;
    Some(match (data_type, physical) {
        (T::Utf8 | T::LargeUtf8 | T::Utf8View, Type::BYTE_ARRAY) => Class::Bytes(key::STRING),
        (T::Binary | T::LargeBinary | T::BinaryView, Type::BYTE_ARRAY) => Class::Bytes(key::BYTES),
        (T::Int8 | T::Int16 | T::Int32 | T::Int64, Type::INT32) => Class::Number(key::INTEGER, 4),
        (T::Int64, Type::INT64) => Class::Number(key::INTEGER, 8),
        (T::Date32, Type::INT32) => Class::Number(key::DATE, 4),
        _ => return None,
    })
}

/// Parquet's mix of run lengths and packed bits.
#[derive(Debug)]
struct Runs<'a> {
    data: &'a [u8],
    width: u32,
    /// How many more values are `value`.
    repeated: usize,
    value: u32,
    /// How many more values are packed in `packed`, from which bit on.
    literal: usize,
    packed: &'a [u8],
    bit: usize,
}

impl<'a> Runs<'a> {
    fn new(data: &'a [u8], width: u32) -> Self {
        Self { data, width, repeated: 0, value: 0, literal: 0, packed: &[], bit: 0 }
    }

    /// The next values; `None` when there are not as many.
    fn fill(&mut self, mut out: &mut [u32]) -> Option<()> {
        while !out.is_empty() {
            if self.repeated > 0 {
                let many = self.repeated.min(out.len());
                let (now, rest) = std::mem::take(&mut out).split_at_mut(many);
                now.fill(self.value);
                self.repeated -= many;
                out = rest;
            } else if self.literal > 0 {
                let many = self.literal.min(out.len());
                let (now, rest) = std::mem::take(&mut out).split_at_mut(many);
                let mask = (1u64 << self.width) - 1;
                for value in now {
                    let mut word = [0; 8];
                    let from = self.bit / 8;
                    match self.packed.get(from..from + 8) {
                        Some(whole) => word.copy_from_slice(whole),
                        None => {
                            let tail = self.packed.get(from..)?;
                            word[..tail.len()].copy_from_slice(tail);
                        }
                    }
                    *value = ((u64::from_le_bytes(word) >> (self.bit % 8)) & mask) as u32;
                    self.bit += self.width as usize;
                }
                self.literal -= many;
                out = rest;
            } else {
                self.next_run()?;
            }
        }
        Some(())
    }

    fn next_run(&mut self) -> Option<()> {
        if self.width == 0 {
            // All values are the only one.
            (self.repeated, self.value) = (usize::MAX, 0);
            return Some(());
        }
        let mut header = 0u64;
        for at in 0..5 {
            let (byte, rest) = self.data.split_first()?;
            self.data = rest;
            header |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                break;
            }
        }
        let many = (header >> 1) as usize;
        if header & 1 == 0 {
            let bytes = self.width.div_ceil(8) as usize;
            let (value, rest) = self.data.split_at_checked(bytes)?;
            let mut word = [0; 4];
            word[..bytes].copy_from_slice(value);
            (self.repeated, self.value, self.data) = (many, u32::from_le_bytes(word), rest);
        } else {
            // Groups of 8; the last group of a page may be cut off where its values end.
            let bytes = (many * self.width as usize).min(self.data.len());
            (self.packed, self.data) = self.data.split_at(bytes);
            (self.literal, self.bit) = ((many * 8).min(bytes * 8 / self.width as usize), 0);
        }
        (self.repeated > 0 || self.literal > 0).then_some(())
    }
}

/// A set of keys that says no to most others at once.
#[derive(Debug)]
pub struct Sieve<'a> {
    keys: &'a KeySet,
    bits: Vec<u64>,
    mask: u64,
}

impl<'a> Sieve<'a> {
    /// Of these keys.
    pub fn new(keys: &'a KeySet) -> Self {
        // 16 bits a key: 6 in 100 others pass.
        let size = (keys.len() * 16).next_power_of_two().clamp(1 << 10, 1 << 26);
        let (mut bits, mask) = (vec![0u64; size / 64], size as u64 - 1);
        for hash in keys {
            let at = Self::place(*hash) & mask;
            bits[(at / 64) as usize] |= 1 << (at % 64);
        }
        Self { keys, bits, mask }
    }

    /// Of the hash, what the set itself does not look at first.
    #[inline(always)]
    fn place(hash: KeyHash) -> u64 {
        (hash >> 64) as u64
    }

    /// Whether the key is in the set.
    #[inline]
    pub fn contains(&self, hash: KeyHash) -> bool {
        let at = Self::place(hash) & self.mask;
        self.bits[(at / 64) as usize] & (1 << (at % 64)) != 0 && self.keys.contains(&hash)
    }

    /// The rows among `hashes` whose key is in the set; the first is `start`.
    pub fn find(&self, start: u64, hashes: &[KeyHash], rows: &mut Vec<u64>) {
        for (at, hash) in hashes.iter().enumerate() {
            if self.contains(*hash) {
                rows.push(start + at as u64);
            }
        }
    }
}

#[cfg(test)]
mod tests;
