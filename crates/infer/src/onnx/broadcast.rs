//! Combines tensors of shapes that fit: a size of one repeats.

use super::tensor::{Tensor, volume};
use crate::error::{Error, Result};

/// The shape of two shapes together.
pub fn together(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], at: usize| {
        (at + shape.len()).checked_sub(rank).and_then(|at| shape.get(at)).copied().unwrap_or(1)
    };
    let shape = (0..rank)
        .map(|at| match (size(a, at), size(b, at)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(Error::invalid(format!("tensors of the shapes {a:?} and {b:?} do not go together"))),
        })
        .collect::<Result<Vec<usize>>>()?;
    volume(&shape)?;
    Ok(shape)
}

/// The steps from value to value along each dimension of `to`; zero where it
/// repeats.
fn strides(shape: &[usize], to: &[usize]) -> Vec<usize> {
    let mut strides = vec![0; to.len()];
    let mut step = 1;
    for (size, stride) in shape.iter().rev().zip(strides.iter_mut().rev()) {
        *stride = if *size == 1 { 0 } else { step };
        step *= size;
    }
    strides
}

/// `make` of every pair of values.
pub fn pairs<A: Copy, B: Copy, C>(
    (a, a_shape): (&[A], &[usize]),
    (b, b_shape): (&[B], &[usize]),
    mut make: impl FnMut(A, B) -> C,
) -> Result<(Vec<usize>, Vec<C>)> {
    if a_shape == b_shape {
        return Ok((a_shape.to_vec(), a.iter().zip(b).map(|(a, b)| make(*a, *b)).collect()));
    }
    let shape = together(a_shape, b_shape)?;
    let mut made = Vec::with_capacity(volume(&shape)?);
    let width = shape.last().copied().unwrap_or(1);
    let (a_strides, b_strides) = (strides(a_shape, &shape), strides(b_shape, &shape));
    let (a_step, b_step) = (a_strides.last().copied().unwrap_or(0), b_strides.last().copied().unwrap_or(0));
    each_row(&shape, &[&a_strides, &b_strides], |from| {
        let (x, y) = (from[0], from[1]);
        for at in 0..width {
            made.push(make(a[x + at * a_step], b[y + at * b_step]));
        }
    });
    Ok((shape, made))
}

/// Where each row of the last dimension starts in each of the tensors.
fn each_row(shape: &[usize], strides: &[&[usize]], mut visit: impl FnMut(&[usize])) {
    let outer = shape.len().saturating_sub(1);
    if shape.contains(&0) {
        return;
    }
    let mut at = vec![0usize; outer];
    let mut from = vec![0usize; strides.len()];
    loop {
        visit(&from);
        let mut dimension = outer;
        loop {
            if dimension == 0 {
                return;
            }
            dimension -= 1;
            at[dimension] += 1;
            for (from, strides) in from.iter_mut().zip(strides) {
                *from += strides[dimension];
            }
            if at[dimension] < shape[dimension] {
                break;
            }
            for (from, strides) in from.iter_mut().zip(strides) {
                *from -= strides[dimension] * shape[dimension];
            }
            at[dimension] = 0;
        }
    }
}

/// The places of a tensor's values when it is repeated to fill `shape`.
pub fn places(of: &[usize], shape: &[usize]) -> Result<Vec<usize>> {
    let wanted = together(of, shape)?;
    if wanted != shape {
        return Err(Error::invalid(format!("a tensor of the shape {of:?} does not fill {shape:?}")));
    }
    let steps = strides(of, shape);
    let (width, step) = (shape.last().copied().unwrap_or(1), steps.last().copied().unwrap_or(0));
    let mut places = Vec::with_capacity(volume(shape)?);
    each_row(shape, &[&steps], |from| places.extend((0..width).map(|at| from[0] + at * step)));
    Ok(places)
}

/// The same tensor, repeated to fill `shape`.
pub fn filled(tensor: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if tensor.shape == shape {
        return Ok(tensor.clone());
    }
    Tensor::new(shape.to_vec(), tensor.data.pick(&places(&tensor.shape, shape)?))
}
