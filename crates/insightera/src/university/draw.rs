//! Random values as pure functions of where they stand.
//!
//! There is no generator with a state: a value is a hash of the seed, the
//! stream (what the row is about), the row and the name of the value. So rows
//! can be made in any order, in any batch size and on any number of threads,
//! and a new value next to the old ones changes none of them.

use std::f64::consts::TAU;

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The values of one row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draw {
    key: u64,
}

impl Draw {
    pub(super) fn new(seed: u64, stream: &str, row: u64) -> Self {
        let stream = mix(mix(seed.wrapping_add(GOLDEN)) ^ label(stream));
        Self { key: mix(stream.wrapping_add(row.wrapping_mul(GOLDEN))) }
    }

    /// The values of one part of the row: a month, a year, a revision.
    pub(super) fn at(self, part: u64) -> Self {
        Self { key: mix(self.key.wrapping_add(part.wrapping_add(1).wrapping_mul(GOLDEN))) }
    }

    /// 64 uniform bits.
    #[inline]
    pub(super) fn bits(self, name: &str) -> u64 {
        mix(self.key ^ label(name))
    }

    /// Uniform in [0, 1).
    pub(super) fn unit(self, name: &str) -> f64 {
        fraction(self.bits(name))
    }

    /// Uniform in [low, high).
    pub(super) fn between(self, name: &str, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit(name)
    }

    /// Uniform in 0..count.
    pub(super) fn below(self, name: &str, count: u64) -> u64 {
        // The high half of the product is unbiased enough for a demo and, other
        // than a remainder, uses the good bits.
        ((u128::from(self.bits(name)) * u128::from(count)) >> 64) as u64
    }

    /// True with this probability.
    pub(super) fn chance(self, name: &str, probability: f64) -> bool {
        self.unit(name) < probability
    }

    /// Standard normal (Box-Muller).
    pub(super) fn normal(self, name: &str) -> f64 {
        let bits = self.bits(name);
        let radius = (-2.0 * (1.0 - fraction(bits)).ln()).sqrt();
        radius * (TAU * fraction(mix(bits ^ GOLDEN))).cos()
    }

    /// Poisson by inversion; meant for means below about 50. Larger means use
    /// the normal approximation.
    pub(super) fn poisson(self, name: &str, mean: f64) -> i32 {
        if mean > 50.0 {
            return (mean + mean.sqrt() * self.normal(name)).round().max(0.0) as i32;
        }
        let wanted = self.unit(name);
        let mut term = (-mean).exp();
        let mut sum = term;
        let mut count = 0;
        while sum < wanted && count < 200 {
            count += 1;
            term *= mean / f64::from(count);
            sum += term;
        }
        count
    }

    /// The number of successes among `trials`.
    pub(super) fn binomial(self, name: &str, trials: u32, probability: f64) -> u32 {
        let base = self.bits(name);
        (0..trials)
            .map(|trial| mix(base.wrapping_add(u64::from(trial).wrapping_mul(GOLDEN))))
            .filter(|bits| fraction(*bits) < probability)
            .count() as u32
    }

    /// An index, each with its weight (they need not add up to one).
    pub(super) fn pick(self, name: &str, weights: &[f64]) -> usize {
        let mut left = self.unit(name) * weights.iter().sum::<f64>();
        for (index, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return index;
            }
        }
        weights.len() - 1
    }

    /// One of these, all alike.
    pub(super) fn choose<T: Copy>(self, name: &str, values: &[T]) -> T {
        values[self.below(name, values.len() as u64) as usize]
    }

    /// `value`, or nothing with this probability.
    pub(super) fn missing<T>(self, name: &str, probability: f64, value: T) -> Option<T> {
        if self.chance(name, probability) { None } else { Some(value) }
    }
}

/// The logistic function.
pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Rounded to `digits` decimals.
pub(super) fn round(x: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (x * scale).round() / scale
}

fn fraction(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// FNV-1a of a name; `mix` spreads it afterwards.
#[inline]
fn label(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}
