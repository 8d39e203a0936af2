//! Operators along a dimension: sums, extremes, orders, shares.
//!
//! Sums are in the order of the values at the tensor's precision.

use super::super::node::{Run, Settings};
use super::super::tensor::{Data, Tensor, volume};
use super::functions;
use super::math::Number;
use super::shape::{around, axis};
use crate::error::{Error, Result};

/// What becomes of the values along the dimensions that go away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reduce {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

/// A number with the functions that reductions need.
trait Float: Number {
    fn from(value: f64) -> Self;
    fn sqrt(self) -> Self;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn finite(self) -> bool;
}

impl Float for f32 {
    fn from(value: f64) -> Self {
        value as Self
    }
    fn sqrt(self) -> Self {
        self.sqrt()
    }
    fn exp(self) -> Self {
        functions::exp(self)
    }
    fn ln(self) -> Self {
        self.ln()
    }
    fn finite(self) -> bool {
        self.is_finite()
    }
}

impl Float for f64 {
    fn from(value: f64) -> Self {
        value
    }
    fn sqrt(self) -> Self {
        self.sqrt()
    }
    fn exp(self) -> Self {
        self.exp()
    }
    fn ln(self) -> Self {
        self.ln()
    }
    fn finite(self) -> bool {
        self.is_finite()
    }
}

impl Reduce {
    fn named(operator: &str) -> Option<Self> {
        Some(match operator {
            "ReduceSum" => Self::Sum,
            "ReduceMean" => Self::Mean,
            "ReduceMax" => Self::Max,
            "ReduceMin" => Self::Min,
            "ReduceProd" => Self::Prod,
            "ReduceL1" => Self::L1,
            "ReduceL2" => Self::L2,
            "ReduceSumSquare" => Self::SumSquare,
            "ReduceLogSum" => Self::LogSum,
            "ReduceLogSumExp" => Self::LogSumExp,
            _ => return None,
        })
    }

    /// Of numbers of every kind.
    fn plain<T: Number>(self, values: impl Iterator<Item = T>) -> T {
        match self {
            Self::Prod => values.fold(T::ONE, Number::mul),
            Self::Max => values.fold(T::LOWEST, |a, b| if b > a || b.missing() { b } else { a }),
            Self::Min => values.fold(T::HIGHEST, |a, b| if b < a || b.missing() { b } else { a }),
            Self::SumSquare => values.fold(T::default(), |sum, v| sum.add(v.mul(v))),
            Self::L1 => values.fold(T::default(), |sum, v| sum.add(v.abs())),
            _ => values.fold(T::default(), Number::add),
        }
    }

    fn float<T: Float>(self, values: &[T], places: &[usize]) -> T {
        let all = || places.iter().map(|place| values[*place]);
        match self {
            Self::Mean => self.plain(all()).div(<T as Float>::from(places.len() as f64)).unwrap_or_default(),
            Self::L2 => Self::SumSquare.plain(all()).sqrt(),
            Self::LogSum => self.plain(all()).ln(),
            Self::LogSumExp => {
                let most = Self::Max.plain(all());
                let most = if most.finite() { most } else { T::default() };
                all().fold(T::default(), |sum, v| sum.add(v.sub(most).exp())).ln().add(most)
            }
            _ => self.plain(all()),
        }
    }
}

/// Prepares one of these operators.
pub fn build(settings: &mut Settings<'_>) -> Result<Option<Run>> {
    if let Some(reduce) = Reduce::named(&settings.node.operator) {
        return Ok(Some(reduction(settings, reduce)?));
    }
    Ok(Some(match settings.node.operator.as_str() {
        "ArgMax" | "ArgMin" => {
            let most = settings.node.operator == "ArgMax";
            let at = settings.int("axis")?.unwrap_or(0);
            let keep = settings.flag("keepdims", true)?;
            let last = settings.flag("select_last_index", false)?;
            Box::new(move |inputs, _| Ok(vec![extreme(inputs.get(0)?, at, keep, most, last)?]))
        }
        "TopK" => top(settings)?,
        "CumSum" => {
            let (exclusive, reverse) = (settings.flag("exclusive", false)?, settings.flag("reverse", false)?);
            Box::new(move |inputs, _| {
                let (input, at) = (inputs.get(0)?, inputs.get(1)?.ints()?);
                let at = axis(at.first().copied().unwrap_or(0), input.rank())?;
                let data = match &input.data {
                    Data::F32(values) => Data::F32(cumulated(values, &input.shape, at, exclusive, reverse)),
                    Data::F64(values) => Data::F64(cumulated(values, &input.shape, at, exclusive, reverse)),
                    Data::I64(values) => Data::I64(cumulated(values, &input.shape, at, exclusive, reverse)),
                    Data::I32(values) => Data::I32(cumulated(values, &input.shape, at, exclusive, reverse)),
                    _ => return Err(input.wrong("numbers")),
                };
                Ok(vec![Tensor::new(input.shape.clone(), data)?])
            })
        }
        "Softmax" | "LogSoftmax" => {
            let log = settings.node.operator == "LogSoftmax";
            let old = settings.version < 13;
            let at = settings.int("axis")?.unwrap_or(if old { 1 } else { -1 });
            Box::new(move |inputs, _| {
                let input = inputs.get(0)?;
                let data = match &input.data {
                    Data::F32(values) => Data::F32(shares(values, &input.shape, at, old, log)?),
                    Data::F64(values) => Data::F64(shares(values, &input.shape, at, old, log)?),
                    _ => return Err(input.wrong("floats")),
                };
                Ok(vec![Tensor::new(input.shape.clone(), data)?])
            })
        }
        "LpNormalization" => {
            let (at, p) = (settings.int("axis")?.unwrap_or(-1), settings.int("p")?.unwrap_or(2));
            let reduce = match p {
                1 => Reduce::L1,
                2 => Reduce::L2,
                _ => return Err(Error::invalid(format!("its `p` of {p} is not supported"))),
            };
            Box::new(move |inputs, _| {
                let input = inputs.get(0)?;
                let at = axis(at, input.rank())?;
                let data = match &input.data {
                    Data::F32(values) => Data::F32(normalised(values, &input.shape, at, reduce)),
                    Data::F64(values) => Data::F64(normalised(values, &input.shape, at, reduce)),
                    _ => return Err(input.wrong("floats")),
                };
                Ok(vec![Tensor::new(input.shape.clone(), data)?])
            })
        }
        _ => return Ok(None),
    }))
}

fn reduction(settings: &mut Settings<'_>, reduce: Reduce) -> Result<Run> {
    // The axes moved from the settings to the inputs, of the sum earlier.
    let moved = settings.version >= if reduce == Reduce::Sum { 13 } else { 18 };
    let settled = if moved { Vec::new() } else { settings.ints("axes")?.to_vec() };
    let keep = settings.flag("keepdims", true)?;
    let nothing = settings.flag("noop_with_empty_axes", false)?;
    Ok(Box::new(move |inputs, _| {
        let input = inputs.get(0)?;
        let axes = match inputs.find(1) {
            Some(axes) => axes.ints()?,
            None => settled.clone(),
        };
        if axes.is_empty() && nothing {
            return Ok(vec![input.clone()]);
        }
        let mut gone = vec![axes.is_empty(); input.rank()];
        for at in axes {
            gone[axis(at, input.rank())?] = true;
        }
        Ok(vec![reduced(input, &gone, keep, reduce)?])
    }))
}

/// The places of a tensor along some of its dimensions.
fn offsets(shape: &[usize], wanted: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut places = vec![0usize];
    for at in (0..shape.len()).filter(|at| wanted(*at)) {
        let (_, size, behind) = around(shape, at);
        places = places.iter().flat_map(|from| (0..size).map(move |step| from + step * behind)).collect();
    }
    places
}

fn reduced(input: &Tensor, gone: &[bool], keep: bool, reduce: Reduce) -> Result<Tensor> {
    let shape: Vec<usize> = input
        .shape
        .iter()
        .zip(gone)
        .filter(|(_, gone)| keep || !**gone)
        .map(|(size, gone)| if *gone { 1 } else { *size })
        .collect();
    if input.shape.contains(&0) && volume(&shape)? > 0 && matches!(reduce, Reduce::Max | Reduce::Min) {
        return Err(Error::data("it looks for the extreme of no values"));
    }
    let starts = offsets(&input.shape, |at| !gone[at]);
    let inner = offsets(&input.shape, |at| gone[at]);
    fn float<T: Float>(reduce: Reduce, values: &[T], starts: &[usize], inner: &[usize]) -> Vec<T> {
        let mut places = inner.to_vec();
        let mut previous = 0;
        let mut results = Vec::with_capacity(starts.len());
        for start in starts {
            places.iter_mut().for_each(|place| *place = *place - previous + start);
            previous = *start;
            results.push(reduce.float(values, &places));
        }
        results
    }
    fn whole<T: Number>(reduce: Reduce, values: &[T], starts: &[usize], inner: &[usize]) -> Vec<T> {
        starts.iter().map(|start| reduce.plain(inner.iter().map(|place| values[start + place]))).collect()
    }
    let exact =
        matches!(reduce, Reduce::Sum | Reduce::Max | Reduce::Min | Reduce::Prod | Reduce::L1 | Reduce::SumSquare);
    let data = match &input.data {
        Data::F32(values) => Data::F32(float(reduce, values, &starts, &inner)),
        Data::F64(values) => Data::F64(float(reduce, values, &starts, &inner)),
        Data::I64(values) if exact => Data::I64(whole(reduce, values, &starts, &inner)),
        Data::I32(values) if exact => Data::I32(whole(reduce, values, &starts, &inner)),
        _ => return Err(input.wrong("floats")),
    };
    Tensor::new(shape, data)
}

fn extreme(input: &Tensor, at: i64, keep: bool, most: bool, last: bool) -> Result<Tensor> {
    let at = axis(at, input.rank())?;
    let (before, size, behind) = around(&input.shape, at);
    if size == 0 {
        return Err(Error::data("it looks for the extreme of no values"));
    }
    fn best<T: Number>(
        values: &[T],
        (before, size, behind): (usize, usize, usize),
        most: bool,
        last: bool,
    ) -> Vec<i64> {
        let mut found = Vec::with_capacity(before * behind);
        for row in 0..before {
            for column in 0..behind {
                let value = |step: usize| values[(row * size + step) * behind + column];
                let mut best = 0;
                for step in 1..size {
                    let (a, b) = (value(step), value(best));
                    if (if most { a > b } else { a < b }) || (last && a == b) {
                        best = step;
                    }
                }
                found.push(best as i64);
            }
        }
        found
    }
    let sizes = (before, size, behind);
    let found = match &input.data {
        Data::F32(values) => best(values, sizes, most, last),
        Data::F64(values) => best(values, sizes, most, last),
        Data::I64(values) => best(values, sizes, most, last),
        Data::I32(values) => best(values, sizes, most, last),
        _ => return Err(input.wrong("numbers")),
    };
    let mut shape = input.shape.clone();
    shape[at] = 1;
    if !keep {
        shape.remove(at);
    }
    Tensor::new(shape, Data::I64(found))
}

fn top(settings: &mut Settings<'_>) -> Result<Run> {
    let at = settings.int("axis")?.unwrap_or(-1);
    let largest = settings.flag("largest", true)?;
    let settled = (settings.version < 10).then(|| settings.int("k")).transpose()?.flatten();
    // Whether the caller needs them in order; they always are.
    settings.ignore("sorted");
    Ok(Box::new(move |inputs, _| {
        let input = inputs.get(0)?;
        let count = match settled {
            Some(count) => count,
            None => inputs.get(1)?.ints()?.first().copied().unwrap_or(-1),
        };
        let at = axis(at, input.rank())?;
        let (before, size, behind) = around(&input.shape, at);
        let count = usize::try_from(count).ok().filter(|count| *count <= size);
        let count = count.ok_or_else(|| Error::invalid(format!("it wants more values than the {size} there are")))?;
        let values = input.doubles()?;
        let mut places = vec![0; before * count * behind];
        let mut indices = vec![0i64; places.len()];
        let mut order: Vec<usize> = Vec::with_capacity(size);
        for row in 0..before {
            for column in 0..behind {
                let value = |step: &usize| values[(row * size + step) * behind + column];
                order.clear();
                order.extend(0..size);
                // Of equals the first comes first; NaN has no order, so a total one is used.
                let compare = |a: &usize, b: &usize| {
                    let by = (value(a) + 0.0).total_cmp(&(value(b) + 0.0));
                    (if largest { by.reverse() } else { by }).then(a.cmp(b))
                };
                if count < size && count > 0 {
                    order.select_nth_unstable_by(count - 1, compare);
                    order.truncate(count);
                }
                order.sort_unstable_by(compare);
                for (rank, step) in order.iter().take(count).enumerate() {
                    let to = (row * count + rank) * behind + column;
                    places[to] = (row * size + step) * behind + column;
                    indices[to] = *step as i64;
                }
            }
        }
        let mut shape = input.shape.clone();
        shape[at] = count;
        Ok(vec![Tensor::new(shape.clone(), input.data.pick(&places))?, Tensor::new(shape, Data::I64(indices))?])
    }))
}

fn cumulated<T: Number>(values: &[T], shape: &[usize], at: usize, exclusive: bool, reverse: bool) -> Vec<T> {
    let (before, size, behind) = around(shape, at);
    let mut sums = vec![T::default(); values.len()];
    for row in 0..before {
        for column in 0..behind {
            let mut sum = T::default();
            for step in 0..size {
                let step = if reverse { size - 1 - step } else { step };
                let place = (row * size + step) * behind + column;
                let next = sum.add(values[place]);
                sums[place] = if exclusive { sum } else { next };
                sum = next;
            }
        }
    }
    sums
}

/// Before version 13 the dimensions from `at` on were taken as one.
fn shares<T: Float>(values: &[T], shape: &[usize], at: i64, old: bool, log: bool) -> Result<Vec<T>> {
    let at = if old && at == shape.len() as i64 { shape.len() } else { axis(at, shape.len())? };
    let (before, size, behind) = if old {
        let (before, rest) = shape.split_at(at);
        (before.iter().product(), rest.iter().product(), 1)
    } else {
        around(shape, at)
    };
    let mut found = vec![T::default(); values.len()];
    for row in 0..before {
        for column in 0..behind {
            let place = |step: usize| (row * size + step) * behind + column;
            let most = Reduce::Max.plain((0..size).map(|step| values[place(step)]));
            let mut sum = T::default();
            for step in 0..size {
                let share = values[place(step)].sub(most).exp();
                sum = sum.add(share);
                found[place(step)] = share;
            }
            for step in 0..size {
                let share = &mut found[place(step)];
                *share = if log {
                    values[place(step)].sub(most).sub(sum.ln())
                } else {
                    share.mul(T::ONE.div(sum).unwrap_or_default())
                };
            }
        }
    }
    Ok(found)
}

fn normalised<T: Float>(values: &[T], shape: &[usize], at: usize, reduce: Reduce) -> Vec<T> {
    let (before, size, behind) = around(shape, at);
    let mut found = values.to_vec();
    for row in 0..before {
        for column in 0..behind {
            let places: Vec<usize> = (0..size).map(|step| (row * size + step) * behind + column).collect();
            let norm = reduce.float(values, &places);
            for place in places {
                found[place] =
                    if norm == T::default() { T::default() } else { found[place].div(norm).unwrap_or_default() };
            }
        }
    }
    found
}
