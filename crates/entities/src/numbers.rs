//! Numbers as DOUBLE, and their sums.

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, PrimitiveArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
};

/// Whole numbers of up to 64 bits and FLOAT as DOUBLE, the nearest where there
/// is none; `None` of what is none of these.
pub fn doubles(array: &ArrayRef) -> Option<Float64Array> {
    Some(match array.data_type() {
        DataType::Int8 => widen(array.as_primitive::<Int8Type>(), f64::from),
        DataType::Int16 => widen(array.as_primitive::<Int16Type>(), f64::from),
        DataType::Int32 => widen(array.as_primitive::<Int32Type>(), f64::from),
        DataType::Int64 => widen(array.as_primitive::<Int64Type>(), |value| value as f64),
        DataType::Float32 => widen(array.as_primitive::<Float32Type>(), f64::from),
        _ => return None,
    })
}

fn widen<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>, widen: impl Fn(T::Native) -> f64) -> Float64Array {
    let values: Vec<f64> = array.values().iter().map(|value| widen(*value)).collect();
    Float64Array::new(values.into(), array.nulls().cloned())
}

/// The sum of the numbers that are there: of whole numbers the exact one, as
/// DOUBLE. `None` of what is no such number.
pub fn total(array: &ArrayRef) -> Option<f64> {
    Some(match array.data_type() {
        DataType::Int8 => whole(array.as_primitive::<Int8Type>(), i64::from),
        DataType::Int16 => whole(array.as_primitive::<Int16Type>(), i64::from),
        DataType::Int32 => whole(array.as_primitive::<Int32Type>(), i64::from),
        DataType::Int64 => {
            let array = array.as_primitive::<Int64Type>();
            match array.null_count() {
                0 => array.values().iter().map(|value| i128::from(*value)).sum::<i128>() as f64,
                _ => array.iter().flatten().map(i128::from).sum::<i128>() as f64,
            }
        }
        DataType::Float32 => fractions(array.as_primitive::<Float32Type>(), f64::from),
        DataType::Float64 => fractions(array.as_primitive::<Float64Type>(), |value| value),
        _ => return None,
    })
}

fn whole<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>, widen: impl Fn(T::Native) -> i64) -> f64 {
    match array.null_count() {
        0 => array.values().iter().map(|value| widen(*value)).sum::<i64>() as f64,
        _ => array.iter().flatten().map(widen).sum::<i64>() as f64,
    }
}

/// Eight sums side by side, which the processor makes at once.
fn fractions<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>, widen: impl Fn(T::Native) -> f64) -> f64 {
    if array.null_count() > 0 {
        return array.iter().flatten().map(widen).sum();
    }
    let mut sums = [0.0; 8];
    let (eights, rest) = array.values().as_chunks::<8>();
    for eight in eights {
        for (sum, value) in sums.iter_mut().zip(eight) {
            *sum += widen(*value);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|value| widen(*value)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, Int64Array, StringArray};

    use super::*;

    #[test]
    fn whole_numbers_are_the_nearest_doubles_and_nulls_stay() {
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(7)]));
        assert_eq!(doubles(&numbers).unwrap(), Float64Array::from(vec![Some(-2_147_483_648.0), None, Some(7.0)]));
        assert_eq!(doubles(&numbers.slice(1, 2)).unwrap(), Float64Array::from(vec![None, Some(7.0)]));
        let large: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX, (1 << 53) + 1]));
        assert_eq!(doubles(&large).unwrap().values().to_vec(), [9_223_372_036_854_775_808.0, 9_007_199_254_740_992.0]);
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["7"]));
        assert!(doubles(&texts).is_none() && total(&texts).is_none());
    }

    #[test]
    fn a_total_leaves_out_what_is_not_there() {
        for count in [0, 1, 7, 8, 9, 64, 1001] {
            let wanted = (0..count).sum::<i32>();
            let whole: ArrayRef = Arc::new(Int32Array::from_iter_values(0..count));
            let halves: ArrayRef = Arc::new(Float64Array::from_iter_values((0..count).map(|n| f64::from(n) / 2.0)));
            assert_eq!(total(&whole), Some(f64::from(wanted)));
            assert_eq!(total(&halves), Some(f64::from(wanted) / 2.0));
            // The value under a null is not nothing.
            let some = |n: &i32| n % 3 == 1;
            let mask = arrow::array::BooleanArray::from_iter((0..count).map(|n| Some(!some(&n))));
            let wanted = (0..count).filter(some).sum::<i32>();
            let nulled = arrow::compute::nullif(&whole, &mask).unwrap();
            assert_eq!(total(&nulled), Some(f64::from(wanted)), "{count}");
            let nulled = arrow::compute::nullif(&halves, &mask).unwrap();
            assert_eq!(total(&nulled), Some(f64::from(wanted) / 2.0), "{count}");
        }
        let large: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX, i64::MAX, 1]));
        assert_eq!(total(&large), Some(2.0 * i64::MAX as f64));
    }
}
