//! One 64-bit hash for key tables, distinct counts and checksums.
//!
//! Distinct counts and checkpoints outlive the program, so the function is
//! part of the checkpoint format: its test vectors may not change. It folds
//! 16 bytes at a time through a 64x64 -> 128 bit product (the construction of
//! wyhash) and does not resist an attacker who chooses keys.

const SEEDS: [u64; 4] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db, 0x8ebc_6af0_9c88_c6e3, 0x5899_65cc_7537_4cc3];

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

fn eight(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

fn four(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")))
}

/// The hash of bytes: blocks of 16 while more than 16 are left, then the rest
/// as two words that may overlap.
#[inline]
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut state = SEEDS[0];
    let mut rest = bytes;
    while rest.len() > 16 {
        state = fold(eight(rest, 0) ^ SEEDS[1], eight(rest, 8) ^ state);
        rest = &rest[16..];
    }
    let (low, high) = match rest.len() {
        8.. => (eight(rest, 0), eight(rest, rest.len() - 8)),
        4.. => (four(rest, 0), four(rest, rest.len() - 4)),
        0 => (0, 0),
        length => (u64::from(rest[0]) << 8 | u64::from(rest[length / 2]), u64::from(rest[length - 1])),
    };
    state = fold(low ^ SEEDS[2], high ^ state);
    fold(state ^ SEEDS[3], bytes.len() as u64 ^ SEEDS[1])
}

/// The hash of a number.
#[inline]
pub(crate) fn hash_word(number: u64) -> u64 {
    fold(fold(number ^ SEEDS[0], SEEDS[1]) ^ SEEDS[3], SEEDS[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_the_format_does_not_change() {
        let text = b"the quick brown fox jumps over the lazy dog";
        let seen: Vec<u64> = [0, 1, 3, 7, 8, 16, 43].iter().map(|n| hash_bytes(&text[..*n])).collect();
        let known = [
            16_261_760_798_612_848_148,
            4_158_409_721_960_683_806,
            10_642_297_910_372_332_424,
            14_875_393_655_805_203_203,
            10_451_048_829_771_435_840,
            5_675_568_762_793_923_855,
            16_587_402_503_718_694_939,
        ];
        assert_eq!(seen, known);
        let known = [4_035_800_190_290_559_095, 5_818_425_151_999_267_536, 8_284_179_306_153_973_504];
        assert_eq!([hash_word(0), hash_word(1), hash_word(u64::MAX)], known);
    }

    #[test]
    fn every_input_bit_moves_half_of_the_output_bits() {
        let mut moved = 0;
        for bit in 0..64 {
            moved += (hash_word(12_345) ^ hash_word(12_345 ^ (1 << bit))).count_ones();
        }
        assert!((28 * 64..36 * 64).contains(&moved), "{moved}");
    }
}
