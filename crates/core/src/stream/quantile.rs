//! Quantiles with a bounded relative error.

use super::codec::{Reader, Writer};
use super::error::CheckpointError;

/// Bits of a double below its bin: sign, exponent and 6 bits of mantissa
/// choose the bin, so an octave has 64 bins.
const SHIFT: u32 = 52 - 6;
/// Bins that are kept.
const BINS: usize = 2048;

/// A histogram of doubles, mergeable. Its bins are cut from the bits of a
/// double (the linearly interpolated mapping of DDSketch, Masson et al., VLDB
/// 2019), without a logarithm, so it is the same on every machine. A quantile
/// is the value at rank `floor(q * (n - 1))` within a relative error of
/// 1/128 = 0.79 %; values below 2.3e-308 count as 0, infinities are exact, NaN
/// is greater than every number. Beyond 2048 bins (32 octaves of one sign) the
/// lowest are joined, and the bound holds for the quantiles above them. A bin
/// takes 16 bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuantileSketch {
    /// Bin and how many values are in it, ascending by bin.
    bins: Vec<(i32, u64)>,
    count: u64,
}

impl QuantileSketch {
    /// Puts in a value.
    pub fn insert(&mut self, value: f64) {
        self.add(bin_of(value), 1);
        self.join_lowest();
    }

    /// Puts in all that another one holds.
    pub fn merge(&mut self, other: &Self) {
        for (bin, count) in &other.bins {
            self.add(*bin, *count);
        }
        self.join_lowest();
    }

    /// The value at rank `floor(q * (n - 1))`; `None` when it is empty.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = (q * self.count.checked_sub(1)? as f64).floor() as u64;
        let mut seen = 0u64;
        for (bin, count) in &self.bins {
            seen = seen.saturating_add(*count);
            if seen > rank {
                return Some(value_of(*bin));
            }
        }
        self.bins.last().map(|(bin, _)| value_of(*bin))
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.bins.clear();
        self.count = 0;
    }

    fn add(&mut self, bin: i32, count: u64) {
        self.count = self.count.saturating_add(count);
        match self.bins.binary_search_by_key(&bin, |(bin, _)| *bin) {
            Ok(at) => self.bins[at].1 = self.bins[at].1.saturating_add(count),
            Err(at) => self.bins.insert(at, (bin, count)),
        }
    }

    fn join_lowest(&mut self) {
        let Some(surplus) = self.bins.len().checked_sub(BINS).filter(|surplus| *surplus > 0) else { return };
        let joined = self.bins.drain(..surplus).fold(0u64, |sum, (_, count)| sum.saturating_add(count));
        self.bins[0].1 = self.bins[0].1.saturating_add(joined);
    }

    pub(crate) fn heap_bytes(&self) -> u64 {
        (self.bins.capacity() * size_of::<(i32, u64)>()) as u64
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.number(self.bins.len() as u64);
        let mut last = 0;
        for (bin, count) in &self.bins {
            writer.signed(i64::from(*bin) - last);
            writer.number(*count);
            last = i64::from(*bin);
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, CheckpointError> {
        let mut sketch = Self::default();
        let bins = reader.count(2)?;
        if bins > BINS {
            return Err(CheckpointError::Corrupt("too many bins"));
        }
        let mut bin = 0i64;
        for _ in 0..bins {
            bin = bin.wrapping_add(reader.signed()?);
            let number = i32::try_from(bin).map_err(|_| CheckpointError::Corrupt("a bin is out of range"))?;
            if number.unsigned_abs() > 1 << 18 || sketch.bins.last().is_some_and(|(last, _)| *last >= number) {
                return Err(CheckpointError::Corrupt("bins are not sorted or out of range"));
            }
            let count = reader.number()?;
            sketch.count = sketch.count.saturating_add(count);
            sketch.bins.push((number, count));
        }
        Ok(sketch)
    }
}

fn bin_of(value: f64) -> i32 {
    let value = if value.is_nan() { f64::NAN.abs() } else { value };
    let magnitude = (value.abs().to_bits() >> SHIFT) as i32;
    let magnitude = if value.abs() < f64::MIN_POSITIVE { 0 } else { magnitude };
    if value.is_sign_negative() && magnitude > 0 { -magnitude } else { magnitude }
}

/// The value whose relative distance to both ends of the bin is the same.
fn value_of(bin: i32) -> f64 {
    if bin == 0 {
        return 0.0;
    }
    let edge = |bin: u64| f64::from_bits(bin << SHIFT);
    let low = edge(u64::from(bin.unsigned_abs()));
    let high = edge(u64::from(bin.unsigned_abs()) + 1);
    let high = if low.is_finite() && !high.is_finite() { f64::MAX } else { high };
    let value = if low.is_finite() { low * (2.0 / (1.0 + low / high)) } else { low };
    if bin < 0 { -value } else { value }
}
