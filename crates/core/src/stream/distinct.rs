//! Counting different values: exactly while they are few, then approximately.

use super::codec::{Reader, Writer};
use super::error::CheckpointError;

/// Values that are counted exactly.
const EXACT: usize = 256;
/// Bits of the hash that choose a register.
const BITS: u32 = 12;
const REGISTERS: usize = 1 << BITS;
/// Bits that are left of the hash, and one: the greatest register.
const GREATEST: u8 = (64 - BITS + 1) as u8;

/// A set of hashes, mergeable: what it is depends only on which hashes were
/// put in. Up to 256 are kept as they are (8 bytes each); beyond, 4096
/// HyperLogLog registers of one byte with a standard error of
/// 1.04 / sqrt(4096) = 1.6 %, by the estimator of O. Ertl, "New cardinality
/// estimation algorithms for HyperLogLog sketches" (2017), which is unbiased
/// over the whole range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DistinctSketch {
    /// Ascending.
    hashes: Vec<u64>,
    /// Empty while `hashes` are kept.
    registers: Vec<u8>,
}

impl DistinctSketch {
    /// Puts in a value by its hash.
    pub fn insert(&mut self, hash: u64) {
        if !self.registers.is_empty() {
            return self.raise(hash);
        }
        let Err(at) = self.hashes.binary_search(&hash) else { return };
        if self.hashes.len() == EXACT {
            self.use_registers();
            return self.raise(hash);
        }
        self.hashes.insert(at, hash);
    }

    /// Puts in all that another one holds.
    pub fn merge(&mut self, other: &Self) {
        for hash in &other.hashes {
            self.insert(*hash);
        }
        if other.registers.is_empty() {
            return;
        }
        if self.registers.is_empty() {
            self.use_registers();
        }
        for (register, theirs) in self.registers.iter_mut().zip(&other.registers) {
            *register = (*register).max(*theirs);
        }
    }

    /// How many different values.
    pub fn estimate(&self) -> u64 {
        if self.registers.is_empty() {
            return self.hashes.len() as u64;
        }
        let mut counts = [0u32; GREATEST as usize + 1];
        self.registers.iter().for_each(|register| counts[*register as usize] += 1);
        let m = REGISTERS as f64;
        let mut z = m * tau(1.0 - f64::from(counts[GREATEST as usize]) / m);
        for count in counts[1..GREATEST as usize].iter().rev() {
            z = 0.5 * (z + f64::from(*count));
        }
        z += m * sigma(f64::from(counts[0]) / m);
        (m * m / (2.0 * std::f64::consts::LN_2 * z)).round() as u64
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.hashes.clear();
        self.registers.clear();
    }

    fn use_registers(&mut self) {
        self.registers.resize(REGISTERS, 0);
        for hash in std::mem::take(&mut self.hashes) {
            self.raise(hash);
        }
    }

    fn raise(&mut self, hash: u64) {
        let register = &mut self.registers[(hash >> (64 - BITS)) as usize];
        let zeros = (hash << BITS).leading_zeros().min(64 - BITS) as u8 + 1;
        *register = (*register).max(zeros);
    }

    pub(crate) fn heap_bytes(&self) -> u64 {
        (self.hashes.capacity() * 8 + self.registers.capacity()) as u64
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.byte(u8::from(!self.registers.is_empty()));
        if self.registers.is_empty() {
            writer.number(self.hashes.len() as u64);
            self.hashes.iter().for_each(|hash| writer.fixed(*hash));
        } else {
            writer.raw(&self.registers);
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, CheckpointError> {
        let mut sketch = Self::default();
        if reader.byte()? == 0 {
            let count = reader.count(8)?;
            if count > EXACT {
                return Err(CheckpointError::Corrupt("too many exact values"));
            }
            for _ in 0..count {
                sketch.hashes.push(reader.fixed()?);
            }
            if !sketch.hashes.is_sorted_by(|a, b| a < b) {
                return Err(CheckpointError::Corrupt("exact values are not sorted"));
            }
            return Ok(sketch);
        }
        sketch.registers.extend_from_slice(reader.raw(REGISTERS)?);
        if sketch.registers.iter().any(|register| *register > GREATEST) {
            return Err(CheckpointError::Corrupt("a register is too great"));
        }
        Ok(sketch)
    }
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if z == before {
            return z / 3.0;
        }
    }
}
