//! State that does not fit into words: sketches and byte values.

use super::codec::{Reader, Writer};
use super::distinct::DistinctSketch;
use super::error::CheckpointError;
use super::plan::WordKind;
use super::quantile::QuantileSketch;

/// One piece of state outside the rows.
#[derive(Debug)]
pub(crate) enum Blob {
    Free,
    Distinct(Box<DistinctSketch>),
    Quantile(Box<QuantileSketch>),
    Bytes(Vec<u8>),
}

impl Blob {
    fn heap_bytes(&self) -> u64 {
        match self {
            Self::Free => 0,
            Self::Distinct(sketch) => sketch.heap_bytes() + size_of::<DistinctSketch>() as u64,
            Self::Quantile(sketch) => sketch.heap_bytes() + size_of::<QuantileSketch>() as u64,
            Self::Bytes(bytes) => bytes.capacity() as u64,
        }
    }

    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Free => {}
            Self::Distinct(sketch) => sketch.write(writer),
            Self::Quantile(sketch) => sketch.write(writer),
            Self::Bytes(bytes) => writer.bytes(bytes),
        }
    }
}

/// All blobs of some rows. A row's word holds 0, or a blob's place plus 1.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    places: Vec<Blob>,
    free: Vec<u32>,
    /// Heap bytes of the blobs themselves.
    held: u64,
}

impl Blobs {
    pub fn get(&self, word: u64) -> Option<&Blob> {
        self.places.get(usize::try_from(word.checked_sub(1)?).ok()?)
    }

    /// Changes the blob of `word`, made by `make` if there is none.
    pub fn change(&mut self, word: &mut u64, make: fn() -> Blob, change: impl FnOnce(&mut Blob)) {
        if *word == 0 {
            *word = self.put(make());
        }
        let blob = &mut self.places[*word as usize - 1];
        let before = blob.heap_bytes();
        change(blob);
        self.held = self.held + blob.heap_bytes() - before;
    }

    /// Sets a byte value.
    pub fn set_bytes(&mut self, word: &mut u64, value: &[u8]) {
        self.change(
            word,
            || Blob::Bytes(Vec::new()),
            |blob| {
                if let Blob::Bytes(bytes) = blob {
                    bytes.clear();
                    bytes.reserve_exact(value.len());
                    bytes.extend_from_slice(value);
                }
            },
        );
    }

    /// Drops the blob of `word`, if there is one.
    pub fn release(&mut self, word: &mut u64) {
        let Some(place) = std::mem::take(word).checked_sub(1) else { return };
        let blob = std::mem::replace(&mut self.places[place as usize], Blob::Free);
        self.held -= blob.heap_bytes();
        self.free.push(place as u32);
        if self.free.len() == self.places.len() {
            *self = Self::default();
        }
    }

    pub fn write(&self, word: u64, writer: &mut Writer) {
        writer.byte(u8::from(word != 0));
        if let Some(blob) = self.get(word) {
            blob.write(writer);
        }
    }

    /// Reads a blob and gives the word for it.
    pub fn read(&mut self, kind: WordKind, reader: &mut Reader<'_>) -> Result<u64, CheckpointError> {
        match reader.byte()? {
            0 => return Ok(0),
            1 => {}
            _ => return Err(CheckpointError::Corrupt("a flag is neither 0 nor 1")),
        }
        let blob = match kind {
            WordKind::Distinct => Blob::Distinct(Box::new(DistinctSketch::read(reader)?)),
            WordKind::Quantile => Blob::Quantile(Box::new(QuantileSketch::read(reader)?)),
            _ => Blob::Bytes(reader.bytes()?.to_vec()),
        };
        Ok(self.put(blob))
    }

    /// How many words for blobs there were at most at a time.
    pub fn places(&self) -> usize {
        self.places.len()
    }

    pub fn heap_bytes(&self) -> u64 {
        self.held + (self.places.capacity() * size_of::<Blob>() + self.free.capacity() * 4) as u64
    }

    fn put(&mut self, blob: Blob) -> u64 {
        self.held += blob.heap_bytes();
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = blob;
                place as usize
            }
            None => {
                self.places.push(blob);
                self.places.len() - 1
            }
        };
        place as u64 + 1
    }
}
