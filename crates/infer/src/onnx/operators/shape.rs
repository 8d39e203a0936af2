//! Operators that move values about and compute none.

use super::super::broadcast::{filled, together};
use super::super::node::{Run, Settings};
use super::super::tensor::{Data, MAX_RANK, Tensor, volume};
use crate::error::{Error, Result};

/// A dimension, counted from the end where it is negative.
pub fn axis(axis: i64, rank: usize) -> Result<usize> {
    let place = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    let place = place.and_then(|place| usize::try_from(place).ok()).filter(|place| *place < rank);
    place.ok_or_else(|| Error::invalid(format!("a tensor of {rank} dimensions has no dimension {axis}")))
}

/// Sizes before, at and behind a dimension.
pub fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    let (before, rest) = shape.split_at(axis.min(shape.len()));
    let behind = rest.get(1..).unwrap_or_default();
    (before.iter().product(), rest.first().copied().unwrap_or(1), behind.iter().product())
}

/// Values at a place counted from the end where it is negative.
fn place(index: i64, size: usize) -> Result<usize> {
    let at = if index < 0 { index.checked_add(size as i64) } else { Some(index) };
    let at = at.and_then(|at| usize::try_from(at).ok()).filter(|at| *at < size);
    at.ok_or_else(|| Error::data(format!("the index {index} is not within a dimension of {size}")))
}

/// The axes of an operator: a setting in older versions, an input later.
fn axes(settings: &mut Settings<'_>, from: i64) -> Result<Option<Vec<i64>>> {
    if settings.version >= from {
        return Ok(None);
    }
    let axes = settings.ints("axes")?;
    Ok((!axes.is_empty()).then(|| axes.to_vec()))
}

/// Prepares one of these operators.
pub fn build(settings: &mut Settings<'_>) -> Result<Option<Run>> {
    Ok(Some(match settings.node.operator.as_str() {
        "Identity" => Box::new(|inputs, _| Ok(vec![inputs.get(0)?.clone()])),
        "Dropout" => {
            for name in ["ratio", "seed", "is_test", "consumed_inputs"] {
                settings.ignore(name);
            }
            Box::new(|inputs, _| {
                if inputs.find(2).map(|training| training.bools().is_ok_and(|t| t.contains(&true))) == Some(true) {
                    return Err(Error::invalid("it is in training mode"));
                }
                let input = inputs.get(0)?;
                Ok(vec![
                    input.clone(),
                    Tensor { shape: input.shape.clone(), data: Data::Bool(vec![true; input.len()]) },
                ])
            })
        }
        "Reshape" => {
            let settled = (settings.version < 5).then(|| settings.ints("shape")).transpose()?.map(<[i64]>::to_vec);
            let zero = settings.flag("allowzero", false)?;
            settings.ignore("consumed_inputs");
            Box::new(move |inputs, _| {
                let wanted = match &settled {
                    Some(shape) => shape.clone(),
                    None => inputs.get(1)?.ints()?,
                };
                Ok(vec![reshape(inputs.get(0)?, &wanted, zero)?])
            })
        }
        "Flatten" => {
            let at = settings.int("axis")?.unwrap_or(1);
            Box::new(move |inputs, _| {
                let input = inputs.get(0)?;
                let at = if at == input.rank() as i64 { input.rank() } else { axis(at, input.rank())? };
                let (before, behind) = input.shape.split_at(at);
                Ok(vec![input.reshaped(vec![before.iter().product(), behind.iter().product()])?])
            })
        }
        "Squeeze" => {
            let settled = axes(settings, 13)?;
            Box::new(move |inputs, _| {
                let input = inputs.get(0)?;
                let wanted = settled.clone().or(inputs.find(1).map(Tensor::ints).transpose()?);
                let mut drop: Vec<bool> = input.shape.iter().map(|size| wanted.is_none() && *size == 1).collect();
                for at in wanted.into_iter().flatten() {
                    drop[axis(at, input.rank())?] = true;
                }
                let kept = input.shape.iter().zip(&drop).filter(|(_, drop)| !**drop).map(|(size, _)| *size).collect();
                Ok(vec![input.reshaped(kept)?])
            })
        }
        "Unsqueeze" => {
            let settled = axes(settings, 13)?;
            Box::new(move |inputs, _| {
                let input = inputs.get(0)?;
                let wanted = match &settled {
                    Some(axes) => axes.clone(),
                    None => inputs.get(1)?.ints()?,
                };
                let rank = input.rank() + wanted.len();
                if rank > MAX_RANK {
                    return Err(Error::invalid("it adds too many dimensions"));
                }
                let mut new = vec![false; rank];
                for at in wanted {
                    new[axis(at, rank)?] = true;
                }
                let mut sizes = input.shape.iter().copied();
                let shape = new.into_iter().map(|new| if new { 1 } else { sizes.next().unwrap_or(1) }).collect();
                Ok(vec![input.reshaped(shape)?])
            })
        }
        "Transpose" => {
            let order = settings.ints("perm")?.to_vec();
            Box::new(move |inputs, _| Ok(vec![transpose(inputs.get(0)?, &order)?]))
        }
        "Shape" => {
            let (start, end) = (settings.int("start")?.unwrap_or(0), settings.int("end")?.unwrap_or(i64::MAX));
            Box::new(move |inputs, _| {
                let shape = &inputs.get(0)?.shape;
                let rank = shape.len() as i64;
                let at = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
                let part = shape.get(at(start)..at(end)).unwrap_or_default();
                Ok(vec![Tensor::list(Data::I64(part.iter().map(|size| *size as i64).collect()))])
            })
        }
        "Size" => Box::new(|inputs, _| {
            Ok(vec![Tensor { shape: Vec::new(), data: Data::I64(vec![inputs.get(0)?.len() as i64]) }])
        }),
        "Concat" => {
            let at = settings.int("axis")?.unwrap_or(1);
            Box::new(move |inputs, _| Ok(vec![concat(&inputs.all().collect::<Vec<_>>(), at)?]))
        }
        "Split" => split(settings)?,
        "Slice" => slice(settings)?,
        "Gather" => {
            let at = settings.int("axis")?.unwrap_or(0);
            Box::new(move |inputs, _| Ok(vec![gather(inputs.get(0)?, inputs.get(1)?, at)?]))
        }
        "GatherElements" => {
            let at = settings.int("axis")?.unwrap_or(0);
            Box::new(move |inputs, _| Ok(vec![gather_elements(inputs.get(0)?, inputs.get(1)?, at)?]))
        }
        "GatherND" => {
            if settings.int("batch_dims")?.unwrap_or(0) != 0 {
                return Err(Error::invalid("its `batch_dims` is not supported"));
            }
            Box::new(|inputs, _| Ok(vec![gather_nd(inputs.get(0)?, inputs.get(1)?)?]))
        }
        "Expand" => Box::new(|inputs, _| {
            let (input, wanted) = (inputs.get(0)?, sizes(inputs.get(1)?)?);
            Ok(vec![filled(input, &together(&input.shape, &wanted)?)?])
        }),
        "Tile" => Box::new(|inputs, _| {
            let (input, times) = (inputs.get(0)?, sizes(inputs.get(1)?)?);
            if times.len() != input.rank() {
                return Err(Error::invalid("it has not one number of repetitions a dimension"));
            }
            let mut result = input.clone();
            for (at, count) in times.iter().enumerate().filter(|(_, count)| **count != 1) {
                let mut shape = result.shape.clone();
                shape[at] = shape[at].checked_mul(*count).ok_or_else(|| Error::invalid("it repeats too often"))?;
                if volume(&shape)? == 0 {
                    result = Tensor::new(shape, result.data.pick(&[]))?;
                    continue;
                }
                let (before, _, _) = around(&result.shape, at);
                let block = result.len().checked_div(before).unwrap_or(0);
                let places: Vec<usize> =
                    (0..before).flat_map(|row| (0..*count).flat_map(move |_| row * block..(row + 1) * block)).collect();
                result = Tensor::new(shape, result.data.pick(&places))?;
            }
            Ok(vec![result])
        }),
        "Constant" => {
            let value = constant(settings)?;
            Box::new(move |_, _| Ok(vec![value.clone()]))
        }
        "ConstantOfShape" => {
            let value = settings.tensor("value")?.cloned().unwrap_or_else(|| Tensor::list(Data::F32(vec![0.0])));
            if value.len() != 1 {
                return Err(Error::data("its `value` is not one value"));
            }
            Box::new(move |inputs, _| {
                let shape = sizes(inputs.get(0)?)?;
                let count = volume(&shape)?;
                Ok(vec![Tensor::new(shape, value.data.pick(&vec![0; count]))?])
            })
        }
        "Range" => Box::new(|inputs, _| Ok(vec![range(inputs.get(0)?, inputs.get(1)?, inputs.get(2)?)?])),
        "Compress" => {
            let at = settings.int("axis")?;
            Box::new(move |inputs, _| {
                let (input, keep) = (inputs.get(0)?, inputs.get(1)?.bools()?);
                let flat;
                let (input, at) = match at {
                    Some(at) => (input, axis(at, input.rank())?),
                    None => {
                        flat = input.reshaped(vec![input.len()])?;
                        (&flat, 0)
                    }
                };
                let size = input.shape[at];
                let kept: Vec<usize> =
                    keep.iter().take(size).enumerate().filter(|(_, k)| **k).map(|(i, _)| i).collect();
                Ok(vec![take(input, at, &kept)?])
            })
        }
        "NonZero" => Box::new(|inputs, _| {
            let input = inputs.get(0)?;
            let found: Vec<usize> =
                input.doubles()?.iter().enumerate().filter(|(_, v)| **v != 0.0).map(|(i, _)| i).collect();
            let mut values = Vec::with_capacity(found.len() * input.rank());
            for at in 0..input.rank() {
                let (_, size, behind) = around(&input.shape, at);
                values.extend(found.iter().map(|place| (place / behind % size) as i64));
            }
            Ok(vec![Tensor::new(vec![input.rank(), found.len()], Data::I64(values))?])
        }),
        _ => return Ok(None),
    }))
}

/// The sizes that a tensor lists.
fn sizes(tensor: &Tensor) -> Result<Vec<usize>> {
    let size = |v: &i64| usize::try_from(*v).map_err(|_| Error::invalid(format!("{v} is no size")));
    let sizes: Vec<usize> = tensor.ints()?.iter().map(size).collect::<Result<_>>()?;
    if sizes.len() > MAX_RANK { Err(Error::invalid("a tensor has too many dimensions")) } else { Ok(sizes) }
}

fn reshape(input: &Tensor, wanted: &[i64], zero: bool) -> Result<Tensor> {
    let mut shape = Vec::with_capacity(wanted.len().min(MAX_RANK));
    let mut open = None;
    for (at, size) in wanted.iter().enumerate() {
        shape.push(match *size {
            0 if !zero => *input.shape.get(at).ok_or_else(|| Error::invalid(format!("it has no dimension {at}")))?,
            -1 if open.is_none() => {
                open = Some(at);
                1
            }
            size => {
                usize::try_from(size).map_err(|_| Error::invalid(format!("it cannot have the shape {wanted:?}")))?
            }
        });
    }
    if let Some(at) = open {
        let rest = volume(&shape)?;
        let size = input.len().checked_div(rest).filter(|size| size * rest == input.len());
        shape[at] =
            size.ok_or_else(|| Error::invalid(format!("{:?} does not go into the shape {wanted:?}", input.shape)))?;
    }
    input.reshaped(shape)
}

fn transpose(input: &Tensor, order: &[i64]) -> Result<Tensor> {
    let rank = input.rank();
    let order: Vec<usize> = if order.is_empty() {
        (0..rank).rev().collect()
    } else {
        order.iter().map(|at| axis(*at, rank)).collect::<Result<_>>()?
    };
    let mut seen = vec![false; rank];
    order.iter().for_each(|at| seen[*at] = true);
    if order.len() != rank || seen.contains(&false) {
        return Err(Error::invalid(format!("{order:?} is no order of {rank} dimensions")));
    }
    let shape: Vec<usize> = order.iter().map(|at| input.shape[*at]).collect();
    let mut places = vec![0usize];
    // The places of all values, dimension by dimension.
    for at in &order {
        let (_, size, behind) = around(&input.shape, *at);
        places = places.iter().flat_map(|from| (0..size).map(move |step| from + step * behind)).collect();
    }
    Tensor::new(shape, input.data.pick(&places))
}

fn concat(all: &[&Tensor], at: i64) -> Result<Tensor> {
    let first = all.first().ok_or_else(|| Error::data("it has no input"))?;
    let at = axis(at, first.rank())?;
    let mut shape = first.shape.clone();
    shape[at] = 0;
    for tensor in all {
        let fits = tensor.rank() == shape.len()
            && tensor.shape.iter().zip(&shape).enumerate().all(|(place, (a, b))| place == at || a == b);
        if !fits {
            return Err(Error::invalid(format!(
                "tensors of the shapes {:?} and {:?} cannot stand side by side",
                first.shape, tensor.shape
            )));
        }
        shape[at] += tensor.shape[at];
    }
    let count = volume(&shape)?;
    let (before, _, behind) = around(&shape, at);
    let mut data = Data::empty(first.kind(), count);
    for row in 0..before {
        for tensor in all {
            let block = tensor.shape[at] * behind;
            data.append(&tensor.data, row * block..(row + 1) * block)?;
        }
    }
    Tensor::new(shape, data)
}

/// The values at some places of a dimension.
fn take(input: &Tensor, at: usize, kept: &[usize]) -> Result<Tensor> {
    let (before, size, behind) = around(&input.shape, at);
    let mut shape = input.shape.clone();
    shape[at] = kept.len();
    let mut places = Vec::with_capacity(volume(&shape)?);
    for row in 0..before {
        for kept in kept {
            let from = (row * size + kept) * behind;
            places.extend(from..from + behind);
        }
    }
    Tensor::new(shape, input.data.pick(&places))
}

fn split(settings: &mut Settings<'_>) -> Result<Run> {
    let at = settings.int("axis")?.unwrap_or(0);
    let settled = (settings.version < 13).then(|| settings.ints("split")).transpose()?.map(<[i64]>::to_vec);
    let settled = settled.filter(|parts| !parts.is_empty());
    settings.int("num_outputs")?;
    let parts = settings.node.outputs.len();
    Ok(Box::new(move |inputs, _| {
        let input = inputs.get(0)?;
        let at = axis(at, input.rank())?;
        let size = input.shape[at];
        let wanted = match (&settled, inputs.find(1)) {
            (Some(parts), _) => parts.clone(),
            (None, Some(parts)) => parts.ints()?,
            (None, None) => {
                let part = size.div_ceil(parts.max(1));
                (0..parts).map(|k| part.min(size.saturating_sub(k * part)) as i64).collect()
            }
        };
        if wanted.iter().any(|v| *v < 0) || wanted.iter().try_fold(0i64, |s, v| s.checked_add(*v)) != Some(size as i64)
        {
            return Err(Error::invalid(format!("parts of {wanted:?} are not the dimension of {size}")));
        }
        let mut from = 0;
        let mut results = Vec::with_capacity(wanted.len());
        for part in wanted {
            let kept: Vec<usize> = (from..from + part as usize).collect();
            from += part as usize;
            results.push(take(input, at, &kept)?);
        }
        Ok(results)
    }))
}

fn slice(settings: &mut Settings<'_>) -> Result<Run> {
    let settled = if settings.version < 10 {
        Some((settings.ints("starts")?.to_vec(), settings.ints("ends")?.to_vec(), settings.ints("axes")?.to_vec()))
    } else {
        None
    };
    Ok(Box::new(move |inputs, _| {
        let input = inputs.get(0)?;
        let (starts, ends, axes) = match &settled {
            Some(settled) => settled.clone(),
            None => {
                let axes = inputs.find(3).map(Tensor::ints).transpose()?.unwrap_or_default();
                (inputs.get(1)?.ints()?, inputs.get(2)?.ints()?, axes)
            }
        };
        let axes = if axes.is_empty() { (0..starts.len() as i64).collect() } else { axes };
        let steps = inputs.find(4).map(Tensor::ints).transpose()?.unwrap_or_else(|| vec![1; starts.len()]);
        if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
            return Err(Error::invalid("its starts, ends, axes and steps differ in number"));
        }
        let mut result = input.clone();
        for (((start, end), at), step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
            let at = axis(*at, input.rank())?;
            let size = result.shape[at] as i64;
            let from_end = |v: i64| if v < 0 { v.saturating_add(size) } else { v };
            let kept: Vec<usize> = match step.signum() {
                _ if size == 0 => Vec::new(),
                1 => {
                    let (start, end) = (from_end(*start).clamp(0, size), from_end(*end).clamp(0, size));
                    (start..end).step_by(usize::try_from(*step).unwrap_or(usize::MAX)).map(|v| v as usize).collect()
                }
                -1 => {
                    let (start, end) = (from_end(*start).clamp(0, size - 1), from_end(*end).clamp(-1, size - 1));
                    let step = usize::try_from(step.unsigned_abs()).unwrap_or(usize::MAX);
                    (end + 1..start + 1).rev().step_by(step).map(|v| v as usize).collect()
                }
                _ => return Err(Error::invalid("it has a step of zero")),
            };
            result = take(&result, at, &kept)?;
        }
        Ok(vec![result])
    }))
}

fn gather(input: &Tensor, indices: &Tensor, at: i64) -> Result<Tensor> {
    let at = axis(at, input.rank())?;
    let size = input.shape[at];
    let kept: Vec<usize> = indices.ints()?.iter().map(|index| place(*index, size)).collect::<Result<_>>()?;
    let taken = take(input, at, &kept)?;
    let (before, behind) = input.shape.split_at(at);
    let shape = [before, &indices.shape, &behind[1..]].concat();
    Tensor::new(shape, taken.data)
}

fn gather_elements(input: &Tensor, indices: &Tensor, at: i64) -> Result<Tensor> {
    let at = axis(at, input.rank())?;
    let fits = indices.rank() == input.rank()
        && indices.shape.iter().zip(&input.shape).enumerate().all(|(place, (i, v))| place == at || i <= v);
    if !fits {
        return Err(Error::invalid(format!("indices of the shape {:?} do not fit {:?}", indices.shape, input.shape)));
    }
    let mut places = Vec::with_capacity(indices.len());
    for (number, index) in indices.ints()?.iter().enumerate() {
        let (mut from, mut rest) = (0, number);
        for dimension in (0..indices.rank()).rev() {
            let (_, size, behind) = around(&input.shape, dimension);
            let coordinate = rest % indices.shape[dimension];
            rest /= indices.shape[dimension];
            from += behind * if dimension == at { place(*index, size)? } else { coordinate };
        }
        places.push(from);
    }
    Tensor::new(indices.shape.clone(), input.data.pick(&places))
}

fn gather_nd(input: &Tensor, indices: &Tensor) -> Result<Tensor> {
    let depth = indices.shape.last().copied().unwrap_or(0);
    if depth == 0 || depth > input.rank() {
        return Err(Error::invalid(format!("indices of {depth} numbers do not fit {:?}", input.shape)));
    }
    let behind: usize = input.shape[depth..].iter().product();
    let shape = [&indices.shape[..indices.rank() - 1], &input.shape[depth..]].concat();
    let mut places = Vec::with_capacity(volume(&shape)?);
    for index in indices.ints()?.chunks_exact(depth) {
        let mut from = 0;
        for (number, size) in index.iter().zip(&input.shape) {
            from = from * size + place(*number, *size)?;
        }
        places.extend(from * behind..(from + 1) * behind);
    }
    Tensor::new(shape, input.data.pick(&places))
}

fn constant(settings: &mut Settings<'_>) -> Result<Tensor> {
    if let Some(value) = settings.tensor("value")? {
        return Ok(value.clone());
    }
    let one = |data| Tensor { shape: Vec::new(), data };
    if let Some(value) = settings.float("value_float")? {
        return Ok(one(Data::F32(vec![value])));
    }
    if let Some(value) = settings.int("value_int")? {
        return Ok(one(Data::I64(vec![value])));
    }
    if let Some(value) = settings.text("value_string")? {
        return Ok(one(Data::Text(vec![settings.words.number(value)])));
    }
    if settings.has("value_floats") {
        return Ok(Tensor::list(Data::F32(settings.floats("value_floats")?.to_vec())));
    }
    if settings.has("value_ints") {
        return Ok(Tensor::list(Data::I64(settings.ints("value_ints")?.to_vec())));
    }
    if settings.has("value_strings") {
        let texts = settings.texts("value_strings")?;
        return Ok(Tensor::list(Data::Text(texts.iter().map(|text| settings.words.number(text)).collect())));
    }
    Err(Error::data("it has no value"))
}

fn range(start: &Tensor, end: &Tensor, step: &Tensor) -> Result<Tensor> {
    let first = |t: &Tensor| t.doubles().ok().and_then(|v| v.first().copied());
    let (Some(from), Some(to), Some(by)) = (first(start), first(end), first(step)) else {
        return Err(Error::invalid("it wants three numbers"));
    };
    let count = ((to - from) / by).ceil().max(0.0);
    if count.is_nan() || count > super::super::tensor::MAX_VALUES as f64 {
        return Err(Error::invalid("its range has too many numbers"));
    }
    let count = count as usize;
    Ok(Tensor::list(match (&start.data, &step.data) {
        (Data::I64(from), Data::I64(by)) => {
            Data::I64((0..count as i64).map(|k| from[0].wrapping_add(k.wrapping_mul(by[0]))).collect())
        }
        (Data::I32(from), Data::I32(by)) => {
            Data::I32((0..count as i32).map(|k| from[0].wrapping_add(k.wrapping_mul(by[0]))).collect())
        }
        (Data::F32(from), Data::F32(by)) => Data::F32((0..count).map(|k| from[0] + k as f32 * by[0]).collect()),
        (Data::F64(from), Data::F64(by)) => Data::F64((0..count).map(|k| from[0] + k as f64 * by[0]).collect()),
        _ => return Err(start.wrong("numbers of one type")),
    }))
}
