//! A reader for FlatBuffers that trusts nothing: every offset is checked, and
//! what is read in all cannot be much more than the file holds, since many
//! offsets may lead to the same place.

use std::cell::Cell;

use crate::error::{Error, Result};

/// A buffer.
#[derive(Debug)]
pub struct Buffer<'a> {
    bytes: &'a [u8],
    /// Bytes of lists that may still be read.
    left: Cell<usize>,
}

/// A table within a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Table<'b, 'a> {
    buffer: &'b Buffer<'a>,
    at: usize,
    fields: usize,
    count: usize,
}

fn damaged(what: &str) -> Error {
    Error::data(format!("its structure is damaged: {what}"))
}

impl<'a> Buffer<'a> {
    /// Over these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, left: Cell::new(bytes.len().saturating_mul(4)) }
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        let found = self.bytes.get(at..).and_then(<[u8]>::first_chunk);
        found.copied().ok_or_else(|| damaged("it ends too early"))
    }

    fn u32(&self, at: usize) -> Result<usize> {
        Ok(u32::from_le_bytes(self.array(at)?) as usize)
    }

    fn u16(&self, at: usize) -> Result<usize> {
        Ok(usize::from(u16::from_le_bytes(self.array(at)?)))
    }

    /// The outermost table.
    pub fn root(&self) -> Result<Table<'_, 'a>> {
        self.table(self.u32(0)?)
    }

    fn table(&self, at: usize) -> Result<Table<'_, 'a>> {
        let back = i64::from(i32::from_le_bytes(self.array(at)?));
        let fields = usize::try_from(at as i64 - back).map_err(|_| damaged("a table without a description"))?;
        let size = self.u16(fields)?;
        if size < 4 || fields + size > self.bytes.len() {
            return Err(damaged("a table's description does not fit"));
        }
        self.spend(size)?;
        Ok(Table { buffer: self, at, fields, count: size / 2 - 2 })
    }

    fn spend(&self, bytes: usize) -> Result<()> {
        let left = self.left.get().checked_sub(bytes).ok_or_else(|| damaged("its parts overlap"))?;
        self.left.set(left);
        Ok(())
    }

    /// Where the elements of a list begin, and how many there are.
    fn list(&self, at: usize, width: usize) -> Result<(&'a [u8], usize, usize)> {
        let (start, count) = (at.saturating_add(4), self.u32(at)?);
        let bytes = count.checked_mul(width).and_then(|size| self.bytes.get(start..start.checked_add(size)?));
        let bytes = bytes.ok_or_else(|| damaged("a list does not fit"))?;
        self.spend(bytes.len() + 4)?;
        Ok((bytes, start, count))
    }
}

impl<'b, 'a> Table<'b, 'a> {
    fn field(&self, number: usize) -> Result<Option<usize>> {
        if number >= self.count {
            return Ok(None);
        }
        let offset = self.buffer.u16(self.fields + 4 + 2 * number)?;
        Ok((offset != 0).then(|| self.at + offset))
    }

    /// A field of `N` bytes, or nothing where it has its default.
    fn plain<const N: usize>(&self, number: usize) -> Result<Option<[u8; N]>> {
        self.field(number)?.map(|at| self.buffer.array(at)).transpose()
    }

    /// A byte.
    pub fn byte(&self, number: usize, default: u8) -> Result<u8> {
        Ok(self.plain(number)?.map_or(default, |[byte]: [u8; 1]| byte))
    }

    /// A whole number.
    pub fn integer(&self, number: usize, default: i32) -> Result<i32> {
        Ok(self.plain(number)?.map_or(default, i32::from_le_bytes))
    }

    /// A number in single precision.
    pub fn single(&self, number: usize, default: f32) -> Result<f32> {
        Ok(self.plain(number)?.map_or(default, f32::from_le_bytes))
    }

    /// A number in double precision.
    pub fn double(&self, number: usize, default: f64) -> Result<f64> {
        Ok(self.plain(number)?.map_or(default, f64::from_le_bytes))
    }

    fn target(&self, number: usize) -> Result<Option<usize>> {
        let Some(at) = self.field(number)? else { return Ok(None) };
        Ok(Some(at.saturating_add(self.buffer.u32(at)?)))
    }

    /// A table.
    pub fn table(&self, number: usize) -> Result<Option<Table<'b, 'a>>> {
        self.target(number)?.map(|at| self.buffer.table(at)).transpose()
    }

    /// A table that must be there.
    pub fn needed(&self, number: usize, what: &str) -> Result<Table<'b, 'a>> {
        self.table(number)?.ok_or_else(|| damaged(&format!("it has no {what}")))
    }

    /// The bytes of a list of elements of `width` bytes; empty when absent.
    pub fn bytes(&self, number: usize, width: usize) -> Result<&'a [u8]> {
        let Some(at) = self.target(number)? else { return Ok(&[]) };
        Ok(self.buffer.list(at, width)?.0)
    }

    /// A list of elements of `N` bytes.
    pub fn list<const N: usize, T>(&self, number: usize, read: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        let (items, _) = self.bytes(number, N)?.as_chunks::<N>();
        Ok(items.iter().map(|item| read(*item)).collect())
    }

    /// A text; empty when absent.
    pub fn text(&self, number: usize) -> Result<String> {
        self.target(number)?.map_or(Ok(String::new()), |at| self.text_at(at))
    }

    fn text_at(&self, at: usize) -> Result<String> {
        let bytes = self.buffer.list(at, 1)?.0;
        String::from_utf8(bytes.to_vec()).map_err(|_| damaged("a text is no UTF-8"))
    }

    fn targets(&self, number: usize) -> Result<Vec<usize>> {
        let Some(at) = self.target(number)? else { return Ok(Vec::new()) };
        let (_, start, count) = self.buffer.list(at, 4)?;
        let each = (0..count).map(|item| start + 4 * item);
        each.map(|at| Ok(at.saturating_add(self.buffer.u32(at)?))).collect()
    }

    /// A list of tables.
    pub fn tables(&self, number: usize) -> Result<Vec<Table<'b, 'a>>> {
        self.targets(number)?.into_iter().map(|at| self.buffer.table(at)).collect()
    }

    /// A list of texts.
    pub fn texts(&self, number: usize) -> Result<Vec<String>> {
        self.targets(number)?.into_iter().map(|at| self.text_at(at)).collect()
    }
}
