//! Choices of a mutation, from its seed.

pub struct Random(u64);

/// Numbers at which counts, indices, widths and types end.
const EDGES: [&str; 44] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "4",
    "5",
    "7",
    "8",
    "15",
    "16",
    "31",
    "32",
    "63",
    "64",
    "100",
    "127",
    "128",
    "255",
    "256",
    "1000",
    "65535",
    "65536",
    "999999",
    "1000000",
    "1048576",
    "16777215",
    "16777216",
    "999999999",
    "1000000000",
    "2147483647",
    "-2147483648",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "18446744073709551615",
    "1e18",
    "1e308",
    "-1e308",
    "5e-324",
    "-0.0",
    "0.5",
];

impl Random {
    pub fn new(seed: u32) -> Self {
        Self(u64::from(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    /// Below `limit`, which must not be 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// A number as text, near `old` now and then.
    pub fn number(&mut self, old: &str) -> String {
        match (self.below(4), old.parse::<i64>()) {
            (0, Ok(old)) => old.wrapping_add(self.below(5) as i64 - 2).to_string(),
            (1, _) => self.below(20).to_string(),
            (2, _) if self.one_in(4) => {
                (*self.pick(&["NaN", "inf", "-inf", "1e999", "", "x", "null", "true"])).to_owned()
            }
            _ => (*self.pick(&EDGES)).to_owned(),
        }
    }
}
