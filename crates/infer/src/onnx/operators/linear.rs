//! Linear models and the steps before them, of `ai.onnx.ml`: all of them work
//! in single precision, whatever they are given.

use super::super::explain::Explained;
use super::super::node::{Classes, Inputs, Run, Settings};
use super::super::tensor::{Data, Tensor};
use super::matrix::{Sizes, add_product, block, transposed};
use super::scores::{Second, Transform};
use crate::error::{Error, Result};

/// Prepares one of these operators.
pub fn build(settings: &mut Settings<'_>) -> Result<Option<Run>> {
    Ok(Some(match settings.node.operator.as_str() {
        "LinearClassifier" => classifier(settings)?,
        "LinearRegressor" => regressor(settings)?,
        "Scaler" => scaler(settings)?,
        "Normalizer" => normalizer(settings)?,
        "Binarizer" => {
            let threshold = settings.float("threshold")?.unwrap_or(0.0);
            Box::new(move |inputs, _| {
                let input = inputs.get(0)?;
                let Data::F32(values) = &input.data else { return Err(input.wrong("float")) };
                if values.iter().any(|v| v.is_nan()) {
                    return Err(Error::data("it is given NaN, of which it cannot say on which side it is")
                        .with_hint("replace missing values in the feature SQL"));
                }
                let made = values.iter().map(|v| f32::from(u8::from(*v > threshold))).collect();
                Ok(vec![Tensor::new(input.shape.clone(), Data::F32(made))?])
            })
        }
        "Imputer" => imputer(settings)?,
        _ => return Ok(None),
    }))
}

/// `rows * weights + start`; `weights` lie column by column of the result.
#[derive(Debug)]
pub struct Linear {
    inner: usize,
    columns: usize,
    weights: Vec<f32>,
    start: Vec<f32>,
    block: usize,
    factor: f32,
}

impl Linear {
    /// Of lists whose sizes fit.
    pub fn new(weights: &[f32], start: Vec<f32>, columns: usize) -> Result<Self> {
        let inner = weights.len().checked_div(columns).unwrap_or(0);
        if columns == 0 || inner * columns != weights.len() || !(start.is_empty() || start.len() == columns) {
            return Err(Error::data(format!("{} coefficients do not go with {columns} outputs", weights.len())));
        }
        let sizes = Sizes { rows: 1, inner, columns };
        Ok(Self {
            inner,
            columns,
            weights: transposed(weights, columns, inner),
            start,
            block: block(sizes),
            factor: 1.0,
        })
    }

    /// The product times a factor.
    pub fn times(self, factor: f32) -> Self {
        Self { factor, ..self }
    }

    /// Of every row; answers how many rows there are.
    pub fn of(&self, input: &Tensor) -> Result<(usize, Vec<f32>)> {
        let (rows, inner) = input.matrix()?;
        if inner != self.inner {
            return Err(Error::invalid(format!("it wants {} columns and is given {inner}", self.inner)));
        }
        let mut result = vec![0.0; rows * self.columns];
        if !self.start.is_empty() {
            result.chunks_exact_mut(self.columns).for_each(|row| row.copy_from_slice(&self.start));
        }
        let sizes = Sizes { rows, inner, columns: self.columns };
        add_product(&input.singles()?, &self.weights, sizes, self.block, self.factor, &mut result);
        Ok((rows, result))
    }
}

/// What explains the outputs from `first` on.
fn explained(coefficients: &[f32], start: &[f32], outputs: usize, first: usize) -> Explained {
    let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<f64>>();
    let start = if start.is_empty() { vec![0.0; outputs] } else { wide(start) };
    let inner = coefficients.len().checked_div(outputs).unwrap_or(0);
    Explained::linear(wide(&coefficients[first * inner..]), start[first.min(start.len())..].to_vec())
}

fn classifier(settings: &mut Settings<'_>) -> Result<Run> {
    let classes = Classes::read(settings, "classlabels_ints", "classlabels_strings")?;
    let transform = Transform::named(settings.text("post_transform")?)?;
    settings.ignore("multi_class");
    let intercepts = settings.floats("intercepts")?.to_vec();
    let outputs = intercepts.len();
    let alone = outputs == 1;
    if !(alone && classes.len() == 2 || outputs == classes.len() && outputs > 1) {
        return Err(Error::invalid(format!("{outputs} intercepts for {} classes are not supported", classes.len())));
    }
    let coefficients = settings.floats("coefficients")?;
    // Of two classes it is the second one's score, above the first one's where they share a softmax.
    settings.explained = Some(Ok(match transform {
        Transform::Softmax | Transform::SoftmaxZero if outputs == 2 && coefficients.len() % 2 == 0 => {
            let (first, second) = coefficients.split_at(coefficients.len() / 2);
            let above: Vec<f32> = second.iter().zip(first).map(|(b, a)| b - a).collect();
            explained(&above, &[intercepts[1] - intercepts[0]], 1, 0)
        }
        _ => explained(coefficients, &intercepts, outputs, usize::from(outputs == 2)),
    }));
    let linear = Linear::new(coefficients, intercepts, outputs)?;
    let labels = settings.labels(&classes);
    Ok(Box::new(move |inputs: Inputs<'_>, _| {
        let (rows, mut scores) = linear.of(inputs.get(0)?)?;
        let best = |row: &[f32]| {
            let later = |best, class: usize| if row[class] > row[best] { class } else { best };
            if alone { usize::from(row[0] > 0.0) } else { (1..outputs).fold(0, later) }
        };
        let chosen: Vec<usize> = scores.chunks_exact(outputs).map(best).collect();
        let all = if alone {
            let mut all = Vec::with_capacity(2 * rows);
            scores.chunks_exact_mut(1).for_each(|row| transform.write(row, Second::Rest, &mut all));
            all
        } else {
            transform.of_linear(scores, outputs)
        };
        let width = all.len().checked_div(rows).unwrap_or(outputs);
        Ok(vec![labels.of(&chosen)?, Tensor::new(vec![rows, width], Data::F32(all))?])
    }))
}

fn regressor(settings: &mut Settings<'_>) -> Result<Run> {
    let targets = usize::try_from(settings.int("targets")?.unwrap_or(1)).unwrap_or(0);
    let transform = Transform::named(settings.text("post_transform")?)?;
    let intercepts = settings.floats("intercepts")?;
    let start = if intercepts.len() == targets { intercepts.to_vec() } else { Vec::new() };
    let coefficients = settings.floats("coefficients")?;
    settings.explained = Some(Ok(explained(coefficients, &start, targets, 0)));
    let linear = Linear::new(coefficients, start, targets)?;
    Ok(Box::new(move |inputs: Inputs<'_>, _| {
        let (rows, mut scores) = linear.of(inputs.get(0)?)?;
        let all = if targets == 1 {
            let mut all = Vec::with_capacity(rows);
            scores.chunks_exact_mut(1).for_each(|row| transform.write(row, Second::Not, &mut all));
            all
        } else {
            transform.of_linear(scores, targets)
        };
        Ok(vec![Tensor::new(vec![rows, targets], Data::F32(all))?])
    }))
}

fn scaler(settings: &mut Settings<'_>) -> Result<Run> {
    let (offset, scale) = (settings.floats("offset")?.to_vec(), settings.floats("scale")?.to_vec());
    if offset.is_empty() || offset.len() != scale.len() {
        return Err(Error::data("its offsets and scales are missing or differ in number"));
    }
    Ok(Box::new(move |inputs: Inputs<'_>, _| {
        let input = inputs.get(0)?;
        let width = input.shape.last().copied().unwrap_or(1);
        if offset.len() != 1 && offset.len() != width {
            return Err(Error::invalid(format!("it scales {} columns and is given {width}", offset.len())));
        }
        let values = input.singles()?;
        let scaled = if let ([offset], [scale]) = (offset.as_slice(), scale.as_slice()) {
            values.iter().map(|value| (value - offset) * scale).collect()
        } else {
            let mut scaled = Vec::with_capacity(values.len());
            for row in values.chunks_exact(width.max(1)) {
                let terms = row.iter().zip(&offset).zip(&scale);
                scaled.extend(terms.map(|((value, offset), scale)| (value - offset) * scale));
            }
            scaled
        };
        Ok(vec![Tensor::new(input.shape.clone(), Data::F32(scaled))?])
    }))
}

fn normalizer(settings: &mut Settings<'_>) -> Result<Run> {
    let norm = settings.text("norm")?.unwrap_or("MAX").to_owned();
    if !matches!(norm.as_str(), "MAX" | "L1" | "L2") {
        return Err(Error::invalid(format!("its `norm` of `{norm}` is not supported")));
    }
    Ok(Box::new(move |inputs: Inputs<'_>, _| {
        let input = inputs.get(0)?;
        let (_, width) = input.matrix()?;
        let mut values = input.singles()?.into_owned();
        for row in values.chunks_exact_mut(width.max(1)) {
            match norm.as_str() {
                "L2" => {
                    let sum = row.iter().fold(0f32, |sum, v| sum + v * v);
                    if sum != 0.0 {
                        row.iter_mut().for_each(|v| {
                            let root = (*v * *v / sum).sqrt();
                            *v = if *v < 0.0 { -root } else { root };
                        });
                    }
                }
                norm => {
                    let by = if norm == "L1" {
                        row.iter().fold(0f32, |sum, v| sum + v.abs())
                    } else {
                        row.iter().fold(f32::MIN, |most, v| if *v > most { *v } else { most })
                    };
                    if by != 0.0 {
                        row.iter_mut().for_each(|v| *v /= by);
                    }
                }
            }
        }
        Ok(vec![Tensor::new(input.shape.clone(), Data::F32(values))?])
    }))
}

fn imputer(settings: &mut Settings<'_>) -> Result<Run> {
    let floats = settings.floats("imputed_value_floats")?.to_vec();
    let ints = settings.ints("imputed_value_int64s")?.to_vec();
    let float = settings.float("replaced_value_float")?.unwrap_or(0.0);
    let int = settings.int("replaced_value_int64")?.unwrap_or(0);
    if floats.is_empty() == ints.is_empty() {
        return Err(Error::data("it replaces values by nothing, or by two kinds of numbers"));
    }
    Ok(Box::new(move |inputs: Inputs<'_>, _| {
        let input = inputs.get(0)?;
        let (_, width) = input.matrix()?;
        /// Replaces values by those of their columns, or by the only one.
        fn replaced<T: Copy>(values: &[T], width: usize, by: &[T], missing: impl Fn(T) -> bool) -> Vec<T> {
            let mut made = Vec::with_capacity(values.len());
            let by = if by.len() == width { by.to_vec() } else { vec![by[0]; width] };
            for row in values.chunks(width.max(1)) {
                made.extend(row.iter().zip(&by).map(|(value, by)| if missing(*value) { *by } else { *value }));
            }
            made
        }
        let data = match &input.data {
            Data::F32(values) if !floats.is_empty() && float.is_nan() => {
                Data::F32(replaced(values, width, &floats, |v| v.is_nan()))
            }
            Data::F32(values) if !floats.is_empty() => Data::F32(replaced(values, width, &floats, |v| v == float)),
            Data::F64(values) if !floats.is_empty() => {
                let floats: Vec<f64> = floats.iter().copied().map(f64::from).collect();
                let missing = |v: f64| v == f64::from(float) || (v.is_nan() && float.is_nan());
                Data::F64(replaced(values, width, &floats, missing))
            }
            Data::I64(values) if !ints.is_empty() => Data::I64(replaced(values, width, &ints, |v| v == int)),
            _ => return Err(input.wrong("the type of the values it replaces")),
        };
        Ok(vec![Tensor::new(input.shape.clone(), data)?])
    }))
}
