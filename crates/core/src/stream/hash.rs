//! One 64-bit hash for key tables, distinct counts and checksums.
//!
//! Distinct counts and checkpoints outlive the program, so the function is
//! part of the checkpoint format: its test vectors may not change. It folds
//! 16 bytes at a time through a 64x64 -> 128 bit product (the construction of
//! wyhash) and does not resist an attacker who chooses keys.

const SEEDS: [u64; 4] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db, 0x8ebc_6af0_9c88_c6e3, 0x5899_65cc_7537_4cc3];

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0u8; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// The hash of bytes.
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut state = SEEDS[0];
    let mut blocks = bytes.chunks_exact(16);
    for block in &mut blocks {
        state = fold(word(&block[..8]) ^ SEEDS[1], word(&block[8..]) ^ state);
    }
    let rest = blocks.remainder();
    let (low, high) = rest.split_at(rest.len().min(8));
    state = fold(word(low) ^ SEEDS[2], word(high) ^ state);
    fold(state ^ SEEDS[3], bytes.len() as u64 ^ SEEDS[1])
}

/// The hash of a number.
pub(crate) fn hash_word(number: u64) -> u64 {
    fold(fold(number ^ SEEDS[0], SEEDS[1]) ^ SEEDS[3], SEEDS[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_the_format_does_not_change() {
        let text = b"the quick brown fox jumps over the lazy dog";
        let seen: Vec<u64> = [0, 1, 8, 9, 16, 17, 43].iter().map(|n| hash_bytes(&text[..*n])).collect();
        let known = [
            16_261_760_798_612_848_148,
            9_846_700_538_432_611_607,
            18_115_424_303_813_627_049,
            409_859_895_495_539_826,
            554_227_006_158_837_555,
            9_258_510_053_399_949_384,
            7_873_073_844_965_517_850,
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
