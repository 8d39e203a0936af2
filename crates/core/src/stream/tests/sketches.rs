//! Sketches are within their documented errors, and merging is joining.

use proptest::prelude::*;

use super::super::hash::hash_word;
use crate::stream::{DistinctSketch, QuantileSketch};

fn distinct(from: u64, to: u64) -> DistinctSketch {
    let mut sketch = DistinctSketch::default();
    (from..to).for_each(|number| sketch.insert(hash_word(number)));
    sketch
}

#[test]
fn few_different_values_are_counted_exactly() {
    for count in [0, 1, 100, 255, 256] {
        let mut sketch = distinct(0, count);
        sketch.merge(&distinct(0, count));
        assert_eq!(sketch.estimate(), count);
    }
}

#[test]
fn many_different_values_are_within_the_standard_error() {
    // Over 60 independent sets at each size: the mean has no bias to speak of,
    // the root mean square is near 1.6 %, and none is off by five of those.
    for count in [257u64, 1_000, 5_000, 12_000, 40_000, 200_000] {
        let errors: Vec<f64> = (0..60u64)
            .map(|set| {
                let from = set * 1_000_003;
                distinct(from, from + count).estimate() as f64 / count as f64 - 1.0
            })
            .collect();
        let mean = errors.iter().sum::<f64>() / 60.0;
        let deviation = (errors.iter().map(|error| error * error).sum::<f64>() / 60.0).sqrt();
        assert!(mean.abs() < 0.007, "{count}: mean {mean}");
        assert!(deviation < 0.0163 * 1.3, "{count}: deviation {deviation}");
        assert!(errors.iter().all(|error| error.abs() < 5.0 * 0.0163), "{count}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn merged_distinct_counts_are_those_of_all_values(cut in 0..900u64, more in 0..900u64, shared in 0..300u64) {
        let all = distinct(0, cut + more);
        let mut merged = distinct(0, cut);
        merged.merge(&distinct(cut.saturating_sub(shared), cut + more));
        prop_assert_eq!(&merged, &all);
        let mut other_way = distinct(cut.saturating_sub(shared), cut + more);
        other_way.merge(&distinct(0, cut));
        prop_assert_eq!(other_way, all);
    }

    #[test]
    fn quantiles_are_within_the_relative_error(
        mut values in proptest::collection::vec(prop_oneof![-1e3..1e3f64, -1e-3..1e-3f64, Just(0.0)], 1..400),
        q in 0.0..=1.0f64,
        cut in any::<prop::sample::Index>(),
    ) {
        let at = cut.index(values.len());
        let mut sketch = QuantileSketch::default();
        let mut rest = QuantileSketch::default();
        values[..at].iter().for_each(|value| sketch.insert(*value));
        values[at..].iter().for_each(|value| rest.insert(*value));
        sketch.merge(&rest);
        values.sort_by(f64::total_cmp);
        let exact = values[(q * (values.len() - 1) as f64).floor() as usize];
        let found = sketch.quantile(q).unwrap();
        prop_assert!((found - exact).abs() <= exact.abs() / 128.0, "{} for {}", found, exact);
    }

    #[test]
    fn any_double_is_within_the_relative_error(value in any::<f64>()) {
        let mut sketch = QuantileSketch::default();
        sketch.insert(value);
        let found = sketch.quantile(0.5).unwrap();
        let near = (found - value).abs() <= value.abs() / 128.0;
        prop_assert!(near || found == value || (found.is_nan() && value.is_nan()) || value.abs() < f64::MIN_POSITIVE,
            "{} for {}", found, value);
    }
}

#[test]
fn infinities_are_exact_and_nan_is_greatest() {
    let mut sketch = QuantileSketch::default();
    assert_eq!(sketch.quantile(0.5), None);
    for value in [f64::NAN, -f64::NAN, f64::INFINITY, f64::MAX, -1.0, f64::NEG_INFINITY] {
        sketch.insert(value);
    }
    let at = |rank: f64| sketch.quantile(rank / 5.0).unwrap();
    assert_eq!((at(0.0), at(3.0)), (f64::NEG_INFINITY, f64::INFINITY));
    assert!(at(4.01).is_nan() && at(5.0).is_nan());
}

#[test]
fn beyond_its_bins_a_sketch_keeps_the_greater_values() {
    let mut sketch = QuantileSketch::default();
    let mut values: Vec<f64> = (0..40_000).map(|step| 1.002f64.powi(step)).collect();
    values.iter().for_each(|value| sketch.insert(*value));
    values.sort_by(f64::total_cmp);
    assert!(sketch.heap_bytes() <= 64 << 10);
    for q in [0.8, 0.9, 1.0] {
        let exact = values[(q * 39_999.0_f64).floor() as usize];
        assert!((sketch.quantile(q).unwrap() / exact - 1.0).abs() < 1.0 / 128.0);
    }
}
