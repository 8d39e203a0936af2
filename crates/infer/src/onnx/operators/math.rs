//! Operators that work value by value.
//!
//! Single precision stays single precision: each operation rounds as the
//! processor's own does. See [`functions`] for those that are approximated.

use super::super::broadcast::pairs;
use super::super::node::{Run, Settings};
use super::super::tensor::{Data, Kind, Tensor, Words};
use super::functions::{self, Approximated};
use crate::error::{Error, Result};

/// A number of any of the four kinds.
pub trait Number: Copy + PartialOrd + Default + 'static {
    /// Adds; whole numbers wrap around.
    fn add(self, other: Self) -> Self;
    /// Subtracts.
    fn sub(self, other: Self) -> Self;
    /// Multiplies.
    fn mul(self, other: Self) -> Self;
    /// Divides; `None` by a whole zero.
    fn div(self, other: Self) -> Option<Self>;
    /// To a power.
    fn pow(self, power: f64) -> Self;
    /// Whether it is NaN.
    fn missing(self) -> bool;
    /// The magnitude.
    fn abs(self) -> Self;
    /// One.
    const ONE: Self;
    /// Below every number.
    const LOWEST: Self;
    /// Above every number.
    const HIGHEST: Self;
}

impl Number for f32 {
    fn add(self, other: Self) -> Self {
        self + other
    }
    fn sub(self, other: Self) -> Self {
        self - other
    }
    fn mul(self, other: Self) -> Self {
        self * other
    }
    fn div(self, other: Self) -> Option<Self> {
        Some(self / other)
    }
    fn pow(self, power: f64) -> Self {
        self.powf(power as f32)
    }
    fn missing(self) -> bool {
        self.is_nan()
    }
    fn abs(self) -> Self {
        Self::abs(self)
    }
    const ONE: Self = 1.0;
    const LOWEST: Self = Self::NEG_INFINITY;
    const HIGHEST: Self = Self::INFINITY;
}

impl Number for f64 {
    fn add(self, other: Self) -> Self {
        self + other
    }
    fn sub(self, other: Self) -> Self {
        self - other
    }
    fn mul(self, other: Self) -> Self {
        self * other
    }
    fn div(self, other: Self) -> Option<Self> {
        Some(self / other)
    }
    fn pow(self, power: f64) -> Self {
        self.powf(power)
    }
    fn missing(self) -> bool {
        self.is_nan()
    }
    fn abs(self) -> Self {
        Self::abs(self)
    }
    const ONE: Self = 1.0;
    const LOWEST: Self = Self::NEG_INFINITY;
    const HIGHEST: Self = Self::INFINITY;
}

impl Number for i64 {
    fn add(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
    fn sub(self, other: Self) -> Self {
        self.wrapping_sub(other)
    }
    fn mul(self, other: Self) -> Self {
        self.wrapping_mul(other)
    }
    fn div(self, other: Self) -> Option<Self> {
        self.checked_div(other)
    }
    fn pow(self, power: f64) -> Self {
        (self as f64).powf(power) as Self
    }
    fn missing(self) -> bool {
        false
    }
    fn abs(self) -> Self {
        self.wrapping_abs()
    }
    const ONE: Self = 1;
    const LOWEST: Self = Self::MIN;
    const HIGHEST: Self = Self::MAX;
}

impl Number for i32 {
    fn add(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
    fn sub(self, other: Self) -> Self {
        self.wrapping_sub(other)
    }
    fn mul(self, other: Self) -> Self {
        self.wrapping_mul(other)
    }
    fn div(self, other: Self) -> Option<Self> {
        self.checked_div(other)
    }
    fn pow(self, power: f64) -> Self {
        f64::from(self).powf(power) as Self
    }
    fn missing(self) -> bool {
        false
    }
    fn abs(self) -> Self {
        self.wrapping_abs()
    }
    const ONE: Self = 1;
    const LOWEST: Self = Self::MIN;
    const HIGHEST: Self = Self::MAX;
}

/// Two numbers become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
}

impl Arithmetic {
    fn of<T: Number>(self, a: T, b: T) -> Option<T> {
        Some(match self {
            Self::Add => a.add(b),
            Self::Sub => a.sub(b),
            Self::Mul => a.mul(b),
            Self::Div => return a.div(b),
            // NaN passes through, from either side.
            Self::Min => {
                if b < a || b.missing() {
                    b
                } else {
                    a
                }
            }
            Self::Max => {
                if b > a || b.missing() {
                    b
                } else {
                    a
                }
            }
        })
    }

    fn tensors(self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let zero = || Error::data("a whole number is divided by zero");
        fn each<T: Number>(
            of: Arithmetic,
            a: (&[T], &[usize]),
            b: (&[T], &[usize]),
        ) -> Result<(Vec<usize>, Option<Vec<T>>)> {
            let mut good = true;
            let (shape, values) = pairs(a, b, |a, b| {
                of.of(a, b).unwrap_or_else(|| {
                    good = false;
                    T::default()
                })
            })?;
            Ok((shape, good.then_some(values)))
        }
        let (shape, data) = match (&a.data, &b.data) {
            (Data::F32(x), Data::F32(y)) => {
                let (shape, values) = each(self, (x, &a.shape), (y, &b.shape))?;
                (shape, Data::F32(values.ok_or_else(zero)?))
            }
            (Data::F64(x), Data::F64(y)) => {
                let (shape, values) = each(self, (x, &a.shape), (y, &b.shape))?;
                (shape, Data::F64(values.ok_or_else(zero)?))
            }
            (Data::I64(x), Data::I64(y)) => {
                let (shape, values) = each(self, (x, &a.shape), (y, &b.shape))?;
                (shape, Data::I64(values.ok_or_else(zero)?))
            }
            (Data::I32(x), Data::I32(y)) => {
                let (shape, values) = each(self, (x, &a.shape), (y, &b.shape))?;
                (shape, Data::I32(values.ok_or_else(zero)?))
            }
            _ => return Err(two(a, b)),
        };
        Tensor::new(shape, data)
    }
}

fn two(a: &Tensor, b: &Tensor) -> Error {
    Error::invalid(format!("it is given {} and {} together", a.kind().name(), b.kind().name()))
}

/// Two values become a truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Compare {
    fn of<T: PartialOrd>(self, a: T, b: T) -> bool {
        match self {
            Self::Equal => a == b,
            Self::Less => a < b,
            Self::LessOrEqual => a <= b,
            Self::Greater => a > b,
            Self::GreaterOrEqual => a >= b,
        }
    }

    fn tensors(self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let (shape, values) = match (&a.data, &b.data) {
            (Data::F32(x), Data::F32(y)) => pairs((x, &a.shape), (y, &b.shape), |a, b| self.of(a, b))?,
            (Data::F64(x), Data::F64(y)) => pairs((x, &a.shape), (y, &b.shape), |a, b| self.of(a, b))?,
            (Data::I64(x), Data::I64(y)) => pairs((x, &a.shape), (y, &b.shape), |a, b| self.of(a, b))?,
            (Data::I32(x), Data::I32(y)) => pairs((x, &a.shape), (y, &b.shape), |a, b| self.of(a, b))?,
            (Data::Bool(x), Data::Bool(y)) if self == Self::Equal => {
                pairs((x, &a.shape), (y, &b.shape), |a, b| a == b)?
            }
            (Data::Text(x), Data::Text(y)) if self == Self::Equal => {
                pairs((x, &a.shape), (y, &b.shape), |a, b| a == b)?
            }
            _ => return Err(two(a, b)),
        };
        Tensor::new(shape, Data::Bool(values))
    }
}

/// Prepares one of these operators.
pub fn build(settings: &mut Settings<'_>) -> Result<Option<Run>> {
    let arithmetic = match settings.node.operator.as_str() {
        "Add" => Some(Arithmetic::Add),
        "Sub" => Some(Arithmetic::Sub),
        "Mul" => Some(Arithmetic::Mul),
        "Div" => Some(Arithmetic::Div),
        _ => None,
    };
    if let Some(of) = arithmetic {
        old_broadcast(settings)?;
        return Ok(Some(Box::new(move |inputs, _| Ok(vec![of.tensors(inputs.get(0)?, inputs.get(1)?)?]))));
    }
    let compare = match settings.node.operator.as_str() {
        "Equal" => Some(Compare::Equal),
        "Less" => Some(Compare::Less),
        "LessOrEqual" => Some(Compare::LessOrEqual),
        "Greater" => Some(Compare::Greater),
        "GreaterOrEqual" => Some(Compare::GreaterOrEqual),
        _ => None,
    };
    if let Some(of) = compare {
        old_broadcast(settings)?;
        return Ok(Some(Box::new(move |inputs, _| Ok(vec![of.tensors(inputs.get(0)?, inputs.get(1)?)?]))));
    }
    if let Some(run) = logic(settings)? {
        return Ok(Some(run));
    }
    if let Some(run) = one(settings)? {
        return Ok(Some(run));
    }
    Ok(Some(match settings.node.operator.as_str() {
        "Sum" | "Mean" | "Min" | "Max" => {
            let operator = settings.node.operator.clone();
            let of = match operator.as_str() {
                "Min" => Arithmetic::Min,
                "Max" => Arithmetic::Max,
                _ => Arithmetic::Add,
            };
            Box::new(move |inputs, _| {
                let mut all = inputs.all();
                let first = all.next().ok_or_else(|| Error::data("it has no input"))?;
                let mut result = first.clone();
                let mut count = 1;
                for next in all {
                    result = of.tensors(&result, next)?;
                    count += 1;
                }
                if operator == "Mean" {
                    match &mut result.data {
                        Data::F32(values) => values.iter_mut().for_each(|v| *v /= count as f32),
                        Data::F64(values) => values.iter_mut().for_each(|v| *v /= f64::from(count)),
                        _ => return Err(result.wrong("floats")),
                    }
                }
                Ok(vec![result])
            })
        }
        "Pow" => {
            old_broadcast(settings)?;
            Box::new(|inputs, _| Ok(vec![power(inputs.get(0)?, inputs.get(1)?)?]))
        }
        "Mod" => {
            let float = settings.flag("fmod", false)?;
            Box::new(move |inputs, _| Ok(vec![remainder(inputs.get(0)?, inputs.get(1)?, float)?]))
        }
        "Clip" => clip(settings)?,
        "Where" => Box::new(|inputs, _| Ok(vec![choose(inputs.get(0)?, inputs.get(1)?, inputs.get(2)?)?])),
        "Cast" => {
            let to = settings.int("to")?.ok_or_else(|| Error::data("it does not say to which type"))?;
            settings.ignore("saturate");
            settings.ignore("round_mode");
            let to = Kind::from_code(to)?;
            Box::new(move |inputs, words| Ok(vec![convert(inputs.get(0)?, to, words)?]))
        }
        "CastLike" => {
            settings.ignore("saturate");
            settings.ignore("round_mode");
            Box::new(move |inputs, words| Ok(vec![convert(inputs.get(0)?, inputs.get(1)?.kind(), words)?]))
        }
        _ => return Ok(None),
    }))
}

/// Operator versions before 7 named the dimension at which shapes meet.
fn old_broadcast(settings: &mut Settings<'_>) -> Result<()> {
    if settings.version < 7 && settings.has("axis") {
        return Err(
            Error::invalid("its `axis` is not supported").with_hint("convert the model to operator set 7 or later")
        );
    }
    settings.ignore("broadcast");
    settings.ignore("consumed_inputs");
    Ok(())
}

fn logic(settings: &Settings<'_>) -> Result<Option<Run>> {
    let of: fn(bool, bool) -> bool = match settings.node.operator.as_str() {
        "And" => |a, b| a && b,
        "Or" => |a, b| a || b,
        "Xor" => |a, b| a != b,
        "Not" => {
            return Ok(Some(Box::new(|inputs, _| {
                let input = inputs.get(0)?;
                let values = input.bools()?.iter().map(|v| !*v).collect();
                Ok(vec![Tensor::new(input.shape.clone(), Data::Bool(values))?])
            })));
        }
        _ => return Ok(None),
    };
    Ok(Some(Box::new(move |inputs, _| {
        let (a, b) = (inputs.get(0)?, inputs.get(1)?);
        let (shape, values) = pairs((a.bools()?, &a.shape), (b.bools()?, &b.shape), of)?;
        Ok(vec![Tensor::new(shape, Data::Bool(values))?])
    })))
}

/// A function of one number, in both precisions.
type Function = (fn(f32) -> f32, fn(f64) -> f64);

/// Operators of one input.
fn one(settings: &mut Settings<'_>) -> Result<Option<Run>> {
    let function: Function = match settings.node.operator.as_str() {
        "Sqrt" => (f32::sqrt, f64::sqrt),
        "Exp" => (functions::exp, f64::exp),
        "Log" => (f32::ln, f64::ln),
        "Floor" => (f32::floor, f64::floor),
        "Ceil" => (f32::ceil, f64::ceil),
        "Round" => (f32::round_ties_even, f64::round_ties_even),
        "Reciprocal" => (|v| 1.0 / v, |v| 1.0 / v),
        "Sigmoid" => (functions::sigmoid, |v| 1.0 / (1.0 + (-v).exp())),
        "Tanh" => (functions::tanh, f64::tanh),
        "Erf" => (|v| erf(f64::from(v)) as f32, erf),
        "Softplus" => (|v| softplus(f64::from(v)) as f32, softplus),
        "Softsign" => (|v| v / (1.0 + v.abs()), |v| v / (1.0 + v.abs())),
        "Sin" => (f32::sin, f64::sin),
        "Cos" => (f32::cos, f64::cos),
        "Tan" => (f32::tan, f64::tan),
        "Asin" => (f32::asin, f64::asin),
        "Acos" => (f32::acos, f64::acos),
        "Atan" => (f32::atan, f64::atan),
        "Sinh" => (f32::sinh, f64::sinh),
        "Cosh" => (f32::cosh, f64::cosh),
        "LeakyRelu" => {
            let alpha = settings.float("alpha")?.unwrap_or(0.01);
            return Ok(Some(Box::new(move |inputs, _| {
                let input = inputs.get(0)?;
                let data = match &input.data {
                    Data::F32(values) => {
                        Data::F32(values.iter().map(|v| if *v >= 0.0 { *v } else { alpha * *v }).collect())
                    }
                    Data::F64(values) => {
                        Data::F64(values.iter().map(|v| if *v >= 0.0 { *v } else { f64::from(alpha) * *v }).collect())
                    }
                    _ => return Err(input.wrong("floats")),
                };
                Ok(vec![Tensor::new(input.shape.clone(), data)?])
            })));
        }
        "IsInf" => {
            let (below, above) = (settings.flag("detect_negative", true)?, settings.flag("detect_positive", true)?);
            let is = move |v: f64| (above && v == f64::INFINITY) || (below && v == f64::NEG_INFINITY);
            return Ok(Some(truths(is)));
        }
        "IsNaN" => return Ok(Some(truths(f64::is_nan))),
        "Neg" | "Abs" | "Sign" | "Relu" => {
            let operator = settings.node.operator.clone();
            return Ok(Some(Box::new(move |inputs, _| {
                let input = inputs.get(0)?;
                fn each<T: Number>(operator: &str, values: &[T]) -> Vec<T> {
                    let zero = T::default();
                    let of = |v: &T| match operator {
                        "Neg" => zero.sub(*v),
                        "Abs" => v.abs(),
                        "Relu" if *v > zero || v.missing() => *v,
                        "Relu" => zero,
                        _ if *v > zero => T::ONE,
                        _ if *v < zero => zero.sub(T::ONE),
                        _ if v.missing() => *v,
                        _ => zero,
                    };
                    values.iter().map(of).collect()
                }
                let data = match &input.data {
                    // Zero minus zero would lose the sign of zero.
                    Data::F32(values) if operator == "Neg" => Data::F32(values.iter().map(|v| -v).collect()),
                    Data::F64(values) if operator == "Neg" => Data::F64(values.iter().map(|v| -v).collect()),
                    Data::F32(values) => Data::F32(each(&operator, values)),
                    Data::F64(values) => Data::F64(each(&operator, values)),
                    Data::I64(values) => Data::I64(each(&operator, values)),
                    Data::I32(values) => Data::I32(each(&operator, values)),
                    _ => return Err(input.wrong("numbers")),
                };
                Ok(vec![Tensor::new(input.shape.clone(), data)?])
            })));
        }
        _ => return Ok(None),
    };
    settings.ignore("consumed_inputs");
    let (single, double) = function;
    let known = Approximated::named(&settings.node.operator);
    Ok(Some(Box::new(move |inputs, _| {
        let input = inputs.get(0)?;
        let data = match (&input.data, known) {
            (Data::F32(values), Some(known)) => Data::F32(known.of(values)),
            (Data::F32(values), None) => Data::F32(values.iter().map(|v| single(*v)).collect()),
            (Data::F64(values), _) => Data::F64(values.iter().map(|v| double(*v)).collect()),
            _ => return Err(input.wrong("floats")),
        };
        Ok(vec![Tensor::new(input.shape.clone(), data)?])
    })))
}

fn truths(is: impl Fn(f64) -> bool + Send + Sync + 'static) -> Run {
    Box::new(move |inputs, _| {
        let input = inputs.get(0)?;
        let values = match &input.data {
            Data::F32(values) => values.iter().map(|v| is(f64::from(*v))).collect(),
            Data::F64(values) => values.iter().map(|v| is(*v)).collect(),
            _ => return Err(input.wrong("floats")),
        };
        Ok(vec![Tensor::new(input.shape.clone(), Data::Bool(values))?])
    })
}

fn softplus(x: f64) -> f64 {
    if x > 0.0 { x + (-x).exp().ln_1p() } else { x.exp().ln_1p() }
}

/// The error function, from its power series near zero and the continued
/// fraction of its complement elsewhere (Abramowitz and Stegun 7.1.6, 7.1.14).
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if x.is_nan() {
        return x;
    }
    if a > 6.0 {
        return x.signum();
    }
    let scale = (-a * a).exp() / std::f64::consts::PI.sqrt();
    let value = if a < 2.5 {
        let (mut term, mut sum, mut k) = (a, a, 0.0);
        while term > sum * 1e-17 {
            k += 1.0;
            term *= 2.0 * a * a / (2.0 * k + 1.0);
            sum += term;
        }
        2.0 * scale * sum
    } else {
        let fraction = (1..=80).rev().fold(a, |fraction, k| a + f64::from(k) / 2.0 / fraction);
        1.0 - scale / fraction
    };
    value.copysign(x)
}

fn power(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    // The result has the type of the base; the exponent may be of another.
    let exponents = b.doubles()?;
    let b = (exponents.as_slice(), b.shape.as_slice());
    let special = |base: f64, power: f64| match power {
        2.0 => base * base,
        3.0 => base * base * base,
        _ => base.powf(power),
    };
    let (shape, data) = match &a.data {
        Data::F32(values) => {
            let (shape, values) = pairs((values, &a.shape), b, |base: f32, power: f64| match power {
                2.0 => base * base,
                3.0 => base * base * base,
                _ => base.powf(power as f32),
            })?;
            (shape, Data::F32(values))
        }
        Data::F64(values) => {
            let (shape, values) = pairs((values, &a.shape), b, special)?;
            (shape, Data::F64(values))
        }
        Data::I64(values) => {
            let (shape, values) = pairs((values, &a.shape), b, Number::pow)?;
            (shape, Data::I64(values))
        }
        Data::I32(values) => {
            let (shape, values) = pairs((values, &a.shape), b, Number::pow)?;
            (shape, Data::I32(values))
        }
        _ => return Err(a.wrong("numbers")),
    };
    Tensor::new(shape, data)
}

fn remainder(a: &Tensor, b: &Tensor, float: bool) -> Result<Tensor> {
    let (shape, data) = match (&a.data, &b.data) {
        (Data::F32(x), Data::F32(y)) if float => {
            let (shape, values) = pairs((x, &a.shape), (y, &b.shape), |a, b| a % b)?;
            (shape, Data::F32(values))
        }
        (Data::F64(x), Data::F64(y)) if float => {
            let (shape, values) = pairs((x, &a.shape), (y, &b.shape), |a, b| a % b)?;
            (shape, Data::F64(values))
        }
        (Data::I64(x), Data::I64(y)) if !float => {
            if y.contains(&0) {
                return Err(Error::data("a whole number is divided by zero"));
            }
            // The result has the sign of the divisor.
            let of = |a: i64, b: i64| {
                let rest = a.wrapping_rem(b);
                if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
            };
            let (shape, values) = pairs((x, &a.shape), (y, &b.shape), of)?;
            (shape, Data::I64(values))
        }
        _ => return Err(two(a, b)),
    };
    Tensor::new(shape, data)
}

fn clip(settings: &mut Settings<'_>) -> Result<Run> {
    fn each<T: Number>(values: &[T], low: Option<T>, high: Option<T>) -> Vec<T> {
        let (low, high) = (low.unwrap_or(T::LOWEST), high.unwrap_or(T::HIGHEST));
        let of = |v: &T| {
            let v = if *v < low { low } else { *v };
            if v > high { high } else { v }
        };
        values.iter().map(of).collect()
    }
    let settled = (settings.version < 11).then_some((settings.float("min")?, settings.float("max")?));
    Ok(Box::new(move |inputs, _| {
        let input = inputs.get(0)?;
        let bounds = match settled {
            Some((low, high)) => {
                let constant = |v: f32| Tensor { shape: Vec::new(), data: Data::F32(vec![v]) };
                (low.map(constant), high.map(constant))
            }
            None => (inputs.find(1).cloned(), inputs.find(2).cloned()),
        };
        let whole = |bound: &Option<Tensor>| -> Result<Option<i64>> {
            bound.as_ref().map(Tensor::ints).transpose().map(|v| v.and_then(|v| v.first().copied()))
        };
        let number = |bound: &Option<Tensor>| -> Result<Option<f64>> {
            bound.as_ref().map(Tensor::doubles).transpose().map(|v| v.and_then(|v| v.first().copied()))
        };
        let data = match &input.data {
            Data::F32(values) => {
                let (low, high) = (number(&bounds.0)?, number(&bounds.1)?);
                Data::F32(each(values, low.map(|v| v as f32), high.map(|v| v as f32)))
            }
            Data::F64(values) => Data::F64(each(values, number(&bounds.0)?, number(&bounds.1)?)),
            Data::I64(values) => Data::I64(each(values, whole(&bounds.0)?, whole(&bounds.1)?)),
            Data::I32(values) => {
                let (low, high) = (whole(&bounds.0)?, whole(&bounds.1)?);
                Data::I32(each(values, low.map(|v| v as i32), high.map(|v| v as i32)))
            }
            _ => return Err(input.wrong("numbers")),
        };
        Ok(vec![Tensor::new(input.shape.clone(), data)?])
    }))
}

fn choose(condition: &Tensor, yes: &Tensor, no: &Tensor) -> Result<Tensor> {
    fn each<T: Copy>(
        condition: (&[bool], &[usize]),
        yes: (&[T], &[usize]),
        no: (&[T], &[usize]),
    ) -> Result<(Vec<usize>, Vec<T>)> {
        let (shape, both) = pairs(yes, no, |yes, no| (yes, no))?;
        pairs(condition, (&both, &shape), |condition, (yes, no)| if condition { yes } else { no })
    }
    let condition = (condition.bools()?, condition.shape.as_slice());
    let (y, n) = (yes.shape.as_slice(), no.shape.as_slice());
    let (shape, data) = match (&yes.data, &no.data) {
        (Data::F32(a), Data::F32(b)) => each(condition, (a, y), (b, n)).map(|(s, v)| (s, Data::F32(v)))?,
        (Data::F64(a), Data::F64(b)) => each(condition, (a, y), (b, n)).map(|(s, v)| (s, Data::F64(v)))?,
        (Data::I64(a), Data::I64(b)) => each(condition, (a, y), (b, n)).map(|(s, v)| (s, Data::I64(v)))?,
        (Data::I32(a), Data::I32(b)) => each(condition, (a, y), (b, n)).map(|(s, v)| (s, Data::I32(v)))?,
        (Data::Bool(a), Data::Bool(b)) => each(condition, (a, y), (b, n)).map(|(s, v)| (s, Data::Bool(v)))?,
        (Data::Text(a), Data::Text(b)) => each(condition, (a, y), (b, n)).map(|(s, v)| (s, Data::Text(v)))?,
        _ => return Err(two(yes, no)),
    };
    Tensor::new(shape, data)
}

/// To another type. What does not fit a whole number becomes the smallest one,
/// as the instruction of x86 processors has it.
fn convert(input: &Tensor, to: Kind, words: &mut Words<'_>) -> Result<Tensor> {
    if input.kind() == to {
        return Ok(input.clone());
    }
    const TWO_63: f64 = 9_223_372_036_854_775_808.0;
    let whole = |v: f64| if (-TWO_63..TWO_63).contains(&v) { v as i64 } else { i64::MIN };
    let small = |v: f64| if v > -2_147_483_649.0 && v < 2_147_483_648.0 { v as i32 } else { i32::MIN };
    let data = match (&input.data, to) {
        (Data::Text(values), _) => {
            let mut numbers = Vec::with_capacity(values.len());
            for word in values {
                let text = words.text(*word);
                let number: f64 = text.trim().parse().map_err(|_| Error::data(format!("`{text}` is no number")))?;
                numbers.push(number);
            }
            let numbers = Tensor { shape: input.shape.clone(), data: Data::F64(numbers) };
            return convert(&numbers, to, words);
        }
        (_, Kind::F32) => Data::F32(input.singles()?.into_owned()),
        (_, Kind::F64) => Data::F64(input.doubles()?),
        (Data::I32(values), Kind::I64) => Data::I64(values.iter().map(|v| i64::from(*v)).collect()),
        (Data::I64(values), Kind::I32) => Data::I32(values.iter().map(|v| *v as i32).collect()),
        (_, Kind::I64) => Data::I64(input.doubles()?.into_iter().map(whole).collect()),
        (_, Kind::I32) => Data::I32(input.doubles()?.into_iter().map(small).collect()),
        (_, Kind::Bool) => Data::Bool(input.doubles()?.into_iter().map(|v| v != 0.0).collect()),
        (Data::I64(values), Kind::Text) => Data::Text(values.iter().map(|v| words.number(&v.to_string())).collect()),
        (Data::I32(values), Kind::Text) => Data::Text(values.iter().map(|v| words.number(&v.to_string())).collect()),
        (Data::Bool(values), Kind::Text) => {
            Data::Text(values.iter().map(|v| words.number(if *v { "1" } else { "0" })).collect())
        }
        (_, Kind::Text) => {
            return Err(Error::invalid("a cast of floats to texts is not supported: runtimes write them differently"));
        }
    };
    Tensor::new(input.shape.clone(), data)
}
