//! What a Parquet file would take, from its headers, before any of it is decoded.
//!
//! The Parquet reader believes a file: a few bytes make it allocate gigabytes,
//! loop over rows that are not there, or descend a schema until the stack ends.
//! So the footer and the header of every page are read first, in Thrift's
//! compact protocol and without recursion on the file's depth, and are held
//! against the length of the file. Limits are far above what Spark writes: it
//! compresses a model's data ten times at best.

use parquet::file::metadata::ParquetMetaData;

use super::shapes::{FOOTER, PAGE};
use crate::error::{Error, Result};

/// Groups inside groups of a schema.
const MAX_DEPTH: usize = 32;
/// Thrift structures inside structures; Parquet's own need eight.
const MAX_NESTING: usize = 16;

/// What pages may hold in all.
#[derive(Debug)]
struct Allowance {
    pages: usize,
    values: u64,
    bytes: u64,
}

/// Where the columns of the row groups lie in a checked file.
#[derive(Debug)]
pub struct Columns(Vec<(u64, u64)>);

impl Columns {
    /// Refuses what a reader understood otherwise: a header that says the same
    /// thing twice, or in another type, was checked by one of its meanings.
    ///
    /// # Errors
    /// `Data`.
    pub fn agree(&self, metadata: &ParquetMetaData) -> Result<()> {
        let understood = metadata.row_groups().iter().flat_map(|group| group.columns()).map(|column| {
            let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            Some((u64::try_from(start).ok()?, u64::try_from(column.compressed_size()).ok()?))
        });
        if understood.eq(self.0.iter().map(|place| Some(*place))) { Ok(()) } else { Err(damaged()) }
    }
}

/// Refuses a file that is larger than it looks.
///
/// # Errors
/// `Data`, also when the headers cannot be read.
pub fn check(file: &[u8]) -> Result<Columns> {
    let length = file.len() as u64;
    let (values, bytes) = ((4 << 20) + 64 * length, (16 << 20) + 100 * length);
    let mut left = Allowance { pages: file.len(), values, bytes };
    let footer = footer(file)?;
    if footer.rows > values {
        return Err(too_large(&format!("{} rows", footer.rows)));
    }
    let mut columns = Vec::with_capacity(footer.chunks.len());
    for chunk in &footer.chunks {
        columns.push(pages(file, chunk, &mut left)?);
    }
    Ok(Columns(columns))
}

/// What is said of headers that make no sense.
pub fn damaged() -> Error {
    Error::data("its headers cannot be read")
}

fn too_large(what: &str) -> Error {
    Error::data(format!("it holds {what}, more than a file of its size can"))
        .with_hint("copy the model again from where Spark saved it")
}

/// A column of a row group.
#[derive(Debug, Default)]
struct Chunk {
    texts: bool,
    start: Option<i64>,
    dictionary: Option<i64>,
    length: i64,
}

#[derive(Debug, Default)]
struct Footer {
    rows: u64,
    chunks: Vec<Chunk>,
}

/// Reads the footer, whose last eight bytes are its length and `PAR1`.
fn footer(file: &[u8]) -> Result<Footer> {
    let (rest, end) = file.split_last_chunk::<8>().ok_or_else(damaged)?;
    let [a, b, c, d, magic @ ..] = *end;
    if magic != *b"PAR1" {
        return Err(damaged());
    }
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let start = rest.len().checked_sub(length).ok_or_else(damaged)?;
    FOOTER.check(&mut Reader { bytes: rest, at: start }, STRUCT)?;
    let mut reader = Reader { bytes: rest, at: start };
    let mut footer = Footer::default();
    // The children that the groups on the way here still lack.
    let mut open: Vec<i64> = Vec::new();
    reader.fields(|reader, field, kind| match (field, kind) {
        (2, LIST) => {
            for _ in 0..reader.list()? {
                let mut children = 0;
                reader.fields(|reader, field, kind| match (field, kind) {
                    (5, I32) => {
                        children = reader.number()?;
                        Ok(())
                    }
                    _ => reader.skip(kind),
                })?;
                if let Some(lacking) = open.last_mut() {
                    *lacking -= 1;
                }
                if children > 0 {
                    open.push(children);
                }
                while open.last().is_some_and(|lacking| *lacking <= 0) {
                    open.pop();
                }
                if open.len() > MAX_DEPTH {
                    return Err(Error::data(format!("its schema is nested deeper than {MAX_DEPTH} groups")));
                }
            }
            Ok(())
        }
        (3, I64) => {
            footer.rows = footer.rows.max(u64::try_from(reader.number()?).map_err(|_| damaged())?);
            Ok(())
        }
        (4, LIST) => {
            let mut rows = 0u64;
            for _ in 0..reader.list()? {
                rows = rows.saturating_add(row_group(reader, &mut footer.chunks)?);
            }
            footer.rows = footer.rows.max(rows);
            Ok(())
        }
        _ => reader.skip(kind),
    })?;
    Ok(footer)
}

/// Reads a row group and answers its rows.
fn row_group(reader: &mut Reader<'_>, chunks: &mut Vec<Chunk>) -> Result<u64> {
    let mut rows = 0;
    reader.fields(|reader, field, kind| match (field, kind) {
        (1, LIST) => {
            for _ in 0..reader.list()? {
                let mut chunk = Chunk::default();
                reader.fields(|reader, field, kind| match (field, kind) {
                    (3, STRUCT) => reader.fields(|reader, field, kind| {
                        match (field, kind) {
                            // BYTE_ARRAY and FIXED_LEN_BYTE_ARRAY.
                            (1, I32) => chunk.texts = reader.number()? >= 6,
                            (7, I64) => chunk.length = reader.number()?,
                            (9, I64) => chunk.start = Some(reader.number()?),
                            (11, I64) => chunk.dictionary = Some(reader.number()?),
                            _ => reader.skip(kind)?,
                        }
                        Ok(())
                    }),
                    _ => reader.skip(kind),
                })?;
                chunks.push(chunk);
            }
            Ok(())
        }
        (3, I64) => {
            rows = u64::try_from(reader.number()?).map_err(|_| damaged())?;
            Ok(())
        }
        _ => reader.skip(kind),
    })?;
    Ok(rows)
}

/// Follows the pages of a column, and answers where it begins and how long it is.
fn pages(file: &[u8], chunk: &Chunk, left: &mut Allowance) -> Result<(u64, u64)> {
    let start = chunk.dictionary.or(chunk.start).and_then(|n| usize::try_from(n).ok()).ok_or_else(damaged)?;
    let length = usize::try_from(chunk.length).map_err(|_| damaged())?;
    let end = start.checked_add(length).filter(|end| *end <= file.len()).ok_or_else(damaged)?;
    let mut reader = Reader { bytes: &file[..end], at: start };
    // Bytes of a text in the dictionary, on average.
    let mut text = 0;
    let mut dictionary = false;
    while reader.at < end {
        let page = page(&mut reader)?;
        dictionary |= page.dictionary;
        // The Parquet reader takes the dictionary to be there.
        if page.coded && !dictionary {
            return Err(Error::data("a page refers to a dictionary that is not there"));
        }
        left.pages = left.pages.checked_sub(1).ok_or_else(|| too_large("more pages than bytes"))?;
        if page.dictionary {
            text = if chunk.texts { page.bytes / page.values.max(1) } else { 0 };
        }
        let bytes = page.bytes.max(text.saturating_mul(page.values));
        left.bytes = left.bytes.checked_sub(bytes).ok_or_else(|| too_large("too much data"))?;
        left.values = left.values.checked_sub(page.values).ok_or_else(|| too_large("too many values"))?;
        reader.at = reader.at.checked_add(page.stored).filter(|at| *at <= end).ok_or_else(damaged)?;
    }
    Ok((start as u64, length as u64))
}

/// What a page's header says.
#[derive(Debug, Default)]
struct Page {
    bytes: u64,
    stored: usize,
    values: u64,
    dictionary: bool,
    /// Its values are numbers of the dictionary's.
    coded: bool,
}

fn page(reader: &mut Reader<'_>) -> Result<Page> {
    PAGE.check(&mut Reader { bytes: reader.bytes, at: reader.at }, STRUCT)?;
    let mut page = Page::default();
    reader.fields(|reader, field, kind| {
        match (field, kind) {
            (2, I32) => page.bytes = u64::try_from(reader.number()?).map_err(|_| damaged())?,
            (3, I32) => page.stored = usize::try_from(reader.number()?).map_err(|_| damaged())?,
            (5 | 7 | 8, STRUCT) => {
                page.dictionary |= field == 7;
                // Where the header of a data page has its encoding.
                let encoding = match field {
                    5 => 2,
                    8 => 4,
                    _ => 0,
                };
                reader.fields(|reader, field, kind| match (field, kind) {
                    (field, I32) if field == encoding => {
                        page.coded |= matches!(reader.number()?, PLAIN_DICTIONARY | RLE_DICTIONARY);
                        Ok(())
                    }
                    (1, I32) => {
                        let values = u64::try_from(reader.number()?).map_err(|_| damaged())?;
                        page.values = page.values.max(values);
                        Ok(())
                    }
                    _ => reader.skip(kind),
                })?;
            }
            _ => reader.skip(kind)?,
        }
        Ok(())
    })?;
    Ok(page)
}

const PLAIN_DICTIONARY: i64 = 2;
const RLE_DICTIONARY: i64 = 8;

const I32: u8 = 5;
const I64: u8 = 6;
/// A list, in the bytes.
pub const LIST: u8 = 9;
/// A structure.
pub const STRUCT: u8 = 12;

/// A reader of Thrift's compact protocol.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// The next byte, which stays; 0 at the end.
    pub fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or_default()
    }

    fn byte(&mut self) -> Result<u8> {
        let byte = self.bytes.get(self.at).copied().ok_or_else(damaged)?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(damaged())
    }

    /// A number with its sign.
    fn number(&mut self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The length of a list; every element takes at least one byte.
    pub fn list(&mut self) -> Result<usize> {
        let head = self.byte()?;
        let length = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
        usize::try_from(length).ok().filter(|n| *n <= self.bytes.len() - self.at).ok_or_else(damaged)
    }

    /// Hands the fields of a structure, number and type, to `read`, which must
    /// read or skip each.
    pub fn fields(&mut self, mut read: impl FnMut(&mut Self, i64, u8) -> Result<()>) -> Result<()> {
        let mut field = 0i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(());
            }
            field = match head >> 4 {
                0 => self.number()?,
                delta => field.saturating_add(i64::from(delta)),
            };
            // Numbers of fields have 16 bits.
            if !(0..=i64::from(i16::MAX)).contains(&field) {
                return Err(damaged());
            }
            read(self, field, head & 15)?;
        }
    }

    /// Passes over a value.
    pub fn skip(&mut self, kind: u8) -> Result<()> {
        self.skip_nested(kind, 0)
    }

    fn skip_nested(&mut self, kind: u8, nesting: usize) -> Result<()> {
        if nesting > MAX_NESTING {
            return Err(damaged());
        }
        match kind {
            // True and false are all in the type.
            1 | 2 => {}
            3 => drop(self.byte()?),
            4..=6 => drop(self.varint()?),
            7 => self.pass(8)?,
            8 => {
                let length = self.varint()?;
                self.pass(length)?;
            }
            9 | 10 => {
                let element = self.peek() & 15;
                for _ in 0..self.list()? {
                    self.skip_element(element, nesting + 1)?;
                }
            }
            11 => {
                let count = self.varint()?;
                if count > 0 {
                    let kinds = self.byte()?;
                    for _ in 0..count {
                        self.skip_element(kinds >> 4, nesting + 1)?;
                        self.skip_element(kinds & 15, nesting + 1)?;
                    }
                }
            }
            12 => self.fields(|reader, _, kind| reader.skip_nested(kind, nesting + 1))?,
            _ => return Err(damaged()),
        }
        Ok(())
    }

    /// In a list, a truth value takes a byte.
    fn skip_element(&mut self, kind: u8, nesting: usize) -> Result<()> {
        if matches!(kind, 1 | 2) { self.byte().map(drop) } else { self.skip_nested(kind, nesting) }
    }

    fn pass(&mut self, count: u64) -> Result<()> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        self.at = end.filter(|end| *end <= self.bytes.len()).ok_or_else(damaged)?;
        Ok(())
    }
}
