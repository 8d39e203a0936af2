//! Run identities: UUID version 7, so that they sort by the time they began.

use std::fmt;

/// The identity of one execution of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(u128);

impl RunId {
    /// A version 7 UUID (RFC 9562) from a time in milliseconds since the epoch
    /// and 74 random bits.
    pub fn from_parts(millis: i64, random: u128) -> Self {
        let time = (millis.max(0) as u128 & 0xffff_ffff_ffff) << 80;
        let high = ((random >> 62) & 0xfff) << 64;
        let low = random & 0x3fff_ffff_ffff_ffff;
        Self(time | (7 << 76) | high | (0b10 << 62) | low)
    }

    /// The 128 bits.
    pub fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            v >> 96,
            (v >> 80) & 0xffff,
            (v >> 64) & 0xffff,
            (v >> 48) & 0xffff,
            v & 0xffff_ffff_ffff
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_runs_sort_after_earlier_ones() {
        let early = RunId::from_parts(1_700_000_000_000, u128::MAX);
        let late = RunId::from_parts(1_700_000_000_001, 0);
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(&late.to_string()[14..15], "7");
        assert!(matches!(&early.to_string()[19..20], "8" | "9" | "a" | "b"));
    }
}
