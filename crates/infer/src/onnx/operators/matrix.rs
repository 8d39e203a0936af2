//! Products of matrices, as ONNX Runtime's kernels compute them where the
//! processor has fused multiply-add: one accumulator a value, the products
//! added in order, in blocks of the inner dimension.

use super::super::broadcast::filled;
use super::super::node::{Run, Settings};
use super::super::tensor::{Data, Tensor, volume};
use super::math::Number;
use crate::error::{Error, Result};
#[cfg(target_arch = "x86_64")]
use crate::vectors::Vectors;

/// The inner block of a product with a constant matrix.
const PACKED: usize = 256;

/// A number with a fused multiply-add.
pub trait Fused: Number {
    /// `self * by + plus`, rounded once.
    fn fused(self, by: Self, plus: Self) -> Self;
}

impl Fused for f32 {
    #[inline(always)]
    fn fused(self, by: Self, plus: Self) -> Self {
        self.mul_add(by, plus)
    }
}

impl Fused for f64 {
    #[inline(always)]
    fn fused(self, by: Self, plus: Self) -> Self {
        self.mul_add(by, plus)
    }
}

/// Sizes of a product: rows, inner dimension, columns.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Rows of the result.
    pub rows: usize,
    /// What is summed up.
    pub inner: usize,
    /// Columns of the result.
    pub columns: usize,
}

/// The inner block of a product with a matrix that is not packed beforehand.
pub fn block(sizes: Sizes) -> usize {
    let (mut columns, mut inner) = (128, 128);
    if sizes.columns >= sizes.inner {
        while inner / 2 >= sizes.inner.max(1) {
            inner /= 2;
        }
    } else {
        while columns > 16 && columns / 2 >= sizes.columns {
            columns /= 2;
            inner *= 2;
        }
    }
    inner
}

/// Rows that are multiplied with a narrow matrix together.
const LANES: usize = 16;
/// Columns of a narrow matrix at most.
const NARROW: usize = 7;

/// Adds `alpha` times the product to `result`. `b` lies inner dimension by
/// column.
pub fn add_product<T: Fused>(a: &[T], b: &[T], sizes: Sizes, block: usize, alpha: T, result: &mut [T]) {
    #[cfg(target_arch = "x86_64")]
    if Vectors::used().avx2() {
        #[expect(unsafe_code, reason = "the processor has what the function is compiled for")]
        // SAFETY: `Vectors` says so only of what the processor has.
        return unsafe { add_product_avx2(a, b, sizes, block, alpha, result) };
    }
    add_product_plain(a, b, sizes, block, alpha, result);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn add_product_avx2<T: Fused>(a: &[T], b: &[T], sizes: Sizes, block: usize, alpha: T, result: &mut [T]) {
    add_product_plain(a, b, sizes, block, alpha, result);
}

#[inline(always)]
fn add_product_plain<T: Fused>(a: &[T], b: &[T], sizes: Sizes, block: usize, alpha: T, result: &mut [T]) {
    if sizes.columns == 0 || sizes.inner == 0 {
        return;
    }
    if sizes.columns <= NARROW {
        return add_narrow(a, b, sizes, block, alpha, result);
    }
    let mut sums = vec![T::default(); sizes.columns];
    for (a, result) in a.chunks_exact(sizes.inner).zip(result.chunks_exact_mut(sizes.columns)) {
        for (a, b) in a.chunks(block).zip(b.chunks(block * sizes.columns)) {
            sums.fill(T::default());
            for (value, row) in a.iter().zip(b.chunks_exact(sizes.columns)) {
                for (sum, weight) in sums.iter_mut().zip(row) {
                    *sum = value.fused(*weight, *sum);
                }
            }
            for (result, sum) in result.iter_mut().zip(&sums) {
                *result = sum.fused(alpha, *result);
            }
        }
    }
}

/// The same for a matrix of few columns, several rows at a time.
#[inline(always)]
fn add_narrow<T: Fused>(a: &[T], b: &[T], sizes: Sizes, block: usize, alpha: T, result: &mut [T]) {
    let mut lanes = vec![[T::default(); LANES]; sizes.inner];
    for (a, result) in a.chunks(sizes.inner * LANES).zip(result.chunks_mut(sizes.columns * LANES)) {
        for (lane, row) in a.chunks_exact(sizes.inner).enumerate() {
            for (values, value) in lanes.iter_mut().zip(row) {
                values[lane] = *value;
            }
        }
        for (lanes, b) in lanes.chunks(block).zip(b.chunks(block * sizes.columns)) {
            for column in 0..sizes.columns {
                let mut sums = [T::default(); LANES];
                for (values, row) in lanes.iter().zip(b.chunks_exact(sizes.columns)) {
                    let weight = row[column];
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum = value.fused(weight, *sum);
                    }
                }
                for (result, sum) in result.chunks_exact_mut(sizes.columns).zip(&sums) {
                    result[column] = sum.fused(alpha, result[column]);
                }
            }
        }
    }
}

/// Adds the product with one column that is not packed beforehand, for which
/// ONNX Runtime has a kernel of its own in single precision: it rounds every
/// product, and adds up four, then two, then one of them before the result.
fn add_column(a: &[f32], b: &[f32], result: &mut [f32]) {
    let (fours, rest) = b.as_chunks::<4>();
    let (twos, one) = rest.as_chunks::<2>();
    for (row, result) in a.chunks_exact(b.len().max(1)).zip(result) {
        let (left_fours, rest) = row.as_chunks::<4>();
        let (left_twos, left_one) = rest.as_chunks::<2>();
        for (a, b) in left_fours.iter().zip(fours) {
            *result += a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
        }
        for (a, b) in left_twos.iter().zip(twos) {
            *result += a[0] * b[0] + a[1] * b[1];
        }
        for (a, b) in left_one.iter().zip(one) {
            *result += a * b;
        }
    }
}

/// Columns become rows.
pub fn transposed<T: Copy>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

/// Prepares one of these operators.
pub fn build(settings: &mut Settings<'_>) -> Result<Option<Run>> {
    Ok(Some(match settings.node.operator.as_str() {
        "MatMul" => {
            let packed = settings.constant(1).is_some();
            Box::new(move |inputs, _| Ok(vec![product(inputs.get(0)?, inputs.get(1)?, packed)?]))
        }
        "Gemm" => gemm(settings)?,
        "BatchNormalization" => {
            let epsilon = settings.float("epsilon")?.unwrap_or(1e-5);
            settings.ignore("momentum");
            if settings.flag("training_mode", false)? || settings.int("spatial")?.is_some_and(|v| v == 0) {
                return Err(Error::invalid("its training mode or `spatial` is not supported"));
            }
            Box::new(move |inputs, _| {
                let input = inputs.get(0)?;
                let (_, columns) = input.matrix()?;
                let parts = (1..5).map(|k| inputs.get(k)?.singles()).collect::<Result<Vec<_>>>()?;
                if parts.iter().any(|part| part.len() != columns) || columns == 0 {
                    return Err(Error::invalid("its parts do not have one value a column"));
                }
                let Data::F32(values) = &input.data else { return Err(input.wrong("float")) };
                let scale: Vec<f32> =
                    (0..columns).map(|k| parts[0][k] * (1.0 / (parts[3][k] + epsilon).sqrt())).collect();
                let shift: Vec<f32> = (0..columns).map(|k| parts[1][k] - parts[2][k] * scale[k]).collect();
                let made = values.iter().enumerate().map(|(k, v)| v * scale[k % columns] + shift[k % columns]);
                Ok(vec![Tensor::new(input.shape.clone(), Data::F32(made.collect()))?])
            })
        }
        _ => return Ok(None),
    }))
}

/// Prepares `com.microsoft` operators.
pub fn build_microsoft(settings: &mut Settings<'_>) -> Result<Option<Run>> {
    if settings.node.operator != "CDist" {
        return Ok(None);
    }
    let squared = match settings.text("metric")?.unwrap_or("sqeuclidean") {
        "euclidean" => false,
        "sqeuclidean" => true,
        other => return Err(Error::invalid(format!("its `metric` of `{other}` is not supported"))),
    };
    Ok(Some(Box::new(move |inputs, _| {
        let (a, b) = (inputs.get(0)?, inputs.get(1)?);
        let ((rows, inner), (columns, other)) = (a.matrix()?, b.matrix()?);
        if inner != other || inner == 0 {
            return Err(Error::invalid("its points differ in their number of coordinates"));
        }
        let shape = vec![rows, columns];
        volume(&shape)?;
        // |a|² - 2ab + |b|², not below zero.
        fn distances<T: Fused>(a: &[T], b: &[T], sizes: Sizes, root: fn(T) -> T) -> Vec<T> {
            let square = |v: &[T]| v.iter().fold(T::default(), |sum, v| sum.add(v.mul(*v)));
            let minus_two = T::default().sub(T::ONE).sub(T::ONE);
            let norms: Vec<T> = b.chunks_exact(sizes.inner).map(square).collect();
            let mut result = vec![T::default(); sizes.rows * sizes.columns];
            let turned = transposed(b, sizes.columns, sizes.inner);
            add_product(a, &turned, sizes, block(sizes), minus_two, &mut result);
            for (a, row) in a.chunks_exact(sizes.inner).zip(result.chunks_exact_mut(sizes.columns.max(1))) {
                let own = square(a);
                for (value, norm) in row.iter_mut().zip(&norms) {
                    let sum = value.add(own).add(*norm);
                    *value = root(if sum < T::default() { T::default() } else { sum });
                }
            }
            result
        }
        let sizes = Sizes { rows, inner, columns };
        let data = match (&a.data, &b.data) {
            (Data::F32(x), Data::F32(y)) => Data::F32(distances(x, y, sizes, if squared { |v| v } else { f32::sqrt })),
            (Data::F64(x), Data::F64(y)) => Data::F64(distances(x, y, sizes, if squared { |v| v } else { f64::sqrt })),
            _ => return Err(a.wrong("floats of one type")),
        };
        Ok(vec![Tensor::new(shape, data)?])
    })))
}

/// Like numpy's: a list is a row on the left and a column on the right, further
/// dimensions are repeated where they are one.
fn product(a: &Tensor, b: &Tensor, packed: bool) -> Result<Tensor> {
    let mismatch = || Error::invalid(format!("matrices of the shapes {:?} and {:?} have no product", a.shape, b.shape));
    if a.rank() == 0 || b.rank() == 0 {
        return Err(mismatch());
    }
    let (row, column) = (a.rank() == 1, b.rank() == 1);
    let left = if row { vec![1, a.shape[0]] } else { a.shape.clone() };
    let right = if column { vec![b.shape[0], 1] } else { b.shape.clone() };
    let (left_outer, left_inner) = left.split_at(left.len() - 2);
    let (right_outer, right_inner) = right.split_at(right.len() - 2);
    let sizes = Sizes { rows: left_inner[0], inner: left_inner[1], columns: right_inner[1] };
    if right_inner[0] != sizes.inner {
        return Err(mismatch());
    }
    let outer = super::super::broadcast::together(left_outer, right_outer)?;
    let count = volume(&outer)?;
    let full = [outer.as_slice(), &[sizes.rows, sizes.columns]].concat();
    let total = volume(&full)?;
    let (x, y);
    let (a, b) = if outer.is_empty() {
        (a, b)
    } else {
        x = filled(&a.reshaped(left.clone())?, &[outer.as_slice(), left_inner].concat())?;
        y = filled(&b.reshaped(right.clone())?, &[outer.as_slice(), right_inner].concat())?;
        (&x, &y)
    };
    let inner_block = if packed { PACKED } else { block(sizes) };
    fn each<T: Fused>(a: &[T], b: &[T], sizes: Sizes, block: usize, count: usize, total: usize) -> Vec<T> {
        let mut result = vec![T::default(); total];
        let (x, y, z) = (sizes.rows * sizes.inner, sizes.inner * sizes.columns, sizes.rows * sizes.columns);
        for k in 0..count {
            add_product(
                &a[k * x..(k + 1) * x],
                &b[k * y..(k + 1) * y],
                sizes,
                block,
                T::ONE,
                &mut result[k * z..(k + 1) * z],
            );
        }
        result
    }
    let data = match (&a.data, &b.data) {
        (Data::F32(x), Data::F32(y)) if sizes.columns == 1 && sizes.inner > 0 && (!packed || column) => {
            let mut result = vec![0.0; total];
            let each = x.chunks_exact((sizes.rows * sizes.inner).max(1)).zip(y.chunks_exact(sizes.inner));
            each.zip(result.chunks_exact_mut(sizes.rows.max(1))).for_each(|((x, y), z)| add_column(x, y, z));
            Data::F32(result)
        }
        (Data::F32(x), Data::F32(y)) => Data::F32(each(x, y, sizes, inner_block, count, total)),
        (Data::F64(x), Data::F64(y)) => Data::F64(each(x, y, sizes, inner_block, count, total)),
        _ => return Err(a.wrong("floats of one type")),
    };
    let mut shape = full;
    if column {
        shape.pop();
    }
    if row {
        shape.remove(shape.len() - if column { 1 } else { 2 });
    }
    Tensor::new(shape, data)
}

fn gemm(settings: &mut Settings<'_>) -> Result<Run> {
    let alpha = settings.float("alpha")?.unwrap_or(1.0);
    let beta = settings.float("beta")?.unwrap_or(1.0);
    let (turn_a, turn_b) = (settings.flag("transA", false)?, settings.flag("transB", false)?);
    settings.ignore("broadcast");
    let packed = settings.constant(1).is_some();
    Ok(Box::new(move |inputs, _| {
        let (a, b) = (inputs.get(0)?, inputs.get(1)?);
        let ((mut rows, mut inner), (mut other, mut columns)) = (a.matrix()?, b.matrix()?);
        if turn_a {
            (rows, inner) = (inner, rows);
        }
        if turn_b {
            (other, columns) = (columns, other);
        }
        if inner != other {
            return Err(Error::invalid(format!(
                "matrices of the shapes {:?} and {:?} have no product",
                a.shape, b.shape
            )));
        }
        let shape = vec![rows, columns];
        volume(&shape)?;
        let sizes = Sizes { rows, inner, columns };
        let start = inputs.find(2).map(|c| filled(c, &shape)).transpose()?;
        let inner_block = if packed { PACKED } else { block(sizes) };
        fn each<T: Fused>(a: &[T], b: &[T], turn: (bool, bool), sizes: Sizes, block: usize, alpha: T, c: &mut [T]) {
            let (x, y);
            let a = if turn.0 {
                x = transposed(a, sizes.inner, sizes.rows);
                x.as_slice()
            } else {
                a
            };
            let b = if turn.1 {
                y = transposed(b, sizes.columns, sizes.inner);
                y.as_slice()
            } else {
                b
            };
            add_product(a, b, sizes, block, alpha, c);
        }
        let turn = (turn_a, turn_b);
        let data = match (&a.data, &b.data) {
            (Data::F32(x), Data::F32(y)) => {
                let mut result = match start.as_ref().map(|c| &c.data) {
                    None => vec![0.0; rows * columns],
                    Some(Data::F32(c)) => c.iter().map(|v| if beta == 1.0 { *v } else { v * beta }).collect(),
                    Some(_) => return Err(a.wrong("floats of one type")),
                };
                if columns == 1 && !packed && turn == (false, false) && alpha == 1.0 {
                    add_column(x, y, &mut result);
                } else {
                    each(x, y, turn, sizes, inner_block, alpha, &mut result);
                }
                Data::F32(result)
            }
            (Data::F64(x), Data::F64(y)) => {
                let mut result = match start.as_ref().map(|c| &c.data) {
                    None => vec![0.0; rows * columns],
                    Some(Data::F64(c)) => c.iter().map(|v| v * f64::from(beta)).collect(),
                    Some(_) => return Err(a.wrong("floats of one type")),
                };
                each(x, y, turn, sizes, inner_block, f64::from(alpha), &mut result);
                Data::F64(result)
            }
            _ => return Err(a.wrong("floats of one type")),
        };
        Ok(vec![Tensor::new(shape, data)?])
    }))
}
