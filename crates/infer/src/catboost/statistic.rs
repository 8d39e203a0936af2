//! Statistics of categories ("CTR"): features are hashed together, the hash
//! finds counts of the training's rows, and the counts become a number, in
//! single precision.

use std::collections::HashMap;
use std::sync::Arc;

use super::parts::StatisticKind;

/// Combines hashes.
const MULTIPLIER: u64 = 0x4906_ba49_4954_cb65;

/// One part of what is hashed, with checked numbers of columns.
#[derive(Debug, Clone, PartialEq)]
pub enum Element {
    /// A category.
    Category(usize),
    /// Whether a number is larger than a border; whether a missing one is.
    Above(usize, f32, bool),
    /// Whether a category is this one.
    Is(usize, u32),
}

/// A statistic.
#[derive(Debug)]
pub struct Statistic {
    pub elements: Vec<Element>,
    /// The row of a hash in `values`.
    pub rows: Arc<HashMap<u64, usize>>,
    /// The finished number of every row.
    pub values: Vec<f32>,
    /// The number of what is not in the table.
    pub absent: f32,
}

/// From counts to a number.
#[derive(Debug, Clone, Copy)]
pub struct Formula {
    pub kind: StatisticKind,
    pub target: usize,
    pub prior: (f32, f32),
    pub shift: f32,
    pub scale: f32,
    pub total: i64,
}

impl Formula {
    fn quotient(&self, good: f32, all: f32) -> f32 {
        ((good + self.prior.0) / (all + self.prior.1) + self.shift) * self.scale
    }

    /// The number of a row of counts.
    pub fn of(&self, counts: &[f64]) -> f32 {
        let sum = |counts: &[f64]| counts.iter().sum::<f64>() as f32;
        match self.kind {
            StatisticKind::Mean => self.quotient(counts[0] as f32, counts[1] as f32),
            StatisticKind::Counter => self.quotient(counts[0] as f32, self.total as f32),
            StatisticKind::Buckets => self.quotient(counts[self.target] as f32, sum(counts)),
            StatisticKind::Borders if counts.len() > 2 => self.quotient(sum(&counts[self.target + 1..]), sum(counts)),
            StatisticKind::Borders => self.quotient(counts[1] as f32, sum(counts)),
        }
    }

    /// The number of what is not in the table.
    pub fn absent(&self) -> f32 {
        let all = if self.kind == StatisticKind::Counter { self.total as f32 } else { 0.0 };
        self.quotient(0.0, all)
    }
}

impl Statistic {
    /// Its column.
    pub fn of(&self, numbers: &[Vec<f32>], categories: &[Vec<u32>], rows: usize) -> Vec<f32> {
        let mut hashes = vec![0u64; rows];
        for element in &self.elements {
            match element {
                // Hashes count as signed numbers.
                Element::Category(of) => mix(&mut hashes, categories[*of].iter().map(|hash| *hash as i32 as u64)),
                Element::Is(of, value) => mix(&mut hashes, categories[*of].iter().map(|hash| u64::from(hash == value))),
                Element::Above(of, border, missing) => {
                    let above = |value: &f32| u64::from(if value.is_nan() { *missing } else { value > border });
                    mix(&mut hashes, numbers[*of].iter().map(above));
                }
            }
        }
        hashes.iter().map(|hash| self.rows.get(hash).map_or(self.absent, |row| self.values[*row])).collect()
    }
}

fn mix(hashes: &mut [u64], values: impl Iterator<Item = u64>) {
    for (hash, value) in hashes.iter_mut().zip(values) {
        *hash = hash.wrapping_add(MULTIPLIER.wrapping_mul(value)).wrapping_mul(MULTIPLIER);
    }
}
