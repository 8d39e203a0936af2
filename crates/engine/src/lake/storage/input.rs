//! Reads parts of a file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::objects::Object;
use crate::Result;

/// What is asked of a store at once: a request costs about as long as this
/// many bytes take.
const BLOCK: u64 = 4 << 20;
/// Blocks of one file that are kept.
const KEPT: usize = 8;

/// A file that is open for reading, by several threads at once.
#[derive(Debug)]
pub enum Input {
    /// A local file.
    Local(File),
    /// An object of a store.
    Object(Blocks),
}

impl Input {
    /// The same file once more.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Local(file) => file.try_clone().map(Self::Local),
            Self::Object(blocks) => Ok(Self::Object(blocks.clone())),
        }
    }

    /// Its content from the beginning.
    pub fn reader(self) -> Box<dyn Read + Send> {
        match self {
            Self::Local(file) => Box::new(file),
            Self::Object(blocks) => Box::new(Tail { blocks, at: 0 }),
        }
    }
}

impl Length for Input {
    fn len(&self) -> u64 {
        match self {
            Self::Local(file) => Length::len(file),
            Self::Object(blocks) => blocks.bytes,
        }
    }
}

impl ChunkReader for Input {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        match self {
            Self::Local(file) => {
                let mut file = file.try_clone()?;
                file.seek(SeekFrom::Start(start))?;
                Ok(Box::new(BufReader::new(file)))
            }
            Self::Object(blocks) => Ok(Box::new(Tail { blocks: blocks.clone(), at: start })),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        match self {
            Self::Local(file) => file.get_bytes(start, length),
            Self::Object(blocks) => blocks.bytes(start, length).map_err(|e| ParquetError::External(Box::new(e))),
        }
    }
}

/// An object, read in blocks of which the newest are kept: pages and headers
/// lie close together, and each read of its own would be a request.
#[derive(Debug, Clone)]
pub struct Blocks {
    object: Object,
    bytes: u64,
    kept: Arc<Mutex<VecDeque<(u64, Bytes)>>>,
}

impl Blocks {
    /// Asks for the object's size.
    pub(super) fn open(object: Object) -> Result<Self> {
        let bytes = object.head()?;
        Ok(Self { object, bytes, kept: Arc::default() })
    }

    /// `length` bytes from `start`.
    fn bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let end = start.saturating_add(length as u64);
        if end > self.bytes {
            return Err(crate::Error::data(format!(
                "`{}` ends at byte {}, and bytes {start} to {end} were asked for",
                self.object.location, self.bytes
            )));
        }
        if length as u64 > BLOCK {
            return self.object.range(start..end);
        }
        let mut found = Vec::with_capacity(length);
        let mut at = start;
        while at < end {
            let number = at / BLOCK;
            let block = self.block(number)?;
            let from = (at - number * BLOCK) as usize;
            let to = block.len().min((end - number * BLOCK) as usize);
            if at == start && to - from == length {
                return Ok(block.slice(from..to));
            }
            found.extend_from_slice(&block[from..to]);
            at = number * BLOCK + to as u64;
        }
        Ok(found.into())
    }

    fn block(&self, number: u64) -> Result<Bytes> {
        // Held while the store is asked: others want the same block.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(|(known, _)| *known == number)
            && let Some(block) = kept.remove(at)
        {
            kept.push_front(block.clone());
            return Ok(block.1);
        }
        let start = number * BLOCK;
        let block = self.object.range(start..(start + BLOCK).min(self.bytes))?;
        kept.push_front((number, block.clone()));
        kept.truncate(KEPT);
        Ok(block)
    }
}

/// An object from a position on.
struct Tail {
    blocks: Blocks,
    at: u64,
}

impl Read for Tail {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.blocks.bytes {
            return Ok(0);
        }
        let block = self.blocks.block(self.at / BLOCK).map_err(io::Error::other)?;
        let from = (self.at % BLOCK) as usize;
        let many = buffer.len().min(block.len().saturating_sub(from));
        buffer[..many].copy_from_slice(&block[from..from + many]);
        self.at += many as u64;
        Ok(many)
    }
}
